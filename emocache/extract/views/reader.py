"""One pass over a video for everybody who reads it: frames decoded once, faces detected and followed once.

A reader is a small value (a frozen dataclass, picklable) that says which frames it wants, whether it wants faces, and
what it keeps of a frame. Frames themselves are let go after a few, so that memory does not grow with the pictures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, cast, runtime_checkable

from emocache.extract.faces.boxes import FacesOf, HeldFaces, NotAsHeld
from emocache.extract.faces.detectors import FaceDetector
from emocache.extract.faces.track import Face, Track, follow
from emocache.extract.media.audio_readers import SoundTap
from emocache.extract.media.media_file import MediaFile
from emocache.extract.media.pixels import Rgb
from emocache.extract.media.video import Frame, FrameSampler, VideoPass, open_file
from emocache.spec import Decoded, Shared, Source

PART_BYTES = 100_000_000
"""Frames that a detector is given at once take no more: four of 4K."""
WAITING_BYTES = 4_000_000
"""Frames whose faces are looked for while the next are decoded take little more: 12 of 360 x 288, 4 of 640 x 480. More
of them overlap no better, and the allocator keeps many times as much: at 20 MB the process grew by 30 to 250 MB."""


@runtime_checkable
class FrameReader(Protocol):
    """Keeps what it needs of each frame, and makes a clip's payload of it."""

    @property
    def sampler(self) -> FrameSampler:
        """Which frames."""
        ...

    @property
    def detector(self) -> FaceDetector | None:
        """Who finds the faces that `look` is told of; None: nobody."""
        ...

    def look(self, frame: Rgb, faces: Sequence[Face]) -> list[Any]:
        """What is kept of a frame for each of its faces; one thing where there is none."""
        ...

    def gather(self, kept: Sequence[Any], track: Track, times_s: Sequence[float]) -> tuple[Any, Mapping[str, Any]]:
        """The payload, and facts of its own, from what was kept of each frame for the clip's face.

        times_s: when each frame is shown
        """
        ...


def decode(reader: FrameReader, source: Source, shared: Shared | None = None) -> Decoded:
    """What `reader` makes of `source`; readers of the same source that share the clip get theirs from the same pass.

    raises: MediaError or NoStream as `VideoPass`; WeightsError if a detector cannot be had
    """
    shared = shared or Shared()
    mine = [cast(FrameReader, who) for who, what in shared.jobs if what == source and isinstance(who, FrameReader)]
    alike = [other for other in dict.fromkeys([reader, *mine]) if other.sampler.policy == reader.sampler.policy]
    key: Hashable = ("video", source, reader.sampler.policy)
    found = shared.once(key, lambda: _read_clip(alike, source, shared))
    return found[reader]


def _read_clip(readers: Sequence[FrameReader], source: Source, shared: Shared) -> dict[FrameReader, Decoded]:
    """One pass, with the faces that are held; they are looked for if those turn out to be of other frames."""
    tap, file = _tap(source, shared), _opened(source, shared)
    held = {faces: HeldFaces(rows) for faces, rows in shared.held.items() if isinstance(faces, FacesOf)}
    try:
        return read_clip(readers, source, tap, file, held)
    except NotAsHeld:
        return read_clip(readers, source, tap, file)


def _opened(source: Source, shared: Shared) -> MediaFile:
    """The clip's file, open for all who read it."""
    return shared.once(("file", source.path), lambda: open_file(source))


def _tap(source: Source, shared: Shared) -> SoundTap | None:
    """Hears the sound of a whole file on the way, where somebody will ask for it."""
    path = source.path
    whole = source.start_us is None and source.end_us is None
    wanted = any(what.modality == "audio" and what.path == path for _, what in shared.jobs)
    if path is None or not (whole and wanted):
        return None
    return shared.once(("sound", path), lambda: SoundTap(path))


def read_clip(
    readers: Sequence[FrameReader],
    source: Source,
    sound: SoundTap | None = None,
    file: MediaFile | None = None,
    held: Mapping[FacesOf, HeldFaces] = MappingProxyType({}),
) -> dict[FrameReader, Decoded]:
    """One pass for several readers, whose samplers have one policy.

    sound, file: as `VideoPass` has them; held: faces that need not be looked for
    raises: as `decode`; NotAsHeld if the frames are not those of `held`
    """
    samplers = list(dict.fromkeys(reader.sampler for reader in readers))
    video = VideoPass(samplers, source, sound, file)
    with ThreadPoolExecutor(1, "faces") as helper:
        desks = [
            _Desk([one for one in readers if one.sampler == sampler], helper, _faces_of(sampler, held))
            for sampler in samplers
        ]
        for number, frame in video:
            desks[number].take(frame)
        for desk in desks:
            desk.finish()
    found: dict[FrameReader, Decoded] = {}
    for number, desk in enumerate(desks):
        found |= {reader: desk.decoded(reader, video.facts(number)) for reader in desk.readers}
    return found


def _faces_of(sampler: FrameSampler, held: Mapping[FacesOf, HeldFaces]) -> Mapping[FaceDetector | None, HeldFaces]:
    return {faces.detector: rows for faces, rows in held.items() if faces.sampler == sampler}


Faces = Mapping[FaceDetector | None, list[list[Face]]]
"""Of some frames: what each detector found in each of them."""
Looks = Mapping[FrameReader, list[Any]]
"""What each reader keeps of each of some frames."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Some frames that follow each other, and what the helper makes of them."""

    frames: Sequence[Rgb]
    seen: Future[tuple[Faces, Looks]]

    @property
    def nbytes(self) -> int:
        return sum(frame.nbytes for frame in self.frames)


class _Desk:
    """The readers of one sampler, and what they keep.

    helper: one thread. While the caller decodes, it finds the faces of the frames before, and shows frames to readers
        that need no faces. To the others the caller shows them, since one core decodes in less time than another finds.
    held: faces that need not be found
    """

    def __init__(
        self,
        readers: Sequence[FrameReader],
        helper: ThreadPoolExecutor,
        held: Mapping[FaceDetector | None, HeldFaces],
    ) -> None:
        self.readers = readers
        self._helper = helper
        self._held = held
        self._part: list[Frame] = []
        self._waiting: deque[_Part] = deque()
        self._times_s: list[float] = []
        self._kept: dict[FrameReader, list[list[Any]]] = {reader: [] for reader in readers}
        self._faces: dict[FaceDetector | None, list[list[Face]]] = {reader.detector: [] for reader in readers}
        self._most = max(1 if detector is None else detector.batch for detector in self._faces)

    def take(self, frame: Frame) -> None:
        """Hold a frame until its part is full; if too many wait for what becomes of them, wait for the first."""
        self._part.append(frame)
        if len(self._part) < self._most and len(self._part) * frame.rgb.nbytes < PART_BYTES:
            return
        self._send()
        while len(self._waiting) > 1 and sum(part.nbytes for part in self._waiting) > WAITING_BYTES:
            part = self._waiting.popleft()
            self._keep(part, self._look(part))

    def _send(self) -> None:
        """Give the part at hand to the helper."""
        part, self._part, first = self._part, [], len(self._times_s)
        self._times_s += [frame.time_s for frame in part]
        self._waiting.append(_Part([frame.rgb for frame in part], self._helper.submit(self._see, part, first)))

    def finish(self) -> None:
        """Show readers what waits: the caller from the first part on, the helper, once it is free, from the last."""
        if self._part:
            self._send()
        looks = [self._helper.submit(self._look, part) for part in reversed(self._waiting)]
        for part, look in zip(self._waiting, reversed(looks), strict=True):
            self._keep(part, self._look(part) if look.cancel() else look.result())

    def _see(self, part: Sequence[Frame], first: int) -> tuple[Faces, Looks]:
        """The faces of some frames, held or found once for each detector, and the looks of readers that need none.

        first: the number of the first frame
        """
        frames = [frame.rgb for frame in part]
        found: dict[FaceDetector | None, list[list[Face]]] = {None: [[] for _ in part]}
        for detector in self._faces:
            if detector in self._held:
                found[detector] = self._held[detector].at(first, [frame.time_s for frame in part])
            elif detector is not None:
                found[detector] = [[face.stored() for face in faces] for faces in detector.detect(frames)]
        return found, {one: [one.look(frame, ()) for frame in frames] for one in self.readers if one.detector is None}

    def _look(self, part: _Part) -> Looks:
        """The looks of all readers."""
        found, seen = part.seen.result()
        others = [reader for reader in self.readers if reader.detector is not None]
        return {**seen, **{one: list(map(one.look, part.frames, found[one.detector])) for one in others}}

    def _keep(self, part: _Part, looks: Looks) -> None:
        """Parts come in the order of time."""
        for detector, faces in self._faces.items():
            faces += part.seen.result()[0][detector]
        for reader, kept in self._kept.items():
            kept += looks[reader]

    def decoded(self, reader: FrameReader, video_facts: Mapping[str, Any]) -> Decoded:
        """The payload of one reader, with the face that is the clip's."""
        held = self._held.get(reader.detector)
        track = follow(self._faces[reader.detector]) if held is None else held.track(len(self._times_s))
        kept = [views[index or 0] for views, index in zip(self._kept[reader], track.chosen, strict=True)]
        payload, facts = reader.gather(kept, track, self._times_s)
        if reader.detector is not None:
            facts = {**track.facts(), "detector": reader.detector.name, **facts}
        return Decoded(payload, len(kept), {**video_facts, **facts})

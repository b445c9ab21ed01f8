"""One pass over a video for everybody who reads it: frames decoded once, faces detected and followed once.

A reader is a small value (a frozen dataclass, picklable) that says which frames it wants, whether it wants faces, and
what it keeps of a frame. Frames themselves are let go after a few, so that memory does not grow with the pictures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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

PART_FRAMES = 2
"""Frames that are handed on together, while the next are decoded; a detector may want more."""
PART_BYTES = 100_000_000
"""A part is closed before it holds more: four frames of 4K."""


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
    with ThreadPoolExecutor(1, "find") as finder, ThreadPoolExecutor(1, "look") as looker:
        desks = [
            _Desk([one for one in readers if one.sampler == sampler], finder, looker, _faces_of(sampler, held))
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


class _Desk:
    """The readers of one sampler, and what they keep.

    finder, looker: one thread each: while the caller decodes, one finds the faces of the frames before, and the other
        shows readers those before them
    held: faces that need not be found
    """

    def __init__(
        self,
        readers: Sequence[FrameReader],
        finder: ThreadPoolExecutor,
        looker: ThreadPoolExecutor,
        held: Mapping[FaceDetector | None, HeldFaces],
    ) -> None:
        self.readers = readers
        self._held = held
        self._finder, self._looker = finder, looker
        self._working: deque[Future[None]] = deque()
        self._part: list[Frame] = []
        self._times_s: list[float] = []
        self._kept: dict[FrameReader, list[list[Any]]] = {reader: [] for reader in readers}
        self._faces: dict[FaceDetector | None, list[list[Face]]] = {reader.detector: [] for reader in readers}
        self._most = max([PART_FRAMES, *(detector.batch for detector in self._faces if detector is not None)])

    def take(self, frame: Frame) -> None:
        """Hold a frame until its part is full."""
        self._part.append(frame)
        if len(self._part) >= self._most or len(self._part) * frame.rgb.nbytes >= PART_BYTES:
            self._send()

    def _send(self) -> None:
        """Have the part at hand looked at; no more than two are on the way."""
        part, self._part = self._part, []
        first = len(self._times_s)
        self._times_s += [frame.time_s for frame in part]
        while len(self._working) > 1:
            self._working.popleft().result()
        found = self._finder.submit(self._find, part, first)
        self._working.append(self._looker.submit(self._look, [frame.rgb for frame in part], found))

    def finish(self) -> None:
        """Wait until all frames have been looked at."""
        self._send()
        while self._working:
            self._working.popleft().result()

    def _find(self, part: Sequence[Frame], first: int) -> Mapping[FaceDetector | None, list[list[Face]]]:
        """The faces of some frames, held or found once for each detector. first: the number of the first of them"""
        found: dict[FaceDetector | None, list[list[Face]]] = {None: [[] for _ in part]}
        for detector in self._faces:
            if detector in self._held:
                found[detector] = self._held[detector].at(first, [frame.time_s for frame in part])
            elif detector is not None:
                found[detector] = [
                    [face.stored() for face in faces] for faces in detector.detect([f.rgb for f in part])
                ]
        return found

    def _look(self, frames: Sequence[Rgb], finding: Future[Mapping[FaceDetector | None, list[list[Face]]]]) -> None:
        """Show some frames and their faces to the readers."""
        found = finding.result()
        for detector, faces in self._faces.items():
            faces += found[detector]
        for reader, kept in self._kept.items():
            kept += [reader.look(frame, faces) for frame, faces in zip(frames, found[reader.detector], strict=True)]

    def decoded(self, reader: FrameReader, video_facts: Mapping[str, Any]) -> Decoded:
        """The payload of one reader, with the face that is the clip's."""
        held = self._held.get(reader.detector)
        track = follow(self._faces[reader.detector]) if held is None else held.track(len(self._times_s))
        kept = [views[index or 0] for views, index in zip(self._kept[reader], track.chosen, strict=True)]
        payload, facts = reader.gather(kept, track, self._times_s)
        if reader.detector is not None:
            facts = {**track.facts(), "detector": reader.detector.name, **facts}
        return Decoded(payload, len(kept), {**video_facts, **facts})

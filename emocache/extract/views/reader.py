"""One pass over a video for everybody who reads it: frames decoded once, faces detected and followed once.

A reader is a small value (a frozen dataclass, picklable) that says which frames it wants, whether it wants faces, and
what it keeps of a frame. Frames themselves are let go after a few, so that memory does not grow with the pictures.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

from emocache.extract.faces.detectors import FaceDetector
from emocache.extract.faces.track import Face, Track, follow
from emocache.extract.media.pixels import Rgb
from emocache.extract.media.video import Frame, FrameSampler, VideoPass
from emocache.spec import Decoded, Shared, Source

PART_FRAMES = 16
"""Frames detected together; counted from the clip's start, so that no other clip has a say."""
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
    readers = {reader: None}
    if shared is not None:
        mine = shared.jobs_of(source)
        readers |= {cast(FrameReader, other): None for other in mine if isinstance(other, FrameReader)}
    alike = [other for other in readers if other.sampler.policy == reader.sampler.policy]
    key: Hashable = ("video", source, reader.sampler.policy)
    found = (shared or Shared()).once(key, lambda: read_clip(alike, source))
    return found[reader]


def read_clip(readers: Sequence[FrameReader], source: Source) -> dict[FrameReader, Decoded]:
    """One pass for several readers, whose samplers have one policy."""
    samplers = list(dict.fromkeys(reader.sampler for reader in readers))
    video = VideoPass(samplers, source)
    desks = [_Desk(sampler, [reader for reader in readers if reader.sampler == sampler]) for sampler in samplers]
    for number, frame in video:
        desks[number].take(frame)
    found: dict[FrameReader, Decoded] = {}
    for number, desk in enumerate(desks):
        desk.finish()
        found |= {reader: desk.decoded(reader, video.facts(number)) for reader in desk.readers}
    return found


@dataclass
class _Desk:
    """The readers of one sampler, and what they keep."""

    sampler: FrameSampler
    readers: list[Any]
    part: list[Frame] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    kept: dict[FrameReader, list[list[Any]]] = field(default_factory=dict)
    faces: dict[FaceDetector | None, list[list[Face]]] = field(default_factory=dict)

    def take(self, frame: Frame) -> None:
        """Keep a frame until its part is full."""
        self.part.append(frame)
        if len(self.part) >= PART_FRAMES or len(self.part) * frame.rgb.nbytes >= PART_BYTES:
            self.finish()

    def finish(self) -> None:
        """Detect the faces of the part at hand, once for each detector, and show it to the readers."""
        frames = [frame.rgb for frame in self.part]
        self.times_s += [frame.time_s for frame in self.part]
        self.part = []
        found: dict[FaceDetector | None, list[list[Face]]] = {None: [[] for _ in frames]}
        for detector in dict.fromkeys(reader.detector for reader in self.readers):
            if detector is not None:
                found[detector] = detector.detect(frames)
            self.faces.setdefault(detector, []).extend(found[detector])
        for reader in self.readers:
            views = [reader.look(frame, faces) for frame, faces in zip(frames, found[reader.detector], strict=True)]
            self.kept.setdefault(reader, []).extend(views)

    def decoded(self, reader: FrameReader, video_facts: Mapping[str, Any]) -> Decoded:
        """The payload of one reader, with the face that is the clip's."""
        track = follow(self.faces[reader.detector])
        kept = [views[index or 0] for views, index in zip(self.kept[reader], track.chosen, strict=True)]
        payload, facts = reader.gather(kept, track, self.times_s)
        if reader.detector is not None:
            facts = {**track.facts(), "detector": reader.detector.name, **facts}
        return Decoded(payload, len(kept), {**video_facts, **facts})

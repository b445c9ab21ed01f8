"""What seeing costs: decoding, faces, several encoders in one call, and all of it against the bare network.

    python benchmarks/video.py [--clips MANIFEST] [--count N] [--copies N] [--model clip-large] [--device auto]
                               [--only faces several bare customary]

One run, one table. Without --clips it reads the GRID recordings beside the repository; --count takes the first N of
them (a CPU needs some seconds a clip and encoder), --copies N has each of them N times; --model tiny proves that the
program runs. The network has the full-size architecture and random weights. Times are the least of --repeats; loading
the network is never counted.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
import transformers
from PIL import Image

import emocache
from emocache.extract.device import choose_device
from emocache.extract.encoders.transformer import quiet
from emocache.extract.encoders.vision import VisionEncoder
from emocache.extract.faces.detectors import detector
from emocache.extract.faces.model_file import is_here
from emocache.extract.faces.track import Track, centre_square, cut_out, face_square
from emocache.extract.media.pixels import Rgb
from emocache.extract.media.video import FrameSampler, VideoPass
from emocache.extract.views import reader as views
from emocache.extract.views.pictures import PictureReader
from emocache.spec import Shared, Source

SHARED = Path(__file__).resolve().parents[2] / "shared"
SHAPES: dict[str, dict[str, Any]] = {
    "clip-large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
                   "image_size": 224, "patch_size": 14, "projection_dim": 768},
    "clip-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
                  "image_size": 224, "patch_size": 32, "projection_dim": 512},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
             "image_size": 224, "patch_size": 32, "projection_dim": 32},
}  # fmt: skip
BARS = {
    "cpu": {"faces": "<= 1.6", "several": "<= 1.03", "bare": ">= 0.92", "customary": ">= 1.3"},
    "cuda": {"faces": "<= 1.6", "several": "<= 1.03", "bare": ">= 0.80", "customary": ">= 5"},
}


@dataclass(frozen=True)
class Bench:
    """What is measured, and where.

    folder: the network's; clips: the videos; work: a folder to write to
    """

    folder: Path
    clips: Sequence[Path]
    work: Path
    device: str
    dtype: str
    face_detector: str
    workers: int
    repeats: int

    @property
    def manifest(self) -> Path:
        """The clips as a manifest."""
        path = self.work / "clips.csv"
        pd.DataFrame({"clip_id": [clip.stem for clip in self.clips], "path": self.clips}).to_csv(path, index=False)
        return path

    def encoder(self, view: str, **options: Any) -> VisionEncoder:
        """The network with a view."""
        faces: dict[str, Any] = {"face_detector": self.face_detector} if view == "face" else {}
        return VisionEncoder("clip", None, self.folder, view=view, **faces, **options)

    def extract(self, *asked: str) -> tuple[float, dict[str, float]]:
        """Seconds of a whole call without the loading, and of its stages, into a new store."""

        def once() -> tuple[float, dict[str, float]]:
            with tempfile.TemporaryDirectory(dir=self.work) as store:
                done = emocache.extract_features(
                    [f"{self.folder}{one}" for one in asked],
                    clips=self.manifest, store=Path(store) / "features.zarr", device=self.device, dtype=self.dtype,
                    workers=self.workers, face_detector=self.face_detector if "@face" in "".join(asked) else None,
                )  # fmt: skip
            if done.failed:
                raise SystemExit(f"clips failed: {done.failed}")
            return done.seconds - done.time_spent["load"], dict(done.time_spent)

        return min((once() for _ in range(self.repeats)), key=lambda found: found[0])

    def bar(self, row: str) -> str:
        """What a figure should reach on this device."""
        return BARS["cuda" if self.device.startswith("cuda") else "cpu"][row]

    def least(self, run: Callable[[], object]) -> float:
        """The least seconds of some runs, after one that warms up."""
        run()
        times = []
        for _ in range(self.repeats):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        return min(times)


# --- rows ------------------------------------------------------------------------------------------------------------


class Crops(PictureReader):
    """Cuts the faces out and leaves their size as it is, which the processor of a network changes."""

    def _tile(self, picture: Rgb) -> Rgb:
        return picture.copy()

    def gather(self, kept: Sequence[Rgb], track: Track, times_s: Sequence[float]) -> tuple[Any, dict[str, Any]]:  # noqa: ARG002
        """The crops of a clip, each as large as its face."""
        return list(kept), {}


def faces(bench: Bench) -> list[list[str]]:
    """Decode, find faces and crop at 4 frames/s, against decoding alone (one thread), in one process; and its steps."""
    shown = bench.encoder("face").decoder()
    crops = Crops(shown.sampler, shown.pixels, shown.view, shown.detector)
    times = np.mean([_of_clip(crops, shown, Source("video", clip), bench.repeats) for clip in bench.clips], axis=0)
    (decoding, decoding_busy), cut, sized, (finding, _), (cutting, _), (sizing, _) = [
        (float(w), float(p)) for w, p in times
    ]

    def row(what: str, wall: float, busy: float, bar: str) -> list[str]:
        words = (
            f"{wall:.1f} ms a clip against {decoding:.1f} ms; "
            f"processor {busy:.1f} ms against {decoding_busy:.1f} ms, {busy / decoding_busy:.2f} x"
        )
        return [what, f"{wall / decoding:.2f}", bar, words]

    steps = decoding + finding + sizing
    steps_in_words = (
        f"{decoding:.1f} + {finding:.1f} + {sizing:.1f} ms a clip ({cutting:.1f} of them to cut out): two cores can do "
        f"no better than {max(steps / 2, decoding) / decoding:.2f} x"
    )
    return [
        row("decode + face + crop / decode alone", *cut, bench.bar("faces")),
        row("the same, crops brought to the network's size", *sized, ""),
        ["the same, one by one", f"{steps / decoding:.2f}", "", steps_in_words],
    ]


def _of_clip(crops: Crops, shown: Any, source: Source, repeats: int) -> list[tuple[float, float]]:
    """What decoding, both readers, finding faces, cutting them out, and that with resizing take, as `_least_ms`."""
    frames = [frame.rgb for frame in FrameSampler().read(source)]
    found = shown.detector.detect(frames)
    ways: list[Callable[[], object]] = [
        lambda: list(FrameSampler().read(source)),
        lambda: crops(source),
        lambda: shown(source),
        lambda: shown.detector.detect(frames),
        lambda: list(map(crops.look, frames, found)),
        lambda: list(map(shown.look, frames, found)),
    ]
    return [_least_ms(way, repeats) for way in ways]


def _least_ms(way: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Milliseconds, and those of the processor in all threads, each the least of some runs after a first."""
    way()
    runs = []
    for _ in range(repeats):
        started, busy = time.perf_counter(), time.process_time()
        way()
        runs.append((time.perf_counter() - started, time.process_time() - busy))
    wall, processor = np.min(runs, axis=0)
    return 1000 * float(wall), 1000 * float(processor)


def several(bench: Bench) -> list[list[str]]:
    """Three encoders in one call against the sum of their forwards and one decode; stages are counted."""
    asked = ("@frame", "@face", "@face:embed")
    alone = [bench.extract(one) for one in asked]
    together, _ = bench.extract(*asked)
    decoders = [bench.encoder("frame").decoder(), bench.encoder("face").decoder()]
    sources = [Source("video", clip) for clip in bench.clips]
    decode = bench.least(lambda: [views.read_clip(decoders, source) for source in sources]) / bench.workers
    limit = sum(stages["forward"] for _, stages in alone) + decode
    passes, detections = _stages(decoders, sources[0])
    words = (
        f"{together:.2f} s; three calls {sum(seconds for seconds, _ in alone):.2f} s; a clip is decoded {passes} x, "
        f"its frames searched for faces {detections} x"
    )
    return [
        ["3 encoders in one call / (forwards + one decode)", f"{together / limit:.2f}", bench.bar("several"), words]
    ]


def _stages(decoders: Sequence[Any], source: Source) -> tuple[int, float]:
    """How often a clip that several decoders share is decoded, and each of its frames searched."""
    passes, searched = [0], [0]
    finder = type(decoders[-1].detector)
    detect = finder.detect

    def counted_pass(*arguments: Any) -> VideoPass:
        passes[0] += 1
        return VideoPass(*arguments)

    def counted_detect(self: Any, frames: Sequence[Any]) -> Any:
        searched[0] += len(frames)
        return detect(self, frames)

    with mock.patch.object(views, "VideoPass", counted_pass), mock.patch.object(finder, "detect", counted_detect):
        shared = Shared([(decoder, source) for decoder in decoders])
        sizes = [decoder.decode_shared(source, shared).size for decoder in decoders]
    return passes[0], searched[0] / sizes[-1]


def bare(bench: Bench) -> list[list[str]]:
    """Clips a second end to end, against the network alone on frames that lie in memory."""
    encoder = bench.encoder("frame")
    encoder.load(bench.device, bench.dtype, [encoder.depth])
    pictures = np.concatenate([encoder.decoder()(Source("video", clip)).payload for clip in bench.clips])
    inputs = encoder.reader.pixels.normalized(torch.from_numpy(pictures), encoder.dtype)

    def forward() -> None:
        with torch.inference_mode():
            for part in torch.split(inputs, 32):
                encoder.network(part.to(bench.device))
        if bench.device.startswith("cuda"):
            torch.cuda.synchronize()

    network = bench.least(forward)
    seconds, stages = bench.extract(f"@frame:{encoder.depth}")
    words = f"{seconds:.2f} s against {network:.2f} s; " + ", ".join(f"{k} {v:.2f} s" for k, v in stages.items())
    return [["end to end / bare forward, speed", f"{network / seconds:.2f}", bench.bar("bare"), words]]


def customary(bench: Bench) -> list[list[str]]:
    """Against crops on the disk, one clip at a time through transformers, one npy a clip; all layers, and the lower."""
    ours, _ = bench.extract("@face")
    half = bench.encoder("face").depth // 2
    lower, _ = bench.extract(f"@face:{half // 2}-{half}")
    with quiet():
        model = transformers.CLIPVisionModelWithProjection.from_pretrained(bench.folder)
    network = model.eval().to(bench.device, getattr(torch, bench.dtype))
    processor = transformers.AutoImageProcessor.from_pretrained(bench.folder)

    def run() -> None:
        with tempfile.TemporaryDirectory(dir=bench.work) as folder:
            for clip in bench.clips:
                _write_crops(clip, Path(folder) / clip.stem, bench.face_detector)
            for clip in bench.clips:
                _encode_crops(Path(folder) / clip.stem, network, processor)

    theirs = bench.least(run)
    rows = {"all layers": ours, f"layers {half // 2}-{half}": lower}
    return [
        [f"the customary way's time / ours, {what}", f"{theirs / seconds:.2f}", bench.bar("customary"),
         f"{seconds:.2f} s against {theirs:.2f} s"]
        for what, seconds in rows.items()
    ]  # fmt: skip


def _write_crops(clip: Path, folder: Path, finder: str) -> None:
    folder.mkdir()
    for number, frame in enumerate(FrameSampler().read(Source("video", clip))):
        height, width = frame.rgb.shape[:2]
        (found,) = detector(finder).detect([frame.rgb])
        square = face_square(found[0], height, width) if found else centre_square(height, width)
        Image.fromarray(cut_out(frame.rgb, square)).save(folder / f"{number:05d}.png")


def _encode_crops(folder: Path, network: Any, processor: Any) -> None:
    crops = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]
    inputs = processor(images=crops, return_tensors="pt").pixel_values.to(network.device, network.dtype)
    with torch.inference_mode():
        states = network(inputs, output_hidden_states=True).hidden_states
    np.save(folder.with_suffix(".npy"), torch.stack([state[:, 0].float().mean(0) for state in states]).cpu().numpy())


# --- the program -----------------------------------------------------------------------------------------------------


def make_model(shape: str, folder: Path) -> Path:
    """A CLIP image network with random weights, as `save_pretrained` leaves it."""
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(**SHAPES[shape])
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder)
    transformers.CLIPImageProcessor().save_pretrained(folder)
    return folder


def _copied(clip: Path, folder: Path, number: int) -> Path:
    """The same video, or one of the same length that is another file by its content: zeros behind the end."""
    if number == 0:
        return clip
    path = folder / f"{clip.stem}-{number}{clip.suffix}"
    path.write_bytes(clip.read_bytes() + bytes(number))
    return path


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, default=SHARED / "data" / "grid" / "clips.csv")
    parser.add_argument("--count", type=int)
    parser.add_argument("--copies", type=int, default=1, help="of each clip; a fast GPU is done with few in no time")
    parser.add_argument("--model", choices=sorted(SHAPES), default="clip-large")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=["faces", "several", "bare", "customary"], help="of the rows")
    arguments = parser.parse_args()
    bundled = SHARED / "models" / "blaze_face_short_range.tflite"
    if bundled.is_file():
        os.environ.setdefault("EMOCACHE_MEDIAPIPE_MODEL", str(bundled))
    table = pd.read_csv(arguments.clips, dtype=str).head(arguments.count or 1_000_000)
    clips = [(arguments.clips.parent / path).resolve() for path in table["path"]]
    with tempfile.TemporaryDirectory() as work:
        clips = [_copied(clip, Path(work), copy) for copy in range(arguments.copies) for clip in clips]
        bench = Bench(
            make_model(arguments.model, Path(work) / "clip"), clips, Path(work), choose_device(arguments.device),
            arguments.dtype, "mediapipe" if is_here() else "mtcnn", arguments.workers, arguments.repeats,
        )  # fmt: skip
        rows = [["what", "figure", "bar", "measured"]]
        parts: dict[str, Callable[[Bench], list[list[str]]]] = {
            "faces": faces, "several": several, "bare": bare, "customary": customary
        }  # fmt: skip
        rows += [row for name in arguments.only or parts for row in parts[name](bench)]
    print(
        f"{len(clips)} clips, {arguments.model} in {arguments.dtype} on {bench.device}, {bench.workers} decoding "
        f"processes, faces by {bench.face_detector}, least of {bench.repeats}; torch {torch.__version__}\n"
    )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()

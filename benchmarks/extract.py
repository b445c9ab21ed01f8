"""How much of the network's own speed is left from file to store, and how much faster that is than the customary loop.

    python benchmarks/extract.py [--clips 64] [--repeats 3] [--weights DIR] [--shrink]

(a) the limit: the bare truncated network on padded batches that lie in memory, nothing fetched from it
(b) emocache: `extract_features` from files to committed cells, without the time to load the network
(b3) the same with three poolings at once (mean, stats7, segments:8)
(c) the customary loop: transformers' whole model, one file at a time, output_hidden_states, one npy a clip

hubert-large 16-21 and wav2vec2-large-lv60 6-12 at full size with random weights (see random_weights.py), in float32
and, where the hardware is fast in it, bfloat16. Clips: EmoDB recordings beside the repository, else waves of like
length. On a GPU 2,000 clips: the same ones again and again, each a content of its own. Every way runs in a process of
its own; the repeats are interleaved; figures are medians with the smallest and largest. --shrink proves in seconds that
it runs.
"""

from __future__ import annotations

import argparse
import csv
import logging
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from random_weights import make

import emocache
from emocache.extract.batches import Ready, batches, padding_limit
from emocache.extract.device import choose_device, fast_in_bfloat16
from emocache.extract.encoders.transformer import exact_convolutions
from emocache.extract.plan import Task
from emocache.extract.registry import find_encoder
from emocache.spec import Source, parse_layers

EMODB = Path(__file__).resolve().parents[2] / "shared" / "data" / "emodb" / "clips.csv"
RATE = 16_000
THREE = ("mean", "stats7", "segments:8")
MODELS = {"hubert-large": "16-21", "wav2vec2-large-lv60": "6-12"}
SHRUNK = {"hubert-large": "3-5", "wav2vec2-large-lv60": "1-3"}
BARS = {
    "cpu": {"a": 0.92, "hubert-large": (1.10, 2.8), "wav2vec2-large-lv60": (1.9, 4.5)},
    "cuda": {"a": 0.85, "hubert-large": (8.0, 8.0), "wav2vec2-large-lv60": (12.0, 12.0)},
}
"""b against a; b against c in the same dtype, and in bfloat16 against c in float32."""
THREE_BAR = 1.03
Rep = Callable[[bool], float]
"""Does all clips once, or with True only one or two to warm up; returns the seconds."""
WARM = 2


@dataclass(frozen=True)
class Case:
    """One model in one dtype on some clips."""

    model: str
    layers: str
    dtype: str
    device: str
    weights: Path
    manifest: Path
    warm: Path
    scratch: Path


# --- the ways: each loads, then gives a function that does all clips once and returns the seconds --------------------


def limit(case: Case) -> Rep:
    """(a): inputs padded beforehand, in the batches that emocache forms."""
    encoder: Any = find_encoder(case.model).build(case.weights)
    layers = parse_layers(case.layers, encoder.depth)
    encoder.load(case.device, case.dtype, layers)
    decode = encoder.decoder()
    clips = emocache.read_manifest(case.manifest).clips
    ready = [Ready(Task(0, n, Source("audio"), ()), decode(clip.source("audio"))) for n, clip in enumerate(clips)]
    cut = batches(ready, encoder, lambda: encoder.batch_size, padding_limit(case.device))
    inputs = [_padded([item.decoded.payload for item in batch], case) for batch in cut]

    def once(warm: bool) -> float:
        _finish(case)
        started = time.perf_counter()
        with torch.inference_mode(), exact_convolutions():  # the same arithmetic: float32 as such on a GPU too
            for waves, mask in inputs[: 1 if warm else None]:
                encoder.network(waves, attention_mask=mask)
        _finish(case)
        return time.perf_counter() - started

    return once


def _padded(waves: Sequence[np.ndarray], case: Case) -> tuple[torch.Tensor, torch.Tensor | None]:
    sizes = torch.tensor([len(wave) for wave in waves])
    padded = torch.zeros(len(waves), int(sizes.max()))
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    mask = None
    if sizes.min() < sizes.max():
        mask = (torch.arange(padded.shape[1])[None] < sizes[:, None]).long().to(case.device)
    return padded.to(case.device, getattr(torch, case.dtype)), mask


def ours(case: Case, poolings: Sequence[str] = THREE[:1]) -> Rep:
    """(b), (b3): from the manifest to committed cells, into a new store each time."""
    logging.disable(logging.INFO)

    def once(warm: bool) -> float:
        store = case.scratch / f"{os.getpid()}.zarr"
        done = emocache.extract_features(
            case.model,
            layers=case.layers,
            pool=poolings,
            clips=case.warm if warm else case.manifest,
            store=store,
            device=case.device,
            dtype=case.dtype,
            weights=case.weights,
        )
        shutil.rmtree(store)
        if done.failed:
            raise SystemExit(str(done))
        return done.seconds - done.time_spent["load"]

    return once


def customary(case: Case) -> Rep:
    """(c)."""
    from transformers import AutoFeatureExtractor, AutoModel

    model = AutoModel.from_pretrained(case.weights, dtype=getattr(torch, case.dtype)).eval().to(case.device)
    processor = AutoFeatureExtractor.from_pretrained(case.weights)
    layers = parse_layers(case.layers, model.config.num_hidden_layers)
    clips = emocache.read_manifest(case.manifest).clips
    folder = case.scratch / f"npy-{os.getpid()}"
    folder.mkdir()

    def once(warm: bool) -> float:
        started = time.perf_counter()
        for clip in clips[: 1 if warm else None]:
            wave, rate = soundfile.read(str(clip.audio), dtype="float32")
            inputs = processor(wave, sampling_rate=rate, return_tensors="pt").input_values
            with torch.inference_mode():
                states = model(inputs.to(case.device, model.dtype), output_hidden_states=True).hidden_states
            rows = torch.stack([states[layer][0].float().mean(0) for layer in layers]).cpu().numpy()
            np.save(folder / f"{clip.clip_id}.npy", rows)
        return time.perf_counter() - started

    return once


WAYS: dict[str, Callable[[Case], Rep]] = {
    "a": limit,
    "b": ours,
    "b3": lambda case: ours(case, THREE),
    "c": customary,
}


def _finish(case: Case) -> None:
    if case.device.startswith("cuda"):
        torch.cuda.synchronize()


def _serve(way: str, case: Case, threads: int, channel: Connection) -> None:
    """One way in a process of its own: once to warm up, then once for each word that comes."""
    torch.set_num_threads(threads)
    once = WAYS[way](case)
    once(True)
    channel.send("ready")
    while channel.recv():
        channel.send(once(False))
    peak = peak_bytes()
    on_device = torch.cuda.max_memory_allocated() if case.device.startswith("cuda") else 0
    channel.send((peak, on_device))


def peak_bytes() -> int:
    """The largest resident memory of this process.

    Not `ru_maxrss` where Linux tells: a process that was spawned inherits its parent's.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One way's seconds for all clips, and its largest memory in bytes: of the process, and on the GPU."""

    seconds: list[float]
    peak: int
    on_device: int

    @property
    def median(self) -> float:
        """Of the repeats."""
        return statistics.median(self.seconds)


def measure(case: Case, ways: Sequence[str], repeats: int, threads: int) -> dict[str, Measured]:
    """Run the ways in turn, `repeats` times."""
    context = multiprocessing.get_context("spawn")
    channels: dict[str, Connection] = {}
    for way in ways:
        ours_end, theirs = context.Pipe()
        context.Process(target=_serve, args=(way, case, threads, theirs)).start()
        theirs.close()
        channels[way] = ours_end
        ours_end.recv()  # loaded and warm before the next one starts
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(repeats):
        for way in ways if number % 2 else reversed(ways):
            channels[way].send(True)
            seconds[way].append(channels[way].recv())
    found = {}
    for way, channel in channels.items():
        channel.send(False)
        found[way] = Measured(seconds[way], *channel.recv())
    return found


def rows(model: str, device: str, found: dict[tuple[str, str], Measured]) -> Iterator[tuple[str, float, str, float]]:
    """Each figure with its bar: what, the figure, ``>=`` or ``<=``, the bar."""
    bars: Any = BARS[device.partition(":")[0]]
    same, across = bars[model]
    for dtype in dict.fromkeys(dtype for dtype, _ in found):
        a, b, b3 = (found[dtype, way].median for way in ("a", "b", "b3"))
        yield f"{model} {dtype}: b against a", a / b, ">=", bars["a"]
        if dtype == "float32":
            yield f"{model} {dtype}: b against c", found[dtype, "c"].median / b, ">=", same
        else:
            yield f"{model} {dtype}: b against c in float32", found["float32", "c"].median / b, ">=", across
        yield f"{model} {dtype}: three poolings against one", b3 / b, "<=", THREE_BAR


# --- clips -----------------------------------------------------------------------------------------------------------


def write_manifest(folder: Path, clips: int, total: int) -> Path:
    """`total` clips: `clips` recordings, again and again, each time a span that begins a microsecond later."""
    paths = list(_recordings(folder, clips))
    manifest = folder / "clips.csv"
    with manifest.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["clip_id", "path", "start_s"])
        for number in range(total):
            again, which = divmod(number, len(paths))
            table.writerow([f"{paths[which].stem}-{again}", paths[which], f"{again / 1e6:.6f}" if again else ""])
    return manifest


def _recordings(folder: Path, count: int) -> Iterator[Path]:
    if EMODB.is_file():
        with EMODB.open(newline="") as file:
            listed = [EMODB.parent / row["path"] for row in csv.DictReader(file)]
        yield from (path.resolve() for path in listed[:: max(1, len(listed) // count)][:count])
        return
    generator = np.random.default_rng(0)
    for number in range(count):
        seconds = float(np.clip(generator.lognormal(0.95, 0.4), 1.2, 9.0))
        path = folder / f"{number:04}.wav"
        soundfile.write(path, generator.normal(0, 0.1, int(seconds * RATE)), RATE)
        yield path


def main() -> None:
    """Measure, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", type=Path, help="a folder for the random weights, kept; else a temporary one")
    parser.add_argument("--model", choices=sorted(MODELS), help="only this one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shrink", action="store_true", help="tiny models: proves that it runs, measures nothing")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    fast = fast_in_bfloat16(device)
    threads = torch.get_num_threads()
    print(f"device {device}, {threads} threads, {os.cpu_count()} cores; bfloat16 is {'fast' if fast else 'slow'} here")
    results: list[tuple[str, float, str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        total = 2000 if device.startswith("cuda") else arguments.clips
        manifest = write_manifest(scratch, arguments.clips, total)
        warm = scratch / "warm.csv"
        warm.write_text("\n".join(manifest.read_text().splitlines()[: 1 + WARM]))
        print("way  model  dtype  seconds (smallest to largest)  clips/s  peak memory")
        for model in [arguments.model] if arguments.model else MODELS:
            weights = (arguments.weights or scratch) / f"{model}{'-shrunk' if arguments.shrink else ''}"
            if not (weights / "config.json").is_file():
                make(model, weights, shrink=arguments.shrink)
            layers = (SHRUNK if arguments.shrink else MODELS)[model]
            case = Case(model, layers, "float32", device, weights, manifest, warm, scratch)
            found: dict[tuple[str, str], Measured] = {}
            for dtype in ("float32", "bfloat16") if fast else ("float32",):
                ways = ["a", "b", "b3", "c"] if dtype == "float32" else ["a", "b", "b3"]
                for way, one in measure(replace(case, dtype=dtype), ways, arguments.repeats, threads).items():
                    found[dtype, way] = one
                    spread = f"{one.median:.2f} ({min(one.seconds):.2f} to {max(one.seconds):.2f})"
                    memory = f"{one.peak / 1e9:.2f} GB" + (f", GPU {one.on_device / 1e9:.2f} GB" * bool(one.on_device))
                    print(f"{way:3}  {model} {layers}  {dtype}  {spread}  {total / one.median:.1f}  {memory}")
            results += rows(model, device, found)
    print("\nfigure, bar")
    for what, figure, sign, bar in results:
        met = figure >= bar if sign == ">=" else figure <= bar
        print(f"{what}: {figure:.3f}, {sign} {bar}: {'met' if met else 'missed'}")


if __name__ == "__main__":
    main()

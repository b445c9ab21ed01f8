"""`extract_features`: from clips to committed cells. The one file of this room that meets the store."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, StoreError
from emocache.extract.plan import Contents, Plan, make_plan, read_contents
from emocache.extract.registry import find_encoder
from emocache.spec import RECIPE_VERSION, Clip, Decoder, Encoder, Recipe, parse_layers, parse_pooling
from emocache.store import (
    FeatureWriter,
    Store,
    default_store,
    find_store,
    open_or_make_store,
    read_manifest,
    refresh_snapshot,
    write_roster,
)

if TYPE_CHECKING:
    from tqdm import tqdm

    from emocache.extract.pipeline import Result

log = logging.getLogger("emocache")

COMPUTE_DTYPES = ("float32", "bfloat16", "float16")
STORAGE_DTYPES = ("float32", "float16")
DEFAULT_CLIPS = "clips.csv"
LIBRARIES = ("emocache", "torch", "torchaudio", "transformers", "numpy", "av", "decord", "mediapipe", "facenet-pytorch")
"""Their versions stand beside a recipe; they are not part of it."""


@dataclass
class Summary:
    """What one call of `extract_features` did.

    feature: the feature's name in the store; computed, held: clips; failed: clip_id to the ledger's words
    moved: clips whose name stood for other content before; seconds: the whole call
    """

    store: Path
    feature: str
    layers: tuple[int, ...]
    computed: int = 0
    held: int = 0
    absent: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)
    seconds: float = 0.0
    time_spent: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        done = f"{self.computed} clips computed, {self.held} already held, {len(self.failed)} failed"
        lines = [f"{done} in {self.seconds:.1f} s → {self.store} · {self.feature}"]
        if self.time_spent:
            spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.time_spent.items())
            lines.append(f"where the time went: {spent}")
        if self.absent:
            lines.append(f"{self.absent} clips have nothing that this encoder reads")
        lines += [f"now other content than before under the name {clip}" for clip in self.moved]
        lines += [f"failed {clip}: {message}" for clip, message in self.failed.items()]
        return "\n".join(lines)


def extract_features(
    encoder: str,
    *,
    layers: str = "all",
    pool: str = "mean",
    clips: str | Path | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    dtype: str = "float32",
    storage: str = "float32",
    weights: str | Path | None = None,
    workers: int | None = None,
    part: tuple[int, int] = (1, 1),
    keep_text: bool = False,
    **options: Any,
) -> Summary:
    """Run one encoder over clips and commit the layers asked for; what the store holds is not computed again.

    encoder: a registered name (`list_encoders`)
    layers: ``16-21``, ``6,8``, ``-4:`` or ``all``; pool: ``mean`` or ``stats7``
    clips: a manifest (CSV, Parquet) or a folder of media; left out: ``clips.csv``, else the current folder
    store: the store's folder, made if need be; left out: ``$EMOCACHE_STORE`` or ``features.zarr``
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; dtype: compute dtype; storage: stored dtype
    weights: a local folder of a pretrained model, instead of the hub's
    workers: decoding processes; left out: one per core, at most 4
    part: ``(2, 4)`` does the second quarter of the work, so that processes, GPUs or hosts can share it
    keep_text: let transcripts travel in the store's roster
    options: what the encoder itself takes (`face_detector` for face-hog)
    returns: what was done; a clip that failed is named there and in the ledger, and does not stop the others
    raises: EmocacheError (wrong option, unreadable manifest, weights or store); KeyboardInterrupt after committing
        what was finished
    """
    started = time.monotonic()
    _check(dtype, storage)
    card = find_encoder(encoder)
    pooling = parse_pooling(pool)
    manifest = read_manifest(_default_clips() if clips is None else clips)
    contents = read_contents(manifest.clips, card.modality)
    built = card.build(None if weights is None else Path(weights), **options)
    wanted = parse_layers(layers, built.depth)
    recipe = _recipe(built, pooling, dtype, storage)
    where = Path(default_store() if store is None else store)
    with _disk_errors(where):
        found = find_store(where)
        plan, known = _plan(found, contents, recipe, wanted, built.dim, part)
    log.info("%s", plan.describe())
    ready = _Ready.of(plan, built, device) if plan.tasks else None
    with _disk_errors(where):
        target = found or open_or_make_store(where)
        named = [(clip.clip_id, _columns(clip, keep_text=keep_text)) for clip in manifest.clips]
        keys = {clip_id: {card.modality: key.hex()} for clip_id, key in contents.keys.items()}
        moved = write_roster(target.path, named, keys)
        feature = target.add_feature(recipe, _versions())
    summary = Summary(where, feature.name, wanted, held=plan.held, moved=moved)
    summary.absent = len(contents.absent)
    _Run(plan, built, feature.folder, summary, known).carry_out(ready, workers or min(4, os.cpu_count() or 1))
    summary.seconds = time.monotonic() - started
    return summary


Ledger = tuple[Mapping[str, Mapping[str, Any]], Mapping[str, Mapping[str, Any]]]
"""What a feature's ledger says, by content key and by clip_id, as `Feature.ledger_rows` gives it."""


def _plan(
    store: Store | None, contents: Contents, recipe: Recipe, layers: tuple[int, ...], dim: int, part: tuple[int, int]
) -> tuple[Plan, Ledger]:
    """What is missing, and what the ledger said of it before; nothing is held where there is no store yet."""
    if store is None or recipe.feature_name not in store.features:
        return make_plan(contents, recipe, layers, dim, _nothing, ()).part(*part), ({}, {})
    feature = store.features[recipe.feature_name]
    ledger = feature.ledger_rows()
    failed = {bytes.fromhex(key) for key, row in ledger[0].items() if row["status"] == "failed"}
    return make_plan(contents, recipe, layers, dim, feature.holding, failed).part(*part), ledger


def _nothing(keys: Sequence[bytes], layers: Sequence[int]) -> NDArray[np.bool_]:
    """What a store that is not there yet holds."""
    return np.zeros((len(keys), len(layers)), dtype=np.bool_)


@contextmanager
def _disk_errors(where: Path) -> Iterator[None]:
    """Say of a failing disk which store it was, and that nothing was lost.

    raises: StoreError in the place of OSError
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{where}: {error.strerror or error} ({error.filename or 'no file named'}); what was committed before is "
            "safe, run the same command again when this is mended"
        ) from error


def _check(dtype: str, storage: str) -> None:
    if dtype not in COMPUTE_DTYPES:
        raise BadOption(f"--dtype {dtype!r} is not known; known: {', '.join(COMPUTE_DTYPES)}")
    if storage not in STORAGE_DTYPES:
        raise BadOption(f"--storage {storage!r} is not known; known: {', '.join(STORAGE_DTYPES)}")


def _default_clips() -> Path:
    """``clips.csv`` in the current folder, or the folder itself."""
    return Path(DEFAULT_CLIPS) if Path(DEFAULT_CLIPS).is_file() else Path()


def _recipe(encoder: Encoder, pooling: str, dtype: str, storage: str) -> Recipe:
    return Recipe(
        {
            "recipe_version": RECIPE_VERSION,
            "encoder": encoder.name,
            "modality": encoder.modality,
            "settings": dict(encoder.recipe()),
            "pooling": pooling,
            "compute_dtype": dtype,
            "storage_dtype": storage,
        }
    )


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _columns(clip: Clip, *, keep_text: bool) -> Mapping[str, Any]:
    return {**clip.columns, "text": clip.text} if keep_text and clip.text is not None else clip.columns


def _without_folder(message: str, path: Path | None) -> str:
    """A message for the ledger: it travels with the store, so it names the file without its folder."""
    for spelling in () if path is None else (path.resolve(), path.absolute(), path):
        message = message.replace(str(spelling), spelling.name)
    return message


@dataclass(frozen=True)
class _Ready:
    """What must be at hand before the first write: the decoder, and the network on its device."""

    decoder: Decoder

    @classmethod
    def of(cls, plan: Plan, encoder: Encoder, device: str) -> _Ready:
        """Fetch and load; an encoder that cannot start leaves the store as it is."""
        from emocache.extract.device import choose_device

        chosen = choose_device(device)
        decoder = encoder.decoder()
        layers = sorted({layer for task in plan.tasks for layer in task.layers})
        encoder.load(chosen, str(plan.recipe.fields["compute_dtype"]), layers)
        return cls(decoder)


@dataclass
class _Run:
    """One plan being carried out."""

    plan: Plan
    encoder: Encoder
    folder: Path
    summary: Summary
    known: Ledger
    """The ledger as it stood: a clip that fails again in the same way is not written down again."""

    def carry_out(self, ready: _Ready | None, workers: int) -> None:
        """Commit who cannot be read, then encode what is missing; whatever ends the run, finished work is kept."""
        self._commit_unreadable()
        if ready is None:
            return
        from tqdm import tqdm

        from emocache.extract.pipeline import Clock, Pipeline
        from emocache.extract.workers import DecodePool

        fields = self.plan.recipe.fields
        storage = np.dtype(str(fields["storage_dtype"]))
        clock, written = Clock(), 0.0
        bar = tqdm(total=self.plan.clips, unit="clip", desc=self.plan.recipe.encoder, disable=None)
        with bar, DecodePool(ready.decoder, workers) as pool:
            for layers, tasks in self.plan.by_layers():
                pipeline = Pipeline(self.encoder, layers, str(fields["pooling"]), storage, clock)
                written += self._commit(pipeline.run(tasks, pool), layers, bar)
        with _disk_errors(self.summary.store):
            refresh_snapshot(self.folder, self.plan.recipe.fingerprint)
        self.summary.time_spent = {
            f"decode in {workers} processes": clock.decode,
            "waiting for decode": clock.wait,
            "forward": clock.forward,
            "write": written,
        }

    def _commit_unreadable(self) -> None:
        """Commit ledger rows of clips whose file cannot be read."""
        writer = self._writer(self.plan.layers)
        for clip in self.plan.contents.unreadable:
            self.summary.failed[clip.clip_id] = f"{clip.path}: {clip.reason}"
            if self.known[1].get(clip.clip_id) != clip.row():
                writer.add_failure(clip.row())
        with _disk_errors(self.summary.store):
            writer.flush()

    def _commit(self, results: Iterator[Result], layers: tuple[int, ...], bar: tqdm[Any]) -> float:
        """Commit results as segments; returns the seconds spent writing."""
        writer = self._writer(layers)
        try:
            for result in results:
                with _disk_errors(self.summary.store):
                    self._add(writer, result)
                bar.update(len(result.task.clip_ids))
        finally:
            with _disk_errors(self.summary.store):
                writer.flush()
        return writer.seconds

    def _writer(self, layers: tuple[int, ...]) -> FeatureWriter:
        return FeatureWriter(self.folder, self.plan.recipe.fingerprint, layers)

    def _add(self, writer: FeatureWriter, result: Result) -> None:
        task = result.task
        if result.values is not None:
            writer.add(task.key, result.values, result.facts)
            self.summary.computed += len(task.clip_ids)
            return
        failure = result.failure
        assert failure is not None  # noqa: S101 (a result has values or a failure)
        row = {
            "key": task.key.hex(),
            "status": "failed",
            "stage": failure.stage,
            "error": failure.error,
            "message": _without_folder(failure.message, task.source.path),
            "facts": dict(result.facts),
        }
        self.summary.failed |= dict.fromkeys(task.clip_ids, failure.message)
        if self.known[0].get(task.key.hex()) != row:
            writer.add_failure(row)

"""A run: the folder that a fit leaves, whole or not at all, and what can be done with it afterwards."""

from __future__ import annotations

import glob
import json
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import FitError
from emocache.heads.block import Block
from emocache.heads.fold_model import FoldModel
from emocache.heads.matrix import Matrix, load_matrix
from emocache.heads.normalize import normalized
from emocache.heads.report import report, summary

if TYPE_CHECKING:
    import pandas as pd

RUN_FORMAT = 1
RECORD = "run.json"
"""Written last: a folder without it is no run."""
METRICS = "metrics.json"
OOF = "oof.parquet"
TRAIN_OOF = "train-oof.parquet"
REPORT = "report.md"
ABANDONED_S = 7 * 24 * 3600
"""A draft this old has lost its writer: no fit takes a week."""


@dataclass(frozen=True)
class Run:
    """A fitted head with its scores.

    path: the run's folder
    record: ``run.json``: recipe (head, features with fingerprints, normalize, seed, folds), classes, folds, labels, ...
    metrics: ``metrics.json``: protocol, metrics, intervals, per_class, confusion, classes
    oof: one row per scored clip: clip_id, fold (-1: all folds), label, and one probability per class, ``p_<class>``,
        the mean over seeds; where targets are numbers, ``y_<name>`` too
    models: by seed, then by fold
    train_oof: the same of the train part of a cross-fitted split (``given:K``): what a fusion may be fitted on
    """

    path: Path
    record: Mapping[str, Any]
    metrics: Mapping[str, Any]
    oof: pd.DataFrame
    models: tuple[tuple[FoldModel, ...], ...]
    train_oof: pd.DataFrame | None = None

    @cached_property
    def classes(self) -> NDArray[np.str_]:
        """The labels, sorted (or the dimensions): the order of the columns of `predict_proba`."""
        return np.asarray(self.record["classes"], dtype=np.str_)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The features that the heads read, in column order; ``block.request`` names one for `load_matrix`."""
        return tuple(map(Block.from_json, self.record["recipe"]["features"]))

    def load_matrix(self, store: str | Path | None = None, clips: str | Path | None = None) -> Matrix:
        """Read the run's features for any clips, layers and tokens as the head wants them.

        store, clips and errors: as for `matrix.load_matrix`
        """
        requests = [block.request for block in self.blocks]
        mix = next((block.mix for block in self.blocks if len(block.layers) > 1), "mean")
        return load_matrix(store, requests, clips, mix=mix, tokens=self.models[0][0].head.masks)

    def predict_proba(self, matrix: Matrix) -> NDArray[np.float64]:
        """The mean of all models' probabilities, ``(clip, class)``; of their values, where the task is dimensional.

        matrix: rows with the run's features, as ``run.load_matrix(store)`` reads them
        raises: FitError if the matrix holds other features
        """
        if len(matrix.blocks) != len(self.blocks) or not all(map(Block.same_content, matrix.blocks, self.blocks)):
            raise FitError(
                f"{self.path}: the run reads {', '.join(block.request for block in self.blocks)}; the matrix holds "
                f"{', '.join(block.request for block in matrix.blocks)}; load the run's own features"
            )
        matrix = matrix.padded(self.blocks)
        values = normalized(matrix, self.record["recipe"]["normalize"])
        models = [model for of_seed in self.models for model in of_seed]
        each = [model.predict_proba(values, matrix.present, self.classes) for model in models]
        mean: NDArray[np.float64] = np.mean(each, axis=0)
        return mean

    def summary(self) -> str:
        """A small table for a terminal: scores, intervals, chance, notes, and where the run lies."""
        return f"{summary(self.metrics)}\nrun: {self.path}"


def load_run(path: str | Path, *, device: str = "auto") -> Run:
    """Read a run back; nothing in it is executed or unpickled.

    raises: FitError if no run is there, or a file of it is missing or damaged
    """
    import pandas as pd

    folder = Path(path)
    record = _read_record(folder)
    if record is None:
        raise FitError(f"{folder}: no run is here (no readable {RECORD}); emocache fit makes one")
    check_format(folder, record)
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        oof = pd.read_parquet(folder / OOF)
        train_oof = pd.read_parquet(folder / TRAIN_OOF) if (folder / TRAIN_OOF).exists() else None
        recipe = record["recipe"]
        name, places = str(recipe["head"]["name"]), _places(recipe["seed"], recipe["seeds"], len(record["fold_names"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FitError(f"{folder}: the run is damaged: {error}; fit it again") from error
    models = tuple(tuple(FoldModel.load(folder / place, name, device=device) for place in row) for row in places)
    return Run(folder, record, metrics, oof, models, train_oof)


def check_format(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse a run that another version of emocache wrote.

    raises: FitError
    """
    if record.get("format") != RUN_FORMAT:
        raise FitError(
            f"{folder}: a run of format {record.get('format')}, this emocache reads {RUN_FORMAT}; "
            "fit it again, or update emocache"
        )


def write_run(run: Run, folder: Path) -> None:
    """Write all files of `run` into `folder`, which exists and is empty; ``run.json`` comes last.

    raises: FitError if they cannot be written
    """
    with writing(run.path):
        _write_files(run, folder)


def _write_files(run: Run, folder: Path) -> None:
    places = _places(run.record["recipe"]["seed"], len(run.models), len(run.models[0]))
    for row, of_seed in zip(places, run.models, strict=True):
        for place, model in zip(row, of_seed, strict=True):
            model.save(folder / place)
    run.oof.to_parquet(folder / OOF, index=False)
    if run.train_oof is not None:
        run.train_oof.to_parquet(folder / TRAIN_OOF, index=False)
    write_json(folder / METRICS, run.metrics)
    (folder / REPORT).write_text(report(run.metrics, run.oof, run.record["fold_names"]), encoding="utf-8")
    write_json(folder / RECORD, run.record)


def _places(seed: int, seeds: int, folds: int) -> list[list[str]]:
    """Where each model lies, by seed, then by fold: ``fold-0``, or ``seed-3/fold-0`` where there are several."""
    return [
        [f"fold-{fold}" if seeds == 1 else f"seed-{seed + run}/fold-{fold}" for fold in range(folds)]
        for run in range(seeds)
    ]


@contextmanager
def draft(out: Path, recipe: Mapping[str, Any]) -> Iterator[Path]:
    """A new folder beside `out` that takes its place when the block ends well, and vanishes otherwise.

    A run with the very same recipe is replaced: it would hold the same numbers. Anything else that is there is not.

    recipe: the recipe of the run that is going to be written
    raises: FitError if `out` holds something else, or cannot be written
    """
    _clear_up(out)
    _refuse_to_replace(out, recipe)
    folder = out.parent / f".{out.name}-{secrets.token_hex(4)}.part"
    try:
        with writing(out):
            folder.mkdir(parents=True)
        yield folder
        with writing(out):
            _move(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Around whatever writes files of the run `out`: a disk that is full, say, is told as that.

    raises: FitError
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise FitError(f"{out}: cannot write a run here: {why}; name another folder with --out") from error


def _move(folder: Path, out: Path) -> None:
    """Put `folder` in the place of `out`. Where a process dies in between, `_clear_up` brings back what was there."""
    if out.exists() and any(out.iterdir()):
        replaced = folder.with_suffix(".old")
        out.rename(replaced)
        try:
            folder.rename(out)
        except OSError:
            replaced.rename(out)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        folder.rename(out)


def _clear_up(out: Path) -> None:
    """Remove what killed processes left beside `out`, and put a run back that one of them had moved aside."""
    drafts = f".{glob.escape(out.name)}-{8 * '[0-9a-f]'}"
    for replaced in out.parent.glob(f"{drafts}.old"):
        with writing(out):
            if not out.exists():
                replaced.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)
        shutil.rmtree(replaced.with_suffix(".part"), ignore_errors=True)
    for part in out.parent.glob(f"{drafts}.part"):
        with suppress(OSError):  # its writer has just finished
            if time.time() - part.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(part, ignore_errors=True)


def _refuse_to_replace(out: Path, recipe: Mapping[str, Any]) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    there = _read_record(out) if out.is_dir() else None
    if there is None:
        raise FitError(f"{out}: something that is no run is already here; name another folder with --out")
    new, old = json.loads(json.dumps(recipe)), there["recipe"]
    differing = [key for key in dict.fromkeys([*new, *old]) if new.get(key) != old.get(key)]
    if differing:
        raise FitError(
            f"{out}: another run is already here (it differs in {', '.join(differing)}); "
            "name another folder with --out, or remove this one"
        )


def _read_record(folder: Path) -> dict[str, Any] | None:
    """The folder's ``run.json``, or None if there is none that is a run's."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    good = isinstance(record, dict) and "format" in record and isinstance(record.get("recipe"), dict)
    return record if good else None


def write_json(path: Path, value: object) -> None:
    """Write JSON for a person to read, too."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")

"""A fit that is ready to run: aligned features, targets, folds; everything that cannot be fitted is refused here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, FitError, some
from emocache.heads.folds import Folds, make_folds
from emocache.heads.matrix import Matrix
from emocache.heads.normalize import normalized
from emocache.heads.targets import thirds
from emocache.spec import counted

SOFT_PREFIX = "soft_"
DIMENSIONS = ("valence", "arousal", "dominance", "val", "aro", "dom")


@dataclass(frozen=True)
class Problem:
    """Features, targets and folds of the clips that are fitted on.

    matrix: what was read, rows without targets left out; values: ``(clip, column)`` float32, standardised within
        speakers if that was asked for, NaN where absent
    task: of `head.TASKS`; names: the classes, sorted (soft labels: in the order of their columns), or the dimensions
    target: ``(clip, name)`` float64: one-hot, a distribution, or values
    """

    matrix: Matrix
    values: NDArray[np.float32]
    task: str
    names: tuple[str, ...]
    target: NDArray[np.float64]
    folds: Folds
    normalize: str
    seed: int

    @property
    def index(self) -> NDArray[np.int64]:
        """``(clip,)``: the (most probable) class."""
        index: NDArray[np.int64] = self.target.argmax(axis=1)
        return index

    @property
    def labels(self) -> NDArray[np.str_]:
        """``(clip,)``: the (most probable) class by name."""
        return np.asarray(self.names, dtype=np.str_)[self.index]

    @property
    def y(self) -> NDArray[Any]:
        """What `Head.fit` takes."""
        return self.labels if self.task == "label" else self.target

    @property
    def speakers(self) -> NDArray[np.str_] | None:
        """``(clip,)``, or None unless every clip has a speaker."""
        return self.matrix.speakers


def make_problem(
    matrix: Matrix, task: str, targets: Sequence[str] | None, rule: str | None, normalize: str, seed: int
) -> Problem:
    """Read targets from the manifest's columns and divide the clips.

    targets: the columns that hold them; left out: ``label``; every ``soft_<class>``; those of `DIMENSIONS` there are
    rule: of `make_folds`
    raises: BadOption, FitError
    """
    columns = _columns(matrix, task, targets)
    matrix = _with_targets(matrix, columns, task)
    names, target = _label_target(matrix, columns[0]) if task == "label" else _number_target(matrix, columns, task)
    strata = thirds(target.mean(axis=1)) if task == "dimensional" else target.argmax(axis=1)
    given = {name: matrix.column(name) for name in ("fold", "split")}
    folds = make_folds(rule, strata, matrix.column("speaker"), given, seed=seed)
    notes = (*matrix.notes, *folds.notes, *_voice_notes(folds, matrix.column("speaker")), *_twin_notes(folds, matrix))
    if task == "label":
        notes += tuple(_class_gaps(folds, strata, names))
    if normalize == "speaker":
        notes += ("normalize speaker is transductive: it sees the unlabelled clips of the speaker who is scored",)
    matrix = replace(matrix, notes=notes)
    return Problem(matrix, normalized(matrix, normalize), task, names, target, folds, normalize, seed)


def _voice_notes(folds: Folds, speakers: list[str | None]) -> list[str]:
    """What a reader should know where clips have no speaker, or speakers stand on both sides."""
    named = [speaker for speaker in speakers if speaker is not None]
    notes = []
    if 0 < len(named) < len(speakers):
        notes.append(
            f"{speakers.count(None)} of {len(speakers)} clips have no speaker: heads stop by clips that may share "
            "a voice with those they learn from, and intervals are drawn over clips"
        )
    if both := folds.on_both_sides(speakers):
        notes.append(
            f"{len(both)} of {len(set(named))} speakers are trained on by the fold that scores them: {some(both)}; the "
            "scores are those of known voices, not of new ones"
        )
    return notes


def _twin_notes(folds: Folds, matrix: Matrix) -> Iterator[str]:
    """What a reader should know where two clips have the very same numbers: one clip under two names."""
    hashes = [str(hash(row.tobytes())) for row in matrix.values]  # 64 bits: 30 ms for 20,000 rows of 1,024
    both = set(folds.on_both_sides(hashes))
    if twins := [clip for clip, own in zip(matrix.clips, hashes, strict=True) if own in both]:
        yield (
            f"{len(twins)} clips have the very same features as a clip on the other side of their fold: {some(twins)}; "
            "what is scored was trained on, under another name"
        )


# --- columns ---------------------------------------------------------------------------------------------------------


def _columns(matrix: Matrix, task: str, targets: Sequence[str] | None) -> list[str]:
    if targets is not None and not all(name.strip() for name in targets or [""]):
        raise BadOption(
            f"--targets {','.join(targets)!r}: names no column, or an empty one; write label, or valence,arousal"
        )
    if task == "label":
        if targets is not None and len(targets) != 1:
            raise BadOption(f"--targets {','.join(targets)}: task label takes one column, that of the labels")
        return list(targets or ["label"])
    held = matrix.column_names
    if targets is None:
        usual = {"soft": [name for name in held if name.startswith(SOFT_PREFIX)]}
        columns = usual.get(task, [name for name in DIMENSIONS if name in held])
    else:
        columns = list(targets)
    if task == "soft" and len(columns) < 2:
        raise FitError(
            f"--task soft: needs a column for each class, named {SOFT_PREFIX}<class> or by --targets; the manifest has "
            f"{some(held, 12)}"
        )
    if not columns:
        raise FitError(
            f"--task dimensional: no column of {', '.join(DIMENSIONS)} is there; name those that hold the values with "
            f"--targets; the manifest has {some(held, 12)}"
        )
    if strange := [name for name in columns if name not in held]:
        raise BadOption(f"--targets: the clips have no column {some(strange)}; they have {some(held, 12)}")
    return columns


def _with_targets(matrix: Matrix, columns: Sequence[str], task: str) -> Matrix:
    """The rows that have all targets; the others are left out by name."""
    cells = [matrix.column(column) for column in columns]
    lacking = [row for row, values in enumerate(zip(*cells, strict=True)) if None in values]
    what = "label" if task == "label" else f"value of {', '.join(columns)}"
    if len(lacking) == len(matrix.clips):
        column = columns[0] if task == "label" else ", ".join(columns)
        raise FitError(
            f"none of the {len(matrix.clips)} clips has a {what}; give a manifest with a column {column!r} by --clips, "
            "or add the column and run emocache extract again (it computes nothing that is held)"
        )
    nameless = [matrix.clips[row] for row in lacking]
    left_out = {**matrix.left_out, **({f"no {what}": nameless} if nameless else {})}
    notes = tuple(f"{counted(len(clips), 'clip')} left out, {why}: {some(clips)}" for why, clips in left_out.items())
    kept = matrix.take(sorted(set(range(len(matrix.clips))) - set(lacking)))
    return replace(kept, left_out=left_out, notes=(*notes, *matrix.notes))


# --- labels ----------------------------------------------------------------------------------------------------------


def _label_target(matrix: Matrix, column: str) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    labels = np.asarray(matrix.column(column), dtype=np.str_)
    names, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) == 1:
        raise FitError(f"all {len(labels)} clips have the label {str(names[0])!r}; a head needs at least two classes")
    if lonely := names[counts == 1].tolist():
        where = [f"{name!r} ({matrix.clips[int(np.flatnonzero(labels == name)[0])]})" for name in lonely]
        raise FitError(
            f"a label with one clip only: {some(where)}; it cannot be both trained on and scored: "
            "merge it with another label, add clips, or leave the clip out with --clips"
        )
    return tuple(names.tolist()), np.eye(len(names))[index]


def _class_gaps(folds: Folds, target: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """One note for each fold that must do without a class.

    raises: FitError if a fold has only one class to train on
    """
    notes = []
    classes = np.asarray(names)
    for name, (train, _) in zip(folds.names, folds.parts(), strict=True):
        seen = np.unique(target[train])
        if len(seen) < 2:
            raise FitError(
                f"--folds {folds.rule}: fold {name!r} would train on {len(train)} clips of the one class "
                f"{some(classes[seen].tolist())}; choose other folds"
            )
        if absent := np.delete(classes, seen).tolist():
            notes.append(f"fold {name!r} trains without {some(absent)}, whose probability is 0 there")
    return notes


# --- numbers ---------------------------------------------------------------------------------------------------------


def _number_target(matrix: Matrix, columns: Sequence[str], task: str) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    cells = [
        [_number(row, column, clip) for row, clip in zip(matrix.rows, matrix.clips, strict=True)] for column in columns
    ]
    values = np.asarray(cells, dtype=np.float64).T
    if task == "dimensional":
        for column, spread in zip(columns, values.std(axis=0), strict=True):
            if spread == 0:
                raise FitError(f"--targets {column}: all {len(values)} clips have the same value; leave it out")
        return tuple(columns), values
    names = tuple(column.removeprefix(SOFT_PREFIX) for column in columns)
    wrong = (values < 0).any(axis=1) | (values.sum(axis=1) <= 0)
    if wrong.any():
        bad = [matrix.clips[row] for row in np.flatnonzero(wrong)]
        raise FitError(
            f"--task soft: {some(bad)}: a soft label has a negative share, or none above 0; each clip needs shares of "
            f"{some(list(columns), 8)}, of any sum"
        )
    return names, values / values.sum(axis=1, keepdims=True)


def _number(row: Mapping[str, Any], column: str, clip: str) -> float:
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise FitError(f"{clip}: the column {column!r} holds {row[column]!r}, expected a number; correct the manifest")
    return value

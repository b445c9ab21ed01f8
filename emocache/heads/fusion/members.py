"""Runs side by side: the out-of-fold probabilities of the clips that all of them score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, FitError, some
from emocache.heads.folds import make_folds
from emocache.heads.runs import OOF, RECORD, TRAIN_OOF, check_format
from emocache.spec import counted

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Member:
    """One run, read without its weights.

    record: ``run.json``; oof: the clips whose probabilities are out of fold: what weights may be fitted on
    test: the test part of a split whose train part is cross-fitted (``--folds given:K``), or None
    """

    path: Path
    record: dict[str, Any]
    oof: pd.DataFrame
    test: pd.DataFrame | None

    @property
    def classes(self) -> list[str]:
        """The labels, in the order of the probabilities' columns."""
        return [str(name) for name in self.record["classes"]]


@dataclass(frozen=True)
class Members:
    """Runs on the clips that all of them score, in the order of the first.

    names: what to call the runs: their folders' names, or whole paths where two are alike
    target: ``(clip,)`` class indices, -1 where a clip has no label; fold: ``(clip,)``, the first run's folds, numbered
        from 0 on as in `fold_names`; rule: how they were divided; speakers: ``(clip,)``, or None
    probabilities: ``(run, clip, class)``, out of fold; left_out: reason -> clips; notes: for the reader of the scores
    """

    runs: tuple[Member, ...]
    names: tuple[str, ...]
    clips: tuple[str, ...]
    classes: tuple[str, ...]
    target: IntArray
    fold: IntArray
    fold_names: tuple[str, ...]
    rule: str
    speakers: tuple[str, ...] | None
    probabilities: FloatArray
    left_out: dict[str, list[str]]
    notes: tuple[str, ...]


def read_member(path: str | Path) -> Member:
    """Read a run's record and out-of-fold probabilities, but no weights.

    raises: FitError if no run is there, or it is damaged
    """
    folder = Path(path)
    try:
        record = dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
        check_format(folder, record)
        test, oof = _table(folder / OOF, record["classes"]), None
        if (folder / TRAIN_OOF).exists():
            oof = _table(folder / TRAIN_OOF, record["classes"])
        if not len(record["fold_names"]) or not isinstance(record["recipe"], dict):
            raise ValueError(f"its {RECORD} names no folds")
    except FileNotFoundError as error:
        raise FitError(f"{folder}: no run is here (no {Path(error.filename).name}); emocache fit makes one") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FitError(f"{folder}: the run is damaged: {error}; fit it again") from error
    return Member(folder, record, test, None) if oof is None else Member(folder, record, oof, test)


def _table(path: Path, classes: Sequence[str]) -> pd.DataFrame:
    """Probabilities by clip.

    raises: ValueError if they are not one finite row a clip
    """
    import pandas as pd

    table = pd.read_parquet(path)
    finite = bool(np.isfinite(table[[f"p_{name}" for name in classes]].to_numpy(dtype=np.float64)).all())
    if not finite or table["clip_id"].duplicated().any():
        raise ValueError(f"the probabilities of {path.name} are not one finite row a clip")
    return table.set_index("clip_id", drop=False)


def read_members(paths: Sequence[str | Path], *, at_least: int = 2) -> Members:
    """Read runs and line up the clips that all of them score; what one of them lacks is left out by name.

    Weights are fitted where every run has a say, so that they mean the same for every clip.
    raises: BadOption for too few runs, or one twice; FitError for a damaged run, or runs that do not belong together
    """
    if len(paths) < at_least:
        raise BadOption(f"{len(paths)} run(s) given; name at least {at_least} folders that emocache fit left")
    places = [Path(path).resolve() for path in paths]
    if twice := [str(path) for path, place in zip(paths, places, strict=True) if places.count(place) > 1]:
        raise BadOption(f"{twice[0]} is named twice; name each run once")
    runs = tuple(map(read_member, paths))
    clips, left_out = _common(runs)
    _refuse_strangers(runs, clips)
    first = runs[0].oof.loc[clips]
    folds, fold = np.unique(first["fold"].to_numpy(dtype=np.int64), return_inverse=True)
    columns = [f"p_{name}" for name in runs[0].classes]
    names = tuple(run.path.name for run in runs)
    speakers = tuple(first["speaker"]) if "speaker" in first else (None,)
    return Members(
        runs,
        names if len(set(names)) == len(names) else tuple(str(run.path) for run in runs),
        tuple(clips),
        tuple(runs[0].classes),
        np.array([runs[0].classes.index(str(label)) if label in runs[0].classes else -1 for label in _labels(first)]),
        fold.astype(np.int64),
        tuple(str(runs[0].record["fold_names"][number]) for number in folds),
        str(runs[0].record["recipe"].get("fold_rule", "given")),
        None if None in speakers else tuple(map(str, speakers)),
        np.stack([run.oof.loc[clips, columns].to_numpy(dtype=np.float64) for run in runs]),
        left_out,
        (*_notes_on_gaps(left_out), *_notes_on_folds(runs, clips)),
    )


def divided(members: Members, rule: str, seed: int) -> Members:
    """The same clips in other folds: for weights, say, where the runs themselves scored all clips in one fold.

    rule: of `make_folds`; speakers are known where the runs' manifest had them
    raises: BadOption, FitError
    """
    speakers: Sequence[str | None] = members.speakers or [None] * len(members.clips)
    nothing: dict[str, list[str | None]] = {name: [None] * len(members.clips) for name in ("fold", "split")}
    folds = make_folds(rule, np.maximum(members.target, 0), speakers, nothing, seed=seed)
    return replace(members, fold=folds.of, fold_names=folds.names, rule=folds.rule)


def _labels(oof: pd.DataFrame) -> list[Any]:
    """Labels, None where there is none (a table of some labels is read with NaN there)."""
    if "label" not in oof:
        return [None] * len(oof)
    return [label if known else None for label, known in zip(oof["label"], oof["label"].notna(), strict=True)]


def _common(runs: Sequence[Member]) -> tuple[list[str], dict[str, list[str]]]:
    """The clips that all runs score, and by run those that it alone keeps from being fused."""
    everywhere = set.intersection(*(set(run.oof.index) for run in runs))
    known = set[str]().union(*(run.oof.index for run in runs))
    left_out = {f"not scored by {run.path}": sorted(known - set(run.oof.index)) for run in runs}
    clips = [clip for clip in runs[0].oof.index if clip in everywhere]
    if not clips:
        raise FitError(
            f"no clip is scored by all of {some([str(run.path) for run in runs])}; fuse runs that were fitted on the "
            "same clips with the same --folds"
        )
    return clips, {why: who for why, who in left_out.items() if who}


def _refuse_strangers(runs: Sequence[Member], clips: Sequence[str]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.classes != first.classes:
            raise FitError(
                f"{run.path} knows the labels {some(run.classes, 9)}, {first.path} {some(first.classes, 9)}; "
                "fuse runs that were fitted on the same labels"
            )
        pairs = zip(_labels(first.oof.loc[list(clips)]), _labels(run.oof.loc[list(clips)]), strict=True)
        for clip, (mine, other) in zip(clips, pairs, strict=True):
            if mine != other:
                raise FitError(
                    f"{clip} has the label {mine!r} in {first.path} and {other!r} in {run.path}; "
                    "fit both on the same manifest"
                )


def _notes_on_gaps(left_out: dict[str, list[str]]) -> list[str]:
    return [f"{counted(len(clips), 'clip')} left out, {why}: {some(clips)}" for why, clips in left_out.items()]


def _notes_on_folds(runs: Sequence[Member], clips: Sequence[str]) -> list[str]:
    """Runs with other folds than the first: each probability is out of fold still, but of another division."""
    mine = runs[0].oof.loc[list(clips), "fold"].to_numpy()
    others = [str(run.path) for run in runs[1:] if (run.oof.loc[list(clips), "fold"].to_numpy() != mine).any()]
    if not others:
        return []
    return [f"the nested folds are those of {runs[0].path}; other folds were used by {some(others)}"]


def tested(members: Members) -> tuple[list[pd.DataFrame], dict[str, str | None]] | None:
    """What each run says of the test part of a cross-fitted split, and the labels there; None if a run has none."""
    tables = [run.test for run in members.runs]
    columns = [f"p_{name}" for name in members.classes]
    labels: dict[str, str | None] = {}
    each = []
    for table in tables:
        if table is None:
            return None
        labels |= dict(zip(table.index, _labels(table), strict=True))
        each.append(table[columns])
    return each, labels

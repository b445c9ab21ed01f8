"""`fit_head`: features and labels in, a scored run out."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, FitError, some
from emocache.heads import metrics
from emocache.heads.fold_model import FoldModel
from emocache.heads.folds import Folds, make_folds
from emocache.heads.matrix import Matrix, load_matrix
from emocache.heads.normalize import Scaler, check_method, normalized
from emocache.heads.registry import head_class
from emocache.heads.runs import RUN_FORMAT, Run, draft, write_run

if TYPE_CHECKING:
    import pandas as pd

    from emocache.heads.head import Head

RUNS = Path("runs")
LIBRARIES = ("emocache", "numpy", "scikit-learn", "torch")


def fit_head(
    store: str | Path | None = None,
    head: str = "mlp",
    *,
    features: Sequence[str] | None = None,
    clips: str | Path | None = None,
    folds: str | None = None,
    seed: int = 0,
    normalize: str | None = None,
    mix_layers: str = "mean",
    out: str | Path | None = None,
    device: str = "auto",
) -> Run:
    """Fit a head on a store's features, fold by fold, score it out of fold, and leave a run folder.

    store: left out: ``$EMOCACHE_STORE`` or ``features.zarr``
    head: ``linear`` or ``mlp``
    features: such as ``prosody`` or ``hubert-large:16-21`` (the mean of those layers); left out: all that is held
    clips: a manifest whose labels, speakers and choice of clips take the place of the store's roster
    folds: ``speaker``, ``speaker:K``, ``loso``, ``K`` or ``given``; left out: ``speaker`` where there are speakers
    seed: decides folds, training and bootstrap; the same seed gives the same numbers on the same machine
    normalize: ``none``, ``global`` (fitted on training folds) or ``speaker`` (within each speaker: transductive); left
        out: what the head wants, ``global`` for most
    mix_layers: how several layers of a feature enter: ``mean``, ``concat``, or ``learned``, weighed by the head
    out: the run's folder; left out: ``runs/<head>-<digest>``. A run with the same recipe is replaced, nothing else is
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``
    raises: NotAStore, UnknownName, BadOption, FitError; nothing is left behind then
    """
    kind = head_class(head)
    method = check_method(kind.normalize if normalize is None else normalize)
    if seed < 0:
        raise BadOption(f"--seed {seed}: a seed is 0 or more")
    if mix_layers == "learned" and not kind.mixes:
        raise BadOption(f"--mix-layers learned: {head} does not weigh layers itself; choose mean or concat")
    matrix = load_matrix(store, features, clips, mix=mix_layers, tokens=kind.masks)
    task = _prepare(matrix, folds, method, seed)
    record = _record(task, head, kind(seed=seed))
    place = Path(out) if out is not None else RUNS / f"{head}-{record['digest'][:8]}"
    with draft(place, record["recipe"]) as folder:
        models = _cross_fit(task, kind, device, title=f"fit {head}")
        probabilities = _out_of_fold(task, models)
        run = Run(place, record, _scores(task, record, probabilities), _oof_table(task, probabilities), models)
        write_run(run, folder)
    return run


# --- the task --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """A fit that is ready to run: every clip has a label, every training part at least two classes.

    values: ``(clip, dim)`` float32, standardised within speakers if that was asked for, NaN where absent
    labels: ``(clip,)``; classes: the labels, sorted; target: ``(clip,)`` indices into them
    """

    matrix: Matrix
    values: NDArray[np.float32]
    labels: NDArray[np.str_]
    classes: NDArray[np.str_]
    target: NDArray[np.int64]
    folds: Folds
    normalize: str
    seed: int

    @property
    def speakers(self) -> NDArray[np.str_] | None:
        """``(clip,)``, or None unless every clip has a speaker."""
        names = self.matrix.column("speaker")
        return None if None in names else np.asarray(names, dtype=np.str_)


def _prepare(everything: Matrix, rule: str | None, normalize: str, seed: int) -> _Task:
    matrix = _labelled(everything)
    labels = np.asarray(matrix.column("label"), dtype=np.str_)
    classes, target = np.unique(labels, return_inverse=True)
    _refuse_lonely_labels(matrix, labels)
    given = {name: matrix.column(name) for name in ("fold", "split")}
    folds = make_folds(rule, target, matrix.column("speaker"), given, seed=seed)
    notes = (*matrix.notes, *folds.notes, *_class_gaps(folds, target, classes))
    if normalize == "speaker":
        notes += ("normalize speaker is transductive: it sees the unlabelled clips of the speaker who is scored",)
    matrix = replace(matrix, notes=notes)
    return _Task(matrix, normalized(matrix, normalize), labels, classes, target, folds, normalize, seed)


def _labelled(matrix: Matrix) -> Matrix:
    """The rows that have a label; the others are left out by name."""
    labels = matrix.column("label")
    nameless = [clip for clip, label in zip(matrix.clips, labels, strict=True) if label is None]
    if len(nameless) == len(labels):
        raise FitError(
            f"none of the {len(labels)} clips has a label; give a manifest with a column 'label' by --clips, "
            "or add the column and run emocache extract again (it computes nothing that is held)"
        )
    left_out = {**matrix.left_out, **({"no label": nameless} if nameless else {})}
    notes = tuple(f"{len(clips)} clips left out, {why}: {some(clips)}" for why, clips in left_out.items())
    kept = matrix.take([row for row, label in enumerate(labels) if label is not None])
    return replace(kept, left_out=left_out, notes=(*notes, *matrix.notes))


def _refuse_lonely_labels(matrix: Matrix, labels: NDArray[np.str_]) -> None:
    names, counts = np.unique(labels, return_counts=True)
    if len(names) == 1:
        raise FitError(f"all {len(labels)} clips have the label {str(names[0])!r}; a head needs at least two classes")
    if lonely := names[counts == 1].tolist():
        where = [f"{name!r} ({matrix.clips[int(np.flatnonzero(labels == name)[0])]})" for name in lonely]
        raise FitError(
            f"a label with one clip only: {some(where)}; it cannot be both trained on and scored: "
            "merge it with another label, add clips, or leave the clip out with --clips"
        )


def _class_gaps(folds: Folds, target: NDArray[np.int64], classes: NDArray[np.str_]) -> list[str]:
    """One note for each fold that must do without a class.

    raises: FitError if a fold has only one class to train on
    """
    notes = []
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


# --- training --------------------------------------------------------------------------------------------------------


def _cross_fit(task: _Task, kind: type[Head], device: str, *, title: str) -> tuple[FoldModel, ...]:
    """One model per fold, each from its training rows alone."""
    from tqdm import tqdm

    groups, present = task.speakers, task.matrix.present
    indicated = np.flatnonzero(~present.all(axis=0) & (not kind.masks))
    layout = task.matrix.layout
    models = []
    parts = list(task.folds.parts())
    for fold, (train, _) in enumerate(tqdm(parts, desc=title, unit="fold", leave=False, disable=None)):
        scaler = Scaler.fit(task.values[train], task.normalize, indicated, layout)
        seed = int(np.random.SeedSequence([task.seed, fold]).generate_state(1)[0])
        model = FoldModel(scaler, kind(layout=layout, seed=seed, device=device))
        rows = model.seen(task.values[train], present[train])
        model.head.fit(rows, task.labels[train], None if groups is None else groups[train])
        models.append(model)
    return tuple(models)


def _out_of_fold(task: _Task, models: Sequence[FoldModel]) -> NDArray[np.float64]:
    """``(clip, class)``: each clip by the one model that did not train on it, NaN where none scores it."""
    out = np.full((len(task.target), len(task.classes)), np.nan)
    for model, (_, scored) in zip(models, task.folds.parts(), strict=True):
        out[scored] = model.predict_proba(task.values[scored], task.matrix.present[scored], task.classes)
    return out


# --- what the run says -----------------------------------------------------------------------------------------------


def _record(task: _Task, name: str, head: Head) -> dict[str, Any]:
    """``run.json``. The recipe is all that decides the numbers; its digest names the run."""
    parameters = {key: value for key, value in head.get_params().items() if key not in {"device", "layout"}}
    fold_of = [None if fold < 0 else int(fold) for fold in task.folds.of]
    recipe = {
        "head": {"name": name, "parameters": parameters},
        "features": [asdict(block) for block in task.matrix.blocks],
        "normalize": task.normalize,
        "seed": task.seed,
        "fold_rule": task.folds.rule,
        "folds": dict(zip(task.matrix.clips, fold_of, strict=True)),
        "labels": dict(zip(task.matrix.clips, task.labels.tolist(), strict=True)),
        "values_sha256": hashlib.sha256(task.values.tobytes()).hexdigest(),
    }
    return {
        "format": RUN_FORMAT,
        "digest": hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest(),
        "recipe": recipe,
        "classes": task.classes.tolist(),
        "fold_names": list(task.folds.names),
        "left_out": dict(task.matrix.left_out),
        "views": dict(task.matrix.views),
        "versions": {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}},
    }


def _scores(task: _Task, record: dict[str, Any], probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """``metrics.json``, over the scored clips."""
    scored = np.flatnonzero(task.folds.of >= 0)
    true, predicted, count = task.target[scored], probabilities[scored].argmax(axis=1), len(task.classes)
    voices = np.unique([] if task.speakers is None else task.speakers[scored])
    groups = task.speakers[scored] if task.speakers is not None and len(voices) > 1 else None
    counts = metrics.confusion(true, predicted, count)
    return {
        "protocol": {
            "head": record["recipe"]["head"]["name"],
            "features": [block.request for block in task.matrix.blocks],
            "folds": task.folds.rule,
            "fold_count": len(task.folds.names),
            "normalize": task.normalize,
            "seed": task.seed,
            "clips": len(task.target),
            "scored": len(scored),
            "left_out": {why: len(clips) for why, clips in task.matrix.left_out.items()},
            "chance": metrics.chance(counts),
            "intervals": {
                "over": f"{len(scored)} clips" if groups is None else f"{len(voices)} speakers",
                "rounds": metrics.ROUNDS,
                "level": metrics.LEVEL,
            },
            "notes": list(task.matrix.notes),
        },
        "metrics": {name: float(value) for name, value in metrics.scores(counts).items()},
        "intervals": metrics.intervals(true, predicted, count, groups, seed=task.seed),
        "classes": task.classes.tolist(),
        "per_class": metrics.per_class(counts, task.classes.tolist()),
        "confusion": counts.tolist(),
    }


def _oof_table(task: _Task, probabilities: NDArray[np.float64]) -> pd.DataFrame:
    """``oof.parquet``: clip_id, fold, label and ``p_<class>`` of every scored clip."""
    import pandas as pd

    scored = np.flatnonzero(task.folds.of >= 0)
    columns = {f"p_{name}": probabilities[scored, i] for i, name in enumerate(task.classes)}
    clips = [task.matrix.clips[row] for row in scored]
    return pd.DataFrame(
        {"clip_id": clips, "fold": task.folds.of[scored], "label": task.labels[scored].astype(object), **columns}
    )

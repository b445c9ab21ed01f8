"""`ablate_head`: the head without each of its parts, and on each subset of modalities, all on the same folds and seeds.

For `amhf` these are the paper's Table 6 (the stages of the fusion), what of Table 5 a store can answer (emotion-aware
pooling, cross-attention in the fusion's place), and the modality subsets. Every variant is trained anew, as the full
head is; differences are taken resample by resample, so that what all variants find hard cancels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, FitError, UnknownName
from emocache.heads.bootstrap import LEVEL, Resample, interval
from emocache.heads.contributions import modalities
from emocache.heads.cross_fit import cross_fit, out_of_fold
from emocache.heads.problem import Problem
from emocache.heads.registry import head_class
from emocache.heads.setup import set_up
from emocache.heads.sheets import sheet_of

COMPONENTS = {
    "gating": "No Audio Spectral Gating",
    "routing": "No Adaptive Cross-Modal Routing",
    "memory": "No Temporal Memory",
    "uncertainty": "No Uncertainty Estimation",
    "progressive": "No Progressive Fusion",
    "veap": "No vEAP",
    "eap": "No vEAP + No EATP",
}
"""What can be left out, and what the paper's tables 6 and 5 call that."""
BASELINE = "cross-attention"


@dataclass(frozen=True)
class Variant:
    """One row of an ablation.

    name: as the paper's tables have it; metrics: score to its mean over seeds; intervals: score to [low, high]
    change, change_interval: the same minus the full head's, paired; both empty for the full head
    """

    name: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, list[float]]
    change: Mapping[str, float]
    change_interval: Mapping[str, list[float]]


@dataclass(frozen=True)
class Ablation:
    """What leaving parts out costs.

    protocol: head, features, folds, seeds, and over what the intervals are taken; variants: the full head first
    """

    protocol: Mapping[str, Any]
    variants: tuple[Variant, ...]

    def table(self, score: str | None = None) -> str:
        """Markdown, in points (hundredths); score: left out: the task's first, WAF for labels."""
        score = next(iter(self.variants[0].metrics)) if score is None else score
        lines = [f"| configuration | {score.upper()} (%) | interval | change | interval |", "| --- |" + " --- |" * 4]
        for row in self.variants:
            cells = [row.name, f"{100 * row.metrics[score]:.2f}", _points(row.intervals[score])]
            if row.change:
                cells += [f"{100 * row.change[score]:+.2f}", _points(row.change_interval[score], sign="+")]
            else:
                cells += ["", ""]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def __str__(self) -> str:
        how = self.protocol
        return (
            f"{how['head']} on {', '.join(how['features'])}: {how['scored']} clips scored in {how['fold_count']} "
            f"fold(s) ({how['folds']}), mean of {how['seeds']} seed(s)\n\n{self.table()}\n\n"
            f"{100 * LEVEL:.0f} % intervals: bootstrap over {how['over']}; a change is the variant's score less the "
            "full head's, on the same folds, seeds and draws"
        )


def ablate_head(
    store: str | Path | None = None,
    head: str = "amhf",
    *,
    features: Sequence[str] | None = None,
    clips: str | Path | None = None,
    task: str = "label",
    targets: Sequence[str] | None = None,
    folds: str | None = None,
    seed: int = 0,
    seeds: int = 1,
    normalize: str | None = None,
    mix_layers: str = "mean",
    settings: Mapping[str, Any] | Sequence[str] = (),
    without: Sequence[str] | None = None,
    subsets: bool = True,
    out: str | Path | None = None,
    device: str = "auto",
) -> Ablation:
    """Train a head whole, without each of its components, and on each subset of modalities, and compare.

    All but the following are as in `fit_head`; nothing of the models is kept.
    without: components to leave out, one at a time; left out: all that the head and the features have
    subsets: whether modality subsets are trained too (all of them; with more than three modalities, each alone)
    out: a JSON file for all scores
    raises: NotAStore, UnknownName, BadOption, FitError
    """
    if out is not None:
        _check_place(Path(out))
    setup = set_up(
        store,
        head,
        features=features,
        clips=clips,
        task=task,
        targets=targets,
        folds=folds,
        seed=seed,
        seeds=seeds,
        normalize=normalize,
        mix_layers=mix_layers,
        settings=settings,
    )
    problem, parameters = setup.problem, setup.parameters
    plan = [*_components(problem, head, parameters, without)]
    plan += _subsets(problem, head, parameters) if subsets else ()
    compare = _Comparison(problem)
    full = compare.scored(Planned(f"Full {head}", problem, head, parameters), setup.seeds, device)
    variants = [compare.variant(f"Full {head}", full)]
    variants += (compare.variant(planned.name, compare.scored(planned, setup.seeds, device), full) for planned in plan)
    told = {"scored": len(compare.rows), "over": compare.over, "notes": list(problem.matrix.notes)}
    ablation = Ablation(setup.protocol | told, tuple(variants))
    if out is not None:
        _write(ablation, Path(out))
    return ablation


# --- what is tried ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """A variant before it is trained: its name, the data, the head and its parameters."""

    name: str
    problem: Problem
    head: str
    parameters: Mapping[str, Any]


def _components(
    problem: Problem, head: str, parameters: Mapping[str, Any], without: Sequence[str] | None
) -> Iterator[Planned]:
    known = _parts_of(head)
    _refuse_what_is_no_component(head, known, without or ())
    gone = tuple(parameters.get("without", ()))
    for name in _left_out(problem, known, gone) if without is None else without:
        yield Planned(COMPONENTS.get(name, name), problem, head, {**parameters, "without": (*gone, name)})
    if known and head != BASELINE and without is None:
        kept = tuple(name for name in gone if name in _parts_of(BASELINE))
        yield Planned("Cross-attention fusion", problem, BASELINE, {**parameters, "without": kept})


def _parts_of(head: str) -> tuple[str, ...]:
    return getattr(head_class(head), "components", ())


def _refuse_what_is_no_component(head: str, known: Sequence[str], without: Sequence[str]) -> None:
    if without and not known:
        raise BadOption(f"--without {','.join(without)}: {head} has no components; ablate amhf")
    for name in without:
        if name not in known:
            raise UnknownName(f"component of {head}", name, known, advice="choose what to leave out with --without")


def _left_out(problem: Problem, known: Sequence[str], gone: Sequence[str]) -> list[str]:
    """All components that are still there; vEAP only where a feature has tokens to pool."""
    tokens = any(block.tokens > 1 for block in problem.matrix.blocks)
    return [name for name in known if name not in gone and (tokens or name != "veap")]


def _subsets(problem: Problem, head: str, parameters: Mapping[str, Any]) -> Iterator[Planned]:
    """Each subset of modalities; one without the guide that was asked for is guided as if none had been."""
    known = modalities(problem)
    sizes = range(len(known) - 1, 0, -1) if len(known) <= 3 else [1] if len(known) > 1 else []
    for size in sizes:
        for chosen in combinations(known, size):
            kept = {key: value for key, value in parameters.items() if key != "guide" or value in chosen}
            yield Planned(f"{' + '.join(chosen)} only", _restricted(problem, chosen), head, kept)


def _restricted(problem: Problem, chosen: Sequence[str]) -> Problem:
    """The problem with the features of some modalities alone; every clip and fold stays."""
    blocks, parts, start = [], [], 0
    for block in problem.matrix.blocks:
        if block.modality in chosen:
            parts.append(problem.values[:, block.columns])
            blocks.append(replace(block, start=start))
            start = blocks[-1].stop
    values = np.concatenate(parts, axis=1)
    return replace(problem, values=values, matrix=replace(problem.matrix, values=values, blocks=tuple(blocks)))


# --- how it is compared ----------------------------------------------------------------------------------------------

Scored = tuple[dict[str, float], dict[str, NDArray[np.float64]]]
"""Scores, and those of each resample; both the mean over seeds."""


class _Comparison:
    """The judged clips of a problem and one set of resamples for all variants."""

    def __init__(self, problem: Problem) -> None:
        self.rows = problem.folds.judged
        self.target = problem.target[self.rows]
        self.sheet = sheet_of(problem.task, problem.names)
        speakers = problem.speakers
        voices = np.unique([] if speakers is None else speakers[self.rows])
        several = speakers is not None and len(voices) > 1
        groups = speakers[self.rows] if speakers is not None and several else None
        self.over = f"{len(voices)} speakers" if several else f"{len(self.rows)} clips"
        self.draws = Resample(groups, len(self.rows), seed=problem.seed)

    def scored(self, planned: Planned, seeds: range, device: str) -> Scored:
        each, kind = [], head_class(planned.head)
        for models in cross_fit(planned.problem, kind, planned.parameters, seeds, device, title=planned.name):
            table = self.sheet.table(self.target, out_of_fold(planned.problem, models)[self.rows])
            each.append((self.sheet.scores(table.sum(axis=0)), self.sheet.scores(self.draws.sums(table))))
        names = self.sheet.headline
        return (
            {name: float(np.mean([found[name] for found, _ in each])) for name in names},
            {name: np.mean([rounds[name] for _, rounds in each], axis=0) for name in names},
        )

    def variant(self, name: str, found: Scored, full: Scored | None = None) -> Variant:
        scores, rounds = found
        intervals = {score: interval(values) for score, values in rounds.items()}
        if full is None:
            return Variant(name, scores, intervals, {}, {})
        change = {score: value - full[0][score] for score, value in scores.items()}
        return Variant(name, scores, intervals, change, {s: interval(rounds[s] - full[1][s]) for s in rounds})


def _points(edges: Sequence[float], *, sign: str = "") -> str:
    low, high = (format(100 * edge, f"{sign}.2f") for edge in edges)
    return f"[{low}, {high}]"


def _check_place(out: Path) -> None:
    """Refuse before anything is trained what could not be written afterwards."""
    if out.is_dir() or not out.parent.is_dir():
        why = "is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise FitError(f"{out}: cannot be written: {why}; name another file with --out")


def _write(ablation: Ablation, out: Path) -> None:
    text = json.dumps({"protocol": ablation.protocol, "variants": [asdict(row) for row in ablation.variants]}, indent=1)
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise FitError(f"{out}: cannot be written: {error.strerror or error}; name another file with --out") from error

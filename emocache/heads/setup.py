"""What every training from a store begins with: the head's class and parameters, and the problem, all checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emocache.errors import BadOption
from emocache.heads.folds import check_seed
from emocache.heads.head import TASKS, Head
from emocache.heads.matrix import load_matrix
from emocache.heads.normalize import check_method
from emocache.heads.problem import Problem, make_problem
from emocache.heads.registry import head_class
from emocache.heads.settings import head_settings


@dataclass(frozen=True)
class Setup:
    """A head that is ready to be trained.

    head: its name; kind: its class; parameters: those that were set
    seeds: one for each training on the problem's folds
    """

    head: str
    kind: type[Head]
    parameters: Mapping[str, Any]
    problem: Problem
    seeds: range

    @property
    def protocol(self) -> dict[str, Any]:
        """What is fitted and how, in words and numbers."""
        problem = self.problem
        return {
            "head": self.head,
            "features": [block.request for block in problem.matrix.blocks],
            "task": problem.task,
            "folds": problem.folds.rule,
            "fold_count": len(problem.folds.names),
            "normalize": problem.normalize,
            "seed": problem.seed,
            "seeds": len(self.seeds),
            "clips": len(problem.matrix.clips),
            "left_out": {why: len(clips) for why, clips in problem.matrix.left_out.items()},
        }


def set_up(
    store: str | Path | None,
    head: str,
    *,
    features: Sequence[str] | None,
    clips: str | Path | None,
    task: str,
    targets: Sequence[str] | None,
    folds: str | None,
    seed: int,
    seeds: int,
    normalize: str | None,
    mix_layers: str,
    settings: Mapping[str, Any] | Sequence[str],
) -> Setup:
    """Read and check everything; the arguments are `fit.fit_head`'s.

    raises: NotAStore, UnknownName, BadOption, FitError
    """
    kind = head_class(head)
    parameters = head_settings(kind, head, settings)
    method = check_method(kind.normalize if normalize is None else normalize)
    _refuse_what_cannot_be(kind, head, task, mix_layers, seed, seeds)
    matrix = load_matrix(store, features, clips, mix=mix_layers, tokens=kind.masks)
    problem = make_problem(matrix, task, targets, folds, method, seed)
    return Setup(head, kind, parameters, problem, range(seed, seed + seeds))


def _refuse_what_cannot_be(kind: type[Head], head: str, task: str, mix_layers: str, seed: int, seeds: int) -> None:
    check_seed(seed)
    if seeds < 1:
        raise BadOption(f"--seeds {seeds}: a head is trained once or more")
    if task not in TASKS:
        raise BadOption(f"--task {task!r} is not known; known: {', '.join(TASKS)}")
    if task not in kind.tasks:
        raise BadOption(f"--task {task}: {head} can do {', '.join(kind.tasks)}; choose another --head")
    if mix_layers == "learned" and not kind.mixes:
        raise BadOption(f"--mix-layers learned: {head} does not weigh layers itself; choose mean or concat")

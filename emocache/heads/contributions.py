"""What each modality contributes: the same models without it, with it alone, and their auxiliary heads.

Nothing is trained again: a modality is left out of the clips that are scored, as if they had never had it. A head that
masks gets the gap itself, the others the training mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from emocache.heads.cross_fit import Models, gathered, out_of_fold
from emocache.heads.fold_model import FoldModel
from emocache.heads.problem import Problem

FloatArray = NDArray[np.float64]


def modalities(problem: Problem) -> list[str]:
    """The modalities of the problem's features, in order."""
    return list(dict.fromkeys(block.modality for block in problem.matrix.blocks))


def ablated(problem: Problem, models: Models) -> Mapping[str, Mapping[str, list[FloatArray]]]:
    """Predictions by modality and by ``without`` and ``alone``, one ``(clip, name)`` for each seed.

    Empty where there is one modality only.
    """
    known = modalities(problem)
    if len(known) < 2:
        return {}
    return {
        modality: {
            "without": _masked(problem, models, [modality]),
            "alone": _masked(problem, models, [other for other in known if other != modality]),
        }
        for modality in known
    }


def _masked(problem: Problem, models: Models, absent: Sequence[str]) -> list[FloatArray]:
    values = problem.values.copy()
    for block in problem.matrix.blocks:
        if block.modality in absent:
            values[:, block.columns] = np.nan
    return [out_of_fold(problem, of_seed, values) for of_seed in models]


def auxiliary(problem: Problem, models: Models) -> dict[str, list[FloatArray]]:
    """What the auxiliary heads say by modality, one ``(clip, name)`` for each seed; empty where the head has none."""
    if not models:  # predictions that no head of this run made
        return {}
    first = models[0][0]
    if not hasattr(first.head, "auxiliary_proba"):
        return {}
    known = list(first.auxiliary(problem.values[:2], problem.matrix.present[:2], np.asarray(problem.names)))

    def of(modality: str, of_seed: Sequence[FoldModel]) -> FloatArray:
        def say(model: FoldModel, rows: NDArray[np.int64]) -> FloatArray:
            seen = model.auxiliary(problem.values[rows], problem.matrix.present[rows], np.asarray(problem.names))
            return seen[modality]

        return gathered(problem, of_seed, say)

    return {modality: [of(modality, of_seed) for of_seed in models] for modality in known}

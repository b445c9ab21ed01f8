"""``metrics.json``: every score of a run with its interval, over the clips that are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.heads import metrics
from emocache.heads.bootstrap import LEVEL, Resample, interval
from emocache.heads.calibration import cross_tempered, fit_temperature, tempered
from emocache.heads.contributions import ablated, auxiliary
from emocache.heads.cross_fit import Models
from emocache.heads.folds import NEVER, TEST
from emocache.heads.problem import Problem
from emocache.heads.sheets import LabelSheet, Sheet, sheet_of

FloatArray = NDArray[np.float64]


def score_run(
    problem: Problem, protocol: Mapping[str, Any], models: Models, predictions: Sequence[FloatArray]
) -> dict[str, Any]:
    """All that ``metrics.json`` holds.

    protocol: what was fitted and how, in words; predictions: ``(clip, name)`` for each seed, NaN where none scores it
    A score is the mean over seeds of the single runs' scores; classes and calibration are of the mean over seeds of
    their predictions, as ``oof.parquet`` has it.
    """
    return _Scorer(problem, predictions).everything(protocol, models)


class _Scorer:
    """One problem's judged clips, their targets and draws."""

    def __init__(self, problem: Problem, predictions: Sequence[FloatArray]) -> None:
        self.problem = problem
        self.rows = problem.folds.judged
        self.sheet: Sheet = sheet_of(problem.task, problem.names)
        self.target = problem.target[self.rows]
        speakers = problem.speakers
        voices = np.unique([] if speakers is None else speakers[self.rows])
        groups = speakers[self.rows] if speakers is not None and len(voices) > 1 else None
        self.over = f"{len(self.rows)} clips" if groups is None else f"{len(voices)} speakers"
        self.draws = Resample(groups, len(self.rows), seed=problem.seed)
        self.predictions = predictions
        self.mean: FloatArray = np.mean(predictions, axis=0)
        self.full = self._tried(predictions)

    def everything(self, protocol: Mapping[str, Any], models: Models) -> dict[str, Any]:
        found, rounds = self.full
        judged, headline = self.rows, self.sheet.headline
        chance = {} if self.problem.task == "dimensional" else {"chance": metrics.chance(self._counts())}
        resampling = {"over": self.over, "rounds": self.draws.rounds, "level": LEVEL}
        out: dict[str, Any] = {
            "protocol": {**protocol, "scored": len(judged), **chance, "intervals": resampling},
            "metrics": {name: found[name] for name in headline},
            "intervals": {name: interval(rounds[name]) for name in headline},
        }
        out["protocol"]["notes"] = list(self.problem.matrix.notes)
        if len(self.predictions) > 1:
            out |= self._over_seeds()
        if isinstance(self.sheet, LabelSheet):
            out |= self._classes(found, rounds)
        out["contributions"] = self._contributions(models)
        if weights := _layer_weights(self.problem, models):
            out["layer_weights"] = weights
        return out

    def _scores(self, predicted: FloatArray) -> tuple[dict[str, float], dict[str, FloatArray]]:
        """Scores, and those of each round."""
        table = self.sheet.table(self.target, predicted[self.rows])
        once = self.sheet.scores(table.sum(axis=0))
        return {name: float(value) for name, value in once.items()}, self.sheet.scores(self.draws.sums(table))

    def _tried(self, predictions: Sequence[FloatArray]) -> tuple[dict[str, float], dict[str, FloatArray]]:
        """The mean over seeds of `_scores`."""
        each = [self._scores(predicted) for predicted in predictions]
        names = each[0][0]
        mean = {name: float(np.mean([found[name] for found, _ in each])) for name in names}
        return mean, {name: np.mean([rounds[name] for _, rounds in each], axis=0) for name in names}

    def _over_seeds(self) -> dict[str, Any]:
        each = [self._scores(predicted)[0] for predicted in self.predictions]
        together = self._scores(self.mean)[0]
        headline = self.sheet.headline
        return {
            "seeds": [{name: found[name] for name in headline} for found in each],
            "spread": {name: float(np.std([found[name] for found in each], ddof=1)) for name in headline},
            "ensemble": {name: together[name] for name in headline},
        }

    # --- classes -----------------------------------------------------------------------------------------------------

    def _sums(self, predicted: FloatArray) -> FloatArray:
        sums: FloatArray = self.sheet.table(self.target, predicted).sum(axis=0)
        return sums

    def _counts(self) -> NDArray[np.int64]:
        assert isinstance(self.sheet, LabelSheet)  # noqa: S101 (for the type checker: dimensions have no classes)
        return self.sheet.confusion(self._sums(self.mean[self.rows]))

    def _classes(self, found: Mapping[str, float], rounds: Mapping[str, FloatArray]) -> dict[str, Any]:
        names, counts = list(self.problem.names), self._counts()
        oracle = {
            name: {"value": found[name], "interval": interval(rounds[name])} for name in found if name.startswith("top")
        }
        return {
            "classes": names,
            "per_class": metrics.per_class(counts, names),
            "confusion": counts.tolist(),
            "oracle": oracle,
            "calibration": self._calibration(),
        }

    def _calibration(self) -> dict[str, Any]:
        """How sure against how right; again at a temperature that was fitted on other folds."""
        before = self.mean[self.rows]
        fold, everything = self.problem.folds.of, self.mean
        held = np.flatnonzero(fold >= 0)
        if (fold == TEST).any():
            fitted = {"train": fit_temperature(self.problem.target[held], everything[held])}
            after = tempered(before, fitted["train"])
        else:
            after, by_fold = cross_tempered(self.target, before, fold[self.rows])
            fitted = {self.problem.folds.names[number]: value for number, value in by_fold.items()}
        out: dict[str, Any] = {"ece": self._ece(before), "bins": self._bins(before)}
        if fitted:
            new = fit_temperature(self.problem.target[held], everything[held])
            out |= {"temperatures": fitted, "ece_tempered": self._ece(after), "temperature_for_new_clips": new}
        return out

    def _ece(self, predicted: FloatArray) -> dict[str, Any]:
        table = self.sheet.table(self.target, predicted)
        value = float(self.sheet.scores(table.sum(axis=0))["ece"])
        return {"value": value, "interval": interval(self.sheet.scores(self.draws.sums(table))["ece"])}

    def _bins(self, predicted: FloatArray) -> list[dict[str, float]]:
        assert isinstance(self.sheet, LabelSheet)  # noqa: S101 (for the type checker)
        bins = self.sheet.bins(self._sums(predicted))
        return [
            {"clips": int(clips), "confidence": float(sure / clips), "accuracy": float(right / clips)}
            for clips, sure, right in bins
            if clips
        ]

    # --- modalities --------------------------------------------------------------------------------------------------

    def _contributions(self, models: Models) -> dict[str, Any]:
        _, full = self.full
        out: dict[str, dict[str, Any]] = {}
        for modality, kinds in ablated(self.problem, models).items():
            out[modality] = {}
            for kind, predictions in kinds.items():
                found, rounds = self._tried(predictions)
                out[modality][kind] = {name: found[name] for name in self.sheet.headline}
                if kind == "without":
                    lost = {name: interval(full[name] - rounds[name]) for name in self.sheet.headline}
                    out[modality]["lost_interval"] = lost
        for modality, predictions in auxiliary(self.problem, models).items():
            found, _ = self._tried(predictions)
            out.setdefault(modality, {})["auxiliary"] = {name: found[name] for name in self.sheet.headline}
        return out


def _layer_weights(problem: Problem, models: Models) -> dict[str, Any]:
    """What a head that weighs layers made of each feature: the mean over models, and its spread."""
    heads = [model.head for of_seed in models for model in of_seed]
    each = [head.layer_weights() for head in heads if hasattr(head, "layer_weights")]
    if not each or not each[0]:
        return {}
    out = {}
    for number in each[0]:
        block, weights = problem.matrix.blocks[number], np.asarray([of_head[number] for of_head in each])
        out[block.feature] = {
            "layers": list(block.layers),
            "mean": weights.mean(axis=0).tolist(),
            "spread": weights.std(axis=0).tolist(),
        }
    return out


def fold_numbers(of: NDArray[np.int64]) -> list[int | str | None]:
    """Folds for ``run.json``: a number, None for a clip that is only trained on, ``test`` for one that all score."""
    return [None if fold == NEVER else "test" if fold == TEST else int(fold) for fold in of]

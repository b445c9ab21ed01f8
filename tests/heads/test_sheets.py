"""Scores as sums over clips, their resamples, the temperature: against plain transcriptions and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, top_k_accuracy_score

from emocache.heads import metrics
from emocache.heads.bootstrap import Resample
from emocache.heads.calibration import cross_tempered, fit_temperature, tempered
from emocache.heads.sheets import BINS, DimensionSheet, LabelSheet

RNG = np.random.default_rng(5)
TRUE = RNG.integers(0, 5, 300)
TARGET = np.eye(5)[TRUE]
PROBABILITIES = RNG.dirichlet(np.ones(5), 300) * 0.6 + 0.4 * np.eye(5)[np.where(RNG.random(300) < 0.5, TRUE, 0)]


def test_oracle_scores_count_the_true_class_among_the_most_probable() -> None:
    sheet = LabelSheet(5)
    found = sheet.scores(sheet.table(TARGET, PROBABILITIES).sum(axis=0))
    for k in (2, 3):
        assert found[f"top{k}_accuracy"] == pytest.approx(top_k_accuracy_score(TRUE, PROBABILITIES, k=k))
        best = np.argsort(-PROBABILITIES, axis=1)[:, :k]
        guess = np.where((best == TRUE[:, None]).any(axis=1), TRUE, best[:, 0])
        assert found[f"top{k}_waf"] == pytest.approx(f1_score(TRUE, guess, average="weighted"))


def test_a_tie_goes_to_the_first_class_in_the_oracle_too() -> None:
    """A class that a fold never saw has probability 0, as others may: it is not among the best for that."""
    sheet = LabelSheet(4)
    found = sheet.scores(sheet.table(np.eye(4), np.tile([0.0, 1.0, 0.0, 0.0], (4, 1))).sum(axis=0))
    assert (found["accuracy"], found["top2_accuracy"], found["top3_accuracy"]) == (0.25, 0.5, 0.75)


def test_of_two_classes_there_is_no_oracle() -> None:
    assert LabelSheet(2).oracle == ()


def test_the_calibration_error_is_the_gap_of_each_bin_weighted_by_its_clips() -> None:
    sheet = LabelSheet(5)
    sure, right = PROBABILITIES.max(axis=1), PROBABILITIES.argmax(axis=1) == TRUE
    expected = 0.0
    for low in np.arange(BINS) / BINS:
        here = (sure >= low) & (sure < low + 1 / BINS)
        if here.any():
            expected += here.mean() * abs(sure[here].mean() - right[here].mean())
    found = sheet.scores(sheet.table(TARGET, PROBABILITIES).sum(axis=0))["ece"]
    assert found == pytest.approx(expected)


def test_a_certain_prediction_falls_into_the_last_bin() -> None:
    sheet = LabelSheet(3)
    bins = sheet.bins(sheet.table(np.eye(3), np.eye(3)).sum(axis=0))
    assert bins[-1].tolist() == [3, 3, 3]


def test_resampled_scores_are_those_of_the_clips_that_were_drawn() -> None:
    speakers = RNG.integers(0, 7, 300)
    for groups in (None, speakers):
        draws = Resample(groups, 300, seed=2, rounds=5)
        sheet = LabelSheet(5)
        together = sheet.scores(draws.sums(sheet.table(TARGET, PROBABILITIES)))
        for number, times in enumerate(draws.times):
            rows = np.repeat(np.arange(300), times[draws.group])
            guess = PROBABILITIES.argmax(axis=1)
            one = metrics.scores(metrics.confusion(TRUE[rows], guess[rows], 5))
            assert together["waf"][number] == pytest.approx(one["waf"])


def test_a_perfect_prediction_of_dimensions_has_ccc_one_and_a_constant_one_zero() -> None:
    sheet = DimensionSheet(("valence", "arousal"))
    target = RNG.normal(4, 1, (50, 2))
    perfect = sheet.scores(sheet.table(target, target).sum(axis=0))
    assert (perfect["ccc"], perfect["pearson_arousal"], perfect["rmse_valence"]) == pytest.approx((1, 1, 0))
    constant = sheet.scores(sheet.table(target, np.full_like(target, 4.0)).sum(axis=0))
    assert constant["ccc"] == pytest.approx(0, abs=1e-9)


def test_a_shift_costs_ccc_but_not_correlation() -> None:
    sheet = DimensionSheet(("valence",))
    target = RNG.normal(0, 1, (50, 1))
    found = sheet.scores(sheet.table(target, target + 1).sum(axis=0))
    assert found["pearson_valence"] == pytest.approx(1)
    assert found["ccc_valence"] == pytest.approx(2 * target.var() / (2 * target.var() + 1))


def test_a_temperature_above_one_makes_less_sure() -> None:
    """The root of .8 and .2 is as 2 to 1, the square as 16 to 1."""
    p = np.array([[0.8, 0.2]])
    np.testing.assert_allclose(tempered(p, 2), [[2 / 3, 1 / 3]])
    np.testing.assert_allclose(tempered(p, 0.5), [[16 / 17, 1 / 17]])
    np.testing.assert_allclose(tempered(p, 1), p)


def test_the_temperature_that_made_probabilities_too_sure_or_not_sure_enough_is_found() -> None:
    logits = RNG.normal(0, 1.5, (4000, 4))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = np.eye(4)[(RNG.random(4000)[:, None] > honest.cumsum(axis=1)).sum(axis=1)]
    assert fit_temperature(true, tempered(honest, 1 / 3)) == pytest.approx(3, rel=0.1)
    assert fit_temperature(true, tempered(honest, 3)) == pytest.approx(1 / 3, rel=0.1)
    assert fit_temperature(true, honest) == pytest.approx(1, rel=0.1)
    np.testing.assert_allclose(tempered(tempered(honest, 1 / 3), 3), honest)


def test_a_probability_of_zero_stays_zero_at_any_temperature() -> None:
    found = tempered(np.array([[0.0, 0.2, 0.8]]), 5)
    assert found[0, 0] == 0
    assert found.sum() == pytest.approx(1)


def test_each_fold_is_tempered_by_the_others_alone() -> None:
    fold = np.arange(300) % 3
    _, fitted = cross_tempered(TARGET, PROBABILITIES, fold)
    shuffled = np.where((fold == 1)[:, None], TARGET[::-1], TARGET)
    after, again = cross_tempered(shuffled, PROBABILITIES, fold)
    assert again[1] == fitted[1]
    assert again[0] != fitted[0]
    np.testing.assert_allclose(after[fold == 1], tempered(PROBABILITIES[fold == 1], fitted[1]))


def test_of_one_fold_no_temperature_is_known() -> None:
    after, fitted = cross_tempered(TARGET, PROBABILITIES, np.zeros(300, dtype=np.int64))
    assert after is PROBABILITIES
    assert fitted == {}

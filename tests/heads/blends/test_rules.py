"""The rules of blends: hand-worked cases for each, and agreement with a slow transcription of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from emocache.heads.blends.rules import Keys, decide, presence_accuracy, salience_accuracy
from emocache.heads.blends.thresholds import GRID, find_thresholds, surface
from emocache.heads.blends.truth import EMOTIONS, NEUTRAL
from tests.heads.blends import transcription

ALLOWED = [(100,), (50, 50), (70, 30), (30, 70)]


def as_dict(row: NDArray[np.int64]) -> dict[str, int]:
    return {EMOTIONS[i]: int(row[i]) for i in np.flatnonzero(row)}


def random_truth(rng: np.random.Generator, clips: int) -> NDArray[np.int64]:
    """Singles, neutrals and blends as the challenge has them."""
    out = np.zeros((clips, 6), dtype=np.int64)
    for row in out:
        shares = ALLOWED[rng.integers(len(ALLOWED))]
        row[rng.choice(6 if len(shares) == 1 else NEUTRAL, len(shares), replace=False)] = shares
    return out


def random_p(rng: np.random.Generator, clips: int, *, ties: bool = False) -> NDArray[np.float64]:
    """Probabilities; with `ties`, multiples of 1/20, on which values equal each other and the thresholds often."""
    p = rng.dirichlet(np.full(6, 0.5), clips)
    return rng.multinomial(20, p) / 20 if ties else p


# --- post-processing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "alpha", "beta", "expected"),
    [
        # rule 1: the two largest, not renormalised: .3 stays .3 and is below an alpha of .35
        ([0.4, 0.3, 0.1, 0.1, 0.1, 0.0], 0.35, 0.5, {"ang": 100}),
        # rule 1: a tie for the second place goes to the lower index
        ([0.1, 0.25, 0.4, 0.25, 0.0, 0.0], 0.1, 0.0, {"disg": 30, "fea": 70}),
        # rule 1: a tie of all goes to the two lowest, and they are equal
        ([1 / 6] * 6, 0.1, 0.0, {"ang": 50, "disg": 50}),
        # rule 2: nothing reaches alpha: the largest alone
        ([0.2, 0.3, 0.2, 0.1, 0.1, 0.1], 0.5, 0.5, {"disg": 100}),
        # rule 2: of equal largest ones the first
        ([0.3, 0.3, 0.2, 0.1, 0.1, 0.0], 0.5, 0.5, {"ang": 100}),
        # rule 3: below alpha goes, at alpha stays
        ([0.6, 0.2, 0.1, 0.1, 0.0, 0.0], 0.2, 0.1, {"ang": 70, "disg": 30}),
        ([0.6, 0.2, 0.1, 0.1, 0.0, 0.0], np.nextafter(0.2, 1), 0.1, {"ang": 100}),
        # rule 4: with neutral never a blend: the larger of the two, the other one in a tie
        ([0.2, 0.0, 0.0, 0.3, 0.0, 0.5], 0.1, 1.0, {"neu": 100}),
        ([0.0, 0.0, 0.0, 0.5, 0.0, 0.3], 0.1, 1.0, {"hap": 100}),
        ([0.0, 0.0, 0.0, 0.4, 0.0, 0.4], 0.1, 1.0, {"hap": 100}),
        # rule 4 does not reach neutral below alpha
        ([0.0, 0.0, 0.0, 0.3, 0.0, 0.6], 0.4, 1.0, {"neu": 100}),
        # rule 5: at beta still equal, above it 70 and 30
        ([0.5, 0.25, 0.25, 0.0, 0.0, 0.0], 0.1, 0.25, {"ang": 50, "disg": 50}),
        ([0.5, 0.25, 0.25, 0.0, 0.0, 0.0], 0.1, np.nextafter(0.25, 0), {"ang": 70, "disg": 30}),
        ([0.25, 0.5, 0.25, 0.0, 0.0, 0.0], 0.1, 0.1, {"ang": 30, "disg": 70}),
        # the float edge: .4 - .3 is .10000000000000003, and that is above a beta of .1
        ([0.4, 0.3, 0.1, 0.1, 0.1, 0.0], 0.1, 0.1, {"ang": 70, "disg": 30}),
        ([0.4, 0.3, 0.1, 0.1, 0.1, 0.0], 0.1, 0.4 - 0.3, {"ang": 50, "disg": 50}),
    ],
)
def test_a_worked_case_is_decided_as_the_rules_say(
    p: list[float], alpha: float, beta: float, expected: dict[str, int]
) -> None:
    assert as_dict(decide(np.array([p]), alpha, beta)[0]) == expected
    assert transcription.post_process(p, alpha, beta) == expected


def test_ten_thousand_random_predictions_agree_with_the_transcription() -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        p, true = random_p(rng, 250, ties=number % 2 == 1), random_truth(rng, 250)
        alpha, beta = (rng.choice(GRID), rng.choice(GRID)) if number % 3 else (rng.integers(21) / 20, 0.15)
        said = decide(p, alpha, beta)
        slow = [transcription.post_process(row, alpha, beta) for row in p.tolist()]
        assert [as_dict(row) for row in said] == slow
        is_so = [as_dict(row) for row in true]
        assert presence_accuracy(said, true) == transcription.acc_presence(slow, is_so)
        assert salience_accuracy(said, true) == transcription.acc_salience(slow, is_so)
        hits = Keys.of(true).hits(p, np.arange(250), alpha, beta).sum(axis=1)
        both = (presence_accuracy(said, true) + salience_accuracy(said, true)) / 2
        assert Keys.of(true).score(hits) == pytest.approx(both, abs=1e-12)


def test_hits_are_counted_as_decisions_are_at_the_very_thresholds() -> None:
    """Multiples of 1/16 have no rounding: second probabilities equal alpha, and gaps beta, exactly and often."""
    rng = np.random.default_rng(1)
    p, true = rng.multinomial(16, np.full(6, 1 / 6), 400) / 16, random_truth(rng, 400)
    true[:200] = decide(p[:200], 3 / 16, 1 / 16)
    for alpha in (2 / 16, 3 / 16, 4 / 16):
        for beta in (0, 1 / 16, 2 / 16):
            said = decide(p, alpha, beta)
            present, salient = Keys.of(true).hits(p, np.arange(400), alpha, beta)
            blends = (true > 0).sum(axis=1) == 2
            np.testing.assert_array_equal(present, ((said > 0) == (true > 0)).all(axis=1))
            np.testing.assert_array_equal(salient, blends & (said == true).all(axis=1))


# --- accuracies ------------------------------------------------------------------------------------------------------


def rows(*blends: dict[str, float]) -> NDArray[np.float64]:
    return np.array([[blend.get(name, 0) for name in EMOTIONS] for blend in blends])


def test_presence_asks_for_the_very_set_of_emotions() -> None:
    true = rows({"ang": 100}, {"ang": 100}, {"ang": 70, "sad": 30}, {"ang": 70, "sad": 30}, {"neu": 100})
    said = rows({"ang": 100}, {"ang": 50, "sad": 50}, {"ang": 30, "sad": 70}, {"ang": 100}, {"sad": 100})
    assert presence_accuracy(said, true.astype(np.int64)) == pytest.approx(2 / 5)


def test_salience_asks_only_blends_for_both_shares() -> None:
    true = rows(
        {"ang": 100}, {"ang": 70, "sad": 30}, {"ang": 50, "sad": 50}, {"ang": 50, "sad": 50}, {"hap": 70, "sad": 30}
    )
    said = rows({"ang": 100}, {"ang": 70, "sad": 30}, {"ang": 70, "sad": 30}, {"ang": 50, "fea": 50}, {"hap": 100})
    assert salience_accuracy(said, true.astype(np.int64)) == pytest.approx(1 / 4)


def test_saliences_are_rounded_before_they_are_compared() -> None:
    true = rows({"ang": 70, "sad": 30}).astype(np.int64)
    assert salience_accuracy(rows({"ang": 70.4, "sad": 29.6}), true) == 1
    assert salience_accuracy(rows({"ang": 70.6, "sad": 29.4}), true) == 0


def test_without_a_blend_the_salience_accuracy_is_zero() -> None:
    single = rows({"ang": 100}, {"neu": 100})
    assert salience_accuracy(single, single.astype(np.int64)) == 0.0


# --- thresholds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_the_grid_search_is_the_challenges(ties: bool) -> None:
    """Each of the 400 pairs, clip by clip; ties to the smallest alpha, then beta."""
    rng = np.random.default_rng(3)
    p, true = random_p(rng, 60, ties=ties), random_truth(rng, 60)
    best = (-1.0, 0.0, 0.0)
    for alpha in GRID:
        for beta in GRID:
            said = decide(p, alpha, beta)
            score = (presence_accuracy(said, true) + salience_accuracy(said, true)) / 2
            if score > best[0] + 1e-12:
                best = (score, alpha, beta)
    found = find_thresholds(p, true, "grid")
    assert (found.score, found.alpha, found.beta) == pytest.approx(best)
    assert surface(p, true, GRID, GRID).max() == pytest.approx(best[0])


@pytest.mark.parametrize("ties", [False, True])
def test_the_exact_search_finds_the_best_of_all_thresholds(ties: bool) -> None:
    """Against every pair of a value at, below, between and above all that the clips have."""
    rng = np.random.default_rng(4)
    for clips in (1, 2, 5, 12, 25):
        for _ in range(6):
            p, true = random_p(rng, clips, ties=ties), random_truth(rng, clips)
            second, gap = np.sort(p, axis=1)[:, -2], np.sort(p, axis=1)[:, -1] - np.sort(p, axis=1)[:, -2]
            alphas, betas = (
                np.unique([0, 1, *v, *np.nextafter(v, 2), *(v[:, None] + v).ravel() / 2]) for v in (second, gap)
            )
            best = surface(p, true, alphas, betas).max()
            found = find_thresholds(p, true, "exact")
            assert found.score == pytest.approx(best, abs=1e-12)
            assert 0 <= found.alpha <= 1
            assert 0 <= found.beta <= 1
            assert found.score >= find_thresholds(p, true, "grid").score - 1e-12


def test_the_surface_is_what_the_decisions_reach() -> None:
    rng = np.random.default_rng(5)
    p, true = random_p(rng, 80, ties=True), random_truth(rng, 80)
    alphas, betas = np.array([0.0, 0.1, 0.25, 0.6]), np.array([0.0, 0.05, 0.3])
    for a, row in zip(alphas, surface(p, true, alphas, betas), strict=True):
        for b, score in zip(betas, row, strict=True):
            said = decide(p, a, b)
            assert score == pytest.approx((presence_accuracy(said, true) + salience_accuracy(said, true)) / 2)

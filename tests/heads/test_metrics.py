from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, precision_recall_fscore_support

from emocache.heads import metrics
from emocache.heads.bootstrap import interval

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(PAIRS)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")  # scikit-learn says so, and so it is meant
@pytest.mark.filterwarnings("ignore:A single label was found")  # the same
def test_scores_equal_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    true, predicted = np.asarray(pairs).T
    ours = metrics.scores(metrics.confusion(true, predicted, 4))
    assert ours["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert ours["waf"] == pytest.approx(f1_score(true, predicted, average="weighted", zero_division=0))
    assert ours["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0))
    assert ours["uar"] == pytest.approx(balanced_accuracy_score(true, predicted))


@given(PAIRS)
def test_per_class_scores_equal_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    true, predicted = np.asarray(pairs).T
    ours = metrics.per_class(metrics.confusion(true, predicted, 4), list("abcd"))
    theirs = precision_recall_fscore_support(true, predicted, labels=range(4), zero_division=0)
    for i, name in enumerate("abcd"):
        assert list(ours[name].values()) == pytest.approx([column[i] for column in theirs])


def test_many_matrices_are_scored_as_one_by_one() -> None:
    stack = np.random.default_rng(0).integers(0, 9, (6, 3, 3))
    together = metrics.scores(stack)
    for i, counts in enumerate(stack):
        assert {name: values[i] for name, values in together.items()} == pytest.approx(metrics.scores(counts))


def test_chance_is_one_over_the_classes_that_occur_and_the_largest_class() -> None:
    counts = np.array([[3, 0, 0], [1, 0, 0], [0, 0, 0]])
    assert metrics.chance(counts) == {"uar": 0.5, "majority_accuracy": 0.75}


def test_an_interval_holds_the_middle_95_percent_of_the_rounds() -> None:
    assert interval(np.arange(1001.0)) == pytest.approx([25, 975])


def test_an_interval_over_clips_agrees_with_drawing_clips_one_by_one() -> None:
    rng = np.random.default_rng(3)
    true = rng.integers(0, 3, 200)
    predicted = np.where(rng.random(200) < 0.7, true, rng.integers(0, 3, 200))
    low, high = metrics.intervals(true, predicted, 3, None, seed=0, rounds=4000)["accuracy"]
    drawn = (true == predicted)[rng.integers(0, 200, (4000, 200))].mean(axis=1)
    assert [low, high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=0.012)


def test_resampling_speakers_widens_the_interval_where_speakers_differ() -> None:
    """Two of four speakers are always right, two always wrong: clips hide it, speakers do not."""
    true = np.tile([0, 1], 100)
    speakers = np.repeat(list("abcd"), 50)
    predicted = np.where(np.isin(speakers, ["a", "b"]), true, 1 - true)
    over_clips = metrics.intervals(true, predicted, 2, None, seed=0)["uar"]
    over_speakers = metrics.intervals(true, predicted, 2, speakers, seed=0)["uar"]
    assert over_clips[1] - over_clips[0] < 0.2
    assert over_speakers[1] - over_speakers[0] > 0.7


def test_intervals_are_the_same_for_the_same_seed() -> None:
    true, predicted = np.array([0, 1, 1, 0, 1, 0]), np.array([0, 1, 0, 0, 1, 1])
    first, again, other = (metrics.intervals(true, predicted, 2, None, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other

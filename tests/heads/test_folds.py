from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from emocache.errors import BadOption, FitError
from emocache.heads.folds import Folds, make_folds

NOTHING: dict[str, Sequence[str | None]] = {"fold": [], "split": []}


def divided(
    rule: str | None, labels: Sequence[int], speakers: Sequence[str | None] | None = None, *, seed: int = 0
) -> Folds:
    return make_folds(rule, np.asarray(labels), speakers or [None] * len(labels), NOTHING, seed=seed)


def of_column(column: str, values: Sequence[str | None]) -> Folds:
    columns: dict[str, Sequence[str | None]] = {"fold": [None] * len(values), "split": [None] * len(values)}
    return make_folds("given", np.zeros(len(values), np.int64), [], {**columns, column: values}, seed=0)


@given(st.lists(st.integers(0, 3), min_size=12, max_size=60), st.integers(2, 6), st.integers(0, 5))
def test_stratified_folds_differ_by_at_most_one_clip_in_size_and_in_each_class(
    labels: list[int], count: int, seed: int
) -> None:
    folds = divided(str(count), labels, seed=seed)
    for held in [folds.of, *(folds.of[np.asarray(labels) == label] for label in set(labels))]:
        sizes = np.bincount(held, minlength=count)
        assert sizes.max() - sizes.min() <= 1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7)), min_size=8, max_size=80), st.integers(0, 5))
def test_no_speaker_stands_on_both_sides_and_no_fold_is_empty(clips: list[tuple[int, int]], seed: int) -> None:
    labels, speakers = [label for label, _ in clips], [f"s{speaker}" for _, speaker in clips]
    count = len(set(speakers))
    if count < 2:
        return
    folds = divided(f"speaker:{min(count, 3)}", labels, speakers, seed=seed)
    for train, scored in folds.parts():
        assert len(scored) > 0
        assert not {speakers[row] for row in train} & {speakers[row] for row in scored}
    assert (folds.of >= 0).all()


def test_speaker_folds_keep_the_classes_spread_evenly() -> None:
    """Four speakers of whom two only shout and two only whisper: each fold gets one of either kind."""
    labels = [0] * 5 + [0] * 5 + [1] * 5 + [1] * 5
    speakers = [name for name in "abcd" for _ in range(5)]
    for _, scored in divided("speaker:2", labels, speakers).parts():
        assert sorted(np.asarray(labels)[scored]) == [0] * 5 + [1] * 5


def test_leave_one_speaker_out_names_each_fold_by_its_speaker() -> None:
    folds = divided("loso", [0, 1, 0, 1], ["b", "a", "b", "a"])
    assert folds.names == ("a", "b")
    assert folds.of.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("rule", ["5", "speaker", "speaker:3"])
def test_the_same_seed_gives_the_same_folds_and_another_seed_others(rule: str) -> None:
    labels, speakers = [row % 3 for row in range(60)], [f"s{row % 10}" for row in range(60)]

    def folds_by(seed: int) -> NDArray[np.int64]:
        return divided(rule, labels, speakers, seed=seed).of

    assert (folds_by(1) == folds_by(1)).all()
    assert any((folds_by(seed) != folds_by(0)).any() for seed in range(1, 5))


def test_without_a_rule_speakers_are_kept_apart_where_there_are_two_or_more() -> None:
    labels = [0, 1] * 6
    assert divided(None, labels, list("aabbccddeeff")).rule == "speaker:5"
    assert divided(None, labels, list("aaaabbbbcccc")).rule == "speaker:3"
    assert divided(None, labels, ["a"] * 12).rule == "5"
    assert divided(None, labels).rule == "5"


def test_a_given_fold_column_is_obeyed() -> None:
    folds = of_column("fold", ["2", "0", "2", "1"])
    assert folds.names == ("0", "1", "2")
    assert folds.of.tolist() == [2, 0, 2, 1]


def test_a_given_split_scores_the_test_part_only_and_trains_on_train_and_val() -> None:
    folds = of_column("split", ["train", "val", "Test", "train"])
    ((train, scored),) = folds.parts()
    assert (train.tolist(), scored.tolist()) == ([0, 1, 3], [2])
    assert "val part trains too" in folds.notes[0]


@pytest.mark.parametrize("rule", ["2", "given", "given:2", "speaker:2", "loso"])
def test_speakers_on_both_sides_are_those_whom_a_fold_trains_on_and_scores(rule: str) -> None:
    speakers = ["a", "a", "b", "b", "c", "c", None, "d", "d", "d"]
    split = ["train", "train", "train", "test", "test", "test", "train", "train", "train", "train"]
    if rule in ("speaker:2", "loso"):
        speakers[6] = "e"
    given = {"fold": [None] * 10, "split": split}
    folds = make_folds(rule, np.arange(10) % 2, speakers, given, seed=0)
    both = set()
    for train, scored in folds.parts():
        both |= {speakers[row] for row in train} & {speakers[row] for row in scored} - {None}
    assert folds.on_both_sides(speakers) == sorted(both)
    assert bool(both) == (rule not in ("speaker:2", "loso"))


@pytest.mark.parametrize("rule", ["five", "speaker:", "-3", "loso:2", ""])
def test_a_rule_that_cannot_be_read_is_answered_with_the_ones_that_can(rule: str) -> None:
    with pytest.raises(BadOption, match="is not known; write speaker, speaker:K, loso"):
        divided(rule, [0, 1, 0, 1], list("abab"))


@pytest.mark.parametrize("rule", ["1", "speaker:1", "0"])
def test_one_fold_is_refused(rule: str) -> None:
    with pytest.raises(BadOption, match="at least 2 folds are needed"):
        divided(rule, [0, 1, 0, 1], list("abab"))


def test_fewer_speakers_than_folds_is_refused_by_number_and_name() -> None:
    with pytest.raises(FitError, match=r"fewer speakers than folds: 2 \(a, b\) for 5; choose --folds speaker:2"):
        divided("speaker", [0, 1, 0, 1], list("aabb"))
    with pytest.raises(FitError, match=r"all clips are of one speaker \(a\); choose --folds 5"):
        divided("speaker:2", [0, 1], ["a", "a"])
    with pytest.raises(FitError, match=r"one speaker \(a\), who cannot be left out"):
        divided("loso", [0, 1], ["a", "a"])


def test_fewer_clips_than_folds_is_refused() -> None:
    with pytest.raises(FitError, match="there are only 3 clips; choose --folds 3 or fewer"):
        divided("9", [0, 1, 0])


@pytest.mark.parametrize("rule", ["speaker:2", "loso", None])
def test_a_clip_without_a_speaker_is_refused_where_speakers_matter(rule: str | None) -> None:
    with pytest.raises(FitError, match="1 of 4 clips have no speaker; fill the manifest's column 'speaker'"):
        divided(rule, [0, 1, 0, 1], ["a", "b", "a", None])


def test_given_without_a_fold_or_split_column_says_what_to_add() -> None:
    with pytest.raises(FitError, match="neither a column 'fold' nor a column 'split'; add one to the manifest"):
        of_column("fold", [None, None])


def test_given_with_holes_or_strange_values_says_which() -> None:
    with pytest.raises(FitError, match="1 of 3 clips have no value in the column 'fold'"):
        of_column("fold", ["0", None, "1"])
    with pytest.raises(FitError, match="column 'fold' has one value only"):
        of_column("fold", ["0", "0"])
    with pytest.raises(FitError, match="the column 'split' holds holdout; expected train, test"):
        of_column("split", ["train", "holdout"])
    with pytest.raises(FitError, match="holds only train; both a train and a test part are needed"):
        of_column("split", ["train", "train"])

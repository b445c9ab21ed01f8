"""Nothing that is fitted sees the fold that is scored: neither its labels nor its clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import emocache
from emocache.heads.blends.truth import EMOTIONS
from emocache.heads.fit import fit_head
from emocache.heads.registry import head_names
from tests.heads.blends.test_blend import name_of, noisy_runs
from tests.heads.conftest import Corpus, Given
from tests.heads.fusion.runs_made import make_run
from tests.heads.test_heads import SMALL

MakeStore = Callable[..., Path]
CLASSES = ("anger", "fear", "joy")
PROBABILITIES = [f"p_{name}" for name in CLASSES]
FIRST = "s0 s1 s2"


def given_folds(corpus: Corpus, labels: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """The corpus with other labels, its speakers in two given folds, a and b."""
    return [
        (clip, {**row, "label": str(label), "fold": "a" if row["speaker"] in FIRST else "b"})
        for (clip, row), label in zip(corpus.rows(), labels, strict=True)
    ]


def labels_of(corpus: Corpus) -> tuple[NDArray[np.str_], NDArray[np.str_], NDArray[np.int64]]:
    """The labels, the same with those of fold a shuffled, and the rows of fold a."""
    labels = np.asarray([row["label"] for row in corpus.columns])
    scored = np.flatnonzero([row["speaker"] in FIRST for row in corpus.columns])
    shuffled = labels.copy()
    shuffled[scored] = np.random.default_rng(0).permutation(labels[scored])
    return labels, shuffled, scored


# --- heads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", head_names())
def test_neither_labels_nor_features_of_the_scored_fold_touch_its_predictions(
    head: str, corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    """Labels of fold a are shuffled and half of its clips changed: the other half is told the same, to the last bit."""
    labels, shuffled, scored = labels_of(corpus)
    changed = corpus.signal.copy()
    changed[scored[1::2]] = 5 - 3 * corpus.signal[scored[1::2]]
    own = SMALL.get(head, {})
    quick = {**own, "epochs": 5} if "epochs" in own else own
    found: list[NDArray[np.float64]] = []
    for name, y, x in (("before", labels, corpus.signal), ("after", shuffled, changed)):
        store = make_store(given_folds(corpus, y), Given("tone", corpus.clips, x[:, None]), name=f"{name}.zarr")
        run = fit_head(store, head, folds="given", settings=quick, out=tmp_path / name, device="cpu")
        found.append(run.oof.set_index("clip_id")[PROBABILITIES].loc[corpus.clips].to_numpy())
    before, after = found
    np.testing.assert_array_equal(after[scored[::2]], before[scored[::2]])
    trained = np.setdiff1d(np.arange(len(labels)), scored)
    assert (after[trained] != before[trained]).any(), "fold b is scored by what fold a taught, which has changed"


@pytest.mark.parametrize("head", ["linear", "mlp", "amhf"])
def test_what_scored_clips_lack_does_not_touch_the_predictions_of_the_others(
    head: str, corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    """Every training clip has a picture; whether some scored clips have none decides nothing of the head."""
    _, _, scored = labels_of(corpus)
    rows = [(clip, {**row, "split": "test" if row["speaker"] in FIRST else "train"}) for clip, row in corpus.rows()]
    sound = Given("tone", corpus.clips, corpus.signal[:, None])
    quick = {**SMALL[head], "epochs": 3} if head in SMALL else {}
    found: list[NDArray[np.float64]] = []
    for name, absent in (("all", scored[:0]), ("fewer", scored[1::2])):
        seen = np.setdiff1d(np.arange(len(corpus.clips)), absent)
        sight = Given("look", [corpus.clips[row] for row in seen], corpus.signal[seen, None, ::-1], modality="video")
        store = make_store(rows, sound, sight, name=f"{name}.zarr")
        run = fit_head(store, head, folds="given", settings=quick, out=tmp_path / name, device="cpu")
        found.append(run.oof.set_index("clip_id")[PROBABILITIES].to_numpy())
    before, after = found
    np.testing.assert_array_equal(after[::2], before[::2])
    assert (after[1::2] != before[1::2]).any()


# --- what is made of runs --------------------------------------------------------------------------------------------


def two_truths(clips: int = 60) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Probabilities ``(run, clip, class)`` of three runs, folds, classes, and some that suit the last run in fold 1."""
    rng = np.random.default_rng(0)
    target, fold = rng.integers(0, 3, clips), np.arange(clips) % 3
    p = rng.dirichlet(np.ones(3), (3, clips)) * 0.7 + 0.3 * np.eye(3)[target]
    other = target.copy()
    other[fold == 1] = p[-1, fold == 1].argmax(axis=1)
    return p, fold, target, other


@pytest.mark.parametrize("combine", [emocache.fuse_runs, emocache.vote_runs])
def test_labels_of_a_fold_decide_neither_its_weights_nor_its_ranking(
    combine: Callable[..., Any], tmp_path: Path
) -> None:
    p, fold, *truths = two_truths()
    names = [f"c{i}" for i in range(len(fold))]
    tables: list[pd.DataFrame] = []
    for version, target in enumerate(truths):
        labels = [CLASSES[i] for i in target]
        paths = [
            make_run(tmp_path / str(version) / str(run), names, labels, fold.tolist(), own, CLASSES)
            for run, own in enumerate(p)
        ]
        tables.append(combine(paths, metric="accuracy", out=tmp_path / f"out{version}").oof)
    before, after = (table[PROBABILITIES].to_numpy() for table in tables)
    assert not tables[0]["label"].equals(tables[1]["label"])
    np.testing.assert_array_equal(after[fold == 1], before[fold == 1])
    assert (after[fold != 1] != before[fold != 1]).any(), "the other folds are combined by what fold 1 taught"


def test_blends_of_a_fold_decide_nothing_of_its_honest_answers(tmp_path: Path) -> None:
    """Weights, thresholds and regression for fold 1 come from folds 0 and 2; the truth of a clip is in its name."""
    p, true = noisy_runs(0, 2, 90)
    fold = np.arange(90) % 3
    other = true.copy()
    other[fold == 1] = np.random.default_rng(1).permutation(true[fold == 1])
    tables: list[pd.DataFrame] = []
    for version, truth in enumerate((true, other)):
        clips = [name_of(row, number) for number, row in enumerate(truth)]
        paths = [
            make_run(tmp_path / str(version) / name, clips, [None] * 90, fold.tolist(), own, EMOTIONS)
            for name, own in zip(("face", "voice"), p, strict=True)
        ]
        tables.append(emocache.blend_runs(paths, out=tmp_path / f"out{version}").oof)
    said = ["thresholds", "continuous", *(f"p_{name}" for name in EMOTIONS)]
    before, after = tables
    assert not before["true"].equals(after["true"])
    pd.testing.assert_frame_equal(after.loc[fold == 1, said], before.loc[fold == 1, said], check_exact=True)
    assert not after.loc[fold != 1, said].equals(before.loc[fold != 1, said])


# --- labels ----------------------------------------------------------------------------------------------------------


def test_a_label_has_no_say_in_the_classifiers_votes_on_its_own_fold(
    corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    labels, shuffled, scored = labels_of(corpus)
    votes: list[NDArray[np.object_]] = []
    for name, y in (("before", labels), ("after", shuffled)):
        features = Given("tone", corpus.clips, corpus.signal[:, None])
        store = make_store(given_folds(corpus, y), features, name=f"{name}.zarr")
        done = emocache.refine_labels(store, folds="given", out=tmp_path / f"{name}.csv", device="cpu")
        votes.append(done.table["votes"].to_numpy())
    before, after = votes
    np.testing.assert_array_equal(after[scored], before[scored])
    trained = np.setdiff1d(np.arange(len(labels)), scored)
    assert (after[trained] != before[trained]).any(), "fold b is voted on by what fold a taught"


def test_labels_and_features_of_held_out_speakers_change_nothing_that_is_mined(
    corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    """One round, which is mined by learners on the other speakers; only its score is taken on those held out."""
    views = corpus.signal[:, None] + np.random.default_rng(1).normal(0, 0.5, (4, 72, 1, 8)).astype(np.float32)
    known = [row["speaker"] not in ("s4", "s5") for row in corpus.columns]

    def first_votes(labels: NDArray[np.str_], x: NDArray[np.float32], name: str) -> pd.DataFrame:
        rows = [
            (clip, {**row, "label": str(label) if has else None})
            for (clip, row), label, has in zip(corpus.rows(), labels, known, strict=True)
        ]
        store = make_store(rows, *(Given(f"view{i}", corpus.clips, own) for i, own in enumerate(x)), name=name)
        groups = [f"view{i}" for i in range(4)]
        done = emocache.mine_labels(store, groups=groups, rounds=1, out=tmp_path / f"{name}.csv", device="cpu")
        assert done.rounds[1].mined > 0
        assert done.rounds[1].kept
        return done.table

    labels = np.asarray([row["label"] for row in corpus.columns])
    before = first_votes(labels, views, "before")
    held = np.flatnonzero(before["held_out"] == "yes")
    assert len(held) == 12
    other, x = labels.copy(), views.copy()
    other[held] = labels[held][::-1]
    x[:, held] = 3 * x[:, held, :, ::-1]
    after = first_votes(other, x, "after")
    assert after["held_out"].equals(before["held_out"])
    free = ~np.asarray(known)
    pd.testing.assert_frame_equal(after[free], before[free])

"""Fusing runs that `fit_head` left: which clips, which score, which folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import emocache
from emocache.errors import BadOption, FitError
from emocache.heads import metrics
from emocache.heads.fit import fit_head
from emocache.heads.fusion.fused import load_fusion, predict_fused
from tests.heads.conftest import Corpus, Given
from tests.heads.fusion.runs_made import make_run

MakeStore = Callable[..., Path]
CLASSES = ("anger", "fear", "joy")


@pytest.fixture
def two_runs(corpus: Corpus, make_store: MakeStore, tmp_path: Path) -> tuple[Path, list[Path]]:
    """A store of two features, each with half of the signal, and a run on each; the second lacks three clips."""
    low, high = corpus.signal[:, None, :3], corpus.signal[3:, None, 3:]
    store = make_store(corpus.rows(), Given("low", corpus.clips, low), Given("high", corpus.clips[3:], high))
    paths = [tmp_path / "low", tmp_path / "high"]
    for path in paths:
        fit_head(store, "linear", features=[path.name], folds="speaker:3", out=path)
    return store, paths


def random_runs(tmp_path: Path, count: int, clips: int = 60, folds: int = 3) -> list[Path]:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, clips)
    names, labels = [f"c{i}" for i in range(clips)], [CLASSES[i] for i in target]
    return [
        make_run(
            tmp_path / f"run{number}",
            names,
            labels,
            (np.arange(clips) % folds).tolist(),
            rng.dirichlet(np.ones(3), clips) * 0.7 + 0.3 * np.eye(3)[target],
            CLASSES,
        )
        for number in range(count)
    ]


def test_a_fusion_says_both_scores_and_the_honest_one_is_the_runs(
    two_runs: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    _, paths = two_runs
    fusion = emocache.fuse_runs(paths, metric="uar", out=tmp_path / "fused")
    told = fusion.metrics["fusion"]
    assert told["optimistic"] >= max(told["singles"].values())
    assert told["optimistic"] >= told["uniform"]
    assert fusion.metrics["metrics"]["uar"] == pytest.approx(told["honest"])
    assert sum(fusion.weights.values()) == pytest.approx(1)
    assert set(told["fold_weights"]["low"]) == {"mean", "std", "min", "max"}
    assert "honest 0." in fusion.summary()
    assert "## Weights" in (tmp_path / "fused/report.md").read_text()


def test_an_honest_probability_is_fused_by_weights_of_the_other_folds(tmp_path: Path) -> None:
    paths = random_runs(tmp_path, 3)
    fusion = emocache.fuse_runs(paths, metric="accuracy", out=tmp_path / "fused")
    columns = [f"p_{name}" for name in CLASSES]
    each = np.stack([pd.read_parquet(path / "oof.parquet")[columns].to_numpy() for path in paths])
    for fold in range(3):
        rows = np.flatnonzero(fusion.oof["fold"] == fold)
        own = np.array(fusion.record["fold_weights"][fold])
        np.testing.assert_allclose(
            fusion.oof.loc[rows, columns], np.tensordot(own, each[:, rows], axes=1), rtol=0, atol=1e-12
        )
    changed = pd.read_parquet(paths[0] / "oof.parquet")
    changed.loc[changed["fold"] == 1, columns] = 1 / 3
    changed.to_parquet(paths[0] / "oof.parquet", index=False)
    again = emocache.fuse_runs(paths, metric="accuracy", out=tmp_path / "again")
    assert again.record["fold_weights"][1] == fusion.record["fold_weights"][1]


def test_clips_that_a_run_lacks_are_left_out_by_name(two_runs: tuple[Path, list[Path]], tmp_path: Path) -> None:
    _, paths = two_runs
    fusion = emocache.fuse_runs(paths, out=tmp_path / "fused")
    assert len(fusion.oof) == 69
    assert fusion.record["left_out"] == {f"not scored by {paths[1]}": ["s0-anger-0", "s0-anger-1", "s0-anger-2"]}
    assert any("3 clips left out, not scored by" in note for note in fusion.metrics["protocol"]["notes"])


def test_a_fusion_reads_back_and_can_be_fused_again(two_runs: tuple[Path, list[Path]], tmp_path: Path) -> None:
    _, paths = two_runs
    fusion = emocache.fuse_runs(paths, out=tmp_path / "fused")
    read = load_fusion(tmp_path / "fused")
    assert (read.weights, read.metrics) == (fusion.weights, fusion.metrics)
    pd.testing.assert_frame_equal(read.oof, fusion.oof)
    assert len(emocache.fuse_runs([tmp_path / "fused", paths[0]], out=tmp_path / "twice").oof) == 69
    with pytest.raises(FitError, match=r"a run of one head, not a fusion; load_run reads it"):
        load_fusion(paths[0])


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = random_runs(tmp_path, 3)
    for name in ("a", "b"):
        emocache.fuse_runs(paths, out=tmp_path / name)
    for file in ("metrics.json", "run.json", "report.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_new_clips_are_fused_with_the_weights_and_a_lacking_run_leaves_its_to_the_others(
    two_runs: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    store, paths = two_runs
    fusion = emocache.fuse_runs(paths, out=tmp_path / "fused")
    table = predict_fused(fusion, store).set_index("clip_id")
    assert len(table) == 72
    low, high = (emocache.load_run(path) for path in paths)
    alone = low.predict_proba(low.load_matrix(store))
    np.testing.assert_allclose(table.filter(regex="^p_").to_numpy()[0], alone[0])
    assert table.loc["s0-anger-0", "1:p_joy"] != table.loc["s0-anger-0", "1:p_joy"]
    mixed = fusion.weights[str(paths[0])] * alone[3] + (
        fusion.weights[str(paths[1])] * high.predict_proba(high.load_matrix(store))[0]
    )
    np.testing.assert_allclose(table.filter(regex="^p_").to_numpy()[3], mixed)


def test_a_test_part_is_scored_beside_each_run_alone(corpus: Corpus, make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(
        corpus.rows(),
        Given("low", corpus.clips, corpus.signal[:, None, :3]),
        Given("high", corpus.clips, corpus.signal[:, None, 3:]),
    )
    lines = [f"{clip},{row['label']},{row['speaker']}" for clip, row in corpus.rows()]
    (tmp_path / "train.csv").write_text("\n".join(["clip_id,label,speaker", *lines[:48]]))
    (tmp_path / "test.csv").write_text("\n".join(["clip_id,label,speaker", *lines[48:]]))
    paths = [tmp_path / "low", tmp_path / "high"]
    for path in paths:
        fit_head(store, "linear", features=[path.name], clips=tmp_path / "train.csv", folds="loso", out=path)
    fusion = emocache.fuse_runs(paths, out=tmp_path / "fused", test=tmp_path / "test.csv", store=store)
    written = json.loads((tmp_path / "fused/test.json").read_text())
    assert written == fusion.test
    assert (written["clips"], set(written["singles"])) == (24, set(map(str, paths)))
    table = pd.read_parquet(tmp_path / "fused/test.parquet")
    predicted = table[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(axis=1)
    true = np.array([CLASSES.index(label) for label in table["label"]])
    assert written["metrics"]["uar"] == pytest.approx(metrics.scores(metrics.confusion(true, predicted, 3))["uar"])
    assert "test, 24 clips: UAR" in fusion.summary()
    with pytest.raises(FitError, match=r"48 of its clips are among those that the weights were fitted on"):
        emocache.fuse_runs(paths, out=tmp_path / "cheat", test=tmp_path / "train.csv", store=store)
    assert not (tmp_path / "cheat").exists()


def test_the_test_part_of_a_cross_fitted_split_is_scored_without_being_asked_for(
    corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    rows = [(clip, {**row, "split": "test" if row["speaker"] > "s3" else "train"}) for clip, row in corpus.rows()]
    store = make_store(
        rows,
        Given("low", corpus.clips, corpus.signal[:, None, :3]),
        Given("high", corpus.clips, corpus.signal[:, None, 3:]),
    )
    paths = [tmp_path / "low", tmp_path / "high"]
    for path in paths:
        fit_head(store, "linear", features=[path.name], folds="given:4", out=path)
    fusion = emocache.fuse_runs(paths, out=tmp_path / "fused")
    assert (len(fusion.oof), fusion.test["clips"] if fusion.test else 0) == (48, 24)
    table = pd.read_parquet(tmp_path / "fused/test.parquet").filter(regex="^p_").to_numpy()
    each = [pd.read_parquet(path / "oof.parquet").filter(regex="^p_").to_numpy() for path in paths]
    np.testing.assert_allclose(table, np.tensordot(list(fusion.weights.values()), each, axes=1))


def test_a_run_that_changed_since_is_not_asked(two_runs: tuple[Path, list[Path]], tmp_path: Path) -> None:
    store, paths = two_runs
    fusion = emocache.fuse_runs(paths, out=tmp_path / "fused")
    record = json.loads((paths[0] / "run.json").read_text())
    (paths[0] / "run.json").write_text(json.dumps({**record, "digest": "other"}))
    with pytest.raises(FitError, match=r"low: another run than the one that .*fused fused; fuse again"):
        predict_fused(fusion, store)


# --- what cannot be fused --------------------------------------------------------------------------------------------


def test_too_few_runs_and_one_run_twice_are_refused(tmp_path: Path) -> None:
    path = random_runs(tmp_path, 1)[0]
    with pytest.raises(BadOption, match=r"1 run\(s\) given; name at least 2 folders that emocache fit left"):
        emocache.fuse_runs([path])
    with pytest.raises(BadOption, match=r"run0 is named twice; name each run once"):
        emocache.fuse_runs([path, path.parent / "x/../run0"])


def test_no_run_and_a_damaged_one_are_told_apart(tmp_path: Path) -> None:
    first, second = random_runs(tmp_path, 2)
    with pytest.raises(FitError, match=r"nowhere: no run is here \(no run.json\); emocache fit makes one"):
        emocache.fuse_runs([first, tmp_path / "nowhere"])
    (second / "oof.parquet").write_bytes(b"nonsense")
    with pytest.raises(FitError, match=r"run1: the run is damaged: .*; fit it again"):
        emocache.fuse_runs([first, second])


def test_runs_of_other_labels_other_truths_or_other_clips_do_not_belong_together(tmp_path: Path) -> None:
    first = random_runs(tmp_path, 1, clips=6)[0]
    even = np.full((6, 3), 1 / 3)
    labels = pd.read_parquet(first / "oof.parquet")["label"].tolist()
    clips = [f"c{i}" for i in range(6)]
    other = make_run(tmp_path / "other", clips, ["awe"] * 6, [0, 1, 2] * 2, even, ("awe", "fear", "joy"))
    with pytest.raises(FitError, match=r"other knows the labels awe, fear, joy, .*run0 anger, fear, joy; fuse runs"):
        emocache.fuse_runs([first, other])
    wrong = ["joy" if labels[0] == "anger" else "anger", *labels[1:]]
    truth = make_run(tmp_path / "truth", clips, wrong, [0, 1, 2] * 2, even, CLASSES)
    with pytest.raises(FitError, match=r"c0 has the label '.*' in .*run0 and '.*' in .*truth; fit both on the same"):
        emocache.fuse_runs([first, truth])
    apart = make_run(tmp_path / "apart", [f"d{i}" for i in range(6)], labels, [0, 1, 2] * 2, even, CLASSES)
    with pytest.raises(FitError, match=r"no clip is scored by all of .*run0, .*apart; fuse runs that were fitted on"):
        emocache.fuse_runs([first, apart])


def test_clips_of_a_single_fold_can_be_divided_anew(corpus: Corpus, make_store: MakeStore, tmp_path: Path) -> None:
    rows = [(clip, {**row, "split": "test" if row["speaker"] > "s1" else "train"}) for clip, row in corpus.rows()]
    store = make_store(
        rows,
        Given("low", corpus.clips, corpus.signal[:, None, :3]),
        Given("high", corpus.clips, corpus.signal[:, None, 3:]),
    )
    paths = [tmp_path / "low", tmp_path / "high"]
    for path in paths:
        fit_head(store, "linear", features=[path.name], folds="given", out=path)
    fusion = emocache.fuse_runs(paths, folds="speaker:4", out=tmp_path / "fused")
    assert sorted(fusion.record["fold_names"]) == ["s2", "s3", "s4", "s5"]
    for fold, part in fusion.oof.groupby("fold"):
        assert set(part["speaker"]) == {fusion.record["fold_names"][int(str(fold))]}
    assert fusion.metrics["protocol"]["intervals"]["over"] == "4 speakers"


def test_a_single_fold_cannot_be_nested(tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"scored in the one fold '0': .*; fit the runs with --folds given:5"):
        emocache.fuse_runs(random_runs(tmp_path, 2, folds=1))

"""Blends from runs: the objective along lines, weights with thresholds, the folder, the submission."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import emocache
from emocache.errors import BadOption, FitError
from emocache.heads.blends.answers import as_text, submission
from emocache.heads.blends.continuous import SalienceModel
from emocache.heads.blends.objective import BlendScore, blend_scores, decide_with, fit_blend
from emocache.heads.blends.rules import Keys
from emocache.heads.blends.thresholds import Thresholds, find_thresholds
from emocache.heads.blends.truth import EMOTIONS, blends_of_names
from emocache.heads.fit import fit_head
from tests.heads.blends.test_rules import random_truth
from tests.heads.conftest import Given
from tests.heads.fusion.runs_made import make_run

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def noisy_runs(seed: int, runs: int, clips: int) -> tuple[FloatArray, IntArray]:
    """Probabilities ``(run, clip, emotion)`` that know something of the truth ``(clip, emotion)``."""
    rng = np.random.default_rng(seed)
    true = random_truth(rng, clips)
    scores = np.log(true / 100 + 0.1) * 0.6 + rng.normal(0, 0.6, (runs, clips, 6))
    return np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True), true


def name_of(row: IntArray, number: int) -> str:
    present = np.flatnonzero(row)
    if len(present) == 1:
        return f"A{number % 6}_{EMOTIONS[present[0]]}_sit1_ver{number}"
    a, b = present
    return f"A{number % 6}_mix_{EMOTIONS[a]}_{EMOTIONS[b]}_{row[a]}_{row[b]}_ver{number}"


@pytest.fixture
def two_runs(tmp_path: Path) -> list[Path]:
    """Two runs on 90 clips in 3 folds, whose classes stand in another order than the challenge's."""
    p, true = noisy_runs(0, 2, 90)
    clips = [name_of(row, number) for number, row in enumerate(true)]
    order = sorted(range(6), key=lambda i: EMOTIONS[i])
    classes = [EMOTIONS[i] for i in order]
    folds = (np.arange(90) % 3).tolist()
    return [
        make_run(tmp_path / name, clips, [None] * 90, folds, own[:, order], classes)
        for name, own in zip(("face", "voice"), p, strict=True)
    ]


# --- weights and thresholds ------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.floats(0, 0.4), beta=st.floats(0, 0.4))
def test_the_best_piece_of_a_line_is_the_best_of_a_very_fine_grid(seed: int, alpha: float, beta: float) -> None:
    p, true = noisy_runs(seed, 4, 25)
    objective = BlendScore(Keys.of(true), alpha, beta)
    at, score = objective.along(p[:2], p[2:])
    grid = np.linspace(0, 1, 1001)[1:-1, None, None]
    for line in range(2):
        low, high = p[line], p[2 + line]
        assert score[line] >= objective.score((1 - grid) * low + grid * high).max() - 1e-9
        there = (1 - at[line]) * low + at[line] * high
        assert objective.score(there[None])[0] == pytest.approx(score[line], abs=1e-12)
        said = decide_with(there, Thresholds(alpha, beta, 0, 0))
        assert blend_scores(said, true)["score"] == pytest.approx(score[line], abs=1e-12)


@pytest.mark.parametrize("runs", [2, 5])
def test_weights_and_thresholds_together_are_never_below_single_runs_or_equal_weights(runs: int) -> None:
    for seed in range(4):
        p, true = noisy_runs(seed, runs, 60)
        found = fit_blend(p, true, seed=seed)
        alone = max(find_thresholds(own, true).score for own in (*p, p.mean(axis=0)))
        assert found.thresholds.score >= alone - 1e-12
        said = decide_with(np.tensordot(found.weights, p, axes=1), found.thresholds)
        assert blend_scores(said, true)["score"] == pytest.approx(found.thresholds.score)


def test_the_regression_finds_the_shares_that_were_put_in() -> None:
    """Log-ratios that are a multiple of the share: 70/30 and 50/50 are told apart without any threshold."""
    rng = np.random.default_rng(0)
    true = random_truth(rng, 300)
    scores = np.log(true / 100 + 0.02) * 0.5 + rng.normal(0, 0.02, true.shape)
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    model = SalienceModel.fit(p[:150], true[:150])
    assert blend_scores(model.decide(p[150:]), true[150:])["score"] > 0.97
    two = (true > 0).sum(axis=1) == 2
    np.testing.assert_allclose(model.share(p[two]), true[two].max(axis=1) / 100, atol=0.05)


def test_the_regression_without_any_blend_still_answers() -> None:
    p, _ = noisy_runs(0, 1, 20)
    single = np.eye(6, dtype=np.int64)[p[0].argmax(axis=1)] * 100
    assert (SalienceModel.fit(p[0], single).decide(p[0]).sum(axis=1) == 100).all()


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_blend_run_tells_honest_and_optimistic_scores_and_each_folds_thresholds(
    two_runs: list[Path], tmp_path: Path
) -> None:
    run = emocache.blend_runs(two_runs, out=tmp_path / "blend")
    told = json.loads((tmp_path / "blend/metrics.json").read_text())
    assert told == run.metrics
    assert told["optimistic"]["score"] >= max(own["score"] for own in told["singles"].values())
    assert told["honest"]["thresholds"]["score"] <= told["optimistic"]["score"]
    assert len(told["folds"]) == 3
    for fold in told["folds"]:
        assert fold["own"]["score"] >= fold["from_other_folds"]["score"]
    alphas = [fold["own"]["alpha"] for fold in told["folds"]]
    assert told["spread"]["alpha"]["std"] == pytest.approx(np.std(alphas))
    assert "thresholds from the other folds" in run.summary()
    assert "stability.svg" in (tmp_path / "blend/report.md").read_text()


def test_an_honest_answer_comes_from_the_other_folds_thresholds(two_runs: list[Path], tmp_path: Path) -> None:
    run = emocache.blend_runs(two_runs, out=tmp_path / "blend")
    p = run.oof[[f"p_{name}" for name in EMOTIONS]].to_numpy()
    for number, fold in enumerate(run.metrics["folds"]):
        rows = (run.oof["fold"] == number).to_numpy()
        other = fold["from_other_folds"]
        said = decide_with(p[rows], Thresholds(other["alpha"], other["beta"], 0, 0))
        assert as_text(said) == run.oof.loc[rows, "thresholds"].tolist()


def test_the_recorded_weights_and_thresholds_reach_the_optimistic_score(two_runs: list[Path], tmp_path: Path) -> None:
    run = emocache.blend_runs(two_runs, out=tmp_path / "blend")
    columns = [f"p_{name}" for name in EMOTIONS]
    each = np.stack([pd.read_parquet(path / "oof.parquet")[columns].to_numpy() for path in two_runs])
    fused = np.tensordot([run.record["weights"][str(path)] for path in two_runs], each, axes=1)
    kept = run.record["thresholds"]
    said = decide_with(fused, Thresholds(kept["alpha"], kept["beta"], 0, 0))
    true = blends_of_names(run.oof["clip_id"].tolist()).salience
    assert blend_scores(said, true)["score"] == pytest.approx(run.metrics["optimistic"]["score"])
    assert (kept["alpha"], kept["beta"]) == (run.metrics["optimistic"]["alpha"], run.metrics["optimistic"]["beta"])


def test_the_stability_plot_has_a_curve_and_a_dot_for_each_fold_and_threshold(
    two_runs: list[Path], tmp_path: Path
) -> None:
    emocache.blend_runs(two_runs[:1], out=tmp_path / "blend")
    tree = ElementTree.parse(tmp_path / "blend/stability.svg")  # noqa: S314 (our own file)
    names = [element.tag.rpartition("}")[2] for element in tree.iter()]
    assert (names.count("polyline"), names.count("circle")) == (6, 6)


def test_a_table_takes_the_place_of_the_names_and_must_know_all_clips(two_runs: list[Path], tmp_path: Path) -> None:
    head = "filename,fold,mix,emotion_1,emotion_2,emotion_1_salience,emotion_2_salience\n"
    (tmp_path / "few.csv").write_text(head + "A102_ang_int1_ver1,0,0,ang,,,\n")
    with pytest.raises(FitError, match=r"few.csv: says nothing of A0_.* and 85 more; it knows A102_ang_int1_ver1"):
        emocache.blend_runs(two_runs, metadata=tmp_path / "few.csv", out=tmp_path / "blend")


def test_other_emotions_and_unknown_options_are_refused(two_runs: list[Path], tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", ["a", "b"], ["x", "y"], [0, 1], np.full((2, 2), 0.5), ["x", "y"])
    with pytest.raises(FitError, match=r"other knows x, y; blends need the six emotions ang, disg, fea, hap, sad, neu"):
        emocache.blend_runs([other])
    with pytest.raises(BadOption, match="--search 'fine' is not known; known: exact, grid"):
        emocache.blend_runs(two_runs, search="fine")
    with pytest.raises(BadOption, match="--salience 'none' is not known; known: thresholds, continuous"):
        emocache.blend_runs(two_runs, salience="none")


def test_from_soft_labels_to_a_submission(make_store: Callable[..., Path], tmp_path: Path) -> None:
    """The whole way: a soft-label head on given folds, its blends, and the answers for new clips in JSON."""
    rng = np.random.default_rng(0)
    true = random_truth(rng, 120)
    clips = [name_of(row, number) for number, row in enumerate(true)]
    rows = [
        (clip, {"fold": str(n % 3), **{f"soft_{name}": row[i] / 100 for i, name in enumerate(EMOTIONS)}})
        for n, (clip, row) in enumerate(zip(clips, true, strict=True))
    ]
    signal = (true / 50 + rng.normal(0, 0.3, true.shape)).astype(np.float32)
    new = [f"test_{number:04d}" for number in range(4)]
    store = make_store(
        [*rows, *((clip, {}) for clip in new)],
        Given("tone", [*clips, *new], np.concatenate([signal, signal[:4]])[:, None]),
    )
    table = "\n".join(",".join([clip, *map(str, row.values())]) for clip, row in rows)
    (tmp_path / "train.csv").write_text(",".join(["clip_id", *rows[0][1]]) + "\n" + table)
    (tmp_path / "test.csv").write_text("\n".join(["clip_id", *new]))
    quick = {"hidden": "64", "epochs": "60", "members": "1", "batch": "16", "lr": "0.01", "patience": "15"}
    settings_ = [f"{name}={value}" for name, value in quick.items()]
    fit_head(
        store,
        "mlp",
        task="soft",
        folds="given",
        clips=tmp_path / "train.csv",
        settings=settings_,
        out=tmp_path / "soft",
    )
    for salience in ("thresholds", "continuous"):
        run = emocache.blend_runs(
            [tmp_path / "soft"], salience=salience, store=store, test=tmp_path / "test.csv", out=tmp_path / salience
        )
        assert run.metrics["honest"][salience]["presence"] > 0.4
        written = json.loads((tmp_path / salience / "submission.json").read_text())["predictions"]
        assert set(written) == {f"{clip}.mov" for clip in new}
        assert all(sum(item["salience"] for item in items) == 100 for items in written.values())


def test_a_submission_has_the_challenges_form() -> None:
    answers = np.array([[0, 0, 0, 0, 100, 0], [30, 0, 70, 0, 0, 0]])
    written = json.loads(submission(["test_0001", "test_0002.mov"], answers, ".mov"))
    assert written == {
        "predictions": {
            "test_0001.mov": [{"emotion": "sad", "salience": 100.0}],
            "test_0002.mov": [{"emotion": "fea", "salience": 70.0}, {"emotion": "ang", "salience": 30.0}],
        }
    }

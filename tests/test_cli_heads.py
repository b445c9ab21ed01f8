"""The commands that make runs of runs, and labels: what they print, what they leave, how they end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from emocache.cli import app
from emocache.heads.blends.truth import EMOTIONS
from tests.heads.fusion.runs_made import make_run

METADATA = """filename,fold,mix,emotion_1,emotion_2,emotion_1_salience,emotion_2_salience
A102_ang_int1_ver1,0,0,ang,,,
A405_mix_ang_disg_70_30_ver1,1,1,ang,disg,70,30
"""


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exit_code, result.output


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs on 24 clips with BLEMORE's names."""
    rng = np.random.default_rng(0)
    target = np.arange(24) % 6
    clips = [f"A{n % 4}_{EMOTIONS[i]}_sit1_ver{n}" for n, i in enumerate(target)]
    labels, folds = [EMOTIONS[i] for i in target], (np.arange(24) // 8).tolist()
    return [
        make_run(
            tmp_path / name, clips, labels, folds, 0.5 * np.eye(6)[target] + rng.dirichlet(np.ones(6), 24) / 2, EMOTIONS
        )
        for name in ("face", "voice")
    ]


def test_fuse_prints_both_scores_and_leaves_a_run(runs: list[Path], tmp_path: Path) -> None:
    code, told = run("fuse", *runs, "--metric", "uar", "--folds", "4", "--out", tmp_path / "fused")
    assert (code, "honest" in told, "optimistic" in told, "voice" in told) == (0, True, True, True)
    assert json.loads((tmp_path / "fused/run.json").read_text())["recipe"]["fold_rule"] == "4"


def test_vote_prints_the_ranking(runs: list[Path], tmp_path: Path) -> None:
    code, told = run("vote", *runs, "--out", tmp_path / "vote")
    assert (code, "best first: " in told) == (0, True)


def test_blend_prints_scores_and_thresholds(runs: list[Path], tmp_path: Path) -> None:
    code, told = run("blend", *runs, "--search", "grid", "--out", tmp_path / "blend")
    assert code == 0
    assert all(word in told for word in ("presence", "salience", "alpha", "beta", "face"))


def test_blend_labels_writes_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "train_metadata.csv").write_text(METADATA)
    code, told = run("blend-labels", tmp_path / "train_metadata.csv", "--out", tmp_path / "clips.csv")
    assert (code, told.startswith("2 clips by 2 actors in 2 folds: ")) == (0, True)
    assert pd.read_csv(tmp_path / "clips.csv")["soft_ang"].tolist() == [1.0, 0.7]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fuse", "{run}"], 2, "name at least 2 folders that emocache fit left"),
        (["fuse", "{run}", "{run}"], 2, "is named twice"),
        (["vote", "{run}", "nowhere"], 1, "nowhere: no run is here"),
        (["blend", "{run}", "--search", "fine"], 2, "--search 'fine' is not known"),
        (["blend-labels", "none.csv", "--out", "x.csv"], 1, "none.csv: cannot be read as a table"),
        (["refine", "--store", "nowhere.zarr"], 1, "nowhere.zarr"),
        (["mine", "--store", "nowhere.zarr", "--group", "a"], 2, "the method has 4 learners"),
    ],
)
def test_an_error_is_told_with_its_exit_code(
    arguments: list[str], code: int, message: str, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended, told = run(*[argument.format(run=runs[0]) for argument in arguments])
    assert ended == code
    assert message in told
    assert "Traceback" not in told

"""Real features of real utterances, three modalities, a given split: what a plain linear model reaches is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import mosi as benchmark
from benchmarks.mosi import fill_store
from emocache.doors.exporting import export_features
from emocache.heads.fit import fit_head

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "mosi"


@pytest.fixture(scope="module")
def mosi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not DATA.is_dir():
        pytest.skip(f"needs CMU-MOSI's features in {DATA}")
    store = tmp_path_factory.mktemp("mosi") / "mosi.zarr"
    assert fill_store(DATA, store) == 2199
    return store


@pytest.mark.shared
def test_a_linear_head_reaches_what_linear_models_reach_on_mosi(mosi: Path, tmp_path: Path) -> None:
    run = fit_head(mosi, "linear", folds="given", out=tmp_path / "run")
    assert len(run.oof) == 752
    assert run.metrics["metrics"]["accuracy"] >= 0.755
    assert run.metrics["metrics"]["waf"] - run.metrics["contributions"]["text"]["without"]["waf"] > 0.1


@pytest.mark.shared
def test_filling_the_store_again_writes_nothing(mosi: Path) -> None:
    before = sorted(path.name for path in mosi.rglob("*"))
    assert fill_store(DATA, mosi) == 2199
    assert sorted(path.name for path in mosi.rglob("*")) == before


@pytest.mark.shared
@pytest.mark.parametrize("modality", ["audio", "video", "text"])
def test_what_goes_out_is_what_came_in(mosi: Path, tmp_path: Path, modality: str) -> None:
    export_features("npz", modality, tmp_path / "x.npz", store=mosi)
    with np.load(tmp_path / "x.npz") as back, np.load(DATA / f"{modality}.npz") as before:
        place = {name: row for row, name in enumerate(back["filenames"].tolist())}
        order = [place[name] for name in before["filenames"].tolist()]
        assert len(place) == 2199
        assert back["X"][order].tobytes() == before["X"].tobytes()
        assert back["X"].dtype == before["X"].dtype


def test_settings_are_chosen_by_log_loss_on_the_train_part_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = pd.DataFrame({"clip_id": list("abcd"), "label": "up", "speaker": "v", "split": ["train"] * 3 + ["test"]})
    clips.to_csv(tmp_path / "clips.csv", index=False)
    for modality in ("audio", "video", "text"):
        x = np.float32([[1, 7], [2, 7], [3, 7], [9, 7]])  # the test part of one clip does not spread at all
        np.savez(tmp_path / f"{modality}.npz", X=x, filenames=clips["clip_id"].to_numpy(dtype=str))
    asked: list[dict[str, Any]] = []

    def fitted(store: Path, head: str, **options: Any) -> SimpleNamespace:
        asked.append(options)
        assert pd.read_csv(options["clips"])["clip_id"].tolist() == ["a", "b", "c"]
        sure = 0.9 if options["settings"] == benchmark.GRID[2] else 0.6 + 0.1 * options["seed"]
        return SimpleNamespace(
            metrics={"metrics": {"accuracy": 1.0}}, oof=pd.DataFrame({"label": ["up"], "p_up": [sure]})
        )

    monkeypatch.setattr("emocache.fit_head", fitted, raising=False)
    assert benchmark.choose(tmp_path, tmp_path, tmp_path) == benchmark.GRID[2]
    assert len(asked) == benchmark.SEEDS * len(benchmark.GRID)
    assert {options["folds"] for options in asked} == {"speaker:3"}
    printed = capsys.readouterr().out
    assert "audio 0.00, video 0.00, text 0.00" in printed
    assert f"| {-np.log(0.9):.4f} |" in printed

"""`write_submission`: labels of new clips as the MER challenges take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import emocache
from emocache.errors import FitError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two features and runs of 40 clips; ``test.csv`` names four of them without labels, and one that is not there."""
    folder = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    names = [f"c{number:02}" for number in range(40)]
    labels = [["angry", "happy"][number % 2] for number in range(40)]
    rows = random.normal(size=(40, 3)) + np.array([[label == "happy"] for label in labels]) * 8
    table = [
        f"{name},{label},{float(label == 'happy') + number / 99}"
        for number, (name, label) in enumerate(zip(names, labels, strict=True))
    ]
    (folder / "clips.csv").write_text("\n".join(["clip_id,label,valence", *table]))
    (folder / "test.csv").write_text("clip_id\nc07\nc02\nnew\nc05\nc04\n")
    for modality in ("audio", "video"):
        np.savez(folder / f"{modality}.npz", X=rows.astype(np.float32), filenames=names)
        emocache.import_features(
            "npz", folder / f"{modality}.npz", modality=modality, clips=folder / "clips.csv", store=folder / "s.zarr"
        )
        emocache.fit_head(folder / "s.zarr", "linear", features=[modality], folds="2", out=folder / modality)
    return folder


EXPECTED = "name,discrete\nc07,happy\nc02,angry\nc05,happy\nc04,angry\n"


def test_each_clip_gets_its_most_probable_label_in_the_manifests_order(folder: Path) -> None:
    done = emocache.write_submission(folder / "audio", folder / "test.csv", folder / "a.csv", store=folder / "s.zarr")
    assert (folder / "a.csv").read_text() == EXPECTED
    assert str(done) == f"{folder / 'a.csv'}: 4 clips\n1 clip without a row, for the store has no features: new"


def test_a_fusion_is_submitted_alike(folder: Path) -> None:
    emocache.fuse_runs([folder / "audio", folder / "video"], out=folder / "fused")
    emocache.write_submission(folder / "fused", folder / "test.csv", folder / "f.csv", store=folder / "s.zarr")
    assert (folder / "f.csv").read_text() == EXPECTED


def test_values_are_no_labels_and_a_file_is_not_replaced(folder: Path) -> None:
    settings = {"epochs": 2, "members": 1}
    emocache.fit_head(
        folder / "s.zarr", "mlp", features=["audio"], task="dimensional", settings=settings, out=folder / "valence"
    )
    with pytest.raises(FitError, match="a run of task dimensional, which tells values; a submission needs one that"):
        emocache.write_submission(folder / "valence", folder / "test.csv", folder / "v.csv", store=folder / "s.zarr")
    (folder / "mine.csv").touch()
    with pytest.raises(FitError, match=r"mine\.csv: is there already; name another file with --out"):
        emocache.write_submission(folder / "audio", folder / "test.csv", folder / "mine.csv", store=folder / "s.zarr")

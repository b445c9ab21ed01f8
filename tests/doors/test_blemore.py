"""The door to BLEMORE's static features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import emocache
from emocache.doors.exporting import export_features
from emocache.doors.importing import import_features
from emocache.errors import BadOption, DoorError
from emocache.store import open_store

from .contract import DoorContract, fill, only_feature


class TestBlemore(DoorContract):
    door = "blemore"
    out = "wavlm_static_features.npz"
    pooling = "stats7"


def test_the_challenges_table_comes_in_as_a_manifest(tmp_path: Path) -> None:
    names = ["A102_ang_int1_ver1", "A405_mix_ang_disg_70_30_ver1"]
    (tmp_path / "train_metadata.csv").write_text(
        "filename,fold,mix,emotion_1,emotion_2,emotion_1_salience,emotion_2_salience\n"
        f"{names[0]},0,0,ang,,100,\n{names[1]},3,1,ang,disg,70,30\n"
    )
    np.savez(tmp_path / "wavlm_static_features.npz", X=np.ones((2, 14), np.float32), filenames=names)
    emocache.write_blend_labels(tmp_path / "train_metadata.csv", tmp_path / "clips.csv")
    done = import_features(
        "blemore",
        tmp_path / "wavlm_static_features.npz",
        modality="audio",
        clips=tmp_path / "clips.csv",
        store=tmp_path / "s.zarr",
    )
    recipe = only_feature(tmp_path / "s.zarr").recipe
    assert (done.written, recipe.encoder, recipe.fields["pooling"]) == (2, "wavlm", "stats7")
    blend = open_store(tmp_path / "s.zarr").roster[1]
    assert (blend["fold"], blend["soft_ang"], blend["soft_disg"], blend["speaker"]) == ("3", "0.7", "0.3", "A405")


def test_other_statistics_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=np.ones((2, 15), np.float32), filenames=["a", "b"])
    with pytest.raises(DoorError, match=r"rows of shape \(15,\), expected seven blocks of one length \(mean, std, p10"):
        import_features("blemore", tmp_path / "x.npz", modality="audio", store=tmp_path / "s.zarr")
    name = fill(tmp_path / "s.zarr", "vectors")
    with pytest.raises(BadOption, match="has pooling unknown, and BLEMORE's static features are stats7"):
        export_features("blemore", name, tmp_path / "y.npz", store=tmp_path / "s.zarr")
    assert not (tmp_path / "y.npz").exists()

"""Which blends are true: names, the challenge's table, soft labels, the manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import emocache
from emocache.errors import FitError
from emocache.heads.blends.truth import EMOTIONS, blends_of_names, read_metadata

TABLE = """filename,fold,mix,emotion_1,emotion_2,emotion_1_salience,emotion_2_salience
A102_ang_int1_ver1,0,0,ang,,,
A303_neu_sit2_ver1,1,0,neu,,100,
A405_mix_ang_disg_70_30_ver1,4,1,ang,disg,70,30
A405_mix_sad_fea_50_50_ver2.mov,4,1,sad,fea,50,50
"""


def test_a_name_says_actor_emotions_and_shares() -> None:
    known = blends_of_names(["A102_ang_int1_ver1", "A303_neu_sit2_ver1", "A405_mix_ang_disg_70_30_ver1.mov"])
    assert known.actor == ("A102", "A303", "A405")
    assert known.clips[2] == "A405_mix_ang_disg_70_30_ver1"
    assert known.salience.tolist() == [[100, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 100], [70, 30, 0, 0, 0, 0]]


def test_shares_stand_in_the_order_of_their_emotions() -> None:
    known = blends_of_names(["A1_mix_sad_disg_70_30_ver3", "A1_mix_disg_sad_30_70_ver3"])
    assert known.salience.tolist() == [[0, 30, 0, 0, 70, 0]] * 2


@pytest.mark.parametrize("name", ["clip_1", "A102_joy_int1_ver1", "A405_mix_ang_70_30_ver1", "A102_ang_int1"])
def test_a_name_that_is_built_otherwise_is_refused(name: str) -> None:
    with pytest.raises(FitError, match=rf"cannot read emotions from {name}; expected names such as A102_ang_int1_ver1"):
        blends_of_names([name])


def test_the_table_gives_folds_and_soft_labels(tmp_path: Path) -> None:
    (tmp_path / "train_metadata.csv").write_text(TABLE)
    known = read_metadata(tmp_path / "train_metadata.csv")
    assert known.fold == ("0", "1", "4", "4")
    np.testing.assert_allclose(known.soft[2], [0.7, 0.3, 0, 0, 0, 0])
    np.testing.assert_allclose(known.soft.sum(axis=1), 1)
    assert known.salience[3].tolist() == [0, 0, 50, 0, 50, 0]
    np.testing.assert_array_equal(known.salience[:3], blends_of_names(known.clips).salience[:3])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("emotion_2_salience", "share", r"lacks emotion_2_salience; expected the columns filename, fold, mix"),
        ("ang,disg,70,30", "ang,disg,70,40", r"ver1: saliences \{'ang': 70.0, 'disg': 40.0\}; expected one emotion of"),
        ("ang,disg,70,30", "ang,ang,70,30", r"ver1: saliences \{'ang': 30.0\}; expected one emotion of 100, or two"),
        ("ang,disg,70,30", "ang,joy,70,30", r"ver1: joy is no emotion of ang, disg, fea, hap, sad, neu"),
        ("ang,disg,70,30", "ang,disg,much,30", r"ver1: a salience is no number .*; expected percent"),
        ("A303_neu_sit2_ver1", "A102_ang_int1_ver1", r"A102_ang_int1_ver1 stands there twice; leave one row"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "train_metadata.csv"
    path.write_text(TABLE.replace(old, new))
    with pytest.raises(FitError, match=message):
        read_metadata(path)


def test_no_table_is_said(tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("filename,fold,mix,emotion_1,emotion_2,emotion_1_salience,emotion_2_salience\n")
    with pytest.raises(FitError, match=r"empty.csv: has columns but no clips; give the challenge's train_metadata.csv"):
        read_metadata(empty)
    with pytest.raises(FitError, match=r"none.csv: cannot be read as a table: .*; give the challenge's"):
        read_metadata(tmp_path / "none.csv")


def test_the_manifest_has_soft_labels_folds_and_actors(tmp_path: Path) -> None:
    (tmp_path / "train_metadata.csv").write_text(TABLE)
    emocache.write_blend_labels(tmp_path / "train_metadata.csv", tmp_path / "clips.csv", media=tmp_path / "media")
    table = pd.read_csv(tmp_path / "clips.csv")
    assert list(table) == ["clip_id", "path", "fold", "speaker", "label", *(f"soft_{name}" for name in EMOTIONS)]
    assert table["label"].tolist() == ["ang 100", "neu 100", "ang 70, disg 30", "fea 50, sad 50"]
    assert table["path"][3].endswith("media/A405_mix_sad_fea_50_50_ver2.mov")
    clips = emocache.read_manifest(tmp_path / "clips.csv").clips
    assert (clips[2].columns["soft_ang"], clips[2].columns["speaker"]) in {(0.7, "A405"), ("0.7", "A405")}
    with pytest.raises(FitError, match=r"clips.csv: is there already; name another file with --out"):
        emocache.write_blend_labels(tmp_path / "train_metadata.csv", tmp_path / "clips.csv")

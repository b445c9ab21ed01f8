"""`emocache import` and `emocache export`, as a user meets them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emocache.cli import app


def emocache(*arguments: object, cwd: Path, code: int = 0) -> str:
    """Run a command in the folder `cwd`; returns what it printed, on both channels."""
    with contextlib.chdir(cwd):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return done.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A feature of MERTools, and an npz."""
    (tmp_path / "features" / "IS09_UTT").mkdir(parents=True)
    for number, clip in enumerate("abc"):
        np.save(tmp_path / "features" / "IS09_UTT" / f"{clip}.npy", np.full(4, number, np.float32))
    return tmp_path


def test_a_folder_of_mertools_comes_in_and_goes_out(folder: Path) -> None:
    said = emocache("import", "mertools", "features/IS09_UTT", cwd=folder, code=3)
    assert said.startswith("2 clips imported, 0 already held, 1 failed → features.zarr · is09-")
    assert "failed a: all-zero row: MERTools writes zeros for missing data; --keep-zeros takes zeros for data" in said
    said = emocache("import", "mertools", "features/IS09_UTT", "--keep-zeros", "--name", "all", cwd=folder)
    assert said.startswith("3 clips imported")
    said = emocache("export", "npz", "is09", "--out", "x.npz", cwd=folder)
    assert said.startswith("x.npz: 2 clips of is09-")
    assert "1 clip left out, with nothing in their place: a" in said
    with np.load(folder / "x.npz") as found:
        assert found["filenames"].tolist() == ["b", "c"]
    said = emocache("info", "is09", cwd=folder)
    assert "imported" in said
    assert "mertools" in said


def test_wrong_usage_is_said_with_exit_code_2(folder: Path) -> None:
    assert "door 'mer' is not known" in emocache("import", "mer", "features", cwd=folder, code=2)
    assert "name audio, video or text" in emocache("import", "npy", "features/IS09_UTT", cwd=folder, code=2)
    assert "no feature folder of MERTools" in emocache("import", "mertools", "features", cwd=folder, code=1)
    emocache("import", "npy", "features/IS09_UTT", "--modality", "audio", cwd=folder)
    assert "is there already" in emocache("export", "npy", "is09-utt", "--out", "features", cwd=folder, code=1)
    assert "is not known" in emocache("export", "npy", "x", "--out", "y", "--set", "layers=yes", cwd=folder, code=2)

"""The commands that look after a store, as a user meets them."""

import contextlib
import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from typer.testing import CliRunner

from emocache.cli import app

RATE = 16_000


def emocache(*arguments: object, cwd: Path, code: int = 0) -> str:
    """Run a command in the folder `cwd`; returns what it printed, on both channels."""
    with contextlib.chdir(cwd):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tones, transcripts, and a clip whose file is missing, extracted into features.zarr with two poolings."""
    folder = tmp_path_factory.mktemp("clips")
    rows = ["clip_id,path,text,label"]
    for number in range(4):
        wave = 0.3 * np.sin(2 * np.pi * (200 + 50 * number) * np.arange(RATE // 2) / RATE)
        soundfile.write(folder / f"{number}.wav", wave, RATE)
        rows.append(f"c{number},{number}.wav,tone {number},{'ab'[number % 2]}")
    rows.append("gone,gone.wav,no tone,a")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    emocache("extract", "--encoder", "prosody", cwd=folder, code=3)
    emocache("extract", "--encoder", "prosody", "--pool", "stats7", cwd=folder, code=3)
    emocache("extract", "--encoder", "char-ngram", "--store", "text.zarr", cwd=folder)
    return folder


def feature(folder: Path, pooling: str) -> str:
    """The name of the feature `prosody` with a pooling."""
    return next(row.split()[0] for row in emocache("ls", cwd=folder).splitlines() if f" {pooling} " in row)


def test_a_manifest_may_lie_behind_a_url(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("clip_id,text\nc0,tone 0\n")
    said = emocache("extract", "--encoder", "char-ngram", "--clips", f"file://{tmp_path}/clips.csv", cwd=tmp_path)
    assert "1 clip: 0 held, 1 to compute" in said


def test_ls_lists_the_features(folder: Path) -> None:
    said = emocache("ls", cwd=folder).splitlines()
    assert said[0].startswith("features.zarr · format 1 · 5 clips in the roster · ")
    assert [row.split()[2] for row in said[1:]] in (["pooling", "mean", "stats7"], ["pooling", "stats7", "mean"])


def test_info_tells_the_recipe_the_coverage_and_the_failures(folder: Path) -> None:
    said = " ".join(emocache("info", feature(folder, "mean"), cwd=folder).split())
    assert "encoder: prosody" in said
    assert "layer 0: 4 of 4 clips" in said
    assert "4 ok, 1 failed 1 failed to read: FileNotFoundError" in said


def test_what_a_store_says_does_not_steer_the_terminal(tmp_path: Path) -> None:
    strange = "c\x1b[2J\x9b31m\u202egpj"
    manifest = pd.DataFrame({"clip_id": ["a", strange], "text": ["hello", ""], "audio": ["", "gone.wav"]})
    manifest.to_csv(tmp_path / "clips.csv", index=False)
    said = emocache("extract", "--encoder", "prosody", cwd=tmp_path, code=3)
    said += emocache("ledger", cwd=tmp_path)
    assert said.count(r"c\x1b[2J\x9b31m\u202egpj") == 2
    assert not set(said) & set("\x1b\x9b\u202e")
    assert strange in emocache("ledger", "--csv", cwd=tmp_path)


def test_ledger_lists_what_failed_as_a_table_and_as_csv(folder: Path) -> None:
    said = emocache("ledger", "--feature", feature(folder, "mean"), cwd=folder)
    assert "gone" in said
    assert "correct the path in the manifest" in said
    assert said.endswith("1 feature: 4 ok, 1 failed\n")
    rows = list(csv.DictReader(io.StringIO(emocache("ledger", "--csv", "--all", cwd=folder))))
    assert len(rows) == 10
    assert {row["duration_s"] for row in rows if row["clip_id"] == "c0"} == {"0.5"}


def test_diff_tells_why_two_features_are_two(folder: Path) -> None:
    said = emocache("diff", feature(folder, "mean"), feature(folder, "stats7"), cwd=folder)
    assert said.splitlines()[2:] == ["pooling", "  a: mean", "  b: stats7"]
    said = emocache("diff", feature(folder, "mean"), "char", "--other", "text.zarr", cwd=folder)
    assert "modality\n  a: audio\n  b: text\n" in said


def test_export_array_writes_one_array(folder: Path, tmp_path: Path) -> None:
    said = emocache("export-array", feature(folder, "mean"), "--out", tmp_path / "x.npy", "--layers", "0", cwd=folder)
    assert "4 clips, 1 layer (0), 107 numbers each, float32" in said
    assert np.load(tmp_path / "x.npy").shape == (4, 1, 107)


def test_merge_verify_compact_and_gc_work_hand_in_hand(folder: Path, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "all.zarr")
    said = emocache("merge", "features.zarr", "text.zarr", "--into", tmp_path / "all.zarr", cwd=folder)
    assert "3 features, 5 clips in the roster" in said
    assert emocache("verify", *store, cwd=folder).endswith("no fault found\n")
    assert "2 segments → 1" in emocache("compact", *store, cwd=folder)
    assert "nothing to delete" in emocache("gc", *store, cwd=folder).replace("0 B freed", "nothing to delete")
    assert "would be deleted: superseded" in emocache("gc", "--older-than", "0s", "--dry-run", *store, cwd=folder)
    assert "deleted: superseded" in emocache("gc", "--older-than", "0s", *store, cwd=folder)
    assert "zstd" not in emocache("compact", "--codec", "zstd", *store, cwd=folder)
    assert emocache("verify", "--quick", *store, cwd=folder).endswith("no fault found\n")


def test_verify_lists_faults_with_exit_code_1_and_extract_makes_good_what_repair_drops(
    folder: Path, tmp_path: Path
) -> None:
    store = ("--store", tmp_path / "s.zarr")
    emocache("extract", "--encoder", "char-ngram", *store, cwd=folder)
    chunk = next((tmp_path / "s.zarr").glob("features/*/segments/*/c.0.0.0"))
    chunk.write_bytes(chunk.read_bytes()[:-1])
    said = emocache("verify", *store, cwd=folder, code=1)
    assert f"FAULT  {chunk.relative_to(tmp_path / 's.zarr')}: " in said
    assert said.endswith("1 fault found; --repair drops what is damaged, then emocache extract computes it again\n")
    assert "5 cells dropped" in emocache("verify", "--repair", *store, cwd=folder, code=1)
    assert "no fault found" in emocache("verify", *store, cwd=folder)
    assert "5 clips computed, 0 already held" in emocache("extract", "--encoder", "char-ngram", *store, cwd=folder)


def test_merge_ends_with_exit_code_1_if_something_is_damaged(folder: Path, tmp_path: Path) -> None:
    emocache("extract", "--encoder", "char-ngram", "--store", tmp_path / "s.zarr", cwd=folder)
    next((tmp_path / "s.zarr").glob("features/*/segments/*/c.0.0.0")).unlink()
    said = emocache("merge", tmp_path / "s.zarr", "--into", tmp_path / "m.zarr", cwd=folder, code=1)
    assert "not copied, damaged: " in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ls", "--store", "nothing.zarr"], 1, "no store is here"),
        (["info"], 2, "Missing argument 'FEATURE'"),
        (["info", "prosodi"], 2, "did you mean prosody-"),
        (["info", "prosody"], 2, "fits several of features.zarr"),
        (["ledger", "--feature", "hubert"], 2, "feature 'hubert' is not known"),
        (["diff", "prosody-"], 2, "Missing argument 'B'"),
        (["export-array", "char", "--store", "text.zarr"], 2, "Missing option '--out'"),
        (["export-array", "char", "--store", "text.zarr", "--out", "x.csv"], 2, "name a .npy file or a .zarr array"),
        (["export-array", "char", "--store", "text.zarr", "--out", "x.npy", "--layers", "a"], 2, "cannot read 'a'"),
        (
            ["export-array", "char", "--store", "text.zarr", "--out", "x.npy", "--layers", "3"],
            1,
            "layers 3 are not held",
        ),
        (["export-array", "char", "--store", "text.zarr", "--out", "no/x.npy"], 1, "there is no folder no"),
        (["merge", "--into", "m.zarr"], 2, "Missing argument 'STORE...'"),
        (["merge", "features.zarr"], 2, "Missing option '--into'"),
        (["merge", "nothing.zarr", "--into", "m.zarr"], 1, "no store is here"),
        (["merge", "text.zarr", "--into", "."], 1, "not an emocache store, and not empty"),
        (["compact", "--codec", "gzip"], 2, "known: blosc, zstd, none"),
        (["compact", "--feature", "hubert"], 2, "feature 'hubert' is not known"),
        (["gc", "--older-than", "soon"], 2, "write a number and s, m, h or d"),
        (["verify", "--store", "clips.csv"], 1, "not an emocache store"),
    ],
)
def test_misuse_is_answered_in_words_with_the_right_exit_code(
    folder: Path, arguments: list[str], code: int, message: str
) -> None:
    assert message in " ".join(emocache(*arguments, cwd=folder, code=code).split())

"""The command line as a user meets it: what is printed, and with which exit code it ends."""

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
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
    """Twenty-four tones by four speakers, two labels that differ in pitch, and transcripts."""
    folder = tmp_path_factory.mktemp("clips")
    generator = np.random.default_rng(0)
    rows = ["clip_id,path,text,label,speaker"]
    for number in range(24):
        label = "ab"[number % 2]
        pitch = 140 + 160 * (number % 2) + generator.normal(0, 10)
        time_s = np.arange(RATE // 2) / RATE
        wave = 0.3 * np.sin(2 * np.pi * pitch * time_s) + generator.normal(0, 0.02, len(time_s))
        soundfile.write(folder / f"{number}.wav", wave, RATE)
        rows.append(
            f"c{number},{number}.wav,{'high' if label == 'b' else 'low'} tone {number},{label},s{number // 2 % 4}"
        )
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def extracted(folder: Path) -> Path:
    """The same folder, after two encoders wrote into features.zarr."""
    emocache("extract", "--encoder", "prosody", "--encoder", "char-ngram", cwd=folder)
    return folder


def test_help_names_the_commands(folder: Path) -> None:
    command = [sys.executable, "-m", "emocache.cli", "--help"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    for command in ("extract", "fit", "encoders", "demo"):
        assert command in said


def test_the_list_of_encoders_says_what_each_one_is(folder: Path) -> None:
    said = emocache("encoders", cwd=folder)
    assert said.splitlines()[0].split() == ["encoder", "modality", "layers", "dim", "download", "weights", "here"]
    assert "hubert-large" in said
    assert "1262 MB" in said


def test_extracting_says_first_what_it_will_do_and_then_what_it_did(folder: Path) -> None:
    said = emocache("extract", "--encoder", "prosody", "--store", "fresh.zarr", cwd=folder)
    assert "24 clips: 0 held, 24 to compute" in said
    assert "24 clips computed, 0 already held, 0 failed → fresh.zarr" in said
    assert " s in all; where the time went: load" in said
    again = emocache("extract", "--encoder", "prosody", "--store", "fresh.zarr", cwd=folder)
    assert "24 clips: 24 held, 0 to compute" in again
    assert "0 clips computed, 24 already held" in again


def test_a_self_check_is_printed_with_its_bar(folder: Path) -> None:
    said = emocache("extract", "--encoder", "char-ngram", "--self-check", "--store", "checked.zarr", cwd=folder)
    assert "self-check of char-ngram in float32: 6 clips alone and in a batch differ by 0.0e+00" in said
    assert "bar 1e-04" in said
    assert "24 clips computed" in said


def test_several_encoders_and_poolings_print_a_summary_each(folder: Path) -> None:
    encoders = ["--encoder", "prosody", "--encoder", "char-ngram"]
    said = emocache("extract", *encoders, "--pool", "mean", "--pool", "stats7", "--store", "both.zarr", cwd=folder)
    assert said.count("24 clips computed, 0 already held, 0 failed →") == 4
    assert said.count(" s in all; where the time went") == 1, "they share one walk, so no time is one's own"


def test_a_clip_that_fails_ends_with_exit_code_3_and_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text(f"clip_id,path\ngood,{folder / '0.wav'}\ngone,nowhere.wav\n")
    said = emocache("extract", "--encoder", "prosody", cwd=tmp_path, code=3)
    assert "1 clip computed, 0 already held, 1 failed" in said
    assert "failed gone:" in said
    assert "nowhere.wav: No such file or directory; correct the path in the manifest" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["extract"], 2, "Missing option '--encoder'"),
        (["extract", "--encoder", "hubert-larg"], 2, "did you mean hubert-large"),
        (["extract", "--encoder", "prosody", "--layers", "16-21"], 2, "the encoder has the single layer 0"),
        (
            ["extract", "--encoder", "prosody", "--pool", "max"],
            2,
            "known: mean, stats7, segments:K, time, tokens, tokens:N",
        ),
        (
            ["extract", "--encoder", "prosody", "--face-detector", "mtcnn"],
            2,
            "--face-detector: none of prosody takes it; leave it out",
        ),
        (["extract", "--encoder", "prosody", "--part", "half"], 2, "write the part and the number of parts, as in 2/4"),
        (["extract", "--encoder", "prosody", "--clips", "missing.csv"], 1, "no such manifest"),
        (["extract", "--encoder", "prosody", "--store", "."], 1, "not an emocache store, and not empty"),
        (["extract", "--encoder", "hubert-large", "--weights", "."], 1, "no config.json; expected a folder as"),
        (["fit", "--head", "svn-ensemble"], 2, "did you mean svm-ensemble"),
        (["fit", "--store", "nothing.zarr"], 1, "no store is here; emocache extract makes one"),
        (["fit", "--features", "prosodi"], 2, "did you mean prosody"),
        (["fit", "--folds", "some"], 2, "some"),
        (["fit", "--folds", "speaker:9"], 1, "speakers"),
    ],
)
def test_misuse_is_answered_in_words_with_the_right_exit_code(
    extracted: Path, arguments: list[str], code: int, message: str
) -> None:
    assert message in " ".join(emocache(*arguments, cwd=extracted, code=code).split())


def test_fit_prints_scores_and_leaves_a_run(extracted: Path) -> None:
    said = emocache("fit", "--head", "linear", "--folds", "speaker:4", "--out", "run", cwd=extracted)
    assert "uar" in said.lower()
    names = {path.name for path in (extracted / "run").iterdir()}
    assert {"metrics.json", "oof.parquet", "run.json", "report.md"} <= names


def test_the_version_is_that_of_the_package(folder: Path) -> None:
    assert emocache("--version", cwd=folder).startswith("emocache 0.")

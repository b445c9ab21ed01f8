"""`extract_features` on real files: what is computed, what is kept, what is said when something is wrong."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import emocache
from emocache.errors import BadOption, EmocacheError, ManifestError, NotAStore, StoreError, UnknownName, WeightsError
from emocache.extract.encoders.prosody import Prosody
from emocache.extract.pooling import pool
from emocache.store.manifest import CHUNK, read_manifest

RATE = 16_000


def write_wav(path: Path, seed: int, seconds: float = 0.5) -> None:
    wave = np.random.default_rng(seed).normal(0, 0.1, int(seconds * RATE))
    soundfile.write(path, wave, RATE, subtype="FLOAT")


def write_manifest(path: Path, rows: Iterable[dict[str, str]]) -> Path:
    rows = list(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: six recordings and a clips.csv with transcripts, labels and speakers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMOCACHE_STORE", raising=False)
    for number in range(6):
        write_wav(tmp_path / f"{number}.wav", number, 0.3 + 0.1 * number)
    write_manifest(
        tmp_path / "clips.csv",
        (
            {
                "clip_id": f"c{n}",
                "path": f"{n}.wav",
                "text": f"this is number {n}",
                "label": "ab"[n % 2],
                "speaker": "03",
            }
            for n in range(6)
        ),
    )
    return tmp_path


def extract(encoder: str = "prosody", **options: object) -> object:
    return emocache.extract_features(encoder, workers=1, **options)  # type: ignore[arg-type]


def test_the_defaults_are_clips_csv_and_features_zarr_here(folder: Path) -> None:
    summary = emocache.extract_features("prosody", workers=1)
    assert (summary.computed, summary.held, summary.failed) == (6, 0, {})
    feature = emocache.open_store().features["prosody"]
    assert feature.read(clips=["c3"]).shape == (1, 1, Prosody.dim)
    assert feature.ledger()["c3"]["facts"]["duration_s"] == pytest.approx(0.6)
    row = emocache.open_store(folder / "features.zarr").roster[3]
    assert (row["clip_id"], row["label"], row["speaker"]) == ("c3", "b", "03")
    assert "text" not in row
    assert not any("path" in row for row in emocache.open_store().roster)


def test_what_is_stored_is_what_the_encoder_gives_for_the_clip_alone(folder: Path) -> None:
    extract(pool="stats7")
    wave, _ = soundfile.read(folder / "4.wav", dtype="float32")
    frames, (count,) = Prosody().forward([wave], [0])
    np.testing.assert_array_equal(
        emocache.open_store().features["prosody"].read(["c4"])[0], pool(frames[0, :, :count], "stats7").numpy()
    )


def test_a_second_call_computes_nothing_and_writes_nothing(folder: Path) -> None:
    extract()
    before = sorted(path for path in (folder / "features.zarr").rglob("*"))
    summary = emocache.extract_features("prosody", workers=1)
    assert (summary.computed, summary.held) == (0, 6)
    assert sorted(path for path in (folder / "features.zarr").rglob("*")) == before


def test_only_new_clips_are_computed_and_renamed_or_moved_ones_are_found_again(folder: Path) -> None:
    extract()
    (folder / "elsewhere").mkdir()
    (folder / "0.wav").rename(folder / "elsewhere" / "zero.wav")
    write_wav(folder / "new.wav", 99)
    rows = [{"clip_id": "renamed", "path": "elsewhere/zero.wav"}, {"clip_id": "new", "path": "new.wav"}]
    summary = emocache.extract_features("prosody", clips=write_manifest(folder / "more.csv", rows), workers=1)
    assert (summary.computed, summary.held) == (1, 1)
    feature = emocache.open_store().features["prosody"]
    np.testing.assert_array_equal(feature.read(["renamed"]), feature.read(["c0"]))


def test_a_name_that_now_stands_for_other_content_is_pointed_out(folder: Path) -> None:
    extract()
    write_wav(folder / "2.wav", 77)
    summary = emocache.extract_features("prosody", workers=1)
    assert summary.moved == ("c2",)
    assert "now other content than before under the name c2" in str(summary)
    assert (summary.computed, summary.held) == (1, 5)


def test_parts_share_the_work_meet_nowhere_and_leave_nothing_out(folder: Path) -> None:
    done: list[str] = []
    for index in (1, 2, 3):  # each into a store of its own, so that none finds the others' work done
        emocache.extract_features("char-ngram", part=(index, 3), workers=1, store=f"{index}.zarr")
        done += [name for feature in emocache.open_store(f"{index}.zarr").features.values() for name in feature.held()]
    assert sorted(done) == [f"c{number}" for number in range(6)]
    with pytest.raises(BadOption, match=r"--part 4/3: parts are numbered from 1/3 to 3/3"):
        extract("char-ngram", part=(4, 3))


def test_transcripts_travel_only_if_asked(folder: Path) -> None:
    extract("char-ngram")
    assert "number 3" not in "".join(map(str, emocache.open_store().roster))
    extract("char-ngram", keep_text=True)
    assert emocache.open_store().roster[3]["text"] == "this is number 3"


def test_half_precision_storage_is_another_feature_and_close(folder: Path) -> None:
    extract("char-ngram")
    extract("char-ngram", storage="float16")
    full, half = sorted(emocache.open_store().features.values(), key=lambda feature: -feature.dtype.itemsize)
    assert half.read().dtype == np.float16
    np.testing.assert_allclose(half.read(), full.read(), rtol=1e-3, atol=1e-4)


def test_clips_that_cannot_be_done_are_named_and_the_others_are_kept(folder: Path) -> None:
    (folder / "1.wav").unlink()
    (folder / "2.wav").write_bytes(b"")
    (folder / "3.wav").write_text("this is a text file\n" * 40)
    summary = emocache.extract_features("prosody", workers=1)
    assert summary.computed == 3
    assert set(summary.failed) == {"c1", "c2", "c3"}
    assert "1.wav: No such file or directory; correct the path in the manifest" in summary.failed["c1"]
    assert "empty" in summary.failed["c2"]
    ledger = emocache.open_store().features["prosody"].ledger()
    assert [ledger[f"c{n}"]["status"] for n in range(6)] == ["ok", "failed", "failed", "failed", "ok", "ok"]
    assert ledger["c1"]["stage"] == "read"
    assert ledger["c3"]["stage"] == "decode"
    assert emocache.open_store().features["prosody"].held() == ["c0", "c4", "c5"]


def test_failures_are_tried_again_and_the_same_failure_is_written_once(folder: Path) -> None:
    good = (folder / "3.wav").read_bytes()
    (folder / "1.wav").unlink()
    (folder / "3.wav").write_bytes(good[:40])
    extract()
    segments = len(list(folder.glob("features.zarr/features/*/segments/*-*")))
    summary = emocache.extract_features("prosody", workers=1)
    assert set(summary.failed) == {"c1", "c3"}
    assert len(list(folder.glob("features.zarr/features/*/segments/*-*"))) == segments
    (folder / "3.wav").write_bytes(good)
    write_wav(folder / "1.wav", 1, 0.4)
    assert emocache.extract_features("prosody", workers=1).failed == {}
    assert {row["status"] for row in emocache.open_store().features["prosody"].ledger().values()} == {"ok"}


def test_a_clip_of_silence_is_kept_and_marked(folder: Path) -> None:
    soundfile.write(folder / "0.wav", np.zeros(RATE), RATE)
    extract()
    feature = emocache.open_store().features["prosody"]
    assert feature.ledger()["c0"]["facts"]["silent"] is True
    assert np.isfinite(feature.read(["c0"])).all()


def test_a_part_of_a_file_is_a_clip_of_its_own(folder: Path) -> None:
    write_wav(folder / "long.wav", 5, 2.0)
    wave, _ = soundfile.read(folder / "long.wav", dtype="float32")
    soundfile.write(folder / "cut.wav", wave[RATE // 2 : RATE], RATE, subtype="FLOAT")
    rows = [
        {"clip_id": "whole", "path": "long.wav"},
        {"clip_id": "part", "path": "long.wav", "start_s": "0.5", "end_s": "1.0"},
        {"clip_id": "cut", "path": "cut.wav"},
    ]
    emocache.extract_features("prosody", clips=write_manifest(folder / "parts.csv", rows), workers=1)
    feature = emocache.open_store().features["prosody"]
    np.testing.assert_array_equal(feature.read(["part"]), feature.read(["cut"]))
    assert not np.array_equal(feature.read(["part"]), feature.read(["whole"]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"name": "a", "path": "0.wav"}], "no column clip_id; found name, path; name each clip in a column clip_id"),
        ([{"clip_id": "a", "path": "0.wav"}] * 2, "clip_id stands twice: a; every clip needs a name of its own"),
        ([{"clip_id": "", "path": "0.wav"}], "row 1 has an empty clip_id"),
        ([{"clip_id": "a", "path": "0.wav", "keys": "x"}], "the column keys is reserved; rename it"),
        ([{"clip_id": "a", "path": "0.wav", "start_s": "x"}], "clip 'a': start_s: 'x' is no time in seconds"),
        ([{"clip_id": "a", "path": "0.wav", "start_s": "2", "end_s": "1"}], "end_s 1 does not lie behind start_s 2"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_where_and_why(
    folder: Path, rows: list[dict[str, str]], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        extract(clips=write_manifest(folder / "odd.csv", rows))
    assert not (folder / "features.zarr").exists()


def test_a_missing_manifest_an_empty_table_and_an_unknown_suffix_are_told_apart(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"no such manifest; write a table with the columns clip_id and path"):
        extract(clips="nowhere.csv")
    (folder / "empty.csv").write_text("clip_id,path\n")
    with pytest.raises(ManifestError, match="the table has no rows"):
        extract(clips="empty.csv")
    (folder / "void.csv").write_text("")
    with pytest.raises(ManifestError, match=r"void\.csv: is empty; write a table with the columns clip_id and path"):
        extract(clips="void.csv")
    with pytest.raises(
        ManifestError, match=r"a manifest is a \.csv or \.parquet file, or a folder of media; found '\.wav'"
    ):
        extract(clips="0.wav")


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (["a,0.wav,well, then", "b,1.wav,so"], "the rows have more cells than there are columns"),
        (["a,0.wav,so", "b,1.wav,well, then"], "Expected 3 fields in line 3, saw 4"),
    ],
)
def test_a_comma_in_a_text_without_quotes_shifts_no_cell_into_another_column(
    folder: Path, rows: list[str], found: str
) -> None:
    (folder / "odd.csv").write_text("\n".join(["clip_id,path,text", *rows]))
    with pytest.raises(ManifestError, match=f"odd.csv: cannot be read as csv: .*({found}).*; put quotes around a text"):
        extract(clips="odd.csv")


def test_a_long_table_is_read_in_parts_to_the_same_clips(folder: Path) -> None:
    rows = [{"clip_id": f"c{n}", "text": f"number {n}" if n % 3 else "", "label": "01"} for n in range(CHUNK + 3)]
    clips = read_manifest(write_manifest(folder / "long.csv", rows)).clips
    assert len(clips) == len(rows)
    assert [(clip.clip_id, clip.text or "", clip.columns["label"]) for clip in clips] == [
        (row["clip_id"], row["text"], row["label"]) for row in rows
    ]
    assert clips[CHUNK + 1] == list(clips)[CHUNK + 1]


def test_a_folder_of_media_is_a_manifest_too(folder: Path) -> None:
    (folder / "media" / "a").mkdir(parents=True)
    (folder / "0.wav").rename(folder / "media" / "a" / "zero.wav")
    (folder / "1.wav").rename(folder / "media" / "one.wav")
    emocache.extract_features("prosody", clips=folder / "media", workers=1)
    assert sorted(emocache.open_store().features["prosody"].clips) == ["a/zero", "one"]


def test_without_a_clips_csv_the_current_folder_is_the_manifest(folder: Path) -> None:
    (folder / "clips.csv").unlink()
    summary = emocache.extract_features("prosody", workers=1)
    assert summary.computed == 6


def test_a_parquet_manifest_keeps_numbers_as_numbers(folder: Path) -> None:
    import pandas as pd

    table = pd.DataFrame({"clip_id": ["a"], "path": ["0.wav"], "valence": [0.25], "fold": [3], "speaker": ["03"]})
    table.to_parquet(folder / "clips.parquet")
    extract(clips="clips.parquet")
    row = emocache.open_store().roster[0]
    assert (row["valence"], row["fold"], row["speaker"]) == (0.25, 3, "03")


def test_what_no_clip_has_is_an_error_that_names_the_column(folder: Path) -> None:
    rows = [{"clip_id": "a", "audio": "0.wav"}]
    manifest = write_manifest(folder / "sound.csv", rows)
    with pytest.raises(EmocacheError, match="none of the 1 clips has text; the manifest needs a column text"):
        extract("char-ngram", clips=manifest)
    with pytest.raises(EmocacheError, match="none of the 1 clips has video; the manifest needs a column path or video"):
        extract("face-hog", clips=manifest, face_detector="mtcnn")


def test_an_encoder_of_pictures_fails_a_sound_file_by_name(folder: Path) -> None:
    summary = emocache.extract_features("face-hog", face_detector="mtcnn", workers=1)
    assert set(summary.failed) == {f"c{n}" for n in range(6)}
    assert "has no moving picture (found: audio)" in summary.failed["c0"]


def test_wrong_names_and_options_are_answered_with_the_right_ones(folder: Path) -> None:
    with pytest.raises(UnknownName, match=r"encoder 'hubert-lrage' is not known; did you mean hubert-large"):
        extract("hubert-lrage")
    with pytest.raises(BadOption, match="--layers '16-21': the encoder has the single layer 0; leave the layers out"):
        extract(layers="16-21")
    with pytest.raises(BadOption, match="--dtype 'fp16' is not known; known: auto, float32, bfloat16, float16"):
        extract(dtype="fp16")
    with pytest.raises(BadOption, match="--storage 'int8' is not known"):
        extract(storage="int8")
    with pytest.raises(BadOption, match="--face-detector: none of prosody takes it; leave it out"):
        extract(face_detector="mtcnn")
    with pytest.raises(BadOption, match=r"--device 'cuda:77' is not usable here .* auto takes the fastest"):
        extract(device="cuda:77")
    with pytest.raises(WeightsError, match="weights"):
        extract(weights=folder)


def test_a_foreign_store_and_one_that_cannot_be_made_are_refused(folder: Path) -> None:
    with pytest.raises(NotAStore, match="not an emocache store, and not empty"):
        extract(store=folder)
    with pytest.raises(StoreError, match=r"cannot write a store here: .*0\.wav is no folder; name another"):
        extract(store=folder / "0.wav" / "store")


def test_the_environment_names_the_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOCACHE_STORE", str(folder / "ours.zarr"))
    extract("char-ngram")
    assert emocache.open_store().path == folder / "ours.zarr"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_extraction_keeps_what_was_finished_and_goes_on_later(folder: Path, how: signal.Signals) -> None:
    for number in range(400):
        write_wav(folder / f"{number}.wav", number, 0.5)
    rows = [{"clip_id": f"c{n}", "path": f"{n}.wav"} for n in range(400)]
    write_manifest(folder / "clips.csv", rows)
    command = [sys.executable, "-m", "emocache.cli", "extract", "--encoder", "prosody", "--workers", "1"]
    # SIGINT comes as from a terminal; SIGTERM to a job that a shell started in the background: SIGINT is ignored there.
    before = signal.SIG_DFL if how == signal.SIGINT else signal.SIG_IGN
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, before),
    )
    while not list(folder.glob("features.zarr/features/*/segments/*-*/zarr.json")):
        time.sleep(0.01)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted: what was committed stays; the same command does the rest" in said
    assert 256 <= (held := len(emocache.open_store().features["prosody"].clips)) < 400
    summary = emocache.extract_features("prosody", workers=1)
    assert (summary.held, summary.computed) == (held, 400 - held)


def test_a_killed_extraction_leaves_a_store_that_the_next_one_completes(folder: Path) -> None:
    command = [sys.executable, "-m", "emocache.cli", "extract", "--encoder", "prosody", "--workers", "1"]
    for delay in (0.5, 1.5, 2.5, 3.5):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    emocache.extract_features("prosody", workers=1)
    resumed = emocache.open_store().features["prosody"]
    emocache.extract_features("prosody", workers=1, store=folder / "undisturbed.zarr")
    undisturbed = emocache.open_store(folder / "undisturbed.zarr").features["prosody"]
    np.testing.assert_array_equal(resumed.read(), undisturbed.read())


def test_an_encoder_that_cannot_start_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOCACHE_MEDIAPIPE_MODEL", str(folder / "nowhere.tflite"))
    with pytest.raises(WeightsError, match=r"nowhere\.tflite is not a file"):
        extract("face-hog")
    with pytest.raises(BadOption, match="--device 'cuda:77' is not usable here"):
        extract(device="cuda:77")
    assert not (folder / "features.zarr").exists()


def test_the_store_names_no_folder_of_the_machine_that_made_it(folder: Path) -> None:
    (folder / "1.wav").unlink()
    (folder / "3.wav").write_text("no sound at all\n" * 40)
    summary = emocache.extract_features("prosody", clips=folder / "clips.csv", workers=1)
    assert all(str(folder) in message for message in summary.failed.values())
    emocache.extract_features("face-hog", face_detector="mtcnn", workers=1)
    ledger = emocache.open_store().features["prosody"].ledger()
    assert ledger["c1"]["message"].startswith("1.wav: No such file")
    assert ledger["c3"]["message"].startswith("3.wav: ")
    written = b"".join(path.read_bytes() for path in (folder / "features.zarr").rglob("*") if path.is_file())
    assert str(folder).encode() not in written


def test_a_disk_that_refuses_is_named_and_the_next_run_completes(folder: Path) -> None:
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
    code = (
        f"{limited}sys.argv = ['emocache', 'extract', '--encoder', 'char-ngram']; from emocache.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "features.zarr: File too large" in done.stderr
    assert "what was committed before is safe: mend this and run the same command again" in done.stderr
    assert emocache.extract_features("char-ngram", workers=1).computed == 6
    assert len(emocache.open_store().features["char-ngram"].read()) == 6

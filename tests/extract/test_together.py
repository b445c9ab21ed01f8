"""Several encoders and poolings in one call: one decode, one forward, and each feature as if it had been alone."""

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import emocache
from emocache.errors import BadOption, EmocacheError, EncoderFault
from emocache.extract import assignment, plan, target
from emocache.extract.batches import Ready
from emocache.extract.plan import Task
from emocache.extract.probe import check_batches
from emocache.extract.requests import _split
from emocache.spec import Decoded, Source
from tests.extract.fakes import Steps, offer
from tests.extract.logged import LOG, STEP

CLIPS = 6
LENGTHS = [4, 9, 12, 5, 7, 10]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: six recordings of 0.2 to 0.6 s, texts, and the encoders `steps` and `others`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMOCACHE_STORE", raising=False)
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    for number, length in enumerate(LENGTHS):
        wave = np.random.default_rng(number).normal(0, 0.1, length * STEP)
        soundfile.write(tmp_path / f"{number}.wav", wave, 16_000, subtype="FLOAT")
    rows = [f"c{number},{number}.wav,words {number},mood {number}" for number in range(CLIPS)]
    (tmp_path / "clips.csv").write_text("\n".join(["clip_id,path,text,tags", *rows]))
    offer(monkeypatch, "steps")
    offer(monkeypatch, "others")
    return tmp_path


Log = Callable[[], Counter[str]]


@pytest.fixture
def log(folder: Path) -> Log:
    """What was done since the last call: how often each."""

    def read() -> Counter[str]:
        path = folder / "log"
        found = Counter(path.read_text().splitlines()) if path.exists() else Counter[str]()
        path.unlink(missing_ok=True)
        return found

    return read


def extract(*encoders: str, **options: object) -> emocache.extract.extraction.Extraction:  # type: ignore[name-defined]
    return emocache.extract_features(encoders, workers=1, **options)  # type: ignore[arg-type]


def feature(name: str, pooling: str = "mean", store: str = "features.zarr") -> emocache.store.Feature:  # type: ignore[name-defined]
    features = emocache.open_store(store).features.values()
    (found,) = [f for f in features if f.recipe.encoder == name and f.recipe.fields["pooling"] == pooling]
    return found


def levels(clip: int) -> np.ndarray:
    """``(time,)``: what `Steps` gives in layer 0 and its first dimension."""
    wave, _ = soundfile.read(f"{clip}.wav", dtype="float32")
    return np.abs(wave).reshape(-1, STEP).mean(1)


def test_a_clip_is_decoded_once_for_encoders_with_equal_decoders(folder: Path, log: Log) -> None:
    extract("steps", "others", pool=["mean", "stats7"])
    done = log()
    assert {what: count for what, count in done.items() if "decode" in what} == {
        f"decode {n}.wav": 1 for n in range(CLIPS)
    }


def test_encoders_with_decoders_of_their_own_decode_for_themselves(
    folder: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, "third", decoder="!")
    extract("steps", "third")
    done = log()
    assert [done[f"decode{kind} 3.wav"] for kind in ("", "!")] == [1, 1]


def test_the_poolings_of_an_encoder_share_one_pass_of_each_clip(folder: Path, log: Log) -> None:
    extraction = extract("steps", pool=["mean", "stats7", "segments:3", "tokens:4"], layers="1,3")
    passes = sum(int(what.split()[-1]) * count for what, count in log().items() if "forward" in what)
    assert passes == CLIPS
    assert [summary.computed for summary in extraction] == [CLIPS] * 4
    assert extraction.computed == 4 * CLIPS


def test_features_extracted_together_are_those_extracted_alone(folder: Path) -> None:
    poolings = ["mean", "stats7", "segments:3"]
    extract("steps:0-2", "others:4", "char-ngram", pool=poolings)
    for pooling in poolings:
        for name in ("steps:0-2", "others:4", "char-ngram"):
            extract(name, pool=pooling, store=folder / "alone.zarr")
            encoder = name.partition(":")[0]
            together, alone = feature(encoder, pooling), feature(encoder, pooling, "alone.zarr")
            assert together.name == alone.name
            np.testing.assert_array_equal(together.read(), alone.read())
            assert together.ledger() == alone.ledger()
    assert emocache.open_store().roster == emocache.open_store("alone.zarr").roster


def test_what_each_pooling_lacks_is_computed_and_nothing_else(
    folder: Path, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    extract("steps:1-2", pool="mean")
    extract("steps:2", pool="stats7")
    log()
    caplog.set_level("INFO")
    extraction = extract("steps:1-3", pool=["mean", "stats7", "time"])
    assert [(summary.computed, summary.held) for summary in extraction] == [(CLIPS, 0)] * 3
    for said in ("6 cells of layer 3, 96 B", "12 cells of layers 1, 3, 1.3 kB", "18 cells, as many bytes"):
        assert f"6 clips: 0 held, 6 to compute (6 encoder passes, {said} on disk" in caplog.text
    segments = {
        pooling: sorted(segment.layers for segment in feature("steps", pooling).segments)
        for pooling in ("mean", "stats7", "time")
    }
    assert segments == {"mean": [(1, 2), (3,)], "stats7": [(1, 3), (2,)], "time": [(1, 2, 3)]}
    for clip in range(CLIPS):
        expected = levels(clip).mean() * np.array([2, 3, 4])
        np.testing.assert_allclose(feature("steps").read([f"c{clip}"])[0, :, 0], expected, rtol=1e-5)
    log()
    assert extract("steps:1-3", pool=["mean", "stats7", "time"]).computed == 0
    assert not log()


def test_what_is_held_is_found_however_many_clips_are_asked_for_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "CHUNK", 2)
    table = (folder / "clips.csv").read_text().splitlines()
    (folder / "some.csv").write_text("\n".join(table[:-1]))
    extract("steps:1", clips="some.csv")
    (summary,) = extract("steps:1")
    assert (summary.computed, summary.held) == (1, CLIPS - 1)
    assert feature("steps").read().shape == (CLIPS, 1, 4)


def test_clips_that_miss_different_layers_each_get_theirs(folder: Path) -> None:
    table = (folder / "clips.csv").read_text().splitlines()
    (folder / "some.csv").write_text("\n".join([table[0], table[2], table[5]]))
    extract("steps:1", clips="some.csv")
    extract("steps:0-1", "others:2")
    assert feature("steps").read().shape == (CLIPS, 2, 4)
    np.testing.assert_allclose(feature("steps").read(["c1"])[0, :, 0], levels(1).mean() * np.array([1, 2]), rtol=1e-5)
    assert feature("others").read().shape == (CLIPS, 1, 4)


def test_ragged_poolings_keep_each_clips_own_rows(folder: Path) -> None:
    extract("steps:0,2", pool=["tokens", "tokens:5", "time"])
    values, offsets = feature("steps", "tokens").read_ragged()
    assert np.diff(offsets).tolist() == LENGTHS
    for clip in range(CLIPS):
        rows = values[offsets[clip] : offsets[clip + 1]]
        np.testing.assert_allclose(rows[:, 0, 0], levels(clip), rtol=1e-5)
        np.testing.assert_allclose(rows[:, 1, 3], levels(clip) * 12, rtol=1e-5)
    _, few = feature("steps", "tokens:5").read_ragged()
    assert np.diff(few).tolist() == [min(length, 5) for length in LENGTHS]
    np.testing.assert_array_equal(feature("steps", "time").read_ragged()[0], values)


def test_a_clip_that_fails_is_named_in_every_feature(folder: Path) -> None:
    (folder / "2.wav").write_bytes(b"RIFF, but no sound")
    (folder / "4.wav").unlink()
    extraction = extract("steps", "others", "char-ngram", pool=["mean", "tokens"])
    assert [sorted(summary.failed) for summary in extraction] == [["c2", "c4"]] * 4 + [[]] * 2
    for name in ("steps", "others"):
        rows = feature(name, "tokens").ledger()
        assert [rows[f"c{n}"]["status"] for n in (1, 2, 4)] == ["ok", "failed", "failed"]
    assert sorted(extraction.failed) == ["c2", "c4"]


def test_one_content_under_two_names_is_computed_once(folder: Path, log: Log) -> None:
    (folder / "twice.csv").write_text("clip_id,path\na,0.wav\nb,0.wav\nc,1.wav\n")
    extraction = extract("steps", "others", clips="twice.csv")
    assert log()["decode 0.wav"] == 1
    assert [summary.computed for summary in extraction] == [3, 3]
    np.testing.assert_array_equal(feature("steps").read(["a"]), feature("steps").read(["b"]))


def test_before_it_starts_it_says_how_much_tokens_will_take(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "emocache")
    extract("steps:0-1", pool=["tokens", "tokens:5", "mean"])
    said = caplog.text
    assert "6 encoder passes, 12 cells, as many bytes on disk as the clips have tokens" in said
    assert "6 encoder passes, 12 cells, at most 960 B on disk" in said
    assert "6 encoder passes, 12 cells, 192 B on disk" in said
    rows = np.mean([LENGTHS[0], LENGTHS[2], LENGTHS[5]])
    assert f"about {rows:.0f} rows a clip; about {12 * rows * 16 / 1000:.1f} kB on disk" in said


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
def test_what_will_not_fit_on_the_disk_is_refused_before_anything_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pooling: str
) -> None:
    monkeypatch.setattr(target.Target, "free_bytes", lambda _: 90)
    with pytest.raises(EmocacheError, match=r"features.zarr: the features will take .* and 90 B are free on its disk"):
        extract("steps:0", pool=pooling)
    assert not (folder / "features.zarr").exists()
    assert extract("steps:0", pool=pooling, yes=True).computed == CLIPS


def test_joined_text_columns_are_a_feature_of_their_own(folder: Path) -> None:
    extract("char-ngram")
    extract("char-ngram", "steps", text_columns="text,tags")
    first, second = sorted(
        (f for f in emocache.open_store().features.values() if f.recipe.encoder == "char-ngram"),
        key=lambda f: "text" in f.recipe.fields,
    )
    assert first.clips == second.clips == [f"c{n}" for n in range(CLIPS)]
    assert not np.array_equal(first.read(), second.read())
    assert "text" not in feature("steps").recipe.fields
    with pytest.raises(BadOption, match="--text-columns: none of the encoders reads text; leave it out"):
        extract("steps", text_columns="text,tags")


# --- dtype and self-check --------------------------------------------------------------------------------------------

ALL = ("float32", "bfloat16", "float16")


def test_a_self_check_tells_the_largest_difference_and_its_bar(folder: Path) -> None:
    extraction = extract("steps", self_check=True)
    (said,) = extraction.checks
    assert said.startswith("self-check of steps in float32: 6 clips alone and in a batch differ by 0.0e+00 of their")
    assert said.endswith("bar 1e-04")
    assert extraction.computed == CLIPS
    assert extract("steps", self_check=True).checks == (said,)


def test_an_encoder_that_lets_clips_touch_each_other_fails_its_self_check(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, "leaky", leak={"float32": 0.01})
    with pytest.raises(EncoderFault, match=r"leaky in float32: 6 clips .* differ by 8.0e-02 .*; nothing was written"):
        extract("leaky", self_check=True)
    assert not (folder / "features.zarr").exists()


def test_a_self_check_sees_a_leak_in_a_quiet_layer_beside_a_loud_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Steps("uneven", leak={"float32": 0.001})
    encoder.load("cpu", "float32", [1, 3])
    forward = encoder.forward

    def loud(batch: Sequence[np.ndarray], layers: Sequence[int]) -> tuple[torch.Tensor, Sequence[int]]:
        frames, lengths = forward(batch, layers)
        frames[:, 1] = 1e6
        return frames, lengths

    monkeypatch.setattr(encoder, "forward", loud)
    waves = [np.ones(steps * STEP, dtype=np.float32) for steps in (5, 9)]
    sample = [Ready(Task(0, 0, Source("audio"), ()), Decoded(wave, len(wave), {})) for wave in waves]
    check = check_batches(encoder, "float32", [1, 3], sample)
    assert (check.passed, check.layer, check.shared) == (False, 1, 2)
    assert check.difference == pytest.approx(0.004, rel=1e-3)


def test_auto_takes_bfloat16_where_the_hardware_is_fast_in_it(
    folder: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, "flexible", dtypes=ALL)
    monkeypatch.setattr(assignment, "fast_in_bfloat16", lambda _: True)
    extraction = extract("flexible", "steps", dtype="auto")
    assert feature("flexible").recipe.fields["compute_dtype"] == "bfloat16"
    assert feature("steps").recipe.fields["compute_dtype"] == "float32"
    assert "self-check of flexible in bfloat16" in extraction.checks[0]
    log()
    monkeypatch.setattr(assignment, "fast_in_bfloat16", lambda _: False)
    assert extract("flexible", dtype="auto").held == CLIPS, "what the store holds is taken"
    assert not log()


def test_auto_takes_float32_where_bfloat16_fails_the_self_check_or_is_slow(
    folder: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, "flexible", dtypes=ALL, leak={"bfloat16": 0.1})
    monkeypatch.setattr(assignment, "fast_in_bfloat16", lambda _: True)
    extract("flexible:0", dtype="auto")
    assert feature("flexible").recipe.fields["compute_dtype"] == "float32"
    assert [what for what in log() if "load" in what] == ["load flexible bfloat16 [0]", "load flexible float32 [0]"]
    monkeypatch.setattr(assignment, "fast_in_bfloat16", lambda _: False)
    extract("flexible:0", dtype="auto", store="slow.zarr")
    assert [what for what in log() if "load" in what] == ["load flexible float32 [0]"]


def test_a_network_that_fails_its_trial_is_gone_before_the_next_one_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them may not fit."""
    offer(monkeypatch, "flexible", dtypes=ALL, leak={"bfloat16": 0.1})
    monkeypatch.setattr(assignment, "fast_in_bfloat16", lambda _: True)
    loaded: list[weakref.ref[Steps]] = []
    there: list[int] = []
    load = Steps.load

    def seen(self: Steps, device: str, dtype: str, layers: Sequence[int]) -> None:
        there.append(sum(one() is not None for one in loaded))
        loaded.append(weakref.ref(self))
        load(self, device, dtype, layers)

    monkeypatch.setattr(Steps, "load", seen)
    extract("flexible:0", dtype="auto")
    assert there == [0, 0]


@pytest.mark.parametrize(
    ("asked", "able", "auto"),
    [
        ("bfloat16", {}, "float32"),
        ("float16", {}, "float32"),
        ("float16", {"amx_bf16": True}, "bfloat16"),
        ("bfloat16", {"avx512_bf16": True}, None),
        ("float16", {"amx_fp16": True}, None),
        ("float32", {}, None),
        ("auto", {}, None),
    ],
)
def test_a_dtype_that_is_slow_here_is_told_once_with_what_auto_would_take(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: str,
    able: dict[str, bool],
    auto: str | None,
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    offer(monkeypatch, "flexible", dtypes=ALL)
    offer(monkeypatch, "supple", dtypes=ALL)
    caplog.set_level("WARNING", "emocache")
    extract("flexible", "supple", "steps", dtype=asked)
    expected = (
        f"--dtype {asked}: cpu is not known to be fast in it, and may take longer than in float32; --dtype auto would "
        f"take {auto}"
    )
    assert caplog.messages == ([expected] if auto else [])
    caplog.clear()
    extract("flexible", "supple", "steps", dtype=asked)
    assert caplog.messages == [], "nothing is left to compute"


# --- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "is_another"),
    [
        ({"pool": "stats7"}, True),
        ({"pool": "segments:2"}, True),
        ({"dtype": "bfloat16"}, True),
        ({"storage": "float16"}, True),
        ({"layers": "2-3"}, False),
        ({"device": "cpu"}, False),
        ({"workers": 2}, False),
        ({"part": (1, 2)}, False),
        ({"clip_timeout_s": 5.0}, False),
        ({"self_check": True}, False),
        ({"keep_text": True}, False),
        ({"yes": True}, False),
    ],
)
def test_the_recipe_changes_with_what_changes_the_numbers_and_with_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], is_another: bool
) -> None:
    offer(monkeypatch, "flexible", dtypes=ALL)
    (first,) = emocache.extract_features("flexible")
    (second,) = emocache.extract_features("flexible", **change)  # type: ignore[arg-type]
    assert (first.feature != second.feature) is is_another


def test_a_compute_dtype_that_an_encoder_does_not_have_is_refused_or_means_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, "flexible", dtypes=("float32", "bfloat16"))
    with pytest.raises(BadOption, match="--dtype float16: flexible computes in float32, bfloat16; take one of them"):
        extract("flexible", dtype="float16")
    (asked,) = extract("steps", dtype="float16")
    (left,) = extract("steps")
    assert asked.feature == left.feature, "it computes in float32 whatever is asked for"


# --- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ("hubert-large", ("hubert-large", None, None)),
        ("hubert-large:16-21", ("hubert-large", None, "16-21")),
        ("clip-large@face", ("clip-large", "face", None)),
        ("clip-large@face-grid:-4:", ("clip-large", "face-grid", "-4:")),
        ("clip-large@frame:embed", ("clip-large", "frame", "embed")),
        ("org/name:6,8, 10", ("org/name", None, "6,8, 10")),
        ("./folder/model:all", ("./folder/model", None, "all")),
    ],
)
def test_an_encoder_is_asked_for_with_view_and_layers(asked: str, parts: tuple[str | None, ...]) -> None:
    assert _split(asked) == parts


def test_a_folder_may_have_colons_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "model@v2:3").mkdir()
    assert _split(str(tmp_path / "model@v2:3")) == (str(tmp_path / "model@v2:3"), None, None)


@pytest.mark.parametrize(
    ("encoders", "options", "message"),
    [
        ([], {}, "no encoder is named; `emocache encoders` lists them"),
        (["steps", "steps:1"], {}, "'steps:1' asks for a feature that another --encoder asks for too; name its layers"),
        (["steps@face"], {}, "--encoder 'steps@face': steps has no views; leave out @face"),
        (["steps:embed"], {}, "--encoder 'steps:embed': steps has no layer embed"),
        (["steps:7"], {}, "layers run from 0"),
        (["steps", "others"], {"max_seconds": 3}, "--max-seconds: none of steps, others takes it; leave it out"),
        (
            ["hubert-large", "wav2vec2-large"],
            {"weights": "."},
            "one model's folder, and hubert-large and wav2vec2-large",
        ),
        (["steps"], {"pool": ["mean", "max"]}, "--pool 'max' is not known"),
    ],
)
def test_what_cannot_be_asked_for_is_answered_in_words(
    folder: Path, encoders: list[str], options: dict[str, object], message: str
) -> None:
    with pytest.raises(BadOption, match=message):
        extract(*encoders, **options)
    assert not (folder / "features.zarr").exists()

"""A store behind a URL reads as the local one does, to the last bit, and moves no more than what is asked for."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from torch.utils.data import DataLoader
from typer.testing import CliRunner

import emocache
from emocache.cli import app
from emocache.errors import BadOption, MissingCells, NotAStore, PlaceError, StoreError
from emocache.spec import Recipe
from emocache.store import FeatureDataset, FeatureWriter, open_or_make_store, open_store, write_roster
from emocache.store.roster import write_roster as name_clips

from ..filling import chunk_of, fail, fill, key, recipe, segments, stand_in
from .behind import chunks, files_below, objects, put, report, seen, upload
from .s3_server import Server

WORDS = Recipe({"encoder": "words", "modality": "audio", "pooling": "tokens", "storage_dtype": "float16"})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("EMOCACHE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return several(tmp_path / "s.zarr")


def several(path: Path) -> Path:
    """Three segments of a pooled feature, one with other layers, a failure, and two of a ragged one."""
    feature = fill(path, range(8), (0, 1, 2))
    fill(path, range(8, 12), (0, 1))
    fill(path, range(4), (5,))
    fail(feature, 20, "no sound at all")
    words = open_or_make_store(path).add_feature(WORDS, {"numpy": "2"})
    for numbers in (range(5), range(5, 9)):
        writer = FeatureWriter(words.folder, words.fingerprint, (3, 4))
        for number in numbers:
            rows = np.arange((number + 1) * 2 * 3, dtype=np.float16).reshape(-1, 2, 3) + 100 * number
            writer.add(key(number), rows, {"frames": number})
        writer.flush()
    return path


class TestReadsAsTheLocalStore:
    @pytest.mark.parametrize("inline", ["small arrays in the manifest", "small arrays in files"])
    @pytest.mark.parametrize("index", ["from manifests", "from a snapshot"])
    def test_all_that_can_be_read(
        self, tmp_path: Path, odd_server: Server, inline: str, index: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if inline.endswith("files"):
            monkeypatch.setattr("emocache.store.commit.INLINE_BYTES", 0)
            monkeypatch.setattr("emocache.store.commit.LASTING_INLINE_BYTES", 0)
        path = several(tmp_path / "s.zarr")
        if index.endswith("snapshot"):
            monkeypatch.setattr("emocache.store.catalog.MANY_UNCOVERED", 1)
            for feature in open_store(path).features.values():
                assert emocache.store.refresh_snapshot(feature.folder, feature.fingerprint)
            fill(path, range(30, 33), (0,))  # one that the snapshot does not know
        url = put(path, odd_server)
        assert seen(open_store(url)) == seen(open_store(path))
        assert report(url, "stand-in") == report(path, "stand-in")
        used = any("/index/" in name and name.endswith("zarr.json") for name in odd_server.sent)
        assert used == index.endswith("snapshot")

    @pytest.mark.parametrize("codec", [None, "zstd", "blosc"])
    def test_a_compacted_store(self, store: Path, odd_server: Server, codec: str | None) -> None:
        emocache.compact_store(store, codec=codec)
        url = put(store, odd_server)
        assert seen(open_store(url)) == seen(open_store(store))
        emocache.collect_garbage(store, older_than="0s")
        assert seen(open_store(put(store, odd_server))) == seen(open_store(store))

    def test_on_a_server_that_many_use(self, store: Path, s3: str) -> None:
        assert seen(open_store(upload(store, s3))) == seen(open_store(store))
        with pytest.raises(
            NotAStore, match=rf"^{s3}-none: no store is here \(no zarr\.json\); emocache push makes one"
        ):
            open_store(f"{s3}-none")

    def test_texts_that_were_joined_are_known_by_the_rows(self, tmp_path: Path, odd_server: Server) -> None:
        path = tmp_path / "t.zarr"
        fields = {**recipe().fields, "modality": "text", "settings": {"columns": ["text", "mood"]}}
        made = Recipe(fields)
        feature = open_or_make_store(path).add_feature(made, {})
        name_clips(path, [("a", {}), ("b", {})], {"a": {made.reads: key(1).hex()}, "b": {made.reads: key(2).hex()}})
        writer = FeatureWriter(feature.folder, feature.fingerprint, (0,))
        for number in (1, 2):
            writer.add(key(number), np.full((1, 4), number, dtype=np.float32), {})
        writer.flush()
        assert seen(open_store(put(path, odd_server))) == seen(open_store(path))

    def test_an_array_is_exported_byte_for_byte(self, store: Path, odd_server: Server, tmp_path: Path) -> None:
        url = put(store, odd_server)
        for place, name in ((store, "here"), (url, "there")):
            emocache.export_array("stand-in", tmp_path / f"{name}.npy", layers="0,1", store=place)
        assert (tmp_path / "here.npy").read_bytes() == (tmp_path / "there.npy").read_bytes()
        assert (tmp_path / "here.json").read_bytes() == (tmp_path / "there.json").read_bytes()

    def test_recipes_here_and_there_are_compared(self, store: Path, odd_server: Server, tmp_path: Path) -> None:
        fill(tmp_path / "other.zarr", range(2), made=recipe(rate="8000"))
        url = put(store, odd_server)
        assert "settings.rate" in str(emocache.diff_features("stand-in", "stand-in", url, tmp_path / "other.zarr"))
        assert "settings.rate" in str(emocache.diff_features("stand-in", "stand-in", tmp_path / "other.zarr", url))


class TestMovesNoMoreThanIsNeeded:
    def test_a_layer_is_fetched_alone_and_once(self, store: Path, odd_server: Server) -> None:
        url = put(store, odd_server)
        open_store(url).features["stand-in"].read(layers=[1])
        assert sorted(name for name in odd_server.sent if name.endswith(".1.0")) == chunks(odd_server, 1)[:2]
        assert not [name for layer in (0, 2) for name in chunks(odd_server, layer) if odd_server.sent[name]]
        odd_server.sent.clear()
        feature = open_store(url).features["stand-in"]
        feature.read(layers=[1])
        assert set(odd_server.sent) == {"bucket/team/s.zarr/zarr.json"}
        odd_server.sent.clear()
        feature.read(layers=[0])
        assert sorted(odd_server.sent) == chunks(odd_server, 0)[:2]

    @pytest.mark.parametrize(
        ("dtype", "compacted", "from_nothing"),
        [("float32", False, 1.05), ("float16", True, 1.05), ("float16", False, 1.06)],
    )
    def test_one_layer_of_six_moves_no_more_than_that_layer(
        self, tmp_path: Path, odd_server: Server, dtype: str, compacted: bool, from_nothing: float
    ) -> None:
        """From nothing: the listing, names, keys and the ledgers that lie in manifests come too, but once."""
        path = six_layers(tmp_path / "six.zarr", dtype, compacted=compacted)
        url = put(path, odd_server)
        layer = 2_000 * 1_024 * np.dtype(dtype).itemsize
        feature = open_store(url).features["six"]
        assert feature.read(layers=[19]).nbytes == layer
        assert len(feature.held([19])) == 2_000
        assert layer < odd_server.sent.total() <= from_nothing * layer
        assert [name.split("/")[-2] for name in odd_server.sent if "/roster/" in name and "/c." in name] == [
            "keys.audio",
            "clips",
        ]
        odd_server.sent.clear()
        np.testing.assert_array_equal(feature.read(layers=[20]), open_store(path).features["six"].read(layers=[20]))
        assert odd_server.sent.total() <= 1.0001 * layer

    def test_a_single_clip_needs_one_chunk(self, store: Path, odd_server: Server) -> None:
        url = put(store, odd_server)
        open_store(url).features["stand-in"].read(["c2"], [0])
        assert [name for name in odd_server.sent if "/c." in name] == chunks(odd_server, 0)[:1]

    def test_the_list_of_features_needs_no_values(self, store: Path, odd_server: Server) -> None:
        url = put(store, odd_server)
        emocache.list_features(url)
        emocache.read_ledger(store=url)
        assert not [name for name in odd_server.sent if "/c." in name]


def six_layers(path: Path, dtype: str, *, compacted: bool) -> Path:
    """2,000 clips of a feature as large encoders give it: six layers of 1,024 numbers."""
    made = Recipe({"encoder": "six", "modality": "audio", "pooling": "mean", "storage_dtype": dtype})
    feature = open_or_make_store(path).add_feature(made, {})
    draw = np.random.default_rng(0)
    names = [f"dia{number // 12}_utt{number % 12}" for number in range(2_000)]
    keys = [draw.bytes(32) for _ in names]
    columns = {"label": "neutral", "speaker": "s01", "split": "train"}
    others = ("video", "text", "text-0123456789ab")
    found = {
        n: {"audio": k.hex(), **{name: draw.bytes(32).hex() for name in others}}
        for n, k in zip(names, keys, strict=True)
    }
    write_roster(path, [(n, columns) for n in names], found)
    writer = FeatureWriter(feature.folder, feature.fingerprint, tuple(range(16, 22)))
    for content in keys:
        facts = {"duration_s": int(draw.integers(8_000, 160_000)) / 16_000, "silent": False, "truncated": False}
        writer.add(content, draw.standard_normal((6, 1_024), dtype=np.float32).astype(dtype), facts)
    writer.flush()
    if compacted:
        emocache.compact_store(path)
        emocache.collect_garbage(path, older_than="0s")
    return path


class TestFits:
    def test_a_fit_gives_the_same_numbers_byte_for_byte(self, odd_server: Server, tmp_path: Path) -> None:
        path = labelled(tmp_path / "l.zarr")
        url = put(path, odd_server)
        for place, name in ((path, "here"), (url, "there")):
            emocache.fit_head(place, "linear", folds="3", out=tmp_path / name)
        for file in ("metrics.json", "oof.parquet", "report.md"):
            assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()
        here, there = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("here", "there"))
        assert there.pop("url") == url
        assert here == there
        run = emocache.load_run(tmp_path / "there")
        np.testing.assert_array_equal(run.predict_proba(run.load_matrix(url)), run.predict_proba(run.load_matrix(path)))

    def test_the_commands_take_a_url(self, odd_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = labelled(tmp_path / "l.zarr")
        url = put(path, odd_server)
        monkeypatch.chdir(tmp_path)
        run = CliRunner()
        told = run.invoke(app, ["ls", "--store", url])
        assert told.exit_code == 0, told.output
        assert told.output.startswith(f"{url} · format 1 · 36 clips in the roster")
        monkeypatch.setenv("EMOCACHE_STORE", url)
        for command in (
            ["ls"],
            ["info", "stand-in"],
            ["ledger", "--all"],
            ["diff", "stand-in", "stand-in", "--other", url],
            ["export-array", "stand-in", "--out", "x.npy"],
            ["fit", "--head", "linear", "--folds", "3", "--out", "run"],
            ["refine", "--head", "linear", "--folds", "3"],
        ):
            told = run.invoke(app, command)
            assert told.exit_code == 0, (command, told.output)
        told = run.invoke(app, ["compact"])
        assert told.exit_code == 1
        assert told.output.startswith(f"error: {url}: a store behind a URL can be read, but not changed")


def labelled(path: Path) -> Path:
    """36 clips of three emotions that their numbers tell apart."""
    feature = fill(path, range(36), (0, 1))
    rng = np.random.default_rng(3)
    rows = [(f"c{n}", {"label": "abc"[n % 3], "speaker": f"s{n % 6}"}) for n in range(36)]
    write_roster(path, rows, {f"c{n}": {"audio": key(n).hex()} for n in range(36)})
    shutil.rmtree(segments(path)[0])
    writer = FeatureWriter(feature.folder, feature.fingerprint, (0, 1))
    for number in range(36):
        writer.add(key(number), (rng.normal(size=(2, 5)) + 2 * np.eye(5)[number % 3]).astype(np.float32), {})
    writer.flush()
    return path


class TestWhatChangesThere:
    def test_a_segment_that_is_pushed_is_seen_when_the_store_is_opened_again(
        self, store: Path, odd_server: Server
    ) -> None:
        url = put(store, odd_server)
        before = open_store(url)
        assert len(before.features["stand-in"].held([0])) == 12
        fill(store, range(40, 43), (0,))
        put(store, odd_server)
        assert len(before.features["stand-in"].held([0])) == 12
        assert seen(open_store(url)) == seen(open_store(store))

    def test_a_segment_that_vanished_is_not_seen_although_it_lies_in_the_mirror(
        self, store: Path, odd_server: Server
    ) -> None:
        url = put(store, odd_server)
        feature = open_store(url).features["stand-in"]
        feature.read(layers=[0])
        shutil.rmtree(segments(store)[1])
        put(store, odd_server)
        assert seen(open_store(url)) == seen(open_store(store))
        with pytest.raises(MissingCells, match="not held for clip c8"):
            stand_in_of(url).read(["c8"], [0])
        assert feature.read(["c8"], [0]).shape == (1, 1, 5)  # who opened it before still can

    def test_another_store_in_its_place_is_not_mixed_with_it(
        self, store: Path, odd_server: Server, tmp_path: Path
    ) -> None:
        url = put(store, odd_server)
        seen(open_store(url))
        fill(tmp_path / "other.zarr", range(3), (0,), shift=0.5)
        put(tmp_path / "other.zarr", odd_server)
        assert seen(open_store(url)) == seen(open_store(tmp_path / "other.zarr"))

    def test_without_the_other_side_nothing_is_guessed(
        self, store: Path, odd_server: Server, monkeypatch: pytest.MonkeyPatch, hasty: object
    ) -> None:
        url = put(store, odd_server)
        seen(open_store(url))
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(PlaceError, match=f"^{url}: ") as told:
            open_store(url)
        assert "emocache pull makes a whole copy that needs no network" in told.value.__notes__[0]


class TestIsOnlyRead:
    def test_what_would_write_says_what_to_do_instead(self, store: Path, odd_server: Server, tmp_path: Path) -> None:
        url = put(store, odd_server)
        text = (
            f"^{url}: a store behind a URL can be read, but not changed in place; "
            f"emocache pull {url} features.zarr, work there, and emocache push it back"
        )
        opened = open_store(url)
        clips = tmp_path / "clips.csv"
        clips.write_text("clip_id,path\na,a.wav\n")
        for refused in (
            lambda: emocache.extract_features("prosody", clips=clips, store=url),
            lambda: emocache.merge_stores([store], url),
            lambda: emocache.merge_stores([url], store),
            lambda: emocache.compact_store(url),
            lambda: emocache.collect_garbage(url),
            lambda: emocache.verify_store(url, repair=True),
            lambda: open_or_make_store(url),
            lambda: opened.add_feature(recipe(rate="1"), {}),
            opened.as_zarr,
        ):
            with pytest.raises(StoreError, match=text):
                refused()
        assert not odd_server.requests["PUT"]

    def test_a_url_that_became_a_path_is_told_apart(self) -> None:
        with pytest.raises(BadOption, match=r"^s3:/bucket/x: neither a folder nor a URL: .*a Path takes a / away"):
            open_store(Path("s3://bucket/x"))

    def test_a_file_url_is_the_folder_itself(self, store: Path) -> None:
        assert open_store(f"file://{store}").path == store
        assert emocache.verify_store(f"file://{store}").faults == []

    def test_a_secret_in_a_url_is_shown_by_no_error(self) -> None:
        for place in (open_store, open_or_make_store):
            with pytest.raises(BadOption, match="a URL with a password or key is refused") as told:
                place("s3://key:geheim@bucket/x")
            assert "geheim" not in str(told.value)


class TestDataSets:
    def test_workers_that_are_spawned_read_the_same_segments(self, store: Path, odd_server: Server) -> None:
        url = put(store, odd_server)
        dataset = FeatureDataset(url, "stand-in", layers=[0, 1])
        assert dataset.store == url
        twin = pickle.loads(pickle.dumps(dataset))  # noqa: S301 (our own)
        assert twin.view == dataset.view
        np.testing.assert_array_equal(twin[5], FeatureDataset(store, "stand-in", layers=[0, 1])[5])
        loader = DataLoader(dataset, batch_size=4, num_workers=1, multiprocessing_context="spawn")
        np.testing.assert_array_equal(np.concatenate(list(loader)), stand_in(store).read(layers=[0, 1]))

    def test_a_worker_that_was_forked_says_how_to_start_it(self, store: Path, odd_server: Server) -> None:
        feature = stand_in_of(put(store, odd_server))
        assert feature.clips
        with (
            mock.patch("os.getpid", return_value=os.getpid() + 1),
            pytest.raises(StoreError, match=r"opened before this process was forked.*multiprocessing_context='spawn'"),
        ):
            feature.read(layers=[0])


def stand_in_of(url: str) -> emocache.store.Feature:
    return open_store(url).features["stand-in"]


def test_nothing_is_written_outside_the_cache_folder(
    store: Path, odd_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    before = files_below(tmp_path)
    seen(open_store(put(store, odd_server)))
    new = files_below(tmp_path) - before
    assert {name.partition("/")[0] for name in new} == {"cache"}
    mirror = next(cache.glob("mirrors/team-s.zarr-*"), None) or next(cache.glob("mirrors/*"))
    assert {p.name for p in mirror.iterdir()} == {"store", "incoming"}
    assert not list((mirror / "incoming").iterdir())
    assert chunk_of(segments(mirror / "store")[0]).read_bytes() == chunk_of(segments(store)[0]).read_bytes()
    assert len(objects(odd_server, "zarr.json")) > 5

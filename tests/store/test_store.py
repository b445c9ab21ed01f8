"""The store's promises: whole or not at all, exact, readable by any Zarr reader, hard to mislead."""

import base64
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from emocache.errors import AmbiguousName, DamagedStore, MissingCells, NotAStore, StoreError, UnknownName
from emocache.spec import Recipe
from emocache.store import Feature, FeatureWriter, Store, open_or_make_store, open_store, write_roster
from emocache.store.documents import group_document, seal
from emocache.store.listing import open_segment
from emocache.store.roster import clip_keys, read_roster
from emocache.store.rows import Plan, RowReader

DIM = 5


def recipe(encoder: str = "prosody", **more: object) -> Recipe:
    fields = {"encoder": encoder, "modality": "audio", "pooling": "mean", "storage_dtype": "float32", **more}
    return Recipe(fields)


def key(number: int) -> bytes:
    return (number + 1).to_bytes(32)


def values(number: int, layers: tuple[int, ...]) -> np.ndarray:
    return np.array([[number * 100 + layer * 10 + d for d in range(DIM)] for layer in layers], dtype=np.float32)


def name_clips(path: Path, numbers: range) -> None:
    named = [(f"clip{n}", {"label": "a"}) for n in numbers]
    write_roster(path, named, {f"clip{n}": {"audio": key(n).hex()} for n in numbers})


def add(feature: Feature, numbers: range, layers: tuple[int, ...] = (0,)) -> None:
    writer = FeatureWriter(feature.folder, feature.fingerprint, layers)
    for number in numbers:
        writer.add(key(number), values(number, layers), {"duration_s": 1.5})
    writer.flush()


@pytest.fixture
def filled(tmp_path: Path) -> Store:
    """Four clips with layers 1 and 2 in two segments."""
    store = open_or_make_store(tmp_path / "s.zarr")
    name_clips(store.path, range(4))
    feature = store.add_feature(recipe(), {"torch": "2"})
    add(feature, range(2), (1, 2))
    add(feature, range(2, 4), (1, 2))
    return open_store(store.path)


def test_what_was_written_is_read_back_in_the_order_asked_for(filled: Store) -> None:
    feature = filled.features["prosody"]
    read = feature.read(clips=["clip3", "clip0"], layers=[2, 1])
    assert read.shape == (2, 2, DIM)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.stack([values(3, (2, 1)), values(0, (2, 1))]))
    np.testing.assert_array_equal(feature.read(), np.stack([values(n, (1, 2)) for n in range(4)]))
    assert feature.clips == ["clip0", "clip1", "clip2", "clip3"]
    assert feature.layers == (1, 2)
    assert feature.dim == DIM


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.sets(st.integers(0, 4), min_size=1)), min_size=1, max_size=6))
def test_any_sequence_of_commits_reads_as_the_union_of_its_cells(
    tmp_path_factory: pytest.TempPathFactory, commits: list[tuple[int, set[int]]]
) -> None:
    store = open_or_make_store(tmp_path_factory.mktemp("s") / "s.zarr")
    name_clips(store.path, range(7))
    feature = store.add_feature(recipe(), {})
    for number, layers in commits:
        add(feature, range(number, number + 1), tuple(sorted(layers)))
    held = {(number, layer) for number, layers in commits for layer in layers}
    fresh = open_store(store.path).features["prosody"]
    for number in range(7):
        for layer in range(5):
            if (number, layer) in held:
                np.testing.assert_array_equal(fresh.read([f"clip{number}"], [layer])[0], values(number, (layer,)))
            else:
                with pytest.raises(MissingCells):
                    fresh.read([f"clip{number}"], [layer])


def test_zarr_python_reads_every_array_bit_for_bit_without_a_warning(filled: Store) -> None:
    group = filled.as_zarr()
    segments = group[f"features/{filled.features['prosody'].name}/segments"]
    assert isinstance(segments, zarr.Group)
    found = {}
    for _, array in segments.arrays():
        assert isinstance(array.attrs["emocache"], dict)
        data = base64.b64decode(array.attrs["emocache"]["arrays"]["keys"]["data"])  # type: ignore[index, call-overload, arg-type]
        for row, stored in zip(np.asarray(array[:]), np.frombuffer(data, "V32"), strict=True):
            found[stored.tobytes()] = row
    assert set(found) == {key(n) for n in range(4)}
    for number in range(4):
        np.testing.assert_array_equal(found[key(number)], values(number, (1, 2)))
    assert len(list(group.members(max_depth=None))) == 7


def test_a_chunk_is_the_raw_array_and_four_bytes(filled: Store) -> None:
    chunk = next(filled.path.glob("features/*/segments/*/c.0.1.0"))
    assert chunk.stat().st_size == 2 * DIM * 4 + 4
    np.testing.assert_array_equal(np.frombuffer(chunk.read_bytes()[:-4], "<f4").reshape(2, DIM)[:, 0] % 100, [20, 20])


def test_a_feature_is_found_by_its_encoder_and_by_the_beginning_of_its_name(filled: Store) -> None:
    name = next(iter(filled.features))
    assert name == recipe().feature_name
    assert filled.features["prosody"].name == filled.features[name[:11]].name == name
    with pytest.raises(UnknownName, match=r"feature 'prosody-0' is not known; did you mean prosody-"):
        filled.features["prosody-0"]


def test_two_features_of_one_encoder_must_be_told_apart(filled: Store) -> None:
    filled.add_feature(recipe(pooling="stats7"), {})
    with pytest.raises(
        AmbiguousName, match=r"fits several of .*; name one of them in full, or more of it:\n  prosody-"
    ):
        open_store(filled.path).features["prosody"]


def test_absent_layers_and_clips_are_named_with_the_way_to_get_them(filled: Store) -> None:
    feature = filled.features["prosody"]
    with pytest.raises(
        MissingCells, match=r"layer 7 is not held; held: 1, 2; run emocache extract --encoder prosody --layers 7"
    ):
        feature.read(layers=[1, 7])
    with pytest.raises(MissingCells, match="no audio of clip nobody is in the roster"):
        feature.read(clips=["clip0", "nobody"])
    add(feature, range(1), (7,))
    with pytest.raises(MissingCells, match=r"layers 7 are not held for clip clip1; extract them, or read the ledger"):
        open_store(filled.path).features["prosody"].read(clips=["clip0", "clip1"], layers=[7])


def test_a_segment_without_its_document_is_not_there(filled: Store) -> None:
    add(filled.features["prosody"], range(9, 10), (1, 2))
    newest = max(filled.path.glob("features/*/segments/*/zarr.json"))
    newest.unlink()
    fresh = open_store(filled.path).features["prosody"]
    assert len(fresh.segments) == 2


@pytest.mark.parametrize("edit", [b'"rows":3', b'"rows":2 ', b'"rows":', b""])
def test_a_manifest_that_was_edited_or_torn_is_not_committed(filled: Store, edit: bytes) -> None:
    newest = max(filled.path.glob("features/*/segments/*/zarr.json"))
    whole = newest.read_bytes()
    newest.write_bytes(whole.replace(b'"rows":2', edit) if edit else whole[: len(whole) // 2])
    assert len(open_store(filled.path).features["prosody"].segments) == 1
    with pytest.raises(DamagedStore, match=r"zarr\.json: (not strict JSON|its sha256 is not that|not the bytes that)"):
        open_segment(newest.parent, strict=True)


@pytest.mark.parametrize("file", ["values/c.0.0.0", "values/c.0.1.0", "keys/c.0.0", "ledger/c.0"])
def test_a_missing_or_shortened_file_is_named_and_never_read_as_fill_values(
    in_files: None, filled: Store, file: str
) -> None:
    chunk = next(filled.path.glob(f"features/*/segments/*/{file}"))
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-1])
    with pytest.raises(
        DamagedStore, match=rf"{file}: {len(whole) - 1} bytes found, {len(whole)} expected; copy the store again"
    ):
        read_all(filled.path)
    chunk.unlink()
    with pytest.raises(DamagedStore, match=rf"{file}: missing, {len(whole)} bytes expected"):
        read_all(filled.path)


def read_all(path: Path) -> None:
    feature = open_store(path).features["prosody"]
    feature.read()
    feature.ledger()


def test_every_flipped_byte_of_the_values_is_found_when_they_are_read(filled: Store) -> None:
    chunk = next(filled.path.glob("features/*/segments/*/c.0.0.0"))
    whole = bytearray(chunk.read_bytes())
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 0x10
        chunk.write_bytes(flipped)
        with pytest.raises(DamagedStore, match="its checksum fails"):
            open_store(filled.path).features["prosody"].read()


def test_a_chunk_that_is_a_link_is_refused(filled: Store, tmp_path: Path) -> None:
    chunk = next(filled.path.glob("features/*/segments/*/c.0.0.0"))
    elsewhere = tmp_path / "elsewhere"
    shutil.move(chunk, elsewhere)
    chunk.symlink_to(elsewhere)
    with pytest.raises(DamagedStore, match=r"c\.0\.0\.0: .* bytes found"):
        open_store(filled.path).features["prosody"].read()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b'{"zarr_format": 3, "zarr_format": 3}', "a key stands twice"),
        (b'{"zarr_format": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "not strict JSON|nested too deeply"),
        (b'{"zarr_format": 2}', "no Zarr v3 group"),
        (b'{"zarr_format": 3, "node_type": "group", "attributes": {"emocache": [1]}}', "expected a map"),
        (b"{" + b" " * (16 * 2**20), "more than 16,777,216 bytes"),
    ],
)
def test_a_hostile_document_is_a_typed_error(filled: Store, document: bytes, message: str) -> None:
    (filled.path / "zarr.json").write_bytes(document)
    with pytest.raises(DamagedStore, match=message):
        open_store(filled.path)


def test_a_segment_of_another_feature_is_refused(filled: Store) -> None:
    other = filled.add_feature(recipe(pooling="stats7"), {})
    theirs = next(filled.path.glob(f"features/{recipe().feature_name}/segments/*-*"))
    shutil.copytree(theirs, other.folder / "segments" / theirs.name)
    with pytest.raises(DamagedStore, match="it belongs to another feature"):
        _ = open_store(filled.path).features[other.name].clips


def test_a_recipe_that_was_edited_no_longer_fits_its_folder(filled: Store) -> None:
    document = filled.features["prosody"].folder / "zarr.json"
    document.write_text(document.read_text().replace('"pooling":"mean"', '"pooling":"stats7"'))
    with pytest.raises(DamagedStore, match=r"its sha256 is not that of its content; the document was changed"):
        _ = open_store(filled.path).features
    attributes = json.loads(document.read_text())["attributes"]["emocache"]
    document.write_bytes(group_document(seal(attributes).text))
    with pytest.raises(DamagedStore, match="the recipe was changed"):
        _ = open_store(filled.path).features


def test_no_store_a_foreign_group_and_a_newer_format_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotAStore, match="no store is here; emocache extract makes one"):
        open_store(tmp_path / "nothing")
    with pytest.raises(NotAStore, match=r"holds no zarr\.json"):
        open_store(tmp_path)
    zarr.create_group(tmp_path / "foreign.zarr")
    with pytest.raises(NotAStore, match=r"not an emocache store \(no attributes\.emocache\)"):
        open_store(tmp_path / "foreign.zarr")
    newer = open_or_make_store(tmp_path / "newer.zarr").path / "zarr.json"
    newer.write_bytes(group_document(seal({"format": 2, "min_reader": 2, "uuid": "x"}).text))
    with pytest.raises(NotAStore, match="needs a reader of format 2, this emocache reads format 1; update emocache"):
        open_store(newer.parent)


def test_a_folder_with_other_things_in_it_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(NotAStore, match="not an emocache store, and not empty"):
        open_or_make_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@contextmanager
def _without_root() -> Iterator[None]:
    """Drop root's right to write everywhere, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_without_permission_to_write_the_error_names_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    with (
        _without_root(),
        pytest.raises(StoreError, match=r"cannot write a store here: no permission in .*locked"),
    ):
        open_or_make_store(folder / "s.zarr")


def test_the_ledger_prefers_success_and_then_the_newest_failure(filled: Store) -> None:
    feature = filled.features["prosody"]
    name_clips(filled.path, range(6))
    for number, message in [(0, "late failure of a clip that is held"), (5, "first"), (5, "second")]:
        writer = FeatureWriter(feature.folder, feature.fingerprint, (1, 2))
        writer.add_failure({"key": key(number).hex(), "status": "failed", "stage": "decode", "message": message})
        writer.add_failure({"clip_id": "gone", "key": None, "status": "failed", "stage": "read", "message": "no file"})
        writer.flush()
    ledger = open_store(filled.path).features["prosody"].ledger()
    assert ledger["clip0"]["status"] == "ok"
    assert ledger["clip0"]["facts"] == {"duration_s": 1.5}
    assert ledger["clip5"]["message"] == "second"
    assert ledger["gone"]["message"] == "no file"
    assert "clip4" not in ledger


def test_two_names_of_one_content_share_a_cell_and_a_moved_clip_is_reported(filled: Store) -> None:
    moved = write_roster(
        filled.path,
        [("clip0", {"label": "b"}), ("again", {})],
        {"clip0": {"audio": key(3).hex()}, "again": {"audio": key(1).hex()}},
    )
    assert moved == ["clip0"]
    fresh = open_store(filled.path)
    np.testing.assert_array_equal(fresh.features["prosody"].read(["again", "clip0"], [1])[:, 0, 0], [110, 310])
    assert [row["label"] for row in fresh.roster if row["clip_id"] == "clip0"] == ["b"]


def test_the_keys_of_clips_are_those_of_their_rows_whatever_the_segments_share(tmp_path: Path) -> None:
    """Commits of other clips, of the same ones again, with other content, and of another modality."""
    store = open_or_make_store(tmp_path / "s.zarr")
    assert clip_keys(store.path, "audio").names == []
    batches = [
        ("audio", range(5), 0),
        ("audio", range(5, 8), 0),
        ("video", range(6, 10), 0),
        ("audio", range(3, 9), 50),
    ]
    for modality, numbers, shift in batches:
        named = [(f"clip{n}", {}) for n in numbers]
        write_roster(store.path, named, {f"clip{n}": {modality: key(n + shift).hex()} for n in numbers})
        for reads in ("audio", "video"):
            found = clip_keys(store.path, reads)
            rows = {name: row["keys"][reads] for name, row in read_roster(store.path).items() if reads in row["keys"]}
            assert dict(zip(found.names, (row.tobytes().hex() for row in found.keys), strict=True)) == rows
            assert found.names == list(rows)


def test_an_unchanged_roster_is_not_written_again(filled: Store) -> None:
    name_clips(filled.path, range(4))
    assert len(list(filled.path.glob("roster/*-*"))) == 1


def test_opening_a_store_loads_neither_torch_nor_zarr(filled: Store) -> None:
    read = f"emocache.open_store({str(filled.path)!r}).features['prosody'].read()"
    code = f"import emocache, sys; {read}; print([m for m in ('torch', 'zarr') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import numpy as np
    from emocache.store import FeatureWriter, open_store
    feature = open_store(sys.argv[1]).features["prosody"]
    start = int(sys.argv[2])
    for number in range(start, start + 100_000):
        writer = FeatureWriter(feature.folder, feature.fingerprint, (0,))
        writer.add((number + 1).to_bytes(32), np.full((1, 5), number, dtype=np.float32), {})
        writer.flush()
        print(number, flush=True)
    """
)


def test_killed_writers_side_by_side_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    store = open_or_make_store(tmp_path / "s.zarr")
    store.add_feature(recipe(), {})
    starts = [0, 10_000, 20_000]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(store.path), str(start)], stdout=subprocess.PIPE, text=True)
        for start in starts
    ]
    acknowledged = []
    for writer in writers:
        assert writer.stdout is not None
        acknowledged += [int(writer.stdout.readline()) for _ in range(20)]
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
    for writer in writers:
        rest, _ = writer.communicate()
        acknowledged += [int(line) for line in rest.splitlines() if line.isdecimal()]
    named = [(str(number), {}) for number in acknowledged]
    write_roster(store.path, named, {str(n): {"audio": key(n).hex()} for n in acknowledged})
    read = open_store(store.path).features["prosody"].read([str(n) for n in acknowledged], [0])
    np.testing.assert_array_equal(read[:, 0, 0], acknowledged)


def test_the_store_documents_are_plain_json_with_a_stamp(filled: Store) -> None:
    stamp = json.loads((filled.path / "zarr.json").read_text())["attributes"]["emocache"]
    assert stamp["format"] == stamp["min_reader"] == 1
    assert stamp["uuid"] == filled.uuid


def test_rows_that_are_not_in_memory_are_asked_for_at_once_and_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two layers of three chunks; few rows of each, which are mapped: with every row slow, and with none."""
    monkeypatch.setattr("emocache.store.layout.CHUNK_BYTES", 2**17)
    store = open_or_make_store(tmp_path / "s.zarr")
    name_clips(store.path, range(150))
    feature = store.add_feature(recipe(), {})
    writer = FeatureWriter(feature.folder, feature.fingerprint, (0, 1))
    content = np.random.default_rng(0).standard_normal((150, 2, 512)).astype(np.float32)
    for number in range(150):
        writer.add(key(number), content[number], {})
    writer.flush()
    asked: list[int] = []
    real = RowReader._ask_for

    def noted(self: RowReader, plan: Plan, start: int) -> None:
        asked.append(start)
        real(self, plan, start)

    monkeypatch.setattr(RowReader, "_ask_for", noted)
    several, one_each = [3, 149, 70, 4, 100, 0], [149, 70, 3]
    for slow_from, chosen, expected in ((0.0, several, 2), (1e9, several, 0), (0.0, one_each, 2), (1e9, one_each, 0)):
        asked.clear()
        monkeypatch.setattr("emocache.store.rows.COLD_S", slow_from)
        fresh = open_store(store.path).features["prosody"]
        found = fresh.read([f"clip{number}" for number in chosen])
        np.testing.assert_array_equal(found, content[chosen])
        assert len(asked) == expected


@pytest.mark.parametrize("other", [np.zeros((2, DIM), np.float16), np.zeros((2, DIM + 1), np.float32)])
def test_cells_of_another_dtype_or_dim_are_refused(filled: Store, other: np.ndarray) -> None:
    feature = filled.features["prosody"]
    writer = FeatureWriter(feature.folder, feature.fingerprint, (1, 2))
    writer.add(key(7), values(7, (1, 2)), {})
    with pytest.raises(StoreError, match="all clips of a feature have one dim and dtype"):
        writer.add(key(8), other, {})


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux tells which files a process has open")
def test_a_commit_that_cannot_open_a_folder_leaves_no_file_open(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one error of which more open files would be the next."""
    writer = FeatureWriter(filled.features["prosody"].folder, filled.features["prosody"].fingerprint, (1, 2))
    writer.add(key(7), values(7, (1, 2)), {})
    real, turns = os.open, iter([True, False])

    def refused(path: Path, flags: int, *more: int) -> int:
        if flags & os.O_DIRECTORY and not next(turns, False):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return real(path, flags, *more)

    monkeypatch.setattr("os.open", refused)
    with pytest.raises(OSError, match="Too many open files"):
        writer.flush()
    monkeypatch.undo()
    left = [os.path.realpath(opened) for opened in Path("/proc/self/fd").iterdir()]
    assert not [path for path in left if path.startswith(str(filled.path))]
    writer.flush()
    assert open_store(filled.path).features["prosody"].holds(key(7), [1, 2])

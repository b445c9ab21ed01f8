"""Rows, texts and segment names that no writer of emocache makes: a typed error that says where, never a lost row."""

from pathlib import Path

import numpy as np
import pytest

from emocache import compact_store, merge_stores, open_store, verify_store
from emocache.errors import DamagedStore, StoreError
from emocache.store import FeatureWriter, open_or_make_store, write_roster

from .filling import cells, fill, key, name_clips, recipe, segments, stand_in
from .forge import bytes_of, modest, replace_array


@pytest.fixture
def store(tmp_path: Path, idle_disk: None) -> Path:
    """Three clips in three segments, each named by a roster segment of its own."""
    path = tmp_path / "s.zarr"
    for clip in range(3):
        fill(path, [clip], (1, 2))
    return path


def roster_segments(store: Path) -> list[Path]:
    return sorted(path.parent for path in store.glob("roster/*/zarr.json"))


def rewrite(segment: Path, array: str, old: str, new: str) -> None:
    """Sign another text, as a foreign writer may."""
    text = bytes_of(segment, array).decode()
    assert old in text
    replace_array(segment, array, text.replace(old, new).encode())


@pytest.mark.parametrize(
    ("array", "old", "new", "message"),
    [
        ("columns", '"label":"a"', '"label":1e999', "columns: not strict JSON: 1e999 is beyond what a number can be"),
        ("columns", '"label":"a"', '"label":[-1e999]', "columns: not strict JSON: -1e999 is beyond"),
        ("columns", '"label":"a"', r'"label":{"\udfff":1}', "columns: not strict JSON: half a character"),
        ("clips", '"c2"', r'"\ud800c2"', "clips: not strict JSON: half a character"),
    ],
)
def test_a_row_that_cannot_be_written_again_is_refused_when_it_is_read(
    store: Path, tmp_path: Path, array: str, old: str, new: str, message: str
) -> None:
    rewrite(roster_segments(store)[-1], array, old, new)
    uses = [
        lambda: open_store(store).roster,
        lambda: compact_store(store),
        lambda: merge_stores([store], tmp_path / "merged.zarr"),
    ]
    if array == "clips":
        uses.append(lambda: open_store(store).features["stand-in"].read())
    for use in uses:
        with pytest.raises(DamagedStore, match=message):
            use()
    assert [message.split(": ", 1)[1] in fault.what for fault in verify_store(store).faults] == [True]


def test_a_character_beyond_the_first_plane_is_whole_in_two_escapes(store: Path) -> None:
    rewrite(roster_segments(store)[-1], "columns", '"label":"a"', r'"label":"\ud83d\ude00"')
    assert open_store(store).roster[-1]["label"] == "\N{GRINNING FACE}"
    compact_store(store)
    assert open_store(store).roster[-1]["label"] == "\N{GRINNING FACE}"


@pytest.mark.parametrize("name", ["zzz", "ffffffffffff-00000000000000000000", "ffffffffffff.copy"])
def test_a_roster_segment_behind_which_nothing_can_sort_is_named_and_no_label_is_lost_in_silence(
    store: Path, name: str
) -> None:
    strange = roster_segments(store)[-1].rename(store / "roster" / name)
    assert len(cells(store)) == 6
    before = sorted(path.name for path in strange.parent.iterdir())
    for change in (lambda: name_clips(store, [2], {"label": "corrected"}), lambda: compact_store(store)):
        with pytest.raises(DamagedStore, match=f"roster/{name}: no segment can be given a name that"):
            change()
    assert sorted(path.name for path in strange.parent.iterdir()) == before
    strange.rename(strange.with_name("0" * 12 + "-" + "0" * 20))
    name_clips(store, [2], {"label": "corrected"})
    assert {row["clip_id"]: row["label"] for row in open_store(store).roster} == {
        "c0": "a",
        "c1": "a",
        "c2": "corrected",
    }


@pytest.mark.parametrize("name", ["zzz", "ffffffffffff-00000000000000000000"])
def test_cells_behind_which_nothing_can_sort_are_read_but_not_compacted(store: Path, name: str) -> None:
    segments(store)[-1].rename(segments(store)[-1].with_name(name))
    assert len(cells(store)) == 6
    with pytest.raises(DamagedStore, match=f"{name}: no segment can be given a name that sorts behind it; rename the"):
        compact_store(store)
    assert len(cells(store)) == 6


def test_a_name_without_a_time_is_compacted_like_any_other(store: Path) -> None:
    segments(store)[-1].rename(segments(store)[-1].with_name("0-1"))
    roster_segments(store)[-1].rename(store / "roster" / "0-1")
    before = cells(store)
    compact_store(store)
    assert cells(store) == before
    assert not verify_store(store).faults


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
def test_thousands_of_names_for_one_large_row_are_no_way_to_fill_the_memory(
    tmp_path: Path, idle_disk: None, pooling: str
) -> None:
    """The files have less than a megabyte, and what they ask for 800; who names some of the clips reads them."""
    made, path = recipe(pooling), tmp_path / "s.zarr"
    store = open_or_make_store(path)
    write_roster(path, [(f"c{n}", {}) for n in range(4_000)], {f"c{n}": {"audio": key(0).hex()} for n in range(4_000)})
    feature = store.add_feature(made, {})
    writer = FeatureWriter(feature.folder, feature.fingerprint, (1,))
    writer.add(key(0), np.ones((2, 1, 25_000) if pooling == "tokens" else (1, 50_000), dtype=np.float32), {})
    writer.flush()
    feature = stand_in(path)
    read = feature.read_ragged if pooling == "tokens" else feature.read
    with (
        modest(path),
        pytest.raises(StoreError, match=r"4,000 clips are to be read .* 800\.0 MB of 200\.0 kB .* fewer clips"),
    ):
        read()
    assert len(feature.clips) == 4_000
    some = read(["c1", "c3999", "c7"])
    assert (some[0] if pooling == "tokens" else some).sum() == 150_000

"""What a store tells about itself: the list, one feature, the difference of two, the ledger."""

import csv
import io
from pathlib import Path

import pytest

from emocache import describe_feature, diff_features, list_features, read_ledger
from emocache.errors import AmbiguousName, NotAStore, UnknownName
from emocache.store import open_or_make_store

from .filling import fail, fill, name_clips, recipe


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Six clips in the roster; four hold layer 1, three of them layer 2; one failed. A second feature is empty."""
    path = tmp_path / "s.zarr"
    name_clips(path, range(6))
    feature = fill(path, range(3), (1, 2))
    fill(path, [3], (1,))
    fail(feature, 5)
    open_or_make_store(path).add_feature(recipe("stats7", hop="160"), {})
    return path


def test_the_list_tells_of_each_feature_how_much_is_held_and_by_whom(store: Path) -> None:
    listing = list_features(store)
    line = next(line for line in listing.features if line.recipe.fields["pooling"] == "mean")
    assert (listing.clips, line.clips, line.layers, line.dim) == (6, 4, (1, 2), 5)
    assert line.writing.segments == 3
    assert line.writing.bytes == sum(
        file.stat().st_size for file in store.glob(f"features/{line.name}/segments/*-*/c.*") if file.is_file()
    )
    said = str(listing).splitlines()
    assert said[0].startswith(f"{store} · format 1 · 6 clips in the roster · ")
    assert said[1].split()[:5] == ["feature", "modality", "pooling", "clips", "layers"]
    assert any(row.split()[:6] == [line.name, "audio", "mean", "4", "1-2", "5"] for row in said)
    assert any("stats7" in row and row.endswith("never") for row in said)


def test_a_store_without_features_says_how_to_add_one(tmp_path: Path) -> None:
    open_or_make_store(tmp_path / "s.zarr")
    assert str(list_features(tmp_path / "s.zarr")).endswith("no feature yet; emocache extract adds one")


def test_no_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotAStore, match="no store is here"):
        list_features(tmp_path / "nothing")


def test_a_feature_tells_its_recipe_its_coverage_and_what_failed(store: Path) -> None:
    report = describe_feature(recipe().feature_name, store)
    assert report.coverage == {1: 4, 2: 3}
    assert report.ledger == {"ok": 4, "failed": 1}
    assert report.failures == {("decode", "NoStream"): 1}
    assert report.versions == {"numpy": "2"}
    said = " ".join(str(report).split())
    assert f"fingerprint {recipe().fingerprint}" in said
    assert "compute_dtype: float32" in said
    assert "layer 1: 4 of 6 clips, 5 numbers each layer 2: 3 of 6 clips" in said
    assert "4 ok, 1 failed 1 failed to decode: NoStream" in said


def test_an_empty_feature_says_how_to_fill_it(store: Path) -> None:
    said = str(describe_feature(recipe("stats7", hop="160").feature_name, store))
    assert "holds nothing yet; run emocache extract --encoder stand-in" in said
    assert "settings.hop: 160" in said


def test_a_feature_must_be_known_and_meant_alone(store: Path) -> None:
    with pytest.raises(AmbiguousName, match="fits several of"):
        describe_feature("stand-in", store)
    with pytest.raises(UnknownName, match="did you mean stand-in"):
        describe_feature("stand-out", store)


def test_the_difference_of_two_recipes_names_each_entry_with_both_values(store: Path) -> None:
    a, b = recipe().feature_name, recipe("stats7", hop="160").feature_name
    difference = diff_features(a, b, store)
    assert difference.differences == {
        "pooling": ("mean", "stats7"),
        "settings": ("{}", "(absent)"),
        "settings.hop": ("(absent)", "160"),
    }
    assert str(difference).splitlines()[:5] == [f"a: {a}", f"b: {b}", "pooling", "  a: mean", "  b: stats7"]


def test_recipes_of_two_stores_are_compared(store: Path, tmp_path: Path) -> None:
    fill(tmp_path / "theirs.zarr", [0], made=recipe("stats7"))
    difference = diff_features(recipe().feature_name, "stand-in", store, tmp_path / "theirs.zarr")
    assert difference.differences == {"pooling": ("mean", "stats7")}
    same = diff_features(recipe().feature_name, recipe().feature_name, store, store)
    assert str(same).endswith("one and the same recipe; the numbers are the same")


def test_the_ledger_lists_failures_first_and_everything_if_asked(store: Path) -> None:
    failed = read_ledger(store=store)
    assert (failed.ok, failed.failed, failed.features) == (4, 1, 2)
    assert [row["clip_id"] for row in failed.rows] == ["c5"]
    assert "decode: NoStream: no sound" in str(failed)
    assert str(failed).endswith("2 features: 4 ok, 1 failed")
    everything = read_ledger([recipe().feature_name], store, everything=True)
    assert len(everything.rows) == 5
    assert "duration_s 1.5" in str(everything)


def test_the_ledger_as_csv_has_a_column_for_each_fact(store: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(read_ledger(store=store, everything=True).csv())))
    assert list(rows[0]) == ["feature", "clip_id", "status", "stage", "error", "message", "duration_s"]
    by_clip = {row["clip_id"]: row for row in rows}
    assert by_clip["c0"]["duration_s"] == "1.5"
    assert (by_clip["c5"]["status"], by_clip["c5"]["message"], by_clip["c5"]["duration_s"]) == (
        "failed",
        "no sound",
        "",
    )

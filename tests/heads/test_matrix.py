from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emocache.errors import BadOption, FitError, NotAStore, UnknownName
from emocache.heads.matrix import load_matrix
from emocache.spec import Recipe
from emocache.store import FeatureWriter, open_or_make_store, write_roster
from tests.heads.conftest import Corpus, Given

MakeStore = Callable[..., Path]
ROWS = [(name, {"label": "joy", "speaker": "03"}) for name in "abcd"]


def numbers(clips: int, layers: int, dim: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(clips, layers, dim)).astype(np.float32)


def test_layers_enter_as_their_mean(make_store: MakeStore) -> None:
    cells = numbers(4, 3, 5)
    path = make_store(ROWS, Given("net", "abcd", cells, layers=(16, 17, 18)))
    np.testing.assert_allclose(load_matrix(path).values, cells.mean(axis=1), rtol=1e-6)
    chosen = load_matrix(path, ["net:17-18"])
    np.testing.assert_allclose(chosen.values, cells[:, 1:].mean(axis=1), rtol=1e-6)
    assert chosen.blocks[0].layers == (17, 18)
    assert load_matrix(path, ["net:-2:"]).blocks == chosen.blocks
    assert load_matrix(path, ["net:all"]).blocks == load_matrix(path).blocks


def test_features_stand_side_by_side_and_a_missing_one_is_nan(make_store: MakeStore) -> None:
    sound, sight = numbers(4, 1, 2), numbers(2, 1, 3)
    path = make_store(ROWS, Given("ear", "abcd", sound), Given("eye", "bd", sight, modality="video"))
    matrix = load_matrix(path, ["eye", "ear"])
    assert matrix.values.shape == (4, 5)
    np.testing.assert_array_equal(matrix.values[:, 3:], sound[:, 0])
    np.testing.assert_array_equal(matrix.values[[1, 3], :3], sight[:, 0])
    assert np.isnan(matrix.values[[0, 2], :3]).all()
    assert matrix.present.tolist() == [[False, True], [True, True], [False, True], [True, True]]
    assert "2 of 4 clips lack eye-" in matrix.notes[0]
    assert matrix.notes[0].endswith("a, c")


def test_clips_without_any_feature_are_left_out_by_name(make_store: MakeStore) -> None:
    matrix = load_matrix(make_store(ROWS, Given("ear", "ab", numbers(2, 1, 2))))
    assert matrix.clips == ("a", "b")
    assert matrix.left_out == {"no feature": ["c", "d"]}


def test_a_manifest_takes_the_place_of_the_roster(make_store: MakeStore, tmp_path: Path) -> None:
    path = make_store(ROWS, Given("ear", "abcd", numbers(4, 1, 2)))
    (tmp_path / "mine.csv").write_text("clip_id,label\nd,fear\nz,joy\na,\n")
    matrix = load_matrix(path, clips=tmp_path / "mine.csv")
    assert matrix.clips == ("d", "a")
    assert matrix.column("label") == ["fear", None]
    assert matrix.column("speaker") == [None, None]
    assert matrix.left_out == {"not in the store": ["z"]}


def test_numbers_in_a_column_read_as_the_text_they_were(make_store: MakeStore) -> None:
    rows = [("a", {"label": 1}), ("b", {"label": 2.0}), ("c", {"label": " x "}), ("d", {"label": None})]
    matrix = load_matrix(make_store(rows, Given("ear", "abcd", numbers(4, 1, 2))))
    assert matrix.column("label") == ["1", "2", "x", None]


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAStore, match="no store is here"):
        load_matrix(tmp_path / "nowhere")


def test_an_empty_store_says_what_to_do(make_store: MakeStore) -> None:
    with pytest.raises(FitError, match="the store holds no features; run emocache extract"):
        load_matrix(make_store(ROWS))
    with pytest.raises(FitError, match=r"its features \(ear-.*\) hold no clip"):
        load_matrix(make_store(ROWS, Given("ear", "", numbers(0, 1, 2)), name="hollow.zarr"))


def test_an_unknown_feature_is_answered_with_the_held_ones(store: Path) -> None:
    with pytest.raises(UnknownName, match=r"feature 'tune' is not known; did you mean|feature 'tune' is not known\n"):
        load_matrix(store, ["tune"])


def test_layers_that_are_not_held_are_named_with_the_command_that_makes_them(make_store: MakeStore) -> None:
    path = make_store(ROWS, Given("net", "abcd", numbers(4, 2, 3), layers=(16, 17)))
    with pytest.raises(FitError, match=r"does not hold layer 15, 18; it holds 16, 17; run .* --layers 15,18"):
        load_matrix(path, ["net:15-18"])


def test_layers_that_cannot_be_read_are_refused(store: Path) -> None:
    with pytest.raises(BadOption, match="cannot read 'x'") as caught:
        load_matrix(store, ["tone:x"])
    assert caught.value.__notes__ == ["in --features 'tone:x'"]


def test_a_feature_named_twice_is_refused(store: Path) -> None:
    with pytest.raises(BadOption, match="is named twice"):
        load_matrix(store, ["tone", "tone:0"])


def test_a_manifest_that_matches_nothing_shows_both_sides(store: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("clip_id,label\nu,fear\nv,joy\n")
    with pytest.raises(FitError, match=r"none of its 2 clips is in .*; it names u, v, the store s0-anger-0"):
        load_matrix(store, clips=tmp_path / "other.csv")


def test_a_manifest_whose_clips_lack_the_feature_is_refused(make_store: MakeStore, tmp_path: Path) -> None:
    path = make_store(
        ROWS, Given("ear", "ab", numbers(2, 1, 2)), Given("eye", "cd", numbers(2, 1, 2), modality="video")
    )
    (tmp_path / "two.csv").write_text("clip_id,label\nc,fear\nd,joy\n")
    with pytest.raises(FitError, match="none of the 2 clips has any of ear-"):
        load_matrix(path, ["ear"], tmp_path / "two.csv")
    with pytest.raises(FitError, match="no clip holds all of ear-"):
        load_matrix(path, None, tmp_path / "two.csv")


def test_values_that_are_not_finite_are_refused_by_clip(corpus: Corpus, make_store: MakeStore) -> None:
    broken = corpus.signal.copy()
    broken[3, 0] = np.inf
    with pytest.raises(FitError, match=rf"the values of {corpus.clips[3]} are not finite"):
        load_matrix(make_store(corpus.rows(), Given("tone", corpus.clips, broken[:, None])))


# --- layers and tokens -----------------------------------------------------------------------------------------------


def ragged_store(
    tmp_path: Path, lengths: dict[str, int], pooling: str = "tokens"
) -> tuple[Path, dict[str, np.ndarray]]:
    """A store of one feature with rows of each clip's own number, two layers, three dimensions."""
    rng = np.random.default_rng(1)
    store = open_or_make_store(tmp_path / "ragged.zarr")
    fields = {"encoder": "words", "modality": "text", "pooling": pooling, "storage_dtype": "float32"}
    feature = store.add_feature(Recipe(fields), {})
    writer = FeatureWriter(feature.folder, feature.fingerprint, (4, 5))
    cells = {clip: rng.normal(size=(rows, 2, 3)).astype(np.float32) for clip, rows in lengths.items()}
    keys = {clip: f"text-{clip}".encode().ljust(32, b"\0") for clip in lengths}
    for clip, values in cells.items():
        writer.add(keys[clip], values, {})
    writer.flush()
    write_roster(store.path, ROWS, {clip: {"text": key.hex()} for clip, key in keys.items()})
    return store.path, cells


@pytest.mark.parametrize("mix", ["mean", "concat", "learned"])
def test_layers_stand_as_the_mix_says(mix: str, make_store: MakeStore) -> None:
    cells = numbers(4, 3, 5)
    matrix = load_matrix(make_store(ROWS, Given("net", "abcd", cells, layers=(1, 2, 3))), mix=mix)
    (block,) = matrix.layout
    assert (block.layers, block.tokens, block.dim) == {"mean": (1, 1, 5), "concat": (1, 1, 15), "learned": (3, 1, 5)}[
        mix
    ]
    expected = cells.mean(axis=1) if mix == "mean" else cells.reshape(4, 15)
    np.testing.assert_allclose(matrix.values, expected, rtol=1e-6)


@pytest.mark.parametrize("mix", ["mean", "concat", "learned"])
def test_tokens_stand_apart_and_are_padded_with_nan(mix: str, tmp_path: Path) -> None:
    path, cells = ragged_store(tmp_path, {"a": 2, "b": 4, "d": 1})
    matrix = load_matrix(path, mix=mix, tokens=True)
    assert matrix.clips == ("a", "b", "d")
    (block,) = matrix.layout
    assert (block.modality, block.tokens) == ("text", 4)
    shaped = block.shaped(matrix.values)
    for clip, row in zip(matrix.clips, shaped, strict=True):
        rows = cells[clip]  # (token, layer, dim)
        expected = {"mean": rows.mean(axis=1)[None], "concat": rows.reshape(len(rows), 6)[None]}
        expected["learned"] = rows.swapaxes(0, 1)
        np.testing.assert_allclose(row[:, : len(rows)], expected[mix], rtol=1e-5)
        assert np.isnan(row[:, len(rows) :]).all()


def test_a_head_that_does_not_mask_gets_the_mean_of_the_tokens(tmp_path: Path) -> None:
    path, cells = ragged_store(tmp_path, {"a": 2, "b": 4})
    expected = [cells[clip].mean(axis=(0, 1)) for clip in "ab"]
    np.testing.assert_allclose(load_matrix(path).values, expected, rtol=1e-5)


def test_spans_of_time_are_tokens(make_store: MakeStore, tmp_path: Path) -> None:
    store = open_or_make_store(tmp_path / "spans.zarr")
    fields = {"encoder": "net", "modality": "audio", "pooling": "segments:3", "storage_dtype": "float32"}
    feature = store.add_feature(Recipe(fields), {})
    writer = FeatureWriter(feature.folder, feature.fingerprint, (0,))
    writer.add(b"a".ljust(32, b"\0"), np.arange(6, dtype=np.float32)[None], {})
    writer.flush()
    write_roster(store.path, ROWS[:1], {"a": {"audio": b"a".ljust(32, b"\0").hex()}})
    matrix = load_matrix(store.path, tokens=True)
    assert matrix.layout[0].shaped(matrix.values).tolist() == [[[[0, 1], [2, 3], [4, 5]]]]


def test_a_matrix_is_padded_to_the_tokens_of_a_run(tmp_path: Path) -> None:
    path, _ = ragged_store(tmp_path, {"a": 2, "b": 4})
    long = load_matrix(path, tokens=True)
    (tmp_path / "one.csv").write_text("clip_id,label\na,joy\n")
    short = load_matrix(path, clips=tmp_path / "one.csv", tokens=True)
    assert short.layout[0].tokens == 2
    np.testing.assert_array_equal(short.padded(long.blocks).values, long.values[:1])
    with pytest.raises(FitError, match="a clip has 4 tokens, the longest that the head was fitted on 2; extract with"):
        long.padded(short.blocks)


def test_a_matrix_that_would_not_fit_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = ragged_store(tmp_path, {"a": 2, "b": 4})
    monkeypatch.setattr("emocache.heads.cells._free_memory", lambda: 100)
    with pytest.raises(
        FitError, match=r"2 clips x 12 columns are 96 B, and 100 B of memory are free.* 1 layers x 4 tok"
    ):
        load_matrix(path, tokens=True)


def test_tokens_that_are_not_finite_are_refused_by_clip(tmp_path: Path) -> None:
    store = open_or_make_store(tmp_path / "broken.zarr")
    fields = {"encoder": "words", "modality": "text", "pooling": "tokens", "storage_dtype": "float32"}
    feature = store.add_feature(Recipe(fields), {})
    writer = FeatureWriter(feature.folder, feature.fingerprint, (0,))
    writer.add(b"a".ljust(32, b"\0"), np.full((2, 1, 3), np.inf, dtype=np.float32), {})
    writer.flush()
    write_roster(store.path, ROWS[:1], {"a": {"text": b"a".ljust(32, b"\0").hex()}})
    with pytest.raises(FitError, match="the values of a are not finite"):
        load_matrix(store.path, tokens=True)

"""Layers, recipes and keys."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emocache.errors import BadOption, MediaError
from emocache.spec import Clip, Recipe, Shared, Source, canonical_json, parse_layers, parse_pooling


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16-21", (16, 17, 18, 19, 20, 21)),
        ("7", (7,)),
        ("-1", (24,)),
        ("-4:", (21, 22, 23, 24)),
        ("10,6,8,6", (6, 8, 10)),
        ("all", tuple(range(25))),
        ("0", (0,)),
    ],
)
def test_a_layer_range_is_read_as_users_write_it(text: str, expected: tuple[int, ...]) -> None:
    assert parse_layers(text, 24) == expected


@pytest.mark.parametrize("text", ["25", "16-25", "21-16", "-26:", "-30"])
def test_a_layer_outside_the_model_is_refused_with_the_number_of_layers(text: str) -> None:
    with pytest.raises(BadOption, match=r"layers run from 0 \(before the first block\) to 24, 25 in all"):
        parse_layers(text, 24)


def test_a_layer_of_an_encoder_without_layers_is_refused_in_its_words() -> None:
    with pytest.raises(BadOption, match="--layers '2-3': the encoder has the single layer 0; leave the layers out"):
        parse_layers("2-3", 0)


@pytest.mark.parametrize("text", ["", "a-b", "1-2-3", "16:21", "-4:-2"])
def test_a_layer_range_that_cannot_be_read_is_answered_with_examples(text: str) -> None:
    with pytest.raises(BadOption, match=r"cannot read .*write 16-21, 7, 6,8,10, -4:"):
        parse_layers(text, 24)


@pytest.mark.parametrize(
    "text", ["max", "segments", "segments:0", "segments:4097", "tokens:", "tokens:-1", "mean:2", "x:1"]
)
def test_an_unknown_pooling_is_answered_with_the_known_ones(text: str) -> None:
    with pytest.raises(
        BadOption, match="known: mean, stats7, segments:K, time, tokens, tokens:N, with K from 1 to 4096"
    ):
        parse_pooling(text)


def test_a_pooling_has_one_spelling() -> None:
    assert [parse_pooling(text) for text in ("mean", " Segments:008", "tokens:64", "time")] == [
        "mean",
        "segments:8",
        "tokens:64",
        "time",
    ]


def test_what_decoders_share_is_made_once_and_fails_once() -> None:
    shared, calls = Shared(), []

    def fail() -> int:
        calls.append("fail")
        raise MediaError("torn")

    assert [shared.once("file", lambda: calls.append("open") or 7) for _ in range(3)] == [7] * 3
    for _ in range(2):
        with pytest.raises(MediaError, match="torn"):
            shared.once("other", fail)
    assert calls == ["open", "fail"]


def test_a_recipe_with_a_float_or_a_boolean_is_refused_with_its_place() -> None:
    with pytest.raises(TypeError, match=r"recipe\.settings\.rate: 0\.5 is a float; write it as a string"):
        canonical_json({"settings": {"rate": 0.5}})
    with pytest.raises(TypeError, match=r"recipe\.flags\[1\]: True is a bool"):
        canonical_json({"flags": [1, True]})


RECIPES = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), RECIPES, min_size=2))
def test_a_fingerprint_does_not_depend_on_the_order_of_the_fields(fields: dict[str, object]) -> None:
    backwards = dict(reversed(list(fields.items())))
    assert Recipe(fields).fingerprint == Recipe(backwards).fingerprint


@given(st.dictionaries(st.text(), RECIPES), st.dictionaries(st.text(), RECIPES))
def test_different_recipes_have_different_fingerprints(one: dict[str, object], other: dict[str, object]) -> None:
    assert (Recipe(one).fingerprint == Recipe(other).fingerprint) == (one == other)


def test_a_key_names_content_and_not_a_path() -> None:
    here, there = Source("audio", Path("a.wav")), Source("audio", Path("b/c.wav"))
    assert here.key("d1") == there.key("d1")
    assert len(here.key("d1")) == 32


def test_a_key_changes_with_file_stream_and_span() -> None:
    sources = [
        Source("audio", Path("a"), None, None).key("d1"),
        Source("audio", Path("a"), None, None).key("d2"),
        Source("video", Path("a"), None, None).key("d1"),
        Source("audio", Path("a"), 0, None).key("d1"),
        Source("audio", Path("a"), 0, 5).key("d1"),
        Source("text", text="a").key(None),
        Source("text", text="b").key(None),
    ]
    assert len(set(sources)) == len(sources)


def test_a_clip_says_what_each_modality_would_read() -> None:
    clip = Clip("c", audio=Path("a.wav"), text="", start_us=5)
    assert clip.source("audio") == Source("audio", Path("a.wav"), 5, None)
    assert clip.source("video") is None
    assert clip.source("text") == Source("text", text="")

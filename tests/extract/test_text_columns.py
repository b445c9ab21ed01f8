"""Several columns joined into the text that an encoder reads."""

from pathlib import Path

import pytest

from emocache.errors import BadOption, MediaError, UnknownName
from emocache.extract.media.text import visible_text
from emocache.extract.text_columns import parse_text_columns
from emocache.spec import Clip, Source, canonical_json
from emocache.store import read_manifest

MANIFEST = """clip_id,text,keywords,description,label
a,so glad,joy; smile,She smiles.,happy
b,,joy; smile, ,happy
c,so glad,,,sad
d,,,,sad
"""


@pytest.fixture
def clips(tmp_path: Path) -> tuple[Clip, ...]:
    (tmp_path / "clips.csv").write_text(MANIFEST)
    return read_manifest(tmp_path / "clips.csv").clips


def joined(columns: str, clips: tuple[Clip, ...]) -> list[str | None]:
    return [clip.text for clip in parse_text_columns(columns).joined(clips)]


def test_columns_are_joined_and_an_empty_one_leaves_its_words_out_too(clips: tuple[Clip, ...]) -> None:
    assert joined("text,keywords,description", clips) == [
        "so glad\nkeywords: joy; smile\ndescription: She smiles.",
        "keywords: joy; smile",
        "so glad",
        "",
    ]
    assert joined("description, text", clips) == ["description: She smiles.\nso glad", "", "so glad", ""]


def test_the_clips_themselves_stay_as_they_are(clips: tuple[Clip, ...]) -> None:
    before = [(clip.clip_id, clip.text, dict(clip.columns)) for clip in clips]
    joined("keywords", clips)
    assert [(clip.clip_id, clip.text, dict(clip.columns)) for clip in clips] == before


def test_a_clip_whose_columns_are_all_empty_fails_by_name(clips: tuple[Clip, ...]) -> None:
    (source,) = (clip.source("text") for clip in parse_text_columns("text,keywords").joined(clips)[3:])
    assert source is not None
    with pytest.raises(MediaError, match=r"the clip's text is empty \(found ''\)"):
        visible_text(source)


def test_equal_joined_texts_are_one_content(clips: tuple[Clip, ...]) -> None:
    keys = [clip.source("text").key(None) for clip in parse_text_columns("text,description").joined(clips)]  # type: ignore[union-attr]
    assert keys[2] == Source("text", text="so glad").key(None)
    assert keys[1] == keys[3]
    assert len(set(keys)) == 3


def test_numbers_and_lists_of_a_parquet_manifest_are_written_out() -> None:
    clip = Clip("a", text="so glad", columns={"tags": ["joy", None, " awe "], "age": 31})
    assert joined("tags,age", (clip,)) == ["tags: joy, awe\nage: 31"]


def test_the_template_is_in_the_recipe_and_differs_with_the_columns_and_their_order() -> None:
    recipes = [parse_text_columns(names).recipe() for names in ("text,keywords", "keywords,text", "keywords")]
    assert recipes[0] == {"pieces": ["{text}", "keywords: {keywords}"], "joint": "\n"}
    assert len({canonical_json(recipe) for recipe in recipes}) == 3
    assert parse_text_columns(" text , keywords").recipe() == recipes[0]


def test_an_unknown_column_is_an_error_that_names_the_known_ones(clips: tuple[Clip, ...]) -> None:
    with pytest.raises(
        UnknownName,
        match=r"--text-columns: column 'keyword' is not known; did you mean keywords\?\n  known: description, key",
    ):
        joined("text,keyword", clips)
    with pytest.raises(UnknownName, match=r"column 'text' is not known\n  known: mood"):
        joined("text", (Clip("a", columns={"mood": "calm"}),))


def test_the_label_that_heads_predict_cannot_go_into_a_feature() -> None:
    with pytest.raises(BadOption, match="label is what heads are to predict, and a feature made of it would give the"):
        parse_text_columns("text,label")


@pytest.mark.parametrize("columns", ["", "text,", "text,text"])
def test_columns_that_cannot_be_read_are_refused(columns: str) -> None:
    with pytest.raises(BadOption, match="name each column once, as in text,keywords,description"):
        parse_text_columns(columns)

"""Texts through the whole of `extract_features`: a pretrained model's folder, and columns that are joined."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import emocache
from emocache.errors import BadOption, UnknownName
from emocache.extract.encoders.text import TextEncoder
from emocache.extract.extraction import Extraction
from emocache.spec import Source

from .text_models import DEPTH, DIM, SENTENCES, make_model

ROWS = [
    ("a", SENTENCES[0], "joy", "happy"),
    ("b", SENTENCES[0], "joy", "happy"),
    ("c", SENTENCES[0], "irony", "angry"),
    ("d", "", "silence", "sad"),
    ("e", "", "", "sad"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a manifest of five clips: two are alike, one has keywords alone, one nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMOCACHE_STORE", raising=False)
    lines = ["clip_id,text,keywords,label", *(f'{name},"{text}",{words},{label}' for name, text, words, label in ROWS)]
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    return tmp_path


def extract(encoder: str = "char-ngram", **options: Any) -> Extraction:
    return emocache.extract_features(encoder, workers=1, **options)


def rows(feature: str, *clips: str) -> np.ndarray:
    return emocache.open_store().features[feature].read(clips=list(clips), layers=[0])


def test_a_models_folder_gives_its_last_four_layers_over_the_tokens(folder: Path) -> None:
    make_model("qwen2", folder / "Small-Qwen")
    done = extract(str(folder / "Small-Qwen"), layers="-4:", pool=["mean", "tokens"])
    assert set(done.failed) == {"d", "e"}
    assert "the clip's text is empty (found '')" in done.failed["d"]
    mean, tokens = (emocache.open_store().features[summary.feature] for summary in done)
    assert mean.recipe.encoder == "small-qwen"
    assert mean.layers == tokens.layers == (2, 3, 4, 5)
    encoder = TextEncoder("small", weights=folder / "Small-Qwen")
    encoder.load("cpu", "float32", mean.layers)
    with torch.inference_mode():
        frames, _ = encoder.forward([encoder.decoder()(Source("text", text=SENTENCES[0])).payload], mean.layers)
    np.testing.assert_allclose(mean.read(clips=["c"])[0], frames[0].mean(dim=1), rtol=1e-4, atol=1e-5)
    values, offsets = tokens.read_ragged(clips=["a"])
    assert (values.shape, list(offsets)) == ((frames.shape[2], 4, DIM), [0, frames.shape[2]])
    np.testing.assert_allclose(values, frames[0].transpose(0, 1), rtol=1e-4, atol=1e-5)
    assert mean.ledger()["a"]["facts"]["tokens"] == frames.shape[2]


def test_a_convention_has_one_layer(folder: Path) -> None:
    make_model("bert", folder / "small")
    (summary,) = extract(str(folder / "small"), convention="merbench")
    assert summary.layers == (0,)
    assert emocache.open_store().features[summary.feature].layers == (0,)


def test_the_transcript_and_joined_columns_are_features_side_by_side(folder: Path) -> None:
    (plain,) = extract()
    (joined,) = extract(text_columns="text,keywords")
    assert plain.feature != joined.feature
    assert set(plain.failed) == {"d", "e"}
    assert set(joined.failed) == {"e"}
    assert np.array_equal(rows(plain.feature, "a"), rows(plain.feature, "c"))
    assert not np.array_equal(rows(joined.feature, "a"), rows(joined.feature, "c"))
    assert np.array_equal(rows(joined.feature, "a"), rows(joined.feature, "b"))
    assert not np.array_equal(rows(joined.feature, "a"), rows(plain.feature, "a"))


def test_equal_joined_texts_are_computed_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "emocache"):
        extract(text_columns="text,keywords")
    assert "(4 encoder passes" in caplog.text  # a and b are one
    again = extract(text_columns="text,keywords")
    assert (again.computed, again.held, again.moved) == (0, 4, ())


def test_a_changed_keyword_is_another_content_for_the_joined_feature_alone(folder: Path) -> None:
    extract()
    extract(text_columns="text,keywords")
    manifest = (folder / "clips.csv").read_text()
    (folder / "clips.csv").write_text(manifest.replace(",joy,happy\nb", ",bliss,happy\nb"))
    joined = extract(text_columns="text,keywords")
    assert (joined.computed, joined.held, joined.moved) == (1, 3, ("a",))
    assert (extract().computed, extract().moved) == (0, ())


def test_joined_texts_do_not_travel_unless_asked(folder: Path) -> None:
    extract(text_columns="text,keywords")
    assert all("text" not in row for row in emocache.open_store().roster)
    extract(text_columns="text,keywords", keep_text=True)
    assert emocache.open_store().roster[0]["text"] == SENTENCES[0]


def test_a_head_can_be_fitted_on_both_at_once(folder: Path) -> None:
    extract(clips=write_many(folder / "many.csv"))
    extract(clips=folder / "many.csv", text_columns="text,keywords")
    run = emocache.fit_head(folder / "features.zarr", "linear", out=folder / "run")
    assert "accuracy" in run.summary().lower() or "WAF" in run.summary()


def write_many(path: Path) -> Path:
    """Forty clips of two labels, which the keywords tell apart."""
    lines = [f"c{n},words number {n},{'joy' if n % 2 else 'gloom'},{'happy' if n % 2 else 'sad'}" for n in range(40)]
    path.write_text("\n".join(["clip_id,text,keywords,label", *lines]))
    return path


VARIANTS: dict[str, dict[str, Any]] = {
    "columns": {"text_columns": "text,keywords"},
    "their order": {"text_columns": "keywords,text"},
    "pooling": {"pool": "stats7"},
    "compute dtype": {"dtype": "bfloat16"},
    "storage dtype": {"storage": "float16"},
    "convention": {"convention": "mer2023"},
}


def test_each_item_of_the_recipe_gives_a_fingerprint_of_its_own_and_speed_does_not(folder: Path) -> None:
    weights = str(make_model("bert", folder / "small"))
    found = {name: extract(weights, layers="0", **options).summaries[0].feature for name, options in VARIANTS.items()}
    found["plain"] = extract(weights, layers="0").summaries[0].feature
    assert len(set(found.values())) == len(found)
    (folder / "elsewhere").mkdir()
    (folder / "small").rename(folder / "elsewhere" / "small")
    moved = emocache.extract_features(str(folder / "elsewhere" / "small"), layers=str(DEPTH), workers=2, device="cpu")
    assert moved.summaries[0].feature == found["plain"]


def test_columns_without_an_encoder_of_text_are_a_slip(folder: Path) -> None:
    with pytest.raises(BadOption, match="--text-columns: none of the encoders reads text; leave it out"):
        extract("prosody", text_columns="text,keywords")
    with pytest.raises(UnknownName, match=r"column 'moods' is not known.*\n  known: keywords, text"):
        extract(text_columns="moods")
    assert not (folder / "features.zarr").exists()

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from emocache.errors import MediaError, WeightsError
from emocache.extract.encoders.char_ngram import DIM, CharNgram, read_text
from emocache.spec import Decoded, Encoder, Source, canonical_json


def decoded(text: str | None) -> Decoded:
    return read_text(Source("text", text=text))


def vector(*texts: str) -> torch.Tensor:
    encoder: Encoder = CharNgram()
    encoder.load("cpu", "float32", (0,))
    frames, lengths = encoder.forward([decoded(text).payload for text in texts], (0,))
    assert frames.shape == (len(texts), 1, 1, DIM)
    assert list(lengths) == [1] * len(texts)
    return frames[:, 0, 0]


def test_a_row_has_unit_length_and_no_negative_count() -> None:
    rows = vector("I am so glad you came!", "no")
    assert torch.allclose(rows.norm(dim=1), torch.ones(2))
    assert (rows >= 0).all()


def test_a_row_is_the_same_alone_and_in_a_batch() -> None:
    texts = ["bin blue at f two now", "我真的很高兴见到你", "x"]
    assert torch.equal(vector(*texts), torch.cat([vector(text) for text in texts]))


def test_short_words_are_counted_by_hand() -> None:
    """`ab` is read as ` ab `: the 2-grams are ' a', 'ab', 'b ', the 3-grams ' ab', 'ab ', the 4-gram ' ab '."""
    row = vector("ab")[0]
    assert torch.allclose(row[row > 0], torch.full((6,), 6**-0.5))


def test_similar_texts_are_nearer_than_different_ones_in_any_script() -> None:
    for text, similar, other in [
        ("I am very happy today", "he is very happy today", "close that window at once"),
        ("我今天非常高兴", "他今天非常高兴", "请把窗户关上"),
        ("мне очень грустно", "ему очень грустно", "закрой быстро окно"),
    ]:
        a, b, c = vector(text, similar, other)
        assert a @ b > a @ c + 0.2


def test_case_width_and_composition_make_no_difference() -> None:
    plain, full_width, composed, split = vector("cafe 1", "ＣＡＦＥ 1", "café", "cafe\N{COMBINING ACUTE ACCENT}")  # noqa: RUF001  # the full-width letters are the case
    assert torch.equal(plain, full_width)
    assert torch.equal(composed, split)


@pytest.mark.parametrize("text", ["", "   ", "\n\t\N{NO-BREAK SPACE}\N{IDEOGRAPHIC SPACE}", None])
def test_an_empty_text_fails_by_name(text: str | None) -> None:
    with pytest.raises(MediaError, match=r"text is empty \(found .*fill the manifest's `text` column"):
        decoded(text)


def test_a_text_that_is_not_unicode_fails_by_name() -> None:
    with pytest.raises(MediaError, match=r"not Unicode: '\\ud800' at character 3; write the manifest again as UTF-8"):
        decoded("abc\ud800")


def test_weights_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"char-ngram: got weights w\.bin, but it counts and has none"):
        CharNgram(weights=Path("w.bin"))


def test_the_recipe_is_canonical_and_the_decoder_crosses_process_borders() -> None:
    encoder = CharNgram()
    assert b'"ngrams":[2,4]' in canonical_json(encoder.recipe())
    assert pickle.loads(pickle.dumps(encoder.decoder())) is read_text  # noqa: S301  # our own bytes
    assert decoded("four").facts == {"characters": 4}
    assert encoder.batch_key(decoded("a")) == encoder.batch_key(decoded("longer"))


def test_decoding_a_text_imports_neither_torch_nor_sklearn() -> None:
    code = (
        "import sys; from emocache.extract.encoders.char_ngram import read_text; "
        "sys.exit(bool({'torch', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # our own code

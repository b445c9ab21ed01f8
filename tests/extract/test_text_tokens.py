"""From texts to token ids: as transformers' own tokenizers do it, and what becomes of what they cannot read."""

import json
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

from emocache.errors import MediaError, WeightsError
from emocache.extract.encoders.tokenizer import load_tokenizer, tokenizer_recipe
from emocache.extract.encoders.tokens import TextDecoder, Windows, spans
from emocache.extract.encoders.transformer import ModelFolder
from emocache.spec import Decoded, Source

from .text_models import LONG, SENTENCES, train_tokenizer

TEXTS = [*SENTENCES, " two  spaces ", "so", "naïve café №5", "😀 glad", "[SEP] and </s> as words", "line\nbreak"]
PYTHON_TOKENIZER = """
from transformers import PythonBackend

class Letters(PythonBackend):
    vocab_files_names = {"letters": "letters.model"}
    def __init__(self, letters=None, **more):
        super().__init__(bos_token="^", unk_token="?", **more)
    def get_vocab(self):
        return {**{chr(97 + n): n for n in range(26)}, **self.added_tokens_encoder}
    @property
    def vocab_size(self):
        return 26
    def _tokenize(self, text, **more):
        return list(text)
    def _convert_token_to_id(self, token):
        return self.get_vocab().get(token, self.unk_token_id)
    def build_inputs_with_special_tokens(self, ids, more=None):
        return [self.bos_token_id, *ids]
"""


def model(folder: Path, *, remote_code: bool = False) -> ModelFolder:
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return ModelFolder("small", folder, remote_code)


def decoder(folder: Path, most: int = 96) -> TextDecoder:
    found = load_tokenizer(model(folder))
    return TextDecoder(found.source, Windows(most, len(found.prefix) + len(found.suffix)), found.unknown)


def decoded(decode: TextDecoder, text: str) -> Decoded:
    return decode(Source("text", text=text))


@pytest.fixture(params=["bert", "xlm-roberta", "gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with the tokenizer of a family."""
    train_tokenizer(request.param).save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_the_ids_are_those_of_transformers_with_the_special_tokens_around_them(folder: Path) -> None:
    own = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    found, decode = load_tokenizer(model(folder)), decoder(folder)
    for text in TEXTS:
        ids = decoded(decode, text).payload
        assert [*found.prefix, *ids, *found.suffix] == own.encode(text)
        assert list(ids) == own.encode(text, add_special_tokens=False)


def test_the_ledger_learns_how_many_tokens_a_text_has_and_how_many_are_unknown(folder: Path) -> None:
    decode = decoder(folder)
    size = len(load_tokenizer(model(folder)).prefix) + len(load_tokenizer(model(folder)).suffix)
    plain, strange, long = (decoded(decode, text) for text in ("so sad", "so 😀 sad", LONG))
    assert plain.facts == {"characters": 6, "tokens": len(plain.payload)}
    assert plain.size == len(plain.payload) + size
    assert ("unknown_tokens" in strange.facts) is (decode.unknown is not None)
    assert long.facts["windows"] == len(decode.windows.of(len(long.payload))) > 1
    assert long.payload.dtype == np.int64


def test_truncation_and_padding_that_a_tokenizer_file_asks_for_are_not_obeyed(folder: Path) -> None:
    before = decoded(decoder(folder), LONG).payload
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    np.testing.assert_array_equal(decoded(decoder(folder), LONG).payload, before)
    assert len(decoded(decoder(folder), "so").payload) < 8


def test_a_text_without_a_token_fails_by_name(tmp_path: Path) -> None:
    train_tokenizer("bert").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        MediaError, match=r"the clip's text '\\u200b' has no token in the model's vocabulary; correct it"
    ):
        decoded(decoder(tmp_path), "\N{ZERO WIDTH SPACE}")
    with pytest.raises(MediaError, match="the clip's text is empty"):
        decoded(decoder(tmp_path), " ")


def test_decoders_of_one_tokenizer_are_one_and_cross_process_borders(folder: Path) -> None:
    first, second = decoder(folder), decoder(folder)
    assert {first, second} == {pickle.loads(pickle.dumps(first))}  # noqa: S301  # our own bytes


def test_decoding_imports_neither_torch_nor_transformers(folder: Path) -> None:
    (folder / "decoder.pickle").write_bytes(pickle.dumps(decoder(folder)))
    code = (
        "import pickle, sys; from emocache.spec import Source; "
        f"decode = pickle.load(open({str(folder / 'decoder.pickle')!r}, 'rb')); "
        "assert len(decode(Source('text', text='so sad')).payload); "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(count=st.integers(1, 400), room=st.integers(8, 60), data=st.data())
def test_windows_keep_each_token_once_and_away_from_their_borders(count: int, room: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, room // 2))
    cut = spans(count, room, overlap)
    assert [place for span in cut for place in range(span.first, span.last)] == list(range(count))
    assert all(span.stop - span.start == min(room, count) for span in cut)
    assert all(0 <= span.start <= span.first < span.last <= span.stop <= count for span in cut)
    for left, right in pairwise(cut):
        assert left.stop - right.start >= overlap
        assert left.stop - left.last >= overlap // 2
        assert right.first - right.start >= overlap // 2


@pytest.mark.parametrize("demand", [True, False])
def test_settings_change_no_special_token_that_the_tokenizer_file_has_as_in_transformers(
    folder: Path, demand: bool
) -> None:
    before = tokenizer_recipe(model(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": demand, "bos_token": "<mask>"}))
    own = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    found = load_tokenizer(model(folder))
    for text in SENTENCES:
        assert [*found.prefix, *decoded(decoder(folder), text).payload, *found.suffix] == own.encode(text)
    assert tokenizer_recipe(model(folder)) == before


# --- other formats ---------------------------------------------------------------------------------------------------


def test_a_vocabulary_alone_is_converted_by_transformers(tmp_path: Path) -> None:
    vocabulary = train_tokenizer("bert").get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    decode = decoder(tmp_path)
    own = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert own.is_fast
    for text in SENTENCES:
        assert list(decoded(decode, text).payload) == own.encode(text, add_special_tokens=False)
    assert decode.unknown == vocabulary["[UNK]"]


def test_the_recipe_names_what_decides_the_ids_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true, "name_or_path": "x"}')
    before = tokenizer_recipe(model(tmp_path))
    assert set(before) == {"vocab.txt", "tokenizer_config.json"}
    (tmp_path / "tokenizer_config.json").write_text('{"name_or_path": "elsewhere", "do_lower_case": true}')
    assert tokenizer_recipe(model(tmp_path)) == before
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    changed = tokenizer_recipe(model(tmp_path))
    assert changed != before
    (tmp_path / "vocab.txt").write_text("b\na\n")
    assert tokenizer_recipe(model(tmp_path)) != changed
    (tmp_path / "tokenizer.json").write_text("{}")
    assert set(tokenizer_recipe(model(tmp_path))) == {"tokenizer.json"}


def test_folders_without_a_tokenizer_say_what_they_lack(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"no tokenizer; expected tokenizer\.json, or one of vocab\.txt, .* beside the"
    ):
        load_tokenizer(model(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"tokenizer\.json: is no tokenizer .*Model missing.*; download it again"):
        load_tokenizer(model(tmp_path))


def test_a_tokenizer_that_nobody_can_convert_says_what_to_bring(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x00no sentencepiece model")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(
        WeightsError, match=r"the tokenizer cannot be read \(.*\); bring tokenizer\.json into the folder"
    ):
        load_tokenizer(model(tmp_path))


def test_a_tokenizer_of_python_code_runs_where_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "letters.py").write_text(PYTHON_TOKENIZER)
    (folder / "letters.model").write_text("")
    settings = '{"tokenizer_class": "Letters", "auto_map": {"AutoTokenizer": ["letters.Letters", null]}}'
    (folder / "tokenizer_config.json").write_text(settings)
    with pytest.raises(
        WeightsError, match="own Python code: read it, then allow it with --trust-remote-code, or bring"
    ):
        load_tokenizer(model(folder))
    found = load_tokenizer(model(folder, remote_code=True))
    assert found.source == folder
    assert (len(found.prefix), found.suffix) == (1, ())
    ids = TextDecoder(found.source, Windows(96, 1), found.unknown)(Source("text", text="bad")).payload
    assert list(ids) == [1, 0, 3]

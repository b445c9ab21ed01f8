"""Text encoders against transformers, on small random models of every family."""

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from emocache.extract.encoders.text import TextEncoder
from emocache.extract.pooling import pool
from emocache.spec import Source

from .text_models import (
    BIDIRECTIONAL,
    DEPTH,
    DIM,
    FAMILIES,
    LONG,
    SENTENCES,
    Shelf,
    assert_close,
    frames_of,
    reference,
    started,
)

RANGES = [[0], [1], [2, 3], [DEPTH], [0, 1, 2, 3, 4, 5]]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A function that writes the folder of a family once."""
    return Shelf(lambda: tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_k_is_the_full_models_hidden_state_k(make: Shelf, family: str) -> None:
    folder = make(family)
    expected = reference(folder, SENTENCES[0])
    assert len(expected) == DEPTH + 1
    for layers in RANGES:
        encoder = started(folder, layers)
        assert len(encoder.blocks) == max(1, *layers)
        assert_close(frames_of(encoder, layers, SENTENCES[0])[0], expected[layers], 1e-5)


@pytest.mark.parametrize(("dtype", "relative"), [("float32", 1e-4), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_the_same_alone_and_in_any_batch(make: Shelf, family: str, dtype: str, relative: float) -> None:
    layers = [0, 2, DEPTH]
    encoder = started(make(family), layers, dtype)
    texts = [*SENTENCES, "so", LONG]
    for text, batched in zip(texts, frames_of(encoder, layers, *texts), strict=True):
        assert batched.isfinite().all()
        alone = frames_of(encoder, layers, text)[0]
        if dtype == "bfloat16":  # of 8 bits: single tokens may round further apart, a clip's result may not
            batched, alone = (pool(frames, "mean")[:, None] for frames in (batched, alone))
        assert_close(batched, alone, relative)


@pytest.mark.cuda
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_gives_the_same_numbers_alone_and_in_any_batch(make: Shelf, family: str) -> None:
    expected = reference(make(family), SENTENCES[0])
    for dtype, relative in (("float32", 1e-4), ("bfloat16", 2e-2)):
        encoder = TextEncoder("small", weights=make(family))
        encoder.load("cuda", dtype, range(DEPTH + 1))
        batched = frames_of(encoder, [*range(DEPTH + 1)], *SENTENCES, LONG)
        for text, found in zip([*SENTENCES, LONG], batched, strict=True):
            assert_close(found, frames_of(encoder, [*range(DEPTH + 1)], text)[0], relative)
        if dtype == "float32":
            assert_close(batched[0].cpu(), expected, 1e-4)


def test_special_tokens_are_read_but_are_no_frames(make: Shelf) -> None:
    encoder = started(make("bert"), [2])
    tokenizer = tokenizers.Tokenizer.from_file(str(make("bert") / "tokenizer.json"))
    (frames,) = frames_of(encoder, [2], SENTENCES[0])
    assert frames.shape == (1, len(tokenizer.encode(SENTENCES[0]).ids) - 2, DIM)
    bare = torch.tensor([tokenizer.encode(SENTENCES[0], add_special_tokens=False).ids])
    with torch.inference_mode():
        unread = transformers.AutoModel.from_pretrained(make("bert"))(bare, output_hidden_states=True).hidden_states[2]
    assert not torch.allclose(frames[0], unread[0], atol=1e-3)


@pytest.mark.parametrize("family", ["xlm-roberta", "llama"])
def test_a_long_text_goes_through_in_windows_and_each_token_counts_once(make: Shelf, family: str) -> None:
    """Transcribed slowly: each window alone, and of each token the state farther from a window's border."""
    encoder = started(make(family), [1, DEPTH])
    decoded = encoder.decoder()(Source("text", text=LONG))
    (frames,) = frames_of(encoder, [1, DEPTH], LONG)
    spans = encoder.decoder().windows.of(len(decoded.payload))
    assert len(spans) == decoded.facts["windows"] > 1
    assert decoded.size == sum(span.stop - span.start + encoder.decoder().windows.special for span in spans)
    expected = torch.empty_like(frames)
    filled = np.zeros(len(decoded.payload), dtype=int)
    for span in spans:
        with torch.inference_mode():
            alone, _ = encoder.forward([decoded.payload[span.start : span.stop]], [1, DEPTH])
        kept = slice(span.first, span.last)
        expected[:, kept] = alone[0][:, span.first - span.start :][:, : span.last - span.first]
        filled[kept] += 1
    assert (filled == 1).all()
    assert_close(frames, expected, 1e-4)
    encoder.batch_size = 1  # less than one window of it, as of a model that reads very long texts
    (one_by_one,) = frames_of(encoder, [1, DEPTH], LONG)
    assert_close(one_by_one, expected, 1e-4)


@pytest.mark.parametrize("family", ["chinese", "gpt2"])
@pytest.mark.parametrize("convention", ["merbench", "mer2023"])
def test_a_convention_gives_mertools_numbers(make: Shelf, family: str, convention: str) -> None:
    """Sum of the last four hidden states, special tokens removed, mean over tokens: transcribed slowly."""
    folder = make("bert" if family == "chinese" else family)
    encoder = started(folder, [0], convention=convention)
    assert encoder.depth == 0
    (frames,) = frames_of(encoder, [0], SENTENCES[3])
    states = reference(folder, SENTENCES[3]).numpy()
    summed = states[-4] + states[-3] + states[-2] + states[-1]
    tokens = list(summed)
    utterance = sum(tokens[1:], tokens[0]) / len(tokens)
    np.testing.assert_allclose(frames[0].numpy(), summed, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(pool(frames, "mean")[0].numpy(), utterance, rtol=1e-4, atol=1e-4)


def test_every_family_is_either_bidirectional_or_causal(make: Shelf) -> None:
    """What stands behind a token changes it in the former alone: a check of the test models themselves."""
    for family in FAMILIES:
        encoder = started(make(family), [DEPTH])
        short, long = frames_of(encoder, [DEPTH], "so sad", "so sad and tired")
        same = torch.allclose(short[0, 0], long[0, 0], atol=1e-4)
        assert same is (family not in BIDIRECTIONAL), family

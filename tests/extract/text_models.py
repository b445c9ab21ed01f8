"""Small random models of every family of text encoders, with tokenizers trained on a few sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from emocache.extract.encoders.text import TextEncoder
from emocache.spec import Source

DEPTH = 5
DIM = 32
SENTENCES = [
    "I am so glad you came, really glad!",
    "leave me alone, I do not want to hear it",
    "what a surprise to see you here today",
    "我今天真的很高兴见到你",
    "他一个人坐在那里, 什么也不说",
    "so sad, so very sad and tired",
]
LONG = " ".join(SENTENCES * 3)
SMALL: dict[str, Any] = {
    "hidden_size": DIM,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}
ENCODER: dict[str, Any] = {**SMALL, "max_position_embeddings": 96}
DECODER: dict[str, Any] = {**ENCODER, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", ENCODER),
    "roberta": ("Roberta", {**ENCODER, "pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", {**ENCODER, "pad_token_id": 1}),
    "electra": ("Electra", {**ENCODER, "embedding_size": 16}),
    "deberta-v2": (
        "DebertaV2",
        {**ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    ),
    "deberta-v2, convolution": ("DebertaV2", {**ENCODER, "relative_attention": True, "conv_kernel_size": 3}),
    "modernbert": ("ModernBert", {**ENCODER, "global_attn_every_n_layers": 2, "local_attention": 8, "pad_token_id": 0}),
    "llama": ("Llama", DECODER),
    "mistral": ("Mistral", {**DECODER, "sliding_window": 8}),
    "qwen2": ("Qwen2", {**DECODER, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
    "qwen3": ("Qwen3", DECODER),
    "gemma2": ("Gemma2", {**DECODER, "sliding_window": 8}),
    "gemma3": ("Gemma3Text", {**DECODER, "sliding_window": 8}),
    "gpt2": ("GPT2", {"n_embd": DIM, "n_layer": DEPTH, "n_head": 4, "n_positions": 256, "initializer_range": 0.2}),
    "gpt-neox": ("GPTNeoX", {**ENCODER, "max_position_embeddings": 256}),
    "opt": ("OPT", {**SMALL, "ffn_dim": 48, "max_position_embeddings": 256, "word_embed_proj_dim": DIM}),
    "bloom": ("Bloom", {"hidden_size": DIM, "n_layer": DEPTH, "n_head": 4, "initializer_range": 0.2}),
}
"""transformers' class without ``Model`` or ``Config``, and what its configuration is."""
BIDIRECTIONAL = {"bert", "roberta", "xlm-roberta", "electra", "deberta-v2", "deberta-v2, convolution", "modernbert"}


def make_model(family: str, folder: Path, **changes: Any) -> Path:
    """A random model with its tokenizer, as `save_pretrained` leaves it."""
    name, settings = FAMILIES[family]
    tokenizer = train_tokenizer(family)
    config = getattr(transformers, f"{name}Config")(**settings, **{"vocab_size": tokenizer.get_vocab_size(), **changes})
    config.bos_token_id = config.eos_token_id = None
    torch.manual_seed(7)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def train_tokenizer(family: str) -> Tokenizer:
    """A tokenizer of the family's kind: its algorithm, and the special tokens that it puts around a text."""
    if family in {"bert", "electra", "modernbert"}:
        return _word_piece()
    if family in {"xlm-roberta", "deberta-v2", "deberta-v2, convolution"}:
        return _unigram()
    bos = {"roberta": ("<s>", "</s>"), "opt": ("</s>",), "llama": ("<s>",), "mistral": ("<s>",), "gemma2": ("<s>",)}
    return _byte_pairs(bos.get(family, ()))


def _word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 (a token of a vocabulary)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special))
    return _wrapped(tokenizer, "[CLS]", "[SEP]")


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>")  # noqa: S106
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _wrapped(tokenizer, "<s>", "</s>")


def _byte_pairs(around: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<|endoftext|>"]
    tokenizer.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet)
    )
    return _wrapped(tokenizer, *around)


def _wrapped(tokenizer: Tokenizer, first: str = "", last: str = "") -> Tokenizer:
    """The tokenizer with `first` before and `last` behind every text."""
    around = [token for token in (first, last) if token]
    if around:
        template = " ".join(filter(None, [first, "$A", last]))
        tokens = [(token, tokenizer.token_to_id(token)) for token in around]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=tokens)
    return tokenizer


class Shelf:
    """The folder of each family, made when it is first asked for.

    new: makes an empty folder
    """

    def __init__(self, new: Callable[[], Path]) -> None:
        self._new = new
        self._made: dict[str, Path] = {}

    def __call__(self, family: str) -> Path:
        if family not in self._made:
            self._made[family] = make_model(family, self._new())
        return self._made[family]


def started(folder: Path, layers: list[int], dtype: str = "float32", **options: Any) -> TextEncoder:
    encoder = TextEncoder("small", weights=folder, **options)
    encoder.load("cpu", dtype, layers)
    return encoder


def frames_of(encoder: TextEncoder, layers: list[int], *texts: str) -> list[torch.Tensor]:
    """Each text's ``(layer, token, dim)``, all in one batch."""
    decode = encoder.decoder()
    with torch.inference_mode():
        frames, lengths = encoder.forward([decode(Source("text", text=text)).payload for text in texts], layers)
    return [row[:, :length] for row, length in zip(frames, lengths, strict=True)]


def assert_close(found: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    """Within `relative` of the largest value of each layer."""
    assert found.shape == expected.shape
    scale = expected.float().abs().amax(dim=(1, 2), keepdim=True)
    assert ((found.float() - expected.float()).abs() / scale).max() < relative


def reference(folder: Path, text: str) -> torch.Tensor:
    """``(layer, token, dim)`` of the full model by transformers, the text alone, its special tokens left out."""
    encoding = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    ids = torch.tensor([encoding.ids])
    with torch.inference_mode():
        states = model(ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
    own = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    return torch.cat(states)[:, own]

"""Full-size text encoders against transformers' own forward of the whole model, and batches against texts alone.

    python benchmarks/exactness_text.py [--models xlmr-large ...] [--device cpu] [--dtypes float32] [--shrink]

The architectures get random weights and a tokenizer of bytes in a temporary folder: enough to prove exactness where
nothing can be downloaded. Differences are relative to the largest value of a layer. The bars are 1e-5 against
transformers in float32, and alone against batch 1e-4 in float32 and 2e-2 in bfloat16.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModel, BertConfig, Qwen2Config, XLMRobertaConfig

from emocache.extract.encoders.text import TextEncoder
from emocache.spec import Source

LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
QWEN_SMALL: dict[str, Any] = {
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
}
QWEN_7B: dict[str, Any] = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
}
MODELS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "xlmr-large": (XLMRobertaConfig, {**LARGE, "vocab_size": 250_002, "max_position_embeddings": 514}),
    "chinese-roberta-large": (BertConfig, {**LARGE, "vocab_size": 21_128}),
    "qwen2.5-0.5b": (Qwen2Config, {**QWEN_SMALL, "vocab_size": 151_936, "max_position_embeddings": 32_768}),
    "qwen2.5-7b": (Qwen2Config, {**QWEN_7B, "vocab_size": 152_064, "max_position_embeddings": 131_072}),
}
"""The configurations as published."""
DTYPES = ("float32", "bfloat16")
TEXTS = [
    "so sad",
    "I really did not expect to see you here today, of all days!",
    "我今天真的很高兴见到你",
    "leave me alone; " * 20,
]


def make(name: str, folder: Path, *, shrink: bool) -> Path:
    """Write the folder of a model with random weights; `shrink` keeps only a twentieth of the words and two blocks."""
    config_class, settings = MODELS[name]
    if shrink:
        settings = {**settings, "vocab_size": settings["vocab_size"] // 20, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = AutoModel.from_config(config_class(**settings))
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: 10 + number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def frames(encoder: TextEncoder, layers: Sequence[int], texts: Sequence[str]) -> list[Tensor]:
    """Each text's ``(layer, token, dim)``, all in one batch."""
    decode = encoder.decoder()
    with torch.inference_mode():
        found, lengths = encoder.forward([decode(Source("text", text=text)).payload for text in texts], layers)
    return [row[:, :length].float().cpu() for row, length in zip(found, lengths, strict=True)]


def worst(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest value of its layer."""
    scales = (reference.abs().amax(dim=(1, 2), keepdim=True) for reference in expected)
    return max(float(((a - b).abs() / scale).max()) for a, b, scale in zip(found, expected, scales, strict=True))


def reference(folder: Path, layers: Sequence[int], device: str) -> list[Tensor]:
    """The same by transformers, float32, one text at a time, all blocks."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = []
    for text in TEXTS:
        with torch.inference_mode():
            states = model(torch.tensor([tokenizer.encode(text).ids], device=device), output_hidden_states=True)
        rows.append(torch.cat([states.hidden_states[layer] for layer in layers]).float().cpu())
    return rows


def compare(name: str, folder: Path, device: str, dtypes: Sequence[str]) -> None:
    """Print one model's rows of the table."""
    encoder = TextEncoder(name, weights=folder)
    for layers in ([encoder.depth // 2], [*range(encoder.depth - 3, encoder.depth + 1)]):
        layers = [layer for layer in layers if layer >= 0]
        expected = reference(folder, layers, device)
        for dtype in dtypes:
            encoder.load(device, dtype, layers)
            alone = [frames(encoder, layers, [text])[0] for text in TEXTS]
            against = f"{worst(alone, expected):.1e}" if dtype == "float32" else "-"
            batched = worst(frames(encoder, layers, TEXTS), alone)
            print(f"{name:22} {layers[0]:3d}-{layers[-1]:<3d} {dtype:9} {against:>15} {batched:13.1e}", flush=True)


def main() -> None:
    """Make each model, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=[*MODELS][:3])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--shrink", action="store_true", help="two blocks and few words: shows only that this runs")
    arguments = parser.parse_args()
    print(f"{'model':22} {'layers':7} {'dtype':9} {'transformers':>15} {'alone/batch':>13}")
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, make(name, Path(folder), shrink=arguments.shrink), arguments.device, arguments.dtypes)


if __name__ == "__main__":
    main()

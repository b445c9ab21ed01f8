"""WavLM's attention with its gated relative positions, through torch's fused attention.

transformers computes it with `torch.nn.functional.multi_head_attention_forward`, which also makes the weights that
nobody reads, and warns about the mask that it is given. The arithmetic is the same: softmax(q k' / sqrt(d) + bias) v.

Chen et al., WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing, 2022, equations 4 to 6.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def fuse_attention(network: Any) -> None:
    """Let each block of a WavLM model attend through torch's fused kernel."""
    for block in network.encoder.layers:
        block.attention.torch_multi_head_self_attention = MethodType(_attend, block.attention)


def _attend(attention: Any, states: Tensor, valid: Tensor | None, bias: Tensor) -> tuple[Tensor, None]:
    """Stands for WavLMAttention's method of the same arguments.

    states: ``(clip, time, dim)``; valid: ``(clip, time)``, 0 on padding
    bias: the gated bias of relative positions, ``(clip * head, time, time)``
    returns: ``(clip, time, dim)``, and no attention weights
    """
    clips, time, dim = states.shape
    heads = attention.num_heads

    def split(values: Tensor) -> Tensor:
        return values.view(clips, time, heads, -1).transpose(1, 2)

    query, key, value = (split(layer(states)) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
    mask = bias.view(clips, heads, time, time)
    if valid is not None:
        mask = mask.masked_fill((valid == 0)[:, None, None], float("-inf"))
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return attention.out_proj(mixed.transpose(1, 2).reshape(clips, time, dim)), None

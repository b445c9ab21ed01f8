"""WavLM's attention with its gated relative positions, through torch's fused attention.

transformers computes it with `torch.nn.functional.multi_head_attention_forward`, which also makes the weights that
nobody reads, and warns about the mask that it is given. The arithmetic is the same: softmax(q k' / sqrt(d) + bias) v.

Chen et al., WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing, 2022, equations 4 to 6.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.wavlm.modeling_wavlm import WavLMAttention


def fuse_attention(network: Any) -> None:
    """Let each block of a WavLM model attend through torch's fused kernel."""
    for block in network.encoder.layers:
        # The class, not a method bound to the instance: that would be a ring of references, see `OneByOne`.
        block.attention.__class__ = FusedAttention


class FusedAttention(WavLMAttention):
    """WavLM's attention, but for the part that mixes the values."""

    def torch_multi_head_self_attention(  # type: ignore[override]  # it promises weights, which nobody reads
        self, states: Tensor, valid: Tensor | None, bias: Tensor
    ) -> tuple[Tensor, None]:
        """Stands for WavLMAttention's method of this name.

        states: ``(clip, time, dim)``; valid: ``(clip, time)``, 0 on padding
        bias: the gated bias of relative positions, ``(clip * head, time, time)``
        returns: ``(clip, time, dim)``, and no attention weights
        """
        clips, time, dim = states.shape

        def split(values: Tensor) -> Tensor:
            return values.view(clips, time, self.num_heads, -1).transpose(1, 2)

        query, key, value = (split(layer(states)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        mask = bias.view(clips, self.num_heads, time, time)
        if valid is not None:
            mask = mask.masked_fill((valid == 0)[:, None, None], float("-inf"))
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(clips, time, dim))
        return attended, None

"""The paper's equations, written out slowly in numpy: loops over clips, groups, experts and heads, float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]


def numbers(module: nn.Module) -> dict[str, Array]:
    """A module's parameters by name."""
    return {name: tensor.detach().double().numpy() for name, tensor in module.named_parameters()}


def softmax(x: Array) -> Array:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    return np.vectorize(lambda value: 0.5 * value * (1 + math.erf(value / math.sqrt(2))))(x)


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def linear(p: dict[str, Array], name: str, x: Array) -> Array:
    """``W x + b`` of one vector."""
    return p[f"{name}.weight"] @ x + p.get(f"{name}.bias", 0.0)


def project(p: dict[str, Array], x: Array) -> Array:
    """``GELU(LN(W x))`` of one vector."""
    return gelu(layer_norm(p["linear.weight"] @ x, p["norm.weight"], p["norm.bias"]))


def attention(query: Array, keys: Array, values: Array, heads: int) -> Array:
    """One query ``(width,)`` over keys and values ``(token, width)`` that are already projected, head by head."""
    each = len(query) // heads
    out = []
    for head in range(heads):
        part = slice(head * each, (head + 1) * each)
        weights = softmax(keys[:, part] @ query[part] / math.sqrt(each))
        out.append(sum(weight * value for weight, value in zip(weights, values[:, part], strict=True)))
    return np.concatenate(out)


def eap(p: dict[str, Array], tokens: Array, heads: int) -> Array:
    """Eq. 3 for one clip's valid tokens ``(token, width)``."""
    keys = np.stack([p["key.weight"] @ token for token in tokens])
    values = np.stack([linear(p, "value", token) for token in tokens])
    outputs = [linear(p, "out", attention(p["query.weight"] @ query, keys, values, heads)) for query in p["queries"]]
    alpha = softmax(np.array([float((p["score.weight"] @ output)[0]) for output in outputs]))
    return sum(weight * output for weight, output in zip(alpha, outputs, strict=True))  # type: ignore[return-value]


def gate(p: dict[str, Array], guide: Array, other: Array) -> Array:
    """Eq. 5 for one clip and one modality."""
    c = sigmoid(p["gate.weight"] @ guide)
    groups = np.split(other, len(c))
    return np.concatenate([c[g] * group for g, group in enumerate(groups)])


def route(router: dict[str, Array], experts: dict[str, Array], guide: Array, other: Array, top_k: int) -> Array:
    """Eq. 6 for one clip and one modality."""
    pi = softmax(router["linear.weight"] @ guide)
    chosen = sorted(range(len(pi)), key=lambda j: -pi[j])[:top_k]
    return sum(pi[j] * expert(experts, j, guide, other) for j in chosen)  # type: ignore[return-value]


def expert(p: dict[str, Array], j: int, guide: Array, other: Array) -> Array:
    """``E_j([h_a || h^_x])``."""
    first = np.concatenate([p["guide_weight"][j], p["other_weight"][j]], axis=1)
    hidden = gelu(first @ np.concatenate([guide, other]) + p["hidden_bias"][j])
    return p["out_weight"][j] @ hidden + p["out_bias"][j]


def remember(p: dict[str, Array], guide: Array, heads: int) -> Array:
    """The memory-refined guide of one clip."""
    width = len(guide)
    keys = np.stack([(p["key_value.weight"] @ slot + p["key_value.bias"])[:width] for slot in p["prototypes"]])
    values = np.stack([(p["key_value.weight"] @ slot + p["key_value.bias"])[width:] for slot in p["prototypes"]])
    query = linear(p, "query", layer_norm(guide, p["norm.weight"], p["norm.bias"]))
    return guide + linear(p, "out", attention(query, keys, values, heads))


def transform(p: dict[str, Array], tokens: Array, allowed: NDArray[np.bool_], heads: int) -> Array:
    """One refinement layer on one clip's tokens ``(token, width)``."""
    width, out = tokens.shape[1], []
    normed = [layer_norm(token, p["attention_norm.weight"], p["attention_norm.bias"]) for token in tokens]
    both = np.stack([linear(p, "key_value", token) for token in normed])
    for number, token in enumerate(tokens):
        seen = both[allowed[number]]
        found = attention(linear(p, "query", normed[number]), seen[:, :width], seen[:, width:], heads)
        kept = token + linear(p, "out", found)
        hidden = gelu(linear(p, "widen", layer_norm(kept, p["mlp_norm.weight"], p["mlp_norm.bias"])))
        out.append(kept + linear(p, "narrow", hidden))
    return np.stack(out)


def doubt(p: dict[str, Array], x: int, routed: Array) -> Array:
    """Eq. 7 for one clip and the modality with number x."""
    return sigmoid(linear(p, f"scores.{x}.2", gelu(linear(p, f"scores.{x}.0", routed))))[0]  # type: ignore[no-any-return]


def weigh(u_av: float, u_at: float) -> tuple[float, float]:
    """Eq. 8 as it stands in the paper, for video and text."""
    both = (1 - u_av) + (1 - u_at) + 1e-6
    return (1 - u_av) / both, (1 - u_at) / both


def fuse(p: dict[str, Array], h: Array, settings: Any) -> Array:
    """Eq. 5 to 10 for one clip with all of audio, video and text: ``(3, dim)`` to ``(dim,)``."""

    def part(name: str) -> dict[str, Array]:
        return {key.removeprefix(f"{name}."): value for key, value in p.items() if key.startswith(f"{name}.")}

    audio, heads = h[0], settings.attention_heads
    r_v, r_t = (
        route(part("router"), part("experts"), audio, gate(part("gating"), audio, h[x]), settings.top_k) for x in (1, 2)
    )
    tokens = np.stack([remember(part("memory"), audio, heads), r_v, r_t])
    for layer in range(settings.layers):
        tokens = transform(part(f"refinement.{layer}"), tokens, np.ones((3, 3), dtype=bool), heads)
    uncertainty = part("uncertainty")
    w_av, w_at = weigh(float(doubt(uncertainty, 0, r_v)), float(doubt(uncertainty, 1, r_t)))
    z_amhf = project(part("project"), np.concatenate([tokens[0], w_av * r_v, w_at * r_t]))
    return z_amhf + settings.gamma * project(part("residual"), np.concatenate(list(h)))


def cross_entropy(logits: Array, target: Array) -> float:
    return -float(target @ np.log(softmax(logits)))


def total_loss(
    logits: Array,
    auxiliary: Array,
    target: Array,
    lambdas: tuple[float, float, float],
    orthogonal: float,
    balance: float,
) -> float:
    """Eq. 11 over clips with all three modalities: logits ``(clip, class)``, auxiliary ``(clip, 3, class)``."""
    fused = np.mean([cross_entropy(row, t) for row, t in zip(logits, target, strict=True)])
    each = [np.mean([cross_entropy(row, t) for row, t in zip(auxiliary[:, m], target, strict=True)]) for m in range(3)]
    return float(fused + lambdas[0] * sum(each) / 3 + lambdas[1] * orthogonal + lambdas[2] * balance)

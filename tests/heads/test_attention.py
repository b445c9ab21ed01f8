"""The `attention` head is MERTools' baseline: layers, draws, optimiser."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from emocache.heads.attention import DROPOUT, HIDDEN, LR, AttentionHead, AttentionNetwork
from emocache.heads.layout import LayoutBlock

LAYOUT = (
    LayoutBlock("audio", "tone", 0, 1, 1, 4),
    LayoutBlock("video", "face", 4, 1, 2, 3),
    LayoutBlock("text", "words", 10, 1, 1, 5),
)


def test_the_network_is_the_baselines_layer_by_layer() -> None:
    net = AttentionNetwork(LAYOUT, 6, 64, 0.3)
    kinds = ["Dropout", *["Linear", "ReLU"] * 3]
    for encoder, width in zip(net.encoders, (4, 3, 5), strict=True):
        assert [type(layer).__name__ for layer in encoder] == kinds
        assert [(layer.in_features, layer.out_features) for layer in encoder if isinstance(layer, nn.Linear)] == [
            (width, 64),
            (64, 64),
            (64, 64),
        ]
    joint, weights = net.attention
    assert joint[1].in_features == 3 * 64
    assert (weights.in_features, weights.out_features) == (64, 3)
    assert (net.classifier.in_features, net.classifier.out_features) == (64, 6)


def test_the_fused_vector_is_the_sum_weighted_without_a_softmax() -> None:
    net = AttentionNetwork(LAYOUT, 6, 8, 0.3).eval()
    x = torch.randn(3, 15)
    picture = x[:, 4:10].view(3, 2, 3).mean(dim=1)
    encoded = [encode(part) for encode, part in zip(net.encoders, (x[:, :4], picture, x[:, 10:]), strict=True)]
    weights = net.attention(torch.cat(encoded, dim=1))
    fused = sum(weights[:, number, None] * part for number, part in enumerate(encoded))
    torch.testing.assert_close(net(x), net.classifier(fused))


def test_an_absent_modality_has_no_say() -> None:
    net, x = AttentionNetwork(LAYOUT, 6, 8, 0.3).eval(), torch.randn(2, 15)
    x[0, 10:] = torch.nan
    x[1, 7:10] = torch.nan  # one of two tokens
    before = net(x)
    assert before.isfinite().all()
    nn.init.zeros_(net.encoders[2][1].weight)
    torch.testing.assert_close(net(x)[0], before[0])


def test_what_is_not_given_is_drawn_by_the_seed() -> None:
    draws = {AttentionHead(seed=seed).drawn() for seed in range(200)}
    assert draws == {(hidden, dropout, lr) for hidden in HIDDEN for dropout in DROPOUT for lr in LR}
    assert AttentionHead(seed=7).drawn() == AttentionHead(seed=7).drawn()
    assert AttentionHead(hidden=32, dropout=0.1, lr=0.01).drawn() == (32, 0.1, 0.01)


def test_it_trains_as_the_baseline_does() -> None:
    how = AttentionHead(lr=1e-3).training()
    assert (how.epochs, how.patience, how.batch, how.lr) == (100, 100, 32, 1e-3)
    assert (how.decay, how.decoupled, how.min_lr, how.warmup) == (1e-5, False, None, 0)
    assert AttentionHead.normalize == "none"
    assert AttentionHead.masks


def test_it_learns_from_a_modality_that_half_of_the_clips_lack() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=120)
    x = np.full((120, 15), np.nan, dtype=np.float32)
    x[:, :4] = rng.normal(size=(120, 4))
    x[::2, 10:] = 2 * np.eye(5)[y][::2] + 0.3 * rng.normal(size=(60, 5))
    head = AttentionHead(hidden=32, lr=3e-3, epochs=30, layout=LAYOUT, device="cpu").fit(x, y.astype(str))
    right = head.predict(x) == y.astype(str)
    assert right[::2].mean() > 0.9
    assert head.predict_proba(x)[1::2].max() < 1

"""The losses against torch's own and against plain transcriptions, and which of them a head learns and stops by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from emocache.heads import torch_head
from emocache.heads.amhf.head import AMHFHead
from emocache.heads.head import Head
from emocache.heads.losses import Loss, class_weights, concordance, concordance_loss, cross_entropy, loss_of
from emocache.heads.mlp import MLPHead

LOGITS = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TRUE = torch.tensor([0, 1, 1, 3, 2, 1, 0, 3, 3])
TARGET = F.one_hot(TRUE, 4).double()
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
HERE = torch.tensor([1, 1, 0, 1, 1, 0, 1, 1, 1]).bool()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs_weighted_and_smoothed_one(smoothing: float) -> None:
    found = cross_entropy(LOGITS, TARGET, WEIGHTS, smoothing)
    torch.testing.assert_close(found, F.cross_entropy(LOGITS, TRUE, WEIGHTS, label_smoothing=smoothing))


def test_of_soft_labels_it_is_the_divergence_and_the_entropy() -> None:
    soft = torch.softmax(LOGITS.flip(0), dim=1)
    entropy = -(soft * soft.log()).sum(dim=1).mean()
    divergence = F.kl_div(LOGITS.log_softmax(dim=1), soft, reduction="batchmean")
    torch.testing.assert_close(cross_entropy(LOGITS, soft, torch.ones(4).double()), divergence + entropy)


@pytest.mark.parametrize("loss", [loss_of("label", WEIGHTS, 0.1), loss_of("soft", WEIGHTS), concordance_loss])
def test_a_masked_clip_counts_for_nothing(loss: Loss) -> None:
    torch.testing.assert_close(loss(LOGITS, TARGET, HERE[:, None].double()), loss(LOGITS[HERE], TARGET[HERE]))


def test_models_side_by_side_have_the_losses_that_they_have_alone() -> None:
    outputs, targets = torch.stack([LOGITS, LOGITS.flip(0)]), torch.stack([TARGET, TARGET.roll(1, 0)])
    weights = torch.stack([WEIGHTS, WEIGHTS.flip(0)])
    each = [cross_entropy(*of_one, smoothing=0.1) for of_one in zip(outputs, targets, weights, strict=True)]
    torch.testing.assert_close(cross_entropy(outputs, targets, weights, 0.1), torch.stack(each))
    each = [concordance_loss(*of_one) for of_one in zip(outputs, targets, strict=True)]
    torch.testing.assert_close(concordance_loss(outputs, targets), torch.stack(each))


def test_concordance_is_lins_coefficient_of_each_dimension() -> None:
    a, b = LOGITS.numpy(), LOGITS.numpy() * 0.5 + np.linspace(0, 2, 36).reshape(9, 4)
    expected = [
        2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
        for x, y in zip(a.T, b.T, strict=True)
    ]
    found = concordance(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert concordance_loss(torch.from_numpy(a), torch.from_numpy(b)).item() == pytest.approx(1 - np.mean(expected))


def test_balanced_weights_give_every_class_the_same_say_and_a_class_without_clips_none() -> None:
    target = F.one_hot(torch.tensor([0, 0, 0, 1, 3, 3]), 4).float()
    weights = class_weights(target, "balanced")
    torch.testing.assert_close(weights, torch.tensor([6 / 9, 2.0, 0.0, 1.0]))
    torch.testing.assert_close(weights * target.sum(dim=0), torch.tensor([2.0, 2.0, 0.0, 2.0]))
    assert class_weights(target, "none").tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["balanced", "none"])
def test_a_head_learns_by_the_smoothed_loss_and_stops_by_the_plain_one_both_weighted(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20 clips 15 are of one class: that has a third of the other's weight, or the same."""
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    y = np.repeat(["calm", "angry"], [15, 5])
    weights = torch.tensor([2.0, 2 / 3]) if kind == "balanced" else torch.ones(2)
    got: list[tuple[Loss, Loss]] = []

    def one_by_one(net: Any, rows: Any, learn: Any, held: Any, how: Any, losses: tuple[Loss, Loss], name: str) -> Any:
        got.append(losses)
        return net

    def together(members: Any, how: Any, dropout: Any, layout: Any, losses: Any, *_: object) -> None:
        got.append(losses(members[0].weights))

    monkeypatch.setattr(torch_head, "train", one_by_one)
    monkeypatch.setattr("emocache.heads.mlp.train_together", together)
    given: dict[str, Any] = {"class_weights": kind, "label_smoothing": 0.2, "device": "cpu"}
    heads: list[Head] = [AMHFHead(**given, dim=16), MLPHead(**given, hidden=(4,))]
    logits, true = torch.randn(6, 2), torch.tensor([0, 1, 1, 1, 0, 1])
    target = F.one_hot(true, 2).float()
    for head in heads:
        head.fit(x, y)
        learn, stop = got.pop()
        torch.testing.assert_close(learn(logits, target), F.cross_entropy(logits, true, weights, label_smoothing=0.2))
        torch.testing.assert_close(stop(logits, target), F.cross_entropy(logits, true, weights))

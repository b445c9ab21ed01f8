"""Networks trained together: what becomes of each does not depend on the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from emocache.heads import stack
from emocache.heads.adam import Adam
from emocache.heads.layout import LayoutBlock
from emocache.heads.mlp import Job, MLPHead
from emocache.heads.stack import Member, _Stack, _turned
from emocache.heads.training import TrainingRows
from tests.heads.conftest import Corpus

SMALL = {"hidden": (16, 8), "batch": 16, "epochs": 12, "patience": 3, "device": "cpu"}


def jobs(corpus: Corpus, task: str = "label") -> list[Job]:
    """Four folds of different size."""
    labels, speakers = (np.asarray([row[name] for row in corpus.columns]) for name in ("label", "speaker"))
    y: NDArray[Any] = labels
    if task == "soft":
        y = np.eye(3)[np.unique(labels, return_inverse=True)[1]] * 0.7 + 0.1
    if task == "dimensional":
        y = corpus.signal[:, :2] @ np.array([[1.0, 0.3], [0.2, 1.0]])
    keep = [np.arange(72) % 5 != 0, np.arange(72) % 4 != 1, np.arange(72) < 66, np.arange(72) > 20]
    return [(corpus.signal[rows], y[rows], speakers[rows]) for rows in keep]


@pytest.mark.parametrize("task", ["label", "soft", "dimensional"])
@pytest.mark.parametrize("together", [2**18, 1], ids=["stacked", "one a core"])
def test_a_head_comes_out_alike_with_others_and_alone(
    task: str, together: int, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folds of different size, seeds, members that stop at different epochs: all differ by float noise alone."""
    monkeypatch.setitem(stack.STACK_PARAMETERS, "cpu", together)
    given = [job for job in jobs(corpus, task) for _ in range(2)]
    heads = [MLPHead(**SMALL, task=task, seed=seed) for seed in range(len(given))]
    MLPHead.fit_together(heads, given, lambda _: None)
    for head, job in zip(heads, given, strict=True):
        alone = MLPHead(**SMALL, task=task, seed=head.seed).fit(*job)
        np.testing.assert_allclose(alone.predict_proba(job[0]), head.predict_proba(job[0]), atol=2e-5)


def test_heads_that_mix_layers_come_out_alike_too(corpus: Corpus) -> None:
    layout = (LayoutBlock("audio", "net", 0, 2, 1, 3), LayoutBlock("text", "words", 6, 1, 1, 2))
    given = jobs(corpus)[:2]
    heads = [MLPHead(**SMALL, layout=layout, seed=seed) for seed in range(2)]
    MLPHead.fit_together(heads, given, lambda _: None)
    for head, job in zip(heads, given, strict=True):
        alone = MLPHead(**SMALL, layout=layout, seed=head.seed).fit(*job)
        np.testing.assert_allclose(alone.predict_proba(job[0]), head.predict_proba(job[0]), atol=2e-5)
        assert sum(head.layer_weights()[0]) == pytest.approx(1)
        assert head.layer_weights()[0] != [0.5, 0.5]


def test_training_together_twice_gives_the_same_bits(corpus: Corpus) -> None:
    found = []
    for _ in range(2):
        heads = [MLPHead(**SMALL, seed=seed) for seed in range(4)]
        MLPHead.fit_together(heads, jobs(corpus), lambda _: None)
        found.append(np.stack([head.predict_proba(corpus.signal) for head in heads]))
    np.testing.assert_array_equal(*found)


def test_each_finished_head_is_told_once(corpus: Corpus) -> None:
    done: list[int] = []
    heads = [MLPHead(**SMALL, seed=seed) for seed in range(4)]
    MLPHead.fit_together(heads, jobs(corpus), done.append)
    assert done == [1] * 4


def test_one_step_of_a_stack_is_a_step_of_the_module(corpus: Corpus) -> None:
    """Forward, batch norm's running mean, gradient and AdamW, against torch's own modules without dropout."""
    head = MLPHead(**{**SMALL, "batch": 80}, members=1, dropout=0.0, seed=5)
    head.classes_, head.columns_ = np.arange(3), 8
    head.layout_ = (LayoutBlock("any", "columns", 0, 1, 1, 8),)
    torch.manual_seed(0)
    net, twin = head._network(), head._network()
    twin.load_state_dict(net.state_dict())
    target = torch.eye(3)[torch.arange(72) % 3]
    rows = TrainingRows(torch.from_numpy(corpus.signal), target)
    member = Member(net, 1, rows, np.arange(72), np.arange(72), torch.ones(3))
    together = _Stack([member], head.training(), 0.0, head.layout_, head._losses)
    together._epoch()
    optimizer = torch.optim.AdamW(twin.parameters(), lr=head.lr, weight_decay=head.weight_decay)
    nn.CrossEntropyLoss(label_smoothing=0.1)(twin.train()(rows.x), target).backward()
    optimizer.step()
    for name, tensor in twin.state_dict().items():
        if "num_batches" not in name:
            found = _turned(together.state[name][0].detach())
            torch.testing.assert_close(found, tensor, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("decoupled", [True, False])
def test_adam_takes_the_steps_of_torchs_own(decoupled: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.arange(6.0).reshape(2, 3)) for _ in range(2))
    oracle = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizers = Adam([ours], 0.1, 0.02, decoupled=decoupled), oracle([theirs], lr=0.1, weight_decay=0.02, fused=True)
    for _ in range(5):
        target = torch.randn(2, 3)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            (parameter - target).square().sum().backward()
            optimizer.step()
    assert torch.equal(ours, theirs)

"""How a network is trained: its rate, its batches, its gradients, when it stops and what it is stopped by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emocache.heads import torch_head
from emocache.heads.adam import Adam
from emocache.heads.attention import AttentionHead
from emocache.heads.block import Block
from emocache.heads.cross_fit import cross_fit, fold_seed
from emocache.heads.linear import LinearHead
from emocache.heads.matrix import Matrix
from emocache.heads.mlp import MLPHead
from emocache.heads.problem import Problem, make_problem
from emocache.heads.training import Training, TrainingRows, inner_folds, train
from tests.heads.conftest import Corpus

LEARN, HELD = np.arange(3, 20), np.arange(3)
Judge = Callable[[Tensor, Tensor], Tensor]


class Watched(nn.Module):
    """A linear map that notes which rows it is trained on: each row's first column is its number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.batches: list[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.linear(x)
        return outputs

    def objective(self, x: Tensor, target: Tensor, loss: Judge) -> Tensor:
        self.batches.append(x[:, 0].int().tolist())
        return loss(self(x), target)


def square(outputs: Tensor, target: Tensor) -> Tensor:
    return (outputs - target).square().mean()


def trained(how: Training, judge: Judge = square) -> Watched:
    torch.manual_seed(0)
    x = torch.stack([torch.arange(20.0), torch.ones(20)], dim=1)
    net = Watched()
    train(net, TrainingRows(x, 100 * torch.ones(20, 1)), LEARN, HELD, how, (square, judge), "watched")
    return net


def test_the_rate_rises_over_the_warm_up_and_falls_by_half_a_cosine() -> None:
    how = Training(epochs=80, patience=10, batch=144, lr=2e-4, warmup=3, min_lr=1e-6)
    rates = [how.rate(step, 10) for step in range(801)]
    np.testing.assert_allclose(rates[:30], 2e-4 * np.arange(1, 31) / 30)
    progress = np.arange(771) / 770
    np.testing.assert_allclose(rates[30:], 1e-6 + (2e-4 - 1e-6) * (1 + np.cos(np.pi * progress)) / 2)
    assert {Training(epochs=5, patience=1, batch=9, lr=0.1).rate(step, 3) for step in range(15)} == {0.1}


def test_an_epoch_meets_every_row_to_learn_from_once_and_none_to_stop_by() -> None:
    batches = trained(Training(epochs=3, patience=9, batch=6, lr=1e-3)).batches
    assert [len(batch) for batch in batches] == [6, 6, 5] * 3
    epochs = [[row for batch in batches[first : first + 3] for row in batch] for first in (0, 3, 6)]
    assert all(sorted(epoch) == LEARN.tolist() for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_gradients_are_clipped_to_the_largest_norm_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []

    def noted(self: Adam) -> None:
        norms.append(float(torch.cat([each.grad.flatten() for each in self.parameters]).norm()))  # type: ignore[union-attr]

    monkeypatch.setattr(Adam, "step", noted)
    trained(Training(epochs=1, patience=1, batch=6, lr=1e-3, clip=0.5))
    assert norms == pytest.approx([0.5] * 3, rel=1e-4)
    norms.clear()
    trained(Training(epochs=1, patience=1, batch=6, lr=1e-3))
    assert min(norms) > 1


def test_it_stops_by_the_second_loss_when_that_has_waited_and_takes_its_best_weights_back() -> None:
    reached: Iterator[float] = iter([3.0, 1.0, 2.0, 1.0, 1.5])
    weights: list[Tensor] = []

    def judged(outputs: Tensor, _: Tensor) -> Tensor:
        assert len(outputs) == len(HELD)
        weights.append(outputs.clone())
        return torch.tensor(next(reached))

    net = trained(Training(epochs=50, patience=3, batch=20, lr=1.0), judged)
    assert len(net.batches) == len(weights) == 5
    x = torch.stack([torch.arange(3.0), torch.ones(3)], dim=1)
    assert not net.training
    torch.testing.assert_close(net(x), weights[1])
    assert not torch.allclose(weights[1], weights[4])


def test_each_member_stops_by_other_speakers_than_it_learns_from(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, speakers = (np.asarray([row[name] for row in corpus.columns]) for name in ("label", "speaker"))
    parts: list[tuple[set[str], set[str]]] = []

    def spy(
        net: nn.Module, rows: TrainingRows, learn: NDArray[np.int64], held: NDArray[np.int64], *_: object
    ) -> object:
        parts.append((set(speakers[learn]), set(speakers[held])))
        return net

    monkeypatch.setattr(torch_head, "train", spy)
    monkeypatch.setattr(AttentionHead, "members", 3)
    AttentionHead(hidden=4, device="cpu").fit(corpus.signal, labels, speakers)
    assert len(parts) == 3
    assert all(held and not learn & held for learn, held in parts)
    assert len({frozenset(held) for _, held in parts}) == 3


def test_a_head_is_never_stopped_by_a_single_clip() -> None:
    """The concordance of one clip is 0 whatever is learned, so that the first epoch would seem the best."""
    x = np.random.default_rng(0).normal(size=(41, 4)).astype(np.float32)
    y = np.stack([x[:, 0], x[:, 1] - x[:, 2]], axis=1).astype(np.float64)
    speakers = np.asarray(["a"] * 40 + ["b"])
    assert all(min(len(learn), len(held)) > 1 for learn, held in inner_folds(np.arange(41) % 3, speakers, 0))
    for members in (1, 2):
        how: dict[str, Any] = {"hidden": (16,), "epochs": 60, "batch": 8, "lr": 1e-2, "device": "cpu"}
        head = MLPHead(task="dimensional", members=members, **how).fit(x, y, speakers)
        assert np.corrcoef(head.predict_proba(x)[:, 0], y[:, 0])[0, 1] > 0.9


def problem_of(corpus: Corpus) -> Problem:
    block = Block("tone", "tone", "audio", "0" * 64, (0,), "mean", 1, 8, 0)
    matrix = Matrix(tuple(corpus.clips), corpus.signal, (block,), tuple(corpus.columns))
    return make_problem(matrix, "label", None, "speaker:3", "global", 0)


def test_a_folds_head_gets_its_training_rows_labels_and_speakers_and_a_seed_of_its_own(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, got = problem_of(corpus), []

    def fit(self: LinearHead, X: NDArray[np.float32], y: NDArray[np.str_], groups: NDArray[np.str_]) -> LinearHead:  # noqa: N803
        got.append((self.seed, X, y, groups))
        return self

    monkeypatch.setattr(LinearHead, "fit", fit)
    cross_fit(problem, LinearHead, {}, [0, 1], "cpu", title="")
    assert problem.speakers is not None
    assert len({seed for seed, *_ in got}) == 6 == len({fold_seed(seed, fold) for seed in (0, 1) for fold in range(3)})
    for number, (train_rows, _) in enumerate(problem.folds.parts()):
        for _, x, y, groups in got[2 * number : 2 * number + 2]:
            own = problem.values[train_rows].astype(np.float64)
            np.testing.assert_allclose(x, (own - own.mean(axis=0)) / own.std(axis=0), rtol=1e-4, atol=1e-5)
            assert y.tolist() == problem.labels[train_rows].tolist()
            assert groups.tolist() == problem.speakers[train_rows].tolist()

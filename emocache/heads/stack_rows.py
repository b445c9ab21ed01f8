"""The rows that networks trained together read: one matrix for each fold, one below the other, and who reads where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emocache.heads.training import TrainingRows


@dataclass(frozen=True)
class Batch:
    """Rows of every member.

    rows: ``(member, row)`` int64; where a member has fewer than another, its last are any row
    mask: ``(member, row, 1)`` float32: 1 where there is a row, 0 behind the last; None where all have as many
    """

    rows: Tensor
    mask: Tensor | None

    @property
    def width(self) -> int:
        """Rows of the member that has most."""
        return self.rows.shape[1]

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> Batch:
        """From the rows of each member, ``(row,)`` each."""
        rows = nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=-1)
        if len({len(part) for part in parts}) == 1:
            return cls(rows, None)
        return cls(rows.clamp_min(0), (rows >= 0).unsqueeze(-1).to(torch.float32))

    def parts(self, rows: int) -> Iterator[Batch]:
        """The batch in pieces of at most `rows` rows a member, without their masks."""
        yield from (Batch(part, None) for part in torch.split(self.rows, rows, dim=1))


class StackRows:
    """What some members learn from and stop by.

    members: training rows, and the numbers of those to learn from and to stop by; equal rows are kept once
    """

    def __init__(self, members: Sequence[tuple[TrainingRows, NDArray[np.int64], NDArray[np.int64]]]) -> None:
        folds = list({id(rows): rows for rows, _, _ in members}.values())
        starts = np.concatenate([[0], np.cumsum([len(fold.x) for fold in folds])[:-1]])
        start_of: Mapping[int, int] = {id(fold): int(start) for fold, start in zip(folds, starts, strict=True)}
        self._x = folds[0].x if len(folds) == 1 else torch.cat([fold.x for fold in folds])
        self._target = folds[0].target if len(folds) == 1 else torch.cat([fold.target for fold in folds])
        self._learn = [torch.from_numpy(learn + start_of[id(rows)]).to(self._x.device) for rows, learn, _ in members]
        self._held = [torch.from_numpy(held + start_of[id(rows)]).to(self._x.device) for rows, _, held in members]

    def of(self, numbers: Sequence[int]) -> StackRows:
        """The same for some of the members."""
        fewer = object.__new__(StackRows)
        fewer._x, fewer._target = self._x, self._target
        fewer._learn = [self._learn[number] for number in numbers]
        fewer._held = [self._held[number] for number in numbers]
        return fewer

    def shuffled(self, draws: Sequence[torch.Generator], steps: int) -> list[Batch]:
        """The batches of an epoch, each member's rows in an order of its own."""
        orders = [
            rows[torch.randperm(len(rows), generator=draw, device=rows.device)].tensor_split(steps)
            for rows, draw in zip(self._learn, draws, strict=True)
        ]
        return [Batch.of(parts) for parts in zip(*orders, strict=True)]

    def held(self) -> Batch:
        """The rows to stop by."""
        return Batch.of(self._held)

    def x(self, batch: Batch) -> Tensor:
        """``(member, row, column)``."""
        return self._x[batch.rows]

    def target(self, batch: Batch) -> Tensor:
        """``(member, row, class)``."""
        return self._target[batch.rows]

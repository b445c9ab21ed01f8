"""One training epoch of `amhf`, against nothing but the matrix products that it consists of.

    python benchmarks/fit_amhf.py                       # 5,000 clips, three modalities of 1,024 columns
    python benchmarks/fit_amhf.py --clips 500 --dim 64  # small

The products are those that torch is asked for while the epoch runs, forward and backward, taken down by a dispatch
mode: the same shapes in the same order are then computed by plain ``torch.mm`` and ``torch.bmm`` on matrices that are
already there. Everything else (norms, activations, dropout, routing, mixing, clipping, the optimizer) is overhead.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from emocache.heads.amhf.head import AMHFHead
from emocache.heads.layout import LayoutBlock
from emocache.heads.losses import loss_of
from emocache.heads.training import TrainingRows, reproducible, train

ROUNDS = 3
CLASSES = 6
Shape = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Epoch:
    """Seconds of an epoch and of its products alone (the best of `ROUNDS` each), and how many those are."""

    epoch_s: float
    products_s: float
    products: int
    multiply_adds: int

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch_s:.2f} s, its {self.products:,} products {self.products_s:.2f} s "
            f"({2e-9 * self.multiply_adds / self.products_s:.0f} GFLOP/s): {self.epoch_s / self.products_s:.2f} x"
        )


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own is untyped
    """Takes down the shapes of all matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[Shape] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note a product, then compute as always."""
        name = func.overloadpacket.__name__
        if name in {"mm", "bmm", "addmm", "baddbmm"}:
            left, right = args[-2:]
            self.shapes.append((tuple(left.shape), tuple(right.shape)))
        return func(*args, **(kwargs or {}))


def amhf_epoch(clips: int = 5_000, columns: int = 1_024, dim: int = 512, device: str = "cpu") -> Epoch:
    """Train `amhf` for one epoch on noise, and compute its products alone."""
    layout = tuple(
        LayoutBlock(modality, modality, number * columns, 1, 1, columns)
        for number, modality in enumerate(("audio", "video", "text"))
    )
    head = AMHFHead(dim=dim, expert_hidden=dim, hidden=dim, epochs=1)
    rng = np.random.default_rng(0)
    rows = TrainingRows(
        torch.as_tensor(rng.standard_normal((clips, 3 * columns), dtype=np.float32), device=device),
        torch.eye(CLASSES, device=device)[torch.from_numpy(rng.integers(CLASSES, size=clips)).to(device)],
    )
    weights = torch.ones(CLASSES, device=device)
    losses = (loss_of("label", weights, head.label_smoothing), loss_of("label", weights))

    def epoch() -> None:
        with reproducible(torch.device(device), 0, one_thread=head.one_thread):
            net = head.build(layout, 3 * columns, CLASSES).to(device)
            ready = time.perf_counter()
            train(net, rows, np.arange(clips), np.arange(2), head.training(), losses, "amhf")
            _wait(device)
            spent.append(time.perf_counter() - ready)

    spent: list[float] = []
    with Products() as products:
        epoch()
    spent.clear()
    for _ in range(ROUNDS):
        epoch()
    alone = min(_seconds(_replay(products.shapes, device), device) for _ in range(ROUNDS))
    multiply_adds = sum(np.prod(left, dtype=np.int64) * right[-1] for left, right in products.shapes)
    return Epoch(min(spent), alone, len(products.shapes), int(multiply_adds))


def _replay(shapes: list[Shape], device: str) -> Callable[[], None]:
    """A function that computes all products, each into a matrix that is there already."""
    made: dict[Shape, tuple[Tensor, Tensor, Tensor]] = {}
    for left, right in Counter(shapes):
        out = torch.empty(*left[:-1], right[-1], device=device)
        made[left, right] = (torch.randn(left, device=device), torch.randn(right, device=device), out)

    def products() -> None:
        for shape in shapes:
            left, right, out = made[shape]
            (torch.mm if left.ndim == 2 else torch.bmm)(left, right, out=out)

    return products


def _seconds(work: Callable[[], None], device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=5_000)
    parser.add_argument("--columns", type=int, default=1_024)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    print(amhf_epoch(given.clips, given.columns, given.dim, given.device))

"""`svm-ensemble`: support vector machines of three kernels on many subsets, which vote (MMEF-Net, Section III-D2).

A member is a kernel, a seed and a subset: of the columns, or of the training rows (all but one inner fold). Members on
the same columns share the products of their rows: one Gram matrix gives the linear kernel, the RBF kernel by
``|a - b|^2 = aa - 2ab + bb``, and elementwise the polynomial one. scikit-learn's SVC takes them as they are
(``kernel="precomputed"``), where a machine of its own would compute products again for each pair of classes. Threads
serve subsets side by side.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from emocache.errors import BadOption, FitError
from emocache.heads.folds import make_folds
from emocache.heads.head import FloatMatrix
from emocache.heads.layout import Layout

MODEL, ROWS, CARD = "model.skops", "rows.safetensors", "head.json"
ALLOWED: tuple[str, ...] = ()
"""Types beyond skops' own safe list (numpy, scikit-learn's estimators, lists) that a model file may hold: none."""
KERNELS = ("linear", "rbf", "poly")
SUBSETS = ("columns", "folds")

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class SVMEnsembleHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn ships no types
    """Majority vote of ``kernels x draws x subsets`` machines; ties go to the largest sum of decision values.

    kernels: of ``linear``, ``rbf`` and ``poly`` (with `degree` and 1 added); gamma is ``1 / (columns * variance)``
    draws: how often subsets are drawn anew, by a seed each; subsets: how many a draw has
    subset_of: ``columns``: each subset is a random `share` of them; ``folds``: each leaves out one of `subsets` inner
        folds of the training rows, disjoint by speaker where there are speakers
    C: the penalty; classes are weighted by inverse frequency. On EmoDB 3 scores within .003 of 1
    layout, task, seed, device: every head has them; this one computes on the CPU
    """

    masks: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = ("label",)
    normalize: ClassVar[str] = "global"

    def __init__(
        self,
        *,
        kernels: Sequence[str] = KERNELS,
        draws: int = 3,
        subsets: int = 4,
        subset_of: str = "columns",
        share: float = 0.5,
        C: float = 1.0,  # noqa: N803 (scikit-learn's name)
        degree: int = 3,
        layout: Layout | None = None,
        task: str = "label",
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.kernels = kernels
        self.draws = draws
        self.subsets = subsets
        self.subset_of = subset_of
        self.share = share
        self.C = C
        self.degree = degree
        self.layout = layout
        self.task = task
        self.seed = seed
        self.device = device

    def fit(
        self,
        X: FloatMatrix,  # noqa: N803 (scikit-learn's name)
        y: NDArray[np.str_],
        groups: NDArray[np.str_] | None = None,
    ) -> Self:
        """Learn from rows ``(clip, dim)`` and their labels ``(clip,)``; `groups` divide inner folds.

        raises: BadOption for a kernel, a kind of subset or a number that cannot be
        """
        self._check()
        self.classes_, target = np.unique(np.asarray(y), return_inverse=True)
        self.rows_ = np.asarray(X, dtype=np.float32)
        self.columns_, kept = self._drawn(target, groups)
        values = self.rows_.astype(np.float64)

        def fit_subset(number: int) -> list[SVC]:
            space = Kernels.of(values[:, self.columns_[number]], self.degree)
            rows = kept[number]
            part = np.ix_(rows, rows)
            products = space.products(space.rows)
            return [
                SVC(C=self.C, kernel="precomputed", class_weight="balanced", decision_function_shape="ovo").fit(
                    space.kernel(kernel, products, space.squares)[part], target[rows]
                )
                for kernel in self.kernels
            ]

        self.kept_ = kept
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
            self.machines_ = list(pool.map(fit_subset, range(len(kept))))
        return self

    def predict_proba(self, X: FloatMatrix) -> NDArray[np.float64]:  # noqa: N803 (scikit-learn's name)
        """The share of votes ``(clip, class)``, in which one more vote is divided by the decision values.

        The division is a softmax over their mean: less than a vote, so that it decides ties and nothing else.
        """
        new = np.asarray(X, dtype=np.float64)
        values = self.rows_.astype(np.float64)

        def ask(number: int) -> tuple[FloatArray, FloatArray]:
            columns, kept = self.columns_[number], self.kept_[number]
            space = Kernels.of(values[:, columns], self.degree)
            products, squares = space.products(new[:, columns]), (new[:, columns] ** 2).sum(axis=1)
            votes, sums = np.zeros((len(new), len(self.classes_))), np.zeros((len(new), len(self.classes_)))
            for kernel, machine in zip(self.kernels, self.machines_[number], strict=True):
                matrix = np.ascontiguousarray(space.kernel(kernel, products, squares)[:, kept])
                own, decision = one_vote(machine, matrix, len(self.classes_))
                votes += own
                sums += decision
            return votes, sums

        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
            each = list(pool.map(ask, range(len(self.machines_))))
        votes = np.sum([own for own, _ in each], axis=0)
        mean = np.sum([own for _, own in each], axis=0) / votes.sum(axis=1, keepdims=True)
        last = np.exp(mean - mean.max(axis=1, keepdims=True))
        last /= last.sum(axis=1, keepdims=True)
        return np.asarray((votes + last) / (votes.sum(axis=1, keepdims=True) + 1))

    def predict(self, X: FloatMatrix) -> NDArray[np.str_]:  # noqa: N803 (scikit-learn's name)
        """The class that most members vote for, ``(clip,)``."""
        labels: NDArray[np.str_] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels

    def save(self, folder: Path) -> None:
        """Write ``model.skops`` (the machines), ``rows.safetensors`` (what their kernels need) and ``head.json``."""
        from safetensors.numpy import save_file
        from skops.io import dump

        dump(self.machines_, folder / MODEL)
        save_file({"rows": self.rows_}, folder / ROWS)
        parameters = {**self.get_params(), "kernels": list(self.kernels), "layout": None}
        card = {
            "parameters": parameters,
            "classes": self.classes_.tolist(),
            "columns": [columns.tolist() for columns in self.columns_],
            "kept": [rows.tolist() for rows in self.kept_],
        }
        (folder / CARD).write_text(json.dumps(card) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Read what `save` wrote; no code of the files is run.

        raises: FitError if a file is missing, damaged, or holds a type that is not allowed
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        machines = _read_machines(folder / MODEL)
        try:
            card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
            head = cls(**{**card["parameters"], "device": device})
            head.rows_ = load_file(folder / ROWS)["rows"]
            head.classes_ = np.asarray(card["classes"])
            head.columns_ = [np.asarray(columns, dtype=np.int64) for columns in card["columns"]]
            head.kept_ = [np.asarray(rows, dtype=np.int64) for rows in card["kept"]]
            head.machines_ = machines
            head.predict_proba(head.rows_[:1])
        except (OSError, ValueError, KeyError, TypeError, IndexError, BadOption, SafetensorError) as error:
            raise FitError(
                f"{folder}: cannot be read as a head of kind svm-ensemble: {error}; fit the head again"
            ) from error
        return head

    def _check(self) -> None:
        strange = [kernel for kernel in self.kernels if kernel not in KERNELS]
        if strange or not self.kernels:
            raise BadOption(f"svm-ensemble: kernels {strange or 'none'}; choose of {', '.join(KERNELS)}")
        if self.subset_of not in SUBSETS:
            raise BadOption(f"svm-ensemble: subset_of {self.subset_of!r}; choose of {', '.join(SUBSETS)}")
        if self.draws < 1 or self.subsets < 1 or not 0 < self.share <= 1:
            raise BadOption(
                f"svm-ensemble: draws {self.draws}, subsets {self.subsets}, share {self.share}; "
                "at least 1, at least 1, and more than 0 up to 1"
            )

    def _drawn(self, target: IntArray, groups: NDArray[np.str_] | None) -> tuple[list[IntArray], list[IntArray]]:
        """Columns and training rows of each subset."""
        everything, width = np.arange(len(target)), self.rows_.shape[1]
        columns: list[IntArray] = []
        rows: list[IntArray] = []
        for draw in range(self.draws):
            if self.subset_of == "columns":
                rng = np.random.default_rng([self.seed, draw])
                count = max(1, round(self.share * width))
                columns += [np.sort(rng.choice(width, count, replace=False)) for _ in range(self.subsets)]
                rows += [everything] * self.subsets
            else:
                parts = _inner_parts(target, groups, self.subsets, self.seed + draw)
                rows += parts
                columns += [np.arange(width)] * len(parts)
        return columns, rows


def _inner_parts(target: IntArray, groups: NDArray[np.str_] | None, count: int, seed: int) -> list[IntArray]:
    """Training rows without each inner fold; those that keep every class."""
    voices = 0 if groups is None else len(np.unique(groups))
    count = min(count, voices if voices > 1 else len(target))
    if count < 2:
        return [np.arange(len(target))]
    names: list[str | None] = [None] * len(target) if groups is None else [str(group) for group in groups]
    folds = make_folds(f"speaker:{count}" if voices > 1 else str(count), target, names, {}, seed=seed)
    classes = len(np.unique(target))
    whole = [learn for learn, _ in folds.parts() if len(np.unique(target[learn])) == classes]
    return whole or [np.arange(len(target))]


@dataclass(frozen=True)
class Kernels:
    """The three kernels over some rows, from shared products.

    rows: ``(row, column)`` float64; squares: ``(row,)``, the rows' products with themselves
    """

    rows: FloatArray
    squares: FloatArray
    gamma: float
    degree: int

    @classmethod
    def of(cls, rows: FloatArray, degree: int) -> Kernels:
        """With gamma as scikit-learn's ``scale``: ``1 / (columns * variance)``."""
        spread = float(rows.var())
        return cls(rows, (rows**2).sum(axis=1), 1 / (rows.shape[1] * spread) if spread > 0 else 1.0, degree)

    def products(self, others: FloatArray) -> FloatArray:
        """``(other, row)``."""
        return np.asarray(others @ self.rows.T)

    def kernel(self, name: str, products: FloatArray, squares: FloatArray) -> FloatArray:
        """``(other, row)``, from their products and the others' squares ``(other,)``."""
        if name == "linear":
            return products
        if name == "poly":
            return np.asarray((self.gamma * products + 1) ** self.degree)
        distances = np.maximum(squares[:, None] - 2 * products + self.squares, 0)
        return np.asarray(np.exp(-self.gamma * distances))


def one_vote(machine: SVC, matrix: FloatArray, classes: int) -> tuple[FloatArray, FloatArray]:
    """One member's vote, one-hot, and its decision values, summed over each class's pairs: ``(clip, class)`` each.

    matrix: ``(clip, row)``, the kernel of clips and training rows
    """
    decision = np.asarray(machine.decision_function(matrix), dtype=np.float64)
    if classes == 2:
        decision = -decision.reshape(-1, 1)  # of two classes scikit-learn gives the second's
    wins, sums = np.zeros((len(matrix), classes)), np.zeros((len(matrix), classes))
    pairs = [(a, b) for a in range(classes) for b in range(a + 1, classes)]
    for column, (a, b) in zip(decision.T, pairs, strict=True):
        wins[:, a] += column > 0
        wins[:, b] += column <= 0
        sums[:, a] += column
        sums[:, b] -= column
    return np.eye(classes)[wins.argmax(axis=1)], sums


def _read_machines(path: Path) -> list[list[SVC]]:
    from zipfile import BadZipFile

    from skops.io import get_untrusted_types, load
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        if strange := sorted(set(get_untrusted_types(file=path)) - set(ALLOWED)):
            raise FitError(f"{path}: holds {', '.join(strange)}, which an svm-ensemble does not; it was not loaded")
        machines = load(path, trusted=list(ALLOWED))
    except (OSError, BadZipFile, KeyError, ValueError, UntrustedTypesFoundException) as error:
        raise FitError(f"{path}: cannot be read as a head of kind svm-ensemble: {error}; fit the head again") from error
    if not isinstance(machines, list) or not all(isinstance(m, SVC) for part in machines for m in part):
        raise FitError(f"{path}: holds something else than support vector machines; fit the head again")
    return machines

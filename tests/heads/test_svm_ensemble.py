"""`svm-ensemble`: the same answers as a plain loop of scikit-learn's machines, the vote, the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.svm import SVC
from skops.io import dump

from emocache.errors import BadOption, FitError
from emocache.heads.fit import fit_head
from emocache.heads.runs import load_run
from emocache.heads.svm_ensemble import Kernels, SVMEnsembleHead, one_vote
from tests.heads.conftest import Corpus

Data = tuple[NDArray[np.float32], NDArray[np.str_], NDArray[np.str_]]


@pytest.fixture
def data(corpus: Corpus) -> Data:
    labels, speakers = (np.asarray([row[name] for row in corpus.columns]) for name in ("label", "speaker"))
    return corpus.signal, labels, speakers


def plain_loop(
    head: SVMEnsembleHead, x: NDArray[np.float32], y: NDArray[np.str_], new: NDArray[np.float32]
) -> NDArray[np.int64]:
    """How often each class is named, ``(clip, class)``, by machines that scikit-learn fits one by one."""
    votes = np.zeros((len(new), len(head.classes_)), dtype=np.int64)
    for columns, rows in zip(head.columns_, head.kept_, strict=True):
        values = x[:, columns].astype(np.float64)
        gamma = 1 / (values.shape[1] * values.var())
        for kernel in head.kernels:
            machine = SVC(C=head.C, kernel=kernel, gamma=gamma, coef0=1, degree=head.degree, class_weight="balanced")
            machine.fit(values[rows], y[rows])
            votes += machine.predict(new[:, columns].astype(np.float64))[:, None] == head.classes_
    return votes


@pytest.mark.parametrize("subset_of", ["columns", "folds"])
def test_its_votes_are_those_of_scikit_learns_own_machines(subset_of: str, data: Data) -> None:
    x, y, speakers = data
    head = SVMEnsembleHead(draws=2, subsets=3, subset_of=subset_of, seed=1).fit(x[:60], y[:60], speakers[:60])
    votes = plain_loop(head, x[:60], y[:60], x)
    assert votes.sum(axis=1).tolist() == [18] * 72
    found = np.floor(head.predict_proba(x) * 19 + 1e-9)
    np.testing.assert_array_equal(found, votes)


def test_two_classes_vote_as_scikit_learn_does(data: Data) -> None:
    x, y, speakers = data
    two = y != "joy"
    head = SVMEnsembleHead(draws=1, subsets=2).fit(x[two], y[two], speakers[two])
    np.testing.assert_array_equal(np.floor(head.predict_proba(x) * 7 + 1e-9), plain_loop(head, x[two], y[two], x))


def test_a_tie_of_votes_goes_to_the_larger_sum_of_decision_values(data: Data) -> None:
    """With two members that disagree, the probabilities' order is that of the summed decisions."""
    x, y, speakers = data
    head = SVMEnsembleHead(kernels=("linear", "rbf"), draws=1, subsets=1, share=1.0).fit(x, y, speakers)
    new = np.random.default_rng(0).normal(0, 3, (400, 8)).astype(np.float32)
    space = Kernels.of(head.rows_.astype(np.float64), 3)
    squares = (new.astype(np.float64) ** 2).sum(axis=1)
    each = [
        one_vote(machine, space.kernel(kernel, space.products(new.astype(np.float64)), squares), 3)
        for kernel, machine in zip(head.kernels, head.machines_[0], strict=True)
    ]
    votes, sums = each[0][0] + each[1][0], each[0][1] + each[1][1]
    tied = np.flatnonzero(votes.max(axis=1) == 1)
    assert len(tied) > 10
    expected = np.where(votes[tied] == 1, sums[tied], -np.inf).argmax(axis=1)
    np.testing.assert_array_equal(head.predict_proba(new)[tied].argmax(axis=1), expected)


class Decided(SVC):  # type: ignore[misc] # scikit-learn ships no types
    """A machine that has decided: of each pair of classes, how surely the first (of two classes, the second)."""

    def __init__(self, *decisions: float | list[float]) -> None:
        self.decisions = np.array(decisions)

    def decision_function(self, X: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: N803 (scikit-learn's name)
        return np.asarray(self.decisions[: len(X)])


def test_a_decision_speaks_for_one_class_of_its_pair_and_against_the_other() -> None:
    """Worked by hand; the pairs are 0 and 1, 0 and 2, 1 and 2. A circle of wins goes to the first class."""
    votes, sums = one_vote(Decided([1, 2, -0.5], [1, -3, 0.5]), np.zeros((2, 4)), 3)
    np.testing.assert_array_equal(votes, [[1, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(sums, [[3, -1.5, -1.5], [-2, -0.5, 2.5]])
    votes, sums = one_vote(Decided(0.25, -2), np.zeros((2, 4)), 2)
    np.testing.assert_array_equal(votes, [[0, 1], [1, 0]])
    np.testing.assert_array_equal(sums, [[-0.25, 0.25], [2, -2]])


def test_the_shared_kernels_are_scikit_learns(data: Data) -> None:
    from sklearn.metrics.pairwise import linear_kernel, polynomial_kernel, rbf_kernel

    rows, new = data[0][:40].astype(np.float64), data[0][40:].astype(np.float64)
    space = Kernels.of(rows, 2)
    products, squares = space.products(new), (new**2).sum(axis=1)
    gamma = 1 / (8 * rows.var())
    for name, expected in {
        "linear": linear_kernel(new, rows),
        "rbf": rbf_kernel(new, rows, gamma=gamma),
        "poly": polynomial_kernel(new, rows, degree=2, gamma=gamma, coef0=1),
    }.items():
        np.testing.assert_allclose(space.kernel(name, products, squares), expected, rtol=1e-10)


def test_subsets_of_folds_never_split_a_speaker(data: Data) -> None:
    x, y, speakers = data
    head = SVMEnsembleHead(subset_of="folds", subsets=3, draws=2).fit(x, y, speakers)
    for rows in head.kept_:
        left_out = np.setdiff1d(np.arange(72), rows)
        assert not set(speakers[rows]) & set(speakers[left_out])


def test_the_fold_models_of_a_run_vote_together_on_new_clips(store: Path, tmp_path: Path) -> None:
    run = fit_head(store, "svm-ensemble", folds="6", out=tmp_path / "run")
    again = load_run(tmp_path / "run")
    matrix = again.load_matrix(store)
    np.testing.assert_array_equal(again.predict_proba(matrix), run.predict_proba(matrix))
    assert len(run.record["fold_names"]) == 6


def test_a_file_with_another_type_inside_is_not_loaded(data: Data, tmp_path: Path) -> None:
    x, y, speakers = data
    SVMEnsembleHead(draws=1, subsets=1).fit(x, y, speakers).save(tmp_path)
    dump([[Ridge().fit(x, np.arange(72))]], tmp_path / "model.skops")
    with pytest.raises(FitError, match=r"model.skops: holds something else than support vector machines; fit the head"):
        SVMEnsembleHead.load(tmp_path)
    dump([[Stranger()]], tmp_path / "model.skops")
    with pytest.raises(FitError, match=r"holds .*Stranger, which an svm-ensemble does not; it was not loaded"):
        SVMEnsembleHead.load(tmp_path)


class Stranger:
    """A type that no model file may bring along."""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernels": ("rbf", "sigmoid")}, r"kernels \['sigmoid'\]; choose of linear, rbf, poly"),
        ({"kernels": ()}, "kernels .*; choose of linear, rbf, poly"),
        ({"subset_of": "rows"}, "subset_of 'rows'; choose of columns, folds"),
        ({"share": 0.0}, "share 0.0; at least 1, at least 1, and more than 0 up to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str, data: Data) -> None:
    x, y, _ = data
    with pytest.raises(BadOption, match=message):
        SVMEnsembleHead(**settings).fit(x, y)  # type: ignore[arg-type]

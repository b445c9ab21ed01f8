"""The contract that every head keeps, and what each of them does besides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score

from emocache.errors import BadOption, FitError, UnknownName
from emocache.heads.head import Head
from emocache.heads.linear import LinearHead
from emocache.heads.mlp import MLPHead, perceptron
from emocache.heads.registry import head_class, head_names
from emocache.heads.stack import Member
from emocache.heads.training import torch_device
from tests.heads.conftest import Corpus

FUSION = {"dim": 32, "expert_hidden": 32, "hidden": 32, "layers": 2, "batch": 16, "lr": 2e-3, "epochs": 20}
SMALL = {
    "amhf": FUSION,
    "attention": {"hidden": 32, "lr": 1e-3, "epochs": 40},
    "cross-attention": FUSION,
    "dynamic": {"hidden": 32, "lr": 3e-3, "epochs": 40, "batch": 16, "draws": 1, "subsets": 2},
    "mlp": {"hidden": (32,), "members": 2, "batch": 16, "epochs": 15},
    "svm-ensemble": {"draws": 1, "subsets": 2},
}

Data = tuple[NDArray[np.float32], NDArray[np.str_], NDArray[np.str_]]


@pytest.fixture
def data(corpus: Corpus) -> Data:
    labels, speakers = (np.asarray([row[name] for row in corpus.columns]) for name in ("label", "speaker"))
    return corpus.signal, labels, speakers


@pytest.fixture(params=head_names())
def head(request: pytest.FixtureRequest) -> Head:
    return head_class(request.param)(seed=3, device="cpu", **SMALL.get(request.param, {}))


class TestEveryHead:
    """A head derives from scikit-learn's bases, is deterministic, and comes back from its files exactly."""

    def test_probabilities_are_finite_and_add_up_to_one(self, head: Head, data: Data) -> None:
        x, y, speakers = data
        found = head.fit(x, y, speakers).predict_proba(x)
        assert found.shape == (72, 3)
        assert found.dtype == np.float64
        assert (found >= 0).all()
        np.testing.assert_allclose(found.sum(axis=1), 1)
        assert head.classes_.tolist() == ["anger", "fear", "joy"]

    def test_it_learns_what_other_speakers_show(self, head: Head, data: Data) -> None:
        x, y, speakers = data
        train = speakers != "s0"
        found = head.fit(x[train], y[train], speakers[train]).predict_proba(x[~train]).argmax(axis=1)
        assert (head.classes_[found] == y[~train]).mean() > 0.5

    def test_the_same_seed_gives_the_same_probabilities(self, head: Head, data: Data) -> None:
        x, y, speakers = data
        first = head.fit(x, y, speakers).predict_proba(x)
        np.testing.assert_array_equal(clone(head).fit(x, y, speakers).predict_proba(x), first)

    def test_it_comes_back_from_its_files_exactly(self, head: Head, data: Data, tmp_path: Path) -> None:
        x, y, speakers = data
        before = head.fit(x, y, speakers).predict_proba(x)
        head.save(tmp_path)
        again = type(head).load(tmp_path, device="cpu")
        np.testing.assert_array_equal(again.predict_proba(x), before)
        assert again.classes_.tolist() == head.classes_.tolist()
        for path in filter(Path.is_file, tmp_path.rglob("*")):
            assert b"pickle" not in path.read_bytes()

    def test_scikit_learn_can_use_it(self, head: Head, data: Data) -> None:
        x, y, _ = data
        assert cross_val_score(clone(head), x, y, cv=3).mean() > 0.5

    def test_it_works_without_groups_and_on_two_clips(self, head: Head, data: Data) -> None:
        x, y, _ = data
        assert np.isfinite(head.fit(x[[0, 4]], y[[0, 4]]).predict_proba(x)).all()

    def test_one_speaker_or_a_speaker_with_a_single_clip_is_enough(self, head: Head, data: Data) -> None:
        x, y, _ = data
        for speakers in (np.repeat("a", 12), np.asarray(["a"] * 11 + ["b"])):
            assert np.isfinite(head.fit(x[:12], y[:12], speakers).predict_proba(x)).all()

    def test_a_folder_without_its_files_is_named(self, head: Head, tmp_path: Path) -> None:
        with pytest.raises(FitError, match=r"cannot be read as a head of kind [\w-]+: .*fit the head again"):
            type(head).load(tmp_path)


def test_an_unknown_head_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"head 'forest' is not known\n  known: amhf, .*linear, mlp"):
        head_class("forest")


def test_a_linear_file_with_another_type_inside_is_not_loaded(tmp_path: Path) -> None:
    from skops.io import dump

    dump(Ridge(), tmp_path / "model.skops")
    with pytest.raises(FitError, match="holds a Ridge, expected a LogisticRegression"):
        LinearHead.load(tmp_path)
    dump({"callable": subprocess.run}, tmp_path / "model.skops")
    with pytest.raises(FitError, match=r"holds subprocess.run, which a linear head does not; it was not loaded"):
        LinearHead.load(tmp_path)


def test_mlp_weights_that_do_not_fit_the_card_are_refused(data: Data, tmp_path: Path) -> None:
    x, y, _ = data
    MLPHead(hidden=(4,), members=1, epochs=1).fit(x, y).save(tmp_path)
    card = tmp_path / "head.json"
    card.write_text(card.read_text().replace('"columns": 8', '"columns": 9'))
    with pytest.raises(FitError, match="cannot be read as a head of kind mlp"):
        MLPHead.load(tmp_path)


def test_the_perceptron_is_the_one_of_the_paper() -> None:
    """Linear, batch norm, ReLU, dropout .3 for 1024 and for 512, then the classes."""
    kinds = [type(layer).__name__ for layer in perceptron(20, (1024, 512), 6, 0.3)]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert (MLPHead().hidden, MLPHead().dropout) == ((1024, 512), 0.3)


def test_mlp_stops_by_speakers_that_it_does_not_learn_from(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, speakers = data
    parts: list[tuple[set[str], set[str]]] = []

    def spy(members: list[Member], *_: object) -> None:
        parts.extend((set(speakers[each.learn].tolist()), set(speakers[each.held].tolist())) for each in members)

    monkeypatch.setattr("emocache.heads.mlp.train_together", spy)
    MLPHead(hidden=(4,), members=3, epochs=1).fit(x, y, speakers)
    assert len(parts) == 3
    assert all(held and not learn & held for learn, held in parts)
    assert parts[0][1] != parts[1][1] != parts[2][1]


@pytest.mark.parametrize("clips", [3, 9, 17, 33])
def test_mlp_never_meets_a_batch_of_one_row(clips: int, data: Data) -> None:
    """Batch norm has no variance to divide by there."""
    x, y, _ = data
    rows = np.arange(clips) * 2
    for batch in (1, 2, 16):
        assert np.isfinite(MLPHead(hidden=(4,), batch=batch, epochs=1).fit(x[rows], y[rows]).predict_proba(x)).all()


def test_mlp_that_diverges_says_so(data: Data) -> None:
    x, y, _ = data
    with pytest.raises(FitError, match=r"never a number in 5 epochs; lower lr \(1e\+30\)"):
        MLPHead(hidden=(4,), members=1, lr=1e30).fit(x, y)


def test_mlp_leaves_the_callers_random_numbers_and_threads_alone(data: Data) -> None:
    x, y, _ = data
    torch.manual_seed(5)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(5)
    MLPHead(hidden=(4,), members=1, epochs=1).fit(x, y)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(BadOption, match="--device 'gpu' is not known; write auto, cpu, cuda"):
        torch_device("gpu")
    with pytest.raises(BadOption, match="CUDA devices are here; choose --device cpu"):
        torch_device("cuda:99")


def test_listing_the_heads_loads_no_torch() -> None:
    code = (
        "import sys; from emocache.heads.registry import head_names; head_names(); "
        "sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

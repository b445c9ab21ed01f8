"""`dynamic`: its equations against a slow transcription, the selection, gaps, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.feature_selection import SelectKBest, chi2

from emocache.errors import FitError
from emocache.heads.dynamic import DynamicHead, DynamicNetwork, most_telling
from emocache.heads.layout import LayoutBlock
from tests.heads.conftest import Corpus

LAYOUT = (
    LayoutBlock("audio", "a", 0, 1, 1, 3),
    LayoutBlock("video", "b", 3, 1, 2, 2),
    LayoutBlock("text", "c", 7, 1, 1, 1),
)
QUICK = {"hidden": 32, "lr": 3e-3, "epochs": 30, "batch": 16, "draws": 1, "subsets": 2}
Data = tuple[NDArray[np.float32], NDArray[np.str_], NDArray[np.str_]]


@pytest.fixture
def data(corpus: Corpus) -> Data:
    labels, speakers = (np.asarray([row[name] for row in corpus.columns]) for name in ("label", "speaker"))
    return corpus.signal, labels, speakers


def transcribed(net: DynamicNetwork, modalities: list[NDArray[np.float64] | None]) -> NDArray[np.float64]:
    """Equations 1 and 2 for one clip, modality by modality and head by head; None is a modality that is not there."""
    state = {name: value.double().numpy() for name, value in net.state_dict().items()}
    here = [m for m, values in enumerate(modalities) if values is not None]
    rows = {m: state[f"inputs.{m}.weight"] @ modalities[m] + state[f"inputs.{m}.bias"] for m in here}  # type: ignore[operator]
    width, heads = net.attention.embed_dim, net.attention.num_heads
    weight, bias = state["attention.in_proj_weight"], state["attention.in_proj_bias"]
    q, k, v = ({m: weight[i * width :][:width] @ rows[m] + bias[i * width :][:width] for m in here} for i in range(3))
    out = np.zeros((len(modalities), width))
    for m in here:
        parts = []
        for head in range(heads):
            span = slice(head * width // heads, (head + 1) * width // heads)
            scores = np.array([q[m][span] @ k[other][span] for other in here]) / np.sqrt(width / heads)
            shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            parts.append(sum(share * v[other][span] for share, other in zip(shares, here, strict=True)))
        attended = state["attention.out_proj.weight"] @ np.concatenate(parts) + state["attention.out_proj.bias"]
        total = rows[m] + attended
        normal = (total - total.mean()) / np.sqrt(total.var() + net.norm.eps)
        out[m] = normal * state["norm.weight"] + state["norm.bias"]
    return out.ravel()


def test_the_fused_rows_are_the_papers_equations_and_gaps_take_no_part() -> None:
    torch.manual_seed(0)
    net = DynamicNetwork(LAYOUT, outputs=3, hidden=8, heads=2, dropout=0.6, keep=0.5).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.5)
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    x[1, 3:7] = np.nan  # no video
    x[2, 5:7] = np.nan  # one video token only
    x[3] = np.nan  # nothing
    found = net.fused(torch.from_numpy(x)).detach().numpy()
    clips = [
        [x[0, :3], x[0, 3:7].reshape(2, 2).mean(axis=0), x[0, 7:]],
        [x[1, :3], None, x[1, 7:]],
        [x[2, :3], x[2, 3:5], x[2, 7:]],
    ]
    expected = [transcribed(net, [None if v is None else v.astype(np.float64) for v in clip]) for clip in clips]
    np.testing.assert_allclose(found[:3], expected, atol=1e-5)
    np.testing.assert_array_equal(found[3], 0)


def test_chi_square_keeps_what_scikit_learn_would_keep() -> None:
    rng = np.random.default_rng(0)
    values, target = rng.random((60, 20)), rng.integers(0, 3, 60)
    expected = SelectKBest(chi2, k=7).fit(values, target).get_support(indices=True)
    np.testing.assert_array_equal(most_telling(values, target, 7), expected)


def test_the_selection_sees_non_negative_values_of_the_training_rows_alone(data: Data) -> None:
    x, y, speakers = data
    head = DynamicHead(**QUICK, layout=None).fit(x, y, speakers)  # type: ignore[arg-type]
    net = head.nets_[0]
    assert isinstance(net, DynamicNetwork)
    fused = net.fused(torch.from_numpy(x)).detach()
    assert (fused + net.shift).min() >= 0
    assert (fused + net.shift).min(dim=0).values.max() == 0, "each column begins at 0 of its own"
    assert len(net.chosen) == 16
    target = np.searchsorted(head.classes_, y)
    expected = most_telling((fused + net.shift).double().numpy(), target, 16)
    np.testing.assert_array_equal(net.chosen, expected)
    seen = head._embedded(x)
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-4)


def test_it_learns_from_several_modalities_with_gaps_and_comes_back(data: Data, tmp_path: Path) -> None:
    x, y, speakers = data
    x = x.copy()
    x[::7, 3:7] = np.nan
    train = speakers != "s0"
    head = DynamicHead(**QUICK, layout=LAYOUT).fit(x[train], y[train], speakers[train])  # type: ignore[arg-type]
    said = head.predict_proba(x[~train])
    assert (head.classes_[said.argmax(axis=1)] == y[~train]).mean() > 0.5
    head.save(tmp_path)
    np.testing.assert_array_equal(DynamicHead.load(tmp_path).predict_proba(x[~train]), said)
    (tmp_path / "svm-ensemble/model.skops").unlink()
    with pytest.raises(FitError, match=r"cannot be read as a head of kind svm-ensemble: .*; fit the head again"):
        DynamicHead.load(tmp_path)


def test_sizes_that_do_not_fit_are_refused(data: Data) -> None:
    x, y, _ = data
    with pytest.raises(FitError, match=r"dynamic: hidden 9 must be a multiple of heads 2, and keep 0\.5 lie above 0"):
        DynamicHead(hidden=9).fit(x, y)

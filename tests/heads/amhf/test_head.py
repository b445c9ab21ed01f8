"""The `amhf` head: what is absent has no say, every component can go, and the same seed gives the same file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from emocache.errors import BadOption, UnknownName
from emocache.heads import cross_attention
from emocache.heads.amhf.embedding import modality_order
from emocache.heads.amhf.head import AMHFHead
from emocache.heads.amhf.mixing import mix, piece
from emocache.heads.amhf.network import FusionNetwork
from emocache.heads.amhf.settings import COMPONENTS, FusionSettings
from emocache.heads.cross_attention import CrossAttentionHead, parameter_count, who_attends
from emocache.heads.fit import fit_head
from emocache.heads.fold_model import FoldModel
from emocache.heads.layout import LayoutBlock
from emocache.heads.losses import loss_of
from emocache.heads.normalize import Scaler
from emocache.heads.training import Training
from tests.heads.conftest import Corpus, Given

TINY: dict[str, Any] = {"dim": 16, "expert_hidden": 16, "hidden": 16, "layers": 2, "batch": 24, "lr": 3e-3, "epochs": 2}
LAYOUT = (
    LayoutBlock("video", "face", 0, 1, 3, 5),  # three tokens
    LayoutBlock("audio", "tone", 15, 1, 1, 8),
    LayoutBlock("audio", "voice", 23, 1, 1, 6),
    LayoutBlock("text", "words", 29, 1, 1, 4),
)
COLUMNS, CLASSES = 33, 3
ALL_LOSS = loss_of("label", torch.ones(CLASSES), 0.1)


def network(
    head: type[AMHFHead] = AMHFHead, layout: tuple[LayoutBlock, ...] = LAYOUT, **settings: Any
) -> FusionNetwork:
    torch.manual_seed(2)
    return head(**{**TINY, **settings}).build(layout, layout[-1].stop, CLASSES)  # type: ignore[return-value]


def clips(count: int, absent: dict[int, list[int]] | None = None) -> torch.Tensor:
    """Noise ``(clip, column)``, NaN in the blocks that `absent` names for a clip."""
    x = torch.randn(count, COLUMNS, generator=torch.Generator().manual_seed(4))
    for clip, blocks in (absent or {}).items():
        for block in blocks:
            x[clip, LAYOUT[block].columns] = torch.nan
    return x


def test_the_defaults_are_the_papers() -> None:
    """Sections 3.5 and 3.6, appendix C.2 to C.4."""
    head = AMHFHead()
    assert (head.dim, head.groups, head.experts, head.expert_hidden, head.top_k) == (512, 8, 4, 512, 2)
    assert (head.slots, head.layers, head.attention_heads, head.hidden, head.gamma) == (10, 3, 8, 512, 1)
    assert (head.dropout, head.drop_path, head.label_smoothing, head.mixup, head.cutmix) == (0.15, 0.2, 0.1, 0.2, 0.3)
    assert (head.lambda_mod, head.guide, head.without, head.members) == (0.3, "audio", (), 1)
    how = Training(80, 10, 144, 2e-4, decay=0.05, warmup=3, min_lr=1e-6, clip=1, bf16=True)
    assert head.training() == how
    assert how.decoupled
    assert head.settings() == FusionSettings()
    assert network(dim=512, layers=3).fusion.memory.prototypes.shape == (10 * CLASSES, 512)  # type: ignore[union-attr]


def test_the_guide_comes_first_whatever_the_order_and_another_takes_its_place() -> None:
    assert modality_order(LAYOUT, "audio") == ["audio", "video", "text"]
    assert modality_order(LAYOUT, "text") == ["text", "video", "audio"]
    assert modality_order(LAYOUT[:1], "audio") == ["video"]
    with pytest.raises(UnknownName, match="guide 'vidio' is not known; did you mean video"):
        modality_order(LAYOUT, "vidio")
    with pytest.raises(UnknownName, match=r"guide 'text' is not known\n  known: audio, video\n  choose one of these"):
        network(CrossAttentionHead, LAYOUT[:2], guide="text")
    assert network().names == ["audio", "video", "text"]


@pytest.mark.parametrize("head", [AMHFHead, CrossAttentionHead])
def test_clips_that_lack_something_train_with_finite_gradients(head: type[AMHFHead]) -> None:
    net = network(head)
    x = clips(6, {0: [3], 1: [1, 2], 2: [0], 3: [0, 3], 4: [0, 1, 2, 3]})
    x[5, LAYOUT[0].start + 5 : LAYOUT[0].stop] = torch.nan  # one token of three
    assert net(x).isfinite().all()
    net.objective(x, torch.eye(CLASSES)[[0, 1, 2, 0, 1, 2]], ALL_LOSS).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("head", [AMHFHead, CrossAttentionHead])
@pytest.mark.parametrize("absent", ["audio", "video", "text"])
def test_an_absent_modality_has_no_say(head: type[AMHFHead], absent: str) -> None:
    """Whatever its own weights are, they change nothing for a clip that lacks it."""
    net = network(head).eval()
    x = clips(2, {0: [number for number, block in enumerate(LAYOUT) if block.modality == absent]})
    before = net(x)
    with torch.no_grad():
        for parameter in net.embedding.modalities[net.names.index(absent)].parameters():
            parameter.add_(0.5)
    after = net(x)
    torch.testing.assert_close(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


def test_a_clips_numbers_do_not_depend_on_what_other_clips_lack() -> None:
    net = network().eval()
    x = clips(4, {1: [3], 2: [1, 2]})
    torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", [LAYOUT[:2], LAYOUT[:1], (LayoutBlock("gait", "steps", 0, 1, 1, 7),)])
@pytest.mark.parametrize("head", [AMHFHead, CrossAttentionHead])
def test_two_modalities_work_one_works_and_any_name_works(
    head: type[AMHFHead], layout: tuple[LayoutBlock, ...]
) -> None:
    net = network(head, layout)
    x = torch.randn(5, layout[-1].stop)
    net.objective(x, torch.eye(CLASSES)[[0, 1, 2, 0, 1]], ALL_LOSS).backward()
    assert net(x).shape == (5, CLASSES)
    assert list(net.auxiliary(x)) == net.names


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_can_be_left_out(component: str) -> None:
    full, less = network(), network(without=[component])
    assert parameter_count(less) < parameter_count(full) or component == "gating"
    x = clips(6)
    less.objective(x, torch.eye(CLASSES)[[0, 1, 2, 0, 1, 2]], ALL_LOSS).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in less.fusion.parameters())
    assert not torch.equal(less.eval()(x), full.eval()(x))


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(UnknownName, match="component 'routng' is not known; did you mean routing"):
        network(without=["routng"])
    with pytest.raises(
        BadOption, match="dim 20 cannot be divided into 8 groups; choose --set groups=N that divides it"
    ):
        network(dim=20)
    with pytest.raises(BadOption, match="top_k 5 of 4 experts; choose --set top_k=N from 1 to 4"):
        network(top_k=5)
    with pytest.raises(BadOption, match="cross-attention has no memory; --without takes eap and veap here"):
        network(CrossAttentionHead, without=["memory", "eap"])


# --- cross-attention -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"dim": 512, "expert_hidden": 512, "hidden": 512, "layers": 3}])
@pytest.mark.parametrize("layout", [LAYOUT, LAYOUT[:2], LAYOUT[:1]])
def test_cross_attention_has_as_many_parameters_as_amhf_within_two_percent_and_says_so(
    settings: dict[str, Any], layout: tuple[LayoutBlock, ...], caplog: pytest.LogCaptureFixture
) -> None:
    cross_attention._say.cache_clear()
    with caplog.at_level(logging.INFO):
        ours = parameter_count(network(CrossAttentionHead, layout, **settings))
    theirs = parameter_count(network(layout=layout, **settings))
    assert ours == pytest.approx(theirs, rel=0.02)
    assert "cross-attention: " in caplog.text
    assert "parameters to fuse with (width " in caplog.text


def test_each_modality_attends_to_the_present_others_or_to_itself() -> None:
    allowed = who_attends(torch.tensor([[True, True, False], [True, False, False]])).int().tolist()
    assert allowed[0] == [[0, 1, 0], [1, 0, 0], [1, 1, 0]]
    assert allowed[1] == [[1, 0, 0], [1, 0, 0], [1, 0, 0]]


# --- mixing ----------------------------------------------------------------------------------------------------------


def test_mixing_moves_features_and_targets_alike_and_fills_no_gap() -> None:
    """Rows hold their own number, so that what came from whom can be read off."""
    target = torch.eye(8)
    for seed in range(20):
        torch.manual_seed(seed)
        x = torch.arange(8.0)[:, None].repeat(1, COLUMNS)
        x[2, LAYOUT[1].columns] = torch.nan
        mixed, soft = mix(x, target, LAYOUT, 0.5, 0.5)
        assert torch.equal(mixed.isnan(), x.isnan())
        torch.testing.assert_close(soft.sum(dim=1), torch.ones(8))
        own = soft.diagonal().clone()
        partner = (soft - torch.diag(own)).argmax(dim=1)
        expected = own * torch.arange(8) + (1 - own) * partner
        rest = [row for row in range(8) if row != 2 and partner[row] != 2]
        torch.testing.assert_close(mixed[rest].mean(dim=1), expected[rest])
        for row in rest:
            values = set(mixed[row].tolist())
            assert len(values) == 1 or values == {float(row), float(partner[row])}  # mixup, or a piece


def test_a_cutmix_piece_takes_its_share_of_each_block_whole_tokens_where_there_are_some() -> None:
    taken = piece(LAYOUT, COLUMNS, 0.5, 0.9)
    assert [int(taken[block.columns].sum()) for block in LAYOUT] == [10, 4, 3, 2]
    tokens = taken[LAYOUT[0].columns].view(3, 5)
    assert (tokens == tokens[:, :1]).all()
    assert not piece(LAYOUT, COLUMNS, 0.0, 0.3).any()
    assert piece(LAYOUT, COLUMNS, 1.0, 0.3).all()


def test_no_mixing_leaves_everything_as_it_is() -> None:
    x, target = clips(4), torch.eye(4)
    assert mix(x, target, LAYOUT, 0, 0) == (x, target)
    assert mix(x[:1], target[:1], LAYOUT, 1, 1)[1].tolist() == [[1, 0, 0, 0]]


# --- from a store ----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(corpus: Corpus, make_store: Callable[..., Path]) -> Path:
    """Sound of two layers that some clips lack, and a picture."""
    layers = np.stack([corpus.signal, corpus.signal[::-1]], axis=1)
    return make_store(
        corpus.rows(),
        Given("tone", corpus.clips[8:], layers[8:], layers=(0, 1)),
        Given("face", corpus.clips, corpus.signal[:, None], modality="video"),
    )


@pytest.mark.parametrize("head", ["amhf", "cross-attention", "attention"])
def test_the_same_seed_gives_the_same_metrics_byte_for_byte(head: str, store: Path, tmp_path: Path) -> None:
    settings = {"epochs": 2} if head == "attention" else TINY
    for name in ("one", "two"):
        fit_head(store, head, folds="2", mix_layers="learned", settings=settings, device="cpu", out=tmp_path / name)
    first, second = ((tmp_path / name / "metrics.json").read_bytes() for name in ("one", "two"))
    assert first == second


def test_what_a_modalitys_auxiliary_head_says_is_scored_out_of_fold(store: Path, tmp_path: Path) -> None:
    run = fit_head(store, "amhf", folds="3", seeds=2, settings=TINY, device="cpu", out=tmp_path / "run")
    matrix = run.load_matrix(store)
    label = run.oof.set_index("clip_id")["label"][list(matrix.clips)].to_numpy()
    fold = run.oof.set_index("clip_id")["fold"][list(matrix.clips)].to_numpy()
    for modality in ("audio", "video"):
        said = np.empty((2, len(fold)), dtype=object)
        for run_of_seed, models in zip(said, run.models, strict=True):
            for number, model in enumerate(models):
                here = fold == number
                found = model.auxiliary(matrix.values[here], matrix.present[here], run.classes)[modality]
                run_of_seed[here] = run.classes[found.argmax(axis=1)]
        assert (said[0] != said[1]).any()
        assert run.metrics["contributions"][modality]["auxiliary"]["accuracy"] == pytest.approx((said == label).mean())


def test_an_auxiliary_head_reads_its_own_modality_and_names_the_classes_of_the_run(corpus: Corpus) -> None:
    """A fold that never saw joy gives it 0; changing the picture changes what the picture says, and nothing else."""
    labels = np.asarray([row["label"] for row in corpus.columns])
    known = labels != "joy"
    x = np.concatenate([corpus.signal, corpus.signal[::-1]], axis=1)
    layout = (LayoutBlock("video", "face", 0, 1, 1, 8), LayoutBlock("audio", "tone", 8, 1, 1, 8))
    head = AMHFHead(**TINY, layout=layout, device="cpu").fit(x[known], labels[known])
    model = FoldModel(Scaler.fit(x, "none", np.zeros(0, dtype=np.int64)), head)
    present, classes = np.ones((len(x), 2), dtype=np.bool_), np.asarray(["anger", "fear", "joy"])
    before = model.auxiliary(x, present, classes)
    after = model.auxiliary(x + np.float32(2) * (np.arange(16) < 8), present, classes)
    assert before["video"].shape == (72, 3)
    assert (before["video"][:, 2] == 0).all()
    np.testing.assert_array_equal(after["audio"], before["audio"])
    assert (after["video"][:, 0] != before["video"][:, 0]).all()


def test_dimensions_can_be_learned_too() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6)).astype(np.float32)
    y: NDArray[np.float64] = x[:, :2] * 3.0 + 5.0
    head = AMHFHead(**{**TINY, "epochs": 30, "lr": 1e-2}, task="dimensional", device="cpu").fit(x, y)
    found = head.predict_proba(x)
    assert np.corrcoef(found[:, 0], y[:, 0])[0, 1] > 0.8

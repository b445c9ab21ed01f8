"""Every component of AMHF against a slow transcription of its equation in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from emocache.heads.amhf.dropout import dropout
from emocache.heads.amhf.fusion import HybridFusion
from emocache.heads.amhf.gating import SpectralGating
from emocache.heads.amhf.memory import PrototypeMemory
from emocache.heads.amhf.objective import Lambdas, Outputs, objective
from emocache.heads.amhf.pooling import EmotionAwarePooling, masked_mean
from emocache.heads.amhf.projection import Projection
from emocache.heads.amhf.routing import Experts, Router, load_balance
from emocache.heads.amhf.settings import FusionSettings
from emocache.heads.amhf.transformer import Block, depth_rates
from emocache.heads.amhf.uncertainty import Uncertainty, confidence
from emocache.heads.losses import loss_of
from tests.heads.amhf import transcription as paper

DIM, HEADS, CLIPS = 24, 4, 5
SMALL = FusionSettings(groups=3, experts=4, expert_hidden=10, slots=2, layers=2, attention_heads=HEADS, hidden=14)
HERE = torch.ones(CLIPS, dtype=torch.bool)


@pytest.fixture(autouse=True)
def _exact() -> None:
    torch.manual_seed(11)


def double(module: nn.Module) -> nn.Module:
    """In float64, in evaluation, with norms and biases that are not at their initial 1 and 0."""
    for name, parameter in module.named_parameters():
        if "norm" in name or "bias" in name:
            nn.init.normal_(parameter, 0.5, 0.5)
    return module.double().eval()


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_projection_is_gelu_of_layer_norm_of_wx() -> None:
    projection, x = double(Projection(7, DIM)), random(CLIPS, 7)
    expected = [paper.project(paper.numbers(projection), row) for row in x.numpy()]
    np.testing.assert_allclose(projection(x).detach(), expected, rtol=1e-10)


@pytest.mark.parametrize(("width", "heads"), [(24, 4), (20, 8), (7, 8)])
def test_emotion_aware_pooling_is_equation_3_over_the_valid_tokens(width: int, heads: int) -> None:
    pooling, tokens = double(EmotionAwarePooling(width, 6, heads)), random(CLIPS, 9, width)
    nn.init.normal_(pooling.queries)
    lengths = [9, 1, 4, 8, 2]
    valid = torch.arange(9) < torch.tensor(lengths)[:, None]
    expected = [
        paper.eap(paper.numbers(pooling), clip[:length].numpy(), pooling.heads)
        for clip, length in zip(tokens, lengths, strict=True)
    ]
    np.testing.assert_allclose(pooling(tokens, valid).detach(), expected, rtol=1e-9)


def test_the_attention_of_emotion_aware_pooling_is_torchs_own() -> None:
    """With one query the second softmax is 1, and Eq. 3 is multi-head attention."""
    pooling, tokens = double(EmotionAwarePooling(DIM, 1, HEADS)), random(CLIPS, 6, DIM)
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([pooling.query.weight, pooling.key.weight, pooling.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([torch.zeros(2 * DIM), pooling.value.bias]))
        theirs.out_proj.load_state_dict(pooling.out.state_dict())
    expected, _ = theirs(pooling.queries.expand(CLIPS, 1, DIM), tokens, tokens)
    torch.testing.assert_close(pooling(tokens, torch.ones(CLIPS, 6, dtype=torch.bool)), expected[:, 0])


def test_what_stands_in_an_invalid_token_changes_nothing() -> None:
    pooling, tokens = double(EmotionAwarePooling(DIM, 3, HEADS)), random(CLIPS, 6, DIM)
    valid = torch.rand(CLIPS, 6) < 0.5
    valid[0] = False
    other = torch.where(valid[:, :, None], tokens, 100 * random(CLIPS, 6, DIM))
    for pool in (pooling, masked_mean):
        torch.testing.assert_close(pool(other, valid), pool(tokens, valid))


def test_queries_begin_orthonormal_and_the_penalty_is_the_frobenius_norm() -> None:
    pooling = EmotionAwarePooling(DIM, 6, HEADS)
    assert pooling.orthogonality().item() == pytest.approx(0, abs=1e-9)
    nn.init.normal_(pooling.queries)
    q = paper.numbers(pooling)["queries"]
    assert pooling.orthogonality().item() == pytest.approx(np.linalg.norm(q @ q.T - np.eye(6)) ** 2, rel=1e-5)


def test_spectral_gating_is_equation_5_and_opens_without_the_guide() -> None:
    gating, guide, others = double(SpectralGating(DIM, 3)), random(CLIPS, DIM), random(CLIPS, 2, DIM)
    guided = torch.tensor([True, True, True, True, False])
    found, p = gating(guide, others, guided).detach().numpy(), paper.numbers(gating)
    for clip in range(4):
        for x in range(2):
            expected = paper.gate(p, guide[clip].numpy(), others[clip, x].numpy())
            np.testing.assert_allclose(found[clip, x], expected, rtol=1e-6)
    np.testing.assert_array_equal(found[4], others[4])


def test_routing_is_equation_6() -> None:
    router, experts = double(Router(DIM, 4, 2)), double(Experts(DIM, 10, 4, 0.5))
    guide, others = random(CLIPS, DIM), random(CLIPS, 2, DIM)
    weights, _ = router(guide, HERE)
    found = experts(guide, others, weights.double()).detach().numpy()
    for clip in range(CLIPS):
        for x in range(2):
            expected = paper.route(
                paper.numbers(router), paper.numbers(experts), guide[clip].numpy(), others[clip, x].numpy(), 2
            )
            np.testing.assert_allclose(found[clip, x], expected, rtol=1e-5)


def test_experts_give_the_same_gathered_as_computed_for_every_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU gathers the clips that chose an expert, an accelerator computes all of them."""
    router, experts, guide = double(Router(DIM, 4, 2)), double(Experts(DIM, 10, 4, 0)), random(CLIPS, DIM)
    others, weights = random(CLIPS, 2, DIM), router(guide, HERE)[0]
    gathered = experts(guide, others, weights)
    monkeypatch.setattr("emocache.heads.amhf.routing._all_or_chosen", lambda _: slice(None))
    torch.testing.assert_close(experts(guide, others, weights), gathered)


def test_without_a_guide_every_expert_serves_alike() -> None:
    weights, _ = Router(DIM, 4, 2)(torch.randn(CLIPS, DIM), ~HERE)
    assert torch.equal(weights, torch.full((CLIPS, 4), 0.25))


def test_load_balance_is_one_where_even_and_larger_where_one_expert_takes_all() -> None:
    even, chosen = torch.full((4, 4), 0.25), torch.eye(4).roll(1, 0) + torch.eye(4)
    assert load_balance(even, chosen, torch.ones(4)).item() == pytest.approx(1)
    pi = torch.tensor([[0.9, 0.1, 0.0, 0.0]]).expand(3, 4)
    one = torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4)
    assert load_balance(pi, one, torch.tensor([1, 1, 0])).item() == pytest.approx(4 * 0.9)


def test_memory_adds_what_the_guide_finds_in_the_prototypes() -> None:
    memory, guide = double(PrototypeMemory(DIM, 6, HEADS)), random(CLIPS, DIM)
    expected = [paper.remember(paper.numbers(memory), row, HEADS) for row in guide.numpy()]
    np.testing.assert_allclose(memory(guide).detach(), expected, rtol=1e-9)


def test_a_refinement_layer_looks_only_where_it_may_and_can_be_read_in_part() -> None:
    block, tokens = double(Block(DIM, 14, HEADS, 0.3, 0.3)), random(CLIPS, 3, DIM)
    allowed = torch.tensor([[True, True, False], [True, False, True], [True, True, True]]).expand(CLIPS, 3, 3)
    expected = [paper.transform(paper.numbers(block), clip.numpy(), allowed[0].numpy(), HEADS) for clip in tokens]
    found = block(tokens, allowed).detach()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    torch.testing.assert_close(block(tokens, allowed, read=1), found[:, :1])


def test_stochastic_depth_drops_a_clips_branch_whole_and_keeps_its_mean() -> None:
    block = Block(DIM, 14, HEADS, 0.0, 0.25).train()
    kept = block._maybe(torch.ones(4000, 2, 3))
    assert sorted(kept.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert (kept.flatten(1).std(dim=1) == 0).all()
    assert kept.mean().item() == pytest.approx(1, abs=0.05)
    assert depth_rates(3, 0.2) == pytest.approx([0, 0.1, 0.2])
    assert depth_rates(1, 0.2) == [0]


def test_dropout_zeroes_its_share_scales_the_rest_and_draws_each_element_anew() -> None:
    x = torch.ones(999, 333, requires_grad=True)
    kept = dropout(x, 0.15, True)
    kept.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, kept.detach())
    assert sorted(kept.unique().tolist()) == pytest.approx([0, 1 / 0.85])
    flat = (kept == 0).flatten().float()
    assert flat.mean().item() == pytest.approx(0.15, abs=0.003)
    for lane in range(4):  # four elements share a draw, and must not share their fate
        assert flat[lane::4].mean().item() == pytest.approx(0.15, abs=0.006)
        assert (flat[:-4] * flat[4 - lane : len(flat) - lane]).mean().item() == pytest.approx(0.0225, abs=0.002)
    assert dropout(x, 0.15, False) is x
    torch.manual_seed(5)
    first = dropout(x, 0.5, True)
    torch.manual_seed(5)
    assert torch.equal(dropout(x, 0.5, True), first)


def test_uncertainty_and_confidence_are_equations_7_and_8() -> None:
    uncertainty, routed = double(Uncertainty(DIM, 2)), random(CLIPS, 2, DIM)
    found = uncertainty(routed).detach()
    p = paper.numbers(uncertainty)
    expected = [[paper.doubt(p, x, clip[x].numpy()) for x in range(2)] for clip in routed]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    weights = confidence(found, torch.ones(CLIPS, 2, dtype=torch.bool)).numpy()
    np.testing.assert_allclose(weights, [paper.weigh(float(u[0]), float(u[1])) for u in found], rtol=1e-9)


def test_confidence_goes_to_the_modalities_that_are_there() -> None:
    present = torch.tensor([[True, False], [False, True], [False, False]])
    weights = confidence(torch.full((3, 2), 0.9), present)
    torch.testing.assert_close(weights, present.float(), rtol=1e-4, atol=0)


def test_the_whole_fusion_is_equations_5_to_10() -> None:
    fusion, h = double(HybridFusion(DIM, 3, 2, SMALL)), random(CLIPS, 3, DIM)
    fused, _ = fusion(h, torch.ones(CLIPS, 3, dtype=torch.bool))
    expected = [paper.fuse(paper.numbers(fusion), clip.numpy(), SMALL) for clip in h]
    np.testing.assert_allclose(fused.detach(), expected, rtol=1e-5)


def test_the_refinement_looks_at_no_modality_that_is_absent() -> None:
    """It gives what it gives where that modality is no token at all."""
    fusion, h = double(HybridFusion(DIM, 3, 2, SMALL)), random(CLIPS, 3, DIM)
    present = torch.tensor([True, True, False]).expand(CLIPS, 3)
    routed, _ = fusion._route(h * present[:, :, None], present)
    found = fusion._remember(h[:, 0], routed, present)
    torch.testing.assert_close(found, fusion._remember(h[:, 0], routed[:, :1], present[:, :2]))


def test_the_objective_is_equation_11() -> None:
    target = 0.9 * torch.eye(4, dtype=torch.float64)[torch.tensor([0, 3, 1, 1, 2])] + 0.1 / 4
    logits, auxiliary = random(CLIPS, 4), random(CLIPS, 3, 4)
    present = torch.ones(CLIPS, 3, dtype=torch.bool)
    outputs = Outputs(logits, auxiliary, present, torch.tensor(1.5), torch.tensor(2.5))
    found = objective(outputs, target, loss_of("label", torch.ones(4)), Lambdas(0.3, 0.01, 0.02)).item()
    expected = paper.total_loss(logits.numpy(), auxiliary.numpy(), target.numpy(), (0.3, 0.01, 0.02), 2.5, 1.5)
    assert found == pytest.approx(expected, rel=1e-5)


def test_an_auxiliary_loss_is_taken_over_the_clips_that_have_the_modality() -> None:
    target, logits, auxiliary = torch.eye(4)[:2], torch.zeros(2, 4), torch.randn(2, 2, 4)
    present = torch.tensor([[True, False], [False, False]])
    outputs = Outputs(logits, auxiliary, present, torch.zeros(()), torch.zeros(()))
    expected = np.log(4) - torch.log_softmax(auxiliary[0, 0], 0)[0].item() / 2
    found = objective(outputs, target, loss_of("label", torch.ones(4)), Lambdas(1, 0, 0)).item()
    assert found == pytest.approx(expected, rel=1e-5)

"""`amhf`: Audio-Modulated Hybrid Fusion as a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from emocache.heads.amhf.embedding import PAPERS_GUIDE, Embedding, modality_order
from emocache.heads.amhf.fusion import HybridFusion
from emocache.heads.amhf.network import FusionNetwork, Regularisation
from emocache.heads.amhf.objective import Lambdas
from emocache.heads.amhf.settings import COMPONENTS, FusionSettings, check_components, check_widths
from emocache.heads.layout import Layout
from emocache.heads.torch_head import TorchHead
from emocache.heads.training import Training

WIDE = 256
"""From this width on, products are worth more than one thread."""


@dataclass(kw_only=True, eq=False, repr=False)
class AMHFHead(TorchHead):
    """Reliability-aware fusion of any number of modalities, guided by one of them. Defaults are the paper's.

    guide: the modality that gates and routes the others; where there is no audio, the first one does
    without: components left out: gating, routing, memory, uncertainty, progressive, eap, veap (see `HybridFusion`)
    dim: of the shared space; groups, experts, expert_hidden, top_k, slots, layers, attention_heads, hidden, gamma: see
        `FusionSettings`; dropout, drop_path: the latter of the refinement transformer's last layer
    lambda_mod, lambda_orth, lambda_bal: Eq. 11
    epochs: at most; patience: epochs without a better held-out loss before training stops at its best
    batch, lr, min_lr, warmup (epochs), weight_decay, clip (largest gradient norm): of AdamW with a cosine schedule
    label_smoothing, mixup, cutmix: the latter two as alphas, see `mixing`
    class_weights: ``none``, or ``balanced``: every class weighs the same in the loss
    members: networks that are averaged; member m stops by the m-th fifth of the training speakers
    seed: decides every random draw; device: ``auto`` is CUDA where there is one, which computes in bfloat16
    """

    masks: ClassVar[bool] = True
    components: ClassVar[tuple[str, ...]] = COMPONENTS

    guide: str = PAPERS_GUIDE
    without: Sequence[str] = ()
    dim: int = 512
    groups: int = 8
    experts: int = 4
    expert_hidden: int = 512
    top_k: int = 2
    slots: int = 10
    layers: int = 3
    attention_heads: int = 8
    hidden: int = 512
    gamma: float = 1.0
    dropout: float = 0.15
    drop_path: float = 0.2
    lambda_mod: float = 0.3
    lambda_orth: float = 0.01
    lambda_bal: float = 0.01
    epochs: int = 80
    patience: int = 10
    batch: int = 144
    lr: float = 2e-4
    min_lr: float = 1e-6
    warmup: float = 3.0
    weight_decay: float = 0.05
    clip: float = 1.0
    label_smoothing: float = 0.1
    mixup: float = 0.2
    cutmix: float = 0.3
    class_weights: str = "none"
    members: int = 1

    def build(self, layout: Layout, columns: int, outputs: int) -> nn.Module:  # noqa: ARG002 (masking: no more columns)
        """The network for a layout.

        raises: UnknownName for a component or a guide, BadOption for widths that cannot be divided
        """
        settings = self.settings()
        check_widths(self.dim, settings)
        names = modality_order(layout, self.guide)
        embedding = Embedding(
            layout,
            names,
            self.dim,
            queries=outputs,
            heads=self.attention_heads,
            dropout=self.dropout,
            without=settings.without,
        )
        return FusionNetwork(
            layout,
            names,
            embedding,
            self.fusion(len(names), outputs),
            dim=self.dim,
            outputs=outputs,
            regularisation=self._regularisation(),
        )

    def fusion(self, modalities: int, outputs: int) -> nn.Module:
        """What turns the modalities' embeddings into one."""
        return HybridFusion(self.dim, modalities, outputs, self.settings())

    def settings(self) -> FusionSettings:
        """The fusion's part of the parameters."""
        return FusionSettings(
            groups=self.groups,
            experts=self.experts,
            expert_hidden=self.expert_hidden,
            top_k=self.top_k,
            slots=self.slots,
            layers=self.layers,
            attention_heads=self.attention_heads,
            hidden=self.hidden,
            gamma=self.gamma,
            dropout=self.dropout,
            drop_path=self.drop_path,
            without=check_components(self.without),
        )

    def _regularisation(self) -> Regularisation:
        """Samples are not mixed towards dimensions, whose loss is taken over the whole batch."""
        lambdas = Lambdas(self.lambda_mod, self.lambda_orth, self.lambda_bal)
        mixes = self.task != "dimensional"
        return Regularisation(lambdas, self.mixup * mixes, self.cutmix * mixes, self.dropout)

    @property
    def one_thread(self) -> bool:  # type: ignore[override] # decided by the width
        """Whether it computes on one thread: narrow layers gain nothing from more (see `training.reproducible`)."""
        return self.dim < WIDE

    def training(self) -> Training:
        """Appendix C.4."""
        return Training(
            epochs=self.epochs,
            patience=self.patience,
            batch=self.batch,
            lr=self.lr,
            decay=self.weight_decay,
            warmup=self.warmup,
            min_lr=self.min_lr,
            clip=self.clip,
            bf16=True,
        )

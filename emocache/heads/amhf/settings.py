"""What decides an AMHF network besides its input: the paper's values as defaults, and the names of its switches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from emocache.errors import BadOption, UnknownName

COMPONENTS = ("gating", "routing", "memory", "uncertainty", "progressive", "veap", "eap")
"""What ``--without`` can leave out, in the order of the paper's tables 6 and 5; `veap` is a part of `eap`."""


@dataclass(frozen=True)
class FusionSettings:
    """Appendix C.3, and what section 3.5 leaves open.

    groups: G; experts: E; expert_hidden: h; top_k: k; slots: M, per class; layers, attention_heads, hidden: of the
    refinement transformer (`hidden` is the width inside its feed-forward part); gamma: Eq. 10
    without: components left out
    """

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
    without: frozenset[str] = frozenset()


def check_components(names: Iterable[str]) -> frozenset[str]:
    """`names` as a set.

    raises: UnknownName, which lists the components
    """
    for name in names:
        if name not in COMPONENTS:
            raise UnknownName("component", name, COMPONENTS, advice="choose what to leave out with --without")
    return frozenset(names)


def check_widths(dim: int, settings: FusionSettings) -> None:
    """Refuse widths that cannot be divided as the network needs it.

    raises: BadOption
    """
    for name, parts in (("groups", settings.groups), ("attention_heads", settings.attention_heads)):
        if parts < 1 or dim % parts:
            raise BadOption(
                f"amhf: dim {dim} cannot be divided into {parts} {name}; choose --set {name}=N that divides it"
            )
    if not 1 <= settings.top_k <= settings.experts:
        raise BadOption(
            f"amhf: top_k {settings.top_k} of {settings.experts} experts; choose --set top_k=N from 1 to "
            f"{settings.experts}"
        )

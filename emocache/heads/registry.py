"""The heads by name. A head's module is imported when the head is asked for, so listing them loads no torch."""

from __future__ import annotations

from importlib import import_module

from emocache.errors import UnknownName
from emocache.heads.head import Head

_ADDRESSES = {  # a name given twice is refused by the linter (F601)
    "amhf": "emocache.heads.amhf.head:AMHFHead",
    "attention": "emocache.heads.attention:AttentionHead",
    "cross-attention": "emocache.heads.cross_attention:CrossAttentionHead",
    "dynamic": "emocache.heads.dynamic:DynamicHead",
    "linear": "emocache.heads.linear:LinearHead",
    "mlp": "emocache.heads.mlp:MLPHead",
    "svm-ensemble": "emocache.heads.svm_ensemble:SVMEnsembleHead",
}


def head_names() -> list[str]:
    """The names of all heads, sorted."""
    return sorted(_ADDRESSES)


def head_class(name: str) -> type[Head]:
    """Import the head called `name`.

    raises: UnknownName, which lists the known heads
    """
    if name not in _ADDRESSES:
        raise UnknownName("head", name, _ADDRESSES, advice="choose one with --head")
    module, _, attribute = _ADDRESSES[name].partition(":")
    found: type[Head] = getattr(import_module(module), attribute)
    return found

"""emocache: a feature-extraction cache and lightweight head trainer for multimodal emotion recognition.

The two verbs are `extract_features` and `fit_head`; the store between them opens with `open_store`.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emocache.errors import EmocacheError
    from emocache.extract.registry import list_encoders
    from emocache.extract.run import extract_features
    from emocache.heads.fit import fit_head
    from emocache.heads.runs import load_run
    from emocache.store import open_store, read_manifest

__version__ = version("emocache")

_HOME = {
    "EmocacheError": "errors",
    "extract_features": "extract.run",
    "fit_head": "heads.fit",
    "list_encoders": "extract.registry",
    "load_run": "heads.runs",
    "open_store": "store",
    "read_manifest": "store",
}

__all__ = [
    "EmocacheError",
    "extract_features",
    "fit_head",
    "list_encoders",
    "load_run",
    "open_store",
    "read_manifest",
]


def __getattr__(name: str) -> object:
    """Fetch a public name from its room on first use, so that importing costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'emocache' has no attribute {name!r}")
    return getattr(import_module(f"emocache.{_HOME[name]}"), name)

"""emocache: a feature-extraction cache and lightweight head trainer for multimodal emotion recognition.

The two verbs are `extract_features` and `fit_head`; the store between them opens with `open_store`. The other functions
look after a store.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emocache.doors.exporting import export_features
    from emocache.doors.importing import import_features
    from emocache.doors.in_memory import as_datasets, as_numpy, as_torch, as_xarray
    from emocache.errors import EmocacheError
    from emocache.extract.registry import list_encoders
    from emocache.extract.run import extract_features
    from emocache.heads.ablate import ablate_head
    from emocache.heads.blends.blend import blend_runs
    from emocache.heads.blends.manifest import write_blend_labels
    from emocache.heads.fit import fit_head
    from emocache.heads.fusion.fuse import fuse_runs
    from emocache.heads.labels.mine import mine_labels
    from emocache.heads.labels.refine import refine_labels
    from emocache.heads.labels.vote import vote_runs
    from emocache.heads.runs import load_run
    from emocache.heads.submission import write_submission
    from emocache.store import FeatureDataset, open_store, read_manifest
    from emocache.store.remote.share import pull_store, push_store, sync_store
    from emocache.store.upkeep.card import write_card
    from emocache.store.upkeep.collection import collect_garbage
    from emocache.store.upkeep.compaction import compact_store
    from emocache.store.upkeep.export import export_array
    from emocache.store.upkeep.ledger import read_ledger
    from emocache.store.upkeep.merge import merge_stores
    from emocache.store.upkeep.recipe_diff import diff_features
    from emocache.store.upkeep.report import describe_feature, list_features
    from emocache.store.upkeep.verify import verify_store

__version__ = version("emocache")

_HOME = {
    "EmocacheError": "errors",
    "FeatureDataset": "store",
    "ablate_head": "heads.ablate",
    "as_datasets": "doors.in_memory",
    "as_numpy": "doors.in_memory",
    "as_torch": "doors.in_memory",
    "as_xarray": "doors.in_memory",
    "blend_runs": "heads.blends.blend",
    "collect_garbage": "store.upkeep.collection",
    "compact_store": "store.upkeep.compaction",
    "describe_feature": "store.upkeep.report",
    "diff_features": "store.upkeep.recipe_diff",
    "export_array": "store.upkeep.export",
    "export_features": "doors.exporting",
    "extract_features": "extract.run",
    "fit_head": "heads.fit",
    "fuse_runs": "heads.fusion.fuse",
    "import_features": "doors.importing",
    "list_encoders": "extract.registry",
    "list_features": "store.upkeep.report",
    "load_run": "heads.runs",
    "merge_stores": "store.upkeep.merge",
    "mine_labels": "heads.labels.mine",
    "open_store": "store",
    "pull_store": "store.remote.share",
    "push_store": "store.remote.share",
    "read_ledger": "store.upkeep.ledger",
    "read_manifest": "store",
    "refine_labels": "heads.labels.refine",
    "sync_store": "store.remote.share",
    "verify_store": "store.upkeep.verify",
    "vote_runs": "heads.labels.vote",
    "write_blend_labels": "heads.blends.manifest",
    "write_card": "store.upkeep.card",
    "write_submission": "heads.submission",
}

__all__ = [
    "EmocacheError",
    "FeatureDataset",
    "ablate_head",
    "as_datasets",
    "as_numpy",
    "as_torch",
    "as_xarray",
    "blend_runs",
    "collect_garbage",
    "compact_store",
    "describe_feature",
    "diff_features",
    "export_array",
    "export_features",
    "extract_features",
    "fit_head",
    "fuse_runs",
    "import_features",
    "list_encoders",
    "list_features",
    "load_run",
    "merge_stores",
    "mine_labels",
    "open_store",
    "pull_store",
    "push_store",
    "read_ledger",
    "read_manifest",
    "refine_labels",
    "sync_store",
    "verify_store",
    "vote_runs",
    "write_blend_labels",
    "write_card",
    "write_submission",
]


def __getattr__(name: str) -> object:
    """Fetch a public name from its room on first use, so that importing costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'emocache' has no attribute {name!r}")
    return getattr(import_module(f"emocache.{_HOME[name]}"), name)

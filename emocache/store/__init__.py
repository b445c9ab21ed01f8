"""The store: speaks Zarr, knows nothing of encoders or heads, never imports torch."""

from emocache.store.catalog import refresh_snapshot
from emocache.store.dataset import FeatureDataset
from emocache.store.disk import disk_errors
from emocache.store.feature import Feature, View
from emocache.store.manifest import Manifest, read_manifest
from emocache.store.roster import read_roster, write_roster
from emocache.store.store import Store, default_store, find_store, local_folder, open_or_make_store, open_store
from emocache.store.writer import FeatureWriter

__all__ = [
    "Feature",
    "FeatureDataset",
    "FeatureWriter",
    "Manifest",
    "Store",
    "View",
    "default_store",
    "disk_errors",
    "find_store",
    "local_folder",
    "open_or_make_store",
    "open_store",
    "read_manifest",
    "read_roster",
    "refresh_snapshot",
    "write_roster",
]

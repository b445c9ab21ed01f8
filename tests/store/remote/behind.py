"""Stores put behind a URL as they lie, and all that a reader can see of a store, to be held against the local one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import emocache
from emocache.store import Store, open_store
from emocache.store.remote.place import open_place

from .s3_server import Server

URL = "s3://bucket/team/s.zarr"


def put(store: Path, server: Server, url: str = URL) -> str:
    """Let a stand-in server hold exactly what lies in a folder."""
    prefix = f"{url.removeprefix('s3://')}/"
    for name in [name for name in server.objects if name.startswith(prefix)]:
        del server.objects[name]
    for file in store.rglob("*"):
        if file.is_file():
            server.objects[prefix + file.relative_to(store).as_posix()] = file.read_bytes()
    server.sent.clear()
    server.requests.clear()
    return url


def upload(store: Path, url: str) -> str:
    """Create every file of a folder at a place."""
    there = open_place(url)
    there.create({p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()})
    there.close()
    return url


def objects(server: Server, ending: str) -> list[str]:
    """The names on a server that end so."""
    return sorted(name for name in server.objects if name.endswith(ending))


def chunks(server: Server, layer: int) -> list[str]:
    """The names of the chunks that hold one layer (by its position) of any segment."""
    return sorted(n for n in server.objects if n.rpartition("/")[2].startswith("c.") and n.endswith(f".{layer}.0"))


def seen(store: Store) -> dict[str, Any]:
    """All that a reader can see, as values that can be compared."""
    found: dict[str, Any] = {"uuid": store.uuid, "roster": store.roster, "features": sorted(store.features)}
    for name, feature in store.features.items():
        rows = feature.read_ragged() if feature.ragged and feature.clips else None
        found[name] = {
            "recipe": dict(feature.recipe.fields),
            "shape": (feature.layers, feature.dim, feature.dtype, feature.ragged),
            "clips": feature.clips,
            "held": [feature.held([layer]) for layer in feature.layers],
            "ledger": feature.ledger(),
            "failures": feature.failures(),
            "view": feature.view(),
            "values": [values_of(store, name, layer) for layer in feature.layers],
            "ragged": None if rows is None else [part.tobytes() for part in rows],
        }
    return found


def values_of(store: Store, name: str, layer: int) -> list[bytes]:
    """One layer of every clip that holds it, last clip first; and of a single clip alone."""
    feature = store.features[name]
    clips = feature.held([layer])[::-1]
    read = feature.read_ragged if feature.ragged else lambda *which: (feature.read(*which),)
    return [np.ascontiguousarray(part).tobytes() for which in (clips, clips[:1]) for part in read(which, [layer])]


def report(store: str | Path, feature: str) -> list[str]:
    """What the commands that list things print, without where the store lies."""
    opened = open_store(store)
    listed, told = emocache.list_features(store), emocache.describe_feature(feature, store)
    texts = [listed, told, emocache.read_ledger(store=store, everything=True).csv()]
    return [str(text).replace(str(opened.where), "HERE") for text in texts]


def files_below(folder: Path) -> set[str]:
    """Every file and folder below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}

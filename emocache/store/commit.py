"""Committing a segment: its files first, its ``zarr.json`` last."""

from __future__ import annotations

import base64
import getpass
import os
import secrets
import struct
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import DamagedStore
from emocache.store import codecs
from emocache.store.documents import FORMAT, group_document, require_plain, seal
from emocache.store.files import COMMIT_NAME, Draft, create_once, make_folder
from emocache.store.layout import (
    CHECKSUM_BYTES,
    INLINE_BYTES,
    TEXTS,
    ArrayOnDisk,
    folder_of,
    plan_layout,
    segment_document,
)
from emocache.store.parser import EXPANSION, parse_manifest


@dataclass(frozen=True)
class Layered:
    """An array ``(row, layer, dim)`` that is too large to lie in memory: its layers are asked for one by one.

    layer: position -> ``(row, dim)``; called once for each position, in order (twice if a codec does not pay)
    """

    shape: tuple[int, int, int]
    dtype: str
    layer: Callable[[int], NDArray[Any]]


def segment_name(parent: Path, later_than: Collection[str] = ()) -> str:
    """The time in hex milliseconds and 80 random bits: names sort by age and never meet.

    parent: for messages; later_than: names of its segments behind which the new one must sort, whatever the clocks say
    raises: DamagedStore if no name can sort behind one of them
    """
    return _name_behind(parent, later_than, time.time_ns() // 1_000_000)


def name_just_behind(parent: Path, names: Collection[str]) -> str:
    """A fresh name that sorts just behind all of `names`, and before what is committed from now on.

    raises: DamagedStore if no name can sort behind one of them
    """
    return _name_behind(parent, names, 0)


def _name_behind(parent: Path, names: Collection[str], least_ms: int) -> str:
    newest = max((int(name[:12], 16) for name in names if _is_timed(name)), default=-1)
    found = f"{max(least_ms, newest + 1):012x}-{secrets.token_hex(10)}"
    last = max(names, default="")
    if last > found:  # no name that emocache gives, or one of a time thousands of years ahead
        raise DamagedStore(
            f"{parent / last}: no segment can be given a name that sorts behind it; rename the folder to 12 "
            "hexadecimal digits (milliseconds since 1970), - and 20 more, or delete it"
        )
    return found


def _is_timed(name: str) -> bool:
    return len(name) > 12 and all(digit in "0123456789abcdef" for digit in name[:12])


LASTING_INLINE_BYTES = 4096
"""What is written seldom and read often, also from afar, has only such short arrays in its manifest, which each reader
fetches whole: snapshots, the roster, what a compaction makes."""
Content = NDArray[Any] | Layered


def write_segment(
    parent: Path,
    kind: str,
    arrays: Mapping[str, Content | Callable[[], Content]],
    facts: Mapping[str, Any],
    *,
    supersedes: Collection[str] = (),
    along: Collection[str] = (),
    codec: str | None = None,
    name: str | None = None,
    lasting: bool = False,
    by: str | None = None,
) -> str:
    """Commit one segment below `parent` and return its name; when this returns, a power cut cannot take it back.

    kind: ``cells``, ``roster`` or ``index``
    arrays: by name; ``values`` is ``(row, layer, dim)`` and comes first, so that the disk is at work on it while the
        others are made: what is called is called then
    facts: what the manifest says besides: ``rows``, and for cells ``fingerprint`` and ``layers``
    supersedes: segments of `parent` that no reader shall look at from now on
    along: the other segments that hold a part of what those held: without all of them, `supersedes` does not hold
    codec: ``zstd`` or ``blosc`` for ``values``; left out: raw, so that it can be mapped
    lasting: cells that are read often and far away, so that each array shall come alone; all other kinds are that
    by: who makes it; left out: this user
    raises: OSError if the disk refuses; what was written then is removed, as far as that goes
    """
    name = name or segment_name(parent, supersedes)
    with Draft(parent / name) as draft:
        inline = LASTING_INLINE_BYTES if lasting or kind != "cells" else INLINE_BYTES
        layouts, files = _write_arrays(draft, arrays, codec, inline)
        manifest = seal(
            {
                "version": FORMAT,
                "kind": kind,
                **facts,
                "arrays": {array: layout.entry() for array, layout in layouts.items()},
                "files": files,
                "supersedes": sorted(supersedes),
                **({"along": sorted(along)} if along else {}),
                "made": {"by": by or _who(), "at_ms": time.time_ns() // 1_000_000, "with": _with()},
            }
        )
        parse_manifest(draft.folder, manifest.facts)
        draft.commit(segment_document(manifest.text, layouts))
    return name


@lru_cache(maxsize=1)
def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without an entry for this user
        return f"user {os.getuid()}"


@lru_cache(maxsize=1)
def _with() -> str:
    return f"emocache {version('emocache')}"


def _plan(name: str, array: Content, codec: str | None, inline: int) -> ArrayOnDisk:
    """Where and how an array will lie: the small ones in the manifest, ``values`` always in files."""
    dtype = np.dtype(array.dtype).name
    codec = codec if name == "values" else "zstd" if name in TEXTS else None
    if name != "values" and isinstance(array, np.ndarray) and array.nbytes <= inline:
        return _in_manifest(array, ArrayOnDisk(array.shape, dtype, array.shape[0], codec))
    layout = plan_layout(array.shape, dtype, codec)
    if layout.codec is not None and not _pays(array, layout):
        layout = plan_layout(array.shape, dtype)
    return layout


def _in_manifest(array: NDArray[Any], layout: ArrayOnDisk) -> ArrayOnDisk:
    """An array as the manifest holds it; without its codec where that would make it longer."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data
    body = codecs.encode(little, layout)
    if len(body) >= little.nbytes:
        body, layout = little, replace(layout, codec=None)
    return replace(layout, data=base64.b64encode(body).decode())


def _write_arrays(
    draft: Draft, arrays: Mapping[str, Content | Callable[[], Content]], codec: str | None, inline: int
) -> tuple[dict[str, ArrayOnDisk], dict[str, list[int]]]:
    """Write the files of all arrays; returns their layouts and ``{file: [length, crc32c]}``.

    ``values`` is written as if the segment were that array alone; where another turns out too large for the manifest,
    it moves to a folder of its own. inline: the longest that may lie in the manifest
    """
    layouts: dict[str, ArrayOnDisk] = {}
    files: dict[str, list[int]] = {}
    for name, array in arrays.items():
        content = array() if callable(array) else array
        layout = layouts[name] = _plan(name, content, codec, inline)
        if layout.inline:
            continue
        inside = folder_of(name, layouts)
        if inside:
            if any("/" not in file for file in files):
                files = _move_values(draft, layouts["values"], files)
            files |= _make_array(draft, name, layout)
        files |= _write_chunks(draft, inside, content, layout)
    return layouts, files


def _make_array(draft: Draft, name: str, layout: ArrayOnDisk) -> dict[str, list[int]]:
    """Make the folder of one array, with its document."""
    document = layout.document(name)
    draft.make_folder(name)
    draft.write(f"{name}/{COMMIT_NAME}", [document])
    return {f"{name}/{COMMIT_NAME}": [len(document), codecs.checksum(document)]}


def _move_values(draft: Draft, layout: ArrayOnDisk, files: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Put ``values`` into a folder of its own."""
    moved = _make_array(draft, "values", layout)
    for file, listed in files.items():
        draft.rename(file, f"values/{file}")
        moved[f"values/{file}"] = listed
    return moved


def _write_chunks(draft: Draft, inside: str, array: Content, layout: ArrayOnDisk) -> dict[str, list[int]]:
    """Write one array's chunks; returns ``{file: [length, crc32c]}``. inside: the beginning of their names"""
    files: dict[str, list[int]] = {}
    for layer in range(layout.layers):
        rows = _layer_of(array, layer)
        for block in range(layout.blocks):
            body = codecs.encode(_block_of(rows, layout, block), layout)
            crc = codecs.checksum(body)
            file = f"{inside}{layout.chunk_name(layer, block)}"
            draft.write(file, [body, struct.pack("<I", crc)])
            files[file] = [len(body) + CHECKSUM_BYTES, crc]
    return files


def _pays(array: NDArray[Any] | Layered, layout: ArrayOnDisk) -> bool:
    """Whether no chunk shrinks so much that a reader would have to take it for an attack."""
    for layer in range(layout.layers):
        rows = _layer_of(array, layer)
        for block in range(layout.blocks):
            if layout.raw_bytes > EXPANSION * len(codecs.encode(_block_of(rows, layout, block), layout)):
                return False
    return True


def _layer_of(array: NDArray[Any] | Layered, layer: int) -> NDArray[Any]:
    if isinstance(array, Layered):
        return array.layer(layer)
    return array[:, layer] if array.ndim == 3 else array


def _block_of(rows: NDArray[Any], layout: ArrayOnDisk, block: int) -> memoryview:
    """The raw bytes of one chunk, little-endian, filled up where the rows end."""
    here = layout.rows_of(block)
    part = np.ascontiguousarray(rows[here.start : here.stop], dtype=rows.dtype.newbyteorder("<"))
    if len(here) < layout.chunk_rows:
        fill = np.nan if part.dtype.kind == "f" else 0
        rest = np.full((layout.chunk_rows - len(here), *part.shape[1:]), fill, dtype=part.dtype)
        part = np.concatenate([part, rest])
    return part.reshape(-1).view(np.uint8).data


def ensure_group(folder: Path) -> None:
    """Make `folder` a plain Zarr group, so that any Zarr reader can walk through it."""
    make_folder(folder)
    require_plain(folder)
    create_once(folder / COMMIT_NAME, group_document())

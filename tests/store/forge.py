"""Forging stores: a second writer of the format, by docs/format.md alone, that signs whatever it is told to."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from emocache.store import open_store

from .book import CLIPS, LAYERS, commit, in_files, make_store, row

MEMORY_FLOOR = 4 * 2**20
MEMORY_FACTOR = 64
"""Reading a hostile store may take 4 MB, and 64 times what lies on the disk: JSON grows when it is parsed."""

TRUE_ROWS = {row(number, layer).tobytes() for number in range(CLIPS) for layer in LAYERS}

Map = dict[str, Any]


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def read_facts(folder: Path) -> Map:
    """What emocache keeps in the group at `folder`."""
    facts: Map = json.loads((folder / "zarr.json").read_bytes())["attributes"]["emocache"]
    return facts


def write_facts(folder: Path, facts: Map) -> None:
    """Replace them, with a fresh seal, as an attacker can who knows the format."""
    rest = {name: value for name, value in facts.items() if name != "sha256"}
    signed = {**rest, "sha256": hashlib.sha256(canonical(rest)).hexdigest()}
    document = {**json.loads((folder / "zarr.json").read_bytes()), "attributes": {"emocache": signed}}
    if document["node_type"] == "array":  # follows what is claimed, as far as that goes
        with suppress(KeyError, TypeError, AttributeError):
            claimed = facts["arrays"]["values"]
            document |= {"shape": claimed["shape"], "data_type": claimed["dtype"]}
            document["chunk_grid"]["configuration"]["chunk_shape"] = claimed["chunk"]
    (folder / "zarr.json").write_bytes(canonical(document) + b"\n")


def forge(folder: Path, change: Callable[[Map], object]) -> None:
    """Change what the group at `folder` says of itself, and sign it."""
    facts = read_facts(folder)
    change(facts)
    write_facts(folder, facts)


def bytes_of(segment: Path, array: str) -> bytes:
    """What a one-dimensional array holds, in a file or in the manifest, packed or not."""
    from numcodecs import zstd

    entry = read_facts(segment)["arrays"][array]
    in_file = (segment / array).is_dir()
    body = (segment / array / "c.0").read_bytes()[:-4] if in_file else base64.b64decode(entry["data"])
    return bytes(zstd.decompress(body)) if entry["codec"] else body


def replace_array(segment: Path, array: str, data: bytes, body: bytes | None = None) -> None:
    """Put other bytes into a one-dimensional array of one chunk, and make every length and checksum fit.

    body: what stands for them if the array is packed; left out: it is packed no more if it was
    """
    from numcodecs.checksum32 import CRC32C

    codec, body = (None, data) if body is None else ("zstd", body)
    if not (segment / array).is_dir():
        entry = {"shape": [len(data)], "codec": codec, "data": base64.b64encode(body).decode()}
        forge(segment, lambda facts: facts["arrays"][array].update(entry))
        return
    crc = CRC32C.checksum(body)
    (segment / array / "c.0").write_bytes(body + crc.to_bytes(4, "little"))
    document = json.loads((segment / array / "zarr.json").read_bytes())
    middle = [{"name": "zstd", "configuration": {"checksum": False, "level": 3}}] if codec else []
    document["codecs"] = [document["codecs"][0], *middle, document["codecs"][-1]]
    document["shape"] = [len(data)]
    document["chunk_grid"]["configuration"]["chunk_shape"] = [len(data)]
    signed = canonical(document) + b"\n"
    (segment / array / "zarr.json").write_bytes(signed)

    def fit(facts: Map) -> None:
        facts["arrays"][array] |= {"shape": [len(data)], "chunk": [len(data)], "codec": codec}
        facts["files"][f"{array}/c.0"] = [len(body) + 4, int(crc)]
        facts["files"][f"{array}/zarr.json"] = [len(signed), int(CRC32C.checksum(signed))]

    forge(segment, fit)


def victim(path: Path, *, large: bool) -> Path:
    """A small honest store of two segments, to be forged. large: all arrays lie in files, as in a large store"""
    with in_files() if large else nullcontext():
        feature = make_store(path)
    commit(feature, range(3), (0, 1), large=large)
    commit(feature, range(3, 5), (0, 1, 2), large=large)
    return path


def segments(store: Path) -> list[Path]:
    """Its cell segments, oldest first."""
    return sorted(path.parent for path in store.glob("features/*/segments/*/zarr.json"))


def feature_folder(store: Path) -> Path:
    return next(path.parent for path in store.glob("features/*/zarr.json"))


def roster_segment(store: Path) -> Path:
    return next(path.parent for path in store.glob("roster/*/zarr.json"))


def use(path: Path, *, swapped: bool = False) -> int:
    """Do all that a reader does; every value is exact, or else an error is raised. Returns how many cells were seen.

    swapped: a signed lie may file one true row under another's name, and nobody can tell; still no other bytes are read
    """
    store = open_store(path)
    named = {record["clip_id"]: record for record in store.roster}
    seen = 0
    for feature in store.features.values():
        feature.ledger()
        for layer in feature.layers:
            clips = feature.held([layer])
            read = feature.read(clips, [layer])
            if swapped or not all("audio" in named.get(clip, {"keys": ()})["keys"] for clip in clips):
                assert {found.tobytes() for found in read[:, 0]} <= TRUE_ROWS
                continue
            numbers = [int.from_bytes(bytes.fromhex(named[clip]["keys"]["audio"])) - 1 for clip in clips]
            for number, found in zip(numbers, read[:, 0], strict=True):
                np.testing.assert_array_equal(found, row(number, layer))
            seen += len(clips)
    return seen


def size_of(path: Path) -> int:
    """How much lies on the disk, holes in files not counted."""
    return sum(file.lstat().st_blocks * 512 for file in path.rglob("*") if not file.is_symlink())


@contextmanager
def modest(path: Path) -> Iterator[None]:
    """Fail if what happens inside takes much more memory than the store's files are long."""
    limit = MEMORY_FLOOR + MEMORY_FACTOR * size_of(path)
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{path}: {peak:,} bytes of memory, {limit:,} allowed"


class Watch:
    """Notes each path below `ground` that this process opens, lists or changes."""

    def __init__(self) -> None:
        self.ground: Path | None = None
        self.touched: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.ground is None or not (event == "open" or event.startswith(("os.", "shutil."))):
            return
        ground, self.ground = self.ground, None  # resolving paths below must not be noted itself
        try:
            for path in arguments[:2]:
                if isinstance(path, (str, bytes, os.PathLike)):
                    whole = Path(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 (resolves no link)
                    kept = event == "open" and bool(arguments[2] & os.O_NOFOLLOW)  # a link as last name is not followed
                    real = whole.parent.resolve() / whole.name if kept else whole.resolve()
                    if real.is_relative_to(ground):
                        self.touched.append(f"{event} {path!r}")
        finally:
            self.ground = ground

    @contextmanager
    def over(self, ground: Path) -> Iterator[None]:
        """Fail if anything below `ground` is touched inside."""
        self.ground, self.touched = ground.resolve(), []
        try:
            yield
        finally:
            self.ground = None
        assert not self.touched, f"outside the store: {self.touched}"


WATCH = Watch()
"""One for all: an audit hook cannot be taken away again."""

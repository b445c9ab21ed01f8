"""One segment, held against its manifest: every file, every byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emocache.errors import DamagedStore
from emocache.store.files import COMMIT_NAME
from emocache.store.ledger import ledger_rows
from emocache.store.listing import open_segment
from emocache.store.roster import clips_of, rows_of
from emocache.store.segment import REPAIR, Segment
from emocache.store.store import Store


@dataclass
class SegmentCheck:
    """What a look at one segment found.

    segment: None if it is not committed, or its document is damaged
    faults: file or array (relative to the segment) to what is wrong with it
    unreadable: the disk or its permissions refused: what lies there may be whole
    bytes: how many were looked at
    """

    folder: Path
    segment: Segment | None = None
    faults: dict[str, str] = field(default_factory=dict)
    unreadable: bool = False
    bytes: int = 0

    def add(self, name: str, error: DamagedStore | OSError) -> None:
        """Note a fault, without the place and the advice that the list of findings gives itself."""
        self.unreadable |= not isinstance(error, DamagedStore)
        text = str(error) if isinstance(error, DamagedStore) else f"cannot be read: {error.strerror or error}"
        self.faults[name] = text.removeprefix(f"{self.folder / name}: ").removesuffix(f"; {REPAIR}")

    @property
    def committed(self) -> bool:
        """Whether there is a document, good or damaged."""
        return self.segment is not None or bool(self.faults)


def check_segment(folder: Path, fingerprint: str | None, *, quick: bool) -> SegmentCheck:
    """Hold a segment against its manifest.

    fingerprint: that of the feature it lies in; None for the roster
    quick: only whether the files are there and have their length; otherwise every byte is read
    """
    found = SegmentCheck(folder)
    try:
        found.segment = open_segment(folder, strict=True)
    except (DamagedStore, OSError) as error:
        found.add(COMMIT_NAME, error)
    if found.segment is None:
        return found
    segment = found.segment
    if segment.manifest.get("fingerprint") != fingerprint:
        found.faults[COMMIT_NAME] = "belongs to another feature: its fingerprint is not that of this one"
    look = segment.check_file if quick else segment.prove_file
    for file, (length, _) in segment.manifest["files"].items():
        found.bytes += length
        try:
            look(file)
        except (DamagedStore, OSError) as error:
            found.add(file, error)
    for array, layout in segment.arrays.items():
        if layout.inline:
            try:
                segment.read(array)
            except DamagedStore as error:
                found.add(array, error)
    if not (quick or found.faults):
        _check_content(segment, found)
    return found


def read_all(store: Store) -> None:
    """Read as readers do: what is committed whole may still be what no writer of emocache would have written.

    raises: DamagedStore
    """
    _ = store.roster
    for feature in store.features.values():
        _ = feature.layers
        feature.ledger_rows()


def _check_content(segment: Segment, found: SegmentCheck) -> None:
    """What every byte being right does not prove: lines that are JSON, keys that differ, offsets that rise."""
    roster: dict[str, Callable[[Segment], Iterable[object]]] = {"clips": clips_of, "columns": rows_of}
    for array, rows in (roster if segment.manifest["kind"] == "roster" else {"ledger": ledger_rows}).items():
        try:
            for _ in rows(segment):
                pass
        except DamagedStore as error:
            found.add(array, error)
            break
    if segment.manifest["kind"] != "cells" or "keys" not in segment.arrays:
        return
    keys = segment.read("keys")
    if len(np.unique(keys.view("V32"))) != len(keys):
        found.faults["keys"] = "name a content twice"
    if "offsets" in segment.arrays:
        offsets = segment.read("offsets")
        if offsets[0] != 0 or offsets[-1] != segment.arrays["values"].shape[0] or (np.diff(offsets) < 0).any():
            found.faults["offsets"] = "do not cut the values into clips"

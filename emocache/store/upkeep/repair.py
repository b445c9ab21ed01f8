"""Drop what is damaged of a segment and keep what is whole.

Segments are immutable: what is whole is committed anew, and the damaged segment goes. A damaged chunk costs the cells
that lie in it; damaged keys, offsets, ledger or manifest cost the segment, for then nothing in it can be told apart.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.spec import counted
from emocache.store.commit import Layered, write_segment
from emocache.store.files import COMMIT_NAME
from emocache.store.ledger import ledger_array, ledger_rows
from emocache.store.segment import Segment
from emocache.store.upkeep.check import SegmentCheck
from emocache.store.upkeep.removal import remove_segment


def repair_segment(check: SegmentCheck) -> str:
    """Take a damaged segment away, after committing anew what is whole of it.

    returns: what was dropped, in words
    raises: OSError if the disk refuses; then nothing was taken away
    """
    segment = check.segment
    if segment is None or not _can_be_told_apart(check):
        remove_segment(check.folder)
        return f"the segment is deleted: {_size_of(segment)}"
    whole = _whole_cells(segment, check.faults)
    _commit_whole(segment, whole)
    remove_segment(segment.folder)
    kept = int(whole.sum())
    dropped = f"{counted(whole.size - kept, 'cell')} dropped"
    return f"{dropped}, the other {kept:,} of the segment are kept" if kept else dropped


def _size_of(segment: Segment | None) -> str:
    if segment is None:
        return "its document cannot tell what it held"
    kind = segment.manifest["kind"]
    if kind == "cells":
        return f"{counted(segment.clips * len(segment.layers), 'cell')} dropped"
    return (
        "it is derived, nothing is lost"
        if kind == "index"
        else f"{counted(segment.clips, 'row')} of the roster dropped"
    )


def _can_be_told_apart(check: SegmentCheck) -> bool:
    """Whether only chunks of values, and documents that the manifest implies, are damaged."""
    if check.segment is None or check.segment.manifest["kind"] != "cells" or "values" not in check.segment.arrays:
        return False
    chunks = {check.segment.file_of("values", *chunk) for chunk in check.segment.arrays["values"].chunks()}
    return all(file in chunks or file.endswith(f"/{COMMIT_NAME}") for file in check.faults)


def _whole_cells(segment: Segment, faults: Collection[str]) -> NDArray[np.bool_]:
    """``(clip, layer)``: which cells lie in chunks that are whole."""
    layout = segment.arrays["values"]
    whole_rows = np.ones((layout.shape[0], layout.layers), dtype=bool)
    for layer, block in layout.chunks():
        if segment.file_of("values", layer, block) in faults:
            here = layout.rows_of(block)
            whole_rows[here.start : here.stop, layer] = False
    if "offsets" not in segment.arrays:
        return whole_rows
    offsets = segment.read("offsets")
    return np.array([whole_rows[start:end].all(axis=0) for start, end in pairwise(offsets)])


def _commit_whole(segment: Segment, whole: NDArray[np.bool_]) -> None:
    """Commit the whole cells, one segment for each set of layers that clips still have."""
    patterns, which = np.unique(whole, axis=0, return_inverse=True)
    keys = segment.read("keys")
    ledger = list(ledger_rows(segment))
    groups = [(pattern, np.flatnonzero(which.reshape(-1) == n)) for n, pattern in enumerate(patterns) if pattern.any()]
    failed = [row for row in ledger if row["status"] != "ok"]
    for number, (pattern, clips) in enumerate(groups):
        names = {keys[clip].tobytes().hex() for clip in clips}
        rows = [row for row in ledger if row["status"] == "ok" and row.get("key") in names]
        _write(segment, np.flatnonzero(pattern), clips, keys, rows + (failed if number == 0 else []))
    if not groups and failed:
        facts = {"fingerprint": segment.manifest["fingerprint"], "layers": list(segment.layers), "rows": 0}
        write_segment(segment.folder.parent, "cells", {"ledger": ledger_array(failed, [])}, facts)


def _write(
    segment: Segment,
    positions: NDArray[np.intp],
    clips: NDArray[np.intp],
    keys: NDArray[np.uint8],
    ledger: Sequence[dict[str, Any]],
) -> None:
    """Commit some layers of some clips of a segment anew."""
    layout = segment.arrays["values"]
    arrays: dict[str, NDArray[Any] | Layered] = {}
    rows = clips
    if "offsets" in segment.arrays:
        offsets = segment.read("offsets")
        lengths = (offsets[1:] - offsets[:-1])[clips]
        rows = np.concatenate([np.arange(offsets[clip], offsets[clip + 1]) for clip in clips])
        arrays["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def layer(position: int) -> NDArray[Any]:
        return _whole_rows(segment, int(positions[position]), rows)

    arrays["values"] = Layered((len(rows), len(positions), layout.shape[2]), layout.dtype, layer)
    chosen = np.ascontiguousarray(keys[clips])
    arrays["keys"] = chosen
    if ledger:  # the rows of a compacted clip may stand in another segment
        arrays["ledger"] = ledger_array(ledger, [key.tobytes() for key in chosen])
    facts = {
        "fingerprint": segment.manifest["fingerprint"],
        "layers": [segment.layers[int(position)] for position in positions],
        "rows": len(clips),
    }
    write_segment(segment.folder.parent, "cells", arrays, facts, codec=layout.codec)


def _whole_rows(segment: Segment, layer: int, rows: NDArray[np.intp]) -> NDArray[Any]:
    """Some rows of one layer, read from the chunks that hold them and from no other."""
    layout = segment.arrays["values"]
    out = np.empty((len(rows), *layout.row_shape), dtype=np.dtype(layout.dtype))
    for block in np.unique(rows // layout.chunk_rows):
        here = np.flatnonzero(rows // layout.chunk_rows == block)
        out[here] = segment.chunk("values", layer, int(block))[rows[here] - block * layout.chunk_rows]
    return out

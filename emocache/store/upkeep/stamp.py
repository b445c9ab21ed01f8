"""A store whose own document is damaged: what lies in it tells that it is one."""

from __future__ import annotations

from pathlib import Path

from emocache.errors import DamagedStore
from emocache.store.catalog import SEGMENTS
from emocache.store.documents import FORMAT, check_seal, read_node
from emocache.store.files import COMMIT_NAME, is_plain_folder
from emocache.store.listing import read_segments
from emocache.store.roster import FOLDER as ROSTER
from emocache.store.store import FEATURES, write_stamp


def lost_its_stamp(store: Path) -> bool:
    """Whether a folder whose own document cannot be believed holds segments of this format all the same.

    A sealed document is believed: a store that needs a newer reader is left alone.
    """
    try:
        node = read_node(store)
        newer = node is not None and check_seal(node.facts, store).facts.get("min_reader") != FORMAT
    except DamagedStore:
        newer = False
    parents = [store / ROSTER, *sorted(store.glob(f"{FEATURES}/*/{SEGMENTS}"))]
    return not newer and any(_holds_segments(parent) for parent in parents if is_plain_folder(parent))


def _holds_segments(parent: Path) -> bool:
    try:
        return bool(read_segments(parent))
    except DamagedStore:
        return False


def mend_stamp(store: Path) -> str:
    """Write the document anew; returns what was done, in words."""
    (store / COMMIT_NAME).unlink(missing_ok=True)
    write_stamp(store)
    return "written again, with a new uuid"

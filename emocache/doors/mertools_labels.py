"""``label-6way.npz``: for each corpus a map ``{clip: {"emo": label, "val": valence}}`` in a pickle inside an npz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emocache.doors.door import Outgoing
from emocache.doors.numpy_files import Archive
from emocache.doors.pickles import LIMIT, brief, plain_pickle
from emocache.errors import DoorError

CORPUS = "_corpus"
MISSING = -10.0
"""What MERTools writes where there is no valence."""
TRAIN, OTHER = "train", "other"


def read_labels(path: Path) -> dict[str, dict[str, Any]]:
    """Columns of each clip: ``split`` (the corpus), ``label``, ``valence`` (None where it is missing).

    Nothing of the pickles is run, see `pickles`.
    raises: DoorError if it is no such file, or names a clip in two corpora
    """
    archive, found = Archive(path), dict[str, dict[str, Any]]()
    corpora = [name for name in archive.names if name.endswith(CORPUS)]
    if not corpora:
        raise DoorError(f"{path}: no labels of MERTools; expected arrays such as train_corpus, found {archive.names}")
    for corpus in corpora:
        where = f"{path}: array {corpus!r}"
        header, data = archive.payload(corpus, LIMIT)
        labels = plain_pickle(data, where) if header.dtype.hasobject else None
        if not isinstance(labels, dict):
            raise DoorError(f"{where}: holds no map of clips; expected {{clip: {{'emo': label, 'val': valence}}}}")
        for clip, entry in labels.items():
            if clip in found:
                raise DoorError(f"{where}: clip {clip!r} stands in {found[clip]['split']}{CORPUS} too; leave one")
            found[str(clip)] = {"split": corpus.removesuffix(CORPUS), **_columns(clip, entry, where)}
    return found


def _columns(clip: Any, entry: Any, where: str) -> dict[str, Any]:
    good = isinstance(clip, str) and isinstance(entry, dict) and isinstance(entry.get("emo"), str)
    valence = entry.get("val", MISSING) if good else None
    if not good or not isinstance(valence, (int, float)):
        raise DoorError(f"{where}: {brief(clip)}: {brief(entry)}, expected {{'emo': label, 'val': valence}}")
    return {"label": entry["emo"] or None, "valence": None if valence in {MISSING} else float(valence)}


def write_labels(features: Sequence[Outgoing], path: Path) -> None:
    """Write the labels of the clips that some feature has; no file if none has one.

    The corpus is the column ``split``, ``train`` if no clip has one, ``other`` for those that lack it.
    """
    rows: dict[str, dict[str, Any]] = {}
    for outgoing in features:
        columns = outgoing.columns
        for number, clip in enumerate(outgoing.clips):
            rows[clip] = {name: column[number] for name, column in columns.items()}
    if not any(row.get("label") for row in rows.values()):
        return
    split = any(row.get("split") for row in rows.values())
    corpora: dict[str, dict[str, dict[str, Any]]] = {}
    for clip, row in rows.items():
        corpus = str(row.get("split") or (OTHER if split else TRAIN))
        corpora.setdefault(f"{corpus}{CORPUS}", {})[clip] = _entry(clip, row)
    arrays: dict[str, Any] = {name: np.array(labels, dtype=object) for name, labels in corpora.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _entry(clip: str, row: Mapping[str, Any]) -> dict[str, Any]:
    valence = row.get("valence")
    try:
        value = MISSING if valence in {None, ""} else float(str(valence))
    except ValueError:
        raise DoorError(f"{clip}: the column valence holds {valence!r}, expected a number; correct it") from None
    return {"emo": str(row.get("label") or ""), "val": value}

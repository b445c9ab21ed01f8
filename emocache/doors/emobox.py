"""EmoBox: ``<dataset>/<model>/<key>.npy`` with the corpus's metadata beside them.

Source: github.com/emo-box/EmoBox, ``examples/sb/speech_feature_extraction.py`` (an array a clip, ``(time, dim)``, with
``--all_layers`` ``(layer, time, dim)``), ``EmoBox/preprocess/scripts/extract_features.py`` (``(dim,)`` where the
granularity is utterance), ``EmoBox/EmoDataset.py`` and ``data/<dataset>``: a line of JSON a clip in
``<dataset>.jsonl`` (``key``, ``dataset``, ``wav``, ``type`` raw or feature, ``emo``, ...), ``label_map.json`` from
``emo`` to the label that is learned, and ``fold_<k>/<dataset>_test_fold_<k>.jsonl``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.doors.about import about, read_about
from emocache.doors.documents import as_cell, as_map, parse_json, read_json
from emocache.doors.door import Incoming, Outgoing, Row, only_one
from emocache.doors.npy import npy_files, npy_row
from emocache.doors.numpy_files import read_npy
from emocache.errors import BadOption, DoorError

NOTE, LABELS = "emocache.json", "label_map.json"
MOST_LINE = 2**20
COLUMNS = {"dataset": "corpus", "length": "length_s", "spk": "speaker"}
"""What is taken of a line beside its label, and what the roster calls it."""


@dataclass(frozen=True)
class EmoBoxDoor:
    """A folder of ``<key>.npy``: vectors ``(dim,)``, frames ``(time, dim)``, or ``(layer, time, dim)``.

    metadata: the folder ``data/<dataset>`` of EmoBox, or one of its ``.jsonl`` files; left out: no columns
    dataset: the name of the corpus that is written
    """

    metadata: str = ""
    dataset: str = "clips"

    def open(self, source: Path) -> Incoming:
        """A folder of npy files, as ``dump/iemocap/wav2vec2-base``."""
        files = sorted(npy_files(source))
        rows = [npy_row(path.relative_to(source).as_posix().removesuffix(".npy"), path) for path in files]
        rows = [_by_time(row, path) for row, path in zip(rows, files, strict=True)]
        note = source / NOTE
        origin = read_about(note.read_text(errors="replace") if note.is_file() else "")
        shape = next((row.shape for row in rows if row.shape), ())
        return Incoming(
            rows,
            source,
            files,
            origin.name or source.resolve().name,
            frames=len(shape) > 1,
            layers=origin.layers_of(shape),
            modality="audio",
            pooling=origin.pooling,
            facts=origin.facts,
            columns=read_metadata(Path(self.metadata)) if self.metadata else {},
        )

    def write(self, features: Sequence[Outgoing], out: Path) -> Mapping[str, str]:
        """``<dataset>/<feature>/<clip>.npy``, and ``data/<dataset>`` for the clips that have a label.

        Its lines are of type ``feature``: EmoBox loads the array that ``wav`` names, relative to where it runs.
        """
        outgoing = only_one(features, "emobox")
        if not outgoing.frames:
            outgoing.one_layer("emobox")
        if not re.fullmatch(r"[\w-]{1,80}", self.dataset):
            raise BadOption(f"--set dataset={self.dataset}: name a corpus with letters, digits, _ and -")
        place = Path(self.dataset) / outgoing.label
        (out / place).mkdir(parents=True)
        (out / place / NOTE).write_text(about(outgoing.feature, outgoing.layers))
        for clip, values in outgoing.rows():
            path = out / place / f"{clip}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, _as_emobox(values, frames=outgoing.frames), allow_pickle=False)
        _write_metadata(outgoing, self.dataset, place, out / "data" / self.dataset)
        return {outgoing.feature.name: place.as_posix()}


def _by_time(row: Row, path: Path) -> Row:
    """A row with the time axis first: EmoBox puts the layers there."""
    if len(row.shape) != 3:
        return row
    layers, times, dim = row.shape
    return replace(row, shape=(times, layers, dim), load=partial(_read_by_time, path))


def _read_by_time(path: Path) -> NDArray[Any]:
    turned: NDArray[Any] = read_npy(path).swapaxes(0, 1)
    return turned


def _as_emobox(values: NDArray[Any], *, frames: bool) -> NDArray[Any]:
    """``(time, layer, dim)`` as ``(layer, time, dim)``; of a single layer without that axis."""
    turned: NDArray[Any] = values.swapaxes(0, 1) if frames else values
    return turned[0] if len(turned) == 1 else turned


# --- metadata --------------------------------------------------------------------------------------------------------


def read_metadata(source: Path) -> dict[str, dict[str, Any]]:
    """Columns of each clip, ``label`` and ``fold`` among them.

    The label is ``emo`` through ``label_map.json`` if that is there, and the fold that in whose test part the clip is.

    source: the folder of a corpus, or one of its ``.jsonl`` files
    raises: DoorError if it is none, or a clip is in the test part of two folds
    """
    folder = source if source.is_dir() else source.parent
    tables = sorted(folder.glob("*.jsonl")) if source.is_dir() else [source]
    if len(tables) != 1:
        raise DoorError(f"{source}: {len(tables)} .jsonl files are in it, expected one; name a file, or data/<dataset>")
    names = as_map(read_json(folder / LABELS), folder / LABELS) if (folder / LABELS).is_file() else {}
    found: dict[str, dict[str, Any]] = {}
    for entry in _lines(tables[0]):
        emotion = as_cell(entry.get("emo"))
        label = names.get(emotion, emotion) if isinstance(emotion, str) else emotion
        told = {column: as_cell(entry[name]) for name, column in COLUMNS.items() if name in entry}
        found[entry["key"]] = {"label": as_cell(label), **({"emo": emotion} if label != emotion else {}), **told}
    for path in sorted(folder.glob("fold_*/*_test_fold_*.jsonl")) if source.is_dir() else ():
        for entry in _lines(path):
            columns = found.setdefault(entry["key"], {})
            if "fold" in columns:
                raise DoorError(f"{path}: clip {entry['key']!r} is tested in fold {columns['fold']} too; leave one")
            columns["fold"] = path.parent.name.removeprefix("fold_")
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a ``.jsonl`` file, each with a ``key``.

    raises: DoorError
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MOST_LINE):
                number += 1
                where = f"{path}: line {number}"
                entry = as_map(parse_json(line, where), where)
                if not isinstance(entry.get("key"), str):
                    raise DoorError(f"{where}: names no clip; expected a text under key, as in EmoBox's data/")
                yield entry
    except OSError as error:
        raise DoorError(f"{path}: cannot be read: {error.strerror or error}") from error


def _write_metadata(outgoing: Outgoing, dataset: str, place: Path, folder: Path) -> None:
    """The corpus's files; clips without a label cannot stand in them. Folds are numbered from 1, as EmoBox's are."""
    columns = outgoing.columns
    labels = columns.get("label", [None] * len(outgoing.clips))
    entries = {
        clip: {
            "key": clip,
            "dataset": dataset,
            "wav": f"{place.as_posix()}/{clip}.npy",
            "type": "feature",
            "task": "category",
            "emo": str(label),
        }
        for clip, label in zip(outgoing.clips, labels, strict=True)
        if label is not None
    }
    if not entries:
        return
    folder.mkdir(parents=True)
    (folder / LABELS).write_text(json.dumps({entry["emo"]: entry["emo"] for entry in entries.values()}, indent=4))
    _write_table(entries, folder / dataset)
    folds = {
        clip: str(fold) for clip, fold in zip(outgoing.clips, columns.get("fold", ()), strict=False) if fold is not None
    }
    for number, fold in enumerate(sorted(set(folds.values()), key=lambda text: (len(text), text)), 1):
        (folder / f"fold_{number}").mkdir()
        for part in ("test", "train"):
            chosen = {c: e for c, e in entries.items() if c in folds and (folds[c] == fold) == (part == "test")}
            _write_table(chosen, folder / f"fold_{number}" / f"{dataset}_{part}_fold_{number}")


def _write_table(entries: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """The same as a line each, and as one map by key."""
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries.values()]
    path.with_name(f"{path.name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    text = json.dumps(entries, ensure_ascii=False, indent=4)
    path.with_name(f"{path.name}.json").write_text(text, encoding="utf-8")

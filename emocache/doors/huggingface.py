"""A folder of Hugging Face datasets, as ``Dataset.save_to_disk`` and ``DatasetDict.save_to_disk`` write it.

``state.json`` names the Arrow files of a Dataset, ``dataset_info.json`` says what is in them, ``dataset_dict.json``
names the splits of a DatasetDict, each a folder (`datasets`, ``arrow_dataset.py`` and ``dataset_dict.py``). Reading
takes pyarrow alone: Arrow files hold no objects, and no code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emocache.doors.about import about, clip_arrays
from emocache.doors.arrow import CLIP_ID, EMBEDDING, clip_columns, clip_table
from emocache.doors.arrow_rows import is_lists_of_numbers, list_rows, read_table
from emocache.doors.documents import as_map, is_plain_name, read_json
from emocache.doors.door import Incoming, Outgoing, Row, only_one
from emocache.doors.extras import need
from emocache.doors.pieces import pieces
from emocache.errors import BadOption, DoorError

if TYPE_CHECKING:
    import pyarrow as pa

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
DATA = "data-00000-of-00001.arrow"


@dataclass(frozen=True)
class DatasetsDoor:
    """A Dataset with one row a clip: its id, its numbers, and columns for the roster.

    Numbers are lists ``(dim,)``, or lists of lists ``(layer, dim)``; frames are ``(time, dim)`` if clips differ in
    length, and ``(time, layer, dim)``. Of a DatasetDict all splits are read, and named in the column ``split``.

    column: the numbers; left out: ``embedding``, else the only column of lists of numbers
    clip_id: the ids; frames: the first axis is time, even if all clips are equally long
    """

    column: str = ""
    clip_id: str = CLIP_ID
    frames: bool = False

    def open(self, source: Path) -> Incoming:
        """A folder of save_to_disk."""
        rows: list[Row] = []
        columns: dict[str, dict[str, Any]] = {}
        files: list[Path] = []
        chosen: list[str] = []
        note = ""
        for split, folder in _datasets(source):
            info = as_map(read_json(folder / INFO), folder / INFO)
            note = str(info.get("description"))
            for path in _arrow_files(folder):
                files.append(path)
                table = read_table(path)
                ids = self._ids(table, path)
                chosen.append(self._numbers(table, path))
                rows += list_rows(ids, table[chosen[-1]], path)
                columns |= self._columns(table, ids, info.get("features"), split)
        return clip_arrays(
            rows,
            source,
            files,
            name=source.name,
            note=note,
            frames=self.frames,
            chosen={"columns": list(dict.fromkeys(chosen)), "id": self.clip_id},
            columns=columns,
        )

    def write(self, features: Sequence[Outgoing], out: Path) -> Mapping[str, str]:
        """A Dataset with the columns ``clip_id``, the roster's, and ``embedding``: Array2D, or Array3D of frames."""
        need("datasets", "the door datasets")
        import datasets
        import pyarrow as pa

        outgoing = only_one(features, "datasets")
        out.mkdir()
        batches = _batches(outgoing)
        first = next(batches)
        with pa.OSFile(str(out / DATA), "wb") as file, pa.ipc.new_stream(file, first.schema) as writer:
            writer.write_table(first)
            for table in batches:
                writer.write_table(table)
        kinds = datasets.Features.from_arrow_schema(first.schema)
        note = about(outgoing.feature, outgoing.layers)
        datasets.DatasetInfo(description=note, features=kinds).write_to_directory(str(out))
        (out / STATE).write_text(json.dumps(_state(outgoing.feature.view().digest), indent=2))
        return {outgoing.feature.name: ""}

    def _ids(self, table: pa.Table, path: Path) -> list[str]:
        if self.clip_id not in table.column_names:
            raise BadOption(
                f"{path}: no column {self.clip_id!r}; it has {', '.join(table.column_names)}; name the one that holds "
                "the clips' ids, as in --set clip_id=file"
            )
        ids: list[str] = table[self.clip_id].to_pylist()
        if not all(isinstance(name, str) for name in ids):
            raise DoorError(f"{path}: column {self.clip_id!r} does not hold a text for each clip; name one that does")
        return ids

    def _numbers(self, table: pa.Table, path: Path) -> str:
        """Which column holds the numbers."""
        lists: list[str] = [field.name for field in table.schema if is_lists_of_numbers(field.type)]
        wanted = self.column or (EMBEDDING if EMBEDDING in lists else "")
        if wanted in lists:
            return wanted
        if not wanted and len(lists) == 1:
            return lists[0]
        told = f"no column {wanted!r} of lists of numbers" if wanted else "cannot tell which column holds the numbers"
        raise BadOption(f"{path}: {told}; lists of numbers are in {', '.join(lists) or 'none'}; --set column=NAME")

    def _columns(self, table: pa.Table, ids: Sequence[str], kinds: Any, split: str) -> dict[str, dict[str, Any]]:
        """What the roster can keep of the other columns; a ClassLabel as the text that it stands for."""
        names = [
            field.name
            for field in table.schema
            if field.name != self.clip_id and not (is_lists_of_numbers(field.type) or _is_binary(field.type))
        ]
        found: dict[str, dict[str, Any]] = {clip: {"split": split} if split else {} for clip in ids}
        for name in names:
            labels = _class_names(kinds, name)
            for clip, value in zip(ids, table[name].to_pylist(), strict=True):
                found[clip][name] = labels[value] if type(value) is int and 0 <= value < len(labels) else value
        return found


def _is_binary(kind: pa.DataType) -> bool:
    """Whether values are bytes, or maps, which a roster does not keep."""
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_struct))


def _class_names(kinds: Any, name: str) -> list[str]:
    kind = kinds.get(name) if isinstance(kinds, dict) else None
    names = kind.get("names") if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" else None
    return names if isinstance(names, list) else []


def _datasets(source: Path) -> Iterator[tuple[str, Path]]:
    """Each split with its folder; a Dataset alone has no name."""
    if (source / STATE).is_file():
        yield "", source
        return
    if not (source / SPLITS).is_file():
        raise DoorError(
            f"{source}: no folder of save_to_disk: it holds neither {STATE} nor {SPLITS}; load the data set with "
            "datasets.load_dataset and save it with save_to_disk"
        )
    splits = as_map(read_json(source / SPLITS), source / SPLITS).get("splits")
    for split in splits if isinstance(splits, list) else []:
        yield split, source / _plain_name(split, source / SPLITS)


def _arrow_files(folder: Path) -> list[Path]:
    where = folder / STATE
    named = as_map(read_json(where), where).get("_data_files")
    if not isinstance(named, list) or not all(isinstance(entry, dict) for entry in named):
        raise DoorError(f"{where}: names no Arrow files; save the data set again with save_to_disk")
    return [folder / _plain_name(entry.get("filename"), where) for entry in named]


def _plain_name(name: Any, where: Path) -> str:
    """A name in the same folder, which leads nowhere else."""
    if not is_plain_name(name):
        raise DoorError(f"{where}: {str(name)[:80]!r} names no file beside it; save the data set again")
    return str(name)


def _batches(outgoing: Outgoing) -> Iterator[pa.Table]:
    """The table in pieces of 64 MB, all of one schema."""
    columns = clip_columns(outgoing.clips, outgoing.columns)
    for first, clips in pieces(outgoing):
        rows = clips if outgoing.frames else [clip[None] for clip in clips]
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        part = {name: column.slice(first, len(rows)) for name, column in columns.items()}
        yield clip_table(part, np.concatenate(rows), offsets, ragged=outgoing.frames)


def _state(digest: str) -> dict[str, Any]:
    """What `save_to_disk` keeps beside the numbers."""
    formats: dict[str, Any] = {"_format_columns": None, "_format_kwargs": {}, "_format_type": None}
    files = {"_data_files": [{"filename": DATA}], "_fingerprint": digest[:16]}
    return {**files, **formats, "_output_all_columns": False, "_split": None}

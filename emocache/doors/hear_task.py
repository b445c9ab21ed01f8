"""Reading the embeddings of one HEAR task; `hear` says what lies in its folder."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.doors.documents import as_map, is_plain_name, read_json
from emocache.doors.door import Row
from emocache.doors.npy import npy_row
from emocache.doors.pickles import LIMIT, plain_pickle
from emocache.errors import DoorError

METADATA, SUFFIX, SOUND = "task_metadata.json", ".embedding.npy", ".wav"
AGAIN = "run heareval.embeddings.runner again"


def shuffled(splits: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The files of each split in the order of the rows of ``<split>.embeddings.npy``."""
    prng = random.Random(0)  # noqa: S311 (the kit's order, no secret)
    found = {}
    for split, files in splits.items():
        found[split] = list(files)
        prng.shuffle(found[split])
    return found


def clip_of(file: str) -> str:
    """A file as a clip: HEAR's sound files all end in ``.wav``."""
    return file.removesuffix(SOUND)


@dataclass(frozen=True)
class Task:
    """One task's folder.

    raises: DoorError if it is none
    """

    folder: Path

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """``task_metadata.json``."""
        where = self.folder / METADATA
        if not where.is_file():
            tasks = sorted(path.parent.name for path in self.folder.glob(f"*/{METADATA}"))
            advice = f"name one of its tasks: {', '.join(tasks[:5])}" if tasks else "name the folder of one task"
            raise DoorError(f"{self.folder}: no {METADATA} is in it; {advice}, such as embeddings/<model>/<task>")
        found = as_map(read_json(where), where)
        splits = found.get("splits")
        if not isinstance(splits, list) or not all(map(is_plain_name, splits)) or len(set(splits)) < len(splits):
            raise DoorError(f"{where}: splits is {str(splits)[:80]}, expected a list of names; {AGAIN}")
        if found.get("embedding_type") not in {"scene", "event"}:
            raise DoorError(f"{where}: embedding_type is {str(found.get('embedding_type'))[:40]!r}, not scene or event")
        return found

    @property
    def events(self) -> bool:
        """Whether there is a row for each time, and not for each file."""
        return bool(self.metadata["embedding_type"] == "event")

    @cached_property
    def labels(self) -> dict[str, dict[str, Any]]:
        """``<split>.json``: of each split its files, in order, with what is said of each."""
        paths = {split: self.folder / f"{split}.json" for split in self.metadata["splits"]}
        return {split: as_map(read_json(path), path) for split, path in paths.items()}

    def columns(self) -> dict[str, dict[str, Any]]:
        """``split`` (``fold`` of a task in folds), and of scenes ``label``, or ``labels`` where there are not one."""
        place = "fold" if str(self.metadata.get("split_mode", "")).endswith("kfold") else "split"
        found: dict[str, dict[str, Any]] = {}
        for split, files in self.labels.items():
            for file, said in files.items():
                labels = [] if self.events or not isinstance(said, list) else [str(label) for label in said]
                one = {"label": labels[0]} if len(labels) == 1 else {"labels": labels} if labels else {}
                found[clip_of(file)] = {place: split, **one}
        return found

    def rows(self, files: list[Path]) -> Iterator[Row]:
        """Every clip; `files` gets what is read."""
        for split, named in self.labels.items():
            paths = {file: self.folder / split / f"{file}{SUFFIX}" for file in named if is_below(file)}
            there = {file: path for file, path in paths.items() if path.is_file()}
            if there:
                files += there.values()
                yield from (npy_row(clip_of(file), path) for file, path in there.items())
            else:
                yield from self._joined(split, files)

    # --- one array a split -------------------------------------------------------------------------------------------

    def _joined(self, split: str, files: list[Path]) -> Iterator[Row]:
        values = self._array(split, files)
        if not self.events:
            files.append(self.folder / f"{split}.json")  # it decides which row is whose
            for number, file in enumerate(self._order(split, len(values))):
                yield Row(clip_of(file), values.shape[1:], values.dtype, partial(values.__getitem__, number))
            return
        path = self.folder / f"{split}.filename-timestamps.json"
        files.append(path)
        for clip, first, last in _runs(read_json(path), len(values), path):
            span = slice(first, last)
            yield Row(clip, values[span].shape, values.dtype, partial(values.__getitem__, span))

    def _array(self, split: str, files: list[Path]) -> NDArray[np.float32]:
        """``<split>.embeddings.npy``, mapped: bare float32, whatever its name says."""
        path, told = self.folder / f"{split}.embeddings.npy", self.folder / f"{split}.embedding-dimensions.json"
        shape = read_json(told)
        if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 < n < 2**40 for n in shape)):
            raise DoorError(f"{told}: {str(shape)[:80]}, expected [rows, dim]; {AGAIN}")
        try:
            length = path.stat().st_size
        except OSError as error:
            raise DoorError(f"{path}: cannot be read: {error.strerror or error}; {AGAIN}") from None
        if length != 4 * shape[0] * shape[1]:
            raise DoorError(f"{path}: {length:,} bytes, expected {shape[0]:,} x {shape[1]:,} float32; {AGAIN}")
        files += [path, told]
        return np.memmap(path, np.dtype("<f4"), "r", 0, tuple(shape))

    def _order(self, split: str, count: int) -> list[str]:
        """The file of each row of a scene array, which nothing in the folder names.

        raises: DoorError if the labels that lie beside the rows are not those of the files
        """
        order = shuffled({name: list(files) for name, files in self.labels.items()})[split]
        path = self.folder / f"{split}.target-labels.pkl"
        try:
            with path.open("rb") as file:
                found = plain_pickle(file.read(LIMIT + 1), path)
        except OSError as error:
            raise DoorError(f"{path}: cannot be read: {error.strerror or error}; {AGAIN}") from None
        if len(order) != count or found != [self.labels[split][file] for file in order]:
            raise DoorError(
                f"{path}: not the labels of the files of {split}.json in the order of heareval, so nothing tells which "
                f"row is which file; keep the folder {split}/ with a file for each, or {AGAIN}"
            )
        return order


def _runs(pairs: Any, count: int, where: Path) -> Iterator[tuple[str, int, int]]:
    """Each clip with the rows that are its own, from the file and time of each row.

    raises: DoorError if there are not `count` of them
    """
    pairs = pairs if isinstance(pairs, list) else []
    names = [pair[0] if isinstance(pair, list) and pair else None for pair in pairs]
    if len(names) != count or not all(isinstance(name, str) for name in names):
        raise DoorError(f"{where}: expected a file and a time for each of {count:,} rows; {AGAIN}")
    first = 0
    for number in range(1, count + 1):
        if number == count or names[number] != names[first]:
            yield clip_of(str(names[first]).rpartition("/")[2]), first, number
            first = number


def is_below(name: str) -> bool:
    """Whether a name leads to a place below a folder."""
    return name.isprintable() and not name.startswith("/") and ".." not in name.split("/")

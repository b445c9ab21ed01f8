"""HEAR: the embeddings of one task, as ``heareval.embeddings.runner`` leaves them for ``heareval.predictions.runner``.

Source: github.com/hearbenchmark/hear-eval-kit, ``heareval/embeddings/task_embeddings.py`` and
``heareval/predictions/task_predictions.py``. In the folder of a task lie

- ``task_metadata.json`` (``embedding_type`` scene or event, ``splits``, ...), ``labelvocabulary.csv`` (idx, label), and
  ``<split>.json``: each sound file's labels, or its events;
- ``<split>/<file>.embedding.npy``: one a file, ``(dim,)``, or of events ``(time, dim)``;
- ``<split>.embeddings.npy``: the same once more as one array of float32 without a header, of the shape that
  ``<split>.embedding-dimensions.json`` says, with ``<split>.target-labels.pkl``, a list of lists. Its rows are those of
  ``<split>.json``, shuffled by one ``random.Random(0)`` for all splits; of events ``<split>.filename-timestamps.json``
  names the file and time of each row.
"""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emocache.doors.about import about, read_about
from emocache.doors.documents import is_plain_name
from emocache.doors.door import Incoming, Outgoing, Row
from emocache.doors.hear_task import METADATA, SOUND, SUFFIX, Task, shuffled
from emocache.doors.pieces import one_row_a_clip
from emocache.errors import BadOption, some

NOTE = "emocache.json"
SPLITS = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}
"""What a column ``split`` may hold, and what HEAR calls it."""


@dataclass(frozen=True)
class HearDoor:
    """The folder of one task. Rows of a file each are read where they are there, else the joined arrays.

    task: the name of a task that is written
    splits: the column of the roster whose values are its splits; left out: ``split`` if it says train, valid and test,
        else ``fold``, else ``speaker``: each value a fold
    """

    task: str = "emotion"
    splits: str = ""

    def open(self, source: Path) -> Incoming:
        """A folder ``embeddings/<model>/<task>``."""
        task, files = Task(source), list[Path]()
        frames = task.events
        rows: list[Row] = list(task.rows(files))
        note = source / NOTE
        origin = read_about(note.read_text(errors="replace") if note.is_file() else "")
        name = task.metadata.get("task_name")
        facts = {"task": name if is_plain_name(name) else source.resolve().name, **origin.facts}
        return Incoming(
            rows,
            source,
            files,
            origin.name or source.resolve().name,
            frames=frames,
            layers=None if frames else origin.layers_of((1,)),
            modality="audio",
            pooling=origin.pooling,
            facts=facts,
            columns=task.columns(),
        )

    def write(self, features: Sequence[Outgoing], out: Path) -> Mapping[str, str]:
        """A task of one label a clip, for ``heareval.predictions.runner``; the joined arrays are float32."""
        outgoing = one_row_a_clip(features, "hear")
        outgoing.one_layer("hear")
        mode, splits = self._splits(outgoing)
        labels = dict(zip(outgoing.clips, _labels(outgoing), strict=True))
        out.mkdir()
        metadata = {
            "task_name": self.task,
            "embedding_type": "scene",
            "prediction_type": "multiclass",
            "split_mode": mode,
            "splits": list(splits),
            "evaluation": ["top1_acc"],
            "sample_duration": None,
        }
        (out / METADATA).write_text(json.dumps(metadata, indent=4))
        (out / NOTE).write_text(about(outgoing.feature, outgoing.layers))
        with (out / "labelvocabulary.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("idx", "label"), *enumerate(sorted(set(labels.values())))])
        _write_rows(outgoing, splits, labels, out)
        return {outgoing.feature.name: ""}

    def _splits(self, outgoing: Outgoing) -> tuple[str, dict[str, list[str]]]:
        """HEAR's word for how it is divided, and the clips of each split.

        raises: BadOption if no column divides the clips
        """
        columns = outgoing.columns
        given = [SPLITS.get(str(value)) for value in columns.get("split", ())]
        if not self.splits and set(given) == {"train", "valid", "test"}:
            return "trainvaltest", _grouped(outgoing.clips, [str(value) for value in given], ["train", "valid", "test"])
        usual = next((name for name in ("fold", "speaker") if name in columns), "split")
        column = columns.get(self.splits or usual, [None])
        if None in column or len(set(map(str, column))) < 3:
            raise BadOption(
                f"--set splits={self.splits or usual}: HEAR divides clips into train, valid and test by a column "
                "split, or into three folds or more; name a column that has a value for every clip, or choose the "
                "clips that have one by a manifest, with --clips"
            )
        values = sorted(set(map(str, column)))
        names = {value: f"fold{number:02d}" for number, value in enumerate(values)}
        return "presplit_kfold", _grouped(outgoing.clips, [names[str(value)] for value in column], names.values())


def _grouped(clips: Sequence[str], splits: Sequence[str], names: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in names}
    for clip, split in zip(clips, splits, strict=True):
        found[split].append(clip)
    return found


def _labels(outgoing: Outgoing) -> list[str]:
    """Each clip's label.

    raises: BadOption naming the clips that have none
    """
    column = outgoing.columns.get("label", [None] * len(outgoing.clips))
    if gaps := [clip for clip, label in zip(outgoing.clips, column, strict=True) if label is None]:
        raise BadOption(
            f"hear: {len(gaps)} of {len(outgoing.clips)} clips have no label: {some(gaps)}; HEAR learns one label a "
            "clip: choose the others by a manifest, with --clips"
        )
    return [str(label) for label in column]


def _write_rows(outgoing: Outgoing, splits: Mapping[str, list[str]], labels: Mapping[str, str], out: Path) -> None:
    """The splits' lists, a file for each clip, and all of them joined."""
    order = shuffled({split: [f"{clip}{SOUND}" for clip in clips] for split, clips in splits.items()})
    places: dict[str, tuple[Path, Any, int]] = {}
    for split, clips in splits.items():
        said = {f"{clip}{SOUND}": [labels[clip]] for clip in clips}
        (out / f"{split}.json").write_text(json.dumps(said, indent=4))
        shape = (len(clips), outgoing.feature.dim)
        (out / f"{split}.embedding-dimensions.json").write_text(json.dumps(shape))
        joined = np.memmap(out / f"{split}.embeddings.npy", np.dtype("<f4"), "w+", 0, shape)
        places |= {file: (out / split, joined, row) for row, file in enumerate(order[split])}
        (out / f"{split}.target-labels.pkl").write_bytes(pickle.dumps([said[file] for file in order[split]]))
    for clip, values in outgoing.rows():
        file = f"{clip}{SOUND}"
        folder, joined, row = places[file]
        joined[row] = values[0]
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{file}{SUFFIX}", values[0], allow_pickle=False)
        (folder / f"{file}.target-labels.json").write_text(json.dumps([labels[clip]]))

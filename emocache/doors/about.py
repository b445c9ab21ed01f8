"""A note beside exported numbers, in JSON: from which feature they are, so that an import can say so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emocache.doors.door import Incoming, Row
from emocache.spec import MODALITIES, Modality, is_ragged
from emocache.store import Feature

MOST_LAYERS = 2**16


def about(feature: Feature, layers: Sequence[int]) -> str:
    """The note: feature, fingerprint, recipe, and the layers that were exported, in their order."""
    note = {
        "feature": feature.name,
        "fingerprint": feature.fingerprint,
        "layers": list(layers),
        "recipe": dict(feature.recipe.fields),
    }
    return json.dumps(note, ensure_ascii=False)


@dataclass(frozen=True)
class Origin:
    """What a note says; of a file without one, nothing.

    name: the encoder's; layers: those of the numbers, in their order; frames: whether each clip has rows of its own
    number; facts: for the recipe of an import
    """

    name: str = ""
    layers: tuple[int, ...] | None = None
    modality: Modality | None = None
    pooling: str = "unknown"
    frames: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def layers_of(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """The layers of numbers ``(..., layer, dim)``; None if the note tells of another number of them."""
        count = shape[-2] if len(shape) > 1 + self.frames else 1
        return self.layers if self.layers is not None and len(self.layers) == count else None


def read_about(text: str) -> Origin:
    """Read a note. One that is none, or not ours, is no error: other tools write what they like there."""
    try:
        note = json.loads(text)
        recipe = note["recipe"]
        name, pooling, modality = recipe["encoder"], recipe["pooling"], recipe["modality"]
        known = {"feature": note["feature"], "fingerprint": note["fingerprint"]}
        layers = tuple(note["layers"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return Origin()
    if not all(isinstance(text, str) and text.isprintable() for text in (name, pooling, *known.values())):
        return Origin()
    if not all(type(layer) is int and 0 <= layer < MOST_LAYERS for layer in layers) or len(set(layers)) != len(layers):
        return Origin()
    read = next((word for word in MODALITIES if word == modality), None)
    frames = is_ragged(pooling)
    return Origin(name, layers, read, "unknown" if frames else pooling, frames, {"from": known})


def clip_arrays(
    rows: Sequence[Row],
    root: Path,
    files: Sequence[Path],
    *,
    name: str,
    note: str,
    frames: bool,
    chosen: Mapping[str, Any],
    columns: Mapping[str, Mapping[str, Any]],
) -> Incoming:
    """What a door finds that keeps an array a clip, of any number of axes, and a note of where they come from.

    name: of the feature, unless the note has one; frames: the user says that the first of two axes is time
    chosen: what of the files was read, for the recipe
    """
    origin = read_about(note)
    return Incoming(
        rows,
        root,
        files,
        origin.name or name,
        frames=are_frames(rows, frames),
        layers=origin.layers_of(next((row.shape for row in rows if row.shape), ())),
        modality=origin.modality,
        pooling=origin.pooling,
        facts={**chosen, **origin.facts},
        columns=columns,
    )


def are_frames(rows: Sequence[Row], asked: bool) -> bool:
    """Whether the first axis of the rows is time: of three axes, or of two if the clips differ in length.

    asked: the user says so; of vectors it is never true
    """
    shapes = [row.shape for row in rows if row.shape]
    axes, lengths = {len(shape) for shape in shapes}, {shape[0] for shape in shapes}
    return axes == {3} or (axes == {2} and (asked or len(lengths) > 1))

"""What a door is: it reads and writes the files of one other tool. `docs/doors.md` teaches it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emocache.doors.columns import roster_columns
from emocache.errors import BadOption
from emocache.spec import Modality, Recipe, layers_text
from emocache.store import Feature, Store
from emocache.store.upkeep.export import read_blocks

FLOAT32 = np.dtype(np.float32)
FILE_NAME = re.compile(r"[\w-][\w.-]{0,99}")


# --- in --------------------------------------------------------------------------------------------------------------


def _nothing() -> NDArray[Any]:
    raise NotImplementedError("a row without a fault has `load`")


@dataclass(frozen=True)
class Row:
    """One clip's numbers where they lie, announced by shape and dtype before any of them is read.

    shape: ``(dim,)`` or ``(layer, dim)``; of frames ``(time, dim)`` or ``(time, layer, dim)``
    load: reads them; called when their turn comes, perhaps twice; raises DoorError or OSError, and the clip fails
    fault: why they cannot be read, if the announcement shows it already: the clip fails by name, the others go on
    """

    clip_id: str
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] = FLOAT32
    load: Callable[[], NDArray[Any]] = _nothing
    fault: str = ""


@dataclass(frozen=True)
class Incoming:
    """What a door found at a source: the rows of one feature.

    files: all that decide the numbers, which the recipe knows by their sha256; root: the source, to which their names
        are relative
    name: what the feature is to be called unless the user says otherwise
    frames: whether each clip has rows of its own number
    layers: the numbers along the layer axis; None counts from 0
    modality: if the format tells it; pooling: how frames became one vector, if it is known
    facts: what else decides the numbers or must be known of them (convention, ...), for the recipe: strings, integers,
        lists and maps
    columns: clip_id to columns for the roster; may name clips that have no row
    zeros: what a clip whose numbers are all zero means here, if the tool writes zeros for what it lacks; else ""
    """

    rows: Sequence[Row]
    root: Path
    files: Sequence[Path]
    name: str
    frames: bool = False
    layers: tuple[int, ...] | None = None
    modality: Modality | None = None
    pooling: str = "unknown"
    facts: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    zeros: str = ""


# --- out -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outgoing:
    """One feature on its way out: the clips that hold all of `layers`.

    missing: clips that do not, and why; nothing may be written in their place
    """

    store: Store
    feature: Feature
    layers: tuple[int, ...]
    clips: tuple[str, ...]
    missing: Mapping[str, str]

    @property
    def recipe(self) -> Recipe:
        """Everything that decided the numbers."""
        return self.feature.recipe

    @property
    def frames(self) -> bool:
        """Whether each clip has rows of its own number."""
        return self.feature.ragged

    @property
    def imported(self) -> Mapping[str, Any]:
        """What the recipe says of where the numbers came from; empty for what emocache extracted."""
        found = self.recipe.fields.get("imported")
        return found if isinstance(found, dict) else {}

    @property
    def label(self) -> str:
        """A name for files: the one that the numbers were imported under, else the feature's.

        A recipe may come from a stranger, so a name that could lead elsewhere does not count.
        """
        name = self.imported.get("feature")
        return name if isinstance(name, str) and FILE_NAME.fullmatch(name) else self.feature.name

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The roster's columns of `clips`, in their order."""
        return roster_columns(self.store, self.clips)

    def rows(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Each clip with its numbers in the stored dtype, ``(layer, dim)``, or ``(time, layer, dim)`` of frames.

        They are read in pieces of 64 MB.
        """
        from tqdm import tqdm

        offsets = self.feature.offsets_of(self.clips, self.layers)
        bar = tqdm(total=len(self.clips), desc=self.feature.name, unit="clip", leave=False, disable=None)
        spans = iter(zip(self.clips, pairwise(offsets.tolist()), strict=True))
        for start, values in read_blocks(self.feature, list(self.clips), self.layers, offsets):
            last = start
            while last < start + len(values):
                clip, (first, last) = next(spans)
                part = values[first - start : last - start]
                yield clip, part if self.frames else part[0]
                bar.update()
        bar.close()

    def one_layer(self, door: str) -> int:
        """The layer, for formats that know no layers.

        raises: BadOption if there are several
        """
        if len(self.layers) > 1:
            raise BadOption(
                f"--layers: {self.feature.name} has the layers {layers_text(self.layers)}, and {door} knows no layers: "
                f"choose one, as in --layers {self.layers[-1]}"
            )
        return self.layers[0]


class Door(Protocol):
    """Reads and writes the files of one other tool.

    A door is a frozen dataclass; its fields are its settings (``--set convention=merbench``), each with a default. It
    does not hash, make keys, judge or cast numbers, write the roster, choose clips, or touch the store: `importing` and
    `exporting` do, for all doors alike.
    """

    def open(self, source: Path) -> Incoming:
        """Look at a source, and read no more of it than tells which clips are there, in which shape.

        raises: DoorError if it cannot be taken as it stands; BadOption if a setting is needed to understand it
        """
        ...

    def write(self, features: Sequence[Outgoing], out: Path) -> Mapping[str, str]:
        """Write features to `out`, which does not exist; it gets its final name when all is written.

        returns: a feature's name to where below `out` the door would open it again; "" is `out` itself
        raises: BadOption for features that this format cannot hold
        """
        ...


def only_one(features: Sequence[Outgoing], door: str) -> Outgoing:
    """The feature, for formats that hold one.

    raises: BadOption if there are several
    """
    if len(features) > 1:
        names = ", ".join(feature.feature.name for feature in features)
        raise BadOption(f"--features: {door} holds one feature, and {names} were named; export them one by one")
    return features[0]

"""BLEMORE's static features: seven statistics of each encoder's frames, in one npz.

The challenge's ``train_metadata.csv`` becomes a manifest by ``emocache blend-labels``, which ``--clips`` takes; the
submission is written by ``emocache blend``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emocache.doors.door import Incoming, Outgoing, only_one
from emocache.doors.npz import NpzDoor
from emocache.errors import BadOption, DoorError
from emocache.spec import STATS7

SUFFIX = "_static_features"


@dataclass(frozen=True)
class BlemoreDoor:
    """``<encoder>_static_features.npz``: ``X`` ``(clip, 7 dim)``, blocks mean, std, p10 to p90, and ``filenames``."""

    def open(self, source: Path) -> Incoming:
        """One npz file; the pooling of the feature is ``stats7``."""
        found = NpzDoor().open(source)
        shape = found.rows[0].shape if found.rows else ()
        if len(shape) != 1 or shape[0] % len(STATS7):
            raise DoorError(
                f"{source}: rows of shape {shape}, expected seven blocks of one length ({', '.join(STATS7)}); if they "
                "are something else, import it with npz"
            )
        name = source.stem.removesuffix(SUFFIX)
        return replace(found, name=name, pooling="stats7", facts={"statistics": list(STATS7)})

    def write(self, features: Sequence[Outgoing], out: Path) -> Mapping[str, str]:
        """One npz file of a feature that was pooled by ``stats7``, whose blocks are the same in the same order."""
        outgoing = only_one(features, "blemore")
        pooling = outgoing.recipe.fields["pooling"]
        if pooling != "stats7":
            raise BadOption(
                f"--features: {outgoing.feature.name} has pooling {pooling}, and BLEMORE's static features are stats7; "
                "extract with --pool stats7, or export to npz"
            )
        outgoing.one_layer("blemore")
        return NpzDoor().write(features, out)

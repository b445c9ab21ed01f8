"""`export_features`: features of a store as the files of another tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emocache.doors.door import Outgoing
from emocache.doors.registry import make_door
from emocache.doors.survey import check_names
from emocache.errors import BadOption, MissingCells, StoreError, some
from emocache.spec import counted, layers_text
from emocache.store import Feature, Store, open_store, read_manifest
from emocache.store.upkeep.export import wanted_layers, whole


@dataclass(frozen=True)
class Exported:
    """What one export wrote.

    path: the file or folder; sources: feature to what of it the door would open again
    clips: feature to how many; missing: feature to the clips that are not there, and why
    """

    path: Path
    sources: Mapping[str, Path]
    clips: Mapping[str, int]
    layers: Mapping[str, tuple[int, ...]]
    missing: Mapping[str, Mapping[str, str]]

    def __str__(self) -> str:
        lines = []
        for feature, source in self.sources.items():
            lines.append(f"{source}: {self.clips[feature]:,} clips of {feature}, {_layers_text(self.layers[feature])}")
            if lacking := self.missing[feature]:
                lines.append(
                    f"{counted(len(lacking), 'clip')} left out, with nothing in their place: {some(list(lacking))}"
                )
        return "\n".join(lines)


def export_features(
    door: str,
    features: str | Sequence[str],
    out: str | Path,
    *,
    store: str | Path | None = None,
    layers: str | Sequence[int] | None = None,
    clips: str | Path | Sequence[str] | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
) -> Exported:
    """Write features as the files of another tool.

    door: what to write; settings: the door's, as ``name=value`` or a map
    features: names, or beginnings of names
    out: a new file or folder; it gets its name when all of it is written
    layers: such as ``16-21``, of every feature; left out: all that it holds
    clips: a manifest, or ids in the order wanted; left out: all. Clips that do not hold all of the layers are named and
        left out; nothing is written in their place
    raises: UnknownName, AmbiguousName; BadOption for what the format cannot hold; DoorError; MissingCells if nothing is
        left; StoreError if `out` is there, or the disk refuses. Nothing is left at `out` then
    """
    writes = make_door(door, settings)
    opened, target = open_store(store), Path(out)
    names = [features] if isinstance(features, str) else list(features)
    if not names:
        raise BadOption("--features: name what to export")
    chosen = [_outgoing(opened, opened.features[name], layers, _clips(clips)) for name in names]
    if len({outgoing.feature.name for outgoing in chosen}) < len(chosen):
        raise BadOption(f"--features {', '.join(names)}: a feature is named twice; name it once")
    if target.exists():
        raise StoreError(f"{target}: is there already; export to a new name, or remove it first")
    if not target.parent.is_dir():
        raise StoreError(f"{target}: cannot be written: there is no folder {target.parent}; make it first")
    try:
        with whole(target) as waiting:
            places = writes.write(chosen, waiting)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error.strerror or error}; nothing was left there") from error
    return Exported(
        target,
        {name: target / place if place else target for name, place in places.items()},
        {outgoing.feature.name: len(outgoing.clips) for outgoing in chosen},
        {outgoing.feature.name: outgoing.layers for outgoing in chosen},
        {outgoing.feature.name: outgoing.missing for outgoing in chosen},
    )


def _clips(clips: str | Path | Sequence[str] | None) -> list[str] | None:
    if isinstance(clips, (str, Path)):
        return [clip.clip_id for clip in read_manifest(clips).clips]
    return None if clips is None else list(clips)


def _outgoing(
    store: Store, feature: Feature, layers: str | Sequence[int] | None, clips: Sequence[str] | None
) -> Outgoing:
    """The clips that hold all layers, and why the others do not.

    raises: MissingCells if none does
    """
    wanted = wanted_layers(feature, layers)
    held = feature.held(wanted)
    asked = [row["clip_id"] for row in store.roster] if clips is None else list(clips)
    there = set(held)
    kept = tuple(clip for clip in asked if clip in there)
    if not kept:
        raise MissingCells(
            f"{feature.name}: none of the {len(asked)} clips holds all of the layers "
            f"{layers_text(wanted) or '(none)'}; emocache info {feature.name} says what is held"
        )
    check_names(kept, feature.name)
    ledger, some_held = feature.ledger(), set(feature.clips)
    missing = {clip: _why(ledger.get(clip), clip in some_held) for clip in asked if clip not in there}
    return Outgoing(store, feature, wanted, kept, missing)


def _why(row: Mapping[str, Any] | None, partly: bool) -> str:
    if partly:
        return "some of the layers are not held"
    if row is not None and row["status"] == "failed":
        return f"failed: {row.get('message', '')}"
    return "not in this feature"


def _layers_text(layers: Sequence[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {layers_text(sorted(layers))}"

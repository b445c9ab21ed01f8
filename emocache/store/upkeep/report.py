"""What a store holds, for people: the list of features, and all there is to know of one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from emocache.spec import Recipe, bytes_text, counted, layers_text
from emocache.store.documents import FORMAT, read_group
from emocache.store.feature import Feature
from emocache.store.segment import Segment
from emocache.store.store import Store, open_store
from emocache.store.upkeep.table import aligned, period


@dataclass(frozen=True)
class Writing:
    """Who wrote some segments, when, and how much lies on the disk.

    bytes: the length of all their files but the manifests; by: the users; versions: what they wrote with
    first_ms, last_ms: of the first and the last commit, since 1970; None if there is none
    """

    segments: int
    bytes: int
    by: tuple[str, ...]
    versions: tuple[str, ...]
    first_ms: int | None
    last_ms: int | None

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> Writing:
        """Read it off the segments' manifests."""
        made = [segment.manifest["made"] for segment in segments]
        times = [int(entry["at_ms"]) for entry in made]
        return cls(
            segments=len(segments),
            bytes=sum(length for segment in segments for length, _ in segment.manifest["files"].values()),
            by=tuple(sorted({str(entry["by"]) for entry in made})),
            versions=tuple(sorted({str(entry["with"]) for entry in made})),
            first_ms=min(times, default=None),
            last_ms=max(times, default=None),
        )

    @property
    def when(self) -> str:
        """The time of the first and the last commit, for a person."""
        return "never" if self.first_ms is None or self.last_ms is None else period(self.first_ms, self.last_ms)


@dataclass(frozen=True)
class FeatureLine:
    """One line of the list: a feature, how much of it is held, and who wrote it."""

    name: str
    recipe: Recipe
    clips: int
    layers: tuple[int, ...]
    dim: int
    writing: Writing


@dataclass(frozen=True)
class Listing:
    """The features of a store. store: its folder or URL; clips: how many the roster names"""

    store: str | Path
    clips: int
    features: tuple[FeatureLine, ...]

    def __str__(self) -> str:
        size = bytes_text(sum(line.writing.bytes for line in self.features))
        head = f"{self.store} · format {FORMAT} · {counted(self.clips, 'clip')} in the roster · {size}"
        if not self.features:
            return f"{head}\nno feature yet; emocache extract adds one"
        title = ("feature", "modality", "pooling", "clips", "layers", "dim", "dtype", "segments", "size", "by", "when")
        rows = [title, *(self._row(line) for line in self.features)]
        return f"{head}\n{aligned(rows, numbers=(3, 5, 7, 8))}"

    def _row(self, line: FeatureLine) -> tuple[str, ...]:
        fields, writing = line.recipe.fields, line.writing
        return (
            line.name,
            line.recipe.modality,
            str(fields["pooling"]),
            f"{line.clips:,}",
            layers_text(line.layers) or "none",
            f"{line.dim:,}",
            str(fields["storage_dtype"]),
            f"{writing.segments:,}",
            bytes_text(writing.bytes),
            ", ".join(writing.by) or "nobody",
            writing.when,
        )


@dataclass(frozen=True)
class FeatureReport:
    """All there is to know of one feature.

    versions: the libraries at work when it was made; roster: how many clips of the roster have its modality
    coverage: layer to the number of clips that hold it
    ledger: ``{"ok": 533, "failed": 2}``; failures: (stage, error) to the number of clips
    """

    line: FeatureLine
    versions: Mapping[str, str]
    roster: int
    coverage: Mapping[int, int]
    ledger: Mapping[str, int]
    failures: Mapping[tuple[str, str], int]

    def __str__(self) -> str:
        writing, fields = self.line.writing, self.line.recipe.fields
        parts = [
            ("fingerprint", [self.line.recipe.fingerprint]),
            ("recipe", [f"{key}: {value}" for key, value in flattened(fields).items()]),
            ("made with", [", ".join(f"{name} {version}" for name, version in self.versions.items()) or "unknown"]),
            ("coverage", self._coverage()),
            ("ledger", self._ledger()),
            ("on disk", [f"{bytes_text(writing.bytes)} in {counted(writing.segments, 'segment')}"]),
            ("written", [f"{writing.when} by {', '.join(writing.by) or 'nobody'}"]),
        ]
        lines = [(label if row == 0 else "", text) for label, texts in parts for row, text in enumerate(texts)]
        return f"{self.line.name}\n{aligned(lines)}"

    def _coverage(self) -> list[str]:
        """Layers that as many clips hold stand in one line."""
        if not self.coverage:
            return [f"holds nothing yet; run {self.line.recipe.made_by()}"]
        texts = []
        for clips, group in groupby(self.coverage.items(), key=lambda item: item[1]):
            layers = [layer for layer, _ in group]
            word = "layers" if len(layers) > 1 else "layer"
            held = f"{clips:,} of {counted(self.roster, 'clip')}, {self.line.dim:,} numbers each"
            texts.append(f"{word} {layers_text(layers)}: {held}")
        return texts

    def _ledger(self) -> list[str]:
        texts = [f"{self.ledger.get('ok', 0):,} ok, {self.ledger.get('failed', 0):,} failed"]
        texts += [f"{clips:,} failed to {stage}: {error}" for (stage, error), clips in self.failures.items()]
        return texts


def list_features(store: str | Path | None = None) -> Listing:
    """List a store's features: clips, layers, pooling, size, who wrote them and when.

    store: its folder or URL; left out: ``$EMOCACHE_STORE`` or ``features.zarr``
    raises: NotAStore, DamagedStore
    """
    opened = open_store(store)
    return Listing(opened.where, len(opened.roster), tuple(_line(feature) for feature in opened.features.values()))


def describe_feature(feature: str, store: str | Path | None = None) -> FeatureReport:
    """Tell all there is to know of one feature: its recipe, coverage of clips and layers, and a summary of its ledger.

    feature: its name, its encoder's, or the beginning of either where only one fits
    raises: UnknownName, AmbiguousName; NotAStore, DamagedStore
    """
    opened = open_store(store)
    found = opened.features[feature]
    rows = found.ledger().values()
    failed = [row for row in rows if row["status"] == "failed"]
    failures = Counter((str(row.get("stage", "?")), str(row.get("error", "?"))) for row in failed)
    return FeatureReport(
        line=_line(found),
        versions={str(name): str(version) for name, version in _versions(found).items()},
        roster=_named(opened, found),
        coverage={layer: len(found.held([layer])) for layer in found.layers},
        ledger=Counter(str(row["status"]) for row in rows),
        failures=dict(failures.most_common()),
    )


def _line(feature: Feature) -> FeatureLine:
    return FeatureLine(
        feature.name, feature.recipe, len(feature.clips), feature.layers, feature.dim, Writing.of(feature.segments)
    )


def _named(store: Store, feature: Feature) -> int:
    """How many clips of the roster have anything of what the feature reads."""
    return sum(feature.recipe.reads in row["keys"] for row in store.roster)


def _versions(feature: Feature) -> Mapping[str, Any]:
    attributes = read_group(feature.folder) or {}
    versions = attributes.get("versions", {})
    return versions if isinstance(versions, dict) else {}


def flattened(fields: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A recipe as one line for each value: ``settings.rate_hz: 16000``; lists are written ``[a, b]``."""
    found: dict[str, str] = {}
    for key, value in sorted(fields.items()):
        if isinstance(value, Mapping) and value:
            found |= flattened(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            found[f"{prefix}{key}"] = f"[{', '.join(map(str, value))}]"
        else:
            found[f"{prefix}{key}"] = "none" if value is None else str(value)
    return found

"""The card of a store: what a stranger must know to use it, as a README with the header that the hub reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emocache.spec import MODALITIES, bytes_text, counted, layers_text
from emocache.store.disk import disk_errors
from emocache.store.store import Store, local_folder, open_store
from emocache.store.upkeep.checksums import CHECKSUMS, replace_file, write_checksums
from emocache.store.upkeep.report import FeatureLine, flattened, list_features

CARD = "README.md"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""The hub's names for how many clips there are."""
MOST_LABELS = 100
"""More different labels are numbers, or names; they are not counted one by one."""


@dataclass(frozen=True)
class Card:
    """What was written. listed: how many files the list of checksums names; text: the card's"""

    path: Path
    checksums: Path
    listed: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}: written\n{self.checksums}: {counted(self.listed, 'file')} listed"


def write_card(
    store: str | Path | None = None,
    *,
    title: str | None = None,
    license: str | None = None,
    credits: Sequence[str] = (),
) -> Card:
    """Write a data-set card and a list of checksums into a store; `push_store` takes them along.

    title: left out: the folder's name; license: an identifier of the hub's list, such as ``cc-by-4.0``
    credits: a line for each recording's or encoder's source and licence
    returns: where both are; those that were there are replaced
    raises: NotAStore, DamagedStore; StoreError for a URL, or if the disk refuses
    """
    folder = local_folder(store)
    opened = open_store(folder)
    text = _card(opened, title or folder.resolve().stem, license, credits)
    with disk_errors(folder):
        listed = write_checksums(folder)
        replace_file(folder / CARD, text.encode())
    return Card(folder / CARD, folder / CHECKSUMS, listed, text)


def _card(store: Store, title: str, license: str | None, credits: Sequence[str]) -> str:
    lines = list_features(store.path).features
    parts = [
        _header(store, title, license, lines),
        f"# {title}",
        _summary(store, lines),
        "## Features",
        _features(lines),
        "## Clips",
        _clips(store),
        "## Use",
        _use(lines),
        "## Licence and sources",
        _licence(license, credits),
        "## Recipes",
        "A recipe says all that decides the numbers. `emocache info FEATURE` prints it too, with what failed and why.",
        *(_recipe(line) for line in lines),
    ]
    return "\n\n".join(parts) + "\n"


def _header(store: Store, title: str, license: str | None, lines: Sequence[FeatureLine]) -> str:
    from huggingface_hub import DatasetCardData

    modalities = [modality for modality in MODALITIES if any(line.recipe.modality == modality for line in lines)]
    data = DatasetCardData(
        license=license or "unknown",
        pretty_name=title,
        size_categories=next((name for most, name in SIZES if len(store.roster) < most), "n>1M"),
        tags=["emocache", "zarr", "emotion-recognition", "feature-extraction", *modalities],
    )
    return f"---\n{data.to_yaml(line_break=chr(10)).strip()}\n---"


def _summary(store: Store, lines: Sequence[FeatureLine]) -> str:
    size = bytes_text(sum(line.writing.bytes for line in lines))
    return (
        f"An emocache store: {counted(len(lines), 'feature')} of {counted(len(store.roster), 'clip')}, {size}. It "
        "holds numbers that frozen encoders computed, and no media. Any Zarr (version 3) reader opens it."
    )


def _features(lines: Sequence[FeatureLine]) -> str:
    rows = [("feature", "modality", "pooling", "clips", "layers", "dim", "dtype", "size")]
    rows += [
        (
            f"`{line.name}`",
            line.recipe.modality,
            str(line.recipe.fields["pooling"]),
            f"{line.clips:,}",
            layers_text(line.layers) or "none",
            f"{line.dim:,}",
            str(line.recipe.fields["storage_dtype"]),
            bytes_text(line.writing.bytes),
        )
        for line in lines
    ]
    return _table(rows)


def _clips(store: Store) -> str:
    columns = {name for row in store.roster for name in row} - {"clip_id", "keys"}
    said = f"The roster names {counted(len(store.roster), 'clip')}"
    names = ", ".join(f"`{name}`" for name in sorted(columns))
    parts = [f"{said}, with the columns {names}." if columns else f"{said}."]
    labels = Counter(_text(row["label"]) for row in store.roster if row.get("label") is not None)
    if labels and len(labels) <= MOST_LABELS:
        parts.append(_table([("label", "clips"), *((label, f"{clips:,}") for label, clips in sorted(labels.items()))]))
    return "\n\n".join(parts)


def _use(lines: Sequence[FeatureLine]) -> str:
    encoder = lines[0].recipe.encoder if lines else "ENCODER"
    return (
        "```sh\npip install emocache\nemocache pull URL features.zarr\nemocache verify --store features.zarr\n"
        f"emocache fit --head mlp --features {encoder} --store features.zarr\n```\n\n"
        f"`verify` holds what came against `{CHECKSUMS}`, and so does `sha256sum -c {CHECKSUMS}` in the store's folder."
    )


def _licence(license: str | None, credits: Sequence[str]) -> str:
    said = f"Licence: {license}." if license else "No licence was given: ask who shared this before you use it."
    return "\n".join([said, *(["", *(f"- {_text(line)}" for line in credits)] if credits else [])])


def _recipe(line: FeatureLine) -> str:
    fields = "\n".join(f"{key}: {value}" for key, value in flattened(line.recipe.fields).items())
    return f"### {line.name}\n\n```\nfingerprint: {line.recipe.fingerprint}\n{fields.replace('```', '')}\n```"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *body])


def _text(value: Any) -> str:
    """A text from outside in one line of Markdown, without what would be markup."""
    return " ".join(str(value).split()).translate({ord(sign): f"\\{sign}" for sign in "|<>[]`*_"})

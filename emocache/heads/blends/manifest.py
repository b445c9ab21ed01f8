"""`write_blend_labels`: a manifest to extract and fit on, from the challenge's table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emocache.errors import FitError
from emocache.heads.blends.answers import as_text
from emocache.heads.blends.truth import EMOTIONS, read_metadata

if TYPE_CHECKING:
    import pandas as pd


def write_blend_labels(
    metadata: str | Path, out: str | Path, *, media: str | Path | None = None, suffix: str = ".mov"
) -> pd.DataFrame:
    """Write a manifest with soft labels from ``train_metadata.csv``, and return it.

    out: a new ``.csv``: clip_id, fold (as given), speaker (the actor), label (in words), ``soft_<emotion>``; with
        `media`, the folder of the clips, also path, ``<media>/<clip><suffix>``
    raises: FitError if the table cannot be read, or `out` is there already
    """
    import pandas as pd

    known, place = read_metadata(metadata), Path(out)
    if place.exists():
        raise FitError(f"{place}: is there already; name another file with --out, or remove this one")
    table = pd.DataFrame({"clip_id": known.clips})
    if media is not None:
        table["path"] = [str(Path(media).absolute() / f"{clip}{suffix}") for clip in known.clips]
    table["fold"] = known.fold
    table["speaker"] = known.actor
    table["label"] = as_text(known.salience)
    for number, name in enumerate(EMOTIONS):
        table[f"soft_{name}"] = known.soft[:, number]
    try:
        table.to_csv(place, index=False)
    except OSError as error:
        raise FitError(f"{place}: cannot be written: {error.strerror or error}; name another file") from error
    return table

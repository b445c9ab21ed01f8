"""Which emotions a BLEMORE clip blends, and how strongly: from its name, or from ``train_metadata.csv``.

Everywhere in this room a row of saliences is ``(emotion,)`` in percent, in the order of `EMOTIONS`: an emotion that is
absent has 0, a single one 100, a blend 50 and 50, 70 and 30, or 30 and 70.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emocache.errors import FitError, some

EMOTIONS = ("ang", "disg", "fea", "hap", "sad", "neu")
NEUTRAL = EMOTIONS.index("neu")
COLUMNS = ("filename", "fold", "mix", "emotion_1", "emotion_2", "emotion_1_salience", "emotion_2_salience")

_ONE = "|".join(EMOTIONS)
_NAME = re.compile(
    rf"(?P<actor>[A-Za-z0-9]+)_(?:mix_(?P<a>{_ONE})_(?P<b>{_ONE})_(?P<share_a>\d+)_(?P<share_b>\d+)"
    rf"|(?P<single>{_ONE})_(?:int|sit)\d+)_ver\d+"
)

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Blends:
    """What is true of some clips.

    clips: their names; salience: ``(clip, emotion)`` percent, int64
    fold: ``(clip,)``, as given, or None where only names are known
    actor: ``(clip,)``, the first part of the name, or "" where it is built otherwise
    """

    clips: tuple[str, ...]
    salience: IntArray
    fold: tuple[str, ...] | None
    actor: tuple[str, ...]

    @property
    def soft(self) -> NDArray[np.float64]:
        """Soft labels ``(clip, emotion)``: salience / 100."""
        return np.asarray(self.salience / 100)

    def of(self, clips: Sequence[str], where: object) -> IntArray:
        """The saliences of `clips`, in their order, ``(clip, emotion)``.

        raises: FitError if one is not known; where: what to name then
        """
        place = {name: number for number, name in enumerate(self.clips)}
        if unknown := [clip for clip in clips if clip not in place]:
            raise FitError(f"{where}: says nothing of {some(unknown)}; it knows {some(self.clips)}")
        return self.salience[[place[clip] for clip in clips]]


def blends_of_names(names: Sequence[str]) -> Blends:
    """Read clips' names: ``A102_ang_int1_ver1``, ``A303_neu_sit2_ver1``, ``A405_mix_ang_disg_70_30_ver1``.

    A suffix such as ``.mov`` is allowed, and no part of the clip's name.
    raises: FitError if a name is built otherwise
    """
    clips = tuple(map(_without_suffix, names))
    read = [_NAME.fullmatch(clip) for clip in clips]
    if strange := [clip for clip, found in zip(clips, read, strict=True) if found is None]:
        raise FitError(
            f"cannot read emotions from {some(strange)}; expected names such as A102_ang_int1_ver1, "
            "A303_neu_sit2_ver1 or A405_mix_ang_disg_70_30_ver1, or give the challenge's table with --metadata"
        )
    rows, actors = [], []
    for clip, found in zip(clips, read, strict=True):
        assert found is not None  # noqa: S101 (for the type checker; refused above)
        part = found.groupdict()
        shares = {part["single"]: 100} if part["single"] else {part["a"]: part["share_a"], part["b"]: part["share_b"]}
        rows.append(salience_row({str(name): float(share) for name, share in shares.items()}, clip))
        actors.append(str(part["actor"]))
    return Blends(clips, np.array(rows, dtype=np.int64).reshape(-1, len(EMOTIONS)), None, tuple(actors))


def read_metadata(path: str | Path) -> Blends:
    """Read ``train_metadata.csv``: filename, fold, mix, emotion_1, emotion_2, emotion_1_salience, emotion_2_salience.

    raises: FitError if it is not there, lacks a column, names a clip twice, or a row makes no sense
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise FitError(
            f"{path}: cannot be read as a table: {error}; give the challenge's train_metadata.csv"
        ) from error
    if missing := [name for name in COLUMNS if name not in table]:
        raise FitError(f"{path}: lacks {some(missing, 9)}; expected the columns {', '.join(COLUMNS)}")
    if table.empty:
        raise FitError(f"{path}: has columns but no clips; give the challenge's train_metadata.csv")
    clips = tuple(map(_without_suffix, table["filename"]))
    if len(set(clips)) < len(clips):
        twice = next(clip for clip in clips if clips.count(clip) > 1)
        raise FitError(f"{path}: {twice} stands there twice; leave one row")
    rows = [_row_of(dict(row), f"{path}: {clip}") for clip, (_, row) in zip(clips, table.iterrows(), strict=True)]
    actors = tuple(clip.split("_", 1)[0] if _NAME.fullmatch(clip) else "" for clip in clips)
    salience = np.array(rows, dtype=np.int64).reshape(-1, len(EMOTIONS))
    return Blends(clips, salience, tuple(table["fold"]), actors)


def _row_of(row: Mapping[str, str], where: str) -> list[int]:
    second = row["emotion_2"].strip()
    if not second:
        return salience_row({row["emotion_1"].strip(): 100.0}, where)
    try:
        shares = {
            row["emotion_1"].strip(): float(row["emotion_1_salience"]),
            second: float(row["emotion_2_salience"]),
        }
    except ValueError as error:
        raise FitError(f"{where}: a salience is no number ({error}); expected percent, such as 70 and 30") from error
    return salience_row(shares, where)


def salience_row(shares: Mapping[str, float], where: str) -> list[int]:
    """One row of percents from emotion -> share.

    raises: FitError for an unknown emotion, more than two, one that blends with itself, or shares that do not add up
    """
    if unknown := [name for name in shares if name not in EMOTIONS]:
        raise FitError(f"{where}: {some(unknown)} is no emotion of {', '.join(EMOTIONS)}")
    values = [round(share) for share in shares.values()]
    if not 1 <= len(values) <= 2 or min(values) <= 0 or sum(values) != 100:
        raise FitError(f"{where}: saliences {dict(shares)}; expected one emotion of 100, or two that add up to 100")
    return [round(shares.get(name, 0)) for name in EMOTIONS]


def _without_suffix(name: str) -> str:
    return re.sub(r"\.[A-Za-z0-9]{1,5}$", "", str(name).strip())

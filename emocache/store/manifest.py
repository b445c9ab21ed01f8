"""The table of clips: CSV, Parquet, or a folder of media."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from emocache.errors import ManifestError, some
from emocache.spec import Clip

if TYPE_CHECKING:
    import pandas as pd

AUDIO_SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".aif"}
VIDEO_SUFFIXES = {".mp4", ".mpg", ".mpeg", ".avi", ".mkv", ".mov", ".webm", ".flv", ".m4v", ".wmv", ".3gp", ".ts"}
SOURCE_COLUMNS = ("path", "audio", "video", "text")
SPAN_COLUMNS = ("start_s", "end_s")
CHUNK = 1024
"""Rows that are clips at the same time."""
RESERVED = {"keys"}
"""Names that a roster row uses itself."""


@dataclass(frozen=True)
class Manifest:
    """The clips of one table, in its order.

    origin: the table's path or URL, or the folder
    """

    origin: str
    clips: Sequence[Clip]


class TableClips(Sequence[Clip]):
    """The rows of a table as clips, each made when it is asked for: a column takes a tenth of what objects would.

    base: the folder that relative paths are relative to; None where there is none
    """

    def __init__(self, table: pd.DataFrame, base: Path | None, origin: str) -> None:
        self._columns = {str(name): table[name].array for name in table.columns}
        self._count = len(table)
        self._base, self._origin = base, origin

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Clip: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Clip]: ...
    def __getitem__(self, at: int | slice) -> Clip | Sequence[Clip]:
        """One clip, or a tuple of some."""
        if isinstance(at, slice):
            return tuple(self[number] for number in range(*at.indices(self._count)))
        return _table_clip({name: column[at] for name, column in self._columns.items()}, self._base, self._origin)

    def __iter__(self) -> Iterator[Clip]:
        for start in range(0, self._count, CHUNK):
            parts = {name: list(column[start : start + CHUNK]) for name, column in self._columns.items()}
            for values in zip(*parts.values(), strict=True):
                yield _table_clip(dict(zip(parts, values, strict=True)), self._base, self._origin)


def read_manifest(origin: str | Path) -> Manifest:
    """Read a table of clips.

    origin: a ``.csv`` or ``.parquet`` file (a path, or any URL that fsspec opens), or a folder of media. Relative paths
        in a table are relative to it; a CSV's values stay the text that they are (a speaker ``03`` stays ``03``).
    raises: ManifestError if it is missing, has no `clip_id`, names a clip twice, or holds a span that is no span
    """
    path = Path(origin)
    if path.is_dir():
        return Manifest(str(origin), tuple(_folder_clips(path)))
    table = _read_table(str(origin))
    _check_table(table, str(origin))
    base = None if "://" in str(origin) else path.parent
    clips = TableClips(table, base, str(origin))
    for _ in clips:
        pass  # each is made once, so that a row that cannot be used is found now
    return Manifest(str(origin), clips)


def _read_table(origin: str) -> pd.DataFrame:
    import fsspec
    import pandas as pd

    suffix = Path(origin).suffix.lower()
    if suffix not in {".csv", ".parquet"}:
        raise ManifestError(
            f"{origin}: a manifest is a .csv or .parquet file, or a folder of media; found {suffix or 'no suffix'!r}"
        )
    try:
        with fsspec.open(origin, "rb") as file:
            return _read_csv(file) if suffix == ".csv" else pd.read_parquet(file)
    except FileNotFoundError:
        raise ManifestError(
            f"{origin}: no such manifest; write a table with the columns clip_id and path, "
            "or name a folder of media with --clips"
        ) from None
    except pd.errors.EmptyDataError:
        raise ManifestError(f"{origin}: is empty; write a table with the columns clip_id and path") from None
    except (ValueError, OSError) as error:
        raise ManifestError(f"{origin}: cannot be read as {suffix[1:]}: {error}") from error


def _read_csv(file: Any) -> pd.DataFrame:
    """Some rows at a time: a cell is an object of its own until it is put into its column.

    raises: ValueError if the rows have not as many cells as the first line
    """
    import pandas as pd

    advice = "put quotes around a text that holds a comma"
    try:
        with pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig", chunksize=CHUNK) as parts:
            tables = list(parts)
    except pd.errors.ParserError as error:
        raise ValueError(f"{str(error).strip()}; {advice}") from error
    if not isinstance(tables[0].index, pd.RangeIndex):  # pandas took the first cells for the names of rows
        raise ValueError(f"the rows have more cells than there are columns ({', '.join(tables[0].columns)}); {advice}")
    return pd.concat(tables, ignore_index=True)


def _check_table(table: pd.DataFrame, origin: str) -> None:
    columns = [str(column) for column in table.columns]
    if "clip_id" not in columns:
        raise ManifestError(
            f"{origin}: no column clip_id; found {', '.join(columns) or 'no columns'}; "
            "name each clip in a column clip_id"
        )
    if reserved := RESERVED & set(columns):
        raise ManifestError(f"{origin}: the column {some(sorted(reserved))} is reserved; rename it")
    if table.empty:
        raise ManifestError(f"{origin}: the table has no rows; a manifest needs at least one clip")
    names = [_text(value) for value in table["clip_id"]]
    if None in names:
        raise ManifestError(f"{origin}: row {names.index(None) + 1} has an empty clip_id; every clip needs a name")
    twice = [str(name) for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ManifestError(f"{origin}: clip_id stands twice: {some(twice)}; every clip needs a name of its own")


def _table_clip(row: Mapping[str, Any], base: Path | None, origin: str) -> Clip:
    clip_id = str(_text(row["clip_id"]))
    where = f"{origin}: clip {clip_id!r}"
    both = _path(row.get("path"), base, where)
    start_us, end_us = (_microseconds(row.get(name), f"{where}: {name}") for name in SPAN_COLUMNS)
    if start_us is not None and end_us is not None and end_us <= start_us:
        raise ManifestError(f"{where}: end_s {row['end_s']} does not lie behind start_s {row['start_s']}")
    text = row.get("text")
    known = {"clip_id", *SOURCE_COLUMNS, *SPAN_COLUMNS}
    return Clip(
        clip_id,
        audio=_path(row.get("audio"), base, where) or both,
        video=_path(row.get("video"), base, where) or both,
        text=text if isinstance(text, str) else None,
        start_us=start_us,
        end_us=end_us,
        columns={str(name): _plain(value) for name, value in row.items() if name not in known},
    )


def _text(value: Any) -> str | None:
    """A cell as text; None for an empty cell."""
    return None if _is_missing(value) else str(value)


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _path(value: Any, base: Path | None, where: str) -> Path | None:
    text = _text(value)
    if text is None:
        return None
    path = Path(text).expanduser()
    if base is None and not path.is_absolute():
        raise ManifestError(
            f"{where}: {text!r} is relative, and a manifest behind a URL has no folder; write absolute paths"
        )
    return path if base is None else base / path


def _microseconds(value: Any, where: str) -> int | None:
    if _is_missing(value):
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ManifestError(f"{where}: {value!r} is no time in seconds")
    return round(seconds * 1_000_000)


def _plain(value: Any) -> Any:
    """A cell as JSON knows it: text, a number, a list, or None for an empty one."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if _is_missing(value):
        return None
    return value if isinstance(value, (str, int, float, bool, list)) else str(value)


def _folder_clips(folder: Path) -> Iterator[Clip]:
    """Each media file below `folder`; a sound file and a video file of one name are one clip."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(_visible_files(folder)):
        suffix = path.suffix.lower()
        kind = "audio" if suffix in AUDIO_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else None
        if kind is None:
            continue
        clip_id = path.relative_to(folder).with_suffix("").as_posix()
        files = found.setdefault(clip_id, {})
        if kind in files:
            raise ManifestError(
                f"{folder}: {files[kind].name} and {path.name} would both be clip {clip_id!r}; "
                "rename one, or write a clips.csv"
            )
        files[kind] = path
    if not found:
        raise ManifestError(
            f"{folder}: no clips.csv was named and the folder holds no media file; name a manifest with --clips"
        )
    for clip_id, files in found.items():
        # A lone file is sound and picture at once; which of the two it really holds is found when it is decoded.
        yield Clip(clip_id, audio=files.get("audio", files.get("video")), video=files.get("video", files.get("audio")))


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.suffix == ".zarr":
            continue
        if path.is_dir():
            yield from _visible_files(path)
        else:
            yield path

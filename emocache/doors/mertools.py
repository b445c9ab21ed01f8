"""Feature folders of MERTools (MERBench, MER2023 to MER2026): `mertools_labels` reads and writes its labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.doors.door import Incoming, Outgoing, Row
from emocache.doors.mertools_labels import read_labels, write_labels
from emocache.doors.npy import npy_row
from emocache.doors.survey import Rejected, read_row
from emocache.errors import BadOption, DoorError, some
from emocache.spec import MODALITIES, Modality

CONVENTIONS = ("merbench", "mer2023")
LABELS = "label-6way.npz"
ZEROS = "MERTools writes zeros for missing data"

_FOLDER = re.compile(r"(?P<base>.+?)(?P<four>-4)?[-_](?P<kind>UTT|FRA)")
_FAMILIES: dict[Modality, str] = {
    "audio": "hubert|wav2vec|wavlm|whisper|data2vec-audio|emotion2vec|vggish|is09|is10|is13|egemaps",
    "video": "clip|dino|videomae|data2vec-vision|manet|emonet|resnet|senet|eva",
    "text": "bert|xlnet|electra|bloom|llama|baichuan|chatglm|moss|stablelm|opt-|vicuna|alpaca|falcon|pangu|gpt|qwen",
}
"""What the names of MERTools' own features begin with or contain; audio first, for hubert ends on bert."""


@dataclass(frozen=True)
class MerToolsDoor:
    """``<feature>-UTT/<clip>.npy`` (vectors) and ``<feature>-FRA/<clip>.npy`` (frames), with a hyphen or underscore.

    convention: ``merbench`` or ``mer2023``, which decides the numbers of audio models, and which neither name nor shape
    can tell; labels: the path of a ``label-6way.npz``, whose corpora, labels and valences go to the roster
    """

    convention: str = ""
    labels: str = ""

    def open(self, source: Path) -> Incoming:
        """One feature's folder."""
        found = _FOLDER.fullmatch(source.resolve().name)
        if not source.is_dir() or found is None:
            raise DoorError(
                f"{source}: no feature folder of MERTools; name one such as features/chinese-hubert-large-UTT, whose "
                "name ends on UTT (a vector for each clip) or FRA (frames)"
            )
        frames = found["kind"] == "FRA"
        files = _clip_files(source)
        rows = [_row(clip, paths, frames=frames) for clip, paths in files.items()]
        facts = {"feature": found.string, **self._convention(found)}
        return Incoming(
            rows,
            source,
            [path for paths in files.values() for path in paths],
            found["base"] + (found["four"] or ""),
            frames=frames,
            modality=_family(found["base"]),
            pooling="mean",
            facts=facts,
            columns=read_labels(Path(self.labels)) if self.labels else {},
            zeros=ZEROS,
        )

    def _convention(self, found: re.Match[str]) -> dict[str, str]:
        """What the recipe says of the convention.

        raises: BadOption if it must be named, is not known, or is not the one that the folder's name shows
        """
        asked, hyphen = self.convention, found.string[found.end("base")] == "-"
        if asked and asked not in CONVENTIONS:
            raise BadOption(f"--set convention={asked}: choose merbench or mer2023")
        if found["four"]:
            if asked == "merbench":
                raise BadOption(f"--set convention=merbench: {found.string} ends on -4, as mer2023 names text features")
            return {"convention": "mer2023"}
        if not asked and hyphen and _family(found["base"]) in {None, "audio"}:
            raise BadOption(
                f"--set convention: {found.string} may hold the sum of the last four layers (merbench: MERBench, "
                "MER2024 and later) or the last layer alone (mer2023), which neither name nor shape tells; name it, as "
                "in --set convention=merbench"
            )
        return {"convention": asked} if asked else {}

    def write(self, features: Sequence[Outgoing], out: Path) -> Mapping[str, str]:
        """``features/<feature>-UTT`` or ``-FRA`` for each feature, and ``label-6way.npz`` if the roster has labels."""
        places: dict[str, str] = {}
        for outgoing in features:
            outgoing.one_layer("mertools")
            place = f"features/{_folder_name(outgoing)}"
            if place in places.values():
                raise BadOption(f"--features: two of them would be {place}; export them one by one")
            if nested := [clip for clip in outgoing.clips if "/" in clip or len(f"{clip}.npy".encode()) > 255]:
                raise DoorError(
                    f"{outgoing.feature.name}: {some(nested)} cannot name a file in one folder; MERTools has no "
                    "folders below a feature's: rename the clips, or export to npy"
                )
            (out / place).mkdir(parents=True)
            for clip, values in outgoing.rows():
                np.save(out / place / f"{clip}.npy", values[..., 0, :], allow_pickle=False)
            places[outgoing.feature.name] = place
        write_labels(features, out / LABELS)
        return places


def _family(base: str) -> Modality | None:
    """What a feature of MERTools describes, by its name; None if the name is not known."""
    return next((kind for kind in MODALITIES if re.search(_FAMILIES[kind], base.lower())), None)


def _folder_name(outgoing: Outgoing) -> str:
    """The name under which it was imported, else the feature's with an ending."""
    if outgoing.imported.get("format") == "mertools":
        return outgoing.label
    return f"{outgoing.feature.name}-{'FRA' if outgoing.frames else 'UTT'}"


def _clip_files(folder: Path) -> dict[str, list[Path]]:
    """Each clip's files: ``<clip>.npy``, else the files of a folder ``<clip>/`` in sorted order.

    raises: DoorError if there is none
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found.setdefault(path.name, sorted(inside for inside in path.iterdir() if not inside.name.startswith(".")))
        elif path.suffix == ".npy":
            found[path.stem] = [path]
    if not found:
        raise DoorError(f"{folder}: no clip is in it; a feature's folder holds <clip>.npy or folders of npy files")
    return found


def _row(clip: str, paths: Sequence[Path], *, frames: bool) -> Row:
    """One clip, as MERTools reads it: pieces stacked, axes of length 1 left out."""
    pieces = [npy_row(clip, path) for path in paths]
    if faulty := next((piece.fault for piece in pieces if piece.fault), ""):
        return Row(clip, fault=faulty)
    if not pieces:
        return Row(clip, fault=f"{clip}: an empty folder; MERTools would take zeros for it")
    if len({(piece.shape, piece.dtype) for piece in pieces}) > 1:
        return Row(clip, fault=f"{clip}: its files have different shapes or dtypes, and cannot be stacked")
    alone = len(pieces) == 1 and paths[0].suffix == ".npy" and paths[0].stem == clip
    shape = pieces[0].shape if alone else (len(pieces), *pieces[0].shape)
    kept = tuple(size for size in shape if size != 1) or (1,)
    shape = (1, *kept) if frames and len(kept) == 1 else kept
    if len(shape) != (2 if frames else 1):
        wanted = "(time, dim)" if frames else "(dim,)"
        return Row(clip, fault=f"{clip}: shape {kept} where a folder of this name has {wanted}")
    return Row(clip, shape, pieces[0].dtype, partial(_stacked, tuple(pieces), shape))


def _stacked(pieces: Sequence[Row], shape: tuple[int, ...]) -> NDArray[Any]:
    parts = []
    for piece in pieces:
        values = read_row(piece)
        if isinstance(values, Rejected):
            raise DoorError(values.message)
        parts.append(values)
    return np.stack(parts).reshape(shape)

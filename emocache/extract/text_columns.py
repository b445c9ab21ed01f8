"""Text with context: several columns of the manifest joined into the text that an encoder reads.

MMEF-Net encodes labels, keywords and descriptions that language models wrote together with the transcript. Here each of
them is a column, and the template that joins them is part of the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from emocache.errors import BadOption, UnknownName
from emocache.spec import Clip

TRANSCRIPT = "text"
ANSWER = "label"
JOINT = "\n"


@dataclass(frozen=True)
class TextColumns:
    """Which columns make a clip's text, in this order.

    names: the transcript is ``text``; any other is a column of the manifest
    """

    names: tuple[str, ...]

    def recipe(self) -> Mapping[str, Any]:
        """The template: the pieces, each left out where a clip's column is empty, and what joins them."""
        return {"pieces": [_piece(name, f"{{{name}}}") for name in self.names], "joint": JOINT}

    def joined(self, clips: Sequence[Clip]) -> list[Clip]:
        """The same clips with the joined text in the place of the transcript.

        A clip whose columns are all empty has an empty text, which text encoders refuse by name.

        raises: UnknownName if the manifest has no column of a name
        """
        self._check(clips)
        return [replace(clip, text=self._join(clip)) for clip in clips]

    def _check(self, clips: Sequence[Clip]) -> None:
        known = {name for clip in clips for name in clip.columns}
        if any(clip.text is not None for clip in clips):
            known.add(TRANSCRIPT)
        for name in self.names:
            if name not in known:
                raise UnknownName("--text-columns: column", name, known - {ANSWER})

    def _join(self, clip: Clip) -> str:
        values = {**clip.columns, TRANSCRIPT: clip.text}
        texts = {name: _cell_text(values.get(name)) for name in self.names}
        return JOINT.join(_piece(name, text) for name, text in texts.items() if text)


def parse_text_columns(text: str) -> TextColumns:
    """Read columns as a user writes them: ``text,keywords,description``.

    raises: BadOption for an empty name, one that stands twice, or the column that heads are to predict
    """
    names = tuple(name.strip() for name in text.split(","))
    if "" in names or len(set(names)) != len(names):
        raise BadOption(f"--text-columns {text!r}: name each column once, as in text,keywords,description")
    if ANSWER in names:
        raise BadOption(
            f"--text-columns {text!r}: {ANSWER} is what heads are to predict, and a feature made of it would give the "
            "answer away; labels that a language model wrote belong in a column of another name"
        )
    return TextColumns(names)


def _piece(name: str, text: str) -> str:
    """The transcript bare, any other column behind its name."""
    return text if name == TRANSCRIPT else f"{name}: {text}"


def _cell_text(value: Any) -> str:
    """A cell as text without outer space; the items of a list (Parquet) behind commas; empty for an empty cell."""
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, map(_cell_text, value)))
    return "" if value is None else str(value).strip()

"""The text of a clip, as the manifest has it."""

from __future__ import annotations

from emocache.errors import MediaError
from emocache.spec import Source


def visible_text(source: Source) -> str:
    """The clip's text, unchanged.

    raises: MediaError for a text without a visible character, or one that is not Unicode
    """
    text = source.text or ""
    if not text.strip():
        raise MediaError(
            f"the clip's text is empty (found {source.text!r}), expected a transcript; "
            "fill the manifest's `text` column (or those of --text-columns), or leave the clip out of text features"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MediaError(
            f"the clip's text is not Unicode: {text[error.start]!a} at character {error.start}; "
            "write the manifest again as UTF-8"
        ) from error
    return text

"""What the command line prints, whoever wrote it: names and reasons from a store cannot steer the terminal."""

from __future__ import annotations

import re

import typer

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""All controls but tab and new line, and those that turn the direction of what follows."""


def say(text: str, *, err: bool = False) -> None:
    """Print a text, with the controls that came in with it made visible. err: to standard error"""
    typer.echo(printable(text), err=err)


def printable(text: str) -> str:
    r"""The text with its controls written out: ``\x1b`` for an escape, ``\u202e`` for a turn to the left."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)

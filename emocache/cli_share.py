"""The commands that share a store: each re-says one public function. `cli.py` puts them on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

import emocache
from emocache.cli_store import EXIT_FAULTS, StorePath
from emocache.cli_text import say

Here = Annotated[Path, typer.Argument(metavar="STORE", help="The store's folder on this machine.")]
There = Annotated[
    str,
    typer.Argument(metavar="URL", help="s3://, gs://, az://, ssh://, hf:// or a folder: see docs/cli.md."),
]
Features = Annotated[
    list[str] | None,
    typer.Option("--features", metavar="NAME", help="A feature; may be repeated.  [default: all]"),
]
Layers = Annotated[str | None, typer.Option(metavar="RANGE", help="Only these layers: 16-21, 6,8,10.  [default: all]")]
Clips = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="Only the clips of a manifest, of a .txt with a clip id a line, or a,b,c.  [default: all]"
    ),
]
Anonymize = Annotated[
    Path | None,
    typer.Option(
        metavar="KEYFILE",
        help="Let hashes travel for clip ids, speakers and contents. The file holds the key, and is made if it is not "
        "there: keep it to yourself.",
    ),
]
KeepColumns = Annotated[
    list[str] | None,
    typer.Option("--keep-column", metavar="NAME", help="With --anonymize: a text column that may be seen; repeatable."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would travel, and move nothing.")]


def push(
    store: Here,
    url: There,
    features: Features = None,
    layers: Layers = None,
    clips: Clips = None,
    anonymize: Anonymize = None,
    keep_column: KeepColumns = None,
    dry_run: DryRun = False,
) -> None:
    """Put up what a place lacks of a store; the same command goes on where an interrupted one stopped."""
    done = emocache.push_store(
        store,
        url,
        features=features or None,
        layers=layers,
        clips=clips,
        anonymize=anonymize,
        keep_columns=keep_column or (),
        dry_run=dry_run,
    )
    _tell(done, done.damaged)


def pull(
    url: There,
    store: Here,
    features: Features = None,
    layers: Layers = None,
    clips: Clips = None,
    dry_run: DryRun = False,
) -> None:
    """Bring into a store what it lacks of one at a place, each file proved; goes on where it was interrupted."""
    done = emocache.pull_store(url, store, features=features or None, layers=layers, clips=clips, dry_run=dry_run)
    _tell(done, done.damaged)


def sync(
    store: Here,
    url: There,
    features: Features = None,
    layers: Layers = None,
    clips: Clips = None,
    dry_run: DryRun = False,
) -> None:
    """Pull, then push: both sides hold what either held."""
    done = emocache.sync_store(store, url, features=features or None, layers=layers, clips=clips, dry_run=dry_run)
    _tell(done, [*done.pulled.damaged, *done.pushed.damaged])


def card(
    store: StorePath = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="[default: the folder's name]")] = None,
    license_: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="Of the hub's list: cc-by-4.0, cc0-1.0, other.")
    ] = None,
    credit: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="The source and licence of recordings or an encoder; may be repeated."),
    ] = None,
) -> None:
    """Write a data-set card and a list of checksums into a store; push takes them along."""
    say(str(emocache.write_card(store, title=title, license=license_, credits=credit or ())))


def _tell(done: object, damaged: list[str]) -> None:
    say(str(done))
    if damaged:
        raise typer.Exit(EXIT_FAULTS)


SHARE_COMMANDS: Mapping[str, Callable[..., None]] = {"push": push, "pull": pull, "sync": sync, "card": card}
"""Command to function, in the order of the help."""

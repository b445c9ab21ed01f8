"""The commands that look after a store: each re-says one public function. `cli.py` puts them on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

import emocache
from emocache.cli_text import say

EXIT_FAULTS = 1
"""Found faults: the same code as an error, so that a script stops."""

StorePath = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="The store's folder, or to read it its URL.  [default: $EMOCACHE_STORE, else features.zarr]",
    ),
]
"""Text, since a `Path` takes a / out of a URL."""
FeatureName = Annotated[
    str, typer.Argument(metavar="FEATURE", help="A feature, its encoder, or the beginning of its name.")
]


def list_(store: StorePath = None) -> None:
    """List a store's features: clips, layers, pooling, size, who wrote them and when."""
    say(str(emocache.list_features(store)))


def info(feature: FeatureName, store: StorePath = None) -> None:
    """Tell all there is to know of a feature: the recipe, how many clips each layer has, what failed."""
    say(str(emocache.describe_feature(feature, store)))


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A feature of the store.")],
    b: Annotated[str, typer.Argument(metavar="B", help="A feature of the same store, or of --other.")],
    store: StorePath = None,
    other: Annotated[
        str | None, typer.Option(metavar="PATH", help="The store where B is, or its URL.  [default: the same store]")
    ] = None,
) -> None:
    """Tell what differs between the recipes of two features."""
    say(str(emocache.diff_features(a, b, store, other)))


def ledger(
    feature: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A feature; may be repeated.  [default: all]")
    ] = None,
    store: StorePath = None,
    everything: Annotated[
        bool, typer.Option("--all", help="List the clips that succeeded too, with their facts.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
) -> None:
    """List the clips that failed, and why."""
    table = emocache.read_ledger(feature or None, store, everything=everything)
    if as_csv:
        typer.echo(table.csv(), nl=False, color=True)  # as it is: for another program
    else:
        say(str(table))


def export_array(
    feature: FeatureName,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="A new .npy file (its rows are named in a .json beside it) or .zarr array."),
    ],
    layers: Annotated[
        str | None, typer.Option(metavar="RANGE", help="Layers: 16-21, 6,8,10.  [default: all that are held]")
    ] = None,
    store: StorePath = None,
) -> None:
    """Write a feature as one plain array for tools that know nothing of emocache."""
    say(str(emocache.export_array(feature, out, layers=layers, store=store)))


def merge(
    sources: Annotated[list[str], typer.Argument(metavar="STORE...", help="The stores to take from.")],
    into: Annotated[str, typer.Option(metavar="PATH", help="The store to merge into, made if need be.")],
) -> None:
    """Copy everything that some stores hold into one; what it holds already is not copied again."""
    done = emocache.merge_stores(sources, into)
    say(str(done))
    if done.damaged:
        raise typer.Exit(EXIT_FAULTS)


def verify(
    store: StorePath = None,
    quick: Annotated[bool, typer.Option("--quick", help="Check that files are there and have their length.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop what is damaged, so that extract computes it again.")
    ] = False,
) -> None:
    """Check every byte of a store; the same command goes on where an interrupted check stopped."""
    findings = emocache.verify_store(store, quick=quick, repair=repair)
    say(str(findings))
    if findings.faults:
        raise typer.Exit(EXIT_FAULTS)


def compact(
    feature: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A feature; may be repeated.  [default: all]")
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            metavar="CODEC", help="blosc or zstd: smaller by some percent, but slower to read. none: unpack again."
        ),
    ] = None,
    store: StorePath = None,
) -> None:
    """Join small segments into large ones, which open and read faster; gc deletes the small ones later."""
    say(str(emocache.compact_store(store, features=feature or None, codec=codec)))


def gc(
    older_than: Annotated[str, typer.Option(metavar="AGE", help="Spare what is younger: 90s, 30m, 12h, 7d.")] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
    store: StorePath = None,
) -> None:
    """Delete what no reader needs: superseded segments, unfinished ones of writers that died, old snapshots."""
    say(str(emocache.collect_garbage(store, older_than=older_than, dry_run=dry_run)))


STORE_COMMANDS: Mapping[str, Callable[..., None]] = {
    "ls": list_,
    "info": info,
    "ledger": ledger,
    "diff": diff,
    "export-array": export_array,
    "merge": merge,
    "verify": verify,
    "compact": compact,
    "gc": gc,
}
"""Command to function, in the order of the help."""

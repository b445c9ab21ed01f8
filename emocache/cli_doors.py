"""The commands that take features from other tools and give them to them: each re-says one public function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

import emocache
from emocache.cli_store import StorePath
from emocache.cli_text import say

EXIT_SOME_FAILED = 3
Door = Annotated[str, typer.Argument(metavar="FORMAT", help="Whose files: mertools, npz, table, ... (docs/doors.md).")]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the format; may be repeated."),
]


def import_(
    door: Door,
    source: Annotated[Path, typer.Argument(metavar="PATH", help="The file or folder that holds the features.")],
    modality: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="audio, video or text.  [default: as the files say, where they do]"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call the feature.  [default: after the file]")
    ] = None,
    clips: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="A manifest: the clips to take, their labels, and their media if here."),
    ] = None,
    store: StorePath = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="DTYPE", help="Round to float32 or float16.  [default: as the numbers are]"),
    ] = None,
    keep_zeros: Annotated[
        bool, typer.Option("--keep-zeros", help="Take rows of zeros for data where the tool writes them for gaps.")
    ] = False,
    setting: Setting = None,
) -> None:
    """Take the features that another tool computed into a store, with where they came from."""
    done = emocache.import_features(
        door,
        source,
        modality=modality,
        name=name,
        clips=clips,
        store=store,
        storage=storage,
        keep_zeros=keep_zeros,
        settings=setting or (),
    )
    say(str(done))
    if done.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def export(
    door: Door,
    features: Annotated[
        list[str], typer.Argument(metavar="FEATURE...", help="Features, their encoders, or beginnings of names.")
    ],
    out: Annotated[Path, typer.Option(metavar="PATH", help="The new file or folder.")],
    layers: Annotated[
        str | None, typer.Option(metavar="RANGE", help="Layers: 16-21, 6,8,10.  [default: all that are held]")
    ] = None,
    clips: Annotated[
        str | None, typer.Option(metavar="PATH", help="A manifest of the clips to write.  [default: all]")
    ] = None,
    store: StorePath = None,
    setting: Setting = None,
) -> None:
    """Write features as the files of another tool; clips that are not held stay missing and are named."""
    done = emocache.export_features(
        door, features, out, layers=layers, clips=clips, store=store, settings=setting or ()
    )
    say(str(done))


def submit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that emocache fit or fuse left.")],
    test: Annotated[str, typer.Option(metavar="PATH", help="A manifest of the clips to label.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table to write, a new .csv.")] = Path("submission.csv"),
    store: StorePath = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
) -> None:
    """Label new clips and write name,discrete, as the MER challenges take it; for BLEMORE see blend."""
    done = emocache.write_submission(run, test, out, store=store, device=device)
    say(str(done))
    if done.missing:
        raise typer.Exit(EXIT_SOME_FAILED)


DOOR_COMMANDS: Mapping[str, Callable[..., None]] = {"import": import_, "export": export, "submit": submit}
"""Command to function, in the order of the help."""

"""The commands that make runs of runs, and labels: each re-says one public function. `cli.py` puts them on the command
line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

import emocache
from emocache.cli_store import StorePath

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that emocache fit left.")]
Seed = Annotated[int, typer.Option(help="Decides every random choice.")]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The new run's folder.  [default: a new one below runs/]")
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")]


def fuse(
    runs: Runs,
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="What the weights maximise: waf, accuracy, uar or macro_f1.")
    ] = "waf",
    test: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A manifest of other clips with labels, to score.")
    ] = None,
    store: StorePath = None,
    seed: Seed = 0,
    out: Out = None,
    device: Device = "auto",
) -> None:
    """Weigh runs against each other by their out-of-fold probabilities; nested folds give the honest score."""
    fused = emocache.fuse_runs(runs, metric=metric, seed=seed, out=out, test=test, store=store, device=device)
    typer.echo(fused.summary())


HEAD_COMMANDS: Mapping[str, Callable[..., None]] = {
    "fuse": fuse,
}
"""Command to function, in the order of the help."""

"""Options that several commands take, each with its one text for the help."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

Features = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FEATURE[:LAYERS]",
        help="A feature, with layers if wanted: hubert-large:16-21; may be repeated.  [default: all]",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option("--clips", metavar="PATH", help="A manifest with other labels.  [default: the labels in the store]"),
]
Task = Annotated[
    str, typer.Option(metavar="TASK", help="label, soft (distributions over classes) or dimensional (values).")
]
Targets = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMNS",
        help="The manifest's columns to learn.  [default: label; soft_<class>; valence, arousal, dominance]",
    ),
]
FoldRule = Annotated[
    str | None,
    typer.Option(
        metavar="PROTOCOL",
        help="speaker, speaker:K, loso, K, given or given:K.  [default: speaker where there are speakers, else 5]",
    ),
]
Seed = Annotated[int, typer.Option(help="Decides every random choice.")]
Seeds = Annotated[int, typer.Option(help="Train that many times on the same folds; scores are the mean.")]
_NORMALIZE = "Standardise by training folds (global), by speaker, or not (none)."
Normalize = Annotated[str, typer.Option(metavar="HOW", help=_NORMALIZE)]
NormalizeAsHead = Annotated[
    str | None, typer.Option("--normalize", metavar="HOW", help=f"{_NORMALIZE}  [default: as the head wants]")
]
MixLayers = Annotated[
    str, typer.Option(metavar="HOW", help="Several layers enter as their mean, concat, or learned weights.")
]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the head: dropout=0.5; may be repeated."),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")]
RunFolder = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The run's folder.  [default: a new one below runs/]")
]


def columns(text: str | None) -> Sequence[str] | None:
    """``a, b`` as ``["a", "b"]``."""
    return None if text is None else [name.strip() for name in text.split(",")]

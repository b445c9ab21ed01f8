"""`emocache fit`: the options of a fit, as one call of the public face."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import emocache
from emocache.cli_store import StorePath


def fit(
    head: Annotated[
        str, typer.Option(metavar="NAME", help="The head to fit: linear, mlp, attention, cross-attention, amhf, ...")
    ] = "mlp",
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FEATURE[:LAYERS]",
            help="A feature, with layers if wanted: hubert-large:16-21; may be repeated.  [default: all]",
        ),
    ] = None,
    clips: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A manifest with other labels.  [default: the labels in the store]"),
    ] = None,
    store: StorePath = None,
    task: Annotated[
        str, typer.Option(metavar="TASK", help="label, soft (distributions over classes) or dimensional (values).")
    ] = "label",
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMNS",
            help="The manifest's columns to learn.  [default: label; soft_<class>; valence, arousal, dominance]",
        ),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            metavar="PROTOCOL",
            help="speaker, speaker:K, loso, K, given or given:K.  [default: speaker where there are speakers, else 5]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides every random choice.")] = 0,
    seeds: Annotated[int, typer.Option(help="Train that many times on the same folds; scores are the mean.")] = 1,
    normalize: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="Standardise by training folds (global), by speaker, or not (none).  [default: as the head wants]",
        ),
    ] = None,
    mix_layers: Annotated[
        str, typer.Option(metavar="HOW", help="Several layers enter as their mean, concat, or learned weights.")
    ] = "mean",
    hidden: Annotated[
        str | None, typer.Option(metavar="WIDTHS", help="The head's hidden layers, such as 512 or 1024,512.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="COMPONENT", help="Leave a component of the head out (see amhf); may be repeated."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the head: dropout=0.5; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder.  [default: a new one below runs/]")
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
) -> None:
    """Fit a head on a store's features, fold by fold, and leave a run: scores, out-of-fold probabilities, weights."""
    run = emocache.fit_head(
        store,
        head,
        features=features or None,
        clips=clips,
        task=task,
        targets=None if targets is None else [column.strip() for column in targets.split(",")],
        folds=folds,
        seed=seed,
        seeds=seeds,
        normalize=normalize,
        mix_layers=mix_layers,
        settings=[
            *([] if hidden is None else [f"hidden={hidden}"]),
            *([f"without={','.join(without)}"] if without else []),
            *(setting or []),
        ],
        out=out,
        device=device,
    )
    typer.echo(run.summary())

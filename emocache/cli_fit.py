"""`emocache fit` and `emocache ablate`: the options of a fit, as one call of the public face."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import emocache
from emocache.cli_options import (
    Device,
    Features,
    FoldRule,
    Labels,
    MixLayers,
    NormalizeAsHead,
    RunFolder,
    Seed,
    Seeds,
    Setting,
    Targets,
    Task,
    columns,
)
from emocache.cli_store import StorePath
from emocache.cli_text import say


def fit(
    head: Annotated[
        str, typer.Option(metavar="NAME", help="The head to fit: linear, mlp, attention, cross-attention, amhf, ...")
    ] = "mlp",
    features: Features = None,
    clips: Labels = None,
    store: StorePath = None,
    task: Task = "label",
    targets: Targets = None,
    folds: FoldRule = None,
    seed: Seed = 0,
    seeds: Seeds = 1,
    normalize: NormalizeAsHead = None,
    mix_layers: MixLayers = "mean",
    hidden: Annotated[
        str | None, typer.Option(metavar="WIDTHS", help="The head's hidden layers, such as 512 or 1024,512.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="COMPONENT", help="Leave a component of the head out (see amhf); may be repeated."),
    ] = None,
    setting: Setting = None,
    out: RunFolder = None,
    device: Device = "auto",
) -> None:
    """Fit a head on a store's features, fold by fold, and leave a run: scores, out-of-fold probabilities, weights."""
    run = emocache.fit_head(
        store,
        head,
        features=features or None,
        clips=clips,
        task=task,
        targets=columns(targets),
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
    say(run.summary())


def ablate(
    head: Annotated[str, typer.Option(metavar="NAME", help="The head to take apart.")] = "amhf",
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="COMPONENT", help="Only this component; may be repeated.  [default: each of the head's]"),
    ] = None,
    subsets: Annotated[bool, typer.Option(help="Train on each subset of modalities too.")] = True,
    features: Features = None,
    clips: Labels = None,
    store: StorePath = None,
    task: Task = "label",
    targets: Targets = None,
    folds: FoldRule = None,
    seed: Seed = 0,
    seeds: Seeds = 1,
    normalize: NormalizeAsHead = None,
    mix_layers: MixLayers = "mean",
    setting: Setting = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="A JSON file for all scores.")] = None,
    device: Device = "auto",
) -> None:
    """Train a head whole, without each of its components and on each subset of modalities, and print one table."""
    ablation = emocache.ablate_head(
        store,
        head,
        features=features or None,
        clips=clips,
        task=task,
        targets=columns(targets),
        folds=folds,
        seed=seed,
        seeds=seeds,
        normalize=normalize,
        mix_layers=mix_layers,
        settings=setting or [],
        without=without or None,
        subsets=subsets,
        out=out,
        device=device,
    )
    say(str(ablation))

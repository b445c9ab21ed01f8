"""The commands that make runs of runs, and labels: each re-says one public function. `cli.py` puts them on the command
line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

import emocache
from emocache.cli_options import Device, Features, FoldRule, Labels, Normalize, RunFolder, Seed
from emocache.cli_store import StorePath
from emocache.cli_text import say

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that emocache fit left.")]


def fuse(
    runs: Runs,
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="What the weights maximise: waf, accuracy, uar or macro_f1.")
    ] = "waf",
    folds: Annotated[
        str | None,
        typer.Option(metavar="PROTOCOL", help="Nested folds: speaker, speaker:K, loso or K.  [default: the runs' own]"),
    ] = None,
    test: Annotated[
        str | None, typer.Option(metavar="PATH", help="A manifest of other clips with labels, to score.")
    ] = None,
    store: StorePath = None,
    seed: Seed = 0,
    out: RunFolder = None,
    device: Device = "auto",
) -> None:
    """Weigh runs against each other by their out-of-fold probabilities; nested folds give the honest score."""
    fused = emocache.fuse_runs(
        runs, metric=metric, folds=folds, seed=seed, out=out, test=test, store=store, device=device
    )
    say(fused.summary())


def blend_labels(
    metadata: Annotated[Path, typer.Argument(metavar="METADATA", help="The challenge's train_metadata.csv.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The manifest to write, a new .csv.")],
    media: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder of the clips, for the column path.")
    ] = None,
    suffix: Annotated[str, typer.Option(metavar="SUFFIX", help="Of the clips' files.")] = ".mov",
) -> None:
    """Make a manifest with soft labels, folds and actors from BLEMORE's table."""
    table = emocache.write_blend_labels(metadata, out, media=media, suffix=suffix)
    say(f"{len(table)} clips by {table['speaker'].nunique()} actors in {table['fold'].nunique()} folds: {out}")


def blend(
    runs: Runs,
    metadata: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="The challenge's train_metadata.csv.  [default: the clips' names]"),
    ] = None,
    search: Annotated[
        str, typer.Option(metavar="HOW", help="Thresholds: exact, or grid (the challenge's 20 x 20 values).")
    ] = "exact",
    salience: Annotated[
        str, typer.Option(metavar="HOW", help="The submission by thresholds, or continuous: a regression without.")
    ] = "thresholds",
    test: Annotated[
        str | None, typer.Option(metavar="PATH", help="A manifest of clips to write submission.json for.")
    ] = None,
    suffix: Annotated[str, typer.Option(metavar="SUFFIX", help="Of the clips' names in the submission.")] = ".mov",
    store: StorePath = None,
    seed: Seed = 0,
    out: RunFolder = None,
    device: Device = "auto",
) -> None:
    """Turn runs on the six BLEMORE emotions into blends with relative salience: weights, thresholds, honest scores."""
    done = emocache.blend_runs(
        runs,
        metadata=metadata,
        search=search,
        salience=salience,
        seed=seed,
        out=out,
        test=test,
        store=store,
        suffix=suffix,
        device=device,
    )
    say(done.summary())


def vote(
    runs: Runs,
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="What runs are ranked by: waf, accuracy, uar or macro_f1.")
    ] = "waf",
    seed: Seed = 0,
    out: RunFolder = None,
) -> None:
    """Let runs vote: the most frequent class; in a tie the last-ranked run is dropped until there is none."""
    say(emocache.vote_runs(runs, metric=metric, seed=seed, out=out).summary())


def refine(
    features: Features = None,
    labels_from: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="A column of the manifest that votes too; may be repeated."),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A weak classifier; may be repeated.  [default: linear and svm-ensemble]"),
    ] = None,
    clips: Labels = None,
    store: StorePath = None,
    folds: FoldRule = None,
    normalize: Normalize = "global",
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table to write, a new .csv.")] = Path("refined.csv"),
    device: Device = "auto",
) -> None:
    """Vote on labels with weak classifiers and other label columns; mark for review what nobody agrees with."""
    done = emocache.refine_labels(
        store,
        features=features or None,
        clips=clips,
        labels_from=labels_from or (),
        **({"heads": head} if head else {}),
        folds=folds,
        normalize=normalize,
        seed=seed,
        out=out,
        device=device,
    )
    say(done.summary())


def mine(
    group: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FEATURE[,FEATURE]",
            help="What one of the four learners reads; four times.  [default: four random halves of all columns]",
        ),
    ] = None,
    head: Annotated[str, typer.Option(metavar="NAME", help="The learners' head.")] = "linear",
    rounds: Annotated[int, typer.Option(help="At most so many rounds.")] = 3,
    agree: Annotated[int, typer.Option(help="How many of the four must agree.")] = 3,
    clips: Labels = None,
    store: StorePath = None,
    normalize: Normalize = "global",
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table to write, a new .csv.")] = Path("mined.csv"),
    device: Device = "auto",
) -> None:
    """Give labels to unlabelled clips where learners on different features agree, in rounds, while the score holds."""
    done = emocache.mine_labels(
        store,
        groups=group or None,
        clips=clips,
        head=head,
        rounds=rounds,
        agree=agree,
        normalize=normalize,
        seed=seed,
        out=out,
        device=device,
    )
    say(done.summary())


HEAD_COMMANDS: Mapping[str, Callable[..., None]] = {
    "fuse": fuse,
    "blend-labels": blend_labels,
    "blend": blend,
    "vote": vote,
    "refine": refine,
    "mine": mine,
}
"""Command to function, in the order of the help."""

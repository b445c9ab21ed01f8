"""The command line: each command re-says one public function; one place turns errors into exit codes.

0: all done. 1: an error, nothing written by it. 2: wrong usage. 3: finished, but some clips failed. 130: interrupted.
"""

from __future__ import annotations

import functools
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn, ParamSpec

import typer

import emocache
from emocache.cli_doors import DOOR_COMMANDS
from emocache.cli_fit import ablate, fit
from emocache.cli_heads import HEAD_COMMANDS
from emocache.cli_options import Device
from emocache.cli_share import SHARE_COMMANDS
from emocache.cli_store import STORE_COMMANDS, StorePath
from emocache.cli_text import say
from emocache.errors import AmbiguousName, BadOption, EmocacheError, UnknownName

EXIT_ERROR, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 1, 2, 3, 130
P = ParamSpec("P")

app = typer.Typer(
    name="emocache",
    help="A feature-extraction cache and lightweight head trainer for multimodal emotion recognition.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line; a SIGTERM ends a command as Ctrl-C does: finished work is committed first."""
    # Not whatever SIGINT does now: a shell starts background jobs with SIGINT ignored, and SIGTERM must still end them.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()


def _command(function: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors of a command into a message and an exit code."""

    @functools.wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        _show_log()
        try:
            function(*args, **kwargs)
        except (BadOption, UnknownName, AmbiguousName) as error:
            _stop(error, EXIT_USAGE)
        except EmocacheError as error:
            _stop(error, EXIT_ERROR)
        except KeyboardInterrupt:
            say("interrupted: what was committed stays; the same command does the rest", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return told


class _Echo(logging.Handler):
    """Shows what the package logs, on standard error, as it is."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        say(self.format(record), err=True)


def _show_log() -> None:
    log = logging.getLogger("emocache")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _Echo) for handler in log.handlers):
        log.addHandler(_Echo())


def _stop(error: EmocacheError, code: int) -> NoReturn:
    notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", []))
    say(f"error: {error}{notes}", err=True)
    raise typer.Exit(code) from None


def _version(wanted: bool) -> None:
    if wanted:
        say(f"emocache {emocache.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A feature-extraction cache and lightweight head trainer for multimodal emotion recognition."""


Clips = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="The manifest (.csv, .parquet) or a folder of media.  [default: clips.csv, else this folder]",
    ),
]


@app.command()
@_command
def extract(
    encoder: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[@VIEW][:LAYERS]",
            help="An encoder's name (see: emocache encoders), a model's id on the hub (org/name) or a local folder; "
            "may be repeated.",
        ),
    ],
    layers: Annotated[
        str, typer.Option(metavar="RANGE", help="Layers: 16-21, 6,8,10, -4: (the last four) or all.")
    ] = "all",
    pool: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POOLING",
            help="mean, stats7, segments:K, time, tokens or tokens:N; may be repeated.  [default: mean]",
        ),
    ] = None,
    clips: Clips = None,
    store: StorePath = None,
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="Compute dtype: float32, bfloat16, float16 or auto.")
    ] = "float32",
    storage: Annotated[str, typer.Option(metavar="DTYPE", help="Stored dtype: float32 or float16.")] = "float32",
    weights: Annotated[Path | None, typer.Option(metavar="DIR", help="A local folder of the pretrained model.")] = None,
    text_columns: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Columns that encoders of text read, joined.  [default: text]"),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Longer sound is cut into windows that overlap.  [default: 30]"),
    ] = None,
    convention: Annotated[
        str | None, typer.Option(metavar="NAME", help="The numbers of another system: merbench or mer2023.")
    ] = None,
    fps: Annotated[
        str | None, typer.Option(metavar="RATE", help="Frames a second of a video: 4, 1/2.  [default: 4]")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="That many frames of each video, evenly spread.")
    ] = None,
    grid: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="For the view @grid: K x K frames in one picture.")
    ] = None,
    per_frame: Annotated[
        str | None, typer.Option(metavar="WHAT", help="For image models: cls, mean (of the patches) or patches.")
    ] = None,
    face_detector: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="For encoders of faces: mediapipe or mtcnn.  [default: mediapipe]"),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the Python files that come with a model's weights.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding processes.  [default: one per core, at most 4]")
    ] = None,
    clip_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="A clip that takes longer to decode fails.")
    ] = 600.0,
    part: Annotated[
        str, typer.Option(metavar="I/N", help="2/4 does the second quarter of the work: share it out.")
    ] = "1/1",
    keep_text: Annotated[bool, typer.Option("--keep-text", help="Let transcripts travel in the store.")] = False,
    self_check: Annotated[
        bool, typer.Option("--self-check", help="First compare some clips alone and in a batch.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Go on where the features will not fit on the disk.")] = False,
) -> None:
    """Run encoders over clips and keep the features; what the store holds is not computed again."""
    extraction = emocache.extract_features(
        encoder,
        layers=layers,
        pool=pool or "mean",
        clips=clips,
        store=store,
        device=device,
        dtype=dtype,
        storage=storage,
        weights=weights,
        text_columns=text_columns,
        workers=workers,
        clip_timeout_s=clip_timeout,
        part=_part(part),
        keep_text=keep_text,
        self_check=self_check,
        yes=yes,
        max_seconds=max_seconds,
        convention=convention,
        fps=fps,
        frames=frames,
        grid=grid,
        per_frame=per_frame,
        face_detector=face_detector,
        trust_remote_code=trust_remote_code or None,
    )
    say(str(extraction))
    if extraction.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise BadOption(f"--part {text!r}: write the part and the number of parts, as in 2/4")
    return int(index), int(count)


app.command()(_command(fit))


@app.command()
@_command
def encoders() -> None:
    """List the encoders: modality, layers, dimension, download size, and whether the weights are here."""
    rows = [("encoder", "modality", "layers", "dim", "download", "weights here")]
    for card in emocache.list_encoders().values():
        if not card.dim:
            rows.append((card.name, card.modality, "its own", "its own", "its own", "--weights DIR"))
            continue
        layers = f"0-{card.depth}" if card.depth else "0"
        size = f"{card.download_mb} MB" if card.download_mb else "none"
        rows.append((card.name, card.modality, layers, str(card.dim), size, "yes" if card.weights_here() else "no"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
@_command
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder for the demo's clips, store and runs.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(help="Decides the clips and the folds.")] = 0,
) -> None:
    """Do the main job on clips that the demo makes itself: extract three modalities, fit heads, compare them."""
    from emocache.demo.run import run_demo

    say(run_demo(out, seed=seed))


for _name, _function in {
    "ablate": ablate,
    **HEAD_COMMANDS,
    **STORE_COMMANDS,
    **SHARE_COMMANDS,
    **DOOR_COMMANDS,
}.items():
    app.command(_name)(_command(_function))


if __name__ == "__main__":
    main()

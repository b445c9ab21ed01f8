"""`emocache demo`: the main job from end to end, on clips that the demo makes itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import emocache
from emocache.demo.clips import make_clips
from emocache.errors import BadOption

log = logging.getLogger("emocache")

STEPS: Mapping[str, Mapping[str, Any]] = {
    "prosody": {"pool": "stats7"},
    "face-hog": {"pool": "mean", "face_detector": "mtcnn"},  # MTCNN brings its weights with its package
    "char-ngram": {"pool": "mean"},
}
"""The encoders that need no download, one a modality, and how they are pooled."""
MADE_WITH = "made-with-seed"


@dataclass(frozen=True)
class Score:
    """One line of the demo's table: a head on some features, its metrics and their 95 % intervals."""

    head: str
    features: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, Any]
    path: Path


def run_demo(out: Path, *, seed: int = 0) -> str:
    """Make clips, extract three modalities, fit heads on each and on all, and tell what came of it.

    out: the folder for everything; a demo that is already there is taken up where it stopped
    returns: a table of scores and where everything lies, for a person
    raises: BadOption if `out` holds something else, or a demo of another seed
    """
    started = time.monotonic()
    _claim(out, seed)
    clips = _clips(out, seed)
    store = out / "features.zarr"
    for encoder, options in STEPS.items():
        log.info("%s", emocache.extract_features(encoder, clips=clips, store=store, **options))
    scores = [_fit(out, store, "mlp", name) for name in STEPS]
    scores += [_fit(out, store, head, "all") for head in ("linear", "mlp")]
    return "\n".join([*_table(scores), "", *_places(out, clips, store, time.monotonic() - started)])


def _claim(out: Path, seed: int) -> None:
    """Make the folder ours, or find that it is."""
    mark = out / MADE_WITH
    if mark.is_file() and mark.read_text() != str(seed):
        raise BadOption(
            f"{out}: holds the demo of seed {mark.read_text()}; name another folder with --out, or remove it"
        )
    if out.exists() and not mark.is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BadOption(f"{out}: exists and is no demo; name another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text(str(seed))


def _clips(out: Path, seed: int) -> Path:
    manifest = out / "clips" / "clips.csv"
    if not manifest.is_file():
        log.info("making clips in %s", manifest.parent)
        make_clips(manifest.parent, seed=seed)
    return manifest


def _fit(out: Path, store: Path, head: str, features: str) -> Score:
    run = emocache.fit_head(
        store,
        head,
        features=None if features == "all" else [features],
        folds="speaker",
        out=out / "runs" / f"{head}-{features}",
    )
    return Score(head, features, run.metrics["metrics"], run.metrics["intervals"], run.path)


def _table(scores: list[Score]) -> list[str]:
    lines = [f"{'head':8}{'features':12}{'WAF':>7}  {'95 % interval':15}{'UAR':>7}{'accuracy':>10}"]
    for score in scores:
        low, high = score.intervals["waf"]
        metrics = score.metrics
        interval = f"[{low:.3f}, {high:.3f}]"
        lines.append(
            f"{score.head:8}{score.features:12}{metrics['waf']:7.3f}  {interval:15}"
            f"{metrics['uar']:7.3f}{metrics['accuracy']:10.3f}"
        )
    return lines


def _places(out: Path, clips: Path, store: Path, seconds: float) -> list[str]:
    roster = emocache.open_store(store).roster
    speakers, labels = ({row[column] for row in roster} for column in ("speaker", "label"))
    return [
        f"{len(roster)} clips by {len(speakers)} synthetic speakers, {len(labels)} labels "
        f"(chance {1 / len(labels):.2f}), 5 folds with no speaker in two; {seconds:.0f} s in all",
        f"clips  {clips}",
        f"store  {store}",
        f"runs   {out / 'runs'} (each with a report.md)",
        "",
        f"fit another head on the same store:  emocache fit --head linear --store {store} --features prosody",
    ]

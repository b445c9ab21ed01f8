"""`write_submission`: what a run says of new clips, as the MER challenges take it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emocache.errors import FitError, some
from emocache.heads.fusion.fused import load_fusion, predict_fused
from emocache.heads.fusion.members import read_member
from emocache.heads.matrix import manifest_clips
from emocache.heads.runs import load_run
from emocache.spec import counted


@dataclass(frozen=True)
class Submission:
    """One table that was written.

    labels: clip_id to the most probable label; missing: clips of which no model says anything, and which have no row
    """

    path: Path
    labels: dict[str, str]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.path}: {counted(len(self.labels), 'clip')}"
        if not self.missing:
            return text
        rowless = counted(len(self.missing), "clip")
        return f"{text}\n{rowless} without a row, for the store has no features: {some(self.missing)}"


def write_submission(
    run: str | Path, test: str | Path, out: str | Path, *, store: str | Path | None = None, device: str = "auto"
) -> Submission:
    """Write ``name,discrete``: each clip with its most probable label.

    run: what `fit_head` or `fuse_runs` left; test: a manifest of the clips; store: holds the run's features of them
    out: a new ``.csv``, its rows in the manifest's order
    raises: FitError if `out` is there, or the run does not tell labels; errors of `Run.load_matrix`
    """
    import pandas as pd

    place = Path(out)
    if place.exists():
        raise FitError(f"{place}: is there already; name another file with --out, or remove this one")
    said = _labels(Path(run), test, store, device)
    asked = manifest_clips(test)
    labels = {clip: said[clip] for clip in asked if clip in said}
    try:
        pd.DataFrame({"name": list(labels), "discrete": list(labels.values())}).to_csv(place, index=False)
    except OSError as error:
        raise FitError(f"{place}: cannot be written: {error.strerror or error}; name another file") from error
    return Submission(place, labels, tuple(clip for clip in asked if clip not in said))


def _labels(run: Path, test: str | Path, store: str | Path | None, device: str) -> dict[str, str]:
    """clip_id to label, of the clips that have features."""
    member = read_member(run)
    if (task := member.record["recipe"].get("task", "label")) == "dimensional":
        raise FitError(f"{run}: a run of task {task}, which tells values; a submission needs one that tells labels")
    if "weights" in member.record:
        table = predict_fused(load_fusion(run), store, test, device=device)
        best = table[[f"p_{name}" for name in member.classes]].to_numpy().argmax(axis=1)
        clips = table["clip_id"].tolist()
    else:
        loaded = load_run(run, device=device)
        matrix = loaded.load_matrix(store, test)
        best, clips = loaded.predict_proba(matrix).argmax(axis=1), list(matrix.clips)
    return {clip: member.classes[number] for clip, number in zip(clips, best.tolist(), strict=True)}

"""Noisy labels and missing ones, on a store of EmoDB's `prosody` features.

    emocache extract --encoder prosody --pool stats7 --clips EMODB/clips.csv --store emodb.zarr
    python benchmarks/labels.py noise emodb.zarr
    python benchmarks/labels.py mining emodb.zarr

noise: a share of the labels is replaced by another one at random. First all clips are refined, and the marks for
review are held against what was corrupted. Then, speaker by speaker, the other speakers' labels are refined without
that speaker, and a head is trained on the true, the noisy and the refined ones; all are scored on the speaker's true
labels. mining: a share of the clips, whole speakers, keeps its labels; the rest are mined, and held against the truth.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emocache.heads import metrics
from emocache.heads.labels.learner import Learner, weak_head
from emocache.heads.labels.mine import mine_labels
from emocache.heads.labels.refine import Refinement, refine_labels
from emocache.heads.matrix import Matrix, load_matrix
from emocache.heads.normalize import normalized

Labels = NDArray[np.str_]


def main() -> None:
    """Run one of the two experiments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["noise", "mining"])
    parser.add_argument("store", type=Path)
    parser.add_argument("--share", type=float, help="of noisy labels (default .2), or of labelled clips (default .3)")
    parser.add_argument("--normalize", default="speaker")
    parser.add_argument("--head", default="linear")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speakers", type=int, help="score the head on so many speakers only")
    given = parser.parse_args()
    matrix = load_matrix(given.store)
    with tempfile.TemporaryDirectory() as folder:
        (noise if given.what == "noise" else mining)(given, matrix, Path(folder))


def noise(given: argparse.Namespace, matrix: Matrix, folder: Path) -> None:
    """Corrupt labels, find them, and train on what is left."""
    labels, speakers = (np.asarray(matrix.column(name), dtype=np.str_) for name in ("label", "speaker"))
    noisy = corrupted(labels, given.share or 0.2, np.random.default_rng(given.seed))
    wrong = noisy != labels
    table = refined(given, matrix, noisy, np.arange(len(labels)), folder / "all").table
    review, changed = (table["review"] == "yes").to_numpy(), (table["label"] != table["label_original"]).to_numpy()
    print(f"{wrong.sum()} of {len(labels)} labels corrupted, seed {given.seed}, normalize {given.normalize}")
    for name, marked in (("review", review), ("changed", changed)):
        found = int((marked & wrong).sum())
        print(f"{name}: {marked.sum()} marked, precision {found / marked.sum():.3f}, recall {found / wrong.sum():.3f}")
    print(f"labels right: noisy {1 - wrong.mean():.3f}, refined {(table['label'].to_numpy() == labels).mean():.3f}")
    kinds = ("true", "noisy", "refined")
    said = {kind: np.full(len(labels), "", dtype=labels.dtype) for kind in kinds}
    voices = np.unique(speakers)[: given.speakers]
    values = normalized(matrix, given.normalize)
    for voice in voices:
        learn, test = np.flatnonzero(speakers != voice), np.flatnonzero(speakers == voice)
        mended = refined(given, matrix, noisy, learn, folder / str(voice)).table["label"].to_numpy(dtype=np.str_)
        for kind, own in zip(kinds, (labels[learn], noisy[learn], mended), strict=True):
            said[kind][test] = predicted(given, values, own, speakers[learn], learn, test)
    scored = np.isin(speakers, voices)
    for kind in kinds:
        print(f"{given.head} trained on {kind} labels: UAR {uar(labels[scored], said[kind][scored]):.3f}")


def corrupted(labels: Labels, share: float, rng: np.random.Generator) -> Labels:
    """Replace a share of the labels by another one, drawn evenly from the rest."""
    classes, out = np.unique(labels), labels.copy()
    for row in rng.choice(len(labels), round(share * len(labels)), replace=False):
        out[row] = rng.choice(classes[classes != labels[row]])
    return out


def refined(given: argparse.Namespace, matrix: Matrix, noisy: Labels, rows: NDArray[np.int64], out: Path) -> Refinement:
    """Refine the labels of some clips; the others are not looked at."""
    lines = [f"{matrix.clips[i]},{noisy[i]},{matrix.column('speaker')[i]}" for i in rows]
    out.mkdir()
    (out / "clips.csv").write_text("\n".join(["clip_id,label,speaker", *lines]))
    return refine_labels(
        given.store, clips=out / "clips.csv", normalize=given.normalize, seed=given.seed, out=out / "refined.csv"
    )


def predicted(
    given: argparse.Namespace,
    values: NDArray[np.float32],
    labels: Labels,
    speakers: Labels,
    learn: NDArray[np.int64],
    test: NDArray[np.int64],
) -> Labels:
    """What a head trained on `labels` of the rows `learn` says of the rows `test`."""
    classes, columns = np.unique(labels), np.arange(values.shape[1])
    learner = Learner.fit(
        weak_head(given.head),
        values[learn],
        labels,
        speakers,
        classes,
        columns=columns,
        normalize=given.normalize,
        seed=given.seed,
        device="cpu",
    )
    found: Labels = classes[learner.predict_proba(values[test]).argmax(axis=1)]
    return found


def mining(given: argparse.Namespace, matrix: Matrix, folder: Path) -> None:
    """Hide the labels of most speakers and mine them."""
    labels, speakers = (np.asarray(matrix.column(name), dtype=np.str_) for name in ("label", "speaker"))
    voices = np.random.default_rng(given.seed).permutation(np.unique(speakers))
    clips = np.cumsum([(speakers == voice).sum() for voice in voices])
    known = np.isin(speakers, voices[: int(np.abs(clips - (given.share or 0.3) * len(labels)).argmin()) + 1])
    lines = [
        f"{clip},{label if here else ''},{voice}"
        for clip, label, here, voice in zip(matrix.clips, labels, known, speakers, strict=True)
    ]
    (folder / "clips.csv").write_text("\n".join(["clip_id,label,speaker", *lines]))
    done = mine_labels(
        given.store,
        clips=folder / "clips.csv",
        head=given.head,
        normalize=given.normalize,
        seed=given.seed,
        out=folder / "mined.csv",
    )
    print(
        f"{known.sum()} of {len(labels)} clips labelled ({len(np.unique(speakers[known]))} speakers), seed {given.seed}"
    )
    print(done.summary())
    mined = (done.table["round"] > 0).fillna(False).to_numpy(dtype=bool)
    right = done.table["label"].to_numpy()[mined] == labels[mined]
    print(f"mined labels that are right: {right.mean() if len(right) else 0:.3f} of {mined.sum()}")


def uar(true: Labels, said: Labels) -> float:
    """Unweighted average recall."""
    classes, index = np.unique(np.concatenate([true, said]), return_inverse=True)
    counts = metrics.confusion(index[: len(true)], index[len(true) :], len(classes))
    return float(metrics.scores(counts)["uar"])


if __name__ == "__main__":
    main()

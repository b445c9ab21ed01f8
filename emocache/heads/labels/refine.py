"""`refine_labels`: weak classifiers and other label columns vote on each label (MMEF-Net, Section III-D1).

Classifiers are fitted to the annotations, one for each modality and head, and vote on clips that they were not fitted
on, so that none repeats what it has memorised. The annotation votes too. A label that has more than half of the votes
is the refined one; without such a majority the annotation stays. Where no other voter agrees with the annotation, the
clip is marked for review.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, FitError, some
from emocache.heads.folds import check_seed, make_folds
from emocache.heads.labels.learner import out_of_fold, weak_head
from emocache.heads.matrix import Matrix, load_matrix
from emocache.heads.normalize import check_method, normalized

if TYPE_CHECKING:
    import pandas as pd

HEADS = ("linear", "svm-ensemble")

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Voter:
    """One voter. votes: ``(clip,)`` class indices, -1 where it says nothing; sure: ``(clip, class)`` how sure it is."""

    name: str
    votes: IntArray
    sure: FloatArray


@dataclass(frozen=True)
class Verdicts:
    """What voters make of annotations; ``(clip,)`` each.

    refined: class indices; confidence: the mean of how sure voters are of the refined label; review: no voter agrees
        with the annotation (and at least one has voted)
    """

    refined: IntArray
    confidence: FloatArray
    review: NDArray[np.bool_]


@dataclass(frozen=True)
class Refinement:
    """A table of refined labels. table: as written to `path`; voters: their names."""

    path: Path
    table: pd.DataFrame
    voters: tuple[str, ...]

    def summary(self) -> str:
        """How many labels changed, how many want a person's eye, and which."""
        table = self.table
        changed, review = table["label"] != table["label_original"], table["review"] == "yes"
        moves = (table["label_original"] + " → " + table["label"])[changed].value_counts()
        return "\n".join(
            [
                f"{len(table)} labels, voters: {', '.join(self.voters)}, and the annotation",
                f"changed: {_counted([f'{move} {count}' for move, count in moves.items()], int(changed.sum()))}",
                "for review, nobody agrees with the annotation: "
                f"{_counted(table['clip_id'][review].tolist(), int(review.sum()))}",
                f"table: {self.path}",
            ]
        )


def _counted(names: Sequence[str], count: int) -> str:
    return f"{count}  ({some(names, 6)})" if names else f"{count}"


def refine_labels(
    store: str | Path | None = None,
    *,
    features: Sequence[str] | None = None,
    clips: str | Path | None = None,
    labels_from: Sequence[str] = (),
    heads: Sequence[str] = HEADS,
    folds: str | None = None,
    normalize: str = "global",
    seed: int = 0,
    out: str | Path = "refined.csv",
    device: str = "auto",
) -> Refinement:
    """Vote on the labels of a store's clips and write the refined ones beside the originals.

    store, features, clips, normalize, seed, device: as for `fit_head`; features of one modality make one classifier a
        head
    labels_from: columns of the manifest that vote too, such as a language model's labels
    heads: the weak classifiers; folds: each votes out of fold by this protocol
    out: a new ``.csv``: clip_id, label (refined), label_original, votes, confidence, review, and the manifest's
        columns; it serves as ``--clips`` for `fit_head`
    raises: NotAStore, UnknownName, BadOption, FitError
    """
    check_method(normalize)
    check_seed(seed)
    _refuse_voters_that_cannot_be(heads, labels_from)
    kinds = {name: weak_head(name) for name in heads}
    place = refuse_to_overwrite(Path(out))
    matrix = labelled(load_matrix(store, features, clips))
    labels = np.asarray(matrix.column("label"), dtype=np.str_)
    classes, target = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise FitError(
            f"all {len(labels)} clips have the label {str(labels[0])!r}; there is nothing to vote on: give clips of "
            "two labels or more"
        )
    speakers = matrix.speakers
    given = {name: matrix.column(name) for name in ("fold", "split")}
    parts = list(make_folds(folds, target, matrix.column("speaker"), given, seed=seed).parts())
    values = normalized(matrix, normalize)
    voters = [_column_voter(matrix, name, classes) for name in labels_from]
    for modality in dict.fromkeys(block.modality for block in matrix.layout):
        columns = np.concatenate([np.arange(b.start, b.stop) for b in matrix.layout if b.modality == modality])
        for name, kind in kinds.items():
            p = out_of_fold(
                kind, values, labels, speakers, parts, columns=columns, normalize=normalize, seed=seed, device=device
            )
            voters.append(classifier_voter(f"{name} on {modality}", p))
    verdicts = deliberate(target, voters)
    table = _table(matrix, classes, target, voters, verdicts)
    write_table(table, place)
    return Refinement(place, table, tuple(voter.name for voter in voters))


def _refuse_voters_that_cannot_be(heads: Sequence[str], labels_from: Sequence[str]) -> None:
    """Every voter has one vote, the annotation too."""
    if not heads and not labels_from:
        raise BadOption("--head and --labels-from: nobody votes; name a head, or a column with other labels")
    if "label" in labels_from:
        raise BadOption("--labels-from label: the annotation votes anyway; name columns with other labels")
    for option, names in (("--head", heads), ("--labels-from", labels_from)):
        if twice := [name for name in names if list(names).count(name) > 1]:
            raise BadOption(f"{option} {twice[0]} is named twice, and would vote twice; name it once")


def deliberate(target: IntArray, voters: Sequence[Voter]) -> Verdicts:
    """Count the votes, the annotation's among them.

    target: ``(clip,)``, the annotations
    """
    everyone = np.arange(len(target))
    classes = voters[0].sure.shape[1]
    votes = np.stack([voter.votes for voter in voters])
    counts = (votes[:, :, None] == np.arange(classes)).sum(axis=0)
    agreeing = counts[everyone, target]
    counts[everyone, target] += 1
    most = counts.argmax(axis=1)
    majority = 2 * counts[everyone, most] > counts.sum(axis=1)
    refined = np.where(majority, most, target)
    voted = votes >= 0
    sure = np.stack([np.nan_to_num(voter.sure[everyone, refined]) for voter in voters])
    confidence = (sure * voted).sum(axis=0) / np.maximum(voted.sum(axis=0), 1)
    return Verdicts(refined, confidence, (agreeing == 0) & voted.any(axis=0))


def classifier_voter(name: str, probabilities: FloatArray) -> Voter:
    """A voter from out-of-fold probabilities ``(clip, class)``; NaN says nothing."""
    silent = np.isnan(probabilities).any(axis=1)
    return Voter(name, np.where(silent, -1, np.nan_to_num(probabilities).argmax(axis=1)), probabilities)


def _column_voter(matrix: Matrix, name: str, classes: NDArray[np.str_]) -> Voter:
    """A voter from a column of the manifest; labels that no clip is annotated with are no votes."""
    said = matrix.column(name)
    if all(label is None for label in said):
        known = some(matrix.column_names, 20)
        raise BadOption(f"--labels-from {name}: no clip has this column; the clips have {known}")
    place = {label: number for number, label in enumerate(classes.tolist())}
    votes = np.array([place.get(label, -1) if label is not None else -1 for label in said], dtype=np.int64)
    if (votes < 0).all():
        raise BadOption(
            f"--labels-from {name}: says {some(sorted({str(label) for label in said if label is not None}))}, none "
            f"of which is one of the labels {some(classes.tolist(), 20)}; write them alike"
        )
    sure = np.where(votes[:, None] == np.arange(len(classes)), 1.0, 0.0)
    return Voter(name, votes, sure)


def _table(
    matrix: Matrix, classes: NDArray[np.str_], target: IntArray, voters: Sequence[Voter], verdicts: Verdicts
) -> pd.DataFrame:
    import pandas as pd

    def told(clip: int) -> str:
        return "; ".join(f"{v.name}: {classes[v.votes[clip]] if v.votes[clip] >= 0 else '-'}" for v in voters)

    own = {"label", "label_original", "votes", "confidence", "review"}
    return pd.DataFrame(
        {
            "clip_id": matrix.clips,
            "label": classes[verdicts.refined].tolist(),
            "label_original": classes[target].tolist(),
            "votes": [told(clip) for clip in range(len(target))],
            "confidence": verdicts.confidence.round(4),
            "review": np.where(verdicts.review, "yes", "no").tolist(),
            **other_columns(matrix, own),
        }
    )


# --- shared with mining ----------------------------------------------------------------------------------------------


def labelled(matrix: Matrix) -> Matrix:
    """The rows that have a label.

    raises: FitError if none has
    """
    rows = [row for row, label in enumerate(matrix.column("label")) if label is not None]
    if not rows:
        raise FitError(f"none of the {len(matrix.clips)} clips has a label; give a manifest with them by --clips")
    return matrix.take(rows)


def other_columns(matrix: Matrix, without: Set[str]) -> dict[str, list[str | None]]:
    """The manifest's columns by name, but those in `without`."""
    return {name: matrix.column(name) for name in matrix.column_names if name not in without}


def refuse_to_overwrite(place: Path) -> Path:
    """`place` itself, if nothing is there.

    raises: FitError
    """
    if place.exists():
        raise FitError(f"{place}: is there already; name another file with --out, or remove this one")
    return place


def write_table(table: pd.DataFrame, place: Path) -> None:
    """Write a ``.csv`` whole.

    raises: FitError if it cannot be written
    """
    part = place.with_name(f".{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(part, index=False)
        part.rename(place)
    except OSError as error:
        raise FitError(f"{place}: cannot be written: {error.strerror or error}; name another with --out") from error

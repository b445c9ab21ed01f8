"""`mine_labels`: labels for unlabelled clips by agreement, in rounds.

Section 2.5 of "Early Joint Learning of Emotion Information Makes MultiModal Model Understand You Better": four learners
on four groups of features are trained on the labelled clips; an unlabelled clip on which at least three agree gets
their label; the clips so mined are dealt out to the learners in four parts, each learner is trained again on the
labelled clips and its part, and the next round votes on what is left. The score on held-out speakers is taken after
each round; a round after which it falls is undone, and ends the mining. Clips of these speakers are mined, but
not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, FitError
from emocache.heads import metrics
from emocache.heads.folds import check_seed, make_folds
from emocache.heads.head import Head
from emocache.heads.labels.learner import Learner, weak_head
from emocache.heads.labels.refine import other_columns, refuse_to_overwrite, write_table
from emocache.heads.labels.vote import NO_VOTE, ranked_mode
from emocache.heads.matrix import Matrix, load_matrix
from emocache.heads.normalize import check_method, normalized

if TYPE_CHECKING:
    import pandas as pd

GROUPS = 4
AGREE = 3
HELD_OUT_PARTS = 5
"""One such part of the labelled clips is held out, by speaker where there are speakers."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Round:
    """One round. mined: clips that got a label in it; kept: it was not undone.

    score: UAR of the learners' ranked mode vote on held-out clips; each: the learners' own
    """

    number: int
    mined: int
    score: float
    each: tuple[float, ...]
    kept: bool


@dataclass(frozen=True)
class Mining:
    """Mined labels. table: as written to `path`; rounds: the first is the learners on the labelled clips alone."""

    path: Path
    table: pd.DataFrame
    rounds: tuple[Round, ...]

    def summary(self) -> str:
        """The score after each round, and what was mined."""
        lines = [
            f"round {r.number}: {r.mined} clips mined, held-out UAR {r.score:.3f} "
            f"(learners {', '.join(f'{own:.3f}' for own in r.each)}){'' if r.kept else '  undone: the score fell'}"
            for r in self.rounds
        ]
        mined = self.table["round"] > 0
        left = int((self.table["label"].isna()).sum())
        return "\n".join([*lines, f"{int(mined.sum())} labels mined, {left} clips left without one: {self.path}"])


def mine_labels(
    store: str | Path | None = None,
    *,
    groups: Sequence[str] | None = None,
    clips: str | Path | None = None,
    head: str = "linear",
    rounds: int = 3,
    agree: int = AGREE,
    normalize: str = "global",
    seed: int = 0,
    out: str | Path = "mined.csv",
    device: str = "auto",
) -> Mining:
    """Give labels to clips that have none, where learners on different features agree, and write an audit table.

    store, clips, normalize, device: as for `fit_head`; clips without a label are the ones to mine
    groups: four groups of features, each as ``prosody`` or ``prosody,char-ngram``; left out: four random halves of all
        columns
    head: the learners'; rounds: at most so many; agree: how many learners must say the same
    seed: decides the held-out speakers, random halves, and how mined clips are dealt out
    out: a new ``.csv``: clip_id, label, round (0: given, empty: none yet), votes, held_out, and the manifest's columns
    raises: NotAStore, UnknownName, BadOption, FitError
    """
    check_method(normalize)
    check_seed(seed)
    kind, place = weak_head(head), refuse_to_overwrite(Path(out))
    if groups is not None and len(groups) != GROUPS:
        raise BadOption(
            f"--group: {len(groups)} given; the method has {GROUPS} learners, each on a group of its own; give it "
            f"{GROUPS} times, or leave it out for random halves of all columns"
        )
    if rounds < 1 or not 2 <= agree <= GROUPS:
        raise BadOption(f"--rounds {rounds}, --agree {agree}: at least 1 round, and 2 to {GROUPS} learners that agree")
    matrix, columns = _groups(store, groups, clips, seed)
    pool = _Pool.of(matrix, normalize, seed)
    done, mined = mine(pool, kind, columns, rounds=rounds, agree=agree, normalize=normalize, seed=seed, device=device)
    table = _table(matrix, pool, mined)
    write_table(table, place)
    return Mining(place, table, done)


def _groups(
    store: str | Path | None, groups: Sequence[str] | None, clips: str | Path | None, seed: int
) -> tuple[Matrix, list[IntArray]]:
    """The matrix of all features that are needed, and each learner's columns in it."""
    if groups is None:
        matrix = load_matrix(store, None, clips)
        width = matrix.values.shape[1]
        rng = np.random.default_rng(seed)
        return matrix, [np.sort(rng.choice(width, max(1, width // 2), replace=False)) for _ in range(GROUPS)]
    asked = [[request.strip() for request in group.split(",") if request.strip()] for group in groups]
    if not all(asked):
        raise BadOption(f"--group {groups[asked.index([])]!r}: names no feature; write one or more, with commas")
    if twice := [group for group in asked if sum(sorted(group) == sorted(other) for other in asked) > 1]:
        raise BadOption(
            f"--group {','.join(twice[0])} is given twice: learners on the same features agree by themselves; give "
            f"{GROUPS} different groups"
        )
    requests = list(dict.fromkeys(request for group in asked for request in group))
    matrix = load_matrix(store, requests, clips)
    spans = {
        request: np.arange(block.start, block.stop) for request, block in zip(requests, matrix.layout, strict=True)
    }
    return matrix, [np.concatenate([spans[request] for request in group]) for group in asked]


@dataclass(frozen=True)
class _Pool:
    """Clips to learn from, to score on, and to mine.

    target: ``(clip,)``, -1 without a label; learn, held, free: row numbers
    apart: ``(clip,)``, whether the clip is of a held-out speaker: unlabelled ones are mined too, but teach nobody
    """

    values: NDArray[np.float32]
    classes: NDArray[np.str_]
    target: IntArray
    speakers: NDArray[np.str_] | None
    learn: IntArray
    held: IntArray
    free: IntArray
    apart: NDArray[np.bool_]

    @classmethod
    def of(cls, matrix: Matrix, normalize: str, seed: int) -> _Pool:
        labels = matrix.column("label")
        known = np.array([label is not None for label in labels])
        if not known.any() or known.all():
            raise FitError(
                f"{int(known.sum())} of {len(known)} clips have a label; mining needs clips with and without one: "
                "leave cells of the column 'label' empty, or fill some, in a manifest given by --clips"
            )
        classes = np.unique([label for label in labels if label is not None])
        place = {name: number for number, name in enumerate(classes.tolist())}
        target = np.array([NO_VOTE if label is None else place[label] for label in labels], dtype=np.int64)
        rows = np.flatnonzero(known)
        speakers = matrix.speakers
        voices = [matrix.column("speaker")[row] for row in rows]
        count = len(set(voices)) if speakers is not None else 1
        if count == 1 and len(rows) < HELD_OUT_PARTS:
            raise FitError(
                f"only {len(rows)} clips have a label; one part in {HELD_OUT_PARTS} of them is held out and the rest "
                f"learned from: label {HELD_OUT_PARTS} clips or more"
            )
        rule = f"speaker:{min(HELD_OUT_PARTS, count)}" if count > 1 else str(HELD_OUT_PARTS)
        folds = make_folds(rule, target[rows], voices, {}, seed=seed)
        learn, held = rows[folds.of != 0], rows[folds.of == 0]
        if len(np.unique(target[learn])) < 2:
            raise FitError(f"only {len(learn)} labelled clips of one class are left to learn from; label more clips")
        apart = np.isin(np.arange(len(target)), held)
        if speakers is not None and count > 1:
            apart = np.isin(speakers, speakers[held])
        free = np.flatnonzero(~known)
        return cls(normalized(matrix, normalize), classes, target, speakers, learn, held, free, apart)


@dataclass(frozen=True)
class Mined:
    """What was mined; ``(clip,)`` each. label: class index, -1 none; round: 0 none; votes: ``(learner, clip)``."""

    label: IntArray
    round: IntArray
    votes: IntArray


def mine(
    pool: _Pool,
    kind: type[Head],
    columns: Sequence[IntArray],
    *,
    rounds: int,
    agree: int,
    normalize: str,
    seed: int,
    device: str,
) -> tuple[tuple[Round, ...], Mined]:
    """The rounds, and the labels of those that were kept."""
    rng = np.random.default_rng(seed)
    classes, clips = len(pool.classes), len(pool.target)
    parts = [pool.learn] * len(columns)
    target = pool.target.copy()
    kept = Mined(np.full(clips, NO_VOTE), np.zeros(clips, dtype=np.int64), np.full((len(columns), clips), NO_VOTE))

    def train() -> list[Learner]:
        return [
            Learner.fit(
                kind,
                pool.values[rows],
                pool.classes[target[rows]],
                None if pool.speakers is None else pool.speakers[rows],
                pool.classes,
                columns=own,
                normalize=normalize,
                seed=seed + number,
                device=device,
            )
            for number, (rows, own) in enumerate(zip(parts, columns, strict=True))
        ]

    learners = train()
    score, each = _scores(learners, pool)
    done = [Round(0, 0, score, each, kept=True)]
    for number in range(1, rounds + 1):
        free = pool.free[target[pool.free] == NO_VOTE]
        votes = _votes(learners, pool.values[free])
        counts = (votes[:, :, None] == np.arange(classes)).sum(axis=0)
        sure = counts.max(axis=1) >= agree
        if not sure.any():
            break
        fresh = free[sure]
        target[fresh] = counts[sure].argmax(axis=1)
        teaching = fresh[~pool.apart[fresh]]
        dealt = rng.permutation(len(teaching)) % len(columns)
        parts = [np.concatenate([rows, teaching[dealt == part]]) for part, rows in enumerate(parts)]
        learners = train()
        before, (score, each) = score, _scores(learners, pool)
        done.append(Round(number, len(fresh), score, each, kept=score >= before))
        if score < before:
            break
        kept.label[fresh], kept.round[fresh], kept.votes[:, fresh] = target[fresh], number, votes[:, sure]
    return tuple(done), kept


def _votes(learners: Sequence[Learner], values: NDArray[np.float32]) -> IntArray:
    """``(learner, clip)``; `NO_VOTE` where a clip has nothing of the learner's columns."""
    each = [learner.predict_proba(values) for learner in learners]
    return np.stack([np.where(np.isnan(p).any(axis=1), NO_VOTE, np.nan_to_num(p).argmax(axis=1)) for p in each])


def _scores(learners: Sequence[Learner], pool: _Pool) -> tuple[float, tuple[float, ...]]:
    """UAR on the held-out clips: of the ranked mode vote, and of each learner."""
    votes, true = _votes(learners, pool.values[pool.held]), pool.target[pool.held]
    each = [_uar(true, own, len(pool.classes)) for own in votes]
    order = np.argsort(-np.asarray(each), kind="stable")
    return _uar(true, ranked_mode(votes[order], len(pool.classes))[0], len(pool.classes)), tuple(each)


def _uar(true: IntArray, said: IntArray, classes: int) -> float:
    """A clip without a vote counts as missed."""
    counts = metrics.confusion(true, np.where(said < 0, classes, said), classes + 1)
    return float(metrics.scores(counts)["uar"])


def _table(matrix: Matrix, pool: _Pool, mined: Mined) -> pd.DataFrame:
    import pandas as pd

    given = pool.target >= 0
    label = np.where(given, pool.target, mined.label)
    held = np.isin(np.arange(len(given)), pool.held)

    def told(clip: int) -> str:
        votes = mined.votes[:, clip]
        return ", ".join(str(pool.classes[v]) if v >= 0 else "-" for v in votes) if mined.round[clip] else ""

    number = [0 if given[i] else int(mined.round[i]) or None for i in range(len(given))]
    return pd.DataFrame(
        {
            "clip_id": matrix.clips,
            "label": [str(pool.classes[i]) if i >= 0 else None for i in label],
            "round": pd.array(number, dtype="Int64"),
            "votes": [told(clip) for clip in range(len(given))],
            "held_out": np.where(held, "yes", "no").tolist(),
            **other_columns(matrix, {"label", "round", "votes", "held_out"}),
        }
    )

"""Which clips train and which are scored: given parts, stratified folds, folds disjoint by speaker."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, FitError, some

DEFAULT_FOLDS = 5
NEVER = -1
"""The fold of a clip that is trained on and never scored (the train and val parts of a given split)."""
TEST = -2
"""The fold of a clip that no model trains on and all score (the test part of a given split that is cross-fitted)."""

_TRAINING = frozenset({"train", "training", "val", "valid", "validation", "dev", "devel"})
_SCORED = frozenset({"test", "testing", "eval"})


@dataclass(frozen=True)
class Folds:
    """Which fold scores each clip; the fold's model is trained on all the others.

    rule: what was asked for, completed (``speaker:5``, ``loso``, ``5``, ``given``, ``given:5``)
    of: ``(clip,)`` int64, the fold that scores the clip, or `NEVER`, or `TEST`
    names: what a person would call each fold: its speakers, or the value in the manifest
    notes: what a reader of the scores should know
    """

    rule: str
    of: NDArray[np.int64]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def parts(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the rows that train and the rows that are scored, fold by fold."""
        for fold in range(len(self.names)):
            scored = (self.of == fold) | (self.of == TEST)
            yield np.flatnonzero(~scored), np.flatnonzero(scored)

    def on_both_sides(self, names: Sequence[str | None]) -> list[str]:
        """Those of `names` ``(clip,)``, such as speakers, that are trained on by a fold that scores them, too."""
        places: dict[str, set[int]] = {}
        for name, fold in zip(names, self.of.tolist(), strict=True):
            if name is not None:
                places.setdefault(name, set()).add(fold)
        return sorted(name for name, folds in places.items() if len(folds) > 1)

    @property
    def judged(self) -> NDArray[np.int64]:
        """The rows whose scores count: the test part where all folds share one, else every row that a fold scores."""
        test = np.flatnonzero(self.of == TEST)
        return test if len(test) else np.flatnonzero(self.of >= 0)


def check_seed(seed: int) -> int:
    """`seed` itself, if numbers can be drawn by it.

    raises: BadOption
    """
    if seed < 0:
        raise BadOption(f"--seed {seed}: a seed is 0 or more")
    return seed


def make_folds(
    rule: str | None,
    labels: NDArray[np.int64],
    speakers: Sequence[str | None],
    given: Mapping[str, Sequence[str | None]],
    *,
    seed: int,
) -> Folds:
    """Divide clips as `rule` says; None chooses `speaker` where there are at least two speakers, else 5 folds.

    rule: ``speaker`` or ``speaker:K`` (stratified, no speaker on both sides), ``loso`` (one speaker a fold), ``K``
        (stratified), ``given`` (the manifest's ``fold`` column, else its ``split`` column), ``given:K`` (K folds of
        the split's train part, by speaker where there are speakers, whose models all score the test part)
    labels: ``(clip,)`` class indices
    speakers: ``(clip,)``, None where there is none
    given: the manifest's columns ``fold`` and ``split``, ``(clip,)`` each
    raises: BadOption if `rule` cannot be read; FitError if the clips do not allow it
    """
    if rule is None:
        return _default_folds(labels, speakers, seed)
    text = rule.strip().lower()
    if text == "given":
        return _given_folds(given)
    if match := re.fullmatch(r"given:(\d+)", text):
        return _cross_fitted_split(_at_least_two(int(match[1]), rule), labels, speakers, given, seed)
    if text == "loso":
        return _one_speaker_each(_all_speakers(speakers, rule))
    if match := re.fullmatch(r"(speaker:)?(\d+)", text):
        count = _at_least_two(int(match[2]), rule)
        return _speaker_folds(count, labels, speakers, seed) if match[1] else _stratified_folds(count, labels, seed)
    if text == "speaker":
        return _speaker_folds(DEFAULT_FOLDS, labels, speakers, seed)
    raise BadOption(
        f"--folds {rule!r} is not known; write speaker, speaker:K, loso (leave one speaker out), "
        "a number of folds such as 5, given (the manifest's fold or split column) or given:5 (the split column, its "
        "train part cross-fitted)"
    )


def _default_folds(labels: NDArray[np.int64], speakers: Sequence[str | None], seed: int) -> Folds:
    known = {speaker for speaker in speakers if speaker is not None}
    if len(known) < 2:
        return _stratified_folds(min(DEFAULT_FOLDS, len(labels)), labels, seed)
    return _speaker_folds(min(DEFAULT_FOLDS, len(known)), labels, speakers, seed)


def _at_least_two(count: int, rule: str) -> int:
    if count < 2:
        raise BadOption(f"--folds {rule!r}: at least 2 folds are needed, one to train on and one to score")
    return count


def _all_speakers(speakers: Sequence[str | None], rule: str) -> NDArray[np.str_]:
    nameless = sum(speaker is None for speaker in speakers)
    if nameless:
        raise FitError(
            f"--folds {rule}: {nameless} of {len(speakers)} clips have no speaker; fill the manifest's column "
            "'speaker', or choose --folds 5 and accept that a voice may stand on both sides"
        )
    return np.asarray(speakers, dtype=np.str_)


# --- stratified ------------------------------------------------------------------------------------------------------


def _stratified_folds(count: int, labels: NDArray[np.int64], seed: int) -> Folds:
    """Deal shuffled clips out class by class, so that class and fold sizes differ by at most one."""
    if count > len(labels):
        raise FitError(f"--folds {count}: there are only {len(labels)} clips; choose --folds {len(labels)} or fewer")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    of = np.empty(len(labels), dtype=np.int64)
    of[dealt] = np.arange(len(labels)) % count
    return Folds(str(count), of, tuple(str(fold) for fold in range(count)))


# --- speakers --------------------------------------------------------------------------------------------------------


def _one_speaker_each(speakers: NDArray[np.str_]) -> Folds:
    names, of = np.unique(speakers, return_inverse=True)
    if len(names) < 2:
        raise FitError(
            f"--folds loso: all {len(speakers)} clips are of one speaker ({names[0]}), who cannot be left out; "
            "choose --folds 5"
        )
    return Folds("loso", of.astype(np.int64), tuple(str(name) for name in names))


def _speaker_folds(count: int, labels: NDArray[np.int64], speakers: Sequence[str | None], seed: int) -> Folds:
    """Give each speaker to the fold where the classes stay spread most evenly, the most lopsided speakers first."""
    rule = f"speaker:{count}"
    voices, voice = np.unique(_all_speakers(speakers, rule), return_inverse=True)
    if len(voices) < count:
        raise FitError(
            f"--folds {rule}: fewer speakers than folds: {len(voices)} ({some(voices.tolist())}) for {count}; "
            f"choose --folds speaker:{len(voices)} or fewer, loso, or give --folds 5 to divide by clips"
            if len(voices) > 1
            else f"--folds {rule}: fewer speakers than folds: all clips are of one speaker ({voices[0]}); "
            "choose --folds 5 to divide by clips"
        )
    counts = np.zeros((len(voices), int(labels.max()) + 1))
    np.add.at(counts, (voice, labels), 1)
    fold_of_voice = _spread(counts, count, np.random.default_rng(seed))
    names = tuple("+".join(voices[fold_of_voice == fold].tolist()) for fold in range(count))
    return Folds(rule, fold_of_voice[voice], names)


def _spread(counts: NDArray[np.float64], folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Assign groups to folds greedily so that each class is spread evenly and no fold stays empty.

    counts: ``(group, class)``, the clips of each class in each group
    returns: ``(group,)`` int64
    """
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-shares[order].std(axis=1), kind="stable")]
    held = np.zeros((folds, counts.shape[1]))
    of = np.full(len(counts), NEVER, dtype=np.int64)
    for done, group in enumerate(order):
        empty = np.flatnonzero(held.sum(axis=1) == 0)
        open_folds = empty if len(order) - done <= len(empty) else np.arange(folds)
        costs = [_unevenness(held, int(fold), shares[group]) for fold in open_folds]
        of[group] = open_folds[int(np.argmin(costs))]
        held[of[group]] += shares[group]
    return of


def _unevenness(held: NDArray[np.float64], fold: int, more: NDArray[np.float64]) -> float:
    trial = held.copy()
    trial[fold] += more
    return float(trial.std(axis=0).mean() + 1e-6 * trial.sum(axis=1).max())  # ties go to the emptier fold


# --- given -----------------------------------------------------------------------------------------------------------


def _given_folds(given: Mapping[str, Sequence[str | None]]) -> Folds:
    for column, reader in (("fold", _from_fold_column), ("split", _from_split_column)):
        values = [value for value in given[column] if value is not None]
        if not values:
            continue
        if absent := len(given[column]) - len(values):
            raise FitError(
                f"--folds given: {absent} of {len(given[column])} clips have no value in the column {column!r}; "
                "fill it, or choose --folds speaker, loso or 5"
            )
        return reader(values)
    raise FitError(
        "--folds given: the clips have neither a column 'fold' nor a column 'split'; "
        "add one to the manifest, or choose --folds speaker, loso or 5"
    )


def _from_fold_column(values: list[str]) -> Folds:
    names, of = np.unique(np.asarray(values), return_inverse=True)
    if len(names) < 2:
        raise FitError(f"--folds given: the column 'fold' has one value only ({names[0]!r}); at least 2 are needed")
    return Folds("given", of.astype(np.int64), tuple(names.tolist()))


def _from_split_column(values: list[str]) -> Folds:
    parts = [value.lower() for value in values]
    strange = sorted(set(parts) - _TRAINING - _SCORED)
    if strange:
        raise FitError(
            f"--folds given: the column 'split' holds {some(strange)}; expected train, test and, if there is one, val"
        )
    of = np.where(np.isin(parts, sorted(_SCORED)), 0, NEVER).astype(np.int64)
    if not (of == 0).any() or not (of == NEVER).any():
        raise FitError(
            f"--folds given: the column 'split' holds only {some(sorted(set(parts)))}; "
            "both a train and a test part are needed"
        )
    notes = ("the val part trains too: heads take their inner split from it all",) if len(set(parts)) > 2 else ()
    return Folds("given", of, ("test",), notes)


def _cross_fitted_split(
    count: int,
    labels: NDArray[np.int64],
    speakers: Sequence[str | None],
    given: Mapping[str, Sequence[str | None]],
    seed: int,
) -> Folds:
    """The split's train part in `count` folds, its test part scored by all of their models."""
    split = _given_folds({"fold": [], "split": given["split"]})
    train = np.flatnonzero(split.of == NEVER)
    voices = [speakers[row] for row in train.tolist()]
    inner = (
        _stratified_folds(count, labels[train], seed)
        if len({voice for voice in voices if voice is not None}) < count or None in voices
        else _speaker_folds(count, labels[train], voices, seed)
    )
    of = np.full(len(labels), TEST, dtype=np.int64)
    of[train] = inner.of
    return Folds(f"given:{count}", of, inner.names, split.notes)

"""From probabilities to blends and from blends to accuracies: the challenge's rules to the letter.

With p over six emotions, presence threshold alpha and salience threshold beta:

1. the two largest are kept as they are; of equal ones the lower index comes first;
2. if the largest is below alpha: the largest alone, 100;
3. entries below alpha go; if one is left: that emotion, 100;
4. two are left and one is neutral: never a blend; the other emotion if it is at least as probable as neutral, else
   neutral; 100;
5. else ``|p_i - p_j| <= beta`` gives 50 and 50, and otherwise the larger gets 70 and the smaller 30.

The smaller of the two decides whether both stay, so rules 2 and 3 come to one: a blend needs p of the second >= alpha.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emocache.heads.blends.truth import EMOTIONS, NEUTRAL

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

EQUAL, LARGER, SMALLER = 50, 70, 30
_NO_ORDER, _NO_MATCH = -1, -2


@dataclass(frozen=True)
class Tops:
    """The two most probable emotions of each row. All arrays have the rows' shape.

    first, second: emotions; second_p: the smaller probability; gap: how far it lies below the larger one
    neutral: whether one of them is neutral; chosen: what a single answer names if both are present and one is neutral
    """

    first: IntArray
    second: IntArray
    second_p: FloatArray
    gap: FloatArray
    neutral: NDArray[np.bool_]
    chosen: IntArray


def tops(p: FloatArray) -> Tops:
    """The two most probable of ``(..., emotion)`` and what the rules need of them."""
    first = p.argmax(axis=-1)
    rest = p.copy()
    np.put_along_axis(rest, first[..., None], -np.inf, axis=-1)
    second = rest.argmax(axis=-1)
    first_p = np.take_along_axis(p, first[..., None], axis=-1)[..., 0]
    second_p = np.take_along_axis(rest, second[..., None], axis=-1)[..., 0]
    neutral = (first == NEUTRAL) | (second == NEUTRAL)
    neutral_wins = (first == NEUTRAL) & (second_p < first_p)  # the other emotion needs no more than to be equal
    other = np.where(first == NEUTRAL, second, first)
    chosen = np.where(neutral_wins, NEUTRAL, other)
    return Tops(first, second, second_p, first_p - second_p, neutral, chosen)


def decide(p: FloatArray, alpha: float, beta: float) -> IntArray:
    """Saliences in percent ``(..., emotion)`` from probabilities of the same shape."""
    top = tops(p)
    both = top.second_p >= alpha
    blend = both & ~top.neutral
    single = np.where(both & top.neutral, top.chosen, top.first)
    equal = blend & (top.gap <= beta)
    out = np.zeros(p.shape, dtype=np.int64)
    lead = np.where(blend, np.where(equal, EQUAL, LARGER), 100)
    follow = np.where(blend, np.where(equal, EQUAL, SMALLER), 0)
    np.put_along_axis(out, np.where(blend, top.first, single)[..., None], lead[..., None], axis=-1)
    rows = np.nonzero(blend)
    out[(*rows, top.second[rows])] = follow[rows]
    return out


def presence_accuracy(predicted: NDArray[np.floating] | IntArray, true: IntArray) -> float:
    """ACC_presence: the share of clips whose predicted set of emotions is the true one, ``(clip, emotion)`` each."""
    return float(((predicted > 0) == (true > 0)).all(axis=-1).mean()) if len(true) else 0.0


def salience_accuracy(predicted: NDArray[np.floating] | IntArray, true: IntArray) -> float:
    """ACC_salience: of the clips with two true emotions, how many are predicted as these two with these rounded shares.

    0.0 if no clip has two.
    """
    blends = (true > 0).sum(axis=-1) == 2
    if not blends.any():
        return 0.0
    own, wanted = predicted[blends], true[blends]
    same = (np.rint(own) == np.rint(wanted)).all(axis=-1) & ((own > 0) == (wanted > 0)).all(axis=-1)
    return float(same.mean())


@dataclass(frozen=True)
class Keys:
    """What the rules have to hit, one entry a clip, ``(clip,)`` each.

    emotions: the true set as bits; larger: of a 70/30 blend the larger emotion, of 50/50 `_NO_ORDER`, else `_NO_MATCH`
    """

    emotions: IntArray
    larger: IntArray
    blends: int

    @classmethod
    def of(cls, true: IntArray) -> Keys:
        """From saliences ``(clip, emotion)``."""
        emotions = ((true > 0) << np.arange(len(EMOTIONS))).sum(axis=1)
        two = (true > 0).sum(axis=1) == 2
        larger = np.full(len(true), _NO_MATCH, dtype=np.int64)
        larger[two & (true.max(axis=1) == EQUAL)] = _NO_ORDER
        uneven = two & (true.max(axis=1) == LARGER)
        larger[uneven] = true[uneven].argmax(axis=1)
        return cls(emotions, larger, int(two.sum()))

    def hits(self, p: FloatArray, clip: IntArray, alpha: float, beta: float) -> NDArray[np.bool_]:
        """Whether presence and salience are right, ``(2, row)``; p: ``(row, emotion)``, `clip`: whose, ``(row,)``."""
        top = tops(p)
        both = top.second_p >= alpha
        blend = both & ~top.neutral
        pair = (1 << top.first) | (1 << top.second)
        single = 1 << np.where(both, top.chosen, top.first)
        present = np.where(blend, pair, single) == self.emotions[clip]
        order = np.where(top.gap <= beta, _NO_ORDER, top.first)
        return np.stack([present, blend & present & (order == self.larger[clip])])

    def score(self, hits: FloatArray) -> FloatArray:
        """The mean of both accuracies from numbers of hits ``(2, ...)``."""
        return np.asarray((hits[0] / max(len(self.emotions), 1) + hits[1] / max(self.blends, 1)) / 2)

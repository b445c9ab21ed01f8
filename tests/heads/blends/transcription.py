"""The challenge's rules, transcribed clip by clip as they are written, slowly."""

from __future__ import annotations

from collections.abc import Sequence

EMOTIONS = ["ang", "disg", "fea", "hap", "sad", "neu"]


def post_process(p: Sequence[float], alpha: float, beta: float) -> dict[str, int]:
    ranked = sorted(range(6), key=lambda i: (-p[i], i))
    kept = ranked[:2]
    if max(p) < alpha:
        return {EMOTIONS[ranked[0]]: 100}
    left = [i for i in kept if not p[i] < alpha]
    if len(left) == 1:
        return {EMOTIONS[left[0]]: 100}
    if 5 in left:
        other = left[0] if left[1] == 5 else left[1]
        return {EMOTIONS[other if p[other] >= p[5] else 5]: 100}
    i, j = left
    if abs(p[i] - p[j]) <= beta:
        return {EMOTIONS[i]: 50, EMOTIONS[j]: 50}
    return {EMOTIONS[i]: 70, EMOTIONS[j]: 30} if p[i] > p[j] else {EMOTIONS[i]: 30, EMOTIONS[j]: 70}


def acc_presence(predicted: Sequence[dict[str, float]], true: Sequence[dict[str, float]]) -> float:
    return sum(set(a) == set(b) for a, b in zip(predicted, true, strict=True)) / len(predicted)


def acc_salience(predicted: Sequence[dict[str, float]], true: Sequence[dict[str, float]]) -> float:
    hits = []
    for said, is_so in zip(predicted, true, strict=True):
        if len(is_so) != 2:
            continue
        hits.append(
            len(said) == 2
            and all(emotion in said and round(said[emotion]) == round(is_so[emotion]) for emotion in is_so)
        )
    return sum(hits) / len(hits) if hits else 0.0

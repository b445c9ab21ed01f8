"""How the synthetic speakers show a feeling in face, voice and words: rules of thumb, exaggerated, masked and noisy.

At most one of the three is masked in a clip: it then shows another feeling, often none. So each one alone misleads
often, and the three together mostly agree, which is what a multimodal corpus needs to be worth the name.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from emocache.demo.face import Expression
from emocache.demo.speech import Manner

LABELS = ("angry", "happy", "neutral", "sad")
CHANNELS = ("face", "voice", "words")
MASK_RATE = 0.65
"""How many clips have one masked channel."""

_FACES = {
    "angry": Expression(brow_inner=-1.3, brow_outer=0.3, lid=0.2, corner=-0.4, spread=-0.5),
    "happy": Expression(brow_inner=0.1, brow_outer=0.2, lid=-0.3, corner=1.3, spread=1.0),
    "neutral": Expression(),
    "sad": Expression(brow_inner=1.2, brow_outer=-0.6, lid=-0.6, corner=-1.0, spread=-0.3),
}
_VOICES = {
    "angry": Manner(pitch_st=2.5, melody=3.0, rate=1.2, level_db=6.0, tilt_db=4.0, jitter=0.02),
    "happy": Manner(pitch_st=5.0, melody=6.0, rate=1.1, level_db=2.0, tilt_db=0.5, jitter=0.01),
    "neutral": Manner(),
    "sad": Manner(pitch_st=-2.5, melody=0.8, rate=0.78, level_db=-6.0, tilt_db=-4.0, jitter=0.012),
}
_FACE_NOISE = 0.1
_VOICE_NOISE = Manner(pitch_st=0.7, melody=0.4, rate=0.04, level_db=1.2, tilt_db=0.5, jitter=0.003)


@dataclass(frozen=True)
class Cue:
    """What one channel of a clip shows: a feeling, and how strongly (0 to 1)."""

    emotion: str
    strength: float


def draw_cues(label: str, rng: np.random.Generator) -> dict[str, Cue]:
    """What face, voice and words show in one clip whose speaker feels `label`."""
    masked = rng.choice(CHANNELS) if rng.random() < MASK_RATE else None
    shown = {channel: _other(label, rng) if channel == masked else label for channel in CHANNELS}
    return {channel: Cue(emotion, rng.uniform(0.75, 1.0)) for channel, emotion in shown.items()}


def _other(label: str, rng: np.random.Generator) -> str:
    """What is shown instead of `label`: nothing in half of the cases, else another feeling."""
    if label != "neutral" and rng.random() < 0.5:
        return "neutral"
    return str(rng.choice([other for other in LABELS if other not in (label, "neutral")]))


def expression_of(cue: Cue, rng: np.random.Generator) -> Expression:
    """The face at the height of the cue, with chance movements of its own."""
    target = _FACES[cue.emotion]
    moves = ("brow_inner", "brow_outer", "lid", "corner", "spread")
    return Expression(
        **{move: cue.strength * getattr(target, move) + rng.normal(0, _FACE_NOISE) for move in moves},
        gaze=rng.normal(0, 0.4),
    )


def manner_of(cue: Cue, rng: np.random.Generator) -> Manner:
    """The voice of the cue, between the neutral one and the full one, with chance deviations."""
    target, rest = _VOICES[cue.emotion], Manner()
    values = {}
    for item in fields(Manner):
        start, end = getattr(rest, item.name), getattr(target, item.name)
        values[item.name] = start + cue.strength * (end - start) + rng.normal(0, getattr(_VOICE_NOISE, item.name))
    values["melody"], values["jitter"] = max(values["melody"], 0.2), max(values["jitter"], 0.002)
    return Manner(**values)

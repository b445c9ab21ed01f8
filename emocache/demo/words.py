"""Short everyday sentences that can be said in any mood, most with a few words that hint at one."""

from __future__ import annotations

import numpy as np

_STATEMENTS = (
    "the bus is at the gate",
    "the train comes at nine",
    "my sister is at home",
    "the door is open now",
    "we eat at seven",
    "he put it on the table",
    "the letter came today",
    "she sold the old car",
    "the shop is near here",
    "it rains in the city",
    "we walk to the river",
    "our team plays tonight",
)
_HINTS = {
    "angry": ("stop it", "enough", "I hate this"),
    "happy": ("wonderful", "I love it", "what luck"),
    "neutral": ("well", "by the way", "as usual"),
    "sad": ("I miss you", "too late", "it hurts"),
}
HINT_RATE = 0.95
"""How many sentences carry a hint at all."""


def sentence(emotion: str, rng: np.random.Generator) -> str:
    """One short sentence, with a hint at `emotion` before or after it in `HINT_RATE` of the cases."""
    statement = _STATEMENTS[rng.integers(len(_STATEMENTS))]
    if rng.random() >= HINT_RATE:
        return statement
    hint = _HINTS[emotion][rng.integers(len(_HINTS[emotion]))]
    return f"{hint}, {statement}" if rng.random() < 0.5 else f"{statement}, {hint}"

"""A talking head: one speaker's portrait on which each frame moves the eyes, the brows, the mouth and the whole.

The expressions are rules of thumb about brows, lids and mouth corners, drawn so that a feature extractor can see them;
they are no model of real faces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emocache.demo.canvas import LEFT, TOP, UNIT_PX, Canvas, darker, soft, to_image
from emocache.demo.head import BROW_V, EYE_V, HEIGHT, MOUTH_V, NOSE_V, WIDTH, Look, bare_head, room

_MARGIN_PX = 60
"""The columns on both sides of a frame that the head never reaches, left alone to save time."""
_LASH = (0.09, 0.06, 0.05)
_PUPIL = (0.03, 0.02, 0.02)
_SCLERA = (0.95, 0.93, 0.91)
_THROAT = (0.18, 0.06, 0.06)
_TEETH = (0.92, 0.90, 0.86)


@dataclass(frozen=True)
class Expression:
    """What the face does in one frame: 0 is at rest.

    brow_inner, brow_outer: the ends of the brows, up (1) or down (-1)
    lid: the upper lid, wide (1) or drooping (-1)
    corner: the mouth's corners, up (1) or down (-1)
    spread: the mouth, broad (1) or narrow (-1)
    mouth_open, blink: from 0 to 1; gaze: to the left (-1) or right (1)
    """

    brow_inner: float = 0.0
    brow_outer: float = 0.0
    lid: float = 0.0
    corner: float = 0.0
    spread: float = 0.0
    mouth_open: float = 0.0
    blink: float = 0.0
    gaze: float = 0.0


@dataclass(frozen=True)
class Pose:
    """Where the head is in one frame: shift in pixels, roll in radians (clockwise), scale as a factor."""

    right_px: float = 0.0
    down_px: float = 0.0
    roll: float = 0.0
    scale: float = 1.0


class Portrait:
    """One speaker, painted once, ready to be shown with any expression and pose."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self._bare, self._covered = bare_head(look)
        self._wall, self._shirt = room(look)

    def frame(self, expression: Expression, pose: Pose) -> NDArray[np.uint8]:
        """Draw one frame, ``(HEIGHT, WIDTH, 3)`` uint8 in RGB."""
        head = self._bare.copy()
        _paint_eyes(head, self.look, expression)
        _paint_brows(head, self.look, expression)
        _paint_mouth(head, self.look, expression)
        sprite = to_image(np.dstack([head.colour, self._covered]))
        size = (WIDTH - 2 * _MARGIN_PX, HEIGHT)
        placed = sprite.transform(size, Image.Transform.AFFINE, _inverse(pose), Image.Resampling.BILINEAR)
        picture = self._wall.copy()
        picture.paste(placed, (_MARGIN_PX, 0), placed)
        picture.paste(self._shirt, mask=self._shirt)
        return np.asarray(picture)


def _inverse(pose: Pose) -> tuple[float, float, float, float, float, float]:
    """The affine map from a pixel of the frame's middle part to a pixel of the head's canvas, in Pillow's order."""
    cos, sin = np.cos(pose.roll) / pose.scale, np.sin(pose.roll) / pose.scale
    # (x, y) is where the middle of the eyes shall be
    x, y = WIDTH / 2 - _MARGIN_PX + pose.right_px, HEIGHT / 2 - 12 + pose.down_px
    return (cos, sin, -LEFT * UNIT_PX - cos * x - sin * y, -sin, cos, -TOP * UNIT_PX + sin * x - cos * y)


def _paint_eyes(head: Canvas, look: Look, expression: Expression) -> None:
    """Ball, iris, pupil, glint, lashes and the crease of the lid."""
    part = head.part(-0.85, -0.3, 0.85, 0.25)
    u, v = part.u, part.v
    x = (np.abs(u) - look.eye_gap) / look.eye_size  # -1 at the inner corner, 1 at the outer one
    arch = np.clip(1 - x**2, 0, None)
    opening = (1 - expression.blink) * (1 + 0.45 * expression.lid)
    cheek = 1 - 0.5 * max(expression.corner, 0)  # a smile lifts the lower lid
    upper = EYE_V + 0.02 - 0.02 * x - 0.62 * look.eye_size * opening * arch**0.8
    lower = EYE_V + 0.03 - 0.02 * x + 0.30 * look.eye_size * cheek * arch**0.9
    inside = soft(upper - v, 0.03) * soft(v - lower, 0.03) * soft(np.abs(x) - 1, 0.1)
    part.paint(_SCLERA, inside, 0.92 - 0.25 * x**2 - 0.35 * soft(v - upper - 0.05, 0.1))
    across = u - np.sign(u) * look.eye_gap - 0.05 * expression.gaze
    part.paint(look.iris, inside * soft(np.hypot(across, v - EYE_V + 0.03) - 0.098))
    part.paint(_PUPIL, inside * soft(np.hypot(across, v - EYE_V + 0.03) - 0.048))
    part.paint((1, 1, 1), 0.9 * inside * soft(np.hypot(across + 0.035, v - EYE_V + 0.07) - 0.018))
    along = soft(np.abs(x) - 1.08, 0.25)
    part.paint(_LASH, 0.9 * along * soft(np.abs(v - upper) - 0.02, 0.035))
    part.paint(darker(look.skin, 0.5), 0.50 * along * soft(np.abs(v - lower) - 0.006, 0.03))
    part.paint(darker(look.skin, 0.5), 0.45 * along * soft(np.abs(v - upper + 0.075) - 0.006, 0.04))


def _paint_brows(head: Canvas, look: Look, expression: Expression) -> None:
    """Two tapering brows, and the furrow between them when they are drawn together."""
    part = head.part(-0.95, -0.75, 0.95, -0.05)
    u, v = part.u, part.v
    x = (np.abs(u) - look.eye_gap) / 0.29  # -1 at the inner end, 1 at the outer one
    inner, outer = np.clip(0.5 - 0.5 * x, 0, 1), np.clip(0.5 + 0.5 * x, 0, 1)
    rest = BROW_V - 0.07 * (1 - x**2) + 0.03 * outer
    height = rest - 0.13 * expression.brow_inner * inner**1.3 - 0.11 * expression.brow_outer * outer
    thickness = 0.75 * look.brow_weight * np.clip(1 - 0.45 * x, 0.1, 1.3)
    hairy = 0.85 + 0.15 * np.sin(70 * u + 25 * v)
    part.paint(
        darker(look.hair, 0.8), 0.9 * hairy * soft(np.abs(v - height) - thickness, 0.06) * soft(np.abs(x) - 1, 0.25)
    )
    furrow = part.hills((0.1, -0.25), (0.025, 0.1))
    part.paint(darker(look.skin, 0.5), 0.5 * max(-expression.brow_inner, 0) * furrow)


def _paint_mouth(head: Canvas, look: Look, expression: Expression) -> None:
    """Lips that part, what is behind them, and the folds beside them."""
    part = head.part(-0.7, 0.5, 0.7, 1.5)
    v = part.v
    half = look.mouth_width * (1 + 0.2 * expression.spread - 0.12 * expression.mouth_open)
    x = part.u / half  # -1 and 1 at the corners
    arch = np.clip(1 - x**2, 0, None)
    line = MOUTH_V - 0.11 * expression.corner * (np.clip(x**2, 0, 1.2) - 0.35)
    gap = 0.16 * expression.mouth_open * arch**0.7
    teeth_edge, lip_edge = line - 0.4 * gap, line + 0.8 * gap
    bow = 1 - 0.25 * np.cos(np.clip(4.4 * x, -2 * np.pi, 2 * np.pi))
    inside = soft(np.abs(x) - 1, 0.12)
    lips = inside * soft(teeth_edge - look.lip_weight * bow * arch**0.7 - v, 0.04)
    lips = lips * soft(v - lip_edge - 1.35 * look.lip_weight * arch**0.6, 0.04)
    swelling = 0.35 * np.clip((v - line - gap) / (1.2 * look.lip_weight), -0.3, 1) * (v > line)
    gloss = 0.2 * part.hill((-0.06, MOUTH_V + 0.09), (0.14, 0.03))
    red, green, blue = look.skin
    part.paint((0.86 * red, 0.60 * green, 0.60 * blue), 0.95 * lips, 0.78 + swelling + gloss)
    hole = inside * soft(teeth_edge - 0.012 - v, 0.03) * soft(v - lip_edge - 0.012, 0.03)
    part.paint(_THROAT, 0.9 * hole)
    seen = np.clip(2 * expression.mouth_open - 0.3, 0, 1)
    part.paint(_TEETH, 0.85 * seen * hole * soft(v - teeth_edge - 0.05, 0.04) * soft(np.abs(x) - 0.75, 0.2))
    _paint_folds(part, look, half, expression.corner)


def _paint_folds(part: Canvas, look: Look, half: float, corner: float) -> None:
    """The dimples at the mouth's corners, and the folds from the nose down to them, deeper in a smile."""
    dark = darker(look.skin, 0.55)
    part.paint(dark, 0.45 * part.hills((half * 1.02, MOUTH_V - 0.075 * corner), (0.045, 0.04)))
    fold = np.exp(-(((np.abs(part.u) - 0.22 - 0.5 * (part.v - NOSE_V)) / 0.035) ** 2))
    fold = fold * soft(0.55 - part.v, 0.1) * soft(part.v - 0.95, 0.2)
    part.paint(dark, (0.1 + 0.3 * max(corner, 0)) * fold)

"""What stays still in one synthetic speaker: skull, skin, nose, ears, hair, neck, shirt and the wall behind.

The face is a relief of soft hills under one lamp (Lambert's law), which is human enough for face detectors to find it.
It is drawn from random proportions and looks like nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from emocache.demo.canvas import UNIT_PX, Canvas, Colour, Plane, darker, soft, to_image

WIDTH, HEIGHT = 320, 240
"""The size of a frame in pixels."""
EYE_V, BROW_V, NOSE_V, MOUTH_V = 0.0, -0.33, 0.52, 0.88
"""The heights of the features in face units, downwards from the middle of the eyes."""
_CHEEK_V, _SKULL_V = 0.15, -1.6
"""Where the head is widest, and where it ends above."""
_LAMP = (-0.32, -0.50, 0.80)
"""The direction to the lamp: u, v and towards the viewer."""
_GRAIN = 0.012
"""The standard deviation of the camera's noise; perfectly smooth skin looks like plastic, to detectors too."""

_SKINS = ((0.93, 0.76, 0.65), (0.88, 0.68, 0.55), (0.80, 0.60, 0.46), (0.70, 0.50, 0.38), (0.62, 0.43, 0.33))
_HAIRS = ((0.10, 0.07, 0.06), (0.22, 0.14, 0.09), (0.36, 0.23, 0.13), (0.30, 0.28, 0.27), (0.45, 0.32, 0.18))
_IRISES = ((0.25, 0.15, 0.09), (0.20, 0.30, 0.42), (0.24, 0.32, 0.20))


@dataclass(frozen=True)
class Look:
    """What one synthetic speaker looks like; lengths in face units, colours from 0 to 1."""

    skin: Colour
    hair: Colour
    iris: Colour
    shirt: Colour
    wall: Colour
    chin: float
    jaw: float
    eye_gap: float
    eye_size: float
    brow_weight: float
    nose_width: float
    lip_weight: float
    mouth_width: float
    hairline: float
    hair_length: float
    grain_seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Look:
        """Draw one speaker's proportions and colours."""
        skin = _SKINS[rng.integers(len(_SKINS))]
        return cls(
            skin=darker(skin, rng.uniform(0.95, 1.03)),
            hair=_HAIRS[rng.integers(len(_HAIRS))],
            iris=_IRISES[rng.integers(len(_IRISES))],
            shirt=_any_colour(rng, 0.15, 0.6),
            wall=_any_colour(rng, 0.45, 0.8),
            chin=rng.uniform(1.40, 1.58),
            jaw=rng.uniform(2.1, 2.9),
            eye_gap=rng.uniform(0.40, 0.46),
            eye_size=rng.uniform(0.19, 0.225),
            brow_weight=rng.uniform(0.05, 0.085),
            nose_width=rng.uniform(0.15, 0.21),
            lip_weight=rng.uniform(0.07, 0.11),
            mouth_width=rng.uniform(0.33, 0.41),
            hairline=rng.uniform(-1.0, -0.78),
            hair_length=(0.1, 0.3, 1.2)[rng.integers(3)],
            grain_seed=int(rng.integers(2**31)),
        )


def _any_colour(rng: np.random.Generator, low: float, high: float) -> Colour:
    red, green, blue = rng.uniform(low, high, 3)
    return red, green, blue


def bare_head(look: Look) -> tuple[Canvas, Plane]:
    """Paint the head without eyes, brows and mouth.

    returns: the picture, and where the head covers what is behind it, from 0 to 1
    """
    rng = np.random.default_rng(look.grain_seed)
    canvas = Canvas.blank()
    canvas.colour[:] = look.hair
    covered = _paint_behind(canvas, look)
    covered = np.maximum(covered, _paint_skin(canvas, look))
    covered = np.maximum(covered, _paint_hair(canvas, look, rng))
    _paint_nostrils(canvas, look)
    canvas.colour[:] += rng.normal(0, _GRAIN, (*covered.shape, 1))
    return canvas, covered


def room(look: Look) -> tuple[Image.Image, Image.Image]:
    """A wall with uneven light to stand before (RGB), and a shirt to wear (RGBA), both as large as a frame."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    light = 1.05 - 0.25 * x / WIDTH - 0.2 * y / HEIGHT
    light += np.random.default_rng(look.grain_seed).normal(0, _GRAIN, light.shape)
    across = np.abs(x - WIDTH / 2) / 125
    folds = 0.9 - 0.25 * across + 0.06 * np.sin(x / 9 + y / 23)
    neckline = HEIGHT - 46 + 42 * across**2.6 + 26 * np.exp(-((across / 0.2) ** 2))
    shirt = np.dstack([folds[..., None] * np.asarray(look.shirt), np.clip(0.5 + (y - neckline) / 2, 0, 1)])
    wall = to_image(light[..., None] * np.asarray(look.wall)).filter(ImageFilter.GaussianBlur(0.6))
    return wall, to_image(shirt)


# --- behind the face -------------------------------------------------------------------------------------------------


def _paint_behind(canvas: Canvas, look: Look) -> Plane:
    """Neck, ears and long hair; returns where they are."""
    u, v = np.abs(canvas.u), canvas.v
    neck = soft(u - 0.56 - 0.25 * np.clip(v - 1.6, 0, 1)) * soft(0.8 - v, 0.1)
    shadow_of_the_chin = 0.35 * soft(v - look.chin - 0.12, 0.5)
    canvas.paint(look.skin, neck, 0.86 - 0.35 * (u / 0.62) ** 2 - shadow_of_the_chin)
    side: Plane
    if look.hair_length > 1:
        drape = u - 1.18 * np.sqrt(np.clip(1 - (np.clip(-v - 0.1, 0, 2) / 1.6) ** 2, 0, 1))
        side = soft(drape, 0.12) * soft(v - look.hair_length, 0.3) * soft(0.75 - u, 0.1)
        canvas.paint(look.hair, side, 0.75)
    else:
        rim = ((u - 0.99) / 0.12) ** 2 + ((v - 0.2) / 0.27) ** 2
        side = soft(rim - 1, 0.3)
        canvas.paint(look.skin, side, 0.62 + 0.15 * np.clip(rim, 0, 1))
    covered: Plane = np.maximum(neck, side)
    return covered


# --- the face --------------------------------------------------------------------------------------------------------


def _half_width(v: Plane, look: Look) -> Plane:
    """Half the width of the face at height `v`: an ellipse above the cheeks, below them a jaw with rounder corners."""
    above = np.sqrt(np.clip(1 - ((v - _CHEEK_V) / (_SKULL_V - _CHEEK_V)) ** 2, 0, None))
    down = np.clip((v - _CHEEK_V) / (look.chin - _CHEEK_V), 0, 1)
    width: Plane = np.where(v < _CHEEK_V, above, (1 - down**look.jaw) ** 0.55)
    return width


def _paint_skin(canvas: Canvas, look: Look) -> Plane:
    """The lit relief of the face; returns where it is."""
    u, v = canvas.u, canvas.v
    face: Plane = soft(np.abs(u) - 0.98 * _half_width(v, look), 0.05)
    face = face * soft(v - look.chin, 0.05) * soft(_SKULL_V + 0.2 - v, 0.05)
    light = (_lamplight(_relief(canvas, look)) * _hollows(canvas, look))[..., None]
    warm = np.asarray(look.skin) ** (1 + 0.35 * (1 - light))  # skin in shadow turns redder, not only darker
    blush = 1 - canvas.hills((0.55, 0.45), (0.3, 0.25))[..., None] * np.array([0, 0.07, 0.06])
    canvas.glaze(warm * light * blush, face)
    return face


def _relief(canvas: Canvas, look: Look) -> Plane:
    """How far the face stands out of the picture, in face units: skull, sockets, nose, cheeks, lips and chin."""
    u, v = canvas.u, canvas.v
    hill, hills = canvas.hill, canvas.hills
    width = np.maximum(_half_width(v, look), 1e-3)
    z = 0.9 * np.sqrt(1 - np.clip(np.abs(u) / width, 0, 1) ** 2.4) * np.sqrt(width)
    ridge = np.exp(-((u / (0.10 + 0.05 * np.clip(v, 0, 1))) ** 2)) * np.clip(v + 0.2, 0, 1) * soft(v - NOSE_V, 0.2)
    z = z + 0.42 * ridge + 0.14 * hill((0, NOSE_V - 0.06), (look.nose_width * 0.7, 0.12))
    z = z + 0.07 * hills((look.nose_width, NOSE_V), (0.075, 0.08))
    z = z + 0.06 * hill((0, MOUTH_V), (0.38, 0.16)) - 0.06 * hill((0, MOUTH_V + 0.2), (0.22, 0.06))
    z = z - 0.05 * hill((0, MOUTH_V - 0.17), (0.05, 0.10)) + 0.10 * hill((0, look.chin - 0.22), (0.26, 0.15))
    z = z - 0.15 * hills((look.eye_gap, EYE_V - 0.02), (0.27, 0.15))
    z = z + 0.07 * hills((look.eye_gap, BROW_V), (0.32, 0.1)) + 0.10 * hills((0.56, 0.42), (0.28, 0.26))
    relief: Plane = z
    return relief


def _lamplight(relief: Plane) -> Plane:
    """Lambert's light of one lamp on a relief, with some light from everywhere."""
    dz_dv, dz_du = np.gradient(relief, 1 / UNIT_PX)
    facing = -dz_du * _LAMP[0] - dz_dv * _LAMP[1] + _LAMP[2]
    lit: Plane = 0.42 + 0.68 * np.clip(facing / np.sqrt(dz_du**2 + dz_dv**2 + 1), 0, 1)
    return lit


def _hollows(canvas: Canvas, look: Look) -> Plane:
    """What the relief's own shadows leave of the light: sockets, under the nose, under the lip."""
    dark = 0.20 * canvas.hills((look.eye_gap - 0.06, EYE_V - 0.08), (0.24, 0.13))
    dark = dark + 0.22 * canvas.hill((0, NOSE_V + 0.12), (0.2, 0.06))
    dark = dark + 0.16 * canvas.hill((0, MOUTH_V + 0.21), (0.2, 0.05))
    light: Plane = 1 - dark
    return light


def _paint_nostrils(canvas: Canvas, look: Look) -> None:
    dark = darker(look.skin, 0.35)
    canvas.paint(dark, 0.85 * canvas.hills((look.nose_width * 0.55, NOSE_V + 0.075), (0.055, 0.03)))
    canvas.paint(dark, 0.35 * canvas.hills((look.nose_width * 1.25, NOSE_V + 0.01), (0.03, 0.08)))


def _paint_hair(canvas: Canvas, look: Look, rng: np.random.Generator) -> Plane:
    """Hair above the hairline and at the temples; returns where it is."""
    u, v = np.abs(canvas.u), canvas.v
    skull = ((u / 1.1) ** 2.5 + (np.abs(v - 0.1) / 1.72) ** 2.5) ** 0.4 - 1
    line = look.hairline + 0.75 * np.clip(u - 0.25, 0, 1) ** 2 + 0.04 * np.sin(9 * canvas.u + look.grain_seed % 7)
    temple = 2 * np.clip((u - 0.86) / 0.1, 0, 1)
    where = soft(skull, 0.08) * soft(v - np.minimum(line + temple, look.hair_length - 0.1), 0.12)
    strands = rng.normal(0, 0.12, (1, u.shape[1]))
    canvas.paint(look.hair, where, 0.9 + 0.5 * canvas.hill((-0.3, -1.25), (0.5, 0.2)) + strands - 0.15 * u**2)
    return where

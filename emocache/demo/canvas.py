"""The plane that a head is painted on, in face units, and the brushes: soft edges, hills, glazes.

The origin lies between the eyes, 1 is half the width of the face, ``u`` runs to the right and ``v`` down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.floating]
"""One value per pixel, ``(height, width)``; float32 where speed matters."""
Colour = tuple[float, float, float]
"""Red, green and blue from 0 to 1."""

UNIT_PX = 52
"""Pixels per face unit at scale 1."""
LEFT, TOP, RIGHT, BOTTOM = -1.5, -1.85, 1.5, 2.3
"""The part of the plane that a head fills, in face units."""


@dataclass(frozen=True)
class Canvas:
    """A rectangle of the plane: where each pixel lies, ``(height, width)``, and its colour, ``(height, width, 3)``."""

    u: Plane
    v: Plane
    colour: NDArray[np.float32]

    @classmethod
    def blank(cls) -> Canvas:
        """The whole plane in black, float32."""
        us = np.arange(LEFT, RIGHT, 1 / UNIT_PX, dtype=np.float32)
        vs = np.arange(TOP, BOTTOM, 1 / UNIT_PX, dtype=np.float32)
        u, v = np.meshgrid(us, vs)
        return cls(u, v, np.zeros((*u.shape, 3), dtype=np.float32))

    def copy(self) -> Canvas:
        """The same picture, to be painted over."""
        return Canvas(self.u, self.v, self.colour.copy())

    def part(self, left: float, top: float, right: float, bottom: float) -> Canvas:
        """A rectangle of the whole plane; painting on it paints on the whole."""
        rows = slice(int((top - TOP) * UNIT_PX), int((bottom - TOP) * UNIT_PX))
        columns = slice(int((left - LEFT) * UNIT_PX), int((right - LEFT) * UNIT_PX))
        return Canvas(self.u[rows, columns], self.v[rows, columns], self.colour[rows, columns])

    def paint(self, colour: Colour, alpha: Plane, light: Plane | float = 1.0) -> None:
        """Lay `colour`, lit by `light`, over the picture where `alpha` is 1."""
        lit = np.asarray(colour, dtype=np.float32) * np.asarray(light, dtype=np.float32)[..., None]
        self.glaze(lit, alpha)

    def glaze(self, colours: NDArray[np.floating], alpha: Plane) -> None:
        """Lay a picture over the picture where `alpha` is 1."""
        self.colour[:] += (colours - self.colour) * alpha[..., None]

    def hill(self, at: tuple[float, float], radius: tuple[float, float]) -> Plane:
        """A Gaussian hill of height 1."""
        return np.exp(-(((self.u - at[0]) / radius[0]) ** 2) - ((self.v - at[1]) / radius[1]) ** 2)

    def hills(self, at: tuple[float, float], radius: tuple[float, float]) -> Plane:
        """A Gaussian hill of height 1 on either side of the nose."""
        return np.exp(-(((np.abs(self.u) - at[0]) / radius[0]) ** 2) - ((self.v - at[1]) / radius[1]) ** 2)


def soft(distance: Plane, width: float = 1.5 / UNIT_PX) -> Plane:
    """1 where `distance` (face units) is well below 0, 0 well above, smooth over `width`."""
    t = np.clip(0.5 - distance / width, 0, 1)
    edge: Plane = t * t * (3 - 2 * t)
    return edge


def darker(colour: Colour, factor: float) -> Colour:
    """The same hue with less light."""
    red, green, blue = colour
    return factor * red, factor * green, factor * blue


def to_image(picture: NDArray[np.floating]) -> Image.Image:
    """Numbers from 0 to 1, ``(height, width, 3 or 4)``, as Pillow's RGB or RGBA."""
    return Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))

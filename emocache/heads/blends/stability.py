"""How stable thresholds are from fold to fold (Section IV-D of the BLEMORE system paper), as a picture: plain SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from emocache.heads.blends.thresholds import Thresholds, surface

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

VALUES = np.linspace(0.0, 0.6, 121)
"""Thresholds that are drawn; above, hardly any clip has a second emotion."""
_WIDTH, _HEIGHT, _MARGIN = 420, 260, 48
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")


def stability_svg(parts: Sequence[tuple[str, FloatArray, IntArray, Thresholds]]) -> str:
    """Two panels, a curve a fold: the score over alpha at the fold's best beta, and over beta at its best alpha.

    parts: the fold's name, its probabilities and true saliences ``(clip, emotion)``, and its own best thresholds, which
        are marked by dots
    """
    over_alpha = [surface(p, true, VALUES, np.array([best.beta]))[:, 0] for _, p, true, best in parts]
    over_beta = [surface(p, true, np.array([best.alpha]), VALUES)[0] for _, p, true, best in parts]
    top = max(float(curve.max()) for curve in (*over_alpha, *over_beta)) * 1.1 or 1.0
    names = [name for name, *_ in parts]
    best = [part[3] for part in parts]
    panels = [
        _panel(0, "presence threshold alpha", over_alpha, [(b.alpha, b.score) for b in best], top),
        _panel(_WIDTH, "salience threshold beta", over_beta, [(b.beta, b.score) for b in best], top),
    ]
    size = f'width="{2 * _WIDTH}" height="{_HEIGHT + 24}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    return (
        "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *panels, _legend(names), "</svg>"]) + "\n"
    )


def _panel(left: int, title: str, curves: Sequence[FloatArray], dots: Sequence[tuple[float, float]], top: float) -> str:
    def x(value: float) -> float:
        return left + _MARGIN + min(value / float(VALUES[-1]), 1.0) * (_WIDTH - _MARGIN - 12)

    def y(score: float) -> float:
        return _HEIGHT - _MARGIN - score / top * (_HEIGHT - _MARGIN - 12)

    lines = [f'<path d="M{x(0):.1f} {y(top):.1f}V{y(0):.1f}H{x(VALUES[-1]):.1f}" fill="none" stroke="#888"/>']
    lines += [
        f'<text x="{x(v):.1f}" y="{y(0) + 14:.1f}" text-anchor="middle">{v:.1f}</text>' for v in np.arange(0, 0.61, 0.1)
    ]
    lines += [
        f'<text x="{x(0) - 4:.1f}" y="{y(s) + 4:.1f}" text-anchor="end">{s:.2f}</text>' for s in np.linspace(0, top, 5)
    ]
    middle = left + _MARGIN + (_WIDTH - _MARGIN) / 2
    lines.append(f'<text x="{middle:.0f}" y="{y(0) + 30:.1f}" text-anchor="middle">{title}</text>')
    for number, (curve, (at, score)) in enumerate(zip(curves, dots, strict=True)):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{x(v):.1f},{y(s):.1f}" for v, s in zip(VALUES, curve, strict=True))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        lines.append(f'<circle cx="{x(at):.1f}" cy="{y(score):.1f}" r="4" fill="{colour}"/>')
    return "\n".join(lines)


def _legend(names: Sequence[str]) -> str:
    texts = []
    for number, name in enumerate(names):
        x = _MARGIN + number * (2 * _WIDTH - 2 * _MARGIN) / max(len(names), 1)
        colour = _COLOURS[number % len(_COLOURS)]
        shown = escape(name if len(name) <= 16 else name[:15] + "…")
        texts.append(f'<text x="{x:.0f}" y="{_HEIGHT + 14}" fill="{colour}">fold {shown}</text>')
    return "\n".join(texts)

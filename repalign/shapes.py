"""Shapes of the procedural scenes: implicit functions within the unit disk, u right, v up."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

# Typed by numpy, not jaxtyping: only so does mypy follow arithmetic on them.
Plane = npt.NDArray[np.floating]  # height × width
Random = np.random.Generator

# numpy types what a ufunc returns as Any; these we name.
absolute: Callable[[Plane], Plane] = np.abs
hypot: Callable[[Plane, Plane], Plane] = np.hypot
maximum: Callable[[Plane, Plane | float], Plane] = np.maximum
minimum: Callable[[Plane, Plane | float], Plane] = np.minimum


def _disk(u: Plane, v: Plane, random: Random) -> Plane:
    return hypot(u, v) - 0.9


def _ring(u: Plane, v: Plane, random: Random) -> Plane:
    return absolute(hypot(u, v) - 0.68) - random.uniform(0.14, 0.26)


def _button(u: Plane, v: Plane, random: Random) -> Plane:
    """Ellipse with two to four holes."""
    holes, start = int(random.integers(2, 5)), random.uniform(0, math.pi)
    outline = _ellipse(u, v, 0.95, random.uniform(0.68, 0.85))
    for angle in start + 2 * math.pi * np.arange(holes) / holes:
        hole = hypot(u - 0.36 * math.cos(angle), v - 0.36 * math.sin(angle)) - 0.15
        outline = maximum(outline, -hole)
    return outline


def _crescent(u: Plane, v: Plane, random: Random) -> Plane:
    bite = random.uniform(0.64, 0.74)
    return maximum(hypot(u - 0.22, v) - 0.84, bite - hypot(u - 0.62, v))


def _cross(u: Plane, v: Plane, random: Random) -> Plane:
    wide, across, along = random.uniform(0.2, 0.32), absolute(u), absolute(v)
    upright = maximum(across - wide, along - 0.92)
    return minimum(upright, maximum(along - wide, across - 0.92))


def _polygon(u: Plane, v: Plane, random: Random) -> Plane:
    sides = int(random.integers(3, 7))
    along, _ = _fold(u, v, sides)
    return along - 0.98 * math.cos(math.pi / sides)


def _star(u: Plane, v: Plane, random: Random) -> Plane:
    points = int(random.integers(5, 9))
    across, away = _fold(u, v, points)
    inner, half = random.uniform(0.42, 0.58), math.pi / points
    # In one folded sector the rim is the line from the notch at angle 0 to the tip at angle half.
    tip = (math.cos(half), math.sin(half))
    length = math.hypot(tip[0] - inner, tip[1])
    return (tip[1] * (across - inner) - (tip[0] - inner) * away) / length


def _flower(u: Plane, v: Plane, random: Random) -> Plane:
    petals, deep = int(random.integers(5, 9)), random.uniform(0.14, 0.22)
    radius = hypot(u, v)
    rim = 0.92 - deep + deep * np.cos(petals * np.arctan2(u, v))
    return maximum(0.75 * (radius - rim), 0.17 - radius)


def _fish(u: Plane, v: Plane, random: Random) -> Plane:
    body = _ellipse(u - 0.22, v, 0.72, random.uniform(0.38, 0.5))
    tail = maximum(absolute(v) + 0.85 * (u + 0.3), -0.82 - u + 0.5 * (0.4 - absolute(v)))
    eye = hypot(u - 0.58, v - 0.12) - 0.075
    return maximum(minimum(body, 0.76 * tail), -eye)


def _face(u: Plane, v: Plane, random: Random) -> Plane:
    """Head with ears, and eyes, nose and mouth cut out."""
    across, wide = absolute(u), random.uniform(0.64, 0.76)
    head = _ellipse(u, v, wide, 0.9)
    ears = hypot(across - wide, v - 0.1) - 0.2
    eyes = _ellipse(across - 0.29, v - 0.22, 0.14, random.uniform(0.08, 0.14))
    nose = _ellipse(u, v + 0.06, 0.05, 0.13)
    smile = random.uniform(-0.9, 0.9)
    mouth = maximum(absolute(v + 0.48 - smile * u * u) - 0.07, across - 0.34)
    cut = minimum(minimum(eyes, nose), mouth)
    return maximum(minimum(head, ears), -cut)


# Each letter: strokes (from u, from v, to u, to v).
_LETTERS: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "A": ((-0.6, -0.7, 0, 0.7), (0.6, -0.7, 0, 0.7), (-0.34, -0.2, 0.34, -0.2)),
    "H": ((-0.5, -0.7, -0.5, 0.7), (0.5, -0.7, 0.5, 0.7), (-0.5, 0, 0.5, 0)),
    "K": ((-0.45, -0.7, -0.45, 0.7), (-0.45, -0.05, 0.5, 0.7), (-0.2, 0.15, 0.55, -0.7)),
    "T": ((-0.6, 0.65, 0.6, 0.65), (0, 0.65, 0, -0.75)),
    "Y": ((-0.55, 0.7, 0, 0), (0.55, 0.7, 0, 0), (0, 0, 0, -0.75)),
    "Z": ((-0.55, 0.65, 0.55, 0.65), (0.55, 0.65, -0.55, -0.65), (-0.55, -0.65, 0.55, -0.65)),
}


def _letter(u: Plane, v: Plane, random: Random) -> Plane:
    strokes, wide = _LETTERS[choose(random, list(_LETTERS))], random.uniform(0.13, 0.21)
    outline = np.full_like(u, np.inf)
    for line in strokes:
        outline = minimum(outline, stroke(1.2 * u, 1.2 * v, *line) - wide)
    return outline


def _tree(u: Plane, v: Plane, random: Random) -> Plane:
    """Trunk that forks three times, a leaf at the end of each twig."""
    outline = np.full_like(u, np.inf)
    tips = [(0.0, -0.9, 0.5 * math.pi, 0.54, 0.11)]  # u, v, heading, length, half width
    for level in range(4):
        grown = []
        for at_u, at_v, heading, length, wide in tips:
            to_u, to_v = at_u + length * math.cos(heading), at_v + length * math.sin(heading)
            branch = stroke(u, v, at_u, at_v, to_u, to_v) - wide
            outline = minimum(outline, branch)
            for side in (-1, 1):
                turn = side * random.uniform(0.4, 0.7)
                grown.append((to_u, to_v, heading + turn, 0.76 * length, 0.72 * wide))
            if level == 3:
                leaf = hypot(u - to_u, v - to_v) - 0.15
                outline = minimum(outline, leaf)
        tips = grown
    return outline


def unit(share: Plane) -> Plane:
    """Clip to the range 0 to 1."""
    return np.clip(share, 0, 1)


def choose(random: Random, names: list[str]) -> str:
    """One of the names, at random."""
    return names[int(random.integers(len(names)))]


def _ellipse(u: Plane, v: Plane, wide: float, high: float) -> Plane:
    return min(wide, high) * (hypot(u / wide, v / high) - 1)


def stroke(u: Plane, v: Plane, at_u: float, at_v: float, to_u: float, to_v: float) -> Plane:
    """Distance to a line segment."""
    run_u, run_v = to_u - at_u, to_v - at_v
    part = unit(((u - at_u) * run_u + (v - at_v) * run_v) / (run_u * run_u + run_v * run_v))
    return hypot(u - at_u - part * run_u, v - at_v - part * run_v)


def _fold(u: Plane, v: Plane, sectors: int) -> tuple[Plane, Plane]:
    """Fold the plane into half of one of its equal sectors; a sector's border points up."""
    half = math.pi / sectors
    angle = absolute(np.mod(np.arctan2(u, v), 2 * half) - half)
    radius = hypot(u, v)
    return radius * np.cos(angle), radius * np.sin(angle)


SHAPES: dict[str, Callable[[Plane, Plane, Random], Plane]] = {
    "button": _button,
    "crescent": _crescent,
    "cross": _cross,
    "disk": _disk,
    "face": _face,
    "fish": _fish,
    "flower": _flower,
    "letter": _letter,
    "polygon": _polygon,
    "ring": _ring,
    "star": _star,
    "tree": _tree,
}

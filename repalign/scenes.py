"""Seeded pictures of textured objects: stimuli for simulated recordings and offline demos.

Every shape is an implicit function of object coordinates (negative inside, roughly a distance),
drawn with numpy alone, so a picture does not hang on a drawing library's version.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Shaped, UInt8

__all__ = ["Scenes", "scenes"]

# Typed by numpy, not jaxtyping: only so does mypy follow arithmetic on them.
Plane = npt.NDArray[np.floating]  # height × width
Picture = npt.NDArray[np.floating]  # height × width × 3
Colour = npt.NDArray[np.floating]  # 3
Colours = tuple[Colour, Colour]
Random = np.random.Generator

# numpy types what a ufunc returns as Any; these we name.
_abs: Callable[[Plane], Plane] = np.abs
_hypot: Callable[[Plane, Plane], Plane] = np.hypot
_maximum: Callable[[Plane, Plane | float], Plane] = np.maximum
_minimum: Callable[[Plane, Plane | float], Plane] = np.minimum

_OVERSAMPLE = 2
_TILE = 128  # side of the noise tile that objects wear, whatever the image size
_REACH = 1.25  # an object at its widest stretch stays within scale * _REACH of its centre


@dataclass(frozen=True)
class Scenes:
    """Pictures with their ids and what was drawn; `scenes` makes them.

    Attributes:
        images: RGB pictures [stimulus, height, width, 3], 0 to 255.
        stimulus_id: one id per picture: `"scene-0000"`, `"scene-0001"`, ...
        table: one column per property, one row per picture: `category`, `texture` and
            `background` (names), `x` and `y` (centre of the object from the left and from the
            top, as a fraction of the side), `scale` (radius of the object's unit disk, as a
            fraction of the side) and `rotation_deg` (in the picture, counter-clockwise).
    """

    images: UInt8[np.ndarray, "stimulus height width 3"]
    stimulus_id: tuple[str, ...]
    table: dict[str, Shaped[np.ndarray, " stimulus"]]


def scenes(n: int, *, seed: int = 0, size: int = 128) -> Scenes:
    """Draw n pictures, each of one textured object on a varied background.

    Twelve categories of object take a random place, size, rotation, mild perspective, texture,
    colour, light and background. Categories come in blocks of twelve, each block a random
    permutation, so the counts of any two categories differ by one at most.

    Args:
        n: number of pictures.
        seed: picture i depends on (seed, i, size) and not on n: the first 50 of 200 are the 50
            of 50. The table depends on (seed, i) alone.
        size: side of the square pictures in pixels.

    Returns:
        The pictures, their ids and a table of what each shows.

    Raises:
        ValueError: n is below 1, size below 32 or seed negative.

    Example:
        >>> drawn = scenes(24, seed=1, size=64)
        >>> drawn.images.shape, drawn.stimulus_id[0]
        ((24, 64, 64, 3), 'scene-0000')
        >>> sorted(set(drawn.table["category"].tolist()))[:4]
        ['button', 'crescent', 'cross', 'disk']

    Notes:
        The same numpy on the same machine repeats a picture bit for bit. Another release of
        numpy may change its random streams, and another processor the last bit of a sine.
    """
    if n < 1:
        raise ValueError(f"n is {n}; scenes draws 1 or more pictures. Pass n=1 or more.")
    if size < 32:
        raise ValueError(
            f"size is {size}; a scene needs 32 or more pixels a side to show its texture. "
            "Draw at size=32 or more and shrink the images."
        )
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more. Pass a non-negative integer.")
    images = np.empty((n, size, size, 3), np.uint8)
    plans = []
    for index in range(n):
        plan, random = _plan(seed, index)
        images[index] = _render(plan, random, size)[0]
        plans.append(plan)
    names = ("category", "texture", "background", "x", "y", "scale", "rotation_deg")
    return Scenes(
        images=images,
        stimulus_id=tuple(f"scene-{index:04d}" for index in range(n)),
        table={name: np.array([getattr(plan, name) for plan in plans]) for name in names},
    )


@dataclass(frozen=True)
class _Plan:
    """What one picture shows, and the map from image to object coordinates."""

    category: str
    texture: str
    background: str
    x: float
    y: float
    scale: float
    rotation_deg: float
    shear: float
    aspect: float
    perspective: tuple[float, float]

    def object_coordinates(self, size: int) -> tuple[Plane, Plane]:
        """Object coordinates (u to the right, v up) at the centres of size × size pixels."""
        centre = (np.arange(size, dtype=np.float32) + 0.5) / size
        right = ((centre - self.x) / self.scale)[None, :]
        up = ((self.y - centre) / self.scale)[:, None]
        depth = 1 + self.perspective[0] * right + self.perspective[1] * up
        angle = math.radians(self.rotation_deg)
        u = (math.cos(angle) * right + math.sin(angle) * up) / depth
        v = (math.cos(angle) * up - math.sin(angle) * right) / depth
        return (u + self.shear * v) * self.aspect, v / self.aspect


def _plan(seed: int, index: int) -> tuple[_Plan, Random]:
    """Decide what picture index shows; the generator goes on to draw its details."""
    block, place = divmod(index, len(SHAPES))
    # The trailing 1 keeps a block's stream apart from the picture's of the same number.
    order = np.random.default_rng([seed, block, 1]).permutation(len(SHAPES))
    random = np.random.default_rng([seed, index])
    scale = random.uniform(0.24, 0.38)
    plan = _Plan(
        category=list(SHAPES)[order[place]],
        texture=_choose(random, list(TEXTURES)),
        background=_choose(random, list(BACKGROUNDS)),
        x=random.uniform(_REACH * scale, 1 - _REACH * scale),
        y=random.uniform(_REACH * scale, 1 - _REACH * scale),
        scale=scale,
        rotation_deg=random.uniform(-60, 60),
        shear=random.uniform(-0.2, 0.2),
        aspect=random.uniform(0.92, 1.08),
        perspective=(random.uniform(-0.1, 0.1), random.uniform(-0.1, 0.1)),
    )
    return plan, random


def _render(
    plan: _Plan, random: Random, size: int
) -> tuple[UInt8[np.ndarray, "height width 3"], Plane]:
    """Draw one picture; also return how much of each pixel the object covers, 0 to 1."""
    hue = random.uniform()
    behind = _pair(random, hue, saturation=(0.1, 0.6))
    before = _pair(random, hue + random.uniform(0.25, 0.75), saturation=(0.45, 0.95))
    fine = size * _OVERSAMPLE
    u, v = plan.object_coordinates(fine)
    outline = SHAPES[plan.category](u, v, random)
    pixel = 1 / (plan.scale * fine)
    inside = _unit(0.5 - outline / pixel)
    light = random.uniform(0.25 * math.pi, 0.75 * math.pi)  # from above, as the sun
    paint = _mix(before, TEXTURES[plan.texture](u, v, random))
    paint *= _relief(outline, pixel, random.uniform(0.25, 0.7), light)[..., None]
    coverage = _shrink(inside)
    picture = BACKGROUNDS[plan.background](size, behind, random)
    picture *= 1 - 0.55 * _shadow(coverage, light, plan.scale * size)[..., None]
    picture = picture * (1 - coverage[..., None]) + _shrink(paint * inside[..., None])
    return np.rint(255 * _unit(picture)).astype(np.uint8), coverage


def _relief(outline: Plane, pixel: float, bevel: float, light: float) -> Plane:
    """Brightness of a shape whose rim is rounded over a bevel, lit from one side."""
    rise = 1 - _unit(-outline / bevel)
    height = bevel * np.sqrt(np.maximum(1 - rise * rise, 0.02))
    down, right = np.gradient(height, pixel)
    lit = 0.65 - 0.55 * (math.cos(light) * right - math.sin(light) * down)
    shade: Plane = 0.42 + 0.68 * lit / np.sqrt(1 + right * right + down * down)
    return np.clip(shade, 0.3, 1.25)


def _shadow(coverage: Plane, light: float, radius: float) -> Plane:
    """Shadow on the ground, thrown away from the light; radius of the object in pixels."""
    margin = len(coverage) // 8  # the Fourier transform wraps round
    wide = np.pad(coverage, margin)
    down, right = np.fft.fftfreq(len(wide))[:, None], np.fft.rfftfreq(len(wide))[None, :]
    throw = 0.16 * radius * (math.sin(light) * down - math.cos(light) * right)
    blur = 2 * (math.pi * 0.07 * radius) ** 2 * (down * down + right * right)
    fallen = np.fft.irfft2(np.fft.rfft2(wide) * np.exp(-2j * math.pi * throw - blur), s=wide.shape)
    return _unit(fallen[margin:-margin, margin:-margin])


# Shapes: implicit functions within the unit disk, u to the right, v up.


def _disk(u: Plane, v: Plane, random: Random) -> Plane:
    return _hypot(u, v) - 0.9


def _ring(u: Plane, v: Plane, random: Random) -> Plane:
    return _abs(_hypot(u, v) - 0.68) - random.uniform(0.14, 0.26)


def _button(u: Plane, v: Plane, random: Random) -> Plane:
    """Ellipse with two to four holes."""
    holes, start = int(random.integers(2, 5)), random.uniform(0, math.pi)
    outline = _ellipse(u, v, 0.95, random.uniform(0.68, 0.85))
    for angle in start + 2 * math.pi * np.arange(holes) / holes:
        hole = _hypot(u - 0.36 * math.cos(angle), v - 0.36 * math.sin(angle)) - 0.15
        outline = _maximum(outline, -hole)
    return outline


def _crescent(u: Plane, v: Plane, random: Random) -> Plane:
    bite = random.uniform(0.64, 0.74)
    return _maximum(_hypot(u - 0.22, v) - 0.84, bite - _hypot(u - 0.62, v))


def _cross(u: Plane, v: Plane, random: Random) -> Plane:
    wide, across, along = random.uniform(0.2, 0.32), _abs(u), _abs(v)
    upright = _maximum(across - wide, along - 0.92)
    return _minimum(upright, _maximum(along - wide, across - 0.92))


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
    radius = _hypot(u, v)
    rim = 0.92 - deep + deep * np.cos(petals * np.arctan2(u, v))
    return _maximum(0.75 * (radius - rim), 0.17 - radius)


def _fish(u: Plane, v: Plane, random: Random) -> Plane:
    body = _ellipse(u - 0.22, v, 0.72, random.uniform(0.38, 0.5))
    tail = _maximum(_abs(v) + 0.85 * (u + 0.3), -0.82 - u + 0.5 * (0.4 - _abs(v)))
    eye = _hypot(u - 0.58, v - 0.12) - 0.075
    return _maximum(_minimum(body, 0.76 * tail), -eye)


def _face(u: Plane, v: Plane, random: Random) -> Plane:
    """Head with ears, and eyes, nose and mouth cut out."""
    across, wide = _abs(u), random.uniform(0.64, 0.76)
    head = _ellipse(u, v, wide, 0.9)
    ears = _hypot(across - wide, v - 0.1) - 0.2
    eyes = _ellipse(across - 0.29, v - 0.22, 0.14, random.uniform(0.08, 0.14))
    nose = _ellipse(u, v + 0.06, 0.05, 0.13)
    smile = random.uniform(-0.9, 0.9)
    mouth = _maximum(_abs(v + 0.48 - smile * u * u) - 0.07, across - 0.34)
    cut = _minimum(_minimum(eyes, nose), mouth)
    return _maximum(_minimum(head, ears), -cut)


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
    strokes, wide = _LETTERS[_choose(random, list(_LETTERS))], random.uniform(0.13, 0.21)
    outline = np.full_like(u, np.inf)
    for stroke in strokes:
        outline = _minimum(outline, _stroke(1.2 * u, 1.2 * v, *stroke) - wide)
    return outline


def _tree(u: Plane, v: Plane, random: Random) -> Plane:
    """Trunk that forks three times, a leaf at the end of each twig."""
    outline = np.full_like(u, np.inf)
    tips = [(0.0, -0.9, 0.5 * math.pi, 0.54, 0.11)]  # u, v, heading, length, half width
    for level in range(4):
        grown = []
        for at_u, at_v, heading, length, wide in tips:
            to_u, to_v = at_u + length * math.cos(heading), at_v + length * math.sin(heading)
            branch = _stroke(u, v, at_u, at_v, to_u, to_v) - wide
            outline = _minimum(outline, branch)
            for side in (-1, 1):
                turn = side * random.uniform(0.4, 0.7)
                grown.append((to_u, to_v, heading + turn, 0.76 * length, 0.72 * wide))
            if level == 3:
                leaf = _hypot(u - to_u, v - to_v) - 0.15
                outline = _minimum(outline, leaf)
        tips = grown
    return outline


def _ellipse(u: Plane, v: Plane, wide: float, high: float) -> Plane:
    return min(wide, high) * (_hypot(u / wide, v / high) - 1)


def _stroke(u: Plane, v: Plane, at_u: float, at_v: float, to_u: float, to_v: float) -> Plane:
    """Distance to a line segment."""
    run_u, run_v = to_u - at_u, to_v - at_v
    part = _unit(((u - at_u) * run_u + (v - at_v) * run_v) / (run_u * run_u + run_v * run_v))
    return _hypot(u - at_u - part * run_u, v - at_v - part * run_v)


def _fold(u: Plane, v: Plane, sectors: int) -> tuple[Plane, Plane]:
    """Fold the plane into half of one of its equal sectors; a sector's border points up."""
    half = math.pi / sectors
    angle = _abs(np.mod(np.arctan2(u, v), 2 * half) - half)
    radius = _hypot(u, v)
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


# Textures: how much of the second colour an object wears, 0 to 1, in object coordinates.


def _checker(u: Plane, v: Plane, random: Random) -> Plane:
    along, across, often = *_turn(u, v, random), random.uniform(6, 12)
    return _unit(0.5 + 5 * np.sin(often * along) * np.sin(often * across))


def _dots(u: Plane, v: Plane, random: Random) -> Plane:
    along, across, often = *_turn(u, v, random), random.uniform(2.2, 4.5)
    offset = 0.5 * np.mod(np.floor(often * across), 2)  # every other row, as bricks
    far = _hypot(np.mod(often * along + offset, 1) - 0.5, np.mod(often * across, 1) - 0.5)
    return _unit(0.5 + 8 * (random.uniform(0.22, 0.36) - far))


def _grating(u: Plane, v: Plane, random: Random) -> Plane:
    along, across = _turn(u, v, random)
    wave = random.choice([0.0, 0.12]) * np.sin(random.uniform(3, 7) * across)
    phase = random.uniform(8, 24) * (along + wave)
    return _unit(0.5 + random.uniform(0.5, 2) * np.sin(phase))


def _grain(u: Plane, v: Plane, random: Random) -> Plane:
    """A tile of 1/f noise, read where the object's coordinates point."""
    tile = _unit(0.5 + 0.33 * _noise(_TILE, random, power=random.uniform(0.8, 1.4)))
    index_u = np.floor(0.4 * _TILE * u).astype(np.int64) % _TILE
    index_v = np.floor(0.4 * _TILE * v).astype(np.int64) % _TILE
    grain: Plane = tile[index_v, index_u]
    return grain


def _plain(u: Plane, v: Plane, random: Random) -> Plane:
    along, _ = _turn(u, v, random)
    return _unit(0.5 + random.uniform(0.1, 0.5) * along)


TEXTURES: dict[str, Callable[[Plane, Plane, Random], Plane]] = {
    "checker": _checker,
    "dots": _dots,
    "grain": _grain,
    "grating": _grating,
    "plain": _plain,
}


# Backgrounds: a picture of the given side in two colours.


def _cloud(size: int, colours: Colours, random: Random) -> Picture:
    """Two fields of 1/f noise, one of colour and one of light."""
    blend = _unit(0.5 + 0.35 * _noise(size, random, power=random.uniform(1.0, 1.8)))
    light = 0.08 * _noise(size, random, power=random.uniform(0.6, 1.2))
    return _mix(colours, blend) + light[..., None]


def _clutter(size: int, colours: Colours, random: Random) -> Picture:
    """Small disks and bars strewn on a gradient."""
    picture = _gradient(size, colours, random)
    along = (np.arange(size, dtype=np.float32) + 0.5) / size
    across, down = np.meshgrid(along, along)
    for _ in range(int(random.integers(15, 35))):
        at_u, at_v = random.uniform(0, 1, 2)
        to_u, to_v = (at_u, at_v) + random.choice([0.01, 1]) * random.uniform(-0.2, 0.2, 2)
        piece = _stroke(across, down, at_u, at_v, to_u, to_v) - random.uniform(0.015, 0.05)
        covers = _unit(0.5 - size * piece)[..., None]
        colour = _colour(random.uniform(), random.uniform(0.1, 0.6), random.uniform(0.2, 0.9))
        picture += covers * (colour - picture)
    return picture


def _gradient(size: int, colours: Colours, random: Random) -> Picture:
    along = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    turned, _ = _turn(*np.meshgrid(along, along), random)
    return _mix(colours, _unit(0.5 + random.uniform(0.5, 1.0) * turned))


def _stripes(size: int, colours: Colours, random: Random) -> Picture:
    along = (np.arange(size, dtype=np.float32) + 0.5) / size
    turned, across = _turn(*np.meshgrid(along, along), random)
    phase = random.uniform(15, 45) * turned + random.uniform(0, 1.5) * np.sin(6 * across)
    return _mix(colours, _unit(0.5 + random.uniform(0.3, 1) * np.sin(phase)))


BACKGROUNDS: dict[str, Callable[[int, Colours, Random], Picture]] = {
    "cloud": _cloud,
    "clutter": _clutter,
    "gradient": _gradient,
    "stripes": _stripes,
}


def _unit(share: Plane) -> Plane:
    return np.clip(share, 0, 1)


def _noise(size: int, random: Random, power: float) -> Plane:
    """Gaussian noise whose amplitude falls as frequency ** -power; mean 0, deviation 1."""
    spectrum = np.fft.rfft2(random.standard_normal((size, size)))
    frequency = _hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf  # no mean
    field = np.fft.irfft2(spectrum * frequency**-power, s=(size, size))
    return (field / float(field.std())).astype(np.float32)


def _turn(u: Plane, v: Plane, random: Random) -> tuple[Plane, Plane]:
    """Rotate coordinates by a random angle."""
    angle = random.uniform(0, math.pi)
    cosine, sine = math.cos(angle), math.sin(angle)
    return cosine * u + sine * v, cosine * v - sine * u


def _colour(hue: float, saturation: float, value: float) -> Colour:
    """RGB in 0 to 1 from hue in turns, saturation and value."""
    ramp = _abs(np.mod(hue + np.array([0, 2, 1]) / 3, 1) * 6 - 3) - 1
    return (value * (1 - saturation * (1 - _unit(ramp)))).astype(np.float32)


def _pair(random: Random, hue: float, saturation: tuple[float, float]) -> Colours:
    """A darker and a lighter colour of near hues, in random order."""
    dark = _colour(hue, random.uniform(*saturation), random.uniform(0.2, 0.55))
    light = _colour(
        hue + random.uniform(-0.15, 0.15), random.uniform(*saturation), random.uniform(0.65, 1)
    )
    return (dark, light) if random.uniform() < 0.5 else (light, dark)


def _mix(colours: Colours, share: Plane) -> Picture:
    first, second = colours
    return first + share[..., None].astype(np.float32) * (second - first)


def _shrink(fine: Plane) -> Plane:
    """Average blocks of oversampled pixels."""
    k = _OVERSAMPLE
    total = np.zeros_like(fine[::k, ::k])
    for place in range(k * k):
        total += fine[place // k :: k, place % k :: k]
    return total / k**2


def _choose(random: Random, names: list[str]) -> str:
    return names[int(random.integers(len(names)))]

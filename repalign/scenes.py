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

from repalign.shapes import (
    SHAPES,
    Plane,
    Random,
    absolute,
    choose,
    hypot,
    stroke,
    unit,
)

__all__ = ["Scenes", "make_scenes"]

Picture = npt.NDArray[np.floating]  # height × width × 3
Colour = npt.NDArray[np.floating]  # 3
Colours = tuple[Colour, Colour]

_OVERSAMPLE = 2
_TILE = 128  # side of the noise tile that objects wear, whatever the image size
_REACH = 1.25  # an object at its widest stretch stays within scale * _REACH of its centre


@dataclass(frozen=True)
class Scenes:
    """Pictures with their ids and what was drawn; `make_scenes` makes them.

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


def make_scenes(n: int, *, seed: int = 0, size: int = 128) -> Scenes:
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
        >>> drawn = make_scenes(24, seed=1, size=64)
        >>> drawn.images.shape, drawn.stimulus_id[0]
        ((24, 64, 64, 3), 'scene-0000')
        >>> sorted(set(drawn.table["category"].tolist()))[:4]
        ['button', 'crescent', 'cross', 'disk']

    Notes:
        The same numpy on the same machine repeats a picture bit for bit. Another release of
        numpy may change its random streams, and another processor the last bit of a sine.
    """
    if n < 1:
        raise ValueError(f"n is {n}; make_scenes draws 1 or more pictures. Pass n=1 or more.")
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
        texture=choose(random, list(TEXTURES)),
        background=choose(random, list(BACKGROUNDS)),
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
    inside = unit(0.5 - outline / pixel)
    light = random.uniform(0.25 * math.pi, 0.75 * math.pi)  # from above, as the sun
    paint = _mix(before, TEXTURES[plan.texture](u, v, random))
    paint *= _relief(outline, pixel, random.uniform(0.25, 0.7), light)[..., None]
    coverage = _shrink(inside)
    picture = BACKGROUNDS[plan.background](size, behind, random)
    picture *= 1 - 0.55 * _shadow(coverage, light, plan.scale * size)[..., None]
    picture = picture * (1 - coverage[..., None]) + _shrink(paint * inside[..., None])
    return np.rint(255 * unit(picture)).astype(np.uint8), coverage


def _relief(outline: Plane, pixel: float, bevel: float, light: float) -> Plane:
    """Brightness of a shape whose rim is rounded over a bevel, lit from one side."""
    rise = 1 - unit(-outline / bevel)
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
    return unit(fallen[margin:-margin, margin:-margin])


# Textures: how much of the second colour an object wears, 0 to 1, in object coordinates.


def _checker(u: Plane, v: Plane, random: Random) -> Plane:
    along, across, often = *_turn(u, v, random), random.uniform(6, 12)
    return unit(0.5 + 5 * np.sin(often * along) * np.sin(often * across))


def _dots(u: Plane, v: Plane, random: Random) -> Plane:
    along, across, often = *_turn(u, v, random), random.uniform(2.2, 4.5)
    offset = 0.5 * np.mod(np.floor(often * across), 2)  # every other row, as bricks
    far = hypot(np.mod(often * along + offset, 1) - 0.5, np.mod(often * across, 1) - 0.5)
    return unit(0.5 + 8 * (random.uniform(0.22, 0.36) - far))


def _grating(u: Plane, v: Plane, random: Random) -> Plane:
    along, across = _turn(u, v, random)
    wave = random.choice([0.0, 0.12]) * np.sin(random.uniform(3, 7) * across)
    phase = random.uniform(8, 24) * (along + wave)
    return unit(0.5 + random.uniform(0.5, 2) * np.sin(phase))


def _grain(u: Plane, v: Plane, random: Random) -> Plane:
    """A tile of 1/f noise, read where the object's coordinates point."""
    tile = unit(0.5 + 0.33 * _noise(_TILE, random, power=random.uniform(0.8, 1.4)))
    index_u = np.floor(0.4 * _TILE * u).astype(np.int64) % _TILE
    index_v = np.floor(0.4 * _TILE * v).astype(np.int64) % _TILE
    grain: Plane = tile[index_v, index_u]
    return grain


def _plain(u: Plane, v: Plane, random: Random) -> Plane:
    along, _ = _turn(u, v, random)
    return unit(0.5 + random.uniform(0.1, 0.5) * along)


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
    blend = unit(0.5 + 0.35 * _noise(size, random, power=random.uniform(1.0, 1.8)))
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
        piece = stroke(across, down, at_u, at_v, to_u, to_v) - random.uniform(0.015, 0.05)
        covers = unit(0.5 - size * piece)[..., None]
        colour = _colour(random.uniform(), random.uniform(0.1, 0.6), random.uniform(0.2, 0.9))
        picture += covers * (colour - picture)
    return picture


def _gradient(size: int, colours: Colours, random: Random) -> Picture:
    along = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    turned, _ = _turn(*np.meshgrid(along, along), random)
    return _mix(colours, unit(0.5 + random.uniform(0.5, 1.0) * turned))


def _stripes(size: int, colours: Colours, random: Random) -> Picture:
    along = (np.arange(size, dtype=np.float32) + 0.5) / size
    turned, across = _turn(*np.meshgrid(along, along), random)
    phase = random.uniform(15, 45) * turned + random.uniform(0, 1.5) * np.sin(6 * across)
    return _mix(colours, unit(0.5 + random.uniform(0.3, 1) * np.sin(phase)))


BACKGROUNDS: dict[str, Callable[[int, Colours, Random], Picture]] = {
    "cloud": _cloud,
    "clutter": _clutter,
    "gradient": _gradient,
    "stripes": _stripes,
}


def _noise(size: int, random: Random, power: float) -> Plane:
    """Gaussian noise whose amplitude falls as frequency ** -power; mean 0, deviation 1."""
    spectrum = np.fft.rfft2(random.standard_normal((size, size)))
    frequency = hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
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
    ramp = absolute(np.mod(hue + np.array([0, 2, 1]) / 3, 1) * 6 - 3) - 1
    return (value * (1 - saturation * (1 - unit(ramp)))).astype(np.float32)


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

"""Random changes of single images, each reproducible from its own generator.

Every augmentation takes one image in [0, 1] and a generator, and returns an image of the same
shape in [0, 1].
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Pixels = Float[Tensor, "channel height width"]


class Augmentation(Protocol):
    """Parameters with a call."""

    def __call__(self, image: Pixels, generator: torch.Generator) -> Pixels:
        """Return a changed copy."""


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _require(holds: bool, what: str, value: Any, expected: str) -> None:
    if not holds:
        raise ValueError(f"{what} is {value!r}, expected {expected}")


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """Shift by up to ``padding`` pixels; what comes in from outside repeats the edge."""

    padding: int = 4

    def __post_init__(self) -> None:
        """Check the range."""
        _require(self.padding >= 1, "random_crop: padding", self.padding, "1 or more")

    def __call__(self, image: Pixels, generator: torch.Generator) -> Pixels:
        """Return the shifted image."""
        height, width = image.shape[-2:]
        top, left = torch.randint(0, 2 * self.padding + 1, (2,), generator=generator).tolist()
        padded = F.pad(image[None], [self.padding] * 4, mode="replicate")[0]
        return padded[:, top : top + height, left : left + width]


@dataclass(frozen=True, kw_only=True)
class ResizedCrop:
    """Cut out a part of between ``least`` and all of the area, and scale it to the whole."""

    least: float = 0.25

    def __post_init__(self) -> None:
        """Check the range."""
        _require(0 < self.least <= 1, "resized_crop: least", self.least, "a share of the area")

    def __call__(self, image: Pixels, generator: torch.Generator) -> Pixels:
        """Return the enlarged part."""
        height, width = image.shape[-2:]
        side = (self.least + (1 - self.least) * _uniform(generator)) ** 0.5
        rows, columns = max(1, round(side * height)), max(1, round(side * width))
        top = int(torch.randint(0, height - rows + 1, (), generator=generator))
        left = int(torch.randint(0, width - columns + 1, (), generator=generator))
        part = image[None, :, top : top + rows, left : left + columns]
        scaled = F.interpolate(part, (height, width), mode="bilinear", align_corners=False)
        return scaled[0].clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror left and right with some probability."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        """Check the range."""
        _require(0 <= self.probability <= 1, "flip: probability", self.probability, "0 to 1")

    def __call__(self, image: Pixels, generator: torch.Generator) -> Pixels:
        """Return the image or its mirror image."""
        return image.flip(-1) if _uniform(generator) < self.probability else image


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Add Gaussian noise to every pixel and clip to [0, 1]."""

    sd: float = 0.05

    def __post_init__(self) -> None:
        """Check the range."""
        _require(self.sd > 0, "noise: sd", self.sd, "more than 0")

    def __call__(self, image: Pixels, generator: torch.Generator) -> Pixels:
        """Return the noisy image."""
        noise = torch.randn(image.shape, generator=generator, dtype=image.dtype)
        return (image + self.sd * noise).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Colour:
    """Scale brightness, and contrast about the image's mean, by up to the given shares."""

    brightness: float = 0.2
    contrast: float = 0.2

    def __post_init__(self) -> None:
        """Check the ranges."""
        _require(0 <= self.brightness <= 1, "colour: brightness", self.brightness, "0 to 1")
        _require(0 <= self.contrast <= 1, "colour: contrast", self.contrast, "0 to 1")

    def __call__(self, image: Pixels, generator: torch.Generator) -> Pixels:
        """Return the image with another brightness and contrast."""
        bright = 1 + self.brightness * (2 * _uniform(generator) - 1)
        contrast = 1 + self.contrast * (2 * _uniform(generator) - 1)
        mean = image.mean()
        return (((image - mean) * contrast + mean) * bright).clamp(0, 1)


KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a word"),
}
AUGMENTATIONS: dict[str, type[Any]] = {
    "colour": Colour,
    "flip": Flip,
    "noise": Noise,
    "random_crop": RandomCrop,
    "resized_crop": ResizedCrop,
}


def make_augmentations(
    names: Mapping[str, Mapping[str, Any] | Augmentation],
) -> tuple[Augmentation, ...]:
    """Augmentations by name with their parameters, in the order given.

    Raises:
        ValueError: an unknown name or parameter, or a value out of range.

    Example:
        >>> make_augmentations({"noise": {"sd": 0.1}})
        (Noise(sd=0.1),)
    """
    made: list[Augmentation] = []
    for name, parameters in names.items():
        if not isinstance(parameters, Mapping):
            made.append(parameters)
            continue
        if name not in AUGMENTATIONS:
            near = difflib.get_close_matches(name, AUGMENTATIONS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(f"no augmentation {name!r}; there are {known}{hint}")
        kind = AUGMENTATIONS[name]
        usual = {field.name: field.default for field in fields(kind)}
        check_parameters(parameters, usual, f"augmentation {name!r}")
        made.append(kind(**parameters))
    return tuple(made)


def check_parameters(given: Mapping[str, Any], usual: Mapping[str, Any], what: str) -> None:
    """Raise a ValueError where a parameter is unknown, or of another kind than its usual value.

    A usual value of None says nothing of the kind.

    Example:
        >>> check_parameters({"sd": "much"}, {"sd": 0.05}, "noise")
        Traceback (most recent call last):
        ...
        ValueError: noise: sd is 'much', expected a number
    """
    unknown = [name for name in given if name not in usual]
    if unknown:
        raise ValueError(f"{what} has no parameter {unknown[0]!r}; there are {', '.join(usual)}")
    for name, value in given.items():
        if type(usual[name]) not in KINDS:
            continue
        kinds, words = KINDS[type(usual[name])]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise ValueError(f"{what}: {name} is {value!r}, expected {words}")

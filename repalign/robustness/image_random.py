"""Random numbers that belong to an image: the same in any batch, on any device.

A number is a hash of the image's seed, of which draw it is, and of its place in the image. So no
generator has to be run once an image, and leaving images out changes nothing for the others.
"""

from math import prod

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as signed 64-bit numbers, which wrap
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_DRAWS = 1 << 32  # numbers that one draw may take


def image_seeds(
    count: int, *, generator: torch.Generator | None, device: torch.device
) -> Int64[Tensor, "image"]:
    """Draw one seed an image; without a generator they are those of a fresh one with seed 0."""
    generator = generator or torch.Generator().manual_seed(0)
    where = generator.device
    return torch.randint(2**62, (count,), generator=generator, device=where).to(device)


def _shifted(bits: Tensor, by: int) -> Tensor:
    return (bits >> by) & ((1 << (64 - by)) - 1)  # torch's own shift drags the sign along


def _hashed(seeds: Int64[Tensor, "image"], *, draw: int, count: int) -> Int64[Tensor, "image n"]:
    place = torch.arange(draw * _DRAWS + 1, draw * _DRAWS + count + 1, device=seeds.device)
    bits = seeds[:, None] + place * _GOLDEN
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _numbers(seeds: Int64[Tensor, "image"], *, draw: int, count: int) -> Float[Tensor, "image n"]:
    """Return numbers in (0, 1) that float32 holds exactly, with neither end among them."""
    top = _shifted(_hashed(seeds, draw=draw, count=count), 41)
    return top.to(torch.float32).add_(0.5).mul_(2.0**-23)


def uniform_numbers(
    seeds: Int64[Tensor, "image"], *, draw: int, like: Float[Tensor, "image *shape"]
) -> Float[Tensor, "image *shape"]:
    """Return numbers uniform in (0, 1), of the shape, dtype and device of ``like``.

    Args:
        seeds: one an image.
        draw: which draw of the image; each gives other numbers.
        like: what they are to be like.

    Example:
        >>> seeds, like = torch.tensor([5, 6, 7]), torch.empty(3, 1, 2, 2)
        >>> whole = uniform_numbers(seeds, draw=0, like=like)
        >>> torch.equal(whole[1:], uniform_numbers(seeds[1:], draw=0, like=like[1:]))
        True

    Reference:
        The hash is SplitMix64's: Steele, Lea & Flood 2014, https://doi.org/10.1145/2714064.2660195
    """
    found = _numbers(seeds, draw=draw, count=prod(like.shape[1:])).reshape(like.shape)
    return torch.empty_like(like).copy_(found)


def normal_numbers(
    seeds: Int64[Tensor, "image"], *, draw: int, like: Float[Tensor, "image *shape"]
) -> Float[Tensor, "image *shape"]:
    """Return standard normal numbers, of the shape, dtype and device of ``like``."""
    return uniform_numbers(seeds, draw=draw, like=like).mul_(2).sub_(1).erfinv_().mul_(2**0.5)

"""Noise and blur corruptions, with the parameters of the published tables at 224 pixels."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.robustness.filters import (
    disk_kernel,
    filter_with,
    gaussian_filter,
    normal,
    pixel_grid,
    pixel_scale,
    sample_at,
    smear,
    uniform,
)

Images = Float[Tensor, "image channel height width"]


def gaussian_noise(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Add Gaussian noise of one standard deviation."""
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return images + sigma * normal(tuple(images.shape), generator, images)


def shot_noise(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Count photons: Poisson of the brightness."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    rates = images.to(generator.device).clamp(min=0) * photons
    return (torch.poisson(rates, generator=generator) / photons).to(images.device)


def impulse_noise(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Set a share of the values to black or white, in each channel on its own."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    drawn = uniform(tuple(images.shape), generator, images)
    return images.masked_fill(drawn < share / 2, 0).masked_fill(drawn > 1 - share / 2, 1)


def speckle_noise(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Add Gaussian noise in proportion to the brightness."""
    sigma = (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1]
    return images + sigma * images * normal(tuple(images.shape), generator, images)


def gaussian_blur(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Blur with a Gaussian."""
    sigma = (1, 2, 3, 4, 6)[severity - 1]
    return gaussian_filter(images, sigma * pixel_scale(images))


def defocus_blur(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Blur with a disk; its edge is softened by linear interpolation, not by a small Gaussian."""
    radius = (3, 4, 6, 8, 10)[severity - 1]
    return filter_with(images, disk_kernel(radius * pixel_scale(images)))


def glass_blur(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Blur, let each pixel take the value of one nearby, several times, and blur again.

    The published code swaps neighbours one after the other; here all pixels move at once, by
    displacements of the same mean square, and a value may be taken twice.
    """
    table = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
    sigma, reach, rounds = table[severity - 1]
    scale = pixel_scale(images)
    moved = gaussian_filter(images, sigma * scale)
    n, _, height, width = images.shape
    image = torch.arange(n, device=images.device)[:, None, None]
    rows, columns = (places.long() for places in pixel_grid(images))
    for _ in range(rounds):
        draws = uniform((2, 2, n, height, width), generator, images)
        # rounded up or down by chance, so that a reach below one pixel still moves some
        down, right = ((2 * draws[0] - 1) * reach * scale + draws[1]).floor().long()
        from_row, from_column = (rows + down) % height, (columns + right) % width
        inside = (rows + down == from_row) & (columns + right == from_column)
        from_row = torch.where(inside, from_row, rows)
        from_column = torch.where(inside, from_column, columns)
        moved = moved[image, :, from_row, from_column].permute(0, 3, 1, 2)
    return gaussian_filter(moved, sigma * scale)


def motion_blur(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Smear along a line within 45° of the horizontal, one direction an image."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    angle = (uniform((len(images),), generator, images) - 0.5) * (math.pi / 2)
    return smear(images, angle, radius=radius, sigma=sigma)


def zoom_blur(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Average the picture with enlargements of it, up to a factor of 1.1 to 1.3."""
    count, step = ((11, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03))[severity - 1]
    rows, columns = pixel_grid(images)
    middle_row, middle_column = ((size - 1) / 2 for size in images.shape[-2:])
    total = images.clone()
    for factor in (1 + step * i for i in range(count)):
        total += sample_at(
            images,
            middle_row + (rows - middle_row) / factor,
            middle_column + (columns - middle_column) / factor,
        )
    return total / (count + 1)

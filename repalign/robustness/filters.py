"""Filters and seeded draws that picture corruptions are made of."""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from scipy.special import ive
from torch import Tensor
from torch.nn import functional

REFERENCE_WIDTH = 224
SMALLEST_WIDTH = 32


def pixel_scale(images: Float[Tensor, "image channel height width"]) -> float:
    """Return how many pixels one pixel of a picture 224 wide is here, at least 1/7.

    Pictures narrower than 32 pixels are treated as 32 wide: with width / 224 alone, no blur of
    the published tables would leave its pixel in a picture of 8 × 8.
    """
    return max(images.shape[-1], SMALLEST_WIDTH) / REFERENCE_WIDTH


def _draw(
    shape: tuple[int, ...],
    generator: torch.Generator,
    like: Tensor,
    *,
    law: Callable[..., Tensor],
) -> Tensor:
    """Draw where the generator is, so that a seed means the same on every device."""
    drawn = law(shape, generator=generator, device=generator.device, dtype=like.dtype)
    return drawn.to(like.device)


uniform = partial(_draw, law=torch.rand)
normal = partial(_draw, law=torch.randn)


def mirrored(size: int, margin: int, device: torch.device) -> Int[Tensor, "place"]:
    """Return the rows of a picture with ``margin`` mirrored rows on both sides, of any size."""
    place = torch.arange(-margin, size + margin, device=device)
    period = max(2 * (size - 1), 1)
    place = place.remainder(period)
    return torch.minimum(place, period - place) if size > 1 else torch.zeros_like(place)


def discrete_gaussian(sigma: float) -> Float[Tensor, "tap"]:
    """Return weights exp(−σ²)·I_n(σ²), the discrete Gaussian, whose variance is σ² at any σ.

    A Gaussian sampled at pixels is the same for σ ≥ 1, but has no width at all for σ < 0.2.

    Reference: Lindeberg 1990, https://doi.org/10.1109/34.49051.
    """
    radius = math.ceil(6 * sigma) + 1
    taps = torch.from_numpy(ive(range(-radius, radius + 1), sigma**2))
    return taps / taps.sum()


def gaussian_filter(
    images: Float[Tensor, "image channel height width"], sigma: float
) -> Float[Tensor, "image channel height width"]:
    """Blur with a Gaussian of ``sigma`` pixels; the border is mirrored."""
    taps = discrete_gaussian(sigma).to(images)
    margin = len(taps) // 2
    rows = mirrored(images.shape[-2], margin, images.device)
    columns = mirrored(images.shape[-1], margin, images.device)
    x = images.reshape(-1, 1, *images.shape[-2:])
    x = functional.conv2d(x[..., rows, :], taps[None, None, :, None])
    x = functional.conv2d(x[..., columns], taps[None, None, None, :])
    return x.reshape(images.shape)


def smooth_noise(
    images: Float[Tensor, "image channel height width"], sigma: float, generator: torch.Generator
) -> Float[Tensor, "image 1 height width"]:
    """Return Gaussian noise of unit variance with a correlation length of ``sigma`` pixels."""
    noise = normal((len(images), 1, *images.shape[-2:]), generator, images)
    return gaussian_filter(noise, sigma) / float(discrete_gaussian(sigma).square().sum())


def disk_kernel(radius: float) -> Float[Tensor, "row column"]:
    """Return a disk of any radius in pixels, as the blur of the linearly interpolated picture."""
    fine = (torch.arange(64, dtype=torch.float64) + 0.5) / 32 - 1
    y, x = (part.reshape(-1) * radius for part in torch.meshgrid(fine, fine, indexing="ij"))
    inside = x.square() + y.square() <= radius**2
    size = math.ceil(radius) + 1
    place = torch.arange(-size, size + 1, dtype=torch.float64)
    near_y = (1 - (y[inside] - place[:, None]).abs()).clamp(min=0)
    near_x = (1 - (x[inside] - place[:, None]).abs()).clamp(min=0)
    kernel = near_y @ near_x.T
    return kernel / kernel.sum()


def filter_with(
    images: Float[Tensor, "image channel height width"], kernel: Float[Tensor, "row column"]
) -> Float[Tensor, "image channel height width"]:
    """Convolve every channel with one symmetric kernel; the border is mirrored."""
    rows = mirrored(images.shape[-2], kernel.shape[0] // 2, images.device)
    columns = mirrored(images.shape[-1], kernel.shape[1] // 2, images.device)
    x = images.reshape(-1, 1, *images.shape[-2:])[..., rows, :][..., columns]
    return functional.conv2d(x, kernel.to(images)[None, None]).reshape(images.shape)


def pixel_grid(
    images: Float[Tensor, "image channel height width"],
) -> tuple[Float[Tensor, "image height width"], Float[Tensor, "image height width"]]:
    """Return the row and the column of every pixel."""
    n, _, height, width = images.shape
    rows = torch.arange(height, dtype=images.dtype, device=images.device)
    columns = torch.arange(width, dtype=images.dtype, device=images.device)
    return rows[None, :, None].expand(n, -1, width), columns[None, None, :].expand(n, height, -1)


def sample_at(
    images: Float[Tensor, "image channel height width"],
    rows: Float[Tensor, "image height width"],
    columns: Float[Tensor, "image height width"],
    *,
    border: str = "border",
) -> Float[Tensor, "image channel height width"]:
    """Interpolate linearly at places in pixels; beyond the border it is repeated or mirrored."""
    height, width = images.shape[-2:]
    places = torch.stack(
        [2 * columns / max(width - 1, 1) - 1, 2 * rows / max(height - 1, 1) - 1], dim=-1
    )
    return functional.grid_sample(images, places, padding_mode=border, align_corners=True)


def smear(
    images: Float[Tensor, "image channel height width"],
    angle: Float[Tensor, "image"],
    *,
    radius: float,
    sigma: float,
) -> Float[Tensor, "image channel height width"]:
    """Average over one-sided Gaussian steps along an angle in radians, one an image.

    ``radius`` and ``sigma`` are in pixels of a picture 224 wide, and are scaled to this one.
    """
    scale = pixel_scale(images)
    steps = max(int(2 * radius), math.ceil(2 * radius * scale)) + 1
    distance = torch.linspace(0, 2 * radius, steps, dtype=torch.float64)
    weights = torch.exp(-distance.square() / (2 * sigma**2))
    rows, columns = pixel_grid(images)
    down, right = angle.sin()[:, None, None], angle.cos()[:, None, None]
    blurred = torch.zeros_like(images)
    for step, weight in zip((distance * scale).tolist(), weights / weights.sum(), strict=True):
        moved = sample_at(images, rows + step * down, columns + step * right)
        blurred += weight.item() * moved
    return blurred


def luminance(
    images: Float[Tensor, "image channel height width"],
) -> Float[Tensor, "image 1 height width"]:
    """Return the brightness of RGB pictures (ITU-R 601), and the mean of other channels."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    shares = images.new_tensor([0.299, 0.587, 0.114])
    return (images * shares[:, None, None]).sum(1, keepdim=True)

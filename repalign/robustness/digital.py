"""Digital corruptions: contrast, elastic transform, pixelation, JPEG, saturation."""

import io

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from repalign.robustness.filters import (
    SMALLEST_WIDTH,
    discrete_gaussian,
    gaussian_filter,
    pixel_grid,
    pixel_scale,
    sample_at,
    uniform,
)

Images = Float[Tensor, "image channel height width"]


def contrast(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Draw all pixels toward the mean of their channel."""
    kept = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    mean = images.mean((-2, -1), keepdim=True)
    return mean + kept * (images - mean)


def elastic_transform(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Displace pixels by a smooth random field.

    The table is that of Michaelis et al. 2019 (https://doi.org/10.48550/arXiv.1907.07484), whose
    severities grow; ImageNet-C's first two are mainly affine.
    """
    strength = (12.5, 16.25, 21.25, 25.0, 30.0)[severity - 1]
    n, _, height, width = images.shape
    sigma = 0.01 * max(width, SMALLEST_WIDTH)
    noise = 2 * uniform((n, 2, height, width), generator, images) - 1
    norms = [float(discrete_gaussian(s).square().sum()) for s in (sigma, 2.24)]
    # 1.12 pixels of uniform noise, smoothed by 2.24 pixels, in a picture 224 wide
    reach = strength * 1.12 * norms[1] / norms[0] * pixel_scale(images)
    field = gaussian_filter(noise, sigma) * reach
    rows, columns = pixel_grid(images)
    return sample_at(images, rows + field[:, 0], columns + field[:, 1], border="reflection")


def _coverage(size: int, count: int, like: Tensor) -> Float[Tensor, "block pixel"]:
    """Return how much of each of ``count`` equal blocks each pixel covers; rows sum to one."""
    edges = torch.arange(count + 1, dtype=torch.float64) * size / count
    pixel = torch.arange(size, dtype=torch.float64)
    over = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    over = over.clamp(min=0)
    return (over / over.sum(1, keepdim=True)).to(like)


def pixelate(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Average over blocks, and show the blocks."""
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    counts = [max(1, int(size * share)) for size in images.shape[-2:]]
    down, across = (
        _coverage(size, count, images)
        for size, count in zip(images.shape[-2:], counts, strict=True)
    )
    blocks = down @ images @ across.T
    row, column = (
        ((torch.arange(size, device=images.device) + 0.5) * count / size).long()
        for size, count in zip(images.shape[-2:], counts, strict=True)
    )
    return blocks[..., row, :][..., column]


def jpeg_compression(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Encode as JPEG of a low quality; channels that are no RGB are encoded one by one."""
    quality = (25, 18, 15, 10, 7)[severity - 1]
    channels = images.shape[1]
    pixels = (images.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8)
    planes = pixels.permute(0, 2, 3, 1) if channels == 3 else pixels.flatten(0, 1)
    decoded = torch.from_numpy(np.stack([_through_jpeg(plane, quality) for plane in planes]))
    shaped = decoded.permute(0, 3, 1, 2) if channels == 3 else decoded.reshape(images.shape)
    return shaped.to(images) / 255


def _through_jpeg(plane: Tensor, quality: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(plane.numpy()).save(buffer, format="jpeg", quality=quality)
    with Image.open(buffer) as opened:
        return np.array(opened)


def saturate(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Multiply and raise the saturation of HSV: severities 1 and 2 fade colours, 3 to 5 burn them.

    Grey pixels have hue 0 and turn red where saturation is raised, as in the published one.
    """
    factor, raised = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))[severity - 1]
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    spread = value - least
    saturation = spread / value.clamp(min=1e-12)
    red = images.new_tensor([0.0, 1.0, 1.0])[:, None, None]
    hue = torch.where(spread > 0, (value - images) / spread.clamp(min=1e-12), red)
    return value * (1 - hue * (saturation * factor + raised).clamp(0, 1))

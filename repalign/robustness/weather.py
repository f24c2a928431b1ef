"""Weather corruptions: snow, frost, fog, spatter, brightness."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from repalign.robustness.filters import (
    gaussian_filter,
    luminance,
    normal,
    pixel_scale,
    smear,
    smooth_noise,
    uniform,
)

Images = Float[Tensor, "image channel height width"]
Layer = Float[Tensor, "image 1 height width"]

FROST_TINT = (0.85, 0.93, 1.0)
WATER = (175 / 255, 238 / 255, 238 / 255)
MUD = (63 / 255, 42 / 255, 20 / 255)


def tint(images: Images, colour: tuple[float, float, float]) -> Float[Tensor, "channel 1 1"]:
    """Return a colour for pictures of three channels, and its luminance for others."""
    shade = images.new_tensor(colour)[None, :, None, None]
    return shade[0] if images.shape[1] == 3 else luminance(shade)[0]


def clouds(images: Images, roughness: float, generator: torch.Generator) -> Layer:
    """Return fractal clouds from 0 to 1: midpoint displacement on a torus.

    From one octave to the next the displacements shrink by ``roughness`` squared.
    """
    n, _, height, width = images.shape
    octaves = max(1, math.ceil(math.log2(max(height, width))))
    field = images.new_zeros(n, 1, 1, 1)
    for octave in range(octaves):
        amplitude = roughness ** (-2 * octave)
        size = 2**octave
        drawn = 2 * uniform((3, n, 1, size, size), generator, images) - 1
        right = field.roll(-1, -1)
        below, across = field.roll(-1, -2), right.roll(-1, -2)
        centre = (field + right + below + across) / 4 + amplitude * drawn[0]
        top = (field + right + centre + centre.roll(1, -2)) / 4 + amplitude * drawn[1]
        left = (field + below + centre + centre.roll(1, -1)) / 4 + amplitude * drawn[2]
        finer = field.new_empty(n, 1, 2 * size, 2 * size)
        finer[..., ::2, ::2], finer[..., 1::2, 1::2] = field, centre
        finer[..., ::2, 1::2], finer[..., 1::2, ::2] = top, left
        field = finer
    field = field - field.amin((-2, -1), keepdim=True)
    field = field / field.amax((-2, -1), keepdim=True).clamp(min=1e-12)
    return field[..., :height, :width]


def fog(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Add fractal clouds, and scale the picture's maximum back to what it was."""
    table = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
    density, roughness = table[severity - 1]
    brightest = images.amax((1, 2, 3), keepdim=True)
    foggy = images + density * clouds(images, roughness, generator)
    return foggy * brightest / (brightest + density)


def frost(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Mix the picture with ice crystals on a pane.

    The published corruption uses photographs of frost; this one makes ridges of fractal noise,
    slightly blue, so its figures are not those of ImageNet-C.
    """
    table = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    of_picture, of_ice = table[severity - 1]
    ridges = 1 - (2 * clouds(images, 1.35, generator) - 1).abs()
    rime = clouds(images, 1.2, generator)
    ice = (0.7 * ridges.square() + 0.5 * rime).clamp(0, 1)
    return of_picture * images + of_ice * ice * tint(images, FROST_TINT)


def _enlarged_noise(images: Images, size: float, generator: torch.Generator) -> Layer:
    """Return noise, enlarged ``size`` times, as in a picture 224 wide.

    What becomes a flake depends on the size of the noise in pixels, so a smaller layer would hold
    more of them: the layer is shrunk later.
    """
    scale = pixel_scale(images)
    height, width = (max(2, round(side / scale)) for side in images.shape[-2:])
    coarse = (len(images), 1, math.ceil(height / size), math.ceil(width / size))
    return functional.interpolate(
        normal(coarse, generator, images), size=(height, width), mode="bilinear", align_corners=True
    )


def snow(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Whiten the picture, and add smeared flakes, once as they fall and once turned by 180°."""
    table = (
        (0.1, 3, 0.5, 10, 4, 0.8),
        (0.2, 2, 0.5, 12, 4, 0.7),
        (0.55, 4, 0.9, 12, 8, 0.7),
        (0.55, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 2.5, 0.85, 12, 12, 0.55),
    )
    mean, size, threshold, radius, sigma, of_picture = table[severity - 1]
    flakes = mean + 0.3 * _enlarged_noise(images, size, generator)
    flakes = flakes.masked_fill(flakes < threshold, 0).clamp(0, 1)
    finer = flakes.shape[-1] > images.shape[-1]
    flakes = functional.interpolate(
        flakes, size=images.shape[-2:], mode="area" if finer else "bilinear"
    )
    angle = -math.pi / 4 - math.pi / 2 * uniform((len(images),), generator, images)
    flakes = smear(flakes, angle, radius=radius, sigma=sigma)
    whitened = torch.maximum(images, luminance(images) * 1.5 + 0.5)
    ground = of_picture * images + (1 - of_picture) * whitened
    return ground + flakes + flakes.flip((-2, -1))


def spatter(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Spatter water (severities 1 to 3) or mud (4 and 5) on the lens.

    As much of the picture is hit as in the published corruption, but drops are plain: they have
    no relief from edge filters. Water and mud are no steps of one scale.
    """
    table = (
        (0.65, 0.3, 4.0, 0.69),
        (0.65, 0.3, 3.0, 0.68),
        (0.65, 0.3, 2.0, 0.68),
        (0.65, 0.3, 1.0, 0.65),
        (0.67, 0.4, 1.0, 0.65),
    )
    mean, deviation, sigma, threshold = table[severity - 1]
    scale = pixel_scale(images)
    # the threshold in standard deviations of the noise that is smoothed by sigma at 224 pixels
    height = (threshold - mean) * 2 * math.sqrt(math.pi) * sigma / deviation
    liquid = smooth_noise(images, sigma * scale, generator)
    if severity <= 3:
        depth = (liquid - height).clamp(min=0)
        depth = depth / depth.amax((-2, -1), keepdim=True).clamp(min=1e-12)
        shine = (0.6, 0.6, 0.5)[severity - 1]
        wet = (liquid > height).to(images.dtype) * (0.2 + 0.8 * depth)
        return images + shine * wet * tint(images, WATER)
    softness = 1.5 * scale
    cover = gaussian_filter((liquid > height).to(images.dtype), softness)
    cover = cover.masked_fill(cover < 0.8, 0)
    return images * (1 - cover) + tint(images, MUD) * cover


def brightness(images: Images, severity: int, generator: torch.Generator) -> Images:
    """Raise the value of HSV and keep hue and saturation; grey pictures are raised as they are."""
    step = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    if images.shape[1] != 3:
        return images + step
    value = images.amax(1, keepdim=True)
    raised = (value + step).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp(min=1e-12), raised)

"""Image models without weights: what a network must beat before it explains a brain."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's convert("L")


class Pixels(nn.Module):
    """The image itself: layer `pixels` is the image tensor, the output its flattened values.

    Args of a call:
        images: [image, channel, height, width] in [0, 1].

    Returns:
        [image, channel · height · width].

    Example:
        >>> Pixels()(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 192])

    References:
        Low-level image models as controls: Kriegeskorte, Mur & Bandettini (2008).
        Representational similarity analysis. Front. Syst. Neurosci. 2:4.
        DOI 10.3389/neuro.06.004.2008.
    """

    def __init__(self) -> None:
        """Make the one layer."""
        super().__init__()
        self.pixels = nn.Identity()

    def forward(self, images: Float[Tensor, "image c h w"]) -> Float[Tensor, "image pixel"]:
        """Flatten each image."""
        pixels: Tensor = self.pixels(images)
        return pixels.flatten(1)


class GaborEnergy(nn.Module):
    """Phase-invariant energy of quadrature Gabor filters, averaged over the cells of a grid.

    energy(x) = √(even(x)² + odd(x)²), where even and odd are the responses of a cosine and a sine
    under one round Gaussian; a multiple of that Gaussian is taken from the even filter so that
    its mean is zero. The gain is such that a grating of amplitude a, at a filter's own frequency
    and orientation, has energy a in that filter.

    Args:
        image_size: height and width of the images in pixels.
        frequencies: spatial frequencies in cycles per image.
        n_orientations: orientations, evenly spaced over 180°.
        bandwidth: full width of a filter at half its peak amplitude, in octaves.
        grid: the energy maps are averaged to `grid` × `grid` cells.

    Args of a call:
        images: [image, 3 (RGB) or 1, image_size, image_size] in [0, 1]. Colours become luma by
            ITU-R BT.601 weights of the values as stored; they are not linearised.

    Returns:
        [image, frequency · orientation · grid · grid]. The layer `energy` holds the same as maps
        [image, frequency · orientation, grid, grid]; channel `f * n_orientations + o` is
        frequency `frequencies[f]` at `orientations[o]`.

    Raises:
        ValueError: a parameter or an image shape that cannot be used.

    Example:
        >>> model = GaborEnergy(image_size=64, frequencies=(4.0, 8.0), grid=4)
        >>> model(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 256])
        >>> model.orientations[:3]
        (0.0, 22.5, 45.0)

    References:
        Adelson & Bergen (1985). Spatiotemporal energy models for the perception of motion.
        JOSA A 2, 284–299. DOI 10.1364/JOSAA.2.000284.

    Notes:
        The paper's filters are oriented in space-time; these are their spatial part, for still
        images, and the square root is taken of its energy. An orientation is that of the wave
        vector: 0° varies along a row (vertical stripes), 90° down a column. Images are continued
        by reflection, so a border is no edge. The filters are computed in single precision.
    """

    def __init__(
        self,
        *,
        image_size: int = 128,
        frequencies: tuple[float, ...] = (4.0, 8.0, 16.0, 32.0),
        n_orientations: int = 8,
        bandwidth: float = 1.0,
        grid: int = 8,
    ):
        """Check the parameters and compute the filters."""
        super().__init__()
        _check_bank(image_size, frequencies, n_orientations, bandwidth, grid)
        self.image_size = image_size
        self.frequencies = frequencies
        self.orientations = tuple(180.0 * k / n_orientations for k in range(n_orientations))
        self.energy = QuadratureEnergy(
            image_size, frequencies, self.orientations, bandwidth=bandwidth, grid=grid
        )

    def forward(self, images: Float[Tensor, "image c h w"]) -> Float[Tensor, "image feature"]:
        """Energy of each image in each filter and cell."""
        expected = (self.image_size, self.image_size)
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2:] != expected:
            raise ValueError(
                f"GaborEnergy got images of shape {tuple(images.shape)}, expected [image, 1 or 3,"
                f" {expected[0]}, {expected[1]}]; resize them, or set image_size"
            )
        if images.shape[1] == 3:
            weights = images.new_tensor(_LUMA).view(1, 3, 1, 1)
            images = (images * weights).sum(dim=1, keepdim=True)
        energy: Tensor = self.energy(images)
        return energy.flatten(1)


class QuadratureEnergy(nn.Module):
    """The filter bank of `GaborEnergy`: luminance images in, energy maps on a grid out.

    The even and odd filters are the real and imaginary part of one complex filter, applied in the
    Fourier domain, so that the energy is the modulus of its response.

    References:
        Adelson & Bergen (1985). DOI 10.1364/JOSAA.2.000284.

    Example:
        >>> bank = QuadratureEnergy(32, (4.0,), (0.0, 90.0), bandwidth=1.0, grid=2)
        >>> bank(torch.rand(1, 1, 32, 32)).shape
        torch.Size([1, 2, 2, 2])
    """

    transfer: Tensor

    def __init__(
        self,
        image_size: int,
        frequencies: tuple[float, ...],
        orientations: tuple[float, ...],
        *,
        bandwidth: float,
        grid: int,
    ):
        """Compute the filters' Fourier transforms for images continued on all sides."""
        super().__init__()
        widest = max(_envelope(f / image_size, bandwidth) for f in frequencies)
        self.padding = min(math.ceil(3 * widest), image_size - 1)
        self.grid = grid
        banks = [
            _transfer(image_size + 2 * self.padding, f / image_size, orientations, bandwidth)
            for f in frequencies
        ]
        # one frequency after the other: [frequency, orientation, row, column]
        self.register_buffer("transfer", torch.stack(banks), persistent=False)

    def forward(self, images: Float[Tensor, "image 1 h w"]) -> Float[Tensor, "image filter g g"]:
        """Modulus of the complex response, averaged in cells; one frequency at a time in memory."""
        size, start = images.shape[-1], self.padding
        spectrum = torch.fft.fft2(F.pad(images, [self.padding] * 4, mode="reflect"))
        maps = []
        for bank in self.transfer:
            response = torch.fft.ifft2(spectrum * bank)
            energy = response[..., start : start + size, start : start + size].abs()
            maps.append(F.adaptive_avg_pool2d(energy, self.grid))
        return torch.cat(maps, dim=1)


def _envelope(frequency: float, bandwidth: float) -> float:
    """Standard deviation, in pixels, of a Gaussian that gives the bandwidth at half amplitude."""
    half_width = frequency * (2**bandwidth - 1) / (2**bandwidth + 1)
    return math.sqrt(math.log(2) / 2) / (math.pi * half_width)


def _transfer(
    size: int, frequency: float, orientations: tuple[float, ...], bandwidth: float
) -> Float[Tensor, "orientation size size"]:
    """Fourier transform, real, of complex Gabors with zero mean and a gain of 2 at their peak."""
    axis = torch.fft.fftfreq(size, dtype=torch.float64)
    angle = torch.deg2rad(torch.tensor(orientations, dtype=torch.float64)).view(-1, 1, 1)
    across, down = frequency * torch.cos(angle), frequency * torch.sin(angle)
    spread = 2 * (math.pi * _envelope(frequency, bandwidth)) ** 2
    gabor = torch.exp(-spread * ((axis - across) ** 2 + (axis[:, None] - down) ** 2))
    blur = torch.exp(-spread * (axis**2 + axis[:, None] ** 2))
    mean = math.exp(-spread * frequency**2)  # of the even filter, relative to its envelope
    return (2 * (gabor - mean * blur) / (1 - mean**2)).to(torch.float32)


def _check_bank(
    image_size: int,
    frequencies: tuple[float, ...],
    n_orientations: int,
    bandwidth: float,
    grid: int,
) -> None:
    if not frequencies or min(frequencies) <= 0 or bandwidth <= 0 or n_orientations < 1:
        raise ValueError(
            f"GaborEnergy got frequencies={frequencies}, n_orientations={n_orientations} and"
            f" bandwidth={bandwidth}; expected one or more frequencies and orientations, and"
            " frequencies and bandwidth above 0"
        )
    if not 1 <= grid <= image_size:
        raise ValueError(f"grid={grid}, expected 1 to image_size={image_size}")
    upper = max(frequencies) * 2 ** (bandwidth + 1) / (2**bandwidth + 1)
    if upper > image_size / 2:
        raise ValueError(
            f"a filter at {max(frequencies)} cycles/image passes up to {upper:.4g} (half"
            f" amplitude), but images of {image_size} pixels hold {image_size / 2:.4g} at most;"
            " use lower frequencies or a larger image_size"
        )


BASELINES: dict[str, type[Pixels] | type[GaborEnergy]] = {
    "pixels": Pixels,
    "gabor_energy": GaborEnergy,
}


def build(name: str) -> nn.Module:
    """Build a baseline by its name.

    Args:
        name: `pixels` or `gabor_energy` (with its default parameters).

    Raises:
        ValueError: the name is neither.

    Example:
        >>> build("gabor_energy").image_size
        128

    References:
        See `Pixels` (DOI 10.3389/neuro.06.004.2008) and `GaborEnergy` (DOI
        10.1364/JOSAA.2.000284).
    """
    if name not in BASELINES:
        raise ValueError(f"no baseline is called {name!r}; use one of {', '.join(BASELINES)}")
    return BASELINES[name]()

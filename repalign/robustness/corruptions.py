"""Common corruptions of images, in five severities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.robustness import digital, noises, weather
from repalign.robustness.predictions import as_batches

SEVERITIES = (1, 2, 3, 4, 5)
Images = Float[Tensor, "image channel height width"]


def check_severity(severity: int) -> None:
    """Raise a ValueError unless the severity is one of the five."""
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity!r}; expected 1, 2, 3, 4 or 5.")


@dataclass(frozen=True)
class Corruption:
    """A corruption of images from 0 to 1, in five severities.

    Args:
        name: as in ``CORRUPTIONS``.
        category: noise, blur, weather or digital.
        function: takes images, a severity and a generator; its result is clamped to 0 … 1.
        colour_only: whether it needs RGB.
        extra: whether it is beyond the fifteen of the published benchmark.

    Notes:
        Parameters are the published ones for pictures 224 wide; blur radii and displacements
        scale with the width (see `repalign.robustness.filters.pixel_scale`). Pixels are not
        rounded to bytes, except by JPEG. Frost is procedural and no photograph, spatter has no
        relief, glass blur moves all pixels at once, and elastic_transform has the severities of
        Michaelis et al. 2019: figures are close to those of ImageNet-C, and not the same.

    Example:
        >>> worse = CORRUPTIONS["fog"](torch.rand(2, 3, 32, 32), severity=5)
        >>> worse.shape
        torch.Size([2, 3, 32, 32])

    Reference: Hendrycks & Dietterich 2019, https://doi.org/10.48550/arXiv.1903.12261.
    """

    name: str
    category: str
    function: Callable[[Tensor, int, torch.Generator], Tensor]
    colour_only: bool = False
    extra: bool = False

    def __call__(
        self, images: Images, severity: int, *, generator: torch.Generator | None = None
    ) -> Images:
        """Corrupt images; without a generator the draws are those of seed 0.

        Raises:
            ValueError: an unknown severity, another shape, values out of 0 … 1, or grey pictures
                for a corruption of colours.
            TypeError: images that are no floats.
        """
        check_severity(severity)
        pixels, _ = next(as_batches(images, batch_size=max(len(images), 1)))
        if self.colour_only and pixels.shape[1] != 3:
            raise ValueError(
                f"{self.name} needs pictures of 3 channels, and these have {pixels.shape[1]}. "
                "Leave it out."
            )
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        precise = pixels if pixels.dtype == torch.float64 else pixels.float()
        return self.function(precise, severity, generator).clamp(0, 1).to(pixels.dtype)


CORRUPTIONS: dict[str, Corruption] = {
    corruption.name: corruption
    for corruption in (
        Corruption("gaussian_noise", "noise", noises.gaussian_noise),
        Corruption("shot_noise", "noise", noises.shot_noise),
        Corruption("impulse_noise", "noise", noises.impulse_noise),
        Corruption("speckle_noise", "noise", noises.speckle_noise, extra=True),
        Corruption("defocus_blur", "blur", noises.defocus_blur),
        Corruption("glass_blur", "blur", noises.glass_blur),
        Corruption("motion_blur", "blur", noises.motion_blur),
        Corruption("zoom_blur", "blur", noises.zoom_blur),
        Corruption("gaussian_blur", "blur", noises.gaussian_blur, extra=True),
        Corruption("snow", "weather", weather.snow),
        Corruption("frost", "weather", weather.frost),
        Corruption("fog", "weather", weather.fog),
        Corruption("brightness", "weather", weather.brightness),
        Corruption("spatter", "weather", weather.spatter, extra=True),
        Corruption("contrast", "digital", digital.contrast),
        Corruption("elastic_transform", "digital", digital.elastic_transform),
        Corruption("pixelate", "digital", digital.pixelate),
        Corruption("jpeg_compression", "digital", digital.jpeg_compression),
        Corruption("saturate", "digital", digital.saturate, colour_only=True, extra=True),
    )
}

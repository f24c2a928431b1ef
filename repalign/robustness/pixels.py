"""A network as a function of pixels in [0, 1], its normalisation inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from repalign.networks import Network


class PixelNetwork(nn.Module):
    """A module behind its normalisation: module((images − mean) / std), images in [0, 1].

    Attacks bound changes of pixels, so the normalisation belongs to the network. The module itself
    is shared, not copied: its parameters, mode and device stay its own, and `eval` and `train`
    reach it.

    Args:
        module: from normalised images to logits.
        mean, std: of each channel, in pixel units.

    Raises:
        ValueError: mean and std of unequal length, or a std that is not positive; at the call,
            images with another number of channels.

    Example:
        >>> network = PixelNetwork(nn.Identity(), mean=(0.5,), std=(0.25,))
        >>> network(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """Wrap a module; `of` takes mean and std from a network's card."""
        super().__init__()
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise ValueError(
                f"mean is {tuple(mean)} and std {tuple(std)}; expected one number a channel in "
                "each, and every std greater than 0."
            )
        self.module = module
        self.training = module.training
        like = next(module.parameters(), torch.empty(0))
        for name, values in (("mean", mean), ("std", std)):
            numbers = torch.tensor(values, dtype=torch.float32, device=like.device)
            self.register_buffer(name, numbers[:, None, None], persistent=False)

    @classmethod
    def of(cls, network: Network) -> PixelNetwork:
        """Return a network of a card, with its own preprocessing, in the mode that it is in."""
        return cls(network.module, network.preprocessing.mean, network.preprocessing.std)

    def forward(
        self, images: Float[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image class"]:
        """Return the module's output for pixels."""
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ValueError(
                f"images have shape {tuple(images.shape)}; this network takes (image, "
                f"{len(self.mean)}, height, width). Repeat a grey channel: images.expand(-1, "
                f"{len(self.mean)}, -1, -1)."
            )
        output: Tensor = self.module((images - self.mean) / self.std)
        return output

"""Small networks that train in seconds on a laptop, for demonstrations and tests."""

from __future__ import annotations

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn

DIGITS_SIDE = 8


class DigitsCNN(nn.Module):
    """Two convolutions and two linear layers for 8×8 images of the ten digits.

    Layers `conv1` (32 maps), `conv2` (64 maps at every second pixel) and `hidden` (128 units) end
    with their ReLU; `readout` gives the ten logits. Images with three channels enter as the mean
    of them, so that grey images shown as RGB and with one channel give the same logits.

    Args:
        n_classes: number of logits.

    Args of a call:
        images: [image, 1 or 3, 8, 8] in [0, 1].

    Returns:
        Logits, [image, class].

    Raises:
        ValueError: images of another size or number of channels.

    Example:
        >>> import torch
        >>> DigitsCNN()(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])

    References:
        Convolutional networks for digits: LeCun, Bottou, Bengio & Haffner (1998). Gradient-based
        learning applied to document recognition. Proceedings of the IEEE 86, 2278–2324.
        DOI 10.1109/5.726791.
    """

    def __init__(self, n_classes: int = 10) -> None:
        """Make the layers with torch's usual random weights."""
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU())
        self.conv2 = nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU())
        side = DIGITS_SIDE // 2
        self.hidden = nn.Sequential(
            OrderedDict(linear=nn.Linear(64 * side * side, 128), relu=nn.ReLU())
        )
        self.readout = nn.Linear(128, n_classes)

    def forward(self, images: Float[Tensor, "image channel 8 8"]) -> Float[Tensor, "image class"]:
        """Classify each image."""
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2:] != (8, 8):
            raise ValueError(
                f"images have shape {tuple(images.shape)}, expected (image, 1 or 3, 8, 8);"
                " resize them, or take a network for larger images"
            )
        maps = self.conv2(self.conv1(images.mean(dim=1, keepdim=True)))
        hidden: Tensor = self.hidden(maps.flatten(1))
        logits: Tensor = self.readout(hidden)
        return logits


SMALL_NETWORKS: dict[str, type[DigitsCNN]] = {"digits_cnn": DigitsCNN}


def build(name: str) -> nn.Module:
    """Build a small network by its name, with random weights.

    Raises:
        ValueError: no small network has this name.

    Example:
        >>> build("digits_cnn").readout.out_features
        10
    """
    if name not in SMALL_NETWORKS:
        raise ValueError(
            f"no small network is called {name!r}; use one of {', '.join(SMALL_NETWORKS)}"
        )
    return SMALL_NETWORKS[name]()

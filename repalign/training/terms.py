"""The task's part of the objective: cross-entropy, or staying close to the frozen original."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repalign.networks import Network
from repalign.robustness.gradient_attacks import PGD
from repalign.robustness.pixels import PixelNetwork
from repalign.training.augmentation import Augmentation, Colour, Flip, Noise, RandomCrop
from repalign.training.task_batches import seeded

Images = Float[Tensor, "image channel height width"]
Labels = Int[Tensor, " image"]


@dataclass(frozen=True, kw_only=True)
class AdversarialImages:
    """Replace a share of a batch by adversarial images, found by PGD with the network in eval mode.

    Args:
        norm, eps, steps, step_size: of `repalign.robustness.PGD`, eps in units of the pixels.
        share: of the images of a batch that are replaced, the first of them.

    References:
        Madry, Makelov, Schmidt, Tsipras & Vladu (2018). Towards deep learning models resistant to
        adversarial attacks. DOI 10.48550/arXiv.1706.06083.
    """

    norm: str = "Linf"
    eps: float = 8 / 255
    steps: int = 7
    step_size: float | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.eps > 0 or not 0 < self.share <= 1:
            raise ValueError(
                f"adversarial-training: eps is {self.eps} and share {self.share}, expected eps > 0"
                " and a share in (0, 1]"
            )

    def __call__(self, network: nn.Module, images: Images, labels: Labels, *seed: int) -> Images:
        """Return the images, the first of them moved to where the network errs."""
        count = max(1, round(self.share * len(images)))
        attack = PGD(norm=self.norm, steps=self.steps, step_size=self.step_size)
        modes = [(part, part.training) for part in network.modules()]
        network.eval()
        try:
            moved = attack(
                network, images[:count], labels[:count], eps=self.eps, generator=seeded(*seed)
            )
        finally:
            for part, training in modes:
                part.training = training
        return torch.cat([moved, images[count:]])


def jitter(
    *,
    noise_sd: float = 0.05,
    crop_padding: int = 1,
    flip: bool = False,
    brightness: float = 0.1,
    contrast: float = 0.1,
) -> tuple[Augmentation, ...]:
    """The augmentations of the control that has augmentation only; 0 leaves one out."""
    made: list[Augmentation] = []
    if crop_padding:
        made.append(RandomCrop(padding=crop_padding))
    if flip:
        made.append(Flip())
    if brightness or contrast:
        made.append(Colour(brightness=brightness, contrast=contrast))
    if noise_sd:
        made.append(Noise(sd=noise_sd))
    return tuple(made)


class TaskTerm:
    """What the network should do with the task's images.

    With labels the loss is the cross-entropy CE(network(x), label). Without, it is the divergence
    KL(original(x) ‖ network(x)) of the network's class probabilities from those of its frozen
    original in evaluation mode, and the original's prediction stands for the label.

    Args:
        network: to be trained.
        labelled: whether the images have labels.
        attack: replaces images by adversarial ones while training.
        batchnorm_frozen: keep batch normalisation in evaluation mode.
    """

    def __init__(
        self,
        network: Network,
        *,
        labelled: bool,
        attack: AdversarialImages | None = None,
        batchnorm_frozen: bool = False,
    ) -> None:
        """Wrap the network's module, and copy it where there are no labels."""
        self.pixels = PixelNetwork.of(network)
        self.attack, self.batchnorm_frozen = attack, batchnorm_frozen
        self.original = None if labelled else copy.deepcopy(self.pixels).requires_grad_(False)

    def to(self, device: torch.device) -> TaskTerm:
        """Move everything to a device."""
        self.pixels.to(device)
        if self.original is not None:
            self.original.to(device)
        return self

    def train(self) -> None:
        """Bring the network into training mode."""
        self.pixels.train()
        if self.batchnorm_frozen:
            for part in self.pixels.modules():
                if isinstance(part, _BatchNorm):
                    part.eval()

    def attacked(self, images: Images, labels: Labels, *seed: int) -> Images:
        """The images that the network trains on."""
        if self.attack is None:
            return images
        return self.attack(self.pixels, images, self.targets(images, labels), *seed)

    def targets(self, images: Images, labels: Labels) -> Labels:
        """The labels, or the original's predictions."""
        if self.original is None:
            return labels
        with torch.no_grad():
            predicted: Tensor = self.original.eval()(images).argmax(1)
        return predicted

    def loss(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Mean loss of a batch."""
        logits = self.pixels(images)
        if self.original is None:
            return F.cross_entropy(logits, labels)
        with torch.no_grad():
            before = self.original.eval()(images).log_softmax(1)
        return F.kl_div(logits.log_softmax(1), before, log_target=True, reduction="batchmean")

    def correct(self, images: Images, labels: Labels) -> int:
        """How many images get their label, or the original's prediction, in evaluation mode."""
        with torch.no_grad():
            return int((self.pixels(images).argmax(1) == self.targets(images, labels)).sum())


def count_outputs(network: Network) -> int:
    """Number of classes that a network tells apart.

    Raises:
        ValueError: its output is no (image, class) tensor.
    """
    device = next((p.device for p in network.module.parameters()), torch.device("cpu"))
    image = torch.zeros(1, 3, *network.preprocessing.size, device=device)
    modes = [(part, part.training) for part in network.module.modules()]
    try:
        with torch.no_grad():
            output: Any = network.module.eval()(image)
    finally:
        for part, training in modes:
            part.training = training
    if not isinstance(output, Tensor) or output.ndim != 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"{network.name} gives {found} for one image, expected logits of shape (1, class)"
        )
    return int(output.shape[1])

"""What a policy network sees: prepared observations, and the features of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from repalign.agent_cards import AgentSettings

NATURE_CONVOLUTIONS = ((0, 8, 4), (2, 4, 2), (4, 3, 1))  # index, kernel and stride
VARIANCE_FLOOR = 1e-8  # as VecNormalize has it


class ObservationInput(nn.Module):
    """Raw observations as float tensors, prepared as they were in training.

    Images (uint8, three axes) are put channels first, where their first axis is not the shortest,
    and scaled to [0, 1]; integers without axes become one-hot; what the card gives mean and
    variance for is normalised.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, settings: AgentSettings, *, entries: int, scale_images: bool) -> None:
        """Keep how observations with so many ``entries`` are prepared."""
        super().__init__()
        self.entries, self.clip = entries, settings.observation_clip
        self.scale_images = scale_images
        self.normalised = bool(settings.observation_mean)
        variance = torch.tensor(settings.observation_variance)
        mean = torch.tensor(settings.observation_mean)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("scale", (variance + VARIANCE_FLOOR).sqrt(), persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        """Prepare a batch."""
        if observations.ndim == 1 and not observations.is_floating_point():
            return nn.functional.one_hot(observations.long(), self.entries).float()
        if observations.ndim == 4 and observations.dtype == torch.uint8:
            shape = observations.shape[1:]
            if shape.index(min(shape)) != 0:
                observations = observations.permute(0, 3, 1, 2)
            return observations.float() / 255 if self.scale_images else observations.float()
        if self.normalised:
            shape = observations.shape
            flat = (observations.flatten(1).float() - self.mean) / self.scale
            return flat.clamp(-self.clip, self.clip).reshape(shape)
        return observations.float()


class NatureFeatures(nn.Module):
    """Three convolutions and a linear layer (Mnih et al. 2015, doi:10.1038/nature14236)."""

    def __init__(self, weights: Mapping[str, Tensor], where: str) -> None:
        """Build for the shapes of a state dict whose keys begin with ``where``."""
        super().__init__()
        layers: list[nn.Module] = []
        for index, kernel, stride in NATURE_CONVOLUTIONS:
            shape = shape_of(weights, f"{where}cnn.{index}.weight", axes=4)
            if shape[2:] != (kernel, kernel):
                raise ValueError(
                    f"{where}cnn.{index}.weight has a kernel of {shape[2]} × {shape[3]}, expected"
                    f" {kernel} × {kernel}: these features are not SB3's NatureCNN; build the"
                    " network with a function of your own, named by the card's source"
                )
            layers += [nn.Conv2d(shape[1], shape[0], kernel, stride), nn.ReLU()]
        self.cnn = nn.Sequential(*layers, nn.Flatten())
        outputs, inputs = shape_of(weights, f"{where}linear.0.weight", axes=2)
        self.linear = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """Features of a batch of images."""
        features: Tensor = self.linear(self.cnn(images))
        return features


def shape_of(weights: Mapping[str, Tensor], name: str, *, axes: int) -> Sequence[int]:
    """The shape of one tensor of a state dict, after a check that it is there."""
    if name not in weights:
        raise ValueError(f"the weights have no {name}; there are {', '.join(list(weights)[:3])}, …")
    shape = tuple(weights[name].shape)
    if len(shape) != axes:
        raise ValueError(f"{name} has shape {shape}, expected {axes} axes")
    return shape

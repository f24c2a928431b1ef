"""What the tests of attacks share: a network trained on digits, and models with known optima."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


class Digits(NamedTuple):
    """A trained network in evaluation mode, and test images that it was not trained on."""

    model: nn.Module
    images: Tensor
    labels: Tensor


@functools.cache
def trained_on_digits(count: int = 300) -> Digits:
    """Train a small network on 1,400 digits of 8 × 8 pixels in [0, 1]."""
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    labels = torch.from_numpy(data.target).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        order = torch.randperm(len(images))
        images, labels = images[order], labels[order]
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(12):
            for batch in torch.randperm(1400).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()
        optimizer.zero_grad()
    return Digits(model.eval(), images[1400 : 1400 + count], labels[1400 : 1400 + count])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


class Linear(nn.Module):
    """Two classes; the margin of class 0 is w·x + b."""

    def __init__(self, weights: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)
        self.bias = bias

    def forward(self, images: Tensor) -> Tensor:
        margin = (images * self.weights).sum((1, 2, 3)) + self.bias
        return torch.stack([margin, torch.zeros_like(margin)], 1)

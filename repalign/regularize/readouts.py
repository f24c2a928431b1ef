"""Trainable read-outs: a linear prediction of every neuroid from a layer, and its loss."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from repalign.metrics.comparators import check_choice

_SAFARANI = "Safarani et al. 2021, https://doi.org/10.48550/arXiv.2107.14344"


def _squared_errors(rate: Tensor, y: Tensor, variance: Tensor) -> Tensor:
    return (y - rate).square() / variance


def _poisson_errors(rate: Tensor, y: Tensor, variance: Tensor) -> Tensor:
    return rate - y * rate.log()


def _gaussian_rate(drive: Tensor) -> Tensor:
    return drive


def _poisson_rate(drive: Tensor) -> Tensor:
    return functional.softplus(drive) + 1e-6  # above 0, so that its logarithm is finite


class _Noise(NamedTuple):
    """How a drive becomes a rate, what a wrong rate costs, and what a response must be."""

    rate: Callable[[Tensor], Tensor]
    errors: Callable[[Tensor, Tensor, Tensor], Tensor]
    formula: str
    counts: bool


NOISES = {
    "gaussian": _Noise(_gaussian_rate, _squared_errors, "(y − ŷ)² / var(y)", counts=False),
    "poisson": _Noise(
        _poisson_rate, _poisson_errors, "ŷ − y log ŷ, ŷ = softplus(drive)", counts=True
    ),
}


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """A linear read-out of each neuroid with an L2 penalty, trained along with the network.

    ``mean over stimuli and neuroids of error(y, ŷ) + penalty · |W|² / neuroids``, where the drive
    of neuroid j is ``mⱼ + sⱼ (Wⱼ · z / √units + bⱼ)``, z the layer's units standardised over the
    batch, and mⱼ and sⱼ the neuroid's mean and standard deviation over the stimuli trained on.

    Args:
        noise: ``gaussian``, squared errors in units of each neuroid's variance, or ``poisson``,
            the negative log-likelihood of counts whose rate is softplus of the drive.
        penalty: weight of the L2 penalty.

    Raises:
        ValueError: unknown noise, or a negative penalty.

    Note:
        The read-out lives in the loss: optimise ``align.readout_parameters()`` beside the network.
        Its weights start at zero, so that it first predicts each neuroid's mean and the network
        gets no gradient before the first step; division by √units makes one learning rate fit a
        layer of 10 units and one of 25 088.

    Example:
        >>> readout = Ridge().make(5, mean=torch.zeros(2), variance=torch.ones(2))
        >>> readout(torch.randn(8, 5), torch.tensor([[1.0, -1.0]] * 8)).item()
        1.0

    Reference:
        Joint training on responses: Safarani et al. 2021,
        https://doi.org/10.48550/arXiv.2107.14344
    """

    noise: str = "gaussian"
    penalty: float = 1e-3

    def __post_init__(self) -> None:
        """Check the parameters."""
        check_choice(self.noise, NOISES, "noise of a read-out")
        if not self.penalty >= 0:
            raise ValueError(f"penalty is {self.penalty}; expected 0 or more.")

    def make(
        self, units: int, *, mean: Float[Tensor, "neuroid"], variance: Float[Tensor, "neuroid"]
    ) -> "ReadOut":
        """Return the read-out of a layer of so many units.

        Args:
            units: size of the layer.
            mean, variance: of each neuroid over the stimuli that are trained on.

        Raises:
            ValueError: all neuroids are constant, or (``poisson``) a negative mean.
        """
        return ReadOut(self, units, mean=mean, variance=variance)


class ReadOut(nn.Module):
    """The read-out that a `Ridge` makes for one layer and one target."""

    minimum_stimuli: ClassVar[int] = 2
    higher_is_more_similar: ClassVar[bool] = True
    reference: ClassVar[str] = _SAFARANI
    mean: Tensor
    scale: Tensor
    varies: Tensor

    def __init__(
        self,
        objective: Ridge,
        units: int,
        *,
        mean: Float[Tensor, "neuroid"],
        variance: Float[Tensor, "neuroid"],
    ) -> None:
        """Start at each neuroid's mean."""
        super().__init__()
        self.objective, self.kind = objective, NOISES[objective.noise]
        self.name = f"ridge-{'poisson' if self.kind.counts else 'mse'}"
        varies = variance > 0
        if not bool(varies.any()):
            raise ValueError(
                f"All {len(mean)} neuroids respond alike to every stimulus; there is nothing to "
                "predict. Select other neuroids or stimuli."
            )
        start = mean.double()
        if self.kind.counts:
            if bool((mean < 0).any()):
                raise ValueError(
                    f"The mean response of {int((mean < 0).sum())} neuroids is negative; "
                    "ridge-poisson needs rates or counts. Use ridge-mse."
                )
            start = _inverse_softplus(start)
        scale = torch.where(varies, variance, 1.0).double().sqrt()
        self.register_buffer("mean", start.float())
        self.register_buffer("scale", scale.float())
        self.register_buffer("varies", varies)
        self.standardise = nn.BatchNorm1d(units, affine=False)
        self.weight = nn.Parameter(torch.zeros(len(mean), units))
        self.bias = nn.Parameter(torch.zeros(len(mean)))

    @property
    def formula(self) -> str:
        """The loss in one line."""
        return f"mean {self.kind.formula} + {self.objective.penalty:g} |W|² / neuroids"

    def predict(self, x: Float[Tensor, "stimulus unit"]) -> Float[Tensor, "stimulus neuroid"]:
        """Return the predicted responses."""
        z: Tensor = self.standardise(x.to(self.weight.dtype)) / sqrt(x.shape[1])
        drive = functional.linear(z, self.weight, self.bias)
        return self.kind.rate(self.mean + self.scale * drive)

    def _check(self, y: Tensor) -> None:
        if self.kind.counts and bool((y < 0).any()):
            raise ValueError(
                f"The least response is {float(y.min()):g}; ridge-poisson needs rates or counts "
                "of 0 or more. Use ridge-mse, or do not subtract a baseline."
            )

    def forward(
        self, x: Float[Tensor, "stimulus unit"], y: Float[Tensor, "stimulus neuroid"]
    ) -> Float[Tensor, ""]:
        """Return the loss; constant neuroids are left out."""
        self._check(y)
        errors = self.kind.errors(self.predict(x), y.to(self.weight.dtype), self.scale.square())
        return errors[:, self.varies].mean() + self.objective.penalty * (
            self.weight.square().sum() / len(self.weight)
        )

    def value(
        self, x: Float[Tensor, "stimulus unit"], y: Float[Tensor, "stimulus neuroid"]
    ) -> Float[Tensor, ""]:
        """Return the share of variance explained, 1 − Σ(y − ŷ)² / Σ(y − ȳ)², mean over neuroids."""
        left = (y - self.predict(x)).double().square().sum(0)
        total = (y.double() - y.double().mean(0)).square().sum(0)
        return (1 - left / total)[total > 0].mean()


def _inverse_softplus(rate: Tensor) -> Tensor:
    """Return the drive of a rate, that of a silent neuroid being about −14."""
    rate = rate.clamp(min=1e-6)
    return torch.where(rate > 30, rate, rate.clamp(max=30).expm1().clamp(min=1e-6).log())

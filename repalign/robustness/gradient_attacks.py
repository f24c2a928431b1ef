"""FGSM and PGD: steps along the gradient of a loss with respect to the pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from repalign.metrics.comparators import check_choice
from repalign.robustness.attack_calls import (
    Problem,
    SearchesImages,
    Strongest,
    check_count,
    in_full_precision,
)
from repalign.robustness.attack_losses import LOSSES
from repalign.robustness.perturbations import (
    BALLS,
    Images,
    Logits,
    Model,
    take_ball,
)

Loss = Callable[[Logits], Tensor]


class NoGradientError(ValueError):
    """The model's output does not depend, for autograd, on its images."""


def image_gradient(
    model: Model, x: Images, loss: Loss, *, samples: int = 1
) -> tuple[Logits, Tensor, Images]:
    """Return logits, the loss of each image, and the gradient of its sum with respect to ``x``.

    The sum, not the mean, so that an image's gradient does not depend on its batch. Logits of half
    precision are brought to float32 first.

    Args:
        model: from images to logits.
        x: where to take the gradient; it is not changed, and gets no ``grad``.
        loss: from logits to one value an image.
        samples: passes of a stochastic model to average: all three results are means.

    Raises:
        NoGradientError: the model cuts the graph between images and logits.
    """
    totals: tuple[Tensor, ...] = ()
    for _ in range(samples):
        leaf = x.detach().requires_grad_()
        logits = in_full_precision(model(leaf))
        if not logits.requires_grad:
            raise NoGradientError(_CUT)
        losses = loss(logits)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf, allow_unused=True)
        if gradient is None:
            raise NoGradientError(_CUT)
        parts = logits.detach(), losses.detach(), gradient
        totals = tuple(a + b for a, b in zip(totals, parts, strict=True)) if totals else parts
    logits, losses, gradient = totals if samples == 1 else (one / samples for one in totals)
    return logits, losses, gradient


_CUT = (
    "The model gives no gradient with respect to its images: it detaches them, or runs without "
    "autograd. Such a model only masks its gradients; attack it with Square."
)


def mean_logits(model: Model, x: Images, *, samples: int = 1) -> Logits:
    """Return logits without a graph, averaged over the passes of a stochastic model."""
    with torch.no_grad():
        logits = in_full_precision(model(x))
        for _ in range(samples - 1):
            logits = logits + in_full_precision(model(x))
    return logits / samples


@dataclass(frozen=True, kw_only=True)
class FGSM(SearchesImages):
    """The fast gradient sign method: one step of size eps along the gradient of a loss.

    x + eps · sign(∇L) in Linf, x + eps · ∇L/‖∇L‖ in L2, cut by the bounds. A lower bound of what
    attacks can do; on a linear model within its bounds it is the optimum.

    Args:
        norm: "Linf" or "L2".
        loss: "ce", "margin" or "dlr".

    Raises:
        ValueError: an unknown norm or loss; at the call, images, labels or a model that do not fit.

    Example:
        >>> model = lambda images: torch.cat([images.sum((1, 2, 3))[:, None], torch.ones(2, 1)], 1)
        >>> images, labels = torch.full((2, 1, 1, 2), 0.75), torch.zeros(2, dtype=torch.int64)
        >>> FGSM()(model, images, labels, eps=0.5).flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]

    Reference:
        Goodfellow, Shlens & Szegedy 2015, https://doi.org/10.48550/arXiv.1412.6572
    """

    name: ClassVar[str] = "fgsm"
    norm: str = "Linf"
    loss: str = "ce"

    def __post_init__(self) -> None:
        """Refuse names that do not exist."""
        check_choice(self.norm, BALLS, "norm")
        check_choice(self.loss, LOSSES, "loss of FGSM")

    def _search(self, problem: Problem) -> Images:
        ball = problem.ball
        *_, gradient = image_gradient(
            problem.model, ball.images, lambda logits: LOSSES[self.loss](logits, problem.labels)
        )
        x = ball.project_(ball.direction(gradient).mul_(ball.eps).add_(ball.images))
        check_gradients(x)
        return x


@dataclass(frozen=True, kw_only=True)
class PGD(SearchesImages):
    """Projected gradient ascent on a loss, from random points of the ball.

    x ← Π(x + a · u) with u = sign(∇L) in Linf, ∇L/‖∇L‖ in L2, and Π the projection onto the ball
    and the bounds. Of all iterates and restarts an image keeps the one with the largest margin;
    images that are wrong are left out of further restarts. Accuracy under PGD is an upper bound of
    what a stronger attack leaves.

    Args:
        norm: "Linf" or "L2".
        steps: gradient steps of a run.
        step_size: a, in the units of the images; None is 2.5 · eps / steps.
        restarts: runs, each from another point.
        loss: "ce", "margin" or "dlr".
        random_start: whether a run begins at a random point of the ball, or at the image.
        gradient_samples: passes of a stochastic model to average the gradient over (expectation
            over transformations; Athalye et al. 2018).

    Raises:
        ValueError: an unknown norm or loss, numbers that make no sense, restarts without random
            starts; at the call, images, labels or a model that do not fit.

    Example:
        >>> model = lambda images: torch.cat([images.sum((1, 2, 3))[:, None], torch.ones(2, 1)], 1)
        >>> images, labels = torch.full((2, 1, 1, 2), 0.75), torch.zeros(2, dtype=torch.int64)
        >>> PGD(steps=5)(model, images, labels, eps=0.5).flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]

    Notes:
        The random numbers of an image come from one seed that ``generator`` gives it (None: a
        fresh generator with seed 0), so its result depends neither on the batch nor on the device.

    Reference:
        Madry et al. 2018, https://doi.org/10.48550/arXiv.1706.06083;
        Athalye et al. 2018, https://doi.org/10.48550/arXiv.1802.00420
    """

    name: ClassVar[str] = "pgd"
    norm: str = "Linf"
    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    loss: str = "ce"
    random_start: bool = True
    gradient_samples: int = 1

    def __post_init__(self) -> None:
        """Refuse names that do not exist, and numbers that make no sense."""
        check_choice(self.norm, BALLS, "norm")
        check_choice(self.loss, LOSSES, "loss of PGD")
        for name in ("steps", "restarts", "gradient_samples"):
            check_count(getattr(self, name), name)
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise ValueError(
                f"step_size is {self.step_size}; expected a positive number in pixel units, or "
                "None for 2.5 * eps / steps."
            )
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                f"restarts is {self.restarts} with random_start=False; every run would be the "
                "same. Use restarts=1, or random starts."
            )

    def _search(self, problem: Problem) -> Images:
        strongest = Strongest(problem)
        self._run(problem, strongest, draw=0, which=None)
        for draw in range(1, self.restarts):
            which = (~strongest.fooled).nonzero().squeeze(1)
            if len(which) == 0:
                break
            self._run(problem, strongest, draw=draw, which=which)
        return strongest.images

    def _run(
        self, problem: Problem, strongest: Strongest, *, draw: int, which: Tensor | None
    ) -> None:
        ball, labels, seeds = problem.ball, problem.labels, problem.seeds
        if which is not None:
            ball, labels, seeds = take_ball(ball, which), labels[which], seeds[which]
        step_size = self.step_size or 2.5 * ball.eps / self.steps
        samples = self.gradient_samples
        x = ball.random_point(seeds, draw=draw) if self.random_start else ball.images.clone()
        for _ in range(self.steps):
            logits, _, gradient = image_gradient(
                problem.model, x, lambda z: LOSSES[self.loss](z, labels), samples=samples
            )
            strongest.update(x, logits, labels, which)
            x = ball.project_(x.add_(ball.direction(gradient), alpha=step_size))
        check_gradients(x)
        strongest.update(x, mean_logits(problem.model, x, samples=samples), labels, which)


def check_gradients(x: Images) -> None:
    """Raise a ValueError if steps have led to NaN, which projections and signs keep."""
    bad = int((~x.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise ValueError(
            f"The model's gradient is NaN for {bad} of {len(x)} images. Look for divisions by "
            "zero, square roots and norms of zero, and logarithms in it."
        )

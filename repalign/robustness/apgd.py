"""APGD: projected gradient ascent that halves its own step size, untargeted and targeted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from repalign.metrics.comparators import check_choice
from repalign.robustness.attack_calls import (
    Problem,
    SearchesImages,
    Strongest,
    check_count,
)
from repalign.robustness.attack_losses import LOSSES, TARGETED_LOSSES, Labels, Logits
from repalign.robustness.gradient_attacks import check_gradients, image_gradient, mean_logits
from repalign.robustness.perturbations import (
    BALLS,
    Images,
    L2Ball,
    LinfBall,
    Model,
    per_image,
    take,
    take_ball,
)

MOMENTUM = 0.75  # weight of the new step; the rest goes to the last change
IMPROVING = 0.75  # share of steps that must raise the loss for the step size to stay
UNTARGETED = ("ce", "dlr")
Loss = Callable[[Logits], Tensor]


def step_checkpoints(steps: int) -> list[int]:
    """Return after which steps the step size is looked at: denser and denser.

    w_j = ⌈p_j · steps⌉ with p_0 = 0, p_1 = .22 and p_{j+1} = p_j + max(p_j − p_{j−1} − .03, .06).

    Example:
        >>> step_checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    hundredths = [0, 22]  # whole numbers: sums of .03 and .06 are not exact
    while (then := hundredths[-1] + max(hundredths[-1] - hundredths[-2] - 3, 6)) <= 100:
        hundredths.append(then)
    return sorted({math.ceil(p * steps / 100) for p in hundredths[1:]})


@dataclass(kw_only=True)
class _Run:
    """What a run keeps of each image that still resists."""

    which: Tensor  # the images' numbers
    labels: Labels
    targets: Labels
    x: Images
    last_x: Images
    gradient: Images
    losses: Tensor
    best_x: Images
    best_gradient: Images
    best_losses: Tensor
    step_size: Tensor
    rises: Tensor  # steps since the last checkpoint that raised the loss
    checked_losses: Tensor  # the best loss at the last checkpoint
    halved: Tensor  # whether the last checkpoint halved the step size

    def keep(self, which: Tensor) -> None:
        """Leave out the other images."""
        for one in fields(self):
            setattr(self, one.name, take(getattr(self, one.name), which))

    def improve(self) -> None:
        """Remember the points that are the best so far."""
        better = self.losses > self.best_losses
        shape = per_image(better)
        torch.where(shape, self.x, self.best_x, out=self.best_x)
        torch.where(shape, self.gradient, self.best_gradient, out=self.best_gradient)
        torch.where(better, self.losses, self.best_losses, out=self.best_losses)

    def checkpoint(self, steps: int) -> None:
        """Halve step sizes that led nowhere, and go back to the best point with them."""
        oscillates = self.rises < IMPROVING * steps
        stuck = ~self.halved & (self.checked_losses >= self.best_losses)
        self.halved = oscillates | stuck
        self.checked_losses = self.best_losses.clone()
        self.rises.zero_()
        self.step_size[self.halved] /= 2
        shape = per_image(self.halved)
        self.x = torch.where(shape, self.best_x, self.x)
        self.last_x = torch.where(shape, self.best_x, self.last_x)
        self.gradient = torch.where(shape, self.best_gradient, self.gradient)


@dataclass(frozen=True, kw_only=True)
class APGD(SearchesImages):
    """Auto-PGD: the step size starts at 2 eps and is halved where progress stops.

    z = Π(x + a · u), x ← Π(x + ¾ (z − x) + ¼ (x − x_last)) with u as in PGD. At checkpoints a is
    halved, and the run goes back to its best point, if fewer than ¾ of the steps raised the loss,
    or if a was kept last time and the best loss has not changed. A targeted loss has one run for
    each of the ``n_targets`` most likely wrong classes. Images that are wrong leave at checkpoints.

    Args:
        norm: "Linf" or "L2".
        steps: gradient steps of a run.
        restarts: runs (for each target), each from another point.
        loss: "ce", "dlr" (3 classes or more), "ce-targeted" or "dlr-targeted" (4 or more).
        n_targets: classes that a targeted loss aims at; at most the number of wrong classes is
            used. An untargeted loss has none, so there only the default is taken.
        gradient_samples: passes of a stochastic model to average the gradient over.

    Raises:
        ValueError: an unknown norm or loss, numbers that make no sense, too few classes for the
            loss; at the call, images, labels or a model that do not fit.

    Example:
        >>> model = lambda images: torch.cat([images.sum((1, 2, 3))[:, None], torch.ones(2, 1)], 1)
        >>> images, labels = torch.full((2, 1, 1, 2), 0.75), torch.zeros(2, dtype=torch.int64)
        >>> APGD(steps=10, loss="ce")(model, images, labels, eps=0.5).flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]

    Notes:
        Random numbers as in `PGD`. The paper runs all steps for all images; here one that is wrong
        is left out at the next checkpoint, which leaves accuracy the same, and a run that goes back
        to its best point does so without momentum, which would point at where it came from.

    Reference:
        Croce & Hein 2020, https://doi.org/10.48550/arXiv.2003.01690
    """

    name: ClassVar[str] = "apgd"
    norm: str = "Linf"
    steps: int = 100
    restarts: int = 1
    loss: str = "dlr-targeted"
    n_targets: int = 9
    gradient_samples: int = 1

    def __post_init__(self) -> None:
        """Refuse names that do not exist, and numbers that make no sense."""
        check_choice(self.norm, BALLS, "norm")
        check_choice(self.loss, (*UNTARGETED, *TARGETED_LOSSES), "loss of APGD")
        for name in ("steps", "restarts", "n_targets", "gradient_samples"):
            check_count(getattr(self, name), name)
        if self.loss in UNTARGETED and self.n_targets != 9:
            raise ValueError(
                f"n_targets is {self.n_targets}, but {self.loss!r} aims at no class. Leave it out, "
                f"or use loss='{self.loss}-targeted'."
            )

    def _search(self, problem: Problem) -> Images:
        strongest = Strongest(problem)
        targets = self._targets(problem)
        for draw in range(len(targets) * self.restarts):
            which = (~strongest.fooled).nonzero().squeeze(1)
            if len(which) == 0:
                break
            self._run(problem, strongest, targets[draw // self.restarts], which, draw=draw)
        return strongest.images

    def _targets(self, problem: Problem) -> list[Labels]:
        """The classes to aim at, most likely first; without targets one that no loss reads."""
        if self.loss in UNTARGETED:
            return [problem.labels]
        wrong = problem.logits.scatter(1, problem.labels[:, None], -torch.inf)
        count = min(self.n_targets, wrong.shape[1] - 1)
        return list(wrong.topk(count, dim=1).indices.unbind(1))

    def _losses(self, run: _Run) -> Loss:
        """The loss of the images that a run still holds."""
        if self.loss in UNTARGETED:
            return lambda logits: LOSSES[self.loss](logits, run.labels)
        return lambda logits: TARGETED_LOSSES[self.loss](logits, run.labels, run.targets)

    def _run(
        self, problem: Problem, strongest: Strongest, targets: Labels, which: Tensor, *, draw: int
    ) -> None:
        ball = take_ball(problem.ball, which)
        run = self._start(problem, ball, targets, which, draw=draw)
        checkpoints = step_checkpoints(self.steps)
        before = 0
        for step in range(1, self.steps + 1):
            _advance(run, ball, momentum=step > 1)
            if step == self.steps:  # its gradient would lead nowhere any more
                logits = mean_logits(problem.model, run.x, samples=self.gradient_samples)
                strongest.update(run.x, logits, run.labels, run.which)
                break
            self._look(problem.model, run, strongest)
            if step in checkpoints:
                run.checkpoint(step - before)
                before = step
                resists = ~strongest.fooled[run.which]
                if not bool(resists.all()):
                    run.keep(resists)
                    ball = take_ball(ball, resists)
                    if len(run.which) == 0:
                        return
        check_gradients(run.x)

    def _start(
        self,
        problem: Problem,
        ball: LinfBall | L2Ball,
        targets: Labels,
        which: Tensor,
        *,
        draw: int,
    ) -> _Run:
        x = ball.random_point(problem.seeds[which], draw=draw, surface=True)
        zero = torch.zeros(len(which), dtype=x.dtype, device=x.device)
        run = _Run(
            which=which,
            labels=problem.labels[which],
            targets=targets[which],
            x=x,
            last_x=x.clone(),
            gradient=torch.zeros_like(x),
            losses=zero - torch.inf,
            best_x=x.clone(),
            best_gradient=torch.zeros_like(x),
            best_losses=zero - torch.inf,
            step_size=zero + 2 * ball.eps,
            rises=zero.clone(),
            checked_losses=zero.clone(),
            halved=torch.ones_like(which, dtype=torch.bool),  # so that stuck cannot hold at first
        )
        self._look(problem.model, run, strongest=None)
        run.rises.zero_()
        run.checked_losses = run.best_losses.clone()
        return run

    def _look(self, model: Model, run: _Run, strongest: Strongest | None) -> None:
        """Take loss and gradient where the run is now."""
        logits, losses, gradient = image_gradient(
            model, run.x, self._losses(run), samples=self.gradient_samples
        )
        losses = losses.to(run.losses.dtype)
        run.rises += losses > run.losses
        run.losses, run.gradient = losses, gradient
        run.improve()
        if strongest is not None:
            strongest.update(run.x, logits, run.labels, run.which)


def _advance(run: _Run, ball: LinfBall | L2Ball, *, momentum: bool) -> None:
    """Make a step along the gradient and, but for the first, along the last change."""
    step = ball.direction(run.gradient).mul_(per_image(run.step_size))
    z = ball.project_(step.add_(run.x))
    if momentum:
        z = z.sub_(run.x).mul_(MOMENTUM).add_(run.x)
        z = ball.project_(z.add_(run.x - run.last_x, alpha=1 - MOMENTUM))
    run.last_x, run.x = run.x, z

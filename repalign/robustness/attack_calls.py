"""The one door to all attacks: what is refused there, which images are tried, what is verified."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from repalign.robustness.attack_losses import margin_loss
from repalign.robustness.image_random import image_seeds
from repalign.robustness.perturbations import (
    BALLS,
    Bounds,
    Images,
    L2Ball,
    Labels,
    LinfBall,
    Logits,
    Model,
    check_inside,
    per_image,
    take,
)
from repalign.robustness.predictions import as_labels, check_bounds, check_labels, logits_of


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The images that a model gets right, and what may be done to them."""

    model: Model
    ball: LinfBall | L2Ball
    labels: Labels
    logits: Logits
    seeds: Labels

    @property
    def images(self) -> Images:
        """The unperturbed images."""
        return self.ball.images


def check_count(value: int, name: str, *, least: int = 1) -> None:
    """Raise a ValueError unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; expected a whole number of {least} or more.")


def check_images(images: Tensor, bounds: Bounds) -> None:
    """Raise unless these are images, image × channel × height × width, within bounds."""
    check_bounds(bounds)
    low, high = bounds
    if not isinstance(images, Tensor) or images.dtype not in (torch.float32, torch.float64):
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images are {kind}; expected a tensor of float32 or float64. For half precision use "
            "autocast inside the model."
        )
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; expected (image, channel, height, width)."
        )
    if len(images) == 0:
        return
    least, greatest = images.amin().item(), images.amax().item()
    if not (least >= low and greatest <= high):
        raise ValueError(
            f"images have values from {least:.6g} to {greatest:.6g}; expected {low:g} to {high:g}. "
            "Give pixels, and put the normalisation into the model (PixelNetwork), or say bounds=."
        )


def check_eps(eps: float) -> float:
    """Return eps as a float; raise unless it is a finite number of 0 or more."""
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps is {eps}; expected a finite number of 0 or more, in pixel units.")
    return float(eps)


def in_full_precision(logits: Tensor) -> Tensor:
    """Return half precision as float32, in which losses do not underflow; the rest as it is."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def attack_correct_images(
    search: Callable[[Problem], Images],
    model: Model,
    images: Images,
    labels: Labels,
    *,
    norm: str,
    eps: float,
    bounds: Bounds,
    generator: torch.Generator | None,
) -> Images:
    """Check the input, search around the images that the model gets right, and verify the find.

    Images that are wrong already come back as they are. Gradients are taken of the images alone:
    the model's parameters, their ``grad`` and its mode stay as they are.

    Raises:
        TypeError, ValueError: data that no attack can use; a model whose output or gradient is NaN.
    """
    eps = check_eps(eps)
    check_images(images, bounds)
    labels = as_labels(labels, len(images)).detach().to(images.device)
    if len(images) == 0:
        return images.detach().clone()
    seeds = image_seeds(len(images), generator=generator, device=images.device)
    with torch.inference_mode(False), torch.enable_grad():
        images = images.detach().clone(memory_format=torch.preserve_format)
        labels, seeds = labels.clone(), seeds.clone()
        logits = in_full_precision(logits_of(model, images)).detach().clone()
        check_labels(labels, logits.shape[1])
        correct = logits.argmax(1) == labels
        if eps == 0 or not bool(correct.any()):
            return images
        tried = images if bool(correct.all()) else take(images, correct)
        problem = Problem(
            model=model,
            ball=BALLS[norm](tried, eps, bounds),
            labels=labels[correct],
            logits=logits[correct],
            seeds=seeds[correct],
        )
        found = search(problem)
        check_inside(problem.ball, found)
        if tried is images:
            return found
        images[correct] = found
        return images


class _Search(Protocol):
    @property
    def norm(self) -> str: ...

    def _search(self, problem: Problem, /) -> Images: ...


class SearchesImages:
    """Gives an attack the call of all attacks; it adds ``norm`` and ``_search``."""

    def __call__(
        self: _Search,
        model: Model,
        images: Images,
        labels: Labels,
        *,
        eps: float,
        bounds: Bounds = (0.0, 1.0),
        generator: torch.Generator | None = None,
    ) -> Images:
        """Return the images, those that the model gets right perturbed by at most ``eps``."""
        return attack_correct_images(
            self._search,
            model,
            images,
            labels,
            norm=self.norm,
            eps=eps,
            bounds=bounds,
            generator=generator,
        )


class Strongest:
    """Of each image, the perturbed one with the largest margin: wrong ones come before right ones.

    The margin ranks iterates of any loss and run, so a restart can only help.
    """

    def __init__(self, problem: Problem) -> None:
        """Begin with the unperturbed images, which the model gets right."""
        self.images = problem.images.clone(memory_format=torch.preserve_format)
        self.margins = margin_loss(problem.logits, problem.labels)
        self.fooled = torch.zeros_like(problem.labels, dtype=torch.bool)

    def update(self, x: Images, logits: Logits, labels: Labels, which: Tensor | None) -> None:
        """Keep ``x`` where it is better; ``which`` are the images' numbers, None is all."""
        margins = margin_loss(logits, labels)
        fooled = (logits.argmax(1) != labels) & (margins >= 0)  # which NaN is not
        if which is None:
            better = margins > self.margins
            torch.where(per_image(better), x, self.images, out=self.images)
            torch.where(better, margins, self.margins, out=self.margins)
            self.fooled |= fooled
            return
        better = margins > self.margins[which]
        place = which[better]
        self.images[place] = x[better]
        self.margins[place] = margins[better]
        self.fooled[which] |= fooled

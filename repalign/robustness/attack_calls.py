"""The one door to all attacks: what is refused there, which images are tried, what is verified."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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
    low, high = bounds
    if not low < high:
        raise ValueError(f"bounds are {bounds}; expected (least, greatest) value of a pixel.")
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


def check_labels(labels: Tensor, images: Images) -> Labels:
    """Return labels as int64 beside the images; raise unless there is one for each."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels are {kind}; expected a tensor of whole numbers, one an image.")
    if labels.dtype == torch.bool or labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and {labels.dtype}; expected whole numbers "
            f"of shape ({len(images)},), one for each of the images."
        )
    return labels.detach().to(images.device, torch.int64)


def check_eps(eps: float) -> float:
    """Return eps as a float; raise unless it is a finite number of 0 or more."""
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps is {eps}; expected a finite number of 0 or more, in pixel units.")
    return float(eps)


def in_full_precision(logits: Tensor) -> Tensor:
    """Return half precision as float32, in which losses do not underflow; the rest as it is."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def clean_logits(model: Model, images: Images, labels: Labels) -> Logits:
    """Return the model's output for unperturbed images; raise unless labels fit finite logits."""
    with torch.no_grad():
        logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"The model gives {shape} for {len(images)} images; expected logits of shape "
            f"({len(images)}, class)."
        )
    logits, classes = in_full_precision(logits), logits.shape[1]
    if classes < 2:
        raise ValueError(f"The model gives {classes} logit an image; expected 2 classes or more.")
    if not bool(logits.isfinite().all()):
        bad = int((~logits.isfinite()).any(1).sum())
        raise ValueError(
            f"The model's logits are NaN or infinite for {bad} of {len(images)} unperturbed "
            "images. Look at its weights and its preprocessing."
        )
    least, greatest = labels.amin().item(), labels.amax().item()
    if least < 0 or greatest >= classes:
        raise ValueError(
            f"labels run from {least} to {greatest}; the model's {classes} classes are numbered "
            f"0 to {classes - 1}."
        )
    return logits


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
    labels = check_labels(labels, images)
    if len(images) == 0:
        return images.detach().clone()
    seeds = image_seeds(len(images), generator=generator, device=images.device)
    with torch.inference_mode(False), torch.enable_grad():
        images = images.detach().clone(memory_format=torch.preserve_format)
        labels, seeds = labels.clone(), seeds.clone()
        logits = clean_logits(model, images, labels).detach().clone()
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

"""Accuracy of a model against the size of an attack, and the area under that curve."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from repalign.robustness.gradient_attacks import PGD
from repalign.robustness.intervals import area_interval, wilson
from repalign.robustness.perturbations import BALLS, Attack, Bounds, Model, check_inside
from repalign.robustness.predictions import (
    LABELS,
    OWN,
    Array,
    as_batches,
    as_model,
    count_batches,
    derived_seed,
    evaluating,
    logits_of,
    reference_and_correct,
    tracked,
)

if TYPE_CHECKING:
    from repalign.networks import Network

Flags = Bool[Tensor, "image"]

EPS = (0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255)
_PGD = PGD()


@dataclass(frozen=True, kw_only=True, eq=False)
class RobustnessCurve:
    """Accuracy at each size of an attack, with intervals over images.

    Args:
        attack: name of the attack.
        parameters: of the attack.
        norm: ``Linf`` or ``L2``.
        eps: sizes of the perturbation, in units of the pixels, growing.
        accuracy: share of the images that are right at each.
        ci_low, ci_high: Wilson interval of each share.
        n_images: number of images.
        auc: area under the curve by trapezoids, divided by the range of ``eps``; so it is a mean
            accuracy. NaN for a single ``eps``.
        auc_low, auc_high: its percentile bootstrap interval over images.
        correct: which image is right at which ``eps``.
        reference: what counts as right: ``labels``, or the model's ``own clean prediction``.
        upper_bound: whether an attack was tried at all. An attack that fails proves nothing, so
            every accuracy but that at 0 is an upper bound of the robust accuracy.
        confidence: share within the intervals.
        seed: seed of the attack and of the bootstrap.
    """

    attack: str
    parameters: dict[str, Any]
    norm: str
    eps: tuple[float, ...]
    accuracy: tuple[float, ...]
    ci_low: tuple[float, ...]
    ci_high: tuple[float, ...]
    n_images: int
    auc: float
    auc_low: float
    auc_high: float
    correct: Bool[np.ndarray, "eps image"] = field(repr=False)
    reference: str
    upper_bound: bool
    confidence: float = 0.95
    seed: int = 0

    def __str__(self) -> str:
        """Return a text table."""
        area = f"area {self.auc:.3f} ({self.auc_low:.3f} to {self.auc_high:.3f})"
        lines = [f"{self.attack}, {self.norm}: {self.n_images} images, {self.reference}; {area}"]
        points = zip(self.eps, self.accuracy, self.ci_low, self.ci_high, strict=True)
        lines += [f"eps {e:<8.4g} {a:.3f}  {low:.3f} to {high:.3f}" for e, a, low, high in points]
        return "\n".join(lines)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row an ``eps``; only rows beyond 0 are upper bounds."""
        return [
            {
                "attack": self.attack,
                "norm": self.norm,
                "eps": eps,
                "accuracy": accuracy,
                "ci_low": low,
                "ci_high": high,
                "n_images": self.n_images,
                "reference": self.reference,
                "upper_bound": eps > 0,
            }
            for eps, accuracy, low, high in zip(
                self.eps, self.accuracy, self.ci_low, self.ci_high, strict=True
            )
        ]


def robustness_curve(
    model: Model | Network,
    images: Array | Iterable[Any],
    labels: Array | None = None,
    *,
    attack: Attack = _PGD,
    eps: Sequence[float] = EPS,
    bounds: Bounds = (0.0, 1.0),
    batch_size: int = 128,
    device: str | torch.device = "auto",
    seed: int = 0,
    confidence: float = 0.95,
    progress: bool = True,
) -> RobustnessCurve:
    """Return a model's accuracy under one attack, at each size of it.

    At 0 there is no attack. An image that is wrong without an attack is wrong at every ``eps``
    and is not attacked. Otherwise each ``eps`` stands for itself: the curve may rise, which is
    what the masking audit looks for.

    Args:
        model: from images (image, channel, height, width) within ``bounds`` to logits (image,
            class), or a `repalign.networks.Network`. A module is put into evaluation mode and on
            the device, and is afterwards as it was.
        images, labels: as in `repalign.robustness.predictions.as_batches`. Without labels the
            curve is the agreement with the model's own clean prediction, 1 at 0.
        attack: one of ``ATTACKS``, or any other `Attack`.
        eps: sizes of the perturbation in units of the pixels, growing, from 0 or more.
        bounds: least and greatest pixel value.
        batch_size: images at a time.
        device: where to compute: ``auto``, ``cuda``, ``mps``, ``cpu``.
        seed: seed of the attack, of a model that draws numbers, and of the bootstrap; torch's own
            random numbers are untouched.
        confidence: share within the intervals.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: sizes that do not grow, an attack that leaves its ball, or images, labels or
            logits that do not fit.

    Example:
        >>> def model(images):
        ...     return torch.stack([images.mean((1, 2, 3)), torch.full((len(images),), 0.5)], 1)
        >>> images = torch.linspace(0, 1, 11)[:, None, None, None].expand(-1, 1, 4, 4)
        >>> curve = robustness_curve(model, images, eps=(0, 0.12, 0.32), device="cpu",
        ...                          progress=False)
        >>> [round(share, 2) for share in curve.accuracy], curve.reference
        ([1.0, 0.73, 0.36], 'own clean prediction')
    """
    sizes = check_eps(eps)
    if attack.norm not in BALLS:
        raise ValueError(f"norm of the attack is {attack.norm!r}; expected {' or '.join(BALLS)}.")
    check_units(sizes, attack.norm, bounds)
    function = as_model(model)
    batches = count_batches(images, batch_size)
    steps = as_batches(images, labels, batch_size=batch_size, bounds=bounds)
    total = None if batches is None else batches * len(sizes)
    columns: list[Tensor] = []
    references: set[str] = set()

    def cells() -> Iterator[Flags]:
        for number, (pixels, classes) in enumerate(steps):
            references.add(OWN if classes is None else LABELS)
            pixels = pixels.to(where)
            expected, clean = reference_and_correct(function, pixels, classes)
            column = []
            for place, size in enumerate(sizes):
                generator = torch.Generator().manual_seed(derived_seed(seed, place, number))
                column.append(
                    survivors(
                        function,
                        attack,
                        pixels,
                        expected,
                        clean,
                        eps=size,
                        bounds=bounds,
                        generator=generator,
                    )
                )
                yield column[-1]
            columns.append(torch.stack(column).cpu())

    with evaluating(function, device=device, seed=seed) as where:
        for _ in tracked(cells(), total, f"{attack.name} {attack.norm}", show=progress):
            pass
    if len(references) > 1:
        raise ValueError("some batches have labels and some have none; give all of them labels.")
    return curve_of(
        torch.cat(columns, dim=1).numpy(),
        sizes,
        attack=attack.name,
        parameters=_parameters(attack),
        norm=attack.norm,
        reference=references.pop(),
        confidence=confidence,
        seed=seed,
    )


def survivors(
    model: Model,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    clean: Flags,
    *,
    eps: float,
    bounds: Bounds,
    generator: torch.Generator | None,
) -> Flags:
    """Return which of the images that are right without an attack are right with it, too."""
    if eps == 0 or not bool(clean.any()):
        return clean
    chosen = clean.nonzero()[:, 0]
    attacked = attack(
        model, images[chosen], labels[chosen], eps=eps, bounds=bounds, generator=generator
    )
    check_inside(BALLS[attack.norm](images[chosen], eps, bounds), attacked)
    right = torch.zeros_like(clean)
    right[chosen] = logits_of(model, attacked).argmax(1) == labels[chosen]
    return right


def _parameters(attack: Attack) -> dict[str, Any]:
    parameters: Any = attack
    if dataclasses.is_dataclass(parameters) and not isinstance(parameters, type):
        return dataclasses.asdict(parameters)
    return {"norm": attack.norm}


def check_eps(eps: Sequence[float]) -> tuple[float, ...]:
    """Return sizes as floats; raise a ValueError unless they grow from 0 or more."""
    sizes = tuple(float(size) for size in eps)
    finite = sizes and sizes[0] >= 0 and all(math.isfinite(size) for size in sizes)
    if not finite or any(b <= a for a, b in pairwise(sizes)):
        raise ValueError(f"eps are {list(sizes)}; expected sizes from 0 or more that grow.")
    return sizes


def check_units(eps: Sequence[float], norm: str, bounds: Bounds) -> None:
    """Raise a ValueError where an Linf attack may change each pixel from one end to the other."""
    reach = bounds[1] - bounds[0]
    if norm == "Linf" and 0 < reach < eps[-1]:
        raise ValueError(
            f"eps is {eps[-1]:g}, and pixels go from {bounds[0]:g} to {bounds[1]:g}: no image would"
            f" be left. Of 8-bit steps write {eps[-1]:g}/255."
        )


def curve_of(
    correct: Bool[np.ndarray, "eps image"],
    eps: tuple[float, ...],
    *,
    attack: str,
    parameters: dict[str, Any],
    norm: str,
    reference: str,
    confidence: float = 0.95,
    seed: int = 0,
) -> RobustnessCurve:
    """Return the curve, its intervals and its area from which image is right at which ``eps``."""
    n = correct.shape[1]
    ends = [wilson(int(row.sum()), n, confidence=confidence) for row in correct]
    auc, auc_low, auc_high = area_interval(correct, eps, confidence=confidence, seed=seed)
    return RobustnessCurve(
        attack=attack,
        parameters=parameters,
        norm=norm,
        eps=eps,
        accuracy=tuple(float(row.mean()) for row in correct),
        ci_low=tuple(low for low, _ in ends),
        ci_high=tuple(high for _, high in ends),
        n_images=n,
        auc=auc,
        auc_low=auc_low,
        auc_high=auc_high,
        correct=correct,
        reference=reference,
        upper_bound=eps[-1] > 0,
        confidence=confidence,
        seed=seed,
    )


def worst_case(curves: Sequence[RobustnessCurve]) -> RobustnessCurve:
    """Return the curve of several attacks together: right is what is right under all of them.

    Args:
        curves: of one model on the same images in the same order, with one norm and one ``eps``.

    Raises:
        ValueError: no curves, or curves that differ in norm, ``eps``, images or reference.

    Notes:
        That the images are the same is checked by their number, and at ``eps`` 0 by who is right.

    Reference: Croce & Hein 2020, https://doi.org/10.48550/arXiv.2003.01690.
    """
    if not curves:
        raise ValueError("there are no curves; expected 1 or more.")
    first = curves[0]
    for curve in curves[1:]:
        for name in ("norm", "eps", "n_images", "reference", "confidence"):
            if getattr(curve, name) != getattr(first, name):
                raise ValueError(
                    f"the curves differ in {name}: {getattr(first, name)} and "
                    f"{getattr(curve, name)}. Attack the same model and images alike."
                )
        if first.eps[0] == 0 and not np.array_equal(curve.correct[0], first.correct[0]):
            raise ValueError(
                "the curves differ without an attack, so they are of other models or images. "
                "Attack the same model and images, in the same order."
            )
    return curve_of(
        np.logical_and.reduce([curve.correct for curve in curves]),
        first.eps,
        attack=f"worst case of {', '.join(dict.fromkeys(curve.attack for curve in curves))}",
        parameters={"attacks": [{"attack": c.attack, **c.parameters} for c in curves]},
        norm=first.norm,
        reference=first.reference,
        confidence=first.confidence,
        seed=first.seed,
    )

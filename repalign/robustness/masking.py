"""An audit for masked gradients: whether an attack that fails can be trusted."""

from __future__ import annotations

import math
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from repalign.progress import track
from repalign.robustness.gradient_attacks import PGD
from repalign.robustness.masking_checks import CHECKS, run_check
from repalign.robustness.masking_trials import Check, Trial
from repalign.robustness.perturbations import Bounds, Labels, Model
from repalign.robustness.predictions import (
    Array,
    as_batches,
    as_model,
    evaluating,
    reference_and_correct,
)

if TYPE_CHECKING:
    from repalign.networks import Network

FEWEST = 30


class GradientMaskingWarning(UserWarning):
    """A model failed the masking audit: its accuracy under attack is not to be trusted."""


class TooFewImagesError(ValueError):
    """Too few images are right without an attack to tell attacks apart."""


class GradientMaskingError(RuntimeError):
    """A model failed the masking audit, and `MaskingAudit.check` was asked."""


@dataclass(frozen=True, kw_only=True)
class MaskingAudit:
    """The checks of one model at one size of attack.

    Args:
        checks: in the order of ``CHECKS``.
        eps, norm: of the attack.
        n_images: number of images that were attacked, those that are right without an attack.
    """

    checks: tuple[Check, ...]
    eps: float
    norm: str
    n_images: int

    @property
    def passed(self) -> bool:
        """Whether no check failed; those that could not be done do not count."""
        return all(check.passed is not False for check in self.checks)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a check: name, passed, detail, eps, norm, n_images."""
        shared = {"eps": self.eps, "norm": self.norm, "n_images": self.n_images}
        return [
            {"name": check.name, "passed": check.passed, "detail": check.detail, **shared}
            for check in self.checks
        ]

    def __str__(self) -> str:
        """Return a line a check."""
        words = {True: "passed", False: "FAILED", None: "not done"}
        checks = [f"{words[one.passed]:8} {one.name}: {one.detail}" for one in self.checks]
        return "\n".join([f"{self.norm} eps {self.eps:g}, {self.n_images} images", *checks])

    def message(self) -> str:
        """Return the verdict, and each failure with its meaning."""
        failed = [f"\n- {check.name}: {check.detail}" for check in self.checks if not _fine(check)]
        if not failed:
            return f"No sign of masked gradients at {self.norm} eps = {self.eps:g}."
        return (
            f"{len(failed)} of {len(self.checks)} checks for masked gradients failed at "
            f"{self.norm} eps = {self.eps:g}: accuracy under this attack overstates the model's "
            "robustness. Mend what the checks name, or report the strongest attack."
            + "".join(failed)
        )

    def check(self) -> None:
        """Raise a GradientMaskingError that lists the checks that failed, if any did."""
        if not self.passed:
            raise GradientMaskingError(self.message())


def _fine(check: Check) -> bool:
    return check.passed is not False


def masking_audit(
    model: Model | Network,
    images: Array,
    labels: Array | None = None,
    *,
    eps: float,
    norm: str = "Linf",
    loss: str = "ce",
    bounds: Bounds = (0.0, 1.0),
    steps: int = 20,
    restarts: int = 5,
    queries: int = 1000,
    gradient_samples: int = 1,
    surrogate: Model | Network | None = None,
    n_images: int | None = 200,
    batch_size: int = 128,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = True,
) -> MaskingAudit:
    """Check whether an attack fails because the model is robust, or because its gradients hide.

    The reference is PGD on ``loss``, against the images that are right without an attack:

    - iterations help: one step (FGSM) is not stronger;
    - steps suffice, restarts suffice: five times as many are not stronger;
    - black box: Square, which sees no gradient, is not stronger;
    - transfer: images made on ``surrogate`` are not stronger (skipped without one);
    - losses agree: PGD on the margin (on the cross-entropy, where ``loss`` is another) is not
      stronger by more than 5 points;
    - unbounded attack: a ball of the whole range of pixels leaves at most 2 % right;
    - monotone curve: accuracy does not rise from eps / 4 to 2 eps;
    - zero gradients: at most 2 % of the images have a gradient of exactly zero;
    - deterministic: two passes agree, or averaging more gradients is not stronger.

    *Stronger* is by more than 2 points of accuracy and more than chance: the exact one-sided
    McNemar test, over the images that only one of both attacks fools, has p < .01, for which 7
    images are needed. Shares above 2 % are tested by a binomial test, with p < .01.

    Args:
        model: from images within ``bounds`` to logits, or a `repalign.networks.Network`.
        images: (image, channel, height, width).
        labels: class of each image; None for the model's own clean prediction.
        eps: the size of attack that is to be reported.
        norm: ``Linf`` or ``L2``.
        loss: of the reference: that of the attack that is to be reported.
        bounds: least and greatest pixel value.
        steps, restarts: of the reference attack.
        queries: of Square.
        gradient_samples: passes that the gradients of a stochastic model are averaged over.
        surrogate: another model of the same classes.
        n_images: how many images to draw at most; None for all.
        batch_size: images at a time.
        device: where to compute: ``auto``, ``cuda``, ``mps``, ``cpu``.
        seed: seed of the draws; torch's own random numbers are untouched.
        progress: show a progress bar on stderr.

    Warns:
        GradientMaskingWarning: a check failed; ``audit.check()`` raises instead.

    Raises:
        TooFewImagesError: fewer than 30 images that are right without an attack.
        ValueError: an eps that is not positive, or images, labels or logits that do not fit.

    Notes:
        A ball of the full range, (high − low) in Linf and (high − low)·√pixels in L2, holds the
        images of all other classes, so the best attack leaves nothing; half the range, which only
        reaches mid-grey, would leave the images of one class. A pass is no proof: it says that
        these attacks found nothing hidden. Where the reference fools all images, nothing can be
        stronger.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> images = torch.rand(80, 1, 8, 8, generator=generator)
        >>> masking_audit(model, images, eps=0.02, queries=50, device="cpu", progress=False).passed
        True

    Reference:
        Athalye, Carlini & Wagner 2018, https://doi.org/10.48550/arXiv.1802.00420;
        Carlini et al. 2019, https://doi.org/10.48550/arXiv.1902.06705
    """
    if not 0 < eps < math.inf:
        raise ValueError(f"eps is {eps}; expected a size above 0, in units of the pixels.")
    reference = PGD(
        norm=norm, loss=loss, steps=steps, restarts=restarts, gradient_samples=gradient_samples
    )
    own = as_model(model)
    other = None if surrogate is None else as_model(surrogate)
    pixels, classes = _drawn(images, labels, bounds=bounds, n_images=n_images, seed=seed)
    with ExitStack() as stack:
        where = stack.enter_context(evaluating(own, device=device, seed=seed))
        if other is not None:
            stack.enter_context(evaluating(other, device=device, seed=seed))
        pixels, classes = _right_ones(own, pixels.to(where), classes, batch_size=batch_size)
        trial = Trial(
            model=own,
            images=pixels,
            labels=classes,
            eps=float(eps),
            bounds=bounds,
            reference=reference,
            queries=queries,
            surrogate=other,
            batch_size=batch_size,
            seed=seed,
        )
        names = track(list(CHECKS), "masking audit", show=progress)
        checks = tuple(run_check(name, trial) for name in names)
    audit = MaskingAudit(checks=checks, eps=float(eps), norm=norm, n_images=len(pixels))
    if not audit.passed:
        warnings.warn(audit.message(), GradientMaskingWarning, stacklevel=2)
    return audit


def _drawn(
    images: Array, labels: Array | None, *, bounds: Bounds, n_images: int | None, seed: int
) -> tuple[Tensor, Labels | None]:
    """Return at most ``n_images`` of the images, drawn without replacement."""
    pixels, classes = next(as_batches(images, labels, batch_size=len(images), bounds=bounds))
    if n_images is None or n_images >= len(pixels):
        return pixels, classes
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    chosen = order[:n_images].sort().values.to(pixels.device)
    return pixels[chosen], None if classes is None else classes[chosen.to(classes.device)]


def _right_ones(
    model: Model, images: Tensor, labels: Labels | None, *, batch_size: int
) -> tuple[Tensor, Labels]:
    """Return the images that are right without an attack, and what counts as right."""
    parts = []
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        given = None if labels is None else labels[batch]
        parts.append(reference_and_correct(model, images[batch], given))
    expected, right = (torch.cat(column) for column in zip(*parts, strict=True))
    if int(right.sum()) < FEWEST:
        raise TooFewImagesError(
            f"{int(right.sum())} of {len(images)} images are right without an attack; the audit "
            f"needs {FEWEST} or more to tell attacks apart. Give more images, or a better model."
        )
    return images[right], expected[right]

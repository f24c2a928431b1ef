"""A model on trial for masked gradients: its images, the reference attack, and who is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

from repalign.robustness.attack_losses import LOSSES
from repalign.robustness.curves import survivors
from repalign.robustness.gradient_attacks import PGD, image_gradient
from repalign.robustness.perturbations import Attack, Bounds, Model
from repalign.robustness.predictions import derived_seed

Right = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of the audit.

    Args:
        name: what is checked.
        passed: None where it could not be done; ``detail`` says why.
        detail: what was found, and on failure what it means.
        values: the figures behind it.
    """

    name: str
    passed: bool | None
    detail: str
    values: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A model, the images that it gets right, and the attack that is on trial.

    Args:
        model: from images within ``bounds`` to logits.
        images, labels: (image, channel, height, width) and the class that counts as right.
        eps: size of the attack.
        bounds: least and greatest pixel value.
        reference: the attack whose failures are to be trusted.
        queries: of Square.
        surrogate: another model, or None.
        batch_size: images at a time.
        seed: seed of the attacks.
    """

    model: Model
    images: Tensor
    labels: Tensor
    eps: float
    bounds: Bounds
    reference: PGD
    queries: int
    surrogate: Model | None
    batch_size: int
    seed: int

    def right_under(self, attack: Attack, eps: float | None = None) -> Right:
        """Return which images the model gets right under an attack, at ``eps`` or another size."""
        return self._batched(lambda batch, number: self._attacked(attack, eps, batch, number))

    @cached_property
    def right(self) -> Right:
        """Which images the model gets right under the reference attack."""
        return self.right_under(self.reference)

    def right_after_transfer(self, surrogate: Model) -> Right:
        """Return which images the model gets right if they were made on another model."""

        def transferred(batch: slice, number: int) -> Tensor:
            images, labels = self.images[batch], self.labels[batch]
            generator = torch.Generator().manual_seed(derived_seed(self.seed, number))
            attacked = self.reference(
                surrogate,
                images,
                labels,
                eps=self.eps,
                bounds=self.bounds,
                generator=generator,
            )
            with torch.no_grad():
                return self.model(attacked).argmax(1) == labels

        return self._batched(transferred)

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Return logits and gradients of the cross-entropy at the images, from one pass."""
        logits, gradients = [], []
        for start in range(0, len(self.images), self.batch_size):
            batch = slice(start, start + self.batch_size)
            labels = self.labels[batch]
            loss = partial(_cross_entropy, labels=labels)
            out, _, gradient = image_gradient(self.model, self.images[batch], loss)
            logits.append(out)
            gradients.append(gradient)
        return torch.cat(logits), torch.cat(gradients)

    def _attacked(self, attack: Attack, eps: float | None, batch: slice, number: int) -> Tensor:
        labels = self.labels[batch]
        return survivors(
            self.model,
            attack,
            self.images[batch],
            labels,
            torch.ones_like(labels, dtype=torch.bool),
            eps=self.eps if eps is None else eps,
            bounds=self.bounds,
            generator=torch.Generator().manual_seed(derived_seed(self.seed, number)),
        )

    def _batched(self, run: Callable[[slice, int], Tensor]) -> Right:
        starts = range(0, len(self.images), self.batch_size)
        parts = [run(slice(start, start + self.batch_size), start) for start in starts]
        found: Right = torch.cat(parts).cpu().numpy()
        return found


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return LOSSES["ce"](logits, labels)


def advantage(reference: Right, other: Right) -> tuple[float, float]:
    """Return by how much accuracy another attack is stronger, and the exact McNemar p of it.

    Under chance, an image that just one attack fools is fooled by either alike; p is the
    probability of as many by the other attack, or more.

    Example:
        >>> advantage(np.ones(200, dtype=bool), np.arange(200) >= 7)
        (0.035, 0.0078125)
    """
    only_other = int((reference & ~other).sum())
    only_reference = int((~reference & other).sum())
    gain = (only_other - only_reference) / len(reference)
    return gain, float(binom.sf(only_other - 1, only_other + only_reference, 0.5))

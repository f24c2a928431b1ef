"""What attacks maximise: losses per image of logits and labels, and the targeted ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

Logits = Float[Tensor, "image class"]
Labels = Int64[Tensor, "image"]
PerImage = Float[Tensor, "image"]

_NEVER_ZERO = 1e-12


def _of(logits: Logits, labels: Labels) -> PerImage:
    return logits.gather(1, labels[:, None]).squeeze(1)


def _others(logits: Logits, labels: Labels) -> Logits:
    """The logits with the label's at −∞."""
    return logits.scatter(1, labels[:, None], -torch.inf)


def _largest(logits: Logits, count: int, name: str) -> Float[Tensor, "image count"]:
    if logits.shape[1] < count:
        raise ValueError(
            f"The loss {name!r} compares the {count} largest logits; the model gives "
            f"{logits.shape[1]}. Use 'ce' or 'margin' (for APGD 'ce' or 'ce-targeted')."
        )
    return logits.topk(count, dim=1).values


def ce_loss(logits: Logits, labels: Labels) -> PerImage:
    """Return the cross-entropy, −log softmax(z)_y = log(1 + Σ_{j ≠ y} exp(z_j − z_y)).

    Written the second way its gradient does not round to zero where the label is all but certain:
    in float32 the first loses it from a margin of 17 on, this from about 100.

    Example:
        >>> ce_loss(torch.zeros(1, 2), torch.tensor([0])).tolist()
        [0.6931471824645996]
    """
    return functional.softplus(_others(logits, labels).logsumexp(1) - _of(logits, labels))


def margin_loss(logits: Logits, labels: Labels) -> PerImage:
    """Return max_{j ≠ y} z_j − z_y, positive where the label has lost (Carlini & Wagner 2017).

    Example:
        >>> margin_loss(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])).tolist()
        [-1.0]

    Reference:
        Carlini & Wagner 2017, https://doi.org/10.1109/SP.2017.49
    """
    return _others(logits, labels).amax(1) - _of(logits, labels)


def dlr_loss(logits: Logits, labels: Labels) -> PerImage:
    """Return the difference of logits ratio, (max_{j ≠ y} z_j − z_y) / (z_(1) − z_(3)).

    z_(k) is the k-th largest logit; shifting and scaling the logits change nothing, so a model
    cannot hide its gradient by their size.

    Raises:
        ValueError: fewer than 3 classes.

    Example:
        >>> dlr_loss(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])).tolist()
        [-0.5]

    Reference:
        Croce & Hein 2020, https://doi.org/10.48550/arXiv.2003.01690
    """
    largest = _largest(logits, 3, "dlr")
    return margin_loss(logits, labels) / (largest[:, 0] - largest[:, 2] + _NEVER_ZERO)


def targeted_ce_loss(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Return log softmax(z)_t, greatest where the target is certain; the label is not used."""
    return -functional.cross_entropy(logits, targets, reduction="none")


def targeted_dlr_loss(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Return (z_t − z_y) / (z_(1) − (z_(3) + z_(4)) / 2).

    Raises:
        ValueError: fewer than 4 classes.

    Reference:
        Croce & Hein 2020, https://doi.org/10.48550/arXiv.2003.01690
    """
    largest = _largest(logits, 4, "dlr-targeted")
    scale = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2
    return (_of(logits, targets) - _of(logits, labels)) / (scale + _NEVER_ZERO)


LOSSES: dict[str, Callable[[Logits, Labels], PerImage]] = {
    "ce": ce_loss,
    "dlr": dlr_loss,
    "margin": margin_loss,
}
TARGETED_LOSSES: dict[str, Callable[[Logits, Labels, Labels], PerImage]] = {
    "ce-targeted": targeted_ce_loss,
    "dlr-targeted": targeted_dlr_loss,
}

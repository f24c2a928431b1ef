"""Ridge errors on rows left out of the fit, from one decomposition of all rows."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.folds import fold_masks
from repalign.metrics.gram import centre, product, symmetric_product


def leave_one_out_errors(
    eigenvalues: Float[Tensor, "rank"],
    q: Float[Tensor, "stimulus rank"],
    y: Float[Tensor, "stimulus neuroid"],
    penalties: Float[Tensor, "penalty"],
) -> Float[Tensor, "penalty neuroid"]:
    """Return the mean squared error of predicting each row by a fit to all others.

    Row i's error is eᵢ / (1 − hᵢᵢ), e the residuals and h the hat matrix with its intercept. Both
    are built from α/(λ + α), not from 1 − λ/(λ + α), which would cancel.

    Args:
        eigenvalues, q: Λ and Q of the rows' centred kernel QΛQᵀ.
        y: targets.
        penalties: values of α.
    """
    projected, outside = _coordinates(q, y)
    shrunk = penalties / (eigenvalues[:, None] + penalties)
    free = q.new_zeros(()) if spans(q) else 1 - 1 / len(q) - q.square().sum(1, keepdim=True)
    slack = free + product(q.square(), shrunk)
    errors = y.new_empty(len(penalties), y.shape[1])
    for number, factor in enumerate(shrunk.mT):
        residual = product(q, factor[:, None] * projected)
        if outside is not None:
            residual += outside
        errors[number] = residual.div_(slack[:, number, None]).square_().mean(0)
    return errors


def leave_fold_out_errors(
    eigenvalues: Float[Tensor, "rank"],
    q: Float[Tensor, "stimulus rank"],
    y: Float[Tensor, "stimulus neuroid"],
    penalties: Float[Tensor, "penalty"],
    fold: Int[Tensor, "stimulus"],
) -> Float[Tensor, "penalty neuroid"]:
    """Return the mean squared error of predicting each fold by a fit to the others.

    The errors of the rows I of a fold are (I − H_II)⁻¹ e_I. Digits are lost in proportion to
    (λ + α)/α, whose logarithm should stay far below that of the precision.

    Args:
        eigenvalues, q, y, penalties: as in ``leave_one_out_errors``.
        fold: fold of each row; the mean is over rows, then over folds.
    """
    projected, outside = _coordinates(q, y)
    masks = list(fold_masks(fold))
    errors = y.new_zeros(len(penalties), y.shape[1])
    for rows in masks:
        inside = q[rows]
        free = inside.new_zeros(())
        if not spans(q):
            unit = torch.eye(len(inside), dtype=q.dtype, device=q.device)
            free = unit - 1 / len(q) - symmetric_product(inside)
        for number, penalty in enumerate(penalties):
            shrunk = penalty / (eigenvalues + penalty)
            slack = free + symmetric_product(inside * shrunk.sqrt())
            residual = product(inside, shrunk[:, None] * projected)
            if outside is not None:
                residual += outside[rows]
            left_out = torch.cholesky_solve(residual, torch.linalg.cholesky(slack))
            errors[number] += left_out.square().mean(0) / len(masks)
    return errors


def spans(q: Float[Tensor, "stimulus rank"]) -> bool:
    """Tell whether a kernel reaches all that is orthogonal to the mean."""
    return q.shape[1] == q.shape[0] - 1


def _coordinates(q: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return Qᵀy and what of the centred y the kernel does not reach, None if it reaches all."""
    centred = centre(y, 0)
    projected = product(q.mT, centred)
    return projected, None if spans(q) else centred - product(q, projected)


def least_error(
    errors: Iterable[Float[Tensor, "neuroid"]], penalties: Sequence[float] | Tensor
) -> tuple[Float[Tensor, "neuroid"], Float[Tensor, "neuroid"]]:
    """Return each target's penalty of least error, the first of equals, and that error."""
    pairs = zip(penalties, errors, strict=True)
    penalty, least = next(pairs)
    best = torch.full_like(least, float(penalty))
    for penalty, error in pairs:
        better = error < least
        best = torch.where(better, float(penalty), best)
        least = torch.where(better, error, least)
    return best, least

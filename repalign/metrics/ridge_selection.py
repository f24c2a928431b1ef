"""Ridge regression with a penalty for each target, chosen by cross-validation."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.calls import Array, Device, as_tensor, check_finite
from repalign.metrics.folds import fold_masks
from repalign.metrics.gram import (
    BLOCK_ELEMENTS,
    centre,
    centred_gram,
    check_responses,
    check_same_stimuli,
    column_blocks,
    cores_for_blas,
    in_working_precision,
    product,
    symmetric_product,
)
from repalign.metrics.leave_out import least_error, leave_fold_out_errors
from repalign.metrics.spectra import (
    dual_eigh,
    full_spectrum,
    is_gram,
    primal_eigh,
    spanning_columns,
)

LEAST_SHRINKAGE = 1e-6  # α/(λ + α) below which leaving folds out of one fit would lose digits
EIGH = 8  # floating-point operations of an eigendecomposition, in cubes of its size


class RidgeFit(NamedTuple):
    """A ridge regression: ŷ = x @ weights + intercept.

    Attributes:
        weights: feature × target.
        intercept: one value a target.
        alphas: each target's penalty.
        scores: each target's cross-validated score, minus the mean squared error of its penalty.
    """

    weights: Float[Tensor, "feature target"]
    intercept: Float[Tensor, "target"]
    alphas: Float[Tensor, "target"]
    scores: Float[Tensor, "target"]


def check_alphas(alphas: Sequence[float]) -> None:
    """Raise a ValueError unless there are penalties, all positive and finite."""
    if not alphas or not all(0 < alpha < float("inf") for alpha in alphas):
        raise ValueError(
            f"alphas is {alphas}; expected one or more positive finite numbers. "
            "For nearly ordinary least squares use a small one, such as 1e-8."
        )


def ridge_cv(
    x: Float[Array, "stimulus feature"],
    y: Float[Array, "stimulus target"],
    *,
    alphas: Sequence[float],
    fold: Int[Tensor, "stimulus"],
    device: Device = None,
) -> RidgeFit:
    """Fit a ridge regression whose penalty each target chooses by cross-validation.

    A penalty's score is minus the mean squared error of a fold that was left out of the fit,
    averaged over folds. With the best one, the fit is to all stimuli: weights =
    (XᵀX + αI)⁻¹Xᵀ(Y − ȳ) of the centred x.

    Args:
        x: features.
        y: targets, in float64 or float32; what multiplies them is computed in their precision,
            and what decomposes ``x`` in float64.
        alphas: penalties. Unlike those of ``Ridge`` they are not scaled by the features.
        fold: fold of each stimulus, such as ``shuffled_folds`` gives.
        device: where to compute; None is where ``x`` is.

    Returns:
        A ``RidgeFit``. Of two penalties with equal errors it has the larger.

    Raises:
        ValueError: wrong shapes, fewer than 2 folds, penalties that are not positive, or values
            that are not finite.

    Note:
        Equal to himalaya's ``RidgeCV(fit_intercept=True, cv=PredefinedSplit(fold))``, whose default
        score it is. Few targets share one decomposition, from which folds are left out; for many
        targets one decomposition a fold takes less.

    Example:
        >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        >>> fit = ridge_cv(x, x[:, :1] + 2, alphas=[1e-6, 1.0], fold=torch.arange(40) % 4)
        >>> fit.intercept.round().tolist(), fit.weights.round().abs().tolist()
        ([2.0], [[1.0], [0.0], [0.0]])

    Reference:
        Hoerl & Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634; leaving folds out:
        Cook & Weisberg 1982, Residuals and Influence in Regression
    """
    x, y, fold = checked_problem(x, y, alphas=alphas, fold=fold, device=device)
    with cores_for_blas(x):
        return _fitted(x, y, alphas, fold)


def _fitted(
    x: Tensor, y: Tensor, alphas: Sequence[float], fold: Int[Tensor, "stimulus"]
) -> RidgeFit:
    wide = x.shape[1] >= x.shape[0]
    means = in_working_precision(x).mean(0)
    prepared = centred_gram(column_blocks(x)) if wide else centre(in_working_precision(x), 0)
    descending = sorted(map(float, alphas), reverse=True)
    penalties = prepared.new_tensor(descending)
    spectrum = full_spectrum(prepared)
    errors = cross_validated_errors(prepared, y, penalties, fold, spectrum[:2])
    best, least = least_error(errors, penalties)
    weights = column_weights(spectrum, y, best)
    if wide:
        weights = product(centre(in_working_precision(x), 0).mT.to(y.dtype), weights)
    return RidgeFit(weights, intercept_of(weights, means, y), best, -least)


def checked_problem(
    x: Array,
    y: Array,
    *,
    alphas: Sequence[float],
    fold: Int[Tensor, "stimulus"],
    device: Device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, targets and folds on the device, or raise what ``ridge_cv`` raises."""
    check_alphas(tuple(alphas))
    x = as_tensor(x, device=device)
    y = as_tensor(y, name="y", device=x.device)
    check_responses(x)
    check_responses(y, name="y")
    check_same_stimuli(x, y)
    check_finite(x)
    check_finite(y, name="y")
    fold = torch.as_tensor(fold, device=x.device)
    folds = len(set(fold.flatten().tolist()))
    if fold.shape != x.shape[:1] or folds < 2:
        raise ValueError(
            f"fold has shape {tuple(fold.shape)} and {folds} folds; expected a fold for each of "
            f"{len(x)} stimuli, 2 or more in all. Use shuffled_folds."
        )
    return x, y if y.dtype == torch.float32 else in_working_precision(y), fold


def cross_validated_errors(
    prepared: Float[Tensor, "stimulus column"],
    y: Float[Tensor, "stimulus target"],
    penalties: Float[Tensor, "penalty"],
    fold: Int[Tensor, "stimulus"],
    spectrum: tuple[Tensor, Tensor] | None = None,
) -> Float[Tensor, "penalty target"]:
    """Return the mean squared error of each left-out fold, averaged over folds.

    Args:
        prepared: a Gram matrix, or column-centred features, fewer than stimuli.
        y: targets.
        penalties: values of α.
        fold: fold of each stimulus.
        spectrum: Λ and Q of the centred kernel of all rows, where they are known already.
    """
    few = _leaving_out_is_cheaper(prepared, y, len(penalties), fold, known=spectrum is not None)
    if few and y.dtype == prepared.dtype:
        eigenvalues, q = full_spectrum(prepared)[:2] if spectrum is None else spectrum
        if _keeps_its_digits(eigenvalues, penalties, fold):
            return leave_fold_out_errors(eigenvalues, q, y, penalties, fold)
    return _errors_fold_by_fold(prepared, y, penalties, fold)


def _leaving_out_is_cheaper(
    prepared: Tensor, y: Tensor, n_penalties: int, fold: Tensor, *, known: bool
) -> bool:
    """Count the floating-point operations in which the two strategies differ."""
    n, rank = prepared.shape
    folds = len(set(fold.tolist()))
    size, targets = n / folds, y.shape[1]
    leaving_out = n_penalties * n * size * (rank + size / 3 + 2 * targets)
    fold_by_fold = (folds - (not known)) * EIGH * rank**3 + folds * 2 * rank**2 * targets
    return leaving_out < fold_by_fold


def _keeps_its_digits(eigenvalues: Tensor, penalties: Tensor, fold: Tensor) -> bool:
    """Tell whether I − H_II can be inverted: some training rows are to spare, or α is no trifle."""
    fewest = len(fold) - max(Counter(fold.tolist()).values())
    share = penalties.min() / (eigenvalues.max() + penalties.min()) if len(eigenvalues) else 1.0
    return len(eigenvalues) < fewest or bool(share >= LEAST_SHRINKAGE)


def _column_slices(columns: int, *, rows: int) -> list[slice]:
    step = max(1, BLOCK_ELEMENTS // rows)
    return [slice(start, start + step) for start in range(0, columns, step)]


def _errors_fold_by_fold(
    prepared: Float[Tensor, "stimulus column"],
    y: Float[Tensor, "stimulus target"],
    penalties: Float[Tensor, "penalty"],
    fold: Int[Tensor, "stimulus"],
) -> Float[Tensor, "penalty target"]:
    """Decompose each fold's training kernel, in float64; multiply in the precision of ``y``."""
    blocks = _column_slices(y.shape[1], rows=max(prepared.shape))
    shift = y[0]
    mean = torch.cat([(y[:, block] - shift[block]).mean(0) for block in blocks])

    def centred(rows: Tensor | slice, block: slice) -> Tensor:
        return y[rows, block] - shift[block] - mean[block]

    dual, masks = is_gram(prepared), list(fold_masks(fold))
    if not dual:
        scatter, x = symmetric_product(prepared.mT), prepared.to(y.dtype)
        cross = torch.cat([product(x.mT, centred(slice(None), block)) for block in blocks], 1)
    errors = penalties.new_zeros(len(penalties), y.shape[1])
    for test in masks:
        if dual:
            eigenvalues, vectors, rows = dual_eigh(prepared, test)
        else:
            eigenvalues, vectors, x_mean = primal_eigh(prepared, scatter, test)
            rows = product(prepared[test] - x_mean, vectors)
        rows, vectors = rows.to(y.dtype), vectors.to(y.dtype)
        kept = eigenvalues[:, None] / (eigenvalues[:, None] + penalties)
        few, shares = spanning_columns(kept, digits=y.dtype)
        factors = (few / eigenvalues[:, None]).mT.to(y.dtype)
        for block in blocks:
            target = centred(test, block)
            train_mean = -target.sum(0) / (len(y) - len(target))
            target -= train_mean
            if dual:
                moment = centred(~test, block) - train_mean
            else:  # XᵀY of the training rows: x sums to zero over all rows, so no mean enters
                moment = cross[:, block] - product(x[test].mT, target)
            coordinates = product(vectors.mT, moment)
            some = torch.stack([product(rows, factor[:, None] * coordinates) for factor in factors])
            predictions = product(shares.mT.to(y.dtype), some.flatten(1))
            residuals = target.flatten() - predictions
            squares = residuals.square_().view(-1, *target.shape)
            errors[:, block] += squares.mean(1) / len(masks)
    return errors


def column_weights(
    spectrum: tuple[Tensor, Tensor, Tensor],
    y: Float[Tensor, "stimulus target"],
    penalties: Float[Tensor, "target"],
) -> Float[Tensor, "column target"]:
    """Return the weights of all rows' fit, each target with its penalty.

    They are those of the columns of centred features, or of the rows that a Gram matrix is of.
    """
    eigenvalues, q, back = spectrum
    q, back = q.to(y.dtype), back.to(y.dtype)
    weights = y.new_empty(len(back), y.shape[1])
    for block in _column_slices(y.shape[1], rows=max(len(q), len(back))):
        coordinates = product(q.mT, centre(y[:, block], 0))
        coordinates /= (eigenvalues[:, None] + penalties[block]).to(y.dtype)
        weights[:, block] = product(back, coordinates)
    return weights


def intercept_of(
    weights: Float[Tensor, "feature target"],
    means: Float[Tensor, "feature"],
    y: Float[Tensor, "stimulus target"],
) -> Float[Tensor, "target"]:
    """Return ȳ − x̄ᵀw, in float64 until the end: features with an offset would cancel."""
    blocks = _column_slices(y.shape[1], rows=max(len(y), len(weights)))
    intercepts = [
        in_working_precision(y[:, block]).mean(0) - means @ in_working_precision(weights[:, block])
        for block in blocks
    ]
    return torch.cat(intercepts).to(y.dtype)

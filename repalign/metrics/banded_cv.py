"""Banded ridge regression: feature spaces with penalties of their own, chosen for each target."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.calls import Array, Device, as_tensor
from repalign.metrics.gram import centre, in_working_precision, product, symmetric_product
from repalign.metrics.leave_out import least_error
from repalign.metrics.ridge_selection import (
    checked_problem,
    column_weights,
    cross_validated_errors,
    intercept_of,
)
from repalign.metrics.spectra import full_spectrum


class BandedFit(NamedTuple):
    """A banded ridge regression: ŷ = x @ weights + intercept.

    Attributes:
        weights: feature × target.
        intercept: one value a target.
        alphas: each target's penalty.
        mixtures: each target's mixture of bands, band × target.
        scores: each target's cross-validated score, minus the mean squared error.
    """

    weights: Float[Tensor, "feature target"]
    intercept: Float[Tensor, "target"]
    alphas: Float[Tensor, "target"]
    mixtures: Float[Tensor, "band target"]
    scores: Float[Tensor, "target"]


def banded_ridge_cv(
    x: Float[Array, "stimulus feature"],
    y: Float[Array, "stimulus target"],
    *,
    bands: Sequence[int],
    mixtures: Float[Array, "mixture band"],
    alphas: Sequence[float],
    fold: Int[Tensor, "stimulus"],
    device: Device = None,
) -> BandedFit:
    """Fit a ridge regression whose mixture of bands and penalty each target chooses.

    With the mixture γ, band b is scaled by √γ_b before a ridge regression of penalty α, which is
    the same as a penalty of α/γ_b on its own weights. Every mixture is tried with every penalty;
    the best has the least mean squared error on folds left out of the fit, averaged over folds.

    Args:
        x: features, the bands side by side.
        y: targets.
        bands: number of features of each band.
        mixtures: the mixtures to try, non-negative; a band whose share is 0 is left out.
        alphas: penalties.
        fold: fold of each stimulus, such as ``shuffled_folds`` gives.
        device: where to compute; None is where ``x`` is.

    Raises:
        ValueError: as ``ridge_cv``; bands that do not add up to the features, or mixtures that are
            negative or not one share a band.

    Note:
        Equal to himalaya's ``GroupRidgeCV`` with the same mixtures as its ``n_iter``.

    Example:
        >>> x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
        >>> mixtures = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])
        >>> fold = torch.arange(40) % 4
        >>> fit = banded_ridge_cv(
        ...     x, x[:, :1], bands=(2, 2), mixtures=mixtures, alphas=[1.0], fold=fold
        ... )
        >>> fit.mixtures.T.tolist()
        [[1.0, 0.0]]

    Reference:
        Dupré la Tour et al. 2022, https://doi.org/10.1016/j.neuroimage.2022.119728
    """
    x, y, fold = checked_problem(x, y, alphas=alphas, fold=fold, device=device)
    check_bands(bands, x.shape[1])
    means, columns = in_working_precision(x).mean(0), centre(in_working_precision(x), 0)
    mixtures = _checked_mixtures(mixtures, len(bands)).to(columns)
    space = _Bands(columns, tuple(bands))
    penalties = columns.new_tensor(sorted(map(float, alphas), reverse=True))
    least = torch.full_like(y[0], torch.inf, dtype=columns.dtype)
    alpha, choice = torch.zeros_like(least), torch.zeros_like(least, dtype=torch.int64)
    for number, mixture in enumerate(mixtures):
        errors = cross_validated_errors(space.prepared(mixture), y, penalties, fold)
        penalty, error = least_error(errors, penalties)
        better = error < least
        least, alpha = torch.where(better, error, least), torch.where(better, penalty, alpha)
        choice = choice.masked_fill(better, number)
    weights = y.new_zeros(x.shape[1], y.shape[1])
    for number in sorted(set(choice.tolist())):
        targets = choice == number
        spectrum = full_spectrum(space.prepared(mixtures[number]))
        found = column_weights(spectrum, y[:, targets], alpha[targets])
        weights[:, targets] = space.feature_weights(found, mixtures[number])
    intercept = intercept_of(weights, means, y)
    return BandedFit(weights, intercept, alpha, mixtures[choice].mT, -least)


class _Bands:
    """Centred features in bands, whose Gram matrices are computed once if they are many."""

    def __init__(self, columns: Float[Tensor, "stimulus feature"], sizes: tuple[int, ...]) -> None:
        self.columns, self.sizes = columns, torch.tensor(sizes, device=columns.device)
        wide = columns.shape[1] >= columns.shape[0]
        parts = torch.split(columns, list(sizes), dim=1)
        self.grams = torch.stack([symmetric_product(part) for part in parts]) if wide else None

    def _each_feature(self, mixture: Float[Tensor, "band"]) -> Float[Tensor, "feature"]:
        return mixture.repeat_interleave(self.sizes)

    def prepared(self, mixture: Float[Tensor, "band"]) -> Float[Tensor, "stimulus column"]:
        """Return the Gram matrix of the mixture, or its features if they are fewer than rows."""
        if self.grams is not None:
            return (mixture[:, None, None] * self.grams).sum(0)
        return self.columns * self._each_feature(mixture).sqrt()

    def feature_weights(
        self, weights: Float[Tensor, "column target"], mixture: Float[Tensor, "band"]
    ) -> Float[Tensor, "feature target"]:
        """Return the weights of the features as they are, from those of ``prepared``'s columns."""
        each = self._each_feature(mixture)[:, None].to(weights.dtype)
        if self.grams is None:
            return each.sqrt() * weights
        return each * product(self.columns.mT.to(weights.dtype), weights)


def check_bands(bands: Sequence[int], features: int) -> None:
    """Raise a ValueError unless ``bands`` are numbers of features that add up."""
    if not bands or min(bands) < 1 or sum(bands) != features:
        raise ValueError(
            f"bands is {tuple(bands)}, {sum(bands)} features in all, and x has {features}; expected"
            " the number of features of each band, side by side in x."
        )


def _checked_mixtures(mixtures: Array, bands: int) -> Tensor:
    mixtures = as_tensor(mixtures, name="mixtures")
    if mixtures.ndim != 2 or mixtures.shape[1] != bands or not bool((mixtures >= 0).all()):
        raise ValueError(
            f"mixtures has shape {tuple(mixtures.shape)}; expected mixture × band with {bands} "
            "bands, of shares that are 0 or more."
        )
    return mixtures

"""How well one population's responses predict another's: cross-validated ridge regression."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repalign.metrics.calls import Device, compare_populations
from repalign.metrics.gram import (
    centre,
    centred_gram,
    check_responses,
    check_same_stimuli,
    column_blocks,
    in_working_precision,
    symmetric_product,
)


def shuffled_folds(n: int, *, folds: int, seed: int) -> Int[Tensor, "stimulus"]:
    """Return the fold of each of ``n`` rows: sizes differ by at most one, rows at random."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    fold = torch.empty(n, dtype=torch.int64)
    fold[order] = torch.arange(n) % folds
    return fold


def fold_masks(fold: Int[Tensor, "stimulus"]) -> Iterator[Bool[Tensor, "stimulus"]]:
    """Yield the mask of each fold's rows, in the order of the folds' numbers."""
    for number in sorted(set(fold.tolist())):
        yield fold == number


def fold_scores(
    predictions: Float[Tensor, "stimulus neuroid"],
    targets: Float[Tensor, "stimulus neuroid"],
    fold: Int[Tensor, "stimulus"],
) -> Float[Tensor, "neuroid"]:
    """Return each neuroid's Pearson correlation within held-out folds, averaged over folds.

    A fold in which a target or its prediction is constant has no correlation and is left out of
    that neuroid's mean; a neuroid with no other fold is NaN.

    Example:
        >>> y = torch.tensor([[1.0], [2.0], [5.0], [3.0]])
        >>> round(fold_scores(2 * y, y, torch.tensor([0, 0, 1, 1])).item(), 6)
        1.0
    """
    scores = []
    for held_out in fold_masks(fold):
        p = centre(in_working_precision(predictions[held_out]), 0)
        t = centre(in_working_precision(targets[held_out]), 0)
        scores.append((p * t).sum(0) / (p.square().sum(0).sqrt() * t.square().sum(0).sqrt()))
    return torch.stack(scores).nanmean(0)


def median_of_defined(scores: Float[Tensor, "*batch neuroid"]) -> Float[Tensor, "*batch"]:
    """Return the median of what is not NaN along the last dimension (of two, the mean)."""
    return scores.nanquantile(0.5, dim=-1)


class _Spectrum(NamedTuple):
    """A fold's centred training kernel K = QΛQᵀ, and its test rows' kernel times Q."""

    eigenvalues: Float[Tensor, "rank"]
    train: Float[Tensor, "train rank"]
    test: Float[Tensor, "test rank"]


def _eigh(
    matrix: Float[Tensor, "n n"], *, n_train: int
) -> tuple[Float[Tensor, "rank"], Float[Tensor, "n rank"]]:
    if matrix.device.type == "cpu":  # numpy's LAPACK is several times faster than torch's
        values, vectors = map(torch.from_numpy, np.linalg.eigh(matrix.detach().numpy()))
    else:
        values, vectors = torch.linalg.eigh(matrix)
    kept = values > values[-1].clamp(min=0) * n_train * torch.finfo(values.dtype).eps
    return values[kept], vectors[:, kept]


def _dual_spectrum(
    gram: Float[Tensor, "stimulus stimulus"], test: Bool[Tensor, "stimulus"]
) -> _Spectrum:
    kernel, test_kernel = gram[~test][:, ~test], gram[test][:, ~test]
    means = kernel.mean(0)
    values, vectors = _eigh(kernel - means - means[:, None] + means.mean(), n_train=len(kernel))
    return _Spectrum(values, vectors, centre(test_kernel - means, 1) @ vectors)


def _primal_spectrum(
    x: Float[Tensor, "stimulus feature"],
    covariance: Float[Tensor, "feature feature"],
    test: Bool[Tensor, "stimulus"],
) -> _Spectrum:
    held_out, n_train = x[test], len(x) - int(test.sum())
    mean = -held_out.sum(0) / n_train  # of the training rows, since all rows of x sum to zero
    downdated = covariance - held_out.mT @ held_out - n_train * mean[:, None] * mean
    values, vectors = _eigh(downdated, n_train=n_train)
    train, lengths = x[~test] - mean, values.sqrt()
    return _Spectrum(values, train @ vectors / lengths, (held_out - mean) @ vectors * lengths)


def _spectra(
    prepared: Float[Tensor, "stimulus column"], fold: Int[Tensor, "stimulus"]
) -> Iterator[tuple[Bool[Tensor, "stimulus"], _Spectrum]]:
    """Yield each fold's test rows and spectrum, without another pass over all features."""
    is_gram = prepared.shape[0] == prepared.shape[1]
    covariance = None if is_gram else symmetric_product(prepared.mT)
    for test in fold_masks(fold):
        if covariance is None:
            yield test, _dual_spectrum(prepared, test)
        else:
            yield test, _primal_spectrum(prepared, covariance, test)


def _fit_and_predict(
    spectrum: _Spectrum, y: Float[Tensor, "train neuroid"], alphas: tuple[float, ...]
) -> Float[Tensor, "test neuroid"]:
    """Choose each target's alpha by its leave-one-out error, and predict the test rows.

    Row i's leave-one-out error is eᵢ / (1 − hᵢᵢ), e the residuals and h the hat matrix with its
    intercept. Both are built from α/(λ + α), not from 1 − λ/(λ + α), which would cancel.
    """
    eigenvalues, q, test = spectrum
    n, centred = len(y), centre(y, 0)
    projected = q.mT @ centred
    if len(eigenvalues) == n - 1:  # the kernel spans all that is orthogonal to the mean
        outside, free = torch.zeros_like(centred), torch.zeros_like(centred[:, 0])
    else:
        outside, free = centred - q @ projected, 1 - 1 / n - q.square().sum(1)
    penalties = eigenvalues.new_tensor(alphas) * eigenvalues.sum() / n
    shrunk = penalties / (eigenvalues[:, None] + penalties)
    one_less_hat = free[:, None] + q.square() @ shrunk
    least = torch.full_like(centred[0], torch.inf)
    best = torch.zeros_like(least)
    for penalty, factor, slack in zip(penalties, shrunk.mT, one_less_hat.mT, strict=True):
        residual = torch.addmm(outside, q, factor[:, None] * projected)
        error = residual.div_(slack[:, None]).square_().sum(0)
        best = penalty.where(error < least, best)
        least = error.minimum(least)
    return y.mean(0) + test @ (projected / (eigenvalues[:, None] + best))


def _check_finite(x: Tensor, name: str) -> None:
    missing = x.numel() - int(x.isfinite().sum())
    if missing:
        raise ValueError(
            f"{name} has {missing} values that are NaN or infinite; ridge needs finite ones. "
            "Average over repetitions, or leave out the stimuli or neuroids concerned."
        )


@dataclass(frozen=True)
class Ridge:
    """Ridge predictivity: how well the features of ``x`` foretell each neuroid of ``y``.

    ŷ = ȳ + (x − x̄)ᵀ(XᵀX + αI)⁻¹Xᵀ(Y − ȳ), fitted on training folds; a neuroid's score is the
    Pearson correlation of ŷ and y within each held-out fold, averaged over folds; the value is the
    median over neuroids.

    Args:
        folds: number of folds, into which ``seed`` shuffles the stimuli.
        alphas: penalties as multiples of the mean eigenvalue of the fold's centred training kernel
            (its trace over the number of training stimuli), so that they mean the same at any scale
            of the features. Each neuroid takes the one of least exact leave-one-out error on the
            training stimuli.
        seed: seed of the shuffle.

    Raises:
        ValueError: fewer than 2 stimuli a fold, values that are not finite, or wrong shapes.

    Note:
        Correlations are taken within folds because predictions pooled over folds carry the training
        means: the training mean is low where the fold's responses are high, so that the pooled
        correlation of unrelated responses lies below zero.

        The features enter through their Gram matrix (as many features as stimuli, or more) or their
        covariance, computed once; each fold then removes its own rows.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> x = torch.randn(60, 5, generator=draw)
        >>> y = x @ torch.randn(5, 3, generator=draw)
        >>> Ridge()(x, y).item() > 0.999
        True

    Reference:
        Hoerl & Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634; as a score of models
        of the brain: Schrimpf et al. 2018, https://doi.org/10.1101/407007
    """

    folds: int = 5
    alphas: tuple[float, ...] = tuple(10.0 ** (k / 2) for k in range(-10, 11))
    seed: int = 0

    name: ClassVar[str] = "ridge"
    formula: ClassVar[str] = (
        "median over neuroids of corr(y, ŷ), ŷ ridge-predicted from x, held out"
    )
    needs_repeats: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    invariances: ClassVar[tuple[str, ...]] = (
        "rotation",
        "translation",
        "isotropic scale",
        "neuroid order",
    )
    symmetric: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    needs_responses: ClassVar[bool] = True
    higher_is_more_similar: ClassVar[bool] = True
    reference: ClassVar[str] = (
        "Hoerl & Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634"
    )

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.folds < 2:
            raise ValueError(f"folds is {self.folds}; cross-validation needs 2 or more. Use 5.")
        if not self.alphas or not all(0 < alpha < float("inf") for alpha in self.alphas):
            raise ValueError(
                f"alphas is {self.alphas}; expected one or more positive finite numbers. "
                "For nearly ordinary least squares use a small one, such as 1e-8."
            )

    @property
    def minimum_stimuli(self) -> int:
        """Fewest stimuli: 2 a fold."""
        return 2 * self.folds

    def __call__(
        self,
        x: Float[Tensor, "*batch stimulus feature"],
        y: Float[Tensor, "*batch stimulus neuroid"],
        *,
        batch_dims: int = 0,
        device: Device = None,
    ) -> Float[Tensor, "*batch"]:
        """Return the median over neuroids of the held-out correlations."""
        return compare_populations(
            self._value, x, y, needs=self, batch_dims=batch_dims, device=device
        )

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        return self.compare_prepared(self.prepare(x), y)

    def scores(
        self, x: Float[Tensor, "stimulus feature"], y: Float[Tensor, "stimulus neuroid"]
    ) -> Float[Tensor, "neuroid"]:
        """Return each neuroid's held-out correlation; NaN where it is constant in every fold."""
        predictions, fold = self.predict(x, y)
        return fold_scores(predictions, y, fold)

    def predict(
        self, x: Float[Tensor, "stimulus feature"], y: Float[Tensor, "stimulus neuroid"]
    ) -> tuple[Float[Tensor, "stimulus neuroid"], Int[Tensor, "stimulus"]]:
        """Return the held-out prediction of every response, and the fold of every row."""
        return self.predict_prepared(self.prepare(x), y)

    def prepare(self, x: Float[Tensor, "stimulus feature"]) -> Float[Tensor, "stimulus column"]:
        """Return what of ``x`` all folds and all targets share, in float64.

        The n × n Gram matrix if there are as many features as stimuli or more; otherwise the
        column-centred ``x``. Only the first is square.
        """
        check_responses(x, at_least=2 * self.folds)
        if x.shape[1] >= x.shape[0]:
            prepared = centred_gram(column_blocks(x))
        else:
            prepared = centre(in_working_precision(x), 0)
        if not bool(prepared.isfinite().all()):  # NaN spreads to it, and it is the smaller
            _check_finite(x, "x")
        return prepared

    def compare_prepared(
        self, prepared: Float[Tensor, "stimulus column"], y: Float[Tensor, "stimulus neuroid"]
    ) -> Float[Tensor, ""]:
        """Return the value for a prepared ``x`` and the targets as they are."""
        predictions, fold = self.predict_prepared(prepared, y)
        return median_of_defined(fold_scores(predictions, y, fold))

    def predict_prepared(
        self, prepared: Float[Tensor, "stimulus column"], y: Float[Tensor, "stimulus neuroid"]
    ) -> tuple[Float[Tensor, "stimulus neuroid"], Int[Tensor, "stimulus"]]:
        """Return what ``predict`` does, for a prepared ``x``."""
        check_responses(y, name="y", at_least=2 * self.folds)
        check_same_stimuli(prepared, y)
        _check_finite(y, "y")
        y = in_working_precision(y)
        fold = shuffled_folds(len(y), folds=self.folds, seed=self.seed).to(y.device)
        predictions = torch.empty_like(y)
        for test, spectrum in _spectra(prepared, fold):
            predictions[test] = _fit_and_predict(spectrum, y[~test], self.alphas)
        return predictions, fold

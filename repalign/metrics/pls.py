"""Partial least squares predictivity."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from repalign.metrics.calls import check_finite
from repalign.metrics.folds import fold_masks
from repalign.metrics.gram import (
    centre,
    centred_gram,
    check_responses,
    column_blocks,
    in_working_precision,
    product,
    symmetric_product,
)
from repalign.metrics.predictivity import Predictivity
from repalign.metrics.spectra import eigh

SMALL = 500  # features or neuroids up to which several threads only hold each other up


def _leading_eigenvector(a: Float[Tensor, "row column"]) -> Float[Tensor, "row"]:
    """Return the eigenvector of ``a @ a.mT`` with the largest eigenvalue."""
    if a.device.type != "cpu":
        vector: Tensor = torch.linalg.eigh(a @ a.mT)[1][:, -1]
        return vector
    # Both from scipy: it and numpy have a BLAS each, whose idle threads spin on the other's cores.
    from scipy.linalg import eigh as scipy_eigh
    from scipy.linalg.blas import dsyrk

    view = a.numpy()
    upper = dsyrk(1.0, view) if view.flags.f_contiguous else dsyrk(1.0, view.T, trans=True)
    last = (len(view) - 1, len(view) - 1)
    _, vectors = scipy_eigh(upper, lower=False, subset_by_index=last, check_finite=False)
    return torch.from_numpy(vectors[:, 0])


def _direction(cross: Float[Tensor, "feature neuroid"]) -> Float[Tensor, "feature"]:
    """Return the first left singular vector: that of most covariance with the targets."""
    features, neuroids = cross.shape
    if neuroids < features:
        vector = cross @ _leading_eigenvector(cross.mT)
        return vector / vector.square().sum().sqrt()
    return _leading_eigenvector(cross)


def pls_weights(
    scatter: Float[Tensor, "feature feature"],
    cross: Float[Tensor, "feature neuroid"],
    *,
    components: int,
) -> Float[Tensor, "feature neuroid"]:
    """Return the regression weights of partial least squares from XᵀX and XᵀY, both centred.

    Each component is the direction of x with most covariance with y; what it explains is taken
    from XᵀY alone, which leaves the next ones as they are if it is taken from x too.

    Args:
        scatter: XᵀX.
        cross: XᵀY.
        components: number of components; those beyond the rank of XᵀX, or beyond what x tells of
            y, add nothing.

    Reference:
        Dayal & MacGregor 1997,
        https://doi.org/10.1002/(SICI)1099-128X(199701)11:1%3C73::AID-CEM435%3E3.0.CO;2-%23
    """
    weights, cross = torch.zeros_like(cross), cross.clone()
    rounding = max(cross.shape) * torch.finfo(cross.dtype).eps
    least_cross, least_spread = rounding * cross.norm(), rounding * scatter.diagonal().sum()
    rotations: list[Tensor] = []
    loadings: list[Tensor] = []
    for _ in range(min(components, len(scatter))):
        if cross.norm() <= least_cross:
            break
        rotation = _direction(cross)
        if rotations:
            basis, loads = torch.stack(rotations), torch.stack(loadings)
            rotation = rotation - (loads @ rotation) @ basis
        scattered = scatter @ rotation
        spread = rotation @ scattered
        if spread <= least_spread * rotation.square().sum():
            break
        loading = scattered / spread
        slope = rotation @ cross / spread
        rotations.append(rotation)
        loadings.append(loading)
        weights.addr_(rotation, slope)
        cross.addr_(loading, slope, alpha=-float(spread))
    return weights


def _training_moments(
    x: Float[Tensor, "stimulus feature"],
    y: Float[Tensor, "stimulus neuroid"],
    fold: Int[Tensor, "stimulus"],
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Yield each fold's test rows, and of its training rows XᵀX, XᵀY and the means.

    All columns sum to zero over all rows, so that the test rows give what is to be subtracted.
    """
    scatter, cross = symmetric_product(x.mT), product(x.mT, y)
    for test in fold_masks(fold):
        held_out, targets, n_train = x[test], y[test], len(x) - int(test.sum())
        x_mean, y_mean = -held_out.sum(0) / n_train, -targets.sum(0) / n_train
        within = scatter - symmetric_product(held_out.mT) - n_train * x_mean[:, None] * x_mean
        between = cross - product(held_out.mT, targets) - n_train * x_mean[:, None] * y_mean
        yield test, within, between, x_mean, y_mean


@dataclass(frozen=True, kw_only=True)
class PLS(Predictivity):
    """Predictivity by partial least squares, the regression of Brain-Score's neural benchmarks.

    ŷ = ȳ + (x − x̄)ᵀR diag(1/‖t‖²) TᵀY with scores T = (X − x̄)R, whose columns are the directions
    of most covariance with Y that are uncorrelated with the ones before.

    Args:
        folds: number of folds, into which ``seed`` shuffles the stimuli, or their groups.
        seed: seed of the shuffle.
        score: ``pearson``, ``r2`` or ``explained_variance``, as in ``fold_scores``.
        components: number of directions; those beyond the rank of the training features, or
            beyond what they tell of y, add nothing.

    Raises:
        ValueError: fewer than 2 stimuli a fold, values that are not finite, or wrong shapes.

    Note:
        Neither features nor neuroids are scaled, so that a neuroid of large variance has more say
        in the directions that all share: a neuroid's score depends on the others. The directions
        are exact; scikit-learn's ``PLSRegression(scale=False)``, whose value this is, iterates to
        a tolerance: at its default one its predictions are off by hundredths, at 1e-14 by 1e-6.

        All folds share XᵀX and XᵀY, from which each takes its own rows. As many features as
        stimuli, or more, are first rotated into the space that the stimuli span.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> x = torch.randn(60, 5, generator=draw)
        >>> y = x @ torch.randn(5, 3, generator=draw)
        >>> PLS(folds=5, components=5)(x, y).item() > 0.999
        True

    Reference:
        Dayal & MacGregor 1997,
        https://doi.org/10.1002/(SICI)1099-128X(199701)11:1%3C73::AID-CEM435%3E3.0.CO;2-%23;
        as a score of models of the brain: Yamins et al. 2014, https://doi.org/10.1073/pnas.1403112111
    """

    folds: int = 10
    components: int = 25

    name: ClassVar[str] = "pls"
    fits_alone: ClassVar[bool] = False
    mapping: ClassVar[str] = "= ȳ + (x − x̄)ᵀR diag(1/‖t‖²) TᵀY"
    reference: ClassVar[str] = (
        "Dayal & MacGregor 1997, "
        "https://doi.org/10.1002/(SICI)1099-128X(199701)11:1%3C73::AID-CEM435%3E3.0.CO;2-%23"
    )

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        if not isinstance(self.components, int) or self.components < 1:
            raise ValueError(f"components is {self.components}; expected 1 or more. Use 25.")

    def prepare(self, x: Float[Tensor, "stimulus feature"]) -> Float[Tensor, "stimulus column"]:
        """Return the column-centred ``x``, rotated to fewer columns than rows, in float64."""
        check_responses(x, at_least=self.minimum_stimuli)
        if x.shape[1] < x.shape[0]:
            return centre(in_working_precision(x), 0)
        gram = centred_gram(column_blocks(x))
        if not bool(gram.isfinite().all()):
            check_finite(x)
        values, vectors = eigh(gram, n_train=len(gram))
        return vectors * values.sqrt()

    def held_out_predictions(
        self,
        prepared: Float[Tensor, "stimulus column"],
        y: Float[Tensor, "stimulus neuroid"],
        fold: Int[Tensor, "stimulus"],
        groups: Int[Tensor, "stimulus"] | None,
    ) -> Float[Tensor, "stimulus neuroid"]:
        """Return the prediction of each fold's rows by a fit to the others."""
        if prepared.device.type == "cpu" and min(prepared.shape[1], y.shape[1]) <= SMALL:
            with threadpool_limits(1, user_api="blas"):  # which small problems only wait for
                return self._held_out(prepared, y, fold)
        return self._held_out(prepared, y, fold)

    def _held_out(self, prepared: Tensor, y: Tensor, fold: Tensor) -> Tensor:
        predictions = torch.empty_like(y)
        total_mean = y.mean(0)
        centred = centre(y, 0)
        for test, scatter, cross, x_mean, y_mean in _training_moments(prepared, centred, fold):
            weights = pls_weights(scatter, cross, components=self.components)
            predictions[test] = product(prepared[test] - x_mean, weights) + y_mean + total_mean
        return predictions

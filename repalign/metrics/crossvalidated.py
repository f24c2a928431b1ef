"""Cross-validated dissimilarities: products across folds only, whose noise is independent."""

from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import combinations
from operator import add
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.distances import gram_distances
from repalign.metrics.gram import (
    BLOCK_ELEMENTS,
    centre,
    column_blocks,
    product,
    symmetric_product,
)
from repalign.metrics.presentations import Presentations, complete_folds, sums_by


def check_folds(presentations: Presentations, *, method: str) -> None:
    """Raise a ValueError unless every stimulus was presented in two or more folds."""
    counts = presentations.cell_counts.reshape(presentations.n_folds, -1)
    folds = (counts > 0).sum(0)
    if bool((folds < 2).any()):
        first = presentations.names[int(folds.argmin())]
        raise ValueError(
            f"{method} needs every stimulus in 2 or more folds (repetitions); {first!r} is in "
            f"{int(folds.min())}. Use method='euclidean', or leave such stimuli out."
        )


def _complete_distances(
    factors: Iterable[tuple[Tensor, Tensor]], n_folds: int
) -> Float[Tensor, "pair"]:
    """Return the mean over folds f ≠ g of (aᶠᵢ − aᶠⱼ)·(bᵍᵢ − bᵍⱼ), for folds that hold all stimuli.

    With G the products of all stimuli with all, Σ_{f≠g} G(aᶠ, bᵍ) = G(Σaᶠ, Σbᶠ) − ΣG(aᶠ, bᶠ): no
    loop over pairs of folds. Each fold is centred over stimuli, which changes no difference.
    """

    def grams() -> Iterator[Tensor]:
        for a, b in factors:
            u = centre(a, 1)
            v = u if a is b else centre(b, 1)
            yield product(u.sum(0), v.sum(0).mT)
            for p, q in zip(u, v, strict=True):
                yield -symmetric_product(p) if a is b else -product(p, q.mT)

    return gram_distances(reduce(add, grams())) / (n_folds * (n_folds - 1))


class _Rows(NamedTuple):
    """Rows whose similarity is a·b: presentations, or averages of some in the same fold.

    ``weight`` is the number of presentations that a row stands for: one column, or one a neuroid
    where neuroids are missing.
    """

    a: Float[Tensor, "row column"]
    b: Float[Tensor, "row column"]
    weight: Float[Tensor, "row part"]
    stimulus: Int[Tensor, "row"]
    fold: Int[Tensor, "row"] | None
    n_stimuli: int


def _sum_across_folds(a: Tensor, b: Tensor, rows: _Rows) -> Float[Tensor, "stimulus stimulus"]:
    """Return for each two stimuli Σ a·b over their rows in different folds (or all, without)."""
    n, stimulus = rows.n_stimuli, rows.stimulus
    total = product(sums_by(a, stimulus, n), sums_by(b, stimulus, n).mT)
    if rows.fold is None:
        return total
    order = rows.fold.argsort()
    sizes = torch.bincount(rows.fold).tolist()
    within = torch.zeros_like(total)
    for members in torch.split(order, sizes):
        place = stimulus[members]
        products = product(a[members], b[members].mT)
        within = within.index_put((place[:, None], place), products, accumulate=True)
    return total - within


def _mean_of_ratios(rows: _Rows) -> Float[Tensor, "stimulus stimulus"]:
    """Return for each two stimuli the mean over pairs of rows of a·b over their weight."""
    n, stimulus = rows.n_stimuli, rows.stimulus
    total, count = rows.a.new_zeros(n, n), rows.a.new_zeros(n, n)
    size = max(1, BLOCK_ELEMENTS // len(stimulus))
    for part in torch.split(torch.arange(len(stimulus), device=stimulus.device), size):
        weight = product(rows.weight[part], rows.weight.mT)
        used = weight > 0
        if rows.fold is not None:
            used = used & (rows.fold[part, None] != rows.fold)
        ratio = (product(rows.a[part], rows.b.mT) / weight.clamp(min=1)).where(used, 0)
        for target, values in ((total, ratio), (count, used.to(ratio.dtype))):
            by_stimulus = values.new_zeros(len(part), n).index_add(1, stimulus, values)
            target.index_add_(0, stimulus[part], by_stimulus)
    return total / count


def _row_distances(rows: _Rows, *, weighting: str, n_neuroids: int) -> Float[Tensor, "pair"]:
    """Return sᵢᵢ + sⱼⱼ − 2sᵢⱼ, s the mean similarity a neuroid across folds; 0/0 is NaN."""
    if rows.weight.shape[1] > 1 and weighting == "equal":
        return gram_distances(_mean_of_ratios(rows))
    products = _sum_across_folds(rows.a, rows.b, rows)
    weights = _sum_across_folds(rows.weight, rows.weight, rows)
    return gram_distances(products / weights) / (n_neuroids if rows.weight.shape[1] == 1 else 1)


def _rows_of_presentations(
    presentations: Presentations, precision: Float[Tensor, "neuroid neuroid"] | None
) -> _Rows:
    recorded = presentations.recorded
    values = presentations.values.where(recorded, 0)
    weight = recorded.to(values.dtype) if presentations.ragged else torch.ones_like(values[:, :1])
    whitened = values if precision is None else product(values, precision)
    _, stimulus, fold, names = presentations
    return _Rows(whitened, values, weight, stimulus, fold, len(names))


def ragged_euclidean(presentations: Presentations, *, weighting: str) -> Float[Tensor, "pair"]:
    """Return squared Euclidean distances a neuroid from the neuroids that presentations share."""
    rows = _rows_of_presentations(presentations, None)._replace(fold=None)
    return _row_distances(rows, weighting=weighting, n_neuroids=presentations.values.shape[1])


def _check_not_ragged(presentations: Presentations, *, method: str) -> None:
    if presentations.ragged:
        raise ValueError(
            f"In some presentations a few neuroids are NaN, and {method} with noise= needs all of "
            "them. Leave out noise=, or these neuroids."
        )


def _fold_precision_distances(
    presentations: Presentations, precisions: Float[Tensor, "fold neuroid neuroid"]
) -> Float[Tensor, "pair"]:
    """Return the mean over pairs of folds of their distances, each pair with its own precision.

    The covariance of two folds is the mean of theirs. Each fold's average counts once.
    """
    values, counts = presentations.values, presentations.cell_counts
    n, n_folds = presentations.n_stimuli, presentations.n_folds
    if len(precisions) != n_folds:
        raise ValueError(
            f"noise holds {len(precisions)} precision matrices; expected one for each of the "
            f"{n_folds} folds, or one for all of shape (neuroid, neuroid)."
        )
    covariances = torch.linalg.inv(precisions)
    folds = sums_by(values, presentations.cell, len(counts)) / counts.clamp(min=1)[:, None]
    folds = folds.reshape(n_folds, n, -1)
    present = (counts > 0).reshape(n_folds, n).to(folds.dtype)
    if bool((counts > 0).all()):
        folds = centre(folds, 1)
    total, weight = folds.new_zeros(n, n), folds.new_zeros(n, n)
    for f, g in combinations(range(n_folds), 2):
        precision = torch.linalg.inv((covariances[f] + covariances[g]) / 2)
        total = total + product(product(folds[f], precision), folds[g].mT)
        weight = weight + present[f][:, None] * present[g]
    similarity = (total + total.mT) / (weight + weight.mT)
    return gram_distances(similarity) / values.shape[1]


def crossnobis(
    presentations: Presentations, *, noise: Tensor | None, weighting: str
) -> Float[Tensor, "pair"]:
    """Return cross-validated squared Mahalanobis distances a neuroid."""
    check_folds(presentations, method="crossnobis")
    if noise is not None:
        _check_not_ragged(presentations, method="crossnobis")
    if noise is not None and noise.ndim == 3:
        return _fold_precision_distances(presentations, noise)
    folds = complete_folds(presentations)
    p = presentations.values.shape[1]
    if folds is None:
        rows = _rows_of_presentations(presentations, noise)
        return _row_distances(rows, weighting=weighting, n_neuroids=p)
    return _complete_distances(_whitened_blocks(folds, noise), len(folds)) / p


def _whitened_blocks(
    folds: Float[Tensor, "fold stimulus neuroid"], precision: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    if precision is None:
        yield from ((block, block) for block in column_blocks(folds))
    else:
        folds = centre(folds, 1)
        yield product(folds.reshape(-1, folds.shape[2]), precision).reshape(folds.shape), folds


def regularised_rates(
    x: Float[Tensor, "*row neuroid"], *, prior_lambda: float, prior_weight: float
) -> Float[Tensor, "*row neuroid"]:
    """Return (x + λw) / (1 + w): the posterior mean of a rate with a gamma prior.

    Raises:
        ValueError: rates that are not positive, or a negative prior.
    """
    if prior_lambda < 0 or prior_weight < 0:
        raise ValueError(
            f"prior_lambda is {prior_lambda} and prior_weight {prior_weight}; neither may be "
            "negative."
        )
    rates = (x + prior_lambda * prior_weight) / (1 + prior_weight)
    if bool(rates.detach().min() <= 0):
        raise ValueError(
            f"{int((rates <= 0).sum())} rates are 0 or negative, after the prior was added; a "
            "Poisson rate is positive. Pass counts or rates, not differences from a baseline, and "
            "prior_lambda and prior_weight above 0."
        )
    return rates


def _rows_of_rates(presentations: Presentations, **prior: float) -> _Rows:
    """Return rows whose a·b is −½ (rᵢ − rⱼ)(log rᵢ − log rⱼ), r the rates in a fold."""
    values, n = presentations.values, presentations.n_stimuli
    used = presentations.cell_counts > 0
    cells, cell = used.nonzero()[:, 0], (used.cumsum(0) - 1)[presentations.cell]
    recorded = presentations.recorded.to(values.dtype)
    recorded = recorded if presentations.ragged else recorded[:, :1]
    weight = sums_by(recorded, cell, len(cells))
    mean = sums_by(values.nan_to_num(nan=0), cell, len(cells)) / weight.clamp(min=1)
    rates = regularised_rates(mean, **prior)
    logs = rates.log()
    own = rates * logs
    if not presentations.ragged:
        own = own.sum(1, keepdim=True)
    ones = torch.ones_like(own)
    a = torch.cat([part * weight for part in (logs, rates, -ones, -own)], 1) / 2
    b = torch.cat([part * weight for part in (rates, logs, own, ones)], 1)
    return _Rows(a, b, weight, cells % n, cells // n, n)


def poisson_cv(
    presentations: Presentations, *, prior_lambda: float, prior_weight: float, weighting: str
) -> Float[Tensor, "pair"]:
    """Return cross-validated symmetrised divergences of Poisson rates, a neuroid."""
    check_folds(presentations, method="poisson_cv")
    prior = {"prior_lambda": prior_lambda, "prior_weight": prior_weight}
    folds = complete_folds(presentations)
    p = presentations.values.shape[1]
    if folds is None:
        rows = _rows_of_rates(presentations, **prior)
        return _row_distances(rows, weighting=weighting, n_neuroids=p)
    blocks = (regularised_rates(block, **prior) for block in column_blocks(folds))
    return _complete_distances(((rates, rates.log()) for rates in blocks), len(folds)) / p

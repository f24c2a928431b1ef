"""What each of several correlated RDMs explains: partial correlation and variance partitioning."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from repalign.metrics.calls import Array
from repalign.metrics.comparators import check_choice, comparator_named
from repalign.metrics.gram import centre, in_working_precision
from repalign.metrics.pairs import (
    as_condensed,
    check_same_pairs,
    shared_pairs,
    square_form,
    stacked_rdms,
    stimulus_count,
)
from repalign.metrics.resampled import draw_multiplicities, weighted_spread

MODELS_PARTITIONED = 4  # 15 shares: more cannot be read


def _residual(
    x: Float[Tensor, "pair"], given: Float[Tensor, "control pair"]
) -> Float[Tensor, "pair"]:
    """Return x less its projection on the controls, or NaN where only rounding is left."""
    lengths = given.norm(dim=1, keepdim=True)
    _, values, basis = torch.linalg.svd(given / lengths.where(lengths > 0, 1), full_matrices=False)
    basis = basis[values > 1e-10 * values[0]]  # controls may repeat one another
    rest: Tensor = x - (x @ basis.mT) @ basis
    return rest.masked_fill(rest.norm() <= 1e-10 * x.norm(), torch.nan)


def partial_correlation(
    a: Array, b: Array, given: Array, *, method: str = "corr"
) -> Float[Tensor, ""]:
    """Return the correlation of two RDMs of which what other RDMs explain was taken out.

    ``corr(a − ga, b − gb)``, with ga and gb the least-squares fits of the RDMs in ``given``, and a
    constant, to a and b; for ``spearman`` all RDMs are ranked first.

    Args:
        a, b: condensed (pair,) or square (stimulus, stimulus) RDMs.
        given: RDMs to control for, one or several: (control, pair) or
            (control, stimulus, stimulus).
        method: ``"corr"`` or ``"spearman"``.

    Returns:
        A number in [−1, 1]; NaN where the controls explain all of ``a`` or of ``b``.

    Raises:
        ValueError: another method, RDMs of different sizes or with different pairs missing.

    Example:
        >>> x = torch.tensor([[1.0, 2, 3, 4, 5, 7], [1, 1, 0, 0, 1, 0], [2, 1, 4, 3, 6, 5]])
        >>> round(partial_correlation(x[0], x[2], x[1:2]).item(), 4)
        0.7806

    Reference:
        Fisher 1924, Metron 3:329 (no DOI)
    """
    check_choice(method, ("corr", "spearman"), "method of partial correlation")
    first = as_condensed(a, name="a")
    second = as_condensed(b, name="b", device=first.device)
    controls = stacked_rdms(given, name="given", device=first.device)
    for other in (second, controls):
        check_same_pairs(first, other)
        kept = shared_pairs(first, other)
    scaled = comparator_named(method).scaled
    fixed = scaled(controls[:, kept])
    u, v = (_residual(scaled(x[kept]), fixed) for x in (first, second))
    value: Tensor = torch.dot(u, v) / (u.norm() * v.norm())
    return value


class Share(NamedTuple):
    """A share of variance, or a partial correlation, with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class VariancePartition:
    """How much of an RDM's variance models explain, alone and in common.

    Args:
        total: R² of all models together: the sum of the parts.
        parts: for each set of names, the variance that just these models share: that of a single
            name is unique to it. Negative where one model suppresses what is wrong in another.
        kind: how the intervals were made.
        n_resamples: number of resamples.
    """

    total: Share
    parts: dict[tuple[str, ...], Share]
    kind: str
    n_resamples: int


def _weighted_correlations(
    rdms: Float[Tensor, "rdm pair"],
    kept: Bool[Tensor, "pair"],
    weights: Float[Tensor, "resample stimulus"],
) -> Float[Tensor, "resample rdm rdm"]:
    """Return correlations with pair weights wᵢwⱼ: Σᵢ<ⱼ wᵢwⱼxᵢⱼ is the quadratic form wᵀXw/2."""

    def total(values: Float[Tensor, "pair"]) -> Float[Tensor, "resample"]:
        return ((weights @ square_form(values)) * weights).sum(1) / 2

    rows = torch.zeros_like(rdms)
    rows[:, kept] = centre(rdms[:, kept], 1)
    pairs, sums = total(kept.to(rdms)), [total(row) for row in rows]
    spreads = [
        weighted_spread(total(row.square()), x, pairs) for row, x in zip(rows, sums, strict=True)
    ]
    found = weights.new_ones(len(weights), len(rows), len(rows))
    for i, j in itertools.combinations(range(len(rows)), 2):
        product = total(rows[i] * rows[j]) - sums[i] * sums[j] / pairs
        found[:, i, j] = found[:, j, i] = product / (spreads[i].sqrt() * spreads[j].sqrt())
    return found


def _resampled_weights(
    n: int, *, n_resamples: int, at_least: int, seed: int, like: Tensor
) -> Float[Tensor, "resample stimulus"]:
    """Return multiplicities of the stimuli: first the data as they are, then the resamples."""
    generator = torch.Generator().manual_seed(seed)
    drawn = draw_multiplicities(n, n_resamples=n_resamples, generator=generator, at_least=at_least)
    return torch.cat([torch.ones_like(drawn[:1]), drawn]).to(like)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a share between 0 and 1, as 0.95.")


def partial_correlation_interval(
    a: Array,
    b: Array,
    given: Array,
    *,
    method: str = "corr",
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Share:
    """Return ``partial_correlation`` with a percentile interval over stimuli.

    ``−P_ab / √(P_aa P_bb)`` with P the inverse of the RDMs' correlations in a resample of stimuli,
    pairs of a stimulus with itself excluded. For ``spearman`` the ranks are those of all stimuli.

    Args:
        a, b, given, method: as in ``partial_correlation``.
        n_resamples: number of bootstrap resamples of stimuli.
        confidence: share of the resamples within the interval.
        seed: of the resamples.

    Raises:
        ValueError: as in ``partial_correlation``, or a confidence outside (0, 1).

    Example:
        >>> a, b, c = torch.rand(3, 66, generator=torch.Generator().manual_seed(0))
        >>> found = partial_correlation_interval(a + c, b + c, c, n_resamples=100)
        >>> found.low < found.value < found.high
        True
    """
    _check_confidence(confidence)
    value = float(partial_correlation(a, b, given, method=method))
    first = as_condensed(a, name="a")
    controls = stacked_rdms(given, name="given", device=first.device)
    second = as_condensed(b, name="b", device=first.device)
    rows = torch.stack([first, second, *controls])
    kept = shared_pairs(rows, first)
    scaled = in_working_precision(rows).clone()
    scaled[:, kept] = comparator_named(method).scaled(rows[:, kept])
    weights = _resampled_weights(
        stimulus_count(rows.shape[1]),
        n_resamples=n_resamples,
        at_least=len(rows) + 1,
        seed=seed,
        like=scaled,
    )
    correlations = _weighted_correlations(scaled, kept, weights[1:])
    defined = correlations[~correlations.isnan().any(-1).any(-1)]
    precision = torch.linalg.pinv(defined, rtol=1e-10, hermitian=True)
    diagonal = precision.diagonal(dim1=1, dim2=2)
    values = -precision[:, 0, 1] / (diagonal[:, 0] * diagonal[:, 1]).sqrt()
    tail = (1 - confidence) / 2
    low, high = values.nanquantile(values.new_tensor([tail, 1 - tail])).tolist()
    return Share(value, low, high)


def _explained(
    correlations: Float[Tensor, "resample rdm rdm"],
    subsets: list[tuple[int, ...]],
    *,
    nonnegative: bool,
) -> dict[tuple[int, ...], Float[Tensor, "resample"]]:
    """Return R² of the last RDM on each subset of the others.

    The non-negative fit to a set is the free fit to that one of its subsets which explains most
    among those whose weights come out positive.
    """
    undefined = correlations.isnan().any(-1).any(-1)
    filled = correlations.nan_to_num()
    free: dict[tuple[int, ...], Tensor] = {}
    explained: dict[tuple[int, ...], Tensor] = {(): filled.new_zeros(len(filled))}
    for subset in subsets:
        chosen = list(subset)
        inverse = torch.linalg.pinv(filled[:, chosen][:, :, chosen], rtol=1e-10, hermitian=True)
        target = filled[:, chosen, -1]
        weights = (inverse @ target[:, :, None])[:, :, 0]
        value = (weights * target).sum(1)
        free[subset] = value.where((weights >= 0).all(1), 0) if nonnegative else value
    for subset in subsets:
        within = (
            [free[s] for s in subsets if set(s) <= set(subset)] if nonnegative else [free[subset]]
        )
        explained[subset] = torch.stack(within).amax(0).masked_fill(undefined, torch.nan)
    return explained


def _shares(
    explained: dict[tuple[int, ...], Float[Tensor, "resample"]], subsets: list[tuple[int, ...]]
) -> Float[Tensor, "resample subset"]:
    """Return the variance in common to each subset alone, by inclusion and exclusion.

    What only models of S explain is R²(all) − R²(all but S): the sum of the shares of S' ⊆ S.
    """
    everything = subsets[-1]
    only = {
        s: explained[everything] - explained[tuple(i for i in everything if i not in s)]
        for s in subsets
    }
    shares = [
        sum(only[s] * (-1) ** (len(subset) - len(s)) for s in subsets if set(s) <= set(subset))
        for subset in subsets
    ]
    return torch.stack(shares, 1)


def variance_partitioning(
    data: Array,
    models: Mapping[str, Array],
    *,
    nonnegative: bool = False,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> VariancePartition:
    """Partition the variance of an RDM into what each model explains uniquely and in common.

    R² of the regression of the RDM, with a constant, on all subsets of the models; the share of
    models A and B alone is R²(A) + R²(B) − R²(A, B), and so on for more (commonality analysis).

    Args:
        data: one RDM, (pair,) or (stimulus, stimulus). Average subjects first.
        models: 1 to 4 RDMs of the same stimuli, by name.
        nonnegative: whether weights of models must not be negative.
        n_resamples: number of bootstrap resamples of stimuli.
        confidence: share of the resamples within each interval.
        seed: seed of the resamples, which are the same on every device.

    Returns:
        A ``VariancePartition``. A model that is constant makes all shares NaN; resamples in which
        one is constant are left out of the intervals.

    Raises:
        ValueError: no model or more than 4, RDMs of different sizes or with different pairs
            missing, a confidence outside (0, 1), or too few stimuli to resample.

    Note:
        Stimuli are drawn with replacement, and pairs of a stimulus with itself are excluded. R² is
        not adjusted for the number of models: pairs are not independent, so that there are no
        degrees of freedom to adjust by. Chance raises it, and raises it again in resamples, which
        hold fewer distinct stimuli: the basic interval, 2θ − q, takes that out, where a percentile
        interval of a share that is zero would lie above zero.

    Example:
        >>> a, b, noise = torch.rand(3, 66, generator=torch.Generator().manual_seed(0))
        >>> found = variance_partitioning(a + b, {"a": a, "b": b}, n_resamples=100)
        >>> round(found.total.value, 6), list(found.parts)
        (1.0, [('a',), ('b',), ('a', 'b')])

    Reference:
        Seibold & McPhee 1979, https://doi.org/10.1111/j.1468-2958.1979.tb00649.x; of RDMs:
        Groen et al. 2018, https://doi.org/10.7554/eLife.32962
    """
    if not isinstance(models, Mapping):
        raise TypeError(f"models is a {type(models).__name__}; expected a dict of name → RDM.")
    if not 1 <= len(models) <= MODELS_PARTITIONED:
        raise ValueError(
            f"{len(models)} models were given; variance is partitioned between 1 to "
            f"{MODELS_PARTITIONED}. Group models that belong together."
        )
    _check_confidence(confidence)
    target = in_working_precision(as_condensed(data, name="data"))
    rdms = [as_condensed(x, name=name, device=target.device) for name, x in models.items()]
    for rdm in rdms:
        check_same_pairs(rdm, target)
    rows = torch.stack([*(in_working_precision(rdm) for rdm in rdms), target])
    kept = shared_pairs(rows[:-1], target)
    weights = _resampled_weights(
        stimulus_count(len(target)),
        n_resamples=n_resamples,
        at_least=next(d for d in itertools.count(3) if d * (d - 1) // 2 > len(rows)),
        seed=seed,
        like=target,
    )
    subsets = [s for k in range(1, len(rows)) for s in itertools.combinations(range(len(rdms)), k)]
    correlations = _weighted_correlations(rows, kept, weights)
    explained = _explained(correlations, subsets, nonnegative=nonnegative)
    values = torch.cat([_shares(explained, subsets), explained[subsets[-1]][:, None]], 1)
    tail = (1 - confidence) / 2
    least, most = values[1:].nanquantile(values.new_tensor([tail, 1 - tail]), dim=0)
    low, high = 2 * values[0] - most, 2 * values[0] - least  # resamples are biased as the data are
    *parts, total = itertools.starmap(Share, torch.stack([values[0], low, high], 1).tolist())
    names = [tuple(list(models)[i] for i in subset) for subset in subsets]
    kind = f"bootstrap over stimuli, basic, {100 * confidence:g} %"
    return VariancePartition(total, dict(zip(names, parts, strict=True)), kind, n_resamples)

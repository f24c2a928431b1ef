"""RDM comparisons of resampled stimuli, computed from multiplicities."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.comparators import comparator_named, tie_bounds
from repalign.metrics.gram import centre, in_working_precision
from repalign.metrics.pairs import condensed, square_form

BLOCK_ELEMENTS = 1 << 18  # 2 MiB of float64, to stay in cache: a block of resamples per quantity


def draw_multiplicities(
    n: int, *, n_resamples: int, generator: torch.Generator, at_least: int = 3
) -> Int[Tensor, "resample stimulus"]:
    """Return how often each of ``n`` stimuli is drawn, with replacement, in every resample.

    Resamples with fewer than ``at_least`` distinct stimuli are drawn again. A generator on the CPU
    gives the same resamples for every device.
    """
    if n < at_least or n_resamples < 1:
        raise ValueError(
            f"{n_resamples} resamples of {n} stimuli were asked for; expected 1 or more resamples "
            f"of at least {at_least} stimuli."
        )
    counts = torch.zeros(n_resamples, n, dtype=torch.int64)
    todo = torch.arange(n_resamples)
    while len(todo):
        drawn = torch.randint(n, (len(todo), n), generator=generator)
        ones = torch.ones_like(drawn)
        counts[todo] = torch.zeros_like(drawn).scatter_add_(1, drawn, ones)
        todo = todo[(counts[todo] > 0).sum(1) < at_least]
    return counts


def weighted_spread(squares: Tensor, sums: Tensor, weight: Tensor) -> Tensor:
    """Return Σw(v − v̄)², or NaN where only rounding is left: the resample is constant."""
    spread = squares - sums.square() / weight
    rounding = 1e-13 if spread.dtype == torch.float64 else 1e-5
    return spread.masked_fill(spread <= rounding * squares, torch.nan)


def _moment_comparison(
    rdm: Float[Tensor, "pair"],
    rdms: Float[Tensor, "model pair"],
    weights: Float[Tensor, "resample stimulus"],
    *,
    centred: bool,
) -> Float[Tensor, "resample model"]:
    """Return Pearson correlations (or cosines) with pair weights wᵢwⱼ.

    Σᵢ<ⱼ wᵢwⱼ mᵢⱼ is the quadratic form wᵀMw / 2: one product of matrices serves all resamples.
    """

    def total(values: Float[Tensor, "pair"]) -> Float[Tensor, "resample"]:
        return ((weights @ square_form(values)) * weights).sum(1) / 2

    a = centre(rdm, 0) if centred else rdm
    a_sum, aa, pairs = total(a), total(a * a), total(torch.ones_like(a))
    if centred:
        aa = weighted_spread(aa, a_sum, pairs)
    similarities = []
    for row in rdms:
        b = centre(row, 0) if centred else row
        ab, bb = total(a * b), total(b * b)
        if centred:
            b_sum = total(b)
            ab = ab - a_sum * b_sum / pairs
            bb = weighted_spread(bb, b_sum, pairs)
        similarities.append(ab / (aa.sqrt() * bb.sqrt()))
    return torch.stack(similarities, 1)


def _whitened_comparison(
    rdm: Float[Tensor, "pair"],
    rdms: Float[Tensor, "model pair"],
    weights: Float[Tensor, "resample stimulus"],
    *,
    centred: bool,
) -> Float[Tensor, "resample model"]:
    """Return whitened cosines (or correlations) with pair weights wᵢwⱼ, in O(n²) a resample.

    The whitened product of a and b is G − rᵃᵀA⁻¹rᵇ, with G = Σᵢ<ⱼ wᵢwⱼ aᵢⱼbᵢⱼ,
    rᵃᵢ = wᵢ Σⱼ wⱼaᵢⱼ and A = wwᵀ + diag(w(N − 2w + 2)), N = Σw: what remains of a after the best
    fitting sum of row effects is removed, whose inverse Sherman & Morrison's formula gives.
    """
    size = weights.sum(1, keepdim=True)
    inverse = weights * (size - 2 * weights + 2)
    inverse = inverse.reciprocal().masked_fill(weights == 0, 0)
    shrink = 1 + (weights.square() * inverse).sum(1)
    pairs = (size[:, 0].square() - weights.square().sum(1)) / 2

    def effects(values: Float[Tensor, "pair"]) -> tuple[Tensor, Tensor, Tensor]:
        reached = weights @ square_form(values)
        total = (reached * weights).sum(1) / 2
        mean = total / pairs if centred else torch.zeros_like(total)
        rows = weights * (reached - mean[:, None] * (size - weights))
        return mean, rows, (rows * inverse * weights).sum(1)

    def product(a: Tensor, b: Tensor, of_a: tuple[Tensor, ...], of_b: tuple[Tensor, ...]) -> Tensor:
        mean_a, rows_a, along_a = of_a
        mean_b, rows_b, along_b = of_b
        plain = ((weights @ square_form(a * b)) * weights).sum(1) / 2 - mean_a * mean_b * pairs
        return plain - (rows_a * inverse * rows_b).sum(1) + along_a * along_b / shrink

    of_rdm = effects(rdm)
    length = product(rdm, rdm, of_rdm, of_rdm)
    similarities = []
    for row in rdms:
        of_row = effects(row)
        own = product(row, row, of_row, of_row)
        similarities.append(product(rdm, row, of_rdm, of_row) / (length * own).sqrt())
    return torch.stack(similarities, 1)


class _Order(NamedTuple):
    """An RDM's pairs in ascending order, and the ends of each one's group of ties, if any."""

    pairs: Int[Tensor, "pair"]
    ties: tuple[Int[Tensor, "pair"], Int[Tensor, "pair"]] | None


def _order(rdm: Float[Tensor, "pair"]) -> _Order:
    ascending, pairs = rdm.sort()
    first, last = tie_bounds(ascending)
    return _Order(pairs, None if bool((first == last).all()) else (first, last))


def _take(
    rows: Float[Tensor, "resample pair"], index: Int[Tensor, "pair"]
) -> Float[Tensor, "resample pair"]:
    taken = torch.empty_like(rows)
    for row, out in zip(rows, taken, strict=True):  # row by row: thrice as fast as rows[:, index]
        torch.index_select(row, 0, index, out=out)
    return taken


def _weighted_ranks(
    pair_weights: Float[Tensor, "resample pair"], order: _Order
) -> tuple[Float[Tensor, "resample pair"], Float[Tensor, "resample pair"]]:
    """Return pair weights in ascending order of an RDM, and its doubled ranks less their mean.

    A pair of weight w stands for w tied copies. With W the total weight, and C the weight below a
    group of ties and up to its end, the mid-rank less the mean rank is (C_below + C_end − W) / 2.
    """
    weights = _take(pair_weights, order.pairs)
    upto = weights.cumsum(1)
    total = upto[:, -1:].clone()
    if order.ties is None:
        return weights, upto.mul_(2).sub_(weights).sub_(total)
    first, last = order.ties
    return weights, _take(upto - weights, first).add_(_take(upto, last)).sub_(total)


def _rank_comparison(
    rdm: Float[Tensor, "pair"],
    rdms: Float[Tensor, "model pair"],
    weights: Float[Tensor, "resample stimulus"],
    *,
    untied: bool,
) -> Float[Tensor, "resample model"]:
    """Return Spearman correlations (or rho-a) with pair weights wᵢwⱼ, sorting each RDM once.

    ``untied`` divides by the spread that the doubled ranks would have without ties, (W³ − W)/3.
    """
    reference, orders = _order(rdm), [_order(row) for row in rdms]
    similarities = []
    for block in torch.split(weights, max(1, BLOCK_ELEMENTS // len(rdm))):
        pair_weights = condensed(block[:, :, None] * block[:, None, :])
        ordered, ranks = _weighted_ranks(pair_weights, reference)
        ordered *= ranks
        length = torch.linalg.vecdot(ordered, ranks).sqrt()
        total = pair_weights.sum(1)
        without_ties = (total**3 - total) / 3
        weighted = torch.empty_like(ranks).index_copy_(1, reference.pairs, ordered)
        values = []
        for order in orders:
            ordered, ranks = _weighted_ranks(pair_weights, order)
            product = torch.linalg.vecdot(_take(weighted, order.pairs), ranks)
            own = torch.linalg.vecdot(ordered.mul_(ranks), ranks).sqrt()
            values.append(product / (without_ties if untied else length * own))
        similarities.append(torch.stack(values, 1))
    return torch.cat(similarities)


def resampled_similarities(
    rdm: Float[Tensor, "pair"],
    rdms: Float[Tensor, "model pair"],
    multiplicities: Int[Tensor, "resample stimulus"],
    *,
    comparator: str = "spearman",
) -> Float[Tensor, "resample model"]:
    """Return what comparing resampled RDMs would give, without building them.

    A resample of stimuli with multiplicities w holds pair (i, j) wᵢwⱼ times; pairs of a stimulus
    with itself are excluded. The value is exact, ties included, and NaN where a resampled RDM is
    constant.

    Args:
        rdm: one condensed RDM.
        rdms: the RDMs to compare it with, model × pair.
        multiplicities: how often each stimulus is drawn, resample × stimulus.
        comparator: a name in ``WEIGHTED``: all but Kendall's taus and the Bures similarity.

    Returns:
        resample × model.

    Raises:
        ValueError: unknown comparator, RDMs of different sizes, or RDMs that hold NaN.
    """
    name = comparator_named(comparator).name
    if name not in WEIGHTED:
        raise ValueError(
            f"The bootstrap has no weighted form of {comparator!r}; use one of "
            f"{', '.join(WEIGHTED)}."
        )
    if rdm.ndim != 1 or rdms.ndim != 2 or rdms.shape[1] != len(rdm):
        raise ValueError(
            f"The RDMs have shapes {tuple(rdm.shape)} and {tuple(rdms.shape)}; expected pair and "
            "model × pair, of the same stimuli. Align them on stimulus_id first."
        )
    undefined = int(rdm.isnan().sum()) + int(rdms.isnan().sum())
    if undefined:
        raise ValueError(
            f"The RDMs hold {undefined} NaN, and a resample cannot rank them. Leave out the "
            "stimuli concerned (under the correlation distance: those with constant patterns)."
        )
    a, b = in_working_precision(rdm), in_working_precision(rdms)
    weights = multiplicities.to(a)
    return WEIGHTED[name](a, b, weights)


WEIGHTED: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cosine": partial(_moment_comparison, centred=False),
    "corr": partial(_moment_comparison, centred=True),
    "spearman": partial(_rank_comparison, untied=False),
    "rho-a": partial(_rank_comparison, untied=True),
    "cosine_cov": partial(_whitened_comparison, centred=False),
    "corr_cov": partial(_whitened_comparison, centred=True),
}

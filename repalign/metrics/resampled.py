"""RDM comparisons of resampled stimuli, computed from multiplicities."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.comparators import comparator_named, tie_bounds
from repalign.metrics.gram import centre, in_working_precision
from repalign.metrics.rdms import condensed, square_form

BLOCK_ELEMENTS = 1 << 21  # 16 MiB of float64: what a block of resamples holds per quantity


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
    a_sum, aa, similarities = total(a), total(a * a), []
    pairs = total(torch.ones_like(a))
    for row in rdms:
        b = centre(row, 0) if centred else row
        ab, bb = total(a * b), total(b * b)
        if not centred:
            similarities.append(ab / (aa.sqrt() * bb.sqrt()))
            continue
        b_sum = total(b)
        lengths = (
            weighted_spread(aa, a_sum, pairs).sqrt() * weighted_spread(bb, b_sum, pairs).sqrt()
        )
        similarities.append((ab - a_sum * b_sum / pairs) / lengths)
    return torch.stack(similarities, 1)


def _rank_comparison(
    rdm: Float[Tensor, "pair"],
    rdms: Float[Tensor, "model pair"],
    weights: Float[Tensor, "resample stimulus"],
) -> Float[Tensor, "resample model"]:
    """Return Spearman correlations with pair weights wᵢwⱼ, sorting each RDM once.

    A pair of weight w stands for w tied copies. With W the total weight, and C the weight below a
    group of ties or up to its end, their mid-rank less the mean rank is (C_below + C_end − W) / 2.
    """
    orders = []
    for row in torch.cat([rdm[None], rdms]):
        ascending, order = row.sort()
        first, last = tie_bounds(ascending)
        orders.append((order, None if bool((first == last).all()) else (first, last)))
    size = max(1, BLOCK_ELEMENTS // len(rdm))
    return torch.cat([_rank_block(orders, block) for block in torch.split(weights, size)])


def _rank_block(
    orders: list[tuple[Tensor, tuple[Tensor, Tensor] | None]],
    weights: Float[Tensor, "resample stimulus"],
) -> Float[Tensor, "resample model"]:
    pair_weights = condensed(weights[:, :, None] * weights[:, None, :])
    weight = pair_weights.sum(1, keepdim=True)

    def doubled_ranks(
        ordered: Float[Tensor, "resample pair"], bounds: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "resample pair"]:
        upto = ordered.cumsum(1)
        below = upto - ordered
        if bounds is not None:
            below, upto = below[:, bounds[0]], upto[:, bounds[1]]
        return below.add_(upto).sub_(weight)

    (order, bounds), *others = orders
    ordered = pair_weights[:, order]
    ranks = doubled_ranks(ordered, bounds)
    a_length = (ordered * ranks.square()).sum(1).sqrt()
    weighted = torch.empty_like(ranks).index_copy_(1, order, ordered * ranks)
    similarities = []
    for order, bounds in others:
        ordered = pair_weights[:, order]
        ranks = doubled_ranks(ordered, bounds)
        b_length = (ordered * ranks.square()).sum(1).sqrt()
        similarities.append((weighted[:, order] * ranks).sum(1) / (a_length * b_length))
    return torch.stack(similarities, 1)


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
        comparator: ``"spearman"``, ``"pearson"`` or ``"cosine"``.

    Returns:
        resample × model.

    Raises:
        ValueError: unknown comparator, RDMs of different sizes, or RDMs that hold NaN.
    """
    comparator_named(comparator)
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
    match comparator:
        case "spearman":
            return _rank_comparison(a, b, weights)
        case "pearson":
            return _moment_comparison(a, b, weights, centred=True)
        case "cosine":
            return _moment_comparison(a, b, weights, centred=False)
    raise ValueError(
        f"The bootstrap has no weighted form of {comparator!r}; use cosine, pearson or spearman."
    )

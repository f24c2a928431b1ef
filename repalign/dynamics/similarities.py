"""All representations of one side against all of another, in one product of matrices.

For n stimuli, p neuroids and T bins, RDMs or Gram matrices take 2 T n² p operations; T of one side
against M of another 2 T M n², where a loop over pairs would rank or centre each of them T M times.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repalign.metrics import CKA, RSA, InnerProductMetric, Metric
from repalign.metrics.calls import average_of_repeats
from repalign.metrics.cka import centre_gram
from repalign.metrics.comparators import COMPARATORS, comparator_named
from repalign.metrics.gram import centre, in_working_precision, product, symmetric_product
from repalign.metrics.pairs import condensed, square_form
from repalign.metrics.rdms import rdm
from repalign.metrics.subsets import take_stimuli

BLOCK_ELEMENTS = 1 << 24  # 128 MiB of float64


def check_metric(metric: Metric, what: str) -> InnerProductMetric:
    """Return the metric if it compares what it prepares of each population, as RSA and CKA do."""
    if not isinstance(metric, InnerProductMetric):
        raise ValueError(
            f"{what} takes metrics that compare RDMs or Gram matrices, such as rsa and cka;"
            f" {metric.name} fits or rotates single units. Compare one window at a time, with"
            " repalign.average_time and repalign.compare"
        )
    return metric


def prepare_frames(metric: InnerProductMetric, frames: Tensor) -> Float[Tensor, "time *prepared"]:
    """Return what the metric prepares of each frame.

    Args:
        metric: RSA, CKA or alike.
        frames: (time, stimulus, neuroid), or (time, repeat, stimulus, neuroid).
    """
    size = max(1, BLOCK_ELEMENTS // frames[0].numel())
    return torch.cat([_prepared(metric, block) for block in torch.split(frames, size)])


def _prepared(metric: InnerProductMetric, frames: Tensor) -> Tensor:
    repeated = frames.ndim == 4
    if isinstance(metric, RSA) and not metric.needs_repeats:
        return rdm(frames, method=metric.rdm, batch_dims=1)
    if isinstance(metric, CKA) and metric.kernel == "linear":
        whole = average_of_repeats(frames) if repeated else in_working_precision(frames)
        return symmetric_product(centre(whole, -2))
    return torch.stack([metric.prepare(frame) for frame in frames])


def mean_of_half(
    filled: Float[Tensor, "time repeat stimulus neuroid"], half: Bool[Tensor, "repeat stimulus"]
) -> Float[Tensor, "time stimulus neuroid"]:
    """Return the mean over the presentations in a half; those that are missing are 0.

    Repetitions are added up one by one, without a masked copy of all of them.
    """
    total = torch.zeros_like(filled[:, 0])
    for repeat, chosen in enumerate(half.to(filled.dtype)):
        total.addcmul_(filled[:, repeat], chosen[:, None])
    return total / half.sum(0)[:, None]


def unit_vectors(metric: InnerProductMetric, prepared: Tensor) -> Float[Tensor, "row entry"] | None:
    """Return vectors whose products are the metric's values, or None where there are none.

    An RDM gives its entries on the comparator's scale, a pair each, or n × n where it is whitened;
    a Gram matrix its n × n centred entries. Kendall's taus and Bures similarities are no products.
    """
    if isinstance(metric, CKA):
        flat = centre_gram(prepared, debiased=metric.debiased).flatten(1)
        length: Tensor = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        return flat / length
    if isinstance(metric, RSA):
        compare = comparator_named(metric.comparator)
        if compare.product is COMPARATORS["cosine"].product:
            embedded = compare.embedded(prepared)
            units: Tensor = embedded / compare.square(embedded).sqrt()[:, None]
            return units
    return None


def similarity_grid(
    metric: InnerProductMetric, first: Tensor, second: Tensor
) -> Float[Tensor, "one two"]:
    """Return the value of each prepared population of one side with each of the other.

    Equal to ``metric.compare_prepared`` of every pair, within 1e-12.
    """
    u, v = unit_vectors(metric, first), unit_vectors(metric, second)
    if u is not None and v is not None:
        return product(u, v.mT)
    rows = [torch.stack([metric.compare_prepared(a, b) for b in second]) for a in first]
    return torch.stack(rows)


def random_orders(n: int, draws: int, seed: int) -> Int[Tensor, "draw stimulus"]:
    """Return random orders of the stimuli, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(draws, n, generator=generator, dtype=torch.float64).argsort(1)


def permuted_grids(
    metric: InnerProductMetric,
    first: Tensor,
    second: Tensor,
    orders: Int[Tensor, "draw stimulus"],
) -> Iterator[Float[Tensor, "draw one two"]]:
    """Yield the grids with the stimuli of the second side in other orders, some at a time.

    Ranks, centring and whitening do not depend on the order, so that only entries are moved.
    """
    u, v = unit_vectors(metric, first), unit_vectors(metric, second)
    if u is None or v is None:
        for order in orders:
            moved = torch.stack([take_stimuli(one, order) for one in second])
            yield similarity_grid(metric, first, moved)[None]
        return
    n, entries = orders.shape[1], v.shape[1]
    for block in torch.split(orders.to(v.device), max(1, BLOCK_ELEMENTS // v.numel())):
        if entries < n * n:  # pairs of stimuli
            number = square_form(torch.arange(entries, dtype=torch.float64, device=v.device))
            moved = number[block[:, :, None], block[:, None, :]]
            place = condensed(moved).long()
        else:
            place = (block[:, :, None] * n + block[:, None, :]).flatten(1)
        reordered = v[:, place].movedim(1, 0)  # draw × two × entry
        values = product(u, reordered.flatten(0, 1).mT)
        yield values.reshape(len(u), len(block), len(v)).movedim(1, 0)

"""Spearman, rho-a and Kendall's taus in every resample, from weighted ranks."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from repalign.metrics.pairs import stimulus_count, upper_triangle
from repalign.metrics.ranks import tie_bounds

Integers = NDArray[np.int32]
RANKED = ("spearman", "rho-a", "tau-a", "tau-b")
ROW_ELEMENTS = 1 << 22  # pairs × resamples whose concordance is counted side by side
INT32_PAIRS = 46_340  # so many pairs have weights of 16 bits, and sums of products of 32 bits
FEW = 8  # times fewer pairs that make sorting those of each resample faster
SAMPLES_A_TASK = 50

Found = tuple[
    Float[Tensor, "way resample model"],
    Float[Tensor, "way resample"],
    Float[Tensor, "way resample"],
]


class Orders(NamedTuple):
    """RDMs' pairs in ascending order, and their dense ranks.

    Args:
        order: pairs in ascending order of their distances, rdm × pair.
        dense: rank of each pair among the distinct distances, from 0.
        n_ranks: number of distinct distances of each RDM.
        tied: which RDMs have ties.
        starts: number of pairs below each rank, and from the last on all of them.
    """

    order: Integers
    dense: Integers
    n_ranks: Integers
    tied: NDArray[np.bool_]
    starts: Integers

    @classmethod
    def of(cls, rdms: Float[Tensor, "rdm pair"]) -> "Orders":
        """Rank RDMs; distances within 1e-12 of the largest are tied."""
        n = rdms.shape[1]
        ascending, order = rdms.sort(1)
        first, _ = tie_bounds(ascending)
        starts_group = first == torch.arange(n)
        steps = starts_group.cumsum(1) - 1
        dense = torch.empty_like(steps).scatter_(1, order, steps).numpy().astype(np.int32)
        n_ranks = (steps[:, -1] + 1).numpy().astype(np.int32)
        starts = np.full((len(rdms), n + 1), n, np.int32)
        for row, at in zip(starts, starts_group, strict=True):
            places = at.nonzero()[:, 0].numpy()
            row[: len(places)] = places
        return cls(order.numpy().astype(np.int32), dense, n_ranks, n_ranks < n, starts)


class Pairs(NamedTuple):
    """The two stimuli of each pair."""

    first: Integers
    second: Integers


def in_threads(task: Callable[[int, int], None], n: int, size: int) -> None:
    """Call the task for runs of resamples, on as many threads as torch has."""
    runs = [(begin, min(begin + size, n)) for begin in range(0, n, size)]
    with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(runs)))) as pool:
        list(pool.map(lambda run: task(*run), runs))


def rank_evaluations(
    models: Float[Tensor, "model kept_pair"],
    subjects: Float[Tensor, "subject kept_pair"],
    kept: Bool[Tensor, "pair"],
    stimuli: Int[Tensor, "resample stimulus"],
    ways: Int[Tensor, "way resample subject"],
    *,
    comparator: str,
    n_ceilings: int,
) -> Found:
    """Return the models' mean similarities with the subjects, and both ceilings, on the CPU.

    One row of ``stimuli`` serves all resamples of subjects.
    """
    from repalign.inference.compiled_ranks import rank_correlations

    device, n_subjects = subjects.device, len(subjects)
    orders = Orders.of(torch.cat([subjects, models]).cpu())
    first, second = upper_triangle(stimulus_count(len(kept))).nonzero(as_tuple=True)
    pairs = Pairs(*(side[kept.cpu()].numpy().astype(np.int32) for side in (first, second)))
    drawn = np.ascontiguousarray(stimuli.cpu().numpy().astype(np.int32))
    of_subjects = np.ascontiguousarray(ways.cpu().numpy().astype(np.int32))
    n_ways, n_resamples = of_subjects.shape[:2]
    values = np.empty((n_ways, n_resamples, len(models)))
    lower, upper = np.full((2, n_ways, n_resamples), np.nan)
    if comparator in ("spearman", "rho-a"):
        in_threads(
            lambda begin, end: rank_correlations(
                drawn,
                of_subjects,
                pairs.first,
                pairs.second,
                orders.order,
                orders.dense,
                orders.tied,
                comparator == "rho-a",
                n_ceilings,
                values,
                lower,
                upper,
                begin,
                end,
            ),
            n_resamples,
            SAMPLES_A_TASK,
        )
    else:
        corrected = comparator == "tau-b"
        taus = _taus(drawn, pairs, orders, n_subjects, corrected=corrected)
        times = of_subjects / of_subjects.sum(2, keepdims=True)
        present = np.where(times[:, :, None] > 0, taus.transpose(2, 0, 1), 0)
        values = np.einsum("lbms,lbs->lbm", present, times)
        if n_ceilings:
            ways_of_ceilings = of_subjects[:n_ceilings]
            _tau_ceilings(drawn, ways_of_ceilings, pairs, orders, lower, upper, corrected=corrected)
    of_models, of_lower, of_upper = (torch.from_numpy(x).to(device) for x in (values, lower, upper))
    return of_models, of_lower, of_upper


def _taus(
    drawn: NDArray[np.int32],
    pairs: Pairs,
    orders: Orders,
    n_subjects: int,
    *,
    corrected: bool,
) -> NDArray[np.float64]:
    """Return the tau of every model with every subject, model × subject × resample."""
    from repalign.inference.compiled_concordance import concordances
    from repalign.inference.compiled_taus import drawn_taus

    n_models = len(orders.order) - n_subjects
    taus = np.empty((n_models, n_subjects, len(drawn)))
    n_drawn = int((drawn > 0).sum(1).max())
    if FEW * n_drawn * (n_drawn - 1) // 2 <= drawn.shape[1] * (drawn.shape[1] - 1) // 2:
        in_threads(
            lambda begin, end: drawn_taus(
                drawn,
                pairs.first,
                pairs.second,
                orders.dense,
                n_subjects,
                corrected,
                taus,
                begin,
                end,
            ),
            len(drawn),
            SAMPLES_A_TASK,
        )
        return taus
    n = drawn.sum(1).max()
    small = n * (n - 1) // 2 <= INT32_PAIRS
    of_weights = np.dtype(np.int16 if small else np.int32)
    of_sums = np.dtype(np.int32 if small else np.int64)

    def count(begin: int, end: int) -> None:
        block = drawn[begin:end].astype(of_weights)
        weights = np.ascontiguousarray((block[:, pairs.first] * block[:, pairs.second]).T)
        ties = np.empty((len(orders.order), end - begin))
        found = np.empty((n_models, n_subjects, end - begin))
        concordances(
            weights,
            orders.order,
            orders.dense,
            orders.starts,
            orders.n_ranks,
            n_subjects,
            np.empty(end - begin, of_sums),
            ties,
            found,
        )
        total = weights.sum(0, dtype=np.float64)
        untied = (total**2 - ties) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = np.sqrt(untied[n_subjects:, None] * untied[:n_subjects])
            values = found / (
                scale if corrected else np.where(scale > 0, total * (total - 1) / 2, 0)
            )
        taus[:, :, begin:end] = values

    in_threads(count, len(drawn), max(8, min(256, ROW_ELEMENTS // len(pairs.first))))
    return taus


def _tau_ceilings(
    drawn: NDArray[np.int32],
    ways: NDArray[np.int32],
    pairs: Pairs,
    orders: Orders,
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    *,
    corrected: bool,
) -> None:
    from repalign.inference.compiled_taus import concordance_ceilings

    n = ways.shape[2]
    in_threads(
        lambda begin, end: concordance_ceilings(
            drawn,
            ways,
            pairs.first,
            pairs.second,
            orders.order[:n],
            orders.dense[:n],
            orders.tied[:n],
            corrected,
            lower,
            upper,
            begin,
            end,
        ),
        ways.shape[1],
        SAMPLES_A_TASK,
    )

"""Weighted ranks and rank correlations of resampled RDMs, compiled; the only importer of numba.

Weights are products of multiplicities: whole numbers, so that ranks and sums of them are exact, and
ties are ties. Of ``n`` pairs in a sample, ``m`` have a weight; their places are 0 … m − 1.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., object])
Integers = NDArray[np.int32]
Longs = NDArray[np.int64]
Numbers = NDArray[np.float64]
RADIX = 11  # bits that one pass of sorting takes
FEW = 96  # keys that are sorted faster one by one


def compiled(function: Function) -> Function:
    """Compile on first use, keep the machine code on disk, and let other threads run meanwhile."""
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def compiled_sums(function: Function) -> Function:
    """The same for sums of whole numbers, whose order does not matter."""
    return cast(
        Function, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=True)(function)
    )


@compiled
def weigh(
    stimuli: Integers,
    first: Integers,
    second: Integers,
    place: Integers,
    pair_at: Integers,
    weight: Numbers,
) -> int:
    """Number the pairs that have a weight, and return how many; the others get the last place."""
    n, m = len(first), 0
    for pair in range(n):
        product = stimuli[first[pair]] * stimuli[second[pair]]
        weight[m] = product
        pair_at[m] = pair
        place[pair] = m if product > 0 else n
        m += product > 0
    weight[m:] = 0
    return m


@compiled
def rank(
    order: Integers,
    dense: Integers,
    tied: bool,
    place: Integers,
    weight: Numbers,
    total: float,
    ranks: Numbers,
    steps: Integers,
) -> None:
    """Write doubled mid-ranks less their mean, and the dense ranks, of the pairs with a weight.

    A pair of weight w stands for w copies. Below it are pairs of weight C, tied with it such of
    weight g in all: its doubled rank is 2C + g + 1, their mean over all is total + 1.
    """
    below, step, n = 0.0, 0, len(order)
    if not tied:
        for position in range(n):
            at = place[order[position]]
            ranks[at] = 2 * below + weight[at] - total
            below += weight[at]
            steps[at] = step
            step += at < n
        return
    start = 0
    while start < n:
        stop, group, present = start, 0.0, 0
        value = dense[order[start]]
        while stop < n and dense[order[stop]] == value:
            at = place[order[stop]]
            group += weight[at]
            present |= at < n
            stop += 1
        for position in range(start, stop):
            at = place[order[position]]
            ranks[at] = 2 * below + group - total
            steps[at] = step
        below += group
        step += present
        start = stop


@compiled
def sort_order(keys: Longs, m: int, order: Integers, spare: Integers) -> Integers:
    """Return the places 0 … m − 1 in ascending order of their keys, which are not negative."""
    for at in range(m):
        order[at] = at
    if m <= FEW:
        for last in range(1, m):
            moving, at = order[last], last
            while at > 0 and keys[order[at - 1]] > keys[moving]:
                order[at] = order[at - 1]
                at -= 1
            order[at] = moving
        return order
    largest = keys[:m].max()
    counts = np.empty(1 << RADIX, np.int64)
    shift, mask = 0, (1 << RADIX) - 1
    while largest >> shift > 0:
        counts[:] = 0
        for at in range(m):
            counts[keys[at] >> shift & mask] += 1
        before = 0
        for digit in range(1 << RADIX):
            before, counts[digit] = before + counts[digit], before
        for position in range(m):
            at = order[position]
            digit = keys[at] >> shift & mask
            spare[counts[digit]] = at
            counts[digit] += 1
        order, spare = spare, order
        shift += RADIX
    return order


@compiled
def rank_keys(
    keys: Longs,
    order: Integers,
    m: int,
    weight: Numbers,
    total: float,
    ranks: Numbers,
    steps: Integers,
) -> None:
    """Write what ``rank`` writes, from sorted keys."""
    below, step, start = 0.0, 0, 0
    while start < m:
        stop, group = start, 0.0
        while stop < m and keys[order[stop]] == keys[order[start]]:
            group += weight[order[stop]]
            stop += 1
        for position in range(start, stop):
            ranks[order[position]] = 2 * below + group - total
            steps[order[position]] = step
        below += group
        step += 1
        start = stop


@compiled_sums
def weighted_product(weight: Numbers, a: Numbers, b: Numbers, m: int) -> float:
    """Return Σ w a b."""
    total = 0.0
    for at in range(m):
        total += weight[at] * a[at] * b[at]
    return total


@compiled_sums
def add_multiple(target: Numbers, factor: float, row: Numbers, m: int) -> None:
    """Add a multiple of a row to the target."""
    for at in range(m):
        target[at] += factor * row[at]


@compiled
def pool_keys(pooled: Numbers, times: float, left_out: Numbers, m: int, keys: Longs) -> None:
    """Write pooled ranks without a subject's, moved such that the least is 0."""
    least = np.inf
    for at in range(m):
        value = pooled[at] - times * left_out[at]
        keys[at] = np.int64(value)
        least = min(least, value)
    for at in range(m):
        keys[at] -= np.int64(least)


@compiled
def same_row(rows: Integers, at: int) -> bool:
    """Whether a row equals the one before it."""
    return bool(np.all(rows[at] == rows[at - 1]))


@compiled
def rank_correlations(
    stimuli: Integers,
    ways: Integers,
    first: Integers,
    second: Integers,
    order: Integers,
    dense: Integers,
    tied: NDArray[np.bool_],
    untied_length: bool,
    n_ceilings: int,
    models: Numbers,
    lower: Numbers,
    upper: Numbers,
    begin: int,
    end: int,
) -> None:
    """Write Spearman correlations (rho-a if ``untied_length``) of resamples begin … end − 1.

    RDMs are those of the subjects, then those of the models; ``ways`` is way × resample × subject,
    ``models`` way × resample × model; ``stimuli`` has a row a resample, or one for all.
    """
    n, n_rdms, n_subjects = order.shape[1], len(order), ways.shape[2]
    place, pair_at = np.empty(n, np.int32), np.empty(n + 1, np.int32)
    weight = np.zeros(n + 1)
    ranks = np.empty((n_rdms + 1, n + 1))  # the last row is a pool's
    steps = np.empty(n + 1, np.int32)
    target, pooled, present = np.empty(n + 1), np.empty(n + 1), np.empty(n + 1)
    keys = np.empty(n, np.int64)
    spare, other = np.empty(n, np.int32), np.empty(n, np.int32)
    length = np.empty(n_rdms + 1)
    m, total, without_ties = 0, 0.0, 0.0
    for sample in range(begin, end):
        row = sample if len(stimuli) > 1 else 0
        if sample == begin or (row > 0 and not same_row(stimuli, row)):
            m = weigh(stimuli[row], first, second, place, pair_at, weight)
            total = weight[:m].sum()
            without_ties = (total**3 - total) / 3
            for rdm in range(n_rdms):
                if 8 * m > n:
                    rank(order[rdm], dense[rdm], tied[rdm], place, weight, total, ranks[rdm], steps)
                else:  # to sort few pairs anew is faster than to go through all of them
                    for at in range(m):
                        keys[at] = dense[rdm, pair_at[at]]
                    by_key = sort_order(keys, m, spare, other)
                    rank_keys(keys, by_key, m, weight, total, ranks[rdm], steps)
                own = weighted_product(weight, ranks[rdm], ranks[rdm], m)
                length[rdm] = np.sqrt(without_ties if untied_length and own > 0 else own)
        for way in range(len(ways)):
            subjects = ways[way, sample]
            target[:m] = 0
            pooled[:m] = 0
            present[:m] = 0
            count = 0
            for s in range(n_subjects):
                if subjects[s] > 0:
                    add_multiple(target, subjects[s] / length[s], ranks[s], m)
                    add_multiple(present, 1 / length[s], ranks[s], m)
                    add_multiple(pooled, subjects[s], ranks[s], m)
                    count += 1
            for model in range(n_rdms - n_subjects):
                rdm = n_subjects + model
                product = weighted_product(weight, ranks[rdm], target, m)
                models[way, sample, model] = product / length[rdm] / subjects.sum()
            if way >= n_ceilings:
                continue
            pool = ranks[n_rdms]
            pool_keys(pooled, 0.0, pooled, m, keys)
            rank_keys(keys, sort_order(keys, m, spare, other), m, weight, total, pool, steps)
            own = weighted_product(weight, pool, pool, m)
            scale = np.sqrt(without_ties if untied_length and own > 0 else own)
            upper[way, sample] = weighted_product(weight, pool, present, m) / scale / count
            found = 0.0
            for s in range(n_subjects):
                if subjects[s] > 0 and count > 1:
                    pool_keys(pooled, subjects[s], ranks[s], m, keys)
                    by_key = sort_order(keys, m, spare, other)
                    rank_keys(keys, by_key, m, weight, total, pool, steps)
                    own = weighted_product(weight, pool, pool, m)
                    scale = np.sqrt(without_ties if untied_length and own > 0 else own)
                    found += weighted_product(weight, pool, ranks[s], m) / scale / length[s]
            lower[way, sample] = found / count if count > 1 else np.nan

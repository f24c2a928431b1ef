"""Concordance of resampled RDMs for Kendall's taus, compiled.

Many resamples are counted side by side: two RDMs order the pairs in one way in all of them, so one
walk over that order serves as many resamples as a row of weights holds.
"""

import numpy as np
from numpy.typing import NDArray

from repalign.inference.compiled_ranks import Integers, Numbers, compiled, compiled_sums

Weights = NDArray[np.int16] | NDArray[np.int32]
Sums = NDArray[np.int32] | NDArray[np.int64]


@compiled_sums
def count_bit(
    bit: int,
    keys: Integers,
    starts: Integers,
    rows: Weights,
    next_keys: Integers,
    next_rows: Weights,
    before: Sums,
    found: Sums,
) -> None:
    """Count one bit for ``discordant``, and write keys and rows in the order of the next."""
    n, n_ranks, lanes = len(keys), len(starts) - 1, rows.shape[1]
    position, node = 0, 0
    while position < n:
        unset = starts[min(node << (bit + 1), n_ranks)]
        is_set = starts[min((node << (bit + 1)) + (1 << bit), n_ranks)]
        end = starts[min((node + 1) << (bit + 1), n_ranks)]
        for lane in range(lanes):
            before[lane] = 0
        for at in range(position, end):
            value = keys[at] >> bit & 1
            to = is_set if value else unset
            is_set += value
            unset += 1 - value
            if_set, if_not = np.int32(-value), np.int32(value - 1)  # masks: no branch to predict
            for lane in range(lanes):
                weight = rows[at, lane]
                found[lane] += (weight & if_not) * before[lane]
                before[lane] += weight & if_set
                next_rows[to, lane] = weight
            next_keys[to] = keys[at]
        position = end
        node += 1


@compiled
def discordant(
    keys: Integers,
    starts: Integers,
    rows: Weights,
    spare_keys: Integers,
    spare: Weights,
    found: Sums,
) -> None:
    """Write Σ wₚw_q over places p before q with a greater key, bit by bit from the highest.

    Two keys differ first in one bit: there the weight of those with the bit set that come before
    each one without is counted, and then the ones without are put before those with it.

    Args:
        keys: dense ranks, by place.
        starts: how many keys are less than each rank, and than one more rank.
        rows: weights, place × resample; ``keys`` and ``rows`` are overwritten.
        found: one number a resample.
    """
    before = np.zeros_like(found)
    found[:] = 0
    bits = 0
    while (len(starts) - 2) >> bits > 0:
        bits += 1
    for bit in range(bits - 1, -1, -1):
        if (bits - bit) % 2 == 1:
            count_bit(bit, keys, starts, rows, spare_keys, spare, before, found)
        else:
            count_bit(bit, spare_keys, starts, spare, keys, rows, before, found)


@compiled_sums
def tied_weight(a: Integers, b: Integers, rows: Weights, found: Sums) -> None:
    """Write Σ (Σ w)² over runs of places that are equal in both rankings."""
    lanes = rows.shape[1]
    group, squares = np.zeros_like(found), np.zeros_like(found)
    for position in range(len(a)):
        if position > 0 and (a[position] != a[position - 1] or b[position] != b[position - 1]):
            for lane in range(lanes):
                squares[lane] += group[lane] * group[lane]
                group[lane] = 0
        for lane in range(lanes):
            group[lane] += rows[position, lane]
    for lane in range(lanes):
        found[lane] = squares[lane] + group[lane] * group[lane]


@compiled
def take_rows(weights: Weights, order: Integers, rows: Weights) -> None:
    """Write the rows of weights in that order."""
    lanes = rows.shape[1]
    for position in range(len(order)):
        pair = order[position]
        for lane in range(lanes):
            rows[position, lane] = weights[pair, lane]


@compiled
def concordances(
    weights: Weights,
    order: Integers,
    dense: Integers,
    starts: Integers,
    n_ranks: Integers,
    n_subjects: int,
    number: Sums,
    ties: Numbers,
    found: Numbers,
) -> None:
    """Write Σₚ<q wₚw_q sign · sign of models with subjects, for a block of resamples.

    Args:
        weights: pair × resample.
        order, dense: pairs in ascending order, and their dense ranks, rdm × pair; RDMs are those of
            the subjects, then those of the models.
        starts: how many pairs are below each rank, rdm × (pair + 1).
        n_ranks: number of distinct values of each RDM.
        number: room for sums of products of weights, one a resample.
        ties: out, rdm × resample: Σ (Σ w)² over groups of tied pairs.
        found: out, model × subject × resample.
    """
    n_rdms, n = order.shape
    lanes = weights.shape[1]
    rows, spare = np.empty_like(weights), np.empty_like(weights)
    keys, spare_keys = np.empty(n, np.int32), np.empty(n, np.int32)
    of_model, by_both = np.empty(n, np.int32), np.empty(n, np.int32)
    next_place = np.empty(n + 1, np.int32)
    total = np.zeros(lanes)
    for pair in range(n):
        for lane in range(lanes):
            total[lane] += weights[pair, lane]
    for rdm in range(n_rdms):
        take_rows(weights, order[rdm], rows)
        for position in range(n):
            keys[position] = dense[rdm, order[rdm, position]]
        tied_weight(keys, keys, rows, number)
        ties[rdm] = number
    for model in range(n_subjects, n_rdms):
        for subject in range(n_subjects):
            next_place[:] = starts[model]
            for position in range(n):  # by the model, and by the subject where that is tied
                pair = order[subject, position]
                rank = dense[model, pair]
                by_both[next_place[rank]] = pair
                next_place[rank] += 1
            take_rows(weights, by_both, rows)
            for position in range(n):
                keys[position] = dense[subject, by_both[position]]
                of_model[position] = dense[model, by_both[position]]
            tied_weight(of_model, keys, rows, number)
            out = found[model - n_subjects, subject]
            out[:] = (total * total - ties[model] - ties[subject] + number) / 2
            levels = starts[subject, : n_ranks[subject] + 1]
            discordant(keys, levels, rows, spare_keys, spare, number)
            out -= 2.0 * number

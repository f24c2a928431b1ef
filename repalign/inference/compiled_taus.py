"""Kendall's taus of one pair of rankings at a time, compiled: for pools, and for permutations."""

import numpy as np
from numpy.typing import NDArray

from repalign.inference.compiled_ranks import (
    Integers,
    Numbers,
    add_multiple,
    compiled,
    pool_keys,
    rank,
    rank_keys,
    same_row,
    sort_order,
    weigh,
)


@compiled
def concordance(
    order: Integers,
    a: Integers,
    b: Integers,
    tied: bool,
    weight: Numbers,
    m: int,
    tree: Numbers,
) -> float:
    """Return Σₚ<q wₚw_q sign(aₚ − a_q) sign(bₚ − b_q), with a Fenwick tree over the ranks b.

    ``order`` ascends in a; ``tied`` says whether b has ties.
    """
    tree[: m + 1] = 0
    total, found, start = 0.0, 0.0, 0
    while start < m:
        stop = start
        while stop < m and a[order[stop]] == a[order[start]]:
            at = order[stop]
            less, k = 0.0, b[at]
            while k > 0:
                less += tree[k]
                k &= k - 1
            through, k = less, b[at] + 1
            if tied:
                through = 0.0
                while k > 0:
                    through += tree[k]
                    k &= k - 1
            found += weight[at] * (less + through - total)
            stop += 1
        for position in range(start, stop):
            at = order[position]
            k = b[at] + 1
            while k <= m:
                tree[k] += weight[at]
                k += k & -k
            total += weight[at]
        start = stop
    return found


@compiled
def untied_weight(order: Integers, steps: Integers, weight: Numbers, m: int) -> float:
    """Return Σₚ<q wₚw_q over pairs of places that are not tied."""
    total, ties, group = 0.0, 0.0, 0.0
    for position in range(m):
        if position > 0 and steps[order[position]] != steps[order[position - 1]]:
            ties += group * group
            group = 0.0
        group += weight[order[position]]
        total += weight[order[position]]
    return (total * total - ties - group * group) / 2


@compiled
def concordance_ceilings(
    stimuli: Integers,
    ways: Integers,
    first: Integers,
    second: Integers,
    order: Integers,
    dense: Integers,
    tied: NDArray[np.bool_],
    corrected: bool,
    lower: Numbers,
    upper: Numbers,
    begin: int,
    end: int,
) -> None:
    """Write the ceilings of tau-a (tau-b if ``corrected`` for ties), pooling mean ranks.

    The arguments are those of ``rank_correlations``, with the RDMs of the subjects alone.
    """
    n, n_subjects = order.shape[1], ways.shape[2]
    place, pair_at = np.empty(n, np.int32), np.empty(n + 1, np.int32)
    weight = np.zeros(n + 1)
    ranks = np.empty((n_subjects, n + 1))
    steps = np.empty((n_subjects, n + 1), np.int32)
    pool, pool_steps, pooled = np.empty(n + 1), np.empty(n + 1, np.int32), np.empty(n + 1)
    keys, tree = np.empty(n, np.int64), np.empty(n + 1)
    spare, other = np.empty(n, np.int32), np.empty(n, np.int32)
    untied = np.empty(n_subjects)
    m, total = 0, 0.0
    for sample in range(begin, end):
        row = sample if len(stimuli) > 1 else 0
        if sample == begin or (row > 0 and not same_row(stimuli, row)):
            m = weigh(stimuli[row], first, second, place, pair_at, weight)
            total = weight[:m].sum()
            for s in range(n_subjects):
                if 8 * m > n:
                    rank(order[s], dense[s], tied[s], place, weight, total, ranks[s], steps[s])
                    for at in range(m):
                        keys[at] = steps[s, at]
                    by_key = sort_order(keys, m, spare, other)
                else:
                    for at in range(m):
                        keys[at] = dense[s, pair_at[at]]
                    by_key = sort_order(keys, m, spare, other)
                    rank_keys(keys, by_key, m, weight, total, ranks[s], steps[s])
                untied[s] = untied_weight(by_key, steps[s], weight, m)
        all_pairs = total * (total - 1) / 2
        for way in range(len(ways)):
            subjects = ways[way, sample]
            pooled[:m] = 0
            count = 0
            for s in range(n_subjects):
                if subjects[s] > 0:
                    add_multiple(pooled, subjects[s], ranks[s], m)
                    count += 1
            above, below = 0.0, 0.0
            for left_out in range(-1, n_subjects):  # −1: nobody, the pool of all
                if left_out >= 0 and (subjects[left_out] == 0 or count < 2):
                    continue
                times = subjects[left_out] if left_out >= 0 else 0
                pool_keys(pooled, times, ranks[max(left_out, 0)], m, keys)
                by_key = sort_order(keys, m, spare, other)
                rank_keys(keys, by_key, m, weight, total, pool, pool_steps)
                of_pool = untied_weight(by_key, pool_steps, weight, m)
                for s in range(n_subjects):
                    if subjects[s] == 0 or (left_out >= 0 and s != left_out):
                        continue
                    number = concordance(by_key, pool_steps, steps[s], tied[s], weight, m, tree)
                    scale = np.sqrt(of_pool * untied[s]) if corrected else all_pairs
                    value = number / scale if of_pool > 0 and untied[s] > 0 else np.nan
                    if left_out < 0:
                        above += value
                    else:
                        below += value
            upper[way, sample] = above / count
            lower[way, sample] = below / count if count > 1 else np.nan


@compiled
def drawn_taus(
    stimuli: Integers,
    first: Integers,
    second: Integers,
    dense: Integers,
    n_subjects: int,
    corrected: bool,
    found: Numbers,
    begin: int,
    end: int,
) -> None:
    """Write tau-a (tau-b if ``corrected``) of models with subjects, model × subject × resample.

    For resamples of few stimuli: their pairs are sorted anew, and counted one by one.
    """
    n_rdms, n = dense.shape
    place, pair_at = np.empty(n, np.int32), np.empty(n + 1, np.int32)
    weight, mid_ranks, tree = np.zeros(n + 1), np.empty(n + 1), np.empty(n + 1)
    keys, spare, other = np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n, np.int32)
    steps, orders = np.empty((n_rdms, n + 1), np.int32), np.empty((n_rdms, n), np.int32)
    untied = np.empty(n_rdms)
    for sample in range(begin, end):
        m = weigh(stimuli[sample], first, second, place, pair_at, weight)
        total = weight[:m].sum()
        for rdm in range(n_rdms):
            for at in range(m):
                keys[at] = dense[rdm, pair_at[at]]
            by_key = sort_order(keys, m, spare, other)
            rank_keys(keys, by_key, m, weight, total, mid_ranks, steps[rdm])
            orders[rdm, :m] = by_key[:m]
            untied[rdm] = untied_weight(by_key, steps[rdm], weight, m)
        for model in range(n_subjects, n_rdms):
            for s in range(n_subjects):
                number = concordance(orders[model], steps[model], steps[s], True, weight, m, tree)
                defined = untied[model] > 0 and untied[s] > 0
                scale = np.sqrt(untied[model] * untied[s]) if corrected else total * (total - 1) / 2
                found[model - n_subjects, s, sample] = number / scale if defined else np.nan


@compiled
def permuted_concordances(
    orders: Integers,
    pair_number: Integers,
    model_order: Integers,
    model_dense: Integers,
    subject_dense: Integers,
    subject_tied: NDArray[np.bool_],
    model_lengths: Numbers,
    subject_lengths: Numbers,
    found: Numbers,
    begin: int,
    end: int,
) -> None:
    """Write the models' mean taus with subjects whose stimuli are reordered, order × model.

    ``pair_number`` is the place of a pair in a condensed RDM, stimulus × stimulus.
    """
    n, n_stimuli = model_order.shape[1], orders.shape[1]
    weight, tree = np.ones(n), np.empty(n + 1)
    reordered, source = np.empty(n, np.int32), np.empty(n, np.int32)
    for draw in range(begin, end):
        at = 0
        for i in range(n_stimuli):
            for j in range(i + 1, n_stimuli):
                source[at] = pair_number[orders[draw, i], orders[draw, j]]
                at += 1
        found[draw] = 0
        for subject in range(len(subject_dense)):
            for pair in range(n):
                reordered[pair] = subject_dense[subject, source[pair]]
            for model in range(len(model_order)):
                number = concordance(
                    model_order[model],
                    model_dense[model],
                    reordered,
                    subject_tied[subject],
                    weight,
                    n,
                    tree,
                )
                scale = model_lengths[model] * subject_lengths[subject] * len(subject_dense)
                found[draw, model] += number / scale

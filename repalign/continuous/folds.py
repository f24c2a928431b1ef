"""Folds of whole stretches of time, and circular shifts: for data whose neighbours are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from repalign.continuous_recording import run_bounds

Array = np.ndarray[Any, np.dtype[Any]]
LEAST_ROWS = 3  # of a held-out block, for a correlation


class Split(NamedTuple):
    """One fold: which times are fitted and which are foretold; others are the gap.

    Attributes:
        train: mask of shape (time,).
        test: likewise.
    """

    train: Array
    test: Array


def blocked_folds(
    run: Sequence[str] | Array, *, folds: int | None = None, gap: int = 0
) -> list[Split]:
    """Split time into whole runs, or into contiguous blocks with a gap around the held-out one.

    Args:
        run: of each time; the times of a run stand together.
        folds: None leaves one run out after the other; a number cuts all times, run after run,
            into so many blocks of nearly equal length.
        gap: times before and after a held-out block, in the same run, that are not fitted either:
            the longest delay, and as long as responses and noise last.

    Returns:
        Splits whose held-out times are each time once.

    Raises:
        ValueError: one run only without ``folds``, a gap without blocks, or blocks too short.

    Example:
        >>> split = blocked_folds(["a"] * 9, folds=3, gap=1)[0]
        >>> split.test.nonzero()[0].tolist(), split.train.nonzero()[0].tolist()
        ([0, 1, 2], [4, 5, 6, 7, 8])

    Reference:
        Roberts et al. 2017, https://doi.org/10.1111/ecog.02881
    """
    bounds = run_bounds(run)
    n = len(run)
    if gap < 0 or int(gap) != gap:
        raise ValueError(f"gap is {gap}; expected a whole number of times, 0 or more")
    if folds is None:
        if len(bounds) < 2:
            raise ValueError(
                f"there is one run only, {next(iter(bounds), 'none')!r}; give folds=5 for blocks"
                " of it, with a gap"
            )
        if gap:
            raise ValueError("gap applies to blocks (folds=5), not to whole runs; leave it out")
        blocks = [np.arange(start, stop) for start, stop in bounds.values()]
    else:
        if not 2 <= folds <= n // LEAST_ROWS:
            raise ValueError(f"folds is {folds} for {n} times; expected 2 to {n // LEAST_ROWS}")
        blocks = np.array_split(np.arange(n), folds)
    splits = []
    for number, rows in enumerate(blocks):
        test = np.zeros(n, dtype=bool)
        test[rows] = True
        train = ~test
        for start, stop in bounds.values():
            own = rows[(rows >= start) & (rows < stop)]
            if own.size:
                train[max(start, int(own[0]) - gap) : min(stop, int(own[-1]) + 1 + gap)] = False
        if not train.any():
            raise ValueError(
                f"fold {number} leaves no time to fit, of {n}; use a smaller gap ({gap} now) or"
                " more folds"
            )
        splits.append(Split(train, test))
    return splits


def circular_shifts(
    run: Sequence[str] | Array, n_shifts: int, *, least: int, draw: np.random.Generator
) -> list[Array]:
    """Orders of the times in which each run is turned in a circle, all of them different.

    To turn the responses one way is to turn the features the other; but then one decomposition of
    the features serves all turns.

    Args:
        run: of each time.
        n_shifts: how many; all there are where those are fewer.
        least: times by which each run is turned at least, either way round.
        draw: random numbers.

    Raises:
        ValueError: a run too short to be turned so far.

    Example:
        >>> orders = circular_shifts(["a"] * 5, 9, least=2, draw=np.random.default_rng(0))
        >>> sorted(order.tolist() for order in orders)
        [[2, 3, 4, 0, 1], [3, 4, 0, 1, 2]]
    """
    bounds = run_bounds(run)
    counts = []
    for name, (start, stop) in bounds.items():
        count = stop - start - 2 * least + 1
        if count < 1:
            raise ValueError(
                f"run {name!r} has {stop - start} times, too few to turn it by {least} or more"
                " either way round; use a smaller minimum_shift, or leave the run out"
            )
        counts.append(count)
    possible = math.prod(counts)
    if possible <= 10 * n_shifts:
        numbers = draw.permutation(possible)[:n_shifts]
        drawn = list(zip(*np.unravel_index(numbers, counts), strict=True))
    else:
        unique: dict[tuple[int, ...], None] = {}
        while len(unique) < n_shifts:
            unique[tuple(draw.integers(counts).tolist())] = None
        drawn = list(unique)
    turns = []
    for shifts in drawn:
        order = np.arange(len(run))
        for (start, stop), shift in zip(bounds.values(), shifts, strict=True):
            order[start:stop] = np.roll(order[start:stop], least + int(shift))
        turns.append(order)
    return turns

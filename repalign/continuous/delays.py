"""Features delayed by whole volumes, run by run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from repalign.continuous_recording import run_bounds

Array = np.ndarray[Any, np.dtype[Any]]


def fir_features(features: Array, *, run: Sequence[str] | Array, delays: Sequence[int]) -> Array:
    """Stack copies of the features delayed by whole volumes: a finite impulse response design.

    Column d · n_features + f at time t is feature f at time t − delays[d] of the same run, and 0
    where that lies outside the run.

    Args:
        features: of shape (time, feature).
        run: of each time; the times of a run stand together.
        delays: in volumes; those below 0 look ahead.

    Returns:
        An array of shape (time, delay × feature), delay by delay.

    Raises:
        ValueError: a delay as long as a run, a delay twice, or other lengths.

    Example:
        >>> fir_features(np.array([[1.0], [2], [3], [4]]), run=["a", "a", "b", "b"], delays=[0, 1])
        array([[1., 0.],
               [2., 1.],
               [3., 0.],
               [4., 3.]])

    Reference:
        Dale 1999, https://doi.org/10.1002/(SICI)1097-0193(1999)8:2/3%3C109::AID-HBM7%3E3.0.CO;2-W;
        with features of natural films: Nishimoto et al. 2011,
        https://doi.org/10.1016/j.cub.2011.08.031
    """
    values = feature_rows(features, len(run), "times")
    shifts = check_delays(delays, run)
    n_features = values.shape[1]
    stacked = np.zeros((len(values), len(shifts) * n_features), dtype=values.dtype)
    for start, stop in run_bounds(run).values():
        for place, delay in enumerate(shifts):
            columns = slice(place * n_features, (place + 1) * n_features)
            first, last = max(start, start + delay), min(stop, stop + delay)
            stacked[first:last, columns] = values[first - delay : last - delay]
    return stacked


def complete_rows(run: Sequence[str] | Array, delays: Sequence[int]) -> Array:
    """Which times have all their delayed features inside their run.

    Example:
        >>> complete_rows(["a", "a", "a", "b", "b"], delays=[0, 1]).tolist()
        [False, True, True, False, True]
    """
    shifts = check_delays(delays, run)
    complete = np.zeros(len(run), dtype=bool)
    for start, stop in run_bounds(run).values():
        complete[start + max(0, *shifts, 0) : stop + min(0, *shifts, 0)] = True
    return complete


def check_delays(delays: Sequence[int], run: Sequence[str] | Array) -> list[int]:
    """Delays as whole numbers, or a ValueError: none, one twice, or as long as a run."""
    shifts = [int(delay) for delay in delays]
    if not shifts or shifts != list(delays) or len(set(shifts)) != len(shifts):
        raise ValueError(
            f"delays is {list(delays)}; expected whole numbers of volumes, each once, such as"
            " range(1, 8)"
        )
    longest = max(map(abs, shifts))
    for name, (start, stop) in run_bounds(run).items():
        if longest >= stop - start:
            raise ValueError(
                f"a delay of {longest} volumes is as long as run {name!r}, which has"
                f" {stop - start}; use shorter delays, or leave the run out"
            )
    return shifts


def feature_rows(features: Array, n: int, of: str) -> Array:
    """Features as floats, or a ValueError: another number of rows, or values not finite."""
    values = np.asarray(features)
    if (
        values.ndim != 2
        or len(values) != n
        or not values.shape[1]
        or values.dtype.kind not in "fiub"
    ):
        raise ValueError(
            f"features has shape {values.shape} of {values.dtype}; expected numbers of shape"
            f" ({n} {of}, feature)"
        )
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise ValueError(f"features has NaN or infinite values (first in row {row}); mend them")
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)

"""What is wrong with responses before a metric sees them, with the names of what is concerned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from repalign.metrics import RSA, Metric
from repalign.metrics.calls import NotFiniteError

MOST_RESPONSE = 1e60  # metrics take fourth powers, and float64 ends at 1e308


def check_responses(
    responses: np.ndarray[Any, Any], ids: Sequence[str], metric: Metric, name: str
) -> None:
    """Raise a ValueError where responses are not finite, out of range, or without a distance.

    Args:
        responses: stimulus × neuroid.
        ids: of the stimuli.
        metric: that will compare them.
        name: of the population.

    Raises:
        NotFiniteError: NaN or infinite values, which some metrics would pass on.
        ValueError: numbers whose fourth powers float64 has not, or patterns without a correlation
            distance where the metric takes it.
    """
    _check_finite(responses, ids, name)
    _check_range(responses, name)
    _check_patterns(responses, ids, metric, name)


def _check_finite(responses: np.ndarray[Any, Any], ids: Sequence[str], name: str) -> None:
    """Name the population, stimuli and neuroids of NaN, which some metrics would pass on."""
    if np.isfinite(responses.sum(dtype=np.float64)):  # many times quicker than at each value
        return
    bad = ~np.isfinite(responses)
    if not bad.any():  # a sum that overflows
        return
    rows, columns = np.flatnonzero(bad.any(axis=1)), np.flatnonzero(bad.any(axis=0))
    raise NotFiniteError(
        f"{name} has {int(bad.sum())} values that are NaN or infinite, in {len(rows)} of"
        f" {len(ids)} stimuli (first {ids[rows[0]]!r}) and {len(columns)} of {bad.shape[1]}"
        f" neuroids (first {columns[0]}, from 0). Leave out these stimuli, or the neuroids"
        " concerned; a missing repetition is NaN in all neuroids."
    )


def _check_range(responses: np.ndarray[Any, Any], name: str) -> None:
    """Refuse numbers whose fourth powers float64 has not: metrics would answer 0, inf or worse."""
    if responses.dtype != np.float64 or not responses.size:  # float32 does not reach so far
        return
    largest = max(abs(float(responses.min())), abs(float(responses.max())))
    if largest > MOST_RESPONSE or 0 < largest < 1 / MOST_RESPONSE:
        raise ValueError(
            f"the largest response of {name} is {largest:.3g}, whose fourth power is out of the"
            " range of float64. Use another unit."
        )


def _check_patterns(
    responses: np.ndarray[Any, Any], ids: Sequence[str], metric: Metric, name: str
) -> None:
    """Say which stimuli have no correlation distance, instead of answering NaN."""
    if not (isinstance(metric, RSA) and metric.rdm == "correlation"):
        return
    constant = np.flatnonzero(responses.max(axis=1) == responses.min(axis=1))
    if constant.size:
        named = ", ".join(repr(ids[i]) for i in constant[:3])
        raise ValueError(
            f"{name}: the responses to {len(constant)} stimuli ({named}) are the same in all"
            f" {responses.shape[1]} neuroids, so their correlation distance is undefined; use"
            " the Euclidean distance (rsa:rdm=euclidean)"
        )

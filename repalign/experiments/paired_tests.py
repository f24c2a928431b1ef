"""Paired tests and intervals for a few independent units, such as seeds: each says its limits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm as standard_normal
from scipy.stats import t as student_t

Floats = NDArray[np.float64]

ALPHA = 0.05
ENUMERATED = 16  # units: 65 536 sign patterns; beyond them patterns are drawn


def sign_flip_p(differences: Sequence[float], *, seed: int = 0) -> float:
    """Return the two-sided sign-flip p of paired differences.

    The share of the 2ⁿ sign patterns whose absolute mean is at least the observed one: exact up to
    16 differences, beyond them from 65 536 random patterns and the observed one. NaN for none.

    Example:
        >>> sign_flip_p([0.1, 0.2, 0.3]), sign_flip_p([0.1, 0.2, -0.3])
        (0.25, 1.0)

    Reference:
        Fisher 1935, The Design of Experiments (no DOI)
    """
    values = np.asarray(differences, dtype=float)
    if not len(values):
        return math.nan
    if len(values) <= ENUMERATED:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(values))))
    else:
        draws = np.random.default_rng(seed).choice((1.0, -1.0), (2**ENUMERATED, len(values)))
        signs = np.vstack([np.ones(len(values)), draws])
    sums = np.abs(signs @ values)
    observed = abs(values.sum()) - 1e-12 * np.abs(values).sum()  # less what rounding may take
    return float(np.mean(sums >= observed))


def smallest_sign_flip_p(n: int) -> float:
    """Return the smallest two-sided sign-flip p that n differences can give, 2/2ⁿ.

    Example:
        >>> [smallest_sign_flip_p(n) for n in (3, 4, 5)]
        [0.25, 0.125, 0.0625]
    """
    if n <= ENUMERATED:
        return min(1.0, math.ldexp(2.0, -n)) if n else math.nan
    return 1.0 / (1.0 + (1 << ENUMERATED))


def holm(p: Sequence[float]) -> list[float]:
    """Return p values after Holm's step-down correction; NaN stays NaN and is not counted.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    Reference:
        Holm 1979, Scandinavian Journal of Statistics 6:65 (no DOI)
    """
    adjusted = np.full(len(p), math.nan)
    order = [i for i in np.argsort(p) if not math.isnan(p[i])]
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = running
    return [float(value) for value in adjusted]


def t_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """Return ``mean ± t · sd/√n``, NaN for fewer than 2 values.

    Example:
        >>> [round(end, 3) for end in t_interval([0.1, 0.2, 0.3])]
        [-0.048, 0.448]
    """
    if len(values) < 2:
        return math.nan, math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(student_t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return float(np.mean(values)) - reach, float(np.mean(values)) + reach


def image_interval(
    differences: Sequence[Floats], *, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval over images of a mean difference, for trained networks as they are.

    For one seed it is the adjusted Wald interval for matched proportions of Agresti and Min, with
    half an image added to each cell of the 2 × 2 table. Over seeds each image counts once, with its
    mean difference.

    Args:
        differences: per seed, per image: correct (1 or 0, or a mean over ε) − correct.
        confidence: coverage.

    Returns:
        Both ends; NaN where seeds were not tested on as many images, or on none.

    Note:
        It says nothing of networks that other seeds would have trained.

    Example:
        >>> [round(end, 3) for end in image_interval([np.zeros(98)])]
        [-0.02, 0.02]

    Reference:
        Agresti & Min 2005, https://doi.org/10.1002/sim.1781
    """
    counts = {len(one) for one in differences}
    if len(counts) != 1 or counts == {0}:
        return math.nan, math.nan
    every = np.mean(differences, axis=0)
    n = len(every) + 2  # half an image in each of four cells, of which two differ by ±1
    mean = float(every.sum()) / n
    spread = (float(np.square(every).sum()) + 1) / n - mean**2
    reach = float(standard_normal.ppf((1 + confidence) / 2)) * math.sqrt(spread / n)
    return mean - reach, mean + reach

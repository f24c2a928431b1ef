"""Confidence intervals over images: of a share, and of the area under a curve."""

import math

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm


def wilson(n_right: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share.

    (p + z²/2n ± z·√(p(1 − p)/n + z²/4n²)) / (1 + z²/n), z the normal quantile of ``confidence``.

    Raises:
        ValueError: counts that cannot be, or a confidence outside (0, 1).

    Example:
        >>> [round(end, 3) for end in wilson(8, 10)]
        [0.49, 0.943]

    Reference: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a share between 0 and 1, as 0.95.")
    if not 0 <= n_right <= n or n < 1:
        raise ValueError(f"{n_right} of {n} is no share; expected 0 to n of 1 or more images.")
    z = float(norm.ppf((1 + confidence) / 2))
    share = n_right / n
    middle = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    scale = 1 + z**2 / n
    low = 0.0 if n_right == 0 else (middle - half) / scale
    high = 1.0 if n_right == n else (middle + half) / scale
    return low, high


def trapezoid_weights(eps: tuple[float, ...]) -> Float[np.ndarray, "eps"]:
    """Return the weight of each point in the trapezoid mean over ``eps``; they sum to one."""
    steps = np.diff(np.asarray(eps, dtype=float))
    weights = np.zeros(len(eps))
    weights[:-1] += steps / 2
    weights[1:] += steps / 2
    weights /= steps.sum()
    return weights


def area_interval(
    correct: Bool[np.ndarray, "eps image"],
    eps: tuple[float, ...],
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the mean accuracy over ``eps`` and its percentile bootstrap interval over images.

    The area is a mean over images of what each of them contributes, and images that contribute
    the same may be exchanged; so a resample is one multinomial draw. NaN where ``eps`` is a
    single value, which spans no range.
    """
    if len(eps) < 2:
        return math.nan, math.nan, math.nan
    per_image = trapezoid_weights(eps) @ correct
    values, counts = np.unique(per_image.round(12), return_counts=True)
    n = len(per_image)
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=n_resamples)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws @ values / n, [tail, 1 - tail])
    return float(per_image.mean()), float(low), float(high)

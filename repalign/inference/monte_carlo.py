"""How far p values move with the seed: the error of finitely many draws and resamples."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

GROUPS = 20  # blocks of resamples that are left out in turn: their error's own error is a sixth
FAR = 2.0  # standard errors between p and alpha, at which a verdict is settled


def error_of_share(p: Float[Tensor, "*test"], n_draws: int) -> Float[Tensor, "*test"]:
    """Return the standard error of a share of independent draws, ``√(p(1 − p)/n)``.

    Example:
        >>> round(error_of_share(torch.tensor(0.05), 200).item(), 4)
        0.0154
    """
    return (p * (1 - p) / n_draws).clamp(min=0).sqrt()


def kept_in_groups(n_resamples: int) -> Bool[Tensor, "group resample"]:
    """Return which resamples are left where each of 20 blocks of them is left out in turn."""
    n_groups = min(GROUPS, n_resamples)
    block = torch.arange(n_resamples) * n_groups // max(1, n_resamples)
    return block != torch.arange(n_groups)[:, None]


def grouped_jackknife(left_out: Float[Tensor, "group *test"]) -> Float[Tensor, "*test"]:
    """Return the standard error of a statistic of resamples, from its values without each block.

    ``√((g − 1)/g Σᵢ (θ₍ᵢ₎ − θ̄)²)`` for g blocks. It is the error of having few resamples, not that
    of having few stimuli or subjects: it takes the resamples as a sample of all there could be,
    however the statistic is made of them.

    Args:
        left_out: the statistic without each block of ``kept_in_groups``.

    Example:
        >>> x = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> left_out = torch.stack([x[kept].mean() for kept in kept_in_groups(2000)])
        >>> 0.7 < float(grouped_jackknife(left_out) * 2000**0.5) < 1.3
        True

    Reference:
        Miller 1974, https://doi.org/10.1093/biomet/61.1.1
    """
    g = len(left_out)
    return ((g - 1) / g * (left_out - left_out.mean(0)).square().sum(0)).sqrt()


def draws_to_settle(p: float, error: float, alpha: float, n: int) -> int:
    """Return how many draws would bring p two standard errors away from alpha, if it stayed.

    The error falls with the root of their number. Rounded up to two digits.

    Example:
        >>> draws_to_settle(0.04, 0.01, 0.05, 300)
        1200
    """
    exact = n * (FAR * error / max(abs(p - alpha), 1e-12)) ** 2
    digit: int = 10 ** max(0, math.floor(math.log10(max(exact, 1))) - 1)
    return math.ceil(exact / digit - 1e-9) * digit

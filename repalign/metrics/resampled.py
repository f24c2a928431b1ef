"""Resamples of stimuli as multiplicities, and the spread of values that are weighted by them."""

import torch
from jaxtyping import Int
from torch import Tensor

BLOCK_ELEMENTS = 1 << 18  # 2 MiB of float64, to stay in cache: a block of resamples per quantity


def draw_multiplicities(
    n: int, *, n_resamples: int, generator: torch.Generator, at_least: int = 3
) -> Int[Tensor, "resample stimulus"]:
    """Return how often each of ``n`` stimuli is drawn, with replacement, in every resample.

    Resamples with fewer than ``at_least`` distinct stimuli are drawn again. A generator on the CPU
    gives the same resamples for every device.
    """
    if n < at_least or n_resamples < 1:
        raise ValueError(
            f"{n_resamples} resamples of {n} stimuli were asked for; expected 1 or more resamples "
            f"of at least {at_least} stimuli."
        )
    counts = torch.zeros(n_resamples, n, dtype=torch.int64)
    todo = torch.arange(n_resamples)
    while len(todo):
        drawn = torch.randint(n, (len(todo), n), generator=generator)
        ones = torch.ones_like(drawn)
        counts[todo] = torch.zeros_like(drawn).scatter_add_(1, drawn, ones)
        todo = todo[(counts[todo] > 0).sum(1) < at_least]
    return counts


def weighted_spread(squares: Tensor, sums: Tensor, weight: Tensor) -> Tensor:
    """Return Σw(v − v̄)², or NaN where only rounding is left: the resample is constant."""
    spread = squares - sums.square() / weight
    rounding = 1e-13 if spread.dtype == torch.float64 else 1e-5
    return spread.masked_fill(spread <= rounding * squares, torch.nan)

"""What a test returns, and p values of a family of tests that share their draws."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Alternative = Literal["greater", "two-sided"]
ROUNDING = 1e-10  # draws this close to the observed value, in units of the largest, equal it


@dataclass(frozen=True)
class Significance:
    """p values of some tests.

    Args:
        p: one a test, never 0.
        smallest_p: the least that the test can return, whatever the effect.
        kind: how it was made, such as ``"sign-flip over subjects, exact, two-sided"``.
        n_draws: number of permutations, sign patterns or resamples; None for a formula.
        p_family: p values corrected by max-T for the family of these tests; None where the test
            has no joint null distribution (use Holm or Benjamini–Hochberg).
        p_error, family_error: Monte Carlo standard errors of ``p`` and ``p_family``: how far they
            move with the seed. 0 where all draws that there are were taken; None where it is not
            known, as of a t test whose variances were given.
    """

    p: Float[Tensor, "*test"]
    smallest_p: float
    kind: str
    n_draws: int | None
    p_family: Float[Tensor, "*test"] | None = None
    p_error: Float[Tensor, "*test"] | None = None
    family_error: Float[Tensor, "*test"] | None = None


def check_alternative(alternative: str) -> None:
    """Raise a ValueError unless the alternative is known."""
    if alternative not in ("greater", "two-sided"):
        raise ValueError(f"alternative is {alternative!r}; expected 'greater' or 'two-sided'.")


def p_of_draws(
    observed: Float[Tensor, "test"],
    null: Float[Tensor, "draw test"],
    *,
    alternative: Alternative,
    exact: bool,
) -> tuple[Float[Tensor, "test"], Float[Tensor, "test"]]:
    """Return each test's p value, and those by max-T over all tests.

    ``p = (1 + number of draws as extreme)/(1 + draws)``; if ``exact``, the draws are all there are,
    the observed one among them, and p is their share.
    """
    check_alternative(alternative)
    if alternative == "two-sided":
        observed, null = observed.abs(), null.abs()
    scale = null.abs().amax(0).maximum(observed.abs())
    slack = ROUNDING * scale.clamp(min=torch.finfo(observed.dtype).tiny)
    extra = 0 if exact else 1
    alone = ((null >= observed - slack).sum(0) + extra).double() / (len(null) + extra)
    largest = null.amax(1, keepdim=True)
    family = ((largest >= observed - slack).sum(0) + extra).double() / (len(null) + extra)
    return alone, family

"""Corrections of p values for many tests: Holm, and Benjamini and Hochberg."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def _checked(p: Float[Tensor, "*test"]) -> Float[Tensor, "test"]:
    flat = torch.as_tensor(p).double().flatten()
    wrong = int((~((flat > 0) & (flat <= 1))).sum())
    if wrong:
        raise ValueError(
            f"{wrong} of {len(flat)} p values are NaN, 0 or outside (0, 1]. A p value of resamples "
            "is (k + 1)/(n + 1); leave out what was not tested."
        )
    return flat


def holm(p: Float[Tensor, "*test"]) -> Float[Tensor, "*test"]:
    """Return p values adjusted for the family-wise error rate, under any dependence.

    ``p̃₍ᵢ₎ = max_{j ≤ i} min(1, (m − j + 1) p₍ⱼ₎)`` for m tests in ascending order.

    Args:
        p: p values of the family, of any shape.

    Returns:
        Adjusted p values: reject where they are at most alpha.

    Raises:
        ValueError: p values that are NaN, 0 or outside (0, 1].

    Example:
        >>> holm(torch.tensor([0.01, 0.04, 0.03], dtype=torch.float64)).tolist()
        [0.03, 0.06, 0.06]

    Reference:
        Holm 1979, https://www.jstor.org/stable/4615733 (no DOI)
    """
    ascending, order = _checked(p).sort()
    weights = torch.arange(len(ascending), 0, -1, dtype=torch.float64)
    adjusted = (weights * ascending).clamp(max=1).cummax(0).values if len(order) else ascending
    return torch.empty_like(adjusted).scatter_(0, order, adjusted).reshape(torch.as_tensor(p).shape)


def benjamini_hochberg(p: Float[Tensor, "*test"]) -> Float[Tensor, "*test"]:
    """Return p values adjusted for the false discovery rate, of tests that are not opposed.

    ``p̃₍ᵢ₎ = min_{j ≥ i} min(1, m p₍ⱼ₎ / j)`` for m tests in ascending order.

    Args:
        p: p values, of any shape; independent, or positively dependent as those of models that
            are tested on the same data.

    Returns:
        Adjusted p values: reject where they are at most the rate that is allowed.

    Raises:
        ValueError: p values that are NaN, 0 or outside (0, 1].

    Example:
        >>> benjamini_hochberg(torch.tensor([0.01, 0.04, 0.03], dtype=torch.float64)).tolist()
        [0.03, 0.04, 0.04]

    Reference:
        Benjamini & Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x
    """
    descending, order = _checked(p).sort(descending=True)
    m = len(order)
    ranks = torch.arange(m, 0, -1, dtype=torch.float64)
    adjusted = (m * descending / ranks).clamp(max=1).cummin(0).values if m else descending
    return torch.empty_like(adjusted).scatter_(0, order, adjusted).reshape(torch.as_tensor(p).shape)


CORRECTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "holm": holm,
    "benjamini-hochberg": benjamini_hochberg,
}

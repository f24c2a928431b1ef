"""Similarities of two representational dissimilarity matrices (RDMs)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.gram import centre, in_working_precision


def check_choice(choice: str, choices: Iterable[str], what: str) -> None:
    """Raise a ValueError that lists the choices unless ``choice`` is one."""
    if choice not in choices:
        raise ValueError(f"{choice!r} is no {what}; choose one of {', '.join(sorted(choices))}.")


def _rounding(x: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch 1"]:
    """Return the difference below which two distances of one RDM are the same number."""
    relative = 1e-12 if x.dtype == torch.float64 else 1e-6
    return relative * x.abs().nan_to_num(nan=0, posinf=0).amax(-1, keepdim=True)


def tie_bounds(
    ascending: Float[Tensor, "*batch value"],
) -> tuple[Int[Tensor, "*batch value"], Int[Tensor, "*batch value"]]:
    """Return the first and the last position of each sorted value's group of ties.

    Neighbours that differ by less than 1e-12 of the largest magnitude are tied: distances that
    are equal in theory (of one-hot patterns, say) differ by rounding, which must not rank them.
    """
    n = ascending.shape[-1]
    position = torch.arange(n, device=ascending.device).expand(ascending.shape)
    differs = ~(ascending.diff(dim=-1) <= _rounding(ascending))  # NaN differs from all
    edge = differs.new_ones(*ascending.shape[:-1], 1)
    first = position.where(torch.cat([edge, differs], -1), 0).cummax(-1).values
    last = position.where(torch.cat([differs, edge], -1), n - 1).flip(-1).cummin(-1).values.flip(-1)
    return first, last


def average_ranks(x: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch value"]:
    """Return ranks from 1 along the last dimension; ties share their mean rank, NaN stays NaN.

    Values within 1e-12 of the largest magnitude count as tied, unlike in scipy's ``rankdata``.

    Example:
        >>> average_ranks(torch.tensor([30.0, 10.0, 30.0, 20.0]))
        tensor([3.5000, 1.0000, 3.5000, 2.0000], dtype=torch.float64)
    """
    ascending, order = in_working_precision(x).sort(-1)
    first, last = tie_bounds(ascending)
    middle = (first + last).to(ascending.dtype) / 2 + 1
    ranks = torch.empty_like(ascending).scatter_(-1, order, middle)
    return ranks.masked_fill(x.isnan(), torch.nan)


def _centred(x: Float[Tensor, "*batch pair"]) -> Float[Tensor, "*batch pair"]:
    flat = x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True) <= _rounding(x)
    return centre(x, -1).masked_fill(flat, 0)


def _centred_ranks(x: Float[Tensor, "*batch pair"]) -> Float[Tensor, "*batch pair"]:
    return centre(average_ranks(x), -1)


def _unchanged(x: Float[Tensor, "*batch pair"]) -> Float[Tensor, "*batch pair"]:
    return x


@dataclass(frozen=True)
class Comparator:
    """Compare RDMs by the cosine of the angle between them, each on the comparator's scale.

    ``compare(a, b) = ⟨s(a), s(b)⟩ / √(⟨s(a), s(a)⟩ · ⟨s(b), s(b)⟩)``, along the last dimension;
    leading dimensions broadcast.

    Args:
        scale: the function s: centred ranks (Spearman), centred values (Pearson), none (cosine).
        differentiable: whether gradients flow through s.
    """

    scale: Callable[[Tensor], Tensor]
    differentiable: bool

    def scaled(self, a: Float[Tensor, "*batch pair"]) -> Float[Tensor, "*batch pair"]:
        """Return s(a), in float64."""
        return self.scale(in_working_precision(a))

    def inner(
        self, a: Float[Tensor, "*batch pair"], b: Float[Tensor, "*batch pair"]
    ) -> Float[Tensor, "*batch"]:
        """Return ⟨s(a), s(b)⟩."""
        return (self.scaled(a) * self.scaled(b)).sum(-1)

    def __call__(
        self, a: Float[Tensor, "*batch pair"], b: Float[Tensor, "*batch pair"]
    ) -> Float[Tensor, "*batch"]:
        """Return the similarity; NaN where an RDM holds NaN, or s(a) is zero (a constant RDM)."""
        if a.shape[-1] != b.shape[-1]:
            raise ValueError(
                f"The RDMs have {a.shape[-1]} and {b.shape[-1]} pairs; both must cover the same "
                "stimuli. Align them on stimulus_id first."
            )
        u, v = self.scaled(a), self.scaled(b)
        lengths = u.square().sum(-1).sqrt() * v.square().sum(-1).sqrt()
        return (u * v).sum(-1) / lengths


COMPARATORS: dict[str, Comparator] = {
    "cosine": Comparator(_unchanged, differentiable=True),
    "pearson": Comparator(_centred, differentiable=True),
    "spearman": Comparator(_centred_ranks, differentiable=False),
}


def comparator_named(name: str) -> Comparator:
    """Return the comparator of that name, or raise a ValueError that lists the choices."""
    check_choice(name, COMPARATORS, "RDM comparator")
    return COMPARATORS[name]

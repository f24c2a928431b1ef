"""Representational dissimilarity matrices (RDMs), and representational similarity analysis."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repalign.metrics.calls import Device, compare_populations
from repalign.metrics.comparators import check_choice, comparator_named
from repalign.metrics.gram import (
    BLOCK_ELEMENTS,
    centred_gram,
    check_responses,
    column_blocks,
    in_working_precision,
)


def _upper_triangle(n: int, device: torch.device) -> Bool[Tensor, "stimulus stimulus"]:
    return torch.ones(n, n, dtype=torch.bool, device=device).triu(1)


def condensed(square: Float[Tensor, "*batch stimulus stimulus"]) -> Float[Tensor, "*batch pair"]:
    """Return the upper triangle of square RDMs, row by row."""
    upper = _upper_triangle(square.shape[-1], square.device)
    return square.masked_select(upper).reshape(*square.shape[:-2], -1)


def stimulus_count(n_pairs: int) -> int:
    """Return n for n(n − 1)/2 pairs, or raise a ValueError where no n fits."""
    n = (1 + isqrt(1 + 8 * n_pairs)) // 2
    if n < 2 or n * (n - 1) // 2 != n_pairs:
        raise ValueError(
            f"An RDM of {n_pairs} pairs fits no number of stimuli; expected n(n-1)/2. "
            "Pass the upper triangle without its diagonal."
        )
    return n


def square_form(rdm: Float[Tensor, "pair"]) -> Float[Tensor, "stimulus stimulus"]:
    """Return a condensed RDM as a symmetric matrix with a zero diagonal."""
    n = stimulus_count(len(rdm))
    upper = rdm.new_zeros(n, n).masked_scatter(_upper_triangle(n, rdm.device), rdm)
    return upper + upper.mT


def _difference_lengths(
    blocks: Iterator[Tensor], i: Int[Tensor, "pair"], j: Int[Tensor, "pair"]
) -> Float[Tensor, "pair"]:
    """Return |row i − row j|² by direct subtraction, a bounded number of pairs at a time."""
    parts = []
    for block in blocks:
        size = max(1, BLOCK_ELEMENTS // block.shape[1])
        pairs = zip(torch.split(i, size), torch.split(j, size), strict=True)
        parts.append(torch.cat([(block[a] - block[b]).square().sum(1) for a, b in pairs]))
    return torch.stack(parts).sum(0)


def _squared_distances(blocks: Callable[[], Iterator[Tensor]]) -> Float[Tensor, "pair"]:
    """Return |row i − row j|² for all pairs i < j from one Gram matrix.

    |a|² + |b|² − 2ab loses digits where two patterns nearly coincide, so those pairs are
    recomputed. In float64 that begins later than in float32, and it must: one outlying pattern
    makes all the others near neighbours.
    """
    gram = centred_gram(blocks())
    sums = gram.diagonal()[:, None] + gram.diagonal()
    squared = sums - 2 * gram
    closeness = 1e-6 if gram.dtype == torch.float64 else 1e-2
    i, j = (squared < closeness * sums).triu(1).nonzero(as_tuple=True)
    if len(i):
        squared = squared.index_put((i, j), _difference_lengths(blocks(), i, j))
    return condensed(squared)


def _euclidean(x: Float[Tensor, "stimulus neuroid"]) -> Float[Tensor, "pair"]:
    return _squared_distances(lambda: column_blocks(x)) / x.shape[1]


def _correlation(x: Float[Tensor, "stimulus neuroid"]) -> Float[Tensor, "pair"]:
    """Return 1 − r as half the squared distance of standardised patterns, exact near r = 1."""
    if x.shape[1] < 2:
        raise ValueError(
            "The correlation distance needs 2 or more neuroids; x has 1. Use method='euclidean'."
        )
    first = in_working_precision(x[:, :1])  # shifting by it makes constant patterns exactly zero
    sums = [(block - first).sum(1, keepdim=True) for block in column_blocks(x)]
    mean = first + torch.stack(sums).sum(0) / x.shape[1]

    def centred() -> Iterator[Tensor]:
        return (block - mean for block in column_blocks(x))

    variation = torch.stack([block.square().sum(1, keepdim=True) for block in centred()]).sum(0)
    constant = variation == 0
    length = variation.masked_fill(constant, 1).sqrt()
    distances = _squared_distances(lambda: (block / length for block in centred())) / 2
    return distances.masked_fill(condensed(constant | constant.mT), torch.nan)


RDM_METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "correlation": _correlation,
    "euclidean": _euclidean,
}


def rdm(
    x: Float[Tensor, "stimulus neuroid"], *, method: str = "correlation"
) -> Float[Tensor, "pair"]:
    """Return the dissimilarities of all pairs of stimuli.

    ``correlation`` is 1 − r, with r the Pearson correlation of two patterns over neuroids;
    ``euclidean`` is |xᵢ − xⱼ|² / p, the *squared* Euclidean distance over the number of neuroids.

    Args:
        x: responses, stimulus × neuroid, in any unit; computed in float64.
        method: a name in ``RDM_METHODS``.

    Returns:
        The upper triangle row by row (scipy's ``pdist`` order), n(n − 1)/2 float64 values. Under
        ``correlation`` the pairs of a pattern that is constant over neuroids are NaN: its
        correlation is undefined. A NaN in ``x`` makes the whole RDM NaN.

    Raises:
        ValueError: unknown method, wrong shape, or one neuroid under ``correlation``.

    Example:
        >>> rdm(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]]), method="euclidean")
        tensor([12.5000,  2.0000,  6.5000], dtype=torch.float64)

    Reference:
        Kriegeskorte, Mur & Bandettini 2008, https://doi.org/10.3389/neuro.06.004.2008
    """
    check_choice(method, RDM_METHODS, "RDM method")
    check_responses(x)
    return RDM_METHODS[method](x)


@dataclass(frozen=True)
class RSA:
    """Representational similarity analysis: the similarity of two RDMs of the same stimuli.

    ``rsa(x, y) = compare(rdm(x), rdm(y))``, with compare Spearman's or Pearson's correlation or
    the cosine of the upper triangles.

    Args:
        rdm: the dissimilarity of two patterns, a name in ``RDM_METHODS``.
        comparator: the similarity of two RDMs, a name in ``COMPARATORS``. Gradients flow through
            ``pearson`` and ``cosine``; ranks have none.

    Raises:
        ValueError: unknown name, wrong shape, or different numbers of stimuli.

    Note:
        The value is NaN where an RDM is constant (2 stimuli, or equidistant patterns) or holds
        NaN (a pattern constant over neuroids, under the correlation distance). Unlike in scipy,
        distances within 1e-12 of the largest are tied: equal distances differ by rounding.

    Example:
        >>> x = torch.randn(10, 30, generator=torch.Generator().manual_seed(0))
        >>> round(RSA(rdm="euclidean")(x, 3 * x + 1).item(), 6)
        1.0

    Reference:
        Kriegeskorte, Mur & Bandettini 2008, https://doi.org/10.3389/neuro.06.004.2008
    """

    rdm: str = "correlation"
    comparator: str = "spearman"

    name: ClassVar[str] = "rsa"
    formula: ClassVar[str] = "compare(rdm(x), rdm(y))"
    minimum_stimuli: ClassVar[int] = 3
    needs_repeats: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    symmetric: ClassVar[bool] = True
    needs_responses: ClassVar[bool] = False
    higher_is_more_similar: ClassVar[bool] = True
    reference: ClassVar[str] = (
        "Kriegeskorte, Mur & Bandettini 2008, https://doi.org/10.3389/neuro.06.004.2008"
    )

    def __post_init__(self) -> None:
        """Check the names."""
        check_choice(self.rdm, RDM_METHODS, "RDM method")
        comparator_named(self.comparator)

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow: not through ranks."""
        return comparator_named(self.comparator).differentiable

    @property
    def invariances(self) -> tuple[str, ...]:
        """What may be done to a population's responses without changing the value."""
        known = {
            "correlation": ("pattern offset", "pattern scale", "isotropic scale", "neuroid order"),
            "euclidean": ("rotation", "translation", "isotropic scale", "neuroid order"),
        }
        return known.get(self.rdm, ())

    def __call__(
        self,
        x: Float[Tensor, "*batch stimulus neuroid"],
        y: Float[Tensor, "*batch stimulus unit"],
        *,
        batch_dims: int = 0,
        device: Device = None,
    ) -> Float[Tensor, "*batch"]:
        """Return the similarity of the RDMs of ``x`` and ``y``, whose rows are the same stimuli."""
        return compare_populations(
            self._value, x, y, needs=self, batch_dims=batch_dims, device=device
        )

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        return self.compare_prepared(self.prepare(x), self.prepare(y))

    def prepare(self, x: Float[Tensor, "stimulus neuroid"]) -> Float[Tensor, "pair"]:
        """Return the RDM of ``x``: what a loop over comparisons computes once."""
        return rdm(x, method=self.rdm)

    def inner(self, a: Float[Tensor, "pair"], b: Float[Tensor, "pair"]) -> Float[Tensor, ""]:
        """Return the inner product of two RDMs on the comparator's scale."""
        return comparator_named(self.comparator).inner(a, b)

    def compare_rdms(self, a: Float[Tensor, "pair"], b: Float[Tensor, "pair"]) -> Float[Tensor, ""]:
        """Return the similarity of two RDMs, whichever way they were measured."""
        return comparator_named(self.comparator)(a, b)

    def compare_prepared(
        self, a: Float[Tensor, "pair"], b: Float[Tensor, "pair"]
    ) -> Float[Tensor, ""]:
        """Return the similarity of two prepared populations: ``compare_rdms``."""
        return self.compare_rdms(a, b)

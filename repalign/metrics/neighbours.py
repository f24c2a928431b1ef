"""Agreement of nearest neighbours: whose are they, and how near."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.calls import ComparesPopulations
from repalign.metrics.comparators import check_choice
from repalign.metrics.gram import centre, in_working_precision
from repalign.metrics.pairs import square_form
from repalign.metrics.ranks import rounding
from repalign.metrics.rdms import rdm

DISTANCES: dict[str, tuple[str, ...]] = {
    "correlation": ("pattern offset", "pattern scale", "isotropic scale", "neuroid order"),
    "cosine": ("rotation", "pattern scale", "isotropic scale", "neuroid order"),
    "euclidean": ("rotation", "translation", "isotropic scale", "neuroid order"),
}
"""What nearest may mean, names of ``rdm``'s methods, and what then leaves the neighbours alike."""


def _directions(x: Float[Tensor, "stimulus neuroid"]) -> Float[Tensor, "stimulus neuroid"]:
    x = in_working_precision(x)
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / length


def _distances(x: Float[Tensor, "stimulus neuroid"], method: str) -> Float[Tensor, "pair"]:
    """Return distances without gradient, in which patterns that point one way are exactly 0."""
    found = rdm(x.detach(), method=method)
    least = 0 if method == "euclidean" else 8 * torch.finfo(found.dtype).eps ** 2
    return found.masked_fill(found < least, 0)


def neighbour_weights(
    distances: Float[Tensor, "pair"], k: int
) -> Float[Tensor, "stimulus stimulus"]:
    """Return 1 for the ``k`` nearest of each row's stimulus and 0 for the others.

    Those tied for the last places share them, so that each row sums to k and no order of the
    stimuli matters. All NaN where all distances are 0.
    """
    square = square_form(distances)
    slack = rounding(distances)
    hollow = square.clone().fill_diagonal_(torch.inf)
    last = hollow.kthvalue(k, dim=1, keepdim=True).values
    nearer = (hollow < last - slack).to(square.dtype)
    tied = ((hollow - last).abs() <= slack).to(square.dtype)
    weights = nearer + tied * (k - nearer.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)
    return weights if bool(slack > 0) else torch.full_like(weights, torch.nan)


def _check_k(k: int) -> None:
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k is {k}; expected 1 or more neighbours. Use 10.")


@dataclass(frozen=True)
class MutualKNN(ComparesPopulations):
    """Mutual k nearest neighbours: the share of neighbours that two populations have in common.

    ``mutual_knn(x, y) = mean over stimuli i of |Nₓ(i) ∩ N_y(i)| / k``, with N(i) the k stimuli
    whose patterns are nearest to that of i.

    Args:
        k: number of neighbours, at most the number of stimuli less 2.
        distance: what nearest means: ``cosine``, as published, ``correlation`` or ``euclidean``.

    Raises:
        ValueError: k below 1, another distance, fewer than k + 2 stimuli, or wrong shapes.

    Note:
        Unrelated populations share k/(n − 1) of their neighbours. Neighbours tied for the last
        places share them, and the overlap is that expected of ties broken at random: a population
        without neighbourhoods (equidistant patterns) scores k/(n − 1) with any, itself included.

        NaN where all distances are 0, such as cosines of patterns that all point one way, or one is
        undefined: the cosine of a pattern that is 0 throughout, the correlation of a constant one.
        Cosines count from zero, so that a translation matters.

        Costs O(n²p).

    Example:
        >>> x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
        >>> round(MutualKNN(k=3)(x, 2 * x.flip(1)).item(), 6)
        1.0

    Reference:
        Huh, Cheung, Wang & Isola 2024, https://doi.org/10.48550/arXiv.2405.07987
    """

    k: int = 10
    distance: str = "cosine"

    name: ClassVar[str] = "mutual-knn"
    formula: ClassVar[str] = "mean over stimuli of |Nₓ(i) ∩ N_y(i)| / k, N(i) the k nearest to i"
    needs_repeats: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    symmetric: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    needs_responses: ClassVar[bool] = True
    higher_is_more_similar: ClassVar[bool] = True
    reference: ClassVar[str] = "Huh et al. 2024, https://doi.org/10.48550/arXiv.2405.07987"

    def __post_init__(self) -> None:
        """Check the parameters."""
        _check_k(self.k)
        check_choice(self.distance, DISTANCES, "distance of nearest neighbours")

    @property
    def minimum_stimuli(self) -> int:
        """Fewest stimuli: with one less, all others are neighbours."""
        return self.k + 2

    @property
    def invariances(self) -> tuple[str, ...]:
        """What may be done to a population's responses without changing the value."""
        return DISTANCES[self.distance]

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        in_x, in_y = (neighbour_weights(_distances(z, self.distance), self.k) for z in (x, y))
        return (in_x * in_y).sum(1).mean() / self.k


def _local_alignment(shared: Tensor, a: Tensor, b: Tensor) -> Float[Tensor, ""]:
    return (shared * a * b).sum()


def _local_hsic(shared: Tensor, a: Tensor, b: Tensor) -> Float[Tensor, ""]:
    """Return n(n − 3) times Song et al.'s unbiased HSIC, as written for symmetric matrices."""
    n, a, b = len(a), shared * a, shared * b
    products = (a * b.mT).sum() - 2 * (a.sum(0) * b.sum(1)).sum() / (n - 2)
    return products + a.sum() * b.sum() / ((n - 1) * (n - 2))


@dataclass(frozen=True)
class CKNNA(ComparesPopulations):
    """Centred kernel nearest-neighbour alignment: CKA within shared neighbourhoods.

    ``cknna(x, y) = A(x, y) / √(A(x, x) · A(y, y)), A(x, y) = Σᵢⱼ k̄ᵢⱼ l̄ᵢⱼ`` over the pairs in which
    j is among the k nearest of i in both; k̄ᵢⱼ = ⟨uᵢ, uⱼ⟩ − meanₗ ⟨uᵢ, uₗ⟩, with u the patterns at
    length 1.

    Args:
        k: number of neighbours (by the cosine), at most the number of stimuli less 2.
        as_released: compute what the authors' code computes, behind their figures: A is Song et
            al.'s unbiased HSIC of the products ⟨uᵢ, uⱼ⟩ where j is a neighbour, 0 elsewhere.

    Raises:
        ValueError: k below 1, fewer than k + 2 stimuli, or wrong shapes.

    Note:
        The default is the paper's equations 16 to 18. The released form differs from it: neighbours
        are not mutual, so that its matrices are asymmetric and exchanging x and y changes it; it is
        not bounded, and NaN where one A(x, x) is negative. The 1e-6 that the code adds to
        the denominator is left out.

        Ties, and what else is NaN, are as in ``MutualKNN``. Gradients hold the neighbours fixed.
        Unrelated populations score about k/(n − 1): .05 for independent Gaussians at 200 stimuli,
        .15 to .19 at 50; where k is half of n it is anything (.05 to .31 at 20 stimuli).

        Costs O(n²p).

    Example:
        >>> x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
        >>> round(CKNNA(k=3)(x, 2 * x.flip(1)).item(), 6)
        1.0

    Reference:
        Huh, Cheung, Wang & Isola 2024, https://doi.org/10.48550/arXiv.2405.07987
    """

    k: int = 10
    as_released: bool = False

    name: ClassVar[str] = "cknna"
    formula: ClassVar[str] = "A(x, y) / √(A(x, x) · A(y, y)), A = Σ k̄ᵢⱼ l̄ᵢⱼ over shared neighbours"
    needs_repeats: ClassVar[bool] = False
    invariances: ClassVar[tuple[str, ...]] = DISTANCES["cosine"]
    differentiable: ClassVar[bool] = True
    needs_responses: ClassVar[bool] = True
    higher_is_more_similar: ClassVar[bool] = True
    reference: ClassVar[str] = "Huh et al. 2024, https://doi.org/10.48550/arXiv.2405.07987"

    def __post_init__(self) -> None:
        """Check k."""
        _check_k(self.k)

    @property
    def minimum_stimuli(self) -> int:
        """Fewest stimuli: with one less, all others are neighbours; unbiased HSIC needs 4."""
        return max(4, self.k + 2)

    @property
    def range(self) -> tuple[float, float]:
        """From −1 to 1; the released form has no bounds."""
        return (-torch.inf, torch.inf) if self.as_released else (-1.0, 1.0)

    @property
    def symmetric(self) -> bool:
        """Whether x and y may be exchanged."""
        return not self.as_released

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        (in_x, near_x), (in_y, near_y) = self._neighbourhoods(x), self._neighbourhoods(y)
        align = _local_hsic if self.as_released else _local_alignment
        lengths = align(in_x * in_x, near_x, near_x) * align(in_y * in_y, near_y, near_y)
        return align(in_x * in_y, near_x, near_y) / lengths.sqrt()

    def _neighbourhoods(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = neighbour_weights(_distances(x, "cosine"), self.k)
        u = _directions(x)
        return weights, u @ (u if self.as_released else centre(u, 0)).mT

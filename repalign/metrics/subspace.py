"""Canonical correlations: how far two populations span the same patterns over stimuli."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.calls import ComparesPopulations
from repalign.metrics.gram import centre, in_working_precision
from repalign.metrics.matching import standardised
from repalign.metrics.shape import compact, numerical_rank


def _whitener(a: Float[Tensor, "stimulus column"]) -> Float[Tensor, "column axis"]:
    """Return W such that the columns of ``a W`` are an orthonormal basis of those of ``a``."""
    _, singular, axes = torch.linalg.svd(a.detach(), full_matrices=False)
    rank = numerical_rank(singular, largest_side=max(a.shape))
    whitener: Tensor = axes[:rank].mT / singular[:rank]
    return whitener


def _is_identified(n_stimuli: int, *ranks: int) -> bool:
    """Whether all populations vary, and none spans all patterns, which correlates 1 with any."""
    return all(0 < rank < n_stimuli - 1 for rank in ranks)


def canonical_variates(
    x: Float[Tensor, "stimulus neuroid"], y: Float[Tensor, "stimulus unit"]
) -> tuple[Float[Tensor, "stimulus axis"], Float[Tensor, "stimulus axis"]]:
    """Return the pairs of weighted sums of neuroids that correlate most, at length 1.

    As many as the smaller rank, in descending order, each uncorrelated with those before; none
    (zero columns) where they are not identified. A correlation is stationary in its weights, so
    that they carry no gradient.
    """
    a, b = compact(standardised(x)), compact(standardised(y))  # no unit hides a neuroid
    to_a, to_b = _whitener(a), _whitener(b)
    if not _is_identified(len(a), to_a.shape[1], to_b.shape[1]):
        return a[:, :0], b[:, :0]
    u, _, v = torch.linalg.svd((a.detach() @ to_a).mT @ (b.detach() @ to_b), full_matrices=False)
    p, q = a @ (to_a @ u), b @ (to_b @ v.mT)
    return (
        p / torch.linalg.vector_norm(p, dim=0),
        q / torch.linalg.vector_norm(q, dim=0),
    )


@dataclass(frozen=True)
class CCA(ComparesPopulations):
    """Canonical correlation analysis: the mean correlation of two populations' canonical variates.

    ``cca(x, y) = mean ρᵢ`` (or ρᵢ²), where ρᵢ are the singular values of QᵀR, the cosines of the
    angles between the spaces that the centred neuroids span (Q, R: orthonormal bases), as many as
    the smaller rank.

    Args:
        squared: average ρᵢ² (Kornblith et al.'s R²_CCA) rather than ρᵢ.

    Raises:
        ValueError: fewer than 3 stimuli, or wrong shapes.

    Note:
        NaN where a population spans all patterns (as many neuroids as stimuli less one, in general
        position): every correlation is then 1, whatever the other population. NaN too where all
        patterns are the same. Short of that, the mean ρ² of unrelated Gaussian populations is
        max(p, q)/(n − 1), which is .04, .20 and .82 for 50 stimuli and 2, 10 and 40 neuroids (mean
        ρ: .17, .38 and .86). Use many more stimuli than neuroids.

        Costs O(np·min(n, p)).

    Example:
        >>> x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
        >>> mixing = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
        >>> round(CCA()(x, x @ mixing).item(), 6)
        1.0

    Reference:
        Hotelling 1936, https://doi.org/10.1093/biomet/28.3-4.321; R²_CCA: Kornblith et al. 2019,
        https://doi.org/10.48550/arXiv.1905.00414
    """

    squared: bool = False

    name: ClassVar[str] = "cca"
    minimum_stimuli: ClassVar[int] = 3
    needs_repeats: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    invariances: ClassVar[tuple[str, ...]] = (
        "rotation",
        "translation",
        "isotropic scale",
        "neuroid order",
        "neuroid scale",
        "neuroid sign",
        "invertible linear",
    )
    symmetric: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    needs_responses: ClassVar[bool] = True
    higher_is_more_similar: ClassVar[bool] = True
    reference: ClassVar[str] = "Hotelling 1936, https://doi.org/10.1093/biomet/28.3-4.321"

    @property
    def formula(self) -> str:
        """The definition in one line."""
        return f"mean {'ρᵢ²' if self.squared else 'ρᵢ'}, ρ the canonical correlations"

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        p, q = canonical_variates(x, y)
        correlations = (p * q).sum(0)
        return (correlations.square() if self.squared else correlations).mean()  # of none: NaN


def _leading_axes(
    x: Float[Tensor, "stimulus neuroid"], variance: float
) -> Float[Tensor, "stimulus axis"]:
    """Return the fewest principal components, at length 1, that hold a share of the variance."""
    components, singular, _ = torch.linalg.svd(compact(x.detach()), full_matrices=False)
    rank = numerical_rank(singular, largest_side=max(x.shape))
    held = singular.square().cumsum(0)
    leading: Tensor = components[:, : min(rank, 1 + int((held < variance * held[-1]).sum()))]
    return leading


@dataclass(frozen=True)
class SVCCA(ComparesPopulations):
    """Singular vector CCA: the mean canonical correlation of the leading principal components.

    ``svcca(x, y) = mean ρᵢ``, with ρᵢ the canonical correlations of the fewest principal components
    of each population that hold ``variance`` of its variance.

    Args:
        variance: the share of the variance to keep, above 0 and at most 1.

    Raises:
        ValueError: a share that is none, fewer than 3 stimuli, or wrong shapes.

    Note:
        NaN where the kept components of a population span all patterns, as in ``CCA``, or its
        patterns are all the same. Noise has many components, so that unrelated populations score
        high: .38, .84 and .95 for independent Gaussians at 50 stimuli and 10, 50 and 100 neuroids,
        and with variance=.5 still .23, .39 and .45. No gradient, for the number of components
        jumps.

        Costs O(np·min(n, p)).

    Example:
        >>> x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
        >>> round(SVCCA()(x, 3 * x.flip(1) + 2).item(), 6)
        1.0

    Reference:
        Raghu et al. 2017, https://doi.org/10.48550/arXiv.1706.05806
    """

    variance: float = 0.99

    name: ClassVar[str] = "svcca"
    formula: ClassVar[str] = "mean ρᵢ, ρ the canonical correlations of leading components"
    minimum_stimuli: ClassVar[int] = 3
    needs_repeats: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    invariances: ClassVar[tuple[str, ...]] = (
        "rotation",
        "translation",
        "isotropic scale",
        "neuroid order",
    )
    symmetric: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    needs_responses: ClassVar[bool] = True
    higher_is_more_similar: ClassVar[bool] = True
    reference: ClassVar[str] = "Raghu et al. 2017, https://doi.org/10.48550/arXiv.1706.05806"

    def __post_init__(self) -> None:
        """Check the share."""
        if not 0 < self.variance <= 1:
            raise ValueError(
                f"variance is {self.variance}; expected a share above 0 and at most 1. Use 0.99."
            )

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = _leading_axes(x, self.variance), _leading_axes(y, self.variance)
        if not _is_identified(len(a), a.shape[1], b.shape[1]):
            return a.new_full((), torch.nan)
        cosines: Tensor = torch.linalg.svdvals(a.mT @ b)
        return cosines.mean()


@dataclass(frozen=True)
class PWCCA(ComparesPopulations):
    """Projection-weighted CCA: canonical correlations weighted by what they account for in ``x``.

    ``pwcca(x, y) = Σ αᵢ ρᵢ / Σ αᵢ, αᵢ = Σⱼ |⟨hᵢ, xⱼ⟩|``, with hᵢ the canonical variates of x at
    length 1 and xⱼ its centred neuroids.

    Raises:
        ValueError: fewer than 3 stimuli, or wrong shapes.

    Note:
        Not symmetric: ``x`` weighs. In ``y``, any invertible linear map leaves the value as it is;
        the invariances are those that hold for both. It is a similarity; the paper's distance is
        1 less it. NaN as in ``CCA``. Unrelated Gaussian populations score .38, .56 and .86 at 50
        stimuli and 10, 20 and 40 neuroids. No gradient: the weights jump where correlations cross.

        Costs O(np·min(n, p)).

    Example:
        >>> x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
        >>> round(PWCCA()(x, x @ torch.diag(torch.arange(1.0, 6.0))).item(), 6)
        1.0

    Reference:
        Morcos, Raghu & Bengio 2018, https://doi.org/10.48550/arXiv.1806.05759
    """

    name: ClassVar[str] = "pwcca"
    formula: ClassVar[str] = "Σ αᵢ ρᵢ / Σ αᵢ, αᵢ = Σⱼ |⟨hᵢ, xⱼ⟩|, h the canonical variates of x"
    minimum_stimuli: ClassVar[int] = 3
    needs_repeats: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    invariances: ClassVar[tuple[str, ...]] = (
        "translation",
        "isotropic scale",
        "neuroid order",
        "neuroid sign",
    )
    symmetric: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    needs_responses: ClassVar[bool] = True
    higher_is_more_similar: ClassVar[bool] = True
    reference: ClassVar[str] = "Morcos et al. 2018, https://doi.org/10.48550/arXiv.1806.05759"

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = x.detach(), y.detach()
        p, q = canonical_variates(x, y)
        weights = (p.mT @ centre(in_working_precision(x), 0)).abs().sum(1)
        return (weights * (p * q).sum(0)).sum() / weights.sum()  # of none: NaN

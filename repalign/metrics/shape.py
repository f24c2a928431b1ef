"""Shape distances: what is left of two populations' difference after the best rotation."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.calls import ComparesPopulations
from repalign.metrics.comparators import check_choice
from repalign.metrics.gram import centre, in_working_precision


def compact(x: Float[Tensor, "stimulus neuroid"]) -> Float[Tensor, "stimulus column"]:
    """Return the centred ``x`` in float64, rotated into no more columns than stimuli.

    All inner products of patterns are kept. The rotation carries no gradient: what depends on
    inner products only has the same first derivative with it as without.
    """
    centred = centre(in_working_precision(x), 0)
    if centred.shape[1] <= centred.shape[0]:
        return centred
    factors = torch.linalg.qr(centred.detach().mT, mode="reduced" if centred.requires_grad else "r")
    narrow: Tensor = centred @ factors.Q if centred.requires_grad else factors.R.mT
    return narrow


def numerical_rank(singular_values: Float[Tensor, "axis"], *, largest_side: int) -> int:
    """Return how many descending singular values stand above rounding."""
    rounding = largest_side * torch.finfo(singular_values.dtype).eps * singular_values[0]
    return int((singular_values > rounding).sum())


def _partly_whitened(
    a: Float[Tensor, "stimulus column"], alpha: float
) -> Float[Tensor, "stimulus axis"]:
    """Return α Z + (1 − α) Z(ZᵀZ)^(−1/2), where Z is ``a`` in its principal axes, σ of rms 1."""
    _, lengths, axes = torch.linalg.svd(a.detach(), full_matrices=False)
    rank = numerical_rank(lengths, largest_side=max(a.shape))
    z, s = a @ axes[:rank].mT, lengths[:rank]
    # (ZᵀZ)^(−1/2) is diag(1/s), but its derivative is not diagonal. ``change`` is zero and has the
    # derivative of ZᵀZ; unlike through an SVD, nothing is divided by differences of s.
    covariance = z.mT @ z
    change = covariance - covariance.detach()
    inverse_root = (1 / s).diag() - change / (s[:, None] * s * (s[:, None] + s))
    scale = torch.linalg.vector_norm(z) / sqrt(rank)
    mixture: Tensor = alpha * z / scale + (1 - alpha) * z @ inverse_root
    return mixture


def _shape(x: Float[Tensor, "stimulus neuroid"], alpha: float) -> Float[Tensor, "stimulus column"]:
    """Return the centred, partly whitened ``x`` at unit norm; NaN if its patterns are the same."""
    a = compact(x)
    if not bool(a.any()):
        return torch.full_like(a, torch.nan)
    if alpha < 1:
        a = _partly_whitened(a, alpha)
    length: Tensor = torch.linalg.vector_norm(a)
    return a / length


def _difference(x: Tensor, y: Tensor, *, alpha: float = 1.0) -> Float[Tensor, "stimulus column"]:
    """Return Y − XQ for the best rotation Q, columns of zeros padding the narrower.

    Its norm is √(2 − 2‖XᵀY‖_*) without the cancellation. Q is optimal, so that moving it changes
    nothing to first order: it carries no gradient, and there is no SVD to differentiate.
    """
    a, b = sorted((_shape(x, alpha), _shape(y, alpha)), key=lambda shape: shape.shape[1])
    product = (a.mT @ b).detach()
    if bool(product.isnan().any()):
        return torch.full_like(b, torch.nan)
    u, _, v = torch.linalg.svd(product, full_matrices=False)
    rotation: Tensor = u @ v
    return b - a @ rotation


@dataclass(frozen=True)
class _Kind:
    """What is made of the difference that is left, and what that can be."""

    value: Callable[[Tensor], Tensor]
    formula: str
    greatest: float
    is_similarity: bool = False


KINDS = {
    "distance": _Kind(torch.linalg.vector_norm, "√(2 − 2‖XᵀY‖_*)", sqrt(2)),
    "squared distance": _Kind(lambda left: left.square().sum(), "2 − 2‖XᵀY‖_*", 2.0),
    "similarity": _Kind(
        lambda left: 1 - left.square().sum() / 2, "‖XᵀY‖_*", 1.0, is_similarity=True
    ),
}


@dataclass(frozen=True)
class Procrustes(ComparesPopulations):
    """Orthogonal Procrustes: how far apart two populations stay after the best rotation.

    ``distance = min over rotations Q of ‖XQ − Y‖ = √(2 − 2‖XᵀY‖_*)``, with X and Y centred and of
    Frobenius norm 1, and ‖·‖_* the sum of singular values. Rotations include reflections, and the
    smaller population is padded with silent neuroids.

    Args:
        kind: ``distance``, which obeys the triangle inequality; ``squared distance``, that of Ding
            et al. 2021; or ``similarity``, ‖XᵀY‖_*.

    Raises:
        ValueError: another kind, fewer than 3 stimuli, or wrong shapes.

    Note:
        NaN where all patterns of a population are the same. Unrelated populations draw near as
        neuroids outnumber stimuli: for independent Gaussians and 50 stimuli the mean distance is
        1.12, 0.70, 0.22 and 0.07 at 10, 50, 500 and 5000 neuroids, and the similarity .37, .75,
        .97 and 1.00. Compare only at equal numbers of stimuli and neuroids.

        Costs O(npm + m³), m = min(n, p), and float64 copies of the responses.

    Example:
        >>> x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)).double()
        >>> Procrustes()(x, 2 * x.flip(1) + 1).item() < 1e-12
        True

    Reference:
        Schönemann 1966, https://doi.org/10.1007/BF02289451; Ding, Denain & Steinhardt 2021,
        https://doi.org/10.48550/arXiv.2108.01661
    """

    kind: str = "distance"

    name: ClassVar[str] = "procrustes"
    minimum_stimuli: ClassVar[int] = 3
    needs_repeats: ClassVar[bool] = False
    invariances: ClassVar[tuple[str, ...]] = (
        "rotation",
        "translation",
        "isotropic scale",
        "neuroid order",
    )
    symmetric: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    needs_responses: ClassVar[bool] = True
    reference: ClassVar[str] = "Schönemann 1966, https://doi.org/10.1007/BF02289451"

    def __post_init__(self) -> None:
        """Check the kind."""
        check_choice(self.kind, KINDS, "kind of Procrustes comparison")

    @property
    def formula(self) -> str:
        """The definition in one line."""
        return f"{KINDS[self.kind].formula}, X and Y centred and of unit norm"

    @property
    def range(self) -> tuple[float, float]:
        """From 0 to √2, 2 or 1."""
        return (0.0, KINDS[self.kind].greatest)

    @property
    def higher_is_more_similar(self) -> bool:
        """Whether it is a similarity rather than a distance."""
        return KINDS[self.kind].is_similarity

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        return KINDS[self.kind].value(_difference(x, y))


@dataclass(frozen=True)
class AngularShape(ComparesPopulations):
    """Angular shape distance: the angle between two populations after the best rotation.

    ``angle = arccos ‖XᵀY‖_*``, with X and Y centred, partly whitened and of Frobenius norm 1. It
    obeys the triangle inequality.

    Args:
        alpha: 1 allows rotations only, 0 any invertible linear map (X is whitened, and the angle is
            that of CCA), between them X is α X + (1 − α) X(XᵀX)^(−1/2).

    Raises:
        ValueError: alpha outside 0 to 1, fewer than 3 stimuli, or wrong shapes.

    Note:
        In radians; NaN where all patterns of a population are the same. Between 0 and 1 the paper's
        mixture depends on the unit of the responses: α weighs volts otherwise than millivolts.
        Here X first has singular values of root mean square 1, so that α means the same at any
        scale; on such responses the values are the paper's.

        Unrelated populations draw near as neuroids outnumber stimuli: for independent Gaussians
        and 50 stimuli the mean angle is 1.19, 0.72, 0.22 and 0.07 at 10, 50, 500 and 5000 neuroids
        (alpha=1). With alpha=0 it is 0 for any two populations that both span all patterns.

        Costs O(npm + m³), m = min(n, p), and float64 copies of the responses.

    Example:
        >>> x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)).double()
        >>> AngularShape()(x, 2 * x.flip(1) + 1).item() < 1e-12
        True

    Reference:
        Williams, Kunz, Kornblith & Linderman 2021, https://doi.org/10.48550/arXiv.2110.14739
    """

    alpha: float = 1.0

    name: ClassVar[str] = "angular-shape"
    formula: ClassVar[str] = "arccos ‖XᵀY‖_*, X and Y centred, partly whitened and of unit norm"
    minimum_stimuli: ClassVar[int] = 3
    needs_repeats: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, pi / 2)
    symmetric: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    needs_responses: ClassVar[bool] = True
    higher_is_more_similar: ClassVar[bool] = False
    reference: ClassVar[str] = "Williams et al. 2021, https://doi.org/10.48550/arXiv.2110.14739"

    def __post_init__(self) -> None:
        """Check alpha."""
        if not 0 <= self.alpha <= 1:
            raise ValueError(
                f"alpha is {self.alpha}; expected 0 (any invertible linear map) to 1 (rotations)."
            )

    @property
    def invariances(self) -> tuple[str, ...]:
        """What may be done to a population's responses without changing the value."""
        rotations = ("rotation", "translation", "isotropic scale", "neuroid order")
        any_map = ("neuroid scale", "neuroid sign", "invertible linear")
        return rotations if self.alpha > 0 else rotations + any_map

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        left: Tensor = torch.linalg.vector_norm(_difference(x, y, alpha=self.alpha))
        return 2 * (left / 2).asin()  # arccos(1 − left²/2), which would lose the small angles

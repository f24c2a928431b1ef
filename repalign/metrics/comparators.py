"""Similarities of two representational dissimilarity matrices (RDMs)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.bures import nuclear_product, root_of_rdm, squared_norm
from repalign.metrics.calls import Array, Device, as_tensor
from repalign.metrics.gram import centre, in_working_precision
from repalign.metrics.pairs import as_condensed, check_complete, check_same_pairs, shared_pairs
from repalign.metrics.ranks import (
    all_pairs,
    average_ranks,
    centred_ranks,
    concordance,
    rounding,
    tie_bounds,
    untied_length,
    untied_pairs,
)
from repalign.metrics.whitened import whiten

__all__ = [
    "COMPARATORS",
    "Comparator",
    "average_ranks",
    "check_choice",
    "comparator_named",
    "compare_rdms",
    "tie_bounds",
]

Rdm = Float[Tensor, "*batch pair"]
Value = Float[Tensor, "*batch"]


def check_choice(choice: str, choices: Iterable[str], what: str) -> None:
    """Raise a ValueError that lists the choices unless ``choice`` is one."""
    if choice not in choices:
        raise ValueError(f"{choice!r} is no {what}; choose one of {', '.join(sorted(choices))}.")


def _unchanged(x: Tensor) -> Tensor:
    return x


def _centred(x: Rdm) -> Rdm:
    flat = x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True) <= rounding(x)
    return centre(x, -1).masked_fill(flat, 0)


def _dot(u: Tensor, v: Tensor) -> Value:
    return torch.einsum("...p,...p->...", u, v)  # a product of matrices for all by all


def _squares(u: Tensor) -> Value:
    return u.square().sum(-1)


def _ratio(ab: Value, aa: Value, bb: Value) -> Value:
    return ab / (aa.sqrt() * bb.sqrt())  # 0/0 is NaN where an RDM has no extent on its scale


def _squared_distance(ab: Value, aa: Value, bb: Value) -> Value:
    return aa + bb - 2 * ab


@dataclass(frozen=True)
class Comparator:
    """Compare RDMs by the cosine of the angle between them, each on the comparator's scale.

    ``compare(a, b) = ⟨s(a), s(b)⟩ / √(‖s(a)‖² · ‖s(b)‖²)``, along the last dimension; leading
    dimensions broadcast. ``COMPARATORS`` holds those known by name.

    Args:
        name: its name in ``COMPARATORS``.
        formula: the definition in one line, of condensed RDMs a and b.
        range: the least and the greatest value.
        reference: the paper, with its DOI.
        differentiable: whether gradients flow to the RDMs.
        scale: the function s, from RDM to RDM: ranks, centred values, or the values as they are.
        embed: brings s(a) to the space in which products are taken: whitened, or a Gram root.
        product: ⟨·, ·⟩ of two embedded RDMs.
        square: ‖·‖² of one: its product with itself, or what that would be without ties.
        combine: makes the value of the product and both squares.
        higher_is_more_similar: whether it is a similarity rather than a distance.
    """

    name: str
    formula: str
    range: tuple[float, float]
    reference: str
    differentiable: bool
    scale: Callable[[Tensor], Tensor] = _unchanged
    embed: Callable[[Tensor], Tensor] = _unchanged
    product: Callable[[Tensor, Tensor], Tensor] = _dot
    square: Callable[[Tensor], Tensor] = _squares
    combine: Callable[[Tensor, Tensor, Tensor], Tensor] = _ratio
    higher_is_more_similar: bool = True

    def scaled(self, a: Rdm) -> Rdm:
        """Return s(a), in float64."""
        return self.scale(in_working_precision(a))

    def embedded(self, a: Rdm) -> Tensor:
        """Return s(a) as the inner product takes it."""
        return self.embed(self.scaled(a))

    def inner(self, a: Rdm, b: Rdm) -> Value:
        """Return ⟨s(a), s(b)⟩."""
        return self.product(self.embedded(a), self.embedded(b))

    def __call__(self, a: Rdm, b: Rdm) -> Value:
        """Return the similarity; NaN where an RDM holds NaN, or s(a) is zero (a constant RDM)."""
        check_same_pairs(a, b)
        u, v = self.embedded(a), self.embedded(b)
        return self.combine(self.product(u, v), self.square(u), self.square(v))


_KRIEGESKORTE = "Kriegeskorte et al. 2008, https://doi.org/10.3389/neuro.06.004.2008"
_SCHUTT = "Schütt et al. 2023, https://doi.org/10.7554/eLife.82566"
_NILI = "Nili et al. 2014, https://doi.org/10.1371/journal.pcbi.1003553"
_KENDALL = "Kendall 1945, https://doi.org/10.1093/biomet/33.3.239"
_DIEDRICHSEN = "Diedrichsen et al. 2021, https://doi.org/10.51628/001c.27664"
_TANG = "Tang et al. 2020, https://doi.org/10.48550/arXiv.2003.11498"
_HARVEY = "Harvey et al. 2023, https://doi.org/10.48550/arXiv.2311.11436"
_SIGNED = (-1.0, 1.0)

_ALL = [
    Comparator("cosine", "Σab / √(Σa² · Σb²)", _SIGNED, _SCHUTT, differentiable=True),
    Comparator("corr", "cosine of a − ā and b − b̄", _SIGNED, _KRIEGESKORTE, True, scale=_centred),
    Comparator("spearman", "corr of the ranks", _SIGNED, _KRIEGESKORTE, False, scale=centred_ranks),
    Comparator(
        "rho-a",
        "12 Σ(centred ranks of a · of b) / (P³ − P) for P pairs",
        _SIGNED,
        _SCHUTT,
        differentiable=False,
        scale=centred_ranks,
        square=untied_length,
    ),
    Comparator(
        "tau-a",
        "(concordant − discordant) / (P(P − 1)/2) for P pairs",
        _SIGNED,
        _NILI,
        differentiable=False,
        scale=centred_ranks,
        product=concordance,
        square=all_pairs,
    ),
    Comparator(
        "tau-b",
        "(concordant − discordant) / √(untied in a · untied in b)",
        _SIGNED,
        _KENDALL,
        differentiable=False,
        scale=centred_ranks,
        product=concordance,
        square=untied_pairs,
    ),
    Comparator(
        "cosine_cov",
        "aᵀV⁻¹b / √(aᵀV⁻¹a · bᵀV⁻¹b), with V the covariance of the pairs' errors",
        _SIGNED,
        _DIEDRICHSEN,
        differentiable=True,
        embed=whiten,
    ),
    Comparator(
        "corr_cov",
        "cosine_cov of a − ā and b − b̄",
        _SIGNED,
        _DIEDRICHSEN,
        differentiable=True,
        scale=_centred,
        embed=whiten,
    ),
    Comparator(
        "bures",
        "tr √(√K L √K) / √(tr K · tr L), with K and L the Gram matrices −½HDH of the RDMs",
        (0.0, 1.0),
        _TANG,
        differentiable=True,
        embed=root_of_rdm,
        product=nuclear_product,
        square=squared_norm,
    ),
]
COMPARATORS: dict[str, Comparator] = {comparator.name: comparator for comparator in _ALL}
COMPARATORS |= {"pearson": COMPARATORS["corr"], "kendall": COMPARATORS["tau-b"]}

# No similarities, and they depend on the scale of the RDMs: for compare_rdms, not for RSA.
DISTANCES: dict[str, Comparator] = {
    "bures_metric": Comparator(
        "bures_metric",
        "tr K + tr L − 2 tr √(√K L √K), the squared Bures distance",
        (0.0, float("inf")),
        _HARVEY,
        differentiable=True,
        embed=root_of_rdm,
        product=nuclear_product,
        square=squared_norm,
        combine=_squared_distance,
        higher_is_more_similar=False,
    )
}


def comparator_named(name: str) -> Comparator:
    """Return the comparator of that name, or raise a ValueError that lists the choices."""
    check_choice(name, COMPARATORS, "RDM comparator")
    return COMPARATORS[name]


def comparator_or_distance(method: str | Comparator) -> Comparator:
    """Return what compares RDMs by that name, or the object itself."""
    if not isinstance(method, str):
        return method
    choices = COMPARATORS | DISTANCES
    check_choice(method, choices, "RDM comparator")
    return choices[method]


def compare_rdms(
    a: Array,
    b: Array,
    *,
    method: str | Comparator = "cosine",
    sigma_k: Array | None = None,
    batch_dims: int = 0,
    device: Device = None,
) -> Value:
    """Return the similarity of RDMs of the same stimuli, by rsatoolbox's names.

    Args:
        a, b: RDMs, (pair,) or (stimulus, stimulus), after ``batch_dims`` leading dimensions that
            broadcast. A pair that is NaN in both is left out, for the whole batch.
        method: a name in ``COMPARATORS``, each of which has its ``formula``, or in ``DISTANCES``
            (``bures_metric``), or a ``Comparator``.
        sigma_k: covariance of the pattern estimates, (stimulus, stimulus), or their variances,
            (stimulus,); for ``cosine_cov`` and ``corr_cov`` only. The identity if None.
        batch_dims: number of leading dimensions that number RDMs.
        device: where to compute: ``auto``, ``cuda``, ``mps``, ``cpu``; None is where ``a`` is.

    Returns:
        One value for each pair of RDMs, in float64. NaN where an RDM has no extent on its scale:
        a constant one, or, under ``cosine``, ``cosine_cov`` and ``bures``, one that is all zero.

    Raises:
        ValueError: unknown method, other shapes or sizes, fewer than 3 stimuli, infinite values, a
            pair that is missing in one RDM only, or ``sigma_k`` where it does not apply.
        TypeError: no real numbers.

    Note:
        Values equal rsatoolbox's but for constant RDMs (0 there), for ties (here distances within
        1e-12 of the largest are tied), and for ``sigma_k``: here variances mean the same as the
        diagonal matrix of them, and the system in V is solved exactly, not to 1e-5.

        ``bures`` is defined for squared Euclidean distances, and equal to rsatoolbox's within the
        rounding of its square roots. Of others (noisy crossnobis, say) the nearest Gram matrices
        are compared, without their negative eigenvalues; rsatoolbox clips those of one RDM alone,
        so that its value depends on the order and exceeds 1 for an RDM with itself.

    Example:
        >>> a = np.array([[0.0, 1, 2], [1, 0, 4], [2, 4, 0]])
        >>> round(compare_rdms(a, np.array([1.0, 3, 2]), method="tau-a").item(), 4)
        0.3333

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    compare = comparator_or_distance(method)
    u = as_condensed(a, name="a", batch_dims=batch_dims, device=device)
    v = as_condensed(b, name="b", batch_dims=batch_dims, device=u.device)
    check_same_pairs(u, v)
    try:
        np.broadcast_shapes(u.shape[:-1], v.shape[:-1])
    except ValueError as error:
        raise ValueError(
            f"The batches of a and b, {tuple(u.shape[:-1])} and {tuple(v.shape[:-1])}, do not "
            "broadcast; give one of them size 1."
        ) from error
    kept = shared_pairs(u, v)
    if compare.embed is whiten:
        sigma = None if sigma_k is None else as_tensor(sigma_k, name="sigma_k", device=u.device)
        compare = replace(compare, embed=partial(whiten, sigma_k=sigma, kept=kept))
    elif sigma_k is not None:
        raise ValueError(
            f"sigma_k does not apply to {compare.name!r}, which whitens nothing; leave it out, or "
            "use cosine_cov or corr_cov."
        )
    elif compare.embed is not _unchanged:
        check_complete(kept, what=compare.name)
    return compare(u[..., kept], v[..., kept])

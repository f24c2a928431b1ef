"""Centred kernel alignment with a linear kernel, biased and debiased."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.calls import Device, compare_populations
from repalign.metrics.gram import (
    centred_gram,
    check_responses,
    column_blocks,
    in_working_precision,
)


def _check_gram(gram: Tensor, *, debiased: bool) -> None:
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(
            f"A Gram matrix has shape {tuple(gram.shape)}; expected stimulus × stimulus. "
            "Make one with CKA().prepare(responses)."
        )
    if debiased and len(gram) < 4:
        raise ValueError(
            f"Debiased HSIC needs 4 or more stimuli; there are {len(gram)}. Add stimuli, or use "
            "debiased=False and report its null beside it."
        )
    if len(gram) < 2:
        raise ValueError(f"HSIC needs 2 or more stimuli; there are {len(gram)}. Add stimuli.")


def check_same_size(gram_x: Tensor, gram_y: Tensor) -> None:
    """Raise a ValueError unless two Gram matrices are of the same size."""
    if gram_x.shape != gram_y.shape:
        raise ValueError(
            f"The Gram matrices have shapes {tuple(gram_x.shape)} and {tuple(gram_y.shape)}; both "
            "must cover the same stimuli. Align the responses on stimulus_id first."
        )


def centre_gram(
    gram: Float[Tensor, "stimulus stimulus"], *, debiased: bool
) -> Float[Tensor, "stimulus stimulus"]:
    """Return the doubly centred Gram matrix, or the U-centred one if ``debiased``.

    Double centring makes every row sum to zero: ``HKH`` with ``H = I − 11ᵀ/n``. U-centring does so
    without the diagonal, which becomes zero (Székely & Rizzo 2014): the diagonal holds the product
    of each stimulus' noise with itself, the source of the bias. A matrix of which only rounding
    would be left (equidistant patterns) becomes zero.
    """
    _check_gram(gram, debiased=debiased)
    n, gram = len(gram), in_working_precision(gram)
    if debiased:
        hollow = gram - gram.diagonal().diag()
        shares = hollow.sum(1) / (n - 2)
        full = hollow - shares[:, None] - shares + shares.sum() / (n - 1)
        centred = full - full.diagonal().diag()
    else:
        means = gram.mean(1)
        centred = gram - means[:, None] - means + means.mean()
    rounding = n * torch.finfo(gram.dtype).eps * gram.norm()
    return centred.masked_fill(centred.norm() <= rounding, 0)


def hsic(
    gram_x: Float[Tensor, "stimulus stimulus"],
    gram_y: Float[Tensor, "stimulus stimulus"],
    *,
    debiased: bool = True,
) -> Float[Tensor, ""]:
    """Estimate the Hilbert–Schmidt independence criterion of two Gram matrices.

    ``debiased``: Σ K̃ᵢⱼ L̃ᵢⱼ / (n(n − 3)) of the U-centred matrices, whose expectation is the
    population value; else tr(KHLH) / (n − 1)².

    Args:
        gram_x, gram_y: products of patterns, stimulus × stimulus, centred or not; computed in
            float64.
        debiased: which estimator.

    Returns:
        A scalar; debiased it may be negative for two different matrices.

    Raises:
        ValueError: matrices not square or not alike, or fewer than 4 stimuli if debiased.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0], [1.0], [-1.0]])
        >>> round(hsic(x @ x.T, x @ x.T, debiased=False).item(), 4)
        1.7778

    Reference:
        Song et al. 2012, JMLR 13:1393 (no DOI), https://jmlr.org/papers/v13/song12a.html;
        Székely & Rizzo 2014, https://doi.org/10.1214/14-AOS1255
    """
    check_same_size(gram_x, gram_y)
    product = centre_gram(gram_x, debiased=debiased) * centre_gram(gram_y, debiased=debiased)
    n = len(gram_x)
    return product.sum() / (n * (n - 3) if debiased else (n - 1) ** 2)


@dataclass(frozen=True)
class CKA:
    """Linear centred kernel alignment: the normalised similarity of two Gram matrices.

    ``cka(x, y) = HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L))``, with K and L the Gram matrices of the
    column-centred responses.

    Args:
        debiased: use the unbiased estimator of HSIC. The biased one approaches 1 for *unrelated*
            responses as neuroids outnumber stimuli (0.951 for 50 stimuli and 1000 neuroids).

    Raises:
        ValueError: wrong shape, different numbers of stimuli, or fewer than 4 if debiased.

    Note:
        Debiased values may be negative and are never clamped; biased ones lie in [0, 1]. The value
        is NaN where a self-HSIC vanishes: constant responses, or (debiased) equidistant patterns
        such as a one-hot code of the stimuli.

    Example:
        >>> x = torch.randn(12, 30, generator=torch.Generator().manual_seed(0))
        >>> round(CKA()(x, 2 * x + 1).item(), 6)
        1.0

    Reference:
        Kornblith et al. 2019, https://doi.org/10.48550/arXiv.1905.00414; Song et al. 2012,
        JMLR 13:1393; debiased: Nguyen, Raghu & Kornblith 2021,
        https://doi.org/10.48550/arXiv.2010.15327
    """

    debiased: bool = True

    name: ClassVar[str] = "cka"
    formula: ClassVar[str] = "HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L))"
    needs_repeats: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    invariances: ClassVar[tuple[str, ...]] = (
        "rotation",
        "translation",
        "isotropic scale",
        "neuroid order",
    )
    symmetric: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    needs_responses: ClassVar[bool] = True
    higher_is_more_similar: ClassVar[bool] = True
    reference: ClassVar[str] = "Kornblith et al. 2019, https://doi.org/10.48550/arXiv.1905.00414"

    @property
    def minimum_stimuli(self) -> int:
        """Fewest stimuli: debiased HSIC divides by n − 3."""
        return 4 if self.debiased else 2

    def __call__(
        self,
        x: Float[Tensor, "*batch stimulus neuroid"],
        y: Float[Tensor, "*batch stimulus unit"],
        *,
        batch_dims: int = 0,
        device: Device = None,
    ) -> Float[Tensor, "*batch"]:
        """Return the alignment of ``x`` and ``y``, whose rows are the same stimuli."""
        return compare_populations(
            self._value, x, y, needs=self, batch_dims=batch_dims, device=device
        )

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        return self.compare_prepared(self.prepare(x), self.prepare(y))

    def prepare(self, x: Float[Tensor, "stimulus neuroid"]) -> Float[Tensor, "stimulus stimulus"]:
        """Return the Gram matrix of the column-centred ``x``, in float64 and O(n²p)."""
        check_responses(x)
        return centred_gram(column_blocks(x))

    def inner(
        self, a: Float[Tensor, "stimulus stimulus"], b: Float[Tensor, "stimulus stimulus"]
    ) -> Float[Tensor, ""]:
        """Return the HSIC of two Gram matrices."""
        return hsic(a, b, debiased=self.debiased)

    def compare_prepared(
        self, a: Float[Tensor, "stimulus stimulus"], b: Float[Tensor, "stimulus stimulus"]
    ) -> Float[Tensor, ""]:
        """Return the alignment of two Gram matrices."""
        check_same_size(a, b)
        u, v = (centre_gram(gram, debiased=self.debiased) for gram in (a, b))
        lengths = u.square().sum().sqrt() * v.square().sum().sqrt()
        return (u * v).sum() / lengths  # 0/0 is NaN where a self-HSIC vanishes

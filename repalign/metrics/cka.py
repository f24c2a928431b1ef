"""Centred kernel alignment with a linear or an RBF kernel, biased and debiased."""

from dataclasses import dataclass
from math import prod, sqrt
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.calls import Device, as_responses, compare_populations
from repalign.metrics.comparators import check_choice
from repalign.metrics.gram import (
    BLOCK_ELEMENTS,
    centre,
    centred_gram,
    check_responses,
    column_blocks,
    cores_for_blas,
    in_working_precision,
)
from repalign.metrics.hsic_terms import FeatureSums, terms_by_rows
from repalign.metrics.rdms import rdm, square_form

KERNELS = ("linear", "rbf")
SMALL = 512  # stimuli up to which whole Gram matrices are the quickest way


def _check_gram(gram: Tensor, *, debiased: bool) -> None:
    if gram.ndim < 2 or gram.shape[-2] != gram.shape[-1]:
        raise ValueError(
            f"A Gram matrix has shape {tuple(gram.shape)}; expected stimulus × stimulus. "
            "Make one with CKA().prepare(responses)."
        )
    n = gram.shape[-1]
    if debiased and n < 4:
        raise ValueError(
            f"Debiased HSIC needs 4 or more stimuli; there are {n}. Add stimuli, or use "
            "debiased=False and report its null beside it."
        )
    if n < 2:
        raise ValueError(f"HSIC needs 2 or more stimuli; there are {n}. Add stimuli.")


def check_same_size(
    gram_x: Float[Tensor, "*batch stimulus stimulus"],
    gram_y: Float[Tensor, "*batch stimulus stimulus"],
) -> None:
    """Raise a ValueError unless two Gram matrices are of the same size."""
    if gram_x.shape[-2:] != gram_y.shape[-2:]:
        raise ValueError(
            f"The Gram matrices have shapes {tuple(gram_x.shape)} and {tuple(gram_y.shape)}; both "
            "must cover the same stimuli. Align the responses on stimulus_id first."
        )


def centre_gram(
    gram: Float[Tensor, "*batch stimulus stimulus"], *, debiased: bool
) -> Float[Tensor, "*batch stimulus stimulus"]:
    """Return the doubly centred Gram matrix, or the U-centred one if ``debiased``.

    Double centring makes every row sum to zero: ``HKH`` with ``H = I − 11ᵀ/n``. U-centring does so
    without the diagonal, which becomes zero (Székely & Rizzo 2014): the diagonal holds the product
    of each stimulus' noise with itself, the source of the bias. A matrix of which only rounding
    would be left (equidistant patterns) becomes zero.
    """
    _check_gram(gram, debiased=debiased)
    n, gram = gram.shape[-1], in_working_precision(gram)
    centred = gram.clone()
    if debiased:
        centred.diagonal(dim1=-2, dim2=-1).zero_()
        shares = centred.sum(-1, keepdim=True) / (n - 2)
        centred -= shares - shares.sum(-2, keepdim=True) / (n - 1)
        centred -= shares.mT
        centred.diagonal(dim1=-2, dim2=-1).zero_()
    else:
        means = gram.mean(-1, keepdim=True)
        centred -= means - means.mean(-2, keepdim=True)
        centred -= means.mT
    rounding = n * torch.finfo(gram.dtype).eps * _length(gram.detach())
    nothing = _length(centred.detach()) <= rounding
    return centred.masked_fill_(nothing[..., None, None], 0) if nothing.any() else centred


def _length(gram: Float[Tensor, "*batch stimulus stimulus"]) -> Float[Tensor, "*batch"]:
    length: Tensor = torch.linalg.vector_norm(gram, dim=(-2, -1))
    return length


def _product(
    u: Float[Tensor, "*batch stimulus stimulus"], v: Float[Tensor, "*batch stimulus stimulus"]
) -> Float[Tensor, "*batch"]:
    """Return ⟨u, v⟩; of batches that broadcast, all pairs come from one matrix product."""
    return torch.einsum("...ij,...ij->...", u, v)


def hsic(
    gram_x: Float[Tensor, "*batch stimulus stimulus"],
    gram_y: Float[Tensor, "*batch stimulus stimulus"],
    *,
    debiased: bool = True,
) -> Float[Tensor, "*batch"]:
    """Estimate the Hilbert–Schmidt independence criterion of two Gram matrices.

    ``debiased``: Σ K̃ᵢⱼ L̃ᵢⱼ / (n(n − 3)) of the U-centred matrices, whose expectation is the
    population value; else tr(KHLH) / (n − 1)².

    Args:
        gram_x, gram_y: products of patterns, stimulus × stimulus, centred or not; computed in
            float64.
        debiased: which estimator.

    Returns:
        A scalar, or one per pair of a batch; debiased it may be negative for two different
        matrices.

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
    u, v = (centre_gram(gram, debiased=debiased) for gram in (gram_x, gram_y))
    n = gram_x.shape[-1]
    return _product(u, v) / (n * (n - 3) if debiased else (n - 1) ** 2)


def biased_cka_null(n_stimuli: int, n_x: float, n_y: float) -> float:
    """Return the biased linear CKA to expect of two *unrelated* populations.

    ``√(p q / ((n + p)(n + q)))``: the ratio of the expected HSIC terms of Gaussian responses.

    Args:
        n_stimuli: n.
        n_x, n_y: p and q, the numbers of independent neuroids; where neuroids are correlated,
            their participation ratio (Σλ)² / Σλ², with λ the eigenvalues of their covariance.

    Returns:
        The null value. That of debiased CKA is 0, with a standard deviation of √(2 / (n(n − 3))).

    Raises:
        ValueError: numbers that are not positive.

    Example:
        >>> round(biased_cka_null(50, 1000, 1000), 3)
        0.952
        >>> round(biased_cka_null(128, 20, 25088), 2)  # a batch, and a layer of a network
        0.37

    Reference:
        From the second moments of the Wishart distribution; the bias is that of Murphy,
        Zylberberg & Fyshe 2024, https://doi.org/10.48550/arXiv.2405.01012
    """
    if min(n_stimuli, n_x, n_y) <= 0:
        raise ValueError(
            f"n_stimuli, n_x and n_y are {n_stimuli}, {n_x} and {n_y}; expected more than 0."
        )
    return sqrt(n_x / (n_stimuli + n_x) * n_y / (n_stimuli + n_y))


def _middle(values: Float[Tensor, "pair"]) -> tuple[Tensor, Tensor]:
    """Return the two middle values in order, which are one for an odd number."""
    count = len(values)
    return values.kthvalue((count + 1) // 2).values, values.kthvalue(count // 2 + 1).values


def _rbf_gram(
    x: Float[Tensor, "stimulus neuroid"], bandwidth: float
) -> Float[Tensor, "stimulus stimulus"]:
    squared = rdm(x, method="euclidean")  # over p, which the median divides out
    low, high = _middle(squared)
    width = bandwidth * (low.sqrt() + high.sqrt()) / 2
    similar = square_form((-squared / (2 * width.square())).exp())
    return similar + torch.eye(len(x), dtype=similar.dtype, device=similar.device)


@dataclass(frozen=True, kw_only=True)
class CKA:
    """Centred kernel alignment: the normalised similarity of two Gram matrices.

    ``cka(x, y) = HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L))``, with K and L the Gram matrices of the
    responses. ``linear``: Kᵢⱼ = xᵢ · xⱼ. ``rbf``: Kᵢⱼ = exp(−|xᵢ − xⱼ|² / (2σ²)), with σ =
    bandwidth × the median of the distances |xᵢ − xⱼ| of all pairs i < j.

    Args:
        debiased: use the unbiased estimator of HSIC. The biased one approaches 1 for *unrelated*
            responses as neuroids outnumber stimuli (see `biased_cka_null`).
        kernel: ``linear`` or ``rbf``.
        bandwidth: of the RBF kernel, in units of the median distance.

    Raises:
        ValueError: unknown kernel, a bandwidth that is not positive or with no use, wrong shape,
            different numbers of stimuli, or fewer than 4 if debiased.

    Note:
        Debiased values may be negative and are never clamped; biased ones lie in [0, 1]. The value
        is NaN where a self-HSIC vanishes: constant responses, or (debiased) equidistant patterns
        such as a one-hot code of the stimuli; and under ``rbf`` where the median distance is 0.

        Computed in float64; of more than 512 stimuli without their Gram matrices, and there the
        products of two float32 populations are taken in float32 after centring (within 1e-8).
        Gradients of ``rbf`` flow through the median too. Kornblith et al. take the median over
        the matrix of squared distances with its zero diagonal, so that their σ is a little less.

    Example:
        >>> x = torch.randn(12, 30, generator=torch.Generator().manual_seed(0))
        >>> round(CKA()(x, 2 * x + 1).item(), 6)
        1.0
        >>> round(CKA(kernel="rbf", bandwidth=0.5)(x, 2 * x + 1).item(), 6)
        1.0

    Reference:
        Kornblith et al. 2019, https://doi.org/10.48550/arXiv.1905.00414; Song et al. 2012,
        JMLR 13:1393; debiased: Nguyen, Raghu & Kornblith 2021,
        https://doi.org/10.48550/arXiv.2010.15327
    """

    debiased: bool = True
    kernel: str = "linear"
    bandwidth: float = 1.0

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

    def __post_init__(self) -> None:
        """Check the parameters."""
        check_choice(self.kernel, KERNELS, "kernel")
        if not isinstance(self.debiased, bool):
            raise TypeError(f"debiased is {self.debiased!r}; expected True or False.")
        if self.kernel == "linear" and self.bandwidth != 1:
            raise ValueError(
                f"bandwidth={self.bandwidth} does not apply to the linear kernel; leave it out, or "
                "use kernel='rbf'."
            )
        if not 0 < self.bandwidth < float("inf"):
            raise ValueError(
                f"bandwidth is {self.bandwidth}; expected more than 0, in units of the median "
                "distance. Use 1."
            )

    @property
    def minimum_stimuli(self) -> int:
        """Fewest stimuli: debiased HSIC divides by n − 3; of 2 stimuli biased CKA is always 1."""
        return 4 if self.debiased else 3

    def __call__(
        self,
        x: Float[Tensor, "*batch stimulus neuroid"],
        y: Float[Tensor, "*batch stimulus unit"],
        *,
        batch_dims: int = 0,
        device: Device = None,
    ) -> Float[Tensor, "*batch"]:
        """Return the alignment of ``x`` and ``y``, whose rows are the same stimuli."""
        if batch_dims:
            x = as_responses(x, needs=self, batch_dims=batch_dims, device=device)
            y = as_responses(y, needs=self, name="y", batch_dims=batch_dims, device=x.device)
            if _share_grams(x, y):
                return self.compare_prepared(self._prepare_batch(x), self._prepare_batch(y))
        return compare_populations(
            self._value, x, y, needs=self, batch_dims=batch_dims, device=device
        )

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        with cores_for_blas(x):
            return self._value_of(x, y)

    def _value_of(self, x: Tensor, y: Tensor) -> Tensor:
        n = len(x)
        if self.kernel != "linear" or n <= SMALL:
            return self.compare_prepared(self.prepare(x), self.prepare(y))
        if x.shape[1] + y.shape[1] < n:
            terms, trusted = FeatureSums.of(x, y).terms(debiased=self.debiased)
        else:
            single = x.dtype == y.dtype == torch.float32
            terms, trusted = terms_by_rows(x, y, debiased=self.debiased, single=single)
            trusted = trusted or not single
        if not trusted:
            terms, _ = terms_by_rows(x, y, debiased=self.debiased)
        return terms.cka()

    def _prepare_batch(
        self, x: Float[Tensor, "*batch stimulus neuroid"]
    ) -> Float[Tensor, "*batch stimulus stimulus"]:
        if self.kernel == "linear" and x[..., 0, 0].numel() * x.shape[-2] ** 2 <= BLOCK_ELEMENTS:
            centred = centre(in_working_precision(x), -2)
            return centred @ centred.mT
        grams = [self.prepare(one) for one in x.reshape(-1, *x.shape[-2:])]
        return torch.stack(grams).reshape(*x.shape[:-1], x.shape[-2])

    def prepare(self, x: Float[Tensor, "stimulus neuroid"]) -> Float[Tensor, "stimulus stimulus"]:
        """Return the Gram matrix of the column-centred ``x``, in float64 and O(n²p)."""
        check_responses(x)
        if self.kernel == "rbf":
            return _rbf_gram(x, self.bandwidth)
        return centred_gram(column_blocks(x))

    def inner(
        self,
        a: Float[Tensor, "*batch stimulus stimulus"],
        b: Float[Tensor, "*batch stimulus stimulus"],
    ) -> Float[Tensor, "*batch"]:
        """Return the HSIC of two Gram matrices."""
        return hsic(a, b, debiased=self.debiased)

    def compare_prepared(
        self,
        a: Float[Tensor, "*batch stimulus stimulus"],
        b: Float[Tensor, "*batch stimulus stimulus"],
    ) -> Float[Tensor, "*batch"]:
        """Return the alignment of two Gram matrices, or of batches of them that broadcast."""
        check_same_size(a, b)
        u, v = (centre_gram(gram, debiased=self.debiased) for gram in (a, b))
        return _product(u, v) / (_length(u) * _length(v))  # 0/0 is NaN where a self-HSIC vanishes


def _share_grams(x: Tensor, y: Tensor) -> bool:
    """Whether each population's Gram matrix can be made once and kept for all its pairs."""
    n, batch_x, batch_y = x.shape[-2], x.shape[:-2], y.shape[:-2]
    fits = all(i == j or 1 in (i, j) for i, j in zip(batch_x, batch_y, strict=True))
    kept = (prod(batch_x) + prod(batch_y)) * n * n
    return fits and n == y.shape[-2] and kept <= 64 * BLOCK_ELEMENTS  # 1 GiB

"""RDMs on a scale on which the errors of all pairs are independent and alike."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from repalign.metrics.gram import centre, in_working_precision
from repalign.metrics.pairs import square_form, stimulus_count, upper_triangle


def gram_of_rdm(rdm: Float[Tensor, "*batch pair"]) -> Float[Tensor, "*batch stimulus stimulus"]:
    """Return −½HDH with H = I − 11ᵀ/n: the centred Gram matrix of the patterns.

    That is what it is where the dissimilarities D are squared Euclidean distances.

    Example:
        >>> gram_of_rdm(torch.tensor([4.0, 4.0, 0.0])).diagonal()
        tensor([1.7778, 0.4444, 0.4444], dtype=torch.float64)
    """
    distances = square_form(in_working_precision(rdm))
    return centre(centre(distances, -1), -2) / -2


def _contrasts(sigma_k: Tensor | None, n: int, like: Tensor) -> Float[Tensor, "stimulus contrast"]:
    """Return F with FFᵀ = (HΣH)⁺: the contrasts of stimuli that have unit, independent errors.

    Raises:
        ValueError: Σ of another size, not symmetric, or not positive definite for contrasts.
    """
    sigma = like.new_ones(n) if sigma_k is None else sigma_k.detach().to(like)
    if sigma.shape not in ((n,), (n, n)) or not bool(sigma.isfinite().all()):
        raise ValueError(
            f"sigma_k has shape {tuple(sigma.shape)}; expected the covariance of {n} stimuli, "
            f"({n}, {n}), or their variances, ({n},), without NaN."
        )
    sigma = sigma.diag() if sigma.ndim == 1 else sigma
    if not torch.allclose(sigma, sigma.mT, rtol=1e-6, atol=float(1e-6 * sigma.abs().amax())):
        raise ValueError("sigma_k is not symmetric; expected the covariance of the stimuli.")
    values, vectors = torch.linalg.eigh(centre(centre(sigma, 0), 1))
    values, vectors = values[1:], vectors[:, 1:]  # the first is the mean over stimuli: no contrast
    if not bool(values[0] > n * torch.finfo(values.dtype).eps * values[-1]):
        raise ValueError(
            f"sigma_k has the eigenvalue {values[0]:.3g} for a difference of stimuli; a covariance "
            "must be positive definite. Shrink the estimate towards its diagonal."
        )
    contrasts: Tensor = vectors / values.sqrt()
    return contrasts


def _impute(
    square: Float[Tensor, "*batch stimulus stimulus"],
    kept: Bool[Tensor, "pair"],
    precision: Float[Tensor, "stimulus stimulus"],
) -> Float[Tensor, "*batch stimulus stimulus"]:
    """Fill in the pairs not kept such that the whitened length is least.

    The lengths and products of such RDMs are those under the covariance of the kept pairs alone.
    Under the precision T of the patterns, that of pairs (i, j) and (k, l) is (TᵢₖTⱼₗ + TᵢₗTⱼₖ)/2.
    """
    i, j = upper_triangle(len(precision), kept.device).nonzero(as_tuple=True)
    i, j = i[~kept], j[~kept]
    of_missing = (
        precision[i][:, i] * precision[j][:, j] + precision[i][:, j] * precision[j][:, i]
    ) / 2
    slope = (precision @ square @ precision)[..., i, j] / 2
    filled = torch.linalg.solve(of_missing, -slope[..., None])[..., 0]
    pairs = filled.new_zeros(*filled.shape[:-1], len(kept))
    pairs[..., ~kept] = filled
    return square + square_form(pairs)


def whiten(
    rdm: Float[Tensor, "*batch pair"],
    *,
    sigma_k: Tensor | None = None,
    kept: Bool[Tensor, "all_pairs"] | None = None,
) -> Float[Tensor, "*batch feature"]:
    """Return features w whose products are whitened: ``w(a)·w(b) ∝ aᵀV⁻¹b``.

    V is the covariance of the errors of squared distances for patterns without signal,
    ``Vᵢⱼ,ₖₗ = ((eᵢ − eⱼ)ᵀ Σ (eₖ − eₗ))²``, with Σ the covariance of the pattern estimates. Then
    ``aᵀV⁻¹b = tr((HΣH)⁺ K (HΣH)⁺ L)`` with K and L the Gram matrices, so V is never built.

    Args:
        rdm: condensed RDMs of the kept pairs.
        sigma_k: Σ, or its diagonal; the identity if None.
        kept: which pairs of a full RDM ``rdm`` holds; all if None.

    Returns:
        A row of numbers for each RDM.

    Example:
        >>> whiten(torch.tensor([4.0, 4.0, 0.0])).square().sum().item()  # ‖K‖²
        7.111111111111111

    Reference:
        Diedrichsen et al. 2021, https://doi.org/10.51628/001c.27664
    """
    if sigma_k is None and (kept is None or bool(kept.all())):
        return gram_of_rdm(rdm).flatten(-2)
    rdm = in_working_precision(rdm)
    if kept is not None:
        full = rdm.new_zeros(*rdm.shape[:-1], len(kept))
        full[..., kept] = rdm
        rdm = full
    contrasts = _contrasts(sigma_k, stimulus_count(rdm.shape[-1]), rdm)
    square = square_form(rdm)
    if kept is not None and not bool(kept.all()):
        square = _impute(square, kept, contrasts @ contrasts.mT)
    return (contrasts.mT @ square @ contrasts / -2).flatten(-2)

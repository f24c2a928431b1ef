"""Roots of Gram matrices and their products, which Bures similarity is made of."""

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.whitened import gram_of_rdm


def _slope_of_root(
    values: Float[Tensor, "*batch n"], roots: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch n n"]:
    """Return (rᵢ − rⱼ)/(λᵢ − λⱼ), the slope of the matrix root in the basis of eigenvectors."""
    sums = roots[..., :, None] + roots[..., None, :]
    positive = (roots[..., :, None] > 0) & (roots[..., None, :] > 0)
    # where one root is clipped; where both are, the slope is 0/0 and counts as 0
    apart = sums / (values[..., :, None] - values[..., None, :]).abs()
    return torch.where(positive, 1 / sums, apart.where(sums > 0, 0))


def positive_root(
    k: Float[Tensor, "*batch stimulus stimulus"],
) -> Float[Tensor, "*batch stimulus stimulus"]:
    """Return √K, the symmetric root; eigenvalues that are negative, or rounding, count as 0.

    It has first derivatives also where eigenvalues coincide, as they do in K of few neuroids.
    """
    with torch.no_grad():
        values, basis = torch.linalg.eigh(k)
        smallest = values.shape[-1] * torch.finfo(values.dtype).eps * values.abs().amax(-1, True)
        roots = values.where(values > smallest, 0).sqrt()
        root: Tensor = (basis * roots[..., None, :]) @ basis.mT
    if k.requires_grad:
        change = basis.mT @ (k - k.detach()) @ basis  # zero, but for its gradient
        root = root + basis @ (_slope_of_root(values, roots) * change) @ basis.mT
    return root


def root_of_rdm(rdm: Float[Tensor, "*batch pair"]) -> Float[Tensor, "*batch stimulus stimulus"]:
    """Return √K of the Gram matrix K = −½HDH of an RDM; NaN where the RDM holds NaN."""
    undefined = rdm.isnan().any(-1)
    root = positive_root(gram_of_rdm(rdm.masked_fill(undefined[..., None], 0)))
    return root.masked_fill(undefined[..., None, None], torch.nan)


def nuclear_product(
    u: Float[Tensor, "*batch n n"], v: Float[Tensor, "*batch n n"]
) -> Float[Tensor, "*batch"]:
    """Return the sum of the singular values of uv; NaN where one holds NaN.

    For roots of K = XXᵀ and L = YYᵀ it is the fidelity tr √(√K L √K), and that of XᵀY.

    Example:
        >>> nuclear_product(torch.eye(2), torch.tensor([[0.0, 3.0], [1.0, 0.0]])).item()
        4.0
    """
    product = u @ v
    undefined = product.isnan().flatten(-2).any(-1)
    values: Tensor = torch.linalg.svdvals(product.masked_fill(undefined[..., None, None], 0))
    return values.sum(-1).masked_fill(undefined, torch.nan)


def squared_norm(u: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """Return the sum of squares: of √K, the trace of K."""
    return u.square().sum((-2, -1))

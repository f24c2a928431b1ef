"""Models with parameters: weights, choices and blends of RDMs, fitted from inner products alone."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.calls import Array

Fit = Literal["fixed", "weights", "select", "interpolate"]
FITS: tuple[str, ...] = get_args(Fit)
SINGULAR = 1e-12  # eigenvalues of a Gram matrix below this share of the largest are zero


@dataclass(frozen=True)
class ModelRDMs:
    """One model: the RDMs that it is made of, and how.

    Args:
        rdms: condensed or square RDMs, one or a stack of them.
        fit: ``fixed``: the one RDM as it is; ``weights``: a weighted sum; ``select``: the RDM that
            is most similar to the training data; ``interpolate``: a blend of two neighbours in the
            series of RDMs.
        nonnegative: forbid negative weights; for ``weights`` only.

    Raises:
        ValueError: an unknown ``fit``.

    Example:
        >>> ModelRDMs(torch.rand(3, 45), fit="weights").fit
        'weights'

    Reference:
        Khaligh-Razavi & Kriegeskorte 2014, https://doi.org/10.1371/journal.pcbi.1003915
    """

    rdms: Array
    fit: Fit = "fixed"
    nonnegative: bool = True

    def __post_init__(self) -> None:
        """Check the fit."""
        if self.fit not in FITS:
            raise ValueError(f"fit is {self.fit!r}; expected one of {', '.join(FITS)}.")
        if not self.nonnegative and self.fit != "weights":
            raise ValueError(f"nonnegative=False does not apply to fit={self.fit!r}; leave it out.")


def fitted_weights(
    gram: Float[Tensor, "sample rdm rdm"],
    products: Float[Tensor, "sample rdm"],
    *,
    nonnegative: bool,
) -> Float[Tensor, "sample rdm"]:
    """Return the weights w of least ``wᵀGw − 2wᵀb``: those of the most similar weighted sum.

    Args:
        gram: inner products of the RDMs on the comparator's scale.
        products: with the pool of the training subjects at unit length.
        nonnegative: forbid negative weights.

    Returns:
        Weights, of arbitrary length; NaN where an RDM or a product is undefined.

    Reference:
        Lawson & Hanson 1974, Solving Least Squares Problems (no DOI)
    """
    from scipy.optimize import nnls

    weights = torch.full_like(products, torch.nan)
    known = products.isfinite().all(1) & gram.isfinite().flatten(1).all(1)
    if not bool(known.any()):
        return weights
    values, vectors = torch.linalg.eigh(gram[known])
    kept = values > SINGULAR * values[:, -1:]
    roots = values.where(kept, 0).sqrt()
    reach = (vectors.mT @ products[known][:, :, None])[:, :, 0]
    target = (reach / roots).where(kept, 0)
    if nonnegative:
        systems = (roots[:, :, None] * vectors.mT).cpu().numpy()
        targets = target.cpu().numpy()
        found = [nnls(system, y)[0] for system, y in zip(systems, targets, strict=True)]
        weights[known] = torch.from_numpy(np.stack(found)).to(weights)
    else:
        weights[known] = (vectors @ (target / roots).where(kept, 0)[:, :, None])[:, :, 0]
    return weights


def fitted_blend(
    gram: Float[Tensor, "sample rdm rdm"], products: Float[Tensor, "sample rdm"]
) -> Float[Tensor, "sample rdm"]:
    """Return weights of the best non-negative blend of two neighbouring RDMs; 0 for the others.

    NaN where no blend has a positive similarity with the training data.
    """
    best = torch.zeros_like(products[:, 0])
    found = torch.full_like(products, torch.nan)
    for i in range(products.shape[1] - 1):
        g, b = gram[:, i : i + 2, i : i + 2], products[:, i : i + 2]
        own = g.diagonal(dim1=1, dim2=2)
        both = torch.stack(
            [
                own[:, 1] * b[:, 0] - g[:, 0, 1] * b[:, 1],
                own[:, 0] * b[:, 1] - g[:, 0, 1] * b[:, 0],
            ],
            1,
        )
        unit = torch.eye(2, dtype=b.dtype, device=b.device)
        for weights in (both, unit[0].expand_as(b), unit[1].expand_as(b)):
            length = (weights[:, :, None] * g * weights[:, None, :]).sum((1, 2)).sqrt()
            value = (weights * b).sum(1) / length
            better = (weights >= 0).all(1) & (value > best)
            best = value.where(better, best)
            blend = torch.zeros_like(found)
            blend[:, i : i + 2] = weights / weights.sum(1, keepdim=True)
            found = blend.where(better[:, None], found)
    return found

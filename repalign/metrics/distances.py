"""Distances between all pairs of patterns, from one product of all patterns with all."""

from collections.abc import Callable, Iterator
from functools import reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.gram import (
    BLOCK_ELEMENTS,
    centre,
    column_blocks,
    in_working_precision,
    product,
    symmetric_product,
)
from repalign.metrics.pairs import condensed, upper_triangle

RAW_CLOSENESS = 1e-4  # squared distances above this part of the squared lengths keep 11 digits

Factors = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Yields two factors of the patterns, (*batch, stimulus, column) each, block by block."""


def gram_distances(
    gram: Float[Tensor, "*batch stimulus stimulus"],
) -> Float[Tensor, "*batch pair"]:
    """Return gᵢᵢ + gⱼⱼ − gᵢⱼ − gⱼᵢ for all pairs i < j; ``gram`` need not be symmetric."""
    own = gram.diagonal(dim1=-2, dim2=-1)
    return condensed(own[..., :, None] + own[..., None, :] - gram - gram.mT)


def _expanded(
    factors: Factors, *, centred: bool
) -> tuple[Float[Tensor, "*batch pair"], Float[Tensor, "2 *batch stimulus"]]:
    """Return (aᵢ − aⱼ)·(bᵢ − bⱼ) from products of all with all, and the lengths of a and b."""

    def of_blocks() -> Iterator[tuple[Tensor, Tensor]]:
        for a, b in factors():
            u = centre(a, -2) if centred else a
            v = u if a is b else (centre(b, -2) if centred else b)
            gram = symmetric_product(u) if a is b else product(u, v.mT)
            lengths = [torch.linalg.vector_norm(w.detach(), dim=-1) for w in (u, v)]
            yield gram, torch.stack(lengths).square()

    gram, squares = reduce(lambda sums, one: (sums[0] + one[0], sums[1] + one[1]), of_blocks())
    return gram_distances(gram), squares.sqrt()


def factor_distances(factors: Factors) -> Float[Tensor, "*batch pair"]:
    """Return (aᵢ − aⱼ)·(bᵢ − bⱼ) for all pairs i < j of patterns with factors a and b.

    Expanding the product loses digits where two patterns differ little. If any do, factors are
    centred over stimuli, which changes no difference, and pairs that are near still are computed by
    subtraction. In float64 that begins later than in float32, and it must: one outlying pattern
    makes all the others near neighbours.
    """
    distances, lengths = _expanded(factors, centred=False)
    double = distances.dtype == torch.float64
    longest = lengths.flatten(1).amax(1).prod()
    if double and bool(distances.detach().min() > 4 * RAW_CLOSENESS * longest):
        return distances
    distances, lengths = _expanded(factors, centred=True)
    sums = lengths[..., :, None] + lengths[..., None, :]
    near = distances.detach() < (1e-6 if double else 1e-2) * condensed(sums[0] * sums[1])
    if not bool(near.any()):
        return distances
    n = lengths.shape[-1]
    upper = upper_triangle(n, near.device).expand(*near.shape[:-1], n, n)
    place = torch.zeros_like(upper).masked_scatter(upper, near).nonzero(as_tuple=True)
    return distances.masked_scatter(near, _difference_products(factors, place))


def _difference_products(factors: Factors, place: tuple[Tensor, ...]) -> Float[Tensor, "near"]:
    """Return (aᵢ − aⱼ)·(bᵢ − bⱼ) by subtraction, a bounded number of pairs at a time.

    ``place`` holds the indices of the pairs: of the batch's dimensions, i and j.
    """

    def of_blocks() -> Iterator[Tensor]:
        for a, b in factors():
            size = max(1, BLOCK_ELEMENTS // a.shape[-1])
            parts = []
            for *batch, i, j in zip(*(torch.split(index, size) for index in place), strict=True):
                first, second = (*batch, i), (*batch, j)
                difference = a[first] - a[second]
                other = difference if a is b else b[first] - b[second]
                parts.append((difference * other).sum(-1))
            yield torch.cat(parts)

    return reduce(add, of_blocks())


def _standard(
    x: Float[Tensor, "*batch stimulus neuroid"], *, centred: bool, unit: bool
) -> tuple[Float[Tensor, "*batch stimulus 1"], Float[Tensor, "*batch stimulus 1"]]:
    """Return what is subtracted from each pattern and then divided by: NaN where that is 0."""
    first = in_working_precision(x[..., :1])  # shifting by it makes constant patterns exactly zero
    mean, length = torch.zeros_like(first), torch.ones_like(first)
    if centred:
        sums = [(block - first).sum(-1, keepdim=True) for block in column_blocks(x)]
        mean = first + torch.stack(sums).sum(0) / x.shape[-1]
    if unit:
        squares = [(block - mean).square().sum(-1, keepdim=True) for block in column_blocks(x)]
        total = torch.stack(squares).sum(0)
        length = total.masked_fill(total == 0, 1).sqrt().masked_fill(total == 0, torch.nan)
    return mean, length


def _raw_distances(
    x: Float[Tensor, "stimulus neuroid"], *, centred: bool, unit: bool
) -> Float[Tensor, "pair"] | None:
    """Return distances from the products of the patterns as they are, or None if digits are lost.

    One SYRK, with no copy of float64 responses; means and lengths are taken out of the n × n
    products by updates of rank 1 and 2. Distances that are small beside the patterns cannot be had
    that way.
    """
    from scipy.linalg import blas
    from scipy.spatial.distance import squareform

    n, p = x.shape
    as_it_is = x.dtype == torch.float64 and (x.is_contiguous() or x.mT.is_contiguous())
    gram = np.zeros((n, n), order="F")  # only its lower triangle is filled
    for block in (x,) if as_it_is else column_blocks(x):
        view = block.numpy()
        a, transposed = (view, 0) if view.flags.f_contiguous else (view.T, 1)
        gram = blas.dsyrk(1.0, a, beta=1.0, c=gram, trans=transposed, lower=1, overwrite_c=1)
    power = gram.diagonal().copy()
    if centred:
        sums = x.sum(1, dtype=torch.float64).numpy()
        gram = blas.dsyr(-1 / p, sums, a=gram, lower=1, overwrite_a=1)
    squares, ones = gram.diagonal().copy(), np.ones(n)
    if unit:
        if not (squares > RAW_CLOSENESS * power).all():
            return None
        lengths = torch.from_numpy(np.sqrt(squares))
        torch.from_numpy(gram.T).div_(lengths).div_(lengths[:, None])  # torch has threads for it
        power, squares = power / squares, ones
    gram = blas.dsyr2(-0.5, squares, ones, a=gram, lower=1, overwrite_a=1)
    distances = torch.from_numpy(squareform(gram.T, checks=False)).mul_(-2)
    return distances if bool(distances.min() > RAW_CLOSENESS * 2 * power.max()) else None


def squared_distances(
    x: Float[Tensor, "*batch stimulus neuroid"], *, centred: bool = False, unit: bool = False
) -> Float[Tensor, "*batch pair"]:
    """Return |zᵢ − zⱼ|² for all pairs i < j, in float64.

    Args:
        x: patterns, finite.
        centred: whether z is x less its mean over neuroids.
        unit: whether z is then scaled to length 1. The pairs of a pattern of length 0 are NaN.
    """
    if x.ndim == 2 and x.device.type == "cpu" and not x.requires_grad:
        distances = _raw_distances(x, centred=centred, unit=unit)
        if distances is not None:
            return distances
    if not (centred or unit):
        return factor_distances(lambda: ((block, block) for block in column_blocks(x)))
    mean, length = _standard(x, centred=centred, unit=unit)
    undefined = length.isnan()
    length = length.nan_to_num(nan=1)

    def factors() -> Iterator[tuple[Tensor, Tensor]]:
        for block in column_blocks(x):
            z = (block - mean) / length
            yield z, z

    return factor_distances(factors).masked_fill(condensed(undefined | undefined.mT), torch.nan)

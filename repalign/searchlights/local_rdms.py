"""RDMs of many neighbourhoods at once, all of one size, by products of batches of matrices.

For m members, n stimuli and F folds the patterns are an m × Fn matrix a centre, gathered row by
row; an RDM comes from the n × n matrix of products of these columns. The products take mn(n + 1)
multiplications and additions a centre (twice that without SYRK), a covariance of noise over T
residuals Tm², its factor and inverse m³ and the whitening of the patterns 2Fnm²: that, and reading
8mFn bytes of patterns and writing the 8n² of the products, is the floor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.gram import centre, product, symmetric_product
from repalign.metrics.noise import COVARIANCES, factor_covariance
from repalign.searchlights.patterns import Patterns

Members = Int[Tensor, "centre member"]
Gathered = Float[Tensor, "centre member column"]
Grams = Float[Tensor, "centre stimulus stimulus"]
Pairs = Float[Tensor, "centre pair"]


def take_columns(x: Float[Tensor, "row column"], index: Int[Tensor, "chosen"]) -> Tensor:
    """Return some columns of each row; numpy is three times as quick as torch on the CPU."""
    if x.device.type != "cpu":
        return x[:, index]
    return torch.from_numpy(np.take(x.numpy(), index.numpy(), axis=1))


@dataclass(frozen=True)
class PairIndex:
    """Where the pairs of a condensed RDM stand in a matrix of n stimuli."""

    flat: Int[Tensor, "pair"]
    row: Int[Tensor, "pair"]
    column: Int[Tensor, "pair"]

    @classmethod
    def of(cls, n: int, device: torch.device) -> Self:
        """Of n stimuli."""
        row, column = torch.triu_indices(n, n, 1, device=device)
        return cls(row * n + column, row, column)

    def distances(self, grams: Grams) -> Pairs:
        """Return gᵢᵢ + gⱼⱼ − 2gᵢⱼ of symmetric matrices."""
        own = grams.diagonal(dim1=1, dim2=2)
        pairs = take_columns(grams.flatten(1), self.flat)
        pairs.mul_(-2)
        pairs += take_columns(own, self.row)
        pairs += take_columns(own, self.column)
        return pairs


def gather(table: Float[Tensor, "neuroid column"], members: Members) -> Gathered:
    """Return the rows of the members."""
    return table.index_select(0, members.flatten()).reshape(*members.shape, table.shape[1])


def _one_less_cosine(x: Gathered, pairs: PairIndex) -> Pairs:
    grams = symmetric_product(x.mT)
    own = grams.diagonal(dim1=1, dim2=2)
    inverse = own.masked_fill(own <= 0, torch.nan).rsqrt()  # a pattern of length 0 has no angle
    found = take_columns(grams.flatten(1), pairs.flat)
    found *= take_columns(inverse, pairs.row)
    found *= take_columns(inverse, pairs.column)
    return found.neg_().add_(1)


def _correlation(x: Gathered, pairs: PairIndex) -> Pairs:
    return _one_less_cosine(centre(x, 1), pairs)


def _euclidean(x: Gathered, pairs: PairIndex) -> Pairs:
    return pairs.distances(symmetric_product(x.mT)) / x.shape[1]


@dataclass(frozen=True)
class LocalMethod:
    """How the RDMs of neighbourhoods are made.

    Args:
        shift: what may be subtracted from all patterns beforehand without changing a distance: each
            neuroid's mean over ``stimuli``, each stimulus' mean over all ``neuroids``, or nothing.
        cross_validated: whether products are taken across folds.
        whitened: whether it takes the covariance of noise.
        of_patterns: from patterns without whitening or folds to pairs; None where the products of
            all pairs of folds are needed.
    """

    shift: Literal["stimuli", "neuroids", "none"]
    cross_validated: bool = False
    whitened: bool = False
    of_patterns: Callable[[Gathered, PairIndex], Pairs] | None = None


LOCAL_METHODS: dict[str, LocalMethod] = {
    "correlation": LocalMethod("neuroids", of_patterns=_correlation),
    "cosine": LocalMethod("none", of_patterns=_one_less_cosine),
    "euclidean": LocalMethod("stimuli", of_patterns=_euclidean),
    "mahalanobis": LocalMethod("stimuli", whitened=True, of_patterns=_euclidean),
    "crossnobis": LocalMethod("stimuli", cross_validated=True, whitened=True),
}


class NoInverseError(ValueError):
    """The covariance of noise in a neighbourhood cannot be inverted."""

    def __init__(self, number: int, n_members: int) -> None:
        """Remember which one of the block."""
        self.number, self.n_members = number, n_members
        super().__init__(f"the covariance of neighbourhood {number} has no inverse")


def _whiten(x: Gathered, residuals: Gathered, *, noise: str, freedom: float) -> Gathered:
    """Return L⁻¹x, LLᵀ the covariance of the members' residuals, estimated centre by centre."""
    covariance = COVARIANCES[noise].estimate(residuals.mT, freedom)
    root, invertible = factor_covariance(covariance)
    if not bool(invertible.all()):
        raise NoInverseError(int((~invertible).nonzero()[0, 0]), x.shape[1])
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand_as(root)
    return product(torch.linalg.solve_triangular(root, identity, upper=False), x)


def rdms_of_neighbourhoods(
    patterns: Patterns,
    members: Members,
    *,
    method: str,
    noise: str | None = None,
    pairs: PairIndex | None = None,
) -> Pairs:
    """Return the RDM of each neighbourhood, of those that all have the same number of members.

    The values are those of ``repalign.metrics.rdm`` for each neighbourhood by itself.

    Args:
        patterns: of all neuroids, as ``lay_out`` makes them.
        members: positions of the neuroids of each neighbourhood.
        method: a name in ``LOCAL_METHODS``.
        noise: how the covariance of noise is estimated, a name in ``COVARIANCES``; the identity if
            None.
        pairs: the index of the pairs, where it exists already.

    Raises:
        NoInverseError: a covariance has no inverse.
    """
    kind = LOCAL_METHODS[method]
    n_folds, n = patterns.sums.shape[1:]
    pairs = PairIndex.of(n, patterns.sums.device) if pairs is None else pairs
    x = gather(patterns.sums.flatten(1), members)
    if noise is not None and patterns.residuals is not None:
        residuals = gather(patterns.residuals, members)
        x = _whiten(x, residuals, noise=noise, freedom=patterns.freedom)
    if kind.of_patterns is not None:
        return kind.of_patterns(x, pairs)
    assert patterns.weight is not None
    # Products across folds are those of the sums over folds, less those within folds.
    folds = x.reshape(*x.shape[:2], n_folds, n)
    grams = symmetric_product(folds.sum(2).mT)
    grams -= symmetric_product(folds.flatten(1, 2).mT)
    return pairs.distances(grams / patterns.weight) / x.shape[1]

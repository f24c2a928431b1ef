"""Weighted sums over pairs of stimuli, in two ways that give the same numbers.

``AllPairs`` multiplies the RDMs, which all resamples share, by weights that are mostly not zero.
``DrawnPairs`` gathers the RDMs of the few stimuli that each resample holds, as in a fold.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.pairs import square_form, upper_triangle

BLOCK_ELEMENTS = 1 << 18  # 2 MiB of float64: pairs × resamples that are weighted at a time
FEW = 8  # times fewer pairs that make gathering them cheaper than multiplying all


class PairSums(Protocol):
    """Sums over pairs in a block of resamples, weighted by the multiplicities of both stimuli."""

    weights: Float[Tensor, "stimulus resample"]  # of the stimuli that row effects are of

    def moments(self, *, first: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return Σa², Σa (0 unless ``first``), rdm × resample, and Σ1, resample."""

    def with_pools(
        self, pools: Float[Tensor, "pool subject resample"]
    ) -> Float[Tensor, "pool rdm resample"]:
        """Return Σab of every RDM with b each pool of the first RDMs."""

    def products(
        self, first: Int[Tensor, "product"], second: Int[Tensor, "product"]
    ) -> Float[Tensor, "product resample"]:
        """Return Σab of RDMs ``first`` with RDMs ``second``."""

    def rows(self) -> Float[Tensor, "rdm stimulus resample"]:
        """Return Σⱼ wⱼaᵢⱼ."""


class AllPairs:
    """Sums as products of the RDMs with the weights of all pairs, a run of pairs at a time.

    Args:
        rdms: condensed RDMs of the kept pairs.
        pairs: the two stimuli of each.
        weights: multiplicities, stimulus × resample.
    """

    def __init__(
        self,
        rdms: Float[Tensor, "rdm pair"],
        pairs: tuple[Int[Tensor, "pair"], Int[Tensor, "pair"]],
        weights: Float[Tensor, "stimulus resample"],
    ) -> None:
        """Keep them."""
        self._rdms, self._pairs, self.weights = rdms, pairs, weights

    def _runs(self, width: int = 1) -> Iterator[tuple[slice, Float[Tensor, "pair resample"]]]:
        i, j = self._pairs
        size = max(1, BLOCK_ELEMENTS // max(width, self.weights.shape[1]))
        for start in range(0, len(i), size):
            run = slice(start, start + size)
            yield run, self.weights[i[run]].mul_(self.weights[j[run]])

    def moments(self, *, first: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return Σa², Σa and Σ1."""
        squares = self._rdms.new_zeros(len(self._rdms), self.weights.shape[1])
        sums, count = torch.zeros_like(squares), torch.zeros_like(squares[0])
        for run, pair_weights in self._runs():
            values = self._rdms[:, run]
            squares.addmm_(values.square(), pair_weights)
            if first:
                sums.addmm_(values, pair_weights)
            count += pair_weights.sum(0)
        return squares, sums, count

    def with_pools(
        self, pools: Float[Tensor, "pool subject resample"]
    ) -> Float[Tensor, "pool rdm resample"]:
        """Return Σab of every RDM with b each pool: it costs as much as one subject."""
        found = pools.new_zeros(len(pools), len(self._rdms), pools.shape[2])
        for run, pair_weights in self._runs(pools.shape[2]):
            values = self._rdms[:, run]
            for pool, out in zip(pools, found, strict=True):
                out.addmm_(values, (values[: len(pool)].T @ pool).mul_(pair_weights))
        return found

    def products(
        self, first: Int[Tensor, "product"], second: Int[Tensor, "product"]
    ) -> Float[Tensor, "product resample"]:
        """Return Σab of chosen RDMs."""
        found = self._rdms.new_zeros(len(first), self.weights.shape[1])
        for run, pair_weights in self._runs():
            values = self._rdms[:, run]
            found.addmm_(values[first] * values[second], pair_weights)
        return found

    def rows(self) -> Float[Tensor, "rdm stimulus resample"]:
        """Return Σⱼ wⱼaᵢⱼ; of all pairs only."""
        square = square_form(self._rdms).reshape(-1, len(self.weights))
        return (square @ self.weights).reshape(len(self._rdms), *self.weights.shape)


class DrawnPairs:
    """Sums over the pairs of each resample's own stimuli, of which there are few.

    Args:
        table: values of the kept pairs, pair × rdm, and a last row of zeros.
        number: row of each kept pair in it, stimulus × stimulus; that of other pairs is the last.
        weights: multiplicities, stimulus × resample.
    """

    def __init__(
        self,
        table: Float[Tensor, "pair rdm"],
        number: Int[Tensor, "stimulus stimulus"],
        weights: Float[Tensor, "stimulus resample"],
    ) -> None:
        """Gather the RDMs of the drawn stimuli."""
        n_drawn = most_drawn(weights.T)
        drawn = (weights == 0).to(torch.int8).sort(dim=0, stable=True).indices[:n_drawn].T
        self.weights = weights.gather(0, drawn.T)
        self._table = table
        self._square = number[drawn[:, :, None], drawn[:, None, :]]
        upper = upper_triangle(n_drawn, table.device)
        i, j = upper.nonzero(as_tuple=True)
        pairs = self._square[:, upper]
        known = pairs < len(table) - 1
        self._pair_weights = (self.weights[i] * self.weights[j]).T * known  # resample × pair
        self._values = self._table[pairs]  # resample × pair × rdm

    def moments(self, *, first: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return Σa², Σa and Σ1."""
        weights = self._pair_weights[:, None]
        squares = weights @ self._values.square()
        sums = weights @ self._values if first else torch.zeros_like(squares)
        return squares[:, 0].T, sums[:, 0].T, self._pair_weights.sum(1)

    def with_pools(
        self, pools: Float[Tensor, "pool subject resample"]
    ) -> Float[Tensor, "pool rdm resample"]:
        """Return Σab of every RDM with b each pool."""
        pooled = self._values[:, :, : pools.shape[1]] @ pools.permute(2, 1, 0)
        return (self._values.mT @ (pooled * self._pair_weights[:, :, None])).permute(2, 1, 0)

    def products(
        self, first: Int[Tensor, "product"], second: Int[Tensor, "product"]
    ) -> Float[Tensor, "product resample"]:
        """Return Σab of chosen RDMs."""
        values = self._values[:, :, first] * self._values[:, :, second]
        return (self._pair_weights[:, None] @ values)[:, 0].T

    def rows(self) -> Float[Tensor, "rdm stimulus resample"]:
        """Return Σⱼ wⱼaᵢⱼ."""
        values = self._table[self._square]  # resample × stimulus × stimulus × rdm
        rows = self.weights.T[:, None] @ values.flatten(2)
        return rows.reshape(values.shape[0], *values.shape[2:]).permute(2, 1, 0)


def most_drawn(stimuli: Float[Tensor, "resample stimulus"]) -> int:
    """Return the largest number of distinct stimuli in a resample."""
    return int((stimuli > 0).sum(1).max())

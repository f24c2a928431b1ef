"""Inner products of RDMs in every resample, from sums over pairs: no resampled RDM is built."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repalign.inference.pair_sums import FEW, AllPairs, DrawnPairs, PairSums, most_drawn
from repalign.metrics.gram import centre
from repalign.metrics.pairs import square_form, upper_triangle

BLOCK_ELEMENTS = 1 << 20  # 8 MiB of float64: what a block of resamples holds of each quantity
GATHERED_ELEMENTS = 1 << 17  # 1 MiB: what is gathered for a block, to stay in cache
MOST_RESAMPLES = 256  # in a block: enough for products of matrices at full speed


class RowEffects:
    """What the sum of row effects that fits best takes from whitened products.

    The whitened product of a and b is ``G − rᵃᵀA⁻¹rᵇ`` with ``G = Σᵢ<ⱼ wᵢwⱼ aᵢⱼbᵢⱼ``, the effects
    ``rᵃᵢ = wᵢ Σⱼ wⱼaᵢⱼ`` and ``A = wwᵀ + diag(w(N − 2w + 2))``, N = Σw: a diagonal and a product,
    which Sherman & Morrison's formula inverts in O(n).

    Args:
        weights: multiplicities, stimulus × resample.
    """

    def __init__(self, weights: Float[Tensor, "stimulus resample"]) -> None:
        """Prepare the inverse of A."""
        self.weights = weights
        self.size = weights.sum(0)
        diagonal = weights * (self.size - 2 * weights + 2)
        self._inverse = diagonal.reciprocal().masked_fill(diagonal == 0, 0)
        self._along = self._inverse * weights
        self._shrink = 1 + (weights * self._along).sum(0)
        # A stimulus drawn N/2 + 1 times has a zero on the diagonal: its row gives wᵀx at once.
        self._half = (diagonal == 0) & (weights > 0)
        self._any_half = bool(self._half.any())

    def of(
        self,
        rows: Float[Tensor, "rdm stimulus resample"],
        means: Float[Tensor, "rdm resample"],
    ) -> Float[Tensor, "rdm stimulus resample"]:
        """Return r of each RDM less its mean, from Σⱼ wⱼaᵢⱼ."""
        return self.weights * (rows - means[:, None] * (self.size - self.weights))

    def solve(
        self, effects: Float[Tensor, "*rdm stimulus resample"]
    ) -> Float[Tensor, "*rdm stimulus resample"]:
        """Return A⁻¹r."""
        reached = (self._along * effects).sum(-2, keepdim=True) / self._shrink
        if not self._any_half:
            return self._inverse * effects - self._along * reached
        of_half = (effects / self.weights).where(self._half, 0).sum(-2, keepdim=True)
        reached = of_half.where(self._half.any(0), reached)
        solved = self._inverse * effects - self._along * reached
        rest = (self.weights * solved).sum(-2, keepdim=True)
        return solved + ((reached - rest) / self.weights).where(self._half, 0)


@dataclass(frozen=True)
class PairProducts:
    """RDMs whose products, weighted by multiplicities, are taken.

    Args:
        rdms: condensed RDMs, of the kept pairs.
        kept: which pairs those are.
        n_stimuli: number of stimuli.
        centred: whether each RDM's mean in the resample is subtracted.
        whitened: whether row effects are removed; all pairs must be kept.
    """

    rdms: Float[Tensor, "rdm pair"]
    kept: Bool[Tensor, "all_pairs"]
    n_stimuli: int
    centred: bool
    whitened: bool

    @classmethod
    def of(
        cls,
        rdms: Float[Tensor, "rdm all_pairs"],
        kept: Bool[Tensor, "all_pairs"],
        *,
        n_stimuli: int,
        centred: bool,
        whitened: bool,
    ) -> "PairProducts":
        """Return them ready for use: centred once, so that little is left to cancel."""
        values = rdms[:, kept]
        return cls(centre(values, 1) if centred else values, kept, n_stimuli, centred, whitened)

    def blocks(
        self, stimuli: Int[Tensor, "resample stimulus"], n_resamples: int
    ) -> Iterator[tuple[slice, "ResampledProducts"]]:
        """Yield runs of resamples with their products; one row of ``stimuli`` serves them all."""
        n_drawn, device = most_drawn(stimuli), self.rdms.device
        n_drawn_pairs = n_drawn * (n_drawn - 1) // 2
        few = len(stimuli) > 1 and FEW * n_drawn_pairs <= self.rdms.shape[1]
        width = len(self.rdms)
        if few:
            width *= n_drawn**2 if self.whitened else n_drawn_pairs
        elif self.whitened:
            width *= self.n_stimuli
        size = max(1, min(MOST_RESAMPLES, (GATHERED_ELEMENTS if few else BLOCK_ELEMENTS) // width))
        i, j = upper_triangle(self.n_stimuli, device).nonzero(as_tuple=True)
        pairs = i[self.kept], j[self.kept]
        number = torch.full_like(self.kept, self.rdms.shape[1], dtype=torch.int64)
        number[self.kept] = torch.arange(self.rdms.shape[1], device=device)
        numbers = square_form(number).fill_diagonal_(self.rdms.shape[1])
        zeros = self.rdms.new_zeros(len(self.rdms), 1)
        table = torch.cat([self.rdms, zeros], 1).T.contiguous() if few else zeros
        for start in range(0, n_resamples, size):
            rows = slice(start, start + size)
            weights = (stimuli if len(stimuli) == 1 else stimuli[rows]).to(self.rdms).T.contiguous()
            sums: PairSums = (
                DrawnPairs(table, numbers, weights) if few else AllPairs(self.rdms, pairs, weights)
            )
            yield rows, ResampledProducts(sums, centred=self.centred, whitened=self.whitened)


class ResampledProducts:
    """Squares of RDMs in a block of resamples, and products with weighted sums of them.

    Args:
        sums: sums over pairs in the block.
        centred, whitened: as ``PairProducts`` has them.
    """

    lengths: Float[Tensor, "rdm resample"]  # squares before whitening
    squares: Float[Tensor, "rdm resample"]

    def __init__(self, sums: PairSums, *, centred: bool, whitened: bool) -> None:
        """Sum the squares."""
        self._pairs, self._centred, self._whitened = sums, centred, whitened
        squares, self._sums, n_pairs = sums.moments(first=centred)
        self._means = self._sums / n_pairs if centred else torch.zeros_like(self._sums)
        plain = squares - self._means * self._sums
        # Where only rounding is left, the RDM is constant and has no direction.
        rounding = 1e-13 if squares.dtype == torch.float64 else 1e-5
        self.lengths = plain.masked_fill(plain <= rounding * squares, torch.nan)
        self.squares = self.lengths
        if whitened:
            self._row_effects = RowEffects(sums.weights)
            self._effects = self._row_effects.of(sums.rows(), self._means)
            self._solved = self._row_effects.solve(self._effects)
            length = plain - (self._effects * self._solved).sum(1)
            self.squares = length.masked_fill(length <= rounding * squares, torch.nan)

    def with_pools(
        self, pools: Float[Tensor, "pool subject resample"]
    ) -> Float[Tensor, "pool rdm resample"]:
        """Return the product of every RDM with each pool Σₛ cₛ rdmₛ over the first of the RDMs."""
        n_pooled = pools.shape[1]
        found = self._pairs.with_pools(pools)
        if self._centred:
            found = found - self._means * (pools * self._sums[:n_pooled]).sum(1, keepdim=True)
        if self._whitened:
            for pool, out in zip(pools, found, strict=True):
                pooled = (pool[:, None] * self._solved[:n_pooled]).sum(0)
                out -= (self._effects * pooled).sum(1)
        return found

    def products(
        self, first: Int[Tensor, "product"], second: Int[Tensor, "product"]
    ) -> Float[Tensor, "product resample"]:
        """Return the products of RDMs ``first`` with RDMs ``second``."""
        found = self._pairs.products(first, second)
        if self._centred:
            found = found - self._means[first] * self._sums[second]
        if self._whitened:
            for out, a, b in zip(found, first.tolist(), second.tolist(), strict=True):
                out -= (self._effects[a] * self._solved[b]).sum(0)
        return found

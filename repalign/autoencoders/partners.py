"""The best partner of each unit on the other side: on all stimuli, by chance, and held out."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.folds import fold_masks, shuffled_folds
from repalign.metrics.matching import SemiMatching, standardised
from repalign.progress import track

BLOCK_ELEMENTS = 1 << 24  # correlations that are in memory at a time


def stimulus_orders(n: int, permutations: int, seed: int) -> Tensor:
    """Random orders of the stimuli, one a permutation."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(n, generator=generator) for _ in range(permutations)])


def _blocks(x: Tensor, y: Tensor) -> list[tuple[int, Tensor]]:
    """Columns of x, so few at a time that their correlations with all of y fit into memory."""
    size = max(1, BLOCK_ELEMENTS // y.shape[1])
    return [(start, x[:, start : start + size]) for start in range(0, x.shape[1], size)]


def _similarity(r: Tensor, *, signed: bool) -> Tensor:
    return r if signed else r.abs()


def best_partners(x: Tensor, y: Tensor, *, signed: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best correlation of each column of x and of y, and where it is.

    A constant column is no partner of any, unless all are.
    """
    x, y = standardised(x), standardised(y)
    r_x, best_x = [], []
    r_y = torch.full_like(y[0], -math.inf)
    best_y = torch.zeros(y.shape[1], dtype=torch.int64, device=y.device)
    x_varies, y_varies = x.any(0), y.any(0)
    for start, part in _blocks(x, y):
        varies = x_varies[start : start + part.shape[1]]
        likeness = _similarity(part.mT @ y, signed=signed)
        values, places = likeness.masked_fill(~y_varies, -math.inf).max(1)
        r_x.append(values)
        best_x.append(places)
        values, places = likeness.masked_fill(~varies[:, None], -math.inf).max(0)
        better = values > r_y
        r_y, best_y = values.where(better, r_y), (places + start).where(better, best_y)
    return torch.cat(r_x), r_y, torch.cat(best_x), best_y


def null_maxima(
    x: Tensor, y: Tensor, orders: Tensor, *, signed: bool, progress: bool
) -> tuple[Float[Tensor, "permutation feature"], Float[Tensor, "permutation neuroid"]]:
    """The best correlation of each unit, for each order of the stimuli.

    Constant units are left out: they would be the best wherever all others correlate negatively.
    """
    x, y = standardised(x).float(), standardised(y).float()
    x_varies, y_varies = x.any(0), y.any(0)
    null_x = x.new_full((len(orders), x.shape[1]), -math.inf)
    null_y = x.new_full((len(orders), y.shape[1]), -math.inf)
    blocks = _blocks(x, y)
    for number in track(range(len(orders)), "permutations", show=progress):
        shuffled = y[orders[number].to(y.device)]
        for start, part in blocks:
            columns = slice(start, start + part.shape[1])
            likeness = _similarity(part.mT @ shuffled, signed=signed)
            null_x[number, columns] = likeness.masked_fill(~y_varies, -math.inf).amax(1)
            over = likeness.masked_fill(~x_varies[columns, None], -math.inf).amax(0)
            null_y[number] = torch.maximum(null_y[number], over)
    return null_x, null_y


def held_out_correlations(x: Tensor, y: Tensor, needs: SemiMatching) -> tuple[Tensor, Tensor]:
    """Correlations on each fold with the partners that the other folds choose, averaged."""
    assert needs.folds is not None
    fold = shuffled_folds(len(x), folds=needs.folds, seed=needs.seed).to(x.device)
    scores_x, scores_y = [], []
    for out in fold_masks(fold):
        _, _, best_x, best_y = best_partners(x[~out], y[~out], signed=needs.signed)
        score: Callable[[Tensor, Tensor], Tensor] = _score(out, signed=needs.signed)
        scores_x.append(score(x, y[:, best_x]))
        scores_y.append(score(y, x[:, best_y]))
    return torch.stack(scores_x).nanmean(0), torch.stack(scores_y).nanmean(0)


def held_out_null(
    x: Tensor, y: Tensor, orders: Tensor, needs: SemiMatching
) -> tuple[Float[Tensor, "permutation feature"], Float[Tensor, "permutation neuroid"]]:
    """Held-out correlations, for each order of the stimuli."""
    x, y = x.float(), y.float()
    found = [held_out_correlations(x, y[order.to(y.device)], needs) for order in orders]
    null_x, null_y = (torch.stack(side) for side in zip(*found, strict=True))
    return null_x, null_y


def _score(out: Tensor, *, signed: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """The correlation of columns side by side on one fold, NaN where one is constant in a part."""

    def paired(a: Tensor, b: Tensor) -> Tensor:
        a, b = standardised(a), standardised(b)
        r = (a * b).sum(0)
        return r.masked_fill(~(a.any(0) & b.any(0)), math.nan)

    def score(a: Tensor, b: Tensor) -> Tensor:
        chosen, r = paired(a[~out], b[~out]), paired(a[out], b[out])
        r = r if signed else chosen.sign() * r
        return r.masked_fill(chosen.isnan(), math.nan)

    return score

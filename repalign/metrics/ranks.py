"""Ranks and concordance of dissimilarities, with ties that survive rounding."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repalign.metrics.calls import as_tensor
from repalign.metrics.gram import centre, in_working_precision


def rounding(x: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch 1"]:
    """Return the difference below which two distances of one RDM are the same number."""
    relative = 1e-12 if x.dtype == torch.float64 else 1e-6
    return relative * x.abs().nan_to_num(nan=0, posinf=0).amax(-1, keepdim=True)


def _run_bounds(
    differs: Bool[Tensor, "*batch neighbour"],
) -> tuple[Int[Tensor, "*batch value"], Int[Tensor, "*batch value"]]:
    """Return the first and the last position of each value's run, from where neighbours differ."""
    n = differs.shape[-1] + 1
    edge = differs.new_ones(*differs.shape[:-1], 1)
    position = torch.arange(n, device=differs.device).expand(*differs.shape[:-1], n)
    first = position.where(torch.cat([edge, differs], -1), 0).cummax(-1).values
    last = position.where(torch.cat([differs, edge], -1), n - 1).flip(-1).cummin(-1).values.flip(-1)
    return first, last


def tie_bounds(
    ascending: Float[Tensor, "*batch value"],
) -> tuple[Int[Tensor, "*batch value"], Int[Tensor, "*batch value"]]:
    """Return the first and the last position of each sorted value's group of ties.

    Neighbours that differ by less than 1e-12 of the largest magnitude are tied: distances that
    are equal in theory (of one-hot patterns, say) differ by rounding, which must not rank them.
    """
    return _run_bounds(~(ascending.diff(dim=-1) <= rounding(ascending)))  # NaN differs from all


def average_ranks(x: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch value"]:
    """Return ranks from 1 along the last dimension; ties share their mean rank, NaN stays NaN.

    Values within 1e-12 of the largest magnitude count as tied, unlike in scipy's ``rankdata``.

    Example:
        >>> average_ranks(torch.tensor([30.0, 10.0, 30.0, 20.0]))
        tensor([3.5000, 1.0000, 3.5000, 2.0000], dtype=torch.float64)
    """
    ascending, order = in_working_precision(as_tensor(x)).sort(-1)
    first, last = tie_bounds(ascending)
    middle = (first + last).to(ascending.dtype) / 2 + 1
    ranks = torch.empty_like(ascending).scatter_(-1, order, middle)
    return ranks.masked_fill(x.isnan(), torch.nan)


def centred_ranks(x: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch value"]:
    """Return average ranks less their mean: multiples of ½, exactly."""
    return centre(average_ranks(x), -1)


def _tied_pairs(ascending: Int[Tensor, "*batch value"]) -> Int[Tensor, "*batch"]:
    """Return the number of pairs of equal values."""
    first, last = _run_bounds(ascending.diff(dim=-1) != 0)
    return (last - first).sum(-1) // 2


def _select(x: Int[Tensor, "*any"], mask: Bool[Tensor, "*any"]) -> Int[Tensor, "selected"]:
    if x.device.type != "cpu":
        return x.masked_select(mask)
    return torch.from_numpy(x.numpy().compress(mask.numpy().ravel()))  # ten times as fast


def _inversions(permutation: Int[Tensor, "*batch value"]) -> Int[Tensor, "*batch"]:
    """Return how many pairs of a permutation are in descending order, bit by bit.

    Two numbers are in order or not by the highest bit in which they differ. Numbers that agree in
    all higher bits stand together, in their order, and half of them have this bit set: the ones
    before each zero are counted, then zeros are put before ones.
    """
    n, batch = permutation.shape[-1], permutation.shape[:-1]
    bits = (n - 1).bit_length()
    ascending = torch.arange(n, 1 << bits, device=permutation.device)
    x = torch.cat([permutation, ascending.expand(*batch, -1)], -1).to(torch.int32)
    count = permutation.new_zeros(batch)
    for bit in reversed(range(bits)):
        x = x.reshape(*batch, -1, 2 << bit)
        one = (x & 1 << bit) != 0
        count += one.cumsum(-1, dtype=torch.int32).mul_(~one).sum((-2, -1))
        halves = [_select(x, part).reshape(*batch, -1, 1 << bit) for part in (~one, one)]
        x = torch.stack(halves, -2)
    return count


def _doubled(ranks: Float[Tensor, "*batch value"]) -> Int[Tensor, "*batch value"]:
    return (2 * ranks.nan_to_num()).round().to(torch.int64)


def _undefined(ranks: Float[Tensor, "*batch value"]) -> Bool[Tensor, "*batch"]:
    """Return which rankings hold NaN, or rank nothing because all values are tied."""
    return ranks.isnan().any(-1) | (ranks == 0).all(-1)


def concordance(
    u: Float[Tensor, "*batch value"], v: Float[Tensor, "*batch value"]
) -> Float[Tensor, "*batch"]:
    """Return Σᵢ<ⱼ sign(uᵢ − uⱼ) · sign(vᵢ − vⱼ): concordant less discordant pairs of values.

    Args:
        u, v: centred ranks, value along the last dimension; leading dimensions broadcast.

    Returns:
        The exact number, in O(n log n); NaN where a ranking holds NaN or all its values are tied.

    Example:
        >>> u, v = centred_ranks(torch.tensor([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]]))
        >>> concordance(u, v).item()
        1.0
    """
    n = u.shape[-1]
    a, b = _doubled(u), _doubled(v)
    joint = (a * (2 * n) + b + n).sort(-1).values  # by u, then by v, for −n < b < n
    tied_u, tied_v = (_tied_pairs(x.sort(-1).values) for x in (a, b))
    discordant = _inversions(joint.remainder(2 * n).argsort(dim=-1, stable=True))
    total = n * (n - 1) // 2 - tied_u - tied_v + _tied_pairs(joint) - 2 * discordant
    return total.to(u.dtype).masked_fill(_undefined(u) | _undefined(v), torch.nan)


def untied_pairs(u: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch"]:
    """Return how many pairs of values are not tied: the concordance of a ranking with itself."""
    n = u.shape[-1]
    count = n * (n - 1) // 2 - _tied_pairs(_doubled(u).sort(-1).values)
    return count.to(u.dtype).masked_fill(_undefined(u), torch.nan)


def all_pairs(u: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch"]:
    """Return the number of pairs of values, tied or not; NaN where all are tied."""
    n = u.shape[-1]
    return u.new_full(u.shape[:-1], n * (n - 1) // 2).masked_fill(_undefined(u), torch.nan)


def untied_length(u: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch"]:
    """Return (n³ − n)/12, the sum of squares of n centred ranks without ties; NaN if all tied."""
    n = u.shape[-1]
    return u.new_full(u.shape[:-1], (n**3 - n) / 12).masked_fill(_undefined(u), torch.nan)

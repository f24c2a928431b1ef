"""RDMs as vectors of pairs and as square matrices."""

from math import isqrt

import torch
from jaxtyping import Bool, Float
from scipy.spatial.distance import squareform
from torch import Tensor

from repalign.metrics.calls import Array, Device, as_tensor

MINIMUM_STIMULI = 3  # 2 stimuli make one pair: there is nothing to compare


def upper_triangle(n: int, device: torch.device | None = None) -> Bool[Tensor, "stimulus stimulus"]:
    """Return which entries of a square RDM a condensed one holds."""
    return torch.ones(n, n, dtype=torch.bool, device=device).triu(1)


def condensed(square: Float[Tensor, "*batch stimulus stimulus"]) -> Float[Tensor, "*batch pair"]:
    """Return the upper triangle of square RDMs, row by row."""
    if square.ndim == 2 and square.device.type == "cpu" and not square.requires_grad:
        return torch.from_numpy(squareform(square.contiguous().numpy(), checks=False))
    upper = upper_triangle(square.shape[-1], square.device)
    return square.masked_select(upper).reshape(*square.shape[:-2], -1)


def stimulus_count(n_pairs: int) -> int:
    """Return n for n(n − 1)/2 pairs, or raise a ValueError where no n fits."""
    n = (1 + isqrt(1 + 8 * n_pairs)) // 2
    if n < 2 or n * (n - 1) // 2 != n_pairs:
        raise ValueError(
            f"An RDM of {n_pairs} pairs fits no number of stimuli; expected n(n-1)/2. "
            "Pass the upper triangle without its diagonal."
        )
    return n


def square_form(rdm: Float[Tensor, "*batch pair"]) -> Float[Tensor, "*batch stimulus stimulus"]:
    """Return condensed RDMs as symmetric matrices with a zero diagonal.

    Example:
        >>> square_form(torch.tensor([1.0, 2.0, 3.0]))
        tensor([[0., 1., 2.],
                [1., 0., 3.],
                [2., 3., 0.]])
    """
    n = stimulus_count(rdm.shape[-1])
    zeros = rdm.new_zeros(*rdm.shape[:-1], n, n)
    upper = zeros.masked_scatter(upper_triangle(n, rdm.device), rdm)
    return upper + upper.mT


def _check_square(x: Float[Tensor, "*batch stimulus stimulus"], *, name: str) -> None:
    tolerance = torch.finfo(x.dtype).eps ** 0.5 * x.nan_to_num().abs().amax()
    diagonal = x.diagonal(dim1=-2, dim2=-1).nan_to_num().abs()
    one_sided = x.isnan() != x.mT.isnan()
    if bool((diagonal > tolerance).any()):
        raise ValueError(
            f"The diagonal of {name} holds {diagonal.amax():g}; expected 0 or NaN, the distance of "
            "a stimulus to itself. Pass dissimilarities (1 − r), not similarities."
        )
    if bool(one_sided.any()) or bool(((x - x.mT).nan_to_num().abs() > tolerance).any()):
        raise ValueError(
            f"{name} is not symmetric; an RDM is. Average it with its transpose if both directions "
            "were measured."
        )


def as_condensed(
    x: Array, *, name: str = "a", batch_dims: int = 0, device: Device = None
) -> Float[Tensor, "*batch pair"]:
    """Return condensed or square RDMs as condensed ones, checked; NaN marks a missing pair.

    Args:
        x: pair, or stimulus × stimulus, symmetric with a diagonal of 0 or NaN, after
            ``batch_dims`` leading dimensions.
        name: what errors call it.
        batch_dims: number of leading dimensions that number RDMs.
        device: where to compute; None is where ``x`` is.

    Raises:
        ValueError: another shape, no RDM, infinite values, or fewer than 3 stimuli.
        TypeError: no real numbers.
    """
    rdm = as_tensor(x, name=name, device=device)
    if batch_dims < 0:
        raise ValueError(f"batch_dims is {batch_dims}; expected 0 or more.")
    dims = rdm.ndim - batch_dims
    square = dims == 2 and rdm.shape[-1] == rdm.shape[-2]
    if (dims != 1 and not square) or 0 in rdm.shape:
        batch = f" after {batch_dims} batch dimensions" if batch_dims else ""
        raise ValueError(
            f"{name} has shape {tuple(rdm.shape)}; expected (pair,) or (stimulus, stimulus)"
            f"{batch}. Say with batch_dims={max(rdm.ndim - 1, 0)} that it is a batch of condensed "
            "RDMs."
        )
    if square:
        _check_square(rdm.detach(), name=name)
        rdm = condensed(rdm)
    if bool(rdm.detach().isinf().any()):
        raise ValueError(
            f"{name} has {int(rdm.detach().isinf().sum())} infinite values; mark missing pairs "
            "with NaN."
        )
    n = stimulus_count(rdm.shape[-1]) if rdm.shape[-1] else 1
    if n < MINIMUM_STIMULI:
        raise ValueError(
            f"{name} has {n} stimuli; comparing RDMs needs {MINIMUM_STIMULI} or more. Select more "
            "stimuli."
        )
    return rdm


def stacked_rdms(
    x: Array, *, name: str = "rdms", device: Device = None
) -> Float[Tensor, "rdm pair"]:
    """Return one RDM or several as rdm × pair: condensed, square, or a stack of either.

    Two equal dimensions are one square RDM if it is symmetric with a diagonal of 0 (or NaN).
    """
    rdms = as_tensor(x, name=name, device=device)
    square = rdms.ndim == 2 and rdms.shape[0] == rdms.shape[1]
    if square:
        filled = rdms.detach().nan_to_num()
        square = bool((filled == filled.mT).all()) and not bool(filled.diagonal().any())
    if rdms.ndim == 1 or square:
        return as_condensed(rdms, name=name)[None]
    return as_condensed(rdms, name=name, batch_dims=1)


def check_same_pairs(a: Float[Tensor, "*batch pair"], b: Float[Tensor, "*batch pair"]) -> None:
    """Raise a ValueError unless two condensed RDMs have as many pairs."""
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"The RDMs have {a.shape[-1]} and {b.shape[-1]} pairs; both must cover the same "
            "stimuli. Align them on stimulus_id first."
        )


def shared_pairs(
    a: Float[Tensor, "*batch pair"], b: Float[Tensor, "*batch pair"]
) -> Bool[Tensor, "pair"]:
    """Return the pairs that are missing (NaN) in no RDM.

    A pair that one RDM of a batch misses is left out of all of them.

    Raises:
        ValueError: different pairs are missing in ``a`` and ``b``, or no pair is left.
    """
    missing_a, missing_b = (x.detach().isnan().reshape(-1, x.shape[-1]).any(0) for x in (a, b))
    differ = int((missing_a != missing_b).sum())
    if differ:
        raise ValueError(
            f"{differ} pairs are missing (NaN) in one RDM and not in the other. Set them to NaN in "
            "both to leave them out, or leave out the stimuli concerned."
        )
    if bool(missing_a.all()):
        raise ValueError("All pairs of the RDMs are missing (NaN); there is nothing to compare.")
    return ~missing_a


def check_complete(kept: Bool[Tensor, "pair"], *, what: str) -> None:
    """Raise a ValueError unless the kept pairs are all those of some of the stimuli."""
    square = square_form(kept.to(torch.float32)) > 0
    stimuli = square.any(1)
    if bool(square[stimuli][:, stimuli].sum() != int(stimuli.sum()) * (int(stimuli.sum()) - 1)):
        raise ValueError(
            f"{what} needs all pairs of the stimuli; {int((~kept).sum())} are missing (NaN). Leave "
            "out the stimuli concerned, or use method='cosine_cov'."
        )

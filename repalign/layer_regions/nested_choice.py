"""The choice of a layer on one part of the data, and its score on another."""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

Disjoint = Literal["stimuli", "subjects", "both"]
DISJOINT: tuple[str, ...] = get_args(Disjoint)


class Nested(NamedTuple):
    """What a nested choice gives.

    Attributes:
        chosen: the layer whose score is reported, order × fold × subject.
        scores: its score on what the choice never saw, order × fold × subject.
    """

    chosen: Int[Tensor, "order fold subject"]
    scores: Float[Tensor, "order fold subject"]


def first_of_best(scores: Float[Tensor, "*batch layer"]) -> Int[Tensor, "*batch"]:
    """Which layer is best; the first of those that differ by rounding only."""
    return scores.round(decimals=10).argmax(-1)


def choose_nested(
    choosing: Float[Tensor, "order fold subject layer"],
    held_out: Float[Tensor, "order fold subject layer"],
    *,
    leave_subject_out: bool,
    higher_is_more_similar: bool = True,
) -> Nested:
    """Choose a layer by its mean over subjects, and take its held-out scores.

    A layer whose score is undefined (NaN) for a subject is never chosen where that subject counts;
    of layers that are equal, but for rounding, the first is.

    Args:
        choosing: scores on the part that chooses.
        held_out: scores on the part that is reported.
        leave_subject_out: choose for each subject by the mean over all others.
        higher_is_more_similar: False for distances.

    Raises:
        ValueError: no layer is defined on a part that chooses.

    Example:
        >>> choosing = torch.tensor([[[[0.1, 0.3]]]])
        >>> nested = choose_nested(choosing, choosing - 0.2, leave_subject_out=False)
        >>> nested.chosen.item(), round(nested.scores.item(), 3)
        (1, 0.1)
    """
    signed = choosing if higher_is_more_similar else -choosing
    n = choosing.shape[2]
    if leave_subject_out:
        others = 1 - torch.eye(n, dtype=signed.dtype)
        undefined = torch.einsum("ts,ofsl->oftl", others, signed.isnan().to(signed)) > 0
        pooled = torch.einsum("ts,ofsl->oftl", others, signed.nan_to_num()) / (n - 1)
        pooled = pooled.masked_fill(undefined, -torch.inf)
    else:
        pooled = signed.mean(2, keepdim=True).expand_as(signed).nan_to_num(nan=-torch.inf)
    if bool((pooled == -torch.inf).all(-1).any()):
        raise ValueError(
            "No layer has a defined score on a part of the stimuli: the responses to them, or all"
            " layers, are constant there. Use fewer folds, or leave these stimuli out."
        )
    chosen = first_of_best(pooled)
    return Nested(chosen, held_out.gather(-1, chosen[..., None])[..., 0])

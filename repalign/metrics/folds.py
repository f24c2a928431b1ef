"""Cross-validation folds, and how well held-out predictions foretell each neuroid."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repalign.metrics.comparators import check_choice
from repalign.metrics.gram import centre, in_working_precision

Groups = Sequence[Hashable] | np.ndarray[Any, Any] | Tensor | None


def group_numbers(groups: Groups, n: int) -> Int[Tensor, "stimulus"]:
    """Return the number of each row's group, of labels that may be of any kind.

    Raises:
        ValueError: not one label a row.
    """
    labels = groups.tolist() if isinstance(groups, np.ndarray | Tensor) else list(groups or ())
    if len(labels) != n:
        raise ValueError(f"groups has {len(labels)} labels for {n} stimuli; expected one each.")
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(label, len(numbers)) for label in labels])


def shuffled_folds(
    n: int, *, folds: int, seed: int, groups: Groups = None
) -> Int[Tensor, "stimulus"]:
    """Return the fold of each of ``n`` rows, at random, in sizes as equal as groups allow.

    Groups are shuffled, then dealt to the fold with fewest rows, the largest groups first.

    Args:
        n: number of rows.
        folds: number of folds.
        seed: seed of the shuffle.
        groups: a label for each row (its object, its run); rows of one group share a fold. With as
            many groups as folds, each group is a fold.

    Raises:
        ValueError: not one label a row, or fewer groups than folds.

    Example:
        >>> fold = shuffled_folds(6, folds=2, seed=0, groups=["a", "a", "b", "b", "c", "c"])
        >>> bool((fold[::2] == fold[1::2]).all())
        True
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    fold = torch.empty(n, dtype=torch.int64)
    if groups is None:
        fold[order] = torch.arange(n) % folds
        return fold
    numbers = group_numbers(groups, n).tolist()
    members: dict[int, list[int]] = {}
    for row in order.tolist():
        members.setdefault(numbers[row], []).append(row)
    if len(members) < folds:
        raise ValueError(
            f"There are {len(members)} groups for {folds} folds; a fold needs one group or more. "
            f"Use folds={len(members)} or finer groups."
        )
    sizes = [0] * folds
    for rows in sorted(members.values(), key=len, reverse=True):
        smallest = sizes.index(min(sizes))
        fold[rows] = smallest
        sizes[smallest] += len(rows)
    return fold


def fold_masks(fold: Int[Tensor, "stimulus"]) -> Iterator[Bool[Tensor, "stimulus"]]:
    """Yield the mask of each fold's rows, in the order of the folds' numbers."""
    for number in sorted(set(fold.tolist())):
        yield fold == number


def _pearson(p: Float[Tensor, "row neuroid"], t: Float[Tensor, "row neuroid"]) -> Tensor:
    p, t = centre(p, 0), centre(t, 0)
    return (p * t).sum(0) / (p.square().sum(0).sqrt() * t.square().sum(0).sqrt())


def _r2(p: Float[Tensor, "row neuroid"], t: Float[Tensor, "row neuroid"]) -> Tensor:
    total = centre(t, 0).square().sum(0)
    return (1 - (t - p).square().sum(0) / total).masked_fill(total == 0, torch.nan)


def _explained_variance(p: Float[Tensor, "row neuroid"], t: Float[Tensor, "row neuroid"]) -> Tensor:
    return _r2(centre(p, 0), centre(t, 0))


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "explained_variance": _explained_variance,
    "pearson": _pearson,
    "r2": _r2,
}


def fold_scores(
    predictions: Float[Tensor, "stimulus neuroid"],
    targets: Float[Tensor, "stimulus neuroid"],
    fold: Int[Tensor, "stimulus"],
    *,
    score: str = "pearson",
) -> Float[Tensor, "neuroid"]:
    """Return each neuroid's score within held-out folds, averaged over folds.

    ``pearson``: the correlation of ŷ and y; ``r2``: 1 − Σ(y − ŷ)² / Σ(y − ȳ)², with ȳ the fold's
    mean; ``explained_variance``: 1 − var(y − ŷ) / var(y), blind to an offset of ŷ.

    Scores keep their sign. Squared correlations are above zero without any relation, so that a
    test of their mean against zero would find one: square a score after the average, if at all.

    A fold in which the target (for Pearson: or its prediction) is constant has no score and is left
    out of that neuroid's mean; a neuroid with no other fold is NaN.

    Args:
        predictions, targets: stimulus × neuroid.
        fold: fold of each stimulus.
        score: a name in ``SCORES``.

    Raises:
        ValueError: unknown score.

    Note:
        As scikit-learn's ``r2_score`` and ``explained_variance_score`` a fold, but where a target
        is constant, which they count as 0 or 1.

    Example:
        >>> y = torch.tensor([[1.0], [2.0], [5.0], [3.0]])
        >>> round(fold_scores(2 * y, y, torch.tensor([0, 0, 1, 1])).item(), 6)
        1.0
    """
    check_choice(score, SCORES, "score")
    p, t = in_working_precision(predictions), in_working_precision(targets)
    scores = [SCORES[score](p[held_out], t[held_out]) for held_out in fold_masks(fold)]
    return torch.stack(scores).nanmean(0)


def median_of_defined(scores: Float[Tensor, "*batch neuroid"]) -> Float[Tensor, "*batch"]:
    """Return the median of what is not NaN along the last dimension (of two, the mean)."""
    return scores.nanquantile(0.5, dim=-1)

"""What a metric prepared of a population, for other stimuli or another order of them."""

from jaxtyping import Int
from torch import Tensor

from repalign.metrics.pairs import condensed, square_form


def take_stimuli(prepared: Tensor, rows: Int[Tensor, "chosen"]) -> Tensor:
    """Return what preparing the responses to these stimuli would give, from what was prepared.

    A condensed RDM (one dimension) gives the RDM of the chosen stimuli, a Gram matrix its rows and
    columns. Metrics centre what they compare, so that a mean taken over other stimuli does not
    matter.

    Args:
        prepared: what an ``InnerProductMetric`` prepared.
        rows: places of the stimuli, each at most once: a subset, or a permutation.

    Example:
        >>> import torch
        >>> rdm = torch.tensor([1.0, 2.0, 3.0])  # of the pairs 01, 02, 12
        >>> take_stimuli(rdm, torch.tensor([2, 0, 1]))
        tensor([2., 3., 1.])
    """
    if prepared.ndim == 1:
        return condensed(square_form(prepared)[rows][:, rows])
    return prepared[rows][:, rows]

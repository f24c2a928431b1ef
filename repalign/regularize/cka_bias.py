"""What the biased CKA of a small batch is worth: the value that unrelated responses have."""

from jaxtyping import Float
from torch import Tensor

from repalign.metrics import CKA, biased_cka_null, hsic


class BiasedMetricWarning(UserWarning):
    """A biased metric is trained on batches so small that unrelated responses score high."""


def participation_ratio(x: Float[Tensor, "stimulus unit"]) -> float:
    """Return (Σλ)² / Σλ² of the covariance's eigenvalues, estimated from the stimuli given.

    ``(tr K / (n − 1))² / HSIC(K, K)``, K the centred Gram matrix and HSIC the unbiased one. It
    counts the dimensions that the responses fill; at most the number of units.

    Example:
        >>> import torch
        >>> x = torch.randn(500, 20, generator=torch.Generator().manual_seed(0))
        >>> 17 < participation_ratio(x) <= 20
        True
    """
    gram = CKA(debiased=False).prepare(x.detach())
    squared = float(hsic(gram, gram, debiased=True)) if len(x) >= 4 else 0.0
    ratio = float(gram.trace() / (len(x) - 1)) ** 2 / squared if squared > 0 else float("inf")
    return min(ratio, float(x.shape[1]))


def biased_null(
    objective: object, x: Float[Tensor, "stimulus unit"], y: Float[Tensor, "stimulus neuroid"]
) -> float | None:
    """Return the value that unrelated responses would have, or None for a metric without bias.

    Known for the biased linear CKA only: `repalign.metrics.biased_cka_null` at the participation
    ratios of both sides.
    """
    metric = getattr(objective, "metric", None)
    if not isinstance(metric, CKA) or metric.debiased or metric.kernel != "linear":
        return None
    ratios = participation_ratio(x), participation_ratio(y)
    return biased_cka_null(len(x), *(max(ratio, 1.0) for ratio in ratios))

"""Intervals of RSA with one RDM: the bootstrap over stimuli."""

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.inference.draws import Draws
from repalign.inference.evaluations import evaluate_resamples
from repalign.inference.intervals import Interval, check_confidence, percentile_intervals
from repalign.metrics.pairs import stimulus_count
from repalign.metrics.resampled import draw_multiplicities


def default_resamples(n_pairs: int) -> int:
    """Return as many of 1000 resamples as keep pairs × resamples within 2e8, at least 100."""
    return max(100, min(1000, 200_000_000 // n_pairs))


def bootstrap_rsa(
    rdm: Float[Tensor, "pair"],
    rdms: Float[Tensor, "model pair"],
    *,
    comparator: str = "spearman",
    n_resamples: int | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Interval]:
    """Return the percentile bootstrap interval, over stimuli, of each model's RSA with one RDM.

    Stimuli are drawn with replacement, pairs of a stimulus with itself are excluded, and resamples
    with fewer than 3 distinct stimuli are drawn again. All models share the resamples.

    Args:
        rdm: condensed RDM of the brain (or of any reference); pairs that it misses (NaN) are left
            out of the models' too.
        rdms: condensed RDMs to compare it with, model × pair.
        comparator: a name in ``RESAMPLED``.
        n_resamples: number of resamples; ``default_resamples(n_pairs)`` if None.
        seed: seed of the resamples, which are the same on every device.
        confidence: share of the resamples within the interval.

    Returns:
        One ``Interval`` a model, in order. Resamples in which an RDM is constant are left out.

    Raises:
        ValueError: RDMs of different sizes, a model that misses pairs or a whitened comparator
            where some are missing, fewer than 3 stimuli, unknown comparator, or a confidence
            outside (0, 1).

    Note:
        The interval is for other stimuli and the same subjects: it says nothing of new subjects.

    Example:
        >>> rdms = torch.rand(3, 45, generator=torch.Generator().manual_seed(0))
        >>> [interval.n_resamples for interval in bootstrap_rsa(rdms[0], rdms[1:])]
        [1000, 1000]

    Reference:
        Nili et al. 2014, https://doi.org/10.1371/journal.pcbi.1003553;
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    check_confidence(confidence)
    if rdm.ndim != 1 or rdms.ndim != 2 or rdms.shape[1] != len(rdm):
        raise ValueError(
            f"The RDMs have shapes {tuple(rdm.shape)} and {tuple(rdms.shape)}; expected pair and "
            "model × pair, of the same stimuli. Align them on stimulus_id first."
        )
    n = stimulus_count(len(rdm))
    n_resamples = default_resamples(len(rdm)) if n_resamples is None else n_resamples
    generator = torch.Generator().manual_seed(seed)
    stimuli = draw_multiplicities(n, n_resamples=n_resamples, generator=generator)
    one_subject = torch.ones(n_resamples, 1, dtype=torch.int64)
    draws = Draws(stimuli, one_subject, "stimuli", "bootstrap")
    values = evaluate_resamples(rdms, rdm, draws, comparator=comparator, ceilings=False).models
    return percentile_intervals(values, confidence=confidence, kind="bootstrap over stimuli")

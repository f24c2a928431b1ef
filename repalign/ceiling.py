"""Noise ceilings: the score that a perfect model could reach on noisy recordings."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.calls import as_tensor
from repalign.metrics.comparators import comparator_named
from repalign.metrics.pairs import stimulus_count
from repalign.metrics.subsets import take_stimuli

LEAST_LEFT = 4  # stimuli that a jackknife keeps at least


@dataclass(frozen=True)
class Ceiling:
    """A range of scores that a perfect model would reach.

    Args:
        kind: how it was estimated: ``"split-half"``, or ``"nili"``.
        low, high: the bounds; never clamped, so that ``high`` may exceed 1.
        value: a single estimate between them, where there is one.
        error: standard error over stimuli of ``value``, or of the midpoint of ``low`` and ``high``,
            by a jackknife that leaves out one tenth of the stimuli at a time.
        n_splits: number of random splits, for ``"split-half"``.
        n_subjects: number of subjects, for ``"nili"``.
        note: what a reader of the figure must know.
    """

    kind: str
    low: float
    high: float
    value: float | None = None
    error: float | None = None
    n_splits: int | None = None
    n_subjects: int | None = None
    note: str = ""


def jackknife_error(
    statistic: Callable[[Int[Tensor, "kept"]], float], n: int, *, seed: int = 0
) -> float:
    """Return the standard error over ``n`` stimuli of a statistic of the stimuli that are kept.

    ``√((g − 1)/g · Σ(θᵢ − θ̄)²)``, θᵢ the statistic without the i-th of g = 10 random groups (or of
    as many as leave 4 stimuli or more). No stimulus is ever taken twice, which would bias CKA. NaN
    where the statistic is undefined for a group, or there are fewer than 8 stimuli.

    Example:
        >>> x = torch.arange(40.0)
        >>> error = jackknife_error(lambda kept: float(x[kept].mean()), 40)
        >>> abs(error - float(x.std()) / 40**0.5) < 0.7
        True

    Reference:
        Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 11 (no DOI)
    """
    if n < 2 * LEAST_LEFT:
        return float("nan")
    groups = min(10, n // 2)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    member = torch.empty(n, dtype=torch.int64)
    member[order] = torch.arange(n) % groups
    values = torch.tensor([statistic((member != group).nonzero()[:, 0]) for group in range(groups)])
    return float(((groups - 1) / groups * (values - values.mean()).square().sum()).sqrt())


def nili_ceiling(
    rdms: Float[Tensor, "subject pair"], *, comparator: str = "spearman"
) -> tuple[Float[Tensor, "subject"], Float[Tensor, "subject"]]:
    """Return the lower and the upper noise ceiling of each subject's RDM.

    ``lowerᵢ = compare(rdmᵢ, mean of the other subjects)``, ``upperᵢ = compare(rdmᵢ, mean of all)``,
    with RDMs first brought to the comparator's own scale (centred ranks for Spearman, centred
    values for Pearson) and to unit length. On that scale no RDM is on average more similar to the
    subjects' than their mean is: the mean of ``upper`` bounds every model under cosine, corr and
    rho-a. Under the other comparators it is close to a bound, no more: Spearman ranks the mean
    ranks again (three subjects, three pairs: a model with a tie reaches .866 where ``upper`` is
    .833), and Kendall's taus and the whitened ones have no closed form. The mean of *raw* RDMs is
    far from a bound under Spearman.

    Args:
        rdms: condensed RDMs of the same stimuli, subject × pair.
        comparator: a name in ``COMPARATORS``.

    Returns:
        ``lower`` and ``upper``, one value a subject: their means are the group's ceiling. NaN for
        a subject whose RDM is constant or holds NaN; then so are all that average it.

    Raises:
        ValueError: unknown comparator, or fewer than 2 subjects (with 2, each one's lower bound is
            the similarity of the pair).

    Note:
        Equal to rsatoolbox's ``boot_noise_ceiling``, but under Spearman where RDMs hold ties: it
        averages ranks as they are, which gives an RDM with ties less weight.

    Example:
        >>> lower, upper = nili_ceiling(torch.tensor([[1.0, 2, 3], [1, 3, 2], [1, 2, 3]]))
        >>> lower.mean() < upper.mean()
        tensor(True)

    Reference:
        Nili et al. 2014, https://doi.org/10.1371/journal.pcbi.1003553
    """
    compare = comparator_named(comparator)
    rdms = as_tensor(rdms, name="rdms")
    if rdms.ndim != 2 or len(rdms) < 2:
        raise ValueError(
            f"rdms has shape {tuple(rdms.shape)}; a ceiling between subjects needs subject × pair "
            "with 2 or more subjects. For one subject with repetitions use split_half_ceiling."
        )
    scaled = compare.scaled(rdms)
    scaled = scaled / scaled.square().sum(1, keepdim=True).sqrt()
    total = scaled.sum(0)
    others = (total - scaled) / (len(rdms) - 1)
    return compare(rdms, others), compare(rdms, total / len(rdms))


def ceiling_over_subjects(
    rdms: Float[Tensor, "subject pair"], *, comparator: str = "spearman", subject: int | None = None
) -> Ceiling:
    """Return the bounds of ``nili_ceiling`` as one range, with its standard error over stimuli.

    Args:
        rdms: condensed RDMs of the same stimuli, subject × pair; pairs that one of them misses
            (NaN) are left out of all.
        comparator: a name in ``COMPARATORS``.
        subject: the row whose bounds are wanted; None is the mean over all.

    Example:
        >>> found = ceiling_over_subjects(torch.tensor([[1.0, 2, 3], [1, 3, 2], [1, 2, 3]]))
        >>> found.low < found.high
        True

    Reference:
        Nili et al. 2014, https://doi.org/10.1371/journal.pcbi.1003553
    """

    def bounds(rows: Int[Tensor, "kept"]) -> tuple[float, float]:
        chosen = torch.stack([take_stimuli(rdm, rows) for rdm in rdms])
        chosen = chosen[:, ~chosen.isnan().any(0)]
        low, high = nili_ceiling(chosen, comparator=comparator)
        of_whom = slice(None) if subject is None else slice(subject, subject + 1)
        return float(low[of_whom].mean()), float(high[of_whom].mean())

    n = stimulus_count(rdms.shape[-1])
    low, high = bounds(torch.arange(n))
    error = jackknife_error(lambda rows: sum(bounds(rows)) / 2, n)
    return Ceiling("nili", low, high, error=error, n_subjects=len(rdms))

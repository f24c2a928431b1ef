"""Noise ceilings: the score that a perfect model could reach on noisy recordings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from repalign.metrics import CKA, InnerProductMetric, Metric
from repalign.metrics.comparators import comparator_named
from repalign.metrics.gram import centre, in_working_precision
from repalign.metrics.predictivity import median_of_defined

MINIMUM_REPEATED = 4  # stimuli with repetitions that a split-half ceiling needs


@dataclass(frozen=True)
class Ceiling:
    """A range of scores that a perfect model would reach.

    Args:
        kind: how it was estimated: ``"split-half"``, or ``"nili"``.
        low, high: the bounds; never clamped, so that ``high`` may exceed 1.
        value: a single estimate between them, where there is one.
        n_splits: number of random splits, for ``"split-half"``.
        n_subjects: number of subjects, for ``"nili"``.
        note: what a reader of the figure must know.
    """

    kind: str
    low: float
    high: float
    value: float | None = None
    n_splits: int | None = None
    n_subjects: int | None = None
    note: str = ""


def nili_ceiling(
    rdms: Float[Tensor, "subject pair"], *, comparator: str = "spearman"
) -> tuple[Float[Tensor, "subject"], Float[Tensor, "subject"]]:
    """Return the lower and the upper noise ceiling of each subject's RDM.

    ``lowerᵢ = compare(rdmᵢ, mean of the other subjects)``, ``upperᵢ = compare(rdmᵢ, mean of all)``,
    with RDMs first brought to the comparator's own scale (centred ranks for Spearman, centred
    values for Pearson) and to unit length. On that scale no RDM is on average more similar to the
    subjects' than their mean is, so that the mean of ``upper`` bounds every model (for Spearman the
    ranks of the mean ranks do). The mean of *raw* RDMs is no bound under Spearman.

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


def _recorded(
    responses: Float[Tensor, "repeat stimulus neuroid"],
) -> Bool[Tensor, "repeat stimulus"]:
    """Return which presentations exist, or raise a ValueError where some neuroids miss one."""
    if responses.ndim != 3:
        raise ValueError(
            f"responses has shape {tuple(responses.shape)}; expected repeat × stimulus × neuroid. "
            "Do not average repetitions before a split-half ceiling."
        )
    missing = responses.isnan()
    partial = int((missing.any(-1) & ~missing.all(-1)).sum())
    if partial:
        raise ValueError(
            f"In {partial} presentations some neuroids are NaN and others are not; halves are made "
            "of whole presentations. Select neuroids that were recorded together."
        )
    return ~missing.all(-1)


def _halves(
    responses: Float[Tensor, "repeat stimulus neuroid"],
    recorded: Bool[Tensor, "repeat stimulus"],
    *,
    splits: int,
    seed: int,
    level: bool,
) -> Iterator[tuple[Float[Tensor, "stimulus neuroid"], Float[Tensor, "stimulus neuroid"]]]:
    """Yield averages over two random halves of each stimulus' presentations.

    Of an odd number the second half gets one more. If ``level``, every stimulus gives as many
    presentations as the one that has fewest, so that all are equally noisy.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = recorded.sum(0)
    counts = counts.min().expand_as(counts) if level else counts
    size = counts // 2
    filled = responses.nan_to_num()
    for _ in range(splits):
        draw = torch.rand(recorded.shape, generator=generator).to(recorded.device)
        order = draw.masked_fill(~recorded, 2).argsort(0).argsort(0)
        first, second = order < size, (order >= size) & (order < counts)
        yield (
            (filled * first[..., None]).sum(0) / size[:, None],
            (filled * second[..., None]).sum(0) / (counts - size)[:, None],
        )


def _population_ceiling(
    full: Tensor, metric: InnerProductMetric
) -> Callable[[Tensor, Tensor], float]:
    prepared = metric.prepare(full)
    length = metric.inner(prepared, prepared)

    def ceiling(first: Tensor, second: Tensor) -> float:
        return float((metric.inner(metric.prepare(first), metric.prepare(second)) / length).sqrt())

    return ceiling


def _neuroid_ceiling(full: Tensor) -> Callable[[Tensor, Tensor], float]:
    variance = centre(full, 0).square().sum(0)

    def ceiling(first: Tensor, second: Tensor) -> float:
        shared = (centre(first, 0) * centre(second, 0)).sum(0)
        return float(median_of_defined((shared / variance).clamp(min=0).sqrt()))

    return ceiling


def split_half_ceiling(
    responses: Float[Tensor, "repeat stimulus neuroid"],
    metric: Metric,
    *,
    splits: int = 20,
    seed: int = 0,
) -> Ceiling:
    """Estimate the score of the noise-free population against the average of its repetitions.

    ``ceiling = √(⟨h₁, h₂⟩ / ⟨f, f⟩)``, with h₁ and h₂ the averages over two random halves of each
    stimulus' repetitions and f the average over all. For RSA and CKA the inner products are the
    metric's own: of RDMs, or the HSIC of Gram matrices. For a metric with a score per neuroid it
    is each neuroid's covariance and variance over stimuli, and the median over neuroids is taken.

    Why: the truth t scores ⟨t, f⟩ / √(⟨t, t⟩⟨f, f⟩). Noise is independent between repetitions, so
    where preparing is unbiased (covariances; debiased HSIC, blind to the diagonal; squared
    Euclidean RDMs under Pearson, blind to a constant), ⟨t, f⟩ and ⟨h₁, h₂⟩ both have expectation
    ⟨t, t⟩, which leaves √(⟨t, t⟩ / ⟨f, f⟩). Unlike a Spearman–Brown correction it assumes neither
    halves of equal size nor a correlation; per neuroid and for equal halves it is
    √(2r / (1 + r)).

    Args:
        responses: repeat × stimulus × neuroid; a missing presentation is NaN in all neuroids.
        metric: an RSA, CKA or Ridge, or another with their methods.
        splits: number of random splits.
        seed: seed of the splits.

    Returns:
        A ``Ceiling`` of kind ``"split-half"``: the median over splits, and as ``low`` and ``high``
        their 2.5th and 97.5th percentiles: the spread over splits of these data, not a confidence
        interval. Nothing is clamped at 1.

    Raises:
        ValueError: fewer than 4 stimuli with 2 repetitions or more, presentations that are NaN in
            some neuroids only, fewer than 1 split, or the wrong shape.
        TypeError: a metric that has neither an inner product nor scores.

    Note:
        Stimuli with one repetition are left out; the note says how many. A split whose ratio is
        negative (no reliable signal) is NaN and left out of median and percentiles; a *neuroid*
        whose halves covary negatively counts as 0, since leaving it out would raise the median.

        The ceiling is conservative (too low) for RSA with correlation distances or Spearman: noise
        shrinks the differences between distances, and halves are noisier than the average. It is
        too high for the biased CKA and for cosines of RDMs, where the noise of each half adds to
        ⟨h₁, h₂⟩. The note says so.

        Where stimuli differ in their repetitions, the distances of those with few are larger in
        both halves, which would pass for shared signal. The debiased CKA and covariances do not
        see it and take all repetitions; for RSA each split takes from every stimulus, at random,
        as many as the stimulus with fewest has. All of them enter f.

    Example:
        >>> from repalign.metrics import CKA
        >>> draw = torch.Generator().manual_seed(0)
        >>> signal = torch.randn(30, 10, generator=draw)
        >>> trials = signal + torch.randn(8, 30, 10, generator=draw)
        >>> 0.8 < split_half_ceiling(trials, CKA()).value < 1
        True

    Reference:
        Derived above; the reliability per neuroid is that of Schoppe et al. 2016,
        https://doi.org/10.3389/fncom.2016.00010
    """
    if splits < 1:
        raise ValueError(f"splits is {splits}; expected 1 or more. Use 20.")
    recorded = _recorded(responses)
    repeated = recorded.sum(0) >= 2
    kept, recorded = in_working_precision(responses[:, repeated]), recorded[:, repeated]
    if kept.shape[1] < MINIMUM_REPEATED:
        raise ValueError(
            f"{kept.shape[1]} of {responses.shape[1]} stimuli have 2 or more repetitions; a "
            f"split-half ceiling needs {MINIMUM_REPEATED} such stimuli. Use single trials, or no "
            "split-half ceiling."
        )
    full = kept.nanmean(0)
    if isinstance(metric, InnerProductMetric):
        ceiling = _population_ceiling(full, metric)
    elif hasattr(metric, "scores"):
        ceiling = _neuroid_ceiling(full)
    else:
        raise TypeError(
            f"{type(metric).__name__} has neither inner() nor scores(); expected a metric such as "
            "RSA, CKA or Ridge. Give it one of the two."
        )
    level = isinstance(metric, InnerProductMetric) and not isinstance(metric, CKA)
    halves = _halves(kept, recorded, splits=splits, seed=seed, level=level)
    values = torch.tensor([ceiling(*pair) for pair in halves], dtype=torch.float64)
    low, middle, high = values.nanquantile(values.new_tensor([0.025, 0.5, 0.975])).tolist()
    note = _note(metric, left_out=int((~repeated).sum()), undefined=int(values.isnan().sum()))
    return Ceiling("split-half", low, high, value=middle, n_splits=splits, note=note)


def _note(metric: Metric, *, left_out: int, undefined: int) -> str:
    remarks = []
    if left_out:
        remarks.append(f"{left_out} stimuli with fewer than 2 repetitions left out")
    if undefined:
        remarks.append(f"{undefined} splits undefined (no reliable signal)")
    if getattr(metric, "debiased", True) is False or getattr(metric, "comparator", "") == "cosine":
        remarks.append("too high: a biased measure counts noise as signal")
    elif metric.name == "rsa":
        remarks.append("conservative for RSA")
    return "; ".join(remarks)

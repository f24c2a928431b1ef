"""Split-half noise ceilings: what the noise-free population would score, from repetitions."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repalign.ceiling import Ceiling, jackknife_error
from repalign.metrics import CKA, InnerProductMetric, Metric
from repalign.metrics.calls import as_tensor, recorded_presentations
from repalign.metrics.folds import median_of_defined
from repalign.metrics.gram import centre, in_working_precision
from repalign.metrics.subsets import take_stimuli

MINIMUM_REPEATED = 4  # stimuli with repetitions that a split-half ceiling needs
SPLITS_OF_ERROR = 4  # splits that the jackknife over stimuli repeats


def _recorded(
    responses: Float[Tensor, "repeat stimulus neuroid"],
) -> Bool[Tensor, "repeat stimulus"]:
    """Return which presentations exist, or raise a ValueError where some neuroids miss one."""
    if responses.ndim != 3:
        raise ValueError(
            f"responses has shape {tuple(responses.shape)}; expected repeat × stimulus × neuroid. "
            "Do not average repetitions before a split-half ceiling."
        )
    return recorded_presentations(responses, name="responses")


def split_half_masks(
    recorded: Bool[Tensor, "repeat stimulus"], *, splits: int, seed: int, level: bool
) -> Iterator[tuple[Bool[Tensor, "repeat stimulus"], Bool[Tensor, "repeat stimulus"]]]:
    """Yield random halves of each stimulus' presentations.

    Of an odd number the second half gets one more. If ``level``, every stimulus gives as many
    presentations as the one that has fewest, so that all are equally noisy.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = recorded.sum(0)
    counts = counts.min().expand_as(counts) if level else counts
    size = counts // 2
    for _ in range(splits):
        draw = torch.rand(recorded.shape, generator=generator).to(recorded.device)
        order = draw.masked_fill(~recorded, 2).argsort(0).argsort(0)
        yield order < size, (order >= size) & (order < counts)


def random_halves(
    responses: Float[Tensor, "repeat stimulus neuroid"],
    recorded: Bool[Tensor, "repeat stimulus"],
    *,
    splits: int,
    seed: int,
    level: bool,
) -> Iterator[tuple[Float[Tensor, "stimulus neuroid"], Float[Tensor, "stimulus neuroid"]]]:
    """Yield averages over two random halves of each stimulus' presentations."""
    filled = responses.nan_to_num()
    for halves in split_half_masks(recorded, splits=splits, seed=seed, level=level):
        first, second = (
            (filled * half[..., None]).sum(0) / half.sum(0)[:, None] for half in halves
        )
        yield first, second


Statistic = Callable[[Int[Tensor, "kept"]], float]


def _population_ceiling(full: Tensor, metric: InnerProductMetric) -> Callable[..., Statistic]:
    whole = metric.prepare(full)

    def of_halves(first: Tensor, second: Tensor) -> Statistic:
        prepared = metric.prepare(first), metric.prepare(second)

        def ceiling(kept: Tensor) -> float:
            a, b, f = (take_stimuli(one, kept) for one in (*prepared, whole))
            return float((metric.inner(a, b) / metric.inner(f, f)).sqrt())

        return ceiling

    return of_halves


def _neuroid_ceiling(full: Tensor) -> Callable[..., Statistic]:
    def of_halves(first: Tensor, second: Tensor) -> Statistic:
        def ceiling(kept: Tensor) -> float:
            a, b, f = (centre(one[kept], 0) for one in (first, second, full))
            ratio = (a * b).sum(0) / f.square().sum(0)
            return float(median_of_defined(ratio.clamp(min=0).sqrt()))

        return ceiling

    return of_halves


def has_split_half(metric: Metric) -> bool:
    """Whether a split-half ceiling can be derived: inner products of averages, or neuroid scores.

    Not for cross-validated distances, which are unbiased as they are, nor for the Bures similarity,
    whose fidelity is no inner product.
    """
    if isinstance(metric, InnerProductMetric):
        return not metric.needs_repeats and getattr(metric, "comparator", "") != "bures"
    return hasattr(metric, "scores")


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
        interval; ``error`` is the standard error over stimuli. Nothing is clamped at 1.

    Raises:
        ValueError: fewer than 4 stimuli with 2 repetitions or more, presentations that are NaN in
            some neuroids only, a metric without such a ceiling (``has_split_half``), fewer than 1
            split, or the wrong shape.

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
    responses = as_tensor(responses, name="responses")
    if not has_split_half(metric):
        raise ValueError(
            f"{metric.name} as it is set has no split-half ceiling: that takes inner products of "
            "averages (RSA, CKA) or a score per neuroid. Use ceiling='none'."
        )
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
    else:
        ceiling = _neuroid_ceiling(full)
    level = isinstance(metric, InnerProductMetric) and not isinstance(metric, CKA)
    halves = random_halves(kept, recorded, splits=splits, seed=seed, level=level)
    every = torch.arange(kept.shape[1])
    found: list[float] = []
    few: list[Statistic] = []
    for pair in halves:
        statistic = ceiling(*pair)  # holds what the metric prepared: only a few are kept
        found.append(statistic(every))
        few += [statistic] * (len(few) < SPLITS_OF_ERROR)
    values = torch.tensor(found, dtype=torch.float64)

    def middle_of_few(rows: Tensor) -> float:
        return float(torch.tensor([statistic(rows) for statistic in few]).nanmedian())

    error = jackknife_error(middle_of_few, kept.shape[1], seed=seed)
    low, middle, high = values.nanquantile(values.new_tensor([0.025, 0.5, 0.975])).tolist()
    note = _note(metric, left_out=int((~repeated).sum()), undefined=int(values.isnan().sum()))
    return Ceiling("split-half", low, high, value=middle, error=error, n_splits=splits, note=note)


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
    if getattr(metric, "kernel", "linear") != "linear":
        remarks.append("approximate: each half has a bandwidth of its own")
    return "; ".join(remarks)

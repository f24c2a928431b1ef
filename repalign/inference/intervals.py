"""Confidence intervals from resampled values: percentile, BCa and t."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from scipy.special import ndtr, ndtri
from scipy.stats import t as student_t
from torch import Tensor

from repalign.inference.draws import Over

IntervalChoice = Literal["percentile", "bca", "t"]
INTERVALS: tuple[str, ...] = get_args(IntervalChoice)


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Args:
        low, high: its ends.
        kind: how it was made, such as ``"bootstrap over stimuli, percentile, 95 %"``.
        n_resamples: number of resamples, or of delete-one values.
    """

    low: float
    high: float
    kind: str
    n_resamples: int


def check_confidence(confidence: float) -> None:
    """Raise a ValueError unless the confidence is a share."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a share between 0 and 1, as 0.95.")


def check_interval(interval: str, *, over: Over) -> None:
    """Raise a ValueError where the kind of interval is unknown, or unfit for what is resampled."""
    if interval not in INTERVALS:
        raise ValueError(f"interval is {interval!r}; expected one of {', '.join(INTERVALS)}.")
    if over == "both" and interval != "t":
        raise ValueError(
            f"interval={interval!r} does not apply to a bootstrap over stimuli and subjects: the "
            "resampled values vary too much, and the two-factor correction mends their variance, "
            "not their distribution. Use interval='t', or resample one of the two."
        )


def percentile_intervals(
    values: Float[Tensor, "resample model"], *, confidence: float, kind: str
) -> list[Interval]:
    """Return the middle share of the resampled values of each model; NaN are left out."""
    check_confidence(confidence)
    tail = (1 - confidence) / 2
    ends = values.nanquantile(values.new_tensor([tail, 1 - tail]), dim=0).T.tolist()
    kind = f"{kind}, percentile, {100 * confidence:g} %"
    return [Interval(low, high, kind, len(values)) for low, high in ends]


def bca_intervals(
    values: Float[Tensor, "resample model"],
    estimates: Float[Tensor, "model"],
    left_out: Float[Tensor, "unit model"],
    *,
    confidence: float = 0.95,
    kind: str = "bootstrap",
) -> list[Interval]:
    """Return bias-corrected and accelerated intervals.

    The ends are the quantiles ``Φ(z₀ + (z₀ + z)/(1 − a(z₀ + z)))`` of the resampled values, with z
    the normal quantiles of the two tails, Φ(z₀) the share of values below the estimate (half of
    those equal to it count), and ``a = Σ(θ̄ − θᵢ)³ / 6(Σ(θ̄ − θᵢ)²)^{3/2}`` over the values θᵢ
    without one unit.

    Args:
        values: resampled values, resample × model; NaN are left out.
        estimates: the values of the data as they are.
        left_out: the values without each stimulus (or subject, if those were resampled) in turn.
        confidence: coverage of the intervals.
        kind: what was resampled, for ``Interval.kind``.

    Returns:
        One ``Interval`` a model. NaN where the estimate lies outside all resampled values, so that
        no share of them corrects its bias, or where leaving out units changes nothing.

    Raises:
        ValueError: a confidence outside (0, 1), or numbers of models that differ.

    Example:
        >>> x = torch.randn(30, 1, generator=torch.Generator().manual_seed(0)).double().exp()
        >>> rows = torch.randint(30, (999, 30), generator=torch.Generator().manual_seed(1))
        >>> without = (x.sum() - x) / 29
        >>> interval = bca_intervals(x[rows].mean(1), x.mean(0), without)[0]
        >>> interval.low < x.mean().item() < interval.high
        True

    Reference:
        Efron 1987, https://doi.org/10.1080/01621459.1987.10478410
    """
    check_confidence(confidence)
    if not values.shape[1] == len(estimates) == left_out.shape[1]:
        raise ValueError(
            f"There are {values.shape[1]} columns of values, {len(estimates)} estimates and "
            f"{left_out.shape[1]} columns of delete-one values; expected one a model."
        )
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    kind = f"{kind}, BCa, {100 * confidence:g} %"
    intervals = []
    for of_model, estimate, without in zip(values.T, estimates, left_out.T, strict=True):
        known = of_model[~of_model.isnan()].cpu().double()
        share = (
            (known < estimate.cpu()).double() + 0.5 * (known == estimate.cpu()).double()
        ).mean()
        from_mean = (without.mean() - without).cpu().double()
        acceleration = (from_mean**3).sum() / (6 * (from_mean**2).sum() ** 1.5)
        bias = float(ndtri(float(share)))
        shifted = bias + torch.from_numpy(ndtri(tails.numpy()))
        levels = torch.from_numpy(ndtr((bias + shifted / (1 - acceleration * shifted)).numpy()))
        low = high = float("nan")
        if 0 < share < 1 and bool(levels.isfinite().all()):
            low, high = known.quantile(levels).tolist()
        intervals.append(Interval(low, high, kind, len(values)))
    return intervals


def t_intervals(
    estimates: Float[Tensor, "model"],
    variances: Float[Tensor, "model"],
    *,
    degrees_of_freedom: int,
    n_resamples: int,
    confidence: float = 0.95,
    kind: str = "bootstrap",
) -> list[Interval]:
    """Return ``estimate ± t · √variance``, with t the quantile of Student's distribution.

    Args:
        estimates: one value a model.
        variances: the variance of each, as ``estimated_variances`` gives it.
        degrees_of_freedom: of the t distribution: number of units − 1, of the smaller number if
            stimuli and subjects were resampled.
        n_resamples: how many resamples gave the variances.
        confidence: coverage of the intervals.
        kind: what was resampled, for ``Interval.kind``.

    Raises:
        ValueError: a confidence outside (0, 1), or fewer than 1 degree of freedom.

    Example:
        >>> one = t_intervals(
        ...     torch.ones(1), torch.ones(1), degrees_of_freedom=4, n_resamples=1000
        ... )[0]
        >>> round(one.low, 3), round(one.high, 3), one.kind
        (-1.776, 3.776, 'bootstrap, t with 4 degrees of freedom, 95 %')

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    check_confidence(confidence)
    if degrees_of_freedom < 1:
        raise ValueError(
            f"degrees_of_freedom is {degrees_of_freedom}; expected 1 or more: resample 2 or more "
            "units."
        )
    reach = float(student_t.ppf((1 + confidence) / 2, degrees_of_freedom)) * variances.sqrt()
    ends: Sequence[tuple[float, float]] = list(
        zip((estimates - reach).tolist(), (estimates + reach).tolist(), strict=True)
    )
    kind = f"{kind}, t with {degrees_of_freedom} degrees of freedom, {100 * confidence:g} %"
    return [Interval(low, high, kind, n_resamples) for low, high in ends]

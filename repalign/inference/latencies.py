"""When a time course begins and when it peaks, with intervals over subjects."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

from repalign.inference.intervals import check_confidence

Method = Literal["bootstrap", "jackknife"]


@dataclass(frozen=True)
class Latency:
    """A time with its interval over subjects, in the unit of the times.

    Args:
        value: of the mean over subjects; NaN where it is undefined.
        low, high: the interval; NaN where it is undefined.
        error: standard error.
        kind: what was measured, and how the interval was made.
        n_undefined: resamples (or subjects left out) in which it was undefined.
    """

    value: float
    low: float
    high: float
    error: float
    kind: str
    n_undefined: int


def peak_latency(
    courses: Float[Tensor, "*course time"], times: Float[Tensor, "time"]
) -> Float[Tensor, "*course"]:
    """Return the time of each course's largest value, the first of equal ones; NaN without any.

    Example:
        >>> peak_latency(torch.tensor([0.0, 1.0, 3.0, 2.0]), torch.tensor([0.0, 10, 20, 30])).item()
        20.0
    """
    lowest = courses.nan_to_num(nan=-torch.inf)
    found = times[lowest.argmax(-1)]
    return found.masked_fill(~courses.isfinite().any(-1), torch.nan)


def onset_latency(
    courses: Float[Tensor, "*course time"],
    times: Float[Tensor, "time"],
    *,
    fraction: float = 0.5,
    baseline: tuple[float, float] | None = None,
) -> Float[Tensor, "*course"]:
    """Return when each course last rises to a fraction of its peak before the peak.

    The level is ``b + fraction · (peak − b)``, with b the mean of the baseline (0 without one).
    Going back from the peak, the onset lies where the course crosses the level, between two times
    by linear interpolation. It does not depend on the noise level as a first significant time does.

    Args:
        courses: similarity along time.
        times: of the bins, ascending.
        fraction: of the peak, between 0 and 1.
        baseline: first and last time of the baseline, both included.

    Returns:
        NaN where the peak is not above the baseline, or the course never was below the level.

    Example:
        >>> course = torch.tensor([0.0, 0.0, 1.0, 2.0, 1.0])
        >>> onset_latency(course, torch.tensor([0.0, 10, 20, 30, 40]), fraction=0.25).item()
        15.0

    Reference:
        Miller, Patterson & Ulrich 1998, https://doi.org/10.1111/1469-8986.3510099
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}; expected one between 0 and 1, such as .5.")
    level = courses.new_zeros(courses.shape[:-1])
    if baseline is not None:
        before = (times >= baseline[0]) & (times <= baseline[1])
        if not bool(before.any()):
            raise ValueError(
                f"The baseline {baseline[0]:g} to {baseline[1]:g} holds none of the times "
                f"{float(times[0]):g} to {float(times[-1]):g}."
            )
        level = courses[..., before].mean(-1)
    defined = courses.isfinite().all(-1)
    known = courses.nan_to_num()
    top, place = known.max(-1)
    rises = defined & (top > level)
    level = level + fraction * (top - level)
    below = (known < level[..., None]) & (torch.arange(len(times)) < place[..., None])
    last = (below * torch.arange(1, len(times) + 1)).amax(-1) - 1  # −1 where it never was below
    rises &= last >= 0
    left = last.clamp(min=0)
    right = (left + 1).clamp(max=len(times) - 1)
    a, b = (known.gather(-1, at[..., None])[..., 0] for at in (left, right))
    share = (level - a) / (b - a).where(b > a, 1)
    return (times[left] + share * (times[right] - times[left])).masked_fill(~rises, torch.nan)


def latency(
    courses: Float[Tensor, "subject time"],
    times: ArrayLike,
    *,
    of: Literal["onset", "peak"] = "onset",
    fraction: float = 0.5,
    baseline: tuple[float, float] | None = None,
    method: Method = "jackknife",
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Latency:
    """Return onset or peak of the mean course over subjects, with its interval over subjects.

    ``jackknife``: ``s² = (n − 1)/n · Σ(θᵢ − θ̄)²``, θᵢ the latency of the mean without subject i,
    and ``θ ± t·s`` with n − 1 degrees of freedom. ``bootstrap``: percentiles of the latency of the
    mean over subjects drawn with replacement. Both average before they look for the time, since
    onsets of single noisy subjects are biased.

    Args:
        courses: similarity, subject × time.
        times: of the bins, ascending.
        of: ``onset``, see ``onset_latency``, or ``peak``.
        fraction, baseline: of the onset.
        method: ``jackknife`` or ``bootstrap``. A peak moves in steps of a bin: bootstrap it.
        confidence: of the interval.
        n_resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        A ``Latency``. The interval is NaN where more than 1 in 20 resamples, or any jackknifed
        mean, had no latency: the interval of the rest would be too narrow.

    Raises:
        ValueError: fewer than 2 subjects, times that are not ascending or of another number, NaN
            in the courses, or an unknown choice.

    Example:
        >>> times = torch.arange(0.0, 100, 10)
        >>> course = (-((times - 50) / 20).square()).exp()
        >>> found = latency(course + torch.linspace(0, 0.1, 6)[:, None], times, of="peak")
        >>> found.value, found.error
        (50.0, 0.0)

    Reference:
        Miller, Patterson & Ulrich 1998, https://doi.org/10.1111/1469-8986.3510099
    """
    check_confidence(confidence)
    rows = courses.detach().double().cpu()
    at = torch.as_tensor(np.asarray(times, dtype=np.float64))
    if of not in ("onset", "peak") or method not in get_args(Method):
        raise ValueError(
            f"of is {of!r} and method {method!r}; expected 'onset' or 'peak', and 'jackknife' or "
            "'bootstrap'."
        )
    if rows.ndim != 2 or len(rows) < 2 or at.shape != rows.shape[1:]:
        raise ValueError(
            f"courses has shape {tuple(courses.shape)} and there are {at.numel()} times; expected "
            "subject × time with 2 or more subjects. For one subject see onset_latency."
        )
    if bool((at.diff() <= 0).any()) or not bool(rows.isfinite().all()):
        raise ValueError("Times must ascend, and courses hold no NaN: leave these bins out.")

    def measure(means: Tensor) -> Tensor:
        if of == "peak":
            return peak_latency(means, at)
        return onset_latency(means, at, fraction=fraction, baseline=baseline)

    n, total = len(rows), rows.sum(0)
    value = float(measure(total / n))
    what = "peak" if of == "peak" else f"onset at {fraction:g} of the peak"
    if method == "jackknife":
        found = measure((total - rows) / (n - 1))
        undefined = int(found.isnan().sum())
        error = float(((n - 1) / n * (found - found.mean()).square().sum()).sqrt())
        reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
        kind = f"{what}, jackknife over {n} subjects"
        return Latency(value, value - reach, value + reach, error, kind, undefined)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (n_resamples, n), generator=generator)
    weights = torch.zeros(n_resamples, n, dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.ones_like(weights))
    found = measure(weights @ rows / n)
    undefined = int(found.isnan().sum())
    known = found[~found.isnan()]
    kind = f"{what}, bootstrap over {n} subjects, {n_resamples} resamples"
    if undefined > n_resamples / 20 or len(known) < 2:
        return Latency(value, float("nan"), float("nan"), float("nan"), kind, undefined)
    ends = known.quantile(known.new_tensor([(1 - confidence) / 2, (1 + confidence) / 2])).tolist()
    return Latency(value, ends[0], ends[1], float(known.std()), kind, undefined)

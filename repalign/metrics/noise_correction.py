"""How reliable each neuroid is over repetitions, and scores corrected for it."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from repalign.metrics.calls import (
    Array,
    Device,
    as_tensor,
    average_of_repeats,
    recorded_presentations,
)
from repalign.metrics.folds import Groups, fold_scores, group_numbers
from repalign.metrics.gram import in_working_precision
from repalign.metrics.predictivity import Predictivity

MINIMUM_REPEATED = 3  # stimuli with repetitions: two give correlations of ±1 only


def reliability(
    y: Float[Array, "repeat stimulus neuroid"],
    *,
    splits: int = 100,
    seed: int = 0,
    device: Device = None,
) -> Float[Tensor, "neuroid"]:
    """Return the reliability of each neuroid's average over repetitions.

    Split half with Spearman–Brown: with r the correlation over stimuli of averages over two
    disjoint halves of the repetitions, averaged over random splits, the reliability of the average
    over all is k·r / (1 + (k − 1)·r). For an even number of repetitions k is 2.

    Args:
        y: repeat × stimulus × neuroid; a missing presentation is NaN in all neuroids. Stimuli may
            differ in how many they have: the repetitions are shuffled, alike for all stimuli, and
            each stimulus halves what it has of them.
        splits: number of random splits.
        seed: seed of the splits.
        device: where to compute; None is where ``y`` is.

    Returns:
        One value a neuroid. It is an estimate that noise may take below 0, and below −1 where r
        nears −1; it is never clamped. NaN for a neuroid that is constant over stimuli.

    Raises:
        ValueError: fewer than 3 stimuli with 2 repetitions or more, or another shape.

    Note:
        Of m presentations both halves get ⌊m/2⌋. k is the ratio of the noise of a half to that of
        the average over all, mean(1/⌊m/2⌋) / mean(1/m) over stimuli, which takes noise to be alike
        in all presentations. A stimulus with a single one is in no half, and counts in the average.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> signal = torch.randn(500, 1, generator=draw)
        >>> trials = signal + torch.randn(4, 500, 1, generator=draw)  # 1 / (1 + 1/4) in expectation
        >>> round(reliability(trials).item(), 1)
        0.8

    Reference:
        Spearman 1910, https://doi.org/10.1111/j.2044-8295.1910.tb00206.x; Brown 1910,
        https://doi.org/10.1111/j.2044-8295.1910.tb00207.x
    """
    y = _with_repeats(y, name="y", device=device)
    recorded = recorded_presentations(y, name="y")
    repeated = _repeated(recorded, name="y")
    whole = torch.zeros(int(repeated.sum()), dtype=torch.int64, device=y.device)
    correlations = [
        fold_scores(first, second, whole)
        for first, second in _halves(y, recorded, splits=splits, seed=seed)
    ]
    return _spearman_brown(torch.stack(correlations).mean(0), recorded)


def noise_corrected(
    r_xy: Float[Tensor, "*batch"],
    r_xx: Float[Tensor, "*batch"] | float = 1.0,
    r_yy: Float[Tensor, "*batch"] | float = 1.0,
) -> Float[Tensor, "*batch"]:
    """Return the correlation that is left without noise, r_xy / √(r_xx·r_yy).

    Args:
        r_xy: correlation of two noisy measurements.
        r_xx, r_yy: their reliabilities; 1 is free of noise.

    Returns:
        An estimate that may exceed 1 and is never clamped. NaN where a reliability is 0 or less:
        what is not reliable has no correlation to speak of.

    Example:
        >>> round(noise_corrected(torch.tensor(0.4), 0.8, 0.5).item(), 4)
        0.6325

    Reference:
        Spearman 1904, https://doi.org/10.2307/1412159
    """
    r_xy = as_tensor(r_xy, name="r_xy")
    x, y = (torch.as_tensor(r, dtype=r_xy.dtype, device=r_xy.device) for r in (r_xx, r_yy))
    reliable = (x > 0) & (y > 0)
    return torch.where(reliable, r_xy / (x * y).abs().sqrt(), torch.nan)


def noise_corrected_scores(
    metric: Predictivity,
    x: Float[Array, "repeat stimulus feature"] | Float[Array, "stimulus feature"],
    y: Float[Array, "repeat stimulus neuroid"],
    *,
    groups: Groups = None,
    splits: int = 20,
    seed: int = 0,
    device: Device = None,
) -> Float[Tensor, "neuroid"]:
    """Return each neuroid's predictivity, corrected for the noise of both sides.

    The score of the averages over repetitions, over the square root of the reliability of y's
    average and of that of the prediction. The latter is the correlation, within held-out folds, of
    predictions from two halves of x's repetitions, raised to the whole by Spearman–Brown; it is 1
    for an ``x`` without repetitions, such as a network.

    Args:
        metric: a predictivity metric whose score is the Pearson correlation.
        x: responses that predict, with or without repetitions.
        y: responses to be predicted, with repetitions.
        groups, device: as in a call of the metric.
        splits: number of random splits of ``x``, two fits each, and of ``y``.
        seed: seed of the splits.

    Returns:
        One value a neuroid; NaN where a side is unreliable (0 or less) or the neuroid constant.
        Take the median over what is not NaN, and say how many are.

    Raises:
        ValueError: a metric with another score, or no repetitions of ``y``.

    Note:
        Exact where the fit itself is: the noise of the training responses, which a longer recording
        would remove too, is not corrected for, so that the result is rather too low.

    Example:
        >>> from repalign.metrics.ridge import Ridge
        >>> draw = torch.Generator().manual_seed(0)
        >>> x = torch.randn(400, 3, generator=draw)
        >>> trials = x @ torch.randn(3, 2, generator=draw) + torch.randn(6, 400, 2, generator=draw)
        >>> bool(((noise_corrected_scores(Ridge(), x, trials) - 1).abs() < 0.05).all())
        True
    """
    if metric.score != "pearson":
        raise ValueError(
            f"The metric's score is {metric.score!r}; noise correction is for correlations. Use "
            "score='pearson'."
        )
    r_yy = reliability(y, splits=splits, seed=seed, device=device)
    scores = metric.scores(x, y, groups=groups, device=device)
    tensor = as_tensor(x, device=device)
    if tensor.ndim == 2:
        return noise_corrected(scores, 1.0, r_yy)
    r_xx = _reliability_of_predictions(
        metric, tensor, as_tensor(y, name="y", device=tensor.device), groups, splits, seed
    )
    return noise_corrected(scores, r_xx, r_yy)


def _reliability_of_predictions(
    metric: Predictivity, x: Tensor, y: Tensor, groups: Groups, splits: int, seed: int
) -> Float[Tensor, "neuroid"]:
    x = in_working_precision(x)
    recorded = recorded_presentations(x)
    repeated = _repeated(recorded, name="x")
    targets = average_of_repeats(in_working_precision(y), name="y")[repeated]
    numbers = None if groups is None else group_numbers(groups, len(repeated))[repeated.cpu()]
    correlations = []
    for halves in _halves(x, recorded, splits=splits, seed=seed):
        (first, fold), (second, _) = (metric.predict(h, targets, groups=numbers) for h in halves)
        correlations.append(fold_scores(first, second, fold))
    return _spearman_brown(torch.stack(correlations).mean(0), recorded)


def _with_repeats(y: Array, *, name: str, device: Device) -> Float[Tensor, "repeat stimulus unit"]:
    tensor = in_working_precision(as_tensor(y, name=name, device=device))
    if tensor.ndim != 3:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected (repeat, stimulus, neuroid). Do not "
            "average repetitions before taking their reliability."
        )
    return tensor


def _repeated(recorded: Bool[Tensor, "repeat stimulus"], *, name: str) -> Bool[Tensor, "stimulus"]:
    """Return which stimuli have 2 repetitions or more; a ValueError where they are too few."""
    repeated = recorded.sum(0) >= 2
    if int(repeated.sum()) < MINIMUM_REPEATED:
        raise ValueError(
            f"{int(repeated.sum())} of {len(repeated)} stimuli of {name} have 2 or more "
            f"repetitions; reliability needs {MINIMUM_REPEATED} such stimuli."
        )
    return repeated


def _halves(
    y: Float[Tensor, "repeat stimulus neuroid"],
    recorded: Bool[Tensor, "repeat stimulus"],
    *,
    splits: int,
    seed: int,
) -> Iterator[tuple[Float[Tensor, "repeated neuroid"], Float[Tensor, "repeated neuroid"]]]:
    """Yield averages over two random halves of the presentations of each repeated stimulus.

    Repetitions are shuffled alike for all stimuli, so that what a session shifts in all of them
    stays in one half, where it does not pass for noise.
    """
    if splits < 1:
        raise ValueError(f"splits is {splits}; expected 1 or more. Use 100.")
    repeated = recorded.sum(0) >= 2
    y, recorded = y[:, repeated].nan_to_num(), recorded[:, repeated]
    size = recorded.sum(0) // 2
    generator = torch.Generator().manual_seed(seed)
    for _ in range(splits):
        draw = torch.rand(len(recorded), 1, generator=generator).to(y.device)
        order = torch.where(recorded, draw, 2.0).argsort(0).argsort(0)
        members = (order < size), (order >= size) & (order < 2 * size)
        first, second = ((y * each[..., None]).sum(0) / size[:, None] for each in members)
        yield first, second


def _spearman_brown(
    r: Float[Tensor, "neuroid"], recorded: Bool[Tensor, "repeat stimulus"]
) -> Float[Tensor, "neuroid"]:
    """Raise the correlation of halves to the reliability of the average over all repetitions."""
    counts = recorded.sum(0).to(r.dtype)
    half_noise = (1 / (counts[counts >= 2] // 2)).mean()
    factor = half_noise / (1 / counts).mean()
    return factor * r / (1 + (factor - 1) * r)

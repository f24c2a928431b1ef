"""Intervals of held-out scores: over the stimuli of the folds, or over subjects."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from scipy.stats import t as student_t
from torch import Tensor

from repalign.inference import Interval, bootstrap_predictions
from repalign.inference.intervals import check_confidence
from repalign.inference.prediction_intervals import FEWEST_HELD_OUT, smallest_fold
from repalign.layer_regions.nested_choice import choose_nested
from repalign.layer_regions.part_scores import (
    as_square,
    at_places,
    parts_of_folds,
    predict_folds,
    unit_vectors,
)
from repalign.metrics import Metric
from repalign.metrics.predictivity import Predictivity


def _t_interval(
    value: float, variance: float, *, freedom: int, n: int, confidence: float, kind: str
) -> Interval:
    reach = float(student_t.ppf((1 + confidence) / 2, freedom)) * variance**0.5
    kind = f"{kind}, t with {freedom} degrees of freedom, {100 * confidence:g} %"
    return Interval(value - reach, value + reach, kind, n)


def interval_over_subjects(
    choosing: Float[Tensor, "1 fold subject layer"],
    held_out: Float[Tensor, "1 fold subject layer"],
    value: float,
    *,
    confidence: float,
    higher_is_more_similar: bool,
) -> Interval | None:
    """Return the jackknife interval over subjects of the whole nested choice.

    ``var = (S − 1)/S Σ(v₍ₛ₎ − v̄)²``, with v₍ₛ₎ the value when subject s neither chooses nor is
    scored. Subjects' held-out scores are not independent, for each of them chose for the others:
    their t interval missed the truth in a fifth of null data sets, with 20 layers.

    Returns:
        None for fewer than 3 subjects.

    Reference:
        Efron & Stein 1981, https://doi.org/10.1214/aos/1176345462
    """
    check_confidence(confidence)
    n = choosing.shape[2]
    if n < 3:
        return None
    left = []
    for s in range(n):
        kept = [other for other in range(n) if other != s]
        nested = choose_nested(
            choosing[:, :, kept],
            held_out[:, :, kept],
            leave_subject_out=True,
            higher_is_more_similar=higher_is_more_similar,
        )
        left.append(nested.scores.mean())
    values = torch.stack(left)
    return _t_interval(
        value,
        float((n - 1) / n * (values - values.mean()).square().sum()),
        freedom=n - 1,
        n=n,
        confidence=confidence,
        kind="jackknife over subjects",
    )


def interval_over_stimuli(
    metric: Metric,
    brains: Sequence[Tensor],
    models: Sequence[Tensor],
    fold: Int[Tensor, "stimulus"],
    chosen: Int[Tensor, "fold"],
    value: float,
    *,
    confidence: float,
) -> Interval | None:
    """Return the jackknife interval of the mean over folds of the chosen layers' scores.

    In each fold every held-out stimulus is left out in turn, with the chosen layer as it is:
    ``var = Σ_f (n_f − 1)/n_f Σᵢ(v₍ᵢ₎ − v̄)² / F²``, and t with n − F degrees of freedom. What the
    choice itself varies with new stimuli is left out.

    Returns:
        None for metrics that are no cosine of matrices, and for folds too small to leave one out.

    Reference:
        Efron & Stein 1981, https://doi.org/10.1214/aos/1176345462
    """
    check_confidence(confidence)
    unit = unit_vectors(metric)
    parts = [rows for _, rows in parts_of_folds(fold)]
    if unit is None or min(map(len, parts)) <= metric.minimum_stimuli:
        return None
    squares = [as_square(brain) for brain in brains]
    variance = 0.0
    for rows, layer in zip(parts, chosen.tolist(), strict=True):
        m = len(rows)
        kept = rows.repeat(m, 1)[~torch.eye(m, dtype=torch.bool)].reshape(m, m - 1)
        kept = kept.to(squares[0].device)
        model = unit(at_places(as_square(models[layer]), kept))
        values = torch.stack([(unit(at_places(one, kept)) * model).sum(1) for one in squares])
        of_mean = values.mean(0)
        variance += (m - 1) / m * float((of_mean - of_mean.mean()).square().sum())
    n = len(fold)
    return _t_interval(
        value,
        variance / len(parts) ** 2,
        freedom=n - len(parts),
        n=n,
        confidence=confidence,
        kind="jackknife over held-out stimuli",
    )


def interval_of_predictions(
    metric: Predictivity,
    brains: Sequence[Float[Tensor, "stimulus neuroid"]],
    models: Sequence[Tensor],
    fold: Int[Tensor, "stimulus"],
    chosen: Int[Tensor, "fold"],
    *,
    groups: Sequence[str] | None,
    seed: int,
    confidence: float,
) -> Interval | None:
    """Return the bootstrap interval over held-out stimuli of the chosen layers' predictions.

    For one subject, Pearson and folds of 3 or more only: the median over neuroids is one subject's.
    """
    if len(brains) > 1 or metric.score != "pearson" or smallest_fold(fold) < FEWEST_HELD_OUT:
        return None
    brain = brains[0]
    predictions = torch.empty_like(brain, dtype=torch.float64)
    for layer in sorted(set(chosen.tolist())):
        found = predict_folds(metric, brain, models[layer], fold, groups)
        of_layer = (chosen == layer)[fold].to(brain.device)
        predictions[of_layer] = found[of_layer].to(predictions)
    return bootstrap_predictions(
        predictions, brain, fold.to(brain.device), seed=seed, confidence=confidence
    )

"""Scores of models against one brain: values, intervals over stimuli, a null of shuffles."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from repalign.inference import (
    RESAMPLED,
    Interval,
    bootstrap_predictions,
    bootstrap_rsa,
    jackknife_cka,
)
from repalign.inference.prediction_intervals import FEWEST_HELD_OUT, smallest_fold
from repalign.metrics import CKA, RSA, InnerProductMetric, Metric
from repalign.metrics.comparators import comparator_named
from repalign.metrics.folds import fold_scores, median_of_defined
from repalign.metrics.predictivity import Predictivity
from repalign.metrics.subsets import take_stimuli
from repalign.populations import MatchedPopulation

NULL_DRAWS, NULL_STIMULI = 20, 300  # shuffles for the null, up to so many stimuli


@dataclass(frozen=True)
class Resampling:
    """How stimuli are resampled: number of resamples (None chooses, 0: no interval), level, seed.

    ``groups`` are labels of the stimuli that folds keep together.
    """

    n_resamples: int | None
    confidence: float
    seed: int
    groups: Sequence[str] | None = None


Scores = Iterator[tuple[float, Interval | None]]


def scores_of(
    brain: MatchedPopulation,
    models: Sequence[MatchedPopulation],
    metric: Metric,
    resampling: Resampling,
) -> Scores:
    """Value and interval of each model, in their order."""
    for kind, scores in SCORES.items():
        if isinstance(metric, kind):
            return scores(metric, brain, models, resampling)
    return ((value_of(metric, brain.prepared, model.prepared), None) for model in models)


def settings_that_count(
    metric: Metric,
    n_stimuli: int,
    *,
    n_resamples: int | None,
    confidence: float,
    null_draws: int | None,
    seed: int,
) -> dict[str, Any]:
    """Which of the settings can change a value, its interval or its null; others are left out.

    Two calls with the same dict have the same results, bit for bit.

    Example:
        >>> settings_that_count(
        ...     CKA(), 400, n_resamples=100, confidence=0.95, null_draws=None, seed=3
        ... )
        {'interval': 'jackknife', 'confidence': 0.95}
    """
    bootstrap = {"interval": "bootstrap", "confidence": confidence, "seed": seed}
    counting: dict[str, Any] = {}
    if n_resamples == 0:
        pass
    elif isinstance(metric, RSA):
        if comparator_named(metric.comparator).name in RESAMPLED:
            counting = bootstrap | {"n_resamples": n_resamples}
    elif isinstance(metric, CKA):
        counting = {"interval": "jackknife", "confidence": confidence}
    elif isinstance(metric, Predictivity) and metric.score == "pearson":
        counting = bootstrap | {"n_resamples": 1000 if n_resamples is None else n_resamples}
    draws = _draws(null_draws, n_stimuli)
    return counting | ({"null_draws": draws, "seed": seed} if draws else {})


def _draws(draws: int | None, n_stimuli: int) -> int:
    if draws is None:
        return NULL_DRAWS if n_stimuli <= NULL_STIMULI else 0
    return draws


def value_of(metric: Metric, brain: Tensor, model: Tensor) -> float:
    """The metric of what ``match_population`` prepared; the model predicts the brain."""
    if isinstance(metric, RSA):
        return _rsa_value(metric, brain, model)
    of_prepared = getattr(metric, "compare_prepared", metric)
    return float(of_prepared(model, brain))


def _rsa_value(metric: RSA, brain: Tensor, model: Tensor) -> float:
    """RSA of the pairs that the brain's RDM does not miss."""
    missing = brain.isnan()
    if bool(missing.any()):
        brain, model = brain[~missing], model[~missing]
    return float(metric.compare_prepared(model, brain))


def null_of(
    metric: Metric,
    brain: MatchedPopulation,
    model: MatchedPopulation,
    *,
    draws: int | None,
    seed: int,
) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the value with the brain's stimuli shuffled."""
    draws = _draws(draws, len(brain.ids))
    if draws == 0:
        return None, None
    generator = torch.Generator().manual_seed(seed)
    orders = (torch.randperm(len(brain.ids), generator=generator) for _ in range(draws))
    shuffles = (_shuffled(metric, brain.prepared, order) for order in orders)
    if isinstance(metric, Predictivity) and metric.fits_alone:
        targets = list(shuffles)  # side by side, so that all share the folds' factorisations
        predictions, fold = metric.predict_prepared(model.prepared, torch.cat(targets, 1))
        scores = fold_scores(predictions, torch.cat(targets, 1), fold, score=metric.score)
        values = median_of_defined(scores.reshape(draws, -1)).tolist()
    else:
        values = [value_of(metric, one, model.prepared) for one in shuffles]
    if not all(map(math.isfinite, values)):
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if draws > 1 else None


def _shuffled(metric: Metric, prepared: Tensor, order: Tensor) -> Tensor:
    """RDMs and Gram matrices in another order of stimuli, or responses, which may be square too."""
    if isinstance(metric, InnerProductMetric):
        return take_stimuli(prepared, order)
    return prepared[..., order, :]


def _rsa_scores(
    metric: RSA,
    brain: MatchedPopulation,
    models: Sequence[MatchedPopulation],
    resampling: Resampling,
) -> Scores:
    values = [_rsa_value(metric, brain.prepared, model.prepared) for model in models]
    intervals: Sequence[Interval | None] = [None] * len(models)
    if resampling.n_resamples != 0 and comparator_named(metric.comparator).name in RESAMPLED:
        intervals = bootstrap_rsa(
            brain.prepared,
            torch.stack([model.prepared for model in models]),
            comparator=metric.comparator,
            n_resamples=resampling.n_resamples,
            seed=resampling.seed,
            confidence=resampling.confidence,
        )
    return iter(list(zip(values, intervals, strict=True)))


def _cka_scores(
    metric: CKA,
    brain: MatchedPopulation,
    models: Sequence[MatchedPopulation],
    resampling: Resampling,
) -> Scores:
    for model in models:
        value = float(metric.compare_prepared(brain.prepared, model.prepared))
        interval = None
        if resampling.n_resamples != 0 and len(brain.prepared) >= (5 if metric.debiased else 3):
            interval = jackknife_cka(
                brain.prepared,
                model.prepared,
                debiased=metric.debiased,
                confidence=resampling.confidence,
            )
        yield value, interval


def _predictivity_scores(
    metric: Predictivity,
    brain: MatchedPopulation,
    models: Sequence[MatchedPopulation],
    resampling: Resampling,
) -> Scores:
    for model in models:
        predictions, fold = metric.predict_prepared(
            model.prepared, brain.prepared, groups=resampling.groups
        )
        each = fold_scores(predictions, brain.prepared, fold, score=metric.score)
        interval = None
        resampled = resampling.n_resamples != 0 and metric.score == "pearson"
        if resampled and smallest_fold(fold) >= FEWEST_HELD_OUT:
            interval = bootstrap_predictions(
                predictions,
                brain.prepared,
                fold,
                n_resamples=1000 if resampling.n_resamples is None else resampling.n_resamples,
                seed=resampling.seed,
                confidence=resampling.confidence,
            )
        yield float(median_of_defined(each)), interval


SCORES: dict[type, Callable[..., Scores]] = {
    RSA: _rsa_scores,
    CKA: _cka_scores,
    Predictivity: _predictivity_scores,
}

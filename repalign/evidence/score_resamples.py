"""The result of one region from values of its subjects, which their parts resample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from repalign.evidence.materials import Candidate, Region
from repalign.evidence.plans import Plan, make_draws
from repalign.evidence.resampled import (
    Parts,
    Scored,
    known,
    over_subjects,
    summed_variances,
    variances_of_ceilings,
    variances_of_parts,
    variances_without_blocks,
)
from repalign.inference import Draws, Variances
from repalign.metrics import Metric
from repalign.scoring import value_of


def scored(
    by_subject: Tensor,
    ceilings: tuple[float, float, str],
    parts: Parts,
    draws: dict[str, Draws],
    plan: Plan,
    *,
    degrees_lost: int = 1,
    chance: Tensor | None,
) -> Scored:
    """The result of one region, with the variances that its parts give.

    ``degrees_lost`` is the number of groups of stimuli within which they were resampled.
    """
    variances_of = partial(_variances, draws=draws, degrees_lost=degrees_lost)
    without = (by_subject.sum(0) - by_subject) / max(1, len(by_subject) - 1)
    return Scored(
        values=by_subject.mean(0).cpu().double(),
        lower=known(ceilings[0]),
        upper=known(ceilings[1]),
        ceiling=ceilings[2],
        by_subject=by_subject.cpu().double(),
        parts=parts,
        draws=draws,
        variances=variances_of(parts),
        without=variances_without_blocks(parts, draws, variances_of),
        ceiling_variances=variances_of_ceilings(parts, variances_of),
        left_out=without.cpu().double() if plan.interval == "bca" else None,
        chance=None if chance is None else chance.cpu().double(),
    )


def _variances(parts: Parts, *, draws: dict[str, Draws], degrees_lost: int) -> Variances:
    found = {name: variances_of_parts({name: part}, draws[name]) for name, part in parts.items()}
    if degrees_lost > 1:
        n = draws["stimuli"].n_units
        one = found["stimuli"]  # drawn within folds: each of them loses one
        factor = (n / (n - degrees_lost)) / (n / (n - 1)) * shared_training(degrees_lost)
        found["stimuli"] = Variances(
            factor * one.models,
            factor * one.differences,
            factor * one.to_lower,
            factor * one.to_upper,
            n - degrees_lost,
        )
    if len(found) == 1:
        return next(iter(found.values()))
    return summed_variances(found["stimuli"], found["subjects"])


def shared_training(folds: int) -> float:
    """By how much training sets that overlap raise the variance of a mean over folds.

    ``(1/k + 1/(k − 1)) / (1/k)`` for k folds, of which each is tested with what the others train.
    Without it unrelated responses are found to be predicted too often.

    Reference:
        Nadeau & Bengio 2003, https://doi.org/10.1023/A:1024068626366
    """
    return 1 + folds / (folds - 1)


def subject_draws(plan: Plan, n_stimuli: int, n_subjects: int) -> Draws:
    """The bootstrap of subjects, whatever else is resampled."""
    return make_draws(replace(plan, over="subjects", method="bootstrap"), n_stimuli, n_subjects)


def score_others(
    metric: Metric, region: Region, candidates: Sequence[Candidate], plan: Plan
) -> Scored:
    """Any metric, over subjects only: values of each subject are all it takes."""
    rows = [
        [value_of(metric, brain.prepared, one.prepared) for one in candidates]
        for brain in region.brains
    ]
    by_subject = torch.tensor(rows, dtype=torch.float64)
    drawn = make_draws(plan, len(region.brains[0].ids), len(rows))
    return scored(
        by_subject,
        (float("nan"), float("nan"), f"none: none is known for {metric.name} as it is set"),
        {"subjects": over_subjects(by_subject, drawn)},
        {"subjects": drawn},
        plan,
        chance=None,
    )

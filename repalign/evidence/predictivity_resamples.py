"""Predictivity of every subject by every model, held out and resampled within folds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from repalign.evidence.chunks import in_chunks
from repalign.evidence.materials import Candidate, Region
from repalign.evidence.plans import Plan
from repalign.evidence.resampled import Scored, over_subjects
from repalign.evidence.score_resamples import scored, subject_draws
from repalign.evidence.split_halves import split_half_of_neuroids, why_no_halves
from repalign.inference import Draws, Evaluations
from repalign.inference.prediction_intervals import (
    FEWEST_HELD_OUT,
    draws_within_folds,
    resampled_predictivity,
    smallest_fold,
)
from repalign.metrics.folds import fold_scores, median_of_defined
from repalign.metrics.predictivity import Predictivity


def score_predictivity(
    metric: Predictivity, region: Region, candidates: Sequence[Candidate], plan: Plan
) -> Scored:
    """Predictivity: held-out predictions resampled within folds, and the bootstrap of subjects."""
    n_stimuli, n_subjects = len(region.brains[0].prepared), len(region.brains)
    rows: list[list[float]] = []
    resampled: list[Tensor] = []
    drawn: dict[str, Draws] = {}
    if plan.over != "stimuli":
        drawn["subjects"] = subject_draws(plan, n_stimuli, n_subjects)
    fold = None
    for brain in region.brains:
        targets, columns, row = brain.prepared, [], []
        for one in candidates:
            predictions, fold = metric.predict_prepared(one.prepared, targets)
            of_folds = fold_scores(predictions, targets, fold, score=metric.score)
            row.append(float(median_of_defined(of_folds)))
            if plan.over == "subjects":
                continue
            if smallest_fold(fold) < FEWEST_HELD_OUT:
                raise ValueError(
                    f"{n_stimuli} stimuli in {int(fold.max()) + 1} folds are"
                    f" {smallest_fold(fold)} in the smallest, where a correlation is 1 or −1"
                    f" whatever is drawn; {FEWEST_HELD_OUT} or more are needed. Add stimuli, use"
                    " fewer folds, or over='subjects'."
                )
            if "stimuli" not in drawn:
                counts = draws_within_folds(fold, n_resamples=plan.n_resamples, seed=plan.seed)
                ones = torch.ones(len(counts), n_subjects, dtype=torch.int64)
                drawn["stimuli"] = Draws(counts, ones, "stimuli", "bootstrap")

            def chunk(
                part: Draws,
                _: slice,
                predictions: Tensor = predictions,
                targets: Tensor = targets,
                fold: Tensor = fold,
            ) -> Tensor:
                return resampled_predictivity(predictions, targets, fold, part.stimuli).cpu()

            columns.append(torch.cat(in_chunks(chunk, drawn["stimuli"], workers=plan.workers)))
        rows.append(row)
        resampled += [torch.stack(columns, 1)] if columns else []
    by_subject = torch.tensor(rows, dtype=torch.float64)
    value, in_resamples, in_subjects, kind = _halves(metric, region, drawn, plan)
    parts: dict[str, Evaluations] = {}
    if resampled:
        mean = torch.stack(resampled).mean(0).double()
        parts["stimuli"] = Evaluations(mean, in_resamples, in_resamples)
    if "subjects" in drawn:
        bounds = (in_subjects, in_subjects)
        parts["subjects"] = over_subjects(by_subject, drawn["subjects"], bounds)
    return scored(
        by_subject,
        (value, value, kind),
        parts,
        {name: drawn[name] for name in parts},
        plan,
        degrees_lost=1 if fold is None or not resampled else int(fold.max()) + 1,
        chance=torch.zeros_like(by_subject),
    )


def _halves(
    metric: Predictivity, region: Region, drawn: dict[str, Draws], plan: Plan
) -> tuple[float, Tensor, Tensor, str]:
    """Mean over subjects of their split-half ceilings, in the data and in either resamples."""
    sizes = {name: len(draws) for name, draws in drawn.items()}
    undefined = {
        name: torch.full((sizes.get(name, 0),), torch.nan, dtype=torch.float64)
        for name in ("stimuli", "subjects")
    }
    reasons = [why_no_halves(metric, brain) for brain in region.brains]
    reason = next((one for one in reasons if one is not None), None)
    if reason is not None:
        reason = reason.replace("one subject,", "a subject") if len(reasons) > 1 else reason
        return float("nan"), undefined["stimuli"], undefined["subjects"], reason
    ones = torch.ones(1, len(region.brains[0].ids), dtype=torch.int64)
    once = Draws(ones, torch.ones(1, len(region.brains), dtype=torch.int64), "stimuli", "bootstrap")
    of_stimuli = drawn.get("stimuli", once)
    of_each = [split_half_of_neuroids(metric, brain, of_stimuli, plan) for brain in region.brains]
    values = torch.tensor([value for value, _ in of_each], dtype=torch.float64)
    if "stimuli" in drawn:
        undefined["stimuli"] = torch.stack([found for _, found in of_each]).mean(0)
    if "subjects" in drawn:
        undefined["subjects"] = over_subjects(values[:, None], drawn["subjects"]).models[:, 0]
    return float(values.mean()), undefined["stimuli"], undefined["subjects"], "split-half"

"""CKA, predictivity and other metrics of every subject with every model, in resamples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from repalign.evidence.chunks import in_chunks
from repalign.evidence.materials import Candidate, Region
from repalign.evidence.plans import Plan, make_draws
from repalign.evidence.resampled import (
    Parts,
    Scored,
    join,
    known,
    over_subjects,
    summed_variances,
    variances_of_ceilings,
    variances_of_parts,
)
from repalign.evidence.split_halves import (
    split_half_of_grams,
    split_half_of_neuroids,
    why_no_halves,
)
from repalign.inference import Draws, Evaluations, Variances
from repalign.inference.cka_intervals import SubsampledProducts
from repalign.inference.evaluations import pooled_ceilings
from repalign.inference.label_permutations import chance_of_products
from repalign.inference.prediction_intervals import (
    FEWEST_HELD_OUT,
    draws_within_folds,
    resampled_predictivity,
    smallest_fold,
)
from repalign.metrics import CKA, Metric
from repalign.metrics.cka import centre_gram
from repalign.metrics.folds import fold_scores, median_of_defined
from repalign.metrics.predictivity import Predictivity
from repalign.scoring import value_of


def scored(
    values: Tensor,
    ceilings: tuple[float, float, str],
    by_subject: Tensor,
    parts: Parts,
    draws: dict[str, Draws],
    *,
    degrees_lost: int = 1,
    left_out: Tensor | None = None,
    chance: Tensor | None,
) -> Scored:
    """The result of one region, with the variances that its parts give.

    ``degrees_lost`` is the number of groups of stimuli within which they were resampled.
    """
    variances_of = partial(_variances, draws=draws, degrees_lost=degrees_lost)
    return Scored(
        values=values.cpu().double(),
        lower=known(ceilings[0]),
        upper=known(ceilings[1]),
        ceiling=ceilings[2],
        by_subject=by_subject.cpu().double(),
        parts=parts,
        draws=draws,
        variances=variances_of(parts),
        ceiling_variances=variances_of_ceilings(parts, variances_of),
        left_out=left_out,
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


def _draws(plan: Plan, n_stimuli: int, n_subjects: int) -> dict[str, Draws]:
    """Draws of stimuli, of subjects, or one of each."""
    found = {}
    if plan.over != "subjects":
        found["stimuli"] = make_draws(replace(plan, over="stimuli"), n_stimuli, n_subjects)
    if plan.over != "stimuli":
        of_subjects = replace(plan, over="subjects", method="bootstrap")
        found["subjects"] = make_draws(of_subjects, n_stimuli, n_subjects)
    return found


def score_cka(metric: CKA, region: Region, candidates: Sequence[Candidate], plan: Plan) -> Scored:
    """Linear CKA: subsets of the stimuli, or all but one, and the bootstrap of subjects."""
    brains = [brain.prepared for brain in region.brains]
    models = [one.prepared for one in candidates]
    n_stimuli, n_subjects = len(brains[0]), len(brains)
    drawn = _draws(plan, n_stimuli, n_subjects)

    def products_in(part: Draws) -> tuple[Tensor, Tensor]:
        """Similarity with the models, and products of subjects, in subsets of the stimuli."""
        products = SubsampledProducts([*brains, *models], part.stimuli, debiased=metric.debiased)
        each = range(n_subjects + len(models))
        squares = [products.of(i, i) for i in each]
        values = [
            [products.of(s, m) / (squares[s].sqrt() * squares[m].sqrt()) for m in each[n_subjects:]]
            for s in range(n_subjects)
        ]
        peers = torch.stack([torch.stack(squares[:n_subjects])] * n_subjects)
        for s in range(n_subjects):
            for other in range(s + 1, n_subjects):
                peers[s, other] = peers[other, s] = products.of(s, other)
            peers[s, s] = squares[s]
        return torch.stack([torch.stack(row) for row in values]).permute(2, 0, 1), peers

    def evaluate(part: Draws, _: slice) -> Evaluations:
        values, peers = products_in(part)
        counts = part.subjects.to(values).T
        return Evaluations(values.mean(1), *_pooled(peers, counts))

    whole = Draws(
        torch.ones(1, n_stimuli, dtype=torch.int64),
        torch.ones(1, n_subjects, dtype=torch.int64),
        "stimuli",
        "subsampling",
    )
    by_subject, peers = products_in(whole)
    by_subject = by_subject[0]
    parts: dict[str, Evaluations] = {}
    if "stimuli" in drawn:
        parts["stimuli"] = join(in_chunks(evaluate, drawn["stimuli"], workers=plan.workers))
    if "subjects" in drawn:
        counts = drawn["subjects"].subjects.to(by_subject).T
        bounds = _pooled(peers.expand(-1, -1, counts.shape[1]), counts)
        parts["subjects"] = join([over_subjects(by_subject, drawn["subjects"], bounds)])
    low, high = _pooled(peers, torch.ones(n_subjects, 1).to(peers))
    ceilings = (float(low[0]), float(high[0]), "over subjects")
    of_models = unit_grams(metric, models)
    if n_subjects == 1:
        one = split_half_of_grams(metric, region.brains[0], parts, drawn["stimuli"], plan)
        ceilings, parts = (one[0], one[0], one[2]), dict(one[1])
    return scored(
        by_subject.mean(0),
        ceilings,
        by_subject,
        parts,
        drawn,
        left_out=_left_out(by_subject, plan),
        chance=torch.stack(
            [chance_of_products(of_models, brain) for brain in unit_grams(metric, brains)]
        ),
    )


def _left_out(by_subject: Tensor, plan: Plan) -> Tensor | None:
    """Means without each subject in turn, for BCa intervals over subjects."""
    if plan.interval != "bca":
        return None
    return ((by_subject.sum(0) - by_subject) / max(1, len(by_subject) - 1)).cpu().double()


def _pooled(peers: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Both ceilings, from products of subjects: subject × subject × resample."""
    squares = peers.diagonal(dim1=0, dim2=1).T
    pool = (counts / squares.sqrt()).where(counts > 0, 0)
    return pooled_ceilings((peers * pool[None]).sum(1), squares, pool, counts)


def unit_grams(metric: CKA, populations: Sequence[Tensor]) -> Tensor:
    """Centred Gram matrices of unit length: CKA is the sum of the products of their entries."""
    centred = torch.stack([centre_gram(one, debiased=metric.debiased) for one in populations])
    return centred / centred.square().sum((1, 2), keepdim=True).sqrt()


def score_predictivity(
    metric: Predictivity, region: Region, candidates: Sequence[Candidate], plan: Plan
) -> Scored:
    """Predictivity: held-out predictions resampled within folds, and the bootstrap of subjects."""
    n_stimuli, n_subjects = len(region.brains[0].prepared), len(region.brains)
    rows: list[list[float]] = []
    resampled: list[Tensor] = []
    drawn: dict[str, Draws] = {}
    if plan.over != "stimuli":
        drawn["subjects"] = make_draws(
            replace(plan, over="subjects", method="bootstrap"), n_stimuli, n_subjects
        )
    fold = None
    for brain in region.brains:
        targets, columns, row = brain.prepared, [], []
        for one in candidates:
            predictions, fold = metric.predict_prepared(one.prepared, targets)
            row.append(float(median_of_defined(_of_folds(metric, predictions, targets, fold))))
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
        by_subject.mean(0),
        (value, value, kind),
        by_subject,
        parts,
        {name: drawn[name] for name in parts},
        degrees_lost=1 if fold is None or not resampled else int(fold.max()) + 1,
        left_out=_left_out(by_subject, plan),
        chance=torch.zeros_like(by_subject),
    )


def _of_folds(metric: Predictivity, predictions: Tensor, targets: Tensor, fold: Tensor) -> Tensor:
    return fold_scores(predictions, targets, fold, score=metric.score)


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
        by_subject.mean(0),
        (float("nan"), float("nan"), f"none: none is known for {metric.name} as it is set"),
        by_subject,
        {"subjects": over_subjects(by_subject, drawn)},
        {"subjects": drawn},
        left_out=_left_out(by_subject, plan),
        chance=None,
    )

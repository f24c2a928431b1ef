"""RSA of every subject with every model in resamples, fixed or fitted, and the noise ceilings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from repalign.evidence.chunks import in_chunks
from repalign.evidence.materials import Candidate, Region
from repalign.evidence.plans import Plan, folds_for, make_draws
from repalign.evidence.resampled import (
    Parts,
    Scored,
    join,
    known,
    variances_of_ceilings,
    variances_of_parts,
    variances_without_blocks,
)
from repalign.evidence.split_halves import split_half_of_rdms
from repalign.inference import (
    Draws,
    DualEvaluations,
    Evaluations,
    ModelRDMs,
    Variances,
    crossvalidate_resamples,
    crossvalidated_variances,
    draw_folds,
    evaluate_dual,
    evaluate_resamples,
    rdm_chance,
    two_factor_crossvalidated_variances,
)
from repalign.metrics import RSA
from repalign.metrics.pairs import stimulus_count

DIVISIONS = 20  # into folds, of the data as they are, at the least
RESAMPLES_A_DIVISION = 5  # so that more resamples make values surer too


def everything_once(n_stimuli: int, n_subjects: int, *, times: int = 1) -> Draws:
    """The data as they are, as one resample, or as several that differ in their folds."""
    stimuli, subjects = (torch.ones(times, n, dtype=torch.int64) for n in (n_stimuli, n_subjects))
    return Draws(stimuli, subjects, "stimuli", "bootstrap")


def score_rsa(metric: RSA, region: Region, candidates: Sequence[Candidate], plan: Plan) -> Scored:
    """RSA of models as they are: the bootstrap, subsets or the jackknife of RDMs."""
    models = torch.stack([one.prepared for one in candidates])
    subjects = torch.stack([brain.prepared for brain in region.brains])
    n_stimuli, n_subjects = stimulus_count(models.shape[1]), len(subjects)
    evaluate = partial(evaluate_resamples, models, subjects, comparator=metric.comparator)
    draws = make_draws(plan, n_stimuli, n_subjects)
    parts: Parts
    whole = evaluate(everything_once(n_stimuli, n_subjects))
    alone = replace(
        everything_once(n_stimuli, n_subjects),
        stimuli=torch.ones(n_subjects, n_stimuli, dtype=torch.int64),
        subjects=torch.eye(n_subjects, dtype=torch.int64),
    )
    by_subject = evaluate(replace(alone, over="subjects"), ceilings=False).models.cpu()
    if plan.over == "both":
        dual = partial(evaluate_dual, models, subjects, comparator=metric.comparator)
        chunks = in_chunks(lambda part, _: dual(part), draws, workers=plan.workers)
        parts = {
            name: join([getattr(chunk, name) for chunk in chunks])
            for name in DualEvaluations._fields
        }
    else:
        found = in_chunks(lambda part, _: evaluate(part), draws, workers=plan.workers)
        parts = {plan.over: join(found)}
    lower, upper, kind = float(whole.lower[0]), float(whole.upper[0]), "over subjects"
    if n_subjects == 1:
        lower, parts, kind = split_half_of_rdms(metric, region.brains[0], parts, draws, plan)
        upper = lower
    of_parts = partial(variances_of_parts, draws=draws)
    left_out = None
    if plan.interval == "bca":
        left_out = evaluate(_without_each(plan, n_stimuli, n_subjects), ceilings=False).models.cpu()
    return Scored(
        values=whole.models[0].cpu(),
        lower=known(lower),
        upper=known(upper),
        ceiling=kind,
        by_subject=by_subject,
        parts=parts,
        draws=dict.fromkeys(parts, draws),
        variances=of_parts(parts),
        without=variances_without_blocks(parts, dict.fromkeys(parts, draws), of_parts),
        ceiling_variances=variances_of_ceilings(parts, of_parts),
        left_out=left_out,
        chance=torch.stack(
            [rdm_chance(models, one[None], comparator=metric.comparator).cpu() for one in subjects]
        ),
    )


def _without_each(plan: Plan, n_stimuli: int, n_subjects: int) -> Draws:
    return make_draws(replace(plan, method="jackknife"), n_stimuli, n_subjects)


def grouped(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """The layers of each model."""
    found: dict[str, list[Candidate]] = {}
    for one in candidates:
        found.setdefault(one.model, []).append(one)
    return found


def score_fitted_rsa(
    metric: RSA, region: Region, candidates: Sequence[Candidate], plan: Plan
) -> Scored:
    """RSA of models whose layers are blended: fitted and tested on different stimuli, resampled."""
    groups = grouped(candidates)
    models = [
        ModelRDMs(
            torch.stack([one.prepared for one in layers]),
            fit=plan.fit if len(layers) > 1 else "fixed",
        )
        for layers in groups.values()
    ]
    subjects = torch.stack([brain.prepared for brain in region.brains])
    n_stimuli, n_subjects = candidates[0].prepared.shape[0], len(subjects)
    n_stimuli = stimulus_count(n_stimuli)
    n_folds = folds_for(n_stimuli, plan.n_folds)
    fit = partial(
        crossvalidate_resamples, models, subjects, comparator=metric.comparator, n_folds=n_folds
    )
    draws = make_draws(plan, n_stimuli, n_subjects)
    times = max(DIVISIONS, plan.n_resamples // RESAMPLES_A_DIVISION)
    as_they_are = everything_once(n_stimuli, n_subjects, times=times)
    divisions = fit(as_they_are, n_repeats=1, seed=plan.seed).values[:, 0].cpu()
    whole = divisions[divisions[:, :-2].isfinite().all(1)].mean(0)
    factors = _factors(draws)
    repeats = {name: _repeats(fit, one, n_folds, plan) for name, one in factors.items()}
    parts = {name: _mean_evaluations(values) for name, values in repeats.items()}

    def variances_of(values: dict[str, Tensor]) -> Variances:
        if draws.over == "both":
            return two_factor_crossvalidated_variances(
                values["both"], values["subjects"], values["stimuli"], draws
            )
        return crossvalidated_variances(values[draws.over], draws)

    of_ceilings = [
        variances_of({name: v[..., [column, -2, -1]] for name, v in repeats.items()}).models[0]
        for column in (-2, -1)
    ]
    alone = n_subjects == 1
    lower, upper = float(whole[-2]), float(whole[-1])
    return Scored(
        values=whole[:-2],
        lower=None if alone else known(lower),
        upper=None if alone else known(upper),
        ceiling="none: one subject" if alone else "over subjects, of the held-out stimuli",
        by_subject=None,
        parts=parts,
        draws=dict.fromkeys(parts, draws),
        variances=variances_of(repeats),
        without=variances_without_blocks(repeats, dict.fromkeys(repeats, draws), variances_of),
        divisions=divisions[:, :-1],
        ceiling_variances=torch.stack(of_ceilings),
        left_out=None,
        chance=_chance_of_fits(metric, models),
    )


def _chance_of_fits(metric: RSA, models: Sequence[ModelRDMs]) -> Tensor | None:
    """0 under comparators that centre RDMs; what a fitted cosine scores by chance is not known."""
    if metric.comparator in ("cosine", "cosine_cov"):
        return None
    return torch.zeros(1, len(models), dtype=torch.float64)


def _factors(draws: Draws) -> dict[str, Draws]:
    """The draws, and if over both those of either factor with the other as it is."""
    if draws.over != "both":
        return {draws.over: draws}
    return {
        "both": draws,
        "subjects": replace(draws, stimuli=torch.ones_like(draws.stimuli)),
        "stimuli": replace(draws, subjects=torch.ones_like(draws.subjects)),
    }


def _repeats(fit: partial, draws: Draws, n_folds: int, plan: Plan) -> Tensor:  # type: ignore[type-arg]
    """Values in every resample and division into folds, which are drawn before the chunks."""
    folds = draw_folds(draws, n_folds=n_folds, n_repeats=plan.n_repeats, seed=plan.seed)

    def chunk(part: Draws, rows: slice) -> Tensor:
        values: Tensor = fit(part, folds=[(a[rows], b[rows]) for a, b in folds]).values
        return values.cpu()

    return torch.cat(in_chunks(chunk, draws, workers=plan.workers))


def _mean_evaluations(repeats: Tensor) -> Evaluations:
    mean = repeats.mean(1)
    return Evaluations(mean[:, :-2], mean[:, -2], mean[:, -1])

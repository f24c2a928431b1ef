"""Tests of one region: above chance, related to the stimuli's labels, below the ceiling, pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from repalign.evidence.cka_resamples import unit_grams
from repalign.evidence.materials import Candidate, Region
from repalign.evidence.plans import Plan, kind_of
from repalign.evidence.resampled import Scored
from repalign.inference import (
    Significance,
    Variances,
    joint_t_test,
    label_permutation_test,
    resample_test,
    sign_flip_test,
    t_test,
)
from repalign.inference.joint_tests import N_DRAWS
from repalign.inference.label_permutations import (
    label_orders,
    permutation_test_of_products,
    significance_of_orders,
)
from repalign.inference.monte_carlo import error_of_share, grouped_jackknife
from repalign.inference.resample_tests import t_tails
from repalign.inference.significance import Alternative
from repalign.metrics import CKA, RSA, Metric
from repalign.metrics.comparators import comparator_named
from repalign.metrics.folds import fold_scores, median_of_defined
from repalign.metrics.predictivity import Predictivity

FLIPS = PERMUTATIONS = 10_000
FEWEST = 1_000
MOST_GATHERED = 2_000_000_000  # entries of matrices that permutations reorder
REFITS = 200  # of predictivity, which is fitted anew to permuted responses
TOGETHER = 20  # permuted responses that share the folds' factorisations


@dataclass(frozen=True)
class Tested:
    """One hypothesis for all models, or pairs of models, of one region.

    Args:
        hypothesis: ``chance``, ``labels``, ``ceiling`` or ``pairs``.
        effects: what is tested for being 0.
        significance: p values, and the smallest that the test can return.
    """

    hypothesis: str
    effects: Tensor
    significance: Significance


def pair_indices(n_models: int) -> tuple[Tensor, Tensor]:
    """First and second model of every pair."""
    first, second = torch.triu_indices(n_models, n_models, 1)
    return first, second


def chosen_test(plan: Plan) -> str:
    """Signs are flipped over subjects, of models as they are; t is tested otherwise."""
    if plan.test != "auto":
        return plan.test
    return "sign-flip" if plan.over == "subjects" and plan.fit == "fixed" else "t"


def run_tests(
    metric: Metric,
    region: Region,
    candidates: Sequence[Candidate],
    scored: Scored,
    plan: Plan,
) -> tuple[list[Tested], list[str]]:
    """All tests that apply to one region's models, and why others do not."""
    found, notes = [], []
    if plan.over == "subjects" and plan.test == "auto" and plan.fit != "fixed":
        notes.append(
            "fitted models are tested by t, which takes subjects for normally distributed and has"
            f" no smallest p; flips of their signs could give no p below 2/2^{len(region.subjects)}"
        )
    if not metric.higher_is_more_similar:
        notes.append(f"{metric.name} is a distance: models are compared, none is tested for chance")
    elif scored.chance is None:
        notes.append(f"what {metric.name} gives by chance is unknown here: it is not tested")
    else:
        found.append(_against_chance(scored, plan))
        permuted = _permuted(metric, region, candidates, plan)
        if isinstance(permuted, str):
            notes.append(permuted)
        else:
            found.append(Tested("labels", scored.effects, permuted))
    if scored.lower is None:
        notes.append(f"no noise ceiling ({scored.ceiling}): models are not tested against it")
    elif bool(scored.variances.to_lower.isfinite().all()):
        found.append(_against_ceiling(scored, plan))
    else:
        notes.append("the lower ceiling is undefined in too many resamples to be tested against")
    if len(scored.values) > 1:
        found.append(_pairs(scored, plan))
    return found, list(dict.fromkeys(notes))


def _tested(
    hypothesis: str,
    effects: Tensor,
    of: Callable[[Variances], Tensor],
    divided: Callable[[Tensor], Tensor],
    resampled: Tensor,
    deviations: Tensor,
    scored: Scored,
    plan: Plan,
    *,
    two_sided: bool,
) -> Tested:
    """A t test, or the share of resamples beyond 0; max-T takes correlations over resamples.

    ``of`` picks the variances of the effects, ``divided`` makes effects of values in divisions.
    """
    alternative: Alternative = "two-sided" if two_sided else plan.alternative
    freedom, variances = scored.variances.degrees_of_freedom, of(scored.variances)
    if chosen_test(plan) == "resamples":
        share = resample_test(resampled, n_units=freedom + 1, alternative=alternative)
        return Tested(hypothesis, effects, share)
    significance = t_test(effects, variances, degrees_of_freedom=freedom, alternative=alternative)
    error = torch.zeros_like(significance.p)
    if scored.without:
        tails = [t_tails(effects, of(one), freedom, alternative) for one in scored.without]
        error = grouped_jackknife(torch.stack(tails))
    if scored.divisions is not None:
        own = divided(scored.divisions)
        own = own[own.isfinite().all(1)]
        step = own.std(0) / len(own) ** 0.5
        ends = [t_tails(effects + s * step, variances, freedom, alternative) for s in (-1, 1)]
        error = torch.hypot(error, (ends[1] - ends[0]) / 2)
    significance = replace(significance, p_error=error)
    if plan.correction == "max-t":
        family = joint_t_test(
            effects,
            variances,
            deviations,
            degrees_of_freedom=freedom,
            alternative=alternative,
            seed=plan.seed,
        )
        family = family.maximum(significance.p)  # it is drawn
        significance = replace(
            significance, p_family=family, family_error=_family_error(significance, family)
        )
    return Tested(hypothesis, effects, significance)


def _family_error(alone: Significance, family: Tensor) -> Tensor:
    """The Monte Carlo error of max-T: of its own draws, and of p with the slope of 1 − (1 − p)ᵐ.

    m is the number of independent tests that would make the same p of the family.
    """
    if alone.p_error is None:
        raise AssertionError("the caller knows it")
    below_one = 1 - 1e-12
    p, top = alone.p.clamp(max=below_one), family.clamp(max=below_one)
    slope = (1 - top).log() / (1 - p).log() * (1 - top) / (1 - p)
    return torch.hypot(error_of_share(family, N_DRAWS), slope * alone.p_error)


def _against_chance(scored: Scored, plan: Plan) -> Tested:
    if scored.chance is None:
        raise AssertionError("asked before")
    if chosen_test(plan) == "sign-flip" and scored.by_subject is not None:
        flipped = sign_flip_test(
            scored.by_subject - scored.chance,
            alternative=plan.alternative,
            n_flips=plan.n_permutations or FLIPS,
            seed=plan.seed,
        )
        return Tested("chance", scored.effects, flipped)
    resampled = scored.resampled.models - scored.chance.mean(0)
    return _tested(
        "chance",
        scored.effects,
        lambda variances: variances.models,
        lambda values: values[:, :-1],
        resampled,
        scored.deviations(),
        scored,
        plan,
        two_sided=False,
    )


def _against_ceiling(scored: Scored, plan: Plan) -> Tested:
    if scored.lower is None:
        raise AssertionError("asked before")
    return _tested(
        "ceiling",
        scored.values - scored.lower,
        lambda variances: variances.to_lower,
        lambda values: values[:, :-1] - values[:, -1:],
        scored.resampled.models - scored.resampled.lower[:, None],
        scored.deviations(less_ceiling=True),
        scored,
        plan,
        two_sided=True,
    )


def _pairs(scored: Scored, plan: Plan) -> Tested:
    first, second = pair_indices(len(scored.values))
    effects = scored.values[first] - scored.values[second]
    if chosen_test(plan) == "sign-flip" and scored.by_subject is not None:
        differences = scored.by_subject[:, first] - scored.by_subject[:, second]
        flipped = sign_flip_test(differences, n_flips=plan.n_permutations or FLIPS, seed=plan.seed)
        return Tested("pairs", effects, flipped)
    resampled, deviations = scored.resampled.models, scored.deviations()
    return _tested(
        "pairs",
        effects,
        lambda variances: variances.differences[first, second],
        lambda values: values[:, first] - values[:, second],
        resampled[:, first] - resampled[:, second],
        deviations[:, first] - deviations[:, second],
        scored,
        plan,
        two_sided=True,
    )


def _number_of_permutations(plan: Plan, cost: int) -> int:
    if plan.n_permutations is not None:
        return plan.n_permutations
    return max(FEWEST, min(PERMUTATIONS, MOST_GATHERED // max(1, cost)))


def _permuted(
    metric: Metric, region: Region, candidates: Sequence[Candidate], plan: Plan
) -> Significance | str:
    """The test of relatedness, by permuting the labels of stimuli; or why there is none."""
    if plan.fit != "fixed":
        return "labels are not permuted: each permutation would have to be fitted anew"
    prepared = [one.prepared for one in candidates]
    brains = [brain.prepared for brain in region.brains]
    n_stimuli = len(region.brains[0].ids)
    if n_stimuli < 4:
        return f"labels of {n_stimuli} stimuli are not permuted: there are too few orders"
    kind = kind_of(metric)
    if kind == "rsa" and isinstance(metric, RSA):
        missing = int(torch.stack(brains).isnan().any(0).sum())
        if missing:
            return (
                f"labels are not permuted: {missing} pairs of stimuli are missing in a subject of"
                f" {region.called or 'the recording'}, and would be put elsewhere"
            )
        ranked = comparator_named(metric.comparator).name in ("tau-a", "tau-b")
        cost = n_stimuli**2 * (len(brains) * len(prepared) * 4 if ranked else 1)
        return label_permutation_test(
            torch.stack(prepared),
            torch.stack(brains),
            comparator=metric.comparator,
            alternative=plan.alternative,
            n_permutations=_number_of_permutations(plan, cost),
            seed=plan.seed,
        )[1]
    if kind == "cka" and isinstance(metric, CKA):
        return permutation_test_of_products(
            unit_grams(metric, prepared),
            unit_grams(metric, brains).mean(0),
            alternative=plan.alternative,
            n_permutations=_number_of_permutations(plan, n_stimuli**2),
            seed=plan.seed,
        )[1]
    if isinstance(metric, Predictivity):
        return _refitted(metric, brains, prepared, plan)
    return f"labels are not permuted for {metric.name} as it is set"


def _refitted(
    metric: Predictivity, brains: Sequence[Tensor], models: Sequence[Tensor], plan: Plan
) -> Significance:
    """Predictivity of permuted responses, each fitted anew."""
    orders, exact = label_orders(len(brains[0]), plan.n_permutations or REFITS, plan.seed)
    statistics = torch.zeros(len(orders), len(models), dtype=torch.float64)
    size = TOGETHER if metric.fits_alone else 1
    for targets in brains:
        for column, model in enumerate(models):
            for start in range(0, len(orders), size):
                block = [targets[order] for order in orders[start : start + size]]
                together = torch.cat(block, 1)
                predictions, fold = metric.predict_prepared(model, together)
                scores = fold_scores(predictions, together, fold, score=metric.score)
                values = median_of_defined(scores.reshape(len(block), -1))
                statistics[start : start + size, column] += values.cpu() / len(brains)
    return significance_of_orders(statistics, exact=exact, alternative=plan.alternative)[1]

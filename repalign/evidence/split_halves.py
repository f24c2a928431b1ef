"""Split-half noise ceilings in the same resamples of stimuli as the models' values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.evidence.chunks import in_chunks
from repalign.evidence.plans import Plan
from repalign.evidence.resampled import Parts
from repalign.inference import Draws, Evaluations, evaluate_resamples
from repalign.inference.checked_rdms import PRODUCTS, checked_problem
from repalign.inference.cka_intervals import SubsampledProducts
from repalign.metrics import CKA, RSA, Metric
from repalign.metrics.calls import recorded_presentations
from repalign.metrics.comparators import comparator_named
from repalign.metrics.gram import centre, in_working_precision
from repalign.populations import MatchedPopulation
from repalign.split_half import MINIMUM_REPEATED, has_split_half, random_halves, split_half_ceiling

SPLITS = 4  # random halves that are followed through the resamples; the value is of 20
Halves = tuple[Tensor, Tensor, Tensor]  # averages over either half, and over all repetitions
OfDraws = Callable[[Draws], Float[Tensor, "resample"]]


def why_no_halves(metric: Metric, brain: MatchedPopulation) -> str | None:
    """Why a population has no split-half ceiling in resamples; None if it has."""
    if brain.repeats is None:
        return "none: one subject, without repetitions"
    if not has_split_half(metric):
        return f"none: {metric.name} as it is set has no split-half ceiling"
    counts = recorded_presentations(brain.repeats).sum(0)
    if len(counts) < MINIMUM_REPEATED or int((counts < 2).sum()):
        return f"none: {int((counts < 2).sum())} of {len(counts)} stimuli have one repetition"
    return None


def halves_of(metric: Metric, brain: MatchedPopulation, *, seed: int) -> Iterator[Halves]:
    """Random halves of the repetitions of every stimulus, and the average over all."""
    if brain.repeats is None:
        raise AssertionError("asked why_no_halves first")
    repeats = in_working_precision(brain.repeats)
    recorded = recorded_presentations(repeats)
    level = not isinstance(metric, CKA) and not hasattr(metric, "scores")
    whole = repeats.nanmean(0)
    for first, second in random_halves(repeats, recorded, splits=SPLITS, seed=seed, level=level):
        yield first, second, whole


def split_half_of_rdms(
    metric: RSA, brain: MatchedPopulation, parts: Parts, draws: Draws, plan: Plan
) -> tuple[float, Parts, str]:
    """The split-half ceiling of one subject's RDM, in the data and in the resamples."""

    def of_halves(halves: Halves) -> OfDraws:
        rdms = torch.stack([metric.prepare(one) for one in halves])
        name = comparator_named(metric.comparator).name
        if name not in PRODUCTS:  # ranks without ties are of one length: their ratio is left out

            def of_ranks(part: Draws) -> Tensor:
                found = evaluate_resamples(
                    rdms[:1], rdms[1:2], part, comparator=name, ceilings=False
                )
                return found.models[:, 0].sqrt()

            return of_ranks

        products = checked_problem(rdms, rdms[:1], comparator=name).products
        if products is None:
            raise AssertionError("a comparator of products has them")
        pair = torch.tensor([1]), torch.tensor([2])  # the stack begins with its one subject

        def of_products(part: Draws) -> Tensor:
            blocks = products.blocks(part.stimuli, len(part))
            return torch.cat(
                [(block.products(*pair)[0] / block.squares[3]).sqrt() for _, block in blocks]
            )

        return of_products

    return _followed(metric, brain, parts, draws, plan, of_halves)


def split_half_of_grams(
    metric: CKA, brain: MatchedPopulation, parts: Parts, draws: Draws, plan: Plan
) -> tuple[float, Parts, str]:
    """The split-half ceiling of one subject's Gram matrix, in the data and in subsets."""

    def of_halves(halves: Halves) -> OfDraws:
        grams = [metric.prepare(one) for one in halves]

        def of_draws(part: Draws) -> Tensor:
            products = SubsampledProducts(grams, part.stimuli, debiased=metric.debiased)
            return (products.of(0, 1) / products.of(2, 2)).sqrt()

        return of_draws

    return _followed(metric, brain, parts, draws, plan, of_halves)


def split_half_of_neuroids(
    metric: Metric, brain: MatchedPopulation, draws: Draws, plan: Plan
) -> tuple[float, Float[Tensor, resample]]:
    """The split-half ceiling of one subject's neuroids, in the data and in the resamples."""

    def of_halves(halves: Halves) -> OfDraws:
        a, b, f = (centre(one, 0) for one in halves)

        def of_draws(part: Draws) -> Tensor:
            w = part.stimuli.to(a)
            n = w.sum(1, keepdim=True)
            both = w @ (a * b) - (w @ a) * (w @ b) / n
            whole = w @ (f * f) - (w @ f).square() / n
            return (both / whole).clamp(min=0).sqrt().nanquantile(0.5, dim=1)

        return of_draws

    return _values(metric, brain, draws, plan, of_halves)


def _values(
    metric: Metric,
    brain: MatchedPopulation,
    draws: Draws,
    plan: Plan,
    of_halves: Callable[[Halves], OfDraws],
) -> tuple[float, Float[Tensor, resample]]:
    if brain.repeats is None:
        raise AssertionError("asked why_no_halves first")
    value = split_half_ceiling(brain.repeats, metric, seed=plan.seed).value
    statistics = [of_halves(halves) for halves in halves_of(metric, brain, seed=plan.seed)]

    def chunk(part: Draws, _: slice) -> Tensor:
        return torch.stack([statistic(part) for statistic in statistics]).nanmean(0).cpu()

    found = torch.cat(in_chunks(chunk, draws, workers=plan.workers)).double()
    return float("nan") if value is None else value, found


def _followed(
    metric: Metric,
    brain: MatchedPopulation,
    parts: Parts,
    draws: Draws,
    plan: Plan,
    of_halves: Callable[[Halves], OfDraws],
) -> tuple[float, Parts, str]:
    """The ceiling's value, the parts with its values in their resamples, and its kind."""
    reason = why_no_halves(metric, brain)
    if reason is not None:
        return float("nan"), {name: _without(part) for name, part in parts.items()}, reason
    value, found = _values(metric, brain, draws, plan, of_halves)
    filled = {name: replace(part, lower=found, upper=found) for name, part in parts.items()}
    return value, filled, "split-half"


def _without(part: Evaluations) -> Evaluations:
    undefined = torch.full_like(part.lower, torch.nan)
    return replace(part, lower=undefined, upper=undefined)

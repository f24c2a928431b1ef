"""The layer of one region: chosen and scored, with its interval and p value."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.inference import Interval
from repalign.inference.significance import p_of_draws
from repalign.layer_regions.held_out_intervals import (
    interval_of_predictions,
    interval_over_stimuli,
    interval_over_subjects,
)
from repalign.layer_regions.mapping_results import RegionLayer
from repalign.layer_regions.nested_choice import Disjoint, Nested, choose_nested, first_of_best
from repalign.layer_regions.part_scores import PartScores, score_parts
from repalign.metrics import Metric
from repalign.metrics.predictivity import Predictivity
from repalign.populations import MatchedPopulation


class Settings(NamedTuple):
    """What all regions share; ``fold`` is None where only subjects are disjoint."""

    metric: Metric
    disjoint: Disjoint
    fold: Tensor | None
    orders: Tensor
    groups: list[str] | None
    seed: int
    confidence: float


def map_region(
    region: str,
    brains: Sequence[MatchedPopulation],
    models: Sequence[MatchedPopulation],
    names: Sequence[str],
    settings: Settings,
) -> tuple[RegionLayer, Tensor, tuple[Tensor, ...]]:
    """Return a region's layer, its value in every order of the stimuli, and all its scores."""
    metric, disjoint = settings.metric, settings.disjoint
    if disjoint != "stimuli" and len(brains) < 2:
        raise ValueError(
            f"region {region!r} has 1 subject; disjoint={disjoint!r} needs 2 or more. Use"
            " disjoint='stimuli'"
        )
    prepared = [model.prepared for model in models]
    responses = [brain.prepared for brain in brains]
    scores = _stacked(
        score_parts(
            metric, responses, prepared, settings.fold, settings.orders, groups=settings.groups
        )
    )
    nested = choose_nested(
        scores.choosing,
        scores.held_out,
        leave_subject_out=disjoint != "stimuli",
        higher_is_more_similar=metric.higher_is_more_similar,
    )
    values = nested.scores.mean((1, 2))
    value = float(values[0])
    whole = scores.whole[0].mean(0)
    signed = whole if metric.higher_is_more_similar else -whole
    best = int(first_of_best(signed.nan_to_num(nan=-torch.inf)))
    counted = nested.chosen[0, :, :1] if disjoint == "stimuli" else nested.chosen[0]
    counts = Counter(counted.flatten().tolist())
    one = RegionLayer(
        region=region,
        subjects=tuple(brain.target.subject for brain in brains),
        layer=names[best],
        value=value,
        interval=_interval(responses, prepared, scores, nested, value, settings),
        p=None,
        p_family=None,
        smallest_p=None,
        same_data_value=float(whole[best]),
        times_chosen={names[i]: counts[i] for i in sorted(counts)},
    )
    arrays = (scores.choosing[0].mean(1), scores.held_out[0].mean(1), whole)
    return one, values, arrays


def _stacked(scores: Sequence[PartScores]) -> PartScores:
    """Subjects side by side, before the layers."""
    return PartScores(
        torch.stack([one.choosing for one in scores], 2),
        torch.stack([one.held_out for one in scores], 2),
        torch.stack([one.whole for one in scores], 1),
    )


def _interval(
    responses: Sequence[Tensor],
    models: Sequence[Tensor],
    scores: PartScores,
    nested: Nested,
    value: float,
    settings: Settings,
) -> Interval | None:
    if settings.disjoint != "stimuli" or settings.fold is None:
        return interval_over_subjects(
            scores.choosing[:1],
            scores.held_out[:1],
            value,
            confidence=settings.confidence,
            higher_is_more_similar=settings.metric.higher_is_more_similar,
        )
    chosen = nested.chosen[0, :, 0]
    if settings.groups is not None:
        return None
    if isinstance(settings.metric, Predictivity):
        return interval_of_predictions(
            settings.metric,
            responses,
            models,
            settings.fold,
            chosen,
            groups=settings.groups,
            seed=settings.seed,
            confidence=settings.confidence,
        )
    return interval_over_stimuli(
        settings.metric,
        responses,
        models,
        settings.fold,
        chosen,
        value,
        confidence=settings.confidence,
    )


def with_p(found: Sequence[RegionLayer], values: Tensor, *, higher: bool) -> list[RegionLayer]:
    """Add p values: the first row is the data's, the others are permutations'.

    A permutation in which a score is undefined counts against the data; a region whose own score
    is undefined has no p value.
    """
    signed = values if higher else -values
    spread = signed.nan_to_num().std(0, correction=0)
    z = (signed - signed.nanmean(0)) / spread.where(spread > 0, 1)
    null = z[1:].nan_to_num(nan=torch.inf)
    alone, family = p_of_draws(z[0].nan_to_num(), null, alternative="greater", exact=False)
    least = 1 / len(values)
    return [
        one
        if math.isnan(one.value)
        else dataclasses.replace(one, p=float(p), p_family=float(of_family), smallest_p=least)
        for one, p, of_family in zip(found, alone, family, strict=True)
    ]


def as_dataset(
    found: Sequence[RegionLayer],
    names: Sequence[str],
    arrays: Sequence[tuple[Tensor, ...]],
) -> xr.Dataset:
    """Return all scores with named dimensions, as `LayerMapping.to_xarray` says."""
    choosing, held_out, whole = (torch.stack([one[i] for one in arrays]).numpy() for i in range(3))
    counts = np.array([[one.times_chosen.get(name, 0) for name in names] for one in found])
    by_fold = ("region", "fold", "layer")
    return xr.Dataset(
        {
            "choosing": (by_fold, choosing),
            "held_out": (by_fold, held_out),
            "whole": (("region", "layer"), whole),
            "times_chosen": (("region", "layer"), counts),
            "value": ("region", [one.value for one in found]),
            "p": ("region", [np.nan if one.p is None else one.p for one in found]),
        },
        coords={"region": [one.region for one in found], "layer": list(names)},
    )

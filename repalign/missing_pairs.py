"""Pairs of stimuli that are missing (NaN) in subjects' RDMs: left out for all, everywhere alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from repalign.inference import RESAMPLED
from repalign.inference.checked_rdms import PRODUCTS
from repalign.metrics import RSA, Metric
from repalign.metrics.comparators import comparator_named
from repalign.populations import MatchedPopulation

LEAST_PAIRS = 3  # of which a correlation says anything
LEAVING_OUT = tuple(name for name in RESAMPLED if not PRODUCTS.get(name, (False, False))[1])


def leave_out_missing_pairs(
    brains: Sequence[MatchedPopulation], metric: Metric
) -> tuple[list[MatchedPopulation], list[str]]:
    """Set pairs that a subject's RDM misses to NaN in all subjects of its region, and say so.

    Values, intervals and ceilings of a region are then all of the same pairs. Whitened comparators
    and Bures similarity need all pairs of the stimuli, and are refused.

    Args:
        brains: subjects of one or several regions, prepared for the metric.
        metric: only RDMs, of RSA, can miss pairs.

    Returns:
        The subjects, and a note a region that misses pairs.

    Raises:
        ValueError: a comparator that needs all pairs, or fewer than 3 pairs that none misses.
    """
    if not isinstance(metric, RSA):
        return list(brains), []
    missing: dict[tuple[str, str], torch.Tensor] = {}
    for brain in brains:
        place, own = brain.target[:2], brain.prepared.isnan()
        missing[place] = missing[place] | own if place in missing else own
    notes = []
    name = comparator_named(metric.comparator).name
    for place, gone in missing.items():
        n, where = int(gone.sum()), " ".join(filter(None, place)) or "the recording"
        if not n:
            continue
        if name not in LEAVING_OUT:
            raise ValueError(
                f"{n} pairs of stimuli are missing (NaN) in a subject of {where}; {name} needs all"
                f" pairs. Leave out the stimuli concerned, or use {', '.join(LEAVING_OUT)}, which"
                " leave out the pairs."
            )
        if len(gone) - n < LEAST_PAIRS:
            raise ValueError(
                f"{len(gone) - n} pairs of stimuli are known in all subjects of {where}; at least"
                f" {LEAST_PAIRS} are needed. Leave out the subjects that miss most."
            )
        notes.append(
            f"{n} of {len(gone)} pairs of stimuli are missing in a subject of {where} and left out"
            " for all its subjects"
        )
    kept = [
        replace(brain, prepared=brain.prepared.masked_fill(missing[brain.target[:2]], torch.nan))
        if bool(missing[brain.target[:2]].any())
        else brain
        for brain in brains
    ]
    return kept, notes


def check_complete_models(
    brains: Sequence[MatchedPopulation], models: Sequence[MatchedPopulation], metric: Metric
) -> None:
    """Raise a ValueError where a model's RDM misses a pair that the subjects have."""
    if not isinstance(metric, RSA):
        return
    for model in models:
        gone = model.prepared.isnan()
        worst = max((int((gone & ~brain.prepared.isnan()).sum()) for brain in brains), default=0)
        if worst:
            raise ValueError(
                f"The RDM of {model.dataset} misses {worst} pairs (NaN) that the subjects have; a"
                " model must predict all pairs. Leave out the stimuli concerned, or, where it was"
                " measured, pass it first."
            )

"""Noise ceilings of a recording: one a (species, region, subject), whatever it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import xarray as xr
from torch import Tensor

from repalign.ceiling import Ceiling, ceiling_over_subjects
from repalign.metrics import RSA, Metric
from repalign.metrics.calls import pick_device
from repalign.missing_pairs import leave_out_missing_pairs
from repalign.populations import MatchedPopulation, as_population, match_population, parts_of
from repalign.recording import Target, stimulus_ids
from repalign.split_half import MINIMUM_REPEATED, has_split_half, split_half_ceiling

CeilingChoice = Literal["auto", "split-half", "nili", "none"]
CEILINGS: tuple[str, ...] = get_args(CeilingChoice)
GROUP_SUBJECT = "group"


def noise_ceilings(
    recording: xr.Dataset,
    metric: Metric,
    *,
    ceiling: CeilingChoice | bool = "auto",
    stimuli: Sequence[str] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> dict[Target, Ceiling | None]:
    """The ceilings that `repalign.compare` puts beside its values, without a comparison.

    Args:
        recording: with stimulus ids.
        metric: whose ceilings they are.
        ceiling, seed, device: as in `repalign.compare`.
        stimuli: ids of those that count, in the recording's order; all by default.

    Returns:
        One a (species, region, subject); None where none is known.

    Raises:
        ValueError: a ceiling that the recording or the metric does not have.

    Example:
        >>> import numpy as np
        >>> from repalign.metrics import CKA
        >>> from repalign.recording import make_recording
        >>> signal = np.random.default_rng(0).normal(size=(12, 4))
        >>> ids = [f"s{i}" for i in range(12)]
        >>> both = make_recording(np.tile(signal, (2, 1)), stimulus_id=ids * 2, region="IT")
        >>> [round(one.value, 3) for one in noise_ceilings(both, CKA()).values()]
        [1.0]
    """
    choice = ceiling_choice(ceiling)
    recording = as_population(recording, "recording")
    ids = stimulus_ids(recording) if stimuli is None else list(stimuli)
    where = pick_device(device)
    brains = [match_population(t, ds, ids, metric, where) for t, ds in parts_of(recording)]
    brains, _ = leave_out_missing_pairs(brains, metric)
    found = ceilings_of(brains, metric, choice, seed)
    return {brain.target: one for brain, one in zip(brains, found, strict=True)}


def ceiling_choice(ceiling: CeilingChoice | bool) -> CeilingChoice:
    """The choice in a word; True is ``auto`` and False is ``none``."""
    choice: CeilingChoice = (
        ("auto" if ceiling else "none") if isinstance(ceiling, bool) else ceiling
    )
    if choice not in CEILINGS:
        raise ValueError(f"ceiling {choice!r}; expected {', '.join(CEILINGS)}")
    return choice


def ceilings_of(
    brains: Sequence[MatchedPopulation], metric: Metric, choice: CeilingChoice, seed: int
) -> list[Ceiling | None]:
    """The ceiling of each part of a recording, which knows the others as its peers."""
    return [_ceiling(brain, brains, metric, choice, seed) for brain in brains]


def _individuals(
    brain: MatchedPopulation, brains: Sequence[MatchedPopulation]
) -> list[MatchedPopulation]:
    """All individual subjects of a brain's species and region."""
    return [
        other
        for other in brains
        if other.target[:2] == brain.target[:2] and other.target.subject != GROUP_SUBJECT
    ]


def _repeated(repeats: Tensor) -> int:
    """Number of stimuli with two or more repetitions."""
    shown = ~torch.isnan(repeats).all(dim=2)
    return int((shown.sum(dim=0) >= 2).sum())


def _ceiling(
    brain: MatchedPopulation,
    brains: Sequence[MatchedPopulation],
    metric: Metric,
    choice: CeilingChoice,
    seed: int,
) -> Ceiling | None:
    peers = _individuals(brain, brains)
    among_subjects = (
        isinstance(metric, RSA) and len(peers) > 1 and brain.target.subject != GROUP_SUBJECT
    )
    if choice == "none":
        return None
    if choice == "split-half" and brain.repeats is None:
        raise ValueError(
            f"{brain.dataset}: a split-half ceiling needs 2 or more repetitions; use nili or none"
        )
    if choice == "nili" and not isinstance(metric, RSA):
        raise ValueError(f"the ceiling over subjects compares RDMs; {metric.name} has none")
    if choice == "nili" and not any(_individuals(other, brains)[1:] for other in brains):
        raise ValueError(
            f"{brain.dataset}: a ceiling over subjects needs 2 or more individual subjects of one"
            " species and region; use split-half or none"
        )
    if brain.repeats is not None and choice == "split-half":
        return split_half_ceiling(brain.repeats, metric, seed=seed)
    if (
        brain.repeats is not None
        and choice == "auto"
        and has_split_half(metric)
        and _repeated(brain.repeats) >= MINIMUM_REPEATED
    ):
        return split_half_ceiling(brain.repeats, metric, seed=seed)
    if not among_subjects or not isinstance(metric, RSA):
        return None
    return ceiling_over_subjects(
        torch.stack([peer.prepared for peer in peers]),
        comparator=metric.comparator,
        subject=next(i for i, peer in enumerate(peers) if peer is brain),
    )

"""How well the published RDMs of subjects and sessions agree."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import xarray as xr

from repalign.metrics.comparators import comparator_named
from repalign.metrics.pairs import condensed
from repalign.quality.records import RdmQuality
from repalign.recording import STIMULUS, SUBJECT, targets

GROUP_SUBJECT = "group"
Array = np.ndarray[Any, np.dtype[Any]]


def rdm_targets(ds: xr.Dataset) -> tuple[tuple[RdmQuality, ...], Array]:
    """The quality of each (species, region, subject), and how the RDMs of all correlate.

    Sessions of a subject are averaged before RDMs of subjects are compared. A published group RDM
    is no individual: it is compared with none in ``between_subjects``.
    """
    compare = comparator_named("spearman")
    named = [(target, _rdms(part)) for target, part in targets(ds)]
    means = torch.stack([rdms.mean(0) for _, rdms in named])
    of_all = torch.stack([compare(means, one.expand_as(means)) for one in means]).numpy()
    found = []
    for number, (target, rdms) in enumerate(named):
        peers = [
            other
            for other, (one, _) in enumerate(named)
            if other != number and one[:2] == target[:2] and one.subject != GROUP_SUBJECT
        ]
        reasons: dict[str, str] = {}
        between_subjects = between_sessions = math.nan
        if target.subject == GROUP_SUBJECT:
            reasons["between_subjects"] = "a published RDM of a group is no individual subject"
        elif not peers:
            reasons["between_subjects"] = "no other individual subject of this species and region"
        else:
            between_subjects = float(of_all[number, peers].mean())
        if len(rdms) < 2:
            reasons["between_sessions"] = "one session"
        else:
            first, second = torch.triu_indices(len(rdms), len(rdms), 1)
            between_sessions = float(compare(rdms[first], rdms[second]).mean())
        found.append(
            RdmQuality(
                target, ds.sizes[STIMULUS], len(rdms), between_subjects, between_sessions, reasons
            )
        )
    return tuple(found), of_all


def rdm_warnings(found: tuple[RdmQuality, ...]) -> list[str]:
    """What looks wrong with published RDMs, one sentence each."""
    warnings = []
    for one in found:
        for name, value in (("subjects", one.between_subjects), ("sessions", one.between_sessions)):
            if value <= 0:
                warnings.append(
                    f"{' '.join(one.target)}: the RDM correlates {value:.2f} with those of other"
                    f" {name}: they do not agree. Check that stimuli stand in the same order."
                )
    return warnings


def _rdms(part: xr.Dataset) -> torch.Tensor:
    """Session × pair."""
    squares = torch.from_numpy(part["rdm"].transpose(SUBJECT, ...).values.astype(np.float64))
    return torch.stack([condensed(square) for square in squares])

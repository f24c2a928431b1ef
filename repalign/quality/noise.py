"""Reliability, drift and noise ceiling of one target, read in blocks that fit into memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from repalign.metrics import RSA
from repalign.metrics.noise_correction import MINIMUM_REPEATED, reliability
from repalign.progress import track
from repalign.quality import passes
from repalign.quality.drift import drift_shares, halves_of
from repalign.split_half import MINIMUM_REPEATED as MINIMUM_CEILING
from repalign.split_half import split_half_ceiling

CEILING_STIMULI = (100, 500)  # fewest, where there are so many, and most
CEILING_NEUROIDS = 3  # fewest that a correlation distance needs

Array = np.ndarray[Any, np.dtype[Any]]
Reasons = dict[str, str]


@dataclass(frozen=True, eq=False)
class TargetRows:
    """Where the responses of one region of one subject stand in a recording.

    Attributes:
        ds: the whole recording.
        name: of the target, for progress bars and errors.
        columns: numbers of its neuroids; incomplete: of each, whether it is NaN or infinite where
            others are not.
        table: rows of presentations as repetition × stimulus, −1 where there is none.
        stimuli: of the table.
        flat: of the table, whether all neuroids respond the same.
    """

    ds: xr.Dataset
    name: str
    columns: Array
    incomplete: Array
    table: Array
    stimuli: tuple[str, ...]
    flat: Array

    @classmethod
    def of(
        cls, ds: xr.Dataset, columns: Array, scan: passes.RowScan, number: int, name: str
    ) -> TargetRows:
        """Take what a pass over the rows found of the target of that number."""
        table, stimuli = passes.repeat_table(ds, scan.missing[number])
        flat = (table >= 0) & scan.flat[number][table]
        return cls(ds, name, columns, scan.incomplete[columns], table, tuple(stimuli), flat)

    @property
    def repetitions(self) -> Array:
        """Presentations of each stimulus."""
        counts: Array = (self.table >= 0).sum(0)
        return counts

    def flat_stimuli(self) -> tuple[str, ...]:
        """Stimuli to which all of several neuroids respond the same in each presentation."""
        always = (self.flat == (self.table >= 0)).all(0) & (len(self.columns) > 1)
        return tuple(self.stimuli[place] for place in np.flatnonzero(always))

    def blocks(self) -> list[Array]:
        """Places of the complete neuroids, as many at once as `passes.BLOCK_BYTES` hold."""
        rows = max(self.ds.sizes["presentation"], self.table.size)
        width = max(1, passes.BLOCK_BYTES // (8 * rows))
        places = np.flatnonzero(~self.incomplete)
        return [places[start : start + width] for start in range(0, len(places), width)]

    def too_few(self, usable: int, needed: int) -> str:
        """Say why noise cannot be estimated."""
        if self.repetitions.max(initial=0) < 2:
            return "every stimulus has a single presentation (shown once, or averaged)"
        return f"{usable} stimuli have 2 or more repetitions to use; {needed} are needed"


def reliabilities_of(
    rows: TargetRows, *, splits: int, seed: int, progress: bool
) -> tuple[Array, Reasons]:
    """Reliability of each neuroid; NaN, and why, where there is none."""
    found = np.full(len(rows.columns), np.nan)
    repeated = int((rows.repetitions >= 2).sum())
    if repeated < MINIMUM_REPEATED:
        return found, {"reliability": rows.too_few(repeated, MINIMUM_REPEATED)}
    for block in track(rows.blocks(), f"{rows.name}: reliability", show=progress):
        values = passes.read_columns(rows.ds, rows.columns[block])
        y = torch.from_numpy(passes.repeats_of(values, rows.table))
        found[block] = reliability(y, splits=splits, seed=seed).numpy()
    return found, {}


def drift_of(rows: TargetRows, parts: Array, kind: str) -> tuple[Array, Array, Reasons]:
    """Drift of each neuroid and its p; NaN, and why, where they are unknown.

    Args:
        rows: the target.
        parts: the session of each presentation of the recording.
        kind: ``session``, or ``half``, which takes halves of the target's own presentations.
    """
    share, chance = np.full((2, len(rows.columns)), np.nan)
    if rows.repetitions.max(initial=0) < 2:
        return share, chance, {"drift": rows.too_few(0, 1)}
    if kind == "half":
        parts = halves_of(rows.table, len(parts))
    presented = np.sort(rows.table[rows.table >= 0])
    stimulus = np.full(len(parts), -1)
    there = rows.table >= 0
    stimulus[rows.table[there]] = np.broadcast_to(np.arange(there.shape[1]), there.shape)[there]
    for block in rows.blocks():
        values = passes.read_columns(rows.ds, rows.columns[block], presented)
        shares = drift_shares(values, stimulus[presented], parts[presented])
        share[block], chance[block] = shares
    if np.isnan(share).all():
        why = f"no stimulus was shown in two {'halves' if kind == 'half' else 'sessions'}"
        return share, chance, {"drift": f"{why}, or no neuroid varies"}
    return share, chance, {}


def ceiling_of(rows: TargetRows, *, seed: int) -> tuple[dict[str, Any], Reasons]:
    """The split-half ceiling of RSA for as many stimuli, drawn once, as fit into memory."""
    fields: dict[str, Any] = {
        "ceiling": math.nan, "ceiling_low": math.nan, "ceiling_high": math.nan,
        "ceiling_stimuli": 0, "ceiling_neuroids": 0,
    }  # fmt: skip
    usable = np.flatnonzero((rows.repetitions >= 2) & ~rows.flat.any(0))
    columns = rows.columns[~rows.incomplete]
    if len(usable) < MINIMUM_CEILING:
        return fields, {"ceiling": rows.too_few(len(usable), MINIMUM_CEILING)}
    if len(columns) < CEILING_NEUROIDS:
        why = f"{len(columns)} neuroids; a correlation distance needs {CEILING_NEUROIDS} or more"
        return fields, {"ceiling": why}
    random = np.random.default_rng(seed)
    room = 2 * passes.BLOCK_BYTES // (8 * len(rows.table))
    least, most = CEILING_STIMULI
    n_stimuli = min(most, len(usable), max(least, room // len(columns)))
    chosen = np.sort(random.choice(usable, n_stimuli, replace=False))
    n_neuroids = min(len(columns), max(CEILING_NEUROIDS, room // n_stimuli))
    columns = np.sort(random.choice(columns, n_neuroids, replace=False))
    part = rows.table[:, chosen]
    presented = np.sort(part[part >= 0])
    place = np.where(part >= 0, np.searchsorted(presented, part), -1)
    y = passes.repeats_of(passes.read_columns(rows.ds, columns, presented), place)
    bounds = split_half_ceiling(torch.from_numpy(y), RSA(), seed=seed)
    if bounds.value is None or math.isnan(bounds.value):
        return fields, {"ceiling": bounds.note or "no split has reliable signal"}
    fields |= {
        "ceiling": bounds.value, "ceiling_low": bounds.low, "ceiling_high": bounds.high,
        "ceiling_stimuli": n_stimuli, "ceiling_neuroids": n_neuroids,
    }  # fmt: skip
    return fields, {}

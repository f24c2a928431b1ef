"""What is wrong with a recording, and how to mend it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from repalign.recording import (
    NEUROID,
    NEUROID_COORDS,
    PRESENTATION,
    STIMULUS,
    SUBJECT,
    is_continuous,
    is_rdm_only,
)
from repalign.shards import row_blocks


def check_recording(ds: xr.Dataset, *, values: FiniteValues | None = None) -> None:
    """Raise a ValueError that says all that is wrong with a recording and how to mend it.

    Args:
        ds: the recording.
        values: what is known already of its responses; without it they are read.

    Raises:
        ValueError: anything is wrong.
    """
    if "response" not in ds and "rdm" not in ds:
        raise ValueError(
            "not a recording: it has neither 'response' nor 'rdm'; build it with make_recording"
        )
    if is_rdm_only(ds):
        problems = _rdm_problems(ds)
    elif is_continuous(ds):
        from repalign.continuous_recording import continuous_problems  # it imports this module

        problems = continuous_problems(ds, values)
    else:
        problems = _response_problems(ds, values)
    try:
        json.dumps(ds.attrs)
    except TypeError as error:
        problems.append(f"an attribute is not text, a number or a list of them ({error})")
    if problems:
        raise ValueError("bad recording: " + "; ".join(problems))


def missing_strings(ds: xr.Dataset, names: Sequence[str]) -> list[str]:
    """What is wrong with coordinates that should hold text."""
    problems = []
    for name in names:
        if name not in ds.coords:
            problems.append(f"coordinate {name!r} is missing")
            continue
        values = ds[name].values
        bad = [v for v in values.tolist() if not isinstance(v, str) or not v]
        if bad:
            problems.append(f"{name!r} has {len(bad)} values that are no text (first: {bad[0]!r})")
    return problems


class FiniteValues:
    """Which rows (presentations, times) and neuroids hold NaN or infinite values."""

    def __init__(self, ds: xr.Dataset) -> None:
        """Begin with none."""
        rows = ds["response"].shape[0] if "response" in ds else 0
        self.bad_rows = np.zeros(rows, dtype=bool)
        self.bad_neuroids = np.zeros(ds.sizes.get(NEUROID, 0), dtype=bool)

    def take(self, name: str, start: int, block: np.ndarray[Any, Any]) -> None:
        """Look at rows of a variable, of which ``response`` counts."""
        if name != "response" or bool(np.isfinite(np.sum(block, dtype=np.float64))):
            return
        bad = ~np.isfinite(block.reshape(*block.shape[:2], -1)).all(axis=2)
        self.bad_rows[start : start + len(block)] |= bad.any(axis=1)
        self.bad_neuroids |= bad.any(axis=0)

    @classmethod
    def of(cls, ds: xr.Dataset) -> FiniteValues:
        """Read the responses of a recording, one shard's rows at a time."""
        found, start = cls(ds), 0
        for block in row_blocks(ds["response"]):
            found.take("response", start, block)
            start += len(block)
        return found


def _response_problems(ds: xr.Dataset, values: FiniteValues | None) -> list[str]:
    response = ds["response"]
    if response.dims[:2] != (PRESENTATION, NEUROID):
        return [f"response has dimensions {response.dims}, expected (presentation, neuroid)"]
    if 0 in response.shape:
        return [f"response is empty: {dict(response.sizes)}"]
    problems = missing_strings(ds, (STIMULUS, *NEUROID_COORDS))
    if "repetition" not in ds.coords:
        problems.append("coordinate 'repetition' is missing")
    if problems:
        return problems
    if not np.issubdtype(response.dtype, np.number):
        return [f"response has type {response.dtype}, expected numbers"]
    found = FiniteValues.of(ds) if values is None else values
    if found.bad_neuroids.any():
        names = ds["neuroid_id"].values[found.bad_neuroids]
        ids = ds[STIMULUS].values[found.bad_rows]
        problems.append(
            f"response has NaN or infinite values in {len(names)} neuroids (first {names[0]!r})"
            f" and {len(ids)} presentations (first {ids[0]!r}); remove them, or set"
            ' missing = "drop_neuroids" (or what else the loader offers) under'
            " [options] of the card. Swapped axes look like this too: check dims, where it has them"
        )
    pairs = list(zip(ds[STIMULUS].values, ds["repetition"].values.tolist(), strict=True))
    if len(set(pairs)) != len(pairs):
        twice = next(pair for pair in pairs if pairs.count(pair) > 1)
        problems.append(f"stimulus {twice[0]!r} has repetition {twice[1]} twice; number them")
    neuroids = list(zip(*(ds[name].values for name in NEUROID_COORDS), strict=True))
    if len(set(neuroids)) != len(neuroids):
        problems.append("two neuroids of one region and subject have the same neuroid_id")
    return problems


def _rdm_problems(ds: xr.Dataset) -> list[str]:
    rdm = ds["rdm"]
    if rdm.dims != (SUBJECT, STIMULUS, f"{STIMULUS}_"):
        return [f"rdm has dimensions {rdm.dims}, expected (subject, stimulus_id, stimulus_id_)"]
    problems = missing_strings(ds, (SUBJECT, STIMULUS, "species", "region"))
    ids = ds[STIMULUS].values.tolist()
    if len(set(ids)) != len(ids) or ids != ds[f"{STIMULUS}_"].values.tolist():
        problems.append("stimulus_id must be unique and equal on both sides of the rdm")
    values = rdm.values
    if not np.isfinite(values).all():
        problems.append("rdm has NaN or infinite values")
    elif not np.allclose(values, values.swapaxes(1, 2), rtol=1e-4, atol=1e-6):
        problems.append("rdm is not symmetric")
    elif np.abs(np.diagonal(values, axis1=1, axis2=2)).max() > 1e-6:
        problems.append("rdm has a diagonal that is not 0")
    return problems

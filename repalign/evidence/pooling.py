"""The neuroids of all subjects of a region as one population."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from repalign.recording import (
    STIMULUS,
    Target,
    is_rdm_only,
    make_recording,
    response_array,
    stimulus_ids,
)

POOLED = "pooled"
Part = tuple[Target, xr.Dataset]


def pooled_parts(parts: list[Part], ids: list[str] | int) -> tuple[list[Part], list[str]]:
    """One population a region, of the neuroids of all its subjects."""
    regions: dict[tuple[str, str], list[xr.Dataset]] = {}
    for target, ds in parts:
        regions.setdefault(target[:2], []).append(ds)
    pooled: list[Part] = []
    notes: list[str] = []
    for (species, region), members in regions.items():
        if any(is_rdm_only(ds) for ds in members):
            raise ValueError(
                "Published RDMs have no neuroids to pool; use subjects='random', which compares"
                " each subject's RDM."
            )
        named = STIMULUS in members[0].coords
        names = ids if isinstance(ids, list) else [f"row {i}" for i in range(ids)]
        names = stimulus_ids(members[0]) if named and isinstance(ids, int) else names
        arrays = [_array(ds, names) for ds in members]
        if len({_repetitions(array).tobytes() for array in arrays}) > 1:
            arrays = [np.nanmean(array, axis=0, keepdims=True) for array in arrays]
            notes = ["repetitions are averaged before neuroids are pooled: subjects differ in them"]
        whole = np.concatenate(arrays, axis=2)
        recorded = ~np.isnan(whole).all(axis=2)
        rows = [(r, s) for r in range(whole.shape[0]) for s in range(len(names)) if recorded[r, s]]
        ds = make_recording(
            np.stack([whole[r, s] for r, s in rows]),
            stimulus_id=[names[s] for _, s in rows],
            region=region,
            species=species,
            subject=POOLED,
            attrs={k: v for k, v in members[0].attrs.items() if k in ("dataset", "fingerprint")},
        )
        if not named:
            ds = ds.drop_vars([STIMULUS, "repetition"]).assign_attrs(repeats=whole.shape[0])
        pooled.append((Target(species, region, POOLED), ds))
    return pooled, notes


def _array(ds: xr.Dataset, names: Sequence[str]) -> np.ndarray[Any, Any]:
    if STIMULUS in ds.coords:
        return response_array(ds, names)
    values: np.ndarray[Any, Any] = ds["response"].values
    return values.reshape(-1, len(names), values.shape[1])


def _repetitions(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    count: np.ndarray[Any, Any] = (~np.isnan(array).all(axis=2)).sum(axis=0)
    return count

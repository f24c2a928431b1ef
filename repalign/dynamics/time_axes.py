"""Recordings with time bins, on the stimuli that all share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.metrics import RSA, Metric
from repalign.recording import (
    STIMULUS,
    TIME_BIN,
    TIME_BIN_START,
    TIME_BIN_STOP,
    Target,
    is_rdm_only,
    refuse_continuous,
    response_array,
    stimulus_ids,
    targets,
)
from repalign.store import load_values

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class TimedPopulation:
    """One region of one subject: responses as repeat × stimulus × neuroid × time."""

    target: Target
    dataset: str
    fingerprint: str
    responses: Array

    @property
    def name(self) -> str:
        """How results and errors call it."""
        return " ".join(filter(None, self.target)) or self.dataset

    @property
    def average(self) -> Array:
        """Mean over the repetitions that exist: stimulus × neuroid × time."""
        one = len(self.responses) == 1
        mean: Array = self.responses[0] if one else np.nanmean(self.responses, axis=0)
        return mean


def recordings_of(recordings: xr.Dataset | Sequence[xr.Dataset], what: str) -> list[xr.Dataset]:
    """The recordings, all with one time axis.

    Raises:
        TypeError: something else than recordings.
        ValueError: no time bins, or one only, or axes that differ.
    """
    every = [recordings] if isinstance(recordings, xr.Dataset) else list(recordings)
    if not every:
        raise ValueError(f"{what}: no recording was given")
    for ds in every:
        if not isinstance(ds, xr.Dataset):
            raise TypeError(
                f"{what}: a {type(ds).__name__} was given; expected recordings. Open a store with"
                " repalign.open_store"
            )
        _check_time(ds, what)
    first = every[0]
    for ds in every[1:]:
        for edge in (TIME_BIN_START, TIME_BIN_STOP):
            if not np.array_equal(ds[edge].values, first[edge].values):
                raise ValueError(
                    f"{what}: the recordings have different time axes, {_axis(first)} and"
                    f" {_axis(ds)}. Keep the bins that they share, with ds.isel(time_bin=[...])"
                )
    return every


def _axis(ds: xr.Dataset) -> str:
    starts, stops = ds[TIME_BIN_START].values, ds[TIME_BIN_STOP].values
    return f"{len(starts)} bins from {starts[0]:g}–{stops[0]:g} to {starts[-1]:g}–{stops[-1]:g} ms"


def _check_time(ds: xr.Dataset, what: str) -> None:
    name = str(ds.attrs.get("dataset") or ds.attrs.get("model") or "the recording")
    if is_rdm_only(ds):
        raise ValueError(f"{what}: {name} holds published RDMs only, which have no time bins")
    refuse_continuous(ds, what)
    if TIME_BIN not in ds["response"].dims:
        raise ValueError(
            f"{what}: {name} has no time bins, its dimensions are {ds['response'].dims}. Compare it"
            " with repalign.compare, or ingest it with time bins (make_recording(...,"
            " time_bins=(starts, stops)))"
        )
    if ds.sizes[TIME_BIN] < 2:
        raise ValueError(
            f"{what}: {name} has 1 time bin; expected 2 or more. Compare it with repalign.compare"
            " after repalign.average_time"
        )
    missing = [c for c in (TIME_BIN_START, TIME_BIN_STOP) if c not in ds.coords]
    if missing:
        raise ValueError(
            f"{what}: {name} has no coordinate {missing[0]!r} on time_bin, which says when its bins"
            " are (in ms)"
        )
    starts, stops = (np.asarray(ds[edge].values, float) for edge in (TIME_BIN_START, TIME_BIN_STOP))
    if not (np.isfinite(starts) & np.isfinite(stops) & (starts <= stops)).all():
        raise ValueError(
            f"{what}: a time bin of {name} has no start and stop in ms, or stops before it starts"
        )
    later = np.diff(starts + stops)
    if (later <= 0).any():
        at = int(np.flatnonzero(later <= 0)[0])
        raise ValueError(
            f"{what}: the time bins of {name} are not in the order of time, or stand there twice:"
            f" one starts at {starts[at + 1]:g} ms after one at {starts[at]:g} ms, and clusters and"
            f" latencies are of neighbours. Use ds.sortby({TIME_BIN_START!r}), with each bin once"
        )


def timed_parts(
    recordings: Iterable[xr.Dataset], ids: Sequence[str], metric: Metric, what: str
) -> list[TimedPopulation]:
    """The (species, region, subject) parts of the recordings, on stimuli in this order.

    Raises:
        ValueError: too few stimuli, a part that stands in two recordings, bins that hold NaN, or
            patterns without a correlation distance.
    """
    if len(ids) < metric.minimum_stimuli:
        raise ValueError(
            f"{what}: {len(ids)} shared stimuli; {metric.name} needs {metric.minimum_stimuli} or"
            " more"
        )
    found: list[TimedPopulation] = []
    for ds in recordings:
        attrs = ds.attrs
        name = str(attrs.get("dataset") or attrs.get("model") or "recording")
        stored = load_values(ds["response"], str(attrs.get("store", name)))
        ds = ds.assign(response=(ds["response"].dims, stored))
        for target, part in targets(ds):
            one = TimedPopulation(
                target, name, str(attrs.get("fingerprint", "")), response_array(part, ids)
            )
            if any(one.target == other.target for other in found):
                raise ValueError(f"{what}: {one.name} stands in two of the recordings")
            _check_values(one, ids, ds, metric, what)
            found.append(one)
    return found


def _bins(ds: xr.Dataset, which: Array) -> str:
    at = np.flatnonzero(which)
    start, stop = ds[TIME_BIN_START].values[at[0]], ds[TIME_BIN_STOP].values[at[0]]
    return f"{len(at)} time bins (the first is {start:g}–{stop:g} ms)"


def _check_values(
    one: TimedPopulation, ids: Sequence[str], ds: xr.Dataset, metric: Metric, what: str
) -> None:
    finite = np.isfinite(one.responses)
    missing = np.asarray(np.isnan(one.responses).all(axis=(2, 3)))
    presented = ~missing  # a repetition that is missing is NaN
    bad = np.asarray(~finite & presented[:, :, None, None])
    if bad.any():
        raise ValueError(
            f"{what}: {one.name} has NaN or infinite values in"
            f" {_bins(ds, np.asarray(bad.any(axis=(0, 1, 2))))}"
            f" and {int(bad.any(axis=(0, 1, 3)).sum())} of {bad.shape[2]} neuroids. Leave out these"
            " bins with ds.isel(time_bin=[...]), or these neuroids"
        )
    if not presented.any(axis=0).all():
        never = ids[int(np.flatnonzero(~presented.any(axis=0))[0])]
        raise ValueError(f"{what}: stimulus {never!r} has no presentation in {one.name}")
    if isinstance(metric, RSA) and metric.rdm == "correlation":
        average = one.average
        constant: Array = average.max(axis=1) == average.min(axis=1)
        if constant.any():
            stimulus = ids[int(np.flatnonzero(constant.any(axis=1))[0])]
            raise ValueError(
                f"{what}: {one.name} responds to {int(constant.any(axis=1).sum())} stimuli (the"
                f" first is {stimulus!r}) with the same value in all {average.shape[1]} neuroids in"
                f" {_bins(ds, np.asarray(constant.any(axis=0)))}, so that their correlation"
                " distance is undefined; use the Euclidean distance, RSA(rdm='euclidean'), or wider"
                " bins"
            )


def time_coordinates(ds: xr.Dataset, suffix: str = "") -> dict[str, tuple[str, Array]]:
    """Start, stop and middle of each bin, along ``time_bin`` and the suffix."""
    starts, stops = (np.asarray(ds[c].values, float) for c in (TIME_BIN_START, TIME_BIN_STOP))
    dimension = f"{TIME_BIN}{suffix}"
    return {
        f"{TIME_BIN_START}{suffix}": (dimension, starts),
        f"{TIME_BIN_STOP}{suffix}": (dimension, stops),
        f"time_ms{suffix}": (dimension, (starts + stops) / 2),
    }


def target_coordinates(parts: Sequence[TimedPopulation]) -> dict[str, tuple[str, list[str]]]:
    """Name, species, region and subject along ``target``."""
    columns = zip(*(part.target for part in parts), strict=True)
    named = dict(zip(Target._fields, columns, strict=True))
    return {
        "target": ("target", [part.name for part in parts]),
        **{name: ("target", list(values)) for name, values in named.items()},
    }


def shared_ids(every: Sequence[xr.Dataset], what: str) -> list[str]:
    """The stimuli that all recordings share, in the order of the first."""
    if any(STIMULUS not in ds.coords for ds in every):
        raise ValueError(f"{what}: a recording has no stimulus_id; rows must be matched by it")
    lists = [stimulus_ids(ds) for ds in every]
    common = set(lists[0]).intersection(*lists[1:])
    ids = [name for name in lists[0] if name in common]
    if not ids:
        raise ValueError(
            f"{what}: the recordings share no stimuli; one has {lists[0][0]!r}, another"
            f" {lists[-1][0]!r}"
        )
    return ids


def frames_of(responses: Array, device: torch.device) -> Tensor:
    """(…, stimulus, neuroid, time) as a tensor of (time, …, stimulus, neuroid)."""
    kind = np.float32 if device.type == "mps" else np.float64
    first = np.moveaxis(responses, -1, 0)
    whole = first if first.dtype in (np.float32, kind) else first.astype(kind)
    return torch.from_numpy(np.ascontiguousarray(whole)).to(device)

"""Recordings that run on: movies, stories and play, as ``response(time, neuroid)``.

On time stand ``run`` and ``time_s``, the seconds from the start of the run to the moment that a
volume stands for. Along a dimension ``event`` stand ``onset_s``, ``duration_s`` and ``event_run``,
and what else is known of each event (``trial_type``, ``stimulus_id``); there may be none.
Attributes: ``repetition_time_s``, one for all runs, and ``slice_time_ref``, the share of it that
lies between the start of a volume and its ``time_s``: volume i of a run covers the seconds from
i × repetition time to (i + 1) × repetition time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from repalign.recording import (
    NEUROID,
    NEUROID_COORDS,
    SCHEMA_VERSION,
    STIMULUS,
    is_continuous,
    strings,
)
from repalign.recording_checks import FiniteValues, missing_strings

TIME, RUN, TIME_S = "time", "run", "time_s"
EVENT, ONSET, DURATION, EVENT_RUN = "event", "onset_s", "duration_s", "event_run"
REPETITION_TIME, SLICE_TIME_REF = "repetition_time_s", "slice_time_ref"
TIME_TOLERANCE = 1e-3  # seconds

Array = np.ndarray[Any, np.dtype[Any]]


def make_continuous_recording(
    response: Any,
    *,
    run: Sequence[str],
    repetition_time_s: float,
    region: str | Sequence[str],
    slice_time_ref: float = 0.0,
    species: str | Sequence[str] = "unknown",
    subject: str | Sequence[str] = "subject-1",
    neuroid_id: Sequence[str] | None = None,
    neuroid: Mapping[str, Any] | None = None,
    events: Mapping[str, Any] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Build a continuous recording from a time × neuroid array.

    ``time_s`` of the i-th volume of a run is (i + slice_time_ref) × repetition_time_s.

    Args:
        response: array of shape (time, neuroid), numpy or dask.
        run: of each volume; the volumes of a run stand together, in order.
        repetition_time_s: seconds between volumes.
        region: brain region of every neuroid, or one a neuroid; likewise species and subject.
        slice_time_ref: where in its repetition time a volume was measured, from 0 (its start) over
            .5 (its middle) to 1.
        neuroid_id: names of the neuroids; numbered by default.
        neuroid: more coordinates along neuroid, such as voxel positions.
        events: columns of equal length: ``onset_s``, ``duration_s`` (seconds from the start of the
            run) and ``event_run``, and any others.
        attrs: units, citation, licence and the like.

    Raises:
        ValueError: a length does not fit, or anything that `repalign.check_recording` finds apart
            from the values, which are not read here.

    Example:
        >>> ds = make_continuous_recording(np.zeros((4, 2)), run=["1", "1", "2", "2"],
        ...     repetition_time_s=1.5, region="IT")
        >>> ds["time_s"].values.tolist()
        [0.0, 1.5, 0.0, 1.5]
    """
    if response.ndim != 2:
        raise ValueError(f"response has shape {response.shape}, expected time × neuroid")
    n_times, n_neuroids = response.shape
    runs = strings(run, n_times, "run")
    interval = repetition_time_s
    if not (math.isfinite(interval) and interval > 0 and 0 <= slice_time_ref <= 1):
        raise ValueError(
            f"repetition_time_s is {interval} and slice_time_ref {slice_time_ref}; expected seconds"
            " above 0, and a share from 0 to 1"
        )
    if neuroid_id is None:
        neuroid_id = [f"neuroid-{i:04d}" for i in range(n_neuroids)]
    coords: dict[str, Any] = {
        RUN: (TIME, runs),
        TIME_S: (TIME, (places_in_runs(runs) + slice_time_ref) * interval),
        "neuroid_id": (NEUROID, strings(neuroid_id, n_neuroids, "neuroid_id")),
        "species": (NEUROID, strings(species, n_neuroids, "species")),
        "subject": (NEUROID, strings(subject, n_neuroids, "subject")),
        "region": (NEUROID, strings(region, n_neuroids, "region")),
    }
    coords |= {name: (NEUROID, values) for name, values in (neuroid or {}).items()}
    for name, values in (events or {}).items():
        if name in coords:
            raise ValueError(f"events has a column {name!r}, which is a coordinate; rename it")
        coords[name] = (EVENT, np.asarray(values))
    ds = xr.Dataset(
        {"response": ((TIME, NEUROID), response)},
        coords=coords,
        attrs={
            "schema_version": SCHEMA_VERSION,
            **(attrs or {}),
            REPETITION_TIME: float(interval),
            SLICE_TIME_REF: float(slice_time_ref),
        },
    )
    problems = _time_problems(ds) + _event_problems(ds)
    if problems:
        raise ValueError("bad recording: " + "; ".join(problems))
    return ds


def places_in_runs(runs: Array) -> Array:
    """How many volumes of its run stand before each volume."""
    seen: dict[str, int] = {}
    places = np.empty(len(runs), dtype=np.int64)
    for row, name in enumerate(runs.tolist()):
        places[row] = seen.get(name, 0)
        seen[name] = seen.get(name, 0) + 1
    return places


def run_bounds(runs: Sequence[str] | Array) -> dict[str, tuple[int, int]]:
    """First row of each run, and the row after its last.

    Raises:
        ValueError: the rows of a run do not stand together.

    Example:
        >>> run_bounds(["a", "a", "b"])
        {'a': (0, 2), 'b': (2, 3)}
    """
    names = [str(name) for name in runs]
    starts = [row for row, name in enumerate(names) if row == 0 or names[row - 1] != name]
    bounds: dict[str, tuple[int, int]] = {}
    for start, stop in zip(starts, [*starts[1:], len(names)], strict=True):
        if names[start] in bounds:
            raise ValueError(
                f"run {names[start]!r} goes on at row {start} after another run; keep the rows of a"
                " run together, and give runs of different sessions different names"
            )
        bounds[names[start]] = start, stop
    return bounds


def check_is_continuous(recording: xr.Dataset) -> None:
    """Raise a TypeError or ValueError unless it is a recording of time × neuroid."""
    if not isinstance(recording, xr.Dataset):
        raise TypeError(f"expected a continuous recording, got a {type(recording).__name__}")
    if not is_continuous(recording):
        raise ValueError(
            "expected a continuous recording, response(time, neuroid), got one of"
            f" {dict(recording.sizes)}; build it with make_continuous_recording"
        )


def continuous_problems(ds: xr.Dataset, values: FiniteValues | None) -> list[str]:
    """All that is wrong with a continuous recording, for `repalign.check_recording`."""
    response = ds["response"]
    if response.dims != (TIME, NEUROID):
        return [f"response has dimensions {response.dims}, expected (time, neuroid)"]
    if 0 in response.shape:
        return [f"response is empty: {dict(response.sizes)}"]
    problems = missing_strings(ds, (RUN, *NEUROID_COORDS))
    if TIME_S not in ds.coords:
        problems.append(f"coordinate {TIME_S!r} is missing")
    problems += [
        f"attribute {name!r} is {ds.attrs.get(name)!r}, expected a number"
        for name in (REPETITION_TIME, SLICE_TIME_REF)
        if not isinstance(ds.attrs.get(name), int | float)
    ]
    if problems:
        return problems
    if not np.issubdtype(response.dtype, np.number):
        return [f"response has type {response.dtype}, expected numbers"]
    found = FiniteValues.of(ds) if values is None else values
    if found.bad_neuroids.any():
        names, row = ds["neuroid_id"].values[found.bad_neuroids], int(np.argmax(found.bad_rows))
        problems.append(
            f"response has NaN or infinite values in {len(names)} neuroids (first {names[0]!r}) at"
            f" {int(found.bad_rows.sum())} times (first {ds[TIME_S].values[row]:g} s of run"
            f" {ds[RUN].values[row]!r}); use a tighter mask"
        )
    neuroids = list(zip(*(ds[name].values for name in NEUROID_COORDS), strict=True))
    if len(set(neuroids)) != len(neuroids):
        problems.append("two neuroids of one region and subject have the same neuroid_id")
    return problems + _time_problems(ds) + _event_problems(ds)


def _time_problems(ds: xr.Dataset) -> list[str]:
    seconds, interval = ds[TIME_S].values, float(ds.attrs[REPETITION_TIME])
    if not np.isfinite(seconds).all():
        return [f"{TIME_S} has NaN or infinite values"]
    try:
        bounds = run_bounds(ds[RUN].values)
    except ValueError as error:
        return [str(error)]
    problems = []
    for name, (start, stop) in bounds.items():
        steps = np.diff(seconds[start:stop])
        wrong = np.flatnonzero(np.abs(steps - interval) > TIME_TOLERANCE)
        if wrong.size:
            at = start + int(wrong[0])
            problems.append(
                f"run {name!r}: {TIME_S} goes from {seconds[at]:g} to {seconds[at + 1]:g} s, but"
                f" the repetition time is {interval:g} s; keep all volumes of a run, in order"
            )
    return problems


def _event_problems(ds: xr.Dataset) -> list[str]:
    if EVENT not in ds.dims:
        return []
    missing = [name for name in (ONSET, DURATION, EVENT_RUN) if name not in ds.variables]
    if missing:
        return [f"events have no {', '.join(missing)}"]
    problems = missing_strings(ds, [n for n in (EVENT_RUN, STIMULUS) if n in ds.coords])
    onsets, durations = (np.asarray(ds[n].values, dtype=np.float64) for n in (ONSET, DURATION))
    ends, interval = onsets + durations, float(ds.attrs[REPETITION_TIME])
    after = (1 - float(ds.attrs[SLICE_TIME_REF])) * interval
    lasts = {
        name: float(ds[TIME_S].values[stop - 1]) + after
        for name, (_, stop) in _bounds_or_none(ds).items()
    }
    for row, name in enumerate(ds[EVENT_RUN].values.tolist()):
        if name not in lasts:
            problems.append(f"event {row} is of run {name!r}; there are {', '.join(lasts)}")
        elif not (onsets[row] >= 0 and durations[row] >= 0):  # NaN too
            problems.append(
                f"event {row} has onset {onsets[row]:g} s and duration {durations[row]:g} s;"
                " expected 0 or more"
            )
        elif ends[row] > lasts[name] + TIME_TOLERANCE:
            problems.append(
                f"event {row} lasts until {ends[row]:g} s, its run {name!r} until"
                f" {lasts[name]:g} s; remove it or cut it there"
            )
        if len(problems) == 3:
            return [*problems, "and perhaps others"]
    return problems


def _bounds_or_none(ds: xr.Dataset) -> dict[str, tuple[int, int]]:
    """Bounds of the runs; none where they are wrong, which is said elsewhere."""
    try:
        return run_bounds(ds[RUN].values)
    except ValueError:
        return {}

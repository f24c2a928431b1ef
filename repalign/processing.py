"""Explicit steps from raw responses to the ones that are compared; each is written down.

A step is named in ``attrs["processing"]`` in the order of the steps, with its parameters. All but
the average over repetitions stay lazy: their values are computed when they are needed.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import xarray as xr

from repalign.recording import (
    NEUROID,
    PRESENTATION,
    STIMULUS,
    TIME_BIN,
    TIME_BIN_START,
    TIME_BIN_STOP,
    is_rdm_only,
    refuse_continuous,
    stimulus_ids,
)
from repalign.shards import row_blocks

PROCESSING = "processing"
Array = np.ndarray[Any, np.dtype[Any]]


def average_repeats(ds: xr.Dataset) -> xr.Dataset:
    """Average the repetitions of each stimulus; a missing trial (NaN in all neuroids) is left out.

    Memory: two float64 numbers a stimulus and neuroid, whatever the number of repetitions.

    Raises:
        ValueError: a recording of RDMs.

    Example:
        >>> from repalign.recording import make_recording
        >>> ds = make_recording(np.array([[1.0], [3.0]]), stimulus_id=["a", "a"], region="IT")
        >>> float(average_repeats(ds)["response"][0, 0])
        2.0
    """
    response = _responses(ds)
    row_of, total, count = sums_of_repeats(ds)
    ids = stimulus_ids(ds)
    with np.errstate(invalid="ignore"):
        mean = total / count  # NaN where no trial is left
    kind = response.dtype if np.issubdtype(response.dtype, np.floating) else np.dtype(np.float64)
    first = np.unique(row_of, return_index=True)[1]
    averaged = ds.isel({PRESENTATION: first}).assign(response=(response.dims, mean.astype(kind)))
    zeros = np.zeros(len(ids), dtype=np.int64)
    averaged = averaged.assign_coords(repetition=(PRESENTATION, zeros))
    return with_step(averaged, "average_repeats()")


def sums_of_repeats(ds: xr.Dataset) -> tuple[Array, Array, Array]:
    """The stimulus of each presentation, and the sum and number of the responses of each stimulus.

    Responses are read block by block and summed in float64; NaN is left out.

    Returns:
        Row of `repalign.recording.stimulus_ids` a presentation; sum and number, each of shape
        (stimulus, neuroid) or (stimulus, neuroid, time_bin).
    """
    ids = stimulus_ids(ds)
    position = {name: row for row, name in enumerate(ids)}
    row_of = np.array([position[str(name)] for name in ds[STIMULUS].values])
    total = np.zeros((len(ids), *ds["response"].shape[1:]))
    count = np.zeros(total.shape, dtype=np.int64)
    start = 0
    for block in row_blocks(ds["response"]):
        rows = row_of[start : start + len(block)]
        there = ~np.isnan(block)
        np.add.at(total, rows, np.where(there, block, 0))
        np.add.at(count, rows, there)
        start += len(block)
    return row_of, total, count


def average_time(
    ds: xr.Dataset, *, start_ms: float | None = None, stop_ms: float | None = None
) -> xr.Dataset:
    """Average the time bins that lie within a window, weighted by their lengths.

    Args:
        ds: a recording with time bins.
        start_ms, stop_ms: of the window; by default the first bin's start and the last one's stop.

    Returns:
        The recording without time bins, lazy where it was.

    Raises:
        ValueError: no time bins, none within the window, or a window that cuts one.

    Example:
        >>> from repalign.recording import make_recording
        >>> bins = ([0, 10, 20], [10, 20, 30])
        >>> ds = make_recording(np.arange(6.0).reshape(1, 2, 3), stimulus_id=["a"], region="IT",
        ...                     time_bins=bins)
        >>> average_time(ds, start_ms=10)["response"].values.tolist()
        [[1.5, 4.5]]
    """
    response = _responses(ds)
    if TIME_BIN not in response.dims:
        raise ValueError("the recording has no time bins; there is nothing to average")
    starts, stops = ds[TIME_BIN_START].values, ds[TIME_BIN_STOP].values
    low = float(starts.min()) if start_ms is None else float(start_ms)
    high = float(stops.max()) if stop_ms is None else float(stop_ms)
    inside = (starts >= low) & (stops <= high)
    cut = ~inside & (stops > low) & (starts < high)
    if not inside.any() or cut.any():
        edges = ", ".join(f"{a:g}–{b:g}" for a, b in zip(starts[:6], stops[:6], strict=True))
        problem = "cuts a time bin" if cut.any() else "holds no time bin"
        raise ValueError(
            f"the window {low:g} to {high:g} ms {problem}; bins are {edges}"
            + (" …" if len(starts) > 6 else "")
        )
    weights = xr.DataArray((stops - starts)[inside], dims=TIME_BIN)
    kept = response.isel({TIME_BIN: np.flatnonzero(inside)}).drop_vars(
        [TIME_BIN_START, TIME_BIN_STOP]
    )
    mean = (kept * weights).sum(TIME_BIN, skipna=False) / weights.sum()
    kind = response.dtype if np.issubdtype(response.dtype, np.floating) else np.float64
    averaged = ds.drop_dims(TIME_BIN).assign(response=mean.astype(kind))
    return with_step(averaged, f"average_time(start_ms={low:g}, stop_ms={high:g})")


def zscore_sessions(ds: xr.Dataset, *, session: str | None = "session") -> xr.Dataset:
    """Subtract each neuroid's mean over the presentations of a session, and divide by its spread.

    ``z = (x − mean) / sd`` with the population standard deviation (n, not n − 1), over all
    presentations, and time bins, of the session. A neuroid that is constant in a session becomes 0
    there.

    Args:
        ds: a recording; it is read once for means and spreads, and stays lazy.
        session: coordinate of the presentations; None takes the recording as one session.

    Raises:
        ValueError: no such coordinate on presentation, or a session of one presentation.

    Example:
        >>> from repalign.recording import make_recording
        >>> ds = make_recording(np.array([[1.0], [3.0]]), stimulus_id=["a", "b"], region="IT")
        >>> zscore_sessions(ds, session=None)["response"].values.ravel().tolist()
        [-1.0, 1.0]
    """
    from repalign.loaders.lazy import lazy_rows

    response = _responses(ds)
    codes, names = _sessions(ds, session)
    mean, spread = _moments(response, codes, len(names))

    def rows(start: int, stop: int) -> Array:
        of_rows = codes[start:stop]
        shape = (stop - start, -1, *(1,) * (response.ndim - 2))
        values: Array = response[start:stop].values
        return (values - mean[of_rows].reshape(shape)) / spread[of_rows].reshape(shape)

    kind = response.dtype if np.issubdtype(response.dtype, np.floating) else np.float64
    lazy = lazy_rows(rows, response.shape, kind)
    scored = ds.assign(response=(response.dims, lazy if response.chunks else lazy.compute()))
    return with_step(scored, f"zscore_sessions(session={session!r})")


def _sessions(ds: xr.Dataset, session: str | None) -> tuple[Array, list[str]]:
    """The number of each presentation's session, and the names of the sessions."""
    n = ds.sizes[PRESENTATION]
    if session is None:
        return np.zeros(n, dtype=np.int64), ["all"]
    if session not in ds.coords or ds[session].dims != (PRESENTATION,):
        known = ", ".join(str(c) for c in ds.coords if ds[c].dims == (PRESENTATION,))
        raise ValueError(
            f"no coordinate {session!r} on presentation; there are {known}. session=None takes the"
            " recording as one session"
        )
    names, codes = np.unique(ds[session].values.astype(str), return_inverse=True)
    counts = np.bincount(codes)
    if (counts < 2).any():
        lone = str(names[counts.argmin()])
        raise ValueError(f"session {lone!r} has one presentation, which has no spread")
    return codes, names.tolist()


def _moments(response: xr.DataArray, codes: Array, n_sessions: int) -> tuple[Array, Array]:
    """Mean and standard deviation a session and neuroid; the spread is 1 where it is 0.

    Blocks are merged by Chan's formula, which does not cancel as a sum of squares does.
    """
    shape = (n_sessions, response.sizes[NEUROID])
    mean, squares, count = np.zeros(shape), np.zeros(shape), np.zeros((n_sessions, 1))
    start = 0
    for block in row_blocks(response):
        of_rows = codes[start : start + len(block)]
        for code in np.unique(of_rows):
            part = block[of_rows == code].astype(np.float64)
            part = np.moveaxis(part, 1, -1).reshape(-1, shape[1])
            ours, n = part.mean(0), len(part)
            apart, whole = ours - mean[code], count[code] + n
            squares[code] += np.square(part - ours).sum(0) + apart**2 * count[code] * n / whole
            mean[code] += apart * n / whole
            count[code] = whole
        start += len(block)
    spread = np.sqrt(squares / count)
    return mean, np.where(spread > 0, spread, 1.0)


def _responses(ds: xr.Dataset) -> xr.DataArray:
    if is_rdm_only(ds) or "response" not in ds:
        raise ValueError("the recording holds RDMs, not responses, which cannot be processed")
    refuse_continuous(ds, "this step")
    return ds["response"]


def with_step(ds: xr.Dataset, step: str) -> xr.Dataset:
    """The recording with one step more in its attributes, and a fingerprint of its own."""
    attrs = {**ds.attrs, PROCESSING: [*ds.attrs.get(PROCESSING, []), step]}
    if "fingerprint" in attrs:
        digest = hashlib.sha256(f"{attrs['fingerprint']} {step}".encode()).hexdigest()
        attrs["fingerprint"] = f"sha256:{digest}"
    return ds.assign_attrs(attrs)

"""Spike counts in windows around presentations, exact at the edges, a unit in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from repalign.loaders.hdf5 import open_hdf5

MARK_EVERY = (
    4096  # spikes between two remembered times; a read takes in fewer than two of these more
)
SLACK_SECONDS = 1e-6  # a window that ends where the recording does, but for rounding, is inside
SILENCE_SECONDS = 10.0
SILENCE_INTERVALS = 20  # a Poisson process is silent this long once in 5e8 times

Array = np.ndarray[Any, np.dtype[Any]]


def bin_edges(window_ms: Sequence[float], bin_ms: float | None = None) -> Array:
    """Edges in ms of the bins that a window is cut into; of one bin by default.

    Raises:
        ValueError: the window is empty, or its bins do not fill it.

    Example:
        >>> bin_edges((50, 200), 50).tolist()
        [50.0, 100.0, 150.0, 200.0]
    """
    start, stop = (float(edge) for edge in window_ms)
    if not (np.isfinite([start, stop]).all() and start < stop):
        raise ValueError(
            f"window_ms = [{start:g}, {stop:g}]: expected [start, stop], start before stop, in ms"
        )
    if stop - start < 1:
        raise ValueError(
            f"window_ms = [{start:g}, {stop:g}] is {stop - start:g} ms long; it is in milliseconds,"
            " not seconds"
        )
    if bin_ms is None:
        return np.array([start, stop])
    ratio = (stop - start) / bin_ms if np.isfinite(bin_ms) and bin_ms > 0 else 0.0
    bins = round(ratio)
    if bins < 1 or abs(ratio - bins) > 1e-6:
        raise ValueError(
            f"bin_ms = {bin_ms:g} does not divide window_ms = [{start:g}, {stop:g}] into whole bins"
        )
    edges = start + bin_ms * np.arange(bins + 1)
    edges[-1] = stop
    return edges


def count_spikes(times: Array, edges: Array) -> Array:
    """Number of spikes in each bin, from its first edge on until just before the next.

    Args:
        times: spike times of one unit, sorted.
        edges: presentation × edge, in the same unit of time; rows ascend.

    Returns:
        presentation × bin.

    Example:
        >>> count_spikes(np.array([0.0, 0.1, 0.2]), np.array([[0.0, 0.1, 0.2]])).tolist()
        [[1, 1]]
    """
    counts: Array = np.diff(np.searchsorted(times, edges, side="left"), axis=-1)
    return counts


def merge_intervals(intervals: Array, gap: float = SLACK_SECONDS) -> Array:
    """Sort intervals (n × 2) and join those that overlap or touch.

    Example:
        >>> merge_intervals(np.array([[2.0, 3.0], [0.0, 2.0], [5.0, 6.0]])).tolist()
        [[0.0, 3.0], [5.0, 6.0]]
    """
    if len(intervals) == 0:
        return np.empty((0, 2))
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reached = np.maximum.accumulate(intervals[:, 1])
    first = np.concatenate([[True], intervals[1:, 0] > reached[:-1] + gap])
    last = np.concatenate([first[1:], [True]])
    return np.stack([intervals[first, 0], reached[last]], axis=1)


def covered(intervals: Array, start: Array, stop: Array) -> Array:
    """Whether each window lies wholly inside one of the merged intervals.

    Example:
        >>> covered(np.array([[0.0, 1.0]]), np.array([0.2, 0.8]), np.array([1.0, 1.2])).tolist()
        [True, False]
    """
    if len(intervals) == 0:
        return np.zeros(len(start), dtype=bool)
    index = np.searchsorted(intervals[:, 0], start + SLACK_SECONDS, side="right") - 1
    inside: Array = (index >= 0) & (stop <= intervals[index, 1] + SLACK_SECONDS)
    return inside


@dataclass(frozen=True)
class SpikeTrains:
    """Spike times of units as they lie in an HDF5 file, back to back in one dataset.

    Args:
        path: of the file.
        dataset: inside the file, such as ``/units/spike_times``; in seconds.
        names: of the units, for messages.
        starts: index of each unit's first spike.
        stops: index after each unit's last spike.
        marks: the time of every ``MARK_EVERY``-th spike of each unit, by which a read is narrowed.
        observed: the merged intervals that each unit was recorded in; none where not known.
        extent: time of the first and last spike of all units, and how many spikes there are.
    """

    path: Path
    dataset: str
    names: tuple[str, ...]
    starts: Array
    stops: Array
    marks: tuple[Array, ...]
    observed: tuple[Array, ...] | None
    extent: tuple[float, float, int]

    def take(self, keep: Array) -> SpikeTrains:
        """Return the trains of some units; the recording's extent stays that of all."""
        chosen = np.flatnonzero(keep)
        return replace(
            self,
            names=tuple(self.names[i] for i in chosen),
            starts=self.starts[chosen],
            stops=self.stops[chosen],
            marks=tuple(self.marks[i] for i in chosen),
            observed=None if self.observed is None else tuple(self.observed[i] for i in chosen),
        )

    def recorded(self, start: Array, stop: Array) -> Iterator[Array]:
        """For each unit, whether it was recorded during each window.

        Without observation intervals a recording counts as ended where all units together are
        silent for longer than spiking explains.
        """
        if self.observed is None:
            first, last, spikes = self.extent
            mean_interval = (last - first) / max(spikes - 1, 1)
            silence = max(SILENCE_SECONDS, SILENCE_INTERVALS * mean_interval)
            whole = np.array([[min(0.0, first - silence), last + silence]])
            inside = (stop > whole[0, 0]) & (start < whole[0, 1])
            yield from (inside for _ in self.names)
            return
        known: dict[bytes, Array] = {}  # most units share their intervals
        for intervals in self.observed:
            key = intervals.tobytes()
            if key not in known:
                known[key] = covered(intervals, start, stop)
            yield known[key]

    def respond(self, edges: Array) -> Array:
        """Spike counts, presentation × unit × bin; reads the spikes between the outer edges.

        Args:
            edges: presentation × edge, in seconds.
        """
        counts = np.empty((len(edges), len(self.names), edges.shape[1] - 1), dtype=np.float32)
        low, high = edges.min(), edges.max()
        with open_hdf5(self.path) as file:
            data = file[self.dataset]
            for unit, marks in enumerate(self.marks):
                begin = self.starts[unit] + MARK_EVERY * max(0, np.searchsorted(marks, low) - 1)
                end = self.starts[unit] + MARK_EVERY * np.searchsorted(marks, high)
                times = data[int(begin) : int(min(end, self.stops[unit]))]
                counts[:, unit] = count_spikes(times.astype(np.float64, copy=False), edges)
        return counts


def open_spike_trains(
    path: Path,
    dataset: str,
    names: Sequence[str],
    stops: Array,
    *,
    keep: Array | None = None,
    observed: Sequence[Array] | None = None,
) -> SpikeTrains:
    """Check the spike times of a file, a unit at a time, and remember where they lie.

    Args:
        path: of the HDF5 file.
        dataset: of the spike times, unit after unit.
        names: of all units in it.
        stops: index after each unit's last spike.
        keep: which units are wanted; all by default.
        observed: n × 2 intervals in s that each unit was recorded in, where they are known.

    Raises:
        ValueError: NaN, negative or unsorted times, stops that do not fit, no spikes at all.
    """
    stops = np.asarray(stops).astype(np.int64)  # files keep small unsigned numbers
    starts = np.concatenate([[0], stops[:-1]])
    chosen = [unit for unit in range(len(names)) if keep is None or keep[unit]]
    marks: list[Array] = []
    ends: list[float] = []
    spikes = 0
    with open_hdf5(path) as file:
        data = file[dataset]
        if (stops < starts).any() or len(stops) != len(names) or stops.max(initial=0) > len(data):
            raise ValueError(
                f"{path}: the index of {dataset} does not fit its {len(data)} spike times and"
                f" {len(names)} units; the file is damaged: fetch or export it again"
            )
        for unit in chosen:
            times = np.asarray(data[int(starts[unit]) : int(stops[unit])], dtype=np.float64)
            _check_times(times, f"{path}: {dataset} of unit {names[unit]}")
            marks.append(times[::MARK_EVERY].copy())
            spikes += len(times)
            ends += times[[0, -1]].tolist() if len(times) else []
    if not ends:
        raise ValueError(f"{path}: {dataset} has no spike in any of {len(chosen)} units")
    return SpikeTrains(
        path,
        dataset,
        tuple(names[unit] for unit in chosen),
        starts[chosen],
        stops[chosen],
        tuple(marks),
        None if observed is None else tuple(merge_intervals(observed[unit]) for unit in chosen),
        (min(ends), max(ends), spikes),
    )


def _check_times(times: Array, what: str) -> None:
    problem = ""
    if not np.isfinite(times).all():
        problem = f"{np.count_nonzero(~np.isfinite(times))} times are NaN or infinite"
    elif (falls := np.flatnonzero(np.diff(times) < 0)).size:
        problem = (
            f"times are not sorted: {times[falls[0]]:g} s stands before {times[falls[0] + 1]:g} s"
        )
    elif times.size and times[0] < 0:
        problem = f"{np.count_nonzero(times < 0)} times are negative (first {times[0]:g} s)"
    if problem:
        raise ValueError(
            f"{what}: {problem}; expected seconds from the session's start, ascending. Mend the"
            " file, or leave the unit out with select under [options] of the card"
        )

"""From the samples of epochs to time bins, on the sampling grid, a few epochs in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repalign.card_schemas import DatasetCard
from repalign.loaders.fif_files import EpochsFile, Note, read_epochs
from repalign.loaders.spike_counts import bin_edges

GRID_TOLERANCE = 1e-6  # of a sample: an edge that lies on one but for rounding

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class EpochRows:
    """How the epochs of one file become rows of a recording.

    Args:
        path: of the file.
        n_epochs: in it.
        picks: indices of the channels.
        bins: index of each bin's first sample in the epoch, and the end of the last.
        baseline: where the samples begin and end whose mean is subtracted.
        scale: what each channel is multiplied by.
        projections: whether those are applied that were not.
        step: epochs that are read before they are binned.
        kind: of the values that come out; all else is float64.
    """

    path: Path
    n_epochs: int
    picks: Array
    bins: Array
    baseline: tuple[int, int] | None
    scale: Array
    projections: bool
    step: int
    kind: np.dtype[Any]

    def rows(self, start: int, stop: int) -> Array:
        """Epochs as presentation × channel × time bin; few are in memory before they are binned."""
        out = np.empty((stop - start, len(self.picks), len(self.bins) - 1), self.kind)
        for first in range(start, stop, self.step):
            last = min(first + self.step, stop)
            values = read_epochs(self.path, self.picks, first, last, projections=self.projections)
            if self.baseline is not None:
                begin, end = self.baseline
                values -= values[:, :, begin:end].mean(axis=2, keepdims=True)
            if len(self.bins) == self.bins[-1] - self.bins[0] + 1:  # a sample a bin
                values = values[:, :, self.bins[0] : self.bins[-1]]
            else:
                pairs = zip(self.bins[:-1], self.bins[1:], strict=True)
                values = np.stack([values[:, :, a:b].mean(axis=2) for a, b in pairs], axis=2)
            values *= self.scale[:, None]
            out[first - start : last - start] = values
        return out


def _first_sample(edge_ms: float, sampling_rate: float) -> int:
    """The first sample that is not before a time."""
    return int(np.ceil(edge_ms * sampling_rate / 1000 - GRID_TOLERANCE))


def time_bins(
    card: DatasetCard,
    window_ms: tuple[float, float] | None,
    bin_ms: float | None,
    opened: Sequence[EpochsFile],
    note: Note,
) -> tuple[Array, list[Array]]:
    """Edges of the time bins in ms, and where they lie in each file's epochs.

    Args:
        card: whose options these are.
        window_ms: what is kept; all samples by default.
        bin_ms: length of the bins; a sample by default.
        opened: the files.
        note: is told of bins with unequal numbers of samples.

    Raises:
        ValueError: other sampling rates or samples, a window that is not in the epochs, bins
            without samples.
    """
    rate = float(opened[0].epochs.info["sfreq"])
    grids = [(one.first, one.first + len(one.epochs.times)) for one in opened]
    for one, grid in zip(opened, grids, strict=True):
        other = float(one.epochs.info["sfreq"])
        if abs(other - rate) > 1e-6 * rate:
            raise ValueError(
                f"{one.path} is sampled at {other:g} Hz, {opened[0].path} at {rate:g} Hz;"
                " resample one of them with MNE"
            )
        if window_ms is None and grid != grids[0]:
            raise ValueError(
                f"{one.path} has samples {grid[0]} to {grid[1] - 1} around the event,"
                f" {opened[0].path} has {grids[0][0]} to {grids[0][1] - 1}; choose what both have"
                " by window_ms under [options]"
            )
    try:
        whole = (1000 * grids[0][0] / rate, 1000 * grids[0][1] / rate)
        edges = bin_edges(whole if window_ms is None else window_ms, bin_ms)
    except ValueError as error:
        hint = "; give a window_ms that it divides" if window_ms is None else ""
        raise ValueError(f"card {card.path}: [options] {error}{hint}") from error
    indices = np.array([_first_sample(edge, rate) for edge in edges])
    for one, (begin, end) in zip(opened, grids, strict=True):
        if indices[0] < begin or indices[-1] > end:
            raise ValueError(
                f"card {card.path}: window_ms = [{edges[0]:g}, {edges[-1]:g}], but the epochs of"
                f" {one.path} go from {1000 * begin / rate:g} to {1000 * end / rate:g} ms"
            )
    counts = np.diff(indices)
    if bin_ms is None:
        indices = np.arange(indices[0], indices[-1] + 1)
        edges = 1000 * indices / rate
    if counts.min() < 1:
        raise ValueError(
            f"card {card.path}: a time bin from {edges[int(counts.argmin())]:g} ms on holds no"
            f" sample; samples are {1000 / rate:g} ms apart: make the bins or the window longer"
        )
    if counts.min() != counts.max():
        note(f"time bins are means of {counts.min()} to {counts.max()} samples, at {rate:g} Hz")
    return edges, [indices - begin for begin, _ in grids]


def baseline_samples(
    card: DatasetCard, baseline_ms: tuple[float, float] | None, source: EpochsFile
) -> tuple[int, int] | None:
    """Where the samples of the baseline begin and end in an epoch; both times are in it.

    Raises:
        ValueError: no sample, or outside the epochs.
    """
    if baseline_ms is None:
        return None
    rate = float(source.epochs.info["sfreq"])
    start, stop = baseline_ms
    begin = end = -1
    if np.isfinite([start, stop]).all():
        begin = _first_sample(start, rate) - source.first
        end = int(np.floor(stop * rate / 1000 + GRID_TOLERANCE)) - source.first + 1
    if not 0 <= begin < end <= len(source.epochs.times):
        times = source.epochs.times[[0, -1]] * 1000
        raise ValueError(
            f"card {card.path}: baseline_ms = [{start:g}, {stop:g}]; expected start and stop, in"
            f" ms, around a sample and within the epochs of {source.path}, {times[0]:g} to"
            f" {times[1]:g} ms"
        )
    return begin, end

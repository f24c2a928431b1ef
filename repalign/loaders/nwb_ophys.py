"""Calcium imaging in NWB files: the mean of each ROI's trace in windows around presentations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from repalign.loaders.hdf5 import open_hdf5
from repalign.loaders.nwb_tables import Table, is_kind, place, read_table
from repalign.loaders.spike_counts import covered

SLAB_BYTES = 16 << 20
CHUNK_BYTES = 64 << 20

Array = np.ndarray[Any, np.dtype[Any]]


def window_means(read_frames: Any, first: Array, last: Array, slab: int, columns: int) -> Array:
    """Mean over frames first to last - 1 of each window, window × column, in float64.

    Args:
        read_frames: ``read_frames(start, stop)`` gives these frames, frame × column.
        first: index of each window's first frame.
        last: index after each window's last frame; larger than first.
        slab: most frames read at a time; a window may span several slabs.
        columns: how many columns there are.

    Example:
        >>> frames = np.array([[1.0], [3.0], [8.0]])
        >>> window_means(lambda a, b: frames[a:b], np.array([0, 1]), np.array([2, 3]), 1, 1)
        array([[2. ],
               [5.5]])
    """
    sums = np.zeros((len(first), columns))
    for start in range(int(first.min()) // slab * slab, int(last.max()), slab):
        low = np.clip(first, start, start + slab)
        high = np.clip(last, start, start + slab)
        here = np.flatnonzero(high > low)
        if len(here) == 0:
            continue
        here = here[
            np.argsort(low[here], kind="stable")
        ]  # else reduceat adds up gaps over and over
        begin, end = int(low[here].min()), int(high[here].max())
        frames = np.zeros((end - begin + 1, columns))  # one more row: an end may not be past it
        frames[:-1] = read_frames(begin, end)
        pairs = np.stack([low[here], high[here]], axis=1).ravel() - begin
        sums[here] += np.add.reduceat(frames, pairs, axis=0)[::2]
    means: Array = sums / (last - first)[:, None]
    return means


@dataclass(frozen=True)
class RoiTraces:
    """Traces of ROIs as they lie in an NWB file, frame × ROI.

    Args:
        path: of the file.
        dataset: inside the file.
        names: of the ROIs kept.
        columns: of the dataset that hold them.
        times: of the frames, in seconds.
        scale: what the stored numbers are multiplied by, then what is added.
        table_id: the identity of the series, the same in copies of a file.
    """

    path: Path
    dataset: str
    names: tuple[str, ...]
    columns: Array
    times: Array
    scale: tuple[float, float]
    table_id: str

    def take(self, keep: Array) -> RoiTraces:
        """Return the traces of some ROIs."""
        names = tuple(np.array(self.names, dtype=object)[keep])
        return replace(self, names=names, columns=self.columns[keep])

    def recorded(self, start: Array, stop: Array) -> Iterator[Array]:
        """For each ROI, whether frames were taken during each whole window."""
        interval = float(np.median(np.diff(self.times)))
        whole = np.array([[self.times[0], self.times[-1] + interval]])
        inside = covered(whole, start, stop)
        yield from (inside for _ in self.names)

    def respond(self, edges: Array) -> Array:
        """Mean of the frames whose time lies in each bin, presentation × ROI × bin.

        Args:
            edges: presentation × edge, in seconds.

        Raises:
            ValueError: a bin without a frame, or NaN in one of its frames.
        """
        index = np.searchsorted(self.times, edges, side="left")
        first, last = index[:, :-1].ravel(), index[:, 1:].ravel()
        bins = edges.shape[1] - 1
        if (last <= first).any():
            empty = int(np.argmax(last <= first))
            row, column = divmod(empty, bins)
            raise ValueError(
                f"{self.path}: no frame of {self.dataset} lies in the bin from"
                f" {edges[row, column]:g} s to {edges[row, column + 1]:g} s; frames are"
                f" {1000 * np.median(np.diff(self.times)):.4g} ms apart: set a larger bin_ms or"
                " window_ms under [options] of the card"
            )
        with open_hdf5(self.path) as file:
            data = file[self.dataset]
            width = data.shape[1] if data.ndim == 2 else 1
            every = len(self.columns) == width and (self.columns == np.arange(width)).all()

            def read_frames(start: int, stop: int) -> Array:
                frames: Array = data[start:stop].reshape(stop - start, width)
                return frames if every else frames[:, self.columns]

            means = window_means(read_frames, first, last, _slab(data), len(self.columns))
        bad = np.flatnonzero(~np.isfinite(means).all(axis=0))
        if len(bad):
            raise ValueError(
                f"{self.path}: {self.dataset} has NaN or inf in windows of {len(bad)} ROIs (first"
                f" {self.names[bad[0]]}); leave them out with select under [options] of the card,"
                " by a column or by id"
            )
        means = means * self.scale[0] + self.scale[1]
        return means.reshape(len(edges), bins, -1).transpose(0, 2, 1)


def _slab(data: Any) -> int:
    """Frames to read at a time: whole chunks, where these are of bearable size."""
    row_bytes: int = max(1, data.dtype.itemsize * int(np.prod(data.shape[1:])))
    rows = max(1, SLAB_BYTES // row_bytes)
    chunk = int(data.chunks[0]) if data.chunks else 1
    if chunk > rows:
        return chunk if chunk * row_bytes <= CHUNK_BYTES else rows
    return rows // chunk * chunk


def open_roi_series(content: Any, path: Path, wanted: str) -> tuple[RoiTraces, Table, str]:
    """The traces of one ``RoiResponseSeries``, what is known of its ROIs, and where they lie.

    Args:
        content: the open file.
        path: of the file.
        wanted: path of the series inside it.

    Returns:
        The traces, the rows of the plane segmentation in their order, the plane's location.

    Raises:
        ValueError: no such series, or one whose parts do not fit.
    """
    found = [item for item in content.objects.values() if is_kind(item, "RoiResponseSeries")]
    by_place = {place(item, "data"): item for item in found}
    name = "/" + wanted.strip("/")
    if name not in by_place:
        raise ValueError(
            f"{path} has no RoiResponseSeries at series = {wanted!r}; it has"
            f" {', '.join(key.strip('/') for key in by_place) or 'none'}"
        )
    series = by_place[name]
    rows = np.asarray(series.rois.data[:]).astype(np.int64)
    shape = tuple(series.data.shape)
    if (shape[1] if len(shape) == 2 else 1) != len(rows):
        raise ValueError(
            f"{path}: {name} has shape {shape}, expected frames × {len(rows)} ROIs;"
            " its axes may be swapped: mend the file"
        )
    segmentation = series.rois.table
    table = read_table(segmentation, path, place(segmentation.id, "data"))
    if rows.size and not 0 <= rows.min() <= rows.max() < len(table.ids):
        raise ValueError(f"{path}: {name} points outside the {len(table.ids)} ROIs of {table.name}")
    columns = {label: values[rows] for label, values in table.columns.items()}
    table = replace(table, ids=table.ids[rows], columns=columns)
    conversion = 1.0 if series.conversion is None else float(series.conversion)
    traces = RoiTraces(
        path,
        f"{name}/data",
        tuple(str(value) for value in table.ids.tolist()),
        np.arange(len(rows)),
        _frame_times(series, path, name, shape[0]),
        (conversion, float(series.offset or 0.0)),
        str(series.object_id),
    )
    return traces, table, str(segmentation.imaging_plane.location)


def _frame_times(series: Any, path: Path, name: str, frames: int) -> Array:
    """Times of the frames in seconds: as stored, or from the rate."""
    if series.timestamps is not None:
        times = np.asarray(series.timestamps[:], dtype=np.float64)
    elif series.rate is not None and series.rate > 0:
        times = float(series.starting_time or 0.0) + np.arange(frames) / float(series.rate)
    else:
        raise ValueError(f"{path}: {name} has neither timestamps nor a rate; mend the file")
    if len(times) != frames or frames < 2:
        raise ValueError(
            f"{path}: {name} has {len(times)} timestamps for {frames} frames, expected as many as"
            " frames and at least two; its axes may be swapped: mend the file"
        )
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ValueError(
            f"{path}: {name} has timestamps that are NaN or do not ascend; expected seconds from"
            " the session's start: mend the file"
        )
    return times

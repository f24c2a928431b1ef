"""What one pass over the rows of a recording says of its neuroids, stimuli and sessions.

Responses are taken a few megabytes at a time, in float64, whatever the size of the recording.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from repalign.processing import average_time
from repalign.recording import NEUROID, PRESENTATION, STIMULUS, TIME_BIN
from repalign.shards import row_blocks

BLOCK_BYTES = 16 << 20  # of float64 responses in one block; some six such blocks are held at once
BINS = 40

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class RowScan:
    """What a pass over all presentations found; a group is a (species, region, subject).

    Attributes:
        count: number of finite responses, a neuroid; likewise mean, spread (population standard
            deviation), minimum and maximum over them. NaN where there is none.
        digest: 64 bits of each neuroid's responses, equal where all responses are.
        incomplete: whether a neuroid is NaN or infinite where others of its group are not.
        missing: group × presentation, whether it is NaN in all neuroids of the group.
        flat: group × presentation, whether all neuroids of the group respond the same.
        whole: a group, whether all its responses are whole numbers.
        part_sum, part_count: group × part, sum and number of finite responses.
    """

    count: Array
    mean: Array
    spread: Array
    minimum: Array
    maximum: Array
    digest: Array
    incomplete: Array
    missing: Array
    flat: Array
    whole: Array
    part_sum: Array
    part_count: Array


def row_parts(response: xr.DataArray) -> Iterator[tuple[int, Array]]:
    """Rows of a presentation × neuroid array in float64, with the number of the first."""
    # A pass holds several arrays of the size of a part beside a shard of the store.
    rows = max(1, BLOCK_BYTES // 2 // (8 * max(1, response.sizes[NEUROID])))
    start = 0
    for block in row_blocks(response):
        for first in range(0, len(block), rows):
            yield start + first, block[first : first + rows].astype(np.float64)
        start += len(block)
        del block  # before the next is read


def without_time(ds: xr.Dataset) -> xr.Dataset:
    """The recording averaged over its time bins, where it has some."""
    return average_time(ds) if TIME_BIN in ds["response"].dims else ds


def read_columns(ds: xr.Dataset, columns: Array, rows: Array | None = None) -> Array:
    """Time-averaged responses of some neuroids, and of some presentations, in float64.

    Args:
        ds: a recording, which may be larger than memory.
        columns: numbers of the neuroids, ascending.
        rows: numbers of the presentations, ascending; None is all.
    """
    dense = columns[-1] - columns[0] + 1 == len(columns)
    chosen: Any = slice(int(columns[0]), int(columns[-1]) + 1) if dense else columns
    response = without_time(ds.isel({NEUROID: chosen}))["response"]
    wanted = np.arange(ds.sizes[PRESENTATION]) if rows is None else rows
    out = np.empty((len(wanted), len(columns)))
    for start, block in row_parts(response):
        low, high = np.searchsorted(wanted, [start, start + len(block)])
        out[low:high] = block[wanted[low:high] - start]
    return out


def repeat_table(ds: xr.Dataset, missing: Array) -> tuple[Array, list[str]]:
    """Rows of the presentations as repetition × stimulus, −1 where there is none; and the stimuli.

    The presentations of a stimulus stand in the order of their repetition; those that are missing,
    and stimuli without any other, are left out.
    """
    kept = np.flatnonzero(~missing)
    ids = ds[STIMULUS].values[kept].astype(str)
    names = list(dict.fromkeys(ids.tolist()))
    position = {name: number for number, name in enumerate(names)}
    codes = np.array([position[name] for name in ids.tolist()], dtype=np.int64)
    order = np.lexsort((ds["repetition"].values[kept], codes))
    counts = np.bincount(codes, minlength=len(names))
    begins = np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((int(counts.max(initial=0)), len(names)), -1, dtype=np.int64)
    table[np.arange(len(kept)) - begins, codes[order]] = kept[order]
    return table, names


def repeats_of(values: Array, table: Array) -> Array:
    """Repetition × stimulus × neuroid of presentation × neuroid, NaN where there is none."""
    y: Array = values[table]  # −1 takes the last row, which is then overwritten
    y[table < 0] = np.nan
    return y


def scan_rows(
    response: xr.DataArray, groups: Sequence[Array], parts: Array, n_parts: int
) -> RowScan:
    """Read all responses once and gather what `RowScan` names.

    Moments of blocks are merged by Chan's formula, which does not cancel as a sum of squares does.

    Args:
        response: presentation × neuroid.
        groups: numbers of the neuroids of each group.
        parts: the part (session) of each presentation, from 0.
        n_parts: how many there are.
    """
    n_rows, n = response.shape
    count, mean, squares = np.zeros(n), np.zeros(n), np.zeros(n)
    minimum, maximum = np.full(n, np.inf), np.full(n, -np.inf)
    digest, incomplete = np.zeros(n, dtype=np.uint64), np.zeros(n, dtype=bool)
    missing = np.zeros((len(groups), n_rows), dtype=bool)
    flat, whole = np.zeros_like(missing), np.ones(len(groups), dtype=bool)
    part_sum, part_count = np.zeros((2, len(groups), n_parts))
    for start, block in row_parts(response):
        rows = slice(start, start + len(block))
        there = np.isfinite(block)
        digest += _digest(block, start)
        known = np.where(there, block, 0.0)
        ours = there.sum(0)
        centre = known.sum(0) / np.maximum(ours, 1)
        apart, both = centre - mean, np.maximum(count + ours, 1)
        squares += np.square(np.where(there, known - centre, 0.0)).sum(0)
        squares += apart**2 * count * ours / both
        mean += apart * ours / both
        count += ours
        minimum = np.minimum(minimum, np.where(there, block, np.inf).min(0))
        maximum = np.maximum(maximum, np.where(there, block, -np.inf).max(0))
        for number, columns in enumerate(groups):
            own, values = there[:, columns], known[:, columns]
            gone: Array = np.logical_and.reduce(np.isnan(block[:, columns]), axis=1)
            missing[number, rows] = gone
            incomplete[columns] |= (~own[~gone]).any(0)
            flat[number, rows] = own.all(1) & (values.max(1) == values.min(1))
            whole[number] &= bool((values == np.rint(values)).all())
            np.add.at(part_sum[number], parts[rows], values.sum(1))
            np.add.at(part_count[number], parts[rows], own.sum(1))
    none = count == 0
    mean[none] = minimum[none] = maximum[none] = np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(squares / count)
    return RowScan(
        count, mean, spread, minimum, maximum, digest, incomplete, missing, flat, whole,
        part_sum, part_count,
    )  # fmt: skip


def count_bins(
    response: xr.DataArray, groups: Sequence[Array], scan: RowScan
) -> list[tuple[Array, Array]]:
    """Edges and counts of a histogram of the finite responses of each group.

    `BINS` bins of one width span all responses; where those are whole numbers each bin holds
    equally many of them.
    """
    edges: list[Array] = []
    for columns, whole in zip(groups, scan.whole, strict=True):
        known = columns[scan.count[columns] > 0]
        low = float(scan.minimum[known].min()) if known.size else 0.0
        high = float(scan.maximum[known].max()) if known.size else 0.0
        if whole:
            width = max(1, int(np.ceil((high - low + 1) / BINS)))
            n_bins = max(1, int(np.ceil((high - low + 1) / width)))
            edges.append(low - 0.5 + width * np.arange(n_bins + 1.0))
        else:
            around = 0.5 if low == high else 0.0
            edges.append(np.linspace(low - around, high + around, BINS + 1))
    counts = [np.zeros(len(one) - 1, dtype=np.int64) for one in edges]
    for _, block in row_parts(response):
        for number, columns in enumerate(groups):
            values = block[:, columns]
            ends = (float(edges[number][0]), float(edges[number][-1]))
            known = values[np.isfinite(values)]
            counts[number] += np.histogram(known, bins=len(counts[number]), range=ends)[0]
    return list(zip(edges, counts, strict=True))


def _digest(block: Array, start: int) -> Array:
    """The share of a block of rows in the 64 bits that stand for a neuroid's responses.

    A sum of mixed bits does not depend on how rows are cut into blocks, as a hash of bytes would.
    """
    bits = np.where(np.isnan(block), np.nan, block + 0.0).view(np.uint64)  # one NaN and one zero
    keys = _mixed(np.arange(start + 1, start + 1 + len(block), dtype=np.uint64))
    total: Array = _mixed(bits ^ keys[:, None]).sum(0, dtype=np.uint64)
    return total


def _mixed(bits: Array) -> Array:
    """Each word's bits spread over all 64: the finaliser of splitmix64 (Steele et al. 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = bits ^ (bits >> np.uint64(31))
    return mixed

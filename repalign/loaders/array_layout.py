"""An array file as presentations × neuroids (× time bins), one block of stimuli at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from repalign.loaders.array_files import ArrayFile
from repalign.loaders.lazy import BLOCK_BYTES, lazy_rows

Array = np.ndarray[Any, np.dtype[Any]]

STIMULUS_AXIS, NEUROID_AXIS = "stimulus", "neuroid"
REPETITION_AXIS, TIME_AXIS = "repetition", "time_bin"
ORDER = (STIMULUS_AXIS, REPETITION_AXIS, NEUROID_AXIS, TIME_AXIS)


class TimeBins(BaseModel):
    """Where the time bins lie, in ms from the onset of the stimulus.

    Attributes:
        start, width: start of the first bin, and width of all of them, one behind the other.
        edges: instead of those, the starts of all bins and the stop of the last one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: float | None = None
    width: float | None = None
    edges: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> TimeBins:
        ways = (self.edges is not None, self.start is not None, self.width is not None)
        if ways not in ((True, False, False), (False, True, True)):
            raise ValueError("expected { start = …, width = … } or { edges = […] }, in ms")
        edges = self.edges or (self.start or 0.0, (self.start or 0.0) + (self.width or 0.0))
        if len(edges) < 2 or not all(-math.inf < a < b < math.inf for a, b in pairwise(edges)):
            raise ValueError("expected bins of a width above 0, one behind the other")
        return self

    def bounds(self, count: int) -> tuple[list[float], list[float]]:
        """Starts and stops of so many bins.

        Raises:
            ValueError: there are edges, of another number of bins.
        """
        if self.edges is not None:
            if len(self.edges) != count + 1:
                raise ValueError(
                    f"time_bins_ms.edges has {len(self.edges)} values, but {count} time bins have"
                    f" {count + 1} edges"
                )
            return list(self.edges[:-1]), list(self.edges[1:])
        start, width = self.start or 0.0, self.width or 0.0
        edges = [start + width * index for index in range(count + 1)]
        return edges[:-1], edges[1:]


@dataclass(frozen=True)
class Layout:
    """An array file whose axes have a meaning.

    Attributes:
        source: the array.
        dims: meaning of its axes, in their order.
    """

    source: ArrayFile
    dims: tuple[str, ...]

    def size(self, axis: str) -> int:
        """Length of an axis; 1 of one that the array does not have."""
        return self.source.shape[self.dims.index(axis)] if axis in self.dims else 1

    def block(self, start: int, stop: int) -> Array:
        """Some stimuli, as stimulus × repetition × neuroid × time bin."""
        slab = self.source.slab(self.dims.index(STIMULUS_AXIS), start, stop)
        there = [axis for axis in ORDER if axis in self.dims]
        slab = slab.transpose([self.dims.index(axis) for axis in there])
        return slab[tuple(slice(None) if axis in there else None for axis in ORDER)]

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, Array]]:
        """All of these stimuli, in blocks, each with its first stimulus."""
        others = [self.size(axis) for axis in ORDER[1:]]
        step = max(1, BLOCK_BYTES // (math.prod(others) * self.source.dtype.itemsize))
        for first in range(start, stop, step):
            yield first, self.block(first, min(first + step, stop))

    def missing(self) -> Missing:
        """Look through the whole array, in blocks, for what is NaN."""
        stimuli, repetitions, neuroids = (self.size(axis) for axis in ORDER[:3])
        shown = np.ones((stimuli, repetitions), dtype=bool)
        bad_stimuli, bad_neuroids = np.zeros(stimuli, dtype=bool), np.zeros(neuroids, dtype=bool)
        if self.source.stored.kind == "f":  # other numbers are never NaN
            for first, block in self.blocks(0, stimuli):
                if np.isfinite(block.sum(dtype=np.float64)):
                    continue  # which is quicker than a look at each value
                nan = np.isnan(block)
                here = slice(first, first + len(block))
                shown[here] = ~nan.all(axis=(2, 3))
                nan &= shown[here, :, None, None]
                bad_stimuli[here] = nan.any(axis=(1, 2, 3))
                bad_neuroids |= nan.any(axis=(0, 1, 3))
        return Missing(shown, bad_stimuli, bad_neuroids)


@dataclass(frozen=True)
class Missing:
    """What is NaN in an array.

    Attributes:
        shown: stimulus × repetition; whether any value is there.
        stimuli: which stimuli have a presentation that is NaN in part.
        neuroids: which neuroids are NaN where others are not.
    """

    shown: Array
    stimuli: Array
    neuroids: Array


def presented(layout: Layout, shown: Array, neuroids: Array) -> tuple[Any, Array]:
    """The presentations, read when they are needed, and the stimulus of each.

    Args:
        layout: the array.
        shown: stimulus × repetition; which presentations to keep.
        neuroids: which neuroids to keep.

    Returns:
        A lazy array, presentation × neuroid, and × time bin where the array has them; the index of
        the stimulus of each presentation. Repetitions of a stimulus follow each other.
    """
    stimulus, repetition = np.nonzero(shown)
    kept = np.flatnonzero(neuroids)
    bins = [layout.size(TIME_AXIS)] if TIME_AXIS in layout.dims else []
    dtype = layout.source.dtype

    def read_whole(start: int, stop: int) -> Array:
        return layout.block(start, stop).reshape(stop - start, len(kept), *bins)

    def read(start: int, stop: int) -> Array:
        out = np.empty((stop - start, len(kept), *bins), dtype)
        wanted = stimulus[start:stop]
        for first, block in layout.blocks(int(wanted[0]), int(wanted[-1]) + 1):
            rows = (wanted >= first) & (wanted < first + len(block))
            trials = block[wanted[rows] - first, repetition[start:stop][rows]]
            trials = trials if neuroids.all() else trials[:, kept]
            out[rows] = trials.reshape(-1, len(kept), *bins)
        return out

    shape = (len(stimulus), len(kept), *bins)
    whole = shown.all() and shown.shape[1] == 1 and neuroids.all()
    rows_of = read_whole if whole else read
    return lazy_rows(rows_of, shape, dtype, block_bytes=BLOCK_BYTES), stimulus

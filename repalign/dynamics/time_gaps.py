"""Gaps between time bins, over which no cluster reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from repalign.inference import TestedClusters
from repalign.recording import TIME_BIN, TIME_BIN_START, TIME_BIN_STOP

GAP = 1.5  # of the median step from bin to bin: a longer one lacks bins

Places = Sequence[NDArray[np.intp]]


def places_in_time(values: xr.DataArray) -> Places:
    """Return where each point of each axis lies, with one place left free for each gap in time.

    Args:
        values: with the points behind the first dimension; others than times have no gaps.
    """
    return [_places(values, str(dim)) for dim in values.dims[1:]]


def _places(values: xr.DataArray, dim: str) -> NDArray[np.intp]:
    place = np.arange(values.sizes[dim])
    if not dim.startswith(TIME_BIN) or len(place) < 3:
        return place
    suffix = dim.removeprefix(TIME_BIN)
    starts, stops = (values[f"{name}{suffix}"].values for name in (TIME_BIN_START, TIME_BIN_STOP))
    steps = np.diff(starts + stops)
    place[1:] += np.cumsum(steps > GAP * np.median(steps))
    return place


def spread(rows: NDArray[Any], places: Places) -> Tensor:
    """Return rows of points at their places; the free ones are NaN, as what was not measured."""
    full = np.full((len(rows), *(int(place[-1]) + 1 for place in places)), np.nan)
    full[np.ix_(np.arange(len(rows)), *places)] = rows
    return torch.from_numpy(full)


def gathered(found: TestedClusters, places: Places) -> TestedClusters:
    """Return clusters of the points alone, without the places that were left free."""
    at = np.ix_(*places)
    return replace(found, statistic=found.statistic[at], labels=found.labels[at])

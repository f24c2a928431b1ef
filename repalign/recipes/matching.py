"""From a recording and a layer to the tensors that recipes take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.populations import parts_of, shared_stimuli
from repalign.recording import PRESENTATION, STIMULUS, Target, response_array

Array = np.ndarray[Any, np.dtype[Any]]


def matched(recording: xr.Dataset, activations: xr.Dataset, name: str) -> list[str]:
    """The shared stimuli, sorted by id: the order in which the published code splits them."""
    if STIMULUS not in recording.coords or STIMULUS not in activations.coords:
        raise ValueError(
            f"{name} matches stimuli by id; give both sides a stimulus_id coordinate. Features in"
            " an array get theirs from a model card with source = 'features' and stimulus_ids"
        )
    ids, _ = shared_stimuli(recording, activations)
    return sorted(ids) if isinstance(ids, list) else []


def one_region(recording: xr.Dataset, name: str) -> list[tuple[Target, xr.Dataset]]:
    """The recording of each subject of its one region, or a ValueError where there are several."""
    parts = list(parts_of(recording))
    regions = sorted({target.region for target, _ in parts})
    if len(regions) > 1:
        raise ValueError(
            f"{name} scores one region, and the recording has {', '.join(regions)}; select one:"
            " repalign.select(recording, region=...)"
        )
    return parts


def features_of(activations: xr.Dataset, ids: Sequence[str]) -> Tensor:
    """Activations of these stimuli, stimulus × unit, averaged over repetitions."""
    return torch.from_numpy(response_array(activations, ids).mean(axis=0, dtype=np.float64))


def column(recording: xr.Dataset, coordinate: str, name: str) -> Array:
    """A coordinate of presentations, or a ValueError that says what there is."""
    if coordinate not in recording.coords or recording[coordinate].dims != (PRESENTATION,):
        raise ValueError(
            f"{name} needs a coordinate {coordinate!r} on presentations; there are"
            f" {', '.join(map(str, recording.coords))}"
        )
    values: Array = recording[coordinate].values
    return values


def correlations(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each column over the stimuli that are not NaN."""
    a, b = a - a.nanmean(0), b - b.nanmean(0)
    return (a * b).nansum(0) / (a.square().nansum(0) * b.square().nansum(0)).sqrt()


def averages(values: Array, stimulus: Array, kept: Array, n: int) -> Tensor:
    """Mean over the kept presentations of each stimulus that are not NaN, else NaN."""
    shown = np.isfinite(values[kept])
    total, count = np.zeros((n, values.shape[1])), np.zeros((n, values.shape[1]))
    np.add.at(total, stimulus[kept], np.where(shown, values[kept], 0))
    np.add.at(count, stimulus[kept], shown)
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(total / count)


def check_recorded(y: Tensor, ids: Sequence[str], name: str) -> None:
    """Raise a ValueError that names what was never recorded."""
    missing = y.isnan()
    if bool(missing.any()):
        stimulus = ids[int(missing.any(1).nonzero()[0, 0])]
        raise ValueError(
            f"{name}: {int(missing.sum())} pairs of stimulus (first: {stimulus!r}) and neuroid have"
            " no response in any repetition; leave out these stimuli or neuroids"
        )


def mean_responses(recording: xr.Dataset, ids: Sequence[str], name: str) -> Tensor:
    """Average over the repetitions that exist, stimulus × neuroid."""
    trials = torch.from_numpy(response_array(recording, ids).astype(np.float64))
    y = trials.nanmean(0)
    check_recorded(y, ids, name)
    return y

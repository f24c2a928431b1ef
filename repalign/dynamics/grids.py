"""Grids of similarities, times of one side against times or layers of another, as Datasets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign import __version__
from repalign.dynamics.similarities import (
    permuted_grids,
    prepare_frames,
    random_orders,
    similarity_grid,
)
from repalign.dynamics.time_axes import (
    TimedPopulation,
    frames_of,
    shared_ids,
    target_coordinates,
    time_coordinates,
    timed_parts,
)
from repalign.metrics import InnerProductMetric, Metric
from repalign.populations import MatchedPopulation, match_population, parts_of
from repalign.progress import track
from repalign.recording import TIME_BIN

Grid = tuple[Tensor, Tensor]  # one × two, and draw × one × two


def layer_grids(
    every: Sequence[xr.Dataset],
    layers: Sequence[xr.Dataset],
    metric: InnerProductMetric,
    what: str,
    *,
    n_permutations: int,
    seed: int,
    device: torch.device,
    progress: bool,
) -> tuple[xr.Dataset, list[TimedPopulation], list[Tensor], Tensor]:
    """All times of recordings against all layers: target × time × layer.

    Also returns the parts, what the metric prepares of each, time first, and of the layers.
    """
    ids = shared_ids([*every, *layers], what)
    networks = [
        match_population(target, part, ids, metric, device, predicts=True)
        for ds in layers
        for target, part in parts_of(ds)
    ]
    second = torch.stack([one.prepared for one in networks])
    parts = timed_parts(every, ids, metric, what)
    orders = random_orders(len(ids), n_permutations, seed)
    first, grids = [], []
    for part in track(parts, f"{metric.name}: time bins", show=progress):
        first.append(prepared_part(part, metric, device))
        grids.append(grid_of(metric, first[-1], second, orders))
    found = grid_dataset(
        grids,
        ("target", TIME_BIN, "layer"),
        target_coordinates(parts) | _layer_names(networks, what) | time_coordinates(every[0]),
        described(metric, parts, len(ids), seed, networks),
    )
    return found, parts, first, second


def prepared_part(
    part: TimedPopulation, metric: InnerProductMetric, device: torch.device
) -> Tensor:
    """What the metric prepares of a part, time first."""
    repeated = metric.needs_repeats and len(part.responses) > 1
    return prepare_frames(metric, frames_of(part.responses if repeated else part.average, device))


def grid_of(metric: InnerProductMetric, first: Tensor, second: Tensor, orders: Tensor) -> Grid:
    """All values, and the same with the stimuli of the second side in each other order."""
    grid = similarity_grid(metric, first, second)
    if not len(orders):
        return grid, grid.new_empty(0, *grid.shape)
    return grid, torch.cat(list(permuted_grids(metric, first, second, orders)))


def grid_dataset(
    grids: Sequence[Grid], dims: tuple[str, ...], coords: dict[str, Any], attrs: dict[str, Any]
) -> xr.Dataset:
    """The values of each target, and those of other orders as ``null`` where there are any."""
    values, nulls = zip(*grids, strict=True)
    found = xr.Dataset({"value": (dims, stacked(values))}, coords=coords, attrs=attrs)
    if len(nulls[0]):
        found["null"] = (("target", "draw", *dims[1:]), stacked(nulls))
    return found


def stacked(columns: Sequence[Tensor]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Tensors as one array, a target first."""
    return torch.stack([one.detach().double().cpu() for one in columns]).numpy()


def _layer_names(networks: Sequence[MatchedPopulation], what: str) -> dict[str, Any]:
    """Layer and model of each column; where layers of two models agree, both name the column."""
    own = [" ".join(filter(None, one.target)) or one.dataset for one in networks]
    models = [one.dataset for one in networks]
    if len(set(own)) < len(own):
        own = [f"{model} {name}" for model, name in zip(models, own, strict=True)]
    if len(set(own)) < len(own):
        twice = next(name for name in own if own.count(name) > 1)
        raise ValueError(f"{what}: {twice!r} was given twice; give each layer once")
    return {"layer": ("layer", own), "model": ("layer", models)}


def described(
    metric: Metric,
    parts: Sequence[TimedPopulation],
    n_stimuli: int,
    seed: int,
    networks: Sequence[MatchedPopulation] = (),
) -> dict[str, Any]:
    """What is needed to compute it again."""
    parameters: dict[str, Any] = (
        dataclasses.asdict(metric) if dataclasses.is_dataclass(metric) else {}
    )
    return {
        "kind": "dynamics",
        "dataset": ", ".join(dict.fromkeys(part.dataset for part in parts)),
        "metric": metric.name,
        "metric_parameters": json.dumps(parameters),
        "n_stimuli": n_stimuli,
        "seed": seed,
        "version": __version__,
        "fingerprints": json.dumps(
            [part.fingerprint for part in parts] + [one.fingerprint for one in networks]
        ),
    }

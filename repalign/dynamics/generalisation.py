"""Geometry at one time against geometry at another: does the representation last, does it move?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import xarray as xr
from torch import Tensor

from repalign.choices import as_metric, as_whole_number
from repalign.dynamics.grids import (
    described,
    grid_dataset,
    grid_of,
    layer_grids,
    prepared_part,
)
from repalign.dynamics.similarities import (
    check_metric,
    mean_of_half,
    prepare_frames,
    random_orders,
)
from repalign.dynamics.time_axes import (
    TimedPopulation,
    frames_of,
    recordings_of,
    shared_ids,
    target_coordinates,
    time_coordinates,
    timed_parts,
)
from repalign.metrics import CKA, InnerProductMetric, Metric
from repalign.metrics.calls import pick_device
from repalign.metrics.gram import in_working_precision
from repalign.populations import layers_of
from repalign.progress import track
from repalign.recording import STIMULUS, TIME_BIN
from repalign.split_half import split_half_masks

NAME = "cross_temporal"


def cross_temporal(
    recordings: xr.Dataset | Sequence[xr.Dataset],
    other: xr.Dataset | Mapping[str, xr.Dataset] | None = None,
    metric: Metric | str | None = None,
    *,
    splits: int = 20,
    n_permutations: int = 0,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> xr.Dataset:
    """Compare every time bin of a recording with every time of itself, or of something else.

    Within a recording, the geometry at t from one half of the repetitions is compared with the
    geometry at t′ from the other half, ``value(t, t′) = mean over splits of ½[m(Aₜ, Bₜ′) +
    m(Aₜ′, Bₜ)]``: noise, which lasts over bins within a trial, is not shared, and the diagonal is
    the split-half reliability instead of 1.

    Args:
        recordings: one with time bins, or several with the same bins.
        other: None: the recording itself. Another recording with time bins (another subject,
            region or species, with bins of its own), or a dict of layers, whose order is their
            time: the steps of a recurrent network (``V4@t=*``) or the depth of a feedforward one.
        metric: ``RSA()`` by default, or ``CKA()``, or their names.
        splits: random halves of the repetitions, within a recording.
        n_permutations: permutations of one side's stimuli, kept as ``null`` for
            ``time_clusters(..., over="stimuli")``. Within a recording they cost as much as the
            splits, each.
        seed: of the halves and permutations.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        progress: show a progress bar over regions and subjects on stderr.

    Returns:
        A Dataset with ``value`` over ``target``, ``time_bin`` and a third dimension: ``time_bin_``
        for another time (its coordinates end in ``_`` too), or ``layer``; with permutations
        ``null``. The regions of another recording make targets of their own, named ``a × b``.

    Raises:
        ValueError: what ``repalign.time_resolved`` raises; no repetitions to split (crossnobis
            needs two in each half); ``other`` of a single layer; or splits without ``other=None``.

    Note:
        Values are not corrected for reliability. Halves have half the trials, so that values
        within a recording are lower than between recordings of all trials.

    Example:
        >>> import numpy as np
        >>> from repalign.recording import make_recording
        >>> draw = np.random.default_rng(0)
        >>> geometry = draw.normal(size=(10, 30, 2))  # one at first, then another
        >>> response = geometry[..., [0, 0, 1, 1]] + draw.normal(size=(4, 10, 30, 4))
        >>> bins = (np.arange(4) * 10, np.arange(4) * 10 + 10)
        >>> meg = make_recording(response.reshape(40, 30, 4), stimulus_id=list("abcdefghij") * 4,
        ...                      region="IT", time_bins=bins)
        >>> square = cross_temporal(meg)["value"][0]
        >>> bool(square[0, 1] > 0.3 > square[0, 2]), bool(square[0, 0] < 1)
        (True, True)

    Reference:
        King & Dehaene 2014, https://doi.org/10.1016/j.tics.2014.01.002; for RDMs: Cichy, Pantazis
        & Oliva 2014, https://doi.org/10.1038/nn.3635
    """
    compared, seed = check_metric(as_metric(metric), NAME), as_whole_number(seed, "seed")
    if splits < 1 or n_permutations < 0:
        raise ValueError(
            f"splits is {splits} and n_permutations {n_permutations}; expected 1 or more, and 0 or"
            " more"
        )
    every = recordings_of(recordings, NAME)
    where = pick_device(device)
    if other is None:
        return _within(every, compared, splits, n_permutations, seed, where, progress)
    if isinstance(other, xr.Dataset) and _has_time(other):
        return _between(every, other, compared, n_permutations, seed, where, progress)
    layers = layers_of(other)
    _check_layers(layers)
    return layer_grids(
        every,
        layers,
        compared,
        NAME,
        n_permutations=n_permutations,
        seed=seed,
        device=where,
        progress=progress,
    )[0]


def _has_time(ds: xr.Dataset) -> bool:
    return "response" in ds and TIME_BIN in ds["response"].dims


def _within(
    every: list[xr.Dataset],
    metric: InnerProductMetric,
    splits: int,
    n_permutations: int,
    seed: int,
    device: torch.device,
    progress: bool,
) -> xr.Dataset:
    ids = shared_ids(every, NAME)
    parts = timed_parts(every, ids, metric, NAME)
    orders = random_orders(len(ids), n_permutations, seed)
    grids = []
    for part in track(parts, f"{metric.name}: time × time", show=progress):
        value, null = torch.zeros(()), torch.zeros(())
        for a, b in _prepared_halves(part, metric, splits, seed, device):
            grid, moved = grid_of(metric, a, b, orders)
            value = value.to(grid) + (grid + grid.mT) / 2 / splits
            null = null.to(grid) + (moved + moved.mT) / 2 / splits
        grids.append((value, null))
    return grid_dataset(
        grids,
        ("target", TIME_BIN, f"{TIME_BIN}_"),
        target_coordinates(parts) | time_coordinates(every[0]) | time_coordinates(every[0], "_"),
        described(metric, parts, len(ids), seed) | {"splits": splits},
    )


def _prepared_halves(
    part: TimedPopulation,
    metric: InnerProductMetric,
    splits: int,
    seed: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """What the metric prepares of each half of the repetitions, time first."""
    recorded = ~torch.from_numpy(part.responses[..., 0]).isnan().all(-1)
    fewest, needed = int(recorded.sum(0).min()), 4 if metric.needs_repeats else 2
    if fewest < needed:
        raise ValueError(
            f"{NAME}: a stimulus has {fewest} repetitions in {part.name}, and {needed} or more are"
            f" needed, {needed // 2} in each half, since one time's noise is in the next one too."
            " Leave out such stimuli, or compare two subjects: cross_temporal(one, other)"
        )
    frames = in_working_precision(frames_of(part.responses, device))
    filled = frames.nan_to_num()
    level = not isinstance(metric, CKA)
    for halves in split_half_masks(recorded, splits=splits, seed=seed, level=level):
        prepared = []
        for half in halves:
            if metric.needs_repeats:
                chosen = frames.where(half.to(device)[..., None], torch.nan)
                prepared.append(prepare_frames(metric, chosen))
            else:
                prepared.append(prepare_frames(metric, mean_of_half(filled, half.to(device))))
        yield prepared[0], prepared[1]


def _between(
    every: list[xr.Dataset],
    other: xr.Dataset,
    metric: InnerProductMetric,
    n_permutations: int,
    seed: int,
    device: torch.device,
    progress: bool,
) -> xr.Dataset:
    others = recordings_of(other, NAME)
    ids = shared_ids([*every, *others], NAME)
    ours, theirs = (timed_parts(side, ids, metric, NAME) for side in (every, others))
    first, second = (
        [prepared_part(part, metric, device) for part in side] for side in (ours, theirs)
    )
    orders = random_orders(len(ids), n_permutations, seed)
    pairs = [(i, j) for i in range(len(ours)) for j in range(len(theirs))]
    shown = track(pairs, f"{metric.name}: time × time", show=progress)
    names = {
        "target": [f"{ours[i].name} × {theirs[j].name}" for i, j in pairs],
        "other": [theirs[j].name for _, j in pairs],
    }
    return grid_dataset(
        [grid_of(metric, first[i], second[j], orders) for i, j in shown],
        ("target", TIME_BIN, f"{TIME_BIN}_"),
        target_coordinates([ours[i] for i, _ in pairs])
        | {name: ("target", values) for name, values in names.items()}
        | time_coordinates(every[0])
        | time_coordinates(others[0], "_"),
        described(metric, [*ours, *theirs], len(ids), seed),
    )


def _check_layers(layers: list[xr.Dataset]) -> None:
    if len(layers) < 2 or any(_has_time(ds) or STIMULUS not in ds.coords for ds in layers):
        raise ValueError(
            f"{NAME}: other is {len(layers)} layers; expected 2 or more in the order of their time,"
            " with stimulus ids and without time bins, or one recording with time bins. One layer"
            " is compared along time by repalign.time_resolved"
        )

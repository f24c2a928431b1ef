"""What a study will compute and what that will take, before anything is computed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from repalign.memory import parse_size, say_size
from repalign.metrics import Metric
from repalign.networks import load_network
from repalign.recording import make_activations, stimulus_ids
from repalign.recording_plan import BATCH_SIZE, make_plan, probe_network
from repalign.recording_run import say_time
from repalign.studies.configuration import StudyConfig, read_study
from repalign.studies.counts import StudyStatus, status_of
from repalign.studies.grid import Grid, Group, StudyRecording
from repalign.studies.grid_building import build_grid, open_selected
from repalign.studies.results_store import read_failures, read_stored, say_damaged
from repalign.studies.tasks import compare_layer, one_thread

FLOAT_BYTES = 4


@dataclass(frozen=True)
class ToRecord:
    """A network that has to be shown the stimuli of a recording.

    Args:
        recording, model: their names.
        layers: how many are missing.
        stimuli: how many are shown.
        disk, memory: bytes that it takes.
        seconds: of the passes, on the device that probed it.
    """

    recording: str
    model: str
    layers: int
    stimuli: int
    disk: int
    memory: int
    seconds: float


@dataclass(frozen=True)
class StudyPlan:
    """The grid of a study, and what it will take.

    Args:
        rows: counts by recording, model and metric: layers, targets, cells, done.
        status: what is done already.
        to_record: networks whose activations are missing.
        disk_free: bytes where they go.
        layers_to_read: how often a layer is read from its store; ``reads_alone`` is how often it
            would be, were each cell computed by itself.
        seconds: of all comparisons that are to do, in one process, from one probe a recording and
            metric.
        seconds_a_call: those probes, by recording and metric: one layer, all targets.
    """

    rows: tuple[dict[str, Any], ...]
    status: StudyStatus
    to_record: tuple[ToRecord, ...]
    disk_free: int
    layers_to_read: int
    reads_alone: int
    seconds: float
    seconds_a_call: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """What JSON holds."""
        return asdict(self)

    def notes(self) -> list[str]:
        """What to know beside the counts, in sentences."""
        said = str(self.status).splitlines()
        for one in self.to_record:
            said.append(
                f"to record: {one.model} on {one.recording}: {one.layers} layers of"
                f" {one.stimuli:,} stimuli, {say_size(one.disk)} of disk, {say_size(one.memory)} of"
                f" memory, {say_time(one.seconds)}"
            )
        disk = sum(one.disk for one in self.to_record)
        if disk > self.disk_free:
            said.append(
                f"too little disk: {say_size(disk)} are needed and {say_size(self.disk_free)} free"
            )
        if self.layers_to_read:
            said.append(
                f"{self.layers_to_read:,} layers are read once each, for {self.reads_alone:,}"
                f" cells; their comparisons take about {say_time(self.seconds)} in one process"
            )
        return said


def plan_study(source: str | Path | Mapping[str, Any] | StudyConfig) -> StudyPlan:
    """Say what a study will compute, what is done, and what the rest will take.

    Recordings are ingested where they are missing. Networks see one to four images; one layer's
    worth of random numbers is compared with each recording by each metric. Nothing is kept.

    Raises:
        ValueError: the configuration is wrong, or its grid is empty (see `build_grid`).
    """
    config = read_study(source)
    grid = build_grid(config)
    stored = read_stored(config.folder)
    say_damaged(stored)
    done = stored.done()
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    calls: dict[tuple[StudyRecording, str], int] = {}
    layers: set[tuple[int, str]] = set()
    cells = 0
    for block in grid.blocks():
        left = sum(not key or key not in done for key in block.keys.values())
        place = (str(block.recording), block.layer.model, block.metric)
        row = rows.setdefault(
            place,
            dict(zip(("recording", "model", "metric"), place, strict=True))
            | {"layers": 0, "targets": len(block.keys), "cells": 0, "done": 0},
        )
        row["layers"] += 1
        row["cells"] += len(block.keys)
        row["done"] += len(block.keys) - left
        if left:
            cells += left
            layers.add((id(block.recording), block.layer.store))
            calls[block.recording, block.metric] = calls.get((block.recording, block.metric), 0) + 1
    probes = {place: _probe_metric(grid, *place, config) for place in calls}
    folder = config.folder
    while not folder.exists():
        folder = folder.parent
    return StudyPlan(
        rows=tuple(rows.values()),
        status=status_of(grid, stored, not_recorded=read_failures(config.folder)),
        to_record=tuple(_probe_network(one, config) for one in _to_record(grid)),
        disk_free=shutil.disk_usage(folder).free,
        layers_to_read=len(layers),
        reads_alone=cells,
        seconds=sum(probes[place] * count for place, count in calls.items()),
        seconds_a_call={f"{place[0]}, {place[1]}": took for place, took in probes.items()},
    )


def _to_record(grid: Grid) -> list[Group]:
    """The groups with layers that are missing; parts of a recording may share its stimuli's."""
    found: dict[tuple[str, ...], Group] = {}
    for group in grid.groups:
        stores = tuple(layer.store for layer in group.layers if not layer.fingerprint)
        if stores:
            found.setdefault(stores, group)
    return list(found.values())


def _probe_metric(grid: Grid, recording: StudyRecording, metric: str, config: StudyConfig) -> float:
    """Seconds to compare a recording with a layer of the middle size, of random numbers."""
    sizes = [
        layer.units
        for group in grid.groups
        if group.recording == recording
        for layer in group.layers
        if layer.units
    ]
    ds = open_selected(recording.store, recording.conditions, None).load()
    ids = stimulus_ids(ds)
    units = int(median(sizes)) if sizes else 1000
    values = np.random.default_rng(0).random((len(ids), units), dtype=np.float32)
    layer = make_activations(values, ids, "probe", "probe", (units,))
    settings = config.inference
    with one_thread():
        begin = time.perf_counter()
        _compare_quietly(ds, layer, grid.metrics[metric], settings)
        return time.perf_counter() - begin


def _compare_quietly(ds: Any, layer: Any, metric: Metric, settings: Any) -> None:
    """One comparison as a task makes it; one that fails has taken its time too."""
    try:
        compare_layer(ds, layer, metric, settings)
    except ValueError:
        return


def _probe_network(group: Group, config: StudyConfig) -> ToRecord:
    """What recording the missing layers of a network takes, from a pass of a few images."""
    network = load_network(group.model, **config.where)
    cap = None if config.run.memory is None else parse_size(config.run.memory)
    image = torch.zeros(1, 3, *network.preprocessing.size)
    layers = [layer for layer in group.layers if not layer.fingerprint]
    names: Sequence[str] = [layer.layer for layer in layers]
    with torch.no_grad():
        probe = probe_network(network, image, names, cap=cap)
    plan = make_plan(
        probe,
        names,
        itemsize=FLOAT_BYTES,
        batch_size=min(BATCH_SIZE, group.recording.n_stimuli),
        cap=cap,
        exact=False,
    )
    return ToRecord(
        recording=str(group.recording),
        model=network.name,
        layers=len(layers),
        stimuli=group.recording.n_stimuli,
        disk=FLOAT_BYTES * group.recording.n_stimuli * sum(layer.units or 0 for layer in layers),
        memory=plan.memory,
        seconds=probe.seconds * group.recording.n_stimuli,
    )

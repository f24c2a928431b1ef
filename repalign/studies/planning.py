"""What a study will compute and what that will take, before anything is computed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from repalign.memory import parse_size, say_size
from repalign.networks import load_network
from repalign.recording import make_activations, stimulus_ids
from repalign.recording_plan import BATCH_SIZE, make_plan, probe_network
from repalign.recording_run import say_time
from repalign.studies.configuration import StudyConfig, read_study
from repalign.studies.counts import StudyStatus, status_of
from repalign.studies.grid import Grid, Group, StudyRecording
from repalign.studies.grid_building import build_grid, open_selected
from repalign.studies.read_recordings import ReadRecording
from repalign.studies.results_store import Stored, read_failures, read_stored, say_damaged
from repalign.studies.room import FLOAT_BYTES, bytes_of_results, free_disk, memory_of_worker
from repalign.studies.scheduling import seconds_by_metric
from repalign.studies.tasks import compare_layer, one_thread


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
        disk_free: bytes where activations and results go.
        disk_results: bytes that the results to come take there.
        layers_to_read: how often a layer is read from its store; ``reads_alone`` is how often it
            would be, were each cell computed by itself.
        seconds: of all comparisons that are to do, in one process.
        seconds_a_call: of one layer with all targets, by recording and metric: from results that
            are there, else from a probe.
        workers: processes that share the comparisons.
        seconds_all: of recording the networks, one after the other, and of the comparisons by all
            workers.
        memory: most bytes that a worker holds.
    """

    rows: tuple[dict[str, Any], ...]
    status: StudyStatus
    to_record: tuple[ToRecord, ...]
    disk_free: int
    disk_results: int
    layers_to_read: int
    reads_alone: int
    seconds: float
    seconds_a_call: Mapping[str, float]
    workers: int
    seconds_all: float
    memory: int

    def to_dict(self) -> dict[str, Any]:
        """What JSON holds."""
        return asdict(self)

    def by_model(self) -> list[dict[str, Any]]:
        """One row a recording and model, with all its metrics, where these have the same grid."""
        merged: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in self.rows:
            place = (row["recording"], row["model"], row["layers"], row["targets"])
            if place not in merged:
                merged[place] = dict(row, metrics=[], cells=0, done=0)
                del merged[place]["metric"]
            merged[place]["metrics"].append(row["metric"])
            merged[place]["cells"] += row["cells"]
            merged[place]["done"] += row["done"]
        return [dict(row, metrics=", ".join(row["metrics"])) for row in merged.values()]

    def notes(self) -> list[str]:
        """What to know beside the counts, in sentences."""
        said = str(replace(self.status, seconds=None)).splitlines()  # the plan has its own time
        for one in self.to_record:
            said.append(
                f"to record: {one.model} on {one.recording}: {one.layers} layers of"
                f" {one.stimuli:,} stimuli, {say_size(one.disk)} of disk, {say_size(one.memory)} of"
                f" memory, {say_time(one.seconds)}"
            )
        disk = sum(one.disk for one in self.to_record) + self.disk_results
        if disk > self.disk_free:
            said.append(
                f"too little disk: {say_size(disk)} are needed and {say_size(self.disk_free)} free"
            )
        if self.layers_to_read:
            said.append(
                f"{self.layers_to_read:,} layers are read once each, for {self.reads_alone:,}"
                f" cells; their comparisons take about {say_time(self.seconds)} in one process"
            )
            many = f"{self.workers} workers" if self.workers > 1 else "one process"
            said.append(
                f"in all about {say_time(self.seconds_all)} with {many}, up to"
                f" {say_size(self.memory)} of memory each; results take"
                f" {say_size(self.disk_results)} of disk ({say_size(self.disk_free)} free)"
            )
        return said


def plan_study(
    source: str | Path | Mapping[str, Any] | StudyConfig, *, workers: int | None = None
) -> StudyPlan:
    """Say what a study will compute, what is done, and what the rest will take.

    Recordings are ingested where they are missing. Networks that have to be recorded see one to
    four images. A metric that was not timed in an earlier run compares each recording with one
    layer's worth of random numbers. No result is kept.

    Args:
        source: as for `repalign.run_study`.
        workers: processes that will share the comparisons; by default those of ``[run]`` or of the
            jobs of ``[cluster]``, else one.

    Raises:
        ValueError: the configuration is wrong, or its grid is empty (see `build_grid`).
    """
    config = read_study(source)
    workers = workers or config.run.workers or _workers_of_jobs(config)
    grid = build_grid(config)
    stored = read_stored(config.folder)
    say_damaged(stored)
    done = stored.done()
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    calls: list[tuple[StudyRecording, str, str]] = []
    ceilings: set[str] = set()
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
        ceilings.update(key for key in block.ceilings.values() if key and key not in done)
        if left:
            cells += left
            calls.append((block.recording, block.metric, f"{block.model} {block.layer.layer}"))
    seconds_a_call = _seconds_a_call(grid, stored, {place[:2]: None for place in calls}, config)
    of_layers: dict[tuple[int, str], float] = {}
    for recording, metric, layer in calls:
        one = (id(recording), layer)
        of_layers[one] = of_layers.get(one, 0.0) + seconds_a_call[recording, metric]
    to_record = tuple(_probe_network(one, config) for one in _to_record(grid))
    seconds, longest = sum(of_layers.values()), max(of_layers.values(), default=0.0)
    sizes = {one.store: _nbytes(one) for one in dict.fromkeys(place[0] for place in calls)}
    return StudyPlan(
        rows=tuple(rows.values()),
        status=status_of(grid, stored, not_recorded=read_failures(config.folder)),
        to_record=to_record,
        disk_free=free_disk(config.folder),
        disk_results=bytes_of_results(cells + len(ceilings)),
        layers_to_read=len(of_layers),
        reads_alone=cells,
        seconds=seconds,
        seconds_a_call={f"{place[0]}, {place[1]}": s for place, s in seconds_a_call.items()},
        workers=workers,
        seconds_all=sum(one.seconds for one in to_record) + max(seconds / workers, longest),
        memory=memory_of_worker(grid, sizes),
    )


def _workers_of_jobs(config: StudyConfig) -> int:
    """Workers of all jobs that compare; one where the study has no ``[cluster]``."""
    if config.cluster is None:
        return 1
    queue = config.cluster.queues["comparing"]
    return queue.jobs * (queue.workers or max(1, queue.gpus))


def _nbytes(recording: StudyRecording) -> int:
    """Bytes of a recording's numbers, without reading them."""
    return int(open_selected(recording.store, recording.conditions, None).nbytes)


def _to_record(grid: Grid) -> list[Group]:
    """The groups with layers that are missing; parts of a recording may share its stimuli's."""
    found: dict[tuple[str, ...], Group] = {}
    for group in grid.groups:
        stores = tuple(layer.store for layer in group.layers if not layer.fingerprint)
        if stores:
            found.setdefault(stores, group)
    return list(found.values())


def _seconds_a_call(
    grid: Grid,
    stored: Stored,
    places: Iterable[tuple[StudyRecording, str]],
    config: StudyConfig,
) -> dict[tuple[StudyRecording, str], float]:
    """Seconds of a layer, by recording and metric; timed before, or probed."""
    known = seconds_by_metric(stored)
    names = [metric.name for metric in grid.metrics.values()]
    found = {}
    for recording, text in places:
        name = grid.metrics[text].name
        alone = names.count(name) == 1  # else its parameters would not be told apart
        cell = known.get((recording.name, recording.selection, name)) if alone else None
        found[recording, text] = (
            _probe_metric(grid, recording, text) if cell is None else cell * len(recording.targets)
        )
    return found


def _probe_metric(grid: Grid, recording: StudyRecording, metric: str) -> float:
    """Seconds to compare a recording with a layer of the middle size, of random numbers."""
    sizes = [
        layer.units
        for group in grid.groups
        if group.recording == recording
        for layer in group.layers
        if layer.units
    ]
    read = ReadRecording(open_selected(recording.store, recording.conditions, None).load())
    ids = stimulus_ids(read.ds)
    units = int(median(sizes)) if sizes else 1000
    values = np.random.default_rng(0).random((len(ids), units), dtype=np.float32)
    layer = make_activations(values, ids, "probe", "probe", (units,))
    with one_thread():
        begin = time.perf_counter()
        # one that fails has taken its time too
        with contextlib.suppress(ValueError):
            compare_layer(
                read, layer, grid.metrics[metric], grid.inference_of(metric), recording.targets
            )
        return time.perf_counter() - begin


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

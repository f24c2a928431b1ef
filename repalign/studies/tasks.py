"""One task of a study: each layer is read from its store once, and serves all its metrics.

A task carries names and paths, no arrays. Every layer is compared by itself, in one thread, so
that a value depends neither on what else a task holds nor on the number of workers.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import xarray as xr

from repalign import __version__
from repalign.activations import open_activations
from repalign.comparison import compare_prepared
from repalign.handing_out import Seat
from repalign.memory import keep_freed
from repalign.metrics import Metric
from repalign.populations import shared_stimuli
from repalign.recording import Target, targets
from repalign.recording_ceilings import noise_ceilings
from repalign.results import Comparisons
from repalign.studies.grid import StudyLayer, StudyRecording
from repalign.studies.grid_building import open_selected
from repalign.studies.metric_entries import InferenceSection
from repalign.studies.read_recordings import ReadRecording

THREADS = 1  # of a task
Row = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What of one layer and metric is to be computed.

    Args:
        metric: as an object.
        keys: of the cells, by target.
        ceilings: keys of the noise ceilings on this layer's stimuli, by target.
        settings: what stands beside the values.
    """

    metric: Metric
    keys: Mapping[Target, str]
    ceilings: Mapping[Target, str]
    settings: InferenceSection


@dataclass(frozen=True)
class Task:
    """A recording, and some layers of one model with all that is wanted of them."""

    recording: StudyRecording
    layers: tuple[tuple[StudyLayer, tuple[Wanted, ...]], ...]

    @property
    def cells(self) -> int:
        """Number of its cells."""
        return sum(len(one.keys) for _, wanted in self.layers for one in wanted)


def run_task(task: Task, seat: Seat | None = None) -> list[Row]:
    """Compute a task; what fails is a row with its error, and does not stop the rest.

    Args:
        task: what is wanted.
        seat: of the worker, which the values do not depend on.
    """
    rows: list[Row] = []
    if seat is not None:
        _prepare_worker()
    with one_thread():
        try:
            recording = _open_recording(task.recording)
        except Exception as error:
            return [
                row for layer, wanted in task.layers for row in _failed(task, layer, wanted, error)
            ]
        for layer, wanted in task.layers:
            try:
                activations = _open_layer(layer)
            except Exception as error:
                rows += _failed(task, layer, wanted, error)
                continue
            for one in wanted:
                rows += _cells(task, recording, layer, activations, one)
                rows += _ceilings(task, recording, layer, activations, one)
    return rows


@functools.cache
def _prepare_worker() -> None:
    """Once a process, which is a worker's and no user's."""
    keep_freed()


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and the BLAS libraries, and afterwards as many as before."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with threadpool_limits(THREADS):
            yield
    finally:
        torch.set_num_threads(before)


@functools.lru_cache(maxsize=1)
def _open_recording(recording: StudyRecording) -> ReadRecording:
    """A recording in memory, kept for the tasks that follow in this process."""
    ds = open_selected(recording.store, recording.conditions, None)
    _check(ds, recording.fingerprint)
    return ReadRecording(ds.load())


def _open_layer(layer: StudyLayer) -> xr.Dataset:
    ds = open_activations(layer.store)
    _check(ds, layer.fingerprint)
    if layer.part is not None:
        ds = dict(targets(ds))[layer.part]
    return ds.load()


def _check(ds: xr.Dataset, fingerprint: str) -> None:
    if ds.attrs["fingerprint"] != fingerprint:
        raise RuntimeError(f"{ds.attrs['store']} was replaced during the study; run again")


def _cells(
    task: Task, recording: ReadRecording, layer: StudyLayer, activations: xr.Dataset, wanted: Wanted
) -> list[Row]:
    """The rows of one layer and metric; where the whole fails, target by target."""
    if not wanted.keys:
        return []
    try:
        return _compared(task, recording, activations, wanted)
    except Exception as error:
        if len(wanted.keys) == 1:
            return _failed(task, layer, (wanted,), error)
    rows = []
    for target, key in wanted.keys.items():
        alone = replace(wanted, keys={target: key}, ceilings={})
        try:
            rows += _compared(task, recording, activations, alone)
        except Exception as error:
            rows += _failed(task, layer, (alone,), error)
    return rows


def compare_layer(
    recording: ReadRecording,
    activations: xr.Dataset,
    metric: Metric,
    settings: InferenceSection,
    targets: Sequence[Target],
) -> Comparisons:
    """The comparison of one layer, as every task makes it; ceilings are results of their own."""
    return compare_prepared(
        recording.preparing(targets),
        recording.ds,
        activations,
        metric,
        ceiling=False,
        n_resamples=settings.n_resamples,
        confidence=settings.confidence,
        null_draws=settings.null_draws,
        seed=settings.seed,
        device="cpu",
    )


def _compared(
    task: Task, recording: ReadRecording, activations: xr.Dataset, wanted: Wanted
) -> list[Row]:
    begin = time.perf_counter()
    found = compare_layer(
        recording, activations, wanted.metric, wanted.settings, tuple(wanted.keys)
    )
    seconds = (time.perf_counter() - begin) / len(found)
    rows = []
    for (target, key), row in zip(wanted.keys.items(), found.rows(), strict=True):
        assert (row["region"], row["subject"]) == (target.region, target.subject)
        row["metric_parameters"] = json.dumps(row["metric_parameters"], sort_keys=True)
        row |= {"key": key, "kind": "cell", "selection": task.recording.selection}
        rows.append(row | {"note": found.note, "seconds": seconds})
    return rows


def _ceilings(
    task: Task, recording: ReadRecording, layer: StudyLayer, activations: xr.Dataset, wanted: Wanted
) -> list[Row]:
    if not wanted.ceilings:
        return []
    begin = time.perf_counter()
    try:
        shared, _ = shared_stimuli(recording.ds, activations)
        found = noise_ceilings(
            recording.ds,
            wanted.metric,
            ceiling=wanted.settings.ceiling,
            stimuli=shared if isinstance(shared, list) else None,
            seed=wanted.settings.seed,
            device="cpu",
        )
    except Exception as error:
        return _failed(task, layer, (replace(wanted, keys={}),), error)
    seconds = (time.perf_counter() - begin) / len(found)
    rows = []
    for target, key in wanted.ceilings.items():
        row = _named(task, wanted, target) | {"key": key, "kind": "ceiling"}
        bounds = found[target]
        if bounds is not None:
            row |= {
                "ceiling_kind": bounds.kind,
                "ceiling_low": _finite(bounds.low),
                "ceiling_high": _finite(bounds.high),
                "ceiling_error": _finite(bounds.error),
            }
        rows.append(row | {"seconds": seconds})
    return rows


def _finite(value: float | None) -> float | None:
    return None if value is None or not abs(value) < float("inf") else value


def _named(task: Task, wanted: Wanted, target: Target) -> Row:
    """What every row says of where it comes from."""
    return {
        "dataset": task.recording.name,
        "selection": task.recording.selection,
        "species": target.species or None,
        "region": target.region or None,
        "subject": target.subject or None,
        "metric": wanted.metric.name,
        "seed": wanted.settings.seed,
        "version": __version__,
    }


def _failed(
    task: Task, layer: StudyLayer, wanted: tuple[Wanted, ...], error: Exception
) -> list[Row]:
    """A row with the error for each cell and ceiling that is wanted."""
    words = " ".join(str(error).split()) or "no message"
    said = words if isinstance(error, ValueError) else f"{type(error).__name__}: {words}"
    rows = []
    for one in wanted:
        for target, key in one.keys.items():
            row = _named(task, one, target) | {"key": key, "kind": "cell", "error": said}
            rows.append(row | {"model": layer.model, "layer": layer.layer})
        for target, key in one.ceilings.items():
            row = _named(task, one, target) | {"key": key, "kind": "ceiling"}
            rows.append(row | {"error": said})
    return rows

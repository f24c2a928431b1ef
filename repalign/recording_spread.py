"""A recording spread over Dask workers: each shows a span of the stimuli, and writes whole shards.

All write into the same store, so that its folder has to be on a disk that all of them see.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from repalign.activation_stores import GrowingLayer
from repalign.clusters import workers_of
from repalign.evaluation import evaluating
from repalign.handing_out import Seat, hand_out
from repalign.layer_list import problems
from repalign.memory import resident
from repalign.metrics.calls import pick_device
from repalign.progress import track
from repalign.recording_pass import decode_batch, to_device
from repalign.recording_plan import memory_format_of, probe_network
from repalign.recording_run import RecordingRun, by_rows, check_autocast, missing_shards

if TYPE_CHECKING:
    from distributed import Client

SPAN_S = 30.0  # that a task takes: long beside its beginning, short beside the run
OF_THE_LIMIT = 0.75  # of a worker's memory: Dask lets one wait that holds four fifths
WORKER_BYTES = 500 << 20  # that a worker holds before a task, about
SPANS_A_WORKER = 4  # at least, so that all end at about the same time


def spread_recording(
    run: RecordingRun,
    layers: Sequence[str],
    *,
    by_name: Sequence[str],
    client: Client,
    device: torch.device,
    there: str,
) -> dict[str, str]:
    """Record layers that are not finished, on the workers of a cluster, and say what is left out.

    Args:
        run: whose network is on the device of this process, where it is tried.
        layers: their names.
        by_name: those asked for by name; others that cannot be recorded are left out.
        client: of the workers; where some carry the resource ``GPU``, they alone are used.
        device: of this process.
        there: where the workers show the stimuli: ``auto`` or a name; of several GPUs in
            one machine each worker takes its own.
    """
    if run.memory is None:
        limits = [one["memory_limit"] for one in workers_of(client, gpus=True).values()]
        if any(limits):  # at which Dask, or the batch system, ends a worker
            run = replace(run, memory=int(OF_THE_LIMIT * min(filter(None, limits))))
    with run.disk_errors():
        # what this process holds already is none of the workers' memory
        more = max(0, resident() - WORKER_BYTES)
        here = run if run.memory is None else replace(run, memory=run.memory + more)
        with evaluating(run.network.module, device, memory_format=memory_format_of(device)):
            probe, grown = here.begin(layers, by_name=by_name, device=device)
        quiet = replace(run, progress=False)
        for same in by_rows(grown):
            n_workers = max(1, len(workers_of(client, gpus=True)))
            rows = next(iter(same.values())).rows
            spans = cut_spans(missing_shards(same), probe.seconds * rows, workers=n_workers)
            label = f"{run.network.name}: recording {len(same)} layers on {n_workers} workers"
            begin = time.perf_counter()
            results = hand_out(client, _show_span, spans, quiet, list(same), there, gpus=True)
            with contextlib.closing(results):
                took = [next(results)[1] for _ in track(spans, label, show=run.progress)]
            measured = _together(took, time.perf_counter() - begin) if took else {}
            paths = [str(layer.path) for layer in same.values()]
            sealing = hand_out(client, _seal, paths, run.provenance(measured))
            with contextlib.closing(sealing):
                for _ in track(paths, f"{run.network.name}: sealing", show=run.progress):
                    next(sealing)
            if measured:
                run.say_used(measured)
    return problems(probe.outputs)


def cut_spans(shards: Sequence[int], seconds: float, *, workers: int) -> list[tuple[int, ...]]:
    """Cut a list of shards into tasks of about half a minute, and some for each worker.

    Example:
        >>> cut_spans(range(11), 10.0, workers=1)
        [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10,)]
    """
    most = max(1, round(SPAN_S / max(seconds, 1e-6)))
    length = max(1, min(most, len(shards) // (SPANS_A_WORKER * workers)))
    return [tuple(shards[i : i + length]) for i in range(0, len(shards), length)]


def _show_span(
    shards: Sequence[int], seat: Seat, run: RecordingRun, names: Sequence[str], where: str
) -> dict[str, Any]:
    """One task: the shards of a span that are not there yet."""
    device = pick_device(where)
    if str(device) == "cuda":
        device = torch.device("cuda", seat.rank % torch.cuda.device_count())
    check_autocast(run.autocast, device)
    layers = {name: GrowingLayer.open(run.layer_path(name)) for name in names}
    grown = {name: layer for name, layer in layers.items() if layer is not None}
    lost = [name for name in names if name not in grown]
    if lost:
        raise RuntimeError(
            f"{seat.address} sees no store at {run.layer_path(lost[0])}: the workers have to share"
            " the folder of the stores (to=) with the process that starts them"
        )
    before = torch.get_num_threads()
    torch.set_num_threads(seat.threads)
    try:
        with evaluating(run.network.module, device, memory_format=memory_format_of(device)):
            image = to_device(decode_batch(run.network, run.stimuli, 0, 1), device)
            probe = probe_network(run.network, image, names, cap=run.memory)
            todo = set(missing_shards(grown))
            return run.show(grown, probe, [one for one in shards if one in todo], device)
    finally:
        torch.set_num_threads(before)


def _seal(path: str, seat: Seat, provenance: Mapping[str, Any]) -> None:
    """One task: a layer whose shards are all there becomes a store."""
    layer = GrowingLayer.open(Path(path))
    if layer is None or not layer.done.all():
        raise RuntimeError(f"{seat.address} does not see all shards of {path}; run again")
    layer.finish(provenance)


def _together(took: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """What the tasks of a run took: stimuli in all, and the most that one process held."""
    sums = {"stimuli": sum(one["stimuli"] for one in took), "seconds": seconds}
    most = {key: max(one.get(key, 0) for one in took) for key in took[0] if key.endswith("_bytes")}
    devices = {"device": ", ".join(sorted({one["device"] for one in took}))}
    return {**took[0], **devices, **sums, **most}

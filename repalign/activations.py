"""Activations: what the layers of a network answer to the stimuli of a recording.

They are written shard by shard into a Zarr store, under a cap of memory, and resume where a killed
run stopped. A layer is one group, ``response(presentation, neuroid)`` with one repetition: a
network is one more subject. The units of a layer are its output, flattened; ``attrs["shape"]``
unravels them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import xarray as xr

from repalign.card_schemas import ModelCard
from repalign.cards import load_model_card, split_twin
from repalign.clusters import open_client
from repalign.evaluation import evaluating
from repalign.features import read_features
from repalign.layer_list import nothing_left
from repalign.layer_names import EACH_TIME, parse_layer
from repalign.memory import parse_size
from repalign.metrics.calls import pick_device
from repalign.networks import Network, chosen_layers, find_layers, load_network
from repalign.places import Where, find_place
from repalign.recording_pass import decode_batch
from repalign.recording_plan import memory_format_of
from repalign.recording_run import RecordingRun, check_autocast
from repalign.recording_spread import spread_recording
from repalign.stimuli import Stimuli, images_of, natural_key
from repalign.store import finished_parts, local_folder, locked, open_store, read_manifest

if TYPE_CHECKING:
    from distributed import Client

DTYPES = ("float32", "float16")


def record(
    model: str | Path | ModelCard | Network,
    *,
    stimuli: xr.Dataset | Stimuli,
    layers: str | Sequence[str] | None = None,
    to: str | Path | None = None,
    batch_size: int | None = None,
    memory: int | str | None = None,
    dtype: str = "float32",
    autocast: bool = False,
    device: str | torch.device = "auto",
    workers: int | None = None,
    scheduler: str | Client | None = None,
    visual_degrees: float | None = None,
    mirror: str | Path | None = None,
    offline: bool | None = None,
    progress: bool = True,
) -> dict[str, xr.Dataset]:
    """Show stimuli to a network and keep the activations of its layers in a Zarr store.

    What is already in the store is not computed again, and a run that was killed goes on with
    the first shard it has not finished. Each layer is copied while the network runs and written by
    other threads, so that memory holds no more than one pass, a bounded queue and the images of two
    batches. What that takes is measured on a few images and said on stderr before the run; what
    was used is said after it and kept in the store's manifest, under ``provenance``.

    On a CPU the float32 values are, bit for bit, those of a forward pass with the same batches in
    the same number of threads. Other batches, and other devices, give the same up to rounding.

    Args:
        model: name or path of a model card (``@random`` for the untrained twin), a card, or a
            `Network` of your own.
        stimuli: a recording with images, or `repalign.stimuli.Stimuli`.
        layers: module names or patterns; the card's layers by default; ``"all"``. Modules that only
            a pattern names are left out where they give nothing that can be recorded.
        to: folder of the stores; ``$REPALIGN_CACHE`` or the user's cache folder by default.
        batch_size: stimuli a forward pass, and a shard of the store; by default 32, or as many as
            fit into memory. A run that was killed keeps the shards it began with.
        memory: a hard cap on what the process holds, such as ``"4GB"``. It chooses the batch and
            the queue; a run that comes to hold more all the same stops, and can be resumed.
        dtype: ``float32``, or ``float16`` for half the disk; a value that this cannot hold is an
            error.
        autocast: compute in half precision where torch holds that to be safe; for GPUs.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        workers: processes on this machine that share the stimuli out; each takes a GPU of its own
            where there are several. ``memory`` caps each.
        scheduler: the address of a Dask scheduler, a `distributed.Client`, or jobs of a batch
            system such as ``"slurm:jobs=4,cores=8,memory=32GB"`` (`repalign.job_queues`). Their
            workers share the stimuli out, one task at a time on each, and write into ``to``, which
            all must see. A lost worker's part goes to another. ``memory`` is three quarters of a
            worker's limit where it is not given.
        visual_degrees: width of the network's input in degrees of visual angle.
        mirror, offline: where weights are looked for.
        progress: show a progress bar on stderr.

    Returns:
        The activations by layer, in order of depth, lazily opened.

    Raises:
        ValueError: unknown layer, no images, a layer whose output is not stimulus × unit or changes
            its shape, an activation that is not finite, or memory or disk that do not suffice.
        OSError: the disk is full or not writable. The store can be resumed after every error.
        ConnectionError: no scheduler or no worker answers.

    Example:
        >>> net = record("efficientnet_lite0", stimuli=recording)   # doctest: +SKIP
    """
    if isinstance(model, str | Path | ModelCard):
        card = model if isinstance(model, ModelCard) else load_model_card(split_twin(str(model))[0])
        if card.source == "features":
            if visual_degrees is not None or "@" in str(model):
                raise ValueError(
                    f"{card.name} is a table of features: it has neither an untrained twin nor"
                    " degrees of visual angle"
                )
            return read_features(card, layers=layers)
        model = load_network(
            model, visual_degrees=visual_degrees, to=to, mirror=mirror, offline=offline
        )
    elif visual_degrees is not None:
        raise ValueError("visual_degrees applies to model cards; set it in your Network")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    cap = None if memory is None else parse_size(memory)
    chosen = chosen_layers(layers, model.layers, model.name)
    if isinstance(stimuli, xr.Dataset):
        dataset = str(stimuli.attrs.get("dataset", "stimuli"))
    else:
        dataset = "stimuli"
    images = images_of(stimuli)
    by_time = any(parse_layer(layer).time == EACH_TIME for layer in chosen)  # a pass tells which
    example = decode_batch(model, images, 0, 1) if by_time else None
    names = find_layers(model.module, chosen, example=example)
    alone = workers is None and scheduler is None
    where = pick_device(device if alone else "auto")  # the workers may have others
    if alone:
        check_autocast(autocast, where)
    if visual_degrees is not None and images.visual_degrees is None:
        raise ValueError(
            f"visual_degrees = {visual_degrees} has no effect, since the stimuli of {dataset} have"
            " no degrees: set visual_degrees under [stimuli] of their card"
        )
    prints = {"network": model.fingerprint(), "stimuli": images.fingerprint()}
    run = RecordingRun(
        model,
        images,
        dataset,
        prints,
        local_folder(to),
        dtype=dtype,
        autocast=autocast,
        batch_size=batch_size,
        memory=cap,
        progress=progress,
    )
    if not all(_is_finished(run.layer_path(name)) for name in names):
        with locked(run.root):
            todo = [name for name in names if not _is_finished(run.layer_path(name))]
            left_out: dict[str, str] = {}
            if todo and alone:  # else another process made them meanwhile
                with evaluating(model.module, where, memory_format=memory_format_of(where)):
                    left_out = run.compute(todo, by_name=chosen, device=where)
            elif todo:
                with open_client(workers=workers, scheduler=scheduler) as client:
                    left_out = spread_recording(
                        run, todo, by_name=chosen, client=client, device=where, there=str(device)
                    )
            if len(left_out) == len(names):
                raise ValueError(nothing_left(model.name, left_out))
    return {
        name: open_activations(run.layer_path(name))
        for name in names
        if _is_finished(run.layer_path(name))
    }


def _is_finished(path: Path) -> bool:
    return read_manifest(path) is not None


def open_activations(path: Where) -> xr.Dataset:
    """Open one recorded layer, without the flags of its shards."""
    return open_store(path).drop_vars("done", errors="ignore")


def open_layers(path: Where) -> dict[str, xr.Dataset]:
    """All finished layers of an activations store; a recording's store counts as one layer."""
    place = find_place(path)
    names = sorted(finished_parts(place), key=natural_key)
    if not names:
        raise FileNotFoundError(f"no finished store at {place}; ingest or record it first")
    return {name: open_activations(place / name) for name in names}

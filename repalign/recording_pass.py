"""The passes of a recording: images decoded ahead, each layer handed on while the network runs."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repalign.activation_stores import GrowingLayer
from repalign.hooks import stream
from repalign.layer_list import LayerOutput, wrong_shape
from repalign.memory import PeakMemory, give_back, say_size
from repalign.networks import Network, preprocess
from repalign.progress import track
from repalign.recording_plan import memory_format_of
from repalign.shard_files import all_finite
from repalign.stimuli import Stimuli
from repalign.write_queue import WriteQueue

Array = np.ndarray[Any, np.dtype[Any]]


def record_shards(
    network: Network,
    stimuli: Stimuli,
    layers: Mapping[str, GrowingLayer],
    outputs: Mapping[str, LayerOutput],
    queue: WriteQueue,
    *,
    shards: Sequence[int],
    device: torch.device,
    autocast: bool,
    memory: PeakMemory,
    cap: int | None,
    progress: bool,
) -> int:
    """Record some shards of layers whose shards hold the same stimuli.

    Args:
        network: on the device, in evaluation mode.
        stimuli: all of them.
        layers: what is recorded.
        outputs: what each of the layers gave when the network was tried.
        queue: with room for a batch of the largest layer.
        shards: the numbers of those to be recorded.
        device: where the network is.
        autocast: compute in half precision where torch holds that to be safe.
        memory: watches what the process holds.
        cap: bytes that it may hold; None: no cap.
        progress: show a bar on stderr.

    Returns:
        How many stimuli were shown.

    Raises:
        ValueError: a layer's shape or number of calls changes, or a value is not finite.
        MemoryError: more than the cap was held. In each case what is finished stays so.
    """
    rows = next(iter(layers.values())).rows
    lanes = {name: lane for lane, name in enumerate(layers)}
    spans = [(shard * rows, min((shard + 1) * rows, len(stimuli))) for shard in shards]
    calls: Counter[str] = Counter()
    shard = start = stop = 0  # of the pass that runs

    def take(name: str, output: Tensor) -> None:
        calls[name] += 1
        if calls[name] < outputs[name].calls or layers[name].done[shard]:
            return  # of a layer that runs several times the last output counts
        tensor = output.detach()
        wrong = wrong_shape(tensor, stop - start, outputs[name].shape)
        if wrong:
            raise ValueError(f"{network.name}, layer {name!r} {wrong}")
        layer = layers[name]
        dtype = torch.float16 if layer.response.dtype == np.float16 else torch.float32
        write = partial(_write, network.name, name, layer, shard, stimuli.ids[start:stop])
        queue.put(tensor, dtype, lane=lanes[name], write=write)

    label = f"{network.name}: recording {len(layers)} layers"
    batches = decoded_batches(network, stimuli, spans, device)
    with contextlib.closing(batches), stream(network.module, list(layers), take):
        for shard in track(shards, label, show=progress):
            start, images = next(batches)
            stop = start + len(images)
            calls.clear()
            if cap is not None:
                give_back()
            with torch.autocast(device.type, enabled=autocast):
                network.module(images)
            _check_calls(network.name, calls, outputs)
            for name, layer in layers.items():
                if not layer.done[shard]:  # only now, since a layer may run once more
                    queue.then(partial(layer.mark, shard), lane=lanes[name])
            if cap is not None and memory.look() > cap:
                raise MemoryError(
                    f"{network.name}: {say_size(memory.peak)} of memory were held, above the cap"
                    f" of {say_size(cap)}; what is finished is kept: run again with a"
                    f" batch_size below {rows}, or a higher cap"
                )
    return sum(stop - start for start, stop in spans)


def _check_calls(model: str, calls: Counter[str], outputs: Mapping[str, LayerOutput]) -> None:
    for name, output in outputs.items():
        if calls[name] != output.calls:
            raise ValueError(
                f"{model}, layer {name!r} ran {calls[name]} times in this pass and {output.calls}"
                " times when it was tried; which output counts is not defined, so record another"
                " layer"
            )


def _write(
    model: str, name: str, layer: GrowingLayer, shard: int, ids: Sequence[str], values: Array
) -> None:
    """Write one layer's shard, after checking that all of it is finite."""
    if not all_finite(values):
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        where = f"{model}, layer {name}"
        if values.dtype == np.float16 and not np.isnan(values[row]).any():
            raise ValueError(
                f"{where}: activations for stimulus {ids[row]!r} lie beyond 65504, the largest"
                " number of float16; record this layer with dtype='float32'"
            )
        raise ValueError(f"{where}: NaN or infinite activations for stimulus {ids[row]!r}")
    layer.write(shard, values)


def decode_batch(network: Network, stimuli: Stimuli, start: int, stop: int) -> Tensor:
    """Some stimuli as a batch of the network's input, in main memory."""
    batch: Tensor | None = None
    for row, number in enumerate(range(start, stop)):
        image = preprocess(
            stimuli.image(number),
            network.preprocessing,
            shown_degrees=stimuli.visual_degrees,
            field_degrees=network.visual_degrees,
        )
        if batch is None:
            batch = torch.empty(stop - start, *image.shape)
        batch[row] = image
    assert batch is not None
    return batch


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """A batch on the device, in the memory format that is used there."""
    if device.type == "cuda":
        batch = batch.pin_memory().to(device, non_blocking=True)
    batch = batch.to(device)
    if batch.ndim == 4:
        batch = batch.contiguous(memory_format=memory_format_of(device))
    return batch


def decoded_batches(
    network: Network,
    stimuli: Stimuli,
    spans: Sequence[tuple[int, int]],
    device: torch.device,
) -> Generator[tuple[int, Tensor], None, None]:
    """First stimulus and batch, one after the other; the next is decoded while one is used."""
    with ThreadPoolExecutor(1, "decode") as thread:
        ahead = thread.submit(decode_batch, network, stimuli, *spans[0]) if spans else None
        for number, (start, _) in enumerate(spans):
            assert ahead is not None
            batch = to_device(ahead.result(), device)
            ahead = None
            if number + 1 < len(spans):
                ahead = thread.submit(decode_batch, network, stimuli, *spans[number + 1])
            yield start, batch
            del batch

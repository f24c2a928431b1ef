"""What recording a network will take, from a pass of a few images, and the batch that fits."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from xxhash import xxh3_128

from repalign.disk import DiskSpeed
from repalign.layer_list import LayerOutput, run_once
from repalign.memory import PeakMemory, give_back, say_size
from repalign.networks import Network
from repalign.shard_files import all_finite, plain_shard

BATCH_SIZE = 32
PROBE_IMAGES = 4
QUEUE_BYTES = 256 << 20
BATCHES_AHEAD = 2  # of images: one in use, one being decoded
THREADS_BYTES = 40 << 20  # of the heaps of those that decode and write, and of zarr
SPARE = 0.08  # of the cap, for what no probe sees
TRIAL_BYTES = 64 << 20
LOOK_S = 0.2  # at what other processes use
BESIDE = 3  # threads that decode and write


@dataclass(frozen=True)
class Probe:
    """A few images shown to a network, and what that took.

    Args:
        outputs: what the layers give.
        n_images: how many were shown at once.
        memory: bytes that the process held at most.
        memory_an_image: further bytes for each further image in a pass.
        device_memory, device_memory_an_image: the same on a GPU; 0 elsewhere.
        device_room: bytes that it may hold there; 0 elsewhere.
        image_bytes: of one preprocessed image.
        seconds: of a pass, an image.
    """

    outputs: Mapping[str, LayerOutput]
    n_images: int
    memory: int
    memory_an_image: int
    device_memory: int
    device_memory_an_image: int
    device_room: int
    image_bytes: int
    seconds: float


def probe_network(
    network: Network, image: Tensor, layers: Sequence[str], *, cap: int | None
) -> Probe:
    """Show a network one image, then a few at once, and measure both.

    Args:
        network: in evaluation mode, on its device.
        image: a batch of one, on the device.
        layers: exact names of those to be recorded.
        cap: bytes that the process may hold.
    """
    on_gpu = image.is_cuda
    parts = network.module.named_modules()
    leaves = [name for name, part in parts if name and not any(part.children())]
    watched = list(dict.fromkeys([*layers, *leaves]))
    needed = 0  # by the largest output, for each image

    def add_up(_name: str, output: Tensor) -> None:
        nonlocal needed
        rows = max(1, len(output) if output.ndim else 1)
        needed = max(needed, output.numel() * output.element_size() // rows)

    def measure(n_images: int) -> tuple[dict[str, LayerOutput], int, int, float]:
        batch = image.repeat(n_images, *[1] * (image.ndim - 1))
        if batch.ndim == 4:
            batch = batch.contiguous(memory_format=memory_format_of(image.device))
        give_back()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(image.device)
        with PeakMemory(interval=0.001) as memory:
            begin = time.perf_counter()
            outputs = run_once(network, batch, watched, also=add_up)
            if on_gpu:
                torch.cuda.synchronize(image.device)
            seconds = time.perf_counter() - begin
        held = torch.cuda.max_memory_allocated(image.device) if on_gpu else 0
        return outputs, memory.peak, held, seconds

    measure(1)  # the first pass prepares weights and workspaces
    _, memory_of_one, device_of_one, _ = measure(1)
    image_bytes = image.numel() * image.element_size()
    n_images = PROBE_IMAGES
    if cap is not None:
        room = int(cap * (1 - SPARE)) - memory_of_one
        n_images = max(2, min(PROBE_IMAGES, 1 + room // max(1, 2 * needed)))
    outputs, memory, device_memory, _ = measure(n_images)
    seconds = measure(n_images)[3]  # without what the first batch of a size prepares
    room = 0
    if on_gpu:
        free = torch.cuda.mem_get_info(image.device)[0] + torch.cuda.memory_reserved(image.device)
        room = int(free * (1 - SPARE))
    further = n_images - 1  # one image could not tell the axis of the stimuli
    return Probe(
        outputs={name: outputs[name] for name in layers},
        n_images=n_images,
        memory=max(memory, memory_of_one),
        memory_an_image=max((memory - memory_of_one) // further, 0 if on_gpu else needed),
        device_memory=device_memory,
        device_memory_an_image=max(0, device_memory - device_of_one) // further,
        device_room=room,
        image_bytes=image_bytes,
        seconds=seconds / n_images,
    )


def memory_format_of(device: torch.device) -> torch.memory_format:
    """Channels last is faster on GPUs.

    On CPUs a layer's rows are copied many times faster out of the usual format, which makes up for
    a somewhat slower pass, and the values are to the bit those of a plain forward pass.
    """
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


@dataclass(frozen=True)
class Plan:
    """How a recording is run, and what it is expected to take.

    Args:
        batch_size: stimuli a pass, and a shard.
        queue_bytes: activations that wait to be written, at most.
        memory: bytes that the process will hold at most.
        device_memory: the same on a GPU; 0 elsewhere.
    """

    batch_size: int
    queue_bytes: int
    memory: int
    device_memory: int


def make_plan(
    probe: Probe,
    layers: Sequence[str],
    *,
    itemsize: int,
    batch_size: int,
    cap: int | None,
    exact: bool,
) -> Plan:
    """The largest batch up to ``batch_size`` that stays under the cap, and in a GPU's memory.

    ``memory(b) = memory of the probe + (b − its images) · memory an image + two batches of images
    + the queue + 40 MB of the threads``. The queue holds two batches of the layers up to 256 MB,
    and never less than one batch of the largest.

    Args:
        probe: of the network.
        layers: that will be recorded.
        itemsize: bytes of a stored value.
        batch_size: stimuli a pass at most.
        cap: bytes that the process may hold; None: no cap.
        exact: no smaller batch will do.

    Raises:
        ValueError: not even one stimulus fits, or not ``batch_size`` where that is exact.
    """
    sizes = [itemsize * prod(probe.outputs[name].shape or ()) for name in layers]
    allowed = None if cap is None else int(cap * (1 - SPARE))
    for batch in range(batch_size, batch_size - 1 if exact else 0, -1):
        least = 64 * 2 + max(sizes) * batch
        wished = max(least, min(QUEUE_BYTES, 2 * sum(sizes) * batch))
        without = (
            probe.memory
            + THREADS_BYTES
            + (batch - probe.n_images) * probe.memory_an_image
            + BATCHES_AHEAD * batch * probe.image_bytes
        )
        queue = wished if allowed is None else min(wished, max(least, allowed - without))
        device = (batch - probe.n_images) * probe.device_memory_an_image + probe.device_memory
        plan = Plan(batch, queue, without + queue, device)
        fits_on_device = device <= probe.device_room or not probe.device_room
        if fits_on_device and (allowed is None or plan.memory <= allowed):
            return plan
    if cap is None or not fits_on_device:
        raise ValueError(
            f"{plan.batch_size} a pass need {say_size(plan.device_memory)} on the GPU, which has"
            f" {say_size(probe.device_room)} for it; use a smaller batch_size or device='cpu'"
        )
    raise ValueError(
        f"{plan.batch_size} {'stimulus' if plan.batch_size == 1 else 'stimuli'} a pass need"
        f" {say_size(plan.memory / (1 - SPARE))} of memory, of which {say_size(probe.memory)} are"
        f" the program and its network, and memory={say_size(cap)} is the cap; allow more"
        " (--memory), or record fewer layers"
    )


def seconds_to_store() -> float:
    """Seconds for a byte of activations to be copied, checked, hashed and summed; on 64 MB."""
    rows = torch.ones(8, TRIAL_BYTES // 32)
    begin = time.perf_counter()
    block = rows.clone().numpy()
    all_finite(block)
    xxh3_128(block.data)
    plain_shard(block, rows=8, chunk_rows=1)
    return (time.perf_counter() - begin) / TRIAL_BYTES


def expected_seconds(
    probe: Probe, *, stimuli: int, size: int, decoding: float, disk: DiskSpeed
) -> float:
    """Seconds that a recording takes: of the network, all cores together, or the disk, the most.

    Args:
        probe: of the network.
        stimuli: how many are shown.
        size: bytes that are written.
        decoding: seconds to decode one stimulus.
        disk: where they are written.
    """
    showing = probe.seconds * stimuli
    beside = decoding * stimuli + size * (seconds_to_store() + disk.copying)
    cores = free_cores()
    if probe.device_memory:  # the GPU shows, and the threads beside it do the rest
        working = beside / min(cores, BESIDE)
    else:
        working = (showing * min(torch.get_num_threads(), cores) + beside) / cores
    return max(showing, working, size * disk.writing)


def free_cores() -> float:
    """Cores that this process may use and that no other uses now; at least one."""
    import psutil

    affinity = getattr(os, "sched_getaffinity", None)
    mine = len(affinity(0)) if affinity else os.cpu_count() or 1
    idle: float = (1 - psutil.cpu_percent(interval=LOOK_S) / 100) * (os.cpu_count() or 1)
    return max(1.0, min(float(mine), idle))

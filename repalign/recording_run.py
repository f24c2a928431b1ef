"""A recording from beginning to end: tried, planned, announced, run, and sealed."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from repalign.activation_stores import GrowingLayer, create_layer
from repalign.layer_list import described
from repalign.memory import PeakMemory, available, resident, say_size
from repalign.networks import Network
from repalign.recording import (
    ALIGNED_TO,
    IMAGE_HASH,
    PRESENTATION,
    SCHEMA_VERSION,
    make_activations,
)
from repalign.recording_pass import decode_batch, record_shards, to_device
from repalign.recording_plan import (
    BATCH_SIZE,
    Plan,
    Probe,
    check_disk,
    make_plan,
    probe_network,
    seconds_to_write,
)
from repalign.stimuli import Stimuli
from repalign.store import METADATA
from repalign.write_queue import WriteQueue

WRITERS = 2  # threads


@dataclass(frozen=True)
class RecordingRun:
    """One network on one set of stimuli, and where its layers are kept.

    Args:
        network, stimuli: what is shown to what.
        dataset: name of the stimuli.
        fingerprints: of both.
        folder: of the stores.
        dtype: ``float32`` or ``float16``.
        autocast: compute in half precision where torch holds that to be safe; on GPUs.
        batch_size: stimuli a pass; None: as many as fit, up to 32.
        memory: bytes that the process may hold; None: no cap.
        progress: say on stderr what is planned, going on, and was used.
    """

    network: Network
    stimuli: Stimuli
    dataset: str
    fingerprints: Mapping[str, str]
    folder: Path
    dtype: str = "float32"
    autocast: bool = False
    batch_size: int | None = None
    memory: int | None = None
    progress: bool = True

    @cached_property
    def root(self) -> Path:
        """Folder of the layers; another for each precision."""
        parts = [*self.fingerprints.values(), SCHEMA_VERSION]
        parts += [self.dtype] if self.dtype != "float32" else []
        parts += ["autocast"] if self.autocast else []
        key = sha256(json.dumps(parts).encode()).hexdigest()
        name = self.network.name.replace("@", "-").replace(":", "-")
        return self.folder / "activations" / f"{name}--{self.dataset}-{key[:12]}.zarr"

    def layer_path(self, layer: str) -> Path:
        """Folder of one layer."""
        return self.root / layer

    def compute(
        self, layers: Sequence[str], *, by_name: Sequence[str], device: torch.device
    ) -> None:
        """Record layers that are not finished.

        Args:
            layers: their names; the network is on the device, in evaluation mode.
            by_name: those asked for by name; others that cannot be recorded are left out.
            device: where the network is.
        """
        try:
            if not (self.root / METADATA).exists():
                zarr.open_group(self.root, mode="a", zarr_format=3)
            for leftover in self.root.glob("*.tmp-*"):  # of a killed run
                shutil.rmtree(leftover, ignore_errors=True)
            begin = time.perf_counter()
            image = decode_batch(self.network, self.stimuli, 0, 1)
            seconds_to_decode = time.perf_counter() - begin
            probe = probe_network(self.network, to_device(image, device), layers, cap=self.memory)
            names = self._recordable(probe, layers, by_name)
            if names:
                grown = self._prepare(names, probe, seconds_to_decode)
                for rows in dict.fromkeys(layer.rows for layer in grown.values()):
                    same = {name: one for name, one in grown.items() if one.rows == rows}
                    self._record(same, probe, self._plan(probe, list(same), rows), device)
        except OSError as error:
            raise OSError(f"could not write {self.root}: {error.strerror or error}") from error

    def _recordable(self, probe: Probe, layers: Sequence[str], by_name: Sequence[str]) -> list[str]:
        wrong = {name: probe.outputs[name].problem for name in layers}
        left_out = [name for name in layers if wrong[name]]
        for name in left_out:
            if name in by_name:
                raise ValueError(f"{self.network.name}, {described(name, wrong[name])}")
        if left_out:
            self._say(
                f"{len(left_out)} layers are left out, such as this:"
                f" {described(left_out[0], wrong[left_out[0]])}"
            )
        if len(left_out) == len(layers):
            raise ValueError(f"{self.network.name} has no layer among these that can be recorded")
        return [name for name in layers if not wrong[name]]

    def _plan(self, probe: Probe, layers: Sequence[str], rows: int | None = None) -> Plan:
        """The plan for new shards, or for shards of some rows."""
        cap = self.memory
        if cap is None and self.batch_size is None and rows is None:
            cap = resident() + available()
        return make_plan(
            probe,
            layers,
            itemsize=np.dtype(self.dtype).itemsize,
            batch_size=rows or min(self.batch_size or BATCH_SIZE, len(self.stimuli)),
            cap=cap,
            exact=rows is not None or self.batch_size is not None,
        )

    def _prepare(
        self, names: Sequence[str], probe: Probe, seconds_to_decode: float
    ) -> dict[str, GrowingLayer]:
        """Open the layers that a killed run left, and create the others."""
        hashes = [self.stimuli.image_hash(i) for i in range(len(self.stimuli))]
        no_units = np.empty((len(hashes), 0), dtype=np.float32)
        coords = make_activations(no_units, self.stimuli.ids, self.network.name, "", ())
        coords = coords.drop_vars("response").assign_coords(
            {IMAGE_HASH: (PRESENTATION, np.array(hashes, dtype=object))}
        )
        grown: dict[str, GrowingLayer] = {}
        for name in names:
            layer = GrowingLayer.open(self.layer_path(name), coords)
            if layer is not None:
                grown[name] = layer
        for rows in {layer.rows for layer in grown.values()}:
            same = [name for name, layer in grown.items() if layer.rows == rows]
            try:
                self._plan(probe, same, rows)
            except ValueError:
                self._say(f"{len(same)} layers begin anew: {rows} stimuli a shard need too much")
                for name in same:
                    del grown[name]
        missing = [name for name in names if name not in grown]
        rows = self._plan(probe, missing).batch_size if missing else 0
        self._announce(names, probe, grown, rows, seconds_to_decode)
        for name in missing:
            shape = probe.outputs[name].shape or ()
            template = coords.assign_attrs(layer=name, shape=list(shape))
            if self.network.aligned_to is not None:
                template.attrs[ALIGNED_TO] = self.network.aligned_to.model_dump(mode="json")
            path = self.layer_path(name)
            shutil.rmtree(path, ignore_errors=True)
            create_layer(path, template, units=prod(shape), dtype=self.dtype, rows=rows)
            made = GrowingLayer.open(path, coords)
            assert made is not None
            grown[name] = made
        return {name: grown[name] for name in names}

    def _announce(
        self,
        names: Sequence[str],
        probe: Probe,
        grown: Mapping[str, GrowingLayer],
        rows: int,
        seconds_to_decode: float,
    ) -> None:
        """Say what a recording will take, and refuse one for which the disk has no room."""
        itemsize, n_stimuli = np.dtype(self.dtype).itemsize, len(self.stimuli)
        sizes = {name: itemsize * prod(probe.outputs[name].shape or ()) for name in names}
        stored = {name: int(layer.done.sum()) * layer.rows for name, layer in grown.items()}
        left = {name: max(0, n_stimuli - stored.get(name, 0)) for name in names}
        size = sum(sizes[name] * left[name] for name in names)
        self.root.mkdir(parents=True, exist_ok=True)
        free = check_disk(self.root, size)
        if not self.progress:
            return
        batches = sorted({layer.rows for layer in grown.values()} | ({rows} if rows else set()))
        plans = [
            self._plan(
                probe,
                [name for name in names if (grown[name].rows if name in grown else rows) == batch],
                batch,
            )
            for batch in batches
        ]
        # writing and decoding go on beside the network, on the cores that it leaves or shares
        beside = seconds_to_decode * max(left.values())
        beside += size * seconds_to_write(self.root)
        cores = torch.get_num_threads() if probe.device_memory == 0 else 1
        seconds = probe.seconds * max(left.values()) + beside / max(1, cores)
        device = max(plan.device_memory for plan in plans)
        self._say(
            f"{len(names)} layers of {n_stimuli:,} stimuli, {max(batches)} a pass: about"
            f" {say_size(max(plan.memory for plan in plans))} of memory,"
            + (f" {say_size(device)} on the GPU," if device else "")
            + f" {say_size(size)} of disk ({say_size(free)} free), {say_time(seconds)}"
        )

    def _record(
        self,
        layers: Mapping[str, GrowingLayer],
        probe: Probe,
        plan: Plan,
        device: torch.device,
    ) -> None:
        begin = time.perf_counter()
        with PeakMemory() as memory:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            with WriteQueue(
                plan.queue_bytes, threads=WRITERS, pinned=device.type == "cuda"
            ) as queue:
                shown = record_shards(
                    self.network,
                    self.stimuli,
                    layers,
                    {name: probe.outputs[name] for name in layers},
                    queue,
                    device=device,
                    autocast=self.autocast,
                    memory=memory,
                    cap=self.memory,
                    progress=self.progress,
                )
            seconds = time.perf_counter() - begin
        measured: dict[str, Any] = {
            "device": str(device),
            "batch_size": plan.batch_size,
            "layers": len(layers),
            "stimuli": shown,
            "seconds": round(seconds, 3),
            "stimuli_per_second": round(shown / seconds, 2),
            "planned_memory_bytes": plan.memory,
            "peak_memory_bytes": memory.peak,
        }
        if device.type == "cuda":
            measured["planned_device_bytes"] = plan.device_memory
            measured["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
        provenance = {
            "model": self.network.name,
            "torch": torch.__version__,
            **self.fingerprints,
            "run": measured,
        }
        for layer in layers.values():
            layer.finish(provenance)
        if shown:
            self._say(
                f"{measured['stimuli_per_second']:,.1f} stimuli a second, at most"
                f" {say_size(memory.peak)} of memory"
            )

    def _say(self, sentence: str) -> None:
        if self.progress:
            print(f"{self.network.name}: {sentence}", file=sys.stderr)


def say_time(seconds: float) -> str:
    """Return a duration in words.

    Example:
        >>> say_time(0.2), say_time(75), say_time(5000)
        ('1 s', '75 s', '83 min')
    """
    return f"{max(1, seconds):.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

"""A recording from beginning to end: tried, planned, announced, run, and sealed."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from repalign.activation_stores import GrowingLayer, LayerTemplate
from repalign.direct_files import beyond_cache
from repalign.disk import check_disk, try_disk
from repalign.layer_list import LayerOutput, problems
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
    expected_seconds,
    make_plan,
    probe_network,
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
        return layers_root(
            self.folder,
            self.network.name,
            self.dataset,
            self.fingerprints,
            dtype=self.dtype,
            autocast=self.autocast,
        )

    def layer_path(self, layer: str) -> Path:
        """Folder of one layer."""
        return self.root / layer

    def compute(
        self, layers: Sequence[str], *, by_name: Sequence[str], device: torch.device
    ) -> dict[str, str]:
        """Record layers that are not finished, and return why some are left out.

        Args:
            layers: their names; the network is on the device, in evaluation mode.
            by_name: those asked for by name; others that cannot be recorded are left out.
            device: where the network is.
        """
        with self.disk_errors():
            probe, grown = self.begin(layers, by_name=by_name, device=device)
            for same in by_rows(grown):
                self.finish(same, self.show(same, probe, missing_shards(same), device))
        return problems(probe.outputs)

    @contextlib.contextmanager
    def disk_errors(self) -> Iterator[None]:
        """Say of a failure of the disk which store could not be written."""
        try:
            yield
        except OSError as error:
            raise OSError(f"could not write {self.root}: {error.strerror or error}") from error

    def begin(
        self, layers: Sequence[str], *, by_name: Sequence[str], device: torch.device
    ) -> tuple[Probe, dict[str, GrowingLayer]]:
        """Try the network, and open or create the layers that can be recorded."""
        if not (self.root / METADATA).exists():
            zarr.open_group(self.root, mode="a", zarr_format=3)
        for leftover in self.root.glob("*.tmp-*"):  # of a killed run
            shutil.rmtree(leftover, ignore_errors=True)
        begin = time.perf_counter()
        image = decode_batch(self.network, self.stimuli, 0, 1)
        seconds_to_decode = time.perf_counter() - begin
        probe = probe_network(self.network, to_device(image, device), layers, cap=self.memory)
        left_out = self.left_out(probe.outputs, by_name)
        names = [name for name in layers if name not in left_out]
        return probe, self._prepare(names, probe, seconds_to_decode) if names else {}

    def left_out(
        self, outputs: Mapping[str, LayerOutput], by_name: Sequence[str]
    ) -> dict[str, str]:
        """Layers that cannot be recorded, and why; an error where one was asked for by name."""
        wrong = problems(outputs)
        for name, problem in wrong.items():
            if name in by_name:
                raise ValueError(f"{self.network.name}, {problem}")
        if wrong:
            first = next(iter(wrong.values()))
            self._say(f"{len(wrong)} layers are left out, such as this: {first}")
        return wrong

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
        with LayerTemplate.write(self.root, coords) as template:
            for name in missing:
                path, shape = self.layer_path(name), probe.outputs[name].shape or ()
                attrs: dict[str, Any] = {"layer": name, "shape": list(shape)}
                if self.network.aligned_to is not None:
                    attrs[ALIGNED_TO] = self.network.aligned_to.model_dump(mode="json")
                shutil.rmtree(path, ignore_errors=True)
                template.create(path, attrs, units=prod(shape), dtype=self.dtype, rows=rows)
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
        seconds = expected_seconds(
            probe,
            stimuli=max(left.values()),
            size=size,
            decoding=seconds_to_decode,
            disk=try_disk(self.root, size, direct=True),
        )
        device = max(plan.device_memory for plan in plans)
        self._say(
            f"{len(names)} layers of {n_stimuli:,} stimuli, {max(batches)} a pass: about"
            f" {say_size(max(plan.memory for plan in plans))} of memory,"
            + (f" {say_size(device)} on the GPU," if device else "")
            + f" {say_size(size)} of disk ({say_size(free)} free), {say_time(seconds)}"
        )

    def show(
        self,
        layers: Mapping[str, GrowingLayer],
        probe: Probe,
        shards: Sequence[int],
        device: torch.device,
    ) -> dict[str, Any]:
        """Record some shards of layers whose shards hold the same stimuli; what that took."""
        rows = next(iter(layers.values())).rows
        plan = self._plan(probe, list(layers), rows)
        large = beyond_cache(sum(layer.response.nbytes for layer in layers.values()))
        for layer in layers.values():
            layer.direct = large
        on_gpu = device.type == "cuda"
        begin = time.perf_counter()
        with PeakMemory() as memory:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(device)
            with WriteQueue(plan.queue_bytes, threads=WRITERS, pinned=on_gpu) as queue:
                shown = record_shards(
                    self.network,
                    self.stimuli,
                    layers,
                    {name: probe.outputs[name] for name in layers},
                    queue,
                    shards=shards,
                    device=device,
                    autocast=self.autocast,
                    memory=memory,
                    cap=self.memory,
                    progress=self.progress,
                )
        measured: dict[str, Any] = {
            "device": str(device),
            "batch_size": rows,
            "layers": len(layers),
            "stimuli": shown,
            "seconds": time.perf_counter() - begin,
            "planned_memory_bytes": plan.memory,
            "peak_memory_bytes": memory.peak,
        }
        if on_gpu:
            measured["planned_device_bytes"] = plan.device_memory
            measured["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
        return measured

    def finish(self, layers: Mapping[str, GrowingLayer], measured: Mapping[str, Any]) -> None:
        """Make the layers stores, and say what they took."""
        for layer in layers.values():
            layer.finish(self.provenance(measured))
        self.say_used(measured)

    def provenance(self, measured: Mapping[str, Any]) -> dict[str, Any]:
        """What is kept with each layer: where it comes from, and what the last run took."""
        run = dict(measured)
        if run:
            run["stimuli_per_second"] = round(run["stimuli"] / run["seconds"], 2)
            run["seconds"] = round(run["seconds"], 3)
        return {
            "model": self.network.name,
            "torch": torch.__version__,
            **self.fingerprints,
            "run": run,
        }

    def say_used(self, measured: Mapping[str, Any]) -> None:
        """Say on stderr how fast a run was, and how much memory it held."""
        if measured["stimuli"]:
            self._say(
                f"{measured['stimuli'] / measured['seconds']:,.1f} stimuli a second, at most"
                f" {say_size(measured['peak_memory_bytes'])} of memory"
            )

    def _say(self, sentence: str) -> None:
        if self.progress:
            print(f"{self.network.name}: {sentence}", file=sys.stderr)


def layers_root(
    folder: Path,
    network: str,
    dataset: str,
    fingerprints: Mapping[str, str],
    *,
    dtype: str = "float32",
    autocast: bool = False,
) -> Path:
    """Folder of the layers of a network on some stimuli; see `RecordingRun`."""
    parts = [*fingerprints.values(), SCHEMA_VERSION]
    parts += [dtype] if dtype != "float32" else []
    parts += ["autocast"] if autocast else []
    key = sha256(json.dumps(parts).encode()).hexdigest()
    name = network.replace("@", "-").replace(":", "-")
    return folder / "activations" / f"{name}--{dataset}-{key[:12]}.zarr"


def check_autocast(autocast: bool, device: torch.device) -> None:
    """Refuse half precision on other devices than GPUs."""
    if autocast and device.type != "cuda":
        raise ValueError(f"autocast is for GPUs, and the device is {device}")


def by_rows(layers: Mapping[str, GrowingLayer]) -> list[dict[str, GrowingLayer]]:
    """Layers in groups whose shards hold as many stimuli."""
    groups: dict[int, dict[str, GrowingLayer]] = {}
    for name, layer in layers.items():
        groups.setdefault(layer.rows, {})[name] = layer
    return list(groups.values())


def missing_shards(layers: Mapping[str, GrowingLayer]) -> list[int]:
    """Numbers of the shards that one of the layers has not finished."""
    return np.flatnonzero(~np.all([layer.done for layer in layers.values()], axis=0)).tolist()


def say_time(seconds: float) -> str:
    """Return a duration in words.

    Example:
        >>> say_time(0.2), say_time(75), say_time(5000)
        ('1 s', '75 s', '83 min')
    """
    return f"{max(1, seconds):.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

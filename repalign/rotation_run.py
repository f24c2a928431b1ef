"""One run that rotates the layers of a network: shown in passes, summed piece by piece, stored."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np
import torch
import xarray as xr
import zarr
from torch import Tensor

from repalign.activations import open_activations
from repalign.evaluation import evaluating
from repalign.layer_list import nothing_left, run_once, wrong_shape
from repalign.layer_streams import LayerTrace, stream_layers, trace_layers
from repalign.memory import PeakMemory, give_back, resident, say_size
from repalign.metrics.rotation import GramSum, rotate_gram
from repalign.progress import track
from repalign.recording import ALIGNED_TO, IMAGE_HASH, PRESENTATION, make_activations
from repalign.recording_pass import decode_batch, decoded_batches
from repalign.recording_run import WRITERS, RecordingRun
from repalign.rotation_costs import expected_seconds
from repalign.rotation_plan import ITEM, Piece, Plan, plan_passes
from repalign.scratch import PieceFiles, scratch_folder
from repalign.store import locked, read_manifest, write_store
from repalign.write_queue import WriteQueue

ROTATION = "rotation"  # attrs["reduction"] of a layer that was rotated
PROBE = 8  # stimuli from which memory and time are foretold
PROBE_INTERVAL_S = 0.002


@dataclass(frozen=True, kw_only=True)
class RotatedRun:
    """One network on one set of stimuli, and what its rotated layers may take."""

    recorded: RecordingRun = field(kw_only=False)
    memory: int
    scratch: Path
    scratch_size: int | None
    batch_size: int | None
    precision: str
    device: torch.device
    progress: bool

    @property
    def root(self) -> Path:
        """Folder of the stores, beside that of the layers as they are."""
        whole = self.recorded.root
        kind = "rotated" if self.precision == "float32" else f"rotated-{self.precision}"
        return whole.with_name(f"{whole.stem}--{kind}.zarr")

    def layers(self, names: Sequence[str], *, by_name: Sequence[str]) -> dict[str, xr.Dataset]:
        """The layers, after computing those that are not there.

        Those that cannot be rotated are left out, unless they were asked for ``by_name``.
        """
        left_out: dict[str, str] = {}
        if any(read_manifest(self.root / name) is None for name in names):
            with locked(self.root):
                todo = [name for name in names if read_manifest(self.root / name) is None]
                if todo:
                    left_out = self._compute(todo, by_name)
            if len(left_out) == len(names):
                raise ValueError(nothing_left(self.recorded.network.name, left_out))
        return {n: open_activations(self.root / n) for n in names if n not in left_out}

    def _compute(self, names: Sequence[str], by_name: Sequence[str]) -> dict[str, str]:
        network = self.recorded.network
        spent: dict[str, float] = {}
        try:
            zarr.open_group(self.root, mode="a", zarr_format=3)
        except OSError as error:
            raise OSError(f"could not write {self.root}: {error.strerror or error}") from error
        with (
            PeakMemory() as peak,
            evaluating(network.module, self.device),
            scratch_folder(self.scratch) as folder,
        ):
            left_out = self._left_out(names, by_name)
            names = [name for name in names if name not in left_out]
            if not names:
                return left_out
            traces, plan = self._plan(names, folder)
            files = PieceFiles(folder, n_stimuli=plan.n_stimuli)
            total: GramSum | None = None
            for number, pieces in enumerate(plan.passes, start=1):
                label = f"{network.name}: pass {number} of {len(plan.passes)}"
                self._show(plan, pieces, traces, files, label, spent)
                reading = files.take(pieces)
                while True:
                    with _timed(spent, "reading"):
                        piece, values = next(reading, (None, None))
                    if piece is None or values is None:
                        break
                    total = self._use(piece, values, traces[piece.layer], total, spent)
        if self.progress:
            parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent.items())
            print(f"{network.name}: {parts}; memory {say_size(peak.peak)}", file=sys.stderr)
        return left_out

    def _left_out(self, names: Sequence[str], by_name: Sequence[str]) -> dict[str, str]:
        """Layers that cannot be rotated, and why, from a first pass that prepares the network."""
        network, stimuli = self.recorded.network, self.recorded.stimuli
        images = decode_batch(network, stimuli, 0, min(2, len(stimuli))).to(self.device)
        return self.recorded.left_out(run_once(network, in_fast_order(images), names), by_name)

    def _plan(self, names: Sequence[str], folder: Path) -> tuple[dict[str, LayerTrace], Plan]:
        """Run a few stimuli for the sizes of the layers, and say what all will take."""
        network, n_stimuli = self.recorded.network, len(self.recorded.stimuli)
        begin = time.perf_counter()
        batch = decode_batch(network, self.recorded.stimuli, 0, min(PROBE, n_stimuli))
        decoding = (time.perf_counter() - begin) / len(batch)
        batch = in_fast_order(batch.to(self.device))
        with PeakMemory(interval=PROBE_INTERVAL_S) as least:
            trace_layers(network.module, names, batch[:1])
        with PeakMemory(interval=PROBE_INTERVAL_S) as most:
            trace_layers(network.module, names, batch)
        # again for the times, without what the first batch of a size prepares
        traces = trace_layers(network.module, names, batch)
        more = (most.peak - least.peak) // max(1, len(batch) - 1)
        # a layer's input and output at least, and the copy that is written
        stimulus_bytes = max(more, 3 * ITEM * max(trace.units for trace in traces.values()))
        base = max(resident(), least.peak - stimulus_bytes)
        order = sorted(traces, key=lambda name: traces[name].order)
        free = disk_usage(folder).free
        if self.scratch_size is not None and self.scratch_size > free:
            raise ValueError(
                f"scratch_size is {say_size(self.scratch_size)} and {self.scratch} has"
                f" {say_size(free)} free; name another folder with scratch=, or a smaller size"
            )
        plan = plan_passes(
            [(name, traces[name].units) for name in order],
            n_stimuli=n_stimuli,
            memory=self.memory,
            base=base,
            stimulus_bytes=stimulus_bytes,
            scratch=self.scratch_size or free // 2,
            batch_size=self.batch_size,
        )
        if self.progress:
            depths = [max(traces[piece.layer].seconds for piece in one) for one in plan.passes]
            showing = [depth / len(batch) for depth in depths]
            seconds = expected_seconds(
                plan, showing, folder, decoding=decoding, precision=self.precision
            )
            print(
                f"{network.name}: {len(traces)} layers of {n_stimuli} stimuli, "
                f"{say_size(plan.total_bytes)} as float32, in {len(plan.passes)} passes with"
                f" {say_size(plan.scratch_bytes)} in {self.scratch}, {plan.batch_size} stimuli at a"
                f" time; memory about {say_size(plan.resident_bytes)}, time about"
                f" {seconds / 60:.1f} min",
                file=sys.stderr,
            )
        return traces, plan

    def _show(
        self,
        plan: Plan,
        pieces: Sequence[Piece],
        traces: Mapping[str, LayerTrace],
        files: PieceFiles,
        label: str,
        spent: dict[str, float],
    ) -> None:
        """Show all stimuli, and leave the pieces of one pass on the scratch disk.

        Other threads write while the network runs.
        """
        needed = {piece.layer: traces[piece.layer] for piece in pieces}
        of_layer: dict[str, list[tuple[int, Piece]]] = {name: [] for name in needed}
        for lane, piece in enumerate(pieces):
            of_layer[piece.layer].append((lane, piece))
            with _full_disk(self.scratch):
                files.make(piece)
        network = self.recorded.network
        edges = [*range(0, plan.n_stimuli, plan.batch_size), plan.n_stimuli]
        spans = list(pairwise(edges))
        batches = decoded_batches(network, self.recorded.stimuli, spans, self.device)

        def take(name: str, output: Tensor) -> None:
            rows = self._rows(output, name, start, len(images), traces[name])
            for lane, piece in of_layer[name]:
                write = partial(self._write, files, piece, start)
                queue.put(rows[:, piece.start : piece.stop], torch.float32, lane=lane, write=write)

        pinned = self.device.type == "cuda"
        with (
            _timed(spent, "showing"),
            closing(batches),
            WriteQueue(plan.queue_bytes, threads=WRITERS, pinned=pinned) as queue,
        ):
            for _ in track(spans, label, show=self.progress):
                start, images = next(batches)
                stream_layers(network.module, needed, in_fast_order(images), take)
                give_back()  # what a pass leaves in the heap adds up

    def _write(
        self, files: PieceFiles, piece: Piece, start: int, rows: np.ndarray[Any, Any]
    ) -> None:
        with _full_disk(self.scratch):
            files.write(piece, start, rows)

    def _rows(
        self, output: Tensor, layer: str, start: int, count: int, trace: LayerTrace
    ) -> Tensor:
        """A layer's output as stimulus × unit; the order of units that will be rotated is free."""
        wrong = wrong_shape(output, count, trace.shape)
        if wrong:
            raise ValueError(f"{self.recorded.network.name}, layer {layer!r} {wrong}")
        if output.ndim == 4 and self._rotates(trace):  # channels last: as it lies in memory
            output = output.movedim(1, -1)
        flat = output.flatten(1).float()
        if not bool(flat.sum().isfinite()):
            bad = (~flat.isfinite().all(dim=1)).nonzero()
            if len(bad):
                name = self.recorded.stimuli.ids[start + int(bad[0])]
                raise ValueError(
                    f"{self.recorded.network.name}, layer {layer}: NaN or infinite activations for"
                    f" stimulus {name!r}"
                )
        return flat

    def _rotates(self, trace: LayerTrace) -> bool:
        return trace.units > len(self.recorded.stimuli) + 1

    def _use(
        self,
        piece: Piece,
        values: np.ndarray[Any, Any],
        trace: LayerTrace,
        total: GramSum | None,
        spent: dict[str, float],
    ) -> GramSum | None:
        """Add a piece to its layer's sums; the last one finishes the layer."""
        if not self._rotates(trace):
            with _timed(spent, "storing"):
                self._store(piece.layer, values, trace)
            return None
        with _timed(spent, "products"):
            total = total or GramSum(len(values), precision=self.precision)
            total.add(values)
        if not piece.last:
            return total
        with _timed(spent, "rotating"):
            rotated = rotate_gram(total.gram(), total.means(), total.units)
        with _timed(spent, "storing"):
            self._store(piece.layer, rotated, trace)
        return None

    def _store(self, layer: str, values: np.ndarray[Any, Any], trace: LayerTrace) -> None:
        run = self.recorded
        if not np.isfinite(values).all():
            raise ValueError(
                f"{run.network.name}, layer {layer}: inner products that are not finite; the"
                " activations are too large to be squared"
            )
        ids = run.stimuli.ids
        ds = make_activations(values, ids, run.network.name, layer, trace.shape)
        hashes = np.array([run.stimuli.image_hash(i) for i in range(len(ids))], dtype=object)
        ds = ds.assign_coords({IMAGE_HASH: (PRESENTATION, hashes)})
        if run.network.aligned_to is not None:
            ds.attrs[ALIGNED_TO] = run.network.aligned_to.model_dump(mode="json")
        if self._rotates(trace):
            ds.attrs |= {"reduction": ROTATION, "units": trace.units, "precision": self.precision}
        made = {"model": run.network.name, "torch": torch.__version__, **run.fingerprints}
        write_store(self.root / layer, {"": ds}, provenance=made)


def in_fast_order(batch: Tensor) -> Tensor:
    """Images channels last: the order of a rotated layer's units is free, and this is faster."""
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


@contextmanager
def _timed(spent: dict[str, float], name: str) -> Iterator[None]:
    begin = time.perf_counter()
    try:
        yield
    finally:
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - begin


@contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    """Say which folder could not be written, and what helps."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"could not write into {folder}: {error.strerror or error}; name another folder with"
            " scratch=, or a smaller scratch_size"
        ) from error

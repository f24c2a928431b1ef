"""Activations: what the layers of a network answer to the stimuli of a recording.

They are written shard by shard into a Zarr store and resume where a killed run stopped. A layer
is one group, ``response(presentation, neuroid)`` with one repetition: a network is one more
subject. The units of a layer are its output, flattened; ``attrs["shape"]`` unravels them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
import zarr
from torch import Tensor, nn

from repalign.cards import ModelCard, load_model_card, split_twin
from repalign.features import read_features
from repalign.hooks import capture
from repalign.metrics.calls import pick_device
from repalign.networks import (
    Network,
    find_layers,
    load_network,
    preprocess,
)
from repalign.places import Where, find_place
from repalign.progress import track
from repalign.recording import (
    ALIGNED_TO,
    IMAGE_HASH,
    NEUROID,
    PRESENTATION,
    SCHEMA_VERSION,
    STIMULUS,
    make_activations,
    stimulus_ids,
)
from repalign.shards import encoding_for, fingerprint, write_group
from repalign.stimuli import Stimuli, natural_key, open_stimuli
from repalign.store import (
    finished_parts,
    local_folder,
    locked,
    open_group,
    open_store,
    read_manifest,
    seal,
)

BATCH_SIZE = 32
LARGE_BYTES = 1 << 30


def record(
    model: str | Path | ModelCard | Network,
    *,
    stimuli: xr.Dataset | Stimuli,
    layers: str | Sequence[str] | None = None,
    to: str | Path | None = None,
    batch_size: int = BATCH_SIZE,
    device: str | torch.device = "auto",
    visual_degrees: float | None = None,
    mirror: str | Path | None = None,
    offline: bool | None = None,
    progress: bool = True,
) -> dict[str, xr.Dataset]:
    """Show stimuli to a network and keep the activations of its layers in a Zarr store.

    What is already in the store is not computed again, and a run that was killed goes on with
    the first shard it has not finished.

    Args:
        model: name or path of a model card (``@random`` for the untrained twin), a card, or a
            `Network` of your own.
        stimuli: a recording with images, or `repalign.stimuli.Stimuli`.
        layers: module names or patterns; the card's layers by default; ``"all"``.
        to: folder of the stores; ``$REPALIGN_CACHE`` or the user's cache folder by default.
        batch_size: stimuli a forward pass, and a shard of the store.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        visual_degrees: width of the network's input in degrees of visual angle.
        mirror, offline: where weights are looked for.
        progress: show a progress bar on stderr.

    Returns:
        The activations by layer, in order of depth, lazily opened.

    Raises:
        ValueError: unknown layer, no images, or an activation that is not finite.

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
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    chosen = [layers] if isinstance(layers, str) else list(layers or model.layers)
    if not chosen:
        raise ValueError(f"{model.name} names no layers of its own; pass layers=, such as 'all'")
    names = find_layers(model.module, chosen)
    if isinstance(stimuli, xr.Dataset):
        dataset = str(stimuli.attrs.get("dataset", "stimuli"))
        shown = open_stimuli(stimuli)
        wanted = stimulus_ids(stimuli)
        images = shown if list(shown.ids) == wanted else shown.subset(wanted)
    else:
        dataset, images = "stimuli", stimuli
    where = pick_device(device)
    if visual_degrees is not None and images.visual_degrees is None:
        raise ValueError(
            f"visual_degrees = {visual_degrees} has no effect, since the stimuli of {dataset} have"
            " no degrees: set visual_degrees under [stimuli] of their card"
        )
    prints = {"network": model.fingerprint(), "stimuli": images.fingerprint()}
    run = _Run(model, images, dataset, prints, local_folder(to))
    if any(read_manifest(run.layer_path(name)) is None for name in names):
        with locked(run.root):
            todo = [name for name in names if read_manifest(run.layer_path(name)) is None]
            run.compute(todo, batch_size=batch_size, device=where, progress=progress)
    return {name: open_activations(run.layer_path(name)) for name in names}


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


@contextlib.contextmanager
def evaluating(module: nn.Module, device: torch.device) -> Iterator[None]:
    """A module in evaluation mode on the device, and afterwards as it was.

    Channels last is faster on CPUs, and gives the same numbers up to rounding.
    """
    training = {part: part.training for part in module.modules()}
    home = next((tensor.device for tensor in module.state_dict().values()), device)
    module.eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with torch.inference_mode():
            yield
    finally:
        module.to(home).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for part, was in training.items():
            part.training = was


class _Arrays(NamedTuple):
    """A layer that is being recorded: its values, and which shards of them are written."""

    response: zarr.Array[Any]
    done: zarr.Array[Any]

    @classmethod
    def open(cls, path: Path) -> _Arrays:
        arrays = [zarr.open_array(path / name, mode="r+") for name in cls._fields]
        return cls(*arrays)

    @property
    def rows_a_shard(self) -> int:
        assert self.response.shards is not None
        return int(self.response.shards[0])


@dataclass(frozen=True)
class _Run:
    """One network on one set of stimuli, and where its layers are kept."""

    network: Network
    stimuli: Stimuli
    dataset: str
    fingerprints: dict[str, str]
    folder: Path

    def layer_path(self, layer: str) -> Path:
        return self.root / layer

    @property
    def root(self) -> Path:
        parts = json.dumps([*self.fingerprints.values(), SCHEMA_VERSION])
        key = hashlib.sha256(parts.encode()).hexdigest()
        name = self.network.name.replace("@", "-").replace(":", "-")
        return self.folder / "activations" / f"{name}--{self.dataset}-{key[:12]}.zarr"

    def compute(
        self, layers: Sequence[str], *, batch_size: int, device: torch.device, progress: bool
    ) -> None:
        """Record the layers that are not finished, one shard of stimuli after the other."""
        try:
            zarr.open_group(self.root, mode="a", zarr_format=3)
            with evaluating(self.network.module, device):
                self._compute(layers, batch_size, device, progress=progress)
            for name in layers:
                self._finish(self.layer_path(name))
        except OSError as error:
            raise OSError(f"could not write {self.root}: {error.strerror or error}") from error

    def _compute(
        self, layers: Sequence[str], batch_size: int, device: torch.device, *, progress: bool
    ) -> None:
        module = self.network.module
        missing = [name for name in layers if not self.layer_path(name).exists()]
        if missing:
            self._create(missing, batch_size, device)
        arrays = {name: _Arrays.open(self.layer_path(name)) for name in layers}
        # layers recorded by different runs may have shards of different sizes
        by_rows: dict[int, list[str]] = {}
        for name, layer in arrays.items():
            by_rows.setdefault(layer.rows_a_shard, []).append(name)
        for rows, names in by_rows.items():
            todo = [
                shard
                for shard in range(-(-len(self.stimuli) // rows))
                if not all(arrays[name].done[shard] for name in names)
            ]
            label = f"{self.network.name}: recording {len(names)} layers"
            for shard in track(todo, label, show=progress):
                start = shard * rows
                stop = min(start + rows, len(self.stimuli))
                with capture(module, names) as seen:
                    module(self._batch(start, stop, device))
                for name in names:
                    arrays[name].response[start:stop] = self._rows(
                        seen[name], name, start, stop, arrays[name].response.shape[1]
                    )
                    arrays[name].done[shard] = 1

    def _announce(self, size: int) -> None:
        """Say what a large recording will take, and refuse one that cannot fit."""
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise ValueError(
                f"the layers asked for take up to {size / 1e6:,.0f} MB and {self.folder} has"
                f" {free / 1e6:,.0f} MB free; choose fewer layers or another folder (--to)"
            )
        if size > LARGE_BYTES:
            print(
                f"{self.network.name}: up to {size / 1e9:.1f} GB into {self.folder}"
                f" ({free / 1e9:.0f} GB free)",
                file=sys.stderr,
            )

    def _rows(
        self, output: Tensor, layer: str, start: int, stop: int, units: int
    ) -> np.ndarray[Any, Any]:
        """A layer's output as stimulus × unit, after checking that it is that."""
        if output.ndim == 0 or len(output) != stop - start or output[0].numel() != units:
            raise ValueError(
                f"{self.network.name}, layer {layer}: output of shape {tuple(output.shape)} for"
                f" {stop - start} stimuli; the first axis must be the stimuli, and the rest the"
                " same for each"
            )
        values: np.ndarray[Any, Any] = output.flatten(1).float().cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            raise ValueError(
                f"{self.network.name}, layer {layer}: NaN or infinite activations for stimulus"
                f" {self.stimuli.ids[start + int(bad[0])]!r}"
            )
        return values

    def _batch(self, start: int, stop: int, device: torch.device) -> Tensor:
        images = [
            preprocess(
                self.stimuli.image(i),
                self.network.preprocessing,
                shown_degrees=self.stimuli.visual_degrees,
                field_degrees=self.network.visual_degrees,
            )
            for i in range(start, stop)
        ]
        batch = torch.stack(images).to(device)
        return batch.contiguous(memory_format=torch.channels_last)

    def _create(self, layers: Sequence[str], batch_size: int, device: torch.device) -> None:
        """Publish a full-size empty template of each layer, by rename."""
        module = self.network.module
        batch = self._batch(0, 1, device)
        with capture(module, layers) as seen:
            try:
                module(batch)
            except (RuntimeError, ValueError, TypeError) as error:
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"{self.network.name} failed on an input of shape {tuple(batch.shape)}:"
                    f" {reason}"
                ) from error
        n_stimuli = len(self.stimuli)
        self._announce(sum(seen[name].numel() for name in layers if name in seen) * 4 * n_stimuli)
        rows = min(batch_size, n_stimuli)
        hashes = np.array([self.stimuli.image_hash(i) for i in range(n_stimuli)], dtype=object)
        for name in layers:
            if name not in seen:
                raise ValueError(f"layer {name!r} is not used in the forward pass")
            shape = tuple(seen[name].shape[1:])
            units = int(np.prod(shape, dtype=np.int64))
            path = self.layer_path(name)
            temporary = path.with_name(f"{name}.tmp-{uuid.uuid4().hex}")
            no_units = np.empty((n_stimuli, 0), dtype=np.float32)
            template = make_activations(no_units, self.stimuli.ids, self.network.name, name, shape)
            template = template.drop_vars("response")
            template = template.assign_coords({IMAGE_HASH: (PRESENTATION, hashes)})
            if self.network.aligned_to is not None:
                template.attrs[ALIGNED_TO] = self.network.aligned_to.model_dump(mode="json")
            try:
                write_group(template, temporary)
                group = zarr.open_group(temporary, mode="r+")
                group.create_array(
                    "response",
                    shape=(n_stimuli, units),
                    dtype="float32",
                    fill_value=float("nan"),
                    dimension_names=(PRESENTATION, NEUROID),
                    attributes={"coordinates": f"{STIMULUS} repetition {IMAGE_HASH}"},
                    **encoding_for((n_stimuli, units), 4, rows_a_shard=rows),
                )
                group.create_array(
                    "done",
                    shape=(-(-n_stimuli // rows),),
                    chunks=(1,),
                    dtype="uint8",
                    fill_value=0,
                    dimension_names=("shard",),
                )
                temporary.rename(path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def _finish(self, path: Path) -> None:
        provenance = {
            "model": self.network.name,
            "torch": torch.__version__,
            **self.fingerprints,
        }
        seal(path, {"": fingerprint(open_group(path, ""))}, provenance)

"""What is kept of an autoencoder: one file of weights and settings, and its features of a layer."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.autoencoders.data import Array, as_layer
from repalign.autoencoders.layout import Layout, called
from repalign.autoencoders.networks import SparseAutoencoder
from repalign.autoencoders.report import AutoencoderReport, Reconstruction
from repalign.autoencoders.results import AutoencoderSettings, TrainedAutoencoder
from repalign.autoencoders.tensor_files import read_tensors, write_tensors
from repalign.metrics.calls import pick_device
from repalign.populations import Population
from repalign.recording import ALIGNED_TO, NEUROID, PRESENTATION, make_activations
from repalign.store import open_store, write_store

FORMAT = "repalign-autoencoder-1"
POOLS = ("max", "mean")
BATCH = 1024


def save_autoencoder(path: str | Path, trained: TrainedAutoencoder) -> None:
    """Write an autoencoder as one safetensors file, whole or not at all.

    Settings, source, history and report stand as JSON in the file's own header, so that weights
    and settings cannot part.

    Args:
        path: of the file, which ends in ``.safetensors``.
        trained: the autoencoder.

    Raises:
        ValueError: another ending.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: an autoencoder's file must end in .safetensors")
    tensors: dict[str, Tensor] = dict(trained.network.state_dict())
    report: dict[str, Any] = {"epochs": trained.report.epochs}
    for part in ("train", "held_out"):
        found: Reconstruction | None = getattr(trained.report, part)
        if found is not None:
            tensors[f"density_{part}"] = torch.from_numpy(np.ascontiguousarray(found.density))
            numbers = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
            del numbers["density"]
            report[part] = numbers
    header = {
        "settings": dataclasses.asdict(trained.settings),
        "layout": dataclasses.asdict(trained.layout),
        "source": trained.source,
        "held_out": trained.held_out,
        "history": trained.history,
        "report": report,
    }
    write_tensors(path, tensors, header, form=FORMAT)


def load_autoencoder(path: str | Path) -> TrainedAutoencoder:
    """Read an autoencoder that `save_autoencoder` wrote; nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no autoencoder, or is damaged.

    Example:
        >>> import tempfile
        >>> from repalign.autoencoders.components import principal_components
        >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).numpy()
        >>> path = Path(tempfile.mkdtemp()) / "pca.safetensors"
        >>> save_autoencoder(path, principal_components(x, features=2, device="cpu"))
        >>> load_autoencoder(path).settings.name
        'pca-2'
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; train an autoencoder first (train_autoencoder)")
    header, tensors = read_tensors(path, form=FORMAT, writer="save_autoencoder")
    try:
        return _build(header, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged: {reason}; train the autoencoder again") from error


def _build(header: dict[str, Any], tensors: dict[str, Tensor]) -> TrainedAutoencoder:
    settings = AutoencoderSettings(**header["settings"])
    layout = header["layout"]
    layout = Layout(**{**layout, "shape": tuple(layout["shape"])})
    parts = {
        part: Reconstruction(
            **header["report"][part], density=tensors.pop(f"density_{part}").numpy()
        )
        for part in ("train", "held_out")
        if part in header["report"]
    }
    network = SparseAutoencoder(
        layout.n_inputs, settings.features, kind=settings.kind, k=settings.k
    )
    network.load_state_dict(tensors)
    return TrainedAutoencoder(
        network.eval().requires_grad_(False),
        settings,
        layout,
        header["source"],
        tuple(header["held_out"]),
        tuple(header["history"]),
        AutoencoderReport(parts["train"], parts.get("held_out"), header["report"]["epochs"]),
    )


def autoencoder_features(
    trained: TrainedAutoencoder,
    activations: Population,
    *,
    pool: str | None = None,
    to: str | Path | None = None,
    overwrite: bool = False,
    device: str | torch.device = "auto",
) -> xr.Dataset:
    """Return the features of a layer's activations, as one more layer of the network.

    Its name is the layer's with kind and number of features: ``layer4#topk-512``.

    Args:
        trained: the autoencoder.
        activations: of the layer that it was trained on, to any stimuli, or an array.
        pool: over positions, where each is a sample: ``max`` or ``mean``. Without it features
            keep their positions, and ``attrs["shape"]`` is (feature, height, width).
        to: path of a new store (``.zarr``) for them; without it nothing is written, and lazy
            activations give lazy features.
        overwrite: replace a store that stands there.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.

    Returns:
        Activations in the schema, with the stimuli and repetitions of the layer, for
        `repalign.compare` and all else that takes a layer.

    Raises:
        ValueError: another layer than was trained on, a pool that does not apply, or activations
            that are not finite.
        FileExistsError: there is a store at ``to``, and ``overwrite`` is false.

    Example:
        >>> from repalign.autoencoders.components import principal_components
        >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).numpy()
        >>> pca = principal_components(x, features=2, device="cpu")
        >>> autoencoder_features(pca, x, device="cpu")["response"].shape
        (20, 2)
    """
    layer = as_layer(activations)
    layout = trained.layout
    if pool is not None and (layout.samples != "positions" or pool not in POOLS):
        raise ValueError(
            f"pool {pool!r}; expected one of {', '.join(POOLS)}, and samples='positions' (this"
            f" autoencoder has samples={layout.samples!r})"
        )
    _check_same_layer(trained, layer)
    name = f"{layer.attrs.get('layer', '')}#{trained.settings.name}"
    name += f"-{pool}" if pool else ""
    positions = () if pool else layout.positions
    units = trained.settings.features * int(np.prod(positions, dtype=np.int64))
    where = pick_device(device)
    network = copy.deepcopy(trained.network).to(where)

    def encode(rows: Array) -> Array:
        if len(rows) == 0:
            return np.empty((0, units), dtype=np.float32)
        if not np.isfinite(rows).all():
            raise ValueError(f"{called(layer)} has NaN or infinite values; record it again")
        values = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
        with torch.no_grad():
            samples = torch.split(layout.take(values), BATCH)
            found = torch.cat([network.encode(part.to(where)).cpu() for part in samples])
        if layout.samples == "positions":
            maps = found.reshape(len(rows), layout.n_positions, -1)
            if pool is None:
                found = maps.mT.reshape(len(rows), -1)
            else:
                found = maps.amax(1) if pool == "max" else maps.mean(1)
        result: Array = found.numpy()
        return result

    response = layer["response"]
    if response.chunks is None:
        values: Any = encode(response.values)
    else:
        whole_rows = response.data.rechunk({1: -1})
        chunks = (whole_rows.chunks[0], (units,))
        values = whole_rows.map_blocks(encode, dtype=np.float32, chunks=chunks)
    shape = (trained.settings.features, *positions)
    found = make_activations(values, None, str(layer.attrs.get("model", "")), name, shape)
    found = found.assign_coords(
        {key: value.load() for key, value in layer.coords.items() if value.dims == (PRESENTATION,)}
    )
    found.attrs |= {key: layer.attrs[key] for key in (ALIGNED_TO,) if key in layer.attrs}
    found.attrs["autoencoder"] = dataclasses.asdict(trained.settings)
    if "fingerprint" in layer.attrs:
        of = f"{layer.attrs['fingerprint']} {weights_hash(trained.network)} {pool}"
        found.attrs["fingerprint"] = f"sha256:{hashlib.sha256(of.encode()).hexdigest()}"
    if to is None:
        return found
    provenance = {
        "source": trained.source,
        "settings": dataclasses.asdict(trained.settings),
        "weights": weights_hash(trained.network),
    }
    write_store(Path(to), {"": found}, provenance=provenance, overwrite=overwrite)
    return open_store(to)


def _check_same_layer(trained: TrainedAutoencoder, layer: xr.Dataset) -> None:
    shape = tuple(layer.attrs.get("shape", (layer.sizes[NEUROID],)))
    ours = (trained.source["model"], trained.source["layer"])
    theirs = (str(layer.attrs.get("model", "")), str(layer.attrs.get("layer", "")))
    if shape != trained.layout.shape or ours != theirs:
        raise ValueError(
            f"the autoencoder was trained on {trained.source['called']} of shape"
            f" {trained.layout.shape}, and these are {called(layer)} of shape {shape}; its features"
            " mean something for that layer only"
        )


def weights_hash(network: SparseAutoencoder) -> str:
    """sha256 of an autoencoder's weights."""
    digest = hashlib.sha256(f"{network.kind} {network.k}".encode())
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

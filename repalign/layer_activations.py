"""A network's layers in memory, while it is trained or just after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from repalign.evaluation import evaluating
from repalign.hooks import capture
from repalign.layer_list import wrong_shape
from repalign.metrics.calls import pick_device
from repalign.networks import Network, find_layers
from repalign.recording import ALIGNED_TO, make_activations
from repalign.recording_pass import decode_batch
from repalign.recording_plan import BATCH_SIZE
from repalign.stimuli import Stimuli, images_of


def layer_responses(
    network: Network | nn.Module,
    stimuli: xr.Dataset | Stimuli | Float[Tensor, "image channel height width"],
    layers: Sequence[str],
    *,
    stimulus_id: Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    device: str | torch.device = "auto",
) -> dict[str, xr.Dataset]:
    """Show stimuli to a network in evaluation mode and keep its layers in memory.

    Args:
        network: a `Network`, or any module where ``stimuli`` is a tensor.
        stimuli: a recording with images, `Stimuli`, or a tensor that goes in as it is.
        layers: module names or patterns.
        stimulus_id: ids of a tensor's images; without them the activations have no ids.
        batch_size: images a forward pass.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``; the module returns to its own afterwards.

    Returns:
        The activations of each layer, as `repalign.record` gives them; nothing is written.

    Raises:
        TypeError: a bare module and stimuli that have to be preprocessed first.
        ValueError: unknown layer, no images, ids that do not fit, a layer whose output is not
            stimulus × unit or changes its shape, or an activation that is not finite.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> found = layer_responses(net, torch.ones(2, 1, 2, 2), ["1"], stimulus_id=["a", "b"])
        >>> found["1"]["response"].shape
        (2, 3)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    module = network.module if isinstance(network, Network) else network
    name = network.name if isinstance(network, Network) else type(network).__name__
    if isinstance(stimuli, Tensor):
        if stimulus_id is not None and len(stimulus_id) != len(stimuli):
            raise ValueError(f"{len(stimulus_id)} stimulus ids for {len(stimuli)} images")
        if not len(stimuli):
            raise ValueError("there are no stimuli to show; give one or more")
        batches: Iterator[Tensor] = iter(torch.split(stimuli, batch_size))
        ids = stimulus_id
    elif not isinstance(network, Network):
        raise TypeError(
            "a bare module does not say how images become its input; give a repalign.Network, or"
            " the preprocessed images as a tensor"
        )
    elif stimulus_id is not None:
        raise ValueError("stimulus_id names the images of a tensor; these stimuli have ids")
    else:
        shown = images_of(stimuli)
        batches, ids = _preprocessed(network, shown, batch_size), shown.ids
    names = find_layers(module, layers)
    rows: dict[str, list[Tensor]] = {layer: [] for layer in names}
    shapes: dict[str, tuple[int, ...]] = {}
    where = pick_device(device)
    with evaluating(module, where), capture(module, names) as seen:
        for batch in batches:
            seen.clear()
            module(batch.to(where))
            for layer in names:
                if layer not in seen:
                    raise ValueError(f"layer {layer!r} is not used in the forward pass")
                wrong = wrong_shape(seen[layer], len(batch), shapes.get(layer))
                if wrong:
                    raise ValueError(f"{name}, layer {layer!r} {wrong}")
                shapes[layer] = tuple(seen[layer].shape[1:])
                rows[layer].append(seen[layer].reshape(len(batch), -1).float().cpu())
    aligned_to = network.aligned_to if isinstance(network, Network) else None
    attrs = {} if aligned_to is None else {ALIGNED_TO: aligned_to.model_dump(mode="json")}
    return {
        layer: make_activations(
            _finite(torch.cat(parts), ids, f"{name}, layer {layer}"),
            ids,
            name,
            layer,
            shapes[layer],
        ).assign_attrs(attrs)
        for layer, parts in rows.items()
    }


def _finite(values: Tensor, ids: Sequence[str] | None, where: str) -> np.ndarray[Any, Any]:
    """The values of a layer, after checking that all are finite."""
    bad = (~values.isfinite().all(dim=1)).nonzero()
    if len(bad):
        row = int(bad[0])
        name = f"{ids[row]!r}" if ids is not None else f"in row {row}"
        raise ValueError(f"{where}: NaN or infinite activations for stimulus {name}")
    found: np.ndarray[Any, Any] = values.numpy()
    return found


def _preprocessed(network: Network, stimuli: Stimuli, batch_size: int) -> Iterator[Tensor]:
    for start in range(0, len(stimuli), batch_size):
        yield decode_batch(network, stimuli, start, min(start + batch_size, len(stimuli)))

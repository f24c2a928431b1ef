"""Layers too large to keep, rotated exactly into as many units as there are stimuli.

A layer of far more units than stimuli enters most metrics by its inner products of patterns and
their means over units alone. These are summed here some units at a time, and the layer is kept as
n + 1 units that have the same ones (`repalign.metrics.rotation.rotate_gram`). The network runs
once or a few times; its outputs lie on a scratch disk meanwhile, not in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import xarray as xr

from repalign.card_schemas import ModelCard
from repalign.memory import parse_size
from repalign.metrics.calls import pick_device
from repalign.metrics.comparators import check_choice
from repalign.metrics.rotation import PRECISIONS
from repalign.networks import Network, chosen_layers, find_layers, load_network
from repalign.recording_run import RecordingRun
from repalign.rotation_run import RotatedRun
from repalign.stimuli import Stimuli, images_of
from repalign.store import local_folder


def rotated_layers(
    model: str | Path | ModelCard | Network,
    *,
    stimuli: xr.Dataset | Stimuli,
    layers: str | Sequence[str] | None = None,
    to: str | Path | None = None,
    memory: str | int = "4GB",
    scratch: str | Path | None = None,
    scratch_size: str | int | None = None,
    batch_size: int | None = None,
    precision: str = "float32",
    device: str | torch.device = "auto",
    progress: bool = True,
) -> dict[str, xr.Dataset]:
    """Show stimuli to a network and keep its layers, rotated to one unit more than stimuli.

    The RDMs of a rotated layer (Euclidean, cosine, correlation) are those of the layer, and so are
    CKA, Procrustes, CCA, neighbours, and what ridge or PLS predict from it; single units are gone,
    and `repalign.compare` refuses metrics that match them. A layer of no more than n + 1 units is
    kept as it is. Finished layers are not computed again, also after a run that was killed.

    Args:
        model: name or path of a model card, a card, or a `Network` of your own.
        stimuli: a recording with images, or `repalign.stimuli.Stimuli`.
        layers: module names or patterns; the card's layers by default; ``"all"``.
        to: folder of the stores; ``$REPALIGN_CACHE`` or the user's cache folder by default.
        memory: how much may be resident at a time; batches and pieces follow from it.
        scratch: folder on a disk for what does not fit in memory; ``to`` by default.
        scratch_size: how much may lie there; half of what is free by default. Where it does not
            hold all layers the network runs several times, each time no deeper than it must.
        batch_size: stimuli a forward pass; as many as fit by default, up to 32.
        precision: of the products of up to 4096 units, ``float32`` or ``float64``, which takes
            twice as long; they are added up in float64. Products in float32 leave noise of about
            1e-7 of the largest principal component in the smallest ones: take float64 for metrics
            that weigh all alike (CCA, ``AngularShape(alpha=0)``).
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        progress: say on stderr what the run takes, and how far it is.

    Returns:
        The layers in order of depth, lazily opened; ``attrs["reduction"]`` is ``"rotation"`` where
        one was rotated, ``attrs["units"]`` its number of units and ``attrs["shape"]`` their shape.

    Raises:
        ValueError: unknown layer, no images, too little memory or scratch, or an activation that is
            not finite.
        OSError: a disk is full or not writable; what was finished stays.

    Example:
        >>> net = rotated_layers("vgg16", stimuli=recording, layers="all")   # doctest: +SKIP
    """
    if not isinstance(model, Network):
        model = load_network(model, to=to)
    chosen = chosen_layers(layers, model.layers, model.name)
    names = find_layers(model.module, chosen)
    check_choice(precision, PRECISIONS, "precision")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    dataset = "stimuli"
    if isinstance(stimuli, xr.Dataset):
        dataset = str(stimuli.attrs.get("dataset", dataset))
    images = images_of(stimuli)
    folder = local_folder(to)
    prints = {"network": model.fingerprint(), "stimuli": images.fingerprint()}
    run = RotatedRun(
        RecordingRun(model, images, dataset, prints, folder, progress=progress),
        memory=parse_size(memory),
        scratch=folder if scratch is None else Path(scratch),
        scratch_size=None if scratch_size is None else parse_size(scratch_size),
        batch_size=batch_size,
        precision=precision,
        device=pick_device(device),
        progress=progress,
    )
    return run.layers(names, by_name=chosen)

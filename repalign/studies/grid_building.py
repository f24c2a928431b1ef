"""From a configuration to its grid: recordings are opened, layers found, nothing is computed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import torch
import xarray as xr

from repalign.activations import open_layers
from repalign.cards import load_model_card, split_twin
from repalign.inputs import select_by_text
from repalign.layer_list import problems, run_once
from repalign.layer_names import EACH_TIME, parse_layer
from repalign.networks import Network, find_layers, load_network
from repalign.opening import is_store, open_recording
from repalign.populations import shared_stimuli
from repalign.recording import is_rdm_only, refuse_continuous, stimulus_ids, targets
from repalign.recording_pass import decode_batch
from repalign.recording_run import RecordingRun
from repalign.stimuli import Stimuli, images_of
from repalign.store import METADATA, local_folder
from repalign.studies.configuration import StudyConfig
from repalign.studies.grid import Grid, Group, StudyLayer, StudyRecording, why_not
from repalign.studies.keys import digest_of
from repalign.studies.names import layers_by_model, named_models, named_recordings


def build_grid(config: StudyConfig) -> Grid:
    """Open the recordings, find the layers of the models, and say what cannot be compared.

    Recordings are ingested where they are missing; no network is recorded, and nothing compared.

    Raises:
        ValueError: the grid is empty; an unknown card, layer or pattern; a recording without images
            for a network, or without stimuli that a store of activations has too.
        FileNotFoundError: no store or card at a path.
    """
    entries, models = named_recordings(config), named_models(config)
    wanted = layers_by_model(config, models)
    opened: list[tuple[StudyRecording, xr.Dataset]] = []
    for entry in entries:
        ds = open_selected(entry.name, entry.select, config)
        opened.append((_described(ds, entry.select), ds))
    _refuse_twice([one for one, _ in opened])
    groups: list[Group] = []
    left_out: dict[str, None] = {}
    shown: dict[int, tuple[Stimuli, str]] = {}
    for model in models:
        network = None if is_store(model) else _network(model, config)
        for place, (recording, ds) in enumerate(opened):
            if network is None:
                layers = _stored_layers(model, recording, ds, wanted.get(model))
            else:
                if place not in shown:
                    images = _images(recording, ds, network)
                    shown[place] = images, images.fingerprint()
                chosen = _chosen(network, wanted.get(model), everywhere="*" in config.layers)
                layers, without = _network_layers(network, recording, *shown[place], chosen, config)
                left_out |= dict.fromkeys(without)
            groups.append(Group(recording, model, tuple(layers)))
    metrics = config.parsed_metrics()
    reasons = {
        why_not(metric, group.recording, layer)
        for group in groups
        for layer in group.layers
        for metric in metrics.values()
    }
    left_out |= dict.fromkeys(sorted(filter(None, reasons)))
    order = [one for one, _ in opened]
    groups.sort(key=lambda group: order.index(group.recording))
    _refuse_ambiguous(groups)
    grid = Grid(tuple(groups), metrics, config.inference, tuple(left_out))
    if next(grid.cells(), None) is None:
        raise ValueError(f"the grid of study {config.name} is empty: " + "; ".join(left_out))
    return grid


def _refuse_twice(recordings: Sequence[StudyRecording]) -> None:
    """Rows name their recording, so that no two may be called the same."""
    stores: dict[str, str] = {}
    for one in recordings:
        if str(one) in stores:
            raise ValueError(
                f"two recordings are called {str(one)!r}: {stores[str(one)]} and {one.store}; leave"
                " one out, or give it another name"
            )
        stores[str(one)] = one.store


def _refuse_ambiguous(groups: Sequence[Group]) -> None:
    """Rows name their model and layer, so that no two stores may stand for the same."""
    stores: dict[tuple[str, str, str], str] = {}
    for group in groups:
        for layer in group.layers:
            place = (str(group.recording), layer.model, layer.layer)
            if stores.setdefault(place, layer.store) != layer.store:
                raise ValueError(
                    f"two models of {group.recording} are called {layer.model!r}, layer"
                    f" {layer.layer!r}: {stores[place]} and {layer.store}; exclude one of them"
                )


def open_selected(name: str, conditions: Sequence[str], config: StudyConfig | None) -> xr.Dataset:
    """The part of a recording that a study is about."""
    recording = open_recording(name, **({} if config is None else config.where))
    for condition in conditions:
        recording = select_by_text(recording, condition)
    return recording


def _described(ds: xr.Dataset, conditions: tuple[str, ...]) -> StudyRecording:
    refuse_continuous(ds, "a study")
    if ds.attrs.get("kind") == "activations":
        raise ValueError(
            f"{ds.attrs.get('store')} holds activations of a network: name it under models"
        )
    return StudyRecording(
        name=str(ds.attrs.get("dataset", "recording")),
        conditions=conditions,
        store=str(ds.attrs["store"]),
        fingerprint=str(ds.attrs["fingerprint"]),
        targets=tuple(target for target, _ in targets(ds)),
        n_stimuli=len(stimulus_ids(ds)),
        rdm_only=is_rdm_only(ds),
    )


def _network(model: str, config: StudyConfig) -> Network:
    card = load_model_card(split_twin(model)[0])
    if card.source == "features":
        raise ValueError(
            f"{card.name} is a table of features, which has no store that workers could read:"
            " compare it with `repalign compare`, or exclude it"
        )
    try:
        return load_network(model, **config.where)
    except ValueError as error:
        raise ValueError(f"model {model}: {error}") from error


def _images(recording: StudyRecording, ds: xr.Dataset, network: Network) -> Stimuli:
    try:
        return images_of(ds)
    except ValueError as error:
        raise ValueError(f"{recording} cannot be shown to {network.name}: {error}") from error


def _chosen(network: Network, wanted: Sequence[str] | None, *, everywhere: bool) -> Sequence[str]:
    """The layers asked for; of a list for all models, one whose card has one layer keeps it."""
    own = network.layers
    if wanted is None or (
        everywhere and len(own) == 1 and "all" not in wanted and not set(own) & set(wanted)
    ):
        if not own:
            raise ValueError(f"the card of {network.name} names no layers: name them under layers")
        return own
    return wanted


def _network_layers(
    network: Network,
    recording: StudyRecording,
    images: Stimuli,
    shown: str,
    chosen: Sequence[str],
    config: StudyConfig,
) -> tuple[list[StudyLayer], list[str]]:
    """Layers of a network where `repalign.record` puts them, and what is left out."""
    by_time = any(parse_layer(layer).time == EACH_TIME for layer in chosen)
    example = decode_batch(network, images, 0, 1) if by_time else None
    try:
        names = find_layers(network.module, chosen, example=example)
    except ValueError as error:
        raise ValueError(f"layers of {network.name}: {error}") from error
    prints = {"network": network.fingerprint(), "stimuli": shown}
    run = RecordingRun(network, images, recording.name, prints, local_folder(config.run.to))
    ids = digest_of(list(images.ids))
    layers = [
        StudyLayer(network.name, name, str(run.layer_path(name)), "", None, len(images), ids)
        for name in names
    ]
    layers = [_with_units(layer.looked_up()) for layer in layers]
    missing = [layer.layer for layer in layers if not layer.fingerprint]
    if not missing:
        return layers, []
    with torch.no_grad():
        outputs = run_once(network, torch.zeros(2, 3, *network.preprocessing.size), missing)
    wrong = problems(outputs)
    for name, problem in wrong.items():
        if name in chosen:
            raise ValueError(f"{network.name}, {problem}")
    shapes = {name: prod(one.shape or ()) for name, one in outputs.items()}
    kept = [
        replace(layer, units=shapes.get(layer.layer, layer.units))
        for layer in layers
        if layer.layer not in wrong
    ]
    return kept, [f"{network.name}, {problem}" for problem in wrong.values()]


def _with_units(layer: StudyLayer) -> StudyLayer:
    """A layer that is recorded with its number of units, from the metadata of its store."""
    if not layer.fingerprint:
        return layer
    metadata = json.loads((Path(layer.store) / "response" / METADATA).read_text(encoding="utf-8"))
    return replace(layer, units=int(metadata["shape"][1]))


def _stored_layers(
    path: str, recording: StudyRecording, ds: xr.Dataset, wanted: Sequence[str] | None
) -> list[StudyLayer]:
    """Layers of a store of activations that share stimuli with a recording."""
    found = open_layers(path)
    if any(one.attrs.get("kind") != "activations" for one in found.values()):
        raise ValueError(f"models: {path} holds a recording; a study takes activations as models")
    if wanted is not None and "all" not in wanted:
        missing = [name for name in wanted if name not in found]
        if missing:
            raise ValueError(f"no layer {missing[0]!r} in {path}; there are {', '.join(found)}")
        found = {name: found[name] for name in wanted}
    layers = []
    for name, one in found.items():
        try:
            shared, _ = shared_stimuli(ds, one)
        except ValueError as error:
            raise ValueError(f"{recording} and {path}: {error}") from error
        count = shared if isinstance(shared, int) else len(shared)
        layers.append(
            StudyLayer(
                model=str(one.attrs.get("model", Path(path).stem)),
                layer=str(one.attrs.get("layer", name)),
                store=str(one.attrs["store"]),
                fingerprint=str(one.attrs["fingerprint"]),
                units=one.sizes["neuroid"],
                n_stimuli=count,
                stimuli=digest_of(shared),
            )
        )
    return layers

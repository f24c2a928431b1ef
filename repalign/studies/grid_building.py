"""From a configuration to its grid: recordings are opened, layers found, nothing is computed."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence

import xarray as xr

from repalign.inputs import select_by_text
from repalign.opening import open_recording
from repalign.recording import Target, is_rdm_only, stimulus_ids, targets
from repalign.studies.configuration import RecordingEntry, StudyConfig
from repalign.studies.grid import Grid, Group, StudyLayer, StudyRecording, why_not
from repalign.studies.names import layers_by_model, named_models, named_recordings
from repalign.studies.network_layers import NamedNetwork, ShownRecording, layers_of_network
from repalign.studies.stored_layers import (
    is_repeated,
    layers_in_store,
    open_populations,
    whole_brain,
)


def build_grid(config: StudyConfig, *, load: bool = False) -> Grid:
    """Open the recordings, find the layers of the models, and say what cannot be compared.

    Recordings are ingested where they are missing; no network is recorded, and nothing compared.

    Args:
        config: of the study.
        load: build also a network that is known from before, where layers of it have to be
            recorded, so that what is wrong with its weights is said now.

    Raises:
        ValueError: the grid is empty; an unknown card, layer or pattern; a recording without images
            for a network, or without stimuli that a store of activations has too; settings that do
            not fit a recording or a layer.
        FileNotFoundError: no store or card at a path.
    """
    entries, models = named_recordings(config), named_models(config)
    wanted = layers_by_model(config, models)
    opened: list[ShownRecording] = []
    for entry in entries:
        ds = open_selected(entry.name, entry.select, config)
        opened.append(ShownRecording(_described(ds, entry), ds, config))
    _refuse_twice([one.recording for one in opened])
    excluded = _excluded(entries, models)
    groups: list[Group] = []
    left_out: dict[str, None] = {}
    for model in models:
        with_it = [
            shown
            for entry, shown in zip(entries, opened, strict=True)
            if model not in excluded[entry]
        ]
        for group, without in _groups_of(model, with_it, wanted.get(model), config, load=load):
            groups.append(group)
            left_out |= dict.fromkeys(without)
    order = [one.recording for one in opened]
    groups.sort(key=lambda group: order.index(group.recording))
    _refuse_ambiguous(groups)
    grid = Grid(
        tuple(groups),
        config.parsed_metrics(),
        config.inference,
        settings=config.settings(),
        only=_only(config, order),
    )
    left_out |= dict.fromkeys(_reasons(grid))
    grid = Grid(
        grid.groups,
        grid.metrics,
        grid.inference,
        tuple(left_out),
        settings=grid.settings,
        only=grid.only,
    )
    if next(grid.cells(), None) is None:
        why = "; ".join(left_out) or "every model is excluded, or is the recording itself"
        raise ValueError(f"the grid of study {config.name} is empty: {why}")
    _refuse_settings(grid)
    return grid


def _groups_of(
    model: str,
    recordings: Sequence[ShownRecording],
    wanted: Sequence[str] | None,
    config: StudyConfig,
    *,
    load: bool,
) -> list[tuple[Group, list[str]]]:
    """The layers of a model for each recording, and what is left out."""
    found = open_populations(model, config)
    network = NamedNetwork(model, config)
    groups = []
    for shown in recordings:
        layers: Sequence[StudyLayer]
        without: list[str] = []
        if found is None:
            layers, without = layers_of_network(network, shown, wanted)
        else:
            layers = layers_in_store(
                model,
                found,
                shown.recording,
                shown.ds,
                wanted,
                everywhere=any(key == "*" for key in config.layers),
            )
        group = Group(shown.recording, model, tuple(layers))
        if load and found is None and group.missing:
            assert network.built is not None
        groups.append((group, without))
    return groups


def _reasons(grid: Grid) -> list[str]:
    """Why metrics that were asked for cannot be had, in sentences."""
    reasons = {
        why_not(metric, group.recording, layer)
        for group in grid.groups
        for layer in group.layers
        for text, metric in grid.metrics.items()
        if grid.wants(text, group.recording)
    }
    return sorted(filter(None, reasons))


def _refuse_settings(grid: Grid) -> None:
    """Refuse settings that every comparison would refuse, before hours are spent."""
    for group in grid.groups:
        by_episode = next((layer for layer in group.layers if layer.by_episode), None)
        for text in grid.metrics:
            settings = grid.inference_of(text)
            if not grid.wants(text, group.recording):
                continue
            if settings.ceiling == "split-half" and not group.recording.repeated:
                raise ValueError(
                    f"{text} of {group.recording}: ceiling = 'split-half' needs 2 or more"
                    " repetitions of the stimuli, and it has one; use auto or none"
                )
            if by_episode is not None and (settings.n_resamples or settings.null_draws):
                raise ValueError(
                    f"{text} of {by_episode.model}: the steps of an episode are not independent, so"
                    " there is neither an interval nor a null over them; leave n_resamples and"
                    " null_draws out"
                )


def _only(config: StudyConfig, recordings: Sequence[StudyRecording]) -> dict[str, set[str]]:
    """Names of the recordings that a metric is for, of the metrics that name some."""
    names = [one.name for one in recordings]
    found: dict[str, set[str]] = {}
    for entry in config.metrics:
        for pattern in entry.recordings:
            matches = fnmatch.filter(names, pattern)
            if not matches:
                raise ValueError(
                    f"metric {entry.word}: recordings = {pattern!r} matches none of the study;"
                    f" there are {_listed(pattern, names)}"
                )
            found.setdefault(entry.word, set()).update(matches)
    return found


def _excluded(
    entries: Sequence[RecordingEntry], models: Sequence[str]
) -> dict[RecordingEntry, set[str]]:
    """Models that a recording is not compared with."""
    found: dict[RecordingEntry, set[str]] = {}
    for entry in entries:
        found[entry] = set()
        for pattern in entry.exclude:
            matches = fnmatch.filter(models, pattern)
            if not matches:
                raise ValueError(
                    f"exclude of recording {entry.name}: {pattern!r} matches no model of the study;"
                    f" there are {_listed(pattern, models)}"
                )
            found[entry].update(matches)
    return found


def _listed(wanted: str, names: Sequence[str]) -> str:
    """Some names in one line, a near match last."""
    shown = [*dict.fromkeys(names)]
    near = difflib.get_close_matches(wanted, shown, n=1)
    said = ", ".join(shown[:12]) + (", …" if len(shown) > 12 else "")
    return said + (f"; did you mean {near[0]}?" if near else "")


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
        try:
            recording = select_by_text(recording, condition)
        except ValueError as error:
            raise ValueError(f"recording {name}, select {condition!r}: {error}") from error
    return recording


def _described(ds: xr.Dataset, entry: RecordingEntry) -> StudyRecording:
    if ds.attrs.get("kind") == "activations":
        raise ValueError(
            f"{ds.attrs.get('store')} holds activations of a network: name it under models"
        )
    ds = whole_brain(ds)
    name = str(ds.attrs.get("dataset", "recording"))
    return StudyRecording(
        name=name,
        conditions=entry.select,
        store=str(ds.attrs["store"]),
        fingerprint=str(ds.attrs["fingerprint"]),
        targets=_targets(name, [target for target, _ in targets(ds)], entry),
        n_stimuli=len(stimulus_ids(ds)),
        rdm_only=is_rdm_only(ds),
        repeated=is_repeated(ds),
    )


def _targets(name: str, every: Sequence[Target], entry: RecordingEntry) -> tuple[Target, ...]:
    """The groups of a recording that an entry names; all where it names none."""
    patterns: Mapping[str, Sequence[str]] = {
        "species": entry.species,
        "region": entry.region,
        "subject": entry.subject,
    }
    for field, wanted in patterns.items():
        there = [getattr(target, field) for target in every]
        for pattern in wanted:
            if not fnmatch.filter(there, pattern):
                raise ValueError(
                    f"recording {name}: {field} = {pattern!r} matches none; there are"
                    f" {_listed(pattern, there)}"
                )
    kept = tuple(
        target
        for target in every
        if all(
            not wanted or any(fnmatch.fnmatchcase(getattr(target, field), one) for one in wanted)
            for field, wanted in patterns.items()
        )
    )
    if not kept:
        said = ", ".join(f"{field} = {list(value)}" for field, value in patterns.items() if value)
        raise ValueError(
            f"recording {name}: no group has {said} together; there are"
            f" {_listed('', [' '.join(filter(None, target)) for target in every])}"
        )
    return kept

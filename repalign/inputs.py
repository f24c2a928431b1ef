"""From the words of a command line to recordings, layers and metrics."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from repalign.activations import open_layers, record
from repalign.cards import kind_of_file, list_cards, load_model_card, split_twin
from repalign.choices import parse_choice
from repalign.features import features_from_file
from repalign.loaders.arrays import read_array
from repalign.loaders.feature_folders import read_feature_folder
from repalign.metrics import RSA, Metric
from repalign.opening import is_store, open_recording
from repalign.populations import as_population
from repalign.recipes import RECIPES, Recipe
from repalign.recording import (
    PRESENTATION,
    STIMULUS,
    is_rdm_only,
    select,
    stimulus_ids,
    targets,
)


def split_words(text: str | None) -> list[str] | None:
    """``a, b`` → ``["a", "b"]``."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _is_array(name: str) -> bool:
    return name.lower().endswith((".npy", ".npz", ".csv"))


def is_model_card(name: str) -> bool:
    """Whether a word names a network (or its twin, or a features card)."""
    if _is_array(name) or is_store(name):
        return False
    base = split_twin(name)[0]
    if base.endswith(".toml"):
        return kind_of_file(Path(base)) == "model"
    return base in list_cards("model")


def open_population(name: str, where: Mapping[str, Any]) -> xr.Dataset:
    """A recording, or an array file of (repetition ×) stimulus × neuroid."""
    if not _is_array(name):
        return open_recording(name, **where)
    path = Path(name).expanduser()
    array, ids = read_array(path, None)
    return as_population(array, path.name, ids)


def open_part(
    dataset: str, conditions: Sequence[str] | None, where: Mapping[str, Any]
) -> xr.Dataset:
    """The part of a recording, or of an array file, that has the values of all conditions."""
    return _chosen(open_population(dataset, where), conditions)


def open_inputs(
    dataset: str,
    models: Sequence[str],
    *,
    conditions: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    device: str = "auto",
    visual_degrees: float | None = None,
    on: Path | None = None,
    to: str | None = None,
    mirror: Path | None = None,
    offline: bool = False,
) -> tuple[xr.Dataset, dict[str, dict[str, xr.Dataset]]]:
    """The chosen part of a recording, and the layers of each model that it is compared with."""
    where = {"to": to, "mirror": mirror, "offline": offline or None}
    recording = open_part(dataset, conditions, where)
    found = {}
    for model in models:
        wanted = layers_for(model, layers, alone=len(models) == 1)
        found[model] = open_model(model, recording, wanted, device, visual_degrees, where, on)
    return recording, found


def named_layers(models: Mapping[str, Mapping[str, xr.Dataset]]) -> dict[str, xr.Dataset]:
    """All layers of all models in one mapping, as ``MODEL LAYER``."""
    return {
        f"{model} {layer}".strip(): value
        for model, layers in models.items()
        for layer, value in layers.items()
    }


def layers_for(model: str, layers: Sequence[str] | None, *, alone: bool) -> Sequence[str] | None:
    """The layers asked for; among several models a baseline of one layer keeps its own."""
    if layers is None or alone or not is_model_card(model):
        return layers
    own = load_model_card(split_twin(model)[0]).layers
    if len(own) == 1 and "all" not in layers and not set(own) & set(layers):
        print(f"{model} has one layer, {own[0]}: --layers is for the others", file=sys.stderr)
        return None
    return layers


def open_model(
    name: str,
    first: xr.Dataset,
    layers: Sequence[str] | None,
    device: str,
    visual_degrees: float | None,
    where: Mapping[str, Any],
    on: Path | None = None,
) -> dict[str, xr.Dataset]:
    """The layers of whatever the word names: a card, a dataset, a store or an array file.

    An agent is shown the observations of the rollout ``on``.
    """
    found: dict[str, xr.Dataset]
    if is_model_card(name) and load_model_card(split_twin(name)[0]).agent is not None:
        from repalign.agents import TRACE_NAMES, stored_replay

        if on is None:
            raise ValueError(
                f"{name} is an agent: it is shown observations, not images. Name the rollout that"
                f" holds them with --on, or let it play first: repalign rollout {name}"
            )
        wanted = None if layers is None else [one for one in layers if one not in TRACE_NAMES]
        seen = stored_replay(name, on, layers=wanted or None, device=device, **where)[0]
        found = seen.populations
        if layers is not None and wanted != layers:  # traces too, or alone
            chosen = {*layers, *(seen.layers if wanted else ())}
            found = {key: ds for key, ds in found.items() if key in chosen}
        return found
    if is_model_card(name):
        return record(
            name,
            stimuli=first,
            layers=layers,
            device=device,
            visual_degrees=visual_degrees,
            **where,
        )
    if visual_degrees is not None:
        raise ValueError(f"--visual-degrees applies to networks, and {name} is none")
    if _is_array(name) and first.attrs.get("kind") == "array" and not name.endswith(".npz"):
        found = {"": open_population(name, where)}
    elif _is_array(name):
        found = features_from_file(Path(name).expanduser())
    elif is_store(name):
        found = open_layers(name)
    elif (Path(name) / "steps.zarr").is_dir():
        from repalign.agents import open_rollout

        found = open_rollout(name).populations
    elif name in list_cards("dataset") or name.endswith(".toml"):
        found = {"": open_recording(name, **where)}
    elif Path(name).expanduser().is_dir():
        found = read_feature_folder(name)
    else:
        load_model_card(split_twin(name)[0])  # raises, naming near matches
        raise ValueError(f"no model, dataset or file is called {name!r}")
    if layers is not None:
        missing = [layer for layer in layers if layer not in found]
        if missing:
            raise ValueError(f"no layer {missing[0]!r} in {name}; there are {', '.join(found)}")
        found = {layer: found[layer] for layer in layers}
    return found


def with_patterns(layers: Mapping[str, xr.Dataset], metric: Metric) -> dict[str, xr.Dataset]:
    """The layers whose stimuli have patterns, where the metric compares correlations of them.

    A layer of one unit has none, such as a value or another trace of an agent.
    """
    needs = isinstance(metric, RSA) and metric.rdm in ("correlation", "cosine")
    left = [name for name, layer in layers.items() if needs and layer.sizes.get("neuroid") == 1]
    if not left or len(left) == len(layers):
        return dict(layers)
    print(
        f"{metric.name}: left out, since one unit has no pattern: {', '.join(left)};"
        " --metric rsa:rdm=euclidean or ridge takes them too",
        file=sys.stderr,
    )
    return {name: layer for name, layer in layers.items() if name not in left}


def open_selected(name: str, conditions: Sequence[str] | None, **where: Any) -> xr.Dataset:
    """The part of a card's or store's recording that has the values of all conditions."""
    return _chosen(open_recording(name, **where), conditions)


def _chosen(recording: xr.Dataset, conditions: Sequence[str] | None) -> xr.Dataset:
    for condition in conditions or ():
        recording = select_by_text(recording, condition)
    return recording


def select_by_text(recording: xr.Dataset, condition: str) -> xr.Dataset:
    """``region=IT`` or ``subject=BE,KO``: the part of a recording that has these values."""
    name, equals, values = condition.partition("=")
    if not equals:
        raise ValueError(f"--select {condition!r}: expected NAME=VALUE, such as region=IT")
    return select(recording, **{name: values.split(",")})


def parse_recipe(text: str) -> Recipe:
    """``brainscore-majajhong2015-pls:version=3`` → ``MajajHong2015PLS(version=3)``."""
    recipe: Recipe = parse_choice(text, RECIPES, "recipe")
    return recipe


def recording_rows(recording: xr.Dataset) -> list[dict[str, Any]]:
    """One row a (species, region, subject)."""
    rows = []
    for target, part in targets(recording):
        rdm_only = is_rdm_only(recording)
        rows.append(
            {
                **target._asdict(),
                "stimuli": len(stimulus_ids(part)) if STIMULUS in part.coords else 0,
                "presentations": part.sizes.get(PRESENTATION),
                "volumes": part.sizes.get("time"),
                "neuroids": None if rdm_only else part.sizes["neuroid"],
                "store": str(recording.attrs["store"]),
            }
        )
    return rows

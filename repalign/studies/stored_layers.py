"""Layers of a study that lie in stores: activations of any origin, and the groups of a brain."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path

import xarray as xr

from repalign.activations import open_layers
from repalign.comparison import EPISODE
from repalign.opening import is_store, open_recording
from repalign.populations import shared_stimuli
from repalign.recording import (
    STIMULUS,
    Target,
    is_rdm_only,
    refuse_continuous,
    stimulus_ids,
    targets,
)
from repalign.studies.configuration import StudyConfig
from repalign.studies.grid import StudyLayer, StudyRecording
from repalign.studies.keys import digest_of
from repalign.studies.names import brain_of


def open_populations(model: str, config: StudyConfig) -> dict[str, xr.Dataset] | xr.Dataset | None:
    """The layers of a store, or a brain that stands as a model; None where it is a network's card.

    Raises:
        FileNotFoundError: there is no finished store at the path.
        ValueError: a brain without responses to stimuli, or with time bins.
    """
    brain = brain_of(model)
    if brain is not None:
        return whole_brain(open_recording(brain, **config.where))
    if not is_store(model):
        return None
    layers = open_layers(model)
    kinds = {one.attrs.get("kind") for one in layers.values()}
    if kinds == {"activations"}:
        return layers
    if "activations" in kinds or len(layers) > 1:
        raise ValueError(f"models: {model} holds both recordings and activations; name one of them")
    return whole_brain(next(iter(layers.values())))


def whole_brain(ds: xr.Dataset) -> xr.Dataset:
    """A recording that can be compared.

    Raises:
        ValueError: it is continuous, or has time bins.
    """
    refuse_continuous(ds, "a study")
    if not is_rdm_only(ds) and ds["response"].ndim > 2:
        name = ds.attrs.get("dataset", ds.attrs.get("store"))
        raise ValueError(
            f"{name} has time bins, and a study compares responses without: average or select them"
            " (repalign.average_time), save that (repalign.save_recording), and name its store"
        )
    return ds


def layers_in_store(
    model: str,
    found: Mapping[str, xr.Dataset] | xr.Dataset,
    recording: StudyRecording,
    ds: xr.Dataset,
    wanted: Sequence[str] | None,
    *,
    everywhere: bool,
) -> list[StudyLayer]:
    """The layers of a store, or the groups of a brain, that are compared with a recording.

    Args:
        model: its word, for errors.
        found: from `open_populations`.
        recording, ds: what they are compared with.
        wanted: layers asked for, by names or patterns; None: all.
        everywhere: whether they were asked for of all models.

    Raises:
        ValueError: an unknown layer, or no stimuli that both have.
    """
    if isinstance(found, xr.Dataset):
        parts = {" ".join(filter(None, target)): target for target, _ in targets(found)}
        names = _matching(model, list(parts), None if everywhere else wanted)
        shared = _shared(model, recording, ds, found)
        name = str(found.attrs.get("dataset", "recording"))
        return [_layer(found, name, one, shared, parts[one]) for one in names]
    own = {str(one.attrs.get("layer", name)): one for name, one in found.items()}
    kept = everywhere and len(own) == 1 and not set(own) & set(wanted or ())
    return [
        _layer(
            own[name],
            str(own[name].attrs.get("model", Path(model).stem)),
            name,
            _shared(model, recording, ds, own[name]),
            None,
        )
        for name in _matching(model, list(own), None if kept else wanted)
    ]


def _shared(
    model: str, recording: StudyRecording, ds: xr.Dataset, other: xr.Dataset
) -> list[str] | int:
    try:
        return shared_stimuli(ds, other)[0]
    except ValueError as error:
        raise ValueError(f"{recording} and {model}: {error}") from error


def _layer(
    ds: xr.Dataset, model: str, name: str, shared: list[str] | int, part: Target | None
) -> StudyLayer:
    return StudyLayer(
        model=model,
        layer=name,
        store=str(ds.attrs["store"]),
        fingerprint=str(ds.attrs["fingerprint"]),
        units=None if is_rdm_only(ds) else _units(ds, part),
        n_stimuli=shared if isinstance(shared, int) else len(shared),
        stimuli=digest_of(shared),
        part=part,
        rdm_only=is_rdm_only(ds),
        by_episode=EPISODE in ds.coords,
    )


def _units(ds: xr.Dataset, part: Target | None) -> int:
    return int(dict(targets(ds))[part].sizes["neuroid"] if part else ds.sizes["neuroid"])


def _matching(model: str, names: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """Those that are named, or match a pattern, in the order of the store."""
    if wanted is None or "all" in wanted:
        return list(names)
    kept: set[str] = set()
    for pattern in wanted:
        found = [pattern] if pattern in names else fnmatch.filter(names, pattern)
        if not found:
            near = difflib.get_close_matches(pattern, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"no layer {pattern!r} in {model}; there are {', '.join(names)}{hint}")
        kept |= set(found)
    return [name for name in names if name in kept]


def is_repeated(ds: xr.Dataset) -> bool:
    """Whether a stimulus of a recording was shown twice."""
    if is_rdm_only(ds) or STIMULUS not in ds.coords:
        return False
    return ds.sizes["presentation"] > len(stimulus_ids(ds))

"""The two sides of a comparison, brought to the same stimuli in the same order."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.metrics import RSA, Metric
from repalign.metrics.pairs import condensed
from repalign.metrics.rotation import ignores_rotation
from repalign.recording import (
    IMAGE_HASH,
    PRESENTATION,
    STIMULUS,
    Target,
    is_rdm_only,
    refuse_continuous,
    response_array,
    stimulus_ids,
    targets,
)
from repalign.response_checks import check_responses
from repalign.store import load_values

Population = xr.Dataset | np.ndarray[Any, Any] | Tensor


@dataclass(frozen=True)
class MatchedPopulation:
    """One population on the shared stimuli, in the form the metric needs."""

    target: Target
    dataset: str
    is_network: bool
    fingerprint: str
    prepared: Tensor
    repeats: Tensor | None
    n_neuroids: int | None
    ids: Sequence[str]


def as_population(
    population: Population, name: str = "array", stimulus_id: Sequence[str] | None = None
) -> xr.Dataset:
    """A plain array as a dataset, whose rows have no names unless they are given.

    Args:
        population: shape (stimulus, neuroid) or (repetition, stimulus, neuroid); a repetition
            that is NaN in every neuroid is missing. A Dataset is given back as it is.
        name: how results and errors call it.
        stimulus_id: ids of the rows.

    Raises:
        TypeError, ValueError: no numbers, another shape, or values that are not finite.
    """
    if isinstance(population, xr.Dataset):
        refuse_continuous(population, "compare")
        _refuse_empty(population, name)
        return population
    array = population.detach().cpu().numpy() if isinstance(population, Tensor) else population
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"{name} is a {type(array).__name__}; expected a Dataset or an array. Open a store with"
            " repalign.open_store, a table of features with"
            " repalign.features.features_from_file(pathlib.Path(...))"
        )
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiub":
        raise ValueError(
            f"{name} is an array of {array.dtype} with shape {array.shape}; expected numbers of"
            " shape (stimulus, neuroid) or (repetition, stimulus, neuroid)"
        )
    if not array.size:
        raise ValueError(f"{name} is empty: an array of shape {array.shape}")
    stacked = array if array.ndim == 3 else array[None]
    repeats, rows, units = stacked.shape
    finite = np.isfinite(stacked)
    missing = np.isnan(stacked).all(axis=2) if repeats > 1 else np.zeros((repeats, rows), bool)
    bad = np.flatnonzero((~finite.all(axis=2) & ~missing).any(axis=0) | missing.all(axis=0))
    if bad.size:
        raise ValueError(f"{name} has NaN or infinite values in {bad.size} rows (first {bad[0]})")
    ds = xr.Dataset(
        {"response": (("presentation", "neuroid"), stacked.reshape(repeats * rows, units))},
        attrs={"kind": "array", "dataset": name, "repeats": repeats},
    )
    if stimulus_id is None:
        return ds
    ids = np.array(list(stimulus_id) * repeats, dtype=object)
    return ds.assign_coords({STIMULUS: ("presentation", ids)})


def _refuse_empty(ds: xr.Dataset, name: str) -> None:
    empty = [str(dim) for dim, size in ds.sizes.items() if size == 0]
    if empty:
        name = str(ds.attrs.get("dataset") or ds.attrs.get("model") or name)
        raise ValueError(f"{name} is empty: it has no {empty[0]}. Was anything selected?")


def layers_of(second: Population | Mapping[str, xr.Dataset]) -> list[xr.Dataset]:
    """The layers of a dict, or the one population that was given; a Dataset is a mapping too."""
    if isinstance(second, Mapping) and not isinstance(second, xr.Dataset):
        layers: Mapping[str, xr.Dataset] = second
        return list(layers.values())
    return [as_population(second, "second")]


def parts_of(ds: xr.Dataset) -> Iterator[tuple[Target, xr.Dataset]]:
    """The (species, region, subject) parts of a recording; activations and arrays are one part."""
    if is_rdm_only(ds) or "region" in ds.coords:
        yield from targets(ds)
    else:
        yield Target("", "", ""), ds


def shared_stimuli(first: xr.Dataset, second: xr.Dataset) -> tuple[list[str] | int, str]:
    """The stimuli of both sides, or the number of rows where names are missing; and a note."""
    for ds, side in ((first, "first"), (second, "second")):
        _refuse_empty(ds, side)
    named = STIMULUS in first.coords, STIMULUS in second.coords
    if all(named):
        ours, theirs = stimulus_ids(first), stimulus_ids(second)
        shared = set(theirs)
        ids = [name for name in ours if name in shared]
        if not ids:
            raise ValueError(
                f"no shared stimuli: one side has {len(ours)} such as {ours[0]!r}, the other"
                f" {len(theirs)} such as {theirs[0]!r}; ids must be equal to match"
            )
        _check_images(first, second, ids)
        return ids, f"{len(ids)} stimuli matched by id, of {len(ours)} and {len(theirs)}"
    counts = [
        len(stimulus_ids(ds))
        if has
        else ds.sizes["presentation"] // int(ds.attrs.get("repeats", 1))
        for ds, has in zip((first, second), named, strict=True)
    ]
    if counts[0] != counts[1]:
        raise ValueError(
            f"{counts[0]} stimuli in {_called(first)}, {counts[1]} in {_called(second)}: without"
            " stimulus ids rows match by order, so their numbers must be equal"
        )
    note = f"{counts[0]} rows matched by order, since one side has no stimulus ids"
    if any(named):
        ids = stimulus_ids(first if named[0] else second)
        note += f" (row 1 is taken for {ids[0]!r}, row {len(ids)} for {ids[-1]!r})"
    return counts[0], note


def _called(ds: xr.Dataset) -> str:
    return str(ds.attrs.get("model") or ds.attrs.get("dataset") or "the other")


def _check_images(first: xr.Dataset, second: xr.Dataset, ids: Sequence[str]) -> None:
    """Equal ids must stand for equal images, where both sides have them."""
    if IMAGE_HASH not in first.coords or IMAGE_HASH not in second.coords:
        return
    ours, theirs = (
        dict(zip(ds[STIMULUS].values, ds[IMAGE_HASH].values, strict=True)) for ds in (first, second)
    )
    differ = [name for name in ids if ours[name] != theirs[name]]
    if differ:
        raise ValueError(
            f"{len(differ)} of {len(ids)} shared stimulus ids (first {differ[0]!r}) stand for"
            " different images; give each image an id of its own in a stimuli table"
        )


def group_labels(
    populations: Sequence[xr.Dataset], name: str, ids: Sequence[str] | int
) -> list[str]:
    """The group of each shared stimulus, from the first population that has the coordinate.

    Args:
        populations: recordings and layers.
        name: coordinate of their presentations.
        ids: the shared stimuli.

    Raises:
        ValueError: no population has it, or a stimulus stands in two groups.
    """
    for ds in populations:
        if name not in ds.coords or ds[name].dims != (PRESENTATION,):
            continue
        values = [str(value) for value in ds[name].values]
        if isinstance(ids, int):
            return values[:ids]
        found: dict[str, str] = {}
        for stimulus, value in zip(map(str, ds[STIMULUS].values), values, strict=True):
            if found.setdefault(stimulus, value) != value:
                raise ValueError(
                    f"stimulus {stimulus!r} has {name} {found[stimulus]!r} and {value!r}; groups"
                    " need a coordinate that each stimulus has one value of"
                )
        return [found[stimulus] for stimulus in ids]
    known = sorted({str(c) for ds in populations for c in ds.coords if PRESENTATION in ds[c].dims})
    raise ValueError(f"no coordinate {name!r} of presentations; there are {', '.join(known)}")


def match_population(
    target: Target,
    ds: xr.Dataset,
    ids: list[str] | int,
    metric: Metric,
    device: torch.device,
    *,
    predicts: bool = False,
) -> MatchedPopulation:
    """Bring one population to the shared stimuli, and prepare it for the metric.

    Args:
        target: its species, region and subject.
        ds: its recording or activations.
        ids: the shared stimuli in the order wanted, or the number of rows without names.
        metric: what it is prepared for.
        device: where its tensors go.
        predicts: whether it is the predictor of a metric that is not symmetric.
    """
    attrs = ds.attrs
    is_network = attrs.get("kind") == "activations"
    name = str(attrs.get("model", "")) if is_network else str(attrs.get("dataset", "recording"))
    if is_network:
        target = Target("", str(attrs.get("layer", "")), "")
    common: dict[str, Any] = {
        "target": target,
        "dataset": name,
        "is_network": is_network,
        "fingerprint": str(attrs.get("fingerprint", "")),
    }
    store = str(attrs.get("store", name))
    _check_rotation(attrs, metric, predicts=predicts)
    variable = "rdm" if is_rdm_only(ds) else "response"
    ds = ds.assign({variable: (ds[variable].dims, load_values(ds[variable], store))})
    if is_rdm_only(ds):
        if metric.needs_responses or not isinstance(metric, RSA):
            raise ValueError(
                f"{name} holds published RDMs only; {metric.name} needs responses of single"
                " neuroids: use metric rsa"
            )
        wanted = ids if isinstance(ids, list) else stimulus_ids(ds)
        rows = {str(name): row for row, name in enumerate(ds[STIMULUS].values)}
        order = [rows[name] for name in wanted]
        square = ds["rdm"].values.mean(axis=0)[np.ix_(order, order)]  # sessions are averaged
        rdm = condensed(_tensor(square, device))
        return MatchedPopulation(**common, prepared=rdm, repeats=None, n_neuroids=None, ids=wanted)
    if isinstance(ids, list):
        names: Sequence[str] = ids
        array = response_array(ds, ids)
    else:
        names = stimulus_ids(ds) if STIMULUS in ds.coords else [f"row {i}" for i in range(ids)]
        array = (
            response_array(ds, names)
            if STIMULUS in ds.coords
            else ds["response"].values.reshape(-1, ids, ds.sizes["neuroid"])
        )
    if array.ndim != 3:
        raise ValueError(
            f"{name} has {array.shape[3]} time bins; repalign.time_resolved compares in each of"
            " them, repalign.cross_temporal one with another (`repalign dynamics` does both), and"
            " repalign.average_time averages them before a comparison"
        )
    if len(names) < metric.minimum_stimuli:
        raise ValueError(
            f"{len(names)} shared stimuli; {metric.name} needs {metric.minimum_stimuli} or more"
        )
    average = _average(array)
    called = f"{name} {' '.join(filter(None, target))}".strip()
    check_responses(average, names, metric, called)
    responses = _tensor(average, device)
    repeats = None if len(array) == 1 or predicts else _tensor(array, device)
    every = _tensor(array, device) if metric.needs_repeats and len(array) > 1 else responses
    prepared = every
    if hasattr(metric, "prepare") and (predicts or not hasattr(metric, "scores")):
        prepared = metric.prepare(every)
    return MatchedPopulation(
        **common,
        prepared=prepared,
        repeats=repeats,
        n_neuroids=attrs["units"] if _is_rotated(attrs) else array.shape[2],
        ids=names,
    )


def _is_rotated(attrs: Mapping[Any, Any]) -> bool:
    """Whether a layer was rotated; ``units`` is then how many it had, in recordings a text."""
    return attrs.get("reduction") == "rotation"


def _check_rotation(attrs: Mapping[Any, Any], metric: Metric, *, predicts: bool) -> None:
    """Refuse a rotated layer where its single units count: matched, or predicted one by one."""
    if not _is_rotated(attrs):
        return
    predicted = hasattr(metric, "scores") and not predicts
    if predicted or not ignores_rotation(metric):
        raise ValueError(
            f"{attrs.get('model')}, layer {attrs.get('layer')}, was rotated and has no single units"
            f" any more, which {metric.name} {'predicts' if predicted else 'needs'}; record the"
            " layer as it is (repalign.record), or use a metric that ignores rotations,"
            " such as cka or rsa"
        )


def _tensor(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    if array.dtype not in (np.float32, np.float64) or device.type == "mps":
        array = array.astype(np.float32 if device.type == "mps" else np.float64)
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _average(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The mean over repetitions that were recorded, NaN where none was."""
    if len(array) == 1:
        one: np.ndarray[Any, Any] = array[0]
        return one
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        mean: np.ndarray[Any, Any] = np.nanmean(array, axis=0)
    return mean

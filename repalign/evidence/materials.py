"""What is compared: every subject of every region, and every model, on the same stimuli."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.evidence.pooling import Part, pooled_parts
from repalign.metrics import Metric
from repalign.missing_pairs import check_complete_models, leave_out_missing_pairs
from repalign.populations import (
    MatchedPopulation,
    Population,
    as_population,
    match_population,
    parts_of,
    shared_stimuli,
)
from repalign.recording import (
    NEUROID,
    PRESENTATION,
    STIMULUS,
    is_rdm_only,
    stimulus_ids,
)
from repalign.recording_ceilings import GROUP_SUBJECT

Subjects = Literal["random", "pooled"]
SUBJECTS: tuple[str, ...] = get_args(Subjects)
Recordings = Population | Sequence[Population] | Mapping[str, Population]
Models = Population | Mapping[str, Population | Mapping[str, Population]]


@dataclass(frozen=True)
class Region:
    """One region of one species: its subjects, each ready for the metric."""

    dataset: str
    species: str
    region: str
    brains: tuple[MatchedPopulation, ...]

    @property
    def subjects(self) -> list[str]:
        """Names of the subjects."""
        return [brain.target.subject or "subject" for brain in self.brains]

    @property
    def called(self) -> str:
        """How a message names it."""
        return " ".join(filter(None, (self.dataset, self.species, self.region)))


@dataclass(frozen=True)
class Candidate:
    """One model, or one layer of it, ready for the metric."""

    name: str
    model: str
    layer: str | None
    population: MatchedPopulation

    @property
    def prepared(self) -> Tensor:
        """The RDM, Gram matrix or predictors."""
        return self.population.prepared


@dataclass(frozen=True)
class Materials:
    """Regions and models on the same stimuli, and what a reader must know of how they came."""

    stimuli: tuple[str, ...]
    regions: tuple[Region, ...]
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]


def gather(
    recording: Recordings,
    models: Models,
    metric: Metric,
    *,
    subjects: Subjects,
    device: torch.device,
) -> Materials:
    """Bring subjects and models to the stimuli that all of them have, and prepare them."""
    if subjects not in SUBJECTS:
        raise ValueError(f"subjects is {subjects!r}; expected one of {', '.join(SUBJECTS)}.")
    parts = [part for ds in _recordings(recording) for part in _shown(ds)]
    parts, notes = _individuals(parts)
    named = _named_models(models)
    ids, said = _shared([ds for _, ds in parts], [ds for _, ds in named])
    notes += said
    if subjects == "pooled":
        parts, said = pooled_parts(parts, ids)
        notes += said
    regions: dict[tuple[str, str], list[MatchedPopulation]] = {}
    for target, ds in parts:
        brain = match_population(target, ds, ids, metric, device)
        regions.setdefault(target[:2], []).append(brain)
    for place, brains in regions.items():
        regions[place], said = leave_out_missing_pairs(brains, metric)
        notes += said
    candidates = _candidates(named, ids, metric, device)
    everyone = [brain for brains in regions.values() for brain in brains]
    check_complete_models(everyone, [one.population for one in candidates], metric)
    found = tuple(
        Region(brains[0].dataset, *key, brains=tuple(brains)) for key, brains in regions.items()
    )
    _check_subjects(found)
    return Materials(tuple(found[0].brains[0].ids), found, candidates, tuple(notes))


def _recordings(recording: Recordings) -> list[xr.Dataset]:
    if isinstance(recording, Mapping) and not isinstance(recording, xr.Dataset):
        found = [_one_subject(as_population(ds, name), name) for name, ds in recording.items()]
    elif isinstance(recording, Sequence):
        found = [
            ds if isinstance(ds, xr.Dataset) else _one_subject(as_population(ds), f"subject-{i}")
            for i, ds in enumerate(recording, 1)
        ]
    else:
        found = [as_population(recording, "recording")]
    if not found:
        raise ValueError("There is no recording; expected one or more.")
    return found


def _one_subject(ds: xr.Dataset, name: str) -> xr.Dataset:
    """The recording with its one subject named, by the key it was given under."""
    if not isinstance(ds, xr.Dataset):
        raise TypeError(f"{name} is a {type(ds).__name__}; expected a recording or an array.")
    if "region" not in ds.coords:
        n = ds.sizes[NEUROID]
        return ds.assign_attrs(dataset="recordings").assign_coords(
            {
                "subject": (NEUROID, np.array([name] * n, dtype=object)),
                "region": (NEUROID, np.array([""] * n, dtype=object)),
                "species": (NEUROID, np.array([""] * n, dtype=object)),
            }
        )
    within = sorted(set(ds["subject"].values.tolist()))
    if len(within) > 1:
        raise ValueError(
            f"The recording {name!r} holds the subjects {', '.join(within[:5])}; expected one in"
            " each of several recordings. Pass this one alone, or select(…, subject=…)."
        )
    return ds.assign_coords(
        {"subject": (ds["subject"].dims, np.array([name] * ds["subject"].size, dtype=object))}
    )


def _shown(ds: xr.Dataset) -> list[Part]:
    """The parts of a recording, each with the presentations that its subject was shown."""
    found = []
    for target, part in parts_of(ds):
        if not is_rdm_only(part) and STIMULUS in part.coords:
            values = part["response"].values
            never = np.isnan(values).reshape(len(values), -1).all(axis=1)
            part = part.isel({PRESENTATION: ~never}) if never.any() else part
        found.append((target, part))
    return found


def _individuals(parts: list[Part]) -> tuple[list[Part], list[str]]:
    """The subjects without a published group RDM, where there are single ones of that region."""
    twice = [target for target, _ in parts]
    repeated = [target for target in dict.fromkeys(twice) if twice.count(target) > 1]
    if repeated:
        raise ValueError(
            f"Two recordings hold subject {repeated[0].subject!r} of region"
            f" {repeated[0].region!r}. Pass a dict, whose keys name the subjects."
        )
    single = {target[:2] for target in twice if target.subject != GROUP_SUBJECT}
    kept = [one for one in parts if one[0].subject != GROUP_SUBJECT or one[0][:2] not in single]
    notes = ["the published group RDM is left out where there are single subjects"]
    return kept, notes if len(kept) < len(parts) else []


def _named_models(models: Models) -> list[tuple[tuple[str, ...], xr.Dataset]]:
    """Every layer with the keys it was given under."""
    if not isinstance(models, Mapping) or isinstance(models, xr.Dataset):
        return [((), as_population(models, "model"))]
    given: Mapping[str, Any] = models
    found: list[tuple[tuple[str, ...], xr.Dataset]] = []
    for key, value in given.items():
        if isinstance(value, Mapping) and not isinstance(value, xr.Dataset):
            found += [
                ((str(key), str(name)), as_population(layer, f"{key} {name}"))
                for name, layer in value.items()
            ]
        else:
            found.append(((str(key),), as_population(value, str(key))))
    if not found:
        raise ValueError("There is no model; expected one or more layers.")
    return found


def _shared(
    brains: list[xr.Dataset], models: list[xr.Dataset]
) -> tuple[list[str] | int, list[str]]:
    """The stimuli of all, in the first recording's order, or the number of rows without names."""
    everything = [*brains, *models]
    named = [ds for ds in everything if STIMULUS in ds.coords]
    if len(named) < len(everything):
        first = named[0] if named else everything[0]
        differ = [ds for ds in named if stimulus_ids(ds) != stimulus_ids(first)]
        if differ:
            raise ValueError(
                "Some recordings or models have no stimulus ids, and the others have theirs in"
                " different orders: rows cannot be matched. Give all of them ids."
            )
        nameless = [ds for ds in everything if STIMULUS not in ds.coords]
        matches = [shared_stimuli(first, ds) for ds in nameless if ds is not first]
        if not matches:
            return first.sizes[PRESENTATION] // int(first.attrs.get("repeats", 1)), []
        return matches[0][0], [matches[0][1]]
    first = everything[0]
    common = set(stimulus_ids(first))
    for ds in everything[1:]:
        if common.isdisjoint(stimulus_ids(ds)):
            other = stimulus_ids(ds)
            raise ValueError(
                f"No stimulus is shared by all: one has {len(other)} such as {other[0]!r}, which"
                f" none of those before it have, such as {stimulus_ids(first)[0]!r}. Ids must be"
                " equal to match."
            )
        shared_stimuli(first, ds)  # equal ids must stand for equal images
        common &= set(stimulus_ids(ds))
    ids = [name for name in stimulus_ids(first) if name in common]
    most = max(len(stimulus_ids(ds)) for ds in brains)
    notes = [f"{len(ids)} stimuli matched by id"]
    if len({len(stimulus_ids(ds)) for ds in brains}) > 1 or any(
        set(stimulus_ids(ds)) != set(stimulus_ids(brains[0])) for ds in brains
    ):
        least = min(len(stimulus_ids(ds)) for ds in brains)
        notes = [
            f"the subjects were shown different stimuli ({least} to {most} of them): restricted to"
            f" the {len(ids)} that all subjects and models have"
        ]
    elif len(ids) < most:
        notes = [f"{len(ids)} stimuli matched by id, of {most}"]
    return ids, notes


def _candidates(
    named: list[tuple[tuple[str, ...], xr.Dataset]],
    ids: list[str] | int,
    metric: Metric,
    device: torch.device,
) -> tuple[Candidate, ...]:
    found: list[tuple[str, str, str | None, MatchedPopulation]] = []
    for keys, ds in named:
        parts = list(parts_of(ds))
        for target, part in parts:
            population = match_population(target, part, ids, metric, device, predicts=True)
            if population.is_network:
                model = keys[0].strip() if len(keys) > 1 else population.dataset
                layer = population.target.region or None
            else:
                inner = " ".join(filter(None, target)) if len(parts) > 1 else None
                model = keys[0].strip() if keys else population.dataset
                layer = keys[1] if len(keys) > 1 else inner
            found.append((" ".join(keys), model, layer, population))
    names = [f"{model} {layer}" if layer else model for _, model, layer, _ in found]
    if len(set(names)) < len(names):  # the same layer twice, such as of two seeds
        names = [key or name for (key, *_), name in zip(found, names, strict=True)]
        names = [name.strip() for name in names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Two models are called {twice!r}. Pass a dict with a name for each.")
    return tuple(
        Candidate(name, model, layer, population)
        for name, (_, model, layer, population) in zip(names, found, strict=True)
    )


def _check_subjects(regions: Sequence[Region]) -> None:
    for region in regions:
        if len(set(region.subjects)) < len(region.subjects):
            raise ValueError(f"Two subjects of {region.called} have the same name; rename one.")

"""Resamples of all regions as one dataset with named dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from repalign.evidence.tabling import Named, RegionFound
from repalign.evidence.testing import pair_indices

Array = np.ndarray[Any, Any]


def to_dataset(
    found: Sequence[RegionFound], models: Sequence[Named], stimuli: Sequence[str]
) -> xr.Dataset:
    """Values, ceilings, evaluations of every resample and the draws, of all regions.

    Regions with fewer subjects than others are drawn 0 times from those they have not.
    """
    subjects = list(dict.fromkeys(name for one in found for name in one.region.subjects))
    names = [model.name for model in models]
    variables: dict[str, tuple[tuple[str, ...], Array]] = {
        "value": (("region", "model"), _stack(one.scored.values for one in found)),
        "lower": (("region",), _numbers(one.scored.lower for one in found)),
        "upper": (("region",), _numbers(one.scored.upper for one in found)),
        "variance": (("region", "model"), _stack(one.scored.variances.models for one in found)),
        "difference_variance": (
            ("region", "model", "other_model"),
            _stack(one.scored.variances.differences for one in found),
        ),
        "lower_variance": (("region",), _stack(one.scored.ceiling_variances[0] for one in found)),
        "upper_variance": (("region",), _stack(one.scored.ceiling_variances[1] for one in found)),
        "to_lower_variance": (
            ("region", "model"),
            _stack(one.scored.variances.to_lower for one in found),
        ),
        "degrees_of_freedom": (
            ("region",),
            np.array([one.scored.variances.degrees_of_freedom for one in found]),
        ),
    }
    variables |= _p_values(found, len(names))
    if all(one.scored.by_subject is not None for one in found):
        by_subject = np.full((len(found), len(subjects), len(names)), np.nan)
        for values, one in zip(by_subject, found, strict=True):
            columns = [subjects.index(name) for name in one.region.subjects]
            values[columns] = one.scored.by_subject
        variables["by_subject"] = (("region", "subject", "model"), by_subject)
    if all(one.scored.chance is not None for one in found):
        means = [one.scored.chance.mean(0) for one in found if one.scored.chance is not None]
        variables["chance"] = (("region", "model"), _stack(means))
    parts = list(found[0].scored.parts)
    lengths = {name: len(found[0].scored.draws[name]) for name in parts}
    for name in parts:
        resample = "resample" if len(set(lengths.values())) == 1 else f"resample_over_{name}"
        evaluations = [one.scored.parts[name] for one in found]
        dims = ("region", resample)
        variables[f"models_over_{name}"] = ((*dims, "model"), _stack(e.models for e in evaluations))
        variables[f"lower_over_{name}"] = (dims, _stack(e.lower for e in evaluations))
        variables[f"upper_over_{name}"] = (dims, _stack(e.upper for e in evaluations))
        draws = [one.scored.draws[name] for one in found]
        if draws[0].over != "subjects":
            counts = draws[0].stimuli.numpy().astype(np.uint16)
            variables["drawn_stimuli"] = ((resample, "stimulus_id"), counts)
        if draws[0].over != "stimuli":
            drawn = np.zeros((len(found), lengths[name], len(subjects)), dtype=np.uint16)
            for out, one, of_region in zip(drawn, found, draws, strict=True):
                columns = [subjects.index(subject) for subject in one.region.subjects]
                out[:, columns] = of_region.subjects.numpy()
            variables["drawn_subjects"] = ((*dims, "subject"), drawn)
    text = {
        "dataset": ("region", [one.region.dataset for one in found]),
        "species": ("region", [one.region.species for one in found]),
        "region_name": ("region", [one.region.region for one in found]),
        "region": [one.region.called or f"region {i}" for i, one in enumerate(found)],
        "model": names,
        "other_model": names,
        "hypothesis": list(HYPOTHESES),
        "layer": ("model", [model.layer or "" for model in models]),
        "subject": subjects,
        "stimulus_id": list(stimuli),
    }
    return xr.Dataset(variables, coords=text)


HYPOTHESES = ("chance", "labels", "ceiling")


def _p_values(
    found: Sequence[RegionFound], n_models: int
) -> dict[str, tuple[tuple[str, ...], Array]]:
    """Uncorrected p values with their Monte Carlo errors; NaN where a region has no such test."""
    pairs = pair_indices(n_models)
    variables: dict[str, tuple[tuple[str, ...], Array]] = {}
    for name in ("p", "p_error"):
        of_models = np.full((len(found), len(HYPOTHESES), n_models), np.nan)
        of_pairs = np.full((len(found), n_models, n_models), np.nan)
        for i, one in enumerate(found):
            for test in one.tests:
                values = getattr(test.significance, name).flatten()
                if test.hypothesis == "pairs":
                    for a, b in (pairs, pairs[::-1]):
                        of_pairs[i, a, b] = values
                else:
                    of_models[i, HYPOTHESES.index(test.hypothesis)] = values
        variables[name] = (("region", "hypothesis", "model"), of_models)
        variables[f"difference_{name}"] = (("region", "model", "other_model"), of_pairs)
    return variables


def _stack(values: Any) -> Array:
    return np.stack([value.cpu().numpy() for value in values])


def _numbers(values: Any) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype=float)

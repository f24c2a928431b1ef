"""Targets that stand in for a recording: what is left of an effect when the brain is taken away.

Each keeps the stimulus ids and where their images are found, and answers otherwise. The two
shuffles move whole presentations and stay lazy; the others replace the average responses and
have one repetition a stimulus.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from repalign.metrics import reliability
from repalign.populations import shared_stimuli
from repalign.recording import NEUROID, PRESENTATION, STIMULUS, make_recording, response_array
from repalign.regularize.target_responses import (
    Array,
    Labels,
    average_responses,
    check_target,
    float_type,
    missing_presentations,
    moved_presentations,
    occurrences,
    principal_axes,
    replaced_averages,
    stimulus_coordinates,
    stimulus_labels,
    stimulus_rows,
)
from repalign.simulation import simulate

Teacher = Array | torch.Tensor | Callable[[list[str]], Array | torch.Tensor]


def row_shuffled(target: xr.Dataset, *, seed: int) -> xr.Dataset:
    """Give each stimulus the responses to another; none keeps its own."""
    n = len(check_target(target))
    return moved_presentations(target, _derangement(n, np.random.default_rng(seed)))


def shuffled_within_classes(target: xr.Dataset, *, labels: Labels, seed: int) -> xr.Dataset:
    """Give each stimulus the responses to another of its class; lone ones keep theirs."""
    classes = stimulus_labels(target, labels)
    random = np.random.default_rng(seed)
    source = np.arange(len(classes))
    lone = 0
    for kind in dict.fromkeys(classes.tolist()):
        members = np.flatnonzero(classes == kind)
        if len(members) == 1:
            lone += 1
            continue
        source[members] = members[_derangement(len(members), random)]
    if lone == len(classes):
        raise ValueError(
            f"each of the {lone} classes has one stimulus, so nothing can be shuffled within them;"
            " use row-shuffle, or coarser labels"
        )
    return moved_presentations(target, source).assign_attrs(control_unshuffled_stimuli=lone)


def gaussian_noise(target: xr.Dataset, *, seed: int) -> xr.Dataset:
    """Draw independent normal responses with each neuroid's mean and spread over stimuli."""
    average = average_responses(target)
    noise = np.random.default_rng(seed).standard_normal(average.shape)
    return replaced_averages(target, average.mean(0) + average.std(0) * noise)


def spectrum_matched(target: xr.Dataset, *, seed: int) -> xr.Dataset:
    """Keep singular values and neuroid axes, and draw the stimulus axes at random.

    With the centred averages U S Vᵀ the target is Ū + Q S Vᵀ, where Q is a uniformly random
    orthonormal frame orthogonal to the constant vector.
    """
    average = average_responses(target)
    mean, left, lengths, right = principal_axes(average)
    draw = np.random.default_rng(seed).standard_normal((len(left), len(lengths)))
    frame, upper = np.linalg.qr(draw - draw.mean(0))
    frame *= np.sign(np.diagonal(upper))  # which makes the frame uniform (Haar)
    return replaced_averages(target, (mean + (frame * lengths) @ right).reshape(average.shape))


def principal_components(
    target: xr.Dataset, *, labels: Labels | None = None, k: int | None = None
) -> xr.Dataset:
    """Keep the first ``k`` principal components of the average responses."""
    average = average_responses(target)
    mean, left, lengths, right = principal_axes(average)
    rank = len(lengths)
    if k is None:
        k = min(10 if labels is None else len(set(stimulus_labels(target, labels))) - 1, rank)
    if not isinstance(k, int | np.integer) or isinstance(k, bool):
        raise TypeError(f"k is {k!r}; expected a whole number of components")
    if not 1 <= k <= rank:
        raise ValueError(f"k is {k}; expected 1 to {rank}, the rank of the average responses")
    kept = mean + (left[:, :k] * lengths[:k]) @ right[:k]
    share = float(np.square(lengths[:k]).sum() / np.square(lengths).sum())
    replaced = replaced_averages(target, kept.reshape(average.shape))
    return replaced.assign_attrs(control_k=int(k), control_variance_share=share)


def label_geometry(target: xr.Dataset, *, labels: Labels) -> xr.Dataset:
    """One neuroid a class, which answers 1 to its stimuli and 0 to all others."""
    classes = stimulus_labels(target, labels)
    kinds = list(dict.fromkeys(classes.tolist()))
    template = stimulus_coordinates(target)
    columns = np.array([[one == kind for kind in kinds] for one in classes.tolist()])
    made = make_recording(
        columns.astype(np.float32),
        stimulus_id=template[STIMULUS].values.tolist(),
        neuroid_id=[f"label-{kind}" for kind in kinds],
        species=_standing(target, "species"),
        subject=_standing(target, "subject"),
        region=_standing(target, "region"),
        attrs=target.attrs,
    )
    return made.assign_coords({name: template[name] for name in template.coords})


def teacher_population(target: xr.Dataset, *, teacher: Teacher, seed: int) -> xr.Dataset:
    """A simulated population that reads out a network's layer, as reliable as the target.

    It has the target's presentations and number of neuroids, and each neuroid the mean and the
    spread over stimuli of the one whose place it takes. Gaussian trial noise gives it the median
    reliability of the target's neuroids; where the target has too few repetitions to know it
    (fewer than 3 stimuli with 2), there is no noise.
    """
    ids = check_target(target)
    average = average_responses(target)
    if average.ndim != 2:
        raise ValueError("target has time bins; select one, or average them, before this control")
    given: Any = teacher(ids) if callable(teacher) else teacher
    features = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else given
    features = np.asarray(features, dtype=np.float64)
    if features.ndim < 2 or len(features) != len(ids):
        raise ValueError(
            f"teacher has shape {features.shape}; expected ({len(ids)}, unit): one row a stimulus"
            " of the target, in the order of their first presentation"
        )
    if not np.isfinite(features).all():
        raise ValueError("teacher has NaN or infinite features; leave out the units concerned")
    row_of = stimulus_rows(target, ids)
    repetition = occurrences(row_of)
    repeats = int(repetition.max()) + 1
    known = _median_reliability(target, ids)
    noise_sd = 0.0 if known is None else math.sqrt(repeats * (1 / known - 1))
    population = simulate(
        features.reshape(len(ids), -1),
        n_neuroids=average.shape[1],
        repetitions=repeats,
        noise="gaussian",
        noise_sd=noise_sd,
        nonlinearity="softplus",
        seed=seed,
    )
    scale = average.std(0) / population.rates.std(0)
    moved = (population.responses - population.rates.mean(0)) * scale + average.mean(0)
    values = moved[repetition, row_of].astype(float_type(target))
    values[missing_presentations(target)] = np.nan
    made = target.assign(response=(target["response"].dims, values))
    reached = float(np.median(population.reliability)) if known is not None else 1.0
    return made.assign_attrs(control_reliability=reached)


def region_of_another(target: xr.Dataset, *, other: xr.Dataset, seed: int) -> xr.Dataset:
    """The responses of another population to the same stimuli, no more neuroids than the target.

    Stimuli match by id, and those that both have are kept, in the target's order. Where the other
    population is larger, ``seed`` chooses as many neuroids as the target has.
    """
    check_target(target)
    check_target(other)
    ids, _ = shared_stimuli(target, other)
    if not isinstance(ids, list) or len(ids) < 2:
        raise ValueError(f"target and other share {ids} stimuli; expected 2 or more")
    n = min(target.sizes[NEUROID], other.sizes[NEUROID])
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(other.sizes[NEUROID], size=n, replace=False))
    position = {name: i for i, name in enumerate(ids)}
    places = [position.get(str(name), -1) for name in other[STIMULUS].values]
    rows = [row for row in np.argsort(places, kind="stable") if places[row] >= 0]
    made = other.isel({PRESENTATION: rows, NEUROID: chosen})
    if "store" in target.attrs:  # where the images are found
        made = made.assign_attrs(store=target.attrs["store"])
    return made.assign_attrs(control_shared_stimuli=len(ids))


def named_control(made: xr.Dataset, *, name: str, seed: int) -> xr.Dataset:
    """Write into a control target what it is; its fingerprint becomes one of its own."""
    attrs = {**made.attrs, "control": name, "control_seed": seed}
    if "fingerprint" in attrs:
        text = f"{attrs['fingerprint']} {sorted(attrs.items(), key=lambda item: item[0])}"
        attrs["fingerprint"] = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return made.assign_attrs(attrs)


def _derangement(n: int, random: np.random.Generator) -> Array:
    """A uniformly random order in which nothing keeps its place."""
    here = np.arange(n)
    order = random.permutation(n)
    while (order == here).any():  # succeeds with probability 1/e
        order = random.permutation(n)
    return order


def _standing(target: xr.Dataset, name: str) -> str:
    """What a coordinate of the target's neuroids says, its values joined."""
    return "+".join(dict.fromkeys(map(str, target[name].values)))


def _median_reliability(target: xr.Dataset, ids: Sequence[str]) -> float | None:
    """Median reliability of the averages within .01 and 1, or None where it cannot be known."""
    repeats = response_array(target, ids)
    if int(((~np.isnan(repeats).all(axis=2)).sum(0) >= 2).sum()) < 3:
        return None
    found = reliability(repeats, splits=20).nanmedian()
    return None if bool(found.isnan()) else float(found.clamp(0.01, 1))

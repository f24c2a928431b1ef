"""Compare two recordings, a recording and a network, two networks, or two arrays.

Stimuli are matched by id, never by row order; only plain arrays (and features without ids)
match by row, and the result says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
import xarray as xr

from repalign import __version__
from repalign.ceiling import Ceiling
from repalign.choices import as_metric, as_whole_number
from repalign.inference import Interval
from repalign.metrics import Metric
from repalign.metrics.calls import pick_device
from repalign.missing_pairs import check_complete_models, leave_out_missing_pairs
from repalign.populations import (
    MatchedPopulation,
    Population,
    as_population,
    group_labels,
    layers_of,
    match_population,
    parts_of,
    shared_stimuli,
)
from repalign.progress import track
from repalign.recording import ALIGNED_TO, STIMULUS, stimulus_ids
from repalign.recording_ceilings import CeilingChoice, ceiling_choice, ceilings_of
from repalign.results import Comparison, Comparisons
from repalign.reused_data import warn_of_reuse
from repalign.scoring import Resampling, null_of, scores_of
from repalign.split_half import MINIMUM_REPEATED, has_split_half

EPISODE = "episode"  # of the steps of a rollout


def compare(
    first: Population,
    second: Population | Mapping[str, xr.Dataset],
    metric: Metric | str | None = None,
    *,
    ceiling: CeilingChoice | bool = "auto",
    n_resamples: int | None = None,
    confidence: float = 0.95,
    null_draws: int | None = None,
    seed: int = 0,
    groups: str | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> Comparisons:
    """Compare a recording with a network, another recording, or an array with an array.

    Args:
        first: what is to be explained: a recording, activations, or an array of shape
            (stimulus, neuroid) or (repetition, stimulus, neuroid).
        second: what explains it: activations of one layer, a dict of layers as
            `repalign.record` gives it, another recording, or an array. Ridge predicts
            ``first`` from ``second``; RSA and CKA are symmetric.
        metric: ``RSA()`` by default; any object like those in `repalign.metrics`, or the name of
            one, such as ``cka``.
        ceiling: ``auto`` takes split-half where there are repetitions, else, for RSA, the
            bounds over subjects (``nili``) where there are two or more; True is ``auto`` and
            False is ``none``.
        n_resamples: bootstrap samples of stimuli for the interval; None chooses as many of 1000
            as stay quick and 0 leaves the interval out. CKA has a jackknife interval instead.
        confidence: of the interval.
        null_draws: shuffles of the stimuli whose mean value and standard deviation are reported
            beside the value, as what unrelated responses of this size score; None is 20 up to 300
            stimuli, where that matters, and none above; 0: no null.
        seed: of the resamples, the split halves and the shuffles.
        groups: coordinate of the presentations, of either side, that says which stimuli belong
            together (object, session, episode): a fold of ridge and the like holds all of a group
            or none. Steps of a rollout are grouped by episode where nothing else is said. There
            are then no intervals and no shuffles, which would take stimuli for independent.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        progress: show a progress bar over layers on stderr.

    Returns:
        One comparison a (species, region, subject) of ``first`` and layer of ``second``.

    Raises:
        ValueError: no shared stimuli, too few of them, a metric that needs responses where only
            RDMs were published, or patterns for which the metric is undefined.

    Note:
        Pairs that are missing (NaN) in the RDM of any subject of a region are left out, for all
        its subjects and the models, as `repalign.infer` does; comparators that need all pairs
        (whitened ones and Bures similarity) refuse them, and a model must have all that the
        subjects have.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(20, 5))
        >>> compare(x, x @ np.ones((5, 3)) + x[:, :3], RSA(), n_resamples=0)[0].n_stimuli
        20
    """
    return compare_prepared(
        prepare_first,
        first,
        second,
        as_metric(metric),
        ceiling=ceiling,
        n_resamples=n_resamples,
        confidence=confidence,
        null_draws=null_draws,
        seed=as_whole_number(seed, "seed"),
        groups=groups,
        device=device,
        progress=progress,
    )


def prepare_first(
    first: xr.Dataset, ids: list[str] | int, metric: Metric, device: torch.device
) -> list[MatchedPopulation]:
    """What is to be explained, brought to the shared stimuli and prepared for the metric."""
    return [match_population(t, ds, ids, metric, device) for t, ds in parts_of(first)]


def compare_prepared(
    prepare: Callable[
        [xr.Dataset, list[str] | int, Metric, torch.device], Sequence[MatchedPopulation]
    ],
    first: Population,
    second: Population | Mapping[str, xr.Dataset],
    metric: Metric,
    *,
    ceiling: CeilingChoice | bool,
    n_resamples: int | None,
    confidence: float,
    null_draws: int | None,
    seed: int,
    groups: str | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> Comparisons:
    """`compare`, with the first side prepared by a function, which may keep what it prepared."""
    choice = ceiling_choice(ceiling)
    if n_resamples is not None and (n_resamples < 0 or n_resamples == 1):
        raise ValueError(
            f"n_resamples is {n_resamples}, expected 0 or more, and an interval needs 2 or more"
        )
    if null_draws is not None:
        null_draws = as_whole_number(null_draws, "null_draws")
    first = as_population(first, "first")
    seconds = layers_of(second)
    if not seconds:
        raise ValueError("second has no layers to compare with")
    matches = [shared_stimuli(first, ds) for ds in seconds]
    ids, note = next((one for one in matches if isinstance(one[0], list)), matches[0])
    whole = isinstance(ids, list) and STIMULUS in first.coords and ids == stimulus_ids(first)
    where = pick_device(device)
    if groups is None and any(EPISODE in ds.coords for ds in seconds):
        groups = EPISODE
    labels = None if groups is None else group_labels([first, *seconds], groups, ids)
    if labels is not None:
        if n_resamples or null_draws:
            raise ValueError(
                f"stimuli of one {groups} are not independent, so there is neither an interval nor"
                " a null over stimuli; leave n_resamples and null_draws out"
            )
        n_resamples = null_draws = 0
    resampling = Resampling(n_resamples, confidence, seed, labels)
    brains, missing = leave_out_missing_pairs(prepare(first, ids, metric, where), metric)
    ceilings = ceilings_of(brains, metric, choice, seed)
    models: list[MatchedPopulation] = []
    for other, other_note in matches:
        by_order = whole and isinstance(other, int) and other == len(stimulus_ids(first))
        if other != ids and not by_order:
            raise ValueError(
                f"the layers were recorded on different stimuli: {note}; {other_note}. Compare them"
                " one at a time"
            )
        if by_order and other_note not in note:
            note += f"; {other_note}"
    label = f"{metric.name}: preparing {len(seconds)} layers"
    for ds, (matched, _) in track(list(zip(seconds, matches, strict=True)), label, show=progress):
        models += [
            match_population(t, part, matched, metric, where, predicts=True)
            for t, part in parts_of(ds)
        ]
    check_complete_models(brains, models, metric)
    note += "".join(f"; {said}" for said in missing)
    note += "".join(dict.fromkeys(_trained_on(first, ds, ids) for ds in seconds))
    note += "".join(dict.fromkeys(_chosen_on(brains, ds) for ds in seconds))
    results = []
    pairs = list(zip(brains, ceilings, strict=True))
    for brain, bounds in track(pairs, f"{metric.name}: comparing", show=progress):
        scores = scores_of(brain, models, metric, resampling)
        for model, (value, interval) in zip(models, scores, strict=True):
            null = null_of(metric, brain, model, draws=null_draws, seed=seed)
            results.append(_comparison(brain, model, metric, value, interval, bounds, null, seed))
    if labels is not None:
        note += (
            f"; folds keep each {groups} together; no intervals, since stimuli of one {groups} are"
            " not independent"
        )
    responses = any(b.n_neuroids is not None and not b.is_network for b in brains)
    if choice == "auto" and responses and not any(ceilings):
        needed = f"it needs {MINIMUM_REPEATED} or more stimuli with repetitions"
        repeated = any(brain.repeats is not None for brain in brains)
        unknown = f"none is known for {metric.name} as it is set"
        note += (
            f"; no noise ceiling: {unknown if repeated and not has_split_half(metric) else needed}"
        )
    return Comparisons(tuple(results), note)


def _trained_on(first: xr.Dataset, second: xr.Dataset, ids: Sequence[str] | int) -> str:
    """What to add to the note where a network was aligned to stimuli that it is compared on."""
    aligned = second.attrs.get(ALIGNED_TO)
    if aligned is None or isinstance(ids, int) or aligned["dataset"] != first.attrs.get("dataset"):
        return ""
    seen = len(set(aligned["stimulus_ids"]) & set(ids))
    if not seen:
        return ""
    return (
        f"; {second.attrs.get('model')} was aligned to {seen} of these {len(ids)} stimuli, so its"
        " scores are inflated: select stimuli that it was not aligned to (its card names them)"
    )


def _chosen_on(brains: Sequence[MatchedPopulation], second: xr.Dataset) -> str:
    """What to add to the note where a layer was chosen on data that it is compared on."""
    subjects = [brain.target.subject for brain in brains]
    said = warn_of_reuse(second, brains[0].dataset, subjects, brains[0].ids)
    return f"; {said}" if said else ""


def _comparison(
    brain: MatchedPopulation,
    model: MatchedPopulation,
    metric: Metric,
    value: float,
    interval: Interval | None,
    ceiling: Ceiling | None,
    null: tuple[float | None, float | None],
    seed: int,
) -> Comparison:
    parameters = dataclasses.asdict(metric) if dataclasses.is_dataclass(metric) else {}
    if interval is not None:
        drawn = "resamples" if "bootstrap" in interval.kind else "values, each without one stimulus"
        parameters["interval"] = f"{interval.kind}, {interval.n_resamples} {drawn}"
    if brain.n_neuroids is None:
        parameters["first"] = "published RDM, as it is"
    layer = model.target.region if model.is_network else " ".join(filter(None, model.target))
    return Comparison(
        dataset=brain.dataset,
        species=("network" if brain.is_network else brain.target.species) or None,
        region=brain.target.region or None,
        subject=brain.target.subject or None,
        model=model.dataset,
        layer=layer or None,
        metric=metric.name,
        metric_parameters=parameters,
        is_distance=not metric.higher_is_more_similar,
        value=value,
        null_mean=null[0],
        null_sd=null[1],
        ceiling_kind=None if ceiling is None else ceiling.kind,
        ceiling_low=None if ceiling is None else ceiling.low,
        ceiling_high=None if ceiling is None else ceiling.high,
        ceiling_error=None if ceiling is None else ceiling.error,
        ci_low=None if interval is None else interval.low,
        ci_high=None if interval is None else interval.high,
        p=None,
        n_stimuli=len(brain.ids),
        n_neuroids=brain.n_neuroids,
        seed=seed,
        version=__version__,
        fingerprints=(brain.fingerprint, model.fingerprint),
    )

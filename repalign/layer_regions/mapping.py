"""Which layer of a network is most similar to which region, chosen and scored on different data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
import xarray as xr
from torch import Tensor

from repalign import __version__
from repalign.choices import as_metric, as_whole_number
from repalign.layer_regions.mapping_results import CLAIMS, LayerMapping
from repalign.layer_regions.nested_choice import DISJOINT, Disjoint
from repalign.layer_regions.part_scores import unit_vectors
from repalign.layer_regions.region_choice import Settings, as_dataset, map_region, with_p
from repalign.metrics import Metric
from repalign.metrics.calls import pick_device
from repalign.metrics.folds import shuffled_folds
from repalign.metrics.predictivity import Predictivity
from repalign.populations import (
    MatchedPopulation,
    group_labels,
    match_population,
    parts_of,
    shared_stimuli,
)
from repalign.progress import track
from repalign.recording import Target, is_rdm_only
from repalign.recording_ceilings import GROUP_SUBJECT

PERMUTATIONS = 1000  # where a comparison is a product of vectors; others are asked for


def map_layers(
    recording: xr.Dataset,
    layers: Mapping[str, xr.Dataset],
    metric: Metric | str | None = None,
    *,
    regions: Sequence[str] | None = None,
    disjoint: Disjoint = "stimuli",
    folds: int = 5,
    groups: str | None = None,
    n_permutations: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> LayerMapping:
    """Find the layer of each region, with a score on data that the choice never saw.

    With ``disjoint="stimuli"`` the layer with the greatest mean score over subjects is chosen on
    the stimuli outside each fold and scored on those inside; the value is the mean over folds. With
    ``subjects`` it is chosen for each subject by the mean of all others, with all stimuli; with
    ``both`` by the others' stimuli outside the fold. The best of many layers on one set of data
    scores too well: of 20 unrelated layers the best is significant far more often than alpha.

    The p value permutes the labels of the stimuli and repeats the choice in each permutation.

    Args:
        recording: responses or published RDMs of one species, with regions.
        layers: activations of a network's layers, as `repalign.record` gives them.
        metric: ``RSA()`` by default; any in `repalign.metrics`, or its name. Predictivity metrics
            are fitted to the other folds; others compare within the fold, which then needs stimuli
            enough.
        regions: names, in the order wanted; all by default.
        disjoint: what the choice and the score must not share: ``stimuli``, ``subjects`` or
            ``both``.
        folds: number of folds of the stimuli; no use for ``subjects``.
        groups: coordinate of the presentations whose values a fold holds whole (object, session).
            There are then no intervals over stimuli and no permutations.
        n_permutations: of the labels of the stimuli; None is 1000 where comparisons are products
            of vectors (CKA, and RSA but for Kendall's taus), and none elsewhere. 0: no test.
        confidence: of the intervals: over held-out stimuli (jackknife; bootstrap of predictions),
            or over subjects where these are disjoint.
        seed: of folds and permutations.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        progress: show a progress bar over regions on stderr.

    Returns:
        A `LayerMapping`: for each region the layer that is best on all the data, the held-out
        score, how often each layer was chosen, and the score on the same data for contrast.

    Raises:
        ValueError: no shared stimuli, a region in several species or in none, one subject where
            subjects are disjoint, folds too small for the metric, or settings that do not apply.

    Note:
        ``subjects`` claims nothing about other stimuli: a layer that happens to fit what subjects
        share in their responses to these stimuli fits the held-out subject too. The p value is for
        that reason one of permuted stimuli in all three. The noise normalisation of crossnobis
        distances is estimated from all stimuli's repetitions, in which no network plays a part.

    Example:
        >>> import numpy as np
        >>> from repalign.recording import make_activations, make_recording
        >>> random = np.random.default_rng(0)
        >>> ids = [f"s{i}" for i in range(40)]
        >>> early, late = random.normal(size=(2, 40, 8))
        >>> brain = make_recording(
        ...     np.hstack([early, late]) + random.normal(size=(40, 16)),
        ...     stimulus_id=ids,
        ...     region=["V1"] * 8 + ["IT"] * 8,
        ... )
        >>> layers = {
        ...     name: make_activations(x, ids, "net", name, x.shape)
        ...     for name, x in {"conv1": early, "conv2": late}.items()
        ... }
        >>> mapping = map_layers(brain, layers, n_permutations=99)
        >>> [(one.region, one.layer, one.times_chosen, one.p) for one in mapping.regions]
        [('V1', 'conv1', {'conv1': 5}, 0.01), ('IT', 'conv2', {'conv2': 5}, 0.01)]

    Reference:
        Nested selection: Stone 1974, https://doi.org/10.1111/j.2517-6161.1974.tb00994.x;
        Kriegeskorte et al. 2009, https://doi.org/10.1038/nn.2303
    """
    metric = as_metric(metric)
    folds = as_whole_number(folds, "folds", least=2)
    if n_permutations is not None:
        n_permutations = as_whole_number(n_permutations, "n_permutations")
    _check_settings(disjoint, groups, n_permutations)
    seed = as_whole_number(seed, "seed")
    if not layers:
        raise ValueError("there are no layers to choose from")
    if isinstance(regions, str):
        raise TypeError(f"regions is {regions!r}; expected a list of names, such as [{regions!r}]")
    where = pick_device(device)
    matches = {name: shared_stimuli(recording, ds) for name, ds in layers.items()}
    ids, note = next(iter(matches.values()))
    for name, (others, other_note) in matches.items():
        if others != ids:
            raise ValueError(
                f"layer {name!r} was recorded on different stimuli: {note}; {other_note}"
            )
    if isinstance(ids, int):
        raise ValueError(
            "layers are chosen by stimuli with ids; this recording, or a layer, has none"
        )
    labels = None if groups is None else group_labels([recording, *layers.values()], groups, ids)
    fold = _folds(metric, len(ids), disjoint, folds, seed, labels)
    draws = _permutations(metric, n_permutations, grouped=labels is not None)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.arange(len(ids))]
    orders += [torch.randperm(len(ids), generator=generator) for _ in range(draws)]
    settings = Settings(metric, disjoint, fold, torch.stack(orders), labels, seed, confidence)
    models = [
        match_population(*_only_part(ds, name), ids, metric, where, predicts=True)
        for name, ds in layers.items()
    ]
    brains = _regions_of(recording, regions, ids, metric, where)
    names = tuple(layers)
    found, nulls, arrays = [], [], []
    for region, subjects in track(list(brains.items()), "mapping layers", show=progress):
        one, null, scores = map_region(region, subjects, models, names, settings)
        found.append(one)
        nulls.append(null)
        arrays.append(scores)
    if draws:
        found = with_p(found, torch.stack(nulls, 1), higher=metric.higher_is_more_similar)
    first = models[0]
    note = f"{note}; value: {CLAIMS[disjoint]}" + (
        f"; p: {draws} permutations of stimuli, the choice repeated, smallest {1 / (draws + 1):.2g}"
        if draws
        else "; not tested"
    )
    return LayerMapping(
        regions=tuple(found),
        layers=names,
        model=first.dataset,
        dataset=next(iter(brains.values()))[0].dataset,
        metric=metric.name,
        metric_parameters=dataclasses.asdict(metric) if dataclasses.is_dataclass(metric) else {},
        is_distance=not metric.higher_is_more_similar,
        disjoint=disjoint,
        folds=folds if fold is not None else 1,
        n_permutations=draws,
        seed=seed,
        stimuli=tuple(ids),
        fingerprints=(
            str(recording.attrs.get("fingerprint", "")),
            {name: model.fingerprint for name, model in zip(names, models, strict=True)},
        ),
        version=__version__,
        note=note,
        scores=as_dataset(found, names, arrays),
    )


def _only_part(ds: xr.Dataset, name: str) -> tuple[Target, xr.Dataset]:
    """The one population that a layer is."""
    parts = list(parts_of(ds))
    if len(parts) > 1:
        raise ValueError(
            f"layer {name!r} holds {len(parts)} populations, of several subjects or regions;"
            " expected one. Select one (repalign.select), and give each a name"
        )
    return parts[0]


def _check_settings(disjoint: str, groups: str | None, n_permutations: int | None) -> None:
    if disjoint not in DISJOINT:
        raise ValueError(f"disjoint is {disjoint!r}; expected one of {', '.join(DISJOINT)}")
    if groups is not None and n_permutations:
        raise ValueError(
            f"stimuli of one {groups} are not exchangeable one by one; leave n_permutations out"
        )


def _permutations(metric: Metric, asked: int | None, *, grouped: bool) -> int:
    if grouped:
        return 0
    if asked is not None:
        return asked
    return 0 if unit_vectors(metric) is None else PERMUTATIONS


def _folds(
    metric: Metric, n: int, disjoint: Disjoint, folds: int, seed: int, labels: list[str] | None
) -> Tensor | None:
    if disjoint == "subjects":
        return None
    fold = shuffled_folds(n, folds=folds, seed=seed, groups=labels)
    sizes = fold.bincount(minlength=folds)
    inside = 3 if isinstance(metric, Predictivity) else metric.minimum_stimuli
    if int(sizes.min()) < inside or n - int(sizes.max()) < metric.minimum_stimuli:
        raise ValueError(
            f"{n} stimuli in {folds} folds are {int(sizes.min())} a fold and"
            f" {n - int(sizes.max())} beside it; {metric.name} needs {inside} and"
            f" {metric.minimum_stimuli} or more. Use fewer folds or more stimuli, or"
            " disjoint='subjects'"
        )
    return fold


def _regions_of(
    recording: xr.Dataset,
    regions: Sequence[str] | None,
    ids: list[str],
    metric: Metric,
    device: torch.device,
) -> dict[str, list[MatchedPopulation]]:
    """The subjects of each region, prepared; a published group RDM only where it stands alone."""
    if not is_rdm_only(recording) and "region" not in recording.coords:
        raise ValueError("the recording has no regions; build it with make_recording(region=...)")
    parts = [(target, part) for target, part in parts_of(recording)]
    known = list(dict.fromkeys(target.region for target, _ in parts))
    wanted = known if regions is None else list(regions)
    missing = [name for name in wanted if name not in known]
    if not wanted:
        raise ValueError(f"regions is empty; there are {', '.join(known)}")
    if missing:
        raise ValueError(f"no region {missing[0]!r}; there are {', '.join(known)}")
    found: dict[str, list[MatchedPopulation]] = {}
    for name in wanted:
        here = [(target, part) for target, part in parts if target.region == name]
        species = sorted({target.species for target, _ in here})
        if len(species) > 1:
            raise ValueError(
                f"region {name!r} is in {len(species)} species ({', '.join(species)}); a mapping is"
                " of one: repalign.select(recording, species=...), or --select species=..."
            )
        alone = [pair for pair in here if pair[0].subject != GROUP_SUBJECT] or here
        found[name] = [match_population(t, part, ids, metric, device) for t, part in alone]
    return found

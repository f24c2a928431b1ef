"""Recipes: the exact procedures behind published numbers, by the names people know."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.ceiling import nili_ceiling
from repalign.metrics import CKA, PLS, RSA
from repalign.metrics.folds import median_of_defined
from repalign.metrics.gram import centre
from repalign.metrics.pls import pls_weights
from repalign.populations import parts_of, shared_stimuli
from repalign.recording import PRESENTATION, STIMULUS, Target, is_rdm_only, response_array

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class RecipeScore:
    """What a recipe gave.

    Args:
        recipe, version: which procedure.
        value: the number as it is published: divided by the ceiling where the recipe says so.
        raw: the number before that.
        error: its standard error as the recipe defines it, of ``raw``.
        ceiling: the noise ceiling, or its lower bound.
        ceiling_high: its upper bound, where the recipe has one.
        p: of the recipe's own test, where it has one.
        n_stimuli, n_neuroids, n_subjects: how much data entered.
        note: what a reader must know.
    """

    recipe: str
    version: int
    value: float
    raw: float
    error: float | None = None
    ceiling: float | None = None
    ceiling_high: float | None = None
    p: float | None = None
    n_stimuli: int = 0
    n_neuroids: int | None = None
    n_subjects: int | None = None
    note: str = ""

    def row(self) -> dict[str, Any]:
        """Return the fields as a row of a table; what is undefined is None."""
        row = dataclasses.asdict(self)
        undefined = [k for k, v in row.items() if isinstance(v, float) and not np.isfinite(v)]
        return row | dict.fromkeys(undefined)


class Recipe(Protocol):
    """A frozen set of choices with a call."""

    @property
    def name(self) -> str:
        """The name in ``RECIPES``."""

    @property
    def reference(self) -> str:
        """The paper, with its DOI."""

    def __call__(self, recording: xr.Dataset, activations: xr.Dataset, /) -> RecipeScore:
        """Score one layer of a network against one region of a recording."""


def _matched(recording: xr.Dataset, activations: xr.Dataset, name: str) -> list[str]:
    """The shared stimuli, sorted by id: the order in which the published code splits them."""
    if STIMULUS not in recording.coords or STIMULUS not in activations.coords:
        raise ValueError(
            f"{name} matches stimuli by id; give both sides a stimulus_id coordinate. Features in"
            " an array get theirs from a model card with source = 'features' and stimulus_ids"
        )
    ids, _ = shared_stimuli(recording, activations)
    return sorted(ids) if isinstance(ids, list) else []


def _one_region(recording: xr.Dataset, name: str) -> list[tuple[Target, xr.Dataset]]:
    parts = list(parts_of(recording))
    regions = sorted({target.region for target, _ in parts})
    if len(regions) > 1:
        raise ValueError(
            f"{name} scores one region, and the recording has {', '.join(regions)}; select one:"
            " repalign.select(recording, region=...)"
        )
    return parts


def _features(activations: xr.Dataset, ids: Sequence[str]) -> Tensor:
    return torch.from_numpy(response_array(activations, ids).mean(axis=0, dtype=np.float64))


def _column(recording: xr.Dataset, coordinate: str, name: str) -> Array:
    if coordinate not in recording.coords or recording[coordinate].dims != (PRESENTATION,):
        raise ValueError(
            f"{name} needs a coordinate {coordinate!r} on presentations; there are"
            f" {', '.join(map(str, recording.coords))}"
        )
    values: Array = recording[coordinate].values
    return values


def _correlations(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.nanmean(0), b - b.nanmean(0)
    return (a * b).nansum(0) / (a.square().nansum(0) * b.square().nansum(0)).sqrt()


def _averages(values: Array, stimulus: Array, kept: Array, n: int) -> Tensor:
    """Mean over the kept presentations of each stimulus that are not NaN, else NaN."""
    shown = np.isfinite(values[kept])
    total, count = np.zeros((n, values.shape[1])), np.zeros((n, values.shape[1]))
    np.add.at(total, stimulus[kept], np.where(shown, values[kept], 0))
    np.add.at(count, stimulus[kept], shown)
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(total / count)


def _check_recorded(y: Tensor, ids: Sequence[str], name: str) -> None:
    """Raise a ValueError that names what was never recorded."""
    missing = y.isnan()
    if bool(missing.any()):
        stimulus = ids[int(missing.any(1).nonzero()[0, 0])]
        raise ValueError(
            f"{name}: {int(missing.sum())} pairs of stimulus (first: {stimulus!r}) and neuroid have"
            " no response in any repetition; leave out these stimuli or neuroids"
        )


def _mean_responses(recording: xr.Dataset, ids: Sequence[str], name: str) -> Tensor:
    """Average over the repetitions that exist, stimulus × neuroid."""
    trials = torch.from_numpy(response_array(recording, ids).astype(np.float64))
    y = trials.nanmean(0)
    _check_recorded(y, ids, name)
    return y


@dataclass(frozen=True)
class MajajHong2015PLS:
    """Brain-Score's MajajHong2015-pls: how well PLS regression predicts held-out IT or V4 sites.

    PLS with 25 components (not scaled) of the layer's activations; 10 stratified shuffle splits by
    object, 90 % for training; Pearson's r per neuroid, median over neuroids, mean over splits. The
    ceiling: 10 random halves of the repetition numbers, r per neuroid with Spearman–Brown's
    correction 2r/(1 + r), median, mean. The error is the standard deviation over splits ÷ √10.

    Args:
        version: of the benchmark, which fixes how the ceiling divides: 3 is (r/c)², 4 (since 2026)
            is r²/c.
        stratify: the coordinate of presentations whose values the splits balance.
        components: of the regression.

    Raises:
        ValueError: unknown version, several regions, no repetitions, or a missing coordinate.

    Note:
        All subjects of the region are pooled, as published. The published order of stimuli is not
        known; here they are sorted by id, so that splits differ from the published ones.

    Reference:
        Schrimpf et al. 2018, https://doi.org/10.1101/407007; the recordings: Majaj et al. 2015,
        https://doi.org/10.1523/JNEUROSCI.5181-14.2015
    """

    version: int = 4
    stratify: str = "object_name"
    components: int = 25

    name: ClassVar[str] = "brainscore-majajhong2015-pls"
    reference: ClassVar[str] = "Schrimpf et al. 2018, https://doi.org/10.1101/407007"

    def __post_init__(self) -> None:
        """Check the version."""
        if self.version not in (3, 4):
            raise ValueError(f"version is {self.version}; there are 3, (r/c)², and 4, r²/c")

    def __call__(self, recording: xr.Dataset, activations: xr.Dataset) -> RecipeScore:
        """Score one layer of a network against one region of a recording."""
        _one_region(recording, self.name)
        ids = _matched(recording, activations, self.name)
        values = np.asarray(recording["response"].values, dtype=np.float64)
        place = {name: row for row, name in enumerate(ids)}
        stimulus = np.array([place.get(str(s), -1) for s in recording[STIMULUS].values])
        y = _averages(values, stimulus, stimulus >= 0, len(ids))
        _check_recorded(y, ids, self.name)
        objects = np.empty(len(ids), dtype=object)
        shown = stimulus >= 0
        objects[stimulus[shown]] = _column(recording, self.stratify, self.name)[shown].astype(str)
        x = PLS().prepare(_features(activations, ids))
        scores = [
            float(median_of_defined(_correlations(self._predict(x, y, train, test), y[test])))
            for train, test in self._splits(objects)
        ]
        ceiling = self._ceiling(recording, values, stimulus, len(ids))
        raw = statistics.fmean(scores)
        ceiled = (raw / ceiling) ** 2 if self.version == 3 else raw**2 / ceiling
        return RecipeScore(
            self.name,
            self.version,
            value=ceiled,
            raw=raw,
            error=statistics.pstdev(scores) / len(scores) ** 0.5,
            ceiling=ceiling,
            n_stimuli=len(ids),
            n_neuroids=y.shape[1],
            note="the sign of r is lost in the square" if raw < 0 else "",
        )

    def _splits(self, objects: Array) -> Iterator[tuple[Array, Array]]:
        from sklearn.model_selection import StratifiedShuffleSplit

        splitter = StratifiedShuffleSplit(n_splits=10, train_size=0.9, random_state=1)
        yield from splitter.split(np.zeros(len(objects)), objects)

    def _predict(self, x: Tensor, y: Tensor, train: Array, test: Array) -> Tensor:
        x_train, y_train = centre(x[train], 0), centre(y[train], 0)
        scatter, cross = x_train.mT @ x_train, x_train.mT @ y_train
        weights = pls_weights(scatter, cross, components=self.components)
        return (x[test] - x[train].mean(0)) @ weights + y[train].mean(0)

    def _ceiling(self, recording: xr.Dataset, values: Array, stimulus: Array, n: int) -> float:
        from sklearn.model_selection import ShuffleSplit

        repetition = _column(recording, "repetition", self.name)
        numbers = np.unique(repetition[stimulus >= 0])
        if len(numbers) < 2:
            raise ValueError(f"{self.name} needs 2 or more repetitions for its ceiling")
        medians = []
        splitter = ShuffleSplit(n_splits=10, train_size=0.5, random_state=1)
        for halves in splitter.split(np.zeros(len(numbers))):
            a, b = (
                _averages(values, stimulus, np.isin(repetition, numbers[h]) & (stimulus >= 0), n)
                for h in halves
            )
            both = ~(a.isnan() | b.isnan()).any(1)
            r = _correlations(a[both], b[both])
            medians.append(float(median_of_defined(2 * r / (1 + r))))
        return statistics.fmean(medians)


def _subject_rdms(
    recording: xr.Dataset, ids: Sequence[str], metric: RSA, name: str
) -> tuple[list[Tensor], int | None]:
    """One RDM a subject, and the number of neuroids."""
    if is_rdm_only(recording):
        raise ValueError(f"{name} makes its own RDMs and needs responses of single neuroids")
    parts = _one_region(recording, name)
    rdms = []
    for _, part in parts:
        rdms.append(metric.prepare(_mean_responses(part, ids, name)))
    return rdms, int(recording.sizes["neuroid"])


@dataclass(frozen=True)
class BrainScoreRSA:
    """Brain-Score's RSA: mean over subjects of Spearman's correlation of RDMs, over its ceiling.

    RDMs of 1 − Pearson over neuroids. The ceiling is the mean over subjects of the correlation of a
    subject's RDM with the mean of the others' RDMs, without a correction.

    Note:
        The ceiling averages raw RDMs, as published; it is a lower bound, and grows with the number
        of subjects.

    Reference:
        Kriegeskorte, Mur & Bandettini 2008, https://doi.org/10.3389/neuro.06.004.2008; Schrimpf et
        al. 2018, https://doi.org/10.1101/407007
    """

    name: ClassVar[str] = "brainscore-rsa"
    reference: ClassVar[str] = "Schrimpf et al. 2018, https://doi.org/10.1101/407007"

    def __call__(self, recording: xr.Dataset, activations: xr.Dataset) -> RecipeScore:
        """Score one layer of a network against one region of a recording."""
        metric = RSA(rdm="correlation", comparator="spearman")
        ids = _matched(recording, activations, self.name)
        rdms, n_neuroids = _subject_rdms(recording, ids, metric, self.name)
        model = metric.prepare(_features(activations, ids))
        values = [float(metric.compare_rdms(rdm, model)) for rdm in rdms]
        raw, ceiling = statistics.fmean(values), None
        if len(rdms) > 1:
            total = torch.stack(rdms).sum(0)
            others = [(total - rdm) / (len(rdms) - 1) for rdm in rdms]
            pairs = zip(rdms, others, strict=True)
            ceiling = statistics.fmean(float(metric.compare_rdms(a, b)) for a, b in pairs)
        return RecipeScore(
            self.name,
            1,
            value=raw if ceiling is None else raw / ceiling,
            raw=raw,
            error=statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None,
            ceiling=ceiling,
            n_stimuli=len(ids),
            n_neuroids=n_neuroids,
            n_subjects=len(rdms),
            note="" if ceiling else "one subject: no ceiling, so the value is the raw one",
        )


@dataclass(frozen=True)
class Nili2014:
    """Nili et al. 2014: Kendall's tau-a of RDMs per subject, its test and its noise ceiling.

    RDMs of 1 − Pearson over neuroids; the value is the mean over subjects of tau-a with the
    model's RDM; p is of a one-sided signed-rank test over subjects; the ceiling's bounds are the
    mean tau-a of a subject's RDM with the mean of the others' ranks (lower) and of all (upper).

    Raises:
        ValueError: fewer than 2 subjects, or several regions.

    Reference:
        Nili et al. 2014, https://doi.org/10.1371/journal.pcbi.1003553
    """

    name: ClassVar[str] = "nili2014"
    reference: ClassVar[str] = "Nili et al. 2014, https://doi.org/10.1371/journal.pcbi.1003553"

    def __call__(self, recording: xr.Dataset, activations: xr.Dataset) -> RecipeScore:
        """Score one layer of a network against one region of a recording."""
        from scipy.stats import wilcoxon

        metric = RSA(rdm="correlation", comparator="tau-a")
        ids = _matched(recording, activations, self.name)
        rdms, n_neuroids = _subject_rdms(recording, ids, metric, self.name)
        if len(rdms) < 2:
            raise ValueError(
                f"{self.name} tests over subjects and needs 2 or more; the recording has 1. Use"
                " brainscore-rsa."
            )
        model = metric.prepare(_features(activations, ids))
        values = [float(metric.compare_rdms(rdm, model)) for rdm in rdms]
        low, high = nili_ceiling(torch.stack(rdms), comparator=metric.comparator)
        mean = statistics.fmean(values)
        least = 0.5 ** len(values)
        return RecipeScore(
            self.name,
            1,
            value=mean,
            raw=mean,
            error=statistics.stdev(values) / len(values) ** 0.5,
            ceiling=float(low.mean()),
            ceiling_high=float(high.mean()),
            p=float(wilcoxon(values, alternative="greater").pvalue),
            n_stimuli=len(ids),
            n_neuroids=n_neuroids,
            n_subjects=len(rdms),
            note=f"smallest attainable p with {len(values)} subjects: {least:.2g}",
        )


@dataclass(frozen=True)
class Kornblith2019:
    """Kornblith et al. 2019: linear CKA with the biased estimator, between two populations.

    Note:
        The biased value nears 1 for unrelated responses where neuroids outnumber stimuli; the note
        gives the value with shuffled stimuli. Repetitions are averaged and subjects are pooled.

    Reference:
        Kornblith et al. 2019, https://doi.org/10.48550/arXiv.1905.00414
    """

    name: ClassVar[str] = "kornblith2019"
    reference: ClassVar[str] = "Kornblith et al. 2019, https://doi.org/10.48550/arXiv.1905.00414"

    def __call__(self, recording: xr.Dataset, activations: xr.Dataset) -> RecipeScore:
        """Score one layer of a network against one region of a recording, or against a layer."""
        metric = CKA(debiased=False)
        ids = _matched(recording, activations, self.name)
        y = _mean_responses(recording, ids, self.name)
        a, b = metric.prepare(_features(activations, ids)), metric.prepare(y)
        draw = torch.Generator().manual_seed(0)
        orders = [torch.randperm(len(ids), generator=draw) for _ in range(20)]
        nulls = [float(metric.compare_prepared(a[o][:, o], b)) for o in orders]
        value = float(metric.compare_prepared(a, b))
        return RecipeScore(
            self.name,
            1,
            value=value,
            raw=value,
            n_stimuli=len(ids),
            n_neuroids=y.shape[1],
            note=f"with shuffled stimuli: {statistics.fmean(nulls):.3f}",
        )


RECIPES: dict[str, type[Recipe]] = {
    "brainscore-majajhong2015-pls": MajajHong2015PLS,
    "brainscore-rsa": BrainScoreRSA,
    "kornblith2019": Kornblith2019,
    "nili2014": Nili2014,
}

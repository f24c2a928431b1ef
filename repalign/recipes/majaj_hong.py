"""The recipe that predicts neurons by partial least squares."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr
from torch import Tensor

from repalign.metrics import PLS
from repalign.metrics.folds import median_of_defined
from repalign.metrics.gram import centre
from repalign.metrics.pls import pls_weights
from repalign.recipes.matching import (
    Array,
    averages,
    check_recorded,
    column,
    correlations,
    features_of,
    matched,
    one_region,
)
from repalign.recipes.recipe_scores import RecipeScore
from repalign.recording import STIMULUS


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
        one_region(recording, self.name)
        ids = matched(recording, activations, self.name)
        values = np.asarray(recording["response"].values, dtype=np.float64)
        place = {name: row for row, name in enumerate(ids)}
        stimulus = np.array([place.get(str(s), -1) for s in recording[STIMULUS].values])
        y = averages(values, stimulus, stimulus >= 0, len(ids))
        check_recorded(y, ids, self.name)
        objects = np.empty(len(ids), dtype=object)
        shown = stimulus >= 0
        objects[stimulus[shown]] = column(recording, self.stratify, self.name)[shown].astype(str)
        x = PLS().prepare(features_of(activations, ids))
        scores = [
            float(median_of_defined(correlations(self._predict(x, y, train, test), y[test])))
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

        repetition = column(recording, "repetition", self.name)
        numbers = np.unique(repetition[stimulus >= 0])
        if len(numbers) < 2:
            raise ValueError(f"{self.name} needs 2 or more repetitions for its ceiling")
        medians = []
        splitter = ShuffleSplit(n_splits=10, train_size=0.5, random_state=1)
        for halves in splitter.split(np.zeros(len(numbers))):
            a, b = (
                averages(values, stimulus, np.isin(repetition, numbers[h]) & (stimulus >= 0), n)
                for h in halves
            )
            both = ~(a.isnan() | b.isnan()).any(1)
            r = correlations(a[both], b[both])
            medians.append(float(median_of_defined(2 * r / (1 + r))))
        return statistics.fmean(medians)

"""Recipes that compare RDMs or Gram matrices."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import xarray as xr
from torch import Tensor

from repalign.ceiling import nili_ceiling
from repalign.metrics import CKA, RSA
from repalign.recipes.matching import features_of, matched, mean_responses, one_region
from repalign.recipes.recipe_scores import RecipeScore
from repalign.recording import is_rdm_only


def _subject_rdms(
    recording: xr.Dataset, ids: Sequence[str], metric: RSA, name: str
) -> tuple[list[Tensor], int | None]:
    """One RDM a subject, and the number of neuroids."""
    if is_rdm_only(recording):
        raise ValueError(f"{name} makes its own RDMs and needs responses of single neuroids")
    parts = one_region(recording, name)
    rdms = []
    for _, part in parts:
        rdms.append(metric.prepare(mean_responses(part, ids, name)))
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
        ids = matched(recording, activations, self.name)
        rdms, n_neuroids = _subject_rdms(recording, ids, metric, self.name)
        model = metric.prepare(features_of(activations, ids))
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
        ids = matched(recording, activations, self.name)
        rdms, n_neuroids = _subject_rdms(recording, ids, metric, self.name)
        if len(rdms) < 2:
            raise ValueError(
                f"{self.name} tests over subjects and needs 2 or more; the recording has 1. Use"
                " brainscore-rsa."
            )
        model = metric.prepare(features_of(activations, ids))
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
        ids = matched(recording, activations, self.name)
        y = mean_responses(recording, ids, self.name)
        a, b = metric.prepare(features_of(activations, ids)), metric.prepare(y)
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

"""Differences between the conditions of an experiment of paired seeds: seeds are the units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from repalign.experiments.paired_tests import (
    ALPHA,
    Floats,
    holm,
    image_interval,
    sign_flip_p,
    smallest_sign_flip_p,
    t_interval,
)
from repalign.experiments.run_records import (
    Experiment,
    attacks_of,
    auc_of,
    curve_of,
    finite,
    moments,
    runs_of,
    titles_of,
)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One paired difference between two conditions, condition − against.

    Args:
        measure: "clean", "AUC", or "accuracy" at ``eps``.
        attack, norm, eps: of the curve; None where the measure has none.
        values: one difference a seed, in the order of ``seeds``.
        mean, sd: over seeds; sd is NaN for one seed.
        low, high: ends of the t interval over seeds; NaN for one seed.
        p: exact two-sided sign-flip p over seeds.
        p_smallest: the smallest that these many seeds could give, 2/2ⁿ.
        p_holm, p_holm_smallest: the same after Holm's correction over the ε > 0 of the curve;
            equal to p and p_smallest for a measure that is tested alone.
        images_low, images_high: interval over images for just these trained networks; NaN where
            the record does not say which images were answered correctly.
        n_images: images of that interval; 0 where there is none.
        reference: "labels" or "own clean prediction".
        upper_bound: whether the accuracies only bound robustness from above.
    """

    condition: str
    against: str
    measure: str
    attack: str | None
    norm: str | None
    eps: float | None
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    sd: float
    low: float
    high: float
    p: float
    p_smallest: float
    p_holm: float
    p_holm_smallest: float
    images_low: float
    images_high: float
    n_images: int
    reference: str
    upper_bound: bool

    @property
    def n_seeds(self) -> int:
        """Number of seeds in which both conditions have a value."""
        return len(self.values)

    @property
    def can_be_significant(self) -> bool:
        """Whether any outcome of these many seeds could reach 5 %: 6 or more, and more for Holm."""
        return self.p_holm_smallest <= ALPHA


def robustness_differences(
    experiment: Experiment, *, against: str, condition: str = "aligned", confidence: float = 0.95
) -> list[Difference]:
    """Return what a condition gains over another one: clean, then each curve's AUC and each ε.

    Runs are paired by seed; a seed in which either has no finite value is left out. Per difference
    there is a t interval and the exact sign-flip p over seeds, both for other seeds, and an
    interval over images, for just these trained networks. Holm corrects over the ε > 0 of a curve.

    Args:
        experiment: the record of the experiment.
        against: the name of the other condition.
        condition: the name of this one.
        confidence: coverage of the intervals.

    Returns:
        One ``Difference`` a measure, without those that no shared seed has.

    Raises:
        ValueError: two runs of one condition and seed, or a confidence outside (0, 1).

    Note:
        AUC is one test a curve and is not corrected. Equal clean accuracy is not assumed: it is the
        first row.

    Example:
        >>> runs = [
        ...     {"condition": name, "seed": seed, "clean": 0.9 + gain * seed / 100, "curves": []}
        ...     for name, gain in (("aligned", 1), ("baseline", 0)) for seed in (1, 2, 3)
        ... ]
        >>> first = robustness_differences({"runs": runs}, against="baseline")[0]
        >>> first.measure, round(first.mean, 3), first.p, first.can_be_significant
        ('clean', 0.02, 0.25, False)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a share between 0 and 1, as 0.95.")
    here, there = runs_of(experiment, condition), runs_of(experiment, against)
    pairs = {seed: (here[seed], there[seed]) for seed in here if seed in there}
    names: dict[str, Any] = {
        "condition": condition, "against": against, "confidence": confidence
    }  # fmt: skip
    clean = {s: finite(a.get("clean")) - finite(b.get("clean")) for s, (a, b) in pairs.items()}
    reference = str(experiment.get("reference", "labels"))
    found = [_difference(clean, "clean", reference=reference, **names)]
    for attack, norm in attacks_of(experiment):
        found += _curve_differences(pairs, attack, norm, **names)
    return [one for one in found if one.n_seeds]


def _curve_differences(
    pairs: Mapping[int, tuple[Mapping[str, Any], Mapping[str, Any]]],
    attack: str,
    norm: str,
    **names: Any,
) -> list[Difference]:
    """AUC, then accuracy at each ε that both curves have in some seed."""
    curves = {
        seed: (curve_of(a, attack, norm), curve_of(b, attack, norm))
        for seed, (a, b) in pairs.items()
    }
    shared = {eps: row for a, b in curves.values() for eps, row in a.items() if eps in b}
    if not shared:
        return []
    images = {seed: _image_differences(*pair, attack, norm) for seed, pair in pairs.items()}
    common: dict[str, Any] = {"attack": attack, "norm": norm, **names}
    first = next(iter(shared.values()))
    common["reference"] = str(first.get("reference", "labels"))
    areas = {s: auc_of(a, attack, norm) - auc_of(b, attack, norm) for s, (a, b) in pairs.items()}
    areas_of_images = {
        seed: _areas(matrix, list(curves[seed][0])) for seed, matrix in images.items()
    }
    bound = any(bool(row.get("upper_bound", eps > 0)) for eps, row in shared.items())
    found = [_difference(areas, "AUC", images=areas_of_images, upper_bound=bound, **common)]
    for eps in sorted(shared):
        values, rows_of_images = {}, {}
        for seed, (a, b) in curves.items():
            if eps not in a or eps not in b:
                continue
            values[seed] = finite(a[eps].get("accuracy")) - finite(b[eps].get("accuracy"))
            if len(images[seed]) == len(a):
                rows_of_images[seed] = images[seed][list(a).index(eps)]
        bound = bool(shared[eps].get("upper_bound", eps > 0))
        one = _difference(
            values, "accuracy", eps=eps, images=rows_of_images, upper_bound=bound, **common
        )
        found.append(one)
    return _corrected(found)


def _corrected(found: Sequence[Difference]) -> list[Difference]:
    """Holm over the ε > 0: the clean accuracy at ε = 0 and the AUC are tests of their own."""
    family = [one for one in found if one.eps and one.n_seeds]
    adjusted = holm([one.p for one in family])
    least = holm([one.p_smallest for one in family])
    new = {
        one.eps: replace(one, p_holm=p, p_holm_smallest=smallest)
        for one, p, smallest in zip(family, adjusted, least, strict=True)
    }
    return [new.get(one.eps, one) for one in found]


def _difference(
    by_seed: Mapping[int, float],
    measure: str,
    *,
    confidence: float,
    images: Mapping[int, Floats] | None = None,
    attack: str | None = None,
    norm: str | None = None,
    eps: float | None = None,
    upper_bound: bool = False,
    **names: Any,
) -> Difference:
    kept = {seed: value for seed, value in by_seed.items() if math.isfinite(value)}
    values = tuple(kept.values())
    low, high = t_interval(values, confidence=confidence)
    matrices = [images[seed] for seed in kept if images and len(images.get(seed, ()))]
    complete = bool(matrices) and len(matrices) == len(kept)
    ends = image_interval(matrices, confidence=confidence) if complete else (math.nan, math.nan)
    p, least = sign_flip_p(values), smallest_sign_flip_p(len(values))
    return Difference(
        measure=measure, attack=attack, norm=norm, eps=eps, seeds=tuple(kept), values=values,
        mean=float(np.mean(values)) if values else math.nan,
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
        low=low, high=high, p=p, p_smallest=least, p_holm=p, p_holm_smallest=least,
        images_low=ends[0], images_high=ends[1],
        n_images=len(matrices[0]) if math.isfinite(ends[0]) else 0,
        upper_bound=upper_bound, **names,
    )  # fmt: skip


def _image_differences(
    a: Mapping[str, Any], b: Mapping[str, Any], attack: str, norm: str
) -> Floats:
    """ε × image: correct − correct, empty where a run does not tell or their shapes differ."""
    matrices = [
        np.array((run.get("correct") or {}).get(f"{attack} {norm}", ()), dtype=float)
        for run in (a, b)
    ]
    if matrices[0].shape != matrices[1].shape or matrices[0].ndim != 2:
        return np.zeros((0, 0))
    difference: Floats = matrices[0] - matrices[1]
    return difference


def _areas(matrix: Floats, eps: Sequence[float]) -> Floats:
    """Per image, the area under its curve over ε, divided by the range of ε."""
    if len(matrix) != len(eps) or len(eps) < 2 or eps[0] == eps[-1]:
        return np.zeros(0)
    widths = np.diff(np.asarray(eps)) / (eps[-1] - eps[0])
    areas: Floats = widths @ ((matrix[1:] + matrix[:-1]) / 2)
    return areas


def effect_sizes(experiment: Experiment) -> list[dict[str, Any]]:
    """Return one row a condition and curve: its seeds, λ, and means and standard deviations.

    Args:
        experiment: the record of the experiment.

    Returns:
        Rows with condition, title, attack, norm, lambda, n_seeds, clean_mean, clean_sd, auc_mean,
        auc_sd and ``accuracy``, a list of {"eps", "mean", "sd"}. A standard deviation over fewer
        than 2 seeds is NaN. Conditions without runs have no row.

    Example:
        >>> run = {"condition": "baseline", "seed": 0, "clean": 0.9, "curves": [
        ...     {"attack": "pgd", "norm": "Linf", "eps": 0.1, "accuracy": 0.5, "auc": 0.7}]}
        >>> [row] = effect_sizes({"runs": [run]})
        >>> row["clean_mean"], row["accuracy"][0]["mean"], row["auc_sd"]
        (0.9, 0.5, nan)
    """
    rows = []
    for condition, title in titles_of(experiment).items():
        runs = list(runs_of(experiment, condition).values())
        if not runs:
            continue
        clean, clean_sd = moments(run.get("clean") for run in runs)
        common = {
            "condition": condition, "title": title, "lambda": finite(runs[0].get("lambda")),
            "n_seeds": len(runs), "clean_mean": clean, "clean_sd": clean_sd,
        }  # fmt: skip
        for attack, norm in attacks_of(experiment):
            area, area_sd = moments(auc_of(run, attack, norm) for run in runs)
            names = {"attack": attack, "norm": norm, "auc_mean": area, "auc_sd": area_sd}
            rows.append({**common, **names, "accuracy": _accuracies(runs, attack, norm)})
    return rows


def _accuracies(
    runs: Sequence[Mapping[str, Any]], attack: str, norm: str
) -> list[dict[str, float]]:
    curves = [curve_of(run, attack, norm) for run in runs]
    found = []
    for eps in sorted({eps for curve in curves for eps in curve}):
        mean, sd = moments(curve[eps].get("accuracy") for curve in curves if eps in curve)
        found.append({"eps": eps, "mean": mean, "sd": sd})
    return found

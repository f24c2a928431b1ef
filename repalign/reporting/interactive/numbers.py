"""What the scripts of the page are given: models, targets, metrics, profiles and rows, as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from repalign.reporting.panels import choose_axis, choose_looks
from repalign.reporting.profiles import Profile, Row, Target, computed, metric_labels, number
from repalign.reporting.summary import Naming
from repalign.results import similarity

DIGITS = 5  # of a number on the page; results.csv has them all
MOST_ROWS = 20_000  # of the table of all comparisons
NULL_IS_ZERO = 0.1  # of the ceiling: largest null mean of a metric whose zero means unrelated
COLOURS = 8  # in study.css


def page_numbers(rows: Sequence[Row], every: Sequence[Profile], naming: Naming) -> dict[str, Any]:
    """All that the tables and charts of the page show.

    Args:
        rows: comparisons; those that failed are left out.
        every: their profiles, from `repalign.reporting.profiles.gather_profiles`.
        naming: of metrics and targets.
    """
    rows = computed(rows)
    targets = ordered(profile.target for profile in every)
    metrics = ordered(profile.metric for profile in every)
    models = ordered(profile.model for profile in every)
    whose = {p.target: p for p in sorted(every, key=lambda p: len(p.subjects))}
    axis = choose_axis(every, choose_looks(every))
    return {
        "targets": [_target(one, whose[one], naming) for one in targets],
        "metrics": [{"name": naming.metrics[one], "label": one} for one in metrics],
        "models": _models(list(models)),
        "axis": {"names": axis.names, "label": axis.label},
        "profiles": [
            {
                "target": targets[one.target],
                "metric": metrics[one.metric],
                "model": models[one.model],
                **_profile(one, axis.positions(one.layers) if len(one.layers) > 1 else [0.0]),
            }
            for one in every
        ],
        "rows": _rows(rows, targets, metrics, models),
        "interval": naming.interval,
    }


def ordered(names: Iterable[Any]) -> dict[Any, int]:
    """Each name once, with its place in the order of first appearance."""
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def _target(target: Target, profile: Profile, naming: Naming) -> dict[str, Any]:
    name = ", ".join(filter(None, (naming.target(profile), profile.whose)))
    return {
        "name": name,
        "dataset": target.dataset,
        "region": target.region or "no region",
        "species": target.species,
    }


def model_labels(models: Sequence[str]) -> list[str]:
    """Names of models, with a word for untrained twins, and their seed where a model has several.

    Example:
        >>> model_labels(["net", "net@random:0", "other@random:1", "other@random:2"])
        ['net', 'net (untrained)', 'other (untrained, seed 1)', 'other (untrained, seed 2)']
    """
    parts = [model.partition("@random") for model in models]
    twins = Counter(base for base, at, _ in parts if at)
    labels = [
        model
        if not at
        else f"{base} (untrained{f', seed {seed[1:] or 0}' if twins[base] > 1 else ''})"
        for model, (base, at, seed) in zip(models, parts, strict=True)
    ]
    return labels if len(set(labels)) == len(labels) else list(models)


def _models(models: Sequence[str]) -> list[dict[str, Any]]:
    """A model and its twins share a colour, and differ in their line."""
    families: dict[str, list[str]] = {}
    for model in models:
        families.setdefault(model.partition("@")[0], []).append(model)
    order = list(families)
    return [
        {
            "name": label,
            "card": model,
            "colour": order.index(base := model.partition("@")[0]) % COLOURS,
            "twin": families[base].index(model) + order.index(base) // COLOURS,
        }
        for model, label in zip(models, model_labels(models), strict=True)
    ]


def _profile(profile: Profile, places: Sequence[float]) -> dict[str, Any]:
    best = None if profile.best is None else profile.layers.index(profile.best[0])
    layer = profile.layers[best or 0]
    ceiling = profile.ceiling
    subjects = profile.subjects if len(profile.subjects) > 1 else ()
    crossed = across_subjects(profile)
    return {
        "layers": list(profile.layers),
        "places": [rounded(place) for place in places],
        "mean": [rounded(value) for value in profile.mean],
        "intervals": [_pair(profile.interval(one)) for one in profile.layers],
        "best": best,
        "distance": profile.is_distance,
        "spread": _pair(profile.spread(layer)) if subjects else None,
        "ceiling": ceiling and {"kind": ceiling.kind, "ends": [ceiling.low, ceiling.high]},
        "fraction": rounded(fraction_of_ceiling(profile)),
        "crossed": rounded(crossed) if crossed is not None else None,
        "subjects": list(subjects),
        "values": [rounded(number(_cell(profile, s, layer).get("value"))) for s in subjects],
    }


def _cell(profile: Profile, subject: str, layer: str) -> Mapping[str, Any]:
    return profile.cells.get((subject, layer), {})


def across_subjects(profile: Profile) -> float | None:
    """The score of each subject at the layer that is best for the others, averaged.

    Unlike the value of the best layer, it does not gain from the choice among layers fitting
    a subject's own noise. None where there are fewer than two subjects or two layers, or a value
    is undefined.
    """
    curves = [profile.values(subject) for subject in profile.subjects]
    if min(len(curves), len(profile.layers)) < 2:
        return None
    if not all(math.isfinite(value) for curve in curves for value in curve):
        return None
    scores = []
    for place, own in enumerate(curves):
        others = [fmean(at) for at in zip(*curves[:place], *curves[place + 1 :], strict=True)]
        chosen = max(
            range(len(own)), key=lambda layer: similarity(others[layer], profile.is_distance)
        )
        scores.append(own[chosen])
    return fmean(scores)


def fraction_of_ceiling(profile: Profile) -> float:
    """The best value over the upper end of the ceiling; NaN where that ratio means nothing.

    It means something where higher is more similar, unrelated responses score about zero, and the
    lower end of the ceiling is above zero by twice its standard error.
    """
    ceiling = profile.ceiling
    if profile.best is None or ceiling is None or profile.is_distance or ceiling.low <= 0:
        return math.nan
    nulls = [number(row.get("null_mean")) for row in profile.cells.values()]
    known = [null for null in nulls if math.isfinite(null)]
    if not known or abs(fmean(known)) > NULL_IS_ZERO * ceiling.high:
        return math.nan
    errors = [number(row.get("ceiling_error")) for row in profile.cells.values()]
    if any(2 * error > ceiling.low for error in errors):
        return math.nan
    return profile.best[1] / ceiling.high


NUMBERS = (
    *("value", "ci_low", "ci_high", "ceiling_low", "ceiling_high", "null_mean", "p"),
    *("n_stimuli", "n_neuroids"),
)


def _rows(
    rows: Sequence[Row],
    targets: Mapping[Target, int],
    metrics: Mapping[str, int],
    models: Mapping[str, int],
) -> dict[str, Any]:
    """The first rows column by column; what names a row is a place in a list."""
    shown = rows[:MOST_ROWS]
    labels = metric_labels(rows)[:MOST_ROWS]
    layers = ordered(str(row["layer"] or "") for row in shown)
    subjects = ordered(str(row["subject"] or "") for row in shown)
    return {
        "total": len(rows),
        "layers": list(layers),
        "subjects": list(subjects),
        "target": [targets[_target_of(row)] for row in shown],
        "metric": [metrics[label] for label in labels],
        "model": [models[str(row["model"] or "")] for row in shown],
        "layer": [layers[str(row["layer"] or "")] for row in shown],
        "subject": [subjects[str(row["subject"] or "")] for row in shown],
        **{name: [rounded(number(row[name])) for row in shown] for name in NUMBERS},
    }


def _target_of(row: Row) -> Target:
    dataset, species, region, selection = (
        str(row.get(name) or "") for name in ("dataset", "species", "region", "selection")
    )
    return Target(dataset, species, region, str(row["subject"] or "") == "group", selection)


def _pair(ends: tuple[float, float] | None) -> list[float | None] | None:
    return None if ends is None else [rounded(end) for end in ends]


def rounded(value: float) -> float | None:
    """A number with some digits; None where it is not finite."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() else short

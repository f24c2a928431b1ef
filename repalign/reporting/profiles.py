"""Rows of comparisons, checked and gathered into profiles over depth, and what these are called."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from repalign.reporting.metric_words import METRIC_LABELS
from repalign.results import similarity

Row = Mapping[str, Any]

ROW_FIELDS = (
    "dataset", "species", "region", "subject", "model", "layer", "metric", "metric_parameters",
    "is_distance", "value", "null_mean", "null_sd", "ceiling_kind", "ceiling_low", "ceiling_high",
    "ceiling_error", "ci_low", "ci_high", "p",
    "n_stimuli", "n_neuroids", "seed", "version",
)  # fmt: skip
IDENTITY = ("dataset", "selection", "species", "region", "subject", "model", "layer")
LONGEST_SELECTION = 60  # letters shown


CEILING_NAMES = {"nili": "over subjects, Nili et al. 2014"}


@dataclass(frozen=True)
class Target:
    """What a model is compared with: a region of a species in one dataset."""

    dataset: str
    species: str
    region: str
    is_group: bool
    """True for a published group RDM, False for individuals."""
    selection: str = ""
    """Of a part of the dataset, its conditions."""

    @property
    def name(self) -> str:
        """Species, region and selection, as in "macaque IT" or "macaque IT (subject=BE)"."""
        name = " ".join(part for part in (self.species, self.region) if part) or self.dataset
        said = self.selection
        if len(said) > LONGEST_SELECTION:
            said = f"{said[: LONGEST_SELECTION - 1]}…"
        return f"{name} ({said})" if said else name

    def whose(self, subjects: Sequence[str]) -> str:
        """Whose responses are shown; "" if the rows name no subject."""
        if self.is_group:
            return "group RDM"
        if len(subjects) > 1:
            return f"{len(subjects)} subjects"
        return f"subject {subjects[0]}" if subjects[0] else ""


@dataclass(frozen=True)
class Ceiling:
    """A noise ceiling: the mean over subjects of its lower and of its upper end."""

    kind: str
    low: float
    high: float


@dataclass(frozen=True)
class Profile:
    """The scores of one model over depth, for one target by one metric."""

    target: Target
    metric: str
    model: str
    layers: tuple[str, ...]
    subjects: tuple[str, ...]
    cells: Mapping[tuple[str, str], Row]
    """(subject, layer) to row."""

    @property
    def whose(self) -> str:
        """Whose responses these are; "" if the rows name no subject."""
        return self.target.whose(self.subjects)

    def values(self, subject: str) -> list[float]:
        """One value a layer; NaN where the subject has none."""
        return [number(self.cells.get((subject, layer), {}).get("value")) for layer in self.layers]

    @property
    def mean(self) -> list[float]:
        """Mean over subjects, one value a layer.

        NaN at a layer where a subject has no value, because a mean over other subjects there
        would make a step that no brain made. A subject without any value is left out.
        """
        curves = [curve for s in self.subjects if any(map(math.isfinite, curve := self.values(s)))]
        if not curves:
            return [math.nan] * len(self.layers)
        layers = zip(*curves, strict=True)
        return [fmean(at) if all(map(math.isfinite, at)) else math.nan for at in layers]

    @property
    def best(self) -> tuple[str, float] | None:
        """Layer and value of the most similar mean; the first of equals, None if undefined."""
        finite = [at for at in zip(self.layers, self.mean, strict=True) if math.isfinite(at[1])]
        return max(finite, key=lambda at: similarity(at[1], self.is_distance), default=None)

    @property
    def is_distance(self) -> bool:
        """Whether a lower value is more similar."""
        return any(row["is_distance"] for row in self.cells.values())

    def interval(self, layer: str) -> tuple[float, float] | None:
        """Confidence interval at a layer; None with several subjects, or without value or ends."""
        row = self.cells.get((self.subjects[0], layer), {})
        value, low, high = (number(row.get(name)) for name in ("value", "ci_low", "ci_high"))
        defined = all(map(math.isfinite, (value, low, high)))
        return (low, high) if defined and len(self.subjects) == 1 else None

    @property
    def has_intervals(self) -> bool:
        """Whether any layer has a confidence interval."""
        return any(map(self.interval, self.layers))

    def spread(self, layer: str) -> tuple[float, float] | None:
        """Lowest and highest value over subjects at a layer; None with a single subject."""
        at = self.layers.index(layer)
        own = [v for s in self.subjects if math.isfinite(v := self.values(s)[at])]
        return (min(own), max(own)) if len(self.subjects) > 1 and own else None

    @property
    def ceiling(self) -> Ceiling | None:
        """The noise ceiling of these rows, if they have one."""
        return ceiling_of(self.cells.values())


def number(value: Any) -> float:
    """A float; NaN for None."""
    return math.nan if value is None else float(value)


def as_json(value: Any) -> str:
    """One text for equal values, whatever the order of their keys, by which they are compared."""
    return json.dumps(value, sort_keys=True, default=str)


def check_rows(rows: Sequence[Row], *, source: str = "rows") -> None:
    """Raise ValueError if there is no row, or one lacks a field."""
    if not rows:
        raise ValueError(f"{source}: there is no row to report; run a comparison first")
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"{source}: row {index} is a {type(row).__name__}, not a mapping")
        if missing := [field for field in ROW_FIELDS if field not in row]:
            raise ValueError(f"{source}: row {index} lacks {', '.join(missing)}")
        if not isinstance(row["metric_parameters"], Mapping) and not row.get("error"):
            raise ValueError(f"{source}: metric_parameters of row {index} is not a mapping")
        for field in ("value", "ceiling_low", "ceiling_high", "ci_low", "ci_high"):
            try:
                number(row[field])
            except (TypeError, ValueError):
                raise ValueError(
                    f"{source}: {field} of row {index} is {row[field]!r}, not a number"
                ) from None


def computed(rows: Sequence[Row]) -> list[Row]:
    """The rows without those of comparisons that failed, which studies keep with their error."""
    return [row for row in rows if not row.get("error")]


def ceiling_of(rows: Iterable[Row]) -> Ceiling | None:
    """The noise ceiling of rows: per subject the mean over its rows, then over subjects."""
    ends: dict[str, list[tuple[float, float]]] = defaultdict(list)
    kinds: dict[str, None] = {}
    for row in rows:
        both = (number(row["ceiling_low"]), number(row["ceiling_high"]))
        if finite := [end for end in both if math.isfinite(end)]:
            ends[row["subject"]].append((finite[0], finite[-1]))
            kind = str(row["ceiling_kind"] or "kind not given")
            kinds[CEILING_NAMES.get(kind, kind.replace("_", " "))] = None
    if not ends:
        return None
    low, high = (fmean(fmean(pair[i] for pair in own) for own in ends.values()) for i in (0, 1))
    return Ceiling(" / ".join(kinds), low, high)


def gather_profiles(rows: Sequence[Row]) -> list[Profile]:
    """Gather rows into one profile per target, metric and model, in the order of the rows.

    Metrics with different labels, or with other parameters or seeds for the same cell, stay
    apart. A row that comes twice counts once.

    Raises:
        ValueError: if there is no row, a field is missing, or two different rows claim one cell.
    """
    check_rows(rows)
    rows = computed(rows)
    cells: dict[tuple[Target, str, str], dict[tuple[str, str], Row]] = defaultdict(dict)
    orders: dict[str, dict[tuple[Any, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for row, metric in zip(rows, metric_labels(rows), strict=True):
        dataset, selection, species, region, subject, model, layer = (
            str(row.get(name) or "") for name in IDENTITY
        )
        target = Target(dataset, species, region, subject == "group", selection)
        first = cells[target, metric, model].setdefault((subject, layer), row)
        if first is row:
            orders[model][target, metric, subject].append(layer)
        elif as_json(first) != as_json(row):
            raise ValueError(
                f"two different rows for {model} {layer!r}, {target.name}, subject {subject!r}, "
                f"{metric}: {first['value']} (version {first['version']}) and {row['value']} "
                f"(version {row['version']}); report one of them"
            )
    layers = {model: _merged(each.values()) for model, each in orders.items()}
    return [
        Profile(target, metric, model, layers[model], tuple(dict.fromkeys(s for s, _ in own)), own)
        for (target, metric, model), own in cells.items()
    ]


def _merged(orders: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """One order of depth from several that may each miss layers."""
    merged: list[str] = []
    for order in orders:
        place = 0
        for layer in order:
            if layer not in merged:
                merged.insert(place, layer)
            place = merged.index(layer) + 1
    return tuple(merged)


def metric_labels(rows: Sequence[Row]) -> list[str]:
    """One label a row, with those parameters added that tell rows of one cell apart."""
    labels = []
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    settings = [{**row["metric_parameters"], "resampling seed": row["seed"]} for row in rows]
    for row, own in zip(rows, settings, strict=True):
        make = METRIC_LABELS.get(row["metric"])
        parameters = row["metric_parameters"]
        labels.append(make(parameters) if make else str(row["metric"]).replace("_", " "))
        cells[labels[-1], *(row.get(name) for name in IDENTITY)].append(own)
    varying: dict[str, dict[str, None]] = defaultdict(dict)
    for (label, *_), each in cells.items():
        for key in dict.fromkeys(key for own in each for key in own):
            if len({as_json(own.get(key)) for own in each}) > 1:
                varying[label][key] = None
    return [
        label + "".join(f", {key} {own.get(key)}" for key in varying[label])
        for label, own in zip(labels, settings, strict=True)
    ]


def interval_name(every: Sequence[Profile]) -> str:
    """What the intervals of profiles are called: their level, unless levels differ.

    The level is read from the parameter "interval", as in "jackknife over stimuli, 95 %"; where
    a row does not give it, it is taken to be 95 %.
    """
    levels = set()
    for row in (row for profile in every for row in profile.cells.values()):
        if row["ci_low"] is not None:
            given = re.search(r"([\d.]+) ?%", str(row["metric_parameters"].get("interval", "")))
            levels.add(given[1] if given else "95")
    return f"{levels.pop()} % interval" if len(levels) == 1 else "interval"

"""Rows of comparisons as profiles over depth, and the figure of them.

Nothing here touches pyplot: a figure belongs to whoever asked for it, and no backend, window or
global style is changed.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

ROW_FIELDS = (
    "dataset", "species", "region", "subject", "model", "layer", "metric", "metric_parameters",
    "value", "ceiling_kind", "ceiling_low", "ceiling_high", "ci_low", "ci_high", "p",
    "n_stimuli", "n_neuroids", "seed", "version",
)  # fmt: skip

IDENTITY = ("dataset", "species", "region", "subject", "model", "layer")

# Okabe and Ito (2008) without yellow, which a white page swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
VARIANT_LINES = ("-", ":", "-.", (0, (4, 1, 1, 1, 1, 1)))
BASELINE_DASHES = ((0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1, 2)), (0, (1, 1)))
BASELINE_GREYS = ("#1a1a1a", "#5c5c5c", "#858585")
CEILING_HATCHES = (None, "////", "....", "xxxx")
SMALL, LARGE = 8.0, 10.0  # points at print size
LETTER = 0.058  # inches: mean width of a letter of 8 points
PAGE_WIDTH = 7.2  # inches: two columns of a journal, 183 mm
LINE = 0.17  # inches: a line of text
HEIGHT = 1.75  # inches a row of panels


def _rsa_label(parameters: Mapping[str, Any]) -> str:
    comparator = str(parameters.get("comparator", "spearman")).replace("_", " ")
    if comparator in ("spearman", "pearson", "kendall"):
        comparator = comparator.capitalize()
    return f"RSA ({comparator} of {parameters.get('rdm', 'correlation')} RDMs)"


def _cka_label(parameters: Mapping[str, Any]) -> str:
    return f"CKA (linear, {'debiased' if parameters.get('debiased', True) else 'biased'})"


METRIC_LABELS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "rsa": _rsa_label,
    "cka": _cka_label,
    "ridge": lambda _: "ridge predictivity (median Pearson r)",
}
CEILING_NAMES = {"nili": "over subjects, Nili et al. 2014"}


@dataclass(frozen=True)
class Target:
    """What a model is compared with: a region of a species in one dataset."""

    dataset: str
    species: str
    region: str
    is_group: bool
    """True for a published group RDM, False for individuals."""

    @property
    def name(self) -> str:
        """Species and region, as in "macaque IT"."""
        return " ".join(part for part in (self.species, self.region) if part) or self.dataset


@dataclass(frozen=True)
class Ceiling:
    """A noise ceiling: the mean over subjects of its lower and of its upper end."""

    kind: str
    low: float
    high: float

    @property
    def is_line(self) -> bool:
        """Whether both ends coincide."""
        return math.isclose(self.low, self.high, rel_tol=1e-9, abs_tol=1e-12)


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

    def interval(self, layer: str) -> tuple[float, float] | None:
        """Confidence interval at a layer; None with several subjects, or without value or ends."""
        row = self.cells.get((self.subjects[0], layer), {})
        low, high = number(row.get("ci_low")), number(row.get("ci_high"))
        defined = all(map(math.isfinite, (number(row.get("value")), low, high)))
        return (low, high) if defined and len(self.subjects) == 1 else None

    @property
    def best(self) -> str | None:
        """The layer of the highest mean; the first of equals, None if no value is defined."""
        finite = [
            (v, layer) for v, layer in zip(self.mean, self.layers, strict=True) if math.isfinite(v)
        ]
        return max(finite, key=lambda pair: pair[0])[1] if finite else None

    @property
    def ceiling(self) -> Ceiling | None:
        """The noise ceiling of these rows, if they have one."""
        return ceiling_of(self.cells.values())


def number(value: Any) -> float:
    """A float; NaN for None."""
    return math.nan if value is None else float(value)


def check_rows(rows: Sequence[Row], *, source: str = "rows") -> None:
    """Raise ValueError if there is no row, or one lacks a field."""
    if not rows:
        raise ValueError(f"{source}: there is no row to report; run a comparison first")
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"{source}: row {index} is a {type(row).__name__}, not a mapping")
        if missing := [field for field in ROW_FIELDS if field not in row]:
            raise ValueError(f"{source}: row {index} lacks {', '.join(missing)}")
        if not isinstance(row["metric_parameters"], Mapping):
            raise ValueError(f"{source}: metric_parameters of row {index} is not a mapping")
        for field in ("value", "ceiling_low", "ceiling_high", "ci_low", "ci_high"):
            try:
                number(row[field])
            except (TypeError, ValueError):
                raise ValueError(
                    f"{source}: {field} of row {index} is {row[field]!r}, not a number"
                ) from None


def ceiling_of(rows: Iterable[Row]) -> Ceiling | None:
    """The noise ceiling of rows: per subject the mean over its rows, then over subjects."""
    lows: dict[str, list[float]] = defaultdict(list)
    highs: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, None] = {}
    for row in rows:
        ends = [number(row["ceiling_low"]), number(row["ceiling_high"])]
        finite = [end for end in ends if math.isfinite(end)]
        if finite:
            lows[row["subject"]].append(finite[0])
            highs[row["subject"]].append(finite[-1])
            kind = str(row["ceiling_kind"] or "kind not given")
            kinds[CEILING_NAMES.get(kind, kind.replace("_", " "))] = None
    if not lows:
        return None
    low, high = (fmean(fmean(own) for own in ends.values()) for ends in (lows, highs))
    return Ceiling(" / ".join(kinds), low, high)


def profiles(rows: Sequence[Row]) -> list[Profile]:
    """Gather rows into one profile per target, metric and model, in the order of the rows.

    Metrics with different labels, or with other parameters or seeds for the same cell, stay
    apart. A row that comes twice counts once.

    Raises:
        ValueError: if there is no row, a field is missing, or two different rows claim one cell.
    """
    check_rows(rows)
    cells: dict[tuple[Target, str, str], dict[tuple[str, str], Row]] = defaultdict(dict)
    orders: dict[str, dict[tuple[Any, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for row, metric in zip(rows, metric_labels(rows), strict=True):
        dataset, species, region, subject, model, layer = (
            str(row[name] or "") for name in IDENTITY
        )
        target = Target(dataset, species, region, is_group=subject == "group")
        own = cells[target, metric, model]
        key = (subject, layer)
        if key in own:
            if not _same(own[key], row):
                raise ValueError(
                    f"two different rows for {model} {layer!r}, {target.name}, "
                    f"subject {subject!r}, {metric}: {own[key]['value']} (version "
                    f"{own[key]['version']}) and {row['value']} (version {row['version']}); "
                    "report one of them"
                )
            continue
        own[key] = row
        orders[model][target, metric, subject].append(layer)
    layers = {model: _merged(each.values()) for model, each in orders.items()}
    every = []
    for (target, metric, model), own in cells.items():
        subjects = tuple(dict.fromkeys(subject for subject, _ in own))
        every.append(Profile(target, metric, model, layers[model], subjects, own))
    return every


def metric_labels(rows: Sequence[Row]) -> list[str]:
    """One label a row, with those parameters added that tell rows of one cell apart."""
    labels = []
    settings: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    known = [{**row["metric_parameters"], "resampling seed": row["seed"]} for row in rows]
    for row, own in zip(rows, known, strict=True):
        plain = str(row["metric"]).replace("_", " ")
        make = METRIC_LABELS.get(str(row["metric"]), lambda _, plain=plain: plain)
        labels.append(make(row["metric_parameters"]))
        settings[labels[-1], *(row[name] for name in IDENTITY)].append(own)
    varying: dict[str, dict[str, None]] = defaultdict(dict)
    for (label, *_), each in settings.items():
        for key in dict.fromkeys(key for one in each for key in one):
            if len({json.dumps(one.get(key), sort_keys=True, default=str) for one in each}) > 1:
                varying[label][key] = None
    return [
        label + "".join(f", {key} {own.get(key)}" for key in varying[label])
        for label, own in zip(labels, known, strict=True)
    ]


def short_labels(labels: Iterable[str]) -> dict[str, str]:
    """Labels without their brackets, as far as they then still differ."""
    heads: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        heads[label.partition(" (")[0]].add(label)
    return {
        label: head if len(all_of) == 1 else label
        for head, all_of in heads.items()
        for label in all_of
    }


def interval_name(rows: Iterable[Row]) -> str:
    """What the intervals of rows are called: their level, unless levels differ.

    The level is read from the parameter "interval", as in "jackknife over stimuli, 95 %"; where
    a row does not give it, it is taken to be 95 %.
    """
    levels = set()
    for row in rows:
        if row["ci_low"] is not None:
            given = re.search(r"([\d.]+) ?%", str(row["metric_parameters"].get("interval", "")))
            levels.add(given[1] if given else "95")
    return f"{levels.pop()} % interval" if len(levels) == 1 else "interval"


def _same(a: Row, b: Row) -> bool:
    """Whether two rows are equal, with NaN equal to NaN and to None."""

    def known(row: Row) -> dict[str, Any]:
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}

    return known(a) == known(b)


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


def _shared_layers(lists: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The longest list if each other one is a part of it in the same order, else None."""
    every = list(lists)
    longest = max(every, key=len)
    return longest if all(o == tuple(n for n in longest if n in set(o)) for o in every) else None


@dataclass(frozen=True)
class _Look:
    """How one model is drawn, the same in all panels."""

    label: str
    colour: str
    line: Any
    marker: str
    filled: bool
    is_baseline: bool
    dodge: float


@dataclass(frozen=True)
class _Axis:
    """What the horizontal axis means."""

    shared: tuple[str, ...] | None
    """Layer names; None where models differ in them, and the axis is relative depth."""
    step: float
    """Distance between neighbouring layers."""
    right: float
    """Position of the last layer."""
    label: str

    def positions(self, layers: Sequence[str]) -> list[float]:
        if self.shared is not None:
            return [float(self.shared.index(layer)) for layer in layers]
        return [index / max(len(layers) - 1, 1) for index in range(len(layers))]


def _looks(every: Sequence[Profile]) -> dict[str, _Look]:
    """A family (a model and its twins) shares colour and marker; line and filling tell them apart.

    Models of one layer are dashed baselines, unless all are.
    """
    layers = {profile.model: profile.layers for profile in every}
    depth = any(len(own) > 1 for own in layers.values())
    lined = [model for model, own in layers.items() if len(own) > 1 or not depth]
    apart = not depth and len(set(layers.values())) == len(layers)  # no two at one position
    dodge = 0.0 if apart else min(0.14, 0.5 / len(lined))
    families: dict[str, list[str]] = defaultdict(list)
    looks: dict[str, _Look] = {}
    baselines = 0
    for model, own in layers.items():
        base, _, variant = model.partition("@")
        label = f"{model} (untrained)" if variant.split(":")[0] == "random" else model
        if model not in lined:
            look = _Look(
                label if own[0] in (model, base, "") else f"{label} ({own[0]})",
                BASELINE_GREYS[baselines % len(BASELINE_GREYS)],
                BASELINE_DASHES[baselines % len(BASELINE_DASHES)],
                "",
                filled=True,
                is_baseline=True,
                dodge=float(baselines),
            )
            baselines += 1
        else:
            families[base].append(model)
            family, twin = list(families).index(base), len(families[base]) - 1
            look = _Look(
                label,
                COLOURS[family % len(COLOURS)],
                VARIANT_LINES[(twin + 2 * (family // len(COLOURS))) % len(VARIANT_LINES)],
                MARKERS[(family + 2 * (twin // 2)) % len(MARKERS)],
                filled=twin % 2 == 0,
                is_baseline=False,
                dodge=dodge * (lined.index(model) - (len(lined) - 1) / 2),
            )
        looks[model] = look
    return looks


def _axis(every: Sequence[Profile], looks: Mapping[str, _Look]) -> _Axis:
    layers = {p.model: p.layers for p in every if not looks[p.model].is_baseline}
    if all(len(own) == 1 for own in layers.values()) and len(set(layers.values())) > 1:
        # One layer a model: models, not layers, are what the axis can show.
        names = tuple(dict.fromkeys(name for own in layers.values() for name in own))
        return _Axis(names, 1.0, len(names) - 1.0, "layer")
    shared = _shared_layers(layers.values())
    if shared is not None:
        label = "layer" if len(shared) == 1 else "layer (input to output)"
        return _Axis(shared, 1.0, len(shared) - 1.0, label)
    most = max(map(len, layers.values()))
    return _Axis(None, 1 / (most - 1), 1.0, "relative depth (first to last recorded layer)")


def _text(text: object) -> str:
    """Text that matplotlib shows as it is: a dollar sign in a name begins no formula."""
    return str(text).replace("$", r"\$")


def _draw_lines(ax: Axes, profile: Profile, look: _Look, axis: _Axis) -> None:
    several = len(profile.subjects) > 1
    places = axis.positions(profile.layers)
    bars = {layer: bar for layer in profile.layers if (bar := profile.interval(layer))}
    if bars:
        places = [place + look.dodge * axis.step for place in places]
    for subject in profile.subjects if several else ():
        ax.plot(
            places, profile.values(subject), color=look.colour, linestyle=look.line, linewidth=0.7,
            alpha=0.4, zorder=2, gid=f"subject:{profile.model}",
        )  # fmt: skip
    ax.plot(
        places, profile.mean, color=look.colour, linestyle=look.line, linewidth=1.6,
        marker=look.marker, markersize=4.5, markeredgewidth=1.0, markeredgecolor=look.colour,
        markerfacecolor=look.colour if look.filled else "white", zorder=4,
        gid=f"model:{profile.model}",
    )  # fmt: skip
    for place, layer in zip(places, profile.layers, strict=True):
        if layer in bars:
            ax.vlines(
                place, *bars[layer], color=look.colour, linewidth=0.9, zorder=3, gid="interval"
            )


def _draw_baseline(ax: Axes, profile: Profile, look: _Look, axis: _Axis) -> None:
    """A dashed line across; its interval, or its subjects, stand to the right of the last layer."""
    value = profile.mean[0]
    if not math.isfinite(value):
        return
    line = {"color": look.colour, "linestyle": look.line, "linewidth": 1.2, "zorder": 2.5}
    ax.axhline(value, gid=f"model:{profile.model}", **line)
    place = axis.right + axis.step * (0.6 + 0.3 * look.dodge)
    if bar := profile.interval(profile.layers[0]):
        ax.vlines(place, *bar, color=look.colour, linewidth=0.9, zorder=3, gid="interval")
    if len(profile.subjects) > 1:
        own = [profile.values(subject)[0] for subject in profile.subjects]
        ax.plot(
            [place] * len(own), own, linestyle="none", marker="_", markersize=5, alpha=0.6,
            color=look.colour, zorder=3, gid=f"subject:{profile.model}",
        )  # fmt: skip


def _draw_ceiling(ax: Axes, ceiling: Ceiling, kinds: Sequence[str]) -> None:
    if ceiling.is_line:
        ax.axhline(ceiling.low, zorder=1, gid="ceiling", **_stroke(ceiling.kind, kinds))
    else:
        style = _band(ceiling.kind, kinds)
        ax.axhspan(ceiling.low, ceiling.high, zorder=0.5, gid="ceiling", **style)


def _stroke(kind: str, kinds: Sequence[str]) -> dict[str, Any]:
    lines = ("-", (0, (8, 1)), (0, (4, 1)), (0, (2, 1)))
    style = lines[kinds.index(kind) % len(lines)]
    return {"color": "#a6a6a6", "linewidth": 2.5, "linestyle": style}


def _band(kind: str, kinds: Sequence[str]) -> dict[str, Any]:
    hatch = CEILING_HATCHES[kinds.index(kind) % len(CEILING_HATCHES)]
    return {"facecolor": "#dcdcdc", "edgecolor": "#8c8c8c", "linewidth": 0.8, "hatch": hatch}


def _panel_title(
    target: Target, drawn: Sequence[Profile], width: float, *, with_dataset: bool
) -> str:
    subjects = dict.fromkeys(subject for profile in drawn for subject in profile.subjects)
    stimuli = sorted({row["n_stimuli"] for profile in drawn for row in profile.cells.values()})
    count = str(stimuli[0]) if len(stimuli) == 1 else f"{stimuli[0]}–{stimuli[-1]}"
    facts = [*filter(None, [subjects_name(target, list(subjects))]), f"{count} stimuli"]
    comma = ", " if len(", ".join(facts)) * LETTER < width else "\n"
    lines = [target.name, comma.join(facts)] + [target.dataset] * with_dataset
    return _wrapped("\n".join(lines), width)


def subjects_name(target: Target, subjects: Sequence[str]) -> str:
    """Whose responses a panel or a row of a table shows; "" if the rows name no subject."""
    if target.is_group:
        return "group RDM"
    if len(subjects) > 1:
        return f"{len(subjects)} subjects"
    return f"subject {subjects[0]}" if subjects[0] else ""


def _wrapped(text: str, width: float) -> str:
    """Text in lines that fit a width in inches, its own line breaks kept."""
    import textwrap

    letters = max(8, int(width / LETTER))
    return _text("\n".join(w for line in text.split("\n") for w in textwrap.wrap(line, letters)))


def _label_layers(ax: Axes, axis: _Axis, width: float) -> float:
    """Layer names below a panel of this width in inches, as many as stay legible: their height."""
    if axis.shared is None:
        return LINE
    names = [n if len(n) <= 22 else f"{n[:10]}…{n[-11:]}" for n in axis.shared]
    every = math.ceil(len(names) / max(2, int(width / 0.135)))
    chosen = range((len(names) - 1) % every, len(names), every)  # the last layer is always named
    ax.set_xticks([float(i) for i in chosen], [_text(names[i]) for i in chosen])
    ax.set_xticks([float(i) for i in range(len(names))], minor=True)
    if sum(len(names[i]) + 2 for i in chosen) * LETTER < width:
        return LINE
    ax.tick_params(axis="x", rotation=90)
    return max(len(names[i]) for i in chosen) * LETTER


def _targets(every: Sequence[Profile]) -> list[Target]:
    """Targets in the order of the rows, a group RDM beside its individuals and before them."""
    places: dict[tuple[str, str, str], int] = {}
    for p in every:
        places.setdefault((p.target.dataset, p.target.species, p.target.region), len(places))
    return sorted(
        dict.fromkeys(p.target for p in every),
        key=lambda t: (places[t.dataset, t.species, t.region], not t.is_group),
    )


def layer_profile(rows: Sequence[Row], *, title: str | None = None) -> Figure:
    """Draw score against depth: a column of panels a target, a row of panels a metric.

    A model of several layers is a line with markers; one of a single layer (pixels, a Gabor bank)
    is a dashed line across. With several subjects each is a thin line and their mean the strong
    one; with one subject or a published group RDM the bars are the confidence intervals. A group
    RDM has a column of its own. The noise ceiling is a grey band from the mean over subjects of
    its lower ends to that of its upper ends. If models differ in their layers, the horizontal axis
    is relative depth. Panels of a row share their vertical axis, and zero is always on it.

    Args:
        rows: comparisons, as dicts with the fields in `ROW_FIELDS`; those of a model in order of
            depth.
        title: above the panels; None names the dataset if there is only one, "" leaves it out.

    Returns:
        A figure of print size: 183 mm wide up to four columns, no text below 8 points.

    Raises:
        ValueError: if there is no row, a field is missing, or two different rows claim one cell.

    Example:
        >>> save_figure(layer_profile(read_rows("results/")), "profile.pdf")  # doctest: +SKIP
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    every = profiles(rows)
    targets = _targets(every)
    metrics = list(dict.fromkeys(p.metric for p in every))
    looks = _looks(every)
    axis = _axis(every, looks)
    panels = {
        (m, t): [p for p in every if (p.metric, p.target) == (m, t)]
        for m in metrics
        for t in targets
    }
    ceilings = {key: _panel_ceiling(drawn) for key, drawn in panels.items()}
    kinds = list(dict.fromkeys(c.kind for c in ceilings.values() if c))
    datasets = dict.fromkeys(target.dataset for target in targets)
    width, panel = _widths(len(targets), axis)
    with matplotlib.rc_context({"text.usetex": False, "hatch.linewidth": 0.5}):
        fig = Figure(figsize=(width, HEIGHT * len(metrics)), layout="constrained")
        FigureCanvasAgg(fig)
        fig.set_facecolor("white")
        grid = fig.subplots(len(metrics), len(targets), squeeze=False, sharex=True, sharey="row")
        for i, metric in enumerate(metrics):
            for j, target in enumerate(targets):
                _draw_panel(grid[i, j], panels[metric, target], looks, axis)
                if ceiling := ceilings[metric, target]:
                    _draw_ceiling(grid[i, j], ceiling, kinds)
            grid[i, 0].set_ylabel(_wrapped_label(metric), fontsize=SMALL)
            _limit_scores(grid[i, 0], [panels[metric, target] for target in targets])
        for j, target in enumerate(targets):
            drawn = [p for p in every if p.target == target]
            head = _panel_title(target, drawn, panel, with_dataset=len(datasets) > 1)
            grid[0, j].set_title(head, fontsize=SMALL)
            grid[-1, j].set_xlabel(_wrapped(axis.label, panel), fontsize=SMALL)
            names = _label_layers(grid[-1, j], axis, panel)
        if title is None:
            title = next(iter(datasets)) if len(datasets) == 1 else ""
        if title:
            fig.suptitle(_text(title), fontsize=LARGE, fontweight="bold")
        entries = _add_legend(fig, every, looks, [c for c in ceilings.values() if c])
        heads = max(ax.get_title().count("\n") + 1 for ax in grid[0])
        lines = heads + entries + 1.5 * bool(title) + 2
        fig.set_figheight(HEIGHT * len(metrics) + LINE * lines + names)
    return fig


def _panel_ceiling(drawn: Sequence[Profile]) -> Ceiling | None:
    return ceiling_of(row for profile in drawn for row in profile.cells.values())


def _widths(columns: int, axis: _Axis) -> tuple[float, float]:
    """Width of the figure and of one panel in inches."""
    names = len(axis.shared) if axis.shared else 6
    full = PAGE_WIDTH if columns > 1 or names > 12 else 4.8
    panel = max((full - 0.8) / columns, min(1.5 + 0.03 * names, 2.0))
    return 0.8 + columns * panel, panel - 0.15


def _wrapped_label(label: str) -> str:
    """The name of a score beside a panel, its bracket on a line of its own."""
    return _wrapped(label.replace(" (", "\n(", 1), HEIGHT)


def _draw_panel(
    ax: Axes, drawn: Sequence[Profile], looks: Mapping[str, _Look], axis: _Axis
) -> None:
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.axhline(0.0, color="#404040", linewidth=0.7, zorder=1.5, gid="zero")
    baselines = sum(look.is_baseline for look in looks.values())
    ax.set_xlim(-0.5 * axis.step, axis.right + axis.step * (0.5 + 0.35 * baselines))
    for profile in drawn:
        look = looks[profile.model]
        (_draw_baseline if look.is_baseline else _draw_lines)(ax, profile, look, axis)
    note = "" if any(p.best for p in drawn) else "no defined value" if drawn else "not computed"
    if note:
        ax.text(
            0.5, 0.5, note, transform=ax.transAxes, ha="center", va="center", fontsize=SMALL,
            color="#595959", style="italic",
        )  # fmt: skip


def _limit_scores(ax: Axes, panels: Sequence[Sequence[Profile]]) -> None:
    """Limits that hold all that these panels show, and zero."""
    names = ("value", "ci_low", "ci_high")
    rows = [row for drawn in panels for p in drawn for row in p.cells.values()]
    seen = [number(row[name]) for row in rows for name in names]
    for ceiling in filter(None, map(_panel_ceiling, panels)):
        seen += [ceiling.low, ceiling.high]
    seen = [0.0, *filter(math.isfinite, seen)]
    low, high = min(seen), max(seen)
    pad = 0.06 * (high - low) or 0.1
    ax.set_ylim(low - pad, high + pad)


def _add_legend(
    fig: Figure, every: Sequence[Profile], looks: Mapping[str, _Look], ceilings: Sequence[Ceiling]
) -> int:
    """Below the panels, where it hides no data; returns the number of its lines."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[tuple[Artist, str]] = []
    for look in sorted(looks.values(), key=lambda look: look.is_baseline):
        handle = Line2D(
            [], [], color=look.colour, linestyle=look.line, marker=look.marker, markersize=4.5,
            linewidth=1.2 if look.is_baseline else 1.6, markeredgecolor=look.colour,
            markerfacecolor=look.colour if look.filled else "white",
        )  # fmt: skip
        entries.append((handle, look.label))
    if any(len(p.subjects) > 1 for p in every):
        entries.append(
            (Line2D([], [], color="#808080", linewidth=0.7), "one subject (thick: mean)")
        )
    if any(p.interval(layer) for p in every for layer in p.layers):
        bar = Line2D([], [], color="#404040", linestyle="none", marker="|", markersize=9)
        entries.append((bar, interval_name(row for p in every for row in p.cells.values())))
    kinds = list(dict.fromkeys(ceiling.kind for ceiling in ceilings))
    for kind in kinds:
        is_line = all(ceiling.is_line for ceiling in ceilings if ceiling.kind == kind)
        grey: Artist = (
            Line2D([], [], **_stroke(kind, kinds)) if is_line else Patch(**_band(kind, kinds))
        )
        entries.append((grey, f"noise ceiling ({kind})"))
    longest = max(len(label) for _, label in entries)
    fitting = max(1, int(fig.get_figwidth() / (1.1 * LETTER * longest + 0.6)))
    columns = min(fitting, len(entries))
    fig.legend(
        [handle for handle, _ in entries], [_text(label) for _, label in entries],
        loc="outside lower center", ncols=columns, fontsize=SMALL,
        frameon=False, handlelength=2.6,
    )  # fmt: skip
    return math.ceil(len(entries) / columns)


def save_figure(fig: Figure, path: str | Path) -> Path:
    """Write a figure as .png (300 dpi), .pdf (editable text) or .svg, whole or not at all.

    The bytes are the same each time: no date is written.

    Raises:
        ValueError: for another suffix.
    """
    from repalign.store import write_file

    path = Path(path)
    write_file(path, figure_bytes(fig, path.suffix.removeprefix(".").lower()))
    return path


def figure_bytes(fig: Figure, form: str, *, dpi: int = 300) -> bytes:
    """The file content of a figure as "png", "pdf" or "svg"."""
    import matplotlib

    undated: dict[str, dict[str, Any]] = {
        "png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None},
    }  # fmt: skip
    if form not in undated:
        raise ValueError(f"figures are written as .png, .pdf or .svg, not {form!r}")
    content = BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "repalign"}):
        fig.savefig(content, format=form, dpi=dpi, facecolor="white", metadata=undated[form])
    return content.getvalue()

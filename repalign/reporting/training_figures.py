"""The figures of robustness: curves of all conditions, each control beside the aligned network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from repalign.experiments.run_records import (
    Experiment,
    attacks_of,
    curve_label,
    curve_of,
    finite,
    runs_of,
    titles_of,
)
from repalign.experiments.run_statistics import Difference, robustness_differences
from repalign.reporting.condition_looks import (
    blank_figure,
    label_at_end,
    legend_below,
    look_of,
    shown,
)
from repalign.reporting.panels import SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 2
CURVE_HEIGHT = 2.5
SMALL_COLUMNS = 4
SMALL_HEIGHT = 1.55
ROW_HEIGHT = 0.27
FIXED = ("baseline", "aligned")  # drawn in every small panel


def robustness_curves(experiment: Experiment) -> Figure:
    """Draw the mean curve of every condition, a panel an attack, named at its end.

    Raises:
        ValueError: no run has a curve.
    """
    attacks, conditions = attacks_of(experiment), with_curves(experiment)
    if not attacks:
        raise ValueError("no run has a robustness curve to draw; give runs with 'curves'.")
    titles = titles_of(experiment)
    columns = min(COLUMNS, len(attacks))
    rows = math.ceil(len(attacks) / columns)
    height = max(CURVE_HEIGHT, 0.17 * len(conditions))
    width = 5.6 if columns == 1 else 7.2
    fig, axes = blank_figure(rows, columns, height=rows * (height + 0.65), width=width)
    for place, ax in enumerate(axes.flat):
        if place >= len(attacks):
            ax.set_visible(False)
            continue
        ends = []
        for name in conditions:
            eps, matrix = seed_curves(experiment, name, *attacks[place])
            if not eps:
                continue
            style, mean = look_of(name, conditions), seed_mean(matrix)
            if has_controls(experiment):
                ax.plot(eps, mean, gid=f"mean:{name}", **style)
            else:  # few lines leave room for their spread
                _draw_with_spread(ax, experiment, name, *attacks[place], conditions)
            text = shown(titles[name], longest=26)
            ends.append((text, eps[-1], float(mean[-1]), style["color"]))
        _finish(ax, experiment, *attacks[place])
        if place % columns == columns - 1 or place == len(attacks) - 1:
            label_at_end(ax, ends, height=height)
    return fig


def control_panels(experiment: Experiment) -> Figure:
    """Draw each other condition beside baseline and aligned, with what seeds and images leave open.

    A band is the range over seeds; a bar the mean over seeds of the interval over images. There
    must be such a condition: see ``has_controls``.
    """
    attack, norm = attacks_of(experiment)[0]
    conditions, titles = with_curves(experiment), titles_of(experiment)
    others = [name for name in conditions if name not in FIXED]
    fixed = [name for name in FIXED if name in conditions]
    panels = [[*fixed, name] for name in others]
    columns = min(SMALL_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = 7.2 if columns > 2 else 5.0
    height = SMALL_HEIGHT if columns > 2 else 2.6
    fig, axes = blank_figure(
        rows, columns, height=rows * (height + 0.4) + 0.3, width=width, sharex=True, sharey=True
    )
    for place, ax in enumerate(axes.flat):
        if place >= len(panels):
            ax.set_visible(False)
            continue
        for name in panels[place]:
            _draw_with_spread(ax, experiment, name, attack, norm, conditions)
        ax.set_title(shown(titles[others[place]], longest=26), fontsize=SMALL)
        _finish(ax, experiment, attack, norm, is_titled=False)
        if place % columns:
            ax.set_ylabel("")
        if place + columns < len(panels):
            ax.set_xlabel("")
    legend_below(
        fig, {shown(titles[name]): look_of(name, conditions) for name in [*fixed, *others]}
    )
    return fig


def _draw_with_spread(
    ax: Axes, experiment: Experiment, name: str, attack: str, norm: str, every: Sequence[str]
) -> None:
    eps, matrix = seed_curves(experiment, name, attack, norm)
    if not eps:
        return
    style = {**look_of(name, every), "markersize": 3.5}
    mean = seed_mean(matrix)
    ax.plot(eps, mean, gid=f"mean:{name}", **style)
    if len(matrix) > 1:
        low, high = np.nanmin(matrix, axis=0), np.nanmax(matrix, axis=0)
        ax.fill_between(eps, low, high, color=style["color"], alpha=0.18, linewidth=0,
                        gid=f"seeds:{name}")  # fmt: skip
    _, below = seed_curves(experiment, name, attack, norm, field="ci_low")
    _, above = seed_curves(experiment, name, attack, norm, field="ci_high")
    ax.vlines(eps, seed_mean(below), seed_mean(above), color=style["color"], linewidth=0.8,
              alpha=0.7, zorder=2, gid=f"images:{name}")  # fmt: skip


def gain_figure(experiment: Experiment) -> Figure:
    """Draw the paired gain in AUC over each other condition: seeds, mean and t interval."""
    titles, attacks = titles_of(experiment), attacks_of(experiment)
    others = [name for name in with_curves(experiment) if name != "aligned"]
    columns = min(4, len(attacks))
    height = ROW_HEIGHT * len(others) + 0.75
    fig, axes = blank_figure(1, columns, height=height, width=7.2, sharey=True)
    places = {name: -float(place) for place, name in enumerate(others)}
    for (attack, norm), ax in zip(attacks, axes.flat, strict=False):
        ax.axvline(0.0, color="#404040", linewidth=0.8, zorder=1)
        for name in others:
            found = [
                one
                for one in robustness_differences(experiment, against=name)
                if (one.measure, one.attack, one.norm) == ("AUC", attack, norm)
            ]
            for one in found:
                _draw_gain(ax, one, places[name], look_of(name, list(titles)))
        ax.set_title(curve_label(attack, norm), fontsize=SMALL)
        ax.set_xlabel("gain in area under the curve", fontsize=SMALL)
        ax.set_ylim(-len(others) + 0.4, 0.6)
        ax.grid(axis="x", color="#e4e4e4", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.margins(x=0.12)
    names = [shown(titles[name], longest=28) for name in others]
    axes[0, 0].set_yticks(list(places.values()), names)
    for ax in axes.flat[1:]:
        ax.tick_params(labelleft=False)
    return fig


def _draw_gain(ax: Axes, one: Difference, place: float, style: dict[str, Any]) -> None:
    colour = style["color"]
    if math.isfinite(one.low):
        ax.hlines(place, one.low, one.high, color=colour, linewidth=1.6, zorder=2, gid="interval")
    elif math.isfinite(one.images_low):
        ax.hlines(place, one.images_low, one.images_high, color=colour, linewidth=0.8, zorder=2,
                  gid="images")  # fmt: skip
    ax.plot(one.values, [place + 0.22] * one.n_seeds, linestyle="none", marker="|", markersize=5,
            color=colour, gid="seeds")  # fmt: skip
    ax.plot([one.mean], [place], linestyle="none", marker=style["marker"], markersize=6,
            color=colour, markerfacecolor=style["markerfacecolor"], zorder=4,
            gid="mean")  # fmt: skip


def with_curves(experiment: Experiment) -> list[str]:
    """Return the conditions that have a curve, in order."""
    return [
        name
        for name in titles_of(experiment)
        if any(run.get("curves") for run in runs_of(experiment, name).values())
    ]


def has_controls(experiment: Experiment) -> bool:
    """Return whether any condition but baseline and aligned has a curve."""
    return any(name not in FIXED for name in with_curves(experiment))


def seed_curves(
    experiment: Experiment, condition: str, attack: str, norm: str, *, field: str = "accuracy"
) -> tuple[list[float], np.ndarray[Any, np.dtype[np.float64]]]:
    """Return ε, and one row of values a seed, NaN where a seed has none."""
    curves = [curve_of(run, attack, norm) for run in runs_of(experiment, condition).values()]
    curves = [curve for curve in curves if curve]
    eps = sorted({one for curve in curves for one in curve})
    rows = [[finite(curve.get(one, {}).get(field)) for one in eps] for curve in curves]
    return eps, np.array(rows, dtype=float).reshape(len(rows), len(eps))


def seed_mean(matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the mean over seeds of what is defined, NaN where nothing is."""
    defined = np.isfinite(matrix)
    count = defined.sum(0)
    total = np.where(defined, matrix, 0.0).sum(0)
    mean: np.ndarray[Any, Any] = np.where(count > 0, total / np.maximum(count, 1), math.nan)
    return mean


def _finish(
    ax: Axes, experiment: Experiment, attack: str, norm: str, *, is_titled: bool = True
) -> None:
    is_labelled = experiment.get("reference", "labels") == "labels"
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel("accuracy" if is_labelled else "agreement", fontsize=SMALL)
    ax.set_xlabel(f"perturbation ε ({norm})", fontsize=SMALL)
    ax.grid(color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)
    if is_titled:
        ax.set_title(f"{curve_label(attack, norm)}, upper bound for ε > 0", fontsize=SMALL)

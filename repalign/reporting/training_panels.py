"""The figures of training: alignment before and after, dose, corruptions, and learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from repalign.experiments.run_records import Experiment, finite, moments, runs_of, titles_of
from repalign.reporting.condition_looks import blank_figure, legend_below, look_of, shown
from repalign.reporting.panels import SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEYS = ("layer", "metric", "region", "subject", "neuroids")
HISTORY = {
    "task_loss": "task loss",
    "align_loss": "alignment loss",
    "label_loss": "loss of neural labels",
    "val_task": "validation: task",
    "val_alignment": "validation: alignment",
}
DOSE = {"auc": "area under the curve", "clean": "clean accuracy", "alignment": "alignment reached"}


def alignment_change(experiment: Experiment) -> Figure:
    """Draw baseline → aligned for each metric, region, subject and choice of neuroids.

    The columns are trained and held-out stimuli; small dots are seeds, grey ticks noise ceilings.
    The metric that was trained on stands first and in bold.
    """
    cells = alignment_cells(experiment)
    keys = sorted(dict.fromkeys(key for key, _ in cells), key=lambda key: not key[-1])
    columns = [s for s in ("trained", "held out") if any(stimuli == s for _, stimuli in cells)]
    columns += [s for s in dict.fromkeys(s for _, s in cells) if s not in columns]
    fig, axes = blank_figure(
        1, len(columns), height=0.26 * len(keys) + 0.9, sharey=True, sharex=True
    )
    for stimuli, ax in zip(columns, axes.flat, strict=True):
        for place, key in enumerate(keys):
            _draw_change(ax, cells.get((key, stimuli), {}), -float(place))
        ax.set_title(f"{stimuli} stimuli", fontsize=SMALL)
        ax.set_xlabel("value of the metric", fontsize=SMALL)
        ax.grid(axis="x", color="#e4e4e4", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.set_ylim(-len(keys) + 0.4, 0.6)
    names = [_cell_name(key, keys) for key in keys]
    axes[0, 0].set_yticks([-float(place) for place in range(len(keys))], names)
    for tick, key in zip(axes[0, 0].get_yticklabels(), keys, strict=True):
        tick.set_fontweight("bold" if key[-1] else "normal")
    for ax in axes.flat[1:]:
        ax.tick_params(labelleft=False)
    every = list(titles_of(experiment))
    titles = titles_of(experiment)
    legend_below(
        fig,
        {
            shown(f"{titles[name]} ({word})"): {**look_of(name, every), "linestyle": "none"}
            for name, word in (("baseline", "before"), ("aligned", "after"))
            if name in titles
        }
        | {"noise ceiling": {"color": "#9a9a9a", "marker": "|", "linestyle": "none",
                             "markersize": 9, "markeredgewidth": 2}},
    )  # fmt: skip
    return fig


Cell = tuple[tuple[str, ...], str]


def alignment_cells(experiment: Experiment) -> dict[Any, dict[str, list[float]]]:
    """Return (key, stimuli) → values over seeds of "baseline", "aligned" and "ceiling"."""
    cells: dict[Any, dict[str, list[float]]] = {}
    for condition in ("baseline", "aligned"):
        for run in runs_of(experiment, condition).values():
            for row in run.get("alignment") or ():
                if row.get("is_distance"):  # of another scale and direction: in the table only
                    continue
                own = tuple(str(row.get(name) or "") for name in KEYS)
                key = (*own, bool(row.get("trained_metric")))
                cell = cells.setdefault((key, str(row.get("stimuli") or "all")), {})
                cell.setdefault(condition, []).append(finite(row.get("value")))
                cell.setdefault("ceiling", []).append(finite(row.get("ceiling")))
    return cells


def _cell_name(key: tuple[Any, ...], keys: Sequence[tuple[Any, ...]]) -> str:
    """The metric and whatever else differs between rows."""
    words = [key[1]]
    for place, name in enumerate(KEYS):
        if name != "metric" and key[place] and len({one[place] for one in keys}) > 1:
            words.append(f"{key[place]} neuroids" if name == "neuroids" else key[place])
    return shown(", ".join(words) + (" (trained metric)" if key[-1] else ""), longest=48)


def _draw_change(ax: Axes, cell: Mapping[str, list[float]], place: float) -> None:
    means = {name: moments(values)[0] for name, values in cell.items()}
    if math.isfinite(means.get("ceiling", math.nan)):
        ax.plot([means["ceiling"]], [place], marker="|", markersize=9, markeredgewidth=2,
                color="#9a9a9a", linestyle="none", zorder=1, gid="ceiling")  # fmt: skip
    before, after = (means.get(name, math.nan) for name in ("baseline", "aligned"))
    if math.isfinite(before) and math.isfinite(after):
        ax.annotate(
            "", (after, place), (before, place), gid="change",
            arrowprops={"arrowstyle": "-|>", "color": "#0072B2", "linewidth": 1.1,
                        "shrinkA": 3, "shrinkB": 3, "mutation_scale": 7},
        )  # fmt: skip
    for name in ("baseline", "aligned"):
        style = {**look_of(name, [name]), "linestyle": "none"}
        values = cell.get(name, [])
        if len(values) > 1:
            ax.plot(values, [place + 0.22] * len(values), linestyle="none", marker=".",
                    markersize=2.5, color=style["color"], gid=f"seeds:{name}")  # fmt: skip
        ax.plot([means.get(name, math.nan)], [place], gid=f"mean:{name}", **style)


def dose_figure(experiment: Experiment) -> Figure:
    """Draw robustness, clean accuracy and alignment over λ: thin lines are seeds."""
    rows = [r for r in experiment["dose"] if r["condition"] in ("aligned", "baseline")]
    fields = {k: v for k, v in DOSE.items() if any(math.isfinite(finite(r.get(k))) for r in rows)}
    doses = sorted({finite(row["lambda"]) for row in rows})
    fig, axes = blank_figure(1, len(fields), height=2.3, width=2.4 * len(fields))
    style = look_of("aligned", ["aligned"])
    for (field, label), ax in zip(fields.items(), axes.flat, strict=True):
        for seed in dict.fromkeys(row["seed"] for row in rows):
            own = {finite(r["lambda"]): finite(r.get(field)) for r in rows if r["seed"] == seed}
            ax.plot([doses.index(one) for one in sorted(own)], [own[one] for one in sorted(own)],
                    color=style["color"], linewidth=0.8, alpha=0.5, gid="seed")  # fmt: skip
        mean = [moments(r.get(field) for r in rows if finite(r["lambda"]) == d)[0] for d in doses]
        ax.plot(range(len(doses)), mean, gid="mean", **style)
        ax.set_xticks(range(len(doses)), [f"{dose:g}" for dose in doses])
        ax.set_xlabel("weight of the alignment, λ", fontsize=SMALL)
        ax.set_title(label, fontsize=SMALL)
        ax.grid(color="#e4e4e4", linewidth=0.6)
        ax.set_axisbelow(True)
    return fig


def corruption_figure(experiment: Experiment) -> Figure:
    """Draw the mean accuracy over corruptions by severity, a panel a category."""
    titles = titles_of(experiment)
    rows = [
        (name, row)
        for name in titles
        for run in runs_of(experiment, name).values()
        for row in run.get("corruptions") or ()
    ]
    names = list(dict.fromkeys(name for name, _ in rows))
    categories = list(dict.fromkeys(str(row.get("category") or "all") for _, row in rows))
    columns = min(4, len(categories))
    lines = math.ceil(len(categories) / columns)
    width = 7.2 if columns > 2 else 5.4
    fig, axes = blank_figure(lines, columns, height=2.1 * lines, width=width, sharey=True)
    for place, ax in enumerate(axes.flat):
        if place >= len(categories):
            ax.set_visible(False)
            continue
        own = [(n, r) for n, r in rows if str(r.get("category") or "all") == categories[place]]
        for name in names:
            levels = sorted({r["severity"] for n, r in own if n == name})
            mean = [
                moments(r["accuracy"] for n, r in own if n == name and r["severity"] == level)[0]
                for level in levels
            ]
            ax.plot(levels, mean, gid=f"mean:{name}", **look_of(name, list(titles)))
        ax.set_title(shown(categories[place]), fontsize=SMALL)
        ax.set_xlabel("severity", fontsize=SMALL)
        ax.set_ylim(-0.03, 1.03)
        ax.grid(color="#e4e4e4", linewidth=0.6)
        ax.set_axisbelow(True)
    is_labelled = experiment.get("reference", "labels") == "labels"
    axes[0, 0].set_ylabel("accuracy" if is_labelled else "agreement", fontsize=SMALL)
    legend_below(fig, {shown(titles[name]): look_of(name, list(titles)) for name in names})
    return fig


def learning_curves(experiment: Experiment) -> Figure:
    """Draw each logged quantity over steps: the mean over seeds, and their range as a band."""
    titles = titles_of(experiment)
    logs = {name: [r.get("history") or () for r in runs_of(experiment, name).values()]
            for name in titles}  # fmt: skip
    logs = {name: runs for name, runs in logs.items() if any(runs)}
    fields = {k: label for k, label in HISTORY.items() if _is_logged(k, logs.values())}
    columns = min(3, len(fields))
    lines = math.ceil(len(fields) / columns)
    fig, axes = blank_figure(lines, columns, height=1.95 * lines, width=2.4 * columns)
    for (field, label), ax in zip(fields.items(), axes.flat, strict=False):
        for name, runs in logs.items():
            _draw_log(ax, runs, field, {**look_of(name, list(titles)), "marker": ""})
        ax.set_title(label, fontsize=SMALL)
        ax.set_xlabel("step", fontsize=SMALL)
        ax.grid(color="#e4e4e4", linewidth=0.6)
        ax.set_axisbelow(True)
    for ax in axes.flat[len(fields) :]:
        ax.set_visible(False)
    styles = {shown(titles[n]): {**look_of(n, list(titles)), "marker": ""} for n in logs}
    legend_below(fig, styles)
    return fig


def _is_logged(field: str, logs: Iterable[Sequence[Sequence[Mapping[str, Any]]]]) -> bool:
    return any(
        math.isfinite(finite(row.get(field))) for runs in logs for run in runs for row in run
    )


def _draw_log(
    ax: Axes, runs: Sequence[Sequence[Mapping[str, Any]]], field: str, style: dict[str, Any]
) -> None:
    by_step: dict[float, list[float]] = {}
    for run in runs:
        for row in run:
            value = finite(row.get(field))
            if math.isfinite(value):
                by_step.setdefault(finite(row.get("step")), []).append(value)
    if not by_step:
        return
    steps = sorted(by_step)
    ax.plot(steps, [np.mean(by_step[step]) for step in steps], gid=f"log:{field}", **style)
    if len(runs) > 1:
        low, high = ([end(by_step[step]) for step in steps] for end in (min, max))
        ax.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)

"""The figures of autoencoders: training, how often features are active, and their matches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from repalign.autoencoders.matches import FeatureMatches, Matches
from repalign.autoencoders.results import TrainedAutoencoder
from repalign.autoencoders.study import FeatureStudy
from repalign.reporting.condition_looks import blank_figure, legend_below, shown
from repalign.reporting.panels import COLOURS, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, HELD_OUT, CHANCE = COLOURS[0], COLOURS[1], "#8c8c8c"
BINS = 30
SIDES = {"neuroids": "neuroids, each with its best feature",
         "features": "features, each with its best neuroid"}  # fmt: skip
KIND_COLOURS = {"topk": COLOURS[0], "l1": COLOURS[0], "pca": COLOURS[1], "units": "#595959"}
NETWORK_LINES: dict[str, Any] = {"trained": "-", "untrained": (0, (2, 1.5))}


def training_figure(trained: TrainedAutoencoder) -> Figure:
    """Draw the loss, and active and dead features, against the step."""
    fig, axes = blank_figure(1, 2, height=2.2)
    steps = [row["step"] for row in trained.history]
    loss, count = axes[0]
    loss.plot(steps, [row["loss"] for row in trained.history], color=TRAIN, label="trained batch")
    if trained.report.held_out is not None:
        unseen = [row["held_out_loss"] for row in trained.history]
        loss.plot(steps, unseen, color=HELD_OUT, label="held-out stimuli")
    values = [value for line in loss.lines for value in line.get_ydata()]
    if max(values) > 20 * min(values) > 0:
        loss.set_yscale("log")
        loss.yaxis.set_major_formatter("{x:g}")
        loss.yaxis.set_minor_formatter("")
    loss.set_ylabel("loss", fontsize=SMALL)
    for name, label, colour in (("l0", "active in a sample", TRAIN), ("dead", "dead", "#000000")):
        count.plot(steps, [row[name] for row in trained.history], color=colour, label=label)
    count.set_yscale("symlog", linthresh=1)
    count.yaxis.set_major_formatter("{x:g}")
    count.set_ylim(bottom=-0.2)  # so that a line of zeros is seen
    count.set_ylabel("features", fontsize=SMALL)
    for ax in axes[0]:
        ax.set_xlabel("step", fontsize=SMALL)
        ax.legend(fontsize=SMALL, frameon=False)
    return fig


def frequency_figure(trained: TrainedAutoencoder) -> Figure:
    """Draw how many features are active in what share of the samples, dead ones apart."""
    fig, axes = blank_figure(1, 1, height=2.2, width=5.2)
    ax = axes[0, 0]
    parts = {"trained samples": trained.report.train, "held-out samples": trained.report.held_out}
    known = {name: part.density for name, part in parts.items() if part is not None}
    alive = np.concatenate([density[density > 0] for density in known.values()])
    low = np.floor(np.log10(alive.min())) if len(alive) else -1.0
    edges = np.linspace(min(low, -1.0), 0, BINS + 1)
    width = edges[1] - edges[0]
    dead = edges[0] - 4 * width
    for number, ((name, density), colour) in enumerate(
        zip(known.items(), (TRAIN, HELD_OUT), strict=False)
    ):
        counts, _ = np.histogram(np.log10(density[density > 0]), edges)
        style: dict[str, Any] = (
            {"fill": True, "color": colour, "alpha": 0.6} if number == 0 else {"color": colour}
        )
        ax.stairs(counts, edges, label=name, linewidth=1.5, **style)
        sides = [dead + (number - 1) * 1.5 * width, dead + number * 1.5 * width]
        ax.stairs([int((density == 0).sum())], sides, linewidth=1.5, **style)
    powers = range(int(edges[0]), 1)
    ax.set_xticks([dead, *powers], ["never", *(f"{100 * 10.0**power:g} %" for power in powers)])
    ax.set_xlabel("share of samples in which a feature is active", fontsize=SMALL)
    ax.set_ylabel("features", fontsize=SMALL)
    ax.legend(fontsize=SMALL, frameon=False)
    return fig


def match_figure(matches: FeatureMatches) -> Figure:
    """Draw held-out correlations of the best matches above those of permuted stimuli."""
    fig, axes = blank_figure(1, 2, height=2.3)
    for ax, (side, label) in zip(axes[0], SIDES.items(), strict=True):
        _draw_held_out(ax, getattr(matches, side))
        ax.set_title(label, fontsize=SMALL)
        ax.set_xlabel("held-out correlation", fontsize=SMALL)
        ax.set_ylabel(side, fontsize=SMALL)
    look = {"linewidth": 5, "alpha": 0.6}
    legend_below(
        fig,
        {
            "stimuli as they were (line: median)": {"color": TRAIN, **look},
            "stimuli permuted (mean over permutations)": {"color": CHANCE, "linewidth": 1.5},
        },
    )
    return fig


def _draw_held_out(ax: Axes, matches: Matches) -> None:
    known = matches.held_out[~np.isnan(matches.held_out)]
    chance = matches.held_out_null[~np.isnan(matches.held_out_null)]
    if not len(known):
        ax.text(0.5, 0.5, "nothing varies", transform=ax.transAxes, ha="center", fontsize=SMALL)
        return
    low = min(-0.2, float(known.min()), float(np.quantile(chance, 0.001)))
    high = max(0.2, float(known.max()), float(np.quantile(chance, 0.999)))
    edges = np.linspace(low, high, BINS + 1)
    ax.hist(known, edges.tolist(), color=TRAIN, alpha=0.6)
    counts, _ = np.histogram(chance, edges)
    ax.stairs(counts / len(matches.held_out_null), edges, color=CHANCE, linewidth=1.5)
    ax.axvline(matches.median_held_out, color=TRAIN, linewidth=1.2)
    ax.axvline(0, color="#404040", linewidth=0.7)


def overlap_figure(study: FeatureStudy) -> Figure:
    """Draw how alike the directions of seeds are, and those of seeds and components."""
    fig, axes = blank_figure(1, 1, height=2.3, width=5.2)
    ax = axes[0, 0]
    names: list[str] = []
    for network in NETWORK_LINES:
        for against in ("other seeds", "principal components"):
            pairs = [
                row
                for row in study.overlaps
                if row["first"].startswith(f"{network} ")
                and (" pca-" in row["second"]) == (against != "other seeds")
            ]
            if not pairs:
                continue
            place = len(names)
            names.append(f"{network} network,\n{against}")
            found = [row["max_cosine"] for row in pairs]
            colour = KIND_COLOURS["pca" if "principal" in against else "topk"]
            ax.plot([place] * len(found), found, "o", color=colour, alpha=0.7, ms=5)
            chance = [row["chance"] for row in pairs]
            ax.hlines(chance, place - 0.25, place + 0.25, color="#000000", linewidth=1)
    ax.set_xticks(range(len(names)), names, fontsize=SMALL)
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set_ylim(0, 1.03)
    ax.set_ylabel("mean cosine with the\nnearest direction", fontsize=SMALL)
    return fig


def area_figure(study: FeatureStudy, area: str) -> Figure:
    """Draw each neuroid's held-out correlation, best first, for all kinds of features."""
    fig, axes = blank_figure(1, 1, height=2.5, width=5.2)
    ax = axes[0, 0]
    looks: dict[str, dict[str, Any]] = {}
    for (where, label), found in study.matches.items():
        if where != area:
            continue
        network, kind = label.split()[0], label.split()[1].partition("-")[0]
        values = np.sort(found.neuroids.held_out[~np.isnan(found.neuroids.held_out)])[::-1]
        style = {"color": KIND_COLOURS[kind], "linestyle": NETWORK_LINES[network]}
        ax.plot(np.linspace(0, 100, len(values)), values, linewidth=1.3, **style)
        looks[population_name(network, kind)] = {**style, "linewidth": 1.6}
    ax.axhline(0, color="#404040", linewidth=0.7)
    ax.set_xlim(0, 100)
    ax.set_xlabel("neuroids, best first (%)", fontsize=SMALL)
    ax.set_ylabel("held-out correlation\nwith the best match", fontsize=SMALL)
    ax.set_title(shown(area or "all neuroids"), fontsize=SMALL)
    legend_below(fig, dict(sorted(looks.items())))
    return fig


def population_name(network: str, kind: str) -> str:
    """What a kind of features is called, such as ``sparse features, trained``."""
    words = {"pca": "principal components", "units": "raw units"}
    return f"{words.get(kind, 'sparse features')}, {network}"

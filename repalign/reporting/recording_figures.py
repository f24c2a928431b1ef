"""The figures of a recording's quality."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from repalign.quality import RecordingQuality, TargetQuality
from repalign.reporting.condition_looks import blank_figure, legend_below, shown
from repalign.reporting.panels import COLOURS, MARKERS, SMALL
from repalign.stimuli import Stimuli

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
PANELS = 12  # at most; the caption says how many there are
PANEL_HEIGHT = 1.7
THUMBNAILS = 12
TICKS = 12  # sessions that are named

Panels = Sequence[tuple[str, Callable[["Axes"], None]]]


def response_targets(quality: RecordingQuality) -> list[TargetQuality]:
    """The targets that have responses; none of published RDMs."""
    found = [one for one in quality.targets if isinstance(one, TargetQuality)]
    return [one for one in found if one.repetitions.size]


def name_of(one: Any) -> str:
    """Species, region and subject of a target in one line."""
    return " ".join(filter(None, one.target))


def reliability_figure(quality: RecordingQuality) -> Figure:
    """Draw how many neuroids of each region have what reliability, its subjects apart."""
    regions: dict[str, list[TargetQuality]] = {}
    subjects = list(dict.fromkeys(one.target.subject for one in response_targets(quality)))
    for one in response_targets(quality):
        if not np.isnan(one.reliability).all():
            regions.setdefault(f"{one.target.species} {one.target.region}", []).append(one)

    def panel(own: Sequence[TargetQuality]) -> Callable[[Axes], None]:
        def draw(ax: Axes) -> None:
            known = [one.reliability[~np.isnan(one.reliability)] for one in own]
            low = min(-0.2, math.floor(10 * min(float(each.min()) for each in known)) / 10)
            edges = np.linspace(max(low, -1.0), 1, 1 + round(20 * (1 - max(low, -1.0))))
            ax.hist(
                [np.clip(each, edges[0], None) for each in known], edges.tolist(), stacked=True,
                color=[COLOURS[subjects.index(one.target.subject) % len(COLOURS)] for one in own],
                label=[shown(one.target.subject, longest=18) for one in own],
            )  # fmt: skip
            middle = float(np.median(np.concatenate(known)))
            ax.axvline(middle, color="#000000", linewidth=1, linestyle=(0, (3, 1.5)))
            ax.set_xlabel(f"reliability (median {middle:.2f})", fontsize=SMALL)
            ax.set_ylabel("neuroids", fontsize=SMALL)
            if 1 < len(own) <= 6:
                ax.legend(fontsize=SMALL - 1, frameon=False, handlelength=1)

        return draw

    return _grid([(region, panel(own)) for region, own in regions.items()])


def histogram_figure(quality: RecordingQuality) -> Figure:
    """Draw how often each response occurs in each target."""
    label = quality.units or "response"

    def panel(one: TargetQuality) -> Callable[[Axes], None]:
        def draw(ax: Axes) -> None:
            ax.stairs(one.bin_counts, one.bin_edges, fill=True, color=COLOURS[0])
            ax.set_yscale("symlog", linthresh=1)
            ax.set_xlabel(shown(label, longest=34), fontsize=SMALL)
            ax.set_ylabel("responses", fontsize=SMALL)
            ax.set_ylim(bottom=0)

        return draw

    return _grid([(name_of(one), panel(one)) for one in response_targets(quality)])


def repetition_figure(quality: RecordingQuality) -> Figure:
    """Draw how many stimuli have how many repetitions, in each target."""

    def panel(one: TargetQuality) -> Callable[[Axes], None]:
        def draw(ax: Axes) -> None:
            counts = Counter(one.repetitions.tolist())
            ax.bar(list(counts), list(counts.values()), color=COLOURS[2])
            ax.locator_params(integer=True)
            low, high = min(counts), max(counts)
            ax.set_xlim(min(low, 1) - 0.7 if low < 2 else low - 1.7, high + 1.7)
            ax.set_xlabel("presentations of a stimulus", fontsize=SMALL)
            ax.set_ylabel("stimuli", fontsize=SMALL)

        return draw

    alike: dict[tuple[int, ...], list[TargetQuality]] = {}
    for one in response_targets(quality):
        alike.setdefault(tuple(sorted(one.repetitions.tolist())), []).append(one)
    return _grid(
        [
            (name_of(own[0]) if len(own) == 1 else f"{len(own)} targets", panel(own[0]))
            for own in alike.values()
        ]
    )


def session_figure(quality: RecordingQuality) -> Figure:
    """Draw each target's mean response in each session, or half, with its drift in the legend."""
    fig, axes = blank_figure(1, 1, height=2.4, width=5.6)
    ax, found = axes[0, 0], response_targets(quality)[:PANELS]
    places, looks = np.arange(len(quality.part_names)), {}
    for number, one in enumerate(found):
        style = {
            "color": COLOURS[number % len(COLOURS)], "linewidth": 1.4, "markersize": 4.5,
            "marker": MARKERS[number % len(MARKERS)],
        }  # fmt: skip
        ax.plot(places, one.part_means, **style)
        drift = one.row()["drift"]
        said = "drift unknown" if drift is None else f"drift {drift:.1%}"
        looks[f"{shown(name_of(one), longest=40)} ({said})"] = style
    every = math.ceil(len(places) / TICKS)
    names = [shown(quality.part_names[place], longest=14) for place in places[::every]]
    ax.set_xticks(places[::every], names)
    if sum(map(len, names)) > 60:
        ax.tick_params(axis="x", rotation=60)
    ax.set_xlim(-0.5, len(places) - 0.5)
    ax.margins(y=0.25)
    # at least as high as one neuroid's responses are spread, so that no small change looks large
    low, high = ax.get_ylim()
    spread = max((one.row()["spread"] or 0.0) for one in found) if found else 0.0
    missing = max(0.0, spread - (high - low)) / 2
    ax.set_ylim(low - missing, high + missing)
    ax.set_ylabel(f"mean response\n({shown(quality.units or 'units not stated', longest=30)})",
                  fontsize=SMALL)  # fmt: skip
    legend_below(fig, looks)
    return fig


def rdm_figure(quality: RecordingQuality) -> Figure:
    """Draw the Spearman correlations of all RDMs as a matrix."""
    names = [shown(name_of(one), longest=30) for one in quality.targets]
    size = 2.2 + 0.32 * len(names)
    fig, axes = blank_figure(1, 1, height=size, width=min(7.2, size + 1.6))
    ax, values = axes[0, 0], quality.rdm_correlations
    image = ax.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=SMALL)
    ax.set_yticks(range(len(names)), names, fontsize=SMALL)
    ax.spines[:].set_visible(False)
    if len(names) <= 12:
        for row, column in np.ndindex(values.shape):
            dark = abs(values[row, column]) > 0.6
            ax.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center",
                    fontsize=SMALL - 1, color="white" if dark else "black")  # fmt: skip
    bar = fig.colorbar(image, ax=ax, shrink=0.7)
    bar.set_label("Spearman correlation", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    return fig


def thumbnail_figure(stimuli: Stimuli) -> Figure:
    """Draw up to twelve images, evenly drawn from all, with their ids."""
    chosen = np.unique(np.linspace(0, len(stimuli) - 1, min(THUMBNAILS, len(stimuli))).astype(int))
    columns = min(6, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    fig, axes = blank_figure(rows, columns, height=1.45 * rows)
    for place, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if place < len(chosen):
            ax.imshow(stimuli.image(int(chosen[place])))
            name = stimuli.ids[chosen[place]]
            ax.set_title(shown(name, longest=15), fontsize=SMALL - 1)
    return fig


def _grid(panels: Panels) -> Figure:
    """A figure of small panels, each with its title; at most `PANELS`."""
    panels = panels[:PANELS]
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = 2.4 * columns if columns > 1 else 4.0
    fig, axes = blank_figure(rows, columns, height=rows * (PANEL_HEIGHT + 0.35), width=width)
    for place, ax in enumerate(axes.flat):
        if place >= len(panels):
            ax.set_visible(False)
            continue
        title, draw = panels[place]
        draw(ax)
        ax.set_title(shown(title, longest=34), fontsize=SMALL)
    return fig

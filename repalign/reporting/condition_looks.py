"""How the conditions of an experiment are drawn: one colour, line and marker in all figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from repalign.reporting.panels import MARKERS, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE_WIDTH = 7.2  # inches: two columns of a journal, 183 mm
LINE = 0.155  # inches: a line of text of 8 points

# Colour, line, marker. Controls that destroy the same thing share a colour.
LOOKS: dict[str, tuple[str, Any, str]] = {
    "aligned": ("#0072B2", "-", "o"),
    "baseline": ("#000000", "-", "o"),
    "one-hot": ("#D55E00", "-", "s"),
    "non-robust-teacher": ("#009E73", "-", "^"),
    "other-region": ("#009E73", (0, (4, 1.5)), "v"),
    "row-shuffle": ("#CC79A7", "-", "D"),
    "within-class-shuffle": ("#CC79A7", (0, (4, 1.5)), "d"),
    "gaussian": ("#7f7f7f", "-", "X"),
    "spectrum-matched": ("#7f7f7f", (0, (4, 1.5)), "P"),
    "rank-k": ("#56B4E9", "-", "p"),
    "jitter": ("#E69F00", "-", "<"),
    "adversarial-training": ("#000000", (0, (1, 1.2)), "*"),
}
OTHER_COLOURS = ("#7b4f2e", "#6a3d9a", "#808000", "#b03060")  # of conditions that users add


def look_of(condition: str, every: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of a condition's line; conditions of other names get their own look."""
    others = [name for name in every if name not in LOOKS]
    if condition in LOOKS:
        colour, line, marker = LOOKS[condition]
    else:
        place = others.index(condition)
        colour, line = OTHER_COLOURS[place % len(OTHER_COLOURS)], (0, (6, 1.5, 1, 1.5))
        marker = MARKERS[place % len(MARKERS)]
    return {
        "color": colour, "linestyle": line, "marker": marker,
        "linewidth": 2.4 if condition == "aligned" else 1.4, "markersize": 4.5,
        "markerfacecolor": "white" if condition == "baseline" else colour,
        "zorder": 5 if condition == "aligned" else 4 if condition == "baseline" else 3,
    }  # fmt: skip


def shown(text: str, *, longest: int = 60) -> str:
    """Text that matplotlib shows as it is, cut in the middle where it is long."""
    text = " ".join(str(text).split())
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-longest // 2 + 1 :]}"
    return text.replace("$", r"\$")


def blank_figure(
    rows: int, columns: int, *, height: float, width: float = PAGE_WIDTH, **grid: Any
) -> tuple[Figure, Any]:
    """Return a figure that belongs to no window, and its axes as an array of rows × columns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    fig.set_facecolor("white")
    axes = fig.subplots(rows, columns, squeeze=False, **grid)
    for ax in axes.flat:
        ax.tick_params(labelsize=SMALL, labelleft=True, labelbottom=True)
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes


def label_at_end(ax: Axes, ends: Sequence[tuple[str, float, float, str]], *, height: float) -> None:
    """Write each line's name right of its end, apart from its neighbours, with a leader.

    Args:
        ax: whose vertical limits are final.
        ends: text, x, y and colour of each line's last point.
        height: of the panel, in inches.
    """
    low, high = ax.get_ylim()
    kept = sorted((end for end in ends if math.isfinite(end[2])), key=lambda end: end[2])
    places = _spread([end[2] for end in kept], LINE / height * (high - low), low, high)
    for (text, x, y, colour), place in zip(kept, places, strict=True):
        ax.annotate(
            text, (x, y), xytext=(1.07, (place - low) / (high - low)),
            textcoords="axes fraction", va="center", fontsize=SMALL, color=colour,
            annotation_clip=False, gid="label",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1,
                        "shrinkB": 3, "relpos": (0.0, 0.5)},
        )  # fmt: skip


def _spread(values: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Ascending places a step apart, as near to ascending values as may be: an isotonic fit."""
    groups: list[list[float]] = []  # less their ranks' steps, values of a group share their mean
    for rank, value in enumerate(values):
        groups.append([value - rank * step])
        while len(groups) > 1 and _mean(groups[-2]) > _mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    means = [_mean(group) for group in groups for _ in group]
    places = [mean + rank * step for rank, mean in enumerate(means)]
    down = max(0.0, places[-1] - high) if places else 0.0
    up = max(0.0, low - places[0] + down) if places else 0.0
    return [place - down + up for place in places]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def legend_below(fig: Figure, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Name lines below all panels, where they hide no data, and make room for the names."""
    from matplotlib.lines import Line2D

    longest = max(map(len, entries), default=0)
    columns = max(1, min(len(entries), int(fig.get_figwidth() / (0.064 * longest + 0.55))))
    fig.legend(
        [Line2D([], [], **style) for style in entries.values()], list(entries),
        loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False, handlelength=2.6,
    )  # fmt: skip
    fig.set_figheight(fig.get_figheight() + 0.19 * math.ceil(len(entries) / columns))

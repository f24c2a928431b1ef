"""The figure of one time against another, or against the layers of a network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from repalign.recording import TIME_BIN
from repalign.reporting.condition_looks import blank_figure, shown
from repalign.reporting.panels import SMALL
from repalign.reporting.time_courses import cluster_words, counted, groups_of, metric_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP = "PuOr_r"  # two hues around 0 that colour-blind readers tell apart


def plot_time_by_time(
    result: xr.Dataset,
    clusters: xr.Dataset | None = None,
    *,
    alpha: float = 0.05,
    title: str | None = None,
) -> Figure:
    """Draw time × time, or time × layer, as heat maps; significant clusters are outlined.

    Args:
        result: of ``repalign.cross_temporal``; the mean over subjects is shown.
        clusters: of ``repalign.time_clusters``.
        alpha: level of the clusters.
        title: above the panels.

    Returns:
        A figure; write it with ``repalign.reporting.figures.save_figure``.

    Raises:
        ValueError: not the result of ``cross_temporal``.

    Example:
        >>> from repalign import cross_temporal, make_recording
        >>> draw = np.random.default_rng(0)
        >>> bins = (np.arange(5) * 10.0, np.arange(5) * 10.0 + 10)
        >>> meg = make_recording(draw.normal(size=(16, 6, 5)), stimulus_id=list("abcdefgh") * 2,
        ...                      region="IT", time_bins=bins)
        >>> plot_time_by_time(cross_temporal(meg)).axes[0].get_ylabel()
        'time (ms)'
    """
    if "value" not in result or result["value"].dims[:2] != ("target", TIME_BIN):
        raise ValueError(
            "time by time is drawn from what repalign.cross_temporal returned; this has"
            f" {dict(result.sizes)}"
        )
    groups = groups_of(result)
    across = min(3, len(groups))
    down = math.ceil(len(groups) / across)
    fig, axes = blank_figure(
        down, across, height=2.5 * down + 0.4, width=max(3.6, 2.5 * across + 0.9)
    )
    means = {
        name: result["value"].isel(target=rows).mean("target") for name, rows in groups.items()
    }
    reach = max(float(np.nanmax(np.abs(one.values))) for one in means.values()) or 1.0
    layered = "layer" in result["value"].dims
    y = _edges(result, "")
    x = np.arange(result.sizes["layer"] + 1) - 0.5 if layered else _edges(result, "_")
    mesh: Any = None
    for ax, (name, mean) in zip(axes.flat, means.items(), strict=False):
        mesh = ax.pcolormesh(x, y, mean.values, cmap=MAP, vmin=-reach, vmax=reach, rasterized=True)
        ax.set_title(f"{shown(name, longest=34)} ({counted(result, groups[name])})", fontsize=SMALL)
        ax.set_ylabel("time (ms)", fontsize=SMALL)
        if layered:
            _name_layers(ax, [str(one) for one in result["layer"].values])
        else:
            ax.set_xlabel("time (ms)", fontsize=SMALL)
            ax.set_aspect("equal" if "other" not in result.coords else "auto")
            if "other" not in result.coords:
                ends = [max(x[0], y[0]), min(x[-1], y[-1])]
                ax.plot(ends, ends, color="#404040", linewidth=0.6, linestyle=(0, (4, 3)))
        if clusters is not None and name in clusters["region"].values.tolist():
            row = clusters["region"].values.tolist().index(name)
            _outline(ax, x, y, clusters["p"].values[row] <= alpha)
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    bar = fig.colorbar(mesh, ax=axes, shrink=0.8, aspect=22)
    bar.set_label(metric_label(result), fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    if clusters is not None:
        fig.supxlabel(cluster_words(clusters, alpha, "outlined"), fontsize=SMALL)
    if title:
        fig.suptitle(shown(title, longest=70), fontsize=10, fontweight="bold")
    return fig


def _edges(result: xr.Dataset, suffix: str) -> np.ndarray[Any, Any]:
    """Borders of the cells: between bins that overlap, the middle of their middles."""
    middles = result[f"time_ms{suffix}"].values
    inner = (middles[1:] + middles[:-1]) / 2
    return np.array([2 * middles[0] - inner[0], *inner, 2 * middles[-1] - inner[-1]])


def _name_layers(ax: Axes, names: list[str]) -> None:
    every = math.ceil(len(names) / 12)
    chosen = range(0, len(names), every)
    labels = [shown(names[k], longest=18) for k in chosen]
    ax.set_xticks(list(chosen), labels, rotation=90, fontsize=SMALL - 1)


def _outline(ax: Axes, x: Any, y: Any, inside: np.ndarray[Any, Any]) -> None:
    """Draw the border between points inside and outside, along the edges of the cells."""
    from matplotlib.collections import LineCollection

    padded = np.pad(inside, 1)
    lines = []
    for i, j in zip(*np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1]), strict=True):
        lines.append([(x[j], y[i]), (x[j], y[i + 1])])
    for i, j in zip(*np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1]), strict=True):
        lines.append([(x[j], y[i]), (x[j + 1], y[i])])
    ax.add_collection(LineCollection(lines, colors="#000000", linewidths=1.1, gid="significant"))

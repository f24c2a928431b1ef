"""The figure of similarity along time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy import stats

from repalign.recording import TIME_BIN
from repalign.reporting.condition_looks import PAGE_WIDTH, blank_figure, shown
from repalign.reporting.panels import COLOURS, SMALL, VARIANT_LINES

PANEL, LETTER = 1.9, 0.058  # inches: height of the axes, mean width of a letter
UNDEFINED = 0.25  # share of split halves without signal up to which a ceiling is drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_time_course(
    result: xr.Dataset,
    clusters: xr.Dataset | None = None,
    *,
    alpha: float = 0.05,
    confidence: float = 0.95,
    title: str | None = None,
) -> Figure:
    """Draw similarity along time: a panel a region, a line a layer, over the noise ceiling.

    Lines are means over subjects. The shaded band is the t interval of that mean where there are
    two subjects or more, else the interval over stimuli that ``time_resolved`` was asked for. Bars
    below the curves are significant clusters; the grey band is the mean of the subjects'
    ceilings, where no more than a quarter of their split halves are without signal.

    Args:
        result: of ``repalign.time_resolved``.
        clusters: of ``repalign.time_clusters``, whose significant times are bars.
        alpha: level of the clusters.
        confidence: of the interval over subjects.
        title: above the panels.

    Returns:
        A figure; write it with ``repalign.reporting.figures.save_figure``.

    Raises:
        ValueError: not the result of ``time_resolved``, or clusters of another result.

    Example:
        >>> from repalign import make_recording, time_resolved
        >>> draw = np.random.default_rng(0)
        >>> bins = (np.arange(5) * 10.0, np.arange(5) * 10.0 + 10)
        >>> meg = make_recording(draw.normal(size=(8, 6, 5)), stimulus_id=list("abcdefgh"),
        ...                      region="IT", time_bins=bins)
        >>> layer = meg.isel(time_bin=0).drop_vars(["time_bin_start_ms", "time_bin_stop_ms"])
        >>> plot_time_course(time_resolved(meg, layer)).axes[0].get_xlabel()
        'time (ms)'
    """
    if "value" not in result or result["value"].dims != ("target", "layer", TIME_BIN):
        raise ValueError(
            f"time courses are drawn from what repalign.time_resolved returned; this has"
            f" {dict(result.sizes)}"
        )
    groups = groups_of(result)
    across = min(3, len(groups))
    down = math.ceil(len(groups) / across)
    fig, axes = blank_figure(
        down, across, height=(PANEL + 0.7) * down + 0.4,
        width=max(4.6, PAGE_WIDTH * min(1, across / 2)), sharex=True, sharey=True,
    )  # fmt: skip
    names = [str(name) for name in result["layer"].values]
    if clusters is not None and not set(map(str, clusters["layer"].values)) <= set(names):
        raise ValueError("clusters are of other layers than the result")
    for ax, (name, rows) in zip(axes.flat, groups.items(), strict=False):
        _draw_courses(ax, result.isel(target=rows), names, confidence)
        ax.set_title(f"{shown(name, longest=40)} ({counted(result, rows)})", fontsize=SMALL)
        if clusters is not None:
            _draw_bars(ax, clusters, name, names, alpha)
        ax.set_xlabel("time (ms)", fontsize=SMALL)
    for row in axes:
        row[0].set_ylabel(metric_label(result), fontsize=SMALL)
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    _course_legend(fig, result, names, clusters, alpha, confidence)
    if title:
        fig.suptitle(shown(title, longest=80), fontsize=10, fontweight="bold")
    return fig


def groups_of(result: xr.Dataset) -> dict[str, list[int]]:
    """The targets of each region, as ``time_clusters`` names it."""
    names = ["species", "region"] + ["other"] * ("other" in result.coords)
    groups: dict[str, list[int]] = {}
    for i in range(result.sizes["target"]):
        name = " ".join(filter(None, (str(result[c].values[i]) for c in names)))
        groups.setdefault(name, []).append(i)
    return groups


def counted(result: xr.Dataset, rows: list[int]) -> str:
    """How many subjects and stimuli a panel is about."""
    return (
        f"{len(rows)} subject{'s' * (len(rows) > 1)}, {result.attrs.get('n_stimuli', '?')} stimuli"
    )


def metric_label(result: xr.Dataset) -> str:
    """What is shown."""
    return f"similarity ({result.attrs.get('metric', 'value')})"


def _look(names: list[str], k: int) -> dict[str, Any]:
    line = VARIANT_LINES[(k // len(COLOURS)) % len(VARIANT_LINES)]
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": line}


def _draw_courses(ax: Axes, part: xr.Dataset, names: list[str], confidence: float) -> None:
    times, values = part["time_ms"].values, part["value"].values
    ax.axhline(0, color="#404040", linewidth=0.7)
    if times[0] < 0 < times[-1]:
        ax.axvline(0, color="#404040", linewidth=0.7, linestyle=(0, (2, 2)))
    known = part["ceiling_undefined"].mean("target").values <= UNDEFINED
    if known.any():
        low, high = (part[f"ceiling_{end}"].mean("target").values for end in ("low", "high"))
        ax.fill_between(
            times, low, high, where=known, facecolor="#dcdcdc", edgecolor="#b0b0b0",
            linewidth=0.5, gid="ceiling",
        )  # fmt: skip
    n = len(values)
    for k, name in enumerate(names):
        mean, look = values[:, k].mean(0), _look(names, k)
        band = None
        if n > 1:
            reach = stats.t.ppf((1 + confidence) / 2, n - 1) / math.sqrt(n)
            spread = reach * values[:, k].std(0, ddof=1)
            band = mean - spread, mean + spread
        elif "low" in part:
            band = part["low"].values[0, k], part["high"].values[0, k]
        if band is not None:
            ax.fill_between(times, *band, color=look["color"], alpha=0.18, linewidth=0)
        ax.plot(times, mean, linewidth=1.5, gid=f"layer:{name}", **look)


def _draw_bars(ax: Axes, clusters: xr.Dataset, region: str, names: list[str], alpha: float) -> None:
    """A line below the curves where a layer's cluster is significant."""
    from matplotlib.transforms import blended_transform_factory

    regions = clusters["region"].values.tolist()
    if region not in regions:
        return
    blended = blended_transform_factory(ax.transData, ax.transAxes)
    starts, stops = (clusters[f"time_bin_{end}_ms"].values for end in ("start", "stop"))
    step = min(0.035, 0.3 / len(names))
    for layer in map(str, clusters["layer"].values):
        k = names.index(layer)
        own = clusters.sel(layer=layer)["p"].values[regions.index(region)] <= alpha
        for t in np.flatnonzero(own):
            ax.plot(
                [starts[t], stops[t]], [-step * (k + 1)] * 2, transform=blended, linewidth=2.2,
                color=_look(names, k)["color"], solid_capstyle="butt", clip_on=False,
                gid=f"significant:{layer}",
            )  # fmt: skip
    ax.tick_params(axis="x", pad=3 + PANEL * 72 * step * len(names))


def cluster_words(clusters: xr.Dataset, alpha: float, how: str) -> str:
    """What marks mean, with the least p that the test can give."""
    least = float(clusters.attrs.get("smallest_p", float("nan")))
    text = f"{how}: clusters of p ≤ {alpha:g} (smallest possible {least:.2g})"
    return text + ("; too few subjects for any" if least > alpha else "")


def _course_legend(
    fig: Figure,
    result: xr.Dataset,
    names: list[str],
    clusters: xr.Dataset | None,
    alpha: float,
    confidence: float,
) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[tuple[Any, str]] = [
        (Line2D([], [], linewidth=1.5, **_look(names, k)), shown(name, longest=30))
        for k, name in enumerate(names)
    ]
    if result.attrs.get("ceiling_kind"):
        grey = Patch(facecolor="#dcdcdc", edgecolor="#b0b0b0")
        entries.append((grey, f"noise ceiling ({result.attrs['ceiling_kind']})"))
    if max(map(len, groups_of(result).values())) > 1:
        entries.append(
            (Patch(color=COLOURS[0], alpha=0.3), f"{100 * confidence:g} % over subjects")
        )
    elif result.attrs.get("interval"):
        entries.append((Patch(color=COLOURS[0], alpha=0.3), str(result.attrs["interval"])))
    if clusters is not None:
        thick = Line2D([], [], color="#404040", linewidth=2.2)
        entries.append((thick, cluster_words(clusters, alpha, "bars")))
    longest = max(len(label) for _, label in entries)
    columns = max(1, min(3, int(fig.get_figwidth() / (LETTER * longest + 0.5))))
    fig.legend(
        [handle for handle, _ in entries], [label for _, label in entries],
        loc="outside lower center", ncols=columns, fontsize=SMALL - 0.5, frameon=False,
    )  # fmt: skip
    fig.set_figheight(fig.get_figheight() + 0.16 * math.ceil(len(entries) / columns))

"""One panel of the figure: how each model is drawn, over what axis, and below which ceiling."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repalign.reporting.profiles import Ceiling, Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito (2008) without yellow, which a white page swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
VARIANT_LINES = ("-", ":", "-.", (0, (4, 1, 1, 1, 1, 1)))
BASELINE_DASHES = ((0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1, 2)), (0, (1, 1)))
BASELINE_GREYS = ("#1a1a1a", "#5c5c5c", "#858585")
CEILING_HATCHES = (None, "////", "....", "xxxx")
CEILING_LINES = ("-", (0, (8, 1)), (0, (4, 1)), (0, (2, 1)))
SMALL = 8.0  # points at print size


@dataclass(frozen=True)
class Look:
    """How one model is drawn, the same in all panels."""

    label: str
    style: Mapping[str, Any]
    """Arguments of the line."""
    is_baseline: bool
    shift: float
    """Distance of its intervals from the layer, of a baseline's from the last layer, in steps."""


@dataclass(frozen=True)
class DepthAxis:
    """What the horizontal axis means."""

    names: tuple[str, ...] | None
    """Layer names; None where models differ in them, and the axis is relative depth."""
    step: float
    """Distance between neighbouring layers."""
    label: str

    @property
    def right(self) -> float:
        """Position of the last layer."""
        return 1.0 if self.names is None else len(self.names) - 1.0

    def positions(self, layers: Sequence[str]) -> list[float]:
        """Where each layer stands."""
        if self.names is not None:
            return [float(self.names.index(layer)) for layer in layers]
        return [index / max(len(layers) - 1, 1) for index in range(len(layers))]


def choose_looks(every: Sequence[Profile]) -> dict[str, Look]:
    """A family (a model and its twins) shares colour and marker; line and filling tell them apart.

    Models of one layer are dashed baselines, unless all are.
    """
    layers = {profile.model: profile.layers for profile in every}
    depth = any(len(own) > 1 for own in layers.values())
    lined = [model for model, own in layers.items() if len(own) > 1 or not depth]
    apart = not depth and len(set(layers.values())) == len(layers)  # no two at one position
    dodge = 0.0 if apart else min(0.14, 0.5 / len(lined))
    families: dict[str, list[str]] = defaultdict(list)
    looks: dict[str, Look] = {}
    for model, own in layers.items():
        base, _, variant = model.partition("@")
        label = f"{model} (untrained)" if variant.split(":")[0] == "random" else model
        if model not in lined:
            place = sum(look.is_baseline for look in looks.values())
            style: dict[str, Any] = {
                "color": BASELINE_GREYS[place % len(BASELINE_GREYS)],
                "linestyle": BASELINE_DASHES[place % len(BASELINE_DASHES)],
                "linewidth": 1.2,
            }
            label = label if own[0] in (model, base, "") else f"{label} ({own[0]})"
            looks[model] = Look(label, style, is_baseline=True, shift=0.6 + 0.3 * place)
            continue
        families[base].append(model)
        family, twin = list(families).index(base), len(families[base]) - 1
        colour = COLOURS[family % len(COLOURS)]
        style = {
            "color": colour,
            "linestyle": VARIANT_LINES[(twin + 2 * (family // len(COLOURS))) % len(VARIANT_LINES)],
            "linewidth": 1.6,
            "marker": MARKERS[(family + 2 * (twin // 2)) % len(MARKERS)],
            "markersize": 4.5,
            "markerfacecolor": "white" if twin % 2 else colour,
        }
        shift = dodge * (lined.index(model) - (len(lined) - 1) / 2)
        looks[model] = Look(label, style, is_baseline=False, shift=shift)
    return looks


def choose_axis(every: Sequence[Profile], looks: Mapping[str, Look]) -> DepthAxis:
    """Layer names where all models share them, or have one layer each; else relative depth."""
    lists = list({p.model: p.layers for p in every if not looks[p.model].is_baseline}.values())
    longest = max(lists, key=len)
    if len(longest) == 1:  # what the axis can then show is models
        return DepthAxis(tuple(dict.fromkeys(own[0] for own in lists)), 1.0, "layer")
    if all(own == tuple(name for name in longest if name in own) for own in lists):
        return DepthAxis(longest, 1.0, "layer (input to output)")
    label = "relative depth (first to last recorded layer)"
    return DepthAxis(None, 1 / (len(longest) - 1), label)


def draw_panel(
    ax: Axes, drawn: Sequence[Profile], looks: Mapping[str, Look], axis: DepthAxis
) -> None:
    """Draw the models of one target and metric over zero; say so if there is nothing to draw."""
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.axhline(0.0, color="#404040", linewidth=0.7, zorder=1.5, gid="zero")
    baselines = sum(look.is_baseline for look in looks.values())
    ax.set_xlim(-0.5 * axis.step, axis.right + axis.step * (0.5 + 0.35 * baselines))
    for profile in drawn:
        look = looks[profile.model]
        (_draw_baseline if look.is_baseline else _draw_line)(ax, profile, look, axis)
    note = "" if any(p.best for p in drawn) else "no defined value" if drawn else "not computed"
    if note:
        ax.text(
            0.5, 0.5, note, transform=ax.transAxes, ha="center", va="center", fontsize=SMALL,
            color="#595959", style="italic",
        )  # fmt: skip


def _draw_line(ax: Axes, profile: Profile, look: Look, axis: DepthAxis) -> None:
    places = axis.positions(profile.layers)
    if profile.has_intervals:
        places = [place + look.shift * axis.step for place in places]
    if len(profile.subjects) > 1:
        thin = {**look.style, "linewidth": 0.7, "marker": "", "alpha": 0.4, "zorder": 2}
        for subject in profile.subjects:
            ax.plot(places, profile.values(subject), gid=f"subject:{profile.model}", **thin)
    ax.plot(places, profile.mean, zorder=4, gid=f"model:{profile.model}", **look.style)
    for place, layer in zip(places, profile.layers, strict=True):
        _draw_interval(ax, place, profile.interval(layer), look)


def _draw_baseline(ax: Axes, profile: Profile, look: Look, axis: DepthAxis) -> None:
    """A dashed line across; its interval, or its subjects, stand to the right of the last layer."""
    value = profile.mean[0]
    if not math.isfinite(value):
        return
    ax.axhline(value, zorder=2.5, gid=f"model:{profile.model}", **look.style)
    place = axis.right + axis.step * look.shift
    _draw_interval(ax, place, profile.interval(profile.layers[0]), look)
    if len(profile.subjects) > 1:
        own = [profile.values(subject)[0] for subject in profile.subjects]
        ax.plot(
            [place] * len(own), own, linestyle="none", marker="_", markersize=5, alpha=0.6,
            color=look.style["color"], zorder=3, gid=f"subject:{profile.model}",
        )  # fmt: skip


def _draw_interval(ax: Axes, place: float, bar: tuple[float, float] | None, look: Look) -> None:
    if bar:
        ax.vlines(place, *bar, color=look.style["color"], linewidth=0.9, zorder=3, gid="interval")


def draw_ceiling(ax: Axes, ceiling: Ceiling, kinds: Sequence[str]) -> None:
    """Draw a noise ceiling as a grey band, or as a line where both ends coincide."""
    if ceiling.low == ceiling.high:
        style = ceiling_style(ceiling.kind, kinds, is_line=True)
        ax.axhline(ceiling.low, zorder=1, gid="ceiling", **style)
    else:  # the sides of the band lie outside the panel
        style = ceiling_style(ceiling.kind, kinds, is_line=False)
        ax.axhspan(ceiling.low, ceiling.high, -0.1, 1.1, zorder=0.5, gid="ceiling", **style)


def ceiling_style(kind: str, kinds: Sequence[str], *, is_line: bool) -> dict[str, Any]:
    """Arguments of the line or band of one kind of noise ceiling among those of the figure."""
    place = kinds.index(kind) % len(CEILING_HATCHES)
    if is_line:
        return {"color": "#a6a6a6", "linewidth": 2.5, "linestyle": CEILING_LINES[place]}
    hatch = CEILING_HATCHES[place]
    return {"facecolor": "#dcdcdc", "edgecolor": "#8c8c8c", "linewidth": 0.8, "hatch": hatch}

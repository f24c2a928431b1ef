"""The figure of score against depth, and the files that figures are written to.

Nothing here touches pyplot: a figure belongs to whoever asked for it, and no backend, window or
global style is changed.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repalign.reporting.panels import (
    SMALL,
    DepthAxis,
    Look,
    ceiling_style,
    choose_axis,
    choose_looks,
    draw_ceiling,
    draw_panel,
)
from repalign.reporting.profiles import (
    Ceiling,
    Profile,
    Row,
    Target,
    ceiling_of,
    gather_profiles,
    interval_name,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGE = 10.0  # points at print size
LETTER = 0.058  # inches: mean width of a letter of 8 points
PAGE_WIDTH = 7.2  # inches: two columns of a journal, 183 mm
LINE = 0.17  # inches: a line of text
HEIGHT = 1.75  # inches a row of panels


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

    every = gather_profiles(rows)
    targets = _beside(dict.fromkeys(p.target for p in every))
    metrics = list(dict.fromkeys(p.metric for p in every))
    datasets = list(dict.fromkeys(p.target.dataset for p in every))
    looks = choose_looks(every)
    axis = choose_axis(every, looks)
    panels = {
        (i, j): [p for p in every if (p.metric, p.target) == (metric, target)]
        for i, metric in enumerate(metrics)
        for j, target in enumerate(targets)
    }
    found = {key: ceiling_of(_rows(drawn)) for key, drawn in panels.items()}
    ceilings = {key: ceiling for key, ceiling in found.items() if ceiling}
    kinds = list(dict.fromkeys(ceiling.kind for ceiling in ceilings.values()))
    width, panel = _widths(len(targets), axis)
    with matplotlib.rc_context({"text.usetex": False, "hatch.linewidth": 0.5}):
        fig = Figure(figsize=(width, HEIGHT * len(metrics)), layout="constrained")
        FigureCanvasAgg(fig)
        fig.set_facecolor("white")
        grid = fig.subplots(len(metrics), len(targets), squeeze=False, sharex=True, sharey="row")
        for key, drawn in panels.items():
            draw_panel(grid[key], drawn, looks, axis)
            grid[key].margins(y=0.06)
            if key in ceilings:
                draw_ceiling(grid[key], ceilings[key], kinds)
        for i, metric in enumerate(metrics):  # the bracket on a line of its own
            grid[i, 0].set_ylabel(_wrapped(metric.replace(" (", "\n(", 1), HEIGHT), fontsize=SMALL)
        for j, target in enumerate(targets):
            below = [p for p in every if p.target == target]
            head = _panel_title(target, below, panel, with_dataset=len(datasets) > 1)
            grid[0, j].set_title(head, fontsize=SMALL)
            grid[-1, j].set_xlabel(_wrapped(axis.label, panel), fontsize=SMALL)
            names = _label_layers(grid[-1, j], axis, panel)
        if title is None:
            title = datasets[0] if len(datasets) == 1 else ""
        if title:
            fig.suptitle(_text(title), fontsize=LARGE, fontweight="bold")
        entries = _add_legend(fig, every, looks, list(ceilings.values()), kinds)
        heads = max(ax.get_title().count("\n") + 1 for ax in grid[0])
        lines = heads + entries + 1.5 * bool(title) + 2
        fig.set_figheight(HEIGHT * len(metrics) + LINE * lines + names)
    return fig


def _beside(targets: Mapping[Target, None]) -> list[Target]:
    """Targets in the order of the rows, a group RDM beside its individuals and before them."""
    places = [replace(target, is_group=False) for target in targets]
    return sorted(targets, key=lambda t: (places.index(replace(t, is_group=False)), not t.is_group))


def _rows(drawn: Sequence[Profile]) -> list[Row]:
    return [row for profile in drawn for row in profile.cells.values()]


def _widths(columns: int, axis: DepthAxis) -> tuple[float, float]:
    """Width of the figure and of one panel in inches."""
    names = len(axis.names) if axis.names else 6
    full = PAGE_WIDTH if columns > 1 or names > 12 else 4.8
    panel = max((full - 0.8) / columns, min(1.5 + 0.03 * names, 2.0))
    return 0.8 + columns * panel, panel - 0.15


def _text(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign in a name begins no formula."""
    return text.replace("$", r"\$")


def _wrapped(text: str, width: float) -> str:
    """Text in lines that fit a width in inches, its own line breaks kept."""
    letters = max(8, int(width / LETTER))
    return _text("\n".join(w for line in text.split("\n") for w in textwrap.wrap(line, letters)))


def _panel_title(
    target: Target, drawn: Sequence[Profile], width: float, *, with_dataset: bool
) -> str:
    subjects = list(dict.fromkeys(subject for profile in drawn for subject in profile.subjects))
    stimuli = sorted({row["n_stimuli"] for row in _rows(drawn)})
    count = str(stimuli[0]) if len(stimuli) == 1 else f"{stimuli[0]}–{stimuli[-1]}"
    facts = [*filter(None, [target.whose(subjects)]), f"{count} stimuli"]
    comma = ", " if len(", ".join(facts)) * LETTER < width else "\n"
    lines = [target.name, comma.join(facts)] + [target.dataset] * with_dataset
    return _wrapped("\n".join(lines), width)


def _label_layers(ax: Axes, axis: DepthAxis, width: float) -> float:
    """Layer names below a panel of this width in inches, as many as stay legible: their height."""
    if axis.names is None:
        return LINE
    names = [n if len(n) <= 22 else f"{n[:10]}…{n[-11:]}" for n in axis.names]
    every = math.ceil(len(names) / max(2, int(width / 0.135)))
    chosen = range((len(names) - 1) % every, len(names), every)  # the last layer is always named
    ax.set_xticks(list(chosen), [_text(names[i]) for i in chosen])
    ax.set_xticks(range(len(names)), minor=True)
    if sum(len(names[i]) + 2 for i in chosen) * LETTER < width:
        return LINE
    ax.tick_params(axis="x", rotation=90)
    return max(len(names[i]) for i in chosen) * LETTER


def _add_legend(
    fig: Figure,
    every: Sequence[Profile],
    looks: Mapping[str, Look],
    ceilings: Sequence[Ceiling],
    kinds: Sequence[str],
) -> int:
    """Below the panels, where it hides no data; returns the number of its lines."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[tuple[str, Artist]] = [
        (look.label, Line2D([], [], **look.style))
        for look in sorted(looks.values(), key=lambda look: look.is_baseline)
    ]
    if any(len(p.subjects) > 1 for p in every):
        thin = Line2D([], [], color="#808080", linewidth=0.7)
        entries.append(("one subject (thick: mean)", thin))
    if any(p.has_intervals for p in every):
        bar = Line2D([], [], color="#404040", linestyle="none", marker="|", markersize=9)
        entries.append((interval_name(every), bar))
    for kind in kinds:
        is_line = all(c.low == c.high for c in ceilings if c.kind == kind)
        style = ceiling_style(kind, kinds, is_line=is_line)
        grey = Line2D([], [], **style) if is_line else Patch(**style)
        entries.append((f"noise ceiling ({kind})", grey))
    longest = max(len(label) for label, _ in entries)
    fitting = max(1, int(fig.get_figwidth() / (1.1 * LETTER * longest + 0.6)))
    columns = min(fitting, len(entries))
    fig.legend(
        [handle for _, handle in entries], [_text(label) for label, _ in entries],
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

"""The figure of a model comparison: values, intervals, noise ceilings, and who beats whom."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from repalign.reporting.condition_looks import LINE, blank_figure, shown
from repalign.reporting.metric_words import axis_label, metric_of
from repalign.reporting.model_pairs import BETTER, SAME, WORSE, draw_pairs, matrix_width, p_column
from repalign.reporting.panels import COLOURS, MARKERS, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.21  # inches a model
PANEL = 2.3  # inches of values
LETTER = 0.062
CEILINGS = (("ceiling_lower", "ceiling_upper"), ("ceiling_low", "ceiling_high"))
WHERE = ("dataset", "species", "region")


def plot_models(
    result: Any,
    pairs: pd.DataFrame | None = None,
    *,
    alpha: float = 0.05,
    order: str = "value",
    higher_is_better: bool | None = None,
    label: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw models as points with intervals, under the noise ceiling, with a matrix of all pairs.

    A panel a region, a row a model, the best above. Colour and marker are the model's family; the
    untrained twin is hollow. A star stands beside a model that differs from chance; a triangle
    beside one that differs from the lower noise ceiling, the grey band. In the matrix beside the
    points a cell is blue where the row's model is significantly better than the column's, orange
    where it is worse, so that it stays readable with 20 models where brackets would not. The
    legend names the marks that are drawn, and no others.

    Args:
        result: what ``repalign.infer`` returned, or its table: ``name`` (or ``model`` and
            ``layer``), ``value``, and where known ``low``, ``high``, ``species``, ``region``,
            ``ceiling_lower``, ``ceiling_upper``, ``p_corrected`` or ``p``, ``ceiling_p_corrected``,
            ``metric`` and ``metric_parameters``.
        pairs: its pairs: ``first``, ``second``, ``difference``, ``p_corrected`` or ``p``, and the
            columns of the region; taken from ``result`` where that has them.
        alpha: level of stars, triangles and cells.
        order: ``value``: the best on average above, or ``given``.
        higher_is_better: False for values that are distances; None: as the metric is, where the
            result names it, and True otherwise.
        label: of the values' axis; None: the metric with its range, where the result names it.
        title: above the panels.

    Returns:
        A figure; write it with ``repalign.reporting.figures.save_figure``.

    Raises:
        ValueError: no rows, a column that is missing, an unknown order, or a model that stands
            twice in a region.

    Example:
        >>> table = pd.DataFrame({"name": ["a", "b"], "value": [0.3, 0.1], "low": [0.2, 0.0],
        ...                       "high": [0.4, 0.2], "p": [0.01, 0.4]})
        >>> plot_models(table.assign(metric="cka")).axes[0].get_xlabel()
        'CKA (linear, debiased)\\n−1 to 1, higher is more similar'
    """
    table = pd.DataFrame(getattr(result, "table", result)).copy()
    if pairs is None and hasattr(result, "pairs"):
        pairs = result.pairs
    if pairs is not None and pairs.empty:
        pairs = None
    _check(table, pairs, order)
    metric = _metric(result, table)
    if higher_is_better is None:
        found = metric_of(*metric) if metric else None
        higher_is_better = True if found is None else found.higher_is_more_similar
    if label is None:
        label = axis_label(*metric) if metric else "value"
    if "name" not in table:
        table["name"] = [
            " ".join(str(v) for v in row if isinstance(v, str) and v)
            for row in table[[c for c in ("model", "layer") if c in table]].to_numpy()
        ]
    where = [c for c in WHERE if c in table]
    groups = list(table.groupby(where, sort=False, dropna=False)) if where else [((), table)]
    for key, rows in groups:
        if rows["name"].duplicated().any():
            twice = rows.loc[rows["name"].duplicated(), "name"].iloc[0]
            raise ValueError(f"model {twice!r} stands twice in {key}; give one row a model")
    means = table.groupby("name", sort=False)["value"].mean()
    names = [
        str(n)
        for n in (
            means.sort_values(ascending=not higher_is_better) if order == "value" else means
        ).index
    ]
    looks = _looks(names)
    matrix = matrix_width(len(names)) if pairs is not None else 0.0
    longest = max(len(shown(name, longest=44)) for name in names)
    width = LETTER * (longest + 4) + len(groups) * (PANEL + matrix + 0.25)
    fig, axes = blank_figure(
        1,
        len(groups) * (1 if pairs is None else 2),
        height=ROW * len(names) + 1.2,
        width=width,
        sharey=True,
        gridspec_kw={"width_ratios": [PANEL, *([matrix] if matrix else [])] * len(groups)},
    )
    grid = axes[0]
    for ax in grid[1:]:
        ax.tick_params(labelleft=False)
    for i, (key, rows) in enumerate(groups):
        ax = grid[i * (1 if pairs is None else 2)]
        _draw_values(ax, rows.set_index("name"), names, looks, alpha)
        ax.set_xlabel(_wrapped(label, PANEL), fontsize=SMALL)
        datasets = table["dataset"].nunique() if "dataset" in table else 1
        ax.set_title(_head(where, key, rows, with_dataset=datasets > 1), fontsize=SMALL)
        if pairs is not None:
            own = pairs
            for column, value in zip(where, key if isinstance(key, tuple) else (key,), strict=True):
                own = own[own[column] == value] if column in own else own
            sign = 1 if higher_is_better else -1
            own = own.assign(difference=sign * own["difference"])
            draw_pairs(grid[2 * i + 1], own, names, alpha)
    grid[0].set_yticks(
        range(len(names)),
        [f"{shown(name, longest=44)}  {k + 1}" for k, name in enumerate(names)],
        fontsize=SMALL,
    )
    grid[0].set_ylim(len(names) - 0.4, -0.6)
    _legend(fig, table, alpha)
    if title:
        said = _wrapped(shown(title, longest=240), fig.get_figwidth() * SMALL / 12)
        fig.suptitle(said, fontsize=10, fontweight="bold")
        fig.set_figheight(fig.get_figheight() + 0.15 + LINE * (1 + said.count("\n")))
    return fig


def _metric(result: Any, table: pd.DataFrame) -> tuple[str, Mapping[str, Any]] | None:
    """The metric's name and parameters, where the result or all rows of the table say one."""
    settings = getattr(result, "settings", None)
    if settings:
        return str(settings["metric"]), settings.get("metric_parameters", {})
    if "metric" not in table or table["metric"].nunique(dropna=False) != 1:
        return None
    parameters = table["metric_parameters"].iloc[0] if "metric_parameters" in table else {}
    return str(table["metric"].iloc[0]), parameters if isinstance(parameters, Mapping) else {}


def _wrapped(text: str, inches: float) -> str:
    """The text in lines that are no wider than that at print size."""
    width = max(12, int(inches / LETTER))
    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, width))


def _check(table: pd.DataFrame, pairs: pd.DataFrame | None, order: str) -> None:
    if table.empty:
        raise ValueError("the table has no rows; there is no model to draw")
    if "value" not in table or not {"name", "model"} & set(table):
        raise ValueError(
            f"the table has columns {', '.join(map(str, table.columns))}; expected value, and name"
            " or model"
        )
    if order not in ("value", "given"):
        raise ValueError(f"order is {order!r}; expected 'value' or 'given'")
    missing = [] if pairs is None else sorted({"first", "second", "difference"} - set(pairs))
    if missing:
        raise ValueError(f"pairs has no column {missing[0]!r}; expected first, second, difference")


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A family shares colour and marker; its untrained twin is hollow."""
    models = {name: name.split(" ")[0] for name in names}
    families = list(dict.fromkeys(model.partition("@")[0] for model in models.values()))
    looks = {}
    for name, model in models.items():
        base, _, variant = model.partition("@")
        k = families.index(base)
        colour = COLOURS[k % len(COLOURS)]
        looks[name] = {
            "marker": MARKERS[(k + k // len(COLOURS)) % len(MARKERS)],
            "color": colour,
            "markerfacecolor": "white" if variant.split(":")[0] == "random" else colour,
            "markersize": 5,
        }
    return looks


def _head(where: Sequence[str], key: Any, rows: pd.DataFrame, *, with_dataset: bool) -> str:
    values = dict(zip(where, key if isinstance(key, tuple) else (key,), strict=True))
    whose = " ".join(str(values[c]) for c in ("species", "region") if values.get(c))
    facts = []
    for column, noun in (("n_stimuli", "stimuli"), ("n_subjects", "subjects")):
        if column in rows and pd.notna(rows[column].iloc[0]):
            n = int(rows[column].iloc[0])
            facts.append(f"{n} {noun if n != 1 else noun[:-1].replace('stimul', 'stimulus')}")
    lines = [whose] * bool(whose) + [", ".join(facts)] * bool(facts)
    if with_dataset and "dataset" in values:
        lines.append(str(values["dataset"]))
    return _wrapped("\n".join(shown(line) for line in lines), PANEL)


def _ceiling(rows: pd.DataFrame) -> tuple[float, float] | None:
    for low, high in CEILINGS:
        if low in rows and high in rows and rows[[low, high]].notna().all().all():
            return float(rows[low].iloc[0]), float(rows[high].iloc[0])
    return None


def _draw_values(
    ax: Axes,
    rows: pd.DataFrame,
    names: Sequence[str],
    looks: dict[str, dict[str, Any]],
    alpha: float,
) -> None:
    ceiling = _ceiling(rows)
    if ceiling is not None:
        ax.axvspan(*ceiling, facecolor="#dcdcdc", edgecolor="#8c8c8c", linewidth=0.8, gid="ceiling")
    ax.axvline(0, color="#404040", linewidth=0.7, gid="zero")
    chance, below = p_column(rows), p_column(rows, "ceiling_")
    for y, name in enumerate(names):
        if not rows["value"].reindex([name]).notna().all():
            ax.text(
                0.02, y, "not computed", transform=ax.get_yaxis_transform(), fontsize=SMALL - 1,
                va="center", color="#595959",
            )  # fmt: skip
            continue
        row: Any = rows.loc[name]
        look = looks[name]
        right = float(row["value"])
        if "low" in rows and pd.notna(row["low"]) and pd.notna(row["high"]):
            right = float(row["high"])
            ax.hlines(y, row["low"], right, color=look["color"], linewidth=1.3, gid="interval")
        ax.plot(row["value"], y, linestyle="none", zorder=4, gid=f"model:{name}", **look)
        marks = "*" * bool(chance and pd.notna(row[chance]) and row[chance] <= alpha)
        marks += "▾" * bool(below and pd.notna(row[below]) and row[below] <= alpha)
        ax.annotate(
            marks, (right, y), (3, 0), textcoords="offset points", va="center", fontsize=SMALL,
            gid=f"marks:{name}",
        )  # fmt: skip
    ax.tick_params(length=2)
    ax.margins(x=0.1)
    ax.grid(axis="y", color="#f0f0f0", linewidth=0.7)
    ax.set_axisbelow(True)


def _legend(fig: Figure, table: pd.DataFrame, alpha: float) -> None:
    """Name the marks that stand in the figure below it, and make it wide enough for their names."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    drawn = {str(artist.get_gid()) for ax in fig.axes for artist in ax.get_children()}
    marks = "".join(text.get_text() for ax in fig.axes for text in ax.texts if text.get_gid())
    hollow = any(line.get_markerfacecolor() == "white" for ax in fig.axes for line in ax.lines)

    def mark(symbol: str, **look: Any) -> Line2D:
        style = {"color": "#000000", "markersize": 6, **look}
        return Line2D([], [], linestyle="none", marker=symbol, **style)

    entries: list[tuple[Any, str]] = []
    if "ceiling" in drawn:
        known = [c for c in ("ceiling_lower", "ceiling_low") if c in table]
        kinds = table.dropna(subset=known).get("ceiling_kind", pd.Series(dtype=str)).tolist()
        named = f" ({shown(kinds[0])})" if kinds else ""
        entries.append((Patch(facecolor="#dcdcdc", edgecolor="#8c8c8c"), f"noise ceiling{named}"))
    if "interval" in drawn:
        entries.append((Line2D([], [], color="#404040", linewidth=1.3), "confidence interval"))
    for symbol, letter, what, prefix in (
        ("$*$", "*", "chance", ""),
        ("v", "▾", "the lower ceiling", "ceiling_"),
    ):
        if letter in marks:
            corrected = "corrected " if p_column(table, prefix) == f"{prefix}p_corrected" else ""
            entries.append((mark(symbol), f"not {what}, {corrected}p ≤ {alpha:g}"))
    if hollow:
        entries.append((mark("o", color="#404040", markerfacecolor="white"), "untrained"))
    for colour, said, size in (
        (BETTER, "row's model better than the column's", 6),
        (WORSE, "row's model worse than the column's", 6),
        (SAME, "not told apart", 3),
    ):
        if f"pairs:{colour}" in drawn:
            square = mark("s", color=colour, markersize=size, markeredgewidth=0)
            entries.append((square, said))
    if entries:
        column = LETTER * max(len(label) for _, label in entries) + 0.5
        fig.set_figwidth(max(fig.get_figwidth(), column + 0.2))
        columns = max(1, min(len(entries), int(fig.get_figwidth() / column)))
        fig.set_figheight(fig.get_figheight() + 0.17 * math.ceil(len(entries) / columns))
        fig.legend(
            [handle for handle, _ in entries], [label for _, label in entries],
            loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False,
        )  # fmt: skip

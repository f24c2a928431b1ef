"""The figure of a model comparison: values, intervals, noise ceilings, and who beats whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from repalign.reporting.condition_looks import blank_figure, shown
from repalign.reporting.panels import COLOURS, MARKERS, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.21  # inches a model
CELL = 0.13  # inches a column of the matrix of pairs
PANEL = 2.3  # inches of values
LETTER = 0.062
CEILINGS = (("ceiling_lower", "ceiling_upper"), ("ceiling_low", "ceiling_high"))
BETTER, WORSE, SAME = "#0072B2", "#E69F00", "#e6e6e6"
WHERE = ("dataset", "species", "region")


def plot_models(
    result: Any,
    pairs: pd.DataFrame | None = None,
    *,
    alpha: float = 0.05,
    order: str = "value",
    higher_is_better: bool = True,
    title: str | None = None,
) -> Figure:
    """Draw models as points with intervals, under the noise ceiling, with a matrix of all pairs.

    A panel a region, a row a model, the best above. Colour and marker are the model's family; the
    untrained twin is hollow. A star stands beside a model that differs from chance; a triangle
    beside one that differs from the lower noise ceiling, the grey band. In the matrix beside the
    points a cell is blue where the row's model is significantly better than the column's, orange
    where it is worse, so that it stays readable with 20 models where brackets would not.

    Args:
        result: what ``repalign.infer`` returned, or its table: ``name`` (or ``model`` and
            ``layer``), ``value``, and where known ``low``, ``high``, ``species``, ``region``,
            ``ceiling_lower``, ``ceiling_upper``, ``p_corrected`` or ``p``, ``ceiling_p_corrected``.
        pairs: its pairs: ``first``, ``second``, ``difference``, ``p_corrected`` or ``p``, and the
            columns of the region; taken from ``result`` where that has them.
        alpha: level of stars, triangles and cells.
        order: ``value``: the best on average above, or ``given``.
        higher_is_better: False for values that are distances.
        title: above the panels.

    Returns:
        A figure; write it with ``repalign.reporting.figures.save_figure``.

    Raises:
        ValueError: no rows, a column that is missing, an unknown order, or a model that stands
            twice in a region.

    Example:
        >>> table = pd.DataFrame({"name": ["a", "b"], "value": [0.3, 0.1], "low": [0.2, 0.0],
        ...                       "high": [0.4, 0.2], "p": [0.01, 0.4]})
        >>> plot_models(table).axes[0].get_xlabel()
        'value'
    """
    table = pd.DataFrame(getattr(result, "table", result)).copy()
    if pairs is None and hasattr(result, "pairs"):
        pairs = result.pairs
    if pairs is not None and pairs.empty:
        pairs = None
    _check(table, pairs, order)
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
    matrix = CELL * len(names) + 0.1 if pairs is not None else 0.0
    longest = max(len(shown(name, longest=44)) for name in names)
    width = LETTER * (longest + 4) + len(groups) * (PANEL + matrix + 0.25)
    fig, axes = blank_figure(
        1,
        len(groups) * (1 if pairs is None else 2),
        height=ROW * len(names) + 1.2 + 0.3 * bool(title),
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
        datasets = table["dataset"].nunique() if "dataset" in table else 1
        ax.set_title(_head(where, key, rows, with_dataset=datasets > 1), fontsize=SMALL)
        if pairs is not None:
            own = pairs
            for column, value in zip(where, key if isinstance(key, tuple) else (key,), strict=True):
                own = own[own[column] == value] if column in own else own
            sign = 1 if higher_is_better else -1
            own = own.assign(difference=sign * own["difference"])
            _draw_pairs(grid[2 * i + 1], own, names, alpha)
    grid[0].set_yticks(
        range(len(names)),
        [f"{shown(name, longest=44)}  {k + 1}" for k, name in enumerate(names)],
        fontsize=SMALL,
    )
    grid[0].set_ylim(len(names) - 0.4, -0.6)
    _legend(fig, table, pairs, alpha)
    if title:
        fig.suptitle(title, fontsize=10, fontweight="bold")
    return fig


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


def _p(table: pd.DataFrame, prefix: str = "") -> str | None:
    """The column of p values: the corrected ones where there are any."""
    return next((prefix + c for c in ("p_corrected", "p") if prefix + c in table), None)


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
            "markerfacecolor": "white" if variant else colour,
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
    return "\n".join(lines)


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
    chance, below = _p(rows), _p(rows, "ceiling_")
    for y, name in enumerate(names):
        if not rows["value"].reindex([name]).notna().all():
            ax.text(0.01, y, "not computed", fontsize=SMALL - 1, va="center", color="#595959")
            continue
        row: Any = rows.loc[name]
        look = looks[name]
        right = float(row["value"])
        if "low" in rows and pd.notna(row["low"]) and pd.notna(row["high"]):
            right = float(row["high"])
            ax.hlines(y, row["low"], right, color=look["color"], linewidth=1.3, gid="interval")
        ax.plot(row["value"], y, linestyle="none", zorder=4, gid=f"model:{name}", **look)
        marks = "*" * bool(chance and row[chance] <= alpha)
        marks += "▾" * bool(below and pd.notna(row[below]) and row[below] <= alpha)
        ax.annotate(
            marks, (right, y), (3, 0), textcoords="offset points", va="center", fontsize=SMALL,
            gid=f"marks:{name}",
        )  # fmt: skip
    ax.set_xlabel("value", fontsize=SMALL)
    ax.tick_params(length=2)
    ax.margins(x=0.1)
    ax.grid(axis="y", color="#f0f0f0", linewidth=0.7)
    ax.set_axisbelow(True)


def _draw_pairs(ax: Axes, pairs: pd.DataFrame, names: Sequence[str], alpha: float) -> None:
    """A square a pair: blue where the row's model is better, orange where it is worse."""
    place = {name: k for k, name in enumerate(names)}
    p = _p(pairs)
    cells: dict[str, list[tuple[int, int]]] = {BETTER: [], WORSE: [], SAME: []}
    for row in pairs.to_dict("records"):
        i, j = place[str(row["first"])], place[str(row["second"])]
        sure = p is not None and pd.notna(row[p]) and row[p] <= alpha
        first, second = (BETTER, WORSE) if row["difference"] > 0 else (WORSE, BETTER)
        cells[first if sure else SAME].append((i, j))
        cells[second if sure else SAME].append((j, i))
    size = (0.8 * 72 * CELL) ** 2
    for colour, where in cells.items():
        ax.scatter(
            [j for _, j in where], [i for i, _ in where], s=size if colour != SAME else size / 6,
            marker="s", color=colour, linewidths=0, gid=f"pairs:{colour}",
        )  # fmt: skip
    every = 1 if len(names) <= 10 else 5
    ax.set_xticks(
        [k for k in range(len(names)) if k % every == 0 or k == len(names) - 1],
        [str(k + 1) for k in range(len(names)) if k % every == 0 or k == len(names) - 1],
        fontsize=SMALL - 1,
    )
    ax.set_xlim(-0.8, len(names) - 0.2)
    ax.set_xlabel("against model", fontsize=SMALL)
    ax.tick_params(axis="y", left=False, labelleft=False)
    ax.tick_params(axis="x", length=2)
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _legend(fig: Figure, table: pd.DataFrame, pairs: pd.DataFrame | None, alpha: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def mark(symbol: str) -> Line2D:
        return Line2D([], [], linestyle="none", marker=symbol, color="#000000", markersize=6)

    entries: list[tuple[Any, str]] = []
    corrected = "corrected " if "p_corrected" in table else ""
    if _ceiling(table.iloc[:1]) is not None or any("ceiling" in str(c) for c in table):
        known = [c for c in ("ceiling_lower", "ceiling_low") if c in table]
        kinds = table.dropna(subset=known).get("ceiling_kind", pd.Series(dtype=str)).tolist()
        named = f" ({kinds[0]})" if kinds else ""
        entries.append((Patch(facecolor="#dcdcdc", edgecolor="#8c8c8c"), f"noise ceiling{named}"))
    if "low" in table:
        entries.append((Line2D([], [], color="#404040", linewidth=1.3), "confidence interval"))
    if _p(table):
        entries.append((mark("$*$"), f"not chance, {corrected}p ≤ {alpha:g}"))
    if _p(table, "ceiling_"):
        entries.append((mark("v"), f"not the lower ceiling, {corrected}p ≤ {alpha:g}"))
    if any("@" in str(name) for name in table["name"]):
        hollow = Line2D(
            [], [], linestyle="none", marker="o", color="#404040", markerfacecolor="white"
        )
        entries.append((hollow, "untrained"))
    if pairs is not None:
        for colour, word in ((BETTER, "better"), (WORSE, "worse")):
            entries.append((Patch(color=colour), f"row's model {word} than the column's"))
    if entries:
        longest = max(len(label) for _, label in entries)
        columns = max(1, min(len(entries), int(fig.get_figwidth() / (LETTER * longest + 0.5))))
        fig.set_figheight(fig.get_figheight() + 0.17 * math.ceil(len(entries) / columns))
        fig.legend(
            [handle for handle, _ in entries], [label for _, label in entries],
            loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False,
        )  # fmt: skip

"""The matrix of pairs beside models: which of them is better than which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from repalign.reporting.panels import SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL = 0.13  # inches a column
NARROWEST = 0.85  # inches: what the axis is called
BETTER, WORSE, SAME = "#0072B2", "#E69F00", "#d0d0d0"


def matrix_width(n_models: int) -> float:
    """Inches of the matrix of so many models, and of what its axis is called."""
    return max(NARROWEST, CELL * n_models + 0.1)


def p_column(table: pd.DataFrame, prefix: str = "") -> str | None:
    """The column of p values: the corrected ones where there are any."""
    return next((prefix + c for c in ("p_corrected", "p") if prefix + c in table), None)


def draw_pairs(ax: Axes, pairs: pd.DataFrame, names: Sequence[str], alpha: float) -> None:
    """A square a pair: blue where the row's model is better, orange where it is worse."""
    place = {name: k for k, name in enumerate(names)}
    p = p_column(pairs)
    cells: dict[str, list[tuple[int, int]]] = {BETTER: [], WORSE: [], SAME: []}
    for row in pairs.to_dict("records"):
        i, j = place[str(row["first"])], place[str(row["second"])]
        sure = p is not None and pd.notna(row[p]) and row[p] <= alpha
        first, second = (BETTER, WORSE) if row["difference"] > 0 else (WORSE, BETTER)
        cells[first if sure else SAME].append((i, j))
        cells[second if sure else SAME].append((j, i))
    size = (0.8 * 72 * CELL) ** 2
    for colour, where in cells.items():
        if not where:
            continue
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
    ax.set_xlim(-0.8, matrix_width(len(names)) / CELL - 0.8)  # cells stay as wide, few or many
    ax.set_xlabel("against model", fontsize=SMALL, loc="left")
    ax.tick_params(axis="y", left=False, labelleft=False)
    ax.tick_params(axis="x", length=2)
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)

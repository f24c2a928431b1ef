"""The figure of layers against regions: a heat map with the best layer of each region marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from repalign.reporting.condition_looks import blank_figure, shown
from repalign.reporting.panels import SMALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW, COLUMN, LETTER = 0.24, 0.62, 0.062


def plot_layer_region(
    result: Any, *, annotate: bool | None = None, title: str | None = None
) -> Figure:
    """Draw the value of each layer for each region, a panel a model, the best layer framed.

    Args:
        result: rows with ``model``, ``layer``, ``region`` and ``value``: the table of
            ``repalign.infer``, the rows of ``repalign.compare`` or a DataFrame; ``species`` and
            ``dataset`` part regions further, and the mean is taken over subjects.
        annotate: write the values into the cells; None: where there are few.
        title: above the panels.

    Returns:
        A figure; write it with ``repalign.reporting.figures.save_figure``.

    Raises:
        ValueError: no rows, or a column that is missing.

    Note:
        The best layer is chosen on the data that is shown, so that its value is no estimate for
        other stimuli: choose layers with nested selection.

    Example:
        >>> rows = [{"model": "net", "layer": f"conv{k}", "region": region, "value": value}
        ...         for region, values in {"V1": [0.3, 0.1], "IT": [0.1, 0.4]}.items()
        ...         for k, value in enumerate(values)]
        >>> [text.get_text() for text in plot_layer_region(rows).axes[0].get_xticklabels()]
        ['V1', 'IT']
    """
    rows = result.rows() if hasattr(result, "rows") else getattr(result, "table", result)
    table = pd.DataFrame(rows)
    missing = [c for c in ("model", "layer", "region", "value") if c not in table]
    if table.empty or missing:
        raise ValueError(
            f"layers and regions are drawn from rows with model, layer, region and value; missing:"
            f" {', '.join(missing) or 'all rows'}"
        )
    parts = [c for c in ("dataset", "species") if c in table and table[c].nunique() > 1]
    table["where"] = table[[*parts, "region"]].astype(str).agg(" ".join, axis=1)
    regions = list(dict.fromkeys(table["where"]))
    models = list(dict.fromkeys(table["model"].astype(str)))
    maps = {}
    for model in models:
        own = table[table["model"].astype(str) == model]
        layers = list(dict.fromkeys(own["layer"].fillna(model).astype(str)))
        wide = own.assign(layer=own["layer"].fillna(model).astype(str)).pivot_table(
            index="layer", columns="where", values="value", aggfunc="mean", dropna=False
        )
        maps[model] = wide.reindex(index=layers, columns=regions)
    n_rows = max(len(one) for one in maps.values())
    names = max(len(shown(layer, longest=24)) for one in maps.values() for layer in one.index)
    panel = COLUMN * len(regions) + LETTER * names + 0.15
    longest = max(len(region) for region in regions)
    tilted = longest * LETTER > COLUMN
    fig, axes = blank_figure(
        1,
        len(models),
        height=ROW * n_rows + 0.75 + (LETTER * longest if tilted else 0.2) + 0.3 * bool(title),
        width=max(2.8, panel * len(models) + 0.9),
    )
    everything = np.concatenate([one.to_numpy().ravel() for one in maps.values()])
    low, high = min(0.0, float(np.nanmin(everything))), float(np.nanmax(everything))
    few = n_rows * len(regions) * len(models) <= 120 if annotate is None else annotate
    image = None
    for ax, (model, one) in zip(axes.flat, maps.items(), strict=True):
        values = one.to_numpy(dtype=float)
        image = ax.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        ax.set_xticks(
            range(len(regions)), [shown(r, longest=30) for r in regions], fontsize=SMALL,
            rotation=90 if tilted else 0,
        )  # fmt: skip
        ax.set_yticks(
            range(len(one)), [shown(layer, longest=24) for layer in one.index], fontsize=SMALL
        )
        ax.set_title(shown(model, longest=int(panel / LETTER)), fontsize=SMALL)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        for i, j in np.ndindex(values.shape):
            if few and np.isfinite(values[i, j]):
                dark = values[i, j] < low + 0.55 * (high - low)
                ax.text(
                    j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=SMALL - 1,
                    color="white" if dark else "black",
                )  # fmt: skip
        for j in range(len(regions)):
            if np.isfinite(values[:, j]).any() and len(one) > 1:
                best = int(np.nanargmax(values[:, j]))
                _frame(ax, j, best)
    if image is not None:
        bar = fig.colorbar(image, ax=axes, aspect=20, shrink=0.8)
        bar.set_label("value (frame: best layer)", fontsize=SMALL)
        bar.ax.tick_params(labelsize=SMALL)
    if title:
        fig.suptitle(shown(title, longest=80), fontsize=10, fontweight="bold")
    return fig


def _frame(ax: Any, column: int, row: int) -> None:
    from matplotlib.patches import Rectangle

    for colour, width in (("white", 3.2), ("#D55E00", 1.8)):
        ax.add_patch(
            Rectangle(
                (column - 0.46, row - 0.46),
                0.92,
                0.92,
                fill=False,
                edgecolor=colour,
                linewidth=width,
                gid="best",
            )
        )

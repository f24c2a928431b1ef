"""Figures of RDMs: panels of several, in one order of the stimuli."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from repalign.metrics.pairs import as_condensed, square_form
from repalign.metrics.ranks import average_ranks
from repalign.reporting.condition_looks import PAGE_WIDTH, blank_figure, shown
from repalign.reporting.panels import SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Matrix = np.ndarray[Any, np.dtype[np.float64]]
MAP = "cividis"  # even in lightness, and the same to colour-blind readers
NAMED = 24  # stimuli that are named one by one, or groups


def plot_rdms(
    rdms: Mapping[str, Any] | xr.Dataset | np.ndarray[Any, Any],
    *,
    categories: Sequence[str] | str | None = None,
    order: str = "given",
    ranks: bool = True,
    columns: int = 4,
    title: str | None = None,
) -> Figure:
    """Draw RDMs as panels in one order of the stimuli, each rank-scaled, with one colour bar.

    Args:
        rdms: RDMs by name, square or condensed; a recording of RDMs (averaged over the sessions of
            a subject), or one RDM.
        categories: the category of each stimulus, or the name of a recording's coordinate; lines
            part them where they follow each other.
        order: ``given``; ``category``: categories together, as they first appear; or ``cluster``:
            average-linkage clustering of the mean of the ranked RDMs.
        ranks: show percentiles of the dissimilarities, so that RDMs of different measures look
            alike; False shows values, each panel on its own scale.
        columns: panels in a row.
        title: above the panels.

    Returns:
        A figure; write it with ``repalign.reporting.figures.save_figure``.

    Raises:
        ValueError: RDMs of different sizes, categories of another number, or an unknown order.

    Example:
        >>> rdm = np.array([[0.0, 1, 2], [1, 0, 3], [2, 3, 0]])
        >>> figure = plot_rdms({"IT": rdm, "conv": rdm**2}, categories=["face", "face", "house"])
        >>> [ax.get_title() for ax in figure.axes[:2]]
        ['IT', 'conv']

    Reference:
        Kriegeskorte et al. 2008, https://doi.org/10.1016/j.neuron.2008.10.043
    """
    squares, labels = _matrices(rdms, categories)
    if columns < 1:
        raise ValueError(f"columns is {columns}; expected 1 or more")
    ranked = {name: _percentiles(square) for name, square in squares.items()}
    places = _order(list(ranked.values()), labels, order)
    rows, across = math.ceil(len(squares) / columns), min(columns, len(squares))
    side = min(2.4, (PAGE_WIDTH - 0.9) / across)
    width = max(3.4, across * side + 1.0)
    fig, axes = blank_figure(rows, across, height=rows * (side + 0.3) + 0.35, width=width)
    image = None
    for ax, name in zip(axes.flat, squares, strict=False):
        image = ax.imshow(
            (ranked if ranks else squares)[name][np.ix_(places, places)],
            cmap=MAP, interpolation="nearest", **({"vmin": 0, "vmax": 100} if ranks else {}),
        )  # fmt: skip
        ax.set_title(shown(name, longest=34), fontsize=SMALL)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        _mark_categories(ax, labels, places, named=ax in axes[:, 0])
        if not ranks:
            fig.colorbar(image, ax=ax, shrink=0.7).ax.tick_params(labelsize=SMALL)
    for ax in axes.flat[len(squares) :]:
        ax.set_visible(False)
    if ranks and image is not None:
        bar = fig.colorbar(image, ax=axes, shrink=0.7, aspect=25)
        bar.set_label("dissimilarity (percentile)", fontsize=SMALL)
        bar.ax.tick_params(labelsize=SMALL)
    if title:
        fig.suptitle(shown(title, longest=90), fontsize=10, fontweight="bold")
    return fig


def square_rdm(rdm: Any, name: str) -> Matrix:
    """Return one RDM as a checked square matrix."""
    values: Matrix = square_form(as_condensed(np.asarray(rdm), name=name)).double().numpy()
    return values


def _matrices(
    rdms: Mapping[str, Any] | xr.Dataset | np.ndarray[Any, Any],
    categories: Sequence[str] | str | None,
) -> tuple[dict[str, Matrix], list[str] | None]:
    """RDMs by name, and the category of each stimulus."""
    labels: Any = categories
    if isinstance(rdms, xr.Dataset):
        if "rdm" not in rdms:
            raise ValueError("the recording holds no RDMs; make them with repalign.metrics.rdm")
        if isinstance(categories, str):
            if categories not in rdms.coords:
                raise ValueError(f"the recording has no coordinate {categories!r}")
            labels = rdms[categories].values
        names = [
            " ".join(dict.fromkeys(map(str, row)))
            for row in zip(*(rdms[c].values for c in ("species", "region", "subject")), strict=True)
        ]
        values = rdms["rdm"].values
        named: dict[str, Any] = {
            name: values[[i for i, other in enumerate(names) if other == name]].mean(0)
            for name in dict.fromkeys(names)
        }
    else:
        named = {**rdms} if not isinstance(rdms, np.ndarray) else {"RDM": rdms}
        if isinstance(categories, str):
            raise ValueError("categories is a name; RDMs that are no recording need a list of them")
    if not named:
        raise ValueError("there is no RDM to draw")
    squares = {str(name): square_rdm(one, str(name)) for name, one in named.items()}
    sizes = {name: len(square) for name, square in squares.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"RDMs have different numbers of stimuli: {sizes}")
    n = next(iter(sizes.values()))
    if labels is not None and len(labels) != n:
        raise ValueError(f"{len(labels)} categories for {n} stimuli")
    return squares, None if labels is None else [str(label) for label in labels]


def _percentiles(square: Matrix) -> Matrix:
    """Ranks of the dissimilarities from 0 to 100; the diagonal is 0."""
    upper = np.triu_indices(len(square), 1)
    ranks = average_ranks(torch.from_numpy(square[upper])).numpy()
    out = np.zeros_like(square)
    out[upper] = 100 * (ranks - 1) / max(1, len(ranks) - 1)
    return out + out.T


def _order(ranked: list[Matrix], labels: list[str] | None, order: str) -> list[int]:
    n = len(ranked[0])
    if order == "given":
        return list(range(n))
    if order == "category":
        if labels is None:
            raise ValueError("order='category' needs categories")
        seen = list(dict.fromkeys(labels))
        return sorted(range(n), key=lambda i: seen.index(labels[i]))
    if order != "cluster":
        raise ValueError(f"order is {order!r}; expected 'given', 'category' or 'cluster'")
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    mean = np.nanmean(ranked, axis=0)
    tree = linkage(squareform(mean, checks=False), "average", optimal_ordering=True)
    return [int(i) for i in leaves_list(tree)]


def _mark_categories(ax: Axes, labels: list[str] | None, places: list[int], *, named: bool) -> None:
    """Lines where the category changes, and its name beside the rows."""
    if labels is None:
        return
    own = [labels[i] for i in places]
    edges = [0, *(k for k in range(1, len(own)) if own[k] != own[k - 1]), len(own)]
    if len(edges) > NAMED + 1:
        return
    for edge in edges[1:-1]:
        ax.axhline(edge - 0.5, color="white", linewidth=0.6)
        ax.axvline(edge - 0.5, color="white", linewidth=0.6)
    if named:
        middles = [(a + b) / 2 - 0.5 for a, b in itertools.pairwise(edges)]
        names = [shown(own[edge], longest=18) for edge in edges[:-1]]
        ax.set_yticks(middles, names, fontsize=SMALL - 1)
        ax.tick_params(axis="y", length=0)

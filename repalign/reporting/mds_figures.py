"""The map of one RDM in the plane: stimuli as far apart as they are dissimilar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from repalign.reporting.condition_looks import blank_figure, shown
from repalign.reporting.panels import COLOURS, MARKERS, SMALL
from repalign.reporting.rdm_figures import NAMED, Matrix, square_rdm
from repalign.stimuli import Stimuli

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_mds(
    rdm: Any,
    *,
    labels: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    images: Stimuli | Sequence[np.ndarray[Any, Any]] | None = None,
    title: str | None = None,
    seed: int = 0,
) -> Figure:
    """Draw stimuli in a plane, as far apart as the RDM says: the images themselves where given.

    Metric multidimensional scaling (SMACOF) of the dissimilarities; ``stress`` below the map is
    ``√(Σ(d − d̂)²/Σd²)``, 0 for a map that holds all of the RDM. Squared distances (euclidean,
    crossnobis) are best given as their square roots.

    Args:
        rdm: one RDM, square or condensed; negative values count as 0.
        labels: name of each stimulus, written beside it where there are few.
        categories: of each stimulus, for colour and legend (the frame of an image).
        images: of each stimulus, in the RDM's order: ``Stimuli``, or height × width × 3 arrays.
        title: above the map.
        seed: of the starting positions.

    Returns:
        A figure; write it with ``repalign.reporting.figures.save_figure``.

    Raises:
        ValueError: labels, categories or images of another number than stimuli; fewer than 3
            stimuli; missing dissimilarities.

    Example:
        >>> rdm = np.array([[0.0, 1, 2], [1, 0, 1], [2, 1, 0]])
        >>> plot_mds(rdm, labels=["a", "b", "c"]).axes[0].get_xlabel()
        'stress 0.00'

    Reference:
        Borg & Groenen 2005, https://doi.org/10.1007/0-387-28981-X
    """
    square = square_rdm(rdm, "rdm")
    n = len(square)
    if not np.isfinite(square).all():
        raise ValueError("rdm holds NaN or infinity; leave out the stimuli concerned")
    for what, values in (("labels", labels), ("categories", categories), ("images", images)):
        if values is not None and len(values) != n:
            raise ValueError(f"{len(values)} {what} for {n} stimuli")
    places, stress = _plane(np.maximum(square, 0), seed)
    fig, axes = blank_figure(1, 1, height=5.6 if images is not None else 4.4, width=6.0)
    ax = axes[0, 0]
    kinds = list(dict.fromkeys(categories)) if categories is not None else []
    colours = {kind: COLOURS[k % len(COLOURS)] for k, kind in enumerate(kinds)}
    if images is not None:
        _draw_images(ax, places, images, categories, colours)
    else:
        for k, kind in enumerate(kinds or [""]):
            own = [i for i in range(n) if not kinds or (categories or [])[i] == kind]
            ax.plot(
                places[own, 0], places[own, 1], linestyle="none", markersize=5,
                marker=MARKERS[(k + k // len(COLOURS)) % len(MARKERS)],
                color=colours.get(kind, COLOURS[0]),
            )  # fmt: skip
        if labels is not None and n <= 3 * NAMED:
            for (x, y), label in zip(places, labels, strict=True):
                ax.annotate(
                    shown(label, longest=16), (x, y), (3, 2), textcoords="offset points",
                    fontsize=SMALL - 2,
                )  # fmt: skip
    ax.set_aspect("equal")
    ax.margins(0.08)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_xlabel(f"stress {stress:.2f}", fontsize=SMALL)
    if 1 < len(kinds) <= NAMED:
        _category_legend(fig, kinds, colours, framed=images is not None)
    if title:
        ax.set_title(shown(title, longest=80), fontsize=10)
    return fig


def _plane(square: Matrix, seed: int) -> tuple[Matrix, float]:
    """Positions in the plane, from the classical solution, and their stress."""
    import inspect

    from sklearn.manifold import MDS

    n = len(square)
    centring = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-centring @ (square**2) @ centring / 2)
    start = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))
    if values[-2] <= 1e-9 * max(values[-1], 1e-300):  # all on one line: a second axis to begin with
        start = start + 1e-3 * np.random.default_rng(seed).normal(size=start.shape) * np.ptp(start)
    settings: dict[str, Any] = {"n_init": 1, "max_iter": 1000, "eps": 1e-9, "random_state": seed}
    if "metric_mds" in inspect.signature(MDS).parameters:  # scikit-learn 1.8 renamed it
        settings |= {"metric": "precomputed", "init": "random"}
    else:
        settings["dissimilarity"] = "precomputed"
    places: Matrix = MDS(2, **settings).fit_transform(square, init=start)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    total = np.square(square).sum()
    return places, float(np.sqrt(np.square(square - apart).sum() / total)) if total else 0.0


def _draw_images(
    ax: Axes,
    places: Matrix,
    images: Stimuli | Sequence[np.ndarray[Any, Any]],
    categories: Sequence[str] | None,
    colours: Mapping[str, str],
) -> None:
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage
    from PIL import Image

    side = max(12, min(48, round(220 / math.sqrt(len(places)))))  # points
    for i, place in enumerate(places):
        image = images.image(i) if isinstance(images, Stimuli) else np.asarray(images[i])
        small = Image.fromarray(np.asarray(image, dtype=np.uint8))
        small.thumbnail((4 * side, 4 * side))
        box = OffsetImage(np.asarray(small), zoom=0.25 * 4 * side / max(small.size))
        colour = colours[categories[i]] if categories is not None else "#b0b0b0"
        frame = {"edgecolor": colour, "linewidth": 1.4 if categories is not None else 0.4}
        ax.add_artist(
            AnnotationBbox(box, (float(place[0]), float(place[1])), pad=0.08, bboxprops=frame)
        )
    ax.plot(*places.T, linestyle="none")  # for the limits
    ax.margins(0.08)


def _category_legend(
    fig: Figure, kinds: Sequence[str], colours: Mapping[str, str], *, framed: bool
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            color=colours[kind],
            marker="s" if framed else MARKERS[(k + k // len(COLOURS)) % len(MARKERS)],
            markerfacecolor="white" if framed else colours[kind],
            markeredgewidth=1.4,
        )
        for k, kind in enumerate(kinds)
    ]
    fig.legend(
        handles, [shown(kind, longest=20) for kind in kinds], loc="outside lower center",
        ncols=min(5, len(kinds)), fontsize=SMALL, frameon=False,
    )  # fmt: skip

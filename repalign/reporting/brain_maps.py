"""Searchlight maps drawn: slices through a volume, and views of a surface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from repalign.reporting.condition_looks import PAGE_WIDTH, shown
from repalign.reporting.panels import SMALL
from repalign.searchlights import as_volume
from repalign.searchlights.around_neuroids import Meshes, read_meshes, side_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLICES = 7
COLOURS = "RdBu_r"
GREY = (0.86, 0.86, 0.86, 1.0)  # of the brain where the map has no value
OUTLINE = "#000000"
VIEWS = {"left": (("lateral", 180), ("medial", 0)), "right": (("lateral", 0), ("medial", 180))}
WORDS = {"similarity": "similarity", "statistic": "t", "p_family": "corrected p", "mean": "mean"}

Numbers = NDArray[np.float64]


def map_figure(
    maps: xr.Dataset,
    *,
    variable: str = "similarity",
    significance: xr.Dataset | None = None,
    alpha: float = 0.05,
    mesh: Meshes | None = None,
    like: Any = None,
    models: Sequence[str] | None = None,
) -> Figure:
    """Draw a map, a row a model, on one scale: axial slices of voxels, or views of a surface.

    Args:
        maps: of ``searchlight``, or of a test of its maps.
        variable: which of their variables.
        significance: of the same neuroids, with ``p_family``: what is at most ``alpha`` is
            outlined on slices, and the rest is pale on surfaces.
        alpha: see above.
        mesh: of each hemisphere, where neuroids are vertices.
        like: an image of the same grid, where the voxels do not tell their affine (one slice).
        models: which to draw; all if None.

    Returns:
        A figure of print size; the first row names the slices (mm) or views.

    Raises:
        ValueError: an unknown model or variable, or a surface without its mesh.
    """
    known = [str(name) for name in maps["model"].values]
    chosen = known if models is None else list(models)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"no model {unknown[0]!r}; there are {', '.join(known)}")
    part = maps.isel(model=[known.index(name) for name in chosen])
    if variable not in part:
        raise ValueError(f"no map {variable!r}; there are {', '.join(map(str, part))}")
    tested = None
    if significance is not None:
        tested = significance.sel(model=chosen) if "model" in significance.coords else None
    if side_of(maps) is not None:
        if mesh is None:
            raise ValueError("the map's neuroids are vertices; give mesh= to draw them")
        return _surfaces(part, variable, tested, alpha, read_meshes(mesh))
    return _slices(part, variable, tested, alpha, like)


def _figure(rows: int, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(PAGE_WIDTH, height * rows + 0.6), layout="constrained")
    FigureCanvasAgg(fig)
    fig.set_facecolor("white")
    return fig


def _scale(values: Numbers) -> tuple[float, float]:
    """A symmetric scale, so that white is zero."""
    finite = values[np.isfinite(values)]
    most = float(np.abs(finite).max()) if finite.size else 1.0
    return -most or -1.0, most or 1.0


def _colour_bar(fig: Figure, axes: Any, limits: tuple[float, float], variable: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(*limits), COLOURS)
    bar = fig.colorbar(scale, ax=axes, location="bottom", shrink=0.35, aspect=30, pad=0.02)
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label(WORDS.get(variable, variable), fontsize=SMALL)


def _slices(
    maps: xr.Dataset, variable: str, tested: xr.Dataset | None, alpha: float, like: Any
) -> Figure:
    from matplotlib import colormaps

    image = as_volume(maps, variable=variable, like=like)
    n_models = maps.sizes["model"]
    data = np.asarray(image.dataobj, dtype=np.float64).reshape(*image.shape[:3], n_models)
    inside = np.zeros(data.shape[:3], dtype=bool)
    inside[tuple(maps[name].values for name in "ijk")] = True
    p = np.full(data.shape, np.nan)
    if tested is not None:
        place = tuple(tested[name].values for name in "ijk")
        p[place] = tested["p_family"].values.T
    # Seen from above, the front up and the left of the brain on the left.
    for axis in (0, 1):
        if image.affine[axis, axis] < 0:
            data, inside, p = (np.flip(one, axis) for one in (data, inside, p))
    filled = np.flatnonzero(inside.any(axis=(0, 1)))
    count = min(SLICES, len(filled))
    levels = filled[np.unique(np.linspace(0, len(filled) - 1, count + 2).round().astype(int))]
    levels = levels[1:-1] if len(levels) > count else levels
    limits = _scale(data)
    sizes = [float(np.linalg.norm(image.affine[:3, axis])) for axis in range(3)]
    extent = (0, data.shape[0] * sizes[0], 0, data.shape[1] * sizes[1])
    width = PAGE_WIDTH / max(len(levels), 3)
    fig = _figure(n_models, width * extent[3] / extent[1] + 0.12)
    axes = fig.subplots(n_models, len(levels), squeeze=False)
    colours = colormaps[COLOURS].with_extremes(bad=(0, 0, 0, 0))
    for row in range(n_models):
        for column, level in enumerate(levels.tolist()):
            ax = axes[row, column]
            grey = np.where(inside[:, :, level, None], GREY, (1, 1, 1, 0))
            common: dict[str, Any] = {"origin": "lower", "extent": extent}
            ax.imshow(grey.transpose(1, 0, 2), interpolation="nearest", **common)
            ax.imshow(
                data[:, :, level, row].T,
                cmap=colours,
                vmin=limits[0],
                vmax=limits[1],
                interpolation="nearest",
                **common,
            )
            significant = p[:, :, level, row] <= alpha
            if significant.any():
                _outline(ax, significant, sizes)
            ax.set_axis_off()
            if row == 0:
                z = float(image.affine[2, 2] * level + image.affine[2, 3])
                ax.set_title(f"z = {z:.0f} mm", fontsize=SMALL)
        axes[row, 0].text(
            -0.02, 0.5, shown(str(maps["model"].values[row]), longest=24), rotation=90,
            transform=axes[row, 0].transAxes, fontsize=SMALL, va="center", ha="right",
        )  # fmt: skip
    _colour_bar(fig, axes, limits, variable)
    return fig


def _outline(ax: Any, inside: NDArray[np.bool_], sizes: Sequence[float]) -> None:
    """Draw the edges between pixels that are in and pixels that are out."""
    from matplotlib.collections import LineCollection

    wide = np.pad(inside, 1)
    lines = []
    for i, j in np.argwhere(wide[1:, 1:-1] != wide[:-1, 1:-1]):
        lines.append([(i * sizes[0], j * sizes[1]), (i * sizes[0], (j + 1) * sizes[1])])
    for i, j in np.argwhere(wide[1:-1, 1:] != wide[1:-1, :-1]):
        lines.append([(i * sizes[0], j * sizes[1]), ((i + 1) * sizes[0], j * sizes[1])])
    ax.add_collection(LineCollection(lines, colors=OUTLINE, linewidths=0.8))


def _surfaces(
    maps: xr.Dataset,
    variable: str,
    tested: xr.Dataset | None,
    alpha: float,
    meshes: Mapping[str, Any],
) -> Figure:
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    side = side_of(maps)
    values = maps[variable].values
    limits = _scale(values)
    views = [(name, *view) for name in meshes for view in VIEWS[name]]
    fig = _figure(maps.sizes["model"], 1.5)
    axes = []
    for row, name in enumerate(maps["model"].values.tolist()):
        for column, (which, view, turn) in enumerate(views):
            mesh = meshes[which]
            ax: Any = fig.add_subplot(
                maps.sizes["model"], len(views), row * len(views) + column + 1, projection="3d"
            )
            own = side == which
            whole = np.full(len(mesh), np.nan)
            whole[maps["vertex"].values[own]] = values[row, own]
            of_face = whole[mesh.faces].mean(1)
            colour = np.array(colormaps[COLOURS](Normalize(*limits)(np.nan_to_num(of_face))))
            colour[np.isnan(of_face)] = GREY
            if tested is not None:
                p = np.full(len(mesh), np.nan)
                p[tested["vertex"].values[side_of(tested) == which]] = tested["p_family"].values[
                    row, side_of(tested) == which
                ]
                pale = ~(p[mesh.faces] <= alpha).any(1) & ~np.isnan(of_face)
                colour[pale] = 0.3 * colour[pale] + 0.7 * np.array(GREY)
            colour[:, :3] *= _light(mesh, turn)[:, None]
            surface = ax.plot_trisurf(
                *mesh.coordinates.T, triangles=mesh.faces, shade=False, linewidth=0.2
            )
            surface.set_facecolor(colour.clip(0, 1))
            surface.set_edgecolor(colour.clip(0, 1))  # closes gaps that the far side shines through
            low, high = mesh.coordinates.min(0), mesh.coordinates.max(0)
            ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
            ax.set_proj_type("ortho")
            ax.set_box_aspect(high - low + 1e-9, zoom=1.25)
            ax.view_init(elev=0, azim=turn)
            ax.set_axis_off()
            if row == 0:
                ax.set_title(f"{which} {view}", fontsize=SMALL)
            if column == 0:
                ax.text2D(
                    -0.02, 0.5, shown(name, longest=24), rotation=90, fontsize=SMALL,
                    transform=ax.transAxes, va="center", ha="right",
                )  # fmt: skip
            axes.append(ax)
    _colour_bar(fig, axes, limits, variable)
    return fig


def _light(mesh: Any, turn: float) -> Numbers:
    """How bright each face is under a lamp above the viewer, whichever way its corners run."""
    a, b, c = mesh.coordinates[mesh.faces.T]
    normal = np.cross(b - a, c - a)
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    azimuth = np.deg2rad(turn)
    lamp = np.array([np.cos(azimuth), np.sin(azimuth), 0.5]) / np.sqrt(1.25)
    shade: Numbers = 0.6 + 0.4 * np.abs(normal @ lamp)
    return shade

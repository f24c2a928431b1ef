"""Meshes of a cortical surface, distances along their edges, and the neighbourhoods these make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import dijkstra

from repalign.loaders.surface_files import open_gifti
from repalign.searchlights.neighbourhoods import MINIMUM, Neighbourhoods, chosen

BLOCK_ELEMENTS = 1 << 22  # of distances: 32 MB
POINTSET, TRIANGLE = 1008, 1009  # intents of GIFTI's data arrays

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Mesh:
    """A surface of triangles.

    Args:
        coordinates: of the vertices in mm, (vertex, 3).
        faces: the three vertices of each triangle, (face, 3).

    Raises:
        ValueError: other shapes, coordinates that are not finite, or vertices that do not exist.
    """

    coordinates: Floats
    faces: Integers

    def __post_init__(self) -> None:
        """Check the arrays."""
        points, faces = np.asarray(self.coordinates), np.asarray(self.faces)
        if points.ndim != 2 or points.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
            raise ValueError(
                f"a mesh has coordinates of shape {points.shape} and faces of shape {faces.shape};"
                " expected (vertex, 3) and (face, 3)"
            )
        if not np.isfinite(points).all() or faces.dtype.kind not in "iu" or not len(faces):
            raise ValueError(
                "a mesh has coordinates that are not finite, or no faces of whole numbers"
            )
        if faces.min() < 0 or faces.max() >= len(points):
            raise ValueError(
                f"faces name vertices {faces.min()} to {faces.max()}; the mesh has 0 to"
                f" {len(points) - 1}"
            )

    def __len__(self) -> int:
        """Return the number of vertices."""
        return len(self.coordinates)

    def edges(self) -> csr_array:
        """Return the lengths of the edges in mm, as a symmetric sparse matrix."""
        faces = np.asarray(self.faces)
        pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        pairs = np.unique(np.sort(pairs, axis=1), axis=0)
        i, j = pairs[pairs[:, 0] != pairs[:, 1]].T
        points = np.asarray(self.coordinates, dtype=np.float64)
        # A zero in a sparse graph is no edge: two vertices at one place are next to each other.
        length = np.maximum(np.linalg.norm(points[i] - points[j], axis=1), np.finfo(float).tiny)
        rows, columns = np.concatenate([i, j]), np.concatenate([j, i])
        n = len(points)
        return coo_array((np.tile(length, 2), (rows, columns)), shape=(n, n)).tocsr()

    def areas(self) -> Floats:
        """Return the area of each vertex in mm²: a third of its triangles'."""
        a, b, c = np.asarray(self.coordinates, dtype=np.float64)[np.asarray(self.faces).T]
        of_face = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6
        corners = np.asarray(self.faces).ravel()
        found: Any = np.bincount(corners, np.repeat(of_face, 3), minlength=len(self))
        return np.asarray(found, dtype=np.float64)


def read_mesh(path: str | Path) -> Mesh:
    """Read a mesh from a GIFTI file (.surf.gii).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no GIFTI, damaged, or without coordinates and triangles.
    """
    image = open_gifti(Path(path).expanduser())
    found = {one.intent: one.data for one in image.darrays}
    if POINTSET not in found or TRIANGLE not in found:
        raise ValueError(
            f"{path} holds no mesh: expected one data array of coordinates (POINTSET) and one of"
            " triangles, as in .surf.gii"
        )
    return Mesh(found[POINTSET].astype(np.float64), found[TRIANGLE].astype(np.int64))


def _vertices(mesh: Mesh, vertices: Any) -> Integers:
    if vertices is None:
        return np.arange(len(mesh))
    wanted = np.asarray(vertices)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or not len(wanted):
        raise ValueError(f"vertices have shape {wanted.shape}; expected a list of whole numbers")
    if wanted.min() < 0 or wanted.max() >= len(mesh):
        raise ValueError(
            f"vertices run from {wanted.min()} to {wanted.max()}, and the mesh has"
            f" {len(mesh)}; is it the mesh of this hemisphere and resolution?"
        )
    if len(np.unique(wanted)) != len(wanted):
        raise ValueError("a vertex stands twice among the neuroids; leave one of them out")
    return wanted


def disc_neighbourhoods(
    mesh: Mesh, *, radius: float, vertices: Any = None, minimum: int = MINIMUM
) -> Neighbourhoods:
    """Return, around each vertex, those that are no further along the surface than a radius.

    Args:
        mesh: the whole surface of a hemisphere: paths go through vertices that were not recorded.
        radius: mm along edges of the mesh (Dijkstra), further than on the smooth surface: by a
            tenth on the mean and a quarter at most, on a sphere of even triangles.
        vertices: vertex of each neuroid; None: all of them, in their order.
        minimum: discs with fewer neuroids are no centres.

    Raises:
        ValueError: no disc is large enough, vertices that are not of the mesh, or a radius that is
            not positive.

    Example:
        >>> strip = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]),
        ...              np.array([[0, 1, 2], [1, 3, 2]]))
        >>> disc_neighbourhoods(strip, radius=1.0, minimum=1).members(0).tolist()
        [0, 1, 2]

    Reference:
        Oosterhof et al. 2011, https://doi.org/10.1016/j.neuroimage.2010.04.270
    """
    if not 0 < radius < np.inf:
        raise ValueError(f"radius is {radius}; expected a positive number of mm")
    wanted, edges = _vertices(mesh, vertices), mesh.edges()
    limit = radius * (1 + 1e-6)
    lists, sizes = [], []
    step = max(1, BLOCK_ELEMENTS // len(mesh))
    for start in range(0, len(wanted), step):
        far = dijkstra(edges, indices=wanted[start : start + step], limit=limit)
        inside = np.isfinite(far[:, wanted])
        lists.append(np.nonzero(inside)[1].astype(np.int32))
        sizes.append(inside.sum(1))
    return chosen(
        np.concatenate(lists),
        np.concatenate(sizes),
        n_neuroids=len(wanted),
        minimum=minimum,
        kind=f"disc of {radius:g} mm",
    )


def nearest_neighbourhoods(mesh: Mesh, *, count: int, vertices: Any = None) -> Neighbourhoods:
    """Return, around each vertex, the ``count`` recorded ones nearest to it along the surface.

    All neighbourhoods have the same number of neuroids, so that maps are not shaped by it. Of
    vertices that are equally far, those with the lower number are taken.

    Args:
        mesh: as ``disc_neighbourhoods`` takes it.
        count: how many, the vertex itself among them.
        vertices: vertex of each neuroid; None: all of them, in their order.

    Raises:
        ValueError: no vertex has as many within reach.

    Example:
        >>> strip = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]),
        ...              np.array([[0, 1, 2], [1, 3, 2]]))
        >>> nearest_neighbourhoods(strip, count=3).members(3).tolist()
        [1, 2, 3]

    Reference:
        Chen et al. 2011, https://doi.org/10.1016/j.neuroimage.2010.07.035
    """
    wanted, edges = _vertices(mesh, vertices), mesh.edges()
    if not 1 <= count <= len(wanted):
        raise ValueError(f"count is {count}; expected 1 to {len(wanted)} vertices")
    share = len(mesh) / len(wanted)  # recorded vertices may be sparse among those of the mesh
    first = 1.5 * float(np.sqrt(count * share * np.median(mesh.areas()) / np.pi))
    size = np.zeros(len(wanted), dtype=np.int64)
    found: list[Integers] = [np.empty(0, np.int32)] * len(wanted)
    left = np.arange(len(wanted))
    step = max(1, BLOCK_ELEMENTS // len(mesh))
    for limit in (first, 2 * first, 4 * first, np.inf):
        few = [left[:0]]
        for some in np.split(left, range(step, len(left), step)):
            far = dijkstra(edges, indices=wanted[some], limit=limit)[:, wanted]
            # Rounded, so that equal distances by other paths are ties, which the order decides.
            near = np.argsort(np.round(far, 9), axis=1, kind="stable")[:, :count]
            whole = np.isfinite(np.take_along_axis(far, near[:, -1:], axis=1)[:, 0])
            few.append(some[~whole])
            for place, row in zip(some[whole], near[whole], strict=True):
                found[place] = np.sort(row).astype(np.int32)
            size[some[whole]] = count
        left = np.concatenate(few)
    return chosen(
        np.concatenate([found[0][:0], *found]),
        size,
        n_neuroids=len(wanted),
        minimum=count,
        kind=f"{count} nearest vertices",
    )

"""Statistics of maps that know their neighbours: clusters, and threshold-free enhancement."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

Statistic = Literal["max", "extent", "mass", "tfce"]
STATISTICS: tuple[Statistic, ...] = ("max", "extent", "mass", "tfce")
CONNECTIVITY = {6: 1, 18: 2, 26: 3}  # axes in which neighbouring voxels may differ
PART_ELEMENTS = 1 << 15  # of maps: fewer are not worth a thread

Numbers = NDArray[np.float64]


def adjacency_of_voxels(ijk: Any, *, connectivity: int = 26) -> csr_array:
    """Return which voxels touch, by their indices.

    Args:
        ijk: whole indices of the voxels, (voxel, 3).
        connectivity: 6 (by a face), 18 (or an edge) or 26 (or a corner).

    Raises:
        ValueError: another connectivity, indices that are not whole, or a voxel that stands twice.

    Example:
        >>> adjacency_of_voxels([[0, 0, 0], [1, 0, 0], [2, 1, 0]], connectivity=6).nnz
        2
        >>> adjacency_of_voxels([[0, 0, 0], [1, 0, 0], [2, 1, 0]], connectivity=18).nnz
        4
    """
    if connectivity not in CONNECTIVITY:
        raise ValueError(f"connectivity is {connectivity}; expected 6, 18 or 26")
    places = np.asarray(ijk)
    if places.ndim != 2 or places.shape[1] != 3 or (places != np.round(places)).any():
        raise ValueError(f"ijk has shape {places.shape}; expected whole numbers, (voxel, 3)")
    return _touching(places, CONNECTIVITY[connectivity])


def _touching(places: NDArray[Any], n_axes: int) -> csr_array:
    """Which places, (place, axis), differ by at most 1 along at most so many axes."""
    places = places.astype(np.int64) - places.min(0).astype(np.int64) + 1
    number = np.full(places.max(0) + 2, -1, dtype=np.int64)
    number[tuple(places.T)] = np.arange(len(places))
    if (number >= 0).sum() != len(places):
        raise ValueError("a voxel stands twice among the indices; leave one of them out")
    steps = np.indices((3,) * places.shape[1]).reshape(places.shape[1], -1).T - 1
    moved = np.abs(steps).sum(1)
    rows, columns = [], []
    for step in steps[(moved > 0) & (moved <= n_axes)]:
        found = number[tuple((places + step).T)]
        rows.append(np.flatnonzero(found >= 0))
        columns.append(found[found >= 0])
    pair = np.concatenate(rows), np.concatenate(columns)
    n = len(places)
    return coo_array((np.ones(len(pair[0]), np.int8), pair), shape=(n, n)).tocsr()


@dataclass(frozen=True)
class Graph:
    """The neighbours of each position of a map.

    Args:
        offset: where the neighbours of each position begin, and their number at the end.
        neighbour: positions of the neighbours, one list after the other.
        weight: extent of each position: 1, or its area.
    """

    offset: NDArray[np.int32]
    neighbour: NDArray[np.int32]
    weight: Numbers

    @classmethod
    def of(cls, adjacency: Any, weight: Any = None) -> "Graph":
        """Take a symmetric sparse matrix, whose entries that are not 0 are neighbours.

        Raises:
            ValueError: a matrix that is not square or not symmetric, or weights that do not fit.
        """
        matrix = csr_array(adjacency)
        if matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"the adjacency has shape {matrix.shape}; expected a square matrix")
        matrix = csr_array((matrix.data != 0, matrix.indices, matrix.indptr), shape=matrix.shape)
        matrix.eliminate_zeros()
        one_way: Any = matrix.astype(np.int8) - matrix.T.astype(np.int8)
        if one_way.count_nonzero():
            raise ValueError("the adjacency is not symmetric; expected neighbours both ways")
        n = matrix.shape[0]
        extent = np.ones(n) if weight is None else np.asarray(weight, dtype=np.float64)
        if extent.shape != (n,) or not (extent > 0).all():
            raise ValueError(f"weight has shape {extent.shape}; expected {n} positive numbers")
        return cls(matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32), extent)

    @classmethod
    def of_grid(cls, shape: Sequence[int]) -> "Graph":
        """Take the points of a grid, which touch where one index differs by 1: time is a path.

        Example:
            >>> Graph.of_grid((3,)).neighbour.tolist(), len(Graph.of_grid((2, 2)).neighbour)
            ([1, 0, 2, 1], 8)
        """
        steps = _touching(np.argwhere(np.ones(shape)), 1)
        offset, neighbour = steps.indptr.astype(np.int32), steps.indices.astype(np.int32)
        return cls(offset, neighbour, np.ones(len(offset) - 1))

    @property
    def lists(self) -> tuple[NDArray[np.int32], NDArray[np.int32], Numbers]:
        """The three lists, as compiled functions take them."""
        return self.offset, self.neighbour, self.weight

    def __len__(self) -> int:
        """Return the number of positions."""
        return len(self.weight)


def tfce(
    values: Any, graph: Graph, *, extent_power: float = 0.5, height_power: float = 2.0
) -> Numbers:
    """Return the threshold-free cluster enhancement of a map.

    ``TFCE(v) = ∫₀^|value| e(h)ᴱ hᴴ dh``, e(h) the extent of the cluster above h that holds v. The
    integral is exact, without steps; negative values are enhanced by themselves, with their sign.

    Args:
        values: of each position of the graph.
        graph: which positions touch.
        extent_power, height_power: E and H: .5 and 2 as published for volumes; 1 and 2 are used on
            surfaces.

    Raises:
        ValueError: values that are not finite, or not one a position.

    Example:
        >>> line = Graph.of(np.diag(np.ones(2), 1) + np.diag(np.ones(2), -1))
        >>> tfce([1.0, 1.0, 0.0], line).round(4).tolist()   # √2 / 3
        [0.4714, 0.4714, 0.0]

    Reference:
        Smith & Nichols 2009, https://doi.org/10.1016/j.neuroimage.2008.03.061
    """
    from repalign.inference.compiled_clusters import enhance

    flat = _checked(values, graph)
    total, part = np.zeros_like(flat), np.empty_like(flat)
    for sign in (1.0, -1.0):
        signed = sign * flat
        n_above = int((signed > 0).sum())
        if not n_above:
            continue
        order = np.argsort(-signed, kind="stable").astype(np.int32)
        above = np.maximum(signed, 0)
        enhance(above, order, n_above, graph.lists, extent_power, height_power, part)
        total += sign * part
    return total


@dataclass(frozen=True)
class Clusters:
    """The clusters of a map: sets of positions that touch and lie beyond a threshold.

    Args:
        label: of each position: which cluster it is in, −1 for none.
        extent: of each cluster: its number of positions, or area.
        mass: of each cluster: Σ (|value| − base) over it, times the areas.
    """

    label: NDArray[np.int32]
    extent: Numbers
    mass: Numbers

    def at_positions(self, size: Numbers) -> Numbers:
        """Return a cluster's number at each of its positions, 0 outside."""
        found: Numbers = np.append(size, 0.0)[self.label]
        return found


def find_clusters(
    values: Any, graph: Graph, *, threshold: float, two_sided: bool, base: float | None = None
) -> Clusters:
    """Return the clusters above a threshold, and, two-sided, those below its negative.

    Their mass counts from ``base``: 0 gives Σ |value|, None the excess over the threshold.

    Raises:
        ValueError: values that are not finite, or a threshold that is not positive.

    Example:
        >>> line = Graph.of(np.diag(np.ones(3), 1) + np.diag(np.ones(3), -1))
        >>> found = find_clusters([3.0, 4.0, 0.0, -5.0], line, threshold=2.0, two_sided=True)
        >>> found.label.tolist(), found.extent.tolist(), found.mass.tolist()
        ([0, 0, -1, 1], [2.0, 1.0], [3.0, 3.0])
    """
    from repalign.inference.compiled_clusters import label_clusters

    if not 0 < threshold < np.inf:
        raise ValueError(f"threshold is {threshold}; expected a positive number")
    flat = _checked(values, graph)
    label, sizes = np.empty(len(flat), np.int32), np.empty((2, len(flat)))
    start = threshold if base is None else base
    count = label_clusters(flat, two_sided, threshold, start, graph.lists, label, sizes)
    return Clusters(label, *sizes[:, :count].copy())


def largest_clusters(
    maps: Numbers,
    graph: Graph,
    *,
    threshold: float,
    two_sided: bool,
    base: float | None = None,
    by_mass: bool,
) -> Numbers:
    """Return the extent or mass of the largest of ``find_clusters`` in each map; 0 for none."""
    from repalign.inference.compiled_clusters import measure_largest

    start = threshold if base is None else base
    return of_each_map(
        lambda part: measure_largest(part, two_sided, threshold, start, graph.lists, by_mass), maps
    )


def of_each_map(function: Callable[[Numbers], Numbers], maps: Numbers) -> Numbers:
    """Return a function's number of each map, (map, position); threads share the maps."""
    worth = min(len(maps), torch.get_num_threads(), maps.size // PART_ELEMENTS)
    if worth < 2:
        return function(maps)
    with ThreadPoolExecutor(worth) as pool:
        return np.concatenate(list(pool.map(function, np.array_split(maps, worth))))


def _checked(values: Any, graph: Graph) -> Numbers:
    flat = np.ascontiguousarray(values, dtype=np.float64)
    if flat.shape != (len(graph),) or not np.isfinite(flat).all():
        raise ValueError(
            f"the map has shape {flat.shape}, and {int((~np.isfinite(flat)).sum())} values that are"
            f" not finite; expected {len(graph)} finite numbers. Leave out what is no centre"
        )
    return flat

"""Clusters and threshold-free enhancement on a graph, compiled.

Vertices join in descending order of their values, each with the neighbours that are there already:
a union-find forest in which every component knows how many vertices it has, so that all thresholds
are seen in one sweep.
"""

import numpy as np
from numpy.typing import NDArray

from repalign.inference.compiled_ranks import compiled

Integers = NDArray[np.int32]
Numbers = NDArray[np.float64]
Lists = tuple[Integers, Integers, Numbers]  # where a vertex's neighbours begin, they, weights


@compiled
def _root(parent: Integers, start: int) -> int:
    root = start
    while parent[root] != root:
        root = parent[root]
    return root


@compiled
def _climb(parent: Integers, owed: Numbers, start: int) -> int:
    """Return the root, with the way to it made short; ``owed`` is relative to the parent's."""
    root = _root(parent, start)
    total, at = 0.0, start
    while parent[at] != root and at != root:  # the sum of what is owed along the way
        total += owed[at]
        at = parent[at]
    if at != root:
        total += owed[at]
    at = start
    while parent[at] != root and at != root:
        above, own = parent[at], owed[at]
        parent[at] = root
        owed[at] = total
        total -= own
        at = above
    return root


@compiled
def enhance(
    values: Numbers,
    order: Integers,
    n_above: int,
    lists: Lists,
    extent_power: float,
    height_power: float,
    enhanced: Numbers,
) -> None:
    """Write ∫₀ᵛ e(h)ᴱ hᴴ dh of each vertex whose value is above 0; 0 elsewhere.

    A component of extent e contributes eᴱ(bᴴ⁺¹ − aᴴ⁺¹)/(H + 1) to all its vertices while the
    threshold falls from b to a, at which it changes. That is added to its root only; when two meet,
    what the one has got before is subtracted from the other's vertices, which are owed none of it.
    """
    offset, neighbour, weight = lists
    n = len(values)
    parent = np.empty(n, np.int32)
    extent = np.zeros(n)
    owed = np.zeros(n)  # of a root: what all of its vertices get; of others: relative to the root
    level = np.zeros(n)  # bᴴ⁺¹ of the threshold up to which a root has been given its share
    power = height_power + 1
    for vertex in range(n):
        parent[vertex] = -1
        enhanced[vertex] = 0
    for place in range(n_above):
        vertex = order[place]
        height = values[vertex] ** power
        parent[vertex], extent[vertex], level[vertex] = vertex, weight[vertex], height
        root = vertex
        for at in range(offset[vertex], offset[vertex + 1]):
            other = neighbour[at]
            if parent[other] < 0:
                continue
            found = _climb(parent, owed, other)
            if found == root:
                continue
            for one in (found, root):
                owed[one] += extent[one] ** extent_power * (level[one] - height) / power
                level[one] = height
            large, small = (found, root) if extent[found] >= extent[root] else (root, found)
            parent[small] = large
            owed[small] -= owed[large]
            extent[large] += extent[small]
            root = large
    for place in range(n_above):
        vertex = order[place]
        if parent[vertex] == vertex:
            owed[vertex] += extent[vertex] ** extent_power * level[vertex] / power
    for place in range(n_above):
        vertex = order[place]
        root = _climb(parent, owed, vertex)
        enhanced[vertex] = owed[vertex] + (owed[root] if root != vertex else 0.0)


@compiled
def label_clusters(
    values: Numbers,
    two_sided: bool,
    threshold: float,
    base: float,
    lists: Lists,
    label: Integers,
    sizes: Numbers,
) -> int:
    """Number the connected sets beyond a threshold, those above first, and return how many.

    ``label`` is −1 elsewhere; ``sizes`` are the extent, which is the weight of a cluster, and the
    mass, the sum of the weighted excess of its values over the base.
    """
    offset, neighbour, weight = lists
    n, count = len(values), 0
    waiting = np.empty(n, np.int32)
    for vertex in range(n):
        label[vertex] = -1
    for side in range(2 if two_sided else 1):
        sign = 1.0 - 2.0 * side
        for first in range(n):
            if label[first] >= 0 or not sign * values[first] > threshold:
                continue
            label[first], waiting[0], n_waiting = count, first, 1
            sizes[0, count], sizes[1, count] = 0.0, 0.0
            while n_waiting:
                n_waiting -= 1
                vertex = waiting[n_waiting]
                sizes[0, count] += weight[vertex]
                sizes[1, count] += weight[vertex] * (sign * values[vertex] - base)
                for at in range(offset[vertex], offset[vertex + 1]):
                    other = neighbour[at]
                    if label[other] < 0 and sign * values[other] > threshold:
                        label[other], waiting[n_waiting] = count, other
                        n_waiting += 1
            count += 1
    return count


@compiled
def measure_largest(
    maps: Numbers, two_sided: bool, threshold: float, base: float, lists: Lists, by_mass: bool
) -> Numbers:
    """Return the extent or the mass of each map's largest cluster; 0 where it has none."""
    n_maps, n = maps.shape
    label, sizes, largest = np.empty(n, np.int32), np.empty((2, n)), np.zeros(n_maps)
    for number in range(n_maps):
        found = label_clusters(maps[number], two_sided, threshold, base, lists, label, sizes)
        for cluster in range(found):
            largest[number] = max(largest[number], sizes[int(by_mass), cluster])
    return largest

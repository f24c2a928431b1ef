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
    offset: Integers,
    neighbour: Integers,
    weight: Numbers,
    extent_power: float,
    height_power: float,
    enhanced: Numbers,
) -> None:
    """Write ∫₀ᵛ e(h)ᴱ hᴴ dh of each vertex whose value is above 0; 0 elsewhere.

    A component of extent e contributes eᴱ(bᴴ⁺¹ − aᴴ⁺¹)/(H + 1) to all its vertices while the
    threshold falls from b to a, at which it changes. That is added to its root only; when two meet,
    what the one has got before is subtracted from the other's vertices, which are owed none of it.
    """
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
    threshold: float,
    offset: Integers,
    neighbour: Integers,
    weight: Numbers,
    label: Integers,
    extent: Numbers,
    mass: Numbers,
) -> int:
    """Number the connected sets of vertices above a threshold, and return how many there are.

    ``label`` is −1 elsewhere; ``extent`` is the weight of a cluster and ``mass`` the sum of the
    weighted excess of its values over the threshold.
    """
    n, count = len(values), 0
    waiting = np.empty(n, np.int32)
    for vertex in range(n):
        label[vertex] = -1
    for first in range(n):
        if label[first] >= 0 or not values[first] > threshold:
            continue
        label[first], waiting[0], n_waiting = count, first, 1
        extent[count], mass[count] = 0.0, 0.0
        while n_waiting:
            n_waiting -= 1
            vertex = waiting[n_waiting]
            extent[count] += weight[vertex]
            mass[count] += weight[vertex] * (values[vertex] - threshold)
            for at in range(offset[vertex], offset[vertex + 1]):
                other = neighbour[at]
                if label[other] < 0 and values[other] > threshold:
                    label[other], waiting[n_waiting] = count, other
                    n_waiting += 1
        count += 1
    return count

"""Which neuroids lie around each centre: spheres in a volume, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

MINIMUM = 10  # neuroids: correlations over fewer say little
BLOCK = 4096  # centres whose neighbours are looked up at a time
SLACK = 1e-6  # part of the radius: a voxel that lies on it is inside, whatever the affine rounds

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Neighbourhoods:
    """The members of the neighbourhood of each centre, one list after the other.

    Args:
        centre: position of each centre among the neuroids, ascending.
        member: positions of the members of all centres, those of a centre ascending.
        offset: where the members of each centre begin in ``member``, and its length at the end.
        n_neuroids: how many neuroids there are.
        minimum: fewest members that a centre needs.
        left_out: positions of the neuroids that are no centre, since they have fewer.
        kind: how they were made, such as ``"sphere of 6 mm"``.
    """

    centre: Integers
    member: Integers
    offset: Integers
    n_neuroids: int
    minimum: int
    left_out: Integers
    kind: str

    def __len__(self) -> int:
        """Return the number of centres."""
        return len(self.centre)

    @property
    def size(self) -> Integers:
        """Number of members of each centre."""
        return np.diff(self.offset)

    def members(self, number: int) -> Integers:
        """Return the positions of the members of a centre, by its number."""
        return self.member[self.offset[number] : self.offset[number + 1]]

    def __str__(self) -> str:
        """Say in a line what they are, and what is left out."""
        size = self.size
        line = (
            f"{self.kind}: {len(self)} centres with {size.min()} to {size.max()} neuroids (median "
            f"{np.median(size):.0f})"
        )
        if len(self.left_out):
            line += f"; {len(self.left_out)} neuroids with fewer than {self.minimum} are no centre"
        return line


def gather_neighbourhoods(
    members: Sequence[Integers],
    *,
    n_neuroids: int | None = None,
    minimum: int = MINIMUM,
    kind: str = "given",
) -> Neighbourhoods:
    """Return neighbourhoods from one list of members a neuroid; those that are too small go.

    Args:
        members: for each neuroid the positions of its neighbours, its own where it is one.
        n_neuroids: how many neuroids there are; as many as lists if None.
        minimum: fewest members that a centre needs.
        kind: what they are, in words.

    Raises:
        ValueError: no centre is left, a position that does not exist or stands twice.

    Example:
        >>> found = gather_neighbourhoods([np.arange(3), np.arange(2)], n_neuroids=3, minimum=3)
        >>> found.centre.tolist(), found.left_out.tolist()
        ([0], [1])
    """
    lists = [np.unique(np.asarray(one, dtype=np.int64)) for one in members]
    n = len(lists) if n_neuroids is None else n_neuroids
    given = np.array([len(one) for one in members])
    size = np.array([len(one) for one in lists])
    member = np.concatenate([*lists, np.empty(0, np.int64)])
    wrong = member[(member < 0) | (member >= n)]
    if len(wrong) or len(lists) > n or (given != size).any():
        what = f"position {wrong[0]}" if len(wrong) else "a member that stands twice"
        raise ValueError(
            f"the lists of members hold {what if len(lists) <= n else f'{len(lists)} centres'};"
            f" expected different positions from 0 to {n - 1}"
        )
    return chosen(member, size, n_neuroids=n, minimum=minimum, kind=kind)


def chosen(
    member: Integers, size: Integers, *, n_neuroids: int, minimum: int, kind: str
) -> Neighbourhoods:
    """Keep the centres with enough members, of lists that stand one after the other.

    Raises:
        ValueError: none is left, or ``minimum`` is less than 1.
    """
    if minimum < 1:
        raise ValueError(f"minimum is {minimum}; expected 1 or more neuroids a neighbourhood")
    enough = size >= minimum
    if not enough.any():
        most = int(size.max()) if len(size) else 0
        raise ValueError(
            f"no neighbourhood ({kind}) has {minimum} or more neuroids; the largest has {most}."
            " Use a larger radius, or a smaller minimum"
        )
    kept = member if enough.all() else member[np.repeat(enough, size)]
    return Neighbourhoods(
        centre=np.flatnonzero(enough),
        member=kept.astype(np.int32),
        offset=np.concatenate([[0], np.cumsum(size[enough])]),
        n_neuroids=n_neuroids,
        minimum=minimum,
        left_out=np.flatnonzero(~enough),
        kind=kind,
    )


def sphere_neighbourhoods(
    coordinates: Floats | Integers,
    *,
    radius: float,
    unit: str = "mm",
    minimum: int = MINIMUM,
) -> Neighbourhoods:
    """Return, around each neuroid, those that are no further from it than a radius.

    Args:
        coordinates: of the neuroids, (neuroid, axis): mm, or whole indices of voxels.
        radius: of the spheres, in the unit of the coordinates; what lies on it is inside.
        unit: what the coordinates are in, for messages.
        minimum: spheres with fewer neuroids, at the edge of a mask, are no centres.

    Raises:
        ValueError: no sphere is large enough, coordinates that are not finite, two neuroids at one
            place, or a radius that is not positive.

    Example:
        >>> line = np.arange(5.0)[:, None]
        >>> found = sphere_neighbourhoods(line, radius=1.0, minimum=3)
        >>> found.members(0).tolist(), found.left_out.tolist()
        ([0, 1, 2], [0, 4])

    Reference:
        Kriegeskorte, Goebel & Bandettini 2006, https://doi.org/10.1073/pnas.0600244103
    """
    points = np.asarray(coordinates, dtype=np.float64)
    if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
        raise ValueError(
            f"coordinates have shape {points.shape}"
            f"{'' if np.isfinite(points).all() else ' and hold NaN or infinity'}; expected finite"
            " numbers of shape (neuroid, axis)"
        )
    if not 0 < radius < np.inf:
        raise ValueError(f"radius is {radius}; expected a positive number of {unit}")
    tree = cKDTree(points)
    lists, sizes = [], []
    for start in range(0, len(points), BLOCK):
        some = cKDTree(points[start : start + BLOCK])
        near = some.sparse_distance_matrix(tree, radius * (1 + SLACK), output_type="ndarray")
        order = np.lexsort((near["j"], near["i"]))
        lists.append(near["j"][order].astype(np.int32))
        sizes.append(np.bincount(near["i"], minlength=some.n))
        twice = (near["v"] == 0) & (near["i"] + start != near["j"])
        if twice.any():
            one, other = int(near["i"][twice][0]) + start, int(near["j"][twice][0])
            raise ValueError(
                f"neuroids {min(one, other)} and {max(one, other)} lie at one place,"
                f" {points[one].tolist()}; leave one of them out"
            )
    return chosen(
        np.concatenate(lists),
        np.concatenate(sizes),
        n_neuroids=len(points),
        minimum=minimum,
        kind=f"sphere of {radius:g} {unit}",
    )


def mask_coordinates(mask: Any, affine: Any = None) -> Floats:
    """Return where the voxels of a mask lie, in the order of ``data[mask]``.

    Args:
        mask: a volume of three axes; what is not 0 is inside.
        affine: from indices to mm, 4 × 4; None gives the indices themselves.

    Raises:
        ValueError: no volume, no voxel inside, or no affine.

    Example:
        >>> mask_coordinates(np.ones((1, 1, 2)), np.diag([3.0, 3.0, 3.0, 1.0])).tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
    """
    inside = np.asarray(mask)
    if inside.ndim != 3 or not inside.any():
        raise ValueError(
            f"the mask has shape {inside.shape} and {np.count_nonzero(inside)} voxels inside;"
            " expected a volume of three axes with some"
        )
    ijk = np.argwhere(inside != 0).astype(np.float64)
    if affine is None:
        return ijk
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError(f"the affine has shape {matrix.shape}; expected 4 × 4 finite numbers")
    return ijk @ matrix[:3, :3].T + matrix[:3, 3]


def joined_neighbourhoods(parts: Sequence[Neighbourhoods]) -> Neighbourhoods:
    """Put neighbourhoods of parts that do not touch, such as hemispheres, one after the other.

    Example:
        >>> half = sphere_neighbourhoods(np.arange(3.0)[:, None], radius=2.0, minimum=1)
        >>> joined_neighbourhoods([half, half]).members(3).tolist()
        [3, 4, 5]
    """
    starts = np.cumsum([0, *(part.n_neuroids for part in parts)])
    begins = np.cumsum([0, *(len(part.member) for part in parts)])
    pairs = list(zip(parts, starts, begins, strict=False))
    return replace(
        parts[0],
        centre=np.concatenate([part.centre + start for part, start, _ in pairs]),
        member=np.concatenate([part.member + np.int32(start) for part, start, _ in pairs]),
        offset=np.concatenate(
            [*(part.offset[:-1] + begin for part, _, begin in pairs), begins[-1:]]
        ),
        n_neuroids=int(starts[-1]),
        left_out=np.concatenate([part.left_out + start for part, start, _ in pairs]),
    )

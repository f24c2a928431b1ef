"""Where the neuroids of a recording lie, and the neighbourhoods that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from repalign.recording import NEUROID
from repalign.searchlights.meshes import (
    Mesh,
    disc_neighbourhoods,
    nearest_neighbourhoods,
    read_mesh,
)
from repalign.searchlights.neighbourhoods import (
    MINIMUM,
    Neighbourhoods,
    joined_neighbourhoods,
    sphere_neighbourhoods,
)

UNITS = {"mm": ("x_mm", "y_mm", "z_mm"), "voxels": ("i", "j", "k")}
SIDES = {"left": ("left", "cortex_left"), "right": ("right", "cortex_right")}

Meshes = Mapping[str, Mesh | str | Path]


def one_subject(recording: xr.Dataset) -> xr.Dataset:
    """Return one subject's recording, each voxel once.

    A voxel that lies in two regions of an atlas stands there twice.

    Raises:
        ValueError: several subjects, or neuroids with one id that lie at different places.
    """
    if "subject" in recording.coords:
        subjects = list(dict.fromkeys(recording["subject"].values.tolist()))
        if len(subjects) > 1:
            raise ValueError(
                f"the recording has {len(subjects)} subjects ({', '.join(map(str, subjects[:5]))});"
                " a map is of one: repalign.select(recording, subject=...)"
            )
    if "neuroid_id" not in recording.coords:
        return recording
    names = recording["neuroid_id"].values.astype(str)
    _, first, again = np.unique(names, return_index=True, return_inverse=True)
    if len(first) == len(names):
        return recording
    for place in (*UNITS["mm"], *UNITS["voxels"], "vertex"):
        if place not in recording.coords:
            continue
        values = recording[place].values
        elsewhere = np.flatnonzero(values != values[first][again])
        if len(elsewhere):
            raise ValueError(
                f"the neuroid id {str(names[elsewhere[0]])!r} stands for several places; give each"
                " voxel or vertex an id of its own"
            )
    return recording.isel({NEUROID: np.sort(first)})


def side_of(recording: xr.Dataset) -> np.ndarray[Any, Any] | None:
    """Return the hemisphere of each vertex, empty text for what is none; None without vertices."""
    for name in ("hemisphere", "structure"):
        if name in recording.coords and "vertex" in recording.coords:
            values = recording[name].values.astype(str)
            found = np.full(len(values), "", dtype=object)
            for side, words in SIDES.items():
                found[np.isin(values, words)] = side
            return found
    return None


def read_meshes(meshes: Meshes) -> dict[str, Mesh]:
    """Return the mesh of each hemisphere, read from its file where it is a path.

    Raises:
        ValueError: other names than ``left`` and ``right``, or no mesh.
    """
    if not isinstance(meshes, Mapping) or not meshes or set(meshes) - set(SIDES):
        what = list(meshes) if isinstance(meshes, Mapping) else type(meshes).__name__
        raise ValueError(f"mesh is {what}; expected {{'left': ..., 'right': ...}}, or one of them")
    return {
        side: mesh if isinstance(mesh, Mesh) else read_mesh(mesh) for side, mesh in meshes.items()
    }


def neighbourhoods_of(
    recording: xr.Dataset,
    *,
    radius: float | None = None,
    unit: str = "mm",
    nearest: int | None = None,
    mesh: Meshes | None = None,
    minimum: int = MINIMUM,
) -> Neighbourhoods:
    """Return the neighbourhoods of a recording's voxels (spheres) or vertices (discs).

    Args:
        recording: of one subject, with the voxels' coordinates as repalign's loaders store them:
            ``x_mm``, ``y_mm``, ``z_mm`` and ``i``, ``j``, ``k``; or ``vertex`` with ``hemisphere``
            (GIFTI) or ``structure`` (CIFTI-2).
        radius: of spheres or discs.
        unit: of the radius: ``mm``, or ``voxels`` of a volume.
        nearest: on a surface, how many vertices a neighbourhood has, instead of a radius.
        mesh: the surface of each hemisphere, ``{"left": ..., "right": ...}``: a ``Mesh``, or the
            path of a GIFTI file (.surf.gii). With it, distances go along the surface; vertices of a
            hemisphere without mesh, and voxels, are no centres.
        minimum: neighbourhoods with fewer neuroids are no centres.

    Raises:
        ValueError: several subjects, no coordinates, radius and nearest both or neither given, or
            no neighbourhood that is large enough.

    Reference:
        Kriegeskorte, Goebel & Bandettini 2006, https://doi.org/10.1073/pnas.0600244103
    """
    if (radius is None) == (nearest is None):
        raise ValueError("give either radius or nearest")
    recording = one_subject(recording)
    if mesh is not None:
        if unit != "mm":
            raise ValueError(f"unit={unit!r} does not apply to a surface; its radius is in mm")
        return _on_surface(recording, read_meshes(mesh), radius, nearest, minimum)
    if nearest is not None or radius is None:
        raise ValueError("nearest= is for surfaces; give mesh=, or a radius")
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}; expected one of {', '.join(UNITS)}")
    names = UNITS[unit]
    missing = [name for name in names if name not in recording.coords]
    if missing:
        surface = side_of(recording) is not None
        raise ValueError(
            f"the recording has no coordinate {missing[0]!r} of its neuroids"
            + (": its neuroids are vertices, give mesh=" if surface else "; it has ")
            + ("" if surface else ", ".join(sorted(map(str, recording.coords))))
        )
    points = np.stack([recording[name].values for name in names], axis=1)
    if side_of(recording) is not None and (points < 0).any():
        raise ValueError("the recording has vertices, which lie in no volume; give mesh=")
    return sphere_neighbourhoods(points, radius=radius, unit=unit, minimum=minimum)


def _on_surface(
    recording: xr.Dataset,
    meshes: Mapping[str, Mesh],
    radius: float | None,
    nearest: int | None,
    minimum: int,
) -> Neighbourhoods:
    side = side_of(recording)
    if side is None:
        raise ValueError(
            "mesh= was given, and the recording's neuroids are no vertices: it has no coordinate"
            " 'vertex' with 'hemisphere' or 'structure'. Leave mesh out for a volume"
        )
    places = {name: np.flatnonzero(side == name) for name in meshes}
    empty = [name for name, place in places.items() if not len(place)]
    if empty:
        raise ValueError(f"the recording has no vertex of the {empty[0]} hemisphere; leave it out")
    parts = []
    for name, one in meshes.items():
        vertex = recording["vertex"].values[places[name]]
        if nearest is not None:
            parts.append(nearest_neighbourhoods(one, count=nearest, vertices=vertex))
        elif radius is not None:
            parts.append(disc_neighbourhoods(one, radius=radius, vertices=vertex, minimum=minimum))
    return _placed(joined_neighbourhoods(parts), np.concatenate([*places.values()]), len(side))


def _placed(found: Neighbourhoods, place: np.ndarray[Any, Any], n: int) -> Neighbourhoods:
    """Number the neuroids by their place in the recording instead of that among the vertices."""
    centre = place[found.centre]
    order = np.argsort(centre)
    lists = [np.sort(place[found.members(number)]) for number in order.tolist()]
    return replace(
        found,
        centre=centre[order],
        member=np.concatenate(lists).astype(np.int32),
        offset=np.concatenate([[0], np.cumsum(found.size[order])]),
        n_neuroids=n,
        left_out=np.setdiff1d(np.arange(n), centre),
    )

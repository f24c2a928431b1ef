"""The vertices and grayordinates of surface files, as neuroids; the values of GIFTI files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from repalign.loaders.surface_files import open_cifti, open_gifti

OTHER_INTENTS = {1008: "POINTSET", 1009: "TRIANGLE", 1002: "LABEL"}

Array = np.ndarray[Any, np.dtype[Any]]


def value_type(kind: np.dtype[Any]) -> np.dtype[Any]:
    """float32, or float64 for values that hold more digits."""
    wide = kind.itemsize > 4 or (kind.kind in "iu" and kind.itemsize > 2)
    return np.dtype(np.float64 if wide else np.float32)


def read_gifti(files: Mapping[str, Path], sides: list[str]) -> tuple[Array, dict[str, Array]]:
    """Presentation × vertex of one or both hemispheres, and what is known of the vertices.

    Raises:
        ValueError: arrays that are no responses, or differ in number or length.
    """
    parts: list[Array] = []
    hemisphere: list[str] = []
    for side in sides:
        path, image = files[side], open_gifti(files[side])
        for number, one in enumerate(image.darrays):
            data = one.data
            if one.intent in OTHER_INTENTS or data is None or data.ndim != 1:
                what = OTHER_INTENTS.get(one.intent, f"shape {np.shape(data)}")
                raise ValueError(
                    f"{path}: data array {number} is of {what}; expected one value a vertex, one"
                    " data array a presentation"
                )
            if data.shape != image.darrays[0].data.shape:
                raise ValueError(
                    f"{path}: data array {number} has {len(data)} vertices, the first has"
                    f" {len(image.darrays[0].data)}"
                )
        values = np.stack([one.data for one in image.darrays])
        parts.append(values.astype(value_type(values.dtype)))
        hemisphere += [side] * values.shape[1]
        if len(parts[0]) != len(values):
            raise ValueError(
                f"{path} has {len(values)} data arrays, {files[sides[0]]} has {len(parts[0])};"
                " expected one a presentation in both"
            )
    vertex = np.concatenate([np.arange(part.shape[1]) for part in parts])
    names = [f"{side}-{index}" for side, index in zip(hemisphere, vertex.tolist(), strict=True)]
    columns = {
        "neuroid_id": np.array(names, dtype=object),
        "hemisphere": np.array(hemisphere, dtype=object),
        "vertex": vertex,
    }
    return np.concatenate(parts, axis=1), columns


def describe_cifti(path: Path) -> tuple[Array, dict[str, Array]]:
    """No values, and what is known of the grayordinates.

    Raises:
        ValueError: labels, or a grayordinate that stands twice.
    """
    image = open_cifti(path)
    axis = image.header.get_axis(1)
    if type(image.header.get_axis(0)).__name__ == "LabelAxis":
        raise ValueError(f"{path} holds labels; expected responses (.dscalar.nii, .dtseries.nii)")
    structure = [str(name).removeprefix("CIFTI_STRUCTURE_").lower() for name in axis.name]
    places = zip(structure, axis.vertex.tolist(), axis.voxel.tolist(), strict=True)
    names = [
        f"{name}-{vertex}" if vertex >= 0 else "-".join([name, *map(str, voxel)])
        for name, vertex, voxel in places
    ]
    if len(set(names)) != len(names):
        raise ValueError(f"{path} has a grayordinate twice; export it again")
    columns = {
        "neuroid_id": np.array(names, dtype=object),
        "structure": np.array(structure, dtype=object),
        "vertex": np.asarray(axis.vertex, dtype=np.int64),
    }
    columns |= {name: np.asarray(axis.voxel[:, i], np.int64) for i, name in enumerate("ijk")}
    return np.empty((0, len(names))), columns

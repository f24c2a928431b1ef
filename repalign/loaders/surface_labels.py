"""The region of each vertex, from label GIFTI and CIFTI-2 dlabel files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from repalign.loaders.surface_files import open_cifti, open_gifti

Array = np.ndarray[Any, np.dtype[Any]]


def gifti_labels(
    path: Path, data_path: Path, n_vertices: int, label_map: str | int | None
) -> Array:
    """Names by vertex, empty text for label 0.

    Raises:
        ValueError: another number of vertices, no labels, several maps, or a label without name.
    """
    image = open_gifti(path)
    names = [str(one.meta.get("Name", "")) for one in image.darrays]
    keys = np.asarray(image.darrays[_map_number(path, names, label_map)].data)
    if keys.shape != (n_vertices,):
        raise ValueError(
            f"{path} has labels of shape {keys.shape}, {data_path} has {n_vertices} vertices; take"
            " labels of the same surface mesh"
        )
    return _named(path, keys, dict(image.labeltable.get_labels_as_dict()))


def cifti_labels(path: Path, data_path: Path, label_map: str | int | None) -> Array:
    """Names by grayordinate of the data, empty text for label 0 and where the labels have none.

    Raises:
        ValueError: another surface mesh or volume, no labels, or several maps.
    """
    image = open_cifti(path)
    maps, axis = image.header.get_axis(0), image.header.get_axis(1)
    if type(maps).__name__ != "LabelAxis":
        raise ValueError(f"{path} holds no labels; expected a .dlabel.nii")
    data = open_cifti(data_path).header.get_axis(1)
    for structure, count in data.nvertices.items():
        other = axis.nvertices.get(structure, count)
        if other != count:
            raise ValueError(
                f"{path} has {other} vertices in {structure}, {data_path} has {count}; take labels"
                " of the same surface mesh"
            )
    voxels = (~data.surface_mask).any() and (~axis.surface_mask).any()
    if voxels and not np.allclose(data.affine, axis.affine, atol=1e-3):
        raise ValueError(f"{path} and {data_path} have voxels at other places (affines differ)")
    number = _map_number(path, [str(name) for name in maps.name], label_map)
    keys = np.asarray(image.dataobj[number : number + 1])[0]
    names = {key: str(name) for key, (name, _) in maps.label[number].items()}
    by_place = dict(zip(_places(axis), _named(path, keys, names).tolist(), strict=True))
    return np.array([by_place.get(place, "") for place in _places(data)], dtype=object)


def _places(axis: Any) -> list[tuple[Any, ...]]:
    """What tells a grayordinate from all others."""
    lists = (axis.name.tolist(), axis.vertex.tolist(), axis.voxel.tolist())
    return [(name, vertex, *voxel) for name, vertex, voxel in zip(*lists, strict=True)]


def _map_number(path: Path, names: list[str], label_map: str | int | None) -> int:
    """The number of the map that is meant."""
    if label_map is None and len(names) == 1:
        return 0
    if isinstance(label_map, int) and 0 <= label_map < len(names):
        return label_map
    if isinstance(label_map, str) and names.count(label_map) == 1:
        return names.index(label_map)
    raise ValueError(
        f"{path} has {len(names)} maps ({', '.join(names)}); options.label_map = {label_map!r},"
        " expected the name or the 0-based number of one"
    )


def _named(path: Path, keys: Array, names: dict[int, str]) -> Array:
    """The name of each label; 0 stands for none."""
    if not np.isfinite(keys).all() or (keys != np.round(keys)).any():
        raise ValueError(f"{path} holds values between whole numbers; expected labels")
    present = np.unique(keys).astype(int).tolist()
    lacking = [key for key in present if key != 0 and not names.get(key)]
    if lacking:
        raise ValueError(f"{path} has label {lacking[0]}, which its table gives no name")
    texts = {key: "" if key == 0 else names[key] for key in present}
    return np.array([texts[int(key)] for key in keys.tolist()], dtype=object)

"""Maps as NIfTI volumes, GIFTI surfaces and CIFTI-2 grayordinates."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from repalign.loaders.surface_files import open_cifti
from repalign.loaders.surface_vertices import describe_cifti
from repalign.loaders.volumes import AFFINE_TOLERANCE, SUFFIXES, open_nifti
from repalign.recording import NEUROID
from repalign.searchlights.around_neuroids import SIDES, side_of

CIFTI, GIFTI = ".dscalar.nii", ".func.gii"
INDICES, PLACES = ("i", "j", "k"), ("x_mm", "y_mm", "z_mm")


def affine_of(maps: xr.Dataset) -> NDArray[np.float64]:
    """Return the affine from indices to mm that the coordinates of a map's voxels tell.

    Raises:
        ValueError: no such coordinates, or voxels of one slice only, which leave an axis open.
    """
    missing = [name for name in (*INDICES, *PLACES) if name not in maps.coords]
    if missing:
        raise ValueError(
            f"the map's neuroids have no coordinate {missing[0]!r}, so that their places in a"
            " volume are unknown; a map of vertices goes to .func.gii"
        )
    ijk = np.stack([maps[name].values for name in INDICES], axis=1).astype(np.float64)
    mm = np.stack([maps[name].values for name in PLACES], axis=1)
    design = np.column_stack([ijk, np.ones(len(ijk))])
    if np.linalg.matrix_rank(design - design.mean(0) * [1, 1, 1, 0]) < 4:
        raise ValueError(
            "the map's voxels lie in one slice, which does not tell the affine; give like=, an"
            " image of the same grid"
        )
    solved, *_ = np.linalg.lstsq(design, mm, rcond=None)
    affine = np.eye(4)
    affine[:3] = solved.T
    affine[np.abs(affine) < 1e-12 * np.abs(affine).max()] = 0
    return affine


def _selected(maps: xr.Dataset, variable: str) -> tuple[list[str], NDArray[np.float64]]:
    if variable not in maps or maps[variable].dims != ("model", NEUROID):
        known = [str(name) for name in maps if maps[name].dims == ("model", NEUROID)]
        raise ValueError(f"no map {variable!r}; there are {', '.join(known)}")
    return [str(name) for name in maps["model"].values], maps[variable].values


def write_map(
    maps: xr.Dataset,
    path: str | Path,
    *,
    variable: str | None = None,
    like: str | Path | None = None,
    n_vertices: Mapping[str, int] | None = None,
) -> list[Path]:
    """Write a map as a file that viewers of brains open; the ending of its name says which.

    - ``.nii`` or ``.nii.gz``: a volume, with a fourth axis where there are several models.
    - ``.func.gii``: a surface, one data array a model; of two hemispheres two files are written,
      with ``.left`` and ``.right`` before the ending.
    - ``.dscalar.nii``: CIFTI-2 grayordinates, one row a model; needs ``like``.

    Neuroids that the map has not, or where it is undefined, are NaN. A file is written under a
    temporary name and then renamed.

    Args:
        maps: as ``searchlight``, ``significance_over_subjects`` or
            ``significance_over_permutations`` gives them.
        path: of the file.
        variable: which of their variables, such as ``p_family``; ``similarity`` if None, or the
            ``mean`` over subjects.
        like: an image of the same grid, or a CIFTI-2 file of the same grayordinates, for shape and
            affine; without one, a volume is as large as its voxels need, and its affine is that of
            their coordinates.
        n_vertices: of each hemisphere's mesh; what the vertices need if None.

    Returns:
        The files that were written.

    Raises:
        ValueError: another ending, neuroids that have no place in such a file, ``like`` of another
            grid, or an option that does not apply to such a file.
    """
    path = Path(path).expanduser()
    name = path.name.lower()
    if variable is None:
        variable = "similarity" if "similarity" in maps else "mean"
    names, values = _selected(maps, variable)
    if like is not None and name.endswith(GIFTI):
        raise ValueError(f"like= does not apply to {GIFTI}; say n_vertices, or leave it out")
    if n_vertices is not None and not name.endswith(GIFTI):
        raise ValueError(f"n_vertices= applies to {GIFTI} only; leave it out")
    if name.endswith(CIFTI):
        return [_save(_cifti(maps, names, values, like), path)]
    if name.endswith(GIFTI):
        return _write_surfaces(maps, names, values, path, n_vertices or {})
    if not name.endswith(SUFFIXES):
        raise ValueError(f"{path}: expected a name that ends in .nii, .nii.gz, {GIFTI} or {CIFTI}")
    return [_save(_volume(maps, values, like), path)]


def _save(image: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = next(e for e in (CIFTI, GIFTI, *reversed(SUFFIXES)) if path.name.lower().endswith(e))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".map") as folder:
        written = Path(folder) / f"map{ending}"
        image.to_filename(written)
        written.replace(path)
    return path


def as_volume(
    maps: xr.Dataset, *, variable: str = "similarity", like: str | Path | None = None
) -> Any:
    """Return a map as a NIfTI image, as ``write_map`` writes it."""
    return _volume(maps, _selected(maps, variable)[1], like)


def _volume(maps: xr.Dataset, values: NDArray[np.float64], like: str | Path | None) -> Any:
    import nibabel

    missing = [name for name in INDICES if name not in maps.coords]
    if missing or side_of(maps) is not None:
        raise ValueError("the map's neuroids are no voxels: they have no i, j, k; use .func.gii")
    ijk = np.stack([maps[name].values for name in INDICES], axis=1).astype(np.int64)
    if like is None:
        affine, shape = affine_of(maps), tuple(int(n) for n in ijk.max(0) + 1)
    else:
        other = open_nifti(Path(like).expanduser(), dimensions=len(_shape(like)))
        affine, shape = np.array(other.affine), tuple(other.shape[:3])
        if (ijk >= shape).any():
            raise ValueError(
                f"{like} has {shape} voxels; the map needs {tuple((ijk.max(0) + 1).tolist())}"
            )
        if all(name in maps.coords for name in PLACES):
            mm = np.stack([maps[name].values for name in PLACES], axis=1)
            gap = float(np.abs(ijk @ affine[:3, :3].T + affine[:3, 3] - mm).max())
            if gap > AFFINE_TOLERANCE:
                raise ValueError(
                    f"{like} puts the map's voxels up to {gap:.4g} mm from where they were"
                    " recorded; give an image of the same grid"
                )
    data = np.full((*shape, len(values)), np.nan, dtype=np.float32)
    data[tuple(ijk.T)] = values.T
    make: Any = nibabel.Nifti1Image
    image = make(data[..., 0] if len(values) == 1 else data, affine)
    image.header.set_xyzt_units("mm")
    return image


def _shape(like: str | Path) -> tuple[int, ...]:
    import nibabel

    found: Any = nibabel.load(Path(like).expanduser())
    return tuple(found.shape)


def _write_surfaces(
    maps: xr.Dataset,
    names: list[str],
    values: NDArray[np.float64],
    path: Path,
    n_vertices: Mapping[str, int],
) -> list[Path]:
    import nibabel.gifti

    gifti: Any = nibabel.gifti

    side = side_of(maps)
    if side is None:
        raise ValueError("the map's neuroids are no vertices; write a volume, .nii.gz")
    present = [one for one in SIDES if (side == one).any()]
    written = []
    for one in present:
        places = side == one
        vertex = maps["vertex"].values[places]
        size = n_vertices.get(one, int(vertex.max()) + 1)
        if vertex.max() >= size:
            raise ValueError(f"n_vertices[{one!r}] is {size}; the map has vertex {vertex.max()}")
        arrays = []
        for name, row in zip(names, values, strict=True):
            whole = np.full(size, np.nan, dtype=np.float32)
            whole[vertex] = row[places]
            about = gifti.GiftiMetaData({"Name": name})
            arrays.append(gifti.GiftiDataArray(whole, intent="NIFTI_INTENT_NONE", meta=about))
        structure = gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{one.title()}"})
        stem = path.name[: -len(GIFTI)]
        target = path if len(present) == 1 else path.with_name(f"{stem}.{one}{GIFTI}")
        written.append(_save(gifti.GiftiImage(meta=structure, darrays=arrays), target))
    return written


def _cifti(
    maps: xr.Dataset, names: list[str], values: NDArray[np.float64], like: str | Path | None
) -> Any:
    import nibabel.cifti2

    cifti: Any = nibabel.cifti2
    if like is None:
        raise ValueError(f"{CIFTI} needs like=, a CIFTI-2 file of the same grayordinates")
    source = Path(like).expanduser()
    axis = open_cifti(source).header.get_axis(1)
    ids = describe_cifti(source)[1]["neuroid_id"].tolist()
    place = {name: number for number, name in enumerate(ids)}
    own = maps["neuroid_id"].values.tolist()
    unknown = [name for name in own if name not in place]
    if unknown:
        raise ValueError(f"{like} lacks {len(unknown)} of the map's neuroids, as {unknown[0]!r}")
    whole = np.full((len(names), len(place)), np.nan, dtype=np.float32)
    whole[:, [place[name] for name in own]] = values
    return cifti.Cifti2Image(whole, (cifti.ScalarAxis(names), axis))

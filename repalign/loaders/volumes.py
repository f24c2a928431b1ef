"""NIfTI volumes: checked headers, masks and atlases as lists of voxels, 4D data volume by volume.

A voxel that lies in two regions stands once in each, because a comparison is about one region.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repalign.card_schemas import DatasetCard

SUFFIXES = (".nii", ".nii.gz")
MASK, ROI, LABELS = "mask", "roi_", "labels_"  # roles of a card, or how they start
SUBJECT_FOLDER = re.compile(r"subj-?\d+")
AFFINE_TOLERANCE = 1e-3  # mm
RAW_BYTES = 32 << 20
GZIP_RATIO = 1100  # zlib packs no tighter
DAMAGED = (OSError, EOFError, ValueError, OverflowError, zlib.error)

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Voxels:
    """Voxels of one grid, in the order of their neuroids.

    Args:
        ijk: 0-based indices, of shape (voxel, 3).
        region: of each voxel.
        affine: from indices to mm, 4 × 4.
    """

    ijk: Array
    region: tuple[str, ...]
    affine: Array

    def __len__(self) -> int:
        """Return the number of voxels."""
        return len(self.ijk)

    def neuroid_id(self) -> list[str]:
        """Names such as ``voxel-31-20-7``."""
        return ["voxel-" + "-".join(map(str, row)) for row in self.ijk.tolist()]

    def coordinates(self) -> dict[str, Array]:
        """``i``, ``j``, ``k`` (0-based) and ``x_mm``, ``y_mm``, ``z_mm`` of each voxel."""
        mm = self.ijk @ self.affine[:3, :3].T + self.affine[:3, 3]
        indices = {name: self.ijk[:, axis] for axis, name in enumerate("ijk")}
        return indices | {f"{name}_mm": mm[:, axis] for axis, name in enumerate("xyz")}


def open_nifti(path: Path, *, dimensions: int) -> Any:
    """A NIfTI image whose header fits its file; the values are not read.

    Args:
        path: of a ``.nii`` or ``.nii.gz``.
        dimensions: 3 (a mask or an atlas; a last axis of length 1 is tolerated) or 4.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no NIfTI, cut short, or of another number of axes or kind of values.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path}: expected a NIfTI file, {' or '.join(SUFFIXES)}")
    try:
        image: Any = nibabel.load(path, keep_file_open=True)
        shape, kind = tuple(image.shape), image.get_data_dtype()
        offset = int(image.dataobj.offset)
    except (ImageFileError, HeaderDataError, *DAMAGED) as error:
        raise ValueError(f"{path} is no readable NIfTI file: {error}") from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise ValueError(f"{path} holds a {type(image).__name__}; expected a NIfTI volume")
    axes = 3 if dimensions == 3 and set(shape[3:]) == {1} else len(shape)
    if axes != dimensions:
        raise ValueError(f"{path} has shape {shape}, expected {dimensions} axes")
    if kind.kind not in "fiu":
        raise ValueError(f"{path} holds values of type {kind}, expected real numbers")
    if 0 in shape:
        raise ValueError(f"{path} has shape {shape}: it is empty")
    needed = int(np.prod(shape, dtype=object)) * kind.itemsize
    size = path.stat().st_size
    packed = path.name.lower().endswith(".gz")
    if offset + needed > (size * GZIP_RATIO if packed else size):
        raise ValueError(
            f"{path} is cut short: shape {shape} of {kind} needs {needed} bytes, the file has"
            f" {size}{' packed' if packed else ''}; copy or download it again"
        )
    return image


def check_same_grid(path: Path, image: Any, other_path: Path, other: Any) -> None:
    """Raise unless two images have voxels of the same number, size and position.

    Raises:
        ValueError: another shape or affine; both files are named.
    """
    shape, expected = tuple(image.shape[:3]), tuple(other.shape[:3])
    if shape != expected:
        raise ValueError(
            f"{path} has voxels {shape}, {other_path} has {expected}; resample one of them to"
            " the grid of the other"
        )
    difference = float(np.abs(image.affine - other.affine).max())
    if not difference <= AFFINE_TOLERANCE:
        raise ValueError(
            f"{path} and {other_path} have other affines (they differ by up to {difference:.4g}):"
            " their voxels lie at other places; resample one of them to the grid of the other"
        )


def read_volume(path: Path, like_path: Path, like: Any) -> Array:
    """The values of a mask or an atlas on the grid of another image, finite and 3D.

    Raises:
        ValueError: another grid, NaN, or a damaged file.
    """
    image = open_nifti(path, dimensions=3)
    check_same_grid(path, image, like_path, like)
    values = _read(path, image, ...).reshape(image.shape[:3])
    if not np.isfinite(values).all():
        raise ValueError(f"{path} holds NaN or infinite values; expected a mask or whole labels")
    return values


def read_label_names(path: Path) -> dict[int, str]:
    """Names of an atlas' labels, from a table or from lines like ``1 V1v``.

    A table (``.tsv``, as in BIDS) has the columns ``index`` and ``name``.

    Raises:
        ValueError: a line that is neither, or a label that stands twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file: {error}") from error
    columns, rows = (0, 1), [line.split() for line in lines if line.strip()]
    if path.suffix.lower() == ".tsv":
        rows = [line.split("\t") for line in lines if line.strip()]
        header = rows.pop(0) if rows else []
        if not {"index", "name"} <= set(header):
            raise ValueError(f"{path} has columns {header}, expected index and name")
        columns = header.index("index"), header.index("name")
    names: dict[int, str] = {}
    for row in rows:
        if len(row) <= max(columns) or not row[columns[0]].lstrip("-").isdigit():
            raise ValueError(f"{path}: {' '.join(row)!r} is no whole number and a name")
        label = int(row[columns[0]])
        if label in names:
            raise ValueError(f"{path} names label {label} twice")
        names[label] = row[columns[1]].strip()
    return names


def find_voxels(
    card: DatasetCard,
    files: Mapping[str, Path],
    like_path: Path,
    like: Any,
    *,
    mask: Array | None = None,
    names: Mapping[str, Mapping[int, str]] | None = None,
) -> Voxels:
    """The voxels that a card's masks and atlases choose on the grid of an image.

    Roles: ``mask`` (what is not 0 is inside), ``roi_NAME`` (a mask of region NAME, or an atlas
    whose labels above 0 are regions) and ``labels_NAME`` (the names of that atlas' labels; see
    `read_label_names`). Labels without a name are called ``NAME-3``. With a mask and regions,
    the regions are cut to the mask. Without regions all voxels of the mask belong to the one
    region of the card.

    Args:
        mask: one more mask, where the format brings its own.
        names: names of labels by NAME, for atlases that everybody knows.

    Raises:
        ValueError: another grid, labels that are no whole numbers, no voxel left, or no way to
            tell the regions.
    """
    inside = np.ones(like.shape[:3], dtype=bool) if mask is None else mask.copy()
    if MASK in files:
        inside &= read_volume(files[MASK], like_path, like) != 0
    lists: list[Array] = []
    regions: list[str] = []
    roles = [role for role in files if role.startswith(ROI)]
    for role in roles:
        roi = role.removeprefix(ROI)
        labels = read_volume(files[role], like_path, like)
        if (labels != np.round(labels)).any():
            raise ValueError(f"{files[role]} holds values between whole numbers; expected labels")
        known = dict((names or {}).get(roi, {}))
        if LABELS + roi in files:
            known = read_label_names(files[LABELS + roi])
        present = np.unique(labels[labels > 0]).astype(int).tolist()
        count = len(regions)
        for label in present:
            ijk = np.argwhere((labels == label) & inside)
            name = known.get(label, roi if present == [1] else f"{roi}-{label}")
            lists.append(ijk)
            regions += [name] * len(ijk)
        if len(regions) == count:
            raise ValueError(f"{files[role]} has no voxel above 0 inside the mask")
    unused = [
        r for r in files if r.startswith(LABELS) and ROI + r.removeprefix(LABELS) not in files
    ]
    if unused:
        raise ValueError(
            f"card {card.path}: {unused[0]!r} names labels of no atlas; add"
            f" {ROI + unused[0].removeprefix(LABELS)!r} to [files]"
        )
    if not roles:
        if len(card.regions) != 1:
            raise ValueError(
                f"card {card.path}: {len(card.regions)} regions; say which voxel is where by"
                f" {ROI}NAME files, or give one region for all"
            )
        lists = [np.argwhere(inside)]
        regions = [card.regions[0]] * len(lists[0])
    if not regions:
        raise ValueError(f"{files.get(MASK, like_path)}: no voxel lies inside the mask")
    return Voxels(np.concatenate(lists), tuple(regions), np.array(like.affine))


def one_species(card: DatasetCard) -> str:
    """The species of a card about one subject.

    Raises:
        ValueError: the card names several.
    """
    if len(card.species) != 1:
        raise ValueError(f"card {card.path}: species = {list(card.species)}, expected one")
    return card.species[0]


def check_subject_folders(card: DatasetCard, paths: Iterable[Path], subject: str) -> None:
    """Raise if a file lies in a folder named for another subject, such as ``subj02``.

    Files of all subjects often have the same names, so that a mirror may give those of another.

    Raises:
        ValueError: a folder of another subject.
    """
    for path in paths:
        for part in path.parts[:-1]:
            if SUBJECT_FOLDER.fullmatch(part) and part != subject:
                raise ValueError(
                    f"card {card.path}: {path} lies in a folder of {part}, the card says {subject};"
                    " let the mirror hold one subject only, or set subject under [options]"
                )


def value_type(image: Any) -> np.dtype[Any]:
    """float32, or float64 for files that hold more digits; scaled values are rounded to float32."""
    kind = image.get_data_dtype()
    wide = kind.itemsize > 4 or (kind.kind in "iu" and kind.itemsize > 2)
    return np.dtype(np.float64 if wide else np.float32)


def voxel_rows(path: Path, ijk: Array, start: int, stop: int) -> Iterator[tuple[int, Array]]:
    """Some volumes of 4D data, as (first volume, volume × voxel) of a few volumes each.

    The file is opened once and read forward, so a compressed one is unpacked once.

    Raises:
        ValueError: the file is damaged.
    """
    image = open_nifti(path, dimensions=4)
    i, j, k = ijk.T
    volume_bytes = int(np.prod(image.shape[:3])) * 8  # nibabel scales to float64
    step = max(1, RAW_BYTES // volume_bytes)
    for first in range(start, stop, step):
        block = _read(path, image, (..., slice(first, min(first + step, stop))))
        yield first, block[i, j, k].T


def read_voxel_rows(path: Path, ijk: Array, start: int, stop: int) -> Array:
    """Volumes ``start`` to ``stop`` of 4D data as an array of shape volume × voxel."""
    blocks = [block for _, block in voxel_rows(path, ijk, start, stop)]
    return np.concatenate(blocks)


def _read(path: Path, image: Any, part: Any) -> Array:
    try:
        return np.asarray(image.dataobj[part])
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged: {error}; copy or download it again") from error

"""Responses on the cortical surface: GIFTI (.func.gii) and CIFTI-2 (.dscalar.nii, .dtseries.nii).

File roles of the card:

- ``left``, ``right``: a GIFTI file a hemisphere, one data array a presentation (a beta map or a
  volume of a time series), in the same order; or ``cifti``: one CIFTI-2 file, one row a
  presentation. CIFTI-2 is read in blocks when it is needed, GIFTI whole.
- ``stimuli``: a csv with one row a *presentation*, in the order of the file: ``stimulus_id``,
  ``repetition`` and ``filename`` (of the image) where wanted; all others become coordinates.
- ``labels_left``, ``labels_right`` (.label.gii) or ``labels`` (.dlabel.nii): the region of each
  vertex or grayordinate. What has label 0, or none, is left out. Without labels all belong to the
  one region of the card.
- ``images``: a folder or zip; without ``filename`` the name of an image is the stimulus id.

Options of the card: see `Options`. Neuroids have ``hemisphere`` and ``vertex`` (GIFTI), or
``structure``, ``vertex`` and ``i``, ``j``, ``k`` (CIFTI-2; -1 where they have none).

Example of a card::

    name = "betas_on_fsaverage"
    species = "human"
    regions = ["V1", "V2"]
    units = "percent signal change"
    loader = "surfaces"
    [files]
    left = "lh.betas.func.gii"
    right = "rh.betas.func.gii"
    labels_left = "lh.visual.label.gii"
    labels_right = "rh.visual.label.gii"
    stimuli = "presentations.csv"
    images = "images.zip"
    [options]
    keep_regions = ["V1", "V2"]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from repalign.card_schemas import DatasetCard
from repalign.loaders.array_labels import read_table
from repalign.loaders.image_files import find_images
from repalign.loaders.lazy import BLOCK_BYTES, lazy_rows
from repalign.loaders.options import LoaderOptions, check_roles, read_options
from repalign.loaders.surface_files import cifti_columns, cifti_rows, open_cifti
from repalign.loaders.surface_labels import cifti_labels, gifti_labels
from repalign.loaders.surface_vertices import describe_cifti, read_gifti, value_type
from repalign.loaders.volumes import one_species
from repalign.recording import RESERVED, make_recording
from repalign.stimuli import Stimuli

__all__ = ["Options", "read"]

SIDES = ("left", "right")

Array = np.ndarray[Any, np.dtype[Any]]


class Options(LoaderOptions):
    """What a card may say under ``[options]``.

    Attributes:
        drop: which vertices are left out: ``nan``, those with NaN or infinite values in any
            presentation, and ``zero``, those that are 0 in all, as many programs write the
            medial wall; none by default.
        label_map: name or 0-based number of the map of the label files; needed where they have
            several.
        keep_regions: regions to keep; all by default.
        subject: name of the subject.
    """

    drop: tuple[Literal["nan", "zero"], ...] = ()
    label_map: str | int | None = None
    keep_regions: tuple[str, ...] | None = None
    subject: str = "subject-1"


def read(card: DatasetCard, files: Mapping[str, Path]) -> tuple[xr.Dataset, Stimuli | None]:
    """Read responses on surfaces; see the module for the file roles."""
    options = read_options(card, Options)
    roles = ("left", "right", "cifti", "labels_left", "labels_right", "labels", "images")
    check_roles(card, files, needs=("stimuli",), knows=roles)
    sides = [side for side in SIDES if side in files]
    if bool(sides) == ("cifti" in files):
        raise ValueError(f"card {card.path}: [files] needs either left and right, or cifti")
    labels = [role for role in files if role.startswith("labels")]
    expected = [f"labels_{side}" for side in sides] if sides else ["labels"]
    if labels and set(labels) != set(expected):
        raise ValueError(
            f"card {card.path}: [files] has {', '.join(labels)}; the labels of"
            f" {', '.join(sides) or 'cifti'} are {', '.join(expected)}"
        )
    if not labels and (options.label_map is not None or options.keep_regions is not None):
        raise ValueError(
            f"card {card.path}: label_map and keep_regions under [options] need label files"
            f" ({', '.join(expected)}) under [files]"
        )

    def note(text: str) -> None:
        print(f"{card.name}: {text}", file=sys.stderr)

    whole, columns = read_gifti(files, sides) if sides else describe_cifti(files["cifti"])
    n_presentations = whole.shape[0] if sides else open_cifti(files["cifti"]).shape[0]
    ids, repetition, others, stimuli = _presentations(card, files, n_presentations)
    keep = np.ones(len(columns["vertex"]), dtype=bool)
    if labels:
        region = _regions(files, sides, columns, options.label_map)
        keep = region != ""
        if options.keep_regions is not None:
            absent = [name for name in options.keep_regions if name not in region]
            if absent:
                have = ", ".join(sorted({str(name) for name in region[keep]})[:20])
                raise ValueError(
                    f"card {card.path}: options.keep_regions has {absent[0]!r}, which the labels"
                    f" lack; they have {have}"
                )
            keep &= np.isin(region, options.keep_regions)
        note(f"{np.count_nonzero(~keep)} of {len(keep)} vertices left out: not in a region kept")
    elif len(card.regions) != 1:
        raise ValueError(
            f"card {card.path}: {len(card.regions)} regions; say which vertex is where by label"
            f" files, roles {', '.join(expected)}"
        )
    else:
        region = np.array([card.regions[0]] * len(keep), dtype=object)
    if options.drop:
        bad = _dropped(options.drop, whole, files)
        note(f"{np.count_nonzero(bad & keep)} vertices left out: {' or '.join(options.drop)}")
        keep &= ~bad
    if not keep.any():
        raise ValueError(f"card {card.path}: no vertex is left; see labels, drop and keep_regions")
    names = columns.pop("neuroid_id")
    if sides:
        response = whole[:, keep]
    else:
        kind = open_cifti(files["cifti"]).nifti_header.get_data_dtype()
        response = lazy_rows(
            partial(cifti_rows, files["cifti"], np.flatnonzero(keep)),
            (n_presentations, int(np.count_nonzero(keep))),
            value_type(kind),
            block_bytes=BLOCK_BYTES,
        )
    recording = make_recording(
        response,
        stimulus_id=ids,
        repetition=repetition,
        region=region[keep].tolist(),
        species=one_species(card),
        subject=options.subject,
        neuroid_id=names[keep].tolist(),
        presentation=others,
        neuroid={name: values[keep] for name, values in columns.items()},
    )
    return recording, stimuli


def _regions(
    files: Mapping[str, Path],
    sides: list[str],
    columns: Mapping[str, Array],
    label_map: str | int | None,
) -> Array:
    """The region of each vertex or grayordinate; empty text where it has none."""
    if not sides:
        return cifti_labels(files["labels"], files["cifti"], label_map)
    counts = {side: int((columns["hemisphere"] == side).sum()) for side in sides}
    parts = [
        gifti_labels(files[f"labels_{side}"], files[side], counts[side], label_map)
        for side in sides
    ]
    return np.concatenate(parts)


def _dropped(drop: tuple[str, ...], whole: Array, files: Mapping[str, Path]) -> Array:
    """Which vertices have NaN, or are 0 in all presentations, where that is asked for."""
    found: list[Array] = []

    def visit(_: int, part: Array) -> None:
        bad = np.zeros(part.shape[1], dtype=bool)
        if "nan" in drop:
            bad |= ~np.isfinite(part).all(axis=0)
        if "zero" in drop:
            bad |= (part == 0).all(axis=0)
        found.append(bad)

    if "cifti" in files:
        cifti_columns(files["cifti"], visit)
    else:
        visit(0, whole)
    return np.concatenate(found)


def _presentations(
    card: DatasetCard, files: Mapping[str, Path], n_presentations: int
) -> tuple[list[str], list[int] | None, dict[str, Array], Stimuli | None]:
    """Ids, repetitions, other columns and images, from the csv with one row a presentation."""
    path = files["stimuli"]
    table = read_table(path)
    if "stimulus_id" not in table.columns:
        raise ValueError(f"{path} has no column stimulus_id; it has {', '.join(table.columns)}")
    if len(table) != n_presentations:
        raise ValueError(
            f"{path} has {len(table)} rows for {n_presentations} presentations; give one row a data"
            " array (GIFTI) or row (CIFTI-2), in their order"
        )
    if table["stimulus_id"].isna().any():
        raise ValueError(f"{path}: row {int(table['stimulus_id'].isna().argmax())} has no id")
    ids = [str(name) for name in table["stimulus_id"]]
    repetition = None
    if "repetition" in table.columns:
        numbers = table["repetition"].to_numpy()
        if numbers.dtype.kind not in "iu" or (numbers < 0).any():
            raise ValueError(f"{path}: repetition holds no whole numbers from 0 on")
        repetition = numbers.tolist()
    others: dict[str, Array] = {}
    for name in table.columns:
        if name in ("stimulus_id", "repetition", "filename"):
            continue
        if name in RESERVED:
            raise ValueError(f"{path} has a column {name!r}, a name of ours; rename it")
        values = table[name].to_numpy()
        texts = ["" if value != value else str(value) for value in values.tolist()]
        is_number = values.dtype.kind in "fiub"
        others[str(name)] = values if is_number else np.array(texts, dtype=object)
    if "images" not in files:
        return ids, repetition, others, None
    given = table["filename"] if "filename" in table.columns else table["stimulus_id"]
    by_id: dict[str, str] = {}
    for name, file in zip(ids, given.tolist(), strict=True):
        if by_id.setdefault(name, str(file)) != str(file):
            raise ValueError(f"{path}: stimulus {name!r} has two files, {by_id[name]} and {file}")
    images = find_images(files["images"], list(by_id.values()))
    return ids, repetition, others, Stimuli(tuple(by_id), images, card.stimuli.visual_degrees, {})

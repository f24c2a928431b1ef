"""Block designs as one 4D image and one table of labels, the layout of Haxby et al. (2001).

File roles:

- ``bold``: the 4D image of all runs, one after the other (``.nii``, ``.nii.gz``).
- ``labels``: text with one line a volume, its category and its run; a first line
  ``labels chunks`` may stand above.
- ``mask``, ``roi_NAME``, ``labels_NAME``: which voxels, see `repalign.loaders.volumes`.

A stimulus is a category (no single images were published with the volumes), a repetition is one
of its volumes or blocks. Volumes of one block are no independent measurements: what is
cross-validated should leave out whole runs, by the coordinate ``run``.

Haxby et al. (2001), Science 293:2425-2430, doi 10.1126/science.1063736.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from repalign.card_schemas import DatasetCard
from repalign.loaders.lazy import lazy_rows
from repalign.loaders.options import ANY_NAME, LoaderOptions, check_roles, read_options
from repalign.loaders.volumes import (
    LABELS,
    MASK,
    ROI,
    check_subject_folders,
    find_voxels,
    one_species,
    open_nifti,
    read_voxel_rows,
    value_type,
)
from repalign.recording import make_recording

HEADER = ["labels", "chunks"]

Array = np.ndarray[Any, np.dtype[Any]]


class Options(LoaderOptions):
    """What a card may say under ``[options]``.

    Attributes:
        presentation: ``volume`` keeps each volume; ``block`` averages the volumes of each block,
            after what follows.
        detrend: take the straight line out of each voxel's time course, run by run; its mean
            stays.
        zscore: ``run`` brings each voxel to mean 0 and variance 1 over all volumes of each run,
            rest included; ``none`` leaves the values.
        rest: the label of volumes between blocks, which are no presentations; empty: there
            is none.
        subject: name of the subject; files in a folder of another one (``subj2``) are refused.
    """

    presentation: Literal["volume", "block"] = "volume"
    detrend: bool = False
    zscore: Literal["none", "run"] = "none"
    rest: str = "rest"
    subject: str = "subject-1"


@dataclass(frozen=True)
class Block:
    """Successive volumes of one category in one run; ``stop`` is the first volume after it."""

    category: str
    run: str
    number: int
    start: int
    stop: int


def read(card: DatasetCard, files: Mapping[str, Path]) -> tuple[xr.Dataset, None]:
    """Read one subject's volumes or blocks; they come without images."""
    options = read_options(card, Options)
    knows = (MASK, f"{ROI}{ANY_NAME}", f"{LABELS}{ANY_NAME}")
    check_roles(card, files, needs=("bold", "labels"), knows=knows)
    check_subject_folders(card, files.values(), options.subject)
    bold = open_nifti(files["bold"], dimensions=4)
    labels = read_labels(files["labels"])
    if len(labels) != bold.shape[3]:
        raise ValueError(
            f"{files['labels']} labels {len(labels)} volumes, {files['bold']} has {bold.shape[3]}"
        )
    blocks = find_blocks(labels, options.rest, files["labels"])
    voxels = find_voxels(card, files, files["bold"], bold)
    per_volume = options.presentation == "volume"
    shown = [
        (block, first)
        for block in blocks
        for first in (range(block.start, block.stop) if per_volume else (block.start,))
    ]
    recording = make_recording(
        _lazy_runs(files["bold"], bold, voxels.ijk, labels, blocks, options),
        stimulus_id=[block.category for block, _ in shown],
        region=voxels.region,
        species=one_species(card),
        subject=options.subject,
        neuroid_id=voxels.neuroid_id(),
        neuroid=voxels.coordinates(),
        presentation={
            "category": np.array([block.category for block, _ in shown], dtype=object),
            "run": np.array([block.run for block, _ in shown], dtype=object),
            "block": np.array([block.number for block, _ in shown]),
            "volume": np.array([first for _, first in shown]),
        },
        attrs={
            "repetition_time_s": _seconds(bold),
            "presentation": options.presentation,
            "detrend": "linear, per run" if options.detrend else "none",
            "zscore": options.zscore,
        },
    )
    return recording, None


def read_labels(path: Path) -> list[tuple[str, str]]:
    """Category and run of each volume.

    Raises:
        ValueError: a line that is not two words, or a run in two pieces.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file: {error}") from error
    rows = [line.replace(",", " ").split() for line in lines if line.strip()]
    if rows and rows[0] == HEADER:
        rows = rows[1:]
    labels = []
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise ValueError(
                f"{path}: line {number} is {' '.join(row)!r}; expected a category and a run"
            )
        labels.append((row[0], row[1]))
    ended: set[str] = set()
    for (_, before), (_, run) in itertools.pairwise(labels):
        if run != before:
            ended.add(before)
        if run in ended:
            raise ValueError(f"{path}: run {run!r} stands in two pieces; expected run after run")
    return labels


def find_blocks(labels: list[tuple[str, str]], rest: str, path: Path) -> list[Block]:
    """The blocks of all categories, in the order of the volumes.

    Raises:
        ValueError: no volume is labelled as rest, or all are.
    """
    names = list(dict.fromkeys(category for category, _ in labels))
    if rest and rest not in names:
        raise ValueError(
            f"{path}: no volume is labelled {rest!r}; set rest under [options] to one of"
            f' {", ".join(names)}, or to "" if there is no rest'
        )
    starts = [i for i in range(len(labels)) if i == 0 or labels[i] != labels[i - 1]]
    blocks: list[Block] = []
    for start, stop in zip(starts, [*starts[1:], len(labels)], strict=True):
        category, run = labels[start]
        if category != rest:
            number = sum(block.run == run for block in blocks)
            blocks.append(Block(category, run, number, start, stop))
    if not blocks:
        raise ValueError(f"{path}: all volumes are labelled {rest!r}; there is no presentation")
    return blocks


def _lazy_runs(
    path: Path,
    image: Any,
    ijk: Array,
    labels: list[tuple[str, str]],
    blocks: list[Block],
    options: Options,
) -> Any:
    """Presentations × voxels; one block of the array is one run."""
    import dask.array as da

    parts = []
    for run in dict.fromkeys(block.run for block in blocks):
        volumes = [i for i, (_, r) in enumerate(labels) if r == run]
        own = [block for block in blocks if block.run == run]
        first, stop = volumes[0], volumes[-1] + 1
        spans = [(b.start - first, b.stop - first) for b in own]
        average = options.presentation == "block"
        rows = len(spans) if average else sum(b - a for a, b in spans)

        def read_rows(
            start: int,
            end: int,
            span: tuple[int, int] = (first, stop),
            spans: list[tuple[int, int]] = spans,
            run: str = run,
        ) -> Array:
            values = _prepare(read_voxel_rows(path, ijk, *span), options, path, run, ijk)
            kept = [values[a:b] for a, b in spans]
            if options.presentation == "block":
                kept = [block.mean(axis=0, keepdims=True, dtype=np.float64) for block in kept]
            return np.concatenate(kept)[start:end]

        kind = value_type(image)
        size = rows * len(ijk) * kind.itemsize
        parts.append(lazy_rows(read_rows, (rows, len(ijk)), kind, block_bytes=size))
    concatenate: Any = da.concatenate  # dask states no types
    return concatenate(parts)


def _prepare(values: Array, options: Options, path: Path, run: str, ijk: Array) -> Array:
    """Detrend and z-score one run, as the options say."""
    from scipy.signal import detrend

    if options.detrend:
        mean = values.mean(axis=0, dtype=np.float64)
        values = detrend(values.astype(np.float64), axis=0)
        values += mean
    if options.zscore == "run":
        values = values.astype(np.float64)
        spread = values.std(axis=0)
        flat = spread <= 1e-9 * np.abs(values).max(axis=0)
        if flat.any():
            where = tuple(ijk[flat][0].tolist())
            raise ValueError(
                f"{path}: {int(flat.sum())} voxels are constant in run {run!r} (first {where}), so"
                ' they have no z-score; leave them out by a mask, or set zscore = "none"'
            )
        values = (values - values.mean(axis=0)) / spread
    return values


def _seconds(image: Any) -> float:
    """The repetition time of the header in seconds."""
    unit = image.header.get_xyzt_units()[1]
    return float(image.header.get_zooms()[3]) * {"msec": 1e-3, "usec": 1e-6}.get(unit, 1.0)

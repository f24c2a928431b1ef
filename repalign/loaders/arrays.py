"""Generic arrays: responses in one array file, images in a folder or zip, optional tables.

File roles of the card:

- ``responses``: the array (``.npy``, ``.npz``, ``.mat``, ``.h5``, ``.csv`` or ``.parquet``; see
  `repalign.loaders.array_files`); needed.
- ``images``: a folder or a zip; image files in natural order of their names are the stimuli.
- ``stimuli``: a csv with one row a stimulus, in the order of the array; the columns
  ``stimulus_id`` and ``filename`` are used, all others become labels.
- ``neuroids``: a csv with one row a neuroid; the columns ``neuroid_id``, ``region``,
  ``subject`` and ``species`` are used, each where it exists, all others become coordinates.

Options of the card: see `Options`. The responses are read twice, a block of stimuli at a time: once
to see what is NaN, and once, from the card's file still, when the recording is written. That goes
fastest where the stimulus axis is the first of a C-ordered file, or the last of a MATLAB array.

Example of a card, single trials as the V4 sessions of Cowley et al. publish them (neurons × images
× repeats, of which an image has fewer than others and NaN in the rest)::

    name = "v4_190923_trials"
    species = "macaque"
    regions = "V4"
    units = "spikes per 100 ms"
    loader = "arrays"
    [files]
    responses = "responses_raw_190923.npy"
    images = "images_190923.zip"
    [options]
    dims = ["neuroid", "stimulus", "repetition"]
    subject = "WE"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from repalign.card_schemas import DatasetCard
from repalign.loaders.array_files import ArrayFile, array_names, open_array, read_array
from repalign.loaders.array_labels import (
    check_names,
    invented_ids,
    known_ids,
    match_images,
    neuroid_columns,
    read_table,
    stimulus_labels,
)
from repalign.loaders.array_layout import (
    NEUROID_AXIS,
    REPETITION_AXIS,
    STIMULUS_AXIS,
    TIME_AXIS,
    Layout,
    TimeBins,
    presented,
)
from repalign.loaders.options import LoaderOptions, check_roles, read_options
from repalign.recording import make_recording
from repalign.stimuli import Stimuli, read_images

__all__ = ["Options", "array_names", "read", "read_array"]

Array = np.ndarray[Any, np.dtype[Any]]


class Options(LoaderOptions):
    """What a card may say under ``[options]``.

    Attributes:
        dims: meaning of the array's axes, in order: ``stimulus``, ``neuroid`` and, where there
            are such, ``repetition`` and ``time_bin``. May be left out where the number of images
            tells.
        variable: which array of a file that names them: ``responses`` of an .npz, the dataset
            ``group/responses`` of an HDF5 file, the field ``data.responses`` of a .mat.
        subject: name of the subject, where no neuroids table gives it.
        missing: what to do about NaN: raise an ``error``, ``drop_neuroids`` or
            ``drop_stimuli``. Repetitions that are NaN in every neuroid were never shown and
            are left out in any case.
        time_bins_ms: where the bins of a ``time_bin`` axis lie, in ms from stimulus onset:
            ``{ start = 0, width = 10 }``, or ``{ edges = [0, 10, 30] }``, one more than bins.
    """

    dims: tuple[Literal["stimulus", "neuroid", "repetition", "time_bin"], ...] | None = None
    variable: str | None = None
    subject: str = "subject-1"
    missing: Literal["error", "drop_neuroids", "drop_stimuli"] = "error"
    time_bins_ms: TimeBins | None = None


def read(card: DatasetCard, files: Mapping[str, Path]) -> tuple[xr.Dataset, Stimuli | None]:
    """Read one response array, its images and its tables."""
    options = read_options(card, Options)
    check_roles(card, files, needs=("responses",), knows=("images", "stimuli", "neuroids"))
    source = open_array(files["responses"], options.variable)
    images = read_images(files["images"]) if "images" in files else None
    table = read_table(files["stimuli"]) if "stimuli" in files else None
    n_stimuli = len(table) if table is not None else None if images is None else len(images)
    layout = _lay_out(source, options.dims, n_stimuli)
    bins = _time_bins(card, layout, options)

    stimuli_count, neuroid_count = layout.size(STIMULUS_AXIS), layout.size(NEUROID_AXIS)
    known = known_ids(table, source.ids, files)
    names = match_images(images, table, known, stimuli_count, files)
    ids = known or invented_ids(card, names, stimuli_count)
    neuroids, places = neuroid_columns(card, files, options.subject, neuroid_count)
    labels = stimulus_labels(table)
    check_names(labels, places, files)

    shown, keep_neuroids = _kept(layout, ids, options.missing)
    response, stimulus = presented(layout, shown, keep_neuroids)
    recording = make_recording(
        response,
        stimulus_id=[ids[i] for i in stimulus],
        repetition=_count(stimulus),
        presentation={name: column[stimulus] for name, column in labels.items()},
        neuroid={name: column[keep_neuroids] for name, column in places.items()},
        time_bins=bins,
        **{name: values[keep_neuroids] for name, values in neuroids.items()},
    )
    if images is None:
        return recording, None
    kept = np.flatnonzero(shown.any(axis=1))
    stimuli = Stimuli(
        tuple(ids[i] for i in kept),
        [images[names[i]] for i in kept],
        card.stimuli.visual_degrees,
        {name: column[kept] for name, column in labels.items()},
    )
    return recording, stimuli


def _kept(layout: Layout, ids: Sequence[str], missing: str) -> tuple[Array, Array]:
    """Presentations (stimulus × repetition) and neuroids to keep; see `Options.missing`."""
    if missing == "error" and layout.size(REPETITION_AXIS) == 1:
        # every NaN is an error, which is found while the values are written
        return (
            np.ones((layout.size(STIMULUS_AXIS), 1), dtype=bool),
            np.ones(layout.size(NEUROID_AXIS), dtype=bool),
        )
    path, nan = layout.source.path, layout.missing()
    never = np.flatnonzero(~nan.shown.any(axis=1))
    if never.size and missing != "drop_stimuli":
        raise ValueError(
            f"{path}: {len(never)} stimuli have NaN in every neuroid (first {ids[never[0]]!r});"
            ' correct the file or set missing = "drop_stimuli"'
        )
    shown, neuroids = nan.shown, np.ones_like(nan.neuroids)
    if missing == "drop_neuroids":
        neuroids = ~nan.neuroids
    elif missing == "drop_stimuli":
        shown = shown & ~nan.stimuli[:, None]
    if not shown.any() or not neuroids.any():
        raise ValueError(f"{path}: NaN everywhere; nothing is left to keep")
    return shown, neuroids


def _count(values: Array) -> list[int]:
    """How often each value stood before."""
    seen: dict[Any, int] = {}
    counts = []
    for value in values.tolist():
        counts.append(seen.get(value, 0))
        seen[value] = counts[-1] + 1
    return counts


def _lay_out(source: ArrayFile, dims: Sequence[str] | None, n_stimuli: int | None) -> Layout:
    """The array with the meaning of its axes, after a check of both."""
    path, shape = source.path, source.shape
    if dims is None:
        dims = _guess_dims(shape, n_stimuli, path)
    optional = (REPETITION_AXIS, TIME_AXIS)
    needed = {STIMULUS_AXIS, NEUROID_AXIS}
    if len(dims) != len(shape) or len(set(dims)) != len(dims) or not needed <= set(dims):
        raise ValueError(
            f"{path} has shape {shape}, which does not fit dims = {list(dims)}; name each axis"
            f" once: stimulus, neuroid and, with more axes, {' or '.join(optional)}"
        )
    layout = Layout(source, tuple(dims))
    count, neuroids = layout.size(STIMULUS_AXIS), layout.size(NEUROID_AXIS)
    if n_stimuli is not None and count != n_stimuli:
        raise ValueError(
            f"{path} has {count} stimuli (shape {(count, neuroids)} as stimulus × neuroid),"
            f" but there are {n_stimuli} images or rows in the stimuli table"
        )
    if source.ids is not None and dims[0] != STIMULUS_AXIS:
        raise ValueError(
            f"{path} has a column stimulus_id, so its rows are stimuli, but dims = {list(dims)}"
        )
    return layout


def _time_bins(
    card: DatasetCard, layout: Layout, options: Options
) -> tuple[list[float], list[float]] | None:
    """Starts and stops of the time bins, where the array has such an axis."""
    if (TIME_AXIS in layout.dims) != (options.time_bins_ms is not None):
        raise ValueError(
            f"card {card.path}: dims = {list(layout.dims)} and time_bins_ms ="
            f" {options.time_bins_ms}; an axis 'time_bin' and time_bins_ms (such as"
            " { start = 0, width = 10 }) go together"
        )
    if options.time_bins_ms is None:
        return None
    try:
        return options.time_bins_ms.bounds(layout.size(TIME_AXIS))
    except ValueError as error:
        raise ValueError(f"card {card.path}: {error}") from error


def _guess_dims(shape: tuple[int, ...], n_stimuli: int | None, path: Path) -> tuple[str, ...]:
    fits = [axis for axis, length in enumerate(shape) if length == n_stimuli]
    if n_stimuli is not None and not fits:
        raise ValueError(
            f"{path} has shape {shape}, and none of its axes has the {n_stimuli} stimuli of"
            " the images or the stimuli table"
        )
    if len(shape) != 2 or len(fits) != 1:
        example = '["neuroid", "stimulus"' + (', "repetition"]' if len(shape) == 3 else "]")
        raise ValueError(
            f"{path} has shape {shape}"
            + (f" for {n_stimuli} stimuli" if n_stimuli is not None else "")
            + f"; say what its axes are under [options], in their order: dims = {example}"
        )
    return (STIMULUS_AXIS, NEUROID_AXIS) if fits[0] == 0 else (NEUROID_AXIS, STIMULUS_AXIS)

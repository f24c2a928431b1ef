"""BrainIO, the packaging format of Brain-Score: netCDF-4 assemblies with a stimulus set.

File roles of the card:

- ``assembly``: netCDF-4, one data variable over presentation × neuroid [× time_bin] in any order
  of dimensions; needed.
- ``stimuli``: csv with ``stimulus_id`` (``image_id`` in older files), ``filename`` and labels.
- ``images``: zip or folder.

The coordinates ``neuroid_id``, ``region``, ``species``, ``subject`` (or ``animal``) of the neuroids
and ``repetition`` of the presentations take their places in the recording. Every other coordinate
and every column of the stimulus table is kept under its own name; where that name stands for
something else, ``presentation_``, ``neuroid_``, ``time_bin_`` or ``stimulus_`` goes before it.

Options of the card: see `Options`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from repalign.card_schemas import DatasetCard
from repalign.loaders.brainio_assembly import Assembly, read_assembly, read_response
from repalign.loaders.brainio_stimuli import (
    ID_COLUMNS,
    Array,
    StimulusTable,
    as_text,
    free_name,
    read_stimuli,
    read_table,
)
from repalign.loaders.options import LoaderOptions, check_roles, read_options
from repalign.recording import NEUROID, PRESENTATION, RESERVED, TIME_BIN, make_recording
from repalign.stimuli import Stimuli


class Options(LoaderOptions):
    """What a card may say under ``[options]``.

    Attributes:
        variable: name of the data variable, where the file has several.
        window_ms: start and stop in ms; only the time bins that lie wholly between them are kept.
        average_time: average the time bins that are kept, which must be of one width; the
            recording then has no time bins, and its attribute ``time_window_ms`` says which.
        squeeze: whether a single time bin is taken away as a dimension, so that the recording is
            presentation × neuroid; its start and stop become the attribute ``time_window_ms``.
        repetition: ``file`` takes the file's coordinate, where there is one; ``count`` numbers the
            presentations of each stimulus in the order of the file.
        subject: name of the subject, where no coordinate gives it; subject-1 by default.
        missing: what to do about NaN: raise an ``error``, or ``drop_neuroids``,
            ``drop_presentations`` or ``drop_stimuli`` that have any. ``drop_neuroids`` leaves out
            presentations without any value first. What was dropped is counted in the attributes.
    """

    variable: str | None = None
    window_ms: tuple[float, float] | None = None
    average_time: bool = False
    squeeze: bool = True
    repetition: Literal["file", "count"] = "file"
    subject: str | None = None
    missing: Literal["error", "drop_neuroids", "drop_presentations", "drop_stimuli"] = "error"


def read(card: DatasetCard, files: Mapping[str, Path]) -> tuple[xr.Dataset, Stimuli | None]:
    """Read an assembly, its stimulus table and its images; the responses stay in their file."""
    options = read_options(card, Options)
    check_roles(card, files, needs=("assembly",), knows=("stimuli", "images"))
    assembly = read_assembly(files["assembly"], options.variable)
    id_name, ids = _stimulus_ids(assembly)
    table = read_table(files["stimuli"], id_name) if "stimuli" in files else None
    rows = None if table is None else table.rows(ids.tolist(), assembly.path)
    neuroids, other_neuroid = _neuroids(card, assembly, options)
    repetition, other_presentation = _repetitions(assembly, id_name, ids, options)

    response, bins, attrs = read_response(
        assembly, options.window_ms, average=options.average_time, squeeze=options.squeeze
    )
    keep_rows, keep_neuroids = _kept(response, ids, options.missing, assembly.path)
    for kept, axis, what in (
        (keep_rows, 0, "dropped_presentations"),
        (keep_neuroids, 1, "dropped_neuroids"),
    ):
        if not kept.all():
            response = np.take(response, np.flatnonzero(kept), axis=axis)
            attrs[what] = int((~kept).sum())

    labels = _labels(table, rows, taken={*other_presentation, *other_neuroid}, known=assembly)
    presentation = other_presentation | labels
    named: dict[str, Any] = {name: values[keep_neuroids] for name, values in neuroids.items()}
    if repetition is not None:
        named["repetition"] = repetition[keep_rows]
    if bins is not None:
        named["time_bins"] = (bins.starts, bins.stops)
    recording = make_recording(
        response,
        stimulus_id=ids[keep_rows].tolist(),
        presentation={name: values[keep_rows] for name, values in presentation.items()},
        neuroid={name: values[keep_neuroids] for name, values in other_neuroid.items()},
        attrs=assembly.attrs | attrs,
        **named,
    )
    for name, values in {} if bins is None else bins.columns.items():
        taken = {*map(str, recording.variables), *RESERVED}
        recording = recording.assign_coords({free_name(name, taken, TIME_BIN): (TIME_BIN, values)})
    if "images" not in files:
        return recording, None
    shown = dict.fromkeys(ids[keep_rows].tolist())
    stimuli = read_stimuli(files["images"], table, shown, card.stimuli.visual_degrees)
    never = 0 if table is None else len(table.ids) - len(stimuli)
    return recording.assign_attrs({"stimuli_never_shown": never} if never else {}), stimuli


def _stimulus_ids(assembly: Assembly) -> tuple[str, Array]:
    """The coordinate that names the stimuli, and its values as text."""
    columns = assembly.columns[PRESENTATION]
    name = next((name for name in ID_COLUMNS if name in columns), None)
    if name is None:
        raise ValueError(
            f"{assembly.path} has no coordinate stimulus_id or image_id along presentation; there"
            f" is {', '.join(columns) or 'none'}"
        )
    ids = as_text(columns[name])
    empty = np.flatnonzero(ids == "")
    if empty.size:
        raise ValueError(
            f"{assembly.path}: {name} is empty in {empty.size} presentations (first: number"
            f" {empty[0]}); each presentation needs the id of its stimulus"
        )
    return name, ids


def _repetitions(
    assembly: Assembly, id_name: str, ids: Array, options: Options
) -> tuple[Array | None, dict[str, Array]]:
    """The repetition of each presentation (None: to be counted), and all other coordinates."""
    columns = {n: v for n, v in assembly.columns[PRESENTATION].items() if n != id_name}
    values = columns.get("repetition")
    repetition = None
    if values is not None and options.repetition == "file":
        remedy = 'set repetition = "count" under [options] of the card'
        if values.dtype.kind not in "fiu" or not np.array_equal(values, np.floor(values)):
            raise ValueError(f"{assembly.path}: repetition has no whole numbers; {remedy}")
        repetition = columns.pop("repetition").astype(np.int64)
        pairs: set[tuple[str, int]] = set()
        for pair in zip(ids.tolist(), repetition.tolist(), strict=True):
            if pair in pairs:
                raise ValueError(
                    f"{assembly.path}: stimulus {pair[0]!r} has repetition {pair[1]} twice;"
                    f" {remedy}"
                )
            pairs.add(pair)
    return repetition, _renamed(columns, PRESENTATION)


def _neuroids(
    card: DatasetCard, assembly: Assembly, options: Options
) -> tuple[dict[str, Array], dict[str, Array]]:
    """neuroid_id, region, species and subject of each neuroid, and all other coordinates."""
    columns = dict(assembly.columns[NEUROID])
    count = assembly.sizes[NEUROID]
    found: dict[str, Array] = {}
    for name, coordinates in {
        "neuroid_id": ("neuroid_id", NEUROID),  # a file may name its dimension's own values
        "region": ("region",),
        "species": ("species",),
        "subject": ("subject", "animal"),
    }.items():
        source = next((one for one in coordinates if one in columns), None)
        if source is not None:
            found[name] = as_text(columns.pop(source))
    if "subject" in found and options.subject is not None:
        raise ValueError(
            f"card {card.path}: subject = {options.subject!r} under [options], but"
            f" {assembly.path} names the subject of each neuroid; remove the option"
        )
    if "neuroid_id" not in found:
        found["neuroid_id"] = np.array([f"neuroid-{i:04d}" for i in range(count)], dtype=object)
    subject = (options.subject or "subject-1",)
    fallback = {"region": card.regions, "species": card.species, "subject": subject}
    for name, values in fallback.items():
        scalar = assembly.attrs.get(f"brainio_{name}")
        given = (scalar,) if isinstance(scalar, str) and name != "subject" else values
        if name not in found and len(given) != 1:
            raise ValueError(
                f"card {card.path}: {len(given)} entries of {name}, and {assembly.path} has no"
                f" coordinate {name} along neuroid that says which is which; name one"
            )
        if name not in found:
            found[name] = np.array([given[0]] * count, dtype=object)
    return found, _renamed(columns, NEUROID)


def _renamed(columns: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    renamed: dict[str, Array] = {}
    for name, values in columns.items():
        renamed[free_name(name, {*RESERVED, *renamed}, prefix)] = values
    return renamed


def _labels(
    table: StimulusTable | None, rows: Array | None, *, taken: set[str], known: Assembly
) -> dict[str, Array]:
    """The columns of the stimulus table for each presentation.

    A column that the assembly repeats, value for value, is not kept twice.
    """
    labels: dict[str, Array] = {}
    if table is None or rows is None:
        return labels
    for name, column in table.labels.items():
        values = column[rows]
        same = known.columns[PRESENTATION].get(name)
        if same is not None and np.array_equal(as_text(same), as_text(values)):
            continue
        labels[free_name(name, {*RESERVED, *taken, *labels}, "stimulus")] = values
    return labels


def _kept(response: Any, ids: Array, missing: str, path: Path) -> tuple[Array, Array]:
    """Which presentations and neuroids are kept; the array is read once, a block at a time."""
    rows = np.ones(response.shape[0], dtype=bool)
    neuroids = np.ones(response.shape[1], dtype=bool)
    if missing == "error" or response.dtype.kind != "f":
        return rows, neuroids
    some, empty = np.zeros_like(rows), np.zeros_like(rows)
    bad = np.zeros_like(neuroids)
    stop = 0
    for block in range(response.numblocks[0]):
        nan = np.isnan(response.blocks[block].compute())
        here = slice(stop, stop := stop + len(nan))
        nan = nan.reshape(len(nan), len(neuroids), -1)
        some[here], empty[here] = nan.any(axis=(1, 2)), nan.all(axis=(1, 2))
        bad |= nan[~empty[here]].any(axis=(0, 2))
    if missing == "drop_neuroids":
        rows, neuroids = ~empty, ~bad
    elif missing == "drop_presentations":
        rows = ~some
    else:
        rows = ~np.isin(ids.astype(str), np.unique(ids[some].astype(str)))
    if not rows.any() or not neuroids.any():
        raise ValueError(
            f'{path}: missing = "{missing}" leaves {int(rows.sum())} of {len(rows)} presentations'
            f" and {int(neuroids.sum())} of {len(neuroids)} neuroids; choose another policy"
        )
    return rows, neuroids

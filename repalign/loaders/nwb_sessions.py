"""Sessions in NWB files: the presentations of one file, its neuroids, and what was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repalign.card_schemas import DatasetCard
from repalign.loaders.nwb_neuroids import Note, Source, read_neuroids
from repalign.loaders.nwb_options import Options
from repalign.loaders.nwb_tables import Table, keep_rows, open_nwb, read_intervals, read_ranges
from repalign.loaders.spike_counts import merge_intervals
from repalign.recording import RESERVED

Array = np.ndarray[Any, np.dtype[Any]]
TAKEN = RESERVED | {"session"}  # a column of such a name gets a prefix; units have a session


@dataclass(frozen=True)
class Session:
    """One file: its presentations in the order of their table, its neuroids, their source.

    Args:
        path: of the file.
        subject: its name, where the file gives one.
        session_id: of the file, or else its identifier.
        table_id: identity of the units or of the series, the same in copies of the file.
        stimulus: id of the stimulus of each presentation.
        times: what the windows are relative to, in seconds.
        presentation: other columns of the presentations.
        ids: of the neuroids.
        region: of each neuroid.
        neuroid: other columns of the neuroids.
        source: where the responses lie.
    """

    path: Path
    subject: str | None
    session_id: str
    table_id: str
    stimulus: Array
    times: Array
    presentation: Mapping[str, Array]
    ids: Array
    region: Array
    neuroid: Mapping[str, Array]
    source: Source


def read_session(
    card: DatasetCard, options: Options, path: Path, edges: Array, note: Note
) -> Session:
    """Read the tables of one file; the responses stay where they are.

    Args:
        card: for regions and messages.
        options: of the card.
        path: of the file.
        edges: of the bins, in seconds from what the windows are aligned to.
        note: is told what was left out.

    Raises:
        ValueError: what is asked for is not there, is ambiguous, or was not recorded.
    """
    with open_nwb(path) as content:
        table = read_intervals(content, path, options.intervals)
        rows = keep_rows(table, options.select_intervals, "select_intervals")
        stimulus = _stimulus_ids(table, options.stimulus, rows)
        times = _align_times(table, options.align, rows)
        neuroids = read_neuroids(content, card, options, path, note)
        invalid = merge_intervals(read_ranges(content, path, "invalid_times"))
        subject = getattr(content.subject, "subject_id", None) or None
        session_id = str(content.session_id or content.identifier)
    if not rows.all():
        note(f"{np.count_nonzero(~rows)} of {len(rows)} presentations left out by select_intervals")
    if table.left_out:
        note(f"columns {', '.join(table.left_out)} of {table.name} left out: not one value a row")
    what = f"{path}: {table.name}"
    keep, kept = _recorded(neuroids.source, times, edges, invalid, options.missing, what)
    if not keep.all():
        note(f"{np.count_nonzero(~keep)} of {len(keep)} presentations left out: not recorded")
    if not kept.all():
        note(f"{np.count_nonzero(~kept)} of {len(kept)} neuroids left out: not always recorded")
    label = table.name.split("/")[-1]
    presentation = {
        f"{label}_{name}" if name in TAKEN else name: values[rows][keep]
        for name, values in table.columns.items()
        if name != options.stimulus
    }
    neuroid = {
        f"unit_{name}" if name in TAKEN or name in presentation else name: values[kept]
        for name, values in neuroids.columns.items()
    }
    return Session(
        path=path,
        subject=subject,
        session_id=session_id,
        table_id=neuroids.table_id,
        stimulus=stimulus[keep],
        times=times[keep],
        presentation=presentation,
        ids=neuroids.ids[kept],
        region=neuroids.region[kept],
        neuroid=neuroid,
        source=neuroids.source if kept.all() else neuroids.source.take(kept),
    )


def _stimulus_ids(table: Table, wanted: str | tuple[str, ...] | None, rows: Array) -> Array:
    """The stimulus of each row as text; whole numbers without a decimal point."""
    if not wanted:
        raise ValueError(
            f"{table.path}: set stimulus under [options] of the card, the column of {table.name}"
            f" that tells the stimulus; there are {', '.join(table.columns)}"
        )
    names = (wanted,) if isinstance(wanted, str) else wanted
    columns = [_texts(table, name, rows) for name in names]
    if len(columns) == 1:
        return columns[0]
    pairs = [
        ",".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        for values in zip(*columns, strict=True)
    ]
    return np.array(pairs, dtype=object)


def _texts(table: Table, name: str, rows: Array) -> Array:
    values = table.column(name, "stimulus")[rows].tolist()
    texts = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in values]
    bad = [row for row, text in enumerate(texts) if text.strip().lower() in ("", "nan")]
    if bad:
        raise ValueError(
            f"{table.path}: column {name!r} of {table.name} names no stimulus in {len(bad)} rows"
            f" (first: row {np.flatnonzero(rows)[bad[0]]}, {values[bad[0]]!r}); leave such rows out"
            " with select_intervals under [options] of the card, by this column or another"
        )
    return np.array(texts, dtype=object)


def _align_times(table: Table, name: str, rows: Array) -> Array:
    times = table.column(name, "align")[rows]
    if times.dtype.kind not in "fiu":
        raise ValueError(f"{table.path}: align = {name!r} of {table.name} holds no times in s")
    bad = np.flatnonzero(~np.isfinite(times.astype(np.float64)))
    if len(bad):
        raise ValueError(
            f"{table.path}: align = {name!r} of {table.name} is NaN or infinite in {len(bad)} rows"
            f" (first: row {np.flatnonzero(rows)[bad[0]]}); leave them out with"
            f" select_intervals.{name} = {{ min = 0 }} under [options] of the card"
        )
    return times.astype(np.float64)


def _recorded(
    source: Source, times: Array, edges: Array, invalid: Array, missing: str, what: str
) -> tuple[Array, Array]:
    """Which presentations and which neuroids to keep, so that all of these were recorded."""
    start, stop = times + edges[0], times + edges[-1]
    after = np.searchsorted(invalid[:, 1], start, side="right")
    valid = np.append(invalid[:, 0], np.inf)[after] >= stop
    everywhere = np.ones(len(times), dtype=bool)
    anywhere = np.zeros(len(times), dtype=bool)
    always = []
    for inside in source.recorded(start, stop):
        everywhere &= inside & valid
        anywhere |= inside & valid
        always.append(bool((inside & valid).all()))
    neuroids = np.array(always, dtype=bool)
    if everywhere.all():
        return everywhere, neuroids
    if not anywhere.any():
        raise ValueError(
            f"{what}: no window, from {start.min():g} to {stop.max():g} s, lies in the recording;"
            " the clocks or units of intervals and responses may differ: see align and window_ms"
            " under [options] of the card"
        )
    if missing == "drop_presentations" and everywhere.any():
        return everywhere, np.ones(len(neuroids), dtype=bool)
    if missing == "drop_neuroids" and neuroids.any():
        return np.ones(len(times), dtype=bool), neuroids
    row = int(np.argmin(everywhere))
    raise ValueError(
        f"{what}: {np.count_nonzero(~everywhere)} of {len(times)} windows are not wholly inside"
        f" the recording of {np.count_nonzero(~neuroids)} of {len(neuroids)} neuroids (first:"
        f" {start[row]:g} to {stop[row]:g} s; obs_intervals, invalid_times and the recording's end"
        " count); "
        + (
            'set missing = "drop_presentations" or "drop_neuroids" under [options] of the card'
            if missing == "error"
            else f'missing = "{missing}" would leave none: set the other one, or select others'
        )
    )

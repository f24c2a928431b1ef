"""Neurodata Without Borders (NWB 2): spikes or calcium traces around the rows of interval tables.

Spikes of sorted units are counted, and traces of ROIs averaged, in a window around each
presentation. File roles of the card:

- ``nwb``: the file; or several roles that begin with ``session``, one file each. Presentations of
  sessions are matched by stimulus and repetition, and their neuroids stand side by side.
- ``stimuli``: a csv with one row a stimulus: ``stimulus_id``, ``filename`` where there are images;
  all others become labels. Rows are matched by id.
- ``images``: a folder or a zip. Without ``filename`` the name of an image file, with or without
  its suffix, is the stimulus' id.

Options of the card: see `repalign.loaders.nwb_options.Options`. A window is ``[start, stop)``; its
edges are computed in float64 seconds. Counts are exact; rates and means are rounded to float32.
Spike times are checked once, a unit at a time, and read again where they are needed.

Format: Rübel O et al. (2022), eLife 11:e78362, doi:10.7554/eLife.78362.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from repalign.card_schemas import DatasetCard
from repalign.loaders.lazy import lazy_rows
from repalign.loaders.nwb_neuroids import Note
from repalign.loaders.nwb_options import Options
from repalign.loaders.nwb_sessions import TAKEN, Session, read_session
from repalign.loaders.options import read_options
from repalign.loaders.spike_counts import bin_edges
from repalign.loaders.stimulus_files import read_stimulus_files
from repalign.recording import make_recording
from repalign.stimuli import Stimuli

Array = np.ndarray[Any, np.dtype[Any]]
Pair = tuple[str, int]


def read(card: DatasetCard, files: Mapping[str, Path]) -> tuple[xr.Dataset, Stimuli | None]:
    """Read the presentations of one file, or those that several sessions share."""
    options = read_options(card, Options)
    roles = _session_roles(card, files)
    edges_ms = _edges(card, options, len(roles))
    left_out: list[str] = []
    sessions = {}
    for role in roles:

        def note(text: str, role: str = role) -> None:
            left_out.append(f"{role}: {text}")

        sessions[role] = read_session(card, options, files[role], edges_ms / 1000, note)
    _check_distinct(sessions)
    pairs, orders = _match(sessions, options.combine, left_out.append)
    names = [name for name, _ in pairs]
    neuroids = _neuroid_columns(card, options, sessions, left_out.append)
    presentation = _shared_columns(sessions, orders, left_out.append)
    distinct = list(dict.fromkeys(names))
    labels, stimuli = read_stimulus_files(card, files, distinct, left_out.append)
    position = {name: row for row, name in enumerate(distinct)}
    for name, values in labels.items():
        if name in TAKEN or name in presentation or name in neuroids["neuroid"]:
            raise ValueError(
                f"{files['stimuli']}: the name of column {name!r} is taken; rename the column"
            )
        presentation[name] = values[[position[stimulus] for stimulus in names]]
    for text in left_out:
        print(f"{card.name}: {text}", file=sys.stderr)
    recording = make_recording(
        _responses(sessions, orders, edges_ms, options),
        stimulus_id=names,
        repetition=[repetition for _, repetition in pairs],
        presentation=presentation,
        time_bins=None
        if options.bin_ms is None
        else (edges_ms[:-1].tolist(), edges_ms[1:].tolist()),
        attrs={"window_ms": [float(edges_ms[0]), float(edges_ms[-1])], "left_out": left_out},
        **neuroids,
    )
    return recording, stimuli


def _session_roles(card: DatasetCard, files: Mapping[str, Path]) -> list[str]:
    """The roles that are NWB files: one called nwb, or those that begin with session."""
    roles = [role for role in files if role == "nwb" or role.startswith("session")]
    unknown = set(files) - {*roles, "stimuli", "images"}
    if not roles or unknown or ("nwb" in roles and len(roles) > 1):
        raise ValueError(
            f"card {card.path}: [files] has {', '.join(files) or 'nothing'}; the loader 'nwb' needs"
            " 'nwb', or roles that begin with 'session' for several files, and knows stimuli and"
            " images"
        )
    return roles


def _edges(card: DatasetCard, options: Options, files: int) -> Array:
    """Edges of the bins in ms; options that could have no effect are refused."""
    if options.window_ms is None:
        raise ValueError(
            f"card {card.path}: set window_ms = [start, stop] under [options], the window in ms"
            f" from {options.align}, such as [50, 200]"
        )
    idle = [name for name in ("response", "electrode") if getattr(options, name) is not None]
    if options.series is not None and idle:
        raise ValueError(
            f"card {card.path}: options.{idle[0]} is for spikes of units; with series it has no"
            " effect: remove one of the two"
        )
    if options.combine is not None and files == 1:
        raise ValueError(
            f"card {card.path}: options.combine is for several sessions, and [files] has one"
        )
    try:
        return bin_edges(options.window_ms, options.bin_ms)
    except ValueError as error:
        raise ValueError(f"card {card.path}: options.{error}") from error


def _check_distinct(sessions: Mapping[str, Session]) -> None:
    """A copy of a file would count its neuroids twice."""
    seen: dict[str, str] = {}
    for role, session in sessions.items():
        first = seen.setdefault(session.table_id, role)
        if first != role:
            raise ValueError(
                f"{session.path} ({role}) holds the same units as {sessions[first].path} ({first});"
                " a session may stand once under [files]"
            )


def _match(
    sessions: Mapping[str, Session], combine: str | None, note: Note
) -> tuple[list[Pair], dict[str, Array]]:
    """The (stimulus, repetition) pairs of all sessions, and where each session has them."""
    rows: dict[str, dict[Pair, int]] = {}
    for role, session in sessions.items():
        counts: dict[str, int] = {}
        rows[role] = {}
        for row, name in enumerate(session.stimulus.tolist()):
            counts[name] = counts.get(name, -1) + 1
            rows[role][name, counts[name]] = row
    first = next(iter(rows))
    pairs = [pair for pair in rows[first] if all(pair in known for known in rows.values())]
    common = set(pairs)
    for role, known in rows.items():
        extra = [pair for pair in known if pair not in common]
        if not pairs or (extra and combine is None):
            lacking = next(other for other, has in rows.items() if extra[0] not in has)
            raise ValueError(
                f"{sessions[lacking].path} ({lacking}) has no presentation of"
                f" {extra[0][0]!r}, repetition {extra[0][1]}, which {role} has; "
                + (
                    'to keep the repetitions that all sessions have set combine = "stimuli" under'
                    " [options] of the card, or give each session a card of its own"
                    if pairs
                    else "no stimulus is in all sessions: give each session a card of its own"
                )
            )
        if extra:
            note(
                f"{role}: {len(extra)} of {len(known)} presentations left out: not in all sessions"
            )
    orders = {role: np.array([known[pair] for pair in pairs]) for role, known in rows.items()}
    return pairs, orders


def _shared_columns(
    sessions: Mapping[str, Session], orders: Mapping[str, Array], note: Note
) -> dict[str, Array]:
    """Columns of the presentations that say the same in all sessions."""
    columns = [
        {name: values[orders[role]] for name, values in session.presentation.items()}
        for role, session in sessions.items()
    ]
    shared, differing = {}, []
    for name, values in columns[0].items():
        same = [np.array_equal(values, other[name]) for other in columns[1:] if name in other]
        if len(same) == len(columns) - 1 and all(same):
            shared[name] = values
        else:
            differing.append(name)
    extra = {name for other in columns[1:] for name in other if name not in columns[0]}
    if differing or extra:
        lost = ", ".join([*differing, *sorted(extra)])
        note(f"columns {lost} of presentations left out: they differ between sessions")
    return shared


def _neuroid_columns(
    card: DatasetCard, options: Options, sessions: Mapping[str, Session], note: Note
) -> dict[str, Any]:
    """Who all neuroids are, and the columns that all sessions have."""
    if len(card.species) != 1:
        raise ValueError(f"card {card.path}: species has {len(card.species)} entries, expected one")
    unnamed = [session for session in sessions.values() if session.subject is None]
    if unnamed and options.subject is None:
        raise ValueError(
            f"{unnamed[0].path} gives no subject_id; set subject under [options] of the card"
        )
    if options.subject is not None and not unnamed:
        raise ValueError(
            f"card {card.path}: subject = {options.subject!r} has no effect, because every file"
            " gives its subject_id; remove it"
        )
    subjects = [str(session.subject or options.subject) for session in sessions.values()]
    sizes = [len(session.ids) for session in sessions.values()]
    prefixes = [f"{role}-" if len(sessions) > 1 else "" for role in sessions]
    columns: dict[str, Array] = {
        "session": np.repeat(
            np.array([each.session_id for each in sessions.values()], dtype=object), sizes
        )
    }
    tables = [session.neuroid for session in sessions.values()]
    lost = []
    for name in dict.fromkeys(name for table in tables for name in table):
        parts = [table[name] for table in tables if name in table]
        if len(parts) == len(tables) and len({part.dtype.kind == "O" for part in parts}) == 1:
            columns[name] = np.concatenate(parts)
        else:
            lost.append(name)
    if lost:
        note(f"columns {', '.join(lost)} of neuroids left out: not in all sessions")
    return {
        "neuroid_id": [
            f"{prefix}{name}"
            for prefix, session in zip(prefixes, sessions.values(), strict=True)
            for name in session.ids
        ],
        "region": np.concatenate([session.region for session in sessions.values()]),
        "species": card.species[0],
        "subject": np.repeat(np.array(subjects, dtype=object), sizes),
        "neuroid": columns,
    }


def _responses(
    sessions: Mapping[str, Session], orders: Mapping[str, Array], edges_ms: Array, options: Options
) -> Any:
    """Presentation × neuroid (× bin), computed a block of presentations at a time."""
    parts = [(each.source, each.times[orders[role]]) for role, each in sessions.items()]
    seconds = np.diff(edges_ms) / 1000 if options.response == "rate" else 1.0

    def read_rows(start: int, stop: int) -> Array:
        blocks = [
            source.respond(times[start:stop, None] + edges_ms / 1000) for source, times in parts
        ]
        values: Array = np.concatenate(blocks, axis=1) / seconds
        return values if options.bin_ms is not None else values[:, :, 0]

    neuroids = sum(len(session.ids) for session in sessions.values())
    bins = () if options.bin_ms is None else (len(edges_ms) - 1,)
    return lazy_rows(read_rows, (len(parts[0][1]), neuroids, *bins), np.float32)

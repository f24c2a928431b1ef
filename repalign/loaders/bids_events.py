"""Events tables of BIDS: which events are trials, and what is known of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repalign.loaders.bids_files import MISSING, Row, Run, inherited_files, number, read_table

Array = np.ndarray[Any, np.dtype[Any]]
OURS = {
    *("stimulus_id", "repetition", "response", "presentation", "neuroid", "time_bin", "session"),
    *("run", "trial", "neuroid_id", "species", "subject", "region", "image_sha256", "i", "j", "k"),
    *("x_mm", "y_mm", "z_mm"),
}
# Numbers that start with 0, such as 007, are names.
NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)?(\.\d*)?([eE][+-]?\d+)?")


def read_events(
    run: Run,
    roots: Sequence[Path],
    seconds: float,
    *,
    stimulus: str,
    trial_types: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
) -> tuple[list[Row], list[Row]]:
    """Trials and other modelled events of one run.

    Args:
        run: whose events.
        roots: folders of the derivatives and of the raw dataset.
        seconds: how long the run lasts.
        stimulus: column that names the stimulus of a trial.
        trial_types: which events are trials, by their ``trial_type``; all by default.
        ignore: which events are left out.

    Raises:
        ValueError: no table, a missing column or value, an event outside the run, or two trials
            at one time.
    """
    tables = inherited_files(roots, run, "events.tsv")
    if not tables:
        where = " and ".join(str(root) for root in roots)
        hint = "" if len(roots) > 1 else "; name the raw dataset in [files] as raw"
        raise ValueError(f"{run.label}: no events.tsv in {where}{hint}")
    path, rows = tables[0], read_table(tables[0])
    by_type = trial_types is not None or bool(ignore)
    for column in ("onset", "duration", stimulus, *(["trial_type"] if by_type else [])):
        if column not in rows[0]:
            raise ValueError(f"{path} has no column {column!r}; there are {', '.join(rows[0])}")
    trials: list[Row] = []
    others: list[Row] = []
    for place, row in enumerate(rows, start=1):
        if row.get("trial_type") in ignore:
            continue
        onset, duration = (number(path, row, name, place) for name in ("onset", "duration"))
        if onset < 0 or duration < 0 or onset + duration > seconds:
            raise ValueError(
                f"{path}: the event of row {place} (onset {onset:g} s, duration {duration:g} s)"
                f" lies outside its run, which lasts {seconds:g} s; remove it or name its"
                " trial_type in ignore"
            )
        if trial_types is not None and row["trial_type"] not in trial_types:
            others.append(row)
            continue
        if row[stimulus] in (MISSING, ""):
            raise ValueError(
                f"{path}: row {place} has no {stimulus} (stimulus); name its trial_type"
                " in ignore, or those of the trials in trial_types"
            )
        same = [row for row in trials if float(row["onset"]) == onset]
        if same:
            raise ValueError(
                f"{path}: row {place} and an earlier row both start at {onset:g} s; two trials at"
                " one time cannot be told apart"
            )
        trials.append(row)
    if not trials:
        raise ValueError(f"{path} has no trial; check trial_types and ignore")
    return trials, others


def event_columns(trials: Sequence[tuple[Run, Row]]) -> dict[str, Array]:
    """Session, run and all columns of the events tables, numbers as numbers.

    A column with a name of ours is called ``event_NAME``.
    """
    columns: dict[str, Array] = {
        name: np.array([run.entities.get(key, MISSING) for run, _ in trials], dtype=object)
        for name, key in (("session", "ses"), ("run", "run"))
    }
    for name in dict.fromkeys(name for _, row in trials for name in row):
        cells = [row.get(name, MISSING) for _, row in trials]
        given = [cell for cell in cells if cell != MISSING]
        column: Array = np.array(cells, dtype=object)
        if given and all(any(map(str.isdigit, c)) and NUMBER.fullmatch(c) for c in given):
            column = np.array([np.nan if cell == MISSING else float(cell) for cell in cells])
        columns[f"event_{name}" if name in OURS else name] = column
    return columns

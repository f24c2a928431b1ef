"""The runs of a continuous fMRI dataset: whose they are, their timing, and their events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from repalign.continuous_recording import DURATION, EVENT_RUN, ONSET
from repalign.loaders.bids_events import event_columns
from repalign.loaders.bids_files import (
    MISSING,
    TIME_TOLERANCE,
    Row,
    Run,
    find_runs,
    inherited_files,
    number,
    read_table,
    repetition_time,
)
from repalign.loaders.fmri_cleaning import Scaling
from repalign.loaders.options import LoaderOptions
from repalign.loaders.volumes import check_same_grid, open_nifti, value_type
from repalign.stimuli import natural_key

STIMULUS_COLUMNS = ("stimulus_id", "stim_file")
RUN_KEYS = (("run",), ("ses", "run"), ("ses", "task", "acq", "ce", "rec", "dir", "run"))


class Options(LoaderOptions):
    """What a card may say under ``[options]``.

    Attributes:
        subjects: those that are wanted; all by default.
        task, space: which ones, where the folder holds several.
        sessions, runs: labels of those that are wanted; all by default.
        desc: the preprocessing that the names carry; empty for names without one.
        stimulus: column of the events tables that names the stimulus of an event; ``stimulus_id``
            or ``stim_file`` by default, where there is one.
        ignore: events that are left out, by their ``trial_type``.
        clip_events: cut events that outlast their run, which are an error otherwise.
        confounds: columns of the confounds tables, by name or pattern (``trans_?``), that are
            regressed out.
        detrend: take a straight line out of each run.
        high_pass: in Hz; take the cosines below it out of each run.
        scaling: ``zscore`` of each voxel in each run, ``percent`` of its mean, or ``none``.
        slice_time_ref: where in its repetition time a volume was measured, from 0 (its start) over
            .5 (its middle) to 1; by default the sidecars' ``StartTime``, and 0 without one.
    """

    subjects: tuple[str, ...] | None = None
    task: str | None = None
    space: str | None = None
    sessions: tuple[str, ...] | None = None
    runs: tuple[str, ...] | None = None
    desc: str = "preproc"
    stimulus: str | None = None
    ignore: tuple[str, ...] = ()
    clip_events: bool = False
    confounds: tuple[str, ...] = ()
    detrend: bool = False
    high_pass: float | None = Field(default=None, gt=0)
    scaling: Scaling = "none"
    slice_time_ref: float | None = Field(default=None, ge=0, le=1)

    @property
    def cleans(self) -> bool:
        """Whether anything is removed or scaled."""
        removes = bool(self.confounds) or self.detrend or self.high_pass is not None
        return removes or self.scaling != "none"


class Measured(NamedTuple):
    """One run of one subject, its header read.

    Attributes:
        run: its files.
        n_volumes: how many there are.
        interval: seconds between them.
        reference: share of the interval at which a volume was measured.
        events: rows of its events table.
        kind: of the values.
    """

    run: Run
    n_volumes: int
    interval: float
    reference: float
    events: list[Row]
    kind: np.dtype[Any]


def subjects_of(folder: Path, wanted: Sequence[str] | None) -> list[str]:
    """Labels of the subjects with images, or those that are wanted."""
    present = {
        part.removeprefix("sub-")
        for path in folder.rglob("*_bold.nii*")
        for part in path.name.split("_")[:1]
        if part.startswith("sub-")
    }
    names = [name.removeprefix("sub-") for name in wanted or sorted(present, key=natural_key)]
    lacking = [name for name in names if name not in present]
    if lacking or not names:
        there = ", ".join(sorted(present, key=natural_key)) or "none"
        what = f"no sub-{lacking[0]} (subjects)" if lacking else "no sub-*_bold.nii"
        raise ValueError(f"{folder} has {what}; there is {there}")
    return list(dict.fromkeys(names))


def measured_runs(subject: str, files: Mapping[str, Path], options: Options) -> list[Measured]:
    """The runs of one subject, on one grid, with their timing and events.

    Raises:
        ValueError: what `find_runs`, `repetition_time` and `check_same_grid` raise, or an event
            outside its run.
    """
    runs = find_runs(
        files["derivatives"],
        subject=subject,
        task=options.task,
        sessions=options.sessions,
        runs=options.runs,
        space=options.space,
        desc=options.desc,
    )
    first = open_nifti(runs[0].bold, dimensions=4)
    found = []
    for run in runs:
        image = open_nifti(run.bold, dimensions=4)
        check_same_grid(run.bold, image, runs[0].bold, first)
        roots = roots_of(run, files)
        interval, start = repetition_time(run, image, inherited_files(roots, run, "bold.json"))
        reference = options.slice_time_ref
        if reference is None:
            reference = 0.0 if start is None else start / interval
        if not 0 <= reference <= 1:
            raise ValueError(
                f"{run.label}: StartTime is {start:g} s, expected a time within the repetition time"
                f" of {interval:g} s; correct the sidecar, or set slice_time_ref"
            )
        n = image.shape[3]
        events = _events(run, roots, n * interval, options)
        found.append(Measured(run, n, interval, reference, events, value_type(image)))
    return found


def roots_of(run: Run, files: Mapping[str, Path]) -> list[Path]:
    """The folders of the derivatives and of the raw dataset, where the card names one."""
    return [run.root, *([files["raw"]] if "raw" in files else [])]


def _events(run: Run, roots: Sequence[Path], seconds: float, options: Options) -> list[Row]:
    """Rows of a run's events table, in order of onset; none where there is no table."""
    tables = inherited_files(roots, run, "events.tsv")
    if not tables:
        return []
    path, rows = tables[0], read_table(tables[0])
    needed = ["onset", "duration", *(["trial_type"] if options.ignore else [])]
    needed += [options.stimulus] if options.stimulus is not None else []
    for column in needed:
        if column not in rows[0]:
            raise ValueError(f"{path} has no column {column!r}; there are {', '.join(rows[0])}")
    kept = []
    for place, row in enumerate(rows, start=1):
        if options.ignore and row["trial_type"] in options.ignore:
            continue
        onset, duration = (number(path, row, name, place) for name in ("onset", "duration"))
        if options.clip_events and onset < seconds:
            duration = min(duration, seconds - onset)
        if onset < 0 or duration < 0 or onset + duration > seconds + TIME_TOLERANCE:
            raise ValueError(
                f"{path}: the event of row {place} (onset {onset:g} s, duration {duration:g} s)"
                f" lies outside its run, which lasts {seconds:g} s; remove it, name its trial_type"
                " in ignore, or set clip_events = true if it only outlasts the run"
            )
        kept.append(row | {"onset": repr(onset), "duration": repr(duration)})
    return sorted(kept, key=lambda row: float(row["onset"]))


def same_runs(people: Mapping[str, list[Measured]]) -> tuple[list[Measured], list[str]]:
    """The runs that all subjects share, and their names.

    Raises:
        ValueError: repetition times differ, or the runs of two subjects do.
    """
    (first, runs), *others = people.items()
    for own in people.values():
        for one in own:
            differs = abs(one.interval - runs[0].interval) > TIME_TOLERANCE
            if differs or abs(one.reference - runs[0].reference) > TIME_TOLERANCE:
                raise ValueError(
                    f"{one.run.label} has a repetition time of {one.interval:g} s, measured at"
                    f" {one.reference:g} of it, {runs[0].run.label} of {runs[0].interval:g} s at"
                    f" {runs[0].reference:g}; ingest them apart (runs, sessions or subjects)"
                )
    names = _run_names([one.run for one in runs])
    for other, own in others:
        theirs = _run_names([one.run for one in own])
        what = ""
        if theirs != names:
            what = f"runs {', '.join(theirs)}, not {', '.join(names)}"
        else:
            for name, one, like in zip(names, own, runs, strict=True):
                if one.n_volumes != like.n_volumes:
                    what = f"{one.n_volumes} volumes in run {name}, not {like.n_volumes}"
                elif one.events != like.events:
                    what = f"other events in run {name}"
                if what:
                    break
        if what:
            raise ValueError(
                f"sub-{other} has {what} as sub-{first}; subjects stand side by side only where"
                " they saw the same: set subjects, and write a card for each"
            )
    return runs, names


def _run_names(runs: Sequence[Run]) -> list[str]:
    """``1`` or, where that does not tell the runs apart, ``ses-1_run-1`` and more of the name."""
    for keys in RUN_KEYS:
        parts = [[(k, run.entities[k]) for k in keys if k in run.entities] for run in runs]
        names = [
            "_".join(f"{k}-{v}" for k, v in own) if len(keys) > 1 else own[0][1] if own else ""
            for own in parts
        ]
        if len(set(names)) == len(names) and all(names):
            return names
    return ["1"] if len(runs) == 1 else [run.label for run in runs]


def event_table(
    runs: Sequence[Measured], names: Sequence[str], options: Options
) -> dict[str, Any] | None:
    """Columns of the events of all runs; None where there are none."""
    rows = [(one.run, row) for one in runs for row in one.events]
    if not rows:
        return None
    found = event_columns(rows)
    columns: dict[str, Any] = {
        ONSET: np.array([float(row["onset"]) for _, row in rows]),
        DURATION: np.array([float(row["duration"]) for _, row in rows]),
        EVENT_RUN: np.array(
            [name for name, one in zip(names, runs, strict=True) for _ in one.events], dtype=object
        ),
    }
    stimulus = options.stimulus or next((n for n in STIMULUS_COLUMNS if n in rows[0][1]), None)
    if stimulus is not None:
        columns["stimulus_id"] = np.array(
            [row.get(stimulus, MISSING) or MISSING for _, row in rows], dtype=object
        )
    for name, values in found.items():
        own = name in ("onset", "duration", "run", "session", "event_stimulus_id", stimulus)
        if not own:
            free = name in columns or name in ("time", "time_s", "event")
            columns[f"event_{name}" if free else name] = values
    return columns

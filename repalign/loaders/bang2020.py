"""Dopamine, serotonin and pH in the human striatum, of Bang et al. (2020), one patient a card.

Fast-scan cyclic voltammetry at 10 Hz while a patient said on which side of a reference the dots of
a cloud moved. Neuron 108:999-1010, doi 10.1016/j.neuron.2020.09.015. File roles: ``behaviour``
(``P1_day2_task.mat``) and one for each analyte, locked to ``stimulus`` or ``decision``:
``stimulus_DA``, ``stimulus_5HT``, ``stimulus_PH``, ``decision_DA`` and so on (``timeSeries``, trial
× sample, each trial z-scored over its own samples by the authors).

One card is one patient. The five patients did trials of their own, 206 to 300 of them, with levels
of coherence and distance that were set for each of them; trials of two patients are no repetitions
of each other, so nothing but NaN could fill a recording of several. Compare two by their two
recordings: conditions have the same names in both.

A neuroid is an analyte (``DA``, ``5HT``, ``PH``), a presentation a trial, a time bin a sample: it
starts at the sample's time, with onset of the motion (or the decision) at 0 as in the authors'
figures, and ends with the next. There is no image. What was shown is a cell of the factorial
design, and its name the ``stimulus_id``: ``cohcat=1 bodcat=2 cw=0`` (see `Options.conditions`), of
which trials are the repetitions. All columns of the behaviour become coordinates of the
presentations, under their own names; where a trial asked for no confidence, ``con``, ``rt2``,
``score`` and the like are NaN. Times of single frames and of the confidence marker (``onsets``,
``routes``) are left in the file.

The first trial was not recorded (locked to the decision: the first and the last): it is NaN in all
samples of all analytes, and left out. ``trial`` still counts from the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from repalign.card_schemas import DatasetCard
from repalign.loaders.mat5 import read_mat5
from repalign.loaders.options import LoaderOptions, read_options
from repalign.recording import make_recording

Array = np.ndarray[Any, np.dtype[Any]]

ANALYTES = ("DA", "5HT", "PH")
SAMPLE_MS = 100.0
SAMPLES = {"stimulus": 61, "decision": 81}
ONSET = {"stimulus": 10, "decision": 40}  # index of the sample at 0 ms
# One value a trial each; see the authors' scripts Figure2.m to Figure5.m.
COLUMNS = (
    *("trial", "local", "block"),  # number of the trial, within its block, of the block
    *("meanz", "cohz", "cohcat"),  # direction in degrees; coherence, 1 low or 2 high
    *("deltaz", "boundz", "boundr", "bodcat"),  # reference minus direction; 1 near or 2 far
    *("cw", "choice", "acc", "key"),  # side of the reference, that chosen, whether right, the key
    *("concat", "rwdcat", "rwdz"),  # whether confidence was asked for, and for what reward
    *("iti", "rt1", "rt1s"),  # in ms
    *("markini", "con", "rt2", "rt2s", "score"),  # of confidence: first marker, given, times, score
)


class Options(LoaderOptions):
    """What a card may say under ``[options]``.

    Attributes:
        subject: name of the patient, ``P1`` to ``P5`` in the paper.
        event: what the samples are locked to.
        conditions: the columns of the behaviour whose values make up the ``stimulus_id``. By
            default coherence and distance, each low or high, and the side of the reference.
    """

    subject: str
    event: Literal["stimulus", "decision"] = "stimulus"
    conditions: tuple[str, ...] = ("cohcat", "bodcat", "cw")


def read(card: DatasetCard, files: Mapping[str, Path]) -> tuple[xr.Dataset, None]:
    """Read the trials of one patient."""
    options = read_options(card, Options)
    roles = [f"{options.event}_{analyte}" for analyte in ANALYTES]
    missing = [role for role in ("behaviour", *roles) if role not in files]
    if missing:
        raise ValueError(f"card {card.path}: [files] has no {missing[0]!r}, a file of the patient")
    behaviour, place, disease = _read_behaviour(files["behaviour"])
    if place not in card.regions:
        raise ValueError(
            f"{files['behaviour']} was recorded in the {place}, but card {card.path} says regions"
            f" = {list(card.regions)}"
        )
    count = len(behaviour["trial"])
    series = [_read_series(files[role], options.event, count) for role in roles]
    response = np.stack(series, axis=1)
    recorded = ~np.isnan(response).all(axis=(1, 2))
    if not recorded.any():
        raise ValueError(f"{files[roles[0]]}: all trials are NaN")
    trials = behaviour["trial"]
    behaviour = {name: column[recorded] for name, column in behaviour.items()}
    starts = (np.arange(SAMPLES[options.event]) - ONSET[options.event]) * SAMPLE_MS
    recording = make_recording(
        response[recorded],
        stimulus_id=_condition_names(card, behaviour, options.conditions),
        region=place,
        species=card.species[0],
        subject=options.subject,
        neuroid_id=ANALYTES,
        presentation=behaviour,
        neuroid={"disease": np.array([disease] * len(ANALYTES), dtype=object)},
        time_bins=(starts.tolist(), (starts + SAMPLE_MS).tolist()),
        attrs={
            "event": options.event,
            "trials_not_recorded": trials[~recorded].tolist(),
        },
    )
    return recording, None


def _read_behaviour(path: Path) -> tuple[dict[str, Array], str, str]:
    """The columns of the trials, the place of the electrode and the patient's disease."""
    names = [f"data.{name}" for name in COLUMNS]
    facts = ["task.sbjfo.location", "task.sbjfo.disease"]
    *values, place, disease = read_mat5(path, [*names, *facts])
    columns = {}
    count = values[0].size
    for name, value in zip(COLUMNS, values, strict=True):
        column = np.array(value).ravel()
        if name == "score" and column.size == count - 1:  # the score of a last trial was not kept
            column = np.append(column, np.nan)
        if column.size != count:
            raise ValueError(f"{path}: data.{name} has {column.size} values for {count} trials")
        columns[name] = column
    return columns, str(place.item()), str(disease.item())


def _read_series(path: Path, event: str, count: int) -> Array:
    [series] = read_mat5(path, ["timeSeries"])
    if series.shape != (count, SAMPLES[event]):
        raise ValueError(
            f"{path}: timeSeries has shape {series.shape}, expected {count} trials of the behaviour"
            f" × {SAMPLES[event]} samples; are all files of one patient and locked to the {event}?"
        )
    return series


def _condition_names(
    card: DatasetCard, behaviour: Mapping[str, Array], columns: tuple[str, ...]
) -> list[str]:
    unknown = [name for name in columns if name not in behaviour]
    if unknown or not columns:
        raise ValueError(
            f"card {card.path}: options.conditions = {list(columns)}; expected one or more of"
            f" {', '.join(behaviour)}"
        )
    without = [name for name in columns if np.isnan(behaviour[name]).any()]
    if without:
        raise ValueError(
            f"card {card.path}: options.conditions names {without[0]!r}, which is NaN in trials"
            " that asked for no confidence; a condition needs a value in each trial"
        )
    rows = zip(*(behaviour[name].tolist() for name in columns), strict=True)
    return [
        " ".join(f"{name}={value:g}" for name, value in zip(columns, row, strict=True))
        for row in rows
    ]

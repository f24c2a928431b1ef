"""What a card of NWB files may say under [options]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator

from repalign.loaders.options import LoaderOptions


class Bounds(LoaderOptions):
    """A range of numbers, both ends included; NaN is outside.

    Attributes:
        min: least value.
        max: largest value.
    """

    min: float = -np.inf
    max: float = np.inf


def _check_condition(given: Any) -> Any:
    """One message, where pydantic would tell of the first kind that does not fit."""
    values = given if isinstance(given, list | tuple) else [given]
    kinds: Any = (str, int, float)
    if isinstance(given, dict):
        values, kinds = (list(given.values()) if set(given) <= {"min", "max"} else []), (int, float)
    if not values or not all(isinstance(value, kinds) for value in values):
        raise ValueError(
            "expected a value, a list of values, or { min = a } or { max = b } or both"
        )
    return given


Value = str | bool | int | float
Condition = Annotated[Value | tuple[Value, ...] | Bounds, BeforeValidator(_check_condition)]


class Options(LoaderOptions):
    """What a card may say under ``[options]``.

    Attributes:
        intervals: the interval table whose rows are the presentations, by its name or by its path
            inside the file.
        stimulus: the column of it that tells the stimulus; with several columns, each combination
            of their values is a stimulus.
        align: the column of times, in seconds, that the window is relative to.
        window_ms: start and stop of the window. A spike at the start counts, one at the stop
            does not.
        bin_ms: length of time bins that the window is cut into; one number a window by default.
        response: ``count`` of spikes, the default, or ``rate`` in spikes per second.
        series: path of a ``RoiResponseSeries``, such as
            ``processing/ophys/DfOverF/RoiResponseSeries``, to take instead of the units: the mean
            of the frames in each window.
        select_intervals: conditions on columns of the interval table: a value, a list of values
            or a range such as ``{ min = 0 }``. Rows that fail one are left out.
        select: conditions on columns of the units (or ROIs), ``id`` among them, or of electrodes.
        region: column of the units (or ROIs) or of their electrodes that tells the region; needed
            where the card names several. For ROIs ``location`` is the imaging plane's.
        electrode: column of the units that points at their electrodes, by row or by id;
            ``electrodes`` by default.
        subject: name of the subject of files that give none.
        missing: what to do about windows in which a neuroid was not recorded: raise an ``error``,
            ``drop_presentations`` or ``drop_neuroids``.
        combine: ``stimuli``: of several sessions keep the repetitions that all of them have.
    """

    intervals: str = "trials"
    stimulus: str | tuple[str, ...] | None = None
    align: str = "start_time"
    window_ms: tuple[float, float] | None = None
    bin_ms: float | None = None
    response: Literal["count", "rate"] | None = None
    series: str | None = None
    select_intervals: Mapping[str, Condition] = {}
    select: Mapping[str, Condition] = {}
    region: str | None = None
    electrode: str | None = None
    subject: str | None = None
    missing: Literal["error", "drop_presentations", "drop_neuroids"] = "error"
    combine: Literal["stimuli"] | None = None

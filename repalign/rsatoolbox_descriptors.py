"""Descriptors of rsatoolbox's objects, as the columns of a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from repalign.loaders.brainio_stimuli import as_column, as_text, free_name
from repalign.recording import RESERVED, TIME_BIN_START, TIME_BIN_STOP

Array = np.ndarray[Any, np.dtype[Any]]


def plain(value: Any) -> Any:
    """A descriptor of the whole as JSON has it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def read_columns(descriptors: Mapping[str, Any], length: int, what: str) -> dict[str, Array]:
    """Descriptors as columns: numbers as they are, all else as text.

    Raises:
        ValueError: one has no single value for each entry.
    """
    columns = {}
    for name, values in descriptors.items():
        try:
            array = np.atleast_1d(np.asarray(values))
        except ValueError:  # of several lengths
            array = np.empty((length, 0))
        if array.shape != (length,):
            raise ValueError(
                f"{what} descriptor {name!r} has shape {array.shape}; expected one value for each"
                f" of {length}: split or drop it"
            )
        columns[str(name)] = as_column(array)
    return columns


def pop_stimuli(columns: dict[str, Array], name: str, what: str) -> list[str]:
    """Take the ids of the stimuli out of the columns.

    Raises:
        ValueError: there is no such column.
    """
    if name not in columns:
        raise ValueError(
            f"no {what} descriptor {name!r}; there is {', '.join(columns) or 'none'}: say which"
            ' names the stimuli by stimulus="…"'
        )
    ids: list[str] = as_text(columns.pop(name)).tolist()
    return ids


def pop_names(
    given: Mapping[str, str | None],
    columns: dict[str, Array],
    whole: dict[str, Any],
    default: Mapping[str, str],
) -> dict[str, Any]:
    """Take region, species and subject, each as the object describes it or as it is given.

    Raises:
        ValueError: one is missing, or the object describes what is given.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        described = as_text(columns.pop(name)).tolist() if name in columns else None
        if described is None and isinstance(whole.get(name), str | int):
            described = str(whole.pop(name))
        if described is not None and value is not None:
            raise ValueError(
                f"{name}={value!r}, but the object has a descriptor {name!r}; drop one"
            )
        found[name] = described or value or default.get(name)
        if found[name] is None:
            raise ValueError(f'the object has no descriptor {name!r}; give {name}="…"')
    return found


def pop_edges(
    times: dict[str, Array], given: tuple[Sequence[float], Sequence[float]] | None
) -> tuple[Sequence[float], Sequence[float]]:
    """Take start and stop of each time bin, and a ``time`` that only repeats them.

    Raises:
        ValueError: they are missing, or the object describes what is given.
    """
    known = [times.pop(name, None) for name in (TIME_BIN_START, TIME_BIN_STOP)]
    starts, stops = known
    if starts is None or stops is None:
        if given is None:
            raise ValueError(
                f"no time descriptors {TIME_BIN_START} and {TIME_BIN_STOP}; give"
                " time_bins=(starts, stops) in ms"
            )
        return given
    if given is not None:
        raise ValueError("time_bins is given, but the object has time descriptors of the edges")
    if np.array_equal(times.get("time", np.nan), middles_of(starts, stops)):
        times.pop("time")
    return starts.tolist(), stops.tolist()


def middles_of(starts: Array, stops: Array) -> Array:
    """The middle of each time bin."""
    middles: Array = (starts + stops) / 2
    return middles


def renamed(columns: Mapping[str, Array], prefix: str, taken: set[str]) -> dict[str, Array]:
    """Columns under names that nothing else has."""
    kept: dict[str, Array] = {}
    for name, values in columns.items():
        new = free_name(name, {*RESERVED, *taken}, prefix)
        taken.add(new)
        kept[new] = values
    return kept

"""The neuroids of an NWB file: sorted units with their electrodes, or ROIs of calcium imaging."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from repalign.card_schemas import DatasetCard
from repalign.loaders.nwb_ophys import open_roi_series
from repalign.loaders.nwb_options import Options
from repalign.loaders.nwb_tables import (
    Table,
    electrode_columns,
    is_kind,
    keep_rows,
    place,
    read_table,
)
from repalign.loaders.spike_counts import open_spike_trains

Array = np.ndarray[Any, np.dtype[Any]]
Note = Callable[[str], None]


class Source(Protocol):
    """Where the responses of neuroids lie: spike trains or traces."""

    def take(self, keep: Array) -> Source:
        """Return the source of some of the neuroids."""

    def recorded(self, start: Array, stop: Array) -> Iterator[Array]:
        """For each neuroid, whether it was recorded in each window."""

    def respond(self, edges: Array) -> Array:
        """Return responses of presentation × neuroid × bin to edges of presentation × edge."""


@dataclass(frozen=True)
class Neuroids:
    """Neuroids and where their responses lie.

    Args:
        source: of the responses.
        ids: unique in their file.
        region: of each.
        columns: what else is known of them.
        table_id: the identity of the units table, the same in copies of a file.
    """

    source: Source
    ids: Array
    region: Array
    columns: Mapping[str, Array]
    table_id: str


def read_neuroids(
    content: Any, card: DatasetCard, options: Options, path: Path, note: Note
) -> Neuroids:
    """The units of an open file, or the ROIs of a series of it, that ``select`` leaves.

    Raises:
        ValueError: there are none, ids or regions are unclear, spike times are unsound.
    """
    if options.series is not None:
        traces, table, location = open_roi_series(content, path, options.series)
        plane = np.array([location] * len(table.ids), dtype=object)
        table = replace(table, columns={"location": plane, **table.columns})
        keep = keep_rows(table, options.select, "select")
        source: Source = traces.take(keep)
        table_id = traces.table_id
    else:
        table = _unit_table(content, path, options)
        keep = keep_rows(table, options.select, "select")
        index = content.units["spike_times"]
        source = open_spike_trains(
            path,
            f"{place(index.target, 'data')}/spike_times",
            [str(value) for value in table.ids.tolist()],
            index.data[:],
            keep=keep,
            observed=_observed(content.units, path),
        )
        table_id = str(content.units.object_id)
    if table.left_out:
        note(f"columns {', '.join(table.left_out)} of {table.name} left out: not one value a row")
    if not keep.all():
        note(f"{np.count_nonzero(~keep)} of {len(keep)} neuroids left out by select")
    ids = np.array([str(value) for value in table.ids[keep].tolist()], dtype=object)
    if len(set(ids.tolist())) != len(ids):
        twice = next(name for name in ids if (ids == name).sum() > 1)
        raise ValueError(
            f"{path}: id {twice} stands twice in {table.name}; ids must be unique: mend the file,"
            " or leave them out with select under [options] of the card"
        )
    columns = {name: values[keep] for name, values in table.columns.items()}
    region = _regions(card, options, columns, ids, f"{path}: {table.name}")
    mixed = [name for name, values in columns.items() if None in values.tolist()]
    if mixed:
        note(
            f"columns {', '.join(mixed)} left out: a unit has no electrode, or several that differ"
        )
    plain = {name: _settled(values) for name, values in columns.items() if name not in mixed}
    plain.pop(options.region or "", None)
    return Neuroids(source, ids, region, plain, table_id)


def _settled(values: Array) -> Array:
    """Numbers as numbers; text stays an object array."""
    is_number = values.dtype.kind == "O" and not isinstance(values[0], str)
    return np.array(values.tolist()) if is_number else values


def _unit_table(content: Any, path: Path, options: Options) -> Table:
    """The units with the columns of their electrodes."""
    units = content.units
    if units is None or "spike_times" not in units.colnames:
        state = "no units table" if units is None else "a units table without spike_times"
        series = [item for item in content.objects.values() if is_kind(item, "RoiResponseSeries")]
        places = ", ".join(repr(place(each, "data").strip("/")) for each in series)
        raise ValueError(
            f"{path} has {state}, so there are no spikes to count"
            + (f"; it has calcium traces: set series = {places} under [options]" if places else "")
        )
    table = read_table(units, path, "/units")
    columns = dict(table.columns)
    for name, values in electrode_columns(content, path, options.electrode).items():
        columns[f"electrode_{name}" if name in columns else name] = values
    used = ("spike_times", "obs_intervals", options.electrode or "electrodes")
    others = tuple(name for name in table.left_out if name not in used)
    return replace(table, columns=columns, left_out=others)


def _observed(units: Any, path: Path) -> list[Array] | None:
    """The observation intervals of each unit, n × 2, where the file has them."""
    if "obs_intervals" not in units.colnames:
        return None
    index = units["obs_intervals"]
    values = np.asarray(index.target.data[:], dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or not (values[:, 0] <= values[:, 1]).all():
        raise ValueError(
            f"{path}: /units/obs_intervals has shape {values.shape} or NaN, or stops before it"
            " starts; expected n × 2 times in s: mend the file"
        )
    return np.split(values, np.asarray(index.data[:]).astype(np.int64)[:-1])


def _regions(
    card: DatasetCard, options: Options, columns: Mapping[str, Array], ids: Array, where: str
) -> Array:
    if options.region is None:
        if len(card.regions) != 1:
            raise ValueError(
                f"card {card.path}: regions has {len(card.regions)} entries; name the column that"
                f" tells them with region under [options]. {where} has {', '.join(columns)}"
            )
        return np.array([card.regions[0]] * len(ids), dtype=object)
    if options.region not in columns:
        raise ValueError(f"{where} has no region = {options.region!r}; it has {', '.join(columns)}")
    values = columns[options.region]
    for name, value in zip(ids, values.tolist(), strict=True):
        if value is None or str(value) not in card.regions:
            state = f"{value!r}" if value is not None else "none or several"
            raise ValueError(
                f"{where}: column {options.region!r} of unit {name} is {state}, but the card's"
                f" regions are {', '.join(card.regions)}; add it to regions, or leave such units"
                f" out with select.{options.region} under [options] of the card"
            )
    return np.array([str(value) for value in values.tolist()], dtype=object)

"""NWB files and their tables: interval tables, units, electrodes, as plain columns of arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repalign.loaders.hdf5 import open_hdf5
from repalign.loaders.nwb_options import Bounds, Condition

Array = np.ndarray[Any, np.dtype[Any]]


@contextmanager
def open_nwb(path: Path) -> Iterator[Any]:
    """The content of an NWB file, as a pynwb ``NWBFile`` whose arrays are not read yet.

    Raises:
        ImportError: pynwb is not installed.
        ValueError: the file is damaged, refers to others, or is no NWB file.
    """
    try:
        import pynwb
    except ImportError as error:
        raise ImportError("NWB files need pynwb: pip install 'repalign[nwb]'") from error
    with open_hdf5(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about fields that were renamed since the file was made
        try:
            content = pynwb.NWBHDF5IO(file=file, mode="r", load_namespaces=True).read()
        except Exception as error:  # hdmf raises many types
            reason = str(error).split("\n", 1)[0]
            raise ValueError(f"{path} is no readable NWB 2 file: {reason}") from error
        yield content


def is_kind(item: Any, kind: str) -> bool:
    """Whether an object of the file is of an NWB type, or of one that extends it."""
    return any(parent.__name__ == kind for parent in type(item).__mro__)


def place(item: Any, part: str) -> str:
    """Path inside the file of an object, found by one of the arrays it holds."""
    name = getattr(getattr(item, part, None), "name", None)
    return str(name).rpartition("/")[0] if isinstance(name, str) else f"/{item.name}"


@dataclass(frozen=True)
class Table:
    """The columns of an NWB table that hold one number or one text a row.

    Args:
        path: of the file.
        name: path of the table inside it.
        ids: of the rows.
        columns: array by name.
        left_out: names of columns of other kinds.
    """

    path: Path
    name: str
    ids: Array
    columns: Mapping[str, Array]
    left_out: tuple[str, ...]

    def column(self, name: str, option: str) -> Array:
        """Return one column.

        Raises:
            ValueError: there is no such column; those that exist are listed.
        """
        if name in self.columns:
            return self.columns[name]
        state = "is ragged or no text or number" if name in self.left_out else "is not there"
        raise ValueError(
            f"{self.path}: {self.name} has the columns {', '.join(self.columns) or 'none'};"
            f" {option} = {name!r} {state}"
        )


def read_table(table: Any, path: Path, name: str) -> Table:
    """Read the plain columns of a pynwb ``DynamicTable``.

    Raises:
        ValueError: columns of different lengths.
    """
    ids = np.asarray(table.id.data[:])
    columns, left_out = {}, []
    for label in table.colnames:
        values = _plain(table[label])
        if values is None:
            left_out.append(str(label))
        elif len(values) != len(ids):
            raise ValueError(
                f"{path}: {name} has {len(ids)} rows, but its column {label!r} has {len(values)};"
                " the file is damaged: fetch or export it again"
            )
        else:
            columns[str(label)] = values
    return Table(path, name, ids, columns, tuple(left_out))


def _plain(column: Any) -> Array | None:
    """One number or text a row, or None."""
    if is_kind(column, "VectorIndex") or is_kind(column, "DynamicTableRegion"):
        return None
    if is_kind(column, "EnumData"):
        names = _plain(column.elements)
        return None if names is None else names[np.asarray(column.data[:])]
    data = column.data
    if getattr(data, "ndim", 1) != 1:
        return None  # not read: it may be large
    values = np.asarray(data[:])
    if values.ndim != 1:
        return None
    if values.dtype.kind in "fiub":
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    texts = [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]
    if not all(isinstance(text, str) for text in texts):
        return None
    return np.array([str(text) for text in texts], dtype=object)


def interval_tables(content: Any) -> dict[str, Any]:
    """All interval tables of a file by their path, such as ``/intervals/trials``."""
    tables = [item for item in content.objects.values() if is_kind(item, "TimeIntervals")]
    return {place(table["start_time"], "data"): table for table in tables}


def read_intervals(content: Any, path: Path, wanted: str) -> Table:
    """One interval table, by its name or by its path inside the file.

    Raises:
        ValueError: there is none of that name, or it has no rows; those that exist are listed.
    """
    tables = interval_tables(content)
    found = [name for name in tables if wanted in (name, name.strip("/"), name.split("/")[-1])]
    if len(found) != 1:
        known = [
            f"{name} ({len(t.id)} rows: {', '.join(t.colnames)})" for name, t in tables.items()
        ]
        state = f"{len(found)} interval tables" if found else "no interval table"
        raise ValueError(
            f"{path} has {state} {wanted!r}, whose rows would be the presentations; it has"
            f" {'; '.join(known) or 'none at all'}. Name one by its path with intervals under"
            " [options] of the card; a file without stimuli cannot be compared with networks"
        )
    table = read_table(tables[found[0]], path, found[0])
    if len(table.ids) == 0:
        raise ValueError(f"{path}: {table.name} has no rows, so there are no presentations")
    return table


def read_ranges(content: Any, path: Path, name: str) -> Array:
    """Start and stop of the rows of an interval table, n × 2; none where it does not exist."""
    for where, table in interval_tables(content).items():
        if where.split("/")[-1] == name:
            columns = read_table(table, path, where).columns
            return np.stack([columns["start_time"], columns["stop_time"]], axis=1)
    return np.empty((0, 2))


def keep_rows(table: Table, select: Mapping[str, Condition], option: str) -> Array:
    """Which rows of a table meet all conditions; the name ``id`` stands for the ids of the rows.

    Raises:
        ValueError: an unknown column, a range of text, or no row left.
    """
    keep = np.ones(len(table.ids), dtype=bool)
    for name, condition in select.items():
        values = table.ids if name == "id" else table.column(name, option)
        if isinstance(condition, Bounds):
            if any(isinstance(value, str) for value in values.tolist()):
                raise ValueError(
                    f"{table.path}: {option}.{name} is a range, but the column of {table.name}"
                    " holds text; list the texts wanted"
                )
            numbers = values.astype(np.float64)  # None of electrodes becomes NaN
            keep &= (numbers >= condition.min) & (numbers <= condition.max)
        else:
            wanted = condition if isinstance(condition, tuple) else (condition,)
            keep &= np.array([value in wanted for value in values.tolist()], dtype=bool)
        if not keep.any():
            known = ", ".join(map(str, dict.fromkeys(values.tolist())))
            raise ValueError(
                f"{table.path}: no row of {table.name} meets {option}.{name} = {condition!r}; the"
                f" column has {known[:300]}"
            )
    return keep


def electrode_columns(content: Any, path: Path, option: str | None) -> dict[str, Array]:
    """What the electrodes table says of each unit; None where a unit's electrodes differ.

    Args:
        content: the open file, with a units table.
        path: of the file, for messages.
        option: the units column that points at electrodes: by row, or by id where it holds
            numbers; ``electrodes`` by default, where it exists.

    Raises:
        ValueError: no such column, or an id that no electrode has.
    """
    units, electrodes = content.units, content.electrodes
    name = option or "electrodes"
    if name not in units.colnames or electrodes is None:
        if option is None:
            return {}
        raise ValueError(
            f"{path}: electrode = {option!r} needs an electrodes table and that column in /units,"
            f" which has {', '.join(units.colnames)}"
        )
    table = read_table(electrodes, path, "/general/extracellular_ephys/electrodes")
    column, stops = units[name], np.arange(1, len(units.id) + 1)
    if is_kind(column, "VectorIndex"):
        column, stops = column.target, np.asarray(column.data[:], dtype=np.int64)
    rows = np.asarray(column.data[:])
    if not is_kind(column, "DynamicTableRegion"):
        position = {value: row for row, value in enumerate(table.ids.tolist())}
        unknown = [value for value in rows.tolist() if value not in position]
        if unknown:
            raise ValueError(
                f"{path}: /units/{name} names electrode {unknown[0]!r}, which has no row among the"
                " electrodes; mend the file, or name another column with electrode"
            )
        rows = np.array([position[value] for value in rows.tolist()], dtype=np.int64)
    if rows.size and not 0 <= rows.min() <= rows.max() < len(table.ids):
        raise ValueError(f"{path}: /units/{name} points outside the {len(table.ids)} electrodes")
    groups = np.split(rows, stops[:-1])
    return {label: _agreed(values, groups) for label, values in table.columns.items()}


def _agreed(values: Array, groups: list[Array]) -> Array:
    """The value that all rows of a group have, else None."""
    out = np.empty(len(groups), dtype=object)
    for index, rows in enumerate(groups):
        found = set(values[rows].tolist())
        out[index] = found.pop() if len(found) == 1 else None
    return out

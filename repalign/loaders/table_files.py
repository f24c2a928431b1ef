"""Tables of responses: a row a stimulus, a column a neuroid, in .csv or .parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repalign.recording import STIMULUS

Array = np.ndarray[Any, np.dtype[Any]]

WITHOUT_NAME = "__index_level_0__"  # how pandas writes an index without a name


class CsvTable:
    """A csv, with or without a header, which is read whole.

    Attributes:
        numbers: all columns but the ids.
        ids: stimulus ids, where there is a column of them.

    Raises:
        ValueError: a column that is not numeric or has no name, a row without its id.
    """

    def __init__(self, path: Path) -> None:
        """Read the file."""
        import pandas as pd

        with path.open(encoding="utf-8-sig") as file:
            first = file.readline().rstrip("\n").split(",")
        has_header = any(not _is_number(cell) for cell in first)
        if has_header and not first[0].strip():
            raise ValueError(
                f"{path}: the first column has no name and may be row numbers; name it {STIMULUS}"
                " or leave it out"
            )
        frame = pd.read_csv(path, header=0 if has_header else None, dtype={STIMULUS: str})
        self.path, self.ids = path, None
        if has_header and STIMULUS in frame.columns:
            self.ids = _checked_ids(path, frame.pop(STIMULUS).tolist())
        wrong = [str(name) for name in frame.columns if frame[name].dtype.kind not in "fiub"]
        if wrong:
            raise ValueError(f"{path}: column {wrong[0]!r} is not numeric")
        self.numbers: Array = frame.to_numpy(dtype=np.float64)

    def __reduce__(self) -> tuple[type[CsvTable], tuple[Path]]:
        """Keep the values out of the pickle, which dask makes of whatever reads a block."""
        return CsvTable, (self.path,)


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip() or "nan")
    except ValueError:
        return False
    return True


def _checked_ids(path: Path, values: Sequence[Any]) -> tuple[str, ...]:
    without = [row for row, value in enumerate(values) if value is None or value != value]
    if without:
        raise ValueError(f"{path}: row {without[0] + 1} has no {STIMULUS}")
    return tuple(str(value) for value in values)


class ParquetTable:
    """A Parquet file, of which the row groups and columns asked for are read.

    Attributes:
        shape: rows and columns of numbers.
        dtype: float32 where all columns are, else float64; a null is NaN.
        ids: stimulus ids, where there is a column of them.

    Raises:
        ValueError: a column that is not numeric, has no name, or stands twice; a row without id.
    """

    def __init__(self, path: Path) -> None:
        """Read the file's schema and its ids."""
        from pyarrow import types
        from pyarrow.parquet import ParquetFile

        self.path, self.ids = path, None
        with ParquetFile(path) as file:
            fields = {field.name: field.type for field in file.schema_arrow}
            if len(fields) != len(file.schema_arrow):
                raise ValueError(f"{path}: two columns have the same name")
            groups = range(file.num_row_groups)
            rows = [file.metadata.row_group(group).num_rows for group in groups]
            if fields.pop(STIMULUS, None) is not None:
                self.ids = _checked_ids(path, file.read([STIMULUS])[STIMULUS].to_pylist())
        if WITHOUT_NAME in fields:
            raise ValueError(
                f"{path}: the table's index has no name and may be row numbers; name it {STIMULUS}"
                " or leave it out (index=False)"
            )
        numeric = (types.is_integer, types.is_floating, types.is_boolean)
        wrong = [name for name, kind in fields.items() if not any(is_(kind) for is_ in numeric)]
        if wrong:
            raise ValueError(f"{path}: column {wrong[0]!r} is not numeric")
        single = all(types.is_float32(kind) for kind in fields.values())
        self._columns, self._ends = list(fields), [0, *np.cumsum(rows, dtype=int).tolist()]
        self.dtype: np.dtype[Any] = np.dtype(np.float32 if single else np.float64)
        self.shape = (int(self._ends[-1]), len(fields))

    def read(self, axis: int, start: int, stop: int) -> Array:
        """These rows (axis 0) or columns (axis 1)."""
        from pyarrow.parquet import ParquetFile

        first, last = (start, stop) if axis == 0 else (0, self.shape[0])
        columns = self._columns if axis == 0 else self._columns[start:stop]
        bounds = enumerate(zip(self._ends[:-1], self._ends[1:], strict=True))
        groups = [group for group, (begin, end) in bounds if begin < last and end > first]
        with ParquetFile(self.path) as file:
            table = file.read_row_groups(groups, columns=columns)
        table = table.slice(first - self._ends[groups[0]], last - first)
        out = np.empty((last - first, len(columns)), self.dtype)
        for position, name in enumerate(columns):
            out[:, position] = table.column(name).to_numpy()
        return out

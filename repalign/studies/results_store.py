"""Results on disk: Parquet parts, each whole or absent, whose names hold the hash of their content.

A part that was damaged is named and left out, so that its rows are computed again. One process
writes, under a lock; any may read. Of two rows with one key a value counts more than an error,
and the later more than the earlier.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repalign.local_files import write_file

if TYPE_CHECKING:
    import pyarrow as pa

PARTS = "parts"
NAME = re.compile(r"part-(\d{6,})-([0-9a-f]{16})\.parquet")
NOT_RECORDED = "not_recorded.json"
MOST_PARTS = 64  # before they are made one

TEXT = (
    *("key", "kind", "dataset", "selection", "species", "region", "subject", "model", "layer"),
    *("metric", "metric_parameters", "ceiling_kind", "version", "note", "error"),
)
NUMBERS = (
    *("value", "null_mean", "null_sd", "ceiling_low", "ceiling_high", "ceiling_error"),
    *("ci_low", "ci_high", "p", "seconds"),
)
COUNTS = ("n_stimuli", "n_neuroids", "seed")
FLAGS = ("is_distance",)
COLUMNS = (*TEXT, *NUMBERS, *COUNTS, *FLAGS)


def schema() -> pa.Schema:
    """The columns of a part."""
    import pyarrow as pa

    kinds = {TEXT: pa.string(), NUMBERS: pa.float64(), COUNTS: pa.int64(), FLAGS: pa.bool_()}
    return pa.schema([(name, kind) for names, kind in kinds.items() for name in names])


def write_part(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Publish rows as one more part of a study's folder, in one step.

    Args:
        folder: of the study; the caller holds its lock.
        rows: with keys among the columns; what is missing is null.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    import pyarrow as pa

    columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
    return _publish(folder, pa.table(columns, schema=schema()))


def _publish(folder: Path, table: pa.Table) -> Path:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    content = buffer.getvalue()
    number = 1 + max((_number(path) for path in _parts(folder)), default=0)
    digest = sha256(content).hexdigest()[:16]
    path = folder / PARTS / f"part-{number:06d}-{digest}.parquet"
    try:
        write_file(path, content)
    except OSError as error:
        raise OSError(
            f"could not write results into {path.parent}: {error.strerror or error}; what was"
            " written before is kept: make room and run again"
        ) from error
    return path


def _parts(folder: Path) -> list[Path]:
    """The parts in the order they were written."""
    found = [path for path in (folder / PARTS).glob("part-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=_number)


def _number(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


@dataclass(frozen=True)
class Stored:
    """All rows of a study, one a key, and the parts that could not be read.

    Args:
        table: the rows, with those of earlier configurations.
        damaged: paths of parts whose content is not what was written.
    """

    table: pa.Table
    damaged: tuple[Path, ...]

    def errors(self) -> dict[str, str]:
        """The error by key, of the rows that have one."""
        pairs = zip(self.table["key"].to_pylist(), self.table["error"].to_pylist(), strict=True)
        return {key: error for key, error in pairs if error is not None}

    def done(self) -> set[str]:
        """The keys that have a result."""
        pairs = zip(self.table["key"].to_pylist(), self.table["error"].to_pylist(), strict=True)
        return {key for key, error in pairs if error is None}


def read_stored(folder: Path) -> Stored:
    """Read the parts of a study; a damaged one is left out, and named.

    Args:
        folder: of the study; it need not exist.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables, damaged = [schema().empty_table()], []
    for path in _parts(folder):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # made one with others meanwhile
            return read_stored(folder)
        match = NAME.fullmatch(path.name)
        if match is None or sha256(content).hexdigest()[:16] != match[2]:
            damaged.append(path)
            continue
        table = pq.read_table(pa.BufferReader(content))
        tables.append(table.select(COLUMNS).cast(schema()))
    whole = pa.concat_tables(tables)
    kept: dict[str, int] = {}
    with_error = whole["error"].is_null().to_pylist()
    for row, (key, fine) in enumerate(zip(whole["key"].to_pylist(), with_error, strict=True)):
        if fine or key not in kept or not with_error[kept[key]]:
            kept[key] = row
    if len(kept) < len(whole):
        whole = whole.take(sorted(kept.values()))
    return Stored(whole, tuple(damaged))


def say_damaged(stored: Stored) -> None:
    """Name the damaged parts on stderr."""
    for path in stored.damaged:
        print(
            f"warning: results {path} are damaged and not used; a run computes them again",
            file=sys.stderr,
        )


def set_aside(stored: Stored) -> None:
    """Rename the damaged parts, so that they are named once; the caller holds the lock."""
    for path in stored.damaged:
        path.replace(path.with_name(f"{path.name}.damaged"))


def make_one(folder: Path, *, most: int = MOST_PARTS) -> None:
    """Replace many parts by one; the caller holds the lock.

    Killed in between, the rows stand twice, which reading them does not mind.
    """
    parts = _parts(folder)
    if len(parts) <= most:
        return
    stored = read_stored(folder)
    _publish(folder, stored.table)
    for path in parts:
        if path not in stored.damaged:
            path.unlink()


def log_event(folder: Path, event: str, **said: Any) -> None:
    """Add a line to the study's log, from which can be counted what was computed and published."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": event, **said}) + "\n")


def write_failures(folder: Path, failures: Mapping[str, str]) -> None:
    """Keep why models could not be recorded, by recording and model."""
    path = folder / NOT_RECORDED
    if failures or path.exists():
        write_file(path, json.dumps(failures, indent=1))


def read_failures(folder: Path) -> dict[str, str]:
    """Why models of the last run could not be recorded."""
    path = folder / NOT_RECORDED
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found

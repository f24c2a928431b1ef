"""The stimulus set of a BrainIO recording: a csv table and a zip or folder of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from repalign.loaders.image_files import find_images
from repalign.recording import RESERVED
from repalign.stimuli import Stimuli

ID_COLUMNS = ("stimulus_id", "image_id")  # the second in older files
FILE_COLUMNS = ("filename", "image_path_within_store", "stimulus_path_within_store")

Array = np.ndarray[Any, np.dtype[Any]]


class StimulusTable(NamedTuple):
    """One row a stimulus: its id, its image file where the table names one, its labels."""

    path: Path
    ids: list[str]
    files: list[str] | None
    labels: dict[str, Array]

    def rows(self, ids: Sequence[str], source: Path) -> Array:
        """The table's row of each stimulus id.

        Raises:
            ValueError: the table lacks one of them.
        """
        place = {name: row for row, name in enumerate(self.ids)}
        missing = [name for name in dict.fromkeys(ids) if name not in place]
        if missing:
            raise ValueError(
                f"{self.path} lacks {len(missing)} stimuli that {source} shows, such as"
                f" {missing[0]!r} (its first id is {self.ids[0]!r}); take the stimulus set of this"
                " assembly"
            )
        return np.array([place[name] for name in ids], dtype=np.int64)


def as_text(values: Array) -> Array:
    """Any values as text; whole numbers without a decimal point, missing ones empty."""

    def text(value: Any) -> str:
        if isinstance(value, bytes):
            return value.decode("utf-8", errors="replace")
        if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
            return ""
        is_whole = isinstance(value, float | np.floating) and float(value).is_integer()
        return str(int(value)) if is_whole else str(value)

    return np.array([text(value) for value in values], dtype=object)


def as_column(values: Array) -> Array:
    """Numbers as they are, in the machine's byte order; all else as text."""
    if values.dtype.kind in "fiub":
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    return as_text(values)


def free_name(name: str, taken: Collection[str], prefix: str) -> str:
    """A name that a store can hold and nothing else has: with the prefix where it is taken."""
    name = name.replace("/", "_")
    while name in taken:
        name = f"{prefix}_{name}"
    return name


def read_table(path: Path, id_name: str) -> StimulusTable:
    """Read the csv of a stimulus set.

    Args:
        path: of the csv.
        id_name: what the assembly calls its stimuli; the column of the same name is used where
            there is one, else ``stimulus_id`` or ``image_id``.

    Raises:
        ValueError: it is no csv, has no ids, or has one of them twice.
    """
    import pandas as pd

    text = (*ID_COLUMNS, *FILE_COLUMNS)
    try:
        table = pd.read_csv(path, low_memory=False)
        named = pd.read_csv(  # an id "NA" is an id, and "007" is not 7
            path, usecols=lambda name: name in text, dtype=str, keep_default_na=False
        )
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is no readable csv: {error}") from error
    columns = [str(name) for name in table.columns]
    table.columns = pd.Index(columns)
    found = [name for name in (id_name, *ID_COLUMNS) if name in named.columns]
    if not found:
        raise ValueError(
            f"{path} has columns {', '.join(columns)}; expected stimulus_id (or image_id)"
        )
    ids = [str(value) for value in named[found[0]]]
    empty = [row for row, name in enumerate(ids) if not name]
    if empty or not ids:
        where = f"no {found[0]} in row {empty[0] + 1}" if empty else "no rows"
        raise ValueError(f"{path} has {where}; one row a stimulus with its id is expected")
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(
            f"{path}: {found[0]} {twice[0]!r} stands in more than one row, as do {len(twice) - 1}"
            " others; ids must be unique"
        )
    file_column = next((name for name in FILE_COLUMNS if name in columns), None)
    files = None if file_column is None else [str(value) for value in named[file_column]]
    labels = {
        name: as_column((named if name in text else table)[name].to_numpy())
        for name in columns
        if name not in (found[0], file_column)
    }
    return StimulusTable(path, ids, files, labels)


def read_stimuli(
    images: Path, table: StimulusTable | None, shown: Collection[str], degrees: float | None
) -> Stimuli:
    """The images of the stimuli that were shown, in the order of the table.

    A table names each image by its path inside the zip or folder, or by its file name; without a
    table, or without such a column in it, the file name without suffix is the stimulus id.

    Raises:
        ValueError: an image is missing, or two could be meant.
    """
    wanted = set(shown)
    ids = list(dict.fromkeys(shown)) if table is None else table.ids
    rows = [row for row, name in enumerate(ids) if name in wanted]
    names = ids if table is None or table.files is None else table.files
    asked = f"which {table.path} names" if table is not None else "a stimulus of the assembly"
    files = find_images(
        images,
        [names[row] for row in rows],
        asked=asked,
        remedy="give the path inside the zip or folder as filename in the stimulus table",
    )
    labels: dict[str, Array] = {}
    for name, column in table.labels.items() if table is not None else ():
        labels[free_name(name, {*RESERVED, *labels}, "stimulus")] = column[rows]
    return Stimuli(tuple(ids[row] for row in rows), files, degrees, labels)

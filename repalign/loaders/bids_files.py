"""Files of a BIDS dataset: entities in names, the runs of one subject, tables and sidecars."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repalign.stimuli import natural_key

Array = np.ndarray[Any, np.dtype[Any]]
Row = dict[str, str]

MISSING = "n/a"
NO_VALUE_AT_FIRST = (
    "_derivative1",
    "_derivative1_power2",
    "framewise_displacement",
    "dvars",
    "rmsd",
)
CONFOUNDS = ("desc-confounds_timeseries.tsv", "desc-confounds_regressors.tsv")
TIME_TOLERANCE = 1e-3  # seconds


@dataclass(frozen=True)
class Run:
    """One run's image and what its name says."""

    bold: Path
    entities: dict[str, str]

    @property
    def label(self) -> str:
        """The name up to the run, such as ``sub-01_task-x_run-1``."""
        kept = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run")
        return "_".join(f"{key}-{self.entities[key]}" for key in kept if key in self.entities)

    @property
    def root(self) -> Path:
        """The folder of the dataset that the image lies in."""
        own = f"sub-{self.entities.get('sub')}"
        above = [parent.parent for parent in self.bold.parents if parent.name == own]
        return above[0] if above else self.bold.parent


def entities_of(name: str) -> dict[str, str]:
    """``sub-01_task-x_bold.nii.gz`` → ``{"sub": "01", "task": "x"}``."""
    parts = name.split("_")[:-1]
    return dict(part.split("-", 1) for part in parts if "-" in part)


def find_runs(
    folder: Path,
    *,
    subject: str | None,
    task: str | None,
    sessions: Sequence[str] | None,
    runs: Sequence[str] | None,
    space: str | None,
    desc: str,
) -> list[Run]:
    """The runs of one subject and task, by session and run.

    Raises:
        ValueError: none, or several subjects, tasks, spaces or images of one run.
    """
    found = [
        Run(path, entities_of(path.name))
        for path in sorted(folder.rglob("*_bold.nii*"))
        if path.name.endswith(("_bold.nii", "_bold.nii.gz"))
    ]
    found = [run for run in found if run.entities.get("desc", "") == desc]
    if not found:
        what = f"desc-{desc}" if desc else "no desc entity"
        raise ValueError(f"{folder} holds no *_bold.nii or .nii.gz with {what}; set desc")
    wanted = {
        "sub": None if subject is None else [subject.removeprefix("sub-")],
        "task": None if task is None else [task],
        "space": None if space is None else [space],
        "ses": None if sessions is None else [name.removeprefix("ses-") for name in sessions],
        "run": None if runs is None else [name.removeprefix("run-") for name in runs],
    }
    options = {"sub": "subject", "task": "task", "space": "space", "ses": "sessions", "run": "runs"}
    for key, values in wanted.items():
        present = sorted({run.entities.get(key, "") for run in found}, key=natural_key)
        if values is None:
            if key in ("sub", "task", "space") and len(present) > 1:
                raise ValueError(
                    f"{folder} holds several of {key}-: {', '.join(p or 'none' for p in present)};"
                    f" set {options[key]} under [options]"
                )
            continue
        lacking = [value for value in values if value not in present]
        if lacking:
            raise ValueError(
                f"{folder} has no {key}-{lacking[0]} ({options[key]}); there is"
                f" {', '.join(p or 'none' for p in present)}"
            )
        found = [run for run in found if run.entities.get(key, "") in values]
    found.sort(key=lambda run: natural_key(run.label))
    for first, second in itertools.pairwise(found):
        if first.label == second.label:
            raise ValueError(f"{first.bold} and {second.bold.name} are images of one run; keep one")
    return found


def inherited_files(roots: Sequence[Path], run: Run, ending: str) -> list[Path]:
    """Files with an ending that apply to a run, the closest first (BIDS' inheritance).

    A file applies if all entities of its name are the run's own; it may stand above the run's
    folder, or in the same place of another root.
    """
    found: list[tuple[int, int, Path]] = []
    for rank, root in enumerate(roots):
        levels = [root]
        if "sub" in run.entities:
            levels.append(root / f"sub-{run.entities['sub']}")
        if "ses" in run.entities:
            levels.append(levels[-1] / f"ses-{run.entities['ses']}")
        levels += [levels[-1] / "func"]
        for level in levels:
            for path in sorted(level.glob(f"*{ending}")):
                names = entities_of(path.name.removesuffix(ending) + "_x")
                own = all(run.entities.get(key) == value for key, value in names.items())
                if own and path.is_file():
                    found.append((rank, -len(names), path))
    return [path for *_, path in sorted(found, key=lambda item: item[:2])]


def read_table(path: Path) -> list[Row]:
    """Rows of a tab-separated file, all cells as text.

    Raises:
        ValueError: no text, no rows, or a row of another length than the header.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file: {error}") from error
    cells = [[cell.strip() for cell in line.split("\t")] for line in lines if line.strip()]
    if len(cells) < 2:
        raise ValueError(f"{path} has no rows")
    header = cells[0]
    if len(set(header)) != len(header):
        raise ValueError(f"{path} has a column twice: {', '.join(header)}")
    for number, row in enumerate(cells[1:], start=1):
        if len(row) != len(header):
            raise ValueError(
                f"{path}: row {number} has {len(row)} cells, the header {len(header)}; cells are"
                " separated by tabs"
            )
    return [dict(zip(header, row, strict=True)) for row in cells[1:]]


def number(path: Path, row: Row, column: str, place: int) -> float:
    """A finite number of a table's row."""
    try:
        value = float(row[column])
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"{path}: {column} of row {place} is {row[column]!r}, expected a number")
    return value


def run_confounds(
    run: Run, roots: Sequence[Path], patterns: Sequence[str], n_volumes: int
) -> Array:
    """The confounds of a run that patterns choose, (volume, confound); none without patterns.

    Raises:
        ValueError: there is no table of confounds, or as `read_confounds`.
    """
    if not patterns:
        return np.zeros((n_volumes, 0))
    tables = [path for ending in CONFOUNDS for path in inherited_files(roots, run, ending)]
    if not tables:
        raise ValueError(f"{run.label}: no {CONFOUNDS[0]} in {run.root}; remove confounds")
    return read_confounds(tables[0], patterns, n_volumes)[1]


def read_confounds(path: Path, patterns: Sequence[str], n_volumes: int) -> tuple[list[str], Array]:
    """Columns by name or pattern (``trans_*``), of shape (volume, confound).

    The first volume of a temporal derivative, framewise displacement or DVARS has no value, as it
    has no predecessor; it counts as 0.

    Raises:
        ValueError: no such column, another number of rows, or a value that is missing elsewhere.
    """
    rows = read_table(path)
    if len(rows) != n_volumes:
        raise ValueError(f"{path} has {len(rows)} rows, its run has {n_volumes} volumes")
    names: list[str] = []
    for pattern in patterns:
        matching = [name for name in rows[0] if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            near = difflib.get_close_matches(pattern, list(rows[0]), n=3, cutoff=0.5)
            hint = (
                f"did you mean {', '.join(near)}?" if near else f"there are {len(rows[0])} others"
            )
            raise ValueError(f"{path} has no column {pattern!r} (confounds); {hint}")
        names += [name for name in matching if name not in names]
    values = np.zeros((n_volumes, len(names)))
    for column, name in enumerate(names):
        starts_late = name.endswith(NO_VALUE_AT_FIRST)
        for place, row in enumerate(rows):
            if not (place == 0 and starts_late and row[name] in (MISSING, "")):
                values[place, column] = number(path, row, name, place + 1)
    return names, values


def repetition_time(run: Run, image: Any, sidecars: Sequence[Path]) -> tuple[float, float | None]:
    """Seconds between volumes, and of the time to which they were corrected (``StartTime``).

    Raises:
        ValueError: the header and the sidecar disagree, or neither says it.
    """
    unit = image.header.get_xyzt_units()[1]
    header = float(image.header.get_zooms()[3]) * {"msec": 1e-3, "usec": 1e-6}.get(unit, 1.0)
    said: dict[str, tuple[float, Path]] = {}
    for path in sidecars:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"{path} is no JSON: {error}") from error
        for key in ("RepetitionTime", "StartTime"):
            value = content.get(key) if isinstance(content, dict) else None
            if isinstance(value, int | float) and key not in said:
                said[key] = float(value), path
    if "RepetitionTime" not in said:
        if header <= 0:
            raise ValueError(
                f"{run.bold}: its header gives no repetition time and no sidecar has"
                " RepetitionTime; add it to the .json beside it"
            )
        return header, said["StartTime"][0] if "StartTime" in said else None
    value, path = said["RepetitionTime"]
    if value <= 0 or (header > 0 and abs(value - header) > TIME_TOLERANCE):
        raise ValueError(
            f"{run.bold}: its header says a repetition time of {header:g} s, {path} says"
            f" RepetitionTime = {value:g}; correct the wrong one"
        )
    return value, said["StartTime"][0] if "StartTime" in said else None

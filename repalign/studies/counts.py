"""How far a study is: what is done, to do, failed, or left over from an earlier configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repalign.recording_run import say_time
from repalign.studies.configuration import StudyConfig, read_study
from repalign.studies.grid import Grid
from repalign.studies.grid_building import build_grid
from repalign.studies.results_store import Stored, read_failures, read_stored, say_damaged
from repalign.studies.scheduling import seconds_by_metric

SHOWN_ERRORS = 5


@dataclass(frozen=True)
class StudyStatus:
    """Counts of cells.

    Args:
        cells: in the grid as it is configured now.
        done: with a value.
        failed: with an error; the next run tries them again.
        to_do: neither.
        not_recorded: of those to do, cells whose layer has to be recorded first.
        ceilings, ceilings_done, ceilings_failed: the same of noise ceilings of recorded layers.
        stale: stored results whose key is in the grid no more, since something that they depend on
            was changed or taken out; they are never served, and come back with what was changed.
        seconds: that one process needs for what is to do; None where a metric was never timed.
        errors: some of them, with how many cells each has.
        models_not_recorded: why, by recording and model.
        damaged: parts whose content is not what was written.
        left_out: what was asked for and cannot be compared.
    """

    cells: int
    done: int
    failed: int
    to_do: int
    not_recorded: int
    ceilings: int
    ceilings_done: int
    ceilings_failed: int
    stale: int
    seconds: float | None
    errors: Mapping[str, int]
    models_not_recorded: Mapping[str, str]
    damaged: tuple[str, ...]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """What JSON holds."""
        return asdict(self)

    def __str__(self) -> str:
        """Return some lines of text."""
        lines = [
            f"{self.done:,} of {self.cells:,} cells done, {self.to_do:,} to do,"
            f" {self.failed:,} failed, {self.stale:,} stored results stale"
        ]
        if self.to_do and self.seconds is not None:
            lines[0] += f"; about {say_time(self.seconds)} left in one process"
        if self.not_recorded:
            lines.append(f"{self.not_recorded:,} cells wait for layers that are not recorded")
        lines += [f"failed ({count} rows): {error}" for error, count in self.errors.items()]
        lines += [f"not recorded: {who}: {why}" for who, why in self.models_not_recorded.items()]
        lines += [f"left out: {reason}" for reason in self.left_out]
        return "\n".join(lines)


def study_status(source: str | Path | Mapping[str, Any] | StudyConfig) -> StudyStatus:
    """Count what a study has and lacks, also while it runs.

    Raises:
        ValueError: the configuration or its grid is wrong.
    """
    config = read_study(source)
    grid = build_grid(config)
    stored = read_stored(config.folder)
    say_damaged(stored)
    return status_of(grid, stored, not_recorded=read_failures(config.folder))


def status_of(grid: Grid, stored: Stored, *, not_recorded: Mapping[str, str]) -> StudyStatus:
    """Count the cells of a grid that are stored, and the stored ones that are not in it."""
    cells, ceilings = grid.keys()
    waiting = sum(len(one.keys) for one in grid.blocks() if not one.layer.fingerprint)
    done, errors = stored.done(), stored.errors()
    failed = cells & errors.keys()
    current = cells | ceilings
    said: dict[str, int] = {}
    for key in current & errors.keys():
        said[errors[key]] = said.get(errors[key], 0) + 1
    most = sorted(said.items(), key=lambda one: (-one[1], one[0]))[:SHOWN_ERRORS]
    costs = seconds_by_metric(stored)
    seconds: float | None = 0.0
    for block in grid.blocks():
        left = sum(not key or key not in done for key in block.keys.values())
        name = grid.metrics[block.metric].name
        cost = costs.get((block.recording.name, block.recording.selection, name))
        if left and seconds is not None:
            seconds = None if cost is None else seconds + left * cost
    return StudyStatus(
        cells=len(cells) + waiting,
        done=len(cells & done),
        failed=len(failed),
        to_do=len(cells - done - failed) + waiting,
        not_recorded=waiting,
        ceilings=len(ceilings),
        ceilings_done=len(ceilings & done),
        ceilings_failed=len(ceilings & errors.keys()),
        stale=len((done | errors.keys()) - current),
        seconds=seconds,
        errors=dict(most),
        models_not_recorded=dict(not_recorded),
        damaged=tuple(map(str, stored.damaged)),
        left_out=grid.left_out,
    )

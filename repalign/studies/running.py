"""Running a study: networks are recorded, then the cells that have no result are computed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repalign.activations import record
from repalign.clusters import workers_of
from repalign.handing_out import hand_out
from repalign.local_files import locked
from repalign.recording_run import say_time
from repalign.studies.configuration import StudyConfig, keep_configuration, read_study
from repalign.studies.counts import StudyStatus, status_of
from repalign.studies.grid import Grid
from repalign.studies.grid_building import build_grid, open_selected
from repalign.studies.results_store import (
    log_event,
    make_one,
    read_stored,
    say_damaged,
    set_aside,
    write_failures,
    write_part,
)
from repalign.studies.room import check_room
from repalign.studies.scheduling import cut_tasks, first_tasks, left_to_do, seconds_by_metric
from repalign.studies.tasks import Row, Task, run_task
from repalign.studies.workers import StudyWorkers

if TYPE_CHECKING:
    from distributed import Client

PUBLISH_S = 5.0  # between two parts
PUBLISH_ROWS = 20_000
Compute = Callable[[Sequence[Task]], Iterator[list[Row]]]


def run_study(
    source: str | Path | Mapping[str, Any] | StudyConfig,
    *,
    workers: int | None = None,
    scheduler: str | Client | None = None,
    progress: bool = True,
) -> StudyStatus:
    """Compute what a study has no results of yet; a run that was killed goes on where it was.

    Recordings are ingested by this process. Networks are recorded first, one after the other, on
    those workers that carry the Dask resource ``GPU``, where there are any. Then each layer is read
    once and serves all its metrics, in tasks of some seconds, on workers without GPUs, where there
    are any. This process alone writes results, every few seconds; a second run of the same study
    waits for the first.

    Values are the same, bit for bit, for any number of workers: each layer is compared by itself,
    on the CPU and in one thread. Activations are recorded once, and their content is in the key of
    a cell; those of another device or number of threads are the same up to rounding.

    Args:
        source: path of a TOML file, its content, or a `StudyConfig`.
        workers: processes of this machine; by default what ``[run]`` or ``[cluster]`` says, else
            this process alone.
        scheduler: address of a Dask scheduler, a `distributed.Client`, or jobs of a batch system
            such as ``slurm:jobs=4,cores=8,memory=32GB``; their workers have to see the stores.
        progress: say on stderr what is done.

    Returns:
        How many cells are done, failed, or to do.

    Raises:
        ValueError: the configuration or its grid is wrong.
        OSError: the disk has no room for what is to come, or fills up; what was published is kept.
        ConnectionError: no scheduler or no worker answers.
        RuntimeError: a worker has another version of repalign, or a batch system refuses jobs.

    Example:
        >>> run_study("study.toml", workers=2)   # doctest: +SKIP
    """
    config = read_study(source)
    grid = build_grid(config, load=True)
    folder = config.folder
    with locked(folder):
        keep_configuration(config)
        stored = read_stored(folder)
        say_damaged(stored)
        set_aside(stored)
        make_one(folder)
        check_room(grid, folder, stored.done())
        grid = grid.looked_up()
        with StudyWorkers(config, workers=workers, scheduler=scheduler) as staff:
            failures = _record_missing(grid, config, staff, progress=progress)
            grid = grid.looked_up()
            if left_to_do(grid, stored.done()):
                compute, count = _computing(staff.client("comparing"))
                _compute_all(grid, folder, compute, count, progress=progress)
        make_one(folder)
        stored = read_stored(folder)
    return status_of(grid, stored, not_recorded=failures)


def _record_missing(
    grid: Grid, config: StudyConfig, staff: StudyWorkers, *, progress: bool
) -> dict[str, str]:
    """Record the layers that are missing; why a model could not be, by recording and model."""
    failures: dict[str, str] = {}
    for group in grid.groups:
        if not group.missing:
            continue
        shown = open_selected(group.recording.store, group.recording.conditions, None)
        client = staff.client("recording")
        try:
            record(
                group.model,
                stimuli=shown,
                layers=group.missing,
                memory=config.run.memory,
                scheduler=client,
                progress=progress,
                **config.where,
            )
        except (ValueError, RuntimeError) as error:
            failures[f"{group.recording}: {group.model}"] = " ".join(str(error).split())
            print(f"warning: {group.model} is not recorded: {error}", file=sys.stderr)
    write_failures(config.folder, failures)
    return failures


def _computing(client: Client | None) -> tuple[Compute, int]:
    """How tasks are computed, here or by workers, and the number of workers."""
    if client is None:
        return lambda tasks: map(run_task, tasks), 1
    there = client

    def spread(tasks: Sequence[Task]) -> Iterator[list[Row]]:
        for _, rows in hand_out(there, run_task, tasks, gpus=False):
            yield rows

    return spread, len(workers_of(client, gpus=False))


def _compute_all(
    grid: Grid, folder: Path, compute: Compute, workers: int, *, progress: bool
) -> None:
    """Some layers of each recording that was never timed, then the rest in tasks of seconds."""
    stored = read_stored(folder)
    costs = seconds_by_metric(stored)
    tasks, rest = first_tasks(left_to_do(grid, stored.done()), costs, workers=workers)
    total = sum(len(one.keys) for *_, wanted in rest for one in wanted)
    total += sum(task.cells for task in tasks)
    with _publishing(folder, total, show=progress) as publisher:
        for rows in compute(tasks):
            publisher.add(rows)
    if rest:
        costs = seconds_by_metric(read_stored(folder))
        tasks = cut_tasks(rest, costs, workers=workers)
        with _publishing(folder, total, done=publisher.done, show=progress) as publisher:
            for rows in compute(tasks):
                publisher.add(rows)


class _Publisher:
    """Collects rows and publishes them every few seconds."""

    def __init__(self, folder: Path, total: int, *, done: int, show: bool) -> None:
        self.folder, self.total, self.done, self.show = folder, total, done, show
        self.rows: list[Row] = []
        self.begin = self.last = time.monotonic()
        self.done_before = done
        self.failed = 0

    def add(self, rows: list[Row]) -> None:
        """Take the rows of one task."""
        self.rows += rows
        cells = sum(row["kind"] == "cell" for row in rows)
        self.done += cells
        self.failed += sum(row.get("error") is not None for row in rows)
        log_event(self.folder, "computed", cells=cells, rows=len(rows), first=rows[0]["key"])
        if time.monotonic() - self.last >= PUBLISH_S or len(self.rows) >= PUBLISH_ROWS:
            self.publish()

    def publish(self) -> None:
        """Write what has come in as a part."""
        rows, self.rows = self.rows, []
        self.last = time.monotonic()
        if not rows:
            return
        part = write_part(self.folder, rows)
        cells = sum(row["kind"] == "cell" for row in rows)
        log_event(self.folder, "published", part=part.name, cells=cells, rows=len(rows))
        if self.show:
            print(self._progress(), file=sys.stderr)

    def _progress(self) -> str:
        new = self.done - self.done_before
        left = (self.last - self.begin) / max(1, new) * (self.total - self.done)
        failed = f", {self.failed} failed" if self.failed else ""
        rest = f", about {say_time(left)} left" if self.done < self.total else ""
        return f"{self.done:,} of {self.total:,} cells{failed}{rest}"


@contextmanager
def _publishing(
    folder: Path, total: int, *, done: int = 0, show: bool = True
) -> Iterator[_Publisher]:
    """A publisher whose last rows are written however the block ends."""
    publisher = _Publisher(folder, total, done=done, show=show)
    try:
        yield publisher
    finally:
        publisher.publish()

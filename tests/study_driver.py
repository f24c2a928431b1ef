"""A driver of a study whose tasks take a while and are counted, for tests that interrupt it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dask
import dask_jobqueue  # noqa: F401 - before its configuration is changed for a while

from repalign import handing_out, recording_spread
from repalign.handing_out import Seat
from repalign.recording_run import RecordingRun
from repalign.studies import read_study, running, scheduling
from repalign.studies.running import run_study
from repalign.studies.tasks import Row, Task, run_task

UNREACHABLE = 3  # exit status of a driver that lost its scheduler
SECONDS = "REPALIGN_TEST_SECONDS"  # that a task takes at least
show_span = recording_spread._show_span


def slow_task(task: Task, seat: Seat | None = None) -> list[Row]:
    """The rows of a task; what was begun, and where, is noted beside the recording."""
    note(Path(task.recording.store).parent, "begun", seat, cells=task.cells)
    time.sleep(float(os.environ.get(SECONDS, "0.05")))
    return run_task(task, seat)


def noted_span(
    shards: Sequence[int], seat: Seat, run: RecordingRun, names: Sequence[str], where: str
) -> dict[str, Any]:
    """Shows stimuli to a network, and notes where; stores lie in a folder of that of the test."""
    note(run.folder.parent, "shown", seat, shards=list(shards))
    return show_span(shards, seat, run, names, where)


def note(folder: Path, event: str, seat: Seat | None, **more: Any) -> None:
    said = {"event": event, "where": seat and seat.address, **more}
    with (folder / "tasks.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(said) + "\n")


def noted(folder: Path, event: str = "begun") -> list[dict[str, Any]]:
    """What was noted of some event."""
    path = folder / "tasks.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [one for one in map(json.loads, lines) if one["event"] == event]


def be_slow(set_attribute: Callable[[Any, str, Any], None] = setattr) -> None:
    """Tasks of one layer that take a while, published soon: many moments to be killed at."""
    set_attribute(running, "run_task", slow_task)
    set_attribute(running, "PUBLISH_S", 0.2)
    set_attribute(scheduling, "TASK_S", 0.0)
    set_attribute(recording_spread, "_show_span", noted_span)
    set_attribute(handing_out, "LOSSES", 100)  # by chance the same task may be hit again


def drive(
    study: dict[str, Any],
    options: dict[str, Any],
    settings: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a study in this process, and end with a status that says how it went.

    Args:
        study: its configuration.
        options: of `run_study`.
        settings: of Dask.
        environment: variables, which jobs inherit.
    """
    os.environ.update(environment or {})
    be_slow()
    handing_out.RECONNECT_S = 1.0
    try:
        with dask.config.set(settings or {}):
            run_study(study, progress=False, **options)
    except ConnectionError:
        sys.exit(UNREACHABLE)


def events(study: dict[str, Any]) -> list[dict[str, Any]]:
    """The study's log."""
    log = read_study(study).folder / "log.jsonl"
    lines = log.read_text("utf-8").splitlines() if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def unpublished(logged: Sequence[dict[str, Any]]) -> int:
    """Cells that were computed since the last part."""
    count = 0
    for one in logged:
        count = 0 if one["event"] == "published" else count + one["cells"]
    return count


def total(logged: Sequence[dict[str, Any]], event: str = "computed") -> int:
    """Cells of all events of a kind."""
    return sum(one["cells"] for one in logged if one["event"] == event)

"""The workers of a study: those that record its networks, then those that compare."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from repalign.clusters import open_client
from repalign.job_queues import SYSTEMS, JobQueue
from repalign.studies.cluster_section import Work
from repalign.studies.configuration import StudyConfig, read_study

if TYPE_CHECKING:
    from distributed import Client


class StudyWorkers:
    """Workers that are started when the first work is there for them, and end with the block.

    Jobs that have GPUs end before those that compare are asked for, so that neither waits for the
    other at somebody's expense.

    Args:
        config: of the study.
        workers, scheduler: as `repalign.run_study` takes them; they count more than the file.
    """

    def __init__(
        self, config: StudyConfig, *, workers: int | None, scheduler: str | Client | None
    ) -> None:
        """Nothing is started yet."""
        self._places = _places(config, workers, scheduler)
        self._stack = ExitStack()
        self._client: Client | None = None
        self._work: Work | None = None

    def __enter__(self) -> Self:
        """Begin a block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the workers that were started."""
        self._stack.__exit__(kind, error, traceback)

    def client(self, work: Work) -> Client | None:
        """Of the workers for some work; None where this process does it."""
        place = self._places[work]
        if not place:
            return None
        if self._work is None or self._places[self._work] != place:
            self._stack.close()
            self._client = self._stack.enter_context(open_client(**place))
        self._work = work
        return self._client


def _places(
    config: StudyConfig, workers: int | None, scheduler: str | Client | None
) -> dict[Work, dict[str, Any]]:
    """What `open_client` is told for each work; nothing where this process does it."""
    run = config.run
    if workers is None and scheduler is None:
        workers, scheduler = run.workers, run.scheduler
        if config.cluster is not None:
            return {work: {"scheduler": queue} for work, queue in config.cluster.queues.items()}
    given: dict[str, Any] = {"workers": workers, "scheduler": scheduler}
    given = {name: value for name, value in given.items() if value is not None}
    return {"recording": given, "comparing": given}


def job_scripts(
    source: str | Path | Mapping[str, Any] | StudyConfig,
    *,
    workers: int | None = None,
    scheduler: str | Client | None = None,
) -> dict[str, str]:
    """The scripts of the jobs that a study would be run in, without submitting them.

    Returns:
        A script by what its jobs do: ``recording and comparing``, or one for each.

    Raises:
        ValueError: the study runs in no batch system, or a setting that this needs is not known.
    """
    queues: dict[JobQueue, list[str]] = {}
    for work, place in _places(read_study(source), workers, scheduler).items():
        queue = place.get("scheduler")
        if isinstance(queue, str) and queue.partition(":")[0] in SYSTEMS:
            queue = JobQueue.parse(queue)
        if not isinstance(queue, JobQueue):
            raise ValueError(
                "the study runs in no batch system: it has no [cluster], and scheduler= names none"
            )
        queues.setdefault(queue, []).append(work)
    return {" and ".join(works): queue.script() for queue, works in queues.items()}

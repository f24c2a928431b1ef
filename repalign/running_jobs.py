"""Jobs of a batch system while they run: submitted, waited for, replaced, and ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repalign.job_queues import ENDED, JobQueue

ENOUGH = 3  # jobs that ended without a worker, before it is said that none will come
REMIND_S = 300.0  # of jobs that wait


@contextmanager
def open_jobs(queue: JobQueue) -> Iterator[Any]:
    """A Dask cluster whose jobs are submitted, replaced when lost, and cancelled at the end.

    Raises:
        RuntimeError: the batch system refuses the job, such as for a wrong queue.
    """
    from distributed.core import Status

    with queue.cluster() as cluster:
        try:
            cluster.sync(_submit, cluster, queue.jobs)
        except (OSError, RuntimeError) as error:
            for job in cluster.workers.values():
                if job.status == Status.created:  # closing the cluster would wonder at it
                    job.status = Status.failed
            said = str(error).partition("stderr:")[2] or str(error)
            raise RuntimeError(
                f"{queue.system} did not take the job: {' '.join(said.split())}; a dry run prints"
                " the script that it was given"
            ) from None  # the traceback would keep the jobs
        cluster.adapt(minimum_jobs=queue.jobs, maximum_jobs=queue.jobs, interval="1s")
        yield cluster


async def _submit(cluster: Any, jobs: int) -> None:
    """Submit jobs, and raise what the batch system answers, which `scale` would only log."""
    while len(cluster.worker_spec) < jobs:
        cluster.worker_spec.update(cluster.new_worker_spec())
    await cluster


def watch_jobs(queue: JobQueue) -> Callable[[], None]:
    """A function to call now and then while the first worker is waited for.

    It raises a RuntimeError once some jobs have ended without one, as where the environment of the
    workers lacks Dask, and says every five minutes that the jobs wait.
    """
    logs = queue.log_folder()
    begin = last = time.monotonic()
    before = {path: path.stat().st_mtime for path in logs.glob("*")}

    def look() -> None:
        nonlocal last
        new = [one for one in logs.glob("*") if before.get(one) != one.stat().st_mtime]
        ended = [one for one in new if one.name.startswith(f"{ENDED}-")]
        if len(ended) >= min(queue.jobs, ENOUGH):
            said = _last_words([one for one in new if one not in ended])
            for path in ended:
                path.unlink(missing_ok=True)
            raise RuntimeError(
                f"{len(ended)} jobs of {queue.system} ended before their worker had joined; the"
                f" last words in {logs}: {said or 'none'}"
            )
        if time.monotonic() - last > REMIND_S:
            last = time.monotonic()
            minutes = round((last - begin) / 60)
            print(f"no worker of {queue.system} has joined in {minutes} min", file=sys.stderr)

    return look


def _last_words(logs: list[Path]) -> str:
    """The last line of the newest log that has one."""
    for path in sorted(logs, key=lambda one: one.stat().st_mtime, reverse=True):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip()]
        if said:
            return said[-1]
    return ""

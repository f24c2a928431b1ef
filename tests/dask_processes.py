"""Schedulers, workers and drivers of studies as processes of their own, to be killed by tests.

All are forked from one process that has imported what they need, so that each is there at once.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["repalign.studies.running", "pyarrow.parquet", "distributed"])


def start(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """A process that calls a function, in this environment."""
    process = CONTEXT.Process(target=_call, args=(dict(os.environ), function, arguments))
    process.daemon = True  # ends with this one at the latest
    process.start()
    return process


def _call(environment: Mapping[str, str], function: Callable[..., None], arguments: Any) -> None:
    os.environ.clear()
    os.environ.update(environment)
    logging.getLogger("distributed").setLevel("CRITICAL")
    function(*arguments)


def _serve_scheduler(address: Any) -> None:
    from distributed import Scheduler

    async def serve() -> None:
        async with Scheduler(host="127.0.0.1", dashboard_address=":0") as scheduler:
            address.send(scheduler.address)
            await scheduler.finished()

    asyncio.run(serve())


def _serve_worker(address: str, options: dict[str, Any]) -> None:
    import dask
    from distributed import Worker

    async def serve() -> None:
        options["local_directory"] = tempfile.mkdtemp()
        async with Worker(address, nthreads=1, **options) as worker:
            await worker.finished()

    with dask.config.set({"distributed.comm.timeouts.connect": "5s"}):
        asyncio.run(serve())


@dataclass
class Cluster:
    """A scheduler and its workers."""

    scheduler: ForkServerProcess
    address: str
    workers: list[ForkServerProcess] = field(default_factory=list)

    def add(self, count: int = 1, **options: Any) -> None:
        """Start workers, with options of `distributed.Worker`."""
        for _ in range(count):
            self.workers.append(start(_serve_worker, self.address, options))

    def alive(self) -> list[ForkServerProcess]:
        """Workers that run."""
        return [one for one in self.workers if one.is_alive()]

    def end_workers(self) -> None:
        """Kill the workers."""
        for process in self.workers:
            process.kill()
            process.join()
        self.workers.clear()

    def end(self) -> None:
        """Kill all."""
        self.scheduler.kill()
        self.scheduler.join()
        self.end_workers()

    def restart(self, workers: int) -> None:
        """Another scheduler, at another address, with some workers."""
        self.scheduler, self.address = start_scheduler()
        self.add(workers)


def start_scheduler() -> tuple[ForkServerProcess, str]:
    """A scheduler and its address."""
    here, there = CONTEXT.Pipe()
    return start(_serve_scheduler, there), here.recv()


@contextmanager
def cluster(workers: int = 0, **options: Any) -> Iterator[Cluster]:
    """A scheduler with some workers, which end with the block."""
    one = Cluster(*start_scheduler())
    try:
        one.add(workers, **options)
        yield one
    finally:
        one.end()

"""Dask workers: those of this machine or of a running scheduler, and work handed out to them.

Each worker has one task at a time, so that the tasks of one process never share its memory, its
threads or its GPU; what a lost worker had goes to another one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import repalign
from repalign.job_queues import SYSTEMS, JobQueue

if TYPE_CHECKING:
    from distributed import Client

Item = TypeVar("Item")

JOIN_S = 60.0  # until the first worker must be there
LOOK_S = 0.5  # between two looks at which workers are alive
RESULT_S = 10.0  # to fetch the result of a task that is done, which is small
LOSSES = 3  # workers that one task may lose


@dataclass(frozen=True)
class Seat:
    """Where a task runs.

    Args:
        address: of the worker.
        rank: the how manieth it is on its machine, so that each takes a GPU of its own.
        threads: that it may use.
    """

    address: str
    rank: int
    threads: int


@contextmanager
def open_client(
    *, workers: int | None = None, scheduler: str | Client | None = None
) -> Iterator[Client]:
    """A client of workers on this machine, of a scheduler that runs already, or of a batch system.

    Args:
        workers: processes on this machine, which share its cores and end with the block.
        scheduler: address such as ``tcp://head:8786``, a `distributed.Client`, or jobs of a batch
            system such as ``slurm:jobs=4,cores=8,memory=32GB`` (see `repalign.job_queues`), which
            end with the block.

    Raises:
        ValueError: neither or both are given, or fewer than one worker.
        ConnectionError: no scheduler answers, or no worker joins it.
        RuntimeError: a worker has another version of repalign, or none.
    """
    import distributed

    dask: Any = distributed  # states no types
    if (workers is None) == (scheduler is None):
        raise ValueError("give workers (processes on this machine) or a scheduler, one of them")
    if workers is not None:
        if workers < 1:
            raise ValueError(f"workers is {workers}, expected 1 or more")
        with (
            dask.LocalCluster(
                n_workers=0,
                dashboard_address=":0",
                scheduler_kwargs={"dashboard": False},
                silence_logs="ERROR",
            ) as cluster,
            dask.Client(cluster) as client,
            _local_workers(workers, cluster.scheduler_address),
        ):
            check_workers(client, workers)
            yield client
        return
    if isinstance(scheduler, dask.Client):
        check_workers(scheduler)
        yield scheduler
        return
    if isinstance(scheduler, str) and scheduler.partition(":")[0] in SYSTEMS:
        queue = JobQueue.parse(scheduler)
        with queue.open() as cluster, dask.Client(cluster) as client:
            print(f"waiting for jobs of {queue.system}; see {queue.logs}/", file=sys.stderr)
            check_workers(client)
            yield client
        return
    try:
        client = dask.Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Dask scheduler answers at {scheduler}: start one with `dask scheduler`, its"
            " workers with `dask worker ADDRESS`, and give the address that it prints"
        ) from error
    with client:
        check_workers(client)
        yield client


@contextmanager
def _local_workers(count: int, address: str) -> Iterator[None]:
    """Worker processes that share this machine's cores.

    They are programs of their own rather than forks or spawned copies of this one, so that a
    script needs no ``if __name__ == "__main__"``; they find the modules that this one finds. One
    whose scheduler is gone ends by itself.
    """
    threads = max(1, (os.cpu_count() or 1) // count)
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-dashboard"]
    command += ["--nthreads", str(threads), "--memory-limit", "0", "--death-timeout", "30"]
    settings = {
        "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error",
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
    }
    processes = [subprocess.Popen(command, env=os.environ | settings) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def check_workers(client: Client, count: int = 1) -> None:
    """Wait for the first workers, and see that all have this version of repalign.

    Raises:
        ConnectionError: they do not join within a minute; jobs in a queue are waited for.
        RuntimeError: one has another version, or none.
    """
    address = _address(client)
    try:
        client.wait_for_workers(count, timeout=None if _in_queue(client) else JOIN_S)
    except TimeoutError as error:
        raise ConnectionError(
            f"no worker has joined the scheduler at {address} in {JOIN_S:.0f} s: start some with"
            f" `dask worker {address}`"
        ) from error
    versions = client.run(_version)
    for address, version in versions.items():
        if version != repalign.__version__:
            has = f"repalign {version}" if version else "no repalign"
            raise RuntimeError(
                f"worker {address} has {has}, and this process {repalign.__version__}: install the"
                " same version in the environment that starts the workers"
            )


def _in_queue(client: Client) -> bool:
    """Whether the workers are jobs of a batch system, which may let them wait for hours."""
    return hasattr(client.cluster, "job_script")


def _address(client: Client) -> str:
    return str(client.scheduler_info()["address"])


def _version() -> str | None:
    try:
        import repalign
    except ImportError:
        return None
    return repalign.__version__


_version.__module__ = "__main__"  # sent whole: a worker without repalign could not look it up


def hand_out(
    client: Client,
    task: Callable[..., Any],
    items: Sequence[Item],
    *shared: Any,
) -> Generator[tuple[Item, Any], None, None]:
    """Run ``task(item, seat, *shared)`` for each item, one at a time on each worker.

    Workers may join and leave. What is shared is sent to each worker once.

    Args:
        client: of the workers.
        task: a function that can be pickled.
        items: small; what is large is shared.
        shared: further arguments.

    Yields:
        Item and result, as they are done.

    Raises:
        ConnectionError: all workers are gone and none comes back within a minute; jobs of a batch
            system are waited for.
        RuntimeError: a task lost three workers, or they could not load what is shared.
        Exception: what a task raised; tasks that have not begun are given up.
    """
    from distributed import wait
    from distributed.scheduler import KilledWorker

    dask: Any = client  # states no types
    wait_for: Any = wait
    waiting, running = deque(items), dict[Any, tuple[Item, Seat]]()
    losses: Counter[int] = Counter()
    ranks: dict[str, int] = {}
    sent: list[Any] | None = None
    seen: set[str] = set()  # workers
    alone_since = time.monotonic()

    def give_back(future: Any) -> None:
        """Put back what a lost worker had, whose results and copies of what is shared are gone."""
        nonlocal sent
        item, _ = running.pop(future)
        future.cancel()
        waiting.appendleft(item)
        sent = None
        losses[id(item)] += 1
        if losses[id(item)] == LOSSES:
            raise RuntimeError(
                f"{LOSSES} workers were lost in the same task: the system may have ended them for"
                " the memory they took, so allow each less (memory=)"
            )

    try:
        while waiting or running:
            for future in [one for one in running if one.status != "pending"]:
                try:
                    result = future.result(timeout=RESULT_S)
                except KilledWorker:
                    give_back(future)
                except (CancelledError, TimeoutError):  # the result was lost with its worker
                    if future.status == "error":
                        raise
                    give_back(future)
                else:
                    item, _ = running.pop(future)
                    yield item, result
            alive = client.scheduler_info()["workers"]
            for future in [one for one, (_, seat) in running.items() if seat.address not in alive]:
                give_back(future)
            if not seen <= set(alive):
                sent = None  # it may have held the only copy
            seen = set(alive)
            busy = {seat.address for _, seat in running.values()}
            for address in [one for one in alive if one not in busy][: len(waiting)]:
                seat = Seat(address, _rank(address, alive, ranks), alive[address]["nthreads"])
                sent = sent or _send(client, shared)
                if sent is None:
                    break  # workers have changed meanwhile: look again
                item = waiting.popleft()
                future = client.submit(task, item, seat, *sent, workers=[address], pure=False)
                running[future] = (item, seat)
            if running:
                alone_since = time.monotonic()
                with contextlib.suppress(TimeoutError, CancelledError):
                    wait_for(list(running), timeout=LOOK_S, return_when="FIRST_COMPLETED")
            elif waiting and not _in_queue(client) and time.monotonic() - alone_since > JOIN_S:
                raise ConnectionError(
                    f"all workers of {_address(client)} are gone; what is finished is kept: start"
                    " workers and run again"
                )
            elif waiting:
                time.sleep(LOOK_S)
    finally:
        dask.cancel([*running, *(sent or [])])


def _send(client: Client, shared: Sequence[Any]) -> list[Any] | None:
    """Send what is shared to all workers; None where one of them was lost meanwhile."""
    dask: Any = client
    before = set(client.scheduler_info()["workers"])
    try:
        return [dask.scatter(value, hash=False, broadcast=True) for value in shared]
    except Exception as error:  # of the worker's unpickling, which may be any
        if not before <= set(client.scheduler_info()["workers"]):
            return None
        raise RuntimeError(
            f"a worker could not load what it was sent: {error}; the modules that define it have"
            " to be installed in the environment of the workers"
        ) from error


def _rank(address: str, alive: dict[str, Any], ranks: dict[str, int]) -> int:
    """The least number that no other worker of the same machine has."""
    if address not in ranks:
        host = alive[address]["host"]
        taken = {ranks[one] for one in alive if one in ranks and alive[one]["host"] == host}
        ranks[address] = next(n for n in range(len(taken) + 1) if n not in taken)
    return ranks[address]

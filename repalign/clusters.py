"""Dask workers: those of this machine, of a running scheduler, or jobs of a batch system."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repalign.job_queues import GPU, SYSTEMS, JobQueue
from repalign.running_jobs import open_jobs, watch_jobs

if TYPE_CHECKING:
    from distributed import Client

CONNECT_S = 10.0  # until a scheduler must answer
JOIN_S = 60.0  # until the first worker must be there
GONE = (
    "the Dask scheduler at {} is gone; what is finished is kept: start it and its workers, and run"
    " again"
)
LOOK_S = 1.0  # between two looks at the jobs that are waited for


@contextmanager
def open_client(
    *, workers: int | None = None, scheduler: str | Client | JobQueue | None = None
) -> Iterator[Client]:
    """A client of workers on this machine, of a scheduler that runs already, or of a batch system.

    Args:
        workers: processes on this machine, which share its cores and end with the block.
        scheduler: address such as ``tcp://head:8786``, a `distributed.Client`, or jobs of a batch
            system such as ``slurm:jobs=4,cores=8,memory=32GB`` (a `repalign.job_queues.JobQueue`),
            which end with the block.

    Raises:
        ValueError: neither or both are given, or fewer than one worker.
        ConnectionError: no scheduler answers, or no worker joins it.
        RuntimeError: a worker has another version of repalign, or none; a batch system refuses the
            jobs, or they end before their workers have joined.
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
        scheduler = JobQueue.parse(scheduler)
    if isinstance(scheduler, JobQueue):
        look = watch_jobs(scheduler)
        with open_jobs(scheduler) as cluster, dask.Client(cluster) as client:
            print(
                f"waiting for jobs of {scheduler.system}; logs in {scheduler.log_folder()}",
                file=sys.stderr,
            )
            check_workers(client, look=look)
            yield client
        return
    try:
        client = dask.Client(scheduler, timeout=f"{CONNECT_S}s")
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


def check_workers(
    client: Client, count: int = 1, *, look: Callable[[], None] | None = None
) -> None:
    """Wait for the first workers, and see that all have this version of repalign.

    Args:
        client: of the workers.
        count: how many must be there.
        look: called now and then while jobs in a queue are waited for, which may take hours.

    Raises:
        ConnectionError: they do not join within a minute; jobs in a queue are waited for.
        RuntimeError: one has another version, or none.
    """
    address = address_of(client)
    with scheduler_needed(client, address):
        _await_workers(client, address, count, look)
        _check_those_there(client)
    if client.status != "running":
        raise ConnectionError(GONE.format(address))


def _await_workers(
    client: Client, address: str, count: int, look: Callable[[], None] | None
) -> None:
    begin = time.monotonic()
    while len(workers_of(client)) < count:
        if look is not None:
            look()
        elif not in_queue(client) and time.monotonic() - begin > JOIN_S:
            raise ConnectionError(
                f"no worker has joined the scheduler at {address} in {JOIN_S:.0f} s: start some"
                f" with `dask worker {address}`"
            )
        try:
            client.wait_for_workers(count, timeout=min(LOOK_S, JOIN_S))
        except TimeoutError:
            continue


def _check_those_there(client: Client) -> None:
    """Look at the versions of the workers that have joined; later ones are asked before a task.

    One that is lost meanwhile does not answer, and one that has a task of somebody else, late.
    """
    from distributed import wait

    wait_for: Any = wait  # states no types
    asked = {
        address: client.submit(versions, workers=[address], pure=False)
        for address in workers_of(client)
    }
    until = time.monotonic() + CONNECT_S
    while time.monotonic() < until:
        there = workers_of(client)
        left = [one for k, one in asked.items() if one.status == "pending" and k in there]
        if not left:
            break
        with contextlib.suppress(TimeoutError, CancelledError):
            wait_for(left, timeout=LOOK_S)
    answered = {k: one for k, one in asked.items() if one.status in ("finished", "error")}
    with contextlib.suppress(TimeoutError, CancelledError):
        refuse_other_versions({k: one.result(timeout=LOOK_S) for k, one in answered.items()})


def refuse_other_versions(found: Mapping[str, Mapping[str, str | None]]) -> None:
    """See that workers have what this process has, given their `versions` by address.

    Raises:
        RuntimeError: one has another version of repalign, torch or numpy, or no repalign.
    """
    expected = versions()
    for address, there in found.items():
        for name, version in expected.items():
            if there[name] != version:
                has = f"{name} {there[name]}" if there[name] else f"no {name}"
                raise RuntimeError(
                    f"worker {address} has {has}, and this process {version}: install the same"
                    " version in the environment that starts the workers"
                )


@contextmanager
def scheduler_needed(client: Client, address: str) -> Iterator[None]:
    """Say of the many errors that a lost scheduler makes that it is gone."""
    from distributed.comm.core import CommClosedError

    try:
        yield
    except Exception as error:  # a client that has given up raises errors of any type
        if client.status == "running" and not isinstance(error, CommClosedError):
            raise
        raise ConnectionError(GONE.format(address)) from error


def in_queue(client: Client) -> bool:
    """Whether the workers are jobs of a batch system, which may let them wait for hours."""
    return hasattr(client.cluster, "job_script")


def address_of(client: Client) -> str:
    """Where the scheduler is."""
    return str(client.scheduler_info().get("address", "its address"))


def workers_of(client: Client, *, gpus: bool | None = None) -> dict[str, Any]:
    """What Dask knows of the workers for some work, by address.

    Args:
        client: of the workers.
        gpus: True: those that carry the resource ``GPU``; False: those that do not; in both cases
            all, where there are none of them. None: all.
    """
    found: dict[str, Any] = client.scheduler_info().get("workers", {})  # none, once it is closed
    if gpus is None:
        return found
    return {k: one for k, one in found.items() if has_gpu(one) is gpus} or found


def has_gpu(worker: dict[str, Any]) -> bool:
    """Whether a worker carries the resource of a GPU."""
    return bool(worker["resources"].get(GPU))


def versions() -> dict[str, str | None]:
    """Versions of what numbers depend on, without the builds for some device."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in ("numpy", "torch"):
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = None
    try:
        import repalign
    except ImportError:
        return found | {"repalign": None}
    return found | {"repalign": repalign.__version__}


versions.__module__ = "__main__"  # sent whole: a worker without repalign could not look it up

"""Work handed out to Dask workers, in tasks of seconds.

Each worker has one task at a time, so that the tasks of one process never share its memory, its
threads or its GPU; what a lost worker had goes to another one.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from repalign.clusters import (
    GONE,
    JOIN_S,
    address_of,
    has_gpu,
    in_queue,
    refuse_other_versions,
    scheduler_needed,
    versions,
    workers_of,
)
from repalign.job_queues import GPU

if TYPE_CHECKING:
    from distributed import Client

Item = TypeVar("Item")

LOOK_S = 0.5  # between two looks at which workers are alive
RESULT_S = 5.0  # to fetch the result of a task that is done, which is small
LOSSES = 3  # workers that one task may lose
RETIREMENTS = 10  # of its workers that one task may wait out
RECONNECT_S = 10.0  # to find a scheduler again


@dataclass(frozen=True)
class Seat:
    """Where a task runs.

    Args:
        address: of the worker.
        rank: the how manieth it is of its job and machine, so that each takes a GPU of its own.
        threads: that it may use.
    """

    address: str
    rank: int
    threads: int


def hand_out(
    client: Client,
    task: Callable[..., Any],
    items: Sequence[Item],
    *shared: Any,
    gpus: bool | None = None,
) -> Generator[tuple[Item, Any], None, None]:
    """Run ``task(item, seat, *shared)`` for each item, one at a time on each worker.

    Workers may join, retire and be lost. What is shared is sent to each worker once.

    Args:
        client: of the workers.
        task: a function that can be pickled.
        items: small; what is large is shared.
        shared: further arguments.
        gpus: True: only on workers that carry the resource ``GPU``, once one of them has joined;
            False: on the others, where there are any; None: on all.

    Yields:
        Item and result, as they are done.

    Raises:
        ConnectionError: the scheduler is gone, or all workers are and none comes back within a
            minute; jobs of a batch system are waited for.
        RuntimeError: a task lost three workers or outlived ten, they could not load what is shared,
            or one that joins has another version of repalign.
        Exception: what a task raised; tasks that have not begun are given up.
    """
    work = _Work(client, task, deque(items), shared, gpus)
    alone_since = time.monotonic()
    try:
        while work.waiting or work.running:
            _await_scheduler(client, work.where)
            yield from work.results()
            with scheduler_needed(client, work.where):
                work.begin()
            if work.running or work.asked:
                alone_since = time.monotonic()
                with scheduler_needed(client, work.where):
                    work.wait()
            elif work.waiting and not in_queue(client) and time.monotonic() - alone_since > JOIN_S:
                raise ConnectionError(
                    f"all workers of {work.where} are gone; what is finished is kept: start workers"
                    " and run again"
                )
            elif work.waiting:
                time.sleep(LOOK_S)
    finally:
        work.give_up()


class _Work:
    """What is waiting and running, and what is known of the workers."""

    def __init__(
        self,
        client: Client,
        task: Callable[..., Any],
        waiting: deque[Any],
        shared: Sequence[Any],
        gpus: bool | None,
    ) -> None:
        self.client, self.task, self.waiting, self.shared = client, task, waiting, shared
        self.gpus = gpus
        self.where = address_of(client)
        self.running: dict[Any, tuple[Any, Seat]] = {}
        self.lost: Counter[tuple[int, bool]] = Counter()  # by item, and whether it was expected
        self.ranks: dict[str, int] = {}
        self.sent: dict[str, list[Any]] = {}  # what is shared, by worker: its own copy
        self.asked: dict[str, Any] = {}  # new workers: futures of their versions
        self.admitted: set[str] = set()  # workers of the right version
        self.with_gpus = False  # once a worker had one, what wants it waits for another

    def results(self) -> Iterator[tuple[Any, Any]]:
        """Items that are done, with their results; those that were lost wait again."""
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker

        for future in [one for one in self.running if one.status != "pending"]:
            try:
                result = future.result(timeout=RESULT_S)
            except KilledWorker:
                self._give_back(future)
            except (TimeoutError, CommClosedError):
                if future.status == "error":  # of the task itself
                    raise
                continue  # its worker or the scheduler may just have gone: both are looked for
            except CancelledError:  # the result was lost with its worker
                if future.status == "error":
                    raise
                _await_scheduler(self.client, self.where)
                with scheduler_needed(self.client, self.where):
                    self._give_back(future)
            else:
                item, _ = self.running.pop(future)
                yield item, result

    def begin(self) -> None:
        """Give each worker that is free a task."""
        alive = workers_of(self.client)
        for future, (_, seat) in list(self.running.items()):
            if seat.address not in alive:
                self._give_back(future)
        for address in self.sent.keys() - alive.keys():
            del self.sent[address]
        self._admit(alive)
        for address in self._free(alive)[: len(self.waiting)]:
            seat = Seat(address, _rank(address, alive, self.ranks), alive[address]["nthreads"])
            if not self._send(address):
                continue  # it has just gone
            item = self.waiting.popleft()
            future = self.client.submit(
                _by_itself,
                self.task,
                item,
                seat,
                *self.sent[address],
                workers=[address],
                resources={GPU: 1} if self.gpus and has_gpu(alive[address]) else None,
                pure=False,
            )
            self.running[future] = (item, seat)

    def _free(self, alive: dict[str, Any]) -> list[str]:
        """Workers that take a task: not those that have one, retire, or wait for memory."""
        self.with_gpus |= any(map(has_gpu, alive.values()))
        fit = [k for k, one in alive.items() if self.gpus in (None, has_gpu(one))]
        if not fit and not (self.gpus and self.with_gpus):
            fit = list(alive)
        busy = {seat.address for _, seat in self.running.values()}
        ready = self.admitted - busy
        return [one for one in fit if one in ready and alive[one]["status"] == "running"]

    def _admit(self, alive: dict[str, Any]) -> None:
        """Ask new workers for their versions, and look at the answers."""
        self.admitted &= alive.keys()
        for address in self.asked.keys() - alive.keys():
            del self.asked[address]
        if self.waiting:
            for address in alive.keys() - self.asked.keys() - self.admitted:
                self.asked[address] = self.client.submit(versions, workers=[address], pure=False)
        for address, future in list(self.asked.items()):
            if future.status != "pending":
                with contextlib.suppress(TimeoutError, CancelledError):  # it has just gone
                    refuse_other_versions({address: future.result(timeout=RESULT_S)})
                    self.admitted.add(address)
                del self.asked[address]

    def _give_back(self, future: Any) -> None:
        """Put back what a worker had that is lost, or its result with it."""
        item, seat = self.running.pop(future)
        future.cancel()
        self.waiting.append(item)  # last, so that one that ends its workers keeps up no other
        retired = _has_retired(self.client, seat.address)
        self.lost[id(item), retired] += 1
        if self.lost[id(item), False] == LOSSES:
            raise RuntimeError(
                f"{LOSSES} workers were lost in the same task: the system may have ended them for"
                " the memory they took, so allow each less (memory=)"
            )
        if self.lost[id(item), True] == RETIREMENTS:
            raise RuntimeError(
                f"{RETIREMENTS} workers retired in the same task: it may take longer than they"
                " live; give their jobs more time (walltime=)"
            )

    def _send(self, address: str) -> bool:
        """Give a worker its own copy of what is shared; False where it has just gone.

        A task that depended on a copy elsewhere would wait without end for one that is lost.
        """
        from distributed.comm.core import CommClosedError

        dask: Any = self.client  # states no types
        if address in self.sent:
            return True
        try:
            self.sent[address] = [
                dask.scatter(value, workers=[address], hash=False) for value in self.shared
            ]
        except Exception as error:  # of the worker's unpickling, which may be any
            gone = address not in workers_of(self.client)
            if gone or isinstance(error, CommClosedError | TimeoutError):
                return False
            raise RuntimeError(
                f"a worker could not load what it was sent: {error}; the modules that define it"
                " have to be installed in the environment of the workers"
            ) from error
        return True

    def wait(self) -> None:
        """Wait for a task to be done, and not for long."""
        from distributed import wait

        wait_for: Any = wait  # states no types
        with contextlib.suppress(TimeoutError, CancelledError):
            wait_for(
                [*self.running, *self.asked.values()], timeout=LOOK_S, return_when="FIRST_COMPLETED"
            )

    def give_up(self) -> None:
        """Cancel what has not begun."""
        dask: Any = self.client  # states no types
        sent = [one for copies in self.sent.values() for one in copies]
        if self.client.status == "running":
            with contextlib.suppress(OSError):  # the scheduler may be gone at this moment
                dask.cancel([*self.running, *self.asked.values(), *sent])


def _by_itself(task: Callable[..., Any], item: Any, seat: Seat, *shared: Any) -> Any:
    """Run a task whose lazy arrays are read here: by itself Dask would share them out again.

    They would wait for the tasks of other workers, which wait for theirs.
    """
    import dask.config

    setting: Any = dask.config.set  # states no types
    with setting(scheduler="synchronous"):
        return task(item, seat, *shared)


def _has_retired(client: Client, address: str) -> bool:
    """Whether a worker that is gone went as it was meant to, as at the end of its life."""
    dask: Any = client  # states no types
    events = [event for _, event in dask.get_events(address)]
    removed = [one for one in events if one["action"] == "remove-worker"]
    return bool(removed) and removed[-1].get("expected", False)


def _await_scheduler(client: Client, address: str) -> None:
    """Wait some seconds for a scheduler to which the connection was lost."""
    until = time.monotonic() + RECONNECT_S
    while client.status == "connecting" and time.monotonic() < until:
        time.sleep(0.1)
    if client.status != "running":
        raise ConnectionError(GONE.format(address))


def _rank(address: str, alive: dict[str, Any], ranks: dict[str, int]) -> int:
    """The least number that no other worker of the same job and machine has.

    Workers of one job are called NAME-0, NAME-1, …; several jobs on one machine see GPUs of their
    own, each counted from 0.
    """
    if address not in ranks:
        job = _job(alive[address])
        taken = {ranks[one] for one in alive if one in ranks and _job(alive[one]) == job}
        ranks[address] = next(n for n in range(len(taken) + 1) if n not in taken)
    return ranks[address]


def _job(worker: dict[str, Any]) -> tuple[str, str]:
    return worker["host"], str(worker["name"]).rpartition("-")[0]

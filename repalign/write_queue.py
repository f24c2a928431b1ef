"""A bounded queue between a network that runs and the threads which write what it gave.

What waits to be written lies in one block of memory, used as a ring: its size bounds the bytes in
flight, and no page of memory has to be asked from the system twice. Where the ring is full, the
network waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 64  # bytes, so that a piece can be looked at as any type

Write = Callable[[np.ndarray[Any, Any]], None]


@dataclass
class _Piece:
    """Part of the ring that is in use; ``stop`` counts all bytes that were ever taken."""

    start: int
    stop: int
    free: bool = False


class WriteQueue:
    """Threads which write what they are given, in the order of each lane.

    Args:
        size: bytes of the ring; nothing larger than it can be put.
        threads: how many write. Pieces of one lane are written one after the other.
        pinned: lock the ring in memory, which lets a GPU copy into it while it computes.

    Leaving the block waits for all that was put, and raises the first failure of a thread, as does
    ``put``; after a failure nothing more is written.

    Example:
        >>> kept = []
        >>> with WriteQueue(1000, threads=1) as queue:
        ...     queue.put(torch.ones(2, 3), torch.float16, lane=0, write=lambda a: kept.append(+a))
        >>> kept[0].dtype, kept[0].shape
        (dtype('float16'), (2, 3))
    """

    def __init__(self, size: int, *, threads: int = 2, pinned: bool = False) -> None:
        """Take the ring's memory and start the threads."""
        self.size = -(-size // ALIGNMENT) * ALIGNMENT
        # filled, so that the pages are there before the first piece comes
        self._ring = torch.empty(self.size, dtype=torch.uint8, pin_memory=pinned).zero_()
        self._pinned = pinned
        self._head = self._tail = 0
        self._held: deque[_Piece] = deque()
        self._change = threading.Condition()
        self._failure: BaseException | None = None
        self._threads = [ThreadPoolExecutor(1, "write") for _ in range(threads)]

    def put(self, rows: Tensor, dtype: torch.dtype, *, lane: int, write: Write) -> None:
        """Copy a tensor into the ring as stimulus × unit, and have it written.

        Args:
            rows: first axis stimulus; may be changed as soon as this returns.
            dtype: to convert it to.
            lane: of the thread that writes it.
            write: called in that thread with the copy, which it must not keep.
        """
        n_bytes = rows.numel() * dtype.itemsize
        piece = self._reserve(n_bytes)
        ready: torch.cuda.Event | None = None
        try:
            flat = self._ring[piece.start : piece.start + n_bytes].view(dtype)
            flat.view(rows.shape).copy_(rows, non_blocking=self._pinned)
            if self._pinned:
                ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
                ready.record(torch.cuda.current_stream(rows.device))
        except BaseException:
            self._release(piece)
            raise
        values = flat.view(len(rows), -1).numpy()

        def work() -> None:
            try:
                if ready is not None:
                    ready.synchronize()
                if self._failure is None:
                    write(values)
            except BaseException as error:
                self._fail(error)
            finally:
                self._release(piece)

        self._submit(lane, work)

    def then(self, call: Callable[[], None], *, lane: int) -> None:
        """Call a function in the lane's thread when all that was put there before is written."""

        def work() -> None:
            try:
                if self._failure is None:
                    call()
            except BaseException as error:
                self._fail(error)

        self._submit(lane, work)

    def _submit(self, lane: int, work: Callable[[], None]) -> None:
        self._threads[lane % len(self._threads)].submit(work)

    def _reserve(self, n_bytes: int) -> _Piece:
        """Wait for a free part of the ring."""
        n_bytes = -(-n_bytes // ALIGNMENT) * ALIGNMENT
        if n_bytes > self.size:
            raise ValueError(f"{n_bytes} bytes do not fit into a queue of {self.size}")
        with self._change:
            while True:
                if self._failure is not None:
                    raise self._failure
                if not self._held:
                    self._head = self._tail = 0
                start = self._head % self.size
                # a piece is never split: what is left before the end is passed over
                passed = self.size - start if start + n_bytes > self.size else 0
                if self._head + passed + n_bytes - self._tail <= self.size:
                    break
                self._change.wait()
            self._head += passed + n_bytes
            piece = _Piece(0 if passed else start, self._head)
            self._held.append(piece)
            return piece

    def _release(self, piece: _Piece) -> None:
        with self._change:
            piece.free = True
            while self._held and self._held[0].free:
                self._tail = self._held.popleft().stop
            self._change.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._change:
            self._failure = self._failure or error
            self._change.notify_all()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the threads."""
        if error is not None:
            self._fail(error)
        for thread in self._threads:
            thread.shutdown()
        if kind is None and self._failure is not None:
            raise self._failure

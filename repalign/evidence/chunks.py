"""Resamples in chunks on several threads, with the same numbers on any number of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch

from repalign.inference import Draws

CHUNK = 128  # resamples: enough for products of matrices at nearly full speed
Found = TypeVar("Found")


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Keep torch's operations to one thread: how a sum is divided among several shows in it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def number_of_workers(workers: int | None, device: torch.device) -> int:
    """As many threads as were asked for; None is the machine's, or 1 where a GPU computes."""
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; expected 1 or more, or None for the machine's.")
    if workers is None:
        return torch.get_num_threads() if device.type == "cpu" else 1
    return workers


def in_chunks(
    evaluate: Callable[[Draws, slice], Found], draws: Draws, *, workers: int
) -> list[Found]:
    """Evaluate fixed chunks of the resamples, and return what was found in their order.

    The chunks do not depend on the number of workers, so neither do the numbers, to the last bit.
    """

    def one(start: int) -> Found:
        rows = slice(start, min(start + CHUNK, len(draws)))
        part = replace(draws, stimuli=draws.stimuli[rows], subjects=draws.subjects[rows])
        return evaluate(part, rows)

    starts = range(0, len(draws), CHUNK)
    if workers == 1 or len(starts) == 1:
        return [one(start) for start in starts]
    with ThreadPoolExecutor(min(workers, len(starts))) as pool:
        return list(pool.map(one, starts))

"""How long a run over layers too large to keep will take, from short trials of its steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repalign.metrics.rotation import BLOCK_UNITS, GramSum, rotate_gram
from repalign.rotation_plan import ITEM, Plan

TRIAL_BYTES = 256 << 20
BLOCK_BYTES = 64 << 20
TRIAL_STIMULI = 400  # of a rotation, whose time grows as n³
CACHED = 0.1  # of the free memory: what a system holds of a file before it waits for the disk


def expected_seconds(
    plan: Plan, showing: Sequence[float], scratch: Path, *, decoding: float, precision: str
) -> float:
    """Seconds that a plan takes on this machine as it is now.

    Pieces are written while the network runs, and read while others are multiplied. The slower of
    the two counts, and on all cores together the work of copying and of decoding images.

    Args:
        plan: what is run.
        showing: seconds to show one stimulus, by pass.
        scratch: folder on the scratch disk, in which a trial file is written.
        decoding: seconds to decode one stimulus.
        precision: of the products.
    """
    import psutil

    n, cores = plan.n_stimuli, os.cpu_count() or 1
    layers = sum(piece.last for one in plan.passes for piece in one)
    through = plan.scratch_bytes > CACHED * psutil.virtual_memory().available
    copying, writing, reading = (
        seconds / TRIAL_BYTES for seconds in _disk_seconds(scratch, through=through)
    )
    width = min(BLOCK_UNITS, max(1, BLOCK_BYTES // (ITEM * n)))
    block = np.random.default_rng(0).standard_normal((n, width), dtype=np.float32)
    total = GramSum(n, precision=precision)
    total.add(block[:, :8])  # the first product starts the threads
    product = _seconds(lambda: total.add(block)) / width
    few = min(n, TRIAL_STIMULI)
    rotation = _seconds(lambda: _rotation_of(few)) * (n / few) ** 3
    whole = rotation * layers
    for pieces, seconds in zip(plan.passes, showing, strict=True):
        size = sum(map(plan.bytes_of, pieces))
        working = n * seconds + (n * decoding + size * copying) / cores
        whole += max(working, size * writing)
        whole += max(product * sum(piece.units for piece in pieces), size * reading)
    return whole


def _rotation_of(n: int) -> Any:
    return rotate_gram(np.eye(n), np.zeros(n), n)


def _disk_seconds(folder: Path, *, through: bool) -> tuple[float, float, float]:
    """Seconds to hand the trial file to the system, to have it on the disk, and to read it.

    ``through`` to the disk and from it; else to the system's cache, and from there.
    """
    path, block = folder / "trial", np.ones(BLOCK_BYTES // 4, np.uint8).data
    blocks = TRIAL_BYTES // len(block)
    try:
        with path.open("w+b", buffering=0) as file:
            begin = time.perf_counter()
            for _ in range(blocks):
                file.write(block)
            copied = time.perf_counter()
            if through:
                os.fsync(file.fileno())
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            written = time.perf_counter()
            file.seek(0)
            for _ in range(blocks):
                file.readinto(block)
            read = time.perf_counter()
        return copied - begin, written - begin, read - written
    except OSError:  # what is rotated may fit where the trial does not
        return 0.0, 0.0, 0.0
    finally:
        path.unlink(missing_ok=True)


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin

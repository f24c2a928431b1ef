"""How long a run over layers too large to keep will take, from short trials of its steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repalign.metrics.rotation import BLOCK_UNITS, GramSum, rotate_gram
from repalign.rotation_plan import Plan

TRIAL_BYTES = 64 << 20
TRIAL_STIMULI = 400  # of a rotation, whose time grows as n³
CACHED = 0.1  # of the free memory: what a system holds of a file before it waits for the disk


def expected_seconds(
    plan: Plan, showing: Sequence[float], scratch: Path, *, precision: str
) -> float:
    """Seconds that a plan takes on this machine as it is now.

    Args:
        plan: what is run.
        showing: seconds to show one stimulus, by pass.
        scratch: folder on the scratch disk, in which a trial file is written.
        precision: of the products.
    """
    import psutil

    n = plan.n_stimuli
    units = sum(piece.units for one in plan.passes for piece in one)
    layers = sum(piece.last for one in plan.passes for piece in one)
    writes_through = plan.scratch_bytes > CACHED * psutil.virtual_memory().available
    disk = _disk_seconds(scratch, through=writes_through) * plan.total_bytes / TRIAL_BYTES
    width = min(BLOCK_UNITS, max(1, TRIAL_BYTES // (4 * n)))
    block = np.random.default_rng(0).standard_normal((n, width), dtype=np.float32)
    total = GramSum(n, precision=precision)
    total.add(block[:, :8])  # the first product starts the threads
    products = _seconds(lambda: total.add(block)) * units / width
    few = min(n, TRIAL_STIMULI)
    rotation = _seconds(lambda: _rotation_of(few)) * (n / few) ** 3 * layers
    return n * sum(showing) + disk + products + rotation


def _rotation_of(n: int) -> Any:
    return rotate_gram(np.eye(n), np.zeros(n), n)


def _disk_seconds(folder: Path, *, through: bool) -> float:
    """Seconds to write and read the trial file; ``through`` to the disk, past its cache."""
    path, data = folder / "trial", bytes(TRIAL_BYTES)

    def write_and_read() -> None:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            if through:
                os.fsync(file.fileno())
        path.read_bytes()

    try:
        return _seconds(write_and_read)
    finally:
        path.unlink(missing_ok=True)


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin

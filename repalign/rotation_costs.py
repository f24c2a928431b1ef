"""How long a run over layers too large to keep will take, from short trials of its steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repalign.disk import try_disk
from repalign.metrics.rotation import BLOCK_UNITS, GramSum, rotate_gram
from repalign.recording_plan import free_cores
from repalign.rotation_plan import ITEM, Plan

BLOCK_BYTES = 64 << 20
TRIAL_STIMULI = 400  # of a rotation, whose time grows as n³


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
    n, cores = plan.n_stimuli, free_cores()
    layers = sum(piece.last for one in plan.passes for piece in one)
    disk = try_disk(scratch, plan.scratch_bytes)
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
        working = n * seconds + (n * decoding + size * disk.copying) / cores
        whole += max(working, size * disk.writing)
        whole += max(product * sum(piece.units for piece in pieces), size * disk.reading)
    return whole


def _rotation_of(n: int) -> Any:
    return rotate_gram(np.eye(n), np.zeros(n), n)


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin

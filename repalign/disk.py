"""Disks: whether there is room, and how fast they are."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repalign.direct_files import beyond_cache, write_direct

TRIAL_BYTES = 256 << 20
TRIAL_SHARE = 8  # no more than one part of so many of what will be written
BLOCK_BYTES = 16 << 20


def check_disk(folder: Path, size: int) -> int:
    """Bytes that are free in a folder.

    Raises:
        ValueError: fewer than ``size``.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ValueError(
            f"the layers asked for take up to {size / 1e6:,.0f} MB and {folder} has"
            f" {free / 1e6:,.0f} MB free; choose fewer layers or another folder (--to)"
        )
    return free


@dataclass(frozen=True)
class DiskSpeed:
    """Seconds for a byte: of a core to hand it over, to have it on the disk, and to read it."""

    copying: float = 0.0
    writing: float = 0.0
    reading: float = 0.0


def try_disk(folder: Path, size: int, *, direct: bool = False) -> DiskSpeed:
    """Measure a disk with a file of up to 256 MB; all zero for little, or where there is no room.

    Args:
        folder: on the disk.
        size: bytes that will be written. Where the system can hold them in its cache, its speed is
            measured, and else that of the disk itself.
        direct: what is beyond the cache will be written around it.
    """
    through = beyond_cache(size)
    trial = min(TRIAL_BYTES, int(size / TRIAL_SHARE)) // BLOCK_BYTES * BLOCK_BYTES
    if not trial:
        return DiskSpeed()
    path, block = folder / f"trial-{os.getpid()}", np.ones(BLOCK_BYTES, np.uint8).data
    blocks = [block] * (trial // BLOCK_BYTES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        begin, working = time.perf_counter(), time.thread_time()
        if direct and through:
            write_direct(path, blocks)
        else:
            with path.open("wb", buffering=0) as file:
                file.writelines(blocks)
        copied = time.thread_time() - working
        if through:
            _leave_cache(path)
        written = time.perf_counter()
        with path.open("rb", buffering=0) as file:
            for _ in blocks:
                file.readinto(block)
        read = time.perf_counter()
    except OSError:  # what will be written may fit where the trial does not
        return DiskSpeed()
    finally:
        path.unlink(missing_ok=True)
    return DiskSpeed(*(seconds / trial for seconds in (copied, written - begin, read - written)))


def _leave_cache(path: Path) -> None:
    """Have a file on its disk, and no longer in the system's cache."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

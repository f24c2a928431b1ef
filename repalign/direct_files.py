"""Files written around the system's cache, so that large ones cost little besides the disk.

What is larger than the system holds back makes its writer wait for the disk in any case. Going
there directly saves the time that the cache's own pages take, and leaves in it what is of use.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np

BLOCK_BYTES = 8 << 20
CACHED = 0.1  # of the free memory: what a system holds of a file before it waits for the disk

Piece = bytes | memoryview

_own = threading.local()  # one block a thread, since a new one costs as much as to fill it


def beyond_cache(size: int) -> bool:
    """Whether so many bytes are more than the system would hold back from the disk."""
    import psutil

    free: int = psutil.virtual_memory().available
    return size > CACHED * free


def write_direct(path: Path, pieces: Iterable[Piece]) -> None:
    """Write a file, all but its end around the system's cache, where the file system can do that.

    Args:
        path: of the file; one that is there is replaced.
        pieces: its content, in order.
    """
    block = _block()
    target = np.frombuffer(block, np.uint8)
    handle = _open(path)
    try:
        filled = 0
        for piece in pieces:
            source = np.frombuffer(piece, np.uint8)
            while len(source):
                count = min(len(source), BLOCK_BYTES - filled)
                target[filled : filled + count] = source[:count]
                source, filled = source[count:], filled + count
                if filled == BLOCK_BYTES:
                    _write_all(handle, memoryview(block))
                    filled = 0
        whole = filled // mmap.PAGESIZE * mmap.PAGESIZE
        _write_all(handle, memoryview(block)[:whole])
        _through_cache(handle)
        _write_all(handle, memoryview(block)[whole:filled])
    finally:
        os.close(handle)


def _block() -> mmap.mmap:
    """Memory of this thread that begins on a page, as direct writing asks."""
    if not hasattr(_own, "block"):
        _own.block = mmap.mmap(-1, BLOCK_BYTES)
    found: mmap.mmap = _own.block
    return found


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with contextlib.suppress(OSError):  # such as a file system in memory
        return os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o666)
    return os.open(path, flags, 0o666)


def _write_all(handle: int, data: memoryview) -> None:
    while data:
        try:
            written = os.write(handle, data)
        except OSError:
            if not _through_cache(handle):
                raise
            continue
        data = data[written:]
        if data:  # the rest begins anywhere; an error that cut it short comes again
            _through_cache(handle)


def _through_cache(handle: int) -> bool:
    """Write through the cache from here on; whether that is a change."""
    direct = getattr(os, "O_DIRECT", 0)
    if not direct:
        return False
    import fcntl  # where there is O_DIRECT, there is this

    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    fcntl.fcntl(handle, fcntl.F_SETFL, flags & ~direct)
    return bool(flags & direct)

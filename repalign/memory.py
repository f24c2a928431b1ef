"""Memory: sizes in words, what a process holds, and the most that it held for a while."""

from __future__ import annotations

import contextlib
import math
import re
import threading
from types import TracebackType
from typing import Self

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
SIZES = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def parse_size(size: str | float) -> int:
    """Return a size in bytes, given as such or in words.

    Raises:
        ValueError: no size, or not above zero.

    Example:
        >>> parse_size("4GB"), parse_size("1.5 MiB"), parse_size(1000)
        (4000000000, 1572864, 1000)
    """
    if not isinstance(size, str):
        value = int(size) if math.isfinite(size) else 0
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", size)
        if match is None or match[2].upper() not in SIZES:
            raise ValueError(f"{size!r} is no size of memory; expected one such as 4GB or 500MB")
        value = int(float(match[1]) * SIZES[match[2].upper()])
    if value <= 0:
        raise ValueError(f"{size!r} of memory; expected more than 0, such as 4GB")
    return value


def say_size(size: float) -> str:
    """Return a number of bytes in words.

    Example:
        >>> say_size(1_240_000_000), say_size(35_200_000), say_size(802_816), say_size(900)
        ('1.24 GB', '35 MB', '803 KB', '900 bytes')
    """
    if size >= 10**9:
        return f"{size / 1e9:,.3g} GB" if size < 10**12 else f"{size / 1e9:,.0f} GB"
    if size >= 10**4:
        return f"{size / 1e6:.0f} MB" if size >= 10**6 else f"{size / 1e3:.0f} KB"
    return f"{size:.0f} bytes"


def resident() -> int:
    """Bytes of physical memory that this process holds."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def available() -> int:
    """Bytes of physical memory that programs could still take."""
    import psutil

    return int(psutil.virtual_memory().available)


def give_back() -> None:
    """Give the free pages of the heap back to the system, where the C library can (glibc).

    What a pass leaves in the heap is scattered, so that the next pass needs more; after this, each
    needs what the first did.
    """
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed() -> bool:
    """Let this process keep up to 256 MB that it has freed, where the C library can (glibc).

    Dask's workers give freed memory back at once, so that each temporary array is fresh pages of
    the system, which it has to clear: bootstraps took five times as long.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 32 << 20) and mallopt(M_TRIM_THRESHOLD, 256 << 20))


class PeakMemory:
    """Watches, within a block, the most physical memory that this process holds.

    The kernel's own mark only ever rises, so that it cannot tell one run from those before it;
    here a thread looks every few milliseconds.

    Args:
        interval: seconds between two looks.

    Example:
        >>> with PeakMemory() as memory:
        ...     block = bytearray(50_000_000)
        >>> memory.peak >= 50_000_000
        True
    """

    def __init__(self, *, interval: float = 0.005) -> None:
        """Prepare the thread."""
        self.peak = 0
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def look(self) -> int:
        """Look now, and return the peak so far."""
        self.peak = max(self.peak, resident())
        return self.peak

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self.look()

    def __enter__(self) -> Self:
        """Begin."""
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        self.look()
        self._stop.set()
        self._thread.join()

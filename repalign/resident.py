"""How much memory of this process is resident, and how much it was at most."""

from __future__ import annotations

import threading
from types import TracebackType

INTERVAL_S = 0.02  # often enough for steps of seconds, and too seldom to be felt


def resident_bytes() -> int:
    """Memory of this process that is resident now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


class PeakMemory:
    """Within the block a thread looks at the resident memory again and again.

    Args:
        interval_s: seconds between two looks.

    Attributes:
        bytes: the most that was seen.

    Example:
        >>> with PeakMemory() as peak:
        ...     held = bytearray(50_000_000)
        >>> peak.bytes > 50_000_000
        True
    """

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        """Look at nothing yet."""
        self.interval_s = interval_s

    def __enter__(self) -> PeakMemory:
        """Start to look."""
        self.bytes = resident_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._stop.wait(self.interval_s):
            self.bytes = max(self.bytes, resident_bytes())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Look a last time."""
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, resident_bytes())

"""Progress bars, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Sequence[Item], label: str, *, show: bool = True) -> Iterator[Item]:
    """Iterate with a progress bar where stderr is a terminal, and with lines of text elsewhere."""
    from tqdm import tqdm

    on_terminal = sys.stderr.isatty()
    told = show and bool(items) and not on_terminal
    if told:
        print(f"{label} …", file=sys.stderr)
    begin = time.perf_counter()
    yield from tqdm(items, desc=label, disable=not (show and on_terminal), leave=False)
    if told and time.perf_counter() - begin > 5:
        print(f"{label}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)

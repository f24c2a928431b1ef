"""Progress bars, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Sequence[Item], label: str, *, show: bool = True) -> Iterator[Item]:
    """Iterate with a progress bar where stderr is a terminal, and with one line elsewhere."""
    from tqdm import tqdm

    if show and items and not sys.stderr.isatty():
        print(f"{label} ({len(items)} steps)", file=sys.stderr)
    yield from tqdm(items, desc=label, disable=not (show and sys.stderr.isatty()), leave=False)

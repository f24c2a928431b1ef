"""Arrays that are read from their source a block of rows at a time, whenever they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from repalign.shards import SHARD_BYTES

BLOCK_BYTES = SHARD_BYTES

Array = np.ndarray[Any, np.dtype[Any]]


def lazy_rows(
    read_rows: Callable[[int, int], Array],
    shape: tuple[int, ...],
    dtype: DTypeLike,
    *,
    block_bytes: int = BLOCK_BYTES,
) -> Any:
    """A dask array whose blocks are whole rows that a function reads.

    Nothing is read before a block is computed, and no more than a few blocks are in memory.

    Args:
        read_rows: ``read_rows(start, stop)`` gives these rows, an array of shape
            ``(stop - start, *shape[1:])``; it opens its file itself, because blocks may be read in
            other threads and processes.
        shape: of the whole array.
        dtype: of the whole array; blocks are converted to it.
        block_bytes: most bytes of a block, which is a row at least.

    Raises:
        ValueError: while a block is computed, if ``read_rows`` gives another shape.

    Example:
        >>> whole = np.arange(12.0).reshape(4, 3)
        >>> lazy = lazy_rows(lambda a, b: whole[a:b], (4, 3), "float32", block_bytes=24)
        >>> lazy.chunks, bool((lazy.compute() == whole).all())
        (((2, 2), (3,)), True)
    """
    import dask.array as da

    kind = np.dtype(dtype)
    row_bytes = max(1, int(np.prod(shape[1:], dtype=np.int64)) * kind.itemsize)
    rows = max(1, min(shape[0], block_bytes // row_bytes))
    sizes = [min(rows, shape[0] - start) for start in range(0, shape[0], rows)]

    def block(block_info: Any = None) -> Array:
        start, stop = block_info[None]["array-location"][0]
        found = np.asarray(read_rows(start, stop))
        expected = (stop - start, *shape[1:])
        if found.shape != expected:
            raise ValueError(f"rows {start} to {stop} have shape {found.shape}, not {expected}")
        return found.astype(kind, copy=False)

    chunks = (tuple(sizes), *((n,) for n in shape[1:]))
    blocks: Any = da.map_blocks  # dask states no types
    return blocks(block, chunks=chunks, dtype=kind, meta=np.empty((0,) * len(shape), kind))

"""Arrays in Zarr, written and read a shard of whole rows at a time.

A shard is the unit of writing: no two tasks ever write the same one. While a shard is compressed
and written the next is read, and both are hashed, so that nothing is read twice.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xxhash import xxh3_128

from repalign.progress import track
from repalign.shard_files import codecs, encode_shard, write_shard

CHUNK_BYTES = 4 << 20
VECTOR_CHUNK_BYTES = 256 << 10  # image files are read one by one
SHARD_BYTES = 24 << 20  # larger ones are given back to the system each time, which is slow
SHA256, XXH3 = "sha256", "xxh3_128"
BLOCKS_AHEAD = 2  # read, but not yet written

Array = np.ndarray[Any, np.dtype[Any]]
Watch = Callable[[str, int, Array], None]


def encoding_for(shape: tuple[int, ...], itemsize: int, rows_a_shard: int = 0) -> dict[str, Any]:
    """Chunks of about 4 MB inside shards of whole rows (about 24 MB, or ``rows_a_shard``).

    Each chunk is compressed by lz4 with bit shuffling and carries a CRC-32C.
    """
    row_bytes = max(1, int(np.prod(shape[1:], dtype=np.int64)) * itemsize)
    rows = rows_a_shard or max(1, min(shape[0], SHARD_BYTES // row_bytes))
    if len(shape) == 1:
        inner = min(rows, max(1, VECTOR_CHUNK_BYTES // itemsize))
        chunk, shard = [inner], [-(-rows // inner) * inner]
    else:
        other = int(np.prod(shape[2:], dtype=np.int64)) * itemsize
        columns = min(shape[1], max(1, CHUNK_BYTES // max(1, rows * other)))
        chunk = [rows, columns, *shape[2:]]
        shard = [rows, -(-shape[1] // columns) * columns, *shape[2:]]
    return {
        "chunks": tuple(chunk),
        "shards": tuple(shard),
        "compressors": codecs(),
    }


def write_group(
    ds: xr.Dataset,
    folder: Path,
    group: str = "",
    *,
    watch: Watch | None = None,
    label: str = "",
) -> str:
    """Write one dataset into a store that is being built, and return its fingerprint.

    Args:
        ds: its variables may be lazy; those are read once, one shard's rows after the other.
        folder: of the store.
        group: of the dataset in the store; ``""`` is the root.
        watch: called with name, first row and values of each block of a lazy variable, in order.
        label: of the progress bar; without one there is none.
    """
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    encoding: dict[Any, dict[str, Any]] = {}
    lazy: list[str] = []
    for name, variable in ds.variables.items():
        variable.encoding.clear()
        if variable.dtype.kind in "OUT":  # variable-length strings; fixed ones cannot grow
            ds[name] = ds[name].load().astype(object)
            encoding[name] = {"compressors": (ZstdCodec(), Crc32cCodec())}
        elif variable.ndim and variable.size:
            encoding[name] = encoding_for(variable.shape, variable.dtype.itemsize)
            if variable.chunks is not None:
                lazy.append(str(name))
                sizes = zip(variable.dims, encoding[name]["shards"], strict=True)
                ds[name] = ds[name].chunk({d: min(s, ds.sizes[d]) for d, s in sizes})
        elif variable.chunks is not None:
            ds[name] = ds[name].load()  # a single number has no rows
    ds.to_zarr(
        folder,
        group=group or None,
        mode="a",
        consolidated=False,
        zarr_format=3,
        encoding=encoding,
        compute=False,  # leaves the lazy variables empty
    )
    digest = hashlib.sha256()
    for name in sorted(map(str, ds.variables)):
        _digest_head(digest, name, ds[name])
        if name not in lazy:
            _digest_values(digest, ds[name].values)
            continue
        array = zarr.open_array(folder / group / name, mode="r+")
        _write_rows(array, ds[name], digest, watch=watch, label=label)
    return f"sha256:{digest.hexdigest()}"


def _write_rows(
    array: Any, source: xr.DataArray, digest: Any, *, watch: Watch | None, label: str
) -> None:
    """Write a lazy array shard by shard; each block is hashed and watched while it is written."""
    name = str(source.name)
    assert source.chunks is not None
    starts = np.cumsum([0, *source.chunks[0]])
    spans = list(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))

    def take(start: int, block: Array) -> None:
        _digest_values(digest, block)
        if watch is not None:
            watch(name, start, block)

    def encode(block: Array) -> list[bytes] | None:
        if array.ndim == 1:
            return None
        rows, columns = array.chunks[:2]
        return encode_shard(block, rows=rows, columns=columns, fill=array.fill_value)

    def write(number: int, start: int, block: Array, encoded: Future[list[bytes] | None]) -> None:
        pieces = encoded.result()
        if pieces is None:
            array[start : start + len(block)] = block
        else:
            write_shard(array, number, pieces)

    # One thread a step, so that each takes the blocks in their order. Reading stays in this one:
    # here the memory of one block serves for the next.
    with (
        ThreadPoolExecutor(1) as encoding,
        ThreadPoolExecutor(1) as writing,
        ThreadPoolExecutor(1) as taking,
    ):
        running: deque[list[Future[Any]]] = deque()
        for number, (start, stop) in enumerate(track(spans, label, show=bool(label))):
            block: Array = source[start:stop].compute(scheduler="synchronous").values
            encoded = encoding.submit(encode, block)
            written = writing.submit(write, number, start, block, encoded)
            running.append([written, taking.submit(take, start, block)])
            if len(running) > BLOCKS_AHEAD:
                for task in running.popleft():
                    task.result()
        for tasks in running:
            for task in tasks:
                task.result()


def fingerprint(ds: xr.Dataset, algorithm: str = SHA256) -> str:
    """Hash of a dataset's content: names, dimensions, types and values, not its chunking.

    Args:
        ds: the dataset.
        algorithm: ``sha256``, or ``xxh3_128``, which no one should trust who fears forgery, and
            takes a fifteenth of the time.

    Returns:
        The algorithm, a colon, and the digest in hexadecimal.
    """
    digest = _start(algorithm)
    for name in sorted(map(str, ds.variables)):
        _digest_head(digest, name, ds[name])
        is_text = ds[name].dtype.kind in "OUT"
        for block in [ds[name].values] if is_text else row_blocks(ds[name]):
            _digest_values(digest, block)
    return f"{algorithm}:{digest.hexdigest()}"


def _start(algorithm: str) -> Any:
    return xxh3_128() if algorithm == XXH3 else hashlib.new(algorithm)


class StreamedFingerprint:
    """The `fingerprint` of a dataset one of whose variables comes in blocks of rows, in order.

    Args:
        ds: the dataset; of the variable only name, dimensions, shape and type are looked at.
        name: of the variable.
        algorithm: as of `fingerprint`.
    """

    def __init__(self, ds: xr.Dataset, name: str, algorithm: str = SHA256) -> None:
        """Take the variables that come before."""
        self._algorithm, self._digest = algorithm, _start(algorithm)
        names = sorted(map(str, ds.variables))
        self._after = [ds[other] for other in names[names.index(name) + 1 :]]
        for other in names[: names.index(name)]:
            self._whole(ds[other])
        _digest_head(self._digest, name, ds[name])

    def update(self, rows: Array) -> None:
        """Take the next rows of the variable."""
        _digest_values(self._digest, rows)

    def finish(self) -> str:
        """Return the fingerprint, after the last row."""
        for variable in self._after:
            self._whole(variable)
        return f"{self._algorithm}:{self._digest.hexdigest()}"

    def _whole(self, variable: xr.DataArray) -> None:
        _digest_head(self._digest, str(variable.name), variable)
        _digest_values(self._digest, variable.values)


def _digest_head(digest: Any, name: str, variable: xr.DataArray) -> None:
    digest.update(repr((name, variable.dims, variable.shape)).encode())
    if variable.dtype.kind not in "OUT":
        digest.update(variable.dtype.newbyteorder("<").str.encode())


def _digest_values(digest: Any, values: Array) -> None:
    if values.dtype.kind in "OUT":
        digest.update(json.dumps([str(value) for value in values.ravel()]).encode())
        return
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    digest.update(np.ascontiguousarray(little))


def row_blocks(variable: xr.DataArray) -> Iterator[Array]:
    """The values of an array, one shard's rows at a time."""
    if variable.ndim == 0 or variable.chunks is None:
        yield variable.values
        return
    stops = np.cumsum(variable.chunks[0])
    for start, stop in zip([0, *stops[:-1]], stops, strict=True):
        yield variable[int(start) : int(stop)].values

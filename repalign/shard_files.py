"""Shards of Zarr arrays encoded and written as whole files.

The layout is the one of Zarr's specification (the codec ``sharding_indexed``, version 1): the
encoded chunks of a shard, then an index of their offsets and lengths with its CRC-32C. zarr reads
these files like its own; written here, no chunk is copied between threads and tasks, and each step
of a shard can go on beside those of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repalign.direct_files import Piece, write_direct

LEVEL = 5
ABSENT = 2**64 - 1  # offset and length of a chunk that was not written
# Of IEEE numbers read as integers: from these on, positive and negative ones are not finite.
NOT_FINITE = {4: (0x7F800000, 0xFF800000), 2: (0x7C00, 0xFC00)}

Array = np.ndarray[Any, np.dtype[Any]]


def codecs() -> tuple[Any, ...]:
    """Compressors of each chunk: lz4 after bit shuffling, then a CRC-32C."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    return BloscCodec(cname="lz4", clevel=LEVEL, shuffle="bitshuffle"), Crc32cCodec()


def encode_shard(values: Array, *, rows: int, columns: int, fill: float = 0.0) -> list[bytes]:
    """The content of one shard's file, in the pieces that follow each other there.

    Args:
        values: the shard's rows, two axes or more, of which the shard holds all but the first
            whole.
        rows: of a chunk, which are those of the shard; where ``values`` has fewer, as at an
            array's end, ``fill`` stands for the others.
        columns: of a chunk; the axes behind the second are not split.
        fill: of what lies beyond the array.
    """
    from numcodecs.blosc import Blosc

    blosc = Blosc(cname="lz4", clevel=LEVEL, shuffle=Blosc.BITSHUFFLE)
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    parts: list[bytes] = []
    places: list[tuple[int, int]] = []
    position = 0
    for start in range(0, values.shape[1], columns):
        part = little[:, start : start + columns]
        if part.shape[:2] != (rows, columns):
            whole = np.full((rows, columns, *values.shape[2:]), fill, little.dtype)
            whole[: part.shape[0], : part.shape[1]] = part
            part = whole
        encoded = blosc.encode(np.ascontiguousarray(part))
        parts += [encoded, _checksum(encoded)]
        places.append((position, len(encoded) + 4))
        position += places[-1][1]
    index = np.array(places, "<u8").tobytes()
    return [*parts, index, _checksum(index)]


def plain_shard(values: Array, *, rows: int, chunk_rows: int, fill: float = 0.0) -> list[Piece]:
    """The content of one shard's file whose chunks are whole rows, uncompressed, with a CRC-32C.

    Nothing is copied: the pieces look into ``values``, of two axes and contiguous.

    Args:
        values: the shard's rows.
        rows: of the shard; where ``values`` has fewer, as at an array's end, the chunks beyond
            are absent.
        chunk_rows: of a chunk; they divide ``rows``.
        fill: of the rows that the last chunk lacks.
    """
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    parts: list[Piece] = []
    places = np.full((rows // chunk_rows, 2), ABSENT, "<u8")
    position = 0
    for number, start in enumerate(range(0, len(values), chunk_rows)):
        part = little[start : start + chunk_rows]
        if len(part) < chunk_rows:
            whole = np.full((chunk_rows, *values.shape[1:]), fill, little.dtype)
            whole[: len(part)] = part
            part = whole
        content = part.reshape(-1).view(np.uint8)
        parts += [content.data, _checksum(content)]
        places[number] = position, len(content) + 4
        position += len(content) + 4
    index = places.tobytes()
    return [*parts, index, _checksum(index)]


def all_finite(values: Array) -> bool:
    """Whether no value of a contiguous array is NaN or infinite, without a copy of it.

    The bits of numbers that are not finite are the largest when they are read as integers.
    """
    size = values.dtype.itemsize
    positive, negative = NOT_FINITE[size]
    largest = values.view(f"i{size}").max(initial=0)
    return bool(largest < positive and values.view(f"u{size}").max(initial=0) < negative)


def write_shard(array: Any, number: int, pieces: Sequence[Piece], *, direct: bool = False) -> None:
    """Write one shard's file.

    Args:
        array: a `zarr.Array` in a local folder, laid out by `repalign.shards.encoding_for`.
        number: of the shard along the first axis.
        pieces: as `encode_shard` or `plain_shard` gives them.
        direct: around the system's cache; see `write_direct`.
    """
    key = array.metadata.encode_chunk_key((number, *[0] * (array.ndim - 1)))
    path = Path(array.store.root) / array.path / key
    path.parent.mkdir(parents=True, exist_ok=True)
    if direct:
        write_direct(path, pieces)
        return
    with path.open("wb") as file:  # buffered, since a raw file may write less than it is given
        file.writelines(pieces)


def _checksum(content: bytes | Array) -> bytes:
    from google_crc32c import value

    return int(value(content)).to_bytes(4, "little")

"""Zarr's view of a store that is not a local folder: its files by name, read only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from repalign.places import Place
from repalign.remote_files import PlaceError


class PlaceReader(Store):
    """The files of a place that are known by name and size; only what is asked for is read.

    A file that was known and is gone is an error here: for zarr itself an absent chunk is one full
    of fill values.
    """

    supports_writes = False
    supports_deletes = False
    supports_partial_writes = False
    supports_listing = True

    def __init__(self, place: Place, files: Mapping[str, int]) -> None:
        """Files by name and size, as a manifest lists them."""
        super().__init__(read_only=True)
        self.place, self.files = place, dict(files)

    def __str__(self) -> str:
        """The name, as it is given to open it."""
        return str(self.place)

    def __repr__(self) -> str:
        """What it is and where."""
        return f"PlaceReader({self.place})"

    def __eq__(self, other: object) -> bool:
        """Whether both read the same files of the same place."""
        if not isinstance(other, PlaceReader):
            return False
        return (self.place, self.files) == (other.place, other.files)

    def __hash__(self) -> int:
        """By the place."""
        return hash(self.place)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes of a file, or the range of them that is asked for."""
        if key not in self.files:
            return None
        start, stop = _range(byte_range, self.files[key])
        try:
            content = await asyncio.to_thread(self.place.read, key, start, stop)
        except FileNotFoundError as error:
            raise PlaceError(
                f"{self.place} lost {key} since it was opened: it was replaced or deleted; open it"
                " again"
            ) from error
        return prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several ranges at a time."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        """Whether there is a file of that name."""
        return key in self.files

    async def list(self) -> AsyncIterator[str]:
        """The names of all files."""
        for name in self.files:
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """The names of all files that begin so."""
        for name in self.files:
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The names of what lies directly in a folder."""
        folder = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
        inside = (name.removeprefix(folder) for name in self.files if name.startswith(folder))
        for name in dict.fromkeys(rest.partition("/")[0] for rest in inside):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Refused."""
        raise PlaceError(f"{self.place} is only read from")

    async def set_partial_values(self, key_start_values: object) -> None:
        """Refused."""
        raise PlaceError(f"{self.place} is only read from")

    async def delete(self, key: str) -> None:
        """Refused."""
        raise PlaceError(f"{self.place} is only read from")


def _range(wanted: ByteRequest | None, size: int) -> tuple[int, int]:
    if isinstance(wanted, RangeByteRequest):
        return wanted.start, min(wanted.end, size)
    if isinstance(wanted, OffsetByteRequest):
        return wanted.offset, size
    if isinstance(wanted, SuffixByteRequest):
        return max(0, size - wanted.suffix), size
    return 0, size

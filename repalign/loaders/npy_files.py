"""Arrays of .npy and .npz files, mapped into memory instead of read."""

from __future__ import annotations

import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

LOCAL_HEADER = "<26xHH"  # of a zip's member; its name and an extra field follow


def map_npy(file: IO[bytes]) -> Array:
    """The array that starts at a file's position, mapped; the position moves behind it.

    The map outlives the file object, also where the file has no name any more.

    Raises:
        ValueError: no npy array starts here, the file ends before it does, or it holds Python
            objects, which are never unpickled.
    """
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"npy version {version} is for named fields; expected plain numbers")
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    order: Any = "F" if fortran else "C"
    start, count = file.tell(), int(np.prod(shape, dtype=object))
    if count * dtype.itemsize == 0:  # nothing that could be mapped
        return np.empty(shape, dtype, order)
    mapped: Array = np.memmap(file, dtype, "r", start, shape, order)
    file.seek(start + mapped.nbytes)
    return mapped


class Unpacked:
    """An array that was unpacked once; whoever gets it pickled unpacks it again.

    Args:
        unpack: function of a module, called with the arguments, that gives the array.
    """

    def __init__(self, unpack: Callable[..., Array], *arguments: Any) -> None:
        """Unpack."""
        self.how, self.array = (unpack, *arguments), unpack(*arguments)

    def __call__(self) -> Array:
        """Return the array."""
        return self.array

    def __reduce__(self) -> tuple[type[Unpacked], tuple[Any, ...]]:
        """Keep the values out of the pickle, which dask makes of whatever reads a block."""
        return Unpacked, self.how


def npz_names(path: Path) -> list[str]:
    """Names of the arrays of an .npz file."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def npz_member(path: Path, name: str) -> Callable[[], Array]:
    """A function that maps one array of an .npz file, whose checksum is compared here.

    A compressed member is unpacked once, into a temporary file without a name.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        info = archive.getinfo(name if f"{name}.npy" not in names else f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            return Unpacked(_unpack, path, info.filename)
        with archive.open(info) as member:  # at its end zipfile compares the checksum
            while member.read(1 << 20):
                pass

    def mapped() -> Array:
        with path.open("rb") as file:
            file.seek(info.header_offset)
            name_length, extra_length = struct.unpack(LOCAL_HEADER, file.read(30))
            file.seek(name_length + extra_length, 1)
            start = file.tell()
            array = map_npy(file)
            if file.tell() - start > info.file_size:
                raise ValueError(f"{info.filename} is longer than its place in the zip")
            return array

    mapped()
    return mapped


def _unpack(path: Path, name: str) -> Array:
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryFile() as file:
        size, free = archive.getinfo(name).file_size, shutil.disk_usage(tempfile.gettempdir()).free
        if size > free:
            raise ValueError(
                f"{name} unpacks to {size} bytes, and {tempfile.gettempdir()} has {free} left; name"
                " another folder in TMPDIR"
            )
        with archive.open(name) as member:
            shutil.copyfileobj(member, file)
        file.seek(0)
        return map_npy(file)

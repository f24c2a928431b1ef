"""One array of one file, read in slabs: .npy, .npz, .mat, .h5, .csv and .parquet.

Only the slab asked for is read of ``.npy``, of HDF5 (``.h5``, ``.hdf5``, and ``.mat`` of version
7.3), of ``.npz`` that is not compressed, and of ``.parquet`` (a row group at least). A compressed
``.npz`` and a ``.mat`` up to version 7, which holds 2 GB a variable at most, are unpacked once into
a temporary file (in ``TMPDIR``) and read from there. A ``.csv`` is read whole: keep large arrays
in one of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repalign.loaders.hdf5 import open_hdf5
from repalign.loaders.mat5 import read_mat5
from repalign.loaders.npy_files import Unpacked, npz_member, npz_names
from repalign.loaders.table_files import CsvTable, ParquetTable

Array = np.ndarray[Any, np.dtype[Any]]

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MATLAB_HEADER_BYTES = 512
NUMERIC = "fiub"


@dataclass(frozen=True)
class ArrayFile:
    """An array in a file: what is known before its values are read, and a way to read them.

    Attributes:
        path: of the file.
        shape: of the array, with the axes in the order in which NumPy, or MATLAB, shows them.
        stored: type of the numbers in the file.
        read: ``read(axis, start, stop)`` gives that part of one axis and all of the others.
        ids: stimulus ids of the rows, where the file has them.
    """

    path: Path
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    read: Callable[[int, int, int], Array]
    ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Raise for what can be no array of responses."""
        if self.stored.kind not in NUMERIC:
            raise ValueError(f"{self.path} has type {self.stored}, expected numbers")
        if len(self.shape) < 2:
            raise ValueError(f"{self.path} has shape {self.shape}, expected two or more axes")
        if 0 in self.shape:
            raise ValueError(f"{self.path} has shape {self.shape}: it holds no values")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type that the values are given as: float32 where they are stored so, else float64."""
        single = self.stored.kind == "f" and self.stored.itemsize == 4
        return np.dtype(np.float32 if single else np.float64)

    def slab(self, axis: int, start: int, stop: int) -> Array:
        """Indices ``start`` to ``stop`` of one axis, all of the others; a copy.

        Raises:
            ValueError: the file is damaged there.
        """
        with _named(self.path):
            values = self.read(axis, start, stop)
            mapped = not values.flags.owndata
            return np.array(values, dtype=self.dtype, copy=True if mapped else None)


def open_array(path: Path, variable: str | None = None) -> ArrayFile:
    """Look up an array in a file.

    Args:
        path: of the file; its suffix says what it is.
        variable: which array of a file that has names for them: of an ``.npz``; a path such as
            ``group/responses`` of an HDF5 file, ``data.responses`` of a ``.mat``. May be left out
            where there is one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, a damaged one, no such array, or one that is no array of
            numbers with two axes or more.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"{path}: expected responses in {', '.join(READERS)}")
    if variable is not None and suffix not in WITH_NAMES:
        raise ValueError(
            f"{path}: variable = {variable!r} applies to {', '.join(WITH_NAMES)} files only"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with _named(path):
        return READERS[suffix](path, variable)


def read_array(path: Path, variable: str | None) -> tuple[Array, Sequence[str] | None]:
    """All values of a file, and stimulus ids where a .csv or .parquet has them."""
    source = open_array(path, variable)
    return source.slab(0, 0, source.shape[0]), source.ids


def array_names(path: Path) -> list[str | None]:
    """The arrays of an .npz; of other files the one that has no name."""
    if path.suffix.lower() != ".npz":
        return [None]
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with _named(path):
        return [*npz_names(path)]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of whatever reads a file as a ValueError that names the file."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # of damaged files the libraries raise many types
        if isinstance(error, ValueError | FileNotFoundError) and str(path) in str(error):
            raise
        objects = "pickle" in str(error) or "Python objects" in str(error)
        reason = "it holds Python objects" if objects else str(error) or type(error).__name__
        raise ValueError(f"{path} is no readable {path.suffix.lower()} file: {reason}") from error


def _choose(path: Path, names: Sequence[str], variable: str | None) -> str:
    if variable is None and len(names) != 1:
        raise ValueError(
            f'{path} holds {", ".join(names) or "no arrays"}; choose one (variable = "…" under'
            " [options] of a dataset card), or save it as .npy"
        )
    if variable is not None and variable not in names:
        raise ValueError(f"{path} has no {variable!r}; it holds {', '.join(names)}")
    return variable or names[0]


def _part(array: Array, axis: int, start: int, stop: int) -> Array:
    part: Array = array[(slice(None),) * axis + (slice(start, stop),)]
    return part


def _of_array(
    path: Path, mapped: Callable[[], Array], ids: tuple[str, ...] | None = None
) -> ArrayFile:
    """An array that is in memory, or mapped each time it is needed."""
    array = mapped()
    return ArrayFile(path, array.shape, array.dtype, lambda *part: _part(mapped(), *part), ids=ids)


def _open_npy(path: Path, variable: str | None) -> ArrayFile:
    return _of_array(path, lambda: np.lib.format.open_memmap(path, mode="r"))


def _open_npz(path: Path, variable: str | None) -> ArrayFile:
    return _of_array(path, npz_member(path, _choose(path, npz_names(path), variable)))


def _open_mat(path: Path, variable: str | None) -> ArrayFile:
    """The version is in the file: 7.3 is HDF5, mostly after a header of MATLAB's own."""
    with path.open("rb") as file:
        head = file.read(MATLAB_HEADER_BYTES + len(HDF5_SIGNATURE))
    if HDF5_SIGNATURE in (head[: len(HDF5_SIGNATURE)], head[MATLAB_HEADER_BYTES:]):
        return _open_hdf5(path, variable, matlab=True)
    return _of_array(path, Unpacked(_mat5_array, path, variable))


def _mat5_array(path: Path, variable: str | None) -> Array:
    [array] = read_mat5(path, [] if variable is None else [variable])
    return array


def _open_hdf5(path: Path, variable: str | None, *, matlab: bool = False) -> ArrayFile:
    """A dataset. MATLAB counts axes from the other end, so its arrays are turned around."""
    separator = "." if matlab else "/"
    with open_hdf5(path) as file:
        if variable is None:
            variable = _choose(path, _hdf5_names(file, separator), None)
        place = variable.replace(separator, "/")
        if place not in file:
            _choose(path, _hdf5_names(file, separator), variable)
        problem = _problem(file[place], variable, separator)
        if problem:
            raise ValueError(f"{path}: {variable} is {problem}")
        shape, dtype = file[place].shape, file[place].dtype

    def read(axis: int, start: int, stop: int) -> Array:
        with open_hdf5(path) as file:
            values: Array = file[place]
            if not matlab:
                return _part(values, axis, start, stop)
            return _part(values, len(shape) - 1 - axis, start, stop).T

    return ArrayFile(path, shape[::-1] if matlab else shape, dtype, read)


def _hdf5_names(file: Any, separator: str) -> list[str]:
    """The arrays of numbers; MATLAB's own places begin with #."""
    names: list[str] = []

    def visit(name: str, item: Any) -> None:
        hidden = name.startswith("#") or "MATLAB_sparse" in item.parent.attrs
        if not hidden and not _problem(item, name, separator):
            names.append(name.replace("/", separator))

    file.visititems(visit)
    return names


def _problem(item: Any, name: str, separator: str) -> str:
    """Why an object of an HDF5 file is no array of responses; empty: it is one."""
    kind = _text(item.attrs.get("MATLAB_class", b""))
    if "MATLAB_sparse" in item.attrs:
        return f"sparse; save full({name}) instead"
    if hasattr(item, "keys"):
        members = ", ".join(f"{name}{separator}{member}" for member in item)
        return f"a {kind or 'group'} of {members or 'nothing'}; choose one of them"
    if kind in ("char", "cell", "function_handle") or item.dtype.kind not in NUMERIC:
        return f"no array of numbers but of {kind or item.dtype}"
    if item.attrs.get("MATLAB_empty"):
        return "empty"
    return (
        "" if len(getattr(item, "shape", None) or ()) >= 2 else "an array with fewer than two axes"
    )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _open_csv(path: Path, variable: str | None) -> ArrayFile:
    table = CsvTable(path)
    return _of_array(path, lambda: table.numbers, table.ids)


def _open_parquet(path: Path, variable: str | None) -> ArrayFile:
    table = ParquetTable(path)
    return ArrayFile(path, table.shape, table.dtype, table.read, table.ids)


READERS: dict[str, Callable[[Path, str | None], ArrayFile]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".mat": _open_mat,
    ".h5": _open_hdf5,
    ".hdf5": _open_hdf5,
    ".csv": _open_csv,
    ".parquet": _open_parquet,
}
WITH_NAMES = (".npz", ".mat", ".h5", ".hdf5")

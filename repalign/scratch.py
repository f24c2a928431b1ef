"""A scratch folder for what does not fit in memory, which no killed run leaves behind for long."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from repalign.rotation_plan import AHEAD, ITEM, Piece

PREFIX = "repalign-scratch-"

Array = np.ndarray[Any, np.dtype[Any]]


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder that is removed when the block ends; those of runs that were killed go first.

    Its lock lies beside it and is taken before the folder is there, so that a folder whose lock is
    free belongs to nobody.
    """
    from filelock import FileLock

    parent.mkdir(parents=True, exist_ok=True)
    remove_stale(parent)
    folder = parent / f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex[:12]}"
    lock = FileLock(parent / f"{folder.name}.lock")
    with lock:
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)


def remove_stale(parent: Path) -> None:
    """Remove the scratch folders of runs that are no more."""
    from filelock import FileLock, Timeout

    for folder in parent.glob(f"{PREFIX}*"):
        if not folder.is_dir():
            continue
        lock = FileLock(parent / f"{folder.name}.lock")
        with contextlib.suppress(Timeout, OSError), lock.acquire(timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)


class PieceFiles:
    """Files of stimulus × unit float32 numbers, written some rows at a time and read whole.

    Plain files: what the system keeps of them in its cache is no memory of this process.

    Args:
        folder: where they lie.
        n_stimuli: rows of each.

    Example:
        >>> import tempfile
        >>> piece = Piece("conv", 0, 2, last=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = PieceFiles(Path(folder), n_stimuli=2)
        ...     files.make(piece)
        ...     files.write(piece, 1, np.float32([[3, 4]]))
        ...     files.write(piece, 0, np.float32([[1, 2]]))
        ...     next(files.take([piece]))[1]
        array([[1., 2.],
               [3., 4.]], dtype=float32)
    """

    def __init__(self, folder: Path, *, n_stimuli: int) -> None:
        """Start with no files."""
        self.folder, self.n_stimuli = folder, n_stimuli
        self._names: dict[Piece, Path] = {}
        self._numbers = itertools.count()

    def make(self, piece: Piece) -> None:
        """Make a piece's file at full size, so that a full disk is met before any work."""
        path = self.folder / str(next(self._numbers))  # a layer's name may be no file's
        self._names[piece] = path
        size = self.n_stimuli * piece.units * ITEM
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, size)
            else:
                os.ftruncate(handle, size)
        finally:
            os.close(handle)

    def write(self, piece: Piece, row: int, values: Array) -> None:
        """Write rows of a piece from ``row`` on."""
        data = np.ascontiguousarray(values, dtype=np.float32).data.cast("B")
        at = row * piece.units * ITEM
        handle = os.open(self._names[piece], os.O_WRONLY)
        try:
            while data:
                written = os.pwrite(handle, data, at)
                data, at = data[written:], at + written
        finally:
            os.close(handle)

    def take(self, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Array]]:
        """Read pieces one after the other, and remove their files.

        The next one is read while one is used, in turn into the same two arrays, which is quicker
        than new memory for each: an array is good until the next one is asked for.
        """
        largest = max(piece.units for piece in pieces) * self.n_stimuli
        arrays = [np.empty(largest, np.float32) for _ in pieces[:AHEAD]]
        with ThreadPoolExecutor(1, "read") as thread:
            ahead = thread.submit(self._read, pieces[0], arrays[0])
            for number, piece in enumerate(pieces, start=1):
                values = ahead.result()
                if number < len(pieces):
                    ahead = thread.submit(self._read, pieces[number], arrays[number % AHEAD])
                yield piece, values

    def _read(self, piece: Piece, into: Array) -> Array:
        path = self._names.pop(piece)
        values = into[: piece.units * self.n_stimuli]
        left = values.data.cast("B")
        with path.open("rb", buffering=0) as file:
            while left:
                count = file.readinto(left)
                if not count:
                    raise OSError(f"{path} is shorter than it was made")
                left = left[count:]
        path.unlink()
        return values.reshape(self.n_stimuli, piece.units)

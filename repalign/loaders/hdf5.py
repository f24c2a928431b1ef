"""HDF5 files from elsewhere, looked through in a process of their own before they are opened.

A damaged or malicious file can crash or hang the HDF5 library itself, and with it the process that
reads it; links and virtual datasets can point at any file of the machine.
"""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

SECONDS = 120
MEMORY_BYTES = 4 << 30

# Runs alone, by `python -I -c`. What it finds wrong is one line on stdout.
_PROBE = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
except (ImportError, ValueError, OSError):
    pass
import h5py
try:
    file = h5py.File(sys.argv[1], "r")
except Exception as error:
    print(f"it is no readable HDF5 file: {error}")
    sys.exit()
seen, waiting = set(), [file]
while waiting:
    group = waiting.pop()
    for name in group:
        place = f"{group.name.rstrip('/')}/{name}"
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            print(f"{place} is a link into another file, {link.filename!r}, which is not followed")
            sys.exit()
        try:
            item = group[name]
        except KeyError:
            continue  # a soft link to nothing
        except Exception as error:
            print(f"{place} cannot be read: {error}")
            sys.exit()
        known = h5py.h5o.get_info(item.id)
        if (known.fileno, known.addr) in seen:
            continue
        seen.add((known.fileno, known.addr))
        if isinstance(item, h5py.Group):
            waiting.append(item)
        elif isinstance(item, h5py.Dataset):
            if item.external or (item.is_virtual and any(
                source.file_name not in (".", "") for source in item.virtual_sources()
            )):
                print(f"{place} keeps its values in another file, which is not followed")
                sys.exit()
            try:
                if item.size:
                    item[(0,) * item.ndim], item[tuple(n - 1 for n in item.shape)]
            except Exception as error:
                print(f"{place} cannot be read: {error}")
                sys.exit()
"""


def check_hdf5(path: Path) -> None:
    """Raise unless a file can be walked through, its datasets' ends read, without any mishap.

    Args:
        path: of an HDF5, netCDF-4 or NWB file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no HDF5 file, damaged, crashes the library, takes longer than 2 minutes,
            or refers to other files.

    Example:
        >>> import tempfile, h5py
        >>> path = Path(tempfile.mkdtemp()) / "a.h5"
        >>> with h5py.File(path, "w") as file:
        ...     file["x"] = [1, 2]
        >>> check_hdf5(path)
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    stat = path.stat()
    problem = _problem(str(path), stat.st_size, stat.st_mtime_ns)
    if problem:
        raise ValueError(f"{path}: {problem}")


@lru_cache(maxsize=4096)
def _problem(path: str, size: int, time_ns: int) -> str:
    """What is wrong with a file as it is now; empty: nothing."""
    command = [sys.executable, "-I", "-c", _PROBE, path, str(MEMORY_BYTES)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"looking through it took longer than {SECONDS} s: it is damaged"
    if done.returncode:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        return f"the HDF5 library failed on it ({how}); it is damaged: fetch or export it again"
    return done.stdout.strip()


def open_hdf5(path: Path) -> Any:
    """A checked HDF5 file, open for reading; use it as a context manager.

    Raises:
        ValueError, FileNotFoundError: as `check_hdf5`.
    """
    import h5py

    check_hdf5(path)
    return h5py.File(path, "r")

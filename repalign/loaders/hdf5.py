"""HDF5 files from elsewhere, looked through in a process of their own before they are opened.

A damaged or malicious file can crash or hang the HDF5 library itself, and with it the process that
reads it; links and virtual datasets can point at any file of the machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SECONDS = 120
MEMORY_BYTES = 4 << 30
MOST_KNOWN = 4096

# Runs alone, by `python -I -c`, and says in one line what is wrong with each file, if anything.
_PROBE = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
except (ImportError, ValueError, OSError):
    pass
import h5py

def problem(path):
    try:
        file = h5py.File(path, "r")
    except Exception as error:
        return f"it is no readable HDF5 file: {error}"
    seen, waiting = set(), [file]
    while waiting:
        group = waiting.pop()
        for name in group:
            place = f"{group.name.rstrip('/')}/{name}"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                other = repr(link.filename)
                return f"{place} is a link into another file, {other}, which is not followed"
            try:
                item = group[name]
            except KeyError:
                continue  # a soft link to nothing
            except Exception as error:
                return f"{place} cannot be read: {error}"
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
                    return f"{place} keeps its values in another file, which is not followed"
                try:
                    if item.size:
                        item[(0,) * item.ndim], item[tuple(n - 1 for n in item.shape)]
                except Exception as error:
                    return f"{place} cannot be read: {error}"
    return ""

for path in sys.argv[2:]:
    print(" ".join(problem(path).split()), flush=True)
"""


def check_hdf5(*paths: Path) -> None:
    """Raise unless files can be walked through, their datasets' ends read, without any mishap.

    Args:
        paths: of HDF5, netCDF-4 or NWB files; several at once take one process together.

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
    states = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        states[path] = (str(path), path.stat().st_size, path.stat().st_mtime_ns)
    new = [state for state in states.values() if state not in _KNOWN]
    if len(_KNOWN) + len(new) > MOST_KNOWN:
        _KNOWN.clear()
    if len(new) > 1:
        done = _probe([path for path, _, _ in new])
        if isinstance(done, list) and not any(done):
            _KNOWN.update(dict.fromkeys(new, ""))
    for path, state in states.items():
        if state not in _KNOWN:  # alone, so that it is known which file takes the process down
            found = _probe([state[0]])
            _KNOWN[state] = found if isinstance(found, str) else found[0]
        if _KNOWN[state]:
            raise ValueError(f"{path}: {_KNOWN[state]}")


_KNOWN: dict[tuple[str, int, int], str] = {}  # what is wrong with files as they are now


def _probe(paths: Sequence[str]) -> list[str] | str:
    """What is wrong with each file, or what became of the process."""
    command = [sys.executable, "-I", "-c", _PROBE, str(MEMORY_BYTES), *paths]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"looking through it took longer than {SECONDS} s: it is damaged"
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) != len(paths):
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        return f"the HDF5 library failed on it ({how}); it is damaged: fetch or export it again"
    return [line.strip() for line in lines]


def open_hdf5(path: Path) -> Any:
    """A checked HDF5 file, open for reading; use it as a context manager.

    Raises:
        ValueError, FileNotFoundError: as `check_hdf5`.
    """
    import h5py

    check_hdf5(path)
    return h5py.File(path, "r")

"""Variables of MATLAB files up to version 7, read in a process of their own.

A damaged or malicious file crashes the library that reads these files, scipy, and with it the
process. So another process reads, with bounds on its time and memory, and leaves plain numbers and
text in a temporary file; nothing of a file is executed. Version 7.3 is HDF5: see
`repalign.loaders.array_files`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from repalign.loaders.npy_files import map_npy

Array = np.ndarray[Any, np.dtype[Any]]

SECONDS = 300
MEMORY_BYTES = 12 << 30  # a variable has at most 2 GB, and is there several times while it is read

# These run alone, by `python -I -c`. Arrays go to stdout; a complaint is the last line of stderr.
_START = r"""
import sys

def fail(complaint):
    print("\n" + " ".join(str(complaint).split()), file=sys.stderr)
    sys.exit(3)

try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
except (ImportError, ValueError, OSError):
    pass
"""
_CHECK = (
    _START
    + r"""
from scipy.io import loadmat
try:
    loadmat(sys.argv[1])
except Exception as error:
    fail(f"it is no readable .mat file: {error or type(error).__name__}")
"""
)
_READER = (
    _START
    + r"""
import numpy as np
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatlabFunction, MatlabOpaque
from scipy.sparse import issparse

def pick(content, name):
    place, *fields = name.split(".")
    value = content[place]
    for field in fields:
        known = getattr(value, "dtype", np.dtype("f8")).names or ()
        if field not in known:
            fail(f"{place} has no field {field!r}; " + (
                f"there are {', '.join(known)}" if known else "it is no struct"))
        if value.size != 1:
            fail(f"{place} is an array of {value.size} structs; save the one you mean by itself")
        value, place = value[field].flat[0], f"{place}.{field}"
    return value

def check(value, name):
    if issparse(value):
        fail(f"{name} is sparse; save full({name}) instead")
    if isinstance(value, (MatlabOpaque, MatlabFunction)):
        fail(f"{name} is an object or a function; expected an array of numbers")
    if value.dtype.names:
        fields = ", ".join(f"{name}.{field}" for field in value.dtype.names)
        fail(f"{name} is a struct; choose one of its fields: {fields}")
    if value.dtype.kind not in "fiubcU":
        fail(f"{name} is a cell array; expected an array of numbers")
    return value

try:
    known = [name for name, _, _ in whosmat(sys.argv[1])]
    names = sys.argv[3:]
    if not names and len(known) != 1:
        fail(f'it holds {", ".join(known) or "nothing"}; choose one (variable = "…" under [options]'
             " of a dataset card)")
    names = names or known
    missing = [name for name in names if name.split(".")[0] not in known]
    if missing:
        fail(f"it has no {missing[0]!r}; it holds {', '.join(known)}")
    content = loadmat(sys.argv[1], variable_names=[name.split(".")[0] for name in names])
    found = [check(pick(content, name), name) for name in names]
except Exception as error:
    fail(f"it is no readable .mat file: {error or type(error).__name__}")
try:
    for value in found:
        np.lib.format.write_array(sys.stdout.buffer, np.asarray(value), allow_pickle=False)
    sys.stdout.buffer.flush()
except OSError as error:
    fail(f"its values could not be written into a temporary file (see TMPDIR): {error}")
"""
)


def read_mat5(path: Path, names: Sequence[str] = ()) -> list[Array]:
    """Variables of a .mat file of version 4 to 7, mapped from a temporary file.

    Args:
        path: of the file.
        names: of variables, or of fields of structs, such as ``data.response``; without any, the
            one variable that the file holds.

    Returns:
        One array of numbers or text a name, with the axes that MATLAB shows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or crashes its reader, a name is not in it (those that are
            get listed), or stands for a cell array, a struct, a sparse matrix or an object.

    Example:
        >>> from scipy.io import savemat
        >>> path = Path(tempfile.mkdtemp()) / "a.mat"
        >>> savemat(path, {"data": {"response": np.eye(2, 3)}})
        >>> read_mat5(path, ["data.response"])[0].shape
        (2, 3)
    """
    with tempfile.TemporaryFile() as file:
        _read_apart(_READER, path, names, file)
        file.seek(0)
        return [map_npy(file) for _ in names or range(1)]


def check_mat5(path: Path) -> None:
    """Raise unless scipy can read all of a .mat file of version 4 to 7 without any mishap.

    For files of nested structs, which are then read in this process.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, crashes its reader, or takes too long or too much memory.

    Example:
        >>> from scipy.io import savemat
        >>> path = Path(tempfile.mkdtemp()) / "a.mat"
        >>> savemat(path, {"data": {"response": np.eye(2, 3)}})
        >>> check_mat5(path)
    """
    _read_apart(_CHECK, path, (), subprocess.DEVNULL)


def _read_apart(code: str, path: Path, names: Sequence[str], out: IO[bytes] | int) -> None:
    """Run code that reads a file in a process of its own."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    options = ["-I", "-X", "utf8", "-W", "ignore"]
    command = [sys.executable, *options, "-c", code, str(path), str(MEMORY_BYTES), *names]
    try:
        done = subprocess.run(
            command, stdout=out, stderr=subprocess.PIPE, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{path}: reading it took longer than {SECONDS} s") from error
    if done.returncode == 3:
        raise ValueError(f"{path}: {done.stderr.decode(errors='replace').splitlines()[-1]}")
    if done.returncode:
        status = done.returncode
        how = f"signal {-status}" if status < 0 else f"code {status}"
        raise ValueError(
            f"{path}: it is no readable .mat file: its reader failed ({how}); fetch or export"
            " it again"
        )

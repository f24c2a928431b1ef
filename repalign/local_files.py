"""Files and folders of a local disk that are whole or absent, and one writer at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

LOCKS = ".locks"
WAIT_S = 2.0  # for another process, before saying so
STALE_SECONDS = 30 * 24 * 3600  # no ingest takes a month


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time make the store at ``path``; a killed one frees the lock."""
    from filelock import FileLock, Timeout

    try:
        folder = path.parent / LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{path.name}.lock")
        try:
            lock.acquire(timeout=WAIT_S)
        except Timeout:
            print(f"another process makes {path}: waiting for it", file=sys.stderr)
            lock.acquire()
    except OSError as error:
        raise OSError(f"could not write into {path.parent}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def building(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    folder = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
    try:
        folder.mkdir()
        yield folder
        old = path.with_name(f"{path.name}.old-{uuid.uuid4().hex}")
        if path.exists():
            path.rename(old)
        try:
            folder.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise OSError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def recover(path: Path) -> None:
    """Finish what a killed process began: bring an old store back, drop stale temporaries."""
    if not path.exists():
        for old in path.parent.glob(f"{path.name}.old-*"):
            with contextlib.suppress(OSError):
                old.rename(path)
    for leftover in (
        *path.parent.glob(f"{path.name}.tmp-*"),
        *path.parent.glob(f"{path.name}.old-*"),
    ):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """``alg:hex`` of a file."""
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"

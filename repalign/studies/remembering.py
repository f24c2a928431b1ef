"""What was found out once, kept under the hash of all that it depends on."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from repalign.local_files import write_file

YOUNG_S = 2.0  # a file written so lately could change again without a sign of it


def remembered(folder: Path, of: Any, find: Callable[[], Any]) -> Any:
    """What ``find`` gives, from a file where it was found before.

    Args:
        folder: of such files. Where it cannot be written, nothing is kept.
        of: all that the finding depends on, as JSON; None: it is not known, so nothing is kept.
        find: gives JSON.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> remembered(folder, {"x": 1}, lambda: 2), remembered(folder, {"x": 1}, lambda: 3)
        (2, 2)
    """
    if of is None:
        return find()
    words = json.dumps(of, sort_keys=True)
    path = folder / f"{sha256(words.encode()).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent, or damaged
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["of"] == json.loads(words):
            return kept["found"]
    found = find()
    with contextlib.suppress(OSError):
        write_file(path, json.dumps({"of": of, "found": found}))
    return found


def state_of_files(paths: Sequence[Path]) -> list[list[Any]] | None:
    """What changes with the content of files; None where one is too young to tell, or not there."""
    found = []
    for path in paths:
        try:
            state = path.stat()
        except OSError:
            return None
        if time.time() - max(state.st_mtime, state.st_ctime) < YOUNG_S:
            return None
        found.append([str(path), state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns])
    return found


def state_of_packages(names: Sequence[str]) -> dict[str, str | None] | None:
    """Versions of installed packages; None where one is edited in place, under the same version."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
            continue
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            return None
        found[name] = distribution.version
    return found


@functools.cache
def package_digest() -> str:
    """sha256 of all modules of repalign."""
    package = Path(__file__).parents[1]
    digest = sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()

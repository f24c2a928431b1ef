"""Where a store lies: a local folder, a zip, or a folder of an object store or web server.

`find_place` makes one of three kinds of place of a name, and each reads files by their names inside
it: all of one, or a range of its bytes. Whoever reads a store need not know which kind it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from repalign.remote_files import (
    READ_ONLY,
    PlaceError,
    call,
    connect,
    explained,
    path_of,
    read_range,
    write_whole,
)
from repalign.zip_members import read_members

ZIP = ".zarr.zip"
REQUESTS = 8  # at a time


@dataclass(frozen=True)
class LocalFolder:
    """A folder of a local disk."""

    path: Path

    def __str__(self) -> str:
        """The name, as it is given to open it."""
        return str(self.path)

    def __truediv__(self, name: str) -> LocalFolder:
        """A folder inside."""
        return LocalFolder(self.path / name) if name else self

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of a file, or a range of them."""
        with (self.path / name).open("rb") as file:
            file.seek(start)
            return file.read(-1 if stop is None else stop - start)

    def write(self, name: str, content: bytes) -> None:
        """Write one file, in place."""
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_bytes(content)

    def sizes(self, expected: Iterable[str] = ()) -> dict[str, int]:
        """Bytes by name of all files."""
        found = {}
        waiting = [("", os.fspath(self.path))]
        while waiting:
            prefix, folder = waiting.pop()
            try:
                entries = [*os.scandir(folder)]
            except FileNotFoundError:  # deleted meanwhile, or never there
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{prefix}{entry.name}/", entry.path))
                elif entry.is_file():
                    found[prefix + entry.name] = entry.stat().st_size
        return found

    def folders(self) -> list[str]:
        """Names of the folders inside."""
        return [path.name for path in self.path.glob("*") if path.is_dir()]


@dataclass(frozen=True)
class Zip:
    """A folder inside a zip whose files are not compressed, so that any range can be read.

    The zip itself may lie on a local disk, in an object store or on a web server.
    """

    name: str
    inner: str = ""

    def __str__(self) -> str:
        """The name, as it is given to open it."""
        return f"{self.name}/{self.inner}" if self.inner else self.name

    def __truediv__(self, name: str) -> Zip:
        """A folder inside."""
        return Zip(self.name, f"{self.inner}/{name}".strip("/")) if name else self

    @cached_property
    def _state(self) -> str:
        return _zip_state(self.name)

    @cached_property
    def _members(self) -> Mapping[str, tuple[int, int]]:
        prefix = f"{self.inner}/" if self.inner else ""
        members = _zip_members(self.name, self._state)
        return {k.removeprefix(prefix): v for k, v in members.items() if k.startswith(prefix)}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of a file, or a range of them."""
        if name not in self._members:
            raise FileNotFoundError(f"{self} has no {name}")
        if "://" not in self.name and _zip_state(self.name) != self._state:
            raise PlaceError(f"{self.name} was replaced since it was opened; open it again")
        header, size = self._members[name]
        begin = _zip_start(self.name, self._state, header)
        return read_range(self.name, begin + start, begin + (size if stop is None else stop))

    def sizes(self, expected: Iterable[str] = ()) -> dict[str, int]:
        """Bytes by name of all files."""
        return {name: size for name, (_, size) in self._members.items()}

    def folders(self) -> list[str]:
        """Names of the folders inside."""
        return sorted({name.partition("/")[0] for name in self._members if "/" in name})


@dataclass(frozen=True)
class Remote:
    """A folder of an object store or a web server, through fsspec."""

    url: str

    def __str__(self) -> str:
        """The name, as it is given to open it."""
        return self.url

    def __truediv__(self, name: str) -> Remote:
        """A folder inside."""
        return Remote(f"{self.url}/{name}") if name else self

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of a file, or a range of them."""
        if start == 0 and stop is None:
            return call(f"{self.url}/{name}", "cat_file")  # type: ignore[no-any-return]
        return read_range(f"{self.url}/{name}", start, stop)

    def write(self, name: str, content: bytes) -> None:
        """Write one file; readers of an object store see it when it is whole."""
        write_whole(f"{self.url}/{name}", content)

    def sizes(self, expected: Iterable[str] = ()) -> dict[str, int]:
        """Bytes by name of all files, in one listing.

        Web servers have none: there it is those of the ``expected`` files that exist.
        """
        if self.url.startswith(READ_ONLY):
            names = list(expected)
            with ThreadPoolExecutor(REQUESTS) as pool:
                sizes = pool.map(self._size, names)
            return {name: size for name, size in zip(names, sizes, strict=True) if size is not None}
        try:
            found = call(self.url, "find", detail=True)
        except FileNotFoundError:
            return {}
        root = path_of(self.url).rstrip("/") + "/"
        return {path.removeprefix(root): one["size"] for path, one in found.items()}

    def _size(self, name: str) -> int | None:
        try:
            size: int | None = call(f"{self.url}/{name}", "info")["size"]
        except FileNotFoundError:
            return None
        return size

    def folders(self) -> list[str]:
        """Names of the folders inside, as far as they are listed."""
        try:
            found = call(self.url, "ls", detail=True)
        except FileNotFoundError:
            return []
        own = path_of(self.url).strip("/")
        paths = [one["name"].strip("/") for one in found if one["type"] == "directory"]
        return [PurePosixPath(path).name for path in paths if path != own]

    def remove(self, *names: str) -> None:
        """Delete files, or folders with all that is in them; what is absent stays absent."""
        for name in names:
            try:
                call(f"{self.url}/{name}", "rm", recursive=True)
            except FileNotFoundError:
                continue


Place: TypeAlias = LocalFolder | Zip | Remote
Where: TypeAlias = str | os.PathLike[str] | Place


def find_place(where: Where) -> Place:
    """The place that a name, path or URL stands for; nothing is read yet.

    Args:
        where: ``NAME.zarr``, a folder; ``NAME.zarr.zip``, a zip, or ``NAME.zarr.zip/FOLDER`` inside
            one; or a URL of either, such as ``s3://bucket/NAME.zarr``.

    Raises:
        ValueError: a URL that went through `pathlib.Path`, which spoils it.

    Example:
        >>> find_place("data/a.zarr"), find_place("s3://lab/b.zarr/")
        (LocalFolder(path=PosixPath('data/a.zarr')), Remote(url='s3://lab/b.zarr'))
        >>> find_place("a.zarr.zip/layer4")
        Zip(name='a.zarr.zip', inner='layer4')
    """
    if isinstance(where, LocalFolder | Zip | Remote):
        return where
    text = str(where)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if re.match(r"[a-z][a-z0-9+.-]+:/[^/]", text) and not Path(text.partition("/")[0]).exists():
        raise ValueError(f"{text} was a URL before pathlib.Path took a / away; give it as text")
    archive, found, inner = (text.rstrip("/") + "/").partition(f"{ZIP}/")
    if found and not Path(f"{archive}{ZIP}").is_dir():
        return Zip(archive + ZIP, inner.rstrip("/"))
    return Remote(text.rstrip("/")) if "://" in text else LocalFolder(Path(text))


def is_safe_name(name: str) -> bool:
    """Whether the name of a file stays inside its folder."""
    parts = name.split("/")
    return not ({"", ".", ".."} & set(parts) or "\\" in name or ":" in parts[0] or "\0" in name)


def zip_exists(name: str) -> bool:
    """Whether there is a file of the name or URL of a zip."""
    if "://" not in name:
        return Path(name).exists()
    return bool(call(name, "exists"))


def _zip_state(name: str) -> str:
    """What changes when a zip is replaced."""
    try:
        return str(call(name, "ukey"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no finished store at {name}; there is no such file") from None


@lru_cache(maxsize=16)
def _zip_members(name: str, state: str) -> dict[str, tuple[int, int]]:
    with explained(name):
        filesystem = connect(name)
        size = filesystem.size(filesystem._strip_protocol(name))
        with filesystem.open(filesystem._strip_protocol(name), "rb") as file:
            try:
                return read_members(file, size, is_safe=is_safe_name)
            except ValueError as error:
                raise PlaceError(f"{name} {error}") from error


@lru_cache(maxsize=1 << 16)
def _zip_start(name: str, state: str, header: int) -> int:
    """Where the bytes of a member begin, after a header of its own."""
    content = read_range(name, header, header + 30)
    if content[:4] != b"PK\3\4":
        raise PlaceError(f"{name} is a damaged zip, or was replaced since it was opened")
    lengths = (int.from_bytes(content[at : at + 2], "little") for at in (26, 28))
    return header + 30 + sum(lengths)

"""The directory of a zip whose members are stored as they are, and nothing of it unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from typing import IO

ENCRYPTED = 0x1


def read_members(
    file: IO[bytes], size: int, *, is_safe: Callable[[str], bool]
) -> dict[str, tuple[int, int]]:
    """Where the header of each member begins, and how many bytes it has, by its name.

    Args:
        file: of the zip; only its end is read.
        size: bytes of the file.
        is_safe: whether a name stays inside the zip.

    Raises:
        ValueError: cut off, compressed, encrypted, or with names that lead elsewhere or come twice.

    Example:
        >>> import io
        >>> content = io.BytesIO()
        >>> with zipfile.ZipFile(content, "w") as archive:
        ...     archive.writestr("a/b", b"some bytes")
        >>> read_members(content, len(content.getvalue()), is_safe=lambda name: True)
        {'a/b': (0, 10)}
    """
    try:
        with zipfile.ZipFile(file) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise ValueError(f"is no whole zip ({error}); copy or download it again") from error
    found: dict[str, tuple[int, int]] = {}
    for info in infos:
        name = info.orig_filename  # filename ends at a NUL
        if not is_safe(name):
            raise ValueError(f"has a file {name!r}, whose name leads out of it; do not trust it")
        if name in found:
            raise ValueError(f"has two files {name!r}; make it again with repalign copy-store")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ENCRYPTED:
            raise ValueError(
                f"has compressed or encrypted files ({name}), which cannot be read in part; make it"
                " with repalign copy-store, or zip -0 -r"
            )
        if info.header_offset < 0 or info.header_offset + info.file_size > size:
            raise ValueError(f"is cut off: {name} lies beyond its end; copy or download it again")
        if info.file_size != info.compress_size:
            raise ValueError(f"is damaged: {name} has two sizes; copy or download it again")
        found[name] = (info.header_offset, info.file_size)
    return found

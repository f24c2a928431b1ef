"""Image files of a folder or a zip, found by name and read when they are needed."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from repalign.stimuli import MAX_FILE_BYTES, is_image_name


class ImageFiles(Sequence[bytes]):
    """Encoded images, read one at a time; nothing is unpacked to disk.

    Args:
        path: of the folder or zip.
        names: of the images in it.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        """Keep the names; nothing is read."""
        self.path, self.names = path, list(names)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        """Read one image."""
        if isinstance(index, slice):
            return ImageFiles(self.path, self.names[index])
        if self.path.is_dir():
            return (self.path / self.names[index]).read_bytes()
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.names[index])
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(
                f"{self.path}: {self.names[index]} is damaged or encrypted ({error}); unpack it"
                " with its password and give the folder"
            ) from error


def list_images(path: Path) -> list[str]:
    """The names of all images in a folder or a zip, below it and hidden ones left out.

    Raises:
        ValueError: it is neither, or a file that says it unpacks to more than an image takes.
    """
    if path.is_dir():
        names = [p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if p.is_file()]
        return [name for name in names if is_image_name(name)]
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [one for one in archive.infolist() if is_image_name(one.filename)]
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is neither a folder nor a zip of images: {error}") from error
    large = next((one for one in entries if one.file_size > MAX_FILE_BYTES), None)
    if large is not None:
        raise ValueError(
            f"{path}: {large.filename} unpacks to {large.file_size} bytes; at most"
            f" {MAX_FILE_BYTES} are expected of an image"
        )
    return [one.filename for one in entries if not one.is_dir()]


def find_images(
    path: Path, names: Sequence[str], *, asked: str = "the image of a stimulus", remedy: str = ""
) -> ImageFiles:
    """The image that each name means: by its path, its file name, or that without its ending.

    A path goes before a file name, and that before one without its ending.

    Args:
        path: of the folder or zip.
        names: one an image.
        asked: who names them, for errors.
        remedy: what to do about a name that means none or several.

    Raises:
        ValueError: a name means none, or several.
    """
    images = list_images(path)
    index: list[dict[str, list[str]]] = [{}, {}, {}]
    for name in images:
        pure = PurePosixPath(name)
        for by, key in zip(index, (name, pure.name, pure.stem), strict=True):
            by.setdefault(key, []).append(name)
    remedy = remedy or "give the path inside the zip or folder"
    chosen = []
    for name in names:
        found = next((by[name] for by in index if name in by), [])
        if not found:
            held = f"{len(images)} images" + (f", such as {images[0]!r}" if images else "")
            raise ValueError(f"{path} lacks {name!r}, {asked}; it holds {held}; {remedy}")
        if len(found) > 1:
            where = ", ".join(found[:3])
            raise ValueError(f"{path} has {name!r} {len(found)} times ({where}); {remedy}")
        chosen += found
    return ImageFiles(path, chosen)

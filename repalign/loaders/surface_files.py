"""GIFTI and CIFTI-2 files, checked before nibabel parses what they hold."""

from __future__ import annotations

import base64
import gzip
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from xml.parsers.expat import ParserCreate

import numpy as np

NIFTI2_BYTES = 540  # of the header; sizeof_hdr is its first number
CIFTI_EXTENSION = 32
COLUMN_BYTES = 32 << 20
ENCODINGS = ("ASCII", "Base64Binary", "GZipBase64Binary")

Array = np.ndarray[Any, np.dtype[Any]]


def open_gifti(path: Path) -> Any:
    """A GIFTI image, whose arrays all lie in the file itself; it is read whole.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no GIFTI, damaged, arrays in other files, entities or packed data that unpack
            to more than they say.
    """
    import nibabel

    if not path.name.lower().endswith((".gii", ".gii.gz")):
        raise ValueError(f"{path}: expected a GIFTI file, .gii or .gii.gz")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
        with opener(path, "rb") as file:
            _check_xml(path, file)
        image: Any = nibabel.load(path)
    except _Refused as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # of many kinds, for a damaged file
        raise ValueError(
            f"{path} is no readable GIFTI file ({type(error).__name__}: {error}); copy or export it"
            " again"
        ) from error
    if not isinstance(image, nibabel.GiftiImage) or not image.darrays:
        raise ValueError(f"{path} holds no GIFTI data arrays")
    return image


def open_cifti(path: Path) -> Any:
    """A CIFTI-2 image whose values are still on disk.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no CIFTI-2, cut short, or entities in its header.
    """
    import nibabel

    if not path.name.lower().endswith(".nii"):
        raise ValueError(f"{path}: expected a CIFTI-2 file, such as .dscalar.nii or .dtseries.nii")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        _check_cifti_header(path)
        image: Any = nibabel.Cifti2Image.from_filename(path)
        shape, kind = tuple(image.shape), image.nifti_header.get_data_dtype()
        axes = tuple(image.header.get_axis(i) for i in range(len(shape)))
        needed = int(image.dataobj.offset) + int(np.prod(shape, dtype=object)) * kind.itemsize
    except _Refused as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # of many kinds, for a damaged file
        raise ValueError(
            f"{path} is no readable CIFTI-2 file ({type(error).__name__}: {error}); copy or export"
            " it again"
        ) from error
    if len(shape) != 2 or type(axes[1]).__name__ != "BrainModelAxis":
        what = " × ".join(type(axis).__name__.removesuffix("Axis") for axis in axes)
        raise ValueError(
            f"{path} is of {what}; expected maps or time × grayordinates (.dscalar.nii,"
            " .dtseries.nii, .dlabel.nii)"
        )
    if shape != tuple(len(axis) for axis in axes) or 0 in shape or kind.kind not in "fiu":
        raise ValueError(f"{path} has shape {shape} of {kind}, which its axes do not fit")
    if needed > path.stat().st_size:
        raise ValueError(
            f"{path} is cut short: it needs {needed} bytes and has {path.stat().st_size}; copy or"
            " download it again"
        )
    return image


def cifti_columns(path: Path, visit: Callable[[int, Array], None]) -> None:
    """Give all values, some grayordinates at a time, as (first, row × grayordinate).

    A CIFTI-2 file holds all rows of a grayordinate next to each other.

    Raises:
        ValueError: the file is damaged.
    """
    image = open_cifti(path)
    rows, columns = image.shape
    step = max(1, COLUMN_BYTES // (8 * rows))
    for first in range(0, columns, step):
        try:
            part = np.asarray(image.dataobj[:, first : min(first + step, columns)])
        except Exception as error:
            raise ValueError(f"{path} is damaged: {error}; copy it again") from error
        visit(first, part)


def cifti_rows(path: Path, keep: Array, start: int, stop: int) -> Array:
    """Rows ``start`` to ``stop`` of the grayordinates of some indices, which ascend."""
    blocks: list[Array] = []

    def visit(first: int, part: Array) -> None:
        begin, end = np.searchsorted(keep, [first, first + part.shape[1]])
        blocks.append(part[start:stop, keep[begin:end] - first])

    cifti_columns(path, visit)
    return np.concatenate(blocks, axis=1)


class _Refused(Exception):
    """What a file may not hold; no error of a parser."""


def _check_xml(path: Path, file: IO[bytes]) -> None:
    """Raise for entities, arrays in other files, and data that unpack to more than they say."""
    parser = ParserCreate()
    packed: dict[str, Any] = {}

    def entity(*_: Any) -> None:
        raise _Refused(f"{path} declares XML entities, which no such file needs; it is not read")

    def start(name: str, given: dict[str, str]) -> None:
        if name == "DataArray":
            encoding = given.get("Encoding", "")
            if encoding.startswith("External"):
                raise _Refused(
                    f"{path} keeps its values in another file ({given.get('ExternalFileName')});"
                    " convert it to GZipBase64Binary (wb_command -gifti-convert)"
                )
            if encoding not in ENCODINGS:
                raise _Refused(
                    f"{path} has a data array of encoding {encoding!r}, expected one of"
                    f" {', '.join(ENCODINGS)}"
                )
            dims = [int(given.get(f"Dim{i}", 1)) for i in range(int(given["Dimensionality"]))]
            packed["bytes"] = 16 * int(np.prod(dims, dtype=object))  # no value takes more
            packed["is"] = encoding == "GZipBase64Binary"
        elif name == "Data" and packed.get("is"):
            packed.update(inflate=zlib.decompressobj(), rest="", left=packed["bytes"])

    def text(given: str) -> None:
        if "inflate" not in packed:
            return
        letters = packed["rest"] + "".join(given.split())
        whole = len(letters) // 4 * 4
        packed["rest"] = letters[whole:]
        found = packed["inflate"].decompress(
            base64.b64decode(letters[:whole]), max(1, packed["left"] + 1)
        )
        packed["left"] -= len(found)
        if packed["left"] < 0:
            raise _Refused(f"{path} has packed data of more values than it says; it is not read")

    def end(name: str) -> None:
        if name == "Data":
            packed.pop("inflate", None)

    parser.buffer_text = True
    parser.buffer_size = 1 << 20
    parser.EntityDeclHandler = entity
    parser.StartElementHandler = start
    parser.CharacterDataHandler = text
    parser.EndElementHandler = end
    parser.ParseFile(file)


def _check_cifti_header(path: Path) -> None:
    """Raise unless a NIfTI-2 header stands before XML without entities."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(NIFTI2_BYTES + 4)
        order = next((o for o in "<>" if header[:4] == struct.pack(f"{o}i", NIFTI2_BYTES)), None)
        if order is None or len(header) < NIFTI2_BYTES + 4:
            raise ValueError("it does not start with a NIfTI-2 header")
        place, stop = NIFTI2_BYTES + 4, struct.unpack(f"{order}q", header[168:176])[0]
        while place + 8 <= min(stop, size):
            length, code = struct.unpack(f"{order}ii", file.read(8))
            if length < 8 or place + length > size:
                raise ValueError(f"its header extension at byte {place} is cut short")
            content = file.read(length - 8)
            if code == CIFTI_EXTENSION:
                _check_xml(path, BytesIO(content.rstrip(b"\0")))
            place += length

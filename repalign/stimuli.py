"""Images by stimulus id, kept as the files they were published as.

The encoded files are stored back to back in one byte array of the recording's Zarr store, so
that a store is all a compute node needs, and no pixel is re-encoded.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import UInt8

from repalign.recording import STIMULUS, refuse_continuous, stimulus_ids
from repalign.remote_files import PlaceError
from repalign.store import REMEDY, has_group, open_store

GROUP = "stimuli"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")
MAX_FILE_BYTES = 256 << 20
BACKDROP = (127, 127, 127)

Image = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Stimuli:
    """Images in a fixed order, each with an id, decoded one at a time.

    Args:
        ids: stimulus ids, unique.
        files: the encoded image files, in the order of the ids (any sequence of bytes).
        visual_degrees: width of the images as they were shown, in degrees of visual angle.
        table: what is known of each stimulus, such as its category; one array a column.
    """

    ids: tuple[str, ...]
    files: Sequence[bytes]
    visual_degrees: float | None = None
    table: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the lengths."""
        if len(self.ids) != len(self.files):
            raise ValueError(f"{len(self.ids)} stimulus ids for {len(self.files)} images")
        if len(set(self.ids)) != len(self.ids):
            twice = next(name for name in self.ids if self.ids.count(name) > 1)
            raise ValueError(f"stimulus id {twice!r} stands twice; ids must be unique")

    def __len__(self) -> int:
        """Return the number of stimuli."""
        return len(self.ids)

    def image(self, index: int) -> Image:
        """Decode one image to RGB; transparency is laid over mid-grey.

        Raises:
            ValueError: the file is no image, or is cut short.
        """
        return decode(self.files[index], self.ids[index])

    def image_hash(self, index: int) -> str:
        """Return 16 hex digits of the sha256 of one image file."""
        return short_hash(self.files[index])

    def subset(self, ids: Sequence[str]) -> Stimuli:
        """Return the stimuli with these ids, in this order."""
        position = {name: i for i, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in position]
        if missing:
            raise ValueError(f"no image for {len(missing)} stimuli, such as {missing[0]!r}")
        rows = [position[name] for name in ids]
        table = {name: column[rows] for name, column in self.table.items()}
        files = [self.files[row] for row in rows]
        return Stimuli(tuple(ids), files, self.visual_degrees, table)

    def fingerprint(self) -> str:
        """sha256 of ids, files and visual degrees."""
        digest = hashlib.sha256(repr((self.ids, self.visual_degrees)).encode())
        for file in self.files:
            digest.update(hashlib.sha256(file).digest())
        return f"sha256:{digest.hexdigest()}"


def short_hash(file: bytes) -> str:
    """16 hex digits of the sha256 of an image file."""
    return hashlib.sha256(file).hexdigest()[:16]


def decode(file: bytes, name: str) -> Image:
    """Decode an encoded image to an RGB array."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(file)) as opened:
            opened.load()
            picture: Pillow.Image = opened
            if opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info:
                rgba = opened.convert("RGBA")
                picture = Pillow.new("RGB", rgba.size, BACKDROP)
                picture.paste(rgba, mask=rgba.getchannel("A"))
            elif opened.mode.startswith("I;16"):
                scaled = (np.asarray(opened, dtype=np.float32) / 257).round().astype(np.uint8)
                picture = Pillow.fromarray(scaled)
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        reason = "not an image file" if "cannot identify" in str(error) else str(error)
        raise ValueError(f"the image of stimulus {name!r} is corrupt: {reason}") from error


def encode_png(image: Image) -> bytes:
    """Encode an RGB array as a PNG file."""
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts ``image2`` before ``image10``."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts if part)


def read_images(path: Path) -> dict[str, bytes]:
    """All image files in a folder or a zip, by name in natural order; nothing is unpacked.

    Raises:
        ValueError: the zip is damaged, holds no images, or one of them is too large to be one.
    """
    found: dict[str, bytes] = {}
    if path.is_dir():
        files = [p for p in path.rglob("*") if is_image_name(p.relative_to(path).as_posix())]
        found = {p.relative_to(path).as_posix(): p.read_bytes() for p in files}
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if is_image_name(info.filename) and not info.is_dir():
                        if info.file_size > MAX_FILE_BYTES:
                            raise ValueError(
                                f"{path}: {info.filename} unpacks to {info.file_size} bytes;"
                                f" at most {MAX_FILE_BYTES} are expected of an image"
                            )
                        found[info.filename] = archive.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(
                f"{path} is a damaged or encrypted zip ({error}); copy or download it again"
            ) from error
    if not found:
        raise ValueError(f"{path} holds no images ({', '.join(SUFFIXES)})")
    return {name: found[name] for name in sorted(found, key=natural_key)}


def is_image_name(name: str) -> bool:
    """Whether a path inside a folder or zip is that of an image, and not hidden."""
    parts = Path(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and name.lower().endswith(SUFFIXES)


def stimuli_to_dataset(stimuli: Stimuli) -> xr.Dataset:
    """The stimuli as a dataset: bytes of all files, offsets, ids and table."""
    offsets = np.cumsum([0, *(len(file) for file in stimuli.files)], dtype=np.int64)
    data = np.frombuffer(b"".join(stimuli.files), dtype=np.uint8)
    columns = {
        name: ("stimulus", values.astype(object) if values.dtype.kind in "OUT" else values)
        for name, values in stimuli.table.items()
    }
    degrees = {} if stimuli.visual_degrees is None else {"visual_degrees": stimuli.visual_degrees}
    return xr.Dataset(
        {
            "data": ("byte", data),
            "start": ("stimulus", offsets[:-1]),
            "stop": ("stimulus", offsets[1:]),
        },
        coords={STIMULUS: ("stimulus", np.array(stimuli.ids, dtype=object)), **columns},
        attrs=degrees,
    )


class _StoredFiles(Sequence[bytes]):
    """The files of a store, read when asked for."""

    def __init__(self, ds: xr.Dataset, path: str) -> None:
        self.data, self.path = ds["data"], path
        self.starts, self.stops = ds["start"].values, ds["stop"].values

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        try:
            return self.data[int(self.starts[index]) : int(self.stops[index])].values.tobytes()
        except PlaceError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"store {self.path} is damaged: {error}; {REMEDY}") from error


def images_of(shown: xr.Dataset | Stimuli) -> Stimuli:
    """The images of a recording's stimuli, in the order of their first presentation.

    Raises:
        ValueError: the recording came without images, or there are no stimuli.
    """
    if isinstance(shown, Stimuli):
        if not len(shown):
            raise ValueError("there are no stimuli to show; give one or more")
        return shown
    refuse_continuous(shown, "showing images to a network")
    images, wanted = open_stimuli(shown), stimulus_ids(shown)
    return images if list(images.ids) == wanted else images.subset(wanted)


def open_stimuli(source: xr.Dataset | str | Path) -> Stimuli:
    """The stimuli of a recording that was opened from a store, or of the store itself.

    Raises:
        ValueError: the recording came without images.
    """
    path = source.attrs.get("store") if isinstance(source, xr.Dataset) else source
    if path is None or not has_group(path, GROUP):
        raise ValueError(
            "this recording has no images: ingest it with an 'images' file in its card,"
            " or give stimuli of your own"
        )
    ds = open_store(path, GROUP, dask=False)
    table = {
        str(name): ds[name].values
        for name in ds.coords
        if name != STIMULUS and ds[name].dims == ("stimulus",)
    }
    ids = tuple(str(name) for name in ds[STIMULUS].values)
    degrees = ds.attrs.get("visual_degrees")
    return Stimuli(ids, _StoredFiles(ds, str(path)), degrees, table)

"""Epochs in .fif files: the file is walked tag by tag before MNE opens it, then read by epoch."""

from __future__ import annotations

import gzip
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

SUFFIXES = (".fif", ".fif.gz")
FILE_ID, NEXT_FILE, EPOCHS = 100, 118, 302  # kinds of tags
FLOAT32, FLOAT64 = 4, 5  # types of values
KINDS: dict[int, np.dtype[Any]] = {FLOAT32: np.dtype(np.float32), FLOAT64: np.dtype(np.float64)}
HEADER = struct.Struct(">iIii")  # kind, type, bytes of data, place of the next tag
MAX_NAME_BYTES = 4096
DAMAGED = (OSError, EOFError, zlib.error)
Array = np.ndarray[Any, np.dtype[Any]]
Note = Callable[[str], None]

_ONE_AT_A_TIME = threading.Lock()  # MNE's level of messages and Python's warnings are global


@dataclass(frozen=True)
class EpochsFile:
    """What is known of a file of epochs whose values are still on disk.

    Args:
        path: of the file, of its first part where it is split.
        epochs: MNE's object, without values.
        kind: float32 or float64, as the values lie in the file.
        first: index of the first sample; sample 0 is the event.
    """

    path: Path
    epochs: Any
    kind: np.dtype[Any]
    first: int


def open_epochs(path: Path, *, apply_projections: bool, note: Note) -> EpochsFile:
    """Check a file and its parts, and read all but the values; the last epoch is tried.

    Args:
        path: of a ``.fif`` or ``.fif.gz``.
        apply_projections: also apply the projections that were not when the file was saved.
        note: is told what MNE warns of.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: MNE is not there.
        ValueError: no fif, cut short, no epochs, complex values, a name that stands twice.
    """
    kinds = _check_parts(path)
    if not kinds:
        raise ValueError(f"{path} holds no epochs; expected what mne.Epochs.save writes, *-epo.fif")
    if len(kinds) != 1 or not kinds <= set(KINDS):
        raise ValueError(
            f"{path} holds values of types {sorted(kinds)}, expected one of {sorted(KINDS)} (real"
            " numbers); save real-valued epochs with MNE, as *-epo.fif"
        )
    with _ONE_AT_A_TIME, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        epochs = _mne_open(path, apply_projections, level="WARNING")
        said = [str(one.message) for one in caught if issubclass(one.category, RuntimeWarning)]
    twice = next((text for text in said if "not unique" in text), None)
    if twice is not None:
        raise ValueError(f"{path}: {twice}; give each channel its own name and save it again")
    for text in said:
        if "naming conventions" not in text:
            note(f"MNE warns of {path.name}: {text}")
    if len(epochs) == 0:
        raise ValueError(f"{path} has no epochs: all were dropped before it was saved")
    try:
        epochs.get_data(item=[len(epochs) - 1], copy=False, verbose="ERROR")
    except Exception as error:
        raise ValueError(f"{path} is damaged: {error}; copy or save it again") from error
    first = round(float(epochs.tmin) * float(epochs.info["sfreq"]))
    return EpochsFile(path, epochs, KINDS[kinds.pop()], first)


def read_epochs(path: Path, picks: Array, start: int, stop: int, *, projections: bool) -> Array:
    """Epochs ``start`` to ``stop`` of some channels: epoch × channel × sample, float64."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        epochs = _mne_open(path, projections, level="ERROR")
        values: Array = np.empty((stop - start, len(picks), len(epochs.times)))
        for row in range(start, stop):  # MNE reads all channels, so an epoch at a time
            values[row - start] = epochs.get_data(item=[row], copy=False, verbose="ERROR")[0, picks]
    return values


def _mne_open(path: Path, projections: bool, *, level: str) -> Any:
    """MNE's epochs, values not read; whatever it says of a file becomes a ValueError."""
    try:
        import mne
    except ImportError as error:
        raise ImportError(f"{path}: reading .fif needs mne: pip install 'repalign[eeg]'") from error
    try:
        return mne.read_epochs(path, proj=projections, preload=False, verbose=level)
    except Exception as error:  # of many kinds, for a damaged file
        raise ValueError(
            f"{path} is no readable file of epochs ({type(error).__name__}: {error}); expected"
            " what mne.Epochs.save writes, *-epo.fif"
        ) from error


def _check_parts(path: Path) -> set[int]:
    """Walk a file and the parts that it names; the types of their epochs' values."""
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path}: expected a file of epochs, {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    kinds: set[int] = set()
    seen: list[Path] = []
    part: Path | None = path
    while part is not None:
        if not part.is_file():
            raise FileNotFoundError(
                f"no file {part}, which {seen[-1]} names as its next part; put all parts into one"
                " folder, with the names they were saved under"
            )
        seen.append(part)
        try:
            opener: Any = gzip.open if part.suffix.lower() == ".gz" else open
            with opener(part, "rb") as file:
                found, name = _walk(part, file)
        except DAMAGED as error:
            raise ValueError(f"{part} is damaged: {error}; copy or save it again") from error
        kinds |= found
        part = None if name is None else part.parent / name
        if name is not None and (Path(name).name != name or "\\" in name or part in seen):
            raise ValueError(
                f"{seen[-1]} names {name!r} as its next part; expected another file of its own"
                " folder"
            )
    return kinds


def _walk(path: Path, file: IO[bytes]) -> tuple[set[int], str | None]:
    """Types of the epochs' values, and the name of the next part, from all tags of a file."""
    kinds: set[int] = set()
    name, place, size = None, 0, path.stat().st_size
    packed = path.suffix.lower() == ".gz"
    while True:
        header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            break
        kind, type_, length, following = HEADER.unpack(header)
        if place == 0 and (kind, length) != (FILE_ID, 20):
            raise ValueError(f"{path} is no fif file: it does not start with a file id")
        end = place + HEADER.size + length
        if length < 0 or (not packed and end > size) or (0 < following < end):
            raise ValueError(
                f"{path} is cut short or damaged: the tag at byte {place} ends at byte {end}"
                f"{'' if packed else f', the file has {size}'}; copy or save it again"
            )
        if kind == EPOCHS:
            kinds.add(type_ & 0xFFFF)
        if kind == NEXT_FILE and length <= MAX_NAME_BYTES:
            name = file.read(length).decode("latin-1").rstrip("\0")
        if following == -1:
            file.seek(end - 1)
            if length and not file.read(1):
                break
            return kinds, name
        place = following if following > 0 else end
        file.seek(place)
    raise ValueError(
        f"{path} is cut short or no fif file: its last tag is not there; copy or save it again"
    )

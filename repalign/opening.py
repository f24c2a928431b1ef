"""Recordings by name: a dataset card, or a store; and a recording of one's own made a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from repalign import __version__
from repalign.activations import open_layers
from repalign.loaders import ingest
from repalign.places import LocalFolder, find_place
from repalign.recording_checks import check_recording
from repalign.stimuli import GROUP, Stimuli, stimuli_to_dataset
from repalign.store import MANIFEST, local_folder, open_store, write_store

OF_A_STORE = ("store", "fingerprint")  # attributes that tell where a recording was opened


def is_store(name: str) -> bool:
    """Whether a word is the path or URL of a store, not the name of a card."""
    place = find_place(name)
    if not isinstance(place, LocalFolder):
        return True
    inside = ".zarr/" in f"{place.path.as_posix()}/"
    return inside or (place.path / MANIFEST).is_file()


def open_recording(name: str, **where: Any) -> xr.Dataset:
    """The recording of a card, ingested where that is missing, or of a store as it is.

    Args:
        name: of a dataset card, or path of a card or of a store (a folder ``.zarr``, a zip
            ``.zarr.zip``, or a URL); ``STORE/LAYER`` is one layer of an activations store.
        **where: ``to``, ``mirror`` and ``offline``, as in `repalign.ingest`.

    Raises:
        ValueError: an unknown card, or a store of several layers.
        FileNotFoundError: there is no finished store at the path.

    Example:
        >>> open_recording("kriegeskorte2008").attrs["dataset"]   # doctest: +SKIP
        'kriegeskorte2008'
    """
    if not is_store(name):
        return ingest(name, **where)
    try:
        layers = open_layers(name)
    except FileNotFoundError as error:
        store, found, layer = name.partition(".zarr/")
        if not found:
            raise
        held = ", ".join(open_layers(f"{store}.zarr"))
        raise FileNotFoundError(f"no layer {layer!r} in {store}.zarr; it holds {held}") from error
    if len(layers) > 1:
        raise ValueError(f"{name} holds {', '.join(layers)}; give one of them: {name}/LAYER")
    return next(iter(layers.values()))


def save_recording(
    recording: xr.Dataset,
    path: str | Path,
    *,
    stimuli: Stimuli | None = None,
    overwrite: bool = False,
) -> xr.Dataset:
    """Check a recording and write it as a store, which `repalign compare` takes by its path.

    Args:
        recording: from `repalign.make_recording`, or a processed one.
        path: ``NAME.zarr``, a local folder.
        stimuli: the images of its stimuli, so that networks can be shown them.
        overwrite: replace a store that stands there.

    Returns:
        The recording, lazily opened from its store.

    Raises:
        ValueError: the recording is wrong somewhere (see `repalign.check_recording`), the path does
            not end in .zarr, or a stimulus has no image.
        FileExistsError: a store stands there, and ``overwrite`` is false.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from repalign.recording import make_recording
        >>> recording = make_recording(np.eye(2), stimulus_id=["a", "b"], region="IT")
        >>> saved = save_recording(recording, Path(tempfile.mkdtemp()) / "mine.zarr")
        >>> saved.sizes["neuroid"], saved.attrs["dataset"]
        (2, 'mine')
    """
    folder = local_folder(path)
    if folder.suffix != ".zarr":
        raise ValueError(f"{folder}: the name of a store ends in .zarr")
    check_recording(recording)
    kept = recording.copy()
    kept.attrs = {"dataset": folder.stem} | {
        key: value for key, value in recording.attrs.items() if key not in OF_A_STORE
    }
    groups = {"": kept}
    if stimuli is not None:
        missing = sorted({str(name) for name in recording["stimulus_id"].values} - {*stimuli.ids})
        if missing:
            raise ValueError(f"no image for stimulus {missing[0]!r}")
        groups[GROUP] = stimuli_to_dataset(stimuli)
    made = {"made_by": "save_recording", "repalign": __version__}
    made |= {key: str(recording.attrs[key]) for key in OF_A_STORE if key in recording.attrs}
    write_store(folder, groups, provenance=made, overwrite=overwrite)
    return open_store(folder)

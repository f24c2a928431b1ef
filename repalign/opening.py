"""Recordings by name: a dataset card, or a store."""

from __future__ import annotations

from typing import Any

import xarray as xr

from repalign.activations import open_layers
from repalign.loaders import ingest
from repalign.places import LocalFolder, find_place
from repalign.store import MANIFEST


def is_store(name: str) -> bool:
    """Whether a word is the path or URL of a store, not the name of a card."""
    place = find_place(name)
    if not isinstance(place, LocalFolder):
        return True
    return place.path.suffix == ".zarr" or (place.path / MANIFEST).is_file()


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
    layers = open_layers(name)
    if len(layers) > 1:
        raise ValueError(f"{name} holds {', '.join(layers)}; give one of them: {name}/LAYER")
    return next(iter(layers.values()))

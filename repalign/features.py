"""Features as files: the layers of a network that somebody else has run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from repalign.card_schemas import ModelCard
from repalign.loaders.arrays import array_names, read_array
from repalign.loaders.feature_folders import read_feature_folder
from repalign.recording import STIMULUS, make_activations


def features_from_file(path: Path) -> dict[str, xr.Dataset]:
    """The arrays of a .npy, .npz or .csv file as the layers of a model called like the file."""
    names = array_names(path)
    return {
        name or path.stem: _features(path, name, None, path.name, name or path.stem)
        for name in names
    }


def _features(
    path: Path, variable: str | None, ids: Sequence[str] | None, model: str, layer: str
) -> xr.Dataset:
    """One stimulus × unit array of a file as a layer; more axes are flattened."""
    array, own = read_array(path, variable)
    rows = ids if ids is not None else own
    if rows is not None and len(rows) != len(array):
        raise ValueError(f"{path} has {len(array)} rows for {len(rows)} stimulus ids")
    flat = array.reshape(len(array), -1)
    bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
    if bad.size:
        raise ValueError(f"{path} has NaN or infinite values in {bad.size} rows (first {bad[0]})")
    return make_activations(flat, rows, model, layer, array.shape[1:])


def read_features(
    card: ModelCard, *, layers: str | Sequence[str] | None = None
) -> dict[str, xr.Dataset]:
    """Activations from the files of a features card: one stimulus × unit array a layer.

    A ``features_folder`` is one that Net2Brain or thingsvision wrote. Without ``stimulus_ids`` in
    the card of a table the rows have no names, and match a recording's stimuli by order only where
    the numbers are equal; `repalign.compare` says so.
    """
    if card.features_folder is not None:
        folder = card.path.parent / Path(card.features_folder).expanduser()
        wanted = [layers] if isinstance(layers, str) else list(layers or card.layers)
        every = not wanted or "all" in wanted
        return read_feature_folder(folder, layers=None if every else wanted, model=card.name)
    default = card.layers or tuple(card.features)
    chosen = [layers] if isinstance(layers, str) else list(layers or default)
    unknown = [name for name in chosen if name not in card.features and name != "all"]
    if unknown:
        raise ValueError(f"no layer {unknown[0]!r}; {card.path} has {', '.join(card.features)}")
    names = list(card.features) if "all" in chosen else chosen
    ids = None if card.stimulus_ids is None else _read_ids(card.path.parent / card.stimulus_ids)
    return {
        name: _features(
            card.path.parent / Path(card.features[name]).expanduser(), None, ids, card.name, name
        )
        for name in names
    }


def _read_ids(path: Path) -> list[str]:
    """Stimulus ids from the first column of a csv, with or without a header."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise FileNotFoundError(f"no file of stimulus ids at {path}") from error
    ids = [line.split(",")[0].strip() for line in lines if line.strip()]
    return ids[1:] if ids and ids[0] == STIMULUS else ids

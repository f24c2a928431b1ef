"""Loaders: from the raw files of a dataset card to a recording in a Zarr store.

A loader is a function ``read(card, files) -> (recording, stimuli or None)``: it gets the card
and the paths of its files by role. ``LOADERS`` maps a name in a card to the module that holds
one; a user's own loader is ``module:function`` in a card of the user's own, or an entry point of an
installed package in the group ``repalign.loaders``.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from repalign.card_schemas import DatasetCard
from repalign.cards import import_code, load_dataset_card
from repalign.copying import check_target, copy_store, scratch_path
from repalign.fetch import fetch_files
from repalign.places import LocalFolder, Place, find_place
from repalign.recording import IMAGE_HASH, STIMULUS
from repalign.recording_checks import FiniteValues, check_recording
from repalign.stimuli import GROUP, Stimuli, decode, short_hash, stimuli_to_dataset
from repalign.store import default_folder, file_hash, locked, open_store, read_manifest, write_store

Loaded = tuple[xr.Dataset, Stimuli | None]
ENTRY_POINTS = "repalign.loaders"  # by which other packages bring loaders of their own
Loader = Callable[[DatasetCard, Mapping[str, Path]], Loaded]

LOADERS = {
    "arrays": "repalign.loaders.arrays:read",
    "bang2020": "repalign.loaders.bang2020:read",
    "bids_glm": "repalign.loaders.bids_glm:read",
    "brainio": "repalign.loaders.brainio:read",
    "continuous_fmri": "repalign.loaders.continuous_fmri:read",
    "haxby2001": "repalign.loaders.haxby2001:read",
    "kriegeskorte2008": "repalign.loaders.kriegeskorte2008:read",
    "mne_epochs": "repalign.loaders.mne_epochs:read",
    "nsd": "repalign.loaders.nsd:read",
    "nwb": "repalign.loaders.nwb:read",
    "surfaces": "repalign.loaders.surfaces:read",
    "things_fmri": "repalign.loaders.things_fmri:read",
}


def find_loader(card: DatasetCard) -> Loader:
    """The function that a card's ``loader`` names.

    Raises:
        ValueError: no such loader, or code named by a card that the user did not name.
    """
    if card.loader in LOADERS:
        module, _, function = LOADERS[card.loader].partition(":")
        loader: Loader = getattr(importlib.import_module(module), function)
        return loader
    if ":" not in card.loader:
        installed = {one.name: one for one in entry_points(group=ENTRY_POINTS)}
        if card.loader in installed:
            plugin: Loader = installed[card.loader].load()
            return plugin
        raise ValueError(
            f"card {card.path}: loader = {card.loader!r}, expected one of"
            f" {', '.join(sorted({*LOADERS, *installed}))}, or your own 'module:function'"
        )
    return import_code(card, card.loader, "loader")


def ingest(
    dataset: str | Path | DatasetCard,
    *,
    to: str | Path | None = None,
    mirror: str | Path | None = None,
    offline: bool | None = None,
    overwrite: bool = False,
) -> xr.Dataset:
    """Read a dataset's raw files into a chunked Zarr store and open it.

    A store that was made from the same card and the same files is opened as it is; one made
    from others is replaced, in one step, once the new one is whole.

    Args:
        dataset: name of a card, path of a card file, or a card.
        to: folder of the stores, or the URL of one, such as ``s3://bucket/folder``: there the store
            goes when it is whole (it is made in the cache, where downloads stay).
            ``$REPALIGN_CACHE`` or the user's cache folder by default.
        mirror, offline: see `repalign.fetch.fetch_files`.
        overwrite: read the raw files again in any case.

    Returns:
        The recording, lazily opened; ``attrs["store"]`` is its path or URL.

    Example:
        >>> recording = ingest("kriegeskorte2008")          # doctest: +SKIP
    """
    card = dataset if isinstance(dataset, DatasetCard) else load_dataset_card(dataset)
    goal = find_place(default_folder() if to is None else to) / f"{card.name}.zarr"
    check_target(goal)
    path = goal.path if isinstance(goal, LocalFolder) else scratch_path(goal, ".zarr")
    loader = find_loader(card)
    provenance: dict[str, Any] = {
        "card": card.name,
        "card_path": str(card.path),
        "card_sha256": card.sha256,
        "loader_sha256": _code_hash(loader),
    }
    with locked(path):
        manifest = None if overwrite else read_manifest(goal)
        if manifest is not None and _is_current(card, provenance, manifest["provenance"], goal):
            return open_store(goal)
        downloads = goal.path.parent if isinstance(goal, LocalFolder) else None
        files = fetch_files(card, to=downloads, mirror=mirror, offline=offline)
        recording, stimuli = _load(loader, card, files)
        groups = {"": recording}
        if stimuli is not None:
            groups[GROUP] = stimuli_to_dataset(stimuli)
        else:
            print(f"{card.name}: no images, so networks cannot be recorded on it", file=sys.stderr)
        values = FiniteValues(recording)
        with ThreadPoolExecutor(1) as pool:  # the files are hashed while they are read
            hashed = pool.submit(lambda: {role: _describe(file) for role, file in files.items()})
            write_store(
                path,
                groups,
                provenance=lambda: provenance | {"sources": hashed.result()},
                validate=lambda written: check_recording(written, values=values),
                watch=values.take,
                label=f"{card.name}: writing",
                overwrite=True,
            )
        if path != getattr(goal, "path", None):
            try:
                copy_store(path, goal, overwrite=True)
            finally:
                shutil.rmtree(path)
        return open_store(goal)


def _load(
    loader: Loader, card: DatasetCard, files: Mapping[str, Path]
) -> tuple[xr.Dataset, Stimuli | None]:
    """Call the loader and check what it gives; every image is decoded once."""
    loaded = loader(card, files)
    if not (isinstance(loaded, tuple) and len(loaded) == 2 and isinstance(loaded[0], xr.Dataset)):
        raise TypeError(
            f"card {card.path}: loader {card.loader!r} gave a {type(loaded).__name__}; expected"
            " (recording, stimuli or None)"
        )
    recording, stimuli = loaded
    recording.attrs |= _attributes(card)
    lazy = "response" in recording and recording["response"].chunks is not None
    check_recording(recording, values=FiniteValues(recording) if lazy else None)
    if stimuli is not None:
        hashes = {}
        for index, name in enumerate(stimuli.ids):
            file = stimuli.files[index]
            hashes[name] = short_hash(file)
            decode(file, name)
        ids = recording[STIMULUS]
        missing = [name for name in ids.values if name not in hashes]
        if missing:
            raise ValueError(f"{card.name}: no image for stimulus {missing[0]!r}")
        column = np.array([hashes[name] for name in ids.values], dtype=object)
        recording = recording.assign_coords({IMAGE_HASH: (ids.dims, column)})
    return recording, stimuli


def _code_hash(function: Callable[..., Any]) -> str:
    """sha256 of what a loader is written in, so that no store outlives its code.

    That is its own file, and the modules of this folder that it imports.
    """
    try:
        source = inspect.getsourcefile(function)
    except TypeError:  # built into Python
        source = None
    if source is None:
        return ""
    here, seen, waiting = Path(__file__).parent, set[Path](), [Path(source)]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        names = re.findall(r"from repalign\.loaders\.(\w+) import", path.read_text("utf-8"))
        waiting += [here / f"{name}.py" for name in names]
    return hashlib.sha256("".join(map(file_hash, sorted(seen))).encode()).hexdigest()


def _is_current(
    card: DatasetCard, ours: Mapping[str, Any], theirs: Mapping[str, Any], path: Place
) -> bool:
    """Whether a store was made from this card, by this code, from files that have not changed."""
    other = str(theirs.get("card_path", ""))
    same_text = theirs.get("card_sha256") == ours["card_sha256"]
    local = any(source.path is not None for source in card.files.values())
    clash = card.trusted and (local or not same_text)  # another installation's card is no clash
    if clash and other != ours["card_path"] and Path(other).is_file():
        raise FileExistsError(
            f"{path} was made from another card of the same name, {other}; rename"
            " one of the two, or keep their stores in different folders (--to)"
        )
    if any(theirs.get(key) != ours[key] for key in ("card_sha256", "loader_sha256")):
        return False
    for role, source in card.files.items():
        if source.path is None:
            continue  # pinned by the card, or found by name when first ingested
        file = card.path.parent / Path(source.path).expanduser()
        known = theirs["sources"].get(role, {})
        if file.exists() and _stamp(file) != known.get("stamp"):
            return False
    return True


def _stamp(path: Path) -> list[list[Any]]:
    """Name, size and time of a file, or of all files in a folder."""
    members = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [[m.name, m.stat().st_size, m.stat().st_mtime_ns] for m in members]


def _describe(path: Path) -> dict[str, Any]:
    content = {} if path.is_dir() else {"sha256": file_hash(path).removeprefix("sha256:")}
    return {"file": path.name, "path": str(path.resolve()), "stamp": _stamp(path), **content}


def _attributes(card: DatasetCard) -> dict[str, Any]:
    attributes = {
        "dataset": card.name,
        "title": card.title,
        "units": card.units,
        "citation": card.citation,
        "doi": card.doi or "",
        "licence": card.licence or "not stated",
        "card_sha256": card.sha256,
    }
    if card.stimuli.visual_degrees is not None:
        attributes["visual_degrees"] = str(card.stimuli.visual_degrees)
    return attributes

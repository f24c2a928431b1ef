"""Loaders: from the raw files of a dataset card to a recording in a Zarr store.

A loader is a function ``read(card, files) -> (recording, stimuli or None)``: it gets the card
and the paths of its files by role. ``LOADERS`` maps a name in a card to the module that holds
one; a user's own loader is ``module:function`` in a card of the user's own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from repalign.cards import DatasetCard, load_dataset_card
from repalign.fetch import fetch_files, file_hash
from repalign.recording import check_recording
from repalign.stimuli import GROUP, Stimuli, stimuli_to_dataset
from repalign.store import default_folder, open_store, read_manifest, write_store

Loaded = tuple[xr.Dataset, Stimuli | None]
Loader = Callable[[DatasetCard, Mapping[str, Path]], Loaded]

LOADERS = {
    "arrays": "repalign.loaders.arrays:read",
    "kriegeskorte2008": "repalign.loaders.kriegeskorte2008:read",
}


def find_loader(card: DatasetCard) -> Loader:
    """The function that a card's ``loader`` names.

    Raises:
        ValueError: no such loader, or code named by a card that the user did not name.
    """
    target = LOADERS.get(card.loader)
    if target is None:
        if ":" not in card.loader:
            raise ValueError(
                f"card {card.path}: loader = {card.loader!r}, expected one of"
                f" {', '.join(sorted(LOADERS))}, or your own 'module:function'"
            )
        if not card.trusted:
            raise ValueError(
                f"card {card.path}: loader = {card.loader!r} names code, which is run only for"
                " cards given by path or kept in $REPALIGN_CARDS"
            )
        target = card.loader
    module, _, function = target.partition(":")
    try:
        loader: Loader = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"card {card.path}: loader = {card.loader!r} failed: {error}") from error
    return loader


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
        to: folder of the stores; ``$REPALIGN_CACHE`` or the user's cache folder by default.
        mirror, offline: see `repalign.fetch.fetch_files`.
        overwrite: read the raw files again in any case.

    Returns:
        The recording, lazily opened; ``attrs["store"]`` is its path.

    Example:
        >>> recording = ingest("kriegeskorte2008")          # doctest: +SKIP
    """
    card = dataset if isinstance(dataset, DatasetCard) else load_dataset_card(dataset)
    folder = Path(to) if to is not None else default_folder()
    path = folder / f"{card.name}.zarr"
    manifest = None if overwrite else read_manifest(path)
    if manifest is not None and _is_current(card, manifest["provenance"]):
        return open_store(path)
    loader = find_loader(card)
    files = fetch_files(card, to=folder, mirror=mirror, offline=offline)
    recording, stimuli = loader(card, files)
    recording.attrs |= _attributes(card)
    check_recording(recording)
    groups = {"": recording}
    if stimuli is not None:
        _check_images(stimuli)
        groups[GROUP] = stimuli_to_dataset(stimuli)
    else:
        print(f"{card.name}: no images, so networks cannot be recorded on it", file=sys.stderr)
    sources = {role: _describe(path) for role, path in files.items()}
    provenance = {"card": card.name, "card_sha256": card.sha256, "sources": sources}
    write_store(path, groups, provenance=provenance, validate=check_recording, overwrite=True)
    return open_store(path)


def _is_current(card: DatasetCard, provenance: Mapping[str, Any]) -> bool:
    """Whether a store was made from this card and from local files that have not changed."""
    if provenance.get("card_sha256") != card.sha256:
        return False
    for role, source in card.files.items():
        if source.path is None:
            continue  # pinned by the card, or found by name when first ingested
        path = card.path.parent / Path(source.path).expanduser()
        known = provenance["sources"].get(role, {})
        if path.exists() and _stamp(path) != known.get("stamp"):
            return False
    return True


def _stamp(path: Path) -> list[list[Any]]:
    """Name, size and time of a file, or of all files in a folder."""
    members = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [[m.name, m.stat().st_size, m.stat().st_mtime_ns] for m in members]


def _describe(path: Path) -> dict[str, Any]:
    content = {} if path.is_dir() else {"sha256": file_hash(path).removeprefix("sha256:")}
    return {"file": path.name, "stamp": _stamp(path), **content}


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


def _check_images(stimuli: Stimuli) -> None:
    """Decode every image once, so that a corrupt one is found now and not in a long run."""
    for index in range(len(stimuli)):
        stimuli.image(index)

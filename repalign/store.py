"""Zarr stores that are either whole or absent.

A store is written under a temporary name, read back, and renamed into place, so a reader sees
the old store, the new one, or none. `manifest.json` inside it lists every file with its size,
the content fingerprint and the provenance; chunks carry a checksum of their own. Large stores
that grow shard by shard (activations) start as a full-size template with one `done` flag a
shard, and get their manifest when the last flag is set.

Stores are written on a local disk, and read wherever `repalign.places` finds them.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from repalign.local_files import building as building  # part of this module for its users
from repalign.local_files import file_hash as file_hash
from repalign.local_files import locked as locked
from repalign.local_files import recover
from repalign.local_files import write_file as write_file
from repalign.places import REQUESTS, LocalFolder, Place, Where, find_place, is_safe_name
from repalign.remote_files import PlaceError
from repalign.shards import Watch, write_group

MANIFEST = "manifest.json"
METADATA = "zarr.json"
FORMAT = "repalign-store-1"
PARTS = ("fingerprints", "provenance", "files", "metadata")
BUILD = "build"  # of a manifest in an object store: the folder beside it that holds the files
REMEDY = "delete it and run again, or copy it again"


def default_folder() -> Path:
    """Where stores and downloads go: ``$REPALIGN_CACHE``, else the user's cache folder."""
    from platformdirs import user_cache_path

    folder = os.environ.get("REPALIGN_CACHE")
    if not folder:
        return user_cache_path("repalign", appauthor=False)
    return local_folder(folder).expanduser()


def local_folder(to: str | Path | None) -> Path:
    """The folder of stores and downloads that was asked for, or the default one.

    Raises:
        ValueError: a URL, or a zip: to those, finished stores are copied.
    """
    if to is None:
        return default_folder()
    place = find_place(to)
    if not isinstance(place, LocalFolder):
        raise ValueError(
            f"{place} is no local folder, and this is written into one; give such a folder, then"
            f" copy the finished store there: repalign copy-store STORE {place}"
        )
    return place.path


def write_store(
    path: Path,
    groups: Mapping[str, xr.Dataset],
    *,
    provenance: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    validate: Callable[[xr.Dataset], None] | None = None,
    watch: Watch | None = None,
    label: str = "",
    overwrite: bool = False,
) -> None:
    """Write datasets as the groups of one store and publish it atomically.

    Args:
        path: the store's folder, such as ``cache/name.zarr``.
        groups: dataset by group name; ``""`` is the root.
        provenance: where the content comes from, any JSON; or a function that gives it, called
            when the groups are written.
        validate: called with the root dataset as read back, before it is published.
        watch: called with the blocks of the root's lazy variables (see
            `repalign.shards.write_group`).
        label: of the progress bar of the root's lazy variables; without one there is none.
        overwrite: replace a store that stands there; the old one stays until the new is whole.

    Raises:
        FileExistsError: a store stands there and ``overwrite`` is false.
        OSError: the disk is full or not writable; nothing is left behind.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True (--overwrite) to replace it")
    with building(path) as folder:
        prints = {}
        for group, ds in groups.items():
            root = group == ""
            prints[group] = write_group(
                ds.copy(), folder, group, watch=watch if root else None, label=label if root else ""
            )
        if validate is not None:
            validate(open_group(folder, ""))
        seal(folder, prints, provenance() if callable(provenance) else provenance)


def seal(folder: Path, prints: Mapping[str, str], provenance: Mapping[str, Any]) -> None:
    """Write the manifest that makes a folder of finished groups, with their prints, a store."""
    files = {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    metadata = {
        name: file_hash(folder / name).removeprefix("sha256:")
        for name in files
        if name.endswith(METADATA)
    }
    manifest = {
        "format": FORMAT,
        "fingerprints": dict(prints),
        "provenance": dict(provenance),
        "files": files,
        "metadata": metadata,
    }
    write_file(folder / MANIFEST, json.dumps(manifest, indent=1))


def read_manifest(where: Where) -> dict[str, Any] | None:
    """The manifest of a store, or None where there is no finished store."""
    place = find_place(where)
    if isinstance(place, LocalFolder):
        recover(place.path)
    try:
        content = json.loads(place.read(MANIFEST))
    except FileNotFoundError:
        return None
    except PlaceError:
        raise
    except NotADirectoryError as error:
        above = [Path(str(place)), *Path(str(place)).parents]
        file = next((path for path in above if path.is_file()), above[0])
        raise NotADirectoryError(f"{file} is a file; stores need a folder") from error
    except (OSError, ValueError) as error:
        raise ValueError(
            f"store {place} is damaged: its manifest cannot be read ({error}); {REMEDY}"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"store {place} is no {FORMAT}, which this version reads; {REMEDY}")
    missing = [key for key in PARTS if not isinstance(content.get(key), dict)]
    unsafe = [name for name in content.get("files", ()) if not is_safe_name(name)]
    if missing or unsafe or not is_safe_name(content.get(BUILD, "build")):
        raise ValueError(
            f"store {place} is damaged: its manifest has "
            + (f"no {missing[0]}" if missing else "names that lead out of the store")
            + f"; {REMEDY}"
        )
    manifest: dict[str, Any] = content
    return manifest


def finished_manifest(where: Where) -> dict[str, Any]:
    """The manifest of a store that must be there."""
    manifest = read_manifest(where)
    if manifest is None:
        raise FileNotFoundError(f"no finished store at {where}; ingest or record it first")
    return manifest


def open_store(path: Where, group: str = "", *, dask: bool = True) -> xr.Dataset:
    """Open one group of a store lazily, after checking that its files are all there.

    With ``dask`` an array of a local folder has one dask chunk a shard, and elsewhere one a chunk
    (of about 4 MB), so that a part is fetched without the rest; without, an indexed part is read
    from the few chunks that hold it.

    The dataset carries where it was opened (``attrs["store"]``) and its content fingerprint.

    Args:
        path: of the store: a folder, a zip (``NAME.zarr.zip``), or a URL (see
            `repalign.places.find_place`).
        group: of the store; ``""`` is the root.
        dask: see above.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: a file is missing or has another size than when it was written.
        OSError: the zip is damaged, or the object store does not answer.
    """
    place = find_place(path)
    manifest = finished_manifest(place)
    wrong = damaged_files(place, manifest)
    if wrong:
        raise ValueError(f"store {place} is damaged: {wrong[0]}; {REMEDY}")
    if group not in manifest["fingerprints"]:
        raise ValueError(f"store {place} has no group {group!r}")
    ds = open_group(place, group, dask=dask, manifest=manifest)
    ds.attrs |= {"store": str(place), "fingerprint": manifest["fingerprints"][group]}
    return ds


def finished_parts(where: Where) -> dict[str, dict[str, Any]]:
    """The manifests of the layers of an activations store, or the one of a recording as ``""``."""
    place = find_place(where)
    manifest = read_manifest(place)
    if manifest is not None:
        return {"": manifest}
    found = {name: read_manifest(place / name) for name in place.folders()}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def files_of(place: Place, manifest: Mapping[str, Any]) -> Place:
    """Where the files of a manifest lie: beside it, or in the one of several builds it names."""
    build = manifest.get(BUILD, "")
    return place / build if build else place


def damaged_files(where: Where, manifest: Mapping[str, Any]) -> list[str]:
    """What is wrong with the files of a store, by their sizes and the hashes of the metadata."""
    place = files_of(find_place(where), manifest)
    sizes = place.sizes(manifest["files"])
    wrong = []
    for name, size in manifest["files"].items():
        found = sizes.get(name)
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes"
            wrong.append(f"{name} {state}, expected {size} bytes")
    listed = manifest["files"]
    whole = [n for n in manifest["metadata"] if n in listed and sizes.get(n) == listed[n]]

    def digest(name: str) -> str:
        return hashlib.sha256(place.read(name, 0, listed[name])).hexdigest()

    with ThreadPoolExecutor(REQUESTS) as pool:
        local = isinstance(place, LocalFolder)  # where threads cost more than they save
        found_digests = [*(map if local else pool.map)(digest, whole)]
    for name, now in zip(whole, found_digests, strict=True):
        if now != manifest["metadata"][name]:
            wrong.append(f"{name} was changed")
    return wrong


def has_group(where: Where, group: str) -> bool:
    """Whether a finished store has a group of that name."""
    manifest = read_manifest(where)
    return manifest is not None and group in manifest["fingerprints"]


def open_group(
    where: Where, group: str, *, dask: bool = True, manifest: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Open one group of a store, or of a local folder that need not be a finished one."""
    place = find_place(where)
    try:
        ds: xr.Dataset
        with warnings.catch_warnings():  # zarr does not know our manifest beside its own files
            warnings.filterwarnings("ignore", message=".*not recognized as a component of a Zarr")
            source = _zarr_source(place, manifest)
            ds = xr.open_zarr(source, group=group or None, consolidated=False, chunks=None)
        for name, variable in ds.variables.items():
            if variable.dtype.kind in "OUT" or name in ds.coords:
                ds[name] = ds[name].load()
                if variable.dtype.kind in "OUT":
                    ds[name] = ds[name].astype(object)
            elif dask:
                parts = variable.encoding.get("chunks")
                if isinstance(place, LocalFolder):
                    parts = variable.encoding.get("shards") or parts
                if parts is not None:
                    sizes = zip(variable.dims, parts, strict=True)
                    ds[name] = ds[name].chunk({d: min(s, ds.sizes[d]) for d, s in sizes})
    except PlaceError:
        raise
    except Exception as error:  # codecs raise many types
        raise ValueError(f"store {place} is damaged: {_said(error)}; {REMEDY}") from error
    return ds


def _said(error: Exception) -> str:
    """What a codec or zarr says, without the bytes of a checksum."""
    text = str(error)
    wrong = "the checksum of a chunk does not fit its content"
    return wrong if "checksum" in text.lower() else text


def _zarr_source(place: Place, manifest: Mapping[str, Any] | None) -> Any:
    if manifest is not None:
        place = files_of(place, manifest)
    if isinstance(place, LocalFolder):
        return place.path
    from repalign.place_reader import PlaceReader

    return PlaceReader(place, place.sizes() if manifest is None else manifest["files"])


def load_values(variable: xr.DataArray, store: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Read an array, naming its store where a chunk is damaged."""
    try:
        values: np.ndarray[Any, np.dtype[Any]] = variable.values
    except PlaceError:
        raise
    except Exception as error:  # codecs raise many types
        raise ValueError(f"store {store} is damaged: {_said(error)}; {REMEDY}") from error
    return values

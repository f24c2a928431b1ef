"""Zarr stores that are either whole or absent.

A store is written under a temporary name, read back, and renamed into place, so a reader sees
the old store, the new one, or none. `manifest.json` inside it lists every file with its size,
the content fingerprint and the provenance; chunks carry a checksum of their own. Large stores
that grow shard by shard (activations) start as a full-size template with one `done` flag a
shard, and get their manifest when the last flag is set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from repalign.shards import Watch, write_group

MANIFEST = "manifest.json"
METADATA = "zarr.json"
LOCKS = ".locks"
FORMAT = "repalign-store-1"
REMEDY = "delete it and run again"
STALE_SECONDS = 30 * 24 * 3600  # no ingest takes a month


def default_folder() -> Path:
    """Where stores and downloads go: ``$REPALIGN_CACHE``, else the user's cache folder."""
    from platformdirs import user_cache_path

    folder = os.environ.get("REPALIGN_CACHE")
    return Path(folder).expanduser() if folder else user_cache_path("repalign", appauthor=False)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time make the store at ``path``; a killed one frees the lock."""
    from filelock import FileLock

    try:
        folder = path.parent / LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{path.name}.lock")
        lock.acquire()
    except OSError as error:
        raise OSError(f"could not write into {path.parent}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def building(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _recover(path)
    folder = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
    try:
        folder.mkdir()
        yield folder
        old = path.with_name(f"{path.name}.old-{uuid.uuid4().hex}")
        if path.exists():
            path.rename(old)
        try:
            folder.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise OSError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _recover(path: Path) -> None:
    """Finish what a killed process began: bring an old store back, drop stale temporaries."""
    if not path.exists():
        for old in path.parent.glob(f"{path.name}.old-*"):
            with contextlib.suppress(OSError):
                old.rename(path)
    for leftover in (
        *path.parent.glob(f"{path.name}.tmp-*"),
        *path.parent.glob(f"{path.name}.old-*"),
    ):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def seal(folder: Path, prints: Mapping[str, str], provenance: Mapping[str, Any]) -> None:
    """Write the manifest that makes a folder of finished groups, with their prints, a store."""
    files = {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    metadata = {name: _digits(folder / name) for name in files if name.endswith(METADATA)}
    manifest = {
        "format": FORMAT,
        "fingerprints": dict(prints),
        "provenance": dict(provenance),
        "files": files,
        "metadata": metadata,
    }
    write_file(folder / MANIFEST, json.dumps(manifest, indent=1))


def _digits(path: Path) -> str:
    return file_hash(path).removeprefix("sha256:")


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """``alg:hex`` of a file."""
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a store, or None where there is no finished store."""
    _recover(path)
    try:
        content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise NotADirectoryError(f"{path.parent} is a file; stores need a folder") from error
    except (OSError, ValueError) as error:
        raise ValueError(
            f"store {path} is damaged: its manifest cannot be read ({error}); {REMEDY}"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"store {path} is no {FORMAT}, which this version reads; {REMEDY}")
    manifest: dict[str, Any] = content
    return manifest


def open_store(path: str | Path, group: str = "", *, dask: bool = True) -> xr.Dataset:
    """Open one group of a store lazily, after checking that its files are all there.

    With ``dask`` an array has one dask chunk a shard; without, an indexed part is read from
    the few chunks that hold it.

    The dataset carries where it was opened (``attrs["store"]``) and its content fingerprint.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: a file is missing or has another size than when it was written.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if manifest is None:
        raise FileNotFoundError(f"no finished store at {path}; ingest or record it first")
    wrong = damaged_files(path, manifest)
    if wrong:
        raise ValueError(f"store {path} is damaged: {wrong[0]}; {REMEDY}")
    if group not in manifest["fingerprints"]:
        raise ValueError(f"store {path} has no group {group!r}")
    ds = open_group(path, group, dask=dask)
    ds.attrs |= {"store": str(path), "fingerprint": manifest["fingerprints"][group]}
    return ds


def damaged_files(path: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What is wrong with the files of a store, by their sizes and the hashes of the metadata."""
    wrong = []
    for name, size in manifest["files"].items():
        file = path / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes"
            wrong.append(f"{name} {state}, expected {size} bytes")
        elif name in manifest["metadata"] and manifest["metadata"][name] != _digits(file):
            wrong.append(f"{name} was changed")
    return wrong


def has_group(path: Path, group: str) -> bool:
    """Whether a finished store has a group of that name."""
    manifest = read_manifest(path)
    return manifest is not None and group in manifest["fingerprints"]


def open_group(path: Path, group: str, *, dask: bool = True) -> xr.Dataset:
    """Open one group of a folder that need not be a finished store."""
    try:
        ds: xr.Dataset
        with warnings.catch_warnings():  # zarr does not know our manifest beside its own files
            warnings.filterwarnings("ignore", message=".*not recognized as a component of a Zarr")
            ds = xr.open_zarr(path, group=group or None, consolidated=False, chunks=None)
        for name, variable in ds.variables.items():
            if variable.dtype.kind in "OUT" or name in ds.coords:
                ds[name] = ds[name].load()
                if variable.dtype.kind in "OUT":
                    ds[name] = ds[name].astype(object)
            elif dask:
                shards = variable.encoding.get("shards") or variable.encoding.get("chunks")
                if shards is not None:
                    sizes = zip(variable.dims, shards, strict=True)
                    ds[name] = ds[name].chunk({d: min(s, ds.sizes[d]) for d, s in sizes})
    except Exception as error:  # codecs raise many types
        raise ValueError(f"store {path} is damaged: {error}; {REMEDY}") from error
    return ds


def load_values(variable: xr.DataArray, store: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Read an array, naming its store where a chunk is damaged."""
    try:
        values: np.ndarray[Any, np.dtype[Any]] = variable.values
    except Exception as error:  # codecs raise many types
        raise ValueError(f"store {store} is damaged: {error}; {REMEDY}") from error
    return values

"""Whole stores from one place to another: a folder, a zip, an object store.

What stands at the target is replaced in one step, when the new one is whole. A folder and a zip are
renamed into place. In an object store nothing can be renamed, so each copy goes into a folder of
its own, ``build-TIME-ID``, and the manifest, one small object written last, names it. So two copies
at a time never mix: the last manifest counts.
"""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import json
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from repalign.local_files import STALE_SECONDS, building, locked, write_file
from repalign.places import ZIP, LocalFolder, Place, Remote, Where, Zip, find_place, zip_exists
from repalign.progress import track
from repalign.remote_files import READ_ONLY, PlaceError, write_whole
from repalign.store import (
    BUILD,
    MANIFEST,
    REMEDY,
    damaged_files,
    default_folder,
    files_of,
    finished_parts,
    read_manifest,
)

WRITERS = 4  # files at a time, each of up to a shard's size in memory
STAMP = "%Y%m%dT%H%M%S"

Parts = Mapping[str, dict[str, Any]]  # manifest by layer, or by "" for a single store


def copy_store(
    source: Where, target: Where, *, overwrite: bool = False, progress: bool = True
) -> int:
    """Copy a finished store, or all finished layers of one, to another place.

    Every file is checked against the manifest on the way (its size; of metadata also the sha256),
    and `repalign.verify_store` reads the copy from end to end.

    Args:
        source: a folder ``NAME.zarr``, a zip ``NAME.zarr.zip``, or a URL of either.
        target: likewise. A zip is written uncompressed, the same bytes each time.
        overwrite: replace a store that stands there; it stays until the new one is whole.
        progress: show a progress bar on stderr.

    Returns:
        How many bytes were copied, those of the manifests not counted.

    Raises:
        FileExistsError: a store stands at the target, and ``overwrite`` is false.
        FileNotFoundError: there is no finished store at the source.
        ValueError: the source is damaged, or the target's name is not that of a store.
        OSError: the target cannot be written; what stood there stays.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from repalign.recording import make_recording
        >>> from repalign.store import open_store, write_store
        >>> folder = Path(tempfile.mkdtemp())
        >>> recording = make_recording(np.eye(2), stimulus_id=["a", "b"], region="IT")
        >>> write_store(folder / "a.zarr", {"": recording}, provenance={})
        >>> copied = copy_store(folder / "a.zarr", folder / "a.zarr.zip", progress=False)
        >>> float(open_store(folder / "a.zarr.zip")["response"].sum())
        2.0
    """
    origin, goal = find_place(source), find_place(target)
    check_target(goal)
    if origin == goal:
        raise ValueError(f"{origin} would be copied onto itself")
    parts = finished_parts(origin)
    if not parts:
        raise FileNotFoundError(f"no finished store at {origin}; ingest or record it first")
    for part, manifest in parts.items():
        wrong = damaged_files(origin / part, manifest)
        if wrong:
            raise ValueError(f"store {origin / part} is damaged: {wrong[0]}; {REMEDY}")
    if _exists(goal) and not overwrite:
        raise FileExistsError(f"{goal} exists; pass overwrite=True (--overwrite) to replace it")
    label = f"copying to {goal}" if progress else ""
    if isinstance(goal, LocalFolder):
        _copy_to_folder(origin, parts, goal.path, label)
    elif isinstance(goal, Remote):
        _copy_to_remote(origin, parts, goal, label)
    elif "://" not in goal.name:
        _copy_to_zip(origin, parts, Path(goal.name), label)
    else:
        made = scratch_path(goal, ZIP)
        _copy_to_zip(origin, parts, made, label)
        write_whole(goal.name, made)
        made.unlink()
    return sum(sum(manifest["files"].values()) for manifest in parts.values())


def check_target(goal: Place) -> None:
    """Refuse a place to which no store can be written.

    Raises:
        ValueError: its name is not that of a store, or it is a web server.
    """
    if str(goal).startswith(READ_ONLY):
        raise ValueError(f"{goal}: web servers are only read from; write to s3:// or such")
    if isinstance(goal, Zip) and goal.inner:
        raise ValueError(f"{goal} is inside a zip; give a folder or URL, then repalign copy-store")
    if not str(goal).endswith((".zarr", ZIP)):
        raise ValueError(f"{goal}: the name of a store ends in .zarr or {ZIP}")


def scratch_path(goal: Place, ending: str) -> Path:
    """Where a store is made in the cache before it goes to a place that is not local."""
    key = hashlib.sha256(str(goal).encode()).hexdigest()[:12]
    name = str(goal).rpartition("/")[2].removesuffix(ending)
    return default_folder() / "publishing" / f"{name}-{key}{ending}"


def _exists(goal: Place) -> bool:
    if isinstance(goal, LocalFolder):
        path = goal.path
        empty = path.is_dir() and not any(path.iterdir())
        if path.exists() and not empty and not finished_parts(goal):
            raise FileExistsError(f"{path} is there and is no finished store; delete it yourself")
        return path.exists()
    if isinstance(goal, Zip):
        return zip_exists(goal.name)
    try:
        return bool(finished_parts(goal))
    except ValueError:  # a damaged manifest is one
        return True


def _copy_to_folder(origin: Place, parts: Parts, path: Path, label: str) -> None:
    with locked(path), building(path) as folder:
        for part, manifest in parts.items():
            _each_file(origin / part, manifest, LocalFolder(folder / part).write, label)
            write_file(folder / part / MANIFEST, _manifest_text(_without_build(manifest)))


def _copy_to_zip(origin: Place, parts: Parts, path: Path, label: str) -> None:
    with locked(path):
        for left in path.parent.glob(f"{path.name}.tmp-*"):  # by a killed copy: we have the lock
            left.unlink(missing_ok=True)
        temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
        try:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                for part in sorted(parts):
                    place, manifest = files_of(origin / part, parts[part]), parts[part]
                    prefix = f"{part}/" if part else ""
                    for name in track(sorted(manifest["files"]), label, show=bool(label)):
                        content = _checked_content(place, name, manifest)
                        archive.writestr(_member(prefix + name), content)
                    text = _manifest_text(_without_build(manifest))
                    archive.writestr(_member(prefix + MANIFEST), text)
            temporary.replace(path)
        except OSError as error:
            if isinstance(error, PlaceError):
                raise
            raise OSError(f"could not write {path}: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)


def _member(name: str) -> zipfile.ZipInfo:
    """A member that depends on its name alone, so that equal stores make equal zips."""
    info = zipfile.ZipInfo(name)  # its time is 1980
    info.create_system, info.external_attr = 3, 0o644 << 16
    return info


def _copy_to_remote(origin: Place, parts: Parts, goal: Remote, label: str) -> None:
    try:
        before = finished_parts(goal)
    except ValueError:
        before = {}
    for part, manifest in parts.items():
        _publish(origin / part, manifest, goal / part, label)
    for part in before.keys() - parts.keys():  # layers that the new store does not have
        _remove_replaced(goal / part, [MANIFEST, *_top_names(before[part])])


def _publish(source: Place, manifest: dict[str, Any], goal: Remote, label: str) -> None:
    build = f"build-{time.strftime(STAMP, time.gmtime())}-{uuid.uuid4().hex[:12]}"
    plain = _without_build(manifest)
    try:
        _each_file(source, manifest, (goal / build).write, label)
        wrong = damaged_files(goal / build, plain)
        if wrong:
            raise PlaceError(f"{goal} did not keep what was written: {wrong[0]}; copy it again")
    except BaseException:
        with contextlib.suppress(PlaceError):
            goal.remove(build)
        raise
    try:
        replaced = read_manifest(goal)
    except ValueError:  # damaged: nothing is known of its files
        replaced = None
    goal.write(MANIFEST, _manifest_text(plain | {BUILD: build}))  # it may arrive and still raise
    _remove_replaced(goal, _top_names(replaced))


def _top_names(manifest: Mapping[str, Any] | None) -> list[str]:
    """Of the files of a manifest: its build, or the files and folders beside it."""
    if manifest is None:
        return []
    return [manifest[BUILD]] if BUILD in manifest else sorted(manifest["files"])


def _remove_replaced(goal: Remote, names: Iterable[str]) -> None:
    """Delete what no reader finds any more, and the builds of copies that were killed long ago."""
    try:
        goal.remove(*names, *filter(_is_stale, goal.folders()))
    except PlaceError as error:
        print(f"the files that were replaced stay: {error}", file=sys.stderr)


def _is_stale(folder: str) -> bool:
    """Whether a build began so long ago that whoever wrote it was killed."""
    try:
        began = time.strptime(folder.removeprefix("build-").partition("-")[0], STAMP)
    except ValueError:
        return False
    return folder.startswith("build-") and time.time() - calendar.timegm(began) > STALE_SECONDS


def _each_file(
    source: Place, manifest: dict[str, Any], write: Callable[[str, bytes], None], label: str
) -> None:
    """Read, check and write the files of a store, some at a time."""
    place = files_of(source, manifest)

    def copy(name: str) -> None:
        write(name, _checked_content(place, name, manifest))

    with ThreadPoolExecutor(WRITERS) as pool:
        copies = [pool.submit(copy, name) for name in sorted(manifest["files"])]
        try:
            for one in track(copies, label, show=bool(label)):
                one.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _checked_content(place: Place, name: str, manifest: Mapping[str, Any]) -> bytes:
    content = place.read(name, 0, manifest["files"][name])
    expected = manifest["metadata"].get(name)
    same = expected is None or hashlib.sha256(content).hexdigest() == expected
    if len(content) != manifest["files"][name] or not same:
        raise ValueError(f"{place} was changed while it was copied ({name}); copy it again")
    return content


def _without_build(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key != BUILD}


def _manifest_text(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(manifest), indent=1).encode()

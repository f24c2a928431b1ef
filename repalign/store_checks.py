"""A store looked through from end to end: is it still what was written?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repalign.places import Place, Where, find_place
from repalign.progress import track
from repalign.shards import fingerprint
from repalign.store import (
    MANIFEST,
    damaged_files,
    file_hash,
    files_of,
    finished_manifest,
    open_group,
)


@dataclass(frozen=True)
class StoreCheck:
    """One check of a store.

    Args:
        check: what was looked at: ``files``, ``content of GROUP`` or ``source ROLE``.
        passed: None where it could not be done.
        detail: what was found.
    """

    check: str
    passed: bool | None
    detail: str


def verify_store(path: Where, *, sources: bool = True, progress: bool = True) -> list[StoreCheck]:
    """Read all of a store again and compare it with its manifest.

    Args:
        path: of a recording's store, or of one layer of an activations store: a folder, a zip, or
            a URL.
        sources: hash the raw files again too, where they still lie where they were.
        progress: show a progress bar on stderr.

    Returns:
        One check of the files (none is missing, unknown, or of another size), one a group (the
        hash of all values, names and types, every chunk against its checksum), and one a source.

    Raises:
        FileNotFoundError: there is no finished store.
        ValueError: its manifest cannot be read.
        OSError: the zip is damaged, or the object store does not answer.

    Example:
        >>> from repalign.recording import make_recording
        >>> from repalign.store import write_store
        >>> import tempfile
        >>> import numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "a.zarr"
        >>> recording = make_recording(np.eye(2), stimulus_id=["a", "b"], region="IT")
        >>> write_store(path, {"": recording}, provenance={})
        >>> [one.passed for one in verify_store(path, progress=False)]
        [True, True]
    """
    place = find_place(path)
    manifest = finished_manifest(place)
    found = [_files(place, manifest)]
    groups = list(manifest["fingerprints"].items())
    name = str(place).rpartition("/")[2]
    for group, expected in track(groups, f"{name}: reading all values", show=progress):
        found.append(_content(place, group, expected, manifest))
    described = manifest["provenance"].get("sources", {}) if sources else {}
    return found + [_source(role, one) for role, one in described.items()]


def _files(place: Place, manifest: dict[str, Any]) -> StoreCheck:
    wrong = damaged_files(place, manifest)
    here = set(files_of(place, manifest).sizes(manifest["files"]))
    wrong += [f"{name} is unknown" for name in sorted(here - set(manifest["files"]) - {MANIFEST})]
    detail = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    return StoreCheck("files", not wrong, detail or f"{len(manifest['files'])} files")


def _content(place: Place, group: str, expected: str, manifest: dict[str, Any]) -> StoreCheck:
    name = f"content of {group}" if group else "content"
    try:
        algorithm = expected.partition(":")[0]
        now = fingerprint(open_group(place, group, manifest=manifest), algorithm)
    except Exception as error:  # codecs raise many types
        return StoreCheck(name, False, " ".join(str(error).split()))
    if now != expected:
        return StoreCheck(name, False, f"is {now[:19]}…, not {expected[:19]}… as it was written")
    return StoreCheck(name, True, now)


def _source(role: str, described: dict[str, Any]) -> StoreCheck:
    name, where = f"source {role}", Path(described.get("path", ""))
    if "sha256" not in described or not where.is_file():
        return StoreCheck(name, None, f"{described['file']} is not where it was read")
    same = file_hash(where) == f"sha256:{described['sha256']}"
    state = "is what was read" if same else "was changed since; ingest it again"
    return StoreCheck(name, same, f"{where} {state}")

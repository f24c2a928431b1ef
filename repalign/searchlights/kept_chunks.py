"""Chunks of a searchlight on disk, so that a killed job goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repalign.local_files import write_file
from repalign.memory import say_size

SETTINGS = "searchlight.json"
RDM_CHUNK = 256  # centres

Numbers = NDArray[np.float64]


def digest_of(*arrays: Any) -> str:
    """Return a hash of arrays: their types, shapes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        values = np.ascontiguousarray(array)
        digest.update(f"{values.dtype.str} {values.shape}".encode())
        digest.update(values.view(np.uint8).reshape(-1).data if values.size else b"")
    return digest.hexdigest()


class KeptChunks:
    """The similarities, and RDMs where they are kept, of the chunks that are done.

    A chunk is written before it is marked as done, so that a kill costs no more than one chunk.

    Args:
        folder: where they lie, beside the store that will be.
        settings: all that the values depend on.
        shape: numbers of centres, of models, and of pairs (0: RDMs are not kept).
        chunk: number of centres in a chunk.

    Raises:
        ValueError: the folder holds chunks of another searchlight; what differs is named.
        OSError: RDMs do not fit on the disk.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], shape: tuple[int, int, int], *, chunk: int
    ) -> None:
        """Open what is there, or begin."""
        import zarr

        self.folder = folder
        n_centres, n_models, n_pairs = shape
        told = {**settings, "shape": list(shape), "chunk": chunk}
        path = folder / SETTINGS
        if not path.exists():
            if n_pairs:
                folder.parent.mkdir(parents=True, exist_ok=True)
                _check_room(folder.parent, 8 * n_centres * n_pairs)
            root = zarr.open_group(folder, mode="w", zarr_format=3)
            whole: dict[str, Any] = {"dtype": "f8", "fill_value": np.nan}
            root.create_array(
                "similarity", shape=(n_centres, n_models), chunks=(chunk, n_models), **whole
            )
            if n_pairs:
                root.create_array(
                    "local_rdm",
                    shape=(n_centres, n_pairs),
                    chunks=(min(chunk, RDM_CHUNK), n_pairs),
                    **whole,
                )
            n_chunks = -(-n_centres // chunk)
            root.create_array("done", shape=(n_chunks,), chunks=(1,), dtype="u1", fill_value=0)
            write_file(path, json.dumps(told, indent=1))
        check_settings(json.loads(path.read_text()), told, folder)
        self._root: Any = zarr.open_group(folder, mode="r+")
        self._chunk = chunk
        done: Any = self._root["done"]
        self.done = np.asarray(done[:]).astype(bool)

    def write(self, number: int, values: Numbers, rdms: Numbers | None) -> None:
        """Write a chunk, then say that it is done."""
        start = number * self._chunk
        if rdms is not None:
            self._root["local_rdm"][start : start + len(rdms)] = rdms
        self._root["similarity"][start : start + len(values)] = values
        self._root["done"][number : number + 1] = 1
        self.done[number] = True

    def similarities(self) -> Numbers:
        """Return the similarities of all centres."""
        values: Numbers = self._root["similarity"][:]
        return values

    def rdms(self) -> Any:
        """Return the RDMs as a lazy array, (centre, pair)."""
        import dask.array as da

        load: Any = da.from_zarr
        return load(self._root["local_rdm"])

    def remove(self) -> None:
        """Delete the chunks, which are in the store by now."""
        shutil.rmtree(self.folder)


def check_settings(found: Mapping[str, Any], wanted: Mapping[str, Any], where: Path) -> None:
    """Raise a ValueError that says in what a stored searchlight differs from the one wanted."""
    differ = [
        f"{key} is {_short(found.get(key))} there and {_short(wanted.get(key))} now"
        for key in {**found, **wanted}
        if found.get(key) != wanted.get(key)
    ]
    if differ:
        raise ValueError(
            f"{where} holds another searchlight: {'; '.join(differ[:3])}. Delete it, or choose"
            " another path"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:12]}…"


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"the RDMs take up to {say_size(needed)}, and {folder} has {say_size(free)} free; leave"
            " out keep_rdms, or choose another disk"
        )

"""How the activations of one layer are laid out while they grow, shard by shard.

A layer starts as a full-size empty template, published by rename. A shard is one file of
``response``; when it is whole its flag in ``done`` is set, and the manifest follows the last flag.
Chunks are whole stimuli and uncompressed: the noise in a layer's float bits leaves compression
about a tenth to gain, for more time than the network itself takes. Each chunk has a CRC-32C, and a
layer's fingerprint is made by XXH3, since sha256 took more time than all else beside the network:
it tells layers apart and finds damage, and vouches for nobody's honesty.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec

from repalign.recording import IMAGE_HASH, NEUROID, PRESENTATION, STIMULUS
from repalign.shard_files import plain_shard, write_shard
from repalign.shards import CHUNK_BYTES, XXH3, StreamedFingerprint, fingerprint, write_group
from repalign.store import open_group, seal

WRITTEN = b"\x01"

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class LayerTemplate:
    """The empty store of a layer, of which each further layer is a copy.

    xarray takes some tens of milliseconds to write the coordinates, which are the same for all.

    Args:
        folder: where the coordinates were written, once.
        n_stimuli: rows of each layer.
    """

    folder: Path
    n_stimuli: int

    @classmethod
    @contextlib.contextmanager
    def write(cls, root: Path, coords: xr.Dataset) -> Iterator[LayerTemplate]:
        """Write the coordinates into a folder in ``root`` that is there within the block."""
        folder = root / f"template.tmp-{uuid.uuid4().hex}"
        try:
            write_group(coords, folder)
            yield cls(folder, coords.sizes[PRESENTATION])
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def create(
        self, path: Path, attrs: Mapping[str, Any], *, units: int, dtype: str, rows: int
    ) -> None:
        """Publish a layer without any values.

        Args:
            path: of the layer's group.
            attrs: further attributes.
            units: of the layer.
            dtype: ``float32`` or ``float16``.
            rows: stimuli a shard.
        """
        temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
        fits = max(1, CHUNK_BYTES // (units * np.dtype(dtype).itemsize))
        chunk_rows = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= fits)
        try:
            shutil.copytree(self.folder, temporary)
            group = zarr.open_group(temporary, mode="r+")
            group.attrs.update(attrs)
            group.create_array(
                "response",
                shape=(self.n_stimuli, units),
                chunks=(chunk_rows, units),
                shards=(rows, units),
                dtype=dtype,
                compressors=(Crc32cCodec(),),
                fill_value=float("nan"),
                dimension_names=(PRESENTATION, NEUROID),
                attributes={"coordinates": f"{STIMULUS} repetition {IMAGE_HASH}"},
            )
            group.create_array(
                "done",
                shape=(-(-self.n_stimuli // rows),),
                chunks=(1,),
                dtype="uint8",
                compressors=None,
                fill_value=0,
                dimension_names=("shard",),
            )
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@dataclass
class GrowingLayer:
    """A layer that is being recorded; ``direct``: its shards go around the system's cache."""

    path: Path
    response: zarr.Array[Any]
    flags: zarr.Array[Any]
    done: Array
    digest: StreamedFingerprint | None = None
    direct: bool = False

    @classmethod
    def open(cls, path: Path, template: xr.Dataset | None = None) -> GrowingLayer | None:
        """Open an unfinished layer; None where there is none of this layout.

        Args:
            path: of the layer's group.
            template: its coordinates, as given to `LayerTemplate`, from which the fingerprint is
                summed while a new layer is written; without, the layer is read again at its end.
        """
        if not path.exists():
            return None
        try:
            response = zarr.open_array(path / "response", mode="r+")
            flags = zarr.open_array(path / "done", mode="r+")
        except Exception as error:  # zarr and its codecs raise many types
            raise ValueError(
                f"store {path} is damaged: {error}; delete it and run again"
            ) from error
        if flags.compressors or response.shards is None or response.chunks[1] != response.shape[1]:
            return None
        # a flag whose writing was cut short is an empty file, which zarr would not read
        names = [
            path / "done" / flags.metadata.encode_chunk_key((i,)) for i in range(flags.shape[0])
        ]
        done = np.array([name.exists() and name.read_bytes() == WRITTEN for name in names])
        digest = None
        if template is not None and not done.any():
            no_values = np.broadcast_to(np.zeros((), response.dtype), response.shape)
            whole = template.assign(
                response=((PRESENTATION, NEUROID), no_values),
                done=("shard", np.ones(len(done), dtype=np.uint8)),
            )
            digest = StreamedFingerprint(whole, "response", XXH3)
        return cls(path, response, flags, done, digest)

    @property
    def rows(self) -> int:
        """Stimuli a shard."""
        assert self.response.shards is not None
        return int(self.response.shards[0])

    def write(self, shard: int, values: Array) -> None:
        """Write one shard, whose flag is set by `mark`; shards come in their order."""
        if self.digest is not None:
            self.digest.update(values)
        pieces = plain_shard(
            values, rows=self.rows, chunk_rows=self.response.chunks[0], fill=float("nan")
        )
        write_shard(self.response, shard, pieces, direct=self.direct)

    def mark(self, shard: int) -> None:
        """Say that a shard is whole."""
        write_shard(self.flags, shard, [WRITTEN])
        self.done[shard] = True

    def finish(self, provenance: Mapping[str, Any]) -> None:
        """Make the layer a store, after the last shard."""
        if self.digest is None:
            content = fingerprint(open_group(self.path, ""), XXH3)
        else:
            content = self.digest.finish()
        seal(self.path, {"": content}, provenance)

"""Shards written by repalign are shards of Zarr."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from repalign.shard_files import encode_shard, plain_shard, write_shard
from repalign.shards import encoding_for


def written(values: np.ndarray[Any, Any], path: Path, rows: int, **layout: Any) -> zarr.Array[Any]:
    encoding = encoding_for(values.shape, values.dtype.itemsize, rows_a_shard=rows) | layout
    array = zarr.create_array(path, shape=values.shape, dtype=values.dtype.name, **encoding)
    for number, start in enumerate(range(0, len(values), rows)):
        pieces = encode_shard(
            values[start : start + rows], rows=rows, columns=array.chunks[1], fill=array.fill_value
        )
        write_shard(array, number, pieces)
    return zarr.open_array(path, mode="r")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i2", "|b1", "<u8"])
@pytest.mark.parametrize("shape", [(7, 5), (6, 1), (1, 9), (7, 5, 3), (4, 2, 3, 2)])
def test_zarr_reads_what_was_written(
    dtype: str, shape: tuple[int, ...], tmp_path: Path, random: np.random.Generator
) -> None:
    values = (100 * random.normal(size=shape)).astype(dtype)
    read = written(values, tmp_path / "a.zarr", rows=3)
    np.testing.assert_array_equal(read[:], values)
    assert read[:].dtype == values.dtype.newbyteorder("=")


def test_chunks_and_rows_beyond_the_array_hold_the_fill_value(tmp_path: Path) -> None:
    values = np.arange(35.0).reshape(5, 7)
    layout = {"chunks": (3, 4), "shards": (3, 8)}
    read = written(values, tmp_path / "a.zarr", rows=3, fill_value=np.nan, **layout)
    np.testing.assert_array_equal(read[:], values)
    grown = zarr.open_array(tmp_path / "a.zarr", mode="r+")
    grown.resize((6, 8))
    assert np.isnan(grown[5]).all()
    assert np.isnan(grown[:, 7]).all()


def test_values_take_no_more_room_than_those_that_zarr_writes(
    tmp_path: Path, random: np.random.Generator
) -> None:
    values = random.normal(size=(40, 300)).astype(np.float32)
    ours = written(values, tmp_path / "ours.zarr", rows=20)
    theirs = zarr.create_array(
        tmp_path / "theirs.zarr",
        shape=values.shape,
        dtype="float32",
        **encoding_for(values.shape, 4, rows_a_shard=20),
    )
    theirs[:] = values
    assert ours.nbytes_stored() == theirs.nbytes_stored()


@pytest.mark.parametrize("place", [10, -30, -2])
def test_a_changed_byte_is_found(place: int, tmp_path: Path, random: np.random.Generator) -> None:
    """In a chunk, in the index, and in the index' checksum."""
    read = written(random.normal(size=(4, 50)), tmp_path / "a.zarr", rows=4)
    file = tmp_path / "a.zarr" / "c" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(Exception, match=r"checksum|Checksum"):
        read[:]


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<i8"])
@pytest.mark.parametrize(("n_rows", "chunk_rows"), [(10, 2), (9, 3), (12, 6), (7, 1), (1, 6)])
def test_zarr_reads_plain_shards(
    dtype: str, n_rows: int, chunk_rows: int, tmp_path: Path, random: np.random.Generator
) -> None:
    values = (100 * random.normal(size=(n_rows, 7))).astype(dtype)
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=values.shape,
        dtype=values.dtype.name,
        chunks=(chunk_rows, 7),
        shards=(6, 7),
        compressors=(zarr.codecs.Crc32cCodec(),),
        fill_value=3,
    )
    for number, start in enumerate(range(0, n_rows, 6)):
        part = values[start : start + 6]
        write_shard(array, number, plain_shard(part, rows=6, chunk_rows=chunk_rows, fill=3))
    array.resize((12, 7))
    read = zarr.open_array(tmp_path / "a.zarr", mode="r")[:]
    np.testing.assert_array_equal(read[:n_rows], values)
    assert (read[n_rows:] == 3).all()
    file = tmp_path / "a.zarr" / "c" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    with pytest.raises(Exception, match=r"checksum|Checksum"):
        zarr.open_array(tmp_path / "a.zarr", mode="r")[:]

"""Files written around the system's cache hold what was given, whatever the system can do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from torch import nn

import repalign as ra
from repalign import direct_files
from repalign.direct_files import BLOCK_BYTES, beyond_cache, write_direct
from repalign.networks import Network, Preprocessing
from repalign.scenes import make_scenes
from repalign.stimuli import encode_png

PAGE = 4096


def _noise(size: int) -> bytes:
    return np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()


@pytest.mark.parametrize(
    "sizes",
    [
        (),
        (0, 1),
        (PAGE,),
        (PAGE - 1, 2, PAGE),
        (BLOCK_BYTES,),
        (BLOCK_BYTES - 4, 4, 4, 100),
        (3, 2 * BLOCK_BYTES + 5, PAGE),
    ],
)
def test_any_pieces_become_the_file(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    pieces = [_noise(size) for size in sizes]
    path = tmp_path / "file"
    path.write_bytes(_noise(5 * PAGE))  # one that is there is replaced
    write_direct(path, [memoryview(piece) for piece in pieces])
    assert path.read_bytes() == b"".join(pieces)


def test_a_file_system_without_direct_writing_is_written_as_usual(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    folder = shared if shared.is_dir() else tmp_path
    path = folder / f"repalign-test-{os.getpid()}"
    try:
        write_direct(path, [_noise(3 * PAGE + 1)])
        assert path.read_bytes() == _noise(3 * PAGE + 1)
    finally:
        path.unlink(missing_ok=True)


def test_writing_that_fails_directly_goes_on_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system may refuse at the first write, and any write may fall short."""
    real, calls = os.write, []

    def write(handle: int, data: Any) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            raise OSError(errno.EINVAL, "no direct writing here")
        return real(handle, data[: max(1, len(data) // 3)])

    monkeypatch.setattr(direct_files.os, "write", write)
    write_direct(tmp_path / "file", [_noise(BLOCK_BYTES + 77)])
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == _noise(BLOCK_BYTES + 77)
    assert len(calls) > 3


def test_a_full_disk_is_the_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(handle: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(direct_files.os, "write", write)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write_direct(tmp_path / "file", [_noise(PAGE)])


def test_what_is_recorded_directly_is_the_same_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3)).eval()
    network = Network("small", module, Preprocessing(size=(16, 16)))
    scenes = make_scenes(5, size=32)
    stimuli = ra.Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])
    files = {}
    for large in (False, True):
        used: list[Path] = []
        monkeypatch.setattr("repalign.recording_run.beyond_cache", lambda size, large=large: large)
        monkeypatch.setattr(
            "repalign.shard_files.write_direct",
            lambda path, pieces, used=used: (used.append(path), write_direct(path, pieces)),
        )
        found = ra.record(
            network, stimuli=stimuli, layers=["0"], batch_size=2, to=tmp_path / str(large),
            progress=False,
        )  # fmt: skip
        assert len(used) == (3 if large else 0)
        store = Path(found["0"].attrs["store"])
        files[large] = {
            path.relative_to(store): path.read_bytes() for path in store.rglob("response/c/*/*")
        }
        assert np.isfinite(zarr.open_array(store / "response", mode="r")[:]).all()
    assert files[True] == files[False]


def test_large_is_beyond_what_a_system_holds_back() -> None:
    assert not beyond_cache(1 << 20)
    assert beyond_cache(1 << 50)

"""Stores are whole or absent: killed, corrupted, or on a full disk."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from repalign.recording import make_recording
from repalign.recording_checks import check_recording
from repalign.shards import encoding_for, fingerprint
from repalign.store import MANIFEST, building, open_store, read_manifest, write_file, write_store


@pytest.fixture
def recording(random: np.random.Generator) -> xr.Dataset:
    ids = [f"stimulus-{i}" for i in range(40)]
    return make_recording(random.normal(size=(40, 30)), stimulus_id=ids, region="IT")


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".tmp-" in path.name or ".old-" in path.name]


def test_round_trip_keeps_values_strings_and_attributes(
    tmp_path: Path, recording: xr.Dataset
) -> None:
    recording.attrs["units"] = "spikes"
    path = tmp_path / "a.zarr"
    write_store(path, {"": recording}, provenance={"why": "test"}, validate=check_recording)
    read = open_store(path)
    np.testing.assert_array_equal(read["response"].values, recording["response"].values)
    assert read["stimulus_id"].values.tolist() == recording["stimulus_id"].values.tolist()
    assert read.attrs["units"] == "spikes"
    assert read.attrs["store"] == str(path)
    manifest = read_manifest(path)
    assert manifest is not None
    assert manifest["provenance"] == {"why": "test"}
    assert leftovers(tmp_path) == []


def test_strings_are_stored_with_variable_length(tmp_path: Path, recording: xr.Dataset) -> None:
    import zarr

    write_store(tmp_path / "a.zarr", {"": recording}, provenance={})
    array = zarr.open_array(tmp_path / "a.zarr" / "stimulus_id", mode="r")
    assert array.metadata.to_dict()["data_type"] == "string"


def test_fingerprint_knows_content_and_not_chunks(recording: xr.Dataset) -> None:
    chunked = recording.chunk({"presentation": 7})
    assert fingerprint(chunked) == fingerprint(recording)
    changed = recording.copy(deep=True)
    changed["response"][3, 4] += 1e-12
    assert fingerprint(changed) != fingerprint(recording)
    renamed = recording.assign_coords(region=("neuroid", ["V4"] * 30))
    assert fingerprint(renamed) != fingerprint(recording)


def test_a_lazy_single_number_is_written_too(tmp_path: Path, recording: xr.Dataset) -> None:
    lazy = recording.assign(total=recording["response"].chunk().sum())
    write_store(tmp_path / "a.zarr", {"": lazy}, provenance={})
    found = open_store(tmp_path / "a.zarr")
    assert float(found["total"]) == float(recording["response"].sum())


def test_refuses_to_replace_unless_asked(tmp_path: Path, recording: xr.Dataset) -> None:
    path = tmp_path / "a.zarr"
    write_store(path, {"": recording}, provenance={})
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_store(path, {"": recording}, provenance={})
    write_store(path, {"": recording * 2}, provenance={}, overwrite=True)
    np.testing.assert_array_equal(open_store(path)["response"], 2 * recording["response"])
    assert leftovers(tmp_path) == []


def test_failed_validation_keeps_the_old_store(tmp_path: Path, recording: xr.Dataset) -> None:
    path = tmp_path / "a.zarr"
    write_store(path, {"": recording}, provenance={})
    broken = recording.copy(deep=True)
    broken["response"][0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        write_store(path, {"": broken}, provenance={}, validate=check_recording, overwrite=True)
    assert np.isfinite(open_store(path)["response"]).all()
    assert leftovers(tmp_path) == []


def shard_files(path: Path) -> list[Path]:
    return [p for p in (path / "response" / "c").rglob("*") if p.is_file()]


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest", "list", "metadata"])
def test_damage_is_one_clear_line(tmp_path: Path, recording: xr.Dataset, damage: str) -> None:
    path = tmp_path / "a.zarr"
    write_store(path, {"": recording}, provenance={})
    victim = shard_files(path)[0]
    if damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:-100])
    elif damage == "remove":
        victim.unlink()
    elif damage == "list":
        (path / MANIFEST).write_text("[]")
    elif damage == "metadata":
        file = path / "response" / "zarr.json"
        file.write_text(file.read_text().replace('"node_type"', '"node_typf"'))
    else:
        (path / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="(is damaged|is no repalign-store).*; delete it and run"):
        open_store(path)


def test_a_flipped_bit_is_found_by_the_chunk_checksum(
    tmp_path: Path, recording: xr.Dataset
) -> None:
    path = tmp_path / "a.zarr"
    write_store(path, {"": recording}, provenance={})
    victim = shard_files(path)[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        open_store(path)["response"].values  # noqa: B018


def test_a_flipped_bit_in_text_is_found_too(tmp_path: Path, recording: xr.Dataset) -> None:
    path = tmp_path / "a.zarr"
    write_store(path, {"": recording}, provenance={})
    victim = path / "stimulus_id" / "c" / "0"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: .*checksum"):
        open_store(path)


def test_missing_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ingest or record it first"):
        open_store(tmp_path / "none.zarr")


def test_write_error_leaves_nothing_behind(tmp_path: Path) -> None:
    """A real write error: files may not grow beyond 100 kB."""
    script = f"""
import resource, signal, sys
import numpy as np
from pathlib import Path
from repalign.recording import make_recording
from repalign.store import write_store
random = np.random.default_rng(0)
ids = [f"s{{i}}" for i in range(400)]
small = make_recording(random.normal(size=(4, 3)), stimulus_id=ids[:4], region="IT")
large = make_recording(random.normal(size=(400, 300)), stimulus_id=ids, region="IT")
path = Path({str(tmp_path)!r}) / "a.zarr"
write_store(path, {{"": small}}, provenance={{}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_store(path, {{"": large}}, provenance={{}}, overwrite=True)
except OSError as error:
    print(error)
    sys.exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert "could not write" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert names(tmp_path) == ["a.zarr"]
    assert open_store(tmp_path / "a.zarr").sizes["presentation"] == 4


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.3])
def test_killed_while_replacing_leaves_the_old_or_the_new_store(
    tmp_path: Path, recording: xr.Dataset, delay: float
) -> None:
    path = tmp_path / "a.zarr"
    write_store(path, {"": recording * 0}, provenance={})
    script = f"""
import numpy as np
from pathlib import Path
from repalign.recording import make_recording
from repalign.store import write_store
ids = [f"stimulus-{{i}}" for i in range(40)]
print("ready", flush=True)
value = 0
while True:
    value += 1
    ds = make_recording(np.full((40, 30), float(value)), stimulus_id=ids, region="IT")
    write_store(Path({str(path)!r}), {{"": ds}}, provenance={{}}, overwrite=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.2 + delay)
        process.send_signal(signal.SIGKILL)
    values = np.unique(open_store(path)["response"].values)
    assert len(values) == 1
    assert values[0] == int(values[0])


def test_an_old_store_comes_back_when_the_swap_was_cut_short(
    tmp_path: Path, recording: xr.Dataset
) -> None:
    path = tmp_path / "a.zarr"
    write_store(path, {"": recording}, provenance={})
    path.rename(tmp_path / "a.zarr.old-1234")
    np.testing.assert_array_equal(open_store(path)["response"], recording["response"])


def test_building_removes_its_folder_when_the_block_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with building(tmp_path / "x") as folder:
            (folder / "part").write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert names(tmp_path) == []


def test_write_file_keeps_the_old_content_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.txt"
    write_file(path, "old")

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["f.txt"]


@pytest.mark.parametrize("shape", [(10,), (1200, 33), (92, 200_704), (3, 40, 7), (100_000, 1000)])
def test_a_shard_is_whole_rows_and_whole_chunks(shape: tuple[int, ...]) -> None:
    encoding = encoding_for(shape, 4)
    for chunk, shard in zip(encoding["chunks"], encoding["shards"], strict=True):
        assert shard % chunk == 0
    assert all(s >= n for s, n in zip(encoding["shards"][1:], shape[1:], strict=True))
    assert np.prod(encoding["chunks"]) * 4 <= 4 << 20


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    for where in (file, file / "a.zarr", file / "deep" / "a.zarr"):
        with pytest.raises(NotADirectoryError, match=rf"{re.escape(str(file))} is a file"):
            open_store(where)

"""verify_store: what is still as it was written passes, and every kind of damage is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import repalign as ra
from repalign import store_checks
from repalign.cli import main
from repalign.loaders.lazy import lazy_rows
from repalign.recording import make_recording
from repalign.store import write_store
from repalign.store_checks import verify_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).normal(size=(40, 30))
    recording = make_recording(
        lazy_rows(lambda a, b: values[a:b], values.shape, "float64", block_bytes=10 * 240),
        stimulus_id=[f"s{i}" for i in range(40)],
        region="IT",
    )
    path = tmp_path / "a.zarr"
    write_store(path, {"": recording, "more": xr.Dataset({"x": ("y", [1, 2])})}, provenance={})
    return path


def failed(path: Path) -> list[str]:
    return [one.check for one in verify_store(path, progress=False) if one.passed is False]


def test_a_store_that_was_just_written_passes(store: Path) -> None:
    found = verify_store(store, progress=False)
    assert [one.check for one in found] == ["files", "content", "content of more"]
    assert all(one.passed for one in found)
    assert found[1].detail == ra.open_store(store).attrs["fingerprint"]


def test_a_flipped_bit_a_missing_file_and_an_unknown_one_are_found(store: Path) -> None:
    shard = next(path for path in store.glob("response/c/**/*") if path.is_file())
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(bytes(content))
    assert failed(store) == ["content"]
    (store / "stray").write_text("x")
    shard.unlink()
    found = verify_store(store, progress=False)
    assert "stray is unknown" in found[0].detail
    assert "is missing" in found[0].detail


def test_a_store_whose_values_were_replaced_by_valid_ones_is_found(store: Path) -> None:
    import zarr

    zarr.open_array(store / "response", mode="r+")[3, 4] = 0.0
    manifest = json.loads((store / "manifest.json").read_text())
    for name in manifest["files"]:
        manifest["files"][name] = (store / name).stat().st_size
    (store / "manifest.json").write_text(json.dumps(manifest))
    assert failed(store) == ["content"]


def test_sources_are_hashed_again_where_they_lie(tmp_path: Path) -> None:
    np.save(tmp_path / "responses.npy", np.random.default_rng(0).normal(size=(6, 4)))
    card = tmp_path / "lab.toml"
    card.write_text(
        'name = "lab"\nspecies = "macaque"\nregions = "V4"\nloader = "arrays"\n'
        '[files]\nresponses = "responses.npy"\n[options]\ndims = ["stimulus", "neuroid"]\n'
    )
    path = Path(ra.ingest(card, to=tmp_path / "out").attrs["store"])
    assert verify_store(path, progress=False)[-1].passed is True
    np.save(tmp_path / "responses.npy", np.zeros((6, 4)))
    last = verify_store(path, progress=False)[-1]
    assert (last.check, last.passed) == ("source responses", False)
    assert "was changed since; ingest it again" in last.detail
    (tmp_path / "responses.npy").unlink()
    assert verify_store(path, progress=False)[-1].passed is None
    assert len(verify_store(path, sources=False, progress=False)) == 2


def test_the_command_fails_where_a_check_does(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["repalign", "verify-store", str(store), "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert [row["passed"] for row in json.loads(capsys.readouterr().out)] == [True] * 3
    next(store.glob("x*/**/c/*"), next(store.glob("more/x/c/*"))).unlink()
    with pytest.raises(SystemExit, match="1"):
        main()


def test_no_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ingest or record it first"):
        verify_store(tmp_path / "none.zarr")


def test_examples_run() -> None:
    import doctest

    assert doctest.testmod(store_checks).failed == 0

"""What loaders share: lazy rows, options, and HDF5 files that are probed first."""

from __future__ import annotations

import doctest
from pathlib import Path

import h5py
import numpy as np
import pytest

from repalign.loaders import hdf5, ingest, lazy
from repalign.loaders.hdf5 import check_hdf5, open_hdf5
from repalign.loaders.lazy import lazy_rows
from repalign.recording import make_recording


def test_lazy_rows_read_nothing_before_they_are_needed_and_then_only_what_is() -> None:
    whole = np.arange(60.0).reshape(20, 3)
    asked: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> np.ndarray:
        asked.append((start, stop))
        return whole[start:stop]

    rows = lazy_rows(read, whole.shape, np.float64, block_bytes=4 * 24)
    assert rows.numblocks == (5, 1)
    assert asked == []
    np.testing.assert_array_equal(rows[5:7].compute(), whole[5:7])
    assert asked == [(4, 8)]
    np.testing.assert_array_equal(rows.compute(), whole)


def test_lazy_rows_refuse_a_source_of_another_shape() -> None:
    rows = lazy_rows(lambda a, b: np.zeros((b - a, 2)), (4, 3), np.float64)
    with pytest.raises(ValueError, match=r"rows 0 to 4 have shape \(4, 2\), not \(4, 3\)"):
        rows.compute()


def test_a_recording_may_have_time_bins_and_more_coordinates() -> None:
    ds = make_recording(
        np.zeros((2, 3, 4)),
        stimulus_id=["a", "b"],
        region="IT",
        neuroid={"x": [1, 2, 3]},
        time_bins=([0, 10, 20, 30], [10, 20, 30, 40]),
    )
    assert ds["response"].dims == ("presentation", "neuroid", "time_bin")
    assert ds["time_bin_stop_ms"].values.tolist() == [10, 20, 30, 40]
    assert ds["x"].dims == ("neuroid",)
    with pytest.raises(ValueError, match="expected presentation × neuroid × time bin"):
        make_recording(np.zeros((2, 3)), stimulus_id=["a", "b"], region="IT", time_bins=([0], [1]))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data/x", data=np.arange(20000.0).reshape(100, 200), chunks=(10, 200))
        file["alias"] = h5py.SoftLink("/data/x")
        file["loop"] = h5py.SoftLink("/")
        file["nowhere"] = h5py.SoftLink("/none")
        file.create_dataset("names", data=["a", "b"])
        file.create_dataset("empty", shape=(0, 3), dtype="f8")
    return path


def test_a_good_file_passes(good: Path) -> None:
    with open_hdf5(good) as file:
        assert file["data/x"].shape == (100, 200)


def test_truncated_files_links_and_other_content_are_refused(good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    cut = tmp_path / "cut.h5"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.h5: it is no readable HDF5 file: .*truncated"):
        check_hdf5(cut)
    other = tmp_path / "other.h5"
    other.write_bytes(b"not at all" * 100)
    with pytest.raises(ValueError, match="no readable HDF5 file"):
        check_hdf5(other)
    linked = tmp_path / "linked.h5"
    with h5py.File(linked, "w") as file:
        file["x"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(ValueError, match="/x is a link into another file, '/etc/passwd'"):
        check_hdf5(linked)
    outside = tmp_path / "outside.h5"
    with h5py.File(outside, "w") as file:
        file.create_dataset("y", (4,), "f8", external=[("/etc/hostname", 0, 32)])
    with pytest.raises(ValueError, match="/y keeps its values in another file"):
        check_hdf5(outside)
    layout = h5py.VirtualLayout((100, 200), "f8")
    layout[:] = h5py.VirtualSource(good, "data/x", (100, 200))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("z", layout)
    with pytest.raises(ValueError, match="/z keeps its values in another file"):
        check_hdf5(tmp_path / "virtual.h5")
    with pytest.raises(FileNotFoundError, match="no file"):
        check_hdf5(tmp_path / "absent.h5")


def test_damaged_bytes_never_take_the_process_down(good: Path, tmp_path: Path) -> None:
    """A file is either read or refused, whatever is written over it."""
    content = good.read_bytes()
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(12):
        damaged = bytearray(content)
        for place in random.integers(0, 2048, 40):  # the headers lie first
            damaged[place] = int(random.integers(256))
        path = tmp_path / "damaged.h5"
        path.write_bytes(bytes(damaged))
        try:
            check_hdf5(path)
            outcomes.add("read")
        except ValueError as error:
            outcomes.add("refused" if "damaged.h5: " in str(error) else str(error))
    assert {"refused"} <= outcomes <= {"refused", "read"}


def test_of_several_files_the_bad_one_is_named(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [tmp_path / f"{name}.h5" for name in "abc"]
    for other in others:
        other.write_bytes(good.read_bytes())
    started: list[list[str]] = []
    probe = hdf5._probe
    monkeypatch.setattr(hdf5, "_probe", lambda paths: started.append(paths) or probe(paths))
    check_hdf5(good, *others)
    check_hdf5(*others)
    assert [len(paths) for paths in started] == [4]
    others[1].write_bytes(good.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"b\.h5: it is no readable HDF5 file"):
        check_hdf5(good, *others)


def test_a_file_that_hangs_is_given_up(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "SECONDS", 1)
    monkeypatch.setattr(hdf5, "_PROBE", "import time; time.sleep(60)")
    hdf5._KNOWN.clear()
    with pytest.raises(ValueError, match="took longer than 1 s"):
        check_hdf5(good)
    monkeypatch.setattr(hdf5, "_PROBE", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    hdf5._KNOWN.clear()
    with pytest.raises(ValueError, match="failed on it \\(signal 11\\); it is damaged"):
        check_hdf5(good)
    hdf5._KNOWN.clear()


def test_examples_run() -> None:
    assert [doctest.testmod(module).failed for module in (hdf5, lazy)] == [0, 0]


def test_an_installed_package_may_bring_a_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an entry point; its distribution is on the path, as if it had been installed."""
    (tmp_path / "their_lab.py").write_text(
        "import numpy as np\n"
        "from repalign.recording import make_recording\n"
        "def read(card, files):\n"
        "    return make_recording(np.eye(3), stimulus_id=list('abc'), region='V4'), None\n"
    )
    about = tmp_path / "their_lab-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-lab\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[repalign.loaders]\ntheirs = their_lab:read\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    card = tmp_path / "lab.toml"
    card.write_text(
        'name = "lab"\nspecies = "macaque"\nregions = "V4"\nloader = "theirs"\n'
        '[files]\nraw = "their_lab.py"\n'
    )
    assert ingest(card, to=tmp_path / "out").sizes["neuroid"] == 3
    card.write_text(card.read_text().replace('"theirs"', '"their"'))
    with pytest.raises(ValueError, match=r"loader = 'their', expected one of .*theirs.*your own"):
        ingest(card, to=tmp_path / "out")

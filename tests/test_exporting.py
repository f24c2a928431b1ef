"""Export: each file is read back by the tool that it is for."""

from __future__ import annotations

import csv
import doctest
import json
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rsatoolbox
import xarray as xr

from repalign import exporting
from repalign.exporting import export
from repalign.loaders import ingest, lazy
from repalign.recording import make_rdm_recording, make_recording, select
from repalign.recording_checks import check_recording
from repalign.stimuli import Stimuli, encode_png, open_stimuli

IDS = ["b/1", "ä 2", "b/1", "c", "c.png"]


def recording(random: np.random.Generator, *, bins: int = 0, **attrs: Any) -> xr.Dataset:
    shape = (5, 4, bins) if bins else (5, 4)
    edges = (np.arange(bins) * 10.0, np.arange(bins) * 10.0 + 10) if bins else None
    return make_recording(
        random.normal(size=shape).astype(np.float32),
        stimulus_id=IDS,
        region=["V4", "V4", "IT", "IT"],
        species="macaque",
        subject=["Tito", "Chabo", "Tito", "Tito"],
        presentation={"category": np.array(["x", "y", "x", "ü", ""], object), "hit": [True] * 5},
        neuroid={"depth": np.array([0.1, 0.2, 0.3, 1 / 3]), "channel": np.arange(4, dtype="i2")},
        time_bins=edges,
        attrs={"units": "spikes per 100 ms", "citation": "Müller", "n": 3, **attrs},
    )


def pictures(random: np.random.Generator) -> Stimuli:
    ids = ("c.png", "never", "c", "ä 2", "b/1")
    files = [encode_png(random.integers(0, 256, (8, 8, 3), np.uint8)) for _ in ids]
    table = {"filename": np.array(list("12345")), "size": np.array([0.5, 1, 2, 3, 4])}
    return Stimuli(ids, files, 8.0, table)


def brainio_card(folder: Path, options: str = "", *, images: bool = True) -> Path:
    """A card for ``a.nc`` and the files beside it."""
    roles = 'stimuli = "a_stimuli.csv"\nimages = "a_stimuli.zip"\n' if images else ""
    path = folder / "back.toml"
    path.write_text(
        'name = "back"\nspecies = "macaque"\nregions = "IT"\nloader = "brainio"\n[files]\n'
        f'assembly = "a.nc"\n{roles}[options]\n{options}\n[stimuli]\nvisual_degrees = 8.0\n'
    )
    return path


def assert_same_coordinates(found: xr.Dataset, expected: xr.Dataset) -> None:
    for name, item in expected.coords.items():
        assert found[name].dims == item.dims
        assert found[name].values.tolist() == item.values.tolist(), name
        if item.dtype.kind in "fib":
            assert found[name].dtype == item.dtype


@pytest.mark.parametrize("bins", [0, 1, 3])
def test_our_loader_reads_an_assembly_back_bit_for_bit(
    tmp_path: Path, random: np.random.Generator, bins: int
) -> None:
    ds, stimuli = recording(random, bins=bins), pictures(random)
    files = export(ds, tmp_path / "a.nc", stimuli=stimuli)
    assert [file.name for file in files] == ["a_stimuli.csv", "a_stimuli.zip", "a.nc"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nc", "a_stimuli.csv", "a_stimuli.zip"]
    back = ingest(brainio_card(tmp_path, "squeeze = false" if bins else ""), to=tmp_path / "to")
    assert back["response"].dtype == np.float32
    np.testing.assert_array_equal(back["response"].values, ds["response"].values)
    assert_same_coordinates(back, ds)
    assert back.attrs["brainio_citation"] == "Müller"
    assert back.attrs["brainio_n"] == 3
    kept = open_stimuli(back)
    assert kept.ids == ("c.png", "c", "ä 2", "b/1")
    assert [kept.files[i] for i in range(4)] == [stimuli.files[i] for i in (0, 2, 3, 4)]
    assert kept.table["size"].tolist() == [0.5, 2, 3, 4]
    assert kept.table["stimulus_filename"].tolist() == [1, 3, 4, 5]


def test_a_recording_of_a_store_brings_its_images(
    tmp_path: Path, random: np.random.Generator
) -> None:
    export(recording(random), tmp_path / "a.nc", stimuli=pictures(random))
    first = ingest(brainio_card(tmp_path), to=tmp_path / "to")
    export(select(first, region="IT"), tmp_path / "again" / "a.nc")
    second = ingest(brainio_card(tmp_path / "again"), to=tmp_path / "other")
    assert second.sizes["neuroid"] == 2
    np.testing.assert_array_equal(second["response"].values, first["response"].values[:, 2:])
    assert second["image_sha256"].values.tolist() == first["image_sha256"].values.tolist()
    assert "presentation_image_sha256" not in second.coords
    assert second.attrs["brainio_identifier"] == first.attrs["brainio_identifier"] == "a"
    assert "brainio_store" not in second.attrs


def test_xarray_opens_an_assembly_with_all_its_coordinates(
    tmp_path: Path, random: np.random.Generator
) -> None:
    ds = recording(random, bins=2)
    export(ds, tmp_path / "a.nc")
    with xr.open_dataarray(tmp_path / "a.nc", engine="h5netcdf") as array:
        np.testing.assert_array_equal(array.values, ds["response"].values)
        assert array.dims == ("presentation", "neuroid", "time_bin")
        assert array["time_bin_end"].values.tolist() == [10, 20]
        assert array["hit"].dtype == bool
        assert array["channel"].dtype == np.int16
        assert array["category"].values.tolist() == ds["category"].values.tolist()
        assert len(array.coords) == len(ds.coords)
        assert array.attrs["identifier"] == "a"
        assert array.attrs["stimulus_set_identifier"] == "a_stimuli"


def test_attributes_that_readers_act_upon_change_no_value(
    tmp_path: Path, random: np.random.Generator
) -> None:
    long = {"stimulus_ids": ["stimulus"] * 20_000}  # more than HDF5 keeps with a dataset
    ds = recording(random, scale_factor=2.0, _FillValue=0.0, aligned_to=long, shape=[3, 4], ok=True)
    export(ds, tmp_path / "a.nc")
    with xr.open_dataarray(tmp_path / "a.nc", engine="h5netcdf") as array:
        np.testing.assert_array_equal(array.values, ds["response"].values)
        assert array.attrs["attribute_scale_factor"] == 2.0
        assert json.loads(array.attrs["aligned_to"]) == long
        assert (array.attrs["shape"], array.attrs["ok"]) == ("[3, 4]", "true")


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i8", "u2", ">f8"])
def test_every_number_type_comes_back_with_equal_values(tmp_path: Path, kind: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(kind)
    ds = make_recording(values, stimulus_id=["a", "b"], region="IT")
    export(ds, tmp_path / "a.nc")
    export(ds, tmp_path / "a.npz")
    with xr.open_dataarray(tmp_path / "a.nc", engine="h5netcdf") as array:
        assert array.dtype == {"f2": np.float32, ">f8": np.float64}.get(kind, np.dtype(kind))
        np.testing.assert_array_equal(array.values, values)
    with np.load(tmp_path / "a.npz") as file:
        assert file["response"].dtype == kind
        np.testing.assert_array_equal(file["response"], values)


def test_numpy_reads_an_npz_without_pickle(tmp_path: Path, random: np.random.Generator) -> None:
    ds = recording(random, bins=2)
    export(ds, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        back = xr.Dataset({n: (about["dims"][n], file[n]) for n in file.files if n != "about"})
    back = back.set_coords([str(name) for name in ds.coords])
    np.testing.assert_array_equal(back["response"].values, ds["response"].values)
    assert_same_coordinates(back, ds)
    assert about["attrs"] == ds.attrs
    assert back["stimulus_id"].dtype.kind == "U"
    assert zipfile.ZipFile(tmp_path / "a.npz").testzip() is None


def test_an_npz_is_the_same_file_each_time(tmp_path: Path, random: np.random.Generator) -> None:
    ds = recording(random)
    export(ds, tmp_path / "a.npz")
    export(ds, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def rdm_recording() -> xr.Dataset:
    rdm = np.array([[[0, 1, 2], [1, 0, 3], [2, 3, 0]]] * 2, dtype=np.float64) / 7
    return make_rdm_recording(
        rdm, stimulus_id=list("abc"), subject=["s1", "s2"], species="human", region="IT"
    )


def test_rsatoolbox_reads_its_own_files(tmp_path: Path, random: np.random.Generator) -> None:
    ds = recording(random).drop_vars("category")
    ds = ds.assign_coords(stimulus_id=("presentation", list("abcde")))
    export(ds, tmp_path / "a.h5")
    data = rsatoolbox.data.load_dataset(str(tmp_path / "a.h5"))
    np.testing.assert_array_equal(data.measurements, ds["response"].values)
    assert data.obs_descriptors["stimulus_id"].tolist() == list("abcde")
    assert data.channel_descriptors["region"].tolist() == ["V4", "V4", "IT", "IT"]
    assert data.descriptors["citation"] == "Müller"
    export(rdm_recording(), tmp_path / "r.h5")
    rdms = rsatoolbox.rdm.load_rdm(str(tmp_path / "r.h5"))
    np.testing.assert_array_equal(rdms.get_matrices(), rdm_recording()["rdm"].values)
    assert [str(name) for name in rdms.rdm_descriptors["subject"]] == ["s1", "s2"]
    assert [str(name) for name in rdms.pattern_descriptors["stimulus_id"]] == list("abc")


def test_rdms_go_into_npz(tmp_path: Path) -> None:
    export(rdm_recording(), tmp_path / "r.npz")
    with np.load(tmp_path / "r.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["rdm"], rdm_recording()["rdm"].values)
        assert file["subject"].tolist() == ["s1", "s2"]


@pytest.mark.parametrize("ending", [".nc", ".npz"])
def test_a_lazy_recording_is_written_in_blocks(tmp_path: Path, ending: str) -> None:
    blocks: list[int] = []

    def read_rows(start: int, stop: int) -> np.ndarray[Any, Any]:
        blocks.append(start)
        return np.full((stop - start, 50_000), start, dtype=np.float32)

    rows = 1000  # 200 MB in blocks of 10 rows, 2 MB
    array = lazy.lazy_rows(read_rows, (rows, 50_000), np.float32, block_bytes=2 << 20)
    ds = make_recording(array, stimulus_id=[f"s{i}" for i in range(rows)], region="IT")
    tracemalloc.start()
    [file] = export(ds, tmp_path / f"a{ending}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.stat().st_size > 200e6
    assert peak < 60e6  # 50,000 names of neuroids take most of it
    assert sorted(blocks) == sorted(set(blocks))  # each was read once
    if ending == ".nc":
        with h5py.File(file) as opened:
            np.testing.assert_array_equal(opened["response"][:, 0], np.arange(rows) // 10 * 10)
    else:
        with np.load(file) as opened:
            np.testing.assert_array_equal(opened["response"][:, -1], np.arange(rows) // 10 * 10)


def test_a_failed_export_leaves_the_old_files(tmp_path: Path, random: np.random.Generator) -> None:
    ds = recording(random)
    export(ds, tmp_path / "a.nc", stimuli=pictures(random))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def read_rows(start: int, stop: int) -> np.ndarray[Any, Any]:
        raise OSError("no space left on device")

    broken = ds.assign(response=(ds["response"].dims, lazy.lazy_rows(read_rows, (5, 4), "f4")))
    with pytest.raises(OSError, match="no space"):
        export(broken, tmp_path / "a.nc", stimuli=pictures(random), overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(OSError, match="no space"):
        export(broken, tmp_path / "b.npz")
    assert not list(tmp_path.glob("*b.npz*"))


def test_a_file_is_replaced_only_when_asked(tmp_path: Path, random: np.random.Generator) -> None:
    ds = recording(random)
    (tmp_path / "a_stimuli.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a_stimuli\.csv exists; pass overwrite=True"):
        export(ds, tmp_path / "a.nc", stimuli=pictures(random))
    assert (tmp_path / "a_stimuli.csv").read_text() == "mine"
    export(ds, tmp_path / "a.nc")
    with pytest.raises(FileExistsError, match=r"a\.nc exists"):
        export(ds, tmp_path / "a.nc")
    export(ds + 1, tmp_path / "a.nc", overwrite=True)
    with h5py.File(tmp_path / "a.nc") as file:
        np.testing.assert_array_equal(file["response"][()], ds["response"].values + 1)


def test_ids_of_stimuli_become_safe_and_distinct_file_names(
    tmp_path: Path, random: np.random.Generator
) -> None:
    ids = ("../x", "x", "X", "x.jpg", ".", "a b")
    file = encode_png(random.integers(0, 256, (4, 4, 3), np.uint8))
    ds = make_recording(np.zeros((6, 1)), stimulus_id=ids, region="IT")
    export(ds, tmp_path / "a.nc", stimuli=Stimuli(ids, [file] * 6))
    with (tmp_path / "a_stimuli.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [row["stimulus_id"] for row in rows] == list(ids)
    names = [row["filename"] for row in rows]
    assert names == ["x.png", "x_1.png", "X_2.png", "x.jpg.png", "stimulus.png", "a_b.png"]
    assert zipfile.ZipFile(tmp_path / "a_stimuli.zip").namelist() == names


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (lambda ds: ds, "a.mat", "a.mat: expected a name that ends in .nc, .npz, .h5"),
        (lambda ds: ds.drop_vars("response"), "a.nc", "neither 'response' nor 'rdm'"),
        (lambda ds: rdm_recording(), "a.nc", "holds RDMs only; export it as .npz or .h5"),
        (lambda ds: ds.drop_vars("stimulus_id"), "a.nc", "needs stimulus_id on presentation"),
        (lambda ds: ds.transpose(), "a.nc", "expected (presentation, neuroid[, time_bin])"),
        (lambda ds: ds.rename(depth="my depth"), "a.nc", "ds.rename({'my depth': 'my_depth'})"),
        (lambda ds: ds.assign_coords(neuroid=[1, 2, 3, 4]), "a.nc", "{'neuroid': 'neuroid_name'}"),
        (lambda ds: ds.assign(ceiling=("neuroid", [0.0] * 4)), "a.nc", "drop ceiling"),
        (
            lambda ds: ds.assign_coords(day=("neuroid", np.zeros(4, "datetime64[ns]"))),
            "a.nc",
            'such as by ds["day"].astype(str)',
        ),
        (
            lambda ds: ds.assign_coords(x=("neuroid", np.array(["a", None, "", ""], object))),
            "a.npz",
            "neither a number nor text; convert it",
        ),
        (lambda ds: ds.rename(depth="about"), "a.npz", "an array 'about' of their own"),
        (lambda ds: ds.astype(np.complex64), "a.nc", "netCDF has no type complex64"),
        (lambda ds: ds, "a.h5", "coordinate 'stimulus_id' has 'ä'"),
        (
            lambda ds: ds.drop_vars(["stimulus_id", "category"]).rename(depth="x/y"),
            "a.h5",
            "coordinate 'x/y' has '/'",
        ),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    tmp_path: Path,
    random: np.random.Generator,
    change: Callable[[xr.Dataset], xr.Dataset],
    name: str,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        export(change(recording(random)), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_images_that_cannot_be_written_are_refused(
    tmp_path: Path, random: np.random.Generator
) -> None:
    ds, stimuli = recording(random), pictures(random)
    with pytest.raises(ValueError, match=r"images go beside \.nc files only"):
        export(ds, tmp_path / "a.npz", stimuli=stimuli)
    with pytest.raises(ValueError, match="no image for 1 of 4 stimuli, such as 'b/1'"):
        export(ds, tmp_path / "a.nc", stimuli=stimuli.subset(["c", "c.png", "ä 2"]))
    one = make_recording(np.zeros((1, 1)), stimulus_id=["never"], region="IT")
    with pytest.raises(ValueError, match="image of stimulus 'never' is none of PNG, JPEG"):
        export(one, tmp_path / "a.nc", stimuli=Stimuli(("never",), [b"text"]))
    assert not list(tmp_path.iterdir())


def test_a_real_assembly_survives_two_round_trips(data_folder: Path, tmp_path: Path) -> None:
    specimens = data_folder / "brainio_specimens"
    path = brainio_card(tmp_path, "squeeze = false")
    text = path.read_text().replace("a.nc", str(specimens / "assy_test_package_assembly.nc"))
    text = text.replace("a_stimuli.csv", str(specimens / "image_test_ten_images.csv"))
    path.write_text(text.replace("a_stimuli.zip", str(specimens)))
    first = ingest(path, to=tmp_path / "1")
    export(first, tmp_path / "out" / "a.nc")
    second = ingest(brainio_card(tmp_path / "out", "squeeze = false"), to=tmp_path / "2")
    np.testing.assert_array_equal(second["response"].values, first["response"].values)
    assert_same_coordinates(second, first)
    assert open_stimuli(second).fingerprint() == open_stimuli(first).fingerprint()


def test_real_rdms_are_exported(data_folder: Path, tmp_path: Path) -> None:
    ds = ingest("kriegeskorte2008", to=tmp_path / "stores", mirror=data_folder)
    export(ds, tmp_path / "r.h5")
    rdms = rsatoolbox.rdm.load_rdm(str(tmp_path / "r.h5"))
    upper = np.triu_indices(92, 1)
    np.testing.assert_array_equal(rdms.dissimilarities, ds["rdm"].values[:, *upper])
    export(ds, tmp_path / "r.npz")
    with np.load(tmp_path / "r.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["rdm"], ds["rdm"].values)
        assert "store" not in json.loads(str(file["about"]))["attrs"]


def test_the_example_runs() -> None:
    assert doctest.testmod(exporting).failed == 0


def test_an_exported_recording_is_whole(tmp_path: Path, random: np.random.Generator) -> None:
    export(recording(random), tmp_path / "a.nc")
    check_recording(ingest(brainio_card(tmp_path, images=False), to=tmp_path / "to"))
    assert set(exporting.FORMATS) == {".nc", ".npz", ".h5"}

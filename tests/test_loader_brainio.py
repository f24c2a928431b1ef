"""BrainIO: files written as BrainIO does, by xarray and h5netcdf, and specimens of its own."""

from __future__ import annotations

import csv
import re
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pytest
import xarray as xr

from repalign.cards import load_dataset_card
from repalign.loaders import brainio_assembly, ingest, lazy
from repalign.loaders.brainio import read
from repalign.recording_checks import check_recording
from repalign.stimuli import Stimuli, encode_png, open_stimuli

DIMS = ("presentation", "neuroid", "time_bin")
CARDS = ("majajhong2015_public", "majajhong2015_temporal_public", "freemanziemba2013_public")


class Lab:
    """A folder with an assembly of 3 stimuli × 2 repetitions, 4 neuroids and 5 time bins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        random = np.random.default_rng(0)
        self.values = random.normal(size=(6, 4, 5)).astype(np.float32)
        self.images = {f"im{i}": random.integers(0, 256, (8, 8, 3), np.uint8) for i in range(3)}
        self.shown = ["im0", "im1", "im2", "im2", "im1", "im0"]
        self.table([[name, f"{name}.png", f"cat{i}", i / 2] for i, name in enumerate(self.images)])
        self.zip({f"{name}.png": encode_png(image) for name, image in self.images.items()})

    def array(self, values: np.ndarray | None = None, dims: Sequence[str] = DIMS) -> xr.DataArray:
        """The assembly as BrainIO builds it: flat coordinates, nothing on the dimensions."""
        values = self.values if values is None else values
        array = xr.DataArray(
            values,
            dims=DIMS[: values.ndim],
            coords={
                "stimulus_id": ("presentation", self.shown),
                "repetition": ("presentation", [0, 0, 0, 1, 1, 1]),
                "correct": ("presentation", [True, False, True, True, True, False]),
                "neuroid_id": ("neuroid", ["a", "b", "c", "d"]),
                "region": ("neuroid", ["V4", "V4", "IT", "IT"]),
                "animal": ("neuroid", ["Chabo", "Tito", "Tito", "Tito"]),
                "x": ("neuroid", [0.5, 1.5, 2.5, 3.5]),
            },
            attrs={"identifier": "lab.One2024", "stimulus_set_identifier": "lab.Two"},
        )
        if values.ndim == 3:
            starts = 10 * np.arange(values.shape[2])
            array = array.assign_coords(
                time_bin_start=("time_bin", starts), time_bin_end=("time_bin", starts + 10)
            )
        return array.transpose(*[dim for dim in dims if dim in array.dims])

    def save(self, array: xr.DataArray | xr.Dataset, *, name: str = "data", **keys: Any) -> Path:
        path = self.folder / "assembly.nc"
        dataset = array if isinstance(array, xr.Dataset) else array.to_dataset(name=name)
        dataset.to_netcdf(path, engine="h5netcdf", **keys)
        return path

    def table(
        self, rows: Sequence[Sequence[Any]], head: str = "stimulus_id,filename,cat,s"
    ) -> None:
        with (self.folder / "stimuli.csv").open("w", newline="") as file:
            csv.writer(file).writerows([head.split(","), *rows])

    def zip(self, members: dict[str, bytes]) -> None:
        with zipfile.ZipFile(self.folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    def card(
        self, options: str = "", *, files: Sequence[str] = ("assembly", "stimuli", "images")
    ) -> Path:
        names = {"assembly": "assembly.nc", "stimuli": "stimuli.csv", "images": "images.zip"}
        listed = "\n".join(f'{role} = "{names[role]}"' for role in files)
        path = self.folder / "lab.toml"
        path.write_text(
            'name = "lab"\nspecies = "macaque"\nregions = "IT"\n'
            f'loader = "repalign.loaders.brainio:read"\n[files]\n{listed}\n'
            f"[options]\n{options}\n[stimuli]\nvisual_degrees = 8.0\n"
        )
        return path

    def read(self, options: str = "", **keys: Any) -> tuple[xr.Dataset, Stimuli | None]:
        card = load_dataset_card(self.card(options, **keys))
        files = {role: self.folder / str(source.path) for role, source in card.files.items()}
        recording, stimuli = read(card, files)
        check_recording(recording)
        return recording, stimuli

    def refuses(self, message: str, options: str = "", **keys: Any) -> None:
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            self.read(options, **keys)
        assert str(self.folder) in str(error.value)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_values_and_coordinates_are_those_of_the_file(lab: Lab) -> None:
    lab.save(lab.array())
    recording, stimuli = lab.read()
    assert recording["response"].dims == DIMS
    assert recording["response"].dtype == np.float32
    np.testing.assert_array_equal(recording["response"].values, lab.values)
    assert recording["stimulus_id"].values.tolist() == lab.shown
    assert recording["repetition"].values.tolist() == [0, 0, 0, 1, 1, 1]
    assert recording["region"].values.tolist() == ["V4", "V4", "IT", "IT"]
    assert recording["subject"].values.tolist() == ["Chabo", "Tito", "Tito", "Tito"]
    assert set(recording["species"].values) == {"macaque"}
    assert recording["x"].values.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert recording["correct"].dtype == bool
    assert recording["time_bin_start_ms"].values.tolist() == [0, 10, 20, 30, 40]
    assert recording["time_bin_stop_ms"].values.tolist() == [10, 20, 30, 40, 50]
    assert recording["cat"].values.tolist() == ["cat0", "cat1", "cat2", "cat2", "cat1", "cat0"]
    assert recording.attrs["brainio_identifier"] == "lab.One2024"
    assert recording.attrs["brainio_stimulus_set_identifier"] == "lab.Two"
    assert stimuli is not None
    assert stimuli.ids == ("im0", "im1", "im2")
    assert stimuli.visual_degrees == 8.0
    assert stimuli.table["s"].tolist() == [0.0, 0.5, 1.0]
    np.testing.assert_array_equal(stimuli.image(1), lab.images["im1"])


@pytest.mark.parametrize(
    "dims",
    [
        ("neuroid", "presentation", "time_bin"),
        ("time_bin", "neuroid", "presentation"),
        ("neuroid", "time_bin", "presentation"),
    ],
)
def test_the_order_of_dimensions_does_not_matter(
    lab: Lab, dims: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "BLOCK_BYTES", 2 * 4 * 5 * 4)  # two presentations a block
    encoding = {"data": {"zlib": True, "chunksizes": (2, 2, 2)}}
    lab.save(lab.array(dims=dims), encoding=encoding)
    recording, _ = lab.read()
    assert recording["response"].chunks is not None
    assert recording["response"].chunks[0] == (2, 2, 2)
    np.testing.assert_array_equal(recording["response"].values, lab.values)


def test_a_store_holds_the_same_values(lab: Lab) -> None:
    lab.save(lab.array(dims=("neuroid", "presentation", "time_bin")))
    recording = ingest(lab.card())
    np.testing.assert_array_equal(recording["response"].values, lab.values)
    assert recording.attrs["brainio_identifier"] == "lab.One2024"
    stimuli = open_stimuli(recording)
    assert stimuli.ids == ("im0", "im1", "im2")
    assert stimuli.table["cat"].tolist() == ["cat0", "cat1", "cat2"]
    np.testing.assert_array_equal(stimuli.image(2), lab.images["im2"])
    assert recording["image_sha256"].values[0] == stimuli.image_hash(0)


def test_nothing_of_the_array_is_read_before_it_is_needed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    original = brainio_assembly.open_assembly

    def counting(path: Path) -> xr.Dataset:
        opened.append(path)
        return original(path)

    monkeypatch.setattr(brainio_assembly, "open_assembly", counting)
    monkeypatch.setattr(lazy, "BLOCK_BYTES", 2 * 4 * 5 * 4)
    lab.save(lab.array())
    recording, _ = lab.read(files=("assembly", "stimuli"))
    opened.clear()
    np.testing.assert_array_equal(recording["response"][2:4].values, lab.values[2:4])
    assert len(opened) == 1
    np.testing.assert_array_equal(recording["response"].values, lab.values)
    assert len(opened) == 4


def test_memory_stays_far_below_the_size_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array of 200 MB, neuroid first, is averaged over time in blocks of 4 MB."""
    lab, rows, neuroids, bins = Lab(tmp_path), 5000, 100, 100
    with h5netcdf.File(tmp_path / "assembly.nc", "w") as file:
        file.dimensions = {"neuroid": neuroids, "presentation": rows, "time_bin": bins}
        values = file.create_variable("data", ("neuroid", "presentation", "time_bin"), "f4")
        for neuroid in range(neuroids):
            values[neuroid] = np.full((rows, bins), neuroid, np.float32)
        file.create_variable("repetition", ("presentation",), data=np.arange(rows))
        ids = np.array(["im0"] * rows, dtype=object)
        file.create_variable("stimulus_id", ("presentation",), h5py.string_dtype(), data=ids)
        starts = np.arange(bins)
        file.create_variable("time_bin_start", ("time_bin",), data=starts)
        file.create_variable("time_bin_end", ("time_bin",), data=starts + 1)
    assert (tmp_path / "assembly.nc").stat().st_size > 200e6
    monkeypatch.setattr(lazy, "BLOCK_BYTES", 4 << 20)
    card = load_dataset_card(lab.card("average_time = true", files=["assembly"]))
    tracemalloc.start()
    try:
        recording, _ = read(card, {"assembly": tmp_path / "assembly.nc"})
        assert tracemalloc.get_traced_memory()[1] < 20e6
        mean = recording["response"].mean("presentation").compute(scheduler="synchronous")
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(mean.values, np.arange(neuroids))


def test_a_single_time_bin_is_squeezed_and_its_window_recorded(lab: Lab) -> None:
    lab.save(lab.array(lab.values[:, :, :1]))
    recording, _ = lab.read()
    assert recording["response"].dims == DIMS[:2]
    np.testing.assert_array_equal(recording["response"].values, lab.values[:, :, 0])
    assert recording.attrs["time_window_ms"] == [0, 10]
    kept, _ = lab.read("squeeze = false")
    assert kept["response"].shape == (6, 4, 1)


def test_an_array_without_time_bins_is_read(lab: Lab) -> None:
    lab.save(lab.array(lab.values[:, :, 2]))
    recording, _ = lab.read()
    np.testing.assert_array_equal(recording["response"].values, lab.values[:, :, 2])
    lab.refuses("has no time bins", "average_time = true")
    lab.refuses("has no time bins", "squeeze = false")


def test_window_chooses_time_bins_that_lie_wholly_in_it(lab: Lab) -> None:
    lab.save(lab.array())
    recording, _ = lab.read("window_ms = [5, 40]")
    np.testing.assert_array_equal(recording["response"].values, lab.values[:, :, 1:4])
    assert recording["time_bin_start_ms"].values.tolist() == [10, 20, 30]
    assert recording.attrs["window_ms"] == [5, 40]
    lab.refuses("no time bin lies wholly in window_ms = [12.0, 18.0]", "window_ms = [12, 18]")


def test_average_time_is_the_mean_of_the_chosen_bins(lab: Lab) -> None:
    lab.save(lab.array())
    recording, _ = lab.read("window_ms = [10, 40]\naverage_time = true")
    expected = lab.values[:, :, 1:4].mean(axis=2, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(recording["response"].values, expected)
    assert recording["response"].dtype == np.float32
    assert recording.attrs["time_window_ms"] == [10, 40]
    assert recording.attrs["time_bins_averaged"] == 3


def test_time_bins_need_edges_in_order_and_one_width_for_an_average(lab: Lab) -> None:
    array = lab.array()
    wide = array.assign_coords(time_bin_end=("time_bin", [10, 20, 30, 40, 90]))
    lab.save(wide)
    lab.refuses("average_time over time bins of 10 to 50 ms", "average_time = true")
    lab.save(array.assign_coords(time_bin_end=("time_bin", [10, 20, 5, 40, 50])))
    lab.refuses("a time bin ends before it starts")
    lab.save(array.drop_vars(["time_bin_start"]))
    lab.refuses("has 5 time bins without time_bin_start and time_bin_end")


def test_counts_stay_whole_numbers_and_filled_ones_become_nan(lab: Lab) -> None:
    counts = np.arange(24, dtype=np.int16).reshape(6, 4)
    lab.save(lab.array(counts))
    recording, _ = lab.read()
    assert recording["response"].dtype == np.int16
    np.testing.assert_array_equal(recording["response"].values, counts)
    lab.save(lab.array(counts), encoding={"data": {"_FillValue": np.int16(5)}})
    recording, _ = lab.read('missing = "drop_neuroids"')
    assert recording["neuroid_id"].values.tolist() == ["a", "c", "d"]
    np.testing.assert_array_equal(recording["response"].values, counts[:, [0, 2, 3]])


def test_missing_values_are_an_error_unless_the_card_says_what_to_drop(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "BLOCK_BYTES", 2 * 4 * 5 * 4)
    values = lab.values.copy()
    values[1, 2, 3] = np.nan  # im1, neuroid c, one time bin
    values[5] = np.nan  # im0, never recorded
    lab.save(lab.array(values))
    with pytest.raises(ValueError, match="NaN or infinite values in 4 neuroids"):
        lab.read()
    recording, _ = lab.read('missing = "drop_neuroids"')
    np.testing.assert_array_equal(recording["response"].values, values[:5, [0, 1, 3]])
    assert recording.attrs["dropped_neuroids"] == recording.attrs["dropped_presentations"] == 1
    recording, _ = lab.read('missing = "drop_presentations"')
    np.testing.assert_array_equal(recording["response"].values, values[[0, 2, 3, 4]])
    assert recording["repetition"].values.tolist() == [0, 0, 1, 1]
    recording, stimuli = lab.read('missing = "drop_stimuli"')
    np.testing.assert_array_equal(recording["response"].values, values[[2, 3]])
    assert stimuli is not None
    assert stimuli.ids == ("im2",)
    assert recording.attrs["stimuli_never_shown"] == 2
    lab.save(lab.array(np.full_like(values, np.nan)))
    lab.refuses("leaves 0 of 6 presentations", 'missing = "drop_presentations"')


def test_older_files_with_image_id_are_read(lab: Lab) -> None:
    lab.save(lab.array().rename(stimulus_id="image_id"), name="lab.One2024.public")
    lab.table([[n, f"p/{n}.png", n] for n in lab.images], "image_id,image_path_within_store,cat")
    lab.zip({f"p/{name}.png": encode_png(image) for name, image in lab.images.items()})
    recording, stimuli = lab.read()
    assert recording["stimulus_id"].values.tolist() == lab.shown
    assert "image_id" not in recording.coords
    assert stimuli is not None
    np.testing.assert_array_equal(stimuli.image(0), lab.images["im0"])


def test_ids_that_are_numbers_or_look_like_missing_ones_are_matched_as_text(lab: Lab) -> None:
    array = lab.array()
    lab.save(array.assign_coords(stimulus_id=("presentation", [7.0, 1.0, 2.0, 2.0, 1.0, 7.0])))
    lab.table([["7", "im0.png"], ["1", "im1.png"], ["2", "im2.png"]], "stimulus_id,filename")
    assert lab.read()[0]["stimulus_id"].values.tolist() == ["7", "1", "2", "2", "1", "7"]
    lab.save(array.assign_coords(stimulus_id=("presentation", ["NA", "b", "c"] * 2)))
    lab.table([["NA", "im0.png"], ["b", "im1.png"], ["c", "im2.png"]], "stimulus_id,filename")
    assert lab.read()[0]["stimulus_id"].values.tolist() == ["NA", "b", "c"] * 2


def test_a_name_that_stands_for_something_else_gets_a_prefix(lab: Lab) -> None:
    array = lab.array().assign_coords(species=("presentation", list("uvwxyz")))
    lab.save(array.assign_coords(response=("neuroid", [1, 2, 3, 4])))
    lab.table([[n, f"{n}.png", n[-1], "c"] for n in lab.images], "stimulus_id,filename,x,start")
    recording, stimuli = lab.read()
    assert recording["presentation_species"].values.tolist() == list("uvwxyz")
    assert recording["neuroid_response"].values.tolist() == [1, 2, 3, 4]
    assert recording["x"].dims == ("neuroid",)
    assert recording["stimulus_x"].values.tolist() == [0, 1, 2, 2, 1, 0]
    assert recording["stimulus_start"].dims == ("presentation",)
    assert stimuli is not None
    assert stimuli.table["stimulus_start"].tolist() == ["c"] * 3
    assert ingest(lab.card())["stimulus_x"].values.tolist() == [0, 1, 2, 2, 1, 0]


def test_a_label_that_the_assembly_repeats_is_kept_once(lab: Lab) -> None:
    same = [f"cat{name[-1]}" for name in lab.shown]
    lab.save(lab.array().assign_coords(cat=("presentation", same)))
    assert "stimulus_cat" not in lab.read()[0].coords
    lab.save(lab.array().assign_coords(cat=("presentation", [*same[::-1][:5], "other"])))
    recording, _ = lab.read()
    assert recording["cat"].values.tolist()[-1] == "other"
    assert recording["stimulus_cat"].values.tolist() == same


def test_repetitions_are_counted_where_the_file_has_none_or_repeats_itself(lab: Lab) -> None:
    lab.save(lab.array().drop_vars("repetition"))
    assert lab.read()[0]["repetition"].values.tolist() == [0, 0, 0, 1, 1, 1]
    lab.save(lab.array().assign_coords(repetition=("presentation", [3] * 6)))
    lab.refuses("stimulus 'im2' has repetition 3 twice; set repetition = \"count\"")
    recording, _ = lab.read('repetition = "count"')
    assert recording["repetition"].values.tolist() == [0, 0, 0, 1, 1, 1]
    assert recording["presentation_repetition"].values.tolist() == [3] * 6
    lab.save(lab.array().assign_coords(repetition=("presentation", [0.5] * 6)))
    lab.refuses("repetition has no whole numbers")


def test_region_species_and_subject_come_from_the_card_where_the_file_has_none(lab: Lab) -> None:
    lab.save(lab.array().drop_vars(["region", "animal", "neuroid_id"]))
    recording, _ = lab.read('subject = "Chabo"')
    assert set(recording["region"].values) == {"IT"}
    assert set(recording["subject"].values) == {"Chabo"}
    assert recording["neuroid_id"].values.tolist()[0] == "neuroid-0000"
    card = lab.card(files=["assembly"])
    card.write_text(card.read_text().replace('regions = "IT"', 'regions = ["V4", "IT"]'))
    with pytest.raises(ValueError, match="2 entries of region, and .* has no coordinate region"):
        read(load_dataset_card(card), {"assembly": lab.folder / "assembly.nc"})
    lab.save(lab.array())
    lab.refuses("subject = 'Tito' under [options], but", 'subject = "Tito"')


def test_a_dimension_with_values_of_its_own_names_the_neuroids(lab: Lab) -> None:
    array = lab.array().drop_vars("neuroid_id").assign_coords(neuroid=[11, 12, 13, 14])
    lab.save(array)
    assert lab.read()[0]["neuroid_id"].values.tolist() == ["11", "12", "13", "14"]


def test_dates_become_text_and_what_is_not_read_is_listed(lab: Lab) -> None:
    days = np.array(["2021-02-16T11:41:55"] * 6, "datetime64[ns]")
    array = lab.array().assign_coords(when=("presentation", days), rig=7)
    array = array.assign_coords(grid=(("neuroid", "time_bin"), np.zeros((4, 5))))
    path = lab.save(array)
    xr.Dataset({"eye": ("event", [1.0])}).to_netcdf(path, "a", group="eye", engine="h5netcdf")
    recording, _ = lab.read()
    assert recording["when"].values.tolist()[0].startswith("2021-02-16T11:41:55")
    assert recording.attrs["brainio_rig"] == 7
    assert recording.attrs["brainio_not_read"] == ["grid ('neuroid', 'time_bin')", "group eye"]


def test_several_variables_need_a_choice(lab: Lab) -> None:
    array = lab.array()
    lab.save(xr.Dataset({"rate": array, "variance": array**2}))
    lab.refuses("has 2 variables over presentation × neuroid [× time_bin]; choose by variable")
    lab.refuses("variable = 'rates', but over", 'variable = "rates"')
    recording, _ = lab.read('variable = "variance"')
    np.testing.assert_array_equal(recording["response"].values, lab.values**2)
    assert "not_read" in str(recording.attrs)


def test_images_are_optional_and_may_lie_in_a_folder(lab: Lab) -> None:
    lab.save(lab.array())
    recording, stimuli = lab.read(files=["assembly"])
    assert stimuli is None
    assert "cat" not in recording.coords
    (lab.folder / "images.zip").unlink()
    (lab.folder / "images.zip").mkdir()
    for name, image in lab.images.items():
        (lab.folder / "images.zip" / f"{name}.png").write_bytes(encode_png(image))
    _, stimuli = lab.read(files=["assembly", "images"])
    assert stimuli is not None
    np.testing.assert_array_equal(stimuli.image(0), lab.images["im0"])


def test_a_truncated_or_foreign_assembly_is_refused(lab: Lab) -> None:
    path = lab.save(lab.array())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    lab.refuses("assembly.nc: it is no readable HDF5 file")
    path.write_bytes(b"CDF\x01" + bytes(100))
    lab.refuses("assembly.nc: it is no readable HDF5 file")
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros((2, 3))
    lab.refuses("no netCDF-4 file as BrainIO writes it")


def test_an_assembly_of_something_else_is_refused(lab: Lab) -> None:
    lab.save(xr.DataArray(np.zeros(3), dims=["event"]))
    lab.refuses("has no dimension presentation (there is event)")
    lab.save(xr.DataArray(["a", "b"], dims=["presentation"]))
    lab.refuses("behavioural choices and properties of neuroids are no recordings")
    lab.save(xr.DataArray(np.zeros((2, 3, 4)), dims=["presentation", "neuroid", "frequency"]))
    lab.refuses("has 0 variables over presentation × neuroid [× time_bin]")
    lab.save(lab.array().drop_vars("stimulus_id"))
    lab.refuses("has no coordinate stimulus_id or image_id along presentation; there is")
    lab.save(lab.array().assign_coords(stimulus_id=("presentation", ["im0", ""] * 3)))
    lab.refuses("stimulus_id is empty in 3 presentations")
    lab.save(lab.array().astype(str))
    lab.refuses("expected numbers")


def test_a_stimulus_table_that_does_not_fit_is_refused(lab: Lab) -> None:
    lab.save(lab.array())
    lab.table([["im0", "im0.png"], ["im1", "im1.png"]], "stimulus_id,filename")
    lab.refuses("stimuli.csv lacks 1 stimuli that")
    lab.table([["im0", "a"], ["im1", "b"], ["im0", "c"]], "stimulus_id,filename")
    lab.refuses("stimulus_id 'im0' stands in more than one row")
    lab.table([["im0", "a"], ["", "b"]], "stimulus_id,filename")
    lab.refuses("stimuli.csv has no stimulus_id in row 2")
    lab.table([["im0.png"]], "filename")
    lab.refuses("expected stimulus_id (or image_id)")
    lab.table([], "stimulus_id,filename")
    lab.refuses("stimuli.csv has no rows")
    (lab.folder / "stimuli.csv").write_bytes(b"stimulus_id\n\xff\xfe\x00")
    lab.refuses("stimuli.csv is no readable csv")


def test_missing_and_ambiguous_images_are_refused(lab: Lab) -> None:
    lab.save(lab.array())
    pngs = {f"{name}.png": encode_png(image) for name, image in lab.images.items()}
    lab.zip({name: pngs[name] for name in ("im0.png", "im1.png")})
    lab.refuses("images.zip lacks 'im2.png', which")
    lab.zip({f"{folder}/{name}": png for name, png in pngs.items() for folder in "ab"})
    lab.refuses("has 'im0.png' 2 times (a/im0.png, b/im0.png)")


def test_nothing_outside_the_zip_is_read_or_written(lab: Lab) -> None:
    lab.save(lab.array())
    png = encode_png(lab.images["im0"])
    (lab.folder.parent / "im0.png").write_bytes(png)
    lab.zip({"../im0.png": png, "im1.png": png, "im2.png": png})
    lab.refuses("lacks 'im0.png'")
    outside = str(lab.folder.parent / "im0.png")
    lab.table([["im0", outside], ["im1", "im1.png"], ["im2", "im2.png"]], "stimulus_id,filename")
    lab.refuses(f"lacks {outside!r}")
    assert sorted(p.name for p in lab.folder.iterdir()) == [
        *("assembly.nc", "images.zip", "lab.toml", "stimuli.csv")
    ]


def test_a_decompression_bomb_and_a_damaged_zip_are_refused(lab: Lab) -> None:
    lab.save(lab.array())
    lab.zip({"im0.png": bytes(300 << 20)})
    lab.refuses("im0.png unpacks to 314572800 bytes")
    (lab.folder / "images.zip").write_bytes(b"PK\x03\x04" + bytes(50))
    lab.refuses("is neither a folder nor a zip of images")


def test_unknown_roles_and_options_are_refused(lab: Lab) -> None:
    lab.save(lab.array())
    card = load_dataset_card(lab.card())
    with pytest.raises(ValueError, match="needs assembly and knows stimuli, images"):
        read(card, {"images": lab.folder / "images.zip"})
    lab.refuses("options.window = [1, 2]: unknown; did you mean 'window_ms'", "window = [1, 2]")


def test_specimens_of_brainio_are_read(data_folder: Path, tmp_path: Path) -> None:
    specimens = data_folder / "brainio_specimens"
    lab = Lab(tmp_path)
    card = load_dataset_card(lab.card('repetition = "count"'))
    files = {"stimuli": specimens / "image_test_ten_images.csv", "images": specimens}
    recording, stimuli = read(card, files | {"assembly": specimens / "assy_test_TestMe.nc"})
    check_recording(recording)
    np.testing.assert_array_equal(recording["response"].values, np.arange(1, 19).reshape(6, 3))
    with h5py.File(specimens / "assy_test_TestMe.nc") as file:  # dummies named after dimensions
        assert file["presentation"].dtype == ">f4"
        assert recording["foo"].values.tolist() == file["foo"][:].tolist()
        assert recording["stimulus_id"].values.tolist() == [
            name.decode() for name in file["stimulus_id"][:]
        ]
    assert stimuli is not None
    assert stimuli.image(0).ndim == 3
    older, _ = read(card, {"assembly": specimens / "assy_test_package_assembly.nc"})
    assert older["response"].dims == DIMS[:2]
    assert older.attrs["time_window_ms"] == [0, 10]
    np.testing.assert_array_equal(older["response"].values, np.arange(1, 19).reshape(6, 3))
    with pytest.raises(ValueError, match="has no dimension presentation"):
        read(card, {"assembly": specimens / "assy_test_package_assembly_extras.nc"})


def test_a_specimen_becomes_a_store(data_folder: Path, tmp_path: Path) -> None:
    specimens = data_folder / "brainio_specimens"
    path = tmp_path / "specimen.toml"
    path.write_text(
        'name = "specimen"\nspecies = "macaque"\nregions = "IT"\n'
        'loader = "repalign.loaders.brainio:read"\n[files]\n'
        f'assembly = "{specimens / "assy_test_package_assembly.nc"}"\n'
        f'stimuli = "{specimens / "image_test_ten_images.csv"}"\nimages = "{specimens}"\n'
    )
    recording = ingest(path, to=tmp_path / "stores")
    np.testing.assert_array_equal(recording["response"].values, np.arange(1, 19).reshape(6, 3))
    assert recording["thing"].values.tolist() == [f"foo{i}" for i in range(6)]
    assert open_stimuli(recording).image_hash(0) == recording["image_sha256"].values[0]


@pytest.mark.parametrize("name", CARDS)
def test_the_cards_of_brain_score_are_complete(name: str) -> None:
    card = load_dataset_card(name)
    assert card.loader == "brainio"
    assert set(card.files) == {"assembly", "stimuli", "images"}
    for source in card.files.values():
        assert str(source.url).startswith("https://")
        assert str(source.hash).startswith("sha1:")
    assert card.doi
    assert card.stimuli.visual_degrees

"""Array files of all kinds, read in blocks: values to the bit, axes, memory, damage."""

from __future__ import annotations

import doctest
import itertools
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed.protocol.pickle import dumps, loads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat
from scipy.sparse import csc_array

from repalign.cards import load_dataset_card
from repalign.loaders import array_layout, arrays, ingest, mat5, table_files
from repalign.loaders.array_files import ArrayFile, open_array, read_array
from repalign.recording_checks import check_recording

Array = np.ndarray[Any, np.dtype[Any]]


def write_card(folder: Path, file: str, options: str) -> Path:
    path = folder / "lab.toml"
    path.write_text(
        'name = "lab"\nspecies = "macaque"\nregions = "V4"\nloader = "arrays"\n'
        f'[files]\nresponses = "{file}"\n[options]\n{options}\n'
    )
    return path


def load(path: Path, options: str) -> Any:
    """The recording of a file, without a store."""
    card = load_dataset_card(write_card(path.parent, path.name, options))
    return arrays.read(card, {"responses": path})[0]


def matlab_file(path: Path, fill: Callable[[h5py.File], None]) -> Path:
    """A version 7.3 file as MATLAB writes it: HDF5 behind 512 bytes of MATLAB's own."""
    with h5py.File(path, "w", userblock_size=512, libver="earliest") as file:
        fill(file)
    text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Wed Sep  2 09:27:54 2020"
    text = (text + b" HDF5 schema 1.00 .").ljust(116)
    with path.open("r+b") as raw:
        raw.write(text + bytes(8) + b"\x00\x02IM" + bytes(512 - 128))
    return path


def put(place: Any, name: str, values: Array, kind: str = "double", **how: Any) -> Any:
    """An array as MATLAB keeps it: column by column, its sizes counted from the other end."""
    columns = values.ravel(order="F").reshape(values.shape[::-1])
    dataset = place.create_dataset(name, data=columns, **how)
    dataset.attrs["MATLAB_class"] = np.bytes_(kind)
    return dataset


def save_v73(path: Path, values: Array) -> None:
    matlab_file(path, lambda file: put(file, "responses", values, chunks=True))


def save_hdf5(path: Path, values: Array) -> None:
    with h5py.File(path, "w") as file:
        file["responses"] = values


SAVE: dict[str, Callable[[Path, Array], None]] = {
    "a.npy": np.save,
    "fortran.npy": lambda path, values: np.save(path, np.asfortranarray(values)),
    "big-endian.npy": lambda path, values: np.save(
        path, values.astype(values.dtype.newbyteorder(">"))
    ),
    "stored.npz": lambda path, values: np.savez(path, responses=values),
    "packed.npz": lambda path, values: np.savez_compressed(path, responses=values),
    "v5.mat": lambda path, values: savemat(path, {"responses": values}),
    "v6.mat": lambda path, values: savemat(path, {"responses": values}, do_compression=True),
    "v73.mat": save_v73,
    "a.h5": save_hdf5,
    "a.hdf5": save_hdf5,
}


@pytest.mark.parametrize("name", SAVE)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.bool_])
def test_values_and_axes_come_out_as_they_were_saved(
    name: str, dtype: Any, tmp_path: Path, random: np.random.Generator
) -> None:
    values = (random.normal(size=(4, 5, 3)) * 20).astype(dtype)
    SAVE[name](tmp_path / name, values)
    source = open_array(tmp_path / name)
    assert source.shape == (4, 5, 3)
    assert source.dtype == (np.float32 if dtype is np.float32 else np.float64)
    for axis in range(3):
        expected = np.take(values, [1, 2], axis).astype(source.dtype)
        np.testing.assert_array_equal(source.slab(axis, 1, 3), expected)
    whole, ids = read_array(tmp_path / name, None)
    np.testing.assert_array_equal(whole, values.astype(source.dtype))
    assert ids is None


def by_hand(values: Array, dims: tuple[str, ...]) -> list[tuple[int, Array]]:
    """Stimulus and neuroid (× time bin) responses of each presentation that is not all NaN."""
    order = [axis for axis in array_layout.ORDER if axis in dims]
    values = np.transpose(values, [dims.index(axis) for axis in order])
    if "repetition" not in dims:
        values = values[:, None]
    return [
        (stimulus, trial)
        for stimulus, trials in enumerate(values)
        for trial in trials
        if not np.isnan(trial).all()
    ]


AXES = [
    dims
    for names in (
        ("stimulus", "neuroid"),
        ("stimulus", "neuroid", "repetition"),
        ("stimulus", "neuroid", "repetition", "time_bin"),
    )
    for dims in itertools.permutations(names)
]


@pytest.mark.parametrize("dims", AXES, ids="-".join)
@pytest.mark.parametrize("block_bytes", [1, 300, 1 << 20])
def test_any_order_of_axes_gives_the_same_presentations(
    dims: tuple[str, ...],
    block_bytes: int,
    tmp_path: Path,
    random: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(array_layout, "BLOCK_BYTES", block_bytes)
    sizes = {"stimulus": 7, "neuroid": 3, "repetition": 4, "time_bin": 2}
    values = random.normal(size=[sizes[axis] for axis in dims])
    if "repetition" in dims:
        gone = random.random(size=(7, 4)) < 0.4
        gone[:, 2] = False
        places = [dims.index("stimulus"), dims.index("repetition")]
        np.moveaxis(values, places, (0, 1))[gone] = np.nan
    np.save(tmp_path / "r.npy", values)
    options = f"dims = {list(dims)}"
    if "time_bin" in dims:
        options += "\ntime_bins_ms = { start = -10, width = 20 }"
    ds = load(tmp_path / "r.npy", options)
    check_recording(ds)
    expected = by_hand(values, dims)
    assert ds["stimulus_id"].values.tolist() == [f"lab/{i:04d}" for i, _ in expected]
    np.testing.assert_array_equal(ds["response"].values, np.stack([t for _, t in expected]))
    counts = {i: itertools.count() for i in range(7)}
    assert ds["repetition"].values.tolist() == [next(counts[i]) for i, _ in expected]


@pytest.mark.parametrize("missing", ["drop_neuroids", "drop_stimuli"])
def test_what_is_dropped_is_the_same_whatever_the_blocks(
    missing: str, tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = random.normal(size=(20, 6, 3))
    values[random.random(20) < 0.5, :, 1] = np.nan
    values[3, 2, 0], values[8, 4, 2] = np.nan, np.nan
    np.save(tmp_path / "r.npy", values)
    options = f'dims = ["stimulus", "neuroid", "repetition"]\nmissing = "{missing}"'
    found = []
    for block_bytes in (1, 500, 1 << 20):
        monkeypatch.setattr(array_layout, "BLOCK_BYTES", block_bytes)
        found.append(load(tmp_path / "r.npy", options).compute())
    assert found[0].identical(found[1])
    assert found[0].identical(found[2])
    ids = {int(name[-4:]) for name in found[0]["stimulus_id"].values}
    neuroids = [int(name[-4:]) for name in found[0]["neuroid_id"].values]
    if missing == "drop_neuroids":
        assert (len(ids), neuroids) == (20, [0, 1, 3, 5])
    else:
        assert (ids, len(neuroids)) == (set(range(20)) - {3, 8}, 6)


def test_a_stimulus_that_was_never_shown_is_said(tmp_path: Path) -> None:
    values = np.ones((4, 3))
    values[2] = np.nan
    np.save(tmp_path / "r.npy", values)
    dims = 'dims = ["stimulus", "neuroid"]\n'
    with pytest.raises(ValueError, match="1 stimuli have NaN in every neuroid"):
        load(tmp_path / "r.npy", dims + 'missing = "drop_neuroids"')
    with pytest.raises(ValueError, match="in 3 neuroids .* and 1 presentations"):
        check_recording(load(tmp_path / "r.npy", dims))


@pytest.mark.parametrize("name", ["a.npy", "stored.npz", "packed.npz", "v73.mat", "a.h5", "v5.mat"])
def test_large_arrays_are_never_in_memory_as_a_whole(
    name: str, tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of 24 MB in blocks of half a MB, ragged repetitions included."""
    values = random.normal(size=(500, 500, 12))
    values[:, :, 5:] = np.nan
    total = float(values[:, :, :5].sum())
    SAVE[name](tmp_path / name, values)
    del values
    block = 1 << 19
    monkeypatch.setattr(array_layout, "BLOCK_BYTES", block)
    ds = load(tmp_path / name, 'dims = ["neuroid", "stimulus", "repetition"]')  # imports
    tracemalloc.start()
    ds = load(tmp_path / name, 'dims = ["neuroid", "stimulus", "repetition"]')
    blocks = ds["response"].data.blocks
    found = sum(float(blocks[i].compute().sum()) for i in range(ds["response"].data.npartitions))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == pytest.approx(total)
    assert ds["response"].shape == (2500, 500)
    assert peak < 10 * block


@pytest.mark.parametrize("name", SAVE)
def test_lazy_responses_can_be_sent_to_another_process(name: str, tmp_path: Path) -> None:
    values = np.arange(60_000.0).reshape(300, 200)
    SAVE[name](tmp_path / name, values)
    ds = load(tmp_path / name, 'dims = ["stimulus", "neuroid"]')
    sent = dumps(ds["response"].data)
    assert len(sent) < 20_000
    np.testing.assert_array_equal(loads(sent).compute(), values)


def test_responses_are_read_when_they_are_needed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_layout, "BLOCK_BYTES", 2 * 3 * 8)
    np.save(tmp_path / "r.npy", np.arange(30).reshape(10, 3))  # integers: nothing can be NaN
    asked: list[tuple[int, int]] = []
    original = ArrayFile.slab

    def counted(self: ArrayFile, axis: int, start: int, stop: int) -> Array:
        asked.append((start, stop))
        return original(self, axis, start, stop)

    monkeypatch.setattr(ArrayFile, "slab", counted)
    ds = load(tmp_path / "r.npy", 'dims = ["stimulus", "neuroid"]')
    assert asked == []
    np.testing.assert_array_equal(ds["response"][5].values, [15, 16, 17])
    assert asked == [(4, 6)]


@pytest.mark.parametrize("name", SAVE)
def test_each_kind_of_file_becomes_a_store(
    name: str, tmp_path: Path, random: np.random.Generator
) -> None:
    values = random.normal(size=(3, 6, 4, 2)).astype(np.float32)
    SAVE[name](tmp_path / name, values)
    options = (
        'dims = ["neuroid", "stimulus", "time_bin", "repetition"]\nvariable = "responses"\n'
        "time_bins_ms = { edges = [0, 50, 80, 100, 400] }"
    )
    if name.endswith(".npy"):
        options = options.replace('variable = "responses"', "")
    ds = ingest(write_card(tmp_path, name, options), to=tmp_path / "stores")
    expected = values.transpose(1, 3, 0, 2).reshape(12, 3, 4)
    np.testing.assert_array_equal(ds["response"].values, expected)
    assert ds["response"].dtype == np.float32
    assert ds["time_bin_start_ms"].values.tolist() == [0, 50, 80, 100]
    assert ds["time_bin_stop_ms"].values.tolist() == [50, 80, 100, 400]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", r"\['stimulus', 'neuroid', 'time_bin'\] and time_bins_ms = None; .* go together"),
        ("time_bins_ms = { start = 0 }", r"expected \{ start = …, width = … \} or \{ edges"),
        ("time_bins_ms = { start = 0, width = 1, edges = [0, 1] }", "expected { start"),
        ("time_bins_ms = { start = 0, width = 0 }", "a width above 0"),
        ("time_bins_ms = { start = nan, width = 1 }", "a width above 0"),
        ("time_bins_ms = { edges = [0, 2, 1, 3, 4] }", "a width above 0"),
        ("time_bins_ms = { edges = [0, 1, 2] }", "has 3 values, but 4 time bins have 5 edges"),
        ("time_bins_ms = { begin = 0 }", r"options\.time_bins_ms\.begin = 0: unknown"),
    ],
)
def test_time_bins_that_do_not_fit_are_explained(
    options: str, message: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "r.npy", np.zeros((5, 3, 4)))
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "r.npy", f'dims = ["stimulus", "neuroid", "time_bin"]\n{options}')
    assert "lab.toml" in str(caught.value)


def test_time_bins_need_their_axis(tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", np.zeros((5, 3)))
    options = 'dims = ["stimulus", "neuroid"]\ntime_bins_ms = { start = 0, width = 1 }'
    with pytest.raises(ValueError, match="go together"):
        load(tmp_path / "r.npy", options)
    with pytest.raises(ValueError, match=r"does not fit dims = .*name each axis once"):
        load(tmp_path / "r.npy", 'dims = ["stimulus", "stimulus"]')


@pytest.fixture
def v5(tmp_path: Path, random: np.random.Generator) -> Path:
    path = tmp_path / "session.mat"
    content = {
        "data": {"resp": random.normal(size=(4, 6, 2)), "more": {"resp": np.eye(3)}, "id": "M1"},
        "trials": np.array([1, "a"], dtype=object),
        "many": np.array([(1.0,), (2.0,)], dtype=[("x", object)]),
        "thin": csc_array(np.eye(3)),
        "phase": np.ones((2, 2)) * 1j,
        "none": np.zeros((0, 0)),
        "title": "text",
    }
    savemat(path, content)
    return path


@pytest.fixture
def v73(tmp_path: Path, random: np.random.Generator) -> Path:
    def fill(file: h5py.File) -> None:
        data = file.create_group("data")
        data.attrs["MATLAB_class"] = np.bytes_("struct")
        put(data, "resp", random.normal(size=(4, 6, 2)))
        put(data, "id", np.frombuffer(b"M1", np.uint8)[None].astype(np.uint16), "char")
        more = data.create_group("more")
        more.attrs["MATLAB_class"] = np.bytes_("struct")
        put(more, "resp", np.eye(3))
        hidden = file.create_group("#refs#")
        put(hidden, "a", np.eye(2))
        cells = file.create_dataset("trials", data=[[hidden["a"].ref]], dtype=h5py.ref_dtype)
        cells.attrs["MATLAB_class"] = np.bytes_("cell")
        thin = file.create_group("thin")
        thin.attrs["MATLAB_class"], thin.attrs["MATLAB_sparse"] = np.bytes_("double"), 3
        put(thin, "data", np.ones((1, 3)))
        empty = put(file, "none", np.zeros((2, 1), np.uint64))
        empty.attrs["MATLAB_empty"] = np.uint8(1)

    return matlab_file(tmp_path / "session.mat", fill)


@pytest.mark.parametrize("version", ["v5", "v73"])
def test_fields_of_structs_are_found_by_their_path(
    version: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(version)
    assert open_array(path, "data.resp").shape == (4, 6, 2)
    np.testing.assert_array_equal(read_array(path, "data.more.resp")[0], np.eye(3))


@pytest.mark.parametrize(
    ("version", "variable", "message"),
    [
        ("v5", "data", "data is a struct; choose one of its fields: data.resp, data.more, data.id"),
        ("v5", "data.rsp", "data has no field 'rsp'; there are resp, more, id"),
        ("v5", "data.resp.x", "data.resp has no field 'x'; it is no struct"),
        ("v5", "many.x", "many is an array of 2 structs; save the one you mean by itself"),
        ("v5", "trials", "trials is a cell array; expected an array of numbers"),
        ("v5", "thin", r"thin is sparse; save full\(thin\) instead"),
        ("v5", "phase", "type complex128, expected numbers"),
        ("v5", "title", "type <U4, expected numbers"),
        ("v5", "none", r"shape \(0, 0\): it holds no values"),
        ("v5", "resp", "it has no 'resp'; it holds data, trials, many, thin"),
        ("v5", None, "it holds data, trials, .*; choose one"),
        ("v73", "data", "data is a struct of data.id, data.more, data.resp; choose one of them"),
        ("v73", "data.rsp", "has no 'data.rsp'; it holds data.more.resp, data.resp"),
        ("v73", "data.id", "data.id is no array of numbers but of char"),
        ("v73", "trials", "trials is no array of numbers but of cell"),
        ("v73", "thin", r"thin is sparse; save full\(thin\) instead"),
        ("v73", "none", "none is empty"),
        ("v73", None, "holds data.more.resp, data.resp; choose one"),
    ],
)
def test_matlab_variables_that_are_no_arrays_are_explained(
    version: str, variable: str | None, message: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(version)
    with pytest.raises(ValueError, match=message) as caught:
        open_array(path, variable)
    assert "session.mat" in str(caught.value)


def test_logical_and_single_arrays_of_matlab_keep_their_values(tmp_path: Path) -> None:
    chosen = np.array([[True, False, True], [False, False, True]])

    def fill(file: h5py.File) -> None:
        put(file, "chosen", chosen.astype(np.uint8), "logical").attrs["MATLAB_int_decode"] = 1
        put(file, "single", np.float32([[0.1, 0.2, 0.3]]), "single")

    path = matlab_file(tmp_path / "a.mat", fill)
    np.testing.assert_array_equal(read_array(path, "chosen")[0], chosen)
    np.testing.assert_array_equal(read_array(path, "single")[0], np.float32([[0.1, 0.2, 0.3]]))


def test_hdf5_datasets_are_found_by_their_path(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["v4/rates"] = np.arange(6.0).reshape(2, 3)
        file["it/rates"] = np.arange(8.0).reshape(2, 4)
        file["v4/time"] = np.arange(3.0)
        file["alias"] = h5py.SoftLink("/it/rates")
    for name in ("it/rates", "/it/rates", "alias"):
        assert open_array(tmp_path / "a.h5", name).shape == (2, 4)
    for name, message in {
        "v4": "v4 is a group of v4/rates, v4/time; choose one of them",
        "v4/time": "v4/time is an array with fewer than two axes",
        "v4/x": "has no 'v4/x'; it holds it/rates, v4/rates",
    }.items():
        with pytest.raises(ValueError, match=message):
            open_array(tmp_path / "a.h5", name)
    with pytest.raises(ValueError, match="holds it/rates, v4/rates; choose one"):
        open_array(tmp_path / "a.h5")


def test_parquet_is_read_by_rows_and_by_columns(
    tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = random.normal(size=(20, 5))
    values[7] = np.nan
    table = {"stimulus_id": [f"s{i}" for i in range(20)]}
    table |= {f"n.{i}": values[:, i] for i in range(5)}
    table["n.2"] = pa.array(values[:, 2], mask=np.arange(20) == 7)  # a null is NaN
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table(table), path, row_group_size=6)
    source = open_array(path)
    assert source.ids == tuple(f"s{i}" for i in range(20))
    for start, stop in [(0, 20), (5, 7), (6, 12), (17, 20)]:
        np.testing.assert_array_equal(source.slab(0, start, stop), values[start:stop])
    np.testing.assert_array_equal(source.slab(1, 1, 3), values[:, 1:3])
    monkeypatch.setattr(array_layout, "BLOCK_BYTES", 200)
    options = 'dims = ["stimulus", "neuroid"]\nmissing = "drop_stimuli"'
    ds = ingest(write_card(tmp_path, path.name, options), to=tmp_path / "stores")
    np.testing.assert_array_equal(ds["response"].values, np.delete(values, 7, axis=0))
    with pytest.raises(ValueError, match="its rows are stimuli, but dims"):
        load(path, 'dims = ["neuroid", "stimulus"]')


def test_parquet_of_integers_and_single_precision(tmp_path: Path) -> None:
    single = {"a": np.float32([0.1, 0.2]), "b": np.float32([1, 2])}
    pq.write_table(pa.table(single), tmp_path / "single.parquet")
    assert open_array(tmp_path / "single.parquet").dtype == np.float32
    mixed = single | {"c": np.int64([3, 4]), "d": [True, False]}
    pq.write_table(pa.table(mixed), tmp_path / "mixed.parquet")
    expected = np.stack([np.float64(column) for column in mixed.values()], axis=1)
    np.testing.assert_array_equal(read_array(tmp_path / "mixed.parquet", None)[0], expected)


def test_tables_that_do_not_fit_are_explained(tmp_path: Path) -> None:
    tables = {
        "column 'b' is not numeric": pa.table({"a": [1.0], "b": ["x"]}),
        "index has no name": pa.table({"a": [1.0], "__index_level_0__": [3]}),
        "two columns have the same name": pa.table([[1.0], [2.0]], names=["a", "a"]),
        "row 2 has no stimulus_id": pa.table({"stimulus_id": ["x", None], "a": [1.0, 2.0]}),
        r"shape \(1, 0\): it holds no values": pa.table({"stimulus_id": ["x"]}),
    }
    for message, table in tables.items():
        pq.write_table(table, tmp_path / "r.parquet")
        with pytest.raises(ValueError, match=message):
            open_array(tmp_path / "r.parquet")
    (tmp_path / "r.csv").write_text("stimulus_id,a\n007,1\n,2\n")
    with pytest.raises(ValueError, match="row 2 has no stimulus_id"):
        open_array(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_text("stimulus_id,a\n007,1\n008,2\n")
    assert open_array(tmp_path / "r.csv").ids == ("007", "008")


def test_compressed_arrays_too_large_for_the_temporary_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "r.npz", a=np.zeros((100, 100)))
    usage = tempfile.gettempdir()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(ValueError, match=r"a\.npy unpacks to 80128 bytes.*TMPDIR") as caught:
        open_array(tmp_path / "r.npz")
    assert usage in str(caught.value)


def test_damaged_members_of_npz_are_found_by_their_checksum(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    np.savez(path, a=np.zeros((100, 100)))
    content = bytearray(path.read_bytes())
    content[5000] = 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"no readable \.npz file: Bad CRC-32"):
        open_array(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_python_objects_in_npz_are_never_unpickled(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "r.npz", a=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(ValueError, match="it holds Python objects"):
        open_array(tmp_path / "r.npz")


def test_an_npy_header_cannot_make_numbers_into_objects(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", a=np.arange(6.0).reshape(2, 3))
    with zipfile.ZipFile(tmp_path / "r.npz") as archive:
        member = archive.read("a.npy").replace(b"'<f8'", b"'|O'  "[:5])
    with zipfile.ZipFile(tmp_path / "r.npz", "w") as archive:
        archive.writestr("a.npy", member)
    with pytest.raises(ValueError, match="no readable"):
        open_array(tmp_path / "r.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5", ".csv", ".parquet"])
def test_wrong_content_names_its_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"r{suffix}"
    path.write_bytes(b"\x00nothing of that kind\xff" * 40)
    with pytest.raises(ValueError, match=rf"r\{suffix}"):
        open_array(path)
    with pytest.raises(FileNotFoundError, match="no file .*absent"):
        open_array(tmp_path / f"absent{suffix}")


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected responses in \.npy, \.npz, \.mat, "):
        open_array(tmp_path / "r.txt")
    for suffix in (".npy", ".csv", ".parquet"):
        with pytest.raises(ValueError, match="variable = 'x' applies to .npz, .mat, .h5, .hdf5"):
            open_array(tmp_path / f"r{suffix}", "x")


def test_crashing_and_hanging_readers_of_matlab_files_end_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    savemat(tmp_path / "a.mat", {"x": np.eye(2)})
    monkeypatch.setattr(mat5, "_READER", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(ValueError, match=r"a\.mat: .* its reader failed \(signal 11\)"):
        mat5.read_mat5(tmp_path / "a.mat")
    monkeypatch.setattr(mat5, "_CHECK", mat5._READER)
    with pytest.raises(ValueError, match=r"a\.mat: .* its reader failed \(signal 11\)"):
        mat5.check_mat5(tmp_path / "a.mat")
    monkeypatch.setattr(mat5, "_READER", "import time; time.sleep(60)")
    monkeypatch.setattr(mat5, "SECONDS", 1)
    with pytest.raises(ValueError, match=r"a\.mat: reading it took longer than 1 s"):
        mat5.read_mat5(tmp_path / "a.mat")


DAMAGE = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12)


def outcome(path: Path, content: bytes, damage: list[tuple[float, int]], keep: float) -> str:
    """Write bytes over a file, cut its end off, read all of it: a recording or a ValueError."""
    damaged = bytearray(content)
    for place, value in damage:
        damaged[int(place * len(damaged))] = value
    path.write_bytes(bytes(damaged[: int(keep * len(damaged))]))
    try:
        ds = load(path, 'dims = ["stimulus", "neuroid"]').compute()
        check_recording(ds)
    except ValueError:
        return "refused"
    return "read"


def fuzzed(name: str, examples: int, first: float = 1.0) -> None:
    """Damage a small file many times, in its first part only where the headers lie there."""
    values = np.random.default_rng(0).normal(size=(6, 4))
    seen = set()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if name.endswith(".csv"):
            rows = [f"s{i}," + ",".join(map(repr, row)) for i, row in enumerate(values.tolist())]
            path.write_text("\n".join(["stimulus_id,a,b,c,d", *rows]))
        else:
            SAVE[name](path, values)
        content = path.read_bytes()

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(damage=DAMAGE, keep=st.sampled_from([1.0] * 4 + [0.99, 0.7, 0.2, 0.0]))
        def run(damage: list[tuple[float, int]], keep: float) -> None:
            here = [(place * first, value) for place, value in damage]
            seen.add(outcome(path, content, here, keep))

        run()
    assert seen == {"refused", "read"}


@pytest.mark.filterwarnings("default")  # what is wrong with a damaged file may be warned of too
@pytest.mark.parametrize("name", ["a.npy", "stored.npz", "packed.npz", "r.csv"])
def test_damaged_files_are_read_or_refused(name: str) -> None:
    fuzzed(name, 300, 0.4 if name == "a.npy" else 1.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["v5.mat", "v6.mat", "v73.mat"])
def test_damaged_matlab_files_are_read_or_refused(name: str) -> None:
    fuzzed(name, 25)


def test_examples_run() -> None:
    assert [doctest.testmod(module).failed for module in (mat5, table_files)] == [0, 0]

"""THINGS-fMRI's tables, written by pandas itself and read without it."""

from __future__ import annotations

import contextlib
import pickle
import tracemalloc
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import repalign.loaders
from repalign import ingest
from repalign.cards import load_dataset_card
from repalign.loaders import lazy, things_fmri
from repalign.loaders.things_fmri import read
from repalign.stimuli import encode_png, open_stimuli

pytest.importorskip("tables")
VOXELS, TRIALS = 30, 16


def write_hdf(path: Path, table: pd.DataFrame, **options: object) -> None:
    path.unlink(missing_ok=True)
    with warnings.catch_warnings():  # pandas says that it will pickle the columns' labels
        warnings.simplefilter("ignore")
        table.to_hdf(path, key="ResponseData", **options)


class Tables:
    """The three files of a subject with 30 voxels and 16 trials."""

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(0)
        self.folder = folder
        self.values = random.standard_normal((VOXELS, TRIALS))
        self.voxels = pd.DataFrame(
            {
                "voxel_id": np.arange(VOXELS),
                "subject_id": 1,
                "voxel_x": random.integers(0, 70, VOXELS),
                "voxel_y": random.integers(0, 70, VOXELS),
                "voxel_z": random.integers(0, 70, VOXELS),
                "nc_singletrial": random.uniform(0, 10, VOXELS),
                "nc_testset": random.uniform(0, 60, VOXELS),
                "prf-size": random.uniform(0, 5, VOXELS),
                "V1": (np.arange(VOXELS) < 8).astype(int),
                "LO1 (prf)": (np.arange(VOXELS) % 7 == 0).astype(int),
                "lFFA": 0,
            }
        )
        self.trials = pd.DataFrame(
            {
                "trial_type": (["train"] * 6 + ["test"] * 2) * 2,
                "session": [1] * 8 + [2] * 8,
                "run": [1, 1, 1, 1, 2, 2, 2, 2] * 2,
                "subject_id": 1,
                "trial_id": list(range(8)) * 2,
                "stimulus": [
                    *(f"dog_{i:02d}s.jpg" for i in range(6)),
                    *("mango_01s.jpg", "panda_01s.jpg"),
                    *(f"cup_{i:02d}s.jpg" for i in range(6)),
                    *("panda_01s.jpg", "mango_01s.jpg"),
                ],
            }
        )
        self.write()

    @property
    def files(self) -> dict[str, Path]:
        return {
            "responses": self.folder / "sub-01_ResponseData.h5",
            "stimuli": self.folder / "sub-01_StimulusMetadata.csv",
            "voxels": self.folder / "sub-01_VoxelMetadata.csv",
        }

    def table(self) -> pd.DataFrame:
        """As published: the label of the first column is text, those of the others numbers."""
        table = pd.DataFrame(self.values)
        table.insert(0, "voxel_id", np.arange(VOXELS))
        return table

    def write(self) -> None:
        write_hdf(self.files["responses"], self.table())
        self.trials.to_csv(self.files["stimuli"])
        self.voxels.to_csv(self.files["voxels"], index=False)

    def card(self, options: str = "", regions: str = '"brain"', files: str = "") -> Path:
        path = self.folder / "study.toml"
        roles = "\n".join(f'{role} = "{file.name}"' for role, file in self.files.items())
        path.write_text(
            f'name = "study"\nspecies = "human"\nregions = {regions}\nloader = "things_fmri"\n'
            f"[files]\n{roles}\n{files}\n[options]\n{options}\n"
        )
        return path

    def read(self, options: str = "", regions: str = '"brain"') -> xr.Dataset:
        return read(load_dataset_card(self.card(options, regions)), self.files)[0]


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"things_fmri": "repalign.loaders.things_fmri:read"}
    monkeypatch.setattr(repalign.loaders, "LOADERS", {**repalign.loaders.LOADERS, **entry})


def test_responses_that_pandas_wrote_are_read_bit_for_bit(tables: Tables) -> None:
    ds = tables.read()
    np.testing.assert_array_equal(ds["response"].values, tables.values.T)
    assert ds["stimulus_id"].values[6] == "mango_01s"
    assert ds["repetition"].values.tolist() == [0] * 14 + [1, 1]
    assert ds["session"].values.tolist() == [1] * 8 + [2] * 8
    assert ds["trial_type"].values[7] == "test"
    np.testing.assert_array_equal(ds["nc_testset"].values, tables.voxels["nc_testset"])
    assert ds["voxel_x"].values.tolist() == tables.voxels["voxel_x"].tolist()
    assert set(ds["subject"].values) == {"sub-01"}
    assert set(ds["region"].values) == {"brain"}


@pytest.mark.parametrize("kind", ["labels as text", "one block", "float32"])
def test_other_ways_of_pandas_to_store_the_same_table_are_read(tables: Tables, kind: str) -> None:
    table = tables.table()
    expected = tables.values
    if kind == "labels as text":
        table.columns = [str(name) for name in table.columns]
    elif kind == "one block":
        table["voxel_id"] = table["voxel_id"].astype(float)
        table = pd.DataFrame(table.to_numpy(), columns=table.columns)
    else:
        expected = tables.values.astype(np.float32)
        table = pd.DataFrame(expected)
        table.insert(0, "voxel_id", np.arange(VOXELS))
    write_hdf(tables.files["responses"], table)
    response = tables.read()["response"]
    assert response.dtype == expected.dtype
    np.testing.assert_array_equal(response.values, expected.T)


class Planted:
    """What runs when somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_the_file_is_ever_unpickled(tables: Tables, tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    with h5py.File(tables.files["responses"], "a") as file:
        labels = file["ResponseData/block0_items"]  # a pickle, as in the published files
        assert labels.attrs["kind"] == b"object"
        labels[0] = np.frombuffer(pickle.dumps(Planted(trap)), np.uint8)
    np.testing.assert_array_equal(tables.read()["response"].values, tables.values.T)
    assert not trap.exists()
    with contextlib.suppress(Exception):
        pd.read_hdf(tables.files["responses"])
    assert trap.exists()  # pandas runs it


def test_python_objects_among_the_values_are_refused(tables: Tables) -> None:
    table = tables.table().astype({3: object})
    write_hdf(tables.files["responses"], table)
    with pytest.raises(ValueError, match=r"block\d_values holds Python objects or text"):
        tables.read()
    named = tables.table()
    named.columns = [str(name) for name in named.columns]
    write_hdf(tables.files["responses"], named, format="table")
    with pytest.raises(ValueError, match="no table of pandas' fixed format"):
        tables.read()


def test_regions_are_columns_of_the_voxel_table(tables: Tables) -> None:
    ds = tables.read('regions = ["V1", "LO1 (prf)"]', '["V1", "LO1 (prf)"]')
    second = np.arange(0, VOXELS, 7)
    assert ds["region"].values.tolist() == ["V1"] * 8 + ["LO1 (prf)"] * len(second)
    rows = np.concatenate([np.arange(8), second])
    np.testing.assert_array_equal(ds["response"].values, tables.values[rows].T)
    with pytest.raises(ValueError, match=r"no region 'V9' \(regions\); there are V1, LO1 \(prf\)"):
        tables.read('regions = ["V9"]')
    with pytest.raises(ValueError, match="no voxel of 'lFFA' is left"):
        tables.read('regions = ["lFFA"]')
    with pytest.raises(ValueError, match="2 regions; name columns of the voxel table"):
        tables.read("", '["V1", "LO1 (prf)"]')


def test_trials_and_reliable_voxels_can_be_chosen(tables: Tables) -> None:
    ds = tables.read('trials = "test"\nmin_noise_ceiling = 30')
    rows = np.flatnonzero(tables.trials["trial_type"] == "test")
    good = np.flatnonzero(tables.voxels["nc_testset"] >= 30)
    np.testing.assert_array_equal(ds["response"].values, tables.values[np.ix_(good, rows)].T)
    assert ds["repetition"].values.tolist() == [0, 0, 1, 1]
    assert ds.attrs["trials"] == "test"
    assert ds.attrs["min_noise_ceiling"] == 30
    with pytest.raises(ValueError, match="no voxel is left; lower min_noise_ceiling"):
        tables.read("min_noise_ceiling = 99")


def test_small_blocks_and_slabs_give_the_same_values(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = lazy.lazy_rows
    monkeypatch.setattr(
        things_fmri, "lazy_rows", lambda *args: original(*args, block_bytes=3 * VOXELS * 8)
    )
    monkeypatch.setattr(things_fmri, "SLAB_BYTES", 4 * 8 * TRIALS)
    response = tables.read('trials = "train"')["response"]
    assert len(response.chunks[0]) == 4
    rows = np.flatnonzero(tables.trials["trial_type"] == "train")
    np.testing.assert_array_equal(response.values, tables.values[:, rows].T)


def test_memory_stays_far_below_the_size_of_a_large_file(tables: Tables) -> None:
    n_voxels, n_trials = 26000, 1000  # 208 MB
    tables.voxels = pd.concat([tables.voxels] * (n_voxels // VOXELS + 1))[:n_voxels]
    tables.voxels["voxel_id"] = np.arange(n_voxels)
    tables.trials = pd.concat([tables.trials] * (n_trials // TRIALS + 1))[:n_trials]
    tables.write()
    with h5py.File(tables.files["responses"], "a") as file:
        group = file["ResponseData"]
        for name in ("block0_values", "block1_values"):
            del group[name]
        values = group.create_dataset("block0_values", (n_voxels, n_trials), np.float64)
        values[25000, 990] = 7
        group["block1_values"] = np.arange(n_voxels)[:, None]
        for name in ("block0_values", "block1_values"):
            group[name].attrs["transposed"] = 1
    tracemalloc.start()
    ds = tables.read()
    assert tracemalloc.get_traced_memory()[1] < 40e6  # the tables alone
    part = ds["response"][985:995].values
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert part[5, 25000] == 7
    assert peak < 160e6


def test_ingest_keeps_values_and_image_files(
    tables: Tables, known: None, tmp_path: Path, random: np.random.Generator
) -> None:
    for name in set(tables.trials["stimulus"]):
        folder = tmp_path / "images" / name.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode_png(random.integers(0, 255, (8, 8, 3)).astype(np.uint8)))
    ds = ingest(tables.card(files='images = "images"'), to=tmp_path / "stores")
    np.testing.assert_array_equal(ds["response"].values, tables.values.T)
    stimuli = open_stimuli(ds)
    assert len(stimuli) == 14
    name = stimuli.ids[7]
    file = tmp_path / "images" / name.split("_")[0] / f"{name}.jpg"
    assert stimuli.files[7] == file.read_bytes()
    file.unlink()
    with pytest.raises(ValueError, match=rf"lacks '{name}\.jpg'"):
        ingest(tables.card(files='images = "images"'), to=tmp_path / "stores", overwrite=True)


def test_tables_that_do_not_fit_say_so(tables: Tables) -> None:
    good = tables.trials
    tables.trials = good.iloc[:-1]
    tables.write()
    with pytest.raises(
        ValueError, match="30 voxels × 17 columns; expected 30 voxels, and voxel_id"
    ):
        tables.read()
    tables.trials = good.drop(columns="session")
    tables.write()
    with pytest.raises(ValueError, match=r"Metadata\.csv has no column 'session'; there are"):
        tables.read()
    tables.trials = good.assign(subject_id=2)
    tables.write()
    with pytest.raises(ValueError, match="are of subjects 1, 2; take both of one subject"):
        tables.read()
    tables.trials = good
    tables.voxels["voxel_id"] = tables.voxels["voxel_id"].to_numpy()[::-1]
    tables.write()
    with pytest.raises(ValueError, match="first column is not the voxel_id of the voxel table"):
        tables.read()
    tables.voxels["voxel_id"] = np.arange(VOXELS)
    tables.voxels.loc[2, "V1"] = 5
    tables.write()
    with pytest.raises(ValueError, match="'V1' holds more than 0 and 1; it is no region"):
        tables.read('regions = ["V1"]')
    content = tables.files["responses"].read_bytes()
    tables.files["responses"].write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="it is no readable HDF5 file"):
        tables.read()
    with pytest.raises(ValueError, match="needs responses, stimuli, voxels and knows images"):
        read(load_dataset_card(tables.card()), {"responses": tables.files["responses"]})

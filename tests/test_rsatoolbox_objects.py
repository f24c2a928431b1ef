"""Objects of rsatoolbox: made from recordings, and read into them; rsatoolbox is the oracle."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rsatoolbox
import xarray as xr
from rsatoolbox.data import Dataset, TemporalDataset
from rsatoolbox.rdm import RDMs

from repalign import rsatoolbox_objects
from repalign.metrics import rdm
from repalign.recording import make_rdm_recording, make_recording
from repalign.rsatoolbox_objects import from_rsatoolbox, save_rsatoolbox, to_rsatoolbox


def recording(random: np.random.Generator, *, bins: int = 0) -> xr.Dataset:
    edges = (np.arange(bins) * 10.0, np.arange(bins) * 10.0 + 20) if bins else None
    return make_recording(
        random.normal(size=(4, 3, bins) if bins else (4, 3)).astype(np.float32),
        stimulus_id=["a", "b", "a", "c"],
        region=["V4", "IT", "IT"],
        species="macaque",
        subject=["Tito", "Chabo", "Tito"],
        presentation={"category": ["x", "y", "x", "z"], "correct": [True, False, True, True]},
        neuroid={"depth": [0.5, 1.5, 2.5]},
        time_bins=edges,
        attrs={"units": "spikes per 100 ms", "time_window_ms": [0.0, 10.0], "n": 3},
    )


def rdm_recording(random: np.random.Generator) -> xr.Dataset:
    values = random.random((3, 4, 4))
    values = values + values.swapaxes(1, 2)
    values[:, range(4), range(4)] = 0
    ds = make_rdm_recording(
        values,
        stimulus_id=list("dabc"),
        subject=["s1", "s1", "group"],
        species="human",
        region="IT",
        session=["1", "2", "1"],
        attrs={"dissimilarity_measure": "correlation", "units": "1 - r"},
    )
    return ds.assign_coords(age=("subject", [20, 20, 30]), animate=("stimulus_id", [0, 1, 1, 0]))


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    assert set(found.variables) == set(expected.variables)
    for name, item in expected.variables.items():
        assert found[name].dims == item.dims
        assert found[name].values.tolist() == item.values.tolist(), name
    assert found.attrs == expected.attrs


@pytest.mark.parametrize("bins", [0, 1, 3])
@pytest.mark.parametrize("in_a_file", [False, True])
def test_a_recording_comes_back_with_its_descriptors(
    tmp_path: Path, random: np.random.Generator, bins: int, in_a_file: bool
) -> None:
    ds = recording(random, bins=bins)
    data = to_rsatoolbox(ds)
    assert type(data) is (TemporalDataset if bins else Dataset)
    np.testing.assert_array_equal(data.measurements, ds["response"].values)
    if in_a_file:
        save_rsatoolbox(ds, tmp_path / "a.h5")
        data = rsatoolbox.data.load_dataset(str(tmp_path / "a.h5"))
    back = from_rsatoolbox(data)
    assert back["response"].dtype == np.float32
    assert_same(back, ds)


@pytest.mark.parametrize("in_a_file", [False, True])
def test_rdms_come_back_with_their_descriptors(
    tmp_path: Path, random: np.random.Generator, in_a_file: bool
) -> None:
    ds = rdm_recording(random)
    rdms = to_rsatoolbox(ds)
    assert rdms.dissimilarity_measure == "correlation"
    np.testing.assert_array_equal(rdms.get_matrices(), ds["rdm"].values)
    if in_a_file:
        save_rsatoolbox(ds, tmp_path / "r.h5")
        rdms = rsatoolbox.rdm.load_rdm(str(tmp_path / "r.h5"))
    assert_same(from_rsatoolbox(rdms), ds)


def test_rsatoolbox_computes_our_rdm_from_it(random: np.random.Generator) -> None:
    ds = make_recording(random.normal(size=(6, 5)), stimulus_id=list("abcdef"), region="IT")
    theirs = rsatoolbox.rdm.calc_rdm(
        to_rsatoolbox(ds), method="correlation", descriptor="stimulus_id"
    )
    assert [str(name) for name in theirs.pattern_descriptors["stimulus_id"]] == list("abcdef")
    np.testing.assert_allclose(theirs.dissimilarities[0], rdm(ds["response"].values), atol=1e-12)
    back = from_rsatoolbox(theirs, subject="group", region="IT")
    assert back["stimulus_id"].values.tolist() == list("abcdef")
    np.testing.assert_array_equal(back["rdm"].values, theirs.get_matrices())


def test_rsatoolbox_splits_by_our_descriptors(random: np.random.Generator) -> None:
    data = to_rsatoolbox(recording(random))
    assert [part.n_channel for part in data.split_channel("region")] == [1, 2]
    parts = data.split_obs("stimulus_id")
    assert [part.n_obs for part in parts] == [2, 1, 1]
    back = from_rsatoolbox(parts[0])  # the descriptor that it was split by is of the whole, too
    assert back["repetition"].values.tolist() == [0, 1]


def test_time_is_the_middle_of_each_bin(random: np.random.Generator) -> None:
    assert to_rsatoolbox(recording(random, bins=3)).time_descriptors["time"].tolist() == [
        *(10, 20, 30)
    ]


def test_foreign_objects_are_read_with_what_is_given(random: np.random.Generator) -> None:
    data = Dataset(
        random.normal(size=(4, 2)),
        descriptors={"subject": "S7", "session": 2, "roi": np.str_("FFA")},
        obs_descriptors={"conds": [3, 1, 3, 1], "stimulus": list("wxyz"), "run": [1, 1, 2, 2]},
        channel_descriptors={"run": ["p", "q"], "neuroid_id": [11, 12]},
    )
    ds = from_rsatoolbox(data, stimulus="conds", region="FFA", species="human")
    assert ds["stimulus_id"].values.tolist() == ["3", "1", "3", "1"]
    assert ds["repetition"].values.tolist() == [0, 0, 1, 1]
    assert ds["presentation_stimulus"].values.tolist() == list("wxyz")
    assert ds["run"].values.tolist() == [1, 1, 2, 2]
    assert ds["neuroid_run"].values.tolist() == ["p", "q"]
    assert ds["neuroid_id"].values.tolist() == ["11", "12"]
    assert set(ds["subject"].values) == {"S7"}
    assert ds.attrs["session"] == 2
    assert ds.attrs["roi"] == "FFA"
    assert "subject" not in ds.attrs


def test_a_temporal_dataset_needs_the_edges_of_its_bins(random: np.random.Generator) -> None:
    data = TemporalDataset(
        random.normal(size=(2, 3, 2)),
        obs_descriptors={"stimulus_id": ["a", "b"]},
        time_descriptors={"time": np.array([0.05, 0.15])},
    )
    with pytest.raises(ValueError, match=r"give time_bins=\(starts, stops\) in ms"):
        from_rsatoolbox(data, region="IT")
    ds = from_rsatoolbox(data, region="IT", time_bins=([0, 100], [100, 200]))
    assert ds["time_bin_stop_ms"].values.tolist() == [100, 200]
    assert ds["time"].values.tolist() == [0.05, 0.15]


@pytest.mark.parametrize(
    ("descriptors", "options", "message"),
    [
        ({}, {"region": "IT"}, "no observation descriptor 'stimulus_id'; there is none"),
        ({"conds": [1, 2]}, {}, "there is conds: say which names the stimuli by stimulus="),
        ({"stimulus_id": ["a", "b"]}, {}, "no descriptor 'region'; give region=\"…\""),
        (
            {"stimulus_id": ["a", "b"], "rgb": np.zeros((2, 3))},
            {"region": "IT"},
            "observation descriptor 'rgb' has shape (2, 3); expected one value for each of 2",
        ),
        (
            {"stimulus_id": ["a", "b"], "words": [["a"], ["b", "c"]]},
            {"region": "IT"},
            "observation descriptor 'words' has shape (2, 0)",
        ),
        (
            {"stimulus_id": ["a", "b"]},
            {"region": "IT", "time_bins": ([0], [1])},
            "a Dataset has no time bins",
        ),
        ({"stimulus_id": ["a", "a"], "repetition": [0, 0]}, {"region": "IT"}, "repetition 0 twice"),
    ],
)
def test_bad_objects_are_refused(
    descriptors: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    data = Dataset(np.eye(2), obs_descriptors=descriptors)
    with pytest.raises(ValueError, match=re.escape(message)):
        from_rsatoolbox(data, **options)


def test_nothing_is_given_twice(random: np.random.Generator) -> None:
    data = to_rsatoolbox(recording(random, bins=2))
    with pytest.raises(ValueError, match="region='IT', but the object has a descriptor 'region'"):
        from_rsatoolbox(data, region="IT")
    with pytest.raises(ValueError, match="time_bins is given, but the object has"):
        from_rsatoolbox(data, time_bins=([0, 1], [1, 2]))
    rdms = to_rsatoolbox(rdm_recording(random))
    with pytest.raises(ValueError, match="RDMs have no time bins"):
        from_rsatoolbox(rdms, time_bins=([0], [1]))


def test_rdms_need_a_subject_and_symmetric_finite_values() -> None:
    with pytest.raises(ValueError, match="no descriptor 'subject'"):
        from_rsatoolbox(
            RDMs(np.ones((1, 3)), pattern_descriptors={"stimulus_id": list("abc")}), region="IT"
        )
    rdms = RDMs(np.array([[1, np.nan, 2]]), pattern_descriptors={"stimulus_id": list("abc")})
    with pytest.raises(ValueError, match="rdm has NaN or infinite values"):
        from_rsatoolbox(rdms, region="IT", subject="group")


def test_other_kinds_are_refused(random: np.random.Generator) -> None:
    with pytest.raises(TypeError, match="ndarray: expected rsatoolbox's Dataset or RDMs"):
        from_rsatoolbox(np.eye(2))
    ds = recording(random)
    with pytest.raises(ValueError, match="'grid' is along"):
        to_rsatoolbox(ds.assign_coords(grid=(("presentation", "neuroid"), np.zeros((4, 3)))))
    with pytest.raises(ValueError, match="neither a number nor text"):
        to_rsatoolbox(ds.assign_coords(day=("neuroid", np.zeros(3, "datetime64[ns]"))))
    with pytest.raises(ValueError, match="neither 'response' nor 'rdm'"):
        to_rsatoolbox(ds.drop_vars("response"))


def test_large_recordings_are_announced(
    random: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to_rsatoolbox(recording(random))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(rsatoolbox_objects, "MANY_BYTES", 10)
    to_rsatoolbox(recording(random))
    assert "GB into memory for rsatoolbox" in capsys.readouterr().err


def test_the_examples_run() -> None:
    assert doctest.testmod(rsatoolbox_objects).failed == 0

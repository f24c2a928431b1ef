"""The schema of recordings: what is built, what is refused, what is selected."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from repalign.processing import average_repeats
from repalign.recording import (
    make_rdm_recording,
    make_recording,
    response_array,
    select,
    stimulus_ids,
    targets,
)
from repalign.recording_checks import check_recording


@pytest.fixture
def recording(random: np.random.Generator) -> xr.Dataset:
    """Three stimuli with 2, 1 and 3 repetitions; two regions of two subjects."""
    return make_recording(
        random.normal(size=(6, 4)),
        stimulus_id=["a", "b", "c", "a", "c", "c"],
        region=["V4", "V4", "IT", "IT"],
        species="macaque",
        subject=["M1", "M2", "M1", "M1"],
    )


def test_repetitions_are_counted_from_the_ids(recording: xr.Dataset) -> None:
    check_recording(recording)
    assert recording["repetition"].values.tolist() == [0, 0, 0, 1, 1, 2]


def test_response_array_has_nan_where_a_repetition_is_missing(recording: xr.Dataset) -> None:
    array = response_array(recording, ["c", "b"])
    assert array.shape == (3, 2, 4)
    np.testing.assert_array_equal(array[:, 0], recording["response"].values[[2, 4, 5]])
    np.testing.assert_array_equal(array[0, 1], recording["response"].values[1])
    assert np.isnan(array[1:, 1]).all()


def test_average_is_the_mean_over_what_was_shown(recording: xr.Dataset) -> None:
    averaged = average_repeats(recording)
    values = recording["response"].values
    expected = [values[[0, 3]].mean(0), values[1], values[[2, 4, 5]].mean(0)]
    np.testing.assert_allclose(averaged["response"].values, expected)
    assert stimulus_ids(averaged) == ["a", "b", "c"]
    check_recording(averaged)


def test_targets_are_species_region_subject(recording: xr.Dataset) -> None:
    found = {tuple(target): part.sizes["neuroid"] for target, part in targets(recording)}
    assert found == {
        ("macaque", "V4", "M1"): 1,
        ("macaque", "V4", "M2"): 1,
        ("macaque", "IT", "M1"): 2,
    }


def test_select_takes_a_value_or_several(recording: xr.Dataset) -> None:
    assert select(recording, region="IT").sizes["neuroid"] == 2
    assert select(recording, subject=["M1", "M2"], stimulus_id="c").sizes["presentation"] == 3
    with pytest.raises(ValueError, match=r"nothing has region = \['V1'\]; there is V4, IT"):
        select(recording, region="V1")
    with pytest.raises(ValueError, match="no coordinate 'area'"):
        select(recording, area="V1")


def test_nan_is_named_by_neuroid_and_stimulus(recording: xr.Dataset) -> None:
    recording["response"][1, 2] = np.nan
    with pytest.raises(
        ValueError, match=r"1 neuroids \(first 'neuroid-0002'\) and 1 presentations"
    ) as e:
        check_recording(recording)
    assert "(first 'b')" in str(e.value)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda ds: ds.drop_vars("region"), "coordinate 'region' is missing"),
        (lambda ds: ds.drop_vars("response"), "neither 'response' nor 'rdm'"),
        (lambda ds: ds.transpose(), "expected \\(presentation, neuroid\\)"),
        (lambda ds: ds.assign_coords(repetition=("presentation", [0] * 6)), "repetition 0 twice"),
        (lambda ds: ds.assign_coords(neuroid_id=("neuroid", ["n"] * 4)), "same neuroid_id"),
        (lambda ds: ds.assign_coords(region=("neuroid", [None] * 4)), "no text"),
        (lambda ds: ds.isel(neuroid=slice(0)), "empty"),
    ],
)
def test_check_says_what_is_wrong(recording: xr.Dataset, break_it, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        check_recording(break_it(recording))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r + np.triu(np.ones((3, 3)), 1), "not symmetric"),
        (lambda r: r + np.eye(3), "diagonal"),
        (lambda r: r * np.nan, "NaN"),
    ],
)
def test_rdm_must_be_a_distance_matrix(change, message: str) -> None:  # type: ignore[no-untyped-def]
    square = 1 - np.eye(3)
    ds = make_rdm_recording(
        change(square)[None], stimulus_id=list("abc"), subject=["S"], species="human", region="IT"
    )
    with pytest.raises(ValueError, match=message):
        check_recording(ds)


def test_lengths_must_fit() -> None:
    with pytest.raises(ValueError, match=r"stimulus_id has shape \(1,\), expected \(2,\)"):
        make_recording(np.zeros((2, 3)), stimulus_id=["a"], region="IT")


def test_select_takes_numbers_as_the_command_line_writes_them(recording: xr.Dataset) -> None:
    recording = recording.assign_coords(pose=("presentation", [0.5, 1, 1, 2, 2, 2]))
    assert select(recording, repetition="0").sizes["presentation"] == 3
    assert select(recording, repetition=[0, 1]).sizes["presentation"] == 5
    assert select(recording, pose="0.5").sizes["presentation"] == 1
    assert select(recording, pose=1).sizes["presentation"] == 2


def test_a_selection_has_a_fingerprint_of_its_own(recording: xr.Dataset) -> None:
    recording.attrs["fingerprint"] = "sha256:0"
    prints = {select(recording, region=r).attrs["fingerprint"] for r in ("IT", "V4")}
    assert len(prints | {"sha256:0"}) == 3
    assert recording.attrs["fingerprint"] == "sha256:0"


def test_attributes_must_be_storable(recording: xr.Dataset) -> None:
    recording.attrs["when"] = np.datetime64("2024-01-01")
    with pytest.raises(ValueError, match="attribute is not text, a number or a list"):
        check_recording(recording)

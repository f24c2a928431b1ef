"""Processing: explicit, written down, lazy, and equal to other implementations."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
import scipy.stats
import xarray as xr

import repalign as ra
from repalign import processing
from repalign.loaders.lazy import lazy_rows
from repalign.recording import make_rdm_recording, make_recording


def recording(*, lazily: bool = False, time_bins: int = 0, offset: float = 0.0) -> xr.Dataset:
    """Two sessions of other means and spreads, three repetitions of six stimuli."""
    random = np.random.default_rng(0)
    shape = (18, 5) + ((time_bins,) if time_bins else ())
    values = offset + random.normal(size=shape)
    values[9:] = 3 * values[9:] + 7
    response = values
    if lazily:
        block = 4 * values[0].nbytes
        response = lazy_rows(lambda a, b: values[a:b], shape, "float64", block_bytes=block)
    bins = ([10.0 * i for i in range(time_bins)], [10.0 * i + 10 for i in range(time_bins)])
    return make_recording(
        response,
        stimulus_id=[f"s{i % 6}" for i in range(18)],
        region="IT",
        presentation={"session": ["1"] * 9 + ["2"] * 9},
        time_bins=bins if time_bins else None,
        attrs={"fingerprint": "sha256:0"},
    )


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("time_bins", [0, 3])
def test_zscores_equal_scipys_in_each_session(lazily: bool, time_bins: int) -> None:
    ds = recording(lazily=lazily, time_bins=time_bins)
    found = ra.zscore_sessions(ds)
    assert (found["response"].chunks is not None) == lazily
    values = ds["response"].values
    axes: Any = (0, 2) if time_bins else 0
    halves = [np.asarray(scipy.stats.zscore(one, axis=axes)) for one in np.split(values, 2)]
    expected = np.concatenate(halves)
    np.testing.assert_allclose(found["response"].values, expected, atol=1e-12)
    whole = ra.zscore_sessions(ds, session=None)["response"].values
    np.testing.assert_allclose(whole, scipy.stats.zscore(values, axis=axes), atol=1e-12)


def test_zscores_keep_their_digits_far_from_zero() -> None:
    near = ra.zscore_sessions(recording())["response"].values
    far = ra.zscore_sessions(recording(lazily=True, offset=1e6))["response"].values
    np.testing.assert_allclose(far, near, atol=1e-8)


def test_a_constant_neuroid_becomes_zero() -> None:
    ds = recording()
    ds["response"][:9, 2] = 4.0
    assert (ra.zscore_sessions(ds)["response"].values[:9, 2] == 0).all()


def test_averages_over_time_weigh_bins_by_their_length() -> None:
    ds = recording(time_bins=3, lazily=True)
    values = ds["response"].values
    averaged = ra.average_time(ds, start_ms=10)
    assert averaged["response"].chunks is not None
    np.testing.assert_allclose(averaged["response"].values, values[..., 1:].mean(2))
    uneven = ds.assign_coords(time_bin_stop_ms=("time_bin", [10.0, 20.0, 50.0]))
    expected = (values * [10, 10, 30]).sum(2) / 50
    np.testing.assert_allclose(ra.average_time(uneven)["response"].values, expected)
    assert "time_bin_start_ms" not in averaged.coords


@pytest.mark.parametrize("lazily", [False, True])
def test_averages_over_repetitions_leave_out_missing_trials(lazily: bool) -> None:
    ds = recording()
    values = ds["response"].values
    values[3] = np.nan
    if lazily:
        ds = ds.chunk({"presentation": 5})
    found = ra.average_repeats(ds)
    expected = np.stack([np.nanmean(values[i::6], axis=0) for i in range(6)])
    np.testing.assert_allclose(found["response"].values, expected, atol=1e-12)
    assert found["stimulus_id"].values.tolist() == [f"s{i}" for i in range(6)]
    assert found["repetition"].values.tolist() == [0] * 6


def test_steps_are_written_down_in_their_order_and_change_the_fingerprint() -> None:
    ds = recording(time_bins=3)
    found = ra.average_repeats(ra.zscore_sessions(ra.average_time(ds, stop_ms=20)))
    assert found.attrs["processing"] == [
        "average_time(start_ms=0, stop_ms=20)",
        "zscore_sessions(session='session')",
        "average_repeats()",
    ]
    prints = {ra.average_time(ds, stop_ms=stop).attrs["fingerprint"] for stop in (10, 20, 30)}
    assert len({*prints, ds.attrs["fingerprint"]}) == 4
    assert "processing" not in ds.attrs


def test_what_cannot_be_done_is_said() -> None:
    ds = recording(time_bins=3)
    with pytest.raises(ValueError, match="window 5 to 30 ms cuts a time bin; bins are 0–10, 10–20"):
        ra.average_time(ds, start_ms=5)
    with pytest.raises(ValueError, match="window 100 to 200 ms holds no time bin"):
        ra.average_time(ds, start_ms=100, stop_ms=200)
    with pytest.raises(ValueError, match="has no time bins"):
        ra.average_time(recording())
    with pytest.raises(ValueError, match="no coordinate 'day' on presentation; there are stimulus"):
        ra.zscore_sessions(ds, session="day")
    lone = ds.assign_coords(session=("presentation", ["1"] + ["2"] * 17))
    with pytest.raises(ValueError, match="session '1' has one presentation"):
        ra.zscore_sessions(lone)
    rdms = make_rdm_recording(
        np.zeros((1, 2, 2)), stimulus_id=["a", "b"], subject=["g"], species="human", region="IT"
    )
    for step in (ra.average_repeats, ra.average_time, ra.zscore_sessions):
        with pytest.raises(ValueError, match="holds RDMs"):
            step(rdms)


def test_examples_run() -> None:
    assert doctest.testmod(processing).failed == 0

"""The quality of recordings: planted faults are found, clean recordings stay quiet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xarray as xr

import repalign as ra
from repalign.loaders.lazy import lazy_rows
from repalign.metrics.noise_correction import reliability
from repalign.quality import TargetQuality, inspect_recording, noise, passes, select_reliable
from repalign.quality.drift import drift_shares
from repalign.recording import make_rdm_recording

STIMULI, REPEATS, NEUROIDS = 80, 4, 40


def trials(seed: int = 0, sd: float = 1.0, shape: tuple[int, int, int] | None = None) -> Any:
    """Repetition after repetition of all stimuli, presentation × neuroid."""
    repeats, stimuli, neuroids = shape or (REPEATS, STIMULI, NEUROIDS)
    random = np.random.default_rng(seed)
    signal = random.normal(size=(stimuli, neuroids))
    drawn = signal + sd * random.normal(size=(repeats, stimuli, neuroids))
    return drawn.reshape(repeats * stimuli, neuroids)


def recording(values: Any, n_stimuli: int = STIMULI, **more: Any) -> xr.Dataset:
    ids = [f"image-{row % n_stimuli}" for row in range(len(values))]
    return ra.make_recording(values, stimulus_id=ids, **({"region": "IT"} | more))


def inspect(ds: xr.Dataset, **options: Any) -> Any:
    return inspect_recording(ds, progress=False, **options)


def only(ds: xr.Dataset, **options: Any) -> TargetQuality:
    (one,) = inspect(ds, **options).targets
    assert isinstance(one, TargetQuality)
    return one


# Reliability and ceiling


@pytest.mark.parametrize(("sd", "repeats"), [(0.5, 2), (1.0, 4), (2.0, 5)])
def test_reliability_is_the_analytic_one_on_average(sd: float, repeats: int) -> None:
    one = only(recording(trials(3, sd, (repeats, 200, 60)), 200))
    assert one.reliability.mean() == pytest.approx(1 / (1 + sd**2 / repeats), abs=0.05)


def test_reliability_equals_that_of_the_metric_whatever_the_order_of_presentations() -> None:
    values = trials()
    y = values.reshape(REPEATS, STIMULI, NEUROIDS)
    expected = reliability(y).numpy()
    ds = recording(values)
    shuffled = ds.isel(presentation=np.random.default_rng(0).permutation(len(values)))
    np.testing.assert_allclose(only(ds).reliability, expected, rtol=1e-12)
    found = only(shuffled)  # its stimuli come in another order, which rounds otherwise
    np.testing.assert_allclose(found.reliability, expected, rtol=1e-6)


def test_ceiling_is_that_of_compare_for_few_stimuli() -> None:
    ds = recording(trials(shape=(4, 40, 20)), 40)
    model = np.random.default_rng(0).normal(size=(40, 3))
    compared = ra.compare(ds, model, n_resamples=0)[0]
    one = only(ds)
    expected = (compared.ceiling_low, compared.ceiling_high)
    assert (one.ceiling_low, one.ceiling_high) == pytest.approx(expected)
    assert (one.ceiling_stimuli, one.ceiling_neuroids) == (40, 20)


def test_ceiling_takes_at_most_500_stimuli_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert noise.CEILING_STIMULI == (100, 500)
    monkeypatch.setattr(noise, "CEILING_STIMULI", (10, 50))
    ds = recording(trials(shape=(4, 80, 5)))
    first, again = only(ds, splits=2), only(ds, splits=2)
    assert first.ceiling_stimuli == 50
    assert first.ceiling == again.ceiling


def test_averaged_repetitions_have_no_reliability_and_say_why() -> None:
    found = inspect(ra.average_repeats(recording(trials())))
    (one,) = found.targets
    assert np.isnan([*one.reliability, *one.drift, one.ceiling]).all()
    assert set(one.reasons) == {"reliability", "ceiling", "drift"}
    assert "single presentation" in one.reasons["ceiling"]
    assert len(found.warnings) == 1
    assert "every stimulus has a single presentation" in found.warnings[0]
    assert found.processing == ("average_repeats()",)


def test_two_neuroids_have_a_reliability_and_no_ceiling() -> None:
    one = only(recording(trials(shape=(4, 80, 2))))
    assert not np.isnan(one.reliability).any()
    assert "3 or more" in one.reasons["ceiling"]


# Oracles of the pass over rows


def test_moments_and_histogram_equal_those_of_whole_arrays() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=(320, 40)).astype(np.float32) + 1e4
    regions = np.array(["V4", "IT"])[np.arange(40) % 2]
    found = inspect(recording(values, region=regions.tolist()))
    for one, region in zip(found.targets, ("V4", "IT"), strict=True):
        own = values[:, regions == region].astype(np.float64)
        frame = pd.DataFrame(own)
        np.testing.assert_allclose(one.mean, frame.mean(), rtol=1e-12)
        np.testing.assert_allclose(one.spread, frame.std(ddof=0), rtol=1e-9)
        np.testing.assert_allclose(one.spread, np.sqrt(scipy.stats.moment(own, 2)), rtol=1e-9)
        counts, edges = np.histogram(own, bins=passes.BINS)
        np.testing.assert_array_equal(one.bin_counts, counts)
        np.testing.assert_allclose(one.bin_edges, edges, rtol=1e-12)
        assert (one.minimum, one.maximum) == (own.min(), own.max())


def test_spike_counts_fall_into_bins_of_whole_numbers() -> None:
    values = np.random.default_rng(2).poisson(3.0, size=(320, 10))
    one = only(recording(values))
    np.testing.assert_array_equal(one.bin_counts, np.bincount(values.ravel()))
    assert one.bin_edges[0] == values.min() - 0.5


def test_nan_counts_in_no_moment() -> None:
    values = trials()
    values[3, 5] = np.nan
    one = only(recording(values))
    assert one.mean[5] == pytest.approx(np.nanmean(values[:, 5]))
    assert one.spread[5] == pytest.approx(np.nanstd(values[:, 5]))
    assert int(one.bin_counts.sum()) == values.size - 1


def lazily(values: Any, read: list[int] | None = None) -> Any:
    def rows(start: int, stop: int) -> Any:
        if read is not None:
            read.append(stop - start)
        return values[start:stop]

    return lazy_rows(rows, values.shape, values.dtype, block_bytes=30 * values[0].nbytes)


def test_small_blocks_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    values = trials()
    values[7] = np.nan
    values[:, 3] = values[:, 9]
    whole = inspect(recording(values)).to_dict()
    sizes: list[int] = []
    real = passes.read_columns

    def watched(*args: Any) -> Any:
        found = real(*args)
        sizes.append(found.nbytes)
        return found

    monkeypatch.setattr(passes, "read_columns", watched)
    monkeypatch.setattr(passes, "BLOCK_BYTES", 40_000)
    monkeypatch.setattr(noise, "CEILING_STIMULI", (STIMULI, STIMULI))
    parts = [len(block) for _, block in passes.row_parts(recording(values)["response"])]
    assert max(parts) == 62  # half of the bytes, in rows of 40 numbers
    read: list[int] = []
    small = inspect(recording(lazily(values, read))).to_dict()
    assert max(read) == 30
    assert len(sizes) == 3 + 3 + 1  # for reliability, drift and ceiling
    assert max(sizes[:-1]) <= 40_000
    assert sizes[-1] <= 80_000
    for one in (whole, small):  # the ceiling of fewer neuroids is another
        one["notes"] = None
        for name in [name for name in one["targets"][0] if name.startswith("ceiling")]:
            del one["targets"][0][name]
    assert_alike(small, whole)


def assert_alike(first: Any, second: Any) -> None:
    """Equal but for rounding."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first:
            assert_alike(first[name], second[name])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_alike(one, other)
    elif isinstance(first, float):
        assert first == pytest.approx(second, rel=1e-9, abs=1e-9)
    else:
        assert first == second


def test_time_bins_are_averaged_first_and_it_says_so() -> None:
    values = trials()
    both = np.stack([values - 1, values + 1], axis=2)
    timed = recording(both, time_bins=([0, 50], [50, 100]))
    found, plain = inspect(timed), inspect(recording(values))
    np.testing.assert_allclose(found.targets[0].reliability, plain.targets[0].reliability)
    assert found.sizes["time_bins"] == 2
    assert "averaged over 2 time bins (0 to 100 ms)" in found.notes[0]


# Faults


def test_clean_recordings_give_no_warning() -> None:
    def is_warned_of(seed: int) -> bool:
        ds = recording(trials(seed, shape=(4, 40, 20)), 40)
        return bool(inspect(ds, splits=20).warnings)

    assert sum(map(is_warned_of, range(20))) <= 1


def test_dead_units_are_found() -> None:
    values = trials()
    values[:, [4, 7]] = [0.0, 2.5]
    found = inspect(recording(values))
    assert np.flatnonzero(found.targets[0].is_dead).tolist() == [4, 7]
    assert not found.targets[0].is_copy.any()
    assert "2 of 40 neuroids constant over all presentations" in found.warnings[0]
    assert "'neuroid-0004'" in found.warnings[0]


def test_duplicated_neuroids_are_found_in_all_targets() -> None:
    values = trials().round()  # whole numbers, whose low bits are all 0
    values[:, 30] = values[:, 2]
    found = inspect(recording(values, region=["V4"] * 20 + ["IT"] * 20))
    assert [one.is_copy.sum() for one in found.targets] == [0, 1]
    assert found.targets[1].is_copy[10]
    assert any("duplicated" in warning for warning in found.warnings)


def test_no_two_of_many_small_counts_pass_for_duplicates() -> None:
    values = np.random.default_rng(0).integers(0, 3, size=(40, 5000))
    expected = 5000 - len(np.unique(values, axis=1).T)
    assert only(recording(values, 10), splits=1).is_copy.sum() == expected


def test_missing_trials_are_counted_and_do_not_enter() -> None:
    values = trials()
    values[[5, 9]] = np.nan
    found = inspect(recording(values))
    one = found.targets[0]
    assert (one.n_missing, sorted(set(one.repetitions.tolist()))) == (2, [3, 4])
    assert not np.isnan(one.reliability).any()
    assert found.warnings == (
        "unknown IT subject-1: 2 of 320 presentations missing (NaN in all neuroids).",
    )


def test_a_presentation_may_be_missing_in_one_subject_only() -> None:
    values = trials()
    values[:5, :20] = np.nan
    found = inspect(recording(values, subject=["a"] * 20 + ["b"] * 20))
    assert [one.n_missing for one in found.targets] == [5, 0]
    assert not np.isnan(np.concatenate([one.reliability for one in found.targets])).any()


def test_a_subject_without_any_presentation_is_named() -> None:
    values = trials()
    values[:, :20] = np.nan
    found = inspect(recording(values, subject=["a"] * 20 + ["b"] * 20))
    assert "unknown IT a: no presentation is left." in found.warnings
    assert not any(one.is_copy.any() or one.is_dead.any() for one in found.targets)
    assert json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_neuroids_with_values_that_are_not_finite_are_named(bad: float) -> None:
    values = trials()
    values[3, 5] = bad
    found = inspect(recording(values))
    one = found.targets[0]
    assert np.flatnonzero(one.is_incomplete).tolist() == [5]
    assert np.flatnonzero(np.isnan(one.reliability)).tolist() == [5]
    assert any("NaN or infinite" in w and "'neuroid-0005'" in w for w in found.warnings)


def test_stimuli_without_any_difference_between_neuroids_are_found() -> None:
    values = trials()
    values[3::STIMULI] = 0.0
    found = inspect(recording(values))
    assert found.targets[0].flat_stimuli == ("image-3",)
    assert found.targets[0].ceiling_stimuli == STIMULI - 1
    assert any("1 of 80 stimuli with one and the same response" in w for w in found.warnings)


def test_stimuli_with_a_single_repetition_are_counted() -> None:
    values = trials()
    ids = [f"image-{row % STIMULI}" for row in range(len(values) - 1)] + ["lone"]
    found = inspect(ra.make_recording(values, stimulus_id=ids, region="IT"))
    assert any("1 of 81 stimuli with a single repetition" in w for w in found.warnings)
    assert found.rows()[0]["repetitions_min"] == 1


def test_unreliable_neuroids_are_found() -> None:
    values = trials()
    values[:, 6] = np.random.default_rng(9).normal(size=len(values))
    found = inspect(recording(values))
    assert any("1 of 40 neuroids with a reliability below 0.1" in w for w in found.warnings)


# Drift


def test_planted_drift_is_estimated_and_warned_of() -> None:
    values = trials(shape=(4, 200, 40))
    values[400:] += 1.0  # variance .25 beside 1 of signal and 1 of noise
    sessions = {"session": ["a"] * 400 + ["b"] * 400}
    found = inspect(recording(values, 200, presentation=sessions))
    assert np.median(found.targets[0].drift) == pytest.approx(0.25 / 2.25, abs=0.02)
    assert found.targets[0].is_drifting.all()
    assert any("40 of 40 neuroids drifting: sessions explain" in w for w in found.warnings)
    np.testing.assert_allclose(
        found.targets[0].part_means, [values[:400].mean(), values[400:].mean()]
    )
    assert found.part_names == ("a", "b")


def test_without_sessions_early_and_late_presentations_are_compared() -> None:
    values = trials()
    values[160:] += 1.0
    ds = recording(values)
    by_stimulus = ds.isel(presentation=np.argsort(ds["stimulus_id"].values, kind="stable"))
    for one in (inspect(ds), inspect(by_stimulus)):  # stored by repetition, or by stimulus
        assert np.median(one.targets[0].drift) == pytest.approx(0.25 / 2.25, abs=0.03)
        assert any("halves explain" in warning for warning in one.warnings)
        assert "No coordinate 'session'" in one.notes[0]


def test_sessions_with_other_stimuli_do_not_pass_for_drift() -> None:
    """Category 2, with larger responses, was shown more often in the second session."""
    random = np.random.default_rng(0)
    stimulus = np.concatenate([np.repeat(np.arange(40), 6), np.repeat(np.arange(40, 80), 6)])
    session = np.tile([0, 0, 0, 0, 0, 1], 80)
    session[240:] = 1 - session[240:]
    signal = random.normal(size=(80, 30)) + 3.0 * (np.arange(80) >= 40)[:, None]
    values = signal[stimulus] + random.normal(size=(480, 30))
    share, chance = drift_shares(values, stimulus, session)
    assert np.abs(share).max() < 0.03
    assert scipy.stats.kstest(chance, "uniform").pvalue > 0.001


def test_drift_equals_nested_least_squares() -> None:
    random = np.random.default_rng(4)
    stimulus, session = random.integers(0, 20, 150), random.integers(0, 3, 150)
    values = random.normal(size=(150, 2)) + session[:, None]
    share, chance = drift_shares(values, stimulus, session)
    some = np.eye(20)[stimulus]
    both = np.hstack([some, np.eye(3)[session]])

    def rest(design: Any) -> Any:
        fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
        return np.square(values - fitted).sum(0)

    left = 150 - np.linalg.matrix_rank(both)
    gained = rest(some) - rest(both)
    unit = rest(both) / left
    total = np.square(values - values.mean(0)).sum(0)
    np.testing.assert_allclose(share, (gained - 2 * unit) / total)
    np.testing.assert_allclose(chance, scipy.stats.f.sf(gained / 2 / unit, 2, left))


def test_sessions_that_share_no_stimulus_leave_drift_unknown() -> None:
    values = trials(shape=(2, 40, 10))
    session = {"session": (["a"] * 20 + ["b"] * 20) * 2}
    one = only(recording(values, 40, presentation=session))
    assert np.isnan(one.drift).all()
    assert "no stimulus was shown in two sessions" in one.reasons["drift"]


# RDMs


def test_rdms_say_how_subjects_and_sessions_agree() -> None:
    random = np.random.default_rng(0)
    pairs = random.normal(size=(4, 45)) + 2 * random.normal(size=45)
    squares = np.zeros((4, 10, 10))
    upper = np.triu_indices(10, 1)
    squares[:, upper[0], upper[1]] = squares[:, upper[1], upper[0]] = pairs
    ds = make_rdm_recording(
        squares, stimulus_id=[f"i{n}" for n in range(10)], subject=["a", "a", "b", "group"],
        species="human", region="IT", session=["1", "2", "1", "1"],
    )  # fmt: skip
    found = inspect(ds)
    rho = scipy.stats.spearmanr
    means = np.stack([pairs[:2].mean(0), pairs[2], pairs[3]])
    rows = {row["subject"]: row for row in found.rows()}
    assert rows["a"]["between_sessions"] == pytest.approx(rho(pairs[0], pairs[1]).statistic)
    assert rows["a"]["between_subjects"] == pytest.approx(rho(means[0], means[1]).statistic)
    assert rows["group"]["between_subjects"] is None
    assert found.rdm_correlations[0, 2] == pytest.approx(rho(means[0], means[2]).statistic)
    assert found.kind == "rdm"
    assert not found.warnings


# Output, selection and errors


def test_results_are_json_and_text() -> None:
    values = trials()
    values[:, 3] = 0
    found = inspect(recording(values, attrs={"units": "spikes", "dataset": "mine"}))
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["targets"][0]["reliability"][3] is None
    assert json.dumps(found.rows(), allow_nan=False)
    text = str(found)
    assert text.startswith("mine: 80 stimuli, 320 presentations, 40 neuroids (spikes)\n")
    assert "warning: unknown IT subject-1: 1 of 40 neuroids constant" in text
    assert str(inspect(recording(trials()))).endswith("no warnings")


def test_select_reliable_keeps_those_above_and_is_written_down() -> None:
    values = trials()
    values[:, ::2] = np.random.default_rng(5).normal(size=values[:, ::2].shape)
    ds = recording(lazily(values), attrs={"fingerprint": "sha256:1"})
    kept = select_reliable(ds, at_least=0.5, progress=False)
    chosen = only(ds).reliability >= 0.5
    assert kept["neuroid_id"].values.tolist() == ds["neuroid_id"].values[chosen].tolist()
    assert 15 <= kept.sizes["neuroid"] <= 20
    assert kept["response"].chunks is not None
    assert kept.attrs["processing"] == ["select_reliable(at_least=0.5, splits=100, seed=0)"]
    assert kept.attrs["fingerprint"] != ds.attrs["fingerprint"]


def test_select_reliable_keeps_time_bins() -> None:
    both = np.stack([trials(), trials()], axis=2)
    kept = select_reliable(recording(both, time_bins=([0, 5], [5, 10])), progress=False)
    assert kept["response"].dims == ("presentation", "neuroid", "time_bin")


@pytest.mark.parametrize(
    ("ds", "options", "message"),
    [
        (recording(trials(shape=(1, 80, 5))), {}, "single presentation.*only where stimuli are"),
        (recording(trials()), {"at_least": 2.0}, "at_least is 2.0; expected a reliability up to 1"),
        (recording(trials(sd=50.0)), {"at_least": 0.99}, "no neuroid has a reliability of 0.99"),
        (recording(trials()), {"splits": 0}, "splits is 0"),
        (make_rdm_recording(np.zeros((1, 2, 2)), stimulus_id=["a", "b"], subject=["s"],
                            species="human", region="IT"), {}, "holds RDMs"),
        (recording(trials()).drop_vars("region"), {}, "coordinate 'region' is missing"),
    ],
)  # fmt: skip
def test_select_reliable_says_what_is_wrong(
    ds: xr.Dataset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        select_reliable(ds, progress=False, **options)


# Real recordings


def test_v4_session_is_averaged_over_repetitions(data_folder: Path) -> None:
    found = inspect(ra.ingest("cowley2023_v4_190923", mirror=data_folder))
    (row,) = found.rows()
    assert (row["stimuli"], row["neuroids"], row["repetitions_max"]) == (1200, 33, 1)
    assert (row["reliability"], row["ceiling"], row["drift"]) == (None, None, None)
    assert "single presentation" in found.targets[0].reasons["reliability"]
    assert found.units == "spikes per 100 ms"
    assert len(found.warnings) == 1


def test_92_images_are_rdms_of_four_subjects(data_folder: Path) -> None:
    found = inspect(ra.ingest("kriegeskorte2008", mirror=data_folder))
    rows = found.rows()
    individuals = [row for row in rows if row["subject"] != "group"]
    assert [row["sessions"] for row in individuals] == [2, 2, 2, 2]
    assert all(row["between_subjects"] > 0.2 for row in individuals)
    assert all(row["between_sessions"] > 0 for row in individuals)
    assert found.notes[0].startswith("Published RDMs")

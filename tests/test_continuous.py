"""Planted kernels come back, noise scores nothing, and nothing leaks or acts before its time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import scipy.stats
import xarray as xr
from nilearn.glm.first_level import compute_regressor, make_first_level_design_matrix, spm_hrf
from sklearn.linear_model import Ridge as SklearnRidge

from repalign.continuous import fir_kernels, score_continuous
from repalign.continuous.delays import complete_rows, fir_features
from repalign.continuous.features import features_at_tr, hrf_features
from repalign.continuous.folds import blocked_folds, circular_shifts
from repalign.continuous_recording import make_continuous_recording
from repalign.metrics import Ridge
from repalign.recording import make_recording, refuse_continuous

TR = 2.0


def recording(y: np.ndarray, runs: int = 1, reference: float = 0.0) -> xr.Dataset:
    names = np.repeat([f"{i + 1}" for i in range(runs)], len(y) // runs)
    return make_continuous_recording(
        y, run=names, region="V1", repetition_time_s=TR, slice_time_ref=reference
    )


def autoregressive(draw: np.random.Generator, n: int, width: int, rho: float) -> np.ndarray:
    """Stationary noise whose neighbours correlate with rho."""
    noise = draw.standard_normal((n, width))
    out = noise.copy()
    for t in range(1, n):
        out[t] = rho * out[t - 1] + np.sqrt(1 - rho**2) * noise[t]
    return out


def test_delayed_features_equal_a_toeplitz_matrix_of_each_run(
    random: np.random.Generator,
) -> None:
    x = random.standard_normal((30, 3))
    run = ["a"] * 12 + ["b"] * 18
    delays = [0, 2, 5]
    found = fir_features(x, run=run, delays=delays)
    for rows in (slice(0, 12), slice(12, 30)):
        for feature in range(3):
            column = x[rows, feature]
            every = scipy.linalg.toeplitz(column, np.r_[column[0], np.zeros(5)])
            np.testing.assert_array_equal(found[rows, feature::3], every[:, delays])
    ahead = fir_features(x[::-1], run=run[::-1], delays=[0, -2, -5])[::-1]
    np.testing.assert_array_equal(found, ahead)
    kept = complete_rows(run, delays)
    marked = fir_features(np.ones((30, 1)), run=run, delays=delays).all(axis=1)
    np.testing.assert_array_equal(kept, marked)


def test_events_at_tr_with_delays_equal_nilearns_fir_design() -> None:
    n, delays = 60, list(range(6))
    onsets = np.array([4.0, 20, 22, 50, 80])
    ds = recording(np.zeros((n, 1)))
    x = features_at_tr(np.ones((5, 1)), ds, onset_s=onsets, duration_s=np.full(5, TR))
    design = make_first_level_design_matrix(
        np.arange(n) * TR,
        pd.DataFrame({"onset": onsets, "duration": TR, "trial_type": "a"}),
        hrf_model="fir",
        fir_delays=delays,
        drift_model=None,
        oversampling=1,
    )
    expected = design[[f"a_delay_{d}" for d in delays]].to_numpy()
    np.testing.assert_allclose(fir_features(x, run=["1"] * n, delays=delays), expected, atol=1e-12)


def test_frames_are_averaged_within_each_volume_of_their_run(random: np.random.Generator) -> None:
    ds = recording(np.zeros((140, 1)), runs=2, reference=0.5)
    onsets = np.arange(70 * 20) * 0.1
    frames = random.standard_normal((2, 1400, 3))
    x = features_at_tr(
        frames.reshape(-1, 3),
        ds,
        onset_s=np.tile(onsets, 2),
        run=np.repeat(["1", "2"], 1400),
    )
    np.testing.assert_allclose(x, frames.reshape(140, 20, 3).mean(axis=1), atol=1e-12)
    order = random.permutation(2800)
    shuffled = features_at_tr(
        frames.reshape(-1, 3)[order],
        ds,
        onset_s=np.tile(onsets, 2)[order],
        run=np.repeat(["1", "2"], 1400)[order],
    )
    np.testing.assert_allclose(shuffled, x, atol=1e-12)


def test_events_count_by_the_share_of_each_volume() -> None:
    ds = recording(np.zeros((6, 1)), reference=0.5)
    x = features_at_tr(
        np.array([[1.0], [10.0], [100.0]]),
        ds,
        onset_s=xr.DataArray([1.0, 4.0, 7.9]),
        duration_s=[3.5, 0.5, 0.0],
    )
    np.testing.assert_allclose(x[:, 0], [0.5, 1.0, 0.25 + 2.5, 100.0, 0, 0])


def test_a_volume_without_a_frame_is_an_error_or_zero() -> None:
    ds = recording(np.zeros((4, 1)))
    with pytest.raises(
        ValueError, match=r"1 of 4 volumes have no frame \(first: at 2 s of run '1'"
    ):
        features_at_tr(np.ones((3, 1)), ds, onset_s=[0, 4, 6])
    x = features_at_tr(np.ones((3, 1)), ds, onset_s=[0, 4, 6], empty="zero")
    assert x[:, 0].tolist() == [1, 0, 1, 1]
    with pytest.raises(ValueError, match="empty applies to frames only"):
        features_at_tr(np.ones((1, 1)), ds, onset_s=[0], duration_s=[1], empty="zero")


@pytest.mark.parametrize("hrf", ["spm", "glover"])
def test_haemodynamic_features_equal_nilearns_regressors(
    hrf: str, random: np.random.Generator
) -> None:
    n, events = 150, 20
    onsets = np.sort(random.uniform(0, 260, events))
    durations = random.uniform(0.5, 12, events)
    heights = random.standard_normal(events)
    ds = recording(np.zeros((n, 1)), reference=0.25)
    found = hrf_features(heights[:, None], ds, onset_s=onsets, duration_s=durations, hrf=hrf)[:, 0]
    times = ds["time_s"].values
    expected, _ = compute_regressor((onsets, durations, heights), hrf, times, oversampling=400)
    np.testing.assert_allclose(found, expected[:, 0], atol=0.01 * np.abs(expected).max())
    assert np.corrcoef(found, expected[:, 0])[0, 1] > 0.9999


def test_an_impulse_is_the_response_itself_and_a_function_may_give_it() -> None:
    ds = recording(np.zeros((30, 1)))
    seconds = np.arange(30) * TR - 5.0

    def response(s: np.ndarray) -> np.ndarray:
        return 7 * scipy.stats.gamma.pdf(s, 6)

    found = hrf_features(np.array([[3.0]]), ds, onset_s=[5], duration_s=[0], hrf=response)
    expected = 3 * scipy.stats.gamma.pdf(seconds, 6) * (seconds < 32)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-4)
    short = hrf_features(np.array([[3.0]]), ds, onset_s=[5], duration_s=[0.01], hrf=response)
    np.testing.assert_allclose(short / 0.01, found, atol=0.01)


def test_no_event_acts_before_it_happens(random: np.random.Generator) -> None:
    ds = recording(np.zeros((200, 1)), runs=2)
    x = random.standard_normal((80, 2))
    onsets, durations = np.tile(np.arange(40) * 5.0, 2), np.full(80, 5.0)
    run = np.repeat(["1", "2"], 40)
    before = hrf_features(x, ds, onset_s=onsets, duration_s=durations, run=run)
    x[20:40] += 5  # of the first run, from 100 s on
    after = hrf_features(x, ds, onset_s=onsets, duration_s=durations, run=run)
    changed = (before != after).any(axis=1)
    assert not changed[:51].any()
    assert changed[52:100].all()
    assert not changed[100:].any()


def planted(
    draw: np.random.Generator, *, runs: int, length: int, noise: float, neuroids: int = 8
) -> tuple[xr.Dataset, np.ndarray, np.ndarray, np.ndarray]:
    """Responses to two features by kernels of the haemodynamic shape, of unit signal variance."""
    kernel = spm_hrf(TR, 1, 16.0)
    kernels = kernel[None, :, None] * draw.standard_normal((2, 1, neuroids))
    n = runs * length
    x = draw.standard_normal((n, 2))
    signal = np.zeros((n, neuroids))
    for start in range(0, n, length):
        for feature in range(2):
            whole = np.apply_along_axis(
                lambda k, s=start, f=feature: np.convolve(x[s : s + length, f], k)[:length],
                0,
                kernels[feature],
            )
            signal[start : start + length] += whole
    scale = signal.std(axis=0)
    signal, kernels = signal / scale, kernels / scale
    y = signal + noise * draw.standard_normal(signal.shape)
    return recording(y, runs=runs), x, kernels, signal


def test_planted_kernels_are_recovered_and_predict_near_the_noise_ceiling(
    random: np.random.Generator,
) -> None:
    ds, x, kernels, _ = planted(random, runs=4, length=300, noise=1.0)
    delays = range(kernels.shape[1])
    fitted = fir_kernels(ds, x, delays=delays)
    assert fitted.dims == ("delay", "feature", "neuroid")
    flat = fitted.transpose("feature", "delay", "neuroid").values
    assert np.corrcoef(flat.ravel(), kernels.ravel())[0, 1] > 0.97
    ceiling = np.sqrt(1 / 2)
    scores = score_continuous(ds, x, delays=delays)
    assert scores.sizes == {"neuroid": 8, "fold": 4}
    assert np.abs(scores["r"].values - ceiling).max() < 0.06
    blocks = score_continuous(ds, x, delays=delays, folds=8)
    assert np.abs(blocks["r"].values - ceiling).max() < 0.06
    assert blocks.attrs["gap"] == 7 + 8


def test_the_delay_that_was_planted_scores_best(random: np.random.Generator) -> None:
    x = random.standard_normal((400, 3))
    run = np.repeat(["1", "2"], 200)
    y = fir_features(x, run=run, delays=[3]) @ random.standard_normal((3, 5))
    ds = recording(y + random.standard_normal(y.shape), runs=2)
    r = [float(score_continuous(ds, x, delays=[d])["r"].mean()) for d in range(-1, 7)]
    assert int(np.argmax(r)) == 4
    assert r[4] > 0.7
    assert max(r[:4] + r[5:]) < 0.2


def test_scores_equal_scikit_learns_ridge_on_the_same_splits(random: np.random.Generator) -> None:
    x = random.standard_normal((120, 4))
    y = x @ random.standard_normal((4, 3)) + random.standard_normal((120, 3))
    ds = recording(y, runs=3)
    found = score_continuous(ds, x, delays=[0, 1], edges="zero", folds=5, gap=3, alphas=[0.1])
    design = fir_features(x, run=ds["run"].values, delays=[0, 1])
    r = []
    for train, test in blocked_folds(ds["run"].values, folds=5, gap=3):
        penalty = 0.1 * ((design[train] - design[train].mean(0)) ** 2).sum() / train.sum()
        fit = SklearnRidge(alpha=penalty).fit(design[train], y[train])
        p = fit.predict(design[test])
        r.append([np.corrcoef(p[:, i], y[test, i])[0, 1] for i in range(3)])
    np.testing.assert_allclose(found["r"].values, np.mean(r, axis=0), atol=1e-9)
    np.testing.assert_allclose(found["alpha"].values, 0.1)
    single = score_continuous(
        ds.assign(response=ds["response"].astype("float32")),
        x,
        delays=[0, 1],
        edges="zero",
        folds=5,
        gap=3,
        alphas=[0.1],
    )
    np.testing.assert_allclose(single["r"].values, found["r"].values, atol=1e-5)


def test_blocks_with_a_gap_find_nothing_where_random_folds_do(random: np.random.Generator) -> None:
    """Slow features and slow responses that have nothing to do with each other."""
    blocked, at_random = [], []
    for _ in range(5):
        x = autoregressive(random, 400, 30, 0.97)
        y = autoregressive(random, 400, 20, 0.97)
        ds = recording(y)
        blocked.append(float(score_continuous(ds, x, folds=5, gap=20)["r"].mean()))
        at_random.append(float(Ridge()(x, y)))
    assert min(at_random) > 0.4  # what these data would give without blocks
    assert abs(np.mean(blocked)) < 0.1


def test_each_time_is_held_out_once_and_the_gap_is_not_fitted() -> None:
    run = np.repeat(["a", "b"], [37, 50])
    splits = blocked_folds(run, folds=6, gap=4)
    np.testing.assert_array_equal(sum(split.test.astype(int) for split in splits), 1)
    for train, test in splits:
        for row in np.flatnonzero(test):
            near = np.abs(np.arange(87) - row) <= 4
            assert not (train & near & (run == run[row])).any()
        rest = ~train & ~test
        assert rest.sum() <= 8
    straddling = next(s for s in splits if len(set(run[s.test])) == 2)
    assert (~straddling.train & ~straddling.test).sum() == 8  # none beyond the ends of the runs
    whole = blocked_folds(run)
    assert [split.test.sum() for split in whole] == [37, 50]
    assert all((split.train == ~split.test).all() for split in whole)


@pytest.mark.parametrize("runs", [1, 3])
def test_p_values_are_uniform_where_there_is_no_relation(
    runs: int, random: np.random.Generator
) -> None:
    p = []
    for _ in range(40):
        x = autoregressive(random, 300, 2, 0.7)
        y = np.concatenate([autoregressive(random, 300 // runs, 5, 0.7) for _ in range(runs)])
        folds = 4 if runs == 1 else None
        scores = score_continuous(
            recording(y, runs=runs),
            x,
            delays=[0, 1],
            folds=folds,
            alphas=[0.01, 1.0],
            n_shifts=60,
            seed=len(p),
        )
        p.append(scores["p"].values)
    values = np.concatenate(p)
    highest = scipy.stats.binom.ppf(0.999, len(values), 0.05) / len(values)
    assert (values <= 0.05).mean() <= highest
    assert (
        scipy.stats.kstest(np.array([one.mean() for one in p]), "norm", (0.5, 0.13)).pvalue > 0.001
    )
    assert abs(values.mean() - 0.5) < 0.06


def test_a_planted_relation_is_found_by_the_null(random: np.random.Generator) -> None:
    ds, x, kernels, _ = planted(random, runs=2, length=150, noise=2.0)
    scores = score_continuous(ds, x, delays=range(kernels.shape[1]), n_shifts=99, seed=1)
    assert scores.attrs["smallest_p"] == 0.01
    assert (scores["p"].values == 0.01).mean() > 0.7
    assert scores["null"].shape == (99, 8)
    same = score_continuous(ds, x, delays=range(kernels.shape[1]), n_shifts=99, seed=1)
    xr.testing.assert_identical(scores, same)


def test_turned_responses_score_what_turned_features_do(random: np.random.Generator) -> None:
    x, y = random.standard_normal((90, 2)), random.standard_normal((90, 3))
    ds = recording(y, runs=3)
    options = {"edges": "zero", "alphas": [0.1]}
    found = score_continuous(ds, x, n_shifts=5, seed=3, **options)  # type: ignore[arg-type]
    least = found.attrs["minimum_shift"]
    turns = circular_shifts(ds["run"].values, 5, least=least, draw=np.random.default_rng(3))
    for turn, null in zip(turns, found["null"].values, strict=True):
        turned = np.empty_like(x)
        turned[turn] = x
        direct = score_continuous(ds, turned, **options)["r"].values  # type: ignore[arg-type]
        np.testing.assert_allclose(null, direct, atol=1e-9)


def test_all_turns_differ_and_stay_away_from_the_delays() -> None:
    run = np.repeat(["a", "b"], [30, 40])
    turns = circular_shifts(run, 200, least=10, draw=np.random.default_rng(0))
    assert len({tuple(turn) for turn in turns}) == 200
    for turn in turns:
        for rows in (np.arange(30), np.arange(30, 70)):
            lag = (turn[rows] - rows) % len(rows)
            assert len(set(lag)) == 1
            assert 10 <= lag[0] <= len(rows) - 10
    few = circular_shifts(["a"] * 30, 200, least=10, draw=np.random.default_rng(0))
    assert sorted(int(turn[0]) for turn in few) == list(range(10, 21))


def test_batches_of_neuroids_and_shifts_do_not_change_the_scores(
    random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds, x, _, _ = planted(random, runs=2, length=80, noise=1.0)
    whole = score_continuous(ds, x, delays=[2, 3], n_shifts=7)
    for elements in (160 * 3, 160 * 20):
        monkeypatch.setattr("repalign.continuous.encoding.TARGET_ELEMENTS", elements)
        xr.testing.assert_allclose(score_continuous(ds, x, delays=[2, 3], n_shifts=7), whole)


def test_a_constant_neuroid_has_no_score(random: np.random.Generator) -> None:
    ds, x, _, _ = planted(random, runs=2, length=80, noise=1.0)
    y = ds["response"].values.copy()
    y[:, 2] = 4.0
    scores = score_continuous(ds.assign(response=(ds["response"].dims, y)), x, n_shifts=5)
    assert np.isnan(scores["r"].values).tolist() == [i == 2 for i in range(8)]
    assert np.isnan(scores["p"].values).tolist() == [i == 2 for i in range(8)]


def test_bad_input_says_what_was_expected(random: np.random.Generator) -> None:
    y, x = random.standard_normal((60, 2)), random.standard_normal((60, 3))
    one, two = recording(y), recording(y, runs=2)
    with pytest.raises(ValueError, match="one run only, '1'; give folds=5"):
        score_continuous(one, x)
    with pytest.raises(ValueError, match="gap applies to blocks"):
        score_continuous(two, x, gap=3)
    with pytest.raises(ValueError, match="delay of 30 volumes is as long as run '1', which has 30"):
        score_continuous(two, x, delays=[0, 30])
    with pytest.raises(ValueError, match="expected whole numbers of volumes, each once"):
        score_continuous(two, x, delays=[1, 1])
    with pytest.raises(ValueError, match="expected whole numbers"):
        score_continuous(two, x, delays=[1.5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"features has shape \(59, 3\).*\(60 times, feature\)"):
        score_continuous(two, x[:59])
    with pytest.raises(ValueError, match=r"features has NaN or infinite values \(first in row 7"):
        score_continuous(two, np.where(np.arange(60)[:, None] == 7, np.nan, x))
    with pytest.raises(ValueError, match="response has NaN"):
        score_continuous(recording(np.full((60, 2), np.nan), runs=2), x)
    with pytest.raises(ValueError, match="features are constant"):
        score_continuous(two, np.ones((60, 1)))
    with pytest.raises(ValueError, match="a shift within the delays is no null"):
        score_continuous(two, x, delays=[0, 4], n_shifts=5, minimum_shift=4)
    with pytest.raises(ValueError, match="run '1' has 30 times, too few to turn it by 20"):
        score_continuous(two, x, n_shifts=5, minimum_shift=20)
    with pytest.raises(ValueError, match="no time to fit, of 60; use a smaller gap"):
        score_continuous(one, x, folds=3, gap=60)
    with pytest.raises(ValueError, match="folds is 40 for 60 times; expected 2 to 20"):
        score_continuous(one, x, folds=40)
    with pytest.raises(ValueError, match="held-out times and"):
        score_continuous(one, x, folds=20, delays=[0, 2], gap=0)
    with pytest.raises(ValueError, match="edges is 'nan'"):
        score_continuous(two, x, edges="nan")  # type: ignore[arg-type]
    presented = xr.Dataset({"response": (("presentation", "neuroid"), y)})
    with pytest.raises(ValueError, match="expected a continuous recording"):
        score_continuous(presented, x)
    with pytest.raises(TypeError, match="expected a continuous recording, got a ndarray"):
        score_continuous(y, x)  # type: ignore[arg-type]


def test_what_needs_presentations_says_where_to_go() -> None:
    with pytest.raises(ValueError, match=r"compare needs presentations.*score_continuous"):
        refuse_continuous(recording(np.zeros((4, 1))), "compare")
    refuse_continuous(make_recording(np.zeros((1, 2)), stimulus_id=["a"], region="IT"), "compare")


def test_bad_times_of_features_name_the_run() -> None:
    ds = recording(np.zeros((40, 1)), runs=2)
    with pytest.raises(ValueError, match="the recording has runs 1, 2; give run="):
        features_at_tr(np.ones((1, 1)), ds, onset_s=[0])
    with pytest.raises(ValueError, match="names '3'; expected one of 1, 2"):
        features_at_tr(np.ones((1, 1)), ds, onset_s=[0], run="3")
    with pytest.raises(
        ValueError, match=r"2 onsets \(first 40 s\) lie outside run '2', which lasts from 0 to 40 s"
    ):
        hrf_features(np.ones((3, 1)), ds, onset_s=[0, 40, 41], duration_s=[1, 1, 1], run="2")
    with pytest.raises(ValueError, match="duration_s has shape"):
        hrf_features(np.ones((1, 1)), ds, onset_s=[0], duration_s=[-1], run="2")
    with pytest.raises(ValueError, match="hrf is 'canonical'; expected glover, spm"):
        hrf_features(np.ones((1, 1)), ds, onset_s=[0], duration_s=[1], run="2", hrf="canonical")
    with pytest.raises(
        ValueError, match=r"shape \(2,\) and area 0 over 32 s; expected a finite value"
    ):
        hrf_features(np.ones((1, 1)), ds, onset_s=[0], duration_s=[1], run="2", hrf=lambda s: s[:2])

"""Comparisons along time: equal to a loop over bins, planted truth, chance, errors."""

import json

import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr

import repalign as ra
from repalign.dynamics.similarities import permuted_grids, random_orders, similarity_grid
from repalign.metrics import CKA, RSA, Procrustes, Ridge
from repalign.metrics.subsets import take_stimuli
from repalign.recording import make_activations, make_rdm_recording, make_recording

N, BINS = 14, 6
IDS = [f"image-{i}" for i in range(N)]
EDGES = (np.arange(BINS) * 20.0 - 40, np.arange(BINS) * 20.0 - 20)


def recording(
    signal: np.ndarray,
    *,
    subjects: int = 1,
    repeats: int = 4,
    noise: float = 1.0,
    seed: int = 0,
    name: str = "s",
    edges=EDGES,
) -> xr.Dataset:
    """Subjects whose neuroids mix a signal (stimulus × feature × time), with noise in time."""
    draw = np.random.default_rng(seed)
    parts = []
    for _ in range(subjects):
        mixing = draw.normal(size=(signal.shape[1], 12))
        pattern = np.einsum("sft,fn->snt", signal, mixing)
        shape = (repeats, *pattern.shape)
        walk = draw.normal(size=shape) + draw.normal(size=(*shape[:-1], 1))  # lasts over bins
        parts.append(pattern + noise * walk)
    response = np.concatenate(parts, axis=2).reshape(-1, 12 * subjects, signal.shape[2])
    return make_recording(
        response,
        stimulus_id=IDS * repeats,
        region="IT",
        species="human",
        subject=[f"{name}{i}" for i in range(subjects) for _ in range(12)],
        neuroid_id=[f"n{i}" for i in range(12)] * subjects,
        time_bins=edges,
        attrs={"dataset": "simulated"},
    )


def layer(values: np.ndarray, name: str) -> xr.Dataset:
    return make_activations(values, IDS, "net", name, (values.shape[1],))


@pytest.fixture
def features(random):
    return random.normal(size=(N, 8))


@pytest.fixture
def signal(features):
    """The geometry of ``features`` from the third bin on."""
    return features[..., None] * np.array([0, 0, 1, 1, 1, 1.0])


@pytest.fixture
def layers(features, random):
    return {
        "early": layer(random.normal(size=(N, 20)), "early"),
        "late": layer(features @ random.normal(size=(8, 20)), "late"),
    }


METRICS = [
    RSA(),
    RSA(rdm="euclidean", comparator="corr"),
    RSA(rdm="euclidean", comparator="cosine_cov"),
    RSA(rdm="euclidean", comparator="corr_cov"),
    RSA(rdm="cosine", comparator="rho-a"),
    RSA(comparator="tau-a"),
    RSA(comparator="tau-b"),
    RSA(rdm="euclidean", comparator="bures"),
    RSA(rdm="crossnobis", comparator="cosine", model_rdm="euclidean"),
    RSA(rdm="mahalanobis", comparator="corr", model_rdm="euclidean", noise="shrinkage_diag"),
    CKA(),
    CKA(debiased=False),
    CKA(kernel="rbf"),
]


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_every_bin_equals_compare(metric, signal, layers):
    both = recording(signal, subjects=2)
    found = ra.time_resolved(both, layers, metric, ceiling="auto", device="cpu")
    for t in range(BINS):
        one = both.isel(time_bin=t)
        rows = ra.compare(
            one, layers, metric, ceiling="auto", n_resamples=0, null_draws=0, device="cpu"
        )
        for row in rows:
            at = found.sel(layer=row.layer).isel(time_bin=t)
            at = at.isel(target=list(found["subject"].values).index(row.subject))
            assert float(at["value"]) == pytest.approx(row.value, abs=1e-10)
            for end in ("ceiling_low", "ceiling_high"):
                known = getattr(row, end)
                assert float(at[end]) == pytest.approx(
                    np.nan if known is None else known, abs=1e-10, nan_ok=True
                )


@pytest.mark.parametrize("metric", [RSA(), CKA()], ids=repr)
def test_intervals_equal_those_of_compare(metric, signal, layers):
    one = recording(signal)
    found = ra.time_resolved(one, layers, metric, n_resamples=50, seed=3, device="cpu")
    rows = ra.compare(
        one.isel(time_bin=4), layers, metric, n_resamples=50, seed=3, null_draws=0, device="cpu"
    )
    for row in rows:
        at = found.sel(layer=row.layer).isel(time_bin=4, target=0)
        assert float(at["low"]) == pytest.approx(row.ci_low, abs=1e-10)
        assert float(at["high"]) == pytest.approx(row.ci_high, abs=1e-10)


def test_ceilings_over_subjects_equal_those_of_compare(signal, layers):
    five = recording(signal, subjects=5, repeats=1, noise=0.3)
    found = ra.time_resolved(five, layers, RSA(), device="cpu")
    assert found.attrs["ceiling_kind"] == "nili"
    rows = ra.compare(five.isel(time_bin=3), layers, RSA(), n_resamples=0, null_draws=0)
    for i, row in enumerate(rows.results[::2]):
        at = found.isel(target=i, time_bin=3)
        assert float(at["ceiling_low"]) == pytest.approx(row.ceiling_low, abs=1e-10)
        assert float(at["ceiling_high"]) == pytest.approx(row.ceiling_high, abs=1e-10)


def test_missing_repetitions_and_float32_are_as_in_compare(signal, layers):
    one = recording(signal).isel(presentation=slice(0, -5)).astype("float32")
    found = ra.time_resolved(one, layers, CKA(), device="cpu")
    row = ra.compare(one.isel(time_bin=2), layers, CKA(), n_resamples=0, null_draws=0)[1]
    assert float(found["value"][0, 1, 2]) == pytest.approx(row.value, abs=1e-10)
    assert float(found["ceiling_low"][0, 2]) == pytest.approx(row.ceiling_low, abs=1e-6)


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_all_pairs_at_once_equal_the_loop_and_permuting_moves_stimuli(metric, random):
    x = torch.from_numpy(random.normal(size=(3, 3, 9, 11)))
    prepared = [
        metric.prepare(one) if metric.needs_repeats else metric.prepare(one[0]) for one in x
    ]
    first, second = torch.stack(prepared[:2]), torch.stack(prepared[1:])
    loop = [[metric.compare_prepared(a, b) for b in second] for a in first]
    np.testing.assert_allclose(similarity_grid(metric, first, second), loop, atol=1e-11)
    orders = random_orders(9, 5, seed=1)
    found = torch.cat(list(permuted_grids(metric, first, second, orders)))
    for draw, order in zip(found, orders, strict=True):
        for i, j in [(0, 0), (1, 0), (0, 1)]:
            want = metric.compare_prepared(first[i], take_stimuli(second[j], order))
            assert float(draw[i, j]) == pytest.approx(float(want), abs=1e-11)


@pytest.mark.parametrize("metric", [RSA(), CKA()], ids=repr)
def test_the_planted_layer_and_time_are_found_and_the_baseline_is_not(metric, signal, layers):
    nine = recording(signal, subjects=9, repeats=2)
    found = ra.time_clusters(ra.time_resolved(nine, layers, metric, device="cpu"))
    late = found.sel(layer="late").isel(region=0)
    assert (late["p"].values[2:] <= 0.05).all()
    assert (found["p"].values[..., :2] > 0.05).all()
    assert (found.sel(layer="early")["p"].values > 0.05).all()
    table = ra.cluster_table(found)
    best = table[table["layer"] == "late"].iloc[0]
    assert (best["start_ms"], best["stop_ms"]) == (0, 80)
    assert best["p"] == best["smallest_p"] == 1 / 2**9
    difference = ra.time_clusters(
        ra.time_resolved(nine, layers, metric, device="cpu"), minus="early"
    )
    assert difference["layer"].values.tolist() == ["late"]
    assert (difference["p"].values[0, 0, 2:] <= 0.05).all()
    assert "two-sided" in difference.attrs["kind"]


def test_what_is_no_recording_is_said(layers):
    with pytest.raises(TypeError, match=r"a str was given; expected recordings. Open a store with"):
        ra.time_resolved("meg.zarr", layers)


@pytest.mark.parametrize("over", ["subjects", "stimuli"])
def test_no_cluster_reaches_over_a_gap_in_time(signal, layers, over):
    """The late layer is there in the last four bins, which a gap parts into two and two."""
    starts, stops = (edge + 500 * (np.arange(BINS) > 3) for edge in EDGES)
    parted = recording(signal, subjects=9, repeats=2, edges=(starts, stops))
    whole = recording(signal, subjects=9, repeats=2)
    settings = {"n_permutations": 99, "device": "cpu"}
    found, one = (
        ra.time_clusters(ra.time_resolved(part, layers, RSA(), **settings), over=over)
        for part in (parted, whole)
    )
    np.testing.assert_array_equal(found["statistic"].values, one["statistic"].values)
    table = ra.cluster_table(found)
    late = table[table["layer"] == "late"].sort_values("start_ms")
    assert late[["start_ms", "stop_ms"]].values.tolist() == [[0, 40], [540, 580]]
    assert (late["p"] <= 0.05).all()
    crossed = ra.cross_temporal(parted, metric=RSA(), splits=5, device="cpu")
    square = ra.cluster_table(ra.time_clusters(crossed))
    lengths = square[["stop_ms", "stop_ms_"]].values - square[["start_ms", "start_ms_"]].values
    assert len(square)
    assert lengths.max() < 500


def test_one_subject_is_tested_by_permuted_stimuli(signal, layers):
    one = recording(signal, repeats=2)
    result = ra.time_resolved(one, layers, RSA(), n_permutations=199, seed=2, device="cpu")
    found = ra.time_clusters(result, over="stimuli")
    assert (found.sel(layer="late")["p"].values[0, 2:] <= 0.05).all()
    assert (found["p"].values[..., :2] > 0.05).all()
    assert found.attrs["smallest_p"] == 1 / 200
    assert "permutation of stimulus labels" in found.attrs["kind"]
    again = ra.time_resolved(one, layers, RSA(), n_permutations=199, seed=2, device="cpu")
    xr.testing.assert_identical(result, again)


def test_unrelated_recordings_are_significant_as_rarely_as_they_should_be(random):
    sets, found = 150, {"subjects": 0, "stimuli": 0}
    for seed in range(sets):
        draw = np.random.default_rng(seed)
        net = layer(draw.normal(size=(N, 10)), "conv")
        nothing = recording(np.zeros((N, 2, BINS)), subjects=8, repeats=1, seed=seed + 1000)
        result = ra.time_resolved(nothing, net, CKA(), n_permutations=99, seed=seed, device="cpu")
        for over in found:
            clusters = ra.time_clusters(result, over=over, alternative="two-sided")
            found[over] += bool((clusters["p"].values <= 0.05).any())
    most = scipy.stats.binom.ppf(1 - 0.05 / 2, sets, 0.05)
    assert found["subjects"] <= most
    assert found["stimuli"] <= most


def test_within_a_recording_the_diagonal_is_the_split_half_similarity(signal):
    one = recording(signal)
    found = ra.cross_temporal(one, metric=CKA(), splits=8, device="cpu")
    square = found["value"].values[0]
    np.testing.assert_allclose(square, square.T, atol=1e-12)
    assert (np.diag(square) < 0.999).all()
    from repalign.split_half import split_half_masks

    responses = torch.from_numpy(one["response"].values.reshape(4, N, 12, BINS))
    want = np.zeros((BINS, BINS))
    recorded = torch.ones(4, N, dtype=torch.bool)
    for halves in split_half_masks(recorded, splits=8, seed=0, level=False):
        a, b = (
            (responses * half[..., None, None]).sum(0) / half.sum(0)[:, None, None]
            for half in halves
        )
        for s in range(BINS):
            for t in range(BINS):
                ab, ba = CKA()(a[..., s], b[..., t]), CKA()(a[..., t], b[..., s])
                want[s, t] += float(ab + ba) / 16
    np.testing.assert_allclose(square, want, atol=1e-10)


def test_noise_that_lasts_is_no_generalisation_and_a_geometry_that_lasts_is(signal):
    values = []
    for seed in range(20):
        noise = recording(np.zeros((N, 2, BINS)), repeats=4, seed=seed)
        values.append(ra.cross_temporal(noise, metric=CKA(), splits=4, device="cpu")["value"])
    mean = np.mean(values, axis=0)[0]
    assert np.abs(mean).max() < 4 * np.std(values) / np.sqrt(20)
    found = ra.cross_temporal(recording(signal, noise=0.5), metric=CKA(), device="cpu")
    square = found["value"].values[0]
    assert square[2:, 2:].min() > 0.4 > np.abs(square[:2]).max()


def test_a_geometry_that_changes_generalises_within_its_period_only(random):
    first, *others = random.normal(size=(20, N, 8))
    then = min(others, key=lambda x: CKA()(first, x))  # by chance some are alike
    signal = np.stack([first, first, first, then, then, then], axis=-1)
    many = recording(signal, subjects=8, repeats=4, noise=0.7)
    found = ra.time_clusters(ra.cross_temporal(many, metric=CKA(), splits=5, device="cpu"))
    inside = found["p"].values[0] <= 0.05
    assert inside[:3, :3].all()
    assert inside[3:, 3:].all()
    assert not inside[:3, 3:].any()
    table = ra.cluster_table(found)
    assert len(table[table["p"] <= 0.05]) == 2
    assert set(table["start_ms"].iloc[:2]) == {-40.0, 20.0}


def test_crossnobis_splits_four_repetitions(signal):
    metric = RSA(rdm="crossnobis", comparator="corr")
    square = ra.cross_temporal(recording(signal, noise=0.5), metric=metric, splits=3)["value"][0]
    assert float(square[3, 4]) > 0.5
    with pytest.raises(ValueError, match="2 repetitions in human IT s0, and 4 or more are needed"):
        ra.cross_temporal(recording(signal, repeats=2), metric=metric)


def test_between_recordings_each_keeps_its_own_times(signal):
    one = recording(signal, subjects=2, repeats=1, noise=0.3)
    shifted = np.roll(signal, 1, axis=2)[..., :5]
    edges = (np.arange(5) * 10.0, np.arange(5) * 10.0 + 10)
    two = recording(shifted, repeats=1, noise=0.3, seed=5, name="x", edges=edges)
    found = ra.cross_temporal(one, two, CKA(), n_permutations=20, device="cpu")
    assert found["value"].shape == (2, 6, 5)
    assert found["null"].shape == (2, 20, 6, 5)
    assert found["target"].values.tolist() == [
        "human IT s0 × human IT x0",
        "human IT s1 × human IT x0",
    ]
    assert found["time_ms_"].values.tolist() == [5, 15, 25, 35, 45]
    s, t = two.isel(time_bin=4), one.isel(time_bin=2, neuroid=slice(0, 12))
    want = ra.compare(t, s, CKA(), ceiling=False, n_resamples=0, null_draws=0)[0].value
    assert float(found["value"][0, 2, 4]) == pytest.approx(want, abs=1e-10)


def test_the_steps_of_a_network_are_a_second_time_axis(random):
    first, *others = random.normal(size=(20, N, 8))
    then = min(others, key=lambda x: CKA()(first, x))
    signal = np.stack([first * 0, first, first, then, then, then], axis=-1)
    steps = {
        f"V4@t={k}": layer(values @ random.normal(size=(8, 30)), f"V4@t={k}")
        for k, values in enumerate([first, then])
    }
    many = recording(signal, subjects=8, repeats=2, noise=0.5)
    found = ra.cross_temporal(many, steps, RSA(), n_permutations=50, device="cpu")
    assert found["value"].dims == ("target", "time_bin", "layer")
    course = ra.time_resolved(many, steps, RSA(), device="cpu")
    np.testing.assert_allclose(found["value"], course["value"].transpose(*found["value"].dims))
    p = ra.time_clusters(found)["p"].values[0]
    assert (p[1:3, 0] <= 0.05).all()
    assert (p[3:, 1] <= 0.05).all()
    assert (p[3:, 0] > 0.05).all()
    rows = ra.cluster_table(ra.time_clusters(found, over="stimuli"))
    assert {"first_layer", "last_layer", "start_ms"} <= set(rows.columns)


def test_progress_is_shown_whatever_is_compared(signal, layers, capsys):
    one = recording(signal)
    for call in (
        lambda: ra.time_resolved(one, layers, n_resamples=10, progress=True),
        lambda: ra.cross_temporal(one, progress=True),
        lambda: ra.cross_temporal(one, recording(signal, name="t"), progress=True),
        lambda: ra.cross_temporal(one, layers, progress=True),
    ):
        call()
        assert "rsa: " in capsys.readouterr().err


def test_subjects_may_come_from_several_recordings(signal, layers):
    one, two = (recording(signal, seed=seed, name=name) for seed, name in ((1, "a"), (2, "b")))
    found = ra.time_resolved([one, two], layers, device="cpu")
    assert found["subject"].values.tolist() == ["a0", "b0"]
    alone = ra.time_resolved(two, layers, device="cpu")
    np.testing.assert_array_equal(found["value"][1], alone["value"][0])
    with pytest.raises(ValueError, match="human IT a0 stands in two of the recordings"):
        ra.time_resolved([one, one], layers)


def test_a_result_is_a_tidy_table_that_says_how_it_was_made(signal, layers):
    found = ra.time_resolved(recording(signal), layers, seed=7, device="cpu")
    table = found["value"].to_dataframe().reset_index()
    assert {"layer", "region", "subject", "time_ms", "value"} <= set(table.columns)
    assert len(table) == 2 * BINS
    assert found.attrs["seed"] == 7
    assert json.loads(found.attrs["metric_parameters"])["comparator"] == "spearman"
    json.dumps(found.attrs)


# Bad input


def test_compare_points_to_the_functions_of_time(signal, layers):
    with pytest.raises(ValueError, match=r"6 time bins; repalign\.time_resolved"):
        ra.compare(recording(signal), layers)


def bad_recordings():
    signal = np.random.default_rng(0).normal(size=(N, 3, BINS))
    good = recording(signal)
    with_nan = good.copy(deep=True)
    with_nan["response"][:, :, 2] = np.nan
    constant = good.copy(deep=True)
    constant["response"][0::N, :, 1] = 0
    other_axis = recording(signal, name="b", edges=(EDGES[0] + 5, EDGES[1] + 5))
    rdms = make_rdm_recording(
        np.zeros((1, N, N)), stimulus_id=IDS, subject=["a"], species="human", region="IT"
    )
    strangers = good.assign_coords(stimulus_id=("presentation", [f"x{i}" for i in range(4 * N)]))
    turned = recording(signal, edges=(EDGES[1], EDGES[0]))
    timeless = recording(signal, edges=(np.where(EDGES[0] == 0, np.nan, EDGES[0]), EDGES[1]))
    return [
        (good.isel(time_bin=[1, 0, 2, 3]), "are not in the order of time.*at -40 ms after .* -20"),
        (good.isel(time_bin=[0, 1, 1, 2]), "stand there twice"),
        (turned, "stops before it starts"),
        (timeless, "no start and stop in ms"),
        (good.isel(time_bin=0), "has no time bins"),
        (good.isel(time_bin=[0]), "has 1 time bin; expected 2 or more"),
        (with_nan, r"NaN or infinite values in 1 time bins \(the first is 0–20 ms\)"),
        (constant, r"'image-0'\) with the same value .* 1 time bins \(the first is -20–0 ms\)"),
        (
            [good, other_axis],
            r"different time axes, 6 bins from -40–-20 .* and 6 bins from -35–-15",
        ),
        (rdms, "published RDMs only, which have no time bins"),
        ([], "no recording was given"),
        (strangers, "share no stimuli"),
        (good.drop_vars("time_bin_start_ms"), "no coordinate 'time_bin_start_ms'"),
    ]


@pytest.mark.parametrize(("bad", "message"), bad_recordings(), ids=lambda x: str(x)[:20])
def test_bad_recordings_are_said(bad, message, layers):
    with pytest.raises(ValueError, match=message):
        ra.time_resolved(bad, layers)
    if "share" not in message:
        with pytest.raises(ValueError, match=message):
            ra.cross_temporal(bad)


@pytest.mark.parametrize("metric", [Ridge(), Procrustes()], ids=lambda m: m.name)
def test_metrics_of_single_units_are_refused(metric, signal, layers):
    with pytest.raises(ValueError, match=f"{metric.name} fits or rotates single units"):
        ra.time_resolved(recording(signal), layers, metric)


def test_bad_calls_are_said(signal, layers):
    one = recording(signal)
    with pytest.raises(ValueError, match="n_resamples is -1"):
        ra.time_resolved(one, layers, n_resamples=-1)
    with pytest.raises(ValueError, match="splits is 0"):
        ra.cross_temporal(one, splits=0)
    with pytest.raises(ValueError, match="compare two time axes with repalign.cross_temporal"):
        ra.time_resolved(one, one)
    with pytest.raises(ValueError, match="1 repetitions in human IT s0, and 2 or more are needed"):
        ra.cross_temporal(recording(signal, repeats=1))
    with pytest.raises(ValueError, match="other is 1 layers; expected 2 or more"):
        ra.cross_temporal(one, layers["late"])
    with pytest.raises(ValueError, match="'net late' was given twice|'late' was given twice"):
        ra.time_resolved(one, {"a": layers["late"], "b": layers["late"]})
    with pytest.raises(ValueError, match="a ceiling over subjects needs RSA"):
        ra.time_resolved(one, layers, CKA(), ceiling="nili")
    with pytest.raises(ValueError, match="3 shared stimuli; cka needs 4"):
        ra.time_resolved(one.isel(presentation=[0, 1, 2]), layers, CKA())


def test_too_few_subjects_are_said_with_the_smallest_p(signal, layers):
    one = ra.time_resolved(recording(signal), layers, device="cpu")
    with pytest.raises(ValueError, match="1 subject; .* 6 or more .* smallest is 2/2ⁿ"):
        ra.time_clusters(one)
    with pytest.raises(ValueError, match="ask for n_permutations=1000"):
        ra.time_clusters(one, over="stimuli")
    three = ra.time_resolved(recording(signal, subjects=3, noise=0.1), layers, device="cpu")
    found = ra.time_clusters(three)
    assert found.attrs["smallest_p"] == 1 / 8
    assert found["p"].values.min() == 1 / 8
    assert found["n_subjects"].values.tolist() == [3]


@pytest.mark.parametrize(
    "metric", [RSA(comparator="cosine"), CKA(debiased=False), CKA(kernel="rbf", debiased=False)]
)
def test_a_measure_above_zero_by_chance_is_not_tested_against_zero(metric, signal, layers):
    result = ra.time_resolved(recording(signal, subjects=6), layers, metric, n_permutations=19)
    with pytest.raises(ValueError, match="unrelated representations have .* values above 0"):
        ra.time_clusters(result)
    assert ra.time_clusters(result, over="stimuli")["p"].notnull().all()
    assert ra.time_clusters(result, minus="early")["p"].notnull().all()


def test_what_is_no_result_is_refused(signal, layers):
    result = ra.time_resolved(recording(signal, subjects=2), layers)
    with pytest.raises(ValueError, match="over is 'space'"):
        ra.time_clusters(result, over="space")
    with pytest.raises(ValueError, match="minus is 'middle'; expected one of two or more"):
        ra.time_clusters(result, minus="middle")
    with pytest.raises(ValueError, match="takes what repalign.time_resolved"):
        ra.time_clusters(layers["late"])


# The command line, and latencies


def test_latencies_of_planted_layers_are_found(random):
    strength = {"early": np.array([0, 1, 1, 0, 0, 0.0]), "late": np.array([0, 0, 0, 0, 1, 1.0])}
    own = {name: random.normal(size=(N, 8)) for name in strength}
    signal = np.concatenate([own[k][:, :, None] * strength[k] for k in strength], axis=1)
    nets = {name: layer(own[name], name) for name in own}
    result = ra.time_resolved(recording(signal, subjects=8, noise=0.3), nets, CKA(), device="cpu")
    table = ra.latency_table(result).set_index("layer")
    assert -30 < table.at["early", "onset_ms"] < -10
    assert 30 < table.at["late", "onset_ms"] < 50
    assert table.at["late", "onset_low"] <= table.at["late", "onset_ms"]
    assert table.at["late", "onset_high"] >= table.at["late", "onset_ms"]
    assert table.at["early", "peak_ms"] < table.at["late", "peak_ms"]
    one = ra.latency_table(ra.time_resolved(recording(signal), nets, CKA(), device="cpu"))
    assert one["onset_ms"].notna().all()
    assert one["onset_low"].isna().all()
    with pytest.raises(ValueError, match="latencies are those of repalign.time_resolved"):
        ra.latency_table(result.rename(layer="net"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; gives (exit code, stdout, stderr)."""
    import sys

    from repalign.cli import main

    def called(*arguments):
        monkeypatch.setattr(sys, "argv", ["repalign", "dynamics", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return int(stop.value.code or 0), printed.out, printed.err

    return called


def test_the_command_line_prints_clusters_and_writes_figure_and_tables(
    run, tmp_path, signal, features
):
    store = tmp_path / "meg.zarr"
    ra.save_recording(recording(signal, subjects=7, repeats=2), store)
    table = "stimulus_id," + ",".join(f"f{i}" for i in range(8)) + "\n"
    for name, row in zip(IDS, features, strict=True):
        table += f"{name}," + ",".join(map(str, row)) + "\n"
    (tmp_path / "net.csv").write_text(table)
    out = tmp_path / "out"
    code, printed, said = run(store, tmp_path / "net.csv", "--metric", "cka", "--out", out)
    assert code == 0, said
    assert "onset low" in printed
    assert "mass" in printed
    assert "smallest possible p: 0.00781" in said
    assert "nothing can be significant" not in said
    assert "too narrow" not in said
    assert sorted(path.name for path in out.iterdir()) == [
        "clusters.csv",
        "time_course.png",
        "values.csv",
    ]
    code, printed, said = run(store, "--metric", "cka", "--json", "--out", out)
    assert code == 0, said
    rows = json.loads(printed)
    assert rows[0]["p"] == pytest.approx(0.0078, abs=1e-4)
    assert {"start_ms", "stop_ms_"} <= set(rows[0])
    assert (out / "time_by_time.png").exists()
    few = tmp_path / "few.zarr"
    ra.save_recording(recording(signal, subjects=3, repeats=2), few)
    code, _, said = run(few, tmp_path / "net.csv", "--metric", "cka")
    assert code == 0, said
    assert "smallest possible p: 0.125\nnothing can be significant at 0.05" in said
    assert "--over stimuli" in said
    assert "too narrow with so few of them" in said
    code, _, said = run(store, "--by-layer")
    assert code == 1
    assert "error: --by-layer takes the layers of models for time" in said


def test_the_command_line_permutes_stimuli_of_a_lone_subject(run, tmp_path, signal):
    store = tmp_path / "one.zarr"
    ra.save_recording(recording(signal, repeats=2), store)
    code, _, said = run(store, "--permutations", 19, "--metric", "cka")
    assert code == 0, said
    assert "permutation of stimulus labels, random, greater; smallest possible p: 0.05" in said

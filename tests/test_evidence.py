"""`infer` in one call: engines, ceilings, tests, workers, storage, and what it refuses."""

from __future__ import annotations

import itertools
import json
import warnings

import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr

import repalign as ra
from repalign.inference import (
    bootstrap_draws,
    estimated_variances,
    evaluate_dual,
    evaluate_resamples,
    two_factor_variances,
)
from repalign.metrics import CKA, RSA, Ridge, rdm
from repalign.recording import make_activations, make_rdm_recording, make_recording
from repalign.recording_ceilings import noise_ceilings

N = 24
pytestmark = pytest.mark.filterwarnings("ignore::repalign.FixedStimuliWarning")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


TRUTH = normal(N, 6)
BRAINS = {f"s{i}": TRUTH + normal(N, 6, seed=10 + i) for i in range(4)}
NETS = {
    "good": TRUTH + 0.3 * normal(N, 6, seed=30),
    "fair": TRUTH + 1.5 * normal(N, 6, seed=31),
    "none": normal(N, 6, seed=32),
}
IDS = [f"image-{i}" for i in range(N)]


def recorded(values: np.ndarray, ids=IDS, **names) -> xr.Dataset:
    rows = np.concatenate(list(values)) if values.ndim == 3 else values
    repeats = len(values) if values.ndim == 3 else 1
    return make_recording(
        rows, stimulus_id=list(ids) * repeats, **{"region": "IT", "species": "human", **names}
    )


def rows_of(found: ra.Inference, name: str) -> dict:
    return found.table.set_index("name").loc[name].to_dict()


def rdms_of(populations: dict, metric: RSA) -> torch.Tensor:
    return torch.stack([metric.prepare(torch.from_numpy(one)) for one in populations.values()])


def quick(recording=BRAINS, models=NETS, metric=None, **settings) -> ra.Inference:
    return ra.infer(recording, models, metric, **{"n_resamples": 100, **settings})


# The engines that it calls


@pytest.mark.parametrize("comparator", ["spearman", "corr", "cosine", "corr_cov", "tau-a"])
@pytest.mark.parametrize("over", ["stimuli", "subjects", "both"])
def test_rsa_is_that_of_the_engine_in_the_same_resamples(over, comparator):
    metric = RSA(rdm="euclidean", comparator=comparator)
    found = quick(metric=metric, over=over, seed=3, n_permutations=20)
    models, subjects = rdms_of(NETS, metric), rdms_of(BRAINS, metric)
    draws = bootstrap_draws(N, 4, over=over, n_resamples=100, seed=3)
    if over == "both":
        dual = evaluate_dual(models, subjects, draws, comparator=comparator)
        expected, variances = dual.both, two_factor_variances(dual, draws)
    else:
        expected = evaluate_resamples(models, subjects, draws, comparator=comparator)
        variances = estimated_variances(expected, draws)
    data = found.to_xarray()
    np.testing.assert_allclose(data[f"models_over_{over}"][0], expected.models, atol=1e-12)
    np.testing.assert_allclose(data[f"lower_over_{over}"][0], expected.lower, atol=1e-12)
    np.testing.assert_allclose(data[f"upper_over_{over}"][0], expected.upper, atol=1e-12)
    np.testing.assert_allclose(data["variance"][0], variances.models, rtol=1e-9)
    values = [
        ra.compare(b, m, metric, n_resamples=0)[0].value
        for m in NETS.values()
        for b in BRAINS.values()
    ]
    means = np.reshape(values, (3, 4)).mean(1)
    np.testing.assert_allclose(found.table["value"], means, atol=1e-10)
    np.testing.assert_allclose(data["by_subject"][0].T, np.reshape(values, (3, 4)), atol=1e-10)
    assert (found.table["low"] < found.table["value"]).all()
    assert (found.table["value"] < found.table["high"]).all()


def direct_cka(x: np.ndarray, y: np.ndarray, kept: np.ndarray) -> float:
    return float(CKA()(torch.from_numpy(x[kept]), torch.from_numpy(y[kept])))


@pytest.mark.parametrize("method", ["jackknife", "subsampling"])
def test_cka_and_its_ceilings_are_those_of_each_subset(method):
    found = quick(metric=CKA(), method=method)
    data = found.to_xarray().isel(region=0)
    for row in (0, 7):
        kept = data["drawn_stimuli"][row].values > 0
        expected = [
            np.mean([direct_cka(brain, net, kept) for brain in BRAINS.values()])
            for net in NETS.values()
        ]
        np.testing.assert_allclose(data["models_over_stimuli"][row], expected, atol=1e-10)
        grams = []
        for brain in BRAINS.values():
            x = torch.from_numpy(brain[kept])
            from repalign.metrics.cka import centre_gram

            gram = centre_gram(CKA().prepare(x), debiased=True)
            grams.append((gram / gram.norm()).numpy().ravel())
        grams = np.array(grams)

        def cosine(a, b):
            return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

        upper = np.mean([cosine(g, grams.sum(0)) for g in grams])
        lower = np.mean([cosine(g, grams.sum(0) - g) for g in grams])
        assert data["upper_over_stimuli"][row].item() == pytest.approx(upper, abs=1e-10)
        assert data["lower_over_stimuli"][row].item() == pytest.approx(lower, abs=1e-10)
    assert (data["drawn_stimuli"] <= 1).all()


def test_cka_of_one_pair_has_the_interval_of_compare():
    found = quick(BRAINS["s0"], NETS["good"], CKA()).table.iloc[0]
    one = ra.compare(BRAINS["s0"], NETS["good"], CKA())[0]
    assert found["value"] == pytest.approx(one.value, abs=1e-12)
    # the jackknife's error, whose mean square is over n − 1 there and over n here
    assert [found["low"], found["high"]] == pytest.approx([one.ci_low, one.ci_high], abs=1e-9)


def test_predictivity_resamples_what_compare_does():
    brain, net = TRUTH @ normal(6, 5, seed=2) + normal(N, 5, seed=3), NETS["good"]
    found = quick(brain, net, Ridge(folds=3), interval="percentile").table.iloc[0]
    one = ra.compare(brain, net, Ridge(folds=3), n_resamples=100)[0]
    assert found["value"] == pytest.approx(one.value, abs=1e-12)
    assert [found["low"], found["high"]] == pytest.approx([one.ci_low, one.ci_high], abs=1e-12)


@pytest.mark.parametrize("n", [10, 14])
def test_folds_of_two_stimuli_are_not_resampled(n):
    """Two held-out stimuli correlate at 1 or −1 whatever is drawn: p was 1e-35 without relation."""
    brains, net = {name: brain[:n] for name, brain in BRAINS.items()}, NETS["none"][:n]
    for over in ("stimuli", "both"):
        with pytest.raises(ValueError, match=f"{n} stimuli in 5 folds are 2 in the smallest"):
            quick(brains, net, Ridge(), over=over)
    assert len(quick(brains, net, Ridge(), over="subjects").table) == 1
    assert ra.compare(brains["s0"], net, Ridge(), n_resamples=100)[0].ci_low is None
    assert ra.compare(BRAINS["s0"][:15], NETS["good"][:15], Ridge())[0].ci_low is not None


@pytest.mark.parametrize("metric", [CKA(), Ridge(folds=3)], ids=["cka", "ridge"])
def test_over_both_is_the_sum_of_both_variances_where_a_bootstrap_of_both_is_wrong(metric):
    parts = {over: quick(metric=metric, over=over) for over in ("stimuli", "subjects", "both")}
    each = [parts[over].to_xarray()["variance"].values for over in ("stimuli", "subjects")]
    np.testing.assert_allclose(parts["both"].to_xarray()["variance"], sum(each), rtol=1e-9)
    assert parts["both"].to_xarray()["degrees_of_freedom"].item() == 3


def test_other_metrics_are_inferred_over_subjects():
    found = quick(metric=ra.Procrustes(), over="subjects")
    assert found.tests.empty  # a distance: nothing is tested for chance
    assert "Procrustes" in ra.Procrustes.__name__
    pairs = found.pairs.set_index(["first", "second"])
    assert pairs.loc[("good", "none"), "difference"] < 0  # closer
    assert any("distance" in note for note in found.notes)


@pytest.mark.parametrize("fit", ["weights", "select", "interpolate"])
@pytest.mark.parametrize("over", ["stimuli", "subjects", "both"])
def test_fitted_layers_are_one_model_that_is_cross_validated(over, fit):
    both = {"net": {"a": NETS["good"], "b": NETS["none"]}, "alone": {"c": NETS["none"]}}
    metric = RSA(rdm="euclidean", comparator="corr")
    found = quick(models=both, metric=metric, fit=fit, over=over, n_folds=2)
    assert found.table["name"].tolist() == ["net", "alone"]
    assert found.table["layer"].isna().all()
    net, alone = rows_of(found, "net"), rows_of(found, "alone")
    assert net["value"] > alone["value"] + 0.1
    assert net["low"] < net["value"] < net["high"]
    assert net["ceiling_lower"] < net["ceiling_upper"]
    assert "never see" in found.claim


# Ceilings in the same resamples


def test_a_subject_with_repetitions_has_a_split_half_ceiling_in_the_same_resamples():
    trials = TRUTH + normal(6, N, 6, seed=5)
    weak = TRUTH + 4 * normal(6, N, 6, seed=5)
    metrics = [
        RSA(rdm="euclidean", comparator="corr"),
        RSA(rdm="euclidean", comparator="spearman"),
        RSA(rdm="euclidean", comparator="corr_cov"),
        CKA(),
        Ridge(folds=3),
    ]
    for metric in metrics:
        found = quick(trials, NETS, metric, n_permutations=20).table.iloc[0]
        assert found["ceiling_kind"] == "split-half"
        one = ra.compare(trials, NETS["good"], metric, n_resamples=0, null_draws=0)[0]
        assert one.ceiling_low < found["ceiling_lower"] < one.ceiling_high
        assert found["ceiling_lower_low"] < found["ceiling_lower"] < found["ceiling_lower_high"]
        assert found["ceiling_lower_high"] - found["ceiling_lower_low"] < 0.5
        noisy = quick(weak, NETS, metric, n_permutations=20).table.iloc[0]
        assert noisy["ceiling_lower"] < found["ceiling_lower"]


def test_split_halves_of_rdms_in_a_resample_are_those_of_its_stimuli():
    from repalign.evidence.split_halves import halves_of
    from repalign.metrics.pairs import square_form

    trials = torch.from_numpy(TRUTH + normal(6, N, 6, seed=5))
    metric = RSA(rdm="euclidean", comparator="corr")
    found = quick(trials.numpy(), NETS["good"], metric, n_permutations=20)
    data = found.to_xarray().isel(region=0)
    counts = data["drawn_stimuli"][4].values
    drawn = np.repeat(np.arange(N), counts)
    i, j = np.triu_indices(len(drawn), 1)
    distinct = drawn[i] != drawn[j]

    class Brain:
        repeats = trials

    expected = []
    for halves in halves_of(metric, Brain, seed=0):
        a, b, f = (
            square_form(metric.prepare(one)).numpy()[drawn[i], drawn[j]][distinct] for one in halves
        )
        a, b, f = (one - one.mean() for one in (a, b, f))
        expected.append(np.sqrt(a @ b / (f @ f)))
    assert data["lower_over_stimuli"][4].item() == pytest.approx(np.mean(expected), abs=1e-9)


# What it finds


@pytest.mark.parametrize("over", ["stimuli", "both"])
@pytest.mark.parametrize(
    "metric", [RSA(), CKA(), RSA(comparator="cosine")], ids=["rsa", "cka", "cosine"]
)
def test_planted_effects_are_found(metric, over):
    random = np.random.default_rng(1)
    truth = random.normal(size=(40, 8))
    brains = [truth + 0.7 * random.normal(size=truth.shape) for _ in range(8)]
    nets = {"good": truth, "unrelated": random.normal(size=truth.shape)}
    found = ra.infer(brains, nets, metric, over=over, n_resamples=300)
    good, unrelated = rows_of(found, "good"), rows_of(found, "unrelated")
    assert good["verdict"].startswith("above chance; related")
    assert "above chance" not in unrelated["verdict"]
    assert "below the ceiling" in unrelated["verdict"]
    assert found.pairs["verdict"].tolist() == ["good is more similar"]
    if getattr(metric, "comparator", "") == "cosine":
        assert unrelated["value"] > 0.5  # and yet not above chance
        assert unrelated["chance"] == pytest.approx(unrelated["value"], abs=0.1)


def test_chance_is_the_mean_over_all_orders_of_the_stimuli():
    small = {name: values[:6] for name, values in BRAINS.items()}
    net = NETS["good"][:6]
    for metric in (RSA(rdm="euclidean", comparator="cosine"), CKA(debiased=False), CKA()):
        found = quick(small, net, metric, n_permutations=10).table["chance"][0]
        values = [
            np.mean(
                [
                    float(metric(torch.from_numpy(brain), torch.from_numpy(net[list(order)])))
                    for brain in small.values()
                ]
            )
            for order in itertools.permutations(range(6))
        ]
        assert found == pytest.approx(np.mean(values), abs=1e-8)
    assert abs(found) < 1e-12  # the debiased one


def test_sign_flips_over_few_subjects_cannot_be_significant_and_say_so():
    found = quick(over="subjects")
    assert (found.table["test"] == "sign-flip over subjects, exact, two-sided").all()
    assert (found.table["smallest_p"] == 0.125).all()
    for verdict in [*found.table["verdict"], *found.pairs["verdict"]]:
        assert "cannot be significant" in verdict
        assert "4 subjects" in verdict
    six = [TRUTH + 0.3 * normal(N, 6, seed=70 + i) for i in range(8)]
    assert rows_of(quick(six, {"good": TRUTH}, over="subjects"), "good")["verdict"].startswith(
        "above chance"
    )


@pytest.mark.parametrize("correction", ["holm", "benjamini-hochberg", "max-t", "none"])
@pytest.mark.parametrize("over", ["stimuli", "subjects"])
def test_corrections_are_of_the_whole_family(over, correction):
    plain = quick(over=over, correction="none")
    found = quick(over=over, correction=correction)
    for name in ("table", "pairs"):
        one, other = getattr(plain, name), getattr(found, name)
        np.testing.assert_array_equal(one["p"], other["p"])
        assert (other["p_corrected"] >= one["p"] - 1e-4).all()
        if correction == "holm":
            from repalign.inference import holm

            expected = holm(torch.tensor(one["p"].tolist()))
            np.testing.assert_allclose(other["p_corrected"], expected)
    if correction != "none":
        assert (found.table["p_corrected"] > plain.table["p_corrected"]).any()


def test_intervals_of_all_kinds_hold_the_value_and_differ():
    found = {kind: quick(interval=kind).table for kind in ("t", "percentile", "bca")}
    ends = [tuple(one["low"]) for one in found.values()]
    assert len(set(ends)) == 3
    for one in found.values():
        assert (one["low"] < one["high"]).all()
        assert one["low"][0] < one["value"][0]


def test_shares_of_resamples_are_a_test_of_their_own():
    found = quick(test="resamples", n_resamples=500)
    table, tests = found.table.set_index("name"), found.tests
    least = tests[tests["hypothesis"] == "chance"]["smallest_p"]
    assert (least > 2 / 501).all()  # widened for the number of stimuli
    assert table.loc["good", "p"] == pytest.approx(least.iloc[0])
    assert table.loc["none", "p"] > 0.05


# Seeds, workers, storage


def equal(one: ra.Inference, other: ra.Inference) -> bool:
    tables = all(getattr(one, t).equals(getattr(other, t)) for t in ("table", "tests", "pairs"))
    return tables and one.to_xarray().identical(other.to_xarray())


@pytest.mark.parametrize(
    ("metric", "settings"),
    [
        (RSA(), {"over": "both"}),
        (RSA(comparator="corr_cov"), {"over": "both"}),
        (RSA(comparator="tau-a"), {"over": "stimuli", "n_permutations": 50}),
        (RSA(comparator="corr"), {"fit": "weights", "over": "both", "n_folds": 2}),
        (CKA(), {"method": "subsampling"}),
        (Ridge(folds=3), {"n_permutations": 20}),
    ],
    ids=["spearman", "whitened", "tau", "fitted", "cka", "ridge"],
)
def test_any_number_of_workers_gives_the_same_bits(metric, settings):
    models = {"net": NETS} if settings.get("fit") else NETS
    one, two, three = (
        ra.infer(BRAINS, models, metric, n_resamples=400, workers=workers, **settings)
        for workers in (1, 2, 3)
    )
    assert equal(one, two)
    assert equal(one, three)
    other = ra.infer(BRAINS, models, metric, n_resamples=400, **settings | {"seed": 1})
    assert not equal(one, other)


def test_threads_of_torch_are_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        quick()
        with pytest.raises(ValueError, match="over is"):
            quick(over="everything")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_saved_inference_is_read_back_and_can_be_computed_again(tmp_path):
    found = quick(over="both", seed=7)
    path = found.save(tmp_path / "found")
    assert sorted(p.name for p in path.iterdir()) == [
        "inference.json",
        "pairs.parquet",
        "resamples.nc",
        "table.parquet",
        "tests.parquet",
    ]
    again = ra.Inference.load(path)
    assert equal(found, again)
    assert again.claim == found.claim
    assert str(again) == str(found)
    settings = dict(again.settings)
    metric = ra.METRICS[settings.pop("metric")](**settings.pop("metric_parameters"))
    assert equal(ra.infer(BRAINS, NETS, metric, **settings), found)
    data = again.to_xarray()  # the intervals follow from what is stored
    reach = (found.table["high"] - found.table["low"]).to_numpy() / 2

    t = scipy.stats.t.ppf(0.975, data["degrees_of_freedom"].item())
    np.testing.assert_allclose(reach, t * np.sqrt(data["variance"][0]), rtol=1e-9)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        found.save(path)
    quick(seed=8).save(path, overwrite=True)
    assert not equal(ra.Inference.load(path), found)
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError):
        found.save(tmp_path / "mine", overwrite=True)  # no inference: it is not replaced
    with pytest.raises(ValueError, match="holds no inference.json"):
        ra.Inference.load(tmp_path / "mine")


def test_json_holds_no_nan():
    found = quick(BRAINS["s0"], NETS)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["table"][0]["ceiling_lower"] is None


# Matching of subjects and stimuli


def test_subjects_with_different_stimuli_are_restricted_to_the_shared_and_it_is_said():
    first = recorded(BRAINS["s0"], subject="s0")
    second = recorded(BRAINS["s1"][4:][::-1], IDS[4:][::-1], subject="s1")
    nets = {"good": recorded(NETS["good"])}
    found = quick([first, second], nets)
    assert found.table["n_stimuli"].tolist() == [20]
    assert any("different stimuli" in note and "the 20 that" in note for note in found.notes)
    kept = {"s0": BRAINS["s0"][4:], "s1": BRAINS["s1"][4:]}
    expected = quick(kept, {"good": NETS["good"][4:]})
    assert found.table["value"].tolist() == pytest.approx(expected.table["value"].tolist())
    # the same in one recording, with NaN where a subject was not shown a stimulus
    gaps = BRAINS["s1"].copy()
    gaps[:4] = np.nan
    whole = recorded(np.concatenate([BRAINS["s0"], gaps], 1), subject=["s0"] * 6 + ["s1"] * 6)
    again = quick(whole, nets)
    assert again.table["value"].tolist() == pytest.approx(found.table["value"].tolist())
    assert any("different stimuli" in note for note in again.notes)


def test_arrays_are_matched_by_row_with_recordings_that_have_ids():
    recording = recorded(
        np.concatenate([BRAINS["s0"], BRAINS["s1"]], 1), subject=["s0"] * 6 + ["s1"] * 6
    )
    expected = quick({"s0": BRAINS["s0"], "s1": BRAINS["s1"]}).table["value"]
    for subjects in ("random", "pooled"):
        found = quick(recording, NETS, subjects=subjects)
        assert any("matched by order" in note for note in found.notes)
        assert found.to_xarray()["stimulus_id"].values.tolist() == IDS
        if subjects == "random":
            assert found.table["value"].tolist() == pytest.approx(expected.tolist())
    shuffled = {"a": recorded(BRAINS["s0"]), "b": recorded(BRAINS["s1"][::-1], IDS[::-1])}
    with pytest.raises(ValueError, match="rows cannot be matched"):
        quick(shuffled, NETS)
    with pytest.raises(ValueError, match="their numbers must be equal"):
        quick(recording, {"short": NETS["good"][:20]})


def test_no_shared_stimulus_is_an_error():
    first = recorded(BRAINS["s0"], subject="s0")
    second = recorded(BRAINS["s1"], [f"other-{i}" for i in range(N)], subject="s1")
    with pytest.raises(ValueError, match="No stimulus is shared"):
        quick([first, second], recorded(NETS["good"]))


def test_pooled_neuroids_are_one_population():
    found = quick(subjects="pooled")
    whole = quick(np.concatenate(list(BRAINS.values()), 1))
    assert found.table["value"].tolist() == pytest.approx(whole.table["value"].tolist())
    assert found.table["n_subjects"].tolist() == [1, 1, 1]
    assert "pooled over subjects" in found.claim
    with pytest.raises(ValueError, match="nothing is known of new subjects"):
        quick(subjects="pooled", over="both")


def test_regions_are_rows_of_their_own_and_one_family():
    recording = recorded(
        np.concatenate([BRAINS["s0"], BRAINS["s1"], normal(N, 12, seed=4)], 1),
        subject=["s0"] * 6 + ["s1"] * 6 + ["s0"] * 6 + ["s1"] * 6,
        region=["IT"] * 12 + ["V1"] * 12,
    )
    found = quick(recording, {name: recorded(net) for name, net in NETS.items()})
    assert found.table["region"].tolist() == ["IT"] * 3 + ["V1"] * 3
    assert found.to_xarray().sizes["region"] == 2
    from repalign.inference import holm

    expected = holm(torch.tensor(found.table["p"].tolist()))
    np.testing.assert_allclose(found.table["p_corrected"], expected)


def test_missing_pairs_are_left_out_for_all_and_labels_stay():
    squares = np.zeros((3, N, N))
    upper = np.triu_indices(N, 1)
    for square, brain in zip(squares, BRAINS.values(), strict=False):
        square[upper] = rdm(torch.from_numpy(brain), method="euclidean").numpy()
        square += square.T
    squares[0, 2, 5] = squares[0, 5, 2] = np.nan
    recording = make_rdm_recording(
        squares, stimulus_id=IDS, subject=["a", "b", "c"], species="human", region="IT"
    )
    nets = {name: recorded(net) for name, net in NETS.items()}
    metric = RSA(rdm="euclidean", comparator="spearman")
    found = quick(recording, nets, metric)
    assert found.table[["value", "low", "p", "ceiling_lower"]].notna().all(axis=None)
    assert "1 of 276 pairs of stimuli are missing in a subject of human IT" in found.notes[1]
    assert "labels_p" not in found.table
    assert any("1 pairs of stimuli are missing" in note for note in found.notes)
    pairs = np.array([(i, j) != (2, 5) for i, j in zip(*upper, strict=True)])

    model = rdm(torch.from_numpy(NETS["good"]), method="euclidean").numpy()[pairs]
    expected = np.mean(
        [scipy.stats.spearmanr(square[upper][pairs], model).statistic for square in squares]
    )
    assert rows_of(found, "good")["value"] == pytest.approx(expected, abs=1e-10)
    for comparator in ("spearman", "corr", "cosine", "tau-a"):  # one rule in both calls
        metric = RSA(rdm="euclidean", comparator=comparator)
        value = rows_of(quick(recording, nets, metric, n_permutations=9), "good")["value"]
        each = ra.compare(recording, nets["good"], metric, n_resamples=100)
        assert np.mean([one.value for one in each]) == pytest.approx(value, abs=1e-12)
        assert all(one.ci_low < one.value < one.ci_high for one in each)
        assert all(one.ceiling_low < one.ceiling_high for one in each)
        assert all(abs(one.null_mean) < (1.0 if comparator == "cosine" else 0.1) for one in each)
        assert "1 of 276 pairs of stimuli are missing in a subject of human IT" in each.note
    metric = RSA(rdm="euclidean")
    without = ra.compare(recording, nets["good"], metric, n_resamples=0)[1].value
    alone = ra.compare(ra.select(recording, subject="b"), nets["good"], metric, n_resamples=0)
    assert without != alone[0].value  # b misses none, but those of a are left out of it too
    for comparator in ("corr_cov", "cosine_cov", "bures"):
        metric = RSA(rdm="euclidean", comparator=comparator)
        for refused in (
            lambda metric: quick(recording, nets, metric, over="subjects"),
            lambda metric: ra.compare(recording, nets["good"], metric),
            lambda metric: noise_ceilings(recording, metric),
        ):
            with pytest.raises(ValueError, match=f"1 pairs .* {comparator} needs all pairs"):
                refused(metric)
    measured = ra.select(recording, subject=["b", "c"])
    for refused in (
        lambda: ra.compare(measured, recording, RSA()),
        lambda: quick(measured, recording, RSA()),
    ):
        with pytest.raises(ValueError, match="misses 1 pairs .*a model must predict all pairs"):
            refused()


def test_too_few_pairs_that_all_have_are_an_error():
    squares = np.full((2, 4, 4), np.nan)
    squares[1] = 1.0 - np.eye(4)
    recording = make_rdm_recording(
        squares, stimulus_id=IDS[:4], subject=["a", "b"], species="human", region="IT"
    )
    net = recorded(NETS["good"][:4], ids=IDS[:4])
    for call in (ra.compare, quick):
        with pytest.raises(ValueError, match="0 pairs of stimuli are known in all subjects"):
            call(recording, net, RSA(rdm="euclidean"))


# Subjects against zero


@pytest.mark.filterwarnings("default::repalign.FixedStimuliWarning")
def test_subjects_against_zero_are_warned_of_once_a_call_and_it_can_be_silenced():
    for fit in ("fixed", "select"):
        layers = {"net": NETS, "alone": {"c": NETS["none"]}} if fit == "select" else NETS
        with pytest.warns(ra.FixedStimuliWarning, match="these stimuli and no others") as told:
            quick(models=layers, over="subjects", fit=fit, n_folds=2 if fit == "select" else None)
        assert len(told) == 1
        assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(over="both")
        quick(over="stimuli")
        quick(metric=ra.Procrustes(), over="subjects")  # a distance is not tested against zero
        warnings.simplefilter("ignore", ra.FixedStimuliWarning)
        quick(over="subjects")


# What it refuses


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": CKA(), "method": "bootstrap"}, "wrong for CKA.*method='jackknife' or 'subs"),
        ({"metric": Ridge(), "method": "bootstrap"}, "training and a test set.*'heldout'"),
        ({"metric": RSA(), "method": "heldout"}, "does not suit rsa"),
        ({"metric": Ridge(score="r2")}, "score='pearson'"),
        ({"metric": ra.Procrustes()}, "no resampling of stimuli.*over='subjects'"),
        ({"metric": CKA(kernel="rbf")}, "no resampling of stimuli"),
        ({"over": "both", "interval": "percentile"}, "two-factor correction"),
        ({"over": "both", "interval": "bca"}, "two-factor correction"),
        ({"over": "both", "method": "jackknife"}, "made for a bootstrap"),
        ({"over": "subjects", "method": "jackknife"}, "resamples subjects, by a bootstrap"),
        ({"method": "jackknife", "interval": "percentile"}, "its variance is scaled"),
        ({"test": "sign-flip"}, "needs over='subjects'"),
        ({"over": "both", "test": "resamples"}, "no p value"),
        ({"metric": Ridge(), "test": "resamples"}, "training sets overlap"),
        ({"test": "resamples", "correction": "max-t"}, "joint null"),
        ({"fit": "weights", "metric": CKA()}, "needs RSA"),
        ({"fit": "weights"}, "needs a model with 2 or more layers"),
        ({"n_resamples": 10}, "expected 100 or more"),
        ({"confidence": 95}, "share between 0 and 1"),
        ({"workers": 0}, "expected 1 or more"),
        ({"subjects": "fixed"}, "expected one of random, pooled"),
        ({"over": "trials"}, "expected one of stimuli, subjects, both"),
        ({"correction": "bonferroni"}, "expected one of holm"),
        ({"recording": BRAINS["s0"], "over": "subjects"}, "1 subject .*2 or more"),
        ({"recording": BRAINS["s0"], "over": "both"}, "1 subject .*2 or more"),
        ({"recording": [], "over": "both"}, "no recording"),
        ({"models": {}}, "no model"),
    ],
)
def test_errors_say_what_is_wrong_and_why(settings, message):
    with pytest.raises(ValueError, match=message):
        quick(**settings)


def test_too_few_stimuli_to_resample_are_an_error():
    brains = {name: values[:3] for name, values in BRAINS.items()}
    with pytest.raises(ValueError, match="There are 3 stimuli; to resample them needs 4"):
        quick(brains, {"good": NETS["good"][:3]}, RSA(rdm="euclidean"))
    layers = {"net": {name: net[:8] for name, net in NETS.items()}}
    eight = {name: values[:8] for name, values in BRAINS.items()}
    with pytest.raises(ValueError, match="There are 8 stimuli; 3 folds of 3"):
        quick(eight, layers, RSA(rdm="euclidean", comparator="corr"), fit="weights", n_folds=3)


def test_keys_name_the_models_of_recorded_layers():
    random = np.random.default_rng(0)
    ids = [f"s{i}" for i in range(20)]
    brain = ra.make_recording(random.normal(size=(20, 5)), stimulus_id=ids, region="IT")
    layers = {
        name: make_activations(random.normal(size=(20, 4)), ids, "net", name, (4,)) for name in "ab"
    }
    found = ra.infer(brain, {"first": layers, "second": {"a": layers["a"]}}, n_resamples=100)
    assert found.table["name"].tolist() == ["first a", "first b", "second a"]
    assert ra.infer(brain, layers, n_resamples=100).table["model"].tolist() == ["net", "net"]


def test_metrics_may_be_named():
    assert quick(metric="cka").settings["metric"] == "cka"
    x, y = normal(20, 5), normal(20, 6, seed=1)
    named = ra.compare(x, y, "rsa:comparator=corr", n_resamples=0, null_draws=0)[0].value
    assert named == ra.compare(x, y, RSA(comparator="corr"), n_resamples=0, null_draws=0)[0].value
    with pytest.raises(ValueError, match="no metric 'rsaa'.*did you mean rsa"):
        quick(metric="rsaa")
    with pytest.raises(TypeError, match="expected a metric such as repalign"):
        ra.compare(x, y, RSA)


def test_a_test_without_a_smallest_p_is_said_where_flips_would_have_one():
    layers = {"net": {"good": NETS["good"], "none": NETS["none"]}}
    found = quick(models=layers, over="subjects", fit="select", n_folds=2)
    assert any("flips of their signs could give no p below 2/2^" in one for one in found.notes)
    assert "no smallest p" in found.summary()


def test_few_pairs_are_all_printed_and_of_many_the_nearest_where_none_differs():
    nets = {name: normal(N, 6, seed=40 + i) for i, name in enumerate("uvwxyz")}
    three = quick(models={name: nets[name] for name in "xyz"}).summary()
    assert "0 of 3 pairs of models differ" in three
    assert all(pair in three for pair in ("x − y: ", "x − z: ", "y − z: "))
    assert "nearest to it: " not in three
    many = quick(models=nets).summary()
    assert "0 of 15 pairs of models differ" in many
    assert many.count("nearest to it: ") == 1
    assert many.count(" − ") < 15


def test_a_constant_rdm_is_an_error_that_names_the_model():
    flat = np.eye(N)  # all stimuli equidistant
    with pytest.raises(ValueError, match="The value of 'flat'.*constant"):
        quick(models={"good": NETS["good"], "flat": flat}, metric=RSA(rdm="euclidean"))

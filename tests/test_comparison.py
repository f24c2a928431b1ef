"""compare: stimuli by id, one result a target, the same numbers as the references."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

import repalign as ra
from repalign.ceiling import nili_ceiling
from repalign.comparison import compare
from repalign.metrics import Ridge
from repalign.recording import make_activations, make_rdm_recording, make_recording

FIELDS = [
    *("dataset", "species", "region", "subject", "model", "layer", "metric", "metric_parameters"),
    *("is_distance", "value", "null_mean", "null_sd", "ceiling_kind", "ceiling_low"),
    *("ceiling_high", "ceiling_error", "ci_low", "ci_high", "p"),
    *("n_stimuli", "n_neuroids", "seed", "version"),
]
METRICS = [ra.RSA(), ra.RSA(rdm="euclidean", comparator="cosine"), ra.CKA(), ra.Ridge(folds=3)]


def activations(values: np.ndarray, ids: list[str], layer: str = "layer1") -> xr.Dataset:
    return xr.Dataset(
        {"response": (("presentation", "neuroid"), values)},
        coords={
            "stimulus_id": ("presentation", np.array(ids, dtype=object)),
            "repetition": ("presentation", np.zeros(len(ids), dtype=int)),
        },
        attrs={"kind": "activations", "model": "net", "layer": layer},
    )


@pytest.fixture
def ids() -> list[str]:
    return [f"s{i}" for i in range(24)]


@pytest.fixture
def brain(random: np.random.Generator, ids: list[str]) -> xr.Dataset:
    """Two regions; two repetitions of every stimulus, in mixed order."""
    signal = random.normal(size=(24, 10))
    shown = np.concatenate([random.permutation(24), random.permutation(24)])
    return make_recording(
        signal[shown] + 0.3 * random.normal(size=(48, 10)),
        stimulus_id=[ids[i] for i in shown],
        region=["V4"] * 4 + ["IT"] * 6,
        species="macaque",
        attrs={"dataset": "lab"},
    )


@pytest.fixture
def net(random: np.random.Generator, brain: xr.Dataset, ids: list[str]) -> xr.Dataset:
    means = ra.average_repeats(brain)
    order = [means["stimulus_id"].values.tolist().index(i) for i in ids]
    mixed = means["response"].values[order] @ random.normal(size=(10, 30))
    return activations(mixed + random.normal(size=(24, 30)), ids)


def test_a_row_has_exactly_the_promised_fields(brain: xr.Dataset, net: xr.Dataset) -> None:
    results = compare(brain, net)
    assert [(r.species, r.region) for r in results] == [("macaque", "V4"), ("macaque", "IT")]
    row = results[1].row()
    assert list(row) == FIELDS
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert (row["dataset"], row["model"], row["layer"]) == ("lab", "net", "layer1")
    assert (row["n_stimuli"], row["n_neuroids"], row["p"]) == (24, 6, None)
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert row["ceiling_kind"] == "split-half"
    assert list(results.to_pandas().columns) == FIELDS
    assert "24 stimuli matched by id" in str(results)


@pytest.mark.parametrize("metric", METRICS)
def test_row_order_does_not_matter(
    random: np.random.Generator, brain: xr.Dataset, net: xr.Dataset, metric: ra.RSA
) -> None:
    values = [r.value for r in compare(brain, net, metric, n_resamples=0)]
    if isinstance(metric, ra.Ridge):  # its folds follow the order of the recording
        shuffled = brain
    else:
        shuffled = brain.isel(presentation=random.permutation(48))
    other = net.isel(presentation=random.permutation(24))
    again = [r.value for r in compare(shuffled, other, metric, n_resamples=0)]
    np.testing.assert_allclose(again, values, rtol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_recording_and_plain_arrays_agree(
    brain: xr.Dataset, net: xr.Dataset, ids: list[str], metric: ra.RSA
) -> None:
    """The Ridge folds follow the row order, so the arrays take the recording's."""
    means = ra.average_repeats(ra.select(brain, region="IT"))
    order = [ids.index(name) for name in means["stimulus_id"].values]
    x, y = means["response"].values, net["response"].values[order]
    expected = compare(ra.select(brain, region="IT"), net, metric, n_resamples=0)[0].value
    for first, second in ((x, y), (torch.from_numpy(x), torch.from_numpy(y))):
        results = compare(first, second, metric, n_resamples=0)
        assert results[0].value == pytest.approx(expected, rel=1e-9)
        told = "24 rows matched by order, since one side has no stimulus ids; no noise ceiling"
        assert results.note.startswith(told)


def test_only_shared_stimuli_count_and_their_number_is_told(
    brain: xr.Dataset, net: xr.Dataset
) -> None:
    part = net.isel(presentation=slice(3, 15))
    results = compare(brain, part, n_resamples=0)
    assert results[0].n_stimuli == 12
    assert results.note == "12 stimuli matched by id, of 24 and 12"
    alone = compare(ra.select(brain, stimulus_id=part["stimulus_id"].values), part, n_resamples=0)
    assert [r.value for r in alone] == [r.value for r in results]


def test_no_shared_stimuli_shows_what_ids_look_like(brain: xr.Dataset, net: xr.Dataset) -> None:
    names = np.array([f"image{i}" for i in range(24)], dtype=object)
    other = net.assign_coords(stimulus_id=("presentation", names))
    with pytest.raises(ValueError, match="no shared stimuli: .* such as 's.*', .* 'image0'"):
        compare(brain, other)


def test_equal_ids_must_stand_for_equal_images(brain: xr.Dataset, net: xr.Dataset) -> None:
    def with_images(ds: xr.Dataset, prefix: str) -> xr.Dataset:
        hashes = np.array([f"{prefix}{name}" for name in ds["stimulus_id"].values], dtype=object)
        return ds.assign_coords(image_sha256=("presentation", hashes))

    same = compare(with_images(brain, "x"), with_images(net, "x"), n_resamples=0)
    assert same[0].n_stimuli == 24
    with pytest.raises(ValueError, match="24 of 24 shared stimulus ids .* different images"):
        compare(with_images(brain, "x"), with_images(net, "y"))


def test_rows_without_ids_must_be_as_many(brain: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="24 stimuli in lab, 5 in second"):
        compare(brain, np.ones((5, 3)))
    with pytest.raises(ValueError, match="4 stimuli in first, 5 in second"):
        compare(np.ones((4, 3)), np.ones((5, 3)))
    with pytest.raises(TypeError, match="first is a list"):
        compare([[1.0]], np.ones((5, 3)))  # type: ignore[arg-type]


def test_nan_in_an_array_is_named(random: np.random.Generator) -> None:
    x = random.normal(size=(8, 3))
    x[5, 1] = np.nan
    with pytest.raises(ValueError, match=r"first has NaN or infinite values in 1 rows \(first 5\)"):
        compare(x, random.normal(size=(8, 3)))


@pytest.mark.parametrize("metric", [ra.CKA(), ra.RSA(rdm="euclidean"), ra.Ridge()])
@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_nan_in_a_recording_or_layer_is_named_whatever_the_metric(
    brain: xr.Dataset, net: xr.Dataset, ids: list[str], metric: ra.metrics.Metric, hole: float
) -> None:
    def broken(ds: xr.Dataset) -> xr.Dataset:
        values = ds["response"].values.copy()
        values[ds["stimulus_id"].values == ids[2], 1] = hole
        return ds.assign(response=(ds["response"].dims, values))

    for pair in ((broken(brain), net), (brain, broken(net))):
        with pytest.raises(ValueError, match=rf"in 1 of .* {ids[2]!r}\) and 1 of \d+ neuroids"):
            compare(*pair, metric, n_resamples=0)


@pytest.mark.parametrize("seed", [None, 1.5, -1, "a"])
def test_a_seed_is_a_whole_number_of_any_kind(
    brain: xr.Dataset, net: xr.Dataset, seed: object
) -> None:
    one = compare(brain, net, ra.RSA(), n_resamples=20, seed=np.int64(3))
    assert json.loads(json.dumps(one[0].row()))["seed"] == 3
    assert one[0].ci_low == compare(brain, net, ra.RSA(), n_resamples=20, seed=3)[0].ci_low
    with pytest.raises(ValueError, match="expected a whole number, 0 or more"):
        compare(brain, net, ra.RSA(), seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_resamples": 1}, "an interval needs 2 or more"),
        ({"n_resamples": -1}, "n_resamples is -1, expected 0 or more"),
        ({"null_draws": -1}, "null_draws is -1; expected a whole number, 0 or more"),
    ],
)
def test_too_few_draws_are_refused(
    brain: xr.Dataset, net: xr.Dataset, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(brain, net, ra.RSA(), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", [ra.CKA(), ra.RSA(), ra.Ridge(), ra.Procrustes()])
def test_the_unit_of_responses_does_not_matter_or_is_refused(
    random: np.random.Generator, metric: ra.metrics.Metric
) -> None:
    x, y = random.normal(size=(2, 24, 10))
    value = compare(x, y, metric, n_resamples=0)[0].value
    for scale in (1e12, 1e-12, 1e50, 1e-50):
        scaled = compare(x * scale, y, metric, n_resamples=0)[0].value
        assert scaled == pytest.approx(value, rel=1e-9)
    for scale in (1e70, 1e200, 1e-70, 1e-200):
        with pytest.raises(ValueError, match="out of the range of float64. Use another unit"):
            compare(x * scale, y, metric, n_resamples=0)


@pytest.mark.parametrize("dimension", ["presentation", "neuroid"])
def test_empty_populations_are_refused(brain: xr.Dataset, net: xr.Dataset, dimension: str) -> None:
    empty, nothing = brain.isel({dimension: []}), net.isel({dimension: []})
    for call in (
        lambda: compare(empty, net, ra.CKA()),
        lambda: compare(brain, nothing, ra.RSA()),
        lambda: compare(brain, {"layer1": nothing}, ra.RSA()),
        lambda: ra.infer(empty, net),
        lambda: ra.infer(brain, {"net": {"layer1": nothing}}),
        lambda: ra.map_layers(empty, {"layer1": net}),
        lambda: ra.map_layers(brain, {"layer1": nothing}),
    ):
        with pytest.raises(ValueError, match=f"is empty: it has no {dimension}"):
            call()
    shape = (0, 4) if dimension == "presentation" else (4, 0)
    with pytest.raises(ValueError, match=r"first is empty: an array of shape \("):
        compare(np.zeros(shape), np.zeros((4, 3)), ra.CKA())


def test_missing_repetitions_of_an_array_are_nan_in_all_neuroids(
    random: np.random.Generator,
) -> None:
    x = random.normal(size=(3, 8, 4))
    x[2, 5] = np.nan
    assert math.isfinite(compare(x, x[0], n_resamples=0)[0].value)
    x[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"in 1 rows \(first 2\)"):
        compare(x, x[0])
    x[:, 1] = np.nan
    with pytest.raises(ValueError, match=r"in 2 rows \(first 1\)"):
        compare(x, random.normal(size=(8, 3)))


def test_constant_pattern_names_the_stimulus(brain: xr.Dataset, net: xr.Dataset) -> None:
    net["response"][3] = 1.0
    with pytest.raises(ValueError, match="net layer1: the responses to 1 stimuli .'s3'. are"):
        compare(brain, net)
    assert math.isfinite(compare(brain, net, ra.RSA(rdm="euclidean"))[0].value)


def test_ridge_predicts_the_first_from_the_second(random: np.random.Generator) -> None:
    """One dimension of a rich code can be read from it, the code cannot from one dimension."""
    rich = random.normal(size=(60, 4))
    poor = rich[:, :1]
    forward = compare(poor, rich, ra.Ridge())[0].value
    backward = compare(rich, poor, ra.Ridge())[0].value
    assert forward > 0.95
    assert backward < 0.7


def test_repetitions_of_an_array_give_a_ceiling(random: np.random.Generator) -> None:
    truth = random.normal(size=(40, 30))
    repeats = truth + random.normal(size=(6, 40, 30))
    result = compare(repeats, truth, ra.CKA())[0]
    assert result.ceiling_kind == "split-half"
    assert result.value == pytest.approx(result.ceiling_high, abs=0.03)  # the truth reaches it


def test_ceiling_choices(brain: xr.Dataset, net: xr.Dataset) -> None:
    assert compare(brain, net, ceiling=False)[0].ceiling_kind is None
    assert compare(brain, net, ceiling=True)[0].ceiling_kind == "split-half"
    with pytest.raises(ValueError, match="2 or more individual subjects"):
        compare(brain, net, ceiling="nili")
    with pytest.raises(ValueError, match="cka has none"):
        compare(brain, net, ra.CKA(), ceiling="nili")
    with pytest.raises(ValueError, match="needs 2 or more repetitions"):
        compare(ra.average_repeats(brain), net, ceiling="split-half")
    with pytest.raises(ValueError, match="expected auto, split-half, nili, none"):
        compare(brain, net, ceiling="top")  # type: ignore[arg-type]


def test_auto_ceiling_needs_enough_repeated_stimuli(brain: xr.Dataset, net: xr.Dataset) -> None:
    """Three repeated stimuli are too few to split; that is no reason to fail."""
    first = ~brain["stimulus_id"].to_series().duplicated().values
    keep = first | np.isin(brain["stimulus_id"].values, ["s0", "s1", "s2"])
    few = brain.isel(presentation=keep)
    assert compare(few, net, n_resamples=0)[0].ceiling_kind is None
    with pytest.raises(ValueError, match="3 of 24 stimuli have 2 or more repetitions"):
        compare(few, net, ceiling="split-half")


@pytest.fixture
def published(random: np.random.Generator, ids: list[str]) -> xr.Dataset:
    """Three subjects, the first in two sessions, and a group RDM."""
    points = random.normal(size=(5, 24, 6)) + 2 * random.normal(size=(24, 6))
    square = ((points[:, :, None] - points[:, None]) ** 2).sum(-1)
    return make_rdm_recording(
        square,
        stimulus_id=ids,
        subject=["A", "A", "B", "C", "group"],
        session=["1", "2", "1", "1", "all"],
        species="human",
        region="IT",
        attrs={"dataset": "published"},
    )


def test_published_rdms_average_sessions_and_bound_by_subjects(
    published: xr.Dataset, net: xr.Dataset
) -> None:
    results = compare(published, net, n_resamples=0)
    assert [r.subject for r in results] == ["A", "B", "C", "group"]
    upper = np.triu_indices(24, 1)
    rdms = published["rdm"].values[:, upper[0], upper[1]]
    rdms = np.stack([rdms[:2].mean(0), rdms[2], rdms[3]])
    model = pdist(net["response"].values, "correlation")
    for result, rdm in zip(results, rdms, strict=False):
        assert result.value == pytest.approx(spearmanr(rdm, model).statistic, abs=1e-10)
    low, high = nili_ceiling(torch.from_numpy(rdms))
    np.testing.assert_allclose([r.ceiling_low for r in results[:3]], low)
    np.testing.assert_allclose([r.ceiling_high for r in results[:3]], high)
    assert results[3].ceiling_kind is None
    assert results[3].n_neuroids is None
    asked = compare(published, net, n_resamples=0, ceiling="nili")
    assert [r.ceiling_kind for r in asked] == ["nili", "nili", "nili", None]
    with pytest.raises(ValueError, match="2 or more individual subjects"):
        compare(ra.select(published, subject="group"), net, ceiling="nili")


@pytest.mark.parametrize("metric", [ra.CKA(), ra.Ridge()])
def test_published_rdms_refuse_metrics_that_need_responses(
    published: xr.Dataset, net: xr.Dataset, metric: ra.CKA
) -> None:
    with pytest.raises(ValueError, match="holds published RDMs only; .* use metric rsa"):
        compare(published, net, metric)


def test_layers_brains_and_models_use_the_same_function(
    brain: xr.Dataset, net: xr.Dataset, published: xr.Dataset, ids: list[str]
) -> None:
    deeper = activations(np.tanh(net["response"].values), ids, "layer2")
    layers = compare(brain, {"layer1": net, "layer2": deeper}, n_resamples=0)
    assert [r.layer for r in layers] == ["layer1", "layer2"] * 2
    with pytest.warns(ra.ReusedDataWarning, match="is the best of 2 layers of net"):
        assert layers.best().value == max(r.value for r in layers)
    between_models = compare(net, deeper, ra.CKA(), n_resamples=0)[0]
    assert (between_models.species, between_models.region) == ("network", "layer1")
    between_brains = compare(published, brain, n_resamples=0)
    assert len(between_brains) == 4 * 2
    assert between_brains[1].model == "lab"
    assert between_brains[1].layer == "macaque IT subject-1"
    itself = compare(published, published, n_resamples=0)
    assert itself[0].value == pytest.approx(1.0)


def test_a_metric_of_the_users_own_needs_no_registration(
    brain: xr.Dataset, net: xr.Dataset
) -> None:
    class MeanDifference:
        name = "mean-difference"
        symmetric = True
        needs_responses = True
        needs_repeats = False
        minimum_stimuli = 2
        higher_is_more_similar = True

        def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.mean() - y.mean()

    result = compare(brain, net, MeanDifference(), ceiling=False)[0]  # type: ignore[arg-type]
    expected = net["response"].values.mean() - brain["response"].values[:, :4].mean()
    assert result.value == pytest.approx(expected)
    assert result.metric == "mean-difference"
    assert result.ci_low is None


def test_seed_makes_intervals_and_ceilings_repeatable(brain: xr.Dataset, net: xr.Dataset) -> None:
    first, again = compare(brain, net, seed=3), compare(brain, net, seed=3)
    assert first.rows() == again.rows()
    assert compare(brain, net, seed=4)[0].ci_low != first[0].ci_low


def test_values_on_the_92_images_equal_rsatoolbox(data_folder: Path) -> None:
    """Every RSA value of the trained network, its twin and pixels, to 1e-6."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import rsatoolbox

    recording = ra.ingest("kriegeskorte2008", mirror=data_folder)
    upper = np.triu_indices(92, 1)
    best: dict[tuple[str, str], dict[str, float]] = {}
    for model, layers in (
        ("efficientnet_lite0", ["blocks.2", "blocks.5"]),
        ("efficientnet_lite0@random", ["blocks.2", "blocks.5"]),
        ("pixels", ["pixels"]),
    ):
        found = ra.record(model, stimuli=recording, layers=layers, progress=False)
        results = ra.compare(recording, found, n_resamples=0)
        for result in results:
            chosen = recording["subject"].values == result.subject
            chosen &= recording["species"].values == result.species
            brain = recording["rdm"].values[chosen].mean(0)[upper][None]
            assert result.layer is not None
            values = found[result.layer]["response"].values.astype(np.float64)
            reference = rsatoolbox.rdm.compare(
                rsatoolbox.rdm.RDMs(brain),
                rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(values), method="correlation"),
                method="spearman",
            )
            assert result.value == pytest.approx(float(reference.item()), abs=1e-6)
            if result.subject == "group":
                key = (str(result.species), model)
                best.setdefault(key, {})[result.layer] = result.value
    for species, expected in (("macaque", 0.45), ("human", 0.39)):
        trained = best[species, "efficientnet_lite0"]["blocks.5"]
        assert trained == pytest.approx(expected, abs=0.01)
        assert trained > max(best[species, "efficientnet_lite0@random"].values()) + 0.1
        assert trained > best[species, "pixels"]["pixels"] + 0.1


def sklearn_predictivity(features: np.ndarray, recording: xr.Dataset) -> float:
    """Median over neurons of the mean over folds, by RidgeCV on the features' full kernel space."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold

    x = features.astype(np.float64)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)  # same kernel, fewer columns
    x = u * s / np.sqrt((s**2).mean())
    y = recording["response"].values
    scores = []
    for train, test in KFold(5, shuffle=True, random_state=1).split(x):
        model = RidgeCV(np.logspace(-5, 5, 21), alpha_per_target=True).fit(x[train], y[train])
        predicted = model.predict(x[test])
        scores.append(
            [np.corrcoef(p, t)[0, 1] for p, t in zip(predicted.T, y[test].T, strict=True)]
        )
    return float(np.median(np.mean(scores, axis=0)))


def test_v4_is_predicted_from_block_5(data_folder: Path) -> None:
    recording = ra.ingest("cowley2023_v4_210305", mirror=data_folder)
    found = ra.record("efficientnet_lite0", stimuli=recording, layers="blocks.5", progress=False)
    result = ra.compare(recording, found, ra.Ridge(), n_resamples=0)[0]
    reference = sklearn_predictivity(found["blocks.5"]["response"].values, recording)
    assert result.value == pytest.approx(reference, abs=0.02)
    assert result.ceiling_kind is None
    assert (result.n_stimuli, result.n_neuroids) == (400, 70)


def test_undefined_values_are_none_and_so_are_their_nulls() -> None:
    flat, other = np.ones((20, 5)), np.random.default_rng(0).normal(size=(20, 6))
    for metric in (ra.CKA(), ra.Procrustes(), ra.METRICS["cca"]()):
        row = compare(flat, other, metric)[0].row()
        assert (row["value"], row["null_mean"], row["null_sd"]) == (None, None, None)


def test_the_null_is_what_shuffled_stimuli_score() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(20, 5)), random.normal(size=(20, 300))
    biased = compare(x, y, ra.CKA(debiased=False))[0]
    assert biased.null_mean is not None
    assert biased.null_mean > 0.3
    assert abs(biased.value - biased.null_mean) < 5 * biased.null_sd
    assert compare(x, y, ra.CKA(), null_draws=0)[0].null_mean is None
    assert abs(compare(x, y, ra.CKA())[0].null_mean) < 0.1


def test_a_missing_ceiling_has_its_own_reason() -> None:
    trials = np.random.default_rng(0).normal(size=(4, 20, 6))
    found = compare(trials, trials[0], ra.RSA(rdm="crossnobis", model_rdm="euclidean"))
    assert "no noise ceiling: none is known for rsa as it is set" in found.note
    assert "it needs 4 or more stimuli" in compare(trials[0], trials[1], ra.RSA()).note


def test_the_null_of_square_responses_shuffles_stimuli_only() -> None:
    x = np.random.default_rng(0).normal(size=(20, 20))

    class Order:
        name, symmetric, needs_responses, needs_repeats = "order", True, True, False
        minimum_stimuli, higher_is_more_similar = 2, True

        def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return torch.corrcoef(torch.stack([a.mean(0), b.mean(0)]))[0, 1]

    found = compare(x, x, Order(), ceiling=False)[0]  # type: ignore[arg-type]
    assert found.null_mean == pytest.approx(1)


@pytest.mark.parametrize("name", ["ridge", "single-unit", "banded-ridge"])
def test_the_null_of_neuroids_fitted_alone_is_that_of_one_shuffle_at_a_time(name: str) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 6)), random.normal(size=(40, 9))
    metric = ra.METRICS[name](folds=4)
    found = compare(x, y, metric, n_resamples=0, seed=3)[0]
    draw = torch.Generator().manual_seed(3)
    values = [float(metric(y, x[torch.randperm(40, generator=draw).numpy()])) for _ in range(20)]
    assert found.null_mean == pytest.approx(np.mean(values))
    assert found.null_sd == pytest.approx(np.std(values, ddof=1))


def test_features_without_ids_stand_beside_layers_that_have_them(
    brain: xr.Dataset, net: xr.Dataset
) -> None:
    """Rows match the recording's stimuli in their order, and the note says which are meant."""
    it = ra.select(brain, region="IT")
    order = ra.average_repeats(it)["stimulus_id"].values.tolist()
    rows = [net["stimulus_id"].values.tolist().index(name) for name in order]
    unnamed = net.isel(presentation=rows).drop_vars(["stimulus_id", "repetition"])
    unnamed = unnamed.assign_attrs(layer="unnamed")
    both = compare(it, {"named": net, "unnamed": unnamed}, n_resamples=0)
    assert both[0].value == pytest.approx(both[1].value, abs=1e-12)
    assert f"row 1 is taken for {order[0]!r}, row 24 for {order[-1]!r}" in both.note
    with pytest.raises(ValueError, match="different stimuli.*one at a time"):
        compare(it, {"part": net.isel(presentation=slice(3)), "unnamed": unnamed})


def wandering(random: np.random.Generator, episodes: int, units: int) -> np.ndarray:
    """Slow noise that begins anew in each episode of 60 steps."""
    steps = random.normal(size=(episodes, 60, units))
    for step in range(1, 60):
        steps[:, step] += 0.97 * steps[:, step - 1]
    return steps.reshape(-1, units)


def test_folds_of_whole_episodes_find_nothing_in_unrelated_slow_noise(random) -> None:
    """Folds at random do: neighbouring steps are alike, whatever the predictor."""
    episode = np.repeat(np.arange(20), 60)
    ids = [f"step-{i}" for i in range(len(episode))]
    brain = make_recording(wandering(random, 20, 6), stimulus_id=ids, region="striatum")
    agent = make_activations(wandering(random, 20, 30), ids, "agent", "hidden", (30,))
    at_random = compare(brain, agent, Ridge(), n_resamples=0)[0].value
    played = agent.assign_coords(episode=("presentation", episode))
    by_episode = compare(brain, played, Ridge())
    assert at_random > 0.2
    assert abs(by_episode[0].value) < 0.1
    assert by_episode[0].ci_low is None
    assert "folds keep each episode together; no intervals" in by_episode.note
    named = compare(
        brain.assign_coords(run=("presentation", episode)), agent, Ridge(), groups="run"
    )
    assert named[0].value == by_episode[0].value


def test_groups_that_cannot_be_are_errors(random) -> None:
    ids = [f"s{i}" for i in range(20)]
    brain = make_recording(random.normal(size=(20, 4)), stimulus_id=ids, region="IT")
    with pytest.raises(ValueError, match="no coordinate 'run' of presentations; there are"):
        compare(brain, brain, Ridge(), groups="run")
    few = brain.assign_coords(run=("presentation", [i % 3 for i in range(20)]))
    with pytest.raises(ValueError, match="3 groups for 5 folds"):
        compare(few, brain, Ridge(), groups="run")
    with pytest.raises(ValueError, match="not independent"):
        compare(few, brain, Ridge(folds=3), groups="run", n_resamples=10)
    twice = make_recording(random.normal(size=(20, 4)), stimulus_id=ids[:10] * 2, region="IT")
    twice = twice.assign_coords(run=("presentation", np.arange(20)))
    with pytest.raises(ValueError, match="stimulus 's0' has run '0' and '10'"):
        compare(twice, brain, Ridge(), groups="run")

import dataclasses
import doctest

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch

from repalign.metrics import (
    COMPARATORS,
    METRICS,
    RDM_METHODS,
    RSA,
    InnerProductMetric,
    Metric,
    average_ranks,
    dissimilarities,
    distances,
    gram,
    movies,
    rdm,
    rdms,
)
from repalign.metrics.movies import rdm_movie
from repalign.metrics.pairs import condensed, square_form

BARE = sorted(name for name, kind in RDM_METHODS.items() if not kind.cross_validated)
EVERY_RSA = [RSA(rdm=name, comparator="corr") for name in sorted(RDM_METHODS)] + [
    RSA(rdm="euclidean", comparator=name) for name in sorted({c.name for c in COMPARATORS.values()})
]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rotation(p: int) -> torch.Tensor:
    return torch.linalg.qr(normal(p, p, seed=9)).Q


def covariance(p: int) -> torch.Tensor:
    return torch.cov(normal(p, 3 * p, seed=8))


def responses_for(method: str, n: int, p: int, *, seed: int = 0) -> torch.Tensor:
    """Patterns, or repetitions of them where they are needed; positive for Poisson rates."""
    x = normal(n, p, seed=seed)
    if RDM_METHODS[method].cross_validated:
        x = x + 0.3 * normal(3, n, p, seed=seed + 50)
    return x.exp() if "poisson" in method else x


@pytest.mark.parametrize("module", [rdms, gram, distances, dissimilarities, movies])
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0


def test_euclidean_equals_scipy_squared_distance_over_neuroids():
    x = normal(12, 7)
    expected = scipy.spatial.distance.pdist(x.numpy(), "sqeuclidean") / 7
    np.testing.assert_allclose(rdm(x, method="euclidean"), expected, rtol=1e-12)


def test_correlation_equals_scipy():
    x = normal(12, 7) + 3
    expected = scipy.spatial.distance.pdist(x.numpy(), "correlation")
    np.testing.assert_allclose(rdm(x), expected, rtol=1e-12)


def test_rdm_is_float64_and_in_row_order():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [7.0, 0.0]])
    found = rdm(x, method="euclidean")
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, np.array([1, 9, 49, 4, 36, 16]) / 2, rtol=1e-12)


def test_float32_with_an_offset_keeps_its_distances():
    small = torch.randn(20, 30, generator=torch.Generator().manual_seed(1))
    x = small + 1e4
    expected = scipy.spatial.distance.pdist(x.double().numpy(), "sqeuclidean") / 30
    np.testing.assert_allclose(rdm(x, method="euclidean"), expected, rtol=1e-9)
    expected = scipy.spatial.distance.pdist(x.double().numpy(), "correlation")
    np.testing.assert_allclose(rdm(x), expected, rtol=1e-9)


def direct(method: str, x: torch.Tensor, y: torch.Tensor) -> float:
    """The definition for two patterns, from their difference."""
    p = len(x)
    match method:
        case "correlation":
            x, y = (v - v.mean() for v in (x, y))
            return float((x / x.norm() - y / y.norm()).square().sum() / 2)
        case "cosine":
            return float((x / x.norm() - y / y.norm()).square().sum() / 2)
        case "mahalanobis":
            return float((x - y) @ covariance(p) @ (x - y) / p)
        case "poisson":
            x, y = ((v + 0.1) / 1.1 for v in (x, y))
            return float((x - y) @ torch.log(x / y) / p)
    return float((x - y).square().sum() / p)


def measured(method: str, x: torch.Tensor, **options: object) -> torch.Tensor:
    noise = {"noise": covariance(x.shape[-1])} if method == "mahalanobis" else {}
    return rdm(x, method=method, **noise, **options)


@pytest.mark.parametrize("method", BARE)
def test_each_method_is_its_definition(method):
    x = responses_for(method, 7, 5)
    expected = [direct(method, x[i], x[j]) for i in range(7) for j in range(i + 1, 7)]
    np.testing.assert_allclose(measured(method, x), expected, rtol=1e-11)


@pytest.mark.parametrize("method", BARE)
def test_nearly_equal_patterns_keep_their_distance(method):
    x = responses_for(method, 6, 50)
    x[1] = x[0] + 1e-9 * normal(50, seed=3)
    x[2] = x[0]
    found = measured(method, x)
    assert found[0].item() == pytest.approx(direct(method, x[0], x[1]), rel=1e-5, abs=0)
    assert found[1].item() == 0
    expected = [direct(method, x[i], x[j]) for i in range(2, 6) for j in range(i + 1, 6)]
    np.testing.assert_allclose(found[9:], expected, rtol=1e-10)


@pytest.mark.parametrize("method", BARE)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_blocks_gradients_layouts_and_batches_do_not_change_the_rdm(method, offset, monkeypatch):
    x = responses_for(method, 9, 23) + offset
    x[4] = x[3]
    whole = measured(method, x)
    close = {"rtol": 1e-8, "atol": 1e-13}
    torch.testing.assert_close(
        measured(method, x.clone().requires_grad_()).detach(), whole, **close
    )
    torch.testing.assert_close(measured(method, x.T.contiguous().T), whole, **close)
    torch.testing.assert_close(measured(method, x[:, ::2]), measured(method, x[:, ::2].clone()))
    batch = torch.stack([x, x.flip(0), 2 * x]).reshape(3, 1, 9, 23)
    found = measured(method, batch, batch_dims=2)
    assert found.shape == (3, 1, 36)
    torch.testing.assert_close(found[0, 0], whole, **close)
    torch.testing.assert_close(found[1, 0], measured(method, x.flip(0)), **close)
    monkeypatch.setattr(gram, "BLOCK_ELEMENTS", 9 * 5)
    monkeypatch.setattr(distances, "BLOCK_ELEMENTS", 5)
    torch.testing.assert_close(measured(method, x), whole, **close)


def test_an_offset_of_each_neuroid_keeps_euclidean_distances():
    x = normal(12, 30)
    shifted = (x + 1e4 * normal(30, seed=1)).float()
    exact = scipy.spatial.distance.pdist(shifted.double().numpy(), "sqeuclidean") / 30
    np.testing.assert_allclose(rdm(shifted, method="euclidean"), exact, rtol=1e-9)


def test_single_precision_repetitions_are_averaged_in_double():
    x = (normal(4, 6, 20) + 1e4).float()
    exact = scipy.spatial.distance.pdist(x.double().mean(0).numpy(), "sqeuclidean") / 20
    np.testing.assert_allclose(rdm(x, method="euclidean"), exact, rtol=1e-9)


@pytest.mark.parametrize("method", ["correlation", "cosine"])
def test_a_small_scale_changes_nothing(method):
    x = normal(8, 6)
    torch.testing.assert_close(rdm(1e-8 * x, method=method), rdm(x, method=method))
    scaled = rdm(1e-4 * x, method="euclidean") * 1e8
    torch.testing.assert_close(scaled, rdm(x, method="euclidean"))


def test_repetitions_are_averaged_and_labels_are_sorted():
    x = normal(3, 5, 4)
    x[1, 2] = torch.nan
    kept = ~x.reshape(-1, 4).isnan().any(1)
    labels = np.tile(["e", "dd", "a", "c", "b"], 3)[kept]
    found = rdm(x.reshape(-1, 4)[kept], stimulus=labels)
    order = [2, 4, 3, 1, 0]
    torch.testing.assert_close(found, rdm(x.nanmean(0)[order]))
    torch.testing.assert_close(rdm(x), rdm(x.nanmean(0)))
    batch = torch.stack([x.reshape(-1, 4)[kept]] * 2)
    torch.testing.assert_close(rdm(batch, stimulus=labels, batch_dims=1)[1], found)


def test_zero_patterns_have_no_cosine():
    x = normal(4, 5)
    x[1] = 0
    assert rdm(x, method="cosine").isnan().tolist() == [True, False, False, True, True, False]


def test_constant_patterns_are_nan_under_correlation_only():
    x = normal(5, 8).float()
    x[2] = 0.1
    square = square_form(rdm(x))
    assert square[2, [0, 1, 3, 4]].isnan().all()
    assert square[[0, 1, 3, 4]][:, [0, 1, 3, 4]].isfinite().all()
    assert rdm(x, method="euclidean").isfinite().all()
    assert RSA()(x, normal(5, 8)).isnan()


def test_square_form_undoes_condensed():
    vector = normal(10)
    square = square_form(vector)
    assert torch.equal(condensed(square), vector)
    assert torch.equal(square, square.T)
    np.testing.assert_array_equal(square, scipy.spatial.distance.squareform(vector.numpy()))


def test_average_ranks_equal_scipy_with_ties_and_batches():
    x = torch.randint(5, (3, 40), generator=torch.Generator().manual_seed(0)).double()
    np.testing.assert_array_equal(average_ranks(x), scipy.stats.rankdata(x.numpy(), axis=1))


def test_ranks_ignore_rounding_and_keep_nan():
    x = torch.tensor([1.0, 1.0 + 2e-16, 0.5, torch.nan, 1.0 - 1e-15], dtype=torch.float64)
    np.testing.assert_array_equal(average_ranks(x), [3, 3, 1, np.nan, 3])


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("spearman", lambda a, b: scipy.stats.spearmanr(a, b).statistic),
        ("pearson", lambda a, b: scipy.stats.pearsonr(a, b).statistic),
        ("cosine", lambda a, b: 1 - scipy.spatial.distance.cosine(a, b)),
    ],
)
def test_comparators_equal_scipy(name, reference):
    a, b = rdm(normal(8, 5)), rdm(normal(8, 5, seed=1)).round(decimals=1)
    assert COMPARATORS[name](a, b).item() == pytest.approx(reference(a.numpy(), b.numpy()), 1e-12)


@pytest.mark.parametrize("name", ["spearman", "pearson"])
def test_a_constant_rdm_has_no_correlation(name):
    a, constant = normal(10), torch.full((10,), 0.1) + 1e-16 * normal(10)
    assert COMPARATORS[name](a, constant).isnan()
    assert COMPARATORS["cosine"](a, torch.zeros(10)).isnan()


def test_equidistant_patterns_have_no_rank_correlation():
    labels = torch.eye(9) * 0.3
    assert RSA(rdm="euclidean")(labels, normal(9, 5)).isnan()


def test_equal_distances_of_labels_are_ranked_as_ties():
    labels = torch.eye(3).repeat_interleave(4, 0) * 0.3
    x = normal(12, 5)
    same = np.repeat(np.arange(3), 4)
    different = (same[:, None] != same[None])[np.triu_indices(12, 1)].astype(float)
    expected = scipy.stats.spearmanr(different, rdm(x, method="euclidean").numpy()).statistic
    assert RSA(rdm="euclidean")(labels, x).item() == pytest.approx(expected, 1e-12)


@pytest.mark.parametrize("metric", EVERY_RSA, ids=str)
def test_rsa_of_a_population_with_itself_is_the_best_value(metric):
    x = responses_for(metric.rdm, 10, 6)
    best = metric.range[1] if metric.higher_is_more_similar else 0
    assert metric(x, x).item() == pytest.approx(best, abs=1e-6)


CHANGES = {
    "rotation": lambda x: x @ rotation(6),
    "translation": lambda x: x + 5 * normal(6, seed=2),
    "isotropic scale": lambda x: 1e-4 * x,
    "neuroid order": lambda x: x[..., torch.tensor([3, 1, 0, 5, 2, 4])],
    "neuroid scale": lambda x: x * torch.tensor([0.3, 1, 2, 5, 0.7, 1.4]),
    "neuroid sign": lambda x: x * torch.tensor([1, -1, 1, 1, -1, -1]),
    "invertible linear": lambda x: x @ (rotation(6) * torch.tensor([0.3, 1, 2, 5, 0.7, 1.4])),
    "pattern offset": lambda x: x + 3 * normal(10, 1, seed=3),
    "pattern scale": lambda x: x * (0.1 + normal(10, 1, seed=3).abs()),
}
ESTIMATED = [
    RSA(rdm=name, comparator="corr", noise=noise)
    for name in ("mahalanobis", "crossnobis")
    for noise in ("full", "diag", "shrinkage_eye", "shrinkage_diag")
]


@pytest.mark.parametrize("metric", [*EVERY_RSA[: len(RDM_METHODS)], *ESTIMATED], ids=str)
def test_rsa_ignores_what_it_says_and_nothing_else(metric):
    x, y = (responses_for(metric.rdm, 10, p, seed=seed) for p, seed in ((6, 0), (9, 1)))
    if metric.needs_repeats and x.ndim == 2:
        x, y = x + 0.3 * normal(3, 10, 6, seed=5), y + 0.3 * normal(3, 10, 9, seed=6)
    value = metric(x, y).item()
    assert metric(y, x).item() == pytest.approx(value, abs=1e-12)
    assert set(metric.invariances) <= set(CHANGES)
    for word, change in CHANGES.items():
        if word == "neuroid sign" and ("rotation" in metric.invariances or "poi" in metric.rdm):
            continue  # a rotation, and not named beside it; rates are positive
        changed = change(x).abs() if "poisson" in metric.rdm else change(x)
        same = metric(changed, y).item() == pytest.approx(value, abs=1e-9)
        assert same == (word in metric.invariances), word


@pytest.mark.parametrize("metric", EVERY_RSA[len(RDM_METHODS) :], ids=str)
def test_euclidean_rsa_ignores_rotation_and_translation(metric):
    x, y = normal(10, 6), normal(10, 9, seed=1)
    value = metric(x, y).item()
    assert metric(x @ rotation(6), y).item() == pytest.approx(value, rel=1e-9)
    assert metric(x + 5 * normal(6, seed=2), y).item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("metric", EVERY_RSA, ids=str)
def test_prepared_comparison_equals_the_call(metric):
    x, y = responses_for(metric.rdm, 10, 6), responses_for(metric.rdm, 10, 9, seed=1)
    a, b = metric.prepare(x), metric.prepare(y)
    torch.testing.assert_close(metric.compare_prepared(a, b), metric(x, y))
    torch.testing.assert_close(metric.compare_rdms(a, b), metric(x, y))
    torch.testing.assert_close(metric.inner(a, b), metric.inner(b, a))


@pytest.mark.parametrize("metric", [*EVERY_RSA, *ESTIMATED], ids=str)
def test_gradients_flow_where_rsa_says_so(metric):
    x, y = (responses_for(metric.rdm, 5, p, seed=seed) for p, seed in ((3, 0), (4, 1)))
    if metric.needs_repeats and x.ndim == 2:
        x, y = x + 0.3 * normal(3, 5, 3, seed=5), y + 0.3 * normal(3, 5, 4, seed=6)
    x.requires_grad_()
    assert metric.differentiable == COMPARATORS[metric.comparator].differentiable
    if metric.differentiable:
        assert torch.autograd.gradcheck(lambda x: metric(x, y), x)


def test_a_network_without_repetitions_takes_the_model_rdm():
    brain, net = responses_for("crossnobis", 8, 6), normal(8, 9, seed=1)
    metric = RSA(rdm="crossnobis", comparator="cosine", model_rdm="euclidean", noise="diag")
    assert metric.needs_repeats
    assert not RSA().needs_repeats
    found = metric(brain, net)
    torch.testing.assert_close(found, metric(brain, net[None]))
    torch.testing.assert_close(
        found, metric.compare_rdms(metric.prepare(brain), rdm(net, method="euclidean"))
    )
    assert "neuroid scale" not in metric.invariances
    with pytest.raises(ValueError, match="no repetitions.*model_rdm='euclidean'"):
        RSA(rdm="crossnobis")(brain, net)


def test_gradients_flow_through_pairs_of_equal_patterns():
    x = normal(6, 4)
    x[1] = x[0]
    x.requires_grad_()
    metric = RSA(rdm="euclidean", comparator="pearson")
    assert torch.autograd.gradcheck(lambda x: metric(x, normal(6, 5, seed=1)), x)


def test_every_metric_states_what_it_is():
    for name, kind in METRICS.items():
        metric = kind()
        assert isinstance(metric, Metric)
        assert metric.name == name
        assert "http" in metric.reference
        assert dataclasses.is_dataclass(metric)
        with pytest.raises(dataclasses.FrozenInstanceError):
            metric.name = "other"
    assert isinstance(RSA(), InnerProductMetric)
    assert dataclasses.asdict(RSA(model_rdm=None)) == {
        "rdm": "correlation",
        "comparator": "spearman",
        "model_rdm": None,
        "noise": None,
    }
    assert not RSA().needs_responses


@pytest.mark.parametrize(("repeats", "method"), [(1, "correlation"), (3, "crossnobis")])
def test_a_movie_is_an_rdm_at_each_time(repeats, method):
    x = normal(repeats, 5, 4, 6)
    found = rdm_movie(x, method=method)
    assert found.shape == (6, 10)
    torch.testing.assert_close(found[2], rdm(x[..., 2], method=method))
    binned = rdm_movie(x.numpy(), method=method, bins=[(1, 3), [0, 5], slice(4, None), [-1]])
    torch.testing.assert_close(binned[0], rdm(x[..., 1:3].mean(-1), method=method))
    torch.testing.assert_close(binned[1], rdm(x[..., [0, 5]].mean(-1), method=method))
    torch.testing.assert_close(binned[2], rdm(x[..., 4:].mean(-1), method=method))
    torch.testing.assert_close(binned[3], found[5])
    labels = np.tile(list("abcde"), repeats)
    torch.testing.assert_close(
        rdm_movie(x.reshape(-1, 4, 6), method=method, stimulus=labels), found
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RSA(rdm="mahal"), "'mahal' is no RDM method; choose one of correlation, cos"),
        (lambda: RSA(comparator="tau"), "'tau' is no RDM comparator; choose one of"),
        (lambda: RSA(noise="full"), "noise= does not apply to method='correlation'.*mahalanobis"),
        (lambda: RSA(rdm="crossnobis", noise="x"), "'x' is no covariance method"),
        (lambda: RSA(model_rdm="euclidean"), "model_rdm='euclidean' does not apply to rdm='corr"),
        (lambda: RSA(rdm="crossnobis", model_rdm="crossnobis"), "cannot be cross-validated"),
        (lambda: rdm(normal(3, 2), method="x"), "'x' is no RDM method"),
        (lambda: rdm(normal(3, 2), weighting="x"), "'x' is no weighting"),
        (lambda: rdm(normal(3)), r"x has shape \(3,\); expected \(stimulus, neuroid\)"),
        (lambda: rdm(normal(1, 4)), "x has 1 stimuli; method='correlation' needs 2"),
        (lambda: rdm(normal(4, 1)), "needs 2 or more neuroids; x has 1. Use method='euclidean'"),
        (lambda: rdm(normal(4, 3).sqrt()), "NaN or infinite, in"),
        (lambda: rdm(normal(4, 3), prior_weight=1), "prior_weight= does not apply.*poisson"),
        (lambda: rdm(normal(4, 3), fold=[0] * 4), "fold= does not apply.*crossnobis, poisson_cv"),
        (lambda: rdm(normal(4, 3), weighting="equal"), "weighting= does not apply to"),
        (lambda: rdm(normal(4, 3), noise=torch.eye(3)), "noise= does not apply to"),
        (lambda: rdm(normal(4, 3), method="mahalanobis", noise=torch.eye(2)), "with 3 neuroids"),
        (
            lambda: rdm(normal(4, 3), method="mahalanobis", noise=normal(3, 3)),
            "noise is no precision matrix",
        ),
        (
            lambda: rdm(normal(4, 3), method="mahalanobis", noise=torch.eye(3).expand(2, 3, 3)),
            "one precision matrix a fold goes with method='crossnobis'",
        ),
        (lambda: rdm(normal(4, 3), method="poisson"), "rates are 0 or negative"),
        (lambda: rdm(normal(4, 3), stimulus=[1, 2]), "stimulus has shape.*each of the 4 pres"),
        (lambda: rdm(normal(2, 4, 3), stimulus=[1, 2]), "Leave out stimulus="),
        (lambda: rdm(normal(2, 3) / 0, stimulus=[1, 2]), "x has infinite values"),
        (
            lambda: rdm(torch.tensor([[1.0, 2], [torch.nan, 3], [1, 4]]), stimulus=[1, 2, 2]),
            "method='correlation' needs all of",
        ),
        (
            lambda: rdm(torch.full((2, 3), torch.nan), stimulus=["a", "b"]),
            "2 stimuli .first: 'a'. have no presentation",
        ),
        (lambda: rdm(normal(2, 3), stimulus=[1.0, torch.nan]), "stimulus holds NaN"),
        (lambda: rdm_movie(normal(4, 3)), "neuroid, time"),
        (lambda: rdm_movie(normal(4, 3, 5), bins=[(5, 9)]), "holds no times of 5"),
        (lambda: rdm_movie(normal(4, 3, 5), bins=[[7]]), "beyond the 5 times"),
        (lambda: RSA()(normal(4, 3), normal(5, 3)), "x has 4 stimuli and y has 5.*stimulus_id"),
        (lambda: RSA().compare_rdms(normal(6), normal(10)), "have 6 and 10 pairs.*stimulus_id"),
        (lambda: square_form(normal(7)), "7 pairs fits no number of stimuli"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_labels_of_several_kinds_are_refused():
    with pytest.raises(TypeError, match="stimulus mixes labels"):
        rdm(normal(3, 2), stimulus=[1, "1", "a"], method="euclidean")


@pytest.mark.parametrize("method", RDM_METHODS)
def test_labels_of_one_stimulus_make_no_rdm(method):
    with pytest.raises(ValueError, match="names 1 stimulus, '0'; an RDM needs 2"):
        rdm(torch.rand(10, 6), stimulus=[0] * 10, fold=None, method=method)


def test_bins_of_movies_keep_their_digits_in_float32_with_an_offset():
    x = torch.randn(12, 8, 40, generator=torch.Generator().manual_seed(0)) + 1e4
    found = rdm_movie(x, method="euclidean", bins=[(0, 20), (20, 40)])
    exact = rdm_movie(x.double(), method="euclidean", bins=[(0, 20), (20, 40)])
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=0)

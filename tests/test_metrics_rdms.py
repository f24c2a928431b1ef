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
    comparators,
    gram,
    rdm,
    rdms,
)
from repalign.metrics.rdms import condensed, square_form

EVERY_RSA = [RSA(rdm=r, comparator=c) for r in sorted(RDM_METHODS) for c in sorted(COMPARATORS)]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rotation(p: int) -> torch.Tensor:
    return torch.linalg.qr(normal(p, p, seed=9)).Q


@pytest.mark.parametrize("module", [rdms, comparators, gram])
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


@pytest.mark.parametrize("method", sorted(RDM_METHODS))
def test_nearly_equal_patterns_keep_their_distance(method):
    x = normal(6, 50)
    x[1] = x[0] + 1e-9 * normal(50, seed=3)
    x[2] = x[0]
    name = {"euclidean": "sqeuclidean", "correlation": "correlation"}[method]
    scale = 50 if method == "euclidean" else 1
    found = rdm(x, method=method)
    # scipy's own 1 − r cancels here: half the distance of standardised patterns does not
    z = x - x.mean(1, keepdim=True)
    z = z / z.norm(dim=1, keepdim=True)
    direct = {
        "euclidean": (x[0] - x[1]).square().sum() / scale,
        "correlation": (z[0] - z[1]).square().sum() / 2,
    }
    assert found[0].item() == pytest.approx(direct[method].item(), rel=1e-5, abs=0)
    assert found[1].item() == 0
    expected = scipy.spatial.distance.pdist(x.numpy(), name) / scale
    np.testing.assert_allclose(found[9:], expected[9:], rtol=1e-10)


@pytest.mark.parametrize("method", sorted(RDM_METHODS))
def test_blocks_of_columns_do_not_change_the_rdm(method, monkeypatch):
    x = normal(9, 23)
    x[4] = x[3]
    whole = rdm(x, method=method)
    monkeypatch.setattr(gram, "BLOCK_ELEMENTS", 9 * 5)
    monkeypatch.setattr(rdms, "BLOCK_ELEMENTS", 5)
    torch.testing.assert_close(rdm(x, method=method), whole, rtol=1e-10, atol=1e-13)


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
def test_rsa_of_a_population_with_itself_is_one(metric):
    x = normal(10, 6)
    assert metric(x, x).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("metric", EVERY_RSA, ids=str)
def test_rsa_ignores_scale_neuroid_order_and_exchange(metric):
    x, y = normal(10, 6), normal(10, 9, seed=1)
    value = metric(x, y).item()
    assert metric(1e-4 * x, y).item() == pytest.approx(value, abs=1e-12)
    assert metric(x[:, torch.randperm(6)], y).item() == pytest.approx(value, abs=1e-12)
    assert metric(y, x).item() == pytest.approx(value, abs=1e-12)
    assert abs(value) < 0.99


@pytest.mark.parametrize("comparator", sorted(COMPARATORS))
def test_euclidean_rsa_ignores_rotation_and_translation(comparator):
    metric = RSA(rdm="euclidean", comparator=comparator)
    x, y = normal(10, 6), normal(10, 9, seed=1)
    value = metric(x, y).item()
    assert metric(x @ rotation(6), y).item() == pytest.approx(value, abs=1e-12)
    assert metric(x + 5 * normal(6, seed=2), y).item() == pytest.approx(value, abs=1e-12)


def test_correlation_rsa_ignores_offset_and_scale_of_patterns_but_not_rotation():
    metric = RSA(comparator="pearson")
    x, y = normal(10, 6), normal(10, 9, seed=1)
    value = metric(x, y).item()
    changed = x * (0.1 + torch.rand(10, 1)) + normal(10, 1, seed=3)
    assert metric(changed, y).item() == pytest.approx(value, abs=1e-12)
    assert abs(metric(x @ rotation(6), y).item() - value) > 0.01
    assert "rotation" not in metric.invariances
    assert "rotation" in RSA(rdm="euclidean").invariances


@pytest.mark.parametrize("metric", EVERY_RSA, ids=str)
def test_prepared_comparison_is_a_normalised_inner_product(metric):
    x, y = normal(10, 6), normal(10, 9, seed=1)
    a, b = metric.prepare(x), metric.prepare(y)
    expected = metric.inner(a, b) / (metric.inner(a, a) * metric.inner(b, b)).sqrt()
    for value in (metric(x, y), metric.compare_prepared(a, b), metric.compare_rdms(a, b)):
        assert value.item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("metric", EVERY_RSA, ids=str)
def test_gradients_flow_where_rsa_says_so(metric):
    x, y = normal(6, 4).requires_grad_(), normal(6, 5, seed=1)
    assert metric.differentiable == (metric.comparator != "spearman")
    assert metric(x, y).requires_grad == metric.differentiable
    if metric.differentiable:
        assert torch.autograd.gradcheck(lambda x: metric(x, y), x)


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
        assert metric.higher_is_more_similar
        assert dataclasses.is_dataclass(metric)
        with pytest.raises(dataclasses.FrozenInstanceError):
            metric.name = "other"
    assert isinstance(RSA(), InnerProductMetric)
    assert dataclasses.asdict(RSA()) == {"rdm": "correlation", "comparator": "spearman"}
    assert not RSA().needs_responses


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RSA(rdm="mahal"), "'mahal' is no RDM method; choose one of correlation, euc"),
        (lambda: RSA(comparator="tau"), "'tau' is no RDM comparator; choose one of cosine, pear"),
        (lambda: rdm(normal(3, 2), method="x"), "'x' is no RDM method"),
        (lambda: rdm(normal(3)), r"x has shape \(3,\); expected stimulus × neuroid"),
        (lambda: rdm(normal(1, 4)), "x has 1 stimuli; at least 2"),
        (lambda: rdm(normal(4, 1)), "needs 2 or more neuroids; x has 1. Use method='euclidean'"),
        (lambda: RSA()(normal(4, 3), normal(5, 3)), "x has 4 stimuli and y has 5.*stimulus_id"),
        (lambda: RSA().compare_rdms(normal(6), normal(10)), "have 6 and 10 pairs.*stimulus_id"),
        (lambda: square_form(normal(7)), "7 pairs fits no number of stimuli"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()

import doctest
import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform

from repalign.metrics import CKA, InnerProductMetric, cka, hsic, hsic_terms
from repalign.metrics.cka import biased_cka_null, centre_gram
from repalign.metrics.hsic_terms import FeatureSums, terms_by_rows

BOTH = pytest.mark.parametrize("metric", [CKA(debiased=True), CKA(debiased=False)], ids=str)
ALL = pytest.mark.parametrize(
    "metric", [CKA(debiased=d, kernel=k) for d in (True, False) for k in ("linear", "rbf")], ids=str
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def song_hsic(k: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """Equation 5 of Song et al. 2012, word for word."""
    n, one = len(k), torch.ones(len(k), dtype=k.dtype)
    k, m = k - k.diagonal().diag(), m - m.diagonal().diag()
    trace = (k @ m).trace()
    middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (trace + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def test_examples_run():
    assert doctest.testmod(cka).failed == 0
    assert doctest.testmod(hsic_terms).failed == 0


def test_debiased_hsic_is_the_estimator_of_song_et_al():
    x, y = normal(9, 4) + 1, normal(9, 3, seed=1)
    k, m = x @ x.T, y @ y.T
    torch.testing.assert_close(hsic(k, m), song_hsic(k, m), rtol=1e-11, atol=1e-12)


def test_debiased_hsic_is_the_u_statistic_over_quadruples():
    x, y = normal(6, 3), normal(6, 2, seed=1)
    k, m = x @ x.T, y @ y.T
    terms = [
        k[a, b] * (m[a, b] + m[c, d] - 2 * m[a, c])
        for a, b, c, d in itertools.permutations(range(6), 4)
    ]
    assert hsic(k, m).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-10)


def test_biased_hsic_is_the_squared_norm_of_the_covariance():
    x, y = normal(9, 4) + 1, normal(9, 3, seed=1)
    covariance = (x - x.mean(0)).T @ (y - y.mean(0)) / 8
    found = hsic(x @ x.T, y @ y.T, debiased=False)
    torch.testing.assert_close(found, covariance.square().sum())


def test_biased_cka_equals_kornblith_et_al():
    x, y = normal(20, 4) + 2, normal(20, 6, seed=1)
    x0, y0 = x - x.mean(0), y - y.mean(0)
    expected = (y0.T @ x0).norm() ** 2 / ((x0.T @ x0).norm() * (y0.T @ y0).norm())
    torch.testing.assert_close(CKA(debiased=False)(x, y), expected)


def test_u_centred_rows_sum_to_zero_without_their_diagonal():
    x = normal(7, 5) + 3
    centred = centre_gram(x @ x.T, debiased=True)
    torch.testing.assert_close(centred.sum(1), torch.zeros(7).double(), rtol=0, atol=1e-11)
    assert not centred.diagonal().any()


@ALL
def test_cka_of_a_population_with_itself_is_one(metric):
    x = normal(12, 30)
    assert metric(x, x).item() == pytest.approx(1, abs=1e-12)


@ALL
def test_cka_ignores_rotation_translation_scale_order_and_exchange(metric):
    x, y = normal(12, 6), normal(12, 9, seed=1)
    value = metric(x, y).item()
    rotation = torch.linalg.qr(normal(6, 6, seed=9)).Q
    for changed in (x @ rotation, x + 5 * normal(6, seed=2), 1e-8 * x, 1e8 * x, -3 * x, x.flip(1)):
        assert metric(changed, y).item() == pytest.approx(value, abs=1e-11)
    assert metric(y, x).item() == pytest.approx(value, abs=1e-12)


@ALL
def test_cka_does_not_ignore_the_order_of_stimuli_or_a_stretch(metric):
    x = normal(12, 6)
    assert metric(x.flip(0), x) < 0.9
    assert metric(x * torch.tensor([30.0, 1, 1, 1, 1, 1]), x) < 0.9


def test_debiased_cka_of_unrelated_populations_averages_zero_where_the_biased_nears_one():
    pairs = [(normal(20, 400, seed=s), normal(20, 400, seed=s + 100)) for s in range(40)]
    debiased = torch.stack([CKA()(x, y) for x, y in pairs])
    biased = torch.stack([CKA(debiased=False)(x, y) for x, y in pairs])
    assert abs(debiased.mean()) < 0.03
    assert debiased.min() < 0
    assert biased.min() > 0.9


def test_debiased_cka_estimates_that_of_the_population():
    mixing = torch.diag(torch.tensor([3.0, 2.0, 1.0])).double()
    found = torch.stack(
        [CKA()(z @ mixing, z) for z in (normal(60, 3, seed=s) for s in range(40))]
    ).mean()
    squares = mixing.square()
    expected = squares.diagonal().sum() / (squares.norm() * 3**0.5)
    assert found.item() == pytest.approx(expected.item(), abs=0.01)


@ALL
def test_float32_with_an_offset_keeps_its_cka(metric):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40, 5, generator=generator)
    x = z @ torch.randn(5, 60, generator=generator) + 1e4
    y = z @ torch.randn(5, 50, generator=generator) + 1e4
    expected = metric(x.double() - 1e4, y.double() - 1e4)
    assert metric(x, y).item() == pytest.approx(expected.item(), abs=1e-9)
    assert expected > 0.3


@ALL
def test_constant_responses_have_no_cka(metric):
    constant = torch.full((9, 3), 0.1, dtype=torch.float64)
    assert (constant - constant.mean(0)).any()  # the mean is rounded
    assert metric(constant, normal(9, 5)).isnan()
    assert metric(normal(9, 5), constant).isnan()


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_equidistant_patterns_have_no_debiased_cka(kernel):
    assert CKA(kernel=kernel)(0.3 * torch.eye(9), normal(9, 5)).isnan()
    assert CKA(debiased=False, kernel=kernel)(0.3 * torch.eye(9), normal(9, 5)).isfinite()


@ALL
def test_gradients_flow_through_cka(metric):
    x, y = normal(6, 4).requires_grad_(), normal(6, 5, seed=1).requires_grad_()
    assert metric.differentiable
    assert torch.autograd.gradcheck(metric, (x, y))


@ALL
def test_prepared_comparison_is_a_normalised_inner_product(metric):
    assert isinstance(metric, InnerProductMetric)
    x, y = normal(10, 6), normal(10, 9, seed=1)
    a, b = metric.prepare(x), metric.prepare(y)
    expected = metric.inner(a, b) / (metric.inner(a, a) * metric.inner(b, b)).sqrt()
    assert metric.compare_prepared(a, b).item() == pytest.approx(expected.item(), abs=1e-12)
    assert metric(x, y).item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CKA()(normal(3, 5), normal(3, 5)), "x has 3 stimuli; cka needs 4 or more"),
        (lambda: CKA()(normal(5, 5), normal(6, 5)), "x has 5 stimuli and y has 6.*stimulus_id"),
        (lambda: CKA()(normal(2, 2, 5, 2), normal(5, 5)), "expected .stimulus, neuroid. or"),
        (
            lambda: CKA()(normal(2, 5, 3), normal(3, 5, 3), batch_dims=1),
            "batches of x and y, .2,. and .3,., do not broadcast",
        ),
        (lambda: CKA()(normal(1, 5, 3), normal(1, 6, 3), batch_dims=1), "x has 5 stimuli and y"),
        (lambda: CKA(kernel="cosine"), "'cosine' is no kernel; choose one of linear, rbf"),
        (lambda: CKA(bandwidth=0.5), "bandwidth=0.5 does not apply to the linear kernel"),
        (lambda: CKA(kernel="rbf", bandwidth=0.0), "bandwidth is 0.0; expected more than 0"),
        (lambda: biased_cka_null(0, 3, 4), "n_stimuli, n_x and n_y are 0, 3 and 4"),
        (lambda: hsic(normal(5, 4), normal(5, 4)), r"shape \(5, 4\); expected stimulus × stimulus"),
        (lambda: hsic(normal(5, 5), normal(6, 6)), r"shapes \(5, 5\) and \(6, 6\).*stimulus_id"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def rbf_oracle(x: torch.Tensor, bandwidth: float) -> torch.Tensor:
    """Every entry by its definition, with scipy's distances and numpy's median."""
    distances = pdist(x.numpy())
    sigma = bandwidth * np.median(distances)
    return torch.from_numpy(np.exp(-(squareform(distances) ** 2) / (2 * sigma**2)))


@pytest.mark.parametrize("n", [6, 7])  # 15 pairs, which have a middle one, or 21, and 10
@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 2.0])
def test_the_rbf_kernel_has_the_median_distance_as_its_unit(n, bandwidth):
    metric, x, y = CKA(kernel="rbf", bandwidth=bandwidth), normal(n, 4), normal(n, 3, seed=1)
    k, m = rbf_oracle(x, bandwidth), rbf_oracle(y, bandwidth)
    torch.testing.assert_close(metric.prepare(x), k, rtol=1e-12, atol=1e-12)
    expected = song_hsic(k, m) / (song_hsic(k, k) * song_hsic(m, m)).sqrt()
    assert metric(x, y).item() == pytest.approx(expected.item(), abs=1e-10)


def test_the_median_of_an_even_number_of_distances_is_between_the_middle_two():
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)  # 1 2 3 4 6 7
    k = CKA(kernel="rbf").prepare(x)
    assert k[0, 1].item() == pytest.approx(np.exp(-1 / (2 * 3.5**2)), abs=1e-14)


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1.0, 1e8])
def test_rbf_cka_of_high_dimensional_responses_is_neither_one_nor_nan(scale):
    z = normal(40, 5)
    x = z @ normal(5, 2000, seed=1) + 6 * normal(40, 2000, seed=2)
    y = z @ normal(5, 2000, seed=3) + 6 * normal(40, 2000, seed=4)
    shared, unrelated = (CKA(kernel="rbf")(scale * x, other) for other in (y, y.roll(1, 0)))
    assert 0.6 < shared < 0.99
    assert abs(unrelated) < 0.3


def test_a_wide_rbf_kernel_is_the_linear_one():
    x, y = normal(20, 6), normal(20, 4, seed=1)
    wide = CKA(kernel="rbf", bandwidth=1e3)(x, y)
    assert wide.item() == pytest.approx(CKA()(x, y).item(), abs=1e-4)
    assert abs(CKA(kernel="rbf")(x, y) - wide) > 1e-3


def test_rbf_cka_is_undefined_where_most_patterns_coincide():
    x = torch.zeros(9, 3).index_fill(0, torch.tensor([0]), 1.0)
    assert CKA(kernel="rbf")(x, normal(9, 5)).isnan()


def test_gradients_of_the_rbf_kernel_flow_past_coinciding_patterns():
    x = normal(8, 3)
    x = torch.cat([x[:1], x]).requires_grad_()
    CKA(kernel="rbf")(x, normal(9, 4, seed=1)).backward()
    assert x.grad.isfinite().all()
    assert abs((x.grad * (x - x.mean(0)).detach()).sum()) < 1e-12  # no change with scale


WAYS = pytest.mark.parametrize("neuroids", [(5, 9), (700, 40)], ids=["features", "rows"])


@BOTH
@WAYS
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-8)], ids=str
)
def test_cka_of_many_stimuli_without_gram_matrices_equals_that_with_them(
    metric, neuroids, dtype, tolerance
):
    z = normal(600, 5)
    x, y = ((z @ normal(5, p, seed=p) + 9).to(dtype) for p in neuroids)
    assert len(z) > cka.SMALL
    expected = metric.compare_prepared(metric.prepare(x), metric.prepare(y))
    assert metric(x, y).item() == pytest.approx(expected.item(), abs=tolerance)


@BOTH
@pytest.mark.parametrize("rows", [2, 5, 7, 100])
def test_blocks_of_any_size_give_the_same_terms(metric, rows):
    x, y = normal(13, 6) + 3, normal(13, 30, seed=1)
    terms, trusted = terms_by_rows(x, y, debiased=metric.debiased, rows=rows)
    expected = metric.inner(metric.prepare(x), metric.prepare(y)) * (
        13 * 10 if metric.debiased else 12**2
    )
    assert trusted
    torch.testing.assert_close(terms.xy, expected, rtol=1e-11, atol=1e-11)
    assert terms.cka().item() == pytest.approx(metric(x, y).item(), abs=1e-13)


@BOTH
def test_gradients_flow_without_gram_matrices(metric):
    x, y = normal(7, 3).requires_grad_(), normal(7, 2, seed=1).requires_grad_()

    def by_rows(x, y):
        return terms_by_rows(x, y, debiased=metric.debiased, rows=3)[0].cka()

    def by_features(x, y):
        return FeatureSums.of(x, y).terms(debiased=metric.debiased)[0].cka()

    assert torch.autograd.gradcheck(by_rows, (x, y))
    assert torch.autograd.gradcheck(by_features, (x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@WAYS
def test_a_huge_pattern_leaves_the_digits_of_the_others(neuroids, dtype):
    z = normal(600, 5)
    x, y = ((z @ normal(5, p, seed=p)).to(dtype) for p in neuroids)
    x[0] *= 1e5
    expected = CKA().compare_prepared(CKA().prepare(x), CKA().prepare(y))
    assert CKA()(x, y).item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e25])
def test_many_float32_stimuli_may_have_any_scale(scale):
    x, y = normal(600, 700).float(), normal(600, 300, seed=1).float()
    mixed = 3 * y @ normal(300, 700, seed=2).float() / 300**0.5 + x
    assert CKA()(scale * mixed, y).item() == pytest.approx(CKA()(mixed, y).item(), abs=1e-6)


@pytest.mark.parametrize("neuroids", [3, 700])
def test_many_constant_or_equidistant_patterns_have_no_cka(neuroids):
    other = normal(600, neuroids)
    assert CKA()(torch.full((600, neuroids), 0.1), other).isnan()
    assert CKA()(other.float(), torch.full((600, neuroids), 0.1)).isnan()
    assert CKA()(0.3 * torch.eye(600), normal(600, 700).float()).isnan()


@ALL
def test_batches_equal_their_pairs_one_by_one(metric):
    models, brains = normal(3, 1, 10, 6), normal(1, 2, 2, 10, 4, seed=1)
    found = metric(models, brains.mean(2), batch_dims=2)
    expected = torch.stack(
        [torch.stack([metric(one[0], brain.mean(0)) for brain in brains[0]]) for one in models]
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    repeated = metric(models[:, :, None], brains, batch_dims=2)
    torch.testing.assert_close(repeated, expected, rtol=1e-12, atol=1e-12)


def test_batches_too_large_for_their_gram_matrices_go_pair_by_pair(monkeypatch):
    x, y = normal(3, 10, 6), normal(3, 10, 4, seed=1)
    expected = CKA()(x, y, batch_dims=1)
    monkeypatch.setattr(cka, "BLOCK_ELEMENTS", 1)
    torch.testing.assert_close(CKA()(x, y, batch_dims=1), expected)


@pytest.mark.parametrize(("n", "p"), [(20, 10), (20, 2000), (100, 10), (100, 500)])
def test_debiased_cka_of_unrelated_populations_is_centred_on_zero(n, p):
    draws = 200 if p < 1000 else 60
    x, y = normal(draws, n, p, seed=n + p), normal(draws, n, p, seed=n + p + 1)
    values = CKA()(x, y, batch_dims=1)
    assert abs(values.mean()) < 4 * values.std() / draws**0.5
    assert values.std().item() == pytest.approx((2 / (n * (n - 3))) ** 0.5, rel=0.25)


@pytest.mark.parametrize(("n", "p", "q"), [(50, 1000, 1000), (128, 20, 2500), (30, 5, 8)])
def test_the_null_of_biased_cka_is_known(n, p, q):
    x, y = normal(30, n, p), normal(30, n, q, seed=1)
    found = CKA(debiased=False)(x, y, batch_dims=1).mean()
    assert biased_cka_null(n, p, q) == pytest.approx(found.item(), abs=0.012)


def test_correlated_neuroids_count_by_their_participation_ratio():
    spread = torch.linspace(3, 0.1, 40, dtype=torch.float64)
    x, y = normal(200, 30, 40) * spread, normal(200, 30, 40, seed=1) * spread
    variance = spread.square()
    count = (variance.sum().square() / variance.square().sum()).item()
    found = CKA(debiased=False)(x, y, batch_dims=1).mean().item()
    assert biased_cka_null(30, count, count) == pytest.approx(found, abs=0.01)
    assert biased_cka_null(30, 40, 40) > found + 0.05

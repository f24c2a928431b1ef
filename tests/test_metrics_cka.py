import doctest
import itertools

import pytest
import torch

from repalign.metrics import CKA, InnerProductMetric, cka, hsic
from repalign.metrics.cka import centre_gram

BOTH = pytest.mark.parametrize("metric", [CKA(debiased=True), CKA(debiased=False)], ids=str)


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


@BOTH
def test_cka_of_a_population_with_itself_is_one(metric):
    x = normal(12, 30)
    assert metric(x, x).item() == pytest.approx(1, abs=1e-12)


@BOTH
def test_cka_ignores_rotation_translation_scale_order_and_exchange(metric):
    x, y = normal(12, 6), normal(12, 9, seed=1)
    value = metric(x, y).item()
    rotation = torch.linalg.qr(normal(6, 6, seed=9)).Q
    for changed in (x @ rotation, x + 5 * normal(6, seed=2), 1e-4 * x, -3 * x, x.flip(1)):
        assert metric(changed, y).item() == pytest.approx(value, abs=1e-11)
    assert metric(y, x).item() == pytest.approx(value, abs=1e-12)


@BOTH
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


@BOTH
def test_float32_with_an_offset_keeps_its_cka(metric):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40, 5, generator=generator)
    x = z @ torch.randn(5, 60, generator=generator) + 1e4
    y = z @ torch.randn(5, 50, generator=generator) + 1e4
    expected = metric(x.double() - 1e4, y.double() - 1e4)
    assert metric(x, y).item() == pytest.approx(expected.item(), abs=1e-9)
    assert expected > 0.3


@BOTH
def test_constant_responses_have_no_cka(metric):
    constant = torch.full((9, 3), 0.1, dtype=torch.float64)
    assert (constant - constant.mean(0)).any()  # the mean is rounded
    assert metric(constant, normal(9, 5)).isnan()
    assert metric(normal(9, 5), constant).isnan()


def test_equidistant_patterns_have_no_debiased_cka():
    assert CKA()(0.3 * torch.eye(9), normal(9, 5)).isnan()
    assert CKA(debiased=False)(0.3 * torch.eye(9), normal(9, 5)).isfinite()


@BOTH
def test_gradients_flow_through_cka(metric):
    x, y = normal(6, 4).requires_grad_(), normal(6, 5, seed=1).requires_grad_()
    assert metric.differentiable
    assert torch.autograd.gradcheck(metric, (x, y))


@BOTH
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
        (lambda: hsic(normal(5, 4), normal(5, 4)), r"shape \(5, 4\); expected stimulus × stimulus"),
        (lambda: hsic(normal(5, 5), normal(6, 6)), r"shapes \(5, 5\) and \(6, 6\).*stimulus_id"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()

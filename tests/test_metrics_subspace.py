import doctest
import itertools
import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch

from repalign.metrics import subspace
from repalign.metrics.subspace import CCA, PWCCA, SVCCA, canonical_variates

EVERY = pytest.mark.parametrize("metric", [CCA(), CCA(squared=True), SVCCA(), PWCCA()], ids=str)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(n: int = 40, p: int = 6, q: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    latent = normal(n, 3, seed=5)
    x, y = (latent @ normal(3, r, seed=r) + 0.7 * normal(n, r, seed=r + 50) for r in (p, q))
    return x, y + 2


CHANGES = {
    "rotation": lambda x: x @ torch.linalg.qr(normal(x.shape[1], x.shape[1], seed=9)).Q,
    "translation": lambda x: x + 5 * normal(x.shape[1], seed=9),
    "isotropic scale": lambda x: 1e-8 * x,
    "neuroid order": lambda x: x.flip(1),
    "neuroid scale": lambda x: x * (6 * normal(x.shape[1], seed=9)).exp(),
    "neuroid sign": lambda x: x * normal(x.shape[1], seed=9).sign(),
    "invertible linear": lambda x: x @ (normal(x.shape[1], x.shape[1], seed=9) + 3 * torch.eye(6)),
    "pattern offset": lambda x: x + normal(len(x), 1, seed=9),
    "pattern scale": lambda x: x * normal(len(x), 1, seed=9).exp(),
}


def principal_cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angles = scipy.linalg.subspace_angles(x - x.mean(0), y - y.mean(0))
    return np.sort(np.cos(angles))[::-1]


def test_examples_run():
    assert doctest.testmod(subspace).failed == 0


@pytest.mark.parametrize(("p", "q"), [(6, 9), (9, 6), (5, 5), (1, 3), (1, 1)])
def test_correlations_are_the_cosines_of_scipys_subspace_angles(p, q):
    x, y = planted(40, p, q)
    expected = principal_cosines(x.numpy(), y.numpy())
    first, second = canonical_variates(x, y)
    np.testing.assert_allclose((first * second).sum(0), expected, rtol=0, atol=1e-12)
    assert CCA()(x, y).item() == pytest.approx(expected.mean(), abs=1e-12)
    assert CCA(squared=True)(x, y).item() == pytest.approx((expected**2).mean(), abs=1e-12)


def test_correlations_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.cross_decomposition")
    x, y = planted(40, 3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = sklearn.CCA(n_components=3, tol=1e-14, max_iter=100_000).fit(x.numpy(), y.numpy())
        a, b = fitted.transform(x.numpy(), y.numpy())
    expected = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(3)]
    assert CCA()(x, y).item() == pytest.approx(np.mean(expected), abs=1e-8)


def test_squared_cca_is_that_of_kornblith_et_al():
    x, y = planted()
    a, b = (np.linalg.qr((z - z.mean(0)).numpy())[0] for z in (x, y))
    expected = np.linalg.norm(b.T @ a) ** 2 / 6
    assert CCA(squared=True)(x, y).item() == pytest.approx(expected, abs=1e-12)


def test_variates_are_orthonormal_weighted_sums_of_neuroids():
    x, y = planted()
    for variates, z in zip(canonical_variates(x, y), (x, y), strict=True):
        torch.testing.assert_close(variates.mT @ variates, torch.eye(6).double())
        centred = z - z.mean(0)
        fitted = centred @ torch.linalg.lstsq(centred, variates).solution
        torch.testing.assert_close(fitted, variates)


@pytest.mark.parametrize(("p", "q"), [(6, 9), (60, 9), (60, 80)])
@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99])
def test_svcca_is_cca_of_leading_components(p, q, variance):
    x, y = planted(40, p, q)
    kept = []
    for z in (x.numpy(), y.numpy()):
        values, vectors = np.linalg.eigh(np.cov(z.T).reshape(z.shape[1], -1))
        values, vectors = values[::-1], vectors[:, ::-1]
        count = 1
        while values[:count].sum() < variance * values.sum():
            count += 1
        kept.append((z - z.mean(0)) @ vectors[:, :count])
    expected = principal_cosines(*kept).mean()
    assert SVCCA(variance)(x, y).item() == pytest.approx(expected, abs=1e-10)


def test_svcca_of_all_components_is_cca():
    x, y = planted()
    assert SVCCA(variance=1)(x, y).item() == pytest.approx(CCA()(x, y).item(), abs=1e-12)


@pytest.mark.parametrize(("p", "q"), [(6, 9), (9, 6), (4, 4)])
def test_pwcca_weighs_correlations_by_projection_on_the_first_population(p, q):
    x, y = (z.numpy() - z.numpy().mean(0) for z in planted(40, p, q))
    sxx, syy, sxy = x.T @ x, y.T @ y, x.T @ y
    values, weights = scipy.linalg.eigh(sxy @ np.linalg.solve(syy, sxy.T), sxx)
    total = value = 0.0
    for rho_squared, w in list(zip(values, weights.T, strict=True))[::-1][: min(p, q)]:
        h = x @ w / np.linalg.norm(x @ w)
        alpha = sum(abs(h @ neuroid) for neuroid in x.T)
        total, value = total + alpha, value + alpha * math.sqrt(rho_squared)
    found = PWCCA()(torch.from_numpy(x) + 3, torch.from_numpy(y))
    assert found.item() == pytest.approx(value / total, abs=1e-10)


def test_pwcca_tells_apart_what_weighs_but_not_maps_of_the_other():
    x, y = planted()
    value = PWCCA()(x, y).item()
    assert not PWCCA.symmetric
    assert abs(PWCCA()(y, x).item() - value) > 1e-3
    mapped = y @ normal(9, 9, seed=4)
    assert PWCCA()(x, mapped).item() == pytest.approx(value, abs=1e-10)


@EVERY
def test_a_population_correlates_fully_with_itself(metric):
    x, _ = planted()
    assert metric(x, x).item() == pytest.approx(1, abs=1e-12)


@EVERY
@pytest.mark.parametrize("word", CHANGES)
def test_value_ignores_what_is_claimed_and_nothing_else(metric, word):
    x, y = planted()
    claimed = {*metric.invariances, "neuroid sign"}  # a rotation includes it
    change = abs(metric(CHANGES[word](x), y) - metric(x, y)).item()
    assert change < 1e-9 if word in claimed else change > 1e-4


@pytest.mark.parametrize("metric", [CCA(), SVCCA()], ids=str)
def test_exchange_of_populations_does_not_matter(metric):
    x, y = planted()
    assert metric.symmetric
    assert metric(x, y).item() == pytest.approx(metric(y, x).item(), abs=1e-12)


def test_repeated_and_silent_neuroids_do_not_change_cca():
    x, y = planted()
    padded = torch.cat([x, x[:, :2] + x[:, 1:3], torch.full((40, 1), 0.1)], 1)
    for metric in (CCA(), CCA(squared=True)):
        assert metric(padded, y).item() == pytest.approx(metric(x, y).item(), abs=1e-10)


@pytest.mark.parametrize("metric", [CCA(), CCA(squared=True)], ids=str)
def test_a_neuroid_in_another_unit_is_not_lost_as_rounding(metric):
    x, y = planted()
    units = torch.tensor([1e-18, 1, 1, 1, 1, 1], dtype=torch.float64)
    assert metric(x * units, y).item() == pytest.approx(metric(x, y).item(), abs=1e-12)
    assert abs(metric(x[:, 1:], y) - metric(x, y)) > 1e-3


def test_wide_responses_of_low_rank_have_canonical_correlations():
    x, y = planted()
    wide = x @ normal(6, 100, seed=3)
    assert CCA()(wide, y).item() == pytest.approx(CCA()(x, y).item(), abs=1e-10)


@EVERY
def test_noise_that_is_mixed_in_lowers_the_value(metric):
    x, noise = normal(60, 8), normal(60, 8, seed=1)
    shares = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    values = [metric(x, math.sqrt(1 - s) * x + math.sqrt(s) * noise).item() for s in shares]
    assert all(b < a for a, b in itertools.pairwise(values))


@pytest.mark.parametrize(("p", "q"), [(10, 10), (3, 20), (40, 5)])
def test_squared_cca_of_unrelated_populations_is_the_larger_rank_over_n_less_one(p, q):
    pairs = ((normal(50, p, seed=2 * s), normal(50, q, seed=2 * s + 1)) for s in range(40))
    found = torch.stack([CCA(squared=True)(x, y) for x, y in pairs]).mean().item()
    assert found == pytest.approx(max(p, q) / 49, abs=0.015)


def test_unrelated_populations_score_as_stated():
    pairs = [(normal(50, 10, seed=2 * s), normal(50, 10, seed=2 * s + 1)) for s in range(20)]
    for metric, expected in ((CCA(), 0.38), (PWCCA(), 0.38), (SVCCA(0.5), 0.23)):
        found = torch.stack([metric(x, y) for x, y in pairs]).mean().item()
        assert found == pytest.approx(expected, abs=0.02)


@EVERY
@pytest.mark.parametrize("p", [19, 20, 300])
def test_a_population_that_spans_all_patterns_has_no_value(metric, p):
    if isinstance(metric, SVCCA):
        metric = SVCCA(variance=1)
    assert metric(normal(20, p), normal(20, 3, seed=1)).isnan()
    assert metric(normal(20, 3, seed=1), normal(20, p)).isnan()
    assert metric(normal(20, 18), normal(20, 3, seed=1)).isfinite()


@EVERY
@pytest.mark.parametrize("p", [3, 30])
def test_patterns_that_are_all_the_same_have_no_value(metric, p):
    constant = torch.full((9, p), 0.1, dtype=torch.float64)
    assert metric(constant, normal(9, 2)).isnan()
    assert metric(normal(9, 2), constant).isnan()


@EVERY
def test_float32_with_an_offset_keeps_its_value(metric):
    x, y = planted()
    single = (x + 1e4).float()
    expected = metric(single.double() - 1e4, y).item()
    assert metric(single, y).item() == pytest.approx(expected, abs=1e-9)
    assert 0.1 < expected < 0.9


@pytest.mark.parametrize("metric", [CCA(), CCA(squared=True)], ids=str)
@pytest.mark.parametrize(("p", "q"), [(4, 3), (2, 5), (1, 1)])
def test_gradients_flow_through_cca(metric, p, q):
    assert metric.differentiable
    x, y = normal(9, p).requires_grad_(), normal(9, q, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(metric, (x, y))


def test_gradients_flow_through_cca_where_correlations_coincide():
    x = normal(30, 3)
    y = torch.linalg.qr(torch.cat([torch.ones(30, 1), x, normal(30, 3, seed=1)], 1)).Q
    x, y = y[:, 1:4], y[:, 1:4] + 0.5 * y[:, 4:]
    correlations = torch.stack(canonical_variates(x, y)).prod(0).sum(0)
    torch.testing.assert_close(correlations, torch.full((3,), 1.25**-0.5).double())
    assert torch.autograd.gradcheck(CCA(), (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize("metric", [SVCCA(), PWCCA()], ids=str)
def test_no_gradient_is_pretended(metric):
    assert not metric.differentiable
    assert not metric(normal(9, 3).requires_grad_(), normal(9, 3, seed=1)).requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SVCCA(0), "variance is 0; expected a share"),
        (lambda: SVCCA(99), "variance is 99; expected a share"),
        (lambda: CCA()(normal(2, 1), normal(2, 1)), "x has 2 stimuli; cca needs 3 or more"),
        (lambda: PWCCA()(normal(4, 1), normal(5, 1)), "x has 4 stimuli and y has 5"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()

import dataclasses
import doctest
import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial.distance import squareform

from repalign.metrics import shared_variance
from repalign.metrics.resampled import draw_multiplicities
from repalign.metrics.shared_variance import (
    partial_correlation,
    partial_correlation_interval,
    variance_partitioning,
)


def random_rdms(n: int, k: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((k, n * (n - 1) // 2))


def residual(x: np.ndarray, given: np.ndarray) -> np.ndarray:
    design = np.column_stack([np.ones(len(x)), *given])
    return x - design @ np.linalg.lstsq(design, x, rcond=None)[0]


def explained(y: np.ndarray, models: list[np.ndarray], *, nonnegative: bool = False) -> float:
    """Return R² of a regression with a constant."""
    if not models:
        return 0.0
    if nonnegative:
        x, target = np.array(models) - np.mean(models, 1, keepdims=True), y - y.mean()
        weights, _ = scipy.optimize.nnls(x.T, target)
        rest = target - weights @ x
    else:
        rest = residual(y, np.array(models))
    return 1 - (rest**2).sum() / ((y - y.mean()) ** 2).sum()


def resampled(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the pairs of distinct stimuli of a resample that is built."""
    drawn = np.repeat(np.arange(len(counts)), counts)
    square = squareform(x)[drawn][:, drawn]
    return square[np.triu(drawn[:, None] != drawn[None])]


def test_examples_run():
    assert doctest.testmod(shared_variance).failed == 0


@pytest.mark.parametrize("method", ["corr", "spearman"])
def test_partial_correlation_is_that_of_residuals(method):
    a, b, *given = random_rdms(8, 5) + random_rdms(8, 1, seed=1)
    ranked = [scipy.stats.rankdata(x) if method == "spearman" else x for x in (a, b, *given)]
    u, v = (residual(x, np.array(ranked[2:])) for x in ranked[:2])
    found = partial_correlation(a, b, np.array(given), method=method).item()
    assert found == pytest.approx(np.corrcoef(u, v)[0, 1], abs=1e-12)


def test_partial_correlation_with_one_control_is_the_closed_form():
    a, b, c = random_rdms(8, 3) + random_rdms(8, 1, seed=1)
    r = np.corrcoef([a, b, c])
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert partial_correlation(a, b, c).item() == pytest.approx(expected, abs=1e-12)
    inverse = np.linalg.inv(r)  # of the precision matrix
    expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    assert partial_correlation(a, b, c[None]).item() == pytest.approx(expected, abs=1e-12)


def test_a_correlation_that_a_control_explains_vanishes():
    common, *noise = random_rdms(40, 3)
    a, b = common + 0.5 * noise[0], common + 0.5 * noise[1]
    assert np.corrcoef(a, b)[0, 1] > 0.7
    assert abs(partial_correlation(a, b, common)) < 0.1


def test_partial_correlation_ignores_units_offsets_and_repeated_controls():
    a, b, c = random_rdms(8, 3) + random_rdms(8, 1, seed=1)
    value = partial_correlation(a, b, c).item()
    for given in (1e-8 * c, 5 - 2 * c, np.stack([c, 3 * c, np.ones(28)])):
        assert partial_correlation(1e6 * a + 1, b, given).item() == pytest.approx(value, abs=1e-9)
    square = partial_correlation(squareform(a), squareform(b), squareform(c)[None])
    assert square.item() == pytest.approx(value, abs=1e-12)


def test_what_the_controls_explain_fully_has_no_partial_correlation():
    a, b, c = random_rdms(8, 3)
    assert partial_correlation(2 * c + 1, b, c).isnan()
    assert partial_correlation(a, np.ones(28), c).isnan()


def test_missing_pairs_are_left_out():
    a, b, c = random_rdms(8, 3)
    kept = np.arange(28) > 2
    u, v = (residual(x[kept], c[None, kept]) for x in (a, b))
    for x in (a, b, c):
        x[~kept] = np.nan
    found = partial_correlation(a, b, c).item()
    assert found == pytest.approx(np.corrcoef(u, v)[0, 1], abs=1e-12)


def test_gradients_flow_through_partial_correlation():
    a, b, c = torch.from_numpy(random_rdms(5, 3))
    a.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: partial_correlation(a, b, c), a)
    assert not partial_correlation(a, b, c, method="spearman").requires_grad


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_shares_are_those_of_regressions_on_all_subsets(k, nonnegative):
    *models, noise = random_rdms(9, k + 1) + random_rdms(9, 1, seed=1)
    data = sum(models) - 1.5 * models[0] + noise
    found = variance_partitioning(
        data, dict(zip("abcd", models, strict=False)), nonnegative=nonnegative, n_resamples=10
    )
    r2 = {
        s: explained(data, [models["abcd".index(i)] for i in s], nonnegative=nonnegative)
        for size in range(k + 1)
        for s in itertools.combinations("abcd"[:k], size)
    }
    everything = tuple("abcd"[:k])
    assert found.total.value == pytest.approx(r2[everything], abs=1e-10)
    assert sum(share.value for share in found.parts.values()) == pytest.approx(
        found.total.value, abs=1e-12
    )
    for name in everything:
        rest = tuple(i for i in everything if i != name)
        expected = r2[everything] - r2[rest]
        assert found.parts[name,].value == pytest.approx(expected, abs=1e-10)
    for names, share in found.parts.items():
        # R² of a set of models is the sum of all shares that hold one of them
        held = [s.value for other, s in found.parts.items() if set(other) & set(names)]
        assert sum(held) == pytest.approx(r2[names], abs=1e-10), share


def test_the_share_of_two_models_is_what_each_explains_less_what_both_do():
    a, b, noise = random_rdms(9, 3) + random_rdms(9, 1, seed=1)
    data = a + b + noise
    found = variance_partitioning(data, {"a": a, "b": b}, n_resamples=10)
    expected = explained(data, [a]) + explained(data, [b]) - explained(data, [a, b])
    assert found.parts["a", "b"].value == pytest.approx(expected, abs=1e-10)


def test_intervals_are_those_of_resamples_that_are_built():
    a, b, noise = random_rdms(9, 3)
    data = a + b + noise
    found = variance_partitioning(data, {"a": a, "b": b}, n_resamples=50, seed=4)
    counts = draw_multiplicities(
        9, n_resamples=50, generator=torch.Generator().manual_seed(4), at_least=4
    ).numpy()
    values = []
    for count in counts:
        y, x, z = (resampled(m, count) for m in (data, a, b))
        values.append([explained(y, [x, z]), explained(y, [x, z]) - explained(y, [z])])
    least, most = np.quantile(values, [0.025, 0.975], axis=0)
    centres = np.array([found.total.value, found.parts["a",].value])
    low, high = 2 * centres - most, 2 * centres - least
    np.testing.assert_allclose(found.total[1:], [low[0], high[0]], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.parts["a",][1:], [low[1], high[1]], rtol=0, atol=1e-9)


def test_planted_shares_are_recovered():
    common, own_a, own_b, noise = random_rdms(60, 4)
    a, b = common + own_a, common + own_b
    data = common + own_a + noise
    found = variance_partitioning(data, {"a": a, "b": b}, n_resamples=200)
    # a explains 2/3; b correlates ½ with a and explains (1/√6)² = 1/6, all of it through a
    expected = {("a",): 1 / 2, ("b",): 0, ("a", "b"): 1 / 6}
    for names, value in expected.items():
        share = found.parts[names]
        assert share.value == pytest.approx(value, abs=0.04)
        if value:
            assert share.low < value < share.high
            assert share.low > 0.05
    assert found.total.value == pytest.approx(2 / 3, abs=0.04)


def test_models_of_noise_share_nothing():
    data, *models = random_rdms(40, 4)
    found = variance_partitioning(data, dict(zip("abc", models, strict=True)), n_resamples=10)
    assert max(abs(share.value) for share in found.parts.values()) < 0.02


def test_a_negative_model_gets_no_share_where_weights_may_not_be_negative():
    a, b = random_rdms(12, 2)
    found = variance_partitioning(a - b, {"a": a, "b": b}, nonnegative=True, n_resamples=10)
    assert found.parts["b",].value == pytest.approx(0, abs=1e-12)
    assert found.parts["a",].value > 0.3
    free = variance_partitioning(a - b, {"a": a, "b": b}, n_resamples=10)
    assert free.total.value == pytest.approx(1, abs=1e-12)
    assert free.parts["b",].value > 0.3


def test_shares_ignore_units_and_repeated_models_share_all():
    a, b, noise = random_rdms(10, 3)
    data = a + noise
    plain = variance_partitioning(data, {"a": a, "b": b}, n_resamples=20)
    scaled = variance_partitioning(1e-8 * data, {"a": 1e4 * a + 3, "b": -b}, n_resamples=20)
    for names, share in plain.parts.items():
        np.testing.assert_allclose(scaled.parts[names], share, rtol=0, atol=1e-9)
    twice = variance_partitioning(data, {"a": a, "again": 2 * a}, n_resamples=20)
    assert twice.parts["a", "again"].value == pytest.approx(explained(data, [a]), abs=1e-9)
    assert twice.parts["a",].value == pytest.approx(0, abs=1e-9)


def test_missing_pairs_are_left_out_of_shares():
    data, a, b = random_rdms(9, 3)
    kept = np.arange(36) % 7 > 0
    expected = explained(data[kept], [a[kept], b[kept]])
    for x in (data, a, b):
        x[~kept] = np.nan
    found = variance_partitioning(data, {"a": a, "b": b}, n_resamples=10)
    assert found.total.value == pytest.approx(expected, abs=1e-10)
    assert found.total.low <= found.total.high


def test_a_constant_model_has_no_share():
    data, a = random_rdms(9, 2)
    found = variance_partitioning(data, {"a": a, "constant": np.ones(36)}, n_resamples=10)
    assert np.isnan(found.total.value)
    assert all(np.isnan(share.value) for share in found.parts.values())


def test_a_partition_is_frozen_and_says_how_it_was_made():
    data, a = random_rdms(9, 2)
    found = variance_partitioning(data, {"a": a}, n_resamples=10, confidence=0.9)
    assert found.kind == "bootstrap over stimuli, basic, 90 %"
    assert found.n_resamples == 10
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.total = None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: partial_correlation(*x, method="tau-a"), "'tau-a' is no method of partial"),
        (lambda x: partial_correlation(x[0], x[1], random_rdms(5, 1)[0]), "have 28 and 10 pairs"),
        (lambda x: variance_partitioning(x[0], {}), "0 models were given"),
        (lambda x: variance_partitioning(x[0], dict.fromkeys("abcde", x[1])), "5 models were"),
        (
            lambda x: variance_partitioning(x[0], {"a": random_rdms(5, 1)[0]}),
            "have 10 and 28 pairs",
        ),
        (lambda x: variance_partitioning(x[0], {"a": x[1]}, confidence=95), "confidence is 95"),
        (lambda x: variance_partitioning(x[0], {"a": x}), r"a has shape \(3, 28\)"),
        (
            lambda x: variance_partitioning(x[0, :3], {"a": x[1, :3], "b": x[2, :3]}),
            "of 3 stimuli were asked for",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_rdms(8, 3))


def test_intervals_of_a_share_that_is_zero_hold_zero():
    missed = 0
    for seed in range(40):
        data, a, b = random_rdms(20, 3, seed=seed)
        parts = variance_partitioning(data + a, {"a": a, "b": b}, n_resamples=100, seed=seed).parts
        missed += parts["b",].low > 0
    assert missed <= 6  # 2.5 % of 40 is 1; above 6 lies one chance in 10⁴


@pytest.mark.parametrize("method", ["corr", "spearman"])
def test_intervals_of_partial_correlations_hold_the_truth(method):
    low, high, value = [], [], []
    for seed in range(20):
        a, b, c, d = random_rdms(25, 4, seed=seed)
        found = partial_correlation_interval(
            a + b + c, a + d + c, c, method=method, n_resamples=100, seed=seed
        )
        expected = partial_correlation(a + b + c, a + d + c, c, method=method).item()
        assert found.value == pytest.approx(expected)
        low, high, value = [*low, found.low], [*high, found.high], [*value, found.value]
    held = sum(x < 0.5 < y for x, y in zip(low, high, strict=True))
    assert held >= 16  # a + b and a + d correlate ½


def test_the_partial_correlation_of_a_resample_is_that_of_its_residuals():
    a, b, c = random_rdms(9, 3)
    found = partial_correlation_interval(a, b, c, n_resamples=1, seed=3)
    counts = draw_multiplicities(
        9, n_resamples=1, generator=torch.Generator().manual_seed(3), at_least=4
    ).numpy()[0]
    x, y, z = (resampled(one, counts) for one in (a, b, c))
    expected = partial_correlation_of_vectors(x, y, z)
    assert (found.low, found.high) == pytest.approx((expected, expected), abs=1e-9)


def partial_correlation_of_vectors(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    xy, xz, yz = (np.corrcoef(p, q)[0, 1] for p, q in ((x, y), (x, z), (y, z)))
    return (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))

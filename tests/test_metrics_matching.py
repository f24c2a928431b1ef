import doctest
import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch

from repalign.metrics import matching
from repalign.metrics.matching import OneToOne, SemiMatching, SoftMatching, SoftMatchingDistance

PLANNED = [
    kind(signed=signed)
    for kind in (OneToOne, SemiMatching, SoftMatching)
    for signed in (True, False)
]
HELD_OUT = [kind(folds=4) for kind in (OneToOne, SemiMatching, SoftMatching)]
METRICS = [*PLANNED, *HELD_OUT, OneToOne(signed=False, folds=4), SoftMatchingDistance()]
EVERY = pytest.mark.parametrize("metric", METRICS, ids=str)
SIZES = pytest.mark.parametrize(("p", "q"), [(4, 4), (3, 7), (7, 4), (1, 1), (1, 5)])


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CHANGES = {
    "rotation": lambda x: x @ torch.linalg.qr(normal(x.shape[1], x.shape[1], seed=9)).Q,
    "translation": lambda x: x + 5 * normal(x.shape[1], seed=9),
    "isotropic scale": lambda x: 1e-8 * x,
    "neuroid order": lambda x: x.flip(1),
    "neuroid scale": lambda x: x * (3 * normal(x.shape[1], seed=9)).exp(),
    "neuroid sign": lambda x: x * normal(x.shape[1], seed=9).sign(),
    "invertible linear": lambda x: x @ (normal(x.shape[1], x.shape[1], seed=9) + torch.eye(6)),
    "pattern offset": lambda x: x + normal(len(x), 1, seed=9),
    "pattern scale": lambda x: x * normal(len(x), 1, seed=9).exp(),
}


def pearson(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    return np.corrcoef(x.numpy(), y.numpy(), rowvar=False)[: x.shape[1], x.shape[1] :].reshape(
        x.shape[1], -1
    )


def transport_by_linear_programming(r: np.ndarray) -> float:
    p, q = r.shape
    rows = np.kron(np.eye(p), np.ones(q))
    columns = np.kron(np.ones(p), np.eye(q))
    solved = scipy.optimize.linprog(
        -r.ravel(),
        A_eq=np.vstack([rows, columns]),
        b_eq=np.concatenate([np.full(p, 1 / p), np.full(q, 1 / q)]),
    )
    return -solved.fun


def best_pairing_of_all(r: np.ndarray) -> float:
    r = r if len(r) <= len(r.T) else r.T
    choices = itertools.permutations(range(r.shape[1]), len(r))
    return max(np.mean([r[i, j] for i, j in enumerate(choice)]) for choice in choices)


def test_examples_run():
    assert doctest.testmod(matching).failed == 0


@SIZES
@pytest.mark.parametrize("signed", [True, False])
def test_values_are_those_of_exhaustive_search_and_linear_programming(p, q, signed):
    x, y = normal(12, p), normal(12, q, seed=1)
    r = pearson(x, y)
    r = r if signed else abs(r)
    found = [kind(signed=signed)(x, y).item() for kind in (OneToOne, SemiMatching, SoftMatching)]
    expected = [best_pairing_of_all(r), r.max(1).mean(), transport_by_linear_programming(r)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@SIZES
def test_distance_is_the_least_mean_square_move_of_neuroids_of_length_one(p, q):
    x, y = normal(12, p), normal(12, q, seed=1)
    similarity = SoftMatching()(x, y).item()
    distance = SoftMatchingDistance()(x, y).item()
    assert distance == pytest.approx(math.sqrt(2 - 2 * similarity), abs=1e-12)
    a, b = ((z - z.mean(0)) / (z - z.mean(0)).norm(dim=0) for z in (x, y))
    cost = (a[:, :, None] - b[:, None]).square().sum(0).numpy()
    assert distance**2 == pytest.approx(-transport_by_linear_programming(-cost), abs=1e-10)


@SIZES
def test_a_plan_weighs_neuroids_alike_and_gives_the_value(p, q):
    x, y = normal(12, p), normal(12, q, seed=1)
    plans = {kind: kind().plan(x, y) for kind in (OneToOne, SemiMatching, SoftMatching)}
    for kind, plan in plans.items():
        assert (plan >= 0).all()
        assert plan.sum().item() == pytest.approx(1)
        value = (plan.numpy() * pearson(x, y)).sum()
        assert kind()(x, y).item() == pytest.approx(value, abs=1e-12)
    torch.testing.assert_close(plans[SoftMatching].sum(1), torch.full((p,), 1 / p).double())
    torch.testing.assert_close(plans[SoftMatching].sum(0), torch.full((q,), 1 / q).double())
    torch.testing.assert_close(plans[SemiMatching].sum(1), torch.full((p,), 1 / p).double())
    pairs = plans[OneToOne].nonzero()
    assert len(pairs) == min(p, q) == len(pairs[:, 0].unique()) == len(pairs[:, 1].unique())


def test_pairs_that_were_planted_are_found():
    x = normal(40, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    y = -2 * x[:, order] + 0.5 * normal(40, 6, seed=1)
    for kind in (OneToOne, SemiMatching, SoftMatching):
        assert torch.equal(kind(signed=False).plan(x, y).argmax(0), order)
        assert not torch.equal(kind().plan(x, y).argmax(0), order)


def test_shared_copies_of_a_neuroid_match_softly_and_not_one_to_one():
    x = normal(12, 3)
    y = torch.cat([x, x, x[:, :1]], 1)
    assert SemiMatching()(x, y).item() == pytest.approx(1)
    assert SemiMatching()(y, x).item() == pytest.approx(1)
    assert OneToOne()(x, y).item() == pytest.approx(1)
    assert SoftMatching()(x, y[:, :6]).item() == pytest.approx(1)
    assert SoftMatching()(x, y).item() < 0.99
    assert SoftMatchingDistance()(x, y[:, :6]).item() < 1e-12


@EVERY
def test_a_population_matches_itself(metric):
    x = normal(20, 6)
    best = 1 if metric.higher_is_more_similar else 0
    assert metric(x, x).item() == pytest.approx(best, abs=1e-12)


@EVERY
@pytest.mark.parametrize("word", CHANGES)
def test_value_ignores_what_is_claimed_and_nothing_else(metric, word):
    x, y = normal(20, 6) + 1, normal(20, 9, seed=1)
    change = abs(metric(CHANGES[word](x), y) - metric(x, y)).item()
    assert change < 1e-10 if word in metric.invariances else change > 1e-4


@EVERY
def test_exchange_matters_where_it_is_said_to(metric):
    x, y = normal(20, 6), normal(20, 9, seed=1)
    change = abs(metric(x, y) - metric(y, x)).item()
    assert change < 1e-12 if metric.symmetric else change > 1e-3


def test_distances_obey_the_triangle_inequality():
    near, metric = normal(10, 4), SoftMatchingDistance()
    points = [near, near + 0.3 * normal(10, 4, seed=1), near[:, :2], normal(10, 7, seed=2)]
    points += [torch.cat([near, near[:, :1]], 1), -near]
    for a, b, c in itertools.permutations(points, 3):
        assert metric(a, c) <= metric(a, b) + metric(b, c) + 1e-12


@EVERY
def test_noise_that_is_mixed_in_lowers_the_match(metric):
    x, noise = normal(80, 8), normal(80, 8, seed=1)
    shares = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    sign = 1 if metric.higher_is_more_similar else -1
    values = [sign * metric(x, math.sqrt(1 - s) * x + math.sqrt(s) * noise).item() for s in shares]
    assert all(b < a for a, b in itertools.pairwise(values))


def test_unrelated_populations_match_as_stated_and_not_where_held_out():
    pairs = [(normal(50, 30, seed=2 * s), normal(50, 30, seed=2 * s + 1)) for s in range(10)]

    def mean(metric):
        return torch.stack([metric(x, y) for x, y in pairs]).mean().item()

    assert mean(OneToOne()) == pytest.approx(0.26, abs=0.01)
    assert mean(SemiMatching()) == pytest.approx(0.29, abs=0.01)
    for kind in (OneToOne, SemiMatching, SoftMatching):
        for signed in (True, False):
            assert abs(mean(kind(folds=5, signed=signed))) < 0.03


@pytest.mark.parametrize("kind", [OneToOne, SemiMatching, SoftMatching])
def test_held_out_matching_scores_stimuli_that_it_did_not_match(kind):
    x, y = normal(24, 5), normal(24, 7, seed=1)
    fold = matching.shuffled_folds(24, folds=4, seed=3)
    expected = []
    for k in range(4):
        train, test = fold != k, fold == k
        expected.append((kind().plan(x[train], y[train]).numpy() * pearson(x[test], y[test])).sum())
    assert kind(folds=4, seed=3)(x, y).item() == pytest.approx(np.mean(expected), abs=1e-12)


@EVERY
def test_a_constant_neuroid_counts_as_uncorrelated(metric):
    x, y = normal(24, 5), normal(24, 5, seed=1)
    silent = torch.cat([x, torch.full((24, 1), 0.1)], 1)
    assert metric(silent, y).isfinite()
    if isinstance(metric, SemiMatching) and metric.signed and not metric.folds:
        assert metric(silent, y).item() == pytest.approx(metric(x, y).item() * 5 / 6)
    if isinstance(metric, SoftMatchingDistance):
        both = torch.cat([y, torch.full((24, 1), 0.1)], 1)
        for other in (y, both):
            expected = math.sqrt(2 - 2 * SoftMatching()(silent, other).item())
            assert metric(silent, other).item() == pytest.approx(expected)


@EVERY
def test_patterns_that_are_all_the_same_have_no_match(metric):
    constant = torch.full((24, 3), 0.1, dtype=torch.float64)
    assert metric(constant, normal(24, 5)).isnan()
    assert metric(normal(24, 5), constant).isnan()


@EVERY
def test_float32_with_an_offset_keeps_its_match(metric):
    x, y = (normal(20, 6) + 1e4).float(), normal(20, 9, seed=1)
    expected = metric(x.double() - 1e4, y).item()
    assert metric(x, y).item() == pytest.approx(expected, abs=1e-10)


@EVERY
@pytest.mark.parametrize(("p", "q"), [(3, 3), (2, 4), (1, 1)])
def test_gradients_flow(metric, p, q):
    assert metric.differentiable
    x, y = normal(12, p).requires_grad_(), normal(12, q, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(metric, (x, y))


@EVERY
def test_gradients_are_finite_at_a_perfect_match_and_with_constant_neuroids(metric):
    x = torch.cat([normal(12, 3), torch.ones(12, 1)], 1).requires_grad_()
    metric(x, x.detach()).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OneToOne(folds=1), "folds is 1; held-out matching needs 2"),
        (
            lambda: SoftMatching()(normal(2, 3), normal(2, 3)),
            "x has 2 stimuli; soft-matching needs 3",
        ),
        (lambda: OneToOne(folds=5)(normal(14, 3), normal(14, 3)), "one-to-one needs 15 or more"),
        (lambda: SemiMatching().plan(normal(4, 3), normal(5, 3)), "x has 4 stimuli and y has 5"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()

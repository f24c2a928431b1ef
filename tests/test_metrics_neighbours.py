import doctest
import itertools
import math

import numpy as np
import pytest
import torch

from repalign.metrics import neighbours
from repalign.metrics.neighbours import CKNNA, DISTANCES, MutualKNN, _distances, neighbour_weights

METRICS = [
    *(MutualKNN(k=4, distance=name) for name in ("cosine", "correlation", "euclidean")),
    CKNNA(k=4),
    CKNNA(4, as_released=True),
]
EVERY = pytest.mark.parametrize("metric", METRICS, ids=str)
SIZES = pytest.mark.parametrize(("p", "q"), [(5, 5), (3, 30), (30, 3)])


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CHANGES = {
    "rotation": lambda x: x @ torch.linalg.qr(normal(x.shape[1], x.shape[1], seed=9)).Q,
    "translation": lambda x: x + 5 * normal(x.shape[1], seed=9),
    "isotropic scale": lambda x: 1e-8 * x,
    "neuroid order": lambda x: x.flip(1),
    "neuroid scale": lambda x: x * (2 * normal(x.shape[1], seed=9)).exp(),
    "neuroid sign": lambda x: x * normal(x.shape[1], seed=9).sign(),
    "invertible linear": lambda x: x @ (normal(x.shape[1], x.shape[1], seed=9) + torch.eye(6)),
    "pattern offset": lambda x: x + 2 * normal(len(x), 1, seed=9),
    "pattern scale": lambda x: x * normal(len(x), 1, seed=9).exp(),
}


def unit(x: torch.Tensor) -> np.ndarray:
    return (x / x.norm(dim=1, keepdim=True)).numpy()


def nearest(x: torch.Tensor, k: int) -> list[set[int]]:
    cosines = unit(x) @ unit(x).T
    return [
        set(sorted(set(range(len(x))) - {i}, key=lambda j: -cosines[i, j])[:k])
        for i in range(len(x))
    ]


def test_examples_run():
    assert doctest.testmod(neighbours).failed == 0


@SIZES
@pytest.mark.parametrize("distance", DISTANCES)
def test_neighbours_are_those_of_scikit_learn(p, q, distance):
    sklearn = pytest.importorskip("sklearn.neighbors")
    sets = []
    for z in (normal(25, p), normal(25, q, seed=1)):
        found = sklearn.NearestNeighbors(n_neighbors=5, metric=distance).fit(z.numpy())
        sets.append(found.kneighbors(return_distance=False))
    expected = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(*sets, strict=True)])
    found = MutualKNN(k=5, distance=distance)(normal(25, p), normal(25, q, seed=1))
    assert found.item() == pytest.approx(expected, abs=1e-12)


@SIZES
def test_cknna_is_equations_16_to_18_of_huh_et_al(p, q):
    x, y = normal(15, p), normal(15, q, seed=1)

    def align(a, b, k=4):
        total, near_a, near_b = 0.0, nearest(a, k), nearest(b, k)
        gram_a, gram_b = unit(a) @ unit(a).T, unit(b) @ unit(b).T
        for i, j in itertools.product(range(15), repeat=2):
            if i != j and j in near_a[i] and j in near_b[i]:
                total += (gram_a[i, j] - gram_a[i].mean()) * (gram_b[i, j] - gram_b[i].mean())
        return total

    expected = align(x, y) / math.sqrt(align(x, x) * align(y, y))
    assert CKNNA(k=4)(x, y).item() == pytest.approx(expected, abs=1e-12)


@SIZES
def test_released_cknna_is_hsic_of_products_with_shared_neighbours(p, q):
    x, y = normal(15, p), normal(15, q, seed=1)

    def align(a, b, k=4):
        near_a, near_b = nearest(a, k), nearest(b, k)
        shared = np.array([[j in near_a[i] & near_b[i] for j in range(15)] for i in range(15)])
        gram_a, gram_b = shared * (unit(a) @ unit(a).T), shared * (unit(b) @ unit(b).T)
        one = np.ones(15)
        trace = np.trace(gram_a @ gram_b)
        corner = (one @ gram_a @ one) * (one @ gram_b @ one) / (14 * 13)
        return (trace + corner - 2 / 13 * one @ gram_a @ gram_b @ one) / (15 * 12)

    expected = align(x, y) / math.sqrt(align(x, x) * align(y, y))
    metric = CKNNA(k=4, as_released=True)
    assert metric(x, y).item() == pytest.approx(expected, abs=1e-12)
    assert not metric.symmetric
    assert abs(metric(x, y) - metric(y, x)) > 1e-4
    assert abs(metric(x, y) - CKNNA(k=4)(x, y)) > 1e-3


def test_cknna_of_all_others_is_cka_with_centred_rows_off_the_diagonal():
    x, y = normal(15, 5), normal(15, 7, seed=1)
    a, b = (unit(z) @ unit(z).T for z in (x, y))
    a, b = ((g - g.mean(1, keepdims=True))[~np.eye(15, dtype=bool)] for g in (a, b))
    weights = neighbour_weights(_distances(x, "cosine"), 14)
    assert torch.equal(weights, 1 - torch.eye(15).double())
    nearly = CKNNA(k=13)(x, y).item()
    assert nearly == pytest.approx(a @ b / math.sqrt(a @ a * (b @ b)), abs=0.15)


@EVERY
def test_a_population_agrees_with_itself(metric):
    x = normal(20, 6)
    assert metric(x, x).item() == pytest.approx(1, abs=1e-12)


@EVERY
@pytest.mark.parametrize("word", CHANGES)
def test_value_ignores_what_is_claimed_and_nothing_else(metric, word):
    x = normal(60, 6) + 0.5
    y = x @ normal(6, 9, seed=1) + normal(60, 9, seed=2)
    rotates = "rotation" in metric.invariances
    claimed = {*metric.invariances, *(["neuroid sign"] if rotates else [])}
    change = abs(metric(CHANGES[word](x), y) - metric(x, y)).item()
    assert change < 1e-10 if word in claimed else change > 1e-4


@EVERY
def test_order_of_stimuli_does_not_matter_nor_does_exchange_where_it_is_said(metric):
    x, y = (2 * normal(20, 6)).round() + 10, (2 * normal(20, 5, seed=2)).round() + 10  # many ties
    value = metric(x, y).item()
    assert metric(x.flip(0), y.flip(0)).item() == pytest.approx(value, abs=1e-12)
    if metric.symmetric:
        assert metric(y, x).item() == pytest.approx(value, abs=1e-12)


def test_tied_neighbours_share_the_last_places():
    x = torch.tensor([[0.0], [1.0], [-1.0], [5.0]])
    weights = neighbour_weights(_distances(x, "euclidean"), 1)
    expected = [[0, 0.5, 0.5, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert weights.tolist() == expected
    two = neighbour_weights(_distances(x, "euclidean"), 2)
    assert two[0].tolist() == [0, 1, 1, 0]
    assert (two.sum(1) == 2).all()


def test_distances_that_differ_by_rounding_are_tied():
    x = torch.eye(8).double() @ torch.linalg.qr(normal(8, 8)).Q
    for name in ("cosine", "euclidean"):
        assert _distances(x, name).unique().numel() > 1
        weights = neighbour_weights(_distances(x, name), 3)
        torch.testing.assert_close(weights, 3 / 7 * (1 - torch.eye(8).double()))
        found = MutualKNN(k=3, distance=name)(x, x).item()
        assert found == pytest.approx(3 / 7)


def test_overlap_under_ties_is_that_expected_of_ties_broken_at_random():
    x, y = (1.2 * normal(12, 2)).round(), normal(12, 4, seed=1)
    generator = torch.Generator().manual_seed(0)
    metric = MutualKNN(k=3, distance="euclidean")
    broken = [
        metric(x + 1e-4 * torch.randn(12, 2, generator=generator, dtype=x.dtype), y).item()
        for _ in range(400)
    ]
    assert metric(x, y).item() == pytest.approx(np.mean(broken), abs=0.03)
    assert np.std(broken) > 0.01


@EVERY
def test_noise_that_is_mixed_in_lowers_the_value(metric):
    x, noise = normal(100, 8), normal(100, 8, seed=1)
    shares = (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)
    values = [metric(x, math.sqrt(1 - s) * x + math.sqrt(s) * noise).item() for s in shares]
    assert all(b < a for a, b in itertools.pairwise(values))


@pytest.mark.parametrize(("n", "k"), [(30, 5), (60, 10), (30, 20)])
def test_unrelated_populations_share_k_of_the_other_stimuli(n, k):
    pairs = [(normal(n, 10, seed=2 * s), normal(n, 10, seed=2 * s + 1)) for s in range(15)]
    found = torch.stack([MutualKNN(k=k)(x, y) for x, y in pairs]).mean().item()
    assert found == pytest.approx(k / (n - 1), abs=0.02)


def test_cosine_neighbours_are_exact_where_patterns_nearly_align():
    x = (normal(30, 20) + 1e4).float()
    exact = x.double().numpy().astype(np.longdouble)
    exact /= np.sqrt((exact**2).sum(1, keepdims=True))
    chords = ((exact[:, None] - exact[None]) ** 2).sum(2)
    i, j = np.triu_indices(30, 1)
    found = _distances(x, "cosine").numpy()
    np.testing.assert_allclose(found, chords[i, j].astype(float) / 2, rtol=1e-6)


@EVERY
def test_float32_with_an_offset_keeps_its_value(metric):
    x, y = (normal(40, 6) + 1e4).float(), normal(40, 9, seed=1)
    shift = 1e4 if "translation" in metric.invariances else 0
    expected = metric(x.double() - shift, y).item()
    assert metric(x, y).item() == pytest.approx(expected, abs=1e-6)


@EVERY
@pytest.mark.parametrize("p", [2, 3, 30])
def test_patterns_that_are_all_the_same_have_no_value(metric, p):
    constant = torch.full((9, p), 0.1, dtype=torch.float64)
    assert metric(constant, normal(9, 5)).isnan()
    assert metric(normal(9, 5), constant).isnan()


@pytest.mark.parametrize("metric", [METRICS[0], *METRICS[3:]], ids=str)
def test_patterns_without_different_directions_have_no_value(metric):
    assert MutualKNN(k=4, distance="euclidean")(normal(9, 1), normal(9, 1)).item() == 1
    silent = normal(9, 5)
    silent[4] = 0
    one_way = normal(9, 1).exp() * normal(1, 7)
    for x in (silent, one_way, normal(9, 1).exp()):
        assert metric(x, normal(9, 5, seed=1)).isnan()
        assert MutualKNN(k=4, distance="euclidean")(x, normal(9, 5, seed=1)).isfinite()


@pytest.mark.parametrize("metric", METRICS[3:], ids=str)
@pytest.mark.parametrize(("p", "q"), [(4, 3), (3, 12)])
def test_gradients_flow_through_cknna(metric, p, q):
    assert metric.differentiable
    x, y = normal(9, p).requires_grad_(), normal(9, q, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(metric, (x, y))


@pytest.mark.parametrize("metric", METRICS[:3], ids=str)
def test_no_gradient_is_pretended(metric):
    assert not metric.differentiable
    assert not metric(normal(9, 3).requires_grad_(), normal(9, 3, seed=1)).requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MutualKNN(k=0), "k is 0; expected 1 or more"),
        (lambda: CKNNA(k=-1), "k is -1; expected 1 or more"),
        (lambda: MutualKNN(distance="angle"), "'angle' is no distance of nearest.*cosine, euclid"),
        (lambda: MutualKNN(1, "correlation")(normal(9, 1), normal(9, 1)), "2 or more neuroids"),
        (lambda: MutualKNN()(normal(11, 3), normal(11, 3)), "mutual-knn needs 12 or more"),
        (lambda: CKNNA(k=1)(normal(3, 3), normal(3, 3)), "cknna needs 4 or more"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()

import doctest
import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import torch

from repalign.metrics import shape
from repalign.metrics.shape import AngularShape, Procrustes

KINDS = ("distance", "squared distance", "similarity")
ALPHAS = (1.0, 0.5, 0.0)
METRICS = [*map(Procrustes, KINDS), *map(AngularShape, ALPHAS)]
EVERY = pytest.mark.parametrize("metric", METRICS, ids=str)
SIZES = pytest.mark.parametrize(("p", "q"), [(5, 5), (3, 7), (30, 4), (12, 40), (1, 1)])


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CHANGES = {
    "rotation": lambda x: x @ torch.linalg.qr(normal(x.shape[1], x.shape[1], seed=9)).Q,
    "translation": lambda x: x + 5 * normal(x.shape[1], seed=9),
    "isotropic scale": lambda x: 1e-8 * x,
    "neuroid order": lambda x: x.flip(1),
    "neuroid scale": lambda x: x * normal(x.shape[1], seed=9).exp(),
    "neuroid sign": lambda x: x * normal(x.shape[1], seed=9).sign(),
    "invertible linear": lambda x: x @ (normal(x.shape[1], x.shape[1], seed=9) + 3 * torch.eye(6)),
    "pattern offset": lambda x: x + normal(len(x), 1, seed=9),
    "pattern scale": lambda x: x * normal(len(x), 1, seed=9).exp(),
}


def unit(x: torch.Tensor) -> np.ndarray:
    centred = x.numpy() - x.numpy().mean(0)
    return centred / np.linalg.norm(centred)


def test_examples_run():
    assert doctest.testmod(shape).failed == 0


@SIZES
def test_similarity_is_the_scale_of_scipys_orthogonal_procrustes(p, q):
    x, y = normal(12, p), normal(12, q, seed=1)
    width = max(p, q)
    a, b = (np.pad(unit(z), ((0, 0), (0, width - z.shape[1]))) for z in (x, y))
    rotation, scale = scipy.linalg.orthogonal_procrustes(a, b)
    assert Procrustes("similarity")(x, y).item() == pytest.approx(scale, abs=1e-12)
    assert Procrustes()(x, y).item() == pytest.approx(np.linalg.norm(a @ rotation - b), abs=1e-12)
    assert Procrustes("squared distance")(x, y).item() == pytest.approx(2 - 2 * scale, abs=1e-12)
    assert AngularShape()(x, y).item() == pytest.approx(np.arccos(scale), abs=1e-12)


def test_similarity_and_scipys_disparity_agree():
    x, y = normal(12, 5), normal(12, 5, seed=1)
    disparity = scipy.spatial.procrustes(x.numpy(), y.numpy())[2]
    similarity = Procrustes("similarity")(x, y).item()
    assert 1 - similarity**2 == pytest.approx(disparity, abs=1e-12)


def test_similarity_is_the_fidelity_of_gram_matrices():
    x, y = normal(9, 30), normal(9, 20, seed=1)
    root = scipy.linalg.sqrtm(unit(x) @ unit(x).T).real
    values = np.linalg.eigvalsh(root @ unit(y) @ unit(y).T @ root)
    expected = np.sqrt(values[values > 1e-14]).sum()
    assert Procrustes("similarity")(x, y).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
@SIZES
def test_angle_is_that_of_williams_et_al_on_responses_of_unit_singular_values(p, q, alpha):
    shapes = []
    for x in (normal(12, p), normal(12, q, seed=1)):
        z = unit(x) * math.sqrt(min(x.shape[1], 11))
        values, vectors = np.linalg.eigh(z.T @ z)
        inverse_root = np.where(values > 1e-10, np.abs(values) ** -0.5, 0)
        z = z @ (alpha * np.eye(len(values)) + (1 - alpha) * vectors * inverse_root @ vectors.T)
        shapes.append(z / np.linalg.norm(z))
    similarity = np.linalg.svd(shapes[0].T @ shapes[1], compute_uv=False).sum()
    expected = np.arccos(min(similarity, 1))
    assert AngularShape(alpha)(*(normal(12, p), normal(12, q, seed=1))).item() == pytest.approx(
        expected, abs=1e-7 if expected < 1e-6 else 1e-9
    )


def test_fully_whitened_angle_comes_from_canonical_correlations():
    x, y = normal(20, 4), normal(20, 6, seed=1)
    angles = scipy.linalg.subspace_angles(unit(x), unit(y))
    expected = np.arccos(np.cos(angles).sum() / math.sqrt(4 * 6))
    assert AngularShape(alpha=0)(x, y).item() == pytest.approx(expected, abs=1e-12)


@EVERY
@pytest.mark.parametrize("p", [1, 6, 30])
def test_a_population_is_at_no_distance_from_itself(metric, p):
    x = normal(12, p)
    best = metric.range[1] if metric.higher_is_more_similar else 0
    assert metric(x, x).item() == pytest.approx(best, abs=1e-12)
    padded = torch.cat([torch.zeros(12, 3), x, torch.ones(12, 2)], 1)
    assert metric(padded, x).item() == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("angle", [1e-12, 1e-6, 0.1, 1.5])
def test_small_angles_keep_their_digits(angle):
    basis = torch.linalg.qr(normal(12, 2) - normal(12, 2).mean(0)).Q
    x, y = basis[:, :1], math.cos(angle) * basis[:, :1] + math.sin(angle) * basis[:, 1:]
    assert AngularShape()(x, y).item() == pytest.approx(angle, rel=1e-3 if angle < 1e-9 else 1e-9)
    distance = 2 * math.sin(angle / 2)
    assert Procrustes()(x, y).item() == pytest.approx(distance, rel=1e-3 if angle < 1e-9 else 1e-9)


@EVERY
@pytest.mark.parametrize("word", CHANGES)
def test_value_ignores_what_is_claimed_and_nothing_else(metric, word):
    x, y = normal(20, 6) + 1, normal(20, 9, seed=1)
    claimed = {*metric.invariances, "neuroid sign"}  # a rotation includes it
    change = abs(metric(CHANGES[word](x), y) - metric(x, y)).item()
    assert change < 1e-10 if word in claimed else change > 1e-4


@EVERY
def test_exchange_of_populations_does_not_matter(metric):
    x, y = normal(12, 6), normal(12, 30, seed=1)
    assert metric.symmetric
    assert metric(x, y).item() == pytest.approx(metric(y, x).item(), abs=1e-13)


@pytest.mark.parametrize("metric", [Procrustes(), *map(AngularShape, ALPHAS)], ids=str)
def test_distances_obey_the_triangle_inequality(metric):
    near = normal(10, 4)
    points = [near, near + 0.3 * normal(10, 4, seed=1), near[:, :2], normal(10, 7, seed=2)]
    points += [near @ torch.diag(torch.tensor([9.0, 1, 1, 1]).double()), normal(10, 25, seed=3)]
    for a, b, c in itertools.permutations(points, 3):
        assert metric(a, c) <= metric(a, b) + metric(b, c) + 1e-12


@EVERY
def test_noise_that_is_mixed_in_moves_populations_apart(metric):
    x, noise = normal(40, 8), normal(40, 8, seed=1)
    shares = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    values = [metric(x, math.sqrt(1 - s) * x + math.sqrt(s) * noise).item() for s in shares]
    falls = all(b < a for a, b in itertools.pairwise(values))
    assert falls if metric.higher_is_more_similar else all(np.diff(values) > 0)


def test_unrelated_populations_are_as_far_apart_as_stated():
    def mean(metric, p):
        pairs = ((normal(50, p, seed=2 * s), normal(50, p, seed=2 * s + 1)) for s in range(10))
        return torch.stack([metric(x, y) for x, y in pairs]).mean().item()

    for p, distance, similarity, angle in ((10, 1.12, 0.37, 1.19), (500, 0.22, 0.97, 0.22)):
        assert mean(Procrustes(), p) == pytest.approx(distance, abs=0.015)
        assert mean(Procrustes("similarity"), p) == pytest.approx(similarity, abs=0.015)
        assert mean(AngularShape(), p) == pytest.approx(angle, abs=0.015)


@EVERY
@pytest.mark.parametrize("p", [6, 60])
def test_float32_with_an_offset_keeps_its_shape(metric, p):
    x = (normal(20, p) + 1e4).float()
    expected = metric(x.double() - 1e4, normal(20, 5, seed=1))
    assert metric(x, normal(20, 5, seed=1)).item() == pytest.approx(expected.item(), abs=1e-10)
    assert metric(x.double() - 1e4, normal(20, p)) != expected


@EVERY
@pytest.mark.parametrize("p", [3, 30])
def test_patterns_that_are_all_the_same_have_no_shape(metric, p):
    constant = torch.full((9, p), 0.1, dtype=torch.float64)
    assert metric(constant, normal(9, 5)).isnan()
    assert metric(normal(9, 5), constant).isnan()


@EVERY
@pytest.mark.parametrize(("p", "q"), [(4, 3), (3, 11), (5, 6), (1, 1)])
def test_gradients_flow(metric, p, q):
    assert metric.differentiable
    x, y = normal(8, p).requires_grad_(), normal(8, q, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(metric, (x, y))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradients_flow_where_singular_values_coincide(alpha):
    x = torch.linalg.qr(normal(8, 3) - normal(8, 3).mean(0)).Q.requires_grad_()
    y = normal(8, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(AngularShape(alpha), (x, y))


@EVERY
def test_gradients_are_finite_at_no_distance_and_without_a_rank(metric):
    x = torch.cat([normal(9, 4), torch.zeros(9, 2)], 1)
    x = torch.cat([x, x], 1).requires_grad_()
    metric(x, x.detach()).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Procrustes("angle"), "'angle' is no kind of Procrustes.*squared distance"),
        (lambda: AngularShape(1.5), "alpha is 1.5; expected 0"),
        (lambda: Procrustes()(normal(2, 3), normal(2, 3)), "x has 2 stimuli; procrustes needs 3"),
        (lambda: AngularShape()(normal(4, 3), normal(5, 3)), "x has 4 stimuli and y has 5"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()

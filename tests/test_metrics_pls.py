import doctest
import importlib

import numpy as np
import pytest
import torch

from repalign.metrics.pls import PLS, pls_weights

SIZES = pytest.mark.parametrize("p", [5, 29, 30, 80], ids=lambda p: f"{p} features")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def planted(n: int, p: int, targets: int = 3, noise: float = 0.5) -> tuple:
    x = normal(n, p)
    return x, x @ normal(p, targets, seed=1) / p**0.5 + noise * normal(n, targets, seed=2)


def deflating_pls(x: np.ndarray, y: np.ndarray, components: int) -> np.ndarray:
    """Weights by the definition: singular vectors of XᵀY, with x and y deflated at each step."""
    x, y = x - x.mean(0), y - y.mean(0)
    w, p, q = [], [], []
    for _ in range(components):
        direction = np.linalg.svd(x.T @ y)[0][:, 0]
        t = x @ direction
        w.append(direction)
        p.append(x.T @ t / (t @ t))
        q.append(y.T @ t / (t @ t))
        x, y = x - np.outer(t, p[-1]), y - np.outer(t, q[-1])
    w, p, q = (np.stack(each, 1) for each in (w, p, q))
    return w @ np.linalg.solve(p.T @ w, q.T)


def test_examples_run():
    assert doctest.testmod(importlib.import_module("repalign.metrics.pls")).failed == 0


@SIZES
@pytest.mark.parametrize("targets", [1, 3, 40])
@pytest.mark.parametrize("components", [1, 4])
def test_predictions_are_those_of_the_definition(p, targets, components):
    x, y = planted(30, p, targets)
    predictions, fold = PLS(folds=3, components=components).predict(x + 3, y - 2)
    for k in range(3):
        train = (fold != k).numpy()
        xt, yt = x.numpy()[train], y.numpy()[train] - 2
        expected = (x.numpy()[~train] - xt.mean(0)) @ deflating_pls(xt, yt, components) + yt.mean(0)
        np.testing.assert_allclose(predictions[~train], expected, rtol=0, atol=1e-9)


def test_all_components_are_ordinary_least_squares():
    x, y = planted(40, 5)
    predictions, fold = PLS(folds=4, components=5).predict(x, y)
    for k in range(4):
        train = fold != k
        xt, yt = (v[train] - v[train].mean(0) for v in (x, y))
        expected = (x[~train] - x[train].mean(0)) @ torch.linalg.lstsq(xt, yt).solution
        torch.testing.assert_close(predictions[~train], expected + y[train].mean(0))


@pytest.mark.parametrize("p", [5, 80])
def test_components_beyond_the_rank_add_nothing(p):
    x = normal(30, 4) @ normal(4, p, seed=5)
    y = normal(30, 3, seed=2)
    expected = PLS(folds=3, components=4).predict(x, y)[0]
    for components in (5, 25, 1000):
        found = PLS(folds=3, components=components).predict(x, y)[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_components_beyond_what_x_tells_of_y_add_nothing():
    x = normal(40, 6)
    y = x[:, :1] @ torch.ones(1, 3, dtype=x.dtype)
    predictions, _ = PLS(folds=4, components=6).predict(x, y)
    torch.testing.assert_close(predictions, y, rtol=0, atol=1e-9)


def test_directions_of_equal_covariance_give_one_prediction():
    """Singular vectors are then any rotation of each other; both are taken in the end."""
    whitened, cross = torch.eye(6).double(), torch.linalg.qr(normal(6, 3)).Q
    torch.testing.assert_close(pls_weights(whitened, cross, components=3), cross)


@SIZES
def test_pls_ignores_rotation_translation_scale_and_order_of_features(p):
    x, y = planted(30, p)
    metric = PLS(folds=3, components=3)
    expected = metric.predict(x, y)[0]
    rotation = torch.linalg.qr(normal(p, p, seed=9)).Q
    for changed in (x @ rotation, x + 5, 1e-8 * x, 1e-4 * x, 1e4 * x, x.flip(1)):
        torch.testing.assert_close(metric.predict(changed, y)[0], expected, rtol=0, atol=1e-8)


def test_pls_sees_the_scale_of_single_features_and_of_single_neuroids():
    x, y = planted(30, 8)
    metric = PLS(folds=3, components=2)
    value = metric(x, y)
    assert abs(metric(x * torch.linspace(0.1, 3, 8), y) - value) > 1e-3
    assert abs(metric(x, y * torch.tensor([1.0, 9.0, 0.1])) - value) > 1e-4


@pytest.mark.parametrize("p", [10, 60])
def test_float32_with_an_offset_keeps_its_predictions(p):
    x, y = planted(40, p)
    x32, y32 = (x + 1e4).float(), (y + 1e4).float()
    expected = PLS(components=5).predict(x32.double() - 1e4, y32.double() - 1e4)[0] + 1e4
    found = PLS(components=5).predict(x32, y32)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_linear_targets_are_predicted_and_unrelated_ones_are_not():
    x = normal(200, 20)
    assert PLS(components=20)(x, x @ normal(20, 4, seed=1)) > 0.999
    unrelated = [PLS(seed=s)(x, normal(200, 20, seed=s + 5)) for s in range(5)]
    assert abs(torch.stack(unrelated).mean()) < 0.06


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="components is 0; expected 1 or more"):
        PLS(components=0)

"""scikit-learn as an oracle of partial least squares, iterating until it stands still."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import PLSRegression

from repalign.metrics.pls import PLS


def fitted(x: np.ndarray, y: np.ndarray, components: int) -> PLSRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # components that add nothing, iterations without progress
        return PLSRegression(components, scale=False, tol=1e-24, max_iter=5000).fit(x, y)


@pytest.mark.parametrize("targets", [1, 6, 70])
@pytest.mark.parametrize("p", [8, 90])
def test_predictions_equal_plsregression(p, targets):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, p)) + 3
    y = x @ draw.normal(size=(p, targets)) / p**0.5 + draw.normal(size=(60, targets))
    predictions, fold = PLS(folds=4, components=5).predict(x, y)
    for k in range(4):
        train = (fold != k).numpy()
        expected = fitted(x[train], y[train], 5).predict(x[~train]).reshape(-1, targets)
        np.testing.assert_allclose(predictions[~train], expected, rtol=0, atol=1e-9)


def test_components_beyond_the_rank_equal_plsregression():
    draw = np.random.default_rng(1)
    x = draw.normal(size=(40, 3)) @ draw.normal(size=(3, 8))
    y = draw.normal(size=(40, 4))
    predictions, fold = PLS(folds=2, components=8).predict(x, y)
    for k in range(2):
        train = (fold != k).numpy()
        expected = fitted(x[train], y[train], 3).predict(x[~train])
        np.testing.assert_allclose(predictions[~train], expected, rtol=0, atol=1e-9)


def test_few_stimuli_equal_plsregression():
    draw = np.random.default_rng(2)
    x, y = torch.from_numpy(draw.normal(size=(6, 4))), torch.from_numpy(draw.normal(size=(6, 2)))
    predictions, fold = PLS(folds=2, components=2).predict(x, y)
    for k in range(2):
        train = fold != k
        expected = fitted(x[train].numpy(), y[train].numpy(), 2).predict(x[~train].numpy())
        np.testing.assert_allclose(predictions[~train], expected, rtol=0, atol=1e-9)

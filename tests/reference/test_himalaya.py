"""himalaya as an oracle of cross-validated ridge and banded ridge regression."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.model_selection import PredefinedSplit

from repalign.metrics.banded import product_measure
from repalign.metrics.banded_cv import banded_ridge_cv
from repalign.metrics.folds import shuffled_folds
from repalign.metrics.ridge_selection import ridge_cv

himalaya_ridge = pytest.importorskip("himalaya.ridge")
ALPHAS = np.logspace(-1, 4, 12)
SIZES = pytest.mark.parametrize(
    ("n", "p", "folds"), [(90, 12, 5), (90, 200, 4), (31, 8, 3), (8, 3, 4)]
)


def problem(n: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(n, p)) * np.linspace(0.2, 2, p) + 3
    y = x @ draw.normal(size=(p, 7)) / p**0.5 + np.linspace(0.1, 5, 7) * draw.normal(size=(n, 7))
    return x, y


def fitted(model, x: np.ndarray, y: np.ndarray):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather see kernels where features are many
        return model.fit(x, y)


@SIZES
def test_ridge_cv_equals_himalaya(n, p, folds):
    (x, y), fold = problem(n, p), shuffled_folds(n, folds=folds, seed=0)
    model = himalaya_ridge.RidgeCV(
        alphas=ALPHAS, cv=PredefinedSplit(fold.numpy()), fit_intercept=True
    )
    oracle = fitted(model, x, y)
    found = ridge_cv(x, y, alphas=ALPHAS.tolist(), fold=fold)
    np.testing.assert_allclose(found.alphas, oracle.best_alphas_, rtol=1e-12)
    np.testing.assert_allclose(found.scores, oracle.cv_scores_, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.weights, oracle.coef_, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.intercept, oracle.intercept_, rtol=0, atol=1e-10)


@SIZES
def test_banded_ridge_cv_equals_himalaya(n, p, folds):
    (x, y), fold = problem(n, p), shuffled_folds(n, folds=folds, seed=0)
    bands = (p // 3, p - p // 3)
    mixtures = np.array([[0.5, 0.5], [0.95, 0.05], [0.2, 0.8], [0.01, 0.99]])
    model = himalaya_ridge.GroupRidgeCV(
        groups=np.repeat([0, 1], bands),
        cv=PredefinedSplit(fold.numpy()),
        fit_intercept=True,
        solver_params={"n_iter": mixtures, "alphas": ALPHAS, "progress_bar": False, "warn": False},
    )
    oracle = fitted(model, x, y)
    found = banded_ridge_cv(x, y, bands=bands, mixtures=mixtures, alphas=ALPHAS.tolist(), fold=fold)
    deltas = (found.mixtures / found.alphas).log()
    np.testing.assert_allclose(deltas, oracle.deltas_, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.scores, oracle.cv_scores_.max(0), rtol=0, atol=1e-8)
    predictions = x @ found.weights.numpy() + found.intercept.numpy()
    np.testing.assert_allclose(predictions, oracle.predict(x), rtol=0, atol=1e-9)


def test_shares_of_bands_equal_himalaya():
    from himalaya.scoring import r2_score_split

    draw = np.random.default_rng(0)
    parts, y = draw.normal(size=(3, 40, 5)), draw.normal(size=(40, 5))
    parts, y = parts - parts.mean(1, keepdims=True), y - y.mean(0)
    found = product_measure(torch.from_numpy(parts), torch.from_numpy(y), torch.zeros(40))
    np.testing.assert_allclose(found, r2_score_split(y, parts), rtol=1e-10)

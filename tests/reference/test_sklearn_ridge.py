"""scikit-learn as an oracle of ridge predictivity."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV

from repalign.metrics import Ridge


@pytest.mark.parametrize("p", [8, 90])
def test_predictions_equal_ridgecv_with_an_alpha_per_target(p):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, p)) + 3
    y = x @ draw.normal(size=(p, 6)) / p**0.5 + np.linspace(0.1, 4, 6) * draw.normal(size=(60, 6))
    metric = Ridge(folds=4)
    predictions, fold = metric.predict(torch.from_numpy(x), torch.from_numpy(y))
    chosen = set()
    for k in range(4):
        train = (fold != k).numpy()
        scale = np.square(x[train] - x[train].mean(0)).sum() / train.sum()
        alphas = scale * np.array(metric.alphas)
        oracle = RidgeCV(alphas=alphas, alpha_per_target=True).fit(x[train], y[train])
        np.testing.assert_allclose(predictions[~train], oracle.predict(x[~train]), atol=1e-6)
        chosen |= set(np.round(np.log10(oracle.alpha_ / scale), 3))
    assert len(chosen) > 2  # the targets differ in the penalty they take

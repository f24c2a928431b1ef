import doctest

import numpy as np
import pytest
import scipy.stats
import torch

from repalign.metrics import Ridge, fold_scores, predictivity
from repalign.metrics.predictivity import _fit_and_predict, _spectra, shuffled_folds

SIZES = pytest.mark.parametrize("p", [5, 29, 30, 80], ids=lambda p: f"{p} features")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def planted(n: int, p: int, targets: int = 3, noise: float = 0.5) -> tuple:
    x = normal(n, p)
    return x, x @ normal(p, targets, seed=1) / p**0.5 + noise * normal(n, targets, seed=2)


def test_examples_run():
    assert doctest.testmod(predictivity).failed == 0


@SIZES
def test_held_out_predictions_are_those_of_plain_normal_equations(p):
    x, y = planted(30, p)
    metric = Ridge(folds=3, alphas=(0.1,))
    predictions, fold = metric.predict(x + 4, y + 2)
    for k in range(3):
        train, test = fold != k, fold == k
        x0, y0 = x[train] - x[train].mean(0), y[train] - y[train].mean(0)
        penalty = 0.1 * x0.square().sum() / train.sum() * torch.eye(p, dtype=x.dtype)
        weights = torch.linalg.solve(x0.T @ x0 + penalty, x0.T @ y0)
        expected = (x[test] - x[train].mean(0)) @ weights + y[train].mean(0) + 2
        torch.testing.assert_close(predictions[test], expected, rtol=0, atol=1e-9)


@SIZES
def test_alpha_minimises_the_error_of_leaving_each_training_stimulus_out(p):
    x, y = planted(30, p, noise=2.0)
    alphas = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
    fold = shuffled_folds(30, folds=2, seed=0)
    prepared = Ridge(folds=2).prepare(x)
    for test, spectrum in _spectra(prepared, fold):
        found = _fit_and_predict(spectrum, y[~test], alphas)
        xt, yt = x[~test], y[~test]
        scale = (xt - xt.mean(0)).square().sum() / len(xt)
        errors = torch.stack([left_out_error(xt, yt, alpha * scale) for alpha in alphas])
        chosen = errors.argmin(0)
        each = torch.stack([_fit_and_predict(spectrum, y[~test], (a,)) for a in alphas])
        torch.testing.assert_close(found, each[chosen, :, torch.arange(3)].T)


def left_out_error(x: torch.Tensor, y: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(y.shape[1], dtype=torch.float64)
    for i in range(len(x)):
        kept = torch.arange(len(x)) != i
        x0, y0 = x[kept] - x[kept].mean(0), y[kept] - y[kept].mean(0)
        gram = x0 @ x0.T + penalty * torch.eye(len(x0), dtype=x.dtype)
        weights = x0.T @ torch.linalg.solve(gram, y0)
        total += ((x[i] - x[kept].mean(0)) @ weights + y[kept].mean(0) - y[i]).square()
    return total


def test_gram_and_features_give_equal_predictions():
    x, y = planted(30, 12)
    metric = Ridge(folds=3)
    padded = torch.cat([x, torch.zeros(30, 40)], 1)  # more features than stimuli, same kernel
    assert metric.prepare(x).shape == (30, 12)
    assert metric.prepare(padded).shape == (30, 30)
    expected = metric.predict(x, y)[0]
    torch.testing.assert_close(metric.predict(padded, y)[0], expected, rtol=0, atol=1e-9)


@SIZES
def test_ridge_ignores_rotation_translation_scale_and_order_of_features(p):
    x, y = planted(30, p)
    metric = Ridge(folds=3)
    expected = metric.predict(x, y)[0]
    rotation = torch.linalg.qr(normal(p, p, seed=9)).Q
    for changed in (x @ rotation, x + 5, 1e-4 * x, 1e4 * x, x.flip(1)):
        torch.testing.assert_close(metric.predict(changed, y)[0], expected, rtol=0, atol=1e-8)


def test_scores_ignore_scale_and_offset_of_each_target():
    x, y = planted(30, 5)
    metric = Ridge(folds=3)
    changed = y * torch.tensor([1e-4, 2.0, 50.0]) + 7
    torch.testing.assert_close(metric.scores(x, changed), metric.scores(x, y))


def test_linear_targets_are_predicted_and_unrelated_ones_are_not():
    x = normal(200, 20)
    assert Ridge()(x, x @ normal(20, 4, seed=1)) > 0.999
    unrelated = torch.stack([Ridge(seed=s)(x, normal(200, 20, seed=s + 5)) for s in range(5)])
    assert abs(unrelated.mean()) < 0.06


def test_a_weak_effect_is_recovered_at_its_size():
    x, y = planted(400, 10, targets=30, noise=2.0)
    signal = x @ normal(10, 30, seed=1) / 10**0.5
    attainable = signal.std(0) / (signal.std(0) ** 2 + 4).sqrt()
    difference = Ridge().scores(x, y) - attainable
    assert abs(difference.mean()) < 0.06


def test_float32_with_an_offset_keeps_its_predictions():
    x, y = planted(40, 60)
    x32 = (x + 1e4).float()
    expected = Ridge().predict(x32.double() - 1e4, y)[0]
    torch.testing.assert_close(Ridge().predict(x32, y)[0], expected, rtol=0, atol=1e-8)


def test_scores_are_mean_correlations_within_folds():
    x, y = planted(30, 5)
    metric = Ridge(folds=3)
    predictions, fold = metric.predict(x, y)
    expected = [
        np.mean(
            [
                scipy.stats.pearsonr(predictions[fold == k, j], y[fold == k, j]).statistic
                for k in range(3)
            ]
        )
        for j in range(3)
    ]
    np.testing.assert_allclose(metric.scores(x, y), expected, rtol=1e-12)
    assert metric(x, y).item() == pytest.approx(np.median(expected))
    assert metric.compare_prepared(metric.prepare(x), y).item() == metric(x, y).item()


def test_folds_are_balanced_shuffled_and_seeded():
    fold = shuffled_folds(23, folds=5, seed=0)
    assert sorted(fold.bincount().tolist()) == [4, 4, 5, 5, 5]
    assert not torch.equal(fold, torch.arange(23) % 5)
    assert torch.equal(fold, shuffled_folds(23, folds=5, seed=0))
    assert not torch.equal(fold, shuffled_folds(23, folds=5, seed=1))


def test_constant_targets_leave_out_folds_then_neuroids():
    x, y = planted(33, 5)
    metric = Ridge(folds=3)
    predictions, fold = metric.predict(x, y)
    y[:, 0] = 0.1
    y[fold == 1, 1] = 0.1
    scores = fold_scores(predictions, y, fold)
    assert scores[0].isnan()
    kept = fold != 1
    torch.testing.assert_close(
        scores[1], fold_scores(predictions[kept], y[kept], fold[kept])[1], rtol=1e-12, atol=0
    )
    assert metric.scores(x, y)[0].isnan()
    assert metric(x, y).item() == pytest.approx(metric.scores(x, y)[1:].mean().item())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ridge(folds=1), "folds is 1; cross-validation needs 2"),
        (lambda: Ridge(alphas=()), r"alphas is \(\); expected one or more positive"),
        (lambda: Ridge(alphas=(0.0, 1.0)), "expected one or more positive finite"),
        (lambda: Ridge()(normal(9, 3), normal(9, 2)), "x has 9 stimuli; ridge needs 10 or more"),
        (lambda: Ridge()(normal(10, 3), normal(12, 2)), "x has 10 stimuli and y has 12"),
        (lambda: Ridge()(normal(10, 3), normal(10)), "y has shape"),
        (lambda: Ridge()(normal(10, 3).log(), normal(10, 2)), "x has .* NaN or infinite"),
        (lambda: Ridge()(normal(10, 3), normal(10, 2).log()), "y has .* NaN or infinite"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()

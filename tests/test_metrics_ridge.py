import doctest
import importlib

import pytest
import torch

from repalign.metrics.folds import shuffled_folds
from repalign.metrics.leave_out import least_error, leave_fold_out_errors, leave_one_out_errors
from repalign.metrics.ridge import Ridge, predictions_of
from repalign.metrics.ridge_selection import cross_validated_errors, ridge_cv
from repalign.metrics.spectra import fold_spectra, full_spectrum, spanning_columns

SIZES = pytest.mark.parametrize("p", [5, 23, 29, 30, 80], ids=lambda p: f"{p} features")
ALPHAS = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def planted(n: int, p: int, targets: int = 3, noise: float = 0.5) -> tuple:
    x = normal(n, p)
    return x, x @ normal(p, targets, seed=1) / p**0.5 + noise * normal(n, targets, seed=2)


def plain_ridge(x: torch.Tensor, y: torch.Tensor, penalty: torch.Tensor | float) -> tuple:
    """Weights and intercept by the normal equations."""
    x0, y0 = x - x.mean(0), y - y.mean(0)
    weights = torch.linalg.solve(
        x0.T @ x0 + penalty * torch.eye(x.shape[1], dtype=x.dtype), x0.T @ y0
    )
    return weights, y.mean(0) - x.mean(0) @ weights


def left_out_errors(x, y, penalties, fold) -> torch.Tensor:
    """Mean over folds of the mean squared error, by a fit to the others."""
    errors = torch.zeros(len(penalties), y.shape[1], dtype=y.dtype)
    numbers = fold.unique()
    for k in numbers:
        for row, penalty in enumerate(penalties):
            weights, intercept = plain_ridge(x[fold != k], y[fold != k], penalty)
            error = (x[fold == k] @ weights + intercept - y[fold == k]).square().mean(0)
            errors[row] += error / len(numbers)
    return errors


@pytest.mark.parametrize("name", ["ridge", "ridge_selection"])
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(f"repalign.metrics.{name}")).failed == 0


@SIZES
def test_held_out_predictions_are_those_of_plain_normal_equations(p):
    x, y = planted(30, p)
    metric = Ridge(folds=3, alphas=(0.1,))
    predictions, fold = metric.predict(x + 4, y + 2)
    for k in range(3):
        train = fold != k
        scale = (x[train] - x[train].mean(0)).square().sum() / train.sum()
        weights, intercept = plain_ridge(x[train], y[train] + 2, 0.1 * scale)
        expected = x[~train] @ weights + intercept
        torch.testing.assert_close(predictions[~train], expected, rtol=0, atol=1e-9)


@SIZES
def test_leave_one_out_errors_are_those_of_fits_without_each_stimulus(p):
    x, y = planted(30, p, noise=2.0)
    spectrum = full_spectrum(Ridge().prepare(x))
    found = leave_one_out_errors(*spectrum[:2], y, torch.tensor(ALPHAS, dtype=x.dtype))
    torch.testing.assert_close(found, left_out_errors(x, y, ALPHAS, torch.arange(30)))


@SIZES
def test_leave_fold_out_errors_are_those_of_fits_without_each_fold(p):
    x, y = planted(30, p, noise=2.0)
    fold = shuffled_folds(30, folds=4, seed=0)
    spectrum = full_spectrum(Ridge().prepare(x))
    found = leave_fold_out_errors(*spectrum[:2], y, torch.tensor(ALPHAS, dtype=x.dtype), fold)
    torch.testing.assert_close(found, left_out_errors(x, y, ALPHAS, fold))


@SIZES
def test_few_and_many_targets_have_the_same_errors(p, monkeypatch):
    """Both strategies, whichever the sizes choose."""
    x, y = planted(30, p, noise=2.0)
    fold, penalties = shuffled_folds(30, folds=4, seed=0), torch.tensor(ALPHAS, dtype=x.dtype)
    for few in (True, False):
        module = importlib.import_module("repalign.metrics.ridge_selection")
        monkeypatch.setattr(module, "_leaving_out_is_cheaper", lambda *_, few=few, **__: few)
        found = cross_validated_errors(Ridge().prepare(x), y, penalties, fold)
        torch.testing.assert_close(found, left_out_errors(x, y, ALPHAS, fold))


@SIZES
def test_trifling_penalties_keep_their_digits(p):
    x, y = planted(30, p, noise=2.0)
    fold, alphas = shuffled_folds(30, folds=4, seed=0), (1e-7, 1e-5)
    found = cross_validated_errors(Ridge().prepare(x), y, torch.tensor(alphas, dtype=x.dtype), fold)
    torch.testing.assert_close(found, left_out_errors(x, y, alphas, fold), rtol=1e-5, atol=0)


@SIZES
@pytest.mark.parametrize("inner_folds", [None, 3])
def test_each_neuroid_takes_the_alpha_of_least_error_on_the_training_stimuli(p, inner_folds):
    x, y = planted(30, p, noise=2.0)
    metric = Ridge(folds=2, alphas=ALPHAS, inner_folds=inner_folds)
    predictions, fold = metric.predict(x, y)
    for k in range(2):
        xt, yt = x[fold != k], y[fold != k]
        scale = (xt - xt.mean(0)).square().sum() / len(xt)
        penalties = [alpha * scale for alpha in ALPHAS]
        inner = shuffled_folds(len(xt), folds=inner_folds or len(xt), seed=0)
        chosen = left_out_errors(xt, yt, penalties, inner).argmin(0)
        for j, alpha in enumerate(chosen.tolist()):
            weights, intercept = plain_ridge(xt, yt, penalties[alpha])
            expected = x[fold == k] @ weights[:, j] + intercept[j]
            torch.testing.assert_close(predictions[fold == k, j], expected, rtol=0, atol=1e-9)


def test_inner_folds_keep_groups_together_and_so_take_stronger_penalties():
    """Copies of an image in both inner folds would make any fit look good."""
    x, y = normal(40, 60).repeat_interleave(2, 0), normal(40, 6, seed=1).repeat_interleave(2, 0)
    groups, metric = torch.arange(80) // 2, Ridge(folds=4, inner_folds=4)
    grouped, _ = metric.predict(x, y, groups=groups)
    blind, _ = Ridge(folds=4).predict(x, y, groups=groups)
    assert grouped.std() < 0.5 * blind.std()


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
    for changed in (x @ rotation, x + 5, 1e-8 * x, 1e-4 * x, 1e4 * x, x.flip(1)):
        torch.testing.assert_close(metric.predict(changed, y)[0], expected, rtol=0, atol=1e-8)


def test_ridge_sees_the_scale_of_single_features():
    x, y = planted(30, 5, noise=2.0)
    stretched = x * torch.tensor([1.0, 10.0, 0.1, 1.0, 5.0])
    assert abs(Ridge(folds=3)(stretched, y) - Ridge(folds=3)(x, y)) > 1e-3


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


@pytest.mark.parametrize("p", [10, 60])
def test_float32_with_an_offset_keeps_its_predictions(p):
    x, y = planted(40, p)
    x32 = (x + 1e4).float()
    expected = Ridge().predict(x32.double() - 1e4, y)[0]
    torch.testing.assert_close(Ridge().predict(x32, y)[0], expected, rtol=0, atol=1e-8)


@SIZES
def test_ridge_cv_is_the_fit_with_each_targets_best_penalty(p):
    x, y = planted(30, p, noise=1.0)
    fold = shuffled_folds(30, folds=4, seed=0)
    fit = ridge_cv(x + 3, y, alphas=ALPHAS, fold=fold)
    errors = left_out_errors(x, y, ALPHAS, fold)
    assert fit.alphas.tolist() == [ALPHAS[k] for k in errors.argmin(0)]
    torch.testing.assert_close(fit.scores, -errors.min(0).values)
    for j, alpha in enumerate(fit.alphas.tolist()):
        weights, intercept = plain_ridge(x + 3, y[:, j : j + 1], alpha)
        torch.testing.assert_close(fit.weights[:, j : j + 1], weights)
        torch.testing.assert_close(fit.intercept[j : j + 1], intercept)


@pytest.mark.parametrize("p", [10, 60])
def test_ridge_cv_of_float32_with_an_offset_is_that_of_float64(p):
    x, y = planted(40, p, targets=30, noise=1.0)
    x32, y32, fold = (x + 1e4).float(), (y + 1e4).float(), torch.arange(40) % 5
    found = ridge_cv(x32, y32, alphas=ALPHAS, fold=fold)
    expected = ridge_cv(x32.double() - 1e4, y32.double() - 1e4, alphas=ALPHAS, fold=fold)
    assert found.weights.dtype == found.intercept.dtype == torch.float32
    assert torch.equal(found.alphas, expected.alphas)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.weights.double(), expected.weights, rtol=0, atol=1e-5)


def test_of_equal_errors_the_larger_penalty_wins():
    fit = ridge_cv(
        normal(20, 3), torch.ones(20, 2).double(), alphas=ALPHAS, fold=torch.arange(20) % 4
    )
    assert fit.alphas.tolist() == [100.0, 100.0]
    assert least_error(torch.tensor([[1.0], [1.0]]), [5.0, 2.0])[0].tolist() == [5.0]


def test_spanning_columns_give_all_columns():
    eigenvalues, penalties = 1 + normal(50).square(), torch.logspace(-2, 4, 20).double()
    curves = eigenvalues[:, None] / (eigenvalues[:, None] + penalties)
    few, shares = spanning_columns(curves, digits=torch.float64)
    assert few.shape[1] < 20
    torch.testing.assert_close(few @ shares, curves, rtol=0, atol=1e-13)
    assert spanning_columns(curves, digits=torch.float32)[0].shape[1] < few.shape[1]


def test_a_fold_that_is_held_out_leaves_the_spectrum_of_the_others():
    x, y = planted(30, 8)
    fold = shuffled_folds(30, folds=3, seed=0)
    for test, spectrum in fold_spectra(Ridge().prepare(x), fold):
        centred = x[~test] - x[~test].mean(0)
        kernel = spectrum.train @ (spectrum.eigenvalues[:, None] * spectrum.train.T)
        torch.testing.assert_close(kernel, centred @ centred.T)
        weights, intercept = plain_ridge(x[~test], y[~test], 2.0)
        found = predictions_of(spectrum, y[~test], torch.tensor([2.0, 2.0, 2.0]).double())
        torch.testing.assert_close(found, x[test] @ weights + intercept)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ridge(alphas=()), r"alphas is \(\); expected one or more positive"),
        (lambda: Ridge(alphas=(0.0, 1.0)), "expected one or more positive finite"),
        (lambda: Ridge(inner_folds=1), "inner_folds is 1; expected 2 or more, or None"),
        (
            lambda: ridge_cv(normal(9, 2), normal(9, 1), alphas=[-1.0], fold=torch.arange(9)),
            "expected one or more positive",
        ),
        (
            lambda: ridge_cv(normal(9, 2), normal(9, 1), alphas=[1.0], fold=torch.zeros(9)),
            "fold has shape .9,. and 1 folds; expected",
        ),
        (
            lambda: ridge_cv(normal(9, 2), normal(8, 1), alphas=[1.0], fold=torch.arange(9)),
            "x has 9 stimuli and y has 8",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()

import doctest
import importlib

import numpy as np
import pytest
import torch

from repalign.metrics.banded import BandedRidge, drawn_mixtures, product_measure
from repalign.metrics.banded_cv import banded_ridge_cv
from repalign.metrics.folds import fold_scores, shuffled_folds
from repalign.metrics.ridge import Ridge
from repalign.metrics.ridge_selection import ridge_cv

ALPHAS = (0.1, 1.0, 10.0, 100.0)
MIXTURES = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9], [1.0, 0.0]], dtype=torch.float64)
SIZES = pytest.mark.parametrize("bands", [(3, 5), (20, 30)], ids=str)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def planted(bands: tuple[int, int], n: int = 40, noise: float = 1.0) -> tuple:
    """Two targets of the first band, two of the second, and one of both."""
    x = normal(n, sum(bands))
    weights = normal(sum(bands), 5, seed=1)
    weights[bands[0] :, :2] = 0
    weights[: bands[0], 2:4] = 0
    return x, x @ weights / sum(bands) ** 0.5 + noise * normal(n, 5, seed=2)


def penalised_fit(x, y, penalties: torch.Tensor) -> tuple:
    """Weights and intercept by the normal equations, with a penalty for each feature."""
    x0, y0 = x - x.mean(0), y - y.mean(0)
    weights = torch.linalg.solve(x0.T @ x0 + penalties.diag(), x0.T @ y0)
    return weights, y.mean(0) - x.mean(0) @ weights


@pytest.mark.parametrize("name", ["banded", "banded_cv"])
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(f"repalign.metrics.{name}")).failed == 0


@SIZES
def test_each_target_takes_the_mixture_and_the_penalty_of_least_left_out_error(bands):
    x, y = planted(bands)
    fold, mixtures = shuffled_folds(40, folds=4, seed=0), MIXTURES[:3]
    fit = banded_ridge_cv(x + 2, y, bands=bands, mixtures=mixtures, alphas=ALPHAS, fold=fold)
    candidates = [(mixture, alpha) for mixture in mixtures for alpha in ALPHAS]
    errors = torch.zeros(len(candidates), 5, dtype=x.dtype)
    for row, (mixture, alpha) in enumerate(candidates):
        penalties = (alpha / mixture).repeat_interleave(torch.tensor(bands))
        for k in range(4):
            weights, intercept = penalised_fit(x[fold != k], y[fold != k], penalties)
            error = x[fold == k] @ weights + intercept - y[fold == k]
            errors[row] += error.square().mean(0) / 4
    torch.testing.assert_close(fit.scores, -errors.min(0).values)
    for j, row in enumerate(errors.argmin(0).tolist()):
        mixture, alpha = candidates[row]
        assert fit.alphas[j] == alpha
        assert torch.equal(fit.mixtures[:, j], mixture)
        penalties = (alpha / mixture).repeat_interleave(torch.tensor(bands))
        weights, intercept = penalised_fit(x + 2, y[:, j : j + 1], penalties)
        torch.testing.assert_close(fit.weights[:, j : j + 1], weights)
        torch.testing.assert_close(fit.intercept[j : j + 1], intercept)


@SIZES
def test_a_band_without_a_share_has_no_weights(bands):
    x, y = planted(bands)
    fold = torch.arange(40) % 4
    fit = banded_ridge_cv(x, y, bands=bands, mixtures=MIXTURES[3:], alphas=ALPHAS, fold=fold)
    assert (fit.weights[bands[0] :] == 0).all()
    alone = ridge_cv(x[:, : bands[0]], y, alphas=ALPHAS, fold=fold)
    torch.testing.assert_close(fit.weights[: bands[0]], alone.weights)
    torch.testing.assert_close(fit.scores, alone.scores)


@pytest.mark.parametrize("p", [5, 60])
def test_one_band_is_ridge(p):
    x, y = normal(40, p), normal(40, 3, seed=1) + normal(40, p)[:, :3]
    found = BandedRidge(folds=4, inner_folds=3, alphas=ALPHAS).predict(x, y)[0]
    expected = Ridge(folds=4, inner_folds=3, alphas=ALPHAS).predict(x, y)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_bands_beat_one_penalty_where_one_space_is_noise():
    x, y = planted((10, 400), n=120, noise=0.3)
    metric = BandedRidge(bands=(10, 400), mixtures=8, alphas=(1e-3, 0.01, 0.1, 1.0))
    assert (metric.scores(x, y) - Ridge().scores(x, y))[:2].min() > 0.15


def test_shares_are_the_planted_ones_and_add_up_to_the_explained_variance():
    x, y = planted((4, 4), n=300, noise=0.3)
    metric = BandedRidge(bands=(4, 4), mixtures=8, score="explained_variance")
    shares = metric.split_scores(x, y)
    torch.testing.assert_close(shares.sum(0), metric.scores(x, y), rtol=0, atol=1e-10)
    assert shares[1, :2].abs().max() < 0.03
    assert shares[0, 2:4].abs().max() < 0.03
    assert (shares[:, 4] > 0.1).all()


def test_product_measure_is_the_definition():
    parts, y = normal(2, 30, 3), normal(30, 3, seed=1)
    found = product_measure(parts, y, torch.zeros(30, dtype=torch.int64))
    t = y.numpy() - y.numpy().mean(0)
    p = parts.numpy() - parts.numpy().mean(1, keepdims=True)
    expected = [(2 * t * band - band * p.sum(0)).sum(0) / np.square(t).sum(0) for band in p]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    score = fold_scores(parts.sum(0), y, torch.zeros(30), score="explained_variance")
    torch.testing.assert_close(found.sum(0), score)


def test_shares_of_a_constant_neuroid_are_nan():
    x, y = planted((3, 5))
    y[:, 1] = 0.1
    shares = BandedRidge(bands=(3, 5), mixtures=2).split_scores(x, y)
    assert shares.isnan().tolist() == [[False, True, False, False, False]] * 2


def test_a_list_of_arrays_is_the_bands_side_by_side():
    x, y = planted((3, 5))
    expected = BandedRidge(bands=(3, 5), mixtures=3).scores(x, y)
    found = BandedRidge(mixtures=3).scores([x[:, :3].numpy(), x[:, 3:]], y)
    assert torch.equal(found, expected)
    assert BandedRidge(mixtures=3)([x[:, :3], x[:, 3:]], y).item() == expected.median().item()


@SIZES
def test_banded_ridge_ignores_translation_and_the_scale_of_each_band(bands):
    x, y = planted(bands)
    metric = BandedRidge(bands=bands, mixtures=3, folds=4)
    expected = metric.predict(x, y)[0]
    each = torch.tensor([1e-4, 30.0]).repeat_interleave(torch.tensor(bands))
    for changed in (x + 5, 1e-8 * x, x * each):
        torch.testing.assert_close(metric.predict(changed, y)[0], expected, rtol=0, atol=1e-8)


def test_banded_ridge_sees_which_band_a_feature_is_in():
    x, y = planted((3, 5))
    metric = BandedRidge(bands=(3, 5), mixtures=5, folds=4)
    assert abs(metric(x.flip(1), y) - metric(x, y)) > 1e-4
    assert "neuroid order" not in metric.invariances
    assert "rotation" in BandedRidge().invariances


@SIZES
def test_float32_with_an_offset_keeps_its_predictions(bands):
    x, y = planted(bands)
    x32 = (x + 1e4).float()
    metric = BandedRidge(bands=bands, mixtures=3, folds=4)
    expected = metric.predict(x32.double() - 1e4, y)[0]
    torch.testing.assert_close(metric.predict(x32, y)[0], expected, rtol=0, atol=1e-8)


def test_mixtures_are_equal_first_then_drawn_on_the_simplex():
    mixtures = drawn_mixtures(3, count=200, seed=0)
    assert mixtures[0].tolist() == [1 / 3] * 3
    torch.testing.assert_close(mixtures.sum(1), torch.ones(200).double())
    assert torch.equal(mixtures, drawn_mixtures(3, count=200, seed=0))
    assert mixtures[1::2].max(1).values.mean() < mixtures[2::2].max(1).values.mean()
    assert drawn_mixtures(1, count=200, seed=0).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: BandedRidge(bands=(3, 4))(x, y), "bands is .3, 4., 7 features in all, and x"),
        (lambda x, y: BandedRidge(bands=(3, 5))([x[:, :4], x[:, 4:]], y), "leave out bands"),
        (lambda x, y: BandedRidge()([x[:9], x], y), "The bands of x have shapes"),
        (lambda x, y: BandedRidge(mixtures=0), "mixtures is 0 and inner_folds 5"),
        (lambda x, y: BandedRidge(alphas=(-1.0,)), "expected one or more positive"),
        (
            lambda x, y: banded_ridge_cv(
                x, y, bands=(3, 5), mixtures=-MIXTURES, alphas=ALPHAS, fold=torch.arange(40)
            ),
            "mixtures has shape .4, 2.; expected mixture × band with 2 bands",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(*planted((3, 5)))

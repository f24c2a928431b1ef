import doctest

import numpy as np
import pytest
import rsatoolbox
import scipy.optimize
import torch
from rsatoolbox.model.fitter import fit_interpolate as rsatoolbox_interpolate
from rsatoolbox.model.fitter import fit_regress, fit_regress_nn
from rsatoolbox.model.fitter import fit_select as rsatoolbox_select
from scipy.spatial.distance import pdist, squareform

from repalign.metrics import model_rdms
from repalign.metrics.comparators import compare_rdms
from repalign.metrics.model_rdms import (
    crossvalidated_weights,
    fit_interpolate,
    fit_select,
    fit_weights,
)

FITTED = ["corr", "corr_cov", "cosine", "cosine_cov"]


def distances(n: int, k: int, *, seed: int = 0, p: int = 6) -> np.ndarray:
    """Return k RDMs of squared Euclidean distances over the number of neuroids."""
    x = np.random.default_rng(seed).normal(size=(k, n, p))
    return np.stack([pdist(one, "sqeuclidean") / p for one in x])


def mixture(models: np.ndarray, weights: list[float], *, noise: float, seed: int = 9) -> np.ndarray:
    clean = np.array(weights) @ models
    return clean + noise * np.random.default_rng(seed).normal(size=clean.shape)


def rdms(x: np.ndarray) -> rsatoolbox.rdm.RDMs:
    return rsatoolbox.rdm.RDMs(np.atleast_2d(x))


def weighted(models: np.ndarray) -> rsatoolbox.model.ModelWeighted:
    return rsatoolbox.model.ModelWeighted("weighted", rdms(models))


def similarity(weights, models: np.ndarray, data: np.ndarray, method: str) -> float:
    return (
        compare_rdms((np.asarray(weights) @ models)[None], data, method=method, batch_dims=1)
        .mean()
        .item()
    )


def test_examples_run():
    assert doctest.testmod(model_rdms).failed == 0


@pytest.mark.parametrize("method", ["corr", "cosine"])
def test_fit_weights_equals_rsatoolbox(method):
    models = distances(10, 4)
    for data in (distances(10, 3, seed=1), mixture(models, [1, 0, 2, 0], noise=0.3)):
        expected = fit_regress_nn(weighted(models), rdms(data), method=method)
        np.testing.assert_allclose(fit_weights(models, data, method=method), expected, atol=1e-8)
        expected = fit_regress(weighted(models), rdms(data), method=method)
        found = fit_weights(models, data, method=method, nonnegative=False)
        np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("method", ["corr_cov", "cosine_cov"])
def test_whitened_weights_equal_rsatoolbox_within_its_tolerance(method):
    models = distances(10, 4)
    data = mixture(models, [1, 0, 2, 0], noise=0.3)
    expected = fit_regress_nn(weighted(models), rdms(data), method=method)
    found = fit_weights(models, data, method=method)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert similarity(found, models, data[None], method) >= (
        similarity(expected, models, data[None], method) - 1e-12
    )


def test_cosine_weights_are_non_negative_least_squares():
    models, data = distances(10, 5), distances(10, 1, seed=3)[0]
    expected, _ = scipy.optimize.nnls(models.T, data)
    assert 0 < (expected == 0).sum() < 5  # the constraint binds
    found = fit_weights(models, data)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", FITTED)
def test_no_other_weights_are_more_similar_to_the_subjects(method):
    models = distances(9, 3)
    data = distances(9, 4, seed=2) + [2, 1, 0] @ models
    data[0] *= 50  # a subject of large distances counts no more than the others
    best = similarity(fit_weights(models, data, method=method), models, data, method)
    generator = np.random.default_rng(0)
    for weights in generator.random((200, 3)):
        assert similarity(weights, models, data, method) <= best + 1e-12
    free = fit_weights(models, data, method=method, nonnegative=False)
    best = similarity(free, models, data, method)
    for weights in free.numpy() + 0.1 * generator.normal(size=(200, 3)):
        assert similarity(weights, models, data, method) <= best + 1e-12


@pytest.mark.parametrize("method", FITTED)
def test_planted_weights_are_recovered(method):
    models = distances(12, 4)
    planted = np.array([3.0, 0, 4, 0])
    found = fit_weights(models, planted @ models + (7 if "corr" in method else 0), method=method)
    np.testing.assert_allclose(found, planted / 5, rtol=0, atol=1e-7)


def test_weights_follow_the_unit_of_each_model():
    models, data = distances(9, 3), distances(9, 1, seed=2)[0]
    units = np.array([1e-4, 1.0, 1e3])
    for ridge in (0.0, 0.5):
        plain = fit_weights(models, data, ridge=ridge)
        found = fit_weights(units[:, None] * models, 1e-6 * data, ridge=ridge).numpy() * units
        np.testing.assert_allclose(found / np.linalg.norm(found), plain, rtol=0, atol=1e-9)


def test_ridge_equals_rsatoolbox_for_models_of_unit_length_and_evens_weights_out():
    models = distances(10, 3)
    models /= np.linalg.norm(models, axis=1, keepdims=True)
    data = mixture(models, [1, 0, 0.2], noise=0.01)
    expected = fit_regress_nn(weighted(models), rdms(data), ridge_weight=0.7)
    found = fit_weights(models, data, ridge=0.7)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    assert found.std() < fit_weights(models, data).std()


def test_square_rdms_and_missing_pairs_are_fitted():
    models, data = distances(7, 2), distances(7, 3, seed=1)
    expected = fit_weights(models, data)
    squares = [np.stack([squareform(x) for x in stack]) for stack in (models, data)]
    torch.testing.assert_close(fit_weights(*squares), expected)
    kept = np.arange(21) != 4
    expected, _ = scipy.optimize.nnls(models[:, kept].T, data[0, kept])
    models[:, 4], data[:, 4] = np.nan, np.nan
    found = fit_weights(models, data[0])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-12)


def test_models_that_fit_nothing_get_no_weight_and_constants_none_defined():
    a = distances(7, 1)[0]
    assert fit_weights((-a)[None], a).tolist() == [0]
    assert fit_weights(np.stack([a, np.zeros(21)]), a).tolist() == [1, 0]
    assert fit_weights(a[None], np.ones(21), method="corr").isnan().all()


@pytest.mark.parametrize("method", ["cosine", "spearman", "tau-a", "cosine_cov"])
def test_fit_select_equals_rsatoolbox(method):
    models = distances(8, 5)
    data = distances(8, 3, seed=4) + models[3]
    model = rsatoolbox.model.ModelSelect("select", rdms(models))
    found = fit_select(models, data, method=method)
    assert found == rsatoolbox_select(model, rdms(data), method=method) == 3


def test_fit_select_takes_the_least_distance():
    models = distances(8, 3)
    assert fit_select(models, models[1], method="bures_metric") == 1


@pytest.mark.parametrize("method", ["corr", "cosine"])
def test_fit_interpolate_equals_rsatoolbox(method):
    models = distances(8, 4)
    model = rsatoolbox.model.ModelInterpolate("blend", rdms(models))
    for weights in ([0, 0.3, 0.7, 0], [0.2, 0.8, 0, 0], [0, 0, 0, 1]):
        data = mixture(models, weights, noise=0.05)
        expected = rsatoolbox_interpolate(model, rdms(data), method=method)
        found = fit_interpolate(models, data, method=method)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_held_out_stimuli_never_enter_the_fit():
    models, data = distances(12, 3), distances(12, 2, seed=1)
    plain = crossvalidated_weights(models, data, n_folds=3)
    held_out = np.flatnonzero(plain.fold == 0)
    changed = np.stack([squareform(x) for x in data])
    changed[:, held_out] = 9 + changed[:, held_out]
    changed = (changed + changed.transpose(0, 2, 1)) / 2
    changed[:, np.arange(12), np.arange(12)] = 0
    found = crossvalidated_weights(models, changed, n_folds=3)
    torch.testing.assert_close(found.weights[0], plain.weights[0], rtol=0, atol=1e-12)
    assert (found.weights[1] - plain.weights[1]).abs().max() > 1e-3
    assert (found.values[0] - plain.values[0]).abs().max() > 1e-3


def test_held_out_values_are_those_of_the_fitted_model_among_held_out_stimuli():
    models = distances(11, 3)
    data = distances(11, 2, seed=1) + models[0]
    fitted = crossvalidated_weights(models, data, n_folds=3, method="corr", seed=3)
    assert sorted(torch.bincount(fitted.fold).tolist()) == [3, 4, 4]
    for i in range(3):
        held_out = np.flatnonzero(fitted.fold == i)
        among = [
            np.stack([squareform(squareform(x)[held_out][:, held_out]) for x in stack])
            for stack in (models, data)
        ]
        expected = compare_rdms(
            fitted.weights[i].numpy() @ among[0], among[1], method="corr", batch_dims=1
        )
        torch.testing.assert_close(fitted.values[i], expected)


@pytest.mark.parametrize("method", FITTED)
def test_planted_weights_predict_held_out_stimuli(method):
    models = distances(20, 3)
    fitted = crossvalidated_weights(
        models, mixture(models, [2, 1, 0], noise=1e-3), n_folds=4, method=method
    )
    assert fitted.values.min() > 0.999
    expected = torch.tensor([2.0, 1, 0]).double().expand(4, 1, 3) / 5**0.5
    torch.testing.assert_close(fitted.weights, expected, rtol=0, atol=0.01)


def test_models_of_noise_gain_nothing_among_held_out_stimuli():
    options = {"method": "corr", "nonnegative": False}
    same_pairs, held_out = [], []
    for seed in range(10):
        signal, many = distances(20, 1, seed=seed), distances(20, 13, seed=seed)
        data = mixture(signal, [1], noise=2, seed=seed + 100)[None]
        for found, sign in ((signal, -1), (many, 1)):
            weights = fit_weights(found, data, **options)
            same_pairs.append(sign * similarity(weights, found, data, "corr"))
            values = crossvalidated_weights(found, data, n_folds=4, **options).values
            held_out.append(sign * values.mean())
    assert sum(same_pairs) / 10 > 0.03  # what fitting to the same pairs pretends
    assert sum(held_out) / 10 < -0.03


def test_a_subject_that_is_predicted_is_left_out_of_the_fit():
    models = distances(12, 3)
    data = np.stack([models[0], models[0], models[1]])
    fitted = crossvalidated_weights(models, data, n_folds=3, across_subjects=True)
    assert fitted.weights.shape == (3, 3, 3)
    torch.testing.assert_close(
        fitted.weights[:, 2], torch.eye(3).double()[0].expand(3, 3), rtol=0, atol=1e-8
    )
    pooled = crossvalidated_weights(models, data, n_folds=3)
    assert pooled.weights[:, 2, 1].min() > 0.1
    assert pooled.values[:, 2].mean() > fitted.values[:, 2].mean()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: fit_weights(m, m[0], method="spearman"), "'spearman' is no method of fitting"),
        (lambda m: fit_weights(m, m[0], ridge=-1), "ridge is -1; expected 0 or more"),
        (lambda m: fit_weights(m, distances(5, 1)[0]), "have 28 and 10 pairs"),
        (lambda m: fit_interpolate(m[:1], m[0]), "needs 2 or more models; there is 1"),
        (lambda m: fit_select(m, np.ones(28), method="corr"), "No model has a defined corr"),
        (lambda m: crossvalidated_weights(m, m[0], n_folds=3), "n_folds is 3 for 8 stimuli"),
        (lambda m: crossvalidated_weights(m, m[0], n_folds=1), "n_folds is 1 for 8 stimuli"),
        (
            lambda m: crossvalidated_weights(m, m[0], n_folds=2, across_subjects=True),
            "2 or more subjects; there is 1",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(distances(8, 3))


def test_one_square_rdm_is_one_rdm_also_of_three_stimuli():
    square = torch.tensor([[0.0, 1, 2], [1, 0, 4], [2, 4, 0]])
    models = torch.tensor([[1.0, 2, 3], [3, 1, 2]])
    torch.testing.assert_close(
        fit_weights(models, square), fit_weights(models, torch.tensor([1.0, 2, 4]))
    )

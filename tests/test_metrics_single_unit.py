import doctest
import importlib

import numpy as np
import pytest
import torch

from repalign.metrics.single_unit import SingleUnit


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_examples_run():
    assert doctest.testmod(importlib.import_module("repalign.metrics.single_unit")).failed == 0


def test_predictions_are_regressions_on_the_best_correlated_unit():
    x, y = normal(40, 7), normal(40, 4, seed=1)
    predictions, fold = SingleUnit(folds=4).predict(x + 3, y)
    for k in range(4):
        train = (fold != k).numpy()
        for j in range(4):
            correlations = [np.corrcoef(x[train, u], y[train, j])[0, 1] for u in range(7)]
            unit = int(np.argmax(correlations))
            slope, intercept = np.polyfit(x[train, unit], y[train, j], 1)
            expected = intercept + slope * x[~train, unit].numpy()
            np.testing.assert_allclose(predictions[~train, j], expected, atol=1e-10)


def test_planted_partners_are_found_among_many_units():
    x = normal(100, 300)
    y = 3 * x[:, [40, 250, 40]] + normal(100, 3, seed=1)
    attainable = 3 / 10**0.5
    assert SingleUnit().scores(x, y).tolist() == pytest.approx([attainable] * 3, abs=0.04)


def test_the_choice_on_the_same_stimuli_would_find_a_partner_for_noise():
    """The best of 300 units correlates at .35 with a neuroid that none has to do with."""
    x, y = normal(100, 300), normal(100, 20, seed=1)
    z, t = ((v - v.mean(0)) / v.std(0) for v in (x, y))
    assert (z.T @ t / 99).max(0).values.median() > 0.25
    assert abs(SingleUnit()(x, y)) < 0.08


def test_single_unit_ignores_scale_offset_and_order_of_units():
    x, y = normal(40, 7), normal(40, 4, seed=1)
    expected = SingleUnit().scores(x, y)
    scales = normal(7, seed=3).exp()
    for changed in (x * scales, x + 5, x.flip(1), 1e-4 * x, 1e-8 * x):
        torch.testing.assert_close(SingleUnit().scores(changed, y), expected, rtol=0, atol=1e-10)


def test_single_unit_sees_rotation_and_sign():
    x = normal(60, 7)
    y = x[:, :3] + 0.1 * normal(60, 3, seed=1)
    rotation = torch.linalg.qr(normal(7, 7, seed=9)).Q
    assert SingleUnit()(x, y) > 0.95
    assert SingleUnit()(x @ rotation, y) < 0.9
    assert SingleUnit()(-x, y) < 0.5


def test_float32_with_an_offset_keeps_its_scores():
    x, y = normal(40, 7), normal(40, 4, seed=1)
    x32, y32 = (x + 1e4).float(), (y + 1e4).float()
    expected = SingleUnit().scores(x32.double() - 1e4, y32.double() - 1e4)
    torch.testing.assert_close(SingleUnit().scores(x32, y32), expected, rtol=0, atol=1e-9)


def test_units_that_never_respond_are_never_chosen():
    x, y = normal(40, 3), normal(40, 2, seed=1)
    silent = torch.cat([torch.full((40, 2), 0.1, dtype=x.dtype), x], 1)
    assert torch.equal(SingleUnit().predict(silent, y)[0], SingleUnit().predict(x, y)[0])


def test_a_unit_that_responds_in_one_fold_only_is_not_chosen_for_it():
    x, y = normal(20, 3), normal(20, 2, seed=1)
    _, fold = SingleUnit().predict(x, y)
    lone = torch.zeros(20, 1, dtype=x.dtype)
    lone[fold == 2] = 1e6 * normal(int((fold == 2).sum()), 1, seed=4)
    expected = SingleUnit().predict(x, y)[0]
    found = SingleUnit().predict(torch.cat([x, lone], 1), y)[0]
    assert torch.equal(found[fold == 2], expected[fold == 2])

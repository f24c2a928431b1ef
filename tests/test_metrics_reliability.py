import doctest
import importlib
import itertools

import numpy as np
import pytest
import torch

from repalign.metrics.folds import fold_scores
from repalign.metrics.noise_correction import noise_corrected, noise_corrected_scores, reliability
from repalign.metrics.pls import PLS
from repalign.metrics.ridge import Ridge
from repalign.metrics.single_unit import SingleUnit

NAN = float("nan")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def recorded(signal: torch.Tensor, *, repeats: int, noise: float, seed: int = 9) -> torch.Tensor:
    return signal + noise * normal(repeats, *signal.shape, seed=seed)


def ragged(trials: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Keep as many presentations of each stimulus as ``counts`` says."""
    missing = torch.arange(len(trials))[:, None] >= counts
    return trials.masked_fill(missing[..., None], torch.nan)


def test_examples_run():
    assert doctest.testmod(importlib.import_module("repalign.metrics.noise_correction")).failed == 0


def test_of_two_repetitions_it_is_spearman_brown_of_their_correlation():
    y = recorded(normal(30, 3), repeats=2, noise=1.0)
    r = np.array([np.corrcoef(y[0, :, j], y[1, :, j])[0, 1] for j in range(3)])
    np.testing.assert_allclose(reliability(y, splits=3), 2 * r / (1 + r), rtol=1e-12)


def test_of_four_repetitions_it_is_that_of_all_splits_into_halves():
    y = recorded(normal(30, 2), repeats=4, noise=1.0)
    pairs = [((0, k), tuple({1, 2, 3} - {k})) for k in (1, 2, 3)]
    r = np.mean(
        [
            [
                np.corrcoef(y[list(a), :, j].mean(0), y[list(b), :, j].mean(0))[0, 1]
                for j in range(2)
            ]
            for a, b in pairs
        ],
        axis=0,
    )
    np.testing.assert_allclose(reliability(y, splits=400), 2 * r / (1 + r), atol=0.02)


@pytest.mark.parametrize(("repeats", "noise"), list(itertools.product([2, 3, 5, 8], [0.5, 2.0])))
def test_planted_reliability_of_the_average_is_recovered(repeats, noise):
    y = recorded(normal(1500, 12), repeats=repeats, noise=noise)
    expected = 1 / (1 + noise**2 / repeats)
    assert reliability(y, splits=10).mean().item() == pytest.approx(expected, abs=0.02)


def test_planted_reliability_is_recovered_from_ragged_repetitions():
    signal, counts = normal(3000, 8), torch.tensor([1, 2, 3, 4, 9, 5]).repeat(500)
    y = ragged(recorded(signal, repeats=9, noise=1.5), counts)
    truth = fold_scores(y.nanmean(0), signal, torch.zeros(3000)).square()
    torch.testing.assert_close(reliability(y, splits=20), truth, rtol=0, atol=0.04)
    assert abs(reliability(y, splits=20) - truth).mean() < 0.015


def test_a_shift_of_a_whole_session_is_no_noise():
    y = recorded(normal(100, 3), repeats=4, noise=1.0)
    shifted = y + torch.tensor([0.0, 5.0, -3.0, 8.0])[:, None, None]
    torch.testing.assert_close(reliability(shifted), reliability(y))


def test_pure_noise_has_no_reliability():
    values = reliability(normal(4, 200, 300), splits=10)
    assert abs(values.median()) < 0.05
    assert (values < 0).any()  # never clamped


def test_a_constant_neuroid_has_none_to_speak_of():
    y = recorded(normal(30, 2), repeats=4, noise=1.0)
    y[:, :, 1] = 0.1
    assert reliability(y).isnan().tolist() == [False, True]


def test_float32_with_an_offset_is_as_reliable():
    y32 = (recorded(normal(30, 2), repeats=4, noise=1.0) + 1e4).float()
    expected = reliability(y32.double() - 1e4)
    torch.testing.assert_close(reliability(y32), expected, rtol=0, atol=1e-9)


def test_correction_is_the_attenuation_formula():
    r, x, y = torch.tensor([0.3, 0.9]), torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.4])
    torch.testing.assert_close(noise_corrected(r, x, y), r / (x * y).sqrt())
    assert noise_corrected(r, x, y)[1] > 1  # never clamped


def test_unreliable_neuroids_are_nan_on_either_side():
    r = torch.tensor([0.3, 0.3, 0.3, 0.3])
    x, y = torch.tensor([0.5, 0.0, -0.2, -0.2]), torch.tensor([0.5, 0.5, 0.5, -0.2])
    assert noise_corrected(r, x, y).isnan().tolist() == [False, True, True, True]
    assert noise_corrected(torch.tensor([NAN]), 1.0, 1.0).isnan().all()


@pytest.mark.parametrize("metric", [Ridge(), PLS(components=5)], ids=lambda m: m.name)
def test_noise_of_the_targets_is_corrected_for(metric):
    x = normal(600, 5)
    clean = x @ normal(5, 20, seed=1) + 1.5 * normal(600, 20, seed=2)
    noisy = recorded(clean, repeats=4, noise=3.0)
    truth, raw = metric(x, clean), metric(x, noisy)
    corrected = noise_corrected_scores(metric, x, noisy).nanmedian()
    assert truth - raw > 0.1
    assert abs(corrected - truth) < 0.04


@pytest.mark.parametrize("metric", [Ridge(), SingleUnit()], ids=lambda m: m.name)
def test_noise_of_both_sides_is_corrected_for(metric):
    """One noisy unit for each target, so that its reliability is that of the prediction."""
    x = normal(600, 8)
    if metric.name == "ridge":
        x = x[:, :1]
    clean = 1.5 * x[:, [k % x.shape[1] for k in range(20)]] + normal(600, 20, seed=1)
    noisy_x, noisy_y = (
        recorded(x, repeats=4, noise=1.5),
        recorded(clean, repeats=4, noise=2.0, seed=5),
    )
    truth, raw = metric(x, clean), metric(noisy_x, noisy_y)
    corrected = noise_corrected_scores(metric, noisy_x, noisy_y, splits=5).nanmedian()
    assert truth - raw > 0.2
    assert abs(corrected - truth) < 0.05


def test_unrelated_populations_stay_unrelated_after_correction():
    x = recorded(normal(200, 4), repeats=4, noise=1.0)
    y = recorded(normal(200, 40, seed=1), repeats=4, noise=1.0, seed=5)
    assert abs(noise_corrected_scores(SingleUnit(), x, y, splits=3).nanmedian()) < 0.1
    assert abs(noise_corrected_scores(Ridge(), x[0], y, splits=3).nanmedian()) < 0.1


def test_groups_and_missing_presentations_are_kept():
    x, counts = normal(120, 3), torch.tensor([2, 3, 4, 1]).repeat(30)
    y = ragged(recorded(x @ normal(3, 5, seed=1), repeats=4, noise=0.5), counts)
    trials = ragged(recorded(x, repeats=4, noise=0.2, seed=7), counts)
    groups = [f"object-{k // 4}" for k in range(120)]
    found = noise_corrected_scores(Ridge(), trials, y, groups=groups, splits=3)
    assert found.tolist() == pytest.approx([1] * 5, abs=0.06)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reliability(normal(30, 2)), "y has shape .30, 2.; expected .repeat, stimulus"),
        (lambda: reliability(normal(1, 30, 2)), "0 of 30 stimuli of y have 2 or more repetitions"),
        (lambda: reliability(normal(4, 30, 2), splits=0), "splits is 0; expected 1 or more"),
        (
            lambda: noise_corrected_scores(Ridge(score="r2"), normal(30, 2), normal(4, 30, 2)),
            "The metric's score is 'r2'; noise correction is for correlations",
        ),
        (
            lambda: noise_corrected_scores(Ridge(), normal(1, 30, 2), normal(4, 30, 2)),
            "0 of 30 stimuli of x have 2 or more",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()

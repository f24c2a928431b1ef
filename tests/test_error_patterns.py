import doctest
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import cohen_kappa_score

from repalign.robustness import error_patterns
from repalign.robustness.error_patterns import (
    ERROR_PATTERNS,
    error_consistency,
    error_kappa,
    error_pattern,
    sensitivity,
)

KINDS = pytest.mark.parametrize("kind", ERROR_PATTERNS)


def observer(seed: int, n: int = 120, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Shares of choices with a difficulty and a confusion of each image, and its object."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    logits = rng.normal(0, 0.8, (n, classes)) + 1.5 * np.eye(classes)[labels]
    shares = np.exp(logits)
    return shares / shares.sum(1, keepdims=True), labels


def test_examples_run():
    assert doctest.testmod(error_patterns).failed == 0


def test_sensitivity_has_its_closed_form_and_its_limits():
    hits, alarms = torch.tensor([0.9, 0.5, 1.0, 0.0, 1.0]), torch.tensor([0.2, 0.5, 0.0, 1.0, 1.0])
    expected = [norm.ppf(0.9) - norm.ppf(0.2), 0, 5, -5, 0]
    assert sensitivity(hits, alarms).tolist() == pytest.approx(expected, abs=1e-6)


def test_i1_and_i2_are_as_defined_image_by_image():
    shares, labels = observer(0, n=20, classes=4)
    i1, i2 = (error_pattern(shares, labels, kind=kind).numpy() for kind in ("i1", "i2"))
    for i, o in enumerate(labels):
        alarms = np.mean([shares[j, o] for j in range(20) if labels[j] != o])
        assert i1[i] == pytest.approx(norm.ppf(shares[i, o]) - norm.ppf(alarms), abs=1e-9)
        for d in range(4):
            if d == o:
                assert math.isnan(i2[i, d])
                continue
            hit = shares[i, o] / (shares[i, o] + shares[i, d])
            alarms = np.mean(
                [s[o] / (s[o] + s[d]) for s, c in zip(shares, labels, strict=True) if c == d]
            )
            assert i2[i, d] == pytest.approx(norm.ppf(hit) - norm.ppf(alarms), abs=1e-9)


@pytest.mark.parametrize("kind", ["i1n", "i2n"])
def test_normalised_patterns_have_no_mean_over_the_images_of_an_object(kind):
    shares, labels = observer(0)
    pattern = error_pattern(shares, labels, kind=kind).numpy().reshape(len(labels), -1)
    for c in range(5):
        means = pattern[labels == c].mean(0)
        assert np.abs(means[np.isfinite(means)]).max() < 1e-12


@KINDS
def test_an_observer_of_the_same_pattern_is_consistent_once_noise_is_corrected(kind):
    shares, labels = observer(0)
    counts = np.random.default_rng(1).multinomial(60, shares)
    found = error_consistency(shares, counts, labels, kind=kind)
    assert found.value < 0.95
    assert found.corrected == pytest.approx(1, abs=0.06)
    assert found.human_reliability < found.value


@pytest.mark.parametrize("kind", ["i1n", "i2n"])
def test_an_observer_of_another_pattern_is_not_consistent(kind):
    shares, labels = observer(0)
    counts = np.random.default_rng(1).multinomial(100, shares)
    found = [
        error_consistency(observer(seed)[0], counts, labels, kind=kind, n_splits=4).corrected
        for seed in range(10, 20)
    ]
    assert abs(np.mean(found)) < 0.1
    assert max(np.abs(found)) < 0.35


def test_two_noisy_observers_of_one_pattern_are_corrected_for_both():
    shares, labels = observer(0, n=300)
    rng = np.random.default_rng(1)
    model, human = (np.stack([rng.multinomial(40, shares) for _ in range(2)]) for _ in range(2))
    found = error_consistency(model, human, labels, kind="i1n")
    assert found.model_reliability < 0.9
    assert found.corrected == pytest.approx(1, abs=0.05)
    assert found.n_splits == 1


def test_halves_are_drawn_without_replacement_and_evenly():
    counts = np.random.default_rng(0).integers(0, 9, (50, 4))
    rng = np.random.default_rng(1)
    draws = np.stack([error_patterns._split(counts, rng) for _ in range(300)])
    assert (draws.sum(1) == counts).all()
    assert (draws[:, 0].sum(-1) == counts.sum(1) // 2).all()
    assert (draws >= 0).all()
    total = counts.sum(1, keepdims=True)
    expected = counts * (total // 2) / total
    assert np.abs(draws[:, 0].mean(0) - expected).max() < 0.3


def test_an_image_without_responses_is_left_out():
    shares, labels = observer(0)
    counts = np.random.default_rng(1).multinomial(200, shares)
    counts[3] = 0
    found = error_consistency(shares, counts, labels, kind="i1")
    assert found.corrected == pytest.approx(1, abs=0.05)


def test_without_a_pattern_there_is_nothing_to_agree_on():
    labels = np.arange(20) % 2
    even = np.full((20, 2), 8)
    assert math.isnan(error_consistency(observer(0, 20, 2)[0], even, labels, kind="i1").corrected)


def test_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    a = rng.random(200) < 0.7
    b = np.where(rng.random(200) < 0.5, a, rng.random(200) < 0.6)
    assert error_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)
    assert error_kappa(a, a) == 1
    assert math.isnan(error_kappa(np.ones(5, dtype=bool), np.ones(5, dtype=bool)))


def test_kappa_of_independent_observers_averages_zero():
    rng = np.random.default_rng(0)
    found = [error_kappa(rng.random(500) < 0.8, rng.random(500) < 0.6) for _ in range(200)]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(200)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, y: error_pattern(s, y, kind="i3"), "'i3' is no error pattern; choose one of i1"),
        (lambda s, y: error_pattern(-s, y), "negative or infinite; expected shares, not logits"),
        (lambda s, y: error_pattern(s, y + 1), "labels go from 1 to 5; expected columns"),
        (lambda s, y: error_pattern(s, y[:4]), r"of shape \(4,\) for 120 images"),
        (lambda s, y: error_pattern(s[0], y), r"shape \(5,\); expected \(image, class\)"),
        (lambda s, y: error_consistency(s, s, y), "expected whole counts of choices"),
        (lambda s, y: error_consistency(s, np.stack([s] * 3), y), r"shape \(3, 120, 5\); expected"),
        (lambda s, y: error_consistency(s, np.stack([s] * 2), y, n_splits=5), "holds two halves"),
        (lambda s, y: error_kappa(y, y), "expected for both observers one boolean an image"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    shares, labels = observer(0)
    with pytest.raises(ValueError, match=message):
        call(shares, labels)

"""The simulated population: its statistics are as stated, and its layer is found again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import repalign as ra
from repalign.simulation import layer_features, simulate, write_simulated_dataset


@pytest.fixture
def features(random: np.random.Generator) -> np.ndarray:
    return random.normal(size=(40, 60)) + 2 * random.normal(size=60)


@pytest.mark.parametrize("noise", ["poisson", "gaussian"])
def test_analytic_reliability_is_the_measured_one(features: np.ndarray, noise: str) -> None:
    """Two independent averages of R repetitions correlate, neuroid by neuroid, as stated."""
    population = simulate(
        features, n_neuroids=50, repetitions=4000, noise=noise, mean_count=2.0, noise_sd=1.5
    )
    halves = population.responses.reshape(1000, 4, 40, 50).mean(1)  # averages of 4 repetitions
    signal = population.rates.var(0)
    expected = signal / (signal + halves.var(0).mean(0))
    few = simulate(
        features, n_neuroids=50, repetitions=4, noise=noise, mean_count=2.0, noise_sd=1.5
    )
    np.testing.assert_allclose(few.reliability, expected, rtol=0.03)


def test_mean_response_is_the_one_asked_for(features: np.ndarray) -> None:
    population = simulate(features, mean_count=7.0, repetitions=50)
    assert population.rates.mean() == pytest.approx(7.0)
    assert population.responses.mean() == pytest.approx(7.0, abs=0.05)
    assert population.rates.min() >= 0


def test_same_seed_same_population(features: np.ndarray) -> None:
    np.testing.assert_array_equal(simulate(features).responses, simulate(features).responses)
    assert (simulate(features).responses != simulate(features, seed=1).responses).any()


@pytest.mark.parametrize("metric", [ra.RSA(), ra.RSA(rdm="euclidean"), ra.CKA()])
def test_noise_free_linear_population_keeps_the_geometry(
    features: np.ndarray, metric: ra.RSA | ra.CKA
) -> None:
    population = simulate(
        features, n_neuroids=4000, noise="gaussian", noise_sd=0.0, nonlinearity="linear"
    )
    value = ra.compare(population.rates, features, metric, ceiling=False, n_resamples=0)[0].value
    assert value > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nonlinearity": "linear"}, "Poisson rates cannot be negative"),
        ({"nonlinearity": "cubic"}, "expected softplus, relu, linear"),
        ({"noise": "pink"}, "expected poisson or gaussian"),
    ],
)
def test_choices_are_checked(features: np.ndarray, options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        simulate(features, **options)
    with pytest.raises(ValueError, match="the same for all stimuli"):
        simulate(np.ones((5, 6)))


@pytest.mark.parametrize("layer", ["blocks.3", "blocks.5"])
def test_planted_layer_is_recovered_by_every_metric(tmp_path: Path, layer: str) -> None:
    card = write_simulated_dataset(
        tmp_path / "raw", layer=layer, n_stimuli=36, mean_count=3.0, repetitions=4
    )
    recording = ra.ingest(card)
    candidates = ["blocks.1", "blocks.3", "blocks.5", "blocks.6"]
    found = ra.record("efficientnet_lite0", stimuli=recording, layers=candidates, progress=False)
    for metric in (ra.RSA(), ra.CKA(), ra.Ridge()):
        results = ra.compare(recording, found, metric, n_resamples=0)
        with pytest.warns(ra.ReusedDataWarning, match="the best of 4 layers"):
            best = results.best()
        assert best.layer == layer, metric
        assert best.ceiling_high is not None
        assert best.value < best.ceiling_high


def test_raw_files_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    def digest(folder: Path) -> list[str]:
        write_simulated_dataset(folder, layer="blocks.6", n_stimuli=4, n_neuroids=5)
        files = sorted(folder.iterdir())
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    truth = json.loads((tmp_path / "a" / "truth.json").read_text())
    assert truth["layer"] == "blocks.6"
    assert len(truth["reliability"]) == 5


def test_layer_features_do_not_depend_on_the_batch() -> None:
    from repalign.scenes import make_scenes

    images = list(make_scenes(5, size=64).images)
    whole = layer_features("pixels", "pixels", images)
    parts = layer_features("pixels", "pixels", images, batch_size=2)
    np.testing.assert_array_equal(whole, parts)
    assert whole.shape == (5, 3 * 64 * 64)

"""How often the tests along time are wrong where there is nothing, and right where there is some.

    python scripts/bench/cluster_rates.py [DATA_SETS [PART OF A TEST'S NAME]]

Family-wise rates at alpha = .05: the share of data sets with any significant cluster. Without an
effect they must stay under the Bonferroni-corrected upper bound of a binomial of .05. With one (a
mean of 1.2 standard deviations in a tenth of the points) they are the power.
"""

import sys
from collections.abc import Callable
from time import perf_counter

import numpy as np
import scipy.stats
import torch
from scipy import ndimage

import repalign as ra
from repalign.inference import TestedClusters, cluster_permutation_test, cluster_test_of_null
from repalign.metrics import CKA, RSA
from repalign.recording import make_activations, make_recording

DATA_SETS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
PART = sys.argv[2] if len(sys.argv) > 2 else ""
ALPHA, EFFECT = 0.05, 1.2
IDS = [f"s{i}" for i in range(16)]


def smooth(draw: np.random.Generator, shape: tuple[int, ...], width: float = 1.5) -> np.ndarray:
    """Noise along time (all dimensions but the first), of unit variance."""
    noise = draw.normal(size=shape)
    for axis in range(1, len(shape)):
        noise = ndimage.gaussian_filter1d(noise, width, axis=axis, mode="wrap")
    return noise / noise.std()


def over_subjects(shape: tuple[int, ...], **settings: str) -> Callable[..., TestedClusters]:
    """A test of smooth noise over subjects, with an effect in a corner of the points."""

    def test(draw: np.random.Generator, effect: float) -> TestedClusters:
        values = smooth(draw, shape)
        corner = tuple(
            slice(n // 2, n // 2 + round(n * 0.1 ** (1 / len(shape[1:])))) for n in shape[1:]
        )
        values[(slice(None), *corner)] += effect
        return cluster_permutation_test(torch.from_numpy(values), **settings)  # type: ignore[arg-type]

    return test


def over_draws(draw: np.random.Generator, effect: float) -> TestedClusters:
    """A test of one map against 199 others."""
    maps = smooth(draw, (200, 60))
    maps[0, 30:36] += 3 * effect
    return cluster_test_of_null(torch.from_numpy(maps[0]), torch.from_numpy(maps[1:]))


def of_recordings(metric: RSA | CKA, over: str) -> Callable[..., float]:
    """The whole path: 8 subjects, 12 bins, one layer of a network; the least p of its clusters."""

    def test(draw: np.random.Generator, effect: float) -> float:
        features = draw.normal(size=(16, 10))
        signal = np.zeros((16, 10, 12))
        signal[..., 6:8] = effect * features[..., None] / 2
        noise = draw.normal(size=(16, 80, 12)) + draw.normal(size=(16, 80, 1))
        meg = make_recording(
            np.tile(signal, (1, 8, 1)) + noise, stimulus_id=IDS, region="IT",
            subject=[f"s{i}" for i in range(8) for _ in range(10)],
            time_bins=(np.arange(12.0), np.arange(12.0) + 1),
        )  # fmt: skip
        layer = make_activations(features, IDS, "net", "conv", (10,))
        n = 199 if over == "stimuli" else 0
        seed = int(draw.integers(1 << 30))
        result = ra.time_resolved(meg, layer, metric, n_permutations=n, seed=seed, device="cpu")
        found = ra.time_clusters(result, over="stimuli" if n else "subjects")
        return float(found["p"].min())

    return test


TESTS: dict[str, Callable[..., TestedClusters | float]] = {
    "time, 8 subjects, all flips, two-sided": over_subjects((8, 60)),
    "time, 8 subjects, all flips, greater": over_subjects((8, 60), alternative="greater"),
    "time, 8 subjects, extent": over_subjects((8, 60), size="extent"),
    "time × time, 8 subjects, two-sided": over_subjects((8, 20, 20)),
    "time, one map, 199 permutations": over_draws,
    "time_resolved RSA, over subjects": of_recordings(RSA(), "subjects"),
    "time_resolved RSA, over stimuli": of_recordings(RSA(), "stimuli"),
    "time_resolved CKA, over subjects": of_recordings(CKA(), "subjects"),
    "time_resolved CKA, over stimuli": of_recordings(CKA(), "stimuli"),
}

torch.set_num_threads(1)
most = scipy.stats.binom.ppf(1 - 0.05 / len(TESTS), DATA_SETS, ALPHA) / DATA_SETS
print(f"{DATA_SETS} data sets; rates without an effect must be at most {most:.3f}\n")
print("| test | without an effect | with one | smallest p |")
print("|---|---|---|---|")
for name, test in TESTS.items():
    if PART not in name:
        continue
    rates, start, least = [], perf_counter(), 0.0
    for effect in (0.0, EFFECT):
        found = 0
        for seed in range(DATA_SETS):
            one = test(np.random.default_rng([seed, int(effect > 0)]), effect)
            if isinstance(one, TestedClusters):
                found, least = found + bool((one.p <= ALPHA).any()), one.smallest_p
            else:
                found, least = found + (one <= ALPHA), 1 / 200 if "stimuli" in name else 1 / 2**8
        rates.append(found / DATA_SETS)
    late = "" if rates[0] <= most else " **too often**"
    print(f"| {name} | {rates[0]:.3f}{late} | {rates[1]:.2f} | {least:.4f} |", flush=True)
    print(f"{name}: {perf_counter() - start:.0f} s", file=sys.stderr)

"""rsatoolbox as an oracle of RDMs, their comparison and the noise ceiling."""

import warnings

import numpy as np
import pytest
import torch

from repalign.ceiling import nili_ceiling
from repalign.metrics import COMPARATORS, rdm
from repalign.metrics.movies import rdm_movie
from repalign.metrics.noise import covariance_of_residuals, noise_covariance, noise_precision

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rsatoolbox
    import rsatoolbox.data.noise as theirs_noise
    from rsatoolbox.inference import boot_noise_ceiling

NAMES = {"pearson": "corr", "cosine": "cosine", "spearman": "spearman"}

# It makes room for labels of any kind with NaN, which integers cannot hold.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")


def patterns(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(14, 9)) + 2


def repetitions(seed: int = 0, *, n_folds: int = 4, n: int = 6, p: int = 7) -> np.ndarray:
    """Positive responses to six stimuli in four runs."""
    random = np.random.default_rng(seed)
    return 3 * random.random((n, p)) + 5 * random.random((n_folds, n, p))


def precision(seed: int = 1, p: int = 7) -> np.ndarray:
    return np.linalg.inv(np.cov(np.random.default_rng(seed).normal(size=(40, p)).T))


def dataset(x: np.ndarray, stimulus: np.ndarray, fold: np.ndarray) -> rsatoolbox.data.Dataset:
    return rsatoolbox.data.Dataset(x, obs_descriptors={"stimulus": stimulus, "fold": fold})


def flat(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The presentations of repetitions that are not NaN, with their labels."""
    n_folds, n, p = x.shape
    rows = x.reshape(-1, p)
    kept = ~np.isnan(rows).all(1)
    stimulus, fold = np.tile(np.arange(n), n_folds), np.repeat(np.arange(n_folds), n)
    return rows[kept], stimulus[kept], fold[kept]


def theirs(x: np.ndarray, method: str, **options: object) -> np.ndarray:
    data = dataset(*flat(x))
    if method in ("crossnobis", "poisson_cv"):
        options["cv_descriptor"] = "fold"
    found = rsatoolbox.rdm.calc_rdm(data, method=method, descriptor="stimulus", **options)
    return found.dissimilarities[0]


def theirs_unbalanced(
    x: np.ndarray, stimulus: np.ndarray, fold: np.ndarray, method: str, **options: object
) -> np.ndarray:
    if method in ("crossnobis", "poisson_cv"):
        options["cv_descriptor"] = "fold"
    found = rsatoolbox.rdm.calc_rdm_unbalanced(
        dataset(x, stimulus, fold), method=method, descriptor="stimulus", **options
    )
    found.sort_by(stimulus="alpha")
    return found.dissimilarities[0]


EXACT = {"rtol": 1e-8, "atol": 1e-12}


@pytest.mark.parametrize("method", ["euclidean", "correlation", "poisson", "mahalanobis"])
def test_rdms_equal_rsatoolbox(method):
    x = repetitions()
    noise = {"noise": precision()} if method == "mahalanobis" else {}
    np.testing.assert_allclose(rdm(x, method=method, **noise), theirs(x, method, **noise), **EXACT)
    one = rsatoolbox.data.Dataset(x[0])
    expected = rsatoolbox.rdm.calc_rdm(one, method=method, **noise).dissimilarities[0]
    np.testing.assert_allclose(rdm(x[0], method=method, **noise), expected, **EXACT)


@pytest.mark.parametrize("noise", [None, precision(), np.stack([precision(s) for s in range(4)])])
def test_crossnobis_equals_rsatoolbox(noise):
    x = repetitions()
    given = list(noise) if noise is not None and noise.ndim == 3 else noise
    expected = theirs(x, "crossnobis", noise=given)
    np.testing.assert_allclose(rdm(x, method="crossnobis", noise=noise), expected, **EXACT)


def test_prior_of_poisson_rates_equals_rsatoolbox():
    x, prior = repetitions(), {"prior_lambda": 2.5, "prior_weight": 0.7}
    expected = theirs(x, "poisson", **prior)
    np.testing.assert_allclose(rdm(x, method="poisson", **prior), expected, **EXACT)


def test_poisson_cv_is_the_mean_over_folds_of_which_rsatoolbox_keeps_the_last():
    x = repetitions()
    orders = [[1, 2, 3, 0], [0, 2, 3, 1], [0, 1, 3, 2], [0, 1, 2, 3]]
    each = [theirs(x[order], "poisson_cv") for order in orders]
    assert np.abs(each[0] - each[1]).max() > 0.01  # the defect
    np.testing.assert_allclose(rdm(x, method="poisson_cv"), np.mean(each, 0), **EXACT)
    expected = theirs_unbalanced(*flat(x), "poisson_cv")
    np.testing.assert_allclose(rdm(x, method="poisson_cv"), expected, **EXACT)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("euclidean", {}),
        ("crossnobis", {}),
        ("crossnobis", {"noise": precision()}),
        ("poisson_cv", {}),
        ("poisson_cv", {"prior_lambda": 2.0, "prior_weight": 0.5}),
    ],
)
def test_missing_presentations_equal_rsatoolbox_unbalanced(method, options):
    x = repetitions()
    x[0, 1] = x[1, 3] = x[3, 1] = np.nan
    expected = theirs_unbalanced(*flat(x), method, **options)
    np.testing.assert_allclose(rdm(x, method=method, **options), expected, **EXACT)


@pytest.mark.parametrize("noise", [None, precision()])
def test_unequal_presentations_in_folds_equal_rsatoolbox_unbalanced(noise):
    random = np.random.default_rng(2)
    x = random.normal(size=(60, 7))
    stimulus, fold = random.integers(0, 5, 60), random.integers(0, 4, 60)
    expected = theirs_unbalanced(x, stimulus, fold, "crossnobis", noise=noise)
    found = rdm(x, method="crossnobis", noise=noise, stimulus=stimulus, fold=fold)
    np.testing.assert_allclose(found, expected, **EXACT)
    expected = rsatoolbox.rdm.calc_rdm(dataset(x, stimulus, fold), descriptor="stimulus")
    found = rdm(x, method="euclidean", stimulus=stimulus)
    np.testing.assert_allclose(found, expected.dissimilarities[0], **EXACT)


@pytest.mark.parametrize(
    ("method", "weighting"),
    [  # euclidean and equal: it weighs a presentation with itself by C's integers, 1/2 = 0
        ("euclidean", "number"),
        ("crossnobis", "number"),
        ("crossnobis", "equal"),
        ("poisson_cv", "number"),
        ("poisson_cv", "equal"),
    ],
)
def test_missing_neuroids_equal_rsatoolbox_unbalanced(method, weighting):
    x, stimulus, fold = flat(repetitions())
    x[np.random.default_rng(3).random(x.shape) < 0.15] = np.nan
    expected = theirs_unbalanced(x, stimulus, fold, method, weighting=weighting)
    folds = {} if method == "euclidean" else {"fold": fold}
    found = rdm(x, method=method, stimulus=stimulus, weighting=weighting, **folds)
    np.testing.assert_allclose(found, expected, **EXACT)


@pytest.mark.parametrize("method", ["correlation", "euclidean", "crossnobis"])
def test_movies_equal_rsatoolbox(method):
    x = np.random.default_rng(0).normal(size=(3, 5, 4, 6))
    data = rsatoolbox.data.TemporalDataset(
        x.reshape(15, 4, 6),
        obs_descriptors={
            "stimulus": np.tile(np.arange(5), 3),
            "fold": np.repeat(np.arange(3), 5),
        },
        time_descriptors={"time": np.arange(6)},
    )
    options = {"cv_descriptor": "fold"} if method == "crossnobis" else {}
    for bins in (None, [[0, 1], [2, 5], [3, 4, 5]]):
        binned = None if bins is None else [np.array(times) for times in bins]
        expected = rsatoolbox.rdm.calc_rdm_movie(
            data, method=method, descriptor="stimulus", bins=binned, **options
        ).dissimilarities
        np.testing.assert_allclose(rdm_movie(x, method=method, bins=bins), expected, **EXACT)


@pytest.mark.parametrize("method", ["full", "diag", "shrinkage_eye", "shrinkage_diag"])
def test_noise_equals_rsatoolbox_unbalanced(method):
    x = repetitions()
    x[0, 1] = x[1, 3] = np.nan
    data = dataset(*flat(x))
    expected = theirs_noise.cov_from_unbalanced(data, "stimulus", method=method)
    np.testing.assert_allclose(noise_covariance(x, method=method), expected, **EXACT)
    expected = theirs_noise.prec_from_unbalanced(data, "stimulus", method=method)
    np.testing.assert_allclose(noise_precision(x, method=method), expected, **EXACT)
    residuals = flat(x)[0]
    for dof in (None, 15):
        expected = theirs_noise.cov_from_residuals(residuals, method=method, dof=dof)
        found = covariance_of_residuals(residuals, method=method, dof=dof)
        np.testing.assert_allclose(found, expected, **EXACT)


def test_degrees_of_freedom_are_not_those_of_rsatoolbox_for_balanced_designs():
    x = repetitions(n_folds=2)
    data = dataset(*flat(x))
    ours = noise_covariance(x, method="full")
    unbalanced = theirs_noise.cov_from_unbalanced(data, "stimulus", method="full")
    np.testing.assert_allclose(ours, unbalanced, **EXACT)
    balanced = theirs_noise.cov_from_measurements(data, "stimulus", method="full")
    np.testing.assert_allclose(balanced * 10 / 6, unbalanced, **EXACT)  # (6 − 1)·2 for 6·(2 − 1)


@pytest.mark.parametrize("comparator", sorted(NAMES))
def test_comparisons_equal_rsatoolbox(comparator):
    a, b = (rdm(torch.from_numpy(patterns(seed)), method="euclidean") for seed in (0, 1))
    theirs = [rsatoolbox.rdm.RDMs(v.numpy()[None]) for v in (a, b)]
    expected = rsatoolbox.rdm.compare(*theirs, method=NAMES[comparator]).item()
    assert COMPARATORS[comparator](a, b).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("comparator", sorted(NAMES))
def test_noise_ceilings_equal_rsatoolbox(comparator):
    shared = patterns(0)
    subjects = torch.stack(
        [rdm(torch.from_numpy(shared + 2 * patterns(s)), method="euclidean") for s in range(1, 6)]
    )
    subjects = subjects * torch.tensor([[1.0], [10.0], [0.1], [2.0], [5.0]])
    theirs = rsatoolbox.rdm.RDMs(subjects.numpy())
    expected = boot_noise_ceiling(theirs, method=NAMES[comparator])
    found = [bound.mean().item() for bound in nili_ceiling(subjects, comparator=comparator)]
    np.testing.assert_allclose(found, np.ravel(expected), atol=1e-10)
    assert found[1] - found[0] > 0.01

"""Our numbers beside those of the reference libraries that are installed, on seeded data."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from repalign.metrics import CCA, CKA, PLS, OneToOne, Procrustes, Ridge, compare_rdms, rdm
from repalign.metrics.noise import noise_covariance
from repalign.metrics.ridge_selection import ridge_cv

Array = np.ndarray[Any, np.dtype[np.float64]]
N_STIMULI, N_NEUROIDS, N_UNITS, N_REPEATS = 40, 25, 12, 4


@dataclass(frozen=True)
class Agreement:
    """One of our numbers (or arrays) beside a reference's.

    Args:
        ours: what of ours was run.
        reference: the library.
        version: of the library, or "not installed".
        case: the data and the option.
        difference: largest absolute difference, over the largest magnitude if that exceeds 1; None
            where the library is not installed.
        tolerance: what it may be.
        agrees: whether it is within; None where the library is not installed.
    """

    ours: str
    reference: str
    version: str
    case: str
    difference: float | None
    tolerance: float
    agrees: bool | None


@dataclass(frozen=True)
class _Case:
    ours: str
    case: str
    found: Any
    expected: Any
    tolerance: float = 1e-8


class _Data:
    """Seeded responses: two populations that share latents, with repetitions and ties."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        latent = draw.normal(size=(N_STIMULI, 6))
        self.x: Array = latent @ draw.normal(size=(6, N_NEUROIDS)) + draw.normal(
            size=(N_STIMULI, N_NEUROIDS)
        )
        self.y: Array = latent @ draw.normal(size=(6, N_UNITS)) + draw.normal(
            size=(N_STIMULI, N_UNITS)
        )
        self.trials: Array = self.x + draw.normal(size=(N_REPEATS, N_STIMULI, N_NEUROIDS))
        self.counts: Array = draw.poisson(5, size=self.trials.shape).astype(np.float64)
        self.fold = np.arange(N_STIMULI) % 5
        pairs = N_STIMULI * (N_STIMULI - 1) // 2
        self.a: Array = np.round(draw.random(pairs), 2)  # with ties
        self.b: Array = np.round(0.5 * self.a + 0.5 * draw.random(pairs), 2)


def _rsatoolbox(data: _Data) -> Iterator[_Case]:
    import rsatoolbox
    from rsatoolbox.data import Dataset
    from rsatoolbox.data.noise import cov_from_unbalanced

    repeats, n, p = data.trials.shape
    plain = Dataset(data.x)
    spikes = Dataset(data.counts[0])
    trials, counts = (
        Dataset(
            array.reshape(-1, p),
            obs_descriptors={
                "stimulus": np.tile(np.arange(n), repeats),
                "run": np.repeat(np.arange(repeats), n),
            },
        )
        for array in (data.trials, data.counts)
    )
    precision = np.linalg.inv(np.cov(data.trials.reshape(-1, p).T) + np.eye(p))

    def of_rsatoolbox(dataset: Any, method: str, **options: Any) -> Any:
        return rsatoolbox.rdm.calc_rdm(dataset, method=method, **options).dissimilarities[0]

    crossed = {"descriptor": "stimulus", "cv_descriptor": "run"}
    for method in ("correlation", "euclidean"):
        yield _Case("rdm", method, rdm(data.x, method=method), of_rsatoolbox(plain, method))
    yield _Case(
        "rdm",
        "mahalanobis",
        rdm(data.x, method="mahalanobis", noise=precision),
        of_rsatoolbox(plain, "mahalanobis", noise=precision),
    )
    yield _Case(
        "rdm", "poisson", rdm(data.counts[0], method="poisson"), of_rsatoolbox(spikes, "poisson")
    )
    for name, noise in (("identity", None), ("precision", precision)):
        yield _Case(
            "rdm",
            f"crossnobis, {name}",
            rdm(data.trials, method="crossnobis", noise=noise),
            of_rsatoolbox(trials, "crossnobis", noise=noise, **crossed),
        )
    yield _Case(
        "rdm",
        "poisson_cv, 2 folds",  # with more, the reference keeps the last fold only
        rdm(data.counts, method="poisson_cv"),
        rsatoolbox.rdm.calc_rdm_unbalanced(counts, method="poisson_cv", **crossed).dissimilarities[
            0
        ],
    )
    yield _Case(
        "noise_covariance",
        "shrinkage to the identity",
        noise_covariance(data.trials, method="shrinkage_eye"),
        cov_from_unbalanced(trials, "stimulus", method="shrinkage_eye"),
    )
    a, b = (rsatoolbox.rdm.RDMs(one[None]) for one in (data.a, data.b))
    for method in (
        *("cosine", "corr", "spearman", "rho-a", "tau-a", "tau-b"),
        *("cosine_cov", "corr_cov"),
    ):
        expected = rsatoolbox.rdm.compare(a, b, method=method)[0, 0]
        yield _Case("compare_rdms", method, compare_rdms(data.a, data.b, method=method), expected)

    x, y = (rdm(one, method="euclidean").numpy() for one in (data.x, data.y))
    a, b = (rsatoolbox.rdm.RDMs(one[None]) for one in (x, y))
    expected = rsatoolbox.rdm.compare(a, b, method="bures")[0, 0]
    found = compare_rdms(x, y, method="bures")  # theirs takes square roots of rounding errors
    yield _Case("compare_rdms", "bures, of Euclidean RDMs", found, expected, 1e-7)


def _scipy(data: _Data) -> Iterator[_Case]:
    import scipy.linalg
    import scipy.optimize
    import scipy.spatial
    import scipy.stats

    pdist = scipy.spatial.distance.pdist
    yield _Case("rdm", "correlation", rdm(data.x), pdist(data.x, "correlation"))
    yield _Case("rdm", "cosine", rdm(data.x, method="cosine"), pdist(data.x, "cosine"))
    squared = pdist(data.x, "sqeuclidean") / N_NEUROIDS
    yield _Case("rdm", "euclidean", rdm(data.x, method="euclidean"), squared)
    for method, function in (
        ("corr", scipy.stats.pearsonr),
        ("spearman", scipy.stats.spearmanr),
        ("tau-b", scipy.stats.kendalltau),
    ):
        expected = function(data.a, data.b)[0]
        yield _Case("compare_rdms", method, compare_rdms(data.a, data.b, method=method), expected)
    x, y = data.x - data.x.mean(0), data.y - data.y.mean(0)
    cosines = np.cos(scipy.linalg.subspace_angles(x, y))
    yield _Case("CCA", "mean of the cosines of principal angles", CCA()(x, y), cosines.mean())
    unit_x, unit_y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    padded = np.pad(unit_y, ((0, 0), (0, N_NEUROIDS - N_UNITS)))
    nuclear = scipy.linalg.orthogonal_procrustes(unit_x, padded)[1]
    yield _Case("Procrustes", "from the nuclear norm", Procrustes()(x, y), np.sqrt(2 - 2 * nuclear))
    r = np.corrcoef(x.T, y.T)[:N_NEUROIDS, N_NEUROIDS:]
    rows, columns = scipy.optimize.linear_sum_assignment(-r)
    yield _Case("OneToOne", "mean matched correlation", OneToOne()(x, y), r[rows, columns].mean())


def _sklearn(data: _Data) -> Iterator[_Case]:
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.linear_model import RidgeCV

    ridge, pls = Ridge(folds=5, alphas=(0.1, 1.0, 10.0)), PLS(components=5, folds=5)
    predicted, fold = ridge.predict(data.x, data.y)
    expected = np.empty_like(data.y)
    for number in np.unique(fold):
        train, test = fold.numpy() != number, fold.numpy() == number
        x, y = data.x[train], data.y[train]
        unit = np.square(x - x.mean(0)).sum() / len(x)
        model = RidgeCV(alphas=unit * np.array(ridge.alphas), alpha_per_target=True)
        expected[test] = model.fit(x, y).predict(data.x[test])
    yield _Case("Ridge", "predictions, alpha per neuroid by leave-one-out", predicted, expected)
    predicted, fold = pls.predict(data.x, data.y)
    for number in np.unique(fold):
        train, test = fold.numpy() != number, fold.numpy() == number
        model = PLSRegression(n_components=5, scale=False, tol=1e-14, max_iter=20000)
        expected[test] = model.fit(data.x[train], data.y[train]).predict(data.x[test])
    yield _Case("PLS", "predictions, 5 components, tol=1e-14", predicted, expected, 2e-5)


def _himalaya(data: _Data) -> Iterator[_Case]:
    from himalaya.backend import set_backend
    from himalaya.ridge import RidgeCV
    from himalaya.scoring import l2_neg_loss
    from sklearn.model_selection import PredefinedSplit

    set_backend("numpy")
    alphas = np.logspace(-1, 3, 6)
    model = RidgeCV(
        alphas=alphas,
        cv=PredefinedSplit(data.fold),
        fit_intercept=True,
        solver_params={"score_func": l2_neg_loss},
    ).fit(data.x, data.y)
    found = ridge_cv(data.x, data.y, alphas=list(alphas), fold=torch.from_numpy(data.fold))
    yield _Case("ridge_cv", "alpha per neuroid by 5 folds", found.alphas, model.best_alphas_)


def _ckatorch(data: _Data) -> Iterator[_Case]:
    from ckatorch.core import cka_base, cka_batch

    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    yield _Case("CKA", "linear, biased", CKA(debiased=False)(x, y), cka_base(x, y))
    yield _Case("CKA", "linear, debiased", CKA()(x, y), cka_batch(x[None], y[None]))


REFERENCES: dict[str, Callable[[_Data], Iterator[_Case]]] = {
    "rsatoolbox": _rsatoolbox,
    "scipy": _scipy,
    "scikit-learn": _sklearn,
    "himalaya": _himalaya,
    "ckatorch": _ckatorch,
}
MODULES = {"scikit-learn": "sklearn"}


def _judge(case: _Case, library: str, version: str) -> Agreement:
    found, expected = (np.asarray(one, dtype=np.float64) for one in (case.found, case.expected))
    scale = max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(found - expected).max()) / scale
    agrees = found.shape == expected.shape and difference <= case.tolerance
    return Agreement(
        case.ours, library, version, case.case, difference, case.tolerance, bool(agrees)
    )


def verify(*, seed: int = 0) -> list[Agreement]:
    """Run our metrics and the installed reference libraries on the same seeded data.

    Args:
        seed: of the data: another seed is another check.

    Returns:
        One row a case. A library that is not installed gives one row that says so.

    Example:
        >>> rows = verify()
        >>> [row.case for row in rows if row.agrees is False]
        []
    """
    rows = []
    for library, cases in REFERENCES.items():
        if importlib.util.find_spec(MODULES.get(library, library)) is None:
            rows.append(Agreement("", library, "not installed", "", None, 0.0, None))
            continue
        version = importlib.metadata.version(library)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the references' own
            rows += [_judge(case, library, version) for case in cases(_Data(seed))]
    return rows

"""RDMs, crossnobis, ridge, PLS and CKA beside their peers: same run, interleaved, same dtype.

Prints medians, the ratio to the peer, extra peak memory, the largest difference, and the floor:
the matrix product that the work cannot do without, timed beside it. "cost" draws time against the
numbers of stimuli and neuroids into docs/cost.png.

    python scripts/bench/metrics.py            # every row, about ten minutes on two cores
    python scripts/bench/metrics.py rdm cka    # some
"""

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from timing import side_by_side

from repalign.layer_pairs import cka_of_layers
from repalign.metrics import CCA, CKA, PLS, RSA, Procrustes, Ridge, rdm
from repalign.metrics.ridge_selection import ridge_cv

matplotlib.use("Agg")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rsatoolbox
    from himalaya.ridge import RidgeCV
    from himalaya.scoring import l2_neg_loss
    from rsatoolbox.data import Dataset
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.model_selection import PredefinedSplit

random = np.random.default_rng(0)
FIGURE = Path(__file__).parents[2] / "docs" / "cost.png"


def largest_difference(results: dict[str, object], peer: str) -> None:
    ours, theirs = (np.asarray(results[name]) for name in ("repalign", peer))
    scale = max(1.0, float(np.abs(theirs).max()))
    print(f"  largest difference {np.abs(ours - theirs).max() / scale:.1e}")


def bench_rdm() -> None:
    for n, p in ((92, 2000), (500, 2000), (2000, 2000), (2000, 20000)):
        x = random.standard_normal((n, p))
        dataset, tensor = Dataset(x), torch.from_numpy(x)
        for method in ("correlation", "euclidean"):
            results, _ = side_by_side(
                f"RDM, {method}, {n} × {p}, float64",
                {
                    "rsatoolbox": lambda d=dataset, m=method: rsatoolbox.rdm.calc_rdm(
                        d, method=m
                    ).dissimilarities[0],
                    "repalign": lambda t=tensor, m=method: rdm(t, method=m).numpy(),
                    "SYRK alone": lambda a=x: a @ a.T,
                },
                repeats=2 if n * n * p > 1e10 else 9,
            )
            largest_difference(results, "rsatoolbox")


def bench_crossnobis() -> None:
    folds = 8
    for n, p, with_noise in (
        (92, 2000, False),
        (92, 8000, False),
        (92, 200, True),
        (92, 2000, True),
    ):
        x = random.standard_normal((folds, n, p)) + random.standard_normal((n, p))
        noise = None
        if with_noise:
            residuals = random.standard_normal((2 * p, p))
            noise = np.linalg.inv(residuals.T @ residuals / len(residuals) + 0.5 * np.eye(p))
        dataset = Dataset(
            x.reshape(-1, p),
            obs_descriptors={
                "stimulus": np.tile(np.arange(n), folds),
                "run": np.repeat(np.arange(folds), n),
            },
        )
        peers = {
            "rsatoolbox": lambda d=dataset, s=noise: rsatoolbox.rdm.calc_rdm(
                d, method="crossnobis", descriptor="stimulus", cv_descriptor="run", noise=s
            ).dissimilarities[0],
            "repalign": lambda a=x, s=noise: rdm(a, method="crossnobis", noise=s).numpy(),
        }
        if p == 200:
            peers["rsatoolbox, unbalanced"] = lambda d=dataset, s=noise: (
                rsatoolbox.rdm.calc_rdm_unbalanced(
                    d, method="crossnobis", descriptor="stimulus", cv_descriptor="run", noise=s
                ).dissimilarities[0]
            )
        label = "with a noise precision" if with_noise else "no noise"
        results, _ = side_by_side(f"crossnobis, {n} × {p}, 8 folds, {label}", peers, repeats=4)
        largest_difference(results, "rsatoolbox")


def a_regression(n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and targets that share 30 of 60 latents of falling variance."""
    latent = random.standard_normal((n, 60))
    weights = np.arange(1, 61)[:, None] ** -0.5 * random.standard_normal((60, p))
    x = latent @ weights + 0.5 * random.standard_normal((n, p))
    y = latent[:, :30] @ random.standard_normal((30, q)) * 0.3 + random.standard_normal((n, q))
    return x, y


def bench_ridge() -> None:
    alphas, fold = np.logspace(-1, 5, 20), np.arange(3200) % 10

    def himalaya(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        options = {"score_func": l2_neg_loss}
        model = RidgeCV(
            alphas=alphas, cv=PredefinedSplit(fold), fit_intercept=True, solver_params=options
        )
        return model.fit(x, y).best_alphas_

    for q, dtype in ((168, np.float64), (10000, np.float32)):
        x, y = (one.astype(dtype) for one in a_regression(3200, 1000, q))
        functions: dict[str, Callable[[], object]] = {
            "himalaya RidgeCV": lambda x=x, y=y: himalaya(x, y),
            "repalign": lambda x=x, y=y: ridge_cv(
                x, y, alphas=list(alphas), fold=torch.from_numpy(fold)
            ).alphas.numpy(),
            "its GEMMs alone": lambda x=x, y=y: [
                x @ (x[: x.shape[1]].T @ y[: x.shape[1]]) for _ in alphas
            ],
        }
        if q == 168:
            metric = Ridge(folds=10, alphas=tuple(alphas / 1000))
            functions["Ridge, nested"] = lambda x=x, y=y, m=metric: m(x, y)
        title = f"ridge, 3200 × 1000 → {q}, 10 folds × 20 alphas, {np.dtype(dtype).name}"
        results, _ = side_by_side(title, functions, repeats=2 if q == 168 else 1)
        equal = np.isclose(np.asarray(results["repalign"]), results["himalaya RidgeCV"], rtol=1e-4)
        print(f"  same alpha for {100 * equal.mean():.1f} % of the targets")


def bench_pls() -> None:
    x, y = a_regression(3200, 1000, 168)
    metric = PLS(components=25, folds=10)
    _, fold = metric.predict(x, y)

    def sklearn() -> np.ndarray:
        predicted = np.empty_like(y)
        for number in range(10):
            test = fold.numpy() == number
            model = PLSRegression(n_components=25, scale=False).fit(x[~test], y[~test])
            predicted[test] = model.predict(x[test])
        return predicted

    results, _ = side_by_side(
        "PLS, 25 components, 3200 × 1000 → 168, 10 folds",
        {"scikit-learn": sklearn, "repalign": lambda: metric.predict(x, y)[0].numpy()},
        repeats=2,
    )
    largest_difference(results, "scikit-learn")


def bench_cka() -> None:
    from ckatorch.core import cka_batch

    for dtype in (torch.float64, torch.float32):
        for n in (1000, 2000, 4000):
            x, y = (torch.from_numpy(random.standard_normal((n, 4096))).to(dtype) for _ in range(2))
            results, _ = side_by_side(
                f"linear CKA, debiased, {n} × 4096, {str(dtype)[6:]}",
                {
                    "ckatorch": lambda x=x, y=y: cka_batch(x[None], y[None]),
                    "repalign": lambda x=x, y=y: CKA()(x, y),
                    "two SYRK alone": lambda x=x, y=y: (
                        x.numpy() @ x.numpy().T,
                        y.numpy() @ y.numpy().T,
                    ),
                },
                repeats=4,
            )
            largest_difference(results, "ckatorch")


def bench_layers() -> None:
    from repalign.torchvision_import import import_torchvision

    torchvision = import_torchvision()

    for name, size, batch in (("resnet18", 224, 32), ("resnet50", 224, 32)):
        torch.manual_seed(0)
        first, second = (getattr(torchvision.models, name)(weights=None).eval() for _ in range(2))
        images = torch.randn(batch, 3, size, size)

        @torch.inference_mode()
        def forward(models=(first, second), images=images) -> None:
            for model in models:
                model(images)

        side_by_side(
            f"CKA of all layer pairs of two {name}, {batch} images of {size} pixels",
            {
                "forward passes alone": forward,
                "repalign": lambda a=first, b=second, i=images: cka_of_layers(a, b, [i]),
            },
            repeats=4,
        )


def bench_cost() -> None:
    """Time of one call against n (1000 neuroids) and p (200 stimuli), log-log."""
    import matplotlib.pyplot as plt

    metrics = (RSA(), RSA(rdm="euclidean", comparator="corr"), CKA(), Procrustes(), CCA(), Ridge())
    names = ("RSA", "RSA, Euclidean, corr", "CKA", "Procrustes", "CCA", "ridge")
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    cases = (
        ("stimuli (1000 neuroids)", [(n, 1000) for n in (50, 100, 200, 400, 800, 1600)]),
        ("neuroids (200 stimuli)", [(200, p) for p in (30, 100, 300, 1000, 3000, 10000)]),
    )
    for panel, (label, shapes) in zip(panels, cases, strict=True):
        for metric, name in zip(metrics, names, strict=True):
            seconds = []
            for n, p in shapes:
                x, y = (torch.from_numpy(random.standard_normal((n, p))) for _ in range(2))
                times = []
                for _ in range(4):
                    begin = time.perf_counter()
                    metric(x, y[:, :100] if name == "ridge" else y)
                    times.append(time.perf_counter() - begin)
                seconds.append(np.median(times[1:]))
            sizes = [n if "stimuli (" in label else p for n, p in shapes]
            panel.loglog(sizes, seconds, marker="o", label=name)
            print(f"cost, {name}, {label}: {' '.join(f'{s:.4f}' for s in seconds)} s")
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds a comparison")
    panels[1].legend(fontsize=8)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=120)
    print(FIGURE.name)


BENCHES = {
    "rdm": bench_rdm,
    "crossnobis": bench_crossnobis,
    "ridge": bench_ridge,
    "pls": bench_pls,
    "cka": bench_cka,
    "layers": bench_layers,
    "cost": bench_cost,
}
print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
for chosen in sys.argv[1:] or BENCHES:
    BENCHES[chosen]()

"""RDMs and bootstrapped RSA beside rsatoolbox: same run, interleaved, same dtype and threads.

Prints medians, ratios, extra peak memory and the largest difference between the two. The floor of
an RDM is one symmetric product: n²p multiply-adds, as a plain GEMM times it here.

    python scripts/bench/rsa.py
"""

import contextlib
import gc
import io
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from repalign.inference import bootstrap_rsa
from repalign.metrics import rdm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rsatoolbox

REPEATS = 5
SHAPES = [(92, 2000), (500, 2000), (2000, 2000), (2000, 20000)]
SAMPLES = 200
MODELS = 20
random = np.random.default_rng(0)


def peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def side_by_side(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, object]:
    """Run the functions in turn; print the median seconds, the ratio to the first, and memory."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    memory: dict[str, float] = {}
    results: dict[str, object] = {}
    for _ in range(repeats):
        for name, function in functions.items():
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak (Linux)
            before = peak_megabytes()
            begin = time.perf_counter()
            with contextlib.redirect_stderr(io.StringIO()):  # rsatoolbox's progress bars
                results[name] = function()
            seconds[name].append(time.perf_counter() - begin)
            memory[name] = peak_megabytes() - before
    first = statistics.median(next(iter(seconds.values())))
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"  {name:12} {median:9.4f} s  {first / median:8.1f}×  +{memory[name]:6.0f} MB")
    return results


print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float64\n")
for n, p in SHAPES:
    x = random.standard_normal((n, p))
    tensor = torch.from_numpy(x)
    dataset = rsatoolbox.data.Dataset(x)
    for method in ("correlation", "euclidean"):
        print(f"RDM, {method}, {n} × {p}")
        results = side_by_side(
            {
                "rsatoolbox": lambda d=dataset, m=method: rsatoolbox.rdm.calc_rdm(
                    d, method=m
                ).dissimilarities[0],
                "repalign": lambda t=tensor, m=method: rdm(t, method=m).numpy(),
                "GEMM alone": lambda t=tensor: t @ t.T,
            },
            REPEATS if n * n * p < 1e10 else 3,
        )
        difference = np.abs(np.asarray(results["rsatoolbox"]) - np.asarray(results["repalign"]))
        print(f"  largest difference {difference.max():.1e}")

pairs = 92 * 91 // 2
brain, models = random.random(pairs), random.random((MODELS, pairs))
fixed = [
    rsatoolbox.model.ModelFixed(f"m{i}", rsatoolbox.rdm.RDMs(model[None]))
    for i, model in enumerate(models)
]
for ours, theirs in (("cosine", "cosine"), ("pearson", "corr"), ("spearman", "spearman")):
    print(f"bootstrap over stimuli, {ours}, 92 stimuli, {MODELS} models, {SAMPLES} samples")
    side_by_side(
        {
            "rsatoolbox": lambda t=theirs: rsatoolbox.inference.eval_bootstrap_pattern(
                fixed, rsatoolbox.rdm.RDMs(brain[None]), method=t, N=SAMPLES
            ),
            "repalign": lambda o=ours: bootstrap_rsa(
                torch.from_numpy(brain), torch.from_numpy(models), comparator=o, n_resamples=SAMPLES
            ),
        },
        3,
    )

"""Resampled RSA beside rsatoolbox: same run, interleaved, same dtype and threads.

python scripts/bench/inference.py [--small] [row ...]

rsatoolbox runs few of the resamples, and its time is extrapolated to all: each of its resamples
costs as much as the next. Rows are names such as bootstrap, dual, crossval, cosine or tau-a.
"""

import contextlib
import gc
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from timing import peak_megabytes

from repalign.inference import (
    ModelRDMs,
    bootstrap_draws,
    crossvalidate_resamples,
    evaluate_dual,
    evaluate_resamples,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rsatoolbox

CONDITIONS, SUBJECTS, MODELS, RESAMPLES = 92, 12, 20, 1000
FOLDS, SUBJECT_FOLDS, REPEATS = 5, 3, 2  # what rsatoolbox takes by itself
SMALL = "--small" in sys.argv
ROWS = set(sys.argv[1:]) - {"--small"}
ROUNDS = 3 if SMALL else 5
PEER_RESAMPLES = {  # of the plain bootstrap; the others take fewer
    "cosine": 40,
    "corr": 40,
    "cosine_cov": 6,
    "corr_cov": 6,
    "spearman": 10,
    "rho-a": 10,
    "tau-a": 6,
}
GOALS = {"cosine": 200, "corr": 200, "cosine_cov": 1500, "corr_cov": 1500}
DUAL_GOAL, RANK_GOAL = 200, 60

random = np.random.default_rng(0)
pairs = CONDITIONS * (CONDITIONS - 1) // 2
shared = random.random(pairs)
subjects = shared + random.random((SUBJECTS, pairs))
models = shared * np.linspace(0, 1, MODELS)[:, None] + random.random((MODELS, pairs))
data = rsatoolbox.rdm.RDMs(subjects)
fixed = [rsatoolbox.model.ModelFixed(f"m{i}", model) for i, model in enumerate(models)]
ours = [ModelRDMs(model) for model in models]


def measured(function: Callable[[], object]) -> tuple[float, float, float]:
    """Return wall seconds, processor seconds and extra megabytes of a call."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (Linux)
    before = peak_megabytes()
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peer's progress bars and warnings
        wall, processor = time.perf_counter(), time.process_time()
        function()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return wall, processor, peak_megabytes() - before


def row(
    title: str, goal: int, n_peer: int, peer: Callable[[int], object], fast: Callable[[], object]
) -> None:
    """Run both in turn and print their medians; the peer's are extrapolated."""
    n_peer = max(1, n_peer // 3) if SMALL else n_peer
    fast()  # compiles, where nothing is compiled yet
    rounds = [(measured(lambda: peer(n_peer)), measured(fast)) for _ in range(ROUNDS)]
    (wall, processor, memory), (our_wall, our_processor, our_memory) = (
        [statistics.median(values) for values in zip(*side, strict=True)]
        for side in zip(*rounds, strict=True)
    )
    factor = RESAMPLES / n_peer
    print(
        f"{title:24} {wall * factor:8.1f} s (from {n_peer:3}) +{memory:5.0f} MB "
        f"{our_wall:8.3f} s +{our_memory:5.0f} MB {wall * factor / our_wall:7.0f}× "
        f"(processor {processor * factor / our_processor:6.0f}×)  goal {goal}×",
        flush=True,
    )


print(
    f"torch {torch.__version__}, {torch.get_num_threads()} threads, float64; {CONDITIONS} "
    f"conditions × {SUBJECTS} subjects × {MODELS} models × {RESAMPLES} resamples, both ceilings\n"
    f"{'':24} rsatoolbox {version('rsatoolbox')}, extrapolated      repalign"
)
evaluate = rsatoolbox.inference
draws = bootstrap_draws(
    CONDITIONS,
    SUBJECTS,
    n_resamples=RESAMPLES,
    at_least_stimuli=3 * FOLDS,
    at_least_subjects=SUBJECT_FOLDS,
)
for name, n in PEER_RESAMPLES.items():
    goal = GOALS.get(name, RANK_GOAL)
    if not ROWS or ROWS & {"bootstrap", name}:
        row(
            f"bootstrap, {name}",
            goal,
            n,
            lambda n, m=name: evaluate.eval_bootstrap(fixed, data, method=m, N=n),
            lambda m=name: evaluate_resamples(models, subjects, draws, comparator=m),
        )
    if not ROWS or ROWS & {"dual", name}:
        row(
            f"dual bootstrap, {name}",
            DUAL_GOAL,
            max(1, n // 3),
            lambda n, m=name: evaluate.eval_dual_bootstrap(fixed, data, method=m, N=n),
            lambda m=name: evaluate_dual(models, subjects, draws, comparator=m),
        )
    if not ROWS or ROWS & {"crossval", name}:
        row(
            f"cross-validated, {name}",
            DUAL_GOAL,
            max(1, n // 6),
            lambda n, m=name: evaluate.bootstrap_crossval(
                fixed, data, method=m, N=n, k_pattern=FOLDS, k_rdm=SUBJECT_FOLDS, n_cv=REPEATS
            ),
            lambda m=name: crossvalidate_resamples(
                ours,
                subjects,
                draws,
                comparator=m,
                n_folds=FOLDS,
                n_subject_folds=SUBJECT_FOLDS,
                n_repeats=REPEATS,
            ),
        )

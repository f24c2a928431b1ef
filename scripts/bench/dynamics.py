"""RSA and CKA along time: all bins at once, a loop over bins, and rsatoolbox's RDM movie.

    python scripts/bench/dynamics.py [STIMULI NEUROIDS BINS LAYERS]

An RDM of n stimuli and p neuroids takes 2 n² p operations a bin, a comparison of P = n(n − 1)/2
pairs 2 P; what is kept is 8 P bytes a bin and layer. The loop calls ``repalign.compare`` in each
bin, which reads, matches and ranks every layer again. rsatoolbox makes the RDMs of all bins, which
are then compared with the models'. All by Pearson correlation of correlation distances.
"""

import sys
import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch

import repalign as ra
from repalign.metrics import CKA, RSA
from repalign.recording import make_activations, make_recording

STIMULI, NEUROIDS, BINS, LAYERS = [int(n) for n in sys.argv[1:]] or (92, 306, 120, 20)
REPEATS, WIDTH = 3, 1000


def best_of(work: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """Seconds of the quickest run, and what it gave."""
    best, found = float("inf"), None
    for _ in range(times):
        start = perf_counter()
        found = work()
        best = min(best, perf_counter() - start)
    return best, found


draw = np.random.default_rng(0)
ids = [f"s{i}" for i in range(STIMULI)]
edges = (np.arange(BINS) * 10.0, np.arange(BINS) * 10.0 + 10)
recording = make_recording(
    draw.normal(size=(REPEATS * STIMULI, NEUROIDS, BINS)), stimulus_id=ids * REPEATS,
    region="IT", time_bins=edges,
)  # fmt: skip
layers = {
    f"l{i}": make_activations(draw.normal(size=(STIMULI, WIDTH)), ids, "net", f"l{i}", (WIDTH,))
    for i in range(LAYERS)
}
metric = RSA(comparator="corr")


def at_once() -> Any:
    return ra.time_resolved(recording, layers, metric, ceiling=False, device="cpu")["value"].values


def loop() -> Any:
    values = []
    for t in range(BINS):
        rows = ra.compare(
            recording.isel(time_bin=t), layers, metric, ceiling=False, n_resamples=0, null_draws=0,
            device="cpu",
        )  # fmt: skip
        values.append([row.value for row in rows])
    return np.array(values).T[None]


def rsatoolbox_movie() -> Any:
    from rsatoolbox.data import Dataset, TemporalDataset
    from rsatoolbox.rdm import calc_rdm, calc_rdm_movie, compare

    data = TemporalDataset(
        recording["response"].values,
        obs_descriptors={"stimulus": np.tile(np.arange(STIMULI), REPEATS)},
        time_descriptors={"time": edges[0]},
    )
    movie = calc_rdm_movie(data, method="correlation", descriptor="stimulus")
    models = [
        calc_rdm(Dataset(one["response"].values), method="correlation") for one in layers.values()
    ]
    return np.array([compare(model, movie, method="corr")[0] for model in models])[None]


torch.set_num_threads(1)
print(
    f"{STIMULI} stimuli, {NEUROIDS} neuroids, {BINS} bins, {REPEATS} repetitions, {LAYERS} layers"
)
seconds, values = best_of(at_once)
pairs = STIMULI * (STIMULI - 1) // 2
work = 2 * STIMULI**2 * (NEUROIDS * BINS + WIDTH * LAYERS) + 2 * pairs * BINS * LAYERS
kept = 8 * pairs * (BINS + LAYERS)
print(
    f"time_resolved        {seconds:8.3f} s   {work / 1e9:.2f} GFLOP, {kept / 1e6:.0f} MB of RDMs"
)
for name, peer in (("loop of compare", loop), ("rsatoolbox movie", rsatoolbox_movie)):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        took, theirs = best_of(peer, 1)
    apart = float(np.abs(values - theirs).max())
    print(f"{name:<20} {took:8.3f} s   {took / seconds:6.1f} ×   largest difference {apart:.0e}")
for name, work_of in {
    "cross_temporal, 20 splits, RSA": lambda: ra.cross_temporal(recording, metric=metric),
    "cross_temporal, 20 splits, CKA": lambda: ra.cross_temporal(recording, metric=CKA()),
    "1000 permutations": lambda: ra.time_resolved(
        recording, layers, metric, ceiling=False, n_permutations=1000
    ),
    "with split-half ceilings": lambda: ra.time_resolved(recording, layers, metric),
}.items():
    print(f"{name:<32} {best_of(work_of, 1)[0]:8.3f} s")

"""A whole-brain searchlight beside rsatoolbox's: same run, interleaved, same dtype and threads.

OMP_NUM_THREADS=2 python scripts/bench/searchlight.py [--small] [word of a row ...]

100 000 voxels in the shape of a brain, 92 conditions, spheres of 3 voxels (up to 123), five models.
rsatoolbox runs some centres, and its time is extrapolated to all: each costs as much as the next.
Rows without such a peer (noise of one's own at each centre) stand beside a loop over
repalign.metrics. The whole brain runs in a process of its own, whose peak memory is printed.
"""

import contextlib
import io
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from timing import peak_megabytes

from repalign import RSA, searchlight
from repalign.metrics.comparators import compare_rdms
from repalign.metrics.noise import noise_precision
from repalign.metrics.rdms import rdm
from repalign.searchlights import (
    gather_neighbourhoods,
    mask_coordinates,
    sphere_neighbourhoods,
)

SMALL = "--small" in sys.argv
ROWS = {word for word in sys.argv[1:] if not word.startswith("--")}
VOXELS = 12_000 if SMALL else 100_000
CONDITIONS, MODELS, RADIUS, REPEATS = 92, 5, 3, 4
PEER_CENTRES, OUR_CENTRES, ROUNDS = (40, 2000, 3) if SMALL else (100, 4000, 5)
CASES = {  # RDM, comparator, noise, whether rsatoolbox's searchlight has it
    "correlation, corr": ("correlation", "corr", None, True),
    "correlation, spearman": ("correlation", "spearman", None, True),
    "euclidean, cosine": ("euclidean", "cosine", None, True),
    "euclidean, corr_cov": ("euclidean", "corr_cov", None, True),
    "crossnobis, corr": ("crossnobis", "corr", None, False),
    "crossnobis with noise": ("crossnobis", "corr", "shrinkage_eye", False),
}


def brain(n_voxels: int) -> np.ndarray:
    """An ellipsoid of about so many voxels, with a gap between its halves."""
    axes = np.array([0.72, 0.9, 0.62]) * (n_voxels / (4 / 3 * np.pi * 0.72 * 0.9 * 0.62)) ** (1 / 3)
    for growth in np.linspace(1, 1.2, 200):
        size = np.ceil(axes * growth).astype(int) + 1
        grid = np.stack(np.meshgrid(*[np.arange(-s, s + 1) for s in size], indexing="ij"), -1)
        mask = ((grid / (axes * growth)) ** 2).sum(-1) <= 1
        mask[size[0], :, size[2] :] = False
        if mask.sum() >= n_voxels:
            break
    return mask


def inputs(repeats: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Responses in float64, models and the mask."""
    mask = brain(VOXELS)
    random = np.random.default_rng(0)
    x = random.normal(size=(repeats, CONDITIONS, int(mask.sum())))
    features = random.normal(size=(MODELS, CONDITIONS, 6))
    square = {f"m{i}": ((f[:, None] - f) ** 2).sum(-1) for i, f in enumerate(features)}
    return (x[0] if repeats == 1 else x), square, mask


def whole_brain(case: str) -> None:
    """Run one case over all centres and print seconds and peak memory as JSON."""
    method, comparator, noise, _ = CASES[case]
    x, models, mask = inputs(REPEATS if method == "crossnobis" else 1)
    hoods = sphere_neighbourhoods(mask_coordinates(mask), radius=RADIUS, unit="voxels", minimum=40)
    metric = RSA(method, comparator, "euclidean" if method == "crossnobis" else None, noise)
    begin = time.perf_counter()
    maps = searchlight(x, models, metric, neighbourhoods=hoods, memory="3GB")
    seconds = time.perf_counter() - begin
    told = {"seconds": seconds, "peak": peak_megabytes(), "centres": len(hoods)}
    told["finite"] = int(np.isfinite(maps["similarity"].values[0]).sum())
    print(json.dumps(told | {"hoods": str(hoods)}))


if "--whole" in sys.argv:
    whole_brain(sys.argv[sys.argv.index("--whole") + 1])
    sys.exit()

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rsatoolbox
    from rsatoolbox.inference import eval_fixed
    from rsatoolbox.util.searchlight import evaluate_models_searchlight, get_searchlight_RDMs


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return seconds and what came out, without progress bars and warnings."""
    quiet = io.StringIO()
    with (
        contextlib.redirect_stderr(quiet),
        contextlib.redirect_stdout(quiet),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        begin = time.perf_counter()
        found = function(*arguments)
        return time.perf_counter() - begin, found


def loop(data: np.ndarray, members: list[np.ndarray], models: np.ndarray, metric: RSA) -> Any:
    """Each centre by itself, by repalign.metrics."""
    found = []
    for own in members:
        y = data[..., own]
        kinds = {} if metric.noise is None else {"noise": noise_precision(y, method=metric.noise)}
        d = rdm(y, method=metric.rdm, **kinds)
        found.append(compare_rdms(d[None], models, method=metric.comparator, batch_dims=1))
    return torch.stack(found).numpy()


def peer(data: np.ndarray, members: list[np.ndarray], models: np.ndarray, metric: RSA) -> Any:
    """The same by rsatoolbox's searchlight."""
    events, centres = np.arange(CONDITIONS), np.arange(len(members))
    rdms = get_searchlight_RDMs(data, centres, members, events, method=metric.rdm, verbose=False)
    fixed = [rsatoolbox.model.ModelFixed(f"m{i}", one) for i, one in enumerate(models)]
    scores = evaluate_models_searchlight(rdms, fixed, eval_fixed, method=metric.comparator)
    return np.stack([one.evaluations.reshape(-1) for one in scores])


def ours(data: np.ndarray, models: dict[str, np.ndarray], metric: RSA, hoods: Any) -> Any:
    """The same by repalign's."""
    return searchlight(data, models, metric, neighbourhoods=hoods)["similarity"].values


def floor(method: str, noise: str | None, sizes: np.ndarray, repeats: int) -> float:
    """Seconds a centre that the products alone take, at the speed of one large product."""
    n, m, f = CONDITIONS, float(sizes.mean()), repeats if method == "crossnobis" else 1
    flops = m * n * n * (1 if f == 1 else 1 + f)  # SYRK: half of 2mn²
    if noise is not None:
        flops += n * f * m * m + m**3 + 2 * n * f * m * m
    moved = 8 * (m * n * f * (2 if noise is None else 4) + 2 * n * n)
    return max(flops / GEMM, moved / COPY)


a = torch.randn(2000, 2000, dtype=torch.float64)
GEMM = 2 * 2000**3 / min(timed(torch.mm, a, a)[0] for _ in range(3))
b = torch.zeros(50_000_000, dtype=torch.float64)
COPY = 16 * len(b) / min(timed(b.clone)[0] for _ in range(3))
del a, b
x, models, mask = inputs(REPEATS)
grid = mask_coordinates(mask)
hoods = sphere_neighbourhoods(grid, radius=RADIUS, unit="voxels", minimum=40)
random = np.random.default_rng(1)
chosen = np.sort(random.permutation(len(hoods))[:OUR_CENTRES])
upper = np.triu_indices(CONDITIONS, 1)
condensed = np.stack([one[upper] for one in models.values()])
print(
    f"repalign, torch {torch.__version__}, {torch.get_num_threads()} threads, float64: "
    f"{GEMM / 1e9:.0f} GFLOP/s, copies at {COPY / 1e9:.1f} GB/s; "
    f"rsatoolbox {version('rsatoolbox')}\n{hoods}\n"
    f"{CONDITIONS} conditions, {MODELS} models; medians of {ROUNDS} rounds, µs a centre\n"
    f"{'':24} {'peer':>10} {'repalign':>10} {'ratio':>8} {'floor':>8}   whole brain"
)
for case, (method, comparator, noise, has_peer) in CASES.items():
    if ROWS and not ROWS & set(case.replace(",", "").split()):
        continue
    data = x if method == "crossnobis" else x[0]
    metric = RSA(method, comparator, "euclidean" if method == "crossnobis" else None, noise)
    part = gather_neighbourhoods(
        [hoods.members(c) for c in chosen], n_neuroids=data.shape[-1], minimum=1
    )
    members = [hoods.members(c) for c in chosen[:PEER_CENTRES]]
    # A call lays all voxels out once, whatever the number of centres: that is timed apart.
    few = gather_neighbourhoods([members[0]], n_neuroids=data.shape[-1], minimum=1)
    pairs = []
    for _ in range(ROUNDS):
        theirs, expected = timed(peer if has_peer else loop, data, members, condensed, metric)
        once, _ = timed(ours, data, models, metric, few)
        own, values = timed(ours, data, models, metric, part)
        pairs.append((theirs / len(members), (own - once) / (len(chosen) - 1)))
    difference = np.abs(values[:, : len(members)].T - expected).max()
    theirs, own = (statistics.median(side) * 1e6 for side in zip(*pairs, strict=True))
    least = floor(method, noise, hoods.size, REPEATS) * 1e6
    command = [sys.executable, __file__, *["--small"] * SMALL, "--whole", case]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(
        f"{case:24} {theirs:10.0f} {own:10.0f} {theirs / own:7.0f}× {least:8.0f}   "
        f"{told['centres']} centres in {told['seconds']:.1f} s, "
        f"{told['centres'] / told['seconds']:.0f}/s, peak {told['peak'] / 1000:.2f} GB; "
        f"differ by {difference:.0e}{'' if has_peer else ' (peer: a loop of repalign)'}",
        flush=True,
    )

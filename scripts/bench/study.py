"""Studies beside one task a pair and joblib, what a cell costs, and how busy the cores are.

    python scripts/bench/study.py            # some ten minutes
    python scripts/bench/study.py --small    # about one minute

grid      24 layers of one network (the regions of a recording) × 24 of another, debiased CKA: a
          study, one Dask task a pair, one joblib task a pair. All read stores by their paths, on
          the same warm workers, one thread each; the values must be equal.
cells     a study of many small cells in one process, beside bare metric calls on arrays in memory
          that are prepared once each: what a cell costs beside its metric, and what plan, status
          and collect take.
busy      a study of tasks of two seconds by one worker and by all: scaling, and the share of the
          cores that the workers' CPU time fills, with start-up and on warm workers.
paper     10⁶ and 10⁸ cells from these costs.

Ways run in turn, a round each; medians. Prints Markdown.
"""

import argparse
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import distributed
import joblib
import numpy as np
import psutil
import torch

import repalign as ra
from repalign.activations import open_activations
from repalign.clusters import open_client
from repalign.memory import PeakMemory, keep_freed
from repalign.opening import open_recording
from repalign.recording import make_activations, make_recording
from repalign.store import write_store
from repalign.studies import collect_study, plan_study, read_study, run_study, study_status
from repalign.studies.tasks import one_thread

parser = argparse.ArgumentParser()
parser.add_argument("--small", action="store_true", help="about one minute")
parser.add_argument("--rounds", type=int, default=None)
parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
parser.add_argument("--parts", nargs="+", default=["grid", "cells", "busy"])
OPTIONS = parser.parse_args()
SMALL, WORKERS = OPTIONS.small, OPTIONS.workers
ROUNDS = OPTIONS.rounds or (1 if SMALL else 3)
PLAIN = {"n_resamples": 0, "null_draws": 0, "ceiling": "none"}
WAYS = ("study", "one Dask task a pair", "one joblib task a pair", "study, one process")
RANDOM = np.random.default_rng(0)


def write_network(path: Path, layers: list[np.ndarray]) -> None:
    ids = [f"s{i:05}" for i in range(len(layers[0]))]
    for number, values in enumerate(layers):
        layer = make_activations(values, ids, path.stem, f"l{number:02}", values.shape[1:])
        write_store(path / f"l{number:02}", {"": layer}, provenance={}, overwrite=True)


def write_brain(path: Path, layers: list[np.ndarray]) -> None:
    """A recording whose regions are the layers of a network."""
    ids = [f"s{i:05}" for i in range(len(layers[0]))]
    regions = [f"r{n:02}" for n, values in enumerate(layers) for _ in range(values.shape[1])]
    recording = make_recording(np.concatenate(layers, 1), stimulus_id=ids, region=regions)
    ra.save_recording(recording, path, overwrite=True)


def study(folder: Path, name: str, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "recordings": [str(folder / "brain.zarr")],
        "models": [str(folder / "net*.zarr")],
        "metrics": ["cka"],
        "inference": PLAIN,
        "run": {"to": str(folder / "to")},
        **more,
    }


def fresh(config: dict[str, object]) -> dict[str, object]:
    shutil.rmtree(read_study(config).folder, ignore_errors=True)
    return config


def timed(function, *arguments, **options):
    begin = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - begin, result


def one_pair(pair: tuple[str, str]) -> float:
    """What a task of a pair does: read two layers, compare them."""
    with one_thread():
        first, second = (open_activations(path).load() for path in pair)
        return ra.compare(
            first, second, ra.CKA(), ceiling=False, n_resamples=0, null_draws=0, device="cpu"
        )[0].value


def worker_state(dask_worker: distributed.Worker) -> tuple[float, int]:
    """CPU seconds of a worker so far, and the most memory it held."""
    times = psutil.Process().cpu_times()
    return times.user + times.system, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def states(client: distributed.Client) -> tuple[float, int]:
    found = client.run(worker_state).values()
    return sum(cpu for cpu, _ in found), max(memory for _, memory in found)


def table(title: str, head: list[str], rows: list[list[object]]) -> None:
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        cells = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row]
        print(f"| {' | '.join(cells)} |", flush=True)


def grid(folder: Path) -> None:
    n, units, layers = (200, 1024, 24) if SMALL else (1000, 4096, 24)
    first, second = (
        [RANDOM.random((n, units), dtype=np.float32) for _ in range(layers)] for _ in range(2)
    )
    write_brain(folder / "brain.zarr", first)
    write_network(folder / "first.zarr", first)
    write_network(folder / "net.zarr", second)
    pairs = [
        (str(folder / "first.zarr" / f"l{a:02}"), str(folder / "net.zarr" / f"l{b:02}"))
        for b in range(layers)
        for a in range(layers)
    ]
    config = study(folder, "grid")
    seconds: dict[str, list[float]] = {}
    memory: dict[str, int] = {}
    values: dict[str, np.ndarray] = {}

    def ours(**how) -> np.ndarray:
        run_study(fresh(config), progress=False, **how)
        return collect_study(config).table.sort_values(["layer", "region"])["value"].to_numpy()

    for _ in range(ROUNDS):
        for way in WAYS:
            with open_client(workers=WORKERS) as client, PeakMemory() as here:
                client.run(warm)
                if way == "study":
                    took, found = timed(ours, scheduler=client)
                elif way == "study, one process":
                    took, found = timed(ours)
                elif way.startswith("one Dask"):
                    took, found = timed(lambda: client.gather(client.map(one_pair, pairs)))
                else:
                    with joblib.Parallel(n_jobs=WORKERS) as parallel:
                        parallel(joblib.delayed(warm)() for _ in range(4 * WORKERS))
                        jobs = [joblib.delayed(one_pair)(pair) for pair in pairs]
                        took, found = timed(parallel, jobs)
                alone = way == "study, one process"
                memory[way] = max(memory.get(way, 0), here.peak if alone else states(client)[1])
            seconds.setdefault(way, []).append(took)
            values[way] = np.array(found)
    for found in values.values():
        assert np.allclose(found, values["study"], rtol=1e-9), "the ways disagree"
    medians = {way: median(times) for way, times in seconds.items()}
    table(
        f"{layers} × {layers} layers of {n} stimuli × {units} units, CKA, {WORKERS} workers",
        ["way", "seconds", "the study is faster by", "most memory of a process, MB"],
        [
            [
                way,
                took,
                f"{took / medians['study']:.1f}×",
                "—" if "joblib" in way else memory[way] // 10**6,
            ]
            for way, took in medians.items()
        ],
    )


def warm() -> None:
    """Import what the tasks need."""
    import repalign.studies.tasks  # noqa: F401

    torch.ones(2, 2) @ torch.ones(2, 2)


def cells(folder: Path) -> dict[str, float]:
    n, targets, models, layers = (60, 25, 4 if SMALL else 10, 10 if SMALL else 20)
    write_brain(folder / "brain.zarr", [RANDOM.normal(size=(n, 40)) for _ in range(targets)])
    networks = [
        [RANDOM.random((n, 200), dtype=np.float32) for _ in range(layers)] for _ in range(models)
    ]
    for number, network in enumerate(networks):
        write_network(folder / f"net{number}.zarr", network)
    config = study(folder, "cells", metrics=["cka", "rsa"])
    count = targets * models * layers * 2
    brain = open_recording(str(folder / "brain.zarr")).load()
    regions = [
        torch.from_numpy(np.ascontiguousarray(ra.select(brain, region=f"r{i:02}")["response"]))
        for i in range(targets)
    ]

    calls = {ra.CKA(): ra.CKA().compare_prepared, ra.RSA(): ra.RSA().compare_rdms}

    def each_alone() -> None:
        """Every cell by a call of its metric on two arrays."""
        with one_thread():
            for network in networks:
                for layer in network:
                    y = torch.from_numpy(layer).double()
                    for metric in calls:
                        for x in regions:
                            float(metric(x, y))

    def bare() -> None:
        """The same, with each RDM and Gram matrix computed once: the least that there is to do."""
        with one_thread():
            ready = {metric: [metric.prepare(x) for x in regions] for metric in calls}
            for network in networks:
                for layer in network:
                    y = torch.from_numpy(layer).double()
                    for metric, call in calls.items():
                        prepared = metric.prepare(y)
                        for x in ready[metric]:
                            float(call(x, prepared))

    spent: dict[str, list[float]] = {}
    peak = 0
    for _ in range(ROUNDS):
        fresh(config)
        with PeakMemory() as memory:
            for name, function in {
                "metric calls on arrays, each alone": each_alone,
                "bare calls, each array prepared once": bare,
                "plan": lambda: plan_study(config),
                "run": lambda: run_study(config, progress=False),
                "run again, nothing to do": lambda: run_study(config, progress=False),
                "status": lambda: study_status(config),
                "collect": lambda: collect_study(config),
            }.items():
                spent.setdefault(name, []).append(timed(function)[0])
        peak = max(peak, memory.peak)
    medians = {name: median(times) for name, times in spent.items()}
    parts = (read_study(config).folder / "parts").iterdir()
    size = sum(path.stat().st_size for path in parts)
    overhead = (medians["run"] - medians["bare calls, each array prepared once"]) / count
    table(
        f"{count:,} cells of {n} stimuli, in one process (at most {peak // 10**6} MB)",
        ["step", "seconds", "ms a cell"],
        [[name, took, 1000 * took / count] for name, took in medians.items()]
        + [["run less bare calls", overhead * count, 1000 * overhead]],
    )
    return {
        "overhead": overhead,
        "again": (medians["run again, nothing to do"] + medians["collect"]) / count,
        "bytes": size / count,
    }


def busy(folder: Path) -> None:
    goal, tasks = (0.5, 16) if SMALL else (2.0, 40)
    n = 120
    write_brain(folder / "brain.zarr", [RANDOM.normal(size=(n, 40))])
    layers = [RANDOM.random((n, 200), dtype=np.float32) for _ in range(tasks)]
    write_network(folder / "net.zarr", layers)
    brain = open_recording(str(folder / "brain.zarr")).load()
    layer = open_activations(folder / "net.zarr" / "l00").load()

    def probe(draws: int) -> float:
        with one_thread():
            begin = time.process_time()
            ra.compare(brain, layer, ra.RSA(), n_resamples=draws, null_draws=0, device="cpu")
            return time.process_time() - begin

    keep_freed()  # as workers do
    probe(100)
    few, many = (min(probe(draws) for _ in range(3)) for draws in (100, 1100))
    draws = max(1, round(1000 * (goal - few) / max(many - few, 1e-6)))
    config = study(folder, "busy", metrics=["rsa"], inference=PLAIN | {"n_resamples": draws})
    took: dict[str, list[float]] = {}
    share: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for count in dict.fromkeys((1, WORKERS)):
            with open_client(workers=count) as client:
                client.run(warm)
                before = states(client)[0]
                wall = timed(run_study, fresh(config), scheduler=client, progress=False)[0]
                used = states(client)[0] - before
            way = f"{count} warm workers"
            took.setdefault(way, []).append(wall)
            share.setdefault(way, []).append(used / (count * wall))
        children = sum(os.times()[2:4])
        wall = timed(run_study, fresh(config), workers=WORKERS, progress=False)[0]
        way = f"{WORKERS} workers, their start and end included"
        took.setdefault(way, []).append(wall)
        share.setdefault(way, []).append((sum(os.times()[2:4]) - children) / (WORKERS * wall))
    one = median(took["1 warm workers"])
    table(
        f"{tasks} tasks of about {goal} s ({draws:,} bootstrap samples each)",
        ["way", "seconds", "speed-up", "CPU time of the workers / (cores × time)"],
        [
            [way, median(times), f"{one / median(times):.2f}×", f"{median(share[way]):.0%}"]
            for way, times in took.items()
        ],
    )


def paper(costs: dict[str, float]) -> None:
    rows: list[list[object]] = []
    for count in (10**6, 10**8):
        hours = costs["overhead"] * count / 3600
        rows.append(
            [
                f"{count:,}",
                f"{hours:,.2f} core hours",
                f"{36 * hours:,.0f} s",
                f"{costs['again'] * count / 60:,.1f} min",
                f"{costs['bytes'] * count / 1e9:,.2f} GB",
            ]
        )
    table(
        "On paper, beside the metrics themselves",
        ["cells", "overhead", "with 100 workers", "run again and collect, one core", "results"],
        rows,
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        for part in OPTIONS.parts:
            folder = Path(name) / part
            folder.mkdir()
            found = {"grid": grid, "cells": cells, "busy": busy}[part](folder)
            if part == "cells":
                paper(found)
            shutil.rmtree(folder)

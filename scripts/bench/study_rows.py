"""A million rows of results: seconds to write them in parts, read, make one, join and pivot.

    python scripts/bench/study_rows.py [ROWS]

No network and no recording is needed: the grid and its values are made up. Prints JSON.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from repalign.metrics import CKA, RSA
from repalign.recording import Target
from repalign.studies.collecting import join_results
from repalign.studies.configuration import InferenceSection
from repalign.studies.grid import Grid, Group, StudyLayer, StudyRecording
from repalign.studies.results_store import make_one, read_stored, write_part

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
PART = 20_000
MODELS, LAYERS = 50, 20
METRICS = {"cka": CKA(), "rsa": RSA()}


def make_grid(rows: int) -> Grid:
    subjects = max(1, rows // (MODELS * LAYERS * len(METRICS)))
    targets = tuple(Target("macaque", "IT", f"session {i}") for i in range(subjects))
    recording = StudyRecording("made-up", (), "made-up.zarr", "sha256:0", targets, 500, False)
    groups = tuple(
        Group(
            recording,
            f"model{m}",
            tuple(
                StudyLayer(f"model{m}", f"layer{n}", f"{m}/{n}", f"{m} {n}", 100, 500, "ids")
                for n in range(LAYERS)
            ),
        )
        for m in range(MODELS)
    )
    return Grid(groups, METRICS, InferenceSection())


def main() -> None:
    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[name], last = round(now - last, 2), now

    random = np.random.default_rng(0)
    grid = make_grid(ROWS)
    cells = list(grid.cells())
    lap("keys of the grid")
    rows = [
        {
            "key": cell.key, "kind": "cell", "dataset": cell.recording.name, "selection": "",
            "species": cell.target.species, "region": cell.target.region,
            "subject": cell.target.subject, "model": cell.layer.model, "layer": cell.layer.layer,
            "metric": cell.metric, "metric_parameters": '{"debiased": true}',
            "is_distance": False, "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1,
            "n_stimuli": 500, "n_neuroids": 100, "seed": 0, "version": "0.1.0", "seconds": 0.1,
            "note": "500 stimuli matched by id, of 500 and 500",
        }
        for cell, value in zip(cells, random.random(len(cells)).tolist(), strict=True)
    ]  # fmt: skip
    lap("rows in memory (of the bench)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for start in range(0, len(rows), PART):
            write_part(folder, rows[start : start + PART])
        lap("write parts")
        parts = list((folder / "parts").iterdir())
        size = sum(path.stat().st_size for path in parts)
        stored = read_stored(folder)
        lap("read and check parts")
        done = stored.done()
        lap("keys that are done")
        results = join_results(grid, stored)
        lap("collect: pandas")
        array = results.to_xarray()
        lap("collect: xarray")
        results.save(folder / "results.parquet")
        lap("save .parquet")
        make_one(folder, most=1)
        lap("make one part of all")
        assert len(done) == len(results.table) == len(cells) == int(array["value"].notnull().sum())
    print(
        json.dumps(
            {"rows": len(cells), "parts": len(parts), "bytes": size, "seconds": seconds}, indent=1
        )
    )


main()

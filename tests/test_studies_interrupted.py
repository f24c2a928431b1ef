"""Studies that are killed, run twice at once, or lose workers end in the same table."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from studies_material import make_study

from repalign.clusters import open_client
from repalign.studies import collect_study, read_study, run_study
from repalign.studies import running as module

CELLS = 30
# Tasks of one layer that take a while, published one by one: many moments to be killed at.
DRIVER = """
import json, sys, time
from repalign.studies import running, scheduling
task = running.run_task
def slow(*arguments):
    time.sleep(0.15)
    return task(*arguments)
running.run_task, running.PUBLISH_S, scheduling.TASK_S = slow, 0.3, 0.0
running.run_study(json.loads(sys.argv[1]), progress=False)
"""


def start(study: dict[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps(study)])


def events(study: dict[str, Any]) -> list[dict[str, Any]]:
    log = read_study(study).folder / "log.jsonl"
    lines = log.read_text("utf-8").splitlines() if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def unpublished(logged: list[dict[str, Any]]) -> int:
    """Cells that were computed since the last part."""
    count = 0
    for one in logged:
        count = 0 if one["event"] == "published" else count + one["cells"]
    return count


def total(logged: list[dict[str, Any]], event: str = "computed") -> int:
    return sum(one["cells"] for one in logged if one["event"] == event)


def test_a_killed_driver_goes_on_and_computes_only_what_was_in_flight_again(
    tmp_path: Path,
) -> None:
    whole = make_study(tmp_path, name="whole")
    run_study(whole, progress=False)
    expected = collect_study(whole).table
    study = make_study(tmp_path)
    dice, lost = random.Random(0), 0
    for kill in range(3):
        process, before = start(study), len(events(study))
        while len(events(study)) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.5))
        process.kill()
        process.wait()
        logged = events(study)
        assert len(logged) > before, f"run {kill} computed nothing"
        lost += unpublished(logged[before:])
    run_study(study, progress=False)
    pd.testing.assert_frame_equal(collect_study(study).table, expected)
    assert CELLS <= total(events(study)) <= CELLS + lost
    leftovers = list((read_study(study).folder / "parts").glob(".*"))
    assert all(one.name.startswith(".part-") for one in leftovers)  # never read


def test_two_drivers_do_not_double_the_work(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    drivers = [start(study), start(study)]
    assert [one.wait(timeout=120) for one in drivers] == [0, 0]
    assert total(events(study)) == CELLS
    assert total(events(study), "published") == CELLS
    assert len(collect_study(study).table) == CELLS


def test_ctrl_c_publishes_what_was_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path)
    done: list[int] = []

    def stop_at_third(task: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(task.cells)
        return original(task)

    original = module.run_task
    monkeypatch.setattr("repalign.studies.scheduling.TASK_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_task", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            run_study(study, progress=False)
    assert total(events(study), "published") == sum(done) > 0
    run_study(study, progress=False)
    assert total(events(study)) == CELLS


def test_lost_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_study(tmp_path, name="whole", inference={"n_resamples": 300, "seed": 1})
    run_study(whole, progress=False)
    study = whole | {"name": "lossy"}
    monkeypatch.setattr("repalign.studies.scheduling.TASK_S", 0.0)
    monkeypatch.setattr(module, "PUBLISH_S", 0.0)
    with open_client(workers=2) as client:

        def kill_one() -> None:
            while not events(study):
                time.sleep(0.01)
            os.kill(workers[0], signal.SIGKILL)

        workers = list(client.run(os.getpid).values())
        killer = threading.Thread(target=kill_one, daemon=True)
        killer.start()
        assert run_study(study, scheduler=client, progress=False).done == CELLS
        killer.join(timeout=10)
        assert workers[0] not in client.run(os.getpid, on_error="ignore").values()
    pd.testing.assert_frame_equal(collect_study(study).table, collect_study(whole).table)
    assert total(events(study)) == CELLS

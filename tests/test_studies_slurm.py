"""Studies in jobs of a real SLURM: cancelled, replaced, retired, taken over by another driver."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pandas as pd
import pytest
from dask_processes import start
from slurm_machine import QUICK, jobs
from studies_material import CHEAP_LAYERS, make_cheap_study
from study_driver import be_slow, drive, events, noted, total, unpublished

from repalign.studies import collect_study, run_study

pytestmark = pytest.mark.slurm
CELLS_A_TASK = 4


@pytest.fixture
def cluster(slurm: Path, tmp_path: Path) -> dict[str, Any]:
    """The `[cluster]` of a study, once the jobs of other tests have ended."""
    until(lambda: not jobs())
    return {
        "system": "slurm",
        "jobs": 2,
        "memory": "1900MB",
        "walltime": "00:10:00",
        "queue": "main",
        "interface": "lo",
        "logs": str(tmp_path / "logs"),
        "setup": [f"export PYTHONPATH={Path(__file__).parent}:$PYTHONPATH"],
    }


def until(holds: Callable[[], Any], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def test_networks_are_recorded_in_gpu_jobs_and_a_cancelled_job_is_replaced(
    cluster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [str(tmp_path / "many.zarr"), "pixels", "digits_cnn"]
    study = make_cheap_study(tmp_path, models=models)
    alone = study | {"name": "alone", "run": {"to": str(tmp_path / "alone")}}
    run_study(alone, progress=False)
    study |= {"cluster": cluster | {"gpu": {"jobs": 1}}}
    seen: set[str] = set()
    cancelled: list[str] = []

    def cancel_one() -> None:
        until(lambda: total(events(study)))
        cancelled.append(jobs("RUNNING")[0])
        subprocess.run(["scancel", cancelled[0]], check=True)
        while threading.main_thread().is_alive() and not over.is_set():
            seen.update(jobs("RUNNING"))
            time.sleep(0.1)

    be_slow(monkeypatch.setattr)
    monkeypatch.setenv("REPALIGN_TEST_SECONDS", "2")  # until the other jobs are there
    over = threading.Event()
    cancelling = threading.Thread(target=cancel_one, daemon=True)
    cancelling.start()
    with dask.config.set(QUICK):
        status = run_study(study, progress=False)
    over.set()
    cancelling.join(120)
    assert status.done == status.cells
    assert len(seen - {*cancelled}) >= 2  # the other job, and the one in place of the cancelled
    pd.testing.assert_frame_equal(collect_study(study).table, collect_study(alone).table)
    assert total(events(study)) == status.cells
    recorded = {one["where"] for one in noted(tmp_path, "shown")}
    compared = {one["where"] for one in noted(tmp_path, "begun")}
    assert recorded
    assert len(compared) >= 2
    assert not recorded & compared


def test_a_second_driver_takes_over_when_the_first_is_killed_with_its_scheduler(
    cluster: dict[str, Any], tmp_path: Path
) -> None:
    def workers() -> set[str]:
        return {one["where"] for one in noted(tmp_path) if one["where"]}

    study = make_cheap_study(tmp_path)
    alone = study | {"name": "alone"}
    run_study(alone, progress=False)
    study |= {"cluster": cluster}
    first = start(drive, study, {}, QUICK, {"REPALIGN_TEST_SECONDS": "3"})
    until(lambda: jobs())
    second = start(drive, study, {}, QUICK)
    until(lambda: len(workers()) == 2 and total(events(study)))
    assert len(jobs()) <= 2  # the second waits, and asks for none
    first.kill()
    first.join()
    lost = unpublished(events(study))
    second.join(600)
    assert second.exitcode == 0
    until(lambda: not jobs())  # those of the killed driver have ended by themselves
    pd.testing.assert_frame_equal(collect_study(study).table, collect_study(alone).table)
    computed = total(events(study))
    assert CHEAP_LAYERS * CELLS_A_TASK <= computed <= CHEAP_LAYERS * CELLS_A_TASK + lost
    assert len(workers()) >= 3  # of two schedulers


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"queue": "mian"}, "slurm did not take the job: .*[iI]nvalid partition"),
        ({"setup": ["echo no such module >&2; exit 3"]}, "ended before their worker .*no such mod"),
    ],
)
def test_jobs_that_cannot_run_are_said_at_once(
    cluster: dict[str, Any], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    study = make_cheap_study(tmp_path) | {"cluster": cluster | changes}
    with pytest.raises(RuntimeError, match=said):
        run_study(study, progress=False)
    until(lambda: not jobs())

"""Studies that are killed, run twice at once, or lose workers end in the same table."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask_processes
import pandas as pd
import pytest
from dask_processes import Cluster, start
from studies_material import CHEAP_LAYERS, make_cheap_study, make_study
from study_driver import UNREACHABLE, be_slow, drive, events, noted, total, unpublished

from repalign import handing_out
from repalign.clusters import open_client, workers_of
from repalign.studies import collect_study, read_study, run_study
from repalign.studies import running as module

CELLS_A_TASK = 2 * 2  # metrics, regions
CELLS = CHEAP_LAYERS * CELLS_A_TASK
MOMENTS = 20
WORKERS = 2
SLOWER = {"REPALIGN_TEST_SECONDS": "0.2"}  # a study takes longer than the time between two moments
LONG = 300.0


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    return make_cheap_study(tmp_path)


@pytest.fixture
def expected(study: dict[str, Any]) -> pd.DataFrame:
    """The table of a run in one process that nobody interrupts."""
    whole = study | {"name": "whole"}
    run_study(whole, progress=False)
    return collect_study(whole).table


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with dask_processes.cluster(WORKERS) as one:
        yield one


def test_a_study_interrupted_at_twenty_random_moments_is_the_one_that_was_not(
    study: dict[str, Any], expected: pd.DataFrame, tmp_path: Path, cluster: Cluster
) -> None:
    """Driver, worker or scheduler is killed; only what was in flight is computed again.

    Rows that a driver had not published go with it, and the task of each worker whose scheduler
    or driver goes. A driver that loses its scheduler publishes what it has.
    """
    dice = random.Random(7)
    victims = dice.sample(["driver", "worker", "scheduler"] * 7, MOMENTS)
    finished = lost_cells = allowed = 0  # cells of this study; tasks of all of them
    now = study | {"name": "run0"}
    before = 0  # events of earlier drivers of this study
    driver = start(drive, now, {"scheduler": cluster.address}, {}, SLOWER)
    try:
        while victims:
            time.sleep(dice.uniform(0.0, 1.2))
            if driver.exitcode == 0:  # before the next moment: another study
                check(now, expected, lost_cells)
                allowed += lost_cells // CELLS_A_TASK
                finished, lost_cells, before = finished + 1, 0, 0
                now = study | {"name": f"run{finished}"}
                driver = start(drive, now, {"scheduler": cluster.address}, {}, SLOWER)
                continue
            victim = victims.pop()
            allowed += 1 if victim == "worker" else WORKERS
            if victim == "worker":
                dice.choice(cluster.alive()).kill()
                cluster.add()
                continue
            if victim == "driver":
                driver.kill()
            else:
                cluster.end()
                cluster.restart(WORKERS)
            driver.join(LONG)
            if driver.exitcode != 0:  # it may have been about to end
                assert driver.exitcode == (-9 if victim == "driver" else UNREACHABLE)
                logged = events(now)
                lost = unpublished(logged[before:])
                assert victim == "driver" or not lost
                lost_cells, before = lost_cells + lost, len(logged)
                driver = start(drive, now, {"scheduler": cluster.address}, {}, SLOWER)
        driver.join(LONG)
        assert driver.exitcode == 0
        check(now, expected, lost_cells)
    finally:
        driver.kill()
    assert finished < MOMENTS / 2  # most moments were in the midst of a study
    allowed += lost_cells // CELLS_A_TASK
    assert len(noted(tmp_path)) <= CHEAP_LAYERS * (finished + 1) + allowed


def check(study: dict[str, Any], expected: pd.DataFrame, lost: int) -> None:
    pd.testing.assert_frame_equal(collect_study(study).table, expected)
    assert CELLS <= total(events(study)) <= CELLS + lost


def test_workers_killed_at_random_change_nothing(
    study: dict[str, Any],
    expected: pd.DataFrame,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each kill costs no more than the task that the worker had."""
    be_slow(monkeypatch.setattr)
    monkeypatch.setenv("REPALIGN_TEST_SECONDS", "0.5")
    dice, kills = random.Random(1), 4
    cluster.end_workers()
    cluster.add(WORKERS + 1)

    def kill() -> None:
        for _ in range(kills):
            before = total(events(study))
            while total(events(study)) == before:
                time.sleep(0.01)
            time.sleep(dice.uniform(0, 0.1))
            dice.choice(cluster.alive()).kill()
            cluster.add()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert run_study(study, scheduler=cluster.address, progress=False).done == CELLS
    killer.join(LONG)
    assert len(cluster.workers) == WORKERS + 1 + kills
    pd.testing.assert_frame_equal(collect_study(study).table, expected)
    assert total(events(study)) == CELLS
    assert CHEAP_LAYERS <= len(noted(tmp_path)) <= CHEAP_LAYERS + kills


def test_workers_that_retire_hand_their_tasks_to_others(
    study: dict[str, Any],
    expected: pd.DataFrame,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in jobs with a time limit: each ends when its life is over, and another one begins."""
    be_slow(monkeypatch.setattr)
    monkeypatch.setenv("REPALIGN_TEST_SECONDS", "0.4")
    cluster.end_workers()
    cluster.add(WORKERS)
    retiring = list(cluster.workers)

    def replace() -> None:
        while len({one["where"] for one in noted(tmp_path)}) < WORKERS:
            time.sleep(0.01)
        with open_client(scheduler=cluster.address) as client:
            client.run(end_of_life)
        for worker in retiring:
            worker.join()
            cluster.add()

    replacing = threading.Thread(target=replace, daemon=True)
    replacing.start()
    assert run_study(study, scheduler=cluster.address, progress=False).done == CELLS
    replacing.join(LONG)
    assert [one.exitcode for one in retiring] == [0] * WORKERS
    assert len({one["where"] for one in noted(tmp_path)}) > WORKERS
    pd.testing.assert_frame_equal(collect_study(study).table, expected)
    assert total(events(study)) == CELLS
    assert CHEAP_LAYERS <= len(noted(tmp_path)) <= CHEAP_LAYERS + WORKERS


def end_of_life(dask_worker: Any) -> None:
    """What a worker does by itself when its lifetime is over, begun at a moment that is known."""
    dask_worker.loop.add_callback(dask_worker.close_gracefully, reason="its lifetime is over")


def test_retirements_are_no_losses(cluster: Cluster) -> None:
    with open_client(scheduler=cluster.address) as client:
        client.wait_for_workers(WORKERS, timeout=240)
        killed, retired = list(workers_of(client))
        client.retire_workers([retired], remove=True)
        pids = client.run(os.getpid)
        os.kill(pids[killed], signal.SIGKILL)
        while workers_of(client):
            time.sleep(0.05)
        assert handing_out._has_retired(client, retired)
        assert not handing_out._has_retired(client, killed)


def test_a_killed_driver_without_workers_goes_on(
    study: dict[str, Any], expected: pd.DataFrame
) -> None:
    dice, lost = random.Random(0), 0
    for kill in range(3):
        before = len(events(study))
        driver = start(drive, study, {}, {}, SLOWER)
        while len(events(study)) == before and driver.is_alive():
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.3))
        driver.kill()
        driver.join()
        logged = events(study)
        assert len(logged) > before, f"run {kill} computed nothing"
        lost += unpublished(logged[before:])
    run_study(study, progress=False)
    pd.testing.assert_frame_equal(collect_study(study).table, expected)
    assert CELLS <= total(events(study)) <= CELLS + lost
    leftovers = list((read_study(study).folder / "parts").glob(".*"))
    assert all(one.name.startswith(".part-") for one in leftovers)  # never read


def test_two_drivers_do_not_double_the_work(study: dict[str, Any]) -> None:
    drivers = [start(drive, study, {}), start(drive, study, {})]
    for driver in drivers:
        driver.join(LONG)
    assert [one.exitcode for one in drivers] == [0, 0]
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
    assert total(events(study)) == 30

"""Recordings spread over workers: the store of one process, whatever is lost on the way."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask_processes
import numpy as np
import pytest
import torch
from dask_processes import Cluster, start
from distributed import Client
from torch import nn

import repalign as ra
from repalign import clusters, handing_out
from repalign.activations import record
from repalign.clusters import open_client
from repalign.handing_out import Seat, _rank, hand_out
from repalign.network_cards import Preprocessing
from repalign.networks import Network
from repalign.scenes import make_scenes
from repalign.stimuli import Stimuli, encode_png
from repalign.store import read_manifest
from repalign.store_checks import verify_store

N_STIMULI, ROWS = 22, 2
SHARDS = N_STIMULI // ROWS


class Slow(nn.Module):
    """Takes its time for each pass, and can give NaN for one image."""

    def __init__(self, seconds: float = 0.0, *, bad_from: float = np.inf) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.seconds, self.bad_from = seconds, bad_from

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        x = torch.where(x.mean((1, 2, 3), keepdim=True) > self.bad_from, torch.nan, x)
        return self.conv(x).relu()


def make_network(seconds: float = 0.0, *, bad_from: float = np.inf) -> Network:
    torch.manual_seed(0)
    module = Slow(seconds, bad_from=bad_from).eval()
    return Network("slow", module, Preprocessing(size=(16, 16)), ("conv",))


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    scenes = make_scenes(N_STIMULI, size=32)
    return Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with dask_processes.cluster(2) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with open_client(scheduler=cluster.address) as client:
        client.wait_for_workers(2, timeout=240)
        yield client


def layer_of(found: dict[str, Any]) -> np.ndarray:
    return found["conv"]["response"].values


def test_spread_recording_is_bit_for_bit_that_of_one_process(
    client: Client, stimuli: Stimuli, tmp_path: Path
) -> None:
    alone = record(make_network(), stimuli=stimuli, to=tmp_path / "alone", batch_size=ROWS)
    spread = record(
        make_network(), stimuli=stimuli, to=tmp_path / "spread", batch_size=ROWS, scheduler=client
    )
    np.testing.assert_array_equal(layer_of(alone), layer_of(spread))
    stores = [Path(found["conv"].attrs["store"]) for found in (alone, spread)]
    kept = [read_manifest(store) for store in stores]
    assert kept[0] is not None
    assert kept[1] is not None
    assert kept[0]["fingerprints"] == kept[1]["fingerprints"]
    assert kept[1]["provenance"]["run"]["stimuli"] == N_STIMULI
    assert all(check.passed for check in verify_store(stores[1]))


def test_workers_of_this_machine_are_started_and_ended(stimuli: Stimuli, tmp_path: Path) -> None:
    found = record(make_network(), stimuli=stimuli, to=tmp_path, batch_size=ROWS, workers=1)
    assert layer_of(found).shape == (N_STIMULI, 4 * 14 * 14)
    again = record(make_network(), stimuli=stimuli, to=tmp_path, batch_size=ROWS, workers=1)
    np.testing.assert_array_equal(layer_of(found), layer_of(again))


def finished_shards(to: Path) -> int:
    return len(list(to.glob("activations/*/conv/done/c/*")))


def test_parts_of_killed_workers_go_to_others(
    cluster: Cluster, client: Client, stimuli: Stimuli, tmp_path: Path
) -> None:
    expected = record(make_network(), stimuli=stimuli, to=tmp_path / "alone", batch_size=ROWS)

    def kill_both_in_turn() -> None:
        for number, shards in enumerate((1, 4)):
            while finished_shards(tmp_path / "spread") < shards:
                time.sleep(0.02)
            cluster.workers[number].kill()
            cluster.add()

    thread = threading.Thread(target=kill_both_in_turn, daemon=True)
    thread.start()
    network = make_network(0.1)  # the same weights, but slow
    found = record(
        network, stimuli=stimuli, to=tmp_path / "spread", batch_size=ROWS, scheduler=client
    )
    thread.join(120)
    assert len(cluster.workers) == 4
    np.testing.assert_array_equal(layer_of(found), layer_of(expected))


def record_slowly(stimuli: Stimuli, to: str, address: str) -> None:
    record(make_network(0.3), stimuli=stimuli, to=to, batch_size=ROWS, scheduler=address)


def test_run_whose_process_is_killed_is_resumed(
    cluster: Cluster, client: Client, stimuli: Stimuli, tmp_path: Path
) -> None:
    expected = record(make_network(), stimuli=stimuli, to=tmp_path / "alone", batch_size=ROWS)
    to = tmp_path / "spread"
    child = start(record_slowly, stimuli, str(to), cluster.address)
    while not finished_shards(to):
        assert child.is_alive()
        time.sleep(0.02)
    child.kill()
    child.join()
    assert 0 < finished_shards(to) < SHARDS
    network = make_network(0.1)
    found = record(network, stimuli=stimuli, to=to, batch_size=ROWS, scheduler=client)
    np.testing.assert_array_equal(layer_of(found), layer_of(expected))


def test_error_of_a_worker_is_that_of_the_run_which_can_be_resumed(
    client: Client, stimuli: Stimuli, tmp_path: Path
) -> None:
    bad = make_network(bad_from=-10.0)
    with pytest.raises(ValueError, match=r"layer conv: NaN or infinite activations for stimulus"):
        record(bad, stimuli=stimuli, to=tmp_path, batch_size=ROWS, scheduler=client)
    found = record(make_network(), stimuli=stimuli, to=tmp_path, batch_size=ROWS, scheduler=client)
    assert np.isfinite(layer_of(found)).all()


def where_it_ran(item: int, seat: Seat, shared: str) -> tuple[str, int, float, float]:
    begin = time.time()
    time.sleep(0.05)
    return f"{seat.address} {shared}", seat.rank, begin, time.time()


def test_each_worker_has_one_task_at_a_time_and_a_rank_of_its_own(client: Client) -> None:
    results = dict(hand_out(client, where_it_ran, range(12), "told"))
    assert sorted(results) == list(range(12))
    by_worker: dict[str, list[tuple[float, float]]] = {}
    ranks: dict[str, set[int]] = {}
    for name, rank, begin, end in results.values():
        by_worker.setdefault(name, []).append((begin, end))
        ranks.setdefault(name, set()).add(rank)
    assert len(by_worker) == 2
    assert all(name.endswith(" told") for name in by_worker)
    assert sorted(map(tuple, ranks.values())) == [(0,), (1,)]
    for spans in by_worker.values():
        spans.sort()
        assert all(first[1] <= second[0] for first, second in pairwise(spans))


def reads_blocks(item: int, seat: Seat) -> tuple[int, set[int]]:
    """Process of a task, and those that compute the blocks of a lazy array that it reads."""
    import dask.array as da

    blocks = da.arange(6, chunks=1).map_blocks(lambda block: block * 0 + os.getpid(), dtype=int)
    return os.getpid(), set(np.asarray(blocks).tolist())


def test_task_reads_what_is_lazy_by_itself(client: Client) -> None:
    for _, (process, readers) in hand_out(client, reads_blocks, range(4)):
        assert readers == {process}


def dies(item: int, seat: Seat) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_task_that_ends_its_workers_is_given_up(cluster: Cluster, client: Client) -> None:
    cluster.add()
    with pytest.raises(RuntimeError, match="3 workers were lost in the same task"):
        list(hand_out(client, dies, [0]))


def test_scheduler_that_goes_is_said_soon(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_client(scheduler=cluster.address) as client:
        monkeypatch.setattr(handing_out, "RECONNECT_S", 0.5)
        monkeypatch.setattr(clusters, "CONNECT_S", 0.5)
        results = hand_out(client, where_it_ran, range(100), "told")
        next(results)
        cluster.end()
        with pytest.raises(ConnectionError, match=r"scheduler at tcp://.* is gone; what is finis"):
            list(results)


@pytest.mark.parametrize("ask", [lambda one: one.get_events("topic"), lambda one: one.submit(int)])
def test_a_client_that_has_given_up_its_scheduler_says_so(
    ask: Callable[[Client], Any], cluster: Cluster
) -> None:
    """Dask's own errors are then of any type, such as `RuntimeError: ConnectionPool is closed`."""

    def asked(client: Client) -> None:
        with clusters.scheduler_needed(client, "tcp://here"):
            ask(client)

    client = Client(cluster.address, set_as_default=False)
    client.close()
    with pytest.raises(ConnectionError, match="scheduler at tcp://here is gone"):
        asked(client)


def test_all_is_done_while_workers_are_killed_all_the_time(
    cluster: Cluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In moments of every kind: while it joins, is sent what is shared, computes, or answers."""
    monkeypatch.setattr(handing_out, "LOSSES", 1000)
    dice, over = random.Random(0), threading.Event()

    def kill() -> None:
        while not over.wait(dice.uniform(0.1, 0.4)):
            if clusters.workers_of(client):  # a slow machine starts none between two kills
                dice.choice(cluster.alive()).kill()
                cluster.add()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        for _ in range(3):
            done = [item for item, _ in hand_out(client, where_it_ran, range(20), "told")]
            assert sorted(done) == list(range(20))
    finally:
        over.set()
        thread.join(120)


def dies_on_a_gpu(item: int, seat: Seat, gpus: str) -> str:
    if item == 0 and seat.address == gpus:
        os.kill(os.getpid(), signal.SIGKILL)
    return seat.address


def test_what_wants_a_gpu_waits_for_another_when_its_worker_is_lost(
    cluster: Cluster, client: Client
) -> None:
    cluster.add(resources={"GPU": 1})
    client.wait_for_workers(3, timeout=240)
    (with_gpu,) = clusters.workers_of(client, gpus=True)
    results = hand_out(client, dies_on_a_gpu, range(4), with_gpu, gpus=True)

    def add_another() -> None:
        cluster.workers[-1].join()
        time.sleep(1)
        cluster.add(resources={"GPU": 1})

    threading.Thread(target=add_another, daemon=True).start()
    ran = {address for _, address in results}
    (another,) = clusters.workers_of(client, gpus=True)
    assert ran <= {with_gpu, another}
    assert another in ran
    others = {address for _, address in hand_out(client, dies_on_a_gpu, range(9), "", gpus=False)}
    assert others == set(clusters.workers_of(client, gpus=False))


def test_workers_of_a_job_take_its_gpus_in_turn() -> None:
    """Two jobs with two GPUs each on one machine: both count their own from 0."""
    names = ["cluster-1-0", "cluster-2-0", "cluster-1-1", "cluster-2-1"]
    alive = {name: {"name": name, "host": "node"} for name in names}
    ranks: dict[str, int] = {}
    assert [_rank(name, alive, ranks) for name in names] == [0, 0, 1, 1]
    alone = {
        f"tcp://node:{port}": {"name": f"tcp://node:{port}", "host": "node"} for port in (1, 2)
    }
    assert [_rank(one, alone, ranks) for one in alone] == [0, 1]


def test_scheduler_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "CONNECT_S", 0.5)
    with (
        pytest.raises(ConnectionError, match="no Dask scheduler answers at tcp://127.0.0.1:9"),
        open_client(scheduler="tcp://127.0.0.1:9"),
    ):
        pass


def test_scheduler_without_workers_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(clusters, "JOIN_S", 0.5)
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        pytest.raises(ConnectionError, match="no worker has joined the scheduler at tcp://"),
        open_client(scheduler=cluster.scheduler_address),
    ):
        pass


def test_worker_of_another_version_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ra, "__version__", "0.0.0+other")
    with pytest.raises(RuntimeError, match="and this process 0.0.0"), open_client(scheduler=client):
        pass


@pytest.mark.parametrize(("name", "has"), [("torch", "torch 1.0"), ("repalign", "no repalign")])
def test_worker_without_what_numbers_depend_on_is_refused(name: str, has: str) -> None:
    there = clusters.versions() | {name: "1.0" if name == "torch" else None}
    with pytest.raises(RuntimeError, match=f"worker tcp://other:1 has {has}, and this process"):
        clusters.refuse_other_versions({"tcp://other:1": there})


def test_worker_that_joins_later_is_asked_for_its_version(
    cluster: Cluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = hand_out(client, where_it_ran, range(200), "told")
    next(results)
    monkeypatch.setattr(ra, "__version__", "0.0.0+other")  # than that of one that comes
    cluster.add()
    with pytest.raises(RuntimeError, match="and this process 0.0.0"):
        list(results)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"workers": 2, "scheduler": "tcp://x:1"}, "one of them"),
        ({"workers": 0}, "expected 1 or more"),
    ],
)
def test_wrong_choice_of_workers_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said), open_client(**given):
        pass

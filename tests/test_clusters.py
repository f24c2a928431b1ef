"""Recordings spread over workers: the store of one process, whatever is lost on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed import Client
from torch import nn

import repalign as ra
from repalign import clusters
from repalign.activations import record
from repalign.cards import Preprocessing
from repalign.clusters import Seat, hand_out, open_client
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


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with open_client(workers=2) as client:
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


def test_parts_of_killed_workers_go_to_others(
    client: Client, stimuli: Stimuli, tmp_path: Path
) -> None:
    expected = record(make_network(), stimuli=stimuli, to=tmp_path / "alone", batch_size=ROWS)
    killed: list[int] = []

    def kill_each_in_turn() -> None:
        for shards in (1, 4, 7):
            while len(list((tmp_path / "spread").glob("activations/*/conv/done/c/*"))) < shards:
                time.sleep(0.02)
            with contextlib.suppress(Exception):  # of workers that are gone already
                pids = set(client.run(os.getpid, on_error="ignore").values()) - set(killed)
                killed.append(pids.pop())
                os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill_each_in_turn, daemon=True)
    thread.start()
    network = make_network(0.3)  # the same weights, but slow
    found = record(
        network, stimuli=stimuli, to=tmp_path / "spread", batch_size=ROWS, scheduler=client
    )
    assert len(killed) >= 2
    np.testing.assert_array_equal(layer_of(found), layer_of(expected))


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
from test_clusters import ROWS, N_STIMULI, make_network
from repalign.activations import record
from repalign.scenes import make_scenes
from repalign.stimuli import Stimuli, encode_png
scenes = make_scenes(N_STIMULI, size=32)
stimuli = Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])
record(make_network(0.3), stimuli=stimuli, to={to!r}, batch_size=ROWS, scheduler={address!r})
"""


def test_run_whose_process_is_killed_is_resumed(
    client: Client, stimuli: Stimuli, tmp_path: Path
) -> None:
    expected = record(make_network(), stimuli=stimuli, to=tmp_path / "alone", batch_size=ROWS)
    to = tmp_path / "spread"
    address = client.scheduler_info()["address"]
    script = SCRIPT.format(tests=str(Path(__file__).parent), to=str(to), address=address)
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    while not list(to.glob("activations/*/conv/done/c/*")):
        assert child.poll() is None
        time.sleep(0.02)
    child.kill()
    child.wait()
    done = len(list(to.glob("activations/*/conv/done/c/*")))
    assert 0 < done < SHARDS
    network = make_network(0.3)
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
    client.wait_for_workers(2, timeout=60)
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


def dies(item: int, seat: Seat) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_task_that_ends_its_workers_is_given_up() -> None:
    with (
        open_client(workers=1) as client,
        pytest.raises(RuntimeError, match="3 workers were lost in the same task"),
    ):
        list(hand_out(client, dies, [0]))


def test_scheduler_that_is_not_there_is_said() -> None:
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

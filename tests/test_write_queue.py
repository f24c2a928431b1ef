"""The queue between a network and the threads which write: bounded, in order, and never silent."""

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from repalign.memory import parse_size, say_size
from repalign.write_queue import WriteQueue


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [700, 1500, 100_000])
def test_all_that_was_put_is_written_in_the_order_of_its_lane(size: int, threads: int) -> None:
    """Pieces of many sizes go round the ring; each is changed as soon as it was put."""
    random = np.random.default_rng(0)
    written: dict[int, list[np.ndarray[Any, Any]]] = {lane: [] for lane in range(4)}
    expected: dict[int, list[np.ndarray[Any, Any]]] = {lane: [] for lane in range(4)}
    with WriteQueue(size, threads=threads) as queue:
        for number in range(300):
            rows = torch.from_numpy(random.normal(size=(2, int(random.integers(1, 80)))))
            lane = number % 4
            expected[lane].append(rows.numpy().astype(np.float32))

            def write(values: np.ndarray[Any, Any], lane: int = lane) -> None:
                if random.integers(20) == 0:
                    time.sleep(0.001)
                written[lane].append(values.copy())

            queue.put(rows, torch.float32, lane=lane, write=write)
            rows.fill_(0)
    for lane, blocks in expected.items():
        assert len(written[lane]) == len(blocks)
        for found, block in zip(written[lane], blocks, strict=True):
            np.testing.assert_array_equal(found, block)


def test_bytes_in_flight_never_exceed_the_ring_and_the_producer_waits() -> None:
    gate = threading.Event()
    put: list[int] = []

    def produce() -> None:
        with WriteQueue(4 * 4096, threads=1) as queue:
            for number in range(6):
                queue.put(
                    torch.ones(4, 256), torch.float32, lane=0, write=lambda _: gate.wait() or None
                )
                put.append(number)

    thread = threading.Thread(target=produce)
    thread.start()
    end = time.monotonic() + 60
    while len(put) < 4 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.3)
    assert len(put) == 4
    gate.set()
    thread.join(60)
    assert len(put) == 6


def test_channels_last_and_one_axis_become_stimulus_by_unit() -> None:
    images = torch.randn(3, 4, 5, 6).contiguous(memory_format=torch.channels_last)
    kept = []
    with WriteQueue(10_000) as queue:
        queue.put(images, torch.float32, lane=0, write=lambda a: kept.append(a.copy()))
        queue.put(images[:, 0, 0, 0], torch.float32, lane=0, write=lambda a: kept.append(a.copy()))
    np.testing.assert_array_equal(kept[0], images.flatten(1).numpy())
    np.testing.assert_array_equal(kept[1], images[:, :1, 0, 0].numpy())


def test_failure_of_a_thread_is_raised_and_ends_all_writing() -> None:
    written = []

    def fail(_: object) -> None:
        raise OSError("disk full")

    def run() -> None:
        with WriteQueue(256, threads=1) as queue:
            queue.put(torch.ones(1, 8), torch.float32, lane=0, write=fail)
            for _ in range(100):
                queue.put(torch.ones(1, 8), torch.float32, lane=0, write=written.append)
                queue.then(lambda: written.append("then"), lane=0)

    with pytest.raises(OSError, match="disk full"):
        run()
    assert written == []
    with pytest.raises(OSError, match="disk full"), WriteQueue(256) as queue:
        queue.put(torch.ones(1, 8), torch.float32, lane=0, write=fail)
    with pytest.raises(KeyError, match="own"), WriteQueue(256) as queue:
        raise KeyError("own")
    with (
        pytest.raises(ValueError, match="do not fit into a queue of 256"),
        WriteQueue(256) as queue,
    ):
        queue.put(torch.ones(1, 80), torch.float32, lane=0, write=fail)


def test_what_follows_is_called_after_all_writes_of_its_lane() -> None:
    order: list[int] = []
    with WriteQueue(10_000, threads=2) as queue:
        for number in range(20):
            queue.put(
                torch.ones(1, 8),
                torch.float32,
                lane=1,
                write=lambda _, number=number: order.append(number),
            )
        queue.then(lambda: order.append(-1), lane=1)
    assert order == [*range(20), -1]


@pytest.mark.parametrize("text", ["", "GB", "4 parsecs", "-1GB", "0", "0GB", "1e3"])
def test_words_that_are_no_size_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_size(text)


def test_sizes_are_read_and_said() -> None:
    assert [parse_size(text) for text in ("4GB", "0.5 gib", "12", "3kb")] == [
        4 * 10**9,
        2**29,
        12,
        3000,
    ]
    assert say_size(parse_size("3.2 TB")) == "3,200 GB"

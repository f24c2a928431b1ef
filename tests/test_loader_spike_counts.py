"""Spike counts: exact at the edges, checked, and read only where they are needed."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from repalign.loaders import spike_counts
from repalign.loaders.spike_counts import (
    bin_edges,
    count_spikes,
    covered,
    merge_intervals,
    open_spike_trains,
)


def naive_counts(times: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts = np.zeros((len(edges), edges.shape[1] - 1), dtype=int)
    for row, own in enumerate(edges):
        for column in range(len(own) - 1):
            counts[row, column] = sum(own[column] <= t < own[column + 1] for t in times)
    return counts


def save(path: Path, trains: list[Any], **options: Any) -> tuple[Path, str, list[str], np.ndarray]:
    with h5py.File(path, "w") as file:
        file.create_dataset("spikes", data=np.concatenate(trains).astype(float), **options)
    names = [f"u{i}" for i in range(len(trains))]
    return path, "spikes", names, np.cumsum([len(train) for train in trains]).astype(np.uint16)


def test_counts_equal_a_loop_with_spikes_on_edges_and_overlapping_windows(
    random: np.random.Generator,
) -> None:
    times = np.sort(np.concatenate([random.uniform(0, 20, 200), np.arange(0, 20, 0.25)]))
    edges = np.arange(0, 19, 0.25)[:, None] + bin_edges((-500, 1000), 250) / 1000
    np.testing.assert_array_equal(count_spikes(times, edges), naive_counts(times, edges))


def test_a_spike_at_the_start_counts_and_one_at_the_stop_does_not() -> None:
    assert count_spikes(np.array([1.0, 2.0, 2.0, 3.0]), np.array([[1.0, 2.0, 3.0]])).tolist() == [
        [1, 2]
    ]


def test_neighbouring_bins_neither_lose_nor_double_spikes(random: np.random.Generator) -> None:
    times = np.sort(random.uniform(0, 100, 5000).round(3))
    at = random.uniform(0, 90, 50).round(3)[:, None]
    bins = count_spikes(times, at + bin_edges((0, 700), 7) / 1000).sum(axis=1)
    assert bins.tolist() == count_spikes(times, at + bin_edges((0, 700)) / 1000)[:, 0].tolist()


@pytest.mark.parametrize(
    ("window", "bin_ms", "message"),
    [
        ((100, 100), None, r"window_ms = \[100, 100\]: expected \[start, stop\]"),
        ((0, float("nan")), None, "expected"),
        ((0, 100), 30, "bin_ms = 30 does not divide"),
        ((0, 100), 0, "bin_ms = 0 does not divide"),
        ((0, 100), -50, "bin_ms = -50 does not divide"),
        ((0, 100), 200, "bin_ms = 200 does not divide"),
    ],
)
def test_windows_that_make_no_sense_are_refused(window: Any, bin_ms: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bin_edges(window, bin_ms)


def test_bins_end_where_the_window_does() -> None:
    edges = bin_edges((0, 3.3), 1.1)
    assert len(edges) == 4
    assert edges[-1] == 3.3
    assert 3 * 1.1 != 3.3
    with pytest.raises(ValueError, match="0.2 ms long; it is in milliseconds, not seconds"):
        bin_edges((0.05, 0.25))


def test_intervals_that_overlap_or_touch_are_one_and_nested_ones_change_nothing() -> None:
    merged = merge_intervals(np.array([[5, 6], [0, 4], [1, 2], [4, 4.5]], dtype=float))
    assert merged.tolist() == [[0, 4.5], [5, 6]]
    inside = covered(merged, np.array([0, 4.4, 5.5, -1, 7]), np.array([4.5, 5.1, 6, 0.5, 8]))
    assert inside.tolist() == [True, False, True, False, False]
    assert not covered(np.empty((0, 2)), np.zeros(3), np.ones(3)).any()


def test_reads_are_narrowed_by_marks_and_still_exact(
    tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spike_counts, "MARK_EVERY", 7)
    trains = [np.sort(random.uniform(0, 50, n).round(1)) for n in (500, 0, 3, 7, 14, 1)]
    source = open_spike_trains(*save(tmp_path / "a.h5", trains, chunks=(64,)))
    for start in np.arange(0, 48, 0.1):
        edges = np.array([[start, start + 0.2, start + 2.0]])
        expected = np.stack([naive_counts(train, edges)[0] for train in trains])
        np.testing.assert_array_equal(source.respond(edges)[0], expected)


def test_chosen_units_keep_their_own_spikes(tmp_path: Path) -> None:
    trains = [[0.1], [0.1, 0.2], [0.1, 0.2, 0.3]]
    keep = np.array([False, True, True])
    source = open_spike_trains(*save(tmp_path / "a.h5", trains), keep=keep)
    edges = np.array([[0.0, 1.0]])
    assert source.respond(edges).tolist() == [[[2], [3]]]
    assert source.take(np.array([False, True])).respond(edges).tolist() == [[[3]]]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([0.1, np.nan, 0.2], r"a\.h5: spikes of unit u1: 1 times are NaN or infinite"),
        ([0.1, np.inf], "NaN or infinite"),
        ([0.2, 0.1, 0.3], r"not sorted: 0\.2 s stands before 0\.1 s"),
        ([-0.5, 0.1], r"1 times are negative \(first -0\.5 s\); .* select under \[options\]"),
    ],
)
def test_unsound_spike_times_are_refused_unless_their_unit_is_left_out(
    tmp_path: Path, train: list[float], message: str
) -> None:
    saved = save(tmp_path / "a.h5", [[0.1], train])
    with pytest.raises(ValueError, match=message):
        open_spike_trains(*saved)
    open_spike_trains(*saved, keep=np.array([True, False]))


def test_an_index_that_does_not_fit_and_units_without_spikes_are_refused(tmp_path: Path) -> None:
    path, dataset, names, stops = save(tmp_path / "a.h5", [[0.1], [0.2]])
    for bad in (stops + 1, stops[::-1], stops[:1]):
        with pytest.raises(ValueError, match="does not fit its 2 spike times and 2 units"):
            open_spike_trains(path, dataset, names, bad)
    with pytest.raises(ValueError, match="no spike in any of 2 units"):
        open_spike_trains(*save(tmp_path / "b.h5", [[], []]))


def test_silence_after_the_last_spike_is_recorded_until_it_is_too_long(tmp_path: Path) -> None:
    source = open_spike_trains(*save(tmp_path / "a.h5", [np.arange(0, 100, 0.1), [3.0]]))
    start = np.array([0.0, 105.0, 109.0, 111.0])
    for inside in source.recorded(start, start + 0.5):
        assert inside.tolist() == [True, True, True, False]


def test_examples_run() -> None:
    assert doctest.testmod(spike_counts).failed == 0

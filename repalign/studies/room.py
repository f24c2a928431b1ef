"""The disk and the memory that a study takes, told before it takes them."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from repalign.memory import say_size
from repalign.studies.grid import Grid, StudyLayer, StudyRecording

FLOAT_BYTES = 4
ROW_BYTES = 200  # of a result, twice what it takes: parts are made one before the old ones go
PROCESS_BYTES = 512 << 20  # of a worker that has imported torch and repalign
LAYER_COPIES = 6  # of a layer in float32: as read, in the recording's order, centred in float64
RECORDING_COPIES = 3
SQUARES = 4  # stimulus × stimulus matrices at a time


def layers_to_record(grid: Grid) -> dict[str, tuple[StudyRecording, StudyLayer]]:
    """The layers that are missing, by their stores; parts of a recording may share its stimuli."""
    return {
        layer.store: (group.recording, layer)
        for group in grid.groups
        for layer in group.layers
        if not layer.fingerprint
    }


def bytes_to_record(grid: Grid) -> int:
    """Of disk, for the layers that are missing."""
    missing = layers_to_record(grid).values()
    return sum(FLOAT_BYTES * one.n_stimuli * (one.units or 0) for _, one in missing)


def bytes_of_results(rows: int) -> int:
    """Of disk, for so many more rows of results."""
    return ROW_BYTES * rows


def memory_of_worker(grid: Grid, recordings: dict[str, int]) -> int:
    """Most bytes that a process holds which compares any layer of the grid.

    Args:
        grid: of the study.
        recordings: bytes of each recording's responses, by its store.
    """
    most = 0
    for group in grid.groups:
        for layer in group.layers:
            units = FLOAT_BYTES * layer.n_stimuli * (layer.units or 0)
            square = 8 * layer.n_stimuli**2
            recording = recordings.get(group.recording.store, 0)
            most = max(
                most,
                LAYER_COPIES * units + SQUARES * square + RECORDING_COPIES * recording,
            )
    return PROCESS_BYTES + most


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_room(grid: Grid, folder: Path, done: Collection[str]) -> None:
    """Refuse a study that the disk has no room for.

    Args:
        grid: with the layers that have to be recorded.
        folder: of the results.
        done: keys of the results that are there.

    Raises:
        OSError: there is less room than activations and results will take.
    """
    rows = sum(key not in done for block in grid.blocks() for key in block.keys.values())
    layers, results, free = bytes_to_record(grid), bytes_of_results(rows), free_disk(folder)
    if layers + results > free:
        raise OSError(
            f"{folder}: activations of {say_size(layers)} and results of {say_size(results)} are to"
            f" come, and {say_size(free)} of disk are free; make room, choose fewer layers, or"
            " name another folder: [run] to"
        )

"""Ingestion beside what bounds it: reading the source with np.memmap, and writing its bytes.

A synthetic recording of single trials, like the betas of a 7T experiment: one HDF5 file, float32,
presentations × voxels. In one run, interleaved: reading all of it through np.memmap; writing the
same bytes to a plain file and syncing it; `repalign.ingest` (a process of its own, so that its
peak memory is its own). The last column is the goal's: ingestion against the slower of the two.

    python scripts/bench/ingest.py             # 4 GB, some minutes
    python scripts/bench/ingest.py 1           # 1 GB
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import h5py
import numpy as np

GIGABYTES = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
VOXELS = 50_000
ROUNDS = 3
BLOCK = 300  # rows of 0.2 MB: 60 MB at a time

CHILD = """
import sys, time
from pathlib import Path
import repalign as ra
ra.ingest, ra.make_recording  # the imports are not timed
import dask.array, h5py, zarr
begin = time.perf_counter()
ra.ingest(Path(sys.argv[1]), to=Path(sys.argv[2]), overwrite=True)
seconds = time.perf_counter() - begin
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(seconds, int(peak) / 1e6)
"""


def make_source(folder: Path) -> tuple[Path, int]:
    """An HDF5 file of noisy responses, contiguous as NSD's are, and a card beside it."""
    n = int(GIGABYTES * 1e9 / (4 * VOXELS))
    random = np.random.default_rng(0)
    block = random.normal(size=(BLOCK, VOXELS)).astype(np.float32)
    with h5py.File(folder / "betas.h5", "w") as file:
        betas = file.create_dataset("betas", (n, VOXELS), np.float32)
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            betas[start:stop] = np.roll(block, start, axis=1)[: stop - start]
    (folder / "betas.toml").write_text(
        'name = "betas"\nspecies = "human"\nregions = "V1"\nloader = "arrays"\n'
        '[files]\nresponses = "betas.h5"\n'
        '[options]\nvariable = "betas"\ndims = ["stimulus", "neuroid"]\n'
    )
    return folder / "betas.toml", n


def read_source(folder: Path, n: int) -> float:
    """Seconds to read every value through np.memmap."""
    with h5py.File(folder / "betas.h5") as file:
        offset = file["betas"].id.get_offset()
    begin = time.perf_counter()
    values = np.memmap(folder / "betas.h5", np.float32, "r", offset, (n, VOXELS))
    total = 0.0
    for start in range(0, n, BLOCK):
        total += float(np.array(values[start : start + BLOCK])[:, 0].sum())
    return time.perf_counter() - begin


def write_raw(folder: Path, n: int) -> float:
    """Seconds to write as many bytes to a plain file, and to sync it."""
    block = np.random.default_rng(1).normal(size=(BLOCK, VOXELS)).astype(np.float32)
    begin = time.perf_counter()
    with (folder / "raw.bin").open("wb") as file:
        for start in range(0, n, BLOCK):
            file.write(block[: min(BLOCK, n - start)])
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    (folder / "raw.bin").unlink()
    return seconds


def ingest(folder: Path, card: Path) -> tuple[float, float]:
    """Seconds of an ingestion, and the peak memory of its process in GB."""
    command = [sys.executable, "-c", CHILD, str(card), str(folder / "out")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


with tempfile.TemporaryDirectory() as place:
    root = Path(place)
    card, n_rows = make_source(root)
    size = (root / "betas.h5").stat().st_size / 1e9
    reads, writes, ingests, peaks = [], [], [], []
    for _ in range(ROUNDS):
        reads.append(read_source(root, n_rows))
        writes.append(write_raw(root, n_rows))
        seconds, peak = ingest(root, card)
        ingests.append(seconds)
        peaks.append(peak)
    stored = sum(file.stat().st_size for file in (root / "out").rglob("*") if file.is_file()) / 1e9

print(f"{size:.2f} GB, {n_rows} presentations × {VOXELS} voxels, median of {ROUNDS}")
for label, times in (("np.memmap read", reads), ("raw write, synced", writes)):
    print(f"  {label:20} {median(times):7.2f} s  {size / median(times):6.2f} GB/s")
took = median(ingests)
print(f"  {'repalign.ingest':20} {took:7.2f} s  {size / took:6.2f} GB/s  peak {max(peaks):.2f} GB")
share = 100 * max(median(reads), median(writes)) / took
print(f"  store {stored:.2f} GB; {share:.0f} % of the slower of read and write (goal 70)")

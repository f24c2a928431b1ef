"""What each step beside the network takes of a core, in seconds for a GB of float32 activations.

Steps in memory are the least of five on 105 MB; files are 2 GB long, written in blocks of 8 MB,
through the system's cache and around it, with the time of a core and the time on the clock, which
is the disk's. Nothing is synced.

    python scripts/bench/recording_costs.py              # files in the temporary folder
    python scripts/bench/recording_costs.py --to /scratch
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from google_crc32c import value
from xxhash import xxh3_128

from repalign.direct_files import write_direct
from repalign.shard_files import all_finite

parser = argparse.ArgumentParser()
parser.add_argument("--to", help="folder of the files")
OPTIONS = parser.parse_args()
FILE_BYTES, BLOCK = 2 << 30, 8 << 20

torch.set_num_threads(1)
rows = torch.randn(32, 819_200)
values = rows.numpy()
target = torch.empty_like(rows)
block = np.random.default_rng(0).integers(0, 256, BLOCK, dtype=np.uint8).data


def least(call: Callable[[], object]) -> float:
    """Seconds for a GB, of five calls the fastest."""
    taken = []
    for _ in range(5):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return min(taken) / values.nbytes * 1e9


def through_cache(path: Path) -> None:
    """Write the file as programs do."""
    with path.open("wb", buffering=0) as file:
        for _ in range(FILE_BYTES // BLOCK):
            file.write(block)


def around_cache(path: Path) -> None:
    """Write the file as large recordings are written."""
    write_direct(path, [block] * (FILE_BYTES // BLOCK))


print(f"copy          {least(lambda: target.copy_(rows)):6.3f}")
print(f"check for NaN {least(lambda: all_finite(values)):6.3f}")
print(f"CRC-32C       {least(lambda: value(values.reshape(-1).view(np.uint8))):6.3f}")
print(f"XXH3          {least(lambda: xxh3_128(values.data)):6.3f}")
print(f"sha256        {least(lambda: hashlib.sha256(values.data)):6.3f}")
for name, write in {"through cache": through_cache, "around cache": around_cache}.items():
    core, clock = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory(dir=OPTIONS.to) as folder:
            begin, working = time.perf_counter(), time.thread_time()
            write(Path(folder) / "file")
            core.append((time.thread_time() - working) / FILE_BYTES * 1e9)
            clock.append((time.perf_counter() - begin) / FILE_BYTES * 1e9)
    said = ", ".join(f"{a:.2f} ({b:.2f})" for a, b in zip(core, clock, strict=True))
    print(f"write {name}, core (clock): {said}")

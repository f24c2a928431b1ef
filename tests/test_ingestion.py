"""Ingestion as a whole: killed, doubled, and larger than memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import repalign as ra
from repalign.store_checks import verify_store

CARD = """\
name = "lab"
species = "macaque"
regions = "V4"
loader = "arrays"
[files]
responses = "responses.npy"
[options]
dims = ["stimulus", "neuroid"]
"""

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import dask.array, numpy as np, xarray, zarr  # imports that every child would repeat
import repalign as ra
from repalign.loaders import ingest
from repalign.loaders.arrays import read
from repalign.store import open_store

folder, out = Path(sys.argv[1]), Path(sys.argv[1]) / "out"
random.seed(0)

def child(action):
    pid = os.fork()
    if pid:
        return pid
    try:
        os._exit(action() or 0)
    except BaseException as error:
        print(error, file=sys.stderr)
        os._exit(99)

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def write(version):
    np.save(folder / "new.npy", np.full((4000, 500), float(version)))
    os.replace(folder / "new.npy", folder / "responses.npy")

def run():
    ingest(folder / "lab.toml", to=out)

def seen():
    "0: no store; 1 + version: a whole store of one version; 98: anything else."
    try:
        values = np.unique(open_store(out / "lab.zarr")["response"].values)
    except FileNotFoundError:
        return 0
    return 1 + int(values[0]) if len(values) == 1 else 98

write(0)
begin = time.perf_counter()
assert ended(child(run)) == 0
took = time.perf_counter() - begin
for version in range(1, 21):
    before = ended(child(seen)) - 1
    write(version)
    pid = child(run)
    time.sleep(random.uniform(0, 1.2 * took))
    os.kill(pid, signal.SIGKILL)
    ended(pid)
    after = ended(child(seen)) - 1
    assert after in (before, version), (before, version, after)
    print(version, before, after)
assert ended(child(run)) == 0
assert ended(child(seen)) - 1 == 20
"""


def test_killed_at_twenty_random_moments_a_reader_sees_the_old_store_or_the_new(
    tmp_path: Path,
) -> None:
    (tmp_path / "lab.toml").write_text(CARD)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(outcomes) == 20
    assert any(after == before for _, before, after in outcomes)  # some were killed in time
    assert all(one.passed for one in verify_store(tmp_path / "out" / "lab.zarr", progress=False))


def test_of_two_processes_at_once_one_ingests_and_the_other_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(CARD)
    np.save(tmp_path / "responses.npy", np.random.default_rng(0).normal(size=(3000, 400)))
    code = (
        "import sys, repalign as ra\n"
        "print(ra.ingest(sys.argv[1], to=sys.argv[2]).attrs['fingerprint'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lab.toml"), str(tmp_path / "out")]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert sum("lab: writing" in errors for _, errors in said) == 1
    assert all(one.passed for one in verify_store(tmp_path / "out" / "lab.zarr", progress=False))


LARGE = """
import resource, sys
from pathlib import Path
import dask.array, numpy as np, xarray, zarr
import repalign as ra
from repalign.loaders import ingest
from repalign.recording import make_recording
import repalign.loaders.arrays

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ingest(Path(sys.argv[1]), to=Path(sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3)
"""


def test_a_source_ten_times_larger_than_the_memory_it_may_take(tmp_path: Path) -> None:
    """4 GB of float32 are ingested with less than 400 MB above what the imports take."""
    limit, rows, columns = 400, 20_000, 50_000
    (tmp_path / "lab.py").write_text(
        "import numpy as np\n"
        "from repalign.loaders.lazy import lazy_rows\n"
        "from repalign.recording import make_recording\n"
        f"wave = np.sin(np.arange({columns}, dtype=np.float32))\n"
        "def rows(start, stop):\n"
        "    return np.arange(start, stop, dtype=np.float32)[:, None] + wave\n"
        "def read(card, files):\n"
        f"    response = lazy_rows(rows, ({rows}, {columns}), np.float32)\n"
        f"    ids = [str(i) for i in range({rows})]\n"
        "    return make_recording(response, stimulus_id=ids, region='V4'), None\n"
    )
    card = tmp_path / "large.toml"
    card.write_text(
        CARD.replace('"lab"', '"large"')
        .replace('"arrays"', '"lab:read"')
        .replace("responses.npy", "lab.py")
        .partition("[options]")[0]
    )
    command = [sys.executable, "-c", LARGE, str(card), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 4 * rows * columns >= 10 * limit * 1e6
    assert float(done.stdout) < limit
    found = ra.open_store(tmp_path / "out" / "large.zarr")["response"]
    assert float(found[1234, 17]) == pytest.approx(1234 + np.sin(np.float32(17)), abs=1e-3)

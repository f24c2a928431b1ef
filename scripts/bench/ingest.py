"""Ingestion beside what bounds it: reading the source with np.memmap, and writing its values.

Three synthetic recordings, each in the layout of its format: single trials in one HDF5 file
(float32), a subject of the Natural Scenes Dataset (one HDF5 file a session, int16), and calcium
traces in NWB (frames × ROIs, averaged in windows around presentations).

In one run, interleaved: reading all bytes of the source through np.memmap; copying the source and
syncing the copy; writing the values of the recording to a plain file and syncing it;
`repalign.ingest` (a process of its own, so that its peak memory is its own). The last column is the
goal's: ingestion against the slower of read and write. Where memory was given back to the system
(on virtual machines to their host), the first use of it costs as much as all else: look at
several runs.

    python scripts/bench/ingest.py             # 4 GB each, some minutes
    python scripts/bench/ingest.py 1           # 1 GB
"""

import datetime
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import h5py
import nibabel
import numpy as np
import pynwb
from scipy.io import savemat

GIGABYTES = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
VOXELS = 50_000
GRID = (44, 40, 40)  # of the brain whose betas are int16
TRIALS = 750  # a session
ROIS, HERTZ = 2_000, 30.0
ROUNDS = 3
BLOCK_BYTES = 60_000_000

CHILD = """
import sys, time
from pathlib import Path
import repalign as ra
ra.ingest, ra.make_recording  # the imports are not timed
import dask.array, h5py, zarr
begin = time.perf_counter()
response = ra.ingest(Path(sys.argv[1]), to=Path(sys.argv[2]), overwrite=True)["response"]
seconds = time.perf_counter() - begin
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(seconds, int(peak) / 1e6, response.nbytes)
"""


def single_trials(folder: Path) -> list[Path]:
    """One array of noisy responses, contiguous."""
    rows = int(GIGABYTES * 1e9 / (4 * VOXELS))
    block = np.random.default_rng(0).normal(size=(300, VOXELS)).astype(np.float32)
    with h5py.File(folder / "betas.h5", "w") as file:
        betas = file.create_dataset("betas", (rows, VOXELS), np.float32)
        for start in range(0, rows, len(block)):
            betas[start : start + len(block)] = np.roll(block, start, axis=1)[: rows - start]
    (folder / "source.toml").write_text(
        'name = "source"\nspecies = "human"\nregions = "V1"\nloader = "arrays"\n'
        '[files]\nresponses = "betas.h5"\n'
        '[options]\nvariable = "betas"\ndims = ["stimulus", "neuroid"]\n'
    )
    return [folder / "betas.h5"]


def natural_scenes(folder: Path) -> list[Path]:
    """Sessions of 750 trials as int16, with NSD's design; all voxels are in a region."""
    sessions = max(1, round(GIGABYTES * 1e9 / (2 * TRIALS * np.prod(GRID))))
    random = np.random.default_rng(0)
    savemat(
        folder / "nsd_expdesign.mat",
        {
            "masterordering": random.permutation(np.repeat(np.arange(1, 10001), 3))[None] * 1.0,
            "subjectim": np.array([random.permutation(73000)[:10000] + 1.0 for _ in range(8)]),
            "sharedix": np.arange(1, 1001)[None] * 1.0,
        },
    )
    betas = folder / "betas_fithrf_GLMdenoise_RR"
    betas.mkdir()
    values = random.normal(0, 600, (TRIALS, *GRID[::-1])).astype(np.int16)
    for session in range(1, sessions + 1):
        with h5py.File(betas / f"betas_session{session:02d}.hdf5", "w") as file:
            file["betas"] = np.roll(values, session, axis=0)
    labels = nibabel.Nifti1Image(np.ones(GRID, np.float32), np.diag([1.8, 1.8, 1.8, 1]))
    nibabel.save(labels, folder / "nsdgeneral.nii.gz")
    (folder / "source.toml").write_text(
        'name = "source"\nspecies = "human"\nregions = ["nsdgeneral"]\nloader = "nsd"\n'
        '[files]\nbetas = "betas_fithrf_GLMdenoise_RR"\nexpdesign = "nsd_expdesign.mat"\n'
        'roi_nsdgeneral = "nsdgeneral.nii.gz"\n[options]\nsubject = 1\n'
    )
    return sorted(betas.iterdir())


def calcium_traces(folder: Path) -> list[Path]:
    """An NWB file of traces, in chunks of frames, with two presentations a second."""
    frames = int(GIGABYTES * 1e9 / (4 * ROIS))
    file = pynwb.NWBFile("traces", "bench", datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    file.subject = pynwb.file.Subject(subject_id="mouse-1", species="Mus musculus")
    device = file.create_device("microscope")
    plane = file.create_imaging_plane(
        name="plane",
        optical_channel=pynwb.ophys.OpticalChannel(
            name="green", description="emission", emission_lambda=520.0
        ),
        description="one",
        device=device,
        excitation_lambda=920.0,
        imaging_rate=HERTZ,
        indicator="GCaMP6f",
        location="VISp",
    )
    segmentation, fluorescence = pynwb.ophys.ImageSegmentation(), pynwb.ophys.Fluorescence()
    cells = segmentation.create_plane_segmentation(
        name="cells", description="all", imaging_plane=plane
    )
    for roi in range(ROIS):
        cells.add_roi(pixel_mask=[(roi % 500, roi // 500, 1.0)])
    ophys = file.create_processing_module("ophys", "traces")
    ophys.add([segmentation, fluorescence])
    block = np.random.default_rng(0).normal(size=(4000, ROIS)).astype(np.float32)
    fluorescence.create_roi_response_series(
        name="dff",
        data=pynwb.H5DataIO(block[:1], chunks=(1000, ROIS), maxshape=(None, ROIS)),
        rois=cells.create_roi_table_region(description="all", region=list(range(ROIS))),
        unit="1",
        rate=HERTZ,
    )
    for onset in np.arange(0, frames / HERTZ - 1, 0.5):
        file.add_trial(start_time=onset, stop_time=onset + 0.5)
    file.add_trial_column("image", "shown", [f"image-{i % 900}" for i in range(len(file.trials))])
    with pynwb.NWBHDF5IO(folder / "traces.nwb", "w") as io:
        io.write(file)
    with h5py.File(folder / "traces.nwb", "r+") as raw:
        traces = raw["processing/ophys/Fluorescence/dff/data"]
        traces.resize(frames, axis=0)
        for start in range(0, frames, len(block)):
            traces[start : start + len(block)] = np.roll(block, start, axis=1)[: frames - start]
    (folder / "source.toml").write_text(
        'name = "source"\nspecies = "mouse"\nregions = ["VISp"]\nloader = "nwb"\n'
        '[files]\nsession = "traces.nwb"\n[options]\nstimulus = "image"\n'
        'series = "processing/ophys/Fluorescence/dff"\nwindow_ms = [0, 500]\n'
    )
    return [folder / "traces.nwb"]


def read_all(files: list[Path]) -> float:
    """Seconds to read all bytes through np.memmap."""
    begin = time.perf_counter()
    total = 0
    for file in files:
        content = np.memmap(file, np.uint8, "r")
        for start in range(0, len(content), BLOCK_BYTES):
            total += int(np.array(content[start : start + BLOCK_BYTES])[0])
    return time.perf_counter() - begin


def copy_all(files: list[Path], folder: Path) -> float:
    """Seconds to copy the source as it is, and to sync the copy."""
    begin = time.perf_counter()
    for file in files:
        shutil.copyfile(file, folder / "copy.bin")
        with (folder / "copy.bin").open("rb+") as copied:
            os.fsync(copied.fileno())
    seconds = time.perf_counter() - begin
    (folder / "copy.bin").unlink()
    return seconds


def write_raw(folder: Path, size: int) -> float:
    """Seconds to write as many bytes to a plain file, and to sync it."""
    block = np.random.default_rng(1).bytes(BLOCK_BYTES)
    begin = time.perf_counter()
    with (folder / "raw.bin").open("wb") as file:
        for start in range(0, size, BLOCK_BYTES):
            file.write(block[: size - start])
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    (folder / "raw.bin").unlink()
    return seconds


def ingest(folder: Path) -> tuple[float, float, int]:
    """Seconds of an ingestion, the peak memory of its process in GB, bytes of the responses."""
    command = [sys.executable, "-c", CHILD, str(folder / "source.toml"), str(folder / "out")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak, size = done.stdout.split()
    return float(seconds), float(peak), int(size)


def measure(name: str, make: Callable[[Path], list[Path]]) -> None:
    """Print one source's table."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = make(folder)
        size = sum(file.stat().st_size for file in files)
        _, _, values = ingest(folder)  # so that every file has been read once
        times: dict[str, list[float]] = {}
        peaks = []
        for _ in range(ROUNDS):
            times.setdefault("np.memmap read", []).append(read_all(files))
            times.setdefault("copy, synced", []).append(copy_all(files, folder))
            times.setdefault("raw write, synced", []).append(write_raw(folder, values))
            seconds, peak, _ = ingest(folder)
            times.setdefault("repalign.ingest", []).append(seconds)
            peaks.append(peak)
        stored = sum(file.stat().st_size for file in (folder / "out").rglob("*") if file.is_file())
    print(f"{name}: source {size / 1e9:.2f} GB, values {values / 1e9:.2f} GB, store", end=" ")
    print(f"{stored / 1e9:.2f} GB; median (range) of {ROUNDS}, peak memory {max(peaks):.2f} GB")
    for label, seconds in times.items():
        spread = f"({min(seconds):.2f}-{max(seconds):.2f})"
        rate = (values if "write" in label else size) / 1e9 / median(seconds)
        print(f"  {label:18} {median(seconds):7.2f} s  {spread:14} {rate:6.2f} GB/s")
    slower = max(median(times["np.memmap read"]), median(times["raw write, synced"]))
    share = 100 * slower / median(times["repalign.ingest"])
    print(f"  ingest runs at {share:.0f} % of the slower of read and write (goal 70)")


for title, make in {
    "single trials, HDF5 float32": single_trials,
    "NSD sessions, HDF5 int16": natural_scenes,
    "calcium traces, NWB": calcium_traces,
}.items():
    measure(title, make)

"""Jobs of batch systems: what their scripts say, and recordings on real SLURM jobs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import slurm_machine
from test_clusters import ROWS, layer_of, make_network

from repalign.activations import record
from repalign.job_queues import SYSTEMS, JobQueue
from repalign.scenes import make_scenes
from repalign.stimuli import Stimuli, encode_png


@pytest.mark.filterwarnings("ignore:OAR Job memory")
@pytest.mark.parametrize("system", SYSTEMS)
def test_job_script_holds_what_was_asked_for(system: str, tmp_path: Path) -> None:
    text = f"{system}:cores=8,workers=2,memory=16GB,setup=module load cuda;ulimit -n 4096"
    text += f",logs={tmp_path}"
    if system == "htcondor":
        script = JobQueue.parse(f"{text},disk=1GB,directives=want_gpu = 1").script()
        assert "RequestCpus" in script
        assert "want_gpu" in script
    else:
        text += ",walltime=01:00:00,queue=gpu,account=lab,directives=--gres=gpu:1"
        script = JobQueue.parse(text).script()
        for word in ("gpu", "lab", "01:00", "--gres=gpu:1", "--lifetime 3240s"):
            assert word in script
        assert "module load cuda\nulimit -n 4096\n" in script
        assert "export OMP_NUM_THREADS=4\n" in script
    assert sys.executable in script or system == "htcondor"
    assert "--nworkers 2" in script
    assert "--nthreads 4" in script


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slrm:cores=1", "did you mean slurm"),
        ("slurm:core=1", "'core=1' is no parameter of slurm"),
        ("slurm:jobs=0", "jobs is 0, expected 1 or more"),
        ("slurm:cores=1,workers=2", "2 workers do not fit on 1 cores"),
        ("slurm:walltime=1h", "expected hours:minutes:seconds"),
        ("slurm:walltime=00:01:30", "below two minutes"),
        ("slurm:disk=1GB", "disk is for htcondor"),
        ("htcondor:queue=main", "htcondor has no queue"),
        ("htcondor:directives=gpu", "'gpu', expected name = value"),
    ],
)
def test_wrong_settings_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        JobQueue.parse(text)


def test_what_a_system_needs_and_nobody_gave_is_said() -> None:
    with pytest.raises(ValueError, match=r"memory of a job is not known; .*jobqueue\.yaml"):
        JobQueue.parse("slurm:cores=2").script()


def test_walltime_leaves_workers_time_to_retire() -> None:
    assert JobQueue.parse("slurm:walltime=00:10:00").retire_after == 540
    assert JobQueue.parse("slurm:walltime=1-00:00:00").retire_after == 0.9 * 24 * 3600
    assert JobQueue.parse("slurm").retire_after == 0


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    reason = slurm_machine.why_not()
    if reason is not None:
        pytest.skip(reason)
    with slurm_machine.slurm(tmp_path_factory.mktemp("slurm")):
        logs = tmp_path_factory.mktemp("logs")
        yield (
            "slurm:jobs=2,cores=1,memory=1900MB,walltime=00:10:00,queue=main,interface=lo"
            f",logs={logs},setup=export PYTHONPATH={Path(__file__).parent}:$PYTHONPATH"
        )


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    scenes = make_scenes(22, size=32)
    return Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])


def job_ids() -> list[str]:
    """Jobs that run."""
    said = subprocess.run(
        ["squeue", "-h", "-t", "RUNNING", "-o", "%i"], capture_output=True, text=True, check=True
    )
    return said.stdout.split()


@pytest.mark.slurm
def test_recording_on_slurm_jobs_is_bit_for_bit_that_of_one_process(
    jobs: str, stimuli: Stimuli, tmp_path: Path
) -> None:
    alone = record(make_network(), stimuli=stimuli, to=tmp_path / "alone", batch_size=ROWS)
    spread = record(
        make_network(), stimuli=stimuli, to=tmp_path / "spread", batch_size=ROWS, scheduler=jobs
    )
    np.testing.assert_array_equal(layer_of(alone), layer_of(spread))


@pytest.mark.slurm
def test_job_that_is_cancelled_is_replaced_and_its_part_done_by_others(
    jobs: str, stimuli: Stimuli, tmp_path: Path
) -> None:
    expected = record(make_network(), stimuli=stimuli, to=tmp_path / "alone", batch_size=ROWS)
    cancelled: list[str] = []

    def cancel_all_that_run() -> None:
        while not list((tmp_path / "spread").glob("activations/*/conv/done/c/*")):
            time.sleep(0.05)
        for job in job_ids():
            subprocess.run(["scancel", job], check=False)
            cancelled.append(job)

    thread = threading.Thread(target=cancel_all_that_run, daemon=True)
    thread.start()
    network = make_network(0.5)  # the same weights, but slow
    found = record(
        network, stimuli=stimuli, to=tmp_path / "spread", batch_size=ROWS, scheduler=jobs
    )
    assert cancelled
    np.testing.assert_array_equal(layer_of(found), layer_of(expected))

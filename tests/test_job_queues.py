"""Jobs of batch systems: what their scripts say, and recordings on real SLURM jobs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import numpy as np
import pytest
import slurm_machine
from test_clusters import ROWS, layer_of, make_network

from repalign.activations import record
from repalign.job_queues import SYSTEMS, JobQueue, seconds_to_retire
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
        ("slurm:cores=two", "cores is 'two', expected 1 or more"),
        ("slurm:gpus=-1", "gpus is -1, expected 0 or more"),
        ("slurm:gpus=2,workers=3", "3 workers and 2 GPUs a job, and each worker takes one"),
        ("sge:gpus=1", "asks for GPUs differently at each site"),
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
    assert seconds_to_retire("00:10:00") == 540
    assert seconds_to_retire("1-00:00:00") == 0.9 * 24 * 3600
    assert seconds_to_retire("00:30", "lsf") == 0.9 * 1800


GPU_LINES = {
    "slurm": "#SBATCH --gres=gpu:2",
    "pbs": "#PBS -l select=1:ncpus=8:ngpus=2:mem=16GB",
    "lsf": '#BSUB -gpu "num=2"',
    "htcondor": "request_gpus = 2",
    "sge": "#$ -l gpu=2",
    "oar": "#OAR -p gpu_count=2",
}


@pytest.mark.filterwarnings("ignore:OAR Job memory")
@pytest.mark.parametrize("system", SYSTEMS)
def test_gpus_are_asked_for_and_each_worker_carries_one(system: str, tmp_path: Path) -> None:
    text = f"{system}:gpus=2,cores=8,memory=16GB,logs={tmp_path}"
    text += ",disk=1GB" if system == "htcondor" else ""
    text += {"sge": ",directives=-l gpu=2", "oar": ",directives=-p gpu_count=2"}.get(system, "")
    script = JobQueue.parse(text).script()
    assert script.count(GPU_LINES[system]) == 1
    assert "--nworkers 2" in script
    assert "--resources GPU=1" in script


def test_a_directive_that_names_gpus_stands_for_ours(tmp_path: Path) -> None:
    text = f"slurm:gpus=4,cores=8,memory=16GB,logs={tmp_path},directives=--gpus-per-node=a100:4"
    script = JobQueue.parse(text).script()
    assert "--gpus-per-node=a100:4" in script
    assert "--gres" not in script


def test_what_is_left_out_is_taken_from_the_configuration_of_dask(tmp_path: Path) -> None:
    configured = {
        "cores": 6,
        "processes": 3,
        "memory": "12GB",
        "walltime": "04:00:00",
        "queue": "long",
        "job-script-prologue": ["module load python"],
        "job-extra-directives": ["--exclusive"],
        "worker-extra-args": ["--preload", "site.py"],
        "log-directory": str(tmp_path),
    }
    with dask.config.set({f"jobqueue.slurm.{name}": one for name, one in configured.items()}):
        script = JobQueue().script()
        given = JobQueue(queue="short", walltime="01:00:00", setup="module load cuda").script()
    for words in ("--cpus-per-task=6", "--nworkers 3", "-p long", "#SBATCH --exclusive"):
        assert words in script
    assert "module load python" in script
    assert "--lifetime 12960s" in script  # also before a walltime that is only configured
    assert "--preload site.py" in script
    assert f"{tmp_path}/ended-" in script
    for words in ("-p short", "-t 01:00:00", "--lifetime 3240s", "module load cuda"):
        assert words in given
    assert "module load python" not in given


@pytest.mark.slurm
def test_recording_goes_on_in_other_jobs_when_all_are_cancelled(
    slurm: Path, tmp_path: Path
) -> None:
    """The activations are those of one process, bit for bit."""
    scenes = make_scenes(22, size=32)
    stimuli = Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])
    expected = record(make_network(), stimuli=stimuli, to=tmp_path / "alone", batch_size=ROWS)
    cancelled: list[str] = []

    def cancel_all_that_run() -> None:
        while not list((tmp_path / "spread").glob("activations/*/conv/done/c/*")):
            time.sleep(0.05)
        cancelled.extend(slurm_machine.jobs("RUNNING"))
        subprocess.run(["scancel", *cancelled], check=True)

    thread = threading.Thread(target=cancel_all_that_run, daemon=True)
    thread.start()
    jobs = "slurm:jobs=2,memory=1900MB,walltime=00:10:00,queue=main,interface=lo"
    jobs += f",logs={tmp_path},setup=export PYTHONPATH={Path(__file__).parent}:$PYTHONPATH"
    with dask.config.set(slurm_machine.QUICK):
        found = record(
            make_network(0.5),  # the same weights, but slow
            stimuli=stimuli,
            to=tmp_path / "spread",
            batch_size=ROWS,
            scheduler=jobs,
        )
    assert cancelled
    np.testing.assert_array_equal(layer_of(found), layer_of(expected))

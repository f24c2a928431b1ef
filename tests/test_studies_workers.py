"""Where a study runs: any number of workers, with GPUs or without, or what `[cluster]` names."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask_processes
import pytest
from dask_processes import Cluster
from studies_material import make_cheap_study, make_study
from study_driver import be_slow, noted

import repalign as ra
from repalign import clusters
from repalign.clusters import open_client, workers_of
from repalign.job_queues import JobQueue
from repalign.studies import collect_study, job_scripts, read_study, run_study
from repalign.studies.cluster_section import QueueSection

NETWORKS = ["pixels", "digits_cnn"]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with dask_processes.cluster() as cluster:
        yield cluster


def test_any_number_of_workers_gives_the_table_of_one_process_bit_for_bit(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Networks are recorded anew by each number of workers."""
    study = make_study(
        tmp_path,
        models=[str(tmp_path / "one.zarr"), *NETWORKS],
        inference={"n_resamples": 3, "null_draws": 1, "seed": 1},
    )
    contents = []
    for workers in range(4):
        now = study | {"run": {"to": str(tmp_path / f"to{workers}")}}
        if workers:
            cluster.add()
            with open_client(scheduler=cluster.address) as client:
                client.wait_for_workers(workers, timeout=240)
                status = run_study(now, scheduler=client, progress=False)
        else:
            status = run_study(now, progress=False)
        assert status.done == status.cells
        table = collect_study(now).save(tmp_path / f"{workers}.parquet")
        contents.append(table.read_bytes())
    assert contents == contents[:1] * 4


@pytest.mark.parametrize("kinds", ["both", "only with GPUs", "only without"])
def test_networks_are_recorded_with_gpus_and_layers_compared_without_where_there_are_both(
    kinds: str, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_slow(monkeypatch.setattr)
    study = make_cheap_study(tmp_path, models=[str(tmp_path / "many.zarr"), "digits_cnn"])
    wanted = {"both": (1, 2), "only with GPUs": (2, 0), "only without": (0, 2)}[kinds]
    cluster.add(wanted[0], resources={"GPU": 1})
    cluster.add(wanted[1])
    with open_client(scheduler=cluster.address) as client:
        client.wait_for_workers(sum(wanted), timeout=240)
        with_gpus, without = (set(workers_of(client, gpus=gpus)) for gpus in (True, False))
        status = run_study(study, scheduler=client, progress=False)
    assert status.done == status.cells
    recorded = {one["where"] for one in noted(tmp_path, "shown")}
    compared = {one["where"] for one in noted(tmp_path, "begun")}
    assert recorded
    assert recorded <= with_gpus
    assert compared == without
    assert bool(recorded & compared) == (kinds != "both")


CLUSTER = {
    "system": "slurm",
    "jobs": 4,
    "cores": 8,
    "memory": "32GB",
    "directives": ["--exclusive"],
    "gpu": {"jobs": 2, "queue": "a100", "gpus": 2, "directives": []},
}


def test_cluster_section_has_the_keys_of_a_job_queue() -> None:
    assert [one.name for one in dataclasses.fields(JobQueue)] == list(QueueSection.model_fields)


def test_cluster_section_names_the_jobs_that_record_and_those_that_compare(tmp_path: Path) -> None:
    config = read_study(make_study(tmp_path, cluster=CLUSTER), changes=["cluster.jobs=9"])
    assert config.cluster is not None
    queues = config.cluster.queues
    comparing = JobQueue(jobs=9, cores=8, memory="32GB", directives=("--exclusive",))
    recording = dataclasses.replace(comparing, jobs=2, queue="a100", gpus=2, directives=())
    assert queues == {"recording": recording, "comparing": comparing}
    alone = {key: value for key, value in CLUSTER.items() if key != "gpu"}
    config = read_study(make_study(tmp_path, cluster=alone))
    assert config.cluster is not None
    assert config.cluster.queues["recording"] == config.cluster.queues["comparing"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no system": ({"cluster": {"jobs": 2}}, "key 'cluster.system' is missing"),
    "unknown system": ({"cluster": {"system": "slrm"}}, "no batch system 'slrm'; .*did you mean s"),
    "unknown key": ({"cluster": CLUSTER | {"quue": "a"}}, "'cluster.quue'; did you mean 'queue'"),
    "unknown key of the GPU jobs": (
        {"cluster": CLUSTER | {"gpu": {"memry": "1GB"}}},
        "unknown key 'cluster.gpu.memry'; did you mean 'memory'",
    ),
    "jobs": ({"cluster": CLUSTER | {"jobs": 0}}, "cluster.jobs = 0.*greater than or equal to 1"),
    "walltime": ({"cluster": CLUSTER | {"walltime": "2h"}}, "'2h', expected hours:minutes:sec"),
    "workers that do not fit": (
        {"cluster": CLUSTER | {"workers": 9, "gpu": None}},
        "9 workers do not fit on 8 cores",
    ),
    "two places": (
        {"cluster": CLUSTER, "run": {"workers": 2}},
        r"run.workers and \[cluster\] are given; a study runs in one place",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_clusters_are_refused(name: str, tmp_path: Path) -> None:
    changes, said = BAD[name]
    with pytest.raises(ValueError, match=said):
        read_study(make_study(tmp_path, **changes))


def test_what_cannot_run_is_said_before_anything_is_recorded(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path, models=["pixels"])
    with monkeypatch.context() as patch:
        patch.setattr(clusters, "CONNECT_S", 0.5)
        silent = "no Dask scheduler answers at tcp://127.0.0.1:9"
        with pytest.raises(ConnectionError, match=silent):
            run_study(study, scheduler="tcp://127.0.0.1:9", progress=False)
        unreachable = {"run": study["run"] | {"scheduler": "tcp://127.0.0.1:9"}}
        with pytest.raises(ConnectionError, match=silent):
            run_study(study | unreachable, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(clusters, "JOIN_S", 0.5)
        with pytest.raises(ConnectionError, match="no worker has joined the scheduler"):
            run_study(study, scheduler=cluster.address, progress=False)
    cluster.add()
    with open_client(scheduler=cluster.address) as client, monkeypatch.context() as patch:
        patch.setattr(ra, "__version__", "0.0.0+other")
        with pytest.raises(RuntimeError, match=r"worker tcp://.* has repalign .*process 0\.0\.0"):
            run_study(study, scheduler=client, progress=False)
    assert not (tmp_path / "to" / "activations").exists()


def test_dry_run_prints_the_scripts_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from repalign.cli import main

    toml = tmp_path / "study.toml"
    toml.write_text(
        'name = "a"\nrecordings = ["no-such.zarr"]\nmodels = ["pixels"]\nmetrics = ["cka"]\n'
        '[cluster]\nsystem = "slurm"\nmemory = "16GB"\nwalltime = 02:00:00\nlogs = "logs"\n'
        'setup = ["module load python"]\n[cluster.gpu]\nqueue = "a100"\n',
        encoding="utf-8",
    )

    def dry_run(*more: str) -> str:
        monkeypatch.setattr(
            sys, "argv", ["repalign", "study", "run", str(toml), "--dry-run", *more]
        )
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        return capsys.readouterr().out

    said = dry_run("--set", "cluster.walltime=01:00:00")
    recording, comparing = said.split("# comparing\n")
    assert recording.startswith("# recording\n#!")
    for script in (recording, comparing):
        assert "#SBATCH -t 01:00:00" in script
        assert "module load python" in script
        assert "--lifetime 3240s" in script
        assert f"{tmp_path}/logs/" in script
    for words in ("#SBATCH -p a100", "#SBATCH --gres=gpu:1", "--resources GPU=1"):
        assert words in recording
        assert words not in comparing
    one = dry_run("--scheduler", f"pbs:memory=4GB,logs={tmp_path}")
    assert one.startswith("# recording and comparing\n#!")
    assert one.count("#PBS -l select=1:ncpus=1:mem=") == 1
    with pytest.raises(ValueError, match="runs in no batch system"):
        job_scripts(make_study(tmp_path))
    assert not (tmp_path / "to").exists()

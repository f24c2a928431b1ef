"""Dask workers as jobs of a batch system: SLURM, PBS, LSF, SGE, OAR, HTCondor.

What is left out is taken from Dask's own configuration files (``jobqueue.yaml``), where a cluster's
administrators may have set it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from repalign.choices import parse_choice

SYSTEMS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
    "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
}
ACCOUNTS = {
    "slurm": "account",
    "pbs": "account",
    "lsf": "project",
    "sge": "project",
    "oar": "project",
}
BEFORE_THE_END = 0.1  # of the walltime: when a worker retires, so that no task is cut off
LEAST_S = 60


@dataclass(frozen=True)
class JobQueue:
    """Jobs of a batch system, each with one worker or several.

    Args:
        system: a name in ``SYSTEMS``.
        jobs: how many run at a time; one that is lost, or at its time limit, is replaced.
        workers: processes a job; each has one task at a time, and a GPU of its own.
        cores: of a job; its workers share them.
        memory: of a job, such as ``32GB``.
        walltime: of a job, hours:minutes:seconds. Workers retire shortly before, and what they had
            goes to others.
        queue: or partition.
        account: or project, to which the time is charged.
        directives: further lines of the job script, parted by ``;``, such as ``--gres=gpu:1``.
        setup: shell commands before a worker starts, parted by ``;``, such as ``module load cuda``.
        interface: network interface of the workers and of this process, such as ``ib0``.
        disk: of a job, for HTCondor, which asks for it.
        logs: folder of the jobs' logs; it has to be there on their machines too.

    Example:
        >>> queue = JobQueue.parse("slurm:jobs=4,cores=8,memory=32GB,walltime=02:00:00,queue=gpu")
        >>> queue.system, queue.jobs, queue.retire_after
        ('slurm', 4, 6480)
    """

    system: str = "slurm"
    jobs: int = 1
    workers: int = 1
    cores: int = 1
    memory: str = ""
    walltime: str = ""
    queue: str = ""
    account: str = ""
    directives: str = ""
    setup: str = ""
    interface: str = ""
    disk: str = ""
    logs: str = "repalign-jobs"

    @classmethod
    def parse(cls, text: str) -> JobQueue:
        """``slurm:jobs=4,cores=8,…`` → the queue.

        Raises:
            ValueError: an unknown system or setting, or one that the system does not have.
        """
        name, _, options = text.partition(":")
        known = dict.fromkeys(SYSTEMS, cls)
        found: JobQueue = parse_choice(f"{name}:{options},system={name}", known, "batch system")
        return found

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.system not in SYSTEMS:
            raise ValueError(f"no batch system {self.system!r}; there are {', '.join(SYSTEMS)}")
        for name in ("jobs", "workers", "cores"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{self.system}: {name} is {getattr(self, name)}, expected 1 or more"
                )
        if self.cores < self.workers:
            raise ValueError(
                f"{self.system}: {self.workers} workers do not fit on {self.cores} cores of a job"
            )
        if self.system == "htcondor":
            given = [name for name in ("walltime", "queue", "account") if getattr(self, name)]
            wrong = [line for line in _parts(self.directives) if "=" not in line]
            if wrong:
                raise ValueError(f"htcondor: directive {wrong[0]!r}, expected name = value")
            if given:
                raise ValueError(f"htcondor has no {given[0]}; give it as one of the directives")
        elif self.disk:
            raise ValueError(f"disk is for htcondor, and the batch system is {self.system}")
        if self.walltime and self.retire_after < LEAST_S:
            raise ValueError(f"{self.system}: walltime {self.walltime} is below two minutes")

    @property
    def retire_after(self) -> int:
        """Seconds after which a worker retires; 0 where no walltime is given."""
        if not self.walltime:
            return 0
        match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", self.walltime)
        if match is None:
            raise ValueError(
                f"walltime is {self.walltime!r}, expected hours:minutes:seconds, such as 02:00:00"
            )
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        whole = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        return whole - max(LEAST_S, round(whole * BEFORE_THE_END))

    def settings(self) -> dict[str, Any]:
        """The settings in the names of dask_jobqueue."""
        worker = ["--no-dashboard"]
        if self.retire_after:
            stagger = max(1, self.retire_after // 20)
            worker += ["--lifetime", f"{self.retire_after}s", "--lifetime-stagger", f"{stagger}s"]
        threads = self.cores // self.workers
        lines = _parts(self.directives)
        named = {one.partition("=")[0].strip(): one.partition("=")[2].strip() for one in lines}
        prologue = [f"export OMP_NUM_THREADS={threads}", *_parts(self.setup)]
        given = {
            "memory": self.memory,
            "walltime": self.walltime,
            "queue": self.queue,
            "interface": self.interface,
            "disk": self.disk,
            "job_extra_directives": named if self.system == "htcondor" else lines,
            ACCOUNTS.get(self.system, "account"): self.account,
        }
        return {
            "cores": self.cores,
            "processes": self.workers,
            "job_script_prologue": prologue,
            "worker_extra_args": worker,
            "log_directory": self.logs,
            "scheduler_options": {"dashboard_address": ":0"},
            **{name: value for name, value in given.items() if value},
        }

    def script(self) -> str:
        """The script of one job, without submitting it.

        Raises:
            ImportError: dask_jobqueue is not installed.
            ValueError: a setting that the batch system needs is neither given nor configured.
        """
        with self._cluster() as cluster:
            return str(cluster.job_script())

    @contextmanager
    def open(self) -> Iterator[Any]:
        """A Dask cluster whose jobs are submitted, and cancelled at the end."""
        with self._cluster() as cluster:
            cluster.adapt(minimum_jobs=self.jobs, maximum_jobs=self.jobs, interval="1s")
            yield cluster

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        import dask

        try:
            import dask_jobqueue
        except ImportError as error:
            raise ImportError(
                "jobs of a batch system need dask-jobqueue: pip install 'repalign[hpc]'"
            ) from error
        for name in ("memory", "disk") if self.system == "htcondor" else ("memory",):
            if not getattr(self, name) and not dask.config.get(f"jobqueue.{self.system}.{name}"):
                raise ValueError(
                    f"{self.system}: the {name} of a job is not known; give it after the system, as"
                    f" in {self.system}:cores=8,{name}=32GB, or in Dask's jobqueue.yaml"
                )
        with getattr(dask_jobqueue, SYSTEMS[self.system])(**self.settings()) as cluster:
            yield cluster


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]

"""Dask workers as jobs of a batch system: SLURM, PBS, LSF, SGE, OAR, HTCondor.

What is left out is taken from Dask's own configuration files (``jobqueue.yaml``), where a cluster's
administrators may have set it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repalign.choices import check_known, parse_choice

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
GPUS = {  # how a job asks for some, where the system has one way; for PBS they are in its select
    "slurm": "--gres=gpu:{}",
    "lsf": '-gpu "num={}"',
    "htcondor": "request_gpus = {}",
}
BEFORE_THE_END = 0.1  # of the walltime: when a worker retires, so that no job is cut off
LEAST_S = 60
GPU = "GPU"  # the Dask resource of a worker that has one
ENDED = "ended"  # begins the name of the file that a job leaves in the folder of logs


@dataclass(frozen=True)
class JobQueue:
    """Jobs of a batch system, each with one worker or several.

    Of a setting that is not given counts what Dask's ``jobqueue.yaml`` says.

    Args:
        system: a name in ``SYSTEMS``.
        jobs: how many run at a time; one that is lost, or at its time limit, is replaced.
        workers: processes a job, each with one task at a time; by default as many as GPUs, or one.
        cores: of a job; its workers share them. By default one.
        memory: of a job, such as ``32GB``.
        walltime: of a job, hours:minutes:seconds. Workers retire shortly before, and what they had
            goes to others.
        gpus: of a job, one a worker. Its workers carry the Dask resource ``GPU``, and networks are
            recorded on them. A directive that names GPUs, as some sites want it, stands for ours.
        queue: or partition.
        account: or project, to which the time is charged.
        directives: further lines of the job script, in a text parted by ``;``.
        setup: shell commands before a worker starts, such as ``module load cuda``, alike.
        interface: network interface of the workers and of this process, such as ``ib0``.
        disk: of a job, for HTCondor, which asks for it.
        logs: folder of the jobs' logs, by default ``repalign-jobs``; it has to be there on their
            machines too.

    Example:
        >>> queue = JobQueue.parse("slurm:jobs=4,cores=8,memory=32GB,walltime=02:00:00,queue=gpu")
        >>> queue.system, queue.jobs, seconds_to_retire(queue.walltime)
        ('slurm', 4, 6480)
    """

    system: str = "slurm"
    jobs: int = 1
    workers: int | None = None
    cores: int | None = None
    memory: str = ""
    walltime: str = ""
    gpus: int = 0
    queue: str = ""
    account: str = ""
    directives: str | tuple[str, ...] = ""
    setup: str | tuple[str, ...] = ""
    interface: str = ""
    disk: str = ""
    logs: str = ""

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
        check_known(self.system, SYSTEMS, "batch system")
        for name in ("jobs", "workers", "cores"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{self.system}: {name} is {value!r}, expected 1 or more")
        if self.cores is not None and self.workers is not None and self.cores < self.workers:
            raise ValueError(
                f"{self.system}: {self.workers} workers do not fit on {self.cores} cores of a job"
            )
        if self.walltime and seconds_to_retire(self.walltime) < LEAST_S:
            raise ValueError(f"{self.system}: walltime {self.walltime} is below two minutes")
        if self.system == "htcondor":
            self._check_htcondor()
        elif self.disk:
            raise ValueError(f"disk is for htcondor, and the batch system is {self.system}")
        self._check_gpus()

    def _check_htcondor(self) -> None:
        given = [name for name in ("walltime", "queue", "account") if getattr(self, name)]
        wrong = [line for line in _parts(self.directives) if "=" not in line]
        if wrong:
            raise ValueError(f"htcondor: directive {wrong[0]!r}, expected name = value")
        if given:
            raise ValueError(f"htcondor has no {given[0]}; give it as one of the directives")

    def _check_gpus(self) -> None:
        if self.gpus < 0:
            raise ValueError(f"{self.system}: gpus is {self.gpus}, expected 0 or more")
        if not self.gpus:
            return
        if self.workers not in (None, self.gpus):
            raise ValueError(
                f"{self.system}: {self.workers} workers and {self.gpus} GPUs a job, and each worker"
                " takes one; leave workers out"
            )
        if self.system not in (*GPUS, "pbs") and "gpu" not in str(self.directives).lower():
            raise ValueError(
                f"{self.system} asks for GPUs differently at each site: give the line of yours"
                " (directives=), which has to contain the letters gpu"
            )

    def settings(self) -> dict[str, Any]:
        """The settings in the names of dask_jobqueue.

        Raises:
            ImportError: dask_jobqueue is not installed.
            ValueError: a setting that the batch system needs is neither given nor configured.
        """
        configured = self._configured()
        cores = self.cores or configured("cores") or max(1, self.gpus)
        processes = self.workers or self.gpus or configured("processes") or 1
        if cores < processes:
            raise ValueError(
                f"{self.system}: {processes} workers do not fit on {cores} cores of a job; give"
                " cores"
            )
        given = {
            "memory": self._needed("memory", configured),
            "queue": self.queue,
            "interface": self.interface,
            ACCOUNTS.get(self.system, "account"): self.account,
        }
        if self.system == "htcondor":
            given["disk"] = self._needed("disk", configured)
        if self.walltime:  # LSF counts minutes
            hours = self.walltime.rpartition(":")[0]
            given["walltime"] = hours if self.system == "lsf" else self.walltime
        logs = self.log_folder()
        return {
            "cores": cores,
            "processes": processes,
            "job_script_prologue": [
                # a job that ends before its worker has joined would be waited for without end
                f"trap 'mktemp \"{logs}/{ENDED}-XXXXXXXX\" > /dev/null' EXIT",
                f"export OMP_NUM_THREADS={cores // processes}",
                *(_parts(self.setup) or configured("job-script-prologue") or []),
            ],
            "worker_extra_args": [
                "--no-dashboard",
                *_lifetime(self.walltime or configured("walltime"), self.system),
                *(["--resources", f"{GPU}=1"] if self.gpus else []),
                *(configured("worker-extra-args") or []),
            ],
            "log_directory": str(logs),
            "scheduler_options": {
                "dashboard_address": ":0",
                **(configured("scheduler-options") or {}),
            },
            **self._lines(configured, cores=cores, memory=given["memory"]),
            **{name: value for name, value in given.items() if value},
        }

    def log_folder(self) -> Path:
        """Where the logs of the jobs go."""
        return Path(self.logs or self._configured()("log-directory") or "repalign-jobs").absolute()

    def _lines(
        self, configured: Callable[[str], Any], *, cores: int, memory: str
    ) -> dict[str, Any]:
        """Further lines of the script, with that which asks for GPUs."""
        lines = _parts(self.directives) or configured("job-extra-directives") or []
        more = {}
        if self.gpus and "gpu" not in str(lines).lower():
            if self.system == "pbs":
                more["resource_spec"] = f"select=1:ncpus={cores}:ngpus={self.gpus}:mem={memory}"
            elif self.system == "htcondor" and isinstance(lines, Mapping):
                lines = {**lines, "request_gpus": self.gpus}
            else:
                lines = [*lines, GPUS[self.system].format(self.gpus)]
        if self.system == "htcondor" and not isinstance(lines, Mapping):
            parted = [one.partition("=") for one in lines]
            lines = {name.strip(): value.strip() for name, _, value in parted}
        return {"job_extra_directives": lines, **more}

    def _configured(self) -> Callable[[str], Any]:
        """What Dask's configuration files say of a setting of this system."""
        import dask

        try:
            import dask_jobqueue  # noqa: F401 - which reads jobqueue.yaml
        except ImportError as error:
            raise ImportError(
                "jobs of a batch system need dask-jobqueue: pip install 'repalign[hpc]'"
            ) from error
        return lambda name: dask.config.get(f"jobqueue.{self.system}.{name}", None)

    def _needed(self, name: str, configured: Callable[[str], Any]) -> str:
        found = getattr(self, name) or configured(name)
        if not found:
            raise ValueError(
                f"{self.system}: the {name} of a job is not known; give it after the system, as in"
                f" {self.system}:cores=8,{name}=32GB, in [cluster], or in Dask's jobqueue.yaml"
            )
        return str(found)

    def script(self) -> str:
        """The script of one job, without submitting it.

        Raises:
            ImportError: dask_jobqueue is not installed.
            ValueError: a setting that the batch system needs is neither given nor configured.
        """
        with self.cluster() as cluster:
            return str(cluster.job_script())

    @contextmanager
    def cluster(self) -> Iterator[Any]:
        """A Dask cluster of this system, without jobs."""
        settings = self.settings()
        import dask_jobqueue

        with getattr(dask_jobqueue, SYSTEMS[self.system])(**settings) as cluster:
            yield cluster


def seconds_to_retire(walltime: str, system: str = "") -> int:
    """Seconds after which a worker retires, so that it has gone when the walltime is over.

    Example:
        >>> seconds_to_retire("00:10:00"), seconds_to_retire("1-00:00:00")
        (540, 77760)
        >>> seconds_to_retire("00:30", "lsf")
        1620
    """
    text = f"{walltime}:00" if system == "lsf" and walltime.count(":") == 1 else walltime
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text)
    if match is None:
        raise ValueError(
            f"walltime is {walltime!r}, expected hours:minutes:seconds, such as 02:00:00"
        )
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    whole = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return whole - max(LEAST_S, round(whole * BEFORE_THE_END))


def _lifetime(walltime: str | None, system: str) -> list[str]:
    """Arguments by which a worker retires before its job ends, not all at the same moment."""
    if not walltime or system == "htcondor":
        return []
    seconds = seconds_to_retire(walltime, system)
    return ["--lifetime", f"{seconds}s", "--lifetime-stagger", f"{max(1, seconds // 20)}s"]


def _parts(text: str | tuple[str, ...]) -> list[str]:
    parts = text.split(";") if isinstance(text, str) else text
    return [part.strip() for part in parts if part.strip()]

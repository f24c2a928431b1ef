"""A SLURM cluster of one machine, for the tests: its daemons, their configuration, their end."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask_jobqueue  # noqa: F401 - before its configuration is changed for a while

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
QUICK = {  # settings of Dask: a lost job is replaced soon, and a worker is one process
    "distributed.deploy.lost-worker-timeout": "1s",
    "jobqueue.slurm.worker-extra-args": ["--no-nanny"],
}
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=60
KillWait=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 Gres=gpu:2
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why SLURM cannot be started here, if so."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{missing[0]} is not installed (Debian packages slurm-wlm and munge)"
    return None if os.geteuid() == 0 else "only root can start SLURM's daemons"


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout.strip()


def jobs(*states: str) -> list[str]:
    """Numbers of the jobs that wait, run or end, or are in these states."""
    chosen = ["-t", ",".join(states)] if states else []
    return _said("squeue", "-h", "-o", "%i", *chosen).split()


def _wait_for(what: str, command: tuple[str, ...], expected: str) -> None:
    until = time.monotonic() + 240
    while _said(*command) != expected:
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: {command} says {_said(*command)!r}")
        time.sleep(0.2)


@contextmanager
def slurm(folder: Path) -> Iterator[Path]:
    """A running cluster of four cores, named by SLURM_CONF within the block."""
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    configuration.write_text(
        CONFIGURATION.format(host=host, folder=folder, controller=_free_port(), node=_free_port())
    )
    # two that are none, but counted and handed to jobs
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(configuration)
    munge = [
        "munged", "--foreground", "--force", f"--key-file={key}",
        f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid",
        f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed",
    ]  # fmt: skip
    daemons = []
    try:
        for command in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D"]):
            quiet = subprocess.DEVNULL
            daemons.append(subprocess.Popen(command, stdout=quiet, stderr=quiet))
            time.sleep(0.5)
        _wait_for("the node", ("sinfo", "-h", "-o", "%T"), "idle")
        yield configuration
        subprocess.run(["scancel", "--user=root"], check=False, capture_output=True)
        _wait_for("the end of all jobs", ("squeue", "-h"), "")
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before

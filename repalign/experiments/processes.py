"""The runs of an experiment in several processes, which share the cores between them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from repalign.experiments.configuration import ExperimentConfig, experiment_config
from repalign.experiments.jobs import Job
from repalign.experiments.materials import gather_materials
from repalign.experiments.single_runs import Runs
from repalign.training.state import DivergedError


def run_in_processes(
    config: ExperimentConfig,
    jobs: Sequence[Job],
    *,
    to: str | Path | None,
    resume: bool,
    say: Callable[[str], None],
    may_diverge: bool = False,
) -> None:
    """Do runs in as many processes as ``experiment.workers``, each with its share of the cores.

    What they find lies in the folders of the runs. With ``may_diverge`` one whose loss becomes
    infinite does not stop the others.
    """
    workers = config.experiment.workers
    threads = max(1, (os.cpu_count() or 1) // workers)  # the same for all: they decide rounding
    if not jobs:
        return
    words = config.model_dump_json(exclude_unset=True)
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(_in_worker, words, to, resume, threads, job): job for job in jobs}
        try:
            for number, done in enumerate(as_completed(pending), 1):
                with contextlib.suppress(*([DivergedError] if may_diverge else [])):
                    done.result()
                job = pending[done]
                say(f"{number}/{len(jobs)} {job.name} (strength {job.strength:g}), seed {job.seed}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_worker(words: str, to: str | Path | None, resume: bool, threads: int, job: Job) -> None:
    _runs_of_worker(words, to, resume, threads).run(job)


@cache
def _runs_of_worker(words: str, to: str | Path | None, resume: bool, threads: int) -> Runs:
    import torch

    torch.set_num_threads(threads)
    materials = gather_materials(experiment_config(json.loads(words)), to=to)
    return Runs(materials, resume=resume, progress=False, say=_say_nothing)


def _say_nothing(_line: str) -> None:
    pass

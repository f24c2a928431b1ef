"""Fine-tuning from end to end: train, test beside a baseline and controls, and report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from repalign.experiments.configuration import experiment_config
from repalign.experiments.laboratory import run_experiment
from repalign.networks import Network
from repalign.reporting.training_page import write_training_report
from repalign.training.configuration import FinetuneConfig
from repalign.training.runs import FinetuneResult, train_network
from repalign.training.task_images import TaskData


def finetune(
    config: str | Path | Mapping[str, Any] | FinetuneConfig,
    *,
    changes: Sequence[str] = (),
    controls: str | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    report: bool = True,
    network: Network | None = None,
    task: TaskData | None = None,
    target: xr.Dataset | None = None,
    to: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> FinetuneResult:
    """Fine-tune a network toward a recording, and say what that bought.

    Trains as `repalign.training.runs.train_network` says. With ``report`` the same training
    is done without alignment (λ = 0, the baseline) and for each control, all with the same seeds;
    their robustness is measured, their alignment is audited on what was held out, and one page
    shows it (see `repalign.experiments.laboratory.run_experiment`).

    Args:
        config: a TOML file, its content, or a configuration: sections task, neural, optimizer,
            scheduler, training, experiment, robustness.
        changes: ``section.key=value``, as on the command line.
        controls: names in `repalign.regularize.CONTROLS`, or ``"all"``; in place of
            ``experiment.controls``.
        seeds: paired runs; in place of ``experiment.seeds``.
        report: False trains the one network and tests nothing.
        network, task, target: objects in place of what the configuration names.
        to: folder of the recordings' stores.
        resume: go on with what lies in the folder; False starts over.
        progress: show progress bars on stderr.

    Returns:
        The trained network of the first seed with its history, weights and card, and with
        ``report``, the page, and ``record``, all that it shows.

    Raises:
        ValueError: a configuration, a recording or images that do not fit, a loss that is not
            finite, or a report that is asked for where there is nothing to report on.

    Example:
        >>> done = finetune("finetune.toml", controls=["row-shuffle"])   # doctest: +SKIP
        >>> done.card, done.report   # doctest: +SKIP

    Reference:
        Dapello et al. 2023, ICLR, https://openreview.net/forum?id=SMYdcXjJh1q
    """
    made = experiment_config(config, changes=changes)
    wanted = {"controls": controls, "seeds": seeds}
    given = {
        name: value if isinstance(value, str) else list(value)
        for name, value in wanted.items()
        if value is not None
    }
    if given:
        data = made.model_dump(exclude_unset=True)
        data["experiment"] = {**data.get("experiment", {}), **given}
        made = experiment_config(data)
    if not report or made.neural is None:
        if given:
            raise ValueError("controls and seeds are for the report, which is not made here")
        return train_network(
            made.for_run(),
            network=network,
            task=task,
            target=target,
            resume=resume,
            progress=progress,
        )
    if made.training.devices > 1:
        raise ValueError(
            f"training.devices is {made.training.devices}: the report is made on one device. Train"
            " with report=False (--no-report), then run again with training.devices = 1"
        )
    done = run_experiment(
        made, network=network, task=task, target=target, to=to, resume=resume, progress=progress
    )
    page = write_training_report(done.record, done.folder)
    return dataclasses.replace(done.trained, report=page, record=done.record)

"""An aligned network beside its baseline and its controls: trained with paired seeds, then tested.

Every (condition, seed, λ) is one run in a folder of its own. A run that is finished is not done
again, and one that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr

from repalign.experiments.configuration import ALIGNED, BASELINE, experiment_config
from repalign.experiments.goodhart import goodhart_audit
from repalign.experiments.jobs import Condition, Job, dose_row
from repalign.experiments.materials import Materials, gather_materials
from repalign.experiments.processes import run_in_processes
from repalign.experiments.single_runs import Runs
from repalign.networks import Network
from repalign.regularize.controls import CONTROLS
from repalign.store import write_file
from repalign.training.configuration import FinetuneConfig
from repalign.training.runs import FinetuneResult
from repalign.training.state import DivergedError
from repalign.training.task_data import TaskData

TUNING_SEED = 2000


@dataclass(frozen=True)
class Experiment:
    """What an experiment found: one JSON-able mapping, kept in ``experiment.json``.

    Args:
        folder: of the runs, the record and the report.
        record: conditions, runs, dose, audit, configuration.
        trained: the aligned network of the first seed.
    """

    folder: Path
    record: Mapping[str, Any]
    trained: FinetuneResult


def run_experiment(
    source: str | Path | Mapping[str, Any] | FinetuneConfig,
    *,
    changes: Sequence[str] = (),
    network: Network | None = None,
    task: TaskData | None = None,
    target: xr.Dataset | None = None,
    to: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Experiment:
    """Train the baseline, the aligned network and its controls with paired seeds, and test them.

    The baseline is the same training with λ = 0. All conditions of one seed begin with the same
    weights and see the same images in the same order. Each is tested on images that none was
    trained on; its alignment is measured by other metrics, too, on stimuli and neuroids that were
    held out (see `repalign.experiments.goodhart.goodhart_audit`).

    Args:
        source: configuration (see `repalign.experiments.configuration`).
        changes: ``section.key=value`` (see `repalign.training.configuration.read_config`).
        network, task, target: objects in place of what the configuration names.
        to: folder of the recordings' stores.
        resume: go on with what lies in the folder; False trains everything anew.
        progress: show progress bars on stderr.
        say: told what happens, one line at a time; stderr by default.

    Returns:
        The folder and the record, which `repalign.reporting.write_training_report` shows.

    Raises:
        ValueError: a configuration without [neural], or with values that do not fit.

    Example:
        >>> run_experiment("finetune.toml").record["audit"]["verdict"]   # doctest: +SKIP
        'clear'
    """
    begin = time.perf_counter()
    tell = say or (lambda line: print(line, file=sys.stderr))
    config = experiment_config(source, changes=changes)
    alone = config.experiment.workers == 1
    if not alone and (network is not None or task is not None or target is not None):
        raise ValueError(
            "experiment.workers runs in other processes, which read what the configuration"
            " names: leave out network=, task= and target=, or set experiment.workers = 1"
        )
    materials = gather_materials(config, network=network, task=task, target=target, to=to)
    runs = Runs(materials, resume=resume, progress=progress, say=tell)
    runs.tests.check()
    conditions = find_conditions(runs, None if alone else partial(run_in_processes, config, to=to))
    for condition in conditions:
        if condition.reason:
            tell(f"{condition.name} is left out: {condition.reason}{_remedy(condition.reason)}")
    first, masking = config.seeds[0], config.robustness.masking
    jobs = [
        Job(condition.name, condition.strength, seed, masking=masking and seed == first)
        for seed in config.seeds
        for condition in conditions
        if not condition.reason
    ]
    extra = [
        Job(ALIGNED, strength, seed)
        for strength in config.experiment.dose
        if strength not in (0.0, conditions[1].strength)  # they are among the jobs
        for seed in config.seeds
    ]
    if not alone:
        # the first baseline is the surrogate of the masking audits of others
        audited = [job for job in jobs[1:] if job.masking]
        for some in ([job for job in (*jobs, *extra) if job not in audited], audited):
            run_in_processes(config, some, to=to, resume=resume, say=tell)
        runs.resume = True
    done = [runs.run(job) for job in jobs]
    dose = [dose_row(runs.run(job)) for job in extra]
    if extra:
        # where the weight itself is 0 the aligned network is one more baseline
        dose += [dose_row(r) for r in done if r["condition"] == BASELINE]
        dose += [dose_row(r) for r in done if r["condition"] == ALIGNED and r["lambda"] > 0]
    record = make_record(materials, conditions, done, dose)
    record["seconds"] = time.perf_counter() - begin
    write_file(runs.folder / "experiment.json", json.dumps(record, indent=1, allow_nan=True))
    return Experiment(runs.folder, record, runs.trained(jobs[1]))


def find_conditions(runs: Runs, in_processes: Callable[..., None] | None = None) -> list[Condition]:
    """Baseline, aligned and controls, each at its strength, or with why it does not apply.

    Args:
        runs: does the runs of the tuning.
        in_processes: does some of them first, side by side.
    """
    materials, plan = runs.materials, runs.config.experiment
    assert runs.config.neural is not None
    weight = runs.config.neural.weight
    found = [
        Condition(BASELINE, "Baseline", "The same training without alignment (λ = 0).", 0.0),
        Condition(ALIGNED, "Aligned", f"Aligned to {_target_name(materials)}.", weight),
    ]
    available = materials.available()
    for name in plan.controls:
        control = CONTROLS[name]
        reason = control.applicable(available) or ""
        strength = weight if control.kind == "target" else 1.0
        found.append(Condition(name, control.title, control.description, strength, reason))
    if not plan.tune or all(one.reason for one in found[2:]):
        return found
    first = Job(ALIGNED, weight, TUNING_SEED, brief=True)
    if in_processes is not None:
        names = [one.name for one in found[2:] if not one.reason]
        jobs = [first, *(job for name in names for job in _candidates(runs, name))]
        in_processes(jobs, resume=runs.resume, say=runs.say, may_diverge=True)
        runs.resume = True
    goal = runs.run(first)["clean"]
    return [*found[:2], *(one if one.reason else _tuned(runs, one, goal) for one in found[2:])]


def _remedy(reason: str) -> str:
    """Which key of the configuration may be what is missing."""
    return " Does experiment.labels name their coordinate?" if "class labels" in reason else ""


def _target_name(materials: Materials) -> str:
    attrs = materials.recording.attrs
    return str(attrs.get("title") or attrs.get("dataset") or "the recording")


def _candidates(runs: Runs, name: str) -> list[Job]:
    """Brief runs of a condition at every strength that may be chosen."""
    strengths = sorted(runs.config.experiment.strengths)
    return [Job(name, strength, TUNING_SEED, brief=True) for strength in strengths]


def _tuned(runs: Runs, condition: Condition, goal: float) -> Condition:
    """The condition at the greatest strength whose clean accuracy is nearest to the goal."""
    found = {}
    for job in _candidates(runs, condition.name):
        try:
            found[job.strength] = runs.run(job)["clean"]
        except DivergedError as error:
            runs.say(f"{condition.name}: strength {job.strength:g} is left out: {error}")
    if not found:
        return replace(condition, reason="not applicable: training diverged at every strength.")
    best = min(found, key=lambda strength: (round(abs(found[strength] - goal), 4), -strength))
    runs.say(
        f"{condition.name}: strength {best:g}, with a clean accuracy of {found[best]:.3f},"
        f" nearest to the aligned network's {goal:.3f}"
    )
    return replace(condition, strength=best)


def make_record(
    materials: Materials,
    conditions: Sequence[Condition],
    runs: Sequence[Mapping[str, Any]],
    dose: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """All that was found, as the report takes it."""
    config, recording = materials.config, materials.recording
    assert config.neural is not None
    title = f"{config.name}: {', '.join(materials.layers)} toward {_target_name(materials)}"
    return {
        "title": title,
        "configuration": config.to_dict(),
        "environment": materials.environment(),
        "citations": materials.citations(),
        "reference": "own clean prediction" if materials.task is None else "labels",
        "trained_on": {
            "layer": ", ".join(materials.layers),
            "metric": config.neural.loss,
            "region": ", ".join(sorted(set(recording["region"].values.astype(str)))),
            "stimuli": len(materials.trained_stimuli),
            "held_out_stimuli": len(materials.held_out_stimuli),
            "subjects": sorted(set(materials.neural.target["subject"].values.astype(str).tolist())),
        },
        "conditions": [condition.entry() for condition in conditions],
        "runs": list(runs),
        "dose": list(dose),
        "audit": goodhart_audit(runs).to_dict(),
        "error_patterns": [
            {"condition": run["condition"], "seed": run["seed"], **row}
            for run in runs
            for row in run.get("error_patterns") or ()
        ],
    }

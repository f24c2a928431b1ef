"""An aligned network beside its baseline and its controls: trained with paired seeds, then tested.

Every (condition, seed, λ) is one run in a folder of its own. A run that is finished is not done
again, and one that was killed goes on where it stopped.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import xarray as xr

from repalign.experiments.configuration import (
    ALIGNED,
    BASELINE,
    ExperimentConfig,
    experiment_config,
)
from repalign.experiments.evaluation import Tests
from repalign.experiments.goodhart import goodhart_audit
from repalign.experiments.jobs import Condition, Job, dose_row
from repalign.experiments.layer_activations import layer_responses
from repalign.experiments.materials import TEACHER_SEED, Materials, gather_materials
from repalign.networks import Network
from repalign.regularize.controls import CONTROLS, Control
from repalign.store import write_file
from repalign.training.configuration import FinetuneConfig
from repalign.training.runs import FinetuneResult, train_network
from repalign.training.sections import NamedSection
from repalign.training.task_data import TaskData

TUNING_SEED = 2000
EVALUATION = "evaluation.json"
FORMAT = 1
UNRELATED = {"controls", "seeds", "dose", "workers", "tune", "strengths"}  # to any one run


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
    materials = gather_materials(config, network=network, task=task, target=target, to=to)
    lab = _Lab(materials, resume=resume, progress=progress, say=tell)
    conditions = lab.conditions()
    jobs = [
        Job(condition.name, condition.strength, seed, masking=seed == config.seeds[0])
        for seed in config.seeds
        for condition in conditions
        if not condition.reason
    ]
    known = {(job.name, job.strength) for job in jobs}
    extra = [
        Job(ALIGNED, strength, seed)
        for strength in config.experiment.dose
        if (ALIGNED, strength) not in known
        for seed in config.seeds
    ]
    if config.experiment.workers > 1:
        if network is not None or task is not None or target is not None:
            raise ValueError(
                "experiment.workers runs in other processes, which read what the configuration"
                " names: leave out network=, task= and target=, or set experiment.workers = 1"
            )
        run_in_processes(config, [*jobs, *extra], to=to, resume=resume, say=tell)
        lab.resume = True
    runs = [lab.run(job) for job in jobs]
    dose = [dose_row(lab.run(job)) for job in extra]
    if extra:
        dose += [dose_row(run) for run in runs if run["condition"] in (BASELINE, ALIGNED)]
    record = lab.record(conditions, runs, dose) | {"seconds": time.perf_counter() - begin}
    write_file(lab.folder / "experiment.json", json.dumps(record, indent=1, allow_nan=True))
    return Experiment(lab.folder, record, lab.trained(jobs[1]))


def run_in_processes(
    config: ExperimentConfig,
    jobs: Sequence[Job],
    *,
    to: str | Path | None,
    resume: bool,
    say: Callable[[str], None],
) -> None:
    """Do runs in as many processes as ``experiment.workers``, each with its share of the cores.

    What they find lies in the folders of the runs.
    """
    workers = min(config.experiment.workers, len(jobs))
    threads = max(1, (os.cpu_count() or 1) // workers)
    words = config.model_dump_json(exclude_unset=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(_in_worker, words, to, resume, threads, job): job for job in jobs}
        try:
            for number, done in enumerate(as_completed(pending), 1):
                done.result()
                job = pending[done]
                say(f"{number}/{len(jobs)} {job.name} (strength {job.strength:g}), seed {job.seed}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_worker(words: str, to: str | Path | None, resume: bool, threads: int, job: Job) -> None:
    _lab_of_worker(words, to, resume, threads).run(job)


@cache
def _lab_of_worker(words: str, to: str | Path | None, resume: bool, threads: int) -> _Lab:
    import torch

    torch.set_num_threads(threads)
    materials = gather_materials(experiment_config(json.loads(words)), to=to)
    return _Lab(materials, resume=resume, progress=False, say=_say_nothing)


def _say_nothing(_line: str) -> None:
    pass


class _Lab:
    """The runs of one experiment."""

    def __init__(
        self, materials: Materials, *, resume: bool, progress: bool, say: Callable[[str], None]
    ) -> None:
        self.materials, self.config = materials, materials.config
        self.folder = Path(self.config.out)
        self.tests = Tests(materials, progress=progress)
        self.resume, self.progress, self.say = resume, progress, say

    def conditions(self) -> list[Condition]:
        """Baseline, aligned and controls, each at its strength, or with why it does not apply."""
        assert self.config.neural is not None
        weight = self.config.neural.weight
        found = [
            Condition(BASELINE, "Baseline", "The same training without alignment (λ = 0).", 0.0),
            Condition(ALIGNED, "Aligned", f"Aligned to {self._target_name()}.", weight),
        ]
        available = self.materials.available()
        for name in self.config.experiment.controls:
            control = CONTROLS[name]
            reason = control.applicable(available) or ""
            strength = weight if control.kind == "target" else 1.0
            found.append(Condition(name, control.title, control.description, strength, reason))
        if not self.config.experiment.tune:
            return found
        goal = self.run(Job(ALIGNED, weight, TUNING_SEED, brief=True))["clean"]
        return [found[0], found[1], *(self._tuned(one, goal) for one in found[2:])]

    def _target_name(self) -> str:
        attrs = self.materials.recording.attrs
        return str(attrs.get("title") or attrs.get("dataset") or "the recording")

    def _tuned(self, condition: Condition, goal: float) -> Condition:
        """The condition at the greatest strength whose clean accuracy is nearest to the goal."""
        if condition.reason:
            return condition
        found = {}
        for strength in sorted(self.config.experiment.strengths):
            job = Job(condition.name, strength, TUNING_SEED, brief=True)
            found[strength] = self.run(job)["clean"]
        best = min(found, key=lambda strength: (round(abs(found[strength] - goal), 4), -strength))
        self.say(
            f"{condition.name}: strength {best:g}, with a clean accuracy of {found[best]:.3f},"
            f" nearest to the aligned network's {goal:.3f}"
        )
        return Condition(condition.name, condition.title, condition.description, best)

    def run(self, job: Job) -> dict[str, Any]:
        """Train and test one condition with one seed, unless that is done already."""
        folder = self._folder_of(job)
        config = self._config_of(job, folder)
        words = [
            FORMAT,
            {k: v for k, v in config.to_dict().items() if k != "out"},
            self.config.experiment.model_dump(mode="json", exclude=UNRELATED),
            self.config.robustness.model_dump(mode="json"),
            self.materials.fingerprint(),
            job.masking,
            job.brief,
        ]
        key = hashlib.sha256(json.dumps(words, default=str).encode()).hexdigest()
        kept = folder / ("brief-" * job.brief + EVALUATION)
        if self.resume and kept.is_file():
            found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
            if found.pop("key", None) == key:
                return found
        self.say(f"{job.name} (strength {job.strength:g}), seed {job.seed}")
        trained = self._train(job, config, resume=self.resume)
        result: dict[str, Any] = {
            "condition": job.name,
            "seed": job.seed,
            "lambda": job.strength,
            "clean": self.tests.clean(trained.network),
            "history": trained.history,
            "folder": str(folder.relative_to(self.folder)),
        }
        if not job.brief:
            sought = job.masking and self.config.robustness.masking
            result |= self.tests.robustness(trained.network, seed=job.seed, masking=sought)
            result["alignment"] = self.tests.alignment(trained.network)
        write_file(kept, json.dumps({"key": key, **result}, allow_nan=True))
        return result

    def _folder_of(self, job: Job) -> Path:
        """The run that the configuration itself describes lies in its own folder."""
        assert self.config.neural is not None
        own = (ALIGNED, self.config.neural.weight, self.config.training.seed)
        if (job.name, job.strength, job.seed) == own:
            return self.folder
        return self.folder / "runs" / f"{job.name}-{job.strength:g}" / f"seed-{job.seed}"

    def trained(self, job: Job) -> FinetuneResult:
        """The trained network of a run that is finished."""
        return self._train(job, self._config_of(job, self._folder_of(job)), resume=True)

    def _train(self, job: Job, config: FinetuneConfig, *, resume: bool) -> FinetuneResult:
        return train_network(
            config,
            network=copy.deepcopy(self.materials.start(job.seed)),
            task=self.materials.task,
            target=self._target_of(job),
            resume=resume,
            progress=self.progress,
        )

    def _config_of(self, job: Job, folder: Path) -> FinetuneConfig:
        """The configuration of one run: its seed, its λ, its control."""
        assert self.config.neural is not None
        control = CONTROLS.get(job.name)
        trains = control is not None and control.kind == "training"
        own = folder == self.folder
        weight = 0.0 if trains or job.name == BASELINE else job.strength
        return self.config.for_run(
            out=str(folder),
            name=self.config.name if own else f"{self.config.name}-{job.name}-{job.seed}",
            neural=self.config.neural.model_copy(
                update={
                    "weight": weight,
                    "held_out_stimuli": self.materials.held_out_stimuli,
                    "held_out_subjects": (),  # the target that is passed is without them
                    "select": {},
                }
            ),
            training=self.config.training.model_copy(update={"seed": job.seed}),
            control=_named(control, self._parameters(job)) if trains else None,
        )

    def _parameters(self, job: Job) -> dict[str, Any]:
        """Parameters of a control; those of a way to train are multiplied by its strength."""
        control = CONTROLS[job.name]
        parameters = {
            **(control.parameters if control.kind == "training" else {}),
            **self.config.experiment.parameters.get(job.name, {}),
        }
        if control.kind == "training":
            for name in STRENGTHENED & set(parameters):
                parameters[name] = parameters[name] * job.strength
        return parameters

    def _target_of(self, job: Job) -> xr.Dataset:
        control = CONTROLS.get(job.name)
        if control is None or control.kind == "training":
            return self.materials.trained_part
        return control(
            self.materials.trained_part,
            seed=job.seed,
            labels=self.materials.labels,
            teacher=self._teacher(job.seed) if "teacher" in control.needs else None,
            other=self.materials.other_region,
            **self._parameters(job),
        )

    def _teacher(self, seed: int) -> Any:
        """Features of an ordinary network at the first aligned layer."""
        materials = self.materials
        if materials.config.experiment.teacher or not materials.untrained:
            network = materials.teacher()
        else:
            baseline = Job(BASELINE, 0.0, TEACHER_SEED + seed)
            config = self._config_of(baseline, self.folder / "runs" / "teacher" / f"seed-{seed}")
            network = self._train(baseline, config, resume=self.resume).network
        layer = materials.layers[0]
        features = layer_responses(network, materials.recording, [layer])
        return features[layer]["response"].values

    def record(
        self,
        conditions: Sequence[Condition],
        runs: Sequence[dict[str, Any]],
        dose: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        """All that was found, as the report takes it."""
        assert self.config.neural is not None
        audit = goodhart_audit(runs)
        recording = self.materials.recording
        return {
            "title": f"{self.config.name}: {', '.join(self.materials.layers)} toward"
            f" {self._target_name()}",
            "configuration": self.config.to_dict(),
            "environment": self.materials.environment(),
            "citations": self.materials.citations(),
            "reference": "own clean prediction" if self.materials.task is None else "labels",
            "trained_on": {
                "layer": ", ".join(self.materials.layers),
                "metric": self.config.neural.loss,
                "region": ", ".join(sorted(set(recording["region"].values.astype(str)))),
                "stimuli": len(self.materials.trained_stimuli),
                "held_out_stimuli": len(self.materials.held_out_stimuli),
                "subjects": sorted(
                    set(self.materials.trained_part["subject"].values.astype(str).tolist())
                ),
            },
            "conditions": [condition.entry() for condition in conditions],
            "runs": list(runs),
            "dose": list(dose),
            "audit": audit.to_dict(),
            "error_patterns": [],
        }


STRENGTHENED = {"noise_sd", "brightness", "contrast", "eps"}


def _named(control: Control | None, parameters: Mapping[str, Any]) -> Any:
    assert control is not None
    return NamedSection.model_validate({"name": control.name, **parameters})

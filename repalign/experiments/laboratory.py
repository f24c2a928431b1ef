"""An aligned network beside its baseline and its controls: trained with paired seeds, then tested.

Every (condition, seed, λ) is one run in a folder of its own. A run that is finished is not done
again, and one that was killed goes on where it stopped.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from repalign.experiments.configuration import (
    ALIGNED,
    BASELINE,
    experiment_config,
)
from repalign.experiments.evaluation import Tests
from repalign.experiments.goodhart import goodhart_audit
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


@dataclass(frozen=True)
class Condition:
    """One way to train: a name, what it is, and how strongly it is applied."""

    name: str
    title: str
    description: str
    strength: float
    reason: str = ""

    def entry(self) -> dict[str, Any]:
        """As the record has it."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "lambda": self.strength,
            "applicable": not self.reason,
            "reason": self.reason,
        }


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
    runs, dose = [], []
    for seed in config.seeds:
        for condition in conditions:
            if not condition.reason:
                runs.append(lab.run(condition, seed, masking=seed == config.seeds[0]))
    for strength in config.experiment.dose:
        for seed in config.seeds:
            dose.append(lab.dose(strength, seed))
    record = lab.record(conditions, runs, dose) | {"seconds": time.perf_counter() - begin}
    write_file(lab.folder / "experiment.json", json.dumps(record, indent=1, allow_nan=True))
    return Experiment(lab.folder, record, lab.trained(conditions[1], config.seeds[0]))


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
        goal = self.run(found[1], TUNING_SEED, brief=True)["clean"]
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
            candidate = Condition(condition.name, "", "", strength)
            found[strength] = self.run(candidate, TUNING_SEED, brief=True)["clean"]
        best = min(found, key=lambda strength: (round(abs(found[strength] - goal), 4), -strength))
        self.say(
            f"{condition.name}: strength {best:g}, with a clean accuracy of {found[best]:.3f},"
            f" nearest to the aligned network's {goal:.3f}"
        )
        return Condition(condition.name, condition.title, condition.description, best)

    def run(
        self, condition: Condition, seed: int, *, masking: bool = False, brief: bool = False
    ) -> dict[str, Any]:
        """Train and test one condition with one seed, unless that is done already."""
        folder = self._folder_of(condition, seed)
        config = self._config_of(condition, seed, folder)
        words = [
            FORMAT,
            {k: v for k, v in config.to_dict().items() if k != "out"},
            self.config.experiment.model_dump(mode="json", exclude={"controls", "seeds", "dose"}),
            self.config.robustness.model_dump(mode="json"),
            self.materials.fingerprint(),
            masking,
            brief,
        ]
        key = hashlib.sha256(json.dumps(words, default=str).encode()).hexdigest()
        kept = folder / ("brief-" * brief + EVALUATION)
        if self.resume and kept.is_file():
            found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
            if found.pop("key", None) == key:
                return found
        self.say(f"{condition.name} (strength {condition.strength:g}), seed {seed}")
        trained = self._train(condition, seed, config)
        result: dict[str, Any] = {
            "condition": condition.name,
            "seed": seed,
            "lambda": condition.strength,
            "clean": self.tests.clean(trained.network),
            "history": trained.history,
            "folder": str(folder.relative_to(self.folder)),
        }
        if not brief:
            sought = masking and self.config.robustness.masking
            result |= self.tests.robustness(trained.network, seed=seed, masking=sought)
            result["alignment"] = self.tests.alignment(trained.network)
        write_file(kept, json.dumps({"key": key, **result}, allow_nan=True))
        return result

    def _folder_of(self, condition: Condition, seed: int) -> Path:
        """The run that the configuration itself describes lies in its own folder."""
        assert self.config.neural is not None
        own = (ALIGNED, self.config.neural.weight, self.config.training.seed)
        if (condition.name, condition.strength, seed) == own:
            return self.folder
        return self.folder / "runs" / f"{condition.name}-{condition.strength:g}" / f"seed-{seed}"

    def dose(self, strength: float, seed: int) -> dict[str, Any]:
        """The aligned network at another λ."""
        name = ALIGNED if strength else BASELINE
        run = self.run(Condition(name, "", "", strength), seed)
        trained = [r for r in run["alignment"] if r["trained_metric"] and r["stimuli"] != "trained"]
        return {
            "condition": ALIGNED,
            "lambda": strength,
            "seed": seed,
            "clean": run["clean"],
            "auc": run["curves"][0]["auc"],
            "alignment": trained[0]["value"] if trained else None,
        }

    def trained(self, condition: Condition, seed: int) -> FinetuneResult:
        """The trained network of a run that is finished."""
        return self._train(
            condition, seed, self._config_of(condition, seed, self._folder_of(condition, seed))
        )

    def _train(self, condition: Condition, seed: int, config: FinetuneConfig) -> FinetuneResult:
        return train_network(
            config,
            network=copy.deepcopy(self.materials.start(seed)),
            task=self.materials.task,
            target=self._target_of(condition, seed),
            resume=self.resume,
            progress=self.progress,
        )

    def _config_of(self, condition: Condition, seed: int, folder: Path) -> FinetuneConfig:
        """The configuration of one run: its seed, its λ, its control."""
        assert self.config.neural is not None
        control = CONTROLS.get(condition.name)
        trains = control is not None and control.kind == "training"
        own = folder == self.folder
        weight = 0.0 if trains or condition.name == BASELINE else condition.strength
        return self.config.for_run(
            out=str(folder),
            name=self.config.name if own else f"{self.config.name}-{condition.name}-{seed}",
            neural=self.config.neural.model_copy(
                update={
                    "weight": weight,
                    "held_out_stimuli": self.materials.held_out_stimuli,
                    "held_out_subjects": (),  # the target that is passed is without them
                    "select": {},
                }
            ),
            training=self.config.training.model_copy(update={"seed": seed}),
            control=_named(control, self._parameters(condition)) if trains else None,
        )

    def _parameters(self, condition: Condition) -> dict[str, Any]:
        """Parameters of a control; those of a way to train are multiplied by its strength."""
        control = CONTROLS[condition.name]
        parameters = {
            **(control.parameters if control.kind == "training" else {}),
            **self.config.experiment.parameters.get(condition.name, {}),
        }
        if control.kind == "training":
            for name in STRENGTHENED & set(parameters):
                parameters[name] = parameters[name] * condition.strength
        return parameters

    def _target_of(self, condition: Condition, seed: int) -> xr.Dataset:
        control = CONTROLS.get(condition.name)
        if control is None or control.kind == "training":
            return self.materials.trained_part
        return control(
            self.materials.trained_part,
            seed=seed,
            labels=self.materials.labels,
            teacher=self._teacher(seed) if "teacher" in control.needs else None,
            other=self.materials.other_region,
            **self._parameters(condition),
        )

    def _teacher(self, seed: int) -> Any:
        """Features of an ordinary network at the first aligned layer."""
        materials = self.materials
        if materials.config.experiment.teacher or not materials.untrained:
            network = materials.teacher()
        else:
            baseline = Condition(BASELINE, "", "", 0.0)
            folder = self.folder / "runs" / "teacher" / f"seed-{seed}"
            config = self._config_of(baseline, TEACHER_SEED + seed, folder)
            network = self._train(baseline, TEACHER_SEED + seed, config).network
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

"""The single runs of an experiment: each trained and tested once, in a folder of its own."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from repalign.experiments.configuration import ALIGNED, BASELINE
from repalign.experiments.evaluation import Tests
from repalign.experiments.jobs import Job
from repalign.experiments.materials import TEACHER_SEED, Materials
from repalign.networks import Network, load_network
from repalign.regularize.control_targets import Teacher
from repalign.regularize.controls import CONTROLS, Control
from repalign.store import write_file
from repalign.training.configuration import FinetuneConfig
from repalign.training.neural_targets import control_target, teacher_features
from repalign.training.runs import FinetuneResult, train_network
from repalign.training.sections import NamedSection

EVALUATION = "evaluation.json"
FORMAT = 3
UNRELATED = {"controls", "seeds", "dose", "workers", "tune", "strengths"}  # to any one run
STRENGTHENED = {"noise_sd", "brightness", "contrast", "eps"}


class Runs:
    """Trains and tests the networks of one experiment, and finds what it did before.

    Args:
        materials: of the experiment.
        resume: go on with what lies in the folder; False trains everything anew.
        progress: show progress bars on stderr.
        say: told which run begins.
    """

    def __init__(
        self, materials: Materials, *, resume: bool, progress: bool, say: Callable[[str], None]
    ) -> None:
        """Prepare nothing yet."""
        self.materials, self.config = materials, materials.config
        self.folder = Path(self.config.out).expanduser()
        self.tests = Tests(materials, progress=progress)
        self.resume, self.progress, self.say = resume, progress, say

    def run(self, job: Job) -> dict[str, Any]:
        """Train and test one condition with one seed, unless that is done already."""
        folder = self._folder_of(job)
        config = self._config_of(job, folder)
        words = [
            FORMAT,
            {k: v for k, v in config.to_dict().items() if k != "out"},
            self.config.experiment.model_dump(mode="json", exclude=UNRELATED),
            self.config.robustness.model_dump(mode="json"),
            self.tests.fingerprint(),
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
            result |= self.tests.robustness(trained.network, seed=job.seed)
            result["alignment"] = self.tests.alignment(trained.network)
            if job.masking:
                result["masking"] = self.tests.masking(
                    trained.network, seed=job.seed, surrogate=self._surrogate(job)
                )
        write_file(kept, json.dumps({"key": key, **result}, allow_nan=True))
        return result

    def _folder_of(self, job: Job) -> Path:
        """The run that the configuration itself describes lies in its own folder."""
        assert self.config.neural is not None
        own = (ALIGNED, self.config.neural.weight, self.config.training.seed)
        if (job.name, job.strength, job.seed) == own:
            return self.folder
        return self.folder / "runs" / f"{job.name}-{job.strength:g}" / f"seed-{job.seed}"

    def _surrogate(self, job: Job) -> Network | None:
        """The baseline of the same seed, whose attacks should not transfer all too well."""
        if job.name == BASELINE:
            return None
        baseline = Job(BASELINE, 0.0, job.seed)
        folder = self._folder_of(baseline)
        card = folder / f"{self._config_of(baseline, folder).name}.toml"
        # the run itself can be opened by one process at a time, its card by all
        return load_network(card) if card.is_file() else self.trained(baseline).network

    def trained(self, job: Job) -> FinetuneResult:
        """The trained network of a run that is finished."""
        return self._train(job, self._config_of(job, self._folder_of(job)), resume=True)

    def _train(self, job: Job, config: FinetuneConfig, *, resume: bool) -> FinetuneResult:
        return train_network(
            config,
            network=copy.deepcopy(self.materials.start(job.seed)),
            task=self.materials.task,
            target=self.materials.neural.target,
            stand_in=self._stand_in(job),
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

    def _stand_in(self, job: Job) -> xr.Dataset | None:
        """What a control aligns to in the brain's place."""
        control, materials = CONTROLS.get(job.name), self.materials
        if control is None or control.kind == "training":
            return None
        return control_target(
            control.name,
            materials.neural,
            seed=job.seed,
            labels=materials.labels,
            teacher=self._teacher(job.seed) if "teacher" in control.needs else None,
            other=materials.other_region,
            **self._parameters(job),
        )

    def _teacher(self, seed: int) -> Teacher:
        """Features of an ordinary network at the first aligned layer.

        It is the one that the configuration names; or else one trained on the task as the baseline
        is, with a seed of its own; or else, without a task, the network before training.
        """
        materials = self.materials
        if materials.config.experiment.teacher or materials.task is None:
            network = materials.teacher()
        else:
            baseline = Job(BASELINE, 0.0, TEACHER_SEED + seed)
            config = self._config_of(baseline, self.folder / "runs" / "teacher" / f"seed-{seed}")
            network = self._train(baseline, config, resume=self.resume).network
        return teacher_features(network, materials.layers[0], materials.neural.images)


def _named(control: Control | None, parameters: Mapping[str, Any]) -> Any:
    assert control is not None
    return NamedSection.model_validate({"name": control.name, **parameters})

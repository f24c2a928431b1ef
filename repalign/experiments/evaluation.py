"""One trained network tested: accuracy, robustness, corruptions, masking, and its alignment."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.experiments.audit_rows import AUDITED_AS, AlignmentPanel, alignment_panel
from repalign.experiments.human_choices import Counts, consistency_rows, read_choices
from repalign.experiments.materials import Materials
from repalign.layer_activations import layer_responses
from repalign.metrics import Metric
from repalign.networks import Network
from repalign.recording import NEUROID, stimulus_ids
from repalign.regularize.objectives import MetricObjective, as_objective
from repalign.robustness import Attack, PixelNetwork
from repalign.robustness.attack_losses import LOSSES
from repalign.robustness.corruption_tables import corruption_table
from repalign.robustness.curves import robustness_curve
from repalign.robustness.masking import (
    GradientMaskingWarning,
    TooFewImagesError,
    masking_audit,
)
from repalign.stimuli import open_stimuli
from repalign.training.neural import StimulusImages
from repalign.training.task_batches import iterate_batches
from repalign.training.task_images import ImageSet, TaskData

ALIGNED_TO = "_aligned_to"


class Tests:
    """What all networks of one experiment are put through, prepared once.

    Args:
        materials: of the experiment.
        progress: show progress bars on stderr.
    """

    __test__ = False  # no class of tests for pytest

    def __init__(self, materials: Materials, *, progress: bool = True) -> None:
        """Prepare nothing yet: each part is made when it is first needed."""
        self.materials, self.progress = materials, progress
        self.plan = materials.config.robustness
        self.device = materials.config.training.device

    def check(self) -> None:
        """Raise, before anything is trained, where there is nothing to test with.

        Raises:
            ValueError: neither task nor held-out stimuli, or human choices that do not fit.
        """
        if self.materials.task is None and not self.materials.held_out_stimuli:
            raise ValueError(
                "without task data robustness is tested on held-out stimuli, and none are held"
                " out: set neural.held_out_stimuli = 0.2, or name task.data"
            )
        _ = self.choices

    @cached_property
    def choices(self) -> Counts | None:
        """Human choices for the test images, image × class, where a file of them is named."""
        path, task = self.plan.human_choices, self.materials.task
        if path is None:
            return None
        if task is None:
            raise ValueError("robustness.human_choices needs task data: error patterns have labels")
        counts = read_choices(path, classes=task.classes, n_images=len(_tested(task)))
        chosen: Counts = counts[self._rows(task)]
        return chosen

    def fingerprint(self) -> list[str | None]:
        """What goes into a run and its tests, by hashes."""
        answers = self.choices
        human = None if answers is None else hashlib.sha256(answers.tobytes()).hexdigest()
        return [*self.materials.fingerprint, human]

    @cached_property
    def images(self) -> tuple[Tensor, Tensor | None]:
        """Test images in pixels, and their labels: of the task, or else held-out stimuli."""
        task = self.materials.task
        if task is None:
            ids = self.materials.held_out_stimuli[: self.plan.images]
            shown = StimulusImages(self.materials.neural.images, ids, self.materials.start(0))
            return torch.stack([shown[row][0] for row in range(len(shown))]), None
        [(images, labels)] = iterate_batches(_tested(task), [self._rows(task).tolist()])
        return images.contiguous(), labels

    def _rows(self, task: TaskData) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Which test images: spread over the part, since folders are in the order of classes."""
        size = len(_tested(task))
        rows = np.linspace(0, size - 1, min(self.plan.images, size)).round()
        return np.unique(rows.astype(np.int64))

    @cached_property
    def panels(self) -> list[tuple[xr.Dataset, AlignmentPanel]]:
        """The recording, and those that nothing was trained on, with what they are measured by."""
        materials, neural = self.materials, self.materials.config.neural
        assert neural is not None
        metric = audited_metric(neural.loss)
        marked = materials.recording.assign_coords(
            {ALIGNED_TO: (NEUROID, materials.trained_neuroids)}
        )
        most = materials.config.experiment.audit_stimuli
        first = alignment_panel(
            marked,
            trained_metric=metric,
            trained_stimuli=_some_of(materials.trained_stimuli, most),
            held_out_stimuli=_some_of(materials.held_out_stimuli, most),
            trained_neuroids={ALIGNED_TO: True},
        )
        found = [(materials.recording, first)]
        for name, other in materials.others.items():
            nowhere = other.assign_coords(
                {ALIGNED_TO: (NEUROID, np.zeros(other.sizes[NEUROID], bool))}
            )
            nowhere["region"] = (NEUROID, [f"{r} ({name})" for r in other["region"].values])
            panel = alignment_panel(
                nowhere,
                trained_metric=metric,
                held_out_stimuli=_some_of(stimulus_ids(other), most),
                trained_stimuli=[],
                trained_neuroids={ALIGNED_TO: True},
            )
            found.append((other, panel))
        return found

    def clean(self, network: Network) -> float:
        """Accuracy on the test images; without labels, agreement with the network before."""
        images, labels = self.images
        if labels is None:
            labels = self._original_predictions
        predicted = _logits(network, images, self.plan.batch_size).argmax(1)
        return float((predicted == labels).float().mean())

    @cached_property
    def _original_predictions(self) -> Tensor:
        network = self.materials.start(0)
        return _logits(network, self.images[0], self.plan.batch_size).argmax(1)

    def alignment(self, network: Network) -> list[dict[str, Any]]:
        """Rows of the Goodhart audit for each aligned layer."""
        rows = []
        for recording, panel in self.panels:
            shown = open_stimuli(recording).subset(list(panel.stimulus_ids))
            features = layer_responses(
                network, shown, list(self.materials.layers), device=self.device
            )
            for layer, activations in features.items():
                rows += panel.rows(activations, layer=layer)
        return rows

    def robustness(self, network: Network, *, seed: int) -> dict[str, Any]:
        """Curves of all attacks, corruptions, and error patterns beside those of people."""
        images, labels = self.images
        model = PixelNetwork.of(network)
        how: dict[str, Any] = {"device": self.device, "progress": self.progress}
        how |= {"batch_size": self.plan.batch_size}
        found: dict[str, Any] = {"curves": [], "correct": {}, "corruptions": []}
        for attack in self.plan.parsed():
            curve = robustness_curve(
                model, images, labels, attack=attack, eps=self.plan.eps, seed=seed, **how
            )
            same = {"attack": attack_label(attack), "auc": curve.auc}
            same |= {"auc_low": curve.auc_low, "auc_high": curve.auc_high}
            found["curves"] += [row | same for row in curve.rows()]
            found["correct"][f"{same['attack']} {curve.norm}"] = curve.correct.tolist()
        if self.plan.corruptions:
            table = corruption_table(
                model, images, labels, corruptions=self.plan.corruptions, seed=seed, **how
            )
            found["corruptions"] = table.rows()
        if self.choices is not None:
            assert labels is not None
            shares = _logits(network, images, self.plan.batch_size).softmax(1)
            found["error_patterns"] = consistency_rows(shares, self.choices, labels)
        return found

    def masking(
        self, network: Network, *, seed: int, surrogate: Network | None = None
    ) -> dict[str, Any]:
        """Whether the first attack fails for masked gradients, at the middle ε of the curve."""
        images, labels = self.images
        first = self.plan.parsed()[0]
        loss = getattr(first, "loss", "margin")
        with warnings.catch_warnings():  # the record and the report say it, and louder
            warnings.simplefilter("ignore", GradientMaskingWarning)
            try:
                audit = masking_audit(
                    network,
                    images,
                    labels,
                    eps=self.plan.eps[len(self.plan.eps) // 2],
                    norm=first.norm,
                    loss=loss if loss in LOSSES else "margin",  # the aim of targets, and of Square
                    gradient_samples=getattr(first, "gradient_samples", 1),
                    surrogate=surrogate,
                    n_images=self.plan.masking_images,
                    batch_size=self.plan.batch_size,
                    seed=seed,
                    device=self.device,
                    progress=self.progress,
                )
            except TooFewImagesError as error:  # a poor network is a result like any other
                check = {"name": "enough images", "passed": None, "detail": str(error)}
                return {"passed": None, "checks": [check]}
        return {"passed": audit.passed, "checks": audit.rows()}


def attack_label(attack: Attack) -> str:
    """How figures call an attack: its steps, its loss but the cross-entropy, what else is set.

    Example:
        >>> from repalign.robustness import PGD
        >>> attack_label(PGD(steps=20)), attack_label(PGD(steps=40, loss="margin", restarts=5))
        ('PGD-20', 'PGD-40 margin restarts=5')
    """
    parameters: Any = attack
    name = attack.name if attack.name == "square" else attack.name.upper()
    count = getattr(attack, "steps", None) or getattr(attack, "queries", None)
    loss = getattr(attack, "loss", "ce")
    words = [name + (f"-{count}" if count else "")] + [loss] * (loss != "ce")
    for field in dataclasses.fields(parameters):
        value = getattr(attack, field.name)
        if field.name not in ("norm", "steps", "queries", "loss") and value != field.default:
            words.append(f"{field.name}={value}")
    return " ".join(words)


def audited_metric(loss: str) -> Metric:
    """The metric that says how far an alignment loss was brought down."""
    if loss in AUDITED_AS:
        return AUDITED_AS[loss]
    objective = as_objective(loss)
    if isinstance(objective, MetricObjective):
        return objective.metric
    return AUDITED_AS[loss.partition(":")[0]]


def _some_of(ids: Sequence[str], most: int) -> list[str]:
    """At most so many, drawn once and for all, in their order."""
    if len(ids) <= most:
        return list(ids)
    rows = np.random.default_rng(0).choice(len(ids), most, replace=False)
    return [ids[row] for row in np.sort(rows)]


def _tested(task: TaskData) -> ImageSet:
    return task.test or task.validation


def _logits(network: Network, images: Tensor, batch_size: int) -> Tensor:
    module = PixelNetwork.of(network).eval()
    home = next((p.device for p in network.module.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        parts = [module(batch.to(home)).cpu() for batch in torch.split(images, batch_size)]
    return torch.cat(parts)

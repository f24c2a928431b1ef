"""One trained network tested: accuracy, robustness, corruptions, masking, and its alignment."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.experiments.audit_rows import AUDITED_AS, AlignmentPanel, alignment_panel
from repalign.experiments.layer_activations import layer_responses
from repalign.experiments.materials import Materials
from repalign.metrics import Metric
from repalign.networks import Network, preprocess
from repalign.recording import NEUROID, stimulus_ids
from repalign.regularize.objectives import MetricObjective, as_objective
from repalign.robustness import Attack, PixelNetwork
from repalign.robustness.corruption_tables import corruption_table
from repalign.robustness.curves import robustness_curve
from repalign.robustness.masking import GradientMaskingWarning, masking_audit
from repalign.stimuli import open_stimuli
from repalign.training.task_batches import iterate_batches

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

    @cached_property
    def images(self) -> tuple[Tensor, Tensor | None]:
        """Test images in pixels, and their labels: of the task, or else held-out stimuli."""
        task = self.materials.task
        if task is None:
            return self._pixels(self.materials.held_out_stimuli[: self.plan.images]), None
        part = task.test or task.validation
        # spread over the part, since folders are in the order of their classes
        count = min(self.plan.images, len(part))
        rows = np.unique(np.linspace(0, len(part) - 1, count).round().astype(int))
        [(images, labels)] = iterate_batches(part, [rows.tolist()])
        return images.contiguous(), labels

    def _pixels(self, ids: Sequence[str]) -> Tensor:
        shown = open_stimuli(self.materials.recording).subset(list(ids))
        network = self.materials.start(0)
        unchanged = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        plain = network.preprocessing.model_copy(update=unchanged)
        degrees = {
            "shown_degrees": shown.visual_degrees,
            "field_degrees": network.visual_degrees,
        }
        return torch.stack([preprocess(shown.image(i), plain, **degrees) for i in range(len(ids))])

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
        predicted = _predictions(network, images, self.plan.batch_size)
        return float((predicted == labels).float().mean())

    @cached_property
    def _original_predictions(self) -> Tensor:
        return _predictions(self.materials.start(0), self.images[0], self.plan.batch_size)

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

    def robustness(self, network: Network, *, seed: int, masking: bool) -> dict[str, Any]:
        """Curves of all attacks, corruptions, and whether gradients are masked."""
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
        if masking:
            with warnings.catch_warnings():  # the record and the report say it, and louder
                warnings.simplefilter("ignore", GradientMaskingWarning)
                first = self.plan.parsed()[0]
                audit = masking_audit(
                    model,
                    images,
                    labels,
                    eps=self.plan.eps[len(self.plan.eps) // 2],
                    norm=first.norm,
                    loss=getattr(first, "loss", "ce"),
                    n_images=self.plan.masking_images,
                    seed=seed,
                    device=self.device,
                    progress=self.progress,
                )
            found["masking"] = {"passed": audit.passed, "checks": audit.rows()}
        return found


def attack_label(attack: Attack) -> str:
    """How figures call an attack: its steps, and its loss where that is not the cross-entropy.

    Example:
        >>> from repalign.robustness import PGD
        >>> attack_label(PGD(steps=20)), attack_label(PGD(steps=40, loss="margin"))
        ('PGD-20', 'PGD-40 margin')
    """
    count = getattr(attack, "steps", None) or getattr(attack, "queries", None)
    loss = getattr(attack, "loss", "ce")
    name = attack.name if attack.name == "square" else attack.name.upper()
    return name + (f"-{count}" if count else "") + ("" if loss == "ce" else f" {loss}")


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


def _predictions(network: Network, images: Tensor, batch_size: int) -> Tensor:
    module = PixelNetwork.of(network).eval()
    home = next((p.device for p in network.module.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        parts = [
            module(batch.to(home)).argmax(1).cpu() for batch in torch.split(images, batch_size)
        ]
    return torch.cat(parts)

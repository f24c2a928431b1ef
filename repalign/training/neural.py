"""The neural part of a training run: the recording, what is held out of it, and the control."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.activations import open_layers
from repalign.cards import Preprocessing
from repalign.hooks import capture
from repalign.loaders import ingest
from repalign.networks import Network, load_network, preprocess
from repalign.recording import PRESENTATION, STIMULUS, SUBJECT, is_rdm_only, select, stimulus_ids
from repalign.regularize.alignment import AlignmentLoss
from repalign.regularize.alignment_terms import AlignmentTerm
from repalign.regularize.controls import CONTROLS
from repalign.regularize.schedules import Schedule
from repalign.stimuli import Stimuli, open_stimuli
from repalign.store import fingerprint
from repalign.training.sections import NamedSection, NeuralSection
from repalign.training.task_images import SPLIT_SEED, TaskData

NEVER = 1 << 62  # a warm-up that no training outlasts


@dataclass(frozen=True, kw_only=True)
class NeuralData:
    """A recording with its parts.

    Args:
        target: the subjects trained on, all stimuli.
        stimuli: the images; None where the recording brings its own.
        trained, held_out: ids of the stimuli trained on, and of the others.
    """

    target: xr.Dataset
    stimuli: Stimuli | None
    trained: tuple[str, ...]
    held_out: tuple[str, ...]

    def fingerprint(self) -> str:
        """sha256 of what is trained on: the recording's content, its neuroids and stimuli."""
        target = self.target
        names = [target[name].values.tolist() for name in ("neuroid_id", SUBJECT, "region")]
        words = [
            target.attrs.get("fingerprint") or fingerprint(target),
            target.attrs.get("control"),
            target.attrs.get("control_seed"),
            names,
            self.trained,
        ]
        return f"sha256:{hashlib.sha256(repr(words).encode()).hexdigest()}"


def open_neural(
    section: NeuralSection, target: xr.Dataset | None, stimuli: Stimuli | None
) -> NeuralData:
    """The recording of a configuration, or the one given, split into trained and held out.

    The split is drawn once and for all: it does not depend on the seed of the training.

    Raises:
        ValueError: no recording, unknown stimuli or subjects, or nothing left to train on.
    """
    if target is None:
        if section.dataset is None:
            raise ValueError("neural.dataset is missing: name a recording, or pass target=")
        target = open_target(section.dataset)
    if is_rdm_only(target) or "response" not in target:
        raise ValueError("the target holds no responses; published RDMs cannot be trained on")
    if section.select:
        target = select(target, **section.select)
    if section.held_out_subjects:
        subjects = list(dict.fromkeys(map(str, target[SUBJECT].values)))
        unknown = [name for name in section.held_out_subjects if name not in subjects]
        if unknown:
            raise ValueError(
                f"neural.held_out_subjects names {unknown[0]!r}; there are {', '.join(subjects)}"
            )
        kept = [name for name in subjects if name not in section.held_out_subjects]
        if not kept:
            raise ValueError(
                "neural.held_out_subjects names all subjects: none is left to train on"
            )
        target = select(target, **{SUBJECT: kept})
    trained, held_out = split_stimuli(stimulus_ids(target), section.held_out_stimuli)
    return NeuralData(target=target, stimuli=stimuli, trained=trained, held_out=held_out)


def open_target(name: str, *, to: str | Path | None = None) -> xr.Dataset:
    """The recording of a card, ingested where that is missing, or of a store."""
    if not name.rstrip("/").endswith(".zarr"):
        return ingest(name, to=to)
    layers = open_layers(Path(name))
    if len(layers) > 1:
        raise ValueError(f"{name} holds {', '.join(layers)}; give one of them: {name}/LAYER")
    return next(iter(layers.values()))


def split_stimuli(
    ids: Sequence[str], held_out: float | tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stimuli to train on, and those held out: named, or a share drawn once and for all."""
    if isinstance(held_out, tuple):
        unknown = [name for name in held_out if name not in set(ids)]
        if unknown:
            raise ValueError(
                f"neural.held_out_stimuli names {unknown[0]!r}, which was not recorded"
                f" ({len(unknown)} of {len(held_out)} are unknown)"
            )
        chosen = set(held_out)
    else:
        order = np.random.default_rng(SPLIT_SEED).permutation(len(ids))
        chosen = {ids[row] for row in order[: round(held_out * len(ids))]}
    trained = tuple(name for name in ids if name not in chosen)
    if not trained:
        raise ValueError("neural.held_out_stimuli names all stimuli: none is left to train on")
    return trained, tuple(name for name in ids if name in chosen)


def control_target(
    control: NamedSection,
    data: NeuralData,
    *,
    seed: int,
    labels: str | None,
    start: Network,
    regions: bool = False,
) -> xr.Dataset:
    """What a control puts in the place of the responses to the stimuli that are trained on.

    Beside the control's own parameters its section may have ``seed`` (by default the training's),
    ``labels`` (a coordinate of the presentations; by default that of ``neural.labels``),
    ``teacher = {model = "card", layer = "name"}`` (by default the layer's network before training)
    and ``other = {region = "V4"}``, a selection of the same recording.

    Args:
        control: name and parameters.
        data: the recording and its parts.
        seed: of what is drawn.
        labels: coordinate of the classes.
        start: the network before training.
        regions: whether each layer has a region of its own.

    Raises:
        ValueError: the control cannot be made of what there is.
    """
    parameters = control.parameters
    seed = parameters.pop("seed", seed)
    labels = parameters.pop("labels", labels)
    teacher = parameters.pop("teacher", None)
    other = parameters.pop("other", None)
    if control.name == "other-region" and regions:
        raise ValueError(
            "control other-region: neural.layers has a region for each layer, and no other region"
            ' stands for them all; give layers = ["a layer"] and select one region'
        )
    trained = set(data.trained)
    rows = [row for row, name in enumerate(data.target[STIMULUS].values) if str(name) in trained]
    target = data.target.isel({PRESENTATION: rows})
    features = None if teacher is None else _teacher_features(teacher, start, data)
    return CONTROLS[control.name](
        target,
        seed=seed,
        labels=labels,
        teacher=features,
        other=None if other is None else select(target, **other),
        **parameters,
    )


def _teacher_features(teacher: Mapping[str, Any], start: Network, data: NeuralData) -> Any:
    if "layer" not in teacher or set(teacher) - {"model", "layer"}:
        raise ValueError(
            f'control.teacher is {dict(teacher)}, expected {{model = "card", layer = "name"}}'
        )
    network = load_network(teacher["model"]) if "model" in teacher else start
    images = StimulusImages(data, network.preprocessing, network.visual_degrees, normalised=True)
    rows: list[Tensor] = []
    layer = str(teacher["layer"])
    device = next((p.device for p in network.module.parameters()), torch.device("cpu"))
    with torch.inference_mode(), capture(network.module.eval(), [layer]) as seen:
        for index in range(len(images)):
            network.module(images[index][0][None].to(device))
            rows.append(seen[layer].flatten().cpu())
    return torch.stack(rows).numpy()


class StimulusImages:
    """The stimuli that are trained on, as pixels without labels (all are 0)."""

    def __init__(
        self,
        data: NeuralData,
        preprocessing: Preprocessing,
        visual_degrees: float | None,
        *,
        normalised: bool = False,
        ids: Sequence[str] | None = None,
    ) -> None:
        """Keep the stimuli; images are decoded and scaled as they are asked for."""
        stimuli = data.stimuli or open_stimuli(data.target)
        self.stimuli = stimuli.subset(list(data.trained if ids is None else ids))
        still: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        changes = {} if normalised else still
        self.preprocessing = preprocessing.model_copy(update=changes)
        self.visual_degrees = visual_degrees

    def __len__(self) -> int:
        """Return the number of stimuli."""
        return len(self.stimuli)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image, and 0 for its label."""
        image = preprocess(
            self.stimuli.image(index),
            self.preprocessing,
            shown_degrees=self.stimuli.visual_degrees,
            field_degrees=self.visual_degrees,
        )
        return image, 0


def unlabelled_task(data: NeuralData, network: Network) -> TaskData:
    """The neural stimuli as a task without labels: what the frozen original says stands for them.

    Without held-out stimuli validation is on those that are trained on.
    """
    how = (data, network.preprocessing, network.visual_degrees)
    train = StimulusImages(*how)
    watched = StimulusImages(*how, ids=data.held_out) if data.held_out else train
    return TaskData(name="neural stimuli", train=train, validation=watched, classes=())


def _of_region(target: xr.Dataset, region: str) -> xr.Dataset:
    """A region's part; label geometry, which stands for every region, as a whole."""
    whole = target.attrs.get("control") == "one-hot"
    return target if whole else select(target, region=region)


def make_alignment(
    network: Network,
    section: NeuralSection,
    data: NeuralData,
    target: xr.Dataset,
    *,
    seed: int,
    weight: float,
    labels: bool,
) -> AlignmentLoss:
    """The loss of a configuration's [neural] section on a target.

    Several layers share the weight equally, so that λ means the same whatever their number.

    Args:
        network: on its device already.
        target: the recording, or what a control made of it.
        weight: λ; with 0 the alignment is never computed in training.
        labels: whether the labels of the stimuli are trained too.
    """
    if isinstance(section.layers, Mapping):
        pairs = [(layer, _of_region(target, r)) for layer, r in section.layers.items()]
    else:
        pairs = [(layer, target) for layer in section.layers]
    terms = [
        AlignmentTerm(layer=layer, target=part, metric=section.loss, weight=1 / len(pairs))
        for layer, part in pairs
    ]
    known = set(stimulus_ids(target))
    return AlignmentLoss(
        network,
        terms=terms,
        images=data.stimuli,
        stimulus_ids=[name for name in data.trained if name in known],
        batch_size=section.batch_size,
        schedule=Schedule(
            warm_up=section.warm_up if weight > 0 else NEVER,
            ramp=section.ramp,
            mix_rate=section.mix_rate,
            seed=seed,
        ),
        batchnorm=section.batchnorm,
        labels=section.labels if labels else None,
        seed=seed,
    )

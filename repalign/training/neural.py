"""The neural part of a training run: the recording, what is held out of it, and the control."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from repalign.activations import open_layers
from repalign.layer_activations import layer_responses
from repalign.loaders import ingest
from repalign.networks import Network, load_network, preprocess
from repalign.recording import PRESENTATION, STIMULUS, SUBJECT, is_rdm_only, select, stimulus_ids
from repalign.regularize.alignment import AlignmentLoss
from repalign.regularize.alignment_terms import AlignmentTerm
from repalign.regularize.control_targets import Teacher
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
        whole: the recording as it was given, before anything was selected.
        target: the subjects trained on, all stimuli.
        stimuli: the images; None where the recording brings its own.
        trained, held_out: ids of the stimuli trained on, and of the others.
        stand_in: what is aligned to in the target's place; held-out stimuli are the target's.
    """

    whole: xr.Dataset
    target: xr.Dataset
    stimuli: Stimuli | None
    trained: tuple[str, ...]
    held_out: tuple[str, ...]
    stand_in: xr.Dataset | None = None

    @property
    def images(self) -> Stimuli:
        """The images of all stimuli."""
        return self.stimuli or open_stimuli(self.target)

    def trained_part(self, recording: xr.Dataset) -> xr.Dataset:
        """The presentations of the stimuli that are trained on."""
        trained, names = set(self.trained), recording[STIMULUS].values
        rows = [row for row, name in enumerate(names) if str(name) in trained]
        return recording.isel({PRESENTATION: rows})

    def fingerprint(self) -> str:
        """sha256 of what is trained on: the recording's content, its neuroids and stimuli."""
        words: list[Any] = []
        for part in (self.target, self.stand_in):
            if part is not None:
                names = [part[name].values.tolist() for name in ("neuroid_id", SUBJECT, "region")]
                words += [_content(part), names]
        words.append(self.trained)
        return f"sha256:{hashlib.sha256(repr(words).encode()).hexdigest()}"


def _content(recording: xr.Dataset) -> tuple[str, Any, Any]:
    attrs = recording.attrs
    content = attrs.get("fingerprint") or fingerprint(recording)
    return content, attrs.get("control"), attrs.get("control_seed")


def open_neural(
    section: NeuralSection,
    target: xr.Dataset | None,
    stimuli: Stimuli | None,
    stand_in: xr.Dataset | None = None,
) -> NeuralData:
    """The recording of a configuration, or the one given, split into trained and held out.

    The split is drawn once and for all: it does not depend on the seed of the training.

    Raises:
        ValueError: no recording, unknown stimuli or subjects, or nothing left to train on.
    """
    whole = target = named_target(section) if target is None else target
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
    return NeuralData(
        whole=whole,
        target=target,
        stimuli=stimuli,
        trained=trained,
        held_out=held_out,
        stand_in=stand_in,
    )


def named_target(section: NeuralSection, *, to: str | Path | None = None) -> xr.Dataset:
    """The recording that a configuration names, before anything is selected."""
    if section.dataset is None:
        raise ValueError("neural.dataset is missing: name a recording, or pass target=")
    return open_target(section.dataset, to=to)


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
    name: str,
    data: NeuralData,
    *,
    seed: int,
    labels: str | None = None,
    teacher: Teacher | None = None,
    other: xr.Dataset | None = None,
    **parameters: Any,
) -> xr.Dataset:
    """What a control puts in the place of the responses to the stimuli that are trained on.

    Args:
        name: in `repalign.regularize.CONTROLS`.
        data: the recording and its parts.
        seed: of what is drawn.
        labels: coordinate of the classes on presentation.
        teacher: a function from stimulus ids to features, or features of the trained stimuli.
        other: a recording of another region.
        **parameters: of the control.

    Raises:
        ValueError: the control cannot be made of what there is.
    """
    return CONTROLS[name](
        data.trained_part(data.target),
        seed=seed,
        labels=labels,
        teacher=teacher,
        other=None if other is None else data.trained_part(other),
        **parameters,
    )


def teacher_features(network: Network, layer: str, images: Stimuli) -> Teacher:
    """A function from stimulus ids to a layer's features of their images."""

    def features(ids: list[str]) -> Any:
        found = layer_responses(network, images.subset(ids), [layer])
        if list(found) != [layer]:
            raise ValueError(f"the teacher's layer {layer!r} stands for {list(found)}; name one")
        return found[layer]["response"].values

    return features


def with_control(
    data: NeuralData, control: NamedSection, *, seed: int, section: NeuralSection, start: Network
) -> NeuralData:
    """The recording with what a configuration's [control] section aligns to in its place.

    Beside the control's own parameters the section may have ``seed`` (by default the training's),
    ``labels`` (a coordinate of the presentations; by default that of ``neural.labels``),
    ``teacher = {model = "card", layer = "name"}`` (by default the layer's network before training)
    and ``other = {region = "V4"}``, a selection of the recording before ``neural.select``.

    Raises:
        ValueError: the control cannot be made of what there is.
    """
    if control.name == "other-region" and isinstance(section.layers, Mapping):
        raise ValueError(
            "control other-region: neural.layers has a region for each layer, and no other region"
            ' stands for them all; give layers = ["a layer"] and select one region'
        )
    parameters = control.parameters
    seed = parameters.pop("seed", seed)
    labels = parameters.pop("labels", section.labels)
    teacher = parameters.pop("teacher", None)
    other = parameters.pop("other", None)
    if teacher is not None:
        if "layer" not in teacher or set(teacher) - {"model", "layer"}:
            raise ValueError(
                f'control.teacher is {dict(teacher)}, expected {{model = "card", layer = "name"}}'
            )
        network = load_network(teacher["model"]) if "model" in teacher else start
        teacher = teacher_features(network, str(teacher["layer"]), data.images)
    made = control_target(
        control.name,
        data,
        seed=seed,
        labels=labels,
        teacher=teacher,
        other=None if other is None else select(data.whole, **other),
        **parameters,
    )
    return replace(data, stand_in=made)


class StimulusImages:
    """Stimuli as pixels without labels (all are 0)."""

    def __init__(self, stimuli: Stimuli, ids: Sequence[str], network: Network) -> None:
        """Keep the stimuli; images are decoded and scaled, as for ``network``, when asked for."""
        self.stimuli = stimuli.subset(list(ids))
        still: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        self.preprocessing = network.preprocessing.model_copy(update=still)
        self.visual_degrees = network.visual_degrees

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
    train = StimulusImages(data.images, data.trained, network)
    watched = StimulusImages(data.images, data.held_out, network) if data.held_out else train
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

"""What a run is aligned to: the recording, or what a control puts in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import xarray as xr

from repalign.layer_activations import layer_responses
from repalign.networks import Network, load_network
from repalign.recording import select, stimulus_ids
from repalign.regularize.alignment import AlignmentLoss
from repalign.regularize.alignment_terms import AlignmentTerm
from repalign.regularize.control_targets import Teacher
from repalign.regularize.controls import CONTROLS
from repalign.regularize.schedules import Schedule
from repalign.stimuli import Stimuli
from repalign.training.neural import NeuralData
from repalign.training.sections import NamedSection, NeuralSection

NEVER = 1 << 62  # a warm-up that no training outlasts


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

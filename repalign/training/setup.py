"""From a configuration to all that a training run holds."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xarray as xr
from lightning_fabric import Fabric

from repalign.choices import check_known
from repalign.metrics.calls import pick_device
from repalign.networks import Network, load_network
from repalign.regularize.alignment import AlignmentLoss
from repalign.regularize.controls import CONTROLS
from repalign.regularize.objectives import FittedObjective, as_objective
from repalign.stimuli import Stimuli
from repalign.training.augmentation import check_parameters, make_augmentations
from repalign.training.configuration import FinetuneConfig
from repalign.training.loop import Trainer
from repalign.training.neural import (
    NeuralData,
    open_neural,
    unlabelled_task,
)
from repalign.training.neural_targets import make_alignment, with_control
from repalign.training.sections import NamedSection
from repalign.training.step import Objective
from repalign.training.task_data import TaskData, check_labels, load_task
from repalign.training.terms import (
    AdversarialImages,
    TaskTerm,
    count_outputs,
    jitter,
)


class Sources(NamedTuple):
    """The network before training, and what it is trained on."""

    network: Network
    task: TaskData
    neural: NeuralData | None


def open_sources(
    config: FinetuneConfig,
    network: Network | None,
    task: TaskData | None,
    target: xr.Dataset | None,
    stimuli: Stimuli | None,
    stand_in: xr.Dataset | None,
) -> Sources:
    """All that is trained, and on what; what is given twice, or for nothing, is an error."""
    section = config.neural
    if section is None and not (target is None and stimuli is None and stand_in is None):
        raise ValueError("target= is given, but the configuration has no [neural] section")
    if stand_in is not None and config.control is not None:
        raise ValueError(
            f"stand_in= is given, and the configuration has the control {config.control.name!r},"
            " which would take its place; leave one of them out"
        )
    if network is None:
        if config.model is None:
            raise ValueError("the configuration names no model; write model = …, or pass network=")
        degrees = None if section is None else section.visual_degrees
        network = load_network(config.model, visual_degrees=degrees)
    else:
        module = copy.deepcopy(network.module)
        degrees = network.visual_degrees
        if section is not None and section.visual_degrees is not None:
            degrees = section.visual_degrees
        network = replace(network, module=module, visual_degrees=degrees)
    neural = None if section is None else open_neural(section, target, stimuli, stand_in)
    if config.task.data == "none":
        if task is not None:
            raise ValueError('task= is given, but the configuration has task.data = "none"')
        assert neural is not None
        task = unlabelled_task(neural, network)
    elif task is None:
        task = named_task(config, network)
    return Sources(network, task, neural)


def named_task(config: FinetuneConfig, network: Network) -> TaskData:
    """The labelled images that a configuration names, in the network's size."""
    return load_task(
        config.task.data,
        preprocessing=network.preprocessing,
        validation=config.task.validation,
        root=config.task.root,
        download=config.task.download,
    )


def make_fabric(config: FinetuneConfig) -> Fabric:
    """Device, precision and processes of a configuration, launched."""
    training = config.training
    device = pick_device(training.device)
    if training.precision == "16-mixed" and device.type == "cpu":
        raise ValueError(
            "training.precision = '16-mixed' needs a GPU; on a CPU use 'bf16-mixed' or '32-true'"
        )
    if device.index is not None and training.devices > 1:
        raise ValueError(
            f"training.device = {training.device!r} names one device, and training.devices ="
            f" {training.devices}; leave its number out"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning_fabric")
        fabric = Fabric(
            accelerator=device.type,
            devices=training.devices if device.index is None else [device.index],
            strategy=training.strategy,
            precision=training.precision,
        )
        fabric.launch()
    return fabric


def make_trainer(
    config: FinetuneConfig, folder: Path, fabric: Fabric, sources: Sources, *, progress: bool
) -> Trainer:
    """All that a run holds, at its start."""
    network, task, neural = sources
    inputs = {
        "network": network.fingerprint(),
        "task": task.fingerprint(),
        "neural": None if neural is None else neural.fingerprint(),
    }
    labelled = config.task.data != "none"
    n_outputs = count_outputs(network)
    if labelled:
        _check_task(task, n_outputs)
    control = config.control
    attack = None
    augmentations = make_augmentations(config.task.augmentation)
    if control is not None:
        parameters = _control_parameters(control)
        if control.name == "adversarial-training":
            attack = AdversarialImages(**parameters)
        elif control.name == "jitter":
            augmentations = (*augmentations, *jitter(**parameters))
    term = TaskTerm(
        network,
        labelled=labelled,
        attack=attack,
        batchnorm_frozen=config.training.batchnorm == "frozen",
    ).to(fabric.device)
    network.module.to(fabric.device)
    align, watcher = _alignments(config, network, neural)
    _check_purpose(config, align)
    parameters_trained = [p for p in network.module.parameters() if p.requires_grad]
    if align is not None:
        parameters_trained += align.readout_parameters()
    if not parameters_trained:
        raise ValueError(f"{network.name} has no parameters that could be trained")
    optimizer = _made(torch.optim, config.optimizer, parameters_trained, "optimizer")
    scheduler = None
    if config.scheduler is not None:
        scheduler = _made(torch.optim.lr_scheduler, config.scheduler, optimizer, "scheduler")
    objective = Objective(
        config=config,
        fabric=fabric,
        task=term,
        n_outputs=n_outputs,
        name=task.name,
        align=align,
        align_weight=0.0 if align is None else _strength(config),
        label_weight=0.0 if config.neural is None else config.neural.label_weight,
    )
    return Trainer(
        config=config,
        folder=folder,
        fabric=fabric,
        network=network,
        task=task,
        objective=objective,
        watcher=watcher,
        held_out=() if neural is None else neural.held_out,
        optimizer=optimizer,
        stepper=fabric.setup_optimizers(optimizer),
        scheduler=scheduler,
        augmentations=augmentations,
        inputs=inputs,
        progress=progress,
    )


def _check_purpose(config: FinetuneConfig, align: AlignmentLoss | None) -> None:
    if config.task.weight == 0 and align is None:
        raise ValueError(
            "nothing is trained: task.weight is 0, and there is no neural term (a [neural] section"
            " with a weight or a label_weight above 0, and no control that aligns to nothing)"
        )


def _check_task(task: TaskData, n_outputs: int) -> None:
    for name, part in (("train", task.train), ("validation", task.validation)):
        labels = getattr(part, "labels", None)
        if isinstance(labels, torch.Tensor):
            check_labels(labels, n_outputs, f"{task.name} ({name})")


def _control_parameters(control: NamedSection) -> dict[str, Any]:
    """Parameters of a control that trains in another way, with its usual values."""
    check_known(control.name, CONTROLS, "control")
    kept = CONTROLS[control.name]
    if kept.kind == "target":
        return {}
    check_parameters(control.parameters, kept.parameters, control.name)
    return {**kept.parameters, **control.parameters}


def _strength(config: FinetuneConfig) -> float:
    """λ of a run: 0 under a control that aligns to nothing."""
    assert config.neural is not None
    control = config.control
    if control is not None and CONTROLS[control.name].kind == "training":
        return 0.0
    return config.neural.weight


def _alignments(
    config: FinetuneConfig, network: Network, neural: NeuralData | None
) -> tuple[AlignmentLoss | None, AlignmentLoss | None]:
    """The loss that is trained, if any, and what evaluates the recording's held-out stimuli."""
    section, control = config.neural, config.control
    of_control = control is not None and CONTROLS[control.name].kind == "target"
    if section is None or neural is None:
        if of_control:
            raise ValueError(f"control {control.name!r} needs a [neural] section")  # type: ignore[union-attr]
        return None, None
    strength, labels = _strength(config), section.label_weight > 0
    seed, align = config.training.seed, None
    if of_control:
        assert control is not None
        neural = with_control(neural, control, seed=seed, section=section, start=network)
    replaced = neural.stand_in is not None
    target = neural.target if neural.stand_in is None else neural.stand_in
    if strength > 0 or labels:
        align = make_alignment(
            network, section, neural, target, seed=seed, weight=strength, labels=labels
        )
    if not neural.held_out:
        if config.training.monitored != "task":
            raise ValueError(
                f"the monitor is {config.training.monitored!r}, which needs held-out stimuli; set"
                " neural.held_out_stimuli"
            )
        return align, None
    if align is not None and not replaced and strength > 0:
        return align, _with_enough(align, neural)
    if isinstance(as_objective(section.loss), FittedObjective):
        return align, None  # nobody trains read-outs of the recording in this run
    watcher = make_alignment(
        network, section, neural, neural.target, seed=seed, weight=0.0, labels=False
    )
    return align, _with_enough(watcher, neural)


def _with_enough(watcher: AlignmentLoss, neural: NeuralData) -> AlignmentLoss:
    """What evaluates held-out stimuli, if they are as many as its metric needs."""
    needed = max(part.minimum_stimuli for term in watcher.terms for part in term.objectives)
    if len(neural.held_out) < needed:
        raise ValueError(
            f"{len(neural.held_out)} stimuli are held out, and {watcher.terms[0].name} needs"
            f" {needed} or more; raise neural.held_out_stimuli, or set it to 0"
        )
    return watcher


def _made(room: Any, section: NamedSection, first: Any, what: str) -> Any:
    """An object of torch.optim with the parameters of its section."""
    try:
        return getattr(room, section.name)(first, **section.parameters)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key} = {value!r}" for key, value in section.parameters.items())
        raise ValueError(f"{what} {section.name} with {given or 'no keys'}: {error}") from error

"""Fine-tune a network toward a recording, with exact resumption, in one call."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr
from filelock import FileLock, Timeout

from repalign.network_cards import AlignedTo
from repalign.networks import Network
from repalign.regularize.alignment import AlignmentLoss
from repalign.stimuli import Stimuli
from repalign.store import write_file
from repalign.training.configuration import FinetuneConfig, read_config
from repalign.training.gradient_checkpointing import checkpointed
from repalign.training.log import TrainingLog, read_history
from repalign.training.loop import BEST, STATE, Trainer
from repalign.training.released import Released, write_released
from repalign.training.setup import make_fabric, make_trainer, open_sources
from repalign.training.state import (
    FRESH,
    check_fits,
    private_random,
    read_state,
    restore_random_state,
)
from repalign.training.task_data import TaskData

SUMMARY = "finetune.json"


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """A trained network, and where its files are.

    Args:
        folder: of log, state, weights and card.
        network: trained, in evaluation mode, on the CPU.
        history: rows of the log: step, epoch, task_loss, align_loss and label_loss (means since
            the row before), lambda (the weight that the alignment had), val_task (accuracy, or
            agreement with the frozen original), val_alignment (the metric on held-out stimuli; None
            where it needs read-outs that the run does not train), lr.
        weights: the safetensors file.
        card: the model card that names them; None where the network came from no card.
        best: step, value and monitor of the best validation, and its weights.
        ended: ``all steps``, or why the training stopped early.
        is_first_process: whether this is the process that wrote the files.
        report, record: the page on what the training bought, and what it shows, where
            `repalign.finetuning.finetune` made them.
    """

    folder: Path
    network: Network
    history: list[dict[str, Any]]
    weights: Path
    card: Path | None
    best: Mapping[str, Any]
    ended: str
    is_first_process: bool = True
    report: Path | None = None
    record: Mapping[str, Any] | None = None


def train_network(
    config: str | Path | Mapping[str, Any] | FinetuneConfig,
    *,
    network: Network | None = None,
    task: TaskData | None = None,
    target: xr.Dataset | None = None,
    stimuli: Stimuli | None = None,
    stand_in: xr.Dataset | None = None,
    resume: bool = True,
    progress: bool = True,
) -> FinetuneResult:
    """Train a network on a task, toward a recording, and on the labels of its stimuli.

    L = w₀ · CE(task) + λ · g · L_align + w₂ · CE(labels of the neural stimuli)

    with w₀ = ``task.weight``, λ = ``neural.weight``, w₂ = ``neural.label_weight``, and g the
    schedule's weight (`repalign.regularize.Schedule`). With ``task.data = "none"`` the first term
    is KL(frozen original ‖ network) on the neural stimuli that are trained on.

    A run that was killed goes on from its last checkpoint and ends with the same weights, bit by
    bit, as one that was not: order and augmentation of the images, alignment batches and draws are
    functions of the seed and the step (on several devices, dropout after a resumption draws
    anew). With λ = 0 and w₂ = 0 it equals a run without neural part.
    ``accumulate`` splits a task batch into parts, and changes no gradient but by rounding (without
    batch normalisation); the neural batch is never split, because the likeness of a part is no
    part of the likeness. On several devices each has a part of the task batch and the whole neural
    batch. The early stopping monitors held-out stimuli of subjects that are trained on; held-out
    subjects are never looked at.

    Args:
        config: a TOML file, its content, or a `FinetuneConfig`.
        network: in place of the configuration's model; it is copied. With a model beside it the
            card of that model describes the architecture in the card that is written.
        task: in place of ``task.data``.
        target: in place of ``neural.dataset``.
        stimuli: the target's images, where it does not bring its own.
        stand_in: what is aligned to in the target's place, as a control in
            `repalign.regularize.CONTROLS` makes it; held-out stimuli are those of the target.
        resume: go on from a state in the folder; False starts over.
        progress: show a bar on a terminal, lines elsewhere, on stderr.

    Raises:
        ValueError: a configuration, labels, a recording or a state that do not fit.
        DivergedError: a loss that is not finite (a ValueError); the last checkpoint is kept.
        OSError: the disk is full, or another run is writing into the folder.

    Example:
        >>> import tempfile
        >>> done = train_network(
        ...     {"name": "tuned", "model": "digits_cnn", "out": tempfile.mkdtemp(),
        ...      "training": {"steps": 2}},
        ...     progress=False,
        ... )
        >>> done.card.name, done.history[-1]["step"], done.ended
        ('tuned.toml', 2, 'all steps')

    References:
        Dapello, Kar, Schrimpf et al. (2023). Aligning model and macaque inferior temporal cortex
        representations improves model-to-human behavioral alignment and adversarial robustness.
        ICLR. https://openreview.net/forum?id=SMYdcXjJh1q
    """
    config = read_config(config)
    sources = open_sources(config, network, task, target, stimuli, stand_in)
    folder = Path(config.out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    fabric = make_fabric(config)
    training = config.training
    with contextlib.ExitStack() as stack:
        if fabric.is_global_zero:
            stack.enter_context(_alone_in(folder))
        stack.enter_context(
            private_random(
                training.seed + fabric.global_rank,
                fabric.device,
                deterministic=training.deterministic,
            )
        )
        path = folder / STATE
        if not resume and fabric.is_global_zero:
            for old in (path, folder / BEST):
                old.unlink(missing_ok=True)
        fabric.barrier()
        state = read_state(path)
        trainer = make_trainer(config, folder, fabric, sources, progress=progress)
        if state is not None:
            _check_same(trainer, state, path)
            trainer.restore(state)
            restore_random_state(state["random"], fabric.device)
        if training.gradient_checkpointing:
            stack.enter_context(checkpointed(trainer.network.module))
        log = (
            TrainingLog(
                folder,
                size=None if state is None else state["log"],
                step=trainer.place.step,
                tensorboard="tensorboard" in training.log,
            )
            if fabric.is_global_zero
            else None
        )
        with log or contextlib.nullcontext():
            trainer.run(log)
    return _finished(trainer)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; a killed one frees it."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OSError(f"another run is writing into {folder}; wait for it, or set out") from error
    try:
        yield
    finally:
        lock.release()


def _check_same(trainer: Trainer, state: Mapping[str, Any], path: Path) -> None:
    """A run goes on only as what it was."""
    changed = trainer.config.differences(state["config"])
    if changed:
        raise ValueError(
            f"{path} belongs to another configuration: {'; '.join(changed)}; change it back, set"
            f" another out, or {FRESH}"
        )
    check_fits(trainer.network.module, state["network"], path)
    for name, now in trainer.inputs.items():
        if state["inputs"][name] != now:
            raise ValueError(
                f"{path} began with another {name} than this run (their content differs); set"
                f" another out, or {FRESH}"
            )


def _finished(trainer: Trainer) -> FinetuneResult:
    """Write weights, card and summary, and return the network on the CPU."""
    config, folder = trainer.config, trainer.folder
    network = trainer.network
    network.module.cpu().eval()
    best = dict(trainer.watch.best)
    if (folder / BEST).is_file() and best:
        best["weights"] = str(folder / BEST)
    if config.training.keep == "best" and "weights" in best:
        from safetensors.torch import load_file

        network.module.load_state_dict(load_file(best["weights"]))
    trained = Network(
        name=config.name,
        module=network.module,
        preprocessing=network.preprocessing,
        layers=network.layers,
        visual_degrees=network.visual_degrees,
        aligned_to=_aligned_to(trainer) or network.aligned_to,
    )
    first = trainer.fabric.is_global_zero
    files = Released(folder / f"{config.name}.safetensors", None)
    if first:
        text = _description(trainer)
        files = write_released(
            trained, folder, name=config.name, model=config.model, description=text
        )
        write_file(folder / SUMMARY, json.dumps(_summary(trainer, best, files), indent=1))
    weights, card = trainer.fabric.broadcast(files)
    return FinetuneResult(
        folder=folder,
        network=trained,
        history=read_history(folder),
        weights=weights,
        card=card,
        best=best,
        ended=trainer.place.ended,
        is_first_process=first,
    )


def _summary(trainer: Trainer, best: Mapping[str, Any], files: Released) -> dict[str, Any]:
    """What stands in the folder's summary."""
    return {
        "name": trainer.config.name,
        "ended": trainer.place.ended,
        "steps": trainer.place.step,
        "epochs": trainer.place.epoch,
        "best": best,
        "weights": files.weights.name,
        "card": None if files.card is None else files.card.name,
        "inputs": trainer.inputs,
        "configuration": trainer.config.to_dict(),
    }


def _description(trainer: Trainer) -> str:
    config, section = trainer.config, trainer.config.neural
    start = config.model or "a network given as an object"
    said = f"{start}, trained for {trainer.place.step} steps on {trainer.task.name}"
    objective = trainer.objective
    if section is not None and objective.align_weight > 0:
        layers = ", ".join(section.layers)
        attrs = {} if objective.align is None else _attributes(objective.align)
        name = attrs.get("title") or attrs.get("dataset") or section.dataset or "a recording"
        said += f"; {layers} drawn to {name} by {section.loss} with weight {section.weight:g}"
        if "control" in attrs:
            said += f", through its control {attrs['control']}"
    elif config.control is not None:
        said += f"; control: {config.control.name}"
    return f"{said}. Seed {config.training.seed}."


def _aligned_to(trainer: Trainer) -> AlignedTo | None:
    """The stimuli that the run trained on, by whatever they were labelled or answered."""
    align = trainer.objective.align
    if align is None:
        return None
    return AlignedTo(
        dataset=_attributes(align).get("dataset"), stimulus_ids=tuple(align.batches.ids)
    )


def _attributes(align: AlignmentLoss) -> Mapping[str, Any]:
    return next(iter(align.batches.recordings.values())).attrs

"""The loop of a training run: steps, validation, checkpoints, and what is best so far."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from repalign.metrics.calls import NotFiniteError
from repalign.networks import Network
from repalign.regularize.alignment import AlignmentLoss
from repalign.regularize.alignment_terms import UndefinedLossError
from repalign.training.augmentation import Augmentation
from repalign.training.configuration import FinetuneConfig
from repalign.training.log import TrainingLog
from repalign.training.released import write_weights
from repalign.training.state import (
    DivergedError,
    check_finite,
    random_state,
    write_state,
)
from repalign.training.step import Objective
from repalign.training.task_batches import epoch_order, iterate_batches
from repalign.training.task_data import TaskData
from repalign.training.watch import Watch

STATE = "state.pt"
BEST = "best.safetensors"


@dataclass
class Place:
    """How far a run is: steps taken, the epoch, batches of it that are done, and why it ended."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    ended: str = ""


@dataclass(kw_only=True)
class Trainer:
    """All that a training run holds while it runs.

    Args:
        config: of the run.
        folder: of checkpoints and log.
        fabric: device, precision and processes.
        network: in training, on its device.
        task: images of the task term.
        objective: the loss.
        watcher: evaluates the alignment on held-out stimuli; None where there are none.
        held_out: these stimuli.
        optimizer: as torch made it; ``stepper`` is Fabric's view of it.
        scheduler: of the learning rate.
        augmentations: of the task's images.
        inputs: fingerprints of what went in.
        progress: whether to show a bar or lines on stderr.
    """

    config: FinetuneConfig
    folder: Path
    fabric: Fabric
    network: Network
    task: TaskData
    objective: Objective
    watcher: AlignmentLoss | None
    held_out: tuple[str, ...]
    optimizer: torch.optim.Optimizer
    stepper: Any
    scheduler: Any
    augmentations: tuple[Augmentation, ...]
    inputs: dict[str, str | None]
    progress: bool = True
    place: Place = field(default_factory=Place)
    watch: Watch = field(default_factory=Watch)
    sums: dict[str, list[float]] = field(default_factory=dict)
    closer: float = 1.0  # -1 where the alignment is measured by a distance

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch; a last one that is too small for batch normalisation is left out."""
        size, total = self.config.task.batch_size, len(self.task.train)
        whole, rest = divmod(total, size)
        found = whole + (rest >= max(2, self.fabric.world_size))
        if not found:
            raise ValueError(f"the task has {total} training images, too few to train on")
        return found

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        training = self.config.training
        return training.steps or (training.epochs or 0) * self.batches_per_epoch

    def run(self, log: TrainingLog | None) -> None:
        """Train from where ``place`` is to the end, or until validation stops improving.

        Args:
            log: of the first process; None in the others, which write nothing.
        """
        every = self.config.training.checkpoint_every
        if self.place.step == 0 and self.place.epoch == 0:
            self._validate(log)
        if self.place.step < self.total_steps and self.place.ended == "all steps":
            self.place.ended = ""  # a longer training than before
        bar = self._bar()
        while not self.place.ended:
            for batch, full in self._epoch():
                self._step(*batch, full)
                bar.update()
                self.place.position += 1
                if self.place.step >= self.total_steps:
                    break
                if self._epoch_is_over():
                    continue
                if self.place.step % self.config.training.log_every == 0:
                    self._write(log, {})
                if every and self.place.step % every == 0:
                    self.save(log)
            if self._epoch_is_over():
                self.place.epoch, self.place.position = self.place.epoch + 1, 0
                self._step_schedule("epoch")
            if self.place.step >= self.total_steps:
                self.place.ended = "all steps"
            self._validate(log)
            self.save(log)
        bar.close()

    def _epoch_is_over(self) -> bool:
        return self.place.position >= self.batches_per_epoch

    def _epoch(self) -> Iterator[tuple[tuple[Tensor, Tensor], int]]:
        """What is left of the epoch: this process' part of each batch, and the whole's size."""
        size, seed = self.config.task.batch_size, self.config.training.seed
        order = epoch_order(len(self.task.train), seed=seed, epoch=self.place.epoch)
        batches = [order[i * size : (i + 1) * size] for i in range(self.batches_per_epoch)]
        batches = batches[self.place.position :][: self.total_steps - self.place.step]
        rank, world = self.fabric.global_rank, self.fabric.world_size
        read = iterate_batches(
            self.task.train,
            [batch[rank::world] for batch in batches],
            workers=self.config.task.workers,
            augmentations=self.augmentations,
            seed=seed,
            epoch=self.place.epoch,
        )
        yield from zip(read, map(len, batches), strict=True)

    def _step(self, images: Tensor, labels: Tensor, full: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        step, state = self.place.step + 1, self.folder / STATE
        try:
            losses = self.objective.gradients(images, labels, full=full, step=self.place.step)
        except UndefinedLossError as error:
            raise DivergedError(error.kind, error.value, step, state, detail=str(error)) from error
        found = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
        for name, value in found.items():
            if not math.isfinite(value):
                raise DivergedError(name, value, step, state)
        clip = self.config.training.clip_norm
        if clip is not None:
            self.fabric.clip_gradients(
                self.network.module, self.stepper, max_norm=clip, error_if_nonfinite=False
            )
        self.stepper.step()
        self.place.step = step
        self._step_schedule("step")
        if "alignment" in found:
            align = self.objective.align
            assert align is not None
            found["lambda"] = self.objective.align_weight * align.last_weight
            if not align.last:  # the schedule left this step out
                del found["alignment"]
        for name, value in found.items():
            total = self.sums.setdefault(name, [0.0, 0.0])
            total[0] += value
            total[1] += 1

    def _step_schedule(self, per: str) -> None:
        section = self.config.scheduler
        if section is not None and section.per == per:
            with warnings.catch_warnings():  # the scaler may have left the first step out
                warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*")
                self.scheduler.step()

    def _validate(self, log: TrainingLog | None) -> None:
        """Evaluate, write a row, and see whether anything improved."""
        task, alignment = self.fabric.broadcast((self._task_score(), self._alignment_score()))
        self._write(log, {"val_task": task, "val_alignment": alignment})
        if self.place.step == 0:
            return
        likeness = None if alignment is None else self.closer * alignment
        scores = {"task": task, "alignment": likeness}
        is_best = self.watch.see(scores, self.config.training, self.place.step)
        if is_best and self.fabric.is_global_zero:
            check_finite(self.network.module, self.place.step, self.folder / STATE)
            write_weights(self.folder / BEST, self.network.module)
        self.place.ended = self.place.ended or self.watch.enough(self.config.training)

    def _task_score(self) -> float:
        """Share of the validation images with the right label, or the original's prediction."""
        part, size = self.task.validation, self.config.task.batch_size
        batches = [range(i, min(i + size, len(part))) for i in range(0, len(part), size)]
        right = 0
        self.objective.task.pixels.eval()
        read = iterate_batches(part, batches, workers=self.config.task.workers)
        for images, labels in read:
            with self.fabric.autocast():
                right += self.objective.task.correct(*self.fabric.to_device((images, labels)))
        return right / len(part)

    def _alignment_score(self) -> float | None:
        """The metric of the neural terms on held-out stimuli, their mean; None if undefined."""
        if self.watcher is None:
            return None
        try:
            rows = self.watcher.evaluate(list(self.held_out), ceiling=False)
        except NotFiniteError as error:  # weights that are finite, and a layer that is not
            what, state = "the alignment on held-out stimuli", self.folder / STATE
            raise DivergedError(
                what, math.nan, self.place.step, state, detail=str(error)
            ) from error
        value = sum(float(row["value"]) for row in rows) / len(rows)
        self.closer = 1.0 if all(row["higher_is_more_similar"] for row in rows) else -1.0
        return value if math.isfinite(value) else None

    def _write(self, log: TrainingLog | None, validation: dict[str, Any]) -> None:
        """A row with the means since the last one; none where there is nothing to say."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        if not means and not validation:
            return
        row = {
            "step": self.place.step,
            "epoch": self.place.epoch,
            "task_loss": means.get("task"),
            "align_loss": means.get("alignment"),
            "label_loss": means.get("labels"),
            "lambda": means.get("lambda", 0.0),
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            **validation,
        }
        if log is not None:
            log.write(row)
        first = self.fabric.is_global_zero
        if validation and first and self.progress and not sys.stderr.isatty():
            said = [f"{k} {v:.3f}" for k, v in row.items() if isinstance(v, float) and k != "lr"]
            print(f"step {row['step']}/{self.total_steps}: {', '.join(said)}", file=sys.stderr)

    def _bar(self) -> Any:
        return tqdm(
            total=self.total_steps,
            initial=self.place.step,
            desc=self.config.name,
            unit="step",
            leave=False,
            disable=not (self.progress and sys.stderr.isatty() and self.fabric.is_global_zero),
        )

    def save(self, log: TrainingLog | None) -> None:
        """Write the state; a weight that is not finite raises instead."""
        if log is None:
            return
        align = self.objective.align
        for module in (self.network.module, align):
            if module is not None:
                check_finite(module, self.place.step, self.folder / STATE)
        write_state(
            self.folder / STATE,
            {
                "config": self.config.to_dict(),
                "inputs": self.inputs,
                "place": vars(self.place).copy(),
                "watch": vars(self.watch).copy(),
                "sums": self.sums,
                "log": log.size(),
                "network": self.network.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
                "alignment": None if align is None else align.state_dict(),
                "random": random_state(self.fabric.device),
            },
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.network.module.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.objective.align is not None:
            self.objective.align.load_state_dict(state["alignment"])
        self.place, self.watch = Place(**state["place"]), Watch(**state["watch"])
        self.sums = {name: list(total) for name, total in state["sums"].items()}

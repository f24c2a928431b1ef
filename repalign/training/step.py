"""One training step's gradients: the task term, the neural terms, and their sum over processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor

from repalign.regularize.alignment import AlignmentLoss
from repalign.regularize.alignment_terms import UndefinedLossError
from repalign.training.configuration import FinetuneConfig
from repalign.training.task_data import check_labels
from repalign.training.terms import TaskTerm


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The terms of the loss, with their weights.

    Args:
        config: of the run.
        fabric: device, precision and processes.
        task: the task's term.
        n_outputs: of the network, which labels must not reach.
        name: of the task data.
        align: the neural terms; None where none is trained.
        align_weight, label_weight: of the neural terms.
    """

    config: FinetuneConfig
    fabric: Fabric
    task: TaskTerm
    n_outputs: int
    name: str
    align: AlignmentLoss | None
    align_weight: float
    label_weight: float

    def gradients(
        self, images: Tensor, labels: Tensor, *, full: int, step: int
    ) -> dict[str, Tensor]:
        """Leave the gradients of all terms in the parameters, and return the losses by name.

        Args:
            images, labels: this process' part of the task batch.
            full: size of the whole task batch.
            step: steps that were taken before.

        Raises:
            UndefinedLossError: a neural loss is not finite, though the task's is.
        """
        self.task.train()
        losses: dict[str, Tensor] = {}
        if self.config.task.weight > 0:
            losses["task"] = self._of_task(images, labels, full, step)
        try:
            losses |= self._of_neural_batch(step)
        except UndefinedLossError:
            if "task" in losses and not bool(losses["task"].isfinite()):
                return losses  # the network was lost before
            raise
        if self.fabric.world_size > 1:
            self._share(losses)
        return losses

    def _of_task(self, images: Tensor, labels: Tensor, full: int, step: int) -> Tensor:
        """Add the gradients of the task term, in ``accumulate`` parts; return its loss."""
        if self.task.original is None:
            check_labels(labels, self.n_outputs, self.name)
        seed, weight = self.config.training.seed, self.config.task.weight
        loss = torch.zeros((), device=self.fabric.device)
        parts = min(self.config.training.accumulate, len(images))
        for number, (x, y) in enumerate(
            zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
        ):
            x, y = self.fabric.to_device((x, y))
            entropy = (seed, step, number, self.fabric.global_rank)
            x = self.task.attacked(x, y, *entropy)
            with self.fabric.autocast():
                part = self.task.loss(x, y) * (len(x) / full)
            self.fabric.backward(part * weight)
            loss += part.detach()
        return loss

    def _of_neural_batch(self, step: int) -> dict[str, Tensor]:
        """Add the gradients of the neural terms, every process those of the whole batch."""
        if self.align is None:
            return {}
        try:
            with self.fabric.autocast():
                terms = self.align.forward_terms()
        except UndefinedLossError:
            raise
        except ValueError as error:
            raise ValueError(f"step {step + 1}, alignment term: {error}") from error
        losses: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.fabric.device)
        if self.align_weight > 0:
            total = total + self.align_weight * terms.alignment
            raw = [self.align.last.get(term.name) for term in self.align.terms]
            values = [value.to(total) for value in raw if value is not None]
            losses["alignment"] = torch.stack(values).mean() if values else total.detach()
        if self.label_weight > 0:
            total = total + self.label_weight * terms.labels
            losses["labels"] = terms.labels.detach()
        if total.requires_grad and bool(total.isfinite()):
            self.fabric.backward(total / self.fabric.world_size)
        return losses

    def _share(self, losses: dict[str, Tensor]) -> None:
        """Sum gradients and the task's loss over processes."""
        readouts = [] if self.align is None else self.align.readout_parameters()
        for parameter in (*self.task.pixels.parameters(), *readouts):
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.copy_(self._sum(parameter.grad))
        if "task" in losses:
            losses["task"] = self._sum(losses["task"])

    def _sum(self, tensor: Tensor) -> Tensor:
        summed = self.fabric.all_reduce(tensor, reduce_op="sum")
        assert isinstance(summed, Tensor)
        return summed

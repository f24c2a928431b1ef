"""The sections of a fine-tuning configuration, each value with its range."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from repalign.regularize.objectives import as_objective

Monitor = Literal["task", "alignment", "both"]
NOT_IN_WORDS = (
    "ChainedScheduler",
    "LambdaLR",
    "MultiplicativeLR",
    "ReduceLROnPlateau",
    "SequentialLR",
)


class Section(BaseModel):
    """Frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NamedSection(Section):
    """A name with parameters of its own: every key that a section does not declare is one."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """What stands in the section beside the fields that it declares."""
        return dict(self.model_extra or {})


class TaskSection(Section):
    """Images with labels, or what stands in for them."""

    data: str = "digits"
    root: str | None = None
    download: bool = False
    batch_size: int = Field(default=128, ge=1)
    validation: float = Field(default=0.2, gt=0, lt=1)
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    workers: int = Field(default=0, ge=0)
    augmentation: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)

    @field_validator("data")
    @classmethod
    def _data(cls, value: str) -> str:
        kind, _, rest = value.partition(":")
        if kind not in ("digits", "none", "imagefolder", "torchvision", "zarr") or (
            (kind in ("digits", "none")) == bool(rest)
        ):
            raise ValueError(
                'expected "digits", "imagefolder:PATH", "torchvision:NAME", "zarr:PATH" or "none"'
            )
        return value

    @model_validator(mode="after")
    def _root(self) -> TaskSection:
        of_torchvision = self.data.startswith("torchvision:")
        if of_torchvision and self.root is None:
            raise ValueError(f'data = {self.data!r} needs root = "the folder of its files"')
        if not of_torchvision and (self.root is not None or self.download):
            raise ValueError(f"root and download are for torchvision data, not {self.data!r}")
        return self


class NeuralSection(Section):
    """The recording that the network is drawn to, and how strongly."""

    dataset: str | None = None
    select: Mapping[str, Any] = Field(default_factory=dict)
    layers: tuple[str, ...] | Mapping[str, str] = ()
    loss: str = "debiased-cka"
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    batch_size: int = Field(default=128, ge=2)
    warm_up: int = Field(default=0, ge=0)
    ramp: int = Field(default=0, ge=0)
    mix_rate: float = Field(default=1.0, gt=0, le=1)
    batchnorm: Literal["separate", "shared", "frozen"] = "separate"
    held_out_stimuli: float | tuple[str, ...] = 0.2
    held_out_subjects: tuple[str, ...] = ()
    labels: str | None = None
    label_weight: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    visual_degrees: float | None = Field(default=None, gt=0)

    @field_validator("layers", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("loss")
    @classmethod
    def _loss(cls, value: str) -> str:
        as_objective(value)  # raises, naming those that can be trained on
        return value

    @field_validator("held_out_stimuli")
    @classmethod
    def _share(cls, value: float | tuple[str, ...]) -> float | tuple[str, ...]:
        if isinstance(value, float) and not 0 <= value < 1:
            raise ValueError("expected a share from 0 to below 1, or a list of stimulus ids")
        return value

    @model_validator(mode="after")
    def _together(self) -> NeuralSection:
        if not self.layers:
            raise ValueError('expected layers = ["a layer"], or a table {layer = "region"}')
        if self.label_weight > 0 and self.labels is None:
            raise ValueError(
                f"label_weight = {self.label_weight} needs labels ="
                ' "a coordinate of the recording\'s presentations"'
            )
        return self


class OptimizerSection(NamedSection):
    """Any optimizer of `torch.optim` with its own parameters.

    Without a name it is SGD, with a learning rate of .001 and Nesterov momentum of .9 where no
    other is given.
    """

    name: str = "SGD"

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "name" in data:
            return data
        nesterov = data.get("momentum", 0.9) != 0
        return {"name": "SGD", "lr": 1e-3, "momentum": 0.9, "nesterov": nesterov, **data}

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return _class_in(torch.optim, torch.optim.Optimizer, value, "LBFGS", "SparseAdam")


class SchedulerSection(NamedSection):
    """Any schedule of `torch.optim.lr_scheduler` whose parameters are numbers and words.

    Not those that take functions, other schedules, or the values of validation.
    """

    per: Literal["step", "epoch"] = "epoch"

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        kind = torch.optim.lr_scheduler.LRScheduler
        return _class_in(torch.optim.lr_scheduler, kind, value, *NOT_IN_WORDS)


class EarlyStopping(Section):
    """Stop where validation has not improved for a while."""

    monitor: Monitor = "both"
    patience: int = Field(default=5, ge=1)
    minimum_change: float = Field(default=0.0, ge=0)


class TrainingSection(Section):
    """How long, on what, and what is kept."""

    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    devices: int = Field(default=1, ge=1)
    strategy: Literal["auto", "ddp", "ddp_spawn"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accumulate: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = False
    clip_norm: float | None = Field(default=None, gt=0)
    batchnorm: Literal["update", "frozen"] = "update"
    checkpoint_every: int | None = Field(default=None, ge=1)
    log: tuple[Literal["csv", "tensorboard"], ...] = ("csv",)
    log_every: int = Field(default=10, ge=1)
    deterministic: bool = False
    early_stopping: EarlyStopping | None = None
    monitor: Monitor = "task"
    keep: Literal["last", "best"] = "last"

    @field_validator("log")
    @classmethod
    def _log(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "csv" not in value:
            raise ValueError('expected "csv" among them: the history is read from it')
        return value

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            if data.get("epochs") is not None and data.get("steps") is not None:
                raise ValueError(
                    f"epochs = {data['epochs']} and steps = {data['steps']}: give one of them"
                )
            if data.get("epochs") is None and data.get("steps") is None:
                data = {**data, "epochs": 10}
        return data

    @model_validator(mode="after")
    def _one_monitor(self) -> TrainingSection:
        if self.early_stopping is not None and "monitor" in self.model_fields_set:
            raise ValueError("monitor is also given by early_stopping: leave one of them out")
        return self

    @property
    def monitored(self) -> Monitor:
        """What decides which weights are best."""
        return self.monitor if self.early_stopping is None else self.early_stopping.monitor


def _class_in(module: Any, kind: type, name: str, *without: str) -> str:
    known = [
        key
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, kind) and not key.startswith("_")
    ]
    known = [key for key in known if key not in (kind.__name__, *without)]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"expected one of {', '.join(sorted(known))}{hint}")
    return name

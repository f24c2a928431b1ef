"""The configuration of a fine-tuning run: one TOML file, every key checked before work begins."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from repalign.card_schemas import NAME
from repalign.training.sections import (
    NamedSection,
    NeuralSection,
    OptimizerSection,
    SchedulerSection,
    Section,
    TaskSection,
    TrainingSection,
)

# What may differ between a run and its resumption, because no number depends on it.
FREE = ("out", "task.workers", "training.checkpoint_every", "training.log")

INSTEAD = {"training.steps": "epochs", "training.epochs": "steps"}  # one replaces the other


class FinetuneConfig(Section):
    """All that decides a fine-tuning run.

    Args:
        name: of the run and of the model card that it writes.
        model: name or path of a model card, ``NAME@random:SEED`` for an untrained twin; None
            where the network is given as an object.
        out: folder of checkpoints, logs, weights and card.
        task: images with labels (see `repalign.training.task_data.load_task`).
        neural: the recording, its layers, loss and weight; None: the task alone.
        optimizer, scheduler: names in `torch.optim` with their parameters.
        training: length, seed, device, precision, checkpoints, logs.
        control: name of a control with its parameters (see `repalign.regularize.controls`).

    Example:
        >>> config = read_config({"name": "tuned", "model": "digits_cnn", "out": "runs"})
        >>> config.training.epochs, config.task.data
        (10, 'digits')
    """

    name: str = Field(pattern=NAME)
    model: str | None = None
    out: str
    task: TaskSection = Field(default_factory=TaskSection)
    neural: NeuralSection | None = None
    optimizer: OptimizerSection = Field(default_factory=lambda: OptimizerSection.model_validate({}))
    scheduler: SchedulerSection | None = None
    training: TrainingSection = Field(default_factory=lambda: TrainingSection.model_validate({}))
    control: NamedSection | None = None

    @field_validator("control", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _together(self) -> FinetuneConfig:
        if self.neural is None and self.task.data == "none":
            raise ValueError('task.data = "none" needs a [neural] section: there is nothing to do')
        if self.neural is None and self.training.monitored != "task":
            raise ValueError(
                f"the monitor is {self.training.monitored!r}, which needs a [neural] section"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value, defaults too, as JSON has them."""
        return self.model_dump(mode="json")

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What differs from an earlier run's `to_dict`, but for keys that change no number.

        A longer training is no difference: the first steps of both are the same.
        """
        ours, theirs = flatten(self.to_dict()), flatten(other)
        changed = []
        for key in sorted(ours.keys() | theirs.keys()):
            old, new = theirs.get(key), ours.get(key)
            longer = (
                key in ("training.epochs", "training.steps")
                and isinstance(old, int)
                and isinstance(new, int)
                and new > old
            )
            if key not in FREE and old != new and not longer:
                changed.append(f"{key} was {json.dumps(old)} and is {json.dumps(new)}")
        return changed


def read_config(
    source: str | Path | Mapping[str, Any] | FinetuneConfig,
    *,
    changes: Iterable[str] = (),
    kind: type[FinetuneConfig] = FinetuneConfig,
) -> FinetuneConfig:
    """Read and check a configuration; relative paths in a file are relative to that file.

    Args:
        source: path of a TOML file, its content as a mapping, or a configuration as it is.
        changes: ``section.key=value`` with the value as TOML writes it; a bare word is a string.
        kind: `FinetuneConfig`, or a class that adds sections to it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown key (near matches are given), or a value out of range; all that
            is wrong is said at once.

    Example:
        >>> read_config({"name": "a", "out": "b"}, changes=["training.epochs=3"]).training.epochs
        3
    """
    changes = list(changes)
    if isinstance(source, kind) and not changes:
        return source
    if isinstance(source, FinetuneConfig):
        source = source.model_dump(exclude_unset=True)
    data, where, folder = load_toml(source)
    for change in changes:
        data = changed(data, change)
    config = validated(data, kind, where)
    return config if folder is None else _anchored(config, folder)


def load_toml(source: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], str, Path | None]:
    """The content of a TOML file or a mapping, how errors call it, and the folder of its paths.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not TOML.
    """
    if isinstance(source, Mapping):
        return dict(source), "configuration", None
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no configuration at {path}; give the path of a TOML file")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"configuration {path} is not valid TOML: {error}") from error
    return data, f"configuration {path}", path.parent.resolve()


Model = TypeVar("Model", bound=BaseModel)


def validated(data: Mapping[str, Any], kind: type[Model], where: str) -> Model:
    """A configuration of some kind; all that is wrong is said at once, after ``where``."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ValueError(f"{where}: {_explain(error, kind)}") from error


def known_keys(model: type[BaseModel] = FinetuneConfig, prefix: str = "") -> list[str]:
    """Every key of a configuration with its section, such as ``neural.weight``.

    Example:
        >>> "neural.weight" in known_keys()
        True
    """
    keys: list[str] = []
    for name in model.model_fields:
        section = _section(model, name)
        inner = [] if section is None else known_keys(section, f"{prefix}{name}.")
        keys += inner or [f"{prefix}{name}"]
    return keys


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` → ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def changed(data: Mapping[str, Any], change: str) -> dict[str, Any]:
    """The content of a configuration with one ``section.key=value``, the value as in TOML."""
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{change!r}: expected SECTION.KEY=VALUE, such as neural.weight=0.5")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *sections, last = key.strip().split(".")
    result = dict(data)
    inner = result
    for section in sections:
        before = inner.get(section) or {}
        if not isinstance(before, Mapping):
            raise ValueError(f"{change!r}: {section} is {before!r}, which has no keys of its own")
        inner[section] = dict(before)
        inner = inner[section]
    inner[last] = value
    inner.pop(INSTEAD.get(key.strip(), ""), None)
    return result


def _anchored(config: FinetuneConfig, folder: Path) -> FinetuneConfig:
    """The configuration with its relative paths taken from the folder of its file."""

    def at(text: str) -> str:
        return str(folder / Path(text).expanduser())

    def file_or_name(text: str) -> str:
        looks_like_a_path = text.rstrip("/").endswith((".toml", ".zarr")) or "/" in text
        return at(text) if looks_like_a_path and "://" not in text else text

    task = config.task
    kind, _, path = task.data.partition(":")
    if kind in ("imagefolder", "zarr"):
        task = task.model_copy(update={"data": f"{kind}:{at(path)}"})
    if task.root is not None:
        task = task.model_copy(update={"root": at(task.root)})
    changes: dict[str, Any] = {"out": at(config.out), "task": task}
    if config.model is not None:
        changes["model"] = file_or_name(config.model)
    if config.neural is not None and config.neural.dataset is not None:
        dataset = file_or_name(config.neural.dataset)
        changes["neural"] = config.neural.model_copy(update={"dataset": dataset})
    return config.model_copy(update=changes)


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The class of a section, also where it may be left out."""
    annotation = model.model_fields[name].annotation
    kinds = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
    return next((one for one in kinds if issubclass(one, BaseModel)), None)


def _fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at a location knows."""
    for part in location:
        section = _section(model, str(part)) if part in model.model_fields else None
        if section is None:
            break
        model = section
    return list(model.model_fields)


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """All complaints in one line: key, value, expectation."""
    complaints = []
    for item in error.errors(include_url=False):
        location = item["loc"]
        key = ".".join(map(str, location))
        if item["type"] == "missing":
            complaints.append(f"key {key!r} is missing")
        elif item["type"] == "extra_forbidden":
            known = _fields(kind, location[:-1])
            near = difflib.get_close_matches(str(location[-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            complaints.append(f"unknown key {key!r}; {hint}")
        else:
            value = "" if isinstance(item["input"], Mapping) else f" = {item['input']!r}"
            message = item["msg"].removeprefix("Value error, ")
            complaints.append(f"{key}{value}: {message}" if key else message)
    return "; ".join(dict.fromkeys(complaints))

"""The configuration of a study: one TOML file, every key checked before work begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from repalign.cards import NAME
from repalign.choices import parse_choice
from repalign.memory import parse_size
from repalign.metrics import METRICS, Metric
from repalign.recording_ceilings import CeilingChoice
from repalign.store import local_folder
from repalign.training.configuration import load_toml, validated
from repalign.training.sections import Section


class RecordingEntry(Section):
    """Recordings of a study, or the same part of each.

    Args:
        name: of a dataset card, path of a card or store, or a pattern of either.
        select: conditions that all hold, such as ``region=IT`` or ``subject=BE,KO``.
    """

    name: str = Field(min_length=1)
    select: tuple[str, ...] = ()

    @field_validator("select")
    @classmethod
    def _conditions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            name, equals, values = one.partition("=")
            if not (name and equals and values):
                raise ValueError(f"{one!r}: expected NAME=VALUE, such as region=IT")
        return tuple(sorted(value))


class InferenceSection(Section):
    """What stands beside each value; see `repalign.compare`."""

    n_resamples: int | None = Field(default=None, ge=0)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    null_draws: int | None = Field(default=None, ge=0)
    ceiling: CeilingChoice = "auto"
    seed: int = Field(default=0, ge=0)


class RunSection(Section):
    """Where and with what a study runs; no number depends on it.

    Args:
        workers: processes of this machine that share the comparisons; None: this process alone.
        memory: most that recording a network may hold, such as ``"4GB"``.
        to: folder of stores and results; ``$REPALIGN_CACHE`` or the user's cache by default.
        mirror: folder searched for files before the network.
    """

    workers: int | None = Field(default=None, ge=1)
    memory: str | None = None
    to: str | None = None
    mirror: str | None = None

    @field_validator("memory")
    @classmethod
    def _size(cls, value: str | None) -> str | None:
        if value is not None:
            parse_size(value)
        return value


class StudyConfig(Section):
    """All that decides a study: recordings × models × layers × metrics.

    Args:
        name: of the study and of its folder of results.
        recordings: names, paths or patterns; as tables where a part is selected.
        models: model cards, their twins (``NAME@random:SEED``), stores of activations, or
            patterns of either.
        exclude: patterns of models to leave out.
        layers: names or patterns, for all models; a model whose card has one layer keeps it. Or a
            table: patterns of models, each with its layers. By default those of the cards.
        metrics: such as ``"rsa:comparator=spearman"``; see `repalign.choices.parse_choice`.
        inference: intervals, nulls, ceilings and the seed.
        run: where and with what it runs.

    Example:
        >>> read_study({"name": "a", "recordings": "b", "models": "c", "metrics": "cka"}).metrics
        ('cka',)
    """

    name: str = Field(pattern=NAME)
    recordings: tuple[RecordingEntry, ...] = Field(min_length=1)
    models: tuple[str, ...] = Field(min_length=1)
    exclude: tuple[str, ...] = ()
    layers: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    metrics: tuple[str, ...] = Field(min_length=1)
    inference: InferenceSection = InferenceSection()
    run: RunSection = RunSection()

    @field_validator("recordings", mode="before")
    @classmethod
    def _entries(cls, value: Any) -> Any:
        entries = [value] if isinstance(value, str | Mapping) else value
        if not isinstance(entries, list | tuple):
            return entries
        return tuple({"name": one} if isinstance(one, str) else one for one in entries)

    @field_validator("models", "exclude", "metrics", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("layers", mode="before")
    @classmethod
    def _by_model(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            value = {"*": value}
        return {k: (v,) if isinstance(v, str) else v for k, v in value.items()}

    @field_validator("layers")
    @classmethod
    def _some_layers(cls, value: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        empty = [name for name, layers in value.items() if not layers]
        if empty:
            raise ValueError("expected one or more layers or patterns; leave it out for the card's")
        return value

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        metrics = [parse_choice(text, METRICS, "metric") for text in value]
        for place, (text, one) in enumerate(zip(value, metrics, strict=True)):
            if one in metrics[:place]:
                raise ValueError(f"{text!r} stands twice, with the same parameters")
        return value

    @field_validator("recordings", "models")
    @classmethod
    def _once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        for place, one in enumerate(value):
            if one in value[:place]:
                raise ValueError(f"{getattr(one, 'name', one)!r} stands twice")
        return value

    def parsed_metrics(self) -> dict[str, Metric]:
        """The metrics as objects, by their words."""
        return {text: parse_choice(text, METRICS, "metric") for text in self.metrics}

    @property
    def folder(self) -> Path:
        """Where the results lie."""
        return local_folder(self.run.to) / "studies" / self.name

    @property
    def where(self) -> dict[str, Any]:
        """``to`` and ``mirror``, as `repalign.ingest` takes them."""
        return {"to": self.run.to, "mirror": self.run.mirror}


def read_study(source: str | Path | Mapping[str, Any] | StudyConfig) -> StudyConfig:
    """Read and check the configuration of a study; its relative paths are relative to its file.

    Args:
        source: path of a TOML file, its content as a mapping, or a configuration as it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown key or metric (near matches are given), or a value out of range; all
            that is wrong is said at once.
    """
    if isinstance(source, StudyConfig):
        return source
    data, where, folder = load_toml(source)
    config = validated(data, StudyConfig, where)
    return config if folder is None else _anchored(config, folder)


def looks_like_a_path(text: str) -> bool:
    """Whether a word, or a pattern, names files rather than a card."""
    return "/" in text or text.endswith((".toml", ".zarr", ".zarr.zip"))


def _anchored(config: StudyConfig, folder: Path) -> StudyConfig:
    def at(text: str) -> str:
        return str(folder / Path(text).expanduser())

    def file_or_name(text: str) -> str:
        return at(text) if looks_like_a_path(text) and "://" not in text else text

    run = config.run
    moved: dict[str, Any] = {
        key: at(value)
        for key, value in (("to", run.to), ("mirror", run.mirror))
        if value is not None
    }
    return config.model_copy(
        update={
            "recordings": tuple(
                one.model_copy(update={"name": file_or_name(one.name)}) for one in config.recordings
            ),
            "models": tuple(map(file_or_name, config.models)),
            "exclude": tuple(map(file_or_name, config.exclude)),
            "run": run.model_copy(update=moved),
        }
    )

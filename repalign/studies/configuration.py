"""The configuration of a study: one TOML file, every key checked before work begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from repalign.card_schemas import NAME
from repalign.local_files import write_file
from repalign.memory import parse_size
from repalign.metrics import Metric
from repalign.store import local_folder
from repalign.studies.cluster_section import ClusterSection
from repalign.studies.metric_entries import InferenceSection, MetricEntry
from repalign.training.configuration import changed, load_toml, validated
from repalign.training.sections import Section

CONFIGURATION = "study.json"  # in a study's folder: how it was configured when it last ran


class RecordingEntry(Section):
    """Recordings of a study, or the same part of each.

    Args:
        name: of a dataset card, path of a card or store, or a pattern of either.
        select: conditions that all hold, such as ``region=IT`` or ``subject=BE,KO``: the part is a
            recording of its own, with ceilings of its own.
        species, region, subject: names or patterns of what is compared; all by default. The
            recording stays whole, with the same results and ceilings; others are left out.
        exclude: patterns of models that it is not compared with.
    """

    name: str = Field(min_length=1)
    select: tuple[str, ...] = ()
    species: tuple[str, ...] = ()
    region: tuple[str, ...] = ()
    subject: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @field_validator("select", "species", "region", "subject", "exclude", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("select")
    @classmethod
    def _conditions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            name, equals, values = one.partition("=")
            if not (name and equals and values):
                raise ValueError(f"{one!r}: expected NAME=VALUE, such as region=IT")
        return tuple(sorted(value))


class RunSection(Section):
    """Where and with what a study runs; no number depends on it.

    Args:
        workers: processes of this machine that share the work; None: this process alone.
        scheduler: address of a Dask scheduler, such as ``tcp://head:8786``.
        memory: most that a process that records a network may hold, such as ``"4GB"``.
        to: folder of stores and results; ``$REPALIGN_CACHE`` or the user's cache by default.
        mirror: folder searched for files before the network.
    """

    workers: int | None = Field(default=None, ge=1)
    scheduler: str | None = None
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
        models: model cards, their twins (``NAME@random:SEED``), paths of stores of activations
            (`repalign.record`, autoencoders, the ``layers.zarr`` of a rollout), or patterns of
            either. Another brain as a model: ``@DATASET``, or the path of a recording; its
            (species, region, subject) groups are its layers.
        exclude: patterns of models to leave out.
        layers: names or patterns, for all models; a model with one layer keeps it, and so does a
            brain its groups. Or a table: patterns of models, each with its layers. By default
            those of the cards, and all of a store.
        metrics: such as ``"rsa:comparator=spearman"``, or tables with settings of their own; see
            `MetricEntry`.
        inference: intervals, nulls, ceilings and the seed.
        run: where and with what it runs.
        cluster: jobs of a batch system that it runs in.

    Example:
        >>> study = {"name": "a", "recordings": "b", "models": "c"}
        >>> one = {"name": "ridge", "parameters": {"folds": 4}, "n_resamples": 0}
        >>> [entry.word for entry in read_study(study | {"metrics": ["cka", one]}).metrics]
        ['cka', 'ridge:folds=4']
    """

    name: str = Field(pattern=NAME)
    recordings: tuple[RecordingEntry, ...]
    models: tuple[str, ...] = Field(min_length=1)
    exclude: tuple[str, ...] = ()
    layers: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    metrics: tuple[MetricEntry, ...]
    inference: InferenceSection = InferenceSection()
    run: RunSection = RunSection()
    cluster: ClusterSection | None = None

    @field_validator("recordings", "metrics", mode="before")
    @classmethod
    def _entries(cls, value: Any) -> Any:
        entries = [value] if isinstance(value, str | Mapping) else value
        if not isinstance(entries, list | tuple):
            return entries
        if not entries:
            raise ValueError("expected at least 1, for the grid would be empty")
        return tuple({"name": one} if isinstance(one, str) else one for one in entries)

    @field_validator("models", "exclude", mode="before")
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
    def _each_metric_once(cls, value: tuple[MetricEntry, ...]) -> tuple[MetricEntry, ...]:
        metrics = [entry.metric for entry in value]
        for place, entry in enumerate(value):
            if entry.metric in metrics[:place]:
                raise ValueError(f"{entry.word!r} stands twice, with the same parameters")
        return value

    @model_validator(mode="after")
    def _settings_apply(self) -> StudyConfig:
        for entry in self.metrics:
            entry.check(self.inference)
        return self

    @field_validator("recordings", "models")
    @classmethod
    def _once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        for place, one in enumerate(value):
            if one in value[:place]:
                raise ValueError(f"{getattr(one, 'name', one)!r} stands twice")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> StudyConfig:
        places = {
            "run.workers": self.run.workers,
            "run.scheduler": self.run.scheduler,
            "[cluster]": self.cluster,
        }
        given = [name for name, value in places.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; a study runs in one place")
        return self

    def parsed_metrics(self) -> dict[str, Metric]:
        """The metrics as objects, by their words."""
        return {entry.word: entry.metric for entry in self.metrics}

    def settings(self) -> dict[str, InferenceSection]:
        """What stands beside the values of each metric, by its words."""
        return {entry.word: entry.settings(self.inference) for entry in self.metrics}

    @property
    def folder(self) -> Path:
        """Where the results lie."""
        return local_folder(self.run.to) / "studies" / self.name

    @property
    def where(self) -> dict[str, Any]:
        """``to`` and ``mirror``, as `repalign.ingest` takes them."""
        return {"to": self.run.to, "mirror": self.run.mirror}


def read_study(
    source: str | Path | Mapping[str, Any] | StudyConfig, *, changes: Iterable[str] = ()
) -> StudyConfig:
    """Read and check the configuration of a study; its relative paths are relative to its file.

    Args:
        source: path of a TOML file, its content as a mapping, or a configuration as it is.
        changes: ``section.key=value`` with the value as TOML writes it; a bare word is a string.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown key or metric (near matches are given), or a value out of range; all
            that is wrong is said at once.
    """
    changes = list(changes)
    if isinstance(source, StudyConfig):
        if not changes:
            return source
        source = source.model_dump(exclude_unset=True)
    data, where, folder = load_toml(source)
    for change in changes:
        data = changed(data, change)
    config = validated(data, StudyConfig, where)
    return config if folder is None else _anchored(config, folder)


def keep_configuration(config: StudyConfig) -> None:
    """Write a configuration, its paths absolute, into the study's folder, for its report."""
    write_file(config.folder / CONFIGURATION, config.model_dump_json(indent=1))


def looks_like_a_path(text: str) -> bool:
    """Whether a word, or a pattern, names files rather than a card."""
    return "/" in text or text.endswith((".toml", ".zarr", ".zarr.zip"))


def _anchored(config: StudyConfig, folder: Path) -> StudyConfig:
    def at(text: str) -> str:
        return str(folder / Path(text).expanduser())

    def file_or_name(text: str) -> str:
        return at(text) if looks_like_a_path(text) and "://" not in text else text

    run, cluster = config.run, config.cluster
    moved: dict[str, Any] = {
        key: at(value)
        for key, value in (("to", run.to), ("mirror", run.mirror))
        if value is not None
    }
    return config.model_copy(
        update={
            "recordings": tuple(
                one.model_copy(
                    update={
                        "name": file_or_name(one.name),
                        "exclude": tuple(map(file_or_name, one.exclude)),
                    }
                )
                for one in config.recordings
            ),
            "models": tuple(map(file_or_name, config.models)),
            "exclude": tuple(map(file_or_name, config.exclude)),
            "run": run.model_copy(update=moved),
            "cluster": None if cluster is None else cluster.with_logs_at(folder),
        }
    )

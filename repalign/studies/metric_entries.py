"""A metric of a study with its parameters, and what stands beside its values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import Field, model_validator

from repalign.choices import parse_choice
from repalign.metrics import METRICS, RSA, Metric
from repalign.recording_ceilings import CeilingChoice
from repalign.scoring import settings_that_count
from repalign.training.sections import Section

OWN = ("n_resamples", "confidence", "null_draws", "ceiling")
MANY = 10**6  # stimuli, with which no null is drawn by default


class InferenceSection(Section):
    """What stands beside each value; see `repalign.compare`."""

    n_resamples: int | None = Field(default=None, ge=0)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    null_draws: int | None = Field(default=None, ge=0)
    ceiling: CeilingChoice = "auto"
    seed: int = Field(default=0, ge=0)


class MetricEntry(Section):
    """A metric of a study; what is not given is that of ``[inference]``.

    Args:
        name: of the metric, or in the words of the command line: ``"rsa:comparator=corr"``.
        parameters: those that differ from their defaults, as a table.
        recordings: names or patterns of the recordings that it is for; all by default.
        n_resamples, confidence, null_draws, ceiling: of this metric alone.

    Example:
        >>> MetricEntry(name="rsa", parameters={"comparator": "corr"}).word
        'rsa:comparator=corr'
    """

    name: str = Field(min_length=1)
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    recordings: tuple[str, ...] = ()
    n_resamples: int | None = Field(default=None, ge=0)
    confidence: float | None = Field(default=None, gt=0, lt=1)
    null_draws: int | None = Field(default=None, ge=0)
    ceiling: CeilingChoice | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_or_more(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("recordings"), str):
            return {**data, "recordings": (data["recordings"],)}
        return data

    @model_validator(mode="after")
    def _known(self) -> MetricEntry:
        twice = [key for key in self.parameters if f"{key}=" in self.name.partition(":")[2]]
        if twice:
            raise ValueError(f"{twice[0]!r} stands in name = {self.name!r} and under parameters")
        assert self.metric is not None
        return self

    @property
    def word(self) -> str:
        """The metric in the words of the command line."""
        if not self.parameters:
            return self.name
        given = ",".join(f"{key}={_in_words(value)}" for key, value in self.parameters.items())
        return f"{self.name}{',' if ':' in self.name else ':'}{given}"

    @cached_property
    def metric(self) -> Metric:
        """The metric as an object."""
        metric: Metric = parse_choice(self.word, METRICS, "metric")
        return metric

    def settings(self, shared: InferenceSection) -> InferenceSection:
        """What stands beside its values, given what stands beside those of all metrics."""
        own = {key: getattr(self, key) for key in OWN if getattr(self, key) is not None}
        return shared.model_copy(update=own)

    def check(self, shared: InferenceSection) -> None:
        """Refuse a setting that would count for nothing.

        Raises:
            ValueError: resamples or a confidence of a metric without such an interval, or the
                ceiling over subjects of one that compares no RDMs.
        """
        settings = self.settings(shared)
        if settings.ceiling == "nili" and not isinstance(self.metric, RSA):
            raise ValueError(
                f"ceiling = 'nili' is over subjects' RDMs, and {self.word} has none; give this"
                ' metric another: {name = "' + self.name + '", ceiling = "auto"}'
            )
        other = settings.confidence / 2
        changes: dict[str, dict[str, Any]] = {
            "n_resamples": {"n_resamples": (self.n_resamples or 0) + 1},
            "confidence": {"confidence": other},
        }
        for key, change in changes.items():
            if getattr(self, key) and _counting(self.metric, settings) == _counting(
                self.metric, settings.model_copy(update=change)
            ):
                raise ValueError(
                    f"{key} = {getattr(self, key)} does not count for {self.word}, which has no"
                    " such interval; leave it out"
                )


def _counting(metric: Metric, settings: InferenceSection) -> dict[str, Any]:
    chosen = settings.model_dump(exclude={"ceiling"})
    return settings_that_count(metric, MANY, **chosen)


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

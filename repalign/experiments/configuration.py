"""The configuration of an experiment: a fine-tuning run, its controls, and how they are tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from repalign.choices import check_known, parse_choice
from repalign.regularize.controls import CONTROLS
from repalign.robustness import ATTACKS, Attack
from repalign.robustness.corruptions import CORRUPTIONS
from repalign.robustness.curves import check_units
from repalign.training.configuration import FinetuneConfig, read_config

BASELINE = "baseline"
ALIGNED = "aligned"
SIMPLE_EPS = (0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExperimentSection(_Section):
    """What the aligned network is compared with, how often, and at which strength.

    Args:
        controls: names in `repalign.regularize.controls.CONTROLS`; ``"all"`` for all of them.
        seeds: one paired run of every condition a seed; ``training.seed`` alone by default.
        tune: choose each condition's strength so that its clean accuracy is that of the aligned
            network; else all take ``neural.weight``.
        strengths: candidates of the tuning: λ, or a factor on the parameters of a control that
            trains in another way.
        dose: further λ of the aligned network, for the dose–response curve.
        labels: coordinate with the class of each neural stimulus, for controls that need it;
            ``neural.labels`` by default.
        teacher: model card of the ordinary network for the non-robust teacher; by default a
            baseline of another seed, or without task data the network before training.
        other_region: selection of the same recording for the control of another region.
        parameters: of controls, by name.
        held_out_neuroids: share of neuroids that are not aligned to, for the audit, where no
            subjects are held out.
        workers: processes that share the runs, and the cores, between them.
        audit_stimuli: most trained, and most held-out, stimuli that the audit looks at.
        held_out_recordings: further recordings, of other stimuli, that the audit looks at.
    """

    controls: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = None
    tune: bool = False
    strengths: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    dose: tuple[float, ...] = ()
    labels: str | None = None
    teacher: str | None = None
    other_region: Mapping[str, Any] = Field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    held_out_neuroids: float = Field(default=0.0, ge=0, lt=1)
    audit_stimuli: int = Field(default=500, ge=20)
    workers: int = Field(default=1, ge=1)
    held_out_recordings: tuple[str, ...] = ()

    @field_validator("controls", mode="before")
    @classmethod
    def _all(cls, value: Any) -> Any:
        words = (value,) if isinstance(value, str) else tuple(value)
        if words == ("all",):
            return tuple(CONTROLS)
        for word in words:
            check_known(word, CONTROLS, "control")
        return words

    @field_validator("seeds", "strengths", "dose")
    @classmethod
    def _each_once(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is None:
            return None
        if len(set(value)) < len(value) or any(not 0 <= one < 1e9 for one in value):
            raise ValueError("expected different numbers of 0 or more")
        return value

    @field_validator("seeds", "strengths")
    @classmethod
    def _some(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value == ():
            raise ValueError("expected one or more")
        return value

    @field_validator("parameters")
    @classmethod
    def _of_controls(cls, value: Mapping[str, Mapping[str, Any]]) -> Any:
        for name, parameters in value.items():
            check_known(name, CONTROLS, "control")
            unknown = sorted(set(parameters) - set(CONTROLS[name].parameters))
            if unknown:
                known = ", ".join(CONTROLS[name].parameters) or "none"
                raise ValueError(f"{name} has no parameter {unknown[0]!r}; it has {known}")
        return value


class RobustnessSection(_Section):
    """How robustness is measured.

    Args:
        attacks: such as ``pgd:steps=20`` or ``apgd:norm=L2``; names in
            `repalign.robustness.ATTACKS`.
        eps: sizes of the perturbation, in pixels from 0 to 1; 0 is the clean accuracy.
        images: most images that are attacked, the first of the test part.
        corruptions: names of common corruptions; ``"all"``.
        masking: whether gradient masking is looked for, in the first seed of each condition.
        masking_images: most images that it is looked for with.
        human_choices: CSV for the error patterns: a line with the names of the classes, then a
            line of counts of human choices for each image of the test part, in its order.
    """

    attacks: tuple[str, ...] = ("pgd:steps=20",)
    eps: tuple[float, ...] = SIMPLE_EPS
    images: int = Field(default=500, ge=1)
    batch_size: int = Field(default=128, ge=1)
    corruptions: tuple[str, ...] = ()
    masking: bool = True
    masking_images: int = Field(default=200, ge=30)
    human_choices: str | None = None

    @field_validator("attacks", mode="before")
    @classmethod
    def _attacks(cls, value: Any) -> Any:
        words = (value,) if isinstance(value, str) else tuple(value)
        attacks = [parse_choice(word, ATTACKS, "attack") for word in words]
        if not attacks or any(one in attacks[:place] for place, one in enumerate(attacks)):
            raise ValueError("expected one or more attacks, each once")
        return words

    @field_validator("eps")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) < 2 or any(b <= a for a, b in pairwise(value)):
            raise ValueError("expected two or more sizes in ascending order")
        if value[0] < 0:
            raise ValueError("expected sizes of 0 or more")
        return value

    @field_validator("corruptions", mode="before")
    @classmethod
    def _corruptions(cls, value: Any) -> Any:
        words = (value,) if isinstance(value, str) else tuple(value)
        if words == ("all",):
            return tuple(CORRUPTIONS)
        for word in words:
            check_known(word, CORRUPTIONS, "corruption")
        return words

    @model_validator(mode="after")
    def _in_units_of_pixels(self) -> RobustnessSection:
        for attack in self.parsed():
            check_units(self.eps, attack.norm, (0.0, 1.0))
        return self

    def parsed(self) -> list[Attack]:
        """The attacks as objects."""
        return [parse_choice(word, ATTACKS, "attack") for word in self.attacks]


class ExperimentConfig(FinetuneConfig):
    """A fine-tuning run with its controls and tests; further sections of the same file.

    Example:
        >>> from repalign.training.configuration import read_config
        >>> data = {"name": "a", "model": "digits_cnn", "out": "b"}
        >>> read_config(data, kind=ExperimentConfig).seeds
        (0,)
    """

    experiment: ExperimentSection = ExperimentSection()
    robustness: RobustnessSection = RobustnessSection()

    @property
    def seeds(self) -> tuple[int, ...]:
        """One paired run of every condition each."""
        given = self.experiment.seeds
        return (self.training.seed,) if given is None else given

    def for_run(self, **sections: Any) -> FinetuneConfig:
        """The configuration of one run, with other sections in place of its own."""
        kept = {name: getattr(self, name) for name in FinetuneConfig.model_fields}
        return FinetuneConfig.model_construct(**{**kept, **sections})


def experiment_config(
    source: str | Path | Mapping[str, Any] | FinetuneConfig,
    *,
    changes: Sequence[str] = (),
) -> ExperimentConfig:
    """Read a configuration with its [experiment] and [robustness] sections."""
    config = read_config(source, changes=changes, kind=ExperimentConfig)
    assert isinstance(config, ExperimentConfig)
    return config

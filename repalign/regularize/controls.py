"""Controls: what else than the brain's answers could have brought the robustness.

An aligned network is compared with its unaligned twin and with twins that were aligned to
something else, or trained in another way, with the same seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import xarray as xr

from repalign.regularize.control_targets import (
    Teacher,
    gaussian_noise,
    label_geometry,
    named_control,
    principal_components,
    region_of_another,
    row_shuffled,
    shuffled_within_classes,
    spectrum_matched,
    teacher_population,
)
from repalign.regularize.target_responses import Labels

NEEDS = MappingProxyType(
    {
        "labels": "the neural stimuli have no class labels",
        "teacher": "no features of an ordinary network were given",
        "other_region": "no other region or population was recorded with the same stimuli",
        "task_labels": "the task has no labels",
    }
)


@dataclass(frozen=True, kw_only=True)
class Control:
    """One control: another target, or another way to train without any.

    Args:
        name: in `CONTROLS`.
        title: for figures and tables.
        description: what it keeps, what it takes away, and what it rules out, in one sentence.
        kind: ``target`` makes a recording that is aligned to in the brain's place; ``training``
            aligns to nothing and changes how the task is trained.
        needs: what must be there: ``labels`` (of the neural stimuli), ``teacher``,
            ``other_region``, ``task_labels``.
        parameters: of ``kind="target"``, what may be set in a call, with its usual value; of
            ``kind="training"``, what the trainer takes.
        make: of ``kind="target"``, the function that makes it.
        may_use: what it uses where it is given, besides ``needs``.
        upper_bound: whether it optimises robustness itself, so that it is no rival but a bound.

    Example:
        >>> import numpy as np
        >>> from repalign.recording import make_recording
        >>> ids = ["a", "b", "c"]
        >>> target = make_recording(np.eye(3), stimulus_id=ids, region="IT")
        >>> shuffled = CONTROLS["row-shuffle"](target, seed=0)
        >>> shuffled.attrs["control"], bool((shuffled.response.values * np.eye(3)).any())
        ('row-shuffle', False)
    """

    name: str
    title: str
    description: str
    kind: Literal["target", "training"] = "target"
    needs: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[..., xr.Dataset] | None = None
    may_use: tuple[str, ...] = ()
    upper_bound: bool = False

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        unknown = [name for name in (*self.needs, *self.may_use) if name not in NEEDS]
        if unknown:
            raise ValueError(f"{self.name} needs {unknown[0]!r}; expected some of {list(NEEDS)}")
        if self.kind not in ("target", "training"):
            raise ValueError(f"kind is {self.kind!r}; expected target or training")
        if (self.make is None) != (self.kind == "training"):
            raise ValueError(f"{self.name}: make= goes with kind='target', and only with that")

    def applicable(self, available: Collection[str]) -> str | None:
        """Return None, or in one sentence why the control cannot be made of what there is.

        Args:
            available: those of ``labels``, ``teacher``, ``other_region``, ``task_labels`` that
                there are.

        Example:
            >>> CONTROLS["one-hot"].applicable({"teacher"})
            'not applicable: the neural stimuli have no class labels.'
        """
        unknown = sorted(set(available) - set(NEEDS))
        if unknown:
            raise ValueError(f"available has {unknown[0]!r}; expected some of {list(NEEDS)}")
        missing = [NEEDS[name] for name in self.needs if name not in available]
        return f"not applicable: {', and '.join(missing)}." if missing else None

    def __call__(
        self,
        target: xr.Dataset,
        *,
        seed: int,
        labels: Labels | None = None,
        teacher: Teacher | None = None,
        other: xr.Dataset | None = None,
        **parameters: Any,
    ) -> xr.Dataset:
        """Make the target that stands in for ``target``.

        All controls take the same materials, so that a loop over them needs no special cases;
        each uses those in ``needs`` and ``may_use``.

        Args:
            target: the recording: ``response(presentation, neuroid)``, lazily opened or not. A
                presentation that is NaN in all neuroids is missing.
            seed: of what is drawn. rank-k and one-hot draw nothing and are the same for all.
            labels: class of each stimulus, in the order of `repalign.recording.stimulus_ids`, or
                the name of a coordinate on presentation.
            teacher: features of an ordinary network's layer, stimulus × unit in that order, or a
                function from the list of stimulus ids to them.
            other: a recording of another region with the same stimulus ids.
            **parameters: as in ``parameters``: rank-k has ``k``.

        Returns:
            A recording of the same stimuli, whose images are found where the target's are, with
            ``control`` and ``control_seed`` in its attributes.

        Raises:
            TypeError: this control is a way to train, or has no such parameter.
            ValueError: a material is missing or does not fit the target.
        """
        if self.make is None:
            raise TypeError(
                f"{self.name} is a way to train, not a target: it aligns to nothing; give the"
                f" trainer its parameters, {dict(self.parameters)}"
            )
        unknown = sorted(set(parameters) - set(self.parameters))
        if unknown:
            known = ", ".join(self.parameters) or "none"
            raise TypeError(f"{self.name} has no parameter {unknown[0]!r}; it has {known}")
        given = {"labels": labels, "teacher": teacher, "other_region": other}
        missing = [name for name in self.needs if given.get(name) is None]
        if missing:
            argument = ARGUMENTS.get(missing[0], missing[0])
            raise ValueError(f"{self.name} needs {argument}=: {NEEDS[missing[0]]}")
        used = {
            ARGUMENTS.get(name, name): given[name]
            for name in (*self.needs, *self.may_use)
            if given[name] is not None
        }
        made = self.make(target, seed=seed, **used, **parameters)
        return named_control(made, name=self.name, seed=seed)


ARGUMENTS = MappingProxyType({"other_region": "other"})  # what a need is called in a call


def _without_seed(make: Callable[..., xr.Dataset]) -> Callable[..., xr.Dataset]:
    def made(target: xr.Dataset, *, seed: int, **material: Any) -> xr.Dataset:  # draws nothing
        return make(target, **material)

    return made


_EVERY = (
    Control(
        name="row-shuffle",
        title="Rows shuffled",
        description=(
            "Each stimulus has the responses to another: every neuroid's distribution and the"
            " geometry of the code are kept, which stimulus it belongs to is not."
        ),
        make=row_shuffled,
    ),
    Control(
        name="within-class-shuffle",
        title="Shuffled within classes",
        description=(
            "Each stimulus has the responses to another of its class: what the brain says of"
            " classes is kept, what it says of single images is not."
        ),
        needs=("labels",),
        make=shuffled_within_classes,
    ),
    Control(
        name="gaussian",
        title="Gaussian noise",
        description=(
            "Independent normal responses with each neuroid's mean and spread: neither stimuli nor"
            " correlations between neuroids are kept."
        ),
        make=gaussian_noise,
    ),
    Control(
        name="spectrum-matched",
        title="Random, same spectrum",
        description=(
            "Random responses with exactly the neuroid covariance of the average responses, and so"
            " with their eigenspectrum, but no information about the stimuli."
        ),
        make=spectrum_matched,
    ),
    Control(
        name="rank-k",
        title="First k components",
        description=(
            "The average responses reduced to their first k principal components (k: the number of"
            " classes less one, or 10 without labels): whether a few dimensions do."
        ),
        parameters={"k": None},
        may_use=("labels",),
        make=_without_seed(principal_components),
    ),
    Control(
        name="one-hot",
        title="Label geometry",
        description=(
            "One neuroid a class, without noise: whether knowing the classes of the stimuli is"
            " enough, without a brain."
        ),
        needs=("labels",),
        make=_without_seed(label_geometry),
    ),
    Control(
        name="non-robust-teacher",
        title="Non-robust teacher",
        description=(
            "A simulated population, as large and as reliable, that reads out an ordinary network:"
            " whether any good visual code does."
        ),
        needs=("teacher",),
        make=teacher_population,
    ),
    Control(
        name="other-region",
        title="Another region",
        description=(
            "Responses of another region to the same stimuli, with no more neuroids: whether the"
            " region matters."
        ),
        needs=("other_region",),
        make=region_of_another,
    ),
    Control(
        name="jitter",
        title="Augmentation only",
        description=(
            "No alignment: the task's images are jittered, as a rival that needs no recording."
        ),
        kind="training",
        parameters=MappingProxyType(
            {"noise_sd": 0.05, "crop_padding": 1, "flip": False, "brightness": 0.1, "contrast": 0.1}
        ),
    ),
    Control(
        name="adversarial-training",
        title="Adversarial training",
        description=(
            "No alignment: the task is trained on adversarial images, which optimises the measure"
            " itself and so is an upper bound; without task labels they are sought against the"
            " frozen original's own predictions."
        ),
        kind="training",
        parameters=MappingProxyType(
            {"norm": "Linf", "eps": 8 / 255, "steps": 7, "step_size": None, "share": 1.0}
        ),
        upper_bound=True,
    ),
)
CONTROLS: dict[str, Control] = {control.name: control for control in _EVERY}

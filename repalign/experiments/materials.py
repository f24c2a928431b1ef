"""What an experiment is made of: the recording in its parts, the task, networks, and teachers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from repalign.cards import load_model_card, split_twin
from repalign.experiments.configuration import ExperimentConfig
from repalign.networks import Network, load_network
from repalign.opening import open_recording
from repalign.recording import NEUROID, SUBJECT, select
from repalign.regularize.target_responses import stimulus_labels
from repalign.shards import fingerprint
from repalign.training.neural import NeuralData, named_target, open_neural
from repalign.training.setup import named_task
from repalign.training.task_data import TaskData

TEACHER_SEED = 1000  # of the baseline that teaches, so that it is none of the compared ones


@dataclass(frozen=True, kw_only=True)
class Materials:
    """All that the runs of one experiment share.

    Args:
        config: of the experiment.
        recording: all stimuli and neuroids.
        others: further recordings that nothing is trained on, by name.
        task: labelled images; None where there are none.
        network: one given as an object, in place of the configuration's model.
        other_region: recording of another region, where the configuration selects one.
    """

    config: ExperimentConfig
    recording: xr.Dataset
    others: Mapping[str, xr.Dataset]
    task: TaskData | None
    network: Network | None = None
    other_region: xr.Dataset | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The aligned layers."""
        assert self.config.neural is not None
        return tuple(self.config.neural.layers)

    @cached_property
    def neural(self) -> NeuralData:
        """The recording's part that is aligned to, its stimuli split for all runs alike."""
        assert self.config.neural is not None
        section = self.config.neural.model_copy(update={"select": {}, "held_out_subjects": ()})
        part = self.recording.isel({NEUROID: np.flatnonzero(self.trained_neuroids)})
        return open_neural(section, part, None)

    @property
    def held_out_stimuli(self) -> tuple[str, ...]:
        """Stimuli that no run is aligned to: the same for all of them."""
        return self.neural.held_out

    @property
    def trained_stimuli(self) -> tuple[str, ...]:
        """The other stimuli."""
        return self.neural.trained

    @cached_property
    def trained_neuroids(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which neuroids are aligned to: subjects are held out, or else a share of neuroids."""
        assert self.config.neural is not None
        subjects = self.recording[SUBJECT].values.astype(str)
        held = self.config.neural.held_out_subjects
        if held:
            unknown = sorted(set(held) - set(subjects))
            if unknown:
                raise ValueError(
                    f"held_out_subjects names {unknown[0]!r}; the recording has"
                    f" {', '.join(sorted(set(subjects)))}"
                )
            return ~np.isin(subjects, held)
        count = len(subjects)
        left_out = round(self.config.experiment.held_out_neuroids * count)
        kept = np.ones(count, dtype=bool)
        kept[np.random.default_rng(1).permutation(count)[:left_out]] = False
        return kept

    @cached_property
    def labels(self) -> str | None:
        """The coordinate of the neural stimuli's classes, where the configuration names one."""
        assert self.config.neural is not None
        name = self.config.experiment.labels or self.config.neural.labels
        if name is not None:
            stimulus_labels(self.recording, name)  # raises, before anything is trained
        return name

    @property
    def untrained(self) -> bool:
        """Whether the configuration's model has random weights, which then differ between seeds."""
        assert self.config.model is not None
        base, twin = split_twin(self.config.model)
        return twin is not None or load_model_card(base).weights == "random"

    def start(self, seed: int) -> Network:
        """The network before training: new random weights a seed, or the trained ones."""
        if self.network is not None:
            return self.network
        assert self.config.model is not None
        if not self.untrained:
            return load_network(self.config.model)
        base, twin = split_twin(self.config.model)
        return load_network(f"{base}@random:{(twin or 0) + seed}")

    def teacher(self) -> Network:
        """The ordinary network that the configuration names, or the one before training."""
        named = self.config.experiment.teacher
        return load_network(named) if named else self.start(0)

    @cached_property
    def fingerprint(self) -> list[str | None]:
        """What goes into every run: recordings, the network before training, and the task."""
        recordings = [self.recording, *self.others.values()]
        recordings += [] if self.other_region is None else [self.other_region]
        found = [str(one.attrs.get("fingerprint") or fingerprint(one)) for one in recordings]
        found.append(self.start(0).fingerprint())
        return [*found, None if self.task is None else self.task.fingerprint()]

    def environment(self) -> dict[str, Any]:
        """Versions that a number may depend on."""
        import platform

        import torch

        from repalign import __version__

        return {
            "repalign": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        }

    def citations(self) -> list[str]:
        """What to cite: recordings and network."""
        found = [
            str(one.attrs["citation"])
            for one in (self.recording, *self.others.values())
            if one.attrs.get("citation")
        ]
        if self.config.model is not None:
            found.append(load_model_card(split_twin(self.config.model)[0]).citation)
        return list(dict.fromkeys(filter(None, found)))

    def available(self) -> set[str]:
        """The needs of controls that are met (see `repalign.regularize.controls.NEEDS`)."""
        found = {"teacher"}
        if self.labels is not None:
            found.add("labels")
        if self.other_region is not None:
            found.add("other_region")
        if self.task is not None:
            found.add("task_labels")
        return found


def gather_materials(
    config: ExperimentConfig,
    *,
    network: Network | None = None,
    task: TaskData | None = None,
    target: xr.Dataset | None = None,
    to: str | Path | None = None,
) -> Materials:
    """Read the recording and the task that a configuration names, where they are not given.

    Raises:
        ValueError: no [neural] section, neither a dataset nor ``target``, or another region of a
            recording that is not named.
    """
    if config.neural is None:
        raise ValueError("an experiment needs a [neural] section: there is nothing to align to")
    if target is None:
        target = named_target(config.neural, to=to)
        if config.neural.select:
            target = select(target, **config.neural.select)
    found = Materials(
        config=config,
        recording=target,
        others={
            name: open_recording(name, to=to) for name in config.experiment.held_out_recordings
        },
        task=task,
        network=network,
        other_region=_other_region(config, to=to),
    )
    if task is not None or config.task.data == "none":
        return found
    return replace(found, task=named_task(config, found.start(0)))


def _other_region(config: ExperimentConfig, *, to: str | Path | None) -> xr.Dataset | None:
    wanted = config.experiment.other_region
    if not wanted:
        return None
    assert config.neural is not None
    if config.neural.dataset is None:
        raise ValueError(
            "experiment.other_region selects from neural.dataset, which is missing: name the"
            " recording there, beside target= too"
        )
    return select(named_target(config.neural, to=to), **wanted)

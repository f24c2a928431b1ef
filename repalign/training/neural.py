"""The neural part of a training run: the recording, its stimuli, and what is held out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from repalign.networks import Network, preprocess
from repalign.opening import open_recording
from repalign.recording import PRESENTATION, STIMULUS, SUBJECT, is_rdm_only, select, stimulus_ids
from repalign.shards import fingerprint
from repalign.stimuli import Stimuli, open_stimuli
from repalign.training.sections import NeuralSection
from repalign.training.task_images import SPLIT_SEED, TaskData


@dataclass(frozen=True, kw_only=True)
class NeuralData:
    """A recording with its parts.

    Args:
        whole: the recording as it was given, before anything was selected.
        target: the subjects trained on, all stimuli.
        stimuli: the images; None where the recording brings its own.
        trained, held_out: ids of the stimuli trained on, and of the others.
        stand_in: what is aligned to in the target's place; held-out stimuli are the target's.
    """

    whole: xr.Dataset
    target: xr.Dataset
    stimuli: Stimuli | None
    trained: tuple[str, ...]
    held_out: tuple[str, ...]
    stand_in: xr.Dataset | None = None

    @property
    def images(self) -> Stimuli:
        """The images of all stimuli."""
        return self.stimuli or open_stimuli(self.target)

    def trained_part(self, recording: xr.Dataset) -> xr.Dataset:
        """The presentations of the stimuli that are trained on."""
        trained, names = set(self.trained), recording[STIMULUS].values
        rows = [row for row, name in enumerate(names) if str(name) in trained]
        return recording.isel({PRESENTATION: rows})

    def fingerprint(self) -> str:
        """sha256 of what is trained on: the recording's content, its neuroids and stimuli."""
        words: list[Any] = []
        for part in (self.target, self.stand_in):
            if part is not None:
                names = [part[name].values.tolist() for name in ("neuroid_id", SUBJECT, "region")]
                words += [_content(part), names]
        words.append(self.trained)
        return f"sha256:{hashlib.sha256(repr(words).encode()).hexdigest()}"


def _content(recording: xr.Dataset) -> tuple[str, Any, Any]:
    attrs = recording.attrs
    content = attrs.get("fingerprint") or fingerprint(recording)
    return content, attrs.get("control"), attrs.get("control_seed")


def open_neural(
    section: NeuralSection,
    target: xr.Dataset | None,
    stimuli: Stimuli | None,
    stand_in: xr.Dataset | None = None,
) -> NeuralData:
    """The recording of a configuration, or the one given, split into trained and held out.

    The split is drawn once and for all: it does not depend on the seed of the training.

    Raises:
        ValueError: no recording, unknown stimuli or subjects, or nothing left to train on.
    """
    whole = target = named_target(section) if target is None else target
    if is_rdm_only(target) or "response" not in target:
        raise ValueError("the target holds no responses; published RDMs cannot be trained on")
    if section.select:
        target = select(target, **section.select)
    if section.labels is not None and section.labels not in target.coords:
        known = [str(name) for name in target.coords if target[name].dims == (PRESENTATION,)]
        raise ValueError(f"neural.labels is {section.labels!r}; there are {', '.join(known)}")
    if section.held_out_subjects:
        subjects = list(dict.fromkeys(map(str, target[SUBJECT].values)))
        unknown = [name for name in section.held_out_subjects if name not in subjects]
        if unknown:
            raise ValueError(
                f"neural.held_out_subjects names {unknown[0]!r}; there are {', '.join(subjects)}"
            )
        kept = [name for name in subjects if name not in section.held_out_subjects]
        if not kept:
            raise ValueError(
                "neural.held_out_subjects names all subjects: none is left to train on"
            )
        target = select(target, **{SUBJECT: kept})
    trained, held_out = split_stimuli(stimulus_ids(target), section.held_out_stimuli)
    return NeuralData(
        whole=whole,
        target=target,
        stimuli=stimuli,
        trained=trained,
        held_out=held_out,
        stand_in=stand_in,
    )


def named_target(section: NeuralSection, *, to: str | Path | None = None) -> xr.Dataset:
    """The recording that a configuration names, before anything is selected."""
    if section.dataset is None:
        raise ValueError("neural.dataset is missing: name a recording, or pass target=")
    return open_recording(section.dataset, to=to)


def split_stimuli(
    ids: Sequence[str], held_out: float | tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stimuli to train on, and those held out: named, or a share drawn once and for all."""
    if isinstance(held_out, tuple):
        unknown = [name for name in held_out if name not in set(ids)]
        if unknown:
            raise ValueError(
                f"neural.held_out_stimuli names {unknown[0]!r}, which was not recorded"
                f" ({len(unknown)} of {len(held_out)} are unknown)"
            )
        chosen = set(held_out)
    else:
        order = np.random.default_rng(SPLIT_SEED).permutation(len(ids))
        chosen = {ids[row] for row in order[: round(held_out * len(ids))]}
    trained = tuple(name for name in ids if name not in chosen)
    if not trained:
        raise ValueError("neural.held_out_stimuli names all stimuli: none is left to train on")
    return trained, tuple(name for name in ids if name in chosen)


class StimulusImages:
    """Stimuli as pixels without labels (all are 0)."""

    def __init__(self, stimuli: Stimuli, ids: Sequence[str], network: Network) -> None:
        """Keep the stimuli; images are decoded and scaled, as for ``network``, when asked for."""
        self.stimuli = stimuli.subset(list(ids))
        still: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        self.preprocessing = network.preprocessing.model_copy(update=still)
        self.visual_degrees = network.visual_degrees

    def __len__(self) -> int:
        """Return the number of stimuli."""
        return len(self.stimuli)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image, and 0 for its label."""
        image = preprocess(
            self.stimuli.image(index),
            self.preprocessing,
            shown_degrees=self.stimuli.visual_degrees,
            field_degrees=self.visual_degrees,
        )
        return image, 0


def unlabelled_task(data: NeuralData, network: Network) -> TaskData:
    """The neural stimuli as a task without labels: what the frozen original says stands for them.

    Without held-out stimuli validation is on those that are trained on.
    """
    train = StimulusImages(data.images, data.trained, network)
    watched = StimulusImages(data.images, data.held_out, network) if data.held_out else train
    return TaskData(name="neural stimuli", train=train, validation=watched, classes=())

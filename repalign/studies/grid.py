"""The grid of a study: recordings × models × layers × metrics, with the key of every cell."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from repalign.metrics import RSA, Metric
from repalign.recording import Target
from repalign.store import read_manifest
from repalign.studies.keys import ceiling_key, cell_keys, digest_of, metric_digest
from repalign.studies.metric_entries import InferenceSection


@dataclass(frozen=True)
class StudyRecording:
    """A recording, or a part of it.

    Args:
        name: of the dataset, as rows call it.
        conditions: of the selection, such as ``region=IT``.
        store: where it lies.
        fingerprint: of the selected part.
        targets: its (species, region, subject) groups that are compared.
        n_stimuli: in it.
        rdm_only: whether RDMs alone were published.
        repeated: whether a stimulus was shown twice.
    """

    name: str
    conditions: tuple[str, ...]
    store: str
    fingerprint: str
    targets: tuple[Target, ...]
    n_stimuli: int
    rdm_only: bool
    repeated: bool = False

    @property
    def selection(self) -> str:
        """The conditions in one word, empty for the whole recording."""
        return "; ".join(self.conditions)

    @property
    def digest(self) -> str:
        """Of what its rows say of it, and of its content."""
        return digest_of([self.name, self.selection, self.fingerprint])

    def __str__(self) -> str:
        """Return its name and its selection."""
        return f"{self.name} ({self.selection})" if self.conditions else self.name


@dataclass(frozen=True)
class StudyLayer:
    """A layer of a model, on the stimuli of one recording; of a brain as a model, one group.

    Args:
        model, layer: as rows call them.
        store: where it lies, or will lie when it is recorded.
        fingerprint: of its content; empty until it is recorded.
        units: numbers a stimulus, where that is known.
        n_stimuli: that it shares with the recording.
        stimuli: digest of their ids.
        part: of a brain, the group; None: the store holds this layer alone.
        rdm_only: whether it is a brain of which RDMs alone were published.
        by_episode: whether its stimuli are the steps of episodes, which are not independent.
    """

    model: str
    layer: str
    store: str
    fingerprint: str
    units: int | None
    n_stimuli: int
    stimuli: str
    part: Target | None = None
    rdm_only: bool = False
    by_episode: bool = False

    @property
    def digest(self) -> str:
        """Of its names and its content."""
        return digest_of([self.model, self.layer, self.fingerprint])

    def looked_up(self) -> StudyLayer:
        """The layer with its fingerprint, where it was recorded meanwhile."""
        manifest = None if self.fingerprint else read_manifest(Path(self.store))
        return self if manifest is None else replace(self, fingerprint=manifest["fingerprints"][""])


@dataclass(frozen=True)
class Group:
    """The layers of one model for one recording.

    Args:
        recording: that they are compared with.
        model: the word of the study: a card, a twin or a store.
        layers: in order of depth.
    """

    recording: StudyRecording
    model: str
    layers: tuple[StudyLayer, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the layers that have to be recorded."""
        return tuple(one.layer for one in self.layers if not one.fingerprint)


class Cell(NamedTuple):
    """One point of the grid; without a key while its layer is not recorded."""

    key: str
    ceiling: str
    recording: StudyRecording
    target: Target
    layer: StudyLayer
    metric: str


class Block(NamedTuple):
    """The cells of one layer and metric: their keys, and those of their ceilings, by target."""

    recording: StudyRecording
    model: str
    layer: StudyLayer
    metric: str
    keys: Mapping[Target, str]
    ceilings: Mapping[Target, str]


@dataclass(frozen=True)
class Grid:
    """All cells of a study.

    Args:
        groups: of layers, by model and recording.
        metrics: by their words.
        inference: what stands beside each value.
        left_out: what was asked for and cannot be, in sentences.
        settings: what stands beside the values of the metrics that have settings of their own.
        only: names of the recordings that a metric is for, where it is not for all.
    """

    groups: tuple[Group, ...]
    metrics: Mapping[str, Metric]
    inference: InferenceSection
    left_out: tuple[str, ...] = ()
    settings: Mapping[str, InferenceSection] = field(default_factory=dict)
    only: Mapping[str, Collection[str]] = field(default_factory=dict)

    def inference_of(self, metric: str) -> InferenceSection:
        """What stands beside the values of a metric, by its words."""
        return self.settings.get(metric, self.inference)

    def blocks(self) -> Iterator[Block]:
        """The cells by recording, model, layer and metric, those of all targets together."""
        digests = {id(group.recording): group.recording.digest for group in self.groups}
        ceilings: dict[tuple[int, str, str], dict[Target, str]] = {}
        of_metrics: dict[tuple[str, int], str] = {}
        for group in self.groups:
            recording, digest = group.recording, digests[id(group.recording)]
            for layer in group.layers:
                of_layer, targets = layer.digest, compared_targets(recording, layer)
                for text, metric in self.metrics.items():
                    if not targets or not self.wants(text, recording):
                        continue
                    if why_not(metric, recording, layer) is not None:
                        continue
                    place = (id(recording), layer.stimuli, text)
                    if place not in ceilings:
                        ceilings[place] = self._ceilings(text, digest, recording, layer)
                    same = (text, layer.n_stimuli)
                    if same not in of_metrics:
                        of_metrics[same] = metric_digest(
                            metric, layer.n_stimuli, self.inference_of(text)
                        )
                    keys = (
                        cell_keys(digest, targets, of_layer, of_metrics[same])
                        if layer.fingerprint
                        else dict.fromkeys(targets, "")
                    )
                    yield Block(recording, group.model, layer, text, keys, ceilings[place])

    def wants(self, metric: str, recording: StudyRecording) -> bool:
        """Whether a metric was asked for of a recording."""
        return metric not in self.only or recording.name in self.only[metric]

    def cells(self) -> Iterator[Cell]:
        """All cells, in the order of the blocks."""
        for block in self.blocks():
            for target, key in block.keys.items():
                yield Cell(
                    key, block.ceilings[target], block.recording, target, block.layer, block.metric
                )

    def keys(self) -> tuple[set[str], set[str]]:
        """The keys of all cells whose layers are recorded, and those of their noise ceilings."""
        blocks = [block for block in self.blocks() if block.layer.fingerprint]
        cells = {key for block in blocks for key in block.keys.values()}
        ceilings = {key for block in blocks for key in block.ceilings.values() if key}
        return cells, ceilings

    def _ceilings(
        self, metric: str, digest: str, recording: StudyRecording, layer: StudyLayer
    ) -> dict[Target, str]:
        """The keys of noise ceilings by target; empty where none is asked for."""
        settings, splits = self.inference_of(metric), not recording.rdm_only
        if settings.ceiling == "none":
            return dict.fromkeys(recording.targets, "")
        return {
            target: ceiling_key(
                digest, target, self.metrics[metric], layer.stimuli, settings, splits=splits
            )
            for target in recording.targets
        }

    def looked_up(self) -> Grid:
        """The grid with the fingerprints of the layers that were recorded meanwhile."""
        groups = tuple(
            replace(group, layers=tuple(layer.looked_up() for layer in group.layers))
            for group in self.groups
        )
        return replace(self, groups=groups)


def compared_targets(recording: StudyRecording, layer: StudyLayer) -> tuple[Target, ...]:
    """The targets of a recording but for the one that the layer itself is."""
    if layer.part is None or layer.store != recording.store:
        return recording.targets
    return tuple(target for target in recording.targets if target != layer.part)


def why_not(metric: Metric, recording: StudyRecording, layer: StudyLayer) -> str | None:
    """Why a metric cannot be had of a recording and a layer, as far as that is known before."""
    if recording.rdm_only and (metric.needs_responses or not isinstance(metric, RSA)):
        return f"{metric.name} of {recording}: it holds published RDMs only, no responses"
    if layer.rdm_only and (metric.needs_responses or not isinstance(metric, RSA)):
        return f"{metric.name} of {layer.model}: it holds published RDMs only, no responses"
    if layer.n_stimuli < metric.minimum_stimuli:
        return (
            f"{metric.name} of {recording} and {layer.model}: they share {layer.n_stimuli} stimuli,"
            f" and it needs {metric.minimum_stimuli} or more"
        )
    if layer.units == 1 and isinstance(metric, RSA) and metric.rdm in ("correlation", "cosine"):
        return f"{metric.name} of {layer.model}, layer {layer.layer}: one unit has no pattern"
    return None

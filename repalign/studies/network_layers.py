"""The layers of a network for a study, without building the network again where that is certain.

What a study needs to know of a network, its fingerprint and its layers, follows from its card, its
weights, the code and the packages that build it. It is kept under the hash of these: where one of
them has changed, or cannot be told, the network is built and looked at anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from repalign.card_schemas import ModelCard
from repalign.cards import load_model_card, split_twin
from repalign.checkpoints import find_checkpoint
from repalign.layer_list import problems, run_once
from repalign.layer_names import EACH_TIME, parse_layer
from repalign.networks import Network, find_layers, load_network
from repalign.recording import stimulus_ids
from repalign.recording_pass import decode_batch
from repalign.recording_run import layers_root
from repalign.stimuli import GROUP, Stimuli, images_of
from repalign.store import local_folder, read_manifest
from repalign.studies.configuration import StudyConfig
from repalign.studies.grid import StudyLayer, StudyRecording
from repalign.studies.keys import digest_of
from repalign.studies.remembering import (
    package_digest,
    remembered,
    state_of_files,
    state_of_packages,
)

PACKAGES = {  # that build a network, by the provider in its card's source
    "repalign": ("torch",),
    "torchvision": ("torch", "torchvision"),
    "timm": ("torch", "timm"),
    "hf": ("torch", "transformers", "safetensors"),
}


@dataclass(frozen=True)
class NamedNetwork:
    """A network of a study by its word, built when it is needed."""

    word: str
    config: StudyConfig

    @cached_property
    def card(self) -> ModelCard:
        """The model card."""
        card = load_model_card(split_twin(self.word)[0])
        if card.source == "features":
            raise ValueError(
                f"{card.name} is a table of features, which has no store that workers could read:"
                " compare it with `repalign compare`, or exclude it"
            )
        return card

    @cached_property
    def built(self) -> Network:
        """The network with its weights."""
        try:
            return load_network(self.word, **self.config.where)
        except ValueError as error:
            raise ValueError(f"model {self.word}: {error}") from error

    @cached_property
    def depends_on(self) -> dict[str, Any] | None:
        """All that decides the network; None where that cannot be told without building it."""
        provider = self.card.source.partition(":")[0]
        packages = state_of_packages(PACKAGES[provider]) if provider in PACKAGES else None
        weights = _weights_state(self.card, trained=split_twin(self.word)[1] is None)
        if packages is None or weights is None:
            return None
        return {
            "card": self.card.sha256,
            "twin": split_twin(self.word)[1],
            "weights": weights,
            "repalign": package_digest(),
            "packages": packages,
            "processor": torch.backends.cpu.get_cpu_capability(),  # draws untrained weights
        }

    def chosen(self, wanted: Sequence[str] | None, *, everywhere: bool) -> tuple[str, ...]:
        """The layers asked for; of a list for all models, one whose card has one layer keeps it."""
        own = self.card.layers
        if wanted is None or (
            everywhere and len(own) == 1 and "all" not in wanted and not set(own) & set(wanted)
        ):
            if not own:
                raise ValueError(
                    f"the card of {self.card.name} names no layers: name them under layers"
                )
            return own
        return tuple(wanted)


def _weights_state(card: ModelCard, *, trained: bool) -> list[Any] | None:
    """What tells the weights of a card apart; empty where the card or the code pins them."""
    pinned = bool(card.weights_hash or card.weights_hash_prefix or card.revision)
    if card.weights.endswith("/"):  # its config counts for an untrained twin too
        folder = card.path.parent / Path(card.weights).expanduser()
        return state_of_files(sorted(path for path in folder.rglob("*") if path.is_file()))
    if not trained or card.weights in ("none", "random", "package"):
        return []
    if card.weights_url is not None or card.source.startswith("hf:"):
        return [] if pinned else None
    path = find_checkpoint(card.path.parent, card.weights)
    return None if path is None else state_of_files([path])


@dataclass(frozen=True)
class ShownRecording:
    """The images of a recording's stimuli, as far as a grid needs to know them."""

    recording: StudyRecording
    ds: xr.Dataset
    config: StudyConfig

    @cached_property
    def ids(self) -> list[str]:
        """Of the stimuli, in the order in which they are shown."""
        return stimulus_ids(self.ds)

    @cached_property
    def images(self) -> Stimuli:
        """The images themselves."""
        return images_of(self.ds)

    @cached_property
    def fingerprint(self) -> str:
        """Of ids and images, from the store's own hashes where it was found before."""
        manifest = read_manifest(self.recording.store)
        of = None
        if manifest is not None and GROUP in manifest["fingerprints"]:
            kept = {k: v for k, v in manifest["metadata"].items() if k.startswith(f"{GROUP}/")}
            of = {"images": manifest["fingerprints"][GROUP], "kept": kept, "ids": self.ids}
        return str(remembered(known_folder(self.config), of, lambda: self.images.fingerprint()))


def known_folder(config: StudyConfig) -> Path:
    """Where what was found of networks and images is kept."""
    return local_folder(config.run.to) / "known"


def layers_of_network(
    network: NamedNetwork, shown: ShownRecording, wanted: Sequence[str] | None
) -> tuple[list[StudyLayer], list[str]]:
    """Layers of a network where `repalign.record` puts them, and what is left out.

    Raises:
        ValueError: an unknown layer, one that cannot be recorded, or a recording without images.
    """
    config, recording = network.config, shown.recording
    chosen = network.chosen(wanted, everywhere="*" in config.layers)
    try:
        images = shown.fingerprint
    except ValueError as error:
        raise ValueError(f"{recording} cannot be shown to {network.card.name}: {error}") from error
    by_time = any(parse_layer(layer).time == EACH_TIME for layer in chosen)  # a pass tells which
    of = network.depends_on
    if of is not None:
        of = {"network": of, "layers": chosen, "images": images if by_time else None}
    example = shown.images if by_time else None
    seen = remembered(known_folder(config), of, lambda: _look_at(network.built, chosen, example))
    prints = {"network": seen["fingerprint"], "stimuli": images}
    root = layers_root(local_folder(config.run.to), seen["name"], recording.name, prints)
    ids = digest_of(shown.ids)
    layers = [
        StudyLayer(seen["name"], name, str(root / name), "", units, len(shown.ids), ids).looked_up()
        for name, units in seen["layers"]
    ]
    return layers, list(seen["left_out"])


def _look_at(network: Network, chosen: Sequence[str], images: Stimuli | None) -> dict[str, Any]:
    """What a study needs to know of a network, as JSON."""
    example = None if images is None else decode_batch(network, images, 0, 1)
    try:
        names = find_layers(network.module, chosen, example=example)
    except ValueError as error:
        raise ValueError(f"layers of {network.name}: {error}") from error
    with torch.no_grad():
        outputs = run_once(network, torch.zeros(2, 3, *network.preprocessing.size), names)
    wrong = problems(outputs)
    for name, problem in wrong.items():
        if name in chosen:
            raise ValueError(f"{network.name}, {problem}")
    return {
        "name": network.name,
        "fingerprint": network.fingerprint(),
        "layers": [[name, prod(outputs[name].shape or ())] for name in names if name not in wrong],
        "left_out": [f"{network.name}, {problem}" for problem in wrong.values()],
    }

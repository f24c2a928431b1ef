"""The checkpoint of an autoencoder's training: a killed one goes on to the very same weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repalign.autoencoders.data import Source, Summary
from repalign.autoencoders.layout import called
from repalign.autoencoders.networks import SparseAutoencoder
from repalign.autoencoders.results import AutoencoderSettings
from repalign.autoencoders.tensor_files import read_tensors, write_tensors

FORMAT = "repalign-autoencoder-training-1"


class CheckpointError(ValueError):
    """A checkpoint is of another training, or damaged: this training cannot go on from it."""


@dataclass
class TrainingState:
    """All that a step of the training changes; samples and their order follow from the step.

    Args:
        network: in training.
        optimiser: Adam of its parameters.
        idle: steps since each feature was active.
        history: rows so far.
        step: how many were taken.
    """

    network: SparseAutoencoder
    optimiser: torch.optim.Adam
    idle: Tensor
    history: list[dict[str, float | None]] = field(default_factory=list)
    step: int = 0


def training_identity(
    settings: AutoencoderSettings, source: Source, summary: Summary
) -> dict[str, Any]:
    """What a checkpoint and a training must agree in: settings, layer, and samples of it."""
    sample = summary.probe.contiguous().numpy().tobytes()
    layer = {
        "name": called(source.activations),
        "fingerprint": str(source.activations.attrs.get("fingerprint", "")),
        "training samples": source.n_samples,
        "inputs": source.layout.n_inputs,
        "values": f"sha256:{hashlib.sha256(sample).hexdigest()}",
    }
    identity = {"settings": dataclasses.asdict(settings), "layer": layer}
    found: dict[str, Any] = json.loads(json.dumps(identity))
    return found


def write_checkpoint(path: Path, state: TrainingState, identity: dict[str, Any]) -> None:
    """Write the state so that a killed process leaves the checkpoint before it, or this one."""
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    for name, parameter in state.network.named_parameters():
        for key, value in state.optimiser.state[parameter].items():
            tensors[f"adam.{name}.{key}"] = value
    tensors["idle"] = state.idle
    header = {"step": state.step, "history": state.history, "training": identity}
    write_tensors(path, tensors, header, form=FORMAT)


def read_checkpoint(path: Path, state: TrainingState, identity: dict[str, Any]) -> None:
    """Bring a new training to where the checkpoint is; it stays as it is where there is none.

    Raises:
        CheckpointError: the checkpoint is damaged, or of other settings or another layer.
    """
    if not path.exists():
        return
    begin = f"remove {path} to begin anew"
    try:
        header, tensors = read_tensors(path, form=FORMAT, writer="train_autoencoder(checkpoint=)")
    except ValueError as error:
        raise CheckpointError(f"{error}; {begin}") from error
    found = header.get("training", {})
    differ = [
        f"{part} {name}: {_short(found.get(part, {}).get(name))} there, {_short(value)} here"
        if part == "layer"
        else f"{name}: {found.get(part, {}).get(name)} there, {value} here"
        for part, own in identity.items()
        for name, value in own.items()
        if found.get(part, {}).get(name) != value
    ]
    if differ:
        raise CheckpointError(
            f"{path} is the checkpoint of another training ({'; '.join(differ)}); give the same"
            f" settings and layer to go on with it, or {begin}"
        )
    try:
        _restore(state, header, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is damaged ({reason}); {begin}") from error


def _short(value: Any) -> str:
    """A value without most digits of a hash."""
    text = str(value)
    return f"{text[:15]}…" if text.startswith("sha256:") else text or "none"


def _restore(state: TrainingState, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    network = state.network
    network.load_state_dict({name: tensors[f"network.{name}"] for name in network.state_dict()})
    for name, parameter in network.named_parameters():
        own = f"adam.{name}."
        memory = {key.removeprefix(own): tensors[key] for key in tensors if key.startswith(own)}
        state.optimiser.state[parameter] = {  # Adam counts its steps on the CPU
            key: value if key == "step" else value.to(parameter.device)
            for key, value in memory.items()
        }
    state.idle.copy_(tensors["idle"])
    state.history = list(header["history"])
    state.step = int(header["step"])

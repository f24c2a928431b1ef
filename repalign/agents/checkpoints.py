"""Checkpoints of stable-baselines3, read without unpickling anything but tensors.

Such a zip holds ``policy.pth``, the weights, and ``data``, a JSON text. Values that are plain JSON
are read from ``data``; those it keeps as pickles (under ``:serialized:``) never are.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repalign import checkpoints

WEIGHTS, FIELDS = "policy.pth", "data"
MAX_WEIGHT_BYTES = 4 << 30
MAX_FIELD_BYTES = 64 << 20
CHECKPOINTS = (".zip", *checkpoints.SUFFIXES)
ACTIVATION = re.compile(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>")
ACTIVATION_NAMES = {
    "Tanh": "tanh",
    "ReLU": "relu",
    "ELU": "elu",
    "LeakyReLU": "leaky_relu",
    "GELU": "gelu",
    "SiLU": "silu",
}


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name, and what the file says in plain words.

    Args:
        weights: the state dict.
        gamma: discount a step.
        gae_lambda: λ of the generalised advantage.
        activation: of hidden layers.
        scale_images: whether images were divided by 255.
        was_normalised: whether observations went through VecNormalize; None: it does not say.
    """

    weights: Mapping[str, Tensor] = field(repr=False)
    gamma: float | None = None
    gae_lambda: float | None = None
    activation: str | None = None
    scale_images: bool = True
    was_normalised: bool | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a zip of stable-baselines3, or a file of bare weights (.pth, .pt, .safetensors).

    Raises:
        ValueError: the file is damaged, holds no plain tensors, or unpacks to too much.
    """
    if path.suffix != ".zip":
        return Checkpoint(checkpoints.read_checkpoint(path))
    try:
        with zipfile.ZipFile(path) as archive:
            weights = _member(archive, WEIGHTS, MAX_WEIGHT_BYTES, path)
            text = _member(archive, FIELDS, MAX_FIELD_BYTES, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"{path} is no zip of stable-baselines3, or is damaged ({error}); fetch it again"
        ) from error
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: {FIELDS} in it is no JSON ({error}); fetch it again") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: {FIELDS} in it is a {type(fields).__name__}, expected a table")
    return Checkpoint(_tensors(weights, f"{path}, {WEIGHTS}"), **_plain(fields, path))


def _member(archive: zipfile.ZipFile, name: str, most: int, path: Path) -> bytes:
    """One member in memory, never more than ``most`` bytes of it; nothing is unpacked to disk."""
    if name not in archive.namelist():
        raise ValueError(
            f"{path} has no {name} in it, but {', '.join(archive.namelist()[:6]) or 'nothing'};"
            " expected a zip that model.save() of stable-baselines3 wrote"
        )
    with archive.open(name) as member:
        content = member.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path}: {name} unpacks to more than {most} bytes, expected fewer")
    return content


def _tensors(content: bytes, name: str) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():  # torch warns of old formats
            warnings.simplefilter("ignore")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a refused pickle and a damaged file raise different types
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{name} holds no plain tensors, or is damaged; nothing in it was run: {reason}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(one, Tensor) for one in state.values()):
        raise ValueError(f"{name} holds a {type(state).__name__}, expected tensors by name")
    return {str(key): tensor for key, tensor in state.items()}


def _plain(fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("gamma", "gae_lambda"):
        value = fields.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not 0 <= value <= 1:
                raise ValueError(f"{path}: {name} = {value} in {FIELDS}, expected 0 to 1")
            found[name] = float(value)
    options = fields.get("policy_kwargs")
    options = options if isinstance(options, dict) else {}
    written = ACTIVATION.fullmatch(str(options.get("activation_fn", "")))
    if "activation_fn" in options:
        if written is None or written[1] not in ACTIVATION_NAMES:
            raise ValueError(
                f"{path}: activation_fn = {options['activation_fn']!r}, expected one of"
                f" {', '.join(ACTIVATION_NAMES)}; build the network with a function of your own"
            )
        found["activation"] = ACTIVATION_NAMES[written[1]]
    if options.get("normalize_images") is False:
        found["scale_images"] = False
    if "gae_lambda" in found and "_last_original_obs" in fields:
        # Off-policy algorithms keep it in any case, the others where VecNormalize was used.
        found["was_normalised"] = fields["_last_original_obs"] is not None
    return found

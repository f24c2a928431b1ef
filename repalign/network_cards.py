"""What a model card says of a network alone: its input, its alignment, its place on the hub."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Preprocessing(BaseModel):
    """From an image to the network's input; the whole image is resized, nothing is cropped."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: tuple[int, int] = (224, 224)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class AlignedTo(BaseModel):
    """The stimuli that a network's weights were aligned on, where its scores are inflated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str | None = None
    stimulus_ids: tuple[str, ...]


def check_hub(source: str, weights: str, revision: str | None, weights_url: str | None) -> None:
    """Raise a ValueError where a Hugging Face source, its weights and its commit do not fit."""
    provider, _, name = source.partition(":")
    if provider != "hf":
        if revision is not None:
            raise ValueError(
                f'revision is for source = "hf:owner/name"; it does not apply to {source!r}'
            )
        return
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ValueError(f"source = {source!r}, expected hf:OWNER/NAME, as on Hugging Face")
    if revision is not None and not re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(
            f"revision = {revision!r}, expected the 40 hexadecimal digits of a commit: branches"
            " such as main change"
        )
    if weights_url is not None:
        raise ValueError('weights_url does not apply to "hf:" sources; give revision')
    if weights in ("hub", "random"):
        if revision is None:
            raise ValueError(
                f"weights = {weights!r} of {source!r} needs revision = the commit of the repository"
                ' on Hugging Face; a folder of your own is weights = "folder/"'
            )
    elif not weights.endswith("/"):
        raise ValueError(
            f'weights = {weights!r} of {source!r}: expected "hub", "random", or "folder/" with'
            " config.json and model.safetensors, as save_pretrained writes them"
        )
    elif revision is not None:
        raise ValueError('revision does not apply to weights of a folder; weights = "hub" needs it')

"""What of a layer is one sample of an autoencoder: all of it, or each position's channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor

SAMPLES = ("flat", "positions", "mean")


@dataclass(frozen=True)
class Layout:
    """What of a layer is one sample.

    Args:
        samples: ``flat``, the whole layer; ``positions``, the channels at each position;
            ``mean``, the channels averaged over positions.
        shape: of the layer's output to one stimulus.
        channel_axis: of that shape; None is the first of three axes (channel, height, width) and
            the last of two (token, channel).

    Example:
        >>> import torch
        >>> layout = Layout("positions", (3, 2, 2))
        >>> layout.n_inputs, layout.n_positions, layout.take(torch.zeros(5, 12)).shape
        (3, 4, torch.Size([20, 3]))
    """

    samples: str
    shape: tuple[int, ...]
    channel_axis: int | None = None

    def __post_init__(self) -> None:
        """Check that the layer has what the samples need."""
        if self.samples not in SAMPLES:
            raise ValueError(f"samples {self.samples!r}; expected one of {', '.join(SAMPLES)}")
        if self.samples == "flat":
            if self.channel_axis is not None:
                raise ValueError("channel_axis applies to samples 'positions' and 'mean' alone")
            return
        if len(self.shape) < 2:
            raise ValueError(
                f"samples {self.samples!r} needs a layer with positions; this one gives shape"
                f" {self.shape} a stimulus: use samples='flat'"
            )
        if self.channel_axis is None and len(self.shape) > 3:
            raise ValueError(f"shape {self.shape}: say which axis holds channels (channel_axis=)")
        if not -len(self.shape) <= (self.channel_axis or 0) < len(self.shape):
            raise ValueError(f"channel_axis {self.channel_axis} is no axis of shape {self.shape}")

    @property
    def axis(self) -> int:
        """The axis of channels in the shape."""
        if self.channel_axis is not None:
            return self.channel_axis % len(self.shape)
        return 0 if len(self.shape) == 3 else len(self.shape) - 1

    @property
    def n_inputs(self) -> int:
        """Units of a sample."""
        return int(np.prod(self.shape)) if self.samples == "flat" else self.shape[self.axis]

    @property
    def positions(self) -> tuple[int, ...]:
        """Shape of the positions of a stimulus; empty where it is one sample."""
        if self.samples != "positions":
            return ()
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def n_positions(self) -> int:
        """Samples a stimulus."""
        return int(np.prod(self.positions, dtype=np.int64))

    def take(self, rows: Float[Tensor, "row unit"]) -> Float[Tensor, "sample input"]:
        """Return the samples of some rows of a layer, those of a row side by side."""
        if self.samples == "flat":
            return rows
        maps = rows.reshape(len(rows), *self.shape).movedim(self.axis + 1, -1)
        channels = maps.reshape(len(rows), -1, self.n_inputs)
        return channels.mean(1) if self.samples == "mean" else channels.flatten(0, 1)

    def put_back(self, samples: Float[Tensor, "sample input"]) -> Float[Tensor, "row unit"]:
        """Return rows of the layer from samples; the inverse of ``take``."""
        if self.samples == "flat":
            return samples
        if self.samples == "mean":
            raise ValueError("the mean over positions cannot be undone; use 'positions' or 'flat'")
        maps = samples.reshape(-1, *self.positions, self.n_inputs)
        return maps.movedim(-1, self.axis + 1).flatten(1)


def called(activations: xr.Dataset) -> str:
    """How errors name a layer."""
    names = (activations.attrs.get("model"), activations.attrs.get("layer"))
    return " ".join(str(name) for name in names if name) or "the array of activations"


def layout_of(activations: xr.Dataset, samples: str, channel_axis: int | None) -> Layout:
    """The layout of a layer, whose shape its attributes say."""
    units = activations.sizes["neuroid"]
    shape = tuple(int(n) for n in activations.attrs.get("shape", (units,)))
    if int(np.prod(shape)) != units:
        raise ValueError(f"{called(activations)} has {units} units and attrs['shape'] {shape}")
    return Layout(samples, shape, channel_axis)

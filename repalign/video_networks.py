"""Networks of video: whole clips are shown, and outputs with an axis of time are time bins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from repalign.clips import clip_rows
from repalign.hooks import capture
from repalign.metrics.calls import pick_device
from repalign.networks import Network, chosen_layers, find_layers, preprocess
from repalign.recording import (
    NEUROID,
    PRESENTATION,
    TIME_BIN,
    TIME_BIN_START,
    TIME_BIN_STOP,
    make_activations,
)
from repalign.stimuli import Stimuli

BATCH_SIZE = 4


def clip_responses(
    network: Network,
    clips: Stimuli,
    layers: Sequence[str] | None = None,
    *,
    frame_ms: float,
    start_ms: float = 0.0,
    frames_first: bool = False,
    batch_size: int = BATCH_SIZE,
    device: str | torch.device = "auto",
) -> dict[str, xr.Dataset]:
    """Show clips to a network of video and keep its layers in memory.

    A layer's output of five axes is ``(stimulus, channel, time, height, width)``, as of a
    convolution in space and time: its times become bins that divide the clip into equal parts.
    Any other output, such as tokens, has no time bins: its units answer to the whole clip.

    Args:
        network: takes ``(stimulus, channel, frame, height, width)``, as torchvision's.
        clips: frames of clips of one length, as `repalign.clips.read_clips` gives them.
        layers: layer names or patterns; the network's own by default.
        frame_ms: duration of a frame.
        start_ms: onset of the first frame.
        frames_first: the network takes ``(stimulus, frame, channel, height, width)``, as those of
            Hugging Face.
        batch_size: clips a forward pass.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.

    Returns:
        By layer, ``response(presentation, neuroid[, time_bin])``, a presentation a clip.

    Raises:
        ValueError: unknown layer, frames that are no clips, or an output whose first axis is not
            the clips.

    Example:
        >>> from repalign.network_cards import Preprocessing
        >>> from repalign.clips import clips_from_array
        >>> module = torch.nn.Sequential(torch.nn.Conv3d(3, 2, 3, stride=(2, 1, 1), padding=1))
        >>> net = Network("small", module, Preprocessing(size=(4, 4)), ("0",))
        >>> clips = clips_from_array(np.zeros((2, 6, 8, 8, 3), np.uint8))
        >>> clip_responses(net, clips, frame_ms=40, device="cpu")["0"]["response"].shape
        (2, 32, 3)
    """
    if batch_size < 1 or frame_ms <= 0:
        raise ValueError(f"batch_size {batch_size} and frame_ms {frame_ms} must be more than 0")
    names = find_layers(network.module, chosen_layers(layers, network.layers, network.name))
    ids, rows = clip_rows(clips.ids)
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    where = pick_device(device)
    with _evaluating(network.module, where), capture(network.module, names) as seen:
        for start in range(0, len(ids), batch_size):
            batch = torch.stack([_clip(network, clips, row) for row in rows[start:][:batch_size]])
            shown = batch if frames_first else batch.transpose(1, 2)
            seen.clear()
            network.module(shown.contiguous().to(where))
            for name in names:
                if name not in seen:
                    raise ValueError(f"layer {name!r} is not used in the forward pass")
                if seen[name].ndim == 0 or len(seen[name]) != len(batch):
                    raise ValueError(
                        f"{network.name}, layer {name}: output of shape {tuple(seen[name].shape)}"
                        f" for {len(batch)} clips; the first axis must be the clips"
                    )
                kept[name].append(seen[name].float().cpu())
    length_ms = rows.shape[1] * frame_ms
    return {
        name: _activations(network.name, name, ids, torch.cat(parts), start_ms, length_ms)
        for name, parts in kept.items()
    }


@contextlib.contextmanager
def _evaluating(module: nn.Module, device: torch.device) -> Iterator[None]:
    """A module in evaluation mode on the device, and afterwards as it was.

    `repalign.activations.evaluating` lays weights out channels last, which has two axes only.
    """
    training = {part: part.training for part in module.modules()}
    home = next((tensor.device for tensor in module.state_dict().values()), device)
    module.eval().to(device)
    try:
        with torch.inference_mode():
            yield
    finally:
        module.to(home)
        for part, was in training.items():
            part.training = was


def _clip(network: Network, clips: Stimuli, rows: Sequence[int]) -> Tensor:
    """The frames of one clip as the network sees them, frame × channel × height × width."""
    frames = [
        preprocess(
            clips.image(int(row)),
            network.preprocessing,
            shown_degrees=clips.visual_degrees,
            field_degrees=network.visual_degrees,
        )
        for row in rows
    ]
    return torch.stack(frames)


def _activations(
    model: str, layer: str, ids: Sequence[str], output: Tensor, start_ms: float, length_ms: float
) -> xr.Dataset:
    if output.ndim != 5:
        return make_activations(output.flatten(1).numpy(), ids, model, layer, output.shape[1:])
    by_time = output.movedim(2, -1)
    values = by_time.flatten(1, -2).numpy()
    whole = make_activations(values[..., 0], ids, model, layer, by_time.shape[1:-1])
    edges = start_ms + np.linspace(0.0, length_ms, values.shape[2] + 1)
    return whole.assign(response=((PRESENTATION, NEUROID, TIME_BIN), values)).assign_coords(
        {TIME_BIN_START: (TIME_BIN, edges[:-1]), TIME_BIN_STOP: (TIME_BIN, edges[1:])}
    )

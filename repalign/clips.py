"""Clips: their frames are shown to a network as images, and its answers are binned in time.

Frame i of a clip is the stimulus ``CLIP/000i``; what is recorded becomes
``response(presentation, neuroid, time_bin)`` with one presentation a clip. The same bins are made
of a recurrent layer whose times were recorded side by side (``V4@t=all``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Int, Num, UInt8

from repalign.processing import with_step
from repalign.recording import (
    IMAGE_HASH,
    NEUROID,
    PRESENTATION,
    STIMULUS,
    TIME_BIN,
    TIME_BIN_START,
    TIME_BIN_STOP,
)
from repalign.stimuli import Stimuli, encode_png, natural_key, read_images

FRAME_DIGITS = 4


def read_clips(path: str | Path, *, visual_degrees: float | None = None) -> Stimuli:
    """The frames of clips as stimuli, in the order in which they were shown.

    Args:
        path: a folder or zip with one folder of images a clip, whose names are in order; or an
            ``.npy`` file, clip × frame × height × width × 3, uint8, whose clips are numbered.
        visual_degrees: width of the frames as they were shown.

    Returns:
        Stimuli whose ids are ``CLIP/0000``, ``CLIP/0001``, …

    Raises:
        ValueError: an image lies outside a clip's folder, or the array has another shape or type.
    """
    path = Path(path).expanduser()
    if path.suffix == ".npy":
        return clips_from_array(
            np.load(path, mmap_mode="r", allow_pickle=False), visual_degrees=visual_degrees
        )
    clips: dict[str, list[bytes]] = {}
    for name, file in read_images(path).items():
        clip, _, frame = name.rpartition("/")
        if not clip:
            raise ValueError(
                f"{path}: image {frame!r} lies in no clip's folder; expected CLIP/FRAME, such as"
                " clip1/0001.png"
            )
        clips.setdefault(clip, []).append(file)
    frames = [(frame_id(clip, i), f) for clip, fs in clips.items() for i, f in enumerate(fs)]
    return Stimuli(tuple(name for name, _ in frames), [file for _, file in frames], visual_degrees)


def clips_from_array(
    clips: UInt8[np.ndarray, "clip frame height width 3"],
    ids: Sequence[str] | None = None,
    *,
    visual_degrees: float | None = None,
) -> Stimuli:
    """The frames of an array of clips as stimuli; they are encoded when they are read.

    Args:
        clips: RGB, uint8; it may be a memory map.
        ids: names of the clips; numbered by default.
        visual_degrees: width of the frames as they were shown.

    Raises:
        ValueError: the array has another shape or type, or there is not one id a clip.

    Example:
        >>> clips_from_array(np.zeros((2, 2, 4, 4, 3), np.uint8), ["cat", "dog"]).ids
        ('cat/0000', 'cat/0001', 'dog/0000', 'dog/0001')
    """
    if clips.ndim != 5 or clips.shape[-1] != 3 or clips.dtype != np.uint8:
        raise ValueError(
            f"clips have shape {clips.shape} and type {clips.dtype}; expected clip × frame ×"
            " height × width × 3, uint8"
        )
    names = [f"clip-{i:0{FRAME_DIGITS}d}" for i in range(len(clips))] if ids is None else list(ids)
    if len(names) != len(clips):
        raise ValueError(f"{len(names)} ids for {len(clips)} clips")
    frames = tuple(frame_id(name, i) for name in names for i in range(clips.shape[1]))
    return Stimuli(frames, _Frames(clips), visual_degrees)


def frame_id(clip: str, index: int) -> str:
    """The stimulus id of one frame."""
    return f"{clip}/{index:0{FRAME_DIGITS}d}"


class _Frames(Sequence[bytes]):
    """The frames of an array as image files, encoded when asked for."""

    def __init__(self, clips: np.ndarray[Any, Any]) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return int(self.clips.shape[0] * self.clips.shape[1])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        clip, frame = divmod(range(len(self))[index], self.clips.shape[1])
        return encode_png(np.ascontiguousarray(self.clips[clip, frame]))


def clip_rows(ids: Sequence[str]) -> tuple[list[str], Int[np.ndarray, "clip frame"]]:
    """The clips that frames belong to, in natural order, and where each frame stands.

    Raises:
        ValueError: an id is not ``CLIP/FRAME``, or clips differ in length or lack a frame.

    Example:
        >>> clip_rows(["b/0000", "a/0001", "a/0000", "b/0001"])
        (['a', 'b'], array([[2, 1],
               [0, 3]]))
    """
    clips: dict[str, dict[int, int]] = {}
    for row, name in enumerate(ids):
        clip, _, frame = str(name).rpartition("/")
        if not clip or not frame.isdecimal():
            raise ValueError(
                f"stimulus {name!r} is no frame of a clip; expected ids such as"
                f" {frame_id('clip1', 0)!r}, as read_clips gives them"
            )
        clips.setdefault(clip, {})[int(frame)] = row
    names = sorted(clips, key=natural_key)
    n_frames = len(clips[names[0]])
    for clip in names:
        if sorted(clips[clip]) != list(range(n_frames)):
            raise ValueError(
                f"clip {clip!r} has frames {sorted(clips[clip])[:4]} … ({len(clips[clip])}), and"
                f" {names[0]!r} has {n_frames}; all clips must have frames 0 to {n_frames - 1}"
            )
    return names, np.array([[clips[clip][i] for i in range(n_frames)] for clip in names])


def bin_frames(
    activations: xr.Dataset, *, frame_ms: float, bin_ms: float | None = None, start_ms: float = 0.0
) -> xr.Dataset:
    """Bin what a network answers to the frames of clips; a bin is the mean of its frames.

    Args:
        activations: one layer, recorded on the stimuli of `read_clips`; frames of a clip may
            stand in any order.
        frame_ms: duration of a frame.
        bin_ms: duration of a time bin, a whole number of frames; a frame by default.
        start_ms: onset of the first frame.

    Returns:
        ``response(presentation, neuroid, time_bin)``, a presentation a clip.

    Raises:
        ValueError: ids are not ``CLIP/FRAME``, clips differ in length or lack a frame, or bins do
            not fit the frames.

    Example:
        >>> from repalign.recording import make_activations
        >>> frames = make_activations(np.arange(8.0).reshape(8, 1), [f"{c}/{i:04d}" for c in "ab"
        ...                           for i in range(4)], "net", "layer", (1,))
        >>> bin_frames(frames, frame_ms=40, bin_ms=80)["response"].values[:, 0].tolist()
        [[0.5, 2.5], [4.5, 6.5]]
    """
    names, rows = clip_rows(activations[STIMULUS].values.tolist())
    n_frames = rows.shape[1]
    ordered = activations.isel({PRESENTATION: rows.ravel()})
    values = ordered["response"].data.reshape(len(names), n_frames, -1)
    first = ordered.isel({PRESENTATION: slice(None, None, n_frames)})
    first = first.drop_vars(IMAGE_HASH, errors="ignore")  # that of a frame is not the clip's
    first = first.assign_coords({STIMULUS: (PRESENTATION, np.array(names, dtype=object))})
    binned = _binned(first, values, frame_ms, bin_ms, start_ms)
    return with_step(binned, f"bin_frames({frame_ms=:g}, {bin_ms=}, {start_ms=:g})")


def bin_times(
    activations: xr.Dataset, *, step_ms: float, bin_ms: float | None = None, start_ms: float = 0.0
) -> xr.Dataset:
    """Bin the times of a recurrent layer that was recorded as ``LAYER@t=all``.

    Args:
        activations: the layer; its first axis behind the stimuli is time.
        step_ms: duration that one of the layer's outputs stands for.
        bin_ms: duration of a time bin, a whole number of steps; a step by default.
        start_ms: onset of the first step.

    Returns:
        ``response(presentation, neuroid, time_bin)``.

    Raises:
        ValueError: the layer is no ``@t=all``, or bins do not fit the steps.

    Example:
        >>> from repalign.recording import make_activations
        >>> layer = make_activations(np.arange(6.0).reshape(1, 6), ["a"], "net", "V4@t=all", (3, 2))
        >>> bin_times(layer, step_ms=10)["response"].values.tolist()
        [[[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]]
    """
    layer, shape = str(activations.attrs.get("layer")), activations.attrs.get("shape", ())
    if "@t=all" not in layer or not len(shape):
        raise ValueError(
            f"layer {layer!r} has no axis of time; record it as {layer.partition('@')[0]}@t=all"
        )
    values = activations["response"].data.reshape(activations.sizes[PRESENTATION], shape[0], -1)
    binned = _binned(activations, values, step_ms, bin_ms, start_ms)
    binned = binned.assign_attrs(shape=list(shape[1:]))
    return with_step(binned, f"bin_times({step_ms=:g}, {bin_ms=}, {start_ms=:g})")


def split_time_bins(ds: xr.Dataset) -> dict[str, xr.Dataset]:
    """One dataset without time for each time bin, as `repalign.compare` takes layers.

    Args:
        ds: activations or a recording with time bins.

    Returns:
        By the bin's edges, such as ``0–50 ms``; a network's layer is called ``V4 0–50 ms``.

    Raises:
        ValueError: there are no time bins.

    Example:
        >>> from repalign.recording import make_recording
        >>> ds = make_recording(np.zeros((2, 3, 2)), stimulus_id=["a", "b"], region="IT",
        ...                     time_bins=([0, 50], [50, 100]))
        >>> list(split_time_bins(ds))
        ['0–50 ms', '50–100 ms']
    """
    if TIME_BIN not in ds.dims:
        raise ValueError(f"there are no time bins: response has {dict(ds.sizes)}")
    parts = {}
    edges = zip(ds[TIME_BIN_START].values, ds[TIME_BIN_STOP].values, strict=True)
    for i, (start, stop) in enumerate(edges):
        name = f"{start:g}–{stop:g} ms"
        part = ds.isel({TIME_BIN: i}).drop_vars([TIME_BIN_START, TIME_BIN_STOP])
        part = with_step(part, f"split_time_bins({name})")
        if "layer" in ds.attrs:
            part = part.assign_attrs(layer=f"{ds.attrs['layer']} {name}")
        parts[name] = part
    return parts


def _binned(
    ds: xr.Dataset,
    values: Num[Any, "presentation step neuroid"],
    step_ms: float,
    bin_ms: float | None,
    start_ms: float,
) -> xr.Dataset:
    """The dataset with the means of each bin's steps as its response."""
    n_steps = values.shape[1]
    if step_ms <= 0:
        raise ValueError(f"a step lasts {step_ms:g} ms, expected more than 0")
    width = step_ms if bin_ms is None else bin_ms
    a_bin = round(width / step_ms)
    if a_bin < 1 or abs(a_bin * step_ms - width) > 1e-6 * step_ms:
        raise ValueError(f"bins of {width:g} ms are no whole number of steps of {step_ms:g} ms")
    if n_steps % a_bin:
        raise ValueError(
            f"{n_steps} steps do not fill bins of {a_bin}: the last would have {n_steps % a_bin}"
        )
    shape = (values.shape[0], n_steps // a_bin, a_bin, values.shape[2])
    means = values.reshape(shape).mean(2).swapaxes(1, 2)
    starts = start_ms + np.arange(shape[1]) * width
    return (
        ds.drop_vars("response")
        .assign(response=((PRESENTATION, NEUROID, TIME_BIN), means))
        .assign_coords(
            {TIME_BIN_START: (TIME_BIN, starts), TIME_BIN_STOP: (TIME_BIN, starts + width)}
        )
    )

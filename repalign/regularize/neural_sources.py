"""Where neural batches come from: averaged responses and preprocessed images, by stimulus id."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.network_cards import Preprocessing
from repalign.networks import preprocess
from repalign.populations import as_population
from repalign.recording import NEUROID, PRESENTATION, STIMULUS, is_rdm_only, stimulus_ids
from repalign.shards import row_blocks
from repalign.stimuli import Stimuli, open_stimuli

Target = xr.Dataset | np.ndarray[Any, Any] | Tensor
RESPONSE_BYTES = 256 << 20
IMAGE_BYTES = 512 << 20


def as_recording(target: Target, ids: Sequence[str], name: str) -> xr.Dataset:
    """Return a recording of responses; the rows of a plain array get the ids.

    Raises:
        ValueError: published RDMs only, other dimensions, or an array with another number of rows.
    """
    if not isinstance(target, xr.Dataset):
        array = target.detach().cpu().numpy() if isinstance(target, Tensor) else np.asarray(target)
        rows = array.shape[-2] if array.ndim > 1 else 0
        if rows != len(ids):
            raise ValueError(
                f"{name} has {rows} rows (shape {array.shape}) and there are {len(ids)} images; "
                "expected one row a stimulus, (stimulus, neuroid) or (repeat, stimulus, neuroid), "
                "in the order of the images."
            )
        return as_population(array, name, ids)
    if is_rdm_only(target) or "response" not in target:
        raise ValueError(
            f"{name} holds no responses; expected response(presentation, neuroid). Published RDMs "
            "cannot be trained on: there is nothing to take a batch of."
        )
    dims = target["response"].dims
    if dims[:2] != (PRESENTATION, NEUROID) or len(dims) > 3 or STIMULUS not in target.coords:
        raise ValueError(
            f"{name} has response{dims}; expected (presentation, neuroid[, time_bin]) with "
            "stimulus_id on presentation. Build it with make_recording."
        )
    return target


class Responses:
    """The average response to each stimulus, read once, block by block.

    Averages up to ``memory`` bytes stay in memory; larger ones lie in an unnamed temporary file
    (in ``$TMPDIR``) that goes when this object goes. Whatever the size, no more than one block of
    the recording is held at a time.

    Args:
        recording: response(presentation, neuroid[, time_bin]), lazy or not.
        ids: the stimuli wanted.
        name: how errors call it.
        memory: bytes.

    Raises:
        ValueError: presentations NaN in some values only, or a stimulus that was never recorded.
    """

    def __init__(
        self, recording: xr.Dataset, ids: Sequence[str], *, name: str, memory: int = RESPONSE_BYTES
    ) -> None:
        """Average over the presentations that exist."""
        response = recording["response"]
        kind = np.float64 if response.dtype.kind in "iub" else np.result_type(response, np.float32)
        shape = (len(ids), *response.shape[1:])
        self.name, self.neuroids = name, shape[1]
        self.bins = shape[2] if len(shape) == 3 else None
        self.in_memory = int(np.prod(shape)) * np.dtype(kind).itemsize <= memory
        if self.in_memory:
            self._averages: np.ndarray[Any, Any] = np.zeros(shape, kind)
        else:
            with tempfile.TemporaryFile() as file:  # the map keeps the space until it is dropped
                self._averages = np.memmap(file, kind, "w+", shape=shape)
        position = {stimulus: row for row, stimulus in enumerate(ids)}
        self._accumulate(response, [position.get(str(i), -1) for i in recording[STIMULUS].values])
        counts = self._counts
        if (counts == 0).any():
            never = [ids[int(row)] for row in np.flatnonzero(counts == 0)]
            raise ValueError(
                f"{name}: {len(never)} stimuli (first {never[0]!r}) have no presentation that is "
                "not NaN. Leave them out."
            )

    def _accumulate(self, response: xr.DataArray, places: Sequence[int]) -> None:
        total, where = self._averages, np.asarray(places)
        self._counts = np.zeros(len(total), np.int64)
        start = 0
        for block in row_blocks(response):
            rows = where[start : start + len(block)]
            start += len(block)
            block, rows = block[rows >= 0], rows[rows >= 0]
            finite = np.isfinite(block).reshape(len(block), -1)
            missing = np.isnan(block).reshape(len(block), -1).all(1)
            partial = int((~finite.all(1) & ~missing).sum())
            if partial:
                raise ValueError(
                    f"{self.name}: {partial} presentations are NaN or infinite in some neuroids "
                    "and not in others. Select neuroids that were recorded together."
                )
            for row, values in zip(rows[~missing], block[~missing], strict=True):
                total[row] += values
                self._counts[row] += 1
        for rows in np.array_split(np.arange(len(total)), max(1, total.nbytes >> 26)):
            total[rows] /= np.maximum(self._counts[rows], 1).reshape(-1, *[1] * (total.ndim - 1))

    def moments(self, rows: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        """Return the mean and the variance of each neuroid (and time bin) over these stimuli."""
        origin = self._averages[rows[0]].astype(np.float64)  # exact for constants
        total = np.zeros((2, *origin.shape))
        for part in np.array_split(rows, max(1, self._averages.nbytes >> 26)):
            shifted = self._averages[part] - origin
            total += shifted.sum(0), (shifted**2).sum(0)
        mean = total[0] / len(rows)
        variance = np.maximum(total[1] / len(rows) - mean**2, 0)
        return torch.from_numpy(mean + origin), torch.from_numpy(variance)

    def read(self, rows: np.ndarray[Any, Any]) -> Tensor:
        """Return the averages of these stimuli, in this order; the file is read in its own."""
        if self.in_memory:
            return torch.from_numpy(self._averages[rows])
        order = np.argsort(rows)
        found = np.empty((len(rows), *self._averages.shape[1:]), self._averages.dtype)
        found[order] = self._averages[rows[order]]
        return torch.from_numpy(found)


class Images:
    """Preprocessed images by row; up to ``memory`` bytes of them are kept once they were made.

    Args:
        images: a tensor (stimulus, channel, height, width), which is taken as it is, or stimuli.
        preprocessing: from a stimulus to the network's input.
        field_degrees: width of the network's input in degrees of visual angle, if known.
        memory: bytes.

    Raises:
        ValueError: stimuli without preprocessing, or a tensor with.
    """

    def __init__(
        self,
        images: Tensor | Stimuli,
        *,
        preprocessing: Preprocessing | None,
        field_degrees: float | None = None,
        memory: int = IMAGE_BYTES,
    ) -> None:
        """Check that the two fit together."""
        if isinstance(images, Tensor):
            if preprocessing is not None:
                raise ValueError(
                    "preprocessing applies to stimuli, and images is a tensor, which the model "
                    "sees as it is. Leave preprocessing out."
                )
            if images.ndim < 2 or not images.is_floating_point():
                raise ValueError(
                    f"images has shape {tuple(images.shape)} and type {images.dtype}; expected "
                    "floats, one image a row, as the model takes them."
                )
        elif preprocessing is None:
            raise ValueError(
                "images are stimuli, and how the model wants them is unknown. Pass "
                "preprocessing=Preprocessing(size=…), a repalign Network, or images as a tensor."
            )
        self.images, self.preprocessing = images, preprocessing
        self.field_degrees, self.memory = field_degrees, memory
        self._kept: Tensor | None = images if isinstance(images, Tensor) else None
        self._made = np.full(len(images), isinstance(images, Tensor))
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._made)

    def _make(self, row: int) -> Tensor:
        assert isinstance(self.images, Stimuli)
        assert self.preprocessing is not None
        return preprocess(
            self.images.image(row),
            self.preprocessing,
            shown_degrees=self.images.visual_degrees,
            field_degrees=self.field_degrees,
        )

    def read(self, rows: np.ndarray[Any, Any]) -> Tensor:
        """Return the images of these rows; two threads may ask at once."""
        with self._lock:
            if self._kept is None:
                first = self._make(int(rows[0]))
                if first.numel() * first.element_size() * len(self) > self.memory:
                    return torch.stack([first, *(self._make(int(row)) for row in rows[1:])])
                self._kept = first.new_empty(len(self), *first.shape)
            for row in rows[~self._made[rows]]:
                self._kept[int(row)] = self._make(int(row))
                self._made[row] = True
            return self._kept[torch.from_numpy(rows).to(self._kept.device)]


def base_stimuli(
    images: Tensor | Stimuli | None, targets: Sequence[Target]
) -> tuple[Tensor | Stimuli, list[str]]:
    """Return the images and the id of each: those of the first recording where none are given.

    A tensor's rows are the stimuli of the first recording in order of first presentation; beside
    plain arrays they are numbered.

    Raises:
        ValueError: no images anywhere, or as many images as there are no stimuli.
    """
    recordings = [target for target in targets if isinstance(target, xr.Dataset)]
    if images is None:
        if not recordings:
            raise ValueError(
                "target is a plain array, which brings no images. Pass images= as a tensor (image, "
                "channel, height, width) whose rows are the target's."
            )
        images = open_stimuli(recordings[0])
    if isinstance(images, Stimuli):
        return images, list(images.ids)
    if not isinstance(images, Tensor):
        raise TypeError(f"images is a {type(images).__name__}; expected a tensor or Stimuli.")
    if not recordings or STIMULUS not in recordings[0].coords:
        return images, [f"row {row}" for row in range(len(images))]
    ids = stimulus_ids(recordings[0])
    if len(ids) != len(images):
        raise ValueError(
            f"images has {len(images)} rows and the target {len(ids)} stimuli; expected one image "
            "a stimulus, in order of first presentation. Or pass Stimuli, which have ids."
        )
    return images, ids

"""Batches of images with the responses that they evoked, in a seeded order, read ahead."""

import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from repalign.network_cards import Preprocessing
from repalign.recording import stimulus_ids as ids_of
from repalign.regularize.neural_sources import (
    IMAGE_BYTES,
    RESPONSE_BYTES,
    Images,
    Responses,
    Target,
    as_recording,
    base_stimuli,
)
from repalign.stimuli import Stimuli


class NeuralBatch(NamedTuple):
    """Some stimuli: their images, and each target's average responses to them.

    Args:
        images: as the model takes them.
        responses: one tensor a target, (stimulus, neuroid) or (stimulus, neuroid, time_bin).
        ids: the stimuli.
        rows: their positions in `NeuralBatches.shared`.
    """

    images: Float[Tensor, "stimulus *image"]
    responses: tuple[Tensor, ...]
    ids: tuple[str, ...]
    rows: np.ndarray[Any, Any]


def as_batch(batch: NeuralBatch | tuple[Tensor, Tensor]) -> NeuralBatch:
    """Return a pair of images and responses as a batch that does not know its stimuli.

    Raises:
        ValueError: their numbers differ.
    """
    if isinstance(batch, NeuralBatch):
        return batch
    images, responses = batch
    if len(images) != len(responses):
        raise ValueError(
            f"the batch has {len(images)} images and {len(responses)} rows of responses; expected "
            "one row an image."
        )
    return NeuralBatch(images, (responses,), (), np.zeros(0, np.int64))


class _Reader:
    """What the thread that reads ahead holds: the sources, and nothing that waits for it."""

    def __init__(
        self,
        images: Images,
        image_rows: list[int],
        responses: Sequence[Responses],
        ids: list[str],
        *,
        pin: bool,
    ) -> None:
        self.images, self.responses, self.ids, self.pin = images, responses, ids, pin
        self.image_rows = np.asarray(image_rows)

    def read(self, rows: np.ndarray[Any, Any]) -> NeuralBatch:
        images = self.images.read(self.image_rows[rows])
        images = images.pin_memory() if self.pin and images.device.type == "cpu" else images
        responses = tuple(source.read(rows) for source in self.responses)
        return NeuralBatch(images, responses, tuple(self.ids[row] for row in rows), rows)


class NeuralBatches(Iterator[NeuralBatch]):
    """An endless stream of neural batches; every epoch is a new permutation of the stimuli.

    The order is a function of (seed, epoch) alone, and an incomplete last batch is dropped. While
    a batch is used one thread reads the next.

    Args:
        target: a recording, a plain array (stimulus, neuroid) or (repeat, stimulus, neuroid)
            whose rows are the images', or several of them by name. Only stimuli that all of them
            share are used.
        images: `Stimuli`, or a tensor that the model takes as it is; None: those that the
            (first) recording was ingested with. The rows of a tensor beside a recording are its
            stimuli in order of first presentation.
        preprocessing: from stimuli to the model's input.
        batch_size: stimuli a batch; fewer where there are fewer stimuli.
        seed: of the order.
        stimulus_ids: the stimuli to use, such as those of the training split; all by default.
        minimum: fewest stimuli that a batch must have.
        prefetch: read ahead.
        field_degrees: width of the model's input in degrees of visual angle, if known.
        response_bytes: averages up to this size stay in memory, larger ones in a temporary file.
        image_bytes: preprocessed images up to this size stay in memory.
        pin_memory: lay images where a GPU copies them while it computes.
        verbose: say on stderr how many stimuli are shared where they are not all.

    Raises:
        ValueError: numbers of stimuli and images that differ, no shared stimulus, fewer than
            ``minimum``, an unknown stimulus, or responses that are partly NaN.

    Example:
        >>> import torch
        >>> batches = NeuralBatches(np.eye(6), images=torch.zeros(6, 3, 4, 4), batch_size=4)
        >>> batch = next(batches)
        >>> batch.images.shape, batch.responses[0].shape
        (torch.Size([4, 3, 4, 4]), torch.Size([4, 6]))
    """

    def __init__(
        self,
        target: Target | Mapping[str, Target],
        *,
        images: Tensor | Stimuli | None = None,
        preprocessing: Preprocessing | None = None,
        batch_size: int = 128,
        seed: int = 0,
        stimulus_ids: Sequence[str] | None = None,
        minimum: int = 1,
        prefetch: bool = True,
        field_degrees: float | None = None,
        response_bytes: int = RESPONSE_BYTES,
        image_bytes: int = IMAGE_BYTES,
        pin_memory: bool = False,
        verbose: bool = True,
    ) -> None:
        """Match stimuli by id, and average the responses of those that are shared."""
        if batch_size < 1 or seed < 0:
            raise ValueError(f"batch_size is {batch_size} and seed {seed}; expected ≥ 1 and ≥ 0.")
        named = _by_name(target)
        pictures, base = base_stimuli(images, list(named.values()))
        self.recordings = {name: as_recording(one, base, name) for name, one in named.items()}
        self.shared = _shared(base, {name: ids_of(ds) for name, ds in self.recordings.items()})
        self.n_shared, self.base = len(self.shared), base
        self.stimuli = pictures if isinstance(pictures, Stimuli) else None
        if verbose and self.n_shared < max(
            map(len, (base, *map(ids_of, self.recordings.values())))
        ):
            print(_account(self.shared, base, self.recordings), file=sys.stderr)
        position = {name: row for row, name in enumerate(self.shared)}
        self._rows = np.arange(self.n_shared)
        if stimulus_ids is not None:
            unknown = [name for name in stimulus_ids if name not in position]
            if unknown:
                raise ValueError(
                    f"{len(unknown)} of {len(stimulus_ids)} stimulus_ids (first {unknown[0]!r}) "
                    f"are not among the {self.n_shared} shared stimuli. Leave them out."
                )
            self._rows = np.array([position[name] for name in dict.fromkeys(stimulus_ids)])
        self.ids = [self.shared[row] for row in self._rows]
        self.batch_size = min(batch_size, len(self.ids))
        if self.batch_size < minimum:
            raise ValueError(
                f"A batch has {self.batch_size} stimuli (batch_size={batch_size}, of "
                f"{len(self.ids)} stimuli); the metric needs {minimum} or more. Raise batch_size, "
                "or train on more stimuli."
            )
        sources = [
            Responses(ds, self.shared, name=name, memory=response_bytes)
            for name, ds in self.recordings.items()
        ]
        places = {name: row for row, name in enumerate(base)}
        source = Images(
            pictures, preprocessing=preprocessing, field_degrees=field_degrees, memory=image_bytes
        )
        rows = [places[name] for name in self.shared]
        self._reader = _Reader(source, rows, sources, self.shared, pin=pin_memory)
        self.seed, self.prefetch = seed, prefetch
        self.epoch = self.position = 0
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: tuple[tuple[int, int], Future[NeuralBatch]] | None = None

    @property
    def responses(self) -> tuple[Responses, ...]:
        """The averaged responses of each target."""
        return tuple(self._reader.responses)

    @property
    def batches_per_epoch(self) -> int:
        """How many whole batches the stimuli make."""
        return len(self._rows) // self.batch_size

    def read(self, ids: Sequence[str]) -> NeuralBatch:
        """Return the images and responses of these stimuli, without moving on."""
        position = {name: row for row, name in enumerate(self.shared)}
        unknown = [name for name in ids if name not in position]
        if unknown:
            raise ValueError(
                f"no stimulus {unknown[0]!r} among the {self.n_shared} shared ones; "
                f"{len(unknown)} of {len(ids)} are unknown."
            )
        return self._reader.read(np.array([position[name] for name in ids], dtype=np.int64))

    def order(self, epoch: int) -> np.ndarray[Any, Any]:
        """Return the order of an epoch: rows of `shared`, a function of (seed, epoch)."""
        return np.random.default_rng([self.seed, epoch]).permutation(self._rows)

    def _rows_of(self, place: tuple[int, int]) -> np.ndarray[Any, Any]:
        epoch, position = place
        return self.order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]

    def _after(self, place: tuple[int, int]) -> tuple[int, int]:
        epoch, position = place
        return (epoch, position + 1) if position + 1 < self.batches_per_epoch else (epoch + 1, 0)

    def __next__(self) -> NeuralBatch:
        """Return the next batch, and begin to read the one after it."""
        place = self.epoch, self.position
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == place:
            batch = ahead[1].result()  # raises here what was raised there
        else:
            batch = self._reader.read(self._rows_of(place))
        self.epoch, self.position = following = self._after(place)
        if self.prefetch:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="neural-batches")
                weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
            rows = self._rows_of(following)
            self._ahead = following, self._pool.submit(self._reader.read, rows)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the stream, and what makes it mean the same stimuli."""
        place = {"epoch": self.epoch, "position": self.position}
        return place | self._identity()

    def _identity(self) -> dict[str, int]:
        return {"seed": self.seed, "batch_size": self.batch_size, "n_stimuli": len(self.ids)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken.

        Raises:
            ValueError: it was taken with another seed, batch size or number of stimuli.
        """
        for name, mine in self._identity().items():
            if state[name] != mine:
                raise ValueError(
                    f"the state was saved with {name}={state[name]}, and this run has {mine}; "
                    "resume with the same."
                )
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        self._ahead = None


def _by_name(target: Target | Mapping[str, Target]) -> dict[str, Target]:
    if isinstance(target, Mapping) and not isinstance(target, xr.Dataset):
        if not target:
            raise ValueError("target holds no recording; expected one or more.")
        return dict(target)
    return {"target": target}


def _shared(base: Sequence[str], recordings: Mapping[str, Sequence[str]]) -> list[str]:
    sets = [set(ids) for ids in recordings.values()]
    shared = [name for name in base if all(name in ids for ids in sets)]
    if not shared:
        counts = ", ".join(f"{name} {len(ids)}" for name, ids in recordings.items())
        first = next(iter(recordings.values()))
        raise ValueError(
            f"0 stimuli are shared by the {len(base)} images (such as {base[0]!r}) and the "
            f"responses ({counts}; such as {first[0]!r}); ids must be equal to match."
        )
    return shared


def _account(shared: Sequence[str], base: Sequence[str], recordings: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{len(ids_of(ds))} in {name}" for name, ds in recordings.items())
    return f"{len(shared)} stimuli matched by id, of {len(base)} images and {counts}"

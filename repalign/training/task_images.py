"""Labelled images in parts: what every source of task data comes to.

Images are pixels in [0, 1] at the size of the network's input; the network's own mean and
standard deviation are applied later, so that augmentations and attacks work on pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.network_cards import Preprocessing
from repalign.networks import preprocess

SPLIT_SEED = 0
Images = Float[Tensor, "image channel height width"]
Labels = Int[Tensor, " image"]


class ImageSet(Protocol):
    """What a torch map-style dataset of (image, label) offers.

    One that also has ``batch(indices) -> (images, labels)`` is read a batch at a time, and one
    with ``labels`` has them checked before training begins.
    """

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        """Return one image (channel × height × width, in [0, 1]) and its label."""


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Labelled images in parts that share none.

    Args:
        name: how results call the data.
        train, validation: images to learn from, and to watch learning by.
        classes: name of each label.
        test: images that training never sees, where the source sets some apart.
    """

    name: str
    train: ImageSet
    validation: ImageSet
    classes: tuple[str, ...]
    test: ImageSet | None = None

    def __post_init__(self) -> None:
        """Check that no part is empty."""
        for part in ("train", "validation"):
            if len(getattr(self, part)) == 0:
                raise ValueError(f"{self.name}: the {part} part has no images")

    def fingerprint(self) -> str:
        """sha256 of name, sizes, labels and, where they are in memory, the pixels."""
        digest = hashlib.sha256(repr((self.name, self.classes)).encode())
        for part in filter(None, (self.train, self.validation, self.test)):
            digest.update(str(len(part)).encode())
            for kept in ("images", "labels"):
                tensor = getattr(part, kept, None)
                if isinstance(tensor, Tensor):
                    digest.update(tensor.contiguous().numpy().tobytes())
        return f"sha256:{digest.hexdigest()}"


class TensorImages:
    """Images and labels in memory."""

    def __init__(self, images: Images, labels: Labels) -> None:
        """Keep both, which must be equally many."""
        if len(images) != len(labels):
            raise ValueError(f"{len(labels)} labels for {len(images)} images")
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image and its label."""
        return self.images[index], int(self.labels[index])

    def batch(self, indices: Sequence[int]) -> tuple[Images, Labels]:
        """Return several at once."""
        rows = torch.as_tensor(indices)
        return self.images[rows], self.labels[rows]


class ReadImages:
    """Images that a function reads by index, each preprocessed when it is asked for."""

    def __init__(
        self,
        read: Callable[[int], np.ndarray[Any, Any]],
        indices: Sequence[int],
        labels: Sequence[int],
        preprocessing: Preprocessing,
    ) -> None:
        """Keep the reader, and which of its images belong to this part."""
        self.read, self.indices = read, list(indices)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image and its label."""
        image = self.read(self.indices[index])
        return preprocess(image, self.preprocessing), int(self.labels[index])


def stratified_split(
    labels: Sequence[int] | np.ndarray[Any, Any], share: float, *, seed: int = SPLIT_SEED
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Indices of the rest and of a random ``share`` of each class, both in order.

    A class of two or more images gives at least one and keeps at least one.

    Example:
        >>> rest, part = stratified_split([0, 0, 0, 0, 1, 1], 0.5)
        >>> len(rest), len(part)
        (3, 3)
    """
    values = np.asarray(labels)
    random = np.random.default_rng(seed)
    taken = np.zeros(len(values), dtype=bool)
    for label in np.unique(values):
        rows = random.permutation(np.flatnonzero(values == label))
        number = min(max(round(share * len(rows)), 1), len(rows) - 1)
        taken[rows[:number]] = True
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def check_labels(labels: Labels, n_outputs: int, what: str) -> None:
    """Raise a ValueError where a label has no output of the network."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_outputs:
        wrong = low if low < 0 else high
        raise ValueError(
            f"{what} has the label {wrong}, and the network has {n_outputs} outputs: labels go"
            f" from 0 to {n_outputs - 1}; number them so, or take a network with more outputs"
        )

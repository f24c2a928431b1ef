"""Batches of task images: their order and their augmentation are functions of seeds alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from repalign.training.augmentation import Augmentation
from repalign.training.task_images import Images, ImageSet, Labels


def seeded(*entropy: int) -> torch.Generator:
    """A generator that is a function of these numbers alone."""
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


def epoch_order(n_images: int, *, seed: int, epoch: int) -> list[int]:
    """The order of the images in one epoch: a permutation that (seed, epoch) decides.

    Example:
        >>> sorted(epoch_order(4, seed=0, epoch=7))
        [0, 1, 2, 3]
    """
    order: list[int] = torch.randperm(n_images, generator=seeded(seed, epoch)).tolist()
    return order


def read_batch(
    images: ImageSet,
    indices: Sequence[int],
    *,
    augmentations: Sequence[Augmentation] = (),
    seed: int = 0,
    epoch: int = 0,
) -> tuple[Images, Labels]:
    """Images and labels at these indices; augmentation depends on (seed, epoch, index) alone."""
    whole: Callable[[Sequence[int]], tuple[Images, Labels]] | None = getattr(images, "batch", None)
    if whole is not None:
        pixels, labels = whole(indices)
    else:
        items = [images[index] for index in indices]
        pixels = torch.stack([torch.as_tensor(image) for image, _ in items])
        labels = torch.tensor([int(label) for _, label in items])
    if augmentations:
        changed = []
        for index, image in zip(indices, pixels, strict=True):
            generator = seeded(seed, epoch, index)
            for augmentation in augmentations:
                image = augmentation(image, generator)
            changed.append(image)
        pixels = torch.stack(changed)
    return pixels, labels


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """The batches of an epoch as the items of a dataset, so that workers make whole batches."""

    def __init__(self, images: ImageSet, batches: Sequence[Sequence[int]], how: Any) -> None:
        self.images, self.batches, self.how = images, batches, how

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return read_batch(self.images, self.batches[index], **self.how)


def iterate_batches(
    images: ImageSet,
    batches: Sequence[Sequence[int]],
    *,
    workers: int = 0,
    augmentations: Sequence[Augmentation] = (),
    seed: int = 0,
    epoch: int = 0,
) -> Iterator[tuple[Images, Labels]]:
    """Read batches in order, in ``workers`` processes where that is more than 0.

    The number of workers changes no value, and torch's global random numbers are not touched.
    """
    how = {"augmentations": augmentations, "seed": seed, "epoch": epoch}
    if workers == 0:
        for indices in batches:
            yield read_batch(images, indices, augmentations=augmentations, seed=seed, epoch=epoch)
        return
    loader = DataLoader(
        _Batches(images, batches, how),
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),
    )
    yield from loader

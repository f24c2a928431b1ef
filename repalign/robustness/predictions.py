"""Batches of images, and what a model answers to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from repalign.metrics.calls import pick_device
from repalign.progress import track
from repalign.robustness.perturbations import Bounds, Labels, Model

if TYPE_CHECKING:
    from repalign.networks import Network

Array = Tensor | np.ndarray[Any, Any]
Batch = tuple[Tensor, Tensor | None]
Flags = Bool[Tensor, "image"]
Step = TypeVar("Step")

LABELS = "labels"
OWN = "own clean prediction"


def as_batches(
    images: Array | Iterable[Any],
    labels: Array | None = None,
    *,
    batch_size: int = 128,
    bounds: Bounds = (0.0, 1.0),
) -> Iterator[Batch]:
    """Yield checked (images, labels) batches; labels are None where there are none.

    Args:
        images: (image, channel, height, width) with values within ``bounds``, or an iterable of
            (images, labels) batches such as a DataLoader, which is run through once.
        labels: class of each image, from 0; None for agreement with the model's own prediction,
            and where the batches bring them.
        batch_size: images at a time; batches that come as such keep their size.
        bounds: least and greatest pixel value.

    Raises:
        ValueError: no images, another shape, values out of bounds, or counts that differ.
        TypeError: images that are no floats, or labels that are no integers.

    Example:
        >>> [len(batch) for batch, _ in as_batches(torch.rand(5, 1, 8, 8), batch_size=2)]
        [2, 2, 1]
    """
    check_bounds(bounds)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more.")
    if isinstance(images, Tensor | np.ndarray):
        checked, classes = _checked(images, labels, bounds)
        for start in range(0, len(checked), batch_size):
            rows = slice(start, start + batch_size)
            yield checked[rows], None if classes is None else classes[rows]
        return
    if labels is not None:
        raise ValueError(
            "labels were given beside batches. Leave them out: each batch brings its own, as "
            "(images, labels)."
        )
    count = 0
    for batch in images:
        paired = isinstance(batch, tuple | list) and len(batch) == 2
        pixels, classes = batch if paired else (batch, None)
        count += 1
        yield _checked(pixels, classes, bounds)
    if not count:
        raise ValueError("there are no batches; expected 1 or more. An iterator runs only once.")


def count_batches(images: Array | Iterable[Any], batch_size: int) -> int | None:
    """Return how many batches there will be; None where an iterable does not say."""
    if isinstance(images, Tensor | np.ndarray):
        return -(-len(images) // max(batch_size, 1))  # `as_batches` refuses 0
    return len(images) if isinstance(images, Sized) else None


def tracked(steps: Iterator[Step], total: int | None, label: str, *, show: bool) -> Iterator[Step]:
    """Iterate with a progress bar of ``total`` steps, and without one where that is not known."""
    bar = iter(track(range(total), label, show=show)) if total is not None else iter(())
    next(bar, None)
    for step in steps:
        yield step
        next(bar, None)


def check_bounds(bounds: Bounds) -> None:
    """Raise a ValueError unless the bounds are a least and a greater value."""
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise ValueError(f"bounds are {bounds}; expected the least and the greatest pixel value.")


def _checked(images: Any, labels: Any, bounds: Bounds) -> Batch:
    pixels = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
    if not isinstance(pixels, Tensor) or not pixels.is_floating_point():
        kind = pixels.dtype if isinstance(pixels, Tensor) else type(pixels).__name__
        raise TypeError(
            f"images are {kind}; expected floats within {bounds}. Divide bytes by 255 first."
        )
    if pixels.ndim != 4 or 0 in pixels.shape:
        raise ValueError(
            f"images have shape {tuple(pixels.shape)}; expected (image, channel, height, width)."
        )
    low, high = pixels.detach().aminmax()
    if not (low >= bounds[0] - 1e-6 and high <= bounds[1] + 1e-6):
        raise ValueError(
            f"images have values from {float(low):g} to {float(high):g}; expected {bounds[0]:g} to "
            f"{bounds[1]:g}. Give images in pixel space and put the normalisation into the model "
            "(PixelNetwork), or set bounds."
        )
    pixels = pixels.clamp(*bounds)
    if labels is None:
        return pixels, None
    return pixels, as_labels(labels, len(pixels))


def as_labels(labels: Any, n_images: int) -> Labels:
    """Return labels as int64; raise unless they are whole numbers, one an image."""
    classes = torch.as_tensor(labels)
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise TypeError(f"labels are {classes.dtype}; expected integers, the class of each image.")
    if classes.shape != (n_images,):
        raise ValueError(
            f"labels have shape {tuple(classes.shape)} for {n_images} images; expected one "
            "class an image."
        )
    return classes.long()


def as_model(model: Model | Network) -> Model:
    """Return what maps pixels to logits: a network of a card gets its normalisation inside."""
    from repalign.networks import Network
    from repalign.robustness.pixels import PixelNetwork

    if isinstance(model, Network):
        return PixelNetwork.of(model)
    if not callable(model):
        raise TypeError(f"model is a {type(model).__name__}; expected a module or a function.")
    return model


@contextlib.contextmanager
def evaluating(
    model: Model, *, device: str | torch.device = "auto", seed: int = 0
) -> Iterator[torch.device]:
    """Within the block the model is on ``device`` and in evaluation mode, and is seeded.

    Afterwards its device, the mode of each of its modules, and torch's random numbers are as
    before. What a callable that is no module computes on is its own affair.
    """
    where = pick_device(device)
    modes, home = {}, None
    if isinstance(model, nn.Module):
        modes = {part: part.training for part in model.modules()}
        tensors = [*model.parameters(), *model.buffers()]
        home = tensors[0].device if tensors else None
    devices = [where] if where.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if where.type == "cuda":
            torch.cuda.manual_seed(seed)
        try:
            if isinstance(model, nn.Module):
                model.eval().to(where)
            yield where
        finally:
            for part, mode in modes.items():
                part.training = mode
            if isinstance(model, nn.Module) and home is not None:
                model.to(home)


def logits_of(
    model: Model, images: Float[Tensor, "image channel height width"]
) -> Float[Tensor, "image class"]:
    """Return the model's logits without gradients, checked.

    Raises:
        TypeError, ValueError: the model gives something else than finite (image, class) logits.
    """
    with torch.no_grad():
        logits = model(images)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the model gives a {type(logits).__name__}; expected a tensor of logits. Wrap it."
        )
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise ValueError(
            f"the model gives shape {tuple(logits.shape)} for {len(images)} images; expected "
            "logits (image, class) of 2 or more classes."
        )
    if not bool(logits.isfinite().all()):
        bad = int((~logits.isfinite()).any(1).sum())
        raise ValueError(
            f"the model gives logits that are NaN or infinite for {bad} of {len(images)} images; "
            "its accuracy is void. Look at its weights and its preprocessing."
        )
    return logits


def check_labels(labels: Labels, n_classes: int) -> None:
    """Raise a ValueError that names the first label the model has no logit for."""
    wrong = ((labels < 0) | (labels >= n_classes)).nonzero()[:, 0]
    if len(wrong):
        raise ValueError(
            f"label {int(labels[wrong[0]])} is out of range; the model has {n_classes} classes, "
            f"0 to {n_classes - 1}. Map the labels to the model's classes."
        )


def reference_and_correct(
    model: Model, images: Tensor, labels: Tensor | None
) -> tuple[Labels, Flags]:
    """Return what counts as right, the labels or else the model's prediction, and who is right."""
    logits = logits_of(model, images)
    predicted = logits.argmax(1)
    if labels is None:
        return predicted, torch.ones_like(predicted, dtype=torch.bool)
    labels = labels.to(predicted.device)
    check_labels(labels, logits.shape[1])
    return labels, predicted == labels


def derived_seed(*numbers: int) -> int:
    """Return one seed of several numbers, so that (0, 1) and (1, 0) differ."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))

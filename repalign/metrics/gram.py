"""Gram matrices of responses in working precision: what every metric here starts from."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

BLOCK_ELEMENTS = 1 << 21  # 16 MiB of float64: what a pass over the features holds at a time


def in_working_precision(x: Tensor) -> Tensor:
    """Return ``x`` in float64, or in float32 on a device (mps) that has no float64."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def check_responses(x: Tensor, *, name: str = "x", at_least: int = 2) -> None:
    """Raise a ValueError unless ``x`` is stimulus × neuroid with enough stimuli."""
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; expected stimulus × neuroid. "
            "Average repetitions first, and flatten feature maps."
        )
    if x.shape[0] < at_least:
        raise ValueError(
            f"{name} has {x.shape[0]} stimuli; at least {at_least} are needed. Select more stimuli."
        )


def check_same_stimuli(x: Tensor, y: Tensor) -> None:
    """Raise a ValueError unless ``x`` and ``y`` have as many rows."""
    if x.shape[0] != y.shape[0]:
        raise ValueError(
            f"x has {x.shape[0]} stimuli and y has {y.shape[0]}; rows must be the same stimuli in "
            "the same order. Align both on stimulus_id first."
        )


def centre(x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """Subtract the mean along ``dim``; what is constant along it becomes exactly zero."""
    shifted = x - x.narrow(dim, 0, 1)  # exact for constants, where subtracting a mean is not
    return shifted - shifted.mean(dim, keepdim=True)


def column_blocks(x: Float[Tensor, "stimulus neuroid"]) -> Iterator[Tensor]:
    """Yield ``x`` in working precision, a bounded number of columns at a time."""
    for block in torch.split(x, max(1, BLOCK_ELEMENTS // x.shape[0]), dim=1):
        yield in_working_precision(block)


def symmetric_product(a: Float[Tensor, "row column"]) -> Float[Tensor, "row row"]:
    """Return ``a @ a.T``, through BLAS' SYRK where that is possible (half the work)."""
    if a.device.type != "cpu" or a.requires_grad:
        return a @ a.mT
    view = a.numpy()
    with np.errstate(all="ignore"):  # NaN in, NaN out, as torch does
        return torch.from_numpy(view @ view.T)


def centred_gram(
    blocks: Iterable[Float[Tensor, "stimulus column"]],
) -> Float[Tensor, "stimulus stimulus"]:
    """Sum the products of column-centred blocks: the Gram matrix of all their columns."""
    products = (symmetric_product(centre(block, 0)) for block in blocks)
    total = next(products)
    for product in products:
        total = total + product
    return total

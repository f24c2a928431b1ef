"""Gram matrices of responses in working precision: what every metric here starts from."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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
    """Raise a ValueError unless ``x`` and ``y`` (… × stimulus × neuroid) have as many stimuli."""
    if x.shape[-2] != y.shape[-2]:
        raise ValueError(
            f"x has {x.shape[-2]} stimuli and y has {y.shape[-2]}; rows must be the same stimuli "
            "in the same order. Align both on stimulus_id first."
        )


def centre(x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """Subtract the mean along ``dim``; what is constant along it becomes exactly zero."""
    shifted = x - x.narrow(dim, 0, 1)  # exact for constants, where subtracting a mean is not
    shifted -= shifted.mean(dim, keepdim=True)
    return shifted


def column_blocks(x: Float[Tensor, "*batch stimulus neuroid"]) -> Iterator[Tensor]:
    """Yield ``x`` in working precision, a bounded number of columns at a time."""
    rows = x.numel() // x.shape[-1]
    for block in torch.split(x, max(1, BLOCK_ELEMENTS // rows), dim=-1):
        yield in_working_precision(block)


def _on_cpu(*tensors: Tensor) -> bool:
    return all(one.device.type == "cpu" and not one.requires_grad for one in tensors)


@contextmanager
def cores_for_blas(x: Tensor) -> Iterator[None]:
    """Keep torch to one thread where its operations alternate with numpy's BLAS, then restore it.

    After an operation on several threads torch's idle ones spin for some milliseconds, on the cores
    that BLAS would use: small RDMs took several times as long. What is between the products is
    bound by memory, where one thread is nearly as fast.
    """
    threads = torch.get_num_threads()
    if threads == 1 or not _on_cpu(x):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def product(a: Float[Tensor, "*batch row k"], b: Float[Tensor, "*batch k column"]) -> Tensor:
    """Return ``a @ b``, on the CPU through numpy's BLAS, which is a sixth faster than torch's."""
    if not _on_cpu(a, b):
        return a @ b
    with np.errstate(all="ignore"):  # NaN in, NaN out, as torch does
        return torch.from_numpy(a.numpy() @ b.numpy())


def symmetric_product(a: Float[Tensor, "*batch row column"]) -> Float[Tensor, "*batch row row"]:
    """Return ``a @ a.mT``, through BLAS' SYRK where that is possible (half the work)."""
    if not _on_cpu(a):
        return a @ a.mT
    view = a.numpy()
    with np.errstate(all="ignore"):  # NaN in, NaN out, as torch does
        return torch.from_numpy(view @ view.swapaxes(-1, -2))


def centred_gram(
    blocks: Iterable[Float[Tensor, "stimulus column"]],
) -> Float[Tensor, "stimulus stimulus"]:
    """Sum the products of column-centred blocks: the Gram matrix of all their columns."""
    remaining = iter(blocks)
    first = next(remaining)
    with cores_for_blas(first):
        total = symmetric_product(centre(first, 0))
        for block in remaining:
            total = total + symmetric_product(centre(block, 0))
    return total

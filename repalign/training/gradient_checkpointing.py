"""Less memory for more time: parts of a network are run again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@contextlib.contextmanager
def checkpointed(module: nn.Module) -> Iterator[list[str]]:
    """Within the block the blocks of a module keep their input only, and run again for gradients.

    Blocks are the module's children that have children of their own; a Sequential of such blocks
    counts as its blocks. The second run sees the random numbers and the training mode of the
    first, and leaves the running statistics of batch normalisation alone, so weights and buffers
    after training are those of training without it.

    Args:
        module: any torch module.

    Yields:
        The names of the blocks.

    Raises:
        ValueError: there is no such block, so nothing would be saved.

    Example:
        >>> net = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 1))
        >>> with checkpointed(net) as names:
        ...     net(torch.ones(1, 2)).sum().backward()
        >>> names
        ['0']

    References:
        Chen, Xu, Zhang & Guestrin (2016). Training deep nets with sublinear memory cost.
        DOI 10.48550/arXiv.1604.06174.
    """
    blocks = list(_blocks(module, ""))
    if not blocks:
        raise ValueError(
            f"gradient_checkpointing: {type(module).__name__} has no child with children of its"
            " own, so nothing would be saved; leave it out"
        )
    with contextlib.ExitStack() as stack:
        for _, block in blocks:
            block.forward = partial(_twice, block, block.forward)
            stack.callback(delattr, block, "forward")
        yield [name for name, _ in blocks]


def _blocks(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        nested = any(True for part in child.children() for _ in part.children())
        if isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict) and nested:
            yield from _blocks(child, f"{prefix}{name}.")
        elif any(True for _ in child.children()) and "forward" not in vars(child):
            yield f"{prefix}{name}", child


def _twice(block: nn.Module, forward: Any, *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(
        forward,
        *inputs,
        use_reentrant=False,
        context_fn=partial(_contexts, block),
        **named,
    )


def _contexts(
    block: nn.Module,
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """For the first run nothing, for the second the modes of the first and still statistics."""
    modes = [(part, part.training) for part in block.modules()]
    return contextlib.nullcontext(), _as_before(modes)


@contextlib.contextmanager
def _as_before(modes: list[tuple[nn.Module, bool]]) -> Iterator[None]:
    now = [(part, part.training) for part, _ in modes]
    statistics = [
        (part, name, part._buffers[name])
        for part, training in modes
        if isinstance(part, _BatchNorm) and training
        for name in STATISTICS
    ]
    try:
        for part, training in modes:
            part.training = training
        for part, name, kept in statistics:  # copies take the second update, and are dropped
            part._buffers[name] = None if kept is None else kept.clone()
        yield
    finally:
        for part, training in now:
            part.training = training
        for part, name, kept in statistics:
            part._buffers[name] = kept

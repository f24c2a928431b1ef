"""Hooks: the outputs of a module's layers while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from repalign.networks import find_layers


@contextlib.contextmanager
def stream(
    module: nn.Module, layers: Sequence[str], take: Callable[[str, Any], None]
) -> Iterator[None]:
    """Within the block, every output of the named layers is handed on while the module runs.

    The output is the layer's own and not a copy: what is to be kept of it has to be copied before
    ``take`` returns, since a later in-place operation may change it.

    Args:
        module: any torch module.
        layers: module names, or patterns (see `repalign.networks.find_layers`).
        take: called with name and output each time a layer has run; an error ends the pass. The
            hooks are gone after the block, also where it ends by an error.

    Example:
        >>> import torch
        >>> sums = {}
        >>> net = nn.Sequential(nn.Flatten(), nn.ReLU())
        >>> with stream(net, ["*"], lambda name, output: sums.update({name: output.sum().item()})):
        ...     _ = net(-torch.ones(2, 3))
        >>> sums
        {'0': -6.0, '1': 0.0}
    """
    names = find_layers(module, layers)
    modules = dict(module.named_modules())

    def hook(name: str) -> Any:
        def hand_on(_module: nn.Module, _inputs: Any, output: Any) -> None:
            take(name, output)

        return hand_on

    with contextlib.ExitStack() as stack:
        for name in names:
            stack.callback(modules[name].register_forward_hook(hook(name)).remove)
        yield


@contextlib.contextmanager
def capture(
    module: nn.Module, layers: Sequence[str], *, detach: bool = True
) -> Iterator[dict[str, Tensor]]:
    """Within the block, every forward pass leaves the outputs of the named layers in a dict.

    The outputs are copies, so a later in-place operation cannot change them. A layer that runs
    several times in one pass keeps its last output; of a tuple or dict the first tensor counts.

    Args:
        module: any torch module.
        layers: module names, or patterns (see `repalign.networks.find_layers`).
        detach: cut the copies off the graph; False keeps their gradients.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
        >>> with capture(net, ["0"]) as seen:
        ...     _ = net(torch.ones(5, 2))
        >>> seen["0"].shape
        torch.Size([5, 3])
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        tensor = first_tensor(output, name)
        seen[name] = tensor.detach().clone() if detach else tensor.clone()

    with stream(module, layers, keep):
        yield seen


def first_tensor(output: Any, name: str) -> Tensor:
    """Return a layer's output, or the first tensor of it."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output
    if isinstance(output, dict | list | tuple):
        for value in values:
            if isinstance(value, Tensor):
                return value
    raise TypeError(f"layer {name!r} gives a {type(output).__name__}, which holds no tensor")

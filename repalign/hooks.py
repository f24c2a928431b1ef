"""Hooks: the outputs of a module's layers while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from repalign.layer_outputs import LayerReader, layer_readers
from repalign.networks import find_layers


@contextlib.contextmanager
def stream(
    module: nn.Module,
    layers: Sequence[str],
    take: Callable[[str, Tensor], None],
    *,
    unreadable: Callable[[str, Exception], None] | None = None,
) -> Iterator[None]:
    """Within the block, every output of the named layers is handed on while the module runs.

    The output is the layer's own and not a copy: what is to be kept of it has to be copied before
    ``take`` returns, since a later in-place operation may change it.

    Args:
        module: any torch module.
        layers: layer names or patterns, see `repalign.layer_names`.
        take: called with name and output each time a layer has run; an error ends the pass. The
            hooks are gone after the block, also where it ends by an error.
        unreadable: called with name and error where an output is not the one tensor that the name
            stands for; by default that error ends the pass.

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
    failures: list[Exception] = []

    def hook(name: str, pick: LayerReader) -> Any:
        def hand_on(_module: nn.Module, _inputs: Any, output: Any) -> None:
            try:
                tensor = pick(output)
            except (ValueError, TypeError) as error:
                if unreadable is None:
                    raise
                unreadable(name, error)
                return
            if tensor is not None:
                try:
                    take(name, tensor)
                except Exception as error:
                    failures.append(error)
                    raise

        return hand_on

    def end(*_: Any) -> None:
        if failures:  # which the network caught
            raise failures[0]

    with contextlib.ExitStack() as stack:
        for name, pick in stack.enter_context(layer_readers(module, names)).items():
            stack.callback(pick.part.register_forward_hook(hook(name, pick)).remove)
        stack.callback(module.register_forward_hook(end).remove)
        yield


@contextlib.contextmanager
def capture(
    module: nn.Module, layers: Sequence[str], *, detach: bool = True
) -> Iterator[dict[str, Tensor]]:
    """Within the block, every forward pass leaves the outputs of the named layers in a dict.

    The outputs are copies, so a later in-place operation cannot change them. A layer that runs
    several times in one pass keeps its last output, unless its name says which: ``V4@t=0``.

    Args:
        module: any torch module.
        layers: layer names or patterns, see `repalign.layer_names`.
        detach: cut the copies off the graph; False keeps their gradients.

    Raises:
        ValueError: an unknown layer; in a pass, an output of several tensors of which the name
            chooses none.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
        >>> with capture(net, ["0"]) as seen:
        ...     _ = net(torch.ones(5, 2))
        >>> seen["0"].shape
        torch.Size([5, 3])
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        seen[name] = output.detach().clone() if detach else output.clone()

    with stream(module, layers, keep):
        yield seen


def first_tensor(output: Any, name: str) -> Tensor:
    """Return a network's output, or the first tensor of it: logits come first."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output
    if isinstance(output, dict | list | tuple):
        for value in values:
            if isinstance(value, Tensor):
                return value
    raise TypeError(f"{name} is a {type(output).__name__}, which holds no tensor")

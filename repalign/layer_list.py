"""The layers of a network: what each gives, how large it is, and whether it can be recorded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from repalign.hooks import stream
from repalign.networks import Network


@dataclass(frozen=True)
class LayerInfo:
    """One module of a network, and what it gives for one stimulus.

    Args:
        name: as ``layers=`` takes it.
        kind: class of the module.
        shape: of its output for one stimulus, without the axis of the stimuli; None where it has
            none.
        units: numbers a stimulus; ``bytes`` are theirs as float32.
        parameters: of the module with all it contains.
        calls: how often it runs in one pass; the last output counts.
        problem: why it cannot be recorded; empty where it can.
        default: whether the model card names it.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    units: int
    bytes: int
    parameters: int
    calls: int
    problem: str
    default: bool


@dataclass(frozen=True)
class LayerOutput:
    """What a layer gave in a pass: see `LayerInfo`."""

    shape: tuple[int, ...] | None = None
    calls: int = 0
    problem: str = "is not used in the forward pass"


def list_layers(
    network: Network | nn.Module,
    *,
    images: Float[Tensor, "image channel height width"] | None = None,
) -> list[LayerInfo]:
    """Return all named modules of a network, in the order of their definition.

    Args:
        network: a `Network`, or any module.
        images: two or more inputs to run it on; by default two of zeros, of the size that the
            network's preprocessing gives (3 × 224 × 224 for a bare module).

    Raises:
        ValueError: the network fails on that input.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
        >>> [(layer.name, layer.shape, layer.bytes) for layer in list_layers(net)][:2]
        [('0', (4, 222, 222), 788544), ('1', (4, 222, 222), 788544)]
    """
    if isinstance(network, nn.Module):
        network = Network(type(network).__name__, network)
    if images is None:
        images = torch.zeros(2, 3, *network.preprocessing.size)
    if len(images) < 2:
        raise ValueError("one image cannot tell the axis of the stimuli; give two or more")
    module = network.module
    modules = {name: part for name, part in module.named_modules() if name}
    training = {part: part.training for part in module.modules()}
    try:
        module.eval()
        tensors = itertools.chain(module.parameters(), module.buffers())
        home = next((tensor.device for tensor in tensors), images.device)
        with torch.no_grad():  # what a network keeps for itself in a pass can be trained through
            outputs = run_once(network, images.to(home), list(modules))
    finally:
        for part, was in training.items():
            part.training = was
    return [
        LayerInfo(
            name=name,
            kind=type(part).__name__,
            shape=outputs[name].shape,
            units=prod(outputs[name].shape or (0,)),
            bytes=4 * prod(outputs[name].shape or (0,)),
            parameters=sum(parameter.numel() for parameter in part.parameters()),
            calls=outputs[name].calls,
            problem=outputs[name].problem,
            default=name in network.layers,
        )
        for name, part in modules.items()
    ]


def run_once(
    network: Network,
    images: Tensor,
    layers: Sequence[str],
    *,
    also: Callable[[str, Tensor], None] | None = None,
) -> dict[str, LayerOutput]:
    """Run a network on a batch, and return what its layers give.

    Args:
        network: the network, on the device of the images.
        images: the batch.
        layers: exact names; those that never run are among the results.
        also: called with each output too.
    """
    found = {name: LayerOutput() for name in layers}

    def look(name: str, output: Tensor) -> None:
        problem = wrong_shape(output, len(images))
        shape = None if problem else tuple(output.shape[1:])
        found[name] = LayerOutput(shape, found[name].calls + 1, problem)
        if also is not None:
            also(name, output)

    def complain(name: str, error: Exception) -> None:
        found[name] = LayerOutput(None, found[name].calls + 1, str(error))

    with stream(network.module, layers, look, unreadable=complain):
        try:
            network.module(images)
        except Exception as error:  # a network raises what it likes
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(
                f"{network.name} failed on an input of shape {tuple(images.shape)}: {reason}"
            ) from error
    return found


def described(name: str, problem: str) -> str:
    """A layer's problem as a sentence that names it once."""
    return problem if problem.startswith("layer ") else f"layer {name!r} {problem}"


def problems(outputs: Mapping[str, LayerOutput]) -> dict[str, str]:
    """Layers that cannot be recorded, and why."""
    return {name: described(name, one.problem) for name, one in outputs.items() if one.problem}


def nothing_left(model: str, left_out: Mapping[str, str]) -> str:
    """An error about layers that are all left out, with the first one's reason."""
    first = next(iter(left_out.values()))
    return f"{model} has no layer among these that can be recorded: {first}"


def wrong_shape(output: Tensor, n_stimuli: int, shape: tuple[int, ...] | None = None) -> str:
    """Why an output is not stimulus × unit of real numbers; empty where it is.

    Args:
        output: of a layer.
        n_stimuli: in the batch.
        shape: of one stimulus, where that is known.
    """
    if output.is_complex() or output.is_quantized or output.layout != torch.strided:
        return f"gives {output.dtype} numbers ({output.layout}); expected real, dense ones"
    fits = output.ndim > 0 and len(output) == n_stimuli and output.numel() > 0
    if fits and (shape is None or tuple(output.shape[1:]) == shape):
        return ""
    expected = "the same for each" if shape is None else f"{shape} for each"
    return (
        f"gives an output of shape {tuple(output.shape)} for {n_stimuli} stimuli; the first axis"
        f" must be the stimuli, and the rest {expected}"
    )

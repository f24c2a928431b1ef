"""One forward pass over neural images: the layers wanted, and nothing else of it left behind."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from repalign.hooks import first_tensor
from repalign.layer_outputs import LayerReader, layer_readers
from repalign.metrics.calls import Device, pick_device
from repalign.networks import find_layers


class _AllSeen(BaseException):
    """Ends a forward pass; no error, so that a network's own ``except Exception`` lets it by."""


class PassOutput(NamedTuple):
    """What a pass leaves.

    Args:
        layers: the outputs of each layer, one a call; of a layer wanted once, the last.
        features: input of the linear layer that was asked for.
        output: the network's own; None where the pass ended early.
    """

    layers: dict[str, list[Tensor]]
    features: Tensor | None
    output: Tensor | None


def run_layers(
    module: nn.Module,
    images: Tensor,
    layers: Sequence[str],
    *,
    every_call: Sequence[str] = (),
    stop_after: Mapping[str, int] | None = None,
    features_of: str | None = None,
) -> PassOutput:
    """Run a network and return the outputs of its layers, with their gradients.

    Args:
        module: the network, in the mode it is to run in.
        images: a batch as it takes them.
        layers: exact names.
        every_call: those whose outputs of all calls are kept, not just the last.
        stop_after: calls of each layer after which nothing more is needed; the rest of the network
            is then not computed.
        features_of: a linear layer whose input is kept.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    features: list[Tensor] = []
    left = None if stop_after is None else Counter(stop_after)

    def keep_output(name: str, pick: LayerReader) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tensor = pick(output)
            if tensor is None:
                return
            ends = False
            if left is not None:
                left[name] -= 1
                ends = all(count <= 0 for count in left.values())
            # a later in-place operation must not change it; none comes after the last
            kept = tensor if ends else tensor.clone()
            seen[name] = [*seen[name], kept] if name in every_call else [kept]
            if ends:
                raise _AllSeen

        return hook

    def keep_input(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        features[:] = [inputs[0]]

    parts = dict(module.named_modules())
    output: Any = None
    with contextlib.ExitStack() as stack:
        for name, pick in stack.enter_context(layer_readers(module, layers)).items():
            handle = pick.part.register_forward_hook(keep_output(name, pick))
            stack.callback(handle.remove)
        if features_of is not None:
            stack.callback(parts[features_of].register_forward_pre_hook(keep_input).remove)
        stack.enter_context(contextlib.suppress(_AllSeen))
        output = module(images)
    result = None if output is None else first_tensor(output, "the network's output")
    return PassOutput(seen, features[0] if features else None, result)


@contextlib.contextmanager
def isolated_random(device: torch.device, *entropy: int) -> Iterator[None]:
    """Seed torch's random numbers within the block; afterwards they are as if it had not run.

    The CPU's, and those of the device if it is a CUDA one.
    """
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode without gradients, and afterwards as it was."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, was in training.items():
            part.training = was


class Probe(NamedTuple):
    """What one small pass tells of a network.

    Args:
        calls: how often each layer runs in a pass.
        units: size of each layer's output, flattened.
        head: name of the linear layer that gives the output, if one does.
        features, classes: sizes of that layer's input and output.
    """

    calls: dict[str, int]
    units: dict[str, int]
    head: str | None
    features: int
    classes: int


def exact_layer(module: nn.Module, layer: str) -> str:
    """Return the name of the one layer that is meant.

    Raises:
        ValueError: none is, or a pattern matches several.
    """
    found = find_layers(module, [layer])
    if len(found) > 1:
        raise ValueError(
            f"layer {layer!r} matches {len(found)} layers ({', '.join(found[:4])}, …); name one, "
            "or give each a term of its own."
        )
    return found[0]


def probe_network(module: nn.Module, images: Tensor, layers: Sequence[str]) -> Probe:
    """Run a few images through a network, which is left as it was.

    Raises:
        ValueError: the network fails on them, does not use a layer, or a layer's output has not
            one row an image.
    """
    linear = {n: part for n, part in module.named_modules() if isinstance(part, nn.Linear)}
    ends: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            ends[name] = inputs[0], output

        return hook

    with (
        evaluation_mode(module),
        isolated_random(images.device, 0),
        contextlib.ExitStack() as stack,
    ):
        for name, part in linear.items():
            stack.callback(part.register_forward_hook(note(name)).remove)
        try:
            found = run_layers(module, images, layers, every_call=layers)
        except (RuntimeError, TypeError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"the model failed on images of shape {tuple(images.shape)}: {reason}"
            ) from error
    for name in layers:
        if not found.layers[name]:
            raise ValueError(f"layer {name!r} is not used in the forward pass; name another.")
        shape = tuple(found.layers[name][-1].shape)
        if not shape or shape[0] != len(images):
            raise ValueError(
                f"layer {name!r} has an output of shape {shape} for {len(images)} images; its "
                "first axis must be the images. Name another layer."
            )
    output = found.output
    heads = [
        name
        for name, (given, gave) in ends.items()
        if output is not None and given.ndim == 2 and gave.data_ptr() == output.data_ptr()
    ]
    head = heads[-1] if heads else None
    return Probe(
        calls={name: len(outputs) for name, outputs in found.layers.items()},
        units={name: outputs[-1][0].numel() for name, outputs in found.layers.items()},
        head=head,
        features=linear[head].in_features if head else 0,
        classes=linear[head].out_features if head else 0,
    )


def as_parameters(images: Tensor, module: nn.Module, *, device: torch.device) -> Tensor:
    """Return images on the device, in the precision of the network's parameters."""
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    dtype = images.dtype if first is None else first.dtype
    return images.to(device=device, dtype=dtype, non_blocking=device.type == "cuda")


def home_of(module: nn.Module, device: Device) -> torch.device:
    """Return the device of a network's parameters, or the one given where it has none.

    Raises:
        ValueError: another device than the parameters'.
    """
    given = None if device is None else pick_device(device)
    home = next((p.device for p in module.parameters()), given or torch.device("cpu"))
    if given not in (None, home):
        raise ValueError(
            f"device is {given} and the model is on {home}; move it, or leave device out."
        )
    return home

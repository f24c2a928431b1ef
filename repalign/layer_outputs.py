"""What a layer's name takes out of the outputs of its module (see `repalign.layer_names`)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from repalign.layer_names import ALL_TIMES, TOKEN_CHOICES, LayerName, parse_layer

CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
OTHER_TOKENS = ("distillation_token", "dist_token", "register_tokens", "reg_token")


class _Tokens(NamedTuple):
    """What stands before the patches in a network's tokens."""

    has_class: bool
    prefix: int


class LayerReader:
    """Takes a layer's tensor out of its module's outputs, counting them in a pass."""

    def __init__(self, name: str, part: nn.Module, tokens: _Tokens) -> None:
        """Read the name."""
        self.name, self.layer, self.part, self.tokens = name, parse_layer(name), part, tokens
        self.begin()

    def begin(self) -> None:
        """Count from 0: a pass begins."""
        self.count = 0
        self.kept: list[Tensor] = []

    def __call__(self, output: Any) -> Tensor | None:
        """Return the layer's tensor, or None where this call of the module is not the one meant."""
        if isinstance(self.part, nn.RNNBase):
            output = self._stimuli_first(self.part, output)
        time = self.layer.time
        if time is None:
            return self._take(output)
        steps, choices = [output], self.layer.steps
        if isinstance(self.part, nn.RNNBase):
            if choices[:1] not in ((), (0,)):
                raise ValueError(
                    f"layer {self.name!r}: {type(self.part).__name__} gives the steps of its"
                    f" sequence, not of its last state; write {self.layer.module}@t={time}"
                )
            steps, choices = list(output[0].unbind(1)), choices[1:]
        first, self.count = self.count, self.count + len(steps)
        if time == ALL_TIMES:
            self.kept += [self._take(step, choices).clone() for step in steps]
            return torch.stack(self.kept, dim=1)
        assert isinstance(time, int)
        return self._take(steps[time - first], choices) if first <= time < self.count else None

    def end(self) -> None:
        """Raise a ValueError where the pass that ends was too short for the time asked for."""
        time = self.layer.time
        if isinstance(time, int) and 0 < self.count <= time:
            raise ValueError(
                f"layer {self.name!r}: {self.layer.module} gives {self.count} outputs in a pass;"
                f" expected t=0 to t={self.count - 1}"
            )

    def _stimuli_first(self, part: nn.RNNBase, output: Any) -> Any:
        """The sequence as (stimulus, step, unit), and each state as (stimulus, layer, unit)."""
        sequence, state = output
        if isinstance(sequence, PackedSequence) or sequence.ndim != 3:
            kind = "a PackedSequence" if isinstance(sequence, PackedSequence) else "no batch"
            raise TypeError(
                f"layer {self.name!r}: {type(part).__name__} was given {kind}, whose rows are not"
                " stimuli; give it (stimulus, step, unit), padded"
            )
        if isinstance(state, tuple):
            state = tuple(one.transpose(0, 1) for one in state)
        else:
            state = state.transpose(0, 1)
        return sequence if part.batch_first else sequence.transpose(0, 1), state

    def _take(self, output: Any, steps: Sequence[int | str] | None = None) -> Tensor:
        value, path = output, [self.layer.module]
        for step in self.layer.steps if steps is None else steps:
            value = self._entry(value, step, path)
            path.append(str(step))
        return self._only_tensor(value, path)

    def _entry(self, value: Any, step: int | str, path: list[str]) -> Any:
        entries = _entries(value)
        if step in entries:
            return entries[step]
        if step in TOKEN_CHOICES:
            return self._tokens(self._only_tensor(value, path), str(step))
        if entries:
            expected = f"it has {', '.join(map(str, entries))}"
        else:
            expected = f"it is {_described(value)}: expected {', '.join(TOKEN_CHOICES)}"
        raise ValueError(
            f"layer {self.name!r}: the output of {'@'.join(path)} has no entry {step!r}; {expected}"
        )

    def _only_tensor(self, value: Any, path: list[str]) -> Tensor:
        found = dict(_tensors(value, "@".join(path)))
        if len(found) == 1:
            return next(iter(found.values()))
        if not found:
            raise TypeError(
                f"layer {self.name!r} gives a {type(value).__name__}, which holds no tensor"
            )
        listed = [f"{name!r} {tuple(tensor.shape)}" for name, tensor in found.items()]
        more = f", and {len(listed) - 6} more" if len(listed) > 6 else ""
        raise ValueError(
            f"layer {self.name!r} gives {len(found)} tensors; name one of them:"
            f" {', '.join(listed[:6])}{more}"
        )

    def _tokens(self, tensor: Tensor, choice: str) -> Tensor:
        if tensor.ndim != 3:
            raise ValueError(
                f"layer {self.name!r}: an output of shape {tuple(tensor.shape)} has no tokens;"
                f" @{choice} needs (stimulus, token, width)"
            )
        if choice == "cls":
            if not self.tokens.has_class:
                raise ValueError(
                    f"layer {self.name!r}: the network has no class token (no parameter called"
                    f" {', '.join(CLASS_TOKENS)}); use @mean or @patches"
                )
            return tensor[:, 0]
        if tensor.shape[1] <= self.tokens.prefix:
            raise ValueError(
                f"layer {self.name!r}: {tensor.shape[1]} tokens, of which the first"
                f" {self.tokens.prefix} are no patches; @{choice} needs patches"
            )
        patches = tensor[:, self.tokens.prefix :]
        return patches.mean(dim=1) if choice == "mean" else patches


@contextlib.contextmanager
def layer_readers(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, LayerReader]]:
    """Readers of the named layers; within the block, each call of the module begins a pass.

    A reader's ``part`` is the module to put a hook on, whose output the reader takes.

    Args:
        module: the network.
        names: layer names without patterns, as `find_layers` gives them.

    Example:
        >>> net = nn.Sequential(nn.LSTM(2, 3, batch_first=True))
        >>> with layer_readers(net, ["0@t=1"]) as readers:
        ...     readers["0@t=1"](net(torch.ones(5, 4, 2))).shape
        torch.Size([5, 3])
    """
    parts = dict(module.named_modules())
    tokens = _tokens_of(module)
    readers = {name: LayerReader(name, parts[parse_layer(name).module], tokens) for name in names}
    counting = [reader for reader in readers.values() if reader.layer.time is not None]

    def begin(_module: nn.Module, _inputs: Any) -> None:
        for reader in counting:
            reader.begin()

    def end(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        for reader in counting:
            reader.end()

    with contextlib.ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # compiled code would skip hooks, or keep them
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if counting:
            stack.callback(module.register_forward_pre_hook(begin).remove)
            stack.callback(module.register_forward_hook(end).remove)
        yield readers


def _tokens_of(module: nn.Module) -> _Tokens:
    """Count a network's tokens that are no patches.

    They are learned, so that their parameters tell: cls_token (timm, transformers), class_token
    (torchvision), class_embedding (CLIP), distillation and register tokens. timm says the number
    in ``num_prefix_tokens``, which a network of one's own may do too.
    """
    sizes: dict[str, int] = {}
    for name, parameter in module.named_parameters():
        leaf = name.rpartition(".")[2]
        if leaf in CLASS_TOKENS or leaf in OTHER_TOKENS:
            sizes.setdefault(leaf, parameter.shape[-2] if parameter.ndim > 1 else 1)
    said = [getattr(part, "num_prefix_tokens", None) for part in module.modules()]
    stated = next((number for number in said if isinstance(number, int)), sum(sizes.values()))
    return _Tokens(any(name in sizes for name in CLASS_TOKENS), stated)


def _entries(value: Any) -> Mapping[int | str, Any]:
    """The entries of a dict, tuple or list, by which a step may call them."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | list):
        fields = zip(getattr(value, "_fields", ()), value, strict=False)
        return {**dict(enumerate(value)), **dict(fields)}
    return {}


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _tensors(entry, f"{path}@{key}")
    elif isinstance(value, tuple | list):
        for index, entry in enumerate(value):
            yield from _tensors(entry, f"{path}@{index}")


def _described(value: Any) -> str:
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
    return f"a {type(value).__name__}{shape}"


def each_time(module: nn.Module, layer: LayerName, example: Tensor) -> list[LayerName]:
    """One layer for each of its module's outputs in a pass of an example.

    Raises:
        ValueError: the pass does not use the layer.
    """
    every = str(LayerName(layer.module, ALL_TIMES, layer.steps))
    times = 0

    def count(_module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal times
        tensor = reader(output)
        assert tensor is not None  # t=all gives one at every call
        times = tensor.shape[1]

    training = {part: part.training for part in module.modules()}
    with layer_readers(module, [every]) as readers:
        reader = readers[every]
        handle = reader.part.register_forward_hook(count)
        try:
            with torch.no_grad():
                module.eval()(example)
        finally:
            handle.remove()
            for part, was in training.items():
                part.training = was
    if not times:
        raise ValueError(f"layer {layer.module!r} is not used in the forward pass")
    return [LayerName(layer.module, time, layer.steps) for time in range(times)]

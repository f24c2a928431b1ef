"""The outputs of layers handed on while a network runs, which stops when no more are needed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from repalign.hooks import stream

Take = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class LayerTrace:
    """One layer in a forward pass: how often it ran, its last output, and when that was there."""

    calls: int
    order: int
    shape: tuple[int, ...]  # of one stimulus
    seconds: float  # since the pass began

    @property
    def units(self) -> int:
        """How many numbers one stimulus gives."""
        count = 1
        for length in self.shape:
            count *= length
        return count


def trace_layers(module: nn.Module, layers: Sequence[str], batch: Tensor) -> dict[str, LayerTrace]:
    """Run a batch and say when each layer gave its last output; layers that did not run miss."""
    traces: dict[str, LayerTrace] = {}
    begin = time.perf_counter()

    def note(name: str, output: Tensor) -> None:
        calls = traces[name].calls if name in traces else 0
        elapsed = time.perf_counter() - begin
        order = sum(trace.calls for trace in traces.values())
        traces[name] = LayerTrace(calls + 1, order, tuple(output.shape[1:]), elapsed)

    with stream(module, layers, note):
        module(batch)
    return traces


def stream_layers(
    module: nn.Module, traces: Mapping[str, LayerTrace], batch: Tensor, take: Take
) -> None:
    """Run a batch as far as the deepest of some layers, handing on the last output of each.

    ``take`` is called inside the hook, before a later in-place operation changes the output. What
    comes after the deepest layer is not run.
    """
    deepest = max(traces, key=lambda name: traces[name].order)
    calls = dict.fromkeys(traces, 0)

    def hand_on(name: str, output: Tensor) -> None:
        calls[name] += 1
        if calls[name] == traces[name].calls:
            take(name, output)
            if name == deepest:
                raise _Reached

    with stream(module, list(traces), hand_on), contextlib.suppress(_Reached):
        module(batch)
    fewer = [name for name, count in calls.items() if count < traces[name].calls]
    if fewer:
        raise ValueError(
            f"layer {fewer[0]!r} ran {calls[fewer[0]]} times, and {traces[fewer[0]].calls} times"
            " for another batch: layers that depend on the stimuli cannot be streamed"
        )


class _Reached(BaseException):
    """The deepest layer has been taken; no handler of a network's own errors may stop it."""

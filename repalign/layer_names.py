"""Names of layers, and what of a layer's output a name stands for.

A name is that of a module, followed by steps that are read from left to right:

- ``blocks.3``: the module's output, which must hold exactly one tensor.
- ``lstm@0``, ``encoder@last_hidden_state``, ``lstm@1@0``: an entry of a tuple or dict.
- ``blocks.3@cls``: the class token of ``(stimulus, token, width)``; ``@patches``: the tokens that
  stand for places; ``@mean``: their mean.
- ``V4@t=2``: the third of the module's outputs in a pass, one a call; of ``nn.RNN``, ``nn.LSTM``
  and ``nn.GRU`` one a time step. ``V4@t=all``: all, along a time axis behind the stimuli.
  ``V4@t=*``: each as a layer of its own. Without it, a module that runs several times keeps its
  last output.

The name goes into the stores and tables as it is, so that the choice is recorded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TOKEN_CHOICES = ("cls", "patches", "mean")
ALL_TIMES, EACH_TIME = "all", "*"


@dataclass(frozen=True)
class LayerName:
    """A module's name, or a pattern, and what of its output is taken.

    Args:
        module: name or pattern.
        time: which of the outputs in a pass: a number, ``all``, ``*``, or None for the last.
        steps: entries of tuples and dicts, and at the end a choice of tokens.
    """

    module: str
    time: int | str | None = None
    steps: tuple[int | str, ...] = ()

    def __str__(self) -> str:
        """Return the name as it is written."""
        time = [] if self.time is None else [f"t={self.time}"]
        return "@".join([self.module, *time, *map(str, self.steps)])


def parse_layer(text: str) -> LayerName:
    """Read one layer name.

    Raises:
        ValueError: a step is empty, or a time that is no number and not first.

    Example:
        >>> parse_layer("encoder.lstm@t=2@0")
        LayerName(module='encoder.lstm', time=2, steps=(0,))
    """
    module, *steps = text.split("@")
    time: int | str | None = None
    if steps and steps[0].startswith("t="):
        word = steps.pop(0)[2:]
        if word not in (ALL_TIMES, EACH_TIME) and not re.fullmatch("[0-9]+", word):
            raise ValueError(f"layer {text!r}: expected t=0, t=1, …, t=all or t=*")
        time = int(word) if word.isdigit() else word
    for step in steps:
        if not step or step.startswith("t="):
            raise ValueError(
                f"layer {text!r}: expected MODULE, then @t=NUMBER, then @ENTRY, then @cls,"
                " @patches or @mean, each where it is needed and in this order"
            )
    return LayerName(module, time, tuple(int(s) if s.isdecimal() else s for s in steps))

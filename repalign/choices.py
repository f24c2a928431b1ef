"""From the words of a command line or a configuration to dataclasses with parameters."""

from __future__ import annotations

import dataclasses
import difflib
import operator
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repalign.metrics import Metric


def as_metric(metric: Metric | str | None) -> Metric:
    """A metric, or the one that a name says (``rsa:comparator=corr``); None is RSA.

    Raises:
        ValueError: an unknown name or parameter.
        TypeError: neither a metric nor a text.
    """
    from repalign.metrics import METRICS

    if isinstance(metric, str | None):
        found: Metric = parse_choice(metric or "rsa", METRICS, "metric")
        return found
    if isinstance(metric, type) or not hasattr(metric, "minimum_stimuli"):
        raise TypeError(
            f"metric is {metric!r}; expected a metric such as repalign.CKA(), or its name"
        )
    return metric


def as_whole_number(value: Any, name: str, *, least: int = 0) -> int:
    """Python's own whole number, of numpy's too, such as a seed or a number of resamples.

    Raises:
        ValueError: anything else, or one that is too small.

    Example:
        >>> import numpy as np
        >>> as_whole_number(np.int64(3), "seed")
        3
    """
    try:
        found = operator.index(value)
    except TypeError:
        found = least - 1
    if found < least:
        raise ValueError(f"{name} is {value!r}; expected a whole number, {least} or more")
    return found


def parse_choice(text: str, choices: Mapping[str, Any], what: str) -> Any:
    """``name:key=value,…`` → the frozen dataclass ``choices[name]`` with these parameters.

    Args:
        text: the name, and after a colon the parameters that differ from their defaults; the
            numbers of a tuple are parted by ``/``.
        choices: dataclass by name.
        what: how errors call the choice.

    Raises:
        ValueError: an unknown name or parameter, or a value of another type; all that is known is
            listed.

    Example:
        >>> from repalign.metrics import METRICS
        >>> parse_choice("cka:debiased=false", METRICS, "metric").debiased
        False
    """
    name, _, options = text.partition(":")
    check_known(name, choices, what)
    kind: Any = choices[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    defaults = {k: v.default for k, v in fields.items() if v.default is not dataclasses.MISSING}
    parameters: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if key not in fields or not equals:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"{what} {text!r}: {option!r} is no parameter of {name};"
                f" there are {', '.join(f'{k}={v}' for k, v in defaults.items() if k != 'alphas')}"
                f"{hint}"
            )
        context = f"{what} {text!r}: {option!r}"
        parameters[key] = parse_value(value, defaults.get(key), context)
    return kind(**parameters)


def check_known(name: str, known: Collection[str], what: str) -> None:
    """Raise a ValueError that lists what is known, a near match last, unless the name is known."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"no {what} {name!r}; there are {', '.join(sorted(known))}{hint}")


def parse_value(text: str, default: Any, context: str) -> Any:
    """A parameter in the type of its default."""
    if default is None:  # a word or a number that need not be given
        return None if text == "none" else int(text) if text.isdecimal() else text
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{context}: expected true or false")
        return text.lower() == "true"
    try:
        if isinstance(default, tuple):
            return tuple(float(part) for part in text.split("/"))
        return type(default)(text)
    except ValueError as error:
        expected = type(default).__name__
        raise ValueError(f"{context}: expected a value of type {expected}") from error

"""Checkpoints: named tensors from a file, and whether they fit a network.

Nothing is unpickled but tensors: a file that holds code or objects is refused.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pth", ".pt")  # in the order in which they are looked for
INSIDE = ("state_dict", "model_state_dict", "model")
SHOWN_KEYS = 3
DENSE_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")  # until 2018


def find_checkpoint(folder: Path, name: str) -> Path | None:
    """The file of a name with or without its suffix; safetensors first, where there are several.

    Example:
        >>> find_checkpoint(Path("/nowhere"), "net") is None
        True
    """
    path = folder / Path(name).expanduser()
    if name.endswith(SUFFIXES):
        return path if path.is_file() else None
    found = (path.with_name(path.name + suffix) for suffix in SUFFIXES)
    return next((file for file in found if file.is_file()), None)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors``, ``.pth`` or ``.pt`` file by name.

    A state dict may stand under ``state_dict``, ``model_state_dict`` or ``model``.

    Raises:
        ValueError: the file is damaged, or holds something else than tensors.
    """
    from safetensors.torch import load_file

    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds no plain tensors: it is no checkpoint, or it has code or objects in it,"
            " which are never run. Save the tensors alone, by"
            " safetensors.torch.save_file(network.state_dict(), 'weights.safetensors')"
        ) from error
    except Exception as error:  # a damaged file raises many types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} holds no plain tensors, or is damaged: {reason}") from error
    for key in INSIDE:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(map(_is_named_tensor, state.items())):
        raise ValueError(f"{path} holds no state dict: {_contents(state)}; expected named tensors")
    return cast(dict[str, Tensor], state)


def load_checkpoint(module: nn.Module, path: Path, *, called: str) -> None:
    """Put the tensors of a file into a network, all of them and nothing else.

    Names that all begin with the same part, as after ``nn.DataParallel`` (``module.``), lose it
    where they fit without it.

    Args:
        module: the network; its values are replaced.
        path: the checkpoint.
        called: the network's name in errors.

    Raises:
        ValueError: tensors are missing, unexpected, or of another shape or kind; a few are named.
    """
    problem = ""
    for candidate in _renamed(read_checkpoint(path)):
        found = _misfit(module, candidate)
        if not found:
            return
        problem = problem or found
    raise ValueError(f"{path} does not fit {called}: {problem}")


def _misfit(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Load a state dict, and return what did not fit.

    torch is asked instead of the names compared, since modules may convert older names.
    """
    expected = module.state_dict()
    shapes = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    kinds = [
        f"{name} {state[name].dtype}, expected {tensor.dtype}"
        for name, tensor in expected.items()
        if name in state and tensor.is_floating_point() and not state[name].is_floating_point()
    ]
    if kinds:  # integers of a quantised network would be taken as they are
        return explain_misfit(missing=(), unexpected=(), other_shapes=(), other_kinds=kinds)
    same = {
        name: t
        for name, t in state.items()
        if name not in expected or t.shape == expected[name].shape
    }
    try:
        result = module.load_state_dict(same if shapes else state, strict=False)
    except (RuntimeError, AttributeError) as error:
        return " ".join(str(error).split())[:300]
    missing = [name for name in result.missing_keys if name not in state]
    return explain_misfit(missing=missing, unexpected=result.unexpected_keys, other_shapes=shapes)


def explain_misfit(
    *,
    missing: Iterable[str],
    unexpected: Iterable[str],
    other_shapes: Iterable[str],
    other_kinds: Iterable[str] = (),
) -> str:
    """How many tensors do not fit, with the names of a few.

    Example:
        >>> explain_misfit(missing=["fc.weight", "fc.bias"], unexpected=[], other_shapes=[])
        '2 tensors are missing (fc.weight, fc.bias)'
    """
    parts = []
    kinds = [("missing", missing), ("unexpected", unexpected)]
    kinds += [("of another shape", other_shapes), ("of another kind", other_kinds)]
    for kind, names in kinds:
        listed = list(names)
        if listed:
            more = ", …" if len(listed) > SHOWN_KEYS else ""
            count = "1 tensor is" if len(listed) == 1 else f"{len(listed)} tensors are"
            parts.append(f"{count} {kind} ({', '.join(listed[:SHOWN_KEYS])}{more})")
    return "; ".join(parts)


def _renamed(state: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The state dict, with names as torchvision has them now, and without shared first parts."""
    yield state
    if any(DENSE_LAYER.match(name) for name in state):
        yield {DENSE_LAYER.sub(r"\1\2", name): tensor for name, tensor in state.items()}
    while all("." in name for name in state) and len({n.partition(".")[0] for n in state}) == 1:
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}
        yield state


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _contents(state: Any) -> str:
    if not isinstance(state, Mapping):
        return f"a {type(state).__name__}"
    bad = next(key for key, value in state.items() if not _is_named_tensor((key, value)))
    return f"{bad!r} is a {type(state[bad]).__name__}"

"""The state of a training run on disk: whole or absent, read back without running any code."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FORMAT = "repalign-training-1"
FRESH = "start over with resume=False (--fresh)"


class DivergedError(ValueError):
    """A loss, or a weight, is NaN or infinite; the last checkpoint is kept.

    Args:
        term: ``task``, ``alignment`` or ``labels``, or the name of a weight.
        value: what it is.
        step: counted from 1.
        state: the checkpoint's file.
        detail: where in the term, and why.
    """

    def __init__(
        self, term: str, value: float, step: int, state: Path | None = None, *, detail: str = ""
    ) -> None:
        """Say which term, when, and what may help."""
        self.term, self.step = term, step
        kept = f" The last good checkpoint is kept in {state}." if state and state.exists() else ""
        what = f"the {term} loss" if term in ("task", "alignment", "labels") else term
        super().__init__(
            f"{what} is {value} at step {step}: the training stopped.{kept} Try a lower"
            " optimizer.lr, a training.clip_norm, a longer neural.ramp or precision 32-true, and"
            f" {FRESH}{f' ({detail})' if detail else ''}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross from one process to another as it is."""
        return _as_it_was, (str(self), self.term, self.step)


def _as_it_was(message: str, term: str, step: int) -> DivergedError:
    error = DivergedError.__new__(DivergedError, message)
    error.args, error.term, error.step = (message,), term, step
    return error


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state so that a killed process, or a full disk, leaves the earlier one.

    The file is written under a temporary name, flushed to the disk, and renamed.

    Args:
        path: of the file.
        state: tensors, numbers, text, and lists and dicts of them.

    Raises:
        OSError: the disk is full or not writable; the earlier state is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into the latter
        earlier = "the earlier one is kept" if path.exists() else "there is no earlier one"
        reason = " ".join(str(error).split())[:200]
        raise OSError(
            f"could not write the state {path} ({reason}); {earlier}. Free some space and run again"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename in a folder last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_state(path: Path) -> dict[str, Any] | None:
    """Read a state, or None where there is none.

    Every entry's checksum is tested, and nothing but tensors and plain values is unpickled.

    Raises:
        ValueError: the file is damaged, or was written by another program or version.
    """
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} in it was changed")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as many types
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the state {path} is damaged ({reason}); restore it from a copy, or {FRESH}"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{path} is {found!r}, expected {FORMAT!r}; {FRESH}")
    return state


def check_fits(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise a ValueError where weights are those of another architecture."""
    own = module.state_dict()
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    reshaped = [
        f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    ]
    problems = [
        f"{len(names)} {what} (first {names[0]})"
        for names, what in (
            (missing, "missing"),
            (unexpected, "unknown"),
            (reshaped, "of another shape"),
        )
        if names
    ]
    if problems:
        raise ValueError(
            f"{path} holds the weights of another architecture than {type(module).__name__}:"
            f" {', '.join(problems)}; train the network it was written for, or {FRESH}"
        )


def check_finite(module: nn.Module, step: int, state: Path | None = None) -> None:
    """Raise a DivergedError where a weight or a running statistic is NaN or infinite."""
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor):  # a module's extra state
            continue
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            wrong = tensor[~torch.isfinite(tensor)].flatten()[0]
            raise DivergedError(name, float(wrong), step, state)


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of torch's global random number generators that training can draw from."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Set torch's global generators to an earlier state."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def private_random(seed: int, device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Within the block torch's global random numbers follow ``seed``; afterwards all is as before.

    With ``deterministic``, torch refuses operations that have no reproducible implementation.
    """
    before = torch.are_deterministic_algorithms_enabled()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        try:
            if deterministic:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
                torch.use_deterministic_algorithms(True)
            yield
        finally:
            torch.use_deterministic_algorithms(before)

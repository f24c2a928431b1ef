"""The one door to all metrics: arrays, repetitions, batches, devices, and what is refused there."""

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.gram import check_same_stimuli, cores_for_blas, in_working_precision

Device = str | torch.device | None
Array = Tensor | np.ndarray[Any, Any]


class Needs(Protocol):
    """What a metric says of the populations that it can compare."""

    @property
    def name(self) -> str:
        """The name in ``METRICS``."""

    @property
    def minimum_stimuli(self) -> int:
        """Fewest stimuli for which it is defined."""

    @property
    def needs_repeats(self) -> bool:
        """Whether it takes the single repetitions, not their average."""

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow; where they do not, none are asked of its kernel."""


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """``auto`` is cuda where there is one, else mps, else cpu."""
    if str(device) != "auto":
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device {str(device)!r} cannot be used here; expected auto, cpu, and cuda or mps"
                " where there is such a GPU"
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def as_tensor(x: Array, *, name: str = "x", device: Device = None) -> Tensor:
    """Return numbers as a tensor of floats on ``device`` (None: where they are).

    Raises:
        TypeError: no array, or one of something else than real numbers.
    """
    if not isinstance(x, Tensor):
        array = np.asarray(x)
        if array.dtype.kind not in "fiub":
            raise TypeError(
                f"{name} is {type(x).__name__} of {array.dtype}; expected an array of real numbers."
            )
        native = array if array.dtype.isnative else array.astype(array.dtype.type)
        backward = min(native.strides, default=0) < 0  # which torch has no view of
        x = torch.from_numpy(native.copy() if backward else native)
    if x.is_complex():
        raise TypeError(f"{name} holds complex numbers; expected real ones. Take their magnitude.")
    where = x.device if device is None else pick_device(device)
    if where.type == "mps" and x.dtype == torch.float64:
        x = x.float()
    x = x.to(where)
    return (
        x
        if x.is_floating_point()
        else x.to(torch.float32 if where.type == "mps" else torch.float64)
    )


class NotFiniteError(ValueError):
    """Responses are NaN or infinite."""


def check_finite(x: Tensor, *, name: str = "x") -> None:
    """Raise a NotFiniteError that names the rows with values that are NaN or infinite."""
    with cores_for_blas(x):
        total = x.detach().sum()  # many times quicker than looking at each value
    if bool(total.isfinite()):
        return
    finite = x.detach().isfinite()
    if bool(finite.all()):  # a sum that overflows
        return
    bad = (~finite).reshape(-1, *x.shape[-2:]).any(0)
    places = {"rows": bad.any(1), "neuroids": bad.any(0)}
    where, which = min(places.items(), key=lambda place: int(place[1].sum()))
    first = which.nonzero()[:, 0].tolist()
    shown = ", ".join(map(str, first[:5])) + (", …" if len(first) > 5 else "")
    raise NotFiniteError(
        f"{name} has {int((~finite).sum())} values that are NaN or infinite, in {where} {shown}. "
        "Leave out these stimuli, or the neuroids concerned; a missing repetition is NaN in all "
        "neuroids."
    )


def recorded_presentations(
    x: Float[Tensor, "*batch repeat stimulus neuroid"], *, name: str = "x"
) -> Float[Tensor, "*batch repeat stimulus"]:
    """Return which presentations exist: one that is missing is NaN in all neuroids.

    Raises:
        ValueError: presentations NaN in some neuroids only, or infinite values.
    """
    with cores_for_blas(x):
        sums = x.detach().sum(-1)
    if bool(sums.isfinite().all()):
        return torch.ones_like(sums, dtype=torch.bool)
    missing = x.detach().isnan().all(-1)
    finite = x.detach().isfinite().all(-1)
    partial = int((~finite & ~missing).sum())
    if partial:
        raise ValueError(
            f"In {partial} presentations of {name} some neuroids are NaN or infinite and others "
            "are not. Select neuroids that were recorded together."
        )
    return ~missing


def check_presented(recorded: Float[Tensor, "*batch repeat stimulus"], *, name: str = "x") -> None:
    """Raise a ValueError that names the first stimulus without any presentation."""
    never = ~recorded.any(-2)
    if bool(never.any()):
        rows = never.reshape(-1, never.shape[-1]).any(0).nonzero()[:, 0].tolist()
        raise ValueError(
            f"{len(rows)} stimuli of {name} (first: row {rows[0]}) have no repetition at all. "
            "Leave them out."
        )


def average_of_repeats(
    x: Float[Tensor, "*batch repeat stimulus neuroid"], *, name: str = "x"
) -> Float[Tensor, "*batch stimulus neuroid"]:
    """Return the mean over the repetitions that exist, in float64."""
    recorded = recorded_presentations(x, name=name)
    check_presented(recorded, name=name)
    filled = in_working_precision(x).masked_fill(~recorded[..., None], 0)
    return filled.sum(-3) / recorded.sum(-2)[..., None]


def as_responses(
    x: Array, *, needs: Needs, name: str = "x", batch_dims: int = 0, device: Device = None
) -> Tensor:
    """Return responses as a metric takes them: checked, on the device, repetitions averaged.

    A metric that ``needs_repeats`` gets repeat × stimulus × neuroid as it is.

    Raises:
        ValueError: another shape, too few stimuli, or values that are not finite.
        TypeError: no real numbers.
    """
    tensor = as_tensor(x, name=name, device=device)
    if not needs.differentiable:
        tensor = tensor.detach()
    dims = tensor.ndim - batch_dims
    if batch_dims < 0:
        raise ValueError(f"batch_dims is {batch_dims}; expected 0 or more.")
    if dims not in (2, 3) or 0 in tensor.shape:
        batch = f" after {batch_dims} batch dimensions" if batch_dims else ""
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected (stimulus, neuroid) or (repeat, "
            f"stimulus, neuroid){batch}. Flatten feature maps; name batches with batch_dims=."
        )
    if tensor.shape[-2] < needs.minimum_stimuli:
        raise ValueError(
            f"{name} has {tensor.shape[-2]} stimuli; {needs.name} needs {needs.minimum_stimuli} or "
            "more. Select more stimuli."
        )
    if dims == 2:
        check_finite(tensor, name=name)
    elif needs.needs_repeats:
        check_presented(recorded_presentations(tensor, name=name), name=name)
    else:
        tensor = average_of_repeats(tensor, name=name)
    return tensor


def compare_populations(
    kernel: Callable[[Tensor, Tensor], Tensor],
    x: Array,
    y: Array,
    *,
    needs: Needs,
    batch_dims: int = 0,
    device: Device = None,
) -> Tensor:
    """Bring two populations to ``kernel``, which compares one with one, and batches one by one.

    Args:
        kernel: takes (stimulus, neuroid) twice, or, for a metric that needs repetitions,
            (repeat, stimulus, neuroid).
        x, y: responses to the same stimuli in the same order, (stimulus, neuroid) or (repeat,
            stimulus, neuroid), after ``batch_dims`` leading dimensions that broadcast.
        needs: the metric, for its needs and its name in errors.
        batch_dims: number of leading dimensions that number populations, not repetitions.
        device: where to compute: ``auto``, ``cuda``, ``mps``, ``cpu``; None is where ``x`` is.

    Returns:
        The kernel's result, with the batch's dimensions before its own.
    """
    a = as_responses(x, needs=needs, batch_dims=batch_dims, device=device)
    b = as_responses(y, needs=needs, name="y", batch_dims=batch_dims, device=a.device)
    check_same_stimuli(a, b)
    if batch_dims == 0:
        return kernel(a, b)
    try:
        shape = np.broadcast_shapes(a.shape[:batch_dims], b.shape[:batch_dims])
    except ValueError as error:
        raise ValueError(
            f"The batches of x and y, {tuple(a.shape[:batch_dims])} and "
            f"{tuple(b.shape[:batch_dims])}, do not broadcast; give one of them size 1."
        ) from error
    a, b = a.expand(*shape, *a.shape[batch_dims:]), b.expand(*shape, *b.shape[batch_dims:])
    results = [kernel(a[place], b[place]) for place in itertools.product(*map(range, shape))]
    return torch.stack(results).reshape(*shape, *results[0].shape)


class _Kernel(Needs, Protocol):
    def _value(self, x: Tensor, y: Tensor, /) -> Tensor: ...


class ComparesPopulations:
    """Gives a metric the call of all metrics; it adds ``_value``, which compares one with one."""

    def __call__(
        self: _Kernel,
        x: Float[Array, "*batch stimulus neuroid"],
        y: Float[Array, "*batch stimulus unit"],
        *,
        batch_dims: int = 0,
        device: Device = None,
    ) -> Float[Tensor, "*batch"]:
        """Compare responses to the same stimuli, in the same order.

        Args:
            x, y: (stimulus, neuroid), or (repeat, stimulus, neuroid) with a missing repetition NaN
                in all neuroids, after ``batch_dims`` dimensions that broadcast.
            batch_dims: number of leading dimensions that number populations.
            device: where to compute: ``auto``, ``cuda``, ``mps``, ``cpu``; None is where ``x`` is.
        """
        return compare_populations(
            self._value, x, y, needs=self, batch_dims=batch_dims, device=device
        )

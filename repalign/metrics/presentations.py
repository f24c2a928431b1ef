"""Presentations with the stimulus and the fold of each: the one form of all designs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repalign.metrics.calls import Array, Device, as_responses, as_tensor
from repalign.metrics.gram import in_working_precision

Labels = Sequence[Any] | np.ndarray[Any, Any] | Tensor


class Presentations(NamedTuple):
    """Single responses, in any order; NaN marks a neuroid that was not recorded in one."""

    values: Float[Tensor, "presentation neuroid"]
    stimulus: Int[Tensor, "presentation"]
    fold: Int[Tensor, "presentation"]
    names: list[str]  # of the stimuli, for errors

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli."""
        return len(self.names)

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return int(self.fold.max()) + 1

    @property
    def cell(self) -> Int[Tensor, "presentation"]:
        """A number for each pair of fold and stimulus, fold by fold."""
        return self.fold * self.n_stimuli + self.stimulus

    @property
    def cell_counts(self) -> Int[Tensor, "cell"]:
        """Number of presentations of each stimulus in each fold."""
        return torch.bincount(self.cell, minlength=self.n_folds * self.n_stimuli)

    @property
    def recorded(self) -> Bool[Tensor, "presentation neuroid"]:
        """Which values exist."""
        return ~self.values.detach().isnan()

    @property
    def ragged(self) -> bool:
        """Whether neuroids are missing in some presentations."""
        return bool(self.values.detach().sum().isnan())


def sums_by(
    values: Float[Tensor, "row column"], group: Int[Tensor, "row"], n_groups: int
) -> Float[Tensor, "group column"]:
    """Return the sum of the rows of each group."""
    return values.new_zeros(n_groups, values.shape[1]).index_add(0, group, values)


def from_repeats(x: Float[Tensor, "repeat stimulus neuroid"]) -> Presentations:
    """Return checked repetitions as presentations without the missing ones; repeats are folds."""
    n_repeats, n, p = x.shape
    recorded = ~x.detach()[..., 0].isnan().reshape(-1)
    values = x.reshape(-1, p)
    fold = torch.arange(n_repeats, device=x.device).repeat_interleave(n)
    stimulus = torch.arange(n, device=x.device).repeat(n_repeats)
    if not bool(recorded.all()):
        values, fold, stimulus = values[recorded], fold[recorded], stimulus[recorded]
    names = [f"row {i}" for i in range(n)]
    return Presentations(in_working_precision(values), stimulus, fold, names)


def label_numbers(
    labels: Labels, *, n: int, name: str
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the distinct labels in ascending order, and each presentation's place among them.

    Raises:
        ValueError: not one label a presentation, or labels that are NaN.
        TypeError: labels of kinds that cannot be ordered, such as strings and numbers.
    """
    if isinstance(labels, Tensor):
        labels = labels.cpu().numpy()
    # As objects a list keeps its labels whole: numpy would write [1, "1"] as the same two strings.
    array = labels if isinstance(labels, np.ndarray) else np.asarray(list(labels), dtype=object)
    if array.shape != (n,):
        raise ValueError(
            f"{name} has shape {array.shape}; expected one label for each of the {n} presentations "
            "(rows) of x."
        )
    if bool((array != array).any()):  # NaN differs from itself
        raise ValueError(f"{name} holds NaN; label every presentation, or leave those out.")
    try:
        distinct, numbers = np.unique(array, return_inverse=True)
    except TypeError as error:
        raise TypeError(
            f"{name} mixes labels of several kinds; use strings or integers."
        ) from error
    return distinct, numbers


def _occurrence(
    number: np.ndarray[Any, np.dtype[np.int64]], names: Sequence[str]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return how many presentations of the same stimulus came before each one."""
    counts = np.bincount(number)
    if counts.min() != counts.max():
        few, many = names[int(counts.argmin())], names[int(counts.argmax())]
        raise ValueError(
            f"{many!r} has {counts.max()} presentations and {few!r} has {counts.min()}, so folds "
            "cannot be told from their order. Say with fold= which were recorded together."
        )
    order = np.argsort(number, kind="stable")
    place = np.empty_like(number)
    place[order] = np.arange(len(number)) - (np.cumsum(counts) - counts)[number[order]]
    return place


def from_labels(
    x: Float[Tensor, "presentation neuroid"],
    stimulus: Labels,
    fold: Labels | None,
    *,
    folds_needed: bool,
) -> Presentations:
    """Return labelled presentations, those that are all NaN left out.

    Stimuli are in ascending order of their labels. Without ``fold`` the first presentation of each
    stimulus is the first fold, and so on, if all have as many.

    Raises:
        ValueError: labels that do not fit, a stimulus without presentation, or no ``fold`` where it
            cannot be told from the order.
    """
    n = len(x)
    distinct, number = label_numbers(stimulus, n=n, name="stimulus")
    names = [str(label) for label in distinct]
    folds = None if fold is None else label_numbers(fold, n=n, name="fold")[1]
    missing = x.detach().isnan().all(1).cpu().numpy()
    if missing.any():
        number, x = number[~missing], x[torch.from_numpy(~missing).to(x.device)]
        folds = None if folds is None else folds[~missing]
        absent = np.setdiff1d(np.arange(len(names)), number)
        if len(absent):
            raise ValueError(
                f"{len(absent)} stimuli (first: {names[absent[0]]!r}) have no presentation that "
                "is not NaN. Leave them out."
            )
    if folds is None:
        folds = _occurrence(number, names) if folds_needed else np.arange(len(number))
    on_device = (torch.from_numpy(index).to(x.device) for index in (number, folds))
    stimulus_number, fold_number = on_device
    return Presentations(in_working_precision(x), stimulus_number, fold_number, names)


@dataclass(frozen=True)
class Repeated:
    """What a computation on single presentations needs of them."""

    name: str
    minimum_stimuli: int = 2
    needs_repeats: bool = True
    differentiable: bool = True


def labelled_responses(
    x: Array, *, batch_dims: int = 0, device: Device = None
) -> Float[Tensor, "*batch presentation neuroid"]:
    """Return responses whose rows are labelled; NaN marks what was not recorded.

    Raises:
        ValueError: another shape, or infinite values.
        TypeError: no real numbers.
    """
    tensor = as_tensor(x, device=device)
    if tensor.ndim - batch_dims != 2 or 0 in tensor.shape:
        raise ValueError(
            f"x has shape {tuple(tensor.shape)}; with stimulus= expected (presentation, neuroid)"
            f"{f' after {batch_dims} batch dimensions' if batch_dims else ''}. Leave out stimulus= "
            "where x is (repeat, stimulus, neuroid)."
        )
    if bool(tensor.detach().isinf().any()):
        raise ValueError("x has infinite values. Mark what was not recorded with NaN.")
    return tensor


def as_presentations(
    x: Array, *, stimulus: Labels | None, needs: Repeated, device: Device = None
) -> Presentations:
    """Return one population's repetitions, or labelled presentations, checked.

    Raises:
        ValueError: another shape, or what ``from_labels`` raises.
        TypeError: no real numbers.
    """
    if stimulus is not None:
        tensor = labelled_responses(x, device=device)
        return from_labels(tensor, stimulus, None, folds_needed=False)
    tensor = as_responses(x, needs=needs, device=device)
    if tensor.ndim == 2:
        raise ValueError(
            f"x has shape {tuple(tensor.shape)}; {needs.name} needs (repeat, stimulus, neuroid), "
            "or (presentation, neuroid) with stimulus=."
        )
    return from_repeats(tensor)


def averages(presentations: Presentations) -> Float[Tensor, "stimulus neuroid"]:
    """Return each stimulus' mean over its presentations, none of them ragged."""
    n, stimulus = presentations.n_stimuli, presentations.stimulus
    counts = torch.bincount(stimulus, minlength=n)
    return sums_by(presentations.values, stimulus, n) / counts[:, None]


def complete_folds(
    presentations: Presentations,
) -> Float[Tensor, "fold stimulus neuroid"] | None:
    """Return the averages in each fold, or None unless all folds hold all stimuli equally often."""
    values, cell, counts = presentations.values, presentations.cell, presentations.cell_counts
    if bool((counts != counts[0]).any()) or presentations.ragged:
        return None
    if len(cell) > len(counts):
        values = sums_by(values, cell, len(counts)) / counts[0]
    elif bool((cell.diff() < 0).any()):
        values = values[cell.argsort()]
    return values.reshape(presentations.n_folds, presentations.n_stimuli, -1)

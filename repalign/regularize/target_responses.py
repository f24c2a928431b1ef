"""A recording taken apart for its controls: averages, labels, and responses put in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from repalign.processing import sums_of_repeats
from repalign.recording import PRESENTATION, STIMULUS, is_rdm_only, stimulus_ids
from repalign.shards import row_blocks

Array = np.ndarray[Any, np.dtype[Any]]
Labels = str | Sequence[Any] | Array


def check_target(target: xr.Dataset, *, at_least: int = 2) -> list[str]:
    """Return the stimulus ids of a recording of responses.

    Raises:
        TypeError, ValueError: no recording, published RDMs only, or too few stimuli.
    """
    if not isinstance(target, xr.Dataset):
        raise TypeError(f"target is a {type(target).__name__}; expected a recording (Dataset)")
    if is_rdm_only(target) or "response" not in target or STIMULUS not in target.coords:
        raise ValueError(
            "target holds no responses to stimuli with ids; expected a recording as"
            " make_recording and ingest give it (published RDMs have no responses to replace)"
        )
    ids = stimulus_ids(target)
    if len(ids) < at_least:
        raise ValueError(f"target has {len(ids)} stimuli; expected {at_least} or more")
    return ids


def stimulus_labels(target: xr.Dataset, labels: Labels) -> Array:
    """Return the class of each stimulus, in the order of `repalign.recording.stimulus_ids`.

    Args:
        target: a recording.
        labels: name of a coordinate on presentation, or one class a stimulus in that order.

    Raises:
        ValueError: no such coordinate, a stimulus with two classes or none, a number of labels
            other than that of stimuli, or a single class.
    """
    ids = check_target(target)
    if isinstance(labels, str):
        if labels not in target.coords or target[labels].dims != (PRESENTATION,):
            known = [str(n) for n in target.coords if target[n].dims == (PRESENTATION,)]
            raise ValueError(f"no coordinate {labels!r} on presentation; there are {known}")
        values = target[labels].values
        first = _first_rows(target)
        changes = np.flatnonzero(~_equal(values, values[first]))
        if changes.size:
            name = target[STIMULUS].values[changes[0]]
            raise ValueError(f"{labels!r} differs between the presentations of stimulus {name!r}")
        classes = values[list(dict.fromkeys(first.tolist()))]
    else:
        classes = np.asarray(labels)
        if classes.shape != (len(ids),):
            raise ValueError(
                f"labels has shape {classes.shape}; expected ({len(ids)},): one a stimulus, in the"
                " order of their first presentation"
            )
    unknown = np.array([one is None or one != one or one == "" for one in classes.tolist()])
    if unknown.any():
        raise ValueError(
            f"{int(unknown.sum())} stimuli (first {ids[int(unknown.argmax())]!r}) have no label;"
            " give each its class, or select the stimuli that have one"
        )
    kinds = set(classes.tolist())
    if len(kinds) < 2:
        raise ValueError(
            f"all stimuli have the label {kinds.pop()!r}; a control of label geometry needs 2 or"
            " more classes"
        )
    return classes


def average_responses(target: xr.Dataset) -> Float[Array, "stimulus neuroid *time_bin"]:
    """Average the presentations that exist of each stimulus, block by block, in float64.

    Raises:
        ValueError: a stimulus that some neuroid has no finite response to.
    """
    ids = check_target(target)
    _, total, count = sums_of_repeats(target)
    bad = (count == 0) | ~np.isfinite(total)
    if bad.any():
        first = np.argwhere(bad)[0]
        raise ValueError(
            f"stimulus {ids[first[0]]!r} has no finite response of neuroid"
            f" {target['neuroid_id'].values[first[1]]!r}; select stimuli and neuroids that were"
            " recorded together"
        )
    return total / count


def principal_axes(average: Array) -> tuple[Array, Array, Array, Array]:
    """Mean, stimulus axes, singular values and neuroid axes of the averages, up to their rank."""
    flat = average.reshape(len(average), -1)
    mean = flat.mean(0)
    left, lengths, right = np.linalg.svd(flat - mean, full_matrices=False)
    rank = int((lengths > max(flat.shape) * np.finfo(float).eps * lengths[0]).sum())
    if rank == 0:
        raise ValueError("the average responses are the same to all stimuli: nothing varies")
    rank = min(rank, len(flat) - 1)
    return mean, left[:, :rank], lengths[:rank], right[:rank]


def stimulus_rows(target: xr.Dataset, ids: Sequence[str]) -> Array:
    """The number of the stimulus shown in each presentation."""
    position = {name: i for i, name in enumerate(ids)}
    return np.array([position[str(name)] for name in target[STIMULUS].values])


def missing_presentations(target: xr.Dataset) -> Array:
    """Which presentations are NaN in all neuroids, though they are listed."""
    blocks = (np.isnan(b).reshape(len(b), -1).all(1) for b in row_blocks(target["response"]))
    return np.concatenate(list(blocks))


def occurrences(row_of: Array) -> Array:
    """How many times its stimulus was shown before each presentation."""
    seen: dict[int, int] = {}
    found = np.empty(len(row_of), dtype=np.int64)
    for place, row in enumerate(row_of.tolist()):
        found[place] = seen.get(row, 0)
        seen[row] = int(found[place]) + 1
    return found


def _first_rows(target: xr.Dataset) -> Array:
    """For each presentation, the first presentation of the same stimulus."""
    first: dict[str, int] = {}
    names = map(str, target[STIMULUS].values)
    return np.array([first.setdefault(name, row) for row, name in enumerate(names)])


def _equal(a: Array, b: Array) -> Array:
    same: Array = (a == b) | ((a != a) & (b != b))
    return same


def _of_stimuli(target: xr.Dataset) -> list[str]:
    """The coordinates that belong to a stimulus, and not to one presentation of it."""
    first = _first_rows(target)
    return [
        str(name)
        for name, coordinate in target.coords.items()
        if coordinate.dims == (PRESENTATION,)
        and name != "repetition"
        and bool(_equal(coordinate.values, coordinate.values[first]).all())
    ]


def moved_presentations(target: xr.Dataset, source: Array) -> xr.Dataset:
    """Stimulus i takes all presentations of stimulus ``source[i]``; what is its own, it keeps."""
    ids = stimulus_ids(target)
    shown: list[list[int]] = [[] for _ in ids]
    for row, stimulus in enumerate(stimulus_rows(target, ids).tolist()):
        shown[stimulus].append(row)
    rows = [row for one in source.tolist() for row in shown[one]]
    own = [shown[i][0] for i, one in enumerate(source.tolist()) for _ in shown[one]]
    kept = {n: (PRESENTATION, target[n].values[own]) for n in _of_stimuli(target)}
    return target.isel({PRESENTATION: rows}).assign_coords(kept)


def stimulus_coordinates(target: xr.Dataset) -> xr.Dataset:
    """One presentation a stimulus with the coordinates that belong to it, without responses."""
    rows = list(dict.fromkeys(_first_rows(target).tolist()))
    kept = {n: (PRESENTATION, target[n].values[rows]) for n in _of_stimuli(target)}
    kept["repetition"] = (PRESENTATION, np.zeros(len(rows), dtype=np.int64))
    return xr.Dataset(coords=kept)


def replaced_averages(target: xr.Dataset, averages: Array) -> xr.Dataset:
    """A recording of these average responses, with the target's neuroids and attributes."""
    others = {
        name: coordinate
        for name, coordinate in target.coords.items()
        if PRESENTATION not in coordinate.dims
    }
    response = (target["response"].dims, averages.astype(float_type(target)))
    made = stimulus_coordinates(target).assign(response=response)
    return made.assign_coords(others).assign_attrs(target.attrs)


def float_type(target: xr.Dataset) -> np.dtype[Any]:
    """The type of a target's floats; whole numbers become float64."""
    dtype = target["response"].dtype
    return dtype if np.issubdtype(dtype, np.floating) else np.dtype(np.float64)

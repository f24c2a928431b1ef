"""What looks wrong with a recording, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from repalign.quality.records import TargetQuality, median

NEAR_ZERO = 0.1  # reliability
PARTS = {"session": "sessions", "half": "halves"}

Array = np.ndarray[Any, np.dtype[Any]]


def target_warnings(one: TargetQuality, kind: str) -> list[str]:
    """The warnings of one region of one subject.

    Args:
        one: its numbers.
        kind: what the drift is over, ``session`` or ``half``.
    """
    n_neuroids, n_stimuli = len(one.neuroid_id), len(one.repetitions)
    single = int((one.repetitions == 1).sum())
    found: list[str] = []

    def neuroids(bad: Array, what: str) -> None:
        if bad.any():
            found.append(_some(one.neuroid_id[bad].tolist(), n_neuroids, "neuroids", what))

    neuroids(one.is_dead, "constant over all presentations (dead)")
    neuroids(one.is_copy, "with exactly the responses of an earlier neuroid (duplicated)")
    neuroids(
        one.is_incomplete,
        "with NaN or infinite responses where others have none, so that their reliability is"
        " unknown",
    )
    if one.n_missing:
        n = int(one.repetitions.sum()) + one.n_missing
        found.append(f"{one.n_missing} of {n} presentations missing (NaN in all neuroids).")
    if one.flat_stimuli:
        what = "with one and the same response in all neuroids, so without a correlation distance"
        found.append(_some(one.flat_stimuli, n_stimuli, "stimuli", what))
    if not n_stimuli:
        found.append("no presentation is left.")
    elif single == n_stimuli:
        found.append(
            "every stimulus has a single presentation, so that reliability, noise ceiling and drift"
            " are unknown."
        )
    elif single:
        found.append(
            f"{single} of {n_stimuli} stimuli with a single repetition, which say nothing of noise."
        )
    unreliable = np.nan_to_num(one.reliability, nan=1.0) < NEAR_ZERO
    neuroids(unreliable, f"with a reliability below {NEAR_ZERO:g}")
    neuroids(
        one.is_drifting,
        f"drifting: {PARTS[kind]} explain {median(one.drift):.1%} of a neuroid's variance (median"
        f" of all; at most {np.fmax.reduce(one.drift):.1%})",
    )
    name = " ".join(filter(None, one.target))
    return [f"{name}: {sentence}" for sentence in found]


def _some(names: Sequence[str], total: int, noun: str, what: str) -> str:
    return f"{len(names)} of {total} {noun} {what}; first: {names[0]!r}."

"""Which image of the Natural Scenes Dataset a subject saw in which trial.

All indices in ``nsd_expdesign.mat`` count from 1, ours from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repalign.loaders.mat5 import read_mat5

TRIALS = 750  # of each session
COMMON_SESSIONS = 30  # of the eight subjects; the others took part in up to 40
REPETITIONS = 3

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Trials:
    """Trials in the order of sessions.

    Args:
        session: number of the session, from 1.
        trial: position in its session, from 0.
        nsd_id: number of the image, from 0.
        shared: 1 for images meant for all subjects.
    """

    session: Array
    trial: Array
    nsd_id: Array
    shared: Array


def read_trials(path: Path, subject: int, sessions: Sequence[int], stimuli: str) -> Trials:
    """The trials of some sessions of a subject.

    Args:
        path: of ``nsd_expdesign.mat``.
        subject: from 1 to 8.
        sessions: from 1 to 40.
        stimuli: ``all``, ``shared1000`` or ``shared515``.

    Raises:
        ValueError: the file is another, or no trial is left.
    """
    ordering, images, shared_images = _load(path)
    if not 1 <= sessions[0] <= sessions[-1] <= len(ordering) // TRIALS:
        raise ValueError(
            f"sessions {sessions[0]} to {sessions[-1]} are wanted, {path} has"
            f" {len(ordering) // TRIALS}"
        )
    session = np.repeat(np.asarray(sessions), TRIALS)
    trial = np.tile(np.arange(TRIALS), len(sessions))
    position = ordering[(session - 1) * TRIALS + trial] - 1
    nsd_id = images[subject - 1, position] - 1
    shared = np.isin(nsd_id, shared_images - 1)
    keep = np.ones(len(nsd_id), dtype=bool)
    if stimuli != "all":
        keep = shared
    if stimuli == "shared515":
        times = np.bincount(ordering[: COMMON_SESSIONS * TRIALS], minlength=ordering.max() + 1)
        keep = shared & (times[position + 1] == REPETITIONS)
    if not keep.any():
        raise ValueError(f"{path}: no trial of stimuli = {stimuli!r} in sessions {list(sessions)}")
    return Trials(session[keep], trial[keep], nsd_id[keep], shared[keep].astype(np.int64))


def coco_ids(path: Path, trials: Trials) -> Array:
    """The COCO id of each trial's image.

    Args:
        path: of ``nsd_stim_info_merged.csv``.
        trials: of one subject.

    Raises:
        ValueError: the table is another, lacks an image, or disagrees about the shared images.
    """
    import pandas as pd

    needed = ["nsdId", "cocoId", "shared1000"]
    try:
        table = pd.read_csv(path, usecols=needed)
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise ValueError(f"{path}: expected a csv with {', '.join(needed)}: {error}") from error
    if table[needed].isna().to_numpy().any() or table["nsdId"].duplicated().any():
        raise ValueError(f"{path}: nsdId stands twice, or a value is missing")
    table = table.set_index("nsdId")
    missing = np.setdiff1d(trials.nsd_id, table.index)
    if len(missing):
        raise ValueError(f"{path} has no row with nsdId {missing[0]}, which was shown")
    rows = table.loc[trials.nsd_id]
    flags = rows["shared1000"].astype(str).str.lower().isin(["true", "1"]).to_numpy()
    if (flags != (trials.shared == 1)).any():
        wrong = trials.nsd_id[flags != (trials.shared == 1)][0]
        raise ValueError(
            f"{path} and nsd_expdesign.mat disagree whether image {wrong} is shared by all"
            " subjects; take both from one release"
        )
    return rows["cocoId"].to_numpy().astype(np.int64)


def _load(path: Path) -> tuple[Array, Array, Array]:
    """masterordering, subjectim and sharedix, as they are."""
    names = ("masterordering", "subjectim", "sharedix")
    arrays = []
    for name, values in zip(names, read_mat5(path, names), strict=True):
        if values.dtype.kind not in "iuf" or not values.size:
            raise ValueError(f"{path}: {name} holds no numbers; is it nsd_expdesign.mat?")
        if (values != np.floor(values)).any() or values.min() < 1:
            raise ValueError(f"{path}: {name} holds values that are no indices from 1")
        arrays.append(values.astype(np.int64))
    ordering, images, shared = arrays[0].ravel(), arrays[1], arrays[2].ravel()
    if images.ndim != 2 or images.shape[0] != 8 or ordering.max() > images.shape[1]:
        raise ValueError(
            f"{path}: subjectim has shape {images.shape}, expected 8 subjects ×"
            f" {ordering.max()} images or more"
        )
    return ordering, images, shared

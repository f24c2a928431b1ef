"""Single-trial responses from fMRI time courses, by general linear models.

The regressors are nilearn's. A least-squares response is a weighted sum of the volumes, the same
sum for every voxel, so a run is read once, forward, and never held as a whole.

- LSA, "least squares all": one model with a regressor for each trial.
- LSS, "least squares separate": one model for each trial, with a regressor for it and one for all
  others together (Mumford et al. 2012, NeuroImage, doi 10.1016/j.neuroimage.2011.08.076).
- Fractional ridge regression shrinks each voxel's LSA responses to a fraction of their length
  (Rokem & Kay 2020, GigaScience, doi 10.1093/gigascience/giaa133).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
ESTIMABLE = 1e-6  # how far a weight may respond to other regressors
VOXELS_AT_ONCE = 4096


@dataclass(frozen=True)
class Design:
    """Regressors of one run.

    Args:
        trials: of shape (volume, trial, basis function); the first basis function is the
            response to the trial, others are its derivatives.
        nuisance: of shape (volume, regressor): other events, confounds, drifts and a constant.
    """

    trials: Array
    nuisance: Array


def make_design(
    trials: Sequence[tuple[float, float]],
    others: Sequence[tuple[float, float, str]],
    confounds: Array,
    frame_times: Array,
    *,
    hrf_model: str,
    drift_model: str | None,
    high_pass: float = 0.01,
    drift_order: int = 1,
) -> Design:
    """The regressors of nilearn's first-level design for one run.

    Args:
        trials: onset and duration of each trial in seconds.
        others: onset, duration and condition of events that are no trials.
        confounds: of shape (volume, confound).
        frame_times: when each volume was measured, in seconds.
        hrf_model: as nilearn's ``compute_regressor``.
        drift_model, high_pass, drift_order: as nilearn's ``make_first_level_design_matrix``.
    """
    from nilearn.glm.first_level import compute_regressor, make_first_level_design_matrix

    def regressors(events: Sequence[tuple[float, float]]) -> Array:
        onsets, durations = zip(*events, strict=True)
        heights = np.ones(len(events))
        found, _ = compute_regressor((onsets, durations, heights), hrf_model, frame_times)
        return np.asarray(found)

    conditions: dict[str, list[tuple[float, float]]] = {}
    for onset, duration, condition in others:
        conditions.setdefault(condition, []).append((onset, duration))
    drifts = make_first_level_design_matrix(
        frame_times, drift_model=drift_model, high_pass=high_pass, drift_order=drift_order
    )
    nuisance = [regressors(events) for events in conditions.values()]
    return Design(
        np.stack([regressors([trial]) for trial in trials], axis=1),
        np.hstack([*nuisance, confounds, drifts.to_numpy()]),
    )


def lsa_weights(design: Design) -> Array:
    """Weights of shape (trial, volume) of the model with all trials.

    Raises:
        ValueError: the trials cannot be told apart.
    """
    n_volumes, n_trials, _ = design.trials.shape
    bases = design.trials.transpose(0, 2, 1).reshape(n_volumes, -1)
    return _weights(np.hstack([bases, design.nuisance]), n_trials)


def lss_weights(design: Design) -> Array:
    """Weights of shape (trial, volume) of one model for each trial.

    Raises:
        ValueError: a trial cannot be told from the others together.
    """
    total = design.trials.sum(axis=1)
    rows = []
    for trial in range(design.trials.shape[1]):
        own = design.trials[:, trial]
        rest = [] if design.trials.shape[1] == 1 else [total - own]
        rows.append(_weights(np.hstack([own, *rest, design.nuisance]), 1))
    return np.concatenate(rows)


def _weights(regressors: Array, wanted: int) -> Array:
    """Rows of the pseudo-inverse that give the first regressors' coefficients."""
    scale = np.linalg.norm(regressors, axis=0)
    scale[scale == 0] = 1
    weights: Array = np.linalg.pinv(regressors / scale)[:wanted]
    weights = weights / scale[:wanted, None]
    response = weights @ regressors / scale * scale[:wanted, None]
    wrong = np.abs(response - np.eye(*response.shape)).max(axis=1) > ESTIMABLE
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} of {wanted} trials (first: number {int(np.argmax(wrong))}) cannot"
            " be told from other regressors; they lie too close, or too many regressors are used:"
            ' set estimator = "lss", take fewer confounds, or a lower high_pass'
        )
    return weights


def weighted_sums(blocks: Iterator[tuple[int, Array]], weights: Array) -> tuple[Array, Array]:
    """``weights @ volumes`` and the mean volume, over blocks of (first volume, volume × voxel)."""
    sums: Any = 0.0
    total: Any = 0.0
    for first, block in blocks:
        values = block.astype(np.float64, copy=False)
        sums = sums + weights[:, first : first + len(values)] @ values
        total = total + values.sum(axis=0)
    return sums, total / weights.shape[1]


@dataclass(frozen=True)
class RidgeProblem:
    """What ridge regression of a run's trials needs of its design.

    Args:
        directions: of shape (direction, volume); the data's projections on them are enough.
        triangle: the trial regressors in these directions, without the nuisance regressors.
        n_trials: how many of the coefficients are responses to trials.
    """

    directions: Array
    triangle: Array
    n_trials: int


def ridge_problem(design: Design) -> RidgeProblem:
    """Take the nuisance regressors out of the trial regressors, which may then be shrunk."""
    n_volumes, n_trials, _ = design.trials.shape
    bases = design.trials.transpose(0, 2, 1).reshape(n_volumes, -1)
    left, sizes, _ = np.linalg.svd(design.nuisance, full_matrices=False)
    left = left[:, sizes > np.max(sizes) * 1e-10]
    directions, triangle = np.linalg.qr(bases - left @ (left.T @ bases))
    return RidgeProblem(directions.T, triangle, n_trials)


def ridge_responses(problem: RidgeProblem, projections: Array, fraction: float) -> Array:
    """Responses, trial × voxel, from projections, direction × voxel.

    Args:
        fraction: length of each voxel's coefficients as a fraction of their length without ridge.

    Raises:
        ImportError: fracridge is not installed.
    """
    try:
        from fracridge import fracridge  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ImportError("ridge_fraction needs pip install 'repalign[fmri]'") from error
    out = np.zeros((problem.n_trials, projections.shape[1]))
    for start in range(0, projections.shape[1], VOXELS_AT_ONCE):
        part = projections[:, start : start + VOXELS_AT_ONCE]
        signal = np.flatnonzero(part.any(axis=0))  # nothing to shrink where nothing responds
        if len(signal):
            found, _ = fracridge(problem.triangle, part[:, signal], np.array([fraction]), jit=False)
            found = found.reshape(len(problem.triangle), len(signal))
            out[:, start + signal] = found[: problem.n_trials]
    return out

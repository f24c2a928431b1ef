"""Confounds, drifts and scaling taken out of one run's volumes, a few volumes at a time.

What is removed is a projection along time, the same for every voxel: with an orthonormal basis Q
of the centred confounds and drifts, cleaned = Y − Q QᵀY. One pass through the file finds QᵀY, the
mean and the spread of each voxel; after that any volumes can be read and cleaned alone, so that a
run is never held as a whole. Equal to nilearn's ``signal.clean`` with ``filter="cosine"``; removing
drifts and confounds in one projection keeps either from coming back with the other (Lindquist et
al. 2019, doi 10.1002/hbm.24528).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from repalign.loaders.volumes import read_voxel_rows, voxel_rows

Array = np.ndarray[Any, np.dtype[Any]]
Scaling = Literal["zscore", "percent", "none"]
RANK_TOLERANCE = 1e-8  # of the largest singular value: what lies below is a copy of the others
EXPLAINED = 1e-12  # share of a voxel's variance below which nothing is left of it


class Moments(NamedTuple):
    """What one pass through a run finds of each voxel.

    Attributes:
        coefficients: QᵀY, of shape (regressor, voxel).
        mean: of shape (voxel,).
        spread: the sample standard deviation of what is left.
    """

    coefficients: Array
    mean: Array
    spread: Array


def nuisance_basis(
    confounds: Array, *, repetition_time_s: float, detrend: bool, high_pass: float | None
) -> Array:
    """Orthonormal columns that span the centred confounds and drifts.

    Args:
        confounds: of shape (volume, confound), with 0 or more columns.
        repetition_time_s: seconds between volumes.
        detrend: remove a straight line.
        high_pass: in Hz; remove the cosines below it.

    Raises:
        ValueError: so many regressors, or so high a frequency, that nothing would be left.
    """
    n = len(confounds)
    columns = [confounds]
    if detrend:
        columns.append(np.linspace(-1, 1, n)[:, None])
    if high_pass is not None:
        if high_pass * repetition_time_s >= 0.5:
            raise ValueError(
                f"high_pass is {high_pass:g} Hz; at a repetition time of {repetition_time_s:g} s"
                f" nothing is left above {0.5 / repetition_time_s:g} Hz; use less, such as 0.01"
            )
        from nilearn.glm.first_level.design_matrix import create_cosine_drift

        columns.append(create_cosine_drift(high_pass, np.arange(n) * repetition_time_s)[:, :-1])
    regressors = np.hstack(columns)
    regressors = regressors - regressors.mean(axis=0)
    norms = np.linalg.norm(regressors, axis=0)
    regressors = regressors[:, norms > 0] / norms[norms > 0]
    if not regressors.size:
        return np.zeros((n, 0))
    left, singular, _ = np.linalg.svd(regressors, full_matrices=False)
    basis: Array = left[:, singular > RANK_TOLERANCE * singular[0]]
    if basis.shape[1] + 1 >= n:
        raise ValueError(
            f"{regressors.shape[1]} confounds and drifts explain all of its {n} volumes; use fewer"
            " confounds or a lower high_pass"
        )
    return basis


@dataclass
class CleanedRows:
    """Some volumes of one run, cleaned: ``rows(start, stop)`` is of shape (volume, voxel).

    Args:
        path: of the 4D file.
        ijk: indices of the voxels, of shape (voxel, 3).
        basis: see `nuisance_basis`.
        scaling: ``zscore``, ``percent`` of the mean of the run, or ``none``.
        centre: take the mean out, as a detrended or scaled run has none.
    """

    path: Path
    ijk: Array
    basis: Array
    scaling: Scaling
    centre: bool
    _found: Moments | None = field(default=None, repr=False)  # of the one pass, when first asked

    def __call__(self, start: int, stop: int) -> Array:
        """Return the cleaned volumes from ``start`` to ``stop``."""
        rows: Array = read_voxel_rows(self.path, self.ijk, start, stop)
        if not self.basis.shape[1] and not self.centre:
            return rows
        if self._found is None:
            self._found = self._moments()
        coefficients, mean, spread = self._found
        rows = rows - self.basis[start:stop] @ coefficients
        if self.centre:
            rows -= mean
        if self.scaling == "zscore":
            rows /= spread
        elif self.scaling == "percent":
            rows *= 100 / mean
        return rows

    def _moments(self) -> Moments:
        n, voxels = len(self.basis), len(self.ijk)
        shift = np.zeros(voxels)
        sums, squares = np.zeros(voxels), np.zeros(voxels)
        coefficients = np.zeros((self.basis.shape[1], voxels))
        for first, block in voxel_rows(self.path, self.ijk, 0, n):
            values = block.astype(np.float64)
            if first == 0:
                shift = values[0].copy()  # squares of what varies, not of a large mean
            values -= shift
            sums += values.sum(axis=0)
            squares += np.square(values).sum(axis=0)
            coefficients += self.basis[first : first + len(values)].T @ values
        self._refuse(~np.isfinite(squares), "has NaN or infinite values in", "use a tighter mask")
        total = squares - np.square(sums) / n
        left = total - np.square(coefficients).sum(axis=0)
        mean = shift + sums / n
        if self.scaling == "zscore":
            floor = EXPLAINED * np.maximum(total, np.square(mean) * n * np.finfo(float).eps)
            what = "does not vary (but for what confounds and drifts explain) in"
            self._refuse(left <= floor, what, 'use a tighter mask, or scaling = "none"')
        elif self.scaling == "percent":
            what = "has a mean of 0 or less, of which there is no percent, in"
            self._refuse(mean <= 0, what, 'use a tighter mask, or scaling = "none"')
        spread = np.sqrt(np.maximum(left, 0) / (n - 1))
        return Moments(coefficients, mean, spread)

    def _refuse(self, bad: Array, what: str, remedy: str) -> None:
        if bad.any():
            where = tuple(self.ijk[bad][0].tolist())
            raise ValueError(
                f"{self.path} {what} {int(bad.sum())} voxels (first {where}); {remedy}"
            )

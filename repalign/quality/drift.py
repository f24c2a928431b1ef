"""How much of a neuroid's variance its sessions explain, beside the stimuli shown in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from repalign.recording import PRESENTATION

SESSION = "session"
Array = np.ndarray[Any, np.dtype[Any]]


def parts_of_time(ds: xr.Dataset) -> tuple[Array | None, list[str]]:
    """The session of each presentation and the names of the sessions, in order of appearance.

    None, and the names of two halves, where no coordinate ``session`` on presentation tells two or
    more sessions apart: which half a presentation belongs to depends on its stimulus, see
    `halves_of`.
    """
    if SESSION in ds.coords and ds[SESSION].dims == (PRESENTATION,):
        given = [str(value) for value in ds[SESSION].values.tolist()]
        names = list(dict.fromkeys(given))
        if len(names) > 1:
            position = {name: number for number, name in enumerate(names)}
            return np.array([position[name] for name in given], dtype=np.int64), names
    return None, ["first half", "second half"]


def halves_of(table: Array, n_presentations: int) -> Array:
    """0 for the first ⌊m/2⌋ of the m presentations of a stimulus, 1 for all others.

    Args:
        table: rows as repetition × stimulus, −1 where there is none.
        n_presentations: of the recording.
    """
    codes = np.ones(n_presentations, dtype=np.int64)
    counts = (table >= 0).sum(0)
    early = (np.arange(len(table))[:, None] < counts // 2) & (table >= 0)
    codes[table[early]] = 0
    return codes


def drift_shares(values: Array, stimulus: Array, part: Array) -> tuple[Array, Array]:
    """The share of each neuroid's variance that parts of the recording explain beside the stimuli.

    With x = stimulus + part + noise fitted by least squares, Q the sum of squares by which parts
    improve the fit of stimuli alone (r degrees of freedom), and s² the residual variance,

        share = (Q − r·s²) / Σ(x − x̄)²,

    which is 0 on average where there is no drift and may be below; p is that of F = Q / (r·s²).
    What stimuli and parts could both explain is left to the stimuli, so that a part with stimuli
    of its own shows no drift.

    Args:
        values: presentation × neuroid, finite.
        stimulus: number of the stimulus of each presentation; those shown once say nothing.
        part: number of the part of each presentation.

    Returns:
        Share and p, one a neuroid. NaN where no stimulus was shown in two parts, presentations are
        too few, or the neuroid is constant.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(400, 1)) + np.repeat([[0.0], [2.0]], 200, 0)
        >>> share, p = drift_shares(x, np.tile(np.arange(100), 4), np.repeat([0, 1], 200))
        >>> bool(abs(share[0] - 0.5) < 0.1), bool(p[0] < 1e-9)  # 1 of 1 + 1
        (True, True)
    """
    from scipy.stats import f

    undefined = np.full(values.shape[1], np.nan)
    repeated = np.bincount(stimulus)[stimulus] > 1
    values, part = values[repeated], np.unique(part[repeated], return_inverse=True)[1]
    stimulus = np.unique(stimulus[repeated], return_inverse=True)[1]
    if not len(values):
        return undefined, undefined.copy()
    shown = np.zeros((stimulus.max() + 1, part.max() + 1))
    np.add.at(shown, (stimulus, part), 1)
    often = shown.sum(1)
    # Sessions less their means over stimuli: only this small matrix of their products is needed.
    products = np.diag(shown.sum(0)) - shown.T @ (shown / often[:, None])
    strengths, axes = np.linalg.eigh(products)
    real = strengths > 1e-9 * max(1.0, float(strengths[-1]))
    rank, left_over = int(real.sum()), len(values) - len(often) - int(real.sum())
    if rank == 0 or left_over < 1:
        return undefined, undefined.copy()
    residual = values - (_sums(values, stimulus) / often[:, None])[stimulus]
    along = axes[:, real].T @ _sums(residual, part)
    explained = (along**2 / strengths[real, None]).sum(0)
    total = np.square(values - values.mean(0)).sum(0)
    noise = np.maximum(np.square(residual).sum(0) - explained, 0.0) / left_over
    constant = values.max(0) == values.min(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(constant, np.nan, (explained - rank * noise) / total)
        chance = f.sf(explained / (rank * noise), rank, left_over)
    return share, np.where(constant, np.nan, chance)


def _sums(values: Array, codes: Array) -> Array:
    """Sums of the rows with equal codes."""
    order = np.argsort(codes, kind="stable")
    begins = np.flatnonzero(np.diff(codes[order], prepend=-1))
    total: Array = np.add.reduceat(values[order], begins, axis=0)
    return total

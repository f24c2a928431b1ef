"""How well features foretell a continuous recording, on blocks of time that the fit never saw.

Neighbouring volumes are alike whatever the features say, so that folds at random find a relation
where there is none. Here a fold is a run, or a block of time with a gap around it; and the null
turns each run's responses in a circle, which leaves their own structure in time as it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.continuous.delays import check_delays, complete_rows, fir_features
from repalign.continuous.folds import LEAST_ROWS, Split, blocked_folds, circular_shifts
from repalign.continuous_recording import REPETITION_TIME, RUN, check_is_continuous
from repalign.metrics.calls import Device, pick_device
from repalign.metrics.folds import fold_scores
from repalign.metrics.gram import centre, in_working_precision
from repalign.metrics.ridge import Ridge
from repalign.metrics.ridge_selection import RidgeFit, check_alphas, ridge_cv
from repalign.recording import NEUROID
from repalign.store import load_values

Array = np.ndarray[Any, np.dtype[Any]]
Edges = Literal["drop", "zero"]

HAEMODYNAMIC_SECONDS = 15.0  # for how long a response, and slow noise, ties volumes together
INNER_BLOCKS = 5
TARGET_ELEMENTS = 1 << 25  # values of responses and their turned copies at a time
SHIFT, DELAY, FEATURE = "shift", "delay", "feature"


def score_continuous(
    recording: xr.Dataset,
    features: Array,
    *,
    delays: Sequence[int] = (0,),
    edges: Edges = "drop",
    folds: int | None = None,
    gap: int | None = None,
    alphas: Sequence[float] = Ridge.alphas,
    n_shifts: int = 0,
    minimum_shift: int | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> xr.Dataset:
    """Score how well features foretell each neuroid of a continuous recording, out of sample.

    A ridge regression from the delayed features is fitted to the other runs or blocks; r is the
    Pearson correlation of response and prediction within each held-out one, averaged over them.
    p = (1 + #{null r ≥ r}) / (1 + shifts), where each null turns the responses of every run in a
    circle against the features and repeats the whole fit, its penalties included.

    Args:
        recording: ``response(time, neuroid)``, of one or more runs.
        features: of shape (time, feature), on the recording's volumes, as
            `repalign.continuous.features` gives them.
        delays: in volumes, for `fir_features`; (0,) where the features bear a haemodynamic
            response already.
        edges: times whose delayed features lie outside their run: ``drop`` them, or take those
            features as ``zero``, which is right for events.
        folds: None for whole runs, a number for blocks; see `blocked_folds`.
        gap: of blocks, in volumes; None is the span of the delays and 15 s more.
        alphas: penalties as multiples of the mean eigenvalue of the training features' kernel,
            as in `repalign.metrics.Ridge`. Each neuroid takes the one of least error over 5
            contiguous blocks of the training times.
        n_shifts: how often the null is drawn; 0: no p.
        minimum_shift: least volumes by which a run is turned, either way round; None is the
            longest delay and 15 s more.
        seed: of the shifts.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``; None is the CPU.

    Returns:
        A dataset with ``r(neuroid)`` and ``alpha(fold, neuroid)``, and with shifts ``p(neuroid)``
        and ``null(shift, neuroid)``, on the recording's neuroids. r is NaN where a neuroid (or its
        prediction) is constant in every held-out block. Attributes: all parameters, ``n_times``,
        ``smallest_p``.

    Raises:
        ValueError: no continuous recording, other lengths, values that are not finite, a delay as
            long as a run, runs or blocks too short, or one run without ``folds``.

    Note:
        Neighbouring inner blocks have no gap, so that slow noise may make the chosen penalty too
        small; the score is of data that neither fit nor penalty has seen.

        A turned run is a fair null only of responses that do not drift from its start to its end:
        for raw slow drifts p is too small. Take those below .01 Hz out first (``high_pass`` of the
        loader).

        p is of one neuroid; ``null.max("neuroid")`` is the null of the largest. The whole response
        is held in memory.

    Example:
        >>> from repalign.continuous_recording import make_continuous_recording
        >>> x = np.random.default_rng(0).normal(size=(120, 2))
        >>> runs = np.repeat(["1", "2", "3"], 40)
        >>> y = fir_features(x, run=runs, delays=[2]) @ np.ones((2, 1))
        >>> film = make_continuous_recording(y, run=runs, region="V1", repetition_time_s=2.0)
        >>> bool(score_continuous(film, x, delays=[1, 2, 3])["r"][0] > 0.99)
        True

    Reference:
        Huth et al. 2016, https://doi.org/10.1038/nature17637; circular shifts: Harris 2020,
        https://doi.org/10.1101/2020.11.29.402719
    """
    check_alphas(tuple(alphas))
    problem = _problem(recording, features, delays, edges, device)
    tied = math.ceil(HAEMODYNAMIC_SECONDS / float(recording.attrs[REPETITION_TIME]))
    shifts = check_delays(delays, problem.run)
    if gap is None and folds is not None:
        gap = max(shifts) - min(shifts) + tied
    splits = [
        Split(split.train[problem.rows], split.test[problem.rows])
        for split in blocked_folds(recording[RUN].values, folds=folds, gap=gap or 0)
    ]
    for number, split in enumerate(splits):
        if split.test.sum() < LEAST_ROWS or split.train.sum() < 2 * INNER_BLOCKS:
            raise ValueError(
                f"fold {number} has {int(split.test.sum())} held-out times and"
                f" {int(split.train.sum())} to fit, once times at the edges of runs are dropped;"
                " use longer blocks or shorter delays"
            )
    longest = max(map(abs, shifts))
    if minimum_shift is None:
        minimum_shift = longest + tied
    if n_shifts and minimum_shift <= longest:
        raise ValueError(
            f"minimum_shift is {minimum_shift}, the longest delay {longest}: a shift within the"
            " delays is no null; use more"
        )
    turns = [np.arange(len(problem.run))]
    if n_shifts:
        turns += circular_shifts(
            problem.run, n_shifts, least=minimum_shift, draw=np.random.default_rng(seed)
        )
    r, chosen = _scores(problem, splits, turns, tuple(alphas))
    found = xr.Dataset(
        {"r": (NEUROID, r[0]), "alpha": (("fold", NEUROID), chosen)},
        coords={name: c for name, c in recording.coords.items() if c.dims == (NEUROID,)},
        attrs={
            "dataset": str(recording.attrs.get("dataset", "")),
            "fingerprint": str(recording.attrs.get("fingerprint", "")),
            "delays": shifts,
            "edges": edges,
            "folds": "runs" if folds is None else folds,
            "gap": gap or 0,
            "alphas": list(map(float, alphas)),
            "n_times": len(problem.run),
            "n_shifts": len(turns) - 1,
            "seed": seed,
        },
    )
    if n_shifts:
        null = r[1:]
        p = (1 + (~(null < r[0])).sum(axis=0)) / len(turns)  # an undefined null counts against r
        found["p"] = NEUROID, np.where(np.isnan(r[0]), np.nan, p)
        found["null"] = (SHIFT, NEUROID), null
        found.attrs |= {"minimum_shift": minimum_shift, "smallest_p": 1 / len(turns)}
    return found


def fir_kernels(
    recording: xr.Dataset,
    features: Array,
    *,
    delays: Sequence[int],
    edges: Edges = "drop",
    alphas: Sequence[float] = Ridge.alphas,
    device: Device = "auto",
) -> xr.DataArray:
    """Fit each neuroid's response to each feature at each delay, to all times of a recording.

    Args:
        recording, features, delays, edges, alphas, device: as in `score_continuous`.

    Returns:
        Weights of shape (delay, feature, neuroid), with the delays in volumes on ``delay``.

    Raises:
        ValueError: as `score_continuous`.

    Example:
        >>> from repalign.continuous_recording import make_continuous_recording
        >>> x = np.random.default_rng(0).normal(size=(60, 1))
        >>> y = fir_features(x, run=["1"] * 60, delays=[1]) * 3
        >>> film = make_continuous_recording(y, run=["1"] * 60, region="V1", repetition_time_s=2.0)
        >>> fir_kernels(film, x, delays=[0, 1, 2]).values.ravel().round(2).tolist()
        [0.0, 3.0, 0.0]
    """
    check_alphas(tuple(alphas))
    problem = _problem(recording, features, delays, edges, device)
    fit, _ = _fit(problem.x, problem.y, tuple(alphas))
    weights = fit.weights.cpu().numpy().reshape(len(delays), -1, problem.y.shape[1])
    kept = {name: c for name, c in recording.coords.items() if c.dims == (NEUROID,)}
    return xr.DataArray(
        weights, dims=(DELAY, FEATURE, NEUROID), coords={DELAY: list(delays), **kept}
    )


class _Problem(NamedTuple):
    """Delayed features and responses of the times that are used.

    Attributes:
        x: time × column.
        y: time × neuroid.
        run: of each time.
        rows: mask of the recording's times that are used.
    """

    x: Tensor
    y: Tensor
    run: Array
    rows: Array


def _problem(
    recording: xr.Dataset, features: Array, delays: Sequence[int], edges: str, device: Device
) -> _Problem:
    check_is_continuous(recording)
    if edges not in ("drop", "zero"):
        raise ValueError(f"edges is {edges!r}; expected 'drop' or 'zero'")
    run = recording[RUN].values
    stacked = fir_features(features, run=run, delays=delays)
    rows = complete_rows(run, delays) if edges == "drop" else np.ones(len(run), dtype=bool)
    values = load_values(recording["response"], str(recording.attrs.get("store", "recording")))
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("response has NaN or infinite values; check_recording says where")
    where = pick_device("cpu" if device is None else device)
    x, y = (torch.from_numpy(np.ascontiguousarray(array[rows])) for array in (stacked, values))
    if where.type == "mps":
        x, y = x.float(), y.float()
    return _Problem(x.to(where), y.to(where), run[rows], rows)


def _fit(x: Tensor, y: Tensor, alphas: tuple[float, ...]) -> tuple[RidgeFit, Tensor]:
    """A ridge regression, and each target's penalty as a multiple of the mean eigenvalue."""
    scale = float(centre(in_working_precision(x), 0).square().sum() / len(x))
    if scale == 0:
        raise ValueError(
            "the features are constant over the times that are fitted; there is no fit"
        )
    inner = torch.arange(len(x), device=x.device) * INNER_BLOCKS // len(x)
    fit = ridge_cv(x, y, alphas=[alpha * scale for alpha in alphas], fold=inner)
    return fit, fit.alphas / scale


def _scores(
    problem: _Problem, splits: Sequence[Split], turns: Sequence[Array], alphas: tuple[float, ...]
) -> tuple[Array, Array]:
    """r of shape (turn, neuroid), and the penalties of the first turn, fold × neuroid."""
    n, width = problem.y.shape
    fold = torch.zeros(n, dtype=torch.int64)
    for number, split in enumerate(splits):
        fold[torch.from_numpy(split.test)] = number
    fold = fold.to(problem.x.device)
    r = np.full((len(turns), width), np.nan)
    chosen = np.full((len(splits), width), np.nan)
    at_once = max(1, TARGET_ELEMENTS // n)
    cells = list(itertools.product(range(len(turns)), range(0, width, at_once)))
    size = max(1, at_once // min(width, at_once))
    for batch in (cells[first : first + size] for first in range(0, len(cells), size)):
        parts = [slice(first, min(first + at_once, width)) for _, first in batch]
        y = torch.cat(
            [
                problem.y[torch.from_numpy(turns[turn]).to(problem.y.device)][:, part]
                for (turn, _), part in zip(batch, parts, strict=True)
            ],
            dim=1,
        )
        predictions = torch.empty_like(y)
        penalties = []
        for split in splits:
            train, test = (torch.from_numpy(mask).to(y.device) for mask in split)
            fit, alpha = _fit(problem.x[train], y[train], alphas)
            held_out = in_working_precision(problem.x[test]) @ in_working_precision(fit.weights)
            predictions[test] = (held_out + fit.intercept).to(y.dtype)
            penalties.append(alpha)
        scores = fold_scores(predictions, y, fold).cpu().numpy()
        start = 0
        for (turn, _), part in zip(batch, parts, strict=True):
            stop = start + part.stop - part.start
            r[turn, part] = scores[start:stop]
            if turn == 0:
                chosen[:, part] = torch.stack(penalties)[:, start:stop].cpu().numpy()
            start = stop
    return r, chosen

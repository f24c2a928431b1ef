"""Features of films, stories and play on the grid of a recording's volumes.

A feature row belongs to a moment (a frame) or to a stretch of time (an event). Its share in a
volume depends on their lag and on how long it lasts, nothing else; so resampling and haemodynamics
are weights of volume × event, which are zero where the future would leak into the past.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from repalign.continuous.delays import feature_rows
from repalign.continuous_recording import (
    REPETITION_TIME,
    RUN,
    SLICE_TIME_REF,
    TIME_S,
    check_is_continuous,
    run_bounds,
)

Array = np.ndarray[Any, np.dtype[Any]]
Hrf = str | Callable[[Array], Array]
Kernel = Callable[[Array, Array], Array]

HRF_SECONDS = 32.0
HRF_STEP = 0.01  # seconds
HRFS = ("glover", "spm")
TIMES_AT_ONCE = 64
ROUNDING = 1e-6  # seconds: a frame that starts with a volume is inside it


def features_at_tr(
    features: Array,
    recording: xr.Dataset,
    *,
    onset_s: Sequence[float] | Array | xr.DataArray,
    duration_s: Sequence[float] | Array | xr.DataArray | None = None,
    run: str | Sequence[str] | Array | xr.DataArray | None = None,
    empty: Literal["error", "zero"] = "error",
) -> Array:
    """Bring features of frames or events to the volumes of a continuous recording.

    Frames (no durations) become the mean of those that start within a volume. Events become
    Σₑ (share of the volume during which e lasts) × featuresₑ, 0 where there is none; an event of
    duration 0 counts in full in the volume in which it starts. Nothing is delayed: see
    `fir_features` and `hrf_features`.

    Args:
        features: of shape (frame or event, feature).
        recording: whose runs and volumes.
        onset_s: start of each frame or event, in seconds from the start of its run.
        duration_s: how long each event lasts; None for frames.
        run: of each frame or event, or one for all; it may be left out where there is one run.
        empty: volumes without a frame are an error, or ``zero``.

    Returns:
        An array of shape (time, feature) in float64.

    Raises:
        ValueError: times outside their run, an unknown run, a volume without a frame, values that
            are not finite, or other lengths.

    Note:
        The mean is a boxcar filter. For low-pass (Lanczos) resampling filter the features before.

    Example:
        >>> from repalign.continuous_recording import make_continuous_recording
        >>> film = make_continuous_recording(np.zeros((2, 1)), run=["1", "1"], region="V1",
        ...     repetition_time_s=2.0)
        >>> features_at_tr(np.array([[1.0], [3], [5], [9]]), film, onset_s=[0, 1, 2, 3]).tolist()
        [[2.0], [7.0]]
    """
    if empty not in ("error", "zero"):
        raise ValueError(f"empty is {empty!r}; expected 'error' or 'zero'")
    if duration_s is not None and empty != "error":
        raise ValueError("empty applies to frames only: without an event a volume is 0 anyway")
    timeline = _Timeline(features, recording, onset_s, duration_s, run)
    interval = timeline.interval

    def starts_inside(lag: Array, duration: Array) -> Array:
        inside: Array = (lag <= ROUNDING) & (lag > ROUNDING - interval)
        return inside.astype(np.float64)

    def share(lag: Array, duration: Array) -> Array:
        lasting = np.minimum(duration, lag + interval) - np.maximum(lag, 0)
        return np.where(
            duration > 0, np.maximum(lasting, 0) / interval, starts_inside(lag, duration)
        )

    if duration_s is not None:
        return timeline.weighted_sums(share, at=0.0, reach=0.0)
    sums = timeline.weighted_sums(starts_inside, at=0.0, reach=0.0, count=True)
    counts, sums = sums[:, -1:], sums[:, :-1]
    if empty == "error" and not counts.all():
        row = int(np.argmin(counts[:, 0]))
        raise ValueError(
            f"{int((counts == 0).sum())} of {len(counts)} volumes have no frame (first: at"
            f" {recording[TIME_S].values[row]:g} s of run {recording[RUN].values[row]!r}); set"
            " empty='zero', or give durations"
        )
    return sums / np.maximum(counts, 1)


def hrf_features(
    features: Array,
    recording: xr.Dataset,
    *,
    onset_s: Sequence[float] | Array | xr.DataArray,
    duration_s: Sequence[float] | Array | xr.DataArray,
    run: str | Sequence[str] | Array | xr.DataArray | None = None,
    hrf: Hrf = "spm",
) -> Array:
    """Convolve features of events or frames with a haemodynamic response, causally, and sample it.

    x(t) = Σₑ featuresₑ ∫ h(t − s) ds over the time s that e lasts = Σₑ featuresₑ
    [H(t − onsetₑ) − H(t − onsetₑ − durationₑ)], where the step response H, the integral of h, is 0
    before 0 and 1 in the end. t is ``time_s`` of each volume, so no event reaches a volume that was
    measured before it. An event of duration 0 is an impulse of one second's area: featuresₑ
    h(t − onsetₑ).

    Args:
        features: of shape (event, feature). A frame is an event that lasts until the next.
        recording: whose runs and volumes.
        onset_s: start of each event in seconds from the start of its run.
        duration_s: how long each event lasts.
        run: of each event, or one for all; it may be left out where there is one run.
        hrf: ``spm`` or ``glover``, or a function that gives h at an array of seconds after 0.

    Returns:
        An array of shape (time, feature) in float64.

    Raises:
        ValueError: times outside their run, an unknown run or response, values that are not
            finite, or other lengths.

    Note:
        nilearn's ``compute_regressor`` in the limit of fine oversampling, but for events of
        duration 0, whose area there is one step of its grid. A convolution that is centred
        (``mode="same"``) would move half the response before its cause.

    Example:
        >>> from repalign.continuous_recording import make_continuous_recording
        >>> film = make_continuous_recording(np.zeros((20, 1)), run=["1"] * 20, region="V1",
        ...     repetition_time_s=2.0)
        >>> x = hrf_features(np.ones((1, 1)), film, onset_s=[10], duration_s=[30])
        >>> bool(x[:6].any()), round(float(x.max()), 2) > 1
        (False, True)

    Reference:
        Friston et al. 1998, https://doi.org/10.1006/nimg.1997.0306; Glover 1999,
        https://doi.org/10.1006/nimg.1998.0419
    """
    timeline = _Timeline(features, recording, onset_s, duration_s, run)
    seconds, response, step_response = _responses(hrf)

    def kernel(lag: Array, duration: Array) -> Array:
        impulse = np.interp(lag, seconds, response, left=0, right=0)
        stretch = np.interp(lag, seconds, step_response) - np.interp(
            lag - duration, seconds, step_response
        )
        return np.where(duration > 0, stretch, impulse)

    reference = float(recording.attrs[SLICE_TIME_REF])
    return timeline.weighted_sums(kernel, at=reference, reach=HRF_SECONDS)


def _responses(hrf: Hrf) -> tuple[Array, Array, Array]:
    """Seconds, the response to an impulse of unit area, and the response to a step of 1."""
    from scipy.integrate import cumulative_trapezoid

    count = round(HRF_SECONDS / HRF_STEP)
    seconds = np.linspace(0, HRF_SECONDS, count)
    if callable(hrf):
        response = np.asarray(hrf(seconds), dtype=np.float64)
    elif hrf in HRFS:
        from nilearn.glm.first_level import glover_hrf, spm_hrf

        known = {"glover": glover_hrf, "spm": spm_hrf}
        response = np.asarray(known[hrf](1.0, round(1 / HRF_STEP), HRF_SECONDS))
    else:
        raise ValueError(f"hrf is {hrf!r}; expected {', '.join(HRFS)}, or a function of seconds")
    good = response.shape == seconds.shape and bool(np.isfinite(response).all())
    step_response = cumulative_trapezoid(response, seconds, initial=0) if good else np.zeros(1)
    area = float(step_response[-1])
    if area <= 0:
        raise ValueError(
            f"hrf gives values of shape {response.shape} and area {area:g} over {HRF_SECONDS:g} s;"
            f" expected a finite value for each of {count} times, and an area above 0"
        )
    return seconds, response / area, step_response / area


class _Timeline:
    """Features with their times, checked against the runs of a recording."""

    def __init__(
        self, features: Array, recording: xr.Dataset, onset_s: Any, duration_s: Any, run: Any
    ) -> None:
        check_is_continuous(recording)
        self.interval = float(recording.attrs[REPETITION_TIME])
        self.reference = float(recording.attrs[SLICE_TIME_REF])
        self.bounds = run_bounds(recording[RUN].values)
        self.time_s = recording[TIME_S].values
        self.onsets = np.asarray(onset_s, dtype=np.float64)
        n = len(self.onsets)
        self.features = feature_rows(features, n, "onsets")
        given = np.zeros(n) if duration_s is None else np.asarray(duration_s, dtype=np.float64)
        if given.shape != (n,) or not (np.isfinite(given).all() and (given >= 0).all()):
            raise ValueError(
                f"duration_s has shape {given.shape} for {n} onsets; expected one each, 0 s or more"
            )
        self.durations = given
        if run is None and len(self.bounds) > 1:
            raise ValueError(f"the recording has runs {', '.join(self.bounds)}; give run= of each")
        name = next(iter(self.bounds)) if run is None else run
        names = [name] * n if isinstance(name, str) else np.asarray(name).tolist()
        self.runs = np.array(list(map(str, names)), dtype=object)
        unknown = sorted(set(self.runs.tolist()) - set(self.bounds))
        if self.runs.shape != (n,) or unknown:
            raise ValueError(
                f"run has shape {self.runs.shape} for {n} onsets"
                + (f" and names {unknown[0]!r}" if unknown else "")
                + f"; expected one of {', '.join(self.bounds)} each"
            )
        for name, (start, stop) in self.bounds.items():
            own = self.onsets[self.runs == name]
            first = float(self.time_s[start]) - self.reference * self.interval
            last = first + (stop - start) * self.interval
            outside = own[~((own >= first - ROUNDING) & (own < last))]
            if outside.size:
                raise ValueError(
                    f"{outside.size} onsets (first {outside[0]:g} s) lie outside run {name!r},"
                    f" which lasts from {first:g} to {last:g} s; remove them"
                )

    def weighted_sums(
        self, kernel: Kernel, *, at: float, reach: float, count: bool = False
    ) -> Array:
        """Σₑ kernel(lag, duration) × features, where the lag is a volume's time minus the onset.

        Args:
            kernel: weights of volume × event, 0 where the lag is beyond duration + reach.
            at: the moment of a volume that counts, as a share of the repetition time.
            reach: seconds after its end in which an event still counts.
            count: add a last column of the sums of weights.
        """
        width = self.features.shape[1]
        sums = np.zeros((len(self.time_s), width + count))
        moments = self.time_s + (at - self.reference) * self.interval
        for name, (start, stop) in self.bounds.items():
            own = np.flatnonzero(self.runs == name)
            for first in range(start, stop, TIMES_AT_ONCE):
                rows = slice(first, min(first + TIMES_AT_ONCE, stop))
                ends = self.onsets[own] + self.durations[own] + reach
                near = (self.onsets[own] < moments[rows][-1] + self.interval + ROUNDING) & (
                    ends >= moments[rows][0] - ROUNDING
                )
                some = own[near]
                lag = moments[rows][:, None] - self.onsets[some]
                weights = kernel(lag, self.durations[some])
                sums[rows, :width] = weights @ self.features[some]
                if count:
                    sums[rows, width] = weights.sum(axis=1)
        return sums

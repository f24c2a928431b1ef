"""When the similarity with each layer begins and peaks, in each region."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
import xarray as xr

from repalign.choices import as_whole_number
from repalign.inference import latency, onset_latency, peak_latency
from repalign.inference.latencies import Method
from repalign.recording import TIME_BIN
from repalign.recording_ceilings import GROUP_SUBJECT


def latency_table(
    result: xr.Dataset,
    *,
    fraction: float = 0.5,
    baseline: tuple[float, float] | None = None,
    method: Method = "bootstrap",
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """List onset and peak of the mean time course of each region and layer, with intervals.

    Args:
        result: of ``repalign.time_resolved``.
        fraction, baseline: of the onset, see ``repalign.inference.onset_latency``; the times of
            the baseline are in ms.
        method: of the intervals over subjects: ``bootstrap`` or ``jackknife``, see
            ``repalign.inference.latency``.
        confidence, n_resamples, seed: of the intervals.

    Returns:
        A row a region and layer: ``peak`` (the mean's largest value), ``peak_ms`` and ``onset_ms``
        with ``_low`` and ``_high``, ``n_subjects``. Intervals are NaN for one subject, and where a
        latency is not defined in most resamples.

    Raises:
        ValueError: not the result of ``time_resolved``, or a baseline without times.

    Note:
        A layer that is not related to the region has a peak and an onset as well: look at its
        clusters (``repalign.time_clusters``) first. A bootstrap of fewer than six subjects gives
        intervals that are too narrow; those of the jackknife are wider.

    Example:
        >>> import numpy as np
        >>> times = np.arange(10.0) * 10
        >>> course = np.clip(times - 20, 0, 40)[None, None] + np.zeros((6, 1, 1))
        >>> result = xr.Dataset(
        ...     {"value": (("target", "layer", "time_bin"), course)},
        ...     coords={"species": ("target", ["human"] * 6), "region": ("target", ["IT"] * 6),
        ...             "subject": ("target", list("abcdef")), "layer": ["conv"],
        ...             "time_ms": ("time_bin", times)})
        >>> latency_table(result)[["onset_ms", "onset_low", "peak_ms"]].iloc[0].tolist()
        [40.0, 40.0, 60.0]

    Reference:
        Miller, Patterson & Ulrich 1998, https://doi.org/10.1111/1469-8986.3510099
    """
    if "value" not in result or result["value"].dims != ("target", "layer", TIME_BIN):
        raise ValueError(
            f"latencies are those of repalign.time_resolved's result; this has {dict(result.sizes)}"
        )
    seed = as_whole_number(seed, "seed")
    times = torch.as_tensor(result["time_ms"].values.astype(float))
    names = [
        " ".join(filter(None, map(str, pair)))
        for pair in zip(result["species"].values, result["region"].values, strict=True)
    ]
    rows: list[dict[str, Any]] = []
    for region in dict.fromkeys(names):
        own = [i for i, name in enumerate(names) if name == region]
        single = [i for i in own if str(result["subject"].values[i]) != GROUP_SUBJECT]
        chosen = result["value"].isel(target=single or own)
        for k, layer in enumerate(map(str, result["layer"].values)):
            courses = torch.as_tensor(chosen.values[:, k].astype(float))
            mean = courses.mean(0)
            row = {"region": region, "layer": layer, "peak": float(mean.max())}
            found = {
                "onset": onset_latency(mean, times, fraction=fraction, baseline=baseline),
                "peak": peak_latency(mean, times),
            }
            for of in ("onset", "peak"):
                ends = float("nan"), float("nan")
                if len(courses) > 1:
                    one = latency(
                        courses,
                        times,
                        of="onset" if of == "onset" else "peak",
                        fraction=fraction,
                        baseline=baseline,
                        method=method,
                        confidence=confidence,
                        n_resamples=n_resamples,
                        seed=seed,
                    )
                    ends = one.low, one.high
                row |= {f"{of}_ms": float(found[of]), f"{of}_low": ends[0], f"{of}_high": ends[1]}
            rows.append(row | {"n_subjects": len(courses)})
    return pd.DataFrame(rows)

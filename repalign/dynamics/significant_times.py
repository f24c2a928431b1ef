"""Where along time a similarity is there at all: clusters over subjects, or over stimuli."""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
import xarray as xr

from repalign.choices import as_whole_number
from repalign.dynamics.time_gaps import gathered, places_in_time, spread
from repalign.inference import TestedClusters, cluster_permutation_test, cluster_test_of_null
from repalign.inference.cluster_permutations import ClusterSize
from repalign.inference.significance import Alternative
from repalign.recording import TIME_BIN, TIME_BIN_START, TIME_BIN_STOP
from repalign.recording_ceilings import GROUP_SUBJECT

Over = Literal["subjects", "stimuli"]
BIASED = ("cosine", "cosine_cov", "bures")  # comparators of which unrelated RDMs exceed 0


def time_clusters(
    result: xr.Dataset,
    *,
    over: Over = "subjects",
    minus: str | None = None,
    alternative: Alternative | None = None,
    threshold: float | None = None,
    size: ClusterSize = "mass",
    n_flips: int = 10_000,
    seed: int = 0,
) -> xr.Dataset:
    """Test where a similarity along time, or time by time, is above 0, corrected for all times.

    ``subjects`` flips the signs of whole subjects (random effects: it speaks of new subjects);
    ``stimuli`` compares the mean over subjects with the permutations that ``time_resolved`` or
    ``cross_temporal`` kept (these subjects, and whether there is any relation).

    Args:
        result: of ``repalign.time_resolved`` or ``repalign.cross_temporal``.
        over: ``subjects``, or ``stimuli``.
        minus: a layer: test each other layer less this one, instead of against 0.
        alternative: None is ``greater`` against 0 and ``two-sided`` between layers.
        threshold, size: of the clusters, as in ``repalign.inference.cluster_permutation_test``.
        n_flips: largest number of sign patterns.
        seed: of random sign patterns.

    Returns:
        A Dataset over ``region`` (a region of a species), ``layer`` where there are layers along
        one time axis, and the time axes: ``mean``, ``statistic``, ``label`` of the cluster
        (0: none) and ``p`` of the point's cluster (1 outside of all). Its attributes say the
        ``smallest_p`` that the test can return, and its ``kind``. ``cluster_table`` lists it.

    Raises:
        ValueError: fewer than 2 subjects of a region (the message says the smallest p of few), no
            permutations, or a metric whose value for unrelated representations is not 0.

    Note:
        Over subjects and against 0 the claim is of these stimuli: what they share with a layer by
        chance is found in every subject. ``minus`` compares layers, which is free of that.
        No cluster reaches over a gap: a step from bin to bin of more than 1.5 times the median one.
        p is corrected over times, not over layers or regions: use Holm or Benjamini–Hochberg
        (``repalign.inference``) on the least p of each.

    Example:
        >>> values = np.random.default_rng(0).normal(size=(8, 1, 20))
        >>> values[:, 0, 5:12] += 3
        >>> starts = np.arange(20.0) * 10
        >>> result = xr.Dataset(
        ...     {"value": (("target", "layer", "time_bin"), values)},
        ...     coords={"species": ("target", ["human"] * 8), "region": ("target", ["IT"] * 8),
        ...             "subject": ("target", list("abcdefgh")), "layer": ["conv"],
        ...             "time_bin_start_ms": ("time_bin", starts),
        ...             "time_bin_stop_ms": ("time_bin", starts + 10)})
        >>> found = time_clusters(result)
        >>> cluster_table(found)[["start_ms", "stop_ms", "p"]].iloc[0].tolist()
        [50.0, 120.0, 0.00390625]
    """
    seed = as_whole_number(seed, "seed")
    values, null, series = _values(result, over)
    if minus is not None:
        values, null = _less(values, minus), None if null is None else _less(null, minus)
    elif over == "subjects":
        _check_chance(result)
    chosen = alternative or ("greater" if minus is None else "two-sided")
    labels = [_label(result, i) for i in range(result.sizes["target"])]
    groups = list(dict.fromkeys(labels))
    maps: list[list[TestedClusters]] = []
    means = []
    for group in groups:
        rows = [
            i
            for i, label in enumerate(labels)
            if label == group and (over == "stimuli" or _individual(result, i))
        ]
        of_group = values.isel(target=rows)
        means.append(of_group.mean("target"))
        of_null = None if null is None else null.isel(target=rows).mean("target")
        maps.append(
            [
                _test(
                    one,
                    None if of_null is None else _at(of_null, series, k),
                    name=" ".join(group),
                    settings={"threshold": threshold, "alternative": chosen, "size": size},
                    n_flips=n_flips,
                    seed=seed,
                )
                for k in range(values.sizes[series] if series else 1)
                for one in [_at(of_group, series, k)]
            ]
        )
    return _dataset(result, maps, means, labels, values, minus)


def _values(result: xr.Dataset, over: Over) -> tuple[xr.DataArray, xr.DataArray | None, str]:
    """Values with the dimension of separate maps in front of the times, the null, and its name."""
    if over not in get_args(Over):
        raise ValueError(f"over is {over!r}; expected 'subjects' or 'stimuli'")
    if "value" not in result or TIME_BIN not in result["value"].dims:
        raise ValueError(
            "time_clusters takes what repalign.time_resolved or repalign.cross_temporal returned;"
            f" this has {dict(result.sizes)}"
        )
    values = result["value"]
    null = result.get("null")
    if over == "stimuli" and null is None:
        raise ValueError(
            "no permutations of the stimuli were kept; ask for n_permutations=1000 where the values"
            " are computed"
        )
    series = "layer" if values.dims.index(TIME_BIN) == 2 else ""  # layer × time, not time × layer
    return values, null if over == "stimuli" else None, series


def _less(values: xr.DataArray, minus: str) -> xr.DataArray:
    names = values["layer"].values.tolist() if "layer" in values.dims else []
    if minus not in names or len(names) < 2:
        raise ValueError(f"minus is {minus!r}; expected one of two or more layers: {names}")
    rest = [name != minus for name in names]
    less = values.isel(layer=names.index(minus), drop=True)
    return values.isel(layer=rest) - less


def _check_chance(result: xr.Dataset) -> None:
    settings = json.loads(result.attrs.get("metric_parameters", "{}"))
    biased = settings.get("comparator") in BIASED or settings.get("debiased") is False
    if biased or settings.get("kernel") == "rbf":
        raise ValueError(
            f"unrelated representations have {result.attrs['metric']} values above 0 under"
            f" {settings}, so that a test against 0 finds nothing but that. Use over='stimuli',"
            " minus=another layer, or a metric that is 0 by chance (a debiased CKA, rsa with"
            " comparator corr, spearman or corr_cov)"
        )


def _individual(result: xr.Dataset, row: int) -> bool:
    return str(result["subject"].values[row]) != GROUP_SUBJECT


def _at(values: xr.DataArray, series: str, k: int) -> xr.DataArray:
    return values.isel({series: k}) if series else values


def _test(
    values: xr.DataArray,
    null: xr.DataArray | None,
    *,
    name: str,
    settings: dict[str, Any],
    n_flips: int,
    seed: int,
) -> TestedClusters:
    places = places_in_time(values)
    rows = spread(values.values, places)
    if null is not None:
        draws = spread(null.values, places)
        return gathered(cluster_test_of_null(rows.mean(0), draws, **settings), places)
    if len(rows) < 2:
        raise ValueError(
            f"{name.strip() or 'the recording'} has {len(rows)} subject; a test over subjects needs"
            " 2 or more, and 6 or more for a two-sided p below .05 (5 one-sided): the smallest is"
            " 2/2ⁿ. Use over='stimuli', with n_permutations where the values are computed"
        )
    found = cluster_permutation_test(rows, n_flips=n_flips, seed=seed, **settings)
    return gathered(found, places)


def _dataset(
    result: xr.Dataset,
    maps: list[list[TestedClusters]],
    means: list[xr.DataArray],
    labels: list[tuple[str, ...]],
    values: xr.DataArray,
    minus: str | None,
) -> xr.Dataset:
    groups = list(dict.fromkeys(labels))

    def of_points(name: str) -> np.ndarray[Any, Any]:
        columns = []
        for row in maps:
            for one in row:
                p = torch.cat([torch.ones(1, dtype=torch.float64), one.p])[one.labels]
                found = {"p": p, "label": one.labels, "statistic": one.statistic}[name]
                columns.append(found.numpy())
        shape = (len(groups), *means[0].shape)
        return np.stack(columns).reshape(shape)

    dims = ("region", *means[0].dims)
    kept = {k: v for k, v in values.coords.items() if "target" not in v.dims}
    first = maps[0][0]
    return xr.Dataset(
        {
            "mean": (dims, np.stack([one.values for one in means])),
            **{name: (dims, of_points(name)) for name in ("statistic", "label", "p")},
        },
        coords={
            **kept,
            "region": ("region", [" ".join(filter(None, group)) for group in groups]),
            "n_subjects": (
                "region",
                [labels.count(group) for group in groups],
            ),
        },
        attrs={
            **{k: result.attrs[k] for k in ("dataset", "metric", "n_stimuli") if k in result.attrs},
            "kind": first.kind,
            "threshold": first.threshold,
            "smallest_p": max(one.smallest_p for row in maps for one in row),
            "n_draws": len(first.null),
            "minus": minus or "",
        },
    )


def _label(result: xr.Dataset, row: int) -> tuple[str, ...]:
    names = ["species", "region"] + ["other"] * ("other" in result.coords)
    return tuple(str(result[name].values[row]) for name in names)


def cluster_table(clusters: xr.Dataset) -> pd.DataFrame:
    """List the clusters of ``time_clusters``, one a row, the least p first within a map.

    Returns:
        Columns region, layer (where there are layers along one axis), start_ms and stop_ms; for
        time × time start_ms_ and stop_ms_ or first_layer and last_layer; n_points, mass, p,
        smallest_p and kind. Empty, with its columns, where there is no cluster.
    """
    rows: list[dict[str, Any]] = []
    label = clusters["label"]
    series = "layer" if label.dims.index(TIME_BIN) == 2 else ""
    points = [dim for dim in label.dims if dim not in ("region", series)]
    for region in range(label.sizes["region"]):
        for k in range(label.sizes[series] if series else 1):
            one = clusters.isel({"region": region} | ({series: k} if series else {}))
            for number in range(1, int(one["label"].max()) + 1):
                inside = one["label"].values == number
                row: dict[str, Any] = {"region": str(clusters["region"].values[region])}
                if series:
                    row["layer"] = str(clusters["layer"].values[k])
                for axis, dim in enumerate(points):
                    other = tuple(a for a in range(len(points)) if a != axis)
                    at = np.flatnonzero(inside.any(axis=other))
                    row |= _extent(clusters, str(dim), at)
                row["n_points"] = int(inside.sum())
                row["mass"] = float(one["statistic"].values[inside].sum())
                row["p"] = float(one["p"].values[inside][0])
                rows.append(row | {k: clusters.attrs[k] for k in ("smallest_p", "kind")})
    columns = ["region", *([series] if series else [])]
    for dim in points:
        columns += list(_extent(clusters, str(dim), np.array([0])))
    return pd.DataFrame(rows, columns=[*columns, "n_points", "mass", "p", "smallest_p", "kind"])


def _extent(clusters: xr.Dataset, dim: str, at: np.ndarray[Any, Any]) -> dict[str, Any]:
    if dim == "layer":
        names = clusters["layer"].values
        return {"first_layer": str(names[at[0]]), "last_layer": str(names[at[-1]])}
    suffix = dim.removeprefix(TIME_BIN)
    return {
        f"start_ms{suffix}": float(clusters[f"{TIME_BIN_START}{suffix}"].values[at[0]]),
        f"stop_ms{suffix}": float(clusters[f"{TIME_BIN_STOP}{suffix}"].values[at[-1]]),
    }

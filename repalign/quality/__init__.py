"""The quality of a recording: its size, reliability, noise ceiling, drift, and what looks wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from repalign import __version__
from repalign.processing import PROCESSING, with_step
from repalign.quality import passes
from repalign.quality.drift import halves_of, parts_of_time
from repalign.quality.noise import TargetRows, ceiling_of, drift_of, reliabilities_of
from repalign.quality.rdms import rdm_targets, rdm_warnings
from repalign.quality.records import RdmQuality, RecordingQuality, TargetQuality
from repalign.quality.sentences import target_warnings
from repalign.recording import (
    NEUROID,
    PRESENTATION,
    STIMULUS,
    SUBJECT,
    TIME_BIN,
    TIME_BIN_START,
    TIME_BIN_STOP,
    is_rdm_only,
    refuse_continuous,
    stimulus_ids,
    targets,
)

__all__ = [
    "RdmQuality",
    "RecordingQuality",
    "TargetQuality",
    "inspect_recording",
    "select_reliable",
]

DRIFT_FROM = 0.05  # share of variance
DRIFT_CHANCE = 0.001  # that any neuroid of a target without drift is called drifting

Array = np.ndarray[Any, np.dtype[Any]]


def inspect_recording(
    ds: xr.Dataset, *, splits: int = 100, seed: int = 0, progress: bool = True
) -> RecordingQuality:
    """Say how good a recording is: repetitions, reliability, noise ceiling, drift, dead units.

    Responses with time bins are averaged over time first. Reliability is that of each neuroid's
    average over repetitions (see `repalign.metrics.noise_correction.reliability`), the ceiling the
    split-half one of ``RSA()`` for at most 500 stimuli, drawn once, whose patterns have a
    correlation distance.

    Drift is the share of a neuroid's variance that sessions (the coordinate ``session`` on
    presentation) explain beside the stimuli, less what chance explains (see
    `repalign.quality.drift.drift_shares`). Without two or more sessions, the first ⌊m/2⌋ of the m
    presentations of each stimulus, by ``repetition``, stand against the later ones. A neuroid
    drifts where the share is above 0.05 and an F test has p < .001 / number of neuroids. Only
    stimuli shown twice or more tell drift from stimuli.

    Memory: blocks of 16 MB, some six at a time, beside one shard of the store, whatever the size
    of the recording. It is read twice by rows, and twice by blocks of neuroids where stimuli are
    repeated.

    Args:
        ds: a recording with responses, or of published RDMs; then the result says how subjects and
            sessions agree.
        splits: number of random splits of the repetitions for the reliability.
        seed: of the splits, and of the stimuli of the ceiling.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: no recording, or no split.

    Example:
        >>> from repalign import make_recording
        >>> random = np.random.default_rng(0)
        >>> signal = random.normal(size=(50, 8))
        >>> trials = np.concatenate([signal + random.normal(size=(50, 8)) for _ in range(4)])
        >>> ids = [f"image-{i}" for i in range(50)] * 4
        >>> found = inspect_recording(make_recording(trials, stimulus_id=ids, region="IT"),
        ...                           progress=False)
        >>> round(found.rows()[0]["reliability"], 1), found.warnings  # 1 / (1 + 1/4)
        (0.8, ())
    """
    _check(ds, splits)
    common: dict[str, Any] = {
        "dataset": str(ds.attrs.get("dataset", "recording")),
        "units": str(ds.attrs.get("units", "")),
        "processing": tuple(map(str, ds.attrs.get(PROCESSING, ()))),
        "splits": splits,
        "seed": seed,
        "fingerprint": str(ds.attrs.get("fingerprint", "")),
        "version": __version__,
    }
    if is_rdm_only(ds):
        found, correlations = rdm_targets(ds)
        return RecordingQuality(
            **common,
            kind="rdm",
            sizes={"stimuli": ds.sizes[STIMULUS], "RDMs": ds.sizes[SUBJECT]},
            part_kind="session",
            part_names=(),
            targets=found,
            notes=("Published RDMs: there are no responses, so no reliability of neuroids.",),
            warnings=tuple(rdm_warnings(found)),
            rdm_correlations=correlations,
        )
    return _inspect_responses(ds, splits, seed, progress, common)


def _inspect_responses(
    ds: xr.Dataset, splits: int, seed: int, progress: bool, common: dict[str, Any]
) -> RecordingQuality:
    parts, part_names = parts_of_time(ds)
    groups = _groups(ds)
    if parts is None:
        parts = halves_of(_every_table(ds), ds.sizes[PRESENTATION])
        kind = "half"
    else:
        kind = "session"
    flat = passes.without_time(ds)["response"]
    scan = passes.scan_rows(flat, list(groups.values()), parts, len(part_names))
    bins = passes.count_bins(flat, list(groups.values()), scan)
    dead = scan.minimum == scan.maximum
    copies = _copies(scan.digest, dead | (scan.count == 0))
    found = []
    for number, (target, columns) in enumerate(groups.items()):
        rows = TargetRows.of(ds, columns, scan, number, " ".join(filter(None, target)))
        reliable, why = reliabilities_of(rows, splits=splits, seed=seed, progress=progress)
        drift, chance, why_drift = drift_of(rows, parts, kind)
        ceiling, why_ceiling = ceiling_of(rows, seed=seed)
        with np.errstate(invalid="ignore", divide="ignore"):
            part_means = scan.part_sum[number] / scan.part_count[number]  # NaN of none
            drifting = (drift > DRIFT_FROM) & (chance < DRIFT_CHANCE / len(columns))
        found.append(
            TargetQuality(
                target=target,
                neuroid_id=ds["neuroid_id"].values[columns].astype(str),
                mean=scan.mean[columns],
                spread=scan.spread[columns],
                reliability=reliable,
                drift=drift,
                is_dead=dead[columns],
                is_copy=copies[columns],
                is_incomplete=scan.incomplete[columns],
                is_drifting=drifting,
                repetitions=rows.repetitions,
                n_missing=int(scan.missing[number].sum()),
                flat_stimuli=rows.flat_stimuli(),
                minimum=_least(scan.minimum[columns], np.fmin),
                maximum=_least(scan.maximum[columns], np.fmax),
                **ceiling,
                bin_edges=bins[number][0],
                bin_counts=bins[number][1],
                part_means=part_means,
                reasons=why | why_drift | why_ceiling,
            )
        )
    return RecordingQuality(
        **common,
        kind="responses",
        sizes=_sizes(ds),
        part_kind=kind,
        part_names=tuple(part_names),
        targets=tuple(found),
        notes=_notes(ds, kind, found),
        warnings=tuple(one for each in found for one in target_warnings(each, kind)),
    )


def select_reliable(
    ds: xr.Dataset,
    *,
    at_least: float = 0.3,
    splits: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Keep the neuroids whose split-half reliability is ``at_least`` a threshold.

    The reliability is that of `inspect_recording`: of the average over repetitions, with responses
    averaged over time bins, where there are some; the recording keeps its time bins. A neuroid
    whose reliability is unknown (constant, or NaN in some presentations) is left out. No network
    enters the choice, so it favours none; noise ceilings of the part that is left are optimistic,
    because the same repetitions chose it.

    Args:
        ds: a recording with repetitions; it stays lazy.
        at_least: the threshold, up to 1.
        splits, seed: of the split halves.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: RDMs, too few stimuli with repetitions, or no neuroid that reliable.

    Example:
        >>> from repalign import make_recording
        >>> random = np.random.default_rng(0)
        >>> signal = random.normal(size=(50, 1)) * [1, 0]
        >>> trials = np.concatenate([signal + random.normal(size=(50, 2)) for _ in range(4)])
        >>> ds = make_recording(trials, stimulus_id=list(range(50)) * 4, region="IT")
        >>> select_reliable(ds, progress=False)["neuroid_id"].values.tolist()
        ['neuroid-0000']
    """
    _check(ds, splits)
    if is_rdm_only(ds):
        raise ValueError("the recording holds RDMs, not responses: there are no neuroids to select")
    if not (math.isfinite(at_least) and at_least <= 1):
        raise ValueError(f"at_least is {at_least}; expected a reliability up to 1, such as 0.3")
    groups = _groups(ds)
    flat = passes.without_time(ds)["response"]
    parts = np.zeros(ds.sizes[PRESENTATION], dtype=np.int64)
    scan = passes.scan_rows(flat, list(groups.values()), parts, 1)
    found = np.full(ds.sizes[NEUROID], np.nan)
    for number, (target, columns) in enumerate(groups.items()):
        rows = TargetRows.of(ds, columns, scan, number, " ".join(filter(None, target)))
        found[columns], why = reliabilities_of(rows, splits=splits, seed=seed, progress=progress)
        if "reliability" in why:
            raise ValueError(
                f"{rows.name}: {why['reliability']}; neuroids can be selected by their reliability"
                " only where stimuli are repeated"
            )
    keep = np.flatnonzero(found >= at_least)
    if not keep.size:
        raise ValueError(
            f"no neuroid has a reliability of {at_least:g} or more; the highest is"
            f" {_least(found, np.fmax):.3f}"
        )
    step = f"select_reliable(at_least={at_least:g}, splits={splits}, seed={seed})"
    return with_step(ds.isel({NEUROID: keep}), step)


def _check(ds: xr.Dataset, splits: int) -> None:
    if splits < 1:
        raise ValueError(f"splits is {splits}; expected 1 or more. Use 100.")
    if is_rdm_only(ds):
        return
    refuse_continuous(ds, "inspect_recording")
    needed = (STIMULUS, "repetition", "neuroid_id", "species", "subject", "region")
    missing = [name for name in needed if name not in ds.coords]
    if "response" not in ds or missing or 0 in ds["response"].shape:
        problem = f"coordinate {missing[0]!r} is missing" if missing else "it has no responses"
        raise ValueError(f"not a recording: {problem}; build it with make_recording")


def _groups(ds: xr.Dataset) -> dict[Any, Array]:
    numbered = ds.coords.to_dataset().assign_coords(_number=(NEUROID, range(ds.sizes[NEUROID])))
    return {target: part["_number"].values for target, part in targets(numbered)}


def _every_table(ds: xr.Dataset) -> Array:
    return passes.repeat_table(ds, np.zeros(ds.sizes[PRESENTATION], dtype=bool))[0]


def _copies(digest: Array, silent: Array) -> Array:
    """Whether an earlier neuroid has the same responses; silent neuroids do not count."""
    alive = np.flatnonzero(~silent)
    copies = np.ones(len(digest), dtype=bool)
    copies[alive[np.unique(digest[alive], return_index=True)[1]]] = False
    return copies & ~silent


def _least(values: Array, choose: Any) -> float:
    """The least or greatest, by `numpy.fmin` or `numpy.fmax`, of what is not NaN."""
    return float(choose.reduce(values))


def _sizes(ds: xr.Dataset) -> dict[str, int]:
    sizes = {
        "stimuli": len(stimulus_ids(ds)),
        "presentations": ds.sizes[PRESENTATION],
        "neuroids": ds.sizes[NEUROID],
    }
    return sizes | ({"time_bins": ds.sizes[TIME_BIN]} if TIME_BIN in ds.sizes else {})


def _notes(ds: xr.Dataset, kind: str, found: list[TargetQuality]) -> tuple[str, ...]:
    notes = []
    if TIME_BIN in ds["response"].dims:
        low, high = float(ds[TIME_BIN_START].min()), float(ds[TIME_BIN_STOP].max())
        notes.append(
            f"Responses were averaged over {ds.sizes[TIME_BIN]} time bins ({low:g} to {high:g} ms)"
            " before anything else."
        )
    if kind == "half" and any("drift" not in one.reasons for one in found):
        notes.append(
            "No coordinate 'session' tells sessions apart: drift is between the first and the"
            " second half of each stimulus' presentations."
        )
    for one in found:
        if 0 < one.ceiling_neuroids < int((~one.is_incomplete).sum()):
            notes.append(
                f"{' '.join(one.target)}: the noise ceiling is of {one.ceiling_neuroids} neuroids,"
                " drawn once."
            )
    return tuple(notes)

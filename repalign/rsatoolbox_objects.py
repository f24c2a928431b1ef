"""Recordings as objects of rsatoolbox, and objects of rsatoolbox as recordings."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from repalign.loaders.brainio_stimuli import as_text
from repalign.recording import (
    NEUROID,
    PRESENTATION,
    STIMULUS,
    SUBJECT,
    TIME_BIN,
    TIME_BIN_START,
    TIME_BIN_STOP,
    is_rdm_only,
    make_rdm_recording,
    make_recording,
)
from repalign.recording_checks import check_recording
from repalign.rsatoolbox_descriptors import (
    middles_of,
    plain,
    pop_edges,
    pop_names,
    pop_stimuli,
    read_columns,
    renamed,
)

Array = np.ndarray[Any, np.dtype[Any]]

MANY_BYTES = 2 << 30
MEASURE = "dissimilarity_measure"
OURS = ("store", "fingerprint", "schema_version")  # attributes that mean nothing to others


def to_rsatoolbox(ds: xr.Dataset) -> Any:
    """The recording as rsatoolbox's Dataset, TemporalDataset (time bins) or RDMs (RDMs only).

    Coordinates of presentations become observation descriptors, those of neuroids channel
    descriptors, those of time bins time descriptors, whose ``time`` is the middle of each bin in
    ms. Of RDMs, those of subjects become RDM descriptors and those of stimuli pattern descriptors;
    rsatoolbox keeps one value a pair, in float64: that above the diagonal. Attributes become the
    descriptors of the whole; what is neither text, a number nor a list of such is JSON text.

    The values are read into memory; a line on stderr says how many GB where that is more than 2.

    Raises:
        ValueError: a coordinate that is along several dimensions, or neither numbers nor text.

    Example:
        >>> ds = make_recording(np.zeros((2, 3)), stimulus_id=["a", "b"], region="IT")
        >>> to_rsatoolbox(ds).obs_descriptors["stimulus_id"].tolist()
        ['a', 'b']
    """
    import rsatoolbox

    name = "rdm" if is_rdm_only(ds) else "response"
    if name not in ds:
        raise ValueError("not a recording: it has neither 'response' nor 'rdm'")
    if ds[name].nbytes > MANY_BYTES:
        print(f"reading {ds[name].nbytes / 1e9:.1f} GB into memory for rsatoolbox", file=sys.stderr)
    columns = _columns(ds, ds[name].dims)
    whole = {str(n): _descriptor(v) for n, v in ds.attrs.items() if n not in OURS}
    whole |= {str(n): ds[n].item() for n in ds.coords if ds[n].ndim == 0}
    if is_rdm_only(ds):
        measure = whole.pop(MEASURE, None)
        lists = {d: {n: v.tolist() for n, v in found.items()} for d, found in columns.items()}
        return rsatoolbox.rdm.RDMs(
            ds["rdm"].values,
            dissimilarity_measure=None if measure is None else str(measure),
            descriptors=whole,
            rdm_descriptors=lists[SUBJECT],
            pattern_descriptors=lists[STIMULUS],
        )
    descriptors = {
        "descriptors": whole,
        "obs_descriptors": columns[PRESENTATION],
        "channel_descriptors": columns[NEUROID],
    }
    if TIME_BIN not in ds["response"].dims:
        return rsatoolbox.data.Dataset(ds["response"].values, **descriptors)
    times = columns[TIME_BIN]
    times = {"time": middles_of(times[TIME_BIN_START], times[TIME_BIN_STOP])} | times
    return rsatoolbox.data.TemporalDataset(
        ds["response"].values, **descriptors, time_descriptors=times
    )


def save_rsatoolbox(ds: xr.Dataset, path: Path) -> None:
    """Write a recording as the HDF5 file that rsatoolbox itself saves and loads.

    Raises:
        ValueError: names or text of coordinates that such a file cannot hold.
    """
    for name in map(str, ds.coords):
        values = ds[name].values
        text = "" if values.dtype.kind in "fiub" else "".join(map(str, values.ravel().tolist()))
        if "/" in name or not text.isascii():
            letter = next((one for one in text if not one.isascii()), "/")
            raise ValueError(
                f"coordinate {name!r} has {letter!r}; rsatoolbox's HDF5 files hold text of ASCII"
                " and names without / only: rename it, or export the recording as .nc or .npz"
            )
    slashed = [str(name) for name in ds.attrs if "/" in str(name)]
    if slashed:
        raise ValueError(f"attribute {slashed[0]!r} has a /, which HDF5 takes for a group; rename")
    to_rsatoolbox(ds).save(str(path), file_type="hdf5")


def from_rsatoolbox(
    source: Any,
    *,
    stimulus: str = STIMULUS,
    region: str | None = None,
    species: str | None = None,
    subject: str | None = None,
    time_bins: tuple[Sequence[float], Sequence[float]] | None = None,
) -> xr.Dataset:
    """A recording from rsatoolbox's Dataset, TemporalDataset or RDMs.

    The descriptors ``repetition`` of observations, ``neuroid_id``, ``region``, ``species`` and
    ``subject`` of channels (or RDMs, or the whole) and ``session`` of RDMs take their places.
    Others keep their names; where a name stands for something else, ``presentation_``,
    ``neuroid_``, ``time_bin_``, ``subject_`` or ``stimulus_`` goes before it. Descriptors of the
    whole become attributes.

    Args:
        source: the object.
        stimulus: descriptor of observations (or of patterns) that names the stimuli.
        region: brain region of all, where no descriptor gives it.
        species: likewise; ``unknown`` by default.
        subject: likewise; ``subject-1`` by default, and needed for RDMs.
        time_bins: start and stop in ms of each time bin of a TemporalDataset, where it has no time
            descriptors ``time_bin_start_ms`` and ``time_bin_stop_ms``: of ``time`` rsatoolbox does
            not say what unit it has and what part of a bin it means.

    Raises:
        TypeError: another kind of object.
        ValueError: a descriptor is missing, given twice, or has several values an entry.

    Example:
        >>> import rsatoolbox
        >>> data = rsatoolbox.data.Dataset(np.eye(2), obs_descriptors={"conds": ["a", "b"]})
        >>> from_rsatoolbox(data, stimulus="conds", region="IT")["stimulus_id"].values.tolist()
        ['a', 'b']
    """
    import rsatoolbox

    if not isinstance(source, rsatoolbox.rdm.RDMs | rsatoolbox.data.base.DatasetBase):
        raise TypeError(f"{type(source).__name__}: expected rsatoolbox's Dataset or RDMs")
    whole = {str(name): plain(value) for name, value in source.descriptors.items()}
    given = {"region": region, "species": species, "subject": subject}
    if isinstance(source, rsatoolbox.data.base.DatasetBase):
        recording = _from_dataset(source, whole, stimulus, given, time_bins)
    elif time_bins is not None:
        raise ValueError("RDMs have no time bins; leave time_bins out")
    else:
        recording = _from_rdms(source, whole, stimulus, given)
    check_recording(recording)
    return recording


def _from_dataset(
    source: Any,
    whole: dict[str, Any],
    stimulus: str,
    given: Mapping[str, str | None],
    time_bins: tuple[Sequence[float], Sequence[float]] | None,
) -> xr.Dataset:
    observations = read_columns(source.obs_descriptors, source.n_obs, "observation")
    channels = read_columns(source.channel_descriptors, source.n_channel, "channel")
    times = read_columns(
        getattr(source, "time_descriptors", {}), source.measurements.shape[-1], "time"
    )
    ids = pop_stimuli(observations, stimulus, "observation")
    named = pop_names(given, channels, whole, {"species": "unknown", "subject": "subject-1"})
    if "neuroid_id" in channels:
        named["neuroid_id"] = as_text(channels.pop("neuroid_id")).tolist()
    if "repetition" in observations and observations["repetition"].dtype.kind in "iu":
        named["repetition"] = observations.pop("repetition")
    if source.measurements.ndim == 3:
        named["time_bins"] = time_bins = pop_edges(times, time_bins)
    elif time_bins is not None:
        raise ValueError("a Dataset has no time bins; leave time_bins out")
    taken: set[str] = set()
    recording = make_recording(
        source.measurements,
        stimulus_id=ids,
        presentation=renamed(observations, PRESENTATION, taken),
        neuroid=renamed(channels, NEUROID, taken),
        attrs=whole,
        **named,
    )
    columns = renamed(times, TIME_BIN, taken) if time_bins is not None else {}
    return recording.assign_coords({name: (TIME_BIN, values) for name, values in columns.items()})


def _from_rdms(
    source: Any, whole: dict[str, Any], stimulus: str, given: Mapping[str, str | None]
) -> xr.Dataset:
    rdms = read_columns(source.rdm_descriptors, source.n_rdm, "RDM")
    patterns = read_columns(source.pattern_descriptors, source.n_cond, "pattern")
    for columns in (rdms, patterns):  # rsatoolbox numbers them by itself
        index = columns.get("index")
        if index is not None and np.array_equal(index, np.arange(len(index))):
            columns.pop("index")
    ids = pop_stimuli(patterns, stimulus, "pattern")
    named = pop_names(given, rdms, whole, {"species": "unknown"})
    subjects = named.pop("subject")
    if isinstance(subjects, str):
        subjects = [subjects] * source.n_rdm
    if "session" in rdms:
        named["session"] = as_text(rdms.pop("session")).tolist()
    if source.dissimilarity_measure is not None:
        whole[MEASURE] = str(source.dissimilarity_measure)
    recording = make_rdm_recording(
        source.get_matrices(), stimulus_id=ids, subject=subjects, attrs=whole, **named
    )
    taken = {"session", f"{STIMULUS}_"}
    of_rdms = renamed(rdms, SUBJECT, taken)
    of_patterns = renamed(patterns, "stimulus", taken)
    return recording.assign_coords(
        {name: (SUBJECT, values) for name, values in of_rdms.items()}
        | {name: (STIMULUS, values) for name, values in of_patterns.items()}
    )


def _columns(ds: xr.Dataset, dims: Sequence[Any]) -> dict[str, dict[str, Array]]:
    """The coordinates along each dimension, text of fixed width."""
    columns: dict[str, dict[str, Array]] = {str(dim): {} for dim in dims}
    for name in map(str, ds.coords):
        item = ds[name]
        if item.ndim == 0 or name == f"{STIMULUS}_":
            continue
        if item.ndim > 1 or item.dims[0] not in dims or item.dims[0] == f"{STIMULUS}_":
            raise ValueError(
                f"coordinate {name!r} is along {item.dims}; rsatoolbox describes one of"
                f" {', '.join(columns)} at a time: drop it (ds.drop_vars)"
            )
        values = np.asarray(item.values)
        if values.dtype.kind not in "fiub":
            wrong = [value for value in values.tolist() if not isinstance(value, str)]
            if wrong:
                raise ValueError(
                    f"coordinate {name!r} holds {wrong[0]!r}, neither a number nor text; convert"
                    " it by astype(str), or drop it"
                )
            values = values.astype(str)
        columns[str(item.dims[0])][name] = values
    return columns


def _descriptor(value: Any) -> Any:
    """An attribute as rsatoolbox can save it."""
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple) and value:
        kinds = {str if isinstance(one, str) else type(one) for one in value}
        if kinds in ({str}, {int}, {float}) and all(str(one).isascii() for one in value):
            return list(value)
    return json.dumps(value)

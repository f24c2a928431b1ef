"""The one schema for responses of units to stimuli, in plain xarray Datasets.

Stimulus-locked data: ``response(presentation, neuroid[, time_bin])`` with ``stimulus_id`` and
``repetition`` on presentation, ``neuroid_id``, ``species``, ``subject`` and ``region`` on neuroid,
and ``time_bin_start_ms`` and ``time_bin_stop_ms`` on time_bin.
Continuous data: ``response(time, neuroid)``, see `repalign.continuous_recording`.
Published dissimilarities: ``rdm(subject, stimulus_id, stimulus_id_)`` with ``species``,
``region`` and ``session`` on subject, where ``subject="group"`` is a published group RDM.
Activations of a network are the same with one repetition: a network is one more subject.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

PRESENTATION = "presentation"
NEUROID = "neuroid"
SUBJECT = "subject"
TIME_BIN = "time_bin"
TIME_BIN_START = "time_bin_start_ms"
TIME_BIN_STOP = "time_bin_stop_ms"
STIMULUS = "stimulus_id"
ALIGNED_TO = "aligned_to"  # an attribute of activations: dataset and stimulus_ids
CHOSEN_ON = "chosen_on"  # an attribute of a layer: dataset, subjects, stimulus_ids, n_layers
IMAGE_HASH = "image_sha256"  # of each stimulus' image file, where there is one
SCHEMA_VERSION = 1

# Names of dimensions, variables and coordinates in stores; a column of a lab may not bear them.
RESERVED = frozenset(
    {
        *(PRESENTATION, NEUROID, TIME_BIN, TIME_BIN_START, TIME_BIN_STOP, STIMULUS, SUBJECT),
        *("stimulus", "repetition", "response", "rdm", "neuroid_id", "species", "region"),
        *("data", "start", "stop", "byte", IMAGE_HASH),
    }
)

NEUROID_COORDS = ("neuroid_id", "species", "subject", "region")


class Target(NamedTuple):
    """What one comparison is about: one region of one subject of one species."""

    species: str
    region: str
    subject: str


def strings(values: Any, length: int, what: str) -> np.ndarray[Any, Any]:
    """An object array of ``length`` strings; one string stands for all."""
    array = np.asarray([values] * length if isinstance(values, str) else values, dtype=object)
    if array.shape != (length,):
        raise ValueError(f"{what} has shape {array.shape}, expected ({length},)")
    return np.array([str(value) for value in array], dtype=object)


def make_recording(
    response: Any,
    *,
    stimulus_id: Sequence[str],
    region: str | Sequence[str],
    repetition: Sequence[int] | None = None,
    species: str | Sequence[str] = "unknown",
    subject: str | Sequence[str] = "subject-1",
    neuroid_id: Sequence[str] | None = None,
    presentation: Mapping[str, Any] | None = None,
    neuroid: Mapping[str, Any] | None = None,
    time_bins: tuple[Sequence[float], Sequence[float]] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Build a recording from a presentation × neuroid (× time bin) array.

    Args:
        response: array of shape (presentation, neuroid) or (presentation, neuroid, time_bin),
            numpy or dask.
        stimulus_id: the stimulus shown in each presentation.
        region: brain region of every neuroid, or one a neuroid; likewise species and subject.
        repetition: 0-based repetition of each presentation; counted from the ids by default.
        neuroid_id: names of the neuroids; numbered by default.
        presentation: more coordinates along presentation, such as category labels.
        neuroid: more coordinates along neuroid, such as voxel positions.
        time_bins: start and stop of each time bin in ms, of a response that has them.
        attrs: units, citation, licence and the like.

    Raises:
        ValueError: a length does not fit the array.

    Example:
        >>> ds = make_recording(np.zeros((2, 3)), stimulus_id=["a", "b"], region="IT")
        >>> dict(ds.sizes)
        {'presentation': 2, 'neuroid': 3}
    """
    if response.ndim != (2 if time_bins is None else 3):
        expected = "presentation × neuroid" + (" × time bin" if time_bins is not None else "")
        raise ValueError(f"response has shape {response.shape}, expected {expected}")
    n_presentations, n_neuroids = response.shape[:2]
    ids = strings(stimulus_id, n_presentations, "stimulus_id")
    if repetition is None:
        counts: dict[str, int] = {}
        repetition = [counts.update({i: counts.get(i, -1) + 1}) or counts[i] for i in ids]
    if neuroid_id is None:
        neuroid_id = [f"neuroid-{i:04d}" for i in range(n_neuroids)]
    coords: dict[str, Any] = {
        STIMULUS: (PRESENTATION, ids),
        "repetition": (PRESENTATION, np.asarray(repetition, dtype=np.int64)),
        "neuroid_id": (NEUROID, strings(neuroid_id, n_neuroids, "neuroid_id")),
        "species": (NEUROID, strings(species, n_neuroids, "species")),
        "subject": (NEUROID, strings(subject, n_neuroids, "subject")),
        "region": (NEUROID, strings(region, n_neuroids, "region")),
    }
    coords |= {name: (PRESENTATION, values) for name, values in (presentation or {}).items()}
    coords |= {name: (NEUROID, values) for name, values in (neuroid or {}).items()}
    dims: tuple[str, ...] = (PRESENTATION, NEUROID)
    if time_bins is not None:
        dims = (*dims, TIME_BIN)
        starts, stops = (np.asarray(edges, dtype=np.float64) for edges in time_bins)
        coords |= {TIME_BIN_START: (TIME_BIN, starts), TIME_BIN_STOP: (TIME_BIN, stops)}
    return xr.Dataset(
        {"response": (dims, response)},
        coords=coords,
        attrs={"schema_version": SCHEMA_VERSION, **(attrs or {})},
    )


def make_rdm_recording(
    rdm: Any,
    *,
    stimulus_id: Sequence[str],
    subject: Sequence[str],
    species: str | Sequence[str],
    region: str | Sequence[str],
    session: str | Sequence[str] = "1",
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Build a recording of published RDMs, an array of shape (subject, stimulus, stimulus).

    A subject measured in several sessions stands there once a session.

    Example:
        >>> ds = make_rdm_recording(np.zeros((1, 2, 2)), stimulus_id=["a", "b"],
        ...                         subject=["group"], species="human", region="IT")
        >>> ds["rdm"].dims
        ('subject', 'stimulus_id', 'stimulus_id_')
    """
    n_entries, n_stimuli, _ = rdm.shape
    ids = strings(stimulus_id, n_stimuli, "stimulus_id")
    return xr.Dataset(
        {"rdm": ((SUBJECT, STIMULUS, f"{STIMULUS}_"), rdm)},
        coords={
            SUBJECT: strings(subject, n_entries, "subject"),
            STIMULUS: ids,
            f"{STIMULUS}_": ids,
            "species": (SUBJECT, strings(species, n_entries, "species")),
            "region": (SUBJECT, strings(region, n_entries, "region")),
            "session": (SUBJECT, strings(session, n_entries, "session")),
        },
        attrs={"schema_version": SCHEMA_VERSION, **(attrs or {})},
    )


def make_activations(
    response: Any, ids: Sequence[str] | None, model: str, layer: str, shape: Sequence[int]
) -> xr.Dataset:
    """Activations of one layer in the schema; without ids the rows stay anonymous."""
    coords: dict[str, Any] = {}
    if ids is not None:
        coords[STIMULUS] = (PRESENTATION, np.array(ids, dtype=object))
        coords["repetition"] = (PRESENTATION, np.zeros(len(ids), dtype=np.int64))
    attrs = {
        "schema_version": SCHEMA_VERSION,
        "kind": "activations",
        "model": model,
        "layer": layer,
        "shape": [int(n) for n in shape],
    }
    return xr.Dataset({"response": ((PRESENTATION, NEUROID), response)}, coords=coords, attrs=attrs)


def is_continuous(ds: xr.Dataset) -> bool:
    """Whether the recording runs on, ``response(time, neuroid)``, instead of by presentations."""
    return "response" in ds and {"time", PRESENTATION} & set(ds["response"].dims) == {"time"}


def refuse_continuous(ds: xr.Dataset, what: str) -> None:
    """Raise a ValueError where a continuous recording comes to what needs presentations."""
    if is_continuous(ds):
        raise ValueError(
            f"{what} needs presentations of stimuli; this recording runs on: {dict(ds.sizes)}."
            " Score features of the film or play with repalign.continuous.score_continuous, or"
            ' estimate a response to each event with the loader "bids_glm"'
        )


def is_rdm_only(ds: xr.Dataset) -> bool:
    """Whether the recording holds published RDMs instead of responses."""
    return "rdm" in ds


def select(ds: xr.Dataset, **coordinates: Any) -> xr.Dataset:
    """Keep what has the given value, or one of the given values, of each named coordinate.

    Raises:
        ValueError: an unknown coordinate, or nothing left; the values that exist are listed.

    Example:
        >>> ds = make_recording(np.zeros((1, 2)), stimulus_id=["a"], region=["V4", "IT"])
        >>> select(ds, region="IT").sizes["neuroid"]
        1
    """
    for name, wanted in coordinates.items():
        if name not in ds.coords:
            known = ", ".join(sorted(map(str, ds.coords)))
            raise ValueError(f"no coordinate {name!r}; there are {known}")
        values = ds[name].values.tolist()
        wanted = list(wanted) if isinstance(wanted, list | tuple | set | np.ndarray) else [wanted]
        texts = {str(value) for value in wanted}  # a command line has no numbers
        keep = np.array([value in wanted or str(value) in texts for value in values])
        if not keep.any():
            known = ", ".join(map(str, dict.fromkeys(values)))
            raise ValueError(f"nothing has {name} = {wanted!r}; there is {known[:300]}")
        dimension = ds[name].dims[0]
        indexers: dict[Any, Any] = {dimension: keep}
        if dimension == STIMULUS:
            indexers[f"{STIMULUS}_"] = keep
        ds = ds.isel(indexers)
        if dimension == "time" and "event_run" in ds.coords:  # events go with their runs
            ds = ds.isel(event=np.isin(ds["event_run"].values, ds["run"].values))
        if "fingerprint" in ds.attrs:
            chosen = f"{ds.attrs['fingerprint']} {name} {sorted(texts)}"
            digest = hashlib.sha256(chosen.encode()).hexdigest()
            ds = ds.assign_attrs(fingerprint=f"sha256:{digest}")
    return ds


def stimulus_ids(ds: xr.Dataset) -> list[str]:
    """The distinct stimuli of a recording, in the order of their first presentation."""
    return list(dict.fromkeys(str(value) for value in ds[STIMULUS].values))


def targets(ds: xr.Dataset) -> Iterator[tuple[Target, xr.Dataset]]:
    """Split a recording into its (species, region, subject) groups, in order of appearance."""
    columns = [ds[name].values.tolist() for name in ("species", "region", "subject")]
    rows = list(zip(*columns, strict=True))
    dimension = SUBJECT if is_rdm_only(ds) else NEUROID
    for key in dict.fromkeys(rows):
        keep = [row == key for row in rows]
        yield Target(*key), ds.isel({dimension: np.array(keep)})


def response_array(ds: xr.Dataset, ids: Sequence[str]) -> np.ndarray[Any, np.dtype[Any]]:
    """Responses as a ``repeat × stimulus × neuroid`` array, NaN where a repetition is missing.

    Args:
        ds: a recording with responses.
        ids: the stimuli wanted, in the order wanted.
    """
    values = ds["response"].values
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(ds[STIMULUS].values):
        rows.setdefault(str(name), []).append(row)
    repeats = max(len(rows[name]) for name in ids)
    dtype = values.dtype if np.issubdtype(values.dtype, np.floating) else np.float64
    out = np.full((repeats, len(ids), *values.shape[1:]), np.nan, dtype=dtype)
    for column, name in enumerate(ids):
        out[: len(rows[name]), column] = values[rows[name]]
    return out

"""EEG, MEG and intracranial recordings as MNE saves their epochs: presentations × channels × time.

File roles of the card:

- ``epochs``: a ``*-epo.fif`` (or ``.fif.gz``) as ``mne.Epochs.save`` writes it, whose parts lie in
  one folder where it is split; or several roles that begin with ``session``, such as
  ``session_1``: their epochs follow each other, each with its role as ``session``.
- ``neuroids``: a csv with the columns ``neuroid_id`` (the channel's name) and, where wanted,
  ``region``; all others become coordinates. Channels without a row are an error.
- ``images`` and ``stimuli``: see `repalign.loaders.stimulus_files`.

Options of the card: see `Options`. The columns of the epochs' metadata become coordinates of the
presentations; so does the name of the event, ``event``, where it is not the stimulus, and
``bad_annotated`` where epochs overlap annotations that begin with BAD. Channels have
``channel_type``, ``file_unit``, ``unit_scale`` and, where they are known, ``x_mm``, ``y_mm``,
``z_mm`` in their ``coordinate_frame``, those of the first session. Values are float32 or float64
as in the file; means and scales are taken in float64 first.

Example of a card: EEG in microvolt, in bins of 10 ms::

    name = "eeg_objects"
    species = "human"
    regions = "scalp"
    units = "microvolt"
    loader = "mne_epochs"
    [files]
    epochs = "sub-01-epo.fif"
    images = "images.zip"
    [options]
    stimulus = "image_name"
    window_ms = [-100, 500]
    bin_ms = 10
    unit_scale = 1e6
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from repalign.card_schemas import DatasetCard
from repalign.loaders.fif_channels import (
    channel_columns,
    pick_channels,
    read_regions,
)
from repalign.loaders.fif_events import presentation_columns, stimulus_names
from repalign.loaders.fif_files import EpochsFile, open_epochs
from repalign.loaders.fif_rows import EpochRows, baseline_samples, time_bins
from repalign.loaders.lazy import BLOCK_BYTES, lazy_rows
from repalign.loaders.options import LoaderOptions, check_roles, read_options
from repalign.loaders.stimulus_files import read_stimulus_files
from repalign.recording import make_recording
from repalign.stimuli import Stimuli

__all__ = ["Options", "read"]

Array = np.ndarray[Any, np.dtype[Any]]


class Options(LoaderOptions):
    """What a card may say under ``[options]``.

    Attributes:
        picks: channel types (``eeg``, ``mag``, ``grad``, ``meg`` for both, ``seeg``, ``ecog`` and
            so on) or names; all channels of data by default. Bad channels are left out, unless
            they are picked by name.
        stimulus: the column of the epochs' metadata that tells the stimulus; the name of the event
            by default.
        region: ``channel_type``, to compare each type of channel on its own; by default the
            role ``neuroids`` tells, or the one region of the card stands for all.
        subject: name of the subject; by default the file's ``subject_info`` tells, where it does.
        window_ms: start and stop of what is kept of each epoch; a sample at the start is in, one
            at the stop is not. All samples by default.
        bin_ms: length of time bins, each of which is the mean of its samples; by default each
            sample is a time bin.
        baseline_ms: start and stop of a baseline, both ends in, whose mean is subtracted from each
            epoch and channel; none by default. What was subtracted before saving stays so.
        unit_scale: what the file's V, T and T/m are multiplied by: one number for all, or one a
            channel type, such as ``{ eeg = 1e6, mag = 1e15, grad = 1e13 }``.
        projections: ``as_saved``, the default, or ``apply``, also those that were not applied when
            the file was saved, as ``mne.read_epochs`` does.
    """

    picks: str | tuple[str, ...] | None = None
    stimulus: str | None = None
    region: Literal["channel_type"] | None = None
    subject: str | None = None
    window_ms: tuple[float, float] | None = None
    bin_ms: float | None = None
    baseline_ms: tuple[float, float] | None = None
    unit_scale: float | Mapping[str, float] = 1.0
    projections: Literal["as_saved", "apply"] = "as_saved"


def read(card: DatasetCard, files: Mapping[str, Path]) -> tuple[xr.Dataset, Stimuli | None]:
    """Read epochs that MNE saved; see the module for the file roles."""
    options = read_options(card, Options)
    check_roles(
        card, files, needs=(), knows=("epochs", "sessionNAME", "neuroids", "images", "stimuli")
    )
    roles = [role for role in files if role.startswith("session")]
    if bool(roles) == ("epochs" in files):
        raise ValueError(
            f"card {card.path}: [files] has {', '.join(files) or 'nothing'}; give either 'epochs'"
            " or roles that begin with 'session', such as session_1"
        )
    roles = roles or ["epochs"]

    def note(text: str) -> None:
        print(f"{card.name}: {text}", file=sys.stderr)

    apply = options.projections == "apply"
    sources = {r: open_epochs(files[r], apply_projections=apply, note=note) for r in roles}
    opened = list(sources.values())
    for source in opened:
        _say_what_was_done(source, apply, note)
    edges, bins = time_bins(card, options.window_ms, options.bin_ms, opened, note)
    names = pick_channels(card, options.picks, opened, note)
    channels = channel_columns(card, opened, names, options.unit_scale, note)
    region, extra = read_regions(card, files, names, channels, options.region, note)
    scale = np.asarray(channels["unit_scale"])
    sessions = []
    for source, own in zip(opened, bins, strict=True):
        position = {name: i for i, name in enumerate(source.epochs.ch_names)}
        epoch_bytes = len(names) * len(source.epochs.times) * 8
        sessions.append(
            EpochRows(
                path=source.path,
                n_epochs=len(source.epochs),
                picks=np.array([position[name] for name in names]),
                bins=own,
                baseline=baseline_samples(card, options.baseline_ms, source),
                scale=scale,
                projections=apply,
                step=max(1, BLOCK_BYTES // 8 // epoch_bytes),
                kind=source.kind,
            )
        )
    ids = [name for one in opened for name in stimulus_names(card, options.stimulus, one)]
    columns = presentation_columns(sources, options.stimulus, note)
    labels, stimuli = read_stimulus_files(card, files, list(dict.fromkeys(ids)), note)
    order = {name: row for row, name in enumerate(dict.fromkeys(ids))}
    rows = np.array([order[name] for name in ids])
    clash = [name for name in labels if name in columns]
    if clash:
        raise ValueError(
            f"{files['stimuli']} has a column {clash[0]!r}, which the epochs have too; rename it"
        )
    recording = make_recording(
        _concatenate(sessions, (len(names), len(edges) - 1), opened),
        stimulus_id=ids,
        region=region,
        species=_species(card),
        subject=_subject(card, options, opened),
        neuroid_id=names,
        presentation=columns | {name: values[rows] for name, values in labels.items()},
        neuroid=channels | extra,
        time_bins=(edges[:-1].tolist(), edges[1:].tolist()),
        attrs=_attributes(options, opened),
    )
    return recording, stimuli


def _concatenate(
    sessions: Sequence[EpochRows], shape: tuple[int, int], opened: Sequence[EpochsFile]
) -> Any:
    """The lazy rows of all sessions, one after the other."""
    import dask.array as da

    kind = np.result_type(*(one.kind for one in opened))
    parts = [
        lazy_rows(one.rows, (one.n_epochs, *shape), kind, block_bytes=BLOCK_BYTES)
        for one in sessions
    ]
    joined: Any = da.concatenate  # dask states no types
    return parts[0] if len(parts) == 1 else joined(parts)


def _say_what_was_done(source: EpochsFile, apply: bool, note: Any) -> None:
    """Tell what happened to the epochs before they were saved, and what does not happen now."""
    epochs, name = source.epochs, source.path.name
    reasons = [log for log in epochs.drop_log if log and log != ("IGNORED",)]
    if reasons:
        why = ", ".join(sorted({str(reason) for log in reasons for reason in log})[:5])
        note(f"{len(reasons)} epochs were dropped before {name} was saved ({why})")
    waiting = [str(one["desc"]) for one in epochs.info["projs"] if not one["active"]]
    if waiting and not apply:
        note(
            f"{name} has {len(waiting)} projections that were not applied ({waiting[0]});"
            ' projections = "apply" under [options] applies them'
        )


def _attributes(options: Options, opened: Sequence[EpochsFile]) -> dict[str, Any]:
    """How the values were made, for who reads the store."""
    saved = [one.epochs.baseline for one in opened]
    ends = [None if b is None else [1000 * float(end) for end in b] for b in saved]
    texts = ["none" if pair is None else f"{pair[0]:g} to {pair[1]:g} ms" for pair in ends]
    scale = options.unit_scale
    attributes: dict[str, Any] = {
        "sampling_rate_hz": float(opened[0].epochs.info["sfreq"]),
        "unit_scale": dict(scale) if isinstance(scale, Mapping) else scale,
        "projections": options.projections,
        "baseline_before_saving": "; ".join(dict.fromkeys(texts)),
    }
    if options.baseline_ms is not None:
        attributes["baseline_ms"] = list(options.baseline_ms)
    return attributes


def _species(card: DatasetCard) -> str:
    if len(card.species) != 1:
        raise ValueError(f"card {card.path}: species = {list(card.species)}, expected one")
    return card.species[0]


def _subject(card: DatasetCard, options: Options, opened: Sequence[EpochsFile]) -> str:
    """The card's subject, or the one that all files name."""
    if options.subject is not None:
        return options.subject
    named = [str((one.epochs.info["subject_info"] or {}).get("his_id") or "") for one in opened]
    if len(set(named)) > 1:
        raise ValueError(
            f"card {card.path}: the sessions are of subjects {', '.join(map(repr, named))}; make"
            " a card for each, or set subject under [options]"
        )
    return named[0] or "subject-1"

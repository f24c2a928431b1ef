"""BIDS and fMRIPrep derivatives: one subject's runs to a response of every voxel to every trial.

File roles:

- ``derivatives``: folder of the preprocessed dataset (``sub-01/func/*_desc-preproc_bold.nii.gz``).
- ``raw``: folder of the raw dataset with the events tables, where ``derivatives`` has none.
- ``mask``, ``roi_NAME``, ``labels_NAME``: which voxels, see `repalign.loaders.volumes`. Without a
  ``mask``, the voxels that are in the brain masks of all runs.
- ``images``: folder or zip of the stimuli; an id is an image's path, file name or its stem.

Trials are the rows of the events tables; every other column becomes a coordinate.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from pydantic import Field

from repalign.card_schemas import DatasetCard
from repalign.loaders.bids_events import event_columns, read_events
from repalign.loaders.bids_files import (
    Run,
    find_runs,
    inherited_files,
    repetition_time,
    run_confounds,
)
from repalign.loaders.bids_masks import brain_mask
from repalign.loaders.image_files import find_images
from repalign.loaders.lazy import lazy_rows
from repalign.loaders.options import ANY_NAME, LoaderOptions, check_roles, read_options
from repalign.loaders.single_trial_glm import (
    Design,
    RidgeProblem,
    lsa_weights,
    lss_weights,
    make_design,
    ridge_problem,
    ridge_responses,
    weighted_sums,
)
from repalign.loaders.volumes import (
    LABELS,
    MASK,
    ROI,
    check_same_grid,
    find_voxels,
    one_species,
    open_nifti,
    voxel_rows,
)
from repalign.recording import make_recording
from repalign.stimuli import Stimuli

Array = np.ndarray[Any, np.dtype[Any]]
Hrf = Literal[
    "glover",
    "glover + derivative",
    "glover + derivative + dispersion",
    "spm",
    "spm + derivative",
    "spm + derivative + dispersion",
]
ROLES = ("raw", "images", MASK)


class Options(LoaderOptions):
    """What a card may say under ``[options]``.

    Attributes:
        subject, task, space: which ones, where the folder holds several.
        sessions, runs: labels of those that are wanted; all by default.
        desc: the preprocessing that the names carry; empty for names without one.
        stimulus: column of the events tables that names the stimulus of a trial.
        trial_types: which events are trials, by their ``trial_type``; the others are modelled
            by one regressor for each type. All events are trials by default.
        ignore: events that are not modelled at all, by their ``trial_type``, such as a baseline.
        estimator: ``lsa``, one model of all trials, or ``lss``, one model for each trial.
        ridge_fraction: shrinks each voxel's responses to this fraction of their length (``lsa``).
        hrf_model: haemodynamic response and its derivatives, as in nilearn; the response is the
            coefficient of the first.
        drift_model: slow drifts as cosines, polynomials, or only a constant.
        high_pass: of the cosines in Hz, .01 by default.
        drift_order: of the polynomials, 1 by default.
        confounds: columns of the confounds tables by name or pattern (``trans_?``).
        scaling: ``percent`` of each voxel's mean in the run, or ``none``.
        slice_time_ref: where in its repetition time a volume was measured, from 0 to 1; by
            default the sidecars' ``StartTime``, and 0 without one.
    """

    subject: str | None = None
    task: str | None = None
    space: str | None = None
    sessions: tuple[str, ...] | None = None
    runs: tuple[str, ...] | None = None
    desc: str = "preproc"
    stimulus: str = "trial_type"
    trial_types: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    estimator: Literal["lsa", "lss"] = "lsa"
    ridge_fraction: float | None = Field(default=None, gt=0, le=1)
    hrf_model: Hrf = "glover"
    drift_model: Literal["cosine", "polynomial", "none"] = "cosine"
    high_pass: float | None = Field(default=None, gt=0)
    drift_order: int | None = Field(default=None, ge=0)
    confounds: tuple[str, ...] = ()
    scaling: Literal["percent", "none"] = "percent"
    slice_time_ref: float | None = Field(default=None, ge=0, le=1)


def read(card: DatasetCard, files: Mapping[str, Path]) -> tuple[xr.Dataset, Stimuli | None]:
    """Find one subject's runs, their events and voxels; responses are estimated when needed."""
    import dask.array as da

    options = _check(card, files)
    runs = find_runs(
        files["derivatives"],
        subject=options.subject,
        task=options.task,
        sessions=options.sessions,
        runs=options.runs,
        space=options.space,
        desc=options.desc,
    )
    first = open_nifti(runs[0].bold, dimensions=4)
    for run in runs[1:]:
        check_same_grid(run.bold, open_nifti(run.bold, dimensions=4), runs[0].bold, first)
    voxels = find_voxels(card, files, runs[0].bold, first, mask=brain_mask(runs, files))
    parts, trials, taken_at, seconds = [], [], set(), set()
    for run in runs:
        image = open_nifti(run.bold, dimensions=4)
        roots = [run.root, *([files["raw"]] if "raw" in files else [])]
        interval, start = repetition_time(run, image, inherited_files(roots, run, "bold.json"))
        reference = options.slice_time_ref
        if reference is None:
            reference = 0.0 if start is None else start / interval
        n_volumes = image.shape[3]
        own, others = read_events(
            run,
            roots,
            n_volumes * interval,
            stimulus=options.stimulus,
            trial_types=options.trial_types,
            ignore=options.ignore,
        )
        design = make_design(
            [(float(row["onset"]), float(row["duration"])) for row in own],
            [(float(r["onset"]), float(r["duration"]), r["trial_type"]) for r in others],
            run_confounds(run, roots, options.confounds, n_volumes),
            (np.arange(n_volumes) + reference) * interval,
            hrf_model=options.hrf_model,
            drift_model=None if options.drift_model == "none" else options.drift_model,
            high_pass=0.01 if options.high_pass is None else options.high_pass,
            drift_order=1 if options.drift_order is None else options.drift_order,
        )
        read_rows = partial(_respond, run.bold, voxels.ijk, _model(run, design, options), options)
        shape = (len(own), len(voxels))
        size = shape[0] * shape[1] * 4  # a run at a time: each needs a pass through its file
        parts.append(lazy_rows(read_rows, shape, np.float32, block_bytes=size))
        trials += [(run, row) for row in own]
        taken_at.add(round(reference, 6))
        seconds.add(interval)
    concatenate: Any = da.concatenate  # dask states no types
    ids = [row[options.stimulus] for _, row in trials]
    recording = make_recording(
        concatenate(parts),
        stimulus_id=ids,
        region=voxels.region,
        species=one_species(card),
        subject=f"sub-{runs[0].entities.get('sub', '1')}",
        neuroid_id=voxels.neuroid_id(),
        neuroid=voxels.coordinates(),
        presentation=event_columns(trials),
        attrs={
            **{name: _plain(value) for name, value in options if value is not None},
            "repetition_time_s": sorted(seconds),
            "slice_time_ref": sorted(taken_at),
        },
    )
    if "images" not in files:
        return recording, None
    known = tuple(dict.fromkeys(ids))
    return recording, Stimuli(
        known, find_images(files["images"], known), card.stimuli.visual_degrees
    )


def _check(card: DatasetCard, files: Mapping[str, Path]) -> Options:
    options = read_options(card, Options)
    knows = (*ROLES, f"{ROI}{ANY_NAME}", f"{LABELS}{ANY_NAME}")
    check_roles(card, files, needs=("derivatives",), knows=knows)
    for role in ("derivatives", "raw"):
        if role in files and not files[role].is_dir():
            raise ValueError(f"card {card.path}: {role} is {files[role]}, expected a folder")
    for name, wanted, of in (
        ("ridge_fraction", "lsa", "estimator"),
        ("high_pass", "cosine", "drift_model"),
        ("drift_order", "polynomial", "drift_model"),
    ):
        if getattr(options, name) is not None and getattr(options, of) != wanted:
            raise ValueError(
                f"card {card.path}: options.{name} applies to {of} = {wanted!r} only, not to"
                f" {getattr(options, of)!r}"
            )
    return options


def _model(run: Run, design: Design, options: Options) -> Array | RidgeProblem:
    """What the volumes of one run are multiplied with."""
    if options.ridge_fraction is not None:
        return ridge_problem(design)
    try:
        return lsa_weights(design) if options.estimator == "lsa" else lss_weights(design)
    except ValueError as error:
        raise ValueError(f"{run.label}: {error}") from error


def _respond(
    path: Path,
    ijk: Array,
    model: Array | RidgeProblem,
    options: Options,
    start: int,
    stop: int,
) -> Array:
    """Responses of some trials of one run, in one pass through its volumes."""
    weights = model.directions if isinstance(model, RidgeProblem) else model[start:stop]
    responses, mean = weighted_sums(voxel_rows(path, ijk, 0, weights.shape[1]), weights)
    if isinstance(model, RidgeProblem):
        fraction = 1.0 if options.ridge_fraction is None else options.ridge_fraction
        responses = ridge_responses(model, responses, fraction)[start:stop]
    if not np.isfinite(mean).all():
        where = tuple(ijk[~np.isfinite(mean)][0].tolist())
        raise ValueError(f"{path} has NaN or infinite values in voxel {where}; use a tighter mask")
    if options.scaling == "none":
        return responses
    if (mean <= 0).any():
        where = tuple(ijk[mean <= 0][0].tolist())
        raise ValueError(
            f"{path}: {int((mean <= 0).sum())} voxels have a mean of 0 or less (first {where}), so"
            ' there is no percent of it; use a tighter mask, or set scaling = "none"'
        )
    return responses * (100 / mean)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

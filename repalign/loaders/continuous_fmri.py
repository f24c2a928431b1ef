"""BIDS and fMRIPrep derivatives as they ran, ``response(time, neuroid)``: films, stories, play.

File roles:

- ``derivatives``: folder of the preprocessed dataset (``sub-01/func/*_desc-preproc_bold.nii.gz``).
- ``raw``: folder of the raw dataset with the events tables, where ``derivatives`` has none.
- ``mask``, ``roi_NAME``, ``labels_NAME``: which voxels, see `repalign.loaders.volumes`. Without a
  ``mask``, the voxels that are in the brain masks of all runs of a subject.

Several subjects stand side by side where they saw the same runs: the same names, numbers of
volumes and events. Events are not modelled; they come along, for features to be made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from repalign.card_schemas import DatasetCard
from repalign.continuous_recording import make_continuous_recording
from repalign.loaders.bids_files import run_confounds
from repalign.loaders.bids_masks import brain_mask
from repalign.loaders.continuous_runs import (
    Measured,
    Options,
    event_table,
    measured_runs,
    roots_of,
    same_runs,
    subjects_of,
)
from repalign.loaders.fmri_cleaning import CleanedRows, nuisance_basis
from repalign.loaders.lazy import BLOCK_BYTES, lazy_rows
from repalign.loaders.options import ANY_NAME, check_roles, read_options
from repalign.loaders.volumes import (
    LABELS,
    MASK,
    ROI,
    Voxels,
    find_voxels,
    one_species,
    open_nifti,
)
from repalign.stimuli import Stimuli

Array = np.ndarray[Any, np.dtype[Any]]


def read(card: DatasetCard, files: Mapping[str, Path]) -> tuple[xr.Dataset, Stimuli | None]:
    """Find the runs, voxels and events of each subject; volumes are read when needed."""
    import dask.array as da

    options = read_options(card, Options)
    knows = ("raw", MASK, f"{ROI}{ANY_NAME}", f"{LABELS}{ANY_NAME}")
    check_roles(card, files, needs=("derivatives",), knows=knows)
    for role in ("derivatives", "raw"):
        if role in files and not files[role].is_dir():
            raise ValueError(f"card {card.path}: {role} is {files[role]}, expected a folder")
    people = {
        name: measured_runs(name, files, options)
        for name in subjects_of(files["derivatives"], options.subjects)
    }
    runs, run_names = same_runs(people)
    voxels = {name: _voxels(card, files, own) for name, own in people.items()}
    total = sum(map(len, voxels.values()))
    concatenate: Any = da.concatenate  # dask states no types
    columns = []
    for name, own in people.items():
        parts = [_volumes(one, voxels[name], files, options, share=total) for one in own]
        columns.append(concatenate(parts))
    regions = [region for found in voxels.values() for region in found.region]
    coordinates = [found.coordinates() for found in voxels.values()]
    recording = make_continuous_recording(
        concatenate(columns, axis=1),
        run=[n for n, one in zip(run_names, runs, strict=True) for _ in range(one.n_volumes)],
        repetition_time_s=runs[0].interval,
        slice_time_ref=runs[0].reference,
        region=regions,
        species=one_species(card),
        subject=[f"sub-{name}" for name, found in voxels.items() for _ in range(len(found))],
        neuroid_id=[one for found in voxels.values() for one in found.neuroid_id()],
        neuroid={key: np.concatenate([c[key] for c in coordinates]) for key in coordinates[0]},
        events=event_table(runs, run_names, options),
        attrs={
            name: list(value) if isinstance(value, tuple) else value
            for name, value in options
            if value is not None and name != "slice_time_ref"
        },
    )
    return recording, None


def _voxels(card: DatasetCard, files: Mapping[str, Path], own: Sequence[Measured]) -> Voxels:
    """The voxels of one subject, in the brain masks of all runs where the card has no mask."""
    runs = [one.run for one in own]
    like = open_nifti(runs[0].bold, dimensions=4)
    inside = brain_mask(runs, files)
    return find_voxels(card, files, runs[0].bold, like, mask=inside)


def _volumes(
    one: Measured, voxels: Voxels, files: Mapping[str, Path], options: Options, *, share: int
) -> Any:
    """The volumes of one run as a lazy array, in blocks that all subjects share.

    Args:
        one: the run.
        voxels: of its subject.
        files: of the card.
        options: of the card.
        share: number of voxels of all subjects, among whom a block's bytes are shared.
    """
    confounds = run_confounds(one.run, roots_of(one.run, files), options.confounds, one.n_volumes)
    try:
        basis = nuisance_basis(
            confounds,
            repetition_time_s=one.interval,
            detrend=options.detrend,
            high_pass=options.high_pass,
        )
    except ValueError as error:
        raise ValueError(f"{one.run.label}: {error}") from error
    centre = options.detrend or options.scaling != "none"
    rows = CleanedRows(one.run.bold, voxels.ijk, basis, options.scaling, centre)
    kind = np.dtype(np.float32) if options.cleans else one.kind
    rows_a_block = max(1, BLOCK_BYTES // (share * kind.itemsize))
    row_bytes = len(voxels) * kind.itemsize
    shape = (one.n_volumes, len(voxels))
    return lazy_rows(rows, shape, kind, block_bytes=rows_a_block * row_bytes)

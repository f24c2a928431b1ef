"""Prepared responses of the Natural Scenes Dataset: one subject's single-trial betas.

File roles:

- ``betas``: folder of ``betas_sessionSS.hdf5``, or single sessions as ``betas_session01``, …
- ``expdesign``: ``nsd_expdesign.mat``, which image was shown in which trial.
- ``stim_info``: ``nsd_stim_info_merged.csv``; optional, gives the COCO ids.
- ``stimuli``: ``nsd_stimuli.hdf5``, the images; optional.
- ``roi_NAME`` or ``mask``, ``labels_NAME``: which voxels, such as ``roi_nsdgeneral``; at least one
  (see `repalign.loaders.volumes`). The labels of NSD's own atlases are known.

A beta is an int16 of 300 times the percent signal change; responses are in percent, as float32.
Stimulus ids are NSD's own numbers from 0: ``nsd-00000`` is the first image of ``imgBrick``.

Allen et al. (2022), Nature Neuroscience, doi 10.1038/s41593-021-00962-x.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from pydantic import Field

from repalign.card_schemas import DatasetCard
from repalign.loaders.hdf5 import check_hdf5, open_hdf5
from repalign.loaders.lazy import lazy_rows
from repalign.loaders.nsd_design import TRIALS, Trials, coco_ids, read_trials
from repalign.loaders.options import LoaderOptions, read_options
from repalign.loaders.volumes import (
    LABELS,
    MASK,
    ROI,
    Voxels,
    check_same_grid,
    check_subject_folders,
    find_voxels,
    one_species,
    open_nifti,
)
from repalign.recording import make_recording
from repalign.stimuli import Stimuli, encode_png

SESSION = re.compile(r"betas_session(\d\d)")
SCALE = 300.0  # betas are stored as percent signal change times this
BRICK = "imgBrick"
SLAB_BYTES = 16 << 20
ROLES = ("betas", "expdesign", "stim_info", "stimuli", MASK)
LABEL_NAMES: Mapping[str, Sequence[str]] = {
    "prf-visualrois": ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"),
    "floc-bodies": ("EBA", "FBA-1", "FBA-2", "mTL-bodies"),
    "floc-faces": ("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
    "floc-places": ("OPA", "PPA", "RSC"),
    "floc-words": ("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"),
    "streams": (
        "early",
        "midventral",
        "midlateral",
        "midparietal",
        "ventral",
        "lateral",
        "parietal",
    ),
}

Array = np.ndarray[Any, np.dtype[Any]]


class Options(LoaderOptions):
    """What a card may say under ``[options]``.

    Attributes:
        subject: number of the subject, from 1 to 8.
        stimuli: which trials: ``all``; those of the 1000 images meant for all subjects
            (``shared1000``); or of the 515 of them that each subject saw three times in the
            sessions that all subjects took part in (``shared515``).
        zscore: ``session`` brings each voxel to mean 0 and variance 1 over the trials of each
            session, all of them, whatever ``stimuli`` says; ``none`` leaves percent signal change.
        version: name of the folder that the betas must come from, such as
            ``betas_fithrf_GLMdenoise_RR``, which guards against mixing; not checked by default.
    """

    subject: int = Field(default=1, ge=1, le=8)
    stimuli: Literal["all", "shared1000", "shared515"] = "all"
    zscore: Literal["none", "session"] = "none"
    version: str | None = None


def read(card: DatasetCard, files: Mapping[str, Path]) -> tuple[xr.Dataset, Stimuli | None]:
    """Find the sessions, trials and voxels; betas and images are read when needed."""
    options = read_options(card, Options)
    sessions = _sessions(card, files, options)
    voxels = _voxels(card, files, sessions)
    trials = read_trials(files["expdesign"], options.subject, sorted(sessions), options.stimuli)
    read_rows = partial(_read_rows, sessions, voxels.ijk, trials, options.zscore == "session")
    columns: dict[str, Array] = {"nsd_id": trials.nsd_id, "shared": trials.shared}
    if "stim_info" in files:
        columns["coco_id"] = coco_ids(files["stim_info"], trials)
    ids = [f"nsd-{number:05d}" for number in trials.nsd_id.tolist()]
    parents = {path.parent.name for path in sessions.values()}
    recording = make_recording(
        lazy_rows(read_rows, (len(ids), len(voxels)), np.float32),
        stimulus_id=ids,
        region=voxels.region,
        species=one_species(card),
        subject=f"subj{options.subject:02d}",
        neuroid_id=voxels.neuroid_id(),
        neuroid=voxels.coordinates(),
        presentation={"session": trials.session, "trial": trials.trial, **columns},
        attrs={
            "zscore": options.zscore,
            "stimuli": options.stimuli,
            "version": ", ".join(sorted(parents)),
            "sessions": sorted(sessions),
        },
    )
    if "stimuli" not in files:
        return recording, None
    first = np.unique(trials.nsd_id, return_index=True)[1]
    first.sort()
    table = {name: column[first] for name, column in columns.items()}
    kept = tuple(ids[i] for i in first)
    images = BrickImages(files["stimuli"], trials.nsd_id[first].tolist())
    return recording, Stimuli(kept, images, card.stimuli.visual_degrees, table)


class BrickImages(Sequence[bytes]):
    """Images of ``nsd_stimuli.hdf5`` as PNG files, each encoded when asked for.

    Args:
        path: of the file.
        rows: of the images wanted, 0-based.

    Raises:
        ValueError: the file holds no RGB images, or fewer than the rows ask for.
    """

    def __init__(self, path: Path, rows: Sequence[int]) -> None:
        """Check that the images are there."""
        self.path, self.rows = path, list(rows)
        with open_hdf5(path) as file:
            brick = file.get(BRICK)
            shape, kind = getattr(brick, "shape", None), getattr(brick, "dtype", None)
        if shape is None or len(shape) != 4 or shape[3] != 3 or kind != np.uint8:
            raise ValueError(
                f"{path}: {BRICK} has shape {shape} and type {kind}, expected images × height ×"
                " width × 3 of uint8"
            )
        if max(self.rows) >= shape[0]:
            raise ValueError(f"{path} has {shape[0]} images; number {max(self.rows)} was shown")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        """Encode one image."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        with open_hdf5(self.path) as file:
            return encode_png(file[BRICK][self.rows[index]])


def _sessions(card: DatasetCard, files: Mapping[str, Path], options: Options) -> dict[int, Path]:
    """The file of each session, all of one subject and version."""
    single = {role: path for role, path in files.items() if SESSION.fullmatch(role)}
    other = [
        role
        for role in files
        if role not in ROLES and role not in single and not role.startswith((ROI, LABELS))
    ]
    if other or "expdesign" not in files or bool(single) == ("betas" in files):
        raise ValueError(
            f"card {card.path}: [files] has {', '.join(files) or 'nothing'}; the loader 'nsd' needs"
            " expdesign and either betas, a folder, or betas_session01, betas_session02, …, and"
            f" knows {', '.join(ROLES[2:])}, {ROI}NAME and {LABELS}NAME"
        )
    paths = list(single.values())
    if not single:
        if not files["betas"].is_dir():
            raise ValueError(f"card {card.path}: betas is {files['betas']}, expected a folder")
        paths = sorted(files["betas"].glob("betas_session*.hdf5"))
    sessions: dict[int, Path] = {}
    for path in paths:
        match = SESSION.match(path.name)
        if match is None or path.suffix != ".hdf5":
            raise ValueError(f"{path}: expected betas_sessionSS.hdf5, SS from 01 to 40")
        sessions[int(match[1])] = path
    if not sessions:
        raise ValueError(f"{files['betas']} holds no betas_sessionSS.hdf5")
    folders = sorted({str(path.parent) for path in sessions.values()})
    if len(folders) > 1:
        raise ValueError(f"sessions come from {' and '.join(folders[:2])}; keep one folder")
    if options.version is not None and Path(folders[0]).name != options.version:
        raise ValueError(
            f"{folders[0]}: expected betas from a folder called {options.version!r} (version); let"
            " the mirror hold one version only, or correct the option"
        )
    masks = [files[role] for role in files if role.startswith((ROI, MASK))]
    check_subject_folders(card, [*sessions.values(), *masks], f"subj{options.subject:02d}")
    return sessions


def _voxels(card: DatasetCard, files: Mapping[str, Path], sessions: Mapping[int, Path]) -> Voxels:
    """The voxels of the masks, whose grid must be the betas'."""
    masks = [files[role] for role in files if role == MASK or role.startswith(ROI)]
    if not masks:
        raise ValueError(
            f'card {card.path}: no voxels are chosen; add roi_nsdgeneral = "nsdgeneral.nii.gz" or'
            " another ROI of the same space to [files]"
        )
    like = open_nifti(masks[0], dimensions=3)
    for path in masks[1:]:
        check_same_grid(path, open_nifti(path, dimensions=3), masks[0], like)
    check_hdf5(*sessions.values())
    for path in sessions.values():
        with open_hdf5(path) as file:
            betas = file.get("betas")
            shape, kind = getattr(betas, "shape", None), getattr(betas, "dtype", None)
        if shape is None or len(shape) != 4 or shape[0] != TRIALS or kind != np.int16:
            raise ValueError(
                f"{path}: betas has shape {shape} and type {kind}, expected {TRIALS} trials × z × y"
                " × x of int16"
            )
        if shape[:0:-1] != like.shape[:3]:
            raise ValueError(
                f"{path} has voxels {shape[:0:-1]}, {masks[0]} has {like.shape[:3]}; take both of"
                " one space, such as func1pt8mm"
            )
    names = {roi: dict(enumerate(labels, start=1)) for roi, labels in LABEL_NAMES.items()}
    return find_voxels(card, files, masks[0], like, names=names)


def _read_rows(
    sessions: Mapping[int, Path], ijk: Array, trials: Trials, zscore: bool, start: int, stop: int
) -> Array:
    """Some trials of all voxels; no more than a slab of one session is held besides."""
    out = np.empty((stop - start, len(ijk)), dtype=np.float32)
    for session in np.unique(trials.session[start:stop]).tolist():
        rows = np.flatnonzero(trials.session[start:stop] == session)
        own = trials.trial[start:stop][rows]
        with open_hdf5(sessions[session]) as file:
            if zscore:
                for here, kept in _zscored_planes(file["betas"], ijk, own, sessions[session]):
                    out[np.ix_(rows, here)] = kept
            else:
                for chosen, stored in _trial_slabs(file["betas"], ijk, own):
                    span = slice(rows[chosen[0]], rows[chosen[-1]] + 1)  # trials follow each other
                    np.divide(stored, np.float32(SCALE), out=out[span])
    return out


def _trial_slabs(betas: Any, ijk: Array, own: Array) -> Iterator[tuple[Array, Array]]:
    """Places among the wanted trials, which ascend, and what is stored, a slab at a time."""
    low, high = ijk.min(axis=0), ijk.max(axis=0) + 1
    (i0, j0, k0), (i1, j1, k1) = low, high
    box = (k1 - k0, j1 - j0, i1 - i0)
    places = np.ravel_multi_index(tuple((ijk - low)[:, ::-1].T), box)
    step = max(1, SLAB_BYTES // (2 * int(np.prod(box))))
    for first in range(int(own.min()), int(own.max()) + 1, step):
        chosen = np.flatnonzero((own >= first) & (own < first + step))
        if chosen.size:
            stop = int(own[chosen].max()) + 1
            slab = betas[first:stop, k0:k1, j0:j1, i0:i1].reshape(stop - first, -1)
            if len(chosen) < len(slab):
                slab = slab[own[chosen] - first]
            yield chosen, slab.take(places, axis=1, mode="clip")  # clip: no look at each place


def _zscored_planes(
    betas: Any, ijk: Array, own: Array, path: Path
) -> Iterator[tuple[Array, Array]]:
    """Voxels and their z-scores over the session in the wanted trials, a plane at a time."""
    i0, j0, _ = ijk.min(axis=0)
    i1, j1, _ = ijk.max(axis=0) + 1
    for k in np.unique(ijk[:, 2]).tolist():
        here = np.flatnonzero(ijk[:, 2] == k)
        i, j, _ = ijk[here].T
        values = betas[:, k, j0:j1, i0:i1][:, j - j0, i - i0].astype(np.float64)
        spread = values.std(axis=0)  # whole numbers: exactly 0 where constant
        if not spread.all():
            where = tuple(ijk[here][spread == 0][0].tolist())
            raise ValueError(
                f"{path}: voxel {where} and {int((spread == 0).sum()) - 1} others of its plane are"
                " constant, so they have no z-score; choose a tighter ROI, or set"
                ' zscore = "none"'
            )
        yield here, (values[own] - values.mean(axis=0)) / spread

"""Single-trial responses of THINGS-fMRI in table format (``betas_csv``), one subject.

File roles:

- ``responses``: ``sub-01_ResponseData.h5``, voxels × trials, as pandas wrote it.
- ``stimuli``: ``sub-01_StimulusMetadata.csv``, one row a trial.
- ``voxels``: ``sub-01_VoxelMetadata.csv``, one row a voxel.
- ``images``: folder or zip of the THINGS images; optional.

pandas' own reader unpickles what a file asks it to. This one reads numbers only: the labels of
the trials' columns are pickled in the published files, and are not looked at, because columns
stand in the order of the trials.

A block of trials is read from all voxels' rows, so each takes a pass through the file: choose
``regions``, or a ``min_noise_ceiling``.

Hebart et al. (2023), eLife 12:e82580, doi 10.7554/eLife.82580.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from pydantic import Field

from repalign.card_schemas import DatasetCard
from repalign.loaders.hdf5 import open_hdf5
from repalign.loaders.image_files import find_images
from repalign.loaders.lazy import lazy_rows
from repalign.loaders.options import LoaderOptions, check_roles, read_options
from repalign.loaders.volumes import one_species
from repalign.recording import make_recording
from repalign.stimuli import Stimuli

if TYPE_CHECKING:
    import pandas as pd

TRIAL_COLUMNS = ("trial_type", "session", "run", "subject_id", "stimulus")
VOXEL_COLUMNS = ("voxel_id", "subject_id", "voxel_x", "voxel_y", "voxel_z", "nc_testset")
MEASURED = ("voxel_", "nc_", "splithalf_", "prf-")  # how columns start that are no regions
SLAB_BYTES = 32 << 20

Array = np.ndarray[Any, np.dtype[Any]]


class Options(LoaderOptions):
    """What a card may say under ``[options]``.

    Attributes:
        regions: columns of the voxel table that are regions (``V1``, ``lFFA``); voxels in none of
            them are left out, those in two stand once in each. Without it all voxels belong to
            the one region of the card.
        trials: those of ``all`` images, of the ``train`` images, which were shown once, or of the
            ``test`` images, which were shown in each session.
        min_noise_ceiling: smallest ``nc_testset`` of the voxels kept, in percent.
    """

    regions: tuple[str, ...] = ()
    trials: Literal["all", "train", "test"] = "all"
    min_noise_ceiling: float | None = Field(default=None, ge=0, le=100)


def read(card: DatasetCard, files: Mapping[str, Path]) -> tuple[xr.Dataset, Stimuli | None]:
    """Find the trials and voxels; responses are read when needed."""
    options = read_options(card, Options)
    check_roles(card, files, needs=("responses", "stimuli", "voxels"), knows=("images",))
    trials = _read_table(files["stimuli"], TRIAL_COLUMNS)
    voxels = _read_table(files["voxels"], VOXEL_COLUMNS)
    subject = _subject(trials, voxels, files)
    name, first, kind = find_block(files["responses"], voxels["voxel_id"].to_numpy(), len(trials))
    rows = np.arange(len(trials))
    if options.trials != "all":
        rows = np.flatnonzero(trials["trial_type"] == options.trials)
    if not len(rows):
        raise ValueError(f"{files['stimuli']} has no trial of type {options.trials!r}")
    chosen, regions = _choose_voxels(card, files["voxels"], voxels, options)
    read_rows = partial(_read_rows, files["responses"], name, rows + first, chosen)
    shown = trials.iloc[rows]
    names = [str(value) for value in shown["stimulus"]]
    ids = [Path(value).stem for value in names]
    by_id = dict(zip(ids, names, strict=True))
    if len(by_id) != len(set(names)):
        raise ValueError(f"{files['stimuli']}: two images have the same name but for its ending")
    ignored = ("stimulus", "subject_id")
    recording = make_recording(
        lazy_rows(read_rows, (len(rows), len(chosen)), kind),
        stimulus_id=ids,
        region=regions,
        species=one_species(card),
        subject=subject,
        neuroid_id=[f"voxel-{number}" for number in voxels["voxel_id"].iloc[chosen]],
        neuroid={
            str(column): voxels[column].to_numpy()[chosen]
            for column in voxels.columns
            if str(column).startswith(MEASURED)
        },
        presentation={
            str(column): _column(shown[column]) for column in shown.columns if column not in ignored
        },
        attrs=options.model_dump(include={"trials", "min_noise_ceiling"}, exclude_none=True),
    )
    if "images" not in files:
        return recording, None
    images = find_images(files["images"], list(by_id.values()))
    return recording, Stimuli(tuple(by_id), images, card.stimuli.visual_degrees)


def find_block(path: Path, voxel_ids: Array, n_trials: int) -> tuple[str, int, np.dtype[Any]]:
    """The dataset that holds the responses, voxel × column.

    Args:
        path: of the ``ResponseData.h5``.
        voxel_ids: of the voxel table.
        n_trials: rows of the stimulus table.

    Returns:
        Its name, its column of the first trial and its type.

    Raises:
        ValueError: not pandas' fixed format, Python objects among the values, or voxels or trials
            that are not those of the tables.
    """
    with open_hdf5(path) as file:
        found = {
            f"/{group}/{name}": item.get(name)
            for group, item in ((name, file.get(name)) for name in file)
            if hasattr(item, "keys")
            for name in item
            if name.startswith("block") and name.endswith("_values")
        }
        blocks = {name: block for name, block in found.items() if hasattr(block, "dtype")}
        if not blocks:
            raise ValueError(
                f"{path} has no table of pandas' fixed format (block0_values); is it the published"
                " ResponseData.h5?"
            )
        for name, block in blocks.items():
            if block.dtype.kind not in "fiu" or block.ndim != 2:
                raise ValueError(
                    f"{path}: {name} holds Python objects or text (type {block.dtype}), which are"
                    " not read; expected numbers only"
                )
            if not block.attrs.get("transposed", False):
                raise ValueError(f"{path}: {name} is not stored as voxels × trials")
        width = sum(block.shape[1] for block in blocks.values())
        height = {block.shape[0] for block in blocks.values()}
        if height != {len(voxel_ids)} or width != n_trials + 1:
            raise ValueError(
                f"{path} holds {'/'.join(map(str, sorted(height)))} voxels × {width} columns;"
                f" expected {len(voxel_ids)} voxels, and voxel_id before {n_trials} trials, as the"
                " tables of the same subject say"
            )
        narrow = [name for name, block in blocks.items() if block.shape[1] == 1]
        wide = [
            name for name in blocks if blocks[name].shape[1] >= n_trials and name not in narrow[:1]
        ]
        if len(wide) != 1 or len(blocks) > 2 or blocks[wide[0]].dtype.kind != "f":
            shapes = ", ".join(f"{name} {block.shape}" for name, block in blocks.items())
            raise ValueError(f"{path}: trials of several types ({shapes}), expected one")
        own = blocks[(narrow or wide)[0]]
        if not np.array_equal(own[:, 0], voxel_ids):
            raise ValueError(
                f"{path}: its first column is not the voxel_id of the voxel table, in its order;"
                " take both of one subject"
            )
        return wide[0], 0 if narrow else 1, blocks[wide[0]].dtype


def _choose_voxels(
    card: DatasetCard, path: Path, voxels: pd.DataFrame, options: Options
) -> tuple[Array, list[str]]:
    """Rows of the voxels that are kept, and their regions."""
    good = np.ones(len(voxels), dtype=bool)
    if options.min_noise_ceiling is not None:
        good = voxels["nc_testset"].to_numpy() >= options.min_noise_ceiling
    known = [str(name) for name in voxels.columns if not str(name).startswith(MEASURED)]
    known = [name for name in known if name != "subject_id"]
    rows: list[Array] = []
    regions: list[str] = []
    for region in options.regions:
        if region not in known:
            raise ValueError(
                f"{path} has no region {region!r} (regions); there are {', '.join(known)}"
            )
        member = voxels[region].to_numpy()
        if not np.isin(member, (0, 1)).all():
            raise ValueError(f"{path}: column {region!r} holds more than 0 and 1; it is no region")
        found = np.flatnonzero((member == 1) & good)
        if not len(found):
            raise ValueError(f"{path}: no voxel of {region!r} is left; lower min_noise_ceiling")
        rows.append(found)
        regions += [region] * len(found)
    if not options.regions:
        if len(card.regions) != 1:
            raise ValueError(
                f"card {card.path}: {len(card.regions)} regions; name columns of the voxel table"
                f" as regions under [options]: {', '.join(known)}"
            )
        rows = [np.flatnonzero(good)]
        regions = [card.regions[0]] * len(rows[0])
    if not regions:
        raise ValueError(f"{path}: no voxel is left; lower min_noise_ceiling")
    return np.concatenate(rows), regions


def _read_rows(
    path: Path, name: str, columns: Array, voxels: Array, start: int, stop: int
) -> Array:
    """Some trials of the chosen voxels, a slab of voxels at a time."""
    wanted = columns[start:stop]
    left, right = int(wanted.min()), int(wanted.max()) + 1
    with open_hdf5(path) as file:
        block = file[name]
        out = np.empty((stop - start, len(voxels)), dtype=block.dtype)
        step = max(1, SLAB_BYTES // ((right - left) * block.dtype.itemsize))
        for top in range(int(voxels.min()), int(voxels.max()) + 1, step):
            here = np.flatnonzero((voxels >= top) & (voxels < top + step))
            if len(here):
                slab = block[top : int(voxels[here].max()) + 1, left:right]
                out[:, here] = slab[voxels[here] - top][:, wanted - left].T
        return out


def _read_table(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is no csv: {error}") from error
    table = table.loc[:, [not str(name).startswith("Unnamed") for name in table.columns]]
    for name in needed:
        if name not in table.columns:
            raise ValueError(
                f"{path} has no column {name!r}; there are {', '.join(map(str, table.columns))}"
            )
        if name != "nc_testset" and table[name].isna().any():
            raise ValueError(
                f"{path}: {name} has no value in row {int(table[name].isna().argmax())}"
            )
    return table


def _subject(trials: pd.DataFrame, voxels: pd.DataFrame, files: Mapping[str, Path]) -> str:
    numbers = set(trials["subject_id"]) | set(voxels["subject_id"])
    if len(numbers) != 1:
        raise ValueError(
            f"{files['stimuli']} and {files['voxels']} are of subjects"
            f" {', '.join(map(str, sorted(numbers)))}; take both of one subject"
        )
    number = numbers.pop()
    return f"sub-{int(number):02d}" if str(number).isdigit() else str(number)


def _column(values: pd.Series[Any]) -> Array:
    array = values.to_numpy()
    is_number = array.dtype.kind in "fiub"
    return array if is_number else np.array([str(value) for value in array], dtype=object)

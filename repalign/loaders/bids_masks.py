"""The brain masks that fMRIPrep writes beside each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repalign.loaders.bids_files import Run
from repalign.loaders.volumes import MASK, ROI, open_nifti, read_volume

Array = np.ndarray[Any, np.dtype[Any]]


def brain_mask(runs: Sequence[Run], files: Mapping[str, Path]) -> Array | None:
    """Voxels in the brain masks of all runs; None where the card has a mask of its own.

    Raises:
        ValueError: a run has no brain mask, and the card names neither a mask nor an ROI; or a
            mask has another grid than the first run.
    """
    if MASK in files:
        return None
    like = open_nifti(runs[0].bold, dimensions=4)
    inside: Array | None = None
    for run in runs:
        name = run.bold.name.rsplit("_bold.", 1)[0]
        name = name.replace(f"_desc-{run.entities.get('desc')}", "") + "_desc-brain_mask.nii"
        paths = [p for p in (run.bold.with_name(name + end) for end in (".gz", "")) if p.is_file()]
        if paths:
            found = read_volume(paths[0], runs[0].bold, like) != 0
            inside = found if inside is None else inside & found
        elif not any(role.startswith(ROI) for role in files):
            raise ValueError(
                f"{run.bold} has no {name}.gz beside it; name a mask or {ROI}NAME in [files]"
            )
    return inside

"""Maps of a searchlight as a dataset."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from repalign.metrics import RSA
from repalign.recording import NEUROID
from repalign.searchlights.model_rdms_by_name import NamedRDMs
from repalign.searchlights.neighbourhoods import Neighbourhoods
from repalign.searchlights.responses import Responses


def assemble_maps(
    values: NDArray[np.float64],
    hoods: Neighbourhoods,
    wanted: NamedRDMs,
    found: Responses,
    metric: RSA,
    settings: Mapping[str, Any],
    n_permutations: int,
) -> xr.Dataset:
    """Put similarities of (centre, model) where their neuroids are, and say how they were made."""
    n_models, n = len(wanted.names), hoods.n_neuroids
    similarity = np.full((n_models, n), np.nan)
    similarity[:, hoods.centre] = values[:, :n_models].T
    size = np.zeros(n, dtype=np.int64)
    size[hoods.centre] = hoods.size
    left_out = np.full(n, "", dtype=object)
    left_out[hoods.left_out] = f"fewer than {hoods.minimum} neuroids around it"
    undefined = np.zeros(n, dtype=bool)
    undefined[hoods.centre] = np.isnan(values[:, :n_models]).all(axis=1)
    left_out[undefined] = "its RDM is undefined or constant"
    maps = found.about.assign(
        similarity=(("model", NEUROID), similarity), neighbourhood_size=((NEUROID,), size)
    ).assign_coords(
        model=("model", np.array(wanted.names, dtype=object)), left_out=(NEUROID, left_out)
    )
    if n_permutations:
        null = np.full((n_permutations, n_models, n), np.nan, dtype=np.float32)
        null[:, :, hoods.centre] = values[:, n_models:].T.reshape(n_permutations, n_models, -1)
        maps["null"] = (("permutation", "model", NEUROID), null)
    note = f"{hoods}; {wanted.note}"
    if undefined.any():
        note += f"; {int(undefined.sum())} centres have an RDM that is undefined or constant"
    parameters = {key: value for key, value in dataclasses.asdict(metric).items() if value}
    maps.attrs = {
        "kind": "searchlight",
        "metric": metric.name,
        "metric_parameters": parameters,
        "neighbourhoods": str(hoods),
        "n_stimuli": found.design.presentations.n_stimuli,
        "note": note,
        "settings": dict(settings),
    }
    return maps

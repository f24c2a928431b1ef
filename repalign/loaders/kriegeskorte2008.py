"""The 92 object images of Kriegeskorte et al. (2008): monkey and human IT as published RDMs.

File roles: ``supplement`` (``Kriegeskorte_Neuron2008_supplementalData.mat``: images, category
vectors, one group RDM a species) and ``subjects`` (``92_brainRDMs.mat``: human IT, 4 subjects
× 2 sessions). Neuron 60:1126-1141, doi 10.1016/j.neuron.2008.10.043.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.io import loadmat
from scipy.spatial.distance import squareform

from repalign.card_schemas import DatasetCard
from repalign.loaders.mat5 import check_mat5
from repalign.recording import STIMULUS, SUBJECT, make_rdm_recording
from repalign.stimuli import Stimuli, encode_png

GROUP_SPECIES = {"mIT": "macaque", "hIT": "human"}


def read(card: DatasetCard, files: Mapping[str, Path]) -> tuple[xr.Dataset, Stimuli]:
    """Read the RDMs, the images and the category labels from the files as published."""
    supplement = _load(files["supplement"], "RDMs_mIT_hIT_fig1", "stimuli_92objs")
    subjects = _load(files["subjects"], "RDMs")["RDMs"].ravel()
    images = supplement["stimuli_92objs"].ravel()
    ids = [
        f"{i + 1:02d}-{str(m['category'].item()).replace(' ', '-')}" for i, m in enumerate(images)
    ]

    entries: list[tuple[str, str, str, Any]] = []
    for group in supplement["RDMs_mIT_hIT_fig1"].ravel():
        species = GROUP_SPECIES[str(group["name"].item())[:3]]
        entries.append(("group", species, "all", squareform(group["RDM"].ravel())))
    for measured in subjects:
        _, subject, session = (part.strip() for part in str(measured["name"].item()).split("|"))
        number = session.removeprefix("Session:").strip()
        entries.append((subject, "human", number, measured["RDM"].astype(np.float64)))
    names, species_of, sessions, rdms = zip(*entries, strict=True)

    recording = make_rdm_recording(
        np.stack(rdms),
        stimulus_id=ids,
        subject=names,
        species=species_of,
        region="IT",
        session=sessions,
    )
    table = _table(supplement)
    recording = recording.assign_coords({name: (STIMULUS, col) for name, col in table.items()})
    files_ = [encode_png(image["image"]) for image in images]
    assert recording["rdm"].dims[0] == SUBJECT
    return recording, Stimuli(tuple(ids), files_, card.stimuli.visual_degrees, table)


def _load(path: Path, *variables: str) -> dict[str, Any]:
    check_mat5(path)
    content: dict[str, Any] = loadmat(path)
    missing = [name for name in variables if name not in content]
    if missing:
        raise ValueError(f"{path} has no variable {missing[0]!r}; is it the published file?")
    return content


def _table(supplement: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Category of each image and the twelve category vectors as columns of 0 and 1."""
    images = supplement["stimuli_92objs"].ravel()
    table = {"category": np.array([str(m["category"].item()) for m in images], dtype=object)}
    labels = [str(label.item()) for label in supplement["categoryLabels"].ravel()]
    for label, column in zip(labels, supplement["categoryVectors"].T, strict=True):
        table[f"is_{label.strip().replace(' ', '_')}"] = column.astype(np.int64)
    return table

"""What stands beside an array: ids, labels and images of its stimuli, columns of its neuroids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repalign.card_schemas import DatasetCard
from repalign.recording import RESERVED

if TYPE_CHECKING:
    import pandas as pd


def read_table(path: Path) -> pd.DataFrame:
    """A csv of stimuli or neuroids; ids and file names stay text."""
    import pandas as pd

    try:
        return pd.read_csv(path, dtype={"stimulus_id": str, "filename": str, "neuroid_id": str})
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is no readable csv: {error}") from error


def match_images(
    images: Mapping[str, bytes] | None,
    table: pd.DataFrame | None,
    known: Sequence[str] | None,
    n_stimuli: int,
    files: Mapping[str, Path],
) -> list[str]:
    """The image file of each stimulus: by the table's ``filename``, by ids, or by order."""
    if images is None:
        return []
    if table is None or "filename" not in table.columns:
        if len(images) != n_stimuli:
            raise ValueError(
                f"{files['images']} holds {len(images)} images for {n_stimuli} stimuli; add a"
                " stimuli table with a 'filename' column, or remove the extra files"
            )
        by_stem = {Path(name).stem: name for name in images}
        if known is not None and set(known) == set(by_stem):
            return [by_stem[name] for name in known]  # ids that are file names say more than order
        return list(images)
    by_name: dict[str, list[str]] = {}
    for name in images:
        by_name.setdefault(Path(name).name, []).append(name)
    chosen = []
    for name in table["filename"]:
        found = [str(name)] if name in images else by_name.get(str(name), [])
        if len(found) != 1:
            state = f"lacks {name!r}" if not found else f"has {name!r} {len(found)} times"
            raise ValueError(
                f"{files['images']} {state}, which {files['stimuli']} names; give the path inside"
                " the zip or folder"
            )
        chosen.append(found[0])
    return chosen


def known_ids(
    table: pd.DataFrame | None, header_ids: Sequence[str] | None, files: Mapping[str, Path]
) -> list[str] | None:
    """Stimulus ids that the user gave, in the table or in the array's csv."""
    listed = None
    if table is not None and "stimulus_id" in table.columns:
        listed = [str(value) for value in table["stimulus_id"]]
    if listed is not None and header_ids is not None and listed != list(header_ids):
        raise ValueError(
            f"{files['stimuli']} and {files['responses']} give different stimulus ids, or in"
            " different order; remove the column from one of them"
        )
    return listed or (None if header_ids is None else list(header_ids))


def invented_ids(card: DatasetCard, names: Sequence[str], n_stimuli: int) -> list[str]:
    """Ids from the file names; without images they carry the card's name, to match nothing else."""
    if not names:
        return [f"{card.name}/{i:04d}" for i in range(n_stimuli)]
    stems = [Path(name).stem for name in names]
    unique = len(set(stems)) == len(stems)
    return stems if unique else [str(Path(name).with_suffix("")) for name in names]


def stimulus_labels(table: pd.DataFrame | None) -> dict[str, np.ndarray[Any, Any]]:
    """All other columns of the stimuli table; text as text, numbers as numbers."""
    return {} if table is None else _columns(table, ("stimulus_id", "filename"))


def _columns(table: pd.DataFrame, used: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The columns of a table that are not used otherwise."""
    columns = {}
    for name in table.columns:
        if name not in used:
            values = table[name].to_numpy()
            is_number = values.dtype.kind in "fiub"
            columns[str(name)] = (
                values if is_number else np.array([str(v) for v in values], dtype=object)
            )
    return columns


def check_names(
    labels: Mapping[str, Any], places: Mapping[str, Any], files: Mapping[str, Path]
) -> None:
    """Raise where a column bears a name that stands for something else."""
    taken = [name for name in labels if name in RESERVED]
    if taken:
        raise ValueError(f"the stimuli table has a column {taken[0]!r}, a name of ours; rename it")
    taken = [name for name in places if name in RESERVED or name in labels]
    if taken:
        whose = "of the stimuli table too" if taken[0] in labels else "of ours"
        raise ValueError(
            f"{files['neuroids']} has a column {taken[0]!r}, a name {whose}; rename it"
        )


def neuroid_columns(
    card: DatasetCard, files: Mapping[str, Path], subject: str, n_neuroids: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """neuroid_id, region, subject and species of every neuroid; what else is known of them."""
    columns: dict[str, Any] = {
        "neuroid_id": np.array([f"neuroid-{i:04d}" for i in range(n_neuroids)], object)
    }
    table = read_table(files["neuroids"]) if "neuroids" in files else None
    if table is not None and len(table) != n_neuroids:
        raise ValueError(
            f"{files['neuroids']} has {len(table)} rows for {n_neuroids} neuroids of"
            f" {files['responses'].name}"
        )
    single = {"region": card.regions, "species": card.species, "subject": (subject,)}
    for name, values in single.items():
        if table is None or name not in table.columns:
            if len(values) != 1:
                raise ValueError(
                    f"card {card.path}: {len(values)} entries of {name}; say which neuroid is"
                    f" which by a neuroids table with a column {name!r}"
                )
            columns[name] = np.array([values[0]] * n_neuroids, dtype=object)
    if table is None:
        return columns, {}
    for name in (*single, "neuroid_id"):
        if name in table.columns:
            columns[name] = np.array([str(value) for value in table[name]], dtype=object)
    return columns, _columns(table, (*single, "neuroid_id"))

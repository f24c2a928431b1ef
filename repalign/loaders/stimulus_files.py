"""Images and labels of stimuli whose ids the recording itself gives, matched by id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repalign.card_schemas import DatasetCard
from repalign.loaders.image_files import find_images, list_images
from repalign.stimuli import Stimuli

Array = np.ndarray[Any, np.dtype[Any]]
REMEDY = "give a csv with the columns stimulus_id and filename as the role 'stimuli' of [files]"


def read_stimulus_files(
    card: DatasetCard,
    files: Mapping[str, Path],
    ids: Sequence[str],
    note: Callable[[str], None],
) -> tuple[dict[str, Array], Stimuli | None]:
    """Labels and images of stimuli, from the roles ``stimuli`` (a csv) and ``images``.

    The csv has a column ``stimulus_id`` and may have ``filename``, the path of an image inside
    its folder or zip or its bare name; all other columns become labels. Without ``filename`` the
    name of an image, with or without its suffix, is the id.

    Args:
        card: whose files these are.
        files: path by role; none of the two roles need be there.
        ids: distinct stimuli of the recording.
        note: is told how many rows and images belong to no stimulus of the recording.

    Returns:
        Label columns in the order of the ids, and the stimuli, or None without images.

    Raises:
        ValueError: a stimulus without row or image, or with several.
    """
    labels: dict[str, Array] = {}
    filenames: dict[str, str] = {}
    if "stimuli" in files:
        labels, filenames = _read_table(files["stimuli"], ids, note)
    if "images" not in files:
        return labels, None
    images = find_images(
        files["images"], [filenames.get(name, name) for name in ids], remedy=REMEDY
    )
    total = len(list_images(files["images"]))
    unused = total - len(set(images.names))
    if unused:
        note(f"{unused} of {total} images left out: their stimuli are not in the recording")
    return labels, Stimuli(tuple(ids), images, card.stimuli.visual_degrees, labels)


def _read_table(
    path: Path, ids: Sequence[str], note: Callable[[str], None]
) -> tuple[dict[str, Array], dict[str, str]]:
    """Labels in the order of the ids, and the image file of each id."""
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype={"stimulus_id": str, "filename": str})
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is no readable csv: {error}") from error
    if "stimulus_id" not in frame.columns:
        raise ValueError(f"{path} has no column stimulus_id; it has {', '.join(frame.columns)}")
    rows = {name: row for row, name in enumerate(frame["stimulus_id"])}
    if len(rows) != len(frame):
        twice = frame["stimulus_id"][frame["stimulus_id"].duplicated()].iloc[0]
        raise ValueError(f"{path}: stimulus_id {twice!r} stands twice; give each stimulus one row")
    missing = [name for name in ids if name not in rows]
    if missing:
        raise ValueError(
            f"{path} has no row for {len(missing)} of {len(ids)} stimuli (first {missing[0]!r})"
        )
    if len(rows) > len(ids):
        unused = len(rows) - len(ids)
        note(f"{unused} of {len(rows)} rows of {path.name} left out: not in the recording")
    frame = frame.iloc[[rows[name] for name in ids]]
    labels = {}
    for label in frame.columns:
        values = frame[label].to_numpy()
        if label not in ("stimulus_id", "filename"):
            texts = np.array([str(value) for value in values], dtype=object)
            labels[str(label)] = values if values.dtype.kind in "fiub" else texts
    given = frame["filename"] if "filename" in frame.columns else frame["stimulus_id"]
    return labels, dict(zip(frame["stimulus_id"], given.astype(str), strict=True))

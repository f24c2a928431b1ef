"""Which stimulus each epoch shows, and what else its file tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from repalign.card_schemas import DatasetCard
from repalign.loaders.fif_files import EpochsFile, Note
from repalign.recording import RESERVED

TAKEN = RESERVED | {"event", "session", "bad_annotated"}

Array = np.ndarray[Any, np.dtype[Any]]


def event_names(source: EpochsFile) -> list[str]:
    """The name of each epoch's event, such as ``face/upright``.

    Raises:
        ValueError: two names for one number.
    """
    by_code: dict[int, str] = {}
    for name, code in source.epochs.event_id.items():
        if int(code) in by_code:
            raise ValueError(
                f"{source.path}: the events {by_code[int(code)]!r} and {name!r} have the same"
                f" number {code}; give each its own, or tell stimuli by a metadata column (option"
                " stimulus)"
            )
        by_code[int(code)] = str(name)
    codes = source.epochs.events[:, 2].tolist()
    return [by_code.get(code, str(code)) for code in codes]


def stimulus_names(card: DatasetCard, column: str | None, source: EpochsFile) -> list[str]:
    """The stimulus of each epoch: its metadata's column, or the name of its event.

    Raises:
        ValueError: no such column, or a row of it that is empty or no name.
    """
    if column is None:
        return event_names(source)
    metadata = source.epochs.metadata
    columns = [] if metadata is None else [str(name) for name in metadata.columns]
    if column not in columns:
        held = f"columns {', '.join(columns)}" if columns else "no metadata"
        raise ValueError(
            f"card {card.path}: options.stimulus = {column!r}, but {source.path} has {held};"
            " without the option the names of the events tell the stimulus"
        )
    names = []
    for row, value in enumerate(metadata[column].tolist()):
        whole = isinstance(value, float) and value.is_integer()  # JSON and pandas make 3 a 3.0
        if not whole and (not isinstance(value, str | int) or value == ""):
            raise ValueError(
                f"{source.path}: metadata column {column!r} is {value!r} in epoch {row}; expected"
                " the name of a stimulus or a whole number"
            )
        names.append(str(int(value)) if whole else str(value))
    return names


def presentation_columns(
    sources: Mapping[str, EpochsFile], stimulus: str | None, note: Note
) -> dict[str, Array]:
    """Columns of the metadata, events, sessions and bad stretches, along all files' epochs.

    Args:
        sources: the files by role; more than one, or one called a session, get a ``session``.
        stimulus: the metadata column that tells the stimulus already.
        note: is told what is left out, renamed or not heeded.
    """
    columns: dict[str, Array] = {}
    opened = list(sources.values())
    if "epochs" not in sources:
        roles = [role for role, one in sources.items() for _ in range(len(one.epochs))]
        columns["session"] = np.array(roles, dtype=object)
    if stimulus is not None:  # what else would be the stimulus itself
        try:
            named = [name for one in opened for name in event_names(one)]
            columns["event"] = np.array(named, dtype=object)
        except ValueError as error:
            note(f"no coordinate event: {error}")
    bad = np.concatenate([_overlaps_bad(one) for one in opened])
    if bad.any():
        columns["bad_annotated"] = bad
        note(
            f"{np.count_nonzero(bad)} of {len(bad)} epochs overlap annotations that begin with BAD;"
            " they are kept, with bad_annotated true"
        )
    return columns | _metadata_columns(opened, stimulus, note)


def _overlaps_bad(source: EpochsFile) -> Array:
    """Whether each epoch overlaps an annotation whose name begins with BAD, in any case."""
    annotations = source.epochs.annotations
    if annotations is None or len(annotations) == 0:
        return np.zeros(len(source.epochs), dtype=bool)
    lists = source.epochs.get_annotations_per_epoch()
    return np.array([any(str(a[2]).upper().startswith("BAD") for a in one) for one in lists])


def _metadata_columns(
    opened: list[EpochsFile], stimulus: str | None, note: Note
) -> dict[str, Array]:
    """Numbers as numbers, all else as text, of the metadata columns that all files have."""
    import pandas as pd

    frames = [pd.DataFrame() if s.epochs.metadata is None else s.epochs.metadata for s in opened]
    shared = [name for name in frames[0].columns if all(name in f.columns for f in frames)]
    lost = {str(name) for frame in frames for name in frame.columns if name not in shared}
    if lost:
        note(f"metadata columns {', '.join(sorted(lost))} left out: not in all sessions")
    columns: dict[str, Array] = {}
    for name in shared:
        if str(name) == stimulus:
            continue
        values = pd.concat([frame[name] for frame in frames], ignore_index=True).to_numpy()
        if values.dtype.kind not in "fiub":
            texts = ["" if v is None or v != v else str(v) for v in values.tolist()]
            values = np.array(texts, dtype=object)
        key = str(name).replace("/", "_")
        while key in TAKEN or key in columns:
            key = f"metadata_{key}"
        if key != str(name):
            note(f"metadata column {str(name)!r} is called {key!r}: the name is taken")
        columns[key] = values
    return columns

"""What people answered to the test images: a table of counts, and how alike networks err."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from repalign.robustness.error_patterns import error_consistency

KINDS = ("i1", "i2n")
Counts = np.ndarray[Any, np.dtype[np.int64]]


def read_choices(path: str | Path, *, classes: Sequence[str], n_images: int) -> Counts:
    """Read counts of human choices, image × class, from a CSV file.

    Args:
        path: a file whose first line names the classes, in any order, and whose further lines
            hold whole numbers: how often people chose each class for an image of the test part.
        classes: names of the labels, in the order that the counts are returned in.
        n_images: images of the test part.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: other classes, another number of images, or values that are no counts.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"robustness.human_choices names {file}, which does not exist")
    with file.open(newline="", encoding="utf-8-sig") as lines:
        header, *rows = [row for row in csv.reader(lines) if row] or [[]]
    names = [name.strip() for name in header]
    if sorted(names) != sorted(classes):
        raise ValueError(
            f"{file}: the first line is {', '.join(names) or 'missing'}; expected the names of the"
            f" {len(classes)} classes, each once: {', '.join(classes)}"
        )
    if len(rows) != n_images:
        raise ValueError(
            f"{file} has {len(rows)} rows below its first line; expected {n_images}, one for each"
            " image of the test part, in its order"
        )
    order = [names.index(name) for name in classes]
    counts = np.empty((n_images, len(classes)), dtype=np.int64)
    for number, row in enumerate(rows):
        if len(row) != len(names) or not all(cell.strip().isdecimal() for cell in row):
            raise ValueError(
                f"{file}, line {number + 2}: {','.join(row)}; expected {len(names)} whole numbers"
                " of 0 or more, counts of choices"
            )
        counts[number] = [int(row[column]) for column in order]
    return counts


def consistency_rows(
    probabilities: Float[Tensor, "image class"], counts: Counts, labels: Int[Tensor, image]
) -> list[dict[str, Any]]:
    """How alike a network and people err, by i1 and i2n; see `error_consistency`.

    Returns:
        One row a kind: kind, value, human_reliability, model_reliability, corrected, n_images,
        n_splits. NaN where people answered too little or agree too little to have a pattern.
    """
    return [asdict(error_consistency(probabilities, counts, labels, kind=kind)) for kind in KINDS]

"""The RDMs that the page shows: of recordings and of layers, as ranks, with small images.

What a page can hold is bounded: some stimuli of each recording, and some RDMs. RDMs are kept as
ranks of their upper triangle in one byte each, 1 (most similar) to 255; 0 is undefined.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from repalign.activations import open_activations
from repalign.metrics.rdms import rdm
from repalign.processing import average_repeats
from repalign.recording import PRESENTATION, STIMULUS, is_rdm_only, stimulus_ids, targets
from repalign.stimuli import Stimuli, images_of

MOST_STIMULI = 100  # of a recording
MOST_RDMS = 120  # of the page
METHOD = "correlation"
THUMBNAIL = 72  # pixels, both ways
ACROSS = 10  # thumbnails in a row of the sheet
MOST_LABELS = 16  # names of groups, of a column that orders stimuli
GREY = (127, 127, 127)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RdmSource:
    """A recording whose RDMs are shown, beside those of layers.

    Args:
        name: as the page calls it.
        recording: opened.
        layers: stores of activations by model and layer, in order of depth.
        best: models and layers that are shown first, and kept where not all can be.
    """

    name: str
    recording: xr.Dataset
    layers: Mapping[tuple[str, str], str]
    best: Sequence[tuple[str, str]] = ()


def rdm_pictures(sources: Sequence[RdmSource]) -> tuple[list[dict[str, Any]], list[str]]:
    """What the page's viewer shows, and what it cannot, in sentences."""
    pictures, lacking = [], []
    for source in sources:
        try:
            picture, missing = _picture(source, most=MOST_RDMS // len(sources))
        except (ValueError, OSError) as error:
            lacking.append(f"{source.name}: {error}")
            continue
        pictures.append(picture)
        lacking += missing
    return pictures, lacking


def _picture(source: RdmSource, *, most: int) -> tuple[dict[str, Any], list[str]]:
    every = stimulus_ids(source.recording)
    ids = _some(every, MOST_STIMULI)
    labels = label_columns(source.recording, ids)
    if labels:  # conditions that bear one label stand together
        first = next(iter(labels.values()))
        groups = list(dict.fromkeys(first))
        order = sorted(range(len(ids)), key=lambda row: groups.index(first[row]))
        ids = [ids[row] for row in order]
        labels = {name: [column[row] for row in order] for name, column in labels.items()}
    lacking = []
    brains: dict[str, str] = {}
    for target, part in targets(source.recording):
        name = ", ".join(filter(None, (" ".join(target[:2]).strip(), target.subject)))
        try:
            brains[name or source.name] = packed(_brain(part, ids))
        except ValueError as error:
            lacking.append(f"{source.name}, {name}: {error}")
    layers: dict[str, dict[str, str]] = {}
    leading = [one for one in dict.fromkeys(source.best) if one in source.layers]
    kept = [*leading, *(one for one in source.layers if one not in set(leading))]
    shown = set(kept[: max(1, most - len(brains))])
    for (model, layer), store in source.layers.items():
        if (model, layer) not in shown:
            continue
        try:
            layers.setdefault(model, {})[layer] = packed(_layer(store, ids))
        except (ValueError, OSError) as error:
            lacking.append(f"{source.name}, {model} {layer}: {error}")
    if len(shown) < len(source.layers):
        lacking.append(
            f"{source.name}: {len(shown)} of {len(source.layers)} layers, the best of each model"
            " first"
        )
    if len(ids) < len(every):
        lacking.append(f"{source.name}: {len(ids)} of {len(every):,} stimuli, evenly spaced")
    sheet = None
    try:
        sheet = thumbnails(images_of(source.recording).subset(ids))
    except (ValueError, OSError) as error:
        lacking.append(f"{source.name}: no images of its stimuli ({error})")
    picture = {
        "name": source.name,
        "stimuli": ids,
        "labels": labels,
        "brains": brains,
        "layers": {model: own for model, own in layers.items() if own},
        "best": dict(reversed(leading)),  # of each model its first
        "first": leading[0][0] if leading else None,
        "sheet": sheet,
        "size": THUMBNAIL,
        "across": ACROSS,
    }
    return picture, lacking


def _some(ids: Sequence[str], most: int) -> list[str]:
    """As many of the ids, evenly spaced."""
    if len(ids) <= most:
        return list(ids)
    return [ids[place] for place in np.linspace(0, len(ids) - 1, most).round().astype(int)]


def label_columns(ds: xr.Dataset, ids: Sequence[str]) -> dict[str, list[str]]:
    """Columns of text that put stimuli into a few groups; a stimulus has one value."""
    dimension = ds[STIMULUS].dims[0]
    rows: dict[str, int] = {}
    for row, name in enumerate(ds[STIMULUS].values.tolist()):
        rows.setdefault(str(name), row)
    taken = [rows[name] for name in ids]
    found = {}
    for name, column in ds.coords.items():
        if column.dims != (dimension,) or column.dtype.kind not in "OUT" or name == STIMULUS:
            continue
        values = [str(value) for value in column.values[taken].tolist()]
        if 2 <= len(set(values)) <= min(MOST_LABELS, len(ids) // 2):
            found[str(name)] = values
    return found


def _brain(part: xr.Dataset, ids: Sequence[str]) -> Array:
    """The RDM of one target: the mean of those published, or of averaged responses."""
    if is_rdm_only(part):
        rows = [stimulus_ids(part).index(name) for name in ids]
        square = part["rdm"].values.astype(np.float64)[:, rows][:, :, rows].mean(axis=0)
        triangle: Array = square[np.triu_indices(len(ids), 1)]
        return triangle
    wanted = set(ids)
    shown = [str(name) in wanted for name in part[STIMULUS].values]
    few = average_repeats(part.isel({PRESENTATION: np.array(shown)}))
    return _of_responses(few, ids)


def _layer(store: str, ids: Sequence[str]) -> Array:
    activations = open_activations(store)
    place = {name: row for row, name in enumerate(activations[STIMULUS].values.tolist())}
    missing = [name for name in ids if name not in place]
    if missing:
        raise ValueError(f"it lacks {len(missing)} of the stimuli, such as {missing[0]!r}")
    return _of_responses(activations.isel({PRESENTATION: [place[name] for name in ids]}), ids)


def _of_responses(ds: xr.Dataset, ids: Sequence[str]) -> Array:
    place = {str(name): row for row, name in enumerate(ds[STIMULUS].values.tolist())}
    values = np.asarray(ds["response"].values, dtype=np.float64)[[place[name] for name in ids]]
    values = values.reshape(len(ids), -1)  # time bins stand side by side
    values = values[:, np.isfinite(values).all(axis=0)]
    if values.shape[1] < 2:
        raise ValueError("a pattern over fewer than two units has no correlation distance")
    found: Array = rdm(values, method=METHOD).numpy()
    return found


def packed(triangle: Array) -> str:
    """The ranks of an upper triangle, one byte a pair, in base64."""
    from scipy.stats import rankdata

    ranks = np.zeros(len(triangle), dtype=np.uint8)
    fine = np.isfinite(triangle)
    if fine.any():
        order = rankdata(triangle[fine])
        spread = (order - 1) / max(len(order) - 1, 1)
        ranks[fine] = np.round(1 + 254 * spread).astype(np.uint8)
    return base64.b64encode(ranks.tobytes()).decode()


def thumbnails(images: Stimuli) -> str:
    """All images in one small JPEG sheet, as a data URL, row by row."""
    from PIL import Image

    down = -(-len(images) // ACROSS)
    sheet = Image.new("RGB", (ACROSS * THUMBNAIL, down * THUMBNAIL), GREY)
    for place in range(len(images)):
        one = Image.fromarray(images.image(place))
        one.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        row, column = divmod(place, ACROSS)
        free = (THUMBNAIL - one.width) // 2, (THUMBNAIL - one.height) // 2
        sheet.paste(one, (column * THUMBNAIL + free[0], row * THUMBNAIL + free[1]))
    buffer = io.BytesIO()
    sheet.save(buffer, format="jpeg", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"

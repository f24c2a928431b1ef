"""The results of a study as a table, as an array with named dimensions, and as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from repalign.local_files import write_file
from repalign.studies.configuration import StudyConfig, read_study
from repalign.studies.grid import Grid
from repalign.studies.grid_building import build_grid
from repalign.studies.results_store import Stored, read_stored, say_damaged

if TYPE_CHECKING:
    import pandas as pd

CEILING = ("ceiling_kind", "ceiling_low", "ceiling_high", "ceiling_error")
COLUMNS = (
    *("dataset", "selection", "species", "region", "subject", "model", "layer"),
    *("metric", "metric_parameters", "is_distance", "value", "null_mean", "null_sd"),
    *CEILING,
    *("ci_low", "ci_high", "p", "n_stimuli", "n_neuroids", "seed", "version", "note", "error"),
)
IN_ARRAYS = (
    *("value", "null_mean", "null_sd", "ceiling_low", "ceiling_high", "ceiling_error"),
    *("ci_low", "ci_high"),
)
STACKED = {
    "population": ("recording", "species", "region", "subject"),
    "model_layer": ("model", "layer"),
}
SPARSEST = 50  # points of an array a cell


@dataclass(frozen=True)
class StudyResults:
    """What a study has found.

    Args:
        table: one row a cell of the grid that was computed or failed (then with ``error``), in the
            grid's order, with the fields of `repalign.compare`; ``metric_parameters`` is JSON.
        missing: number of cells that are not computed yet.
        words: of each row, the metric as the configuration has it.
    """

    table: pd.DataFrame
    missing: int
    words: tuple[str, ...]

    def to_xarray(self, *, stacked: bool = False) -> xr.Dataset:
        """The numbers by recording, target, model, layer and metric; NaN where there is no cell.

        Args:
            stacked: by population, model layer and metric instead, for models that share no names
                of layers and recordings that share no subjects: along ``population`` stand the
                coordinates recording, species, region and subject, and along ``model_layer`` the
                coordinates model and layer.

        Raises:
            ValueError: the grid is too sparse for that, such as layers that few models share.
        """
        names = ("dataset", "selection", "species", "region", "subject", "model", "layer")
        column = {name: self.table[name].fillna("").astype(str).tolist() for name in names}
        chosen = zip(column["dataset"], column["selection"], strict=True)
        recordings = [f"{name} ({part})" if part else name for name, part in chosen]
        targets = list(zip(column["species"], column["region"], column["subject"], strict=True))
        layers = list(zip(column["model"], column["layer"], strict=True))
        labels: dict[str, list[Any]]
        if stacked:
            populations = [(one, *target) for one, target in zip(recordings, targets, strict=True)]
            labels = {"population": populations, "model_layer": layers}
        else:
            labels = {
                "recording": recordings,
                "target": [" ".join(filter(None, target)) for target in targets],
                "model": column["model"],
                "layer": column["layer"],
            }
        labels["metric"] = list(self.words)
        axes = {name: list(dict.fromkeys(values)) for name, values in labels.items()}
        shape = tuple(map(len, axes.values()))
        if np.prod(shape, dtype=np.float64) > SPARSEST * max(1, len(self.table)):
            advice = "use the table" if stacked else "use stacked=True, or the table"
            raise ValueError(
                f"{len(self.table):,} cells would fill an array of"
                f" {' × '.join(map(str, shape))} ({', '.join(axes)}) too thinly; {advice}"
            )
        place = tuple(
            np.array([where[value] for value in labels[name]], dtype=np.intp)
            for name, values in axes.items()
            for where in [{value: i for i, value in enumerate(values)}]
        )
        arrays = {}
        for name in IN_ARRAYS:
            array = np.full(shape, np.nan)
            array[place] = self.table[name].to_numpy(dtype=np.float64, na_value=np.nan)
            arrays[name] = (tuple(axes), array)
        if not stacked:
            return xr.Dataset(arrays, coords=axes)
        coords: dict[str, Any] = {"metric": axes["metric"]}
        for along, parts in STACKED.items():
            for part, values in zip(parts, zip(*axes[along], strict=True), strict=True):
                coords[part] = (along, np.array(values, dtype=object))
        return xr.Dataset(arrays, coords=coords)

    def rows(self) -> list[dict[str, Any]]:
        """One dict a row, as JSON can hold it."""
        found: list[dict[str, Any]] = json.loads(self.table.to_json(orient="records"))
        for row, exact in zip(found, self.table.to_dict("records"), strict=True):
            for name, value in exact.items():
                if isinstance(value, float):  # with all its digits
                    row[str(name)] = value if np.isfinite(value) else None
            if row["metric_parameters"] is not None:
                row["metric_parameters"] = json.loads(row["metric_parameters"])
        return found

    def save(self, path: str | Path) -> Path:
        """Write the table as .csv, .parquet or .json, by the ending of the path."""
        path = Path(path).expanduser()
        if path.suffix not in WRITERS:
            raise ValueError(f"{path}: expected a name that ends in {', '.join(WRITERS)}")
        write_file(path, WRITERS[path.suffix](self))
        return path


def _as_csv(results: StudyResults) -> str:
    return str(results.table.to_csv(index=False))


def _as_json(results: StudyResults) -> str:
    return json.dumps(results.rows(), indent=1, allow_nan=False)


def _as_parquet(results: StudyResults) -> bytes:
    return bytes(results.table.to_parquet(index=False))


WRITERS: dict[str, Callable[[StudyResults], str | bytes]] = {
    ".csv": _as_csv,
    ".json": _as_json,
    ".parquet": _as_parquet,
}


def collect_study(source: str | Path | Mapping[str, Any] | StudyConfig) -> StudyResults:
    """The results of a study as it is configured now; a stale one is never among them.

    Raises:
        ValueError: the configuration or its grid is wrong, or there is no result yet.
    """
    config = read_study(source)
    grid = build_grid(config)
    stored = read_stored(config.folder)
    say_damaged(stored)
    results = join_results(grid, stored)
    if not len(results.table):
        raise ValueError(
            f"study {config.name} has no results yet in {config.folder}; run it first:"
            " repalign study run STUDY.toml"
        )
    return results


def join_results(grid: Grid, stored: Stored) -> StudyResults:
    """The stored rows of a grid's cells, in its order, with their noise ceilings."""
    import pandas as pd
    import pyarrow as pa

    keys, ceilings, words = [], [], []
    seen: set[str] = set()
    missing = 0
    for block in grid.blocks():
        for target, key in block.keys.items():
            if key in seen:
                continue
            missing += not key
            if key:
                seen.add(key)
                keys.append(key)
                ceilings.append(block.ceilings[target])
                words.append(block.metric)
    place = {key: row for row, key in enumerate(stored.table["key"].to_pylist())}
    rows = np.array([place.get(key, -1) for key in keys], dtype=np.int64)
    there = rows >= 0
    missing += int((~there).sum())
    found = stored.table.take(pa.array(rows[there]))
    bounds = np.array([place.get(key, -1) for key in ceilings], dtype=np.int64)[there]
    known = pa.array(bounds, mask=bounds < 0)
    for name in CEILING:  # taken by place: null where none is known
        found = found.set_column(
            found.column_names.index(name), name, stored.table[name].take(known)
        )
    table = found.select(COLUMNS).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    table["seed"] = grid.inference.seed  # of what draws nothing, the seed counts for nothing
    said = tuple(word for word, fine in zip(words, there, strict=True) if fine)
    return StudyResults(table, missing, said)

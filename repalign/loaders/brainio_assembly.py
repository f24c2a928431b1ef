"""The netCDF file of a BrainIO assembly: its coordinates, and its responses row by row."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from repalign.loaders import lazy
from repalign.loaders.brainio_stimuli import Array, as_column
from repalign.loaders.hdf5 import check_hdf5, open_hdf5
from repalign.recording import NEUROID, PRESENTATION, TIME_BIN

DIMS = (PRESENTATION, NEUROID, TIME_BIN)
BIN_EDGES = ("time_bin_start", "time_bin_end")


@dataclass(frozen=True)
class Assembly:
    """What an assembly file holds; of the large array only its type and shape.

    Args:
        path: of the file.
        variable: name of the data variable.
        sizes: length of each dimension of the data variable, by name.
        dtype: of the data, in the machine's byte order.
        chunk_rows: presentations in a chunk of the file; 0 where it has no chunks.
        columns: coordinates by dimension and name.
        attrs: scalar coordinates and attributes, each after ``brainio_``, and what was not read.
    """

    path: Path
    variable: str
    sizes: dict[str, int]
    dtype: np.dtype[Any]
    chunk_rows: int
    columns: dict[str, dict[str, Array]]
    attrs: dict[str, Any] = field(default_factory=dict)


class TimeBins(NamedTuple):
    """The time bins that are kept, in ms, with their other coordinates."""

    starts: Array
    stops: Array
    columns: dict[str, Array]


def open_assembly(path: Path) -> xr.Dataset:
    """An assembly file as a dataset that is read lazily, with dates left as numbers.

    Raises:
        ValueError, FileNotFoundError: it is damaged, or no netCDF-4 file.
    """
    check_hdf5(path)
    try:
        return xr.open_dataset(path, engine="h5netcdf", decode_times=False, cache=False)
    except Exception as error:  # h5netcdf and xarray raise many types
        raise ValueError(
            f"{path} is HDF5, but no netCDF-4 file as BrainIO writes it: {error}"
        ) from error


def read_assembly(path: Path, variable: str | None) -> Assembly:
    """Read everything but the large array.

    Raises:
        ValueError: there is no data variable over presentation × neuroid [× time_bin].
    """
    with open_assembly(path) as source:
        name = _choose_variable(source, path, variable)
        data = source[name]
        sizes = {str(dim): int(length) for dim, length in data.sizes.items()}
        if 0 in sizes.values():
            raise ValueError(f"{path}: {name} is empty: {sizes}")
        if data.dtype.kind not in "fiub":
            raise ValueError(f"{path}: {name} has type {data.dtype}, expected numbers")
        columns: dict[str, dict[str, Array]] = {dim: {} for dim in DIMS}
        attrs = _attributes(source.attrs | data.attrs)
        not_read = []
        for key in map(str, source.variables):
            if key == name:
                continue
            item = source[key]
            if item.ndim == 1 and item.dims[0] in data.dims:
                columns[str(item.dims[0])][key] = _values(source, key)
            elif item.ndim == 0:
                attrs |= _attributes({key: as_column(_values(source, key).reshape(1))[0]})
            else:
                not_read.append(f"{key} {tuple(map(str, item.dims))}")
        chunks = data.encoding.get("chunksizes")
        chunk_rows = chunks[data.dims.index(PRESENTATION)] if chunks else 0
        kind = np.dtype(np.uint8) if data.dtype.kind == "b" else data.dtype.newbyteorder("=")
    with open_hdf5(path) as file:
        not_read += [f"group {key}" for key in file if hasattr(file.get(key), "keys")]
    if not_read:
        attrs["brainio_not_read"] = not_read
    return Assembly(path, name, sizes, kind, chunk_rows, columns, attrs)


def _choose_variable(source: xr.Dataset, path: Path, variable: str | None) -> str:
    dims = [str(dim) for dim in source.dims]
    if PRESENTATION not in dims:
        raise ValueError(
            f"{path} has no dimension presentation (there is {', '.join(dims) or 'none'}); only"
            " assemblies of presentation × neuroid [× time_bin] are recordings of responses"
        )
    fitting = [
        str(name)
        for name, item in source.data_vars.items()
        if {PRESENTATION, NEUROID} <= set(item.dims) <= set(DIMS)
    ]
    if variable is not None:
        if variable not in fitting:
            raise ValueError(
                f"{path}: variable = {variable!r}, but over presentation × neuroid [× time_bin]"
                f" there is {', '.join(fitting) or 'nothing'}"
            )
        return variable
    if len(fitting) != 1:
        shapes = [f"{name} {tuple(map(str, v.dims))}" for name, v in source.data_vars.items()]
        raise ValueError(
            f"{path} has {len(fitting)} variables over presentation × neuroid [× time_bin]"
            + (
                f"; choose by variable = {fitting[0]!r} under [options]"
                if fitting
                else f" (it has {', '.join(shapes) or 'no variables'}); behavioural choices and"
                " properties of neuroids are no recordings of responses"
            )
        )
    return fitting[0]


def _values(source: xr.Dataset, name: str) -> Array:
    """The values of a coordinate; dates become ISO text."""
    if " since " in str(source[name].attrs.get("units", "")):
        try:
            values = xr.decode_cf(source[[name]].reset_coords())[name].values
        except (ValueError, OverflowError):  # an unknown calendar: the numbers stay
            values = source[name].values
        if values.dtype.kind == "M":
            return np.array([str(value) for value in values.ravel()], object).reshape(values.shape)
    values = source[name].values
    return as_column(values) if values.ndim == 1 else values


def _attributes(found: Any) -> dict[str, Any]:
    """Texts and numbers, each name after ``brainio_``."""
    attrs: dict[str, Any] = {}
    for name, value in found.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, bytes):
            plain = plain.decode("utf-8", errors="replace")
        if isinstance(plain, str | int | float | bool):
            attrs[f"brainio_{name}"] = plain
    return attrs


def read_response(
    assembly: Assembly, window: tuple[float, float] | None, *, average: bool, squeeze: bool
) -> tuple[Any, TimeBins | None, dict[str, Any]]:
    """The responses as presentation × neuroid [× time bin], read when they are needed.

    Args:
        assembly: as `read_assembly` gives it.
        window: start and stop in ms of the time bins that are kept.
        average: average the time bins.
        squeeze: take a single time bin away as a dimension.

    Returns:
        The lazy array; the time bins, if it has any; attributes that tell what was selected.
    """
    path = assembly.path
    if TIME_BIN not in assembly.sizes:
        if window is not None or average or not squeeze:
            raise ValueError(
                f"{path} has no time bins, so window_ms, average_time and squeeze do not apply;"
                " remove them from [options]"
            )
        return _lazy(assembly, None, average=False), None, {}
    bins, chosen = _time_bins(assembly, window)
    attrs: dict[str, Any] = {}
    if window is not None:
        attrs["window_ms"] = [float(edge) for edge in window]
    single = len(chosen) == 1 and squeeze
    if average or single:
        if bins is not None:
            widths = bins.stops - bins.starts
            if not np.allclose(widths, widths[0]):
                raise ValueError(
                    f"{path}: average_time over time bins of {widths.min():g} to"
                    f" {widths.max():g} ms; choose bins of one width by window_ms"
                )
            attrs["time_window_ms"] = [float(bins.starts.min()), float(bins.stops.max())]
        if average:
            attrs["time_bins_averaged"] = len(chosen)
        return _lazy(assembly, chosen, average=True), None, attrs
    return _lazy(assembly, chosen, average=False), bins, attrs


def _time_bins(
    assembly: Assembly, window: tuple[float, float] | None
) -> tuple[TimeBins | None, Array]:
    """The chosen time bins (None: one bin whose edges are unknown) and their places."""
    path, columns = assembly.path, dict(assembly.columns[TIME_BIN])
    count = assembly.sizes[TIME_BIN]
    edges = [columns.pop(name, None) for name in BIN_EDGES]
    starts, stops = edges
    if starts is None or stops is None:
        if count == 1 and window is None:
            return None, np.zeros(1, dtype=np.int64)
        raise ValueError(
            f"{path} has {count} time bins without time_bin_start and time_bin_end, in ms, along"
            " time_bin; add these coordinates to the file"
        )
    for name, values in zip(BIN_EDGES, (starts, stops), strict=True):
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise ValueError(f"{path}: {name} is {values.tolist()[:3]}…, expected numbers in ms")
    if not (starts < stops).all():
        raise ValueError(f"{path}: a time bin ends before it starts; correct the coordinates")
    keep = np.ones(count, dtype=bool)
    if window is not None:
        keep = (starts >= window[0]) & (stops <= window[1])
        if not keep.any():
            raise ValueError(
                f"{path}: no time bin lies wholly in window_ms = {list(window)}; there are"
                f" {count} bins from {starts.min():g} to {stops.max():g} ms, the first one of"
                f" {stops[0] - starts[0]:g} ms"
            )
    chosen = np.flatnonzero(keep)
    others = {name: values[keep] for name, values in columns.items()}
    return TimeBins(starts[keep].astype(float), stops[keep].astype(float), others), chosen


def _lazy(assembly: Assembly, chosen: Array | None, *, average: bool) -> Any:
    """Blocks of presentations; each opens the file, reads a slab of it, and closes it."""
    sizes, dims = assembly.sizes, [dim for dim in DIMS if dim in assembly.sizes]
    path, variable = assembly.path, assembly.variable
    kept = 1 if chosen is None or average else len(chosen)
    dtype = assembly.dtype
    if average and chosen is not None and len(chosen) > 1:
        dtype = np.dtype(np.float32 if dtype.itemsize < 8 and dtype.kind == "f" else np.float64)

    def read_rows(start: int, stop: int) -> Array:
        with open_assembly(path) as source:
            slab = source[variable].isel({PRESENTATION: slice(start, stop)})
            if chosen is not None:  # a slab of neighbours first: netCDF reads lists slowly
                slab = slab.isel({TIME_BIN: slice(chosen[0], chosen[-1] + 1)})
            values: Array = slab.transpose(*dims).values
        if chosen is None:
            return values
        values = values[:, :, chosen - chosen[0]]
        if not average:
            return values
        return values[:, :, 0] if len(chosen) == 1 else values.mean(axis=2, dtype=np.float64)

    shape: tuple[int, ...] = (sizes[PRESENTATION], sizes[NEUROID])
    if chosen is not None and not average:
        shape = (*shape, kept)
    read_bytes = sizes[NEUROID] * (1 if chosen is None else len(chosen)) * assembly.dtype.itemsize
    rows = max(1, lazy.BLOCK_BYTES // read_bytes)
    if 0 < assembly.chunk_rows < rows:  # so that no chunk is unpacked for two blocks
        rows -= rows % assembly.chunk_rows
    row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
    return lazy.lazy_rows(read_rows, shape, dtype, block_bytes=rows * row_bytes)

"""BrainIO's files written: an assembly in netCDF-4, and its stimulus set in csv and zip."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from repalign.loaders.brainio_stimuli import FILE_COLUMNS, ID_COLUMNS, free_name
from repalign.recording import (
    NEUROID,
    PRESENTATION,
    STIMULUS,
    TIME_BIN,
    TIME_BIN_START,
    TIME_BIN_STOP,
    is_rdm_only,
)
from repalign.shards import row_blocks
from repalign.stimuli import Stimuli

Array = np.ndarray[Any, np.dtype[Any]]

OF_THE_STORE = ("store", "fingerprint")  # attributes that are true of a store alone
BRAINIO_NAMES = {TIME_BIN_START: "time_bin_start", TIME_BIN_STOP: "time_bin_end"}
BRAINIO_PREFIX = "brainio_"  # what our loader puts before the attributes of an assembly

# Attributes that netCDF readers act upon: ours of the same name must not change what they read.
NETCDF_ATTRIBUTES = frozenset(
    {
        *("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "coordinates", "dtype", "bounds"),
        *("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "calendar"),
        *("grid_mapping", "ancillary_variables"),
    }
)
IMAGE_SUFFIXES = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "GIF": ".gif",
    "WEBP": ".webp",
}


def write_netcdf(ds: xr.Dataset, path: Path) -> None:
    """netCDF-4, which is HDF5 with the dimensions as scales of the arrays."""
    import h5py

    response, columns = _assembly(ds)
    with h5py.File(path, "w", track_order=True) as file:  # the netCDF library wants the order
        for number, (dim, length) in enumerate(response.sizes.items()):
            scale = file.create_dataset(dim, (length,), ">f4")
            scale.make_scale(f"This is a netCDF dimension but not a netCDF variable. {length:10}")
            scale.attrs["_Netcdf4Dimid"] = np.int32(number)
        for name, column in columns.items():
            values = column_values(column)
            if values.dtype.kind == "O":
                item = file.create_dataset(name, data=values, dtype=h5py.string_dtype())
            elif values.dtype.kind == "b":  # which netCDF has not; xarray marks it so
                item = file.create_dataset(name, data=values.astype(np.int8))
                item.attrs["dtype"] = "bool"
            else:
                item = file.create_dataset(name, data=values, dtype=_netcdf_type(column))
            _attach(file, item, column)
        data = file.create_dataset("response", response.shape, _netcdf_type(response))
        _attach(file, data, response)
        start = 0
        for block in row_blocks(response):
            data[start : start + len(block)] = block
            start += len(block)
        data.attrs["coordinates"] = " ".join(columns)
        for name, value in own_attributes(ds).items():
            is_plain = isinstance(value, str | int | float) and not isinstance(value, bool)
            name = f"attribute_{name}" if name in NETCDF_ATTRIBUTES else name
            data.attrs[name] = value if is_plain else json.dumps(value)


def _assembly(ds: xr.Dataset) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """The responses, and the coordinates by the names that BrainIO gives them.

    Raises:
        ValueError: something that a BrainIO assembly cannot hold.
    """
    if is_rdm_only(ds):
        raise ValueError(
            ".nc holds responses, and this recording holds RDMs only; export it as .npz or .h5"
        )
    response = ds["response"]
    if response.dims not in ((PRESENTATION, NEUROID), (PRESENTATION, NEUROID, TIME_BIN)):
        raise ValueError(
            f"response has dimensions {response.dims}, expected (presentation, neuroid[, time_bin])"
        )
    if STIMULUS not in ds.coords:
        raise ValueError(
            ".nc needs stimulus_id on presentation, and this recording's rows have no names; give"
            " them by ds.assign_coords, or export it as .npz"
        )
    others = [str(name) for name in ds.data_vars if name != "response"]
    others += [str(n) for n in ds.coords if not set(ds[n].dims) <= set(response.dims)]
    if others:
        raise ValueError(
            f".nc holds response and its coordinates; drop {', '.join(others)} (ds.drop_vars), or"
            " export it as .npz"
        )
    names = {str(name): BRAINIO_NAMES.get(str(name), str(name)) for name in ds.coords}
    bad = [n for n, new in names.items() if not re.fullmatch(r"[^\s/]+", new) or n in response.dims]
    bad += [n for n, new in names.items() if new != n and new in names]
    if bad:
        better = {n: re.sub(r"[\s/]+", "_", n) for n in bad}
        better |= {n: f"{n}_name" for n, new in better.items() if n == new}
        raise ValueError(
            f"a BrainIO file cannot hold coordinates of these names; rename them, such as by"
            f" ds.rename({better})"
        )
    return response, {new: ds[name] for name, new in names.items()}


def _netcdf_type(variable: xr.DataArray) -> np.dtype[Any]:
    kind = variable.dtype.newbyteorder("=")
    if kind == np.float16:
        return np.dtype(np.float32)
    if kind.kind not in "fiu" or kind.itemsize > 8:
        raise ValueError(f"netCDF has no type {kind} for {variable.name!r}; convert it by astype")
    return kind


def _attach(file: Any, item: Any, variable: xr.DataArray) -> None:
    for axis, dim in enumerate(variable.dims):
        item.dims[axis].attach_scale(file[str(dim)])


def write_stimuli(stimuli: Stimuli, shown: Sequence[str], table: Path, images: Path) -> None:
    """The image files of the stimuli that were shown, as they are, and what is known of them.

    Raises:
        ValueError: there is no image of one of them, or a file of an unknown kind.
    """
    wanted, known = set(shown), set(stimuli.ids)
    missing = [name for name in shown if name not in known]
    if missing:
        raise ValueError(
            f"no image for {len(missing)} of {len(shown)} stimuli, such as {missing[0]!r}"
        )
    rows = [row for row, name in enumerate(stimuli.ids) if name in wanted]
    columns: dict[str, list[Any]] = {}
    for name, values in stimuli.table.items():
        new = free_name(name, {*ID_COLUMNS, *FILE_COLUMNS, *columns}, "stimulus")
        columns[new] = values.tolist()
    taken: set[str] = set()
    with (
        zipfile.ZipFile(images, "w") as archive,
        table.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow([ID_COLUMNS[0], FILE_COLUMNS[0], *columns])
        for row in rows:
            content = stimuli.files[row]
            name = _file_name(stimuli.ids[row], content, taken)
            archive.writestr(zipfile.ZipInfo(name), content)
            writer.writerow([stimuli.ids[row], name, *(c[row] for c in columns.values())])


def _file_name(stimulus: str, content: bytes, taken: set[str]) -> str:
    """A name for an image file that no other has, by its stimulus' id and its content."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(content)) as opened:
            suffix = IMAGE_SUFFIXES[str(opened.format)]
    except (OSError, KeyError) as error:
        raise ValueError(
            f"the image of stimulus {stimulus!r} is none of {', '.join(IMAGE_SUFFIXES)} ({error})"
        ) from error
    stem = re.sub(r"[^\w.+-]", "_", stimulus).lstrip("._")[:200] or "stimulus"
    if Path(stem).suffix.lower() in (suffix, ".jpeg", ".tiff"):
        stem = Path(stem).stem
    name, number = f"{stem}{suffix}", 1
    while name.casefold() in taken:
        name, number = f"{stem}_{number}{suffix}", number + 1
    taken.add(name.casefold())
    return name


def as_assembly(ds: xr.Dataset, name: str) -> xr.Dataset:
    """The recording with the identifiers of an assembly: its own if it was read from one."""
    theirs = {n: v for n, v in ds.attrs.items() if str(n).startswith(BRAINIO_PREFIX)}
    ours = {n: v for n, v in ds.attrs.items() if n not in theirs}
    identifier = str(ours.get("dataset") or name)
    attrs = {"identifier": identifier, "stimulus_set_identifier": f"{identifier}_stimuli"}
    attrs |= {str(n).removeprefix(BRAINIO_PREFIX): v for n, v in theirs.items()} | ours
    bare = ds.copy()
    bare.attrs = attrs
    return bare


def own_attributes(ds: xr.Dataset) -> dict[str, Any]:
    """The attributes of a recording that stay true outside of its store."""
    return {str(name): v for name, v in ds.attrs.items() if name not in OF_THE_STORE}


def column_values(variable: xr.DataArray) -> Array:
    """The values of a coordinate: numbers as they are, text as an object array.

    Raises:
        ValueError: they are neither.
    """
    values = np.asarray(variable.values)
    if values.dtype.kind in "fiub":
        return values
    texts: Array = values.astype(object)
    wrong = [value for value in texts.ravel().tolist() if not isinstance(value, str)]
    if wrong:
        raise ValueError(
            f"coordinate {variable.name!r} holds {wrong[0]!r}, neither a number nor text; convert"
            f' it, such as by ds["{variable.name}"].astype(str), or drop it'
        )
    return texts

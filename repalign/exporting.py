"""Recordings as files of other tools: BrainIO's netCDF-4, NumPy's .npz, rsatoolbox's HDF5."""

from __future__ import annotations

import json
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xarray as xr

from repalign.brainio_files import (
    as_assembly,
    column_values,
    own_attributes,
    write_netcdf,
    write_stimuli,
)
from repalign.recording import IMAGE_HASH, is_rdm_only, stimulus_ids
from repalign.rsatoolbox_objects import save_rsatoolbox
from repalign.shards import row_blocks
from repalign.stimuli import GROUP, Stimuli, open_stimuli
from repalign.store import has_group

ABOUT = "about"  # the array of an .npz file that says what the others are


def export(
    ds: xr.Dataset,
    path: str | Path,
    *,
    stimuli: Stimuli | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a recording as a file that other tools read; the ending of its name says which.

    - ``.nc``: an assembly as BrainIO, the packaging format of Brain-Score, has it. The images go
      beside it, as ``NAME_stimuli.csv`` and ``NAME_stimuli.zip``. The loader ``brainio`` reads the
      three back, and ``xarray.open_dataarray(path, engine="h5netcdf")`` the first. Attributes that
      are no number or text are JSON text there; half precision becomes single.
    - ``.npz``: one array a variable and coordinate, text of fixed width, and ``about``, JSON text
      with the dimensions of each array and the attributes. ``numpy.load`` reads it, without pickle.
    - ``.h5``: what `rsatoolbox.data.load_dataset` reads, or `rsatoolbox.rdm.load_rdm` where the
      recording holds RDMs only (see `repalign.rsatoolbox_objects.to_rsatoolbox`).

    A recording that is lazily opened goes into ``.nc`` and ``.npz`` a block of presentations at a
    time; ``.h5`` needs it in memory. Each file is written under a temporary name and then renamed.

    Args:
        ds: the recording; of a selection only what is left is written.
        path: of the file.
        stimuli: images for ``.nc``; those of the recording's store by default.
        overwrite: replace files that are there.

    Returns:
        The files that were written.

    Raises:
        FileExistsError: there is one of them, and ``overwrite`` is false.
        ValueError: an unknown ending, or what the format cannot hold.

    Example:
        >>> import tempfile
        >>> from repalign.recording import make_recording
        >>> ds = make_recording(np.zeros((2, 3)), stimulus_id=["a", "b"], region="IT")
        >>> [file] = export(ds, Path(tempfile.mkdtemp()) / "zeros.npz")
        >>> np.load(file)["response"].shape
        (2, 3)
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ValueError(
            f"{path}: expected a name that ends in {', '.join(FORMATS)} (BrainIO, NumPy,"
            " rsatoolbox); save_recording writes a store, NAME.zarr"
        )
    if not is_rdm_only(ds) and "response" not in ds:
        raise ValueError("not a recording: it has neither 'response' nor 'rdm'")
    if ending == ".nc":
        stimuli = _stored_stimuli(ds) if stimuli is None else stimuli
    elif stimuli is not None:
        raise ValueError(f"{path}: images go beside .nc files only; leave stimuli out")
    tables = [path.with_name(f"{path.stem}_stimuli{end}") for end in (".csv", ".zip")]
    files = [*(tables if stimuli is not None else ()), path]
    there = [file for file in files if file.exists()]
    if there and not overwrite:
        raise FileExistsError(f"{there[0]} exists; pass overwrite=True (--overwrite) to replace it")
    with _publishing(files) as temporary:
        if stimuli is not None:
            write_stimuli(stimuli, stimulus_ids(ds), *temporary[:2])
            ds = ds.drop_vars(IMAGE_HASH, errors="ignore")  # known again when the zip is read
            if stimuli.visual_degrees is not None:
                ds = ds.assign_attrs({"visual_degrees": stimuli.visual_degrees} | ds.attrs)
        if ending == ".nc":
            ds = as_assembly(ds, path.stem)
        FORMATS[ending](ds, temporary[-1])
    return files


@contextmanager
def _publishing(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Temporary names for files, which take their places in this order when all are written."""
    temporary = [file.with_name(f".{file.name}.tmp-{uuid.uuid4().hex}") for file in files]
    for folder in {file.parent for file in files}:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        for written, file in zip(temporary, files, strict=True):
            written.replace(file)
    finally:
        for written in temporary:
            written.unlink(missing_ok=True)


def _stored_stimuli(ds: xr.Dataset) -> Stimuli | None:
    store = ds.attrs.get("store")
    return open_stimuli(ds) if store is not None and has_group(store, GROUP) else None


def _write_npz(ds: xr.Dataset, path: Path) -> None:
    """An .npz file, a block at a time, which numpy.savez cannot do."""
    if ABOUT in ds.variables:
        raise ValueError(f".npz files have an array {ABOUT!r} of their own; rename yours")
    about = {
        "dims": {str(name): ds[name].dims for name in ds.variables},
        "attrs": own_attributes(ds),
    }
    with zipfile.ZipFile(path, "w") as archive:
        _write_npy(archive, ABOUT, xr.DataArray(json.dumps(about)))
        for name in ds.variables:
            _write_npy(archive, str(name), ds[name])


def _write_npy(archive: zipfile.ZipFile, name: str, variable: xr.DataArray) -> None:
    if variable.dtype.kind in "fiub":
        dtype, blocks = variable.dtype, row_blocks(variable)
    else:
        texts = column_values(variable)
        fixed = texts.astype(str)
        if fixed.tolist() != texts.tolist():
            raise ValueError(f"{name!r} has text that ends in a NUL, which .npz cannot hold")
        dtype, blocks = fixed.dtype, iter([fixed])
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": variable.shape,
    }
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for block in blocks:
            member.write(block.astype(dtype, copy=False).tobytes())


FORMATS: dict[str, Callable[[xr.Dataset, Path], None]] = {
    ".nc": write_netcdf,
    ".npz": _write_npz,
    ".h5": save_rsatoolbox,
}

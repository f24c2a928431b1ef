"""Folders of features that Net2Brain or thingsvision wrote, as the layers of a network.

Net2Brain, ``.npz`` files in one folder:

- one a layer, ``consolidated_LAYER.npz``, with an array a stimulus; or
- one a stimulus, ``STIMULUS.npz``, with an array a layer.

thingsvision, one folder a module, ``MODULE/features.npy`` (or ``.hdf5``, ``.txt``, ``.mat``), or in
parts, ``features_01.npy``, ``features_02.npy``… or ``features_0-96.npy``, ``features_96-192.npy``…;
``file_names.txt``, in the folder of the module or the one above, names the stimuli, a line each. A
single module's own folder may be given too.

Nothing is unpickled: ``.pt`` and ``.pkl`` files are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import xarray as xr

from repalign.loaders.hdf5 import open_hdf5
from repalign.loaders.mat5 import read_mat5
from repalign.recording import make_activations
from repalign.stimuli import SUFFIXES, natural_key

Array = np.ndarray[Any, np.dtype[Any]]

CONSOLIDATED = "consolidated_"
FILE_NAMES = "file_names.txt"
PART = re.compile(r"features(?:_.+)?\.(npy|hdf5|txt|mat|pt|pkl)")
MAT_ENDINGS = re.compile(r"\.(eps|jpe?g|png|PNG|tiff?)$")  # that thingsvision takes away
PICKLED = (".pt", ".pkl")
REFUSAL = (
    "repalign unpickles nothing, as that can run code. Save it where it was made:"
    ' np.save("features.npy", torch.load("features.pt").numpy())'
)


def read_feature_folder(
    folder: str | Path, *, layers: str | Sequence[str] | None = None, model: str | None = None
) -> dict[str, xr.Dataset]:
    """Activations from a folder that Net2Brain or thingsvision wrote, by layer.

    A stimulus is called like its image file, without folder and ending; with them where two would
    be called alike. Without ``file_names.txt`` the rows of thingsvision's features have no names,
    and match a recording's stimuli by order. More axes than one a stimulus are flattened; the
    attribute ``shape`` keeps them.

    Args:
        folder: with the files; see the top of this module.
        layers: which layers; all by default.
        model: name of the model; the folder's by default.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds nothing of the kind, or what it holds is damaged, pickled, NaN, or not
            alike from stimulus to stimulus.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.savez(folder / "consolidated_relu1.npz", cat=np.zeros((1, 2)), dog=np.ones((1, 2)))
        >>> read_feature_folder(folder)["relu1"]["stimulus_id"].values.tolist()
        ['cat', 'dog']
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    wanted = None if layers is None else [layers] if isinstance(layers, str) else list(layers)
    is_net2brain = any(path.suffix == ".npz" for path in folder.iterdir())
    found = _net2brain(folder) if is_net2brain else _thingsvision(folder)
    unknown = [name for name in wanted or () if name not in found]
    if unknown:
        raise ValueError(f"{folder} has no layer {unknown[0]!r}; there are {', '.join(found)}")
    return {
        name: _activations(folder, *found[name](), model or folder.resolve().name, name)
        for name in wanted or found
    }


Layer = Callable[[], tuple[list[str] | None, Array]]


def _activations(
    folder: Path, ids: list[str] | None, features: Array, model: str, layer: str
) -> xr.Dataset:
    if features.dtype.kind not in "fiub" or features.ndim < 2 or not features.size:
        raise ValueError(
            f"{folder}: layer {layer!r} has type {features.dtype} and shape {features.shape};"
            " expected numbers, stimulus × unit"
        )
    if ids is not None and len(ids) != len(features):
        raise ValueError(
            f"{folder}: layer {layer!r} has features of {len(features)} stimuli, and {FILE_NAMES}"
            f" has {len(ids)} lines; take the one that was written with these features"
        )
    flat = features.reshape(len(features), -1)
    bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
    if bad.size:
        which = f"row {bad[0]}" if ids is None else repr(ids[bad[0]])
        raise ValueError(
            f"{folder}: layer {layer!r} has NaN or infinite values for {bad.size} stimuli (first"
            f" {which}); leave them out, or extract them again"
        )
    return make_activations(flat, ids, model, layer, features.shape[1:])


def _names(paths: Sequence[str], source: Path) -> list[str]:
    """Stimulus ids from the names of image files."""

    def bare(path: str) -> str:
        end = PurePosixPath(path).suffix
        return path.removesuffix(end) if end.lower() in SUFFIXES else path

    slashed = [path.replace("\\", "/") for path in paths]
    names = [bare(PurePosixPath(path).name) for path in slashed]
    names = names if len(set(names)) == len(names) else slashed
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{source} names {twice!r} twice; each stimulus has one row of features")
    return names


def _arrays(path: Path) -> dict[str, Array]:
    """All arrays of an .npz file."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # of damaged files numpy and zipfile raise many types
        pickled = "allow_pickle" in str(error)
        reason = "it holds Python objects, which are not unpickled" if pickled else str(error)
        raise ValueError(f"{path} is no readable .npz file: {reason}") from error


def _net2brain(folder: Path) -> dict[str, Layer]:
    files = sorted(folder.glob("*.npz"), key=lambda path: natural_key(path.name))
    merged = [path for path in files if path.name.startswith(CONSOLIDATED)]
    if merged:
        if len(merged) != len(files):
            other = next(path for path in files if path not in merged)
            raise ValueError(
                f"{folder} holds {merged[0].name} and {other.name}: some layers are consolidated"
                " and some stimuli are not; keep one kind in the folder"
            )

        def layer_file(path: Path) -> Layer:
            def read() -> tuple[list[str], Array]:
                arrays = _arrays(path)
                keys = sorted(arrays, key=natural_key)
                return _names(keys, path), _stack(path, [(k, arrays[k]) for k in keys])

            return read

        return {path.stem.removeprefix(CONSOLIDATED): layer_file(path) for path in merged}
    layers = list(_arrays(files[0]))
    ids = _names([path.stem for path in files], folder)

    def layer_of_all(layer: str) -> Layer:
        def read() -> tuple[list[str], Array]:
            return ids, _stack(folder, _from_each(files, layer))

        return read

    return {layer: layer_of_all(layer) for layer in layers}


def _from_each(files: Sequence[Path], layer: str) -> Iterator[tuple[str, Array]]:
    """One layer of each stimulus' file; the others are not unpacked."""
    for path in files:
        try:
            with np.load(path, allow_pickle=False) as archive:
                names, array = archive.files, archive[layer] if layer in archive.files else None
        except Exception as error:
            raise ValueError(f"{path} is no readable .npz file: {error}") from error
        if array is None:
            raise ValueError(
                f"{path} has no layer {layer!r}, which {files[0].name} has; it has"
                f" {', '.join(names) or 'none'}: extract this stimulus again, or leave it out"
            )
        yield path.name, array


def _stack(source: Path, arrays: Any) -> Array:
    """Arrays of one stimulus each, under each other; a batch axis of one goes away."""
    rows: list[Array] = []
    for name, array in arrays:
        row = array[0] if array.ndim > 1 and len(array) == 1 else np.atleast_1d(array)
        if rows and row.shape != rows[0].shape:
            raise ValueError(
                f"{source}: features of {name} have shape {row.shape}, those before it"
                f" {rows[0].shape}; pool features of several lengths before they are saved"
            )
        rows.append(row)
    if not rows:
        raise ValueError(f"{source} holds no arrays")
    return np.stack(rows)


def _thingsvision(folder: Path) -> dict[str, Layer]:
    def layer(place: Path, parts: list[Path]) -> Layer:
        return lambda: _merged(place, parts)

    found: dict[str, Layer] = {}
    for place in [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]:
        parts = [path for path in place.iterdir() if PART.fullmatch(path.name)]
        name = folder.resolve().name if place == folder else place.relative_to(folder).as_posix()
        if parts:
            found[name] = layer(place, sorted(parts, key=lambda path: natural_key(path.name)))
    if not found:
        raise ValueError(
            f"{folder} holds neither Net2Brain's .npz files nor thingsvision's features.npy (.hdf5,"
            " .txt, .mat), in it or in a folder for each module"
        )
    return found


def _merged(place: Path, parts: list[Path]) -> tuple[list[str] | None, Array]:
    """The features of one module, its parts under each other."""
    kinds = {path.suffix for path in parts}
    whole = [path for path in parts if path.stem == "features"]
    if len(kinds) > 1 or (whole and len(parts) > 1):
        raise ValueError(
            f"{place} holds {', '.join(path.name for path in parts)}: the same features twice, it"
            " seems; keep one kind of file"
        )
    if kinds & set(PICKLED):
        raise ValueError(f"{parts[0]}: {REFUSAL}")
    listed = _listed(place)
    if ".mat" in kinds:
        return listed, _from_mat(place, parts)
    arrays = [array for path in parts for array in _read_part(path)]
    if any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"{place}: the parts of the features have shapes {shapes}; expected alike")
    return listed, np.concatenate(arrays)


def _listed(place: Path) -> list[str] | None:
    """The stimuli that ``file_names.txt`` names."""
    path = next((p for p in (place / FILE_NAMES, place.parent / FILE_NAMES) if p.is_file()), None)
    if path is None:
        return None
    return _names(_lines(path), path)


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def _read_part(path: Path) -> list[Array]:
    try:
        if path.suffix == ".hdf5":
            with open_hdf5(path) as file:
                return [file[name][()] for name in sorted(file, key=natural_key)]
        if path.suffix == ".txt":
            return [np.loadtxt(path, ndmin=2)]
        return [np.load(path, allow_pickle=False)]
    except Exception as error:  # of damaged files the libraries raise many types
        pickled = "allow_pickle" in str(error)
        reason = "it holds Python objects, which are not unpickled" if pickled else str(error)
        raise ValueError(f"{path} is no readable {path.suffix} file: {reason}") from error


def _from_mat(place: Path, parts: list[Path]) -> Array:
    """A variable ``features``; or one a stimulus, where file_names.txt was there to name it."""
    if len(parts) > 1:
        raise ValueError(
            f"{place} holds {len(parts)} parts in .mat files; save the features as .npy instead"
        )
    own = place / FILE_NAMES
    if not own.is_file():
        return read_mat5(parts[0], ["features"])[0]
    variables = [MAT_ENDINGS.sub("", line) for line in _lines(own)]
    if any("." in name for name in variables):
        raise ValueError(
            f"{parts[0]}: its variables are called like the stimuli, and the . in a name is that of"
            " a field in MATLAB; save the features as .npy instead"
        )
    return _stack(parts[0], zip(variables, read_mat5(parts[0], variables), strict=True))

"""Generic arrays: responses in npy, npz or csv, images in a folder or zip, optional tables.

File roles of the card:

- ``responses``: the array (``.npy``, ``.npz`` or ``.csv``); needed.
- ``images``: a folder or a zip; image files in natural order of their names are the stimuli.
- ``stimuli``: a csv with one row a stimulus, in the order of the array; the columns
  ``stimulus_id`` and ``filename`` are used, all others become labels.
- ``neuroids``: a csv with one row a neuroid; the columns ``neuroid_id``, ``region``,
  ``subject`` and ``species`` are used, each where it exists.

Options of the card: see `Options`.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from repalign.cards import DatasetCard
from repalign.loaders.options import LoaderOptions, read_options
from repalign.recording import make_recording
from repalign.stimuli import Stimuli, read_images

if TYPE_CHECKING:
    import pandas as pd

STIMULUS_AXIS, NEUROID_AXIS, REPETITION_AXIS = "stimulus", "neuroid", "repetition"
RESERVED = {
    *("stimulus_id", "stimulus", "presentation", "repetition", "response", "rdm", "time_bin"),
    *("neuroid", "neuroid_id", "species", "subject", "region", "session", "image_sha256"),
    *("data", "start", "stop", "byte"),
}
ROLES = ("responses", "images", "stimuli", "neuroids")


class Options(LoaderOptions):
    """What a card may say under ``[options]``.

    Attributes:
        dims: meaning of the array's axes, in order: ``stimulus``, ``neuroid`` and, where there
            is one, ``repetition``. May be left out where the number of images tells.
        variable: which array of an npz.
        subject: name of the subject, where no neuroids table gives it.
        missing: what to do about NaN: raise an ``error``, ``drop_neuroids`` or
            ``drop_stimuli``. Repetitions that are NaN in every neuroid were never shown and
            are left out in any case.
    """

    dims: tuple[Literal["stimulus", "neuroid", "repetition"], ...] | None = None
    variable: str | None = None
    subject: str = "subject-1"
    missing: Literal["error", "drop_neuroids", "drop_stimuli"] = "error"


def read(card: DatasetCard, files: Mapping[str, Path]) -> tuple[xr.Dataset, Stimuli | None]:
    """Read one response array, its images and its tables."""
    options = read_options(card, Options)
    if "responses" not in files or set(files) - set(ROLES):
        raise ValueError(
            f"card {card.path}: [files] has {', '.join(files) or 'nothing'}; the loader 'arrays'"
            f" needs 'responses' and knows {', '.join(ROLES)}"
        )
    array, header_ids = read_array(files["responses"], options.variable)
    images = read_images(files["images"]) if "images" in files else None
    table = _read_table(files["stimuli"]) if "stimuli" in files else None
    n_stimuli = len(table) if table is not None else None if images is None else len(images)
    array = _arrange(array, options.dims, n_stimuli, files["responses"])

    stimuli_count = array.shape[1]
    known = _known_ids(table, header_ids, files)
    names = _match_images(images, table, known, stimuli_count, files)
    ids = known or _invented_ids(card, names, stimuli_count)
    neuroids = _neuroid_columns(card, files, options, array.shape[2])
    labels = _labels(table)

    keep_stimuli = np.ones(stimuli_count, dtype=bool)
    keep_neuroids = np.ones(array.shape[2], dtype=bool)
    shown = ~np.isnan(array).all(axis=2)
    bad = np.isnan(array) & shown[:, :, None]
    if options.missing == "drop_neuroids":
        keep_neuroids = ~bad.any(axis=(0, 1))
    elif options.missing == "drop_stimuli":
        keep_stimuli = ~bad.any(axis=(0, 2)) & shown.any(axis=0)
    elif not shown.any(axis=0).all():
        never = np.flatnonzero(~shown.any(axis=0))
        raise ValueError(
            f"{files['responses']}: {len(never)} stimuli have NaN in every neuroid (first"
            f' {ids[never[0]]!r}); correct the file or set missing = "drop_stimuli"'
        )
    if not keep_stimuli.any() or not keep_neuroids.any():
        raise ValueError(f"{files['responses']}: NaN everywhere; nothing is left to keep")
    repeat, stimulus = np.nonzero((shown & keep_stimuli).T)[::-1]
    recording = make_recording(
        array[repeat, stimulus][:, keep_neuroids],
        stimulus_id=[ids[i] for i in stimulus],
        repetition=_count(stimulus),
        presentation={name: column[stimulus] for name, column in labels.items()},
        **{name: values[keep_neuroids] for name, values in neuroids.items()},
    )
    if images is None:
        return recording, None
    kept = np.flatnonzero(keep_stimuli)
    stimuli = Stimuli(
        tuple(ids[i] for i in kept),
        [images[names[i]] for i in kept],
        card.stimuli.visual_degrees,
        {name: column[kept] for name, column in labels.items()},
    )
    return recording, stimuli


def _count(values: np.ndarray[Any, Any]) -> list[int]:
    """How often each value stood before."""
    seen: dict[Any, int] = {}
    counts = []
    for value in values.tolist():
        counts.append(seen.get(value, 0))
        seen[value] = counts[-1] + 1
    return counts


def read_array(
    path: Path, variable: str | None
) -> tuple[np.ndarray[Any, Any], Sequence[str] | None]:
    """The numeric array of a .npy, .npz or .csv file, and stimulus ids where a csv has them."""
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".csv"):
        raise ValueError(f"{path}: expected responses in .npy, .npz or .csv")
    if variable is not None and suffix != ".npz":
        raise ValueError(f"{path}: variable = {variable!r} applies to .npz files only")
    if suffix == ".csv":
        return _read_csv(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                loaded = loaded[_choose_variable(path, loaded.files, variable)]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no file {path}") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if str(path) in str(error):
            raise
        reason = "it holds Python objects" if "pickle" in str(error) else str(error)
        raise ValueError(f"{path} is no readable {suffix} file: {reason}") from error
    if loaded.ndim < 2:
        raise ValueError(f"{path} has shape {loaded.shape}, expected two or more axes")
    if loaded.dtype.kind not in "fiub":
        raise ValueError(f"{path} has type {loaded.dtype}, expected numbers")
    dtype = loaded.dtype if loaded.dtype in (np.float32, np.float64) else np.float64
    return np.asarray(loaded, dtype=dtype), None


def array_names(path: Path) -> list[str | None]:
    """The arrays of an .npz; of other files the one that has no name."""
    if path.suffix.lower() != ".npz":
        return [None]
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no file {path}") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no readable .npz file: {error}") from error


def _choose_variable(path: Path, names: Sequence[str], variable: str | None) -> str:
    if variable is None and len(names) != 1:
        raise ValueError(
            f'{path} holds {", ".join(names)}; choose one (variable = "…" under [options] of a'
            " dataset card), or save it as .npy"
        )
    if variable is not None and variable not in names:
        raise ValueError(f"{path} has no {variable!r}; it holds {', '.join(names)}")
    return variable or names[0]


def _read_csv(path: Path) -> tuple[np.ndarray[Any, Any], Sequence[str] | None]:
    import pandas as pd

    try:
        first = path.read_text(encoding="utf-8-sig").partition("\n")[0].split(",")
        has_header = any(not _is_number(cell) for cell in first)
        frame = pd.read_csv(path, header=0 if has_header else None)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is no readable csv: {error}") from error
    if has_header and not first[0].strip():
        raise ValueError(
            f"{path}: the first column has no name and may be row numbers; name it stimulus_id or"
            " leave it out"
        )
    ids = None
    if has_header and "stimulus_id" in frame.columns:
        ids = [str(value) for value in frame.pop("stimulus_id")]
    wrong = [str(name) for name in frame.columns if frame[name].dtype.kind not in "fiub"]
    if wrong:
        raise ValueError(f"{path}: column {wrong[0]!r} is not numeric")
    return frame.to_numpy(dtype=np.float64), ids


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip() or "nan")
    except ValueError:
        return False
    return True


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(path, dtype={"stimulus_id": str, "filename": str, "neuroid_id": str})
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is no readable csv: {error}") from error


def _arrange(
    array: np.ndarray[Any, Any],
    dims: Sequence[str] | None,
    n_stimuli: int | None,
    path: Path,
) -> np.ndarray[Any, Any]:
    """Bring the array to repetition × stimulus × neuroid."""
    if dims is None:
        dims = _guess_dims(array, n_stimuli, path)
    wanted = {STIMULUS_AXIS, NEUROID_AXIS, *({REPETITION_AXIS} if array.ndim == 3 else ())}
    if len(dims) != array.ndim or set(dims) != wanted:
        raise ValueError(
            f"{path} has shape {array.shape}, which does not fit dims = {list(dims)};"
            " name each axis once: stimulus, neuroid and, with three axes, repetition"
        )
    if REPETITION_AXIS not in dims:
        array, dims = array[None], (REPETITION_AXIS, *dims)
    order = [tuple(dims).index(name) for name in (REPETITION_AXIS, STIMULUS_AXIS, NEUROID_AXIS)]
    array = array.transpose(order)
    if n_stimuli is not None and array.shape[1] != n_stimuli:
        raise ValueError(
            f"{path} has {array.shape[1]} stimuli (shape {array.shape[1:]} as stimulus × neuroid),"
            f" but there are {n_stimuli} images or rows in the stimuli table"
        )
    return array


def _guess_dims(array: np.ndarray[Any, Any], n_stimuli: int | None, path: Path) -> tuple[str, ...]:
    fits = [axis for axis, length in enumerate(array.shape) if length == n_stimuli]
    if n_stimuli is not None and not fits:
        raise ValueError(
            f"{path} has shape {array.shape}, and none of its axes has the {n_stimuli} stimuli of"
            " the images or the stimuli table"
        )
    if array.ndim != 2 or len(fits) != 1:
        example = '["neuroid", "stimulus"' + (', "repetition"]' if array.ndim == 3 else "]")
        raise ValueError(
            f"{path} has shape {array.shape}"
            + (f" for {n_stimuli} stimuli" if n_stimuli is not None else "")
            + f"; say what its axes are under [options], in their order: dims = {example}"
        )
    return (STIMULUS_AXIS, NEUROID_AXIS) if fits[0] == 0 else (NEUROID_AXIS, STIMULUS_AXIS)


def _match_images(
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


def _known_ids(
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


def _invented_ids(card: DatasetCard, names: Sequence[str], n_stimuli: int) -> list[str]:
    """Ids from the file names; without images they carry the card's name, to match nothing else."""
    if not names:
        return [f"{card.name}/{i:04d}" for i in range(n_stimuli)]
    stems = [Path(name).stem for name in names]
    unique = len(set(stems)) == len(stems)
    return stems if unique else [str(Path(name).with_suffix("")) for name in names]


def _labels(table: pd.DataFrame | None) -> dict[str, np.ndarray[Any, Any]]:
    """All other columns of the stimuli table; text as text, numbers as numbers."""
    if table is None:
        return {}
    used = ("stimulus_id", "filename")
    taken = [str(name) for name in table.columns if name in RESERVED and name not in used]
    if taken:
        raise ValueError(f"the stimuli table has a column {taken[0]!r}, a name of ours; rename it")
    labels = {}
    for name in table.columns:
        if name not in used:
            values = table[name].to_numpy()
            is_number = values.dtype.kind in "fiub"
            labels[str(name)] = (
                values if is_number else np.array([str(v) for v in values], dtype=object)
            )
    return labels


def _neuroid_columns(
    card: DatasetCard, files: Mapping[str, Path], options: Options, n_neuroids: int
) -> dict[str, Any]:
    """neuroid_id, region, subject and species of every neuroid."""
    columns: dict[str, Any] = {
        "neuroid_id": np.array([f"neuroid-{i:04d}" for i in range(n_neuroids)], object)
    }
    table = _read_table(files["neuroids"]) if "neuroids" in files else None
    if table is not None and len(table) != n_neuroids:
        raise ValueError(
            f"{files['neuroids']} has {len(table)} rows for {n_neuroids} neuroids of"
            f" {files['responses'].name}"
        )
    single = {"region": card.regions, "species": card.species, "subject": (options.subject,)}
    for name, values in single.items():
        if table is None or name not in table.columns:
            if len(values) != 1:
                raise ValueError(
                    f"card {card.path}: {len(values)} entries of {name}; say which neuroid is"
                    f" which by a neuroids table with a column {name!r}"
                )
            columns[name] = np.array([values[0]] * n_neuroids, dtype=object)
    for name in (*single, "neuroid_id"):
        if table is not None and name in table.columns:
            columns[name] = np.array([str(value) for value in table[name]], dtype=object)
    return columns

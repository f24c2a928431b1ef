"""Images with labels for the task term: digits, folders, torchvision data sets, Zarr stores."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from repalign.network_cards import Preprocessing
from repalign.stimuli import SUFFIXES, decode, natural_key
from repalign.training.task_images import (
    ImageSet,
    ReadImages,
    TaskData,
    TensorImages,
    check_labels,
    stratified_split,
)

__all__ = [
    "TASKS",
    "ImageSet",
    "ReadImages",
    "TaskData",
    "TensorImages",
    "check_labels",
    "load_task",
    "stratified_split",
]

TRAIN_FOLDERS = ("train", "training")
VALIDATION_FOLDERS = ("val", "valid", "validation", "test")


def load_task(
    data: str,
    *,
    preprocessing: Preprocessing,
    validation: float = 0.2,
    root: str | Path | None = None,
    download: bool = False,
) -> TaskData:
    """Labelled images by the word of a configuration.

    ``digits`` are scikit-learn's 1797 scanned digits (8×8): a fixed fifth is the test part, and
    the share ``validation`` of the rest the validation part. ``imagefolder:PATH`` has a folder a
    class, or ``train`` and ``val`` with a folder a class each. ``torchvision:NAME`` is a
    classification data set of torchvision in the folder ``root``; its own test images are the
    test part. ``zarr:PATH`` is a Zarr group with ``images`` (uint8, image × height × width × 1
    or 3) and ``labels``. Splits are stratified by class and the same in every run.

    Args:
        data: one of the words above.
        preprocessing: of the network; its mean and std are left to the network.
        validation: share of the training images to hold out where the data has no such part.
        root: folder of torchvision's files.
        download: whether torchvision may fetch what is missing.

    Raises:
        ValueError: an unknown word, or data without images, labels or classes.
        FileNotFoundError: the folder, the store or torchvision's files are missing.

    Example:
        >>> task = load_task("digits", preprocessing=Preprocessing(size=(8, 8)))
        >>> len(task.train), len(task.validation), len(task.test)
        (1151, 287, 359)

    References:
        Digits: Alpaydin & Kaynak (1998). Optical recognition of handwritten digits. UCI machine
        learning repository. DOI 10.24432/C50P49.
    """
    kind, _, rest = data.partition(":")
    if kind not in TASKS:
        raise ValueError(f"no task data {data!r}; there are {', '.join(TASKS)}")
    pixels = preprocessing.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    options = {"validation": validation, "root": root, "download": download}
    return TASKS[kind](rest, pixels, options)


def _digits(rest: str, preprocessing: Preprocessing, options: Mapping[str, Any]) -> TaskData:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images / 16).float()[:, None]
    if preprocessing.size != (8, 8):
        images = F.interpolate(images, preprocessing.size, mode="bilinear", align_corners=False)
    images = images.expand(-1, 3, -1, -1)
    labels = torch.from_numpy(found.target).long()
    others, test = stratified_split(found.target, 0.2)
    kept, held_out = stratified_split(found.target[others], options["validation"])

    def part(rows: np.ndarray[Any, Any]) -> TensorImages:
        return TensorImages(images[rows], labels[rows])

    return TaskData(
        name="digits",
        train=part(others[kept]),
        validation=part(others[held_out]),
        test=part(test),
        classes=tuple(map(str, range(10))),
    )


def _image_folder(rest: str, preprocessing: Preprocessing, options: Mapping[str, Any]) -> TaskData:
    folder = Path(rest).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"task data {rest!r}: no such folder")
    parts = {path.name.lower(): path for path in folder.iterdir()}
    train = next((parts[name] for name in TRAIN_FOLDERS if name in parts), None)
    held_out = next((parts[name] for name in VALIDATION_FOLDERS if name in parts), None)
    if (train is None) != (held_out is None):
        raise ValueError(
            f"{folder} has {(train or held_out or folder).name!r} alone; expected a folder a class,"
            f" or {TRAIN_FOLDERS[0]!r} and {VALIDATION_FOLDERS[0]!r}"
        )
    paths, labels, classes = _class_folders(train or folder)

    def part(files: Sequence[Path], rows: Sequence[int], values: Sequence[int]) -> ReadImages:
        return ReadImages(partial(_read_file, files), rows, values, preprocessing)

    if held_out is None:
        kept, rest_of = stratified_split(labels, options["validation"])
        learned = part(paths, kept.tolist(), [labels[row] for row in kept])
        watched = part(paths, rest_of.tolist(), [labels[row] for row in rest_of])
    else:
        other_paths, other_labels, other_classes = _class_folders(held_out)
        if not set(other_classes) <= set(classes):
            extra = sorted(set(other_classes) - set(classes))
            raise ValueError(f"{held_out} has the class {extra[0]!r}, which {train} has not")
        of_train = [classes.index(other_classes[label]) for label in other_labels]
        learned = part(paths, range(len(paths)), labels)
        watched = part(other_paths, range(len(other_paths)), of_train)
    return TaskData(name=folder.name, train=learned, validation=watched, classes=tuple(classes))


def _class_folders(folder: Path) -> tuple[list[Path], list[int], list[str]]:
    """Image files, their labels, and the names of the classes, in natural order."""
    classes = sorted((p.name for p in folder.iterdir() if p.is_dir()), key=natural_key)
    classes = [name for name in classes if not name.startswith(".")]
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted((folder / name).rglob("*"), key=lambda path: natural_key(str(path)))
        files = [path for path in files if path.suffix.lower() in SUFFIXES]
        if not files:
            raise ValueError(f"{folder / name} holds no images ({', '.join(SUFFIXES)})")
        paths += files
        labels += [label] * len(files)
    if len(classes) < 2:
        raise ValueError(f"{folder} has {len(classes)} class folders, expected 2 or more")
    return paths, labels, classes


def _torchvision(rest: str, preprocessing: Preprocessing, options: Mapping[str, Any]) -> TaskData:
    from repalign.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision import datasets

    kind = getattr(datasets, rest, None)
    names = set(inspect.signature(kind).parameters) if inspect.isclass(kind) else set()
    word = next((word for word in ("train", "split") if word in names), None)
    if kind is None or word is None:
        raise ValueError(
            f"task data 'torchvision:{rest}': expected a classification data set of"
            " torchvision.datasets that has a train and a test part, such as CIFAR10"
        )
    if options["download"] and os.environ.get("REPALIGN_OFFLINE", "") not in ("", "0"):
        raise ValueError("task.download = true, but REPALIGN_OFFLINE is set; unset one of them")
    extra = {"download": options["download"]} if "download" in names else {}
    found = []
    for value in {"train": (True, False), "split": ("train", "test")}[word]:
        try:
            found.append(kind(root=str(options["root"]), **{word: value}, **extra))
        except (RuntimeError, OSError) as error:
            remedy = (
                "check the network, or put the files there by hand"
                if options["download"]
                else "set task.download = true to fetch it, or point task.root at its files"
            )
            raise FileNotFoundError(
                f"torchvision's {rest} is not whole in {options['root']}: {error}; {remedy}"
            ) from error
    train, test = found
    labels = [_labels_of(one) for one in found]
    kept, held_out = stratified_split(labels[0], options["validation"])

    def part(source: Any, rows: Sequence[int], values: Sequence[int]) -> ReadImages:
        return ReadImages(partial(_read_item, source), rows, values, preprocessing)

    return TaskData(
        name=rest,
        train=part(train, kept.tolist(), [labels[0][row] for row in kept]),
        validation=part(train, held_out.tolist(), [labels[0][row] for row in held_out]),
        test=part(test, range(len(labels[1])), labels[1]),
        classes=tuple(getattr(train, "classes", None) or map(str, sorted(set(labels[0])))),
    )


def _labels_of(dataset: Any) -> list[int]:
    """The labels of a torchvision data set, without decoding images where it keeps a list."""
    for name in ("targets", "labels", "_labels", "y"):
        if hasattr(dataset, name):
            return [int(value) for value in getattr(dataset, name)]
    return [int(dataset[index][1]) for index in range(len(dataset))]


def _zarr(rest: str, preprocessing: Preprocessing, options: Mapping[str, Any]) -> TaskData:
    import zarr

    path = Path(rest).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"task data 'zarr:{rest}': no such store")
    group: Any = zarr.open_group(str(path), mode="r")
    missing = [name for name in ("images", "labels") if name not in group]
    if missing:
        raise ValueError(f"{path} has no array {missing[0]!r}; expected 'images' and 'labels'")
    images, labels = group["images"], np.asarray(group["labels"][:])
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(
            f"{path}: images have shape {images.shape} and type {images.dtype},"
            " expected uint8 of image × height × width × 1 or 3"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: labels have shape {labels.shape} and type {labels.dtype} for"
            f" {images.shape[0]} images; expected one integer an image"
        )
    kept, held_out = stratified_split(labels, options["validation"])

    def part(rows: np.ndarray[Any, Any]) -> ReadImages:
        read = partial(_read_row, images)
        return ReadImages(read, rows.tolist(), labels[rows].tolist(), preprocessing)

    names = group.attrs.get("classes") or [str(i) for i in range(int(labels.max()) + 1)]
    return TaskData(
        name=path.stem,
        train=part(kept),
        validation=part(held_out),
        classes=tuple(map(str, names)),
    )


def _read_file(files: Sequence[Path], index: int) -> np.ndarray[Any, Any]:
    return decode(files[index].read_bytes(), str(files[index]))


def _read_item(source: Any, index: int) -> np.ndarray[Any, Any]:
    return np.array(source[index][0].convert("RGB"))


def _read_row(images: Any, index: int) -> np.ndarray[Any, Any]:
    row = images[index]
    return np.broadcast_to(row, (*row.shape[:2], 3)).copy()


TASKS: dict[str, Callable[[str, Preprocessing, Mapping[str, Any]], TaskData]] = {
    "digits": _digits,
    "imagefolder": _image_folder,
    "torchvision": _torchvision,
    "zarr": _zarr,
}

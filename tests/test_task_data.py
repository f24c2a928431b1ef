"""Images with labels: sources, splits, order and augmentation."""

from __future__ import annotations

import doctest
import gzip
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from repalign.network_cards import Preprocessing
from repalign.stimuli import encode_png
from repalign.training import augmentation, task_batches, task_data, task_images
from repalign.training.augmentation import AUGMENTATIONS, make_augmentations
from repalign.training.task_batches import epoch_order, iterate_batches, read_batch, seeded
from repalign.training.task_data import (
    TaskData,
    TensorImages,
    check_labels,
    load_task,
    stratified_split,
)

SMALL = Preprocessing(size=(8, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))


def picture(value: int, side: int = 12) -> np.ndarray[Any, Any]:
    return np.full((side, side, 3), value, dtype=np.uint8)


def test_examples_run() -> None:
    for module in (augmentation, task_batches, task_images):
        assert doctest.testmod(module).failed == 0
    assert doctest.testmod(task_data).failed == 0


def test_digits_are_split_once_and_without_overlap() -> None:
    from sklearn.datasets import load_digits

    task = load_task("digits", preprocessing=SMALL)
    parts = [task.train, task.validation, task.test]
    assert sum(len(part) for part in parts if part is not None) == 1797
    pixels = torch.cat([part.images[:, 0].flatten(1) for part in parts])  # type: ignore[union-attr]
    original = torch.from_numpy(load_digits().data / 16).float()
    assert torch.equal(pixels.unique(dim=0), original.unique(dim=0))
    assert torch.equal(task.train[0][0][0], task.train[0][0][2])  # grey, whatever the mean and std
    counts = torch.bincount(task.validation.labels)  # type: ignore[attr-defined]
    assert counts.min() >= 28
    assert counts.max() <= 30
    again = load_task("digits", preprocessing=SMALL)
    assert task.fingerprint() == again.fingerprint()
    other = load_task("digits", preprocessing=SMALL, validation=0.1)
    assert task.fingerprint() != other.fingerprint()
    larger = load_task("digits", preprocessing=Preprocessing(size=(16, 16)))
    assert larger.train[0][0].shape == (3, 16, 16)


def test_stratified_split_leaves_each_class_in_both_parts() -> None:
    labels = [0] * 10 + [1] * 2 + [2]
    kept, held_out = stratified_split(labels, 0.3)
    assert sorted([*kept, *held_out]) == list(range(13))
    found = np.array(labels)[held_out]
    assert [int((found == label).sum()) for label in (0, 1, 2)] == [3, 1, 0]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for label, name in enumerate(["cat", "dog2", "dog10"]):
        for part, number in (("train", 4), ("val", 2)):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(number):
                (folder / f"{i}.png").write_bytes(encode_png(picture(50 * label + 10 * i)))
    return tmp_path


def test_image_folders_give_pixels_and_labels(folders: Path) -> None:
    task = load_task(f"imagefolder:{folders}", preprocessing=SMALL)
    assert task.classes == ("cat", "dog2", "dog10")  # as people count
    assert (len(task.train), len(task.validation)) == (12, 6)
    image, label = task.train[5]
    assert label == 1
    torch.testing.assert_close(image, torch.full((3, 8, 8), 60 / 255))
    alone = load_task(f"imagefolder:{folders / 'train'}", preprocessing=SMALL, validation=0.5)
    assert (len(alone.train), len(alone.validation)) == (6, 6)


def test_image_folders_that_do_not_fit_are_refused(folders: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_task(f"imagefolder:{folders / 'none'}", preprocessing=SMALL)
    (folders / "val" / "eel").mkdir()
    with pytest.raises(ValueError, match="eel holds no images"):
        load_task(f"imagefolder:{folders}", preprocessing=SMALL)
    (folders / "val" / "eel" / "a.png").write_bytes(encode_png(picture(1)))
    with pytest.raises(ValueError, match="has the class 'eel', which .*train has not"):
        load_task(f"imagefolder:{folders}", preprocessing=SMALL)
    (folders / "val").rename(folders / "unseen")
    with pytest.raises(ValueError, match="has 'train' alone; expected a folder a class"):
        load_task(f"imagefolder:{folders}", preprocessing=SMALL)
    (folders / "one" / "cat").mkdir(parents=True)
    (folders / "one" / "cat" / "a.png").write_bytes(encode_png(picture(1)))
    with pytest.raises(ValueError, match="1 class folders, expected 2 or more"):
        load_task(f"imagefolder:{folders / 'one'}", preprocessing=SMALL)


def write_mnist(root: Path) -> None:
    """Twenty training and ten test images in MNIST's own file format."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for stem, n in (("train", 20), ("t10k", 10)):
        pixels = np.repeat(np.arange(n, dtype=np.uint8), 28 * 28)
        images = struct.pack(">IIII", 2051, n, 28, 28) + pixels.tobytes()
        labels = struct.pack(">II", 2049, n) + bytes(i % 10 for i in range(n))
        for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{stem}-{kind}-ubyte").write_bytes(content)
            (folder / f"{stem}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))


def test_torchvision_data_are_read_from_their_files(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    task = load_task("torchvision:MNIST", preprocessing=SMALL, root=tmp_path, validation=0.5)
    assert task.test is not None
    assert (len(task.train), len(task.validation), len(task.test)) == (10, 10, 10)
    image, label = task.test[7]
    assert label == 7
    torch.testing.assert_close(image, torch.full((3, 8, 8), 7 / 255))
    assert len(task.classes) == 10


def test_torchvision_data_are_fetched_only_with_consent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="set task.download = true to fetch it"):
        load_task("torchvision:MNIST", preprocessing=SMALL, root=tmp_path)
    assert os.environ["REPALIGN_OFFLINE"] == "1"
    with pytest.raises(ValueError, match="REPALIGN_OFFLINE is set"):
        load_task("torchvision:MNIST", preprocessing=SMALL, root=tmp_path, download=True)
    with pytest.raises(ValueError, match="expected a classification data set"):
        load_task("torchvision:FakeData", preprocessing=SMALL, root=tmp_path)
    with pytest.raises(ValueError, match="expected a classification data set"):
        load_task("torchvision:Nothing", preprocessing=SMALL, root=tmp_path)


def write_zarr(path: Path, images: Any, labels: Any) -> Path:
    group = zarr.open_group(str(path), mode="w")
    group.create_array("images", data=images)
    group.create_array("labels", data=labels)
    return path


def test_zarr_images_are_read_row_by_row(tmp_path: Path) -> None:
    labels = np.arange(20) % 4
    images = np.broadcast_to(10 * np.arange(20)[:, None, None, None], (20, 9, 9, 1))
    path = write_zarr(tmp_path / "a.zarr", images.astype(np.uint8), labels)
    task = load_task(f"zarr:{path}", preprocessing=SMALL, validation=0.25)
    assert (len(task.train), len(task.validation)) == (16, 4)
    for part in (task.train, task.validation):
        for index in range(len(part)):
            image, label = part[index]
            row = round(image.mean().item() * 255 / 10)
            assert label == labels[row]
    batches = list(iterate_batches(task.train, [[0, 3], [5]], workers=1))
    assert torch.equal(batches[0][0][1], task.train[3][0])
    assert [len(labels) for _, labels in batches] == [2, 1]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((4, 8, 8, 3)), np.zeros(4, int), "expected uint8 of image × height × width"),
        (np.zeros((4, 3, 8, 8), np.uint8), np.zeros(4, int), "expected uint8 of image"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.zeros(3, int), r"labels have shape \(3,\).*4 images"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4), "expected one integer an image"),
    ],
)
def test_zarr_that_does_not_fit_is_refused(
    images: Any, labels: Any, message: str, tmp_path: Path
) -> None:
    path = write_zarr(tmp_path / "a.zarr", images, labels)
    with pytest.raises(ValueError, match=message):
        load_task(f"zarr:{path}", preprocessing=SMALL)


def test_other_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such store"):
        load_task(f"zarr:{tmp_path / 'none.zarr'}", preprocessing=SMALL)
    zarr.open_group(str(tmp_path / "b.zarr"), mode="w")
    with pytest.raises(ValueError, match="has no array 'images'"):
        load_task(f"zarr:{tmp_path / 'b.zarr'}", preprocessing=SMALL)
    with pytest.raises(ValueError, match="no task data 'cifar'; there are digits"):
        load_task("cifar", preprocessing=SMALL)
    with pytest.raises(ValueError, match="3 labels for 2 images"):
        TensorImages(torch.zeros(2, 3, 8, 8), torch.zeros(3, dtype=torch.int64))
    few = TensorImages(torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="the train part has no images"):
        TaskData(name="a", train=few, validation=few, classes=())


@pytest.mark.parametrize(("label", "wrong"), [(10, 10), (-1, -1)])
def test_labels_out_of_range_name_both_numbers(label: int, wrong: int) -> None:
    with pytest.raises(ValueError, match=f"has the label {wrong}, and the network has 10 outputs"):
        check_labels(torch.tensor([0, label]), 10, "train")
    check_labels(torch.tensor([0, 9]), 10, "train")


def test_order_is_a_function_of_seed_and_epoch() -> None:
    orders = [epoch_order(50, seed=s, epoch=e) for s in (0, 1) for e in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert epoch_order(50, seed=1, epoch=1) == orders[3]


def test_augmentation_depends_on_the_image_not_on_its_batch_or_worker() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(12, 3, 8, 8, generator=generator)
    images = TensorImages(pixels, torch.arange(12))
    changes = make_augmentations(
        {"random_crop": {"padding": 2}, "flip": {}, "noise": {}, "colour": {}, "resized_crop": {}}
    )
    how: dict[str, Any] = {"augmentations": changes, "seed": 3}
    first, _ = read_batch(images, [0, 1, 2, 3], **how, epoch=5)
    again, _ = read_batch(images, [3, 7], **how, epoch=5)
    assert torch.equal(first[3], again[0])
    assert not torch.equal(first, read_batch(images, [0, 1, 2, 3], **how, epoch=6)[0])
    state = torch.get_rng_state()
    [(worked, _)] = iterate_batches(images, [[0, 1, 2, 3]], **how, epoch=5, workers=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(worked, first)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_augmentations_keep_shape_and_range(name: str) -> None:
    (change,) = make_augmentations({name: {}})
    image = torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(0))
    kept = image.clone()
    changed = [change(image, seeded(i)) for i in range(8)]
    assert torch.equal(image, kept)
    assert any(not torch.equal(one, image) for one in changed)
    for one in changed:
        assert one.shape == image.shape
        assert 0 <= one.min() <= one.max() <= 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nois": {}}, "no augmentation 'nois'; there are .*did you mean 'noise'"),
        ({"noise": {"std": 1}}, "'noise' has no parameter 'std'; there are sd"),
        ({"noise": {"sd": 0}}, "noise: sd is 0, expected more than 0"),
        ({"noise": {"sd": "much"}}, "'noise': sd is 'much', expected a number"),
        ({"random_crop": {"padding": 1.5}}, "padding is 1.5, expected a whole number"),
        ({"random_crop": {"padding": 0}}, "padding is 0, expected 1 or more"),
        ({"resized_crop": {"least": 2}}, "least is 2, expected a share"),
        ({"flip": {"probability": 2}}, "probability is 2, expected 0 to 1"),
        ({"colour": {"contrast": -1}}, "contrast is -1, expected 0 to 1"),
    ],
)
def test_augmentations_that_do_not_fit_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_augmentations(given)

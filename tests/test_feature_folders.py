"""Folders of features, written with the calls that Net2Brain and thingsvision use for it."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from repalign.loaders import feature_folders
from repalign.loaders.feature_folders import read_feature_folder

NAMES = ["img1", "img2", "img10"]


@pytest.fixture
def layers(random: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "features.0": random.normal(size=(3, 2, 4, 4)).astype(np.float32),
        "fc": random.normal(size=(3, 5)).astype(np.float32),
    }


def separate(folder: Path, layers: dict[str, np.ndarray], suffix: str = "") -> None:
    """A file a stimulus, each array with the batch axis of one that extraction leaves."""
    for row, name in enumerate(NAMES):
        np.savez(folder / f"{name}{suffix}.npz", **{k: v[row : row + 1] for k, v in layers.items()})


def consolidated(folder: Path, layers: dict[str, np.ndarray]) -> None:
    for layer, values in layers.items():
        stimuli = {name: values[row : row + 1] for row, name in enumerate(NAMES)}
        np.savez_compressed(folder / f"consolidated_{layer}.npz", **stimuli)


@pytest.mark.parametrize("write", [separate, consolidated])
def test_net2brain_is_read_bit_for_bit(
    tmp_path: Path, layers: dict[str, np.ndarray], write: Callable[..., None]
) -> None:
    write(tmp_path, layers)
    found = read_feature_folder(tmp_path, model="AlexNet")
    assert set(found) == set(layers)
    for name, ds in found.items():
        assert ds["stimulus_id"].values.tolist() == NAMES
        assert ds["response"].dtype == np.float32
        np.testing.assert_array_equal(ds["response"].values, layers[name].reshape(3, -1))
        assert ds.attrs["shape"] == list(layers[name].shape[1:])
        assert (ds.attrs["model"], ds.attrs["layer"]) == ("AlexNet", name)


def test_endings_of_images_are_no_part_of_the_names(
    tmp_path: Path, layers: dict[str, np.ndarray]
) -> None:
    separate(tmp_path, layers, ".jpg")  # older versions of Net2Brain
    assert read_feature_folder(tmp_path)["fc"]["stimulus_id"].values.tolist() == NAMES


def test_layers_are_chosen(tmp_path: Path, layers: dict[str, np.ndarray]) -> None:
    consolidated(tmp_path, layers)
    assert list(read_feature_folder(tmp_path, layers="fc")) == ["fc"]
    assert list(read_feature_folder(tmp_path, layers=["fc", "features.0"])) == ["fc", "features.0"]
    with pytest.raises(ValueError, match=re.escape("no layer 'fd'; there are fc, features.0")):
        read_feature_folder(tmp_path, layers="fd")


def file_names(folder: Path) -> None:
    (folder / "file_names.txt").write_text("".join(f"a/b/{name}.jpg\n" for name in NAMES))


def save(folder: Path, values: np.ndarray, ending: str) -> None:
    """As thingsvision's save_features does."""
    folder.mkdir(parents=True, exist_ok=True)
    if ending == "npy":
        np.save(folder / "features.npy", values)
    elif ending == "txt":
        np.savetxt(folder / "features.txt", values)
    elif ending == "hdf5":
        with h5py.File(folder / "features.hdf5", "w") as file:
            file.create_dataset("features", data=values)
    else:
        scipy.io.savemat(folder / "features.mat", {"features": values})


@pytest.mark.parametrize("ending", ["npy", "hdf5", "txt", "mat"])
@pytest.mark.parametrize("named", [False, True])
def test_thingsvision_is_read_with_equal_values(
    tmp_path: Path, layers: dict[str, np.ndarray], ending: str, named: bool
) -> None:
    for name, values in layers.items():
        save(tmp_path / name, values.reshape(3, -1) if ending == "txt" else values, ending)
    if named:
        file_names(tmp_path)
    found = read_feature_folder(tmp_path)
    assert list(found) == ["fc", "features.0"]
    for name, ds in found.items():
        np.testing.assert_array_equal(ds["response"].values, layers[name].reshape(3, -1))
        assert ("stimulus_id" in ds.coords) is named
        if named:
            assert ds["stimulus_id"].values.tolist() == NAMES
        if ending != "txt":
            assert ds.attrs["shape"] == list(layers[name].shape[1:])


def test_a_mat_file_with_a_variable_a_stimulus_is_read(
    tmp_path: Path, layers: dict[str, np.ndarray]
) -> None:
    for name, values in layers.items():
        place = tmp_path / name
        place.mkdir()
        (place / "file_names.txt").write_text("\n".join(f"{stimulus}.png" for stimulus in NAMES))
        scipy.io.savemat(place / "features.mat", dict(zip(NAMES, values, strict=True)))
    for name, ds in read_feature_folder(tmp_path).items():
        np.testing.assert_array_equal(ds["response"].values, layers[name].reshape(3, -1))
        assert ds["stimulus_id"].values.tolist() == NAMES
    (tmp_path / "fc" / "file_names.txt").write_text("a.b.png\n")
    with pytest.raises(ValueError, match="save the features as .npy instead"):
        read_feature_folder(tmp_path, layers="fc")


def test_parts_are_joined_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(12, 2)
    for number in range(12):
        np.save(tmp_path / f"features_{number + 1:02d}.npy", values[number : number + 1])
    found = read_feature_folder(tmp_path)
    assert list(found) == [tmp_path.name]
    np.testing.assert_array_equal(found[tmp_path.name]["response"].values, values)
    module = tmp_path / "other" / "conv1"
    module.mkdir(parents=True)
    for start, stop in ((0, 9), (9, 10), (10, 12)):
        np.save(module / f"features_train_{start}-{stop}.npy", values[start:stop])
    found = read_feature_folder(tmp_path / "other")
    np.testing.assert_array_equal(found["conv1"]["response"].values, values)
    (module.parent / "h").mkdir()
    with h5py.File(module.parent / "h" / "features.hdf5", "w") as file:
        for number in range(12):
            file[f"features_{number + 1:02d}"] = values[number : number + 1]
    found = read_feature_folder(module.parent)
    np.testing.assert_array_equal(found["h"]["response"].values, values)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    (tmp_path / "fc").mkdir()
    torch.save(torch.eye(3), tmp_path / "fc" / "features.pt")
    with pytest.raises(ValueError, match=re.escape("features.pt: repalign unpickles nothing")):
        read_feature_folder(tmp_path)
    (tmp_path / "fc" / "features.pt").unlink()
    objects = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "fc" / "features.npy", objects, allow_pickle=True)
    with pytest.raises(ValueError, match="holds Python objects, which are not unpickled"):
        read_feature_folder(tmp_path)
    np.savez(tmp_path / "consolidated_fc.npz", img1=objects)
    with pytest.raises(ValueError, match="holds Python objects, which are not unpickled"):
        read_feature_folder(tmp_path)


def test_bad_folders_are_refused(tmp_path: Path, layers: dict[str, np.ndarray]) -> None:
    def refuses(message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            read_feature_folder(tmp_path)
        assert str(tmp_path) in str(error.value)

    with pytest.raises(FileNotFoundError, match="no folder"):
        read_feature_folder(tmp_path / "none")
    refuses("neither Net2Brain's .npz files nor thingsvision's features.npy")
    separate(tmp_path, layers)
    np.savez(tmp_path / "img2.npz", fc=layers["fc"][:1])
    refuses("img2.npz has no layer 'features.0', which img1.npz has; it has fc")
    np.savez(tmp_path / "img2.npz", **{"fc": np.zeros((1, 4)), "features.0": np.zeros((1, 2))})
    refuses("features of img2.npz have shape (2,), those before it (2, 4, 4)")
    (tmp_path / "img2.npz").write_bytes(b"PK")
    refuses("img2.npz is no readable .npz file")
    consolidated(tmp_path, layers)
    refuses("some layers are consolidated and some stimuli are not")


def test_bad_features_are_refused(tmp_path: Path) -> None:
    def refuses(values: np.ndarray, message: str) -> None:
        save(tmp_path, values, "npy")
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            read_feature_folder(tmp_path)
        assert str(tmp_path) in str(error.value)

    refuses(np.zeros(3), "has type float64 and shape (3,); expected numbers, stimulus × unit")
    refuses(np.full((3, 2), np.nan), "NaN or infinite values for 3 stimuli (first row 0)")
    file_names(tmp_path)
    refuses(np.zeros((4, 2)), "features of 4 stimuli, and file_names.txt has 3 lines")
    (tmp_path / "file_names.txt").write_text("a.png\na.png\n")
    refuses(np.zeros((2, 2)), "names 'a.png' twice")
    (tmp_path / "features.txt").write_text("1 2\n")
    refuses(np.zeros((2, 2)), "the same features twice, it seems")


def test_stimuli_of_one_name_in_two_folders_keep_the_folders(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", np.eye(2))
    (tmp_path / "file_names.txt").write_text("cats\\1.png\ndogs/1.png\n")
    [ds] = read_feature_folder(tmp_path).values()
    assert ds["stimulus_id"].values.tolist() == ["cats/1.png", "dogs/1.png"]


def test_the_example_runs() -> None:
    assert doctest.testmod(feature_folders).failed == 0

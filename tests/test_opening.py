"""A recording of one's own as a store."""

from pathlib import Path

import numpy as np
import pytest

import repalign as ra
from repalign.scenes import make_scenes
from repalign.stimuli import Stimuli, encode_png, open_stimuli


def test_a_saved_recording_is_read_by_its_path(tmp_path: Path, random: np.random.Generator) -> None:
    values = random.normal(size=(3, 4))
    recording = ra.make_recording(values, stimulus_id=["a", "b", "c"], region="IT")
    saved = ra.save_recording(recording, str(tmp_path / "mine.zarr"))
    np.testing.assert_array_equal(saved["response"], values)
    assert saved.attrs["dataset"] == "mine"
    assert "dataset" not in recording.attrs
    with pytest.raises(FileExistsError, match="overwrite"):
        ra.save_recording(recording, tmp_path / "mine.zarr")
    half = ra.save_recording(ra.select(saved, stimulus_id="a"), tmp_path / "half.zarr")
    assert (half.sizes["presentation"], half.attrs["dataset"]) == (1, "mine")
    assert half.attrs["store"] == str(tmp_path / "half.zarr")
    assert all(check.passed for check in ra.verify_store(tmp_path / "half.zarr", progress=False))


def test_images_go_with_a_saved_recording(tmp_path: Path, random: np.random.Generator) -> None:
    scenes = make_scenes(3, size=32)
    images = Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])
    recording = ra.make_recording(
        random.normal(size=(3, 2)), stimulus_id=list(scenes.stimulus_id), region="IT"
    )
    saved = ra.save_recording(recording, tmp_path / "seen.zarr", stimuli=images)
    np.testing.assert_array_equal(open_stimuli(saved).image(1), images.image(1))
    with pytest.raises(ValueError, match="no image for stimulus 'scene-0002'"):
        ra.save_recording(recording, tmp_path / "b.zarr", stimuli=images.subset(images.ids[:2]))


def test_what_is_no_recording_is_not_saved(tmp_path: Path) -> None:
    values = np.array([[1.0, np.nan]])
    recording = ra.make_recording(values, stimulus_id=["a"], region="IT")
    with pytest.raises(ValueError, match="NaN or infinite"):
        ra.save_recording(recording, tmp_path / "a.zarr")
    with pytest.raises(ValueError, match=r"ends in \.zarr"):
        ra.save_recording(recording, tmp_path / "a.nc")
    assert not list(tmp_path.glob("*.zarr"))

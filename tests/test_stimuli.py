"""Images by id: decoded as published, refused where they are corrupt."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repalign.recording import make_recording
from repalign.stimuli import (
    GROUP,
    Stimuli,
    decode,
    encode_png,
    natural_key,
    open_stimuli,
    read_images,
    stimuli_to_dataset,
)
from repalign.store import open_store, write_store


def png(random: np.random.Generator, height: int = 20, width: int = 30) -> bytes:
    return encode_png(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_file(image: Image.Image, form: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def test_files_of_any_size_come_back_from_a_store_byte_for_byte(
    tmp_path: Path, random: np.random.Generator
) -> None:
    files = [png(random, 10 + i, 12) for i in range(7)]
    table = {"category": np.array(list("abcdefg"), dtype=object), "size": np.arange(7)}
    stimuli = Stimuli(tuple(f"s{i}" for i in range(7)), files, 8.0, table)
    recording = make_recording(np.zeros((7, 2)), stimulus_id=stimuli.ids, region="IT")
    path = tmp_path / "a.zarr"
    write_store(path, {"": recording, GROUP: stimuli_to_dataset(stimuli)}, provenance={})
    read = open_stimuli(open_store(path))
    assert read.ids == stimuli.ids
    assert [read.files[i] for i in range(7)] == files
    assert read.visual_degrees == 8.0
    assert read.table["category"].tolist() == list("abcdefg")
    assert read.fingerprint() == stimuli.fingerprint()
    np.testing.assert_array_equal(read.image(3), stimuli.image(3))
    part = read.subset(["s5", "s1"])
    assert part.files[0] == files[5]
    assert part.table["size"].tolist() == [5, 1]


def test_recording_without_images_says_so() -> None:
    recording = make_recording(np.zeros((1, 1)), stimulus_id=["a"], region="IT")
    with pytest.raises(ValueError, match="this recording has no images"):
        open_stimuli(recording)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "I;16", "RGBA", "LA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        file = as_file(Image.fromarray(np.full((4, 5), 65535, dtype=np.uint16)))
    else:
        image = Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode)
        file = as_file(image, "tiff" if mode == "CMYK" else "png")
    decoded = decode(file, "x")
    assert decoded.shape == (4, 5, 3)
    assert decoded.dtype == np.uint8
    assert (decoded == 255).all()


def test_transparency_lies_over_mid_grey() -> None:
    file = as_file(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))
    assert (decode(file, "x") == 127).all()


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_corrupt_image_is_named(random: np.random.Generator, form: str) -> None:
    noise = Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    file = as_file(noise, form)
    with pytest.raises(ValueError, match="the image of stimulus 'dog-3' is corrupt"):
        decode(file[: len(file) // 2], "dog-3")
    with pytest.raises(ValueError, match="not an image file"):
        decode(b"no image at all", "dog-3")


def test_natural_order_puts_2_before_10() -> None:
    names = ["image10.png", "image2.png", "image1.png", "a.png"]
    assert sorted(names, key=natural_key) == ["a.png", "image1.png", "image2.png", "image10.png"]


def test_zip_is_read_in_natural_order_without_the_clutter_of_some_systems(
    tmp_path: Path, random: np.random.Generator
) -> None:
    files = {f"images/image{i}.png": png(random) for i in (10, 9, 1)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("__MACOSX/images/._image1.png", b"clutter")
        archive.writestr("images/.hidden.png", b"clutter")
        archive.writestr("readme.txt", b"text")
    found = read_images(tmp_path / "a.zip")
    assert list(found) == ["images/image1.png", "images/image9.png", "images/image10.png"]
    assert found["images/image9.png"] == files["images/image9.png"]


def test_archive_cannot_write_outside(tmp_path: Path, random: np.random.Generator) -> None:
    box = tmp_path / "box"
    box.mkdir()
    with zipfile.ZipFile(box / "a.zip", "w") as archive:
        archive.writestr("../escaped.png", png(random))
        archive.writestr("/absolute.png", png(random))
        archive.writestr("fine.png", png(random))
    assert "fine.png" in read_images(box / "a.zip")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "box"]


def test_damaged_and_empty_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="damaged or encrypted zip"):
        read_images(tmp_path / "a.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        read_images(tmp_path / "empty")


def test_ids_are_unique_and_as_many_as_images(random: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="2 stimulus ids for 1 images"):
        Stimuli(("a", "b"), [png(random)])
    with pytest.raises(ValueError, match="'a' stands twice"):
        Stimuli(("a", "a"), [png(random)] * 2)
    with pytest.raises(ValueError, match="no image for 1 stimuli, such as 'z'"):
        Stimuli(("a",), [png(random)]).subset(["z"])

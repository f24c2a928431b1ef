"""NIfTI volumes: what is damaged or lies on another grid is refused, 4D data is read lazily."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from repalign.card_schemas import DatasetCard
from repalign.cards import load_dataset_card
from repalign.loaders import volumes
from repalign.loaders.volumes import (
    check_same_grid,
    find_voxels,
    open_nifti,
    read_label_names,
    read_voxel_rows,
)

AFFINE = np.array([[-3.0, 0, 0, 60], [0, 3, 0, -30], [0, 0, 4, 5], [0, 0, 0, 1]])


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def card_with(folder: Path, regions: str = '"VT"') -> DatasetCard:
    path = folder / "study.toml"
    path.write_text(
        f'name = "study"\nspecies = "human"\nregions = {regions}\nloader = "haxby2001"\n'
        '[files]\nbold = "bold.nii.gz"\n'
    )
    return load_dataset_card(path)


@pytest.fixture
def bold(tmp_path: Path, random: np.random.Generator) -> Path:
    values = random.integers(-2000, 2000, (4, 5, 3, 11)).astype(np.int16)
    return save(tmp_path / "bold.nii.gz", values)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_of_each_volume_are_read_bit_for_bit(
    tmp_path: Path, suffix: str, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = random.standard_normal((4, 5, 3, 11)).astype(np.float32)
    path = save(tmp_path / f"x{suffix}", values)
    monkeypatch.setattr(volumes, "RAW_BYTES", 2 * 60 * 8)
    ijk = np.array([[0, 0, 0], [3, 4, 2], [1, 2, 0]])
    found = read_voxel_rows(path, ijk, 3, 10)
    np.testing.assert_array_equal(found, values[tuple(ijk.T)].T[3:10])


def test_scaled_integers_are_scaled(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 2, 2, 3), AFFINE)
    image.header.set_slope_inter(0.5, 7)
    nib.save(image, tmp_path / "x.nii")
    raw = np.asarray(nib.load(tmp_path / "x.nii").dataobj.get_unscaled())
    found = read_voxel_rows(tmp_path / "x.nii", np.array([[1, 0, 1]]), 0, 3)
    np.testing.assert_allclose(found[:, 0], raw[1, 0, 1] * 0.5 + 7)


def test_memory_stays_far_below_the_size_of_a_large_file(tmp_path: Path) -> None:
    shape = (64, 64, 40, 600)
    path = tmp_path / "large.nii"
    header = nib.Nifti1Image(np.zeros((1, 1, 1, 1), np.int16), AFFINE).header
    header.set_data_shape(shape)
    with path.open("wb") as file:  # 197 MB, written as a hole
        file.write(header.binaryblock + b"\0" * 4)
        file.truncate(352 + int(np.prod(shape)) * 2)
    tracemalloc.start()
    rows = read_voxel_rows(path, np.argwhere(np.ones((5, 5, 5))), 0, 600)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.shape == (600, 125)
    assert peak < 80e6


def test_truncated_and_foreign_files_are_refused(tmp_path: Path, bold: Path) -> None:
    content = bold.read_bytes()
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(content[:-60])
    with pytest.raises(ValueError, match=r"cut\.nii\.gz is damaged: .*copy or download it again"):
        read_voxel_rows(cut, np.zeros((1, 3), int), 0, 11)
    flat = tmp_path / "flat.nii"
    flat.write_bytes(gzip.decompress(content)[:500])
    with pytest.raises(ValueError, match=r"flat\.nii is cut short: shape \(4, 5, 3, 11\) of int16"):
        open_nifti(flat, dimensions=4)
    (tmp_path / "text.nii").write_text("no image at all" * 100)
    with pytest.raises(ValueError, match=r"text\.nii is no readable NIfTI file"):
        open_nifti(tmp_path / "text.nii", dimensions=4)
    (tmp_path / "image.img").write_bytes(content)
    with pytest.raises(ValueError, match=r"expected a NIfTI file, \.nii or \.nii\.gz"):
        open_nifti(tmp_path / "image.img", dimensions=4)
    with pytest.raises(FileNotFoundError, match="no file"):
        open_nifti(tmp_path / "absent.nii", dimensions=4)
    with pytest.raises(ValueError, match=r"shape \(4, 5, 3, 11\), expected 3 axes"):
        open_nifti(bold, dimensions=3)
    save(tmp_path / "complex.nii", np.zeros((2, 2, 2), np.complex64))
    with pytest.raises(ValueError, match="values of type complex64, expected real numbers"):
        open_nifti(tmp_path / "complex.nii", dimensions=3)


def test_damaged_bytes_give_values_or_a_clear_error(tmp_path: Path, bold: Path) -> None:
    content = gzip.decompress(bold.read_bytes())
    random = np.random.default_rng(1)
    for trial in range(200):
        damaged = bytearray(content)
        for place in random.integers(0, 352, 6):
            damaged[place] = random.integers(256)
        path = tmp_path / f"{trial}.nii"
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            open_nifti(path, dimensions=4)
            read_voxel_rows(path, np.zeros((1, 3), int), 0, 1)


def test_another_shape_or_affine_is_an_error_that_names_both_files(
    tmp_path: Path, bold: Path
) -> None:
    image = open_nifti(bold, dimensions=4)
    small = save(tmp_path / "small.nii.gz", np.ones((4, 5, 2), np.uint8))
    with pytest.raises(ValueError, match=r"small\.nii\.gz has voxels \(4, 5, 2\).*bold\.nii\.gz"):
        check_same_grid(small, open_nifti(small, dimensions=3), bold, image)
    moved = save(tmp_path / "moved.nii.gz", np.ones((4, 5, 3), np.uint8), AFFINE + 0.5)
    with pytest.raises(ValueError, match=r"moved\.nii\.gz and .*bold\.nii\.gz have other affines"):
        find_voxels(card_with(tmp_path), {"mask": moved}, bold, image)


def test_a_mask_gives_voxels_with_their_indices_and_millimetres(tmp_path: Path, bold: Path) -> None:
    mask = np.zeros((4, 5, 3, 1), np.uint8)
    mask[1, 2, 0] = mask[3, 0, 2] = 1
    path = save(tmp_path / "mask.nii.gz", mask)
    voxels = find_voxels(card_with(tmp_path), {"mask": path}, bold, open_nifti(bold, dimensions=4))
    assert voxels.neuroid_id() == ["voxel-1-2-0", "voxel-3-0-2"]
    assert voxels.region == ("VT", "VT")
    columns = voxels.coordinates()
    assert columns["k"].tolist() == [0, 2]
    assert columns["x_mm"].tolist() == [57, 51]
    assert columns["z_mm"].tolist() == [5, 13]


def test_atlas_labels_become_regions_and_masks_cut_them(tmp_path: Path, bold: Path) -> None:
    atlas = np.full((4, 5, 3), -1, np.int16)
    atlas[0], atlas[1] = 1, 2
    atlas[2, 0, 0] = 7
    mask = np.ones((4, 5, 3), np.uint8)
    mask[0, 0] = 0
    files = {
        "mask": save(tmp_path / "mask.nii.gz", mask),
        "roi_visual": save(tmp_path / "visual.nii.gz", atlas),
        "roi_face": save(tmp_path / "face.nii.gz", (atlas == 7).astype(np.uint8)),
        "labels_visual": tmp_path / "visual.tsv",
    }
    files["labels_visual"].write_text("index\tname\tcolor\n1\tV1\tred\n2\tV2\tblue\n")
    image = open_nifti(bold, dimensions=4)
    voxels = find_voxels(card_with(tmp_path, '["V1", "V2"]'), files, bold, image)
    counts = {name: voxels.region.count(name) for name in dict.fromkeys(voxels.region)}
    assert counts == {"V1": 12, "V2": 15, "visual-7": 1, "face": 1}
    del files["roi_visual"]
    with pytest.raises(ValueError, match="'labels_visual' names labels of no atlas"):
        find_voxels(card_with(tmp_path), files, bold, image)


def test_masks_that_cannot_be_used_say_why(tmp_path: Path, bold: Path) -> None:
    image = open_nifti(bold, dimensions=4)
    empty = save(tmp_path / "empty.nii.gz", np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(ValueError, match=r"empty\.nii\.gz: no voxel lies inside the mask"):
        find_voxels(card_with(tmp_path), {"mask": empty}, bold, image)
    with pytest.raises(ValueError, match="no voxel above 0 inside the mask"):
        find_voxels(card_with(tmp_path), {"roi_V1": empty}, bold, image)
    half = save(tmp_path / "half.nii.gz", np.full((4, 5, 3), 0.5, np.float32))
    with pytest.raises(ValueError, match="values between whole numbers; expected labels"):
        find_voxels(card_with(tmp_path), {"roi_V1": half}, bold, image)
    nan = save(tmp_path / "nan.nii.gz", np.full((4, 5, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="holds NaN or infinite values"):
        find_voxels(card_with(tmp_path), {"mask": nan}, bold, image)
    with pytest.raises(ValueError, match="2 regions; say which voxel is where by roi_NAME"):
        find_voxels(card_with(tmp_path, '["V1", "V2"]'), {}, bold, image)


def test_label_names_are_read_from_tables_and_from_lines(tmp_path: Path) -> None:
    lines = tmp_path / "a.ctab"
    lines.write_text("0 Unknown\n1 V1v\n2 V1d\n")
    assert read_label_names(lines) == {0: "Unknown", 1: "V1v", 2: "V1d"}
    lines.write_text("1 V1v\n1 V1d\n")
    with pytest.raises(ValueError, match="names label 1 twice"):
        read_label_names(lines)
    lines.write_text("V1v 1\n")
    with pytest.raises(ValueError, match="'V1v 1' is no whole number and a name"):
        read_label_names(lines)
    table = tmp_path / "a.tsv"
    table.write_text("label\tname\n1\tV1\n")
    with pytest.raises(ValueError, match="expected index and name"):
        read_label_names(table)

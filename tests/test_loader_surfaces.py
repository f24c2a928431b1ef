"""Responses on surfaces, from GIFTI and CIFTI-2 files that nibabel writes."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import xarray as xr
from nibabel import cifti2, gifti
from PIL import Image

import repalign
from repalign import loaders
from repalign.cards import load_dataset_card
from repalign.loaders import surface_files, surfaces

CARD = """
name = "surface"
species = "human"
regions = "cortex"
loader = "surfaces"
[files]
{files}
[options]
{options}
"""
N = 6  # presentations
LABELS = {0: "???", 1: "V1", 2: "V2"}


def save_gifti(path: Path, values: Any, **options: Any) -> Path:
    arrays = [
        gifti.GiftiDataArray(np.asarray(row), "NIFTI_INTENT_TIME_SERIES", **options)
        for row in values
    ]
    nibabel.save(gifti.GiftiImage(darrays=arrays), path)
    return path


def save_labels(path: Path, *maps: Any, names: tuple[str, ...] = ("",)) -> Path:
    table = gifti.GiftiLabelTable()
    for key, name in LABELS.items():
        label = gifti.GiftiLabel(key, 0, 0, 0, 1)
        label.label = name
        table.labels.append(label)
    arrays = [
        gifti.GiftiDataArray(
            np.asarray(keys, np.int32),
            "NIFTI_INTENT_LABEL",
            meta=gifti.GiftiMetaData({"Name": name}),
        )
        for keys, name in zip(maps, names, strict=True)
    ]
    nibabel.save(gifti.GiftiImage(darrays=arrays, labeltable=table), path)
    return path


def brain_models(left: Any = (0, 2, 3), n_vertices: int = 5, step: float = 2.0) -> Any:
    surface = cifti2.BrainModelAxis.from_surface(list(left), n_vertices, "CORTEX_LEFT")
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 2, 0] = mask[2, 0, 1] = True
    affine = np.diag([step, step, step, 1.0])
    return surface + cifti2.BrainModelAxis.from_mask(mask, "THALAMUS_LEFT", affine)


def save_cifti(path: Path, values: Any, models: Any = None, rows: Any = None) -> Path:
    models = brain_models() if models is None else models
    rows = cifti2.ScalarAxis([f"beta {i}" for i in range(len(values))]) if rows is None else rows
    image = cifti2.Cifti2Image(np.asarray(values), (rows, models))
    image.nifti_header.set_data_dtype(np.asarray(values).dtype)
    nibabel.save(image, path)
    return path


def save_table(folder: Path, text: str | None = None) -> Path:
    path = folder / "presentations.csv"
    path.write_text(text or "stimulus_id,run\na,1\nb,1\nc,1\nc,2\na,2\nb,2\n", encoding="utf-8")
    return path


def write_card(folder: Path, options: str = "", **files: Path) -> Path:
    files.setdefault("stimuli", folder / "presentations.csv")
    if not files["stimuli"].exists():
        save_table(folder)
    lines = "\n".join(f'{role} = "{path}"' for role, path in files.items())
    card = folder / "surface.toml"
    card.write_text(CARD.format(files=lines, options=options), encoding="utf-8")
    return card


def read(folder: Path, options: str = "", **files: Path) -> xr.Dataset:
    card = load_dataset_card(write_card(folder, options, **files))
    return surfaces.read(card, {"stimuli": folder / "presentations.csv", **files})[0]


@pytest.fixture
def values(random: np.random.Generator) -> Any:
    return random.normal(size=(N, 5)).astype(np.float32)


@pytest.fixture
def both(tmp_path: Path, random: np.random.Generator, values: Any) -> dict[str, Path]:
    right = random.normal(size=(N, 4)).astype(np.float32)
    return {
        "left": save_gifti(tmp_path / "lh.func.gii", values),
        "right": save_gifti(tmp_path / "rh.func.gii", right),
    }


def test_gifti_values_are_those_of_the_files_left_before_right(
    both: dict[str, Path], tmp_path: Path
) -> None:
    ds = read(tmp_path, **both)
    expected = np.concatenate(
        [np.stack([one.data for one in nibabel.load(path).darrays]) for path in both.values()], 1
    )
    assert ds["response"].dtype == np.float32
    np.testing.assert_array_equal(ds["response"].values, expected)
    assert ds["hemisphere"].values.tolist() == ["left"] * 5 + ["right"] * 4
    assert ds["vertex"].values.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert ds["neuroid_id"].values[[0, 8]].tolist() == ["left-0", "right-3"]
    assert ds["stimulus_id"].values.tolist() == list("abccab")
    assert ds["repetition"].values.tolist() == [0, 0, 0, 1, 1, 1]
    assert ds["run"].values.tolist() == [1, 1, 1, 2, 2, 2]


def test_a_published_gifti_file_is_read(tmp_path: Path) -> None:
    import nilearn

    path = Path(nilearn.__file__).parent / "datasets/data/fsaverage5/sulc_left.gii.gz"
    save_table(tmp_path, "stimulus_id\nsulcus\n")
    ds = read(tmp_path, left=path)
    assert ds["response"].shape == (1, 10242)
    np.testing.assert_array_equal(ds["response"].values[0], nibabel.load(path).darrays[0].data)


@pytest.mark.parametrize("encoding", ["ASCII", "B64BIN", "B64GZ"])
def test_all_encodings_inside_the_file_are_read(
    tmp_path: Path, random: np.random.Generator, encoding: str
) -> None:
    data = random.integers(-100, 100, (N, 7)).astype(np.float32)
    path = save_gifti(tmp_path / "lh.func.gii", data, encoding=f"GIFTI_ENCODING_{encoding}")
    np.testing.assert_array_equal(read(tmp_path, left=path)["response"].values, data)


def test_whole_numbers_keep_all_their_digits(tmp_path: Path) -> None:
    data = np.arange(N * 3, dtype=np.int32).reshape(N, 3) + (1 << 28) + 1
    path = save_gifti(tmp_path / "lh.func.gii", data)
    response = read(tmp_path, left=path)["response"]
    assert response.dtype == np.float64
    np.testing.assert_array_equal(response.values, data)


def test_repetitions_of_the_table_are_kept(both: dict[str, Path], tmp_path: Path) -> None:
    save_table(tmp_path, "stimulus_id,repetition\n1,4\n2,4\n3,4\n1,2\n2,2\n3,2\n")
    ds = read(tmp_path, **both)
    assert ds["repetition"].values.tolist() == [4, 4, 4, 2, 2, 2]
    assert ds["stimulus_id"].values.tolist() == list("123123")


def test_label_files_tell_the_regions_and_label_0_is_left_out(
    both: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = save_labels(tmp_path / "lh.label.gii", [1, 0, 2, 2, 1])
    right = save_labels(tmp_path / "rh.label.gii", [0, 2, 0, 1])
    files = both | {"labels_left": left, "labels_right": right}
    ds = read(tmp_path, **files)
    assert ds["region"].values.tolist() == ["V1", "V2", "V2", "V1", "V2", "V1"]
    assert ds["vertex"].values.tolist() == [0, 2, 3, 4, 1, 3]
    assert "3 of 9 vertices left out: not in a region kept" in capsys.readouterr().err
    np.testing.assert_array_equal(
        ds["response"].values, read(tmp_path, **both)["response"].values[:, [0, 2, 3, 4, 6, 8]]
    )
    ds = read(tmp_path, 'keep_regions = ["V2"]', **files)
    assert ds["neuroid_id"].values.tolist() == ["left-2", "left-3", "right-1"]
    with pytest.raises(ValueError, match="keep_regions has 'V9', which the labels lack.*V1, V2"):
        read(tmp_path, 'keep_regions = ["V9"]', **files)


def test_one_of_several_label_maps_is_chosen(tmp_path: Path, values: Any) -> None:
    path = save_gifti(tmp_path / "lh.func.gii", values)
    labels = save_labels(
        tmp_path / "lh.label.gii", [1, 1, 1, 1, 1], [0, 0, 2, 2, 2], names=("coarse", "fine")
    )
    for choice in ('"fine"', "1"):
        ds = read(tmp_path, f"label_map = {choice}", left=path, labels_left=labels)
        assert ds["region"].values.tolist() == ["V2"] * 3
    for options in ("", 'label_map = "x"', "label_map = 2"):
        with pytest.raises(ValueError, match=r"has 2 maps \(coarse, fine\); options.label_map"):
            read(tmp_path, options, left=path, labels_left=labels)


def test_vertices_without_values_are_left_out_only_when_asked_for(
    tmp_path: Path, values: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    values[3, 1], values[:, 4] = np.nan, 0
    path = save_gifti(tmp_path / "lh.func.gii", values)
    models = cifti2.BrainModelAxis.from_surface(np.arange(5), 5, "CORTEX_LEFT")
    maps = save_cifti(tmp_path / "a.dscalar.nii", values, models)
    for files in ({"left": path}, {"cifti": maps}):
        assert read(tmp_path, **files).sizes["neuroid"] == 5
        assert read(tmp_path, 'drop = ["nan"]', **files)["vertex"].values.tolist() == [0, 2, 3, 4]
        assert read(tmp_path, 'drop = ["zero"]', **files)["vertex"].values.tolist() == [0, 1, 2, 3]
        ds = read(tmp_path, 'drop = ["nan", "zero"]', **files)
        np.testing.assert_array_equal(ds["response"].values, values[:, [0, 2, 3]])
        assert "2 vertices left out: nan or zero" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
def test_cifti_values_are_those_of_the_file(
    tmp_path: Path, random: np.random.Generator, kind: Any
) -> None:
    data = (random.normal(size=(N, 5)) * 100).astype(kind)
    ds = read(tmp_path, cifti=save_cifti(tmp_path / "a.dscalar.nii", data))
    assert ds["response"].dtype == (np.float64 if kind is np.float64 else np.float32)
    np.testing.assert_array_equal(ds["response"].values, data)
    assert ds["structure"].values.tolist() == ["cortex_left"] * 3 + ["thalamus_left"] * 2
    assert ds["vertex"].values.tolist() == [0, 2, 3, -1, -1]
    assert ds["i"].values.tolist() == [-1, -1, -1, 1, 2]
    assert ds["k"].values.tolist() == [-1, -1, -1, 0, 1]
    assert ds["neuroid_id"].values.tolist()[2:4] == ["cortex_left-3", "thalamus_left-1-2-0"]


def test_a_time_series_has_a_presentation_a_row(tmp_path: Path, values: Any) -> None:
    rows = cifti2.SeriesAxis(0, 2, N)
    ds = read(tmp_path, cifti=save_cifti(tmp_path / "a.dtseries.nii", values, rows=rows))
    np.testing.assert_array_equal(ds["response"].values, values)


def test_a_dlabel_is_matched_by_grayordinate_not_by_column(tmp_path: Path, values: Any) -> None:
    maps = cifti2.LabelAxis(["areas"], [{k: (n, (0, 0, 0, 1)) for k, n in LABELS.items()}])
    models = brain_models((1, 3, 2, 0))[[1, 2, 3, 4]]  # without the second voxel, in other order
    labels = save_cifti(tmp_path / "a.dlabel.nii", np.array([[1, 2, 0, 2.0]]), models, maps)
    path = save_cifti(tmp_path / "a.dscalar.nii", values)
    ds = read(tmp_path, cifti=path, labels=labels)
    assert ds["neuroid_id"].values.tolist() == [
        "cortex_left-2",
        "cortex_left-3",
        "thalamus_left-1-2-0",
    ]
    assert ds["region"].values.tolist() == ["V2", "V1", "V2"]
    np.testing.assert_array_equal(ds["response"].values, values[:, [1, 2, 3]])
    other = save_cifti(tmp_path / "b.dlabel.nii", [[1.0] * 5], brain_models(n_vertices=9), maps)
    with pytest.raises(ValueError, match="has 9 vertices in .*CORTEX_LEFT, .* has 5"):
        read(tmp_path, cifti=path, labels=other)
    other = save_cifti(tmp_path / "b.dlabel.nii", [[1.0] * 5], brain_models(step=3.0), maps)
    with pytest.raises(ValueError, match="voxels at other places"):
        read(tmp_path, cifti=path, labels=other)
    with pytest.raises(ValueError, match="a.dscalar.nii holds no labels"):
        read(tmp_path, cifti=path, labels=path)
    with pytest.raises(ValueError, match="holds labels; expected responses"):
        read(tmp_path, cifti=labels)


def test_cifti_is_read_in_blocks_when_it_is_needed(
    tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tracemalloc

    data = random.normal(size=(300, 40000)).astype(np.float32)
    models = cifti2.BrainModelAxis.from_surface(np.arange(40000), 40000, "CORTEX_LEFT")
    path = save_cifti(tmp_path / "a.dtseries.nii", data, models, cifti2.SeriesAxis(0, 1, 300))
    save_table(tmp_path, "stimulus_id\n" + "\n".join(map(str, range(300))))
    assert path.stat().st_size > 48e6
    monkeypatch.setattr(surfaces, "BLOCK_BYTES", 4 << 20)
    monkeypatch.setattr(surface_files, "COLUMN_BYTES", 2 << 20)
    tracemalloc.start()
    try:
        ds = read(tmp_path, cifti=path)
        described = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        for number, block in enumerate(ds["response"].data.blocks):
            start = sum(ds["response"].chunks[0][:number])
            if number in (0, 5):
                found = block.compute()
                np.testing.assert_array_equal(found, data[start : start + len(found)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ds["response"].data.numblocks[0] > 8
    assert described < 40e6  # names and places of 40000 vertices
    assert peak < 40e6


def test_ingest_gives_a_store_with_images(
    both: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: Any
) -> None:
    monkeypatch.setitem(loaders.LOADERS, "surfaces", "repalign.loaders.surfaces:read")
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    save_table(tmp_path, "stimulus_id,filename\n" + "a,0.png\nb,1.png\nc,2.png\n" * 2)
    for files in (both, {"cifti": save_cifti(tmp_path / "a.dscalar.nii", values)}):
        card = write_card(tmp_path, images=tmp_path / "images", **files)
        ds = repalign.ingest(card, to=tmp_path / "stores")
        np.testing.assert_array_equal(ds["response"], read(tmp_path, **files)["response"])
        assert len(set(ds["image_sha256"].values)) == 3


def test_nan_in_what_is_kept_is_refused_by_ingest(tmp_path: Path, values: Any) -> None:
    values[0, 0] = np.nan
    card = write_card(tmp_path, cifti=save_cifti(tmp_path / "a.dscalar.nii", values))
    card.write_text(card.read_text().replace('"surfaces"', '"repalign.loaders.surfaces:read"'))
    with pytest.raises(ValueError, match=r"NaN or infinite values in 1 neuroids"):
        repalign.ingest(card, to=tmp_path / "stores")


def entities(text: str) -> str:
    bomb = '<!DOCTYPE GIFTI [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    return text[: text.index("<!DOCTYPE")] + bomb + text[text.index("<GIFTI") :]


def external(text: str) -> str:
    changed = text.replace("GZipBase64Binary", "ExternalFileBinary", 1)
    return changed.replace('ExternalFileName=""', 'ExternalFileName="/etc/passwd"', 1)


def larger(text: str) -> str:
    start, end = text.index("<Data>") + 6, text.index("</Data>")
    packed = base64.b64encode(zlib.compress(bytes(1 << 20))).decode()
    return text[:start] + packed + text[end:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (entities, "declares XML entities"),
        (external, "keeps its values in another file"),
        (
            lambda text: external(text).replace("ExternalFileBinary", "GIFTI_ENCODING_EXTBIN"),
            "encoding 'GIFTI_ENCODING_EXTBIN', expected one of ASCII, Base64Binary",
        ),
        (larger, "has packed data of more values than it says"),
        (lambda text: text[: len(text) // 2], "is no readable GIFTI file"),
        (lambda text: "", "is no readable GIFTI file"),
        (lambda text: "no xml", "is no readable GIFTI file"),
        (lambda text: "<html></html>", "is no readable GIFTI file|holds no GIFTI"),
        (lambda text: text.replace('Dim0="5"', 'Dim0="6"'), "is no readable GIFTI file"),
        (lambda text: text.replace('Dim0="5"', 'Dim0="x"'), "is no readable GIFTI file"),
        (lambda text: text.replace("<Data>", "<Data>!*"), "is no readable GIFTI file"),
    ],
)
def test_damaged_and_hostile_gifti_files_are_refused(
    both: dict[str, Path], tmp_path: Path, damage: Callable[[str], str], message: str
) -> None:
    path = both["left"]
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, left=path)
    assert str(path) in str(caught.value)


def test_a_document_type_without_entities_is_read(both: dict[str, Path], tmp_path: Path) -> None:
    path = both["left"]
    line = '<!DOCTYPE GIFTI SYSTEM "http://www.nitrc.org/frs/download.php/115/gifti.dtd">'
    text = path.read_text()
    if "<!DOCTYPE" not in text:
        path.write_text(text.replace("<GIFTI", line + "<GIFTI", 1))
    assert read(tmp_path, left=path).sizes["neuroid"] == 5


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-8], "is cut short: it needs"),
        (lambda content: content[:400], "is no readable CIFTI-2 file"),
        (lambda content: content[:700], "is no readable CIFTI-2 file"),
        (lambda _: b"", "is no readable CIFTI-2 file"),
        (lambda content: b"\0" * len(content), "is no readable CIFTI-2 file"),
        (lambda content: content.replace(b"<CIFTI ", b"<CIFTY "), "is no readable CIFTI-2 file"),
    ],
)
def test_damaged_cifti_files_are_refused(
    tmp_path: Path, values: Any, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = save_cifti(tmp_path / "a.dscalar.nii", values)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"a\.dscalar\.nii {message}"):
        read(tmp_path, cifti=path)


def test_entities_in_a_cifti_header_are_refused(tmp_path: Path, values: Any) -> None:
    path = save_cifti(tmp_path / "a.dscalar.nii", values)
    content = path.read_bytes()
    start = content.index(b"<CIFTI")
    bomb = b'<!DOCTYPE CIFTI [<!ENTITY a "ha">]>'
    path.write_bytes(content[:start] + bomb + content[start : -len(bomb)])
    with pytest.raises(ValueError, match="declares XML entities"):
        read(tmp_path, cifti=path)


def test_flipped_bytes_give_a_value_error_or_a_recording(
    tmp_path: Path, random: np.random.Generator, values: Any
) -> None:
    unnamed: list[ValueError] = []
    for role, path in {
        "cifti": save_cifti(tmp_path / "a.dscalar.nii", values),
        "left": save_gifti(tmp_path / "lh.func.gii", values),
    }.items():
        content = path.read_bytes()
        for _ in range(80):
            damaged = bytearray(content)
            for place in random.integers(0, len(content), 3):
                damaged[place] = random.integers(256)
            path.write_bytes(damaged)
            try:
                np.asarray(read(tmp_path, **{role: path})["response"])
            except ValueError as error:
                unnamed += [] if str(tmp_path) in str(error) else [error]
    assert unnamed == []


def test_other_kinds_of_files_are_refused(tmp_path: Path, values: Any) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, N)), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ValueError, match="it does not start with a NIfTI-2 header"):
        read(tmp_path, cifti=tmp_path / "a.nii")
    parcels = cifti2.ParcelsAxis.from_brain_models([("p", brain_models())])
    path = save_cifti(tmp_path / "a.pscalar.nii", values[:, :1], parcels)
    with pytest.raises(ValueError, match="is of Scalar × Parcels; expected maps or time"):
        read(tmp_path, cifti=path)
    points = gifti.GiftiDataArray(np.zeros((5, 3), np.float32), "NIFTI_INTENT_POINTSET")
    nibabel.save(gifti.GiftiImage(darrays=[points]), tmp_path / "lh.surf.gii")
    with pytest.raises(ValueError, match="data array 0 is of POINTSET; expected one value"):
        read(tmp_path, left=tmp_path / "lh.surf.gii")
    with pytest.raises(ValueError, match="expected a GIFTI file"):
        read(tmp_path, left=tmp_path / "lh.mgh")
    with pytest.raises(FileNotFoundError, match="no file"):
        read(tmp_path, left=tmp_path / "none.gii")


def test_files_that_do_not_fit_each_other_are_refused(
    both: dict[str, Path], tmp_path: Path, values: Any
) -> None:
    short = save_gifti(tmp_path / "short.func.gii", values[:4])
    with pytest.raises(ValueError, match="has 4 data arrays, .* has 6"):
        read(tmp_path, left=both["left"], right=short)
    with pytest.raises(ValueError, match=r"has 6 rows for 4 presentations"):
        read(tmp_path, left=short)
    ragged = save_gifti(tmp_path / "ragged.func.gii", [*values[:5], values[5, :3]])
    with pytest.raises(ValueError, match="data array 5 has 3 vertices, the first has 5"):
        read(tmp_path, left=ragged)
    labels = save_labels(tmp_path / "lh.label.gii", [1, 1, 1])
    with pytest.raises(ValueError, match=r"labels of shape \(3,\), .* has 5 vertices"):
        read(tmp_path, left=both["left"], labels_left=labels)
    labels = save_labels(tmp_path / "lh.label.gii", [1, 1, 1, 7, 1])
    with pytest.raises(ValueError, match="has label 7, which its table gives no name"):
        read(tmp_path, left=both["left"], labels_left=labels)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name\n" + "a\n" * N, "has no column stimulus_id"),
        ("stimulus_id,x\n" + "a,1\n" * 5 + ",1\n", "row 5 has no id"),
        ("stimulus_id,repetition\n" + "a,0.5\n" * N, "repetition holds no whole numbers"),
        ("stimulus_id,region\n" + "a,V1\n" * N, "has a column 'region', a name of ours"),
    ],
)
def test_tables_of_presentations_that_do_not_fit_are_refused(
    both: dict[str, Path], tmp_path: Path, table: str, message: str
) -> None:
    save_table(tmp_path, table)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **both)


def test_roles_and_options_that_do_not_fit_are_refused(
    both: dict[str, Path], tmp_path: Path, values: Any
) -> None:
    cifti = save_cifti(tmp_path / "a.dscalar.nii", values)
    labels = save_labels(tmp_path / "lh.label.gii", [1, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="needs either left and right, or cifti"):
        read(tmp_path, cifti=cifti, **both)
    with pytest.raises(ValueError, match="labels of left, right are labels_left, labels_right"):
        read(tmp_path, labels_left=labels, **both)
    with pytest.raises(ValueError, match="labels of cifti are labels"):
        read(tmp_path, cifti=cifti, labels_left=labels)
    with pytest.raises(ValueError, match="need label files"):
        read(tmp_path, 'keep_regions = ["V1"]', **both)
    with pytest.raises(ValueError, match="options.drop"):
        read(tmp_path, 'drop = ["inf"]', **both)
    zeros = save_gifti(tmp_path / "zero.func.gii", np.zeros((N, 3), np.float32))
    with pytest.raises(ValueError, match="no vertex is left"):
        read(tmp_path, 'drop = ["zero"]', left=zeros)

"""Block designs: volumes or blocks of each category, prepared run by run."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from scipy.signal import detrend
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.svm import SVC

import repalign.loaders
from repalign import ingest
from repalign.cards import load_dataset_card
from repalign.loaders import volumes
from repalign.loaders.haxby2001 import read

RUNS = 3
RUN = ["rest"] * 2 + ["face"] * 3 + ["rest"] + ["house"] * 3 + ["rest"]
FOLDER = Path(__file__).parent.parent / "neural_data"


class Study:
    """Three runs of two categories in a 3 × 4 × 2 image, in nilearn's layout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        random = np.random.default_rng(0)
        self.labels = [(name, str(run)) for run in range(RUNS) for name in RUN]
        drift = np.arange(len(self.labels))
        self.values = random.integers(500, 900, (3, 4, 2, len(self.labels))) + 5 * drift
        image = nib.Nifti1Image(self.values.astype(np.int16), np.diag([3.0, 3, 3, 1]))
        image.header.set_zooms((3, 3, 3, 2.5))
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, folder / "bold.nii.gz")
        self.mask = np.zeros((3, 4, 2), np.uint8)
        self.mask[1:, :3] = 1
        nib.save(nib.Nifti1Image(self.mask, np.diag([3.0, 3, 3, 1])), folder / "mask4_vt.nii.gz")
        self.write_labels()

    def write_labels(self) -> None:
        rows = "\n".join(f"{name} {run}" for name, run in self.labels)
        (self.folder / "labels.txt").write_text(f"labels chunks\n{rows}\n")

    def card(self, options: str = "", files: str = 'mask = "mask4_vt.nii.gz"') -> Path:
        path = self.folder / "study.toml"
        path.write_text(
            'name = "study"\nspecies = "human"\nregions = "VT"\nloader = "haxby2001"\n'
            f'[files]\nbold = "bold.nii.gz"\nlabels = "labels.txt"\n{files}\n[options]\n{options}\n'
        )
        return path

    def read(self, options: str = "", **files: str) -> xr.Dataset:
        card = load_dataset_card(self.card(options))
        paths = {"bold": "bold.nii.gz", "labels": "labels.txt", "mask": "mask4_vt.nii.gz"} | files
        return read(card, {role: self.folder / name for role, name in paths.items()})[0]

    @property
    def rows(self) -> np.ndarray:
        return self.values[self.mask > 0].T.astype(np.float64)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader's place in the list of loaders."""
    entry = {"haxby2001": "repalign.loaders.haxby2001:read"}
    monkeypatch.setattr(repalign.loaders, "LOADERS", {**repalign.loaders.LOADERS, **entry})


def test_every_volume_but_rest_is_a_repetition_of_its_category_bit_for_bit(study: Study) -> None:
    ds = study.read()
    shown = [i for i, (name, _) in enumerate(study.labels) if name != "rest"]
    assert ds["response"].dtype == np.float32
    np.testing.assert_array_equal(ds["response"].values, study.rows[shown])
    assert ds["stimulus_id"].values.tolist() == [study.labels[i][0] for i in shown]
    assert ds["category"].values.tolist() == ds["stimulus_id"].values.tolist()
    assert ds["run"].values.tolist() == [study.labels[i][1] for i in shown]
    assert ds["volume"].values.tolist() == shown
    assert ds["block"].values.tolist() == ([0] * 3 + [1] * 3) * RUNS
    assert ds["repetition"].values.max() == 8
    assert ds["neuroid_id"].values[0] == "voxel-1-0-0"
    assert set(ds["region"].values) == {"VT"}
    assert ds.attrs["repetition_time_s"] == 2.5
    assert ds.attrs["zscore"] == ds.attrs["detrend"] == "none"


def test_blocks_are_averages_of_their_volumes(study: Study) -> None:
    ds = study.read('presentation = "block"')
    means = [study.rows[i : i + 3].mean(axis=0) for run in range(RUNS) for i in (run * 10 + 2,)]
    np.testing.assert_allclose(ds["response"].values[ds["stimulus_id"] == "face"], means, rtol=1e-6)
    assert ds.sizes["presentation"] == 2 * RUNS
    assert ds.attrs["presentation"] == "block"


def test_detrending_and_z_scores_are_taken_run_by_run_and_recorded(study: Study) -> None:
    ds = study.read('detrend = true\nzscore = "run"')
    shown = [i for i, (name, _) in enumerate(study.labels) if name != "rest"]
    expected = np.empty_like(study.rows)
    for run in range(RUNS):
        part = detrend(study.rows[run * 10 : run * 10 + 10], axis=0)
        expected[run * 10 : run * 10 + 10] = part / part.std(axis=0)
    np.testing.assert_allclose(ds["response"].values, expected[shown], atol=1e-5)
    assert ds.attrs["detrend"] == "linear, per run"
    assert ds.attrs["zscore"] == "run"
    assert ds["response"].chunks is not None
    assert ds["response"].chunks[0] == (6,) * RUNS


def test_nothing_but_the_header_of_the_data_is_read_before_it_is_needed(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    original = volumes.voxel_rows

    def spy(path: Path, ijk: np.ndarray, start: int, stop: int) -> object:
        asked.append((start, stop))
        return original(path, ijk, start, stop)

    monkeypatch.setattr(volumes, "voxel_rows", spy)
    ds = study.read()
    assert asked == []
    ds["response"][7:9].compute()
    assert asked == [(10, 20)]


def test_ingest_keeps_the_values(study: Study, known: None, tmp_path: Path) -> None:
    ds = ingest(study.card('presentation = "block"'), to=tmp_path / "stores")
    np.testing.assert_array_equal(
        ds["response"].values, study.read('presentation = "block"')["response"].values
    )
    assert set(ds["stimulus_id"].values) == {"face", "house"}


def test_region_masks_name_the_regions(study: Study) -> None:
    face = np.zeros_like(study.mask)
    face[2, 0, 0] = 1
    nib.save(nib.Nifti1Image(face, np.diag([3.0, 3, 3, 1])), study.folder / "face.nii.gz")
    ds = study.read(roi_face="face.nii.gz", roi_VT="mask4_vt.nii.gz")
    assert ds["region"].values.tolist() == ["face"] + ["VT"] * 12


def test_bad_labels_and_files_say_what_is_wrong(study: Study) -> None:
    with pytest.raises(ValueError, match="no volume is labelled 'break'; set rest .* rest, face"):
        study.read('rest = "break"')
    study.labels.append(("face", "2"))
    study.write_labels()
    with pytest.raises(ValueError, match=r"labels 31 volumes, .*bold\.nii\.gz has 30"):
        study.read()
    study.labels[-2:] = [("face", "0")]
    study.write_labels()
    with pytest.raises(ValueError, match="run '0' stands in two pieces"):
        study.read()
    study.labels = [("rest", run) for _, run in study.labels[:29]] + [("rest", "2")]
    study.write_labels()
    with pytest.raises(ValueError, match="all volumes are labelled 'rest'"):
        study.read()
    (study.folder / "labels.txt").write_text("face 0\nface\n")
    with pytest.raises(ValueError, match="line 2 is 'face'; expected a category and a run"):
        study.read()
    with pytest.raises(ValueError, match="needs bold, labels and knows mask"):
        study.read(images="images.zip")
    with pytest.raises(ValueError, match="options.zscore = 'all': expected 'none' or 'run'"):
        study.read('zscore = "all"')


def test_files_of_another_subject_are_refused(study: Study) -> None:
    folder = study.folder / "subj2"
    folder.mkdir()
    for name in ("bold.nii.gz", "labels.txt", "mask4_vt.nii.gz"):
        (study.folder / name).rename(folder / name)
    study.folder = folder
    assert study.read('subject = "subj2"')["subject"].values[0] == "subj2"
    with pytest.raises(ValueError, match="lies in a folder of subj2, the card says subj1"):
        study.read('subject = "subj1"')


def test_the_card_of_the_whole_brain_reads_the_layout_of_nilearn(
    study: Study, known: None, tmp_path: Path
) -> None:
    ds = ingest(FOLDER / "haxby2001.toml", to=tmp_path / "stores", mirror=study.folder)
    assert set(ds["region"].values) == {"VT"}
    assert set(ds["subject"].values) == {"subj1"}
    with pytest.raises(FileNotFoundError, match=r"Then put bold\.nii\.gz into a folder"):
        ingest(FOLDER / "haxby2001.toml", to=tmp_path / "other")


def test_a_voxel_without_variance_has_no_z_score(study: Study) -> None:
    study.values[1, 1, 1] = 700
    image = nib.load(study.folder / "bold.nii.gz")
    changed = nib.Nifti1Image(study.values.astype(np.int16), image.affine, image.header)
    nib.save(changed, study.folder / "bold.nii.gz")
    ds = study.read('zscore = "run"')
    with pytest.raises(
        ValueError, match=r"1 voxels are constant in run '\d' \(first \(1, 1, 1\)\)"
    ):
        ds["response"].compute()
    assert np.isfinite(study.read()["response"].values).all()


def decoded(ds: xr.Dataset, classifier: object) -> float:
    scores = cross_val_score(
        classifier,
        ds["response"].values,
        ds["category"].values.astype(str),
        groups=ds["run"].values.astype(str),
        cv=LeaveOneGroupOut(),
    )
    return float(scores.mean())


def test_eight_categories_are_decoded_from_our_store_in_runs_left_out(
    data_folder: Path, known: None, tmp_path: Path
) -> None:
    """Detrended and z-scored per run, block averages: .83 (chance .125); single volumes: .59."""
    slice_ = data_folder / "haxby2001_slice"
    ds = ingest(FOLDER / "haxby2001_slice.toml", to=tmp_path, mirror=slice_)
    assert dict(ds.sizes) == {"presentation": 96, "neuroid": 530}
    assert decoded(ds, RidgeClassifier(alpha=1.0)) == pytest.approx(0.83, abs=0.02)

    card = tmp_path / "by_volume.toml"
    text = (FOLDER / "haxby2001_slice.toml").read_text()
    card.write_text(text.replace('"haxby2001_slice"', '"by_volume"').replace('"block"', '"volume"'))
    volumes_ = ingest(card, to=tmp_path, mirror=slice_)
    assert volumes_.sizes["presentation"] == 864
    assert decoded(volumes_, SVC(kernel="linear")) == pytest.approx(0.59, abs=0.02)


def test_values_of_the_real_slice_are_kept(data_folder: Path, known: None, tmp_path: Path) -> None:
    slice_ = data_folder / "haxby2001_slice"
    card = tmp_path / "raw.toml"
    text = (FOLDER / "haxby2001_slice.toml").read_text().split("[options]")[0]
    card.write_text(text.replace('"haxby2001_slice"', '"raw"'))
    ds = ingest(card, to=tmp_path, mirror=slice_)
    bold = np.asarray(nib.load(slice_ / "bold.nii.gz").dataobj)
    mask = np.asarray(nib.load(slice_ / "mask.nii.gz").dataobj)
    rows = bold[mask > 0].T[ds["volume"].values]
    np.testing.assert_array_equal(ds["response"].values, rows)
    assert ds.attrs["repetition_time_s"] == 2.5

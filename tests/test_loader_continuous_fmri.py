"""Continuous fMRI: volumes as the files hold them, or cleaned as nilearn does; bad data named."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from nilearn import signal

from repalign import check_recording, ingest, select
from repalign.cards import load_dataset_card
from repalign.continuous_recording import make_continuous_recording
from repalign.loaders import fmri_cleaning
from repalign.loaders.continuous_fmri import read
from repalign.store_checks import verify_store

TR, VOLUMES, SHAPE = 1.5, 60, (4, 4, 3)
AFFINE = np.diag([3.0, 3, 3, 1])
BRAIN = np.ones(SHAPE, bool)
BRAIN[0, 0] = False
NAMES = ["trans_x", "trans_y", "trans_x_derivative1", "csf"]


class Dataset:
    """Two runs of two subjects who saw the same film."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.raw, self.derivatives = folder, folder / "raw", folder / "derivatives"
        self.values: dict[tuple[str, int], np.ndarray] = {}
        self.confounds: dict[tuple[str, int], np.ndarray] = {}
        draw = np.random.default_rng(0)
        for subject in ("01", "02"):
            for root in (self.raw, self.derivatives):
                self.func(root, subject).mkdir(parents=True)
            for run in (1, 2):
                drift = 8 * np.sin(np.arange(VOLUMES) / 20)
                values = 1000 + drift + 3 * draw.standard_normal((*SHAPE, VOLUMES))
                self.save(subject, run, values.astype(np.float32))
                self.beside(subject, run, "bold.json").write_text(
                    json.dumps({"RepetitionTime": TR, "StartTime": TR / 2})
                )
                brain = nib.Nifti1Image(BRAIN.astype(np.uint8), AFFINE)
                nib.save(brain, self.brain(subject, run))
                table = draw.standard_normal((VOLUMES, len(NAMES)))
                table[0, 2] = 0
                self.confounds[subject, run] = table
                rows = [[repr(float(v)) for v in row] for row in table]
                rows[0][2] = "n/a"
                self.write(self.table(subject, run), [NAMES, *rows])
                self.events(
                    subject,
                    run,
                    ["12.0", "3", "scene", "a.mp4", "0.5"],
                    ["0.5", "10", "scene", "b.mp4", "n/a"],
                    ["13.0", "0", "button", "n/a", "n/a"],
                )

    def func(self, root: Path, subject: str) -> Path:
        return root / f"sub-{subject}" / "func"

    def bold(self, subject: str, run: int) -> Path:
        name = f"sub-{subject}_task-film_run-{run}_space-MNI_desc-preproc_bold.nii.gz"
        return self.func(self.derivatives, subject) / name

    def beside(self, subject: str, run: int, end: str) -> Path:
        path = self.bold(subject, run)
        return path.with_name(path.name.replace("bold.nii.gz", end))

    def brain(self, subject: str, run: int) -> Path:
        path = self.bold(subject, run)
        return path.with_name(path.name.replace("desc-preproc_bold", "desc-brain_mask"))

    def table(self, subject: str, run: int) -> Path:
        name = f"sub-{subject}_task-film_run-{run}_desc-confounds_timeseries.tsv"
        return self.func(self.derivatives, subject) / name

    def write(self, path: Path, rows: list[list[str]]) -> None:
        path.write_text("\n".join("\t".join(row) for row in rows) + "\n")

    def events(self, subject: str, run: int, *rows: list[str]) -> Path:
        path = self.func(self.raw, subject) / f"sub-{subject}_task-film_run-{run}_events.tsv"
        header = ["onset", "duration", "trial_type", "stim_file", "reward"]
        self.write(path, [header, *rows])
        return path

    def save(self, subject: str, run: int, values: np.ndarray) -> None:
        image = nib.Nifti1Image(values, AFFINE)
        image.header.set_zooms((3, 3, 3, TR))
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, self.bold(subject, run))
        self.values[subject, run] = values

    def rows(self, subject: str, run: int) -> np.ndarray:
        return self.values[subject, run][BRAIN].T

    def card(self, options: str = "", files: str = "") -> Path:
        path = self.folder / "film.toml"
        path.write_text(
            'name = "film"\nspecies = "human"\nregions = "brain"\n'
            'loader = "repalign.loaders.continuous_fmri:read"\n'
            f'[files]\nderivatives = "derivatives"\nraw = "raw"\n{files}\n[options]\n{options}\n'
        )
        return path

    def read(self, options: str = 'subjects = ["01"]', **files: Path) -> xr.Dataset:
        roles = {"derivatives": self.derivatives, "raw": self.raw} | files
        return read(load_dataset_card(self.card(options)), roles)[0]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


def test_volumes_are_bit_for_bit_those_of_the_files(dataset: Dataset) -> None:
    ds = dataset.read()
    expected = np.concatenate([dataset.rows("01", run) for run in (1, 2)])
    assert ds["response"].dtype == np.float32
    np.testing.assert_array_equal(ds["response"].values, expected)
    assert ds["run"].values.tolist() == ["1"] * VOLUMES + ["2"] * VOLUMES
    np.testing.assert_allclose(ds["time_s"].values[:VOLUMES], (np.arange(VOLUMES) + 0.5) * TR)
    np.testing.assert_array_equal(ds["time_s"][:VOLUMES], ds["time_s"][VOLUMES:])
    assert ds.attrs["repetition_time_s"] == TR
    assert ds.attrs["slice_time_ref"] == 0.5
    i, j, k = np.argwhere(BRAIN).T
    for name, index in zip("xyz", (i, j, k), strict=True):
        np.testing.assert_allclose(ds[f"{name}_mm"].values, 3.0 * index)
    check_recording(ds)


@pytest.mark.parametrize("scaling", ["none", "zscore", "percent"])
@pytest.mark.parametrize("detrend", [False, True])
@pytest.mark.parametrize("high_pass", [None, 0.02])
@pytest.mark.parametrize("confounds", [False, True])
def test_cleaning_equals_nilearns(
    dataset: Dataset, scaling: str, detrend: bool, high_pass: float | None, confounds: bool
) -> None:
    options = f'subjects = ["01"]\nscaling = "{scaling}"\ndetrend = {str(detrend).lower()}\n'
    options += f"high_pass = {high_pass}\n" if high_pass else ""
    options += 'confounds = ["trans_?", "csf", "trans_x_derivative1"]\n' if confounds else ""
    found = dataset.read(options)["response"].values
    names = {"none": None, "zscore": "zscore_sample", "percent": "psc"}
    for run in (1, 2):
        rows = dataset.rows("01", run).astype(np.float64)
        expected = signal.clean(
            rows,
            detrend=detrend,
            standardize=names[scaling],
            confounds=dataset.confounds["01", run] if confounds else None,
            filter="cosine" if high_pass else False,
            high_pass=high_pass,
            t_r=TR,
        )
        own = found[(run - 1) * VOLUMES : run * VOLUMES]
        np.testing.assert_allclose(own, expected, rtol=1e-6, atol=2e-5)


def test_cleaned_blocks_equal_the_whole_run(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = 'subjects = ["01"]\nscaling = "zscore"\ndetrend = true\nconfounds = ["csf"]'
    whole = dataset.read(options)["response"].values
    asked: list[tuple[str, int, int]] = []
    original = fmri_cleaning.voxel_rows

    def spy(path: Path, ijk: np.ndarray, start: int, stop: int) -> object:
        asked.append((path.name, start, stop))
        return original(path, ijk, start, stop)

    monkeypatch.setattr(fmri_cleaning, "voxel_rows", spy)
    monkeypatch.setattr("repalign.loaders.continuous_fmri.BLOCK_BYTES", 7 * 4 * int(BRAIN.sum()))
    ds = dataset.read(options)
    assert ds["response"].chunks is not None
    assert ds["response"].chunks[0][:2] == (7, 7)
    assert asked == []
    part = ds["response"][VOLUMES + 3 : VOLUMES + 20].values
    assert {name for name, *_ in asked} == {dataset.bold("01", 2).name}
    np.testing.assert_array_equal(part, whole[VOLUMES + 3 : VOLUMES + 20])
    np.testing.assert_array_equal(ds["response"].values, whole)
    whole_runs = [one for one in asked if one[1:] == (0, VOLUMES)]
    assert len(set(whole_runs)) == 2


def test_cleaning_can_be_sent_to_another_process(dataset: Dataset) -> None:
    rows = fmri_cleaning.CleanedRows(
        dataset.bold("01", 1), np.argwhere(BRAIN), np.zeros((VOLUMES, 0)), "zscore", True
    )
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows))(3, 9), rows(3, 9))


def test_memory_stays_far_below_the_size_of_a_run(dataset: Dataset, tmp_path: Path) -> None:
    shape = (64, 64, 128, 150)
    header = nib.load(dataset.bold("01", 1)).header.copy()
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header["magic"], header["vox_offset"] = b"n+1", 352
    large = dataset.bold("01", 1).with_name(dataset.bold("01", 1).name.removesuffix(".gz"))
    with large.open("wb") as file:  # 157 MB, written as a hole
        file.write(header.binaryblock + b"\0" * 4)
        file.truncate(352 + int(np.prod(shape)) * 2)
    dataset.bold("01", 1).unlink()
    dataset.brain("01", 1).unlink()
    roi = np.zeros(shape[:3], np.uint8)
    roi[20:40, 20:40, 20:30] = 1
    nib.save(nib.Nifti1Image(roi, header.get_best_affine()), tmp_path / "roi.nii.gz")
    tracemalloc.start()
    options = 'subjects = ["01"]\nruns = ["1"]\ndetrend = true'
    values = dataset.read(options, roi_V1=tmp_path / "roi.nii.gz")["response"].values
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values.shape == (150, 4000)
    assert peak < 80e6


def test_ingest_keeps_volumes_events_and_attributes(dataset: Dataset, tmp_path: Path) -> None:
    options = 'subjects = ["01", "02"]\nscaling = "zscore"\nhigh_pass = 0.01'
    ds = ingest(dataset.card(options), to=tmp_path / "stores")
    direct = dataset.read(options)
    assert ds["response"].chunks is not None
    np.testing.assert_array_equal(ds["response"].values, direct["response"].values)
    assert ds["subject"].values.tolist() == ["sub-01"] * BRAIN.sum() + ["sub-02"] * BRAIN.sum()
    assert ds["onset_s"].values.tolist() == [0.5, 12.0, 13.0] * 2
    assert ds["duration_s"].values.tolist() == [10.0, 3.0, 0.0] * 2
    assert ds["event_run"].values.tolist() == ["1"] * 3 + ["2"] * 3
    assert ds["trial_type"].values.tolist() == ["scene", "scene", "button"] * 2
    assert ds["stimulus_id"].values.tolist() == ["b.mp4", "a.mp4", "n/a"] * 2
    np.testing.assert_array_equal(ds["reward"].values, [np.nan, 0.5, np.nan] * 2)
    assert ds.attrs["scaling"] == "zscore"
    assert ds.attrs["high_pass"] == 0.01
    assert ds.attrs["confounds"] == []
    checks = {one.check: one.passed for one in verify_store(ds.attrs["store"], progress=False)}
    assert checks["files"]
    assert checks["content"]
    again = ingest(dataset.card(options), to=tmp_path / "stores")
    assert again.attrs["fingerprint"] == ds.attrs["fingerprint"]
    second = select(ds, run="2")
    check_recording(second)
    assert dict(second.sizes) == {"time": VOLUMES, "neuroid": 2 * BRAIN.sum(), "event": 3}
    assert set(select(ds, subject="sub-02")["subject"].values) == {"sub-02"}


def test_an_atlas_cuts_the_brain_into_regions(dataset: Dataset, tmp_path: Path) -> None:
    atlas = np.zeros(SHAPE, np.int16)
    atlas[0], atlas[2] = 1, 2
    nib.save(nib.Nifti1Image(atlas, AFFINE), tmp_path / "atlas.nii.gz")
    (tmp_path / "atlas.tsv").write_text("index\tname\n1\tV1\n2\tPPA\n")
    ds = dataset.read(roi_atlas=tmp_path / "atlas.nii.gz", labels_atlas=tmp_path / "atlas.tsv")
    inside = [(atlas == label) & BRAIN for label in (1, 2)]
    assert ds["region"].values.tolist() == ["V1"] * inside[0].sum() + ["PPA"] * inside[1].sum()
    expected = np.concatenate([dataset.values["01", 1][mask] for mask in inside]).T
    np.testing.assert_array_equal(ds["response"].values[:VOLUMES], expected)


def test_sessions_make_the_names_of_runs_unique(dataset: Dataset) -> None:
    for session in ("a", "b"):
        folder = dataset.derivatives / "sub-01" / f"ses-{session}" / "func"
        folder.mkdir(parents=True)
        number = 1 if session == "a" else 2
        for path in (dataset.bold("01", number), dataset.brain("01", number)):
            name = path.name.replace("sub-01_", f"sub-01_ses-{session}_")
            name = name.replace(f"run-{number}", "run-1")
            path.rename(folder / name)
    ds = dataset.read()
    runs = list(dict.fromkeys(ds["run"].values))
    assert runs == ["ses-a_run-1", "ses-b_run-1"]
    np.testing.assert_array_equal(ds["response"].values[VOLUMES:], dataset.rows("01", 2))


def test_a_run_without_events_is_a_recording(dataset: Dataset) -> None:
    for run in (1, 2):
        dataset.events("01", run, ["0", "1", "scene", "a", "1"]).unlink()
    ds = dataset.read()
    assert "event" not in ds.dims
    check_recording(ds)


def test_events_beyond_their_run_are_an_error_or_cut(dataset: Dataset) -> None:
    dataset.events("01", 2, ["85", "20", "scene", "a", "1"])
    with pytest.raises(
        ValueError, match=r"run-2_events\.tsv: the event of row 1 .* lasts 90 s.*clip_events"
    ):
        dataset.read()
    ds = dataset.read('subjects = ["01"]\nclip_events = true')
    assert ds["duration_s"].values[-1] == 5.0
    ds = dataset.read('subjects = ["01"]\nignore = ["scene"]')
    assert ds["trial_type"].values.tolist() == ["button"]
    dataset.events("01", 2, ["95", "1", "scene", "a", "1"])
    with pytest.raises(ValueError, match="onset 95 s"):
        dataset.read('subjects = ["01"]\nclip_events = true')
    dataset.events("01", 2, ["1", "n/a", "scene", "a", "1"])
    with pytest.raises(ValueError, match="duration of row 1 is 'n/a'"):
        dataset.read()
    with pytest.raises(ValueError, match="no column 'film'; there are onset"):
        dataset.read('subjects = ["01"]\nstimulus = "film"')


def test_repetition_times_that_disagree_are_an_error(dataset: Dataset) -> None:
    sidecar = dataset.beside("01", 2, "bold.json")
    sidecar.write_text('{"RepetitionTime": 2.0}')
    with pytest.raises(ValueError, match=r"header says a repetition time of 1\.5 s, .* = 2"):
        dataset.read()
    image = nib.load(dataset.bold("01", 2))
    values = np.asarray(image.dataobj)
    image = nib.Nifti1Image(values, AFFINE)
    image.header.set_zooms((3, 3, 3, 2.0))
    nib.save(image, dataset.bold("01", 2))
    with pytest.raises(ValueError, match=r"run-2 has a repetition time of 2 s, .*run-1 of 1\.5 s"):
        dataset.read()
    sidecar.write_text('{"RepetitionTime": 2.0, "StartTime": 3.0}')
    with pytest.raises(ValueError, match="StartTime is 3 s, expected a time within"):
        dataset.read()


def test_masks_of_another_shape_and_missing_ones_name_the_files(dataset: Dataset) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 4, 2), np.uint8), AFFINE), dataset.brain("01", 2))
    with pytest.raises(ValueError, match=r"run-2.*brain_mask\.nii\.gz has voxels \(4, 4, 2\)"):
        dataset.read()
    dataset.brain("01", 2).unlink()
    with pytest.raises(ValueError, match=r"has no .*desc-brain_mask\.nii\.gz beside it"):
        dataset.read()


def test_runs_of_different_voxels_are_an_error(dataset: Dataset) -> None:
    dataset.save("01", 2, dataset.values["01", 2][:, :, :2])
    with pytest.raises(ValueError, match=r"run-2.* has voxels \(4, 4, 2\), .*run-1.*\(4, 4, 3\)"):
        dataset.read()


def test_subjects_who_saw_other_runs_do_not_stand_side_by_side(dataset: Dataset) -> None:
    both = 'subjects = ["01", "02"]'
    dataset.events("02", 2, ["1", "1", "scene", "c", "1"])
    with pytest.raises(ValueError, match="sub-02 has other events in run 2 as sub-01.*subjects"):
        dataset.read(both)
    dataset.save("02", 1, dataset.values["02", 1][..., :50])
    dataset.events("02", 2).unlink()
    with pytest.raises(ValueError, match="sub-02 has 50 volumes in run 1, not 60"):
        dataset.read(both)
    dataset.bold("02", 2).unlink()
    with pytest.raises(ValueError, match="sub-02 has runs 1, not 1, 2"):
        dataset.read(both)
    with pytest.raises(ValueError, match=r"no sub-09 \(subjects\); there is 01, 02"):
        dataset.read('subjects = ["09"]')


def test_values_that_cannot_be_cleaned_name_the_voxel(dataset: Dataset) -> None:
    values = dataset.values["01", 1].copy()
    values[1, 2, 0, 7] = np.nan
    dataset.save("01", 1, values)
    with pytest.raises(ValueError, match=r"1 neuroids \(first 'voxel-1-2-0'\) at 1 times .*11\.25"):
        check_recording(dataset.read())
    zscored = 'subjects = ["01"]\nscaling = "zscore"'
    with pytest.raises(ValueError, match=r"NaN or infinite values in 1 voxels \(first \(1, 2, 0\)"):
        dataset.read(zscored)["response"].compute()
    values[1, 2, 0] = 500
    dataset.save("01", 1, values)
    with pytest.raises(ValueError, match=r"does not vary .* in 1 voxels \(first \(1, 2, 0\)\)"):
        dataset.read(zscored)["response"].compute()
    dataset.save("01", 1, dataset.values["01", 1] - 1000)
    with pytest.raises(ValueError, match="has a mean of 0 or less"):
        dataset.read('subjects = ["01"]\nscaling = "percent"')["response"].compute()


def test_nan_is_found_while_a_store_is_written_and_none_is_left(
    dataset: Dataset, tmp_path: Path
) -> None:
    values = dataset.values["01", 1].copy()
    values[1, 2, 0, 7] = np.nan
    dataset.save("01", 1, values)
    with pytest.raises(ValueError, match=r"NaN or infinite values in 1 neuroids"):
        ingest(dataset.card('subjects = ["01"]'), to=tmp_path / "stores")
    assert not (tmp_path / "stores" / "film.zarr").exists()


def test_too_many_or_missing_confounds_are_an_error(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"run-1: .* explain all of its 60 volumes"):
        dataset.read('subjects = ["01"]\nhigh_pass = 0.33')
    with pytest.raises(ValueError, match=r"run-1: high_pass is 0\.4 Hz; .* above 0\.333333 Hz"):
        dataset.read('subjects = ["01"]\nhigh_pass = 0.4')
    with pytest.raises(ValueError, match=r"no column 'trans_z'"):
        dataset.read('subjects = ["01"]\nconfounds = ["trans_z"]')
    dataset.table("01", 1).unlink()
    with pytest.raises(ValueError, match=r"no desc-confounds_timeseries\.tsv"):
        dataset.read('subjects = ["01"]\nconfounds = ["csf"]')
    with pytest.raises(ValueError, match=r"options\.scaling = 'z': expected"):
        dataset.read('scaling = "z"')


def film(**changes: object) -> xr.Dataset:
    events = {"onset_s": [0.0, 3.0], "duration_s": [1.0, 1.0], "event_run": ["1", "2"]}
    arguments: dict[str, object] = {
        "run": ["1", "1", "2", "2"],
        "repetition_time_s": 2.0,
        "region": "V1",
        "events": events,
    }
    return make_continuous_recording(np.zeros((4, 2)), **(arguments | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("coordinate", "values", "message"),
    [
        ("time_s", [0, 2, 2, 0], r"run '2': time_s goes from 2 to 0 s"),
        ("time_s", [0, 3, 0, 2], r"run '1': time_s goes from 0 to 3 s, but the repetition time"),
        ("time_s", [0, np.nan, 0, 2], "time_s has NaN"),
        ("run", ["1", "2", "1", "2"], "run '1' goes on at row 2 after another run"),
        ("neuroid_id", ["a", "a"], "same neuroid_id"),
        ("onset_s", [0.0, 3.5], "event 1 lasts until 4.5 s, its run '2' until 4 s"),
        ("onset_s", [-1.0, 3.0], "event 0 has onset -1 s"),
        ("duration_s", [np.nan, 1.0], "event 0 has onset 0 s and duration nan"),
        ("event_run", ["1", "3"], "event 1 is of run '3'; there are 1, 2"),
    ],
)
def test_check_recording_says_what_is_wrong_with_times_and_events(
    coordinate: str, values: list[object], message: str
) -> None:
    ds = film()
    check_recording(ds)
    kind = object if isinstance(values[0], str) else float
    column = np.array(values, dtype=kind)
    ds = ds.assign_coords({coordinate: (ds[coordinate].dims, column)})
    with pytest.raises(ValueError, match=message):
        check_recording(ds)


def test_a_run_ends_with_its_last_volume_wherever_that_is_measured() -> None:
    for reference in (0.0, 0.5, 1.0):
        events = {"onset_s": [3.0], "duration_s": [1.0], "event_run": ["2"]}
        check_recording(film(slice_time_ref=reference, events=events))
        with pytest.raises(ValueError, match=r"until 4\.1 s, its run '2' until 4 s"):
            film(slice_time_ref=reference, events=events | {"duration_s": [1.1]})


def test_check_recording_wants_the_schema_of_continuous_data() -> None:
    ds = film()
    with pytest.raises(ValueError, match="attribute 'repetition_time_s' is None"):
        check_recording(ds.drop_attrs())
    with pytest.raises(ValueError, match="coordinate 'run' is missing"):
        check_recording(ds.drop_vars("run"))
    with pytest.raises(ValueError, match="expected \\(time, neuroid\\)"):
        check_recording(ds.transpose("neuroid", "time", "event"))
    with pytest.raises(ValueError, match="repetition_time_s is 0"):
        film(repetition_time_s=0)
    with pytest.raises(ValueError, match="run has shape \\(3,\\)"):
        film(run=["1", "1", "2"])
    with pytest.raises(ValueError, match="'run', which is a coordinate"):
        film(events={"run": ["1"]})
    with pytest.raises(ValueError, match="events have no duration_s, event_run"):
        film(events={"onset_s": [1.0]})

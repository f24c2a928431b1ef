"""BIDS derivatives: single-trial responses equal least squares, and bad datasets say why."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from nilearn.glm.first_level import FirstLevelModel, make_first_level_design_matrix
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score

import repalign.loaders
from repalign import ingest
from repalign.cards import load_dataset_card
from repalign.loaders import bids_glm
from repalign.loaders.bids_glm import read
from repalign.stimuli import encode_png, open_stimuli

TR, VOLUMES, SHAPE, TRIALS = 2.0, 120, (4, 4, 3), 12
AFFINE = np.diag([3.0, 3, 3, 1])
BRAIN = np.ones(SHAPE, bool)
BRAIN[0, 0] = False
GRID = "sub-01/ses-1/func/sub-01_ses-1_task-objects_run-{}_space-MNI_desc-preproc_bold"


class Dataset:
    """Two runs of one subject, with known responses of every voxel to every trial."""

    def __init__(self, folder: Path, noise: float = 1.0) -> None:
        self.folder = folder
        self.raw, self.derivatives = folder / "raw", folder / "derivatives"
        random = np.random.default_rng(0)
        self.rows: list[np.ndarray] = []
        self.planted: list[np.ndarray] = []
        for place in (self.func(self.raw), self.func(self.derivatives)):
            place.mkdir(parents=True)
        for run in (1, 2):
            order = random.permutation(TRIALS)
            events = pd.DataFrame(
                {
                    "onset": 4.0 + 18 * np.arange(TRIALS) + random.uniform(0, 4, TRIALS).round(1),
                    "duration": 1.0,
                    "trial_type": "image",
                    "stimulus": [f"object-{i:02d}" for i in order],
                    "response_time": ["n/a", *random.uniform(0.3, 0.9, TRIALS - 1).round(3)],
                    "response": ["left", "right"] * (TRIALS // 2),
                    "code": [f"{i:03d}" for i in order],
                }
            )
            events.to_csv(self.events(run), sep="\t", index=False)
            confounds = pd.DataFrame(random.standard_normal((VOLUMES, 3)))
            confounds.columns = ["trans_x", "trans_y", "trans_x_derivative1"]
            confounds["csf"] = random.standard_normal(VOLUMES)
            confounds.to_csv(self.confounds(run), sep="\t", index=False)
            text = self.confounds(run).read_text().splitlines()
            cells = text[1].split("\t")
            cells[2] = "n/a"
            self.confounds(run).write_text("\n".join([text[0], "\t".join(cells), *text[2:]]))
            confounds.loc[0, "trans_x_derivative1"] = 0
            betas = random.uniform(5, 15, (TRIALS, *SHAPE))
            signal = np.tensordot(self.design(run)[:, :TRIALS].T, betas, (0, 0))
            drift = 5 * np.cos(np.pi * (np.arange(VOLUMES) + 0.5) / VOLUMES)[:, None, None, None]
            values = 1000 + signal + drift + noise * random.standard_normal(signal.shape)
            values = np.moveaxis(values, 0, 3).astype(np.float32)
            self.save(run, values)
            sidecar = {"RepetitionTime": TR}
            self.bold(run).with_name(self.bold(run).name.replace("nii.gz", "json")).write_text(
                json.dumps(sidecar)
            )
            nib.save(nib.Nifti1Image(BRAIN.astype(np.uint8), AFFINE), self.brain(run))
            self.rows.append(values[BRAIN].T.astype(np.float64))
            self.planted.append(betas[:, BRAIN])

    def func(self, root: Path) -> Path:
        return root / "sub-01" / "ses-1" / "func"

    def bold(self, run: int) -> Path:
        return self.derivatives / (GRID.format(run) + ".nii.gz")

    def brain(self, run: int) -> Path:
        name = self.bold(run).name.replace("desc-preproc_bold", "desc-brain_mask")
        return self.bold(run).with_name(name)

    def events(self, run: int) -> Path:
        return self.func(self.raw) / f"sub-01_ses-1_task-objects_run-{run}_events.tsv"

    def confounds(self, run: int) -> Path:
        name = f"sub-01_ses-1_task-objects_run-{run}_desc-confounds_timeseries.tsv"
        return self.func(self.derivatives) / name

    def save(self, run: int, values: np.ndarray) -> None:
        image = nib.Nifti1Image(values, AFFINE)
        image.header.set_zooms((3, 3, 3, TR))
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, self.bold(run))

    def edit_events(self, run: int, **columns: object) -> pd.DataFrame:
        table = pd.read_csv(self.events(run), sep="\t", dtype=str, keep_default_na=False)
        for name, values in columns.items():
            table[name] = values
        table.to_csv(self.events(run), sep="\t", index=False)
        return table

    def design(self, run: int, hrf: str = "glover", trial: int | None = None) -> np.ndarray:
        """Trial regressors first, by the library itself; with `trial`: it, then the others."""
        table = pd.read_csv(self.events(run), sep="\t")[["onset", "duration"]]
        names = [f"t{i:02d}" for i in range(len(table))]
        if trial is not None:
            names = ["t00" if i == trial else "u" for i in range(len(table))]
        matrix = make_first_level_design_matrix(
            np.arange(VOLUMES) * TR, table.assign(trial_type=names), hrf_model=hrf
        )
        first = sorted(set(names))
        return matrix[first + [c for c in matrix.columns if c not in first]].to_numpy()

    def card(self, options: str = "", files: str = "") -> Path:
        path = self.folder / "study.toml"
        path.write_text(
            'name = "study"\nspecies = "human"\nregions = "brain"\nloader = "bids_glm"\n'
            f'[files]\nderivatives = "derivatives"\nraw = "raw"\n{files}\n'
            f'[options]\nstimulus = "stimulus"\n{options}\n'
        )
        return path

    def read(self, options: str = "", **files: Path) -> xr.Dataset:
        card = load_dataset_card(self.card(options))
        return read(card, {"derivatives": self.derivatives, "raw": self.raw} | files)[0]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"bids_glm": "repalign.loaders.bids_glm:read"}
    monkeypatch.setattr(repalign.loaders, "LOADERS", {**repalign.loaders.LOADERS, **entry})


def test_lsa_equals_least_squares_on_the_same_design(dataset: Dataset) -> None:
    values = dataset.read('scaling = "none"')["response"].values
    for run in (1, 2):
        found = values[(run - 1) * TRIALS : run * TRIALS]
        expected = np.linalg.lstsq(dataset.design(run), dataset.rows[run - 1])[0][:TRIALS]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*Generation of a mask has been requested")
def test_lsa_equals_nilearns_first_level_model(dataset: Dataset) -> None:
    events = pd.read_csv(dataset.events(1), sep="\t")[["onset", "duration"]]
    events["trial_type"] = [f"t{i:02d}" for i in range(TRIALS)]
    mask = nib.Nifti1Image(BRAIN.astype(np.uint8), AFFINE)
    model = FirstLevelModel(t_r=TR, noise_model="ols", mask_img=mask, minimize_memory=False)
    model.fit(nib.load(dataset.bold(1)), events=events)
    effects = [
        model.compute_contrast(f"t{i:02d}", output_type="effect_size") for i in range(TRIALS)
    ]
    expected = [np.asarray(effect.dataobj)[BRAIN] for effect in effects]
    found = dataset.read()["response"].values[:TRIALS]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_lss_equals_one_model_a_trial_and_recovers_planted_responses(tmp_path: Path) -> None:
    dataset = Dataset(tmp_path, noise=0.1)
    ds = dataset.read('estimator = "lss"\nscaling = "none"')
    found = ds["response"].values[:TRIALS]
    for trial in (0, 5):
        solution = np.linalg.lstsq(dataset.design(1, trial=trial), dataset.rows[0])[0]
        np.testing.assert_allclose(found[trial], solution[0], rtol=1e-6, atol=1e-5)
    planted = np.concatenate(dataset.planted)
    assert np.corrcoef(ds["response"].values.ravel(), planted.ravel())[0, 1] > 0.95
    assert ds.attrs["estimator"] == "lss"


def test_derivatives_and_confounds_enter_the_design(dataset: Dataset) -> None:
    ds = dataset.read(
        'hrf_model = "spm + derivative"\nconfounds = ["trans_?", "trans_x_derivative1"]\n'
        'scaling = "none"'
    )
    table = pd.read_csv(dataset.confounds(1), sep="\t").fillna(0)
    extra = table[["trans_x", "trans_y", "trans_x_derivative1"]].to_numpy()
    design = np.hstack([dataset.design(1, "spm + derivative"), extra])
    expected = np.linalg.lstsq(design, dataset.rows[0])[0][:TRIALS]
    np.testing.assert_allclose(ds["response"].values[:TRIALS], expected, rtol=1e-5, atol=1e-5)
    assert ds.attrs["confounds"] == ["trans_?", "trans_x_derivative1"]


def test_events_that_are_no_trials_are_modelled_or_ignored(dataset: Dataset) -> None:
    kinds = ["image"] * (TRIALS - 3) + ["button", "button", "fixation"]
    for run in (1, 2):
        dataset.edit_events(run, trial_type=kinds)
    ds = dataset.read('trial_types = ["image"]\nignore = ["fixation"]\nscaling = "none"')
    assert ds.sizes["presentation"] == 2 * (TRIALS - 3)
    events = pd.read_csv(dataset.events(1), sep="\t")[["onset", "duration"]][: TRIALS - 1]
    events["trial_type"] = [f"t{i:02d}" for i in range(TRIALS - 3)] + ["u", "u"]
    design = make_first_level_design_matrix(np.arange(VOLUMES) * TR, events).to_numpy()
    expected = np.linalg.lstsq(design, dataset.rows[0])[0][: TRIALS - 3]
    np.testing.assert_allclose(ds["response"].values[: TRIALS - 3], expected, rtol=1e-6, atol=1e-6)


def test_percent_is_of_each_voxels_mean_in_the_run(dataset: Dataset) -> None:
    plain = dataset.read('scaling = "none"')["response"].values[TRIALS:]
    percent = dataset.read()["response"].values[TRIALS:]
    np.testing.assert_allclose(percent, 100 * plain / dataset.rows[1].mean(axis=0), rtol=1e-5)


def test_ridge_shrinks_each_voxel_to_a_fraction_of_its_length(dataset: Dataset) -> None:
    fracridge = pytest.importorskip("fracridge")
    plain = dataset.read('scaling = "none"')["response"].values[:TRIALS]
    same = dataset.read('scaling = "none"\nridge_fraction = 1.0')["response"].values[:TRIALS]
    np.testing.assert_allclose(same, plain, rtol=1e-4, atol=1e-4)
    half = dataset.read('scaling = "none"\nridge_fraction = 0.5')["response"].values[:TRIALS]
    lengths = np.linalg.norm(half, axis=0) / np.linalg.norm(plain, axis=0)
    np.testing.assert_allclose(lengths, 0.5, rtol=0.02)
    design = dataset.design(1)
    trials, nuisance = design[:, :TRIALS], design[:, TRIALS:]
    trials, rows = (
        x - nuisance @ np.linalg.lstsq(nuisance, x)[0] for x in (trials, dataset.rows[0])
    )
    expected = fracridge.fracridge(trials, rows, np.array([0.5]), jit=False)[0].squeeze()
    np.testing.assert_allclose(half, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="ridge_fraction applies to estimator = 'lsa' only"):
        dataset.read('ridge_fraction = 0.5\nestimator = "lss"')


def test_ridge_without_its_package_names_the_extra(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fracridge", None)
    with pytest.raises(ImportError, match=r"pip install 'repalign\[fmri\]'"):
        dataset.read("ridge_fraction = 0.5")["response"].compute()


def test_events_columns_become_coordinates(dataset: Dataset) -> None:
    ds = dataset.read()
    table = pd.read_csv(dataset.events(1), sep="\t", dtype=str, keep_default_na=False)
    assert ds["stimulus_id"].values[:TRIALS].tolist() == table["stimulus"].tolist()
    assert ds["repetition"].values.tolist() == [0] * TRIALS + [1] * TRIALS
    assert ds["run"].values.tolist() == ["1"] * TRIALS + ["2"] * TRIALS
    assert set(ds["session"].values) == {"1"}
    assert np.isnan(ds["response_time"].values[0])
    np.testing.assert_array_equal(
        ds["response_time"].values[1:TRIALS], table["response_time"][1:].astype(float)
    )
    assert ds["event_response"].values[:2].tolist() == ["left", "right"]
    assert ds["code"].values[:TRIALS].tolist() == table["code"].tolist()
    assert set(ds["subject"].values) == {"sub-01"}
    assert ds.sizes["neuroid"] == BRAIN.sum()
    assert ds.attrs["repetition_time_s"] == [TR]


def test_each_run_is_one_lazy_block(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = bids_glm.voxel_rows

    def spy(path: Path, ijk: np.ndarray, start: int, stop: int) -> object:
        asked.append(path.name)
        return original(path, ijk, start, stop)

    monkeypatch.setattr(bids_glm, "voxel_rows", spy)
    ds = dataset.read()
    assert asked == []
    ds["response"][TRIALS + 1 :].compute()
    assert asked == [dataset.bold(2).name]


def test_memory_stays_far_below_the_size_of_a_run(dataset: Dataset, tmp_path: Path) -> None:
    shape = (64, 64, 160, VOLUMES)
    header = nib.load(dataset.bold(1)).header.copy()
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header["magic"], header["vox_offset"] = b"n+1", 352
    large = dataset.bold(1).with_name(dataset.bold(1).name.removesuffix(".gz"))
    with large.open("wb") as file:  # 157 MB, written as a hole
        file.write(header.binaryblock + b"\0" * 4)
        file.truncate(352 + int(np.prod(shape)) * 2)
    dataset.bold(1).unlink()
    roi = np.zeros(shape[:3], np.uint8)
    roi[20:40, 20:40, 20:30] = 1
    nib.save(nib.Nifti1Image(roi, header.get_best_affine()), tmp_path / "roi.nii.gz")
    options = 'runs = ["1"]\nscaling = "none"'
    dataset.brain(1).unlink()
    tracemalloc.start()
    values = dataset.read(options, roi_IT=tmp_path / "roi.nii.gz")["response"].values
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values.shape == (TRIALS, 4000)
    assert peak < 80e6


def test_start_time_of_the_sidecar_shifts_the_frames(dataset: Dataset) -> None:
    plain = dataset.read()["response"].values
    for run in (1, 2):
        sidecar = dataset.bold(run).with_name(dataset.bold(run).name.replace("nii.gz", "json"))
        sidecar.write_text(json.dumps({"RepetitionTime": TR, "StartTime": 1.0}))
    ds = dataset.read()
    assert ds.attrs["slice_time_ref"] == [0.5]
    assert not np.allclose(ds["response"].values, plain)
    np.testing.assert_array_equal(dataset.read("slice_time_ref = 0")["response"].values, plain)


def test_atlas_regions_and_images_come_with_the_trials(
    dataset: Dataset, known: None, tmp_path: Path, random: np.random.Generator
) -> None:
    atlas = np.zeros(SHAPE, np.int16)
    atlas[1], atlas[2] = 1, 2
    nib.save(nib.Nifti1Image(atlas, AFFINE), tmp_path / "atlas.nii.gz")
    (tmp_path / "atlas.tsv").write_text("index\tname\n1\tV1\n2\tIT\n")
    (tmp_path / "images").mkdir()
    for i in range(TRIALS):
        picture = encode_png(random.integers(0, 255, (8, 8, 3)).astype(np.uint8))
        (tmp_path / "images" / f"object-{i:02d}.png").write_bytes(picture)
    roles = 'roi_atlas = "atlas.nii.gz"\nlabels_atlas = "atlas.tsv"\nimages = "images"'
    ds = ingest(dataset.card(files=roles), to=tmp_path / "stores")
    assert ds["region"].values.tolist() == ["V1"] * 12 + ["IT"] * 12
    stimuli = open_stimuli(ds)
    assert len(stimuli) == TRIALS
    assert stimuli.files[0] == (tmp_path / "images" / f"{stimuli.ids[0]}.png").read_bytes()
    direct = dataset.read(roi_atlas=tmp_path / "atlas.nii.gz")
    np.testing.assert_array_equal(ds["response"].values, direct["response"].values)
    (tmp_path / "images" / "object-03.png").unlink()
    with pytest.raises(ValueError, match="lacks 'object-03'"):
        ingest(dataset.card(files=roles), to=tmp_path / "stores", overwrite=True)


def test_another_repetition_time_in_the_sidecar_is_an_error(dataset: Dataset) -> None:
    sidecar = dataset.bold(1).with_name(dataset.bold(1).name.replace("nii.gz", "json"))
    sidecar.write_text('{"RepetitionTime": 1.5}')
    with pytest.raises(
        ValueError, match=r"repetition time of 2 s, .*json says RepetitionTime = 1\.5"
    ):
        dataset.read()
    sidecar.write_text("{")
    with pytest.raises(ValueError, match=r"bold\.json is no JSON"):
        dataset.read()


def test_the_repetition_time_of_the_raw_dataset_counts(dataset: Dataset) -> None:
    for run in (1, 2):
        dataset.bold(run).with_name(dataset.bold(run).name.replace("nii.gz", "json")).unlink()
    assert dataset.read().attrs["repetition_time_s"] == [TR]
    (dataset.raw / "task-objects_bold.json").write_text('{"RepetitionTime": 3}')
    with pytest.raises(ValueError, match=r"task-objects_bold\.json says RepetitionTime = 3"):
        dataset.read()


def test_bad_events_say_the_file_and_the_row(dataset: Dataset) -> None:
    good = dataset.edit_events(1)["onset"].tolist()
    dataset.edit_events(1, onset=[*good[:-1], "239.5"])
    with pytest.raises(ValueError, match=r"run-1_events\.tsv: the event of row 12 .*lasts 240 s"):
        dataset.read()
    dataset.edit_events(1, onset=[good[0], good[0], *good[2:]])
    with pytest.raises(ValueError, match="row 2 and an earlier row both start at"):
        dataset.read()
    dataset.edit_events(1, onset=["n/a", *good[1:]])
    with pytest.raises(ValueError, match="onset of row 1 is 'n/a', expected a number"):
        dataset.read()
    dataset.edit_events(1, onset=good, stimulus="n/a")
    with pytest.raises(ValueError, match=r"row 1 has no stimulus"):
        dataset.read()
    with pytest.raises(ValueError, match="no column 'picture'; there are onset, duration"):
        _read_with_stimulus(dataset, "picture")
    dataset.events(1).unlink()
    with pytest.raises(ValueError, match=r"ses-1_task-objects_run-1: no events\.tsv in"):
        dataset.read()


def _read_with_stimulus(dataset: Dataset, name: str) -> xr.Dataset:
    path = dataset.card()
    path.write_text(path.read_text().replace('"stimulus"', f'"{name}"'))
    files = {"derivatives": dataset.derivatives, "raw": dataset.raw}
    return read(load_dataset_card(path), files)[0]


def test_trials_that_cannot_be_told_apart_are_an_error(dataset: Dataset) -> None:
    good = dataset.edit_events(1)["onset"].astype(float)
    dataset.edit_events(1, onset=[good[0], good[0] + 1e-7, *good[2:]])
    with pytest.raises(ValueError, match=r"run-1: 2 of 12 trials .* cannot be told from other"):
        dataset.read()


def test_missing_confounds_say_what_there_is(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"no column 'trans_z' \(confounds\); did you mean trans_"):
        dataset.read('confounds = ["trans_z"]')
    text = dataset.confounds(1).read_text().splitlines()
    dataset.confounds(1).write_text("\n".join(text[:-1]))
    with pytest.raises(ValueError, match="has 119 rows, its run has 120 volumes"):
        dataset.read('confounds = ["csf"]')
    text[4] = "\t".join(["1", "2", "3", "n/a"])
    dataset.confounds(1).write_text("\n".join(text))
    with pytest.raises(ValueError, match="csf of row 4 is 'n/a', expected a number"):
        dataset.read('confounds = ["csf"]')
    dataset.confounds(1).unlink()
    with pytest.raises(ValueError, match=r"no desc-confounds_timeseries\.tsv"):
        dataset.read('confounds = ["csf"]')


def test_masks_of_another_shape_name_both_files(dataset: Dataset, tmp_path: Path) -> None:
    other = nib.Nifti1Image(np.ones((4, 4, 2), np.uint8), AFFINE)
    nib.save(other, tmp_path / "mask.nii.gz")
    with pytest.raises(ValueError, match=r"mask\.nii\.gz has voxels \(4, 4, 2\), .*bold\.nii\.gz"):
        dataset.read(mask=tmp_path / "mask.nii.gz")
    nib.save(other, dataset.brain(2))
    with pytest.raises(ValueError, match=r"run-2.*brain_mask\.nii\.gz has voxels \(4, 4, 2\)"):
        dataset.read()
    dataset.brain(2).unlink()
    with pytest.raises(ValueError, match=r"has no .*desc-brain_mask\.nii\.gz beside it"):
        dataset.read()


def test_selections_that_find_nothing_or_too_much_list_what_there_is(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"no sub-02 \(subject\); there is 01"):
        dataset.read('subject = "sub-02"')
    with pytest.raises(ValueError, match=r"no run-3 \(runs\); there is 1, 2"):
        dataset.read('runs = ["3"]')
    assert dataset.read('runs = ["2"]\nsessions = ["1"]').sizes["presentation"] == TRIALS
    with pytest.raises(ValueError, match="with desc-smoothed; set desc"):
        dataset.read('desc = "smoothed"')
    with pytest.raises(ValueError, match="high_pass applies to drift_model = 'cosine' only"):
        dataset.read('drift_model = "polynomial"\nhigh_pass = 0.02')
    with pytest.raises(ValueError, match=r"options\.hrf_model = 'fir': expected 'glover'"):
        dataset.read('hrf_model = "fir"')
    copy = dataset.bold(1).with_name(dataset.bold(1).name.replace("MNI", "T1w"))
    copy.write_bytes(dataset.bold(1).read_bytes())
    with pytest.raises(ValueError, match="several of space-: MNI, T1w; set space"):
        dataset.read()
    assert dataset.read('space = "MNI"').sizes["presentation"] == 2 * TRIALS


def test_voxels_without_signal_have_no_percent(dataset: Dataset) -> None:
    values = np.asarray(nib.load(dataset.bold(1)).dataobj).copy()
    values[1, 1, 1] = 0
    dataset.save(1, values)
    ds = dataset.read()
    with pytest.raises(
        ValueError, match=r"1 voxels have a mean of 0 or less \(first \(1, 1, 1\)\)"
    ):
        ds["response"].compute()
    values[1, 1, 1, 3] = np.nan
    dataset.save(1, values)
    with pytest.raises(ValueError, match=r"NaN or infinite values in voxel \(1, 1, 1\)"):
        dataset.read()["response"].compute()


def test_responses_to_the_blocks_of_a_real_recording_tell_its_categories(
    data_folder: Path, tmp_path: Path
) -> None:
    """One response a block of the Haxby slice: eight categories in runs left out."""
    source = nib.load(data_folder / "haxby2001_slice" / "bold.nii.gz")
    text = (data_folder / "haxby2001_slice" / "attributes_literal.txt").read_text()
    labels = [tuple(line.split()) for line in text.splitlines()]
    folder = tmp_path / "bids" / "sub-1" / "func"
    folder.mkdir(parents=True)
    values = np.asarray(source.dataobj)
    for run in range(12):
        volumes = [i for i, (_, number) in enumerate(labels) if number == str(run)]
        starts = [
            i for i in volumes if labels[i][0] != "rest" and (i == 0 or labels[i - 1] != labels[i])
        ]
        stem = f"sub-1_task-objects_run-{run + 1}"
        image = nib.Nifti1Image(values[..., volumes], source.affine, source.header)
        nib.save(image, folder / f"{stem}_desc-preproc_bold.nii.gz")
        events = pd.DataFrame(
            {
                "onset": [2.5 * (i - volumes[0]) for i in starts],
                "duration": 22.5,
                "trial_type": [labels[i][0] for i in starts],
            }
        )
        events.to_csv(folder / f"{stem}_events.tsv", sep="\t", index=False)
    card = tmp_path / "study.toml"
    card.write_text(
        'name = "study"\nspecies = "human"\nregions = "VT"\nloader = "bids_glm"\n'
        '[files]\nderivatives = "bids"\n[options]\nscaling = "percent"\n'
    )
    files = {
        "derivatives": tmp_path / "bids",
        "mask": data_folder / "haxby2001_slice" / "mask.nii.gz",
    }
    ds, _ = read(load_dataset_card(card), files)
    assert dict(ds.sizes) == {"presentation": 96, "neuroid": 530}
    rows = ds["response"].values
    run = ds["run"].values.astype(str)
    for name in set(run):
        rows[run == name] -= rows[run == name].mean(axis=0)
        rows[run == name] /= rows[run == name].std(axis=0)
    score = cross_val_score(
        RidgeClassifier(alpha=1.0),
        rows,
        ds["stimulus_id"].values.astype(str),
        groups=run,
        cv=LeaveOneGroupOut(),
    ).mean()
    assert score == pytest.approx(0.65, abs=0.04)  # these labels lag behind the stimuli already

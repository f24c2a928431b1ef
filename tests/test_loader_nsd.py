"""NSD's prepared betas, in files of its own layout with a tiny brain."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.io import savemat

import repalign.loaders
from repalign import ingest
from repalign.cards import load_dataset_card
from repalign.loaders import lazy, nsd
from repalign.loaders.nsd import read
from repalign.stimuli import decode, open_stimuli

SHAPE, SESSIONS, SUBJECT = (5, 4, 3), 2, 2
AFFINE = np.diag([1.8, 1.8, 1.8, 1])
FOLDER = Path(__file__).parent.parent / "neural_data"


class Release:
    """The folders of the release for one subject; MATLAB writes axes in reverse."""

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(0)
        self.folder = folder
        self.betas = folder / "ppdata/subj02/func1pt8mm/betas_fithrf_GLMdenoise_RR"
        self.rois = folder / "ppdata/subj02/func1pt8mm/roi"
        self.betas.mkdir(parents=True)
        self.rois.mkdir()
        # 1-based: images 1 to 1000 of each subject's 10000 are those shared by all
        shared = np.sort(random.permutation(72999)[:1000]) + 1
        own = np.setdiff1d(np.arange(1, 73001), shared)
        self.images = np.array(
            [np.concatenate([shared, random.permutation(own)[:9000]]) for _ in range(8)]
        )
        self.ordering = random.permutation(np.repeat(np.arange(1, 10001), 3))
        self.design = {
            "masterordering": self.ordering[None].astype(np.float64),
            "subjectim": self.images.astype(np.float64),
            "sharedix": shared[None].astype(np.float64),
        }
        savemat(folder / "nsd_expdesign.mat", self.design)
        self.shared = shared
        info = pd.DataFrame({"cocoId": np.arange(73000) * 7 + 3, "nsdId": np.arange(73000)})
        info["shared1000"] = info["nsdId"].isin(shared - 1)
        self.info = info
        info.to_csv(folder / "nsd_stim_info_merged.csv")
        self.values = random.integers(-3000, 3000, (SESSIONS, 750, *SHAPE)).astype(np.int16)
        for session, values in enumerate(self.values, start=1):
            self.write(session, values)
        self.roi = np.full(SHAPE, -1.0, np.float32)
        self.roi[1:4, 1:] = 0
        self.roi[1, 1:], self.roi[3, 2] = 1, 7
        nib.save(nib.Nifti1Image(self.roi, AFFINE), self.rois / "prf-visualrois.nii.gz")
        nib.save(nib.Nifti1Image((self.roi > 0) * 1.0, AFFINE), self.rois / "nsdgeneral.nii.gz")
        self.brick = random.integers(0, 255, (73000, 3, 3, 3)).astype(np.uint8)
        with h5py.File(folder / "nsd_stimuli.hdf5", "w") as file:
            file.create_dataset("imgBrick", data=self.brick, chunks=(1000, 3, 3, 3))

    def write(self, session: int, values: np.ndarray) -> None:
        with h5py.File(self.betas / f"betas_session{session:02d}.hdf5", "w") as file:
            file["betas"] = np.ascontiguousarray(values.transpose(0, 3, 2, 1))

    @property
    def files(self) -> dict[str, Path]:
        return {
            "betas": self.betas,
            "expdesign": self.folder / "nsd_expdesign.mat",
            "stim_info": self.folder / "nsd_stim_info_merged.csv",
            "stimuli": self.folder / "nsd_stimuli.hdf5",
            "roi_prf-visualrois": self.rois / "prf-visualrois.nii.gz",
        }

    def card(self, options: str = "", drop: str = "") -> Path:
        path = self.folder / "study.toml"
        roles = "\n".join(
            f'{role} = "{file.relative_to(self.folder)}"'
            for role, file in self.files.items()
            if role != drop
        )
        path.write_text(
            'name = "study"\nspecies = "human"\nregions = ["V1v", "hV4"]\nloader = "nsd"\n'
            f"[files]\n{roles}\n[options]\nsubject = {SUBJECT}\n{options}\n"
        )
        return path

    def read(self, options: str = "", **files: Path) -> xr.Dataset:
        return read(load_dataset_card(self.card(options)), self.files | files)[0]

    @property
    def rows(self) -> np.ndarray:
        """All trials of V1v, then of hV4."""
        flat = self.values.reshape(-1, *SHAPE)
        return np.hstack([flat[:, self.roi == 1], flat[:, self.roi == 7]])

    @property
    def nsd_id(self) -> np.ndarray:
        shown = self.ordering[: SESSIONS * 750]
        return self.images[SUBJECT - 1, shown - 1] - 1


@pytest.fixture(scope="module")
def shared_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return Release(tmp_path_factory.mktemp("nsd"))


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"nsd": "repalign.loaders.nsd:read"}
    monkeypatch.setattr(repalign.loaders, "LOADERS", {**repalign.loaders.LOADERS, **entry})


def test_betas_are_percent_signal_change_of_the_right_voxels_and_images(
    shared_release: Release,
) -> None:
    ds = shared_release.read()
    expected = (shared_release.rows / 300.0).astype(np.float32)
    np.testing.assert_array_equal(ds["response"].values, expected)
    assert ds["nsd_id"].values.tolist() == shared_release.nsd_id.tolist()
    assert ds["stimulus_id"].values[0] == f"nsd-{shared_release.nsd_id[0]:05d}"
    assert ds["coco_id"].values.tolist() == (shared_release.nsd_id * 7 + 3).tolist()
    assert ds["region"].values.tolist() == ["V1v"] * 9 + ["hV4"] * 3
    assert ds["neuroid_id"].values[0] == "voxel-1-1-0"
    assert set(ds["subject"].values) == {"subj02"}
    assert ds["session"].values.tolist() == [1] * 750 + [2] * 750
    assert ds["trial"].values[749:751].tolist() == [749, 0]
    assert ds.attrs["zscore"] == "none"
    assert ds.attrs["version"] == "betas_fithrf_GLMdenoise_RR"


def test_shared_images_can_be_chosen(shared_release: Release) -> None:
    ds = shared_release.read('stimuli = "shared1000"')
    keep = np.isin(shared_release.nsd_id, shared_release.shared - 1)
    assert ds["nsd_id"].values.tolist() == shared_release.nsd_id[keep].tolist()
    assert ds["shared"].values.all()
    expected = (shared_release.rows[keep] / 300.0).astype(np.float32)
    np.testing.assert_array_equal(ds["response"].values, expected)


def test_the_515_are_those_seen_three_times_in_the_sessions_of_all(release: Release) -> None:
    shown = release.ordering[: 30 * 750]
    thrice = [i for i in range(1, 1001) if (shown == i).sum() == 3]
    ds = release.read('stimuli = "shared515"')
    expected = [i for i in release.ordering[: SESSIONS * 750].tolist() if i in set(thrice)]
    assert ds["nsd_id"].values.tolist() == [release.images[0, i - 1] - 1 for i in expected]


def test_z_scores_are_over_all_trials_of_a_session_and_recorded(shared_release: Release) -> None:
    ds = shared_release.read('zscore = "session"\nstimuli = "shared1000"')
    rows = shared_release.rows / 300.0
    parts = [(p - p.mean(axis=0)) / p.std(axis=0) for p in (rows[:750], rows[750:])]
    keep = np.isin(shared_release.nsd_id, shared_release.shared - 1)
    np.testing.assert_allclose(ds["response"].values, np.vstack(parts)[keep], rtol=1e-5, atol=1e-6)
    assert ds.attrs["zscore"] == "session"


def test_blocks_read_their_own_session_and_planes_only(
    shared_release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    original = nsd.open_hdf5
    monkeypatch.setattr(lazy_rows_block(monkeypatch), "BLOCK_BYTES", 100 * 12 * 4)
    ds = shared_release.read()
    monkeypatch.setattr(nsd, "open_hdf5", lambda path: (asked.append(path), original(path))[1])
    values = ds["response"][800:820].values
    assert [path.name for path in asked] == ["betas_session02.hdf5"]
    np.testing.assert_array_equal(values, (shared_release.rows[800:820] / 300).astype(np.float32))


def lazy_rows_block(monkeypatch: pytest.MonkeyPatch) -> object:
    """Make the loader's blocks follow `lazy.BLOCK_BYTES`."""
    original = lazy.lazy_rows
    monkeypatch.setattr(
        nsd, "lazy_rows", lambda *args: original(*args, block_bytes=lazy.BLOCK_BYTES)
    )
    return lazy


def test_memory_stays_far_below_the_size_of_a_session(release: Release) -> None:
    shape = (64, 60, 36)  # 207 MB a session
    for session in (1, 2):
        with h5py.File(release.betas / f"betas_session{session:02d}.hdf5", "w") as file:
            file.create_dataset("betas", (750, *shape[::-1]), np.int16, fillvalue=300)
            file["betas"][:, 0, 0, 0] = 600
    roi = np.zeros(shape, np.uint8)
    roi[:6, :6] = 1
    nib.save(nib.Nifti1Image(roi, AFFINE), release.rois / "prf-visualrois.nii.gz")
    tracemalloc.start()
    values = release.read()["response"][:750].values
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values[0, 0] == 2
    assert values[0, 1:].tolist() == [1] * (36 * 36 - 1)
    assert peak < 60e6


def test_ingest_keeps_betas_and_encodes_only_the_images_that_are_kept(
    release: Release, known: None, tmp_path: Path
) -> None:
    ds = ingest(release.card('stimuli = "shared1000"'), to=tmp_path / "stores")
    direct = release.read('stimuli = "shared1000"')
    np.testing.assert_array_equal(ds["response"].values, direct["response"].values)
    stimuli = open_stimuli(ds)
    assert set(stimuli.ids) == set(direct["stimulus_id"].values)
    for index in (0, len(stimuli) - 1):
        number = int(stimuli.ids[index].removeprefix("nsd-"))
        np.testing.assert_array_equal(decode(stimuli.files[index], "image"), release.brick[number])
        assert stimuli.table["nsd_id"][index] == number


def test_a_release_without_images_gives_no_stimuli(release: Release, known: None) -> None:
    card = load_dataset_card(release.card(drop="stimuli"))
    files = {role: file for role, file in release.files.items() if role != "stimuli"}
    assert read(card, files)[1] is None


def test_other_subjects_versions_and_spaces_are_refused(release: Release) -> None:
    with pytest.raises(ValueError, match="lies in a folder of subj02, the card says subj01"):
        read_as(release, 1)
    with pytest.raises(ValueError, match="expected betas from a folder called 'betas_assumehrf'"):
        release.read('version = "betas_assumehrf"')
    nib.save(nib.Nifti1Image(np.ones((5, 4, 2)), AFFINE), release.rois / "other.nii.gz")
    with pytest.raises(ValueError, match=r"other\.nii\.gz has voxels \(5, 4, 2\), .*visualrois"):
        release.read(roi_other=release.rois / "other.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((5, 4, 2)), AFFINE), release.rois / "prf-visualrois.nii.gz")
    with pytest.raises(ValueError, match=r"has voxels \(5, 4, 3\), .*take both of one space"):
        release.read()


def read_as(release: Release, subject: int) -> xr.Dataset:
    path = release.card()
    path.write_text(path.read_text().replace(f"subject = {SUBJECT}", f"subject = {subject}"))
    return read(load_dataset_card(path), release.files)[0]


def test_bad_files_say_what_is_wrong(release: Release) -> None:
    release.write(2, release.values[1, :700])
    with pytest.raises(ValueError, match=r"session02\.hdf5: betas has shape \(700, 3, 4, 5\)"):
        release.read()
    content = (release.betas / "betas_session01.hdf5").read_bytes()
    (release.betas / "betas_session02.hdf5").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"session02\.hdf5: it is no readable HDF5 file"):
        release.read()
    (release.betas / "betas_session02.hdf5").unlink()
    savemat(release.folder / "nsd_expdesign.mat", {"masterordering": release.ordering})
    with pytest.raises(ValueError, match=r"nsd_expdesign\.mat.* has no 'subjectim'"):
        release.read()
    zero_based = release.design | {"masterordering": release.ordering[None] - 1.0}
    savemat(release.folder / "nsd_expdesign.mat", zero_based)
    with pytest.raises(ValueError, match="masterordering holds values that are no indices from 1"):
        release.read()
    (release.folder / "nsd_expdesign.mat").write_bytes(b"nothing of the kind" * 20)
    with pytest.raises(ValueError, match=r"nsd_expdesign\.mat.* is no readable \.mat file"):
        release.read()
    with pytest.raises(ValueError, match="knows stim_info, stimuli, mask"):
        release.read(labels="x")
    with pytest.raises(ValueError, match=r"options\.subject = 9"):
        read_as(release, 9)


def test_a_table_of_another_release_is_refused(release: Release) -> None:
    table = release.folder / "nsd_stim_info_merged.csv"
    wrong = release.info.copy()
    wrong["shared1000"] = ~wrong["shared1000"]
    wrong.to_csv(table)
    with pytest.raises(ValueError, match="disagree whether image .* is shared by all subjects"):
        release.read()
    release.info.iloc[:10].to_csv(table)
    with pytest.raises(ValueError, match="has no row with nsdId"):
        release.read()
    release.info.drop(columns="cocoId").to_csv(table)
    with pytest.raises(ValueError, match="expected a csv with nsdId, cocoId, shared1000"):
        release.read()


def test_images_must_be_there_for_all_that_was_shown(release: Release) -> None:
    with h5py.File(release.folder / "nsd_stimuli.hdf5", "w") as file:
        file["imgBrick"] = release.brick[:100]
    with pytest.raises(ValueError, match="has 100 images; number .* was shown"):
        release.read()


def test_constant_voxels_have_no_z_score(release: Release) -> None:
    values = release.values[0].copy()
    values[:, 1, 1, 0] = 12
    release.write(1, values)
    with pytest.raises(ValueError, match=r"voxel \(1, 1, 0\) and 0 others of its plane are const"):
        release.read('zscore = "session"')["response"].compute()
    assert np.isfinite(release.read()["response"].values).all()


def test_the_card_that_comes_with_repalign_says_how_to_get_the_files(
    known: None, tmp_path: Path
) -> None:
    card = load_dataset_card(FOLDER / "nsd.toml")
    assert sum(role.startswith("betas_session") for role in card.files) == 40
    assert all(source.url is None for source in card.files.values())
    with pytest.raises(FileNotFoundError, match=r"not public \(access: agreement\)\. Agree to"):
        ingest(card, to=tmp_path)

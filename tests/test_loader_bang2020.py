"""Human striatal voltammetry of Bang et al. (2020), and files in their form."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from repalign import loaders
from repalign.cards import load_dataset_card
from repalign.loaders import bang2020, ingest
from repalign.recording import targets
from repalign.recording_checks import check_recording

TRIALS = {"P1": 206, "P2": 300, "P3": 259, "P4": 300, "P5": 269}


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loaders.LOADERS, "bang2020", "repalign.loaders.bang2020:read")


class Patient:
    """A folder with the files of one patient: 20 trials."""

    def __init__(self, folder: Path, random: np.random.Generator) -> None:
        self.folder, count = folder, 20
        asked = np.arange(count) % 3 == 2
        self.columns: dict[str, Any] = {
            name: np.arange(count, dtype=np.float64) for name in bang2020.COLUMNS
        }
        self.columns |= {
            "trial": np.arange(1, count + 1, dtype=np.uint8),
            "cohcat": (np.arange(count) % 2 + 1).astype(np.uint8),
            "bodcat": (np.arange(count) // 2 % 2 + 1).astype(np.uint8),
            "cw": (np.arange(count) % 5 == 0).astype(np.uint8),
            "con": np.where(asked, 0.7, np.nan),
        }
        self.series = random.normal(size=(3, count, 61))
        self.series[:, 0] = np.nan
        self.place = "caudate"
        self.write()

    def write(self) -> None:
        facts = {"sbjfo": {"location": self.place, "disease": "ET", "age": 71}}
        rows = {name: column[None] for name, column in self.columns.items()}
        savemat(self.folder / "task.mat", {"data": rows, "task": facts})
        for analyte, series in zip(bang2020.ANALYTES, self.series, strict=True):
            savemat(self.folder / f"{analyte}.mat", {"timeSeries": series})

    def card(self, options: str = 'subject = "P9"', event: str = "stimulus") -> Path:
        text = (
            'name = "patient"\nspecies = "human"\nregions = "caudate"\nloader = "bang2020"\n'
            '[files]\nbehaviour = "task.mat"\n'
        )
        text += "".join(f'{event}_{name} = "{name}.mat"\n' for name in bang2020.ANALYTES)
        path = self.folder / "patient.toml"
        path.write_text(f"{text}[options]\n{options}\n")
        return path


@pytest.fixture
def patient(tmp_path: Path, random: np.random.Generator) -> Patient:
    return Patient(tmp_path, random)


def test_trials_analytes_and_samples_are_kept_to_the_bit(patient: Patient) -> None:
    ds = ingest(patient.card())
    assert ds["response"].dims == ("presentation", "neuroid", "time_bin")
    np.testing.assert_array_equal(ds["response"].values, patient.series.transpose(1, 0, 2)[1:])
    assert ds["neuroid_id"].values.tolist() == ["DA", "5HT", "PH"]
    assert set(ds["subject"].values) == {"P9"}
    assert set(ds["disease"].values) == {"ET"}


def test_behaviour_stands_with_its_trials_and_the_unrecorded_trial_is_named(
    patient: Patient,
) -> None:
    ds = ingest(patient.card())
    for name, column in patient.columns.items():
        np.testing.assert_array_equal(ds[name].values, column[1:])
        assert ds[name].dtype == column.dtype
    assert ds.attrs["trials_not_recorded"] == [1]


def test_conditions_are_named_by_their_columns_and_trials_counted(patient: Patient) -> None:
    ds = ingest(patient.card())
    assert ds["stimulus_id"].values[:2].tolist() == [
        "cohcat=2 bodcat=1 cw=0",
        "cohcat=1 bodcat=2 cw=0",
    ]
    check_recording(ds)
    own = ingest(patient.card('subject = "P9"\nconditions = ["cohcat", "iti"]'))
    assert own["stimulus_id"].values[0] == "cohcat=2 iti=1"
    assert set(own["repetition"].values) == {0}


@pytest.mark.parametrize(("event", "first"), [("stimulus", -1000), ("decision", -4000)])
def test_time_bins_start_at_their_samples_and_the_event_is_at_zero(
    event: str, first: int, patient: Patient, random: np.random.Generator
) -> None:
    patient.series = random.normal(size=(3, 20, bang2020.SAMPLES[event]))
    patient.write()
    ds = ingest(patient.card(f'subject = "P9"\nevent = "{event}"', event))
    starts, stops = ds["time_bin_start_ms"].values, ds["time_bin_stop_ms"].values
    assert (starts[0], stops[-1]) == (first, -first + 100 if event == "decision" else 5100)
    assert 0 in starts
    np.testing.assert_array_equal(stops - starts, 100)
    assert ds.attrs["event"] == event


def test_a_score_that_was_not_kept_for_the_last_trial_is_nan(patient: Patient) -> None:
    patient.columns["score"] = patient.columns["score"][:-1]
    patient.write()
    score = ingest(patient.card())["score"].values
    np.testing.assert_array_equal(score, [*range(1, 19), np.nan])


def test_a_sample_that_is_missing_is_said(patient: Patient) -> None:
    patient.series[1, 7, 3] = np.nan
    patient.write()
    with pytest.raises(ValueError, match=r"1 neuroids \(first '5HT'\) and 1 presentations"):
        ingest(patient.card())


def test_files_of_two_patients_are_refused(patient: Patient) -> None:
    savemat(patient.folder / "PH.mat", {"timeSeries": patient.series[2, 1:]})
    with pytest.raises(ValueError, match=r"PH\.mat: .*shape \(19, 61\), expected 20 trials"):
        ingest(patient.card())
    patient.columns["rt1"] = patient.columns["rt1"][2:]
    patient.write()
    with pytest.raises(ValueError, match=r"task\.mat: data\.rt1 has 18 values for 20 trials"):
        ingest(patient.card())


def test_another_place_than_the_card_says_is_refused(patient: Patient) -> None:
    patient.place = "putamen"
    patient.write()
    with pytest.raises(ValueError, match=r"recorded in the putamen, .* regions = \['caudate'\]"):
        ingest(patient.card())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", r"options\.subject .*Field required"),
        ('subject = "P9"\nevent = "reward"', "expected 'stimulus' or 'decision'"),
        ('subject = "P9"\nevent = "decision"', r"\[files\] has no 'decision_DA'"),
        ('subject = "P9"\nconditions = []', "expected one or more of trial, local"),
        ('subject = "P9"\nconditions = ["reward"]', r"conditions = \['reward'\]; expected one or"),
        ('subject = "P9"\nconditions = ["cohcat", "con"]', "'con', which is NaN in trials"),
    ],
)
def test_card_errors_are_clear(options: str, message: str, patient: Patient) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ingest(patient.card(options))
    assert "patient.toml" in str(caught.value)


def test_other_files_say_what_they_lack(patient: Patient) -> None:
    shutil.copy(patient.folder / "DA.mat", patient.folder / "task.mat")
    with pytest.raises(ValueError, match=r"task\.mat: it has no 'data.trial'; it holds timeSeries"):
        ingest(patient.card())
    patient.series[:] = np.nan
    patient.write()
    with pytest.raises(ValueError, match=r"DA\.mat: all trials are NaN"):
        ingest(patient.card())


@pytest.mark.parametrize("name", TRIALS)
def test_published_recordings_are_read_as_they_are(
    name: str, data_folder: Path, tmp_path: Path
) -> None:
    ds = ingest(f"bang2020_striatum_{name.lower()}", mirror=data_folder, to=tmp_path)
    folder = data_folder / "bang2020_striatum"
    assert ds.attrs["trials_not_recorded"] == [1]
    assert ds.sizes == {"presentation": TRIALS[name] - 1, "neuroid": 3, "time_bin": 61}
    for position, analyte in enumerate(bang2020.ANALYTES):
        raw = loadmat(folder / "Neurochemistry" / f"{name}_stimulus_{analyte}.mat")["timeSeries"]
        np.testing.assert_array_equal(ds["response"].values[:, position], raw[1:])
    data = loadmat(folder / "Behaviour" / f"{name}_day2_task.mat")["data"][0, 0]
    for column in data.dtype.names:
        if column not in ("sbjID", "score"):
            np.testing.assert_array_equal(ds[column].values, data[column].ravel()[1:])
    kept = data["score"].ravel()[1:]
    np.testing.assert_array_equal(ds["score"].values[: kept.size], kept)
    asked = ds["concat"].values == 1
    np.testing.assert_array_equal(asked, ~np.isnan(ds["con"].values))
    np.testing.assert_array_equal(asked[:-1], ~np.isnan(ds["score"].values[:-1]))
    assert len(set(ds["stimulus_id"].values)) == 8
    [(target, _)] = targets(ds)
    assert target == ("human", "putamen" if name == "P5" else "caudate", name)


def test_decision_locked_recordings_lack_the_first_and_the_last_trial(
    data_folder: Path, tmp_path: Path
) -> None:
    shipped = load_dataset_card("bang2020_striatum_p3")
    text = shipped.path.read_text().replace("bang2020_striatum_p3", "p3_decision")
    (tmp_path / "p3_decision.toml").write_text(text + 'event = "decision"\n')
    ds = ingest(tmp_path / "p3_decision.toml", mirror=data_folder, to=tmp_path)
    assert ds.attrs["trials_not_recorded"] == [1, 259]
    path = data_folder / "bang2020_striatum" / "Neurochemistry" / "P3_decision_5HT.mat"
    raw = loadmat(path)["timeSeries"]
    np.testing.assert_array_equal(ds["response"].values[:, 1], raw[1:-1])
    assert ds["trial"].values.tolist() == list(range(2, 259))

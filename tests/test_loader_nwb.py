"""NWB files written by pynwb come back as recordings, or are refused with a remedy."""

from __future__ import annotations

import datetime
import doctest
import functools
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repalign import loaders
from repalign.card_schemas import DatasetCard
from repalign.cards import load_dataset_card
from repalign.loaders import hdf5, nwb, nwb_ophys, spike_counts, stimulus_files
from repalign.recording_checks import check_recording
from repalign.stimuli import encode_png, open_stimuli

pynwb = pytest.importorskip("pynwb", reason="NWB files need the extra 'nwb'")
h5py = pytest.importorskip("h5py")

TRIALS = 12
IMAGES = ["face", "house", "tree"]


def new_file(subject: str | None = "M1", **options: Any) -> Any:
    when = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    file = pynwb.NWBFile("test", options.pop("identifier", "id"), when, **options)
    if subject is not None:
        file.subject = pynwb.file.Subject(subject_id=subject, species="Macaca mulatta")
    return file


def add_trials(file: Any, names: Any = None, start: Any = None, **columns: Any) -> None:
    names = [IMAGES[i % 3] for i in range(TRIALS)] if names is None else names
    start = np.arange(len(names)) + 1.0 if start is None else start
    columns = {"image": names, **columns}
    for name in columns:
        file.add_trial_column(name, name)
    for i in range(len(names)):
        own = {name: values[i] for name, values in columns.items()}
        file.add_trial(start_time=float(start[i]), stop_time=float(start[i]) + 0.5, **own)


def add_units(file: Any, trains: Any, **columns: Any) -> None:
    for name in columns:
        if name not in ("id", "obs_intervals", "electrodes"):
            file.add_unit_column(name, name)
    for i, train in enumerate(trains):
        own = {name: values[i] for name, values in columns.items()}
        file.add_unit(spike_times=np.asarray(train, dtype=float), **own)


def save(file: Any, path: Path) -> Path:
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


@pytest.fixture
def trains(random: np.random.Generator) -> list[np.ndarray]:
    rates = [40, 10, 3, 25]
    return [np.sort(random.uniform(0, 14, rate * 14)).round(3) for rate in rates]


@pytest.fixture
def session(tmp_path: Path, trains: list[np.ndarray]) -> Path:
    file = new_file()
    correct = [i % 4 != 0 for i in range(TRIALS)]
    cue = [np.nan if i == 5 else i + 1.1 for i in range(TRIALS)]
    add_trials(file, correct=correct, cue=cue, repetition=[float(i) for i in range(TRIALS)])
    group = file.create_electrode_group("g", "d", "V4", file.create_device("d"))
    for i in range(4):
        file.add_electrode(group=group, location="V4" if i < 2 else "IT", x=0.0, y=1.0, z=float(i))
    quality = ["good", "mua", "good", "good"]
    electrodes = [[0], [1], [2], [2, 3]]
    add_units(
        file,
        trains,
        id=[10, 11, 20, 21],
        quality=quality,
        electrodes=electrodes,
        snr=[4.0, 3, 2, 1],
    )
    return save(file, tmp_path / "session.nwb")


@pytest.fixture
def make_card(tmp_path: Path) -> Callable[..., DatasetCard]:
    def make(options: str = "", files: str = 'nwb = "session.nwb"', regions: str = '"V4"') -> Any:
        path = tmp_path / "lab.toml"
        base = {"stimulus": '"image"', "window_ms": "[0, 200]"}
        given = {line.partition("=")[0].strip() for line in options.splitlines()}
        defaults = [
            f"{k} = {v}" for k, v in base.items() if k not in given and f"no {k}" not in given
        ]
        text = "\n".join([*defaults, *(x for x in options.splitlines() if not x.startswith("no "))])
        path.write_text(
            f'name = "lab"\nspecies = "macaque"\nregions = {regions}\n'
            f'loader = "repalign.loaders.nwb:read"\n[files]\n{files}\n[options]\n{text}\n'
        )
        return load_dataset_card(path)

    return make


Make = Callable[..., DatasetCard]


def load(card: DatasetCard) -> Any:
    files = {role: card.path.parent / str(one.path) for role, one in card.files.items()}
    return nwb.read(card, files)


def expected_counts(trains: Any, start: Any, edges: Any) -> np.ndarray:
    """By a plain loop over trials, units, bins and spikes."""
    out = np.zeros((len(start), len(trains), len(edges) - 1))
    for row, time in enumerate(start):
        bounds = [time + edge / 1000 for edge in edges]
        for unit, train in enumerate(trains):
            for bin_ in range(len(edges) - 1):
                out[row, unit, bin_] = sum(bounds[bin_] <= t < bounds[bin_ + 1] for t in train)
    return out


def test_counts_equal_a_plain_loop_and_columns_become_coordinates(
    session: Path, trains: Any, make_card: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    recording, stimuli = load(make_card("bin_ms = 50"))
    check_recording(recording)
    assert stimuli is None
    start = np.arange(TRIALS) + 1.0
    expected = expected_counts(trains, start, [0, 50, 100, 150, 200])
    assert recording["response"].dtype == np.float32
    np.testing.assert_array_equal(recording["response"].values, expected)
    assert recording["stimulus_id"].values.tolist() == IMAGES * 4
    assert recording["repetition"].values.tolist() == [i // 3 for i in range(TRIALS)]
    assert recording["start_time"].values.tolist() == start.tolist()
    assert recording["correct"].dtype == bool
    assert recording["trials_repetition"].values.tolist() == list(range(TRIALS))
    assert recording["neuroid_id"].values.tolist() == ["10", "11", "20", "21"]
    assert recording["quality"].values.tolist() == ["good", "mua", "good", "good"]
    assert recording["snr"].values.tolist() == [4, 3, 2, 1]
    assert set(recording["subject"].values) == {"M1"}
    assert set(recording["session"].values) == {"id"}
    assert recording["time_bin_start_ms"].values.tolist() == [0, 50, 100, 150]
    assert recording.attrs["window_ms"] == [0, 200]
    assert "z" not in recording.coords  # unit 21 lies on two electrodes of different depth
    assert recording["location"].values.tolist() == ["V4", "V4", "IT", "IT"]
    assert "z left out: a unit has no electrode, or several that differ" in capsys.readouterr().err


def test_one_window_has_no_time_bins_and_rates_are_counts_a_second(
    session: Path, make_card: Make
) -> None:
    counts = load(make_card())[0]["response"]
    rates = load(make_card('response = "rate"'))[0]["response"]
    assert counts.dims == ("presentation", "neuroid")
    np.testing.assert_array_equal(rates.values, (counts.values / 0.2).astype(np.float32))


def test_planted_rates_are_recovered(tmp_path: Path, make_card: Make) -> None:
    random = np.random.default_rng(1)
    rates = random.uniform(5, 60, (8, 3))  # unit × image, in the 200 ms after 50 ms
    start = np.arange(300) * 0.5 + 1
    trains = []
    for unit in range(8):
        counts = random.poisson(rates[unit, np.arange(300) % 3] * 0.2)
        trains.append(
            np.sort(np.repeat(start + 0.05, counts) + random.uniform(0, 0.2, counts.sum()))
        )
    file = new_file()
    add_trials(file, [IMAGES[i % 3] for i in range(300)], start)
    add_units(file, trains)
    save(file, tmp_path / "session.nwb")
    found = load(make_card('window_ms = [50, 250]\nresponse = "rate"'))[0]["response"]
    mean = np.stack([found.values[i::3].mean(axis=0) for i in range(3)], axis=1)
    error = np.sqrt(rates / (100 * 0.2))  # of a Poisson mean over 100 trials of 200 ms
    assert (np.abs(mean - rates) < 4 * error).all()
    assert load(make_card("window_ms = [250, 500]"))[0]["response"].values.sum() == 0


def test_a_window_may_begin_before_the_event_and_follow_another_column(
    session: Path, trains: Any, make_card: Make
) -> None:
    card = make_card('align = "cue"\nwindow_ms = [-100, 100]\nselect_intervals = {cue = {min = 0}}')
    recording, _ = load(card)
    start = [i + 1.1 for i in range(TRIALS) if i != 5]
    expected = expected_counts(trains, start, [-100, 100])[:, :, 0]
    np.testing.assert_array_equal(recording["response"].values, expected)
    assert recording.attrs["left_out"][0].startswith("nwb: ")
    assert any("1 of 12 presentations left out" in text for text in recording.attrs["left_out"])


def test_conditions_choose_presentations_and_units(session: Path, make_card: Make) -> None:
    whole = load(make_card())[0]
    options = 'select_intervals = {correct = true, image = ["face", "tree"]}\nselect = {%s}'
    part = load(make_card(options % 'quality = "good", snr = {min = 2}'))[0]
    rows = [i for i in range(TRIALS) if i % 4 != 0 and i % 3 != 1]
    assert part["neuroid_id"].values.tolist() == ["10", "20"]
    np.testing.assert_array_equal(
        part["response"].values, whole["response"].values[rows][:, [0, 2]]
    )
    by_id = load(make_card("select = {id = [11, 21]}"))[0]
    assert by_id["neuroid_id"].values.tolist() == ["11", "21"]
    by_depth = load(make_card("select = {z = {max = 1}}"))[0]
    assert by_depth["z"].values.tolist() == [0, 1]
    assert by_depth["z"].dtype == np.float64


def test_regions_come_from_electrodes_and_must_be_the_cards(session: Path, make_card: Make) -> None:
    recording, _ = load(make_card('region = "location"', regions='["V4", "IT"]'))
    assert recording["region"].values.tolist() == ["V4", "V4", "IT", "IT"]
    with pytest.raises(ValueError, match=r"unit 20 is 'IT', but the card's regions are V4; add it"):
        load(make_card('region = "location"'))
    with pytest.raises(ValueError, match=r"regions has 2 entries; name the column.*location"):
        load(make_card(regions='["V4", "IT"]'))
    with pytest.raises(ValueError, match=r"/units has no region = 'area'; it has .*quality"):
        load(make_card('region = "area"'))
    with pytest.raises(ValueError, match=r"column 'z' of unit 21 is none or several"):
        load(make_card('region = "z"', regions='["0.0", "1.0", "2.0"]'))


def test_units_may_point_at_electrodes_by_id(tmp_path: Path, make_card: Make) -> None:
    file = new_file()
    add_trials(file)
    group = file.create_electrode_group("g", "d", "x", file.create_device("d"))
    for name, location in ((100, "IT"), (200, "V4")):
        file.add_electrode(id=name, group=group, location=location)
    add_units(file, [[1.0, 12.2], [2.0]], peak_channel_id=[200, 100])
    save(file, tmp_path / "session.nwb")
    options = 'electrode = "peak_channel_id"\nregion = "location"'
    recording, _ = load(make_card(options, regions='["V4", "IT"]'))
    assert recording["region"].values.tolist() == ["V4", "IT"]
    with pytest.raises(ValueError, match="electrode = 'nearest' needs an electrodes table and"):
        load(make_card('electrode = "nearest"'))


def test_stimulus_ids_are_text_and_whole_numbers_have_no_point(
    tmp_path: Path, make_card: Make
) -> None:
    file = new_file()
    add_trials(file, frame=[-1.0, 0.0, 117.0, 0.5] * 3, angle=[0, 90] * 6)
    add_units(file, [[1.0, 12.2]])
    save(file, tmp_path / "session.nwb")
    one, _ = load(make_card('stimulus = "frame"'))
    assert one["stimulus_id"].values[:4].tolist() == ["-1", "0", "117", "0.5"]
    two, _ = load(make_card('stimulus = ["image", "angle"]'))
    assert two["stimulus_id"].values[0] == "image=face,angle=0"
    assert "image" in two.coords


def test_a_trial_without_spikes_and_a_unit_without_spikes_count_zero(
    tmp_path: Path, make_card: Make
) -> None:
    file = new_file()
    add_trials(file)
    add_units(file, [[1.05], [], [12.1]])
    save(file, tmp_path / "session.nwb")
    values = load(make_card())[0]["response"].values
    assert values[0].tolist() == [1, 0, 0]
    assert values.sum() == 2
    assert values[11].tolist() == [0, 0, 1]


def test_any_interval_table_holds_presentations_and_ragged_columns_are_left_out(
    tmp_path: Path, make_card: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    file = new_file()
    table = pynwb.epoch.TimeIntervals(name="natural_scenes", description="shown")
    table.add_column(name="frame", description="f")
    table.add_column(name="words", description="w", index=True)
    table.add_column(name="place", description="p")
    for i in range(6):
        row = {"frame": i % 2, "words": ["a"] * i, "place": [1.0, 2.0]}
        table.add_row(start_time=i + 1.0, stop_time=i + 1.5, **row)
    file.add_time_intervals(table)
    add_units(file, [[1.05, 6.1]])
    save(file, tmp_path / "session.nwb")
    for name in ("natural_scenes", "/intervals/natural_scenes", "intervals/natural_scenes"):
        recording, _ = load(make_card(f'intervals = "{name}"\nstimulus = "frame"'))
        assert recording["response"].values[:, 0].tolist() == [1, 0, 0, 0, 0, 1]
    assert "words" not in recording.coords
    assert "columns words, place of /intervals/natural_scenes left out" in capsys.readouterr().err


def test_presentations_outside_observation_intervals_are_refused_or_left_out(
    tmp_path: Path, make_card: Make
) -> None:
    file = new_file()
    add_trials(file)
    observed = [np.array([[0.0, 5.2], [6.0, 20]]), np.array([[0.0, 8.1], [8.1, 13.0]])]
    add_units(file, [[1.0], [9.0]], obs_intervals=observed)
    save(file, tmp_path / "session.nwb")
    recording, _ = load(make_card("window_ms = [0, 200]"))  # ends with an interval, at 5.2 s
    assert recording.sizes["presentation"] == TRIALS
    message = (
        r"1 of 12 windows are not wholly inside the recording of 1 of 2 neuroids \(first: 5 to"
    )
    with pytest.raises(ValueError, match=message):
        load(make_card("window_ms = [0, 250]"))
    fewer, _ = load(make_card('window_ms = [0, 250]\nmissing = "drop_presentations"'))
    assert 5.0 not in fewer["start_time"].values
    assert fewer.sizes["presentation"] == TRIALS - 1
    assert fewer["repetition"].values[-1] == 3
    assert fewer.attrs["left_out"] == ["nwb: 1 of 12 presentations left out: not recorded"]
    fewer, _ = load(make_card('window_ms = [0, 250]\nmissing = "drop_neuroids"'))
    assert fewer["neuroid_id"].values.tolist() == ["1"]
    assert fewer.attrs["left_out"] == ["nwb: 1 of 2 neuroids left out: not always recorded"]


def test_a_policy_that_would_leave_nothing_is_an_error(tmp_path: Path, make_card: Make) -> None:
    file = new_file()
    add_trials(file)
    add_units(file, [[1.0], [9.0]], obs_intervals=[np.array([[0.0, 6.0]]), np.array([[6.0, 20]])])
    save(file, tmp_path / "session.nwb")
    for policy in ("drop_presentations", "drop_neuroids"):
        with pytest.raises(ValueError, match=f'missing = "{policy}" would leave none: set'):
            load(make_card(f'missing = "{policy}"'))


def test_invalid_times_are_not_recorded(tmp_path: Path, make_card: Make) -> None:
    file = new_file()
    add_trials(file)
    file.add_invalid_time_interval(start_time=3.1, stop_time=3.15)
    file.add_invalid_time_interval(start_time=4.2, stop_time=4.9)
    add_units(file, [[1.0, 12.1]])
    save(file, tmp_path / "session.nwb")
    with pytest.raises(ValueError, match=r"1 of 12 windows .*first: 3 to 3\.2 s"):
        load(make_card())
    recording, _ = load(make_card('missing = "drop_presentations"'))
    assert 3.0 not in recording["start_time"].values


def test_presentations_long_after_the_last_spike_are_refused(
    tmp_path: Path, make_card: Make
) -> None:
    file = new_file()
    add_trials(file, ["a"] * 3, [1.0, 2.0, 500.0])
    add_units(file, [np.arange(0, 14, 0.1)])
    save(file, tmp_path / "session.nwb")
    with pytest.raises(ValueError, match=r"1 of 3 windows .*first: 500 to 500\.2 s"):
        load(make_card())
    file = new_file()
    add_trials(file, ["a"] * 3, [1000.0, 2000.0, 3000.0])  # milliseconds
    add_units(file, [np.arange(0, 3, 0.1)])
    save(file, tmp_path / "session.nwb")
    with pytest.raises(ValueError, match=r"no window, from 1000 to 3000\.2 s, lies in the record"):
        load(make_card('missing = "drop_presentations"'))


def two_sessions(folder: Path, shown: list[str], **options: Any) -> list[list[np.ndarray]]:
    random = np.random.default_rng(3)
    every = []
    for role, names in (("a", [IMAGES[i % 3] for i in range(TRIALS)]), ("b", shown)):
        file = new_file(f"M-{role}", session_id=f"day-{role}", identifier=role)
        kind = [name[0] for name in names]
        add_trials(file, names, np.arange(len(names)) * 0.5 + 1, kind=kind)
        trains = [np.sort(random.uniform(0, 12, 300)).round(3) for _ in range(2)]
        columns = {"depth": [1.0, 2.0], **({"only": [1, 2]} if role == "a" else {})}
        add_units(file, trains, **columns)
        save(file, folder / f"{role}.nwb")
        every.append(trains)
    return every


BOTH = 'session_a = "a.nwb"\nsession_b = "b.nwb"'


def test_sessions_are_matched_by_stimulus_and_repetition(tmp_path: Path, make_card: Make) -> None:
    shown = ["tree", "face", "house"] * 4  # another order
    first, second = two_sessions(tmp_path, shown)
    recording, _ = load(make_card("bin_ms = 100", BOTH))
    check_recording(recording)
    assert recording["neuroid_id"].values[[0, 2]].tolist() == ["session_a-0", "session_b-0"]
    assert recording["subject"].values.tolist() == ["M-a", "M-a", "M-b", "M-b"]
    assert recording["session"].values.tolist() == ["day-a", "day-a", "day-b", "day-b"]
    assert recording["kind"].values[:3].tolist() == ["f", "h", "t"]
    assert "only" not in recording.coords
    assert recording["depth"].values.tolist() == [1, 2, 1, 2]
    a = np.arange(TRIALS) * 0.5 + 1
    b = [1 + 0.5 * (3 * (i // 3) + shown.index(IMAGES[i % 3])) for i in range(TRIALS)]
    edges = [0, 100, 200]
    expected = [expected_counts(first, a, edges), expected_counts(second, b, edges)]
    np.testing.assert_array_equal(recording["response"].values, np.concatenate(expected, axis=1))
    assert "start_time" not in recording.coords
    assert any("columns start_time, stop_time" in text for text in recording.attrs["left_out"])
    assert any("columns only of neuroids" in text for text in recording.attrs["left_out"])


def test_repetitions_that_a_session_lacks_are_left_out_only_when_told(
    tmp_path: Path, make_card: Make
) -> None:
    two_sessions(tmp_path, ["face", "house", "face", "car"])
    with pytest.raises(ValueError, match=r'which session_a has; .* set combine = "stimuli"'):
        load(make_card(files=BOTH))
    recording, _ = load(make_card('combine = "stimuli"', BOTH))
    pairs = zip(recording["stimulus_id"].values, recording["repetition"].values, strict=True)
    assert sorted(pairs) == [("face", 0), ("face", 1), ("house", 0)]
    texts = " ".join(recording.attrs["left_out"])
    assert "session_a: 9 of 12 presentations left out: not in all sessions" in texts
    assert "session_b: 1 of 4 presentations left out: not in all sessions" in texts
    two_sessions(tmp_path, ["car", "dog"])
    with pytest.raises(ValueError, match="no stimulus is in all sessions: give each session"):
        load(make_card('combine = "stimuli"', BOTH))


def test_a_session_given_twice_is_refused(tmp_path: Path, make_card: Make) -> None:
    two_sessions(tmp_path, IMAGES)
    (tmp_path / "b.nwb").write_bytes((tmp_path / "a.nwb").read_bytes())
    with pytest.raises(ValueError, match=r"b\.nwb \(session_b\) holds the same units as .*a\.nwb"):
        load(make_card(files=BOTH))


def save_images(path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(names):
            image = np.full((4, 4, 3), i * 20, dtype=np.uint8)
            archive.writestr(f"set/{name}.png", encode_png(image))


def test_ingest_makes_a_store_with_images_and_labels(
    session: Path, make_card: Make, tmp_path: Path
) -> None:
    save_images(tmp_path / "images.zip", ["1", "2", "3", "4"])
    rows = "stimulus_id,filename,animate\ntree,3.png,0\nface,1.png,1\nhouse,2.png,0\ncar,4.png,0\n"
    (tmp_path / "stimuli.csv").write_text(rows)
    files = 'nwb = "session.nwb"\nimages = "images.zip"\nstimuli = "stimuli.csv"'
    card = make_card("bin_ms = 100", files)
    memory, _ = load(card)
    stored = loaders.ingest(card.path, to=tmp_path / "stores")
    np.testing.assert_array_equal(stored["response"].values, memory["response"].values)
    assert stored["animate"].values[:3].tolist() == [1, 0, 0]
    assert stored["correct"].values.tolist() == memory["correct"].values.tolist()
    assert stored.attrs["left_out"] == memory.attrs["left_out"]
    stimuli = open_stimuli(stored)
    assert stimuli.ids == tuple(IMAGES)
    assert [stimuli.image(i)[0, 0, 0] for i in range(3)] == [0, 20, 40]
    assert stimuli.table["animate"].tolist() == [1, 0, 0]


def test_images_are_found_by_the_name_of_their_stimulus(
    session: Path, make_card: Make, tmp_path: Path
) -> None:
    save_images(tmp_path / "images.zip", [*IMAGES, "car"])
    files = 'nwb = "session.nwb"\nimages = "images.zip"'
    recording, stimuli = load(make_card(files=files))
    assert stimuli.ids == tuple(IMAGES)
    assert "1 of 4 images left out" in " ".join(recording.attrs["left_out"])
    save_images(tmp_path / "images.zip", ["face", "tree"])
    with pytest.raises(ValueError, match=r"lacks 'house', the image of a stimulus; .*give a csv"):
        load(make_card(files=files))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("name\nface\n", r"has no column stimulus_id; it has name"),
        ("stimulus_id\nface\nface\n", "'face' stands twice"),
        ("stimulus_id\nface\ntree\n", r"no row for 1 of 3 stimuli \(first 'house'\)"),
        ("stimulus_id,correct\nface,1\ntree,1\nhouse,1\n", "column 'correct' is taken; rename"),
        ("stimulus_id,region\nface,1\ntree,1\nhouse,1\n", "column 'region' is taken; rename"),
    ],
)
def test_stimulus_tables_that_do_not_fit_are_refused(
    session: Path, make_card: Make, tmp_path: Path, rows: str, message: str
) -> None:
    (tmp_path / "stimuli.csv").write_text(rows)
    with pytest.raises(ValueError, match=message):
        load(make_card(files='nwb = "session.nwb"\nstimuli = "stimuli.csv"'))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("no stimulus", r"session\.nwb: set stimulus .* there are start_time, stop_time, image"),
        ("no window_ms", r"lab\.toml: set window_ms = \[start, stop\] under \[options\]"),
        ('stimulus = "picture"', r"has the columns .*image.*; stimulus = 'picture' is not there"),
        ('align = "go"', r"align = 'go' is not there"),
        ('align = "image"', r"align = 'image' of /intervals/trials holds no times in s"),
        ('align = "cue"', r"NaN or infinite in 1 rows \(first: row 5\); .*select_intervals\.cue"),
        ('stimulus = "cue"', r"'cue' of /intervals/trials names no stimulus in 1 rows"),
        ('intervals = "epochs"', r"has no interval table 'epochs', .* /intervals/trials \(12 rows"),
        ("select = {depth = 3}", r"/units has the columns .*; select = 'depth' is not there"),
        ('select = {quality = "bad"}', r"meets select\.quality = 'bad'; the column has good, mua"),
        ("select = {quality = {min = 1}}", r"select\.quality is a range, but the column .* text"),
        ("select = {snr = {min = 9}}", r"no row of /units meets select\.snr"),
        ("select = {snr = {}}", r"options\.select\.snr = \{\}: expected a value, a list of values"),
        ("select = {snr = {least = 1}}", r"expected a value, a list of values, or \{ min = a \}"),
        (
            'select_intervals = {image = "car"}',
            r"select_intervals\.image = 'car'; the column has f",
        ),
        ("window_ms = [200, 0]", r"lab\.toml: options\.window_ms = \[200, 0\]: expected"),
        ("bin_ms = 30", r"lab\.toml: options\.bin_ms = 30 does not divide"),
        ("binms = 50", r"options\.binms = 50: unknown; did you mean 'bin_ms'"),
        ('combine = "stimuli"', r"options\.combine is for several sessions"),
        ('series = "x"\nresponse = "rate"', r"options\.response is for spikes of units"),
        (
            'series = "processing/x"',
            r"no RoiResponseSeries at series = 'processing/x'; it has none",
        ),
        ('subject = "M2"', r"subject = 'M2' has no effect, because every file gives"),
    ],
)
def test_options_that_do_not_fit_the_file_are_refused(
    session: Path, make_card: Make, options: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(make_card(options))


@pytest.mark.parametrize("files", ['spikes = "a.nwb"', 'nwb = "a.nwb"\nsession_1 = "b.nwb"'])
def test_unknown_roles_are_refused(make_card: Make, files: str) -> None:
    with pytest.raises(ValueError, match=r"the loader 'nwb' needs 'nwb', or roles that begin with"):
        load(make_card(files=files))


def test_files_without_units_or_subject_or_with_ids_twice_are_refused(
    tmp_path: Path, make_card: Make
) -> None:
    path = tmp_path / "session.nwb"
    file = new_file(subject=None)
    add_trials(file)
    save(file, path)
    with pytest.raises(ValueError, match="no units table, so there are no spikes to count"):
        load(make_card())
    file = new_file(subject=None)
    add_trials(file)
    add_units(file, [[1.0], [12.0]], id=[7, 7])
    save(file, path)
    with pytest.raises(ValueError, match="id 7 stands twice in /units"):
        load(make_card())
    file = new_file(subject=None)
    add_trials(file)
    add_units(file, [[1.0], [12.0]])
    save(file, path)
    with pytest.raises(ValueError, match="gives no subject_id; set subject under"):
        load(make_card())
    assert set(load(make_card('subject = "M9"'))[0]["subject"].values) == {"M9"}


@pytest.mark.parametrize(
    ("train", "message"),
    [([2.0, 1.0, 12.0], "not sorted"), ([-1.0, 12.0], "negative"), ([1.0, np.nan], "NaN")],
)
def test_unsound_spike_times_name_file_and_unit(
    tmp_path: Path, make_card: Make, train: list[float], message: str
) -> None:
    file = new_file()
    add_trials(file)
    add_units(file, [[1.0, 12.0], train], id=[4, 5])
    save(file, tmp_path / "session.nwb")
    with pytest.raises(
        ValueError, match=rf"session\.nwb: /units/spike_times of unit 5: .*{message}"
    ):
        load(make_card())
    assert load(make_card("select = {id = 4}"))[0].sizes["neuroid"] == 1


def test_damaged_files_other_formats_and_links_are_refused(
    session: Path, make_card: Make, tmp_path: Path
) -> None:
    whole = session.read_bytes()
    session.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"session\.nwb: it is no readable HDF5 file"):
        load(make_card())
    with h5py.File(session, "w") as file:
        file["x"] = [1, 2]
    with pytest.raises(ValueError, match=r"session\.nwb is no readable NWB 2 file"):
        load(make_card())
    session.write_bytes(whole)
    with h5py.File(session, "a") as file:
        file["acquisition/raw"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(ValueError, match=r"raw is a link into another file"):
        load(make_card())


def test_a_missing_pynwb_names_the_extra(
    session: Path, make_card: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynwb", None)
    with pytest.raises(ImportError, match=r"pip install 'repalign\[nwb\]'"):
        load(make_card())


@pytest.mark.data
def test_a_real_file_without_trials_says_which_tables_it_has(
    data_folder: Path, make_card: Make
) -> None:
    path = data_folder / "nwb_specimen" / "A8604-211122.nwb"
    card = make_card(files=f'nwb = "{path}"')
    message = (
        r"no interval table 'trials'.*it has /intervals/epochs \(1 rows: start_time, stop_time,"
    )
    with pytest.raises(ValueError, match=message):
        nwb.read(card, {"nwb": path})


@pytest.mark.data
def test_a_real_file_counts_every_spike_of_its_epoch(data_folder: Path, make_card: Make) -> None:
    path = data_folder / "nwb_specimen" / "A8604-211122.nwb"
    with h5py.File(path) as file:
        times, stops = file["units/spike_times"][:], file["units/spike_times_index"][:]
        start, stop = file["intervals/epochs/start_time"][0], file["intervals/epochs/stop_time"][0]
    options = 'intervals = "epochs"\nstimulus = "start_time"\nsubject = "A8604"\n'
    options += f"window_ms = [0, {(stop - start) * 1000}]"
    recording, _ = nwb.read(make_card(options, files=f'nwb = "{path}"'), {"nwb": path})
    trains = np.split(times, stops[:-1])
    expected = [((train >= start) & (train < stop)).sum() for train in trains]
    assert recording["response"].values[0].tolist() == expected
    assert sum(expected) > 20000


def ophys(path: Path, data: Any, rois: list[int], rate: float | None = 10.0, **more: Any) -> Path:
    file = new_file()
    add_trials(file)
    channel = pynwb.ophys.OpticalChannel(name="c", description="d", emission_lambda=500.0)
    plane = file.create_imaging_plane(
        name="p",
        optical_channel=channel,
        imaging_rate=10.0,
        description="d",
        device=file.create_device("d"),
        excitation_lambda=600.0,
        indicator="GCaMP6f",
        location="V1",
    )
    module = file.create_processing_module("ophys", "d")
    segmentation = pynwb.ophys.ImageSegmentation()
    module.add(segmentation)
    table = segmentation.create_plane_segmentation("d", plane, "plane")
    table.add_column("cell", "c")
    for i in range(max(rois) + 1):
        table.add_roi(pixel_mask=[(i, 1, 1.0)], cell=i % 2 == 0, id=100 + i)
    region = table.create_roi_table_region("d", region=rois)
    traces = pynwb.ophys.DfOverF()
    module.add(traces)
    clock = {} if rate is None else {"rate": rate, "starting_time": 0.5}
    traces.create_roi_response_series(
        name="RoiResponseSeries", data=data, rois=region, unit="a", **clock, **more
    )
    return save(file, path)


SERIES = 'series = "processing/ophys/DfOverF/RoiResponseSeries"\nwindow_ms = [0, 400]'


def expected_means(data: Any, times: Any, start: Any, edges: Any) -> np.ndarray:
    out = np.zeros((len(start), data.shape[1], len(edges) - 1))
    for row, time in enumerate(start):
        for i in range(len(edges) - 1):
            inside = [time + edges[i] / 1000 <= t < time + edges[i + 1] / 1000 for t in times]
            out[row, :, i] = data[inside].mean(axis=0)
    return out


def test_calcium_traces_are_averaged_in_windows(
    tmp_path: Path, make_card: Make, random: np.random.Generator
) -> None:
    data = random.normal(size=(140, 3)).astype(np.float32)
    path = ophys(tmp_path / "session.nwb", data, [1, 3, 4], conversion=2.0, offset=1.0)
    recording, _ = load(make_card(SERIES + "\nbin_ms = 200"))
    check_recording(recording)
    times = 0.5 + np.arange(140) / 10
    expected = expected_means(data, times, np.arange(TRIALS) + 1.0, [0, 200, 400]) * 2 + 1
    np.testing.assert_allclose(recording["response"].values, expected, rtol=1e-6, atol=1e-6)
    assert recording["neuroid_id"].values.tolist() == ["101", "103", "104"]
    assert recording["cell"].values.tolist() == [False, False, True]
    assert set(recording["location"].values) == {"V1"}
    options = SERIES + '\nselect = {cell = false}\nregion = "location"'
    part, _ = load(make_card(options, regions='["V1", "V4"]'))
    assert part["neuroid_id"].values.tolist() == ["101", "103"]
    expected = expected_means(data, times, np.arange(TRIALS) + 1.0, [0, 400])[:, :2, 0] * 2 + 1
    np.testing.assert_allclose(part["response"].values, expected, rtol=1e-6, atol=1e-6)
    assert path.is_file()


def test_timestamps_are_used_and_slabs_change_nothing(
    tmp_path: Path, make_card: Make, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.integers(0, 100, (400, 2)).astype(float)
    times = np.sort(random.uniform(0.9, 14, 400))
    ophys(tmp_path / "session.nwb", data, [0, 1], rate=None, timestamps=times)
    whole = load(make_card(SERIES + "\nbin_ms = 400"))[0]["response"].values
    expected = expected_means(data, times, np.arange(TRIALS) + 1.0, [0, 400])
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
    monkeypatch.setattr(nwb_ophys, "SLAB_BYTES", 5 * 16)  # five frames, less than a window
    narrow = load(make_card(SERIES + "\nbin_ms = 400"))[0]["response"].values
    np.testing.assert_array_equal(narrow, whole)  # sums of whole numbers are exact


@pytest.mark.parametrize(
    ("data", "more", "options", "message"),
    [
        (np.ones((140, 2)), {}, "bin_ms = 50", r"no frame of .* frames are 100 ms apart: set"),
        (np.ones((2, 140)), {}, "", r"shape \(2, 140\), expected frames × 2 ROIs; its axes"),
        (np.full((140, 2), np.nan), {}, "", r"NaN or inf in windows of 2 ROIs \(first 100\)"),
        (np.ones((100, 2)), {}, "", r"2 of 12 windows are not wholly inside the recording of 2 of"),
        (
            np.ones((140, 2)),
            {"rate": None, "timestamps": np.arange(140)[::-1] / 10},
            "",
            "do not ascend",
        ),
    ],
)
def test_calcium_traces_that_do_not_fit_are_refused(
    tmp_path: Path, make_card: Make, data: Any, more: Any, options: str, message: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pynwb's, about swapped axes
        ophys(tmp_path / "session.nwb", data, [0, 1], **more)
    with pytest.raises(ValueError, match=message):
        check_recording(load(make_card(SERIES + "\n" + options))[0])


def test_a_file_with_traces_and_no_units_names_the_series(tmp_path: Path, make_card: Make) -> None:
    ophys(tmp_path / "session.nwb", np.ones((140, 2)), [0, 1])
    with pytest.raises(
        ValueError, match="set series = 'processing/ophys/DfOverF/RoiResponseSeries"
    ):
        load(make_card())


def test_responses_are_read_in_blocks_when_they_are_computed(
    session: Path, make_card: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = functools.partial(nwb.lazy_rows, block_bytes=4 * 4 * 4)  # 4 presentations × 4 units
    whole = load(make_card())[0]["response"].values
    monkeypatch.setattr(nwb, "lazy_rows", small)
    recording, _ = load(make_card())
    opened: list[Path] = []

    def counted(path: Path) -> Any:
        opened.append(path)
        return hdf5.open_hdf5(path)

    monkeypatch.setattr(spike_counts, "open_hdf5", counted)
    np.testing.assert_array_equal(recording["response"][5:7].values, whole[5:7])
    assert len(opened) == 1
    np.testing.assert_array_equal(recording["response"].values, whole)
    assert len(opened) == 4


@pytest.mark.slow
def test_memory_stays_far_below_the_size_of_the_file(tmp_path: Path, make_card: Make) -> None:
    import tracemalloc

    from hdmf import common as hdmf_common

    random = np.random.default_rng(0)
    times = np.sort(random.uniform(0, 3000, (100, 250_000)))
    file = new_file()
    add_trials(file, ["a"] * 1000, np.arange(1000) * 2.5 + 1)
    column = hdmf_common.VectorData(name="spike_times", description="s", data=times.ravel())
    stops = np.arange(1, 101) * times.shape[1]
    index = hdmf_common.VectorIndex(name="spike_times_index", data=stops, target=column)
    file.units = pynwb.misc.Units(  # add_unit would make lists of 25 million numbers
        name="units", description="u", id=list(range(100)), columns=[column, index]
    )
    path = save(file, tmp_path / "session.nwb")
    del file, times, column, index
    assert path.stat().st_size > 190e6
    load(make_card())  # imports
    tracemalloc.start()
    recording, _ = load(make_card("bin_ms = 20"))
    total = int(recording["response"].sum())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert abs(total / (100 * 250_000 * 200 / 3000) - 1) < 0.01
    assert peak < 40e6


def test_examples_run() -> None:
    modules = (nwb_ophys, stimulus_files)
    assert [doctest.testmod(module).failed for module in modules] == [0, 0]

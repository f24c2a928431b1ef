"""Epochs of EEG, MEG and intracranial recordings, from files that MNE itself writes."""

from __future__ import annotations

import gzip
import pickle
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

import repalign
from repalign import loaders
from repalign.cards import load_dataset_card
from repalign.loaders import fif_files, fif_rows, mne_epochs
from repalign.loaders.fif_events import stimulus_names
from repalign.processing import zscore_sessions

mne = pytest.importorskip("mne")

CARD = """
name = "eeg"
species = "human"
regions = "scalp"
units = "V"
loader = "mne_epochs"
[files]
{files}
[options]
{options}
"""
NAMES = ["Fz", "Cz", "Oz", "STIM", "EOG"]
TYPES = ["eeg", "eeg", "eeg", "stim", "eog"]
EVENT_ID = {"face/upright": 1, "face/inverted": 2, "house": 7}


def make_epochs(
    random: np.random.Generator,
    *,
    n: int = 7,
    names: list[str] = NAMES,
    types: list[str] = TYPES,
    rate: float = 250.0,
    samples: int = 50,
    tmin: float = -0.04,
    metadata: pd.DataFrame | None = None,
    event_id: dict[str, int] | None = None,
    bads: tuple[str, ...] = (),
) -> Any:
    info = mne.create_info(list(names), rate, list(types))
    info["bads"] = list(bads)
    codes = np.array([1, 2, 7, 1, 2, 7, 1] * 20)[:n]
    events = np.stack([np.arange(n) * 100, np.zeros(n, int), codes], axis=1)
    data = random.normal(size=(n, len(names), samples)) * 1e-5
    return mne.EpochsArray(
        data,
        info,
        events,
        tmin,
        EVENT_ID if event_id is None else event_id,
        metadata=metadata,
        verbose="ERROR",
    )


def save(path: Path, epochs: Any, **options: Any) -> Path:
    epochs.save(path, overwrite=True, verbose="ERROR", **options)
    return path


def write_card(folder: Path, options: str = "", **files: Path) -> Path:
    lines = "\n".join(f'{role} = "{path}"' for role, path in files.items())
    card = folder / "eeg.toml"
    card.write_text(CARD.format(files=lines, options=options), encoding="utf-8")
    return card


def read(folder: Path, options: str = "", **files: Path) -> xr.Dataset:
    card = load_dataset_card(write_card(folder, options, **files))
    return mne_epochs.read(card, files)[0]


def stored(path: Path, *, proj: bool = False) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, about how MNE calls it
        return mne.read_epochs(path, proj=proj, verbose="ERROR")


@pytest.fixture
def file(tmp_path: Path, random: np.random.Generator) -> Path:
    metadata = pd.DataFrame(
        {
            "image": ["b", "a", "c", "b", "a", "c", "b"],
            "reaction_time": [0.5, np.nan, 0.25, 1, 2, 3, 4],
            "correct": [True, False, True, True, False, True, True],
            "answer": ["yes", None, "no", "yes", "no", "no", "yes"],
        }
    )
    return save(tmp_path / "s1-epo.fif", make_epochs(random, metadata=metadata))


@pytest.mark.parametrize(("fmt", "kind"), [("single", np.float32), ("double", np.float64)])
def test_values_are_those_of_the_file_to_the_bit(
    tmp_path: Path, random: np.random.Generator, fmt: str, kind: Any
) -> None:
    path = save(tmp_path / "a-epo.fif", make_epochs(random), fmt=fmt)
    response = read(tmp_path, epochs=path)["response"]
    assert response.dtype == kind
    expected = stored(path).get_data(picks=["Fz", "Cz", "Oz"])
    np.testing.assert_array_equal(response.values, expected.astype(kind))


def test_stimuli_are_the_names_of_events_with_their_tags(file: Path, tmp_path: Path) -> None:
    ds = read(tmp_path, epochs=file)
    names = ["face/upright", "face/inverted", "house"]
    assert ds["stimulus_id"].values.tolist() == (names * 3)[:7]
    assert ds["repetition"].values.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert "event" not in ds.coords


def test_stimuli_are_a_column_of_the_metadata_and_the_others_are_coordinates(
    file: Path, tmp_path: Path
) -> None:
    ds = read(tmp_path, 'stimulus = "image"', epochs=file)
    assert ds["stimulus_id"].values.tolist() == list("bacbacb")
    assert ds["event"].values.tolist()[:2] == ["face/upright", "face/inverted"]
    np.testing.assert_array_equal(ds["reaction_time"].values, [0.5, np.nan, 0.25, 1, 2, 3, 4])
    assert ds["correct"].values.tolist() == [True, False, True, True, False, True, True]
    assert ds["answer"].values.tolist() == ["yes", "", "no", "yes", "no", "no", "yes"]
    assert "image" not in ds.coords


def test_numbers_of_images_become_names_without_a_point(
    tmp_path: Path, random: np.random.Generator
) -> None:
    metadata = pd.DataFrame({"image": [3.0, 1, 2, 3, 1, 2, 3], "repetition": range(7)})
    path = save(tmp_path / "a-epo.fif", make_epochs(random, metadata=metadata))
    ds = read(tmp_path, 'stimulus = "image"', epochs=path)
    assert ds["stimulus_id"].values.tolist() == list("3123123")
    assert ds["metadata_repetition"].values.tolist() == list(range(7))


def test_each_sample_is_a_time_bin_by_default(file: Path, tmp_path: Path) -> None:
    ds = read(tmp_path, epochs=file)
    np.testing.assert_allclose(ds["time_bin_start_ms"], stored(file).times * 1000, atol=1e-9)
    np.testing.assert_allclose(ds["time_bin_stop_ms"] - ds["time_bin_start_ms"], 4)


def test_bins_are_means_of_the_samples_from_start_to_before_stop(
    file: Path, tmp_path: Path
) -> None:
    ds = read(tmp_path, "window_ms = [-20, 100]\nbin_ms = 20", epochs=file)
    source = stored(file)
    data, times = source.get_data(picks="eeg"), np.round(source.times * 1000, 6)
    assert ds.sizes["time_bin"] == 6
    for column, start in enumerate(range(-20, 100, 20)):
        inside = [i for i, t in enumerate(times) if start <= t < start + 20]
        assert len(inside) == 5
        total = sum(data[:, :, i] for i in inside) / 5
        np.testing.assert_allclose(ds["response"][:, :, column], total, rtol=1e-6, atol=1e-11)
        assert ds["time_bin_start_ms"][column] == start


def test_means_of_whole_numbers_are_exact(tmp_path: Path, random: np.random.Generator) -> None:
    epochs = make_epochs(random)
    epochs._data[:] = random.integers(-1000, 1000, epochs._data.shape)
    path = save(tmp_path / "a-epo.fif", epochs, fmt="double")
    ds = read(tmp_path, "window_ms = [0, 128]\nbin_ms = 16", epochs=path)
    expected = epochs._data[:, :3, 10:42].reshape(7, 3, 8, 4).sum(axis=3) / 4
    np.testing.assert_array_equal(ds["response"].values, expected)


def test_bins_that_are_no_whole_number_of_samples_take_in_each_sample_once_and_say_so(
    tmp_path: Path, random: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "a-epo.fif", make_epochs(random, rate=600.614990234375, samples=100))
    ds = read(tmp_path, "window_ms = [-30, 90]\nbin_ms = 10", epochs=path)
    source = stored(path)
    data, times = source.get_data(picks="eeg"), source.times * 1000
    for column, start in enumerate(range(-30, 90, 10)):
        inside = (times >= start) & (times < start + 10)
        expected = data[:, :, inside].mean(axis=2)
        np.testing.assert_allclose(ds["response"][:, :, column], expected, rtol=1e-6, atol=1e-11)
    assert "means of 6 to 7 samples, at 600.615 Hz" in capsys.readouterr().err


def test_a_window_without_bins_keeps_its_samples(file: Path, tmp_path: Path) -> None:
    ds = read(tmp_path, "window_ms = [0, 40]", epochs=file)
    expected = stored(file).get_data(picks="eeg")[:, :, 10:20].astype(np.float32)
    np.testing.assert_array_equal(ds["response"].values, expected)
    np.testing.assert_allclose(ds["time_bin_start_ms"], np.arange(0, 40, 4))


def test_the_baseline_is_that_of_mne_and_is_recorded(file: Path, tmp_path: Path) -> None:
    ds = read(tmp_path, "baseline_ms = [-40, 0]", epochs=file)
    expected = stored(file).apply_baseline((-0.04, 0), verbose="ERROR").get_data(picks="eeg")
    np.testing.assert_allclose(ds["response"], expected, rtol=1e-6, atol=1e-12)
    assert ds.attrs["baseline_ms"] == [-40, 0]
    assert ds.attrs["baseline_before_saving"] == "none"


def test_a_baseline_before_saving_is_recorded(tmp_path: Path, random: np.random.Generator) -> None:
    epochs = make_epochs(random).apply_baseline((None, 0), verbose="ERROR")
    ds = read(tmp_path, epochs=save(tmp_path / "a-epo.fif", epochs))
    assert ds.attrs["baseline_before_saving"] == "-40 to 0 ms"
    assert "baseline_ms" not in ds.attrs


def test_the_scale_is_applied_and_recorded(file: Path, tmp_path: Path) -> None:
    ds = read(tmp_path, "unit_scale = 1e6", epochs=file)
    expected = (stored(file).get_data(picks="eeg") * 1e6).astype(np.float32)
    np.testing.assert_array_equal(ds["response"].values, expected)
    assert ds.attrs["unit_scale"] == 1e6
    assert ds["unit_scale"].values.tolist() == [1e6] * 3
    assert ds["file_unit"].values.tolist() == ["V"] * 3


def test_types_of_channels_have_their_own_scales(
    tmp_path: Path, random: np.random.Generator
) -> None:
    names, types = ["E1", "M1", "G1", "G2"], ["eeg", "mag", "grad", "grad"]
    path = save(tmp_path / "a-epo.fif", make_epochs(random, names=names, types=types))
    options = 'region = "channel_type"\nunit_scale = { eeg = 1e6, mag = 1e15, grad = 1e13 }'
    ds = read(tmp_path, options, epochs=path)
    scale = np.array([1e6, 1e15, 1e13, 1e13])[None, :, None]
    expected = (stored(path).get_data() * scale).astype(np.float32)
    np.testing.assert_array_equal(ds["response"].values, expected)
    assert ds["region"].values.tolist() == types
    assert ds["file_unit"].values.tolist() == ["V", "T", "T/m", "T/m"]
    assert ds.attrs["unit_scale"] == {"eeg": 1e6, "mag": 1e15, "grad": 1e13}
    meg = read(tmp_path, 'picks = "meg"', epochs=path)
    assert meg["neuroid_id"].values.tolist() == ["M1", "G1", "G2"]


def test_bad_channels_are_left_out_and_named_unless_picked_by_name(
    tmp_path: Path, random: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "a-epo.fif", make_epochs(random, bads=("Cz",)))
    assert read(tmp_path, epochs=path)["neuroid_id"].values.tolist() == ["Fz", "Oz"]
    assert "1 bad channels left out: Cz" in capsys.readouterr().err
    ds = read(tmp_path, 'picks = ["Oz", "Cz", "eog"]', epochs=path)
    assert ds["neuroid_id"].values.tolist() == ["Cz", "Oz", "EOG"]
    assert ds["channel_type"].values.tolist() == ["eeg", "eeg", "eog"]
    expected = stored(path).get_data(picks=[1, 2, 4]).astype(np.float32)
    np.testing.assert_array_equal(ds["response"].values, expected)
    assert "bad channels kept, since picks names them: Cz" in capsys.readouterr().err


def test_positions_are_in_mm_and_nan_where_unknown(
    tmp_path: Path, random: np.random.Generator
) -> None:
    epochs = make_epochs(random)
    positions = {"Fz": [0.0, 0.08, 0.05], "Cz": [0.001, 0.0, 0.1]}
    montage = mne.channels.make_dig_montage(positions, coord_frame="head")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        epochs.set_montage(montage, on_missing="ignore", verbose="ERROR")
    ds = read(tmp_path, epochs=save(tmp_path / "a-epo.fif", epochs))
    found = np.stack([ds[f"{axis}_mm"].values for axis in "xyz"], axis=1)
    np.testing.assert_allclose(found[:2], [[0, 80, 50], [1, 0, 100]], atol=1e-4)
    assert np.isnan(found[2]).all()
    assert ds["coordinate_frame"].values[0] == "head"
    assert "x_mm" not in read(tmp_path, epochs=save(tmp_path / "b-epo.fif", make_epochs(random)))


def test_a_table_tells_the_regions_of_channels_by_name(file: Path, tmp_path: Path) -> None:
    table = tmp_path / "channels.csv"
    table.write_text("neuroid_id,region,depth\nOz,V1,2\nCz,IT,1.5\nFz,IT,\nA9,V4,3\n")
    ds = read(tmp_path, epochs=file, neuroids=table)
    assert ds["region"].values.tolist() == ["IT", "IT", "V1"]
    np.testing.assert_array_equal(ds["depth"].values, [np.nan, 1.5, 2])


def test_sessions_follow_each_other_and_channels_are_matched_by_name(
    file: Path, tmp_path: Path, random: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = pd.DataFrame({"image": ["a", "d"], "answer": ["no", "yes"], "gaze": [1, 2]})
    second = make_epochs(random, n=2, metadata=metadata, tmin=-0.02, event_id={"x": 1, "y": 2})
    second.info["bads"] = ["Cz"]
    second.reorder_channels(["Oz", "STIM", "Fz", "Cz", "EOG"])
    path = save(tmp_path / "s2-epo.fif", second, fmt="double")
    options = 'stimulus = "image"\nwindow_ms = [0, 100]'
    ds = read(tmp_path, options, session_1=file, session_2=path)
    assert ds["session"].values.tolist() == ["session_1"] * 7 + ["session_2"] * 2
    assert ds["stimulus_id"].values.tolist() == [*"bacbacb", "a", "d"]
    assert ds["repetition"].values.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 0]
    assert ds["answer"].values.tolist()[-2:] == ["no", "yes"]
    assert ds["neuroid_id"].values.tolist() == ["Fz", "Oz"]
    assert ds["response"].dtype == np.float64
    first = stored(file).get_data(picks=["Fz", "Oz"])[:, :, 10:35]
    np.testing.assert_array_equal(ds["response"][:7], first.astype(np.float32))
    expected = stored(path).get_data(picks=["Oz", "Fz"])[:, ::-1, 5:30]
    np.testing.assert_array_equal(ds["response"][7:], expected)
    said = capsys.readouterr().err
    assert "columns correct, gaze, reaction_time left out: not in all sessions" in said
    assert zscore_sessions(ds).sizes["presentation"] == 9


def test_files_in_parts_are_read_as_one(tmp_path: Path, random: np.random.Generator) -> None:
    epochs = make_epochs(random, n=40, samples=5000)
    path = save(tmp_path / "a-epo.fif", epochs, split_size="2MB")
    assert (tmp_path / "a-epo-1.fif").is_file()
    ds = read(tmp_path, epochs=path)
    expected = stored(path).get_data(picks="eeg").astype(np.float32)
    np.testing.assert_array_equal(ds["response"].values, expected)
    (tmp_path / "a-epo-1.fif").unlink()
    with pytest.raises(FileNotFoundError, match="names as its next part; put all parts"):
        read(tmp_path, epochs=path)


def test_a_part_outside_the_folder_or_the_file_itself_is_refused(
    tmp_path: Path, random: np.random.Generator
) -> None:
    path = save(tmp_path / "a-epo.fif", make_epochs(random, n=40, samples=5000), split_size="2MB")
    content = path.read_bytes()
    for name in (b"../../a-e.fif", b"a-epo.fif\0\0\0\0"):
        path.write_bytes(content.replace(b"a-epo-1.fif".ljust(11), name[:11], 1))
        with pytest.raises(ValueError, match="as its next part; expected another file"):
            read(tmp_path, epochs=path)


def test_compressed_files_are_read_too(file: Path, tmp_path: Path) -> None:
    packed = tmp_path / "p-epo.fif.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    np.testing.assert_array_equal(
        read(tmp_path, epochs=packed)["response"], read(tmp_path, epochs=file)["response"]
    )
    packed.write_bytes(packed.read_bytes()[:-3000])
    with pytest.raises(ValueError, match="p-epo.fif.gz is damaged: Compressed file ended"):
        read(tmp_path, epochs=packed)


def test_files_of_any_name_are_read_without_warnings(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ds = read(tmp_path, epochs=file.rename(tmp_path / "Subject 1.FIF"))
    assert np.isfinite(ds["response"].values).all()
    assert capsys.readouterr().err == ""


def test_projections_are_applied_only_when_asked_for(
    tmp_path: Path, random: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs = make_epochs(random)
    epochs.set_eeg_reference(projection=True, verbose="ERROR")
    path = save(tmp_path / "a-epo.fif", epochs, fmt="double")
    ds = read(tmp_path, epochs=path)
    np.testing.assert_array_equal(ds["response"], stored(path).get_data(picks="eeg"))
    assert "1 projections that were not applied (Average EEG reference)" in capsys.readouterr().err
    ds = read(tmp_path, 'projections = "apply"', epochs=path)
    np.testing.assert_array_equal(ds["response"], stored(path, proj=True).get_data(picks="eeg"))
    np.testing.assert_allclose(ds["response"].mean("neuroid"), 0, atol=1e-18)
    assert ds.attrs["projections"] == "apply"


def test_dropped_epochs_and_bad_stretches_are_told(
    tmp_path: Path, random: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    info = mne.create_info(NAMES, 250.0, TYPES)
    raw = mne.io.RawArray(random.normal(size=(5, 2000)) * 1e-6, info, verbose="ERROR")
    raw.set_annotations(mne.Annotations([2.0], [0.1], ["bad_jump"]))
    events = np.array([[250, 0, 1], [500, 0, 1], [750, 0, 1], [1000, 0, 1]])
    epochs = mne.Epochs(
        raw,
        events,
        {"face": 1},
        0,
        0.2,
        baseline=None,
        reject_by_annotation=False,
        preload=True,
        verbose="ERROR",
    )
    epochs.drop([3], reason="blink", verbose="ERROR")
    ds = read(tmp_path, epochs=save(tmp_path / "a-epo.fif", epochs))
    said = capsys.readouterr().err
    assert "1 epochs were dropped before a-epo.fif was saved (blink)" in said
    assert "1 of 3 epochs overlap annotations that begin with BAD; they are kept" in said
    assert ds["bad_annotated"].values.tolist() == [False, True, False]


def test_the_subject_is_the_files_or_the_cards(tmp_path: Path, random: np.random.Generator) -> None:
    paths = {}
    for number in (1, 2):
        epochs = make_epochs(random)
        epochs.info["subject_info"] = {"his_id": f"sub-{number}"}
        paths[f"session_{number}"] = save(tmp_path / f"{number}-epo.fif", epochs)
    assert set(read(tmp_path, epochs=paths["session_1"])["subject"].values) == {"sub-1"}
    with pytest.raises(ValueError, match=r"sessions are of subjects 'sub-1', 'sub-2'"):
        read(tmp_path, **paths)
    assert set(read(tmp_path, 'subject = "x"', **paths)["subject"].values) == {"x"}


def test_ingest_gives_a_store_with_images(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loaders.LOADERS, "mne_epochs", "repalign.loaders.mne_epochs:read")
    (tmp_path / "images").mkdir()
    for i, name in enumerate("abc"):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "images" / f"{name}.png")
    table = tmp_path / "stimuli.csv"
    table.write_text("stimulus_id,category\na,face\nb,house\nc,face\n")
    options = 'stimulus = "image"\nwindow_ms = [0, 160]\nbin_ms = 40\nunit_scale = 1e6'
    files = {"epochs": file, "images": tmp_path / "images", "stimuli": table}
    card = write_card(tmp_path, options, **files)
    ds = repalign.ingest(card, to=tmp_path / "stores")
    np.testing.assert_array_equal(ds["response"], read(tmp_path, options, **files)["response"])
    assert ds["category"].values.tolist()[:3] == ["house", "face", "face"]
    assert ds["answer"].values.tolist()[:2] == ["yes", ""]


def test_nothing_is_read_before_it_is_needed_and_then_few_epochs_at_a_time(
    tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a-epo.fif", make_epochs(random, n=24, samples=500))
    monkeypatch.setattr(mne_epochs, "BLOCK_BYTES", 4 * 3 * 500 * 6)
    calls: list[tuple[int, int]] = []

    def counted(path: Path, picks: Any, start: int, stop: int, *, projections: bool) -> Any:
        calls.append((start, stop))
        return fif_files.read_epochs(path, picks, start, stop, projections=projections)

    monkeypatch.setattr(fif_rows, "read_epochs", counted)
    ds = read(tmp_path, epochs=path)
    assert calls == []
    assert ds["response"].data.numblocks[0] == 4
    ds["response"][7:8].values  # noqa: B018
    assert sorted(calls) == [(i, i + 1) for i in range(6, 12)]
    expected = stored(path).get_data(picks="eeg").astype(np.float32)
    np.testing.assert_array_equal(ds["response"].values, expected)


def test_a_large_file_takes_a_fraction_of_its_size_in_memory(
    tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tracemalloc

    names = [f"E{i}" for i in range(64)]
    epochs = make_epochs(random, n=70, names=names, types=["ecog"] * 64, samples=5000)
    path = save(tmp_path / "a-epo.fif", epochs)
    del epochs
    monkeypatch.setattr(mne_epochs, "BLOCK_BYTES", 4 << 20)
    size = path.stat().st_size
    assert size > 85e6
    tracemalloc.start()
    try:
        ds = read(tmp_path, "window_ms = [0, 19900]\nbin_ms = 100", epochs=path)
        blocks = [block.compute() for block in ds["response"].data.blocks]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(len(block) for block in blocks) == 70
    assert peak < size / 4


_PICKLES: list[str] = []
_WATCH = False


def _audit(event: str, _: Any) -> None:
    if _WATCH and event == "pickle.find_class":
        _PICKLES.append(event)


def test_nothing_in_a_file_is_unpickled(
    tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = pd.DataFrame({"image": [str(pickle.dumps(Path("x")))] * 7})
    path = save(tmp_path / "a-epo.fif", make_epochs(random, metadata=metadata))
    sys.addaudithook(_audit)
    monkeypatch.setattr(sys.modules[__name__], "_WATCH", True)
    pickle.loads(pickle.dumps(Path("x")))
    assert _PICKLES, "the hook sees what is unpickled"
    _PICKLES.clear()
    opened = fif_files.open_epochs(path, apply_projections=False, note=print)
    assert stimulus_names(load_dataset_card(write_card(tmp_path)), "image", opened)
    fif_files.read_epochs(path, np.arange(3), 0, 7, projections=False)
    assert _PICKLES == []


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def without_end(content: bytes) -> bytes:
    return content[:-16]


def backward(content: bytes) -> bytes:
    return content[:12] + struct.pack(">i", 8) + content[16:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: b"", "is cut short or no fif file"),
        (lambda _: b"not a fif file at all, but text", "is no fif file: it does not start"),
        (lambda content: content[:100], "is cut short"),
        (cut, "is cut short or damaged: the tag at byte"),
        (without_end, "is cut short or no fif file: its last tag is not there"),
        (backward, "is cut short or damaged: the tag at byte 0"),
    ],
)
def test_damaged_files_are_refused_before_mne_sees_them(
    file: Path, tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"s1-epo\.fif {message}"):
        read(tmp_path, epochs=file)


def test_flipped_bytes_give_a_value_error_or_a_recording(
    file: Path, tmp_path: Path, random: np.random.Generator
) -> None:
    content, unnamed = file.read_bytes(), list[ValueError]()
    for _ in range(60):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), 4):
            damaged[place] = random.integers(256)
        file.write_bytes(damaged)
        try:
            np.asarray(read(tmp_path, epochs=file)["response"])
        except ValueError as error:
            unnamed += [] if str(file) in str(error) else [error]
    assert unnamed == []


def test_files_of_other_contents_are_refused(tmp_path: Path, random: np.random.Generator) -> None:
    info = mne.create_info(NAMES, 250.0, TYPES)
    raw = mne.io.RawArray(random.normal(size=(5, 100)), info, verbose="ERROR")
    raw.save(tmp_path / "a_raw.fif", verbose="ERROR")
    with pytest.raises(ValueError, match=r"a_raw.fif holds no epochs"):
        read(tmp_path, epochs=tmp_path / "a_raw.fif")
    evoked = make_epochs(random).average()
    evoked.save(tmp_path / "a-ave.fif", verbose="ERROR")
    with pytest.raises(ValueError, match="a-ave.fif is no readable file of epochs"):
        read(tmp_path, epochs=tmp_path / "a-ave.fif")
    with pytest.raises(ValueError, match="expected a file of epochs"):
        read(tmp_path, epochs=tmp_path / "a.set")
    with pytest.raises(FileNotFoundError, match="no file"):
        read(tmp_path, epochs=tmp_path / "b-epo.fif")


def test_complex_values_are_refused(tmp_path: Path, random: np.random.Generator) -> None:
    info = mne.create_info(["a"], 250.0, ["eeg"])
    values = random.normal(size=(2, 1, 5)) + 1j
    epochs = mne.EpochsArray(values, info, verbose="ERROR")
    path = save(tmp_path / "a-epo.fif", epochs)
    with pytest.raises(ValueError, match="real numbers"):
        read(tmp_path, epochs=path)


def test_duplicate_channel_names_are_refused(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    assert content.count(b"Cz\0") > 0
    file.write_bytes(content.replace(b"Cz\0", b"Fz\0"))
    with pytest.raises(ValueError, match="Channel names are not unique.*its own name"):
        read(tmp_path, epochs=file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('stimulus = "picture"', r"options.stimulus = 'picture', but .* has columns image, react"),
        ('stimulus = "answer"', "metadata column 'answer' is (None|nan) in epoch 1"),
        ('stimulus = "reaction_time"', "metadata column 'reaction_time' is 0.5 in epoch 0"),
        ("window_ms = [-100, 100]", r"window_ms = \[-100, 100\], but the epochs of .* -40 to 160"),
        ("window_ms = [0, 161]", "but the epochs of"),
        ("window_ms = [10, 0]", "start before stop"),
        ("window_ms = [1, 3]", "holds no sample; samples are 4 ms apart"),
        ("window_ms = [0, 100]\nbin_ms = 30", "bin_ms = 30 does not divide"),
        ("bin_ms = 30", "bin_ms = 30 does not divide .*; give a window_ms that it divides"),
        ("window_ms = [0, 10]\nbin_ms = 2", "a time bin from 2 ms on holds no sample"),
        ("baseline_ms = [-100, 0]", r"baseline_ms = \[-100, 0\]; expected start and stop"),
        ("baseline_ms = [0, -4]", "expected start and stop"),
        ("baseline_ms = [-inf, 0]", "expected start and stop"),
        ('picks = "Pz"', r"options.picks has 'Pz', .*\(eeg, stim, eog\)"),
        ("picks = []", "no channel of .* is left"),
        ("unit_scale = 0", "options.unit_scale = 0, expected above 0"),
        ("unit_scale = { mag = 1e15 }", "options.unit_scale is given for mag; .* eeg"),
        ("bin_width = 3", "options.bin_width = 3: unknown"),
    ],
)
def test_bad_options_are_refused(file: Path, tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, options, epochs=file)


def test_a_stimulus_column_without_metadata_is_refused(
    tmp_path: Path, random: np.random.Generator
) -> None:
    path = save(tmp_path / "a-epo.fif", make_epochs(random))
    with pytest.raises(ValueError, match="has no metadata; without the option the names"):
        read(tmp_path, 'stimulus = "image"', epochs=path)


def test_roles_that_do_not_fit_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give either 'epochs' or roles that begin"):
        read(tmp_path, images=file)
    with pytest.raises(ValueError, match="give either 'epochs' or roles that begin"):
        read(tmp_path, epochs=file, session_1=file)
    with pytest.raises(ValueError, match=r"\[files\] has epochs, events"):
        read(tmp_path, epochs=file, events=file)


def test_sessions_that_differ_are_refused(
    file: Path, tmp_path: Path, random: np.random.Generator
) -> None:
    def second(**settings: Any) -> dict[str, Path]:
        path = save(tmp_path / "s2-epo.fif", make_epochs(random, **settings))
        return {"session_1": file, "session_2": path}

    with pytest.raises(ValueError, match=r"different channels: Oz, Pz are not in both"):
        read(tmp_path, **second(names=["Fz", "Cz", "Pz", "STIM", "EOG"]))
    files = second(names=["Fz", "Cz", "Pz", "STIM", "EOG"])
    assert read(tmp_path, 'picks = ["Fz", "Cz"]', **files).sizes["neuroid"] == 2
    with pytest.raises(ValueError, match="is sampled at 500 Hz, .* at 250 Hz"):
        read(tmp_path, **second(rate=500.0))
    with pytest.raises(ValueError, match="has samples -10 to 29 around .*by window_ms"):
        read(tmp_path, **second(samples=40))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,region\nFz,V1\n", "has no column neuroid_id"),
        ("neuroid_id,region\nFz,V1\nCz,V1\n", "has no row for 1 of 3 channels .first 'Oz'"),
        ("neuroid_id,region\nFz,V1\nFz,V1\n", "neuroid_id 'Fz' stands twice"),
        ("neuroid_id,region\nFz,V1\nCz,\nOz,V1\n", "channel 'Cz' has no region"),
        ("neuroid_id,species\nFz,a\nCz,a\nOz,a\n", "has a column 'species', a name of ours"),
    ],
)
def test_tables_of_channels_that_do_not_fit_are_refused(
    file: Path, tmp_path: Path, table: str, message: str
) -> None:
    (tmp_path / "channels.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, epochs=file, neuroids=tmp_path / "channels.csv")


def test_two_ways_or_no_way_to_tell_regions_are_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "channels.csv").write_text("neuroid_id,region\nFz,V1\nCz,V1\nOz,V1\n")
    with pytest.raises(ValueError, match="remove one of the two"):
        read(
            tmp_path,
            'region = "channel_type"',
            epochs=file,
            neuroids=tmp_path / "channels.csv",
        )
    card = write_card(tmp_path, epochs=file)
    card.write_text(card.read_text().replace('"scalp"', '["V1", "IT"]'))
    with pytest.raises(ValueError, match="2 regions; say which channel is where"):
        mne_epochs.read(load_dataset_card(card), {"epochs": file})


def test_without_mne_the_extra_is_named(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mne", None)
    with pytest.raises(ImportError, match=r"pip install 'repalign\[eeg\]'"):
        read(tmp_path, epochs=file)

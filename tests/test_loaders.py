"""From raw files to a store: the generic loader and the 92 images."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr

from repalign.loaders import ingest
from repalign.metrics.noise_correction import reliability
from repalign.recording import is_rdm_only, response_array, stimulus_ids, targets
from repalign.recording_checks import check_recording
from repalign.stimuli import encode_png, open_stimuli


class Lab:
    """A lab's folder with one session: 6 images, 4 neuroids."""

    def __init__(self, folder: Path, random: np.random.Generator) -> None:
        self.folder = folder
        self.responses = random.normal(size=(6, 4))
        self.pictures = [random.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(6)]
        with zipfile.ZipFile(folder / "images.zip", "w") as archive:
            for i in (3, 1, 0, 5, 4, 2):
                archive.writestr(f"s/image{i + 7}.png", encode_png(self.pictures[i]))
        np.save(folder / "responses.npy", self.responses)

    def card(self, files: str = "", options: str = "", head: str = 'regions = "V4"') -> Path:
        text = (
            f'name = "lab"\nspecies = "macaque"\n{head}\nloader = "arrays"\n[files]\n'
            + (files or 'responses = "responses.npy"\nimages = "images.zip"')
            + f"\n[options]\n{options}\n"
        )
        path = self.folder / "lab.toml"
        path.write_text(text)
        return path


@pytest.fixture
def lab(tmp_path: Path, random: np.random.Generator) -> Lab:
    return Lab(tmp_path, random)


def test_images_and_rows_are_matched_in_natural_order(lab: Lab) -> None:
    recording = ingest(lab.card())
    assert recording["stimulus_id"].values.tolist() == [f"image{i + 7}" for i in range(6)]
    np.testing.assert_array_equal(recording["response"].values, lab.responses)
    stimuli = open_stimuli(recording)
    for i in range(6):
        np.testing.assert_array_equal(stimuli.image(i), lab.pictures[i])


def test_axes_are_found_by_the_number_of_images(lab: Lab) -> None:
    np.save(lab.folder / "responses.npy", lab.responses.T)
    np.testing.assert_array_equal(ingest(lab.card())["response"].values, lab.responses)


def test_ambiguous_axes_are_asked_for(lab: Lab, random: np.random.Generator) -> None:
    square = random.normal(size=(6, 6))
    np.save(lab.folder / "responses.npy", square)
    with pytest.raises(ValueError, match=r"\(6, 6\) for 6 stimuli; say what its axes are"):
        ingest(lab.card())
    card = lab.card(options='dims = ["neuroid", "stimulus"]')
    np.testing.assert_array_equal(ingest(card)["response"].values, square.T)


def test_ragged_repetitions_are_nan_in_every_neuroid(lab: Lab, random: np.random.Generator) -> None:
    raw = random.normal(size=(4, 6, 3))
    raw[:, 2, 1:] = np.nan
    raw[:, 4, 2] = np.nan
    np.save(lab.folder / "responses.npy", raw)
    recording = ingest(lab.card(options='dims = ["neuroid", "stimulus", "repetition"]'))
    assert recording.sizes["presentation"] == 15
    ids, repetitions = recording["stimulus_id"].values, recording["repetition"].values
    for row, (name, repetition) in enumerate(zip(ids, repetitions, strict=True)):
        expected = raw[:, int(name.removeprefix("image")) - 7, repetition]
        np.testing.assert_array_equal(recording["response"].values[row], expected)


def test_nan_is_an_error_unless_the_card_says_what_to_drop(lab: Lab) -> None:
    lab.responses[1, 2] = np.nan
    np.save(lab.folder / "responses.npy", lab.responses)
    with pytest.raises(
        ValueError, match=r"NaN .* 1 neuroids .* 1 presentations \(first 'image8'\)"
    ):
        ingest(lab.card())
    kept = ingest(lab.card(options='missing = "drop_neuroids"'))
    np.testing.assert_array_equal(kept["response"].values, lab.responses[:, [0, 1, 3]])
    kept = ingest(lab.card(options='missing = "drop_stimuli"'))
    np.testing.assert_array_equal(kept["response"].values, np.delete(lab.responses, 1, axis=0))
    assert len(open_stimuli(kept)) == 5


def test_tables_name_stimuli_and_neuroids(lab: Lab) -> None:
    rows = [
        f"id{i},image{i + 7}.png,{'face' if i % 2 else 'car'},{i / 2}" for i in (5, 0, 1, 2, 3, 4)
    ]
    (lab.folder / "stimuli.csv").write_text(
        "\n".join(["stimulus_id,filename,category,angle", *rows])
    )
    (lab.folder / "neuroids.csv").write_text("neuroid_id,region\n001,V4\n002,IT\n003,IT\n004,V4\n")
    files = "\n".join(
        f'{role} = "{name}"'
        for role, name in {
            "responses": "responses.npy",
            "images": "images.zip",
            "stimuli": "stimuli.csv",
            "neuroids": "neuroids.csv",
        }.items()
    )
    card = lab.card(files, 'subject = "M7"', 'regions = ["V4", "IT"]')
    recording = ingest(card)
    assert recording["stimulus_id"].values[:2].tolist() == ["id5", "id0"]
    assert recording["category"].values[:2].tolist() == ["face", "car"]
    assert recording["angle"].values[0] == 2.5
    assert recording["neuroid_id"].values.tolist() == ["001", "002", "003", "004"]
    assert [(*t, p.sizes["neuroid"]) for t, p in targets(recording)] == [
        ("macaque", "V4", "M7", 2),
        ("macaque", "IT", "M7", 2),
    ]
    np.testing.assert_array_equal(open_stimuli(recording).image(0), lab.pictures[5])


@pytest.mark.parametrize("suffix", ["npz", "csv", "csv with ids"])
def test_other_array_files_give_the_same(lab: Lab, suffix: str) -> None:
    name = f"responses.{suffix[:3]}"
    if suffix == "npz":
        np.savez(lab.folder / name, responses=lab.responses)
    else:
        header = ",".join(f"n{i}" for i in range(4))
        rows = [",".join(map(repr, row)) for row in lab.responses.tolist()]
        if suffix != "csv":
            header = f"stimulus_id,{header}"
            rows = [f"x{i},{row}" for i, row in enumerate(rows)]
        (lab.folder / name).write_text("\n".join([header, *rows]))
    recording = ingest(lab.card(f'responses = "{name}"\nimages = "images.zip"'))
    np.testing.assert_array_equal(recording["response"].values, lab.responses)
    expected = "x0" if suffix == "csv with ids" else "image7"
    assert recording["stimulus_id"].values[0] == expected


def test_ids_that_are_file_names_say_more_than_their_order(lab: Lab) -> None:
    names = [f"image{i + 7}" for i in (4, 2, 0, 5, 1, 3)]
    (lab.folder / "stimuli.csv").write_text("stimulus_id\n" + "\n".join(names))
    files = 'responses = "responses.npy"\nimages = "images.zip"\nstimuli = "stimuli.csv"'
    recording = ingest(lab.card(files))
    assert recording["stimulus_id"].values.tolist() == names
    np.testing.assert_array_equal(open_stimuli(recording).image(0), lab.pictures[4])


def test_recordings_without_ids_or_images_match_nothing_else(lab: Lab) -> None:
    card = lab.card('responses = "responses.npy"', 'dims = ["stimulus", "neuroid"]')
    assert ingest(card)["stimulus_id"].values[0] == "lab/0000"


def test_row_numbers_in_a_csv_are_not_a_neuroid(lab: Lab) -> None:
    (lab.folder / "r.csv").write_text(",a,b\n" + "\n".join(f"{i},1.5,{i}" for i in range(6)))
    with pytest.raises(ValueError, match="first column has no name"):
        ingest(lab.card('responses = "r.csv"\nimages = "images.zip"'))


@pytest.mark.parametrize("name", ["region", "species", "start", "neuroid_id"])
def test_labels_may_not_take_names_of_the_schema(lab: Lab, name: str) -> None:
    (lab.folder / "stimuli.csv").write_text(f"{name}\n" + "\n".join("abcdef"))
    files = 'responses = "responses.npy"\nimages = "images.zip"\nstimuli = "stimuli.csv"'
    with pytest.raises(ValueError, match=f"has a column '{name}', a name of ours; rename it"):
        ingest(lab.card(files))


def test_a_file_name_that_stands_twice_in_the_zip_is_refused(lab: Lab) -> None:
    with zipfile.ZipFile(lab.folder / "images.zip", "a") as archive:
        archive.writestr("t/image7.png", encode_png(lab.pictures[0]))
    rows = "\n".join(f"image{i + 7}.png" for i in range(6))
    (lab.folder / "stimuli.csv").write_text(f"filename\n{rows}")
    files = 'responses = "responses.npy"\nimages = "images.zip"\nstimuli = "stimuli.csv"'
    with pytest.raises(ValueError, match="has 'image7.png' 2 times"):
        ingest(lab.card(files))


def test_two_cards_of_one_name_do_not_share_a_store(lab: Lab, tmp_path: Path) -> None:
    first = lab.card()
    ingest(first)
    other = tmp_path / "other" / "lab.toml"
    other.parent.mkdir()
    other.write_text(first.read_text().replace('= "', '= "../', 0))
    with pytest.raises(FileExistsError, match="another card of the same name"):
        ingest(other)


def test_two_installations_share_a_cache(data_folder: Path, tmp_path: Path) -> None:
    """The same shipped card, in another checkout: the store is taken as it is."""
    from repalign.cards import load_dataset_card

    first = ingest("kriegeskorte2008", mirror=data_folder, to=tmp_path)
    card = load_dataset_card("kriegeskorte2008")
    elsewhere = tmp_path / "elsewhere" / "kriegeskorte2008.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(card.path.read_bytes())
    card._path = elsewhere
    again = ingest(card, to=tmp_path, offline=True)
    assert again.attrs["fingerprint"] == first.attrs["fingerprint"]


def test_users_loader_beside_its_card_is_found_and_its_changes_are_seen(tmp_path: Path) -> None:
    code = """
import numpy as np
from repalign.recording import make_recording
def read(card, files):
    values = np.arange(6.0).reshape(3, 2) * FACTOR
    return make_recording(values, stimulus_id=["a", "b", "c"], region="IT"), None
"""
    (tmp_path / "beside_loader.py").write_text("FACTOR = 1\n" + code)
    (tmp_path / "own.toml").write_text(
        'name = "own"\nspecies = "x"\nregions = "IT"\nloader = "beside_loader:read"\nfiles = {}\n'
    )
    assert float(ingest(tmp_path / "own.toml")["response"].max()) == 5
    (tmp_path / "beside_loader.py").write_text("FACTOR = 2\n" + code)
    import importlib
    import sys

    importlib.invalidate_caches()
    del sys.modules["beside_loader"]
    assert float(ingest(tmp_path / "own.toml")["response"].max()) == 10


def test_loader_that_gives_something_else_names_its_card(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        'name = "own"\nspecies = "x"\nregions = "IT"\nloader = "operator:is_"\n[files]\n'
        'a = "own.toml"\nb = "own.toml"\n'
    )
    with pytest.raises(TypeError, match="own.toml"):
        ingest(tmp_path / "own.toml")


def test_many_processes_may_ingest_and_record_the_same_at_once(lab: Lab, tmp_path: Path) -> None:
    import subprocess
    import sys

    script = f"""
import repalign as ra
ds = ra.ingest({str(lab.card())!r}, to={str(tmp_path / "shared")!r})
found = ra.record("pixels", stimuli=ds, to={str(tmp_path / "shared")!r}, progress=False)
print(ra.compare(ds, found, n_resamples=0)[0].value)
"""
    command = [sys.executable, "-c", script]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], printed
    assert len({out for out, _ in printed}) == 1


def test_nothing_is_unpickled(lab: Lab) -> None:
    np.save(lab.folder / "responses.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="it holds Python objects"):
        ingest(lab.card())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lab: lab.card(options="dim = 1"), r"options\.dim = 1"),
        (lambda lab: lab.card('images = "images.zip"'), "needs responses and knows images"),
        (lambda lab: lab.card(head='regions = ["V4", "IT"]'), "2 entries of region"),
        (
            lambda lab: lab.card(options='variable = "x"'),
            "applies to .npz, .mat, .h5, .hdf5 files only",
        ),
    ],
)
def test_card_errors_are_clear(lab: Lab, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ingest(change(lab))


def test_shape_mismatch_names_both_numbers(lab: Lab) -> None:
    np.save(lab.folder / "responses.npy", lab.responses[:5])
    card = lab.card(options='dims = ["stimulus", "neuroid"]')
    with pytest.raises(ValueError, match="has 5 stimuli .* there are 6 images"):
        ingest(card)


def test_corrupt_image_stops_the_ingest_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    with zipfile.ZipFile(lab.folder / "images.zip", "a") as archive:
        archive.writestr("s/image99.png", encode_png(lab.pictures[0])[:-30])
    np.save(lab.folder / "responses.npy", np.vstack([lab.responses, lab.responses[:1]]))
    store = tmp_path / "stores"
    with pytest.raises(ValueError, match="stimulus 'image99' is corrupt"):
        ingest(lab.card(), to=store)
    assert [path.name for path in store.iterdir()] == [".locks"]


def test_ingest_is_repeated_only_when_card_or_files_change(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    import repalign.loaders.arrays as arrays

    calls = []
    original = arrays.read

    def counted(card: Any, files: Any) -> Any:
        calls.append(card.name)
        return original(card, files)

    monkeypatch.setattr(arrays, "read", counted)
    ingest(lab.card())
    ingest(lab.card())
    assert len(calls) == 1
    np.save(lab.folder / "responses.npy", lab.responses * 2)
    np.testing.assert_array_equal(ingest(lab.card())["response"].values, lab.responses * 2)
    ingest(lab.card(options='subject = "M2"'))
    assert len(calls) == 3
    ingest(lab.card(options='subject = "M2"'), overwrite=True)
    assert len(calls) == 4


def test_monkey_and_human_it_correlate_as_published(data_folder: Path) -> None:
    recording = ingest("kriegeskorte2008", mirror=data_folder)
    check_recording(recording)
    assert is_rdm_only(recording)
    upper = np.triu_indices(92, 1)
    monkey, human = recording["rdm"].values[:2, upper[0], upper[1]]
    assert recording["species"].values[:2].tolist() == ["macaque", "human"]
    assert round(float(pearsonr(monkey, human).statistic), 3) == 0.491


def test_human_subjects_and_sessions_average_to_the_group(data_folder: Path) -> None:
    recording = ingest("kriegeskorte2008", mirror=data_folder)
    human = recording.isel(subject=(recording["species"] == "human").values)
    subjects = human.isel(subject=(human["subject"] != "group").values)
    assert sorted(set(subjects["subject"].values)) == ["BE", "KO", "SN", "TI"]
    assert subjects["session"].values.tolist() == ["1", "2"] * 4
    group = human["rdm"].values[0]
    np.testing.assert_allclose(subjects["rdm"].values.mean(0), group, atol=1e-6)


def test_the_92_images_have_their_categories(data_folder: Path) -> None:
    stimuli = open_stimuli(ingest("kriegeskorte2008", mirror=data_folder))
    assert len(stimuli) == 92
    assert stimuli.image(0).shape == (175, 175, 3)
    faces = stimuli.table["is_face"].astype(bool)
    assert faces.sum() == 24
    assert all("face" in category for category in stimuli.table["category"][faces])


@pytest.mark.parametrize("session", ["190923", "210224", "210305"])
def test_v4_sessions_come_from_the_mirror(data_folder: Path, session: str) -> None:
    recording = ingest(f"cowley2023_v4_{session}", mirror=data_folder)
    raw = np.load(data_folder / "cowley2023_v4" / f"responses_{session}.npy")
    np.testing.assert_array_equal(recording["response"].values, raw.T)
    assert len(open_stimuli(recording)) == raw.shape[1]


def test_wrong_file_is_no_mat_file(data_folder: Path, tmp_path: Path) -> None:
    from repalign.cards import load_dataset_card
    from repalign.loaders import kriegeskorte2008

    card = load_dataset_card("kriegeskorte2008")
    (tmp_path / "x.mat").write_bytes(b"no mat file")
    with pytest.raises(ValueError, match="no readable .mat file"):
        kriegeskorte2008.read(card, {"supplement": tmp_path / "x.mat", "subjects": tmp_path})
    models = data_folder / "kriegeskorte2008" / "92_modelRDMs.mat"
    with pytest.raises(ValueError, match="has no variable 'RDMs_mIT_hIT_fig1'"):
        kriegeskorte2008.read(card, {"supplement": models, "subjects": models})


def test_raw_trials_of_a_session_have_the_reliability_that_was_planted(
    lab: Lab, random: np.random.Generator
) -> None:
    """Neurons × images × repeats with NaN in the repeats that an image has fewer."""
    neurons, images, most = 12, 2000, 9
    signal = random.normal(size=(neurons, images))
    noise = np.linspace(0.5, 3, neurons)
    counts = random.integers(2, most + 1, size=images)
    raw = signal[:, :, None] + noise[:, None, None] * random.normal(size=(neurons, images, most))
    raw[:, np.arange(most) >= counts[:, None]] = np.nan
    np.save(lab.folder / "responses_raw.npy", raw)
    options = 'dims = ["neuroid", "stimulus", "repetition"]'
    recording = ingest(lab.card('responses = "responses_raw.npy"', options))
    assert recording.sizes["presentation"] == counts.sum()
    found = reliability(response_array(recording, stimulus_ids(recording)), splits=50).numpy()
    power = signal.var(axis=1)
    planted = power / (power + noise**2 * (1 / counts).mean())
    np.testing.assert_allclose(found, planted, rtol=0, atol=0.08)
    assert abs(found - planted).mean() < 0.02
    assert planted.min() < 0.4 < 0.9 < planted.max()


def test_more_columns_of_the_neuroids_table_become_coordinates(lab: Lab) -> None:
    (lab.folder / "neuroids.csv").write_text(
        "neuroid_id,depth,array,session\n" + "\n".join(f"n{i},{i / 2},A{i},1" for i in range(4))
    )
    files = 'responses = "responses.npy"\nimages = "images.zip"\nneuroids = "neuroids.csv"'
    recording = ingest(lab.card(files))
    assert recording["depth"].dims == ("neuroid",)
    assert recording["depth"].values.tolist() == [0, 0.5, 1, 1.5]
    assert recording["array"].values.tolist() == ["A0", "A1", "A2", "A3"]
    (lab.folder / "neuroids.csv").write_text("depth,start\n" + "1,2\n" * 4)
    with pytest.raises(ValueError, match=r"neuroids\.csv has a column 'start', a name of ours"):
        ingest(lab.card(files))
    (lab.folder / "neuroids.csv").write_text("depth\n" + "1\n" * 4)
    (lab.folder / "stimuli.csv").write_text("depth\n" + "1\n" * 6)
    with pytest.raises(ValueError, match="'depth', a name of the stimuli table too"):
        ingest(lab.card(files + '\nstimuli = "stimuli.csv"'))

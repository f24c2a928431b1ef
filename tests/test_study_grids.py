"""The grid of a study: what stands in it, what it costs, and what is known from before."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from studies_material import IDS, N_STIMULI, make_study, write_layer, write_network, write_recording

import repalign as ra
from repalign.activations import open_layers
from repalign.agents import Rollout, make_steps, write_rollout
from repalign.opening import open_recording
from repalign.recording import make_activations, make_recording
from repalign.small_networks import build
from repalign.store import write_store
from repalign.studies import (
    collect_study,
    network_layers,
    plan_study,
    read_study,
    remembering,
    room,
    run_study,
    study_status,
)
from repalign.studies.grid_building import build_grid
from repalign.studies.network_layers import NamedNetwork
from repalign.studies.results_store import write_part


def grid(study: Any) -> Any:
    return build_grid(read_study(study))


def keys(study: Any) -> set[str]:
    found: set[str] = grid(study).keys()[0]
    return found


def cells(study: Any) -> set[tuple[str, ...]]:
    return {
        (cell.target.region, cell.layer.model, cell.layer.layer, cell.metric)
        for cell in grid(study).cells()
    }


# What is known of networks from before


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words of the networks that a grid has built."""
    words: list[str] = []
    load = network_layers.load_network

    def counting(word: str, **where: Any) -> Any:
        words.append(word)
        return load(word, **where)

    monkeypatch.setattr(network_layers, "load_network", counting)
    monkeypatch.setattr(remembering, "YOUNG_S", 0.0)
    return words


def own_network(folder: Path, *, seed: int = 0, title: str = "", size: int = 8) -> Path:
    """A card with a file of weights beside it."""
    torch.manual_seed(seed)
    torch.save(build("digits_cnn").state_dict(), folder / "own.pt")
    card = folder / "own.toml"
    card.write_text(
        f'name = "own"\ntitle = "{title}"\nsource = "repalign:digits_cnn"\nweights = "own.pt"\n'
        f'layers = ["conv1", "hidden"]\n[preprocessing]\nsize = [{size}, {size}]\n',
        encoding="utf-8",
    )
    return card


def test_networks_are_built_once_and_not_to_know_how_far_a_study_is(
    tmp_path: Path, built: list[str]
) -> None:
    own = str(own_network(tmp_path))
    study = make_study(
        tmp_path, models=["digits_cnn@random:3", "pixels", own], metrics=["cka"], layers=["*"]
    )
    study["layers"] = {"digits*": ["conv*", "hidden"]}
    first = study_status(study)
    assert built == study["models"]
    assert study_status(study) == first
    assert plan_study(study).status == first
    assert built == study["models"]
    done = run_study(study, progress=False)
    assert done.done == done.cells == first.cells
    del built[:]
    assert study_status(study).done == done.cells
    assert len(collect_study(study).table) == done.cells
    assert plan_study(study).to_record == ()
    assert built == []


def change_weights_in_place(folder: Path) -> None:
    """Other weights in a file of the same size and time."""
    path = folder / "own.pt"
    before, size = path.stat().st_mtime_ns, path.stat().st_size
    own_network(folder, seed=1)
    assert path.stat().st_size == size
    os.utime(path, ns=(before, before))


CHANGES: dict[str, tuple[Callable[[Path], Any], int]] = {
    "the weights, in a file that looks the same": (change_weights_in_place, 2),
    "the card's input": (lambda folder: rewrite(folder, "mean = [0.1, 0.1, 0.1]\n"), 2),
    "the card's title": (lambda folder: own_network(folder, title="Another"), 0),
    "the same weights, written again": (lambda folder: own_network(folder), 0),
    "one image": (lambda folder: other_images(folder), 2),
}


def rewrite(folder: Path, more: str) -> None:
    card = folder / "own.toml"
    card.write_text(card.read_text("utf-8") + more, encoding="utf-8")


def other_images(folder: Path) -> None:
    from repalign.scenes import make_scenes
    from repalign.stimuli import Stimuli, encode_png

    recording = open_recording(str(folder / "lab.zarr")).load()
    images = [encode_png(image) for image in make_scenes(N_STIMULI, size=32).images]
    images[3] = encode_png(np.zeros((32, 32, 3), np.uint8))
    ra.save_recording(
        recording, folder / "lab.zarr", stimuli=Stimuli(tuple(IDS), images), overwrite=True
    )


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_known_of_a_network_is_never_stale(
    name: str, tmp_path: Path, built: list[str]
) -> None:
    """Also what is kept from before has the layers' places of a network that is built anew."""
    change, moved = CHANGES[name]
    study = make_study(tmp_path, models=[str(own_network(tmp_path))], metrics=["cka"])

    def places() -> list[str]:
        (group,) = grid(study).groups
        return [layer.store for layer in group.layers]

    before = places()
    assert places() == before
    assert len(built) == 1
    change(tmp_path)
    after = places()
    shutil.rmtree(tmp_path / "to" / "known")
    assert after == places()  # as without any memory
    assert sum(old != new for old, new in zip(before, after, strict=True)) == moved


def test_other_code_packages_or_processors_build_a_network_again(
    tmp_path: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path, models=["digits_cnn"], metrics=["cka"])
    grid(study)
    for name, value in (
        ("package_digest", "other code"),
        ("state_of_packages", {"torch": "0.0"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(network_layers, name, lambda *_, value=value: value)
            grid(study)
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "other")
        grid(study)
    assert built == ["digits_cnn"] * 4
    grid(study)
    assert len(built) == 4


def test_what_cannot_be_told_cheaply_is_built_each_time(
    tmp_path: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def depends_on(model: str) -> Any:
        return NamedNetwork(model, read_study(make_study(tmp_path))).depends_on

    card = own_network(tmp_path)
    assert depends_on(str(card)) is not None
    with monkeypatch.context() as patch:  # could change again without a sign of it
        patch.setattr(remembering, "YOUNG_S", 60.0)
        assert depends_on(str(card)) is None
        assert depends_on(f"{card}@random") is not None  # reads no weights
    with monkeypatch.context() as patch:  # installed in place
        patch.setattr(network_layers, "state_of_packages", lambda _: None)
        assert depends_on("digits_cnn") is None
    (tmp_path / "mine.py").write_text("import torch\ndef net():\n    return torch.nn.Flatten()\n")
    card.write_text('name = "own"\nsource = "mine:net"\nweights = "random"\nlayers = ["0"]\n')
    assert depends_on(str(card)) is None  # code that may read anything


def test_a_damaged_memory_is_found_out_again(tmp_path: Path, built: list[str]) -> None:
    study = make_study(tmp_path, models=["digits_cnn"], metrics=["cka"])
    before = grid(study).groups
    for path in (tmp_path / "to" / "known").iterdir():
        path.write_text(path.read_text("utf-8")[:-20], encoding="utf-8")
    assert grid(study).groups == before
    assert len(built) == 2


# Metrics with settings of their own, and parts of a recording


def test_a_metric_has_settings_of_its_own(tmp_path: Path) -> None:
    tables = [
        "rsa",
        {"name": "cka", "null_draws": 0},
        {"name": "ridge", "parameters": {"folds": 4}, "n_resamples": 0, "ceiling": "none"},
    ]
    study = make_study(tmp_path, metrics=tables)
    assert run_study(study, progress=False).failed == 0
    table = collect_study(study).table.set_index("metric")
    assert table.loc["rsa", ["ci_low", "null_mean", "ceiling_low"]].notna().all().all()
    assert table.loc["cka", ["ci_low", "ceiling_low"]].notna().all().all()
    assert table.loc["cka", "null_mean"].isna().all()
    assert table.loc["ridge", ["ci_low", "ceiling_low"]].isna().all().all()
    assert table.loc["ridge", "null_mean"].notna().all()
    ridge = collect_study(study).table.query("metric == 'ridge' and model == 'one'")
    expected = ra.compare(
        open_recording(str(tmp_path / "lab.zarr")),
        open_layers(tmp_path / "one.zarr"),
        ra.Ridge(folds=4),
        n_resamples=0,
        null_draws=3,
        seed=1,
        device="cpu",
    ).rows()
    by_place = {(row["layer"], row["region"]): row for row in expected}
    for row in ridge.to_dict("records"):
        same = by_place[row["layer"], row["region"]]
        assert (row["value"], row["null_mean"]) == (same["value"], same["null_mean"])


def test_a_setting_of_one_metric_touches_its_cells_alone(tmp_path: Path) -> None:
    def with_ridge(**more: Any) -> set[str]:
        return keys(make_study(tmp_path, metrics=["rsa", "cka", {"name": "ridge:folds=4", **more}]))

    before = keys(make_study(tmp_path))
    assert with_ridge() == before  # the same in a table
    assert with_ridge(ceiling="none") == before  # ceilings have keys of their own
    for change in ({"n_resamples": 30}, {"null_draws": 0}, {"confidence": 0.9}):
        assert len(with_ridge(**change) - before) == 10
    table = [*make_study(tmp_path)["metrics"][:2], {"name": "ridge", "parameters": {"folds": 4}}]
    assert keys(make_study(tmp_path, metrics=table)) == before


def test_regions_and_subjects_choose_cells_and_change_none(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    whole, entry = keys(study), {"name": study["recordings"][0]}
    for choice in ({"region": "IT"}, {"region": ["I*", "IT"]}, {"species": "mac*", "region": "IT"}):
        part = study | {"recordings": [entry | choice]}
        assert keys(part) < whole
        assert {cell[0] for cell in cells(part)} == {"IT"}
    assert run_study(study | {"recordings": [entry | {"region": "IT"}]}, progress=False).done == 15
    table = collect_study(study).table  # the other study's results serve this one
    assert len(table) == 15
    run_study(study | {"name": "alone"}, progress=False)
    alone = collect_study(study | {"name": "alone"}).table.query("region == 'IT'")
    assert alone["value"].tolist() == table["value"].tolist()
    assert alone["ceiling_low"].tolist() == table["ceiling_low"].tolist()


def test_a_recording_leaves_out_models_and_a_metric_recordings(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    write_recording(tmp_path / "second", seed=4)
    second = tmp_path / "second" / "other.zarr"
    (tmp_path / "second" / "lab.zarr").rename(second)
    recording = open_recording(str(second)).load().assign_attrs(dataset="other")
    ra.save_recording(recording, second, overwrite=True)
    study["recordings"] = [
        study["recordings"][0],
        {"name": str(second), "exclude": ["*/two.zarr"]},
    ]
    study["metrics"] = ["cka", {"name": "rsa", "recordings": "oth*"}]
    found = {(cell.recording.name, cell.layer.model, cell.metric) for cell in grid(study).cells()}
    assert found == {
        ("lab", "one", "cka"),
        ("lab", "two", "cka"),
        ("other", "one", "cka"),
        ("other", "one", "rsa"),
    }


# Brains, agents and autoencoders as models


def test_a_brain_is_a_model_whose_layers_are_its_groups(tmp_path: Path) -> None:
    study = make_study(tmp_path, layers=["conv*"], metrics=["cka", "ridge:folds=4"])
    random = np.random.default_rng(5)
    second = make_recording(
        random.normal(size=(2 * N_STIMULI, 7)),
        stimulus_id=IDS * 2,
        region=["V1"] * 3 + ["IT"] * 4,
        species="human",
    )
    ra.save_recording(second, tmp_path / "people.zarr")
    study["models"] = [str(tmp_path / "people.zarr"), str(tmp_path / "lab.zarr")]
    assert run_study(study, progress=False).failed == 0
    results = collect_study(study)
    own = [("V4", "lab", "macaque IT subject-1"), ("IT", "lab", "macaque V4 subject-1")]
    people = [
        (region, "people", f"human {other} subject-1")
        for region in ("V4", "IT")
        for other in ("V1", "IT")
    ]
    assert {cell[:3] for cell in cells(study)} == {*own, *people}  # no group with itself
    first, second = (open_recording(str(tmp_path / f"{n}.zarr")) for n in ("lab", "people"))
    for metric in (ra.CKA(), ra.Ridge(folds=4)):
        expected = ra.compare(
            first, second, metric, n_resamples=20, null_draws=3, seed=1, device="cpu"
        ).rows()
        found = {
            (row["region"], row["layer"]): row
            for row in results.rows()
            if (row["model"], row["metric"]) == ("people", metric.name)
        }
        assert len(found) == len(expected) == 4
        for row in expected:
            same = found[row["region"], row["layer"]]
            for name in ("value", "ci_low", "null_mean", "species", "n_stimuli", "ceiling_kind"):
                assert same[name] == row[name], name


def test_brains_are_named_by_their_cards_and_chosen_by_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = tmp_path / "cards"
    cards.mkdir()
    np.save(cards / "x.npy", np.random.default_rng(0).normal(size=(N_STIMULI, 5)))
    (cards / "ids.csv").write_text("stimulus_id\n" + "\n".join(IDS), encoding="utf-8")
    (cards / "monkey.toml").write_text(
        'name = "monkey"\nloader = "arrays"\nspecies = "macaque"\nregions = "IT"\n'
        '[files]\nresponses = "x.npy"\nstimuli = "ids.csv"\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("REPALIGN_CARDS", str(cards))
    study = make_study(tmp_path, metrics=["cka"], models=["@monk*"])
    found = cells(study)
    assert {cell[1] for cell in found} == {"monkey"}
    assert cells(study | {"models": ["@monkey"]}) == found
    assert cells(study | {"models": [str(cards / "monkey.toml")]}) == found
    with pytest.raises(ValueError, match="no dataset 'monky'.*did you mean monkey"):
        grid(study | {"models": ["@monky"]})
    with pytest.raises(ValueError, match=r"no layer 'macaque V\*' in @monkey; there are macaque"):
        grid(study | {"models": ["@monkey"], "layers": {"@monkey": ["macaque V*"]}})


def test_layers_of_an_agent_are_compared_by_their_store(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    steps = make_steps(random.normal(size=(N_STIMULI, 3)), terminated=[False] * 15 + [True])
    layer = make_activations(random.normal(size=(N_STIMULI, 6)), None, "agent", "0", (6,))
    layer = layer.assign_coords(episode=("presentation", ["a"] * 8 + ["b"] * 8))
    write_rollout(Rollout(steps, {"0": layer}, {}), tmp_path / "play")
    study = make_study(tmp_path, metrics=["cka"], inference={})
    study["models"] = [str(tmp_path / "play" / "layers.zarr")]
    assert run_study(study, progress=False).done == 2
    rows = collect_study(study).rows()
    expected = ra.compare(
        open_recording(str(tmp_path / "lab.zarr")),
        open_layers(tmp_path / "play" / "layers.zarr"),
        ra.CKA(),
        device="cpu",
    )
    assert [row["value"] for row in rows] == [one.value for one in expected]
    assert "rows matched by order" in rows[0]["note"]
    with pytest.raises(ValueError, match="cka of agent: the steps of an episode are not indep"):
        grid(study | {"inference": {"null_draws": 3}})
    with pytest.raises(FileNotFoundError, match=r"at .*play, but layers\.zarr, steps\.zarr in it"):
        grid(study | {"models": [str(tmp_path / "play")]})


def test_one_store_of_features_keeps_its_one_layer(tmp_path: Path) -> None:
    """As an autoencoder writes it: one group, at the root."""
    write_network(tmp_path, "two", 2, seed=2)
    values = np.random.default_rng(3).random((N_STIMULI, 9), dtype=np.float32)
    features = make_activations(values, IDS, "net", "conv1+autoencoder", (9,))
    write_store(tmp_path / "features.zarr", {"": features}, provenance={})
    models = [str(tmp_path / f"{name}.zarr") for name in ("features", "two")]
    write_recording(tmp_path)
    write_network(tmp_path, "one", 1, seed=1)
    study = make_study(tmp_path, models=models, metrics=["cka"], layers=["l*"])
    assert {cell[1:3] for cell in cells(study)} == {
        ("net", "conv1+autoencoder"),
        ("two", "l0"),
        ("two", "l1"),
    }
    assert run_study(study, progress=False).done == 6
    one = study | {"models": [str(tmp_path / "two.zarr" / "l1")]}
    assert {cell[1:3] for cell in cells(one)} == {("two", "l1")}


# What is said before hours are spent

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "key of a metric": (
        {"metrics": [{"name": "rsa", "parametrs": {}}]},
        "unknown key 'metrics.0.parametrs'; did you mean 'parameters'",
    ),
    "parameter of a metric": (
        {"metrics": [{"name": "rsa", "parameters": {"comparater": "corr"}}]},
        "no parameter of rsa;.*did you mean comparator",
    ),
    "type of a parameter": (
        {"metrics": [{"name": "ridge", "parameters": {"folds": "x"}}]},
        "'folds=x': expected a value of type int",
    ),
    "parameter twice": (
        {"metrics": [{"name": "ridge:folds=4", "parameters": {"folds": 5}}]},
        "'folds' stands in name = 'ridge:folds=4' and under parameters",
    ),
    "metric twice": (
        {"metrics": ["ridge:folds=4", {"name": "ridge", "parameters": {"folds": 4}}]},
        "'ridge:folds=4' stands twice",
    ),
    "resamples of a jackknife": (
        {"metrics": [{"name": "cka", "n_resamples": 100}]},
        "n_resamples = 100 does not count for cka",
    ),
    "confidence of no interval": (
        {"metrics": [{"name": "rsa", "n_resamples": 0, "confidence": 0.9}]},
        "confidence = 0.9 does not count for rsa",
    ),
    "a ceiling over subjects": (
        {"inference": {"ceiling": "nili"}},
        "ceiling = 'nili' is over subjects' RDMs, and cka has none",
    ),
    "recordings of a metric": (
        {"metrics": [{"name": "rsa", "recordings": ["lap"]}]},
        "recordings = 'lap' matches none of the study; there are lab; did you mean lab",
    ),
    "no recordings": ({"recordings": []}, "recordings.*at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_said_at_once(name: str, tmp_path: Path) -> None:
    changes, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        grid(make_study(tmp_path, **changes))


def test_parts_that_are_not_there_are_said_with_near_matches(tmp_path: Path) -> None:
    study = make_study(tmp_path)

    def with_entry(**more: Any) -> dict[str, Any]:
        return study | {"recordings": [{"name": study["recordings"][0], **more}]}

    for more, message in (
        ({"region": "ITT"}, "recording lab: region = 'ITT' matches none; there are V4, IT; did"),
        ({"subject": "M*"}, r"subject = 'M\*' matches none; there are subject-1"),
        ({"select": "region=ITT"}, r"select 'region=ITT': nothing has region.*there is V4, IT"),
        ({"exclude": "three*"}, r"exclude of recording .*: 'three\*' matches no model"),
        ({"exclude": "*"}, "the grid of study small is empty: every model is excluded"),
        ({"regions": "IT"}, "unknown key 'recordings.0.regions'; did you mean 'region'"),
    ):
        with pytest.raises(ValueError, match=message):
            grid(with_entry(**more))
    one_each = make_recording(
        np.eye(4), stimulus_id=list("abcd"), region=["V4", "V4", "IT", "IT"], subject=list("AABB")
    )
    ra.save_recording(one_each, tmp_path / "each.zarr")
    with pytest.raises(ValueError, match="no group has region = .*together; there are unknown V4"):
        grid(
            study
            | {
                "recordings": [
                    {"name": str(tmp_path / "each.zarr"), "region": "V4", "subject": "B"}
                ]
            }
        )


def test_recordings_that_no_metric_fits_are_named(tmp_path: Path) -> None:
    import xarray as xr

    study = make_study(tmp_path)
    bins = make_recording(
        np.zeros((2, 3, 2)), stimulus_id=["a", "b"], region="IT", time_bins=([0, 1], [1, 2])
    )
    ra.save_recording(bins, tmp_path / "bins.zarr")
    for place in ("recordings", "models"):
        with pytest.raises(ValueError, match="bins has time bins.*repalign.average_time"):
            grid(study | {place: [str(tmp_path / "bins.zarr")]})
    square = 1 - np.eye(N_STIMULI)
    rdms = xr.Dataset(
        {"rdm": (("subject", "stimulus_id", "stimulus_id_"), square[None])},
        coords={
            "subject": np.array(["s1"], dtype=object),
            "species": ("subject", np.array(["human"], dtype=object)),
            "region": ("subject", np.array(["IT"], dtype=object)),
            "stimulus_id": np.array(IDS, dtype=object),
            "stimulus_id_": np.array(IDS, dtype=object),
        },
    )
    ra.save_recording(rdms, tmp_path / "rdms.zarr")
    for place in ("recordings", "models"):
        with pytest.raises(ValueError, match="is empty: cka of rdms.*published"):
            grid(study | {place: [str(tmp_path / "rdms.zarr")], "metrics": ["cka", "ridge"]})
    found = grid(study | {"models": [str(tmp_path / "rdms.zarr")], "metrics": ["cka", "rsa"]})
    assert {cell.metric for cell in found.cells()} == {"rsa"}
    assert len(found.left_out) == 1
    single = make_recording(np.eye(N_STIMULI), stimulus_id=IDS, region="IT")
    ra.save_recording(single, tmp_path / "single.zarr")
    with pytest.raises(ValueError, match="rsa of single: ceiling = 'split-half' needs 2 or more"):
        grid(
            study
            | {
                "recordings": [str(tmp_path / "single.zarr")],
                "inference": {"ceiling": "split-half"},
            }
        )


def test_a_disk_without_room_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path, models=["pixels"], metrics=["cka"])
    monkeypatch.setattr(room, "free_disk", lambda _: 1000)
    with pytest.raises(OSError, match="activations of 786 KB and results of 400 bytes.*1000 bytes"):
        run_study(study, progress=False)
    assert not list((tmp_path / "to").glob("activations/*"))
    (tmp_path / "file").write_text("no folder")
    study["run"] = {"to": str(tmp_path / "file" / "to")}
    with pytest.raises(OSError, match="could not write into .*file/to/studies"):
        run_study(study | {"models": [str(tmp_path / "one.zarr")]}, progress=False)


def test_plan_says_room_time_with_workers_and_memory(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    one, four = plan_study(study), plan_study(study, workers=4)
    assert (one.workers, four.workers) == (1, 4)
    assert one.seconds_all == one.seconds
    assert four.seconds / 4 <= four.seconds_all < four.seconds
    assert one.disk_results == room.bytes_of_results(5 * 3 * 2 + 3 * 2)
    assert one.disk_results < one.disk_free
    assert room.PROCESS_BYTES < one.memory < 1.1 * room.PROCESS_BYTES
    assert "with 4 workers, up to" in "\n".join(four.notes())
    run_study(study, progress=False)
    parts = (read_study(study).folder / "parts").iterdir()
    assert sum(path.stat().st_size for path in parts) < 40_000  # of few rows, mostly the schema
    after = plan_study(study)
    assert (after.seconds_all, after.disk_results) == (0, 0)


def test_results_take_no_more_disk_than_is_said(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        {
            "key": random.bytes(16).hex(), "kind": "cell", "dataset": "lab", "model": "net",
            "layer": f"layer{i % 20}", "metric": "rsa", "metric_parameters": '{"rdm": "x"}',
            "note": "16 stimuli matched by id, of 16 and 16",
            **{name: random.random() for name in ("value", "null_mean", "null_sd", "ceiling_low")},
            **{name: random.random() for name in ("ci_low", "ci_high", "seconds")},
        }
        for i in range(5000)
    ]  # fmt: skip
    size = write_part(tmp_path, rows).stat().st_size
    assert 2 * size < room.bytes_of_results(len(rows)) < 8 * size


def test_a_worker_holds_no_more_memory_than_is_said(tmp_path: Path) -> None:
    """Measured in a process of its own, which compares one large layer by three metrics."""
    import json
    import subprocess

    study = make_study(tmp_path, metrics=["rsa", "cka", "ridge:folds=4"])
    values = np.random.default_rng(0).random((N_STIMULI, 1_000_000), dtype=np.float32)
    write_layer(tmp_path / "large.zarr" / "l0", values)
    study["models"] = [str(tmp_path / "large.zarr")]
    planned = plan_study(study).memory
    code = (
        "import json, sys\nfrom repalign.memory import PeakMemory\n"
        "from repalign.studies import run_study\n"
        "with PeakMemory() as memory:\n    run_study(json.loads(sys.argv[1]), progress=False)\n"
        "print(memory.peak)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(study)], capture_output=True, text=True, check=True
    )
    assert planned / 2.5 < int(done.stdout) < planned


def test_workers_keep_what_they_free(tmp_path: Path) -> None:
    """Dask's own setting makes each temporary array fresh pages, which the system has to clear."""
    import json
    import subprocess

    code = (
        "import json, resource\nimport numpy as np\nfrom repalign.memory import keep_freed\n"
        "def faults():\n    before = resource.getrusage(0).ru_minflt\n"
        "    for _ in range(50):\n        np.ones(1_000_000)\n"
        "    return resource.getrusage(0).ru_minflt - before\n"
        "print(json.dumps([faults(), keep_freed(), faults(), faults()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
    )
    before, can, _, after = json.loads(done.stdout)
    if not can:
        pytest.skip("the C library has no mallopt")
    assert after < before / 10


def test_resume_goes_on_and_begins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from repalign.cli import main

    make_study(tmp_path)
    toml = tmp_path / "study.toml"
    toml.write_text(
        'name = "a"\nrecordings = "./lab.zarr"\nmodels = "./one.zarr"\n[run]\nto = "to"\n'
        '[[metrics]]\nname = "rsa"\nn_resamples = 5\n[metrics.parameters]\ncomparator = "corr"\n',
        encoding="utf-8",
    )

    def call(verb: str, *more: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["repalign", "study", verb, str(toml), *more])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out + said.err

    code, said = call("resume")
    assert code
    assert "study a was never begun" in said
    assert "with 3 workers" in call("plan", "--workers", "3")[1]
    assert "6 of 6 cells done" in call("run")[1]
    write_layer(tmp_path / "one.zarr" / "l0", np.random.default_rng(9).normal(size=(16, 20)))
    assert "6 of 6 cells done" in call("resume")[1]


def test_thin_grids_have_arrays_too(tmp_path: Path) -> None:
    study = make_study(tmp_path, metrics=["cka"])
    run_study(study, progress=False)
    results = collect_study(study)
    array = results.to_xarray(stacked=True)
    assert dict(array.sizes) == {"population": 2, "model_layer": 5, "metric": 1}
    assert array["value"].notnull().all()
    one = array.isel(population=array["region"] == "IT", model_layer=array["layer"] == "l2")
    row = results.table.query("region == 'IT' and layer == 'l2'").iloc[0]
    assert float(one["value"].item()) == row["value"]
    assert one["model"].item() == row["model"]


def test_the_page_of_a_study_with_a_brain_as_a_model(tmp_path: Path) -> None:
    study = make_study(tmp_path, metrics=[{"name": "rsa", "n_resamples": 0}])
    study["models"] = [str(tmp_path / "one.zarr"), str(tmp_path / "lab.zarr")]
    run_study(study, progress=False)
    page = ra.write_study_report(study, tmp_path / "report").read_text("utf-8")
    assert "macaque V4 subject-1" in page
    kept = read_study(study).folder  # as it ran, from the configuration that was kept
    again = ra.write_study_report(kept, tmp_path / "again").read_text("utf-8")
    assert "macaque V4 subject-1" in again

"""Studies: the numbers of compare, each computed once, and nothing stale among them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from studies_material import IDS, METRICS, make_study, write_layer, write_network, write_recording

import repalign as ra
from repalign.activations import open_layers
from repalign.choices import parse_choice
from repalign.metrics import METRICS as KNOWN
from repalign.opening import open_recording
from repalign.reporting import read_rows
from repalign.scoring import settings_that_count
from repalign.studies import collect_study, plan_study, read_study, run_study, study_status
from repalign.studies.grid_building import build_grid
from repalign.studies.results_store import make_one, read_stored, write_part

CELLS = 5 * 3 * 2  # layers, metrics, regions


def run(study: Any, **options: Any) -> Any:
    return run_study(study, progress=False, **options)


def keys(study: Any) -> set[str]:
    return build_grid(read_study(study)).keys()[0]


def computed(study: dict[str, Any]) -> int:
    log = read_study(study).folder / "log.jsonl"
    events = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    return sum(one["cells"] for one in events if one["event"] == "computed")


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_rows_are_those_of_compare_with_their_ceilings(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    status = run(study)
    assert (status.cells, status.done, status.failed, status.to_do) == (CELLS, CELLS, 0, 0)
    found = {
        (row["region"], row["model"], row["layer"], row["metric"]): row
        for row in collect_study(study).rows()
    }
    assert len(found) == CELLS
    recording = open_recording(str(tmp_path / "lab.zarr"))
    for model in ("one", "two"):
        for text in METRICS:
            metric = parse_choice(text, KNOWN, "metric")
            layers = open_layers(tmp_path / f"{model}.zarr")
            for row in ra.compare(
                recording, layers, metric, n_resamples=20, null_draws=3, seed=1, device="cpu"
            ).rows():
                same = found.pop((row["region"], row["model"], row["layer"], row["metric"]))
                assert row["ceiling_kind"] == "split-half"
                for name, value in row.items():
                    expected = pytest.approx(value, rel=1e-12) if name == "value" else value
                    assert same[name] == expected, (name, same[name], value)
    assert not found


def test_a_second_run_computes_nothing(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    run(study)
    table = collect_study(study).table
    assert computed(study) == CELLS
    assert run(study).done == CELLS
    assert computed(study) == CELLS
    pd.testing.assert_frame_equal(collect_study(study).table, table)


def test_values_are_the_same_bit_for_bit_for_any_number_of_workers(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    run(study)
    spread = study | {"name": "spread"}
    assert run(spread, workers=2).done == CELLS
    paths = [
        collect_study(one).save(tmp_path / f"{one['name']}.parquet") for one in (study, spread)
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    rows = [
        sorted(read_stored(read_study(one).folder).table.to_pylist(), key=lambda row: row["key"])
        for one in (study, spread)
    ]
    assert without_time(rows[0]) == without_time(rows[1])


def test_noise_ceilings_are_computed_once_a_recording_and_metric(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    run(study)
    kinds = read_stored(read_study(study).folder).table["kind"].to_pylist()
    assert kinds.count("ceiling") == 3 * 2
    assert kinds.count("cell") == CELLS


def test_a_selection_is_a_recording_of_its_own(tmp_path: Path) -> None:
    part = {"name": str(tmp_path / "lab.zarr"), "select": ["stimulus_id=" + ",".join(IDS[:12])]}
    study = make_study(tmp_path, metrics=["rsa"])
    study["recordings"] = [study["recordings"][0], part | {"select": ["region=IT"]}, part]
    assert run(study).done == 5 * (2 + 1 + 2)
    table = collect_study(study).table
    recording = open_recording(str(tmp_path / "lab.zarr"))
    layers = open_layers(tmp_path / "one.zarr")
    for selected, words in (
        (ra.select(recording, region="IT"), "region=IT"),
        (ra.select(recording, stimulus_id=IDS[:12]), part["select"][0]),
    ):
        rows = ra.compare(
            selected, layers, ra.RSA(), n_resamples=20, null_draws=3, seed=1, device="cpu"
        ).rows()
        same = table[(table["selection"] == words) & (table["model"] == "one")]
        for name in ("value", "ceiling_low", "ci_low", "n_stimuli"):
            of_layers = sorted((row["layer"], row["region"], row[name]) for row in rows)
            found = same[["layer", "region", name]].itertuples(index=False, name=None)
            assert sorted(found) == of_layers


CHANGES: dict[str, tuple[dict[str, Any], int]] = {
    "a metric's parameter": ({"metrics": ["rsa:comparator=corr", *METRICS[1:]]}, 10),
    "the seed, which all draw with": ({"inference": {"n_resamples": 20, "seed": 2}}, 30),
    "resamples, which the jackknife of CKA has none of": (
        {"inference": {"n_resamples": 30, "null_draws": 3, "seed": 1}},
        20,
    ),
    "confidence, which all intervals have": (
        {"inference": {"n_resamples": 20, "null_draws": 3, "seed": 1, "confidence": 0.9}},
        30,
    ),
    "the kind of ceiling": (
        {"inference": {"n_resamples": 20, "null_draws": 3, "seed": 1, "ceiling": "none"}},
        0,
    ),
    "the order of metrics, and of models": ({"metrics": METRICS[::-1]}, 0),
    "the name of the study and its workers": ({"name": "other"}, 0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_configuration_touches_exactly(name: str, tmp_path: Path) -> None:
    changes, touched = CHANGES[name]
    before, after = keys(make_study(tmp_path)), keys(make_study(tmp_path, **changes))
    assert len(before) == len(after) == CELLS
    assert len(after - before) == touched


def test_the_seed_touches_only_what_draws(tmp_path: Path) -> None:
    def with_seed(seed: int, **more: Any) -> set[str]:
        return keys(make_study(tmp_path, inference={"null_draws": 0, "seed": seed, **more}))

    assert len(with_seed(1) - with_seed(2)) == 20  # the bootstraps of RSA and ridge
    assert with_seed(1, n_resamples=0) == with_seed(2, n_resamples=0)


@pytest.mark.parametrize("n_resamples", [0, 10])
@pytest.mark.parametrize("null_draws", [0, 2, None])
@pytest.mark.parametrize("text", [*METRICS, "cka:debiased=false", "rsa:comparator=kendall"])
def test_settings_that_do_not_count_change_nothing(
    text: str, null_draws: int | None, n_resamples: int, random: np.random.Generator
) -> None:
    """What keys leave out must not matter: the same settings that count, the same row."""
    metric = parse_choice(text, KNOWN, "metric")
    x, y = random.normal(size=(2, 12, 5))
    rows, settings = [], []
    for seed in (1, 2):
        given = {"n_resamples": n_resamples, "null_draws": null_draws, "seed": seed}
        row = ra.compare(x, y, metric, **given).rows()[0]
        rows.append({name: value for name, value in row.items() if name != "seed"})
        settings.append(settings_that_count(metric, 12, confidence=0.95, **given))
    if settings[0] == settings[1]:
        assert rows[0] == rows[1]
    else:
        assert rows[0] != rows[1]


def test_other_activations_and_recordings_invalidate_their_own_cells(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    run(study)
    before = collect_study(study).table
    write_layer(tmp_path / "one.zarr" / "l1", np.random.default_rng(9).normal(size=(16, 20)))
    status = study_status(study)
    assert (status.done, status.to_do, status.stale) == (24, 6, 6)
    assert len(collect_study(study).table) == 24  # a stale result is not served
    assert run(study).done == CELLS
    assert computed(study) == CELLS + 6
    after = collect_study(study).table
    changed = (before["value"] != after["value"]).to_numpy()
    touched = ((after["model"] == "one") & (after["layer"] == "l1")).to_numpy()
    assert (changed == touched).all()
    write_recording(tmp_path, seed=5)
    status = study_status(study)
    assert (status.done, status.ceilings_done) == (0, 0)
    write_recording(tmp_path, seed=0)  # what comes back is known
    assert study_status(study).done == CELLS


def test_a_card_invalidates_its_cells_where_the_network_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = tmp_path / "cards"
    cards.mkdir()
    monkeypatch.setenv("REPALIGN_CARDS", str(cards))

    def write_card(name: str, *, size: int = 8, title: str = "") -> None:
        (cards / f"{name}.toml").write_text(
            f'name = "{name}"\ntitle = "{title}"\nsource = "repalign:pixels"\nweights = "none"\n'
            f'layers = ["pixels"]\n[preprocessing]\nsize = [{size}, {size}]\n',
            encoding="utf-8",
        )

    write_card("small_a")
    write_card("small_b")
    study = make_study(tmp_path, models=["small_*"], metrics=["cka"])
    assert run(study).done == 4
    write_card("small_a", title="Another title")
    assert study_status(study).done == 4
    write_card("small_a", size=9)
    status = study_status(study)
    assert (status.done, status.to_do, status.stale) == (2, 2, 2)
    assert set(collect_study(study).table["model"]) == {"small_b"}
    assert run(study).done == 4
    assert computed(study) == 6


def test_versions_of_repalign_keep_their_results_while_no_computing_module_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repalign.studies import keys as module

    before = keys(make_study(tmp_path))
    monkeypatch.setattr(ra, "__version__", "99.0")
    assert keys(make_study(tmp_path)) == before
    monkeypatch.setattr(module, "code_digest", lambda: "of other modules")
    assert not keys(make_study(tmp_path)) & before


def test_a_failed_cell_keeps_its_error_and_stops_no_other(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    write_layer(tmp_path / "one.zarr" / "l2", np.ones((16, 20), dtype=np.float32))
    status = run(study)
    assert (status.done, status.failed) == (CELLS - 2, 2)
    assert "correlation distance is undefined" in next(iter(status.errors))
    failed = collect_study(study).table.query("error.notna()")
    assert failed[["model", "layer", "metric"]].drop_duplicates().to_numpy().tolist() == [
        ["one", "l2", "rsa"]
    ]
    before = computed(study)
    assert run(study).failed == 2
    assert computed(study) == before + 2  # tried again, and nothing else


def test_a_target_that_fails_stops_no_other_target(tmp_path: Path) -> None:
    study = make_study(tmp_path, metrics=["rsa"])
    recording = open_recording(str(tmp_path / "lab.zarr")).load()
    recording["response"][:, recording["region"].values == "V4"] = 1.0
    ra.save_recording(recording, tmp_path / "lab.zarr", overwrite=True)
    status = run(study)
    assert (status.done, status.failed, status.ceilings_failed) == (5, 5, 2)
    table = collect_study(study).table
    assert set(table[table["error"].isna()]["region"]) == {"IT"}


@pytest.mark.parametrize("harm", ["a bit", "the end", "all"])
def test_a_damaged_part_is_named_and_computed_again(
    harm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(tmp_path)
    run(study)
    whole = collect_study(study).table
    part = max((read_study(study).folder / "parts").glob("*.parquet"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes({"a bit": content, "the end": content[:-20], "all": b""}[harm])
    status = study_status(study)
    assert status.damaged == (str(part),)
    assert status.done < CELLS
    assert f"{part} are damaged" in capsys.readouterr().err
    assert run(study).done == CELLS
    pd.testing.assert_frame_equal(collect_study(study).table, whole)
    assert study_status(study).damaged == ()


def test_parts_are_made_one_and_a_value_counts_more_than_an_error(tmp_path: Path) -> None:
    write_part(tmp_path, [{"key": "a", "error": "first"}, {"key": "b", "value": 1.0}])
    write_part(tmp_path, [{"key": "a", "value": 2.0}, {"key": "b", "error": "late"}])
    write_part(tmp_path, [{"key": "b", "value": 3.0}, {"key": "c", "error": "only"}])
    before = read_stored(tmp_path)
    make_one(tmp_path, most=2)
    after = read_stored(tmp_path)
    assert len(list((tmp_path / "parts").iterdir())) == 1
    for stored in (before, after):
        rows = {row["key"]: (row["value"], row["error"]) for row in stored.table.to_pylist()}
        assert rows == {"a": (2.0, None), "b": (3.0, None), "c": (None, "only")}


def test_stimuli_are_matched_for_stores_that_share_a_part(tmp_path: Path) -> None:
    study = make_study(tmp_path, metrics=["cka"])
    write_network(tmp_path, "part", 1, seed=3, ids=[*IDS[:10], "another"])
    study["models"] = [str(tmp_path / "part.zarr"), str(tmp_path / "one.zarr")]
    run(study)
    rows = collect_study(study).rows()
    alone = ra.compare(
        open_recording(str(tmp_path / "lab.zarr")),
        open_layers(tmp_path / "part.zarr"),
        ra.CKA(),
        n_resamples=20,
        null_draws=3,
        seed=1,
        device="cpu",
    ).rows()
    of_part = [row for row in rows if row["model"] == "part"]
    assert [row["n_stimuli"] for row in of_part] == [10, 10]
    for name in ("value", "ceiling_low", "ceiling_high", "ceiling_error", "ci_low"):
        assert [row[name] for row in of_part] == [row[name] for row in alone]


def test_arrays_have_the_dimensions_of_the_grid(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    run(study)
    results = collect_study(study)
    array = results.to_xarray()
    assert dict(array.sizes) == {"recording": 1, "target": 2, "model": 2, "layer": 3, "metric": 3}
    row = results.table.iloc[7]
    place = {
        "target": f"{row.species} {row.region} {row.subject}",
        "model": row.model,
        "layer": row.layer,
        "metric": results.words[7],
    }
    assert float(array["value"].isel(recording=0).sel(place)) == row.value
    assert np.isnan(array["value"].sel(model="two", layer="l2")).all()
    assert int(array["value"].notnull().sum()) == CELLS


def test_files_hold_the_same_rows(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    run(study)
    results = collect_study(study)
    for suffix in ("csv", "parquet", "json"):
        results.save(tmp_path / f"results.{suffix}")
    csv = pd.read_csv(tmp_path / "results.csv", keep_default_na=True)
    parquet = pd.read_parquet(tmp_path / "results.parquet")
    rows = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert csv["value"].tolist() == parquet["value"].tolist() == [row["value"] for row in rows]
    assert all(math.isfinite(row["value"]) for row in rows)
    with pytest.raises(ValueError, match=r"ends in \.csv, \.json, \.parquet"):
        results.save(tmp_path / "results.txt")


def test_networks_are_recorded_and_plan_says_what_that_takes(tmp_path: Path) -> None:
    models = ["digits_cnn", "digits_cnn@random:3", "pixels"]
    study = make_study(tmp_path, models=models, exclude=["*:3"], layers=["conv*"])
    plan = plan_study(study)
    assert plan.status.not_recorded == plan.status.cells == plan.status.to_do
    assert [one.model for one in plan.to_record][-1] == "pixels"
    assert all(one.disk > 0 and one.memory > 0 for one in plan.to_record)
    assert plan.seconds > 0
    assert not (tmp_path / "to" / "studies").exists()  # nothing is kept
    assert run(study).done == plan.status.cells
    table = collect_study(study).table
    recording = open_recording(str(tmp_path / "lab.zarr"))
    layers = ra.record("pixels", stimuli=recording, to=tmp_path / "to", progress=False)
    expected = ra.compare(recording, layers, ra.CKA(), n_resamples=0, null_draws=0, device="cpu")
    pixels = table[(table["model"] == "pixels") & (table["metric"] == "cka")]
    assert pixels["value"].tolist() == [one.value for one in expected]
    again = plan_study(study)
    assert (again.to_record, again.layers_to_read) == ((), 0)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no metric": ({"metrics": []}, "metrics.*at least 1"),
    "unknown metric": ({"metrics": ["ridgee"]}, "no metric 'ridgee'.*did you mean ridge"),
    "unknown parameter": ({"metrics": ["rsa:comparer=corr"]}, "no parameter of rsa"),
    "a metric twice": ({"metrics": ["rsa", "rsa:"]}, "stands twice"),
    "unknown key": ({"metric": ["rsa"]}, "unknown key 'metric'; did you mean 'metrics'"),
    "unknown section": ({"inference": {"sed": 1}}, "unknown key 'inference.sed'.*'seed'"),
    "ceiling": ({"inference": {"ceiling": "high"}}, "inference.ceiling = 'high'"),
    "workers": ({"run": {"workers": 0}}, "run.workers = 0"),
    "memory": ({"run": {"memory": "much"}}, "run.memory = 'much'.*4GB"),
    "selection": ({"recordings": [{"name": "a", "select": ["IT"]}]}, "expected NAME=VALUE"),
    "unknown recording": ({"recordings": ["kriegeskort2008"]}, "did you mean kriegeskorte2008"),
    "unknown model": ({"models": ["pixel"]}, "no model 'pixel'.*did you mean pixels"),
    "no card of a pattern": ({"models": ["nothing*"]}, "'nothing\\*' matches no model card"),
    "no file of a pattern": ({"models": ["/none/*.zarr"]}, "matches no file"),
    "all excluded": ({"exclude": ["*"]}, "the grid is empty"),
    "excluded nothing": ({"exclude": ["three*"]}, "'three\\*' matches no model"),
    "layers of no model": ({"layers": {"three*": ["a"]}}, "matches no model"),
    "unknown layer": ({"layers": ["l9"]}, "no layer 'l9'.*l0, l1, l2"),
    "an agent": ({"models": ["ppo_cartpole"]}, "ppo_cartpole.*agent"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_said_before_anything_is_computed(name: str, tmp_path: Path) -> None:
    changes, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        build_grid(read_study(make_study(tmp_path, **changes)))
    assert not (tmp_path / "to" / "studies").exists()


def test_recordings_that_do_not_fit_are_named(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    write_network(tmp_path, "strange", 1, seed=3, ids=[f"other{i}" for i in range(16)])
    with pytest.raises(ValueError, match=r"lab and .*strange\.zarr: no shared stimuli"):
        plan_study(study | {"models": [str(tmp_path / "strange.zarr")]})
    write_recording(tmp_path, images=False)
    with pytest.raises(ValueError, match="lab cannot be shown to pixels: .*has no images"):
        plan_study(study | {"models": ["pixels"]})
    with pytest.raises(ValueError, match="has no results yet"):
        collect_study(study)
    with pytest.raises(FileNotFoundError, match=r"no finished store at .*gone\.zarr"):
        plan_study(study | {"recordings": [str(tmp_path / "gone.zarr")]})
    with pytest.raises(FileNotFoundError, match=r"neither a store nor a card at .*gone\.toml"):
        plan_study(study | {"recordings": [str(tmp_path / "gone.toml")]})


def test_two_models_or_recordings_of_one_name_are_refused(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    (tmp_path / "again").mkdir()
    write_network(tmp_path / "again", "one", 1, seed=8)
    write_recording(tmp_path / "again", seed=8)
    with pytest.raises(ValueError, match=r"two models of lab are called 'one', layer 'l0'"):
        plan_study(study | {"models": [*study["models"], str(tmp_path / "again" / "one.zarr")]})
    with pytest.raises(ValueError, match=r"two recordings are called 'lab'"):
        plan_study(
            study | {"recordings": [*study["recordings"], str(tmp_path / "again" / "lab.zarr")]}
        )


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    make_study(tmp_path)
    (tmp_path / "study.toml").write_text(
        'name = "a"\nrecordings = ["./lab.zarr"]\nmodels = ["./*o*.zarr"]\n'
        'exclude = ["*/lab.zarr"]\nmetrics = "cka"\n[run]\nto = "to"\n',
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match="matches no model"):
        build_grid(read_study(tmp_path / "study.toml"))
    text = (tmp_path / "study.toml").read_text("utf-8").replace('exclude = ["*/lab.zarr"]\n', "")
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    config = read_study(tmp_path / "study.toml")
    assert config.folder == tmp_path / "to" / "studies" / "a"
    assert {group.layers[0].model for group in build_grid(config).groups} == {"one", "two"}
    (tmp_path / "bad.toml").write_text("name = ", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.toml is not valid TOML"):
        read_study(tmp_path / "bad.toml")


def test_a_full_disk_keeps_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repalign.studies import results_store, running

    study = make_study(tmp_path)
    monkeypatch.setattr(running, "PUBLISH_S", 0.0)
    writes: list[Path] = []

    def write(path: Path, content: bytes) -> None:
        if len(writes) == 2:
            raise OSError(28, "No space left on device")
        writes.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(results_store, "write_file", write)
        with pytest.raises(OSError, match="No space left on device; what was written before"):
            run(study)
    kept = study_status(study).done
    assert 0 < kept < CELLS
    before = computed(study)
    assert run(study).done == CELLS
    assert computed(study) == before + CELLS - kept


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from repalign.cli import main

    make_study(tmp_path)
    toml = tmp_path / "study.toml"
    toml.write_text(
        'name = "a"\nrecordings = ["./lab.zarr"]\nmodels = ["./one.zarr"]\nmetrics = ["cka"]\n'
        '[inference]\nnull_draws = 2\n[run]\nto = "to"\n',
        encoding="utf-8",
    )
    wider = tmp_path / "wider.toml"
    wider.write_text(toml.read_text("utf-8").replace('["cka"]', '["cka", "rsa"]'), "utf-8")

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["repalign", "study", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        return capsys.readouterr().out

    assert "3 layers are read once each, for 6 cells" in call("plan", str(toml))
    assert json.loads(call("plan", str(toml), "--json"))["rows"][0]["cells"] == 6
    [line] = [line for line in call("plan", str(wider)).splitlines() if "lab" in line]
    assert "cka, rsa" in line
    assert line.split()[-2:] == ["12", "0"]
    assert json.loads(call("run", str(toml), "--json"))["done"] == 6
    assert "6 of 6 cells done" in call("status", str(toml))
    assert len(json.loads(call("collect", str(toml), "--json"))) == 6
    call("collect", str(toml), "--out", str(tmp_path / "results.csv"))
    assert len(pd.read_csv(tmp_path / "results.csv")) == 6


def test_the_example_runs_on_the_92_images(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Path(__file__).parents[1] / "scripts" / "study_92_images.toml"
    (tmp_path / "study.toml").write_text(
        example.read_text("utf-8").replace("n_resamples = 200", "n_resamples = 20"), "utf-8"
    )
    monkeypatch.setenv("REPALIGN_MIRROR", str(data_folder))
    status = run(tmp_path / "study.toml")
    assert status.done == status.cells == 6 * 18 * 2
    results = collect_study(tmp_path / "study.toml")
    array = results.to_xarray()["value"].sel(
        target="macaque IT group", metric="rsa", layer="blocks.5"
    )
    trained, twin = (
        float(array.sel(model=name).item())
        for name in ("efficientnet_lite0", "efficientnet_lite0@random:0")
    )
    assert trained == pytest.approx(0.446, abs=0.001)
    assert twin == pytest.approx(0.261, abs=0.001)
    results.save(tmp_path / "results" / "results.json")
    assert len(read_rows(tmp_path / "results")) == status.cells  # what `repalign report` reads

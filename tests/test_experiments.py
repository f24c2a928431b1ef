"""Experiments: paired runs of baseline, aligned network and controls, tested and kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.datasets import load_digits

import repalign as ra
from repalign.cli import main
from repalign.experiments import evaluation
from repalign.experiments.configuration import ExperimentConfig, experiment_config
from repalign.experiments.evaluation import attack_label, audited_metric
from repalign.experiments.laboratory import run_experiment
from repalign.metrics import CKA, RSA
from repalign.recording import make_recording, stimulus_ids
from repalign.regularize import CONTROLS
from repalign.reporting.training_page import read_experiment
from repalign.robustness import APGD, PGD, MaskingAudit, Square
from repalign.stimuli import Stimuli, encode_png, stimuli_to_dataset
from repalign.store import open_store, write_store
from repalign.training.configuration import known_keys
from repalign.training.neural import open_neural

N_STIMULI = 160


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording over digits: two regions read out smoothed pixels and raw ones."""
    random = np.random.default_rng(0)
    found = load_digits()
    images = (found.images[:N_STIMULI] * 255 / 16).astype(np.uint8)
    ids = [f"digit-{i:03d}" for i in range(N_STIMULI)]
    pixels = images.reshape(N_STIMULI, -1) / 255
    drive = np.tanh(pixels @ random.normal(size=(64, 24)) / 3)
    ds = make_recording(
        np.repeat(drive, 2, axis=0) + 0.1 * random.normal(size=(2 * N_STIMULI, 24)),
        stimulus_id=np.repeat(ids, 2).tolist(),
        region=["IT"] * 16 + ["V4"] * 8,
        subject=(["A"] * 8 + ["B"] * 8) + ["A"] * 8,
        presentation={"digit": np.repeat(found.target[:N_STIMULI].astype(str), 2)},
        attrs={"citation": "Simulated <here>.", "fingerprint": "sha256:0"},
    )
    path = tmp_path_factory.mktemp("recording") / "digits.zarr"
    rgb = np.repeat(images[..., None], 3, axis=-1)
    stimuli = Stimuli(tuple(ids), [encode_png(image) for image in rgb])
    write_store(path, {"": ds, "stimuli": stimuli_to_dataset(stimuli)}, provenance={})
    return path


@pytest.fixture(scope="module")
def it(store: Path) -> xr.Dataset:
    return ra.select(open_store(store), region="IT")


def configuration(out: Path, **sections: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": "small",
        "model": "digits_cnn@random",
        "out": str(out),
        "task": {"batch_size": 64},
        "neural": {
            "layers": ["hidden"],
            "loss": "debiased-cka",
            "batch_size": 48,
            "held_out_stimuli": 0.25,
        },
        "optimizer": {"name": "Adam", "lr": 2e-3},
        "training": {"steps": 16, "log_every": 8, "device": "cpu"},
        "experiment": {"audit_stimuli": 40},
        "robustness": {
            "attacks": ["pgd:steps=3"],
            "eps": [0, 0.05, 0.1],
            "images": 40,
            "masking": False,
        },
    }
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section}
    return config


def quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, it: xr.Dataset) -> Any:
    out = tmp_path_factory.mktemp("experiment")
    sections = {
        "experiment": {
            "controls": ["row-shuffle", "one-hot", "non-robust-teacher", "other-region", "jitter"],
            "seeds": [0, 1],
            "labels": "digit",
            "dose": [0.5],
        }
    }
    config = configuration(out, **sections)
    with torch.random.fork_rng():
        return run_experiment(config, target=it, progress=False, say=quiet)


def test_every_condition_has_one_run_a_seed(experiment: Any) -> None:
    runs = [(run["condition"], run["seed"]) for run in experiment.record["runs"]]
    applied = ["baseline", "aligned", "row-shuffle", "one-hot", "non-robust-teacher", "jitter"]
    assert sorted(runs) == sorted((name, seed) for name in applied for seed in (0, 1))


def test_what_does_not_apply_is_named_with_its_reason(experiment: Any) -> None:
    absent = {c["name"]: c["reason"] for c in experiment.record["conditions"] if c["reason"]}
    assert list(absent) == ["other-region"]
    assert "no other region" in absent["other-region"]


def test_runs_of_one_seed_begin_alike_and_those_of_another_do_not(experiment: Any) -> None:
    first = {
        (run["condition"], run["seed"]): run["history"][0]["val_task"]
        for run in experiment.record["runs"]
    }
    assert len({value for (_, seed), value in first.items() if seed == 0}) == 1
    assert first["baseline", 0] != first["baseline", 1]


def test_alignment_is_reported_on_trained_and_held_out_stimuli_by_several_metrics(
    experiment: Any,
) -> None:
    for run in experiment.record["runs"]:
        rows = run["alignment"]
        assert {row["stimuli"] for row in rows} == {"trained", "held out"}
        assert len({row["metric"] for row in rows}) >= 4
        assert {row["metric"] for row in rows if row["trained_metric"]} == {"cka"}


def test_aligning_raises_the_alignment_over_the_baseline(experiment: Any) -> None:
    def trained_value(condition: str, seed: int) -> float:
        [run] = [
            run
            for run in experiment.record["runs"]
            if (run["condition"], run["seed"]) == (condition, seed)
        ]
        values = [
            row["value"]
            for row in run["alignment"]
            if row["trained_metric"] and row["stimuli"] == "trained"
        ]
        return float(np.mean(values))

    for seed in (0, 1):
        assert trained_value("aligned", seed) > trained_value("baseline", seed) + 0.05


def test_the_aligned_run_of_the_first_seed_lies_in_the_folder_with_its_card(
    experiment: Any,
) -> None:
    assert experiment.trained.card == experiment.folder / "small.toml"
    stimuli = Stimuli(("a",), [encode_png(np.zeros((8, 8, 3), dtype=np.uint8))])
    net = ra.record(experiment.trained.card, stimuli=stimuli, layers="hidden", progress=False)
    assert net["hidden"].sizes["neuroid"] == 128


def test_dose_has_every_seed_and_the_alignment_of_held_out_stimuli(experiment: Any) -> None:
    dose = experiment.record["dose"]
    found = sorted((row["lambda"], row["seed"]) for row in dose)
    assert found == [(0.0, 0), (0.0, 1), (0.5, 0), (0.5, 1), (1.0, 0), (1.0, 1)]
    assert all(row["alignment"] is not None and 0 <= row["auc"] <= 1 for row in dose)


def test_record_on_disk_is_what_was_returned(experiment: Any) -> None:
    kept = read_experiment(experiment.folder)
    assert kept["audit"]["verdict"] == experiment.record["audit"]["verdict"]
    assert len(kept["runs"]) == len(experiment.record["runs"])


def test_a_second_run_trains_nothing_and_finds_the_same(
    experiment: Any, it: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repalign.training import loop

    monkeypatch.setattr(loop.Trainer, "_step", None)
    config = json.loads(json.dumps(experiment.record["configuration"]))
    again = run_experiment(config, target=it, progress=False, say=quiet)
    assert again.record["runs"] == experiment.record["runs"]


def test_page_is_written_and_names_the_label_geometry(experiment: Any, tmp_path: Path) -> None:
    path = ra.write_training_report(experiment.record, tmp_path)
    page = path.read_text(encoding="utf-8")
    assert "Label geometry" in page
    assert "Simulated &lt;here&gt;." in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_held_out_subjects_are_not_aligned_to_but_audited(it: xr.Dataset, tmp_path: Path) -> None:
    config = configuration(tmp_path, neural={"held_out_subjects": ["B"]}, training={"steps": 2})
    found = run_experiment(config, target=it, progress=False, say=quiet).record
    assert found["trained_on"]["subjects"] == ["A"]
    rows = found["runs"][0]["alignment"]
    assert {(row["subject"], row["neuroids"]) for row in rows} == {
        ("A", "trained"),
        ("B", "held out"),
    }


def test_what_is_held_out_reaches_no_control(it: xr.Dataset, tmp_path: Path) -> None:
    """Grossly other responses to held-out stimuli leave every trained network as it was."""
    names = [name for name, control in CONTROLS.items() if control.kind == "target"]
    names.remove("other-region")

    def weights(target: xr.Dataset, out: Path) -> dict[str, bytes]:
        config = configuration(
            out,
            training={"steps": 3},
            experiment={"controls": names, "labels": "digit"},
            robustness={"eps": [0, 0.1], "images": 8, "attacks": ["fgsm"]},
        )
        found = run_experiment(config, target=target, progress=False, say=quiet)
        return {
            run["condition"]: next((out / run["folder"]).glob("*.safetensors")).read_bytes()
            for run in found.record["runs"]
        }

    section = experiment_config(configuration(tmp_path)).neural
    assert section is not None
    held_out = open_neural(section, it, None).held_out
    changed = it.load().copy(deep=True)
    changed.attrs["fingerprint"] = "sha256:1"
    changed["response"].values[np.isin(it["stimulus_id"].values.astype(str), held_out)] *= 50
    first, second = weights(it, tmp_path / "a"), weights(changed, tmp_path / "b")
    assert set(first) == {"baseline", "aligned", *names}
    assert first == second
    assert len(set(first.values())) == len(first)


def test_without_task_labels_robustness_is_agreement_and_label_controls_do_not_apply(
    it: xr.Dataset, tmp_path: Path
) -> None:
    config = configuration(
        tmp_path,
        task={"data": "none"},
        training={"steps": 2},
        experiment={"controls": ["one-hot", "row-shuffle", "adversarial-training"]},
    )
    found = run_experiment(config, target=it, progress=False, say=quiet).record
    assert found["reference"] == "own clean prediction"
    reasons = {c["name"]: c["reason"] for c in found["conditions"] if c["reason"]}
    assert "one-hot" in reasons
    curve = [run["curves"][0]["accuracy"] for run in found["runs"]]
    assert curve == [1.0] * len(curve)


def test_tuning_takes_the_strength_with_the_accuracy_of_the_aligned_network(
    it: xr.Dataset, tmp_path: Path
) -> None:
    config = configuration(
        tmp_path,
        training={"steps": 6},
        experiment={"controls": ["row-shuffle"], "tune": True, "strengths": [0.01, 20]},
    )
    lines: list[str] = []
    found = run_experiment(config, target=it, progress=False, say=lines.append).record
    [said] = [line for line in lines if "nearest" in line]
    chosen = {c["name"]: c["lambda"] for c in found["conditions"]}["row-shuffle"]
    assert chosen in (0.01, 20)
    assert f"strength {chosen:g}" in said
    cleans = {}
    for strength in (0.01, 20):
        path = tmp_path / "runs" / f"row-shuffle-{strength:g}" / "seed-2000"
        cleans[strength] = json.loads((path / "brief-evaluation.json").read_text())["clean"]
    goal = json.loads(
        (tmp_path / "runs" / "aligned-1" / "seed-2000" / "brief-evaluation.json").read_text()
    )["clean"]
    assert abs(cleans[chosen] - goal) == min(abs(value - goal) for value in cleans.values())


def test_finetune_ends_in_weights_a_card_and_a_page(it: xr.Dataset, tmp_path: Path) -> None:
    done = ra.finetune(
        configuration(tmp_path, training={"steps": 2}), target=it, progress=False, seeds=[0]
    )
    assert done.report == tmp_path / "report.html"
    assert done.report.is_file()
    assert done.card is not None
    assert [run["condition"] for run in done.record["runs"]] == ["baseline", "aligned"]


def test_finetune_without_report_trains_one_network(it: xr.Dataset, tmp_path: Path) -> None:
    done = ra.finetune(
        configuration(tmp_path, training={"steps": 2}), target=it, report=False, progress=False
    )
    assert done.report is None
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ValueError, match="controls and seeds are for the report"):
        ra.finetune(configuration(tmp_path), target=it, report=False, controls="all")


def test_command_prints_the_conclusion_and_json(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    config = configuration(
        tmp_path / "out",
        neural={"dataset": str(store), "select": {"region": "IT"}},
        training={"steps": 2},
    )
    lines = [f"{key} = {json.dumps(config[key])}" for key in ("name", "model", "out")]
    for section, values in config.items():
        if isinstance(values, dict):
            lines.append(f"[{section}]")
            for key, value in values.items():
                if isinstance(value, dict):
                    inner = ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items())
                    lines.append(f"{key} = {{ {inner} }}")
                else:
                    lines.append(f"{key} = {json.dumps(value)}")
    path = tmp_path / "config.toml"
    path.write_text("\n".join(lines))
    monkeypatch.setattr("sys.argv", ["repalign", "finetune", str(path), "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"] == str(tmp_path / "out" / "report.html")
    monkeypatch.setattr("sys.argv", ["repalign", "finetune", str(path)])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "report:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"experiment": {"controls": ["one-hott"]}}, "no control 'one-hott'.*did you mean one-hot"),
        ({"experiment": {"seeds": [1, 1]}}, "different numbers"),
        ({"experiment": {"parameters": {"rank-k": {"kk": 3}}}}, "no parameter 'kk'"),
        ({"experiment": {"sedes": [1]}}, "did you mean 'seeds'"),
        ({"robustness": {"attacks": ["pdg"]}}, "did you mean pgd"),
        ({"robustness": {"eps": [0.2, 0.1]}}, "ascending"),
        ({"robustness": {"eps": [0, 8]}}, "eps is 8, and pixels go from 0 to 1.*write 8/255"),
        ({"robustness": {"corruptions": ["fogg"]}}, "fog"),
    ],
)
def test_bad_configurations_say_what_to_write(
    section: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        experiment_config(configuration(tmp_path, **section))


def test_all_controls_are_meant_by_all(tmp_path: Path) -> None:
    config = experiment_config(configuration(tmp_path, experiment={"controls": "all"}))
    assert config.experiment.controls == tuple(CONTROLS)


def test_an_experiment_needs_a_recording(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with pytest.raises(ValueError, match=r"neural\.dataset is missing"):
        run_experiment(config, progress=False, say=quiet)
    del config["neural"]
    with pytest.raises(ValueError, match=r"needs a \[neural\] section"):
        run_experiment(config, progress=False, say=quiet)


def test_losses_are_audited_by_the_metric_that_they_lower() -> None:
    assert audited_metric("log-cka") == CKA(debiased=False)
    assert audited_metric("rsa:rdm=euclidean") == RSA(rdm="euclidean", comparator="corr")


def test_attacks_are_named_by_steps_and_loss() -> None:
    labels = [attack_label(one) for one in (PGD(), APGD(), Square(queries=50))]
    assert labels == ["PGD-20", "APGD-100 dlr-targeted", "square-50"]


@pytest.mark.data
def test_networks_are_drawn_to_a_real_v4_session_and_judged_on_another(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Real images and responses, no task labels: the frozen original stands in for them."""
    monkeypatch.setenv("REPALIGN_MIRROR", str(data_folder))
    card = tmp_path / "lite_small.toml"
    card.write_text(
        'name = "lite_small"\nsource = "repalign:efficientnet_lite0"\nweights = "package"\n'
        'layers = ["blocks.4"]\n[preprocessing]\nsize = [32, 32]\nmean = [0.5, 0.5, 0.5]\n'
        "std = [0.5, 0.5, 0.5]\n"
    )
    config = configuration(
        tmp_path / "out",
        task={"data": "none", "batch_size": 16},
        neural={
            "dataset": "cowley2023_v4_210305",
            "layers": ["blocks.4"],
            "batch_size": 32,
            "held_out_stimuli": 0.2,
        },
        training={"steps": 3, "log_every": 1, "batchnorm": "frozen"},
        experiment={
            "controls": ["row-shuffle", "one-hot", "rank-k"],
            "held_out_recordings": ["cowley2023_v4_210224"],
            "audit_stimuli": 60,
        },
        robustness={"attacks": ["pgd:steps=2"], "eps": [0, 0.004], "images": 16},
    )
    config["model"] = str(card)
    done = ra.finetune(config, progress=False)
    regions = {row["region"] for row in done.record["runs"][0]["alignment"]}
    assert regions == {"V4", "V4 (cowley2023_v4_210224)"}
    assert [c["name"] for c in done.record["conditions"] if c["reason"]] == ["one-hot"]
    assert done.report is not None
    assert len(stimulus_ids(ra.ingest("cowley2023_v4_210305"))) == 400


def test_every_key_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "finetune.md").read_text(encoding="utf-8")
    assert [key for key in known_keys(ExperimentConfig) if f"`{key}`" not in text] == []


def test_attacks_that_differ_have_names_that_differ(it: xr.Dataset, tmp_path: Path) -> None:
    words = ["pgd:steps=2", "pgd:steps=2,restarts=2"]
    config = configuration(tmp_path, training={"steps": 2}, robustness={"attacks": words})
    [run, _] = run_experiment(config, target=it, progress=False, say=quiet).record["runs"]
    assert list(run["correct"]) == ["PGD-2 Linf", "PGD-2 restarts=2 Linf"]
    assert len(run["curves"]) == 6
    with pytest.raises(ValueError, match="attacks, each once"):
        experiment_config(configuration(tmp_path, robustness={"attacks": ["pgd", "pgd:steps=20"]}))


@pytest.mark.parametrize(
    ("attack", "loss"),
    [
        ("apgd:steps=2", "margin"),
        ("apgd:steps=2,loss=ce", "ce"),
        ("pgd:steps=2,loss=dlr", "dlr"),
        ("square:queries=2", "margin"),
    ],
)
def test_masking_is_sought_with_any_attack_and_by_transfer_from_the_baseline(
    attack: str, loss: str, it: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def audit(*_: Any, **options: Any) -> MaskingAudit:
        asked.append(options)
        PGD(norm=options["norm"], loss=options["loss"])  # it is known to the reference attack
        return MaskingAudit(checks=(), eps=options["eps"], norm=options["norm"], n_images=40)

    monkeypatch.setattr(evaluation, "masking_audit", audit)
    config = configuration(
        tmp_path, training={"steps": 2}, robustness={"attacks": [attack], "masking": True}
    )
    run_experiment(config, target=it, progress=False, say=quiet)
    assert [one["loss"] for one in asked] == [loss, loss]
    baseline, aligned = (one["surrogate"] for one in asked)
    assert baseline is None
    assert aligned.name == "small-baseline-0"


def test_a_network_too_poor_for_the_masking_audit_is_reported_and_not_fatal(
    it: xr.Dataset, tmp_path: Path
) -> None:
    config = configuration(tmp_path, training={"steps": 2}, robustness={"masking": True})
    found = run_experiment(config, target=it, progress=False, say=quiet).record
    for run in found["runs"]:
        assert run["masking"]["passed"] is None
        assert "the audit needs 30 or more" in run["masking"]["checks"][0]["detail"]


def test_error_patterns_are_compared_with_people_for_every_run(
    it: xr.Dataset, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "people.csv"
    # the test part of the digits has 359 images
    answers = random.multinomial(20, np.full(10, 0.1), size=359)
    lines = [",".join(map(str, row)) for row in [range(10), *answers]]
    path.write_text("\n".join(lines))
    config = configuration(
        tmp_path / "out", training={"steps": 2}, robustness={"human_choices": str(path)}
    )
    record = run_experiment(config, target=it, progress=False, say=quiet).record
    rows = record["error_patterns"]
    assert [(row["condition"], row["seed"], row["kind"]) for row in rows] == [
        (name, 0, kind) for name in ("baseline", "aligned") for kind in ("i1", "i2n")
    ]
    assert {row["n_images"] for row in rows} == {40}
    page = ra.write_training_report(record, tmp_path / "page").read_text(encoding="utf-8")
    assert "Consistency of error patterns with people" in page
    path.write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="358 rows below its first line; expected 359"):
        run_experiment(config, target=it, progress=False, say=quiet)
    with pytest.raises(ValueError, match="human_choices needs task data"):
        run_experiment({**config, "task": {"data": "none"}}, target=it, progress=False, say=quiet)


def test_a_target_without_a_fingerprint_is_not_taken_for_another(
    it: xr.Dataset, tmp_path: Path
) -> None:
    bare = it.drop_attrs(deep=False).assign_attrs(store=it.attrs["store"])
    config = configuration(tmp_path, training={"steps": 2})
    run_experiment(config, target=bare, progress=False, say=quiet)
    other = bare.assign(response=bare["response"] + 1)
    with pytest.raises(ValueError, match="began with another neural"):
        run_experiment(config, target=other, progress=False, say=quiet)


def test_no_strength_of_the_dose_is_counted_twice(it: xr.Dataset, tmp_path: Path) -> None:
    config = configuration(tmp_path, training={"steps": 2}, experiment={"dose": [0, 0.5, 1]})
    dose = run_experiment(config, target=it, progress=False, say=quiet).record["dose"]
    assert sorted(row["lambda"] for row in dose) == [0.0, 0.5, 1.0]


def test_nothing_to_test_with_is_said_before_training(it: xr.Dataset, tmp_path: Path) -> None:
    config = configuration(tmp_path, task={"data": "none"}, neural={"held_out_stimuli": 0.0})
    with pytest.raises(ValueError, match=r"none are held out: set neural\.held_out_stimuli"):
        run_experiment(config, target=it, progress=False, say=quiet)
    config = configuration(
        tmp_path,
        experiment={"controls": ["other-region"], "other_region": {"region": "V4"}},
    )
    with pytest.raises(ValueError, match=r"other_region selects from neural\.dataset"):
        run_experiment(config, target=it, progress=False, say=quiet)
    assert not list(tmp_path.iterdir())


def test_a_killed_experiment_goes_on_and_ends_as_one_that_was_not(
    store: Path, tmp_path: Path
) -> None:
    """Killed in the middle of its second run; what was finished is not done again."""

    def config(out: Path) -> dict[str, Any]:
        return configuration(
            out,
            neural={"dataset": str(store), "select": {"region": "IT"}},
            training={"steps": 6, "checkpoint_every": 2},
            experiment={"controls": ["row-shuffle"]},
        )

    code = (
        "import json, os, signal, sys\n"
        "from repalign.experiments.laboratory import run_experiment\n"
        "from repalign.training import loop\n"
        "whole, seen = loop.Trainer._step, []\n"
        "def step(self, *given, **named):\n"
        "    seen.append(1)\n"
        "    if len(seen) == 10:\n"  # the baseline's six, and four of the aligned network's
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return whole(self, *given, **named)\n"
        "loop.Trainer._step = step\n"
        "run_experiment(json.loads(sys.argv[1]), progress=False)\n"
    )
    words = json.dumps(config(tmp_path / "killed"))
    died = subprocess.run([sys.executable, "-c", code, words], capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    finished = tmp_path / "killed" / "runs" / "baseline-0" / "seed-0" / "evaluation.json"
    before = finished.stat().st_mtime_ns
    lines: list[str] = []
    again = run_experiment(config(tmp_path / "killed"), progress=False, say=lines.append)
    assert finished.stat().st_mtime_ns == before
    assert [line.split()[0] for line in lines if "seed" in line] == ["aligned", "row-shuffle"]
    whole = run_experiment(config(tmp_path / "whole"), progress=False, say=quiet)
    for ours, theirs in zip(again.record["runs"], whole.record["runs"], strict=True):
        assert ours["history"] == theirs["history"]
        assert ours["curves"] == theirs["curves"]


def test_a_tuning_run_that_diverges_in_its_process_leaves_its_strength_out(
    store: Path, tmp_path: Path
) -> None:
    config = configuration(
        tmp_path,
        neural={"dataset": str(store), "select": {"region": "IT"}},
        optimizer={"name": "SGD", "lr": 0.01},
        training={"steps": 3},
        experiment={"controls": ["row-shuffle"], "tune": True, "strengths": [0.5, 1e8]}
        | {"workers": 2},
    )
    lines: list[str] = []
    found = run_experiment(config, progress=False, say=lines.append).record
    assert any("strength 1e+08 is left out" in line for line in lines)
    assert found["conditions"][2]["lambda"] == 0.5


def test_two_processes_find_what_one_finds(store: Path, tmp_path: Path) -> None:
    found = []
    for workers in (1, 2):
        config = configuration(
            tmp_path / str(workers),
            neural={"dataset": str(store), "select": {"region": "IT"}},
            training={"steps": 2},
            experiment={"controls": ["other-region"], "other_region": {"region": "V4"}}
            | {"workers": workers},
        )
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # as each of the two has
        try:
            found.append(run_experiment(config, progress=False, say=quiet).record["runs"])
        finally:
            torch.set_num_threads(threads)
    names = [[run["condition"] for run in runs] for runs in found]
    assert names == [["baseline", "aligned", "other-region"]] * 2
    for alone, shared in zip(*found, strict=True):
        for part in ("clean", "curves", "alignment", "history"):
            assert shared[part] == alone[part]

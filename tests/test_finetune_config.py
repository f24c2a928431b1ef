"""The configuration of a fine-tuning run, and its command line."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import pytest

from repalign.cli.training import complete_changes
from repalign.training import configuration
from repalign.training.configuration import FinetuneConfig, flatten, known_keys, read_config
from repalign.training.state import read_state
from repalign.training.watch import Watch

ROOT = Path(__file__).parents[1]
LEAST: dict[str, Any] = {"name": "tuned", "out": "runs", "model": "digits_cnn"}


def with_section(section: str, /, **keys: Any) -> dict[str, Any]:
    return {**LEAST, section: keys}


def test_examples_run() -> None:
    assert doctest.testmod(configuration).failed == 0


def test_example_configuration_of_the_repository_is_valid() -> None:
    config = read_config(ROOT / "scripts" / "finetune_digits.toml")
    assert config.training.epochs == 20
    assert config.optimizer.parameters["lr"] == 0.05
    assert Path(config.out).resolve() == ROOT / "digits_tuned"


def test_a_configuration_survives_json() -> None:
    config = read_config(
        {
            **LEAST,
            "neural": {"layers": {"hidden": "IT"}, "held_out_stimuli": ["a", "b"]},
            "control": "row-shuffle",
            "scheduler": {"name": "StepLR", "step_size": 3},
        }
    )
    again = read_config(json.loads(json.dumps(config.to_dict())) | {"training": {"epochs": 10}})
    assert again.differences(config.to_dict()) == []
    assert again == read_config(again)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({**LEAST, "traning": {}}, "unknown key 'traning'; did you mean 'training'"),
        (with_section("task", dta="x"), r"unknown key 'task\.dta'; did you mean 'data'"),
        (with_section("neural", weigth=1, layers=["a"]), "'neural.weigth'; did you mean 'weight'"),
        (
            with_section("training", early_stopping={"pateince": 1}),
            "unknown key 'training.early_stopping.pateince'; did you mean 'patience'",
        ),
        ({"out": "a"}, "key 'name' is missing"),
        (with_section("task", data="cifar"), r"task\.data = 'cifar': expected \"digits\""),
        (with_section("task", data="digits:x"), "task.data = 'digits:x'"),
        (with_section("task", data="torchvision:MNIST"), "needs root ="),
        (with_section("task", root="x"), "root and download are for torchvision data"),
        (with_section("task", weight=-1), "task.weight = -1: .*greater than or equal to 0"),
        (with_section("task", data="none"), r"needs a \[neural\] section"),
        (with_section("neural", weight=1), r'expected layers = \["a layer"\]'),
        (with_section("neural", layers=["a"], held_out_stimuli=1.5), "expected a share from 0"),
        (with_section("neural", layers=["a"], label_weight=1.0), "needs labels ="),
        (with_section("neural", layers=["a"], mix_rate=0), "neural.mix_rate = 0"),
        (with_section("training", epochs=1, steps=1), "epochs = 1 and steps = 1: give one"),
        (with_section("training", precision="8"), "training.precision = '8'"),
        (with_section("training", monitor="alignment"), r"which needs a \[neural\] section"),
        (with_section("training", monitor="task", early_stopping={}), "also given by"),
        (with_section("training", log=["tensorboard"]), 'expected "csv" among them'),
        (with_section("optimizer", name="Adm"), "expected one of .*did you mean 'Adam'"),
        (with_section("optimizer", name="LBFGS"), "optimizer.name = 'LBFGS': expected one of"),
        (with_section("scheduler", name="ReduceLROnPlateau"), "expected one of"),
        (with_section("scheduler", name="LambdaLR"), "scheduler.name = 'LambdaLR': expected one"),
        (with_section("neural", layers=["a"], loss="ridge"), "neural.loss = 'ridge': .*no gradien"),
        (
            with_section("neural", layers=["a"], loss="rsa:comparator=spearman"),
            "no gradients.*comparator='bures' or 'corr'",
        ),
        (with_section("neural", layers=["a"], loss="ckaa"), "'ckaa' is no alignment loss"),
    ],
)
def test_each_mistake_is_named_with_its_remedy(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(data)


def test_all_mistakes_are_said_at_once() -> None:
    with pytest.raises(ValueError, match="task.weight = -1.*neural.ramp = -2"):
        read_config({**LEAST, "task": {"weight": -1}, "neural": {"layers": ["a"], "ramp": -2}})


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'name = "a"\nout = "runs/a"\nmodel = "nets/own.toml"\n'
        '[task]\ndata = "imagefolder:pictures"\n'
        '[neural]\ndataset = "session.toml"\nlayers = "layer4"\n'
    )
    config = read_config(path)
    assert config.out == str(tmp_path / "runs" / "a")
    assert config.model == str(tmp_path / "nets" / "own.toml")
    assert config.task.data == f"imagefolder:{tmp_path / 'pictures'}"
    assert config.neural is not None
    assert config.neural.dataset == str(tmp_path / "session.toml")
    assert config.neural.layers == ("layer4",)
    path.write_text('name = "a"\nout = "b"\nmodel = "resnet18"\n')
    assert read_config(path).model == "resnet18"
    path.write_text("name = \n")
    with pytest.raises(ValueError, match="run.toml is not valid TOML"):
        read_config(path)
    with pytest.raises(FileNotFoundError, match="no configuration at"):
        read_config(tmp_path / "none.toml")


def test_changes_set_keys_as_toml_writes_them() -> None:
    changes = ["neural.layers=['a','b']", "neural.weight=0.5", "control=jitter", "training.steps=3"]
    config = read_config({**LEAST, "training": {"epochs": 4, "seed": 2}}, changes=changes)
    assert config.neural is not None
    assert (config.neural.layers, config.neural.weight) == (("a", "b"), 0.5)
    assert config.control is not None
    assert config.control.name == "jitter"
    assert (config.training.steps, config.training.epochs, config.training.seed) == (3, None, 2)
    with pytest.raises(ValueError, match="expected SECTION.KEY=VALUE"):
        read_config(LEAST, changes=["neural.weight"])
    with pytest.raises(ValueError, match="model is 'digits_cnn', which has no keys"):
        read_config(LEAST, changes=["model.name=x"])


def test_differences_name_keys_but_not_those_that_change_no_number() -> None:
    before = read_config(with_section("training", epochs=3)).to_dict()
    free = ["out=elsewhere", "task.workers=2", "training.checkpoint_every=7", "training.epochs=4"]
    assert read_config(with_section("training", epochs=3), changes=free).differences(before) == []
    changed = read_config(LEAST, changes=["training.epochs=2", "optimizer.lr=1.0"])
    assert changed.differences(before) == [
        "optimizer.lr was 0.001 and is 1.0",
        "training.epochs was 3 and is 2",
    ]


def test_a_learning_rate_alone_keeps_the_momentum() -> None:
    config = read_config(LEAST, changes=["optimizer.lr=0.5"])
    assert config.optimizer.parameters == {"lr": 0.5, "momentum": 0.9, "nesterov": True}
    still = read_config(LEAST, changes=["optimizer.momentum=0"]).optimizer.parameters
    assert still == {"lr": 0.001, "momentum": 0, "nesterov": False}
    assert read_config(with_section("optimizer", name="Adam", lr=1)).optimizer.parameters == {
        "lr": 1
    }


def test_known_keys_are_those_of_a_configuration() -> None:
    full = read_config({**LEAST, "neural": {"layers": ["a"]}}).to_dict()
    known = known_keys()
    for key in flatten(full):
        left_out = any(one.startswith(f"{key}.") for one in known)  # a section that is None
        assert key in known or left_out or key.startswith("optimizer."), key
    assert complete_changes("neural.wei") == ["neural.weight="]


@pytest.mark.parametrize(
    ("monitor", "ended_at", "best"), [("task", 4, 2), ("alignment", 5, 3), ("both", 5, 2)]
)
def test_watch_follows_its_monitor(monitor: str, ended_at: int, best: int) -> None:
    """The task is best at step 2, the alignment at step 3."""
    stopping = {"monitor": monitor, "patience": 2}
    config = read_config(
        {**LEAST, "neural": {"layers": ["a"]}, "training": {"early_stopping": stopping}}
    )
    watch, found = Watch(), 0
    for step, (task, alignment) in enumerate(
        [(0.5, 0.1), (0.9, 0.2), (0.7, 0.3), (0.6, 0.2), (0.6, 0.2), (0.6, 0.2)], start=1
    ):
        watch.see({"task": task, "alignment": alignment}, config.training, step)
        if watch.enough(config.training):
            found = step
            break
    assert (found, watch.best["step"]) == (ended_at, best)


def test_command_trains_resumes_and_says_where_the_card_is(cli: Any, tmp_path: Path) -> None:
    path = ROOT / "scripts" / "finetune_digits.toml"
    out = tmp_path / "run"
    common = ("finetune", path, "--out", out, "--set", "task.batch_size=256")
    code, printed, err = cli(*common, "--set", "training.epochs=1")
    assert code == 0
    assert f"card: {out / 'digits_tuned.toml'}" in printed
    assert "step 5/5" in err
    code, printed, err = cli(*common, "--set", "training.epochs=2", "--json")
    assert code == 0
    assert json.loads(printed)["steps"] == 10
    assert "step 5/" not in err  # it went on
    code, _, err = cli(*common, "--set", "training.epochs=2", "--set", "optimizer.lr=1.0")
    assert code == 1
    assert err.startswith("error: ")
    assert "optimizer.lr was 0.05 and is 1.0" in err
    code, *_ = cli(
        *common, "--fresh", "--set", "training.steps=1", "--set", "optimizer.lr=1.0", "--json"
    )
    assert code == 0
    state = read_state(out / "state.pt")
    assert state is not None
    assert state["place"]["step"] == 1


def test_command_names_an_unknown_key(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\nout = "b"\nmodle = "digits_cnn"\n')
    code, _, err = cli("finetune", path)
    assert code == 1
    assert "unknown key 'modle'; did you mean 'model'?" in err


def test_configuration_is_frozen() -> None:
    config = FinetuneConfig.model_validate(LEAST)
    with pytest.raises(ValueError, match="frozen"):
        config.task.weight = 2.0  # type: ignore[misc]

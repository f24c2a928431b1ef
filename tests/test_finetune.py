"""Fine-tuning: what it equals, how it resumes, what it refuses."""

from __future__ import annotations

import copy
import doctest
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from safetensors.torch import load_file
from torch import Tensor, nn

import repalign as ra
from repalign.network_cards import Preprocessing
from repalign.networks import Network, load_network
from repalign.recording import make_recording
from repalign.stimuli import Stimuli, encode_png, stimuli_to_dataset
from repalign.store import open_store, write_store
from repalign.training import gradient_checkpointing, log, loop, released, runs
from repalign.training.gradient_checkpointing import checkpointed
from repalign.training.log import read_history
from repalign.training.neural import open_neural
from repalign.training.neural_targets import control_target
from repalign.training.runs import train_network
from repalign.training.sections import NeuralSection
from repalign.training.state import DivergedError, read_state, write_state
from repalign.training.task_batches import epoch_order
from repalign.training.task_data import TaskData, TensorImages

SMALL = Preprocessing(size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
SGD = {"name": "SGD", "lr": 0.05, "momentum": 0.9, "nesterov": True}


class Net(nn.Module):
    """Convolution, batch normalisation, dropout: all that can differ between two runs."""

    def __init__(self, *, norm: bool = True, dropout: float = 0.3, classes: int = 4) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(6 * 64, 12), nn.ReLU())
        self.readout = nn.Linear(12, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.readout(self.body(self.block(images)))


def network(**parameters: Any) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Network("net", Net(**parameters).eval(), SMALL, ("body",))


def images(n: int, seed: int = 0, classes: int = 4) -> TensorImages:
    """Noise with a bright quarter that tells the class."""
    generator = torch.Generator().manual_seed(seed)
    pixels = 0.5 * torch.rand(n, 3, 8, 8, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        row, column = divmod(label % 4, 2)
        image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.4
    return TensorImages(pixels, labels)


def task(n: int = 64, *, classes: int = 4) -> TaskData:
    names = tuple(map(str, range(classes)))
    train, validation = images(n, classes=classes), images(32, 1)
    return TaskData(name="quarters", train=train, validation=validation, classes=names)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """60 images whose responses are a random mixture of their pixels, in 2 regions and subjects."""
    random = np.random.default_rng(0)
    shown = images(60, 7)
    pixels = (shown.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    ids = [f"image-{i:02d}" for i in range(60)]
    mixed = pixels.reshape(60, -1) / 255 @ random.normal(size=(192, 16))
    ds = make_recording(
        np.repeat(mixed, 2, axis=0) + random.normal(size=(120, 16)),
        stimulus_id=np.repeat(ids, 2).tolist(),
        region=["V4"] * 8 + ["IT"] * 8,
        subject=(["A"] * 4 + ["B"] * 4) * 2,
        presentation={"quarter": np.repeat([f"q{v}" for v in shown.labels.tolist()], 2)},
    )
    path = tmp_path_factory.mktemp("recording") / "quarters.zarr"
    stimuli = Stimuli(tuple(ids), [encode_png(image) for image in pixels])
    write_store(path, {"": ds, "stimuli": stimuli_to_dataset(stimuli)}, provenance={})
    return open_store(path)


def configuration(out: Path, **changes: Any) -> dict[str, Any]:
    config = {
        "name": "tuned",
        "out": str(out),
        "task": {"batch_size": 16},
        "optimizer": SGD,
        "training": {"epochs": 2},
    }
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(config.get(key), dict)
        config[key] = {**config[key], **value} if both else value  # type: ignore[dict-item]
    return config


NEURAL = {"layers": ["body"], "loss": "log-cka", "batch_size": 24, "weight": 1.0}


def run(out: Path, *, net: Network | None = None, **options: Any) -> runs.FinetuneResult:
    target = options.pop("target", None)
    data = options.pop("data", None) or task()
    resume, stand_in = options.pop("resume", True), options.pop("stand_in", None)
    if options.get("task", {}).get("data") == "none":
        data = None
    return train_network(
        configuration(out, **options),
        network=net or network(),
        task=data,
        target=target,
        stand_in=stand_in,
        resume=resume,
        progress=False,
    )


def steps(number: int, **others: Any) -> dict[str, Any]:
    """A [training] section with that many steps."""
    return {"steps": number, "epochs": None, **others}


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def plain_loop(net: Network, data: TaskData, *, epochs: int = 2, seed: int = 0) -> nn.Module:
    """What anyone would write."""
    module = copy.deepcopy(net.module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            order = epoch_order(len(data.train), seed=seed, epoch=epoch)
            for start in range(0, len(order), 16):
                x, y = data.train.batch(order[start : start + 16])  # type: ignore[attr-defined]
                module.train()
                optimizer.zero_grad()
                F.cross_entropy(module(x), y).backward()
                optimizer.step()
    return module.eval()


def test_examples_run() -> None:
    for module in (runs, log, released, gradient_checkpointing):
        assert doctest.testmod(module).failed == 0


def test_without_a_neural_part_it_is_a_plain_torch_loop(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert same(done.network.module, plain_loop(network(), task()))
    assert not same(done.network.module, network().module)


def test_without_weight_the_neural_part_changes_no_bit(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    neural = {**NEURAL, "weight": 0.0, "label_weight": 0.0, "labels": "quarter"}
    done = run(tmp_path, neural=neural, target=recording)
    assert same(done.network.module, plain_loop(network(), task()))
    assert all(row["lambda"] == 0 for row in done.history)
    assert done.history[-1]["val_alignment"] is not None


def test_training_leaves_the_callers_random_numbers_and_network_alone(tmp_path: Path) -> None:
    net = network()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    run(tmp_path, net=net)
    assert torch.equal(torch.rand(3), expected)
    assert same(net.module, network().module)
    assert not torch.are_deterministic_algorithms_enabled()


def test_alignment_is_trained_and_generalises(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    neural = {**NEURAL, "loss": "debiased-cka"}
    done = run(tmp_path, neural=neural, target=recording, training={"epochs": 6})
    first, last = done.history[0], done.history[-1]
    assert first["step"] == 0
    assert last["val_alignment"] > first["val_alignment"] + 0.1
    assert last["align_loss"] < done.history[1]["align_loss"]
    assert last["lambda"] == 1.0
    assert last["label_loss"] is None


def test_labels_of_the_neural_stimuli_are_learned(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    neural = {**NEURAL, "weight": 0.0, "labels": "quarter", "label_weight": 1.0}
    done = run(tmp_path, neural=neural, target=recording, training={"epochs": 6})
    assert done.history[-1]["label_loss"] < done.history[1]["label_loss"] - 0.2
    assert all(row["align_loss"] is None for row in done.history)


def test_each_layer_can_have_a_region_of_its_own(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    layers = {"block": "V4", "body": "IT"}
    neural = {**NEURAL, "layers": layers, "held_out_subjects": ["B"], "loss": "debiased-cka"}
    done = run(tmp_path, neural=neural, target=recording, training={"epochs": 1})
    assert done.history[-1]["align_loss"] is not None
    with pytest.raises(ValueError, match="held_out_subjects names 'C'; there are A, B"):
        run(tmp_path / "x", neural={**NEURAL, "held_out_subjects": ["C"]}, target=recording)


def test_schedule_is_seen_in_the_history(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    neural = {**NEURAL, "warm_up": 2, "ramp": 2, "weight": 3.0}
    done = run(tmp_path, neural=neural, target=recording, training=steps(5, log_every=1))
    assert [row["lambda"] for row in done.history] == [0.0, 0.0, 0.0, 1.5, 3.0, 3.0]
    assert [row["step"] for row in done.history] == [0, 1, 2, 3, 4, 5]


def test_without_task_labels_the_original_is_kept_close(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    far, near = (
        run(
            tmp_path / name,
            net=network(norm=False, dropout=0.0),
            task={"data": "none", "weight": weight, "batch_size": 24},
            neural={**NEURAL, "weight": 1.0},
            training={"epochs": 6},
            target=recording,
        )
        for name, weight in (("far", 0.0), ("near", 10.0))
    )
    start = network(norm=False, dropout=0.0).module.eval()
    x = images(64, 5).images

    def divergence(done: runs.FinetuneResult) -> float:
        with torch.no_grad():
            before = start(x).log_softmax(1)
            after = done.network.module(x).log_softmax(1)
        return F.kl_div(after, before, log_target=True, reduction="batchmean").item()

    assert near.history[0]["val_task"] == 1.0  # it agrees with itself before training
    assert near.history[1]["task_loss"] < 0.1
    assert divergence(near) < divergence(far) / 2
    assert far.history[-1]["task_loss"] is None


def test_parts_of_a_batch_have_the_gradient_of_the_whole(tmp_path: Path) -> None:
    net = network(norm=False, dropout=0.0)
    whole, parts = (
        run(tmp_path / str(k), net=net, training={"epochs": 1, "accumulate": k}).network.module
        for k in (1, 5)
    )
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_changes_no_weight_and_no_buffer(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    for batchnorm in ("separate", "frozen"):
        neural = {**NEURAL, "batchnorm": batchnorm}
        plain, twice = (
            run(
                tmp_path / batchnorm / str(on),
                neural=neural,
                target=recording,
                training={"epochs": 1, "gradient_checkpointing": on},
            )
            for on in (False, True)
        )
        assert plain.history[-1]["align_loss"] == twice.history[-1]["align_loss"]
        assert same(plain.network.module, twice.network.module)


def test_gradient_checkpointing_runs_blocks_twice_and_leaves_no_trace() -> None:
    net = Net()
    runs: list[int] = []
    net.block[0].register_forward_hook(lambda *_: runs.append(1))
    with checkpointed(net) as names:
        net.train()(torch.rand(4, 3, 8, 8)).sum().backward()
    assert names == ["block", "body"]
    assert len(runs) == 2
    assert "forward" not in vars(net.block)
    assert int(net.block[1].num_batches_tracked) == 1
    with pytest.raises(ValueError, match="no child with children"), checkpointed(nn.Linear(2, 2)):
        pass


def test_frozen_batch_normalisation_keeps_its_statistics(tmp_path: Path) -> None:
    frozen = run(tmp_path / "frozen", training={"batchnorm": "frozen"}).network.module
    assert torch.equal(frozen.block[1].running_mean, torch.zeros(6))  # type: ignore[union-attr]
    assert not torch.equal(run(tmp_path / "b").network.module.block[1].running_mean, torch.zeros(6))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("jitter", {"noise_sd": 0.2}), ("adversarial-training", {"eps": 0.1, "steps": 2})],
)
def test_training_controls_change_the_images_and_align_to_nothing(  # type: ignore[no-untyped-def]
    name: str, parameters: dict[str, float], tmp_path: Path, recording
) -> None:
    done = run(tmp_path, neural=NEURAL, control={"name": name, **parameters}, target=recording)
    assert all(row["lambda"] == 0 for row in done.history)
    assert not same(done.network.module, plain_loop(network(), task()))
    with pytest.raises(ValueError, match=f"{name} has no parameter 'epss'"):
        run(tmp_path / "x", control={"name": name, "epss": 1})


def test_adversarial_training_resists_attacks(tmp_path: Path) -> None:
    from repalign.robustness import PGD, PixelNetwork

    held_out = images(128, 9)
    robust = []
    for name, control in (("a", None), ("b", {"name": "adversarial-training", "eps": 0.15})):
        net = network(norm=False, dropout=0.0)
        done = run(tmp_path / name, net=net, control=control, training={"epochs": 8})
        pixels = PixelNetwork.of(done.network)
        moved = PGD(steps=10)(pixels, held_out.images, held_out.labels, eps=0.15)
        robust.append((pixels(moved).argmax(1) == held_out.labels).float().mean().item())
    assert robust[1] > robust[0] + 0.1


@pytest.mark.parametrize(
    "control",
    [
        "row-shuffle",
        {"name": "one-hot"},
        {"name": "within-class-shuffle", "labels": "quarter", "seed": 4},
        {"name": "non-robust-teacher", "teacher": {"layer": "body"}},
        {"name": "rank-k", "k": 2},
    ],
    ids=str,
)
def test_target_controls_stand_in_for_the_trained_responses(control, tmp_path, recording) -> None:  # type: ignore[no-untyped-def]
    neural = {**NEURAL, "labels": "quarter"}
    one = {"epochs": 1}
    done = run(tmp_path / "a", neural=neural, control=control, target=recording, training=one)
    plain = run(tmp_path / "b", neural=neural, target=recording, training=one)
    assert done.history[0]["val_alignment"] == plain.history[0]["val_alignment"]  # the real brain
    assert done.history[1]["align_loss"] != plain.history[1]["align_loss"]


def test_a_control_is_made_of_the_stimuli_trained_on_and_of_the_whole_recording(  # type: ignore[no-untyped-def]
    tmp_path, recording
) -> None:
    """``other`` selects what ``select`` has left out, and held-out responses reach no control."""
    neural = {**NEURAL, "select": {"region": "IT"}}
    control = {"name": "other-region", "other": {"region": "V4"}}
    one = {"epochs": 1}
    done = run(tmp_path / "a", neural=neural, control=control, target=recording, training=one)
    open_data = open_neural(NeuralSection(**NEURAL), recording, None)
    changed = recording.load().copy(deep=True)
    changed.attrs.pop("fingerprint", None)
    held_out = np.isin(changed["stimulus_id"].values.astype(str), open_data.held_out)
    changed["response"].values[held_out] *= 100
    again = run(tmp_path / "b", neural=neural, control=control, target=changed, training=one)
    assert done.weights.read_bytes() == again.weights.read_bytes()
    by_hand = open_neural(NeuralSection(**neural), recording, None)
    made = control_target(
        "other-region", by_hand, seed=0, other=recording.isel(neuroid=slice(0, 8))
    )
    given = run(tmp_path / "c", neural=neural, stand_in=made, target=recording, training=one)
    assert done.weights.read_bytes() == given.weights.read_bytes()
    with pytest.raises(ValueError, match="has the control 'other-region', which would take"):
        run(tmp_path / "d", neural=neural, control=control, stand_in=made, target=recording)


def test_what_is_never_defined_stops_no_training(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    """The baseline of a run with read-outs has no alignment to monitor."""
    stop = {"monitor": "alignment", "patience": 1}
    done = run(
        tmp_path,
        neural={**NEURAL, "loss": "ridge-mse", "weight": 0.0},
        target=recording,
        training={"epochs": 4, "early_stopping": stop, "keep": "best"},
    )
    assert done.ended == "all steps"
    assert Path(done.best["weights"]).read_bytes() == done.weights.read_bytes()


def test_early_stopping_waits_for_both_monitors(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    stop = {"monitor": "both", "patience": 2, "minimum_change": 10.0}
    done = run(
        tmp_path,
        neural=NEURAL,
        target=recording,
        training={"epochs": 50, "early_stopping": stop, "keep": "best"},
    )
    assert done.ended.startswith("early: both has not improved for 2 validations")
    assert done.history[-1]["epoch"] == 3  # the first validation is always an improvement
    best = max(
        done.history[1:], key=lambda row: (row["val_task"] or 0) + (row["val_alignment"] or 0)
    )
    assert done.best["step"] == best["step"]
    weights = Path(done.best["weights"])
    assert weights.read_bytes() == done.weights.read_bytes()
    with pytest.raises(ValueError, match="needs held-out stimuli; set neural.held_out_stimuli"):
        run(
            tmp_path / "x",
            neural={**NEURAL, "held_out_stimuli": 0.0},
            target=recording,
            training={"early_stopping": {}},
        )


def test_scheduler_sets_the_learning_rate(tmp_path: Path) -> None:
    section = {"name": "StepLR", "step_size": 1, "gamma": 0.5}
    done = run(tmp_path / "epoch", scheduler=section)
    assert [row["lr"] for row in done.history if row["val_task"] is not None] == [
        0.05,
        0.025,
        0.0125,
    ]
    section = {"name": "OneCycleLR", "per": "step", "max_lr": 0.1, "total_steps": 9}
    assert run(tmp_path / "step", scheduler=section).history[-1]["lr"] < 0.05
    with pytest.raises(ValueError, match="scheduler StepLR with no keys: .*step_size"):
        run(tmp_path / "x", scheduler={"name": "StepLR"})


# --- resumption ---

FULL = {
    "neural": {**NEURAL, "mix_rate": 0.7, "label_weight": 0.3, "labels": "quarter"},
    "scheduler": {"name": "CosineAnnealingLR", "T_max": 20, "per": "step"},
    "training": {"epochs": 5, "checkpoint_every": 3, "log_every": 2, "clip_norm": 5.0},
}
FULL["task"] = {"augmentation": {"noise": {"sd": 0.02}, "flip": {}}}
STEPS = 20


def child(action: Any) -> int:
    """Do something in a forked process, and return how it ended."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return pid


def killed_runs(folder: Path, store: str) -> None:
    """One run without interruption, and one that is killed ten times: at steps, while it writes a
    checkpoint, and at random moments."""
    import random as chance
    import time

    from repalign.training import loop

    torch.set_num_threads(1)
    torch.optim.SGD([nn.Parameter(torch.zeros(1))])  # imports that every child would repeat
    target = open_store(store)

    def train(out: Path) -> None:
        run(out, target=target, **FULL)

    def dying_at_step(step: int) -> None:
        original = loop.Trainer._step

        def step_or_die(self: Any, *inputs: Any) -> None:
            if self.place.step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            original(self, *inputs)

        loop.Trainer._step = step_or_die  # type: ignore[method-assign]
        train(folder / "killed")

    def dying_while_writing() -> None:
        def half(state: Any, file: Any) -> None:
            file.write(b"PK half a state")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        torch.save = half  # type: ignore[assignment]
        train(folder / "killed")

    begin = time.perf_counter()
    assert os.waitpid(child(lambda: train(folder / "whole")), 0)[1] == 0
    seconds = time.perf_counter() - begin
    kills = 0
    for step in (1, 4, 5, 11, 17):
        status = os.waitpid(child(lambda step=step: dying_at_step(step)), 0)[1]
        kills += os.WIFSIGNALED(status)
        if step == 4:
            kills += os.WIFSIGNALED(os.waitpid(child(dying_while_writing), 0)[1])
    chance.seed(0)
    while kills < 10:
        pid = child(lambda: train(folder / "killed"))
        time.sleep(seconds * chance.uniform(0.05, 0.25))
        os.kill(pid, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    reached = json.dumps(read_state(folder / "killed" / "state.pt")["place"])  # type: ignore[index]
    assert os.waitpid(child(lambda: train(folder / "killed")), 0)[1] == 0
    print(json.dumps({"kills": kills, "reached": reached}))


def test_a_run_killed_ten_times_equals_an_uninterrupted_one(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    command = [sys.executable, __file__, str(tmp_path), recording.attrs["store"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["kills"] == 10
    whole, killed = (read_state(tmp_path / name / "state.pt") for name in ("whole", "killed"))
    assert whole is not None
    assert killed is not None
    assert whole["place"] == killed["place"]
    assert whole["place"]["step"] == STEPS
    for name, tensor in whole["network"].items():
        assert torch.equal(tensor, killed["network"][name]), name
    weights = [(tmp_path / name / "tuned.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert read_history(tmp_path / "whole") == read_history(tmp_path / "killed")


# --- what goes wrong ---


def test_a_longer_training_goes_on_where_the_shorter_ended(tmp_path: Path) -> None:
    run(tmp_path / "a", training={"epochs": 1})
    longer = run(tmp_path / "a", training={"epochs": 2})
    assert same(longer.network.module, run(tmp_path / "b").network.module)
    assert longer.history == read_history(tmp_path / "b")


def test_a_finished_run_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path)
    monkeypatch.setattr(loop.Trainer, "_step", None)
    again = run(tmp_path)
    assert same(first.network.module, again.network.module)
    assert again.history == first.history
    with pytest.raises(TypeError):
        run(tmp_path, resume=False)


def test_another_configuration_cannot_resume_and_the_key_is_named(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match=r"optimizer\.lr was 0\.05 and is 0\.1; change it back"):
        run(tmp_path, optimizer={**SGD, "lr": 0.1})
    with pytest.raises(ValueError, match="began with another task than this run"):
        run(tmp_path, data=task(48))
    run(tmp_path, training={"checkpoint_every": 2})  # which changes no number


def test_a_state_of_another_architecture_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match="weights of another architecture than Net: .*of another"):
        run(tmp_path, net=network(classes=5))


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / "state.pt"
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(ValueError, match=r"state\.pt is damaged .*start over with resume=False"):
        run(tmp_path)
    path.write_bytes(whole[:middle])
    with pytest.raises(ValueError, match=r"state\.pt is damaged"):
        run(tmp_path)
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match="expected 'repalign-training-1'"):
        run(tmp_path)
    assert run(tmp_path, resume=False).ended == "all steps"


def test_a_full_disk_leaves_the_earlier_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    write_state(path, {"step": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left.*the earlier one is kept"):
        write_state(path, {"step": 2})
    monkeypatch.undo()
    state = read_state(path)
    assert state is not None
    assert state["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_an_exploding_task_loss_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    net = network(norm=False, dropout=0.0)
    with pytest.raises(
        DivergedError, match=r"the task loss is nan at step \d+: .*state.pt"
    ) as stop:
        run(
            tmp_path,
            net=net,
            optimizer={"name": "SGD", "lr": 1e19},
            training={"epochs": 20, "checkpoint_every": 1},
        )
    assert stop.value.term == "task"
    state = read_state(tmp_path / "state.pt")
    assert state is not None
    assert state["place"]["step"] < stop.value.step
    assert all(torch.isfinite(v).all() for v in state["network"].values())


def test_a_neural_loss_that_is_not_finite_is_named(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    net = network(norm=False, dropout=0.0)
    with torch.no_grad():
        net.module.body[1].weight.zero_()  # type: ignore[index, union-attr]
        net.module.body[1].bias.fill_(1.0)  # type: ignore[index, union-attr]
    with pytest.raises(DivergedError, match="the alignment loss is nan at step 1: .*body") as stop:
        run(tmp_path, net=net, neural=NEURAL, target=recording)
    assert stop.value.term == "alignment"


@pytest.mark.parametrize("loss", ["log-cka", "pairwise-similarity", "procrustes", "ridge-mse"])
def test_an_exploding_alignment_keeps_the_last_good_checkpoint(  # type: ignore[no-untyped-def]
    loss: str, tmp_path: Path, recording
) -> None:
    with pytest.raises(DivergedError, match=r"at step \d+: .*state.pt") as stop:
        run(
            tmp_path,
            net=network(norm=False, dropout=0.0),
            task={"weight": 0.0},
            neural={**NEURAL, "loss": loss},
            target=recording,
            optimizer={"name": "SGD", "lr": 1e19},
            training={"epochs": 20, "checkpoint_every": 1},
        )
    assert stop.value.term == "alignment" or "weight" in stop.value.term
    state = read_state(tmp_path / "state.pt")
    assert state is not None
    kept = [*state["network"].values(), *state["alignment"].values()]
    assert all(torch.isfinite(v).all() for v in kept if isinstance(v, Tensor))


def test_a_label_loss_that_is_not_finite_is_named_after_the_task(  # type: ignore[no-untyped-def]
    tmp_path: Path, recording
) -> None:
    neural = {**NEURAL, "weight": 0.0, "labels": "quarter", "label_weight": 1.0}
    options = {"neural": neural, "target": recording, "training": {"epochs": 20}}
    big = {"name": "SGD", "lr": 1e19}
    for weight, term in ((0.0, "labels"), (1.0, "task")):
        with pytest.raises(DivergedError, match=f"the {term} loss is ") as stop:
            run(
                tmp_path / term,
                net=network(norm=False, dropout=0.0),
                task={"weight": weight},
                optimizer=big,
                **options,
            )
        assert stop.value.term == term


def test_label_geometry_stands_for_every_region(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    layers = {"body": "IT", "block": "V4"}
    neural = {**NEURAL, "layers": layers, "labels": "quarter", "loss": "debiased-cka"}
    options = {"neural": neural, "target": recording, "training": {"epochs": 1}}
    done = run(tmp_path / "a", control="one-hot", **options)
    plain = run(tmp_path / "b", **options)
    assert done.history[0]["val_alignment"] == plain.history[0]["val_alignment"]
    assert done.history[1]["align_loss"] != plain.history[1]["align_loss"]
    other = {"name": "other-region", "other": {"region": "V4"}}
    with pytest.raises(ValueError, match="no other region stands for them all"):
        run(tmp_path / "c", control=other, **options)


def test_read_outs_that_nobody_trains_are_not_reported(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    options = {
        "target": recording,
        "training": {"epochs": 2, "early_stopping": {"monitor": "both"}},
    }
    for name, changes in (("off", {"weight": 0.0}), ("shuffled", {})):
        done = run(
            tmp_path / name,
            neural={**NEURAL, "loss": "ridge-mse", **changes},
            control="row-shuffle" if name == "shuffled" else None,
            **options,
        )
        assert all(row["val_alignment"] is None for row in done.history)
        assert done.best["value"] == done.best["task"]


def test_labels_beyond_the_outputs_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has the label 6, and the network has 4 outputs"):
        run(tmp_path, data=task(classes=7))


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        runs._alone_in(tmp_path),
        pytest.raises(OSError, match="another run is writing into"),
    ):
        run(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": {"name": "SGD", "lr": "a"}}, "optimizer SGD with lr = 'a'"),
        ({"optimizer": {"name": "SGD", "lrr": 1}}, "optimizer SGD with .*lrr = 1: .*lrr"),
        ({"control": "row-shufle"}, "no control 'row-shufle'; .*did you mean row-shuffle"),
        ({"control": "row-shuffle"}, r"'row-shuffle' needs a \[neural\] section"),
        ({"task": {"augmentation": {"blur": {}}}}, "no augmentation 'blur'; there are colour"),
        ({"task": {"weight": 0.0}}, "nothing is trained: task.weight is 0"),
        ({"control": {"name": "jitter", "noise_sd": "x"}}, "noise_sd is 'x', expected a number"),
        ({"control": {"name": "adversarial-training", "stps": 1}}, "no parameter 'stps'; there"),
        ({"training": {"precision": "16-mixed", "device": "cpu"}}, "needs a GPU; on a CPU"),
        ({"neural": NEURAL}, "neural.dataset is missing: name a recording, or pass target="),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said(options, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **options)


def test_too_few_held_out_stimuli_are_refused_before_training(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    neural = {**NEURAL, "loss": "debiased-cka", "held_out_stimuli": 0.05}
    with pytest.raises(ValueError, match="3 stimuli are held out, .* needs 4 or more; raise"):
        run(tmp_path, neural=neural, target=recording)


def test_bfloat16_trains_and_stays_near(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    both = [
        run(
            tmp_path / name,
            net=network(norm=False, dropout=0.0),
            neural=NEURAL,
            target=recording,
            training={"precision": name, "deterministic": True},
        )
        for name in ("32-true", "bf16-mixed")
    ]
    losses = [done.history[-1]["task_loss"] for done in both]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


# --- what is handed on ---


def test_the_card_is_recorded_at_once(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    done = train_network(
        {
            "name": "tuned",
            "model": "digits_cnn@random:2",
            "out": str(tmp_path / "run"),
            "neural": {**NEURAL, "layers": ["hidden"], "loss": "debiased-cka"},
            "training": {"steps": 3},
        },
        target=recording,
        progress=False,
    )
    assert done.card is not None
    loaded = load_network(done.card)
    assert same(loaded.module, done.network.module)
    assert loaded.layers == ("conv1", "conv2", "hidden", "readout")
    found = ra.record(str(done.card), stimuli=recording, layers=["hidden"], to=tmp_path)
    kept = found["hidden"]
    assert kept.sizes == {"presentation": 60, "neuroid": 128}
    card = ra.load_card(str(done.card), "model")
    assert "hidden drawn to" in card.description
    summary = json.loads((tmp_path / "run" / "finetune.json").read_text())
    assert summary["ended"] == "all steps"


def test_scores_on_stimuli_that_a_network_was_aligned_to_are_called_inflated(  # type: ignore[no-untyped-def]
    tmp_path, recording
) -> None:
    config = {
        "name": "tuned",
        "model": "digits_cnn@random:2",
        "out": str(tmp_path / "run"),
        "neural": {**NEURAL, "layers": ["hidden"], "loss": "rsa", "held_out_stimuli": 0.25},
        "training": {"steps": 1},
    }
    done = train_network(config, target=recording, progress=False)
    held_out = open_neural(NeuralSection(**NEURAL | {"held_out_stimuli": 0.25}), recording, None)
    network = load_network(done.card)
    assert network.aligned_to is not None
    assert set(network.aligned_to.stimulus_ids) == set(held_out.trained)
    layers = ra.record(str(done.card), stimuli=recording, layers=["hidden"], to=tmp_path)
    assert "was aligned to 45 of these 60 stimuli" in ra.compare(recording, layers).note
    other = layers["hidden"].drop_attrs().assign_attrs(model="other", layer="first")
    beside = ra.compare(recording, {"first": other, **layers}).note  # another model comes first
    assert "tuned was aligned to 45 of these 60 stimuli" in beside
    unseen = ra.select(recording, stimulus_id=list(held_out.held_out))
    assert "aligned" not in ra.compare(unseen, layers).note
    elsewhere = recording.assign_attrs(dataset="another")
    assert "aligned" not in ra.compare(elsewhere, layers).note
    plain = train_network(
        {**config, "out": str(tmp_path / "plain"), "neural": {**config["neural"], "weight": 0.0}},
        target=recording,
        progress=False,
    )
    assert load_network(plain.card).aligned_to is None


def test_a_diverged_run_says_the_same_in_another_process() -> None:
    error = DivergedError("alignment", float("nan"), 3, detail="all units are 0")
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.term, copied.step) == (str(error), "alignment", 3)


def test_a_network_without_a_card_gets_weights_only(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.card is None
    state = load_file(done.weights)
    assert state.keys() == done.network.module.state_dict().keys()


def test_tensorboard_has_the_rows_of_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = run(tmp_path, training={"log": ["csv", "tensorboard"], "log_every": 1})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    written = [(e.step, e.value) for e in events.Scalars("task_loss")]
    rows = [(r["step"], r["task_loss"]) for r in done.history if r["task_loss"] is not None]
    assert [step for step, _ in written] == [step for step, _ in rows]
    assert [value for _, value in written] == pytest.approx([value for _, value in rows])


if __name__ == "__main__":
    killed_runs(Path(sys.argv[1]), sys.argv[2])

"""Activations: equal to the network by hand, resumed after a kill, refused where undefined."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from torch import nn

import repalign as ra
from repalign.activations import open_layers, record
from repalign.cards import Preprocessing
from repalign.features import features_from_file
from repalign.hooks import capture
from repalign.networks import Network, load_network, preprocess
from repalign.scenes import make_scenes
from repalign.stimuli import Stimuli, encode_png


class Small(nn.Module):
    """Two convolutions with in-place rectifiers, a tuple output and a linear end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 5, 3, stride=2)
        self.unused = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.conv2(self.relu(self.conv1(x))))


@pytest.fixture
def stimuli() -> Stimuli:
    scenes = make_scenes(11, size=32)
    return Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])


@pytest.fixture
def network() -> Network:
    return Network(
        "small", Small().eval(), Preprocessing(size=(16, 16)), ("conv1", "conv2", "relu")
    )


def by_hand(network: Network, stimuli: Stimuli) -> dict[str, np.ndarray]:
    """The layers' outputs without any hook."""
    images = [preprocess(stimuli.image(i), network.preprocessing) for i in range(len(stimuli))]
    module = network.module
    with torch.inference_mode():
        first = module.conv1(torch.stack(images))
        second = module.conv2(torch.relu(first))
        last = torch.relu(second)
    layers = {"conv1": first, "conv2": second, "relu": last}
    return {name: tensor.flatten(1).numpy() for name, tensor in layers.items()}


@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
def test_recorded_layers_equal_the_network_by_hand(
    network: Network, stimuli: Stimuli, batch_size: int
) -> None:
    expected = by_hand(network, stimuli)
    found = record(network, stimuli=stimuli, batch_size=batch_size, progress=False)
    assert list(found) == ["conv1", "relu", "conv2"]
    for name, ds in found.items():
        np.testing.assert_allclose(ds["response"].values, expected[name], rtol=1e-5, atol=1e-6)
        assert ds["stimulus_id"].values.tolist() == list(stimuli.ids)
    assert found["conv2"].attrs["shape"] == [5, 6, 6]
    assert found["conv2"].attrs["layer"] == "conv2"


def test_trained_network_equals_its_module_by_hand(stimuli: Stimuli) -> None:
    network = load_network("efficientnet_lite0")
    images = [preprocess(stimuli.image(i), network.preprocessing) for i in range(3)]
    x = torch.stack(images)
    module = network.module
    with torch.inference_mode():
        x = module.bn1(module.conv_stem(x))
        for block in module.blocks[:6]:
            x = block(x)
    found = record(
        network, stimuli=stimuli.subset(stimuli.ids[:3]), layers="blocks.5", progress=False
    )
    values = found["blocks.5"]["response"].values
    np.testing.assert_allclose(values, x.flatten(1).numpy(), rtol=1e-3, atol=1e-4)


def test_capture_is_not_changed_by_a_later_in_place_operation(network: Network) -> None:
    x = torch.randn(2, 3, 16, 16)
    with capture(network.module, ["conv1"]) as seen, torch.inference_mode():
        network.module(x)
    assert (seen["conv1"] < 0).any()
    with torch.inference_mode():
        torch.testing.assert_close(seen["conv1"], network.module.conv1(x))


def test_capture_removes_its_hooks_and_can_keep_gradients(network: Network) -> None:
    x = torch.randn(2, 3, 16, 16)
    with capture(network.module, ["conv2"], detach=False) as seen:
        network.module(x)
    seen["conv2"].sum().backward()
    assert network.module.conv1.weight.grad is not None
    seen.clear()
    network.module(x)
    assert seen == {}


def test_second_run_computes_nothing(
    network: Network, stimuli: Stimuli, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(network, stimuli=stimuli, layers=["conv1"], progress=False)

    def fail(*_: object) -> None:
        raise AssertionError("the network was run")

    monkeypatch.setattr(Small, "forward", fail)
    record(network, stimuli=stimuli, layers=["conv1"], progress=False)
    with pytest.raises(AssertionError, match="was run"):
        record(network, stimuli=stimuli, layers=["conv2"], progress=False)


def test_other_weights_or_stimuli_are_never_served(network: Network, stimuli: Stimuli) -> None:
    first = record(network, stimuli=stimuli, layers="conv1", progress=False)["conv1"]
    with torch.no_grad():
        network.module.conv1.weight.mul_(2)
    second = record(network, stimuli=stimuli, layers="conv1", progress=False)["conv1"]
    assert np.abs(first["response"].values - second["response"].values).max() > 0.1
    fewer = record(
        network, stimuli=stimuli.subset(stimuli.ids[3:5]), layers="conv1", progress=False
    )
    assert fewer["conv1"].sizes["presentation"] == 2


def test_killed_run_resumes_and_is_never_wrong(tmp_path: Path) -> None:
    """A child records slowly and is killed three times; the last run finishes the store."""
    script = f"""
import time, torch, numpy as np
from repalign.activations import record
from repalign.networks import Network
from repalign.cards import Preprocessing
from repalign.scenes import make_scenes
from repalign.stimuli import Stimuli, encode_png
class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.nn.Flatten()
    def forward(self, x):
        time.sleep(0.3)
        return self.out(x)
scenes = make_scenes(24, size=32)
stimuli = Stimuli(scenes.stimulus_id, [encode_png(i) for i in scenes.images])
network = Network("slow", Slow().eval(), Preprocessing(size=(8, 8)), ("out",))
print("ready", flush=True)
ds = record(network, stimuli=stimuli, to={str(tmp_path)!r}, batch_size=2, progress=False)["out"]
np.save({str(tmp_path / "values.npy")!r}, ds["response"].values)
"""
    command = [sys.executable, "-c", script]

    def finished() -> int:
        return sum(int(zarr.open_array(p, mode="r")[:].sum()) for p in tmp_path.rglob("out/done"))

    done_counts = []
    for enough in (1, 4, 7):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            while finished() < enough and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        done_counts.append(finished())
    assert done_counts == sorted(done_counts)
    assert 0 < done_counts[-1] < 12
    subprocess.run(command, check=True, capture_output=True)
    scenes = make_scenes(24, size=32)
    preprocessing = Preprocessing(size=(8, 8))
    expected = [preprocess(image, preprocessing).flatten().numpy() for image in scenes.images]
    np.testing.assert_array_equal(np.load(tmp_path / "values.npy"), np.stack(expected))


def test_damaged_store_is_one_clear_line(
    network: Network, stimuli: Stimuli, tmp_path: Path
) -> None:
    record(network, stimuli=stimuli, layers="conv1", to=tmp_path, progress=False)
    shard = next(p for p in tmp_path.rglob("conv1/response/c/0/0"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is damaged: response/c/0/0 has"):
        record(network, stimuli=stimuli, layers="conv1", to=tmp_path, progress=False)


def test_activation_that_is_not_finite_names_layer_and_stimulus(
    network: Network, stimuli: Stimuli
) -> None:
    with torch.no_grad():
        network.module.conv2.bias[0] = float("nan")
    with pytest.raises(ValueError, match="small, layer conv2: NaN .* stimulus 'scene-0000'"):
        record(network, stimuli=stimuli, layers="conv2", progress=False)


def test_layer_that_is_not_stimulus_first_is_refused(stimuli: Stimuli) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat = nn.Flatten()
            self.turn = nn.Identity()
            self.rnn = nn.LSTM(3 * 8 * 8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = self.flat(x)
            self.turn(flat.T)
            output, _ = self.rnn(flat[None])  # (sequence, batch, unit)
            return output

    network = Network("turned", Turned(), Preprocessing(size=(8, 8)))
    for layer in ("turn", "rnn"):
        with pytest.raises(
            ValueError, match=f"turned, layer '{layer}' gives an output of .* 4 stim"
        ):
            record(network, stimuli=stimuli, layers=layer, progress=False)
    assert record(network, stimuli=stimuli, layers="flat", progress=False)


def test_module_is_recorded_in_evaluation_mode_and_given_back_as_it_was(stimuli: Stimuli) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).train()
    network = Network("dropping", module, Preprocessing(size=(8, 8)))
    values = record(network, stimuli=stimuli, layers="1", progress=False)["1"]["response"].values
    expected = [preprocess(stimuli.image(i), network.preprocessing) for i in range(len(stimuli))]
    np.testing.assert_allclose(values, torch.stack(expected).flatten(1).numpy(), rtol=1e-6)
    assert module.training
    assert module[1].training


def test_changed_code_of_a_network_is_never_served(tmp_path: Path, stimuli: Stimuli) -> None:
    import importlib
    import sys

    code = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Flatten()
    def forward(self, x):
        return self.out(x * FACTOR)
def build():
    return Net()
"""
    (tmp_path / "net.toml").write_text(
        'name = "net"\nsource = "changing_net:build"\nlayers = ["out"]\n'
    )
    means = []
    for factor in ("1.0", "2.0"):
        (tmp_path / "changing_net.py").write_text(code.replace("FACTOR", factor))
        importlib.invalidate_caches()
        sys.modules.pop("changing_net", None)
        __import__("linecache").clearcache()
        found = record(tmp_path / "net.toml", stimuli=stimuli, progress=False)
        means.append(float(found["out"]["response"].mean()))
    assert means[1] == pytest.approx(2 * means[0], rel=1e-5)


def test_visual_degrees_that_would_have_no_effect_are_refused(stimuli: Stimuli) -> None:
    with pytest.raises(ValueError, match="have no degrees: set visual_degrees under"):
        record("pixels", stimuli=stimuli, visual_degrees=8.0)
    with pytest.raises(ValueError, match="expected more than 0"):
        record("pixels", stimuli=stimuli, visual_degrees=-4.0)


def test_layers_must_exist_and_be_used(network: Network, stimuli: Stimuli) -> None:
    with pytest.raises(ValueError, match="no layer 'conv3'; near matches: conv"):
        record(network, stimuli=stimuli, layers="conv3", progress=False)
    with pytest.raises(ValueError, match="'unused' is not used in the forward pass"):
        record(network, stimuli=stimuli, layers="unused", progress=False)
    with pytest.raises(ValueError, match="batch_size is 0"):
        record(network, stimuli=stimuli, batch_size=0)
    with pytest.raises(ValueError, match="names no layers of its own"):
        record(Network("x", Small()), stimuli=stimuli)


def test_recording_that_cannot_fit_is_refused_before_it_begins(
    network: Network, stimuli: Stimuli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10, 10))
    with pytest.raises(ValueError, match="take up to 0 MB and .* has 0 MB free; choose fewer"):
        record(network, stimuli=stimuli, to=tmp_path, progress=False)
    assert list(tmp_path.rglob("response")) == []


def test_store_is_a_zarr_hierarchy_with_one_group_a_layer(
    network: Network, stimuli: Stimuli, tmp_path: Path
) -> None:
    record(network, stimuli=stimuli, to=tmp_path, progress=False)
    root = next((tmp_path / "activations").iterdir())
    group = zarr.open_group(root, mode="r")
    assert group["conv1"]["response"].shape == (11, 4 * 14 * 14)
    assert list(open_layers(root)) == ["conv1", "conv2", "relu"]


def test_features_file_stands_as_a_model_card(tmp_path: Path, random: np.random.Generator) -> None:
    values = random.normal(size=(5, 2, 3))
    np.save(tmp_path / "deep.npy", values)
    (tmp_path / "ids.csv").write_text("stimulus_id\n" + "\n".join("abcde"))
    text = 'name = "mine"\nsource = "features"\n'
    (tmp_path / "mine.toml").write_text(
        text + 'stimulus_ids = "ids.csv"\n[features]\ndeep = "deep.npy"\n'
    )
    recording = ra.make_recording(
        random.normal(size=(5, 4)), stimulus_id=list("edcba"), region="IT"
    )
    found = record(str(tmp_path / "mine.toml"), stimuli=recording)
    np.testing.assert_array_equal(found["deep"]["response"], values.reshape(5, 6))
    results = ra.compare(recording, found, n_resamples=0)
    again = ra.compare(recording["response"].values[::-1], values.reshape(5, 6), n_resamples=0)
    assert results[0].value == pytest.approx(again[0].value)
    assert results.note.startswith("5 stimuli matched by id, of 5 and 5")
    with pytest.raises(ValueError, match="no layer 'x'"):
        record(str(tmp_path / "mine.toml"), stimuli=recording, layers="x")
    with pytest.raises(ValueError, match="neither an untrained twin nor"):
        record(str(tmp_path / "mine.toml") + "@random", stimuli=recording)
    (tmp_path / "ids.csv").write_text("a\nb\n")
    with pytest.raises(ValueError, match="has 5 rows for 2 stimulus ids"):
        record(str(tmp_path / "mine.toml"), stimuli=recording)
    np.save(tmp_path / "deep.npy", np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="NaN or infinite values in 2 rows"):
        record(str(tmp_path / "mine.toml"), stimuli=recording)


def test_npz_is_several_layers(tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", one=np.ones((3, 2)), two=np.ones((3, 4)))
    found = features_from_file(tmp_path / "net.npz")
    assert {name: ds.sizes["neuroid"] for name, ds in found.items()} == {"one": 2, "two": 4}

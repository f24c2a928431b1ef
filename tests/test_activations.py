"""Activations: equal to the network by hand, resumed after a kill, refused where undefined."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from torch import nn

import repalign as ra
from repalign import recording_plan
from repalign.activations import open_layers, record
from repalign.disk import DiskSpeed, try_disk
from repalign.features import features_from_file
from repalign.hooks import capture, stream
from repalign.layer_list import LayerOutput, list_layers
from repalign.memory import resident
from repalign.network_cards import Preprocessing
from repalign.networks import Network, load_network, preprocess
from repalign.recording_plan import Probe, make_plan
from repalign.scenes import make_scenes
from repalign.shard_files import all_finite
from repalign.stimuli import Stimuli, encode_png
from repalign.store import read_manifest
from repalign.store_checks import verify_store


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
    with pytest.raises(ValueError, match="was run"):
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


def slow_recording(to: Path) -> None:
    """What the killed children do: six shards of a slow network."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), Slow(), nn.ReLU(inplace=True), nn.Flatten())
    scenes = make_scenes(24, size=32)
    shown = Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])
    network = Network("slow", module.eval(), Preprocessing(size=(16, 16)))
    record(network, stimuli=shown, layers="*", to=to, batch_size=2, progress=False)


class Slow(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return x + 1


def files_of(root: Path) -> dict[str, bytes]:
    """All that a store holds but the time and memory that its runs took."""
    found = {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".locks" not in path.parts and path.name != "manifest.json"
    }
    for path in root.rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        del manifest["provenance"]["run"]
        found[str(path.relative_to(root))] = json.dumps(manifest).encode()
    return found


def test_store_of_a_run_killed_ten_times_is_bit_for_bit_that_of_an_uninterrupted_one(
    tmp_path: Path, random: np.random.Generator
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    slow_recording(whole)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["repalign.activations", "repalign.scenes", "pytest"])
    kills = 0
    for _ in range(40):
        child = context.Process(target=slow_recording, args=(killed,))
        child.start()
        child.join(float(random.uniform(0.1, 0.7)) if kills < 10 else None)
        if child.exitcode is None:
            child.kill()
            child.join()
            kills += 1
        elif kills < 10:  # it came to its end before it was killed
            assert child.exitcode == 0
            shutil.rmtree(killed)
        else:
            break
    assert kills == 10
    assert child.exitcode == 0
    assert files_of(killed) == files_of(whole)
    for layer in files_of(whole):
        if layer.endswith("manifest.json"):
            checks = verify_store((killed / layer).parent, progress=False)
            assert all(check.passed for check in checks)


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
    with pytest.raises(ValueError, match="turned, layer 'turn' gives an output of .* 4 stim"):
        record(network, stimuli=stimuli, layers="turn", progress=False)
    with pytest.raises(ValueError, match="layer 'rnn' gives 3 tensors; name one of them: 'rnn@0'"):
        record(network, stimuli=stimuli, layers="rnn", progress=False)
    assert record(network, stimuli=stimuli, layers="rnn@0", progress=False)
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
    with pytest.raises(ValueError, match="layers= is empty"):
        record(network, stimuli=stimuli, layers=[])


def test_recording_that_cannot_fit_is_refused_before_it_begins(
    network: Network, stimuli: Stimuli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.parametrize("batch_size", [64, 24])
def test_all_layers_of_a_residual_network_are_bit_for_bit_those_of_a_plain_pass(
    batch_size: int, tmp_path: Path
) -> None:
    """Its rectifiers work in place and run two times; its blocks are recorded too."""
    network = dataclasses.replace(
        load_network("resnet18@random"), preprocessing=Preprocessing(size=(48, 48))
    )
    scenes = make_scenes(64, size=48)
    shown = Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])
    layers = [name for name, _ in network.module.named_modules() if name]
    found = record(
        network, stimuli=shown, layers=layers, batch_size=batch_size, to=tmp_path, progress=False
    )
    images = [preprocess(shown.image(i), network.preprocessing) for i in range(64)]
    expected: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    modules = dict(network.module.named_modules())
    for name in layers:
        modules[name].register_forward_hook(
            lambda _m, _i, output, name=name: expected[name].append(output.clone())
        )
    counts: dict[str, int] = {}
    with torch.inference_mode():
        for start in range(0, 64, batch_size):
            network.module(torch.stack(images[start : start + batch_size]))
            counts = counts or {name: len(outputs) for name, outputs in expected.items()}
    assert list(found) == layers
    assert counts["layer1.0.relu"] == 2
    for name, ds in found.items():
        last = torch.cat(expected[name][counts[name] - 1 :: counts[name]])
        np.testing.assert_array_equal(ds["response"].values, last.flatten(1).numpy())
    for layer in ("layer1.0.relu", "fc"):  # the content was hashed while it was written
        checks = verify_store(found[layer].attrs["store"], progress=False)
        assert [check.passed for check in checks] == [True, True]


def test_float16_is_the_rounded_float32_in_a_store_of_its_own(
    network: Network, stimuli: Stimuli
) -> None:
    wide = record(network, stimuli=stimuli, layers="conv1", progress=False)["conv1"]
    half = record(network, stimuli=stimuli, layers="conv1", dtype="float16", progress=False)
    assert half["conv1"]["response"].dtype == np.float16
    np.testing.assert_array_equal(
        half["conv1"]["response"].values, wide["response"].values.astype(np.float16)
    )
    assert half["conv1"].attrs["store"] != wide.attrs["store"]


def test_value_beyond_float16_names_the_layer_and_the_remedy(
    network: Network, stimuli: Stimuli
) -> None:
    with torch.no_grad():
        network.module.conv1.bias[0] = 70_000.0
    with pytest.raises(ValueError, match="layer conv1: .*'scene-0000' lie beyond 65504.*float32"):
        record(network, stimuli=stimuli, layers="conv1", dtype="float16", progress=False)
    assert record(network, stimuli=stimuli, layers="conv1", progress=False)
    with pytest.raises(ValueError, match="dtype is 'float64', expected one of float32, float16"):
        record(network, stimuli=stimuli, dtype="float64")
    with pytest.raises(ValueError, match="autocast is for GPUs, and the device is cpu"):
        record(network, stimuli=stimuli, autocast=True, device="cpu")


class Moody(nn.Module):
    """Does as ``mood`` says when it sees its fifth batch."""

    mood = ""
    passes = 0

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Flatten()
        self.twice = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Moody.passes += 1
        flat = self.flat(x)
        moment = Moody.passes == 7  # four passes are for the plan
        if moment and self.mood == "not finite":
            flat = flat * float("nan")
        if moment and self.mood == "other shape":
            flat = flat[:, 1:]
        if moment and self.mood == "once more":
            flat = self.twice(flat)
        if moment and self.mood == "stops":
            raise RuntimeError("something in the network")
        return self.twice(flat)


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        ("not finite", "moody, layer twice: NaN or infinite activations for stimulus 'scene-0004'"),
        ("other shape", r"'twice' gives an output of shape \(2, 191\) .* rest \(192,\) for each"),
        ("once more", "'twice' ran 2 times in this pass and 1 times when it was tried"),
        ("stops", "something in the network"),
        ("disk full", "could not write .*: No space left on device"),
    ],
)
def test_after_any_error_the_hooks_are_gone_and_the_store_is_resumed(
    mood: str, message: str, stimuli: Stimuli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Moody().eval()
    network = Network("moody", module, Preprocessing(size=(8, 8)), ("twice",))
    monkeypatch.setattr(Moody, "mood", mood)
    monkeypatch.setattr(Moody, "passes", 0)
    if mood == "disk full":
        from repalign import activation_stores

        write = activation_stores.write_shard

        def full(array: zarr.Array, number: int, pieces: list[bytes], **how: bool) -> None:
            write(array, number, pieces[:1])
            if array.ndim == 2 and number == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(array, number, pieces)

        monkeypatch.setattr(activation_stores, "write_shard", full)
    options = {"stimuli": stimuli, "batch_size": 2, "to": tmp_path, "progress": False}
    with pytest.raises((ValueError, RuntimeError, OSError), match=message):
        record(network, **options)
    assert not any(part._forward_hooks for part in module.modules())
    done = next(tmp_path.rglob("twice/done"))
    flags = zarr.open_array(done, mode="r")[:].tolist()
    assert flags == sorted(flags, reverse=True)
    assert flags[2:] == [0] * 4
    monkeypatch.undo()
    monkeypatch.setattr(Moody, "passes", 100)
    found = record(network, **options)["twice"]
    assert read_manifest(done.parent)["provenance"]["run"]["stimuli"] == 11 - 2 * sum(flags)
    expected = [preprocess(stimuli.image(i), network.preprocessing) for i in range(11)]
    np.testing.assert_array_equal(found["response"], torch.stack(expected).flatten(1).numpy())


def test_layers_that_a_pattern_names_and_cannot_be_recorded_are_left_out_and_named(
    stimuli: Stimuli, capsys: pytest.CaptureFixture[str]
) -> None:
    class Text(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[str, ...]:
            return ("no", "tensor")

    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"first": 2 * x, "second": x}

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text, self.pair, self.unused = Text(), Pair(), nn.Linear(1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.text(x)
            return self.pair(x)["second"]

    network = Network("mixed", Mixed().eval(), Preprocessing(size=(8, 8)))
    found = record(network, stimuli=stimuli, layers=["all", "pair@second"])
    assert list(found) == ["pair@second"]
    said = capsys.readouterr().err
    assert "3 layers are left out, such as this: layer 'text' gives a tuple, which holds no" in said
    for layer, problem in {"text": "gives a tuple, which", "pair": "gives 2 tensors; name"}.items():
        with pytest.raises(ValueError, match=f"layer '{layer}' {problem}"):
            record(network, stimuli=stimuli, layers=layer, progress=False)
    rows = {layer.name: layer for layer in list_layers(network)}
    assert "'pair@first' (2, 3, 8, 8), 'pair@second'" in rows["pair"].problem
    assert "gives a tuple, which holds no tensor" in rows["text"].problem
    assert rows["unused"].problem == "is not used in the forward pass"


def test_list_of_layers_has_shapes_sizes_calls_and_defaults(network: Network) -> None:
    network.module.train()
    rows = {layer.name: layer for layer in list_layers(network)}
    assert list(rows) == ["conv1", "relu", "conv2", "unused"]
    conv = rows["conv2"]
    assert (conv.kind, conv.shape, conv.units, conv.bytes) == ("Conv2d", (5, 6, 6), 180, 720)
    assert conv.parameters == 5 * 4 * 9 + 5
    assert [rows[name].calls for name in rows] == [1, 2, 1, 0]
    assert [rows[name].default for name in rows] == [True, True, True, False]
    assert network.module.training
    with pytest.raises(ValueError, match="failed on an input of shape"):
        list_layers(network, images=torch.zeros(2, 5, 16, 16))
    with pytest.raises(ValueError, match="one image cannot tell"):
        list_layers(network, images=torch.zeros(1, 3, 16, 16))


def wide_network() -> Network:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    return Network("wide", nn.Sequential(*layers).eval(), Preprocessing(size=(256, 256)))


def test_cap_chooses_the_batch_and_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = make_scenes(24, size=32)
    shown = Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])
    runs = {}
    for allowed in (200, 500):
        cap = resident() + allowed * 10**6
        found = record(
            wide_network(), stimuli=shown, layers="all", memory=cap, to=tmp_path / str(allowed)
        )
        runs[allowed] = read_manifest(Path(found["2"].attrs["store"]))["provenance"]["run"]
        assert runs[allowed]["peak_memory_bytes"] <= cap
        ratio = runs[allowed]["planned_memory_bytes"] / runs[allowed]["peak_memory_bytes"]
        assert 0.75 < ratio < 1.25
    assert 1 <= runs[200]["batch_size"] < runs[500]["batch_size"]
    said = capsys.readouterr().err
    assert "wide: 3 layers of 24 stimuli," in said
    assert "302 MB of disk (" in said
    assert "stimuli a second, at most" in said


def test_cap_below_one_stimulus_says_what_is_needed(tmp_path: Path, stimuli: Stimuli) -> None:
    options = {"stimuli": stimuli, "layers": "all", "to": tmp_path, "progress": False}
    with pytest.raises(ValueError, match="1 stimulus a pass need .* memory=1 MB is the cap"):
        record(wide_network(), memory="1MB", **options)
    with pytest.raises(ValueError, match="11 stimuli a pass need"):
        record(wide_network(), memory=resident() + 150 * 10**6, batch_size=11, **options)
    with pytest.raises(ValueError, match="'much' is no size of memory"):
        record(wide_network(), memory="much", **options)
    assert not list(tmp_path.rglob("response"))


def test_unfinished_shards_that_no_longer_fit_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = make_scenes(24, size=32)
    shown = Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])
    from repalign.activation_stores import GrowingLayer

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    options = {"stimuli": shown, "layers": "all", "to": tmp_path}
    monkeypatch.setattr(GrowingLayer, "mark", stop)
    with pytest.raises(KeyboardInterrupt):
        record(wide_network(), batch_size=24, **options)
    monkeypatch.undo()
    found = record(wide_network(), memory=resident() + 200 * 10**6, **options)
    assert "3 layers begin anew: 24 stimuli a shard need too much" in capsys.readouterr().err
    assert np.isfinite(found["2"]["response"].values).all()


def test_flag_or_layout_left_by_another_hand_is_not_trusted(
    network: Network, stimuli: Stimuli, tmp_path: Path
) -> None:
    options = {"stimuli": stimuli, "to": tmp_path, "batch_size": 4, "progress": False}
    first = record(network, layers="conv1", **options)["conv1"]
    expected, folder = first["response"].values, Path(first.attrs["store"])
    (folder / "manifest.json").unlink()
    (folder / "done" / "c" / "1").write_bytes(b"")  # killed while it was written
    (folder / "response" / "c" / "1" / "0").write_bytes(b"half")
    again = record(network, layers="conv1", **options)["conv1"]
    np.testing.assert_array_equal(again["response"].values, expected)
    (folder / "manifest.json").unlink()
    shutil.rmtree(folder / "done")
    zarr.create_array(folder / "done", shape=(3,), chunks=(1,), dtype="uint8")[:] = 1
    (folder / "response" / "c" / "1" / "0").write_bytes(b"half")
    again = record(network, layers="conv1", **options)["conv1"]
    np.testing.assert_array_equal(again["response"].values, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("value", [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, "max", "-max"])
def test_finiteness_by_bits_is_that_of_numpy(
    value: float | str, dtype: type[np.floating], random: np.random.Generator
) -> None:
    values = random.normal(size=(3, 7)).astype(dtype)
    if isinstance(value, str):
        value = float(np.finfo(dtype).max) * (-1 if value.startswith("-") else 1)
    values[1, 3] = value
    assert all_finite(values) == np.isfinite(values).all()


def test_stream_hands_on_each_call_and_leaves_no_hook_after_an_error(network: Network) -> None:
    seen: list[tuple[str, float]] = []

    def take(name: str, output: torch.Tensor) -> None:
        seen.append((name, output.min().item()))
        if name == "conv2":
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"), stream(network.module, ["*"], take):
        network.module(torch.randn(2, 3, 16, 16))
    assert [name for name, _ in seen] == ["conv1", "relu", "conv2"]
    assert seen[0][1] < 0 == seen[1][1]
    assert not any(part._forward_hooks for part in network.module.modules())


def test_batch_is_chosen_by_the_memory_of_a_gpu_too() -> None:
    probe = Probe(
        outputs={"a": LayerOutput((10,), 1, "")},
        n_images=4,
        memory=500,
        memory_an_image=10,
        device_memory=1000,
        device_memory_an_image=100,
        device_room=2050,
        image_bytes=1,
        seconds=0.1,
    )
    options = {"itemsize": 4, "batch_size": 32, "cap": None}
    plan = make_plan(probe, ["a"], exact=False, **options)
    assert (plan.batch_size, plan.device_memory) == (14, 2000)
    with pytest.raises(ValueError, match="32 a pass need .* on the GPU, .* smaller batch_size"):
        make_plan(probe, ["a"], exact=True, **options)
    on_cpu = dataclasses.replace(probe, device_room=0)
    assert make_plan(on_cpu, ["a"], exact=False, **options).batch_size == 32


def test_time_is_that_of_the_network_the_cores_or_the_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recording_plan, "free_cores", lambda: 4.0)
    monkeypatch.setattr(recording_plan, "seconds_to_store", lambda: 1e-9)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    probe = Probe({}, 4, 10**9, 10**6, 0, 0, 0, 1000, seconds=0.5)

    def said(size: int, disk: DiskSpeed) -> float:
        return recording_plan.expected_seconds(
            probe, stimuli=10, size=size, decoding=0.1, disk=disk
        )

    assert said(0, DiskSpeed()) == 5.0  # the network alone
    busy = DiskSpeed(copying=3e-9)
    assert said(10**10, busy) == pytest.approx((5.0 * 2 + 1.0 + 40.0) / 4)
    assert said(10**10, DiskSpeed(writing=1e-8)) == pytest.approx(100.0)
    assert try_disk(tmp_path, 10**6) == DiskSpeed()  # too little to be worth a trial
    tried = try_disk(tmp_path, 10**9)
    assert 0 < tried.copying <= tried.writing
    assert not list(tmp_path.iterdir())

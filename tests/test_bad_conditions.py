"""Networks, stimuli and machines that misbehave: one clear error, and all left as it was."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_activations import files_of
from torch import Tensor, nn

from repalign import disk, local_files
from repalign.activations import open_layers, record
from repalign.layer_activations import layer_responses
from repalign.layer_list import list_layers
from repalign.memory import parse_size
from repalign.network_cards import Preprocessing
from repalign.networks import Network, find_layers
from repalign.rotation_plan import plan_passes
from repalign.rotations import rotated_layers
from repalign.scenes import make_scenes
from repalign.stimuli import Stimuli, encode_png

N_STIMULI = 9


class Odd(nn.Module):
    """A layer that does anything at all."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(x)


def odd_network(change: Callable[[Tensor], Any]) -> Network:
    module = nn.Sequential()
    module.add_module("flat", nn.Flatten())
    module.add_module("odd", Odd(change))
    return Network("net", module, Preprocessing(size=(8, 8)), ("odd",))


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    scenes = make_scenes(N_STIMULI, size=32)
    return Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])


def recorded(network: Network, stimuli: Stimuli, layers: Any, to: Path) -> dict[str, Any]:
    return record(network, stimuli=stimuli, layers=layers, to=to, batch_size=2, progress=False)


def rotated(network: Network, stimuli: Stimuli, layers: Any, to: Path) -> dict[str, Any]:
    how: dict[str, Any] = {"to": to, "batch_size": 2, "progress": False}
    return rotated_layers(network, stimuli=stimuli, layers=layers, **how)


def in_memory(network: Network, stimuli: Stimuli, layers: Any, to: Path) -> dict[str, Any]:
    return layer_responses(network, stimuli, layers, batch_size=2, device="cpu")


Path3 = Callable[[Network, Stimuli, Any, Path], dict[str, Any]]
PATHS = pytest.mark.parametrize("path", [recorded, rotated, in_memory])


@PATHS
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: torch.complex(x, x), "layer 'odd' gives torch.complex64 numbers .* real, dense"),
        (lambda x: x.to_sparse(), r"layer 'odd' gives .* \(torch.sparse_coo\); expected real, den"),
        (lambda x: x[:, :0], r"layer 'odd' gives an output of shape \(\d, 0\) for \d stimuli"),
        (lambda x: x.sum(), r"layer 'odd' gives an output of shape \(\) for \d stimuli; the first"),
        (lambda x: x.mean(0), r"layer 'odd' gives an output of shape \(192,\) for \d stimuli"),
        (lambda x: x.mean(0, keepdim=True), r"layer 'odd' gives an output of shape \(1, 192\) for"),
        (lambda x: x[:, : len(x)], r"layer 'odd' gives an output of .*\(\d, \d\) .* rest \(\d,\)"),
        (lambda x: x * float("nan"), "layer odd: NaN or infinite activations for .* 'scene-0000'"),
        (lambda x: x.double() * 1e300, "layer odd: NaN or infinite activations for .* 'scene-00"),
    ],
)
def test_an_output_that_is_not_stimulus_by_real_unit_is_one_clear_error(
    path: Path3, change: Callable[[Tensor], Any], message: str, stimuli: Stimuli, tmp_path: Path
) -> None:
    network = odd_network(change)
    with pytest.raises(ValueError, match=f"^net, {message}"):
        path(network, stimuli, ["odd"], tmp_path)
    assert not any(part._forward_hooks for part in network.module.modules())
    assert network.module.training


@PATHS
def test_an_error_that_the_network_swallows_is_raised_all_the_same(
    path: Path3, stimuli: Stimuli, tmp_path: Path
) -> None:
    class Tolerant(nn.Module):
        passes = 0

        def __init__(self) -> None:
            super().__init__()
            self.flat, self.odd = nn.Flatten(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            Tolerant.passes += 1
            x = self.flat(x)
            with contextlib.suppress(Exception):
                self.odd(x[:, 1:] if Tolerant.passes % 6 == 5 else x)
            return x

    network = Network("net", Tolerant(), Preprocessing(size=(8, 8)))
    with pytest.raises(ValueError, match=r"'odd' gives an output of shape \(\d, 191\)"):
        path(network, stimuli, ["odd"], tmp_path)


@pytest.mark.parametrize("error", [KeyError("q"), AssertionError("wants 224"), OSError(2, "gone")])
@pytest.mark.parametrize("path", [recorded, rotated])
def test_a_network_that_fails_is_named_whatever_it_raises(
    path: Path3, error: Exception, stimuli: Stimuli, tmp_path: Path
) -> None:
    def fail(_x: Tensor) -> None:
        raise error

    with pytest.raises(ValueError, match="net failed on an input of shape .*: [A-Za-z]*Error: "):
        path(odd_network(fail), stimuli, "odd", tmp_path)
    with pytest.raises(ValueError, match="net failed on an input of shape .*: [A-Za-z]*Error: "):
        list_layers(odd_network(fail))


@pytest.mark.parametrize("path", [recorded, rotated])
def test_layers_left_out_once_are_left_out_again(
    path: Path3, stimuli: Stimuli, tmp_path: Path
) -> None:
    network = odd_network(lambda x: (x, x))
    for _ in range(2):
        assert list(path(network, stimuli, "all", tmp_path)) == ["flat"]
    with pytest.raises(ValueError, match="no layer among these .*: layer 'odd' gives 2 tensors"):
        path(network, stimuli, "o*", tmp_path)
    with pytest.raises(ValueError, match="^net, layer 'odd' gives 2 tensors; name one of them"):
        path(network, stimuli, "odd", tmp_path)


@PATHS
def test_a_network_is_trained_on_as_if_nothing_had_been_recorded(
    path: Path3, stimuli: Stimuli, tmp_path: Path
) -> None:
    class Caching(nn.Module):
        """Keeps a table that it makes in its first pass, as position codes are."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
            self.norm, self.table = nn.BatchNorm2d(3), None
            self.second.weight.data = self.first.weight.data

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.second(self.first(x)))
            if self.table is None:
                self.table = torch.linspace(1, 2, x.shape[-1])
            return x * self.table

    module = Caching().train().to(memory_format=torch.channels_last)
    module.second.weight.data = module.first.weight.data
    module.first.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    network = Network("net", module, Preprocessing(size=(8, 8)))
    path(network, stimuli, ["first", "second"], tmp_path)
    assert module.training
    assert not module.first.bias.requires_grad
    assert module.first.weight.is_contiguous(memory_format=torch.channels_last)
    assert module.first.weight.data_ptr() == module.second.weight.data_ptr()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    module(torch.ones(2, 3, 8, 8)).sum().backward()
    assert module.first.weight.grad is not None


@PATHS
@pytest.mark.parametrize("before", [False, True])
def test_a_compiled_network_is_recorded_as_it_is_uncompiled(
    path: Path3, before: bool, stimuli: Stimuli, tmp_path: Path
) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten()).eval()
    compiled = torch.compile(plain, backend="eager")
    if before:
        with torch.no_grad():
            compiled(torch.ones(2, 3, 8, 8))
    one, two = (Network("net", part, Preprocessing(size=(8, 8))) for part in (plain, compiled))
    expected = path(one, stimuli, ["0", "1"], tmp_path / "plain")
    found = path(two, stimuli, ["_orig_mod.0", "_orig_mod.1"], tmp_path / "compiled")
    for (name, left), right in zip(expected.items(), found.values(), strict=True):
        np.testing.assert_array_equal(left["response"], right["response"], err_msg=name)
    images = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(compiled(images), plain(images))


@PATHS
def test_no_stimuli_and_an_image_that_cannot_be_decoded_are_one_clear_error(
    path: Path3, stimuli: Stimuli, tmp_path: Path
) -> None:
    files = [*stimuli.files]
    files[5] = b"not an image"
    network = odd_network(lambda x: x)
    with pytest.raises(ValueError, match="image of stimulus 'scene-0005' is corrupt"):
        path(network, Stimuli(stimuli.ids, files), ["odd"], tmp_path)
    with pytest.raises(ValueError, match="there are no stimuli to show"):
        path(network, stimuli.subset([]), ["odd"], tmp_path)
    assert path(network, stimuli, ["odd"], tmp_path)["odd"].sizes["presentation"] == N_STIMULI


def test_a_network_without_values_is_refused_and_extra_state_is_part_of_its_identity() -> None:
    class Extra(nn.Flatten):
        state = 1

        def get_extra_state(self) -> dict[str, int]:
            return {"scale": self.state}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.state = state["scale"]

    for part in (nn.LazyLinear(3), nn.Linear(4, 3, device="meta")):
        with pytest.raises(ValueError, match="net: 1.weight has no values yet; load them"):
            Network("net", nn.Sequential(nn.Flatten(), part)).fingerprint()
    network = Network("net", nn.Sequential(Extra()))
    first = network.fingerprint()
    assert network.fingerprint() == first
    network.module[0].state = 2
    assert network.fingerprint() != first


def test_the_second_name_of_a_shared_module_says_the_first() -> None:
    relu = nn.ReLU()
    with pytest.raises(ValueError, match="layer '1' is the same module as '0'"):
        find_layers(nn.Sequential(relu, relu), ["1"])


@pytest.mark.parametrize("size", [4e9, np.int64(4 * 10**9), np.float32(4e9)])
def test_sizes_are_any_numbers_of_bytes(size: Any) -> None:
    assert parse_size(size) == 4 * 10**9
    for wrong in (-size, 0 * size, size * float("nan"), size * float("inf")):
        with pytest.raises(ValueError, match="expected more than 0"):
            parse_size(wrong)


def test_sums_of_whole_blocks_are_cut_at_blocks_whatever_the_limits() -> None:
    """So a resumed run, to which other limits may apply, gives the same bits."""
    how: dict[str, Any] = {"n_stimuli": 10, "base": 0, "stimulus_bytes": 100}
    starts = set()
    for scratch in (10**6, 3 * 10**6, 10**8):
        plan = plan_passes([("conv", 50_000)], memory=10**9, scratch=scratch, **how)
        starts.add(sum(map(len, plan.passes)))
        assert all(piece.start % 4096 == 0 for one in plan.passes for piece in one)
    assert len(starts) == 3


def test_a_rotated_layer_has_the_same_bits_in_one_piece_and_in_several(
    stimuli: Stimuli, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 9000))
    network = Network("net", module.eval(), Preprocessing(size=(8, 8)), ("1",))
    found = [
        rotated_layers(
            network, stimuli=stimuli, scratch_size=size, to=tmp_path / size, progress=False
        )["1"]
        for size in ("1MB", "10MB")
    ]
    np.testing.assert_array_equal(found[0]["response"], found[1]["response"])


@contextlib.contextmanager
def largest_file(size: int) -> Any:
    """Files grow no further, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(sys.platform == "win32", reason="limits of Unix")
@pytest.mark.parametrize("run", [record, rotated_layers])
def test_a_trial_of_the_disk_needs_no_more_room_than_the_run(
    run: Any, stimuli: Stimuli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "TRIAL_SHARE", 0.001)  # a trial even for so little
    size = disk.BLOCK_BYTES // 2
    with largest_file(size):
        found = run(odd_network(lambda x: x), stimuli=stimuli, layers="odd", to=tmp_path)
    assert found["odd"].sizes["presentation"] == N_STIMULI


@pytest.mark.skipif(sys.platform == "win32", reason="limits of Unix")
@pytest.mark.parametrize("path", [recorded, rotated])
def test_after_a_full_disk_the_store_is_that_of_an_uninterrupted_run(
    path: Path3, stimuli: Stimuli, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Linear(5, 9000))
    network = Network("net", module.eval(), Preprocessing(size=(8, 8)))
    path(network, stimuli, ["1", "2"], tmp_path / "whole")
    with largest_file(50_000), pytest.raises(OSError, match=r"could not write .*: File too large"):
        path(network, stimuli, ["1", "2"], tmp_path / "full")
    path(network, stimuli, ["1", "2"], tmp_path / "full")
    if path is rotated:  # no times are kept of it
        whole, full = (
            {
                str(file.relative_to(root)): file.read_bytes()
                for file in root.rglob("*")
                if file.is_file() and ".locks" not in file.parts
            }
            for root in (tmp_path / "whole", tmp_path / "full")
        )
        assert whole == full
    else:
        assert files_of(tmp_path / "whole") == files_of(tmp_path / "full")


def slow_run(name: str, to: Path) -> None:
    """What a child does: about two seconds of a slow network."""
    scenes = make_scenes(20, size=32)
    shown = Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])
    network = odd_network(slowly)
    {"recorded": recorded, "rotated": rotated}[name](network, shown, ["flat", "odd"], to)


def slowly(x: Tensor) -> Tensor:
    time.sleep(0.1)
    return x + 1


@pytest.mark.parametrize("path", [recorded, rotated])
def test_of_two_processes_one_records_and_the_other_opens(path: Path3, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["repalign.rotations", "repalign.scenes", "pytest"])
    children = [context.Process(target=slow_run, args=(path.__name__, tmp_path)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    (root,) = (tmp_path / "activations").glob("*.zarr")
    assert list(open_layers(root)) == ["flat", "odd"]


@pytest.fixture
def _heeds_interrupts() -> Iterator[None]:
    """Shells let what runs in the background ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_interrupts")
@pytest.mark.parametrize("path", [recorded, rotated])
def test_an_interrupt_ends_a_run_and_its_threads_at_once(
    path: Path3, stimuli: Stimuli, tmp_path: Path
) -> None:
    threads = {thread for thread in threading.enumerate() if not thread.daemon}
    passes: list[int] = []

    def interrupted(x: Tensor) -> Tensor:
        passes.append(len(x))
        if len(passes) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return x + 1

    network = odd_network(interrupted)
    with pytest.raises(KeyboardInterrupt):
        path(network, stimuli, ["odd"], tmp_path)
    left = {thread for thread in threading.enumerate() if not thread.daemon} - threads
    assert not [thread for thread in left if not thread.name.startswith("asyncio")]
    assert not any(part._forward_hooks for part in network.module.modules())
    assert path(network, stimuli, ["odd"], tmp_path)["odd"].sizes["presentation"] == N_STIMULI


def test_an_interrupted_command_says_so_and_exits_with_130(
    stimuli: Stimuli, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for name, file in zip(stimuli.ids, stimuli.files, strict=True):
        (tmp_path / "images" / f"{name}.png").write_bytes(file)
    np.save(tmp_path / "responses.npy", np.ones((3, N_STIMULI)) + np.arange(N_STIMULI))
    (tmp_path / "session.toml").write_text(
        'name = "session"\nspecies = "macaque"\nregions = "V4"\nloader = "arrays"\n'
        '[files]\nresponses = "responses.npy"\nimages = "images"\n'
    )
    (tmp_path / "slow_net.py").write_text(
        "import time\nfrom torch import nn\n"
        "class Slow(nn.Module):\n"
        "    def forward(self, x):\n"
        "        print('running', flush=True)\n"
        "        time.sleep(0.5)\n"
        "        return x.flatten(1)\n"
        "def build():\n    return nn.Sequential(Slow())\n"
    )
    (tmp_path / "slow.toml").write_text(
        'name = "slow"\nsource = "slow_net:build"\nweights = "package"\nlayers = ["0"]\n'
        "[preprocessing]\nsize = [8, 8]\n"
    )
    verb = ("record", str(tmp_path / "slow.toml"), "--stimuli", str(tmp_path / "session.toml"))
    more = ("--to", str(tmp_path / "to"), "--batch-size", "1")
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; from repalign.cli import main; main()"
    command = [sys.executable, "-c", code, *verb, *more]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None
        for _ in range(5):  # in the midst of it
            assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=600)
    assert rest.count("running") < N_STIMULI - 5  # it did not go on to the end
    assert process.returncode == 130
    assert said.rstrip().endswith("stopped; a second run goes on where this one was")
    assert "Traceback" not in said


def test_process_that_waits_for_another_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local_files, "WAIT_S", 0.05)
    entered = threading.Event()

    def second() -> None:
        with local_files.locked(tmp_path / "a.zarr"):
            entered.set()

    thread = threading.Thread(target=second)
    with local_files.locked(tmp_path / "a.zarr"):
        thread.start()
        assert not entered.wait(0.5)
    thread.join()
    assert entered.is_set()
    assert f"another process makes {tmp_path / 'a.zarr'}: waiting" in capsys.readouterr().err


def test_layers_whose_names_hold_a_slash_are_rotated(tmp_path: Path) -> None:
    module = nn.Sequential()
    module.add_module("a/b", nn.Conv2d(3, 4, 3))
    network = Network("slash", module.eval(), Preprocessing(size=(16, 16)), ("a/b",))
    scenes = make_scenes(6, size=32)
    stimuli = Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])
    found = rotated_layers(network, stimuli=stimuli, to=tmp_path, progress=False)
    assert found["a/b"].sizes["neuroid"] == 7
